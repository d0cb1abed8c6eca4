//! `raftexample bench`: how many writes a second three durable members commit, or reads they answer.
//!
//! It starts a cluster of its own executable in a temporary directory, or takes one that runs
//! (`--targets`), and drives a closed loop of PUTs or GETs at the leader, or at one server whoever it
//! is (`--at`): every connection has one request under way, and sends the next when the answer is
//! there. Load and members share the machine, so the figures compare systems measured side by side;
//! they are no statement about a deployment.
//!
//! 1. B1: any answer but 204 to a PUT, or 200 and a whole value to a GET, fails the run. A number
//!    that contains refusals is not reported.
//! 2. B2: whatever was started is stopped and its directory removed, on every way out that runs code.
//!
//! `members`, `round` and `report` know nothing of HTTP or of raftexample: the same load on another
//! store (`tests/etcd-bench`) is compiled from the same files, so the two cannot drift apart.

mod load;
mod members;
mod report;
mod round;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::task::LocalSet;
use url::Url;

use load::{Load, Target};
use members::{Members, Seat};
use report::Line;
use round::{Failure, Operation, Round, Window};

/// How long a running cluster may take to name its leader.
const LEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// Measure committed writes (or reads) per second, with three members of its own or against `--targets`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Client URLs of a running cluster; without it three members are started and stopped again.
    #[arg(long, value_delimiter = ',', value_name = "URL,URL,...")]
    targets: Vec<Url>,
    /// Load this server, whoever leads; it need not be a raftexample.
    #[arg(long, value_name = "URL", conflicts_with = "targets")]
    at: Option<Url>,
    /// Write every key once, then measure GETs.
    #[arg(long)]
    reads: bool,
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
    /// Number of different keys written or read.
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
        measured = measure(&args) => measured,
        _ = interrupt.recv() => Err(Failure::new("interrupted")),
        _ = terminate.recv() => Err(Failure::new("terminated")),
    }
}

async fn measure(args: &Args) -> Result<(), Failure> {
    let at = args.at.as_ref().map(Target::of_url).transpose()?;
    let (members, targets) = if args.targets.is_empty() && at.is_none() {
        let members = start_members(args).await?;
        let targets = members.seats().iter().map(Target::of_seat).collect();
        (Some(members), targets)
    } else {
        (None, args.targets.iter().map(Target::of_url).collect::<Result<Vec<_>, _>>()?)
    };

    let operation = if args.reads { Operation::Get } else { Operation::Put };
    let mut filled = false;
    let mut out = io::stdout();
    let unwritable = |error| Failure::new(format!("cannot print: {error}"));
    if !args.json {
        report::write_heading(operation, &mut out).map_err(unwritable)?;
    }
    for &connections in &args.connections {
        let load = Load {
            operation,
            connections,
            window: Window {
                warm_up: Duration::from_millis(args.warm_up_ms),
                length: Duration::from_secs(args.seconds),
            },
            n_keys: args.keys,
            value: vec![b'v'; args.value_bytes].into(),
        };
        let mut rounds: Vec<Round> = Vec::new();
        for _ in 0..args.rounds {
            let target = match &at {
                Some(target) => target.clone(),
                None => load::find_leader(&targets, LEADER_TIMEOUT).await?,
            };
            let with_tail = |failure: Failure| {
                failure.with_tail(members.as_ref().map(Members::log_tails).unwrap_or_default())
            };
            if operation == Operation::Get && !filled {
                load.fill(&target).await.map_err(with_tail)?;
                filled = true;
            }
            rounds.push(load.run(&target).await.map_err(with_tail)?);
        }
        let line = Line::of_rounds("raftexample", operation, connections, rounds);
        if args.json { line.write_json(&mut out) } else { line.write_row(&mut out) }
            .map_err(unwritable)?;
    }
    Ok(())
}

async fn start_members(args: &Args) -> Result<Members, Failure> {
    let executable = std::env::current_exe()
        .map_err(|error| Failure::new(format!("cannot find this executable: {error}")))?;
    let command = |seat: &Seat, seats: &[Seat]| {
        let peers: Vec<_> =
            seats.iter().map(|seat| format!("http://127.0.0.1:{}", seat.peer_port)).collect();
        let mut command = Command::new(&executable);
        command
            .args(["--id", &seat.id.to_string()])
            .args(["--cluster", &peers.join(",")])
            .args(["--port", &seat.client_port.to_string()])
            .arg("--data-dir")
            .arg(&seat.data_dir)
            .stdin(Stdio::null());
        // Variables stand for flags; what the caller's shell exports is not what we measure.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("RAFTEXAMPLE_") {
                command.env_remove(name);
            }
        }
        command
    };
    members::start_until(&args.dir, command, load::all_ready).await
}
