//! How members talk to each other: streams of frames over HTTP, one for bulk and one for control.
//!
//! ```text
//!  send ──► queue (peer, lane) ──► dialler ══ POST /raft/stream/<lane> ══► listener ──► inbox
//!                                     ▲                                      │
//!                                     └───── the peer's head, then an echo ──┘
//! ```
//!
//! Everything but [`Transport`]'s own methods runs on one thread with a runtime of its own, so
//! that no client load delays a heartbeat. The transport knows what travels and between whom; it
//! does not know what a message means, whether the sender is a member, or what is on disk. It
//! promises very little: a frame arrives at most once, and the frames of one lane arrive in order
//! as long as its stream lasts. It refuses to send anything again, to keep anything for a peer
//! that is away, and to make the loop wait. Snapshots do not travel on streams.
//!
//! Invariants:
//! - T1 No method blocks: each takes short locks that are never held across anything that waits.
//! - T2 Every queue, buffer and wait has a bound that is named where it is.
//! - T3 Forwards are never lost in silence before they reach a stream: each is handed to one or
//!   comes back as [`Inbound::Unsent`].
//!
//! Those of the parts: F in [`frame`], H in [`head`], Q in [`queue`], P in [`peer`], L in
//! [`listener`].

mod frame;
mod head;
mod listener;
mod peer;
mod queue;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io;
use std::net::TcpListener;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crossbeam_channel::Sender;
use slog::{crit, debug};
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

#[cfg(test)]
pub(crate) use self::frame::MAX_PAYLOAD;
pub(crate) use self::frame::{Frame, VerdictKind};
use self::head::Head;
use self::listener::{Slot, Streams};
use self::peer::{Dialler, Peer};
use self::queue::Lane;
use crate::key::Attempt;

/// The window of appends that raft keeps on its way to one peer, and the size it aims at for each.
const WINDOW: u64 = 16;
const WINDOW_MESSAGE_BYTES: u64 = 1 << 20;

/// How many system lookups of host names may run at once.
const MAX_LOOKUPS: usize = 8;

/// What the transport needs to be told.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) id: u64,
    pub(crate) cluster: u64,
    pub(crate) incarnation: u128,
    /// Where peers reach this member.
    pub(crate) peer_url: String,
    /// Where clients reach this member; may be empty.
    pub(crate) client_url: String,
    pub(crate) heartbeat_interval: Duration,
    pub(crate) election_timeout: Duration,
    /// What may wait for one peer on the bulk lane: at least raft's whole window.
    pub(crate) bulk_queue_bytes: u64,
    pub(crate) max_entry_bytes: u64,
}

/// What the transport tells the loop.
#[derive(Debug)]
pub(crate) enum Inbound {
    /// A frame from another member of this cluster; `from` is what its head said, and what a
    /// message inside says.
    Frame {
        from: u64,
        frame: Frame,
        permit: Permit,
    },
    /// The bulk stream to a peer broke, or its queue was full: appends were lost.
    Unreachable {
        peer: u64,
    },
    /// A Forward that reached no stream, and never will.
    Unsent {
        attempt: Attempt,
    },
    /// What a checked head says of where clients reach a member. Repeated at every stream.
    Met {
        peer: u64,
        incarnation: u128,
        client_url: String,
    },
    Snapshot {
        from: u64,
        message: raft::eraftpb::Message,
        received: crate::snapshot::Received,
        reply: oneshot::Sender<Result<(), String>>,
    },
    SnapshotReport {
        to: u64,
        result: Result<(), String>,
    },
    Call {
        from: u64,
        body: Bytes,
        joining: Option<u128>,
        reply: CallReply,
    },
    Answered {
        tag: u64,
        result: CallResult,
    },
    Probed {
        tag: u64,
        result: ProbeResult,
    },
    /// A peer does not take our streams, or we not its answer. Told once until that changes.
    Refused {
        peer: u64,
        status: u16,
        message: String,
    },
}

/// A delivered frame's share of what may wait for the loop; dropping it lets more in.
#[derive(Debug)]
pub(crate) struct Permit {
    slot: Arc<Slot>,
    bytes: u32,
}

impl Permit {
    fn new(slot: Arc<Slot>, bytes: u32) -> Self {
        Self { slot, bytes }
    }

    /// What the frame was charged with.
    pub(crate) fn bytes(&self) -> u64 {
        u64::from(self.bytes)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.slot.give_back(self.bytes);
    }
}

/// What people are told of a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PeerStatus {
    pub(crate) id: u64,
    pub(crate) url: String,
    /// Both lanes have a stream.
    pub(crate) connected: bool,
    /// Why not, when not.
    pub(crate) last_error: Option<String>,
}

/// What the loop, the diallers and the listener share.
struct Shared {
    settings: Settings,
    inbox: Sender<Inbound>,
    logger: slog::Logger,
    peers: Mutex<BTreeMap<u64, Dialled>>,
    streams: Streams,
}

/// A peer and the tasks that dial it, in the order of [`Lane::ALL`].
struct Dialled {
    peer: Arc<Peer>,
    tasks: [JoinHandle<()>; 2],
}

impl Shared {
    /// Our head towards a member.
    fn head(&self, to: u64) -> Head {
        let Settings { id, cluster, incarnation, peer_url, client_url, .. } = &self.settings;
        Head {
            cluster: *cluster,
            from: *id,
            to,
            incarnation: *incarnation,
            peer_url: peer_url.clone(),
            client_url: client_url.clone(),
        }
    }

    fn tell(&self, inbound: Inbound) {
        // The loop may have ended: then there is nobody to tell.
        self.inbox.send(inbound).ok();
    }

    fn client_url(&self, peer: u64, url: String) {
        self.tell(Inbound::Met { peer, incarnation: 0, client_url: url });
    }

    fn awake(&self, id: u64) {
        if let Some(dialled) = lock(&self.peers).get(&id) {
            dialled.peer.awake();
        }
    }

    /// How long a peer may be silent: less than an echo that is late, more than one that is lost.
    fn silence(&self) -> Duration {
        self.settings.election_timeout * 2
    }

    fn echo_interval(&self) -> Duration {
        (self.settings.election_timeout / 2).min(Duration::from_secs(1))
    }
}

/// The running transport. Dropping it stops it without waiting.
pub(crate) struct Transport {
    shared: Arc<Shared>,
    runtime: Handle,
    stop: oneshot::Sender<()>,
    thread: thread::JoinHandle<()>,
}

impl Transport {
    /// Starts to listen and to dial.
    ///
    /// # Errors
    ///
    /// Settings that cannot work, or a system that gives no thread or no sockets.
    pub(crate) fn start(
        settings: Settings,
        listener: TcpListener,
        peers: &[(u64, String)],
        _: Arc<Gate>,
        _: Arc<dyn SnapshotSinks>,
        inbox: Sender<Inbound>,
        logger: slog::Logger,
    ) -> io::Result<Self> {
        check(&settings)?;
        listener.set_nonblocking(true)?;
        let runtime = Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .max_blocking_threads(MAX_LOOKUPS)
            .thread_name("raft-lookup")
            .build()?;
        let listener = {
            let _context = runtime.enter();
            tokio::net::TcpListener::from_std(listener)?
        };
        let handle = runtime.handle().clone();
        let peers_by_id = Mutex::new(BTreeMap::new());
        let streams = Streams::default();
        let shared = Arc::new(Shared { settings, inbox, logger, peers: peers_by_id, streams });
        let (stop, stopped) = oneshot::channel();
        let thread = thread::Builder::new().name("raft-transport".into()).spawn({
            let shared = Arc::clone(&shared);
            move || {
                runtime.block_on(async {
                    tokio::select! {
                        biased;
                        stop = stopped => {
                            if stop.is_ok() {
                                drain(&shared).await;
                            }
                        }
                        never = listener::listen(
                            Arc::clone(&shared),
                            async || listener.accept().await,
                        ) => match never {},
                    }
                });
                // A lookup may hang for as long as the system likes: it is not waited for.
                runtime.shutdown_background();
            }
        })?;
        let transport = Self { shared, runtime: handle, stop, thread };
        transport.set_peers(peers);
        Ok(transport)
    }

    /// Queues a frame on its lane, or drops it. A Forward that is dropped comes back as unsent.
    pub(crate) fn send(&self, to: u64, frame: Frame) {
        let unsent = frame.attempt();
        let Some(lane) = Lane::of(&frame) else {
            debug!(self.shared.logger, "snapshot not sent"; "peer" => to);
            return;
        };
        let pushed = {
            let peers = lock(&self.shared.peers);
            peers.get(&to).map(|dialled| lock(dialled.peer.queue(lane)).push(frame))
        };
        let Some(pushed) = pushed else {
            debug!(self.shared.logger, "frame for an unknown peer dropped"; "peer" => to);
            if let Some(attempt) = unsent {
                self.shared.tell(Inbound::Unsent { attempt });
            }
            return;
        };
        if let Some(waker) = pushed.wake {
            waker.wake();
        }
        if pushed.unreachable {
            self.shared.tell(Inbound::Unreachable { peer: to });
        }
        if let Some(attempt) = pushed.unsent {
            self.shared.tell(Inbound::Unsent { attempt });
        }
    }

    /// Dials exactly these members from now on. One whose URL changed loses its streams, as if
    /// they had broken; what a removed one had on its way may still arrive, as may news of it.
    pub(crate) fn set_peers(&self, peers: &[(u64, String)]) {
        let Shared { peers: dialled, settings, .. } = &*self.shared;
        let mut dialled = lock(dialled);
        dialled.retain(|id, old| {
            let kept = peers.iter().any(|(other, url)| other == id && *url == old.peer.url);
            if !kept {
                old.tasks.iter().for_each(JoinHandle::abort);
            }
            kept
        });
        for (id, url) in peers {
            // Nobody has a line to itself.
            if *id == settings.id {
                continue;
            }
            if let Entry::Vacant(vacant) = dialled.entry(*id) {
                let peer = Arc::new(Peer::new(*id, url.clone(), settings.bulk_queue_bytes));
                let tasks = Lane::ALL.map(|lane| {
                    let dialler = Dialler::new(Arc::clone(&peer), lane, Arc::clone(&self.shared));
                    self.runtime.spawn(dialler.run())
                });
                vacant.insert(Dialled { peer, tasks });
            }
        }
    }

    /// What is known of the peers, by id.
    pub(crate) fn peers(&self) -> Vec<PeerStatus> {
        lock(&self.shared.peers).values().map(|dialled| dialled.peer.status()).collect()
    }

    /// Stops everything. The control frames that are queued get a heartbeat's time or two to
    /// leave; then the thread ends, and this returns.
    pub(crate) fn shutdown(self) {
        let Self { shared, runtime: _, stop, thread } = self;
        // The thread may have ended, by a panic: joining it tells.
        stop.send(()).ok();
        if thread.join().is_err() {
            crit!(shared.logger, "the transport's thread had panicked");
        }
    }
}

fn check(settings: &Settings) -> io::Result<()> {
    let window = WINDOW * settings.max_entry_bytes.max(WINDOW_MESSAGE_BYTES);
    let wrong = if settings.bulk_queue_bytes < window {
        let bytes = settings.bulk_queue_bytes;
        Some(format!("a bulk queue of {bytes} bytes does not hold raft's window of {window}"))
    } else {
        let Settings { id, cluster, incarnation, peer_url, client_url, .. } = settings.clone();
        let head = Head { cluster, from: id, to: id, incarnation, peer_url, client_url };
        head.to_headers().err()
    };
    wrong.map_or(Ok(()), |wrong| Err(io::Error::new(io::ErrorKind::InvalidInput, wrong)))
}

/// Lets the queued control frames leave. A peer closes the stream when it has read to its end, so
/// the end of a dialler tells that everything has arrived.
async fn drain(shared: &Shared) {
    let limit = shared.settings.heartbeat_interval * 2;
    let mut leaving = Vec::new();
    let peers = std::mem::take(&mut *lock(&shared.peers));
    for Dialled { peer, tasks: [bulk, control] } in peers.into_values() {
        bulk.abort();
        let (open, waker) = lock(peer.queue(Lane::Control)).end();
        if let Some(waker) = waker {
            waker.wake();
        }
        if open {
            leaving.push(control);
        } else {
            control.abort();
        }
    }
    let all = async {
        for control in leaving {
            // A dialler that panicked has nothing left to say.
            control.await.ok();
        }
    };
    // Whatever takes longer is lost, as any frame may be.
    timeout(limit, all).await.ok();
}

/// No code panics while it holds one of the transport's locks; if it did, the other threads
/// would have to go on.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// STUBS
use bytes::Bytes;
use std::collections::BTreeSet;
use std::path::Path;
use std::time::Instant;
#[derive(Debug, Clone)]
pub(crate) enum CallResult {
    Answer(Bytes),
    NotSent(String),
    Lost(String),
}
#[derive(Debug, Clone)]
pub(crate) enum ProbeResult {
    Nobody,
    Member { cluster: u64, id: u64, incarnation: u128 },
    Stranger(String),
}
pub(crate) struct Gate;
impl Gate {
    pub(crate) fn open(
        _: Arc<dyn wal::fs::Fs>,
        _: &Path,
        _: crate::identity::Identity,
    ) -> Result<Self, crate::Error> {
        Ok(Self)
    }
    pub(crate) fn set_book(&self, _: BTreeMap<u64, u128>, _: BTreeSet<u64>) {}
    pub(crate) fn pins(&self) -> BTreeMap<u64, u128> {
        BTreeMap::new()
    }
}
pub(crate) trait SnapshotSource: Send {}
impl SnapshotSource for crate::snapshot::Outgoing {}
pub(crate) trait SnapshotSinks: Send + Sync {
    fn begin(&self, from: u64, len: u64, checksum: u64) -> io::Result<Box<dyn SnapshotSink>>;
}
pub(crate) trait SnapshotSink: Send {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()>;
    fn finish(self: Box<Self>) -> Result<crate::snapshot::Received, String>;
}
#[derive(Debug)]
pub(crate) struct CallReply;
impl CallReply {
    pub(crate) fn answer(self, _: Bytes) {}
}
impl Transport {
    pub(crate) fn send_snapshot(
        &self,
        _: u64,
        _: raft::eraftpb::Message,
        _: Box<dyn SnapshotSource>,
    ) {
    }
    pub(crate) fn call(&self, _: u64, _: u64, _: Bytes, _: Instant) {}
    pub(crate) fn probe(&self, _: &str, _: u64) {}
    pub(crate) fn transfers(&self) -> (Vec<crate::Transfer>, Vec<crate::Transfer>) {
        (vec![], vec![])
    }
}
pub(crate) mod join {
    use super::*;
    pub(crate) struct JoinHead {
        pub(crate) from: u64,
        pub(crate) incarnation: u128,
        pub(crate) peer_url: String,
        pub(crate) client_url: String,
    }
    pub(crate) struct JoinAnswer {
        pub(crate) cluster: u64,
        pub(crate) from: u64,
        pub(crate) body: Bytes,
    }
    #[derive(Debug, thiserror::Error)]
    pub(crate) enum JoinError {
        #[error("x")]
        Refused { status: u16, message: String },
    }
    pub(crate) fn call_url(
        _: &str,
        _: &JoinHead,
        _: Bytes,
        _: Instant,
    ) -> Result<JoinAnswer, JoinError> {
        todo!()
    }
}
