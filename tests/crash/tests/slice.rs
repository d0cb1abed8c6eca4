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

/// A process dies, the next one builds on what it finds in the cache, and then power fails. Three
/// times what no sync had covered was believed like that: a segment's seal, the name of a segment,
/// and that of the data directory. So at every pair of places the first process dies, and everything
/// is lost that was not synced by the second.
#[test]
fn what_a_dead_process_left_is_not_believed() {
    for trace in ["lone:26", "follower:7"] {
        let mut n_pairs = 0;
        'trace: for died in 0.. {
            for failed in 0.. {
                let state: State = format!("{trace}@{died}k/{failed}n0.0").parse().unwrap();
                match again(&state) {
                    Ok((lived, _)) => assert_eq!(lived, Lived::On, "{state}"),
                    Err(failure) if failure.what.contains("there are only") => match failed {
                        // The first life has no such place either.
                        0 => break 'trace,
                        _ => break,
                    },
                    Err(failure) => panic!("{state}: {}\n{}", failure.what, failure.image),
                }
                n_pairs += 1;
            }
        }
        println!("{trace}: {n_pairs} pairs");
        assert!(n_pairs > 1_000, "{trace} has only {n_pairs} pairs of places");
    }
}
