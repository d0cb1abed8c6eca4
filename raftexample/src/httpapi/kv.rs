//! Keys, one at a time and in order: put, get, delete, list.

use std::borrow::Cow;
use std::time::Instant;

use bytes::Bytes;
use hyper::StatusCode;
use raftnode::defects::{Defect, has};
use raftnode::{Consistency, Outcome, Pending, Read, Refusal, Unknown};
use serde::Serialize;

use super::answer::{self, Answer, Fault};
use super::intake::RequestBody;
use super::kind::Kind;
use super::query::View;
use super::route::Ack;
use super::server::Line;
use super::{Api, text, txn};
use crate::command::{self, Conditions};
use crate::kvstore::{self, Found, Response};

/// The answer to `GET /_kv/`.
#[derive(Serialize)]
struct Listing {
    keys: Vec<Listed>,
    /// What `?after` takes to go on; null at the end.
    next: Option<String>,
}

#[derive(Serialize)]
struct Listed {
    key: String,
    mod_index: u64,
}

impl Api {
    pub(super) async fn put(
        &self,
        key: &[u8],
        conditions: Conditions<'_>,
        ack: Ack,
        body: &mut RequestBody,
        line: &Line,
        deadline: Instant,
    ) -> Result<Answer, Fault> {
        let share = self.admit_write(body, self.max_value_bytes)?;
        let begin = |value_bytes| command::begin_put(&conditions, key, value_bytes);
        let command = body.read(self.max_value_bytes, begin, deadline).await?;
        let pending = self.propose(command, ack, deadline)?;
        // From here on the node counts it.
        drop(share);
        if ack == Ack::None || has(Defect::AckAtAppend) {
            return Ok(answer::no_content());
        }
        self.written(pending, ack, line, deadline).await
    }

    pub(super) async fn delete(
        &self,
        key: &[u8],
        conditions: Conditions<'_>,
        ack: Ack,
        line: &Line,
        deadline: Instant,
    ) -> Result<Answer, Fault> {
        let pending = self.propose(command::delete(&conditions, key), ack, deadline)?;
        self.written(pending, ack, line, deadline).await
    }

    /// Offers a write to the log, for an answer of this kind.
    pub(super) fn propose(
        &self,
        command: Bytes,
        ack: Ack,
        deadline: Instant,
    ) -> Result<Pending<Outcome<kvstore::Answer>>, Refusal> {
        match ack {
            Ack::Traced => self.handle.propose_traced(command, deadline),
            Ack::Applied | Ack::None => self.handle.propose(command, deadline),
        }
    }

    /// The answer to a write, once it is applied.
    pub(super) async fn written(
        &self,
        pending: Pending<Outcome<kvstore::Answer>>,
        ack: Ack,
        line: &Line,
        deadline: Instant,
    ) -> Result<Answer, Fault> {
        let trace = pending.trace().filter(|_| ack == Ack::Traced);
        let outcome = line.patiently(deadline, pending.into_future()).await;
        let answer = ended(outcome.unwrap_or(Outcome::Unknown(Unknown::Deadline)))?;
        Ok(match trace {
            Some(trace) => answer::with_stages(answer, &trace.stages()),
            None => answer,
        })
    }

    pub(super) async fn get(
        &self,
        key: &[u8],
        view: View,
        line: &Line,
        deadline: Instant,
    ) -> Result<Answer, Fault> {
        self.reach(view, line, deadline).await?;
        let Found { value, applied_index, term } = self.store.get(key);
        let answer = match value {
            Some(value) => {
                answer::with_mod_index(answer::bytes(value.bytes.clone()), value.mod_index)
            }
            None => absent().answer(Default::default),
        };
        Ok(answer::with_state(answer, applied_index, term, view.consistency))
    }

    pub(super) async fn list(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
        view: View,
        line: &Line,
        deadline: Instant,
    ) -> Result<Answer, Fault> {
        self.reach(view, line, deadline).await?;
        let version = self.store.load();
        let (keys, next) = version.list(prefix, after, limit);
        let keys = keys.into_iter().map(|(key, mod_index)| {
            let key = text::percent_encode(key);
            Listed { key, mod_index }
        });
        let next = next.map(text::percent_encode);
        let answer = answer::json(StatusCode::OK, &Listing { keys: keys.collect(), next });
        Ok(answer::with_state(answer, version.applied_index, version.term, view.consistency))
    }

    /// Waits until the store may be looked at.
    pub(super) async fn reach(
        &self,
        view: View,
        line: &Line,
        deadline: Instant,
    ) -> Result<(), Fault> {
        let View { consistency, min_index } = view;
        // Whatever is here will do for a stale read: the node need not be asked. While the log is
        // replayed nothing is here.
        if consistency == Consistency::Stale && self.store.applied_index() >= min_index.max(1) {
            return Ok(());
        }
        let pending = self.handle.node().read(consistency, min_index, deadline)?;
        match line.patiently(deadline, pending.into_future()).await {
            Some(Read::Ready { .. }) => Ok(()),
            Some(Read::Refused(refusal)) => Err(refusal.into()),
            None => Err(Fault::unavailable("the node did not answer in time")),
        }
    }
}

fn absent() -> Fault {
    Fault::not_found("the key is not in the store")
}

fn ended(outcome: Outcome<kvstore::Answer>) -> Result<Answer, Fault> {
    match outcome {
        Outcome::Applied { response, .. } => Ok(applied(response)),
        Outcome::Refused(refusal) => Err(refusal.into()),
        Outcome::Unknown(unknown) => Err(Fault::unknown(unknown)),
    }
}

/// What the store said to a write. It is in the log, whatever the store said.
fn applied(answer: kvstore::Answer) -> Answer {
    let kvstore::Answer { index, term, response } = answer;
    let refused: (Kind, Cow<'static, str>) = match response {
        Response::Put => return answer::with_mod_index(answer::applied(index, term), index),
        Response::Deleted => return answer::applied(index, term),
        Response::NotFound => return absent().at(index, term),
        Response::Txn(txn) => return answer::applied_headers(txn::results(txn), index, term),
        Response::CasMismatch { mod_index } => {
            let present = match mod_index {
                0 => "the key is not in the store: its mod index is 0".to_owned(),
                _ => format!("the key's mod index is {mod_index}"),
            };
            let fault = Fault::new(Kind::CasMismatch, present).at(index, term);
            return answer::with_mod_index(fault, mod_index);
        }
        Response::TooLarge => (Kind::TooLarge, "the values to be answered are too many".into()),
        Response::Ignored => unreachable!("this port proposes nothing that may be passed over"),
        Response::KeyReused => {
            (Kind::KeyReused, "the idempotency key came with another request before".into())
        }
    };
    Fault::new(refused.0, refused.1).at(index, term)
}
