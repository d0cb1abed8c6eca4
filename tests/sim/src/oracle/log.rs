//! What is known of one member's log, and of all entries that any log ever had.

use std::collections::VecDeque;

use super::rules;
use crate::Violation;

/// An entry, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) term: u64,
    pub(super) hash: u64,
}

/// A copy of one member's log, kept up to date by what changes in it.
#[derive(Debug, Clone)]
pub(super) struct Log {
    /// The index of the first entry.
    first_index: u64,
    entries: VecDeque<Entry>,
}

impl Default for Log {
    fn default() -> Self {
        Self::behind(0)
    }
}

impl Log {
    /// One that begins behind a snapshot.
    pub(super) fn behind(snapshot_index: u64) -> Self {
        Self { first_index: snapshot_index + 1, entries: VecDeque::new() }
    }

    pub(super) fn get(&self, index: u64) -> Option<Entry> {
        let place = usize::try_from(index.checked_sub(self.first_index)?).ok()?;
        self.entries.get(place).copied()
    }

    /// Makes it end before `index`.
    pub(super) fn cut(&mut self, index: u64) {
        let left = index.saturating_sub(self.first_index);
        self.entries.truncate(usize::try_from(left).expect("a log in memory"));
    }

    pub(super) fn push(&mut self, entry: Entry) {
        self.entries.push_back(entry);
    }

    /// Forgets what is far behind: nothing asks for it any more.
    pub(super) fn forget_before(&mut self, index: u64) {
        while self.first_index < index && self.entries.pop_front().is_some() {
            self.first_index += 1;
        }
    }
}

/// Every entry that was ever in a log, by index: what log matching says of two logs follows from
/// each entry's being one, and following one.
#[derive(Debug, Default)]
pub(super) struct Entries {
    by_index: Vec<Vec<Known>>,
    /// Those that remove a member: index, entry, and whom.
    removals: Vec<(u64, Entry, u64)>,
}

#[derive(Debug, Clone, Copy)]
struct Known {
    entry: Entry,
    /// The term of the entry before it, when that is known.
    follows: Option<u64>,
}

impl Entries {
    /// A log has this entry, behind one of term `follows`.
    pub(super) fn meet(
        &mut self,
        member: u64,
        index: u64,
        entry: Entry,
        follows: Option<u64>,
    ) -> Result<(), Violation> {
        let place = usize::try_from(index).expect("an index of a simulated log");
        if self.by_index.len() <= place {
            self.by_index.resize(place + 1, Vec::new());
        }
        let known = &mut self.by_index[place];
        let Some(known) = known.iter_mut().find(|known| known.entry.term == entry.term) else {
            known.push(Known { entry, follows });
            return Ok(());
        };
        rules::LOG_MATCHING.holds(known.entry == entry, || {
            format!(
                "member {member} has another entry {index} of term {} than another log",
                entry.term
            )
        })?;
        if let (Some(before), Some(now)) = (known.follows, follows) {
            rules::LOG_MATCHING.holds(before == now, || {
                format!(
                    "entry {index} of term {} follows one of term {now} on member {member}, \
                     and one of term {before} elsewhere",
                    entry.term
                )
            })?;
        }
        known.follows = known.follows.or(follows);
        Ok(())
    }

    /// An entry that was met removes a member.
    pub(super) fn removes(&mut self, index: u64, entry: Entry, member: u64) {
        if !self.removals.contains(&(index, entry, member)) {
            self.removals.push((index, entry, member));
        }
    }

    /// The entries that remove a member.
    pub(super) fn removals(&self, member: u64) -> impl Iterator<Item = (u64, Entry)> + '_ {
        let own = self.removals.iter().filter(move |(.., removed)| *removed == member);
        own.map(|(index, entry, _)| (*index, *entry))
    }
}
