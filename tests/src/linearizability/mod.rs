//! Whether a history could have come from one copy of the store that does one thing at a time.
//!
//! Each operation must seem to happen at one moment between its call and its end, and each answer
//! must be what the store would give at that moment. A history for which no such moments exist is
//! a violation, shown by the end that cannot be explained and the few operations that contradict
//! each other. A history that cannot be judged in time has not passed.

mod register;
mod search;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use self::register::State;
use self::search::{Found, search};
use crate::history::{End, Op, by_key};

/// How much of an explained order a violation shows.
const MAX_SHOWN: usize = 12;
/// What a first look at a key may take.
const QUICK_LOOK: Duration = Duration::from_millis(500);
/// How far back the operations that contradict each other are looked for.
const MAX_WINDOW: usize = 64;

/// What became of a check.
#[derive(Debug)]
pub enum Verdict {
    /// Every key's operations can be explained.
    Linearizable,
    /// Those of one key cannot.
    Violation(Box<Violation>),
    /// One key's could not be judged in time, and none is known to be violated.
    TimedOut {
        /// The key.
        key: String,
        /// How many operations it has.
        n_ops: usize,
    },
}

/// Why a key's operations cannot be explained. Shown, it is meant to be read.
#[derive(Debug)]
pub struct Violation {
    /// The key.
    pub key: String,
    /// The operation whose end cannot be explained; everything that ended before it can.
    pub offending: Op,
    /// How many operations had been answered before it.
    pub n_explained: usize,
    /// The end of an order that explains them.
    pub explained: Vec<Op>,
    /// The fewest last operations that contradict each other, whatever was before them.
    pub window: Vec<Op>,
    /// Who wrote what the offending operation saw, when that is outside the window.
    pub writer: Option<Op>,
}

/// Judges each key on its own, with at most `limit` for each search. A quick look at all of them
/// comes first: one violation is enough, and most are found at once.
///
/// # Panics
///
/// When an operation has an answer that belongs to another kind of operation.
pub fn check(history: &[Op], limit: Duration) -> Verdict {
    let mut keys: Vec<_> = by_key(history).into_iter().collect();
    for limit in [limit.min(QUICK_LOOK), limit] {
        let mut failed = judge_all(&keys, limit);
        if let Some((key, ops, _)) = failed.iter().find(|(_, _, found)| *found == Found::Nothing) {
            return Verdict::Violation(Box::new(blame(key, ops, limit)));
        }
        keys = failed.drain(..).map(|(key, ops, _)| (key, ops)).collect();
    }
    match keys.first() {
        None => Verdict::Linearizable,
        Some((key, ops)) => Verdict::TimedOut { key: (*key).to_owned(), n_ops: ops.len() },
    }
}

/// A key, its operations, and why there is no order for them.
type Failed<'a> = (&'a str, Vec<&'a Op>, Found);

/// Those that cannot be explained, by key; not all of them once one is known to be violated.
fn judge_all<'a>(keys: &[(&'a str, Vec<&'a Op>)], limit: Duration) -> Vec<Failed<'a>> {
    let (next, failed) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let judge = || {
        while let Some((key, ops)) = keys.get(next.fetch_add(1, Ordering::Relaxed)) {
            let found = explain(ops, State::ABSENT, limit);
            if found == Found::Nothing {
                next.store(keys.len(), Ordering::Relaxed);
            }
            if !matches!(found, Found::Order(_)) {
                failed.lock().expect("no judge panics with it").push((*key, ops.clone(), found));
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(judge);
        }
    });
    let mut failed = failed.into_inner().expect("no judge panics with it");
    failed.sort_by_key(|(key, _, _)| *key);
    failed
}

/// An order of those that had an effect or saw one, as numbers of operations.
fn explain(ops: &[&Op], initial: State, limit: Duration) -> Found {
    let steps = register::steps(ops);
    match search(&steps, initial, Instant::now() + limit) {
        Found::Order(order) => Found::Order(order.into_iter().map(|step| steps[step].op).collect()),
        other => other,
    }
}

/// What was known at this moment: later calls were not made, later ends are open.
fn until(ops: &[&Op], moment: u64) -> Vec<Op> {
    let made = ops.iter().filter(|op| op.call <= moment);
    made.map(|op| match op.answered_at() {
        Some(at) if at > moment => Op { end: End::Unknown, ..(*op).clone() },
        _ => (*op).clone(),
    })
    .collect()
}

fn explain_all(ops: &[Op], initial: State, limit: Duration) -> Found {
    explain(&ops.iter().collect::<Vec<_>>(), initial, limit)
}

/// Finds the first end that cannot be explained, and what it contradicts. What is explained at one
/// moment was explained at every earlier one, so the moment is found by doubling and halving: what
/// comes long after it is never looked at.
fn blame(key: &str, ops: &[&Op], limit: Duration) -> Violation {
    let mut ends: Vec<_> = ops.iter().filter_map(|op| op.answered_at()).collect();
    ends.sort_unstable();
    let is_explained = |&moment: &u64| {
        // One that takes too long is not known to contradict anything.
        explain_all(&until(ops, moment), State::ABSENT, limit) != Found::Nothing
    };
    let mut bound = 1;
    while bound < ends.len() && is_explained(&ends[bound - 1]) {
        bound *= 2;
    }
    let bound = bound.min(ends.len());
    // The last of them is not explained, whatever takes how long.
    let n_explained = ends[..bound - 1].partition_point(is_explained);
    let moment = ends[n_explained];
    let offending = (ops.iter().find(|op| op.answered_at() == Some(moment)))
        .map(|op| (*op).clone())
        .expect("somebody's end is at this moment");
    let before = until(ops, moment.saturating_sub(1));
    let mut explained = match explain_all(&before, State::ABSENT, limit) {
        Found::Order(order) => order.into_iter().map(|number| before[number].clone()).collect(),
        Found::Nothing | Found::TimedOut => Vec::new(),
    };
    explained.drain(..explained.len().saturating_sub(MAX_SHOWN));
    let window = window(&until(ops, moment), &offending, limit);
    let seen = offending.seen().map(|(value, _)| value);
    let writer = ops.iter().find(|op| seen.is_some() && op.written() == seen);
    let writer = writer.filter(|writer| !window.contains(writer)).map(|writer| (**writer).clone());
    Violation { key: key.to_owned(), offending, n_explained, explained, window, writer }
}

/// The fewest last operations that contradict each other from any state on. Those before them are
/// part of that state, or, when they had not ended yet, may take effect at any time.
fn window(ops: &[Op], offending: &Op, limit: Duration) -> Vec<Op> {
    let last = ops.iter().position(|op| op == offending).unwrap_or_default();
    for first in (0..=last).rev().take(MAX_WINDOW) {
        let begin = ops[first].call;
        let running =
            ops[..first].iter().filter(|op| op.answered_at().is_some_and(|at| at >= begin));
        let opened = running.map(|op| Op { end: End::Unknown, ..op.clone() });
        let some: Vec<_> = opened.chain(ops[first..].iter().cloned()).collect();
        if explain_all(&some, State::ANYTHING, limit) == Found::Nothing {
            return ops[first..].to_vec();
        }
    }
    ops[last..].to_vec()
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "key {} is not linearizable", self.key)?;
        writeln!(
            f,
            "{} answers can be explained; the end of an order that does:",
            self.n_explained
        )?;
        self.explained.iter().try_for_each(|op| writeln!(f, "    {op}"))?;
        writeln!(f, "the next answer cannot be:")?;
        writeln!(f, "    {}", self.offending)?;
        if let Some(writer) = &self.writer {
            writeln!(f, "what it saw was written by:\n    {writer}")?;
        }
        writeln!(f, "these contradict each other, whatever was before them:")?;
        self.window.iter().try_for_each(|op| writeln!(f, "    {op}"))
    }
}
