//! A node without a log, for testing what stands around one: it commits, at once and alone,
//! whatever it is offered, or ends it as it was told to. No promise is kept here but the
//! channel's own; not part of the API.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};

use crate::channel::{AppliedCell, Limits, Request};
use crate::status::Shared;
use crate::{
    Applied, Channels, Commit, CommittedEntry, Config, Entries, Handle, Outcome, Read, Refusal,
    Restore, Status, Unknown,
};

/// What the node does with the next proposals and reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Commits proposals; lets reads look when everything committed is applied.
    Commit,
    /// Refuses proposals and reads.
    Refuse(Refusal),
    /// Loses track of proposals; refuses reads as unavailable.
    Lose(Unknown),
    /// Keeps them waiting until the node stops.
    Hold,
}

/// The strings of a node whose channels are real and whose log is imagined.
#[derive(Debug, Clone)]
pub struct FakeNode {
    shared: Arc<Shared>,
    verdict: Arc<Mutex<Verdict>>,
    stalled: Arc<AtomicBool>,
}

impl FakeNode {
    /// Starts it with an empty state at index 1, term 1. It ends as a node does: when it is shut
    /// down, or when the last handle or the receiver of commits is dropped.
    #[must_use]
    pub fn start(config: &Config) -> (Self, Channels) {
        let limits = Limits {
            max_pending: config.max_pending,
            max_pending_bytes: config.max_pending_bytes,
            max_entry_bytes: config.max_entry_bytes,
        };
        let status = Status { id: config.id, term: 1, ..Status::default() };
        let shared = Arc::new(Shared::new(status));
        let (request_tx, request_rx) = crossbeam_channel::bounded(1024);
        let (commit_tx, commit_rx) = crossbeam_channel::unbounded();
        let (wake_tx, wake_rx) = crossbeam_channel::bounded(1);
        let cell = Arc::new(AppliedCell::default());
        let fake = Self {
            shared: Arc::clone(&shared),
            verdict: Arc::new(Mutex::new(Verdict::Commit)),
            stalled: Arc::default(),
        };
        let script = Script {
            fake: fake.clone(),
            requests: request_rx,
            commits: commit_tx,
            cell: Arc::clone(&cell),
            wake: wake_rx,
            last_index: 1,
            held: Vec::new(),
        };
        thread::spawn(move || script.run());
        let channels = Channels {
            handle: Handle::new(request_tx, shared, limits),
            commits: commit_rx,
            applied: Applied { cell, wake: wake_tx },
        };
        (fake, channels)
    }

    /// What becomes of everything asked from now on.
    pub fn decide(&self, verdict: Verdict) {
        *self.verdict.lock().unwrap_or_else(PoisonError::into_inner) = verdict;
    }

    /// Changes what the node says of itself.
    pub fn update_status(&self, change: impl FnOnce(&mut Status)) {
        self.shared.update(change);
    }

    /// Stops the turns of its loop; requests are still answered.
    pub fn stall(&self) {
        self.stalled.store(true, Ordering::SeqCst);
    }

    fn verdict(&self) -> Verdict {
        *self.verdict.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The imagined loop.
struct Script {
    fake: FakeNode,
    requests: Receiver<Request>,
    commits: Sender<Commit>,
    cell: Arc<AppliedCell>,
    wake: Receiver<()>,
    last_index: u64,
    held: Vec<Request>,
}

impl Script {
    fn run(mut self) {
        let founded =
            Restore { index: 1, term: 1, commit_index: 1, state: Box::new(std::io::empty()) };
        let mut open = self.commits.send(Commit::Restore(founded)).is_ok();
        while open && !self.fake.shared.shutdown_requested() {
            if !self.fake.stalled.load(Ordering::SeqCst) {
                self.fake.shared.turn_ended(Instant::now());
            }
            open = match self.requests.recv_timeout(Duration::from_millis(10)) {
                Ok(Request::Shutdown) | Err(RecvTimeoutError::Disconnected) => false,
                Ok(request) => self.handle(request),
                Err(RecvTimeoutError::Timeout) => true,
            };
        }
    }

    fn handle(&mut self, request: Request) -> bool {
        match (self.fake.verdict(), request) {
            (Verdict::Hold, request) => self.held.push(request),
            (Verdict::Commit, Request::Propose(proposal)) => {
                self.last_index += 1;
                let (last_index, last_term) = (self.last_index, 1);
                let entry = CommittedEntry {
                    index: last_index,
                    term: last_term,
                    data: proposal.data,
                    waiter: Some(proposal.waiter),
                };
                let entries = Entries { last_index, last_term, items: vec![entry], bytes: 0 };
                return self.commits.send(Commit::Entries(entries)).is_ok();
            }
            (Verdict::Refuse(refusal), Request::Propose(proposal)) => {
                proposal.waiter.answer(Outcome::Refused(refusal));
            }
            (Verdict::Lose(unknown), Request::Propose(proposal)) => {
                proposal.waiter.answer(Outcome::Unknown(unknown));
            }
            (Verdict::Commit, Request::Read(read)) => {
                if self.wait_for(self.last_index.max(read.min_index), read.deadline) {
                    let index = self.last_index;
                    read.answer(Read::Ready { index });
                } else {
                    read.answer(Read::Refused(Refusal::Unavailable));
                }
            }
            (Verdict::Refuse(refusal), Request::Read(read)) => read.answer(Read::Refused(refusal)),
            (Verdict::Lose(_), Request::Read(read)) => {
                read.answer(Read::Refused(Refusal::Unavailable));
            }
            (_, Request::Change(_) | Request::Snapshot(_)) => {}
            (_, Request::Shutdown) => return false,
        }
        true
    }

    /// Whether the consumer came that far in time.
    fn wait_for(&self, index: u64, deadline: Instant) -> bool {
        loop {
            self.cell.awaited.store(true, Ordering::SeqCst);
            if self.cell.index.load(Ordering::SeqCst) >= index {
                return true;
            }
            if self.wake.recv_deadline(deadline).is_err() {
                return false;
            }
        }
    }
}
