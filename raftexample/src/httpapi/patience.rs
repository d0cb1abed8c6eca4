//! A connection that gives up on a peer which does not read.
//!
//! A client that asks and never reads its answers would hold its place for ever: nothing is wrong
//! with its socket, there is only no room in it. Refuses to bound anything but such a standstill:
//! how long a request may take is not decided here.
//!
//! It is also where an answer's last byte leaves, so that a [`Stopwatch`] ends here.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use prometheus_client::metrics::histogram::Histogram;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;

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

/// A stream whose writes fail when none of them got anywhere for `patience`.
pub(super) struct Patient {
    stream: TcpStream,
    patience: Duration,
    /// Runs while a write waits.
    standstill: Option<Pin<Box<Sleep>>>,
    stopwatch: Stopwatch,
}

impl Patient {
    pub(super) fn new(stream: TcpStream, patience: Duration, stopwatch: Stopwatch) -> Self {
        Self { stream, patience, standstill: None, stopwatch }
    }

    /// Passes progress on, and turns a standstill that lasted too long into an error.
    fn watch<T>(
        &mut self,
        context: &mut Context<'_>,
        progress: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if progress.is_ready() {
            self.standstill = None;
            return progress;
        }
        let patience = self.patience;
        let standstill =
            self.standstill.get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        ready!(standstill.as_mut().poll(context));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not read")))
    }
}

impl AsyncRead for Patient {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
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
        let progress = Pin::new(&mut self.stream).poll_flush(context);
        if progress.is_ready() {
            self.stopwatch.flushed();
        }
        self.watch(context, progress)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let progress = Pin::new(&mut self.stream).poll_shutdown(context);
        self.watch(context, progress)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    fn stopwatch() -> Stopwatch {
        Stopwatch::new(Histogram::new([1e-3]))
    }

    /// Found by review: eight clients that never read kept everyone else out, health checks
    /// included. A client that reads slowly is not one of them.
    #[test]
    fn a_standstill_ends_and_slowness_does_not() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let (server, _) = listener.accept().await.unwrap();
            let mut server = Patient::new(server, Duration::from_millis(200), stopwatch());
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

    /// A refusal is measured once, when its last byte is in the socket, and other answers are not.
    #[test]
    fn a_refusal_is_measured_when_it_is_written() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let _client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let (server, _) = listener.accept().await.unwrap();
            let stopwatch = stopwatch();
            let mut server = Patient::new(server, Duration::from_secs(60), stopwatch.clone());
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
