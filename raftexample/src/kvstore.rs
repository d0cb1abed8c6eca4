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
//! - K4 After a restore nothing is published until all that was known to be committed is applied:
//!   a state older than what this member showed before its restart helps nobody, and a map that
//!   nobody shares changes in place, which is what makes replay fast. A member that runs goes on
//!   showing the version from before the restore meanwhile, which is never newer.
//! - K5 A captured state holds exactly the commands through the index that its request names.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use arc_swap::ArcSwap;
use bytes::Bytes;
use crossbeam_channel::Receiver;
use raftnode::{Applied, Commit, CommittedEntry, Entries, Restore, SnapshotRequest};

use crate::command::{Command, DecodeError};
use crate::state::{self, Map};

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
    pub map: Map,
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
            self.publish_unless_replaying();
        }
        Ok(())
    }

    fn apply(&mut self, commit: Commit) -> Result<(), ApplyError> {
        match commit {
            Commit::Restore(restore) => self.restore(restore),
            Commit::Entries(entries) => self.apply_entries(entries),
            Commit::Snapshot(request) => {
                self.capture(request);
                Ok(())
            }
        }
    }

    /// Comes first, and again whenever this member has fallen too far behind the log. What was
    /// applied before is shown and answered for while it still can be; what may not be shown yet
    /// (K4) is dropped with the state that held it, and its proposers hear that it is unknown.
    fn restore(&mut self, restore: Restore) -> Result<(), ApplyError> {
        let Restore { index, term, commit_index, state } = restore;
        self.publish_unless_replaying();
        self.unanswered.clear();
        let map = state::read(state).map_err(|source| ApplyError::State { index, source })?;
        self.version = Version { applied_index: index, term, map };
        self.replay_through = commit_index;
        Ok(())
    }

    /// The clone is one pointer: the map is persistent. Commands that are applied while it is
    /// written copy the nodes they change.
    fn capture(&self, request: SnapshotRequest) {
        let Version { applied_index, term, map } = self.version.clone();
        assert!(
            (applied_index, term) == (request.index, request.term),
            "K5: a capture of index {}, term {} at index {applied_index}, term {term}",
            request.index,
            request.term
        );
        request.capture(move |writer| state::write(&map, writer));
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

    /// See K4.
    fn publish_unless_replaying(&mut self) {
        if self.version.applied_index >= self.replay_through {
            self.publish();
        }
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

    fn stored(store: &Store, key: &[u8]) -> Option<Bytes> {
        store.load().map.get(key).map(|value| value.bytes.clone())
    }

    fn restore(index: u64, commit_index: u64, state: Vec<u8>) -> Restore {
        Restore { index, term: 2, commit_index, state: Box::new(io::Cursor::new(state)) }
    }

    /// A snapshot is what was applied before it was asked for, whatever is applied while it is
    /// written (K5); and a member that lags has that, and nothing else, afterwards.
    #[test]
    fn a_captured_state_replaces_another_members() {
        let (node, channels) = FakeNode::start(&Config::new(1, vec![], "unused".into()));
        let (store, _) = start(channels.commits, channels.applied).unwrap();
        for key in [&b"a"[..], b"b"] {
            channels.handle.propose(put(key, b"before"), soon()).unwrap().wait();
        }
        let write = node.capture().unwrap();
        channels.handle.propose(put(b"a", b"after"), soon()).unwrap().wait();
        let mut state = Vec::new();
        write(&mut state).unwrap();
        assert_eq!(stored(&store, b"a").unwrap(), "after");

        let (lagging, channels) = FakeNode::start(&Config::new(2, vec![], "unused".into()));
        let (store, applier) = start(channels.commits, channels.applied).unwrap();
        channels.handle.propose(put(b"c", b"gone"), soon()).unwrap().wait();
        lagging.restore(restore(9, 9, state));
        let Outcome::Applied { index, .. } =
            channels.handle.propose(put(b"d", b"next"), soon()).unwrap().wait()
        else {
            panic!("not applied");
        };
        assert_eq!((index, store.load().applied_index), (10, 10));
        let expected = [(&b"a"[..], Some("before")), (b"b", Some("before")), (b"c", None)];
        for (key, value) in expected {
            assert_eq!(stored(&store, key), value.map(Bytes::from));
        }
        assert_eq!(store.load().map.get(&b"a"[..]).unwrap().mod_index, 2);
        channels.handle.shutdown();
        assert!(applier.join().unwrap().is_ok());
    }

    /// K4, while running: what was known to be committed is shown with the restored state or not
    /// at all, and until then readers have the version they had.
    #[test]
    fn a_restored_state_is_shown_when_it_is_complete() {
        let (node, channels) = FakeNode::start(&Config::new(1, vec![], "unused".into()));
        let (store, _) = start(channels.commits, channels.applied).unwrap();
        channels.handle.propose(put(b"k", b"old"), soon()).unwrap().wait();
        let mut state = Vec::new();
        node.capture().unwrap()(&mut state).unwrap();
        node.restore(restore(5, 6, state));
        // More than one version adds up: at least one could have been shown.
        for _ in 0..=MAX_ITEMS_PER_VERSION {
            assert!(node.capture().is_some());
        }
        assert_eq!(store.load().applied_index, 2);
        channels.handle.propose(put(b"k", b"new"), soon()).unwrap().wait();
        assert_eq!((store.load().applied_index, store.load().term), (6, 2));
        assert_eq!(stored(&store, b"k").unwrap(), "new");
    }

    /// A state that cannot be read stops the member with its place: taking it for an empty one
    /// would lose keys.
    #[test]
    fn an_unreadable_state_stops_the_applier() {
        let (node, channels) = FakeNode::start(&Config::new(1, vec![], "unused".into()));
        let (_, applier) = start(channels.commits, channels.applied).unwrap();
        node.restore(restore(9, 9, b"kvst\x02\0\0\0".to_vec()));
        let message = applier.join().unwrap().unwrap_err().to_string();
        assert!(message.contains("index 9") && message.contains("version 2"), "{message}");
    }

    /// K5: a request that is taken at another index would give the snapshot a wrong name.
    #[test]
    #[should_panic(expected = "K5")]
    fn a_capture_at_another_index_is_a_bug() {
        let (node, channels) = FakeNode::start(&Config::new(1, vec![], "unused".into()));
        let applier = Applier {
            version: Version { applied_index: 7, ..Version::default() },
            replay_through: 0,
            store: Store::default(),
            applied: channels.applied,
            unanswered: Vec::new(),
        };
        let asking = std::thread::spawn(move || node.capture().is_some());
        for commit in channels.commits {
            if let Commit::Snapshot(request) = commit {
                applier.capture(request);
            }
        }
        asking.join().unwrap();
    }
}
