//! Steps that a log can take, by kind or by chance, always within its rules.

use std::fmt;

use fuzz::Rng;
use wal::{Entry, HardState, Marker};

use super::model::Model;

/// Something that is done to a log.
#[derive(Debug, Clone)]
pub(super) enum Step {
    Save {
        marker: Option<Marker>,
        entries: Vec<Entry>,
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

/// How many kinds of step there are in short scripts.
pub(super) const KINDS: u64 = 12;

/// The step of the short script `nth` at this place.
pub(super) fn short(nth: u64, at: usize, random: &mut Rng, model: &Model) -> Step {
    let old = model.hard_state;
    match nth / KINDS.pow(at as u32) % KINDS {
        0 => entries(random, model, model.last_index() + 1, old.term, &[40]),
        1 => entries(random, model, model.last_index() + 1, old.term, &[300, 700]),
        2 => entries(random, model, model.last_index() + 1, old.term, &[1, 1200, 0]),
        // Entries that nobody committed give way to those of a new term.
        3 => entries(random, model, old.commit + 1, old.term + 1, &[500]),
        4 => entries(random, model, model.last_index() + 1, old.term + 1, &[2600]),
        5 => state(HardState { term: old.term + 1, vote: 1 + random.below(3), commit: old.commit }),
        6 => state(HardState { commit: model.last_index(), ..old }),
        7 => marker(model, model.last_index()),
        8 => Step::Prepare,
        9 => Step::Supply,
        10 => Step::Release(model.marker.map_or(0, |marker| marker.index)),
        _ => installed(random, model),
    }
}

/// Any step that the rules allow.
pub(super) fn any(random: &mut Rng, model: &Model) -> Step {
    let old = model.hard_state;
    let marked = model.marker.map_or(0, |marker| marker.index);
    match random.below(24) {
        0 => return Step::Release(marked - random.below(3).min(marked)),
        1 => return Step::Forget(marked - random.below(3).min(marked)),
        2 => return Step::Delete,
        3 | 4 => return Step::Prepare,
        5 | 6 => return Step::Supply,
        7 | 8 => return marker(model, old.commit),
        9 if random.below(2) == 0 => return installed(random, model),
        10 if model.last_index() > old.commit => {
            // A snapshot whose entry the log holds in another term.
            let (index, term) = (old.commit + 1, old.term + 1);
            let marker = Some(Marker { index, term, checksum: random.draw() });
            let hard_state = Some(HardState { term, vote: 0, commit: index });
            return Step::Save { marker, entries: Vec::new(), hard_state };
        }
        11 => {
            return state(HardState {
                term: old.term + 1,
                vote: random.below(4),
                commit: old.commit,
            });
        }
        _ => {}
    }
    let term = old.term + u64::from(random.below(5) == 0);
    let first = match random.below(6) {
        0 => old.commit + 1 + random.below(model.last_index() - old.commit + 1),
        _ => model.last_index() + 1,
    };
    let lengths = [0, 1, 40, 100, 450, 600, 1100, 2000, 5000];
    let lengths: Vec<_> = (0..random.below(4)).map(|_| lengths[random.below(9) as usize]).collect();
    let step = entries(random, model, first, term, &lengths);
    let Step::Save { marker, entries, hard_state: Some(mut state) } = step else { return step };
    let last = entries.last().map_or(model.last_index(), |entry| entry.index);
    state.commit = old.commit + random.below(last - old.commit + 1);
    if term > old.term || old.vote == 0 {
        state.vote = random.below(4);
    }
    Step::Save { marker, entries, hard_state: Some(state) }
}

/// One entry behind the others.
pub(super) fn append(random: &mut Rng, model: &Model) -> Step {
    let length = [30, 600][random.below(2) as usize];
    entries(random, model, model.last_index() + 1, model.hard_state.term, &[length])
}

fn entries(random: &mut Rng, model: &Model, first: u64, term: u64, lengths: &[usize]) -> Step {
    let old = model.hard_state;
    let entry = |(index, length): (u64, &usize)| {
        // Chance tells an entry from the one that it replaces. Some hold sectors of zeros.
        let is_zero = random.below(8) == 0;
        let payload = (0..*length).map(|_| if is_zero { 0 } else { random.draw() as u8 });
        let payload = payload.collect::<Vec<_>>().into();
        Entry { index, term, is_conf_change: index.is_multiple_of(3), payload }
    };
    let entries = (first..).zip(lengths).map(entry).collect();
    let vote = if term > old.term { 0 } else { old.vote };
    Step::Save { marker: None, entries, hard_state: Some(HardState { term, vote, ..old }) }
}

fn state(hard_state: HardState) -> Step {
    Step::Save { marker: None, entries: Vec::new(), hard_state: Some(hard_state) }
}

/// A snapshot of what the log holds, everything through it committed.
fn marker(model: &Model, index: u64) -> Step {
    let term = model.term(index).unwrap_or(model.hard_state.term);
    let marker = Some(Marker { index, term, checksum: index ^ term });
    let hard_state = HardState { commit: index.max(model.hard_state.commit), ..model.hard_state };
    Step::Save { marker, entries: Vec::new(), hard_state: Some(hard_state) }
}

/// A snapshot of what the log does not hold.
fn installed(random: &mut Rng, model: &Model) -> Step {
    let old = model.hard_state;
    let index = model.last_index() + 1 + random.below(9);
    let marker = Some(Marker { index, term: old.term, checksum: random.draw() });
    let hard_state = Some(HardState { commit: index, ..old });
    Step::Save { marker, entries: Vec::new(), hard_state }
}
