//! A second opinion, written from the definition and from nothing else: a history is linearizable
//! when there is an order of its operations that respects who ended before whom was called, and in
//! which a store that does one thing at a time gives the answers that were given.
//!
//! All keys are ordered together, every order is tried, nothing is remembered, and nothing is
//! shared with the search. Good for eight operations or so.
//!
//! What no answer tells is open in the same way as there: a write whose index nobody was told of
//! may stand at any index that no answer names.

use std::collections::BTreeMap;

use crate::history::{Action, Answer, End, Op};

/// Whether there is such an order.
pub fn can_be_ordered(history: &[Op]) -> bool {
    // A refused operation has no effect, and a read without an answer neither effect nor answer.
    let counts = |op: &&Op| match op.end {
        End::Refused => false,
        End::Unknown => op.action != Action::Get,
        End::Answered { .. } => true,
    };
    let left: Vec<_> = history.iter().filter(counts).collect();
    go_on(&Known::of(history), &left, &Store::new())
}

/// Tries each that can be next before each order of the others.
fn go_on(known: &Known, left: &[&Op], store: &Store) -> bool {
    // What is without an answer need not happen.
    if left.iter().all(|op| op.end == End::Unknown) {
        return true;
    }
    (0..left.len()).any(|place| {
        let next = left[place];
        let others: Vec<_> = left.iter().copied().filter(|op| !std::ptr::eq(*op, next)).collect();
        let is_first = others.iter().all(|op| op.answered_at().is_none_or(|at| next.call <= at));
        is_first
            && (known.outcomes(next, store).into_iter())
                .filter(|(answer, _)| is_told(next, *answer))
                .any(|(_, after)| go_on(known, &others, &after))
    })
}

/// What the store holds: the value and its index, and the last index that a key's log is at. None:
/// nobody was told.
type Store<'a> = BTreeMap<&'a str, (Option<(u64, Option<u64>)>, u64)>;

/// Whether this client could be told so: whatever it was not told is as it may be.
fn is_told(op: &Op, answer: Answer) -> bool {
    let same = |a: Option<u64>, b: Option<u64>| a.is_none() || b.is_none() || a == b;
    let End::Answered { answer: told, .. } = op.end else { return true };
    match (told, answer) {
        (
            Answer::Found { value: a, mod_index: a_at },
            Answer::Found { value: b, mod_index: b_at },
        ) => a == b && same(a_at, b_at),
        (Answer::Absent, Answer::Absent) => true,
        (Answer::Done { index: a }, Answer::Done { index: b })
        | (Answer::Mismatch { index: a }, Answer::Mismatch { index: b })
        | (Answer::Missing { index: a }, Answer::Missing { index: b }) => same(a, b),
        _ => false,
    }
}

/// Where values stand, as far as anybody was told, and all indexes that somebody was told of.
struct Known {
    values: BTreeMap<u64, u64>,
    named: Vec<u64>,
}

impl Known {
    fn of(history: &[Op]) -> Known {
        let mut known = BTreeMap::new();
        for op in history {
            if let Some((value, Some(at))) = op.seen() {
                known.insert(value, at);
            }
        }
        // The writer knows best: a reader who was told otherwise is wrong.
        for op in history {
            if let Some((value, at)) = op.written().zip(told_index(op)) {
                known.insert(value, at);
            }
        }
        let read_at = |op: &Op| op.seen().and_then(|(_, at)| at);
        let named = history.iter().flat_map(|op| [told_index(op), read_at(op)]).flatten().collect();
        Known { values: known, named }
    }

    /// What may come of an operation, and what the store then holds.
    fn outcomes<'a>(&self, op: &'a Op, store: &Store<'a>) -> Vec<(Answer, Store<'a>)> {
        let key = op.key.as_str();
        let (held, last) = store.get(key).copied().unwrap_or((None, 0));
        let index =
            told_index(op).or(op.written().and_then(|value| self.values.get(&value).copied()));
        let done = Answer::Done { index };
        // Each answer with what the key holds then.
        let outcomes = match op.action {
            Action::Get => match held {
                Some((value, mod_index)) => vec![(Answer::Found { value, mod_index }, held)],
                None => vec![(Answer::Absent, None)],
            },
            Action::Put { value } => vec![(done, Some((value, index)))],
            Action::Delete if held.is_none() => vec![(Answer::Missing { index }, None)],
            Action::Delete => vec![(done, None)],
            Action::Cas { value, expected } => {
                let met = (done, Some((value, index)));
                let not_met = (Answer::Mismatch { index }, held);
                match held {
                    None if expected == 0 => vec![met],
                    Some((_, Some(at))) if at == expected => vec![met],
                    Some((_, None)) if expected > 0 && !self.named.contains(&expected) => {
                        vec![met, not_met]
                    }
                    _ => vec![not_met],
                }
            }
        };
        // A read is not in the log; what is stands behind what was.
        let last_after = match op.action {
            Action::Get => Some(last),
            _ => match index {
                Some(index) => (index > last).then_some(index),
                None => Some(last),
            },
        };
        let Some(last) = last_after else { return Vec::new() };
        let after = |(answer, held)| {
            let mut after = store.clone();
            after.insert(key, (held, last));
            (answer, after)
        };
        outcomes.into_iter().map(after).collect()
    }
}

fn told_index(op: &Op) -> Option<u64> {
    match op.end {
        End::Answered {
            answer: Answer::Done { index } | Answer::Mismatch { index } | Answer::Missing { index },
            ..
        } => index,
        _ => None,
    }
}
