//! raft, its storage and everything that waits for them, stepped by hand: no thread, no clock,
//! no socket. The loop in [`super`] feeds it; tests feed it too.
//!
//! Refuses to block and to act by the time of day; it only measures what it did. Messages leave
//! through the `send` argument, in the order that durability allows (N2); commits leave through
//! `outgoing`, in log order (N3).

mod changes;
mod election;
mod founding;
mod pace;
mod publish;
mod reading;
mod saving;
mod show;
mod snapshots;
mod transfers;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use raft::eraftpb::{Entry, HardState, Message, MessageType};
use raft::{RawNode, ReadOnlyOption, ReadState, SoftState, StateRole};
use slog::{Logger, debug, error, info, warn};
use wal::defects::{Defect, has};
use wal::fs::Fs;

use self::changes::Changes;
pub(crate) use self::changes::{Answer, Ask, ChangeRequest};
use self::election::ElectionTimer;
use self::founding::Founding;
pub(crate) use self::pace::PATIENCE;
use self::pace::Pace;
use self::saving::Saving;
pub use self::show::{MAX_LAG_BYTES, MAX_LAG_ENTRIES};
use self::snapshots::Snapshots;
pub(crate) use self::snapshots::{Done, Kept, Sending, Task, sync_written, write_captured};
use self::transfers::Transfers;
use super::proposals::Proposals;
use super::questions::Questions;
use super::reads::Reads;
use crate::channel::{AppliedCell, Captured, Commit, Proposal, ReadRequest, Refusal, Restore};
use crate::config::HEARTBEAT_TICKS;
use crate::key::{Attempt, Key};
use crate::membership::{Book, MemberRole};
use crate::metrics::Metrics;
use crate::status::{Role, Space};
use crate::storage::{ENTRY_OVERHEAD, Storage};
use crate::transport::{Frame, VerdictKind};
use crate::vet::{self, Loss, Verdict, vet};
use crate::{Config, Error};

/// One message to raft proposes at most this much: what one append carries.
const PROPOSE_BYTES: u64 = MAX_SIZE_PER_MESSAGE;

/// An append carries about this many bytes of entries (raft's own bound counts them nearly so).
const MAX_SIZE_PER_MESSAGE: u64 = 1 << 20;
/// How many appends may be under way to one peer.
pub(crate) const MAX_INFLIGHT_MESSAGES: usize = 16;
/// Entries that a leader has accepted and not yet committed.
const MAX_UNCOMMITTED_BYTES: u64 = 16 << 20;
/// What one Ready hands over of the committed log.
const MAX_COMMITTED_BYTES: u64 = 4 << 20;

/// Where messages go: to a member, without waiting.
pub(crate) type Send<'a> = &'a mut dyn FnMut(u64, Frame);
/// Who gives the consumer what there is for it ([`Core::next_commit`]), without waiting.
pub(crate) type Deliver<'a> = &'a mut dyn FnMut(&mut Core) -> Result<(), Error>;

/// For how many election timeouts nothing more is said of messages that are dropped for one reason.
const DROP_LOG_TIMEOUTS: u64 = 10;

/// The messages that were dropped for one reason.
#[derive(Default)]
struct Dropped {
    count: u64,
    /// The tick before which no more of them are logged.
    quiet_until: u64,
}

/// A proposal that another member forwarded, until the end of the batch.
struct Forwarded {
    from: u64,
    term: u64,
    key: Key,
    data: Bytes,
}

pub(crate) struct Core {
    id: u64,
    cluster: u64,
    nonce: u64,
    raw: RawNode<Storage>,
    book: Book,
    /// Grows whenever the book changes.
    book_version: u64,
    /// Where in the log the book became what it is.
    book_index: u64,
    /// The data directories that have met this one, by id.
    pins: BTreeMap<u64, u128>,
    /// The tick at which each member was last heard.
    heard: BTreeMap<u64, u64>,
    /// The tick at which a leader was last heard, this member included.
    heard_leader: Option<u64>,
    changes: Changes,
    transfers: Transfers,
    snapshots: Snapshots,
    founding: Option<Founding>,
    /// The last index put on `outgoing`; the loop's one cursor.
    published: u64,
    published_term: u64,
    /// The last index that raft handed out; beyond `published` where there was no room.
    handed: u64,
    outgoing: VecDeque<Commit>,
    outgoing_bytes: u64,
    proposals: Proposals,
    forwarded: Vec<Forwarded>,
    pace: Pace,
    saving: Saving,
    reads: Reads,
    questions: Questions,
    applied: Arc<AppliedCell>,
    space: Arc<Space>,
    /// What was committed when this process started: readiness waits for it.
    commit_at_start: u64,
    ticks: u64,
    /// How long a tick takes, for those who want it in seconds.
    tick: Duration,
    election_ticks: u64,
    election: ElectionTimer,
    max_entry_bytes: u64,
    /// The states of the last Ready, to see whether anything but committed entries is new.
    last_soft: SoftState,
    last_hard: HardState,
    dropped: BTreeMap<&'static str, Dropped>,
    /// Who was found to have lost acknowledged data, by this process.
    lost_members: BTreeSet<u64>,
    /// Those of them that the transport has not been told of.
    distrusted: Vec<(u64, String)>,
    metrics: Metrics,
    logger: Logger,
}

/// What a new core is made of.
pub(crate) struct Parts {
    pub(crate) fs: Arc<dyn Fs>,
    pub(crate) kept: Vec<Kept>,
    pub(crate) storage: Storage,
    pub(crate) cluster: u64,
    pub(crate) book: Book,
    pub(crate) pins: BTreeMap<u64, u128>,
    pub(crate) restore: Restore,
    /// Where captured states go.
    pub(crate) captured: crossbeam_channel::Sender<Captured>,
    /// Where batches go that another thread is to sync.
    pub(crate) syncs: crossbeam_channel::Sender<wal::Written>,
    pub(crate) metrics: Metrics,
    pub(crate) applied: Arc<AppliedCell>,
    pub(crate) space: Arc<Space>,
    pub(crate) nonce: u64,
    pub(crate) seed: u64,
}

impl Core {
    /// # Errors
    ///
    /// raft refuses the configuration or what it finds in the storage.
    pub(crate) fn new(config: &Config, parts: Parts, logger: &Logger) -> Result<Self, Error> {
        let Parts { mut storage, cluster, book, pins, restore, applied, nonce, seed, .. } = parts;
        let snapshots = Snapshots::new(parts.fs, config.snapshots, parts.kept, parts.captured);
        let election_tick = config.election_ticks();
        use ReadOnlyOption::{LeaseBased, Safe};
        let raft_config = raft::Config {
            id: config.id,
            election_tick,
            heartbeat_tick: HEARTBEAT_TICKS as usize,
            min_election_tick: election_tick + 1,
            max_election_tick: election_tick * 3 / 2,
            applied: storage.snapshot_index(),
            max_size_per_msg: MAX_SIZE_PER_MESSAGE,
            max_inflight_msgs: MAX_INFLIGHT_MESSAGES,
            check_quorum: true,
            pre_vote: true,
            // Its batching knows no bound: a Ready's appends to one peer would become one message
            // that no frame can carry (raft.rs:744). propose_batches has batched already.
            batch_append: false,
            // Told by the next append, or by ourselves: see `pace`.
            skip_bcast_commit: true,
            max_uncommitted_size: MAX_UNCOMMITTED_BYTES,
            max_committed_size_per_ready: MAX_COMMITTED_BYTES,
            read_only_option: if has(Defect::LeaseReads) { LeaseBased } else { Safe },
            ..raft::Config::default()
        };
        storage.measure(parts.metrics.clone());
        let commit_at_start = storage.hard_state().commit;
        let founding = Founding::needed(config.id, &storage, &book);
        let raw = RawNode::new(&raft_config, storage, logger)
            .map_err(|error| Error::Invariant(format!("raft refuses to start: {error}")))?;
        let mut core = Self {
            id: config.id,
            cluster,
            nonce,
            book_version: 0,
            book_index: restore.index,
            pins,
            heard: BTreeMap::new(),
            heard_leader: None,
            changes: Changes::default(),
            transfers: Transfers::default(),
            snapshots,
            founding,
            last_soft: raw.raft.soft_state(),
            last_hard: raw.raft.hard_state(),
            book,
            published: restore.index,
            published_term: restore.term,
            handed: restore.index,
            outgoing: VecDeque::from([Commit::Restore(restore)]),
            outgoing_bytes: 0,
            proposals: Proposals::new(config.id, nonce),
            forwarded: Vec::new(),
            pace: Pace::default(),
            saving: Saving::new(parts.syncs),
            reads: Reads::new(config.id, nonce, (election_tick / 2) as u64),
            questions: Questions::default(),
            applied,
            space: parts.space,
            commit_at_start,
            ticks: 0,
            tick: config.tick(),
            election_ticks: election_tick as u64,
            election: ElectionTimer::new(seed, election_tick),
            max_entry_bytes: config.max_entry_bytes,
            dropped: BTreeMap::new(),
            lost_members: BTreeSet::new(),
            distrusted: Vec::new(),
            metrics: parts.metrics,
            raw,
            logger: logger.clone(),
        };
        core.pin_election_timeout();
        // Nobody else could lead: waiting for a timeout would only cost its users a second.
        if core.book.voters().eq([core.id]) {
            core.raw.campaign().map_err(|error| Error::Invariant(error.to_string()))?;
        }
        // By a policy that may be a new one.
        core.release()?;
        Ok(core)
    }

    pub(crate) fn leads(&self) -> bool {
        self.raw.raft.state == StateRole::Leader
    }

    pub(crate) fn leader_id(&self) -> u64 {
        self.raw.raft.leader_id
    }

    pub(crate) fn book(&self) -> &Book {
        &self.book
    }

    /// Everything that was committed when this process started is published: the book is no older
    /// than it was then.
    pub(crate) fn has_replayed(&self) -> bool {
        self.published >= self.commit_at_start
    }

    /// What the log has synced: the hard state, and the last index.
    #[cfg(feature = "simulation")]
    pub(crate) fn durable(&self) -> (HardState, u64) {
        let (saved, last_index) = self.raw.store().durable();
        let hard = HardState {
            term: saved.term,
            vote: saved.vote,
            commit: saved.commit,
            ..HardState::default()
        };
        (hard, last_index)
    }

    #[cfg(feature = "simulation")]
    pub(crate) fn cursors(&self) -> crate::sim::Cursors {
        let (raft, store) = (&self.raw.raft, self.raw.store());
        let (durable, durable_last) = self.durable();
        self.check_outgoing();
        crate::sim::Cursors {
            term: raft.term,
            vote: raft.vote,
            commit: raft.raft_log.committed,
            published: self.published,
            applied: self.applied.index.load(std::sync::atomic::Ordering::SeqCst),
            last_index: raft.raft_log.last_index(),
            last_term: raft.raft_log.last_term(),
            first_index: raft.raft_log.first_index(),
            snapshot_index: store.snapshot_index(),
            snapshot_term: store.snapshot_term(),
            older_snapshot: self.snapshots.before_newest(),
            role: role_of(raft.state),
            leader: raft.leader_id,
            book_version: self.book_version,
            book_index: self.book_index,
            shut_out: 0,
            durable_term: durable.term,
            durable_vote: durable.vote,
            durable_commit: durable.commit,
            durable_last,
        }
    }

    /// Gives it a `divisor`th of the room that a member has.
    #[cfg(feature = "simulation")]
    pub(crate) fn shrink_bounds(&mut self, divisor: u64) {
        self.raw.mut_store().shrink_bounds(divisor);
    }

    /// The term of an entry that raft has, in memory or on disk, while raft's own term is this one:
    /// then the entry is the one that this term's leader has there.
    #[cfg(feature = "simulation")]
    pub(crate) fn term_in(&self, term: u64, index: u64) -> Option<u64> {
        let raft = &self.raw.raft;
        raft.raft_log.term(index).ok().filter(|found| raft.term == term && *found > 0)
    }

    /// Term and fingerprint of an entry of the log.
    #[cfg(feature = "simulation")]
    pub(crate) fn entry(&self, index: u64) -> Option<(u64, u64)> {
        let store = self.raw.store();
        let wal = store.wal();
        if index < wal.first_index() || index > wal.last_index() {
            return None;
        }
        let entry = store.read(index, index + 1, u64::MAX).ok()?.pop()?;
        Some((entry.term, crate::sim::fingerprint(&entry.data)))
    }

    /// The member that an entry of the log removes, if it removes one.
    #[cfg(feature = "simulation")]
    pub(crate) fn removal(&self, index: u64) -> Option<u64> {
        use protobuf::Message as _;
        use raft::eraftpb::{ConfChange, ConfChangeType};
        let store = self.raw.store();
        store.wal().conf_changes(index, index + 1).next()?;
        let entry = store.read(index, index + 1, u64::MAX).ok()?.pop()?;
        let change = ConfChange::parse_from_bytes(&entry.data).ok()?;
        let removes = change.get_change_type() == ConfChangeType::RemoveNode;
        removes.then_some(change.node_id)
    }

    #[cfg(feature = "simulation")]
    pub(crate) fn configuration(&self) -> (Vec<u64>, Vec<u64>) {
        let conf = self.raw.raft.prs().conf().to_conf_state();
        let sorted = |ids: &[u64]| {
            let mut ids = ids.to_vec();
            ids.sort_unstable();
            ids
        };
        (sorted(&conf.voters), sorted(&conf.learners))
    }

    #[cfg(test)]
    pub(crate) fn hard_state(&self) -> &HardState {
        self.raw.store().hard_state()
    }

    /// The index of the snapshot that this member goes on from, and that of the newest marker in
    /// its log for what is committed.
    #[cfg(test)]
    pub(crate) fn newest_snapshots(&self) -> (u64, u64) {
        let store = self.raw.store();
        let committed = |marker: &&wal::Marker| marker.index <= store.hard_state().commit;
        let marker = store.wal().markers().iter().rev().find(committed);
        (store.snapshot_index(), marker.map_or(0, |marker| marker.index))
    }

    /// Index and term of the snapshots that are kept, oldest first.
    #[cfg(test)]
    pub(crate) fn kept_snapshots(&self) -> Vec<(u64, u64)> {
        self.snapshots.kept()
    }

    /// Grows whenever the book changes.
    pub(crate) fn book_version(&self) -> u64 {
        self.book_version
    }

    /// Nobody waits for an answer of this member.
    pub(crate) fn is_idle(&self) -> bool {
        let owed = |commit: &Commit| match commit {
            Commit::Restore(_) | Commit::Snapshot(_) => false,
            Commit::Entries(entries) => entries.items.iter().any(|item| item.waiter.is_some()),
        };
        self.proposals.is_empty()
            && self.reads.is_empty()
            && self.changes.is_empty()
            && self.transfers.is_empty()
            && self.snapshots.is_idle()
            && !self.outgoing.iter().any(owed)
    }

    /// There is work that no event will announce: entries to be read from disk for a peer, or
    /// committed ones that raft still holds and for which there is room again.
    pub(crate) fn has_work(&self) -> bool {
        self.raw.store().has_deferred() || (self.has_room() && self.raw.has_ready())
    }

    /// Takes a local proposal in; [`finish_turn`](Self::finish_turn) gives it to a leader.
    pub(crate) fn propose(&mut self, proposal: Proposal) {
        self.proposals.park(proposal);
    }

    /// Takes a read in; [`finish_turn`](Self::finish_turn) asks for its index.
    pub(crate) fn read(&mut self, request: ReadRequest) {
        self.reads.push(request);
    }

    /// Whether reads that come now have to wait for the end of a round.
    pub(crate) fn has_round(&self) -> bool {
        self.reads.has_round()
    }

    /// Takes what a peer sent.
    ///
    /// # Errors
    ///
    /// What ends the node: a disk error, or proof that this member lost acknowledged data.
    pub(crate) fn receive(&mut self, from: u64, frame: Frame, send: Send<'_>) -> Result<(), Error> {
        match frame {
            Frame::Raft(message) if message.get_msg_type() == MessageType::MsgSnapshot => {
                self.count_drop("a snapshot without its file", &message);
                Ok(())
            }
            Frame::Raft(message) => {
                // Whatever was wrong with it is counted and logged.
                self.step(message, send).map(|_| ())
            }
            Frame::Forward { key, .. } if key.node != from => {
                warn!(self.logger, "dropped a proposal in another member's name"; "from" => from,
                    "name" => key.node);
                Ok(())
            }
            Frame::Forward { term, key, data } => {
                if data.len() as u64 > self.max_entry_bytes {
                    self.refuse_forward(from, Attempt { key, term }, VerdictKind::TooLarge, send);
                } else {
                    self.forwarded.push(Forwarded { from, term, key, data });
                }
                Ok(())
            }
            Frame::Verdict { key, refusal, term, .. } => {
                let refusal = match refusal {
                    VerdictKind::NotLeader => Refusal::NoLeader,
                    VerdictKind::Overloaded => Refusal::Overloaded,
                    VerdictKind::TooLarge => Refusal::TooLarge,
                };
                self.proposals.refused(Attempt { key, term }, refusal, self.ticks);
                Ok(())
            }
        }
    }

    /// A stream to this peer broke: what was under way to it may be lost.
    pub(crate) fn unreachable(&mut self, peer: u64) {
        self.raw.report_unreachable(peer);
        self.reads.unreachable(peer);
    }

    /// This forwarded proposal never left.
    pub(crate) fn unsent(&mut self, attempt: Attempt) {
        self.proposals.refused(attempt, Refusal::NoLeader, self.ticks);
    }

    /// Steps a message that passes the wall; otherwise says why it does not.
    fn step(&mut self, message: Message, send: Send<'_>) -> Result<Result<(), String>, Error> {
        if self.founding.is_some() {
            let reason = "a message to a founder that has not met the others";
            self.count_drop(reason, &message);
            return Ok(Err(reason.into()));
        }
        match self.vet(&message) {
            Verdict::Accept => {}
            Verdict::Drop(reason) => {
                self.count_drop(reason, &message);
                return Ok(Err(reason.into()));
            }
            Verdict::Fatal(Loss::Ours(what)) => {
                return Err(Error::LostData(format!("this member lost acknowledged data: {what}")));
            }
            Verdict::Fatal(Loss::Clusters(what)) => return Err(Error::ClusterLost(what)),
            Verdict::Fatal(Loss::Senders(what)) => {
                let reason = "from a member that lost acknowledged data";
                self.count_drop(reason, &message);
                self.distrust(message.from, what);
                return Ok(Err(reason.into()));
            }
        }
        if message.get_msg_type() == MessageType::MsgReadIndex {
            self.take_question(message);
            return Ok(Ok(()));
        }
        // raft becomes leader on a vote and asserts that its log is persisted then: these kinds
        // are stepped only when no Ready is outstanding (raft.rs:1214).
        let decides = matches!(
            message.get_msg_type(),
            MessageType::MsgRequestVoteResponse
                | MessageType::MsgRequestPreVoteResponse
                | MessageType::MsgTimeoutNow
        );
        if decides {
            self.handle_ready(send)?;
        }
        let (from, kind) = (message.from, message.get_msg_type());
        if self.book.members.contains_key(&from) {
            self.heard.insert(from, self.ticks);
        }
        if let Err(error) = self.raw.step(message) {
            debug!(self.logger, "raft refused a message"; "from" => from, "kind" => ?kind,
                "error" => %error);
        }
        if from == self.leader_id() {
            self.heard_leader = Some(self.ticks);
        }
        self.pin_election_timeout();
        if decides {
            self.handle_ready(send)?;
        }
        Ok(Ok(()))
    }

    fn vet(&self, message: &Message) -> Verdict {
        let raft = &self.raw.raft;
        let log = &raft.raft_log;
        let sender = match self.book.members.get(&message.from) {
            None => vet::Sender::Stranger,
            Some(member) if member.role == MemberRole::Voter => vet::Sender::Voter,
            Some(_) => vet::Sender::Learner,
        };
        let view = vet::View {
            id: self.id,
            nonce: self.nonce,
            term: raft.term,
            commit_index: log.committed,
            last_index: log.last_index(),
            leader_id: raft.leader_id,
            leads: raft.state == StateRole::Leader,
            sender,
            matched: raft.prs().get(message.from).map_or(0, |progress| progress.matched),
            // raft knows no term 0: it is its word for what it has no entry of.
            terms: &|index| log.term(index).ok().filter(|term| *term != 0),
        };
        vet(message, view)
    }

    fn count_drop(&mut self, reason: &'static str, message: &Message) {
        self.metrics.dropped(reason);
        let dropped = self.dropped.entry(reason).or_default();
        dropped.count += 1;
        if dropped.quiet_until <= self.ticks {
            dropped.quiet_until = self.ticks + self.election_ticks * DROP_LOG_TIMEOUTS;
            warn!(self.logger, "dropped a message: {}", reason; "from" => message.from,
                "kind" => ?message.get_msg_type(), "term" => message.term,
                "dropped" => dropped.count);
        }
    }

    /// This leader has proof that a member lost what it had acknowledged: nobody may count on
    /// its acknowledgements or its vote again.
    fn distrust(&mut self, id: u64, what: String) {
        if self.lost_members.insert(id) {
            error!(self.logger, "a member lost acknowledged data: its streams are refused; remove \
                it, and let it join again under a new id"; "member" => id, "why" => &what);
            self.distrusted.push((id, what));
        }
    }

    /// The members that are not to be let in any more, and why, since the last call.
    pub(crate) fn take_distrusted(&mut self) -> Vec<(u64, String)> {
        std::mem::take(&mut self.distrusted)
    }

    /// A peer's head was checked: it is who it says it is.
    pub(crate) fn met(&mut self, peer: u64, incarnation: u128) {
        self.pins.insert(peer, incarnation);
        self.snapshots.met(peer);
        if let Some(founding) = &mut self.founding {
            founding.met.insert(peer);
        }
    }

    /// Moves raft's clock by one tick, after everything that came before it was handled and is
    /// durable (V3).
    ///
    /// # Errors
    ///
    /// What ends the node.
    pub(crate) fn tick(&mut self, now: Instant, send: Send<'_>) -> Result<(), Error> {
        self.end_save()?;
        self.handle_ready(send)?;
        if self.is_saving() {
            self.end_save()?;
            self.handle_ready(send)?;
        }
        self.ticks += 1;
        if let Some(founding) = &mut self.founding {
            if !founding.is_over(&self.book, self.ticks, self.election_ticks) {
                self.expire(now);
                return Ok(());
            }
            info!(self.logger, "met the other founders"; "met" => ?founding.met);
            self.founding = None;
        }
        if self.leads() {
            self.heard_leader = Some(self.ticks);
        }
        let before = self.raw.raft.election_elapsed;
        self.raw.tick();
        if self.raw.raft.election_elapsed < before && !self.leads() {
            self.election.fired();
        }
        self.pin_election_timeout();
        if self.ticks.is_multiple_of(u64::from(HEARTBEAT_TICKS)) {
            self.promote();
            self.release_delivered()?;
        }
        self.expire(now);
        Ok(())
    }

    /// Answers what has waited too long.
    fn expire(&mut self, now: Instant) {
        self.proposals.expire(now);
        let leader_known = self.leader_id() != raft::INVALID_ID;
        self.reads.expire(now, leader_known);
        self.changes.expire(now);
        self.transfers.expire(now);
        self.snapshots.expire(now);
    }

    /// Gives waiting proposals to the leader, handles what raft has ready and moves the reads. What is
    /// committed by now is delivered before anything is proposed; what becomes so meanwhile is left
    /// to the caller.
    ///
    /// # Errors
    ///
    /// What ends the node.
    pub(crate) fn finish_turn(
        &mut self,
        now: Instant,
        send: Send<'_>,
        deliver: Deliver<'_>,
    ) -> Result<(), Error> {
        for context in self.raw.mut_store().begin_turn() {
            self.raw.on_entries_fetched(context);
        }
        self.publish_committed(send, deliver)?;
        self.dispatch(now, send);
        self.dispatch_changes();
        self.dispatch_transfers();
        self.advance_reads();
        self.handle_ready(send)?;
        // A Ready may have confirmed reads, or made the rest of them askable.
        self.advance_reads();
        if self.raw.has_ready() {
            self.handle_ready(send)?;
        }
        self.tell_commit(now, send)?;
        self.check_applied();
        self.take_snapshot();
        Ok(())
    }

    /// Publishes what this turn's events have committed, and answers the reads that they confirmed,
    /// where the disk is not needed for it.
    fn publish_committed(&mut self, send: Send<'_>, deliver: Deliver<'_>) -> Result<(), Error> {
        if self.raw.has_ready() && !self.needs_disk() {
            self.handle_ready(send)?;
        }
        self.check_applied();
        if self.has_commits() { deliver(self) } else { Ok(()) }
    }

    fn dispatch(&mut self, now: Instant, send: Send<'_>) {
        let term = self.raw.raft.term;
        if self.leads() {
            if !self.gathers(now) {
                self.pace.waited();
                self.propose_batches(term, now, send);
                self.proposals.taken_by_raft();
            }
            return;
        }
        for forwarded in std::mem::take(&mut self.forwarded) {
            let attempt = Attempt { key: forwarded.key, term: forwarded.term };
            self.refuse_forward(forwarded.from, attempt, VerdictKind::NotLeader, send);
        }
        let leader = self.leader_id();
        if leader == raft::INVALID_ID {
            return;
        }
        while let Some((key, data)) = self.proposals.launch(term, self.ticks) {
            send(leader, Frame::Forward { term, key, data });
        }
        self.proposals.forwarded();
    }

    /// One message to raft per megabyte of proposals: one append to each peer carries it.
    fn propose_batches(&mut self, term: u64, now: Instant, send: Send<'_>) {
        let mut forwarded = std::mem::take(&mut self.forwarded);
        if self.lags() || self.space.shortage().is_some() {
            for Forwarded { from, term, key, .. } in forwarded.drain(..) {
                self.refuse_forward(from, Attempt { key, term }, VerdictKind::Overloaded, send);
            }
        }
        let mut forwarded = forwarded.into_iter().peekable();
        while self.proposals.has_launchable(self.ticks) || forwarded.peek().is_some() {
            let mut entries = Vec::new();
            let mut origins = Vec::new();
            let mut bytes = 0;
            while bytes < PROPOSE_BYTES {
                let (origin, key, data) = if let Some(next) = forwarded.next() {
                    if next.term != term {
                        let attempt = Attempt { key: next.key, term: next.term };
                        self.refuse_forward(next.from, attempt, VerdictKind::NotLeader, send);
                        continue;
                    }
                    (Some(next.from), next.key, next.data)
                } else if let Some((key, data)) = self.proposals.launch(term, self.ticks) {
                    (None, key, data)
                } else {
                    break;
                };
                bytes += data.len() as u64 + ENTRY_OVERHEAD;
                let context = Bytes::copy_from_slice(&key.encode());
                entries.push(Entry { data, context, ..Entry::default() });
                origins.push((origin, key));
            }
            if entries.is_empty() {
                continue;
            }
            let mut message = Message { from: self.id, ..Message::default() };
            message.set_msg_type(MessageType::MsgPropose);
            message.set_entries(entries.into());
            if self.raw.step(message).is_err() {
                // Too much is uncommitted, or leadership is being handed over: nothing of this
                // batch is in the log.
                for (origin, key) in origins {
                    let attempt = Attempt { key, term };
                    match origin {
                        Some(from) => {
                            self.refuse_forward(from, attempt, VerdictKind::Overloaded, send);
                        }
                        None => self.proposals.refused(attempt, Refusal::Overloaded, self.ticks),
                    }
                }
                continue;
            }
            self.proposed(now, origins.iter().any(|(origin, _)| origin.is_some()));
        }
    }

    fn refuse_forward(&self, to: u64, attempt: Attempt, refusal: VerdictKind, send: Send<'_>) {
        let (Attempt { key, term }, leader) = (attempt, self.leader_id());
        send(to, Frame::Verdict { key, refusal, term, leader });
    }

    /// Handles everything that raft has ready, in the one order that loses nothing:
    ///
    /// 1. a leader's messages leave, so that its followers' disks work beside its own (thesis
    ///    10.2.1), unless this Ready changes term or vote, or commits a membership change;
    /// 2. entries and hard state become durable in one batch with one sync, which a leader whose disk
    ///    is slow leaves to another thread: then what follows from it follows later (V4);
    /// 3. messages that promise that durability leave;
    /// 4. raft is told, and what became committed is published.
    fn handle_ready(&mut self, send: Send<'_>) -> Result<(), Error> {
        while self.raw.has_ready() {
            if !self.has_room() && self.only_committed_is_new() {
                break;
            }
            if self.is_saving() && self.needs_disk() {
                self.end_save()?;
            }
            let mut ready = self.raw.ready();
            let votes = ready.hs().is_some_and(|hard| {
                hard.term != self.last_hard.term || hard.vote != self.last_hard.vote
            });
            let decides =
                ready.hs().is_some_and(|hard| self.raw.store().decides_change(hard.commit));
            let waits = votes && !has(Defect::EarlyVote) || decides && !has(Defect::EarlyDecision);
            let mut messages = ready.take_messages();
            if !waits {
                self.send_all(std::mem::take(&mut messages), send);
            }
            if has(Defect::EarlySend) {
                self.send_all(ready.take_persisted_messages(), send);
            }
            let entries = ready.take_entries();
            if ready.snapshot().is_empty() {
                if !waits && self.saves_elsewhere(&entries) {
                    self.begin_save(ready.number(), entries, ready.hs())?;
                } else {
                    let is_appending = !entries.is_empty();
                    self.raw.mut_store().save(entries, ready.hs(), ready.must_sync())?;
                    if is_appending {
                        self.saved();
                    }
                }
            } else {
                self.install(ready.snapshot(), entries, ready.hs())?;
            }
            self.send_all(messages, send);
            self.send_all(ready.take_persisted_messages(), send);

            if let Some(soft) = ready.ss() {
                self.role_changed(soft);
                self.changes.wake();
                self.last_soft = SoftState { ..*soft };
            }
            if let Some(hard) = ready.hs() {
                self.last_hard = hard.clone();
            }
            let reads = ready.take_read_states();
            let mut committed = vec![ready.take_committed_entries()];
            if self.is_saving() {
                // What follows from it comes with a Ready of its own.
                self.advance_saving(ready);
            } else {
                let mut light = self.raw.advance_append(ready);
                if let Some(commit) = light.commit_index() {
                    self.raw.mut_store().note_commit(commit)?;
                    self.last_hard.set_commit(commit);
                }
                self.send_all(light.take_messages(), send);
                committed.push(light.take_committed_entries());
            }
            if let Some(fault) = self.raw.mut_store().take_fault() {
                return Err(fault);
            }
            for entries in committed {
                if let Some(last) = entries.last() {
                    self.handed = last.index;
                    self.publish(entries)?;
                }
            }
            for ReadState { index, request_ctx } in reads {
                self.reads.round_confirmed(&request_ctx, index);
            }
            self.acknowledge_published();
            self.report_unsendable();
        }
        if let Some(fault) = self.raw.mut_store().take_fault() {
            return Err(fault);
        }
        Ok(())
    }

    fn send_all(&mut self, messages: Vec<Message>, send: Send<'_>) {
        for message in messages {
            if message.get_msg_type() == MessageType::MsgSnapshot {
                self.send_snapshot(message);
            } else {
                send(message.to, Frame::Raft(message));
            }
        }
    }

    fn role_changed(&self, soft: &SoftState) {
        let (role, leader) = (role_of(soft.raft_state), soft.leader_id);
        if soft.raft_state != self.last_soft.raft_state {
            self.metrics.role_changed(role);
        }
        if leader != raft::INVALID_ID && leader != self.last_soft.leader_id {
            self.metrics.leader_changed();
        }
        if soft.raft_state != self.last_soft.raft_state || leader != self.last_soft.leader_id {
            info!(self.logger, "role"; "role" => role.name(), "leader" => leader,
                "term" => self.raw.raft.term);
        }
    }

    /// raft has nothing new but committed entries, for which there is no room.
    fn only_committed_is_new(&self) -> bool {
        let raft = &self.raw.raft;
        raft.msgs.is_empty()
            && raft.read_states.is_empty()
            && raft.raft_log.unstable_entries().is_empty()
            && raft.soft_state() == self.last_soft
            && raft.hard_state() == self.last_hard
            && raft.snap().is_none()
    }

    /// No new work is taken: proposals that were never given to a leader are refused, and reads
    /// that nobody could confirm.
    pub(crate) fn refuse_parked(&mut self) {
        self.proposals.refuse_parked();
        self.changes.refuse_waiting();
        self.transfers.refuse_all();
        self.snapshots.refuse(Refusal::ShuttingDown);
        // Nor will anybody confirm a read for one that was removed.
        let is_removed = self.book.removed.contains(&self.id);
        if is_removed || self.leader_id() == raft::INVALID_ID {
            self.reads.refuse_unconfirmed();
        }
    }

    /// Asks a voter to lead, if this member does: the one that is wanted, or else the one that
    /// knows most of the log. None when there is nobody.
    ///
    /// Who is alive is counted here: raft forgets whom it has heard at each of its own checks for
    /// a quorum, and puts the next check off when it begins to hand over (raft.rs:1924). Believed,
    /// it would find nobody to lead for a moment, and a leader that nobody follows could be kept
    /// by whoever asks it often enough.
    pub(crate) fn hand_over(&mut self, to: Option<u64>) -> Option<u64> {
        if !self.leads() {
            return None;
        }
        let live = self.live();
        let progress = self.raw.raft.prs();
        let candidate = (self.book.voters().filter(|id| *id != self.id))
            .filter(|id| to.is_none_or(|to| *id == to) && live.contains(id))
            .filter_map(|id| progress.get(id).map(|progress| (progress.matched, id)))
            .max();
        let (_, id) = candidate?;
        self.raw.transfer_leader(id);
        Some(id)
    }

    /// Makes the commit index durable before a clean end.
    ///
    /// # Errors
    ///
    /// A failed write or sync.
    pub(crate) fn close(&mut self) -> Result<(), Error> {
        self.end_save()?;
        self.raw.mut_store().save_commit()
    }

    /// raft draws its election timeouts from the thread's generator; a run must be repeatable
    /// from its seed, so every draw is replaced by one of ours.
    fn pin_election_timeout(&mut self) {
        let timeout = self.election.timeout(self.raw.raft.term, self.raw.raft.state);
        self.raw.raft.set_randomized_election_timeout(timeout);
    }
}

pub(crate) fn role_of(state: StateRole) -> Role {
    match state {
        StateRole::Follower => Role::Follower,
        StateRole::PreCandidate => Role::PreCandidate,
        StateRole::Candidate => Role::Candidate,
        StateRole::Leader => Role::Leader,
    }
}
