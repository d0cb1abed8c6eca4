//! Both systems in one session, in turn, and the ratio per level.
//!
//! Machines drift: minutes apart the same figure differs by tens of percent. So the two alternate
//! within each round of each level, each with a fresh cluster that has the machine to itself, and the
//! ratio is taken of the medians.

use std::io::{self, Write};
use std::path::Path;
use std::process::Stdio;

use tokio::io::AsyncReadExt;
use tokio::process::Command;

use crate::load::{self, Load};
use crate::report::Line;
use crate::round::{Failure, Operation, Round};
use crate::{Args, endpoint, start_members};

/// Measures both and prints a row per level, or two JSON lines with `--json`.
pub(crate) async fn run(args: &Args, raftexample: &Path) -> Result<(), Failure> {
    if !args.at_least.is_empty() && args.at_least.len() != args.connections.len() {
        return Err(Failure::new("--at-least needs a ratio for each level of --connections"));
    }
    let mut out = io::stdout();
    let unwritable = |error| Failure::new(format!("cannot print: {error}"));
    if !args.json {
        write_heading(&mut out).map_err(unwritable)?;
    }
    let mut short = Vec::new();
    for (level, &connections) in args.connections.iter().enumerate() {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..args.rounds {
            ours.push(measure_raftexample(args, raftexample, connections).await?);
            theirs.push(measure_etcd(args, connections).await?);
        }
        let ours = Line::of_rounds("raftexample", Operation::Put, connections, ours);
        let theirs = Line::of_rounds("etcd", Operation::Put, connections, theirs);
        let ratio = ours.writes_per_second / theirs.writes_per_second;
        if args.json {
            ours.write_json(&mut out).and_then(|()| theirs.write_json(&mut out))
        } else {
            write_row(&mut out, &ours, &theirs, ratio)
        }
        .map_err(unwritable)?;
        if let Some(&least) = args.at_least.get(level).filter(|&&least| ratio < least) {
            short.push(format!("{ratio:.2} at {connections} connections, {least} wanted"));
        }
    }
    if short.is_empty() { Ok(()) } else { Err(Failure::new(short.join("; "))) }
}

async fn measure_etcd(args: &Args, connections: u16) -> Result<Round, Failure> {
    let members = start_members(args).await?;
    let endpoints: Vec<_> = members.seats().iter().map(endpoint).collect();
    let leader = load::find_leader(&endpoints).await?;
    let round = Load::of_args(args, connections).run(&leader).await;
    round.map_err(|failure| failure.with_tail(members.log_tails()))
}

async fn measure_raftexample(
    args: &Args,
    raftexample: &Path,
    connections: u16,
) -> Result<Round, Failure> {
    let failed =
        |what: &dyn std::fmt::Display| Failure::new(format!("{}: {what}", raftexample.display()));
    let mut bench = Command::new(raftexample)
        .args(["bench", "--json", "--rounds", "1"])
        .args(["--connections", &connections.to_string()])
        .args(["--seconds", &args.seconds.to_string()])
        .args(["--value-bytes", &args.value_bytes.to_string()])
        .args(["--keys", &args.keys.to_string()])
        .args(["--warm-up-ms", &args.warm_up_ms.to_string()])
        .arg("--dir")
        .arg(&args.dir)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| failed(&error))?;
    let mut guard = Terminated(bench.id());
    let mut printed = Vec::new();
    if let Some(stdout) = &mut bench.stdout {
        stdout.read_to_end(&mut printed).await.map_err(|error| failed(&error))?;
    }
    let status = bench.wait().await.map_err(|error| failed(&error))?;
    guard.0 = None;
    if !status.success() {
        return Err(failed(&status));
    }
    let line: Line = serde_json::from_slice(&printed).map_err(|error| failed(&error))?;
    Ok(Round {
        per_second: line.writes_per_second,
        p50_micros: line.p50_micros,
        p99_micros: line.p99_micros,
    })
}

/// A child that is asked to end when the comparison is abandoned, so that it stops its members: a
/// kill would leave them.
struct Terminated(Option<u32>);

impl Drop for Terminated {
    fn drop(&mut self) {
        let pid = self.0.and_then(|pid| rustix::process::Pid::from_raw(pid as i32));
        if let Some(pid) = pid {
            // It may have ended by itself, which is as good.
            let _ended = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
    }
}

fn write_heading(out: &mut impl Write) -> io::Result<()> {
    writeln!(
        out,
        "{:>11}  {:>12}  {:>10}  {:>6}  {:>22}  {:>22}",
        "connections", "raftexample", "etcd", "ratio", "raftexample p50 / p99", "etcd p50 / p99"
    )?;
    out.flush()
}

fn write_row(out: &mut impl Write, ours: &Line, theirs: &Line, ratio: f64) -> io::Result<()> {
    let latency = |line: &Line| {
        let (p50, p99) = (line.p50_micros as f64 / 1000.0, line.p99_micros as f64 / 1000.0);
        format!("{p50:.2} / {p99:.2} ms")
    };
    writeln!(
        out,
        "{:>11}  {:>12.0}  {:>10.0}  {ratio:>6.2}  {:>22}  {:>22}",
        ours.connections,
        ours.writes_per_second,
        theirs.writes_per_second,
        latency(ours),
        latency(theirs),
    )?;
    out.flush()
}
