//! Whether three checkers that share no code say the same of the same small histories.

use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use super::{Verdict, brute, check, generate, third};
use crate::history::Op;
use crate::rng::Rng;

/// A thousand times what eight operations take.
const LIMIT: Duration = Duration::from_secs(10);

/// What came of a comparison.
#[derive(Debug, Default)]
pub struct Agreement {
    /// How many histories were judged.
    pub n_histories: usize,
    /// How many of them are not linearizable.
    pub n_invalid: usize,
    /// Those on which the three differ, each with its seed.
    pub disagreements: Vec<Disagreement>,
}

/// A history on which they differ.
#[derive(Debug)]
pub struct Disagreement {
    /// The seed of this history alone.
    pub seed: u64,
    /// The history.
    pub history: Vec<Op>,
    /// What the search says; `None` when it took too long, which is no opinion.
    pub search: Option<bool>,
    /// What trying every order says.
    pub brute: bool,
    /// What the stranger says.
    pub third: bool,
}

/// Judges the histories of so many seeds on all processors. `each` is told after each of them.
pub fn compare(first_seed: u64, n_histories: usize, each: &(dyn Fn() + Sync)) -> Agreement {
    let (next, result) = (AtomicUsize::new(0), Mutex::new(Agreement::default()));
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= n_histories {
                        return;
                    }
                    let (is_valid, differs) = compare_one(first_seed.wrapping_add(number as u64));
                    let mut result = result.lock().expect("nobody panics with it");
                    result.n_histories += 1;
                    result.n_invalid += usize::from(!is_valid);
                    result.disagreements.extend(differs);
                    drop(result);
                    each();
                }
            });
        }
    });
    result.into_inner().expect("nobody panics with it")
}

/// Whether the history of this seed is valid, and what there is to say if not all three agree.
pub fn compare_one(seed: u64) -> (bool, Option<Disagreement>) {
    let history = generate::small(&mut Rng::new(seed));
    let search = match check(&history, LIMIT) {
        Verdict::Linearizable => Some(true),
        Verdict::Violation(_) => Some(false),
        Verdict::TimedOut { .. } => None,
    };
    let (brute, third) = (brute::can_be_ordered(&history), third::agrees(&history));
    let agree = search == Some(brute) && third == brute;
    (brute, (!agree).then_some(Disagreement { seed, history, search, brute, third }))
}

impl fmt::Display for Disagreement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Disagreement { seed, search, brute, third, .. } = self;
        writeln!(
            f,
            "seed {seed}: search {search:?}, every order {brute}, todc-utils {third}, of:"
        )?;
        self.history.iter().try_for_each(|op| writeln!(f, "    {}  {op}", op.key))
    }
}
