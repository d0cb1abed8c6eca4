//! `simulate`: a campaign of simulated clusters, or one of its seeds again.

use std::io::Write as _;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Parser;
use sim::campaign::{Failure, Plan, Summary, run, run_one, say, traced};
use sim::clients::picture;
use sim::run::{Report, Setup, Sizes};
use sim::world;

/// Simulates whole clusters from seeds, and judges them.
#[derive(Debug, Parser)]
struct Args {
    /// How many seeds.
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// For how many ticks of 10 ms faults go on, in each.
    #[arg(long, default_value_t = 10_000)]
    ticks: u64,
    /// The first seed; fresh when it is not given.
    #[arg(long)]
    first_seed: Option<u64>,
    /// Runs this seed alone, with a trace.
    #[arg(long)]
    seed: Option<u64>,
    /// How many members found a cluster: 3, 5, or both, by the seed.
    #[arg(long, default_value = "both")]
    members: Sizes,
    /// On how many threads; all there are when it is not given.
    #[arg(long)]
    threads: Option<NonZeroUsize>,
    /// Ends at the first failure.
    #[arg(long)]
    fail_fast: bool,
    /// Writes what came of it to this file too, for programs.
    #[arg(long)]
    json: Option<PathBuf>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    // What a run panics with is reported with its seed.
    std::panic::set_hook(Box::new(|_| {}));
    let setup = match setup(&args) {
        Ok(setup) => setup,
        Err(why) => {
            say(&format!("simulate: {why}\n"));
            return ExitCode::from(2);
        }
    };
    match args.seed {
        Some(seed) => again(seed, &args, setup),
        None => campaign(&args, setup),
    }
}

fn setup(args: &Args) -> Result<Setup, String> {
    #[cfg(feature = "defects")]
    raftnode::defects::from_environment()?;
    Ok(Setup { ticks: args.ticks, ..Setup::new(0) })
}

/// Replays one seed.
fn again(seed: u64, args: &Args, setup: Setup) -> ExitCode {
    let setup = Setup { seed, n_members: args.members.of(seed), ..setup };
    let mut report = traced();
    let result = run_one(&setup, &mut report, &world::run);
    let Report { ticks, ops, history, .. } = report;
    match result {
        Ok(()) => {
            say(&format!("seed {seed}: {ticks} ticks, {ops} operations, nothing wrong\n"));
            ExitCode::SUCCESS
        }
        Err(violation) => {
            say(&format!("\nseed {seed}: {violation}\n"));
            if let Some(picture) = picture(&history) {
                say(&draw(seed, &picture));
            }
            ExitCode::FAILURE
        }
    }
}

/// Puts what the clients were told where a browser can show it; says where.
fn draw(seed: u64, picture: &str) -> String {
    let path = Path::new("target/simulate").join(format!("{seed}.html"));
    let written = std::fs::create_dir_all("target/simulate");
    match written.and_then(|()| std::fs::write(&path, picture)) {
        Ok(()) => format!("drawn: {}\n", path.display()),
        Err(error) => format!("cannot draw {}: {error}\n", path.display()),
    }
}

fn campaign(args: &Args, setup: Setup) -> ExitCode {
    let all = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let plan = Plan {
        setup,
        first_seed: args.first_seed.unwrap_or_else(fresh_seed),
        n_seeds: args.seeds,
        sizes: args.members,
        n_threads: args.threads.unwrap_or(all).get(),
        stops_early: args.fail_fast,
    };
    let (n, first) = (plan.n_seeds, plan.first_seed);
    say(&format!("{n} seeds from {first} on; FIRST_SEED={first} runs the same again\n"));
    let summary = run(&plan, &world::run);
    let ticks = args.ticks;
    say(&summary.report(&|Failure { seed, n_members, .. }| {
        format!("make simulate SEED={seed} TICKS={ticks} MEMBERS={n_members}")
    }));
    if let Some(path) = &args.json
        && let Err(error) = std::fs::write(path, summary.to_json(&plan))
    {
        say(&format!("simulate: cannot write {}: {error}\n", path.display()));
        return ExitCode::FAILURE;
    }
    close(&summary)
}

/// The closing line, which is all that goes to standard output.
fn close(summary: &Summary) -> ExitCode {
    let line = summary.closing_line() + "\n";
    let is_said = std::io::stdout().lock().write_all(line.as_bytes()).is_ok();
    if is_said && summary.passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Small enough to be read out, and different each time.
fn fresh_seed() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    tests::rng::Rng::new(since.as_nanos() as u64).below(1_000_000_000)
}
