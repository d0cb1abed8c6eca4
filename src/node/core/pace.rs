//! What a leader puts off for a moment, so that one message, one write and one sync serve more.
//!
//! - While a batch of proposals is on its way to a majority, the next one gathers: it is proposed
//!   when the first is committed, so that all who wait share its sync and its messages (Nagle's
//!   rule, RFC 896, for a log). Whoever is alone never waits: nothing is on its way then.
//! - That entries are committed is told to followers by the next append, which comes soon under
//!   load, and saves a message, its answer and four wakes a write. Where a follower's own client
//!   waits for it, it is told at once; membership changes too, by raft itself.
//!
//! Neither takes longer than [`PATIENCE`], so that distant members do not make batches wait for their
//! whole round trip, and followers lag by no more than that. A batch's patience begins when this
//! member's own sync is over. On a slow disk, whose syncs another thread does (see `saving`), proposals
//! gather for as long as a sync takes instead, and no longer. Readers at followers hardly notice: a read's own
//! round carries the commit index to whoever has the entries (R2).

use std::time::{Duration, Instant};

use super::super::vigil::Awaited;
use super::{Core, Send};
use crate::Error;

/// The longest that anything is put off: a few times what a majority needs on a good disk and a
/// near network, and little beside a bad one.
pub(crate) const PATIENCE: Duration = Duration::from_millis(1);

/// How many forwarded proposals may gather, and how many bytes of them: what they take is counted
/// nowhere else.
const MAX_GATHERED: usize = 1024;
const MAX_GATHERED_BYTES: usize = 1 << 20;

/// What is put off, and until when.
#[derive(Debug, Default)]
pub(super) struct Pace {
    batch: Option<Batch>,
    /// The last index that another member proposed.
    last_forwarded: u64,
    /// The commit index that has been told.
    told: u64,
    /// When a newer one is told.
    tell_at: Option<Instant>,
}

/// What was proposed last.
#[derive(Debug)]
struct Batch {
    last_index: u64,
    term: u64,
    /// Until when it is waited for.
    until: Instant,
    /// Whether that counts from the end of the turn that proposed it.
    is_saved: bool,
}

impl Pace {
    /// The batch is committed, or has been waited for long enough.
    pub(super) fn waited(&mut self) {
        self.batch = None;
    }
}

impl Core {
    /// Whether new proposals are to wait for those that are on their way, or for the disk.
    pub(crate) fn gathers(&self, now: Instant) -> bool {
        self.has_gathered_room() && self.is_saving()
            || self.gathers_until().is_some_and(|until| now < until)
    }

    /// What a majority is to answer, if that is waited for.
    pub(crate) fn awaited(&self) -> Option<Awaited> {
        let batch = self.pace.batch.as_ref().filter(|_| self.gathers_until().is_some());
        let batch = batch.map(|batch| Awaited::Batch(batch.last_index));
        batch.or_else(|| self.reads.lone_round().map(Awaited::Round))
    }

    /// This member stops: whatever there is is proposed now, or refused.
    ///
    /// # Errors
    ///
    /// The log's disk, which may have to be waited for, fails.
    pub(crate) fn gather_no_more(&mut self) -> Result<(), Error> {
        self.pace.waited();
        self.end_save()
    }

    /// The turn that proposed the batch is over, with its sync, or the next one begins.
    pub(crate) fn begin_wait(&mut self, now: Instant) {
        if let Some(batch) = self.pace.batch.as_mut().filter(|batch| !batch.is_saved) {
            (batch.until, batch.is_saved) = (now + PATIENCE, true);
        }
    }

    fn gathers_until(&self) -> Option<Instant> {
        let &Batch { last_index, term, until, .. } = self.pace.batch.as_ref()?;
        let raft = &self.raw.raft;
        let under_way = self.leads() && raft.term == term && raft.raft_log.committed < last_index;
        // A slow disk is not to stand idle, and its leader hears the others all the same.
        let waits = !self.has_slow_disk() && self.has_gathered_room();
        (under_way && waits).then_some(until)
    }

    fn has_gathered_room(&self) -> bool {
        self.forwarded.len() < MAX_GATHERED
            && self.forwarded.iter().map(|f| f.data.len()).sum::<usize>() < MAX_GATHERED_BYTES
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
        let (term, until) = (self.raw.raft.term, now + PATIENCE);
        self.pace.batch = Some(Batch { last_index, term, until, is_saved: false });
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
