//! Reads between their reader and an applied index.
//!
//! All linearizable reads that wait at one moment share one ReadIndex round (Safe mode: thesis
//! 6.4); those that come later wait for the next one, and do not wake the loop for it. A round's
//! context is never used twice, and only the round in progress is believed: an answer to an older
//! context is ignored.
//!
//! raft drops some questions without a word. Where its counters show that, the round is asked
//! again at the next tick; where the line to the leader broke, or somebody else leads, at once;
//! otherwise after a while.
//!
//! Invariants:
//! - R1 At most one round is outstanding.
//! - R2 A read is answered at index i only when the consumer has applied i, and i was committed
//!   no earlier than the read was asked.

use std::collections::BTreeMap;
use std::time::Instant;

use wal::defects::{Defect, has};

use crate::channel::{Consistency, Purpose, ReadRequest, Refusal};
use crate::key::Key;

/// What the reads need to know of raft.
#[derive(Debug, Clone, Copy)]
pub(super) struct View {
    pub(super) leads: bool,
    pub(super) leader_known: bool,
    pub(super) leader_id: u64,
    pub(super) term: u64,
    pub(super) commit: u64,
    /// A leader without a committed entry of its term does not know yet what is committed.
    pub(super) committed_in_term: bool,
}

struct Round {
    context: Key,
    term: u64,
    leader_id: u64,
    started: u64,
    requests: Vec<ReadRequest>,
}

pub(super) struct Reads {
    node: u64,
    nonce: u64,
    last_counter: u64,
    round_ticks: u64,
    waiting: Vec<ReadRequest>,
    round: Option<Round>,
    /// Before this tick no round is begun: raft dropped the last one.
    not_before: u64,
    /// Reads whose index is known, by that index.
    confirmed: BTreeMap<u64, Vec<ReadRequest>>,
    /// No deadline is earlier than this one.
    next_deadline: Option<Instant>,
}

impl Reads {
    /// `round_ticks`: after so many ticks without an answer a round is asked again, with another
    /// context. raft drops some questions silently.
    pub(super) fn new(node: u64, nonce: u64, round_ticks: u64) -> Self {
        Self {
            node,
            nonce,
            last_counter: 0,
            round_ticks,
            waiting: Vec::new(),
            round: None,
            not_before: 0,
            confirmed: BTreeMap::new(),
            next_deadline: None,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.round.is_none() && self.confirmed.is_empty()
    }

    /// The number of the round that is on its way for one reader alone. Where many wait the processor
    /// has more to do meanwhile than to look out for its end.
    pub(super) fn lone_round(&self) -> Option<u64> {
        let round = self.round.as_ref().filter(|round| round.requests.len() == 1);
        round.map(|round| round.context.sequence)
    }

    /// Whether a round is under way, for which those that come now would have to wait.
    pub(super) fn has_round(&self) -> bool {
        self.round.is_some()
    }

    /// Some reads wait for the consumer only.
    pub(super) fn await_applied(&self) -> bool {
        !self.confirmed.is_empty()
    }

    pub(super) fn push(&mut self, request: ReadRequest) {
        let next = self.next_deadline.get_or_insert(request.deadline);
        *next = request.deadline.min(*next);
        match request.purpose() {
            // A consumer that has not reported anything yet has no state to read.
            Purpose::Read(Consistency::Stale) => self.confirm(request, 1),
            Purpose::Read(_) if has(Defect::LocalReads) => self.confirm(request, 1),
            _ => self.waiting.push(request),
        }
    }

    /// raft did not take the question that [`advance`](Self::advance) gave last: it is asked
    /// again at the next tick.
    pub(super) fn round_dropped(&mut self, tick: u64) {
        self.not_before = tick + 1;
        self.abandon_round();
    }

    /// The line to this member broke: if it leads, the question or its answer may be lost.
    pub(super) fn unreachable(&mut self, peer: u64) {
        if self.round.as_ref().is_some_and(|round| round.leader_id == peer) {
            self.abandon_round();
        }
    }

    /// What waits for the round waits for the next one.
    fn abandon_round(&mut self) {
        let round = self.round.take().into_iter();
        let mut again: Vec<_> = round.flat_map(|round| round.requests).collect();
        again.append(&mut self.waiting);
        self.waiting = again;
    }

    /// Moves what can be moved; gives the context of a round to ask raft for now.
    pub(super) fn advance(&mut self, view: View, tick: u64) -> Option<Key> {
        if let Some(round) = &self.round {
            let stale = round.term != view.term || round.leader_id != view.leader_id;
            if stale || tick >= round.started + self.round_ticks {
                self.abandon_round();
            }
        }
        if self.waiting.is_empty() {
            return None;
        }
        let linearizable = Purpose::Read(Consistency::Linearizable);
        if self.waiting.iter().any(|read| read.purpose() != linearizable) {
            self.advance_leader_reads(view);
        }
        let can_ask = view.leader_known && (!view.leads || view.committed_in_term);
        let wanted = self.waiting.iter().any(ReadRequest::needs_round);
        if self.round.is_some() || !can_ask || !wanted || tick < self.not_before {
            return None;
        }
        self.last_counter = if has(Defect::ReusedContexts) { 1 } else { self.last_counter + 1 };
        let context = Key { node: self.node, nonce: self.nonce, sequence: self.last_counter };
        let (requests, rest) =
            std::mem::take(&mut self.waiting).into_iter().partition(ReadRequest::needs_round);
        self.waiting = rest;
        self.round = Some(Round {
            context,
            term: view.term,
            leader_id: view.leader_id,
            started: tick,
            requests,
        });
        Some(context)
    }

    /// Answers those that only a leader can, as far as it is known who leads. A leader's own
    /// reads wait for its first commit, as everyone's do; who wants to know whether this member
    /// leads also needs a round.
    fn advance_leader_reads(&mut self, view: View) {
        for read in std::mem::take(&mut self.waiting) {
            match read.purpose() {
                Purpose::Read(Consistency::Leader)
                    if view.leads && (view.committed_in_term || has(Defect::EarlyLeaderReads)) =>
                {
                    self.confirm(read, view.commit);
                }
                Purpose::Read(Consistency::Leader) if !view.leads && view.leader_known => {
                    read.refuse(Refusal::NotLeader);
                }
                Purpose::Verify if !view.leads => read.refuse(Refusal::NotLeader),
                _ => self.waiting.push(read),
            }
        }
    }

    /// raft confirmed the round with this context at `index`.
    pub(super) fn round_confirmed(&mut self, context: &[u8], index: u64) {
        let current = self.round.as_ref().map(|round| round.context);
        if current.is_none() || Key::decode(context) != current {
            return;
        }
        let Some(round) = self.round.take() else { return };
        for read in round.requests {
            match read.purpose() {
                Purpose::Read(_) => self.confirm(read, index),
                Purpose::Verify => read.verified(round.term),
            }
        }
    }

    /// Answers the reads that `applied` satisfies.
    pub(super) fn applied(&mut self, applied: u64) {
        while let Some(entry) = self.confirmed.first_entry() {
            if *entry.key() > applied && !has(Defect::UnappliedReads) {
                break;
            }
            let index = *entry.key();
            for read in entry.remove() {
                read.ready(index);
            }
        }
    }

    /// Answers everything whose deadline has passed.
    pub(super) fn expire(&mut self, now: Instant, leader_known: bool) {
        if self.next_deadline.is_none_or(|next| now < next) {
            return;
        }
        let why = if leader_known { Refusal::Unavailable } else { Refusal::NoLeader };
        let mut next: Option<Instant> = None;
        let mut sift = |reads: &mut Vec<ReadRequest>, why: Refusal| {
            for read in std::mem::take(reads) {
                if read.deadline <= now {
                    read.refuse(why);
                } else {
                    next = Some(next.map_or(read.deadline, |next| next.min(read.deadline)));
                    reads.push(read);
                }
            }
        };
        sift(&mut self.waiting, why);
        if let Some(round) = &mut self.round {
            sift(&mut round.requests, why);
        }
        for reads in self.confirmed.values_mut().filter(|_| !has(Defect::LateReads)) {
            sift(reads, Refusal::Unavailable);
        }
        self.confirmed.retain(|_, reads| !reads.is_empty());
        self.next_deadline = next;
    }

    /// The node takes no new work, and nobody leads who could confirm anything.
    pub(super) fn refuse_unconfirmed(&mut self) {
        let round = self.round.take().into_iter().flat_map(|round| round.requests);
        for read in self.waiting.drain(..).chain(round) {
            read.refuse(Refusal::ShuttingDown);
        }
    }

    fn confirm(&mut self, read: ReadRequest, index: u64) {
        let min_index = if has(Defect::LostMinIndex) { 0 } else { read.min_index };
        self.confirmed.entry(index.max(min_index)).or_default().push(read);
    }
}
