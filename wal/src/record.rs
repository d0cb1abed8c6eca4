//! Records and the frame that carries a batch of them: every byte after a segment's header.
//!
//! A batch is built in the buffer that is written, is one frame with one checksum, and starts and
//! ends at a sector, so that an append never touches a sector that an earlier sync has promised.
//!
//! # Frame
//!
//! ```text
//!  0        4        8        12       16       20       24
//!  +--------+--------+--------+--------+--------+--------+
//!  | magic  | kind   | length | count  | blank  | zero   |
//!  +--------+--------+--------+--------+--------+--------+--------+
//!  | 24 sequence     | 32 previous     | 40 checksum     | 48 header
//!  +-----------------+-----------------+-----------------+-----------------+
//!  | 56 body, `length` bytes: `count` records, then zeros to a multiple of 512
//!  +-----------------------------------------------------------------------
//! ```
//!
//! - `magic` is not zero, so that unwritten space is no frame.
//! - `kind` is 1 for a batch, 2 for the head of a segment, 3 for its seal.
//! - `blank` counts those sectors after the first which hold zeros only, as some payloads do. A
//!   sector found zero beyond this count was never written.
//! - `sequence` grows by one with each frame through all segments. A seal has the number of the
//!   head that follows it.
//! - `previous` is the `checksum` of the frame before, or for a head the checksum of its segment's
//!   header. A seal follows on like a batch, but nothing follows on it.
//! - `checksum` is CRC-64 of the segment's header checksum, bytes 0 to 40, and 56 to the padded
//!   end.
//! - `header` is CRC-64 of the segment's header checksum and bytes 0 to 48. It makes `length` and
//!   `sequence` trustworthy before the body has been seen, or without it.
//!
//! # Records
//!
//! ```text
//!  0      1       2       4        8
//!  +------+-------+-------+--------+----------------------------------------+
//!  | kind | flags | zero  | length | `length` bytes                         |
//!  +------+-------+-------+--------+----------------------------------------+
//!  entry       1: index u64, term u64, payload; flag 1: a change of configuration
//!  hard state  2: term u64, vote u64, commit u64
//!  marker      3: index u64, term u64, checksum u64
//! ```
//!
//! A body is its entries in order, then at most one marker, then at most one hard state.

use bytes::Bytes;
use crc64fast::Digest;

use crate::{fs::SECTOR, index::MAX_NUMBER};

/// The bound on one batch: what replay must hold in memory, and what a length on disk is held to.
///
/// A caller's batches are bounded by the entries that may be uncommitted at once, usually 64 MiB;
/// four times that leaves room for a larger setting and keeps `length` far from the range of u32.
pub const MAX_BATCH_BYTES: u64 = 256 << 20;

/// What an emptied batch keeps of its buffer: more than what most batches hold.
const KEPT_BYTES: usize = 1 << 20;

const MAGIC: u32 = u32::from_le_bytes(*b"WALf");
pub(crate) const FRAME_HEADER: usize = 56;
const RECORD_HEADER: usize = 8;
const ENTRY: u8 = 1;
const HARD_STATE: u8 = 2;
const MARKER: u8 = 3;
const CONF_CHANGE: u8 = 1;
/// Bytes of an entry's record in front of its payload.
pub(crate) const ENTRY_HEADER: usize = RECORD_HEADER + 16;
/// Bytes of the record of a marker or a hard state, which a batch gains when it is finished.
const STATE_RECORD: usize = RECORD_HEADER + 24;

/// The state that raft requires to be durable besides its entries.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HardState {
    /// The current term.
    pub term: u64,
    /// Whom this node voted for in `term`; 0 for nobody.
    pub vote: u64,
    /// The last index known to be committed.
    pub commit: u64,
}

/// Says that a snapshot of everything through `index` is durable elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Marker {
    /// The last entry that the snapshot covers.
    pub index: u64,
    /// The term of that entry.
    pub term: u64,
    /// Tells which snapshot: the checksum of its file's header. The log only carries it.
    pub checksum: u64,
}

/// An entry read back from the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its place in the log.
    pub index: u64,
    /// The term it was proposed in.
    pub term: u64,
    /// Whether it changes the configuration.
    pub is_conf_change: bool,
    /// The caller's bytes.
    pub payload: Bytes,
}

/// What will be saved by one write and one sync.
///
/// Keeps its buffer when cleared, so one batch serves all saves of a node.
#[derive(Debug, Clone)]
pub struct Batch {
    /// Room for the frame's header, then the entries' records.
    buffer: Vec<u8>,
    contents: Contents,
}

/// What a batch says, without payloads. Writing and replay judge both by this.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Contents {
    pub(crate) marker: Option<Marker>,
    pub(crate) entries: Vec<EntryMeta>,
    pub(crate) hard_state: Option<HardState>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct EntryMeta {
    pub(crate) index: u64,
    pub(crate) term: u64,
    pub(crate) is_conf_change: bool,
    /// Where the payload starts in the frame, and its length.
    pub(crate) payload: (usize, usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Kind {
    Batch = 1,
    Head = 2,
    Seal = 3,
}

/// A frame's header whose own checksum holds. Says nothing about the body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FrameHeader {
    pub(crate) kind: Kind,
    length: u32,
    count: u32,
    blank: u32,
    pub(crate) sequence: u64,
    pub(crate) previous: u64,
    pub(crate) checksum: u64,
}

impl Contents {
    pub(crate) fn clear(&mut self) {
        self.marker = None;
        self.entries.clear();
        self.hard_state = None;
    }

    /// The highest entry that the log held with this batch, as far as the batch tells: its own, or
    /// what it says is committed or in a snapshot.
    pub(crate) fn reaches(&self) -> Option<u64> {
        let entry = self.entries.last().map(|entry| entry.index);
        let marker = self.marker.map(|marker| marker.index);
        entry.max(marker).max(self.hard_state.map(|state| state.commit))
    }

    fn count(&self) -> usize {
        self.entries.len()
            + usize::from(self.marker.is_some())
            + usize::from(self.hard_state.is_some())
    }
}

impl Batch {
    /// An empty batch.
    pub fn new() -> Self {
        Self { buffer: vec![0; FRAME_HEADER], contents: Contents::default() }
    }

    /// Empties the batch and keeps its memory.
    pub fn clear(&mut self) {
        let used = self.buffer.len().max(KEPT_BYTES);
        self.buffer.truncate(FRAME_HEADER);
        // One large batch must not hold its memory for the life of the process; while they are all
        // large, memory that is new for each costs more than writing it.
        if self.buffer.capacity() > 4 * used {
            self.buffer.shrink_to(used);
        }
        self.contents.clear();
    }

    /// Whether there is nothing to save.
    pub fn is_empty(&self) -> bool {
        self.contents.count() == 0
    }

    /// Adds an entry whose payload is the concatenation of `parts`.
    ///
    /// # Panics
    ///
    /// If the batch would exceed [`MAX_BATCH_BYTES`].
    pub fn push_entry(&mut self, index: u64, term: u64, is_conf_change: bool, parts: &[&[u8]]) {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        let total = self.buffer.len() + ENTRY_HEADER + length + 2 * STATE_RECORD;
        assert!(
            total as u64 <= MAX_BATCH_BYTES,
            "W9: a batch of {total} bytes exceeds {MAX_BATCH_BYTES}"
        );
        let flags = if is_conf_change { CONF_CHANGE } else { 0 };
        self.push_record(ENTRY, flags, 16 + length, [index, term]);
        let payload = (self.buffer.len(), length);
        parts.iter().for_each(|part| self.buffer.extend_from_slice(part));
        self.contents.entries.push(EntryMeta { index, term, is_conf_change, payload });
    }

    /// Sets the hard state, replacing one set before.
    pub fn set_hard_state(&mut self, hard_state: HardState) {
        self.contents.hard_state = Some(hard_state);
    }

    /// Sets the marker, replacing one set before.
    pub fn set_marker(&mut self, marker: Marker) {
        self.contents.marker = Some(marker);
    }

    pub(crate) fn contents(&self) -> &Contents {
        &self.contents
    }

    /// The size on disk of the frame that the batch will be.
    pub(crate) fn frame_len(&self) -> u64 {
        let states = self.contents.count() - self.contents.entries.len();
        ((self.buffer.len() + states * STATE_RECORD) as u64).next_multiple_of(SECTOR)
    }

    /// Turns the batch into the frame that is written. Only `clear` may follow.
    pub(crate) fn finish(
        &mut self,
        kind: Kind,
        sequence: u64,
        previous: u64,
        seed: u64,
    ) -> (FrameHeader, &[u8]) {
        if let Some(marker) = self.contents.marker {
            self.push_record(MARKER, 0, 24, [marker.index, marker.term, marker.checksum]);
        }
        if let Some(state) = self.contents.hard_state {
            self.push_record(HARD_STATE, 0, 24, [state.term, state.vote, state.commit]);
        }
        let length = self.buffer.len() - FRAME_HEADER;
        self.buffer.resize(self.buffer.len().next_multiple_of(SECTOR as usize), 0);
        let blank = blank_sectors(&self.buffer[SECTOR as usize..]);
        let within = "MAX_BATCH_BYTES is below u32::MAX, and a record is longer than one byte";
        let mut header = FrameHeader {
            kind,
            length: u32::try_from(length).expect(within),
            count: u32::try_from(self.contents.count()).expect(within),
            blank: u32::try_from(blank).expect(within),
            sequence,
            previous,
            checksum: 0,
        };
        let bytes = &mut self.buffer;
        bytes[..4].copy_from_slice(&MAGIC.to_le_bytes());
        bytes[4..8].copy_from_slice(&(kind as u32).to_le_bytes());
        bytes[8..12].copy_from_slice(&header.length.to_le_bytes());
        bytes[12..16].copy_from_slice(&header.count.to_le_bytes());
        bytes[16..20].copy_from_slice(&header.blank.to_le_bytes());
        bytes[20..24].fill(0);
        bytes[24..32].copy_from_slice(&sequence.to_le_bytes());
        bytes[32..40].copy_from_slice(&previous.to_le_bytes());
        header.checksum = crc(seed, &[&bytes[..40], &bytes[FRAME_HEADER..]]);
        bytes[40..48].copy_from_slice(&header.checksum.to_le_bytes());
        let own = crc(seed, &[&bytes[..48]]);
        bytes[48..56].copy_from_slice(&own.to_le_bytes());
        (header, bytes)
    }

    fn push_record<const N: usize>(&mut self, kind: u8, flags: u8, length: usize, words: [u64; N]) {
        let length = u32::try_from(length).expect("a record is shorter than MAX_BATCH_BYTES");
        self.buffer.extend_from_slice(&[kind, flags, 0, 0]);
        self.buffer.extend_from_slice(&length.to_le_bytes());
        words.iter().for_each(|word| self.buffer.extend_from_slice(&word.to_le_bytes()));
    }
}

impl Default for Batch {
    fn default() -> Self {
        Self::new()
    }
}

impl FrameHeader {
    /// The header at the start of `bytes`, if it is one of the segment with this seed.
    pub(crate) fn decode(bytes: &[u8], seed: u64) -> Option<FrameHeader> {
        let header = FrameHeader {
            kind: match u32_at(bytes, 4)? {
                1 => Kind::Batch,
                2 => Kind::Head,
                3 => Kind::Seal,
                _ => return None,
            },
            length: u32_at(bytes, 8)?,
            count: u32_at(bytes, 12)?,
            blank: u32_at(bytes, 16)?,
            sequence: u64_at(bytes, 24)?,
            previous: u64_at(bytes, 32)?,
            checksum: u64_at(bytes, 40)?,
        };
        let valid = u32_at(bytes, 0)? == MAGIC
            && u64_at(bytes, 48)? == crc(seed, &[&bytes[..48]])
            && u64::from(header.length) <= MAX_BATCH_BYTES
            && header.sequence < MAX_NUMBER;
        valid.then_some(header)
    }

    /// The size of the frame on disk.
    pub(crate) fn frame_len(&self) -> u64 {
        (FRAME_HEADER as u64 + u64::from(self.length)).next_multiple_of(SECTOR)
    }

    /// Whether `frame`, all of it, is what was written.
    pub(crate) fn verify(&self, frame: &[u8], seed: u64) -> bool {
        frame.len() as u64 == self.frame_len()
            && crc(seed, &[&frame[..40], &frame[FRAME_HEADER..]]) == self.checksum
    }

    /// Whether a sector of `present`, the part of the frame that the file still holds, was never
    /// written, or is not there at all.
    pub(crate) fn lacks_sector(&self, present: &[u8]) -> bool {
        let whole = present.len() - present.len() % SECTOR as usize;
        (whole as u64) < self.frame_len()
            || blank_sectors(&present[SECTOR as usize..]) > self.blank as usize
    }

    /// Reads the records of a verified frame into `contents`.
    ///
    /// An error here is not damage, which `verify` finds, but a writer that broke the format.
    pub(crate) fn parse(&self, frame: &[u8], contents: &mut Contents) -> Result<(), &'static str> {
        contents.clear();
        let end = FRAME_HEADER + self.length as usize;
        let mut at = FRAME_HEADER;
        while at < end {
            let record = &frame[at..end];
            let length = u32_at(record, 4).ok_or("a record is cut off")? as usize;
            let body = record.get(RECORD_HEADER..).and_then(|rest| rest.get(..length));
            let body = body.ok_or("a record is longer than its frame")?;
            let word = |i: usize| u64_at(body, 8 * i).ok_or("a record is shorter than its kind");
            match record[0] {
                ENTRY => contents.entries.push(EntryMeta {
                    index: word(0)?,
                    term: word(1)?,
                    is_conf_change: record[1] & CONF_CHANGE != 0,
                    payload: (at + ENTRY_HEADER, length - 16),
                }),
                MARKER => {
                    let (index, term, checksum) = (word(0)?, word(1)?, word(2)?);
                    contents.marker = Some(Marker { index, term, checksum });
                }
                HARD_STATE => {
                    let (term, vote, commit) = (word(0)?, word(1)?, word(2)?);
                    contents.hard_state = Some(HardState { term, vote, commit });
                }
                _ => return Err("a record of an unknown kind"),
            }
            at += RECORD_HEADER + length;
        }
        if contents.count() != self.count as usize {
            return Err("a frame holds another number of records than it says");
        }
        Ok(())
    }
}

/// CRC-64 of a seed and several slices.
pub(crate) fn crc(seed: u64, parts: &[&[u8]]) -> u64 {
    let mut digest = Digest::new();
    digest.write(&seed.to_le_bytes());
    parts.iter().for_each(|part| digest.write(part));
    digest.sum64()
}

/// Whether all bytes are zero.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    // Whole chunks are folded so that the compiler can use wide registers.
    bytes.chunks(64).all(|chunk| chunk.iter().fold(0, |all, byte| all | byte) == 0)
}

fn blank_sectors(bytes: &[u8]) -> usize {
    bytes.chunks_exact(SECTOR as usize).filter(|sector| is_zero(sector)).count()
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}
