//! What becomes of whatever was asked of a node, and the answer while it is on its way.

use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;

use super::trace::Trace;
use crate::membership::ChangeRefusal;

/// How a proposal ended. See C1 in the module's documentation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome<R = Bytes> {
    /// The entry is committed and the consumer has applied it on this member.
    Applied {
        /// The index of its entry in the log.
        index: u64,
        /// The term of its entry.
        term: u64,
        /// What the consumer answered with
        /// [`CommittedEntry::answer`](crate::CommittedEntry::answer), or what the state machine's
        /// [`apply`](crate::machine::StateMachine::apply) gave.
        response: R,
    },
    /// The proposal is definitely not in the log and never will be.
    Refused(Refusal),
    /// It may or may not be applied, now or later. Retrying may apply it twice.
    Unknown(Unknown),
}

/// Why a proposal, or a read, was definitely refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Nobody was known to lead until the deadline.
    #[error("no leader was known until the deadline")]
    NoLeader,
    /// Too many proposals or reads, by count or by bytes, are waiting already.
    #[error("too many requests are waiting, here or at the leader, or its disk is nearly full")]
    Overloaded,
    /// The disk that holds this member's data directory is nearly full.
    #[error(
        "the disk of this member's data directory has {free_bytes} bytes free, and \
         --min-free-bytes keeps {min_free_bytes} of them from writes"
    )]
    LowDisk {
        /// How many bytes were free at the last look.
        free_bytes: u64,
        /// [`crate::Config::min_free_bytes`].
        min_free_bytes: u64,
    },
    /// A leader of a later term took over before the proposal was in the log.
    #[error("a new leader took over before the proposal was accepted")]
    Superseded,
    /// The encoded command is larger than [`crate::Config::max_entry_bytes`].
    #[error("the command is larger than an entry may be")]
    TooLarge,
    /// The node is stopping.
    #[error("the node is shutting down")]
    ShuttingDown,
    /// This member does not lead, and the read asked for the leader.
    #[error("this member is not the leader")]
    NotLeader,
    /// The read could not be confirmed, or not applied, until its deadline.
    #[error("the deadline passed before the read could be confirmed")]
    Unavailable,
    /// The lowest index to wait for is more than [`MAX_INDEX_AHEAD`] beyond the log's last one:
    /// nobody was ever given such an index.
    #[error("the index to wait for is more than {MAX_INDEX_AHEAD} beyond the last one")]
    MinIndex,
    /// A command without a byte: in the log that is a leader's or a barrier's entry, and no
    /// consumer ever sees it.
    #[error("the command is empty")]
    Empty,
}

/// How far beyond the last index of this member's log a read may wait for an index: further than
/// a member that works can be behind.
pub const MAX_INDEX_AHEAD: u64 = 1 << 20;

/// Why nobody can say what became of a proposal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unknown {
    /// Its deadline passed while it was on its way.
    #[error("the deadline passed while the proposal was on its way")]
    Deadline,
    /// A snapshot replaced the part of the log that may hold it.
    #[error("a snapshot replaced the part of the log that may hold the proposal")]
    Restored,
    /// The node stopped, or its consumer dropped the entry without an answer.
    #[error("the node stopped before the outcome was known")]
    Stopped,
}

/// Which state a read may see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Consistency {
    /// Everything that was acknowledged, anywhere, before the read was asked (ReadIndex, Safe
    /// mode: thesis 6.4). The default.
    #[default]
    Linearizable,
    /// What this member has applied, while it believes that it leads. A deposed leader that does
    /// not know yet may answer; other members refuse with [`Refusal::NotLeader`].
    Leader,
    /// Whatever this member has applied. Useful with a lowest index to wait for.
    Stale,
}

/// How a read ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Read {
    /// The consumer has applied at least this index: read its state now.
    Ready {
        /// What the state holds at least.
        index: u64,
    },
    /// The read cannot be answered.
    Refused(Refusal),
}

/// How the question whether this member leads ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verified {
    /// After the question was asked a quorum still followed this member.
    Leads {
        /// The term that it led then.
        term: u64,
    },
    /// It does not lead, or nobody can tell.
    Refused(Refusal),
}

/// How a hand-over of leadership ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transferred {
    /// Another member leads, or the wanted one did already, and this member knows it.
    Done {
        /// Who leads now.
        leader_id: u64,
        /// Its term.
        term: u64,
    },
    /// Leadership was not handed over as asked; who leads now is another question.
    Refused(ChangeRefusal),
}

/// How a wish for a snapshot ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SnapshotTaken {
    /// A snapshot that holds everything applied when it was asked for is durable.
    Taken {
        /// The last index that it holds.
        index: u64,
        /// The term of that entry.
        term: u64,
    },
    /// None was taken.
    Refused(Refusal),
}

/// An answer that is on its way: await it on any executor, or [`wait`](Pending::wait) for it.
#[derive(Debug)]
pub struct Pending<T> {
    pub(super) receiver: oneshot::Receiver<T>,
    /// What stands for an answer that never comes.
    pub(super) lost: fn() -> T,
    pub(super) trace: Option<Trace>,
}

impl<T> Pending<T> {
    pub(super) fn new(receiver: oneshot::Receiver<T>, lost: fn() -> T) -> Self {
        Self { receiver, lost, trace: None }
    }

    /// Where the time goes, if this is a proposal that is traced: when it was asked for, and for a
    /// few others. Says something once the answer was taken from here.
    pub fn trace(&self) -> Option<Trace> {
        self.trace.clone()
    }

    /// Blocks the calling thread until the answer is there. Bounded by the deadline that the
    /// request was made with, and the consumer's time to apply.
    pub fn wait(self) -> T {
        let Self { receiver, lost, trace } = self;
        let answer = receiver.recv();
        took(trace.as_ref());
        answer.unwrap_or_else(|_| lost())
    }

    /// The answer, if it is there already. It is given once.
    pub fn try_wait(&mut self) -> Option<T> {
        match self.receiver.try_recv() {
            Ok(answer) => {
                took(self.trace.as_ref());
                Some(answer)
            }
            Err(oneshot::TryRecvError::Disconnected) => Some((self.lost)()),
            Err(oneshot::TryRecvError::Empty) => None,
        }
    }

    /// As [`wait`](Self::wait), for at most `timeout`; `None` when it passed.
    pub fn wait_timeout(self, timeout: Duration) -> Option<T> {
        let Self { receiver, lost, trace } = self;
        match receiver.recv_timeout(timeout) {
            Ok(answer) => {
                took(trace.as_ref());
                Some(answer)
            }
            Err(oneshot::RecvTimeoutError::Disconnected) => Some(lost()),
            Err(oneshot::RecvTimeoutError::Timeout) => None,
        }
    }
}

impl<T> IntoFuture for Pending<T> {
    type Output = T;
    type IntoFuture = Answer<T>;

    fn into_future(self) -> Answer<T> {
        let Self { receiver, lost, trace } = self;
        Answer { receiver: receiver.into_future(), lost, trace }
    }
}

/// The proposer has its answer.
fn took(trace: Option<&Trace>) {
    if let Some(trace) = trace {
        trace.answered();
    }
}

/// The future behind an awaited [`Pending`].
#[derive(Debug)]
pub struct Answer<T> {
    receiver: oneshot::AsyncReceiver<T>,
    lost: fn() -> T,
    trace: Option<Trace>,
}

impl<T> Unpin for Answer<T> {}

impl<T> Future for Answer<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let answer = Pin::new(&mut self.receiver).poll(context);
        answer.map(|received| {
            took(self.trace.as_ref());
            received.unwrap_or_else(|_| (self.lost)())
        })
    }
}
