//! Scripts of steps that a log can take, always within its rules.

use fuzz::Rng;
use model::steps::{entries, installed, marker, state};
use model::{Model, Step};
use wal::HardState;

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

/// Steps that fill segments and let go of several at once.
pub(super) fn releasing(random: &mut Rng, model: &Model, at: usize) -> Step {
    let marked = model.marker.map_or(0, |marker| marker.index);
    match at % 7 {
        4 => marker(model, model.hard_state.commit),
        5 if random.below(2) == 0 => Step::Release(marked),
        5 => Step::Forget(marked),
        6 => Step::Delete,
        _ => {
            let (first, old) = (model.last_index() + 1, model.hard_state);
            let step = entries(random, model, first, old.term, &[1100]);
            let Step::Save { marker, entries, .. } = step else { return step };
            let hard_state = Some(HardState { commit: first, ..old });
            Step::Save { marker, entries, hard_state }
        }
    }
}

/// One entry behind the others.
pub(super) fn append(random: &mut Rng, model: &Model) -> Step {
    let length = [30, 600][random.below(2) as usize];
    entries(random, model, model.last_index() + 1, model.hard_state.term, &[length])
}
