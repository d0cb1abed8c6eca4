//! `make histories`: real members under faults for so many minutes, everything that clients were
//! told checked, one closing line.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use tests::binary;
use tests::campaign::Campaign;
use tests::cluster::can_bind;
use tests::mounts;
use tests::nemesis::SmallDisk;
use tests::progress::Progress;
use tests::rng::Rng;

const SEED: &str = "HISTORIES_SEED";

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
    unshare();
    let can_mount = match SmallDisk::mount(1) {
        Ok(disk) => {
            drop(disk);
            true
        }
        Err(why) => {
            tell(&format!("SKIPPED: full disks: no tmpfs can be mounted: {why}"));
            false
        }
    };
    if !can_bind() {
        tell("there is no setpriv: members may outlive a campaign that is killed");
    }
    let seed = options.seed.unwrap_or_else(|| Rng::seed_from_env(SEED));
    tell(&format!("SEED={seed}"));
    // Before the clock runs.
    binary::with_faults();
    binary::raftexample();
    let length = options.minutes;
    let campaign = Campaign { length, seed, can_mount };
    let summary = campaign.run(&Progress::begin("", length));
    tell(&summary.to_string());
    conclude(&summary.closing_line());
    if summary.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs this again with mounts of its own, so that they go when it does; returns where it has them,
/// and where that is not allowed.
fn unshare() {
    if let Some(mut again) = mounts::again() {
        let why = again.args(std::env::args_os().skip(1)).exec();
        tell(&format!("unshare: {why}"));
    }
}

fn tell(line: &str) {
    writeln!(std::io::stderr(), "{line}").expect("standard error is open");
}

fn conclude(line: &str) {
    writeln!(std::io::stdout(), "{line}").expect("standard output is open");
}
