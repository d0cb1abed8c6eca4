//! One-hop requests between members, opaque to the transport: what a follower asks of its leader.
//!
//! `POST /raft/call` with a head and up to 64 KiB; the answer is a head and what the other node
//! says. Nothing is repeated here: whoever calls is told whether the call was certainly not
//! taken, or may have been.
//!
//! Invariants:
//! - C1 Each call gets exactly one [`Inbound::Answered`], whatever ends it.
//! - C2 `NotSent` is certain: no byte of the body was written.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Body, Incoming};
use hyper::{Method, Request, StatusCode};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{Instant, timeout, timeout_at};

use super::dial;
use super::head::{Head, HeadRefusal};
use super::listener::{Answer, Outgoing, answered};
use super::peer::Peer;
use super::{Inbound, Shared};

/// Calls that one side makes or takes at once: they are people's, not raft's.
pub(super) const MAX_CALLS: usize = 64;
/// Requests to join that are taken at once, and, counted apart, calls of those whom the book does
/// not name: they must not keep members from calling.
pub(super) const MAX_JOINS: usize = 8;

/// The largest request, in bytes.
pub(super) const MAX_CALL_BYTES: usize = 64 << 10;
/// The largest answer, in bytes: an address book of thousands.
pub(super) const MAX_ANSWER_BYTES: usize = 1 << 20;

/// How long a request's body may take, and how long the node may. Callers give up much earlier.
const BODY_TIMEOUT: Duration = Duration::from_secs(5);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// How a call ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CallResult {
    /// What the other node said.
    Answer(Bytes),
    /// The call was certainly not taken; why.
    NotSent(String),
    /// The call may have been taken; why it is not known.
    Lost(String),
}

/// Where the answer to a call goes. Dropping it leaves the caller in the dark.
#[derive(Debug)]
pub(crate) struct CallReply(oneshot::Sender<Bytes>);

impl CallReply {
    #[cfg(feature = "simulation")]
    pub(super) fn new(reply: oneshot::Sender<Bytes>) -> Self {
        Self(reply)
    }

    pub(crate) fn answer(self, answer: Bytes) {
        // A caller that gave up is not waited for.
        self.0.send(answer).ok();
    }
}

/// The calls that are under way.
pub(super) struct Calls {
    pub(super) made: Semaphore,
    pub(super) taken: Semaphore,
    pub(super) joining: Semaphore,
    /// Of those whom the book does not name.
    strange: Semaphore,
}

impl Default for Calls {
    fn default() -> Self {
        let [made, taken] = [MAX_CALLS; 2].map(Semaphore::new);
        let [joining, strange] = [MAX_JOINS; 2].map(Semaphore::new);
        Self { made, taken, joining, strange }
    }
}

/// A call that owes its caller a result (C1).
pub(super) struct Call {
    shared: Arc<Shared>,
    tag: u64,
    /// The body was begun (C2).
    begun: Arc<AtomicBool>,
    result: Result<Bytes, String>,
}

impl Call {
    pub(super) fn new(shared: Arc<Shared>, tag: u64) -> Self {
        let result = Err("the transport stopped".into());
        Self { shared, tag, begun: Arc::default(), result }
    }

    /// Makes the call. Without a peer there is nobody to call.
    pub(super) async fn make(mut self, peer: Option<Arc<Peer>>, body: Bytes, deadline: Instant) {
        let shared = Arc::clone(&self.shared);
        self.result = match (peer, shared.calls.made.try_acquire()) {
            (None, _) => Err("there is no such member".into()),
            (_, Err(_)) => Err(format!("{MAX_CALLS} calls are under way already")),
            (Some(_), Ok(_)) if body.is_empty() || body.len() > MAX_CALL_BYTES => {
                Err(format!("a call of {} bytes: 1 to {MAX_CALL_BYTES} work", body.len()))
            }
            (Some(peer), Ok(_permit)) => {
                let answer = timeout_at(deadline, self.attempt(&peer, body)).await;
                answer.unwrap_or_else(|_| Err("no answer until the deadline".into()))
            }
        };
    }

    async fn attempt(&self, peer: &Peer, body: Bytes) -> Result<Bytes, String> {
        let shared = &self.shared;
        let url = peer.reached_at();
        let stream = peer.connect(&url, shared.settings.election_timeout).await?;
        let headers = shared.head(peer.id).to_headers()?;
        let request = dial::request(Method::POST, &url, "/raft/call", headers, Full::from(body))?;
        let request = dial::once_asked(request, Arc::clone(&self.begun));
        dial::converse(stream, |mut sender| async move {
            let mut response = pin!(sender.send_request(request));
            let response = match timeout(shared.silence(), &mut response).await {
                Ok(response) => response,
                // Somebody else leads by now, and there may be time left to ask.
                Err(_) if !self.begun.load(Ordering::Relaxed) => {
                    return Err(format!("the peer was silent for {:?}", shared.silence()));
                }
                Err(_) => response.await,
            };
            let response =
                response.map_err(|error| format!("no answer: {}", dial::chain(&error)))?;
            let admitted = peer.admit(&shared.gate, response).await;
            let (_, body) = admitted.map_err(|rejected| rejected.to_string())?;
            let answer = Limited::new(body, MAX_ANSWER_BYTES).collect().await;
            answer.map(|all| all.to_bytes()).map_err(|error| format!("no whole answer: {error}"))
        })
        .await
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let result = match std::mem::replace(&mut self.result, Err(String::new())) {
            Ok(answer) => CallResult::Answer(answer),
            Err(why) if self.begun.load(Ordering::Relaxed) => CallResult::Lost(why),
            Err(why) => CallResult::NotSent(why),
        };
        self.shared.tell(Inbound::Answered { tag: self.tag, result });
    }
}

/// Takes a call whose head was judged, and answers what the node says; `begun` is told when it has
/// its place.
pub(super) async fn take(
    shared: &Shared,
    head: &Head,
    joining: Option<u128>,
    request: Request<Incoming>,
    begun: impl FnOnce(),
) -> Result<Answer, HeadRefusal> {
    let refusal = |status, reason: &str| Err(HeadRefusal::new(status, reason));
    let calls = match joining {
        Some(_) => &shared.calls.joining,
        None if shared.gate.is_member(head.from) => &shared.calls.taken,
        None => &shared.calls.strange,
    };
    let Ok(_permit) = calls.try_acquire() else {
        return refusal(StatusCode::SERVICE_UNAVAILABLE, "too many calls wait here already");
    };
    match request.body().size_hint().exact() {
        None => return refusal(StatusCode::LENGTH_REQUIRED, "a call states its length"),
        Some(0) => return refusal(StatusCode::BAD_REQUEST, "a call says something"),
        Some(len) if len > MAX_CALL_BYTES as u64 => {
            return refusal(StatusCode::PAYLOAD_TOO_LARGE, "a call is 64 KiB at most");
        }
        Some(_) => {}
    }
    begun();
    let body = match timeout(BODY_TIMEOUT, request.into_body().collect()).await {
        // It may wait for a minute, and must not keep the connection's buffer.
        Ok(Ok(body)) => Bytes::copy_from_slice(&body.to_bytes()),
        Ok(Err(_)) | Err(_) => return refusal(StatusCode::BAD_REQUEST, "the call is not whole"),
    };
    let (reply, answer) = oneshot::channel();
    shared.tell(Inbound::Call { from: head.from, body, joining, reply: CallReply(reply) });
    let Ok(Ok(answer)) = timeout(ANSWER_TIMEOUT, answer).await else {
        return refusal(StatusCode::SERVICE_UNAVAILABLE, "the call may or may not be carried out");
    };
    answered(shared, head.from, StatusCode::OK, Outgoing::Whole(Full::from(answer)))
}
