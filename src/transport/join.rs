//! The one request that is made before there is a transport: to be let into a cluster.
//!
//! Whoever joins knows neither the cluster nor who listens at the URLs it was given, so its head
//! leaves both open, and the answer's head tells. The request may be repeated at will: what is
//! asked for is decided by id and incarnation.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, StatusCode};
use tokio::runtime::Builder;
use tokio::time::timeout_at;

use super::call::MAX_ANSWER_BYTES;
use super::dial::{self, Resolver};
use super::head::{Claim, Head, HeadRefusal, Kind};

/// Who asks.
#[derive(Debug, Clone)]
pub(crate) struct JoinHead {
    pub(crate) id: u64,
    pub(crate) incarnation: u128,
    pub(crate) peer_url: String,
    /// May be empty.
    pub(crate) client_url: String,
}

/// What a member answered, and of which cluster it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct JoinAnswer {
    pub(crate) cluster: u64,
    pub(crate) from: u64,
    pub(crate) body: Bytes,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum JoinError {
    /// Whoever listens there does not let us in: 403 and 410 are final.
    #[error("refused with {status}: {message}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// What it said.
        message: String,
    },
    /// No answer, or none that makes sense. The request may have been taken.
    #[error("{0}")]
    Unreachable(String),
}

/// Asks whoever listens at `url`. Blocks until `deadline` at most.
///
/// # Errors
///
/// See [`JoinError`].
pub(crate) fn call_url(
    url: &str,
    head: &JoinHead,
    body: Bytes,
    deadline: Instant,
) -> Result<JoinAnswer, JoinError> {
    let runtime = Builder::new_current_thread().enable_io().enable_time().build();
    let runtime = runtime.map_err(|error| JoinError::Unreachable(error.to_string()))?;
    let asked = async { timeout_at(deadline.into(), ask(url, head, body, deadline)).await };
    let asked = runtime.block_on(asked);
    // A lookup may hang for as long as the system likes: it is not waited for.
    runtime.shutdown_background();
    asked.unwrap_or_else(|_| Err(JoinError::Unreachable("no answer until the deadline".into())))
}

async fn ask(
    url: &str,
    head: &JoinHead,
    body: Bytes,
    deadline: Instant,
) -> Result<JoinAnswer, JoinError> {
    let unreachable = JoinError::Unreachable;
    let connecting = async {
        let addresses = Resolver::default().resolve(url).await?;
        dial::connect(&addresses, deadline.saturating_duration_since(Instant::now())).await
    };
    let stream =
        connecting.await.map_err(|error| unreachable(format!("cannot connect: {error}")))?;
    let JoinHead { id, incarnation, peer_url, client_url } = head.clone();
    let (cluster, to, pins) = (0, 0, BTreeMap::new());
    let head = Head { cluster, from: id, to, incarnation, pins, peer_url, client_url };
    let headers = head.to_headers().map_err(unreachable)?;
    let request = dial::request(Method::POST, url, "/raft/join", headers, Full::from(body));
    // What it begins with does not matter here, but that a refusal arrives whole does.
    let request = dial::once_asked(request.map_err(unreachable)?, Arc::default());
    let talk = dial::converse(stream, |mut sender| async move {
        let response = sender.send_request(request).await;
        let (parts, body) = response.map_err(|error| dial::chain(&error))?.into_parts();
        if parts.status != StatusCode::OK {
            let by = Claim::parse(&parts.headers).ok();
            return Ok(Err(dial::refusal(parts.status, by, body).await));
        }
        let head = match Head::parse(&parts.headers, Kind::Member) {
            Ok(head) if head.to == id => head,
            Ok(head) => {
                let reason = format!("the answer is for member {}", head.to);
                return Ok(Err(HeadRefusal::new(StatusCode::PRECONDITION_FAILED, reason)));
            }
            Err(refusal) => return Ok(Err(refusal)),
        };
        let body = Limited::new(body, MAX_ANSWER_BYTES).collect().await;
        let body = body.map_err(|error| format!("no whole answer: {error}"))?.to_bytes();
        Ok(Ok(JoinAnswer { cluster: head.cluster, from: head.from, body }))
    });
    talk.await.map_err(unreachable)?.map_err(|HeadRefusal { status, reason }| JoinError::Refused {
        status: status.as_u16(),
        message: reason,
    })
}
