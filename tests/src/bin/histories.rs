//! `make histories`: real members under faults for so many minutes, everything that clients were
//! told checked, one closing line.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use clap::Parser;
use tests::binary;
use tests::campaign::Campaign;
use tests::nemesis::SmallDisk;
use tests::rng::Rng;

const SEED: &str = "HISTORIES_SEED";
/// Set in the process that has been given a view of the mounts that it may change.
const UNSHARED: &str = "HISTORIES_UNSHARED";

/// Real members under faults, and whether their answers could have come from one copy of the store.
#[derive(Debug, Parser)]
struct Options {
    /// How many minutes it takes.
    #[arg(long, default_value = "5", value_parser = minutes)]
    minutes: Duration,
    /// What chooses faults and operations; drawn and printed when it is not given.
    #[arg(long)]
    seed: Option<u64>,
}

fn minutes(text: &str) -> Result<Duration, String> {
    let minutes: f64 = text.parse().map_err(|error| format!("{error}"))?;
    Duration::try_from_secs_f64(minutes * 60.0).map_err(|error| error.to_string())
}

fn main() -> ExitCode {
    let options = Options::parse();
    let can_mount = match SmallDisk::mount(1) {
        Ok(disk) => {
            drop(disk);
            true
        }
        Err(why) => {
            unshare();
            tell(&format!("SKIPPED: full disks: no tmpfs can be mounted: {why}"));
            false
        }
    };
    let seed = options.seed.unwrap_or_else(|| Rng::seed_from_env(SEED));
    tell(&format!("SEED={seed}"));
    // Before the clock runs.
    binary::with_faults();
    binary::raftexample();
    let length = options.minutes;
    let summary = Campaign { length, seed, can_mount, tell }.run();
    tell(&summary.to_string());
    conclude(&summary.closing_line());
    if summary.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs this again as its own root, in namespaces where it may mount; returns where that is not
/// allowed either.
fn unshare() {
    let mut probe = Command::new("unshare");
    probe.args(["--map-root-user", "--mount", "true"]).stdin(Stdio::null());
    let allowed = probe.output().is_ok_and(|output| output.status.success());
    if std::env::var_os(UNSHARED).is_some() || !allowed {
        return;
    }
    let Ok(this) = std::env::current_exe() else { return };
    let mut again = Command::new("unshare");
    again.args(["--map-root-user", "--mount"]).arg(this).args(std::env::args_os().skip(1));
    let why = again.env(UNSHARED, "1").exec();
    tell(&format!("unshare: {why}"));
}

fn tell(line: &str) {
    writeln!(std::io::stderr(), "{line}").expect("standard error is open");
}

fn conclude(line: &str) {
    writeln!(std::io::stdout(), "{line}").expect("standard output is open");
}
