//! Connections: how many there may be, how long they may idle, and how they end.
//!
//! Invariants:
//! - S1 At most `max_connections` are served. One more takes the place of the one that has waited
//!   longest for a request or for the rest of its head ([`places`](super::places)); when all of
//!   them are in the middle of something it is told 503 and closed, at once, so that its sender
//!   can go to another member. At most [`MAX_REFUSALS`] are being told so.
//! - S2 Failing to accept neither ends the server nor keeps it busy.
//! - S3 A server that is told to stop answers what it has been asked. A connection ends with its
//!   next answer, and one that is silent for [`FAREWELL`] ends then: closed at once, it would lose
//!   the request that is on its way, whose sender could not know what became of it.
//! - S4 A client that does not read its answers is cut off after the request timeout, a watch's
//!   too, and one that reads them slower than `min_bytes_per_second` not long after it.
//! - S5 A head takes at most `head_timeout`, from its first byte; between requests a connection
//!   may be silent for `idle_timeout`. A request's body has the request's own deadline.
//! - S6 Large answers that are not read yet take no more memory together than `answer_bytes`. One
//!   more is told 503, unless it says what became of a write.
//! - S7 At most half of the connections watch: watches end when their clients want it, which one
//!   that sends no more does.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::body::{Body as _, Frame, SizeHint};
use hyper::header::{CONNECTION, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use slog::{Logger, debug, warn};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Sleep;

use super::answer::{self, Answer, Body, Fault};
use super::crowd::Crowd;
use super::first_line;
use super::kind::Kind;
use super::patience::{Allowance, Patient, Stopwatch};
use super::places::{Place, Places, Seat, Working};
use super::wakes::{Relayed, Wakes};
use super::{Api, GRACE};

/// The largest head, and how much of a body is buffered at once: a key of 4,096 bytes is three
/// times as long when every byte of it is encoded.
pub(super) const BUFFER_BYTES: usize = 64 << 10;

/// How many connections may wait to be accepted.
const BACKLOG: u32 = 1024;

/// How long a silent connection is kept when the server stops: clients that ask again and again do
/// so sooner, and those that idle lose nothing.
const FAREWELL: Duration = Duration::from_millis(100);

/// The pause after a failed accept, such as when every file descriptor is taken.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The least time between two complaints about failed accepts.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(10);

/// How many connections are told at the same time that there are too many. Beyond that they are
/// closed without a word.
const MAX_REFUSALS: usize = 64;

/// Answers up to this size are not counted: as much as this waits in any socket.
const SMALL_ANSWER_BYTES: u64 = 64 << 10;

/// What bounds a server.
#[derive(Debug, Clone, Copy)]
pub struct ServerLimits {
    /// How many connections it serves at once. Half of them may watch, and at least one.
    pub max_connections: u32,
    /// What a request's head may take from its first byte; the first one from the connection's
    /// beginning.
    pub head_timeout: Duration,
    /// How long a connection may be silent between two requests.
    pub idle_timeout: Duration,
    /// How long after an answer a connection does not count as idle when others want its place.
    pub between_requests: Duration,
    /// The memory that large answers may take which are not read yet, all of them together.
    pub answer_bytes: u32,
    /// How fast an answer must be read, once the request timeout's worth of patience is used up.
    pub min_bytes_per_second: u32,
}

impl ServerLimits {
    /// The usual ones.
    ///
    /// A head is a packet or two: ten seconds are for the slowest network. An idle connection costs
    /// little, and less than making a new one for each request. The answers are a few dozen of the
    /// largest, 12 MiB each, or hundreds of large values; the least speed has one of 1 MiB read in
    /// 16 seconds.
    #[must_use]
    pub fn new(max_connections: u32) -> Self {
        Self {
            max_connections,
            head_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(60),
            between_requests: Duration::from_millis(200),
            answer_bytes: 256 << 20,
            min_bytes_per_second: 64 << 10,
        }
    }
}

/// The client port: taken, and not yet open.
#[derive(Debug)]
pub struct Server {
    socket: TcpSocket,
    address: SocketAddr,
}

impl Server {
    /// Takes the address, so that a second process is refused before it changes anything. Nobody
    /// can connect yet.
    ///
    /// # Errors
    ///
    /// When the address is taken or not this machine's.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        // Connections of the process before this one may linger; its listener may not.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        let address = socket.local_addr()?;
        Ok(Self { socket, address })
    }

    /// The address it has taken, its port chosen by the system if it was 0.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Opens the port.
    ///
    /// # Errors
    ///
    /// When the system gives no listener. Must be called on a tokio runtime.
    pub fn listen(self) -> io::Result<TcpListener> {
        self.socket.listen(BACKLOG)
    }
}

/// What a connection's requests share.
pub(super) struct Line {
    stop: watch::Receiver<()>,
    stopwatch: Stopwatch,
    places: Arc<Places>,
    place: Arc<Place>,
    crowd: Crowd,
    answers: Arc<Semaphore>,
    /// For what the node is asked, one after the other. It runs on when an answer has come: to set
    /// it anew, and later, costs next to nothing then.
    timer: Mutex<Option<Pin<Box<Sleep>>>>,
}

impl Line {
    /// The node's answer, unless it is overdue.
    pub(super) async fn patiently<T>(
        &self,
        deadline: Instant,
        answer: impl Future<Output = T>,
    ) -> Option<T> {
        let end = (deadline + GRACE).into();
        let _waiting = self.crowd.join();
        let mut answer = pin!(answer);
        std::future::poll_fn(|context| {
            if let Poll::Ready(answer) = answer.as_mut().poll(context) {
                return Poll::Ready(Some(answer));
            }
            let mut timer = self.timer.lock().unwrap_or_else(PoisonError::into_inner);
            let timer = timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(end)));
            if timer.deadline() != end {
                timer.as_mut().reset(end);
            }
            timer.as_mut().poll(context).map(|()| None)
        })
        .await
    }

    /// Changes, or loses its sender, when the server stops.
    pub(super) fn stop(&self) -> watch::Receiver<()> {
        self.stop.clone()
    }

    /// Whether the server stops.
    fn stops(&self) -> bool {
        self.stop.has_changed().is_err()
    }

    /// The request that came at `since` is refused, for there is too much to do.
    pub(super) fn refused(&self, since: Instant) {
        self.stopwatch.start(since);
    }

    /// A place among those that watch, if there is one (S7).
    pub(super) fn watch(&self) -> Option<OwnedSemaphorePermit> {
        let place = self.places.watch()?;
        self.place.begin_watch();
        Some(place)
    }

    /// Whether the target of this request, the connection's last, was cut at a `#`.
    pub(super) fn was_cut<T>(&self, request: &Request<T>) -> bool {
        let line = self.place.take_first_line();
        line.is_some_and(|line| first_line::was_cut(&line, request.method(), request.uri()))
    }

    /// Counts an answer of this many bytes, if it is a large one (S6); `None` when there are too
    /// many.
    fn count(&self, bytes: u64) -> Option<Option<OwnedSemaphorePermit>> {
        if bytes <= SMALL_ANSWER_BYTES {
            return Some(None);
        }
        let bytes = u32::try_from(bytes).ok()?;
        Arc::clone(&self.answers).try_acquire_many_owned(bytes).ok().map(Some)
    }
}

/// The body of an answer, and what ends with the last of it.
struct Served {
    body: Body,
    _working: Working,
}

impl hyper::body::Body for Served {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Api {
    /// Serves until `stop`'s sender is gone, and then until the last connection has ended.
    pub async fn run(
        self: Arc<Self>,
        listener: TcpListener,
        limits: ServerLimits,
        mut stop: watch::Receiver<()>,
        logger: Logger,
    ) {
        let guests = Guests {
            places: Places::new(limits.max_connections, limits.between_requests),
            refusals: Arc::new(Semaphore::new(MAX_REFUSALS)),
            answers: Arc::new(Semaphore::new(limits.answer_bytes as usize)),
            limits,
            stop: stop.clone(),
            wakes: Arc::default(),
            logger: logger.clone(),
        };
        let wakes = Arc::clone(&guests.wakes);
        let delivering = tokio::spawn(async move { wakes.deliver().await });
        let mut complained: Option<Instant> = None;
        loop {
            let accepted = tokio::select! {
                _ = stop.changed() => break,
                accepted = listener.accept() => accepted,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) if concerns_one_connection(&error) => continue,
                Err(error) => {
                    if complained.is_none_or(|last| last.elapsed() >= COMPLAINT_INTERVAL) {
                        complained = Some(Instant::now());
                        warn!(logger, "cannot accept connections"; "error" => %error);
                    }
                    tokio::select! {
                        _ = stop.changed() => break,
                        () = tokio::time::sleep(ACCEPT_PAUSE) => continue,
                    }
                }
            };
            self.admit(stream, &guests).await;
        }
        // Whoever connected before the port closes may have asked already (S3).
        if let Ok(listener) = listener.into_std() {
            for stream in listener.incoming().map_while(Result::ok).take(BACKLOG as usize) {
                let stream =
                    stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream));
                // One that the runtime cannot take is closed, as all would be without this.
                if let Ok(stream) = stream {
                    self.admit(stream, &guests).await;
                }
            }
        }
        guests.places.empty().await;
        delivering.abort();
    }

    /// Gives a new connection a place, or tells it that there is none (S1).
    async fn admit(self: &Arc<Self>, stream: TcpStream, guests: &Guests) {
        if let Some(seat) = guests.places.seat().await {
            let line = Line {
                stop: guests.stop.clone(),
                stopwatch: self.metrics.stopwatch(),
                places: Arc::clone(&guests.places),
                place: Arc::clone(seat.place()),
                crowd: self.crowd.clone(),
                answers: Arc::clone(&guests.answers),
                timer: Mutex::default(),
            };
            let (limits, logger) = (guests.limits, guests.logger.clone());
            let connection = Arc::clone(self).connection(stream, seat, line, limits, logger);
            tokio::spawn(Relayed::new(Arc::clone(&guests.wakes), Box::pin(connection)));
        } else if let Ok(permit) = Arc::clone(&guests.refusals).try_acquire_owned() {
            let leader = answer::leader(&self.handle.node().status());
            tokio::spawn(refuse(stream, refusal(leader.as_ref()), permit));
        }
    }

    async fn connection(
        self: Arc<Self>,
        stream: TcpStream,
        seat: Seat,
        line: Line,
        limits: ServerLimits,
        logger: Logger,
    ) {
        // Answers are single small writes: there is nothing to wait for. A socket that cannot be
        // told so still works.
        stream.set_nodelay(true).ok();
        let place = seat.place();
        let allowance = Allowance {
            patience: self.request_timeout,
            min_bytes_per_second: limits.min_bytes_per_second,
            head_timeout: limits.head_timeout,
            idle_timeout: limits.idle_timeout,
        };
        let patient = Patient::new(stream, allowance, Arc::clone(place), line.stopwatch.clone());
        let service = service_fn(|request: Request<_>| async {
            let working = place.work();
            let is_read = request.method() == Method::GET;
            let answer = self.serve(request, &line).await;
            let mut served = self.count(answer, is_read, working, &line);
            if line.stops() {
                served.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(served)
        });
        let connection = http1::Builder::new()
            // It would set a timer for each request (R2).
            .header_read_timeout(None)
            .max_buf_size(BUFFER_BYTES)
            // The buffer may be larger than it was asked to be; a head may not.
            .max_header_size(BUFFER_BYTES)
            .half_close(true)
            .title_case_headers(true)
            .serve_connection(TokioIo::new(patient), service);
        let mut connection = pin!(connection);
        let ended = {
            let mut stop = line.stop();
            let mut stopping = pin!(async {
                // Its sender is gone: that is the sign.
                stop.changed().await.ok();
                tokio::time::sleep(FAREWELL).await;
            });
            let mut told = false;
            let mut asked = pin!(place.asked());
            std::future::poll_fn(|context| {
                if !told && stopping.as_mut().poll(context).is_ready() {
                    told = true;
                    connection.as_mut().graceful_shutdown();
                }
                let ended = connection.as_mut().poll(context);
                // Only now, when everything that has arrived was read (P2).
                while ended.is_pending() && asked.as_mut().poll(context).is_ready() {
                    if place.leaves() {
                        return Poll::Ready(Ok(()));
                    }
                    asked.set(place.asked());
                }
                ended
            })
            .await
        };
        if let Err(error) = ended {
            debug!(logger, "client connection ended"; "error" => %error);
        }
    }

    /// Has an answer counted until it is written, or refuses it (S6).
    fn count(
        &self,
        answer: Answer,
        is_read: bool,
        mut working: Working,
        line: &Line,
    ) -> Response<Served> {
        let share = line.count(answer.body().size_hint().lower());
        let answer = match share {
            None if is_read => {
                let message = "the answers that are not read yet take all the memory";
                Fault::new(Kind::Overloaded, message).answer(|| self.handle.node().status())
            }
            _ => answer,
        };
        working.hold(share.flatten());
        answer.map(|body| Served { body, _working: working })
    }
}

/// What all connections of a server share.
struct Guests {
    places: Arc<Places>,
    refusals: Arc<Semaphore>,
    answers: Arc<Semaphore>,
    limits: ServerLimits,
    stop: watch::Receiver<()>,
    wakes: Arc<Wakes>,
    logger: Logger,
}

/// A peer that went away between its connecting and our accepting.
fn concerns_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}

/// What one connection too many is told.
fn refusal(leader: Option<&HeaderValue>) -> String {
    const BODY: &str = "{\"error\":\"overloaded\",\"message\":\"too many open connections\"}\n";
    let leader = leader.and_then(|leader| leader.to_str().ok());
    let leader = leader.map_or_else(String::new, |leader| format!("X-Raft-Leader: {leader}\r\n"));
    format!(
        "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 1\r\n\
         {leader}Connection: close\r\nContent-Length: {}\r\n\r\n{BODY}",
        BODY.len()
    )
}

/// Tells one connection too many to come back later.
async fn refuse(mut stream: TcpStream, refusal: String, permit: OwnedSemaphorePermit) {
    let refusing = async {
        stream.write_all(refusal.as_bytes()).await?;
        stream.shutdown().await?;
        // Its request is read, a little of it, so that closing does not reset the answer away.
        let mut request = (&mut stream).take(BUFFER_BYTES as u64);
        let mut buffer = [0; 1024];
        while request.read(&mut buffer).await? != 0 {}
        io::Result::Ok(())
    };
    // It has gone, or it stays silent: either way there is nothing left to say.
    tokio::time::timeout(Duration::from_secs(1), refusing).await.ok();
    drop(permit);
}
