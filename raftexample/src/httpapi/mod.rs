//! The client port: the original's verbs, with answers that can be trusted.
//!
//! A request is served where its connection is, without a task of its own: its body goes from
//! the socket's buffer straight into the command that is proposed, and a value from the store
//! straight into the answer.
//!
//! Invariants:
//! - H1 A 204 for a put without `?ack` means applied here, at the index in its headers.
//! - H2 A put that is answered 4xx or 503 is not, and never will be, in the log; 504 is the only
//!   answer that leaves it open.
//! - H3 The headers of a read and its body come from one version of the store.
//! - H4 Every request is answered within the request timeout and [`GRACE`].

mod answer;
mod patience;
mod route;
mod server;

use std::future::Future;
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use hyper::header::EXPECT;
use hyper::{Request, StatusCode};
use raftnode::{Consistency, Handle, Outcome, Read, Unknown, membership};
use serde::Serialize;
use tokio::time::timeout_at;

pub use server::{Server, ServerLimits};

use crate::command;
use crate::kvstore::Store;
use answer::{Answer, Fault};
use route::{Ack, Route};

/// How much longer than the node the client port waits for the node's own answer, which says
/// more than a timeout here could.
pub const GRACE: Duration = Duration::from_secs(1);

/// The longest body of a membership call: one URL.
const MAX_URL_BYTES: u64 = 4096;

/// How long an unwanted body is read on, so that its sender gets to reading the answer.
const LINGER: Duration = Duration::from_secs(2);

/// What requests are answered from.
#[derive(Debug)]
pub struct Api {
    /// The way into the node.
    pub handle: Handle,
    /// What is read.
    pub store: Store,
    /// What bounds every request.
    pub request_timeout: Duration,
    /// The largest value.
    pub max_value_bytes: u64,
    /// How long the node's loop may be silent before it counts as stuck.
    pub stuck_after: Duration,
}

impl Api {
    async fn serve(&self, request: Request<Incoming>) -> Answer {
        let deadline = Instant::now() + self.request_timeout;
        let (head, mut body) = request.into_parts();
        let announced = body.size_hint().exact();
        let routed = route::route(&head.method, head.uri.path(), head.uri.query());
        // One who asked whether to go on sends a body only when somebody begins to read it.
        let begun = match &routed {
            Ok(Route::Put { .. }) => announced.is_none_or(|bytes| bytes <= self.max_value_bytes),
            Ok(Route::AddMember { .. }) => announced.is_none_or(|bytes| bytes <= MAX_URL_BYTES),
            _ => false,
        };
        let awaited = begun || !head.headers.contains_key(EXPECT);
        let answered = match routed {
            Err(fault) => Err(fault),
            Ok(Route::Put { key, ack }) => self.put(&key, ack, &mut body, deadline).await,
            Ok(Route::Get { key, consistency, min_index }) => {
                self.get(&key, consistency, min_index, deadline).await
            }
            Ok(Route::AddMember { id }) => self.add_member(id, &mut body, deadline).await,
            Ok(Route::RemoveMember { id }) => Err(not_implemented(id)),
            Ok(Route::Status) => Ok(self.status()),
            Ok(Route::Health) => self.health(),
            Ok(Route::Ready) => self.ready(),
            Ok(Route::Version) => Ok(version()),
        };
        // Closing a socket that holds unread bytes resets it, and the answer may be lost with
        // it.
        if !body.is_end_stream() && awaited {
            let closes = answered.as_ref().is_err_and(Fault::closes);
            let limit = if closes { u64::MAX } else { self.max_value_bytes };
            tokio::spawn(discard(body, limit));
        }
        answered.unwrap_or_else(|fault| fault.answer(|| self.handle.status()))
    }

    async fn put(
        &self,
        key: &[u8],
        ack: Ack,
        body: &mut Incoming,
        deadline: Instant,
    ) -> Result<Answer, Fault> {
        let begin = |value_bytes| command::begin_put(key, value_bytes);
        let command = self.read(body, self.max_value_bytes, begin, deadline).await?;
        let pending = self.handle.propose(command, deadline)?;
        if ack == Ack::None {
            return Ok(answer::accepted());
        }
        let outcome = patiently(deadline, pending.into_future()).await;
        match outcome.unwrap_or(Outcome::Unknown(Unknown::Deadline)) {
            Outcome::Applied { index, term, .. } => Ok(answer::applied(index, term)),
            Outcome::Refused(refusal) => Err(refusal.into()),
            Outcome::Unknown(unknown) => Err(Fault::unknown(unknown)),
        }
    }

    async fn get(
        &self,
        key: &[u8],
        consistency: Consistency,
        min_index: u64,
        deadline: Instant,
    ) -> Result<Answer, Fault> {
        // Whatever is here will do for a stale read: the node need not be asked. While the log is
        // replayed nothing is here.
        let here = consistency == Consistency::Stale
            && self.store.load().applied_index >= min_index.max(1);
        if !here {
            let pending = self.handle.read(consistency, min_index, deadline)?;
            match patiently(deadline, pending.into_future()).await {
                Some(Read::Ready { .. }) => {}
                Some(Read::Refused(refusal)) => return Err(refusal.into()),
                None => return Err(Fault::unavailable("the node did not answer in time")),
            }
        }
        let version = self.store.load();
        let answer = match version.map.get(key) {
            Some(value) => answer::bytes(value.bytes.clone()),
            None => Fault::not_found("the key is not in the store").answer(Default::default),
        };
        Ok(answer::with_state(answer, version.applied_index, version.term, consistency))
    }

    async fn add_member(
        &self,
        id: u64,
        body: &mut Incoming,
        deadline: Instant,
    ) -> Result<Answer, Fault> {
        let url = self.read(body, MAX_URL_BYTES, BytesMut::with_capacity, deadline).await?;
        let url = std::str::from_utf8(&url).map_err(|_| Fault::malformed("bad URL (not UTF-8)"))?;
        membership::peer_url(url.trim())
            .map_err(|what| Fault::malformed(format!("bad URL: {what}")))?;
        Err(not_implemented(id))
    }

    /// Reads a body behind what `begin` gives for its expected length, up to `limit` bytes.
    async fn read(
        &self,
        body: &mut Incoming,
        limit: u64,
        begin: impl FnOnce(usize) -> BytesMut,
        deadline: Instant,
    ) -> Result<Bytes, Fault> {
        // Exact when the length was announced, 0 when it was not.
        let announced = body.size_hint().lower();
        if announced > limit {
            return Err(Fault::too_large(limit));
        }
        let mut bytes = begin(usize::try_from(announced).unwrap_or(0));
        let reading = async {
            let mut left = limit;
            while let Some(frame) = body.frame().await {
                let frame = frame.map_err(|error| {
                    Fault::malformed(format!("the body cannot be read: {error}")).closing()
                })?;
                let Ok(data) = frame.into_data() else { continue };
                left =
                    left.checked_sub(data.len() as u64).ok_or_else(|| Fault::too_large(limit))?;
                bytes.put(data);
            }
            Ok::<_, Fault>(())
        };
        match timeout_at(deadline.into(), reading).await {
            Ok(read) => read?,
            Err(_) => {
                let timeout = humantime::format_duration(self.request_timeout);
                let message = format!("the body did not arrive within {timeout}");
                return Err(Fault::malformed(message).closing());
            }
        }
        Ok(bytes.freeze())
    }

    fn status(&self) -> Answer {
        #[derive(Serialize)]
        struct Leader<'a> {
            id: u64,
            url: Option<&'a str>,
        }
        #[derive(Serialize)]
        struct Member<'a> {
            id: u64,
            url: &'a str,
            role: &'static str,
        }
        #[derive(Serialize)]
        struct Body<'a> {
            id: u64,
            cluster_id: String,
            role: &'static str,
            term: u64,
            leader: Option<Leader<'a>>,
            commit_index: u64,
            applied_index: u64,
            last_index: u64,
            snapshot_index: u64,
            members: Vec<Member<'a>>,
        }
        // The store may be ahead of what the loop last said of itself. What is applied is
        // committed, and what is committed is in the log.
        let applied_index = self.store.load().applied_index;
        let status = self.handle.status();
        let commit_index = status.commit_index.max(applied_index);
        let leader = (status.leader_id != 0).then(|| Leader {
            id: status.leader_id,
            url: status.client_urls.get(&status.leader_id).map(String::as_str),
        });
        let members = status.book.members.iter();
        let members = members.map(|(id, member)| Member {
            id: *id,
            url: &member.url,
            role: member.role.name(),
        });
        let body = Body {
            id: status.id,
            cluster_id: format!("{:016x}", status.cluster_id),
            role: status.role.name(),
            term: status.term,
            leader,
            commit_index,
            applied_index,
            last_index: status.last_index.max(commit_index),
            snapshot_index: status.snapshot_index,
            members: members.collect(),
        };
        answer::json(StatusCode::OK, &body)
    }

    fn health(&self) -> Result<Answer, Fault> {
        #[derive(Serialize)]
        struct Body {
            healthy: bool,
        }
        if self.handle.last_turn_age() > self.stuck_after {
            return Err(Fault::unavailable("the node's loop is stuck"));
        }
        Ok(answer::json(StatusCode::OK, &Body { healthy: true }))
    }

    fn ready(&self) -> Result<Answer, Fault> {
        #[derive(Serialize)]
        struct Body {
            ready: bool,
        }
        let status = self.handle.status();
        if status.ready {
            Ok(answer::json(StatusCode::OK, &Body { ready: true }))
        } else if status.leader_id == 0 {
            Err(Fault::new(StatusCode::SERVICE_UNAVAILABLE, "no_leader", "no leader is known"))
        } else {
            Err(Fault::unavailable("this member is still catching up"))
        }
    }
}

fn version() -> Answer {
    #[derive(Serialize)]
    struct Body {
        version: &'static str,
    }
    answer::json(StatusCode::OK, &Body { version: crate::cli::VERSION })
}

fn not_implemented(id: u64) -> Fault {
    let message = format!("changing member {id} comes with the next release");
    Fault::new(StatusCode::NOT_IMPLEMENTED, "not_implemented", message)
}

/// The node's answer, unless it is overdue.
async fn patiently<T>(deadline: Instant, answer: impl Future<Output = T>) -> Option<T> {
    timeout_at((deadline + GRACE).into(), answer).await.ok()
}

/// Reads on, for a while, what nobody wants.
async fn discard(mut body: Incoming, limit: u64) {
    let reading = async {
        let mut left = limit;
        while let Some(Ok(frame)) = body.frame().await {
            let length = frame.data_ref().map_or(0, Bytes::len) as u64;
            match left.checked_sub(length) {
                Some(rest) => left = rest,
                None => break,
            }
        }
    };
    // Whether it ended or was given up, the connection's own state says what is next.
    tokio::time::timeout(LINGER, reading).await.ok();
}
