//! What travels from a handle to the loop, each with the way back for its one answer.

use std::any::{Any, type_name};
use std::convert::Infallible;
use std::fmt;
use std::time::Instant;

use bytes::Bytes;

use super::admission::Permit;
use super::outcome::{
    Consistency, Outcome, Read, Refusal, SnapshotTaken, Transferred, Unknown, Verified,
};
use super::trace::Trace;
use crate::membership::{Change, ChangeOptions, Changed};

/// What the node's loop receives from a [`Handle`].
pub(crate) enum Request {
    Propose(Proposal),
    Read(ReadRequest),
    Change(ChangeRequest),
    Snapshot(SnapshotWish),
    Transfer(TransferRequest),
    Shutdown,
}

/// Leadership is to be handed over.
pub(crate) struct TransferRequest {
    pub(crate) to: Option<u64>,
    pub(crate) deadline: Instant,
    pub(super) reply: oneshot::Sender<Transferred>,
    pub(super) permit: Permit,
}

impl TransferRequest {
    /// Answers the call; nobody may be listening any more.
    pub(crate) fn answer(self, transferred: Transferred) {
        let Self { reply, permit, .. } = self;
        drop(permit);
        // The caller may have given up waiting: then the answer has nowhere to go.
        reply.send(transferred).ok();
    }
}

/// A membership change on its way to the leader.
pub(crate) struct ChangeRequest {
    pub(crate) change: Change,
    pub(crate) options: ChangeOptions,
    pub(crate) deadline: Instant,
    pub(crate) reply: oneshot::Sender<Changed>,
    pub(crate) permit: Permit,
}

impl ChangeRequest {
    /// Answers the call; nobody may be listening any more.
    pub(crate) fn answer(self, changed: Changed) {
        let Self { reply, permit, .. } = self;
        permit.metrics().change(&changed);
        // Whoever has the answer finds the place free.
        drop(permit);
        // The caller may have given up waiting: then the answer has nowhere to go.
        reply.send(changed).ok();
    }
}

/// Somebody wants a snapshot of everything that is applied now.
pub(crate) struct SnapshotWish {
    pub(crate) deadline: Instant,
    pub(crate) reply: oneshot::Sender<SnapshotTaken>,
    pub(crate) _permit: Permit,
}

impl SnapshotWish {
    /// Answers the wish; nobody may be listening any more.
    pub(crate) fn answer(self, taken: SnapshotTaken) {
        // Whoever wished may have given up waiting: then the answer has nowhere to go.
        self.reply.send(taken).ok();
    }
}

/// A command on its way into the log.
pub(crate) struct Proposal {
    pub(crate) data: Bytes,
    pub(crate) deadline: Instant,
    pub(crate) waiter: Waiter,
}

/// A read on its way to an index, or a question on its way to a quorum.
pub(crate) struct ReadRequest {
    pub(crate) min_index: u64,
    pub(crate) deadline: Instant,
    pub(super) reply: ReadReply,
    pub(super) permit: Permit,
}

/// What is wanted to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// When the state may be read.
    Read(Consistency),
    /// Whether this member leads, by a quorum's word.
    Verify,
}

/// To whom it is told.
pub(super) enum ReadReply {
    Read(Consistency, oneshot::Sender<Read>),
    Verify(oneshot::Sender<Verified>),
}

impl ReadRequest {
    pub(crate) fn purpose(&self) -> Purpose {
        match &self.reply {
            ReadReply::Read(consistency, _) => Purpose::Read(*consistency),
            ReadReply::Verify(_) => Purpose::Verify,
        }
    }

    /// Whether a quorum has to be asked.
    pub(crate) fn needs_round(&self) -> bool {
        matches!(self.purpose(), Purpose::Read(Consistency::Linearizable) | Purpose::Verify)
    }

    /// The state may be read: it holds everything through `index`.
    ///
    /// # Panics
    ///
    /// When it is not the state that is asked for.
    pub(crate) fn ready(self, index: u64) {
        match self.reply {
            ReadReply::Read(_, reply) => Self::send(reply, self.permit, Read::Ready { index }),
            ReadReply::Verify(_) => unreachable!("R2: who asks for a leader waits for no index"),
        }
    }

    /// A quorum has confirmed that this member leads `term`.
    ///
    /// # Panics
    ///
    /// When that is not what was asked.
    pub(crate) fn verified(self, term: u64) {
        match self.reply {
            ReadReply::Verify(reply) => {
                Self::tell(reply, self.permit, Verified::Leads { term });
            }
            ReadReply::Read(..) => unreachable!("R2: a read is answered at an index"),
        }
    }

    /// It cannot be answered.
    pub(crate) fn refuse(self, refusal: Refusal) {
        match self.reply {
            ReadReply::Read(_, reply) => Self::send(reply, self.permit, Read::Refused(refusal)),
            ReadReply::Verify(reply) => {
                Self::tell(reply, self.permit, Verified::Refused(refusal));
            }
        }
    }

    fn send(reply: oneshot::Sender<Read>, permit: Permit, read: Read) {
        permit.metrics().read(&read);
        drop(permit);
        // The reader may have given up waiting: then the answer has nowhere to go.
        reply.send(read).ok();
    }

    fn tell(reply: oneshot::Sender<Verified>, permit: Permit, verified: Verified) {
        drop(permit);
        // Who asked may have given up waiting, as above.
        reply.send(verified).ok();
    }
}

/// The sending end of a proposer's [`Pending`], whatever type of response it waits for.
pub(super) trait Reply: Any + Send {
    /// Ends the proposal without a response.
    fn end(self: Box<Self>, outcome: Outcome<Infallible>);
}

impl<R: Send + 'static> Reply for oneshot::Sender<Outcome<R>> {
    fn end(self: Box<Self>, outcome: Outcome<Infallible>) {
        let outcome = match outcome {
            Outcome::Applied { response, .. } => match response {},
            Outcome::Refused(refusal) => Outcome::Refused(refusal),
            Outcome::Unknown(unknown) => Outcome::Unknown(unknown),
        };
        // The proposer may have given up waiting: then the answer has nowhere to go.
        self.send(outcome).ok();
    }
}

/// Whoever holds it owes its proposer an [`Outcome`]; dropping it answers
/// [`Unknown::Stopped`].
pub(crate) struct Waiter {
    /// `None` once it is used.
    pub(super) reply: Option<(Box<dyn Reply>, Permit)>,
    pub(super) trace: Option<Trace>,
}

impl Waiter {
    /// Where it is noted how far the command has come, if somebody wants to know.
    pub(crate) fn trace(&self) -> Option<&Trace> {
        self.trace.as_ref()
    }

    /// Tells the proposer that its command is not applied, or that nobody knows; nobody may be
    /// listening any more.
    pub(crate) fn answer(mut self, outcome: Outcome<Infallible>) {
        self.end(outcome);
    }

    fn end(&mut self, outcome: Outcome<Infallible>) {
        let Some((reply, permit)) = self.reply.take() else { return };
        permit.metrics().proposal(&outcome);
        // Whoever has the answer finds the place free.
        drop(permit);
        reply.end(outcome);
    }

    /// See C3.
    pub(crate) fn applied<R: Send + 'static>(mut self, index: u64, term: u64, response: R) {
        let Some((reply, permit)) = self.reply.take() else { return };
        if let Some(trace) = &self.trace {
            trace.applied();
        }
        let reply: Box<dyn Any> = reply;
        let reply = reply.downcast::<oneshot::Sender<Outcome<R>>>().unwrap_or_else(|_| {
            panic!(
                "C3: the proposer of index {index} waits for a response of another type than {}",
                type_name::<R>()
            )
        });
        let outcome = Outcome::Applied { index, term, response };
        permit.metrics().proposal(&outcome);
        drop(permit);
        // The proposer may have given up waiting: then the answer has nowhere to go.
        reply.send(outcome).ok();
    }
}

impl fmt::Debug for Waiter {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Waiter").finish_non_exhaustive()
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.end(Outcome::Unknown(Unknown::Stopped));
    }
}
