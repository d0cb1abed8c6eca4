//! What can go wrong with a log that is not a broken invariant of this program.
//!
//! Broken invariants panic, naming the rule. An [`Error`] is about the world: the disk failed, or
//! the files are not what was written. None is worth a retry.

use std::{
    io,
    path::{Path, PathBuf},
};

use thiserror::Error;

/// The result of an operation on the log.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a log cannot be created, opened, read or written.
#[derive(Debug, Error)]
pub enum Error {
    /// The operating system refused; the log is latched if this was a write or a sync.
    #[error("{op} {path}: {source}", path = path.display())]
    Io {
        /// What was attempted, as a verb.
        op: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the system answered.
        source: io::Error,
    },
    /// The bytes are not those that were written, and no crash explains it.
    #[error(
        "{path} is corrupt at offset {offset} (entries {first_index} to {last}): {reason}",
        path = path.display(),
        last = last_index.map_or_else(|| "unknown".to_owned(), |index| index.to_string())
    )]
    Corrupt {
        /// The damaged segment.
        path: PathBuf,
        /// Where the damage begins.
        offset: u64,
        /// The first entry that may be lost.
        first_index: u64,
        /// The last entry known to lie beyond the damage, if any could be told.
        last_index: Option<u64>,
        /// What does not hold.
        reason: String,
    },
    /// A file that this program, or this member, has not written.
    #[error("{path} is foreign: {what}", path = path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What differs, and how.
        what: Foreign,
    },
    /// A file that must be there is not.
    #[error("{path} is missing: {why}", path = path.display())]
    Missing {
        /// The directory, or the file as far as its name is known.
        path: PathBuf,
        /// Why it must exist.
        why: &'static str,
    },
    /// An earlier write, sync or deletion failed as it says, so nobody knows what the disk holds
    /// until the next open.
    #[error("the log is latched: {0}")]
    Latched(String),
    /// The caller's stop flag was raised during replay.
    #[error("interrupted during replay")]
    Interrupted,
}

/// What makes a file foreign.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Foreign {
    /// The first bytes are not those of a segment.
    #[error("not a segment of a log")]
    Magic,
    /// The name ends as ours do but is not one of ours.
    #[error("not the name of a segment")]
    Name,
    /// Written by another version of this program.
    #[error("format version {found}, this program reads {expected}")]
    Version {
        /// The version in the file.
        found: u32,
        /// The version this program reads.
        expected: u32,
    },
    /// Written by a member of another cluster.
    #[error("cluster {found:016x}, expected {expected:016x}")]
    Cluster {
        /// The cluster in the file.
        found: u64,
        /// The cluster given by the caller.
        expected: u64,
    },
    /// Written by another member of the cluster.
    #[error("node {found}, expected {expected}")]
    Node {
        /// The node in the file.
        found: u64,
        /// The node given by the caller.
        expected: u64,
    },
}

/// Adds the operation and the path to an I/O error.
pub(crate) trait Context<T> {
    fn context(self, op: &'static str, path: &Path) -> Result<T>;
}

impl<T> Context<T> for io::Result<T> {
    fn context(self, op: &'static str, path: &Path) -> Result<T> {
        self.map_err(|source| Error::Io { op, path: path.to_owned(), source })
    }
}
