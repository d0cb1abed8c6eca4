//! The public face of a node: proposals and reads go in, commits come out.
//!
//! ```text
//!  Handle::propose  ──► Pending<Outcome>       Commit::{Restore, Entries, Snapshot} ──► the consumer
//!  Handle::read     ──► Pending<Read>          Applied::report ◄── the consumer
//!  Handle::barrier  ──► Pending<Outcome<()>>
//!  Handle::change   ──► Pending<Changed>
//!  Handle::transfer ──► Pending<Transferred>
//!  Handle::snapshot ──► Pending<SnapshotTaken>
//! ```
//!
//! On the raw channels a response is bytes. [`crate::machine`] gives it the type of a state
//! machine's own; underneath, whoever waits for a proposal is the same [`Waiter`].
//!
//! Nothing here blocks the node: a full queue is refused at once, and a consumer that is slow
//! only grows the distance between what is committed and what it has been given.
//!
//! Invariants:
//! - C1 Every accepted proposal ends in exactly one [`Outcome`]; dropping a waiter is
//!   [`Outcome::Unknown`], never silence.
//! - C2 The commit channel is one FIFO: contiguous ranges, each index once, in log order.
//! - C3 A proposal is answered with the type of response that it was proposed with.

use std::any::{Any, type_name};
use std::convert::Infallible;
use std::fmt;
use std::future::{Future, IntoFuture};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, TrySendError};

use crate::leadership::{LeaderWatch, Leadership};
use crate::membership::{Change, ChangeOptions, ChangeRefusal, ChangeRefusalKind, Changed};
use crate::metrics::Metrics;
use crate::snapshot::Header;
use crate::stats::Stats;
use crate::status::{Shared, Status};

/// How a proposal ended. See C1 in the module's documentation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome<R = Bytes> {
    /// The entry is committed and the consumer has applied it on this member.
    Applied {
        /// The index of its entry in the log.
        index: u64,
        /// The term of its entry.
        term: u64,
        /// What the consumer answered with [`CommittedEntry::answer`], or what the state machine's
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
    #[error("too many requests are waiting")]
    Overloaded,
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
    /// It has been given to raft, and its proposer was told so too early.
    #[cfg(any(test, feature = "defects"))]
    #[error("the proposal was appended; nobody waited for more")]
    Appended,
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
    receiver: oneshot::Receiver<T>,
    /// What stands for an answer that never comes.
    lost: fn() -> T,
}

impl<T> Pending<T> {
    /// Blocks the calling thread until the answer is there. Bounded by the deadline that the
    /// request was made with, and the consumer's time to apply.
    pub fn wait(self) -> T {
        let Self { receiver, lost } = self;
        receiver.recv().unwrap_or_else(|_| lost())
    }

    /// The answer, if it is there already. It is given once.
    pub fn try_wait(&mut self) -> Option<T> {
        match self.receiver.try_recv() {
            Ok(answer) => Some(answer),
            Err(oneshot::TryRecvError::Disconnected) => Some((self.lost)()),
            Err(oneshot::TryRecvError::Empty) => None,
        }
    }

    /// As [`wait`](Self::wait), for at most `timeout`; `None` when it passed.
    pub fn wait_timeout(self, timeout: Duration) -> Option<T> {
        let Self { receiver, lost } = self;
        match receiver.recv_timeout(timeout) {
            Ok(answer) => Some(answer),
            Err(oneshot::RecvTimeoutError::Disconnected) => Some(lost()),
            Err(oneshot::RecvTimeoutError::Timeout) => None,
        }
    }
}

impl<T> IntoFuture for Pending<T> {
    type Output = T;
    type IntoFuture = Answer<T>;

    fn into_future(self) -> Answer<T> {
        Answer { receiver: self.receiver.into_future(), lost: self.lost }
    }
}

/// The future behind an awaited [`Pending`].
#[derive(Debug)]
pub struct Answer<T> {
    receiver: oneshot::AsyncReceiver<T>,
    lost: fn() -> T,
}

impl<T> Unpin for Answer<T> {}

impl<T> Future for Answer<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let answer = Pin::new(&mut self.receiver).poll(context);
        answer.map(|received| received.unwrap_or_else(|_| (self.lost)()))
    }
}

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
    reply: oneshot::Sender<Transferred>,
    permit: Permit,
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

#[cfg(any(test, feature = "defects"))]
impl Proposal {
    /// It was just given to raft; if that is the defect, its proposer is told now.
    pub(crate) fn spoil(mut self, defect: Option<crate::Defect>) -> Self {
        if defect == Some(crate::Defect::AckAtAppend) {
            self.waiter.end(Outcome::Unknown(Unknown::Appended));
        }
        self
    }
}

/// A read on its way to an index, or a question on its way to a quorum.
pub(crate) struct ReadRequest {
    pub(crate) purpose: Purpose,
    pub(crate) min_index: u64,
    pub(crate) deadline: Instant,
    reply: ReadReply,
    permit: Permit,
}

/// What is wanted to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// When the state may be read.
    Read(Consistency),
    /// Whether this member leads, by a quorum's word.
    Verify,
}

enum ReadReply {
    Read(oneshot::Sender<Read>),
    Verified(oneshot::Sender<Verified>),
}

impl ReadRequest {
    /// Whether a quorum has to be asked.
    pub(crate) fn needs_round(&self) -> bool {
        matches!(self.purpose, Purpose::Read(Consistency::Linearizable) | Purpose::Verify)
    }

    /// The state may be read: it holds everything through `index`.
    pub(crate) fn ready(self, index: u64) {
        let Self { reply, permit, .. } = self;
        if let ReadReply::Read(reply) = reply {
            Self::send(reply, permit, Read::Ready { index });
        }
    }

    /// A quorum has confirmed that this member leads `term`.
    pub(crate) fn verified(self, term: u64) {
        let Self { reply, permit, .. } = self;
        drop(permit);
        if let ReadReply::Verified(reply) = reply {
            // Who asked may have given up waiting: then the answer has nowhere to go.
            reply.send(Verified::Leads { term }).ok();
        }
    }

    /// It cannot be answered.
    pub(crate) fn refuse(self, refusal: Refusal) {
        let Self { reply, permit, .. } = self;
        match reply {
            ReadReply::Read(reply) => Self::send(reply, permit, Read::Refused(refusal)),
            ReadReply::Verified(reply) => {
                drop(permit);
                // As above.
                reply.send(Verified::Refused(refusal)).ok();
            }
        }
    }

    fn send(reply: oneshot::Sender<Read>, permit: Permit, read: Read) {
        permit.metrics().read(&read);
        drop(permit);
        // The reader may have given up waiting: then the answer has nowhere to go.
        reply.send(read).ok();
    }
}

/// The sending end of a proposer's [`Pending`], whatever type of response it waits for.
trait Reply: Any + Send {
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
    reply: Option<(Box<dyn Reply>, Permit)>,
}

impl Waiter {
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

/// The way into a node, for any number of threads. Dropping the last clone stops the node, as
/// [`shutdown`](Handle::shutdown) does.
#[derive(Debug, Clone)]
pub struct Handle {
    requests: Sender<Request>,
    shared: Arc<Shared>,
    admission: Arc<Admission>,
}

/// The way from the handles to the loop. What may wait in it is bounded by [`Limits`], and not by
/// the channel: what the loop has not taken when it ends must be dropped with its receiver, so
/// that whoever waits for it hears of it, and a bounded channel keeps it for as long as there is
/// a handle.
pub(crate) fn requests() -> (Sender<Request>, Receiver<Request>) {
    crossbeam_channel::unbounded()
}

impl Handle {
    pub(crate) fn new(requests: Sender<Request>, shared: Arc<Shared>, limits: Limits) -> Self {
        let metrics = Metrics::new(Arc::clone(&shared));
        let admission = Arc::new(Admission { limits, shared: Arc::clone(&shared), metrics });
        Self { requests, shared, admission }
    }

    /// Offers a command to the log; any member takes it. The answer comes by `deadline` plus the
    /// time the consumer takes to apply it.
    ///
    /// # Errors
    ///
    /// Refuses at once, without a trace in the log and without asking the loop, when too much is
    /// waiting already, when commits run more than [`MAX_LAG_ENTRIES`](crate::MAX_LAG_ENTRIES)
    /// or [`MAX_LAG_BYTES`](crate::MAX_LAG_BYTES) ahead of what the consumer has applied, when
    /// the command is empty or too large, or when the node has stopped.
    pub fn propose(&self, data: Bytes, deadline: Instant) -> Result<Pending<Outcome>, Refusal> {
        self.propose_for(data, deadline)
    }

    /// Offers an entry without a command to the log. Once it is applied, so is everything that
    /// was committed before: whoever has just learnt that it leads then knows the whole state
    /// (hashicorp's Barrier). The consumer does not see it; the answer comes by `deadline`.
    ///
    /// # Errors
    ///
    /// As [`propose`](Self::propose).
    pub fn barrier(&self, deadline: Instant) -> Result<Pending<Outcome<()>>, Refusal> {
        self.offer(Bytes::new(), deadline)
    }

    /// As [`propose`](Self::propose), for a consumer that answers with `R`. See C3.
    pub(crate) fn propose_for<R: Send + 'static>(
        &self,
        data: Bytes,
        deadline: Instant,
    ) -> Result<Pending<Outcome<R>>, Refusal> {
        if data.is_empty() {
            self.metrics().proposal(&Outcome::<Infallible>::Refused(Refusal::Empty));
            return Err(Refusal::Empty);
        }
        self.offer(data, deadline)
    }

    fn offer<R: Send + 'static>(
        &self,
        data: Bytes,
        deadline: Instant,
    ) -> Result<Pending<Outcome<R>>, Refusal> {
        let bytes = data.len() as u64;
        let permit = if bytes > self.admission.limits.max_entry_bytes {
            Err(Refusal::TooLarge)
        } else {
            Admission::admit_proposal(&self.admission, bytes)
        };
        let refused = |refusal: &Refusal| {
            self.metrics().proposal(&Outcome::<Infallible>::Refused(*refusal));
        };
        let permit = permit.inspect_err(refused)?;
        let (reply, receiver) = oneshot::channel::<Outcome<R>>();
        let waiter = Waiter { reply: Some((Box::new(reply), permit)) };
        self.submit(Request::Propose(Proposal { data, deadline, waiter }))?;
        Ok(Pending { receiver, lost: || Outcome::Unknown(Unknown::Stopped) })
    }

    /// Asks when a read may look at the consumer's state: at the given consistency, and not
    /// before `min_index` is applied (0: no such wish).
    ///
    /// # Errors
    ///
    /// Refuses at once when too much is waiting already, or when the node has stopped.
    pub fn read(
        &self,
        consistency: Consistency,
        min_index: u64,
        deadline: Instant,
    ) -> Result<Pending<Read>, Refusal> {
        let refused = |refusal: &Refusal| self.metrics().read(&Read::Refused(*refusal));
        let last_index = self.shared.pending.last_index.load(Ordering::Relaxed);
        let permit = if min_index > last_index.saturating_add(MAX_INDEX_AHEAD) {
            Err(Refusal::MinIndex)
        } else {
            Admission::admit(&self.admission, 0)
        };
        let permit = permit.inspect_err(refused)?;
        let (reply, receiver) = oneshot::channel();
        let (purpose, reply) = (Purpose::Read(consistency), ReadReply::Read(reply));
        self.submit(Request::Read(ReadRequest { purpose, min_index, deadline, reply, permit }))?;
        Ok(Pending { receiver, lost: || Read::Refused(Refusal::ShuttingDown) })
    }

    /// Asks a quorum whether this member leads: true at some moment after the question. A leader
    /// that does not know yet that it was deposed gets no such answer. (Hashicorp's VerifyLeader;
    /// the round is that of a linearizable read, thesis 6.4.)
    ///
    /// # Errors
    ///
    /// Refuses at once when too much is waiting already, or when the node has stopped.
    pub fn verify_leader(&self, deadline: Instant) -> Result<Pending<Verified>, Refusal> {
        let permit = Admission::admit(&self.admission, 0)?;
        let (reply, receiver) = oneshot::channel();
        let (purpose, reply) = (Purpose::Verify, ReadReply::Verified(reply));
        let request = ReadRequest { purpose, min_index: 0, deadline, reply, permit };
        self.submit(Request::Read(request))?;
        Ok(Pending { receiver, lost: || Verified::Refused(Refusal::ShuttingDown) })
    }

    /// Asks for leadership to be handed to `to`, or to the voter that has most of the log; any
    /// member takes the question. The answer comes when this member knows the new leader.
    ///
    /// # Errors
    ///
    /// Refuses at once when too much is waiting already, or when the node has stopped. Why
    /// leadership was not handed over comes as [`Transferred::Refused`].
    pub fn transfer(
        &self,
        to: Option<u64>,
        deadline: Instant,
    ) -> Result<Pending<Transferred>, Refusal> {
        let permit = Admission::admit(&self.admission, 0)?;
        let (reply, receiver) = oneshot::channel();
        self.submit(Request::Transfer(TransferRequest { to, deadline, reply, permit }))?;
        let lost = || {
            let message = Refusal::ShuttingDown.to_string();
            let kind = ChangeRefusalKind::ShuttingDown;
            Transferred::Refused(ChangeRefusal { kind, message })
        };
        Ok(Pending { receiver, lost })
    }

    /// Who leads, as this member knew at the end of its last turn.
    #[must_use]
    pub fn leadership(&self) -> Leadership {
        self.watch_leader().latest()
    }

    /// Follows who leads, from now on.
    #[must_use]
    pub fn watch_leader(&self) -> LeaderWatch {
        LeaderWatch::new(Arc::clone(&self.shared))
    }

    /// This node's state in the keys and formats that users of hashicorp/raft know.
    #[must_use]
    pub fn stats(&self) -> Stats {
        Stats::of(&self.status())
    }

    /// Asks for a membership change; any member takes it and gives it to the leader. The answer
    /// comes when the change is applied there, at `deadline` at the latest.
    ///
    /// # Errors
    ///
    /// Refuses at once, without a trace in the log, when too much is waiting already, or when the
    /// node has stopped. What is wrong with the change itself comes as [`Changed::Refused`].
    pub fn change(
        &self,
        change: Change,
        options: ChangeOptions,
        deadline: Instant,
    ) -> Result<Pending<Changed>, Refusal> {
        let permit = Admission::admit(&self.admission, 0)?;
        let (reply, receiver) = oneshot::channel();
        let request = ChangeRequest { change, options, deadline, reply, permit };
        self.submit(Request::Change(request))?;
        Ok(Pending { receiver, lost: || Changed::Unknown(Unknown::Stopped) })
    }

    /// Asks for a snapshot of everything that is applied on this member now. When the newest one
    /// holds that already, it is the answer.
    ///
    /// # Errors
    ///
    /// Refuses at once when too much is waiting already, or when the node has stopped.
    pub fn snapshot(&self, deadline: Instant) -> Result<Pending<SnapshotTaken>, Refusal> {
        let permit = Admission::admit(&self.admission, 0)?;
        let (reply, receiver) = oneshot::channel();
        self.submit(Request::Snapshot(SnapshotWish { deadline, reply, _permit: permit }))?;
        Ok(Pending { receiver, lost: || SnapshotTaken::Refused(Refusal::ShuttingDown) })
    }

    /// Asks the node to stop: it refuses new work, resolves what is on its way within the
    /// configured time, writes what it knows and ends. [`crate::Node::join`] waits for that.
    pub fn shutdown(&self) {
        self.shared.request_shutdown();
        // A full queue or a node that has already gone: the flag above is enough, since the loop
        // looks at it at every tick.
        self.requests.try_send(Request::Shutdown).ok();
    }

    /// What the node knew at the end of its last turn. Never blocks on the loop.
    #[must_use]
    pub fn status(&self) -> Status {
        self.shared.status()
    }

    /// How long ago the loop ended its last turn: the liveness of this process alone.
    #[must_use]
    pub fn last_turn_age(&self) -> Duration {
        self.shared.last_turn_age()
    }

    /// Whether a proposal of so many bytes would be refused for overload now: for those who want
    /// to know before they read it. Whoever asks is not let in by it, nor counted.
    #[must_use]
    pub fn is_overloaded(&self, bytes: u64) -> bool {
        self.admission.lags() || self.admission.is_over(1, bytes)
    }

    /// What this node counts and measures.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.admission.metrics
    }

    fn submit(&self, request: Request) -> Result<(), Refusal> {
        let (request, refusal) = if self.shared.shutdown_requested() {
            (request, Refusal::ShuttingDown)
        } else {
            match self.requests.try_send(request) {
                Ok(()) => return Ok(()),
                Err(TrySendError::Full(request)) => (request, Refusal::Overloaded),
                Err(TrySendError::Disconnected(request)) => (request, Refusal::ShuttingDown),
            }
        };
        // The caller hears of it from here; answering counts it.
        match request {
            Request::Propose(proposal) => proposal.waiter.answer(Outcome::Refused(refusal)),
            Request::Read(read) => read.refuse(refusal),
            Request::Change(_)
            | Request::Snapshot(_)
            | Request::Transfer(_)
            | Request::Shutdown => {}
        }
        Err(refusal)
    }
}

/// The bounds at a node's door.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) max_pending: u64,
    pub(crate) max_pending_bytes: u64,
    pub(crate) max_entry_bytes: u64,
}

/// Keeps the door: what was let in and has not been answered is within the limits.
#[derive(Debug)]
struct Admission {
    limits: Limits,
    shared: Arc<Shared>,
    metrics: Metrics,
}

impl Admission {
    /// Whatever commits beyond what the consumer can apply only waits longer: new proposals are
    /// refused until it has caught up.
    fn admit_proposal(this: &Arc<Self>, bytes: u64) -> Result<Permit, Refusal> {
        if this.lags() { Err(Refusal::Overloaded) } else { Self::admit(this, bytes) }
    }

    fn lags(&self) -> bool {
        self.shared.pending.lags.load(Ordering::Relaxed)
    }

    /// Whether what is pending, with so much more, is over the limits.
    fn is_over(&self, requests: u64, bytes: u64) -> bool {
        let pending = &self.shared.pending;
        pending.requests.load(Ordering::Relaxed) + requests > self.limits.max_pending
            || pending.bytes.load(Ordering::Relaxed) + bytes > self.limits.max_pending_bytes
    }

    fn admit(this: &Arc<Self>, bytes: u64) -> Result<Permit, Refusal> {
        let pending = &this.shared.pending;
        pending.requests.fetch_add(1, Ordering::Relaxed);
        pending.bytes.fetch_add(bytes, Ordering::Relaxed);
        let permit = Permit { admission: Arc::clone(this), bytes };
        if this.is_over(0, 0) { Err(Refusal::Overloaded) } else { Ok(permit) }
    }
}

/// A place among the pending requests, given back when dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    admission: Arc<Admission>,
    bytes: u64,
}

impl Permit {
    fn metrics(&self) -> &Metrics {
        &self.admission.metrics
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let pending = &self.admission.shared.pending;
        pending.requests.fetch_sub(1, Ordering::Relaxed);
        pending.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

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
