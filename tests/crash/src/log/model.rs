//! What a log must hold, as simply as it can be said.

use wal::{Batch, Entry, HardState, Marker, Wal};

use super::script::Step;

/// A log without a disk.
#[derive(Debug, Clone, Default)]
pub(super) struct Model {
    /// Index and term of what comes before the first entry.
    pub(super) base: (u64, u64),
    pub(super) entries: Vec<Entry>,
    pub(super) hard_state: HardState,
    pub(super) marker: Option<Marker>,
    /// How far entries may have been released.
    pub(super) released: u64,
}

impl Model {
    pub(super) fn genesis() -> Self {
        let marker = Marker { index: 1, term: 1, checksum: 0xabc };
        let hard_state = HardState { term: 1, vote: 0, commit: 1 };
        Model { base: (1, 1), hard_state, marker: Some(marker), ..Model::default() }
    }

    /// What such a log is created with.
    pub(super) fn first_batch(&self) -> Batch {
        let mut batch = Batch::new();
        self.marker.iter().for_each(|marker| batch.set_marker(*marker));
        batch.set_hard_state(self.hard_state);
        batch
    }

    pub(super) fn last_index(&self) -> u64 {
        self.base.0 + self.entries.len() as u64
    }

    pub(super) fn term(&self, index: u64) -> Option<u64> {
        if index == self.base.0 {
            return Some(self.base.1);
        }
        let at = index.checked_sub(self.base.0 + 1)?;
        self.entries.get(at as usize).map(|entry| entry.term)
    }

    pub(super) fn apply(&mut self, step: &Step) {
        match step {
            Step::Delete | Step::Prepare | Step::Supply => {}
            Step::Release(through) | Step::Forget(through) => {
                self.released = self.released.max(*through);
            }
            Step::Save { marker, entries, hard_state } => {
                if let Some(marker) = marker {
                    if self.term(marker.index) != Some(marker.term) {
                        self.entries.clear();
                        self.base = (marker.index, marker.term);
                    }
                    self.hard_state.commit = self.hard_state.commit.max(marker.index);
                    self.marker = Some(*marker);
                }
                for entry in entries {
                    self.entries.truncate((entry.index - self.base.0 - 1) as usize);
                    self.entries.push(entry.clone());
                }
                self.hard_state = hard_state.unwrap_or(self.hard_state);
            }
        }
    }

    /// What tells the log from this model, but for entries that were released.
    pub(super) fn differs(&self, wal: &Wal) -> Option<String> {
        let (first, last) = (wal.first_index(), wal.last_index());
        let is_alike = last == self.last_index()
            && wal.hard_state() == self.hard_state
            && wal.marker() == self.marker
            && first > self.base.0
            && first <= self.released.max(self.base.0) + 1
            && wal.term(first - 1) == self.term(first - 1)
            && wal.term(last + 1).is_none();
        if !is_alike {
            return Some(format!("{self:?} is expected"));
        }
        let kept = &self.entries[(first - self.base.0 - 1) as usize..];
        let changes = kept.iter().filter(|entry| entry.is_conf_change).map(|entry| entry.index);
        if !wal.conf_changes(0, u64::MAX).eq(changes) {
            return Some("it has other changes of configuration".into());
        }
        if kept.is_empty() {
            return None;
        }
        match wal.entries(first, last + 1, u64::MAX) {
            Ok(entries) if entries == kept => None,
            Ok(_) => Some("it holds other entries".into()),
            Err(error) => Some(format!("unreadable: {error}")),
        }
    }
}
