//! What goes back: faults as JSON, and the headers that say which state was seen.

use std::borrow::Cow;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ALLOW, CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};
use raftnode::membership::{ChangeRefusal, ChangeRefusalKind};
use raftnode::{Consistency, Refusal, Status, Unknown};
use serde::Serialize;

/// Every body is in memory, whole.
pub(super) type Answer = Response<Full<Bytes>>;

const X_RAFT_INDEX: HeaderName = HeaderName::from_static("x-raft-index");
const X_RAFT_TERM: HeaderName = HeaderName::from_static("x-raft-term");
const X_RAFT_APPLIED_INDEX: HeaderName = HeaderName::from_static("x-raft-applied-index");
const X_RAFT_CONSISTENCY: HeaderName = HeaderName::from_static("x-raft-consistency");
const X_RAFT_LEADER: HeaderName = HeaderName::from_static("x-raft-leader");

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const OPEN_METRICS: HeaderValue =
    HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
const BYTES: HeaderValue = HeaderValue::from_static("application/octet-stream");

/// When to come back after a 503: an election takes about a second.
const RETRY_SECONDS: HeaderValue = HeaderValue::from_static("1");

/// Why a request has no better answer.
#[derive(Debug)]
pub(super) struct Fault {
    status: StatusCode,
    kind: &'static str,
    message: Cow<'static, str>,
    allow: Option<&'static str>,
    /// Whether the rest of the request is not worth reading.
    closes: bool,
}

impl Fault {
    pub(super) fn new(
        status: StatusCode,
        kind: &'static str,
        message: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self { status, kind, message: message.into(), allow: None, closes: false }
    }

    pub(super) fn malformed(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "malformed", message)
    }

    pub(super) fn not_found(message: &'static str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", message)
    }

    pub(super) fn method_not_allowed(allow: &'static str) -> Self {
        let message = format!("only {allow} are understood here");
        let fault = Self::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message);
        Self { allow: Some(allow), ..fault }
    }

    pub(super) fn too_large(limit: u64) -> Self {
        let message = format!("the body is larger than {limit} bytes");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message).closing()
    }

    pub(super) fn unavailable(message: &'static str) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", message)
    }

    pub(super) fn unknown(unknown: Unknown) -> Self {
        let message = format!("{unknown}; it may or may not be applied");
        Self::new(StatusCode::GATEWAY_TIMEOUT, "unknown", message)
    }

    pub(super) fn unknown_change() -> Self {
        let message = "nobody can say yet whether the change is made; GET /_members tells";
        Self::new(StatusCode::GATEWAY_TIMEOUT, "unknown", message)
    }

    pub(super) fn closing(self) -> Self {
        Self { closes: true, ..self }
    }

    #[cfg(test)]
    pub(super) fn status(&self) -> StatusCode {
        self.status
    }

    pub(super) fn closes(&self) -> bool {
        self.closes
    }

    /// The answer. `status` is asked for when the fault may be over elsewhere or later.
    pub(super) fn answer(self, status: impl FnOnce() -> Status) -> Answer {
        #[derive(Serialize)]
        struct Body<'a> {
            error: &'a str,
            message: &'a str,
        }
        let mut answer = json(self.status, &Body { error: self.kind, message: &self.message });
        let headers = answer.headers_mut();
        if let Some(allow) = self.allow {
            headers.insert(ALLOW, HeaderValue::from_static(allow));
        }
        if self.closes {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(RETRY_AFTER, RETRY_SECONDS);
            if let Some(leader) = leader(&status()) {
                headers.insert(X_RAFT_LEADER, leader);
            }
        }
        answer
    }
}

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Self {
        let unavailable = StatusCode::SERVICE_UNAVAILABLE;
        let (status, kind) = match refusal {
            Refusal::NoLeader => (unavailable, "no_leader"),
            Refusal::Overloaded => (unavailable, "overloaded"),
            Refusal::Superseded | Refusal::NotLeader => (unavailable, "refused"),
            Refusal::ShuttingDown => (unavailable, "shutting_down"),
            Refusal::Unavailable => (unavailable, "unavailable"),
            Refusal::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "too_large"),
            Refusal::MinIndex | Refusal::Empty => (StatusCode::BAD_REQUEST, "malformed"),
        };
        let fault = Self::new(status, kind, refusal.to_string());
        // Whoever hears that the member stops should not ask it again on this connection.
        if refusal == Refusal::ShuttingDown { fault.closing() } else { fault }
    }
}

impl From<ChangeRefusal> for Fault {
    fn from(refusal: ChangeRefusal) -> Self {
        use ChangeRefusalKind as Kind;
        let (status, kind) = match refusal.kind {
            Kind::Invalid => (StatusCode::BAD_REQUEST, "malformed"),
            Kind::OtherIncarnation => (StatusCode::FORBIDDEN, "other_incarnation"),
            Kind::NotFound => (StatusCode::NOT_FOUND, "not_found"),
            Kind::Pending => (StatusCode::CONFLICT, "pending_change"),
            Kind::Unsafe => (StatusCode::CONFLICT, "unsafe_change"),
            Kind::Conflict => (StatusCode::CONFLICT, "conflict"),
            Kind::Removed => (StatusCode::GONE, "removed"),
            Kind::NoLeader => (StatusCode::SERVICE_UNAVAILABLE, "no_leader"),
            Kind::Overloaded => (StatusCode::SERVICE_UNAVAILABLE, "overloaded"),
            Kind::ShuttingDown => (StatusCode::SERVICE_UNAVAILABLE, "shutting_down"),
            Kind::Failed => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
        };
        let fault = Self::new(status, kind, refusal.message);
        if refusal.kind == Kind::ShuttingDown { fault.closing() } else { fault }
    }
}

/// `<id> <client url>`, when both are known.
fn leader(status: &Status) -> Option<HeaderValue> {
    let url = status.client_urls.get(&status.leader_id).filter(|url| !url.is_empty())?;
    HeaderValue::try_from(format!("{} {url}", status.leader_id)).ok()
}

/// A write is accepted, and nothing more is known.
pub(super) fn accepted() -> Answer {
    let mut answer = Response::new(Full::default());
    *answer.status_mut() = StatusCode::NO_CONTENT;
    answer
}

/// A write is applied.
pub(super) fn applied(index: u64, term: u64) -> Answer {
    let mut answer = accepted();
    let headers = answer.headers_mut();
    headers.insert(X_RAFT_INDEX, index.into());
    headers.insert(X_RAFT_TERM, term.into());
    answer
}

/// What a key holds.
pub(super) fn bytes(bytes: Bytes) -> Answer {
    let mut answer = Response::new(Full::new(bytes));
    answer.headers_mut().insert(CONTENT_TYPE, BYTES);
    answer
}

/// What a scraper reads.
pub(super) fn metrics(text: String) -> Answer {
    let mut answer = Response::new(Full::new(text.into()));
    answer.headers_mut().insert(CONTENT_TYPE, OPEN_METRICS);
    answer
}

/// Says which state an answer was read from.
pub(super) fn with_state(
    mut answer: Answer,
    applied_index: u64,
    term: u64,
    consistency: Consistency,
) -> Answer {
    let consistency = match consistency {
        Consistency::Linearizable => "linearizable",
        Consistency::Leader => "leader",
        Consistency::Stale => "stale",
    };
    let headers = answer.headers_mut();
    headers.insert(X_RAFT_APPLIED_INDEX, applied_index.into());
    headers.insert(X_RAFT_TERM, term.into());
    headers.insert(X_RAFT_CONSISTENCY, HeaderValue::from_static(consistency));
    answer
}

/// A JSON body and a newline, for those who read it in a terminal.
pub(super) fn json(status: StatusCode, body: &impl Serialize) -> Answer {
    let mut text = serde_json::to_vec(body).expect("strings and numbers are always JSON");
    text.push(b'\n');
    let mut answer = Response::new(Full::new(text.into()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, JSON);
    answer
}
