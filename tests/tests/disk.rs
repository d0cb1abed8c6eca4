//! Disks that fail, are slow or full, under real members: each failure ends in the exit code that
//! is documented or in a 503, and nothing that was acknowledged is missing afterwards.

use std::convert::Infallible;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::sync::mpsc::{self, TryRecvError};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tests::binary;
use tests::cluster::{Cluster, Plan, READY_TIMEOUT, id};
use tests::http::Client;
use tests::load::{Load, Outcome, assert_kept, count};
use tests::mounts;
use tests::nemesis::SmallDisk;
use tests::rng::Rng;

const SEED: &str = "DISK_SEED";
const DISK: i32 = 4;
const EIO: &str = "(os error 5)";
const ENOSPC: &str = "(os error 28)";

/// How soon the others go on without a member whose disk has failed.
const GO_ON: Duration = Duration::from_secs(10);
/// In a segment of 64 KiB a batch of small writes takes 512 bytes at least.
const FLAGS: [&str; 4] = ["--wal-segment-bytes", "64KiB", "--snapshot-count", "150"];

fn plan(flags: &[&str]) -> Plan {
    let flags = FLAGS.iter().chain(flags).map(|&flag| flag.to_owned()).collect();
    Plan { flags, is_faulty: true, ..Plan::default() }
}

/// What fails once, and what the member says of it.
struct Case {
    rule: &'static str,
    said: [&'static str; 3],
}

/// In a batch.
const BATCHES: [Case; 4] = [
    Case { rule: "sync:.wal:1=EIO", said: ["sync ", ".wal: ", EIO] },
    Case { rule: "sync:.wal:1=EIO,reverted", said: ["sync ", ".wal: ", EIO] },
    Case { rule: "write:.wal:2=EIO", said: ["write ", ".wal: ", EIO] },
    Case { rule: "write:.wal:1..=ENOSPC", said: ["write ", ".wal: ", ENOSPC] },
];

/// At the change to another segment, and in a snapshot.
const OTHERS: [Case; 5] = [
    Case { rule: "allocate:wal:1..=ENOSPC", said: ["allocate ", ".wal.tmp: ", ENOSPC] },
    Case { rule: "sync:.wal.tmp:1..=EIO", said: ["sync ", ".wal.tmp: ", EIO] },
    Case { rule: "sync:snap:1=EIO", said: ["sync ", ".tmp: ", EIO] },
    Case { rule: "rename:snap:1=EIO", said: ["rename ", ".tmp: ", EIO] },
    Case { rule: "syncdir:snap:1=EIO", said: ["sync ", "/snap: ", EIO] },
];

/// Three members under load, and the file that lets their disks fail.
struct Trial {
    cluster: Cluster,
    load: Load,
    directory: TempDir,
    n_begun: usize,
}

impl Trial {
    fn start() -> Self {
        let cluster = Cluster::start_as(3, &plan(&[]));
        let seed = Rng::seed_from_env(SEED);
        say(&format!("{SEED}={seed}"));
        let addresses = (0..3).map(|member| cluster.address(member)).collect();
        let load = Load::start(4, addresses, &mut Rng::new(seed));
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        Self { cluster, load, directory, n_begun: 0 }
    }

    /// Starts a member whose disk fails as a rule says from the moment that this returns.
    fn fail(&mut self, member: usize, rule: &str, leads: bool) {
        self.n_begun += 1;
        let begin = self.directory.path().join(self.n_begun.to_string());
        self.cluster.set_faults(member, &format!("after:{}; {rule}", begin.display()));
        if self.cluster.running().contains(&member) {
            self.cluster.kill(member);
        }
        self.cluster.restart(member);
        self.cluster.wait_ready(member);
        if leads {
            self.lead(member);
        }
        fs::write(begin, "").expect("the file can be written");
    }

    fn lead(&self, member: usize) {
        let path = format!("/_leader?to={}", id(member));
        self.cluster.eventually("it is made the leader", READY_TIMEOUT, || {
            let answer = self.cluster.ask(member, "POST", &path, "");
            if answer.status == 204 { Ok(()) } else { Err(answer.text()) }
        });
    }

    /// Waits until the cluster has acknowledged some more.
    fn assert_goes_on(&self, what: &str) {
        let before = self.load.n_acknowledged();
        let enough = || match self.load.n_acknowledged() - before {
            n if n >= 50 => Ok(()),
            n => Err(format!("only {n} writes were acknowledged")),
        };
        self.cluster.eventually(what, GO_ON, enough);
    }

    /// Everybody crashes and starts on a good disk: what was acknowledged is on every member.
    fn end(mut self) {
        let writes = self.load.stop();
        self.cluster.kill_all();
        (0..3).for_each(|member| self.cluster.set_faults(member, ""));
        self.cluster.restart_all();
        let addresses: Vec<_> = (0..3).map(|member| self.cluster.address(member)).collect();
        assert_kept(&addresses, &writes);
        let n_acknowledged = count(&writes, Outcome::Acknowledged);
        let (n_refused, n_unknown) =
            (count(&writes, Outcome::Refused), count(&writes, Outcome::Unknown));
        say(&format!("{n_acknowledged} acknowledged, {n_refused} refused, {n_unknown} unknown"));
    }
}

/// One failure after the other ends the same member, which comes back each time.
fn fail_in_turn(member: usize, cases: &[(&Case, bool)]) {
    let mut trial = Trial::start();
    for (Case { rule, said }, leads) in cases {
        let begun = Instant::now();
        trial.fail(member, rule, *leads);
        let status = trial.cluster.wait_exit(member, READY_TIMEOUT);
        let text = trial.cluster.said(member);
        let last = text.lines().last().unwrap_or_default();
        assert_eq!(status.code(), Some(DISK), "{rule}: {text}");
        assert!(said.iter().all(|said| last.contains(said)), "{rule}: {last}");
        trial.assert_goes_on(&format!("the others go on after {rule}"));
        say(&format!("{rule}{}: {:?}", if *leads { ", leader" } else { "" }, begun.elapsed()));
    }
    trial.end();
}

/// A disk that fails ends the leader, which says where it failed; the others go on.
#[test]
fn a_leader_whose_disk_fails_ends_and_loses_nothing() {
    let cases: Vec<_> = BATCHES.iter().chain(&OTHERS[..2]).map(|case| (case, true)).collect();
    fail_in_turn(0, &cases);
}

/// So it does a follower.
#[test]
fn a_follower_whose_disk_fails_ends_and_loses_nothing() {
    let cases: Vec<_> = BATCHES[..2].iter().chain(&OTHERS).map(|case| (case, false)).collect();
    fail_in_turn(1, &cases);
}

/// What is no failure: writes that are cut short are completed, and a snapshot for which there is
/// no room is given up. The member goes on.
#[test]
fn short_writes_and_snapshots_without_room_are_survived() {
    let mut trial = Trial::start();
    trial.fail(0, "write:*:1..=short", true);
    trial.assert_goes_on("writes are completed");
    trial.cluster.assert_running(0);

    trial.fail(0, "write:snap:1..=ENOSPC", true);
    let answer = trial.cluster.ask(0, "POST", "/_snapshot", "");
    assert_eq!(answer.status, 503, "{}", answer.text());
    trial.assert_goes_on("it goes on without a snapshot");
    trial.cluster.assert_running(0);
    let said = trial.cluster.said(0);
    assert!(said.contains("no snapshot") && said.contains(ENOSPC), "{said}");
    trial.end();
}

/// A disk that hangs silences the leader, whose clock waits for its disk: the others elect another,
/// and it follows once its disk is back. It does not end.
#[test]
fn a_leader_whose_disk_hangs_is_replaced_and_comes_back() {
    hang("sync:.wal:1=slow:5s");
}

/// So it does when its disk was slow before, so that another thread syncs and the loop goes on for a
/// moment. Found by review: as long as anybody read, the reads' rounds were heartbeats enough to keep
/// such a leader, and nobody could write.
#[test]
fn a_leader_whose_slow_disk_hangs_is_replaced_although_many_read() {
    hang("sync:.wal:50=slow:5s; sync:.wal:1..=slow:3ms");
}

/// Lets a leader's disk hang, while there are reads on the others.
fn hang(rule: &str) {
    let mut trial = Trial::start();
    trial.fail(2, rule, true);
    // Dropped at the end, whatever that is like.
    let (_going_on, ends) = mpsc::channel::<Infallible>();
    let mut readers = [0, 1].map(|member| Client::new(trial.cluster.address(member)));
    thread::spawn(move || {
        while ends.try_recv() == Err(TryRecvError::Empty) {
            for reader in &mut readers {
                // Whether it is answered is not what this is about.
                reader.get("/meanwhile").ok();
            }
        }
    });
    let others_lead = || {
        let leads = |member: &usize| {
            trial.cluster.status(*member).is_ok_and(|status| status["role"] == "leader")
        };
        [0, 1].iter().find(|member| leads(member)).ok_or_else(|| "nobody else leads".to_owned())
    };
    let begun = Instant::now();
    let new = *trial.cluster.eventually("another leads", Duration::from_secs(4), others_lead);
    say(&format!("another leads after {:?} of 5 s", begun.elapsed()));
    let put = trial.cluster.ask(new, "PUT", "/meanwhile", "written");
    assert_eq!(put.status, 204, "{}", put.text());
    trial.cluster.eventually("it follows", READY_TIMEOUT, || {
        let status = trial.cluster.status(2)?;
        if status["role"] == "follower" { Ok(()) } else { Err(status.to_string()) }
    });
    trial.cluster.assert_running(2);
    let read = trial.cluster.ask(2, "GET", "/meanwhile", "");
    assert_eq!((read.status, read.text()), (200, "written".to_owned()));
    trial.assert_goes_on("all three go on");
    trial.end();
}

/// The switch is nowhere but in the binary that is built for it, and refuses what it does not know.
#[test]
fn faults_are_nowhere_but_in_their_binary() {
    let run = |binary: &Path, script: &str| {
        let mut command = Command::new(binary);
        let output = command.arg("--print-config").env("RAFTEXAMPLE_FAULTS", script).output();
        let output = output.expect("the binary runs");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let holds = |binary: &Path| {
        let bytes = fs::read(binary).expect("the binary can be read");
        let name = b"RAFTEXAMPLE_FAULTS";
        bytes.windows(name.len()).any(|window| window == name)
    };
    assert_eq!(run(binary::with_faults(), "sync:wal:1=EIO"), (Some(0), String::new()));
    let (code, said) = run(binary::with_faults(), "sync:wal=EIO");
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("operation:place:nth=what"), "{said}");
    assert_eq!(run(binary::raftexample(), "sync:wal=EIO"), (Some(0), String::new()));
    assert!(holds(binary::with_faults()) && !holds(binary::raftexample()));
}

/// Below `--min-free-bytes` a member refuses writes, also those of others when it leads; everything
/// else goes on, and so do writes once there is room, without anybody's help.
#[test]
fn writes_are_refused_before_the_disk_is_full() {
    let Some(disk) = mount("writes_are_refused_before_the_disk_is_full", 64) else { return };
    let flags = ["--min-free-bytes", "32MiB", "--request-timeout", "2s"];
    let mut cluster = Cluster::place_as(3, &plan(&flags));
    cluster.set_disk(0, disk.path().to_owned());
    cluster.restart_all();
    let lead = || {
        let answer = cluster.ask(0, "POST", "/_leader?to=1", "");
        if answer.status == 204 { Ok(()) } else { Err(answer.text()) }
    };
    cluster.eventually("it is made the leader", READY_TIMEOUT, lead);
    let put = |member| {
        let answer = cluster.ask(member, "PUT", "/key", "value");
        (answer.status, answer.text())
    };
    assert_eq!(put(0).0, 204);
    let metric = |name| cluster.metric(0, name).expect("it is measured");
    assert_eq!(metric("raft_disk_low"), 0.0);

    let filler = disk.fill(20 << 20);
    let refused = || match put(0) {
        (503, text) => Ok(text),
        (status, text) => Err(format!("{status} {text}")),
    };
    let text = cluster.eventually("writes are refused", READY_TIMEOUT, refused);
    let expected = ["\"overloaded\"", "bytes free", "--min-free-bytes"];
    assert!(expected.iter().all(|expected| text.contains(expected)), "{text}");
    assert_eq!(metric("raft_disk_low"), 1.0);
    assert!(metric("raft_disk_free_bytes") < f64::from(32 << 20));
    let (status, text) = put(1);
    assert!(status == 503 && text.contains("\"overloaded\""), "{status} {text}");
    for member in 0..3 {
        let read = cluster.ask(member, "GET", "/key", "");
        assert_eq!((read.status, read.text()), (200, "value".to_owned()));
    }
    assert_eq!(cluster.ask(1, "POST", "/_snapshot", "").status, 200);
    assert_eq!(cluster.leader(), Some(0), "it does not lead any more");

    fs::remove_file(filler).expect("it can be removed");
    let taken = |member| {
        let taken = || match put(member) {
            (204, _) => Ok(()),
            (status, text) => Err(format!("{status} {text}")),
        };
        cluster.eventually("writes are taken again", READY_TIMEOUT, taken);
    };
    (0..3).for_each(taken);
    let said = cluster.said(0);
    for line in ["the disk is nearly full", "the disk has room again"] {
        assert_eq!(said.matches(line).count(), 1, "{said}");
    }
}

/// Without that bound the disk fills up and ends the member. Its only member: all that was ever
/// acknowledged must be on that disk, and is there when the disk has room again.
#[test]
fn a_full_disk_ends_a_member_and_loses_nothing() {
    let Some(disk) = mount("a_full_disk_ends_a_member_and_loses_nothing", 16) else { return };
    let mut cluster = Cluster::place_as(1, &plan(&["--min-free-bytes", "0"]));
    cluster.set_disk(0, disk.path().to_owned());
    cluster.restart_all();
    let filler = disk.fill(1 << 20);
    let value = vec![b'.'; 8 << 10];
    let mut client = cluster.client(0);
    let acknowledged = (0..10_000)
        .find(|number| {
            let answer = client.put(&format!("/{number}"), &value);
            !answer.is_ok_and(|answer| answer.status == 204)
        })
        .expect("the disk is full at some point");
    let status = cluster.wait_exit(0, READY_TIMEOUT);
    let said = cluster.said(0);
    assert_eq!(status.code(), Some(DISK), "{said}");
    assert!(said.lines().last().is_some_and(|last| last.contains(ENOSPC)), "{said}");

    fs::remove_file(filler).expect("it can be removed");
    cluster.restart_all();
    let mut client = cluster.client(0);
    let is_there = |number: &i32| is_there(&mut client, &format!("/{number}"), &value);
    let missing: Vec<_> = (0..acknowledged)
        .filter({
            let mut is_there = is_there;
            move |number| !is_there(number)
        })
        .collect();
    assert!(acknowledged > 10 && missing.is_empty(), "{acknowledged} written, {missing:?} missing");
    say(&format!("{acknowledged} writes of 8 KiB were acknowledged before the disk was full"));
}

fn is_there(client: &mut Client, path: &str, value: &[u8]) -> bool {
    client.get(path).is_ok_and(|answer| answer.status == 200 && answer.body == value)
}

/// Mounts a disk of so many MiB, in a process that has mounts of its own where that is possible:
/// there the test is run again, and nothing is left to do here. Where nothing may be mounted at
/// all, the test is skipped and says so.
fn mount(test: &str, mib: u64) -> Option<SmallDisk> {
    if mounts::has_run_again(test) {
        return None;
    }
    let skip = |why| say(&format!("SKIPPED: {test}: no tmpfs can be mounted: {why}"));
    SmallDisk::mount(mib).map_err(skip).ok()
}

/// Past the test harness's capture.
fn say(line: &str) {
    writeln!(std::io::stderr(), "disk: {line}").expect("standard error is open in a test");
}
