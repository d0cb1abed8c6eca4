//! Many seeds, spread over threads, and what is said of them.
//!
//! A campaign passes when no run broke a rule, none panicked, and, if it is large enough, everything
//! that can happen in a run has happened in one of them. What failed is said with the command that
//! replays it.

use std::any::Any;
use std::io::{IsTerminal, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::Violation;
use crate::clients::TICK;
use crate::coverage::Coverage;
use crate::oracle::rules;
use crate::run::{Report, Setup, Sizes, Trace};
use crate::world::PATIENCE;

/// From so many seeds on a campaign must have exercised everything.
pub const COVERED_FROM: u64 = 50;
/// How many failing seeds are kept and listed: the first of them, by their numbers.
const MAX_FAILURES: usize = 10;
/// How often a campaign says how far it is: where a bar can be drawn, and where lines are read.
const BAR_EVERY: Duration = Duration::from_millis(200);
const LINE_EVERY: Duration = Duration::from_secs(10);

/// What runs one seed.
pub type Simulate<'a> = &'a (dyn Fn(&Setup, &mut Report) -> Result<(), Violation> + Sync);

/// What a campaign is made of.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Every run's, but for its seed and its number of members.
    pub setup: Setup,
    /// The first seed; the others follow it.
    pub first_seed: u64,
    /// How many there are.
    pub n_seeds: u64,
    /// With how many members.
    pub sizes: Sizes,
    /// On how many threads.
    pub n_threads: usize,
    /// Ends at the first failure.
    pub stops_early: bool,
}

/// A run that broke a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// How many members its cluster was founded by.
    pub n_members: u64,
    /// Its seed.
    pub seed: u64,
    /// What it broke.
    pub violation: Violation,
}

/// What came of a campaign.
#[derive(Debug, Default)]
pub struct Summary {
    /// How many seeds were run.
    pub n_seeds: u64,
    /// How many ticks they took together.
    pub ticks: u64,
    /// How many operations of clients ended.
    pub ops: u64,
    /// How many runs broke a rule.
    pub n_violations: u64,
    /// Some of them, the lowest seeds first.
    pub failures: Vec<Failure>,
    /// The longest that a cluster needed to serve again once nothing was wrong any more, in ticks,
    /// and the seed of that run.
    pub longest_recovery: Option<(u64, u64)>,
    /// What happened.
    pub coverage: Coverage,
    /// How long it took, and on how many threads.
    pub took: Duration,
    /// How many threads ran seeds.
    pub n_threads: usize,
}

/// Runs one seed. What it panics with, the product's own assertions included, is a violation.
pub fn run_one(
    setup: &Setup,
    report: &mut Report,
    simulate: Simulate<'_>,
) -> Result<(), Violation> {
    let run = AssertUnwindSafe(|| simulate(setup, report));
    catch_unwind(run).unwrap_or_else(|panic| Err(rules::NO_PANIC.broken(words(&*panic))))
}

fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    format!("panicked: {}", text.unwrap_or("without words"))
}

/// Runs all seeds.
pub fn run(plan: &Plan, simulate: Simulate<'_>) -> Summary {
    let begin = Instant::now();
    let (next, ticks, is_over) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
    let summary = Mutex::new(Summary { n_threads: plan.n_threads, ..Summary::default() });
    let work = || {
        while !is_over.load(Ordering::Relaxed) {
            let nth = next.fetch_add(1, Ordering::Relaxed);
            if nth >= plan.n_seeds {
                break;
            }
            let seed = plan.first_seed.wrapping_add(nth);
            let setup = Setup { seed, n_members: plan.sizes.of(seed), ..plan.setup };
            let mut report = Report::default();
            let result = run_one(&setup, &mut report, simulate);
            ticks.fetch_add(report.ticks, Ordering::Relaxed);
            if let Err(violation) = &result {
                // The rest may take long; what replays it is said at the end.
                let bar_off = if std::io::stderr().is_terminal() { "\r\x1b[K" } else { "" };
                say(&format!("{bar_off}seed {seed}: {violation}\n"));
                is_over.fetch_or(plan.stops_early, Ordering::Relaxed);
            }
            let mut summary = summary.lock().unwrap_or_else(PoisonError::into_inner);
            summary.take(&setup, report, result);
        }
    };
    let is_done = AtomicBool::new(false);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..plan.n_threads).map(|_| scope.spawn(work)).collect();
        let show = scope.spawn(|| {
            let progress = Progress { begin, plan, ticks: &ticks };
            progress.show(&is_done, &|| {
                let summary = summary.lock().unwrap_or_else(PoisonError::into_inner);
                (summary.n_seeds, summary.n_violations)
            });
        });
        for worker in workers {
            worker.join().expect("a run's panic is caught");
        }
        is_done.store(true, Ordering::Relaxed);
        show.thread().unpark();
    });
    let mut summary = summary.into_inner().unwrap_or_else(PoisonError::into_inner);
    summary.took = begin.elapsed();
    summary
}

struct Progress<'a> {
    begin: Instant,
    plan: &'a Plan,
    ticks: &'a AtomicU64,
}

impl Progress<'_> {
    /// A bar on a terminal, a line now and then elsewhere.
    fn show(&self, is_done: &AtomicBool, so_far: &dyn Fn() -> (u64, u64)) {
        let is_terminal = std::io::stderr().is_terminal();
        let every = if is_terminal { BAR_EVERY } else { LINE_EVERY };
        let mut due = self.begin + every;
        while !is_done.load(Ordering::Relaxed) {
            let now = Instant::now();
            if now < due {
                thread::park_timeout(due - now);
                continue;
            }
            due = now + every;
            let (n_seeds, n_violations) = so_far();
            let line = self.line(n_seeds, n_violations);
            say(&if is_terminal {
                format!("\r{} {line}\x1b[K", self.bar(n_seeds))
            } else {
                line + "\n"
            });
        }
        if is_terminal {
            say("\r\x1b[K");
        }
    }

    fn bar(&self, n_seeds: u64) -> String {
        const WIDTH: u64 = 30;
        let full = n_seeds * WIDTH / self.plan.n_seeds.max(1);
        let place = |at| if at < full { '#' } else { '.' };
        format!("[{}]", (0..WIDTH).map(place).collect::<String>())
    }

    fn line(&self, n_seeds: u64, n_violations: u64) -> String {
        let took = self.begin.elapsed();
        let speed = speed(self.ticks.load(Ordering::Relaxed), took, self.plan.n_threads);
        let of = self.plan.n_seeds;
        let seconds = took.as_secs();
        format!(
            "{n_seeds} of {of} seeds, {speed}x real time, {n_violations} violations, {seconds} s"
        )
    }
}

/// Simulated seconds of a cluster per second of a thread.
fn speed(ticks: u64, took: Duration, n_threads: usize) -> u64 {
    let busy = took.as_micros().max(1) * n_threads.max(1) as u128;
    u64::try_from(u128::from(ticks) * TICK.as_micros() / busy).unwrap_or(u64::MAX)
}

/// Writes to standard error, where everything goes but the closing line.
pub fn say(text: &str) {
    // Nobody is left to tell when standard error is closed.
    std::io::stderr().lock().write_all(text.as_bytes()).ok();
}

impl Summary {
    fn take(&mut self, setup: &Setup, report: Report, result: Result<(), Violation>) {
        self.n_seeds += 1;
        self.ticks += report.ticks;
        self.ops += report.ops;
        self.coverage.merge(&report.coverage);
        // Of two that are as long the lower seed, whichever ended first.
        let ranked = |(ticks, seed)| (ticks, std::cmp::Reverse(seed));
        let recovery = report.recovery.map(|ticks| (ticks, setup.seed));
        self.longest_recovery =
            self.longest_recovery.into_iter().chain(recovery).max_by_key(|r| ranked(*r));
        if let Err(violation) = result {
            self.n_violations += 1;
            let (seed, n_members) = (setup.seed, setup.n_members);
            self.failures.push(Failure { n_members, seed, violation });
            self.failures.sort_by_key(|failure| failure.seed);
            self.failures.truncate(MAX_FAILURES);
        }
    }

    /// How much faster than real time a thread was.
    #[must_use]
    pub fn speed(&self) -> u64 {
        speed(self.ticks, self.took, self.n_threads)
    }

    /// What should have been exercised and was not.
    #[must_use]
    pub fn missing(&self) -> Vec<&'static str> {
        if self.n_seeds < COVERED_FROM {
            return Vec::new();
        }
        self.coverage.missing().map(crate::coverage::Kind::name).collect()
    }

    /// Whether everything is as it should be.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.n_violations == 0 && self.missing().is_empty() && self.n_seeds > 0
    }

    /// What happened, what failed, and how to see it again. For people.
    #[must_use]
    pub fn report(&self, replay: &dyn Fn(&Failure) -> String) -> String {
        let mut text = format!("what happened:\n{}", self.coverage);
        if let Some((ticks, seed)) = self.longest_recovery {
            text += &format!("\nlongest recovery: {ticks} ticks of {PATIENCE}, seed {seed}\n");
        }
        for failure in &self.failures {
            let Failure { seed, violation, .. } = failure;
            text += &format!("\nseed {seed}: {violation}\n  replay: {}\n", replay(failure));
        }
        let rest = self.n_violations - self.failures.len() as u64;
        if rest > 0 {
            text += &format!("\nand {rest} more\n");
        }
        for missing in self.missing() {
            text += &format!("\nnever exercised: {missing}\n");
        }
        if self.n_seeds < COVERED_FROM {
            text += &format!("\nfrom {COVERED_FROM} seeds on all of that must happen\n");
        }
        text
    }

    /// The last line.
    #[must_use]
    pub fn closing_line(&self) -> String {
        let Self { n_seeds, ticks, ops, n_violations, .. } = self;
        let speed = self.speed();
        format!(
            "simulated: {n_seeds} seeds, {ticks} ticks, {ops} operations, {speed}x real time, \
             {n_violations} violations"
        )
    }

    /// The same and more, for programs.
    #[must_use]
    pub fn to_json(&self, plan: &Plan) -> String {
        let failures: Vec<_> = (self.failures.iter())
            .map(|failure| {
                json!({ "seed": failure.seed, "rule": failure.violation.rule,
                "what": failure.violation.what })
            })
            .collect();
        json!({
            "line": self.closing_line(), "passed": self.passed(), "first_seed": plan.first_seed,
            "seeds": self.n_seeds, "ticks_per_seed": plan.setup.ticks, "ticks": self.ticks,
            "operations": self.ops, "speed": self.speed(), "violations": self.n_violations,
            "seconds": self.took.as_secs(), "threads": self.n_threads, "failures": failures,
            "missing": self.missing(), "coverage": self.coverage.by_name(),
        })
        .to_string()
    }
}

/// What a run of one seed is told with: with a trace.
#[must_use]
pub fn traced() -> Report {
    Report { trace: Trace::wanted(), ..Report::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coverage::Kind;

    fn plan(n_seeds: u64) -> Plan {
        let setup = Setup { ticks: 10, ..Setup::new(0) };
        let (first_seed, sizes) = (100, Sizes::Both);
        Plan { setup, first_seed, n_seeds, sizes, n_threads: 2, stops_early: false }
    }

    fn everything(_: &Setup, report: &mut Report) -> Result<(), Violation> {
        (report.ticks, report.ops) = (10, 3);
        Kind::ALL.iter().for_each(|kind| report.coverage.count(*kind));
        Ok(())
    }

    /// The line is read by programs, to the letter.
    #[test]
    fn the_closing_line_counts_everything() {
        let mut summary = run(&plan(60), &everything);
        assert!(summary.passed());
        summary.took = Duration::from_millis(3);
        assert_eq!(
            summary.closing_line(),
            "simulated: 60 seeds, 600 ticks, 180 operations, 1000x real time, 0 violations"
        );
    }

    /// A rule that is broken and a panic are violations, with the seed that shows them; the other
    /// seeds are run all the same.
    #[test]
    fn violations_and_panics_fail_a_campaign() {
        let simulate = |setup: &Setup, report: &mut Report| {
            everything(setup, report)?;
            match setup.seed {
                103 => Err(rules::ELECTION_SAFETY.broken("two".into())),
                107 => panic!("N1: {}", 5),
                _ => Ok(()),
            }
        };
        let summary = run(&plan(60), &simulate);
        assert!(!summary.passed());
        assert_eq!((summary.n_seeds, summary.n_violations), (60, 2));
        let seeds: Vec<_> = summary.failures.iter().map(|failure| failure.seed).collect();
        assert_eq!(seeds, [103, 107]);
        let report = summary.report(&|failure| format!("make simulate SEED={}", failure.seed));
        for part in ["election safety: two", "panicked: N1: 5", "make simulate SEED=107"] {
            assert!(report.contains(part), "{report}");
        }
        assert!(summary.closing_line().ends_with(" 2 violations"));
    }

    /// Whoever judges the bound on recovery sees how near a campaign came to it.
    #[test]
    fn the_longest_recovery_is_told() {
        let simulate = |setup: &Setup, report: &mut Report| {
            everything(setup, report)?;
            report.recovery = (setup.seed != 104).then_some(setup.seed % 7);
            Ok(())
        };
        let summary = run(&plan(10), &simulate);
        assert_eq!(summary.longest_recovery, Some((5, 103)));
        let told = summary.report(&|_| String::new());
        assert!(told.contains(&format!("longest recovery: 5 ticks of {PATIENCE}, seed 103")));
        assert_eq!(run(&plan(0), &simulate).longest_recovery, None);
    }

    /// Fifty seeds are enough for everything to happen, and fewer need not be.
    #[test]
    fn a_campaign_without_a_fault_fails() {
        let simulate = |setup: &Setup, report: &mut Report| {
            everything(setup, report)?;
            report.coverage = Coverage::default();
            Kind::ALL[1..].iter().for_each(|kind| report.coverage.count(*kind));
            Ok(())
        };
        assert!(run(&plan(49), &simulate).passed());
        let summary = run(&plan(50), &simulate);
        assert!(!summary.passed());
        assert_eq!(summary.missing(), [Kind::ALL[0].name()]);
        assert!(summary.report(&|_| String::new()).contains(Kind::ALL[0].name()));
    }
}
