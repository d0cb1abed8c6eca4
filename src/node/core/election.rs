//! How long a member waits before it asks to be elected: drawn from a seed, so that a run can be
//! repeated.

use raft::StateRole;

/// Draws an election timeout, in ticks, for each term, role and failed attempt.
pub(super) struct ElectionTimer {
    state: u64,
    election_tick: usize,
    drawn_for: Option<(u64, StateRole)>,
    timeout: usize,
}

impl ElectionTimer {
    pub(super) fn new(seed: u64, election_tick: usize) -> Self {
        Self { state: seed, election_tick, drawn_for: None, timeout: election_tick + 1 }
    }

    /// The last timeout was used up: the next attempt draws another.
    pub(super) fn fired(&mut self) {
        self.drawn_for = None;
    }

    pub(super) fn timeout(&mut self, term: u64, role: StateRole) -> usize {
        if self.drawn_for != Some((term, role)) {
            self.drawn_for = Some((term, role));
            let spread = (self.election_tick / 2 - 1).max(1) as u64;
            let extra = usize::try_from(self.draw() % spread).unwrap_or(0);
            self.timeout = self.election_tick + 1 + extra;
        }
        self.timeout
    }

    /// SplitMix64: small, seedable, and good enough to spread elections.
    fn draw(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}
