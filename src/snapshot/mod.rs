//! Snapshot files: the state as of one index, with everything a member needs to go on from it.
//!
//! Every cluster begins with a genesis snapshot {index 1, term 1} that all founders write alike:
//! its body is empty and its header holds the founding address book, so that "no snapshot" never
//! has to mean "an empty state".
//!
//! A file is named `<term>-<index>.snap`, both as 16 hex digits. Until it is complete and synced
//! it has a [temporary name](temporary_name). Its parts are drawn in [`part`] and [`header`].
//!
//! Refuses to hold a snapshot in memory: all of it streams, at most a chunk at a time. What the
//! body means is the consumer's business, when to write, send and delete files the node's.
//!
//! Invariants:
//! - S1 What is read is what was written, or an error: no byte is handed on before the checksum
//!   behind it holds, and no file counts as whole before its end record was seen.
//! - S2 Nothing is allocated by a length that has not been checked.
//! - S3 A final name belongs to a whole, synced file: only [`SnapshotFile::give_final_name`]
//!   gives one.
//! - S4 After a failed write or sync nothing more is written to that file; it is removed.

#[cfg(test)]
mod fuzz;
mod header;
mod part;
mod read;
mod receive;
#[cfg(test)]
mod tests;
mod write;

use std::io;
use std::path::{Path, PathBuf};

use wal::fs::Fs;

pub(crate) use header::{Header, VERSION};
pub(crate) use read::{Outgoing, Reader, state_bytes, verify};
pub(crate) use receive::{Announced, Incoming, Received};
pub(crate) use write::write;

/// A file that is whole: every checksum in it held when it was written, read or received.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct SnapshotFile {
    pub(crate) header: Header,
    pub(crate) path: PathBuf,
    /// The length of the whole file.
    pub(crate) bytes: u64,
    /// The checksum of the whole file, as its end record holds it.
    pub(crate) checksum: u64,
    /// What names it in the log.
    pub(crate) marker: wal::Marker,
}

impl SnapshotFile {
    fn new(header: Header, header_checksum: u64, path: &Path, bytes: u64, checksum: u64) -> Self {
        let marker =
            wal::Marker { index: header.index, term: header.term, checksum: header_checksum };
        Self { header, path: path.to_owned(), bytes, checksum, marker }
    }

    /// Replaces the temporary name by the final one, durably (S3).
    ///
    /// # Errors
    ///
    /// The disk's. The file may have either name then.
    pub(crate) fn give_final_name(mut self, fs: &dyn Fs) -> Result<Self, Failure> {
        let path = self.path.with_file_name(self.header.file_name());
        fs.rename(&self.path, &path).map_err(Failure::disk("rename", &self.path))?;
        let directory = wal::fs::parent(&path);
        fs.sync_dir(directory).map_err(Failure::disk("sync", directory))?;
        self.path = path;
        Ok(self)
    }
}

/// Why a snapshot was not written, read or received.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The disk refused: nothing written since can be relied on.
    #[error("cannot {operation} {}: {source}", path.display())]
    Disk { operation: &'static str, path: PathBuf, source: io::Error },
    /// The bytes are not a snapshot's, or not the one that was announced.
    #[error("{} {what} (at offset {offset})", path.display())]
    Damaged { path: PathBuf, offset: u64, what: String },
    /// The consumer could not write its state.
    #[error("the state could not be written: {0}")]
    State(#[source] io::Error),
    /// The caller's stop flag was raised.
    #[error("stopped")]
    Stopped,
}

impl Failure {
    /// For `map_err`: adds the operation and the file to an I/O error.
    fn disk(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Disk { operation, path: path.to_owned(), source }
    }
}

impl From<Failure> for io::Error {
    fn from(failure: Failure) -> Self {
        let kind = match &failure {
            Failure::Disk { source, .. } | Failure::State(source) => source.kind(),
            Failure::Damaged { .. } => io::ErrorKind::InvalidData,
            Failure::Stopped => io::ErrorKind::Other,
        };
        Self::new(kind, failure)
    }
}

/// The final name of the snapshot of this index.
pub(crate) fn file_name(term: u64, index: u64) -> String {
    format!("{term:016x}-{index:016x}.snap")
}

/// A name for the snapshot of this index while it is incomplete. The serial tells those apart
/// that are written or received at the same time: one that is given up removes its own file only.
pub(crate) fn temporary_name(term: u64, index: u64, serial: u64) -> String {
    format!("{}.{serial:016x}.tmp", file_name(term, index))
}

/// Whether a file is one of ours, complete or not: whatever else is there is not ours to remove.
pub(crate) fn is_snapshot_name(name: &str) -> bool {
    let is_hex = |text: &str| text.len() == 16 && text.bytes().all(|b| b.is_ascii_hexdigit());
    let is_stem = |stem: &str| stem.split_once('-').is_some_and(|(t, i)| is_hex(t) && is_hex(i));
    match *name.split('.').collect::<Vec<_>>() {
        [stem, "snap"] => is_stem(stem),
        [stem, "snap", serial, "tmp"] => is_stem(stem) && is_hex(serial),
        _ => false,
    }
}
