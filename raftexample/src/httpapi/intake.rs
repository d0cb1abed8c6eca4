//! How the bodies of requests come in: within a limit, a deadline, and a bound on the memory of
//! all of them together.
//!
//! Invariants:
//! - B1 A body that is too large, or that there is no room for, is refused before any of it is
//!   read, if its length was announced.
//! - B2 The bodies that are being read take no more memory together than [`BodyBudget`] has.
//! - B3 What is read is what its sender means: a body in a transfer coding that nobody undoes here,
//!   such as `gzip, chunked`, is refused.

use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::HeaderMap;
use hyper::body::{Body, Incoming};
use hyper::header::{EXPECT, TRANSFER_ENCODING};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout_at;

use super::answer::Fault;
use super::kind::Kind;

/// Room for a few hundred of the usual largest values at a time. Without it every connection
/// could have one on its way, which is gigabytes.
const BUDGET_BYTES: u32 = 256 << 20;

/// How long an unwanted body is read on, so that its sender gets to reading the answer.
const LINGER: Duration = Duration::from_secs(2);

/// The memory that bodies may take while they are being read, all of them together. What is
/// proposed is counted by the node instead.
#[derive(Debug)]
pub struct BodyBudget {
    bytes: Semaphore,
}

/// A part of the [`BodyBudget`], given back when dropped.
pub(super) type Share<'a> = SemaphorePermit<'a>;

impl Default for BodyBudget {
    fn default() -> Self {
        Self::new(BUDGET_BYTES)
    }
}

impl BodyBudget {
    /// Of so many bytes.
    #[must_use]
    pub fn new(bytes: u32) -> Self {
        Self { bytes: Semaphore::new(bytes as usize) }
    }

    fn take(&self, bytes: u64) -> Result<Share<'_>, Fault> {
        let share = u32::try_from(bytes).ok().and_then(|n| self.bytes.try_acquire_many(n).ok());
        share.ok_or_else(|| {
            Fault::new(Kind::Overloaded, "the bodies that are being read take all the memory")
        })
    }
}

/// The body of a request, read or not.
pub(super) struct RequestBody {
    incoming: Incoming,
    /// Its sender waits to be asked for it.
    held_back: bool,
    /// It is sent in a transfer coding other than chunked.
    is_coded: bool,
}

impl RequestBody {
    pub(super) fn new(incoming: Incoming, headers: &HeaderMap) -> Self {
        let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
        let is_coded = codings.next().is_some_and(|first| {
            !first.as_bytes().eq_ignore_ascii_case(b"chunked") || codings.next().is_some()
        });
        Self { incoming, held_back: headers.contains_key(EXPECT), is_coded }
    }

    /// Its length, if its sender has said.
    pub(super) fn announced(&self) -> Option<u64> {
        self.incoming.size_hint().exact()
    }

    /// Whether its sender still waits to be asked for it.
    pub(super) fn is_held_back(&self) -> bool {
        self.held_back && !self.incoming.is_end_stream()
    }

    /// Makes sure that up to `limit` bytes can be read, and counts them.
    pub(super) fn admit<'a>(&self, limit: u64, budget: &'a BodyBudget) -> Result<Share<'a>, Fault> {
        if self.is_coded {
            let message = "the one Transfer-Encoding that is understood is chunked, once";
            return Err(Fault::malformed(message).closing());
        }
        match self.announced() {
            Some(bytes) if bytes > limit => Err(Fault::body_too_large(limit)),
            announced => budget.take(announced.unwrap_or(limit)),
        }
    }

    /// Reads it, up to `limit` bytes, behind what `begin` gives for its announced length.
    pub(super) async fn read(
        &mut self,
        limit: u64,
        begin: impl FnOnce(usize) -> BytesMut,
        deadline: Instant,
    ) -> Result<Bytes, Fault> {
        self.held_back = false;
        // Exact when the length was announced, 0 when it was not.
        let announced = self.incoming.size_hint().lower();
        let mut bytes = begin(usize::try_from(announced).unwrap_or(0));
        let reading = async {
            let mut left = limit;
            while let Some(frame) = self.incoming.frame().await {
                let frame = frame.map_err(|error| {
                    Fault::malformed(format!("the body cannot be read: {error}")).closing()
                })?;
                let Ok(data) = frame.into_data() else { continue };
                left = left
                    .checked_sub(data.len() as u64)
                    .ok_or_else(|| Fault::body_too_large(limit))?;
                bytes.put(data);
            }
            Ok::<_, Fault>(())
        };
        match timeout_at(deadline.into(), reading).await {
            Ok(read) => read?,
            Err(_) => {
                let message = "the body did not arrive within the request timeout";
                return Err(Fault::malformed(message).closing());
            }
        }
        Ok(bytes.freeze())
    }

    /// Reads on, for a while and up to `limit` bytes, what nobody wants: closing a socket that
    /// holds unread bytes resets it, and the answer may be lost with it.
    pub(super) fn discard(self, limit: u64) {
        if self.incoming.is_end_stream() || self.held_back {
            return;
        }
        let Self { mut incoming, .. } = self;
        let reading = async move {
            let mut left = limit;
            while let Some(Ok(frame)) = incoming.frame().await {
                let length = frame.data_ref().map_or(0, Bytes::len) as u64;
                match left.checked_sub(length) {
                    Some(rest) => left = rest,
                    None => break,
                }
            }
        };
        tokio::spawn(async {
            // Whether it ended or was given up, the connection's own state says what is next.
            tokio::time::timeout(LINGER, reading).await.ok();
        });
    }
}
