//! Every answer means one thing, on any member, under any fault.
//!
//! A short round of `make histories`: clients on all members read, write, swap and remove the same
//! few keys, while members are killed, stopped, cut off, replaced, and their disks fail. Whatever
//! the clients were told must be what one copy of the store could have told them, and what the
//! members' logs say.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tests::cluster::{Cluster, Plan, can_bind};
use tests::mounts;
use tests::nemesis::{ALL, Deck, Kind, SmallDisk};
use tests::progress::Progress;
use tests::recorder::Load;
use tests::rng::Rng;
use tests::round::{self, Setup};

const PREFIX: &str = "linearizability: ";
const SEED: &str = "LINEARIZABILITY_SEED";
/// Long enough for a few faults of each sort. `make histories` has them all.
const LENGTH: Duration = Duration::from_secs(12);
const LOAD: Load = Load { bound_per_member: 3, movers: 3, per_second: 500 };

/// What a second must hold at least, by a machine that is busy otherwise: a round in which nothing
/// happened has proved nothing.
const MIN_DECIDED: usize = 40;
const MIN_FAULTS: usize = 3;

/// The promise of the linearizable store.
#[test]
fn histories_under_faults_are_linearizable() {
    // A disk that is filled needs to be mounted, and must go with whoever ends this.
    if mounts::has_run_again("histories_under_faults_are_linearizable") {
        return;
    }
    let seed = Rng::seed_from_env(SEED);
    say(&format!("{SEED}={seed}"));
    let has_small_disk = match SmallDisk::mount(1) {
        Ok(_) => true,
        Err(why) => {
            say(&format!("SKIPPED: full disks: no tmpfs can be mounted: {why}"));
            false
        }
    };
    // Those that wait for a snapshot to become needed may take as long as all of this.
    let kinds: Vec<_> = ALL.into_iter().filter(|kind| *kind != Kind::UntilSnapshot).collect();
    let setup =
        Setup { n_members: 3, length: LENGTH, load: LOAD, is_faulty: true, has_small_disk, seed };
    let report = round::run(&setup, &mut Deck::new(&kinds, seed), &Progress::begin(PREFIX, LENGTH));
    report.faults.iter().for_each(|line| say(line));
    say(&report.to_string());
    assert!(report.failures.is_empty(), "{}", report.failures.join("\n"));
    assert!(report.tally.n_decided() >= MIN_DECIDED * LENGTH.as_secs() as usize, "{report}");
    assert!(report.tally.n_swaps > 0 && report.tally.n_removals > 0, "{report}");
    assert!(report.done.total() >= MIN_FAULTS && report.n_bytes_lost > 0, "{report}");
}

/// Set in the process that is killed while it has a member.
const DOOMED: &str = "LINEARIZABILITY_DOOMED";
const PID: &str = "pid of a member: ";
const ENDS_WITHIN: Duration = Duration::from_secs(10);

/// Whoever ends a round, however that is, ends its members, a frozen one as well.
#[test]
fn members_end_with_their_round() {
    if !can_bind() {
        say("SKIPPED: members_end_with_their_round: there is no setpriv");
        return;
    }
    if std::env::var_os(DOOMED).is_some() {
        let plan = Plan { is_faulty: true, is_bound: true, ..Plan::default() };
        let cluster = Cluster::start_as(1, &plan);
        cluster.freeze(0);
        writeln!(std::io::stdout(), "{PID}{}", cluster.pid(0).as_raw_nonzero())
            .expect("somebody listens");
        loop {
            std::thread::park();
        }
    }
    let mut doomed = Command::new(std::env::current_exe().expect("a test has a path"))
        .args(["members_end_with_their_round", "--exact", "--nocapture"])
        .env(DOOMED, "1")
        .stdout(Stdio::piped())
        .spawn()
        .expect("a test can be run again");
    let lines = BufReader::new(doomed.stdout.take().expect("it is piped")).lines();
    let told = lines.map_while(Result::ok).find_map(|line| {
        let (_, pid) = line.split_once(PID)?;
        pid.parse().ok()
    });
    doomed.kill().and_then(|()| doomed.wait()).expect("it is ours");
    let pid: i32 = told.expect("it tells of its member");
    let deadline = Instant::now() + ENDS_WITHIN;
    while is_alive(pid) {
        if Instant::now() > deadline {
            let member = Pid::from_raw(pid).expect("processes have numbers");
            kill_process(member, Signal::KILL).expect("it is ours");
            panic!("the member {pid} outlived who started it by {ENDS_WITHIN:?}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Whether there is a process of this number that has not ended.
fn is_alive(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // Nobody may have asked yet how it ended.
    stat.rsplit_once(") ").is_some_and(|(_, state)| !state.starts_with(['Z', 'X']))
}

/// Past the test harness's capture: the seed of a run that is killed must be in the output.
fn say(line: &str) {
    writeln!(std::io::stderr(), "{PREFIX}{line}").expect("standard error is open in a test");
}
