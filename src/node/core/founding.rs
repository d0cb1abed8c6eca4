//! The first moments of a founder.

use std::collections::BTreeSet;

use wal::defects::{Defect, has};

use crate::membership::Book;
use crate::storage::Storage;

/// A founder with a fresh data directory cannot know whether it is one for the first time, or has
/// lost what it acknowledged. Until all other founders have had their say, or a majority has and
/// the rest had two election timeouts for it, it does nothing that counts: it neither votes, nor
/// acknowledges, nor campaigns. One that was here before is refused by those who knew it.
pub(super) struct Founding {
    pub(super) met: BTreeSet<u64>,
    /// The tick at which these were a majority: the rest has two election timeouts from then on.
    majority_at: Option<u64>,
}

impl Founding {
    pub(super) fn needed(id: u64, storage: &Storage, book: &Book) -> Option<Self> {
        let hard = storage.hard_state();
        let is_fresh = storage.wal().last_index() == 1 && (hard.term, hard.vote) == (1, 0);
        let alone = book.voters().eq([id]);
        let waits = is_fresh && !alone && !has(Defect::HastyFounder);
        (waits && book.voters().any(|voter| voter == id))
            .then(|| Self { met: BTreeSet::from([id]), majority_at: None })
    }

    pub(super) fn is_over(&mut self, book: &Book, ticks: u64, election_ticks: u64) -> bool {
        // Members that took the place of founders count as well: this one may come so late that
        // none of the others is left, and they hand on whom they have met.
        if self.met.len() > book.voters().count() / 2 {
            self.majority_at.get_or_insert(ticks);
        }
        let all = book.voters().all(|id| self.met.contains(&id));
        all || self.majority_at.is_some_and(|since| ticks >= since + 2 * election_ticks)
    }
}
