//! What every request to another member begins with: its addresses, a connection, a head.
//!
//! A request whose body matters is not begun before the peer has judged its head and asks for the
//! body (`Expect: 100-continue`). So a refusal arrives whole instead of being lost in a reset,
//! and whether a request may have been taken is known exactly: it may from the first byte of its
//! body on.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::head::{Claim, HeadRefusal};
use super::lock;

/// How much of a refusal's text is read, in bytes.
const MAX_REASON_LEN: usize = 1024;

/// Finds a peer's addresses anew for each connection. A lookup that takes longer than an attempt
/// is waited for by the next one, so that lookups never pile up.
#[derive(Debug, Default)]
pub(super) struct Resolver {
    lookup: Option<Lookup>,
}

#[derive(Debug)]
struct Lookup {
    host: String,
    result: JoinHandle<io::Result<Vec<SocketAddr>>>,
}

impl Resolver {
    pub(super) async fn resolve(&mut self, url: &str) -> io::Result<Vec<SocketAddr>> {
        let host = host(url);
        if let Ok(address) = host.parse() {
            return Ok(vec![address]);
        }
        if self.lookup.as_ref().is_some_and(|lookup| lookup.host != host) {
            // Somebody asked for another host and gave up; two lookups at once are one too many.
            self.finish().await.ok();
        }
        // Only a literal is resolved on this thread; the system's lookup blocks.
        self.lookup.get_or_insert_with(|| {
            let host = host.to_owned();
            let asked = host.clone();
            let result =
                tokio::task::spawn_blocking(move || Ok(asked.to_socket_addrs()?.collect()));
            Lookup { host, result }
        });
        self.finish().await
    }

    async fn finish(&mut self) -> io::Result<Vec<SocketAddr>> {
        let Some(lookup) = &mut self.lookup else { return Ok(Vec::new()) };
        let addresses = (&mut lookup.result).await;
        self.lookup = None;
        addresses.map_err(io::Error::other)?
    }
}

/// The host and port of a URL.
fn host(url: &str) -> &str {
    url.strip_prefix("http://").unwrap_or(url).trim_end_matches('/')
}

/// Connects to the first address that answers, each having its share of `limit`.
pub(super) async fn connect(addresses: &[SocketAddr], limit: Duration) -> io::Result<TcpStream> {
    let share = limit / u32::try_from(addresses.len().max(1)).unwrap_or(u32::MAX);
    let mut last_error = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
    for address in addresses {
        match timeout(share, TcpStream::connect(address)).await {
            Ok(result) => match result.and_then(connected) {
                Ok(stream) => return Ok(stream),
                Err(error) => last_error = error,
            },
            Err(_) => last_error = io::ErrorKind::TimedOut.into(),
        }
    }
    Err(last_error)
}

/// Makes a connection ready for use.
///
/// # Errors
///
/// It leads to itself. Where nobody listens on a port that the system also hands out to those who
/// dial, it may hand out just that one, and TCP then connects the socket with itself (RFC 9293, 3.5:
/// simultaneous open). Kept, such a connection would keep the peer from ever listening there.
fn connected(stream: TcpStream) -> io::Result<TcpStream> {
    if stream.local_addr()? == stream.peer_addr()? {
        return Err(io::Error::other("connected to itself: nobody listens there"));
    }
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A request for a path of the peer port.
///
/// # Errors
///
/// A URL that cannot stand in a head.
pub(super) fn request<B>(
    method: Method,
    url: &str,
    path: &str,
    headers: HeaderMap,
    body: B,
) -> Result<Request<B>, String> {
    let mut request = Request::new(body);
    *request.method_mut() = method;
    *request.uri_mut() = path.parse::<Uri>().map_err(|error| error.to_string())?;
    *request.headers_mut() = headers;
    let host = host(url);
    let host = host.parse().map_err(|_| format!("{host:?} cannot stand in a head"))?;
    request.headers_mut().insert(header::HOST, host);
    Ok(request)
}

/// Speaks HTTP over a connection for as long as `talk` takes, and adds to what it says of a
/// failure what the connection knows of it.
pub(super) async fn converse<B, T, F>(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    talk: impl FnOnce(SendRequest<B>) -> F,
) -> Result<T, String>
where
    B: Body<Error: Into<Box<dyn std::error::Error + Send + Sync>>, Data: Send> + 'static,
    F: Future<Output = Result<T, String>>,
{
    let handshake = http1::Builder::new().handshake(TokioIo::new(stream)).await;
    let (sender, connection) = handshake.map_err(|error| chain(&error))?;
    let mut connection = pin!(connection);
    let mut talk = pin!(talk(sender));
    let mut ended: Option<Result<(), hyper::Error>> = None;
    // The talk goes first and outlives the connection: an answer that came just before the end
    // is still worth reading.
    let result = loop {
        tokio::select! {
            biased;
            result = &mut talk => break result,
            end = &mut connection, if ended.is_none() => ended = Some(end),
        }
    };
    result.map_err(|reason| match ended {
        Some(Err(error)) => format!("{reason} ({})", chain(&error)),
        Some(Ok(())) | None => reason,
    })
}

/// The status and the text of a response that is not what was hoped for. What ends a member counts
/// only when it is said `by` a member: the address may have become a stranger's, whose 403 means
/// something else.
pub(super) async fn refusal(status: StatusCode, by: Option<Claim>, body: Incoming) -> HeadRefusal {
    let ends = matches!(status, StatusCode::FORBIDDEN | StatusCode::GONE);
    let status = if ends && by.is_none() { StatusCode::BAD_GATEWAY } else { status };
    // What cannot be read of the reason is not worth more than its absence.
    let text = Limited::new(body, MAX_REASON_LEN).collect().await;
    let text = text.map(|text| text.to_bytes()).unwrap_or_default();
    HeadRefusal::new(status, String::from_utf8_lossy(&text).trim().replace(char::is_control, " "))
}

/// A body that is not begun before the peer asks for it. It must not be empty: nobody asks for
/// nothing.
pub(super) struct OnceAsked<B> {
    /// Gone once it has told.
    asked: Option<oneshot::Receiver<()>>,
    begun: Arc<AtomicBool>,
    body: B,
}

/// Holds the body of `request` back until the peer asks for it; `begun` tells since when.
pub(super) fn once_asked<B>(request: Request<B>, begun: Arc<AtomicBool>) -> Request<OnceAsked<B>> {
    let (ask, asked) = oneshot::channel();
    let mut request = request.map(|body| OnceAsked { asked: Some(asked), begun, body });
    request.headers_mut().insert(header::EXPECT, HeaderValue::from_static("100-continue"));
    let ask = Mutex::new(Some(ask));
    hyper::ext::on_informational(&mut request, move |response| {
        if response.status() == StatusCode::CONTINUE
            && let Some(ask) = lock(&ask).take()
        {
            // A body that is gone was given up.
            ask.send(()).ok();
        }
    });
    request
}

impl<B: Body<Data = Bytes> + Unpin> Body for OnceAsked<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.get_mut();
        if let Some(asked) = &mut this.asked {
            let asked = std::task::ready!(Pin::new(asked).poll(context)).is_ok();
            this.asked = None;
            this.begun.store(asked, Ordering::Relaxed);
        }
        if !this.begun.load(Ordering::Relaxed) {
            // There was an answer instead: nobody asks any more, and the exchange is about to end.
            return Poll::Pending;
        }
        Pin::new(&mut this.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
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

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::net::{TcpListener, TcpSocket};

    use super::*;

    /// A member that dialled one that was down long enough found itself, and the other could not
    /// start: its port was taken.
    #[tokio::test]
    async fn a_connection_to_itself_is_none() {
        let anywhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(anywhere).unwrap();
        let itself = socket.local_addr().unwrap();
        let stream = socket.connect(itself).await.unwrap();
        let error = connected(stream).unwrap_err();
        assert!(error.to_string().contains("itself"), "{error}");

        let listener = TcpListener::bind(anywhere).await.unwrap();
        let another = listener.local_addr().unwrap();
        assert!(connect(&[another], Duration::from_secs(5)).await.is_ok());
    }
}
