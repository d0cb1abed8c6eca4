//! One run of clients against members to whom everything plain happens, and the checker's verdict
//! alone: what is left of a [round](crate::round) when the members may be broken on purpose.

use std::fmt;
use std::time::{Duration, Instant};

use crate::cluster::{Cluster, Plan};
use crate::ledger::Archive;
use crate::linearizability::{Verdict, check};
use crate::nemesis::{self, ALL, Deck, Done, Nemesis, Sick};
use crate::progress::Progress;
use crate::recorder::{self, Load, Recorder};
use crate::rng::Rng;
use crate::round::Tally;

const N_MEMBERS: usize = 3;
const LOAD: Load = Load { bound_per_member: 3, movers: 3, per_second: 500 };
/// What one key's search may take: a thousand times what it does.
const SEARCH_LIMIT: Duration = Duration::from_secs(30);
/// Snapshots are frequent, so that a member that starts again begins with one.
const MEMBER_FLAGS: [&str; 2] = ["--snapshot-count", "1000"];

/// What came of a trial.
#[derive(Debug)]
pub struct Trial {
    /// Whether the history can be explained.
    pub verdict: Verdict,
    /// What went wrong on purpose.
    pub done: Done,
    /// How many bytes the cuts lost.
    pub n_bytes_lost: u64,
    /// What the clients did.
    pub tally: Tally,
    /// How long the check took.
    pub checked_in: Duration,
}

/// Starts members, all of them with this defect if there is one, and lets clients and faults at
/// them for so long.
///
/// # Panics
///
/// When members do not start, end by themselves or do not recover.
pub fn run(length: Duration, defect: Option<&'static str>, seed: u64) -> Trial {
    let mut rng = Rng::new(seed);
    let flags = nemesis::MEMBER_FLAGS.iter().chain(&recorder::MEMBER_FLAGS).chain(&MEMBER_FLAGS);
    let flags = flags.map(|&flag| flag.to_owned()).collect();
    let mut cluster = Cluster::start_as(
        N_MEMBERS,
        &Plan { flags, is_networked: true, defect, ..Plan::default() },
    );
    let plain: Vec<_> = ALL.into_iter().filter(|kind| kind.is_plain()).collect();
    let mut deck = Deck::new(&plain, rng.draw());
    let active: Vec<_> = (0..N_MEMBERS).collect();
    let targets = nemesis::targets(&cluster, &active);
    let recorder = Recorder::start(targets.clone(), LOAD, &mut rng);
    let archive = Archive::start();
    let sick = Sick::new(cluster.directory());
    let mut nemesis = Nemesis {
        cluster: &mut cluster,
        recorder: &recorder,
        archive: &archive,
        active,
        is_faulty: false,
        small_disk: None,
        sick,
        rng,
        done: Done::default(),
        log: Vec::new(),
        progress: &Progress::untold(),
    };
    nemesis.run(&mut deck, length);
    let done = nemesis.done;
    let mut recording = recorder.stop();
    recording.read_all(&targets).expect("members answer although nothing is wrong");
    let n_bytes_lost = cluster.network().n_bytes_lost();
    drop(cluster);

    let begin = Instant::now();
    let history = recording.ops();
    let verdict = check(&history, SEARCH_LIMIT);
    let tally = Tally::of(&history);
    Trial { verdict, done, n_bytes_lost, tally, checked_in: begin.elapsed() }
}

impl fmt::Display for Trial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Trial { tally, done, n_bytes_lost, checked_in, .. } = self;
        let n_faults = done.total();
        write!(
            f,
            "{tally}; {n_faults} faults, {n_bytes_lost} bytes lost; checked in {checked_in:.1?}"
        )
    }
}
