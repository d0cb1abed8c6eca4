//! Where a write's time goes, on the member that was asked for it.
//!
//! A write is traced when its proposer asks for that ([`propose_traced`]), and one in
//! [`SAMPLED`] of the others, for the histograms. Nobody else reads a clock for it. The loop does so
//! once for all that it takes, saves or publishes together, the applier once for all that it shows
//! together.
//!
//! Refuses to say where the time went of a write that was not applied.
//!
//! Invariants:
//! - T1 Stages follow each other without a gap: their sum is the time from the proposal to its
//!   answer. Where no end was noted, the time is the next stage's.
//! - T2 A write that is tried again begins anew: what its earlier tries took was waiting.
//!
//! [`propose_traced`]: crate::Handle::propose_traced

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::metrics::Metrics;

/// One in this many writes is traced unasked. Not a power of two, nor a divisor of one: clients that
/// come in step would always, or never, be the ones.
pub(crate) const SAMPLED: u64 = 31;

/// A part of a write's way, in order. A leader's writes have all but [`Forward`](Self::Forward); on
/// other members that one stands for what the leader does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Until the loop has given it to raft, or to the leader.
    Queue,
    /// Until its record is written to the log's file.
    Append,
    /// Until that is durable, on the leader.
    Sync,
    /// Until the leader knows it to be committed.
    Quorum,
    /// Until this member, which does not lead, knows it to be committed.
    Forward,
    /// Until the consumer has applied and shown it.
    Apply,
    /// Until whoever proposed it has the answer.
    Reply,
}

impl Stage {
    /// Every one, in order.
    pub const ALL: [Self; 7] = [
        Self::Queue,
        Self::Append,
        Self::Sync,
        Self::Quorum,
        Self::Forward,
        Self::Apply,
        Self::Reply,
    ];

    /// Its name in metrics and answers.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Queue => "queue",
            Self::Append => "append",
            Self::Sync => "sync",
            Self::Quorum => "quorum",
            Self::Forward => "forward",
            Self::Apply => "apply",
            Self::Reply => "reply",
        }
    }
}

/// What is noted of one write. Clones share it.
#[derive(Debug, Clone)]
pub struct Trace {
    stamps: Arc<Mutex<Stamps>>,
}

#[derive(Debug)]
struct Stamps {
    proposed: Instant,
    /// When each stage ended, if that was seen.
    ends: [Option<Instant>; Stage::ALL.len()],
    metrics: Metrics,
}

impl Trace {
    /// Begins now.
    pub(super) fn begin(metrics: Metrics) -> Self {
        let ends = [None; Stage::ALL.len()];
        let stamps = Stamps { proposed: Instant::now(), ends, metrics };
        Self { stamps: Arc::new(Mutex::new(stamps)) }
    }

    /// What each stage took, in order; nothing before the answer is there, nor when it is another
    /// than [`Outcome::Applied`](crate::Outcome::Applied).
    #[must_use]
    pub fn stages(&self) -> Vec<(Stage, Duration)> {
        self.with(|stamps| match stamps.ends[Stage::Reply as usize] {
            Some(_) => stamps.stages().collect(),
            None => Vec::new(),
        })
    }

    /// See T2.
    pub(crate) fn taken(&self, at: Instant) {
        self.with(|stamps| stamps.ends = [None; Stage::ALL.len()]);
        self.ended(Stage::Queue, at);
    }

    /// Its record was written and synced, here.
    pub(crate) fn saved(&self, written: Instant, synced: Instant) {
        self.ended(Stage::Append, written);
        self.ended(Stage::Sync, synced);
    }

    /// This member knows it to be committed.
    pub(crate) fn committed(&self, at: Instant) {
        let leads = self.with(|stamps| stamps.ends[Stage::Sync as usize].is_some());
        self.ended(if leads { Stage::Quorum } else { Stage::Forward }, at);
    }

    /// Whoever reads sees it.
    pub(crate) fn shown(&self, at: Instant) {
        self.ended(Stage::Apply, at);
    }

    /// It is about to be answered as applied. A consumer that said nothing has just shown it.
    pub(super) fn applied(&self) {
        if self.with(|stamps| stamps.ends[Stage::Apply as usize].is_none()) {
            self.shown(Instant::now());
        }
    }

    /// The proposer has its answer; counts the stages of one that is applied.
    pub(super) fn answered(&self) {
        if self.with(|stamps| stamps.ends[Stage::Apply as usize].is_none()) {
            return;
        }
        self.ended(Stage::Reply, Instant::now());
        self.with(|stamps| stamps.metrics.stages(stamps.stages()));
    }

    fn ended(&self, stage: Stage, at: Instant) {
        self.with(|stamps| stamps.ends[stage as usize] = Some(at));
    }

    fn with<T>(&self, look: impl FnOnce(&mut Stamps) -> T) -> T {
        // Each stamp stands for itself.
        look(&mut self.stamps.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Stamps {
    /// See T1.
    fn stages(&self) -> impl Iterator<Item = (Stage, Duration)> + '_ {
        let ends = Stage::ALL.into_iter().zip(self.ends);
        ends.scan(self.proposed, |begun, (stage, end)| {
            let took = end.map(|end| (stage, end.saturating_duration_since(*begun)));
            *begun = end.map_or(*begun, |end| end.max(*begun));
            Some(took)
        })
        .flatten()
    }
}
