//! `raftexample bench`: how many requests a second three durable members answer, and how soon.
//!
//! It starts a cluster of its own executable in a temporary directory, or takes one that runs
//! (`--targets`), and asks the leader, all of its targets (`--spread`: every member takes reads and
//! writes, and gives the leader its writes), or one server whoever it is (`--at`). In a closed loop
//! every connection has one request under way, and sends the next when the answer is there; with
//! `--rate` requests start by the clock (`schedule`). Load and members share the machine, so the
//! figures compare systems measured side by side; they are no statement about a deployment.
//!
//! 1. B1: any answer fails the run but 204 to a write, and 200 to a read with exactly the value that
//!    belongs to the key. A number that contains refusals is not reported, and a rate that was not
//!    reached is an error.
//! 2. B2: whatever was started is stopped and its directory removed, on every way out that runs code.
//!
//! `members`, `round`, `keys`, `mix`, `report` and `plot` know nothing of HTTP or of raftexample: the
//! same load on another store (`tests/etcd-bench`) is compiled from the same files, so the two cannot
//! drift apart.

mod asker;
mod client;
mod keys;
mod load;
mod members;
mod mix;
mod plot;
mod progress;
mod report;
mod round;
mod schedule;
mod session;
mod target;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};
use tokio::task::LocalSet;
use url::Url;

use keys::Distribution;
use mix::Mix;
use round::Failure;

/// Measure requests per second and their latencies, with three members of its own or against `--targets`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Client URLs of a running cluster; without it three members are started and stopped again.
    #[arg(long, value_delimiter = ',', value_name = "URL,URL,...")]
    targets: Vec<Url>,
    /// Load this server, whoever leads; it need not be a raftexample.
    #[arg(long, value_name = "URL", conflicts_with = "targets")]
    at: Option<Url>,
    /// Spread the connections over all members instead of asking the leader.
    #[arg(long, conflicts_with = "at")]
    spread: bool,
    /// What to ask for, by weight: put, get (linearizable), stale (reads of what a member has), cas
    /// (writes on condition). What is read is written first, once.
    #[arg(long, value_name = "put=10,get=90,...", default_value = "put=1")]
    mix: Mix,
    /// Short for `--mix get=1`.
    #[arg(long, conflicts_with = "mix")]
    reads: bool,
    /// Numbers of connections to measure, one level each.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "1,16,64,256",
        value_parser = clap::value_parser!(u16).range(1..)
    )]
    connections: Vec<u16>,
    /// Start so many requests a second, whether answers come or not, and measure latencies from when
    /// they were to start; several are so many levels for each number of connections.
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "N,...",
        value_parser = clap::value_parser!(u32).range(1..=1_000_000)
    )]
    rate: Vec<u32>,
    /// Length of one round.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// Bytes in each key.
    #[arg(long, default_value_t = 9)]
    key_bytes: usize,
    /// Bytes in each value.
    #[arg(long, default_value_t = 128)]
    value_bytes: usize,
    /// Number of different keys written or read.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..))]
    keys: u64,
    /// Which of them are asked for more than others.
    #[arg(long, value_enum, default_value = "uniform")]
    distribution: Distribution,
    /// Rounds per level; the one with the median throughput is reported.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Load before each round that does not count.
    #[arg(long, default_value_t = 500, value_name = "MS")]
    warm_up_ms: u64,
    /// Where the started members keep their data; a disk, not memory, for figures that mean much.
    #[arg(long, value_name = "PATH", default_value_os_t = std::env::temp_dir())]
    dir: PathBuf,
    /// One JSON object per level instead of the table.
    #[arg(long)]
    json: bool,
    /// Draw latencies by percentile and throughput by connections into this SVG file.
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
}

/// Runs the measurement and prints it; 1 when it failed, whose reason is then on standard error.
pub fn run(args: Args) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&Failure::new(format!("cannot start: {error}"))),
    };
    // One thread and tasks that never leave it: the members need the processors more than we do.
    let local = LocalSet::new();
    match runtime.block_on(local.run_until(until_interrupted(args))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => fail(&failure),
    }
}

fn fail(failure: &Failure) -> ExitCode {
    // Standard error is the last resort; when it is closed the exit code still tells.
    let _closed = writeln!(io::stderr(), "raftexample bench: {failure}");
    ExitCode::FAILURE
}

/// Measures until done or told to stop; dropping the measurement stops its members (B2).
async fn until_interrupted(args: Args) -> Result<(), Failure> {
    let handler = |error| Failure::new(format!("cannot handle signals: {error}"));
    let mut interrupt = signal(SignalKind::interrupt()).map_err(handler)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(handler)?;
    tokio::select! {
        measured = session::measure(&args) => measured,
        _ = interrupt.recv() => Err(Failure::new("interrupted")),
        _ = terminate.recv() => Err(Failure::new("terminated")),
    }
}
