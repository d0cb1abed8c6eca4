//! What those outside the loop may know of the core, as of the end of a turn.

use std::sync::atomic::Ordering::{Relaxed, SeqCst};

use raft::StateRole;

use super::{Core, role_of};
use crate::config::HEARTBEAT_TICKS;
use crate::status::Shared;

/// Entries that may be committed and not yet applied while new proposals are let in. At fifty
/// thousand a second it is a tenth of a second of the consumer's work.
pub const MAX_LAG_ENTRIES: u64 = 5_000;

/// And their bytes: what a restart would have to apply, and what readers would wait for.
pub const MAX_LAG_BYTES: u64 = 64 << 20;

impl Core {
    /// Commits run too far ahead of what the consumer has applied. What is let in now would only
    /// wait longer: it is refused until the consumer has caught up.
    pub(super) fn lags(&self) -> bool {
        let applied = self.applied.index.load(SeqCst);
        let commit = self.raw.raft.raft_log.committed;
        commit > applied.saturating_add(MAX_LAG_ENTRIES)
            || self.raw.store().wal().bytes_between(applied + 1, commit + 1) > MAX_LAG_BYTES
    }

    /// Shows what this turn changed to those outside the loop.
    pub(crate) fn show(&self, shared: &Shared) {
        let raft = &self.raw.raft;
        let applied = self.applied.index.load(SeqCst);
        let log = &raft.raft_log;
        assert!(
            self.raw.store().snapshot_index() <= self.published
                && self.published <= log.committed
                && log.committed <= log.last_index(),
            "N1: snapshot {} <= published {} <= commit {} <= last {}",
            self.raw.store().snapshot_index(),
            self.published,
            log.committed,
            log.last_index()
        );
        shared.pending.lags.store(self.lags(), Relaxed);
        let refresh = self.ticks.is_multiple_of(u64::from(HEARTBEAT_TICKS));
        shared.update(|status| {
            status.role = role_of(raft.state);
            status.term = raft.term;
            status.leader_id = raft.leader_id;
            status.commit_index = log.committed;
            status.published_index = self.published;
            status.applied_index = applied;
            status.last_index = log.last_index();
            status.last_term = log.last_term();
            status.first_index = log.first_index();
            status.snapshot_index = self.raw.store().snapshot_index();
            status.snapshot_term = self.raw.store().snapshot_term();
            // A member that has just joined has nothing until its first snapshot.
            let caught_up = applied >= self.commit_at_start.max(1);
            status.ready = caught_up && raft.leader_id != raft::INVALID_ID;
            status.snapshot_bytes = self.snapshots.newest().map_or(0, |newest| newest.bytes);
            status.commit_queue_len = self.outgoing.len() as u64;
            status.commit_queue_bytes = self.outgoing_bytes;
            let silence = self.heard_leader.map(|tick| self.ticks.saturating_sub(tick));
            let silence = silence.and_then(|ticks| u32::try_from(ticks).ok());
            status.leader_silence =
                silence.map(|ticks| self.tick * ticks).filter(|_| raft.state != StateRole::Leader);
            status.taking_snapshot = self.snapshots.is_taking();
            if self.has_replayed() {
                status.book_index = self.book_index;
                if status.book_version != self.book_version {
                    status.book_version = self.book_version;
                    status.book.clone_from(&self.book);
                }
            }
            if refresh {
                status.matched.clear();
                status.live.clear();
                if raft.state == StateRole::Leader {
                    let matched = raft.prs().iter().map(|(id, progress)| (*id, progress.matched));
                    status.matched.extend(matched);
                    // raft counts its own entries as matched once they are persisted.
                    status.matched.insert(self.id, log.last_index());
                    status.live = self.live();
                }
            }
        });
    }
}
