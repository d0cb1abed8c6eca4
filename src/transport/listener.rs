//! The door for peers: requests are told apart here, and the frames of accepted streams are
//! delivered.
//!
//! ```text
//!  POST /raft/stream/<lane>   frames, for as long as both sides like
//!  POST /raft/snapshot        a snapshot (see snapshot)
//!  POST /raft/call            a call from a member (see call)
//!  POST /raft/join            a call from somebody who wants to become one (see join)
//!  GET  /raft/identity        who this is, for anyone (see probe)
//! ```
//!
//! One request per connection. Each accepted stream has the turn of its (sender, lane), and a new
//! stream takes the turn from the old one before its head is answered. There is nothing else on
//! this port. Raft's answers to a sender that we do not know need a line to it: it becomes a
//! guest, which is dialled where its head says it is, for as long as it has a stream open here.
//!
//! Invariants:
//! - L1 Nothing is delivered before the gate has admitted the head.
//! - L2 Of one sender and lane, at most one stream delivers, the newest; once a stream's head is
//!   answered, no older one delivers anything.
//! - L3 What was delivered and not yet taken by the loop is bounded per sender and lane, however
//!   often the sender dials again; beyond that TCP holds it back.
//! - L4 Accepting never ends while the transport runs, and never spins.
//! - L5 Strangers do not use up what members need: connections that were not admitted yet, and
//!   streams of those whom the book does not name, have few places of their own, of which the oldest
//!   is given up for the newest; whatever else a request takes is bounded where it is taken.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::{Body, Frame as BodyFrame, Incoming, SizeHint};
use hyper::header::{self, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use slog::{debug, warn};
use tokio::net::TcpStream;
use tokio::sync::{Notify, OwnedMutexGuard, Semaphore, oneshot, watch};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, sleep, timeout};

use super::dial::chain;
use super::frame::{Decoder, Frame, Malformed};
use super::head::{Head, HeadRefusal};
use super::places::{Place, Places};
use super::queue::Lane;
use super::{Inbound, MAX_GUESTS, Permit, Shared, call, lock, snapshot};

/// How long a connection may take to state its head, and how long a refusal may take to leave.
pub(super) const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// What a connection may buffer for reading, in bytes; bounds the head as well.
const MAX_BUFFER: usize = 64 << 10;

/// Connections whose head was not admitted yet, or never will be. Each costs a buffer.
pub(super) const MAX_WAITING: usize = 128;
/// Streams of those whom the book does not name: one for each lane of more members than are ever
/// dialled as guests, and as many that are about to replace them.
pub(super) const MAX_STRANGE: usize = 4 * MAX_GUESTS;

const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(5);

/// What a stream may have delivered that the loop has not taken yet, in bytes. The control lane's
/// holds more than a sender's whole queue; the bulk lane's holds raft's window.
const CONTROL_BUDGET: u32 = 4 << 20;
const BULK_BUDGET: u32 = 16 << 20;
/// Of that, what a stream of somebody has whom the book does not name: there may be many.
const STRANGERS_PART: u32 = 4;

/// The streams that are served, by sender and lane.
#[derive(Default)]
pub(super) struct Streams {
    slots: Mutex<HashMap<(u64, Lane), Weak<Slot>>>,
}

/// What the successive streams of one sender and lane share.
#[derive(Debug)]
pub(super) struct Slot {
    /// The number of the newest stream.
    newest: watch::Sender<u64>,
    /// Held by whoever delivers.
    turn: Arc<tokio::sync::Mutex<()>>,
    budget: Semaphore,
    budget_len: u32,
}

impl Slot {
    fn new(lane: Lane, is_member: bool) -> Self {
        let budget_len = match lane {
            Lane::Bulk => BULK_BUDGET,
            Lane::Control => CONTROL_BUDGET,
        };
        let budget_len = if is_member { budget_len } else { budget_len / STRANGERS_PART };
        Self {
            newest: watch::Sender::new(0),
            turn: Arc::default(),
            budget: Semaphore::new(budget_len as usize),
            budget_len,
        }
    }

    /// Waits until `bytes` more may be delivered; more than the whole budget waits for all of it.
    async fn permit(self: &Arc<Self>, bytes: usize) -> Permit {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX).min(self.budget_len);
        let permit = self.budget.acquire_many(bytes).await;
        permit.expect("nobody closes a slot's budget").forget();
        Permit::new(Arc::clone(self), bytes)
    }

    pub(super) fn give_back(&self, bytes: u32) {
        self.budget.add_permits(bytes as usize);
    }
}

/// The right to deliver as one sender on one lane (L2).
struct Turn {
    slot: Arc<Slot>,
    newest: watch::Receiver<u64>,
    number: u64,
    _delivering: OwnedMutexGuard<()>,
}

impl Streams {
    /// Tells the stream that has the turn to stop, and waits until it has. `None` when a still
    /// newer stream came meanwhile.
    async fn take_turn(&self, from: u64, lane: Lane, is_member: bool) -> Option<Turn> {
        let slot = self.slot(from, lane, is_member);
        let mut newest = slot.newest.subscribe();
        let mut number = 0;
        slot.newest.send_modify(|newest| {
            *newest += 1;
            number = *newest;
        });
        let delivering = Arc::clone(&slot.turn).lock_owned().await;
        let current = *newest.borrow_and_update() == number;
        current.then_some(Turn { slot, newest, number, _delivering: delivering })
    }

    /// Whether a sender has a stream open.
    pub(super) fn is_open(&self, from: u64) -> bool {
        let slots = lock(&self.slots);
        let mut open = Lane::ALL.iter().filter_map(|lane| slots.get(&(from, *lane))?.upgrade());
        open.any(|slot| slot.turn.try_lock().is_err())
    }

    fn slot(&self, from: u64, lane: Lane, is_member: bool) -> Arc<Slot> {
        let mut slots = lock(&self.slots);
        if let Some(slot) = slots.get(&(from, lane)).and_then(Weak::upgrade) {
            return slot;
        }
        slots.retain(|_, slot| slot.strong_count() > 0);
        let slot = Arc::new(Slot::new(lane, is_member));
        slots.insert((from, lane), Arc::downgrade(&slot));
        slot
    }
}

impl Turn {
    async fn is_over(&mut self) {
        let number = self.number;
        // The slot is held by this very turn: its sender lives.
        self.newest.wait_for(|newest| *newest != number).await.ok();
    }
}

/// A request that got past the gate.
enum Admitted {
    Stream(Box<Accepted>),
    /// Anything else, once it has a place among its like. It keeps its own limits and then fires the
    /// notice.
    Request,
}

/// A stream that has its turn.
struct Accepted {
    head: Head,
    lane: Lane,
    turn: Turn,
    body: Incoming,
    /// Of a sender whom the book does not name.
    place: Option<Place>,
}

/// Accepts connections for as long as it is polled (L4).
pub(super) async fn listen(
    shared: Arc<Shared>,
    mut accept: impl AsyncFnMut() -> io::Result<(TcpStream, SocketAddr)>,
) -> Infallible {
    let waiting = Places::new(MAX_WAITING);
    let mut complaints = Complaints::default();
    loop {
        let (socket, remote) = match accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                if let Some(silenced) = complaints.admit() {
                    warn!(shared.logger, "cannot accept a peer's connection";
                        "error" => %error, "silenced" => silenced);
                }
                sleep(ACCEPT_BACKOFF).await;
                continue;
            }
        };
        let (place, is_lost) = waiting.take();
        if is_lost && let Some(silenced) = complaints.admit() {
            warn!(shared.logger, "closing connections on the peer port that nobody vouches for";
                "remote" => %remote, "max" => MAX_WAITING, "silenced" => silenced);
        }
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            let reason = serve(&shared, socket, place).await;
            debug!(shared.logger, "connection closed"; "remote" => %remote, "reason" => reason);
        });
    }
}

/// Keeps a repeated complaint from filling the log.
#[derive(Default)]
struct Complaints {
    last: Option<Instant>,
    silenced: u64,
}

impl Complaints {
    /// How many were silenced before this one, when this one may be logged.
    fn admit(&mut self) -> Option<u64> {
        if self.last.is_some_and(|last| last.elapsed() < COMPLAINT_INTERVAL) {
            self.silenced += 1;
            return None;
        }
        self.last = Some(Instant::now());
        Some(std::mem::take(&mut self.silenced))
    }
}

/// Serves one connection, which has its place until it is admitted; says why it ended.
async fn serve(shared: &Arc<Shared>, socket: TcpStream, mut waiting: Place) -> String {
    if let Err(error) = socket.set_nodelay(true) {
        return error.to_string();
    }
    let (handover, mut admitted) = oneshot::channel();
    let (handover, done) = (Mutex::new(Some(handover)), Notify::new());
    let admit = |admitted| {
        // One request per connection, so the first handover is the only one; nobody waits for it
        // any more when the connection is being given up.
        let handover = lock(&handover).take();
        handover.and_then(|handover| handover.send(admitted).err());
    };
    let service = service_fn(async |request| {
        let response = answer(shared, request, &admit).await;
        done.notify_one();
        Ok::<_, Infallible>(response.unwrap_or_else(|refusal| refuse(shared, &refusal)))
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_BUFFER)
        .keep_alive(false)
        .serve_connection(TokioIo::new(socket), service);
    let mut connection = pin!(connection);
    let ended = |end: Result<(), hyper::Error>| match end {
        Ok(()) => "it ended".into(),
        Err(error) => chain(&error),
    };
    let first = async {
        tokio::select! {
            biased;
            admitted = &mut admitted => admitted.map_err(|_| "refused".to_owned()),
            end = &mut connection => Err(ended(end)),
            () = waiting.is_lost() => Err("it made room for a newer one".into()),
        }
    };
    let first = timeout(HEAD_TIMEOUT, first).await;
    drop(waiting);
    let mut stream = match first {
        Ok(Ok(Admitted::Stream(stream))) => stream,
        Ok(Ok(Admitted::Request)) => {
            tokio::select! {
                biased;
                end = &mut connection => return ended(end),
                () = done.notified() => {}
            }
            let left = timeout(HEAD_TIMEOUT, connection).await;
            return left.map_or_else(|_| "the answer was not taken in time".into(), ended);
        }
        Ok(Err(reason)) => return reason,
        Err(_) => return "no head in time".into(),
    };
    let (slot, from, lane) = (Arc::clone(&stream.turn.slot), stream.head.from, stream.lane);
    let place = &mut stream.place;
    let lost = async {
        match place {
            Some(place) => place.is_lost().await,
            None => std::future::pending().await,
        }
    };
    let reason = tokio::select! {
        biased;
        () = lost => "it made room for a stranger's newer one".into(),
        () = stream.turn.is_over() => "a newer stream replaced it".into(),
        reason = deliver(shared, &stream.head, &slot, &mut stream.body) => {
            debug!(shared.logger, "stream from peer ended"; "peer" => from,
                "lane" => lane.name(), "reason" => &reason);
            reason
        }
        rejected = shared.gate.turns_against(&stream.head) => rejected.to_string(),
        end = &mut connection => ended(end),
    };
    reason
}

/// Judges a request and sees to it.
async fn answer(
    shared: &Arc<Shared>,
    request: Request<Incoming>,
    admit: &impl Fn(Admitted),
) -> Result<Answer, HeadRefusal> {
    let refusal = |status, reason: &str| Err(HeadRefusal::new(status, reason));
    let path = request.uri().path().to_owned();
    let lane = Lane::ALL
        .into_iter()
        .find(|lane| path.strip_prefix("/raft/stream/").is_some_and(|name| name == lane.name()));
    let method = match path.strip_prefix("/raft/") {
        Some("identity") => Method::GET,
        Some("snapshot" | "call" | "join") => Method::POST,
        _ if lane.is_some() => Method::POST,
        _ => {
            let reason = "this port serves the members of a cluster only";
            return refusal(StatusCode::NOT_FOUND, reason);
        }
    };
    if request.method() != method {
        return refusal(StatusCode::METHOD_NOT_ALLOWED, "this path takes another method");
    }
    if path == "/raft/identity" {
        let mut response = Response::new(Outgoing::Nothing(Empty::new()));
        *response.headers_mut() = shared.gate.claim().to_headers();
        return Ok(response);
    }
    if path == "/raft/join" {
        let head = shared.gate.admit_joining(request.headers())?;
        let begun = || admit(Admitted::Request);
        return call::take(shared, &head, Some(head.incarnation), request, begun).await;
    }
    let head = match shared.gate.admit(request.headers(), None).await {
        Ok(head) => head,
        Err(rejected) => return Err(shared.rejected(request.headers(), rejected)),
    };
    shared.met(&head);
    let Some(lane) = lane else {
        let begun = || admit(Admitted::Request);
        return if path == "/raft/call" {
            call::take(shared, &head, None, request, begun).await
        } else {
            snapshot::receive(shared, &head, request, begun).await
        };
    };
    let is_member = shared.gate.is_member(head.from);
    let place = (!is_member).then(|| shared.strange.take().0);
    let Some(turn) = shared.streams.take_turn(head.from, lane, is_member).await else {
        return refusal(StatusCode::CONFLICT, "a newer stream of the same sender came meanwhile");
    };
    shared.visited(&head);
    let echo = Outgoing::Echo(Echo::new(shared.echo_interval()));
    let response = answered(shared, head.from, StatusCode::OK, echo)?;
    // With the turn taken, the answer is the last thing between the request and delivery.
    admit(Admitted::Stream(Box::new(Accepted {
        head,
        lane,
        turn,
        body: request.into_body(),
        place,
    })));
    Ok(response)
}

/// An answer that begins with our head.
pub(super) fn answered(
    shared: &Shared,
    to: u64,
    status: StatusCode,
    body: Outgoing,
) -> Result<Answer, HeadRefusal> {
    let headers = shared.head(to).to_headers();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() =
        headers.map_err(|reason| HeadRefusal::new(StatusCode::INTERNAL_SERVER_ERROR, reason))?;
    Ok(response)
}

pub(super) type Answer = Response<Outgoing>;

/// The body of an answer.
pub(super) enum Outgoing {
    Echo(Echo),
    Whole(Full<Bytes>),
    Nothing(Empty<Bytes>),
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<BodyFrame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Outgoing::Echo(echo) => Pin::new(echo).poll_frame(context),
            Outgoing::Whole(whole) => Pin::new(whole).poll_frame(context),
            Outgoing::Nothing(nothing) => Pin::new(nothing).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Outgoing::Echo(echo) => echo.is_end_stream(),
            Outgoing::Whole(whole) => whole.is_end_stream(),
            Outgoing::Nothing(nothing) => nothing.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Outgoing::Echo(echo) => echo.size_hint(),
            Outgoing::Whole(whole) => whole.size_hint(),
            Outgoing::Nothing(nothing) => nothing.size_hint(),
        }
    }
}

/// A refusal says who refuses: others answer with the same numbers.
fn refuse(shared: &Shared, refusal: &HeadRefusal) -> Answer {
    let mut response = Response::new(Outgoing::Whole(Full::from(format!("{}\n", refusal.reason))));
    *response.status_mut() = refusal.status;
    *response.headers_mut() = shared.gate.claim().to_headers();
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, plain);
    response
}

/// Delivers a stream's frames until it ends; says why it did.
async fn deliver(shared: &Shared, head: &Head, slot: &Arc<Slot>, body: &mut Incoming) -> String {
    let mut decoder = Decoder::default();
    loop {
        let mut chunk = match body.frame().await {
            Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
            Some(Err(error)) => return chain(&error),
            None if decoder.is_between_frames() => return "the sender ended it".into(),
            None => return "the sender ended it within a frame".into(),
        };
        loop {
            let broken = |error: Malformed| {
                warn!(shared.logger, "stream from peer broken"; "peer" => head.from,
                    "error" => %error);
                error.to_string()
            };
            let arrived = match decoder.next(&mut chunk) {
                Ok(Some(arrived)) => arrived,
                Ok(None) => break,
                Err(error) => return broken(error),
            };
            // Room comes first: what waits for it is a frame as it arrived.
            let permit = slot.permit(arrived.memory()).await;
            let frame = match arrived.decode() {
                Ok(frame) => frame,
                Err(error) => return broken(error),
            };
            if let Frame::Raft(message) = &frame
                && (message.from != head.from || message.to != shared.gate.id())
            {
                let reason = format!(
                    "a message from {} to {} on a stream from {} to {}",
                    message.from,
                    message.to,
                    head.from,
                    shared.gate.id()
                );
                warn!(shared.logger, "stream from peer broken"; "peer" => head.from,
                    "error" => &reason);
                return reason;
            }
            shared.tell(Inbound::Frame { from: head.from, frame, permit });
        }
    }
}

/// A stream's answer: a byte now and then, to say that this side still reads.
pub(super) struct Echo {
    interval: Interval,
}

impl Echo {
    fn new(interval: Duration) -> Self {
        let mut interval = interval_at(Instant::now() + interval, interval);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { interval }
    }
}

impl Body for Echo {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<BodyFrame<Bytes>, Infallible>>> {
        let tick = self.interval.poll_tick(context);
        tick.map(|_| Some(Ok(BodyFrame::data(Bytes::from_static(b".")))))
    }
}
