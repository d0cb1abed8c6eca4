//! The running node: one thread that owns raft and its log, and what starts and ends it.
//!
//! Each turn of the loop takes what has arrived, in bounded batches, moves raft's clock when a
//! tick is due, and then handles what raft has ready. [`Loop::next_event`] is the only place
//! that reads the clock or blocks.
//!
//! ```text
//!  requests ─┐
//!  inbox ────┤ next_event ──► Core ──► Transport::send
//!  applied ──┤                  │
//!  room ─────┘                  └────► commit channel
//! ```

mod core;
mod proposals;
mod reads;
#[cfg(test)]
mod scripts;

use std::net::TcpListener;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Select, Sender, TryRecvError, TrySendError};
use slog::{Logger, error, info, warn};
use wal::fs::{DiskFs, Fs};

use self::core::{Core, Parts};
use crate::channel::{AppliedCell, Limits, Request, Restore};
use crate::directory::{Directory, Recovered};
use crate::identity::{self, Identity};
use crate::membership::Member;
use crate::status::{Shared, Status};
use crate::transport::{Frame, Gate, Inbound, Settings, SnapshotSink, SnapshotSinks, Transport};
use crate::{Applied, Commit, Config, Error, Handle, pins};

/// How many requests and how many frames one turn takes before raft's work is done: enough to
/// share one sync among all who wait, not enough to delay a heartbeat.
const BATCH: usize = 4096;
/// And how many bytes: what one write and one sync should carry at most, roughly.
const BATCH_BYTES: u64 = 4 << 20;

/// Items on the commit channel; the bytes wait in the core, which has the bound.
const COMMIT_PLACES: usize = 4;

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
        let fs: Arc<dyn Fs> = Arc::new(DiskFs);
        let directory = Directory::inspect(Arc::clone(&fs), &config)?;
        let listener = listener.map_or_else(|| bind(&config), Ok)?;
        let unknown = |source| Error::Listen { address: "a bound socket".into(), source };
        let peer_address = listener.local_addr().map_err(unknown)?;
        let listening = |source| Error::Listen { address: peer_address.to_string(), source };
        let Recovered { identity, storage, header, lock } =
            directory.open(&config, stop, &logger)?;

        let book = header.book;
        let own_url = book.members.get(&config.id).map(|member| member.url.clone());
        let settings = Settings {
            peer_url: own_url.unwrap_or_default(),
            client_url: config.client_url.clone(),
            heartbeat_interval: config.heartbeat_interval,
            election_timeout: config.election_timeout,
            // Everything raft may have under way to one peer, and as much again of forwards.
            bulk_queue_bytes: 2
                * core::MAX_INFLIGHT_MESSAGES as u64
                * config.max_entry_bytes.max(1 << 20),
            max_entry_bytes: config.max_entry_bytes,
        };
        let peers: Vec<(u64, String)> = (book.members.iter())
            .filter(|(id, _)| **id != config.id)
            .map(|(id, Member { url, .. })| (*id, url.clone()))
            .collect();
        let (inbox_tx, inbox) = crossbeam_channel::unbounded();
        let pins = config.data_dir.join(pins::FILE);
        let Identity { node, incarnation, cluster } = identity;
        let gate = Arc::new(Gate::open(fs, &pins, node, incarnation, cluster)?);
        let sinks = Arc::new(NoSinks);
        let transport =
            Transport::start(settings, listener, &peers, gate, sinks, inbox_tx, logger.clone())
                .map_err(listening)?;

        let status = Status {
            id: config.id,
            cluster_id: identity.cluster,
            book: book.clone(),
            client_urls: [(config.id, config.client_url.clone())].into(),
            ..Status::default()
        };
        let shared = Arc::new(Shared::new(status));
        let limits = Limits {
            max_pending: config.max_pending,
            max_pending_bytes: config.max_pending_bytes,
            max_entry_bytes: config.max_entry_bytes,
        };
        let places = usize::try_from(config.max_pending).unwrap_or(usize::MAX);
        let (requests_tx, requests) = crossbeam_channel::bounded(places.saturating_add(1));
        let (commits_tx, commits) = crossbeam_channel::bounded(COMMIT_PLACES);
        let (wake_tx, wake) = crossbeam_channel::bounded(1);
        let cell = Arc::new(AppliedCell::default());
        let handle = Handle::new(requests_tx, Arc::clone(&shared), limits);
        let applied = Applied { cell: Arc::clone(&cell), wake: wake_tx.clone() };

        let restore = Restore {
            index: header.index,
            term: header.term,
            commit_index: storage.hard_state().commit,
            state: Box::new(std::io::empty()),
        };
        let parts = Parts {
            storage,
            book,
            restore,
            applied: cell,
            nonce: u64::from_le_bytes(identity::random()),
            seed: u64::from_le_bytes(identity::random()),
        };
        let core = Core::new(&config, parts, &logger)?;
        let event_loop = Loop {
            core,
            transport,
            shared,
            requests,
            inbox,
            wake,
            _wake_tx: wake_tx,
            commits: commits_tx,
            tick: config.tick(),
            next_tick: Instant::now() + config.tick(),
            stopping: None,
            shutdown_timeout: config.shutdown_timeout,
            election_timeout: config.election_timeout,
            leaderless_since: Instant::now(),
            logger: logger.clone(),
        };
        let thread = std::thread::Builder::new()
            .name("raft".into())
            .spawn(move || {
                let result = event_loop.run();
                drop(lock);
                result
            })
            .map_err(listening)?;
        Ok((Node { thread, peer_address }, Channels { handle, commits, applied }))
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

/// Nothing to receive snapshots with yet.
struct NoSinks;

impl SnapshotSinks for NoSinks {
    fn begin(&self, _: u64, _: u64, _: u64) -> std::io::Result<Box<dyn SnapshotSink>> {
        Err(std::io::ErrorKind::Unsupported.into())
    }
}

/// Listens on the configured address, or on the host and port of this member's own URL.
fn bind(config: &Config) -> Result<TcpListener, Error> {
    if let Some(address) = config.peer_listen {
        let failed = |source| Error::Listen { address: address.to_string(), source };
        return TcpListener::bind(address).map_err(failed);
    }
    let own = config.founders.iter().find(|founder| founder.id == config.id);
    let url = own.map_or("", |founder| &founder.url);
    let address = url.trim_start_matches("http://").to_owned();
    TcpListener::bind(&*address).map_err(|source| Error::Listen { address, source })
}

fn panic_text(panic: &(dyn std::any::Any + std::marker::Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic").to_owned()
}

/// Why the loop takes no new work, and until when it waits for the old.
struct Stopping {
    deadline: Instant,
    /// Whether this member led and asked another to take over, and until when it waits for that.
    handing_over: Option<Instant>,
}

struct Loop {
    core: Core,
    transport: Transport,
    shared: Arc<Shared>,
    requests: Receiver<Request>,
    inbox: Receiver<Inbound>,
    wake: Receiver<()>,
    /// Keeps the wake-up channel open when the consumer has dropped its end.
    _wake_tx: Sender<()>,
    commits: Sender<Commit>,
    tick: Duration,
    next_tick: Instant,
    stopping: Option<Stopping>,
    shutdown_timeout: Duration,
    election_timeout: Duration,
    leaderless_since: Instant,
    logger: Logger,
}

/// Whether the loop goes on.
enum Turn {
    Next,
    Last,
}

impl Loop {
    fn run(mut self) -> Result<(), Error> {
        let result = std::panic::catch_unwind(AssertUnwindSafe(|| self.turns()))
            .unwrap_or_else(|panic| Err(Error::Invariant(panic_text(&*panic))));
        self.shared.request_shutdown();
        match &result {
            Ok(()) => info!(self.logger, "stopped"),
            Err(error) => error!(self.logger, "stopped"; "error" => %error),
        }
        self.transport.shutdown();
        result
    }

    fn turns(&mut self) -> Result<(), Error> {
        loop {
            let now = self.next_event();
            if let Turn::Last = self.turn(now)? {
                return self.core.close();
            }
        }
    }

    /// Blocks until there is something to do, and tells what time it is then.
    fn next_event(&self) -> Instant {
        if self.core.has_work() {
            return Instant::now();
        }
        let mut select = Select::new();
        select.recv(&self.inbox);
        if self.stopping.is_none() {
            select.recv(&self.requests);
        }
        select.recv(&self.wake);
        if self.core.has_commits() {
            select.send(&self.commits);
        }
        // A timeout is an event too: the next tick is due.
        select.ready_deadline(self.next_tick).ok();
        Instant::now()
    }

    fn turn(&mut self, now: Instant) -> Result<Turn, Error> {
        let Self { core, transport, .. } = self;
        let send = &mut |to: u64, frame: Frame| transport.send(to, frame);
        self.wake.try_recv().ok();
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
                Inbound::Met { peer, client_url, .. } => {
                    self.shared.update(|status| {
                        status.client_urls.insert(peer, client_url);
                    });
                }
                Inbound::Distrusted { peer, status, message } => {
                    warn!(self.logger, "refusing a peer"; "peer" => peer, "status" => status,
                        "why" => message);
                }
                // Dropping the replies is an answer.
                Inbound::SnapshotReport { .. }
                | Inbound::Snapshot { .. }
                | Inbound::Answered { .. }
                | Inbound::Call { .. }
                | Inbound::Probed { .. } => {}
                Inbound::Refused { peer, status, message } => {
                    warn!(self.logger, "refused by a peer"; "peer" => peer, "status" => status,
                        "why" => message);
                }
            }
            if bytes >= BATCH_BYTES {
                break;
            }
        }
        let mut shutdown = self.shared.shutdown_requested();
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
                Ok(Request::Change(_) | Request::Snapshot(_)) => {}
                Ok(Request::Shutdown) | Err(TryRecvError::Disconnected) => {
                    shutdown = true;
                    break;
                }
                Err(TryRecvError::Empty) => break,
            }
        }
        if now >= self.next_tick {
            core.tick(now, send)?;
            // Ticks that were missed are not made up for: a loop that was late is not to hurry
            // into an election.
            self.next_tick = (self.next_tick + self.tick).max(now + self.tick / 2);
        }
        core.finish_turn(send)?;
        self.flush_commits()?;
        self.core.show(&self.shared);
        self.complain(now);
        let turn = if shutdown { self.stop(now) } else { Turn::Next };
        self.shared.turn_ended(now);
        Ok(turn)
    }

    /// Gives the consumer what it has room for.
    fn flush_commits(&mut self) -> Result<(), Error> {
        while let Some(commit) = self.core.next_commit() {
            match self.commits.try_send(commit) {
                Ok(()) => {}
                Err(TrySendError::Full(commit)) => {
                    self.core.return_commit(commit);
                    break;
                }
                // Nobody will ever take it: its waiters learn that by its end, and so does the
                // rest of the queue.
                Err(TrySendError::Disconnected(_)) => self.shared.request_shutdown(),
            }
        }
        self.core.publish_missed()
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
            .filter(|peer| !peer.connected)
            .map(|peer| {
                let why = peer.last_error.unwrap_or_else(|| "not tried yet".into());
                format!("{} {} ({why})", peer.id, peer.url)
            })
            .collect();
        warn!(self.logger, "no leader: a majority of {} voters must be up and connected",
            self.core.book().voters().count(); "unreachable" => unreachable.join(", "));
    }

    /// Takes no new work, hands leadership over, and goes on until nobody waits.
    fn stop(&mut self, now: Instant) -> Turn {
        let stopping = self.stopping.get_or_insert_with(|| {
            let handed_to = self.core.hand_over();
            info!(self.logger, "stopping"; "handing_over_to" => handed_to);
            Stopping {
                deadline: now + self.shutdown_timeout,
                handing_over: handed_to.map(|_| now + self.election_timeout),
            }
        });
        self.core.refuse_parked();
        let handing_over = self.core.leads() && stopping.handing_over.is_some_and(|d| now < d);
        let done = self.core.is_idle() && !handing_over;
        if done || now >= stopping.deadline { Turn::Last } else { Turn::Next }
    }
}
