//! A connection that gives up on a peer which does not read, or does not come to its point.
//!
//! A client that asks and never reads its answers would hold its place for ever: nothing is wrong
//! with its socket, there is only no room in it. One that sends its heads a byte at a time would
//! too. Refuses to bound anything but these: how long a request may take is not decided here.
//!
//! It is also where an answer's last byte leaves, so that a [`Stopwatch`] ends here; and where a
//! request's first line is seen as it was sent.
//!
//! Invariants:
//! - R1 An answer moves: some of it every `patience`, and all of it at `min_bytes_per_second` or
//!   faster, which begins to count when the socket is full for the first time, and forgives
//!   `patience`. A watch is measured piece by piece.
//! - R2 A head is there `head_timeout` after its first byte; the first one after the connection was
//!   made. The first byte of another one comes within `idle_timeout` after the answer before. Bytes
//!   of it that came together with the request before it do not count as its first: then the rest
//!   of it does.
//! - R3 A watch ends when its client sends no more. It may only have closed its own side, but that
//!   shows in no other way than by writing to it twice, and nobody else has its place meanwhile.

use std::future::Future;
use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use prometheus_client::metrics::histogram::Histogram;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;

use super::first_line::FirstLine;
use super::places::Place;

/// Measures what a refusal takes, from the request to the last byte of its answer in the socket.
/// A connection has one request at a time.
#[derive(Debug, Clone)]
pub(super) struct Stopwatch {
    histogram: Histogram,
    since: Arc<Mutex<Option<Instant>>>,
}

impl Stopwatch {
    /// Observes what it measures in `histogram`.
    pub(super) fn new(histogram: Histogram) -> Self {
        Self { histogram, since: Arc::default() }
    }

    /// The answer that is about to be written refuses a request that came at `since`.
    pub(super) fn start(&self, since: Instant) {
        *self.running() = Some(since);
    }

    /// Everything written so far is in the socket.
    fn flushed(&self) {
        if let Some(since) = self.running().take() {
            self.histogram.observe(since.elapsed().as_secs_f64());
        }
    }

    fn running(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        self.since.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a [`Patient`] stream allows its peer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Allowance {
    /// How long a write may get nowhere.
    pub(super) patience: Duration,
    /// How fast an answer is read at least.
    pub(super) min_bytes_per_second: u32,
    /// What a request's head may take.
    pub(super) head_timeout: Duration,
    /// How long it may be silent between an answer and the next request.
    pub(super) idle_timeout: Duration,
}

/// A stream whose reads and writes fail when they take longer than they may.
pub(super) struct Patient {
    stream: TcpStream,
    allowance: Allowance,
    place: Arc<Place>,
    standstill: Option<Standstill>,
    head: Head,
    idle: Idle,
    stopwatch: Stopwatch,
}

/// The silence after an answer. Its timer is set to no earlier end, and to a later one only when it
/// has ended: a connection that is used sets it once in `idle_timeout`, and not for each request.
#[derive(Default)]
struct Idle {
    since: Option<Instant>,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Idle {
    /// Ends when the silence has lasted for too long.
    fn poll(&mut self, context: &mut Context<'_>, timeout: Duration) -> Poll<()> {
        let Some(since) = self.since else { return Poll::Pending };
        let deadline = (since + timeout).into();
        let sleep = || Box::pin(tokio::time::sleep_until(deadline));
        let sleep = self.sleep.get_or_insert_with(sleep);
        ready!(sleep.as_mut().poll(context));
        if sleep.deadline() < deadline {
            sleep.as_mut().reset(deadline);
            ready!(sleep.as_mut().poll(context));
        }
        Poll::Ready(())
    }
}

/// Runs from the first write that had to wait until all is written.
struct Standstill {
    since: Instant,
    last_progress: Instant,
    n_written: u64,
    sleep: Pin<Box<Sleep>>,
}

/// How far the head has come that is being read.
#[derive(Default)]
struct Head {
    /// After how many requests.
    turn: u64,
    since: Option<Instant>,
    /// Runs while the rest of it is missing.
    sleep: Option<Pin<Box<Sleep>>>,
    first_line: FirstLine,
}

impl Patient {
    pub(super) fn new(
        stream: TcpStream,
        allowance: Allowance,
        place: Arc<Place>,
        stopwatch: Stopwatch,
    ) -> Self {
        let head = Head { since: Some(Instant::now()), ..Head::default() };
        let idle = Idle::default();
        Self { stream, allowance, place, standstill: None, head, idle, stopwatch }
    }

    /// Counts what is written, and turns what lasts too long into an error (R1).
    fn watch(
        &mut self,
        context: &mut Context<'_>,
        progress: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        let Allowance { patience, min_bytes_per_second, .. } = self.allowance;
        if let Poll::Ready(written) = progress {
            if let (Some(standstill), Ok(written)) = (&mut self.standstill, &written) {
                standstill.n_written += *written as u64;
                standstill.last_progress = Instant::now();
            }
            return Poll::Ready(written);
        }
        let standstill = self.standstill.get_or_insert_with(|| {
            let now = Instant::now();
            let sleep = Box::pin(tokio::time::sleep(patience));
            Standstill { since: now, last_progress: now, n_written: 0, sleep }
        });
        let earned = standstill.n_written as f64 / f64::from(min_bytes_per_second);
        let slowest = standstill.since + patience + Duration::from_secs_f64(earned);
        let deadline = slowest.min(standstill.last_progress + patience).into();
        if standstill.sleep.deadline() != deadline {
            standstill.sleep.as_mut().reset(deadline);
        }
        ready!(standstill.sleep.as_mut().poll(context));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not read")))
    }

    /// Notices that a watch's client has gone (R3): hyper reads nothing meanwhile.
    fn watch_leaver(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.place.watches() {
            return Poll::Ready(Ok(()));
        }
        match self.stream.poll_peek(context, &mut ReadBuf::new(&mut [0])) {
            Poll::Ready(Ok(0)) => {
                Poll::Ready(Err(io::Error::new(ErrorKind::ConnectionReset, "the watcher has gone")))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            // What it has sent is read after the watch.
            Poll::Ready(Ok(_)) | Poll::Pending => Poll::Ready(Ok(())),
        }
    }

    /// Looks at what was read of a head, and turns a head that takes too long into an error (R2).
    fn watch_head(
        &mut self,
        context: &mut Context<'_>,
        read: Poll<io::Result<()>>,
        bytes: &[u8],
    ) -> Poll<io::Result<()>> {
        let turn = self.place.turn();
        if self.head.turn != turn {
            self.head = Head { turn, ..Head::default() };
        }
        if !bytes.is_empty() {
            self.head.since.get_or_insert_with(Instant::now);
            if let Some(line) = self.head.first_line.read(bytes) {
                self.place.note_first_line(line);
            }
        }
        if read.is_ready() {
            return read;
        }
        let Some(since) = self.head.since else {
            ready!(self.idle.poll(context, self.allowance.idle_timeout));
            let message = "the client does not ask any more";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, message)));
        };
        let deadline = since + self.allowance.head_timeout;
        let sleep = || Box::pin(tokio::time::sleep_until(deadline.into()));
        ready!(self.head.sleep.get_or_insert_with(sleep).as_mut().poll(context));
        let message = "the client does not come to the end of a head";
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, message)))
    }
}

impl AsyncRead for Patient {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let n_before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if !self.place.waits() {
            return read;
        }
        self.watch_head(context, read, &buffer.filled()[n_before..])
    }
}

impl AsyncWrite for Patient {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let progress = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.watch(context, progress)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let progress = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.watch(context, progress)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Sockets have nothing to flush: whoever flushes has written everything.
        ready!(Pin::new(&mut self.stream).poll_flush(context))?;
        self.standstill = None;
        self.stopwatch.flushed();
        if let Some(answered) = self.place.flushed() {
            let timeout = self.allowance.idle_timeout;
            self.idle.since = Some(answered);
            if self.idle.poll(context, timeout).is_ready() {
                // The next read says so.
                context.waker().wake_by_ref();
            }
        }
        self.watch_leaver(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::super::places::{Places, Seat};
    use super::*;

    fn stopwatch() -> Stopwatch {
        Stopwatch::new(Histogram::new([1e-3]))
    }

    const LONG: Duration = Duration::from_secs(3600);

    /// Allows everything.
    const ALLOWANCE: Allowance = Allowance {
        patience: LONG,
        min_bytes_per_second: 1,
        head_timeout: LONG,
        idle_timeout: LONG,
    };

    /// A connection's two ends.
    async fn pair(allowance: Allowance) -> (Patient, TcpStream, Seat) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        let seat = Places::new(1, LONG).seat().await.unwrap();
        let place = Arc::clone(seat.place());
        (Patient::new(server, allowance, place, stopwatch()), client, seat)
    }

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.unwrap().block_on(future)
    }

    /// Found by review: eight clients that never read kept everyone else out, health checks
    /// included. A client that reads slowly is not one of them.
    #[test]
    fn a_standstill_ends_and_slowness_does_not() {
        block_on(async {
            let patience = Duration::from_millis(200);
            let (mut server, mut client, _seat) = pair(Allowance { patience, ..ALLOWANCE }).await;
            let endless = vec![0; 64 << 20];
            let slow = async {
                let mut buffer = vec![0; 1 << 20];
                client.read_exact(&mut buffer).await.unwrap();
                client
            };
            let (ended, client) = tokio::join!(server.write_all(&endless), slow);
            assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::TimedOut);
            drop(client);
        });
    }

    /// A client that reads a little now and then never stands still, and would have its place and
    /// the memory of its answer for hours.
    #[test]
    fn a_trickle_ends() {
        block_on(async {
            let patience = Duration::from_millis(300);
            let allowance = Allowance { patience, min_bytes_per_second: 1 << 30, ..ALLOWANCE };
            let (mut server, mut client, _seat) = pair(allowance).await;
            let endless = vec![0; 64 << 20];
            let trickle = async {
                let mut pace = tokio::time::interval(Duration::from_millis(20));
                let mut buffer = vec![0; 256 << 10];
                loop {
                    pace.tick().await;
                    if client.read_exact(&mut buffer).await.is_err() {
                        break;
                    }
                }
            };
            let write = async {
                let ended = server.write_all(&endless).await;
                drop(server);
                ended
            };
            let (ended, ()) = tokio::join!(write, trickle);
            assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::TimedOut);
        });
    }

    /// Reads until that fails, beside a client that sends a byte now and then; gives how many came.
    async fn read_a_trickle(server: &mut Patient, client: &mut TcpStream) -> usize {
        let read = async {
            let mut n_read = 0;
            loop {
                match server.read(&mut [0; 64]).await {
                    Ok(n) => n_read += n,
                    Err(error) => break (error.kind(), n_read),
                }
            }
        };
        let trickle = async {
            let mut pace = tokio::time::interval(Duration::from_millis(10));
            loop {
                pace.tick().await;
                client.write_all(b"x").await.unwrap();
            }
        };
        tokio::select! {
            (kind, n_read) = read => {
                assert_eq!(kind, io::ErrorKind::TimedOut);
                n_read
            }
            () = trickle => unreachable!(),
        }
    }

    /// A head ends or its connection does, however often a byte of it comes; and so does one that
    /// never begins.
    #[test]
    fn a_head_that_never_ends_is_given_up() {
        block_on(async {
            let allowance = Allowance { head_timeout: Duration::from_millis(300), ..ALLOWANCE };
            let (mut server, mut client, _seat) = pair(allowance).await;
            assert!(read_a_trickle(&mut server, &mut client).await > 1);
            let (mut server, _client, _seat) = pair(allowance).await;
            let error = server.read(&mut [0]).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        });
    }

    /// Each head has its own time, which silence before it and a body before it leave alone.
    #[test]
    fn silence_between_requests_is_no_head() {
        block_on(async {
            let head_timeout = Duration::from_millis(300);
            let (mut server, mut client, seat) =
                pair(Allowance { head_timeout, ..ALLOWANCE }).await;
            let working = seat.place().work();
            let mut buffer = [0];
            let body = tokio::time::timeout(head_timeout * 2, server.read(&mut buffer));
            assert!(body.await.is_err(), "a body has another deadline");
            drop(working);
            server.flush().await.unwrap();
            let silence = tokio::time::timeout(head_timeout * 2, server.read(&mut buffer));
            assert!(silence.await.is_err(), "nothing has begun");
            assert!(read_a_trickle(&mut server, &mut client).await > 1);
        });
    }

    /// Whoever asks again in time stays however often; whoever does not is given up, and not before
    /// its time is over.
    #[test]
    fn silence_after_an_answer_ends() {
        block_on(async {
            let idle_timeout = Duration::from_millis(400);
            let (mut server, mut client, seat) =
                pair(Allowance { idle_timeout, ..ALLOWANCE }).await;
            let begun = Instant::now();
            let mut answered = begun;
            while begun.elapsed() < idle_timeout * 2 {
                client.write_all(b"GET").await.unwrap();
                server.read_exact(&mut [0; 3]).await.unwrap();
                drop(seat.place().work());
                answered = Instant::now();
                server.flush().await.unwrap();
                let mut buffer = [0];
                let silence = tokio::time::timeout(idle_timeout / 8, server.read(&mut buffer));
                assert!(silence.await.is_err(), "it may be silent for longer");
            }
            let error = server.read(&mut [0]).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
            assert!(answered.elapsed() >= idle_timeout);
        });
    }

    /// A refusal is measured once, when its last byte is in the socket, and other answers are not.
    #[test]
    fn a_refusal_is_measured_when_it_is_written() {
        block_on(async {
            let (mut server, _client, _seat) = pair(ALLOWANCE).await;
            let stopwatch = server.stopwatch.clone();
            let mut counted = Vec::new();
            for refused in [false, true, false, true] {
                if refused {
                    stopwatch.start(Instant::now());
                }
                server.write_all(b"an answer").await.unwrap();
                assert_eq!(stopwatch.running().is_some(), refused, "not before the flush");
                server.flush().await.unwrap();
                counted.push(count(&stopwatch.histogram));
            }
            assert_eq!(counted, [0, 1, 1, 2]);
        });
    }

    /// What a scraper would see.
    fn count(histogram: &Histogram) -> u64 {
        let mut registry = prometheus_client::registry::Registry::default();
        registry.register("h", "", histogram.clone());
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("h_count "));
        line.unwrap().parse().unwrap()
    }
}
