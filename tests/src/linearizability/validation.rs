//! The checker against histories by the thousand whose verdict is known, and against others.

use std::time::Duration;

use super::agreement;
use super::generate::{Run, Shape};
use super::mutate::Mutation;
use super::{Verdict, check};
use crate::history::Op;
use crate::rng::Rng;

const LIMIT: Duration = Duration::from_secs(20);
const SEED: &str = "CHECKER_SEED";

/// Fixed, so that the fast suite repeats itself; another one can be given.
fn seed() -> u64 {
    let seed = if std::env::var_os(SEED).is_some() { Rng::seed_from_env(SEED) } else { 4 };
    eprint_seed(seed);
    seed
}

#[expect(clippy::print_stderr, reason = "a failed test shows its seed")]
fn eprint_seed(seed: u64) {
    eprintln!("{SEED}={seed}");
}

/// Every shape that the recorder and the simulator produce, and some that they do not.
fn shape(rng: &mut Rng) -> Shape {
    Shape {
        n_ops: 20 + rng.below(60) as usize,
        n_keys: 1 + rng.below(3),
        n_clients: 2 + rng.below(5),
        width: [1, 50, 200, 1_000][rng.below(4) as usize],
        unknown_percent: [0, 5, 20][rng.below(3) as usize],
        refused_percent: [0, 10][rng.below(2) as usize],
        tells_indexes: true,
    }
}

fn judge(history: &[Op]) -> bool {
    match check(history, LIMIT) {
        Verdict::Linearizable => true,
        Verdict::Violation(_) => false,
        Verdict::TimedOut { key, n_ops } => panic!("{n_ops} operations on {key} took too long"),
    }
}

/// Whatever one copy did do is passed, however concurrent, and whatever its clients know of it.
#[test]
fn generated_histories_pass() {
    let seed = seed();
    for round in 0..3_000 {
        let mut rng = Rng::new(seed + round);
        let mut shape = shape(&mut rng);
        shape.tells_indexes = !round.is_multiple_of(3);
        // Without indexes most of the order is unknown, and the search has it all to find.
        shape.n_ops = if shape.tells_indexes { shape.n_ops } else { shape.n_ops.min(30) };
        let history = Run::random(&mut rng, &shape).history();
        if let Verdict::Violation(violation) = check(&history, LIMIT) {
            panic!("{SEED}={} {shape:?}: {violation}", seed + round);
        }
        assert!(judge(&history), "{SEED}={} {shape:?}", seed + round);
    }
}

/// One wrong answer in a long history is enough, of each kind and every time.
#[test]
fn every_single_mutation_fails() {
    let seed = seed();
    for mutation in Mutation::ALL {
        let (mut n_made, mut round) = (0, 0);
        while n_made < 250 {
            assert!(round < 20_000, "{mutation:?}: only {n_made} could be made");
            let mut rng = Rng::new(seed + round);
            let shape = shape(&mut rng);
            let run = Run::random(&mut rng, &shape);
            if let Some(history) = mutation.apply(&mut rng, &run) {
                let passes = judge(&history);
                assert!(!passes, "{SEED}={} {mutation:?}: {history:#?}", seed + round);
                n_made += 1;
            }
            round += 1;
        }
    }
}

/// Three checkers, of which two try every order and know no shortcut, say the same. `make checker`
/// asks them about as many histories as one likes.
#[test]
fn three_checkers_agree() {
    let seed = seed();
    let n = match std::env::var("HISTORIES") {
        Ok(n) => n.parse().unwrap(),
        Err(_) => 30_000,
    };
    let agreement = agreement::compare(seed, n, &|| ());
    assert_eq!(agreement.n_histories, n);
    assert!(agreement.disagreements.is_empty(), "{}", agreement.disagreements[0]);
    // All valid or all invalid, they would agree on anything.
    let percent = 100 * agreement.n_invalid / n;
    assert!((20..=80).contains(&percent), "{percent} % are invalid");
}
