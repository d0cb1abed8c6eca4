//! The door for peers: heads are judged here, and the frames of accepted streams are delivered.
//!
//! One request per connection. Each accepted stream has the turn of its (sender, lane), and a new
//! stream takes the turn from the old one before its head is answered. There is nothing else on
//! this port.
//!
//! Invariants:
//! - L1 Nothing is delivered before the head was checked.
//! - L2 Of one sender and lane, at most one stream delivers, the newest; once a stream's head is
//!   answered, no older one delivers anything.
//! - L3 What was delivered and not yet taken by the loop is bounded per sender and lane, however
//!   often the sender dials again; beyond that TCP holds it back.
//! - L4 Accepting never ends while the transport runs, and never spins.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Either, Full};
use hyper::body::{Body, Frame as BodyFrame, Incoming};
use hyper::header::{self, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use slog::{debug, warn};
use tokio::net::TcpStream;
use tokio::sync::{OwnedMutexGuard, Semaphore, oneshot, watch};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, sleep, timeout};

use super::frame::{Decoder, Frame};
use super::head::{Head, HeadRefusal};
use super::peer::chain;
use super::queue::Lane;
use super::{Inbound, Permit, Shared, lock};

/// How long a connection may take to state its head, and how long a refusal may take to leave.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// What a connection may buffer for reading, in bytes; bounds the head as well.
const MAX_BUFFER: usize = 64 << 10;

/// Connections per known peer: a stream per lane, and as many that are about to replace them.
const CONNECTIONS_PER_PEER: usize = 4;
/// Connections beyond those, for members that are not known yet and for strays.
const MORE_CONNECTIONS: usize = 64;

const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(5);

/// What a stream may have delivered that the loop has not taken yet, in bytes. The control lane's
/// holds more than a sender's whole queue; the bulk lane's holds raft's window.
const CONTROL_BUDGET: u32 = 4 << 20;
const BULK_BUDGET: u32 = 16 << 20;

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
    fn new(lane: Lane) -> Self {
        let budget_len = match lane {
            Lane::Bulk => BULK_BUDGET,
            Lane::Control => CONTROL_BUDGET,
        };
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
    async fn take_turn(&self, from: u64, lane: Lane) -> Option<Turn> {
        let slot = self.slot(from, lane);
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

    fn slot(&self, from: u64, lane: Lane) -> Arc<Slot> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = slots.get(&(from, lane)).and_then(Weak::upgrade) {
            return slot;
        }
        slots.retain(|_, slot| slot.strong_count() > 0);
        let slot = Arc::new(Slot::new(lane));
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

/// A stream whose head was checked and that has its turn.
struct Accepted {
    head: Head,
    lane: Lane,
    turn: Turn,
    body: Incoming,
}

/// Accepts connections for as long as it is polled (L4).
pub(super) async fn listen(
    shared: Arc<Shared>,
    mut accept: impl AsyncFnMut() -> io::Result<(TcpStream, SocketAddr)>,
) -> Infallible {
    let connections = Arc::new(());
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
        let max = CONNECTIONS_PER_PEER * lock(&shared.peers).len() + MORE_CONNECTIONS;
        if Arc::strong_count(&connections) > max {
            if let Some(silenced) = complaints.admit() {
                warn!(shared.logger, "too many connections on the peer port";
                    "remote" => %remote, "max" => max, "silenced" => silenced);
            }
            continue;
        }
        let (shared, counted) = (Arc::clone(&shared), Arc::clone(&connections));
        tokio::spawn(async move {
            let _counted = counted;
            let reason = serve(&shared, socket).await;
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

/// Serves one connection; says why it ended.
async fn serve(shared: &Arc<Shared>, socket: TcpStream) -> String {
    if let Err(error) = socket.set_nodelay(true) {
        return error.to_string();
    }
    let (handover, mut accepted) = oneshot::channel();
    let handover = Mutex::new(Some(handover));
    let service = service_fn(async |request| {
        let response = match accept_stream(shared, request).await {
            Ok((response, stream)) => {
                // One request per connection, so the first handover is the only one; nobody
                // waits for it any more when the connection is being given up.
                let handover = lock(&handover).take();
                handover.and_then(|handover| handover.send(stream).err());
                response
            }
            Err(refusal) => refuse(&refusal),
        };
        Ok::<_, Infallible>(response)
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
            stream = &mut accepted => stream.map_err(|_| "refused".to_owned()),
            end = &mut connection => Err(ended(end)),
        }
    };
    let mut stream = match timeout(HEAD_TIMEOUT, first).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(reason)) => return reason,
        Err(_) => return "no head in time".into(),
    };
    let (slot, from, lane) = (Arc::clone(&stream.turn.slot), stream.head.from, stream.lane);
    let reason = tokio::select! {
        biased;
        () = stream.turn.is_over() => "a newer stream replaced it".into(),
        reason = deliver(shared, &stream.head, &slot, &mut stream.body) => {
            debug!(shared.logger, "stream from peer ended"; "peer" => from,
                "lane" => lane.name(), "reason" => &reason);
            reason
        }
        end = &mut connection => ended(end),
    };
    reason
}

/// Judges a request; with the turn taken, the answer is the last thing between it and delivery.
async fn accept_stream(
    shared: &Arc<Shared>,
    request: Request<Incoming>,
) -> Result<(Answer, Accepted), HeadRefusal> {
    let refusal = |status, reason: &str| Err(HeadRefusal::new(status, reason));
    let lane = Lane::ALL.into_iter().find(|lane| {
        request.uri().path().strip_prefix("/raft/stream/").is_some_and(|name| name == lane.name())
    });
    let Some(lane) = lane else {
        return refusal(StatusCode::NOT_FOUND, "this port serves the members of a cluster only");
    };
    if request.method() != Method::POST {
        return refusal(StatusCode::METHOD_NOT_ALLOWED, "streams are opened with POST");
    }
    let settings = &shared.settings;
    let head = Head::check(request.headers(), settings.cluster, settings.id)?;
    let headers = shared.head(head.from).to_headers();
    let headers =
        headers.map_err(|reason| HeadRefusal::new(StatusCode::INTERNAL_SERVER_ERROR, reason))?;
    let Some(turn) = shared.streams.take_turn(head.from, lane).await else {
        return refusal(StatusCode::CONFLICT, "a newer stream of the same sender came meanwhile");
    };
    shared.client_url(head.from, head.client_url.clone());
    shared.awake(head.from);
    let mut response = Response::new(Either::Left(Echo::new(shared.echo_interval())));
    *response.headers_mut() = headers;
    Ok((response, Accepted { head, lane, turn, body: request.into_body() }))
}

type Answer = Response<Either<Echo, Full<Bytes>>>;

fn refuse(refusal: &HeadRefusal) -> Answer {
    let mut response = Response::new(Either::Right(Full::from(format!("{}\n", refusal.reason))));
    *response.status_mut() = refusal.status;
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
            let (frame, len) = match decoder.next(&mut chunk) {
                Ok(Some(next)) => next,
                Ok(None) => break,
                Err(error) => {
                    warn!(shared.logger, "stream from peer broken"; "peer" => head.from,
                        "error" => %error);
                    return error.to_string();
                }
            };
            if let Frame::Raft(message) = &frame
                && (message.from != head.from || message.to != shared.settings.id)
            {
                let reason = format!(
                    "a message from {} to {} on a stream from {} to {}",
                    message.from, message.to, head.from, shared.settings.id
                );
                warn!(shared.logger, "stream from peer broken"; "peer" => head.from,
                    "error" => &reason);
                return reason;
            }
            let permit = slot.permit(len + frame.memory()).await;
            shared.tell(Inbound::Frame { from: head.from, frame, permit });
        }
    }
}

/// The response's body: a byte now and then, to say that this side still reads.
struct Echo {
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
