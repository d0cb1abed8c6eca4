//! A third opinion, by a stranger: the checker of the crate `todc-utils`, told what a key does.
//!
//! It knows neither operations without an answer nor keys, so that each choice of those that took
//! effect after all is judged on its own, key by key; and it has no time limit. For small
//! histories only.

use std::collections::{BTreeMap, BTreeSet};

use todc_utils::{Action as Event, History, Specification, WGLChecker};

use crate::history::{Action, Answer, End, Op, by_key};

/// Whether it finds each key's operations linearizable.
pub fn agrees(history: &[Op]) -> bool {
    let known = Known { values: known_values(history), indexes: known_indexes(history) };
    by_key(history).into_values().all(|ops| {
        let ended = ops.iter().filter(|op| op.answered_at().is_some());
        let ended: Vec<_> = ended.map(|op| (op.call, op.answered_at(), told(op, &known))).collect();
        let open = ops.iter().filter(|op| op.end == End::Unknown && op.action != Action::Get);
        let open: Vec<_> = open.map(|op| (op.call, None, told(op, &known))).collect();
        (0..1_u32 << open.len()).any(|chosen| {
            let happened = open.iter().enumerate().filter(|(n, _)| chosen & (1 << n) != 0);
            let all = ended.iter().chain(happened.map(|(_, interval)| interval));
            let all: Vec<_> = all.copied().collect();
            // Of nothing it has no opinion.
            all.is_empty() || WGLChecker::<Key>::is_linearizable(events(&all))
        })
    })
}

struct Known {
    values: BTreeMap<u64, u64>,
    indexes: BTreeSet<u64>,
}

/// Every index in an answer.
fn known_indexes(history: &[Op]) -> BTreeSet<u64> {
    let index = |op: &Op| match op.end {
        End::Answered { answer, .. } => match answer {
            Answer::Absent => None,
            Answer::Done { index: at }
            | Answer::Mismatch { index: at }
            | Answer::Missing { index: at }
            | Answer::Found { mod_index: at, .. } => at,
        },
        End::Unknown | End::Refused => None,
    };
    history.iter().filter_map(index).collect()
}

/// The mod index of each value, as far as anybody was told; its writer is believed first.
fn known_values(history: &[Op]) -> BTreeMap<u64, u64> {
    let mut known: BTreeMap<_, _> =
        history.iter().filter_map(Op::seen).filter_map(|(value, at)| Some((value, at?))).collect();
    let told = |op: &Op| match op.end {
        End::Answered { answer: Answer::Done { index }, .. } => op.written().zip(index),
        _ => None,
    };
    known.extend(history.iter().filter_map(told));
    known
}

/// A call, an end if there is one, and what is between them.
type Interval = (u64, Option<u64>, Told);

/// Each operation as a process of its own. At one moment calls come before ends; who has no end
/// ends last.
fn events(intervals: &[Interval]) -> History<Told> {
    let mut events = Vec::new();
    for (process, (call, end, told)) in intervals.iter().enumerate() {
        events.push((*call, false, process, *told));
        events.push((end.unwrap_or(u64::MAX), true, process, *told));
    }
    events.sort_by_key(|(at, is_end, process, _)| (*at, *is_end, *process));
    let event = |(_, is_end, process, told): (u64, bool, usize, Told)| match is_end {
        true => (process, Event::Response(told)),
        false => (process, Event::Call(told)),
    };
    History::from_actions(events.into_iter().map(event).collect())
}

/// An operation together with its answer.
#[derive(Debug, Clone, Copy)]
struct Told {
    what: What,
    /// Where in the log.
    index: Option<u64>,
}

#[derive(Debug, Clone, Copy)]
enum What {
    Saw(Option<(u64, Option<u64>)>),
    Wrote(u64),
    /// Wrote on this condition. Whether it is known what stands there.
    Swapped(u64, u64, bool),
    NotSwapped(u64),
    Removed,
    FoundNothingToRemove,
}

fn told(op: &Op, known: &Known) -> Told {
    let answer = match op.end {
        End::Answered { answer, .. } => answer,
        // One that took effect: the choice of those that did not is made above.
        End::Unknown | End::Refused => Answer::Done { index: None },
    };
    let (Answer::Done { index } | Answer::Mismatch { index } | Answer::Missing { index }) = answer
    else {
        let saw = op.seen();
        return Told { what: What::Saw(saw), index: None };
    };
    let index = index.or(op.written().and_then(|value| known.values.get(&value).copied()));
    let what = match (op.action, answer) {
        (Action::Put { value }, _) => What::Wrote(value),
        (Action::Cas { expected, .. }, Answer::Mismatch { .. }) => What::NotSwapped(expected),
        (Action::Cas { value, expected }, _) => {
            What::Swapped(value, expected, known.indexes.contains(&expected))
        }
        (_, Answer::Missing { .. }) => What::FoundNothingToRemove,
        (Action::Delete | Action::Get, _) => What::Removed,
    };
    Told { what, index }
}

/// One key, sequentially.
struct Key;

impl Specification for Key {
    /// The value with its index if known, and the last index.
    type State = (Option<(u64, Option<u64>)>, u64);
    type Operation = Told;

    fn init() -> Self::State {
        (None, 0)
    }

    fn apply(told: &Told, &(held, last): &Self::State) -> (bool, Self::State) {
        let at = held.map(|(_, at)| at);
        let wrote = |value| Some((value, told.index));
        let (is_right, after) = match told.what {
            What::Saw(None) => (held.is_none(), held),
            What::Saw(Some((value, seen_at))) => {
                let is_there = |(held, at): (u64, Option<u64>)| {
                    held == value && (at.is_none() || seen_at.is_none() || at == seen_at)
                };
                (held.is_some_and(is_there), held)
            }
            What::Wrote(value) => (true, wrote(value)),
            What::Swapped(value, expected, is_taken) => {
                let is_met = match at {
                    None => expected == 0,
                    Some(Some(at)) => at == expected,
                    Some(None) => expected != 0 && !is_taken,
                };
                (is_met, wrote(value))
            }
            What::NotSwapped(expected) => {
                let is_met = match at {
                    None => expected == 0,
                    Some(at) => at == Some(expected),
                };
                (!is_met, held)
            }
            What::Removed => (held.is_some(), None),
            What::FoundNothingToRemove => (held.is_none(), None),
        };
        let is_later = told.index.is_none_or(|index| index > last);
        (is_right && is_later, (after, told.index.unwrap_or(last)))
    }
}
