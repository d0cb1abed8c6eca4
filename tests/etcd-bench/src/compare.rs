//! All systems in one session, in turn, and the ratio per case.
//!
//! Machines drift: minutes apart the same figure differs by tens of percent. So the systems alternate
//! within each round of each case, each with a fresh cluster that has the machine to itself.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::figure::{Outcome, Spread};
use crate::keys::{Distribution, KeySpace, Values};
use crate::machine;
use crate::members::Members;
use crate::page::Page;
use crate::plan::{self, Case, Peer, Yardstick};
use crate::progress::Progress;
use crate::report::{Level, Line};
use crate::round::{Failure, Window};
use crate::{Args, KEY_BYTES, disk, etcd, original, raftexample};

/// What a fresh cluster costs besides its load: starting, electing, filling, stopping.
const START: Duration = Duration::from_secs(3);
const FIO: &str = "fio";

/// Who takes part.
struct Systems {
    raftexample: PathBuf,
    etcd: Result<String, String>,
    original: Result<String, String>,
    fio: Result<String, String>,
}

/// Measures all cases, prints a row for each system, writes the page if one is wanted, and fails when
/// a figure is not what it must be at least.
pub(crate) async fn run(args: &Args, raftexample: &Path) -> Result<(), Failure> {
    args.limits.check(&args.connections)?;
    let file_system = machine::file_system(&args.dir);
    if ["tmpfs", "ramfs"].contains(&file_system.as_str()) {
        return Err(Failure::new(format!(
            "--dir {} is a {file_system}, where nothing is durable; name a directory on a disk",
            args.dir.display()
        )));
    }
    let systems = Systems::find(args, raftexample);
    let cases = plan::plan(&args.connections, args.value_bytes, args.keys);
    let each = Duration::from_millis(args.warm_up_ms) + Duration::from_secs(args.seconds) + START;
    let turns = cases.iter().map(|case| systems.turns(case) as u32).sum::<u32>() * args.rounds;
    let progress = Progress::new(each * turns);

    let mut out = io::stdout();
    let unwritable = |error| Failure::new(format!("cannot print: {error}"));
    if !args.json {
        write_heading(&mut out).map_err(unwritable)?;
    }
    let mut outcomes = Vec::new();
    for case in cases {
        let runs = case.peers.iter().map(|&peer| (peer, Vec::new())).collect();
        let mut outcome = Outcome { case, runs, disk: Vec::new() };
        for round in 1..=args.rounds {
            let name = format!("{}, round {round} of {}", outcome.name(), args.rounds);
            for (peer, lines) in &mut outcome.runs {
                if systems.has(*peer) {
                    let measured = systems.measure(args, &outcome.case, *peer);
                    let name = format!("{}: {name}", peer.name());
                    lines.push(progress.during(name, each, measured).await?);
                }
            }
            if outcome.case.yardstick == Yardstick::Disk && systems.fio.is_ok() {
                let measured = disk::measure(&args.dir, args.seconds);
                let name = format!("fio: {name}");
                outcome.disk.push(progress.during(name, each, measured).await?);
            }
        }
        let print = || {
            if args.json { write_json(&mut out, &outcome) } else { write_rows(&mut out, &outcome) }
        };
        progress.above(print).map_err(unwritable)?;
        outcomes.push(outcome);
    }
    drop(progress);
    let short = args.limits.missed(&outcomes);
    if let Some(path) = &args.page {
        write_page(args, path, systems, outcomes)?;
    }
    if short.is_empty() { Ok(()) } else { Err(Failure::new(short.join("; "))) }
}

fn write_page(
    args: &Args,
    path: &Path,
    systems: Systems,
    outcomes: Vec<Outcome>,
) -> Result<(), Failure> {
    let picture = path.with_extension("svg");
    let page = Page {
        command: args.command.clone(),
        commit: machine::commit(path),
        date: machine::told("date", &["-u", "+%Y-%m-%d"]).unwrap_or_default(),
        facts: machine::facts(&args.dir),
        systems: systems.versions(),
        rounds: args.rounds,
        seconds: args.seconds,
        warm_up_ms: args.warm_up_ms,
        picture: picture.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        judged: args.limits.judged(&outcomes),
        outcomes,
    };
    let write = |path: &Path, text: String| {
        fs::write(path, text)
            .map_err(|error| Failure::new(format!("cannot write {}: {error}", path.display())))
    };
    write(&picture, page.picture()?)?;
    write(path, page.text())
}

impl Systems {
    fn find(args: &Args, raftexample: &Path) -> Systems {
        let original = match &args.original {
            Some(path) if path.exists() => {
                let package = ["-W", "-f=${Version}", "golang-etcd-server-dev"];
                let package = machine::told("dpkg-query", &package);
                Ok(package.map_or("unknown".to_owned(), |version| {
                    format!("of Debian's golang-etcd-server-dev {version}")
                }))
            }
            Some(path) => Err(format!("{} is not built", path.display())),
            None => Err("--original does not name it".to_owned()),
        };
        Systems {
            raftexample: raftexample.to_owned(),
            etcd: machine::told(&args.etcd, &["--version"]),
            original,
            fio: machine::told(FIO, &["--version"]),
        }
    }

    fn has(&self, peer: Peer) -> bool {
        match peer {
            // It is what is measured: that it cannot be started is told by trying to.
            Peer::Raftexample => true,
            Peer::Etcd => self.etcd.is_ok(),
            Peer::Original => self.original.is_ok(),
        }
    }

    /// How many measurements a round of a case is.
    fn turns(&self, case: &Case) -> usize {
        let peers = case.peers.iter().filter(|peer| self.has(**peer)).count();
        let disk = case.yardstick == Yardstick::Disk && self.fio.is_ok();
        peers + usize::from(disk)
    }

    fn versions(self) -> Vec<(&'static str, Result<String, String>)> {
        let openraft = "its in-memory example is in no registry, so it cannot be built here";
        vec![
            (Peer::Raftexample.name(), machine::told(&self.raftexample, &["--version"])),
            (Peer::Etcd.name(), self.etcd),
            (Peer::Original.name(), self.original),
            ("openraft", Err(openraft.to_owned())),
            (FIO, self.fio),
        ]
    }

    async fn measure(&self, args: &Args, case: &Case, peer: Peer) -> Result<Line, Failure> {
        let mut line = match peer {
            Peer::Raftexample => raftexample::measure(args, &self.raftexample, case, None).await?,
            Peer::Etcd => measure_etcd(args, case).await?,
            Peer::Original => {
                let path = args.original.as_deref().unwrap_or(Path::new("raftexample"));
                let members = original::start(path, &args.dir).await?;
                let leader = original::leader_url(&members)?;
                raftexample::measure(args, &self.raftexample, case, Some(&leader)).await?
            }
        };
        peer.name().clone_into(&mut line.system);
        Ok(line)
    }
}

async fn measure_etcd(args: &Args, case: &Case) -> Result<Line, Failure> {
    let members = etcd::start(&args.etcd, &args.dir).await?;
    let endpoints: Vec<_> = members.seats().iter().map(etcd::endpoint).collect();
    let leader = etcd::find_leader(&endpoints).await?;
    let load = etcd::Load {
        mix: case.mix,
        connections: case.connections,
        window: args.window(),
        keys: KeySpace::new(case.keys, 0, KEY_BYTES, Distribution::Uniform)?,
        values: Values::new(case.value_bytes),
    };
    let with_tail = |failure: Failure| failure.with_tail(Members::log_tails(&members));
    let round = load.run(&leader).await.map_err(with_tail)?;
    let (connections, mix) = (case.connections, case.mix.to_string());
    let level = Level { system: Peer::Etcd.name(), connections, mix, rate: None };
    Ok(Line::of_rounds(level, &[round]))
}

impl Args {
    pub(crate) fn window(&self) -> Window {
        Window {
            warm_up: Duration::from_millis(self.warm_up_ms),
            length: Duration::from_secs(self.seconds),
        }
    }
}

fn write_json(out: &mut impl Write, outcome: &Outcome) -> io::Result<()> {
    for (peer, lines) in &outcome.runs {
        let Some(median) = outcome.median_line(*peer) else { continue };
        let rounds = lines.iter().map(Line::per_second).collect();
        Line { rounds, ..median.clone() }.write_json(out)?;
    }
    Ok(())
}

fn write_heading(out: &mut impl Write) -> io::Result<()> {
    writeln!(
        out,
        "{:<40}  {:>14}  {:>10}  {:>18}  {:>10}  {:>10}",
        "", "system", "per second", "ratio", "p50", "p99"
    )?;
    out.flush()
}

fn write_rows(out: &mut impl Write, outcome: &Outcome) -> io::Result<()> {
    let mut name = outcome.name();
    for &peer in &outcome.case.peers {
        let Some(line) = outcome.median_line(peer) else { continue };
        let ratio = outcome.ratio(peer).filter(|_| outcome.case.yardstick != Yardstick::Peer(peer));
        writeln!(
            out,
            "{name:<40}  {:>14}  {:>10.0}  {:>18}  {:>7.2} ms  {:>7.2} ms",
            peer.name(),
            line.per_second(),
            ratio.map(|ratio| ratio.to_string()).unwrap_or_default(),
            line.latency.p50_micros as f64 / 1000.0,
            line.latency.p99_micros as f64 / 1000.0,
        )?;
        name.clear();
    }
    if let Some(Spread { median, .. }) = Spread::of(&outcome.disk) {
        writeln!(
            out,
            "{:<40}  {:>14}  {:>7.0} MB/s, a third of it for each member",
            "",
            FIO,
            median / 1e6
        )?;
    }
    out.flush()
}
