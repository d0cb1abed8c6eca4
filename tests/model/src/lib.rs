//! What a log must hold, said without a disk.
//!
//! A test takes one [`Step`] after another with a [`Model`] and with a [`Wal`], and asks what tells
//! them apart. The model keeps what was released: a log may still hold it, for files go as a whole,
//! and later.
//!
//! It knows no rules: a step that a log must refuse leaves a model that no log has. [`steps`] chooses
//! among those that the rules allow.

pub mod steps;

use std::fmt;

use wal::{Batch, Doomed, Entry, Error, HardState, Marker, Prepared, Wal};

/// Something that is done to a log.
#[derive(Debug, Clone)]
pub enum Step {
    /// One batch.
    Save {
        /// Of a snapshot. The log starts anew behind it, unless it holds that entry in that term.
        marker: Option<Marker>,
        /// In a row; the first may be one that the log has, which it then replaces.
        entries: Vec<Entry>,
        /// Nothing leaves the last one as it is.
        hard_state: Option<HardState>,
    },
    /// Forgets and deletes at once.
    Release(u64),
    /// Forgets; an earlier deletion that was not run yet is dropped.
    Forget(u64),
    /// Deletes what was forgotten last.
    Delete,
    /// Prepares a file if the log wants one.
    Prepare,
    /// Supplies what was prepared.
    Supply,
}

impl Step {
    /// The batch of a [`Step::Save`], every payload in two parts.
    ///
    /// # Panics
    ///
    /// When the step saves nothing.
    pub fn batch(&self) -> Batch {
        let Step::Save { marker, entries, hard_state } = self else {
            panic!("{self} saves nothing")
        };
        let mut batch = Batch::new();
        for entry in entries {
            let (left, right) = entry.payload.split_at(entry.payload.len() / 2);
            batch.push_entry(entry.index, entry.term, entry.is_conf_change, &[left, right]);
        }
        marker.iter().for_each(|marker| batch.set_marker(*marker));
        hard_state.iter().for_each(|state| batch.set_hard_state(*state));
        batch
    }
}

/// In one line: the lengths of payloads instead of their bytes.
impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Step::Save { marker, entries, hard_state } = self else { return write!(f, "{self:?}") };
        write!(f, "Save")?;
        for entry in entries {
            write!(f, " {}@{} of {} bytes", entry.index, entry.term, entry.payload.len())?;
        }
        marker.iter().try_for_each(|marker| write!(f, ", {marker:?}"))?;
        hard_state.iter().try_for_each(|state| write!(f, ", {state:?}"))
    }
}

/// A log without a disk.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Model {
    /// Index and term of what comes before the first entry.
    pub base: (u64, u64),
    /// Those behind the base, in a row.
    pub entries: Vec<Entry>,
    /// The last one saved.
    pub hard_state: HardState,
    /// The last one saved.
    pub marker: Option<Marker>,
    /// How far entries may have been released.
    pub released: u64,
}

impl Model {
    /// A log as it is created: one committed entry, which a snapshot stands for.
    pub fn genesis() -> Self {
        let marker = Marker { index: 1, term: 1, checksum: 0xabc };
        let hard_state = HardState { term: 1, vote: 0, commit: 1 };
        Model { base: (1, 1), hard_state, marker: Some(marker), ..Model::default() }
    }

    /// What such a log is created with.
    pub fn first_batch(&self) -> Batch {
        Step::Save { marker: self.marker, entries: Vec::new(), hard_state: Some(self.hard_state) }
            .batch()
    }

    /// The models before the first step, after it, after the second, and so on.
    pub fn through(steps: &[Step]) -> Vec<Model> {
        let mut models = vec![Model::genesis()];
        for (at, step) in steps.iter().enumerate() {
            let mut model = models[at].clone();
            model.apply(step);
            models.push(model);
        }
        models
    }

    /// That of the newest entry, or of the base when there is none.
    pub fn last_index(&self) -> u64 {
        self.base.0 + self.entries.len() as u64
    }

    /// Of an entry or of the base; of nothing else.
    pub fn term(&self, index: u64) -> Option<u64> {
        if index == self.base.0 {
            return Some(self.base.1);
        }
        let at = index.checked_sub(self.base.0 + 1)?;
        self.entries.get(at as usize).map(|entry| entry.term)
    }

    /// Takes a step that the log's rules allow.
    pub fn apply(&mut self, step: &Step) {
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

    /// Whether the log is this model, but for entries that were released.
    pub fn is(&self, wal: &Wal) -> bool {
        self.differs(wal).is_none()
    }

    /// What tells the log from this model, but for entries that were released. Every entry is read.
    pub fn differs(&self, wal: &Wal) -> Option<String> {
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
        if !kept.iter().all(|entry| wal.term(entry.index) == Some(entry.term)) {
            return Some("it tells other terms".into());
        }
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

/// What a log has handed out. A crash empties them.
#[derive(Default)]
pub struct Hands {
    /// The files that are to be deleted.
    pub doomed: Option<Doomed>,
    /// The file that is to be supplied.
    pub prepared: Option<Prepared>,
}

impl Hands {
    /// Takes a step with the log.
    ///
    /// # Errors
    ///
    /// The log's, and its disk's.
    pub fn take(&mut self, wal: &mut Wal, step: &Step) -> Result<(), Error> {
        match step {
            Step::Save { .. } => wal.save(&mut step.batch())?,
            Step::Release(through) => {
                wal.release(*through)?.map(Doomed::delete).transpose()?;
            }
            Step::Forget(through) => self.doomed = wal.release(*through)?,
            Step::Delete => {
                self.doomed.take().map(Doomed::delete).transpose()?;
            }
            Step::Prepare => {
                if let Some(preparation) = wal.wants_segment() {
                    self.prepared = Some(preparation.run()?);
                }
            }
            Step::Supply => self.prepared.take().into_iter().for_each(|file| wal.supply(file)),
        }
        Ok(())
    }
}
