//! Who listens at a URL: asked before a URL enters the address book.
//!
//! `GET /raft/identity` is answered to anyone, unjudged, with a version, a cluster, an id and an
//! incarnation in the headers and nothing else. Each of these is in every head anyway.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Empty;
use hyper::header::HeaderMap;
use hyper::{Method, StatusCode};
use tokio::time::timeout;

use super::dial::{self, Resolver};
use super::head::Claim;
use super::{Inbound, Shared};

/// How long somebody who listens may take to say who it is.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// Who answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ProbeResult {
    /// Nobody listens, or whoever does says nothing in time.
    Nobody,
    /// A member.
    Member { cluster: u64, id: u64, incarnation: u128 },
    /// Something that is no member; what it answered.
    Stranger(String),
}

/// A probe that owes its result, exactly once.
pub(super) struct Probe {
    shared: Arc<Shared>,
    tag: u64,
    result: ProbeResult,
}

impl Probe {
    pub(super) fn new(shared: Arc<Shared>, tag: u64) -> Self {
        Self { shared, tag, result: ProbeResult::Nobody }
    }

    pub(super) async fn run(mut self, url: String) {
        if let Ok(result) = timeout(PROBE_TIMEOUT, ask(&url)).await {
            self.result = result;
        }
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        let result = std::mem::replace(&mut self.result, ProbeResult::Nobody);
        self.shared.tell(Inbound::Probed { tag: self.tag, result });
    }
}

async fn ask(url: &str) -> ProbeResult {
    let Ok(addresses) = Resolver::default().resolve(url).await else { return ProbeResult::Nobody };
    let Ok(stream) = dial::connect(&addresses, PROBE_TIMEOUT).await else {
        return ProbeResult::Nobody;
    };
    let request =
        dial::request(Method::GET, url, "/raft/identity", HeaderMap::new(), Empty::<Bytes>::new());
    let answer = async {
        let request = request?;
        dial::converse(stream, |mut sender| async move {
            let response = sender.send_request(request).await;
            response.map_err(|error| dial::chain(&error))
        })
        .await
    };
    let response = match answer.await {
        Ok(response) => response,
        Err(error) => return ProbeResult::Stranger(error),
    };
    if response.status() != StatusCode::OK {
        return ProbeResult::Stranger(format!("HTTP {}", response.status().as_u16()));
    }
    match Claim::parse(response.headers()) {
        Ok(Claim { cluster, id, incarnation }) => ProbeResult::Member { cluster, id, incarnation },
        Err(refusal) => ProbeResult::Stranger(refusal.reason),
    }
}
