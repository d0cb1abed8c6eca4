//! Looking at what a member keeps on disk, while it is down: what is in it, and whether it is sound.
//!
//! [`open`] takes a data directory, its `wal/` or `snap/`, or one file of these, finds out which it
//! is, and keeps the member from starting meanwhile. [`Inspection::run`] then shows everything in
//! it, one [`Item`] at a time, and judges each file and how they fit together.
//!
//! Refuses to write: no file is created, changed or repaired, the lock file included, so that a copy
//! mounted read-only can be looked at. A directory whose member runs is refused.
//!
//! Invariants:
//! - V1 What the log is called here is what a start would call it: both ask the same replay.
//! - V2 Memory is bounded by one batch of the log or one chunk of a snapshot, however long they are.
//! - V3 Whatever is shown has been verified.

mod directory;
mod item;
mod log;
mod show;
mod snapshots;

use std::io::{self, ErrorKind};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use wal::fs::{Access, DiskFs, Fs, Lock, LockError};
pub use wal::inspect::{FrameKind, Kept, Segment};
pub use wal::{HardState, Marker};

pub use self::item::{
    Content, Damage, Entry, Finding, Item, Judgement, Record, Snapshot, Summary, What,
};

use crate::directory::{IDENTITY, LOCK, SNAP, WAL};
use crate::{pins, snapshot};

/// What takes the items. Breaking off ends the inspection with [`Error::BrokenOff`].
pub type See<'a> = &'a mut dyn FnMut(Item<'_>) -> ControlFlow<()>;

/// Something that can be looked at, and is kept as it is meanwhile.
#[derive(Debug)]
pub struct Inspection {
    path: PathBuf,
    kind: Kind,
    _lock: Option<Lock>,
}

/// What a path leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A member's data directory, with everything in it.
    DataDirectory,
    /// The directory of a log.
    Log,
    /// One file of a log.
    Segment,
    /// The directory of the snapshots.
    Snapshots,
    /// One snapshot.
    Snapshot,
    /// The file that says whose a data directory is.
    Identity,
    /// The file that says who the others are.
    Pins,
}

/// Why something cannot be looked at.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its member runs.
    #[error("{} is in use by {holder}; stop it first, or look at a copy", path.display())]
    Locked {
        /// What was to be looked at.
        path: PathBuf,
        /// Who holds its data directory, as far as that is known.
        holder: String,
    },
    /// It is nothing that this program writes.
    #[error("{} {what}", path.display())]
    Unknown {
        /// What was to be looked at.
        path: PathBuf,
        /// What is known of it, and what would be right.
        what: String,
    },
    /// It cannot be read.
    #[error("cannot {operation} {}: {source}", path.display())]
    Unreadable {
        /// What was tried.
        operation: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The caller has seen enough.
    #[error("broken off")]
    BrokenOff,
}

impl Error {
    /// For `map_err`: adds the operation and the file to an I/O error.
    fn unreadable(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Unreadable { operation, path: path.to_owned(), source }
    }
}

/// Finds out what `path` is, and keeps its member from starting until the inspection is dropped.
///
/// # Errors
///
/// It cannot be read, is nothing that this program writes, or its member runs.
pub fn open(path: &Path) -> Result<Inspection, Error> {
    let kind = kind_of(path)?;
    let lock = match data_directory(path, kind)? {
        Some(directory) => lock_out(&directory, path)?,
        None => None,
    };
    Ok(Inspection { path: path.to_owned(), kind, _lock: lock })
}

impl Inspection {
    /// What it is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Shows everything to `see` and says how it all is.
    ///
    /// # Errors
    ///
    /// Something cannot be read, is of a later version of this program, or `see` broke off.
    pub fn run(&self, see: See<'_>) -> Result<Summary, Error> {
        let mut summary = Summary::default();
        let mut counted = |item: Item<'_>| {
            if let Item::Finding(finding) = &item {
                summary.count(&finding.judgement);
            }
            see(item)
        };
        let mut out = Out(&mut counted);
        match self.kind {
            Kind::DataDirectory => directory::run(&self.path, &mut out)?,
            Kind::Identity => directory::identity(&self.path, &mut out).map(drop)?,
            Kind::Pins => directory::pins(&self.path, &mut out)?,
            Kind::Log => log::run(&self.path, &mut out).map(drop)?,
            Kind::Segment => log::alone(&self.path, &mut out)?,
            Kind::Snapshots => snapshots::run(&self.path, None, &mut out)?,
            Kind::Snapshot => snapshots::alone(&self.path, &mut out).map(drop)?,
        }
        Ok(summary)
    }
}

/// Where items go.
struct Out<'a>(See<'a>);

impl Out<'_> {
    fn show(&mut self, item: Item<'_>) -> Result<(), Error> {
        if (self.0)(item).is_break() { Err(Error::BrokenOff) } else { Ok(()) }
    }

    fn find(&mut self, path: &Path, judgement: Judgement) -> Result<(), Error> {
        self.show(Item::Finding(Finding { path: path.to_owned(), judgement }))
    }

    fn sound(&mut self, path: &Path, what: impl Into<String>) -> Result<(), Error> {
        self.find(path, Judgement::Sound(what.into()))
    }

    fn note(&mut self, path: &Path, what: impl Into<String>) -> Result<(), Error> {
        self.find(path, Judgement::Note(what.into()))
    }

    fn corrupt(&mut self, path: &Path, reason: impl Into<String>) -> Result<(), Error> {
        let damage = Damage { reason: reason.into(), ..Damage::default() };
        self.find(path, Judgement::Corrupt(damage))
    }
}

fn kind_of(path: &Path) -> Result<Kind, Error> {
    match names(path) {
        Ok(names) => kind_of_directory(path, &names),
        Err(error) if error.kind() == ErrorKind::NotADirectory => kind_of_file(path),
        Err(error) => Err(Error::unreadable("read", path)(error)),
    }
}

/// The names in a directory, sorted.
fn names(path: &Path) -> io::Result<Vec<String>> {
    let names = DiskFs.list(path)?;
    let mut names: Vec<_> = names.iter().map(|n| n.to_string_lossy().into_owned()).collect();
    names.sort_unstable();
    Ok(names)
}

fn kind_of_directory(path: &Path, names: &[String]) -> Result<Kind, Error> {
    let has = |wanted: &str| names.iter().any(|name| name == wanted);
    if has(IDENTITY) || has(WAL) || has(SNAP) {
        return Ok(Kind::DataDirectory);
    }
    // Others call their logs' files so, too: the first bytes tell.
    let mut segments = names.iter().filter(|name| name.ends_with(".wal"));
    let is_segment = |name: &String| matches!(kind_of_file(&path.join(name)), Ok(Kind::Segment));
    if segments.any(is_segment) {
        return Ok(Kind::Log);
    }
    if names.iter().any(|name| snapshot::is_snapshot_name(name)) {
        return Ok(Kind::Snapshots);
    }
    let what = match names.first() {
        None => "is empty".to_owned(),
        Some(name) => format!("holds {name}, and nothing that this program keeps in a directory"),
    };
    Err(unknown(path, &what))
}

/// How a segment begins.
const SEGMENT: &[u8; 8] = b"raftwal\x1a";

fn kind_of_file(path: &Path) -> Result<Kind, Error> {
    // Opening a pipe would wait for whoever writes to it.
    let is_file = path.metadata().map_err(Error::unreadable("look at", path))?.is_file();
    if !is_file {
        return Err(unknown(path, "is neither a file nor a directory"));
    }
    let file = DiskFs.open(path, Access::Read).map_err(Error::unreadable("open", path))?;
    let mut first = [0; 8];
    file.read_full_at(0, &mut first).map_err(Error::unreadable("read", path))?;
    let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    // What was damaged in its first bytes still has its name.
    match &first {
        SEGMENT => Ok(Kind::Segment),
        b"raftsnap" => Ok(Kind::Snapshot),
        b"raftnode" => Ok(Kind::Identity),
        b"raftpins" => Ok(Kind::Pins),
        _ if name.ends_with(".wal") && was_a_segment(&first) => Ok(Kind::Segment),
        _ if snapshot::is_snapshot_name(&name) => Ok(Kind::Snapshot),
        _ if name == IDENTITY => Ok(Kind::Identity),
        _ if name == pins::FILE => Ok(Kind::Pins),
        first => {
            let what = format!("begins with {:?}, as no file of this program does", ascii(first));
            Err(unknown(path, &what))
        }
    }
}

/// Damage leaves more of a beginning than there is in another program's file of such a name.
fn was_a_segment(first: &[u8; 8]) -> bool {
    let same = first.iter().zip(SEGMENT).filter(|(found, was)| found == was).count();
    let is_cut_off = first.iter().zip(SEGMENT).all(|(found, was)| found == was || *found == 0);
    same >= SEGMENT.len() / 2 || is_cut_off
}

fn ascii(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn unknown(path: &Path, what: &str) -> Error {
    let what = format!("{what}; give a data directory, its {WAL}/ or {SNAP}/, or a file of these");
    Error::Unknown { path: path.to_owned(), what }
}

/// The data directory that something belongs to, if it lies in one.
fn data_directory(path: &Path, kind: Kind) -> Result<Option<PathBuf>, Error> {
    let absolute = path.canonicalize().map_err(Error::unreadable("find", path))?;
    let within = |path: &Path, name: &str| {
        let parent = path.parent()?;
        (path.file_name()? == name).then(|| parent.to_owned())
    };
    let parent = absolute.parent().map(Path::to_owned);
    Ok(match kind {
        Kind::DataDirectory => Some(absolute),
        Kind::Log => within(&absolute, WAL),
        Kind::Snapshots => within(&absolute, SNAP),
        Kind::Segment => parent.and_then(|parent| within(&parent, WAL)),
        Kind::Snapshot => parent.and_then(|parent| within(&parent, SNAP)),
        Kind::Identity | Kind::Pins => parent,
    })
}

/// Keeps a member from starting on `directory`; refuses to look at `path` if one runs.
fn lock_out(directory: &Path, path: &Path) -> Result<Option<Lock>, Error> {
    let file = directory.join(LOCK);
    DiskFs.lock_out(&file).map_err(|error| match error {
        LockError::Held { pid } => {
            let holder = pid.map_or("an unknown process".into(), |pid| format!("process {pid}"));
            Error::Locked { path: path.to_owned(), holder }
        }
        LockError::Io(source) => Error::Unreadable { operation: "lock", path: file, source },
    })
}

#[cfg(test)]
mod tests;
