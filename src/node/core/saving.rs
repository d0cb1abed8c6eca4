//! A leader's save that another thread syncs, so that a slow disk does not keep its leader from
//! hearing the others.
//!
//! Whoever waits for its own sync before it looks at what the others said hears of a batch that they
//! have synced meanwhile one sync too late, and the next batch has begun without it: on a slow disk
//! a write then often takes three syncs instead of two. Where syncs are quick, giving one to another
//! thread takes longer than to wait for it, and they are done where they are asked for.
//!
//! Invariants:
//! - V1 At most one save is under way, it is a leader's, and it holds entries: the log has no two
//!   batches that are not durable.
//! - V2 Whatever else needs the log's disk waits for it first: raft hands over nothing meanwhile but
//!   what can be done without.
//! - V3 So does raft's clock. The loop puts a tick off for a heartbeat's time at most, and stands from
//!   then on: a leader whose disk hangs falls silent, and another is elected.
//! - V4 raft counts the entries as this member's when they are durable, and not before: neither is
//!   anything committed by them nor is any of them published.

use std::time::Duration;

use crossbeam_channel::Sender;
use raft::eraftpb::{Entry, HardState};
use raft::{Ready, StateRole};
use wal::Written;
use wal::defects::{Defect, has};

use super::Core;
use super::pace::PATIENCE;
use crate::Error;

/// What is known of the disk, and what it is doing.
pub(super) struct Saving {
    /// Where batches go that another thread is to sync. Seldom more than one waits there: what
    /// somebody has waited for in the meantime.
    syncs: Sender<Written>,
    under_way: Option<UnderWay>,
    /// Syncs take long.
    is_slow: bool,
    /// What a script or a simulation wants believed instead.
    #[cfg(any(test, feature = "simulation"))]
    pretended: Option<bool>,
}

/// A batch that is written, and the Ready that it came with.
struct UnderWay {
    written: Written,
    ready: u64,
}

impl Saving {
    pub(super) fn new(syncs: Sender<Written>) -> Self {
        Self {
            syncs,
            under_way: None,
            is_slow: false,
            #[cfg(any(test, feature = "simulation"))]
            pretended: None,
        }
    }

    /// Whether syncs take so long that nobody should wait for one.
    fn is_slow(&self) -> bool {
        #[cfg(any(test, feature = "simulation"))]
        if let Some(pretended) = self.pretended {
            return pretended;
        }
        self.is_slow
    }

    /// A sync has taken so long. One between the two bounds changes no opinion.
    fn took(&mut self, sync: Duration) {
        self.is_slow = sync >= if self.is_slow { PATIENCE / 2 } else { PATIENCE };
    }
}

impl Core {
    /// Has this member take its disk for slow, or for quick, from now on.
    #[cfg(any(test, feature = "simulation"))]
    pub(crate) fn pretend_slow(&mut self, is_slow: bool) {
        self.saving.pretended = Some(is_slow);
    }

    pub(crate) fn is_saving(&self) -> bool {
        self.saving.under_way.is_some()
    }

    /// Whether this disk is taken for slow: then nothing is to be waited for while it is idle.
    pub(super) fn has_slow_disk(&self) -> bool {
        self.saving.is_slow()
    }

    /// Whether the next save may be synced by another thread (V1).
    pub(super) fn saves_elsewhere(&self, entries: &[Entry]) -> bool {
        self.leads() && !entries.is_empty() && self.saving.is_slow()
    }

    /// Writes what the Ready of this number has to save, and leaves the sync to another thread.
    ///
    /// # Errors
    ///
    /// A failed write.
    pub(super) fn begin_save(
        &mut self,
        ready: u64,
        entries: Vec<Entry>,
        hard_state: Option<&HardState>,
    ) -> Result<(), Error> {
        assert!(!self.is_saving(), "V1: a save begins while another is under way");
        let written = self.raw.mut_store().write(entries, hard_state)?;
        // The thread ends after the loop; and if it is gone, whoever waits for the sync does it.
        self.saving.syncs.send(written.clone()).ok();
        self.saving.under_way = Some(UnderWay { written, ready });
        Ok(())
    }

    /// raft may go on: what it handed over can be read, and is not durable.
    pub(super) fn advance_saving(&mut self, ready: Ready) {
        self.raw.advance_append_async(ready);
        if has(Defect::EarlyCount)
            && let Some(UnderWay { ready, .. }) = &self.saving.under_way
        {
            self.raw.on_persist_ready(*ready);
        }
    }

    /// Whether what raft would hand over now needs the log's disk, or comes of another role than that
    /// of the leader that the save under way belongs to (V2).
    pub(super) fn needs_disk(&self) -> bool {
        let (raft, last) = (&self.raw.raft, &self.last_hard);
        raft.state != StateRole::Leader
            || (raft.term, raft.vote) != (last.term, last.vote)
            || !raft.raft_log.unstable_entries().is_empty()
            || raft.snap().is_some()
            || self.raw.store().decides_change(raft.raft_log.committed)
    }

    /// Another thread has synced a batch: the one under way, unless somebody has waited for it.
    ///
    /// # Errors
    ///
    /// As [`end_save`](Core::end_save).
    pub(super) fn synced(&mut self) -> Result<(), Error> {
        match &self.saving.under_way {
            Some(UnderWay { written, .. }) if written.has_ended() => self.end_save(),
            _ => Ok(()),
        }
    }

    /// Waits for the save that is under way, if one is, and tells raft.
    ///
    /// # Errors
    ///
    /// The sync has failed.
    pub(super) fn end_save(&mut self) -> Result<(), Error> {
        let Some(UnderWay { written, ready }) = self.saving.under_way.take() else {
            return Ok(());
        };
        self.raw.mut_store().synced(written)?;
        self.saved();
        self.raw.on_persist_ready(ready);
        Ok(())
    }

    /// Entries are durable: notes how long that took.
    pub(super) fn saved(&mut self) {
        let wal = self.raw.store().wal();
        self.saving.took(wal.last_sync());
        self.proposals.saved(wal.last_save());
    }
}
