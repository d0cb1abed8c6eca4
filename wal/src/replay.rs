//! Reading a log from its first byte to its last, and telling a torn end from damage.
//!
//! Replay changes nothing on disk: it says what is there, and `Wal::open` does what follows from
//! it. It holds one batch at a time. It allocates by no length that a checksum has not covered and
//! the file's size does not bound. Whoever only wants to look (`inspect`) watches the same replay, so
//! that there is one judge of what is torn and what is corrupt.
//!
//! # The end of the newest segment
//!
//! The first frame that is not valid, at X, is judged by what lies there and behind it:
//!
//! 1. Nothing but zeros, or the end of the file: the log ends at X.
//! 2. A later frame, told by its own header and a higher sequence: the frame at X was synced before
//!    that one was written, so it is corrupt. Copies of earlier frames that a caller happens to
//!    store as payloads have lower sequences and prove nothing.
//! 3. A first sector that is zeros or is cut off: torn. How far the frame went is unknown, but all
//!    that follows is part of it, for nothing was written behind it.
//! 4. A first sector that is a valid header: how far the frame goes is known. It is torn if one of
//!    its sectors was never written, and nothing lies behind it.
//! 5. All else is corrupt: a sector is written whole or not at all.
//!
//! In the segments before it nothing is torn, since each was synced before the next was begun. Only
//! the seal may be missing from the last but one, for it is written after the next segment is
//! there; then the next holds its head alone, for nothing is appended before the seal is durable.

use std::{
    io,
    path::{Path, PathBuf},
};

use crate::{
    defects::{Defect, has},
    error::{Context, Error, Foreign, Result},
    fs::{Access, File, Fs, SECTOR},
    index::{Breach, LogIndex, Place},
    record::{Contents, FrameHeader, Kind, is_zero},
    segment::{BadHeader, HEADER_LEN, Header, Segment, file_name},
    wal::{Options, Torn},
};

/// How much is read at once. Large enough for a disk to stream, small beside a segment.
const CHUNK_BYTES: usize = 1 << 20;

/// What was found, and where the next frame goes.
pub(crate) struct Replayed {
    pub(crate) segments: Vec<Segment>,
    pub(crate) index: LogIndex,
    pub(crate) end: End,
    /// Where the first batch of the newest segment goes.
    pub(crate) head_end: u64,
    /// Where the last but one segment lacks its seal.
    pub(crate) unsealed: Option<End>,
    pub(crate) torn: Option<Torn>,
}

/// Where the next frame of a segment goes, and what it must say.
#[derive(Debug, Clone, Copy)]
pub(crate) struct End {
    pub(crate) offset: u64,
    pub(crate) sequence: u64,
    pub(crate) previous: u64,
}

/// Who looks on. What is shown has been verified and is part of the log.
pub(crate) trait Watch {
    /// Asked before each batch: whether to end with [`Error::Interrupted`].
    fn is_stopped(&mut self) -> bool {
        false
    }

    /// A segment whose header holds.
    fn segment(&mut self, _path: &Path, _header: &Header, _bytes: u64) {}

    /// A frame that holds, and the log with it.
    fn frame(&mut self, _seen: &Seen<'_>, _index: &LogIndex) {}
}

/// A frame that holds.
pub(crate) struct Seen<'a> {
    pub(crate) frame: FrameHeader,
    pub(crate) offset: u64,
    pub(crate) bytes: &'a [u8],
    pub(crate) contents: &'a Contents,
}

/// One who only wants to be asked whether to stop.
struct Stop<'a>(&'a dyn Fn() -> bool);

impl Watch for Stop<'_> {
    fn is_stopped(&mut self) -> bool {
        (self.0)()
    }
}

/// Whose segments are read, and what for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reader {
    /// This member's, to be written to.
    Member { cluster: u64, node: u64 },
    /// Whoever the first segment says, and nothing is ever written.
    Onlooker,
}

/// Replays the segments with these sequences and first indexes, which must be contiguous.
pub(crate) fn replay(
    fs: &dyn Fs,
    dir: &Path,
    names: &[(u64, u64)],
    options: &Options,
    stop: &dyn Fn() -> bool,
) -> Result<Replayed> {
    let reader = Reader::Member { cluster: options.cluster, node: options.node };
    replay_watched(fs, dir, names, reader, &mut Stop(stop))
}

/// As [`replay`], with someone who looks on.
pub(crate) fn replay_watched(
    fs: &dyn Fs,
    dir: &Path,
    names: &[(u64, u64)],
    reader: Reader,
    watch: &mut dyn Watch,
) -> Result<Replayed> {
    let mut owner = match reader {
        Reader::Member { cluster, node } => Some((cluster, node)),
        Reader::Onlooker => None,
    };
    let mut segments = Vec::with_capacity(names.len());
    let mut log: Option<(LogIndex, End)> = None;
    let mut unsealed = None;
    let mut torn = None;
    let mut head_end = 0;
    for (at, &(sequence, first_index)) in names.iter().enumerate() {
        let path = dir.join(file_name(sequence, first_index));
        let next = names.get(at + 1).map(|next| next.1);
        // All but the last two are never written again.
        let is_final = at + 2 < names.len() || reader == Reader::Onlooker;
        let access = if is_final { Access::Read } else { Access::ReadWrite };
        let file = fs.open(&path, access).context("open", &path)?;
        if at + 2 >= names.len() && !has(Defect::BelieveCache) {
            // What a process that died has written, a seal too, may be in the cache alone, and after
            // a failed sync may never reach the disk: judge what the disk holds.
            file.forget_cache().context("drop the cache of", &path)?;
        }
        let size = file.size().context("measure", &path)?;
        let scan = Scan {
            path: &path,
            window: Window::new(&*file, size, CHUNK_BYTES),
            next_first_index: next,
            owner,
            is_alone: false,
            contents: Contents::default(),
        };
        let outcome = scan.run(log.take(), Some((sequence, first_index)), watch)?;
        owner = Some((outcome.header.cluster, outcome.header.node));
        if let Some(end) = unsealed {
            let End { offset, .. } = end;
            if outcome.n_batches > 0 || outcome.torn.is_some() {
                let segment: &Segment = &segments[at - 1];
                return Err(Error::Corrupt {
                    path: segment.path.clone(),
                    offset,
                    first_index: outcome.header.base.index + 1,
                    last_index: None,
                    reason: "the seal is missing although the next segment is in use".to_owned(),
                });
            }
        }
        if !outcome.is_sealed && next.is_some() {
            if at + 2 < names.len() {
                return Err(Error::Corrupt {
                    path,
                    offset: outcome.end.offset,
                    first_index: outcome.index.last_index() + 1,
                    last_index: None,
                    reason: "the seal is missing".to_owned(),
                });
            }
            unsealed = Some(outcome.end);
        }
        segments.push(Segment {
            path: path.clone(),
            file: file.into(),
            header: outcome.header,
            seed: outcome.seed,
            bytes: size,
            head_marker: outcome.head_marker,
            lowest: outcome.lowest,
        });
        torn = outcome.torn;
        head_end = outcome.head_end;
        log = Some((outcome.index, outcome.end));
    }
    let Some((index, end)) = log else {
        return Err(Error::Missing { path: dir.to_owned(), why: "a log has at least one segment" });
    };
    let covered = index.markers().last().map_or(0, |marker| marker.index);
    if index.base().index > covered {
        let path = dir.join(format!("{:016x}-*.wal", names[0].0.saturating_sub(1)));
        return Err(Error::Missing { path, why: "the newest marker needs the entries in it" });
    }
    Ok(Replayed { segments, index, end, head_end, unsealed, torn })
}

/// Replays one segment without those before it, of which it may be the only one left.
///
/// A name that is not a segment's says nothing about the header. `next_first_index` is that of the
/// segment that follows, if one is known to.
pub(crate) fn replay_alone(
    fs: &dyn Fs,
    path: &Path,
    name: Option<(u64, u64)>,
    next_first_index: Option<u64>,
    watch: &mut dyn Watch,
) -> Result<Outcome> {
    let file = fs.open(path, Access::Read).context("open", path)?;
    file.forget_cache().context("drop the cache of", path)?;
    let size = file.size().context("measure", path)?;
    let window = Window::new(&*file, size, CHUNK_BYTES);
    let contents = Contents::default();
    Scan { path, window, next_first_index, owner: None, is_alone: true, contents }
        .run(None, name, watch)
}

/// One segment being replayed.
struct Scan<'a> {
    path: &'a Path,
    window: Window<'a>,
    /// The first index of the segment that follows; none follows the newest.
    next_first_index: Option<u64>,
    /// The cluster and the node that the header must name.
    owner: Option<(u64, u64)>,
    /// Whether the segments before and after it are not looked at.
    is_alone: bool,
    contents: Contents,
}

pub(crate) struct Outcome {
    header: Header,
    seed: u64,
    head_marker: Option<crate::Marker>,
    pub(crate) index: LogIndex,
    end: End,
    head_end: u64,
    lowest: u64,
    n_batches: u64,
    pub(crate) is_sealed: bool,
    pub(crate) torn: Option<Torn>,
}

impl Scan<'_> {
    /// Replays the segment onto the log before it, or as the first.
    fn run(
        mut self,
        log: Option<(LogIndex, End)>,
        name: Option<(u64, u64)>,
        watch: &mut dyn Watch,
    ) -> Result<Outcome> {
        let (header, seed) = self.header(log.as_ref(), name)?;
        watch.segment(self.path, &header, self.window.size);
        let offset = HEADER_LEN as u64;
        let Head { mut index, frame, marker: head_marker } =
            self.head(log, &header, seed, offset)?;
        self.show(frame, offset, &index, watch)?;
        let mut end = End {
            offset: offset + frame.frame_len(),
            sequence: frame.sequence + 1,
            previous: frame.checksum,
        };
        let head_end = end.offset;
        let outcome = |index, end, lowest, n_batches, is_sealed, torn| Outcome {
            header,
            seed,
            head_marker,
            index,
            end,
            head_end,
            lowest,
            n_batches,
            is_sealed,
            torn,
        };
        let mut lowest = u64::MAX;
        let mut n_batches = 0;
        loop {
            if watch.is_stopped() {
                return Err(Error::Interrupted);
            }
            let Some(frame) = self.frame(seed, end)? else {
                let torn = self.judge(seed, end, index.last_index())?;
                return Ok(outcome(index, end, lowest, n_batches, false, torn));
            };
            if self.is_alone && frame.kind == Kind::Batch {
                index.reach_back(&self.contents);
            }
            let corrupt =
                |scan: &Self, reason| scan.corrupt(end.offset, index.last_index(), None, reason);
            let next = end.offset + frame.frame_len();
            match frame.kind {
                Kind::Batch => {}
                Kind::Head => return Err(corrupt(&self, "a head that is not the first frame")),
                Kind::Seal => {
                    if self.next_first_index.is_none() && !self.is_alone {
                        let following = file_name(header.sequence + 1, index.last_index() + 1);
                        return Err(Error::Missing {
                            path: self.path.with_file_name(following),
                            why: "the segment before it is sealed",
                        });
                    }
                    if self.survey(next, seed, u64::MAX)?.nonzero_end.is_some() {
                        return Err(corrupt(&self, "bytes behind the seal"));
                    }
                    self.contents.clear();
                    self.show(frame, end.offset, &index, watch)?;
                    return Ok(outcome(index, end, lowest, n_batches, true, None));
                }
            }
            if let Err(Breach(rule)) = index.check(&self.contents) {
                return Err(corrupt(&self, &rule));
            }
            let place = Place { segment: header.sequence, start: end.offset, end: next };
            lowest = index.apply(&self.contents, place).map_or(lowest, |low| low.min(lowest));
            n_batches += 1;
            self.show(frame, end.offset, &index, watch)?;
            end = End { offset: next, sequence: end.sequence + 1, previous: frame.checksum };
        }
    }

    /// Shows the frame that was verified last, which the window still holds.
    fn show(
        &mut self,
        frame: FrameHeader,
        offset: u64,
        index: &LogIndex,
        watch: &mut dyn Watch,
    ) -> Result<()> {
        let bytes = self.window.frame(offset, &frame).context("read", self.path)?;
        watch.frame(&Seen { frame, offset, bytes, contents: &self.contents }, index);
        Ok(())
    }

    /// The segment's header, which must fit its name and the log before it.
    fn header(
        &mut self,
        log: Option<&(LogIndex, End)>,
        name: Option<(u64, u64)>,
    ) -> Result<(Header, u64)> {
        let last_index = name.map_or(0, |(_, first_index)| first_index.saturating_sub(1));
        let bytes = self.window.get(0, HEADER_LEN).context("read", self.path)?;
        if bytes.len() < HEADER_LEN {
            return Err(self.corrupt(0, last_index, None, "the header is cut off"));
        }
        let decoded = match self.owner {
            Some((cluster, node)) => Header::decode(bytes, cluster, node),
            None => Header::decode_any(bytes),
        };
        let (header, seed) = match decoded {
            Ok(decoded) => decoded,
            Err(BadHeader::Foreign(Foreign::Magic)) if is_zero(bytes) => {
                return Err(self.corrupt(0, last_index, None, "the header is zeros"));
            }
            Err(BadHeader::Foreign(what)) => {
                return Err(Error::Foreign { path: self.path.to_owned(), what });
            }
            Err(BadHeader::Corrupt) => {
                return Err(self.corrupt(0, last_index, None, "the header's checksum is wrong"));
            }
        };
        let named = header.base.index.checked_add(1).map(|first| (header.sequence, first));
        if named.is_none() || name.is_some_and(|name| named != Some(name)) {
            return Err(self.corrupt(0, last_index, None, "the header is that of another segment"));
        }
        if let Some((index, end)) = log
            && (header.previous != end.previous || header.base != index.last())
        {
            let reason = "the segment does not follow on the one before";
            return Err(self.corrupt(0, index.last_index(), None, reason));
        }
        Ok((header, seed))
    }

    /// The head: where a log begins, and elsewhere a repetition of what is known.
    fn head(
        &mut self,
        log: Option<(LogIndex, End)>,
        header: &Header,
        seed: u64,
        offset: u64,
    ) -> Result<Head> {
        let last_index = header.base.index;
        // The frame sequence of the first retained segment is known from nowhere else.
        let bytes = self.window.get(offset, SECTOR as usize).context("read", self.path)?;
        let found = FrameHeader::decode(bytes, seed).map(|frame| frame.sequence);
        let sequence = match &log {
            Some((_, end)) => Some(end.sequence),
            None => found,
        };
        let frame = match sequence {
            Some(sequence) => self.frame(seed, End { offset, sequence, previous: seed })?,
            None => None,
        };
        let Some(frame) = frame.filter(|frame| frame.kind == Kind::Head) else {
            // A segment gets its name after its head is durable: no crash leaves one without.
            return Err(self.corrupt(offset, last_index, None, "the head is damaged"));
        };
        let head = &self.contents;
        let index = match log {
            None => LogIndex::begin(header.base, header.sequence, head)
                .map_err(|Breach(rule)| self.corrupt(offset, last_index, None, &rule))?,
            Some((index, _)) => {
                let known = Contents {
                    marker: index.markers().last().copied(),
                    entries: Vec::new(),
                    hard_state: Some(index.hard_state()),
                };
                if *head != known {
                    let reason = "the head differs from the log before it";
                    return Err(self.corrupt(offset, last_index, None, reason));
                }
                index
            }
        };
        Ok(Head { index, frame, marker: self.contents.marker })
    }

    /// The valid frame at `end`, its records in `self.contents`; none if what is there is not.
    fn frame(&mut self, seed: u64, end: End) -> Result<Option<FrameHeader>> {
        let offset = end.offset;
        let start = self.window.get(offset, SECTOR as usize).context("read", self.path)?;
        let Some(frame) = FrameHeader::decode(start, seed) else { return Ok(None) };
        if frame.sequence != end.sequence || frame.previous != end.previous {
            return Ok(None);
        }
        let bytes = self.window.frame(offset, &frame).context("read", self.path)?;
        if !frame.verify(bytes, seed) {
            return Ok(None);
        }
        match frame.parse(bytes, &mut self.contents) {
            Ok(()) => Ok(Some(frame)),
            Err(reason) => Err(self.corrupt(offset, 0, None, reason)),
        }
    }

    /// Judges a frame that is not valid, as the module's documentation numbers it.
    fn judge(&mut self, seed: u64, end: End, last_index: u64) -> Result<Option<Torn>> {
        let offset = end.offset;
        let survey = self.survey(offset, seed, end.sequence)?;
        let Some(nonzero_end) = survey.nonzero_end else { return Ok(None) }; // 1
        let lost = survey.last_index;
        if self.next_first_index.is_some() {
            return Err(self.corrupt(offset, last_index, lost, "a frame is damaged"));
        }
        let torn =
            Torn { path: self.path.to_owned(), offset, bytes: nonzero_end.saturating_sub(offset) };
        if has(Defect::TruncateOnDamage) {
            return Ok(Some(torn));
        }
        if survey.has_later_frame {
            let reason = "a frame is damaged although a later one was written"; // 2
            return Err(self.corrupt(offset, last_index, lost, reason));
        }
        let start = self.window.get(offset, SECTOR as usize).context("read", self.path)?;
        if start.len() < SECTOR as usize || is_zero(start) {
            return Ok(Some(torn)); // 3
        }
        let Some(frame) = FrameHeader::decode(start, seed) else {
            let reason = "the header of the last frame is damaged";
            return Err(self.corrupt(offset, last_index, lost, reason));
        };
        if frame.sequence != end.sequence || frame.previous != end.previous {
            let reason = "the last frame does not follow on the one before";
            return Err(self.corrupt(offset, last_index, lost, reason));
        }
        if nonzero_end > offset + frame.frame_len() {
            return Err(self.corrupt(offset, last_index, lost, "bytes behind the last frame"));
        }
        let present = self.window.frame(offset, &frame).context("read", self.path)?;
        if frame.lacks_sector(present) {
            return Ok(Some(torn)); // 4
        }
        let reason = "the last frame is damaged, and whole";
        Err(self.corrupt(offset, last_index, lost, reason)) // 5
    }

    /// Looks at everything from `offset` on, a frame boundary, for what an end must not have.
    fn survey(&mut self, offset: u64, seed: u64, sequence: u64) -> Result<Survey> {
        let mut survey = Survey::default();
        let mut at = offset;
        loop {
            let sector = self.window.get(at, SECTOR as usize).context("read", self.path)?;
            if sector.is_empty() {
                return Ok(survey);
            }
            if !is_zero(sector) {
                survey.nonzero_end = Some(at + sector.len() as u64);
                let later = FrameHeader::decode(sector, seed).filter(|f| f.sequence > sequence);
                if let Some(frame) = later {
                    survey.has_later_frame = true;
                    let bytes = self.window.frame(at, &frame).context("read", self.path)?;
                    if frame.verify(bytes, seed) && frame.parse(bytes, &mut self.contents).is_ok() {
                        survey.last_index = survey.last_index.max(self.contents.reaches());
                    }
                }
            }
            at += SECTOR;
        }
    }

    fn corrupt(&self, offset: u64, last_index: u64, lost: Option<u64>, reason: &str) -> Error {
        let first_index = last_index + 1;
        // The next segment's name tells what this one reached at least.
        let reached = self.next_first_index.map(|next| next.saturating_sub(1));
        Error::Corrupt {
            path: PathBuf::from(self.path),
            offset,
            first_index,
            last_index: lost.max(reached).filter(|&last| last >= first_index),
            reason: reason.to_owned(),
        }
    }
}

/// The beginning of a segment, and the log up to there.
struct Head {
    index: LogIndex,
    frame: FrameHeader,
    marker: Option<crate::Marker>,
}

#[derive(Debug, Default)]
struct Survey {
    /// The end of the last sector that is not zeros.
    nonzero_end: Option<u64>,
    has_later_frame: bool,
    /// The highest entry that a later frame which is whole proves to have been there.
    last_index: Option<u64>,
}

/// A part of a file, read in chunks.
pub(crate) struct Window<'a> {
    file: &'a dyn File,
    size: u64,
    chunk: usize,
    start: u64,
    bytes: Vec<u8>,
}

impl<'a> Window<'a> {
    pub(crate) fn new(file: &'a dyn File, size: u64, chunk: usize) -> Self {
        Self { file, size, chunk, start: 0, bytes: Vec::new() }
    }

    /// The bytes at `offset`, fewer than `length` only at the end of the file.
    pub(crate) fn get(&mut self, offset: u64, length: usize) -> io::Result<&[u8]> {
        let left = self.size.saturating_sub(offset);
        let length = usize::try_from(left).map_or(length, |left| left.min(length));
        let is_inside =
            offset >= self.start && offset + length as u64 <= self.start + self.bytes.len() as u64;
        if !is_inside {
            let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(length.max(self.chunk));
            self.bytes.resize(wanted, 0);
            self.start = offset;
            let read = self.file.read_full_at(offset, &mut self.bytes)?;
            self.bytes.truncate(read);
        }
        let from = usize::try_from(offset - self.start).map_err(io::Error::other)?;
        let until = self.bytes.len().min(from + length);
        Ok(&self.bytes[from.min(until)..until])
    }

    /// The bytes of a frame, as far as the file goes.
    pub(crate) fn frame(&mut self, offset: u64, frame: &FrameHeader) -> io::Result<&[u8]> {
        self.get(offset, usize::try_from(frame.frame_len()).map_err(io::Error::other)?)
    }
}
