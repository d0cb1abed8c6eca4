//! Faults of disks. How a disk fails is said when its member starts; when it does is said later,
//! by a file that appears.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Nemesis, wait};
use crate::cluster::{Cluster, READY_TIMEOUT, id};

/// A member whose disk has failed ends with this.
const DISK: i32 = 4;

/// What ends a member.
const FAILURES: [&str; 5] = [
    "sync:.wal:1=EIO",
    "sync:.wal:1=EIO,reverted",
    "write:.wal:2=EIO",
    "write:.wal:1..=ENOSPC",
    "sync:.wal.tmp:1=EIO",
];
/// What only takes time.
const SLOWNESS: [&str; 3] =
    ["sync:.wal:1=slow:3s", "sync:.wal:1..=slow:100ms", "write:.wal:1=slow:2s"];
/// A failure comes with the next write or the next segment.
const FAILS_WITHIN: Duration = Duration::from_secs(30);
/// How long a disk is slow, or full.
const LASTS: Duration = Duration::from_millis(2_500);

/// How each member's disk will fail, and the files that have them do so.
#[derive(Debug)]
pub struct Sick {
    directory: PathBuf,
    n_starts: usize,
    members: BTreeMap<usize, Illness>,
}

#[derive(Debug, Clone)]
struct Illness {
    begin: PathBuf,
    fails: bool,
}

impl Sick {
    /// Nobody is; the files are to be in this directory.
    pub fn new(directory: &Path) -> Sick {
        Sick { directory: directory.to_owned(), n_starts: 0, members: BTreeMap::new() }
    }

    /// Has the disk of a member that is down fail from its next start on, as soon as it is told.
    pub fn prepare(&mut self, cluster: &mut Cluster, member: usize, fails: bool, choice: u64) {
        self.n_starts += 1;
        let begin = self.directory.join(format!("disk-{}-{}", id(member), self.n_starts));
        let rules = if fails { &FAILURES[..] } else { &SLOWNESS[..] };
        let rule = rules[choice as usize % rules.len()];
        cluster.set_faults(member, &format!("after:{}; {rule}", begin.display()));
        self.members.insert(member, Illness { begin, fails });
    }
}

impl Nemesis<'_> {
    /// Chooses how the disk of a member that is down will fail.
    pub(super) fn prepare_disk(&mut self, member: usize) {
        if self.is_faulty {
            let (fails, choice) = (self.coin(), self.rng.draw());
            self.sick.prepare(self.cluster, member, fails, choice);
        }
    }

    pub(super) fn disk_fails(&mut self) {
        let victim = self.ill(true);
        self.break_out(victim);
        let status = self.cluster.wait_exit(victim, FAILS_WITHIN);
        assert_eq!(status.code(), Some(DISK), "{}", self.cluster.said(victim));
        self.start(victim);
        self.cluster.wait_ready(victim);
    }

    pub(super) fn disk_slow(&mut self) {
        let victim = self.ill(false);
        self.break_out(victim);
        wait(LASTS);
        // One that stays slow gets another disk.
        self.cluster.kill(victim);
        self.start(victim);
        self.cluster.wait_ready(victim);
    }

    /// A disk without room ends its member, or the member refuses writes in time.
    pub(super) fn disk_full(&mut self) {
        let Some((member, disk)) = &self.small_disk else { return };
        let member = *member;
        let leave = if self.rng.below(2) == 0 { disk.low() } else { 0 };
        let filler = disk.fill(leave);
        wait(LASTS);
        fs::remove_file(filler).expect("the filler is ours");
        match self.cluster.ended(member) {
            Some(status) => {
                assert_eq!(status.code(), Some(DISK), "{}", self.cluster.said(member));
                self.start(member);
            }
            // It may be about to end, having found no room a moment ago; nothing tells that from
            // going on.
            None if leave == 0 => {
                self.cluster.kill(member);
                self.start(member);
            }
            None => {}
        }
        self.cluster.wait_ready(member);
    }

    /// A member whose disk will fail, or will be slow; the leader as often as not.
    fn ill(&mut self, fails: bool) -> usize {
        let leads = self.coin();
        let victim = self.pick(leads);
        let is = self.sick.members.get(&victim).is_some_and(|illness| illness.fails == fails);
        if is {
            return victim;
        }
        self.cluster.kill(victim);
        let choice = self.rng.draw();
        self.sick.prepare(self.cluster, victim, fails, choice);
        self.cluster.restart(victim);
        self.cluster.eventually("it is back", READY_TIMEOUT, || self.cluster.status(victim));
        self.cluster.wait_ready(victim);
        victim
    }

    fn break_out(&mut self, victim: usize) {
        let illness = self.sick.members.remove(&victim).expect("it was chosen for it");
        fs::write(illness.begin, "").expect("the file can be written");
    }
}
