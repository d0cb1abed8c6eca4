//! The client port: the original's verbs, with answers that can be trusted.
//!
//! A request is served where its connection is, without a task of its own: its body goes from
//! the socket's buffer straight into the command that is proposed, and a value from the store
//! straight into the answer.
//!
//! Invariants:
//! - H1 A 204 for a put without `?ack` means applied here, at the index in its headers.
//! - H2 A write that is answered 4xx or 503 changes nothing, and never will; 504 is the only
//!   answer that leaves it open. The log's own answer has `X-Raft-Index`, whatever it is; without
//!   it, the write is not in the log.
//! - H3 The headers of a read and its body come from one version of the store.
//! - H4 Every request is answered within the request timeout and [`GRACE`]; a watch begins by
//!   then.

mod answer;
mod crowd;
mod first_line;
mod intake;
mod kind;
mod kv;
mod leader;
mod members;
mod metrics;
mod patience;
mod places;
mod query;
mod route;
mod server;
pub(crate) mod text;
mod txn;
mod view;
mod wakes;
mod watch;

use std::future::Future;
use std::time::{Duration, Instant};

use hyper::body::Incoming;
use hyper::header::{CONNECTION, HeaderMap, HeaderName, HeaderValue};
use hyper::{Request, StatusCode};
use raftnode::SnapshotTaken;
use serde::Serialize;
use tokio::time::timeout_at;

pub use crowd::Crowd;
pub use intake::BodyBudget;
pub use kind::Kind;
pub use metrics::Metrics;
pub use route::{PATTERNS, Pattern};
pub use server::{Server, ServerLimits};

use crate::command::{Conditions, MAX_IDEMPOTENCY_KEY_BYTES};
use crate::kvstore::{Handle, Store};
use answer::{Answer, Fault};
use intake::{RequestBody, Share};
use route::Route;
use server::Line;
use view::Overview;

/// How much longer than the node the client port waits for the node's own answer, which says
/// more than a timeout here could. With what writing an answer takes, no request outlives its
/// deadline by more than 100 ms.
pub const GRACE: Duration = Duration::from_millis(50);

/// The port's description of itself, as a program reads it.
pub const OPENAPI: &str = include_str!("../../../openapi.yaml");

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// What requests are answered from.
#[derive(Debug)]
pub struct Api {
    /// The way into the log.
    pub handle: Handle,
    /// What is read.
    pub store: Store,
    /// What bounds every request but a watch.
    pub request_timeout: Duration,
    /// The largest value.
    pub max_value_bytes: u64,
    /// What bounds the memory of all bodies that are being read.
    pub bodies: BodyBudget,
    /// Who waits for the node.
    pub crowd: Crowd,
    /// How long the node's loop may be silent before it counts as stuck.
    pub stuck_after: Duration,
    /// How long a watcher hears nothing before it is told how far the store has come.
    pub watch_keep_alive: Duration,
    /// What is counted, and shown to scrapers.
    pub metrics: Metrics,
}

impl Api {
    /// Answers one request of a connection.
    async fn serve(&self, request: Request<Incoming>, line: &Line) -> Answer {
        let start = Instant::now();
        let deadline = start + self.request_timeout;
        let was_cut = line.was_cut(&request);
        let (head, body) = request.into_parts();
        let mut body = RequestBody::new(body, &head.headers);
        let routed = match was_cut {
            true => Err(Fault::malformed("a # in a request's target is written %23")),
            false => route::route(&head.method, head.uri.path(), head.uri.query()),
        };
        let name = routed.as_ref().map_or("none", Route::name);
        let mut discarded = self.max_value_bytes;
        let answered = match routed {
            Err(fault) => Err(fault),
            Ok(route) => {
                if let Route::Txn { .. } = route {
                    discarded = txn::MAX_BYTES;
                }
                self.answer(route, &head.headers, &mut body, line, deadline).await
            }
        };
        if answered.as_ref().is_err_and(Fault::closes) {
            discarded = u64::MAX;
        }
        let refused_unseen = body.is_held_back();
        body.discard(discarded);
        let mut answer = answered.unwrap_or_else(|fault| {
            if fault.is_overload() {
                line.refused(start);
            }
            fault.answer(|| self.handle.node().status())
        });
        if refused_unseen {
            // Whether that body still comes only its sender knows: nothing behind it can be read,
            // and a request that is sent into a closing connection has no known outcome.
            answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        self.metrics.answered(name, answer.status(), start.elapsed());
        answer
    }

    async fn answer(
        &self,
        route: Route<'_>,
        headers: &HeaderMap,
        body: &mut RequestBody,
        line: &Line,
        deadline: Instant,
    ) -> Result<Answer, Fault> {
        match route {
            Route::Put { key, cas, ack } => {
                let conditions = Conditions { idempotency_key: idempotency_key(headers)?, cas };
                self.put(&key, conditions, ack, body, line, deadline).await
            }
            Route::Get { key, view } => self.get(&key, view, line, deadline).await,
            Route::Delete { key, cas, ack } => {
                let conditions = Conditions { idempotency_key: idempotency_key(headers)?, cas };
                self.delete(&key, conditions, ack, line, deadline).await
            }
            Route::List { prefix, after, limit, view } => {
                self.list(&prefix, after.as_deref(), limit, view, line, deadline).await
            }
            Route::Txn { ack } => {
                self.txn(idempotency_key(headers)?, ack, body, line, deadline).await
            }
            Route::Watch { prefix, from_index } => {
                self.watch(&prefix, from_index, headers, line, deadline).await
            }
            Route::AddMember { id, options } => self.add_member(id, options, body, deadline).await,
            Route::PostMember { options } => self.post_member(options, body, deadline).await,
            Route::PatchMember { id, options } => {
                self.patch_member(id, options, body, deadline).await
            }
            Route::RemoveMember { id, options } => self.remove_member(id, options, deadline).await,
            Route::Members => Ok(self.members()),
            Route::Leader => self.leader(),
            Route::Transfer { to } => self.transfer(to, deadline).await,
            Route::Snapshot => self.snapshot(deadline).await,
            Route::Metrics => Ok(answer::metrics(self.metrics.text())),
            Route::Status => Ok(self.status()),
            Route::Stats => Ok(self.stats()),
            Route::Health => self.health(),
            Route::Ready => self.ready(),
            Route::Version => Ok(version()),
            Route::OpenApi => Ok(answer::yaml(OPENAPI)),
        }
    }

    /// Refuses a write's body before any of it is read when there is no room for it, here or in
    /// the node.
    fn admit_write(&self, body: &RequestBody, limit: u64) -> Result<Share<'_>, Fault> {
        let share = body.admit(limit, &self.bodies)?;
        if self.handle.node().is_overloaded(body.announced().unwrap_or(0)) {
            return Err(raftnode::Refusal::Overloaded.into());
        }
        Ok(share)
    }

    async fn snapshot(&self, deadline: Instant) -> Result<Answer, Fault> {
        #[derive(Serialize)]
        struct Body {
            index: u64,
            term: u64,
        }
        let pending = self.handle.node().snapshot(deadline)?;
        match patiently(deadline, pending.into_future()).await {
            Some(SnapshotTaken::Taken { index, term }) => {
                Ok(answer::json(StatusCode::OK, &Body { index, term }))
            }
            Some(SnapshotTaken::Refused(refusal)) => Err(refusal.into()),
            None => Err(Fault::unavailable("the snapshot was not taken in time")),
        }
    }

    fn status(&self) -> Answer {
        let applied_index = self.store.applied_index();
        answer::json(StatusCode::OK, &Overview::new(self.handle.node().status(), applied_index))
    }

    fn health(&self) -> Result<Answer, Fault> {
        #[derive(Serialize)]
        struct Body {
            healthy: bool,
        }
        if self.handle.node().last_turn_age() > self.stuck_after {
            return Err(Fault::unavailable("the node's loop is stuck"));
        }
        Ok(answer::json(StatusCode::OK, &Body { healthy: true }))
    }

    fn ready(&self) -> Result<Answer, Fault> {
        #[derive(Serialize)]
        struct Body {
            ready: bool,
        }
        let status = self.handle.node().status();
        if status.ready {
            Ok(answer::json(StatusCode::OK, &Body { ready: true }))
        } else if status.leader_id == 0 {
            Err(leader::nobody_leads())
        } else {
            Err(Fault::unavailable("this member is still catching up"))
        }
    }
}

/// What makes a write safe to repeat.
fn idempotency_key(headers: &HeaderMap) -> Result<Option<&[u8]>, Fault> {
    let mut values = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Fault::malformed("the request has Idempotency-Key twice"));
    }
    match value.len() {
        1..=MAX_IDEMPOTENCY_KEY_BYTES => Ok(Some(value.as_bytes())),
        length => Err(Fault::malformed(format!(
            "Idempotency-Key has {length} bytes; it has 1 to {MAX_IDEMPOTENCY_KEY_BYTES}"
        ))),
    }
}

fn version() -> Answer {
    #[derive(Serialize)]
    struct Body {
        version: &'static str,
    }
    answer::json(StatusCode::OK, &Body { version: crate::cli::VERSION })
}

/// The node's answer, unless it is overdue.
async fn patiently<T>(deadline: Instant, answer: impl Future<Output = T>) -> Option<T> {
    timeout_at((deadline + GRACE).into(), answer).await.ok()
}
