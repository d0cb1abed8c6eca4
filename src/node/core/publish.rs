//! Committed entries on their way to the consumer, in log order (N3).
//!
//! raft cannot be paused: what it hands out while there is no room is forgotten here, and read
//! from the log again when there is.

use std::time::Instant;

use raft::eraftpb::{Entry, EntryType};
use wal::defects::{Defect, has};

use super::{Core, MAX_COMMITTED_BYTES};
use crate::Error;
use crate::channel::{Commit, CommittedEntry, Entries, Waiter};
use crate::key::Key;
use crate::storage::weight;

impl Core {
    pub(super) fn has_room(&self) -> bool {
        self.outgoing_bytes < self.raw.store().bounds().outgoing_bytes
            || has(Defect::UnboundedBacklog)
    }

    /// Queues committed entries for the consumer, as far as there is room. What does not fit is
    /// forgotten here and read from the log when there is room again.
    pub(super) fn publish(&mut self, entries: Vec<Entry>) -> Result<(), Error> {
        let mut now = None;
        for entry in entries {
            if entry.index <= self.published {
                continue;
            }
            if has(Defect::SkipMissed) && !self.has_room() {
                (self.published, self.published_term) = (entry.index, entry.term);
                continue;
            }
            if entry.index != self.published + 1 || !self.has_room() {
                break;
            }
            if entry.term < self.published_term {
                return Err(Error::Invariant(format!(
                    "N3: term falls from {} to {} at index {}",
                    self.published_term, entry.term, entry.index
                )));
            }
            self.proposals.supersede(entry.term, self.ticks);
            self.changes.supersede(entry.term, self.ticks);
            let (index, term) = (entry.index, entry.term);
            let bytes = weight(&entry);
            self.snapshots.published(bytes);
            let is_change = entry.get_entry_type() != EntryType::EntryNormal;
            if is_change && entry.data.is_empty() && has(Defect::SkipEmptyChange) {
                continue;
            }
            if is_change {
                self.push_outgoing(index, term, None, bytes);
                (self.published, self.published_term) = (index, term);
                self.publish_change(&entry);
                self.acknowledge_published();
                continue;
            }
            let item = match Key::decode(&entry.context) {
                Some(key) if entry.data.is_empty() => {
                    self.proposals.land_barrier(key, index, term);
                    None
                }
                key => key.map(|key| {
                    let waiter = self.proposals.land(key);
                    if let Some(trace) = waiter.as_ref().and_then(Waiter::trace) {
                        trace.committed(*now.get_or_insert_with(Instant::now));
                    }
                    CommittedEntry { index, term, data: entry.data, waiter }
                }),
            };
            self.push_outgoing(index, term, item, bytes);
            (self.published, self.published_term) = (index, term);
        }
        Ok(())
    }

    fn push_outgoing(
        &mut self,
        last_index: u64,
        last_term: u64,
        item: Option<CommittedEntry>,
        bytes: u64,
    ) {
        self.outgoing_bytes += bytes;
        let item_bytes = self.raw.store().bounds().item_bytes;
        if let Some(Commit::Entries(last)) = self.outgoing.back_mut()
            && last.bytes < item_bytes
        {
            assert_eq!(last.last_index + 1, last_index, "N3: published ranges touch");
            (last.last_index, last.last_term) = (last_index, last_term);
            last.bytes += bytes;
            last.items.extend(item);
            return;
        }
        let items = Vec::from_iter(item);
        self.outgoing.push_back(Commit::Entries(Entries { last_index, last_term, items, bytes }));
    }

    /// The next item for the consumer.
    pub(crate) fn next_commit(&mut self) -> Option<Commit> {
        let commit = self.outgoing.pop_front()?;
        if let Commit::Entries(entries) = &commit {
            self.outgoing_bytes -= entries.bytes;
        }
        Some(commit)
    }

    /// Takes back an item that the channel had no room for.
    pub(crate) fn return_commit(&mut self, commit: Commit) {
        if let Commit::Entries(entries) = &commit {
            self.outgoing_bytes += entries.bytes;
        }
        if has(Defect::ReorderCommits) {
            self.outgoing.push_back(commit);
            return;
        }
        self.outgoing.push_front(commit);
    }

    /// Checks that what waits is counted, and nothing else: bytes of what is gone would take their
    /// room for ever.
    #[cfg(any(test, feature = "simulation"))]
    pub(crate) fn check_outgoing(&self) {
        let bytes = |commit: &Commit| match commit {
            Commit::Entries(entries) => entries.bytes,
            Commit::Restore(_) | Commit::Snapshot(_) => 0,
        };
        let waiting: u64 = self.outgoing.iter().map(bytes).sum();
        assert_eq!(self.outgoing_bytes, waiting, "N3: the bytes that wait for the consumer");
    }

    pub(crate) fn has_commits(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Publishes what raft handed out while there was no room, from the log.
    ///
    /// # Errors
    ///
    /// A failed read.
    pub(crate) fn publish_missed(&mut self) -> Result<(), Error> {
        let through = self.handed.saturating_sub(has(Defect::ForgetBacklog).into());
        while self.published < through && self.has_room() {
            let (low, high) = (self.published + 1, self.handed + 1);
            let entries = self.raw.store().read(low, high, MAX_COMMITTED_BYTES)?;
            self.publish(entries)?;
        }
        self.acknowledge_published();
        Ok(())
    }

    pub(super) fn acknowledge_published(&mut self) {
        if self.published > self.raw.raft.raft_log.applied() {
            self.raw.advance_apply_to(self.published);
        }
    }
}
