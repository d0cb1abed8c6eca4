//! What travels on a stream after its heads, drawn once.
//!
//! ```text
//!  0        4      5
//!  ├ length ┼ kind ┼ payload: `length` bytes, at most 4 MiB ┤      numbers little endian
//!
//!  kind 1, Raft      the protobuf encoding of an eraftpb.Message
//!
//!  kind 2, Forward   0      8     32
//!                    ├ term ┼ key ┼ data ┤
//!
//!  kind 3, Verdict   0     24        25     33       41
//!                    ├ key ┼ refusal ┼ term ┼ leader ┤
//! ```
//!
//! A key is laid out in [`crate::key`]. Nothing here knows lanes, sockets or what a message means;
//! whether a message is fit for raft is judged where it is stepped.
//!
//! Invariants:
//! - F1 What `encode` writes, `Decoder` reads back, however the bytes are cut on their way.
//! - F2 A decoded frame shares no memory with the connection's read buffer. An entry that is kept
//!   keeps alive its own frame at most, and that only where entries are most of it; of a run of
//!   entries that is kept, the first and the last frame alone hold anything else.
//! - F3 A length above the cap is refused before anything is allocated for it, and what a message
//!   takes once decoded is known, and bounded, before it is decoded.
//! - F4 A value that is not copied into a frame's bytes stands in them at the same place.

use std::io::{self, IoSlice};

use bytes::{Buf, Bytes};
use protobuf::{CodedOutputStream, Message as _};
use raft::eraftpb::{Entry, Message};

use super::WINDOW_MESSAGE_BYTES;
use super::shape::{self, Limits};
use crate::key::{Attempt, Key};

/// The largest payload of protocol version 1, in bytes.
pub(crate) const MAX_PAYLOAD: usize = 4 << 20;

/// Length and kind.
const HEADER_LEN: usize = 5;

const RAFT: u8 = 1;
const FORWARD: u8 = 2;
const VERDICT: u8 = 3;

const FORWARD_HEAD_LEN: usize = 8 + Key::LEN;
const VERDICT_LEN: usize = Key::LEN + 1 + 8 + 8;

/// The smallest entry that a leader appends, in bytes: a term and an index, each with its tag.
const SMALLEST_ENTRY: usize = 4;

/// The most entries that a message may hold. A message of several entries holds no more of them
/// than raft's size for messages does, however small they are.
const MAX_ENTRIES: usize = 1 << 18;
const _: () = assert!(MAX_ENTRIES >= WINDOW_MESSAGE_BYTES as usize / SMALLEST_ENTRY);

/// What a message on a stream may hold. Snapshots have a request of their own.
const LIMITS: Limits = Limits { entries: MAX_ENTRIES, ids: None };

/// From this size on a message's entries share one allocation; below it each entry gets its own,
/// so that a small entry that is kept for long keeps nothing else alive.
const SHARE_FROM: usize = 1 << 10;

/// From this size on a value is written from where it is instead of being copied to the bytes
/// around it: it goes to each peer, and the log holds it anyway. Above what protobuf's buffer
/// takes, beyond which it passes on the value itself.
const SPLICE_FROM: usize = 16 << 10;

/// How many pieces are handed to the system at once.
const MAX_SLICES: usize = 64;

/// Everything that one member says to another on a stream.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Frame {
    /// A message of raft's own.
    Raft(Message),
    /// A proposal for whoever leads in exactly this term.
    Forward {
        /// The term that the origin knows its leader in.
        term: u64,
        /// The proposal's name.
        key: Key,
        /// The command.
        data: Bytes,
    },
    /// The definite refusal of a [`Frame::Forward`].
    Verdict {
        /// The refused proposal.
        key: Key,
        /// Why.
        refusal: VerdictKind,
        /// The term of the Forward.
        term: u64,
        /// Who leads as far as the refuser knows; 0 for nobody.
        leader: u64,
    },
}

/// Why a forwarded proposal was refused. The numbers travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum VerdictKind {
    /// The receiver does not lead in the term of the Forward.
    NotLeader = 1,
    /// Too much is waiting at the leader already.
    Overloaded = 2,
    /// The command is larger than the leader takes.
    TooLarge = 3,
}

impl VerdictKind {
    fn from_code(code: u8) -> Option<Self> {
        [Self::NotLeader, Self::Overloaded, Self::TooLarge]
            .into_iter()
            .find(|kind| *kind as u8 == code)
    }
}

/// Why a stream's bytes cannot be frames. The stream is lost: where the next frame would begin is
/// not known any more.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Malformed {
    #[error("a frame of {0} bytes is above the cap of {MAX_PAYLOAD}")]
    Oversize(usize),
    #[error("a frame of unknown kind {0}")]
    UnknownKind(u8),
    #[error("a frame whose body cannot be decoded: {0}")]
    Undecodable(String),
}

impl Frame {
    /// Which try at which proposal this is, if it is a Forward.
    pub(crate) fn attempt(&self) -> Option<Attempt> {
        match self {
            Frame::Forward { term, key, .. } => Some(Attempt { key: *key, term: *term }),
            Frame::Raft(_) | Frame::Verdict { .. } => None,
        }
    }

    /// The exact size of the payload. For a message it is also remembered inside, and
    /// [`encode`](Self::encode) relies on that.
    pub(crate) fn payload_len(&self) -> usize {
        match self {
            Frame::Raft(message) => message.compute_size() as usize,
            Frame::Forward { data, .. } => FORWARD_HEAD_LEN + data.len(),
            Frame::Verdict { .. } => VERDICT_LEN,
        }
    }

    /// Appends the frame's bytes. `len` is its [`payload_len`](Self::payload_len), taken since the
    /// frame last changed.
    ///
    /// # Errors
    ///
    /// Appends nothing when protobuf refuses.
    pub(super) fn encode(&self, len: usize, out: &mut Encoded) -> Result<(), Malformed> {
        let kind = match self {
            Frame::Raft(_) => RAFT,
            Frame::Forward { .. } => FORWARD,
            Frame::Verdict { .. } => VERDICT,
        };
        let start = out.mark();
        // Nothing above the cap is ever queued, and the cap is far below what a u32 holds.
        out.bytes.extend_from_slice(&(len as u32).to_le_bytes());
        out.bytes.push(kind);
        match self {
            Frame::Raft(message) => {
                if let Err(error) = out.push_message(message, len) {
                    out.truncate(start);
                    return Err(Malformed::Undecodable(error.to_string()));
                }
            }
            Frame::Forward { term, key, data } => {
                out.bytes.extend_from_slice(&term.to_le_bytes());
                out.bytes.extend_from_slice(&key.encode());
                out.push_value(data);
            }
            Frame::Verdict { key, refusal, term, leader } => {
                out.bytes.extend_from_slice(&key.encode());
                out.bytes.push(*refusal as u8);
                out.bytes.extend_from_slice(&term.to_le_bytes());
                out.bytes.extend_from_slice(&leader.to_le_bytes());
            }
        }
        debug_assert_eq!(out.len(), start.len + HEADER_LEN + len);
        Ok(())
    }

    fn decode(kind: u8, payload: Payload, shares: bool) -> Result<Self, Malformed> {
        let undecodable = |what: String| Malformed::Undecodable(what);
        match kind {
            RAFT => {
                let message = if shares {
                    Message::parse_from_carllerche_bytes(&payload.into_owned())
                } else {
                    Message::parse_from_bytes(payload.as_ref())
                };
                message.map(Frame::Raft).map_err(|error| undecodable(error.to_string()))
            }
            FORWARD => {
                let bytes = payload.as_ref();
                let (term, key) = bytes
                    .first_chunk::<8>()
                    .zip(bytes.get(8..FORWARD_HEAD_LEN).and_then(Key::decode))
                    .ok_or_else(|| undecodable(format!("a Forward of {} bytes", bytes.len())))?;
                let term = u64::from_le_bytes(*term);
                Ok(Frame::Forward { term, key, data: payload.owned_from(FORWARD_HEAD_LEN) })
            }
            VERDICT => {
                let bytes: &[u8; VERDICT_LEN] = payload.as_ref().try_into().map_err(|_| {
                    undecodable(format!("a Verdict of {} bytes", payload.as_ref().len()))
                })?;
                let (key, rest) = bytes.split_at(Key::LEN);
                let key = Key::decode(key).expect("exactly a key's length was cut off");
                let (code, rest) = (rest[0], rest[1..].as_chunks::<8>().0);
                let refusal = VerdictKind::from_code(code)
                    .ok_or_else(|| undecodable(format!("an unknown refusal {code}")))?;
                let (term, leader) = (u64::from_le_bytes(rest[0]), u64::from_le_bytes(rest[1]));
                Ok(Frame::Verdict { key, refusal, term, leader })
            }
            unknown => Err(Malformed::UnknownKind(unknown)),
        }
    }
}

/// Bytes that are about to be written: all but large values in one piece.
#[derive(Debug, Default)]
pub(super) struct Encoded {
    bytes: Vec<u8>,
    /// Each with the place in `bytes` before which it stands.
    values: Vec<(usize, Bytes)>,
    values_len: usize,
}

/// A place to go back to.
#[derive(Debug, Clone, Copy)]
struct Mark {
    bytes: usize,
    values: usize,
    len: usize,
}

impl Encoded {
    pub(super) fn len(&self) -> usize {
        self.bytes.len() + self.values_len
    }

    /// Forgets everything, and the memory too when it is more than `keep` bytes.
    pub(super) fn clear(&mut self, keep: usize) {
        if self.bytes.capacity() > keep {
            *self = Self::default();
        } else {
            self.bytes.clear();
            self.values.clear();
            self.values_len = 0;
        }
    }

    /// Appends bytes that are no frame.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The first `len` bytes, which were [pushed](Self::push) before all else.
    pub(super) fn first_mut(&mut self, len: usize) -> &mut [u8] {
        &mut self.bytes[..len]
    }

    /// Has what follows the first `start` bytes written, or as many pieces of it as are written at
    /// once.
    pub(super) fn write_from<T>(&self, start: usize, write: impl FnOnce(&[IoSlice<'_>]) -> T) -> T {
        let mut slices = [IoSlice::new(&[]); MAX_SLICES];
        let (mut count, mut skip, mut at) = (0, start, 0);
        let values = self.values.iter().map(|(before, value)| (*before, &value[..]));
        for (before, value) in values.chain([(self.bytes.len(), &[][..])]) {
            for piece in [&self.bytes[at..before], value] {
                let skipped = skip.min(piece.len());
                skip -= skipped;
                if skipped < piece.len() && count < MAX_SLICES {
                    slices[count] = IoSlice::new(&piece[skipped..]);
                    count += 1;
                }
            }
            at = before;
        }
        write(&slices[..count])
    }

    /// All of it, in one piece.
    #[cfg(any(test, feature = "simulation"))]
    pub(super) fn into_bytes(self) -> Bytes {
        if self.values.is_empty() {
            return self.bytes.into();
        }
        let mut whole = Vec::with_capacity(self.len());
        while whole.len() < self.len() {
            self.write_from(whole.len(), |slices| {
                slices.iter().for_each(|slice| whole.extend_from_slice(slice));
            });
        }
        whole.into()
    }

    fn mark(&self) -> Mark {
        Mark { bytes: self.bytes.len(), values: self.values.len(), len: self.len() }
    }

    fn truncate(&mut self, mark: Mark) {
        self.bytes.truncate(mark.bytes);
        self.values.truncate(mark.values);
        self.values_len = mark.len - mark.bytes;
    }

    fn push_value(&mut self, value: &Bytes) {
        if value.len() < SPLICE_FROM {
            self.bytes.extend_from_slice(value);
        } else {
            self.values.push((self.bytes.len(), value.clone()));
            self.values_len += value.len();
        }
    }

    /// Appends a message of this length.
    fn push_message(&mut self, message: &Message, len: usize) -> protobuf::ProtobufResult<()> {
        if message.entries.iter().any(|entry| entry.data.len() >= SPLICE_FROM) {
            let mut splice = Splice { out: self, entries: message.entries.iter() };
            let mut stream = CodedOutputStream::new(&mut splice);
            message.write_to_with_cached_sizes(&mut stream)?;
            return stream.flush();
        }
        // And one more, which protobuf asks for when it is done.
        self.bytes.reserve(len + 1);
        let mut stream = CodedOutputStream::vec(&mut self.bytes);
        message.write_to_with_cached_sizes(&mut stream)?;
        stream.flush()
    }
}

/// Takes a message's bytes from protobuf, and knows a large value by where it is.
struct Splice<'a> {
    out: &'a mut Encoded,
    /// Those whose values have not come yet.
    entries: std::slice::Iter<'a, Entry>,
}

impl io::Write for Splice<'_> {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        let is_it = |entry: &&Entry| std::ptr::eq(&*entry.data, piece);
        let is_large = piece.len() >= SPLICE_FROM;
        match is_large.then(|| self.entries.find(is_it)).flatten() {
            Some(entry) => self.out.push_value(&entry.data),
            None => self.out.push(piece),
        }
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A frame's payload: a piece of the connection's buffer, or already memory of its own.
#[derive(Debug)]
enum Payload {
    Buffered(Bytes),
    Owned(Bytes),
}

impl Payload {
    fn as_ref(&self) -> &[u8] {
        match self {
            Payload::Buffered(bytes) | Payload::Owned(bytes) => bytes,
        }
    }

    fn into_owned(self) -> Bytes {
        self.owned_from(0)
    }

    fn owned_from(self, start: usize) -> Bytes {
        match self {
            Payload::Buffered(bytes) => Bytes::copy_from_slice(&bytes[start..]),
            Payload::Owned(bytes) => bytes.slice(start..),
        }
    }
}

/// A frame that has arrived whole and was not decoded yet.
#[derive(Debug)]
pub(super) struct Arrived {
    kind: u8,
    payload: Payload,
    entries: usize,
    /// The entries are most of it: they may share it.
    shares: bool,
}

impl Arrived {
    fn new(kind: u8, payload: Payload) -> Result<Self, Malformed> {
        let bytes = payload.as_ref();
        let (entries, shares) = if kind == RAFT {
            let shape = shape::of_message(bytes, LIMITS)
                .map_err(|what| Malformed::Undecodable(what.into()))?;
            let shares = bytes.len() >= SHARE_FROM && shape.entry_bytes >= bytes.len() / 2;
            (shape.entries, shares)
        } else {
            (0, false)
        };
        Ok(Self { kind, payload, entries, shares })
    }

    /// What the frame and its bytes take in memory once it is decoded, roughly.
    pub(super) fn memory(&self) -> usize {
        self.payload.as_ref().len() + size_of::<Frame>() + self.entries * size_of::<Entry>()
    }

    pub(super) fn decode(self) -> Result<Frame, Malformed> {
        Frame::decode(self.kind, self.payload, self.shares)
    }
}

/// Finds the frames in a stream's bytes, however they are cut.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    /// The beginning of a frame whose rest has not come yet.
    partial: Vec<u8>,
}

impl Decoder {
    /// The next frame; `None` when `chunk` is used up, and the rest of a frame is to come with the
    /// next one.
    pub(super) fn next(&mut self, chunk: &mut Bytes) -> Result<Option<Arrived>, Malformed> {
        if self.partial.is_empty()
            && let Some(header) = chunk.first_chunk::<HEADER_LEN>()
        {
            let (len, kind) = parse_header(*header)?;
            if chunk.len() >= HEADER_LEN + len {
                chunk.advance(HEADER_LEN);
                return Arrived::new(kind, Payload::Buffered(chunk.split_to(len))).map(Some);
            }
        }
        self.fill(HEADER_LEN, chunk);
        let Some(header) = self.partial.first_chunk::<HEADER_LEN>() else { return Ok(None) };
        let (len, kind) = parse_header(*header)?;
        self.fill(HEADER_LEN + len, chunk);
        if self.partial.len() < HEADER_LEN + len {
            return Ok(None);
        }
        let whole = Bytes::from(std::mem::take(&mut self.partial));
        Arrived::new(kind, Payload::Owned(whole.slice(HEADER_LEN..))).map(Some)
    }

    /// Whether the stream ends between two frames.
    pub(super) fn is_between_frames(&self) -> bool {
        self.partial.is_empty()
    }

    fn fill(&mut self, wanted: usize, chunk: &mut Bytes) {
        let missing = wanted.saturating_sub(self.partial.len());
        self.partial.reserve_exact(missing);
        let taken = chunk.split_to(missing.min(chunk.len()));
        self.partial.extend_from_slice(&taken);
    }
}

fn parse_header(header: [u8; HEADER_LEN]) -> Result<(usize, u8), Malformed> {
    let [a, b, c, d, kind] = header;
    let len = u32::from_le_bytes([a, b, c, d]) as usize;
    if len > MAX_PAYLOAD {
        return Err(Malformed::Oversize(len));
    }
    if !matches!(kind, RAFT | FORWARD | VERDICT) {
        return Err(Malformed::UnknownKind(kind));
    }
    Ok((len, kind))
}

#[cfg(test)]
mod fuzz;

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::BytesMut;
    use raft::eraftpb::{EntryType, MessageType};

    fn key() -> Key {
        Key { node: 1, nonce: 2, sequence: 3 }
    }

    fn append() -> Frame {
        let mut entry = Entry::default();
        entry.set_entry_type(EntryType::EntryNormal);
        (entry.term, entry.index) = (5, 8);
        entry.data = Bytes::from_static(b"put");
        entry.context = Bytes::from_static(b"k");
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgAppend);
        (message.from, message.to, message.term) = (1, 2, 5);
        (message.log_term, message.index, message.commit) = (4, 7, 6);
        message.entries = vec![entry].into();
        Frame::Raft(message)
    }

    fn verdict() -> Frame {
        Frame::Verdict { key: key(), refusal: VerdictKind::Overloaded, term: 9, leader: 7 }
    }

    fn forward() -> Frame {
        Frame::Forward { term: 258, key: key(), data: Bytes::from_static(b"xy") }
    }

    fn encoded(frame: &Frame) -> BytesMut {
        let mut encoded = Encoded::default();
        frame.encode(frame.payload_len(), &mut encoded).unwrap();
        BytesMut::from(&encoded.into_bytes()[..])
    }

    fn decoded(pieces: &[&[u8]]) -> Result<Vec<Frame>, Malformed> {
        let (mut decoder, mut frames) = (Decoder::default(), Vec::new());
        for piece in pieces {
            let mut chunk = Bytes::copy_from_slice(piece);
            while let Some(arrived) = decoder.next(&mut chunk)? {
                frames.push(arrived.decode()?);
            }
            assert!(chunk.is_empty());
        }
        Ok(frames)
    }

    /// Large values are not copied, and nobody can tell by the bytes (F4), wherever a write ends.
    #[test]
    fn large_values_are_shared() {
        let value = |nth: usize, len: usize| Bytes::from(vec![nth as u8; len]);
        let Frame::Raft(mut message) = append() else { unreachable!() };
        let sizes = [1, SPLICE_FROM, SPLICE_FROM - 1, 3, 3 * SPLICE_FROM, SPLICE_FROM];
        let entry = |(nth, len): (usize, &usize)| Entry {
            data: value(nth, *len),
            context: value(nth, 24),
            ..Entry::default()
        };
        message.entries = sizes.iter().enumerate().map(entry).collect::<Vec<_>>().into();
        let plain = message.write_to_bytes().unwrap();
        let data = value(7, SPLICE_FROM);
        let forward = Frame::Forward { term: 1, key: key(), data: data.clone() };
        let append = Frame::Raft(message);

        let mut encoded = Encoded::default();
        for frame in [&append, &forward, &verdict()] {
            frame.encode(frame.payload_len(), &mut encoded).unwrap();
        }
        let shared: Vec<_> = encoded.values.iter().map(|(_, value)| value.as_ptr()).collect();
        let Frame::Raft(message) = &append else { unreachable!() };
        let entries = [1, 4, 5].map(|nth: usize| message.entries[nth].data.as_ptr());
        assert_eq!(shared, [&entries[..], &[data.as_ptr()]].concat());

        let pieces = |start| {
            let text = |slices: &[IoSlice<'_>]| slices.iter().flat_map(|s| s.to_vec()).collect();
            encoded.write_from::<Vec<u8>>(start, text)
        };
        let whole = pieces(0);
        assert_eq!(whole.len(), encoded.len());
        assert_eq!(whole[HEADER_LEN..][..plain.len()], plain);
        for start in (0..whole.len()).step_by(997).chain([whole.len()]) {
            assert!(pieces(start) == whole[start..], "from {start}");
        }
        assert_eq!(decoded(&[&whole]), Ok(vec![append, forward, verdict()]));
    }

    /// Members of different builds talk to each other: the bytes of every kind are pinned.
    #[test]
    fn frame_bytes_are_pinned() {
        let key = "010000000000000002000000000000000300000000000000";
        let table = [
            (
                append(),
                "1c0000000108031002180120052804300\
                 73a0c10051808220370757432016b4006"
                    .to_owned(),
            ),
            (forward(), format!("2200000002{}{key}7879", "0201000000000000")),
            (verdict(), format!("2900000003{key}02{}{}", "0900000000000000", "0700000000000000")),
        ];
        for (frame, golden) in table {
            let bytes = encoded(&frame);
            let hex = bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
            assert_eq!(hex, golden, "{frame:?}");
            assert_eq!(decoded(&[&bytes]).unwrap(), [frame]);
        }
    }

    /// TCP cuts where it likes (F1): every cut of three frames gives the three frames.
    #[test]
    fn frames_survive_every_cut() {
        let frames = [append(), forward(), verdict()];
        let bytes = frames.iter().flat_map(encoded).collect::<Vec<_>>();
        for first in 0..=bytes.len() {
            for second in first..=bytes.len() {
                let pieces = [&bytes[..first], &bytes[first..second], &bytes[second..]];
                assert_eq!(decoded(&pieces).unwrap(), frames, "cut at {first} and {second}");
            }
        }
        for end in 0..encoded(&frames[0]).len() {
            assert_eq!(decoded(&[&bytes[..end]]).unwrap(), []);
        }
    }

    /// A large message is parsed in place of its own copy; the result must be the same.
    #[test]
    fn large_messages_are_read_back() {
        let Frame::Raft(mut message) = append() else { unreachable!() };
        let large = Entry { data: vec![7; 100_000].into(), ..message.entries[0].clone() };
        message.entries = vec![message.entries[0].clone(), large].into();
        let bytes = encoded(&Frame::Raft(message.clone()));
        assert_eq!(decoded(&[&bytes]).unwrap(), [Frame::Raft(message.clone())]);
        let pieces = bytes.chunks(1000).collect::<Vec<_>>();
        assert_eq!(decoded(&pieces).unwrap(), [Frame::Raft(message)]);
    }

    /// What cannot be a frame is named, and nothing is allocated for its length (F3).
    #[test]
    fn malformed_frames_are_named() {
        let frame = |len: u32, kind: u8, payload: &[u8]| {
            [&len.to_le_bytes()[..], &[kind], payload].concat()
        };
        let cap = MAX_PAYLOAD as u32;
        assert_eq!(decoded(&[&frame(cap, RAFT, &[])]).unwrap(), []);
        let table = [
            (frame(cap + 1, RAFT, &[]), "above the cap"),
            (frame(0, 0, &[]), "unknown kind 0"),
            (frame(9, 4, &[]), "unknown kind 4"),
            (frame(2, RAFT, &[0xff, 0xff]), "cannot be decoded"),
            (frame(31, FORWARD, &[0; 31]), "a Forward of 31 bytes"),
            (frame(40, VERDICT, &[0; 40]), "a Verdict of 40 bytes"),
            (frame(42, VERDICT, &[1; 42]), "a Verdict of 42 bytes"),
            (frame(41, VERDICT, &[0; 41]), "unknown refusal 0"),
        ];
        for (bytes, expected) in table {
            let error = decoded(&[&bytes]).unwrap_err().to_string();
            assert!(error.contains(expected), "{bytes:?} gave {error:?}");
            let (start, end) = bytes.split_at(3);
            assert!(decoded(&[start, end]).unwrap_err().to_string().contains(expected));
        }
    }

    /// The densest messages that a leader can send pass, and what lies beyond is refused before it
    /// is decoded (F3).
    #[test]
    fn the_densest_messages_pass() {
        let tiny = Entry { term: 1, index: 1, ..Entry::default() };
        assert_eq!(tiny.compute_size() as usize, SMALLEST_ENTRY);
        let of = |n: usize| {
            let mut message = Message { from: 1, to: 2, term: 1, ..Message::default() };
            message.set_msg_type(MessageType::MsgAppend);
            message.entries = vec![tiny.clone(); n].into();
            encoded(&Frame::Raft(message))
        };
        let arrived = Decoder::default().next(&mut of(MAX_ENTRIES).freeze()).unwrap().unwrap();
        assert!(arrived.memory() > MAX_ENTRIES * size_of::<Entry>(), "{}", arrived.memory());
        assert_eq!(decoded(&[&of(MAX_ENTRIES)]).unwrap().len(), 1);
        let refused = decoded(&[&of(MAX_ENTRIES + 1)]).unwrap_err().to_string();
        assert!(refused.contains("more entries"), "{refused}");
    }

    /// What an entry holds is its own, or its frame's where that is mostly entries: small entries in
    /// a large frame of something else must not keep it alive (F2).
    #[test]
    fn kept_entries_keep_little_else_alive() {
        let with = |data: usize, context: usize| {
            let Frame::Raft(mut message) = append() else { unreachable!() };
            message.entries[0].data = vec![7; data].into();
            message.context = vec![8; context].into();
            let bytes = encoded(&Frame::Raft(message)).freeze();
            let end = bytes.len();
            let mut whole = Bytes::copy_from_slice(&bytes);
            let buffer = whole.as_ptr_range();
            let whole = Decoder::default().next(&mut whole).unwrap().unwrap();
            let mut decoder = Decoder::default();
            assert!(decoder.next(&mut bytes.slice(..end / 2)).unwrap().is_none());
            let cut = decoder.next(&mut bytes.slice(end / 2..)).unwrap().unwrap();
            let frame = cut.payload.as_ref().as_ptr_range();
            let kept = |arrived: Arrived| match arrived.decode().unwrap() {
                Frame::Raft(message) => message.entries[0].data.clone(),
                other => panic!("{other:?}"),
            };
            let (whole, cut) = (kept(whole), kept(cut));
            assert!(!buffer.contains(&whole.as_ptr()), "the read buffer is shared");
            frame.contains(&cut.as_ptr())
        };
        let mut bytes = encoded(&forward()).freeze();
        let buffer = bytes.as_ptr_range();
        match Decoder::default().next(&mut bytes).unwrap().unwrap().decode().unwrap() {
            Frame::Forward { data, .. } => {
                assert!(!buffer.contains(&data.as_ptr()), "a command shares the read buffer");
            }
            other => panic!("{other:?}"),
        }
        assert!(with(100_000, 0), "large entries are copied twice");
        assert!(!with(500, 0), "a small frame is shared");
        assert!(!with(500, 100_000), "a small entry keeps a large frame alive");
    }

    const CHILD: &str = "FRAMES_OF_A_HOSTILE_PEER";

    /// RUSTSEC-2024-0437 is about recursion in unknown groups, which would overflow a stack and end
    /// the process. Whatever a frame of the largest size nests is refused, on a stack that is small.
    /// In a child: an overflow aborts.
    #[test]
    fn hostile_frames_do_not_overflow_a_stack() {
        if std::env::var_os(CHILD).is_some() {
            let small = std::thread::Builder::new().stack_size(64 << 10);
            return small.spawn(decode_hostile_frames).unwrap().join().unwrap();
        }
        let test = std::env::current_exe().unwrap();
        let name = std::thread::current().name().unwrap().to_owned();
        let child = std::process::Command::new(test)
            .args([&name, "--exact"])
            .env(CHILD, "1")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&child.stdout);
        assert!(child.status.success() && said.contains("1 passed"), "{}: {said}", child.status);
    }

    fn decode_hostile_frames() {
        let fill = |unit: &[u8]| unit.repeat(MAX_PAYLOAD / unit.len());
        // As deep as it gets, written from the inside.
        let nest = |tag: &[u8]| {
            let mut reversed = vec![0xff];
            while reversed.len() < MAX_PAYLOAD - 8 {
                let (mut len, mut outer) = (reversed.len(), tag.to_vec());
                while len >= 0x80 {
                    outer.push(len as u8 | 0x80);
                    len >>= 7;
                }
                outer.push(len as u8);
                reversed.extend(outer.iter().rev());
            }
            reversed.reverse();
            reversed
        };
        let hostile = [
            ("groups of an unknown field", fill(&[0xa3, 0x06])),
            ("groups of a known field", fill(&[0x3b])),
            ("groups in an entry", [&[0x3a, 0xfc, 0xff, 0xff, 0x01][..], &fill(&[0x0b])].concat()),
            ("ends of groups", fill(&[0xa4, 0x06])),
            ("entries in entries", nest(&[0x3a])),
            ("snapshots in snapshots", nest(&[0x4a])),
            ("unknown fields in unknown fields", nest(&[0xa2, 0x06])),
            ("a number without end", fill(&[0xff])),
            ("numbers cut off", fill(&[0x10, 0x01])[..MAX_PAYLOAD - 1].to_vec()),
            (
                "numbers too long",
                fill(&[0x10, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2]),
            ),
            ("empty entries", fill(&[0x3a, 0x00])),
            ("unknown numbers", fill(&[0xa0, 0x06, 0x01])),
        ];
        for (what, mut payload) in hostile {
            payload.truncate(MAX_PAYLOAD);
            let header = (payload.len() as u32).to_le_bytes();
            let frame = [&header[..], &[RAFT], &payload].concat();
            assert!(decoded(&[&frame]).is_err(), "{what}");
            // What stands behind the walk need not refuse it, but survives it as well.
            drop(Message::parse_from_bytes(&payload));
        }
    }
}
