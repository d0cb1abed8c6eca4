//! One round of load: the window in which requests count, and what was recorded in it.
//!
//! In a closed loop a request counts when its answer falls into the window, whenever it was sent:
//! what crosses the beginning makes up for what crosses the end. In an open loop the latencies are
//! those of all requests that were meant to start in the window, however late their answers came.
//! One failed request fails the round, also outside the window.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::mix::Operation;

/// Latencies are kept in microseconds up to this one; what is slower counts as this slow.
const MAX_LATENCY_MICROS: u64 = 60_000_000;
/// Three digits: a p50 of 612 µs is told from one of 613.
const SIGNIFICANT_DIGITS: u8 = 3;
/// Points of a latency curve for each halving of what is slower.
const POINTS_PER_HALVING: u32 = 4;
/// A rate is reached when no more than this part of its requests is missing at the end.
const MAX_SHORTFALL: f64 = 0.01;

/// Why there is no figure to report.
#[derive(Debug)]
pub(crate) struct Failure(String);

/// How long to load: first without counting, then counting.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Window {
    pub(crate) warm_up: Duration,
    pub(crate) length: Duration,
}

/// When the next request starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pace {
    /// When the last one of its connection is answered.
    Closed,
    /// So many a second, whether answers come or not.
    #[allow(dead_code, reason = "the same load on another store has no open loop")]
    Open { rate: u32, connections: u16 },
}

/// How long requests took, in microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Latency {
    pub(crate) p50_micros: u64,
    pub(crate) p90_micros: u64,
    pub(crate) p99_micros: u64,
    pub(crate) p999_micros: u64,
    pub(crate) max_micros: u64,
}

/// The figures of one operation.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Share {
    pub(crate) per_second: f64,
    #[serde(flatten)]
    pub(crate) latency: Latency,
}

/// The figures of one round.
#[derive(Debug, Clone)]
pub(crate) struct Round {
    pub(crate) per_second: f64,
    pub(crate) latency: Latency,
    /// The same by operation.
    pub(crate) shares: BTreeMap<Operation, Share>,
    /// Latencies in microseconds by the part of all requests that were at most as slow.
    #[allow(dead_code, reason = "the same load on another store is not drawn")]
    pub(crate) curve: Vec<(f64, u64)>,
    /// Whether the requests came as fast as they were to.
    pub(crate) reached: bool,
}

/// What the connections of a round share.
#[derive(Debug)]
pub(crate) struct Recorder {
    pace: Pace,
    length: Duration,
    starts: Instant,
    opens: Instant,
    closes: Instant,
    tallies: BTreeMap<Operation, Tally>,
    n_answers: u64,
    n_failed: u64,
    first_failure: Option<String>,
    given_up: Option<Instant>,
}

#[derive(Debug)]
struct Tally {
    n_answers: u64,
    n_in_window: u64,
    latencies: Histogram<u64>,
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

impl std::error::Error for Failure {}

impl Latency {
    fn of(latencies: &Histogram<u64>) -> Latency {
        Latency {
            p50_micros: latencies.value_at_quantile(0.50),
            p90_micros: latencies.value_at_quantile(0.90),
            p99_micros: latencies.value_at_quantile(0.99),
            p999_micros: latencies.value_at_quantile(0.999),
            max_micros: latencies.max(),
        }
    }
}

impl Recorder {
    /// Begins the round now.
    pub(crate) fn start(window: Window, pace: Pace) -> Recorder {
        let starts = Instant::now();
        let opens = starts + window.warm_up;
        Recorder {
            pace,
            length: window.length,
            starts,
            opens,
            closes: opens + window.length,
            tallies: BTreeMap::new(),
            n_answers: 0,
            n_failed: 0,
            first_failure: None,
            given_up: None,
        }
    }

    /// When the round began.
    #[allow(dead_code, reason = "the same load on another store has no open loop")]
    pub(crate) fn starts(&self) -> Instant {
        self.starts
    }

    /// Records a request that was answered as it must be; false when the round is over. `start` is
    /// when it was sent in a closed loop, and when it was to be sent in an open one.
    pub(crate) fn succeeded(
        &mut self,
        operation: Operation,
        start: Instant,
        answered: Instant,
    ) -> bool {
        self.n_answers += 1;
        let window = self.opens..self.closes;
        let is_in_window = window.contains(&answered);
        let counts = match self.pace {
            Pace::Closed => is_in_window,
            Pace::Open { .. } => window.contains(&start),
        };
        let tally = self.tallies.entry(operation).or_insert_with(Tally::new);
        tally.n_answers += 1;
        tally.n_in_window += u64::from(is_in_window);
        if counts {
            let micros = answered.saturating_duration_since(start).as_micros();
            tally.latencies.saturating_record(micros.min(MAX_LATENCY_MICROS.into()) as u64);
        }
        answered < self.closes
    }

    /// Records a request that was not answered as it must be; false when the round is over.
    pub(crate) fn failed(&mut self, answered: Instant, reason: impl FnOnce() -> String) -> bool {
        self.n_answers += 1;
        self.n_failed += 1;
        self.first_failure.get_or_insert_with(reason);
        answered < self.closes
    }

    /// Notes that the requests that wait are too many for the round to go on.
    #[allow(dead_code, reason = "the same load on another store has no open loop")]
    pub(crate) fn give_up(&mut self, now: Instant) {
        self.given_up.get_or_insert(now);
    }

    /// The figures, or why there are none.
    pub(crate) fn finish(self) -> Result<Round, Failure> {
        if let Some(reason) = self.first_failure {
            let (failed, answers) = (self.n_failed, self.n_answers);
            return Err(Failure(format!("{failed} of {answers} requests failed, first: {reason}")));
        }
        let n_in_window: u64 = self.tallies.values().map(|tally| tally.n_in_window).sum();
        if n_in_window == 0 && self.given_up.is_none() {
            return Err(Failure(format!("no request was answered within {:?}", self.length)));
        }
        // A round that was given up has had no whole window: its rate is that of all of it.
        let seconds = match self.given_up {
            Some(given_up) => given_up.saturating_duration_since(self.starts),
            None => self.length,
        };
        let seconds = seconds.as_secs_f64().max(f64::EPSILON);
        let mut all = histogram();
        let (mut shares, mut per_second) = (BTreeMap::new(), 0.0);
        for (operation, tally) in &self.tallies {
            let n = if self.given_up.is_some() { tally.n_answers } else { tally.n_in_window };
            let share =
                Share { per_second: n as f64 / seconds, latency: Latency::of(&tally.latencies) };
            all.add(&tally.latencies).expect("all histograms have the same bounds");
            per_second += share.per_second;
            shares.insert(*operation, share);
        }
        let reached = self.given_up.is_none() && self.has_kept_up(n_in_window);
        Ok(Round { per_second, latency: Latency::of(&all), shares, curve: curve(&all), reached })
    }

    fn has_kept_up(&self, n_in_window: u64) -> bool {
        match self.pace {
            Pace::Closed => true,
            Pace::Open { rate, connections } => {
                let wanted = f64::from(rate) * self.length.as_secs_f64();
                // One request a connection may be under way without anything being late, but not
                // most of them.
                let under_way = f64::from(connections).min(wanted / 10.0);
                let spare = (wanted * MAX_SHORTFALL).max(under_way);
                n_in_window as f64 + spare >= wanted
            }
        }
    }
}

impl Tally {
    fn new() -> Tally {
        Tally { n_answers: 0, n_in_window: 0, latencies: histogram() }
    }
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, MAX_LATENCY_MICROS, SIGNIFICANT_DIGITS)
        .expect("the bounds are constants that fit")
}

/// Up to the slowest request but one: a logarithmic scale has no place for all of them.
fn curve(latencies: &Histogram<u64>) -> Vec<(f64, u64)> {
    let last = 1.0 - 1.0 / latencies.len().max(1) as f64;
    let quantiles = latencies.iter_quantiles(POINTS_PER_HALVING);
    quantiles
        .map(|step| (step.quantile_iterated_to(), step.value_iterated_to()))
        .take_while(|(quantile, _)| *quantile <= last)
        .collect()
}

// Named, for this file is compiled into another package too, where it has another place.
#[cfg(test)]
#[path = "round/tests.rs"]
mod tests;
