//! What a leader puts off for a moment, so that one message, one write and one sync serve more.
//!
//! - While a batch of proposals is on its way to a majority, the next one gathers: it is proposed
//!   when the first is committed, so that all who wait share its sync and its messages (Nagle's
//!   rule, RFC 896, for a log). Whoever is alone never waits: nothing is on its way then.
//! - That entries are committed is told to followers by the next append, which comes soon under
//!   load, and saves a message, its answer and four wakes a write. Where a follower's own client
//!   waits for it, it is told at once; membership changes too, by raft itself.
//!
//! Neither takes longer than [`PATIENCE`], so that distant members and slow disks do not make
//! batches wait for their whole round trip, and followers lag by no more than that. Readers at
//! followers are not concerned: a read's own round carries the commit index (R2).

use std::time::{Duration, Instant};

use super::{Core, Send};
use crate::Error;

/// The longest that anything is put off: a few times what a majority needs on a good disk and a
/// near network, and little beside a bad one.
pub(crate) const PATIENCE: Duration = Duration::from_millis(1);

/// How many forwarded proposals may gather: what they take is counted nowhere else.
const MAX_GATHERED: usize = 1024;

/// What is put off, and until when.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// The last index of the batch that was proposed last, its term, and until when it is waited for.
    batch: Option<(u64, u64, Instant)>,
    /// The last index that another member proposed.
    last_forwarded: u64,
    /// The commit index that has been told.
    told: u64,
    /// When a newer one is told.
    tell_at: Option<Instant>,
}

impl Pace {
    /// The batch is committed, or has been waited for long enough.
    pub(super) fn waited(&mut self) {
        self.batch = None;
    }
}

impl Core {
    /// Whether new proposals are to wait for those that are on their way.
    pub(crate) fn gathers(&self, now: Instant) -> bool {
        self.gathers_until().is_some_and(|until| now < until)
    }

    /// Whether a batch is on its way to a majority, and is waited for.
    pub(crate) fn awaits_majority(&self) -> bool {
        self.gathers_until().is_some()
    }

    fn gathers_until(&self) -> Option<Instant> {
        let (last_index, term, until) = self.pace.batch?;
        let raft = &self.raw.raft;
        let under_way = self.leads() && raft.term == term && raft.raft_log.committed < last_index;
        (under_way && self.forwarded.len() < MAX_GATHERED).then_some(until)
    }

    /// When something that was put off is due, if nothing happens before.
    pub(crate) fn due(&self) -> Option<Instant> {
        let [gathered, told] = [self.gathers_until(), self.pace.tell_at];
        gathered.into_iter().chain(told).min()
    }

    /// raft took a batch of proposals, and its appends carry the commit index.
    pub(super) fn proposed(&mut self, now: Instant, any_forwarded: bool) {
        let log = &self.raw.raft.raft_log;
        let last_index = log.last_index();
        self.pace.batch = Some((last_index, self.raw.raft.term, now + PATIENCE));
        self.pace.told = log.committed;
        if any_forwarded {
            self.pace.last_forwarded = last_index;
        }
    }

    /// Tells the followers what is committed, when they are to hear of it.
    pub(super) fn tell_commit(&mut self, now: Instant, send: Send<'_>) -> Result<(), Error> {
        let (leads, commit) = (self.leads(), self.raw.raft.raft_log.committed);
        let pace = &mut self.pace;
        if !leads || pace.told >= commit {
            pace.tell_at = None;
            return Ok(());
        }
        let due = *pace.tell_at.get_or_insert(now + PATIENCE);
        if now < due && pace.told >= pace.last_forwarded {
            return Ok(());
        }
        (pace.told, pace.tell_at) = (commit, None);
        self.raw.raft.bcast_append();
        self.handle_ready(send)
    }
}
