//! Every answer means one thing, on any member, under any fault.
//!
//! Clients on all members read, write, swap and remove the same few keys, while members are
//! killed, stopped and cut off. Whatever they were told must be what one copy of the store could
//! have told them.

use std::io::Write;
use std::time::Duration;

use tests::linearizability::Verdict;
use tests::rng::Rng;
use tests::trial::{self, Trial};

const SEED: &str = "LINEARIZABILITY_SEED";
const SECONDS: &str = "LINEARIZABILITY_SECONDS";
const ROUNDS: &str = "LINEARIZABILITY_ROUNDS";
/// Long enough for each kind of fault once.
const DEFAULT_SECONDS: u64 = 22;

/// What a second of a trial must hold at least, by a machine that is busy otherwise: a trial in
/// which nothing happened has proved nothing.
const MIN_READS: usize = 20;
const MIN_WRITES: usize = 10;
/// A fault takes one to two seconds.
const SECONDS_PER_FAULT: usize = 4;

/// The promise of the linearizable store.
#[test]
fn histories_under_faults_are_linearizable() {
    let seed = Rng::seed_from_env(SEED);
    let seconds = number(SECONDS, DEFAULT_SECONDS);
    for round in 0..number(ROUNDS, 1) {
        let seed = seed + round;
        say(&format!("{SEED}={seed}"));
        let trial = trial::run(Duration::from_secs(seconds), None, seed);
        say(&trial.to_string());
        match &trial.verdict {
            Verdict::Linearizable => {}
            Verdict::Violation(violation) => panic!("{violation}"),
            Verdict::TimedOut { key, n_ops } => {
                panic!("the {n_ops} operations on {key} could not be judged in time")
            }
        }
        assert_eventful(&trial, seconds as usize);
    }
}

fn assert_eventful(trial: &Trial, seconds: usize) {
    let done = trial.done;
    assert!(trial.n_reads >= MIN_READS * seconds, "{trial}");
    let n_writes = trial.n_writes + trial.n_swaps + trial.n_removals;
    assert!(n_writes >= MIN_WRITES * seconds, "{trial}");
    assert!(trial.n_swaps > 0 && trial.n_removals > 0, "{trial}");
    let n_faults = done.n_kills + done.n_freezes + done.n_cuts;
    assert!(n_faults >= seconds / SECONDS_PER_FAULT, "{trial}");
    if seconds >= DEFAULT_SECONDS as usize {
        assert!(done.n_kills > 0 && done.n_freezes > 0 && done.n_cuts > 0, "{trial}");
        assert!(done.n_leaders > 0 && trial.n_bytes_lost > 0, "{trial}");
    }
}

fn number(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")),
        Err(_) => default,
    }
}

/// Past the test harness's capture: the seed of a run that is killed must be in the output.
fn say(line: &str) {
    writeln!(std::io::stderr(), "linearizability: {line}")
        .expect("standard error is open in a test");
}
