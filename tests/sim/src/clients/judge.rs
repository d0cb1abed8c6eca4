//! What was proposed, and whether what was said of it is true of the log.

use std::time::Duration;

use ::tests::history::Op;
use ::tests::linearizability::{Verdict, check, timeline};
use raftexample::kvstore::{Answer, Response};
use raftnode::sim::fingerprint;

use super::asking::Ended;
use super::watch::Watches;
use crate::Violation;
use crate::oracle::rules;

/// What one search for an order may take. It is bounded by what it tries, and ends long before, unless
/// the machine stands still: what a seed comes to must not depend on how busy that is.
const SEARCH_LIMIT: Duration = Duration::from_secs(120);

/// A command, and what came of it.
#[derive(Debug)]
pub(super) struct Written {
    hash: u64,
    is_keyed: bool,
    n_attempts: usize,
    n_refused: usize,
    /// Where it was said to be.
    applied: Vec<u64>,
    answers: Vec<Answer>,
}

impl Written {
    pub(super) fn new(command: &[u8], is_keyed: bool) -> Self {
        Self {
            hash: fingerprint(command),
            is_keyed,
            n_attempts: 0,
            n_refused: 0,
            applied: Vec::new(),
            answers: Vec::new(),
        }
    }

    pub(super) fn hash(&self) -> u64 {
        self.hash
    }

    pub(super) fn asked(&mut self) {
        self.n_attempts += 1;
    }

    /// One attempt ended; one that was given up may end once more, with what came of it.
    pub(super) fn ended(&mut self, ended: &Ended) {
        match ended {
            Ended::Written { index, answer } => {
                self.applied.push(*index);
                self.answers.push(answer.clone());
            }
            Ended::Refused => self.n_refused += 1,
            _ => {}
        }
    }

    /// `indexes`: where it is in the log.
    pub(super) fn judge(&self, indexes: &[u64], watches: &Watches) -> Result<(), Violation> {
        let may_be = self.n_attempts - self.n_refused;
        let is_true = indexes.len() <= may_be
            && indexes.len() >= self.applied.len()
            && self.applied.iter().all(|index| indexes.contains(index))
            && (self.is_keyed || self.applied.is_empty() || self.applied == indexes);
        rules::OUTCOME_TRUE.holds(is_true, || {
            format!(
                "a command was proposed {} times, {} of them refused and {:?} said to be \
                 applied; it is at {indexes:?}",
                self.n_attempts, self.n_refused, self.applied
            )
        })?;
        let Some(first) = self.answers.first() else { return Ok(()) };
        let is_one = self.answers.iter().all(|answer| answer == first);
        rules::ONCE_PER_KEY.holds(is_one && indexes.first() == Some(&first.index), || {
            format!("a command at {indexes:?} was answered {:?}", self.answers)
        })?;
        match first.response {
            Response::Put | Response::Deleted => watches.has(first.index),
            _ => Ok(()),
        }
    }
}

/// What contradicts itself in a history, as a picture; none: nothing does.
#[must_use]
pub fn picture(history: &[Op]) -> Option<String> {
    match check(history, SEARCH_LIMIT) {
        Verdict::Violation(violation) => Some(timeline::render(&violation, history)),
        Verdict::Linearizable | Verdict::TimedOut { .. } => None,
    }
}

/// Judges a history by itself.
pub(super) fn linearizable(history: &[Op]) -> Result<(), Violation> {
    match check(history, SEARCH_LIMIT) {
        Verdict::Linearizable => Ok(()),
        Verdict::Violation(violation) => Err(rules::LINEARIZABLE.broken(violation.to_string())),
        Verdict::TimedOut { key, n_ops } => Err(rules::LINEARIZABLE
            .broken(format!("the {n_ops} operations on {key} could not be judged in time"))),
    }
}
