//! The campaigns: how each is started, how large it is, and what its closing line must say.

use std::fmt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::closing::Template;

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
    /// What it is called, which is its make target too.
    pub name: &'static str,
    /// What it is told.
    pub variables: Vec<(&'static str, u64)>,
    /// The form of its closing line.
    pub closing: Template,
    /// After which it is ended and has failed, building included: several times what it takes.
    pub limit: Duration,
    /// Of the numbers in that line: what is not as it must be.
    judge: fn(&Sizes, &[u64]) -> Result<(), String>,
    sizes: Sizes,
}

/// The names, in the order in which they run: what fails soonest first.
pub const NAMES: [&str; 6] = ["checker", "mutants", "fuzz", "crash", "simulate", "histories"];

/// What a build of everything takes on a slow machine.
const BUILD: u64 = 20 * 60;

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
                "simulate" => (
                    vec![("SEEDS", sizes.seeds), ("TICKS", sizes.ticks)],
                    "simulated: {} seeds, {} ticks, {} operations, {.}x real time, {} violations",
                    // A twentieth of the speed that it should have.
                    600 + sizes.seeds * sizes.ticks / 100 / 25,
                    |sizes, numbers| {
                        is_exactly("seeds", sizes.seeds, numbers[0])?;
                        is_at_least("ticks", sizes.seeds * sizes.ticks, numbers[1])?;
                        is_at_least("operations", 1, numbers[2])?;
                        is_exactly("violations", 0, numbers[4])
                    },
                ),
                "histories" => (
                    vec![("MINUTES", sizes.minutes)],
                    "histories: {} operations, {} faults, {} violations",
                    600 + 120 * sizes.minutes,
                    |_, numbers| {
                        is_at_least("operations", 1, numbers[0])?;
                        is_at_least("faults", 1, numbers[1])?;
                        is_exactly("violations", 0, numbers[2])
                    },
                ),
                _ => return None,
            };
        let name = NAMES.into_iter().find(|known| *known == name)?;
        let limit = Duration::from_secs(BUILD + seconds);
        Some(Campaign { name, variables, closing: Template(closing), limit, judge, sizes })
    }

    /// What runs it, in the project's directory.
    pub fn command(&self, root: &Path) -> Command {
        let mut make = Command::new("make");
        make.arg("--no-print-directory").arg(self.name).current_dir(root);
        make.args(self.variables.iter().map(|(name, value)| format!("{name}={value}")));
        for variable in NOT_THEIRS {
            make.env_remove(variable);
        }
        make
    }

    /// What its closing line comes to, when it ended so (P1).
    ///
    /// # Errors
    ///
    /// What is not as it must be.
    pub fn judge(&self, ended_well: bool, closing_line: Option<&str>) -> Result<(), String> {
        let end = if ended_well { "it said nothing" } else { "it ended with an error, unsaid" };
        let line = closing_line.ok_or(end)?;
        let numbers = self.closing.read(line).ok_or("its last line is no closing line")?;
        (self.judge)(&self.sizes, &numbers)?;
        if ended_well { Ok(()) } else { Err("it ended with an error".to_owned()) }
    }
}

/// What our own make was told, it tells its children by these: each campaign is told what it needs
/// instead. One replayed seed, or one defect, is no campaign. FIRST_SEED is theirs, if it is given.
const NOT_THEIRS: [&str; 21] = [
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
        write!(f, "make {}", self.name)?;
        self.variables.iter().try_for_each(|(name, value)| write!(f, " {name}={value}"))
    }
}
