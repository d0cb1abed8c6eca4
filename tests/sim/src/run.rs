//! One run of one seed: what it is told, and what it tells.

use std::str::FromStr;

use ::tests::history::Op;

use crate::coverage::Coverage;

/// What determines a run, to the last bit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setup {
    /// Everything random comes from it.
    pub seed: u64,
    /// How long faults go on, in ticks of 10 ms.
    pub ticks: u64,
    /// How many members found the cluster.
    pub n_members: u64,
}

impl Setup {
    /// Ten thousand ticks of three members.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { seed, ticks: 10_000, n_members: 3 }
    }
}

/// What a run tells, whether it ends well or not.
#[derive(Debug, Default)]
pub struct Report {
    /// How many ticks the cluster's clock moved, faults and recovery.
    pub ticks: u64,
    /// How many operations clients were told the outcome of, or know that it is unknown.
    pub ops: u64,
    /// How many ticks of calm it took until everything had come right and every member had
    /// answered; none: that was never so.
    pub recovery: Option<u64>,
    /// What happened.
    pub coverage: Coverage,
    /// Everything that happened, in one number: the same for the same setup.
    pub fingerprint: u64,
    /// What the clients were told, when somebody wants to read what happened.
    pub history: Vec<Op>,
    /// What happened, line by line, when somebody wants to read it.
    pub trace: Trace,
}

/// A readable account of a run; nothing unless it was asked for.
#[derive(Debug, Default)]
pub struct Trace {
    is_wanted: bool,
}

impl Trace {
    /// One that is written to standard error as it happens, so that a run which never ends can
    /// be read too.
    #[must_use]
    pub fn wanted() -> Self {
        Self { is_wanted: true }
    }

    /// Whether lines are wanted: what makes them may cost something.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        self.is_wanted
    }

    /// Writes a line, if one is wanted.
    #[expect(clippy::print_stderr, reason = "whoever replays a seed reads it there")]
    pub fn line(&self, tick: u64, line: impl FnOnce() -> String) {
        if self.is_wanted {
            eprintln!("{tick:>7}  {}", line());
        }
    }
}

/// With how many members a campaign founds its clusters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sizes {
    /// All with three.
    Three,
    /// All with five.
    Five,
    /// By the seed: mostly three, every fourth five.
    Both,
}

impl Sizes {
    /// How many members the cluster of a seed is founded by.
    #[must_use]
    pub fn of(self, seed: u64) -> u64 {
        match self {
            Sizes::Three => 3,
            Sizes::Five => 5,
            Sizes::Both => 3 + 2 * u64::from(seed % 4 == 3),
        }
    }
}

impl FromStr for Sizes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "3" => Ok(Sizes::Three),
            "5" => Ok(Sizes::Five),
            "both" => Ok(Sizes::Both),
            other => Err(format!("{other:?} is none of 3, 5 and both")),
        }
    }
}
