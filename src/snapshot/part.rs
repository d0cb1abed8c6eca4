//! The parts of a snapshot file, and the chain of checksums that ties them together.
//!
//! ```text
//!  ├─ header ───────────────┼─ crc64 ─┤                                  see header
//!  ├─ n ────┼─ n bytes ─────┼─ crc64 ─┤  chunk: 1 <= n <= CHUNK_BYTES    none in a genesis file
//!  ...
//!  ├─ 0 ────┼─ body length ─┼─ crc64 ─┤  end record; nothing follows it
//! ```
//!
//! Numbers are u64, little endian. Each crc64 covers everything before it in the file except the
//! other checksums, so it holds in one place of one file only: no chunk can be missing, repeated,
//! swapped or taken from another snapshot. Checksums are left out because a CRC that runs over its
//! own value comes to the same constant after every message, and the chain would end there. The
//! last one is the checksum of the file.

use crc64fast::Digest;
use wal::defects::{Defect, has};

use super::header::{Header, LENGTH_KNOWN};

/// The most that a chunk holds, and what all but the last one do: little beside what a process
/// needs anyway, and enough that neither the frame around it nor the system call shows.
pub(super) const CHUNK_BYTES: usize = 128 << 10;
/// A number or a checksum.
pub(super) const WORD: usize = 8;
const END_BYTES: usize = 3 * WORD;

/// The running checksum of a file that is being written.
pub(super) struct Chain(Digest);

impl Chain {
    /// Begins a file with its encoded header. Also gives the header's checksum.
    pub(super) fn begin(encoded: &[u8]) -> (Self, u64) {
        let mut digest = Digest::new();
        digest.write(&encoded[..encoded.len() - WORD]);
        let checksum = digest.sum64();
        (Self(digest), checksum)
    }

    /// Adds a part and closes it with its checksum.
    pub(super) fn close(&mut self, part: &mut Vec<u8>) -> u64 {
        self.0.write(part);
        let checksum = self.0.sum64();
        part.extend_from_slice(&checksum.to_le_bytes());
        checksum
    }
}

/// A part whose checksum held.
pub(super) enum Part {
    /// The header and its checksum.
    Header(Header, u64),
    /// A chunk: its body is [`body`] of the part's bytes.
    Chunk,
    /// The end, with the file's checksum.
    End(u64),
}

/// What a chunk carries.
pub(super) fn body(part: &[u8]) -> &[u8] {
    &part[WORD..part.len() - WORD]
}

/// Verifies a file part by part, for whoever holds the bytes. A part that was refused stays
/// refused: the decoder moves on only when a checksum holds.
pub(super) struct Decoder {
    chain: Digest,
    offset: u64,
    needs: usize,
    body_bytes: u64,
    stage: Stage,
}

#[derive(Clone, Copy)]
enum Stage {
    Header,
    Body,
    Ended,
}

impl Decoder {
    pub(super) fn new() -> Self {
        let stage = Stage::Header;
        Self { chain: Digest::new(), offset: 0, needs: LENGTH_KNOWN, body_bytes: 0, stage }
    }

    /// Where the next part begins: everything before it is verified.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// How many bytes of the next part [`decode`](Self::decode) wants to see.
    pub(super) fn needs(&self) -> usize {
        self.needs
    }

    /// Decodes the next part from its first [`needs`](Self::needs) bytes. None: they only told
    /// how long the part is, and all of it is needed now.
    ///
    /// # Errors
    ///
    /// Says what the part is not.
    pub(super) fn decode(&mut self, bytes: &[u8]) -> Result<Option<Part>, String> {
        assert_eq!(bytes.len(), self.needs, "S1: a part is decoded from the bytes it needs");
        let length = match self.stage {
            Stage::Header => Header::length(bytes)?,
            Stage::Body => match word(bytes, 0) {
                0 => END_BYTES,
                n if n <= CHUNK_BYTES as u64 => 2 * WORD + usize::try_from(n).unwrap_or(0),
                n => return Err(format!("has a chunk of {n} bytes, which cannot be")),
            },
            Stage::Ended => return Err("goes on after its end".into()),
        };
        if bytes.len() < length {
            self.needs = length;
            return Ok(None);
        }
        let (covered, checksum) = (&bytes[..length - WORD], word(bytes, length - WORD));
        let mut chain = self.chain.clone();
        chain.write(covered);
        if chain.sum64() != checksum && !has(Defect::UncheckedSnapshot) {
            return Err("fails its checksum".into());
        }
        let part = match self.stage {
            Stage::Header => {
                let (header, checksum) = Header::decode(bytes)?;
                Part::Header(header, checksum)
            }
            _ if word(bytes, 0) != 0 => Part::Chunk,
            _ if word(bytes, WORD) == self.body_bytes => Part::End(checksum),
            _ => return Err("has a body of another length than its end record says".into()),
        };
        self.chain = chain;
        self.offset += length as u64;
        self.needs = WORD;
        self.stage = Stage::Body;
        match part {
            Part::Header(..) => {}
            Part::Chunk => self.body_bytes += body(bytes).len() as u64,
            Part::End(_) => self.stage = Stage::Ended,
        }
        Ok(Some(part))
    }
}

fn word(bytes: &[u8], at: usize) -> u64 {
    bytes[at..at + WORD].try_into().map_or(0, u64::from_le_bytes)
}
