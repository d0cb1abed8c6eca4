//! The production's store, and what of it a simulation wants to see.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use raftexample::kvstore::{KvStore, Store};
use raftnode::machine::{Command, StateMachine};
use raftnode::sim::fingerprint;

/// What each state that was captured or restored anywhere amounts to, by the index that it is
/// labelled with: the first of them, and the first that was not the same (N4).
#[derive(Debug, Clone, Default)]
pub struct States(Arc<Mutex<Seen>>);

#[derive(Debug, Default)]
struct Seen {
    by_index: BTreeMap<u64, u64>,
    odd: Option<String>,
}

impl States {
    /// A member's state through `index` was `what`.
    pub(super) fn saw(&self, index: u64, hash: u64, what: &str) {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = *seen.by_index.entry(index).or_insert(hash);
        if known != hash {
            let text = format!("the state {what} at index {index} is not the one seen before");
            seen.odd.get_or_insert(text);
        }
    }

    fn is_odd(&self, what: &str) {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        seen.odd.get_or_insert_with(|| what.to_owned());
    }

    /// What was not the same everywhere, if anything was.
    #[must_use]
    pub fn odd(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).odd.clone()
    }
}

/// The store of a member.
#[derive(Debug)]
pub struct Machine {
    inner: KvStore,
    store: Store,
    states: States,
    captured: Cell<Option<u64>>,
}

impl Machine {
    /// An empty store.
    #[must_use]
    pub fn new(states: States) -> Self {
        let (inner, store) = KvStore::new();
        Self { inner, store, states, captured: Cell::new(None) }
    }

    /// Where its readers look.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// What was captured since the last call, in one number.
    #[must_use]
    pub fn take_captured(&self) -> Option<u64> {
        self.captured.take()
    }

    /// What it holds now, in one number.
    #[must_use]
    pub fn hash(&self) -> u64 {
        let mut hash = Hash::default();
        // A hash takes everything.
        self.inner.capture()(&mut hash).ok();
        hash.0
    }
}

impl StateMachine for Machine {
    type Response = <KvStore as StateMachine>::Response;
    type Error = <KvStore as StateMachine>::Error;

    fn apply(&mut self, command: Command<'_>) -> Result<Self::Response, Self::Error> {
        self.inner.apply(command)
    }

    fn show(&mut self, index: u64, term: u64) {
        self.inner.show(index, term);
    }

    fn capture(&self) -> impl FnOnce(&mut dyn io::Write) -> io::Result<()> + Send + 'static {
        let write = self.inner.capture();
        let (states, hash) = (self.states.clone(), self.hash());
        self.captured.set(Some(hash));
        move |state| {
            let mut tee = Tee { state, hash: Hash::default() };
            write(&mut tee)?;
            if tee.hash.0 != hash {
                states.is_odd("a state was written that is not the one captured");
            }
            Ok(())
        }
    }

    fn restore(&mut self, state: &mut dyn io::Read, index: u64, term: u64) -> io::Result<()> {
        self.inner.restore(state, index, term)?;
        self.states.saw(index, self.hash(), "restored");
        Ok(())
    }
}

/// Bytes as one number, however they are cut.
#[derive(Debug, Clone, Copy)]
struct Hash(u64);

impl Default for Hash {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl io::Write for Hash {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // The store writes through a buffer of its own, cut in one way.
        self.0 = self.0.rotate_left(5) ^ fingerprint(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Tee<'a> {
    state: &'a mut dyn io::Write,
    hash: Hash,
}

impl io::Write for Tee<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.state.write_all(bytes)?;
        self.hash.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.state.flush()
    }
}
