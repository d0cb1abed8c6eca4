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
mod metrics;
mod patience;
mod route;
mod server;
mod view;

use std::future::Future;
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use hyper::header::EXPECT;
use hyper::{Request, StatusCode};
use raftnode::membership::{self, Change, ChangeOptions, Changed, MemberRole};
use raftnode::{Consistency, Handle, Outcome, Read, SnapshotTaken, Unknown};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::time::timeout_at;

pub use metrics::Metrics;
pub use server::{Server, ServerLimits};

use crate::command;
use crate::kvstore::Store;
use answer::{Answer, Fault};
use route::{Ack, Route};
use view::{Members, Overview};

/// How much longer than the node the client port waits for the node's own answer, which says
/// more than a timeout here could.
pub const GRACE: Duration = Duration::from_secs(1);

/// The longest body of a membership call: one URL, with an id and a role around it.
const MAX_MEMBER_BYTES: u64 = 4096;

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
    /// What is counted, and shown to scrapers.
    pub metrics: Metrics,
}

/// The body of `POST /_members`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewMember {
    id: u64,
    url: String,
    #[serde(default)]
    role: WantedRole,
}

/// The body of `PATCH /_members/<id>`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MemberPatch {
    role: Option<WantedRole>,
    url: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "lowercase")]
enum WantedRole {
    #[default]
    Voter,
    Learner,
}

impl From<WantedRole> for MemberRole {
    fn from(role: WantedRole) -> Self {
        match role {
            WantedRole::Voter => MemberRole::Voter,
            WantedRole::Learner => MemberRole::Learner,
        }
    }
}

impl Api {
    async fn serve(&self, request: Request<Incoming>) -> Answer {
        let start = Instant::now();
        let deadline = start + self.request_timeout;
        let (head, mut body) = request.into_parts();
        let announced = body.size_hint().exact();
        let routed = route::route(&head.method, head.uri.path(), head.uri.query());
        let name = routed.as_ref().map_or("none", Route::name);
        // One who asked whether to go on sends a body only when somebody begins to read it.
        let limit = routed.as_ref().ok().and_then(|route| self.body_limit(route));
        let begun = limit.is_some_and(|limit| announced.is_none_or(|bytes| bytes <= limit));
        let awaited = begun || !head.headers.contains_key(EXPECT);
        let answered = match routed {
            Err(fault) => Err(fault),
            Ok(route) => self.answer(route, &mut body, deadline).await,
        };
        // Closing a socket that holds unread bytes resets it, and the answer may be lost with
        // it.
        if !body.is_end_stream() && awaited {
            let closes = answered.as_ref().is_err_and(Fault::closes);
            let limit = if closes { u64::MAX } else { self.max_value_bytes };
            tokio::spawn(discard(body, limit));
        }
        let answer = answered.unwrap_or_else(|fault| fault.answer(|| self.handle.status()));
        self.metrics.answered(name, answer.status(), start.elapsed());
        answer
    }

    /// How long a body may be; `None` when none is read.
    fn body_limit(&self, route: &Route<'_>) -> Option<u64> {
        match route {
            Route::Put { .. } => Some(self.max_value_bytes),
            Route::AddMember { .. } | Route::PostMember { .. } | Route::PatchMember { .. } => {
                Some(MAX_MEMBER_BYTES)
            }
            _ => None,
        }
    }

    async fn answer(
        &self,
        route: Route<'_>,
        body: &mut Incoming,
        deadline: Instant,
    ) -> Result<Answer, Fault> {
        match route {
            Route::Put { key, ack } => self.put(&key, ack, body, deadline).await,
            Route::Get { key, consistency, min_index } => {
                self.get(&key, consistency, min_index, deadline).await
            }
            Route::AddMember { id, options } => {
                let url = self.read_text(body, deadline).await?;
                let add = Change::Add { id, url: peer_url(&url)?, wants: MemberRole::Voter };
                self.change(add, options, deadline).await
            }
            Route::PostMember { options } => {
                let NewMember { id, url, role } = self.read_json(body, deadline).await?;
                if id == 0 {
                    return Err(Fault::malformed("bad id (not a u64 > 0)"));
                }
                let add = Change::Add { id, url: peer_url(&url)?, wants: role.into() };
                self.change(add, options, deadline).await
            }
            Route::PatchMember { id, options } => {
                let MemberPatch { role, url } = self.read_json(body, deadline).await?;
                if role.is_none() && url.is_none() {
                    return Err(Fault::malformed("the body has neither a role nor a url"));
                }
                let url = url.as_deref().map(peer_url).transpose()?;
                let update = Change::Update { id, wants: role.map(MemberRole::from), url };
                self.change(update, options, deadline).await
            }
            Route::RemoveMember { id, options } => {
                self.change(Change::Remove { id }, options, deadline).await
            }
            Route::Members => Ok(self.members()),
            Route::Snapshot => self.snapshot(deadline).await,
            Route::Metrics => Ok(answer::metrics(self.metrics.text())),
            Route::Status => Ok(self.status()),
            Route::Health => self.health(),
            Route::Ready => self.ready(),
            Route::Version => Ok(version()),
        }
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
            #[cfg(feature = "defects")]
            Outcome::Unknown(Unknown::Appended) => Ok(answer::accepted()),
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

    async fn change(
        &self,
        change: Change,
        options: ChangeOptions,
        deadline: Instant,
    ) -> Result<Answer, Fault> {
        let pending = self.handle.change(change, options, deadline)?;
        let changed = patiently(deadline, pending.into_future()).await;
        match changed.unwrap_or(Changed::Unknown(Unknown::Deadline)) {
            Changed::Done { book, .. } if options.dry_run => {
                let left = Members::new(&book, &self.handle.status());
                Ok(answer::json(StatusCode::OK, &left))
            }
            Changed::Done { index, term, .. } => {
                // The leader has applied it. Whoever asks this member next shall see it too; that
                // this member may be the one that was removed is no reason not to answer.
                if let Ok(here) = self.handle.read(Consistency::Stale, index, deadline) {
                    patiently(deadline, here.into_future()).await;
                }
                Ok(answer::applied(index, term))
            }
            Changed::Refused(refusal) => Err(refusal.into()),
            Changed::Unknown(_) => Err(Fault::unknown_change()),
        }
    }

    async fn snapshot(&self, deadline: Instant) -> Result<Answer, Fault> {
        #[derive(Serialize)]
        struct Body {
            index: u64,
            term: u64,
        }
        let pending = self.handle.snapshot(deadline)?;
        match patiently(deadline, pending.into_future()).await {
            Some(SnapshotTaken::Taken { index, term }) => {
                Ok(answer::json(StatusCode::OK, &Body { index, term }))
            }
            Some(SnapshotTaken::Refused(refusal)) => Err(refusal.into()),
            None => Err(Fault::unavailable("the snapshot was not taken in time")),
        }
    }

    async fn read_text(&self, body: &mut Incoming, deadline: Instant) -> Result<String, Fault> {
        let bytes = self.read(body, MAX_MEMBER_BYTES, BytesMut::with_capacity, deadline).await?;
        String::from_utf8(bytes.into()).map_err(|_| Fault::malformed("the body is not UTF-8"))
    }

    /// Refuses what it does not know: a misspelt role must not become the default one.
    async fn read_json<T: DeserializeOwned>(
        &self,
        body: &mut Incoming,
        deadline: Instant,
    ) -> Result<T, Fault> {
        let text = self.read_text(body, deadline).await?;
        let wrong = |error: &dyn std::fmt::Display| {
            Fault::malformed(format!("the body is not as expected: {error}"))
        };
        // An array would be taken for the values of an object's fields, in order.
        if text.trim_start().starts_with('[') {
            return Err(wrong(&"an object was expected"));
        }
        serde_json::from_str(&text).map_err(|error| wrong(&error))
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

    fn members(&self) -> Answer {
        let status = self.handle.status();
        answer::json(StatusCode::OK, &Members::new(&status.book, &status))
    }

    fn status(&self) -> Answer {
        let applied_index = self.store.load().applied_index;
        answer::json(StatusCode::OK, &Overview::new(self.handle.status(), applied_index))
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

/// Normalised, so that the same place is always written in the same way.
fn peer_url(text: &str) -> Result<String, Fault> {
    let wrong = |what| Fault::malformed(format!("bad URL: {what}"));
    membership::peer_url(text.trim()).map_err(wrong)
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
