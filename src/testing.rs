//! A node without a log, for testing what stands around one: it commits, at once and alone,
//! whatever it is offered, or ends it as it was told to. No promise is kept here but the
//! channel's own; not part of the API.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};

use crate::channel::{self, AppliedCell, Captured, Limits, Purpose, Request, WriteState};
use crate::membership::{Book, Change, ChangeOptions, Changed};
use crate::snapshot::Header;
use crate::status::Shared;
use crate::{
    Applied, Channels, Commit, CommittedEntry, Config, Entries, Handle, Outcome, Refusal, Restore,
    SnapshotRequest, SnapshotTaken, Status, Transferred, Unknown,
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
    /// Keeps them waiting until the node stops, and changes and snapshots too.
    Hold,
}

/// The strings of a node whose channels are real and whose log is imagined.
#[derive(Debug, Clone)]
pub struct FakeNode {
    shared: Arc<Shared>,
    script: Arc<Mutex<Told>>,
    stalled: Arc<AtomicBool>,
    orders: Sender<Order>,
}

/// What the node was told to do, and what it was asked meanwhile.
#[derive(Debug)]
struct Told {
    verdict: Verdict,
    /// `None`: a change is done, and leaves the book of the status.
    changed: Option<Changed>,
    /// `None`: a snapshot is taken of everything committed.
    snapshot: Option<SnapshotTaken>,
    changes: Vec<(Change, ChangeOptions)>,
    /// `None`: whoever is to lead does.
    transferred: Option<Transferred>,
    transfers: Vec<Option<u64>>,
}

/// What a test has the node do on its own account.
#[derive(Debug)]
enum Order {
    Restore(Restore),
    Snapshot(Sender<Captured>),
}

impl FakeNode {
    /// Starts it with an empty state at index 1, term 1. It ends as a node does: when it is shut
    /// down, or when the last handle or the receiver of commits is dropped.
    #[must_use]
    pub fn start(config: &Config) -> (Self, Channels) {
        Self::start_replaying(config, 1)
    }

    /// As [`start`](Self::start), of a log that was committed up to this index: its entries are what
    /// is proposed first.
    #[must_use]
    pub fn start_replaying(config: &Config, commit_index: u64) -> (Self, Channels) {
        let limits = Limits {
            max_pending: config.max_pending,
            max_pending_bytes: config.max_pending_bytes,
            max_entry_bytes: config.max_entry_bytes,
        };
        let status = Status { id: config.id, term: 1, ..Status::default() };
        let shared = Arc::new(Shared::new(status));
        let (request_tx, request_rx) = channel::requests();
        let (commit_tx, commit_rx) = crossbeam_channel::unbounded();
        let (wake_tx, wake_rx) = crossbeam_channel::bounded(1);
        let cell = Arc::new(AppliedCell::default());
        let (order_tx, order_rx) = crossbeam_channel::unbounded();
        let told = Told {
            verdict: Verdict::Commit,
            changed: None,
            snapshot: None,
            changes: Vec::new(),
            transferred: None,
            transfers: Vec::new(),
        };
        let fake = Self {
            shared: Arc::clone(&shared),
            script: Arc::new(Mutex::new(told)),
            stalled: Arc::default(),
            orders: order_tx,
        };
        let script = Script {
            fake: fake.clone(),
            orders: order_rx,
            requests: request_rx,
            commits: commit_tx,
            cell: Arc::clone(&cell),
            wake: wake_rx,
            last_index: 1,
            last_term: 1,
            held: Vec::new(),
        };
        thread::spawn(move || script.run(commit_index));
        let channels = Channels {
            handle: Handle::new(request_tx, shared, limits),
            commits: commit_rx,
            applied: Applied { cell, wake: wake_tx },
        };
        (fake, channels)
    }

    /// What becomes of everything asked from now on.
    pub fn decide(&self, verdict: Verdict) {
        self.told().verdict = verdict;
    }

    /// How membership changes end from now on.
    pub fn decide_changes(&self, changed: Changed) {
        self.told().changed = Some(changed);
    }

    /// How wishes for a snapshot end from now on.
    pub fn decide_snapshots(&self, taken: SnapshotTaken) {
        self.told().snapshot = Some(taken);
    }

    /// How hand-overs of leadership end from now on.
    pub fn decide_transfers(&self, transferred: Transferred) {
        self.told().transferred = Some(transferred);
    }

    /// To whom leadership was to be handed over since the last call.
    #[must_use]
    pub fn take_transfers(&self) -> Vec<Option<u64>> {
        std::mem::take(&mut self.told().transfers)
    }

    /// Has commits run too far ahead of applies, or no longer.
    pub fn lag(&self, lags: bool) {
        self.shared.pending.lags.store(lags, Ordering::Relaxed);
    }

    /// The membership changes that were asked for since the last call.
    #[must_use]
    pub fn take_changes(&self) -> Vec<(Change, ChangeOptions)> {
        std::mem::take(&mut self.told().changes)
    }

    /// Installs a snapshot, as the leader of a lagging member would. Its index must be above
    /// everything committed here.
    pub fn restore(&self, restore: Restore) {
        // Gone only when the node is: then nobody wants it.
        self.orders.send(Order::Restore(restore)).ok();
    }

    /// Asks the consumer for its state, and waits for what it has to write; `None` when it
    /// declined.
    #[must_use]
    pub fn capture(&self) -> Option<WriteState> {
        let (captured_tx, captured_rx) = crossbeam_channel::bounded(1);
        // Gone only when the node is: then the answer below says so.
        self.orders.send(Order::Snapshot(captured_tx)).ok();
        captured_rx.recv().ok().and_then(|captured| captured.write)
    }

    /// Changes what the node says of itself.
    pub fn update_status(&self, change: impl FnOnce(&mut Status)) {
        self.shared.update(change);
    }

    /// Stops the turns of its loop; requests are still answered.
    pub fn stall(&self) {
        self.stalled.store(true, Ordering::SeqCst);
    }

    fn told(&self) -> std::sync::MutexGuard<'_, Told> {
        self.script.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The imagined loop.
struct Script {
    fake: FakeNode,
    orders: Receiver<Order>,
    requests: Receiver<Request>,
    commits: Sender<Commit>,
    cell: Arc<AppliedCell>,
    wake: Receiver<()>,
    last_index: u64,
    last_term: u64,
    held: Vec<Request>,
}

impl Script {
    fn run(mut self, commit_index: u64) {
        let founded =
            Restore { index: 1, term: 1, commit_index, state: Box::new(std::io::empty()) };
        let mut open = self.commits.send(Commit::Restore(founded)).is_ok();
        while open && !self.fake.shared.shutdown_requested() {
            if !self.fake.stalled.load(Ordering::SeqCst) {
                self.fake.shared.turn_ended(Instant::now());
            }
            open = crossbeam_channel::select! {
                recv(self.requests) -> request => match request {
                    Ok(Request::Shutdown) | Err(_) => false,
                    Ok(request) => self.handle(request),
                },
                // Its sender is in `fake`, so that it is never disconnected.
                recv(self.orders) -> order => order.is_ok_and(|order| self.obey(order)),
                default(Duration::from_millis(10)) => true,
            };
        }
    }

    fn obey(&mut self, order: Order) -> bool {
        let commit = match order {
            Order::Restore(restore) => {
                (self.last_index, self.last_term) = (restore.index, restore.term);
                Commit::Restore(restore)
            }
            Order::Snapshot(captured) => {
                let mut header = Header::genesis(0, Book::default());
                (header.index, header.term) = (self.last_index, self.last_term);
                Commit::Snapshot(SnapshotRequest::new(header, captured))
            }
        };
        self.commits.send(commit).is_ok()
    }

    fn handle(&mut self, request: Request) -> bool {
        let verdict = self.fake.told().verdict;
        match (verdict, request) {
            (Verdict::Hold, request) => self.held.push(request),
            (Verdict::Commit, Request::Propose(proposal)) if proposal.data.is_empty() => {
                self.last_index += 1;
                let (last_index, last_term) = (self.last_index, self.last_term);
                let entries = Entries { last_index, last_term, items: Vec::new(), bytes: 0 };
                let open = self.commits.send(Commit::Entries(entries)).is_ok();
                if self.wait_for(last_index, proposal.deadline) {
                    proposal.waiter.applied(last_index, last_term, ());
                }
                return open;
            }
            (Verdict::Commit, Request::Propose(proposal)) => {
                self.last_index += 1;
                let (last_index, last_term) = (self.last_index, self.last_term);
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
            (Verdict::Commit, Request::Read(read)) if read.purpose() == Purpose::Verify => {
                read.verified(self.last_term);
            }
            (Verdict::Commit, Request::Read(read)) => {
                if self.wait_for(self.last_index.max(read.min_index), read.deadline) {
                    let index = self.last_index;
                    read.ready(index);
                } else {
                    read.refuse(Refusal::Unavailable);
                }
            }
            (Verdict::Refuse(refusal), Request::Read(read)) => read.refuse(refusal),
            (Verdict::Lose(_), Request::Read(read)) => read.refuse(Refusal::Unavailable),
            (_, Request::Transfer(request)) => {
                let (leader_id, term) = (request.to.unwrap_or(1), self.last_term);
                let done = Transferred::Done { leader_id, term };
                let mut told = self.fake.told();
                told.transfers.push(request.to);
                request.answer(told.transferred.clone().unwrap_or(done));
            }
            (_, Request::Change(request)) => {
                let book = self.fake.shared.status().book;
                let (index, term) = (self.last_index, self.last_term);
                let done = Changed::Done { index, term, book };
                let mut told = self.fake.told();
                told.changes.push((request.change.clone(), request.options));
                request.answer(told.changed.clone().unwrap_or(done));
            }
            (_, Request::Snapshot(wish)) => {
                let (index, term) = (self.last_index, self.last_term);
                let taken = SnapshotTaken::Taken { index, term };
                wish.answer(self.fake.told().snapshot.unwrap_or(taken));
            }
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
