//! Every answer means one thing, on any member, under any fault.
//!
//! A short round of `make histories`: clients on all members read, write, swap and remove the same
//! few keys, while members are killed, stopped, cut off, replaced, and their disks fail. Whatever
//! the clients were told must be what one copy of the store could have told them, and what the
//! members' logs say.

use std::io::Write;
use std::time::Duration;

use tests::mounts;
use tests::nemesis::{ALL, Deck, Kind, SmallDisk};
use tests::recorder::Load;
use tests::rng::Rng;
use tests::round::{self, Setup};

const SEED: &str = "LINEARIZABILITY_SEED";
/// Long enough for a few faults of each sort. `make histories` has them all.
const LENGTH: Duration = Duration::from_secs(12);
const LOAD: Load = Load { bound_per_member: 3, movers: 3, per_second: 500 };

/// What a second must hold at least, by a machine that is busy otherwise: a round in which nothing
/// happened has proved nothing.
const MIN_DECIDED: usize = 40;
const MIN_FAULTS: usize = 3;

/// The promise of the linearizable store.
#[test]
fn histories_under_faults_are_linearizable() {
    // A disk that is filled needs to be mounted, and must go with whoever ends this.
    if mounts::has_run_again("histories_under_faults_are_linearizable") {
        return;
    }
    let seed = Rng::seed_from_env(SEED);
    say(&format!("{SEED}={seed}"));
    let has_small_disk = match SmallDisk::mount(1) {
        Ok(_) => true,
        Err(why) => {
            say(&format!("SKIPPED: full disks: no tmpfs can be mounted: {why}"));
            false
        }
    };
    // Those that wait for a snapshot to become needed may take as long as all of this.
    let kinds: Vec<_> = ALL.into_iter().filter(|kind| *kind != Kind::UntilSnapshot).collect();
    let setup = Setup {
        n_members: 3,
        length: LENGTH,
        load: LOAD,
        is_faulty: true,
        has_small_disk,
        seed,
        tell: say,
    };
    let report = round::run(&setup, &mut Deck::new(&kinds, seed));
    report.faults.iter().for_each(|line| say(line));
    say(&report.to_string());
    assert!(report.failures.is_empty(), "{}", report.failures.join("\n"));
    assert!(report.tally.n_decided() >= MIN_DECIDED * LENGTH.as_secs() as usize, "{report}");
    assert!(report.tally.n_swaps > 0 && report.tally.n_removals > 0, "{report}");
    assert!(report.done.total() >= MIN_FAULTS && report.n_bytes_lost > 0, "{report}");
}

/// Past the test harness's capture: the seed of a run that is killed must be in the output.
fn say(line: &str) {
    writeln!(std::io::stderr(), "linearizability: {line}")
        .expect("standard error is open in a test");
}
