//! Traces, over threads, until so many distinct states were met.
//!
//! Short traces of the log go first in their turns and are enumerated: every boundary, every
//! combination. The rest are drawn, one seed after the other, without end.

use std::fmt;
use std::str::FromStr;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::explore::{Failure, Lived, Plan, Seen, Tally, Way, explore, replay};
use crate::log::LogLife;
use crate::member::{FollowerLife, LoneLife};

/// One program's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trace {
    /// What lives.
    pub kind: Kind,
    /// Which of its lives.
    pub nth: u64,
}

/// What lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A log, for three steps.
    Short,
    /// A log, for long.
    Log,
    /// A member that is a cluster of its own.
    Lone,
    /// A member that follows a leader.
    Follower,
}

const NAMES: [(&str, Kind); 4] = [
    ("short", Kind::Short),
    ("log", Kind::Log),
    ("lone", Kind::Lone),
    ("follower", Kind::Follower),
];

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = NAMES.iter().find(|(_, kind)| *kind == self.kind).map_or("", |(name, _)| name);
        write!(f, "{name}:{}", self.nth)
    }
}

/// A state, as a failure names it: a trace and the way through its crashes.
#[derive(Debug, Clone)]
pub struct State {
    /// The life.
    pub trace: Trace,
    /// Its crashes.
    pub way: Way,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.trace, self.way)
    }
}

impl FromStr for State {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = "a state is <kind>:<number>@<crash>/<crash>";
        let (trace, way) = text.split_once('@').ok_or(expected)?;
        let (name, nth) = trace.split_once(':').ok_or(expected)?;
        let kind = NAMES.iter().find(|(known, _)| *known == name).ok_or(expected)?.1;
        let nth = nth.parse().map_err(|_| expected)?;
        Ok(State { trace: Trace { kind, nth }, way: way.parse()? })
    }
}

/// Everything that few steps can be: all boundaries, all combinations.
const SHORT: [Plan; 4] = [
    Plan {
        steps: usize::MAX,
        boundaries: usize::MAX,
        spoilt: 4096,
        exact: 4096,
        draws: 96,
        garbage: 2,
        damage: 2,
        kills: 1,
    },
    Plan {
        steps: 1,
        boundaries: usize::MAX,
        spoilt: 0,
        exact: 8,
        draws: 2,
        garbage: 0,
        damage: 0,
        kills: 0,
    },
    Plan {
        steps: 1,
        boundaries: 1,
        spoilt: 0,
        exact: 0,
        draws: 1,
        garbage: 0,
        damage: 0,
        kills: 0,
    },
    Plan {
        steps: 0,
        boundaries: 0,
        spoilt: 0,
        exact: 0,
        draws: 0,
        garbage: 0,
        damage: 0,
        kills: 0,
    },
];

/// All boundaries, and some of what each could leave.
const LONG: [Plan; 4] = [
    Plan {
        steps: usize::MAX,
        boundaries: usize::MAX,
        spoilt: 0,
        exact: 64,
        draws: 24,
        garbage: 2,
        damage: 2,
        kills: 1,
    },
    Plan {
        steps: 2,
        boundaries: 6,
        spoilt: 0,
        exact: 4,
        draws: 2,
        garbage: 1,
        damage: 0,
        kills: 2,
    },
    Plan {
        steps: 1,
        boundaries: 1,
        spoilt: 0,
        exact: 0,
        draws: 1,
        garbage: 0,
        damage: 0,
        kills: 0,
    },
    Plan {
        steps: 0,
        boundaries: 0,
        spoilt: 0,
        exact: 0,
        draws: 0,
        garbage: 0,
        damage: 0,
        kills: 0,
    },
];

/// The same of a member, whose start takes longer.
const MEMBER: [Plan; 4] = [
    Plan {
        steps: usize::MAX,
        boundaries: usize::MAX,
        spoilt: 0,
        exact: 32,
        draws: 16,
        garbage: 1,
        damage: 0,
        kills: 2,
    },
    Plan {
        steps: 2,
        boundaries: 8,
        spoilt: 0,
        exact: 4,
        draws: 2,
        garbage: 0,
        damage: 0,
        kills: 0,
    },
    Plan {
        steps: 1,
        boundaries: 1,
        spoilt: 0,
        exact: 0,
        draws: 1,
        garbage: 0,
        damage: 0,
        kills: 0,
    },
    Plan {
        steps: 0,
        boundaries: 0,
        spoilt: 0,
        exact: 0,
        draws: 0,
        garbage: 0,
        damage: 0,
        kills: 0,
    },
];

impl Trace {
    /// The trace whose turn it is.
    fn scheduled(turn: u64, seed: u64) -> Trace {
        let short = turn / 4;
        if turn.is_multiple_of(4) && short < LogLife::n_short() {
            // A step that is coprime to their number visits each once, from everywhere.
            let nth = (short * 1_009 + seed) % LogLife::n_short();
            return Trace { kind: Kind::Short, nth };
        }
        let kind = [Kind::Log, Kind::Lone, Kind::Follower, Kind::Log][(turn % 4) as usize];
        Trace { kind, nth: seed.wrapping_add(turn) }
    }

    fn explore(self, seen: &Seen, is_over: &dyn Fn() -> bool) -> Tally {
        match self.kind {
            Kind::Short => explore(&LogLife::short(self.nth), &SHORT, self.nth, seen, is_over),
            Kind::Log => explore(&LogLife::long(self.nth), &LONG, self.nth, seen, is_over),
            Kind::Lone => explore(&LoneLife::new(self.nth), &MEMBER, self.nth, seen, is_over),
            Kind::Follower => {
                explore(&FollowerLife::new(self.nth), &MEMBER, self.nth, seen, is_over)
            }
        }
    }

    /// What happens in it.
    pub fn describe(self) -> String {
        match self.kind {
            Kind::Short => LogLife::short(self.nth).describe(),
            Kind::Log => LogLife::long(self.nth).describe(),
            Kind::Lone => LoneLife::new(self.nth).describe(),
            Kind::Follower => FollowerLife::new(self.nth).describe(),
        }
    }
}

/// Builds one state again, and says what was on the disk and how it was opened.
///
/// # Errors
///
/// What was wrong with it.
pub fn again(state: &State) -> Result<(Lived, String), Failure> {
    let State { trace, way } = state;
    match trace.kind {
        Kind::Short => replay(&LogLife::short(trace.nth), &SHORT, way),
        Kind::Log => replay(&LogLife::long(trace.nth), &LONG, way),
        Kind::Lone => replay(&LoneLife::new(trace.nth), &MEMBER, way),
        Kind::Follower => replay(&FollowerLife::new(trace.nth), &MEMBER, way),
    }
}

/// How much is to be done, and from where.
#[derive(Debug, Clone, Copy)]
pub struct Campaign {
    /// How many distinct states are enough.
    pub states: u64,
    /// Where seeds begin.
    pub seed: u64,
    /// How many threads work.
    pub threads: u64,
    /// Only traces of this kind, if only one is wanted.
    pub only: Option<Kind>,
}

/// What a campaign has come to.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Images that differ in names, lengths or contents.
    pub distinct: u64,
    /// Traces that were begun.
    pub traces: u64,
    /// See [`Tally`], whose failures are those of all traces.
    pub tally: Tally,
    /// In which trace each failure was.
    pub failed: Vec<State>,
}

/// Failures after which a campaign ends: more would say the same.
const ENOUGH: usize = 20;

impl Campaign {
    /// Runs it. `progress` is called from time to time with the number of states and traces.
    pub fn run(&self, progress: &(dyn Fn(u64, u64) + Sync)) -> Report {
        let (seen, turn) = (Seen::default(), AtomicU64::new(0));
        let report = Mutex::new(Report::default());
        let ended = AtomicBool::new(false);
        let is_over = || seen.count() >= self.states || ended.load(Ordering::Relaxed);
        thread::scope(|scope| {
            let work = || {
                while !is_over() {
                    let nth = turn.fetch_add(1, Ordering::Relaxed);
                    let trace = Trace::scheduled(nth, self.seed);
                    if self.only.is_some_and(|kind| kind != trace.kind) {
                        continue;
                    }
                    let tally = trace.explore(&seen, &is_over);
                    let mut report = report.lock().unwrap_or_else(PoisonError::into_inner);
                    report.traces += 1;
                    report.tally.opened += tally.opened;
                    report.tally.refused += tally.refused;
                    report.tally.again += tally.again;
                    for (what, n) in tally.sights {
                        *report.tally.sights.entry(what).or_default() += n;
                    }
                    for failure in tally.failures {
                        let way = failure.way.clone();
                        report.failed.push(State { trace, way });
                        report.tally.failures.push(failure);
                    }
                    if report.failed.len() >= ENOUGH {
                        ended.store(true, Ordering::Relaxed);
                    }
                }
            };
            let workers: Vec<_> = (0..self.threads.max(1)).map(|_| scope.spawn(work)).collect();
            let mut next = Instant::now();
            while !workers.iter().all(thread::ScopedJoinHandle::is_finished) {
                if next <= Instant::now() {
                    let traces = report.lock().unwrap_or_else(PoisonError::into_inner).traces;
                    progress(seen.count(), traces);
                    next += Duration::from_millis(500);
                }
                thread::park_timeout(Duration::from_millis(20));
            }
        });
        let mut report = report.into_inner().unwrap_or_else(PoisonError::into_inner);
        report.distinct = seen.count();
        report
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = NAMES.iter().find(|(name, _)| *name == text);
        found
            .map(|(_, kind)| *kind)
            .ok_or_else(|| format!("{text:?} is none of short, log, lone and follower"))
    }
}
