//! A frame by itself, for those who measure what encoding and decoding one takes.

use bytes::Bytes;
use raft::eraftpb::{Entry, Message, MessageType};

use crate::key::Key;
use crate::transport::{Frame, stepped};

/// An append, as a leader has it before it is sent.
#[derive(Debug)]
pub struct Append(Frame);

impl Append {
    /// One of these commands, each an entry.
    #[must_use]
    pub fn of(commands: &[Bytes]) -> Self {
        let entries = (1..).zip(commands).map(|(sequence, data)| Entry {
            term: 1,
            index: sequence,
            data: data.clone(),
            context: Bytes::copy_from_slice(&Key { node: 1, nonce: 1, sequence }.encode()),
            ..Entry::default()
        });
        let mut message = Message { from: 1, to: 2, term: 1, ..Message::default() };
        message.set_msg_type(MessageType::MsgAppend);
        message.set_entries(entries.collect::<Vec<_>>().into());
        Self(Frame::Raft(message))
    }

    /// As a stream carries it; `None` when it is more than a frame holds.
    #[must_use]
    pub fn encode(&self) -> Option<Bytes> {
        stepped::encode(&self.0)
    }
}

/// Decodes the frames of a chunk; gives how many entries they bring.
///
/// # Errors
///
/// What is wrong with them.
pub fn decode(mut chunk: Bytes) -> Result<usize, String> {
    stepped::decode(&mut chunk)
}
