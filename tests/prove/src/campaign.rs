//! The campaigns: how each is started, how large it is, and what its closing line must say.

use std::fmt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::closing::Template;
use crate::facts::duration;

/// How much of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Of fuzzing, all targets together.
    pub seconds: u64,
    /// Simulated clusters.
    pub seeds: u64,
    /// What each of them lives, at 10 ms.
    pub ticks: u64,
    /// Distinct crash states.
    pub states: u64,
    /// Histories that the three checkers are asked about.
    pub histories: u64,
    /// Of real processes under faults.
    pub minutes: u64,
}

impl Sizes {
    /// What is published.
    pub const FULL: Sizes = Sizes {
        seconds: 600,
        seeds: 10_000,
        ticks: 10_000,
        states: 1_000_000,
        histories: 100_000,
        minutes: 60,
    };
    /// To see it work. Mutants know no size.
    pub const SMALL: Sizes =
        Sizes { seconds: 15, seeds: 20, ticks: 2_000, states: 5_000, histories: 5_000, minutes: 1 };
}

/// One of the campaigns.
#[derive(Debug, Clone)]
pub struct Campaign {
    /// What it is called.
    pub name: &'static str,
    /// What make is told to make.
    target: &'static str,
    /// What it is told.
    pub variables: Vec<(&'static str, u64)>,
    /// The form of its closing line.
    pub closing: Template,
    /// About what it takes, building included, to tell how far it is.
    pub expected: Duration,
    /// After which it is ended and has failed, building included: several times what it takes.
    pub limit: Duration,
    /// What it may take to have passed, building included, where something is promised.
    pub allowed: Option<Duration>,
    /// Of the numbers in that line: what is not as it must be.
    judge: fn(&Sizes, &[u64]) -> Result<(), String>,
    sizes: Sizes,
}

/// The names, in the order in which they run: what fails soonest first.
pub const NAMES: [&str; 7] =
    ["checker", "mutants", "fuzz", "crash", "speed", "simulate", "histories"];

/// What a build of everything takes on a slow machine.
const BUILD: u64 = 20 * 60;
/// The form in which simulated clusters are told of.
const SIMULATED: &str =
    "simulated: {} seeds, {} ticks, {} operations, {.}x real time, {} violations";
/// So many clusters of three members show how fast they are.
const SPEED_SEEDS: u64 = 1_000;
/// How much faster than real time a thread must be, at full size.
const MIN_SPEED: u64 = 500;
/// Of how many operations an hour of real processes must be.
const MIN_OPS_PER_HOUR: u64 = 1_000_000;
/// From so many minutes on the pace of an hour is judged: shorter ones say little of it.
const JUDGED_FROM: u64 = 10;

impl Campaign {
    /// The campaign of this name, if there is one.
    pub fn new(name: &str, sizes: Sizes) -> Option<Campaign> {
        let (variables, closing, seconds, judge): (Vec<_>, _, _, fn(&Sizes, &[u64]) -> _) =
            match name {
                "checker" => (
                    vec![("HISTORIES", sizes.histories)],
                    "checker: {} histories, {} invalid, {} disagreements",
                    600 + sizes.histories / 500,
                    |sizes, numbers| {
                        is_exactly("histories", sizes.histories, numbers[0])?;
                        is_exactly("disagreements", 0, numbers[2])
                    },
                ),
                "mutants" => (vec![], "mutants: {} of {} killed", 3600, |_, numbers| {
                    is_at_least("mutants", MIN_MUTANTS, numbers[1])?;
                    is_exactly("mutants killed", numbers[1], numbers[0])
                }),
                "fuzz" => (
                    vec![("SECONDS", sizes.seconds)],
                    "fuzz: {} targets, {} cases, {} findings",
                    600 + 3 * sizes.seconds,
                    |_, numbers| {
                        is_at_least("targets", 1, numbers[0])?;
                        is_at_least("cases", 1, numbers[1])?;
                        is_exactly("findings", 0, numbers[2])
                    },
                ),
                "crash" => (
                    vec![("STATES", sizes.states)],
                    "crash states: {} distinct, {} failures",
                    600 + sizes.states / 100,
                    |sizes, numbers| {
                        is_at_least("distinct states", sizes.states, numbers[0])?;
                        is_exactly("failures", 0, numbers[1])
                    },
                ),
                "speed" => (
                    vec![("SEEDS", speed_seeds(&sizes)), ("TICKS", sizes.ticks), ("MEMBERS", 3)],
                    SIMULATED,
                    simulated_in(speed_seeds(&sizes), sizes.ticks),
                    |sizes, numbers| {
                        let full = (SPEED_SEEDS, Sizes::FULL.ticks);
                        simulated((speed_seeds(sizes), sizes.ticks), full, numbers)
                    },
                ),
                "simulate" => (
                    vec![("SEEDS", sizes.seeds), ("TICKS", sizes.ticks)],
                    SIMULATED,
                    simulated_in(sizes.seeds, sizes.ticks),
                    |sizes, numbers| {
                        let full = (Sizes::FULL.seeds, Sizes::FULL.ticks);
                        simulated((sizes.seeds, sizes.ticks), full, numbers)
                    },
                ),
                "histories" => (
                    vec![("MINUTES", sizes.minutes)],
                    "histories: {} operations, {} faults, {} violations",
                    600 + 120 * sizes.minutes,
                    |sizes, numbers| {
                        let is_judged = sizes.minutes >= JUDGED_FROM;
                        let least =
                            if is_judged { MIN_OPS_PER_HOUR * sizes.minutes / 60 } else { 1 };
                        is_at_least("operations", least, numbers[0])?;
                        is_at_least("faults", 1, numbers[1])?;
                        is_exactly("violations", 0, numbers[2])
                    },
                ),
                _ => return None,
            };
        let name = NAMES.into_iter().find(|known| *known == name)?;
        let target = if name == "speed" { "simulate" } else { name };
        let (closing, limit) = (Template(closing), Duration::from_secs(BUILD + seconds));
        let (expected, allowed) = (expected(name, &sizes), allowed(name, &sizes));
        Some(Campaign { name, target, variables, closing, expected, limit, allowed, judge, sizes })
    }

    /// What runs it, in the project's directory.
    pub fn command(&self, root: &Path) -> Command {
        let mut make = Command::new("make");
        make.arg("--no-print-directory").arg(self.target).current_dir(root);
        make.args(self.variables.iter().map(|(name, value)| format!("{name}={value}")));
        for variable in NOT_THEIRS {
            make.env_remove(variable);
        }
        make
    }

    /// What its closing line comes to, when it ended so and took so long (P1, P5).
    ///
    /// # Errors
    ///
    /// What is not as it must be.
    pub fn judge(
        &self,
        ended_well: bool,
        closing_line: Option<&str>,
        took: Duration,
    ) -> Result<(), String> {
        let end = if ended_well { "it said nothing" } else { "it ended with an error, unsaid" };
        let line = closing_line.ok_or(end)?;
        let numbers = self.closing.read(line).ok_or("its last line is no closing line")?;
        (self.judge)(&self.sizes, &numbers)?;
        if !ended_well {
            return Err("it ended with an error".to_owned());
        }
        match self.allowed.filter(|allowed| took > *allowed) {
            Some(allowed) => {
                Err(format!("took {}, {} are allowed", duration(took), duration(allowed)))
            }
            None => Ok(()),
        }
    }
}

/// On two cores, with a short build.
fn expected(name: &str, sizes: &Sizes) -> Duration {
    let simulated = |seeds: u64| seeds * sizes.ticks / 100 / MIN_SPEED / 2;
    let seconds = match name {
        "checker" => sizes.histories / 10_000,
        "fuzz" => sizes.seconds,
        "crash" => sizes.states / 10_000,
        "speed" => simulated(speed_seeds(sizes)),
        "simulate" => simulated(sizes.seeds),
        "histories" => 60 * sizes.minutes,
        _ => 3 * 60,
    };
    Duration::from_secs(60 + seconds)
}

/// What is promised of the time that a campaign of these sizes takes. Mutants know no size.
fn allowed(name: &str, sizes: &Sizes) -> Option<Duration> {
    let minutes = match name {
        "mutants" => 8,
        "crash" if sizes.states == Sizes::FULL.states => 30,
        _ => return None,
    };
    Some(Duration::from_secs(60 * minutes))
}

fn speed_seeds(sizes: &Sizes) -> u64 {
    sizes.seeds.min(SPEED_SEEDS)
}

/// Seconds, at a twentieth of the speed that simulations should have.
fn simulated_in(seeds: u64, ticks: u64) -> u64 {
    600 + seeds * ticks / 100 / 25
}

/// Of so many seeds and ticks; how fast it was counts when that is the full size (P5).
fn simulated(size: (u64, u64), full: (u64, u64), numbers: &[u64]) -> Result<(), String> {
    let (seeds, ticks) = size;
    is_exactly("seeds", seeds, numbers[0])?;
    is_at_least("ticks", seeds * ticks, numbers[1])?;
    is_at_least("operations", 1, numbers[2])?;
    is_at_least("times real time", if size == full { MIN_SPEED } else { 0 }, numbers[3])?;
    is_exactly("violations", 0, numbers[4])
}

/// What our own make was told, it tells its children by these: each campaign is told what it needs
/// instead. One replayed seed, or one defect, is no campaign. FIRST_SEED is theirs, if it is given.
const NOT_THEIRS: [&str; 22] = [
    "MAKEFLAGS",
    "MFLAGS",
    "MAKEOVERRIDES",
    "MAKELEVEL",
    "ONLY",
    "SIZE",
    "SEED",
    "SECONDS",
    "SEEDS",
    "TICKS",
    "MEMBERS",
    "SIMULATE_ARGS",
    "STATES",
    "REPLAY",
    "HISTORIES",
    "MINUTES",
    "HISTORIES_SEED",
    "FUZZ_SEED",
    "FUZZ_SECONDS",
    "FUZZ_FIRST_SEED",
    "RAFTEXAMPLE_DEFECT",
    "RAFTEXAMPLE_FAULTS",
];

/// What may be called a campaign of mutants at all.
const MIN_MUTANTS: u64 = 30;

fn is_exactly(what: &str, wanted: u64, number: u64) -> Result<(), String> {
    if number == wanted { Ok(()) } else { Err(format!("{number} {what} instead of {wanted}")) }
}

fn is_at_least(what: &str, least: u64, number: u64) -> Result<(), String> {
    if number >= least { Ok(()) } else { Err(format!("{number} {what}, {least} are the least")) }
}

/// The command that repeats it.
impl fmt::Display for Campaign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "make {}", self.target)?;
        self.variables.iter().try_for_each(|(name, value)| write!(f, " {name}={value}"))
    }
}
