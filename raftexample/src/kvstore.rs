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
//! - K4 While a log is replayed nothing is published: a state older than what this member showed
//!   before its restart helps nobody, and a map that nobody shares changes in place, which is what
//!   makes replay fast.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use arc_swap::ArcSwap;
use bytes::Bytes;
use crossbeam_channel::Receiver;
use imbl::OrdMap;
use raftnode::{Applied, Commit, CommittedEntry, Entries, Restore};

use crate::command::{Command, DecodeError};

/// How many items of the commit channel one version may add up. More would save little and make
/// the first of them wait.
const MAX_ITEMS_PER_VERSION: usize = 32;

/// A key of the map. A short one stands in the map's own nodes: looking it up then follows no
/// pointer to memory that is in no cache, which is where the time of a large store goes.
#[derive(Debug, Clone)]
pub enum Key {
    /// Up to [`SHORT`] bytes.
    Short {
        /// How many of `bytes` it has.
        len: u8,
        /// The key, then zeros.
        bytes: [u8; SHORT],
    },
    /// More than that.
    Long(Arc<[u8]>),
}

/// The longest key that needs no memory of its own: with its length and the tag, 24 bytes.
pub const SHORT: usize = 22;

impl From<&[u8]> for Key {
    fn from(key: &[u8]) -> Self {
        match u8::try_from(key.len()) {
            Ok(len) if key.len() <= SHORT => {
                let mut bytes = [0; SHORT];
                bytes[..key.len()].copy_from_slice(key);
                Key::Short { len, bytes }
            }
            _ => Key::Long(key.into()),
        }
    }
}

impl Borrow<[u8]> for Key {
    fn borrow(&self) -> &[u8] {
        match self {
            Key::Short { len, bytes } => &bytes[..usize::from(*len)],
            Key::Long(key) => key,
        }
    }
}

// Short and long keys compare as the bytes they stand for, which `Borrow` demands.
impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Key {}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Key {
    fn cmp(&self, other: &Self) -> Ordering {
        let (own, other): (&[u8], &[u8]) = (self.borrow(), other.borrow());
        own.cmp(other)
    }
}

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
    /// The keys. A change copies the map's node around its key, so what a node holds must be
    /// cheap to copy: plain counted pointers take half the time of `Bytes`.
    pub map: OrdMap<Key, Arc<Value>>,
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
    let applier = Applier {
        version: Version::default(),
        replay_through: 0,
        store: store.clone(),
        applied,
        unanswered: Vec::new(),
    };
    let thread =
        std::thread::Builder::new().name("applier".into()).spawn(move || applier.run(&commits))?;
    Ok((store, thread))
}

/// The write side of the store.
struct Applier {
    version: Version,
    /// Until this index is applied nothing is published. See K4.
    replay_through: u64,
    store: Store,
    applied: Applied,
    /// What the version holds and nobody has been told of.
    unanswered: Vec<CommittedEntry>,
}

impl Applier {
    /// Takes what is there, shows it, and answers for it. An applier that falls behind thereby
    /// makes fewer versions, and catches up.
    fn run(mut self, commits: &Receiver<Commit>) -> Result<(), ApplyError> {
        while let Ok(first) = commits.recv() {
            self.apply(first)?;
            for commit in commits.try_iter().take(MAX_ITEMS_PER_VERSION - 1) {
                self.apply(commit)?;
            }
            if self.version.applied_index >= self.replay_through {
                self.publish();
            }
        }
        Ok(())
    }

    fn apply(&mut self, commit: Commit) -> Result<(), ApplyError> {
        match commit {
            Commit::Restore(restore) => self.restore(restore),
            Commit::Entries(entries) => self.apply_entries(entries),
            Commit::Snapshot(_) => Ok(()),
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
        self.replay_through = restore.commit_index;
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
        self.unanswered.extend(entries.items.into_iter().filter(CommittedEntry::is_awaited));
        Ok(())
    }

    /// Copies what it keeps: a slice would keep the whole buffer that the entry came in.
    fn put(&mut self, key: &[u8], value: &[u8], mod_index: u64) {
        let value = Arc::new(Value { bytes: Bytes::copy_from_slice(value), mod_index });
        self.version.map.insert(Key::from(key), value);
    }

    /// K2: first the pointer, then the report, then the answers.
    fn publish(&mut self) {
        self.store.version.store(Arc::new(self.version.clone()));
        self.applied.report(self.version.applied_index);
        for entry in self.unanswered.drain(..) {
            entry.answer(Bytes::new());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use bytes::BufMut;
    use raftnode::testing::FakeNode;
    use raftnode::{Config, Outcome, Unknown};

    use super::*;
    use crate::command;

    fn put(key: &[u8], value: &[u8]) -> Bytes {
        let mut command = command::begin_put(key, value.len());
        command.put_slice(value);
        command.freeze()
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    /// A key is found as the bytes it stands for, and sorts as they do, whatever its length.
    #[test]
    fn keys_compare_as_bytes() {
        let lengths = [0, 1, SHORT - 1, SHORT, SHORT + 1, 300];
        let keys: Vec<Vec<u8>> = lengths
            .iter()
            .flat_map(|len| [vec![0; *len], vec![1; *len], vec![255; *len]])
            .collect();
        for left in &keys {
            assert_eq!(Borrow::<[u8]>::borrow(&Key::from(&left[..])), &left[..]);
            for right in &keys {
                let ordering = Key::from(&left[..]).cmp(&Key::from(&right[..]));
                assert_eq!(ordering, left.cmp(right));
            }
        }
        assert_eq!(size_of::<Key>(), 24);
    }

    /// Whoever has heard that a put is applied finds it, with its index.
    #[test]
    fn an_answered_put_is_visible() {
        let (_, channels) = FakeNode::start(&Config::new(1, vec![], "unused".into()));
        let (store, applier) = start(channels.commits, channels.applied).unwrap();
        for value in [&b"first"[..], b"second"] {
            let pending = channels.handle.propose(put(b"k", value), soon()).unwrap();
            let Outcome::Applied { index, .. } = pending.wait() else { panic!("not applied") };
            let version = store.load();
            assert_eq!((version.applied_index, version.term), (index, 1));
            let expected = Value { bytes: Bytes::copy_from_slice(value), mod_index: index };
            assert_eq!(**version.map.get(&b"k"[..]).unwrap(), expected);
        }
        channels.handle.shutdown();
        assert!(applier.join().unwrap().is_ok());
    }

    /// A command from the future stops the member with its place and the way out: skipping it
    /// would make this member's store another one.
    #[test]
    fn an_unreadable_command_stops_the_applier() {
        let (_, channels) = FakeNode::start(&Config::new(1, vec![], "unused".into()));
        let (store, applier) = start(channels.commits, channels.applied).unwrap();
        let future = Bytes::from_static(b"\x01\x09\x01\x00k");
        let pending = channels.handle.propose(future, soon()).unwrap();
        assert_eq!(pending.wait(), Outcome::Unknown(Unknown::Stopped));
        let message = applier.join().unwrap().unwrap_err().to_string();
        assert!(message.contains("index 2") && message.contains("operation 9"), "{message}");
        assert!(store.load().applied_index <= 1, "the unreadable command shows");
    }

    /// A snapshot's state is not readable yet; taking it for an empty one would lose keys.
    #[test]
    fn a_snapshot_with_state_is_refused() {
        let (_, channels) = FakeNode::start(&Config::new(1, vec![], "unused".into()));
        let (commit_tx, commit_rx) = crossbeam_channel::unbounded();
        let (_, applier) = start(commit_rx, channels.applied).unwrap();
        let state = Box::new(&b"state"[..]);
        let restore = Restore { index: 9, term: 2, commit_index: 9, state };
        commit_tx.send(Commit::Restore(restore)).unwrap();
        let message = applier.join().unwrap().unwrap_err().to_string();
        assert!(message.contains("index 9") && message.contains("later version"), "{message}");
    }
}
