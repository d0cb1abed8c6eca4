//! raftexample beside etcd and others: the yardsticks that the node's figures are held to.
//!
//! It starts three etcd members as they come (default settings, every write synced to disk), or takes
//! running ones (`--endpoints`), and drives a closed loop of puts at the leader. Window, keys, members
//! and output are compiled from the same files as `raftexample bench`. With `--against <raftexample>`
//! it measures all systems that are installed in turn, one cluster at a time, prints the ratios, and
//! with `--page` writes them down.

#[path = "../../../raftexample/src/bench/keys.rs"]
mod keys;
#[path = "../../../raftexample/src/bench/members.rs"]
mod members;
#[path = "../../../raftexample/src/bench/mix.rs"]
mod mix;
#[path = "../../../raftexample/src/bench/plot.rs"]
mod plot;
#[path = "../../../raftexample/src/bench/progress.rs"]
mod progress;
#[path = "../../../raftexample/src/bench/report.rs"]
mod report;
#[path = "../../../raftexample/src/bench/round.rs"]
mod round;

mod compare;
mod disk;
mod etcd;
mod figure;
mod limits;
mod machine;
mod original;
mod page;
mod plan;
mod raftexample;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::LocalSet;

use keys::{Distribution, KeySpace, Values};
use limits::Limits;
use members::Members;
use mix::{Mix, Operation};
use report::{Level, Line};
use round::Failure;

/// As `raftexample bench` has them.
const KEY_BYTES: usize = 9;

/// Measure etcd's committed writes per second, or raftexample beside etcd and others.
#[derive(Debug, Parser)]
struct Args {
    /// Client URLs of a running cluster; without it three members are started and stopped again.
    #[arg(long, value_delimiter = ',', value_name = "URL,URL,...", conflicts_with = "against")]
    endpoints: Vec<String>,
    /// Measure this raftexample executable and all that is installed, alternating, and print ratios.
    #[arg(long, value_name = "PATH")]
    against: Option<PathBuf>,
    /// The Go program that raftexample succeeds, as tests/original.sh builds it.
    #[arg(long, value_name = "PATH", requires = "against")]
    original: Option<PathBuf>,
    /// Write the comparison to this page, and its picture beside it.
    #[arg(long, value_name = "FILE", requires = "against")]
    page: Option<PathBuf>,
    /// What the page says that it was written by.
    #[arg(long, value_name = "TEXT", default_value = "make bench-compare")]
    command: String,
    #[command(flatten)]
    limits: Limits,
    /// The etcd to start.
    #[arg(long, value_name = "PATH", default_value = "etcd")]
    etcd: PathBuf,
    /// Numbers of connections to measure, one level each.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "1,16,64,256",
        value_parser = clap::value_parser!(u16).range(1..)
    )]
    connections: Vec<u16>,
    /// Length of one round.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// Bytes in each value.
    #[arg(long, default_value_t = 128)]
    value_bytes: usize,
    /// Number of different keys written.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..))]
    keys: u64,
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
}

fn main() -> ExitCode {
    let args = Args::parse();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&Failure::new(format!("cannot start: {error}"))),
    };
    match LocalSet::new().block_on(&runtime, until_interrupted(args)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => fail(&failure),
    }
}

fn fail(failure: &Failure) -> ExitCode {
    // Standard error is the last resort; when it is closed the exit code still tells.
    let _closed = writeln!(io::stderr(), "etcd-bench: {failure}");
    ExitCode::FAILURE
}

/// Measures until done or told to stop; dropping the measurement stops what it started.
async fn until_interrupted(args: Args) -> Result<(), Failure> {
    let handler = |error| Failure::new(format!("cannot handle signals: {error}"));
    let mut interrupt = signal(SignalKind::interrupt()).map_err(handler)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(handler)?;
    let measured = async {
        match &args.against {
            Some(raftexample) => compare::run(&args, raftexample).await,
            None => measure(&args).await,
        }
    };
    tokio::select! {
        measured = measured => measured,
        _ = interrupt.recv() => Err(Failure::new("interrupted")),
        _ = terminate.recv() => Err(Failure::new("terminated")),
    }
}

async fn measure(args: &Args) -> Result<(), Failure> {
    let (members, endpoints) = if args.endpoints.is_empty() {
        let members = etcd::start(&args.etcd, &args.dir).await?;
        let endpoints = members.seats().iter().map(etcd::endpoint).collect();
        (Some(members), endpoints)
    } else {
        (None, args.endpoints.clone())
    };

    let mix = Mix::only(Operation::Put);
    let mut out = io::stdout();
    let unwritable = |error| Failure::new(format!("cannot print: {error}"));
    if !args.json {
        report::write_heading(mix.operations(), &mut out).map_err(unwritable)?;
    }
    for &connections in &args.connections {
        let load = etcd::Load {
            mix,
            connections,
            window: args.window(),
            keys: KeySpace::new(args.keys, 0, KEY_BYTES, Distribution::Uniform)?,
            values: Values::new(args.value_bytes),
        };
        let mut rounds = Vec::new();
        for _ in 0..args.rounds {
            let leader = etcd::find_leader(&endpoints).await?;
            rounds.push(load.run(&leader).await.map_err(|failure| {
                failure.with_tail(members.as_ref().map(Members::log_tails).unwrap_or_default())
            })?);
        }
        let level = Level { system: "etcd", connections, mix: mix.to_string(), rate: None };
        let line = Line::of_rounds(level, &rounds);
        if args.json { line.write_json(&mut out) } else { line.write_row(&mut out) }
            .map_err(unwritable)?;
    }
    Ok(())
}
