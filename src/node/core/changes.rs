//! Membership changes between their caller and the log.
//!
//! A change waits until a leader is known. A follower calls the leader for it, in one hop; the
//! leader judges it, has its URL looked at, and proposes it when nothing else is pending. It ends
//! when it is published, when it is known never to be, or when its deadline passes. The leader
//! promotes learners by the same road.
//!
//! Invariants:
//! - A1 At most one change is proposed and not yet published: raft replaces further ones by
//!   empty entries, in silence (raft.rs:2062).
//! - A2 A committed change does the same on every member: what raft or the book refuses does
//!   nothing, and never ends a node.
//! - A3 raft's configuration and the book agree after every published entry.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Instant;

use protobuf::Message as _;
use raft::StateRole;
use raft::eraftpb::{ConfChange, Entry, EntryType, Message};
use slog::{info, warn};
use wal::defects::{Defect, has};

use super::Core;
use crate::Unknown;
use crate::key::Key;
use crate::membership::{
    Asked, Book, Change, ChangeOptions, ChangeRefusal, ChangeRefusalKind, Changed, Judgement,
    MemberRole, View, Wish, judge, refusal,
};
use crate::transport::{CallResult, ProbeResult};

/// How many changes may wait on this member.
const MAX_WAITING: usize = 64;

/// Ticks between a leader's refusal to lead and the next try.
const COOLING_TICKS: u64 = 10;

/// A learner may vote when it lacks no more than this.
const MAX_LAG_ENTRIES: u64 = 1000;
const MAX_LAG_BYTES: u64 = 4 << 20;

/// And has been seen so this often, a heartbeat apart.
const PROMOTION_CHECKS: u32 = 2;

/// Changes have sequence numbers of their own, apart from those of proposals.
const FIRST_SEQUENCE: u64 = 1 << 63;

/// Takes the outcome to whoever asked; dropped, it says that the outcome is not known.
pub(crate) type Answer = Box<dyn FnOnce(Changed) + Send>;

/// A change, and who waits for it.
pub(crate) struct ChangeRequest {
    pub(crate) wish: Wish,
    pub(crate) options: ChangeOptions,
    pub(crate) deadline: Instant,
    /// Another member asks: it is to ask the next leader itself, should this one not lead.
    pub(crate) is_called: bool,
    pub(crate) answer: Answer,
}

/// What the core wants of the transport.
pub(crate) enum Ask {
    /// Ask the leader for this.
    Call { to: u64, tag: u64, asked: Asked, options: ChangeOptions, deadline: Instant },
    /// Look who answers at this URL.
    Probe { url: String, tag: u64 },
}

struct Waiting {
    request: ChangeRequest,
    /// The tick from which on it may be tried.
    not_before: u64,
    /// The tick at which it is refused if another change is still under way.
    patience: Option<u64>,
    /// Nobody but the member itself answers at its URL.
    is_probed: bool,
}

struct Flying {
    key: Key,
    term: u64,
    /// None: the leader's own idea, or its caller's deadline has passed.
    waiting: Option<Waiting>,
}

#[derive(Default)]
pub(super) struct Changes {
    waiting: VecDeque<Waiting>,
    flying: Option<Flying>,
    called: BTreeMap<u64, Waiting>,
    probed: BTreeMap<u64, Waiting>,
    last_tag: u64,
    last_sequence: u64,
    asks: Vec<Ask>,
    /// How often in a row a learner was seen to have caught up.
    caught_up: BTreeMap<u64, u32>,
}

impl Changes {
    pub(super) fn is_empty(&self) -> bool {
        let flying = self.flying.as_ref().is_some_and(|flying| flying.waiting.is_some());
        self.waiting.is_empty() && self.called.is_empty() && self.probed.is_empty() && !flying
    }

    fn again(&mut self, mut waiting: Waiting, not_before: u64) {
        waiting.not_before = not_before;
        self.waiting.push_back(waiting);
    }

    /// Somebody else leads, or nobody: whatever a change waited for is over.
    pub(super) fn wake(&mut self) {
        self.waiting.iter_mut().for_each(|waiting| waiting.not_before = 0);
    }

    pub(super) fn ask(&mut self, ask: Ask) {
        self.asks.push(ask);
    }

    /// Names a call or a probe, whosever it is.
    pub(super) fn next_tag(&mut self) -> u64 {
        self.last_tag += 1;
        self.last_tag
    }

    /// Answers everything whose deadline has passed.
    pub(super) fn expire(&mut self, now: Instant) {
        let late = |waiting: &Waiting| waiting.request.deadline <= now;
        for waiting in std::mem::take(&mut self.waiting) {
            if late(&waiting) {
                let message = "no leader took the change until the deadline".to_owned();
                waiting.refuse(ChangeRefusalKind::NoLeader, message);
            } else {
                self.waiting.push_back(waiting);
            }
        }
        if let Some(flying) = &mut self.flying
            && let Some(waiting) = flying.waiting.take_if(|waiting| late(waiting))
        {
            (waiting.request.answer)(Changed::Unknown(Unknown::Deadline));
        }
    }

    /// The node takes no new work.
    pub(super) fn refuse_waiting(&mut self) {
        for waiting in self.waiting.drain(..) {
            let message = "the node is shutting down".to_owned();
            waiting.refuse(ChangeRefusalKind::ShuttingDown, message);
        }
    }

    /// A snapshot replaced the log: nobody can say whether the change was in it.
    pub(super) fn restored(&mut self) {
        if let Some(waiting) = self.flying.take().and_then(|flying| flying.waiting) {
            (waiting.request.answer)(Changed::Unknown(Unknown::Restored));
        }
    }

    /// An entry of `term` is about to be published: a change proposed under a lower one, and not
    /// published, never will be.
    pub(super) fn supersede(&mut self, term: u64, tick: u64) {
        if let Some(flying) = self.flying.take_if(|flying| flying.term < term)
            && let Some(waiting) = flying.waiting
        {
            self.again(waiting, tick + COOLING_TICKS);
        }
    }
}

impl Waiting {
    fn refuse(self, kind: ChangeRefusalKind, message: String) {
        (self.request.answer)(Changed::Refused(refusal(kind, message)));
    }

    /// The URL that a new or moved member is said to have.
    fn new_url(&self) -> Option<(u64, &str)> {
        match &self.request.wish {
            Wish::Change(
                Change::Add { id, url, .. } | Change::Update { id, url: Some(url), .. },
            ) => Some((*id, url)),
            // Who asks for itself is there.
            Wish::Change(Change::Update { .. } | Change::Remove { .. }) | Wish::Join { .. } => None,
        }
    }
}

impl Core {
    /// Takes a membership change in; [`finish_turn`](Core::finish_turn) moves it on.
    pub(crate) fn change(&mut self, request: ChangeRequest) {
        let waiting = Waiting { request, not_before: 0, patience: None, is_probed: false };
        let Changes { waiting: queue, called, probed, .. } = &self.changes;
        if queue.len() + called.len() + probed.len() >= MAX_WAITING {
            let message = format!("{MAX_WAITING} membership changes are waiting already");
            waiting.refuse(ChangeRefusalKind::Overloaded, message);
        } else {
            self.changes.waiting.push_back(waiting);
        }
    }

    /// Takes what another member asks for. `is_called`: as in [`ChangeRequest`].
    pub(crate) fn called(
        &mut self,
        asked: Asked,
        options: ChangeOptions,
        deadline: Instant,
        is_called: bool,
        answer: Answer,
    ) {
        match asked {
            Asked::Member(wish) => {
                self.change(ChangeRequest { wish, options, deadline, is_called, answer });
            }
            Asked::Leader { to } => self.transfer_called(to, answer),
        }
    }

    /// What the transport is to find out for the changes that wait.
    pub(crate) fn take_asks(&mut self) -> Vec<Ask> {
        std::mem::take(&mut self.changes.asks)
    }

    /// How a call ended.
    pub(crate) fn answered(&mut self, tag: u64, result: CallResult) {
        let changed = match result {
            CallResult::Answer(bytes) => Changed::decode(&bytes).unwrap_or_else(|what| {
                warn!(self.logger, "the leader's answer to a call {}", what);
                Changed::Unknown(Unknown::Deadline)
            }),
            CallResult::NotSent(why) => Changed::Refused(refusal(ChangeRefusalKind::NoLeader, why)),
            CallResult::Lost(_) => Changed::Unknown(Unknown::Deadline),
        };
        if self.transfer_answered(tag, &changed) {
            return;
        }
        let Some(waiting) = self.changes.called.remove(&tag) else { return };
        match changed {
            Changed::Unknown(_) if has(Defect::RepeatChange) => {
                self.changes.again(waiting, self.ticks + COOLING_TICKS);
            }
            // It does not lead, or cannot be reached: somebody else may.
            Changed::Refused(ChangeRefusal { kind: ChangeRefusalKind::NoLeader, .. }) => {
                self.changes.again(waiting, self.ticks + COOLING_TICKS);
            }
            changed => (waiting.request.answer)(changed),
        }
    }

    /// Who answers at a member's new URL.
    pub(crate) fn probed(&mut self, tag: u64, result: ProbeResult) {
        let Some(mut waiting) = self.changes.probed.remove(&tag) else { return };
        let Some((id, url)) = waiting.new_url() else { return };
        let wrong = match result {
            ProbeResult::Nobody => None,
            ProbeResult::Stranger(what) => Some(format!(
                "{url} answers, but not as a member ({what}); a member's URL is its --cluster one"
            )),
            ProbeResult::Member { cluster, .. } if cluster != self.cluster => {
                Some(format!("{url} is a member of another cluster, {cluster:016x}"))
            }
            ProbeResult::Member { id: other, .. } if other != id => {
                Some(format!("{url} is member {other}, not {id}"))
            }
            ProbeResult::Member { incarnation, .. }
                if self.pins.get(&id).is_some_and(|pin| *pin != incarnation) =>
            {
                Some(format!("{url} has another data directory than member {id}"))
            }
            ProbeResult::Member { .. } => None,
        };
        match wrong {
            Some(message) => waiting.refuse(ChangeRefusalKind::Conflict, message),
            None => {
                waiting.is_probed = true;
                self.changes.waiting.push_front(waiting);
            }
        }
    }

    /// This member was removed. Whoever asked it for just that has it; the answer itself may have
    /// been cut off with everything else.
    pub(crate) fn tell_removed(&mut self) {
        let (id, index, term) = (self.id, self.published, self.published_term);
        let mut book = self.book.clone();
        book.members.remove(&id);
        book.removed.insert(id);
        let called = std::mem::take(&mut self.changes.called).into_values();
        for waiting in std::mem::take(&mut self.changes.waiting).into_iter().chain(called) {
            let changed = match waiting.request.wish {
                Wish::Change(Change::Remove { id: removed }) if removed == id => {
                    Changed::Done { index, term, book: book.clone() }
                }
                _ => Changed::Unknown(Unknown::Stopped),
            };
            (waiting.request.answer)(changed);
        }
    }

    /// Moves the changes that wait.
    pub(super) fn dispatch_changes(&mut self) {
        let leader = self.leader_id();
        if self.leads() {
            while self.dispatch_change() {}
            return;
        }
        for waiting in std::mem::take(&mut self.changes.waiting) {
            if waiting.request.is_called {
                let message = format!("member {} does not lead", self.id);
                waiting.refuse(ChangeRefusalKind::NoLeader, message);
            } else if leader == raft::INVALID_ID || waiting.not_before > self.ticks {
                self.changes.waiting.push_back(waiting);
            } else {
                let tag = self.changes.next_tag();
                let ChangeRequest { wish, options, deadline, .. } = &waiting.request;
                let (asked, options, deadline) = (Asked::Member(wish.clone()), *options, *deadline);
                self.changes.asks.push(Ask::Call { to: leader, tag, asked, options, deadline });
                self.changes.called.insert(tag, waiting);
            }
        }
    }

    /// Whether it has committed in its own term: before that, a change might not build upon the one
    /// before it (Ongaro, raft-dev 2015: the bug in single-server membership changes).
    fn may_change(&self) -> bool {
        self.raw.raft.commit_to_current_term() || has(Defect::EarlyChange)
    }

    /// Moves the change that has waited longest; false when it has to wait on.
    fn dispatch_change(&mut self) -> bool {
        if !self.may_change() {
            return false;
        }
        let is_blocked = self.is_change_pending();
        let (ticks, patience) = (self.ticks, self.ticks + self.election_ticks);
        let Some(front) = self.changes.waiting.front_mut() else { return false };
        if front.not_before > ticks {
            return false;
        }
        let is_late = is_blocked && *front.patience.get_or_insert(patience) <= ticks;
        if is_blocked && !is_late {
            return false;
        }
        let Some(waiting) = self.changes.waiting.pop_front() else { return false };
        if is_late {
            let message = "another membership change is under way; one at a time".to_owned();
            waiting.refuse(ChangeRefusalKind::Pending, message);
            return true;
        }
        let ChangeOptions { force, dry_run } = waiting.request.options;
        let (index, term) = (self.published, self.published_term);
        match self.judge(&waiting.request.wish, force) {
            Judgement::Refuse(refusal) => (waiting.request.answer)(Changed::Refused(refusal)),
            Judgement::Nothing => {
                let book = self.book.clone();
                (waiting.request.answer)(Changed::Done { index, term, book });
            }
            Judgement::Make { .. } | Judgement::HandOver { .. }
                if !waiting.is_probed && waiting.new_url().is_some() =>
            {
                let tag = self.changes.next_tag();
                let url = waiting.new_url().map(|(_, url)| url.to_owned()).unwrap_or_default();
                self.changes.asks.push(Ask::Probe { url, tag });
                self.changes.probed.insert(tag, waiting);
            }
            Judgement::Make { book, .. } | Judgement::HandOver { book } if dry_run => {
                (waiting.request.answer)(Changed::Done { index, term, book });
            }
            Judgement::Make { change, .. } => self.propose_change(&change, Some(waiting)),
            Judgement::HandOver { .. } => match self.hand_over(None) {
                Some(to) => {
                    info!(self.logger, "handing leadership over: this member is to be removed or \
                        demoted"; "to" => to);
                    self.changes.again(waiting, ticks + self.election_ticks);
                    return false;
                }
                None => {
                    let message = "no other live voter could lead".to_owned();
                    waiting.refuse(ChangeRefusalKind::Unsafe, message);
                }
            },
        }
        true
    }

    fn judge(&self, wish: &Wish, force: bool) -> Judgement {
        let caught_up: BTreeSet<u64> = (self.changes.caught_up.iter())
            .filter(|(_, checks)| **checks >= PROMOTION_CHECKS)
            .map(|(id, _)| *id)
            .collect();
        let live = self.live();
        let (caught_up, live, pins) = (&caught_up, &live, &self.pins);
        judge(wish, &self.book, &View { id: self.id, live, pins, caught_up, force })
    }

    fn is_change_pending(&self) -> bool {
        let is_pending = self.changes.flying.is_some() || self.raw.raft.has_pending_conf();
        is_pending && !has(Defect::TwoChanges)
    }

    fn propose_change(&mut self, change: &ConfChange, waiting: Option<Waiting>) {
        let term = self.raw.raft.term;
        self.changes.last_sequence += 1;
        let sequence = FIRST_SEQUENCE + self.changes.last_sequence;
        let key = Key { node: self.id, nonce: self.nonce, sequence };
        let data = change.write_to_bytes().expect("a change is encoded in memory");
        let mut entry = Entry { data: data.into(), ..Entry::default() };
        entry.set_entry_type(EntryType::EntryConfChange);
        entry.context = key.encode().to_vec().into();
        let mut message = Message { from: self.id, ..Message::default() };
        message.set_msg_type(raft::eraftpb::MessageType::MsgPropose);
        message.set_entries(vec![entry].into());
        if self.raw.step(message).is_ok() {
            self.changes.flying = Some(Flying { key, term, waiting });
        } else if let Some(waiting) = waiting {
            // Leadership is being handed over, or too much is uncommitted.
            self.changes.again(waiting, self.ticks + COOLING_TICKS);
        }
    }

    /// Proposes what no leader's judgement would let through.
    #[cfg(test)]
    pub(crate) fn propose_unjudged(&mut self, change: &ConfChange) {
        self.propose_change(change, None);
    }

    /// Applies a committed change, which has just been published.
    pub(super) fn publish_change(&mut self, entry: &Entry) {
        let result = self.apply_change(entry);
        let own = Key::decode(&entry.context);
        let landed = self.changes.flying.take_if(|flying| Some(flying.key) == own);
        let (index, term) = (entry.index, entry.term);
        let changed = match result {
            Ok(()) => Changed::Done { index, term, book: self.book.clone() },
            Err(message) => {
                warn!(self.logger, "a membership change does nothing"; "index" => index,
                    "why" => &message);
                Changed::Refused(refusal(ChangeRefusalKind::Conflict, message))
            }
        };
        if let Some(waiting) = landed.and_then(|flying| flying.waiting) {
            (waiting.request.answer)(changed);
        }
    }

    fn apply_change(&mut self, entry: &Entry) -> Result<(), String> {
        if entry.get_entry_type() != EntryType::EntryConfChange {
            return Err("it is of a kind that this program never proposes".into());
        }
        let change = ConfChange::parse_from_bytes(&entry.data).map_err(|e| e.to_string())?;
        let book = self.book.after(&change)?;
        self.raw.apply_conf_change(&change).map_err(|error| error.to_string())?;
        let id = change.node_id;
        match book.members.get(&id) {
            Some(member) => {
                info!(self.logger, "membership"; "index" => entry.index, "member" => id,
                    "role" => member.role.name(), "wants" => member.wants.name(),
                    "url" => &member.url);
            }
            None => {
                info!(self.logger, "membership"; "index" => entry.index, "removed" => id);
                self.heard.remove(&id);
            }
        }
        self.set_book(book, entry.index);
        // raft leaves this to us (raft.rs:2719): a leader outside of its configuration blocks
        // elections, and panics at the next acknowledgement.
        let is_voter = self.book.voters().any(|voter| voter == self.id);
        let stays = is_voter || has(Defect::NoStepDown);
        if self.raw.raft.state == StateRole::Leader && !stays {
            let term = self.raw.raft.term;
            self.raw.raft.become_follower(term, raft::INVALID_ID);
            self.pin_election_timeout();
        }
        Ok(())
    }

    /// A new book rules, and raft knows (A3).
    pub(super) fn set_book(&mut self, book: Book, index: u64) {
        let conf_state = self.raw.raft.prs().conf().to_conf_state();
        let sorted = |ids: &[u64]| ids.iter().copied().collect::<BTreeSet<u64>>();
        assert!(
            book.voters().eq(sorted(&conf_state.voters))
                && book.learners().eq(sorted(&conf_state.learners)),
            "A3: raft's configuration {conf_state:?} is not that of {book:?}"
        );
        (self.book, self.book_index) = (book, index);
        self.book_version += 1;
    }

    /// The members heard of within an election timeout, this one among them.
    pub(super) fn live(&self) -> BTreeSet<u64> {
        let since = self.ticks.saturating_sub(self.election_ticks);
        let heard = self.heard.iter().filter(|(_, tick)| **tick >= since).map(|(id, _)| *id);
        heard.chain([self.id]).collect()
    }

    /// Looks at the learners that want to vote, once a heartbeat, and promotes one that may.
    pub(super) fn promote(&mut self) {
        if !self.leads() {
            self.changes.caught_up.clear();
            return;
        }
        let live = self.live();
        let wanting: Vec<u64> = (self.book.members.iter())
            .filter(|(_, m)| m.role == MemberRole::Learner)
            .map(|(id, _)| *id)
            .collect();
        self.changes.caught_up.retain(|id, _| wanting.contains(id));
        for id in &wanting {
            if live.contains(id) && self.has_caught_up(*id) {
                *self.changes.caught_up.entry(*id).or_default() += 1;
            } else {
                self.changes.caught_up.remove(id);
            }
        }
        if self.is_change_pending() || !self.may_change() {
            return;
        }
        for id in wanting {
            let (wants, checks) =
                (self.book.members[&id].wants, self.changes.caught_up.get(&id).copied());
            if wants != MemberRole::Voter || checks.is_none_or(|n| n < PROMOTION_CHECKS) {
                continue;
            }
            let wants = Some(MemberRole::Voter);
            let wish = Wish::Change(Change::Update { id, wants, url: None });
            if let Judgement::Make { change, .. } = self.judge(&wish, false) {
                info!(self.logger, "promoting a learner that has caught up"; "member" => id);
                self.propose_change(&change, None);
                return;
            }
        }
    }

    fn has_caught_up(&self, id: u64) -> bool {
        let raft = &self.raw.raft;
        let Some(progress) = raft.prs().get(id) else { return false };
        if has(Defect::BlindPromotion) {
            return true;
        }
        let lag = raft.raft_log.last_index().saturating_sub(progress.matched);
        let bytes = raft.store().bytes_after(progress.matched);
        // Where nothing is written, nothing moves a peer that has everything out of Probe.
        (progress.state == raft::ProgressState::Replicate || lag == 0)
            && progress.matched > 0
            && lag <= MAX_LAG_ENTRIES
            && bytes.is_some_and(|bytes| bytes <= MAX_LAG_BYTES)
    }
}
