//! Proposals between their proposer and the log.
//!
//! A proposal waits (`parked`) until a leader is known, flies under one term once it was given to
//! that leader, and ends when its entry is published, when it is known never to be, or when its
//! deadline passes. The same key is proposed again only after it was definitely refused, and after
//! a pause (`cooling`): a leader that refuses, or cannot be reached, is not asked in a circle.
//!
//! A barrier is a proposal without a command. The consumer never sees it: when its entry is
//! published it waits here (`barriers`) for the consumer to have come that far.
//!
//! Invariants:
//! - P1 A sequence number is in one of `parked`, `cooling` and `flying`, or its barrier is in
//!   `barriers`, and leaves with exactly one outcome (N8).
//! - P2 A flight of term t whose entry is in the log is published before any entry of a higher
//!   term, because terms never fall along a log. So the first entry of a higher term ends it.
//! - P3 A refusal names the try that it refuses. News of an earlier try says nothing of the one
//!   in flight, whose entry may be in the log: believed, it would be applied twice.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Instant;

use bytes::Bytes;
use wal::defects::{Defect, has};

use crate::channel::{Outcome, Proposal, Refusal, Trace, Unknown, Waiter};
use crate::key::{Attempt, Key};

/// Ticks between a refusal and the next try: half a heartbeat interval.
const COOLING_TICKS: u64 = 5;

/// A proposal that is not in anybody's hands.
struct Parked {
    sequence: u64,
    proposal: Proposal,
    /// Why it was refused last, for the day its deadline passes.
    refusal: Refusal,
    /// The tick from which on it may be tried.
    not_before: u64,
}

/// A proposal that was given to the leader of `term`.
struct Flight {
    term: u64,
    proposal: Proposal,
}

/// All of this member's own proposals.
pub(super) struct Proposals {
    node: u64,
    nonce: u64,
    last_sequence: u64,
    parked: VecDeque<Parked>,
    /// What was refused a moment ago, in the order in which it may be tried again.
    cooling: VecDeque<Parked>,
    flying: HashMap<u64, Flight>,
    /// How many flights there are in each term, to find the superseded without a scan.
    terms: BTreeMap<u64, usize>,
    /// Those of `flying` that are traced and were launched since the log was saved last.
    traced: Vec<u64>,
    /// Barriers that are published, by index, with the term of their entry.
    barriers: BTreeMap<u64, (u64, Proposal)>,
    /// No deadline is earlier than this one.
    next_deadline: Option<Instant>,
}

impl Proposals {
    pub(super) fn new(node: u64, nonce: u64) -> Self {
        Self {
            node,
            nonce,
            last_sequence: 0,
            parked: VecDeque::new(),
            cooling: VecDeque::new(),
            flying: HashMap::new(),
            terms: BTreeMap::new(),
            traced: Vec::new(),
            barriers: BTreeMap::new(),
            next_deadline: None,
        }
    }

    /// Nothing waits for an outcome.
    pub(super) fn is_empty(&self) -> bool {
        self.parked.is_empty()
            && self.cooling.is_empty()
            && self.flying.is_empty()
            && self.barriers.is_empty()
    }

    /// Some barriers wait for the consumer only.
    pub(super) fn await_applied(&self) -> bool {
        !self.barriers.is_empty()
    }

    /// Whether [`launch`](Self::launch) would find one.
    pub(super) fn has_launchable(&self, tick: u64) -> bool {
        !self.parked.is_empty()
            || self.cooling.front().is_some_and(|cooling| cooling.not_before <= tick)
    }

    /// Takes a new proposal in.
    pub(super) fn park(&mut self, proposal: Proposal) {
        let next = self.next_deadline.get_or_insert(proposal.deadline);
        *next = proposal.deadline.min(*next);
        self.last_sequence += 1;
        let sequence = self.last_sequence;
        let refusal = Refusal::NoLeader;
        self.parked.push_back(Parked { sequence, proposal, refusal, not_before: 0 });
    }

    /// Hands the next waiting proposal to the leader of `term`.
    pub(super) fn launch(&mut self, term: u64, tick: u64) -> Option<(Key, Bytes)> {
        let next = match self.cooling.front() {
            Some(ripe) if ripe.not_before <= tick => self.cooling.pop_front(),
            _ => self.parked.pop_front(),
        };
        let Parked { sequence, proposal, .. } = next?;
        let data = proposal.data.clone();
        if proposal.waiter.trace().is_some() {
            self.traced.push(sequence);
        }
        let replaced = self.flying.insert(sequence, Flight { term, proposal });
        assert!(replaced.is_none(), "P1: proposal {sequence} flies twice");
        *self.terms.entry(term).or_default() += 1;
        Some((Key { node: self.node, nonce: self.nonce, sequence }, data))
    }

    /// Raft has what was launched.
    pub(super) fn taken_by_raft(&self) {
        if !self.traced.is_empty() {
            let now = Instant::now();
            self.launched().for_each(|trace| trace.taken(now));
        }
    }

    /// The leader's line has what was launched: more cannot be seen from here until it is
    /// published.
    pub(super) fn forwarded(&mut self) {
        self.taken_by_raft();
        self.traced.clear();
    }

    /// What raft had is in the log on disk, with when that was written and synced.
    pub(super) fn saved(&mut self, last_save: Option<(Instant, Instant)>) {
        if let Some((written, synced)) = last_save {
            self.launched().for_each(|trace| trace.saved(written, synced));
        }
        self.traced.clear();
    }

    fn launched(&self) -> impl Iterator<Item = &Trace> {
        let flights = self.traced.iter().filter_map(|sequence| self.flying.get(sequence));
        flights.filter_map(|flight| flight.proposal.waiter.trace())
    }

    /// The entry with this key is being published: whoever applies it owes the answer.
    pub(super) fn land(&mut self, key: Key) -> Option<Waiter> {
        if has(Defect::FifoAnswers) && self.is_own(key) {
            let oldest = self.flying.keys().min().copied().unwrap_or(key.sequence);
            return self.take(Key { sequence: oldest, ..key }).map(|proposal| proposal.waiter);
        }
        self.take(key).map(|proposal| proposal.waiter)
    }

    /// The entry with this key is being published, and nobody else will see it.
    pub(super) fn land_barrier(&mut self, key: Key, index: u64, term: u64) {
        if let Some(proposal) = self.take(key) {
            self.barriers.insert(index, (term, proposal));
        }
    }

    /// Answers the barriers that `applied` satisfies.
    pub(super) fn applied(&mut self, applied: u64) {
        while let Some(entry) = self.barriers.first_entry().filter(|entry| *entry.key() <= applied)
        {
            let (index, (term, proposal)) = entry.remove_entry();
            proposal.waiter.applied(index, term, ());
        }
    }

    fn take(&mut self, key: Key) -> Option<Proposal> {
        if !self.is_own(key) {
            return None;
        }
        debug_assert!(
            self.parked.iter().chain(&self.cooling).all(|parked| parked.sequence != key.sequence),
            "P1: proposal {} is published after it was refused",
            key.sequence
        );
        self.remove(key.sequence).map(|flight| flight.proposal)
    }

    /// This try is definitely not in the log and never will be. Unless its command can never be
    /// taken, the proposal is tried again until its deadline. News of any other try than the one
    /// in flight is ignored (P3).
    pub(super) fn refused(&mut self, attempt: Attempt, refusal: Refusal, tick: u64) {
        let Attempt { key, term } = attempt;
        let current = self.flying.get(&key.sequence).is_some_and(|flight| flight.term == term);
        if !self.is_own(key) || !current {
            return;
        }
        self.traced.retain(|traced| *traced != key.sequence);
        let Some(flight) = self.remove(key.sequence) else { return };
        if refusal == Refusal::TooLarge {
            flight.proposal.waiter.answer(Outcome::Refused(refusal));
            return;
        }
        let (sequence, proposal) = (key.sequence, flight.proposal);
        let not_before = tick + COOLING_TICKS;
        self.cooling.push_back(Parked { sequence, proposal, refusal, not_before });
    }

    /// An entry of `term` is about to be published: flights of lower terms were refused (P2).
    pub(super) fn supersede(&mut self, term: u64, tick: u64) {
        let term = if has(Defect::RefuseTooEarly) { term + 1 } else { term };
        if self.terms.first_key_value().is_none_or(|(oldest, _)| *oldest >= term) {
            return;
        }
        let mut superseded: Vec<(u64, u64)> = (self.flying.iter())
            .filter(|(_, flight)| flight.term < term)
            .map(|(sequence, flight)| (*sequence, flight.term))
            .collect();
        superseded.sort_unstable();
        for (sequence, term) in superseded {
            let key = Key { node: self.node, nonce: self.nonce, sequence };
            self.refused(Attempt { key, term }, Refusal::Superseded, tick);
        }
    }

    /// Answers everything whose deadline has passed.
    pub(super) fn expire(&mut self, now: Instant) {
        if self.next_deadline.is_none_or(|next| now < next) {
            return;
        }
        let late: Vec<u64> = (self.flying.iter())
            .filter(|(_, flight)| flight.proposal.deadline <= now)
            .map(|(sequence, _)| *sequence)
            .collect();
        for sequence in late {
            if let Some(flight) = self.remove(sequence) {
                flight.proposal.waiter.answer(if has(Defect::DeadlineRefuses) {
                    Outcome::Refused(Refusal::NoLeader)
                } else {
                    Outcome::Unknown(Unknown::Deadline)
                });
            }
        }
        for queue in [&mut self.parked, &mut self.cooling] {
            for parked in std::mem::take(queue) {
                if parked.proposal.deadline <= now {
                    parked.proposal.waiter.answer(Outcome::Refused(parked.refusal));
                } else {
                    queue.push_back(parked);
                }
            }
        }
        for (index, (term, barrier)) in std::mem::take(&mut self.barriers) {
            if barrier.deadline <= now {
                barrier.waiter.answer(Outcome::Unknown(Unknown::Deadline));
            } else {
                self.barriers.insert(index, (term, barrier));
            }
        }
        let idle = self.parked.iter().chain(&self.cooling).map(|parked| &parked.proposal);
        let flying = self.flying.values().map(|flight| &flight.proposal);
        let barriers = self.barriers.values().map(|(_, proposal)| proposal);
        let barriers = barriers.filter(|_| !has(Defect::LateBarriers));
        let left = idle.chain(flying).chain(barriers);
        self.next_deadline = left.map(|proposal| proposal.deadline).min();
    }

    /// A snapshot replaced the part of the log that may hold what is in flight.
    pub(super) fn restored(&mut self) {
        self.terms.clear();
        for (_, flight) in self.flying.drain() {
            flight.proposal.waiter.answer(Outcome::Unknown(Unknown::Restored));
        }
    }

    /// The node takes no new work: what was never given to a leader is refused.
    pub(super) fn refuse_parked(&mut self) {
        for parked in self.parked.drain(..).chain(self.cooling.drain(..)) {
            parked.proposal.waiter.answer(Outcome::Refused(Refusal::ShuttingDown));
        }
    }

    fn is_own(&self, key: Key) -> bool {
        (key.node == self.node && key.nonce == self.nonce) || has(Defect::AnswerByNumber)
    }

    fn remove(&mut self, sequence: u64) -> Option<Flight> {
        let flight = self.flying.remove(&sequence)?;
        if let std::collections::btree_map::Entry::Occupied(mut count) =
            self.terms.entry(flight.term)
        {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
        Some(flight)
    }
}
