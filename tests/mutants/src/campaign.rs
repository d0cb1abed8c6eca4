//! Campaigns: what is run to find a defect.

use std::fmt;
use std::path::Path;
use std::process::Command;

use crate::build::Built;

/// The variables that fix what is random, and the number they are given.
const SEEDS: [&str; 5] =
    ["WAL_SEED", "MODEL_SEED", "FUZZ_SEED", "DEFECTS_SEED", "CHANCE_FIRST_SEED"];
const SEED: &str = "1";

/// Something that passes without a defect and must fail with one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Campaign {
    /// A test of a library's own, by its path.
    Unit(&'static str, &'static str),
    /// A test of a test executable, whose source is at this path in the workspace, by its own path.
    Test(&'static str, &'static str),
    /// Whole members on one thread.
    Simulate {
        /// The first seed.
        first_seed: u64,
        /// How many there are, from that on.
        seeds: u64,
        /// How long each runs.
        ticks: u64,
    },
    /// Power failures at every point of the lives of logs and snapshots.
    Crash {
        /// How many different ones.
        states: u64,
    },
}

impl Campaign {
    /// What runs it, one process; `None` when the executables do not include it.
    pub fn command(self, built: &Built) -> Option<Command> {
        let mut command = match self {
            Campaign::Unit(library, test) => exactly(built.unit(library)?, test),
            Campaign::Test(target, test) => exactly(built.test(target)?, test),
            Campaign::Simulate { first_seed, seeds, ticks } => {
                let mut command = Command::new(built.binary("simulate")?);
                command.args(["--first-seed".into(), first_seed.to_string()]);
                command.args(["--seeds".into(), seeds.to_string()]);
                command.args(["--ticks".into(), ticks.to_string()]);
                command.args(["--threads", "1", "--fail-fast"]);
                command
            }
            Campaign::Crash { states } => {
                let mut command = Command::new(built.binary("crash")?);
                command.args(["--states".into(), states.to_string()]);
                command.args(["--seed", SEED, "--threads", "1"]);
                command
            }
        };
        if let Some(binary) = built.binary("raftexample-defects") {
            command.env("RAFTEXAMPLE_WITH_DEFECTS", binary);
        }
        command.env_remove("RAFTEXAMPLE_DEFECT").env("RUST_BACKTRACE", "0");
        command.envs(SEEDS.iter().map(|name| (name, SEED)));
        Some(command)
    }
}

/// One test and no other: a name that is a prefix of another's must not run both.
fn exactly(executable: &Path, test: &str) -> Command {
    let mut command = Command::new(executable);
    command.args(["--exact", test, "--include-ignored", "--test-threads", "1", "--nocapture"]);
    command
}

impl fmt::Display for Campaign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Campaign::Unit(_, test) | Campaign::Test(_, test) => {
                let name = test.rsplit("::").next().unwrap_or(test);
                write!(f, "test {name}")
            }
            Campaign::Simulate { seeds, ticks, .. } => write!(f, "simulate {seeds} x {ticks}"),
            Campaign::Crash { states } => write!(f, "crash {states} states"),
        }
    }
}
