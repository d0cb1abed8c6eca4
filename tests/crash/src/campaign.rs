//! Traces, over threads, until so many distinct states were met.
//!
//! Every fourth trace is a short one of the log, and in a large campaign every other one, until there
//! are no more of them. They are enumerated: every boundary, every combination, garbage included; and
//! so is now and then the life of a member. The rest are drawn, one seed after the other, without end.

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

/// Nothing is looked at.
const NOTHING: Plan = Plan {
    steps: 0,
    boundaries: 0,
    spoilt: 0,
    exact: 0,
    draws: 0,
    garbage: 0,
    damage: 0,
    kills: 0,
};

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
    Plan { steps: 1, boundaries: usize::MAX, exact: 8, draws: 2, ..NOTHING },
    Plan { steps: 1, boundaries: 1, draws: 1, ..NOTHING },
    NOTHING,
];

/// All boundaries, and some of what each could leave.
const LONG: [Plan; 4] = [
    Plan {
        steps: usize::MAX,
        boundaries: usize::MAX,
        exact: 64,
        draws: 24,
        garbage: 2,
        damage: 2,
        kills: 1,
        ..NOTHING
    },
    Plan { steps: 2, boundaries: 6, exact: 4, draws: 2, garbage: 1, kills: 2, ..NOTHING },
    Plan { steps: 1, boundaries: 1, draws: 1, ..NOTHING },
    NOTHING,
];

/// The same of a member, whose start takes longer.
const MEMBER: [Plan; 4] = [
    Plan {
        steps: usize::MAX,
        boundaries: usize::MAX,
        exact: 32,
        draws: 16,
        garbage: 1,
        kills: 2,
        ..NOTHING
    },
    Plan { steps: 2, boundaries: 8, exact: 4, draws: 2, ..NOTHING },
    Plan { steps: 1, boundaries: 1, draws: 1, ..NOTHING },
    NOTHING,
];

/// Of so many lives of members one is enumerated.
const ENUMERATED: u64 = 20;

/// All that the first crash of such a one could leave, but for the few boundaries that have more.
const WHOLE_MEMBER: [Plan; 4] = [
    Plan { spoilt: 4096, exact: 4096, draws: 96, ..MEMBER[0] },
    Plan { boundaries: 4, ..MEMBER[1] },
    MEMBER[2],
    MEMBER[3],
];

impl Trace {
    /// The trace whose turn it is: of so many one is short, as long as there are any.
    fn scheduled(turn: u64, every: u64, seed: u64) -> Trace {
        let (short, n_short) = (turn / every, LogLife::n_short());
        if turn.is_multiple_of(every) && short < n_short {
            // A step that is coprime to their number visits each once, from everywhere.
            let nth = (short * 1_009 + seed % n_short) % n_short;
            return Trace { kind: Kind::Short, nth };
        }
        let other = turn - turn.div_ceil(every).min(n_short);
        let kind = [Kind::Lone, Kind::Follower, Kind::Log][(other % 3) as usize];
        Trace { kind, nth: seed.wrapping_add(other) }
    }

    /// How much of it is looked at.
    fn plans(self) -> &'static [Plan] {
        match self.kind {
            Kind::Short => &SHORT,
            Kind::Log => &LONG,
            Kind::Lone | Kind::Follower if self.nth.is_multiple_of(ENUMERATED) => &WHOLE_MEMBER,
            Kind::Lone | Kind::Follower => &MEMBER,
        }
    }

    fn explore(self, seen: &Seen, is_over: &dyn Fn() -> bool) -> Tally {
        let (nth, plans) = (self.nth, self.plans());
        match self.kind {
            Kind::Short => explore(&LogLife::short(nth), plans, nth, seen, is_over),
            Kind::Log => explore(&LogLife::long(nth), plans, nth, seen, is_over),
            Kind::Lone => explore(&LoneLife::new(nth), plans, nth, seen, is_over),
            Kind::Follower => explore(&FollowerLife::new(nth), plans, nth, seen, is_over),
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
    let (nth, plans) = (trace.nth, trace.plans());
    match trace.kind {
        Kind::Short => replay(&LogLife::short(nth), plans, way),
        Kind::Log => replay(&LogLife::long(nth), plans, way),
        Kind::Lone => replay(&LoneLife::new(nth), plans, way),
        Kind::Follower => replay(&FollowerLife::new(nth), plans, way),
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
    /// Short ones of which all that the first crash could leave was tried.
    pub short: u64,
    /// The same of members.
    pub members: u64,
    /// See [`Tally`], whose failures are those of all traces.
    pub tally: Tally,
    /// In which trace each failure was.
    pub failed: Vec<State>,
}

/// Failures after which a campaign ends: more would say the same.
const ENOUGH: usize = 20;

/// A campaign of so many states ends only when every short trace has been enumerated.
const EVERY_SHORT: u64 = 1_000_000;

impl Campaign {
    /// Of how many traces one is short: a small campaign is to meet members as well.
    fn every(&self) -> u64 {
        if self.states < EVERY_SHORT { 4 } else { 2 }
    }

    /// Whether traces of this kind have shown enough, after so many states.
    fn is_over(&self, kind: Kind, n_states: u64) -> bool {
        n_states >= self.states && (kind != Kind::Short || self.states < EVERY_SHORT)
    }

    /// The next trace that is wanted; none when no kind is, or the only one is used up.
    fn next(&self, turn: &AtomicU64, is_over: &dyn Fn(Kind) -> bool) -> Option<Trace> {
        loop {
            let turn = turn.fetch_add(1, Ordering::Relaxed);
            let is_wanted = |kind| {
                self.only.is_none_or(|only| only == kind)
                    && (kind != Kind::Short || turn / self.every() < LogLife::n_short())
                    && !is_over(kind)
            };
            if !NAMES.iter().any(|(_, kind)| is_wanted(*kind)) {
                return None;
            }
            let trace = Trace::scheduled(turn, self.every(), self.seed);
            if is_wanted(trace.kind) {
                return Some(trace);
            }
        }
    }

    /// Runs it. `progress` is called from time to time with the number of states and traces.
    pub fn run(&self, progress: &(dyn Fn(u64, u64) + Sync)) -> Report {
        let (seen, turn) = (Seen::default(), AtomicU64::new(0));
        let report = Mutex::new(Report::default());
        let ended = AtomicBool::new(false);
        let is_over = |kind| ended.load(Ordering::Relaxed) || self.is_over(kind, seen.count());
        thread::scope(|scope| {
            let work = || {
                while let Some(trace) = self.next(&turn, &is_over) {
                    let tally = trace.explore(&seen, &|| is_over(trace.kind));
                    let mut report = report.lock().unwrap_or_else(PoisonError::into_inner);
                    report.traces += 1;
                    match trace.kind {
                        Kind::Short => report.short += u64::from(tally.is_whole()),
                        Kind::Lone | Kind::Follower => {
                            report.members += u64::from(tally.is_whole());
                        }
                        Kind::Log => {}
                    }
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const CAMPAIGN: Campaign = Campaign { states: 20_000, seed: 1, threads: 1, only: None };
    const LARGE: Campaign = Campaign { states: EVERY_SHORT, ..CAMPAIGN };

    /// Every short trace has its turn, once, wherever seeds begin; and so has every other number.
    #[test]
    fn every_trace_has_one_turn() {
        for (campaign, seed) in [(CAMPAIGN, 1), (LARGE, 1), (LARGE, u64::MAX - 5)] {
            let every = campaign.every();
            let n_turns = LogLife::n_short() * every + 60;
            let traces = (0..n_turns).map(|turn| Trace::scheduled(turn, every, seed));
            let (short, others): (Vec<_>, Vec<_>) =
                traces.partition(|trace| trace.kind == Kind::Short);
            let distinct: BTreeSet<_> = short.iter().map(|trace| trace.nth).collect();
            assert_eq!(short.len() as u64, LogLife::n_short());
            assert!(distinct.into_iter().eq(0..LogLife::n_short()));
            let expected = (0..others.len() as u64).map(|nth| seed.wrapping_add(nth));
            assert!(others.iter().map(|trace| trace.nth).eq(expected));
        }
    }

    /// A small campaign meets all kinds alike.
    #[test]
    fn few_turns_are_of_every_kind() {
        let traces = (0..80).map(|turn| Trace::scheduled(turn, CAMPAIGN.every(), 1));
        let traces: Vec<_> = traces.collect();
        for (name, kind) in NAMES {
            let own = traces.iter().filter(|trace| trace.kind == kind);
            assert_eq!(own.count(), 20, "{name}");
        }
        let is_enumerated =
            |trace: &&Trace| trace.kind != Kind::Short && trace.plans()[0].spoilt > 0;
        assert!(traces.iter().any(|trace| is_enumerated(&trace)));
    }

    fn rest(campaign: &Campaign, from: u64, n_states: u64) -> Vec<Trace> {
        let turn = AtomicU64::new(from);
        let is_over = |kind| campaign.is_over(kind, n_states);
        std::iter::from_fn(|| campaign.next(&turn, &is_over)).take(10_000).collect()
    }

    /// A small campaign ends at its number, a large one with the last short trace.
    #[test]
    fn a_large_campaign_goes_on_for_the_short_traces() {
        assert_eq!(rest(&CAMPAIGN, 80, 20_000), []);
        let rest_of_large = rest(&LARGE, 100, EVERY_SHORT);
        assert_eq!(rest_of_large.len() as u64, LogLife::n_short() - 50);
        assert!(rest_of_large.iter().all(|trace| trace.kind == Kind::Short));
        assert_eq!(rest(&LARGE, 2 * LogLife::n_short(), EVERY_SHORT), []);
        assert_eq!(rest(&CAMPAIGN, 80, 19_999).len(), 10_000);
    }

    /// Short traces alone come to an end, whatever number is asked for; the others do not.
    #[test]
    fn short_traces_alone_are_used_up() {
        for campaign in [CAMPAIGN, LARGE] {
            let only = |kind| Campaign { only: Some(kind), ..campaign };
            assert_eq!(rest(&only(Kind::Short), 0, 0).len() as u64, LogLife::n_short());
            for kind in [Kind::Log, Kind::Lone, Kind::Follower] {
                let traces = rest(&only(kind), 0, 0);
                assert!(traces.len() == 10_000 && traces.iter().all(|trace| trace.kind == kind));
                assert_eq!(rest(&only(kind), 0, campaign.states), []);
            }
        }
    }

    /// The scripts with the most to lose fit what is enumerated, and a campaign counts them.
    #[test]
    fn short_traces_are_enumerated() {
        let explored = |nth| {
            let trace = Trace { kind: Kind::Short, nth };
            trace.explore(&Seen::default(), &|| false)
        };
        for kind in [2, 4] {
            let tally = explored(kind * (1 + 12 + 144));
            assert!(tally.is_whole() && tally.failures.is_empty(), "{kind}: {tally:?}");
        }
        let few = Campaign { states: 500, only: Some(Kind::Short), ..CAMPAIGN };
        let report = few.run(&|_, _| {});
        // The last one was cut off.
        assert_eq!((report.short + 1, report.members), (report.traces, 0));
    }
}
