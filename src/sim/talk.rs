//! What members say to each other, as a simulated network carries it.

use std::time::Instant;

use bytes::Bytes;
use protobuf::Message as _;

use crate::Error;
use crate::identity::Identity;
use crate::node::{join_judged, join_refused, join_request};
use crate::transport::{self, CallResult, Head, HeadRefusal, SnapshotSource, stepped};

/// The two streams from one member to another; each keeps its order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// Appends and forwarded proposals.
    Bulk,
    /// Everything else.
    Control,
}

impl Lane {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Bulk, Self::Control];
}

impl From<Lane> for transport::Lane {
    fn from(lane: Lane) -> Self {
        match lane {
            Lane::Bulk => Self::Bulk,
            Lane::Control => Self::Control,
        }
    }
}

/// What a member states at the start of every stream and request, and answers to one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello(pub(super) Head);

impl Hello {
    /// Who states it.
    #[must_use]
    pub fn from(&self) -> u64 {
        self.0.from
    }

    /// What its data directory was given when it was made.
    #[must_use]
    pub fn incarnation(&self) -> u128 {
        self.0.incarnation
    }
}

/// Why there is no conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    pub(super) head: HeadRefusal,
}

impl Refused {
    /// Nobody who could answer is there.
    #[must_use]
    pub fn by_nobody(why: &str) -> Self {
        Self { head: HeadRefusal::unavailable(why) }
    }

    /// The status: 403, 410, 412 or 503.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.head.code()
    }

    /// The reason.
    #[must_use]
    pub fn reason(&self) -> &str {
        &self.head.reason
    }
}

impl From<HeadRefusal> for Refused {
    fn from(head: HeadRefusal) -> Self {
        Self { head }
    }
}

/// What leaves a member on no stream. Each is owed exactly one report.
#[derive(Debug)]
pub enum Departure {
    /// A snapshot; [`super::Member::snapshot_reported`] ends it.
    Snapshot(SnapshotOut),
    /// A call; [`super::Member::call_answered`] ends it.
    Call {
        /// Whom it asks.
        to: u64,
        /// Its name.
        tag: u64,
        /// What it says.
        body: Bytes,
        /// Until when an answer is waited for.
        deadline: Instant,
    },
    /// A look at who answers at a URL; [`super::Member::probe_answered`] ends it.
    Probe {
        /// The URL.
        url: String,
        /// Its name.
        tag: u64,
    },
}

/// A snapshot on its way out.
pub struct SnapshotOut {
    pub(super) to: u64,
    pub(super) message: Bytes,
    pub(super) source: Box<dyn SnapshotSource>,
    pub(super) offset: u64,
}

impl std::fmt::Debug for SnapshotOut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SnapshotOut").field("to", &self.to).finish_non_exhaustive()
    }
}

impl SnapshotOut {
    /// Who is to have it.
    #[must_use]
    pub fn to(&self) -> u64 {
        self.to
    }

    /// Raft's own message, which goes before the file.
    #[must_use]
    pub fn message(&self) -> Bytes {
        self.message.clone()
    }

    /// Length and checksum of the file.
    #[must_use]
    pub fn announced(&self) -> (u64, u64) {
        (self.source.len(), self.source.checksum())
    }

    /// The next piece of the file; empty at its end.
    ///
    /// # Errors
    ///
    /// The disk's.
    pub fn read(&mut self, most: usize) -> Result<Bytes, String> {
        let mut piece = vec![0; most];
        let read = self.source.read_at(self.offset, &mut piece);
        let read = read.map_err(|error| error.to_string())?;
        piece.truncate(read);
        self.offset += read as u64;
        Ok(piece.into())
    }
}

/// A snapshot that a member is receiving. Dropping it abandons it.
pub struct SnapshotIn(pub(super) stepped::Receiving);

impl std::fmt::Debug for SnapshotIn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SnapshotIn")
    }
}

impl SnapshotIn {
    /// Takes the next piece.
    ///
    /// # Errors
    ///
    /// The disk's, or the bytes are not those of the announced file.
    pub fn write(&mut self, piece: &[u8]) -> Result<(), String> {
        self.0.write(piece).map_err(|error| error.to_string())
    }

    /// All pieces are there: the member takes it in one of its next turns.
    ///
    /// # Errors
    ///
    /// The disk's, or the bytes are not those of the announced file.
    pub fn finish(self, message: &[u8]) -> Result<Taking, String> {
        self.0.finish(message).map(Taking)
    }
}

/// A snapshot that a member is about to take.
pub struct Taking(stepped::Taking);

impl std::fmt::Debug for Taking {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Taking")
    }
}

impl Taking {
    /// Whether it did, once that is known.
    pub fn try_answer(&mut self) -> Option<Result<(), String>> {
        self.0.try_answer()
    }
}

/// A call that a member will answer.
pub struct Answering(pub(super) stepped::Answer);

impl std::fmt::Debug for Answering {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Answering")
    }
}

impl Answering {
    /// The answer, once it is there. An error: it never will be.
    pub fn try_answer(&mut self) -> Option<Result<Bytes, ()>> {
        self.0.try_answer()
    }
}

/// How a call ended, for its caller.
pub(super) fn call_result(answer: Result<Bytes, (bool, String)>) -> CallResult {
    match answer {
        Ok(answer) => CallResult::Answer(answer),
        Err((true, why)) => CallResult::Lost(why),
        Err((false, why)) => CallResult::NotSent(why),
    }
}

/// A member with an empty disk that wants to be taken in before it starts.
#[derive(Debug, Clone)]
pub struct Join {
    identity: Identity,
    hello: Hello,
    body: Bytes,
}

impl Join {
    pub(super) fn new(identity: &Identity, peer_url: String) -> Self {
        let body = join_request(identity, &peer_url).into();
        let head = Head {
            cluster: 0,
            from: identity.node,
            to: 0,
            incarnation: identity.incarnation,
            pins: std::collections::BTreeMap::new(),
            peer_url,
            client_url: String::new(),
        };
        Self { identity: *identity, hello: Hello(head), body }
    }

    /// What it states.
    #[must_use]
    pub fn hello(&self) -> &Hello {
        &self.hello
    }

    /// What it asks.
    #[must_use]
    pub fn body(&self) -> Bytes {
        self.body.clone()
    }

    /// Reads the answer of a member: taken in, or why not yet.
    ///
    /// # Errors
    ///
    /// Why it never will be.
    pub fn read(&self, answer: Result<Bytes, Refused>) -> Result<Result<(), String>, Error> {
        match answer {
            Ok(answer) => join_judged(self.identity.node, &answer),
            Err(refused) => {
                let status = refused.status();
                join_refused(self.identity.node, status, refused.head.reason).map(Err)
            }
        }
    }
}

impl From<stepped::Departure> for Departure {
    fn from(departure: stepped::Departure) -> Self {
        match departure {
            stepped::Departure::Snapshot { to, message, source } => {
                let message = message.write_to_bytes().unwrap_or_default().into();
                Departure::Snapshot(SnapshotOut { to, message, source, offset: 0 })
            }
            stepped::Departure::Call { to, tag, body, deadline } => {
                Departure::Call { to, tag, body, deadline }
            }
            stepped::Departure::Probe { url, tag } => Departure::Probe { url, tag },
        }
    }
}
