//! Reads between their reader and an applied index.
//!
//! All linearizable reads that wait at one moment share one ReadIndex round (Safe mode: thesis
//! 6.4); those that come later wait for the next one. A round's context is never used twice, and
//! only the round in progress is believed: an answer to an older context is ignored.
//!
//! Invariants:
//! - R1 At most one round is outstanding.
//! - R2 A read is answered at index i only when the consumer has applied i, and i was committed
//!   no earlier than the read was asked.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::channel::{Consistency, Read, ReadRequest, Refusal};
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
    /// Reads whose index is known, by that index.
    confirmed: BTreeMap<u64, Vec<ReadRequest>>,
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
            confirmed: BTreeMap::new(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.round.is_none() && self.confirmed.is_empty()
    }

    /// Some reads wait for the consumer only.
    pub(super) fn await_applied(&self) -> bool {
        !self.confirmed.is_empty()
    }

    pub(super) fn push(&mut self, request: ReadRequest) {
        match request.consistency {
            // A consumer that has not reported anything yet has no state to read.
            Consistency::Stale => self.confirm(request, 1),
            Consistency::Linearizable | Consistency::Leader => self.waiting.push(request),
        }
    }

    /// Moves what can be moved; gives the context of a round to ask raft for now.
    pub(super) fn advance(&mut self, view: View, tick: u64) -> Option<Key> {
        if let Some(round) = &self.round {
            let stale = round.term != view.term || round.leader_id != view.leader_id;
            if stale || tick >= round.started + self.round_ticks {
                let round = self.round.take().into_iter();
                let mut again: Vec<_> = round.flat_map(|round| round.requests).collect();
                again.append(&mut self.waiting);
                self.waiting = again;
            }
        }
        if self.waiting.is_empty() {
            return None;
        }
        if self.waiting.iter().any(|read| read.consistency == Consistency::Leader) {
            self.advance_leader_reads(view);
        }
        let can_ask = view.leader_known && (!view.leads || view.committed_in_term);
        let wanted = self.waiting.iter().any(|r| r.consistency == Consistency::Linearizable);
        if self.round.is_some() || !can_ask || !wanted {
            return None;
        }
        self.last_counter += 1;
        let context = Key { node: self.node, nonce: self.nonce, sequence: self.last_counter };
        let (requests, rest) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition(|read| read.consistency == Consistency::Linearizable);
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

    fn advance_leader_reads(&mut self, view: View) {
        for read in std::mem::take(&mut self.waiting) {
            if read.consistency != Consistency::Leader {
                self.waiting.push(read);
            } else if view.leads && view.committed_in_term {
                self.confirm(read, view.commit);
            } else if view.leads || !view.leader_known {
                self.waiting.push(read);
            } else {
                read.answer(Read::Refused(Refusal::NotLeader));
            }
        }
    }

    /// raft confirmed the round with this context at `index`.
    pub(super) fn round_confirmed(&mut self, context: &[u8], index: u64) {
        let current = self.round.as_ref().map(|round| round.context);
        if current.is_none() || Key::decode(context) != current {
            return;
        }
        for read in self.round.take().into_iter().flat_map(|round| round.requests) {
            self.confirm(read, index);
        }
    }

    /// Answers the reads that `applied` satisfies.
    pub(super) fn applied(&mut self, applied: u64) {
        while let Some(entry) = self.confirmed.first_entry() {
            if *entry.key() > applied {
                break;
            }
            let index = *entry.key();
            for read in entry.remove() {
                read.answer(Read::Ready { index });
            }
        }
    }

    /// Answers everything whose deadline has passed.
    pub(super) fn expire(&mut self, now: Instant, leader_known: bool) {
        let why = if leader_known { Refusal::Unavailable } else { Refusal::NoLeader };
        let sift = |reads: &mut Vec<ReadRequest>, why: Refusal| {
            for read in std::mem::take(reads) {
                if read.deadline <= now {
                    read.answer(Read::Refused(why));
                } else {
                    reads.push(read);
                }
            }
        };
        sift(&mut self.waiting, why);
        if let Some(round) = &mut self.round {
            sift(&mut round.requests, why);
        }
        for reads in self.confirmed.values_mut() {
            sift(reads, Refusal::Unavailable);
        }
        self.confirmed.retain(|_, reads| !reads.is_empty());
    }

    /// The node takes no new work, and nobody leads who could confirm anything.
    pub(super) fn refuse_unconfirmed(&mut self) {
        let round = self.round.take().into_iter().flat_map(|round| round.requests);
        for read in self.waiting.drain(..).chain(round) {
            read.answer(Read::Refused(Refusal::ShuttingDown));
        }
    }

    fn confirm(&mut self, read: ReadRequest, index: u64) {
        self.confirmed.entry(index.max(read.min_index)).or_default().push(read);
    }
}
