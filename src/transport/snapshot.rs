//! Snapshots between members: a request each, so that nothing waits behind them.
//!
//! ```text
//!  POST /raft/snapshot        the sender's head, and
//!  Expect                     100-continue: the body follows once the head was judged
//!  Content-Length             of the whole body
//!  X-Raft-Snapshot-Length     of the file, decimal
//!  X-Raft-Snapshot-Checksum   of the file, 16 hex digits, lower case
//!
//!  0        4          4 + n
//!  ├─── n ──┼ message ─┼ file ┤     n little endian; an eraftpb.Message of type MsgSnapshot
//!
//!  204        the receiver's head; its node has taken the snapshot
//! ```
//!
//! Files are read and written on threads that may block, a few megabytes ahead of the socket at
//! most. What a file holds and what its checksum covers is the node's business: it hands in
//! sources and sinks. No transfer has a total limit; one that stands still, or comes in drops, is
//! given up. A reason to give up in the middle of the file may be lost with the connection: the
//! receiver logs it.
//!
//! Invariants:
//! - Z1 Each snapshot that is to be sent gets exactly one [`Inbound::SnapshotReport`], whatever
//!   ends it, and a good one only after the receiver's node has taken it.
//! - Z2 At most one snapshot moves to each peer and one from each sender; the bytes of one that
//!   are in memory are bounded.
//! - Z3 A sink sees its bytes once and in order, and is finished only after the last of them.

use std::collections::BTreeMap;
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http_body_util::{BodyExt, Empty};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::header::{HeaderName, HeaderValue};
use hyper::{Method, Request, StatusCode};
use protobuf::Message as _;
use raft::eraftpb::{Message, MessageType};
use slog::{info, warn};
use tokio::sync::{mpsc, oneshot};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout};

use super::dial::{self, chain};
use super::head::{self, Head, HeadRefusal};
use super::listener::{Answer, Outgoing, answered};
use super::peer::Peer;
use super::shape::{self, Limits};
use super::{Inbound, Shared, lock};
use crate::Transfer;
use crate::snapshot::Received;

const LENGTH: HeaderName = HeaderName::from_static("x-raft-snapshot-length");
const CHECKSUM: HeaderName = HeaderName::from_static("x-raft-snapshot-checksum");

/// The largest message, in bytes. Only its conf state grows with the cluster, by some ten bytes a
/// member: this holds thousands.
const MAX_MESSAGE_BYTES: u64 = 64 << 10;
/// A message of that size names at most so many members: each takes a tag and a byte at least.
const LIMITS: Limits = Limits { entries: 0, ids: Some(MAX_MESSAGE_BYTES as usize / 2) };

/// How much of a file is read or written at once, and how many such pieces wait between the disk
/// and the socket; two more are at its ends.
const PIECE: usize = 1 << 20;
const PIECES: usize = 4;
/// How much of a piece goes to the socket at once: a line counts as standing still when it takes
/// less than this for as long as it is waited for.
pub(super) const SLICE: usize = 16 << 10;

/// Snapshots that are received at once: more would only slow each other down.
/// Whom the book does not name leaves the last place to members.
pub(super) const MAX_RECEIVING: usize = 2;

/// A sender of fewer bytes than this a second, all its waiting taken together, is taken for one that
/// only holds its place. Slower than any line that raft itself gets along with: whoever is cut off
/// here begins anew, and would never come to the end.
pub(super) const LEAST_RATE: u64 = 4 << 10;

/// A disk that syncs fewer bytes than this a second is taken for one that hangs.
const SLOWEST_DISK: u64 = 4 << 20;
/// What the end of a transfer may take in any case: a sync, and the node's turn.
const LEAST_PATIENCE: Duration = Duration::from_secs(30);

const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// A snapshot's file, to be sent. It is read in order, on a thread that may block.
#[allow(clippy::len_without_is_empty, reason = "no snapshot file is empty: it has a header")]
pub(crate) trait SnapshotSource: Send {
    /// The file's length.
    fn len(&self) -> u64;
    /// The file's checksum, as the receiver's sink understands it.
    fn checksum(&self) -> u64;
    /// Reads some bytes at `offset`; 0 means that the file ends there.
    fn read_at(&mut self, offset: u64, bytes: &mut [u8]) -> io::Result<usize>;
}

/// Where received snapshots go. Called on threads that may block.
pub(crate) trait SnapshotSinks: Send + Sync {
    /// Begins to receive a file of this length and checksum.
    fn begin(&self, from: u64, len: u64, checksum: u64) -> io::Result<Box<dyn SnapshotSink>>;
}

/// A snapshot's file that is being received. Dropping it abandons the file.
pub(crate) trait SnapshotSink: Send {
    /// Takes the next bytes.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// All bytes were written: verifies them and makes them durable.
    fn finish(self: Box<Self>) -> Result<Received, String>;
}

/// The snapshots that move in one direction, one per other member.
#[derive(Default)]
pub(super) struct Moving {
    by_peer: Mutex<BTreeMap<u64, Arc<Progress>>>,
}

/// How far a snapshot has come.
struct Progress {
    started: Instant,
    index: AtomicU64,
    bytes: AtomicU64,
    total: u64,
    logged: Mutex<Instant>,
}

/// A member's place among those whose snapshots move; dropping it makes room.
pub(super) struct Place {
    moving: Arc<Moving>,
    peer: u64,
    progress: Arc<Progress>,
    what: &'static str,
    logger: slog::Logger,
}

impl Moving {
    /// Takes the member's place unless it is taken, or `max` places are.
    pub(super) fn take(
        self: &Arc<Self>,
        (peer, total): (u64, u64),
        max: usize,
        what: &'static str,
        logger: &slog::Logger,
    ) -> Option<Arc<Place>> {
        let mut by_peer = lock(&self.by_peer);
        if by_peer.contains_key(&peer) || by_peer.len() >= max {
            return None;
        }
        let progress = Arc::new(Progress {
            started: Instant::now(),
            index: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            total,
            logged: Mutex::new(Instant::now()),
        });
        by_peer.insert(peer, Arc::clone(&progress));
        let (moving, logger) = (Arc::clone(self), logger.clone());
        Some(Arc::new(Place { moving, peer, progress, what, logger }))
    }

    pub(super) fn transfers(&self) -> Vec<Transfer> {
        let transfer = |(peer, progress): (&u64, &Arc<Progress>)| Transfer {
            peer: *peer,
            index: progress.index.load(Ordering::Relaxed),
            bytes: progress.bytes.load(Ordering::Relaxed),
            total: progress.total,
        };
        lock(&self.by_peer).iter().map(transfer).collect()
    }
}

impl Place {
    fn begin(&self, index: u64) {
        self.progress.index.store(index, Ordering::Relaxed);
        info!(self.logger, "{} a snapshot", self.what; "peer" => self.peer, "index" => index,
            "bytes" => self.progress.total);
    }

    fn bytes(&self) -> u64 {
        self.progress.bytes.load(Ordering::Relaxed)
    }

    fn moved(&self, bytes: usize) {
        let Progress { bytes: done, total, logged, index, .. } = &*self.progress;
        let done = done.fetch_add(bytes as u64, Ordering::Relaxed) + bytes as u64;
        let mut logged = lock(logged);
        if logged.elapsed() >= LOG_INTERVAL {
            *logged = Instant::now();
            info!(self.logger, "{} a snapshot", self.what; "peer" => self.peer,
                "index" => index.load(Ordering::Relaxed), "bytes" => done, "total" => total,
                "percent" => u128::from(done) * 100 / u128::from((*total).max(1)));
        }
    }

    fn end(&self, result: &Result<(), String>) {
        let Progress { started, index, .. } = &*self.progress;
        let (index, took) = (index.load(Ordering::Relaxed), started.elapsed());
        match result {
            Ok(()) => {
                let rate = self.bytes() as f64 / took.as_secs_f64().max(1e-6) / 1e6;
                info!(self.logger, "{} a snapshot: done", self.what; "peer" => self.peer,
                    "index" => index, "took" => format!("{took:.1?}"),
                    "rate" => format!("{rate:.0} MB/s"));
            }
            Err(reason) => warn!(self.logger, "{} a snapshot: failed", self.what;
                "peer" => self.peer, "index" => index, "bytes" => self.bytes(),
                "took" => format!("{took:.1?}"), "reason" => reason),
        }
    }
}

impl Place {
    /// Makes room, once: by the time of the last use another may have the place.
    pub(super) fn leave(&self) {
        let mut by_peer = lock(&self.moving.by_peer);
        if by_peer.get(&self.peer).is_some_and(|other| Arc::ptr_eq(other, &self.progress)) {
            by_peer.remove(&self.peer);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.leave();
    }
}

/// What is left to do once all bytes are there.
fn patience(total: u64) -> Duration {
    LEAST_PATIENCE + Duration::from_secs(total / SLOWEST_DISK)
}

// ---- sending ----

/// A snapshot that owes the node a report (Z1).
pub(super) struct Sending {
    shared: Arc<Shared>,
    to: u64,
    place: Option<Arc<Place>>,
    result: Result<(), String>,
}

impl Sending {
    pub(super) fn new(shared: Arc<Shared>, to: u64) -> Self {
        let result = Err("the peer was removed or moved, or the transport stopped".into());
        Self { shared, to, place: None, result }
    }

    pub(super) fn fail(mut self, reason: String) {
        self.result = Err(reason);
    }

    /// Takes the peer's place, unless another snapshot is on its way there.
    pub(super) fn begin(mut self, message: &Message, len: u64) -> Option<Self> {
        let Shared { sending, logger, .. } = &*self.shared;
        let Some(place) = sending.take((self.to, len), usize::MAX, "sending", logger) else {
            self.fail("another snapshot is on its way to the same peer".into());
            return None;
        };
        place.begin(message.get_snapshot().get_metadata().index);
        self.place = Some(place);
        Some(self)
    }

    pub(super) async fn run(
        mut self,
        peer: Arc<Peer>,
        message: Message,
        source: Box<dyn SnapshotSource>,
    ) {
        let place = self.place.clone().expect("only what has begun is run");
        self.result = send(&self.shared, &peer, &place, &message, source).await;
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        let result = std::mem::replace(&mut self.result, Ok(()));
        if let Some(place) = self.place.take() {
            place.end(&result);
            // The node may try again as soon as it hears: there must be room by then.
            place.leave();
        }
        self.shared.tell(Inbound::SnapshotReport { to: self.to, result });
    }
}

async fn send(
    shared: &Arc<Shared>,
    peer: &Arc<Peer>,
    place: &Arc<Place>,
    message: &Message,
    source: Box<dyn SnapshotSource>,
) -> Result<(), String> {
    let bytes = message.write_to_bytes().map_err(|error| error.to_string())?;
    if bytes.len() as u64 > MAX_MESSAGE_BYTES {
        return Err(format!("a message of {} bytes: the cap is {MAX_MESSAGE_BYTES}", bytes.len()));
    }
    let length = u32::try_from(bytes.len()).map_err(|error| error.to_string())?;
    let start = Bytes::from([&length.to_le_bytes()[..], &bytes].concat());

    let url = peer.reached_at();
    let stream = peer.connect(&url, shared.settings.election_timeout).await?;
    let mut headers = shared.head(peer.id).to_headers()?;
    headers.insert(LENGTH, HeaderValue::from(source.len()));
    headers.insert(CHECKSUM, head::plain(format!("{:016x}", source.checksum())));
    let left = start.len() as u64 + source.len();
    let (pieces_tx, pieces) = mpsc::channel(PIECES);
    let body = File::new(start, pieces, left, Arc::clone(place));
    let request = dial::request(Method::POST, &url, "/raft/snapshot", headers, body)?;
    let request = dial::once_asked(request, Arc::<AtomicBool>::default());
    // It ends by itself when nobody takes its pieces any more.
    spawn_blocking(move || read(source, &pieces_tx));
    dial::converse(stream, |mut sender| async move {
        let mut response = pin!(sender.send_request(request));
        let response = loop {
            let before = place.bytes();
            let all = before == place.progress.total;
            let limit = if all { patience(place.progress.total) } else { shared.disk_stall() };
            match timeout(limit, &mut response).await {
                Ok(response) => break response,
                Err(_) if place.bytes() != before => {}
                Err(_) => return Err(format!("nothing moved for {limit:?}")),
            }
        };
        let response = response.map_err(|error| chain(&error))?;
        let admitted = peer.admit(&shared.gate, response).await;
        admitted.map(|_| ()).map_err(|rejected| rejected.to_string())
    })
    .await
}

/// Reads a whole file, for as long as somebody takes it.
fn read(mut source: Box<dyn SnapshotSource>, pieces: &mpsc::Sender<io::Result<Bytes>>) {
    let (mut offset, len) = (0, source.len());
    while offset < len {
        let size = usize::try_from(len - offset).unwrap_or(PIECE).min(PIECE);
        let mut piece = vec![0; size];
        let read = match source.read_at(offset, &mut piece) {
            Ok(0) => Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("the snapshot file ends after {offset} of {len} bytes"),
            )),
            Ok(n) => {
                piece.truncate(n);
                offset += n as u64;
                Ok(Bytes::from(piece))
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => Err(io::Error::new(
                error.kind(),
                format!("cannot read the snapshot file at {offset}: {error}"),
            )),
        };
        let failed = read.is_err();
        if pieces.blocking_send(read).is_err() || failed {
            return;
        }
    }
}

/// The body of a request: the message, then the file.
pub(super) struct File {
    start: Option<Bytes>,
    pieces: mpsc::Receiver<io::Result<Bytes>>,
    piece: Bytes,
    left: u64,
    place: Arc<Place>,
}

impl File {
    /// `left` is the length of `start` and all pieces.
    pub(super) fn new(
        start: Bytes,
        pieces: mpsc::Receiver<io::Result<Bytes>>,
        left: u64,
        place: Arc<Place>,
    ) -> Self {
        Self { start: Some(start), pieces, piece: Bytes::new(), left, place }
    }

    /// The next bytes of the file, no more than a slice.
    fn poll_slice(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Bytes>> {
        if self.piece.is_empty() {
            let gone = || io::Error::other("the snapshot's reader is gone");
            let piece = std::task::ready!(self.pieces.poll_recv(context));
            self.piece = piece.unwrap_or_else(|| Err(gone()))?;
        }
        let slice = self.piece.split_to(self.piece.len().min(SLICE));
        self.place.moved(slice.len());
        Poll::Ready(Ok(slice))
    }
}

impl Body for File {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let slice = match self.start.take() {
            Some(start) => start,
            None if self.left == 0 => return Poll::Ready(None),
            None => match std::task::ready!(self.poll_slice(context)) {
                Ok(slice) => slice,
                Err(error) => return Poll::Ready(Some(Err(error))),
            },
        };
        self.left -= slice.len() as u64;
        Poll::Ready(Some(Ok(Frame::data(slice))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

// ---- receiving ----

/// Receives a snapshot whose sender was admitted, hands it to the node, and answers what became
/// of it; `begun` is told when it has its place.
pub(super) async fn receive(
    shared: &Arc<Shared>,
    head: &Head,
    request: Request<Incoming>,
    begun: impl FnOnce(),
) -> Result<Answer, HeadRefusal> {
    let len = head::field(request.headers(), &LENGTH, head::decimal)?;
    let checksum = head::field(request.headers(), &CHECKSUM, |text| {
        head::fixed_hex(text, 16).and_then(|value| u64::try_from(value).ok())
    })?;
    let malformed = |reason: &str| HeadRefusal::new(StatusCode::BAD_REQUEST, reason);
    let exact = request.body().size_hint().exact();
    let message_len = exact.and_then(|all| all.checked_sub(4)?.checked_sub(len));
    let message_len = message_len
        .filter(|len| (1..=MAX_MESSAGE_BYTES).contains(len))
        .ok_or_else(|| malformed("the lengths of the request and of the snapshot do not fit"))?;
    let whom = (head.from, len);
    let is_member = shared.gate.is_member(head.from);
    let max = if is_member { MAX_RECEIVING } else { MAX_RECEIVING - 1 };
    let place = shared.receiving.take(whom, max, "receiving", &shared.logger);
    let place = place.ok_or_else(|| {
        let reason = "a snapshot of the same sender, or too many, are being received already";
        HeadRefusal::new(StatusCode::SERVICE_UNAVAILABLE, reason)
    })?;
    begun();
    let mut bytes = Incomings { body: request.into_body(), rest: Bytes::new() };
    let stall = shared.disk_stall();
    let message = timeout(stall, read_message(&mut bytes, message_len)).await;
    let message = message.map_err(|_| malformed("no message in time"))?.map_err(malformed)?;
    if message.msg_type != MessageType::MsgSnapshot
        || (message.from, message.to) != (head.from, shared.gate.id())
    {
        return Err(malformed("not a snapshot message from and to whom the head says"));
    }
    place.begin(message.get_snapshot().get_metadata().index);
    let result = store(shared, &place, bytes, checksum).await;
    let result = match result {
        Ok(received) => step(shared, message, received, patience(len)).await,
        Err(reason) => Err(reason),
    };
    place.end(&result);
    // The sender may come again as soon as it is answered: there must be room by then.
    drop(place);
    result.map_err(|reason| HeadRefusal::new(StatusCode::INTERNAL_SERVER_ERROR, reason))?;
    answered(shared, head.from, StatusCode::NO_CONTENT, Outgoing::Nothing(Empty::new()))
}

/// The bytes of a request's body.
struct Incomings {
    body: Incoming,
    rest: Bytes,
}

impl Incomings {
    /// The next bytes, `most` of them or fewer; `None` at the end.
    async fn next(&mut self, most: u64) -> Result<Option<Bytes>, hyper::Error> {
        while self.rest.is_empty() {
            match self.body.frame().await {
                Some(frame) => self.rest = frame?.into_data().unwrap_or_default(),
                None => return Ok(None),
            }
        }
        let most = usize::try_from(most).unwrap_or(usize::MAX).min(self.rest.len());
        Ok(Some(self.rest.split_to(most)))
    }
}

async fn read_message(bytes: &mut Incomings, len: u64) -> Result<Message, &'static str> {
    let mut start = BytesMut::new();
    while (start.len() as u64) < 4 + len {
        match bytes.next(4 + len - start.len() as u64).await {
            Ok(Some(more)) => start.extend_from_slice(&more),
            Ok(None) | Err(_) => return Err("the message is not whole"),
        }
    }
    if u64::from(start.get_u32_le()) != len {
        return Err("the lengths of the message and of the request do not fit");
    }
    let start = start.freeze();
    shape::of_message(&start, LIMITS)?;
    Message::parse_from_carllerche_bytes(&start).map_err(|_| "the message is malformed")
}

/// Moves the file from the socket into a sink. The sink works on a thread that may block, a few
/// pieces behind; the place is taken until it, too, is gone.
async fn store(
    shared: &Shared,
    place: &Arc<Place>,
    mut bytes: Incomings,
    checksum: u64,
) -> Result<Received, String> {
    let stall = shared.disk_stall();
    let total = place.progress.total;
    let (pieces_tx, pieces) = mpsc::channel(PIECES);
    let storing = spawn_blocking({
        let (sinks, place) = (Arc::clone(&shared.sinks), Arc::clone(place));
        move || write(&*sinks, &place, checksum, pieces)
    });
    let mut piece = BytesMut::with_capacity(PIECE);
    let mut left = total;
    let mut pace = Pace::default();
    while left > 0 {
        let asked = Instant::now();
        match timeout(stall, bytes.next((PIECE - piece.len()) as u64)).await {
            Ok(Ok(Some(more))) => {
                pace.check(more.len(), asked.elapsed(), stall)?;
                left -= (more.len() as u64).min(left);
                piece.extend_from_slice(&more);
            }
            Ok(Ok(None)) => return Err("the sender ended it early".into()),
            Ok(Err(error)) => return Err(chain(&error)),
            Err(_) => return Err(format!("the sender was silent for {stall:?}")),
        }
        if piece.len() == PIECE || left == 0 {
            let full =
                std::mem::replace(&mut piece, BytesMut::with_capacity(PIECE.min(left as usize)));
            match timeout(stall, pieces_tx.send(full.freeze())).await {
                Ok(Ok(())) => {}
                // The sink failed, and says why.
                Ok(Err(_)) => break,
                Err(_) => return Err(format!("the disk took nothing for {stall:?}")),
            }
        }
    }
    drop(pieces_tx);
    match timeout(patience(total), storing).await {
        Ok(Ok(stored)) => stored,
        Ok(Err(_)) => Err("this member is stopping".into()),
        Err(_) => Err(format!("the disk took longer than {:?} at the end", patience(total))),
    }
}

/// How fast a sender is while it is waited for: the time that our own disk takes does not count.
#[derive(Default)]
pub(super) struct Pace {
    bytes: u64,
    waited: Duration,
}

impl Pace {
    /// Counts what came after a wait; refuses a sender that was too slow for a whole window.
    pub(super) fn check(
        &mut self,
        bytes: usize,
        waited: Duration,
        window: Duration,
    ) -> Result<(), String> {
        self.bytes += bytes as u64;
        self.waited += waited;
        if self.waited < window {
            return Ok(());
        }
        let rate = self.bytes as f64 / self.waited.as_secs_f64();
        if rate < LEAST_RATE as f64 {
            return Err(format!("{rate:.0} bytes a second came, {LEAST_RATE} are the least"));
        }
        *self = Self::default();
        Ok(())
    }
}

/// Writes the pieces into a sink and finishes it, if all of them come (Z3).
fn write(
    sinks: &dyn SnapshotSinks,
    place: &Place,
    checksum: u64,
    mut pieces: mpsc::Receiver<Bytes>,
) -> Result<Received, String> {
    let total = place.progress.total;
    let failed = |error: io::Error| format!("cannot store the snapshot: {error}");
    let mut sink = sinks.begin(place.peer, total, checksum).map_err(failed)?;
    while let Some(piece) = pieces.blocking_recv() {
        sink.write(&piece).map_err(failed)?;
        place.moved(piece.len());
    }
    if place.bytes() != total {
        return Err("the sender ended it early".into());
    }
    sink.finish()
}

/// Hands what was received to the node and waits for what it says.
async fn step(
    shared: &Shared,
    message: Message,
    received: Received,
    patience: Duration,
) -> Result<(), String> {
    let (reply, replied) = oneshot::channel();
    let message = Box::new(message);
    shared.tell(Inbound::Snapshot { message, received, reply });
    match timeout(patience, replied).await {
        Ok(Ok(result)) => result,
        Ok(Err(_)) => Err("the node did not take the snapshot".into()),
        Err(_) => Err(format!("the node was silent for {patience:?}")),
    }
}
