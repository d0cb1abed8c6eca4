//! Randomness from a printed seed (T3), the same on every machine.

use std::time::{SystemTime, UNIX_EPOCH};

/// What fuzz targets choose by, good enough to pick members and pauses.
#[derive(Debug, Clone)]
pub struct Rng(fuzz::Rng);

impl Rng {
    /// The sequence of `seed`.
    pub fn new(seed: u64) -> Rng {
        Rng(fuzz::Rng::new(seed))
    }

    /// The seed in the environment variable `name`, else a fresh one.
    ///
    /// # Panics
    ///
    /// When the variable is set to something else than a number: a typo must not pass for a run of it.
    pub fn seed_from_env(name: &str) -> u64 {
        match std::env::var(name) {
            Ok(seed) => seed.parse().unwrap_or_else(|_| panic!("{name}={seed} is not a number")),
            Err(_) => fresh_seed(),
        }
    }

    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0.draw()
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0.below(bound)
    }
}

/// A seed that differs between runs and between processes.
pub fn fresh_seed() -> u64 {
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    (nanos as u64) ^ u64::from(std::process::id()).rotate_left(32)
}
