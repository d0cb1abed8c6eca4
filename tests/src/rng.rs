//! Randomness from a printed seed (T3), the same on every machine.

use std::time::{SystemTime, UNIX_EPOCH};

/// SplitMix64: small, and good enough to pick members and pauses.
#[derive(Debug, Clone)]
pub struct Rng(u64);

impl Rng {
    /// The sequence of `seed`.
    pub fn new(seed: u64) -> Rng {
        Rng(seed)
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
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.draw() % bound
    }
}

/// A seed that differs between runs and between processes.
pub(crate) fn fresh_seed() -> u64 {
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    (nanos as u64) ^ u64::from(std::process::id()).rotate_left(32)
}
