//! The log: its records as this program means them, and what replay says of each segment.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use protobuf::Message as _;
use raft::eraftpb::{ConfChange, ConfChangeType, EntryType};
use wal::Foreign;
use wal::fs::{DiskFs, parent};
use wal::inspect::{Event, Frame, FrameKind, Kept, Report, Sound};

use super::{Content, Damage, Entry, Error, Item, Judgement, Out, Record, What, names};
use crate::key::Key;
use crate::membership::Member;
use crate::storage::split_payload;

/// What the rest of a data directory is compared with.
pub(super) struct Log {
    /// Whose log its first segment says it is: cluster and member.
    pub(super) owner: Option<(u64, u64)>,
    pub(super) sound: Option<Sound>,
    pub(super) kept: Option<Kept>,
}

/// Looks through the log in a directory.
pub(super) fn run(path: &Path, out: &mut Out<'_>) -> Result<Log, Error> {
    let mut teller = Teller::new(out);
    let report = wal::inspect::log(&DiskFs, path, &mut |event| teller.tell(event));
    let Teller { failed, owner, current, seen, .. } = teller;
    let report = read(report, failed)?;
    conclude(path, &report, current, seen, out)?;
    Ok(Log { owner, sound: report.verdict.ok(), kept: report.kept })
}

/// Looks through one segment.
pub(super) fn alone(path: &Path, out: &mut Out<'_>) -> Result<(), Error> {
    let mut teller = Teller::new(out);
    let report = wal::inspect::segment(&DiskFs, path, &mut |event| teller.tell(event));
    let Teller { failed, current, seen, .. } = teller;
    let report = read(report, failed)?;
    // What a later version wrote is not damaged, for all that is known here.
    if let Err(foreign @ wal::Error::Foreign { what: Foreign::Version { .. }, .. }) =
        &report.verdict
    {
        let what = format!("cannot be read: {}", reason(foreign));
        return Err(Error::Unknown { path: path.to_owned(), what });
    }
    let is_open = report.verdict.as_ref().is_ok_and(|sound| sound.unsealed.is_some());
    conclude(parent(path), &report, current, seen, out)?;
    out.note(path, "looked at alone: that it follows on the segment before was not checked")?;
    if is_open {
        out.note(path, "it has no seal, as only the newest segment of a log may have none")?;
    }
    Ok(())
}

fn read(report: wal::Result<Report>, failed: Option<Error>) -> Result<Report, Error> {
    report.map_err(|error| match (failed, error) {
        (Some(failed), _) => failed,
        (None, wal::Error::Io { op, path, source }) => {
            Error::Unreadable { operation: op, path, source }
        }
        // Only the teller breaks off, and says why.
        (None, _) => Error::BrokenOff,
    })
}

/// Says of the last segments what only the end of the log tells.
fn conclude(
    directory: &Path,
    report: &Report,
    current: Option<Current>,
    mut seen: BTreeSet<PathBuf>,
    out: &mut Out<'_>,
) -> Result<(), Error> {
    let damaged = match &report.verdict {
        Ok(_) => None,
        Err(error) => Some((damaged(error, directory), damage(error, report.kept.clone()))),
    };
    if let Some(current) = current
        && damaged.as_ref().is_none_or(|(path, _)| *path != current.path)
    {
        out.sound(&current.path, current.describe())?;
    }
    if let Some((path, damage)) = damaged {
        out.find(&path, Judgement::Corrupt(damage))?;
        seen.insert(path);
        for name in names(directory).map_err(Error::unreadable("read", directory))? {
            let path = directory.join(&name);
            if seen.iter().next_back().is_some_and(|last| path > *last) && name.ends_with(".wal") {
                out.note(&path, "not looked at: it lies behind the damage")?;
            }
        }
    }
    if let Ok(Sound { torn, unsealed, .. }) = &report.verdict {
        if let Some(torn) = torn {
            let (offset, bytes) = (torn.offset, torn.bytes);
            out.find(&torn.path, Judgement::Torn { offset, bytes })?;
        }
        if let Some(path) =
            unsealed.as_ref().filter(|path| seen.range(path.to_path_buf()..).count() > 1)
        {
            out.note(path, "the next start writes its seal, which a crash has prevented")?;
        }
    }
    for path in &report.leftovers {
        out.note(path, "not part of the log; the next start removes it")?;
    }
    Ok(())
}

/// The file that an error is about.
fn damaged(error: &wal::Error, directory: &Path) -> PathBuf {
    match error {
        wal::Error::Corrupt { path, .. }
        | wal::Error::Foreign { path, .. }
        | wal::Error::Missing { path, .. }
        | wal::Error::Io { path, .. } => path.clone(),
        wal::Error::Latched(_) | wal::Error::Interrupted => directory.to_owned(),
    }
}

fn damage(error: &wal::Error, kept: Option<Kept>) -> Damage {
    let plain = Damage { reason: reason(error), kept, ..Damage::default() };
    match error {
        wal::Error::Corrupt { offset, first_index, last_index, .. } => Damage {
            offset: Some(*offset),
            first_index: Some(*first_index),
            last_index: *last_index,
            ..plain
        },
        wal::Error::Missing { .. } => {
            let first_index = plain.kept.as_ref().map(|kept| kept.last_index + 1);
            Damage { first_index, ..plain }
        }
        _ => plain,
    }
}

fn reason(error: &wal::Error) -> String {
    match error {
        wal::Error::Corrupt { reason, .. } => reason.clone(),
        wal::Error::Foreign { what, .. } => format!("it is foreign: {what}"),
        wal::Error::Missing { why, .. } => format!("it is missing: {why}"),
        other => other.to_string(),
    }
}

/// The segment that is being read.
struct Current {
    path: PathBuf,
    n_batches: u64,
    first_index: Option<u64>,
    last_index: u64,
    is_sealed: bool,
}

impl Current {
    fn describe(&self) -> String {
        let (batches, end) = (self.n_batches, if self.is_sealed { ", sealed" } else { "" });
        let batches = if batches == 1 { "1 batch".into() } else { format!("{batches} batches") };
        match self.first_index {
            Some(first) => format!("{batches}, entries {first} to {}{end}", self.last_index),
            None => format!("{batches}, no entries{end}"),
        }
    }
}

/// Tells what replay shows in this program's words.
struct Teller<'a, 'b> {
    out: &'a mut Out<'b>,
    failed: Option<Error>,
    owner: Option<(u64, u64)>,
    current: Option<Current>,
    seen: BTreeSet<PathBuf>,
}

impl<'a, 'b> Teller<'a, 'b> {
    fn new(out: &'a mut Out<'b>) -> Self {
        Self { out, failed: None, owner: None, current: None, seen: BTreeSet::new() }
    }

    fn tell(&mut self, event: Event<'_>) -> ControlFlow<()> {
        match self.try_tell(event) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                self.failed = Some(error);
                ControlFlow::Break(())
            }
        }
    }

    fn try_tell(&mut self, event: Event<'_>) -> Result<(), Error> {
        match event {
            Event::Segment(segment) => {
                if let Some(before) = self.current.take() {
                    self.out.sound(&before.path, before.describe())?;
                }
                let path = segment.path.to_owned();
                self.owner.get_or_insert((segment.cluster, segment.node));
                self.seen.insert(path.clone());
                self.current = Some(Current {
                    path,
                    n_batches: 0,
                    first_index: None,
                    last_index: 0,
                    is_sealed: false,
                });
                self.out.show(Item::Segment(segment))
            }
            Event::Frame(frame) => self.frame(&frame),
            _ => Ok(()),
        }
    }

    fn frame(&mut self, frame: &Frame<'_>) -> Result<(), Error> {
        let Frame { offset, bytes, sequence, kind, .. } = *frame;
        if let Some(current) = &mut self.current {
            match kind {
                FrameKind::Batch => current.n_batches += 1,
                FrameKind::Seal => current.is_sealed = true,
                FrameKind::Head => {}
            }
            for entry in frame.entries() {
                let first = current.first_index.get_or_insert(entry.index);
                *first = entry.index.min(*first);
                current.last_index = entry.index;
            }
        }
        let mut show = |what| {
            self.out.show(Item::Record(Record { offset, bytes, frame: sequence, kind, what }))
        };
        for entry in frame.entries() {
            let content = content(entry.payload);
            show(What::Entry(Entry { index: entry.index, term: entry.term, content }))?;
        }
        if let Some(marker) = frame.marker {
            show(What::Marker(marker))?;
        }
        if let Some(hard_state) = frame.hard_state {
            show(What::HardState(hard_state))?;
        }
        if kind == FrameKind::Seal { show(What::Seal) } else { Ok(()) }
    }
}

pub(super) fn content(payload: &[u8]) -> Content<'_> {
    let Some((kind, context_end)) = split_payload(payload) else {
        return Content::Unknown(payload);
    };
    let (context, data) = (&payload[4..context_end], &payload[context_end..]);
    match kind {
        EntryType::EntryNormal if data.is_empty() => Content::Nothing,
        EntryType::EntryNormal => {
            Content::Command { proposer: Key::decode(context).map(|key| key.node), data }
        }
        EntryType::EntryConfChange => change(data).unwrap_or(Content::Unknown(payload)),
        EntryType::EntryConfChangeV2 => Content::Unknown(payload),
    }
}

fn change(data: &[u8]) -> Option<Content<'static>> {
    let change = ConfChange::parse_from_bytes(data).ok()?;
    let id = change.node_id;
    match change.get_change_type() {
        ConfChangeType::RemoveNode => Some(Content::Removal { id }),
        ConfChangeType::AddNode | ConfChangeType::AddLearnerNode => {
            let member = Member::decode(&change.context).ok()?;
            Some(Content::Member { id, member })
        }
    }
}
