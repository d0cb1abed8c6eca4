//! `crash`: enumerates states in which a crash can leave a disk, until there are enough.
//!
//! Progress and findings go to stderr, the closing line to stdout. Ends with 1 if a state failed.

use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use clap::Parser;
use crash::campaign::{Campaign, Kind, Report, State, again};
use crash::log::LogLife;

/// Enumerates the states in which a crash can leave a disk, and opens each.
#[derive(Debug, Parser)]
struct Args {
    /// How many distinct states.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    states: u64,
    /// Where the seeds of drawn traces begin.
    #[arg(long, alias = "seed", default_value_t = 1)]
    first_seed: u64,
    /// How many threads; as many as there are cores unless given.
    #[arg(long)]
    threads: Option<u64>,
    /// Only traces of this kind.
    #[arg(long)]
    only: Option<Kind>,
    /// One state, as a failure names it.
    #[arg(long, value_name = "STATE")]
    replay: Option<State>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    // A panic is a finding, and is reported as one.
    std::panic::set_hook(Box::new(|_| {}));
    if let Some(state) = &args.replay {
        return show(state);
    }
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    let Args { states, first_seed: seed, only, .. } = args;
    say(&format!("{states} states, of traces from FIRST_SEED={seed} on"));
    let campaign = Campaign { states, seed, threads: args.threads.unwrap_or(cores), only };
    let (started, said) = (Instant::now(), Mutex::new(Duration::ZERO));
    let report = campaign.run(&|n, traces| tell(states, n, traces, started, &said));
    if std::io::stderr().is_terminal() {
        draw("\r\x1b[K");
    }
    let Report { distinct, traces, short, members, tally, failed } = report;
    let seconds = started.elapsed().as_secs_f64();
    say(&format!(
        "{traces} traces, {} openings ({} after two crashes or more), {seconds:.1} s, {:.0} distinct \
         states per second",
        tally.opened,
        tally.again,
        distinct as f64 / seconds
    ));
    say(&format!(
        "short traces: {short} of {}, enumerated; so were the traces of {members} members",
        LogLife::n_short()
    ));
    let sights = tally.sights.iter().map(|(what, n)| format!("{what} {n}"));
    say(&format!("met: {}", sights.collect::<Vec<_>>().join(", ")));
    for (state, failure) in failed.iter().zip(&tally.failures) {
        say(&format!("\nFAILED: {}\n{}", failure.what, failure.image));
        say(&format!("again: make crash REPLAY='{state}'"));
    }
    conclude(&format!("crash states: {distinct} distinct, {} failures", failed.len()));
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Builds one state again.
fn show(state: &State) -> ExitCode {
    say(&format!("{}\n", state.trace.describe()));
    match again(state) {
        Ok((lived, image)) => {
            say(&image);
            conclude(&format!("{state}: {lived:?}"));
            ExitCode::SUCCESS
        }
        Err(failure) => {
            say(&failure.image);
            conclude(&format!("{state}: {}", failure.what));
            ExitCode::FAILURE
        }
    }
}

/// A bar on a terminal, a line every ten seconds elsewhere.
fn tell(states: u64, n: u64, traces: u64, started: Instant, said: &Mutex<Duration>) {
    let elapsed = started.elapsed();
    let line = format!("{n} of {states} states, {traces} traces, {} s", elapsed.as_secs());
    if std::io::stderr().is_terminal() {
        let filled = (n * 40 / states.max(1)).min(40) as usize;
        draw(&format!("\r[{:<40}] {line}\x1b[K", "#".repeat(filled)));
        return;
    }
    if let Ok(mut said) = said.lock()
        && elapsed >= *said + Duration::from_secs(10)
    {
        *said = elapsed;
        say(&line);
    }
}

#[expect(clippy::print_stderr, reason = "progress and findings are what a person reads")]
fn say(text: &str) {
    eprintln!("{text}");
}

#[expect(clippy::print_stderr, reason = "a bar that is drawn over itself")]
fn draw(text: &str) {
    eprint!("{text}");
}

#[expect(clippy::print_stdout, reason = "the closing line is the result")]
fn conclude(text: &str) {
    println!("{text}");
}
