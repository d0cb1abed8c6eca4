//! One round of a closed loop: the window in which requests count, and what was recorded in it.
//!
//! A request counts when its answer falls into the window, whenever it was sent: in a closed loop
//! what crosses the beginning makes up for what crosses the end. One failed request fails the round,
//! also outside the window.

use std::fmt;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

/// Latencies are kept in microseconds up to this one; what is slower counts as this slow.
const MAX_LATENCY_MICROS: u64 = 60_000_000;
/// Three digits: a p50 of 612 µs is told from one of 613.
const SIGNIFICANT_DIGITS: u8 = 3;

/// What every connection asks for, over and over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    /// Committed writes.
    Put,
    /// Reads of keys that are there.
    #[allow(dead_code, reason = "the same load on another store measures writes only")]
    Get,
}

/// Why there is no figure to report.
#[derive(Debug)]
pub(crate) struct Failure(String);

/// How long to load: first without counting, then counting.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Window {
    pub(crate) warm_up: Duration,
    pub(crate) length: Duration,
}

/// The figures of one round.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Round {
    pub(crate) per_second: f64,
    pub(crate) p50_micros: u64,
    pub(crate) p99_micros: u64,
}

/// What the connections of a round share.
#[derive(Debug)]
pub(crate) struct Recorder {
    length: Duration,
    opens: Instant,
    closes: Instant,
    latencies: Histogram<u64>,
    n_answers: u64,
    n_failed: u64,
    first_failure: Option<String>,
}

/// A connection's walk over the key space, the same at each run.
#[derive(Debug)]
pub(crate) struct Keys {
    state: u64,
    n_keys: u64,
}

impl Failure {
    pub(crate) fn new(reason: impl Into<String>) -> Failure {
        Failure(reason.into())
    }

    /// The same reason, followed by what the members said last.
    pub(crate) fn with_tail(self, tail: String) -> Failure {
        Failure(self.0 + &tail)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Recorder {
    /// Begins the round now.
    pub(crate) fn start(window: Window) -> Recorder {
        let opens = Instant::now() + window.warm_up;
        Recorder {
            length: window.length,
            opens,
            closes: opens + window.length,
            latencies: Histogram::new_with_bounds(1, MAX_LATENCY_MICROS, SIGNIFICANT_DIGITS)
                .expect("the bounds are constants that fit"),
            n_answers: 0,
            n_failed: 0,
            first_failure: None,
        }
    }

    /// Records a request that was answered as it must be; false when the round is over.
    pub(crate) fn succeeded(&mut self, sent: Instant, answered: Instant) -> bool {
        self.n_answers += 1;
        if answered >= self.closes {
            return false;
        }
        if answered >= self.opens {
            let micros = (answered - sent).as_micros().min(u128::from(MAX_LATENCY_MICROS));
            self.latencies.saturating_record(micros as u64);
        }
        true
    }

    /// Records a request that was not answered as it must be; false when the round is over.
    pub(crate) fn failed(&mut self, answered: Instant, reason: impl FnOnce() -> String) -> bool {
        self.n_answers += 1;
        self.n_failed += 1;
        self.first_failure.get_or_insert_with(reason);
        answered < self.closes
    }

    /// The figures, or why there are none.
    pub(crate) fn finish(self) -> Result<Round, Failure> {
        if let Some(reason) = self.first_failure {
            let (failed, answers) = (self.n_failed, self.n_answers);
            return Err(Failure(format!("{failed} of {answers} requests failed, first: {reason}")));
        }
        if self.latencies.is_empty() {
            return Err(Failure(format!("no request was answered within {:?}", self.length)));
        }
        Ok(Round {
            per_second: self.latencies.len() as f64 / self.length.as_secs_f64(),
            p50_micros: self.latencies.value_at_quantile(0.50),
            p99_micros: self.latencies.value_at_quantile(0.99),
        })
    }
}

impl Keys {
    pub(crate) fn of_connection(number: u16, n_keys: u64) -> Keys {
        Keys { state: u64::from(number), n_keys }
    }

    /// The next key, uniformly over the key space (SplitMix64).
    pub(crate) fn pick(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % self.n_keys
    }
}
