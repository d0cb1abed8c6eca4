//! A batch between its write and its sync.
//!
//! Whoever owns a log need not wait for its disk: what [`Wal::write`](crate::Wal::write) returns can be
//! synced by another thread, and [`Wal::synced`](crate::Wal::synced) takes it back.
//!
//! - S1 It is synced once: by whoever comes first, while everybody else who wants to waits. A sync that
//!   has failed is not tried again, and one that has panicked has failed.
//! - S2 At most one batch of a log is in this state, which is what lets replay cut off the last batch
//!   and refuse every other difference.

use std::{
    fmt, io, mem,
    path::PathBuf,
    sync::{Arc, Mutex, TryLockError},
    time::{Duration, Instant},
};

use crate::{
    defects::{Defect, has},
    error::{Context, Result},
    fs::File,
};

/// A batch that is written, and not synced yet: nothing may count on it. Clones are the same one.
#[derive(Clone)]
#[must_use = "the batch is not durable until `Wal::synced` has taken it"]
pub struct Written {
    inner: Arc<Inner>,
}

struct Inner {
    file: Arc<dyn File>,
    path: PathBuf,
    at: Instant,
    state: Mutex<State>,
}

enum State {
    Written,
    /// The sync has ended, well at this time and after so long, or not.
    Ended(io::Result<(Instant, Duration)>),
    /// The log knows.
    Told,
}

impl Written {
    pub(crate) fn new(file: Arc<dyn File>, path: PathBuf) -> Self {
        let state = Mutex::new(State::Written);
        Self { inner: Arc::new(Inner { file, path, at: Instant::now(), state }) }
    }

    /// Syncs it, unless that has been done, and blocks until it is done, by whomever. How it ended is
    /// for [`Wal::synced`](crate::Wal::synced) to say.
    pub fn sync(&self) {
        // One that has panicked is found by `result`.
        if let Ok(mut state) = self.inner.state.lock()
            && let State::Written = *state
        {
            let begun = Instant::now();
            let result = sync(&*self.inner.file);
            let ended = Instant::now();
            *state = State::Ended(result.map(|()| (ended, ended - begun)));
        }
    }

    /// Whether its sync has ended, well or not. Never blocks.
    pub fn has_ended(&self) -> bool {
        match self.inner.state.try_lock() {
            Ok(state) => !matches!(*state, State::Written),
            Err(TryLockError::Poisoned(_)) => true,
            Err(TryLockError::WouldBlock) => false,
        }
    }

    /// When it had been written, and its sync could begin.
    pub(crate) fn written_at(&self) -> Instant {
        self.inner.at
    }

    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }

    /// As a sync that panics does.
    #[cfg(test)]
    pub(crate) fn break_lock(&self) {
        let held = self.inner.clone();
        let panics = move || {
            let _held = held.state.lock();
            panic!("a sync panics");
        };
        std::thread::spawn(panics).join().unwrap_err();
    }

    /// Syncs it unless that has been done; gives when it was durable, and how long the sync took. For
    /// the log alone, once.
    pub(crate) fn result(&self) -> Result<(Instant, Duration)> {
        self.sync();
        let state = self.inner.state.lock();
        let ended = match state.map(|mut state| mem::replace(&mut *state, State::Told)) {
            Ok(State::Ended(result)) => result,
            Ok(State::Written | State::Told) => unreachable!("S1: a batch is synced once"),
            Err(_) => Err(io::Error::other("it panicked")),
        };
        ended.context("sync", &self.inner.path)
    }
}

fn sync(file: &dyn File) -> io::Result<()> {
    if has(Defect::SkipSync) {
        return Ok(());
    }
    let result = file.sync_data();
    if has(Defect::RetrySync) && result.is_err() {
        file.sync_data().ok();
        return Ok(());
    }
    result
}

impl fmt::Debug for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Written").field("path", &self.inner.path).finish_non_exhaustive()
    }
}
