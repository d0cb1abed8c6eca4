//! The tests that should find a defect do find it: with a deliberate one in every member, the
//! trial of `linearizability.rs` must fail.

use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use tests::binary;
use tests::linearizability::Verdict;
use tests::rng::Rng;
use tests::trial;

const SEED: &str = "DEFECTS_SEED";
/// Most defects show in the first second.
const LENGTH: Duration = Duration::from_secs(4);
/// How often a defect may hide.
const MAX_ROUNDS: u64 = 5;

/// A read that asks nobody sees an old state where a member lags or is cut off.
#[test]
fn local_reads_are_found() {
    assert_found("local-reads");
}

/// A write that is acknowledged before it is committed is not there for the next reader, or never.
#[test]
fn early_acknowledgements_are_found() {
    assert_found("ack-at-append");
}

/// What `make mutants` runs: a trial of members with the defect that the environment names, or with
/// none, in the same executable.
#[test]
#[ignore = "run by make mutants, which says which defect"]
fn a_trial_is_linearizable() {
    let defect = std::env::var("RAFTEXAMPLE_DEFECT").unwrap_or_default();
    let seed = Rng::seed_from_env(SEED);
    for round in 0..MAX_ROUNDS {
        let trial = trial::run(LENGTH, Some(defect.clone().leak()), seed + round);
        say(&format!("{SEED}={}: {trial}", seed + round));
        match trial.verdict {
            Verdict::Linearizable => {}
            Verdict::Violation(violation) => panic!("{violation}"),
            Verdict::TimedOut { key, .. } => panic!("{key} could not be judged in time"),
        }
    }
}

/// The switch is nowhere but in the binary that is built for it, and refuses what it does not know.
#[test]
fn defects_are_chosen_by_name_and_only_where_they_are() {
    let run = |binary: &Path, name: &str| {
        let mut command = Command::new(binary);
        let output = command.arg("--print-config").env("RAFTEXAMPLE_DEFECT", name).output();
        let output = output.expect("the binary runs");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    for name in ["", "local-reads", "ack-at-append", "reused-contexts"] {
        assert_eq!(run(binary::with_defects(), name), (Some(0), String::new()));
    }
    let (code, said) = run(binary::with_defects(), "no-such-defect");
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("no-such-defect") && said.contains("ack-at-append"), "{said}");
    assert_eq!(run(binary::raftexample(), "no-such-defect"), (Some(0), String::new()));
    // Not even a name of one is in the other.
    let holds = |binary: &Path, text: &str| {
        let bytes = std::fs::read(binary).expect("the binary is there");
        bytes.windows(text.len()).any(|window| window == text.as_bytes())
    };
    for text in ["RAFTEXAMPLE_DEFECT", "reused-contexts"] {
        assert!(holds(binary::with_defects(), text) && !holds(binary::raftexample(), text));
    }
}

fn assert_found(defect: &'static str) {
    let seed = Rng::seed_from_env(SEED);
    for round in 0..MAX_ROUNDS {
        let seed = seed + round;
        say(&format!("{defect}: {SEED}={seed}"));
        let trial = trial::run(LENGTH, Some(defect), seed);
        say(&format!("{defect}: {trial}"));
        match trial.verdict {
            Verdict::Violation(violation) => {
                // Whoever reads it must find a contradiction, not just a number.
                let shown = violation.to_string();
                assert!(violation.window.contains(&violation.offending), "{shown}");
                say(&format!("{defect}: found:\n{shown}"));
                return;
            }
            Verdict::Linearizable => {}
            Verdict::TimedOut { key, n_ops } => {
                panic!("the {n_ops} operations on {key} could not be judged in time")
            }
        }
    }
    panic!("{defect} was not found in {MAX_ROUNDS} rounds of {LENGTH:?}");
}

/// Past the test harness's capture: the seed of a run that is killed must be in the output.
fn say(line: &str) {
    writeln!(std::io::stderr(), "defects: {line}").expect("standard error is open in a test");
}
