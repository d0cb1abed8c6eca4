//! A member that is not there: what it says is up to whoever speaks for it.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use hyper::StatusCode;
use protobuf::Message as _;
use raft::CAMPAIGN_TRANSFER;
use raft::eraftpb::{Entry, Message, MessageType, Snapshot};
use wal::fs::{Fs, MemFs};

use super::{Hello, Refused};
use crate::Error;
use crate::key::Key;
use crate::membership::{Book, Founder};
use crate::snapshot::{self, Header};
use crate::transport::{Head, HeadRefusal, stepped};

/// Another member, for one that runs.
#[derive(Debug, Clone)]
pub struct Peer {
    hello: Hello,
    /// Who and where the member is that it talks to.
    to: (u64, String),
}

/// A snapshot that a [`Peer`] sends.
#[derive(Debug, Clone)]
pub struct Sent {
    /// Raft's own message, which goes before the file.
    pub message: Bytes,
    /// The file.
    pub file: Vec<u8>,
}

impl Sent {
    /// Length and checksum of the file, as a sender announces them.
    #[must_use]
    pub fn announced(&self) -> (u64, u64) {
        let checksum = self.file.last_chunk().map_or(0, |word| u64::from_le_bytes(*word));
        (self.file.len() as u64, checksum)
    }
}

impl Peer {
    /// The one at `url` whom a member states this `hello` to.
    #[must_use]
    pub fn greeted(hello: &Hello, url: &str, incarnation: u128) -> Self {
        let head = &hello.0;
        let own = Head {
            cluster: head.cluster,
            from: head.to,
            to: head.from,
            incarnation,
            pins: BTreeMap::new(),
            peer_url: url.into(),
            client_url: String::new(),
        };
        Self { hello: Hello(own), to: (head.from, head.peer_url.clone()) }
    }

    /// What it states.
    #[must_use]
    pub fn hello(&self) -> &Hello {
        &self.hello
    }

    /// What it answers to a member that it knows to be removed.
    #[must_use]
    pub fn refusal_of_removed(&self) -> Refused {
        HeadRefusal::new(StatusCode::GONE, format!("member {} was removed", self.to.0)).into()
    }

    /// As the leader of `term` it sends entries, each a term and a command, that follow on
    /// `before`, index and term.
    ///
    /// # Errors
    ///
    /// They are more than a frame can hold.
    pub fn append<'a>(
        &self,
        term: u64,
        before: (u64, u64),
        entries: impl IntoIterator<Item = (u64, &'a Bytes)>,
        commit: u64,
    ) -> Result<Bytes, Error> {
        let mut message = self.message(MessageType::MsgAppend, term);
        (message.index, message.log_term, message.commit) = (before.0, before.1, commit);
        let entries = (before.0 + 1..).zip(entries).map(|(index, (term, data))| Entry {
            index,
            term,
            data: data.clone(),
            context: self.key(index).encode().to_vec().into(),
            ..Entry::default()
        });
        message.set_entries(entries.collect::<Vec<_>>().into());
        chunk(message)
    }

    /// As a candidate of `term`, to whom the leader handed over, it asks for a vote; its log ends
    /// with `last`, index and term.
    ///
    /// # Errors
    ///
    /// None that is known of.
    pub fn ask_vote(&self, term: u64, last: (u64, u64)) -> Result<Bytes, Error> {
        let mut message = self.message(MessageType::MsgRequestVote, term);
        (message.index, message.log_term) = last;
        message.context = Bytes::from_static(CAMPAIGN_TRANSFER);
        chunk(message)
    }

    /// As the leader of `term` it sends a snapshot, index and term, of a cluster of the two.
    ///
    /// # Errors
    ///
    /// `write` fails.
    pub fn snapshot(
        &self,
        term: u64,
        at: (u64, u64),
        write: impl FnOnce(&mut dyn io::Write) -> io::Result<()>,
    ) -> Result<Sent, Error> {
        let own = &self.hello.0;
        let mut founders = [(own.from, &own.peer_url), (self.to.0, &self.to.1)]
            .map(|(id, url)| Founder { id, url: url.clone() });
        founders.sort_by_key(|founder| founder.id);
        let header = Header {
            index: at.0,
            term: at.1,
            ..Header::genesis(own.cluster, Book::founding(&founders))
        };
        let mut snapshot = Snapshot::default();
        let metadata = snapshot.mut_metadata();
        (metadata.index, metadata.term) = at;
        metadata.set_conf_state(header.conf_state.clone());
        let mut message = self.message(MessageType::MsgSnapshot, term);
        message.set_snapshot(snapshot);
        let message = message.write_to_bytes().map_err(unsaid)?.into();
        let (fs, path): (Arc<dyn Fs>, _) = (Arc::new(MemFs::volatile()), Path::new("/sent"));
        let bytes = snapshot::write(&fs, path, &header, |file| write(file)).map_err(unsaid)?.bytes;
        let file = wal::fs::read_file(&*fs, path, bytes).map_err(unsaid)?;
        Ok(Sent { message, file })
    }

    fn message(&self, kind: MessageType, term: u64) -> Message {
        let from = self.hello.0.from;
        let mut message = Message { from, to: self.to.0, term, ..Message::default() };
        message.set_msg_type(kind);
        message
    }

    /// The name that it gave its proposal.
    fn key(&self, sequence: u64) -> Key {
        let node = self.hello.0.from;
        Key { node, nonce: node, sequence }
    }
}

fn chunk(message: Message) -> Result<Bytes, Error> {
    stepped::chunk(message).ok_or_else(|| unsaid("a message that no frame holds"))
}

fn unsaid(why: impl std::fmt::Display) -> Error {
    Error::Disk(format!("nothing to say: {why}"))
}
