//! Who leads, and handing that over.

use std::time::Instant;

use hyper::StatusCode;
use raftnode::Transferred;
use serde::Serialize;

use super::answer::{self, Answer, Fault};
use super::kind::Kind;
use super::{Api, patiently};

/// The answer to `GET /_leader`.
#[derive(Serialize)]
struct Leader {
    id: u64,
    /// Where clients reach it; null when it has not said.
    url: Option<String>,
    term: u64,
}

impl Api {
    pub(super) fn leader(&self) -> Result<Answer, Fault> {
        let node = self.handle.node();
        let leadership = node.leadership();
        let (id, term) = (leadership.leader_id, leadership.term);
        if id == 0 {
            return Err(nobody_leads());
        }
        let url = node.status().client_urls.remove(&id).filter(|url| !url.is_empty());
        Ok(answer::json(StatusCode::OK, &Leader { id, url, term }))
    }

    /// Hands leadership over, to the best voter unless `to` says another, and waits for it.
    pub(super) async fn transfer(
        &self,
        to: Option<u64>,
        deadline: Instant,
    ) -> Result<Answer, Fault> {
        let pending = self.handle.node().transfer(to, deadline)?;
        match patiently(deadline, pending.into_future()).await {
            Some(Transferred::Done { .. }) => Ok(answer::no_content()),
            Some(Transferred::Refused(refusal)) => Err(refusal.into()),
            None => Err(Fault::unavailable("the hand-over did not end in time")),
        }
    }

    /// The 18 strings that operators of such nodes know.
    pub(super) fn stats(&self) -> Answer {
        let stats = self.handle.node().stats();
        let strings: serde_json::Map<_, _> =
            stats.iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
        answer::json(StatusCode::OK, &strings)
    }
}

pub(super) fn nobody_leads() -> Fault {
    Fault::new(Kind::NoLeader, "no leader is known")
}
