//! The whole measurement: members or targets, level after level, what is printed and drawn.

use std::fs;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::Args;
use super::asker::n_own_keys;
use super::keys::{KeySpace, Values};
use super::load::Load;
use super::members::{self, Members, Seat};
use super::mix::{Mix, Operation};
use super::plot::{self, Series};
use super::progress::Progress;
use super::report::{self, Level, Line};
use super::round::{Failure, Pace, Round, Window};
use super::target::{self, Target};

/// How long a running cluster may take to name its leader.
const LEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// Whom to ask.
enum Whom {
    /// Whoever leads among these, which may be another one in each round.
    Leader(Vec<Target>),
    /// All of these.
    All(Vec<Target>),
}

/// What a plot shows.
#[derive(Debug, Default)]
struct Charts {
    latencies: Vec<Series>,
    throughput: Vec<Series>,
}

/// Measures and prints every level.
pub(super) async fn measure(args: &Args) -> Result<(), Failure> {
    let mix = if args.reads { Mix::only(Operation::Get) } else { args.mix };
    let loads = loads(args, mix)?;
    if let Some(plot) = &args.plot {
        check_writable(plot)?;
    }
    let (members, whom) = begin(args).await?;

    let mut out = io::stdout();
    let unwritable = |error| Failure::new(format!("cannot print: {error}"));
    if !args.json {
        report::write_heading(mix.operations(), &mut out).map_err(unwritable)?;
    }
    let round_length = loads[0].window.warm_up + loads[0].window.length;
    let progress = Progress::new(round_length * loads.len() as u32 * args.rounds);
    let with_tail = |failure: Failure| {
        failure.with_tail(members.as_ref().map(Members::log_tails).unwrap_or_default())
    };
    let mut charts = Charts::default();
    let mut missed = Vec::new();
    let mut filled = false;
    for load in &loads {
        let mut rounds = Vec::new();
        for n in 1..=args.rounds {
            let targets = whom.targets().await?;
            if mix.reads() && !filled {
                load.fill(&targets).await.map_err(with_tail)?;
                filled = true;
            }
            let name = format!("{} connections, round {n} of {}", load.connections, args.rounds);
            let round = progress.during(name, round_length, load.run(&targets)).await;
            rounds.push(round.map_err(with_tail)?);
        }
        let line = Line::of_rounds(load.level(), &rounds);
        let print = || if args.json { line.write_json(&mut out) } else { line.write_row(&mut out) };
        progress.above(print).map_err(unwritable)?;
        if let (Some(rate), false) = (line.rate, line.reached) {
            missed.push(format!(
                "{rate} a second at {} connections ({:.0})",
                line.connections,
                line.per_second()
            ));
        }
        charts.add(&line, report::median(&rounds));
    }
    drop(progress);
    if let Some(plot) = &args.plot {
        let svg = plot::svg(&charts.latencies, &charts.throughput)?;
        fs::write(plot, svg)
            .map_err(|error| Failure::new(format!("cannot write {}: {error}", plot.display())))?;
    }
    if missed.is_empty() {
        Ok(())
    } else {
        Err(Failure::new(format!("not reached: {}", missed.join(", "))))
    }
}

/// The levels, or what is wrong with the arguments.
fn loads(args: &Args, mix: Mix) -> Result<Vec<Load>, Failure> {
    let most = args.connections.iter().copied().max().unwrap_or(0);
    let n_own = if mix.has(Operation::Cas) { n_own_keys(most) } else { 0 };
    let keys = KeySpace::new(args.keys, n_own, args.key_bytes, args.distribution)?;
    let values = Values::new(args.value_bytes);
    let window = Window {
        warm_up: Duration::from_millis(args.warm_up_ms),
        length: Duration::from_secs(args.seconds),
    };
    let paces = |connections| {
        let open = args.rate.iter().map(move |&rate| Pace::Open { rate, connections });
        let closed = args.rate.is_empty().then_some(Pace::Closed);
        open.chain(closed).map(move |pace| (connections, pace))
    };
    let levels = args.connections.iter().flat_map(|&connections| paces(connections));
    let load =
        |(connections, pace)| Load { mix, connections, pace, window, keys, values: values.clone() };
    Ok(levels.map(load).collect())
}

/// Before an hour of load and not after it. What was not there is not there afterwards.
fn check_writable(plot: &Path) -> Result<(), Failure> {
    let written = match fs::OpenOptions::new().append(true).open(plot) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::File::create_new(plot).and_then(|_| fs::remove_file(plot))
        }
        opened => opened.map(drop),
    };
    written.map_err(|error| {
        Failure::new(format!("--plot {}: it cannot be written: {error}", plot.display()))
    })
}

async fn begin(args: &Args) -> Result<(Option<Members>, Whom), Failure> {
    if let Some(at) = &args.at {
        return Ok((None, Whom::All(vec![Target::of_url(at)?])));
    }
    let given = args.targets.iter().map(Target::of_url).collect::<Result<Vec<_>, _>>()?;
    let (members, targets) = if given.is_empty() {
        let members = start_members(args).await?;
        let targets = members.seats().iter().map(Target::of_seat).collect();
        (Some(members), targets)
    } else {
        (None, given)
    };
    Ok((members, if args.spread { Whom::All(targets) } else { Whom::Leader(targets) }))
}

impl Whom {
    async fn targets(&self) -> Result<Vec<Target>, Failure> {
        match self {
            Whom::Leader(targets) => Ok(vec![target::find_leader(targets, LEADER_TIMEOUT).await?]),
            Whom::All(targets) => Ok(targets.clone()),
        }
    }
}

impl Load {
    fn level(&self) -> Level {
        let rate = match self.pace {
            Pace::Closed => None,
            Pace::Open { rate, .. } => Some(rate),
        };
        let (connections, mix) = (self.connections, self.mix.to_string());
        Level { system: "raftexample", connections, mix, rate }
    }
}

impl Charts {
    fn add(&mut self, line: &Line, round: &Round) {
        let at_rate = line.rate.map(|rate| format!(" at {rate} a second")).unwrap_or_default();
        let millis = |&(quantile, micros): &(f64, u64)| (quantile, micros as f64 / 1000.0);
        self.latencies.push(Series {
            name: format!("{} connections{at_rate}", line.connections),
            points: round.curve.iter().map(millis).collect(),
        });
        let name = format!("{}{at_rate}", line.mix);
        let point = (line.connections.into(), line.per_second());
        match self.throughput.iter_mut().find(|series| series.name == name) {
            Some(series) => series.points.push(point),
            None => self.throughput.push(Series { name, points: vec![point] }),
        }
    }
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
    members::start_until(&args.dir, command, target::all_ready).await
}
