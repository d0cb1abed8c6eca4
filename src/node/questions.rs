//! ReadIndex questions of other members, on the one that leads.
//!
//! raft-rs answers a question when a quorum has echoed its context, and every question before it
//! in its queue along with it (read_only.rs:113). A context that comes twice could so be confirmed
//! by the echoes of its first time, and take with it a question that was asked after those: a
//! reader would see a state from before its own write (etcd issue 20418). Whoever asks never uses
//! a context twice; this side believes it of nobody.
//!
//! Invariants:
//! - Q1 In one term, of one life of a member, only a context that is higher than all before it
//!   reaches raft.
//! - Q2 A leader that has not committed in its term keeps the newest question of each member, and
//!   asks it of itself once it has: raft would drop it without a word (raft.rs:2105).

use std::collections::{BTreeMap, VecDeque};

use raft::eraftpb::Message;

use crate::key::Key;

/// How many lives of one member are remembered in a term. What is still under way of a process
/// that ended, and that so many of its successors followed, has nobody to mislead.
const MAX_LIVES: usize = 4;

/// The highest counter of a life.
struct Life {
    nonce: u64,
    highest: u64,
}

/// What other members have asked in this term.
#[derive(Default)]
pub(super) struct Questions {
    term: u64,
    lives: BTreeMap<u64, VecDeque<Life>>,
    held: BTreeMap<u64, Message>,
}

impl Questions {
    /// Whether raft may see this context (Q1). Bounded by the members: others are not let in.
    pub(super) fn admit(&mut self, term: u64, from: u64, context: Key) -> bool {
        self.enter(term);
        if context.node != from {
            return false;
        }
        let lives = self.lives.entry(from).or_default();
        if let Some(life) = lives.iter_mut().find(|life| life.nonce == context.nonce) {
            let is_higher = context.sequence > life.highest;
            life.highest = life.highest.max(context.sequence);
            return is_higher;
        }
        if lives.len() == MAX_LIVES {
            lives.pop_front();
        }
        lives.push_back(Life { nonce: context.nonce, highest: context.sequence });
        true
    }

    /// Keeps a question until this leader can answer any (Q2).
    pub(super) fn hold(&mut self, term: u64, question: Message) {
        self.enter(term);
        self.held.insert(question.from, question);
    }

    /// What was kept, once.
    pub(super) fn take_held(&mut self, term: u64) -> impl Iterator<Item = Message> + use<> {
        self.enter(term);
        std::mem::take(&mut self.held).into_values()
    }

    pub(super) fn has_held(&self) -> bool {
        !self.held.is_empty()
    }

    fn enter(&mut self, term: u64) {
        if self.term != term {
            *self = Self { term, ..Self::default() };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(node: u64, nonce: u64, sequence: u64) -> Key {
        Key { node, nonce, sequence }
    }

    /// Q1, row by row: duplicates and falling counters are refused, per member, life and term.
    #[test]
    fn a_context_is_admitted_once() {
        let mut questions = Questions::default();
        let table = [
            (1, 2, context(2, 7, 5), true, "the first"),
            (1, 2, context(2, 7, 5), false, "a duplicate"),
            (1, 2, context(2, 7, 4), false, "a falling counter"),
            (1, 2, context(2, 7, 9), true, "a higher one, with a gap"),
            (1, 3, context(3, 7, 5), true, "another member's"),
            (1, 3, context(2, 7, 10), false, "in another's name"),
            (1, 2, context(2, 8, 1), true, "another life's"),
            (1, 2, context(2, 7, 9), false, "a duplicate of the life before"),
            (2, 2, context(2, 8, 1), true, "in another term"),
            (2, 2, context(2, 8, 1), false, "and again"),
        ];
        for (term, from, context, expected, why) in table {
            assert_eq!(questions.admit(term, from, context), expected, "{why}");
        }
    }

    /// A member that restarts for ever costs no more memory than one that does not.
    #[test]
    fn lives_are_bounded() {
        let mut questions = Questions::default();
        for nonce in 0..1_000 {
            assert!(questions.admit(1, 2, context(2, nonce, 1)));
            assert!(!questions.admit(1, 2, context(2, nonce, 1)));
        }
        assert_eq!(questions.lives[&2].len(), MAX_LIVES);
    }

    /// Q2: what is held is the newest of each member, and of this term only.
    #[test]
    fn held_questions_are_the_newest_of_their_term() {
        let question = |from, index| Message { from, index, ..Message::default() };
        let mut questions = Questions::default();
        questions.hold(1, question(2, 1));
        questions.hold(1, question(2, 2));
        questions.hold(1, question(3, 3));
        let held: Vec<u64> = questions.take_held(1).map(|question| question.index).collect();
        assert_eq!(held, [2, 3]);
        assert!(!questions.has_held());
        questions.hold(1, question(2, 1));
        assert_eq!(questions.take_held(2).count(), 0);
    }
}
