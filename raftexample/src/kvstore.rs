//! The state machine: an ordered map of keys, changed only by the committed log.
//!
//! One thread, the applier, owns the changes; everyone else reads through one atomic pointer to
//! a version of the store that never changes. There is no lock, and no reader ever waits.
//!
//! Invariants:
//! - K1 A version holds exactly the commands up to and including its `applied_index`.
//! - K2 A version is visible before its index is reported as applied, and before any proposer
//!   hears of its commands.
//! - K3 A command that cannot be read stops the member; it is never skipped.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use arc_swap::ArcSwap;
use bytes::Bytes;
use crossbeam_channel::Receiver;
use imbl::OrdMap;
use raftnode::{Applied, Commit, Entries, Restore};

use crate::command::{Command, DecodeError};

/// What a key holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Value {
    /// The bytes that were put.
    pub bytes: Bytes,
    /// The index of the entry that put them.
    pub mod_index: u64,
}

/// One version of the store. See K1.
#[derive(Debug, Clone, Default)]
pub struct Version {
    /// The last index whose command it holds.
    pub applied_index: u64,
    /// The term of that entry.
    pub term: u64,
    /// The keys.
    pub map: OrdMap<Bytes, Value>,
}

/// The read side of the store. Clones are cheap.
#[derive(Debug, Clone, Default)]
pub struct Store {
    version: Arc<ArcSwap<Version>>,
}

impl Store {
    /// The newest version: value and indexes of one answer must come from one call.
    #[must_use]
    pub fn load(&self) -> arc_swap::Guard<Arc<Version>> {
        self.version.load()
    }
}

/// Why the store cannot go on. Both mean that this program is not the one that wrote the log.
#[derive(Debug)]
pub enum ApplyError {
    /// A committed command that this program does not understand.
    Command {
        /// Its index.
        index: u64,
        /// Its term.
        term: u64,
        /// What is wrong with it.
        source: DecodeError,
    },
    /// A snapshot's state that this program cannot read.
    State {
        /// The snapshot's index.
        index: u64,
        /// What went wrong.
        source: io::Error,
    },
}

impl std::fmt::Display for ApplyError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ApplyError::Command { index, term, source } => write!(
                formatter,
                "cannot apply the command at index {index}, term {term}: {source}; \
                 run the version that wrote it"
            ),
            ApplyError::State { index, source } => {
                write!(formatter, "cannot restore the snapshot at index {index}: {source}")
            }
        }
    }
}

impl std::error::Error for ApplyError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            ApplyError::Command { source, .. } => Some(source),
            ApplyError::State { source, .. } => Some(source),
        }
    }
}

/// Starts the applier. Its thread ends when the node does, or at the first [`ApplyError`]; then
/// it drops the receiver, which stops the node.
///
/// # Errors
///
/// When the system gives no thread.
pub fn start(
    commits: Receiver<Commit>,
    applied: Applied,
) -> io::Result<(Store, JoinHandle<Result<(), ApplyError>>)> {
    let store = Store::default();
    let mut applier = Applier { version: Version::default(), store: store.clone(), applied };
    let thread = std::thread::Builder::new()
        .name("applier".into())
        .spawn(move || commits.iter().try_for_each(|commit| applier.apply(commit)))?;
    Ok((store, thread))
}

/// The write side of the store.
struct Applier {
    version: Version,
    store: Store,
    applied: Applied,
}

impl Applier {
    fn apply(&mut self, commit: Commit) -> Result<(), ApplyError> {
        match commit {
            Commit::Restore(restore) => self.restore(restore),
            Commit::Entries(entries) => self.apply_entries(entries),
        }
    }

    fn restore(&mut self, mut restore: Restore) -> Result<(), ApplyError> {
        let index = restore.index;
        let fail = |source| ApplyError::State { index, source };
        let mut first = [0];
        if restore.state.read(&mut first).map_err(fail)? != 0 {
            let what = "it holds state in a format of a later version; run that version";
            return Err(fail(io::Error::new(io::ErrorKind::Unsupported, what)));
        }
        self.version = Version { applied_index: index, term: restore.term, map: OrdMap::default() };
        self.publish();
        Ok(())
    }

    fn apply_entries(&mut self, entries: Entries) -> Result<(), ApplyError> {
        let mut applied_index = self.version.applied_index;
        for entry in &entries.items {
            assert!(
                applied_index < entry.index && entry.index <= entries.last_index,
                "K1: index {} after {applied_index}, in a range through {}",
                entry.index,
                entries.last_index
            );
            applied_index = entry.index;
            let command = Command::decode(&entry.data).map_err(|source| ApplyError::Command {
                index: entry.index,
                term: entry.term,
                source,
            })?;
            match command {
                Command::Put { key, value } => self.put(&key, &value, entry.index),
            }
        }
        assert!(
            self.version.applied_index <= entries.last_index,
            "K1: a range through {} after {}",
            entries.last_index,
            self.version.applied_index
        );
        self.version.applied_index = entries.last_index;
        self.version.term = entries.last_term;
        self.publish();
        for entry in entries.items {
            entry.answer(Bytes::new());
        }
        Ok(())
    }

    /// Copies what it keeps: a slice would keep the whole buffer that the entry came in.
    fn put(&mut self, key: &[u8], value: &[u8], mod_index: u64) {
        let value = Value { bytes: Bytes::copy_from_slice(value), mod_index };
        match self.version.map.get_mut(key) {
            Some(present) => *present = value,
            None => {
                self.version.map.insert(Bytes::copy_from_slice(key), value);
            }
        }
    }

    /// K2: first the pointer, then the report; the caller answers afterwards.
    fn publish(&self) {
        self.store.version.store(Arc::new(self.version.clone()));
        self.applied.report(self.version.applied_index);
    }
}
