//! Looking at a log without opening it: what it holds, whether it is sound, and if not, what is.
//!
//! Nothing is written, created, locked or repaired, and no cluster or node has to be known: the
//! segments say whose they are. The judgement is replay's own: what is said of a log here is what
//! [`Wal::open`](crate::Wal::open) would say of it at this moment. A log that is being written to
//! is a moving target; whoever looks sees to it that nobody does.
//!
//! - I1 What is shown to the caller has been verified, and is what an opened log would hold: a
//!   batch is shown once every checksum of it holds and no rule of the log is broken by it. The
//!   one thing that is noticed too late for this is a missing seal in the last but one segment.
//! - I2 One batch is in memory at a time, however long the log is.

use std::{
    ops::ControlFlow,
    path::{Path, PathBuf},
};

use crate::{
    error::{Error, Result},
    fs::{Fs, parent},
    index::LogIndex,
    record::{EntryMeta, HardState, Kind, Marker},
    replay::{Reader, Seen, Watch, replay_alone, replay_watched},
    segment::{Header, Name, parse_name},
    wal::{Found, Torn, contiguous, survey},
};

/// What there is to see, in the order of the log.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A segment begins.
    Segment(Segment<'a>),
    /// A frame of the segment that began last.
    Frame(Frame<'a>),
}

/// What a segment's header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment<'a> {
    /// Its file.
    pub path: &'a Path,
    /// The file's size in bytes.
    pub bytes: u64,
    /// The cluster it belongs to.
    pub cluster: u64,
    /// The member it belongs to.
    pub node: u64,
    /// Its place among the segments.
    pub sequence: u64,
    /// The last entry of the log when it was begun.
    pub base_index: u64,
    /// The term of that entry.
    pub base_term: u64,
}

/// What a frame is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameKind {
    /// Something that was saved.
    Batch,
    /// The beginning of a segment: what was known before it, again.
    Head,
    /// The end of a segment, written when the next is there.
    Seal,
}

/// A frame and the records in it.
#[derive(Debug)]
pub struct Frame<'a> {
    /// Where it begins in its segment's file.
    pub offset: u64,
    /// Its size, a multiple of 512.
    pub bytes: u64,
    /// Its number. A seal has that of the head which follows it.
    pub sequence: u64,
    /// What it is for.
    pub kind: FrameKind,
    /// The newest snapshot that is durable.
    pub marker: Option<Marker>,
    /// The hard state.
    pub hard_state: Option<HardState>,
    metas: &'a [EntryMeta],
    present: &'a [u8],
}

/// An entry where it lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    /// Its place in the log.
    pub index: u64,
    /// The term it was proposed in.
    pub term: u64,
    /// Whether it changes the configuration.
    pub is_conf_change: bool,
    /// The caller's bytes.
    pub payload: &'a [u8],
}

impl Frame<'_> {
    /// The entries in it, in order. One replaces what had its index, and all behind that.
    pub fn entries(&self) -> impl Iterator<Item = Record<'_>> {
        self.metas.iter().map(|meta| {
            let EntryMeta { index, term, is_conf_change, payload: (start, length) } = *meta;
            Record { index, term, is_conf_change, payload: &self.present[start..start + length] }
        })
    }
}

/// As far as the log is whole: what would be left of it if it ended there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// The segment with the last frame that holds.
    pub path: PathBuf,
    /// Where that frame ends.
    pub offset: u64,
    /// That frame's number.
    pub sequence: u64,
    /// The first entry of the log, whether it is there or not.
    pub first_index: u64,
    /// The last entry, or the one before the first if there is none.
    pub last_index: u64,
    /// The hard state there.
    pub hard_state: HardState,
}

/// What was found.
#[derive(Debug)]
pub struct Report {
    /// Whether the log would open; the error is the one that opening it would give.
    pub verdict: Result<Sound>,
    /// What holds up to its end or to the damage; none if that is at the very beginning.
    pub kept: Option<Kept>,
    /// What a crash left, and opening the log would remove.
    pub leftovers: Vec<PathBuf>,
}

/// A log that would open.
#[derive(Debug)]
pub struct Sound {
    /// The last batch, which was never acknowledged and would be cut off.
    pub torn: Option<Torn>,
    /// The segment whose seal a crash prevented; a segment alone may be the newest, which has none.
    pub unsealed: Option<PathBuf>,
    index: LogIndex,
}

impl Sound {
    /// The markers in the segments, oldest first.
    #[must_use]
    pub fn markers(&self) -> &[Marker] {
        self.index.markers()
    }

    /// The term of an entry of the log, or of the one before its first.
    #[must_use]
    pub fn term(&self, index: u64) -> Option<u64> {
        self.index.term(index)
    }
}

/// Looks through the log in `dir`, and shows it to `see` until that breaks off.
///
/// # Errors
///
/// The disk's, or [`Error::Interrupted`] if `see` broke off. All else is the report's verdict.
pub fn log(
    fs: &dyn Fs,
    dir: &Path,
    see: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
) -> Result<Report> {
    let mut watch = Onlooker::new(see);
    let found = match survey(fs, dir) {
        Ok(found) => found,
        Err(error) => return watch.report(Err(error), Vec::new()),
    };
    let Found { names, mut unfinished, doomed, released } = found;
    unfinished.extend(doomed.into_iter().chain(released));
    let whole = contiguous(dir, &names);
    let readable = whole.as_ref().map_or_else(|(readable, _)| *readable, |()| names.len());
    // What lies before a gap is looked at for what could be kept; the gap is what opening meets.
    let replayed = replay_watched(fs, dir, &names[..readable], Reader::Onlooker, &mut watch);
    let sound = replayed.map(|log| {
        let unsealed = match (log.unsealed, &log.segments[..]) {
            (Some(_), [.., segment, _]) => Some(segment.path.clone()),
            _ => None,
        };
        Sound { torn: log.torn, unsealed, index: log.index }
    });
    let verdict = match (sound, whole) {
        (Err(io @ (Error::Io { .. } | Error::Interrupted)), _) => Err(io),
        (_, Err((_, gap))) => Err(gap),
        (sound, Ok(())) => sound,
    };
    watch.report(verdict, unfinished)
}

/// Looks through one segment alone, as [`log`] does through all.
///
/// That it follows on the one before it cannot be checked, nor that it is the newest where nothing
/// in its directory follows on it.
///
/// # Errors
///
/// As [`log`].
pub fn segment(
    fs: &dyn Fs,
    path: &Path,
    see: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
) -> Result<Report> {
    let named = |name: Name| match name {
        Name::Segment { sequence, first_index } => Some((sequence, first_index)),
        _ => None,
    };
    let name = path.file_name().map(parse_name).and_then(named);
    let next = name.and_then(|(sequence, _)| {
        // A directory that cannot be listed does not tell.
        let names = fs.list(parent(path)).unwrap_or_default();
        let mut segments = names.iter().filter_map(|name| named(parse_name(name)));
        segments.find(|other| Some(other.0) == sequence.checked_add(1)).map(|other| other.1)
    });
    let mut watch = Onlooker::new(see);
    let verdict = replay_alone(fs, path, name, next, &mut watch).map(|outcome| {
        let unsealed = (!outcome.is_sealed).then(|| path.to_owned());
        Sound { torn: outcome.torn, unsealed, index: outcome.index }
    });
    watch.report(verdict, Vec::new())
}

/// Shows what replay sees, and remembers how far it was whole.
struct Onlooker<'a> {
    see: &'a mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
    has_broken_off: bool,
    path: PathBuf,
    kept: Option<Kept>,
    /// At the end of the segment before: its seal may turn out to be missed only in the next.
    kept_before: Option<Kept>,
}

impl<'a> Onlooker<'a> {
    fn new(see: &'a mut dyn FnMut(Event<'_>) -> ControlFlow<()>) -> Self {
        let path = PathBuf::new();
        Self { see, has_broken_off: false, path, kept: None, kept_before: None }
    }

    fn show(&mut self, event: Event<'_>) {
        if !self.has_broken_off {
            self.has_broken_off = (self.see)(event).is_break();
        }
    }

    fn report(self, verdict: Result<Sound>, leftovers: Vec<PathBuf>) -> Result<Report> {
        if self.has_broken_off {
            return Err(Error::Interrupted);
        }
        let verdict = match verdict {
            Err(error @ (Error::Io { .. } | Error::Interrupted)) => return Err(error),
            judged => judged,
        };
        // Segments of one directory sort by their names.
        let kept = match &verdict {
            Err(Error::Corrupt { path, .. }) if *path < self.path => self.kept_before,
            // It is the log's beginning that is not there.
            Err(Error::Missing { path, .. }) if *path < self.path => None,
            _ => self.kept,
        };
        Ok(Report { verdict, kept, leftovers })
    }
}

impl Watch for Onlooker<'_> {
    fn is_stopped(&mut self) -> bool {
        self.has_broken_off
    }

    fn segment(&mut self, path: &Path, header: &Header, bytes: u64) {
        path.clone_into(&mut self.path);
        self.kept_before.clone_from(&self.kept);
        let Header { cluster, node, sequence, base, .. } = *header;
        let (base_index, base_term) = (base.index, base.term);
        let segment = Segment { path, bytes, cluster, node, sequence, base_index, base_term };
        self.show(Event::Segment(segment));
    }

    fn frame(&mut self, seen: &Seen<'_>, index: &LogIndex) {
        let Seen { frame, offset, bytes: present, contents } = *seen;
        let kind = match frame.kind {
            Kind::Batch => FrameKind::Batch,
            Kind::Head => FrameKind::Head,
            Kind::Seal => FrameKind::Seal,
        };
        if kind != FrameKind::Seal {
            self.kept = Some(Kept {
                path: self.path.clone(),
                offset: offset + frame.frame_len(),
                sequence: frame.sequence,
                first_index: index.base().index + 1,
                last_index: index.last_index(),
                hard_state: index.hard_state(),
            });
        }
        self.show(Event::Frame(Frame {
            offset,
            bytes: frame.frame_len(),
            sequence: frame.sequence,
            kind,
            marker: contents.marker,
            hard_state: contents.hard_state,
            metas: &contents.entries,
            present,
        }));
    }
}
