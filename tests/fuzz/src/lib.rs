//! A test that runs on one generated case after another, each from a seed that repeats it.
//!
//! A target is a test named `fuzz_<name>` in the crate whose code it feeds. Its case builds what
//! is valid from the [`Rng`], damages it, hands it over and panics when a promise is broken. Any
//! panic is a finding.
//!
//! There is no corpus and no feedback of coverage: a case is its seed and nothing else, so a
//! target has to build its own way to the deep places, and a finding is one line long.
//!
//! # Variables
//!
//! - `FUZZ_SECONDS=<n>`: how long each target runs, from a seed of its own each time. Without it a
//!   target runs half a second or 2,000 cases, whichever ends first, from the same seed always.
//! - `FUZZ_FIRST_SEED=<n>`: where each target begins when it runs so long. How far it gets is the
//!   machine's.
//! - `FUZZ_SEED=<name>:<seed>`: the one case to run again; `FUZZ_SEED=<name>:<seed>:<n>` with its
//!   first `n` damages alone. All other targets do nothing.
//!
//! # Rules
//!
//! - Z1 A case depends on its seed alone: neither on the clock nor on the case before it.
//! - Z2 Whoever sees a failure sees the line that repeats it, and the fewest damages that suffice.
//! - Z3 The budget is looked at between cases; a case that does not end says so on stderr.

mod rng;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    io::{self, Write},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        atomic::{AtomicU64, Ordering},
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

pub use rng::Rng;

const FIRST_SEED: u64 = 1;
const SHORT_CASES: u64 = 2_000;
const SHORT_TIME: Duration = Duration::from_millis(500);
/// After this long a case is said to hang, with the line that repeats it.
const HANGS_AFTER: Duration = Duration::from_secs(20);

/// Runs `case` as often as the environment says, and prints how often that was.
///
/// # Panics
///
/// When a case panicked, with the line that repeats it; or when a variable makes no sense.
#[allow(clippy::print_stdout, reason = "for whoever runs the test")]
pub fn run(name: &str, case: impl FnMut(&mut Rng)) -> Report {
    match Runner::new(name, |name| std::env::var(name).ok()).run(case) {
        Ok(report) => {
            println!("{report}");
            report
        }
        Err(finding) => panic!("{finding}"),
    }
}

/// Which cases a target runs.
#[derive(Debug, Clone)]
pub struct Runner {
    name: String,
    first: u64,
    cases: u64,
    time: Duration,
    damages: u64,
}

/// How much was run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The target.
    pub name: String,
    /// How many cases ran.
    pub cases: u64,
    /// The seed of the first; the others follow on it.
    pub first: u64,
    /// How long they took.
    pub elapsed: Duration,
}

/// A case that panicked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The target.
    pub name: String,
    /// The case.
    pub seed: u64,
    /// The fewest of its damages that suffice, if fewer than all do.
    pub damages: Option<u64>,
    /// What the panic said.
    pub message: String,
}

impl Runner {
    /// The cases that these variables ask for.
    ///
    /// # Panics
    ///
    /// When a variable is set to what makes no sense: a typo must not pass for a run of it.
    pub fn new(name: &str, variable: impl Fn(&str) -> Option<String>) -> Runner {
        let name = name.to_owned();
        if let Some(value) = variable("FUZZ_SEED") {
            let numbers = |text: &str| {
                let numbers = text.split(':').map(|number| number.parse().ok());
                numbers.collect::<Option<Vec<u64>>>()
            };
            let (target, first, damages) = match value.split_once(':') {
                Some((target, rest)) => match numbers(rest).as_deref() {
                    Some(&[first]) => (target, first, u64::MAX),
                    Some(&[first, damages]) => (target, first, damages),
                    _ => panic!("FUZZ_SEED={value}: what follows {target} is not <seed>[:<n>]"),
                },
                None => panic!("FUZZ_SEED={value} is not <name>:<seed>"),
            };
            let cases = u64::from(target == name);
            return Runner { name, first, cases, time: Duration::MAX, damages };
        }
        let damages = u64::MAX;
        let Some(seconds) = variable("FUZZ_SECONDS") else {
            let (first, cases, time) = (FIRST_SEED, SHORT_CASES, SHORT_TIME);
            return Runner { name, first, cases, time, damages };
        };
        let time = seconds.parse().ok().and_then(|n| Duration::try_from_secs_f64(n).ok());
        let time = time.unwrap_or_else(|| panic!("FUZZ_SECONDS={seconds} is not a number"));
        let first = variable("FUZZ_FIRST_SEED").map_or_else(fresh_seed, |seed| {
            seed.parse().unwrap_or_else(|_| panic!("FUZZ_FIRST_SEED={seed} is not a number"))
        });
        Runner { name, first, cases: u64::MAX, time, damages }
    }

    /// Runs `case` once for each seed until the cases or the time are used up, or one panics.
    pub fn run(&self, mut case: impl FnMut(&mut Rng)) -> Result<Report, Finding> {
        let started = Instant::now();
        let current = AtomicU64::new(self.first);
        thread::scope(|scope| {
            let (ended, is_ended) = mpsc::channel::<()>();
            scope.spawn(|| self.watch(&current, is_ended));
            let mut cases = 0;
            while cases < self.cases && (cases == 0 || started.elapsed() < self.time) {
                let seed = self.first.wrapping_add(cases);
                current.store(seed, Ordering::Relaxed);
                if let Err(message) = attempt(&mut case, seed, self.damages) {
                    return Err(self.finding(&mut case, seed, message));
                }
                cases += 1;
            }
            drop(ended);
            let name = self.name.clone();
            Ok(Report { name, cases, first: self.first, elapsed: started.elapsed() })
        })
    }

    /// Tries how few of the case's damages suffice.
    fn finding(&self, case: &mut impl FnMut(&mut Rng), seed: u64, message: String) -> Finding {
        let mut rng = Rng::new(seed);
        let all = match catch_unwind(AssertUnwindSafe(|| case(&mut rng))) {
            Ok(()) => 0,
            Err(_) => rng.n_damages().min(self.damages),
        };
        let fewer = (0..all).find_map(|damages| {
            attempt(case, seed, damages).err().map(|message| (damages, message))
        });
        let damages = fewer.as_ref().map(|(damages, _)| *damages);
        let message = fewer.map_or(message, |(_, message)| message);
        Finding { name: self.name.clone(), seed, damages, message }
    }

    /// Says on stderr, which no test harness captures, which case takes too long.
    fn watch(&self, current: &AtomicU64, is_ended: mpsc::Receiver<()>) {
        let mut last = (self.first, 0);
        while let Err(RecvTimeoutError::Timeout) = is_ended.recv_timeout(HANGS_AFTER / 4) {
            let seed = current.load(Ordering::Relaxed);
            last = if last.0 == seed { (seed, last.1 + 1) } else { (seed, 0) };
            if last.1 == 4 {
                let name = &self.name;
                // Ignored because there is nobody left to tell.
                writeln!(io::stderr(), "fuzz {name}: FUZZ_SEED={name}:{seed} does not end").ok();
            }
        }
    }
}

/// Runs one case; an error is what its panic said.
fn attempt(case: &mut impl FnMut(&mut Rng), seed: u64, damages: u64) -> Result<(), String> {
    let mut rng = Rng::with_damages(seed, damages);
    catch_unwind(AssertUnwindSafe(|| case(&mut rng))).map_err(|panic| {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default()
    })
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { name, cases, first, elapsed } = self;
        let rate = *cases as f64 / elapsed.as_secs_f64().max(1e-9);
        let last = first.wrapping_add(cases.saturating_sub(1));
        write!(f, "fuzz {name}: {cases} cases, {rate:.0} cases/s, seeds {first}..{last}")
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Finding { name, seed, damages, message } = self;
        write!(f, "fuzz {name}: FUZZ_SEED={name}:{seed} fails: {message}")?;
        match damages {
            Some(n) => write!(f, "\nits first {n} damages suffice: FUZZ_SEED={name}:{seed}:{n}"),
            None => Ok(()),
        }
    }
}

/// A seed that differs between runs and between processes.
fn fresh_seed() -> u64 {
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    (nanos as u64) ^ u64::from(std::process::id()).rotate_left(32)
}
