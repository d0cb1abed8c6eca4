//! Whether a history could have come from one copy of the store that does one thing at a time.
//!
//! Each operation must seem to happen at one moment between its call and its end, and each answer
//! must be what the store would give at that moment. A history for which no such moments exist is
//! a violation, shown by the end that cannot be explained and the few operations that contradict
//! each other. A history that cannot be judged in time has not passed.

pub mod agreement;
pub mod brute;
pub mod generate;
pub mod mutate;
mod register;
mod search;
#[cfg(test)]
mod tests;
pub mod third;
pub mod timeline;
#[cfg(test)]
mod timeline_tests;
#[cfg(test)]
mod validation;

use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use self::register::{State, Taken};
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
    /// The last operations that contradict each other, whatever was before them, and none of
    /// which can be left out.
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
    let taken = Taken::of(history);
    let mut keys: Vec<_> = by_key(history).into_iter().collect();
    for limit in [limit.min(QUICK_LOOK), limit] {
        let judge = Judge { taken: &taken, limit };
        let mut failed = judge.all(&keys);
        if let Some((key, ops, _)) = failed.iter().find(|(_, _, found)| *found == Found::Nothing) {
            return Verdict::Violation(Box::new(judge.blame(key, ops)));
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

/// What every search of a check is told.
#[derive(Clone, Copy)]
struct Judge<'a> {
    taken: &'a Taken,
    /// For each search.
    limit: Duration,
}

impl Judge<'_> {
    /// Those that cannot be explained, by key; not all of them once one is known to be violated.
    fn all<'a>(self, keys: &[(&'a str, Vec<&'a Op>)]) -> Vec<Failed<'a>> {
        let (next, failed) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
        let judge = || {
            while let Some((key, ops)) = keys.get(next.fetch_add(1, Ordering::Relaxed)) {
                let found = self.explain(ops, State::ABSENT);
                if found == Found::Nothing {
                    next.store(keys.len(), Ordering::Relaxed);
                }
                if !matches!(found, Found::Order(_)) {
                    let mut failed = failed.lock().expect("no judge panics with it");
                    failed.push((*key, ops.clone(), found));
                }
            }
        };
        let n_threads = thread::available_parallelism().map_or(1, usize::from).min(keys.len());
        thread::scope(|scope| {
            // This thread judges as well, and alone when there is but one key.
            (1..n_threads).for_each(|_| drop(scope.spawn(judge)));
            judge();
        });
        let mut failed = failed.into_inner().expect("no judge panics with it");
        failed.sort_by_key(|(key, _, _)| *key);
        failed
    }

    /// An order of those that had an effect or saw one, as numbers of operations.
    fn explain(self, ops: &[&Op], initial: State) -> Found {
        let steps = register::steps(ops, self.taken);
        match search(&steps, initial, Instant::now() + self.limit) {
            Found::Order(order) => {
                Found::Order(order.into_iter().map(|step| steps[step].op).collect())
            }
            other => other,
        }
    }

    fn explain_all(self, ops: &[Op], initial: State) -> Found {
        self.explain(&ops.iter().collect::<Vec<_>>(), initial)
    }

    /// Finds the first end that cannot be explained, and what it contradicts. What is explained at
    /// one moment was explained at every earlier one, so the moment is found by doubling and
    /// halving: what comes long after it is never looked at.
    fn blame(self, key: &str, ops: &[&Op]) -> Violation {
        let mut ends: Vec<_> = ops.iter().filter_map(|op| op.answered_at()).collect();
        ends.sort_unstable();
        let is_explained = |&moment: &u64| {
            // One that takes too long is not known to contradict anything.
            self.explain_all(&until(ops, moment), State::ABSENT) != Found::Nothing
        };
        let mut bound = 1;
        while bound < ends.len() && is_explained(&ends[bound - 1]) {
            bound *= 2;
        }
        let bound = bound.min(ends.len());
        // The last of them is not explained, whatever takes how long.
        let n_explained = ends[..bound - 1].partition_point(is_explained);
        let moment = ends[n_explained];
        let offending = self.ending(&until(ops, moment), moment);
        let before = until(ops, moment.saturating_sub(1));
        let mut explained = match self.explain_all(&before, State::ABSENT) {
            Found::Order(order) => order.into_iter().map(|number| before[number].clone()).collect(),
            Found::Nothing | Found::TimedOut => Vec::new(),
        };
        explained.drain(..explained.len().saturating_sub(MAX_SHOWN));
        let window = self.window(&until(ops, moment), &offending);
        let seen = offending.seen().map(|(value, _)| value);
        let writer = ops.iter().find(|op| seen.is_some() && op.written() == seen);
        let writer =
            writer.filter(|writer| !window.contains(writer)).map(|writer| (**writer).clone());
        Violation { key: key.to_owned(), offending, n_explained, explained, window, writer }
    }

    /// Which of those that end at this moment cannot be explained. Where clocks are coarse several
    /// do: then it is one without which all others can be.
    fn ending(self, ops: &[Op], moment: u64) -> Op {
        let ending: Vec<_> =
            (0..ops.len()).filter(|&place| ops[place].answered_at() == Some(moment)).collect();
        let is_cause = |&&place: &&usize| {
            let mut all = ops.to_vec();
            all[place] = opened(&all[place]);
            self.explain_all(&all, State::ABSENT) != Found::Nothing
        };
        let cause = if ending.len() > 1 { ending.iter().find(is_cause) } else { None };
        let place = cause.or(ending.first()).expect("somebody's end is at this moment");
        ops[*place].clone()
    }

    /// The last operations that contradict each other from any state on, without those that need
    /// not be believed for it. Those before them are part of that state, or, when they had not
    /// ended yet, may take effect at any time, and so may what is left out.
    fn window(self, ops: &[Op], offending: &Op) -> Vec<Op> {
        let last = ops.iter().position(|op| op == offending).unwrap_or_default();
        for first in (0..=last).rev().take(MAX_WINDOW) {
            let begin = ops[first].call;
            let running =
                ops[..first].iter().filter(|op| op.answered_at().is_none_or(|at| at >= begin));
            // A refused one must stay so: opened, it might explain what it cannot.
            let running = running.filter(|op| op.end != End::Refused);
            let mut all: Vec<_> = running.map(opened).collect();
            let n_running = all.len();
            all.extend_from_slice(&ops[first..]);
            if self.explain_all(&all, State::ANYTHING) == Found::Nothing {
                return self.thinned(all, n_running, offending);
            }
        }
        vec![offending.clone()]
    }

    /// Those from `first` on that must be believed, each in turn, for there to be no explanation.
    fn thinned(self, mut all: Vec<Op>, first: usize, offending: &Op) -> Vec<Op> {
        let quick = Judge { limit: self.limit.min(QUICK_LOOK), ..self };
        let mut needed = Vec::new();
        for place in first..all.len() {
            let op = all[place].clone();
            if matches!(op.end, End::Refused | End::Unknown) {
                continue;
            }
            all[place] = opened(&op);
            if op == *offending || quick.explain_all(&all, State::ANYTHING) != Found::Nothing {
                all[place] = op.clone();
                needed.push(op);
            }
        }
        needed
    }
}

/// The same, as if nobody had been told what came of it.
fn opened(op: &Op) -> Op {
    Op { end: End::Unknown, ..op.clone() }
}

/// What was known at this moment: later calls were not made, later ends are open.
fn until(ops: &[&Op], moment: u64) -> Vec<Op> {
    let made = ops.iter().filter(|op| op.call <= moment);
    made.map(|op| match op.answered_at() {
        Some(at) if at > moment => opened(op),
        _ => (*op).clone(),
    })
    .collect()
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
