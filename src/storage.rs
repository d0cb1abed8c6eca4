//! The log and the hard state as raft sees them: the write-ahead log on disk behind a bounded
//! tail in memory.
//!
//! Refuses to know the network, the state machine or a clock. Reads from disk happen on the
//! loop's thread, at most [`Bounds::disk_bytes_per_turn`] a turn; what a lagging peer needs beyond that
//! is asked for again in the next turn.
//!
//! Invariants:
//! - G1 The tail is a suffix of what is written to the log: nothing is in memory only. All of it is
//!   durable but the one batch whose save is under way.
//! - G2 raft never sees an error that it would panic on. A failed read latches `fault`, answers
//!   with nothing, and the loop ends the node before it acts on that answer.
//!
//! An entry's payload in the log:
//!
//! ```text
//!  0       1      2                4
//!  ├─ type ┼─ 0 ──┼─ context length┼─ context ┼─ data     type: 0 normal, 1 change, 2 change v2
//! ```

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::time::Instant;

use protobuf::Message as _;
use raft::eraftpb::{
    ConfChange, ConfState, Entry, EntryType, HardState, Snapshot, SnapshotMetadata,
};
use raft::{GetEntriesContext, RaftState, StorageError};
use wal::defects::{Defect, has};
use wal::{Batch, Marker, Wal, Written};

use crate::Error;
use crate::metrics::Metrics;

/// How much of the log is held and moved at a time. Simulated members have less of each, so that a few
/// small entries are as much as they can take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// How much of the log stays in memory, so that peers in step never make the leader read its
    /// disk. One that falls further behind is served from it.
    pub(crate) tail_bytes: u64,
    /// How much is read back from disk in one turn of the loop, for all lagging peers together:
    /// around ten milliseconds of a slow disk, a fraction of a heartbeat.
    pub(crate) disk_bytes_per_turn: u64,
    /// Committed entries that wait for room on the commit channel. What does not fit is read from
    /// the log again when there is room: enough to keep a consumer busy while that happens.
    pub(crate) outgoing_bytes: u64,
    /// One item on the commit channel holds about so much, so that a consumer shows its progress
    /// often and the channel's few places bound its memory.
    pub(crate) item_bytes: u64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            tail_bytes: 8 << 20,
            disk_bytes_per_turn: 4 << 20,
            outgoing_bytes: 8 << 20,
            item_bytes: 1 << 20,
        }
    }
}

/// What an entry weighs beyond its data: its fields in memory and on the wire.
pub(crate) const ENTRY_OVERHEAD: u64 = 96;

/// The bytes that `entry` is counted with against every bound.
pub(crate) fn weight(entry: &Entry) -> u64 {
    entry.data.len() as u64 + entry.context.len() as u64 + ENTRY_OVERHEAD
}

/// raft's view of the disk.
pub(crate) struct Storage {
    wal: Wal,
    batch: Batch,
    tail: VecDeque<Entry>,
    tail_bytes: u64,
    hard_state: HardState,
    /// The newest snapshot that the log vouches for.
    snapshot: SnapshotMetadata,
    /// raft wants to send a snapshot, and the newest one does not do.
    snapshot_wanted: Cell<bool>,
    bounds: Bounds,
    disk_budget: Cell<u64>,
    deferred: RefCell<Vec<GetEntriesContext>>,
    metrics: Option<Metrics>,
    /// When the newest save began.
    began: Instant,
    fault: RefCell<Option<wal::Error>>,
    /// Where a simulation keeps what was synced.
    #[cfg(feature = "simulation")]
    ledger: Option<crate::sim::Ledger>,
    /// While a batch is written and not synced: what was before, and the ledger's count of syncs.
    #[cfg(feature = "simulation")]
    before: Option<(wal::HardState, u64, u64)>,
}

impl Storage {
    /// A log that was just opened, with the snapshot that its newest usable marker names.
    pub(crate) fn new(wal: Wal, snapshot: SnapshotMetadata) -> Self {
        let saved = wal.hard_state();
        let mut hard_state = HardState::default();
        hard_state.set_term(saved.term);
        hard_state.set_vote(saved.vote);
        // A snapshot is taken of committed entries only, whatever the last synced commit says.
        hard_state.set_commit(saved.commit.max(snapshot.index));
        Self {
            wal,
            batch: Batch::new(),
            tail: VecDeque::new(),
            tail_bytes: 0,
            hard_state,
            snapshot,
            snapshot_wanted: Cell::new(false),
            bounds: Bounds::default(),
            disk_budget: Cell::new(Bounds::default().disk_bytes_per_turn),
            deferred: RefCell::default(),
            metrics: None,
            began: Instant::now(),
            fault: RefCell::default(),
            #[cfg(feature = "simulation")]
            ledger: None,
            #[cfg(feature = "simulation")]
            before: None,
        }
    }

    /// Gives it a `divisor`th of the room that a member has.
    #[cfg(feature = "simulation")]
    pub(crate) fn shrink_bounds(&mut self, divisor: u64) {
        let Bounds { tail_bytes, disk_bytes_per_turn, outgoing_bytes, item_bytes } =
            Bounds::default();
        self.bounds = Bounds {
            tail_bytes: tail_bytes / divisor,
            disk_bytes_per_turn: disk_bytes_per_turn / divisor,
            outgoing_bytes: outgoing_bytes / divisor,
            item_bytes: item_bytes / divisor,
        };
    }

    /// Has every save written down from now on.
    #[cfg(feature = "simulation")]
    pub(crate) fn write_down(&mut self, ledger: crate::sim::Ledger) {
        self.ledger = Some(ledger);
    }

    /// For a defect: raft begins with this configuration, whatever the snapshot's is.
    pub(crate) fn set_conf_state(&mut self, conf_state: ConfState) {
        self.snapshot.set_conf_state(conf_state);
    }

    pub(crate) fn snapshot_index(&self) -> u64 {
        self.snapshot.index
    }

    pub(crate) fn snapshot_term(&self) -> u64 {
        self.snapshot.term
    }

    /// How much is held and moved at a time.
    pub(crate) fn bounds(&self) -> &Bounds {
        &self.bounds
    }

    /// The log itself, for those who let go of its beginning.
    pub(crate) fn wal(&self) -> &Wal {
        &self.wal
    }

    /// As [`wal`](Self::wal).
    pub(crate) fn wal_mut(&mut self) -> &mut Wal {
        &mut self.wal
    }

    /// Whether raft has asked in vain for a snapshot to send since this was asked last.
    pub(crate) fn take_snapshot_wish(&mut self) -> bool {
        self.snapshot_wanted.take()
    }

    /// How many bytes of entries follow `index`; `None` when that is more than memory holds.
    pub(crate) fn bytes_after(&self, index: u64) -> Option<u64> {
        let first = self.tail.front().map_or(self.wal.last_index() + 1, |entry| entry.index);
        let skip = usize::try_from((index + 1).checked_sub(first)?).unwrap_or(usize::MAX);
        Some(self.tail.range(skip.min(self.tail.len())..).map(weight).sum())
    }

    /// Makes a snapshot that was taken on this member the newest one: its file is durable under
    /// its final name, and now the log vouches for it.
    ///
    /// # Errors
    ///
    /// A failed write or sync.
    pub(crate) fn save_marker(
        &mut self,
        marker: Marker,
        conf_state: ConfState,
    ) -> Result<(), Error> {
        assert!(
            marker.index > self.snapshot.index && marker.index <= self.hard_state.commit,
            "N1: a snapshot of {} between {} and {}",
            marker.index,
            self.snapshot.index,
            self.hard_state.commit
        );
        self.batch.set_marker(marker);
        self.batch.set_hard_state(wal_hard_state(&self.hard_state));
        self.save_batch()?;
        self.snapshot = metadata(marker, conf_state);
        Ok(())
    }

    /// Makes a received snapshot, whose file is durable under its final name, the beginning of
    /// this member's log, together with what else the Ready says: one batch, so that no crash
    /// leaves a commit index without what it commits.
    ///
    /// # Errors
    ///
    /// A failed write or sync.
    pub(crate) fn install(
        &mut self,
        marker: Marker,
        conf_state: ConfState,
        entries: Vec<Entry>,
        hard_state: Option<&HardState>,
    ) -> Result<(), Error> {
        self.batch.set_marker(marker);
        if self.wal.term(marker.index) != Some(marker.term) || marker.index < self.wal.first_index()
        {
            self.tail.clear();
            self.tail_bytes = 0;
        }
        let commit = self.hard_state.commit.max(marker.index);
        self.hard_state.set_commit(commit);
        self.snapshot = metadata(marker, conf_state);
        self.save(entries, hard_state, true)
    }

    pub(crate) fn hard_state(&self) -> &HardState {
        &self.hard_state
    }

    /// Makes entries and hard state durable in one batch with one sync, when raft says that
    /// something depends on it. A commit index alone is only remembered, and rides in the next
    /// batch, so that at most the last batch of the log is ever unsynced; one that
    /// [decides](Self::decides_change) on a membership change is saved at once.
    ///
    /// # Errors
    ///
    /// A failed write or sync, after which nothing more can be saved.
    pub(crate) fn save(
        &mut self,
        entries: Vec<Entry>,
        hard_state: Option<&HardState>,
        must_sync: bool,
    ) -> Result<(), Error> {
        self.note(hard_state);
        if !must_sync {
            assert!(entries.is_empty(), "N2: raft gave entries that need no sync");
            return self.save_decision();
        }
        if has(Defect::DropHardState) && entries.is_empty() && self.batch.is_empty() {
            return Ok(());
        }
        self.fill(&entries);
        let saved = self.save_batch();
        if !has(Defect::IgnoreSaveError) {
            saved?;
        }
        self.extend_tail(entries);
        Ok(())
    }

    /// As [`save`](Self::save), for entries, without the sync: that is for whoever runs what is returned.
    /// [`synced`](Self::synced) takes it back.
    ///
    /// # Errors
    ///
    /// A failed write.
    pub(crate) fn write(
        &mut self,
        entries: Vec<Entry>,
        hard_state: Option<&HardState>,
    ) -> Result<Written, Error> {
        assert!(!entries.is_empty(), "V1: a save of nothing is under way");
        self.note(hard_state);
        self.fill(&entries);
        let written = self.write_batch()?.expect("the batch holds a hard state");
        self.extend_tail(entries);
        Ok(written)
    }

    /// The batch that was [written](Self::write) is durable.
    ///
    /// # Errors
    ///
    /// Its sync has failed.
    pub(crate) fn synced(&mut self, written: Written) -> Result<(), Error> {
        self.wal.synced(written).map_err(disk)?;
        #[cfg(feature = "simulation")]
        if let (Some((.., n_syncs)), Some(ledger)) = (self.before.take(), &self.ledger) {
            ledger.saved(&self.wal, n_syncs);
        }
        if let (Some(metrics), Some((_, durable))) = (&self.metrics, self.wal.last_save()) {
            metrics.sync(durable.saturating_duration_since(self.began));
        }
        Ok(())
    }

    fn note(&mut self, hard_state: Option<&HardState>) {
        if let Some(hard_state) = hard_state {
            assert!(
                hard_state.term >= self.hard_state.term
                    && hard_state.commit >= self.hard_state.commit,
                "N7: hard state falls from {:?} to {hard_state:?}",
                self.hard_state
            );
            self.hard_state = hard_state.clone();
        }
    }

    fn fill(&mut self, entries: &[Entry]) {
        for entry in entries {
            let head = payload_head(entry);
            let is_conf_change = entry.get_entry_type() != EntryType::EntryNormal;
            let parts: [&[u8]; 3] = [&head, &entry.context, &entry.data];
            self.batch.push_entry(entry.index, entry.term, is_conf_change, &parts);
        }
        self.batch.set_hard_state(wal_hard_state(&self.hard_state));
    }

    /// Counts how long every sync takes from now on.
    pub(crate) fn measure(&mut self, metrics: Metrics) {
        self.metrics = Some(metrics);
    }

    fn save_batch(&mut self) -> Result<(), Error> {
        self.write_batch()?.map_or(Ok(()), |written| self.synced(written))
    }

    fn write_batch(&mut self) -> Result<Option<Written>, Error> {
        #[cfg(feature = "simulation")]
        {
            let n_syncs = self.ledger.as_ref().map_or(0, crate::sim::Ledger::n_syncs);
            self.before = Some((self.wal.hard_state(), self.wal.last_index(), n_syncs));
        }
        self.began = Instant::now();
        self.wal.write(&mut self.batch).map_err(disk)
    }

    /// Hard state and last index, as they are durable.
    #[cfg(feature = "simulation")]
    pub(crate) fn durable(&self) -> (wal::HardState, u64) {
        let now = (self.wal.hard_state(), self.wal.last_index());
        self.before.map_or(now, |(hard_state, last_index, _)| (hard_state, last_index))
    }

    /// Makes the newest commit index durable: the shutdown record.
    ///
    /// # Errors
    ///
    /// A failed write or sync.
    pub(crate) fn save_commit(&mut self) -> Result<(), Error> {
        let hard_state = wal_hard_state(&self.hard_state);
        if hard_state == self.wal.hard_state() {
            return Ok(());
        }
        self.batch.set_hard_state(hard_state);
        self.save_batch()
    }

    /// Whether this commit index commits a membership change that the log on disk does not know to
    /// be committed. Whoever is removed goes for good as soon as it hears of that: members that
    /// forgot it in a crash would wait for its vote for ever.
    pub(crate) fn decides_change(&self, commit: u64) -> bool {
        let low = (self.wal.hard_state().commit + 1).max(self.wal.first_index());
        let end = commit.min(self.wal.last_index()) + 1;
        low < end && self.wal.conf_changes(low, end).next().is_some() && !has(Defect::ForgetChange)
    }

    fn save_decision(&mut self) -> Result<(), Error> {
        if self.decides_change(self.hard_state.commit) { self.save_commit() } else { Ok(()) }
    }

    /// raft learnt a new commit index outside of a hard state.
    ///
    /// # Errors
    ///
    /// It decides on a membership change, and a write or a sync failed.
    pub(crate) fn note_commit(&mut self, commit: u64) -> Result<(), Error> {
        assert!(
            commit >= self.hard_state.commit,
            "N7: commit falls from {} to {commit}",
            self.hard_state.commit
        );
        self.hard_state.set_commit(commit);
        self.save_decision()
    }

    /// Begins a new turn: the disk may be read again. Gives the questions that were put off.
    pub(crate) fn begin_turn(&mut self) -> Vec<GetEntriesContext> {
        self.disk_budget.set(self.bounds.disk_bytes_per_turn);
        self.deferred.take()
    }

    pub(crate) fn has_deferred(&self) -> bool {
        !self.deferred.borrow().is_empty()
    }

    /// The failed read that raft was not told of, if there was one (G2).
    pub(crate) fn take_fault(&mut self) -> Option<Error> {
        self.fault.take().map(disk)
    }

    /// The entries of `[low, high)` from memory or disk, at least one and otherwise at most
    /// `max_bytes`, for the publisher. Not counted against the turn's budget, since the
    /// publisher has its own bound.
    ///
    /// # Errors
    ///
    /// A failed or damaged read.
    pub(crate) fn read(&self, low: u64, high: u64, max_bytes: u64) -> Result<Vec<Entry>, Error> {
        self.fetch(low, high, max_bytes).map_err(disk)
    }

    /// The membership changes among the committed entries after `index`, for one who needs to
    /// know where they lead before they are published.
    ///
    /// # Errors
    ///
    /// A failed or damaged read.
    pub(crate) fn committed_changes(&self, index: u64) -> Result<Vec<ConfChange>, Error> {
        let end = self.hard_state.commit.min(self.wal.last_index()) + 1;
        let mut changes = Vec::new();
        for index in self.wal.conf_changes((index + 1).max(self.wal.first_index()), end) {
            let read = self.wal.entries(index, index + 1, u64::MAX).map_err(disk)?;
            for entry in read.into_iter().map(decode_payload) {
                // What cannot be decoded does nothing when it is published, either.
                changes.extend(ConfChange::parse_from_bytes(&entry.data).ok());
            }
        }
        Ok(changes)
    }

    fn fetch(&self, low: u64, high: u64, max_bytes: u64) -> Result<Vec<Entry>, wal::Error> {
        let tail_first = self.tail.front().map_or(u64::MAX, |entry| entry.index);
        if low < tail_first {
            let high = high.min(tail_first);
            let read = self.wal.entries(low, high, max_bytes)?;
            return Ok(read.into_iter().map(decode_payload).collect());
        }
        let skip = usize::try_from(low - tail_first).unwrap_or(usize::MAX);
        let take = usize::try_from(high - low).unwrap_or(usize::MAX);
        let mut bytes = 0;
        let fits = |entry: &&Entry| {
            let first = bytes == 0;
            bytes += weight(entry);
            first || bytes <= max_bytes
        };
        Ok(self
            .tail
            .range(skip.min(self.tail.len())..)
            .take(take)
            .take_while(fits)
            .cloned()
            .collect())
    }

    fn extend_tail(&mut self, entries: Vec<Entry>) {
        let Some(first) = entries.first().map(|entry| entry.index) else { return };
        while self.tail.back().is_some_and(|entry| entry.index >= first) {
            if let Some(cut) = self.tail.pop_back() {
                self.tail_bytes -= weight(&cut);
            }
        }
        let contiguous = self.tail.back().is_none_or(|entry| entry.index + 1 == first);
        assert!(contiguous, "G1: the tail would have a gap before {first}");
        for entry in entries {
            self.tail_bytes += weight(&entry);
            self.tail.push_back(entry);
        }
        while self.tail_bytes > self.bounds.tail_bytes && self.tail.len() > 1 {
            if let Some(oldest) = self.tail.pop_front() {
                self.tail_bytes -= weight(&oldest);
            }
        }
    }
}

impl raft::Storage for Storage {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState::new(self.hard_state.clone(), self.snapshot.get_conf_state().clone()))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low < self.wal.first_index() {
            return Err(raft::Error::Store(StorageError::Compacted));
        }
        let Some(max_size) = max_size.into() else {
            // Only raft's search for membership changes before an election has no limit, and it
            // counts them without looking at anything else (raft.rs:1533 and 2200). Answering
            // with just those keeps a long unapplied log from being loaded at once.
            return Ok(self.wal.conf_changes(low, high).map(conf_change_stub).collect());
        };
        let in_memory = self.tail.front().is_some_and(|entry| entry.index <= low);
        let mut max_bytes = max_size;
        if !in_memory && context.can_async() {
            if self.disk_budget.get() == 0 {
                self.deferred.borrow_mut().push(context);
                return Err(raft::Error::Store(StorageError::LogTemporarilyUnavailable));
            }
            max_bytes = max_bytes.min(self.disk_budget.get());
        }
        match self.fetch(low, high, max_bytes) {
            Ok(entries) => {
                if !in_memory {
                    let bytes: u64 = entries.iter().map(weight).sum();
                    self.disk_budget.set(self.disk_budget.get().saturating_sub(bytes));
                }
                Ok(entries)
            }
            Err(error) => {
                *self.fault.borrow_mut() = Some(error);
                if context.can_async() {
                    Err(raft::Error::Store(StorageError::LogTemporarilyUnavailable))
                } else {
                    Ok(Vec::new())
                }
            }
        }
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        let missing = if index < self.wal.first_index() {
            StorageError::Compacted
        } else {
            StorageError::Unavailable
        };
        self.wal.term(index).ok_or(raft::Error::Store(missing))
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.wal.first_index())
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.wal.last_index())
    }

    fn snapshot(&self, request_index: u64, to: u64) -> raft::Result<Snapshot> {
        let conf_state = self.snapshot.get_conf_state();
        let is_member = conf_state.voters.contains(&to) || conf_state.learners.contains(&to);
        // A member that is not in it could not install it (raft.rs:2585).
        let fits = is_member || has(Defect::PatchedConfState);
        if self.snapshot.index == 0 || self.snapshot.index < request_index || !fits {
            self.snapshot_wanted.set(true);
            return Err(raft::Error::Store(StorageError::SnapshotTemporarilyUnavailable));
        }
        let mut snapshot = Snapshot::default();
        snapshot.set_metadata(self.snapshot.clone());
        if has(Defect::PatchedConfState) && !is_member {
            snapshot.mut_metadata().mut_conf_state().learners.push(to);
        }
        Ok(snapshot)
    }
}

pub(crate) fn metadata(marker: Marker, conf_state: ConfState) -> SnapshotMetadata {
    let mut metadata = SnapshotMetadata::default();
    (metadata.index, metadata.term) = (marker.index, marker.term);
    metadata.set_conf_state(conf_state);
    metadata
}

fn wal_hard_state(hard_state: &HardState) -> wal::HardState {
    wal::HardState { term: hard_state.term, vote: hard_state.vote, commit: hard_state.commit }
}

fn disk(error: wal::Error) -> Error {
    match error {
        corrupt @ wal::Error::Corrupt { .. } => Error::Corrupt(corrupt.to_string()),
        other => Error::Disk(other.to_string()),
    }
}

fn payload_head(entry: &Entry) -> [u8; 4] {
    let kind = match entry.get_entry_type() {
        EntryType::EntryNormal => 0,
        EntryType::EntryConfChange => 1,
        EntryType::EntryConfChangeV2 => 2,
    };
    let length = u16::try_from(entry.context.len())
        .expect("contexts are keys of 24 bytes or short membership records")
        .to_le_bytes();
    [kind, 0, length[0], length[1]]
}

/// What an entry is and where its context ends, which begins at 4; none if this program never
/// wrote such a payload.
pub(crate) fn split_payload(payload: &[u8]) -> Option<(EntryType, usize)> {
    let head = payload.first_chunk::<4>()?;
    let context_end = 4 + usize::from(u16::from_le_bytes([head[2], head[3]]));
    let kind = match head[0] {
        0 => EntryType::EntryNormal,
        1 => EntryType::EntryConfChange,
        2 => EntryType::EntryConfChangeV2,
        _ => return None,
    };
    (context_end <= payload.len()).then_some((kind, context_end))
}

/// The checksum of the batch has been verified: a payload that does not decode was never written
/// by this program.
fn decode_payload(stored: wal::Entry) -> Entry {
    let payload = stored.payload;
    let split = split_payload(&payload);
    let (kind, context_end) = split.expect("G1: a stored entry decodes to what was stored");
    let mut entry = Entry::default();
    entry.set_entry_type(kind);
    entry.index = stored.index;
    entry.term = stored.term;
    entry.context = payload.slice(4..context_end);
    entry.data = payload.slice(context_end..);
    entry
}

fn conf_change_stub(index: u64) -> Entry {
    let mut entry = Entry::default();
    entry.set_entry_type(EntryType::EntryConfChange);
    entry.index = index;
    entry
}
