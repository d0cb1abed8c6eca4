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

mod admission;
mod commit;
mod outcome;
mod request;
mod trace;

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, TrySendError};

use self::admission::Admission;
pub(crate) use self::admission::Limits;
pub use self::commit::{Applied, Commit, CommittedEntry, Entries, Restore, SnapshotRequest};
pub(crate) use self::commit::{AppliedCell, Captured, WriteState};
pub use self::outcome::{
    Answer, Consistency, MAX_INDEX_AHEAD, Outcome, Pending, Read, Refusal, SnapshotTaken,
    Transferred, Unknown, Verified,
};
use self::request::ReadReply;
pub(crate) use self::request::{
    ChangeRequest, Proposal, Purpose, ReadRequest, Request, SnapshotWish, TransferRequest, Waiter,
};
pub(crate) use self::trace::SAMPLED;
pub use self::trace::{Stage, Trace};
use crate::leadership::{LeaderWatch, Leadership};
use crate::membership::{Change, ChangeOptions, ChangeRefusal, ChangeRefusalKind, Changed};
use crate::metrics::Metrics;
use crate::stats::Stats;
use crate::status::{Shared, Status};

/// The way into a node, for any number of threads. Dropping the last clone stops the node, as
/// [`shutdown`](Handle::shutdown) does.
#[derive(Debug, Clone)]
pub struct Handle {
    requests: Sender<Request>,
    /// For what needs a round: the loop looks at it when it can begin one.
    reads: Sender<Request>,
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
        let sampled = AtomicU64::new(0);
        let admission = Admission { limits, shared: Arc::clone(&shared), metrics, sampled };
        let admission = Arc::new(admission);
        Self { reads: requests.clone(), requests, shared, admission }
    }

    /// Those with a way of their own for what needs a round.
    pub(crate) fn with_reads(self, reads: Sender<Request>) -> Self {
        Self { reads, ..self }
    }

    /// Offers a command to the log; any member takes it. The answer comes by `deadline` plus the
    /// time the consumer takes to apply it.
    ///
    /// # Errors
    ///
    /// Refuses at once, without a trace in the log and without asking the loop, when too much is
    /// waiting already, when commits run more than [`MAX_LAG_ENTRIES`](crate::MAX_LAG_ENTRIES)
    /// or [`MAX_LAG_BYTES`](crate::MAX_LAG_BYTES) ahead of what the consumer has applied, when
    /// fewer bytes than [`Config::min_free_bytes`](crate::Config::min_free_bytes) are free, when
    /// the command is empty or too large, or when the node has stopped.
    pub fn propose(&self, data: Bytes, deadline: Instant) -> Result<Pending<Outcome>, Refusal> {
        self.propose_for(data, deadline)
    }

    /// As [`propose`](Self::propose), and says afterwards where the time went:
    /// [`Pending::trace`].
    ///
    /// # Errors
    ///
    /// As [`propose`](Self::propose).
    pub fn propose_traced(
        &self,
        data: Bytes,
        deadline: Instant,
    ) -> Result<Pending<Outcome>, Refusal> {
        self.propose_traced_for(data, deadline)
    }

    /// Offers an entry without a command to the log. Once it is applied, so is everything that
    /// was committed before: whoever has just learnt that it leads then knows the whole state
    /// (hashicorp's Barrier). The consumer does not see it; the answer comes by `deadline`.
    ///
    /// # Errors
    ///
    /// As [`propose`](Self::propose).
    pub fn barrier(&self, deadline: Instant) -> Result<Pending<Outcome<()>>, Refusal> {
        self.offer(Bytes::new(), deadline, None)
    }

    /// As [`propose`](Self::propose), for a consumer that answers with `R`. See C3.
    pub(crate) fn propose_for<R: Send + 'static>(
        &self,
        data: Bytes,
        deadline: Instant,
    ) -> Result<Pending<Outcome<R>>, Refusal> {
        let trace = self.admission.samples().then(|| Trace::begin(self.metrics().clone()));
        self.offer_command(data, deadline, trace)
    }

    /// As [`propose_traced`](Self::propose_traced), for a consumer that answers with `R`.
    pub(crate) fn propose_traced_for<R: Send + 'static>(
        &self,
        data: Bytes,
        deadline: Instant,
    ) -> Result<Pending<Outcome<R>>, Refusal> {
        self.offer_command(data, deadline, Some(Trace::begin(self.metrics().clone())))
    }

    fn offer_command<R: Send + 'static>(
        &self,
        data: Bytes,
        deadline: Instant,
        trace: Option<Trace>,
    ) -> Result<Pending<Outcome<R>>, Refusal> {
        if data.is_empty() {
            self.metrics().proposal(&Outcome::<Infallible>::Refused(Refusal::Empty));
            return Err(Refusal::Empty);
        }
        self.offer(data, deadline, trace)
    }

    fn offer<R: Send + 'static>(
        &self,
        data: Bytes,
        deadline: Instant,
        trace: Option<Trace>,
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
        let waiter = Waiter { reply: Some((Box::new(reply), permit)), trace: trace.clone() };
        self.submit(Request::Propose(Proposal { data, deadline, waiter }))?;
        let lost = || Outcome::Unknown(Unknown::Stopped);
        Ok(Pending { trace, ..Pending::new(receiver, lost) })
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
        let reply = ReadReply::Read(consistency, reply);
        self.submit(Request::Read(ReadRequest { min_index, deadline, reply, permit }))?;
        Ok(Pending::new(receiver, || Read::Refused(Refusal::ShuttingDown)))
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
        let reply = ReadReply::Verify(reply);
        self.submit(Request::Read(ReadRequest { min_index: 0, deadline, reply, permit }))?;
        Ok(Pending::new(receiver, || Verified::Refused(Refusal::ShuttingDown)))
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
        Ok(Pending::new(receiver, lost))
    }

    /// Who leads, as this member knew at the end of its last turn.
    #[must_use]
    pub fn leadership(&self) -> Leadership {
        self.shared.leadership().0
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
        Ok(Pending::new(receiver, || Changed::Unknown(Unknown::Stopped)))
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
        Ok(Pending::new(receiver, || SnapshotTaken::Refused(Refusal::ShuttingDown)))
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
            let way = match &request {
                Request::Read(read) if read.needs_round() => &self.reads,
                _ => &self.requests,
            };
            match way.try_send(request) {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// What needs a round goes where the loop need not look while one is under way; what can be
    /// answered without one must not wait there.
    #[test]
    fn what_needs_a_round_goes_its_own_way() {
        let limits = Limits { max_pending: 10, max_pending_bytes: 1000, max_entry_bytes: 100 };
        let shared = Arc::new(Shared::new(Status::default()));
        let ((requests_tx, requests), (reads_tx, reads)) = (super::requests(), super::requests());
        let handle = Handle::new(requests_tx, shared, limits).with_reads(reads_tx);
        let deadline = Instant::now() + Duration::from_secs(3600);
        let linearizable = handle.read(Consistency::Linearizable, 0, deadline);
        let verified = handle.verify_leader(deadline);
        assert_eq!((requests.len(), reads.len()), (0, 2));
        let leader = handle.read(Consistency::Leader, 0, deadline);
        let stale = handle.read(Consistency::Stale, 0, deadline);
        let proposed = handle.propose(Bytes::from_static(b"x"), deadline);
        assert_eq!((requests.len(), reads.len()), (3, 2));
        drop((linearizable, verified, leader, stale, proposed));
        // Whoever waits hears of the loop's end by its own way too.
        let mut last = handle.read(Consistency::Linearizable, 0, deadline).expect("it is taken");
        drop(reads);
        assert_eq!(last.try_wait(), Some(Read::Refused(Refusal::ShuttingDown)));
    }
}
