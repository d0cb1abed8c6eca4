//! How members talk to each other: streams of frames over HTTP, one for bulk and one for control.
//!
//! ```text
//!  send ──► outlet (peer, lane) ══ POST /raft/stream/<lane> ══► listener ──► inbox
//!                ▲                                                 │
//!             dialler ◄───────── the peer's head, then an echo ────┘
//! ```
//!
//! Everything but [`Transport`]'s own methods runs on one thread with a runtime of its own, so
//! that no client load delays a heartbeat; what is small is written by the caller of
//! [`Transport::send`], so that nobody need be woken for it. The transport knows what travels and between whom; it
//! does not know what a message means, whether the sender is a member, or what is on disk. It
//! promises very little: a frame arrives at most once, and the frames of one lane arrive in order
//! as long as its stream lasts. It refuses to send anything again, to keep anything for a peer
//! that is away, and to make the loop wait. Snapshots and calls do not travel on streams: each
//! has a request, and a report, of its own.
//!
//! Invariants:
//! - T1 No method blocks: each takes short locks that are never held across anything that waits.
//! - T2 Every queue, buffer and wait has a bound that is named where it is.
//! - T3 Forwards are never lost in silence before they reach a stream: each is handed to one or
//!   comes back as [`Inbound::Unsent`].
//!
//! Those of the parts: F in [`frame`], H in [`head`], G in [`gate`], Q in [`queue`], O in
//! [`outlet`], P in [`peer`], L in [`listener`], Z in [`snapshot`], C in [`call`], S in [`shape`].

mod call;
mod dial;
mod frame;
mod gate;
mod head;
pub(crate) mod join;
mod listener;
mod outlet;
mod peer;
mod places;
mod probe;
mod queue;
mod shape;
mod snapshot;
#[cfg(feature = "simulation")]
pub(crate) mod stepped;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::TcpListener;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use crossbeam_channel::Sender;
use hyper::header::HeaderMap;
use raft::eraftpb::Message;
use slog::{crit, debug, info};
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use self::call::{Call, Calls};
pub(crate) use self::call::{CallReply, CallResult};
#[cfg(test)]
pub(crate) use self::frame::MAX_PAYLOAD;
pub(crate) use self::frame::{Frame, VerdictKind};
#[cfg(feature = "simulation")]
pub(crate) use self::gate::Rejected;
#[cfg(not(feature = "simulation"))]
use self::gate::Rejected;
pub(crate) use self::gate::{Gate, LOST_DATA};
use self::head::Kind;
pub(crate) use self::head::VERSION as PROTOCOL_VERSION;
pub(crate) use self::head::{Head, HeadRefusal};
use self::listener::{Slot, Streams};
use self::peer::{Dialler, Peer};
use self::places::Places;
use self::probe::Probe;
pub(crate) use self::probe::ProbeResult;
pub(crate) use self::queue::Lane;
use self::snapshot::{Moving, Sending};
pub(crate) use self::snapshot::{SnapshotSink, SnapshotSinks, SnapshotSource};
use crate::Link;
use crate::Transfer;
use crate::key::Attempt;
use crate::snapshot::Received;

/// The window of appends that raft keeps on its way to one peer, and the size it aims at for each.
const WINDOW: u64 = 16;
const WINDOW_MESSAGE_BYTES: u64 = 1 << 20;

/// How many threads may block for the transport: one per snapshot that moves, one per peer's
/// lookup, and one that writes pins. Beyond that they wait for each other.
const MAX_BLOCKING: usize = 64;

/// How many members that the book does not name are dialled: more than are ever being added, or
/// were missed, at once.
const MAX_GUESTS: usize = 16;
/// For how many election timeouts a guest is dialled that has no stream open here.
const GUEST_TIMEOUTS: u32 = 30;

/// What the transport needs to be told.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
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
    Frame { from: u64, frame: Frame, permit: Permit },
    /// The bulk stream to a peer broke, or its queue was full: appends were lost.
    Unreachable { peer: u64 },
    /// A Forward that reached no stream, and never will.
    Unsent { attempt: Attempt },
    /// What a head says of its sender, now that it was admitted. Told at each head, in either
    /// direction.
    Met { peer: u64, incarnation: u128, client_url: String },
    /// A peer does not take our streams, or would not if it knew what we are: 403 means that it
    /// knows us by another data directory, 410 that it knows us as removed. A dialler tells it
    /// once until that changes.
    Refused { peer: u64, status: u16, message: String },
    /// We do not take a peer's answers. Told once until that changes.
    Distrusted { peer: u64, status: u16, message: String },
    /// What became of one [`Transport::send_snapshot`]: the receiver's node took it, or why not.
    SnapshotReport { to: u64, result: Result<(), String> },
    /// A snapshot that arrived whole. The sender is told of success by an `Ok` only.
    Snapshot {
        message: Box<Message>,
        received: Received,
        reply: oneshot::Sender<Result<(), String>>,
    },
    /// What became of one [`Transport::call`].
    Answered { tag: u64, result: CallResult },
    /// A call from another member, or, with its incarnation, from somebody who wants to join.
    Call { from: u64, body: Bytes, joining: Option<u128>, reply: CallReply },
    /// What became of one [`Transport::probe`].
    Probed { tag: u64, result: ProbeResult },
}

/// A delivered frame's share of what may wait for the loop; dropping it lets more in.
#[derive(Debug)]
pub(crate) struct Permit {
    /// None: nobody counts.
    slot: Option<Arc<Slot>>,
    bytes: u32,
}

impl Permit {
    fn new(slot: Arc<Slot>, bytes: u32) -> Self {
        Self { slot: Some(slot), bytes }
    }

    /// What the frame was charged with.
    pub(crate) fn bytes(&self) -> u64 {
        u64::from(self.bytes)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(slot) = &self.slot {
            slot.give_back(self.bytes);
        }
    }
}

/// What carries the loop's words to the others. [`Transport`] does; a simulation does it too.
pub(crate) trait Carrier {
    /// As [`Transport::send`].
    fn send(&self, to: u64, frame: Frame);
    /// As [`Transport::set_peers`].
    fn set_peers(&self, peers: &[(u64, String)]);
    /// As [`Transport::send_snapshot`].
    fn send_snapshot(&self, to: u64, message: Message, source: Box<dyn SnapshotSource>);
    /// As [`Transport::transfers`].
    fn transfers(&self) -> (Vec<Transfer>, Vec<Transfer>);
    /// As [`Transport::call`].
    fn call(&self, to: u64, tag: u64, body: Bytes, deadline: std::time::Instant);
    /// As [`Transport::probe`].
    fn probe(&self, url: &str, tag: u64);
    /// As [`Transport::peers`].
    fn peers(&self) -> Vec<PeerStatus>;
}

/// What people are told of a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PeerStatus {
    pub(crate) id: u64,
    pub(crate) url: String,
    pub(crate) link: Link,
    /// Why it is not connected, when it is not.
    pub(crate) last_error: Option<String>,
}

/// What the loop, the diallers and the listener share.
struct Shared {
    settings: Settings,
    gate: Arc<Gate>,
    sinks: Arc<dyn SnapshotSinks>,
    inbox: Sender<Inbound>,
    logger: slog::Logger,
    peers: Mutex<BTreeMap<u64, Dialled>>,
    streams: Streams,
    /// The streams of those whom the book does not name.
    strange: Arc<Places>,
    calls: Calls,
    sending: Arc<Moving>,
    receiving: Arc<Moving>,
}

/// A peer and the tasks that dial it, in the order of [`Lane::ALL`].
struct Dialled {
    peer: Arc<Peer>,
    tasks: [JoinHandle<()>; 2],
    /// The snapshot that was last sent to it.
    snapshot: Option<JoinHandle<()>>,
    /// Of one that the book does not name: when it last had a stream open here.
    guest: Option<Instant>,
}

impl Dialled {
    fn new(shared: &Arc<Shared>, runtime: &Handle, id: u64, url: &str) -> Self {
        let peer = Arc::new(Peer::new(id, url.to_owned(), shared.settings.bulk_queue_bytes));
        let tasks = Lane::ALL.map(|lane| {
            runtime.spawn(Dialler::new(Arc::clone(&peer), lane, Arc::clone(shared)).run())
        });
        Self { peer, tasks, snapshot: None, guest: None }
    }

    fn stop(&self) {
        self.tasks.iter().chain(&self.snapshot).for_each(JoinHandle::abort);
    }
}

impl Shared {
    fn new(
        settings: Settings,
        gate: Arc<Gate>,
        sinks: Arc<dyn SnapshotSinks>,
        inbox: Sender<Inbound>,
        logger: slog::Logger,
    ) -> Self {
        Self {
            settings,
            gate,
            sinks,
            inbox,
            logger,
            peers: Mutex::default(),
            streams: Streams::default(),
            strange: Places::new(listener::MAX_STRANGE),
            calls: Calls::default(),
            sending: Arc::default(),
            receiving: Arc::default(),
        }
    }

    /// Our head towards a member.
    fn head(&self, to: u64) -> Head {
        let Settings { peer_url, client_url, .. } = &self.settings;
        let claim = self.gate.claim();
        Head {
            cluster: claim.cluster,
            from: claim.id,
            to,
            incarnation: claim.incarnation,
            pins: self.gate.pins_for(to),
            peer_url: peer_url.clone(),
            client_url: client_url.clone(),
        }
    }

    fn tell(&self, inbound: Inbound) {
        // The loop may have ended: then there is nobody to tell.
        self.inbox.send(inbound).ok();
    }

    fn met(&self, head: &Head) {
        let Head { from: peer, incarnation, .. } = *head;
        let client_url = head.client_url.clone();
        self.tell(Inbound::Met { peer, incarnation, client_url });
    }

    /// A request was not let in: what its sender is told. The node is told only what concerns it.
    fn rejected(&self, headers: &HeaderMap, rejected: Rejected) -> HeadRefusal {
        if matches!(rejected, Rejected::Us(_))
            && let Ok(head) = Head::parse(headers, Kind::Member)
        {
            self.tell(rejected.clone().told(head.from));
        }
        rejected.answer()
    }

    /// A stream was accepted: its sender is there and worth dialling, known or not.
    fn visited(self: &Arc<Self>, head: &Head) {
        let mut peers = lock(&self.peers);
        let moved =
            |dialled: &Dialled| dialled.guest.is_some() && dialled.peer.url != head.peer_url;
        match peers.get(&head.from) {
            Some(dialled) if !moved(dialled) => return dialled.peer.awake(&head.peer_url),
            Some(dialled) => dialled.stop(),
            None if peers.values().filter(|peer| peer.guest.is_some()).count() >= MAX_GUESTS => {
                debug!(self.logger, "too many guests, not dialled"; "peer" => head.from);
                return;
            }
            None => {}
        }
        info!(self.logger, "dialling a member that the address book does not name";
            "peer" => head.from, "url" => &head.peer_url);
        let mut guest = Dialled::new(self, &Handle::current(), head.from, &head.peer_url);
        guest.guest = Some(Instant::now());
        peers.insert(head.from, guest);
    }

    /// Forgets guests that are gone, for as long as it is polled.
    async fn see_guests_off(&self) -> Infallible {
        loop {
            sleep(self.settings.election_timeout).await;
            lock(&self.peers).retain(|id, dialled| {
                let Some(seen) = &mut dialled.guest else { return true };
                if self.streams.is_open(*id) {
                    *seen = Instant::now();
                }
                let stays = seen.elapsed() < self.settings.election_timeout * GUEST_TIMEOUTS;
                let stays = stays && !self.gate.is_removed(*id);
                if !stays {
                    dialled.stop();
                }
                stays
            });
        }
    }

    /// How long a peer may be silent: less than an echo that is late, more than one that is lost.
    fn silence(&self) -> Duration {
        self.settings.election_timeout * 2
    }

    /// How long bytes on their way to a disk may stand still: longer than a disk that is busy
    /// with others takes.
    fn disk_stall(&self) -> Duration {
        self.silence() * 5
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

impl Carrier for Transport {
    fn send(&self, to: u64, frame: Frame) {
        Transport::send(self, to, frame);
    }

    fn set_peers(&self, peers: &[(u64, String)]) {
        Transport::set_peers(self, peers);
    }

    fn send_snapshot(&self, to: u64, message: Message, source: Box<dyn SnapshotSource>) {
        Transport::send_snapshot(self, to, message, source);
    }

    fn transfers(&self) -> (Vec<Transfer>, Vec<Transfer>) {
        Transport::transfers(self)
    }

    fn call(&self, to: u64, tag: u64, body: Bytes, deadline: std::time::Instant) {
        Transport::call(self, to, tag, body, deadline);
    }

    fn probe(&self, url: &str, tag: u64) {
        Transport::probe(self, url, tag);
    }

    fn peers(&self) -> Vec<PeerStatus> {
        Transport::peers(self)
    }
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
        gate: Arc<Gate>,
        sinks: Arc<dyn SnapshotSinks>,
        inbox: Sender<Inbound>,
        logger: slog::Logger,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared::new(settings, gate, sinks, inbox, logger));
        check(&shared)?;
        listener.set_nonblocking(true)?;
        let runtime = Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .max_blocking_threads(MAX_BLOCKING)
            .thread_name("raft-blocking")
            .build()?;
        let listener = {
            let _context = runtime.enter();
            tokio::net::TcpListener::from_std(listener)?
        };
        let handle = runtime.handle().clone();
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
                        never = shared.see_guests_off() => match never {},
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

    /// Writes a frame to its lane's stream or queues it there, or drops it. A Forward that is
    /// dropped comes back as unsent.
    pub(crate) fn send(&self, to: u64, frame: Frame) {
        let unsent = frame.attempt();
        let Some(lane) = Lane::of(&frame) else {
            debug!(self.shared.logger, "a snapshot is no frame"; "peer" => to);
            return;
        };
        let peer = lock(&self.shared.peers).get(&to).map(|dialled| Arc::clone(&dialled.peer));
        let Some(peer) = peer else {
            debug!(self.shared.logger, "frame for an unknown peer dropped"; "peer" => to);
            if let Some(attempt) = unsent {
                self.shared.tell(Inbound::Unsent { attempt });
            }
            return;
        };
        let pushed = peer.outlet(lane).send(frame);
        if pushed.unreachable {
            self.shared.tell(Inbound::Unreachable { peer: to });
        }
        if let Some(attempt) = pushed.unsent {
            self.shared.tell(Inbound::Unsent { attempt });
        }
    }

    /// Dials exactly these members from now on, and the guests. One whose URL changed loses its
    /// streams, as if they had broken; what a removed one had on its way may still arrive, as may
    /// news of it.
    pub(crate) fn set_peers(&self, peers: &[(u64, String)]) {
        let mut dialled = lock(&self.shared.peers);
        // It may still be there: it moves when it is started anew.
        let mut left = BTreeMap::new();
        dialled.retain(|id, old| {
            let named = peers.iter().find(|(other, _)| other == id);
            let kept = named.map_or(old.guest.is_some(), |(_, url)| *url == old.peer.url);
            if !kept {
                old.stop();
                left.insert(*id, old.peer.reached_at());
            }
            kept
        });
        for (id, url) in peers {
            // Nobody has a line to itself.
            if *id == self.shared.gate.id() {
                continue;
            }
            let known = dialled
                .entry(*id)
                .or_insert_with(|| Dialled::new(&self.shared, &self.runtime, *id, url));
            known.guest = None;
            if let Some(left) = left.remove(id) {
                known.peer.was_at(left);
            }
        }
    }

    /// Sends a snapshot, and reports what became of it exactly once. At most one is on its way to
    /// each peer.
    pub(crate) fn send_snapshot(&self, to: u64, message: Message, source: Box<dyn SnapshotSource>) {
        let sending = Sending::new(Arc::clone(&self.shared), to);
        // Locked until the task is where its end can be asked for.
        let mut peers = lock(&self.shared.peers);
        let Some(dialled) = peers.get_mut(&to) else {
            return sending.fail("there is no such member".into());
        };
        if let Some(sending) = sending.begin(&message, source.len()) {
            let peer = Arc::clone(&dialled.peer);
            dialled.snapshot = Some(self.runtime.spawn(sending.run(peer, message, source)));
        }
    }

    /// The snapshots that are being sent, and those that are being received.
    pub(crate) fn transfers(&self) -> (Vec<Transfer>, Vec<Transfer>) {
        (self.shared.sending.transfers(), self.shared.receiving.transfers())
    }

    /// Asks a member something; the answer comes with the same tag, exactly once.
    pub(crate) fn call(&self, to: u64, tag: u64, body: Bytes, deadline: std::time::Instant) {
        let call = Call::new(Arc::clone(&self.shared), tag);
        let peer = lock(&self.shared.peers).get(&to).map(|dialled| Arc::clone(&dialled.peer));
        self.runtime.spawn(call.make(peer, body, deadline.into()));
    }

    /// Asks whoever listens at `url` who it is; the answer comes with the same tag, exactly once
    /// and within about a second.
    pub(crate) fn probe(&self, url: &str, tag: u64) {
        self.runtime.spawn(Probe::new(Arc::clone(&self.shared), tag).run(url.to_owned()));
    }

    /// What is known of the peers that the book names, by id.
    pub(crate) fn peers(&self) -> Vec<PeerStatus> {
        let peers = lock(&self.shared.peers);
        let named = peers.values().filter(|dialled| dialled.guest.is_none());
        named.map(|dialled| dialled.peer.status()).collect()
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

fn check(shared: &Shared) -> io::Result<()> {
    let Settings { bulk_queue_bytes: bytes, max_entry_bytes, .. } = shared.settings;
    let window = WINDOW * max_entry_bytes.max(WINDOW_MESSAGE_BYTES);
    let wrong = if bytes < window {
        Some(format!("a bulk queue of {bytes} bytes does not hold raft's window of {window}"))
    } else {
        shared.head(shared.gate.id()).to_headers().err()
    };
    wrong.map_or(Ok(()), |wrong| Err(io::Error::new(io::ErrorKind::InvalidInput, wrong)))
}

/// Lets the queued control frames leave. A peer closes the stream when it has read to its end, so
/// the end of a dialler tells that everything has arrived.
async fn drain(shared: &Shared) {
    let limit = shared.settings.heartbeat_interval * 2;
    let mut leaving = Vec::new();
    let peers = std::mem::take(&mut *lock(&shared.peers));
    for Dialled { peer, tasks: [bulk, control], snapshot, .. } in peers.into_values() {
        [&bulk].into_iter().chain(&snapshot).for_each(|task| task.abort());
        if peer.outlet(Lane::Control).end() {
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
