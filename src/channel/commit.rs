//! What comes out of a node: committed entries, states to take over, states to capture.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use bytes::Bytes;
use crossbeam_channel::Sender;

use super::request::Waiter;
use crate::snapshot::Header;

/// What a node hands to its consumer, in log order. See C2 in the module's documentation.
#[derive(Debug)]
pub enum Commit {
    /// Forget everything and take this state; only entries after its index follow. Always the
    /// first item after a start.
    Restore(Restore),
    /// The next committed entries.
    Entries(Entries),
    /// Capture the state as it is now, with everything before this item and nothing after it.
    Snapshot(SnapshotRequest),
}

/// Writes a captured state; runs once, on a thread of the node's.
pub(crate) type WriteState = Box<dyn FnOnce(&mut dyn io::Write) -> io::Result<()> + Send>;

/// A consumer's answer to a [`SnapshotRequest`].
pub(crate) struct Captured {
    pub(crate) header: Header,
    /// None: the consumer declined, or dropped the request.
    pub(crate) write: Option<WriteState>,
}

/// The node's wish for the consumer's state. Dropping it declines; the node asks again later.
pub struct SnapshotRequest {
    /// The state to capture holds exactly the entries up to and including this index: what has
    /// been applied when this item is taken from the channel.
    pub index: u64,
    /// The term of that entry.
    pub term: u64,
    header: Option<Header>,
    captured: Sender<Captured>,
}

impl SnapshotRequest {
    pub(crate) fn new(header: Header, captured: Sender<Captured>) -> Self {
        Self { index: header.index, term: header.term, header: Some(header), captured }
    }

    /// Hands over the state. Capturing must be cheap, a clone of a persistent map or of a
    /// pointer, since no entry is applied meanwhile; `write` then runs on another thread and
    /// takes the time it needs. What it writes is what [`Restore::state`] gives back. An error
    /// that it returns abandons this snapshot and is logged.
    pub fn capture<F>(mut self, write: F)
    where
        F: FnOnce(&mut dyn io::Write) -> io::Result<()> + Send + 'static,
    {
        self.answer(Some(Box::new(write)));
    }

    fn answer(&mut self, write: Option<WriteState>) {
        if let Some(header) = self.header.take() {
            // The node may have ended: then nobody wants the snapshot.
            self.captured.send(Captured { header, write }).ok();
        }
    }
}

impl Drop for SnapshotRequest {
    fn drop(&mut self) {
        self.answer(None);
    }
}

impl fmt::Debug for SnapshotRequest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("SnapshotRequest")
            .field("index", &self.index)
            .field("term", &self.term)
            .finish_non_exhaustive()
    }
}

/// A snapshot's state, to be read by the consumer.
pub struct Restore {
    /// The state holds exactly the entries up to and including this index.
    pub index: u64,
    /// The term of that entry.
    pub term: u64,
    /// What was already known to be committed when the snapshot was handed over. Until that is
    /// applied the state is older than one that was shown before, and best kept to oneself.
    pub commit_index: u64,
    /// The bytes that the consumer wrote when the snapshot was taken; none for a cluster that
    /// has just been founded.
    pub state: Box<dyn io::Read + Send>,
}

impl fmt::Debug for Restore {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Restore")
            .field("index", &self.index)
            .field("term", &self.term)
            .finish_non_exhaustive()
    }
}

/// A contiguous range of the log, as the consumer sees it.
#[derive(Debug)]
pub struct Entries {
    /// Everything up to and including this index is committed and, after this item, handed
    /// over. Leaders' empty entries and membership changes move it without an entry in `items`.
    pub last_index: u64,
    /// The term of the entry at `last_index`.
    pub last_term: u64,
    /// The proposals among them.
    pub items: Vec<CommittedEntry>,
    /// What it weighs against the bound of the queue it waits in.
    pub(crate) bytes: u64,
}

/// One committed proposal.
#[derive(Debug)]
pub struct CommittedEntry {
    /// Its index in the log.
    pub index: u64,
    /// The term it was proposed in.
    pub term: u64,
    /// The command.
    pub data: Bytes,
    pub(crate) waiter: Option<Waiter>,
}

impl CommittedEntry {
    /// Whether a proposer on this member waits for the answer. The others can be forgotten once
    /// they are applied.
    #[must_use]
    pub fn is_awaited(&self) -> bool {
        self.waiter.is_some()
    }

    /// Whoever reads sees it since `at`.
    pub(crate) fn shown(&self, at: Instant) {
        if let Some(trace) = self.waiter.as_ref().and_then(Waiter::trace) {
            trace.shown(at);
        }
    }

    /// Tells the proposer, if it waits on this member, what applying the command gave. Call it
    /// after the state shows the command.
    ///
    /// # Panics
    ///
    /// C3: when the command was proposed through a [`crate::machine::Handle`], whose proposers
    /// wait for a state machine's response.
    pub fn answer(self, response: Bytes) {
        self.respond(response);
    }

    /// As [`answer`](Self::answer), to a proposer that waits for an `R`. See C3.
    pub(crate) fn respond<R: Send + 'static>(self, response: R) {
        if let Some(waiter) = self.waiter {
            waiter.applied(self.index, self.term, response);
        }
    }
}

/// Where the consumer says how far it has come. Reads wait for it.
#[derive(Debug, Clone)]
pub struct Applied {
    pub(crate) cell: Arc<AppliedCell>,
    pub(crate) wake: Sender<()>,
}

/// The consumer's progress, and whether the loop wants to be woken by it.
#[derive(Debug, Default)]
pub(crate) struct AppliedCell {
    pub(crate) index: AtomicU64,
    pub(crate) awaited: AtomicBool,
}

impl Applied {
    /// The consumer's state now holds everything up to and including `index`. Cheap: one atomic
    /// store unless a read waits.
    pub fn report(&self, index: u64) {
        // Clones may report out of order; progress never goes back.
        self.cell.index.fetch_max(index, Ordering::SeqCst);
        if self.cell.awaited.swap(false, Ordering::SeqCst) {
            // Full means that a wake-up is on its way already; disconnected, that nobody waits.
            self.wake.try_send(()).ok();
        }
    }
}
