//! What goes back: faults as JSON, and the headers that say which state was seen.

use std::borrow::Cow;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Frame, SizeHint};
use hyper::header::{ALLOW, CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};
use raftnode::membership::ChangeRefusal;
use raftnode::{Consistency, Refusal, Stage, Status, Unknown};
use serde::Serialize;

use super::kind::Kind;
use super::watch::Feed;

/// What a request is answered with.
pub(super) type Answer = Response<Body>;

/// The body of an answer: whole, but for a watch.
pub(super) enum Body {
    Full(Full<Bytes>),
    Watch(Feed),
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match self.get_mut() {
            Body::Full(full) => Pin::new(full).poll_frame(context),
            Body::Watch(feed) => feed.poll(context).map(|event| event.map(|e| Ok(Frame::data(e)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Body::Full(full) => full.is_end_stream(),
            Body::Watch(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Body::Full(full) => full.size_hint(),
            Body::Watch(_) => SizeHint::default(),
        }
    }
}

const X_RAFT_INDEX: HeaderName = HeaderName::from_static("x-raft-index");
const X_RAFT_TERM: HeaderName = HeaderName::from_static("x-raft-term");
const X_RAFT_MOD_INDEX: HeaderName = HeaderName::from_static("x-raft-mod-index");
const X_RAFT_APPLIED_INDEX: HeaderName = HeaderName::from_static("x-raft-applied-index");
const X_RAFT_CONSISTENCY: HeaderName = HeaderName::from_static("x-raft-consistency");
const X_RAFT_LEADER: HeaderName = HeaderName::from_static("x-raft-leader");

const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const OPEN_METRICS: HeaderValue =
    HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
const BYTES: HeaderValue = HeaderValue::from_static("application/octet-stream");
const YAML: HeaderValue = HeaderValue::from_static("application/yaml");
const EVENTS: HeaderValue = HeaderValue::from_static("text/event-stream");

/// When to come back after a 503: an election takes about a second.
const RETRY_SECONDS: HeaderValue = HeaderValue::from_static("1");

/// Why a request has no better answer.
#[derive(Debug)]
pub(super) struct Fault {
    kind: Kind,
    message: Cow<'static, str>,
    allow: Option<&'static str>,
    /// Whether the rest of the request is not worth reading.
    closes: bool,
}

impl Fault {
    pub(super) fn new(kind: Kind, message: impl Into<Cow<'static, str>>) -> Self {
        Self { kind, message: message.into(), allow: None, closes: false }
    }

    pub(super) fn malformed(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Kind::Malformed, message)
    }

    pub(super) fn not_found(message: &'static str) -> Self {
        Self::new(Kind::NotFound, message)
    }

    pub(super) fn method_not_allowed(allow: &'static str) -> Self {
        let message = format!("this place understands {allow}, and nothing else");
        Self { allow: Some(allow), ..Self::new(Kind::MethodNotAllowed, message) }
    }

    /// For a body that nobody reads to its end.
    pub(super) fn body_too_large(limit: u64) -> Self {
        Self::new(Kind::TooLarge, format!("the body is larger than {limit} bytes")).closing()
    }

    pub(super) fn unavailable(message: &'static str) -> Self {
        Self::new(Kind::Unavailable, message)
    }

    pub(super) fn unknown(unknown: Unknown) -> Self {
        Self::new(Kind::Unknown, format!("{unknown}; it may or may not be applied"))
    }

    pub(super) fn unknown_change() -> Self {
        let message = "nobody can say yet whether the change is made; GET /_members tells";
        Self::new(Kind::Unknown, message)
    }

    pub(super) fn closing(self) -> Self {
        Self { closes: true, ..self }
    }

    #[cfg(test)]
    pub(super) fn kind(&self) -> Kind {
        self.kind
    }

    #[cfg(test)]
    pub(super) fn message(&self) -> &str {
        &self.message
    }

    pub(super) fn closes(&self) -> bool {
        self.closes
    }

    /// Whether this member has too much to do.
    pub(super) fn is_overload(&self) -> bool {
        self.kind == Kind::Overloaded
    }

    /// The answer. `status` is asked for when the fault may be over elsewhere or later.
    pub(super) fn answer(self, status: impl FnOnce() -> Status) -> Answer {
        let code = self.kind.status_code();
        let mut answer = json(code, &ErrorBody::new(self.kind, &self.message));
        let headers = answer.headers_mut();
        if let Some(allow) = self.allow {
            headers.insert(ALLOW, HeaderValue::from_static(allow));
        }
        if self.closes {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        if code == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(RETRY_AFTER, RETRY_SECONDS);
            if let Some(leader) = leader(&status()) {
                headers.insert(X_RAFT_LEADER, leader);
            }
        }
        answer
    }

    /// The answer to what the log itself said no to: it has an index, and no other member can
    /// help.
    pub(super) fn at(self, index: u64, term: u64) -> Answer {
        applied_headers(self.answer(Default::default), index, term)
    }
}

/// What every error's body holds.
#[derive(Serialize)]
pub(super) struct ErrorBody<'a> {
    error: &'static str,
    message: &'a str,
}

impl<'a> ErrorBody<'a> {
    pub(super) fn new(kind: Kind, message: &'a str) -> Self {
        Self { error: kind.name(), message }
    }
}

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Self {
        let fault = Self::new(refusal.into(), refusal.to_string());
        // Whoever hears that the member stops should not ask it again on this connection.
        if fault.kind == Kind::ShuttingDown { fault.closing() } else { fault }
    }
}

impl From<ChangeRefusal> for Fault {
    fn from(refusal: ChangeRefusal) -> Self {
        let fault = Self::new(refusal.kind.into(), refusal.message);
        if fault.kind == Kind::ShuttingDown { fault.closing() } else { fault }
    }
}

/// `<id> <client url>`, when both are known.
pub(super) fn leader(status: &Status) -> Option<HeaderValue> {
    let url = status.client_urls.get(&status.leader_id).filter(|url| !url.is_empty())?;
    HeaderValue::try_from(format!("{} {url}", status.leader_id)).ok()
}

/// Done, and there is nothing to say about it; or a write is accepted, and nothing more is known.
pub(super) fn no_content() -> Answer {
    let mut answer = Response::new(Body::Full(Full::default()));
    *answer.status_mut() = StatusCode::NO_CONTENT;
    answer
}

/// A write is applied.
pub(super) fn applied(index: u64, term: u64) -> Answer {
    applied_headers(no_content(), index, term)
}

/// Says where in the log an answer comes from.
pub(super) fn applied_headers(mut answer: Answer, index: u64, term: u64) -> Answer {
    let headers = answer.headers_mut();
    headers.insert(X_RAFT_INDEX, number(index));
    headers.insert(X_RAFT_TERM, number(term));
    answer
}

/// Its digits, in one allocation: `HeaderValue::from` takes two.
fn number(n: u64) -> HeaderValue {
    let mut digits = itoa::Buffer::new();
    HeaderValue::from_str(digits.format(n)).expect("digits are plain ASCII")
}

/// Says which write a key has its value from; 0 when it has none.
pub(super) fn with_mod_index(mut answer: Answer, mod_index: u64) -> Answer {
    answer.headers_mut().insert(X_RAFT_MOD_INDEX, number(mod_index));
    answer
}

/// Says where a write's time went, in the milliseconds that Server-Timing has.
pub(super) fn with_stages(mut answer: Answer, stages: &[(Stage, Duration)]) -> Answer {
    let stages = stages.iter().map(|(stage, took)| {
        let milliseconds = took.as_secs_f64() * 1e3;
        format!("{};dur={milliseconds:.3}", stage.name())
    });
    let text = stages.collect::<Vec<_>>().join(", ");
    let value = HeaderValue::try_from(text).expect("names and numbers are plain ASCII");
    answer.headers_mut().insert(SERVER_TIMING, value);
    answer
}

/// What a key holds.
pub(super) fn bytes(bytes: Bytes) -> Answer {
    full(bytes, BYTES)
}

/// What a scraper reads.
pub(super) fn metrics(text: String) -> Answer {
    full(text.into(), OPEN_METRICS)
}

/// What a program reads about this port.
pub(super) fn yaml(text: &'static str) -> Answer {
    full(Bytes::from_static(text.as_bytes()), YAML)
}

fn full(body: Bytes, content_type: HeaderValue) -> Answer {
    let mut answer = Response::new(Body::Full(Full::new(body)));
    answer.headers_mut().insert(CONTENT_TYPE, content_type);
    answer
}

/// Events, as they happen.
pub(super) fn events(feed: Feed) -> Answer {
    let mut answer = Response::new(Body::Watch(feed));
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, EVENTS);
    // An event that waits in somebody's cache is late, and an old one is wrong.
    headers.insert(hyper::header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
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
    headers.insert(X_RAFT_APPLIED_INDEX, number(applied_index));
    headers.insert(X_RAFT_TERM, number(term));
    headers.insert(X_RAFT_CONSISTENCY, HeaderValue::from_static(consistency));
    answer
}

/// A JSON body and a newline, for those who read it in a terminal.
pub(super) fn json(status: StatusCode, body: &impl Serialize) -> Answer {
    let mut text = serde_json::to_vec(body).expect("strings and numbers are always JSON");
    text.push(b'\n');
    let mut answer = full(text.into(), JSON);
    *answer.status_mut() = status;
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Clients parse these: they are what `Display` writes.
    #[test]
    fn numbers_are_decimal() {
        let numbers = [0, 1, 9, 10, 99, 100, 1 << 32, u64::MAX - 1, u64::MAX];
        for n in numbers {
            assert_eq!(number(n), n.to_string());
        }
    }
}
