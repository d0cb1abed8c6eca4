//! One server's client port, and the two questions that a cluster is asked first: ready? who leads?

use std::pin::pin;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{self, Connection, SendRequest};
use hyper::header::{HOST, HeaderValue};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::TcpStream;
use url::Url;

use super::members::Seat;
use super::round::Failure;

/// For a question that a healthy member answers at once.
pub(crate) const QUESTION_TIMEOUT: Duration = Duration::from_secs(2);
const LEADER_POLL: Duration = Duration::from_millis(50);
/// A status of a hundred members with long URLs fits.
pub(crate) const MAX_ANSWER_BYTES: usize = 1 << 20;

/// A member's client port: where to connect, and the name to ask for.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    address: String,
    host: HeaderValue,
}

/// A connection, and what carries it.
pub(crate) type Link = (SendRequest<Full<Bytes>>, Line);
/// What must be polled for a connection to do anything.
pub(crate) type Line = Connection<TokioIo<TcpStream>, Full<Bytes>>;

/// The part of `/_status` that says who leads.
#[derive(Deserialize)]
struct Status {
    role: String,
    leader: Option<LeaderStatus>,
}

#[derive(Deserialize)]
struct LeaderStatus {
    url: Option<String>,
}

/// Whether every member says it is ready.
pub(crate) async fn all_ready(seats: &[Seat]) -> bool {
    for seat in seats {
        match Target::of_seat(seat).get("/_ready").await {
            Ok((status, _)) if status.is_success() => {}
            _ => return false,
        }
    }
    true
}

/// The member that says it leads, or failing that the one another names.
pub(crate) async fn find_leader(targets: &[Target], timeout: Duration) -> Result<Target, Failure> {
    let deadline = Instant::now() + timeout;
    loop {
        let mut problem = String::from("nobody leads");
        let mut named = None;
        for target in targets {
            match target.status().await {
                Ok(status) if status.role == "leader" => return Ok(target.clone()),
                Ok(status) => named = status.leader.and_then(|leader| leader.url).or(named),
                Err(failure) => problem = failure.to_string(),
            }
        }
        if let Some(url) = named {
            let url = Url::parse(&url)
                .map_err(|error| Failure::new(format!("the leader's URL {url}: {error}")))?;
            return Target::of_url(&url);
        }
        if Instant::now() > deadline {
            return Err(Failure::new(format!("no leader after {timeout:?}: {problem}")));
        }
        tokio::time::sleep(LEADER_POLL).await;
    }
}

/// Runs what uses a connection beside the connection itself.
pub(crate) async fn until_closed<T>(line: Line, using: impl Future<Output = T>) -> T {
    let mut using = pin!(using);
    tokio::select! {
        biased;
        done = &mut using => done,
        // It ends when the server closes it, perhaps with an answer that is still to be read; the
        // request under way then learns that.
        _ = line => using.await,
    }
}

impl Target {
    pub(crate) fn of_seat(seat: &Seat) -> Target {
        let address = format!("127.0.0.1:{}", seat.client_port);
        let host = HeaderValue::try_from(&address).expect("digits and dots are a header value");
        Target { address, host }
    }

    pub(crate) fn of_url(url: &Url) -> Result<Target, Failure> {
        let bad = || Failure::new(format!("{url} is not a client URL, http://host:port"));
        if url.scheme() != "http" {
            return Err(bad());
        }
        let host = url.host_str().ok_or_else(bad)?;
        let port = url.port_or_known_default().ok_or_else(bad)?;
        let address = format!("{host}:{port}");
        let host = HeaderValue::try_from(&address).map_err(|_| bad())?;
        Ok(Target { address, host })
    }

    /// A connection to it.
    pub(crate) async fn connect(&self) -> Result<Link, Failure> {
        let failed = |error: &dyn std::fmt::Display| {
            Failure::new(format!("cannot connect to {}: {error}", self.address))
        };
        let stream = tokio::time::timeout(QUESTION_TIMEOUT, TcpStream::connect(&self.address))
            .await
            .map_err(|late| failed(&late))?
            .map_err(|error| failed(&error))?;
        stream.set_nodelay(true).map_err(|error| failed(&error))?;
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| failed(&error))
    }

    /// A request to it.
    pub(crate) fn request(
        &self,
        method: Method,
        path: String,
        body: Bytes,
    ) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() =
            Uri::from_maybe_shared(Bytes::from(path)).expect("our paths are letters and digits");
        request.headers_mut().insert(HOST, self.host.clone());
        request
    }

    /// One question on a connection of its own.
    async fn get(&self, path: &str) -> Result<(StatusCode, Bytes), Failure> {
        let ask = async {
            let (mut sender, line) = self.connect().await?;
            let failed = |error: &dyn std::fmt::Display| {
                Failure::new(format!("GET {path} at {}: {error}", self.address))
            };
            let answer = async {
                let request = self.request(Method::GET, path.to_owned(), Bytes::new());
                let response =
                    sender.send_request(request).await.map_err(|error| failed(&error))?;
                let (head, body) = response.into_parts();
                let body = Limited::new(body, MAX_ANSWER_BYTES);
                let body = body.collect().await.map_err(|error| failed(&error))?;
                Ok((head.status, body.to_bytes()))
            };
            until_closed(line, answer).await
        };
        tokio::time::timeout(QUESTION_TIMEOUT, ask)
            .await
            .unwrap_or_else(|_| Err(Failure::new(format!("{} does not answer", self.address))))
    }

    async fn status(&self) -> Result<Status, Failure> {
        let (code, body) = self.get("/_status").await?;
        if code != StatusCode::OK {
            return Err(Failure::new(format!("GET /_status at {}: {code}", self.address)));
        }
        serde_json::from_slice(&body).map_err(|error| {
            Failure::new(format!("GET /_status at {}: not a status: {error}", self.address))
        })
    }
}
