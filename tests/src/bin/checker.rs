//! Three linearizability checkers asked about the same small histories: `make checker HISTORIES=n`.
//!
//! One of its seeds can be judged again and shown; its first seed repeats a campaign.

use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use clap::Parser;
use tests::linearizability::{agreement, generate};
use tests::progress::Progress;
use tests::rng::{Rng, fresh_seed};

/// All valid or all invalid, they would agree on anything: so many of a hundred must be invalid.
const INVALID_PERCENT: std::ops::RangeInclusive<usize> = 20..=80;
/// How many disagreements are shown.
const MAX_SHOWN: usize = 5;

/// Ask three linearizability checkers about the same small histories.
#[derive(Debug, Parser)]
struct Options {
    /// How many.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..))]
    histories: u64,
    /// The first of their seeds, which follow each other; fresh when it is not given.
    #[arg(long)]
    first_seed: Option<u64>,
    /// Judges the history of this seed alone, and shows it.
    #[arg(long)]
    seed: Option<u64>,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(code) => code,
        // Nobody is left to tell.
        Err(_) => ExitCode::FAILURE,
    }
}

fn run(options: &Options) -> io::Result<ExitCode> {
    if let Some(seed) = options.seed {
        return show(seed);
    }
    let first_seed = options.first_seed.unwrap_or_else(fresh_seed);
    let n_histories = options.histories as usize;
    writeln!(io::stderr(), "checker: FIRST_SEED={first_seed}")?;
    let (n_judged, progress) = (AtomicUsize::new(0), Mutex::new(Progress::count("checker: ")));
    let each = || {
        let n = n_judged.fetch_add(1, Ordering::Relaxed) + 1;
        let progress = progress.lock().unwrap_or_else(PoisonError::into_inner);
        progress.tell_of(n, n_histories, &format!("{n} of {n_histories} histories"));
    };
    let agreement = agreement::compare(first_seed, n_histories, &each);
    drop(progress);
    for disagreement in agreement.disagreements.iter().take(MAX_SHOWN) {
        let seed = disagreement.seed;
        writeln!(io::stderr(), "{disagreement}again: make checker SEED={seed}")?;
    }
    let percent = 100 * agreement.n_invalid / n_histories.max(1);
    let is_mixed = INVALID_PERCENT.contains(&percent);
    if !is_mixed {
        writeln!(io::stderr(), "checker: {percent} % are invalid: agreeing on them says little")?;
    }
    writeln!(
        io::stdout(),
        "checker: {} histories, {} invalid, {} disagreements",
        agreement.n_histories,
        agreement.n_invalid,
        agreement.disagreements.len()
    )?;
    let passes = is_mixed && agreement.disagreements.is_empty();
    Ok(if passes { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// One history, and what becomes of it.
fn show(seed: u64) -> io::Result<ExitCode> {
    for op in generate::small(&mut Rng::new(seed)) {
        writeln!(io::stdout(), "{}  {op}", op.key)?;
    }
    match agreement::compare_one(seed) {
        (is_valid, None) => {
            let verdict = if is_valid { "linearizable" } else { "not linearizable" };
            writeln!(io::stdout(), "all three: {verdict}")?;
            Ok(ExitCode::SUCCESS)
        }
        (_, Some(disagreement)) => {
            writeln!(io::stdout(), "{disagreement}")?;
            Ok(ExitCode::FAILURE)
        }
    }
}
