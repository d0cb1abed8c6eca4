//! What one key does, one operation after the other.
//!
//! Every write, done or not, stands in the log. Where an answer says at which index, the order of
//! the indexes must be the order of the effects, and a key's mod index is that of its last write:
//! so most of the order is known, and little is left to be searched for. What no answer tells
//! is left open, and matches anything; but an index that somebody was told of is no other's, on any key,
//! so that a condition on it is not met by a write of which nobody knows the place.

use std::collections::{HashMap, HashSet};

use crate::history::{Action, Answer, End, Op};

/// An operation as the search sees it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Step {
    /// Its place among the operations that were given.
    pub(super) op: usize,
    pub(super) call: u64,
    /// `None`: it may take effect at any time after its call, or never.
    pub(super) end: Option<u64>,
    pub(super) effect: Effect,
    /// Where in the log it stands, if anybody was told.
    pub(super) index: Option<u64>,
    /// Somebody was told of it, be it by another's read.
    pub(super) is_seen: bool,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Effect {
    /// Finds this, written there.
    Find(u64, Option<u64>),
    FindNothing,
    Put(u64),
    /// Writes the first if the second is the key's mod index, 0 standing for its absence.
    Cas(u64, Condition),
    /// Does not write, because this is not the key's mod index.
    Mismatch(u64),
    Delete,
    DeleteNothing,
}

/// What the mod index must be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Condition {
    expected: u64,
    /// Somebody was told what stands there.
    is_taken: bool,
}

/// What a key holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Content {
    /// Not known yet: what is seen first decides.
    Anything,
    Absent,
    Present(u64, Option<u64>),
}

/// A key, and how far in the log it is known to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct State {
    content: Content,
    last_index: u64,
}

impl State {
    /// Before the first write.
    pub(super) const ABSENT: State = State { content: Content::Absent, last_index: 0 };
    /// In the middle of a history.
    pub(super) const ANYTHING: State = State { content: Content::Anything, last_index: 0 };

    /// What the key holds, if it is known to.
    pub(super) fn value(self) -> Option<u64> {
        match self.content {
            Content::Present(value, _) => Some(value),
            Content::Anything | Content::Absent => None,
        }
    }

    /// The state after this step, unless it cannot be the next one, or would do nothing when it
    /// need not have happened at all.
    pub(super) fn apply(self, step: &Step) -> Option<State> {
        use Content::{Absent, Anything, Present};
        let State { content, mut last_index } = self;
        if let Some(index) = step.index {
            if index <= last_index {
                return None;
            }
            last_index = index;
        }
        // None: nobody was told, so it can be this one.
        let is_at = |at: Option<u64>, expected| at.is_none_or(|at| at == expected);
        let may_be = |Condition { expected, is_taken }| match content {
            Anything => true,
            Absent => expected == 0,
            Present(_, Some(at)) => at == expected,
            Present(_, None) => expected != 0 && !is_taken,
        };
        let content = match step.effect {
            Effect::Find(value, at) => match content {
                Anything => Present(value, at),
                Present(held, None) if held == value => Present(value, at),
                Present(held, Some(held_at)) if held == value && is_at(at, held_at) => content,
                Present(..) | Absent => return None,
            },
            Effect::FindNothing => match content {
                Anything | Absent => Absent,
                Present(..) => return None,
            },
            Effect::Put(value) => Present(value, step.index),
            Effect::Cas(value, condition) => {
                if !may_be(condition) {
                    return None;
                }
                Present(value, step.index)
            }
            Effect::Mismatch(expected) => match content {
                Absent if expected == 0 => return None,
                Present(_, Some(at)) if at == expected => return None,
                Anything | Absent | Present(..) => content,
            },
            Effect::Delete => match content {
                Absent => return None,
                Anything | Present(..) => Absent,
            },
            Effect::DeleteNothing => match content {
                Anything | Absent => Absent,
                Present(..) => return None,
            },
        };
        Some(State { content, last_index })
    }
}

/// The indexes of which somebody was told what stands there.
#[derive(Debug, Default)]
pub(super) struct Taken(HashSet<u64>);

impl Taken {
    pub(super) fn of(history: &[Op]) -> Taken {
        let told = |op: &Op| match op.end {
            End::Answered { answer, .. } => match answer {
                Answer::Found { mod_index, .. } => mod_index,
                Answer::Absent => None,
                Answer::Done { index } | Answer::Mismatch { index } | Answer::Missing { index } => {
                    index
                }
            },
            End::Refused | End::Unknown => None,
        };
        Taken(history.iter().filter_map(told).collect())
    }
}

/// What there is to be ordered: everything that may have had an effect, or saw one.
pub(super) fn steps(ops: &[&Op], taken: &Taken) -> Vec<Step> {
    let mut seen: HashMap<u64, Option<u64>> = HashMap::new();
    for (value, mod_index) in ops.iter().filter_map(|op| op.seen()) {
        let at = seen.entry(value).or_default();
        *at = at.or(mod_index);
    }
    let step = |(number, op): (usize, &&Op)| {
        let (effect, index) = effect(op, taken)?;
        let seen = op.written().and_then(|value| seen.get(&value));
        let end = op.answered_at();
        let is_seen = end.is_some() || seen.is_some();
        let index = index.or(seen.copied().flatten());
        Some(Step { op: number, call: op.call, end, effect, index, is_seen })
    };
    ops.iter().enumerate().filter_map(step).collect()
}

/// What an operation does, and at which index as far as its client was told.
fn effect(op: &Op, taken: &Taken) -> Option<(Effect, Option<u64>)> {
    let answer = match op.end {
        End::Refused => return None,
        End::Unknown => None,
        End::Answered { answer, .. } => Some(answer),
    };
    let on = |expected| Condition { expected, is_taken: taken.0.contains(&expected) };
    Some(match (op.action, answer) {
        (Action::Get, None) => return None,
        (Action::Get, Some(Answer::Found { value, mod_index })) => {
            (Effect::Find(value, mod_index), None)
        }
        (Action::Get, Some(Answer::Absent)) => (Effect::FindNothing, None),
        (Action::Put { value }, None) => (Effect::Put(value), None),
        (Action::Put { value }, Some(Answer::Done { index })) => (Effect::Put(value), index),
        (Action::Cas { value, expected }, None) => (Effect::Cas(value, on(expected)), None),
        (Action::Cas { value, expected }, Some(Answer::Done { index })) => {
            (Effect::Cas(value, on(expected)), index)
        }
        (Action::Cas { expected, .. }, Some(Answer::Mismatch { index })) => {
            (Effect::Mismatch(expected), index)
        }
        (Action::Delete, None) => (Effect::Delete, None),
        (Action::Delete, Some(Answer::Done { index })) => (Effect::Delete, index),
        (Action::Delete, Some(Answer::Missing { index })) => (Effect::DeleteNothing, index),
        (_, Some(_)) => panic!("no such answer belongs to this: {op}"),
    })
}
