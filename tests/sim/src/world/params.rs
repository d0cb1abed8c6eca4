//! What a seed makes of a world before anything happens in it.

use ::tests::rng::Rng;
use raftnode::SnapshotPolicy;

/// One tick, in microseconds.
pub(crate) const TICK: u64 = 10_000;
/// A second, in microseconds.
pub(crate) const SECOND: u64 = 1_000_000;

/// The weather of a run.
#[derive(Debug, Clone)]
pub(crate) struct Params {
    /// A chunk on a stream is lost and sent again, in thousandths.
    pub(crate) loss: u64,
    /// A lost chunk is the end of its stream, in thousandths of those.
    pub(crate) breaks: u64,
    /// The least time that a chunk takes, and what comes on top of it, in microseconds.
    pub(crate) delay: (u64, u64),
    /// What may be under way on one stream, in bytes.
    pub(crate) window: usize,
    /// How long between two faults, on average, in ticks; 0: none.
    pub(crate) fault_gap: u64,
    /// How often something is asked of the membership, in ticks; 0: never.
    pub(crate) churn_gap: u64,
    pub(crate) snapshots: SnapshotPolicy,
    pub(crate) segment_bytes: u64,
    /// How fast clocks go, at most so many millionths away from one.
    pub(crate) drift: u64,
    /// What a piece of a snapshot holds.
    pub(crate) piece: usize,
    /// Members hold and move a fraction of what they would: one in so many bytes.
    pub(crate) divisor: u64,
}

impl Params {
    pub(crate) fn draw(rng: &mut Rng) -> Self {
        let mut one_of = |choices: &[u64]| choices[rng.below(choices.len() as u64) as usize];
        let loss = one_of(&[0, 0, 2, 10, 50, 150, 300]);
        let breaks = one_of(&[20, 100, 300]);
        let delay = (one_of(&[50, 200, 1_000, 5_000]), one_of(&[100, 1_000, 5_000, 20_000]));
        let window = one_of(&[512, 4 << 10, 64 << 10, 1 << 20]) as usize;
        let fault_gap = one_of(&[60, 120, 250, 500]);
        let churn_gap = one_of(&[0, 800, 2_000]);
        let entries = one_of(&[10, 20, 50, 100]);
        let snapshots = SnapshotPolicy {
            entries,
            bytes: one_of(&[0, 1 << 10, 4 << 10]),
            proportional: one_of(&[0, 1]) == 1,
            keep: one_of(&[1, 2, 3]),
            catchup_entries: one_of(&[0, 2, 5, 30]),
            retain_bytes: one_of(&[4 << 10, 16 << 10, 1 << 20]),
        };
        let segment_bytes = one_of(&[4 << 10, 8 << 10, 32 << 10, 64 << 10]);
        let drift = one_of(&[0, 1_000, 30_000, 100_000]);
        let piece = one_of(&[256, 2 << 10, 64 << 10]) as usize;
        let divisor = one_of(&[1, 1 << 10, 1 << 12, 1 << 14]);
        Self {
            loss,
            breaks,
            delay,
            window,
            fault_gap,
            churn_gap,
            snapshots,
            segment_bytes,
            drift,
            piece,
            divisor,
        }
    }

    /// The weather of the last phase: none.
    pub(crate) fn calm(&mut self) {
        (self.loss, self.fault_gap, self.churn_gap) = (0, 0, 0);
        self.delay = (100, 500);
        self.window = 1 << 20;
        self.piece = 64 << 10;
    }
}
