//! The closed loop of PUTs or GETs, and the two questions it asks a cluster first: ready? who leads?
//!
//! It must cost little, for it shares the machine with what it measures: one task a connection on one
//! thread, the connection polled in the same task, nothing spawned and nothing but the path allocated
//! for a request.

use std::cell::RefCell;
use std::pin::pin;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, Connection, SendRequest};
use hyper::header::{HOST, HeaderValue};
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use url::Url;

use super::members::Seat;
use super::round::{Failure, Keys, Operation, Recorder, Round, Window};

/// For a question that a healthy member answers at once.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(2);
const LEADER_POLL: Duration = Duration::from_millis(50);
const FILLED_POLL: Duration = Duration::from_millis(10);
/// A status of a hundred members with long URLs fits.
const MAX_ANSWER_BYTES: usize = 1 << 20;
/// Longer than any `--request-timeout` that makes sense: a request still unanswered then is lost.
const STALL_TIMEOUT: Duration = Duration::from_secs(20);

/// A member's client port: where to connect, and the name to ask for.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    address: String,
    host: HeaderValue,
}

/// One level's load.
#[derive(Debug)]
pub(crate) struct Load {
    pub(crate) operation: Operation,
    pub(crate) connections: u16,
    pub(crate) window: Window,
    pub(crate) n_keys: u64,
    pub(crate) value: Bytes,
}

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

type Link = (SendRequest<Full<Bytes>>, Connection<TokioIo<TcpStream>, Full<Bytes>>);

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

    async fn connect(&self) -> Result<Link, Failure> {
        let failed = |error: &dyn std::fmt::Display| {
            Failure::new(format!("cannot connect to {}: {error}", self.address))
        };
        let stream = TcpStream::connect(&self.address).await.map_err(|error| failed(&error))?;
        stream.set_nodelay(true).map_err(|error| failed(&error))?;
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| failed(&error))
    }

    fn request(&self, method: Method, path: String, body: Bytes) -> Request<Full<Bytes>> {
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
            let (mut sender, connection) = self.connect().await?;
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
            let mut answer = pin!(answer);
            tokio::select! {
                biased;
                answered = &mut answer => answered,
                // A closed connection may leave the last answer to be read.
                _ = connection => answer.await,
            }
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

impl Load {
    /// Writes every key once, so that there is something to read, and returns when all can be read:
    /// a server may answer before it has applied a write, but applies them in order.
    pub(crate) async fn fill(&self, target: &Target) -> Result<(), Failure> {
        let mut tasks = JoinSet::new();
        for number in 0..u64::from(self.connections) {
            let link = target.connect().await?;
            let keys = (number..self.n_keys).step_by(self.connections.into());
            let (target, value) = (target.clone(), self.value.clone());
            tasks.spawn_local(async move { fill_share(link, &target, value, keys).await });
        }
        while let Some(ended) = tasks.join_next().await {
            ended.map_err(|error| Failure::new(format!("cannot fill: {error}")))??;
        }
        Ok(())
    }

    /// One round: connects, loads for the window, waits for the last answers.
    pub(crate) async fn run(&self, target: &Target) -> Result<Round, Failure> {
        let mut links = Vec::new();
        for _ in 0..self.connections {
            links.push(target.connect().await?);
        }
        let recorder = Rc::new(RefCell::new(Recorder::start(self.window)));
        let mut tasks = JoinSet::new();
        for (number, link) in (0..self.connections).zip(links) {
            let keys = Keys::of_connection(number, self.n_keys);
            let question = Question {
                target: target.clone(),
                operation: self.operation,
                value: self.value.clone(),
            };
            let recorder = recorder.clone();
            tasks.spawn_local(async move { drive(link, &question, keys, &recorder).await });
        }
        let all = async { while tasks.join_next().await.is_some() {} };
        let timeout = self.window.warm_up + self.window.length + STALL_TIMEOUT;
        if tokio::time::timeout(timeout, all).await.is_err() {
            return Err(Failure::new(format!(
                "{} of {} connections got no answer for {STALL_TIMEOUT:?}",
                tasks.len(),
                self.connections,
            )));
        }
        let recorder = Rc::into_inner(recorder).expect("every task that shared it has ended");
        recorder.into_inner().finish()
    }
}

/// What one connection asks for.
struct Question {
    target: Target,
    operation: Operation,
    value: Bytes,
}

impl Question {
    /// Asks once; an error says what was wrong with the answer, and whether there was one at all.
    async fn ask(
        &self,
        sender: &mut SendRequest<Full<Bytes>>,
        key: u64,
    ) -> Result<(), (Answered, String)> {
        let (method, expected, body) = match self.operation {
            Operation::Put => (Method::PUT, StatusCode::NO_CONTENT, self.value.clone()),
            Operation::Get => (Method::GET, StatusCode::OK, Bytes::new()),
        };
        let name = method.clone();
        let cut = |error: hyper::Error| (Answered::No, format!("{name}: {error}"));
        let request = self.target.request(method.clone(), path(key), body);
        let mut response = sender.send_request(request).await.map_err(cut)?;
        if response.status() != expected {
            return Err((Answered::Yes, describe(&name, response).await));
        }
        if self.operation == Operation::Get {
            // The next request waits until this body is read, so it is, and costs no allocation.
            let mut n_bytes = 0;
            while let Some(frame) = response.body_mut().frame().await {
                n_bytes += frame.map_err(cut)?.data_ref().map_or(0, Bytes::len);
            }
            if n_bytes != self.value.len() {
                let wanted = self.value.len();
                return Err((Answered::Yes, format!("GET gave {n_bytes} bytes, not {wanted}")));
            }
        }
        Ok(())
    }
}

/// Whether a connection can be asked again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answered {
    Yes,
    No,
}

fn path(key: u64) -> String {
    format!("/k{key:08}")
}

/// Asks on one connection until the round is over or the connection is.
async fn drive(
    (mut sender, connection): Link,
    question: &Question,
    mut keys: Keys,
    recorder: &RefCell<Recorder>,
) {
    let asking = async {
        let mut sent = Instant::now();
        loop {
            let answer = question.ask(&mut sender, keys.pick()).await;
            let now = Instant::now();
            let goes_on = match answer {
                Ok(()) => recorder.borrow_mut().succeeded(sent, now),
                Err((answered, reason)) => {
                    recorder.borrow_mut().failed(now, || reason) && answered == Answered::Yes
                }
            };
            if !goes_on {
                break;
            }
            sent = now;
        }
    };
    until_closed(connection, asking).await;
}

/// Writes these keys one after the other, and waits until the last can be read.
async fn fill_share(
    (mut sender, connection): Link,
    target: &Target,
    value: Bytes,
    keys: impl Iterator<Item = u64>,
) -> Result<(), Failure> {
    let failed = |(_, reason)| Failure::new(format!("cannot fill: {reason}"));
    let put = Question { target: target.clone(), operation: Operation::Put, value: value.clone() };
    let get = Question { target: target.clone(), operation: Operation::Get, value };
    let filling = async {
        let mut last = None;
        for key in keys {
            put.ask(&mut sender, key).await.map_err(failed)?;
            last = Some(key);
        }
        let Some(last) = last else { return Ok(()) };
        let deadline = Instant::now() + QUESTION_TIMEOUT;
        loop {
            match get.ask(&mut sender, last).await {
                Ok(()) => return Ok(()),
                Err((Answered::Yes, _)) if Instant::now() < deadline => {
                    tokio::time::sleep(FILLED_POLL).await;
                }
                Err(error) => return Err(failed(error)),
            }
        }
    };
    until_closed(connection, filling).await
}

/// Runs what uses a connection beside the connection itself.
async fn until_closed<T>(
    connection: Connection<TokioIo<TcpStream>, Full<Bytes>>,
    using: impl Future<Output = T>,
) -> T {
    let mut using = pin!(using);
    tokio::select! {
        biased;
        done = &mut using => done,
        // It ends when the server closes it; the request under way then learns that.
        _ = connection => using.await,
    }
}

async fn describe(method: &Method, response: Response<Incoming>) -> String {
    let status = response.status();
    let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await;
    // The status says enough when the body cannot be had.
    let body = body.map(|body| body.to_bytes()).unwrap_or_default();
    format!("{method} answered {status} {}", String::from_utf8_lossy(&body))
}
