//! etcd under the load of `raftexample bench`: the yardstick the node's figures are held to.
//!
//! It starts three etcd members as they come (default settings, every write synced to disk), or takes
//! running ones (`--endpoints`), and drives a closed loop of puts at the leader, each connection a
//! client with a channel of its own. Window, keys, members and output are compiled from the same files
//! as `raftexample bench`. With `--against <raftexample>` it measures both in turn, one cluster at a
//! time, and prints the ratio per level.

#[path = "../../../raftexample/src/bench/members.rs"]
mod members;
#[path = "../../../raftexample/src/bench/report.rs"]
mod report;
#[path = "../../../raftexample/src/bench/round.rs"]
mod round;

mod compare;
mod load;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::LocalSet;

use load::Load;
use members::{Members, Seat};
use report::Line;
use round::{Failure, Operation, Window};

/// Measure etcd's committed writes per second, alone or against raftexample.
#[derive(Debug, Parser)]
struct Args {
    /// Client URLs of a running cluster; without it three members are started and stopped again.
    #[arg(long, value_delimiter = ',', value_name = "URL,URL,...", conflicts_with = "against")]
    endpoints: Vec<String>,
    /// Measure this raftexample executable too, alternating, and print ratios.
    #[arg(long, value_name = "PATH")]
    against: Option<PathBuf>,
    /// Fail when a level's ratio is below its number here, in the order of `--connections`.
    #[arg(long, value_delimiter = ',', value_name = "RATIO,...", requires = "against")]
    at_least: Vec<f64>,
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
        let members = start_members(args).await?;
        let endpoints = members.seats().iter().map(endpoint).collect();
        (Some(members), endpoints)
    } else {
        (None, args.endpoints.clone())
    };

    let mut out = io::stdout();
    let unwritable = |error| Failure::new(format!("cannot print: {error}"));
    if !args.json {
        report::write_heading(Operation::Put, &mut out).map_err(unwritable)?;
    }
    for &connections in &args.connections {
        let load = Load::of_args(args, connections);
        let mut rounds = Vec::new();
        for _ in 0..args.rounds {
            let leader = load::find_leader(&endpoints).await?;
            rounds.push(load.run(&leader).await.map_err(|failure| {
                failure.with_tail(members.as_ref().map(Members::log_tails).unwrap_or_default())
            })?);
        }
        let line = Line::of_rounds("etcd", Operation::Put, connections, rounds);
        if args.json { line.write_json(&mut out) } else { line.write_row(&mut out) }
            .map_err(unwritable)?;
    }
    Ok(())
}

fn endpoint(seat: &Seat) -> String {
    format!("http://127.0.0.1:{}", seat.client_port)
}

async fn start_members(args: &Args) -> Result<Members, Failure> {
    let command = |seat: &Seat, seats: &[Seat]| {
        let peer = |seat: &Seat| format!("http://127.0.0.1:{}", seat.peer_port);
        let cluster: Vec<_> =
            seats.iter().map(|seat| format!("m{}={}", seat.id, peer(seat))).collect();
        let mut command = Command::new(&args.etcd);
        command
            .args(["--name", &format!("m{}", seat.id)])
            .arg("--data-dir")
            .arg(&seat.data_dir)
            .args(["--listen-peer-urls", &peer(seat)])
            .args(["--initial-advertise-peer-urls", &peer(seat)])
            .args(["--listen-client-urls", &endpoint(seat)])
            .args(["--advertise-client-urls", &endpoint(seat)])
            .args(["--initial-cluster", &cluster.join(",")])
            .args(["--initial-cluster-state", "new"])
            .stdin(Stdio::null());
        // Variables stand for flags; what the caller's shell exports is not what we measure.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("ETCD_") {
                command.env_remove(name);
            }
        }
        command
    };
    let is_ready = async |seats: &[Seat]| {
        let endpoints: Vec<_> = seats.iter().map(endpoint).collect();
        load::all_follow_a_leader(&endpoints).await
    };
    members::start_until(&args.dir, command, is_ready).await
}

impl Load {
    fn of_args(args: &Args, connections: u16) -> Load {
        Load {
            connections,
            window: Window {
                warm_up: Duration::from_millis(args.warm_up_ms),
                length: Duration::from_secs(args.seconds),
            },
            n_keys: args.keys,
            value: vec![b'v'; args.value_bytes],
        }
    }
}
