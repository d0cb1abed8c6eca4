//! Runs every mutant against the campaigns that must find it.
//!
//! Progress and the table go to standard error; the last line on standard output says how many were
//! found. The exit code is 0 only when all were.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use mutants::build::Built;
use mutants::campaign::Campaign;
use mutants::catalogue::campaigns;
use mutants::hunt::{End, Run, run};
use mutants::place::Places;
use wal::defects::Defect;

/// Run every deliberate defect against the campaigns that must find it.
#[derive(Debug, Parser)]
struct Args {
    /// Only these, by their names.
    #[arg(long, value_delimiter = ',', value_name = "NAME,...")]
    only: Vec<String>,
    /// How many campaigns run at a time; by default as many as there are cores.
    #[arg(long, value_name = "N")]
    jobs: Option<NonZeroUsize>,
    /// How long a campaign may take, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    limit: u64,
}

fn main() -> ExitCode {
    match hunt(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            say(&format!("mutants: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn hunt(args: &Args) -> io::Result<bool> {
    let defects = chosen(&args.only)?;
    let places = Places::find(workspace())?;
    if let Some(lost) = defects.iter().find(|defect| places.of(**defect).is_none()) {
        return Err(io::Error::other(format!("{} has no place in the code", lost.name())));
    }
    let begin = Instant::now();
    say("building");
    let built = Built::all(workspace())?;
    say(&format!("built in {:.0} s", begin.elapsed().as_secs_f64()));

    let pairs: Vec<(Defect, Campaign)> = defects
        .iter()
        .flat_map(|defect| campaigns(*defect).into_iter().map(|campaign| (*defect, campaign)))
        .collect();
    let clean: BTreeSet<Campaign> = pairs.iter().map(|(_, campaign)| *campaign).collect();
    let clean = clean.into_iter().map(|campaign| (None, campaign));
    let mutated = pairs.into_iter().map(|(defect, campaign)| (Some(defect), campaign));
    let work: Vec<_> = clean.chain(mutated).collect();
    let runs = run_all(&built, &work, args)?;

    for run in &runs {
        if let Some((defect, place)) = run.defect.and_then(|d| Some((d, places.of(d)?))) {
            say(&format!("{place:<34} {}  [{}]", line(run), defect.what()));
        }
    }
    let dirty: Vec<_> = runs.iter().filter(|run| run.defect.is_none() && !run.is_good()).collect();
    for run in &dirty {
        say(&format!("{} fails without a defect: {}", run.campaign, told(run)));
    }
    let is_proof = |run: &&Run| run.is_good() && dirty.iter().all(|d| d.campaign != run.campaign);
    let n_killed = defects.iter().filter(|defect| {
        let mut own = runs.iter().filter(|run| run.defect == Some(**defect));
        own.all(|run| is_proof(&run))
    });
    let n_killed = n_killed.count();
    say(&format!("took {:.0} s, build included", begin.elapsed().as_secs_f64()));
    writeln!(io::stdout(), "mutants: {n_killed} of {} killed", defects.len())?;
    Ok(n_killed == defects.len())
}

fn chosen(names: &[String]) -> io::Result<Vec<Defect>> {
    if names.is_empty() {
        return Ok(Defect::ALL.to_vec());
    }
    let find = |name: &String| {
        let found = Defect::ALL.iter().find(|defect| defect.name() == name).copied();
        found.ok_or_else(|| io::Error::other(format!("{name:?} is not the name of a defect")))
    };
    names.iter().map(find).collect()
}

/// Runs everything, so many at a time, in the order in which it is given.
fn run_all(
    built: &Built,
    work: &[(Option<Defect>, Campaign)],
    args: &Args,
) -> io::Result<Vec<Run>> {
    let limit = Duration::from_secs(args.limit);
    let cores = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let worker = || -> io::Result<()> {
        while let Some((defect, campaign)) = work.get(next.fetch_add(1, Ordering::Relaxed)) {
            let run = run(built, *campaign, *defect, limit)?;
            let mut done = done.lock().expect("no worker panics");
            done.push(run);
            let run = &done[done.len() - 1];
            say(&format!("{:>3}/{} {}", done.len(), work.len(), line(run)));
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let n_workers = args.jobs.unwrap_or(cores).get();
        let workers: Vec<_> = (0..n_workers).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().expect("no worker panics"))
    })?;
    let mut runs = done.into_inner().expect("no worker panics");
    runs.sort_by_key(|run| run.defect);
    Ok(runs)
}

/// One line of the table.
fn line(run: &Run) -> String {
    let name = run.defect.map_or("(none)", Defect::name);
    let seconds = run.took.as_secs_f64();
    let campaign = run.campaign.to_string();
    format!("{name:<20} {campaign:<62} {seconds:>5.1} s  {}", told(run))
}

fn told(run: &Run) -> String {
    match &run.end {
        End::Passed if run.defect.is_some() => "SURVIVED".to_owned(),
        End::Passed => "passed".to_owned(),
        End::Absent => "NO SUCH TEST".to_owned(),
        End::Late => "NOT DONE IN TIME".to_owned(),
        End::Broken(how) => format!("BROKEN: {how}"),
        End::Failed(reason) => reason.clone(),
    }
}

fn workspace() -> &'static Path {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.ancestors().nth(2).unwrap_or(package)
}

#[expect(clippy::print_stderr, reason = "progress is for whoever waits")]
fn say(line: &str) {
    eprintln!("{line}");
}
