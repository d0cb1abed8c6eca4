//! Connections: how many there may be, how long they may idle, and how they end.
//!
//! Invariants:
//! - S1 At most `max_connections` are served; one more is told 503 and closed, at once, so that
//!   its sender can go to another member. At most [`MAX_REFUSALS`] are being told so.
//! - S2 Failing to accept neither ends the server nor keeps it busy.
//! - S3 A server that is told to stop answers what it has been asked. A connection ends with its
//!   next answer, and one that is silent for [`FAREWELL`] ends then: closed at once, it would lose
//!   the request that is on its way, whose sender could not know what became of it.
//! - S4 A client that does not read its answers is cut off after the request timeout, a watch's
//!   too.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::header::{CONNECTION, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use slog::{Logger, debug, warn};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::Api;
use super::patience::{Patient, Stopwatch};

/// How long a connection may take to send a request's head, or idle between requests.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);

/// The largest head, and how much of a body is buffered at once: a key of 4,096 bytes is three
/// times as long when every byte of it is encoded.
const BUFFER_BYTES: usize = 64 << 10;

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

const REFUSAL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\n\
    Retry-After: 1\r\nConnection: close\r\nContent-Length: 61\r\n\r\n\
    {\"error\":\"overloaded\",\"message\":\"too many open connections\"}\n";

/// What bounds a server.
#[derive(Debug, Clone, Copy)]
pub struct ServerLimits {
    /// How many connections it serves at once.
    pub max_connections: u32,
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
}

impl Line {
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
        let permits = Arc::new(Semaphore::new(limits.max_connections as usize));
        let refusals = Arc::new(Semaphore::new(MAX_REFUSALS));
        let mut complained: Option<Instant> = None;
        let stopped = stop.clone();
        let admit = |stream| {
            if let Ok(permit) = Arc::clone(&permits).try_acquire_owned() {
                let (api, stop) = (Arc::clone(&self), stopped.clone());
                tokio::spawn(api.connection(stream, stop, permit, logger.clone()));
            } else if let Ok(permit) = Arc::clone(&refusals).try_acquire_owned() {
                tokio::spawn(refuse(stream, permit));
            }
        };
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
            admit(stream);
        }
        // Whoever connected before the port closes may have asked already (S3).
        if let Ok(listener) = listener.into_std() {
            for stream in listener.incoming().map_while(Result::ok).take(BACKLOG as usize) {
                let stream =
                    stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream));
                // One that the runtime cannot take is closed, as all would be without this.
                stream.map(&admit).ok();
            }
        }
        // Every permit back means that every connection has ended. The semaphore is never closed.
        permits.acquire_many(limits.max_connections).await.ok();
    }

    async fn connection(
        self: Arc<Self>,
        stream: TcpStream,
        mut stop: watch::Receiver<()>,
        permit: OwnedSemaphorePermit,
        logger: Logger,
    ) {
        // Answers are single small writes: there is nothing to wait for. A socket that cannot be
        // told so still works.
        stream.set_nodelay(true).ok();
        let patience = self.request_timeout;
        let line = Line { stop: stop.clone(), stopwatch: self.metrics.stopwatch() };
        let patient = Patient::new(stream, patience, line.stopwatch.clone());
        let service = service_fn(|request| async {
            let mut answer = self.serve(request, &line).await;
            if line.stops() {
                answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(answer)
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_buf_size(BUFFER_BYTES)
            .half_close(true)
            .title_case_headers(true)
            .serve_connection(TokioIo::new(patient), service);
        let mut connection = pin!(connection);
        let ended = {
            let mut stopping = pin!(async {
                // Its sender is gone: that is the sign.
                stop.changed().await.ok();
                tokio::time::sleep(FAREWELL).await;
            });
            let mut told = false;
            std::future::poll_fn(|context| {
                if !told && stopping.as_mut().poll(context).is_ready() {
                    told = true;
                    connection.as_mut().graceful_shutdown();
                }
                connection.as_mut().poll(context)
            })
            .await
        };
        if let Err(error) = ended {
            debug!(logger, "client connection ended"; "error" => %error);
        }
        drop(permit);
    }
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

/// Tells one connection too many to come back later.
async fn refuse(mut stream: TcpStream, permit: OwnedSemaphorePermit) {
    let refusing = async {
        stream.write_all(REFUSAL).await?;
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

#[cfg(test)]
mod tests {
    use super::REFUSAL;

    /// The refusal is written by hand, its length too.
    #[test]
    fn refusal_has_the_length_it_says() {
        let text = std::str::from_utf8(REFUSAL).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.ends_with(&format!("Content-Length: {}", body.len())), "{}", body.len());
    }
}
