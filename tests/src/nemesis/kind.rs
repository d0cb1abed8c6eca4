//! The kinds of faults, and the order in which they come.

use std::collections::BTreeMap;
use std::fmt;

use crate::rng::Rng;

/// What can go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// SIGKILL to the leader, and a new start.
    KillLeader,
    /// The same to a follower.
    KillFollower,
    /// SIGKILL to all of them at once.
    PowerCycle,
    /// SIGSTOP to the leader, and SIGCONT.
    FreezeLeader,
    /// The same to a follower.
    FreezeFollower,
    /// The leader is cut off and frozen: what it has promised it does long after.
    IsolateAndFreeze,
    /// SIGTERM, and a new start.
    Restart,
    /// Leadership is handed over.
    Transfer,
    /// All links are slow.
    Delay,
    /// The links of one are reset, again and again.
    Reset,
    /// What one says and hears arrives when all is over.
    Hold,
    /// Nothing passes from or to the leader.
    IsolateLeader,
    /// Nothing passes from or to a follower.
    IsolateFollower,
    /// The leader and fewer others than half are cut off.
    Minority,
    /// One is not heard.
    Mute,
    /// One hears nothing.
    Deafen,
    /// The leader and one other do not reach each other.
    Part,
    /// The others' ends of a member's connections are gone, and it does not know.
    HalfOpen,
    /// A follower is cut off until the others have let go of the log that it needs.
    UntilSnapshot,
    /// A disk fails a write or a sync, which ends its member.
    DiskFails,
    /// A disk takes seconds for a sync.
    DiskSlow,
    /// A disk has no room.
    DiskFull,
    /// A member joins, and a follower is removed.
    ReplaceFollower,
    /// A member joins, and the leader is removed.
    ReplaceLeader,
    /// A member loses its data directory, is refused, removed and replaced.
    Wipe,
    /// A voter is made a learner, and a voter again.
    Demote,
}

/// Everything.
pub const ALL: [Kind; 26] = [
    Kind::KillLeader,
    Kind::KillFollower,
    Kind::PowerCycle,
    Kind::FreezeLeader,
    Kind::FreezeFollower,
    Kind::IsolateAndFreeze,
    Kind::Restart,
    Kind::Transfer,
    Kind::Delay,
    Kind::Reset,
    Kind::Hold,
    Kind::IsolateLeader,
    Kind::IsolateFollower,
    Kind::Minority,
    Kind::Mute,
    Kind::Deafen,
    Kind::Part,
    Kind::HalfOpen,
    Kind::UntilSnapshot,
    Kind::DiskFails,
    Kind::DiskSlow,
    Kind::DiskFull,
    Kind::ReplaceFollower,
    Kind::ReplaceLeader,
    Kind::Wipe,
    Kind::Demote,
];

/// What a short run has to have, so that it comes first: each hits the leader.
const FIRST: [Kind; 3] = [Kind::KillLeader, Kind::FreezeLeader, Kind::IsolateLeader];

impl Kind {
    /// Whether it takes members whose disks can be told to fail, and whose logs have short
    /// segments.
    pub fn needs_faults(self) -> bool {
        matches!(self, Kind::UntilSnapshot | Kind::DiskFails | Kind::DiskSlow)
    }

    /// Whether it happens to processes and links alone.
    pub fn is_plain(self) -> bool {
        use Kind::{Demote, DiskFull, ReplaceFollower, ReplaceLeader, Wipe};
        let changes = matches!(self, ReplaceFollower | ReplaceLeader | Wipe | Demote);
        !self.needs_faults() && !changes && self != DiskFull
    }
}

/// `half open`.
impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = format!("{self:?}");
        let mut spoken = String::new();
        for (place, letter) in name.char_indices() {
            if letter.is_uppercase() && place > 0 {
                spoken.push(' ');
            }
            spoken.push(letter.to_ascii_lowercase());
        }
        f.pad(&spoken)
    }
}

/// Faults in a random order, each of them before any comes a second time.
#[derive(Debug)]
pub struct Deck {
    kinds: Vec<Kind>,
    left: Vec<Kind>,
    rng: Rng,
    /// At how many draws each kind was possible.
    chances: BTreeMap<Kind, usize>,
}

impl Deck {
    /// Of these kinds, in the order of a seed.
    pub fn new(kinds: &[Kind], seed: u64) -> Deck {
        let (left, rng, chances) = (Vec::new(), Rng::new(seed), BTreeMap::new());
        let mut deck = Deck { kinds: kinds.to_vec(), left, rng, chances };
        let first: Vec<_> = FIRST.into_iter().filter(|kind| kinds.contains(kind)).collect();
        deck.fill(&first);
        deck
    }

    /// The next that is possible.
    ///
    /// # Panics
    ///
    /// When none is.
    pub fn draw(&mut self, is_possible: impl Fn(Kind) -> bool) -> Kind {
        let possible = self.kinds.iter().copied().filter(|kind| is_possible(*kind));
        possible.for_each(|kind| *self.chances.entry(kind).or_default() += 1);
        assert!(self.kinds.iter().any(|kind| is_possible(*kind)), "no fault is possible");
        loop {
            if let Some(place) = self.left.iter().rposition(|kind| is_possible(*kind)) {
                return self.left.remove(place);
            }
            let mut kinds = self.kinds.clone();
            // What could not be done yet is still to be done first.
            kinds.retain(|kind| !self.left.contains(kind));
            let waiting = std::mem::take(&mut self.left);
            self.fill(&kinds);
            self.left.extend(waiting);
        }
    }

    /// At how many draws this one was possible.
    pub fn chances(&self, kind: Kind) -> usize {
        self.chances.get(&kind).copied().unwrap_or_default()
    }

    /// A kind that was possible at so many draws has been drawn. What was drawn instead of it was
    /// one of the first, or another kind of the first time around; from then on it waits on top.
    pub fn enough(&self) -> usize {
        FIRST.len() + self.kinds.len()
    }

    fn fill(&mut self, kinds: &[Kind]) {
        self.left = kinds.to_vec();
        for last in (1..self.left.len()).rev() {
            let other = self.rng.below(last as u64 + 1) as usize;
            self.left.swap(last, other);
        }
    }
}

/// How often each kind was.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Done(BTreeMap<Kind, usize>);

impl Done {
    /// One more.
    pub fn count(&mut self, kind: Kind) {
        *self.0.entry(kind).or_default() += 1;
    }

    /// How often this one was.
    pub fn of(&self, kind: Kind) -> usize {
        self.0.get(&kind).copied().unwrap_or_default()
    }

    /// How many there were.
    pub fn total(&self) -> usize {
        self.0.values().sum()
    }

    /// All of another's as well.
    pub fn add(&mut self, other: &Done) {
        other.0.iter().for_each(|(kind, n)| *self.0.entry(*kind).or_default() += n);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nothing comes again before all that is possible has been, and what is not possible waits.
    #[test]
    fn a_deck_leaves_nothing_out() {
        let mut deck = Deck::new(&ALL, 7);
        let first: Vec<_> = (0..FIRST.len()).map(|_| deck.draw(|_| true)).collect();
        assert!(FIRST.iter().all(|kind| first.contains(kind)), "{first:?}");
        let possible = |kind: Kind| kind != Kind::DiskFull;
        let mut drawn: Vec<_> = (1..ALL.len()).map(|_| deck.draw(possible)).collect();
        assert_eq!(deck.draw(|_| true), Kind::DiskFull);
        drawn.push(Kind::DiskFull);
        drawn.sort();
        assert_eq!(drawn, ALL);
        assert_eq!(Kind::IsolateAndFreeze.to_string(), "isolate and freeze");
    }
}
