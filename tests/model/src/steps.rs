//! Steps that a log's rules allow in the state in which a model is.

use fuzz::Rng;
use wal::{Entry, HardState, Marker};

use crate::{Model, Step};

/// Any step that the rules allow.
pub fn any(random: &mut Rng, model: &Model) -> Step {
    let old = model.hard_state;
    let marked = model.marker.map_or(0, |marker| marker.index);
    match random.below(28) {
        0 | 24 => return Step::Release(marked - random.below(3).min(marked)),
        1 | 25 => return Step::Forget(marked - random.below(3).min(marked)),
        2 | 26 | 27 => return Step::Delete,
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

/// Entries of these lengths in one term, the last one of the log or the next.
pub fn entries(random: &mut Rng, model: &Model, first: u64, term: u64, lengths: &[usize]) -> Step {
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

/// A hard state alone.
pub fn state(hard_state: HardState) -> Step {
    Step::Save { marker: None, entries: Vec::new(), hard_state: Some(hard_state) }
}

/// A snapshot of what the log holds, everything through it committed.
pub fn marker(model: &Model, index: u64) -> Step {
    let term = model.term(index).unwrap_or(model.hard_state.term);
    let marker = Some(Marker { index, term, checksum: index ^ term });
    let hard_state = HardState { commit: index.max(model.hard_state.commit), ..model.hard_state };
    Step::Save { marker, entries: Vec::new(), hard_state: Some(hard_state) }
}

/// A snapshot of what the log does not hold.
pub fn installed(random: &mut Rng, model: &Model) -> Step {
    let old = model.hard_state;
    let index = model.last_index() + 1 + random.below(9);
    let marker = Some(Marker { index, term: old.term, checksum: random.draw() });
    let hard_state = Some(HardState { commit: index, ..old });
    Step::Save { marker, entries: Vec::new(), hard_state }
}
