//! Our line to one member: two queues, and a dialler for each that keeps a stream open.
//!
//! A dialler connects, states its head, waits for the peer's, and only then opens its queue. It
//! writes what is queued, one chunk for everything that waits at that moment, and listens to the
//! peer's echo. Whatever breaks a stream, the answer is the same: forget what waited, tell raft,
//! wait a little, dial again.
//!
//! Invariants:
//! - P1 No frame is written before the peer's head was checked.
//! - P2 Every break of an open bulk stream is reported as unreachable exactly once.
//! - P3 No wait is unbounded: connecting, the peer's head, its echo and our own writing each have
//!   a limit after which the stream counts as broken.

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Limited};
use hyper::body::{Body, Frame as BodyFrame, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Method, Request, Response, StatusCode, Uri, header};
use hyper_util::rt::TokioIo;
use slog::{debug, info};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::head::{Head, HeadRefusal};
use super::queue::{Lane, Queue, Queued, Taken};
use super::{Inbound, PeerStatus, Shared, lock};

/// What is handed to the connection at once, in bytes: large enough that a system call costs
/// little beside it, small enough that a commit index does not wait long behind it.
const CHUNK: usize = 256 << 10;

const FIRST_BACKOFF: Duration = Duration::from_millis(20);
const MAX_BACKOFF: Duration = Duration::from_millis(500);

/// How much of a refusal's text is read, in bytes.
const MAX_REASON_LEN: usize = 512;

/// One member as we reach it.
pub(super) struct Peer {
    pub(super) id: u64,
    pub(super) url: String,
    bulk: Mutex<Queue>,
    control: Mutex<Queue>,
    line: Mutex<Line>,
    /// The peer has just dialled us: it is worth dialling it.
    awake: Notify,
}

/// What is known of the line, for people.
#[derive(Debug, Default)]
struct Line {
    bulk_open: bool,
    control_open: bool,
    /// What was logged last.
    reported: Option<bool>,
    last_error: Option<String>,
    /// The refusal that the node was told of last.
    refusal: Option<HeadRefusal>,
}

impl Peer {
    pub(super) fn new(id: u64, url: String, bulk_queue_bytes: u64) -> Self {
        Self {
            id,
            url,
            bulk: Mutex::new(Queue::new(Lane::Bulk, bulk_queue_bytes)),
            control: Mutex::new(Queue::new(Lane::Control, bulk_queue_bytes)),
            line: Mutex::new(Line::default()),
            awake: Notify::new(),
        }
    }

    pub(super) fn queue(&self, lane: Lane) -> &Mutex<Queue> {
        match lane {
            Lane::Bulk => &self.bulk,
            Lane::Control => &self.control,
        }
    }

    /// The peer dialled us, so it is there: do not wait to dial it.
    pub(super) fn awake(&self) {
        self.awake.notify_waiters();
    }

    pub(super) fn status(&self) -> PeerStatus {
        let line = lock(&self.line);
        PeerStatus {
            id: self.id,
            url: self.url.clone(),
            connected: line.bulk_open && line.control_open,
            last_error: line.last_error.clone(),
        }
    }

    fn opened(&self, lane: Lane, logger: &slog::Logger) {
        let mut line = lock(&self.line);
        match lane {
            Lane::Bulk => line.bulk_open = true,
            Lane::Control => line.control_open = true,
        }
        debug!(logger, "stream open"; "peer" => self.id, "lane" => lane.name());
        line.refusal = None;
        if line.bulk_open && line.control_open {
            line.last_error = None;
            if line.reported != Some(true) {
                line.reported = Some(true);
                info!(logger, "peer connected"; "peer" => self.id, "url" => &self.url);
            }
        }
    }

    fn closed(&self, lane: Lane, reason: String, logger: &slog::Logger) {
        let mut line = lock(&self.line);
        match lane {
            Lane::Bulk => line.bulk_open = false,
            Lane::Control => line.control_open = false,
        }
        debug!(logger, "no stream"; "peer" => self.id, "lane" => lane.name(), "reason" => &reason);
        if line.reported != Some(false) {
            let dropped = lock(&self.bulk).dropped() + lock(&self.control).dropped();
            let what =
                if line.reported.is_some() { "peer disconnected" } else { "peer not reached" };
            line.reported = Some(false);
            info!(logger, "{}", what; "peer" => self.id, "url" => &self.url,
                "lane" => lane.name(), "reason" => &reason, "dropped" => dropped);
        }
        line.last_error = Some(reason);
    }
}

/// Keeps one stream open for as long as it runs.
pub(super) struct Dialler {
    peer: Arc<Peer>,
    lane: Lane,
    shared: Arc<Shared>,
    resolver: Resolver,
}

impl Dialler {
    pub(super) fn new(peer: Arc<Peer>, lane: Lane, shared: Arc<Shared>) -> Self {
        Self { peer, lane, shared, resolver: Resolver::default() }
    }

    pub(super) async fn run(mut self) {
        let peer = Arc::clone(&self.peer);
        let mut backoff = FIRST_BACKOFF;
        loop {
            // From here on, so that a peer that comes back while an attempt fails is noticed.
            let mut awake = pin!(peer.awake.notified());
            awake.as_mut().enable();
            let started = Instant::now();
            let reason = self.serve_one_stream().await;
            if lock(self.peer.queue(self.lane)).is_ending() {
                return;
            }
            // A stream that is accepted and breaks at once is a failure like any other.
            if started.elapsed() > self.shared.silence() {
                backoff = FIRST_BACKOFF;
            }
            self.peer.closed(self.lane, reason, &self.shared.logger);
            // The first wait is never cut short: two members that wake each other must not spin.
            sleep(jittered(FIRST_BACKOFF)).await;
            if timeout(jittered(backoff) - FIRST_BACKOFF / 2, awake).await.is_ok() {
                backoff = FIRST_BACKOFF;
            } else {
                backoff = (backoff * 2).min(MAX_BACKOFF);
            }
        }
    }

    /// Connects and serves a stream until it breaks; says why it did.
    async fn serve_one_stream(&mut self) -> String {
        let limit = self.shared.settings.election_timeout;
        let stream = match timeout(limit, self.resolver.connect(&self.peer.url, limit)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return format!("cannot connect: {error}"),
            Err(_) => return format!("cannot connect within {limit:?}"),
        };
        if let Err(error) = stream.set_nodelay(true) {
            return format!("cannot set up the connection: {error}");
        }
        let request = match self.request() {
            Ok(request) => request,
            Err(error) => return error,
        };
        let handshake = http1::Builder::new().handshake(TokioIo::new(stream)).await;
        let (sender, connection) = match handshake {
            Ok(both) => both,
            Err(error) => return chain(&error),
        };
        let mut connection = pin!(connection);
        let mut exchange = pin!(self.exchange(sender, request));
        let mut ended: Option<Result<(), hyper::Error>> = None;
        // The exchange goes first and outlives the connection: an answer that came just before
        // the end is still worth reading.
        let reason = loop {
            tokio::select! {
                biased;
                reason = &mut exchange => break reason,
                end = &mut connection, if ended.is_none() => ended = Some(end),
            }
        };
        match ended {
            Some(Err(error)) => format!("{reason} ({})", chain(&error)),
            Some(Ok(())) | None => reason,
        }
    }

    fn request(&self) -> Result<Request<Outgoing>, String> {
        let uri = format!("/raft/stream/{}", self.lane.name());
        let body = Outgoing {
            peer: Arc::clone(&self.peer),
            lane: self.lane,
            taken: Vec::new(),
            buffer: BytesMut::new(),
            logger: self.shared.logger.clone(),
        };
        let mut request = Request::new(body);
        *request.method_mut() = Method::POST;
        *request.uri_mut() = uri.parse::<Uri>().map_err(|error| error.to_string())?;
        *request.headers_mut() = self.shared.head(self.peer.id).to_headers()?;
        let host = self.peer.url.strip_prefix("http://").unwrap_or(&self.peer.url);
        let host = host.parse().map_err(|_| format!("{host:?} cannot stand in a head"))?;
        request.headers_mut().insert(header::HOST, host);
        Ok(request)
    }

    /// States our head, checks the peer's, and watches over the open stream.
    async fn exchange(
        &self,
        mut sender: SendRequest<Outgoing>,
        request: Request<Outgoing>,
    ) -> String {
        let silence = self.shared.silence();
        let response = match timeout(silence, sender.send_request(request)).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return format!("no answer: {}", chain(&error)),
            Err(_) => return format!("no answer within {silence:?}"),
        };
        let (head, mut echo) = match timeout(silence, self.check(response)).await {
            Ok(Ok(both)) => both,
            Ok(Err(refusal)) => return self.refused(refusal),
            Err(_) => return format!("no whole answer within {silence:?}"),
        };
        self.shared.client_url(self.peer.id, head.client_url);
        let _open = OpenStream::new(self);
        let queue = self.peer.queue(self.lane);
        let (mut turns, mut moved) = (lock(queue).progress().0, Instant::now());
        loop {
            match timeout(silence, echo.frame()).await {
                Ok(Some(Ok(_))) => {}
                Ok(Some(Err(error))) => return format!("broken: {}", chain(&error)),
                Ok(None) => return "the peer ended the stream".into(),
                Err(_) => return format!("the peer was silent for {silence:?}"),
            }
            let (turns_now, waits) = lock(queue).progress();
            if turns_now != turns || !waits {
                (turns, moved) = (turns_now, Instant::now());
            } else if moved.elapsed() > self.stall() {
                return format!("nothing could be written for {:?}", self.stall());
            }
        }
    }

    /// How long frames may wait for a stream that takes none. A bulk stream may rightly stand
    /// still while its peer's disk is slow; then a new one would fare no better.
    fn stall(&self) -> Duration {
        match self.lane {
            Lane::Bulk => self.shared.silence() * 5,
            Lane::Control => self.shared.silence(),
        }
    }

    async fn check(&self, response: Response<Incoming>) -> Result<(Head, Incoming), HeadRefusal> {
        let (parts, body) = response.into_parts();
        if parts.status != StatusCode::OK {
            // What cannot be read of the reason is not worth more than its absence.
            let text = Limited::new(body, MAX_REASON_LEN).collect().await;
            let text = text.map(|text| text.to_bytes()).unwrap_or_default();
            let text = String::from_utf8_lossy(&text).trim().replace(char::is_control, " ");
            return Err(HeadRefusal::new(parts.status, text));
        }
        let settings = &self.shared.settings;
        let head =
            Head::check(&parts.headers, settings.cluster, settings.id).map_err(|refusal| {
                HeadRefusal { reason: format!("its head: {}", refusal.reason), ..refusal }
            })?;
        if head.from != self.peer.id {
            let reason = format!("its head: this is member {}", head.from);
            return Err(HeadRefusal::new(StatusCode::PRECONDITION_FAILED, reason));
        }
        Ok((head, body))
    }

    /// Tells the node once of each refusal, not at each attempt.
    fn refused(&self, refusal: HeadRefusal) -> String {
        let HeadRefusal { status, reason } = refusal.clone();
        let text = format!("refused with {}: {reason}", status.as_u16());
        let mut line = lock(&self.peer.line);
        if line.refusal.as_ref() != Some(&refusal) {
            line.refusal = Some(refusal);
            let (peer, status) = (self.peer.id, status.as_u16());
            self.shared.tell(Inbound::Refused { peer, status, message: reason });
        }
        text
    }
}

/// Exists while the queue is open. Its end is the one place where a break is accounted for,
/// whatever ended the stream, cancellation included (P2).
struct OpenStream<'a> {
    dialler: &'a Dialler,
}

impl<'a> OpenStream<'a> {
    fn new(dialler: &'a Dialler) -> Self {
        lock(dialler.peer.queue(dialler.lane)).open();
        dialler.peer.opened(dialler.lane, &dialler.shared.logger);
        Self { dialler }
    }
}

impl Drop for OpenStream<'_> {
    fn drop(&mut self) {
        let Dialler { peer, lane, shared, .. } = self.dialler;
        let unsent = lock(peer.queue(*lane)).close();
        if *lane == Lane::Bulk {
            shared.tell(Inbound::Unreachable { peer: peer.id });
        }
        for attempt in unsent {
            shared.tell(Inbound::Unsent { attempt });
        }
    }
}

/// The request's body: whatever waits, as one chunk, whenever the connection can take it.
struct Outgoing {
    peer: Arc<Peer>,
    lane: Lane,
    taken: Vec<Queued>,
    buffer: BytesMut,
    logger: slog::Logger,
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<BodyFrame<Bytes>, Infallible>>> {
        let Self { peer, lane, taken, buffer, logger } = self.get_mut();
        loop {
            match lock(peer.queue(*lane)).take(CHUNK, taken, context.waker()) {
                Taken::Some => {}
                Taken::Nothing => return Poll::Pending,
                Taken::End => return Poll::Ready(None),
            }
            for Queued { frame, len } in taken.drain(..) {
                if let Err(error) = frame.encode(len, buffer) {
                    slog::error!(logger, "frame not sent"; "peer" => peer.id, "error" => %error);
                }
            }
            if !buffer.is_empty() {
                return Poll::Ready(Some(Ok(BodyFrame::data(buffer.split().freeze()))));
            }
        }
    }
}

/// Finds a peer's addresses anew for each connection. A lookup that takes longer than an attempt
/// is waited for by the next one, so that lookups never pile up.
#[derive(Default)]
struct Resolver {
    lookup: Option<JoinHandle<io::Result<Vec<SocketAddr>>>>,
}

impl Resolver {
    async fn connect(&mut self, url: &str, limit: Duration) -> io::Result<TcpStream> {
        let addresses = self.resolve(url).await?;
        let share = limit / u32::try_from(addresses.len().max(1)).unwrap_or(u32::MAX);
        let mut last_error = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
        for address in addresses {
            match timeout(share, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => last_error = error,
                Err(_) => last_error = io::ErrorKind::TimedOut.into(),
            }
        }
        Err(last_error)
    }

    async fn resolve(&mut self, url: &str) -> io::Result<Vec<SocketAddr>> {
        let host = url.strip_prefix("http://").unwrap_or(url).trim_end_matches('/').to_owned();
        if let Ok(address) = host.parse() {
            return Ok(vec![address]);
        }
        // Only a literal is resolved on this thread; the system's lookup blocks.
        let lookup = self.lookup.get_or_insert_with(|| {
            tokio::task::spawn_blocking(move || Ok(host.to_socket_addrs()?.collect()))
        });
        let addresses = lookup.await;
        self.lookup = None;
        addresses.map_err(io::Error::other)?
    }
}

/// Between half of it and all of it, so that members that lost each other together do not dial
/// together for ever.
fn jittered(backoff: Duration) -> Duration {
    // Without randomness the full time is right as well.
    let random = getrandom::u32().unwrap_or(u32::MAX);
    backoff / 2 + (backoff / 2).mul_f64(f64::from(random) / f64::from(u32::MAX))
}

/// An error with its sources: hyper's own text leaves the reason to them.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}
