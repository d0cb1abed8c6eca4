//! One run of clients against members to whom everything happens, and its verdict.

use std::fmt;
use std::time::{Duration, Instant};

use crate::cluster::{Cluster, Plan};
use crate::history::{Action, End, Op};
use crate::linearizability::{Verdict, check};
use crate::nemesis::{self, Done};
use crate::recorder::{self, Recorder};
use crate::rng::Rng;

const N_MEMBERS: usize = 3;
const CLIENTS_PER_MEMBER: usize = 3;
/// What one key's search may take: a thousand times what it does.
const SEARCH_LIMIT: Duration = Duration::from_secs(30);

/// What came of a trial.
#[derive(Debug)]
pub struct Trial {
    /// Whether the history can be explained.
    pub verdict: Verdict,
    /// What went wrong on purpose.
    pub done: Done,
    /// How many bytes the cuts lost.
    pub n_bytes_lost: u64,
    /// How many reads were answered.
    pub n_reads: usize,
    /// How many writes, of each kind, were done.
    pub n_writes: usize,
    /// How many conditions were met.
    pub n_swaps: usize,
    /// How many removals were done.
    pub n_removals: usize,
    /// How many operations were refused.
    pub n_refused: usize,
    /// How many have an unknown outcome.
    pub n_unknown: usize,
    /// How long the check took.
    pub checked_in: Duration,
}

/// Starts members, all of them with this defect if there is one, and lets clients and faults at
/// them for so long.
///
/// # Panics
///
/// When members do not start, end by themselves or do not recover.
pub fn run(length: Duration, defect: Option<&'static str>, seed: u64) -> Trial {
    let mut rng = Rng::new(seed);
    let flags = nemesis::MEMBER_FLAGS.iter().chain(&recorder::MEMBER_FLAGS);
    let flags = flags.map(|&flag| flag.to_owned()).collect();
    let mut cluster = Cluster::start_as(
        N_MEMBERS,
        &Plan { flags, is_networked: true, defect, ..Plan::default() },
    );
    let addresses = (0..N_MEMBERS).map(|member| cluster.address(member)).collect();
    let recorder = Recorder::start(addresses, CLIENTS_PER_MEMBER, &mut rng);
    let done = nemesis::run(&mut cluster, length, &mut rng);
    let history = recorder.stop();
    let n_bytes_lost = cluster.network().n_bytes_lost();
    drop(cluster);

    let begin = Instant::now();
    let verdict = check(&history, SEARCH_LIMIT);
    let checked_in = begin.elapsed();
    let count = |is: fn(&Op) -> bool| history.iter().filter(|op| is(op)).count();
    let is_done: fn(&Op) -> bool = |op| {
        use crate::history::Answer::Done;
        matches!(op.end, End::Answered { answer: Done { .. }, .. })
    };
    let done_by =
        |is: fn(&Action) -> bool| history.iter().filter(|op| is_done(op) && is(&op.action)).count();
    Trial {
        verdict,
        done,
        n_bytes_lost,
        n_reads: count(|op| op.action == Action::Get && op.answered_at().is_some()),
        n_writes: done_by(|action| matches!(action, Action::Put { .. })),
        n_swaps: done_by(|action| matches!(action, Action::Cas { .. })),
        n_removals: done_by(|action| *action == Action::Delete),
        n_refused: count(|op| op.end == End::Refused),
        n_unknown: count(|op| op.end == End::Unknown),
        checked_in,
    }
}

impl fmt::Display for Trial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Done { n_kills, n_freezes, n_cuts, n_leaders } = self.done;
        write!(
            f,
            "{} reads, {} puts, {} swaps, {} removals, {} refused, {} unknown; \
             {n_kills} kills, {n_freezes} freezes, {n_cuts} cuts, {n_leaders} of a leader, \
             {} bytes lost; checked in {:.1?}",
            self.n_reads,
            self.n_writes,
            self.n_swaps,
            self.n_removals,
            self.n_refused,
            self.n_unknown,
            self.n_bytes_lost,
            self.checked_in,
        )
    }
}
