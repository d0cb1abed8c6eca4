//! Segments: their names, their header, and how one comes into being.
//!
//! A file whose name ends in `.wal` has a valid header and a valid head, always: it is built under
//! a temporary name and synced before it gets that name. This module never reads past the header
//! and never repairs one.
//!
//! # Header
//!
//! ```text
//!  0                 8        12       16                24
//!  +-----------------+--------+--------+-----------------+-----------------+
//!  | magic           | version| zero   | cluster         | node            |
//!  +-----------------+--------+--------+-----------------+-----------------+
//!  | 32 sequence     | 40 base index   | 48 base term    | 56 previous     |
//!  +-----------------+-----------------+-----------------+-----------------+
//!  | 64 zeros                                  ... 504 | 504 checksum      |
//!  +---------------------------------------------------+-------------------+
//! ```
//!
//! - `version` is judged before the checksum, so that a later format is told from damage.
//! - `base` is the last entry of the log when the segment was begun. The file's name holds the
//!   sequence and the index that follows the base.
//! - `previous` is the checksum of the last batch or head of the segment before, 0 in the first.
//! - `checksum` is CRC-64 of a seed of 0 and bytes 0 to 504. It seeds all checksums of the segment.

use std::{
    ffi::OsStr,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    defects::{Defect, has},
    deferred::Released,
    error::{Context, Foreign, Result},
    fs::{Access, File, Fs, SECTOR},
    index::MAX_NUMBER,
    record::{Batch, Kind, Marker, crc, u32_at, u64_at},
    replay::End,
};

/// The version of the format that this program reads and writes.
pub const VERSION: u32 = 1;

const MAGIC: [u8; 8] = *b"raftwal\x1a";
const SUFFIX: &str = ".wal";
const TMP_SUFFIX: &str = ".wal.tmp";
const RELEASED_SUFFIX: &str = ".wal.released";
pub(crate) const HEADER_LEN: usize = SECTOR as usize;
const CHECKSUM_AT: usize = HEADER_LEN - 8;

/// A place in the log: an entry's index and term.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Position {
    pub(crate) index: u64,
    pub(crate) term: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) cluster: u64,
    pub(crate) node: u64,
    pub(crate) sequence: u64,
    pub(crate) base: Position,
    pub(crate) previous: u64,
}

/// Why bytes are not a header that can be used.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum BadHeader {
    Foreign(Foreign),
    Corrupt,
}

/// A segment that is part of the open log.
pub(crate) struct Segment {
    pub(crate) path: PathBuf,
    pub(crate) file: Arc<dyn File>,
    pub(crate) header: Header,
    /// The header's checksum.
    pub(crate) seed: u64,
    /// The file's size.
    pub(crate) bytes: u64,
    /// The newest marker when the segment was begun.
    pub(crate) head_marker: Option<Marker>,
    /// The lowest index that any frame of the segment wrote or cut at.
    pub(crate) lowest: u64,
}

impl Header {
    pub(crate) fn encode(&self) -> ([u8; HEADER_LEN], u64) {
        let mut bytes = [0; HEADER_LEN];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        let words = [
            self.cluster,
            self.node,
            self.sequence,
            self.base.index,
            self.base.term,
            self.previous,
        ];
        for (word, bytes) in words.iter().zip(bytes[16..].chunks_exact_mut(8)) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        let seed = crc(0, &[&bytes[..CHECKSUM_AT]]);
        bytes[CHECKSUM_AT..].copy_from_slice(&seed.to_le_bytes());
        (bytes, seed)
    }

    /// The header and its checksum, if it is whole and belongs to this member.
    pub(crate) fn decode(
        bytes: &[u8],
        cluster: u64,
        node: u64,
    ) -> Result<(Header, u64), BadHeader> {
        let (header, seed) = Self::decode_any(bytes)?;
        if header.cluster != cluster && !has(Defect::ForeignLog) {
            let found = header.cluster;
            return Err(BadHeader::Foreign(Foreign::Cluster { found, expected: cluster }));
        }
        if header.node != node {
            let found = header.node;
            return Err(BadHeader::Foreign(Foreign::Node { found, expected: node }));
        }
        Ok((header, seed))
    }

    /// The header and its checksum, if it is whole, whoever it belongs to.
    pub(crate) fn decode_any(bytes: &[u8]) -> Result<(Header, u64), BadHeader> {
        if !bytes.starts_with(&MAGIC) {
            return Err(BadHeader::Foreign(Foreign::Magic));
        }
        let found = u32_at(bytes, 8).ok_or(BadHeader::Corrupt)?;
        if found != VERSION {
            return Err(BadHeader::Foreign(Foreign::Version { found, expected: VERSION }));
        }
        let word = |at| u64_at(bytes, at).ok_or(BadHeader::Corrupt);
        let seed = word(CHECKSUM_AT)?;
        if seed != crc(0, &[&bytes[..CHECKSUM_AT]]) {
            return Err(BadHeader::Corrupt);
        }
        let header = Header {
            cluster: word(16)?,
            node: word(24)?,
            sequence: word(32)?,
            base: Position { index: word(40)?, term: word(48)? },
            previous: word(56)?,
        };
        Ok((header, seed))
    }

    pub(crate) fn file_name(&self) -> String {
        file_name(self.sequence, self.base.index + 1)
    }
}

pub(crate) fn file_name(sequence: u64, first_index: u64) -> String {
    format!("{sequence:016x}-{first_index:016x}{SUFFIX}")
}

/// The name of a file that is to become a segment whose first index is not known yet.
///
/// No segment begins with entry 0, so it is never the temporary name of a segment's creation.
pub(crate) fn prepared_name(sequence: u64) -> String {
    format!("{sequence:016x}-{:016x}{TMP_SUFFIX}", 0)
}

/// What a name in the log's directory stands for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Name {
    Segment {
        sequence: u64,
        first_index: u64,
    },
    /// What a crash left of a segment's creation or preparation.
    Unfinished,
    /// What a crash left of a release: this segment and all before it were to be deleted.
    Released {
        sequence: u64,
    },
    /// Ends as a segment's name does, but is none.
    Malformed,
    /// None of ours.
    Other,
}

pub(crate) fn parse_name(name: &OsStr) -> Name {
    let Some(name) = name.to_str() else { return Name::Other };
    let numbers = |stem: &str| {
        let (sequence, first) = stem.split_once('-')?;
        let parse = |digits| u64::from_str_radix(digits, 16).ok();
        let (sequence, first_index) = (parse(sequence)?, parse(first)?);
        // Only one spelling: no sign, no upper case, no missing digit; and no number that W11 rules
        // out, since what follows on it could not be counted.
        let is_countable = sequence < MAX_NUMBER && first_index < MAX_NUMBER;
        (is_countable && file_name(sequence, first_index).strip_suffix(SUFFIX) == Some(stem))
            .then_some((sequence, first_index))
    };
    if let Some(stem) = name.strip_suffix(TMP_SUFFIX) {
        return if numbers(stem).is_some() { Name::Unfinished } else { Name::Other };
    }
    if let Some(stem) = name.strip_suffix(RELEASED_SUFFIX) {
        return numbers(stem).map_or(Name::Other, |(sequence, _)| Name::Released { sequence });
    }
    match name.strip_suffix(SUFFIX).map(numbers) {
        Some(Some((sequence, first_index))) => Name::Segment { sequence, first_index },
        Some(None) => Name::Malformed,
        None => Name::Other,
    }
}

/// Deletes every segment up to this sequence so that a crash leaves all or none.
///
/// The log could not be replayed from each of them, and must not have a gap, so one rename decides:
/// a name that says released stands for itself and all before it. The directory tells which there
/// are, for an earlier deletion may never have been run.
pub(crate) fn delete(fs: &dyn Fs, dir: &Path, newest: u64) -> Result<Released> {
    let mut doomed = Vec::new();
    for name in fs.list(dir).context("list", dir)? {
        match parse_name(&name) {
            Name::Segment { sequence, .. } if sequence <= newest => {
                doomed.push((sequence, dir.join(name)));
            }
            _ => {}
        }
    }
    doomed.sort_unstable();
    let mut bytes = 0;
    for (_, path) in &doomed {
        let file = fs.open(path, Access::Read).context("open", path)?;
        bytes += file.size().context("measure", path)?;
    }
    let n_segments = doomed.len() as u64;
    let older: Vec<_> = doomed.into_iter().map(|(_, path)| path).collect();
    if let Some((newest, older)) = older.split_last() {
        let released = newest.with_extension("wal.released");
        if has(Defect::PiecemealRelease) {
            finish_delete(fs, dir, older, newest)?;
            return Ok(Released { n_segments, bytes });
        }
        fs.rename(newest, &released).context("rename", newest)?;
        fs.sync_dir(dir).context("sync", dir)?;
        finish_delete(fs, dir, older, &released)?;
    }
    Ok(Released { n_segments, bytes })
}

/// Goes on with a deletion that a rename has decided.
pub(crate) fn finish_delete(
    fs: &dyn Fs,
    dir: &Path,
    older: &[PathBuf],
    released: &Path,
) -> Result<()> {
    for path in older {
        fs.remove_file(path).context("remove", path)?;
    }
    fs.sync_dir(dir).context("sync", dir)?;
    fs.remove_file(released).context("remove", released)?;
    fs.sync_dir(dir).context("sync", dir)
}

/// A file under a temporary name that is to become a segment.
pub(crate) struct Blank {
    pub(crate) tmp: PathBuf,
    file: Box<dyn File>,
    bytes: u64,
    /// How far zeros have been written into it.
    filled: u64,
}

impl Blank {
    pub(crate) fn new(tmp: PathBuf, file: Box<dyn File>) -> Self {
        Self { tmp, file, bytes: 0, filled: 0 }
    }

    pub(crate) fn allocate(&mut self, bytes: u64) -> Result<()> {
        self.file.allocate(bytes).context("allocate", &self.tmp)?;
        self.bytes = bytes;
        Ok(())
    }

    /// Writes zeros as far as the file goes or `until`, and syncs them.
    pub(crate) fn fill(&mut self, until: u64) -> Result<()> {
        self.filled = until.min(self.bytes);
        write_zeros(&*self.file, 0, self.filled).context("write", &self.tmp)?;
        self.file.sync_all().context("sync", &self.tmp)
    }
}

pub(crate) fn write_zeros(file: &dyn File, mut from: u64, until: u64) -> io::Result<()> {
    let zeros = vec![0; until.saturating_sub(from).min(1 << 20) as usize];
    while from < until {
        let length = (until - from).min(zeros.len() as u64);
        file.write_all_at(from, &zeros[..length as usize])?;
        from += length;
    }
    Ok(())
}

/// Creates a segment with its head, durable under its final name on return.
///
/// It is made of `prepared` if there is one. Returns the segment, the end of its head, and how far
/// zeros or frames have been written into it.
pub(crate) fn create(
    fs: &dyn Fs,
    dir: &Path,
    header: Header,
    segment_bytes: u64,
    prepared: Option<Blank>,
    head: &mut Batch,
    frame_sequence: u64,
) -> Result<(Segment, End, u64)> {
    let path = dir.join(header.file_name());
    let (bytes, seed) = header.encode();
    let head_marker = head.contents().marker;
    let (frame, frame_bytes) = head.finish(Kind::Head, frame_sequence, seed, seed);

    let blank = match prepared {
        Some(blank) => blank,
        None => {
            let tmp = path.with_extension("wal.tmp");
            let file = fs.create_new(&tmp).context("create", &tmp)?;
            let mut blank = Blank::new(tmp, file);
            blank.allocate(segment_bytes)?;
            blank
        }
    };
    let Blank { tmp, file, bytes: allocated, filled } = blank;
    file.write_all_at(0, &bytes).context("write", &tmp)?;
    file.write_all_at(HEADER_LEN as u64, frame_bytes).context("write", &tmp)?;
    file.sync_all().context("sync", &tmp)?;
    fs.rename(&tmp, &path).context("rename", &tmp)?;
    if !has(Defect::SkipDirSync) {
        fs.sync_dir(dir).context("sync", dir)?;
    }

    let offset = HEADER_LEN as u64 + frame.frame_len();
    let end = End { offset, sequence: frame_sequence + 1, previous: frame.checksum };
    let bytes = allocated.max(offset);
    let segment =
        Segment { path, file: file.into(), header, seed, bytes, head_marker, lowest: u64::MAX };
    Ok((segment, end, filled.max(offset)))
}
