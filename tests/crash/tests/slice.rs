//! A slice of the campaign, and what it has found before. About ten seconds on one core.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test panics and reports")]

use crash::campaign::{Campaign, State, again};
use crash::explore::Lived;

/// What a slice is to meet, lest it show nothing of it.
const SIGHTS: [&str; 8] = [
    "torn batch",
    "missing seal",
    "unfinished segment",
    "unfinished deletion",
    "unfinished file",
    "snapshot",
    "pins",
    "tombstone",
];

/// Whatever a crash leaves opens to all that was acknowledged, or is refused where a disk has done
/// what disks are not supposed to do. `CRASH_SEED` draws other traces.
#[test]
fn every_state_of_a_slice_opens_to_what_was_acknowledged() {
    let seed = std::env::var("CRASH_SEED").map_or(1, |seed| seed.parse().unwrap());
    println!("CRASH_SEED={seed}");
    let campaign = Campaign { states: 20_000, seed, threads: 2, only: None };
    let report = campaign.run(&|_, _| {});
    for (state, failure) in report.failed.iter().zip(&report.tally.failures) {
        println!("{}\n{}\nmake crash REPLAY='{state}'\n", failure.what, failure.image);
    }
    println!("{} states, {} traces, {:?}", report.distinct, report.traces, report.tally.sights);
    assert!(report.failed.is_empty(), "{} states failed", report.failed.len());
    assert!(report.distinct >= 20_000);
    for sight in SIGHTS {
        assert!(report.tally.sights.contains_key(sight), "no {sight} in a whole slice");
    }
}

/// States that this campaign has found broken, each once refused or empty although everything in it
/// had been acknowledged: a process died between a change and its sync, the next start relied on what
/// it saw, and then power failed.
#[test]
fn what_was_found_stays_found() {
    let found = [
        // The name of a new segment was gone, and the seal before it, written by the opening, not.
        "short:291@18k/1n0.1",
        "lone:26@38k/4n0.0",
        "follower:7@43k/4n0.0",
        // A seal that was read, and believed, had never been synced.
        "short:291@20k/4n0.2",
        "lone:26@40k/6n0.0",
        "follower:7@45k/5n0.0",
        // A data directory that was there, so that nobody made its name durable.
        "follower:7@1k/27n0.0",
        "follower:7@1k/42n0.0",
    ];
    for state in found {
        let state: State = state.parse().unwrap();
        // The operations have changed since, so that the same place may be another.
        let (boundary, choice) = *state.way.0.last().unwrap();
        for boundary in boundary.saturating_sub(3)..boundary + 4 {
            let mut state = state.clone();
            *state.way.0.last_mut().unwrap() = (boundary, choice);
            match again(&state) {
                Ok((lived, _)) => assert_eq!(lived, Lived::On, "{state}"),
                Err(failure) if failure.what.contains("there are only") => {}
                Err(failure) => panic!("{state}: {}\n{}", failure.what, failure.image),
            }
        }
    }
}
