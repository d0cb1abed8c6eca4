//! What a member's log has synced, kept as its saves go by: what each message that leaves is judged
//! by (N2).
//!
//! Refuses to believe a save that the disk did no sync for, and one that failed: what such a one
//! wrote counts from the next save that was synced.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use wal::Wal;

use super::{Disk, Promise};

/// Clones are the same ledger.
#[derive(Clone)]
pub(crate) struct Ledger {
    disk: Arc<dyn Disk>,
    synced: Arc<Mutex<Synced>>,
}

/// The log as the disk has it, without what its entries say.
#[derive(Debug, Default)]
struct Synced {
    term: u64,
    vote: u64,
    first_index: u64,
    /// Of the entries, from the first on.
    terms: VecDeque<u64>,
}

/// What of a promise the log had synced when that left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Held {
    /// The term.
    pub(crate) term: u64,
    /// The vote in that term; 0: none.
    pub(crate) vote: u64,
    /// Index and term of the last entry.
    pub(crate) last: (u64, u64),
    /// The entry that is acknowledged.
    pub(crate) entry: At,
}

/// What a log has at an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum At {
    /// Nothing: it ends before.
    Nothing,
    /// An entry of this term.
    Term(u64),
    /// A snapshot of it.
    Snapshot,
}

impl Ledger {
    /// What was found on a disk is on it.
    pub(crate) fn new(disk: Arc<dyn Disk>, wal: &Wal) -> Self {
        let ledger = Self { disk, synced: Arc::default() };
        ledger.synced().copy(wal);
        ledger
    }

    fn synced(&self) -> MutexGuard<'_, Synced> {
        // It is plain data.
        self.synced.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How often the disk has synced.
    pub(crate) fn n_syncs(&self) -> u64 {
        self.disk.n_syncs()
    }

    /// The log was saved; when that began, the disk had synced so often.
    pub(crate) fn saved(&self, wal: &Wal, n_syncs: u64) {
        if self.n_syncs() > n_syncs {
            self.synced().copy(wal);
        }
    }

    /// What is on the disk now of what a promise says.
    pub(crate) fn held(&self, promise: &Promise) -> Held {
        let synced = self.synced();
        let last_index = (synced.first_index + synced.terms.len() as u64).saturating_sub(1);
        Held {
            term: synced.term,
            vote: synced.vote,
            last: (last_index, synced.terms.back().copied().unwrap_or_default()),
            entry: synced.at(promise.index.unwrap_or_default()),
        }
    }
}

impl Synced {
    fn at(&self, index: u64) -> At {
        let Some(nth) = index.checked_sub(self.first_index) else { return At::Snapshot };
        let term = usize::try_from(nth).ok().and_then(|nth| self.terms.get(nth));
        term.map_or(At::Nothing, |term| At::Term(*term))
    }

    /// From the end back to where nothing changed: an entry of the same index and term follows the
    /// same entries.
    fn copy(&mut self, wal: &Wal) {
        let hard_state = wal.hard_state();
        (self.term, self.vote) = (hard_state.term, hard_state.vote);
        let first_index = wal.first_index();
        let mut index = wal.last_index();
        let mut fresh = Vec::new();
        while index >= first_index {
            let term = wal.term(index).unwrap_or_default();
            if self.at(index) == At::Term(term) {
                break;
            }
            fresh.push(term);
            index -= 1;
        }
        while self.first_index < first_index && self.terms.pop_front().is_some() {
            self.first_index += 1;
        }
        if self.terms.is_empty() {
            self.first_index = first_index;
        }
        let left = (index + 1).saturating_sub(self.first_index);
        self.terms.truncate(usize::try_from(left).unwrap_or(usize::MAX));
        self.terms.extend(fresh.into_iter().rev());
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use wal::fs::MemFs;
    use wal::{Batch, HardState, Marker, Options};

    use super::*;

    fn open(fs: &MemFs) -> (Wal, Ledger) {
        let mut first = Batch::new();
        first.set_marker(Marker { index: 1, term: 1, checksum: 0 });
        first.set_hard_state(HardState { term: 1, vote: 0, commit: 1 });
        let options = Options { segment_bytes: 1 << 16, ..Options::default() };
        let wal = Wal::create(Arc::new(fs.clone()), Path::new("/wal"), options, &mut first);
        let wal = wal.unwrap();
        let ledger = Ledger::new(Arc::new(fs.clone()), &wal);
        (wal, ledger)
    }

    fn save(wal: &mut Wal, ledger: &Ledger, vote: u64, entries: &[(u64, u64)]) {
        let mut batch = Batch::new();
        for (index, term) in entries {
            batch.push_entry(*index, *term, false, &[b"x"]);
        }
        let term = entries.last().map_or(1, |(_, term)| *term);
        batch.set_hard_state(HardState { term, vote, commit: 1 });
        let n_syncs = ledger.n_syncs();
        wal.save(&mut batch).unwrap();
        ledger.saved(wal, n_syncs);
    }

    fn ack(term: u64, index: u64, entry_term: u64) -> Promise {
        Promise { to: 2, term, vote: None, index: Some(index), entry_term: Some(entry_term) }
    }

    /// What is missing of a promise that leaves now.
    fn missing(ledger: &Ledger, promise: &Promise) -> Option<String> {
        promise.missing(&ledger.held(promise))
    }

    /// Index and term have to be there, not the index alone, and from the sync on, not before.
    #[test]
    fn an_entry_is_held_by_its_index_and_its_term() {
        let fs = MemFs::new();
        let (mut wal, ledger) = open(&fs);
        assert!(missing(&ledger, &ack(2, 3, 2)).is_some());
        save(&mut wal, &ledger, 0, &[(2, 2), (3, 2), (4, 2)]);
        assert_eq!(missing(&ledger, &ack(2, 4, 2)), None);
        assert_eq!(missing(&ledger, &ack(2, 1, 1)), None, "the snapshot holds it");
        assert!(missing(&ledger, &ack(2, 5, 2)).is_some());
        // The log is longer, and another leader's.
        assert!(missing(&ledger, &ack(2, 3, 1)).is_some());
        save(&mut wal, &ledger, 0, &[(3, 3)]);
        assert_eq!(missing(&ledger, &ack(3, 3, 3)), None);
        assert_eq!(missing(&ledger, &ack(3, 2, 2)), None);
        assert!(missing(&ledger, &ack(3, 4, 2)).is_some());
        // Whoever led before is told of what was replaced since, as if the message had been late.
        assert_eq!(missing(&ledger, &Promise { entry_term: None, ..ack(2, 4, 2) }), None);
    }

    /// A vote counts once the disk has it; so does a term.
    #[test]
    fn a_vote_is_held_with_its_term() {
        let (mut wal, ledger) = open(&MemFs::new());
        let vote = |term, to| Promise { to, term, vote: Some(to), index: None, entry_term: None };
        assert!(missing(&ledger, &vote(1, 2)).is_some());
        save(&mut wal, &ledger, 2, &[]);
        assert_eq!(missing(&ledger, &vote(1, 2)), None);
        assert!(missing(&ledger, &vote(1, 3)).is_some());
        assert!(missing(&ledger, &vote(2, 2)).is_some());
    }

    /// A save without a sync is not believed, however the log believes itself.
    #[test]
    fn what_no_sync_covers_is_not_held() {
        let (mut wal, ledger) = open(&MemFs::new());
        let mut batch = Batch::new();
        batch.push_entry(2, 1, false, &[b"x"]);
        wal.save(&mut batch).unwrap();
        ledger.saved(&wal, ledger.n_syncs());
        assert!(missing(&ledger, &ack(1, 2, 1)).is_some());
        save(&mut wal, &ledger, 0, &[(3, 1)]);
        assert_eq!(missing(&ledger, &ack(1, 2, 1)), None);
    }
}
