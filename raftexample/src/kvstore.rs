//! The store: an ordered map of keys, changed only by the committed log.
//!
//! [`KvStore`] is the state machine, and [`raftnode::machine`]'s applier owns it. It changes the
//! map in place, behind a lock that is held for one command; everyone else takes the same lock for
//! one lookup, or to take hold of a whole [`Version`], which is one pointer: the map is persistent,
//! and copies what it changes only while somebody holds on to it. A version shown by pointer alone
//! would copy a node of 64 keys for nearly every put, half of what applying costs. Beside the map
//! the machine has the [`Table`] that makes retries safe, and records the history that
//! [`crate::watch`] shows.
//!
//! Invariants, beside K1 to K5 of [`raftnode::machine`]:
//! - K6 A command either happens as a whole, at one index, or changes nothing and says so.
//! - K7 A keyed command happens once: while its key is in the table a repetition is given the
//!   first answer, and another command under the same key is refused.
//! - K8 What a command does follows from the state and the command alone, never from which member
//!   applies it, when, or how often it was restarted meanwhile.

mod key;
mod machine;
mod once;
mod response;

use std::io;
use std::ops::Bound;
use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;
use raftnode::Channels;
use raftnode::machine::Applier;

use crate::state::Map;
use crate::watch::{Compacted, Watchable, Watcher};
pub use key::{Key, SHORT};
pub use machine::KvStore;
pub(crate) use once::Record;
pub use once::{MAX_BYTES as MAX_ONCE_BYTES, MAX_KEYS as MAX_ONCE_KEYS, Table};
pub use response::{Answer, MAX_RESULT_BYTES, Response, TxnAnswer, TxnResult};

/// The way to the store's log.
pub type Handle = raftnode::machine::Handle<KvStore>;

/// What a key holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Value {
    /// The bytes that were put.
    pub bytes: Bytes,
    /// The index of the entry that put them.
    pub mod_index: u64,
}

/// One version of the store: exactly the commands through its `applied_index` (K1). Clones are
/// pointers, and a change then copies the nodes that both have.
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

/// A page of keys with their mod indexes; and the last of them, when there are more behind it.
pub type Listed<'a> = (Vec<(&'a [u8], u64)>, Option<&'a [u8]>);

impl Version {
    /// Up to `limit` keys that begin with `prefix`, in the order of their bytes, each with its mod
    /// index; those behind `after` only.
    #[must_use]
    pub fn list<'a>(&'a self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Listed<'a> {
        let begin = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let mut following = self
            .map
            .range::<_, [u8]>((begin, Bound::Unbounded))
            .map(|(key, value)| (key.as_bytes(), value.mod_index))
            .take_while(|(key, _)| key.starts_with(prefix));
        let keys: Vec<_> = following.by_ref().take(limit).collect();
        let next = keys.last().map(|(key, _)| *key).filter(|_| following.next().is_some());
        (keys, next)
    }
}

/// What a key held at one moment, and which moment that was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// What it held; `None`: it was not there.
    pub value: Option<Arc<Value>>,
    /// The last index whose command the store held.
    pub applied_index: u64,
    /// The term of that entry.
    pub term: u64,
}

/// The version that readers see, and the applier changes.
#[derive(Debug, Clone, Default)]
struct Shown(Arc<RwLock<Version>>);

impl Shown {
    /// Whoever panics in here breaks a rule of the store, and the process ends by it: nobody is
    /// answered from a command that is half done.
    fn read(&self) -> RwLockReadGuard<'_, Version> {
        self.0.read().unwrap_or_else(|_| panic!("K6: a command was left half done"))
    }

    fn write(&self) -> RwLockWriteGuard<'_, Version> {
        self.0.write().unwrap_or_else(|_| panic!("K6: a command was left half done"))
    }
}

/// The read side of the store. Clones are cheap.
#[derive(Debug, Clone)]
pub struct Store {
    shown: Shown,
    history: Watchable,
}

impl Store {
    /// The newest version. The applier copies what it changes for as long as it is held: for those
    /// who look at many keys.
    #[must_use]
    pub fn load(&self) -> Version {
        self.shown.read().clone()
    }

    /// What a key holds in the newest version.
    #[must_use]
    pub fn get(&self, key: &[u8]) -> Found {
        let version = self.shown.read();
        let value = version.map.get(key).cloned();
        Found { value, applied_index: version.applied_index, term: version.term }
    }

    /// The last index whose command the newest version holds.
    #[must_use]
    pub fn applied_index(&self) -> u64 {
        self.shown.read().applied_index
    }

    /// Watches the keys that begin with `prefix`: every event from index `from_index` on; `None`:
    /// every event that the newest version does not hold yet, and maybe the last few that it does.
    ///
    /// # Errors
    ///
    /// When the history does not go back to `from_index`.
    pub fn watch(&self, from_index: Option<u64>, prefix: Bytes) -> Result<Watcher, Compacted> {
        self.history.watch(from_index, prefix)
    }
}

/// Starts an empty store on what a node commits. See [`raftnode::machine::start`].
///
/// # Errors
///
/// When the system gives no thread.
pub fn start(channels: Channels) -> io::Result<(Handle, Store, Applier)> {
    let (machine, store) = KvStore::new();
    let (handle, applier) = raftnode::machine::start(machine, channels)?;
    Ok((handle, store, applier))
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
