//! The running node: one thread that owns raft and its log, and what starts and ends it.
//!
//! Each turn of the loop takes what has arrived, in bounded batches, moves raft's clock when a
//! tick is due, and then handles what raft has ready: first what is committed by now, for what is
//! proposed then needs a sync, which nobody but its own proposers is to wait for.
//! [`Loop::next_event`] is the only place that blocks, and tells what time it is; elsewhere clocks
//! only measure.
//!
//! ```text
//!  requests ─┐
//!  inbox ────┤ next_event ──► Core ──► Transport
//!  done ─────┤                  ├────► commit channel
//!  applied ──┤                  └────► Workers
//!  room ─────┘
//! ```

mod begin;
mod core;
mod ends;
mod join;
mod proposals;
mod questions;
mod reads;
#[cfg(test)]
mod scripts;
mod sinks;
mod space;
mod vigil;
mod workers;

use std::net::TcpListener;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Select, Sender, TryRecvError, TrySendError};
use slog::{Logger, error, info, warn};
use wal::defects::{Defect, has};
use wal::fs::{DiskFs, Fs, MemFs};

pub(crate) use self::begin::{first_status, open_gate, peers, settings};
use self::begin::{introduce, take_place};
pub(crate) use self::core::Kept;
use self::core::PATIENCE;
use self::core::{Answer, Ask, ChangeRequest, Core, Parts, Sending};
pub(crate) use self::core::{Done, Task};
pub use self::core::{MAX_LAG_BYTES, MAX_LAG_ENTRIES};
#[cfg(feature = "simulation")]
pub(crate) use self::core::{sync_written, write_captured};
use self::ends::{buried, end_by_refusal, last_copy, replacement, with_commands};
#[cfg(feature = "simulation")]
pub(crate) use self::join::{
    judged as join_judged, refused as join_refused, request as join_request,
};
pub(crate) use self::sinks::Sinks;
pub(crate) use self::space::Look;
use self::space::SpaceWatch;
use self::vigil::Vigil;
use self::workers::Workers;
use crate::channel::{self, AppliedCell, Captured, Limits, Request, Restore};
use crate::directory::{self, Recovered};
use crate::identity;
use crate::membership::{
    Asked, Call, ChangeOptions, ChangeRefusal, ChangeRefusalKind, Changed, Wish,
};
use crate::metrics::Metrics;
use crate::snapshot::{Header, Outgoing};
use crate::status::{Shared, Status};
use crate::storage::Storage;
use crate::transport::{Carrier, Frame, Gate, Inbound, Transport};
use crate::{Applied, Commit, Config, Error, Handle};

/// How many requests and how many frames one turn takes before raft's work is done: enough to
/// share one sync among all who wait, not enough to delay a heartbeat.
const BATCH: usize = 4096;
/// And how many bytes: what one write and one sync should carry at most, roughly.
const BATCH_BYTES: u64 = 4 << 20;

/// Items on the commit channel; the bytes wait in the core, which has the bound.
const COMMIT_PLACES: usize = 4;

/// How long another member's call may wait here, whatever it says.
const MAX_PATIENCE: Duration = Duration::from_secs(60);

/// Of how many that are not in the book the client URLs are kept: a member that has just joined
/// meets the others before it has a book.
const MAX_STRANGERS_URLS: usize = 64;

/// How often a member without a leader says whom it cannot reach.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(10);

/// A running node. [`join`](Node::join) tells how it ended; dropping it lets it run on.
#[derive(Debug)]
pub struct Node {
    thread: JoinHandle<Result<(), Error>>,
    peer_address: std::net::SocketAddr,
}

/// The ends that belong to the node's owner.
#[derive(Debug)]
pub struct Channels {
    /// Proposals, reads, status and shutdown.
    pub handle: Handle,
    /// What is committed, in order. Dropping it stops the node.
    pub commits: Receiver<Commit>,
    /// Where the consumer says how far it has come.
    pub applied: Applied,
}

impl Node {
    /// Binds the peer address, replays the log and starts the loop and the transport. Blocks
    /// while the log is replayed; setting `stop` ends that early.
    ///
    /// # Errors
    ///
    /// See [`Error`]. Nothing on disk has changed then, unless the data directory was new and
    /// its disk failed.
    pub fn start(
        config: Config,
        logger: &Logger,
        stop: &AtomicBool,
    ) -> Result<(Node, Channels), Error> {
        Self::begin(config, None, logger, stop)
    }

    /// As [`start`](Self::start), on a listener that is bound already: for tests and for those
    /// who are handed sockets.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start).
    pub fn start_on(
        config: Config,
        listener: TcpListener,
        logger: &Logger,
        stop: &AtomicBool,
    ) -> Result<(Node, Channels), Error> {
        Self::begin(config, Some(listener), logger, stop)
    }

    fn begin(
        config: Config,
        listener: Option<TcpListener>,
        logger: &Logger,
        stop: &AtomicBool,
    ) -> Result<(Node, Channels), Error> {
        config.validate().map_err(Error::Config)?;
        let logger = logger.clone();
        let fs: Arc<dyn Fs> =
            if config.in_memory { Arc::new(MemFs::volatile()) } else { Arc::new(DiskFs) };
        #[cfg(feature = "faults")]
        let fs = config.fail(fs).map_err(Error::Config)?;
        let (recovered, listener, own_url) = take_place(&fs, &config, listener, &logger, stop)
            .map_err(|error| with_commands(error, &config))?;
        let unknown = |source| Error::Listen { address: "a bound socket".into(), source };
        let peer_address = listener.local_addr().map_err(unknown)?;
        let listening = |source| Error::Listen { address: peer_address.to_string(), source };

        let gate = open_gate(&fs, &config, &recovered)?;
        let (inbox_tx, inbox) = crossbeam_channel::unbounded();
        let sinks = Sinks::new(
            Arc::clone(&fs),
            directory::snap_dir(&config),
            recovered.identity.cluster,
            config.wal_segment_bytes,
        );
        let transport = Transport::start(
            settings(&config, own_url),
            listener,
            &peers(&recovered.latest, &config),
            Arc::clone(&gate),
            Arc::new(sinks),
            inbox_tx,
            logger.clone(),
        )
        .map_err(listening)?;

        let shared = first_status(&config, &recovered);
        // Memory has no disk to run out of.
        let space_watch = (!config.in_memory).then(|| {
            let (fs, directory) = (Arc::clone(&fs), config.data_dir.clone());
            let space = Arc::clone(&shared.space);
            SpaceWatch::start(Look { fs, directory, space, logger: logger.clone() })
        });
        let space_watch = space_watch.transpose().map_err(listening)?;
        let (captured_tx, captured) = crossbeam_channel::bounded(1);
        let (syncs_tx, syncs) = crossbeam_channel::unbounded();
        let (done_tx, done) = crossbeam_channel::unbounded();
        let snap_dir = directory::snap_dir(&config);
        let workers = Workers::start(Arc::clone(&fs), snap_dir, captured, syncs, done_tx)
            .map_err(listening)?;
        let around = Around {
            fs,
            gate,
            carrier: transport,
            chores: workers,
            shared,
            inbox,
            done,
            captured: captured_tx,
            syncs: syncs_tx,
            nonce: u64::from_le_bytes(identity::random()),
            seed: u64::from_le_bytes(identity::random()),
            now: Instant::now(),
        };
        let (event_loop, channels, lock) = Loop::new(config, recovered, around, &logger)?;
        let thread = std::thread::Builder::new()
            .name("raft".into())
            .spawn(move || {
                let result = event_loop.run();
                // Nobody looks any more once the loop has ended.
                drop(space_watch);
                drop(lock);
                result
            })
            .map_err(listening)?;
        Ok((Node { thread, peer_address }, channels))
    }

    /// Where this node listens for its peers.
    #[must_use]
    pub fn peer_address(&self) -> std::net::SocketAddr {
        self.peer_address
    }

    /// Waits until the node has stopped.
    ///
    /// # Errors
    ///
    /// What ended it, unless it was told to stop.
    pub fn join(self) -> Result<(), Error> {
        match self.thread.join() {
            Ok(result) => result,
            Err(panic) => Err(Error::Invariant(panic_text(&*panic))),
        }
    }
}

fn panic_text(panic: &(dyn std::any::Any + std::marker::Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic").to_owned()
}

/// Reads what another member, or one that wants to be one, asks for.
fn called(
    from: u64,
    body: &[u8],
    joining: Option<u128>,
    now: Instant,
) -> Result<(Asked, ChangeOptions, Instant), String> {
    let Call { asked, options, patience_ms } = Call::decode(body)?;
    let own = |id, incarnation| Some(incarnation) == joining && id == from;
    if joining.is_some()
        && !matches!(asked, Asked::Member(Wish::Join { id, incarnation, .. }) if own(id, incarnation))
    {
        return Err("asks for another member than its sender".into());
    }
    let patience = Duration::from_millis(patience_ms.into()).min(MAX_PATIENCE);
    Ok((asked, options, now + patience))
}

impl From<channel::ChangeRequest> for ChangeRequest {
    fn from(request: channel::ChangeRequest) -> Self {
        Self {
            wish: Wish::Change(request.change.clone()),
            options: request.options,
            deadline: request.deadline,
            is_called: false,
            answer: Box::new(move |changed| request.answer(changed)),
        }
    }
}

/// Why the loop takes no new work, and until when it waits for the old.
struct Stopping {
    /// Why, if it was not told to.
    why: Option<Error>,
    deadline: Instant,
    /// Whether this member led and asked another to take over, and until when it waits for that.
    handing_over: Option<Instant>,
}

/// Who does for the loop what may take long.
pub(crate) trait Chores {
    /// Has it done, some time; that it is done comes back on the loop's channel.
    fn submit(&self, task: Task);
}

impl Chores for Workers {
    fn submit(&self, task: Task) {
        Workers::submit(self, task);
    }
}

/// Gives the consumer what it has room for.
fn deliver(core: &mut Core, commits: &Sender<Commit>, shared: &Shared) -> Result<(), Error> {
    while let Some(commit) = core.next_commit() {
        match commits.try_send(commit) {
            Ok(()) => {}
            Err(TrySendError::Full(commit)) => {
                core.return_commit(commit);
                break;
            }
            // Nobody will ever take it: its waiters learn that by its end, and so does the rest of
            // the queue.
            Err(TrySendError::Disconnected(_)) => shared.request_shutdown(),
        }
    }
    core.publish_missed()
}

/// What a loop stands among: in a process sockets and threads, in a simulation neither.
pub(crate) struct Around<C, W> {
    pub(crate) fs: Arc<dyn Fs>,
    pub(crate) gate: Arc<Gate>,
    pub(crate) carrier: C,
    pub(crate) chores: W,
    pub(crate) shared: Arc<Shared>,
    pub(crate) inbox: Receiver<Inbound>,
    pub(crate) done: Receiver<Done>,
    /// Where captured states go.
    pub(crate) captured: Sender<Captured>,
    /// Where batches go that another thread is to sync.
    pub(crate) syncs: Sender<wal::Written>,
    pub(crate) nonce: u64,
    pub(crate) seed: u64,
    pub(crate) now: Instant,
}

pub(crate) struct Loop<C, W> {
    core: Core,
    config: Config,
    fs: Arc<dyn Fs>,
    transport: C,
    gate: Arc<Gate>,
    workers: W,
    metrics: Metrics,
    done: Receiver<Done>,
    /// The version of the book that the transport knows.
    book_version: u64,
    shared: Arc<Shared>,
    requests: Receiver<Request>,
    /// Reads that need a round. While one is under way they wait for the next.
    reads: Receiver<Request>,
    inbox: Receiver<Inbound>,
    wake: Receiver<()>,
    /// Keeps the wake-up channel open when the consumer has dropped its end.
    _wake_tx: Sender<()>,
    commits: Sender<Commit>,
    next_tick: Instant,
    /// A tick is due, and waits for the log to be synced: when that is looked at again.
    tick_put_off: Option<Instant>,
    vigil: Vigil,
    stopping: Option<Stopping>,
    /// What this member was told when it heard that the cluster has removed it.
    removed: Option<String>,
    leaderless_since: Instant,
    logger: Logger,
}

/// Which of its clients' channels the loop looks at before it turns.
#[derive(Debug, Clone, Copy)]
struct Wanted {
    requests: bool,
    reads: bool,
}

/// Whether the loop goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    Next,
    Last,
}

impl Loop<Transport, Workers> {
    fn run(mut self) -> Result<(), Error> {
        let result = std::panic::catch_unwind(AssertUnwindSafe(|| self.turns()))
            .unwrap_or_else(|panic| Err(Error::Invariant(panic_text(&*panic))));
        let result = self.conclude(result);
        self.transport.shutdown();
        self.workers.stop();
        result
    }

    fn turns(&mut self) -> Result<(), Error> {
        loop {
            let now = self.next_event();
            let turn = self.turn(now)?;
            self.metrics.turn(now.elapsed());
            if let Turn::Last = turn {
                return self.close();
            }
        }
    }

    /// Blocks until there is something to do, and tells what time it is then.
    fn next_event(&mut self) -> Instant {
        if self.core.has_work() {
            return Instant::now();
        }
        let begun = Instant::now();
        self.core.begin_wait(begun);
        self.vigil.await_now(self.core.awaited(), begun);
        let wanted = self.wanted(begun);
        if self.vigil.keep(|| self.has_come(wanted)) {
            return Instant::now();
        }
        let mut select = Select::new();
        select.recv(&self.inbox);
        if wanted.requests {
            select.recv(&self.requests);
        }
        if wanted.reads {
            select.recv(&self.reads);
        }
        select.recv(&self.wake);
        select.recv(&self.done);
        if self.core.has_commits() {
            select.send(&self.commits);
        }
        // Nor while the log is synced, which may take long: what came is looked at from time to time.
        let looks_at = self.core.is_saving().then(|| begun + PATIENCE);
        let deadline = looks_at.map_or(self.deadline(), |looks_at| looks_at.min(self.deadline()));
        // A timeout is an event too: the next tick is due, or what was put off.
        select.ready_deadline(deadline).ok();
        Instant::now()
    }
}

/// A tick waits for a save that is under way (V3). For a heartbeat's time the loop goes on meanwhile;
/// then it stands, and says nothing more: a leader whose disk hangs must fall silent.
fn may_wait(now: Instant, next_tick: Instant, config: &Config) -> bool {
    now < next_tick + config.heartbeat_interval || has(Defect::StandWithDisk)
}

/// What a state machine is given first: the snapshot, and how far the log was committed beyond it.
fn first_restore(
    header: &Header,
    storage: &Storage,
    state: Box<dyn std::io::Read + Send>,
) -> Restore {
    let commit_index =
        if has(Defect::ShowUnreplayed) { header.index } else { storage.hard_state().commit };
    Restore { index: header.index, term: header.term, commit_index, state }
}

impl<C: Carrier, W: Chores> Loop<C, W> {
    /// Everything of a member but its threads and sockets, of what its directory gave.
    ///
    /// # Errors
    ///
    /// raft refuses what it finds in the log.
    pub(crate) fn new(
        config: Config,
        recovered: Recovered,
        around: Around<C, W>,
        logger: &Logger,
    ) -> Result<(Self, Channels, wal::fs::Lock), Error> {
        let Recovered { identity, storage, header, snapshot, kept, lock, .. } = recovered;
        let Around { fs, gate, carrier, chores, shared, inbox, done, captured, syncs, .. } = around;
        let limits = Limits {
            max_pending: config.max_pending,
            max_pending_bytes: config.max_pending_bytes,
            max_entry_bytes: config.max_entry_bytes,
        };
        let (requests_tx, requests) = channel::requests();
        let (reads_tx, reads) = channel::requests();
        let (commits_tx, commits) = crossbeam_channel::bounded(COMMIT_PLACES);
        let (wake_tx, wake) = crossbeam_channel::bounded(1);
        let cell = Arc::new(AppliedCell::default());
        let handle = Handle::new(requests_tx, Arc::clone(&shared), limits).with_reads(reads_tx);
        let applied = Applied { cell: Arc::clone(&cell), wake: wake_tx.clone() };
        let restore = first_restore(&header, &storage, snapshot);
        let parts = Parts {
            fs: Arc::clone(&fs),
            kept,
            storage,
            cluster: identity.cluster,
            book: header.book,
            pins: gate.pins(),
            restore,
            captured,
            syncs,
            metrics: handle.metrics().clone(),
            applied: cell,
            space: Arc::clone(&shared.space),
            nonce: around.nonce,
            seed: around.seed,
        };
        let core = Core::new(&config, parts, logger)?;
        let event_loop = Self {
            core,
            next_tick: around.now + config.tick(),
            tick_put_off: None,
            vigil: Vigil::new(),
            config,
            fs,
            transport: carrier,
            gate,
            workers: chores,
            metrics: handle.metrics().clone(),
            done,
            book_version: 0,
            shared,
            requests,
            reads,
            inbox,
            wake,
            _wake_tx: wake_tx,
            commits: commits_tx,
            stopping: None,
            removed: None,
            leaderless_since: around.now,
            logger: logger.clone(),
        };
        Ok((event_loop, Channels { handle, commits, applied }, lock))
    }

    /// Writes down what is known, after the last turn; says why it was the last.
    pub(crate) fn close(&mut self) -> Result<(), Error> {
        self.core.close()?;
        let why = self.stopping.take().and_then(|stopping| stopping.why);
        why.map_or(Ok(()), Err)
    }

    /// The last words of a member that ended so: for who asks, for the log, and for its directory.
    pub(crate) fn conclude(&mut self, result: Result<(), Error>) -> Result<(), Error> {
        self.shared.request_shutdown();
        self.shared.end();
        let result = match result {
            Err(error @ (Error::LostData(_) | Error::Wiped(_))) => {
                let Status { book, client_urls, .. } = self.shared.status();
                let members = book.members.iter().map(|(id, member)| (*id, &*member.url));
                Err(replacement(error, self.config.id, members, &client_urls))
            }
            // What is known to be committed is written down, so that the next start knows it too.
            Err(Error::ClusterLost(what)) => {
                Err(last_copy(&what, &self.config.data_dir, self.core.close()))
            }
            other => other,
        };
        let result = result.map_err(|end| buried(&*self.fs, &self.config, end));
        match &result {
            Ok(()) => info!(self.logger, "stopped"),
            Err(Error::Removed(why)) => info!(self.logger, "stopped"; "why" => why),
            Err(error) => error!(self.logger, "stopped"; "error" => %error),
        }
        result
    }

    /// When the loop has something to do, if nothing happens before.
    pub(crate) fn deadline(&self) -> Instant {
        let next_tick = self.tick_put_off.unwrap_or(self.next_tick);
        self.core.due().map_or(next_tick, |due| due.min(next_tick))
    }

    #[cfg(feature = "simulation")]
    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.is_some() || self.shared.shutdown_requested()
    }

    #[cfg(feature = "simulation")]
    pub(crate) fn core(&self) -> &Core {
        &self.core
    }

    #[cfg(feature = "simulation")]
    pub(crate) fn pretend_slow(&mut self, is_slow: bool) {
        self.core.pretend_slow(is_slow);
    }

    /// Gives it a `divisor`th of the room that a member has.
    #[cfg(feature = "simulation")]
    pub(crate) fn shrink_bounds(&mut self, divisor: u64) {
        self.core.shrink_bounds(divisor);
    }

    /// Whether [`next_event`](Loop::next_event) would not block before the next tick.
    #[cfg(feature = "simulation")]
    pub(crate) fn is_ready(&self, now: Instant) -> bool {
        self.core.has_work() || self.has_come(self.wanted(now))
    }

    /// What is worth a turn: what may not be proposed or asked yet need not wake anybody.
    fn wanted(&self, now: Instant) -> Wanted {
        let takes = self.stopping.is_none();
        let requests = takes && !self.core.gathers(now);
        Wanted { requests, reads: takes && !self.core.has_round() }
    }

    fn has_come(&self, wanted: Wanted) -> bool {
        !self.inbox.is_empty()
            || !self.wake.is_empty()
            || !self.done.is_empty()
            || (wanted.requests && !self.requests.is_empty())
            || (wanted.reads && !self.reads.is_empty())
            || (self.core.has_commits() && !self.commits.is_full())
    }

    /// One turn: takes what has arrived, ticks if that is due, and does what follows from it.
    pub(crate) fn turn(&mut self, now: Instant) -> Result<Turn, Error> {
        self.wake.try_recv().ok();
        self.core.begin_wait(now);
        let mut bytes = self.take_inbox(now)?;
        let mut shutdown = self.shared.shutdown_requested();
        let Self { core, transport, .. } = self;
        let send = &mut |to: u64, frame: Frame| transport.send(to, frame);
        for _ in 0..BATCH {
            if bytes >= BATCH_BYTES {
                break;
            }
            match self.requests.try_recv() {
                Ok(Request::Propose(proposal)) => {
                    bytes += proposal.data.len() as u64;
                    core.propose(proposal);
                }
                Ok(Request::Read(request)) => core.read(request),
                Ok(Request::Change(request)) => core.change(request.into()),
                Ok(Request::Snapshot(wish)) => core.wish_snapshot(wish),
                Ok(Request::Transfer(request)) => core.transfer(request),
                Ok(Request::Shutdown) | Err(TryRecvError::Disconnected) => {
                    shutdown = true;
                    break;
                }
                Err(TryRecvError::Empty) => break,
            }
        }
        for request in self.reads.try_iter().take(BATCH) {
            if let Request::Read(request) = request {
                core.read(request);
            }
        }
        for done in self.done.try_iter() {
            core.done(done)?;
        }
        if shutdown || self.stopping.is_some() {
            core.gather_no_more()?;
        }
        let stands = has(Defect::StandWithConsumer) && core.has_commits();
        let is_due = now >= self.next_tick && !stands;
        let may_wait = may_wait(now, self.next_tick, &self.config);
        self.tick_put_off = (is_due && may_wait && core.is_saving()).then(|| now + PATIENCE);
        let is_tick = is_due && self.tick_put_off.is_none();
        if is_tick {
            self.metrics.tick_late(now - self.next_tick);
            core.tick(now, send)?;
            // Ticks that were missed are not made up for: a loop that was late is not to hurry
            // into an election.
            let tick = self.config.tick();
            self.next_tick = (self.next_tick + tick).max(now + tick / 2);
        }
        let (commits, shared) = (&self.commits, &self.shared);
        core.finish_turn(now, send, &mut |core| {
            // Before the answers: the next sync is not to keep the status behind them.
            core.show(shared);
            deliver(core, commits, shared)
        })?;
        deliver(core, commits, shared)?;
        self.hand_out(now)?;
        if is_tick {
            self.show_transport();
        }
        self.core.show(&self.shared);
        self.complain(now);
        if self.core.book().removed.contains(&self.config.id) {
            let why = format!("member {} was removed from the cluster", self.config.id);
            self.removed.get_or_insert(why);
        }
        let removed = self.removed.clone().map(Error::Removed);
        let turn = if shutdown || removed.is_some() { self.stop(now, removed) } else { Turn::Next };
        self.shared.turn_ended(now);
        Ok(turn)
    }

    /// Takes what peers sent and what became of what was sent to them; gives its bytes.
    fn take_inbox(&mut self, now: Instant) -> Result<u64, Error> {
        let Self { core, transport, gate, shared, logger, .. } = self;
        let send = &mut |to: u64, frame: Frame| transport.send(to, frame);
        let mut bytes = 0;
        for inbound in self.inbox.try_iter().take(BATCH) {
            match inbound {
                Inbound::Frame { from, frame, permit } => {
                    bytes += permit.bytes();
                    core.receive(from, frame, send)?;
                    drop(permit);
                }
                Inbound::Unreachable { peer } => core.unreachable(peer),
                Inbound::Unsent { attempt } => core.unsent(attempt),
                Inbound::Met { peer, incarnation, client_url } => {
                    core.met(peer, incarnation);
                    let is_member = core.book().members.contains_key(&peer);
                    shared.update(|status| {
                        if is_member || status.client_urls.len() < MAX_STRANGERS_URLS {
                            status.client_urls.insert(peer, client_url);
                        }
                    });
                }
                Inbound::Distrusted { peer, status, message } => {
                    warn!(logger, "refusing a peer"; "peer" => peer, "status" => status,
                        "why" => message);
                }
                Inbound::Refused { peer, status, message } => {
                    // Of the gate's book: the core's may still be replayed, and this is told once.
                    match end_by_refusal(status, &message, gate.is_member(peer)) {
                        Some(Error::Removed(why)) => {
                            self.removed.get_or_insert(why);
                        }
                        Some(end) => return Err(end),
                        None => warn!(logger, "refused by a peer"; "peer" => peer,
                            "status" => status, "why" => message),
                    }
                }
                Inbound::Snapshot { message, received, reply } => {
                    let result = core.receive_snapshot(*message, received, send)?;
                    // The sender may have gone: raft has the snapshot all the same.
                    reply.send(result).ok();
                }
                Inbound::SnapshotReport { to, result } => core.snapshot_reported(to, &result)?,
                Inbound::Call { from, body, joining, reply } => {
                    let answer: Answer = Box::new(move |changed| {
                        reply.answer(changed.encode().into());
                    });
                    match called(from, &body, joining, now) {
                        Ok((asked, options, deadline)) => {
                            // A joining member asks whomever it finds: the leader may be one hop
                            // further.
                            let is_called = joining.is_none();
                            core.called(asked, options, deadline, is_called, answer);
                        }
                        Err(what) => {
                            let message = format!("the call {what}");
                            let kind = ChangeRefusalKind::Invalid;
                            answer(Changed::Refused(ChangeRefusal { kind, message }));
                        }
                    }
                }
                Inbound::Answered { tag, result } => core.answered(tag, result),
                Inbound::Probed { tag, result } => core.probed(tag, result),
            }
            if bytes >= BATCH_BYTES {
                break;
            }
        }
        Ok(bytes)
    }

    /// Shows what is under way between the members.
    fn show_transport(&self) {
        let (sending, receiving) = self.transport.transfers();
        let peers = self.transport.peers().into_iter();
        let links = peers.map(|peer| (peer.id, peer.link)).collect();
        self.shared.update(|status| {
            (status.sending, status.receiving, status.links) = (sending, receiving, links);
        });
    }

    /// Gives what the core wants done to those who do it.
    fn hand_out(&mut self, now: Instant) -> Result<(), Error> {
        for task in self.core.take_tasks() {
            self.workers.submit(task);
        }
        for (id, why) in self.core.take_distrusted() {
            self.gate.mark_lost(id, why);
        }
        for Sending { message, path } in self.core.take_sendings() {
            let to = message.to;
            match Outgoing::open(&*self.fs, &path) {
                Ok(file) => self.transport.send_snapshot(to, message, Box::new(file)),
                Err(error) => {
                    let why = format!("cannot open {}: {error}", path.display());
                    self.core.snapshot_reported(to, &Err(why))?;
                }
            }
        }
        for ask in self.core.take_asks() {
            match ask {
                Ask::Call { to, tag, asked, options, deadline } => {
                    let patience = deadline.saturating_duration_since(now).as_millis();
                    let patience_ms = u32::try_from(patience).unwrap_or(u32::MAX);
                    let call = Call { asked, options, patience_ms }.encode();
                    self.transport.call(to, tag, call.into(), deadline);
                }
                Ask::Probe { url, tag } => self.transport.probe(&url, tag),
            }
        }
        let may_introduce = self.core.has_replayed() || has(Defect::ForgetGate);
        if self.book_version != self.core.book_version() && may_introduce {
            self.book_version = self.core.book_version();
            introduce(self.core.book(), &self.gate);
            self.transport.set_peers(&peers(self.core.book(), &self.config));
        }
        Ok(())
    }

    /// Says from time to time why nobody leads, for whoever looks at the log at night.
    fn complain(&mut self, now: Instant) {
        if self.core.leader_id() != raft::INVALID_ID {
            self.leaderless_since = now;
            return;
        }
        if now < self.leaderless_since + COMPLAINT_INTERVAL {
            return;
        }
        self.leaderless_since = now;
        let unreachable: Vec<String> = (self.transport.peers().into_iter())
            .filter(|peer| !peer.link.connected)
            .map(|peer| {
                let why = peer.last_error.unwrap_or_else(|| "not tried yet".into());
                format!("{} {} ({why})", peer.id, peer.url)
            })
            .collect();
        warn!(self.logger, "no leader: a majority of {} voters must be up and connected",
            self.core.book().voters().count(); "unreachable" => unreachable.join(", "));
    }

    /// Takes no new work, hands leadership over, and goes on until nobody waits.
    fn stop(&mut self, now: Instant, why: Option<Error>) -> Turn {
        let stopping = self.stopping.get_or_insert_with(|| {
            let handed_to = self.core.hand_over(None);
            info!(self.logger, "stopping"; "handing_over_to" => handed_to);
            let mut patience = self.config.shutdown_timeout;
            if let Some(Error::Removed(_)) = why {
                // Nobody talks to us any more: what is on its way stays unknown.
                patience = patience.min(self.config.election_timeout);
                self.core.tell_removed();
            }
            Stopping {
                why,
                deadline: now + patience,
                handing_over: handed_to.map(|_| now + self.config.election_timeout),
            }
        });
        self.core.refuse_parked();
        let handing_over = self.core.leads() && stopping.handing_over.is_some_and(|d| now < d);
        let done = self.core.is_idle() && !handing_over;
        if done || now >= stopping.deadline { Turn::Last } else { Turn::Next }
    }
}
