//! What is committed: one entry per index, for ever.

use std::collections::HashMap;

use super::log::Entry;
use super::rules;
use crate::Violation;

/// What is known of one committed index.
#[derive(Debug, Clone, Copy, Default)]
struct Committed {
    /// Its entry; None where only a snapshot told that the index is committed.
    entry: Option<Entry>,
    /// The term of the first member that was seen to have committed it.
    seen_in_term: u64,
    /// What was published there; none: nothing was yet, or the entry has no command.
    command: Option<u64>,
    /// The state of the machine, and the membership, once it was applied.
    state: Option<u64>,
    book: Option<u64>,
}

/// Everything that is committed.
#[derive(Debug, Default)]
pub(super) struct Commits {
    by_index: Vec<Committed>,
    /// Where each command was published.
    by_command: HashMap<u64, Vec<u64>>,
}

fn place(index: u64) -> usize {
    usize::try_from(index).expect("an index of a simulated log")
}

impl Commits {
    /// The highest index that anybody has committed; 0: none.
    pub(super) fn last_index(&self) -> u64 {
        self.by_index.len().saturating_sub(1) as u64
    }

    /// The cluster begins behind this index, which is committed by decree.
    pub(super) fn found(&mut self, index: u64) {
        self.by_index.resize(place(index) + 1, Committed::default());
    }

    pub(super) fn entry(&self, index: u64) -> Option<Entry> {
        self.by_index.get(place(index))?.entry
    }

    /// A member has committed this entry. True: nobody had before.
    pub(super) fn commit(
        &mut self,
        member: u64,
        index: u64,
        entry: Entry,
        seen_in_term: u64,
    ) -> Result<bool, Violation> {
        let (at, is_new) = (place(index), index > self.last_index());
        if is_new {
            self.by_index.resize(at + 1, Committed::default());
        }
        let committed = &mut self.by_index[at];
        match committed.entry {
            Some(known) => rules::COMMITTED_STAYS.holds(known == entry, || {
                format!(
                    "member {member} committed entry {index} of term {}, and another member \
                     committed one of term {} there",
                    entry.term, known.term
                )
            })?,
            None => (committed.entry, committed.seen_in_term) = (Some(entry), seen_in_term),
        }
        Ok(is_new)
    }

    /// A log must keep this entry: it is committed, and not only in a term that the log's member has
    /// not heard of. Until it has, a leader of an earlier term may replace entries that nobody had
    /// committed when the member took them; its log has not been counted.
    pub(super) fn binds(&self, index: u64, entry: Entry, term: u64) -> bool {
        let committed = self.by_index.get(place(index));
        committed.is_some_and(|known| known.entry == Some(entry) && known.seen_in_term <= term)
    }

    /// The last entry that was committed in an earlier term than this, as far as it is known.
    pub(super) fn last_before(&self, term: u64) -> Option<(u64, Entry)> {
        let found = (self.by_index.iter().enumerate().rev())
            .find(|(_, committed)| committed.entry.is_some() && committed.seen_in_term < term)?;
        Some((found.0 as u64, found.1.entry?))
    }

    /// A member published a range that ends here.
    pub(super) fn pass(&self, member: u64, index: u64, term: u64) -> Result<(), Violation> {
        match self.entry(index) {
            Some(entry) => rules::STATE_MACHINE_SAFETY.holds(entry.term == term, || {
                format!(
                    "member {member} published index {index} with term {term}; the committed \
                     entry has term {}",
                    entry.term
                )
            }),
            None => Ok(()),
        }
    }

    /// A member published this command here.
    pub(super) fn publish(
        &mut self,
        member: u64,
        index: u64,
        term: u64,
        command: u64,
    ) -> Result<(), Violation> {
        self.pass(member, index, term)?;
        let Some(committed) = self.by_index.get_mut(place(index)) else {
            return Err(rules::STATE_MACHINE_SAFETY.broken(format!(
                "member {member} published index {index}, which nobody committed"
            )));
        };
        match committed.command {
            Some(known) => rules::STATE_MACHINE_SAFETY.holds(known == command, || {
                format!("member {member} has another command at index {index} than another member")
            })?,
            None => {
                committed.command = Some(command);
                self.by_command.entry(command).or_default().push(index);
            }
        }
        Ok(())
    }

    /// The first index of a range, both ends excluded, that is known to hold a command.
    pub(super) fn command_between(&self, low: u64, high: u64) -> Option<u64> {
        (low + 1..high).find(|index| {
            self.by_index.get(place(*index)).is_some_and(|committed| committed.command.is_some())
        })
    }

    /// Where a command was published, in the order of its indexes.
    pub(super) fn indexes(&self, command: u64) -> Vec<u64> {
        let mut indexes = self.by_command.get(&command).cloned().unwrap_or_default();
        indexes.sort_unstable();
        indexes
    }

    pub(super) fn state(&mut self, member: u64, index: u64, hash: u64) -> Result<(), Violation> {
        let Some(committed) = self.by_index.get_mut(place(index)) else {
            return Err(rules::STATES_EQUAL.broken(format!(
                "member {member} has a state of index {index}, which nobody committed"
            )));
        };
        let known = *committed.state.get_or_insert(hash);
        rules::STATES_EQUAL.holds(known == hash, || {
            format!("the state of index {index} on member {member} is not that of another member")
        })
    }

    pub(super) fn book(&mut self, member: u64, index: u64, hash: u64) -> Result<(), Violation> {
        let Some(committed) = self.by_index.get_mut(place(index)) else {
            return Err(rules::BOOKS_EQUAL.broken(format!(
                "member {member} has a book of index {index}, which nobody committed"
            )));
        };
        let known = *committed.book.get_or_insert(hash);
        rules::BOOKS_EQUAL.holds(known == hash, || {
            format!("the book of index {index} on member {member} is not that of another member")
        })
    }
}
