//! Snapshots between the consumer, the disk, the log and the peers.
//!
//! ```text
//!  due ──► Commit::Snapshot ──► consumer ──► writer thread ──► file, synced, under a temporary name
//!                                                                 │
//!  purge ◄── release the log ◄── marker + hard state synced ◄── final name, directory synced
//! ```
//!
//! A received snapshot comes in at the final name. The order is the whole point: after a crash
//! between any two steps either the log does not know the file, and it is removed, or the file is
//! there and whole, and everything after it is in the log (N5).
//!
//! Invariants:
//! - B1 One snapshot is taken at a time.
//! - B2 Final names are given here and nowhere else, so that names, markers and memory agree.
//! - B3 A file that is on its way to a peer is not purged, nor the log after it.
//! - B4 raft hears exactly once what became of a snapshot that it sent.
//! - B5 While two are kept, the log reaches back to the one before the newest: a start that finds
//!   the newest spoilt goes on from there. One that the log does not reach back to is kept for B3
//!   alone.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use raft::eraftpb::{ConfState, Message, MessageType, Snapshot};
use raft::{SnapshotStatus, StateRole};
use slog::{error, info, warn};
use wal::defects::{Defect, has};
use wal::fs::Fs;

use super::{Core, Send};
use crate::Error;
use crate::channel::{
    Captured, Commit, Outcome, Refusal, Restore, SnapshotRequest, SnapshotTaken, SnapshotWish,
    Unknown,
};
use crate::config::SnapshotPolicy;
use crate::snapshot::{self, Failure, Header, Received, SnapshotFile};

/// Ticks between a snapshot that failed and the next try.
const RETRY_TICKS: u64 = 1000;

/// A peer that refuses one snapshot after the other is left alone for one election timeout, then for
/// two, and in the end for so many: raft alone would send it the whole file with every heartbeat.
const MAX_PAUSE_TIMEOUTS: u64 = 8;

/// A snapshot file that the log vouches for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) index: u64,
    pub(crate) term: u64,
    pub(crate) path: PathBuf,
    pub(crate) bytes: u64,
}

/// Work for another thread: what may take long and is awaited by nobody.
pub(crate) enum Task {
    /// Remove a file that nothing refers to any more.
    Remove(PathBuf),
    /// Delete segments that the log has forgotten.
    Delete(wal::Doomed),
    /// Make room for the next segment.
    Prepare(wal::Preparation),
}

/// What another thread has done.
pub(crate) enum Done {
    /// The consumer's state is in a file, or not.
    Taken { index: u64, result: Result<SnapshotFile, NotTaken>, took: Duration },
    /// [`Task::Remove`].
    Removed(PathBuf, std::io::Result<()>),
    /// [`Task::Delete`].
    Deleted(wal::Result<wal::Released>),
    /// [`Task::Prepare`].
    Prepared(wal::Result<wal::Prepared>),
    /// A batch was synced; the log knows how that ended.
    Synced,
    /// It has panicked, and nobody knows how far it had come.
    Panicked(String),
}

/// Why there is no snapshot.
pub(crate) enum NotTaken {
    Declined,
    Failed(Failure),
}

/// Writes a captured state to its temporary file. Blocks for as long as that takes.
pub(crate) fn write_captured(fs: &Arc<dyn Fs>, directory: &Path, captured: Captured) -> Done {
    let Captured { header, write } = captured;
    let (index, started) = (header.index, Instant::now());
    let result = match write {
        None => Err(NotTaken::Declined),
        Some(write) => {
            let path = directory.join(snapshot::temporary_name(header.term, index, 0));
            snapshot::write(fs, &path, &header, write).map_err(NotTaken::Failed)
        }
    };
    Done::Taken { index, result, took: started.elapsed() }
}

/// Syncs a batch that the log has written. Blocks for as long as that takes.
pub(crate) fn sync_written(written: &wal::Written) -> Done {
    written.sync();
    Done::Synced
}

impl Task {
    /// Blocks for as long as it takes.
    pub(crate) fn run(self, fs: &dyn Fs) -> Done {
        match self {
            Task::Remove(path) => {
                let result = fs.remove_file(&path);
                Done::Removed(path, result)
            }
            Task::Delete(doomed) => Done::Deleted(doomed.delete()),
            Task::Prepare(preparation) => Done::Prepared(preparation.run()),
        }
    }
}

/// A snapshot for a peer, as raft asked for it.
pub(crate) struct Sending {
    pub(crate) message: Message,
    pub(crate) path: PathBuf,
}

pub(super) struct Snapshots {
    fs: Arc<dyn Fs>,
    policy: SnapshotPolicy,
    /// What the log vouches for, oldest first. Empty on a member that is only joining.
    kept: Vec<Kept>,
    taking: Option<Taking>,
    not_before: u64,
    /// The weight of everything published since the start, and at the newest snapshot.
    published_bytes: u64,
    bytes_at_newest: u64,
    wishes: Vec<Wished>,
    /// raft wants to send one, and the newest does not do.
    is_wanted: bool,
    /// The index of the snapshot on its way to each peer, or delivered a moment ago: until the
    /// peer acknowledges it, the log after it is what the peer needs next.
    sending: BTreeMap<u64, u64>,
    delivered: BTreeSet<u64>,
    to_send: Vec<Sending>,
    /// Peers to whom a snapshot cannot be sent now, though raft wants it.
    unsendable: Vec<u64>,
    /// Whose last one was not delivered: the tick before which no other goes, and behind how many
    /// election timeouts the next one waits should that fail too.
    undelivered: BTreeMap<u64, (u64, u64)>,
    /// The file that belongs to the snapshot in raft's hands.
    received: Option<Received>,
    is_deleting: bool,
    tasks: Vec<Task>,
    captured: crossbeam_channel::Sender<Captured>,
}

struct Taking {
    index: u64,
    published_bytes: u64,
}

struct Wished {
    /// What was published when it was asked for.
    index: u64,
    wish: SnapshotWish,
}

impl Snapshots {
    pub(super) fn new(
        fs: Arc<dyn Fs>,
        policy: SnapshotPolicy,
        kept: Vec<Kept>,
        captured: crossbeam_channel::Sender<Captured>,
    ) -> Self {
        Self {
            fs,
            policy,
            kept,
            taking: None,
            not_before: 0,
            published_bytes: 0,
            bytes_at_newest: 0,
            wishes: Vec::new(),
            is_wanted: false,
            sending: BTreeMap::new(),
            delivered: BTreeSet::new(),
            to_send: Vec::new(),
            unsendable: Vec::new(),
            undelivered: BTreeMap::new(),
            received: None,
            is_deleting: false,
            tasks: Vec::new(),
            captured,
        }
    }

    /// Nobody waits for a snapshot.
    pub(super) fn is_idle(&self) -> bool {
        self.wishes.is_empty()
    }

    /// It may have started again since it refused what it was sent, with room on its disk.
    pub(super) fn met(&mut self, peer: u64) {
        self.undelivered.remove(&peer);
    }

    pub(super) fn published(&mut self, bytes: u64) {
        self.published_bytes += bytes;
    }

    pub(super) fn newest(&self) -> Option<&Kept> {
        self.kept.last()
    }

    /// The one before the newest, unless it is there for a peer alone (B5).
    #[cfg(feature = "simulation")]
    pub(super) fn before_newest(&self) -> Option<u64> {
        let (_, older) = self.kept.split_last()?;
        let before = older.last()?.index;
        (!self.sending.values().any(|index| *index == before)).then_some(before)
    }

    #[cfg(test)]
    pub(super) fn kept(&self) -> Vec<(u64, u64)> {
        self.kept.iter().map(|kept| (kept.index, kept.term)).collect()
    }

    pub(super) fn is_taking(&self) -> bool {
        self.taking.is_some()
    }

    /// Answers everything whose deadline has passed.
    pub(super) fn expire(&mut self, now: Instant) {
        for wished in std::mem::take(&mut self.wishes) {
            if wished.wish.deadline <= now {
                wished.wish.answer(SnapshotTaken::Refused(Refusal::Unavailable));
            } else {
                self.wishes.push(wished);
            }
        }
    }

    pub(super) fn refuse(&mut self, refusal: Refusal) {
        for wished in self.wishes.drain(..) {
            wished.wish.answer(SnapshotTaken::Refused(refusal));
        }
    }

    /// Answers the wishes that the newest snapshot fulfils.
    fn fulfil(&mut self) {
        let Some((index, term)) = self.newest().map(|newest| (newest.index, newest.term)) else {
            return;
        };
        for wished in std::mem::take(&mut self.wishes) {
            if wished.index <= index {
                wished.wish.answer(SnapshotTaken::Taken { index, term });
            } else {
                self.wishes.push(wished);
            }
        }
    }

    fn is_due(&self, published: u64) -> bool {
        let (index, size) = self.newest().map_or((0, 0), |newest| (newest.index, newest.bytes));
        self.policy.is_due(published - index, self.published_bytes - self.bytes_at_newest, size)
    }

    /// This snapshot is the newest that the log vouches for.
    fn keep(&mut self, kept: Kept) {
        self.kept.retain(|old| old.path != kept.path);
        self.kept.push(kept);
    }

    /// Those that are too many go.
    fn purge(&mut self) {
        let keep = usize::try_from(self.policy.keep).unwrap_or(usize::MAX).max(1);
        // One that is on its way outlives its turn, and costs no younger one its own: the newest
        // is what the log vouches for.
        let mut excess = self.kept.len().saturating_sub(keep);
        if excess > 0 && has(Defect::KeepTooFew) {
            excess = self.kept.len();
        }
        self.remove(|_| {
            let is_old = excess > 0;
            excess = excess.saturating_sub(1);
            is_old
        });
    }

    /// Removes the files that are not on their way (B3) and of which this is true.
    fn remove(&mut self, mut is_unwanted: impl FnMut(&Kept) -> bool) {
        let (sending, tasks) = (&self.sending, &mut self.tasks);
        self.kept.retain(|kept| {
            let is_sent = sending.values().any(|index| *index == kept.index);
            let is_doomed = is_unwanted(kept) && !is_sent;
            if is_doomed {
                tasks.push(Task::Remove(kept.path.clone()));
            }
            !is_doomed
        });
    }
}

impl Core {
    /// Takes a wish for a snapshot in; [`finish_turn`](Core::finish_turn) fulfils it.
    pub(crate) fn wish_snapshot(&mut self, wish: SnapshotWish) {
        self.snapshots.wishes.push(Wished { index: self.published, wish });
    }

    /// Work for other threads.
    pub(crate) fn take_tasks(&mut self) -> Vec<Task> {
        if let Some(preparation) = self.raw.mut_store().wal_mut().wants_segment() {
            self.snapshots.tasks.push(Task::Prepare(preparation));
        }
        std::mem::take(&mut self.snapshots.tasks)
    }

    /// Snapshots that raft wants to be sent.
    pub(crate) fn take_sendings(&mut self) -> Vec<Sending> {
        std::mem::take(&mut self.snapshots.to_send)
    }

    /// What another thread has done.
    ///
    /// # Errors
    ///
    /// A disk that fails where nothing can be lost by going on is an error all the same, unless it
    /// is only full.
    pub(crate) fn done(&mut self, done: Done) -> Result<(), Error> {
        match done {
            Done::Taken { index, result, took } => self.taken(index, result, took)?,
            Done::Removed(path, Err(error)) => {
                warn!(self.logger, "cannot remove a file that is not needed any more";
                    "path" => %path.display(), "error" => %error);
            }
            Done::Deleted(result) => {
                self.snapshots.is_deleting = false;
                let released = result.map_err(|error| Error::Disk(error.to_string()))?;
                info!(self.logger, "deleted old segments"; "segments" => released.n_segments,
                    "bytes" => released.bytes);
                self.release()?;
            }
            Done::Prepared(Ok(prepared)) => self.raw.mut_store().wal_mut().supply(prepared),
            Done::Prepared(Err(error)) => {
                // The log makes its next segment itself, and fails itself if it cannot.
                warn!(self.logger, "cannot prepare a segment"; "error" => %error);
            }
            Done::Synced => self.synced()?,
            Done::Removed(_, Ok(())) => {}
            Done::Panicked(what) => return Err(Error::Invariant(what)),
        }
        Ok(())
    }

    /// Asks the consumer for its state when a snapshot is due or wanted.
    pub(super) fn take_snapshot(&mut self) {
        let wanted = self.raw.mut_store().take_snapshot_wish();
        let snapshots = &mut self.snapshots;
        snapshots.is_wanted |= wanted;
        snapshots.fulfil();
        if snapshots.is_taking() || self.ticks < snapshots.not_before {
            return;
        }
        // Behind a newest one that was found damaged at the start the log takes no marker.
        let marked = self.raw.store().wal().marker().map_or(0, |marker| marker.index);
        let newest = snapshots.newest().map_or(0, |newest| newest.index).max(marked);
        let asked = snapshots.is_wanted || !snapshots.wishes.is_empty();
        if self.published <= newest || !(asked || snapshots.is_due(self.published)) {
            return;
        }
        snapshots.is_wanted = false;
        let (index, published_bytes) = (self.published, snapshots.published_bytes);
        snapshots.taking = Some(Taking { index, published_bytes });
        let mut header = Header {
            cluster: self.cluster,
            index,
            term: self.published_term,
            conf_state: in_order(self.raw.raft.prs().conf().to_conf_state()),
            book: self.book.clone(),
        };
        if has(Defect::ForgetRemoved) {
            header.book.removed.clear();
        }
        let request = SnapshotRequest::new(header, snapshots.captured.clone());
        if has(Defect::SnapshotAhead) {
            self.outgoing.push_front(Commit::Snapshot(request));
            return;
        }
        self.outgoing.push_back(Commit::Snapshot(request));
    }

    /// The consumer's state is in a temporary file, or there is none.
    fn taken(
        &mut self,
        index: u64,
        result: Result<SnapshotFile, NotTaken>,
        took: Duration,
    ) -> Result<(), Error> {
        let taking = self.snapshots.taking.take();
        let taking = taking.filter(|taking| taking.index == index);
        let bytes_at = taking.expect("B1: only what is being taken is taken").published_bytes;
        let written = match result {
            Ok(written) => written,
            Err(not_taken) => {
                self.snapshots.not_before = self.ticks + RETRY_TICKS;
                self.snapshots.refuse(Refusal::Unavailable);
                return self.not_taken(index, not_taken);
            }
        };
        if index <= self.raw.store().snapshot_index() {
            // A leader's snapshot came in between.
            self.snapshots.tasks.push(Task::Remove(written.path));
            return Ok(());
        }
        self.end_save()?;
        if has(Defect::MarkerFirst) {
            let conf_state = written.header.conf_state.clone();
            self.raw.mut_store().save_marker(written.marker, conf_state)?;
        }
        let named = written.give_final_name(&*self.snapshots.fs).map_err(disk)?;
        let SnapshotFile { header, path, bytes, marker, .. } = named;
        if !has(Defect::MarkerFirst) {
            self.raw.mut_store().save_marker(marker, header.conf_state)?;
        }
        self.snapshots.bytes_at_newest = bytes_at;
        self.metrics.snapshot_taken(took, bytes);
        info!(self.logger, "snapshot"; "index" => index, "term" => marker.term, "bytes" => bytes,
            "took_ms" => millis(took));
        self.snapshots.keep(Kept { index, term: marker.term, path, bytes });
        self.snapshots.fulfil();
        self.release()
    }

    fn not_taken(&mut self, index: u64, why: NotTaken) -> Result<(), Error> {
        match why {
            // Told to the peers as "not now": they ask again.
            NotTaken::Declined => {}
            NotTaken::Failed(Failure::Disk { operation, path, source }) if !is_full(&source) => {
                return Err(disk(Failure::Disk { operation, path, source }));
            }
            NotTaken::Failed(failure) => {
                error!(self.logger, "no snapshot"; "index" => index, "why" => %failure);
            }
        }
        Ok(())
    }

    /// Removes snapshots that the log no longer reaches back to, or that are too many, and lets go of
    /// the beginning of the log: all that neither the others, nor members that lag a little, nor
    /// snapshots on their way need. The bound in bytes overrides what such members need, and
    /// snapshots older than the one before the newest (B5).
    pub(super) fn release(&mut self) -> Result<(), Error> {
        self.forget_delivered();
        let wal = self.raw.store().wal();
        self.snapshots.remove(|kept| wal.term(kept.index) != Some(kept.term));
        self.snapshots.purge();
        let snapshots = &self.snapshots;
        let [older @ .., newest] = snapshots.kept.as_slice() else { return Ok(()) };
        if snapshots.is_deleting || has(Defect::NeverRelease) {
            return Ok(());
        }
        let (newest, policy) = (newest.index, snapshots.policy);
        let oldest = older.first().map_or(newest, |kept| kept.index);
        let before = older.last().map_or(newest, |kept| kept.index);
        let mut through = newest.saturating_sub(policy.catchup_entries).min(oldest);
        if self.raw.raft.state == StateRole::Leader {
            let live = self.live();
            let progress = self.raw.raft.prs().iter();
            let matched = progress.filter(|(id, _)| live.contains(id)).map(|(_, p)| p.matched);
            // One that has matched nothing needs a snapshot, not the log.
            through = through.min(matched.filter(|m| *m > 0).min().unwrap_or(through));
        }
        let forced = self.raw.store().wal().release_point(policy.retain_bytes);
        through = through.max(if has(Defect::NoWayBack) { forced } else { forced.min(before) });
        let sending = self.snapshots.sending.values().min().copied();
        through = through.min(sending.unwrap_or(through));
        let doomed = self.raw.mut_store().wal_mut().release(through);
        if let Some(doomed) = doomed.map_err(|error| Error::Disk(error.to_string()))? {
            self.snapshots.is_deleting = true;
            self.snapshots.tasks.push(Task::Delete(doomed));
        }
        Ok(())
    }

    /// Lets go of what was kept for a snapshot on its way, once its receiver has acknowledged it.
    ///
    /// # Errors
    ///
    /// What ends the node.
    pub(super) fn release_delivered(&mut self) -> Result<(), Error> {
        if self.snapshots.delivered.is_empty() { Ok(()) } else { self.release() }
    }

    /// Peers that have acknowledged the snapshot they were given need no more care than others;
    /// nor do those that went away.
    fn forget_delivered(&mut self) {
        let (live, progress) = (self.live(), self.raw.raft.prs());
        let leads = self.raw.raft.state == StateRole::Leader;
        let Snapshots { sending, delivered, undelivered, .. } = &mut self.snapshots;
        undelivered.retain(|peer, _| progress.get(*peer).is_some());
        delivered.retain(|peer| {
            let matched = progress.get(*peer).map_or(0, |progress| progress.matched);
            let waits = sending.get(peer).is_some_and(|index| matched < *index);
            let keeps = leads && waits && live.contains(peer);
            if !keeps {
                sending.remove(peer);
            }
            keeps
        });
    }

    /// raft sends a snapshot, whose file goes with the message.
    pub(super) fn send_snapshot(&mut self, message: Message) {
        let (to, index) = (message.to, message.get_snapshot().get_metadata().index);
        let is_moving =
            self.snapshots.sending.contains_key(&to) && !self.snapshots.delivered.contains(&to);
        let failed = self.snapshots.undelivered.get(&to);
        let is_moving = is_moving && !has(Defect::SendTwice);
        if is_moving || failed.is_some_and(|(until, _)| self.ticks < *until) {
            // One of an earlier leadership holds on to its file until it has arrived (B3). And who
            // just refused one, its disk being full, would refuse the next.
            self.snapshots.unsendable.push(to);
            return;
        }
        let kept = self.snapshots.kept.iter().find(|kept| kept.index == index);
        let Some(path) = kept.map(|kept| kept.path.clone()) else {
            // A newer one has replaced it since raft wrote the message: it is to ask again.
            self.snapshots.unsendable.push(to);
            return;
        };
        self.snapshots.delivered.remove(&to);
        self.snapshots.sending.insert(to, index);
        self.snapshots.to_send.push(Sending { message, path });
    }

    /// Tells raft what could not be sent, once no Ready is outstanding: it must not be stepped
    /// before that.
    pub(super) fn report_unsendable(&mut self) {
        for to in std::mem::take(&mut self.snapshots.unsendable) {
            self.raw.report_snapshot(to, SnapshotStatus::Failure);
        }
    }

    /// What became of a snapshot that was sent (B4).
    ///
    /// # Errors
    ///
    /// What ends the node.
    pub(crate) fn snapshot_reported(
        &mut self,
        to: u64,
        result: &Result<(), String>,
    ) -> Result<(), Error> {
        let status = match result {
            Ok(()) => SnapshotStatus::Finish,
            Err(why) => {
                warn!(self.logger, "a snapshot was not delivered"; "to" => to, "why" => why);
                SnapshotStatus::Failure
            }
        };
        self.metrics.snapshot_sent(result);
        if result.is_ok() {
            self.snapshots.delivered.insert(to);
            self.snapshots.undelivered.remove(&to);
            // A word from its loop, which may have stood still while it installed; its acknowledgement
            // is yet to come, by another connection, and finds what it needs next still kept (B3).
            if self.book.members.contains_key(&to) {
                self.heard.insert(to, self.ticks);
            }
        } else {
            self.snapshots.sending.remove(&to);
            let (until, again) = self.snapshots.undelivered.entry(to).or_default();
            *until = self.ticks + self.election_ticks * *again;
            *again = (2 * *again).clamp(1, MAX_PAUSE_TIMEOUTS);
        }
        self.raw.report_snapshot(to, status);
        self.release()
    }

    /// A leader's snapshot is here, in a durable file under a temporary name.
    ///
    /// # Errors
    ///
    /// What ends the node.
    pub(crate) fn receive_snapshot(
        &mut self,
        message: Message,
        received: Received,
        send: Send<'_>,
    ) -> Result<Result<(), String>, Error> {
        let metadata = message.get_snapshot().get_metadata();
        let header = &received.file().header;
        let same = (header.index, header.term) == (metadata.index, metadata.term)
            && is_same(&header.conf_state, metadata.get_conf_state());
        if !same || message.get_msg_type() != MessageType::MsgSnapshot {
            self.discard(received);
            return Ok(Err("the file is not the snapshot that the message names".into()));
        }
        // Nothing else may be in raft's hands when it takes a snapshot.
        self.handle_ready(send)?;
        let index = header.index;
        self.snapshots.received = Some(received);
        let stepped = self.step(message, send)?;
        let is_taken = self.raw.snap().is_some_and(|s| s.get_metadata().index == index);
        if is_taken {
            self.handle_ready(send)?;
        }
        if let Some(unneeded) = self.snapshots.received.take() {
            self.discard(unneeded);
        }
        Ok(stepped)
    }

    fn discard(&mut self, received: Received) {
        self.snapshots.tasks.push(Task::Remove(received.accept().path));
    }

    /// Makes the snapshot in raft's Ready the beginning of this member's log and state.
    pub(super) fn install(
        &mut self,
        snapshot: &Snapshot,
        entries: Vec<raft::eraftpb::Entry>,
        hard_state: Option<&raft::eraftpb::HardState>,
    ) -> Result<(), Error> {
        let started = Instant::now();
        let index = snapshot.get_metadata().index;
        let received = self.snapshots.received.take();
        let received = received.filter(|received| received.file().header.index == index);
        let received = received.expect("N4: raft restores a snapshot that was received").accept();
        if has(Defect::HardStateFirst) {
            self.raw.mut_store().save(Vec::new(), hard_state, true)?;
        }
        let named = received.give_final_name(&*self.snapshots.fs).map_err(disk)?;
        let SnapshotFile { header, path, bytes, marker, .. } = named;
        let conf_state = header.conf_state.clone();
        self.raw.mut_store().install(marker, conf_state, entries, hard_state)?;

        let reader = snapshot::Reader::open(&*self.snapshots.fs, &path).map_err(disk)?;
        let commit_index = self.raw.store().hard_state().commit;
        let state = Box::new(reader);
        let restore = Restore { index, term: marker.term, commit_index, state };
        let mut late = std::collections::VecDeque::new();
        if has(Defect::RepublishRestored) {
            std::mem::swap(&mut late, &mut self.outgoing);
        }
        for commit in std::mem::take(&mut self.outgoing) {
            if let Commit::Entries(entries) = commit {
                let waiters = entries.items.into_iter().filter_map(|item| item.waiter);
                waiters.for_each(|w| w.answer(Outcome::Unknown(Unknown::Restored)));
            }
        }
        if late.is_empty() && !has(Defect::LeakRoom) {
            self.outgoing_bytes = 0;
        }
        self.outgoing.push_back(Commit::Restore(restore));
        self.outgoing.append(&mut late);
        (self.published, self.published_term, self.handed) = (index, marker.term, index);
        self.proposals.restored();
        self.changes.restored();
        self.set_book(header.book, index);
        self.snapshots.bytes_at_newest = self.snapshots.published_bytes;
        self.snapshots.keep(Kept { index, term: marker.term, path, bytes });
        self.metrics.snapshot_installed(started.elapsed(), bytes);
        info!(self.logger, "installed a snapshot"; "index" => index, "term" => marker.term,
            "bytes" => bytes);
        self.release()
    }
}

/// Whether two configurations are the same, whatever the order of their members.
fn is_same(left: &raft::eraftpb::ConfState, right: &raft::eraftpb::ConfState) -> bool {
    let sorted = |ids: &[u64]| {
        let mut ids = ids.to_vec();
        ids.sort_unstable();
        ids
    };
    sorted(&left.voters) == sorted(&right.voters)
        && sorted(&left.learners) == sorted(&right.learners)
        && right.voters_outgoing.is_empty()
        && right.learners_next.is_empty()
}

/// Whether there was no room, for anyone or for us: that passes, and is no damage.
fn is_full(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded)
}

/// raft keeps the members in the order of a hash table; in a file they are in that of their ids, so
/// that all members' snapshots of one index are the same to the byte.
fn in_order(mut conf_state: ConfState) -> ConfState {
    conf_state.mut_voters().sort_unstable();
    conf_state.mut_learners().sort_unstable();
    conf_state
}

fn disk(failure: Failure) -> Error {
    Error::Disk(failure.to_string())
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
