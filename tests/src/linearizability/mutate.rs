//! Single mutations of valid histories, each of which leaves no explanation.
//!
//! That a mutated history is wrong is argued here, from what is certain: an operation that ended
//! before another was called comes before it; each value is written once, and stands at one index;
//! changes of a key happen in the order of their indexes. So a checker that passes one is wrong.

use super::generate::Run;
use crate::history::{Action, Answer, End, Op};
use crate::rng::Rng;

/// One way in which a store may break its promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutation {
    /// A read finds what had been replaced before it was asked.
    StaleRead,
    /// The store acknowledges a write, goes on without it, and a later read shows that.
    LostWrite,
    /// Two conditional writes on one and the same state both succeed.
    CasTwice,
    /// Two reads, one after the other, got each other's answers.
    SwappedAnswers,
    /// A read finds what nobody wrote there, or what was refused.
    Phantom,
    /// A read that saw an acknowledged write finds nothing, and nobody had removed it.
    Vanished,
    /// A read finds what is only written after it.
    Future,
    /// An answer names another index than it can be.
    WrongIndex,
}

impl Mutation {
    /// All of them.
    pub const ALL: [Mutation; 8] = [
        Mutation::StaleRead,
        Mutation::LostWrite,
        Mutation::CasTwice,
        Mutation::SwappedAnswers,
        Mutation::Phantom,
        Mutation::Vanished,
        Mutation::Future,
        Mutation::WrongIndex,
    ];

    /// The history of this run with one such fault, or `None` when it has no place for it. The run
    /// must tell indexes.
    pub fn apply(self, rng: &mut Rng, run: &Run) -> Option<Vec<Op>> {
        let history = run.history();
        match self {
            Mutation::StaleRead => stale_read(rng, history),
            Mutation::LostWrite => lost_write(rng, run),
            Mutation::CasTwice => cas_twice(rng, history),
            Mutation::SwappedAnswers => swapped_answers(rng, history),
            Mutation::Phantom => phantom(rng, history),
            Mutation::Vanished => vanished(rng, history),
            Mutation::Future => future(rng, history),
            Mutation::WrongIndex => wrong_index(rng, history),
        }
    }
}

/// The index of an acknowledged change.
fn changed_at(op: &Op) -> Option<u64> {
    match op.end {
        End::Answered { answer: Answer::Done { index }, .. } => index,
        _ => None,
    }
}

/// An acknowledged value and its index.
fn stored(op: &Op) -> Option<(u64, u64)> {
    op.written().zip(changed_at(op))
}

/// A value that was found, and where it stands.
fn found(op: &Op) -> Option<(u64, u64)> {
    op.seen().and_then(|(value, at)| Some((value, at?)))
}

fn is_read(op: &Op) -> bool {
    op.action == Action::Get && op.answered_at().is_some()
}

/// Whether this one had ended when the other was called.
fn is_before(op: &Op, other: &Op) -> bool {
    op.answered_at().is_some_and(|at| at < other.call)
}

fn answer(op: &mut Op, told: Answer) {
    if let End::Answered { answer, .. } = &mut op.end {
        *answer = told;
    }
}

/// One of all pairs of places on one key that are so related.
fn pair(rng: &mut Rng, ops: &[Op], is: impl Fn(&Op, &Op) -> bool) -> Option<(usize, usize)> {
    let mut pairs = Vec::new();
    for (a, first) in ops.iter().enumerate() {
        for (b, second) in ops.iter().enumerate() {
            if a != b && first.key == second.key && is(first, second) {
                pairs.push((a, b));
            }
        }
    }
    choose(rng, &pairs)
}

fn choose<T: Copy>(rng: &mut Rng, all: &[T]) -> Option<T> {
    (!all.is_empty()).then(|| all[rng.below(all.len() as u64) as usize])
}

/// The newer change is before the read, and after the older write by their indexes; the older
/// value is not written again.
fn stale_read(rng: &mut Rng, mut ops: Vec<Op>) -> Option<Vec<Op>> {
    let is_replaced = |old: &Op, read: &Op| {
        let Some((_, at)) = stored(old) else { return false };
        is_read(read)
            && ops.iter().any(|newer| {
                newer.key == read.key
                    && changed_at(newer).is_some_and(|index| index > at)
                    && is_before(newer, read)
            })
    };
    let (old, read) = pair(rng, &ops, is_replaced)?;
    let (value, at) = stored(&ops[old])?;
    answer(&mut ops[read], Answer::Found { value, mod_index: Some(at) });
    Some(ops)
}

/// As a stale read, but the whole store is wrong from there on.
fn lost_write(rng: &mut Rng, run: &Run) -> Option<Vec<Op>> {
    let lost = rng.below(run.n_requests() as u64) as usize;
    let ops = run.history_without(Some(lost));
    // The value of a request is its place and one.
    let write = ops.iter().find(|op| op.written() == Some(lost as u64 + 1))?;
    let (_, at) = stored(write)?;
    let shows = |read: &Op| {
        read.key == write.key
            && is_before(write, read)
            && found(read).is_some_and(|(_, older)| older < at)
    };
    ops.iter().any(shows).then_some(ops)
}

/// The first of the two replaced what stood at that index, and nothing stands there again.
fn cas_twice(rng: &mut Rng, mut ops: Vec<Op>) -> Option<Vec<Op>> {
    let condition = |op: &Op| match op.action {
        Action::Cas { expected, .. } if expected > 0 => Some(expected),
        _ => None,
    };
    // An index that nobody was told of could be anybody's.
    let is_known = |at: u64| {
        let at = Some(at);
        ops.iter().any(|op| {
            stored(op).map(|(_, index)| index) == at || found(op).map(|(_, index)| index) == at
        })
    };
    let is_pair = |first: &Op, second: &Op| {
        condition(first).is_some_and(is_known)
            && changed_at(first).is_some()
            && matches!(second.action, Action::Cas { .. })
            && second.answered_at().is_some()
    };
    let (first, second) = pair(rng, &ops, is_pair)?;
    let condition = condition(&ops[first])?;
    if let Action::Cas { expected, .. } = &mut ops[second].action {
        *expected = condition;
    }
    if let End::Answered { answer: Answer::Mismatch { index }, .. } = ops[second].end {
        answer(&mut ops[second], Answer::Done { index });
    }
    Some(ops)
}

/// The earlier read then sees the later write, and the later read the earlier one.
fn swapped_answers(rng: &mut Rng, mut ops: Vec<Op>) -> Option<Vec<Op>> {
    let is_pair = |first: &Op, second: &Op| {
        let indexes = found(first).zip(found(second));
        is_before(first, second) && indexes.is_some_and(|((_, a), (_, b))| a < b)
    };
    let (first, second) = pair(rng, &ops, is_pair)?;
    let ((a, a_at), (b, b_at)) = found(&ops[first]).zip(found(&ops[second]))?;
    answer(&mut ops[first], Answer::Found { value: b, mod_index: Some(b_at) });
    answer(&mut ops[second], Answer::Found { value: a, mod_index: Some(a_at) });
    Some(ops)
}

fn phantom(rng: &mut Rng, mut ops: Vec<Op>) -> Option<Vec<Op>> {
    let reads: Vec<_> = (0..ops.len()).filter(|&place| is_read(&ops[place])).collect();
    let read = choose(rng, &reads)?;
    let key = ops[read].key.clone();
    let elsewhere = ops.iter().filter(|op| op.key != key || op.end == End::Refused);
    let mut values: Vec<_> = elsewhere.filter_map(Op::written).collect();
    values.push(1_000_000);
    let value = choose(rng, &values)?;
    let mod_index = found(&ops[read]).map(|(_, at)| at);
    answer(&mut ops[read], Answer::Found { value, mod_index });
    Some(ops)
}

/// Whatever could have removed it ended before it was written, or was called after the read.
fn vanished(rng: &mut Rng, mut ops: Vec<Op>) -> Option<Vec<Op>> {
    let may_remove = |op: &Op| match op.end {
        End::Refused | End::Answered { answer: Answer::Missing { .. }, .. } => false,
        End::Unknown | End::Answered { .. } => op.action == Action::Delete,
    };
    let is_pair = |write: &Op, read: &Op| {
        let removed = ops.iter().any(|op| {
            op.key == write.key
                && may_remove(op)
                && op.call <= read.answered_at().unwrap_or(u64::MAX)
                && op.answered_at().is_none_or(|at| at >= write.call)
        });
        is_before(write, read)
            && stored(write).is_some()
            && stored(write) == found(read)
            && !removed
    };
    let (_, read) = pair(rng, &ops, is_pair)?;
    answer(&mut ops[read], Answer::Absent);
    Some(ops)
}

fn future(rng: &mut Rng, mut ops: Vec<Op>) -> Option<Vec<Op>> {
    let is_pair = |read: &Op, write: &Op| {
        is_read(read) && is_before(read, write) && write.written().is_some()
    };
    let (read, write) = pair(rng, &ops, is_pair)?;
    let value = ops[write].written()?;
    let mod_index = changed_at(&ops[write]);
    answer(&mut ops[read], Answer::Found { value, mod_index });
    Some(ops)
}

/// Either a read names another index than the write it saw was acknowledged at, or a change one
/// below that of a change that had ended before it was called.
fn wrong_index(rng: &mut Rng, mut ops: Vec<Op>) -> Option<Vec<Op>> {
    if rng.below(2) == 0 {
        let is_pair =
            |write: &Op, read: &Op| stored(write).is_some() && stored(write) == found(read);
        let (_, read) = pair(rng, &ops, is_pair)?;
        let (value, at) = found(&ops[read])?;
        answer(&mut ops[read], Answer::Found { value, mod_index: Some(at + 1 + rng.below(3)) });
    } else {
        let is_pair = |first: &Op, second: &Op| {
            changed_at(first).is_some() && changed_at(second).is_some() && is_before(first, second)
        };
        let (first, second) = pair(rng, &ops, is_pair)?;
        let before = changed_at(&ops[first])?;
        answer(&mut ops[second], Answer::Done { index: Some(1 + rng.below(before)) });
    }
    Some(ops)
}
