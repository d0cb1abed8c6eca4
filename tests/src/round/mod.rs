//! One round of a campaign: clients and faults at one cluster, and everything that must hold
//! afterwards.
//!
//! - U1 Every member that should be there is back in time, and all of them agree to the byte about
//!   the store and the members as of one index.
//! - U2 What each member keeps on disk is sound, and committed entries are the same everywhere.
//! - U3 The log is what clients were told: an acknowledged write is in there once, where its
//!   answer says, a refused one is not. All of it is there to look at, or the round has failed.
//! - U4 Everything that clients were told, the reads as well, could have come from one copy of the
//!   store. Writes of unknown outcome are decided by the log first.

mod finale;
mod report;

use std::any::Any;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

pub use self::report::{Report, Tally};
use crate::cluster::{Cluster, Plan};
use crate::history::Op;
use crate::ledger::Archive;
use crate::linearizability::{Verdict, check, timeline};
use crate::nemesis::{self, Deck, Done, Nemesis, Sick, SmallDisk};
use crate::progress::Progress;
use crate::recorder::{self, Load, Recorder, Recording};
use crate::rng::Rng;

/// What one key's search may take: a thousand times what it does.
const SEARCH_LIMIT: Duration = Duration::from_secs(300);
/// The disk that is filled holds a minute's log.
const SMALL_DISK_MIB: u64 = 96;
/// Snapshots all the time, and hardly any log before them: who is away for seconds needs one.
const EAGER: [&str; 4] = ["--snapshot-count", "500", "--snapshot-catchup-entries", "100"];
/// Segments that a log lets go of within seconds. Only members whose disks can fail know the flag.
const SHORT_SEGMENTS: [&str; 2] = ["--wal-segment-bytes", "128KiB"];

/// What a round is to be.
#[derive(Debug, Clone, Copy)]
pub struct Setup {
    /// How many members there are.
    pub n_members: usize,
    /// How long faults happen.
    pub length: Duration,
    /// Who asks, and how fast.
    pub load: Load,
    /// Whether disks can be told to fail.
    pub is_faulty: bool,
    /// Whether one member has a disk that can be filled.
    pub has_small_disk: bool,
    /// What chooses victims, lengths and operations.
    pub seed: u64,
}

/// Runs one round; the faults come from the deck.
///
/// # Panics
///
/// When members cannot be started at all.
pub fn run(setup: &Setup, deck: &mut Deck, progress: &Progress) -> Report {
    let mut rng = Rng::new(setup.seed);
    let small_disk = setup
        .has_small_disk
        .then(|| SmallDisk::mount(SMALL_DISK_MIB).expect("it could be mounted before"))
        .map(|disk| (rng.below(setup.n_members as u64) as usize, disk));
    let mut cluster = Cluster::start_as(setup.n_members, &plan(setup, small_disk.as_ref()));
    let active: Vec<_> = (0..setup.n_members).collect();
    let archive = Archive::start();
    for &member in &active {
        archive.watch(crate::cluster::id(member), &cluster.data_dir(member));
    }
    let targets = nemesis::targets(&cluster, &active);
    let recorder = Recorder::start(targets, setup.load, &mut rng);
    let sick = Sick::new(cluster.directory());
    let mut nemesis = Nemesis {
        cluster: &mut cluster,
        recorder: &recorder,
        archive: &archive,
        active,
        is_faulty: setup.is_faulty,
        small_disk,
        sick,
        rng,
        done: Done::default(),
        log: Vec::new(),
        progress,
    };
    let begin = Instant::now();
    let faulted = attempt(|| nemesis.run(deck, setup.length));
    let lasted = begin.elapsed();
    // The disk is unmounted when all is over.
    let Nemesis { active, small_disk, done, log: faults, .. } = nemesis;
    let mut report = Report { done, faults, lasted, ..Report::default() };
    report.note(faulted);
    let Some(mut recording) = report.take(attempt(|| recorder.stop())) else {
        report.keep(&mut cluster, &[], small_disk.as_ref().map(|(_, disk)| disk.path()));
        return report;
    };
    report.n_under_faults = report::n_answered(&recording.history, lasted);
    report.n_bytes_lost = cluster.network().n_bytes_lost();
    if report.failures.is_empty() {
        let ended = attempt(|| finale::end(&mut cluster, &active, archive, &mut recording));
        let ended = ended.and_then(|ended| ended);
        (report.resolved, report.compared) = report.take(ended).unwrap_or_default();
    }
    judge(&mut report, &recording);
    if !report.failures.is_empty() {
        let disk = small_disk.as_ref().map(|(_, disk)| disk.path());
        report.keep(&mut cluster, &recording.ops(), disk);
    }
    report
}

fn plan(setup: &Setup, small_disk: Option<&(usize, SmallDisk)>) -> Plan {
    let flags = nemesis::MEMBER_FLAGS.iter().chain(&recorder::MEMBER_FLAGS).chain(&EAGER);
    let mut flags: Vec<_> = flags.map(|&flag| flag.to_owned()).collect();
    if setup.is_faulty {
        flags.extend(SHORT_SEGMENTS.map(str::to_owned));
    }
    let min_free = nemesis::MIN_FREE_BYTES.to_string();
    flags.extend(["--min-free-bytes".to_owned(), min_free]);
    let disks: BTreeMap<_, _> =
        small_disk.map(|(member, disk)| (*member, disk.path().to_owned())).into_iter().collect();
    let is_faulty = setup.is_faulty;
    Plan { flags, is_networked: true, is_faulty, disks, is_bound: true, ..Plan::default() }
}

fn judge(report: &mut Report, recording: &Recording) {
    let history: Vec<Op> = recording.ops();
    let begin = Instant::now();
    match check(&history, SEARCH_LIMIT) {
        Verdict::Linearizable => {}
        Verdict::Violation(violation) => {
            report.picture = Some(timeline::render(&violation, &history));
            report.failures.push(violation.to_string());
        }
        Verdict::TimedOut { key, n_ops } => {
            let text = format!("the {n_ops} operations on {key} could not be judged in time");
            report.failures.push(text);
        }
    }
    report.checked_in = begin.elapsed();
    report.tally = Tally::of(&history);
}

/// What a closure gives, or what it panicked with: a round that fails is looked into, not lost.
fn attempt<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(run)).map_err(|payload| said(&*payload))
}

fn said(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    text.or(payload.downcast_ref::<&str>().copied()).unwrap_or("a panic without words").to_owned()
}
