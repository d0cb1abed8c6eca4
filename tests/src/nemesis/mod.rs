//! What can go wrong between and with members, one thing after the other, in a random order.
//!
//! Nothing here keeps a cluster from working for good: a fault ends, and whoever it hit is back, or
//! replaced, before the next one begins. What does not come back in time panics.

mod changes;
mod disks;
mod kind;
mod small_disk;

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

pub use self::kind::{ALL, Deck, Done, Kind};
pub use self::small_disk::{MIN_FREE_BYTES, SmallDisk};
use crate::cluster::{Cluster, READY_TIMEOUT, id};
use crate::ledger::Archive;
use crate::progress::Progress;
use crate::proxy::Path;
use crate::recorder::{Recorder, Targets};
use crate::rng::Rng;

/// Silence after which the members ask to be elected, as [`MEMBER_FLAGS`] has it. Most faults last
/// longer: an election falls into them.
const ELECTION_TIMEOUT: Duration = Duration::from_millis(500);
/// The flags for members that this happens to.
pub const MEMBER_FLAGS: [&str; 4] = ["--heartbeat-interval", "50ms", "--election-timeout", "500ms"];

/// Between the end of a fault and the next one.
const CALM: Duration = Duration::from_millis(350);
/// How long somebody may take to lead before a fault takes whoever comes.
const LEADER_WITHIN: Duration = Duration::from_secs(3);
/// How soon a member ends that is asked to.
const ENDS_WITHIN: Duration = Duration::from_secs(10);
/// How often links are reset while they are.
const RESET_EVERY: Duration = Duration::from_millis(100);

/// Everything that faults happen to.
#[derive(Debug)]
pub struct Nemesis<'a> {
    /// The members, and the network between them.
    pub cluster: &'a mut Cluster,
    /// Who asks them.
    pub recorder: &'a Recorder,
    /// What keeps their logs.
    pub archive: &'a Archive,
    /// Who is a member now.
    pub active: Vec<usize>,
    /// Whether disks can be told to fail.
    pub is_faulty: bool,
    /// A disk that can be filled, and whose it is.
    pub small_disk: Option<(usize, SmallDisk)>,
    /// How the disk of each member fails when it is told to.
    pub sick: disks::Sick,
    /// What is chosen at random.
    pub rng: Rng,
    /// What was done.
    pub done: Done,
    /// The same, as lines to be read: when, and what.
    pub log: Vec<String>,
    /// Is told after each fault how far this is.
    pub progress: &'a Progress,
}

pub use self::disks::Sick;

impl Nemesis<'_> {
    /// Lets things go wrong for so long; nothing is wrong afterwards, and every member is ready.
    ///
    /// # Panics
    ///
    /// When a member ends by itself or does not recover.
    pub fn run(&mut self, deck: &mut Deck, length: Duration) {
        let begin = Instant::now();
        wait(CALM);
        while begin.elapsed() < length {
            let kind = deck.draw(|kind| self.is_possible(kind));
            let seconds = begin.elapsed().as_secs();
            let (n_ops, n_faults) = (self.recorder.n_begun(), self.done.total());
            self.progress
                .tell(&format!("{seconds:>3} s: {n_ops} operations, {n_faults} faults, {kind}"));
            self.log.push(format!("{:>7.2} s  {kind}", begin.elapsed().as_secs_f64()));
            self.inflict(kind);
            self.done.count(kind);
            wait(CALM);
            for member in self.active.clone() {
                self.cluster.assert_running(member);
            }
        }
        self.cluster.network().heal();
        self.active.iter().for_each(|&member| self.cluster.wait_ready(member));
        self.log.push(format!("{:>7.2} s  nothing any more", begin.elapsed().as_secs_f64()));
    }

    fn is_possible(&self, kind: Kind) -> bool {
        match kind {
            Kind::DiskFull => {
                self.small_disk.as_ref().is_some_and(|(member, _)| self.active.contains(member))
            }
            Kind::Minority => self.active.len() >= 5,
            kind => self.is_faulty || !kind.needs_faults(),
        }
    }

    fn inflict(&mut self, kind: Kind) {
        match kind {
            Kind::KillLeader => self.kill(true),
            Kind::KillFollower => self.kill(false),
            Kind::PowerCycle => self.power_cycle(),
            Kind::FreezeLeader => self.freeze(true),
            Kind::FreezeFollower => self.freeze(false),
            Kind::IsolateAndFreeze => self.isolate_and_freeze(),
            Kind::Restart => self.restart(),
            Kind::Transfer => self.transfer(),
            Kind::Delay => self.slow_links(),
            Kind::Reset => self.reset_links(),
            Kind::Hold => {
                let leads = self.coin();
                self.isolate(leads, Path::Held);
            }
            Kind::IsolateLeader => self.isolate(true, Path::Swallowed),
            Kind::IsolateFollower => self.isolate(false, Path::Swallowed),
            Kind::Minority => self.minority(),
            Kind::Mute => self.one_way(|victim, other| (victim, other)),
            Kind::Deafen => self.one_way(|victim, other| (other, victim)),
            Kind::Part => self.part(),
            Kind::HalfOpen => {
                let leads = self.coin();
                self.isolate(leads, Path::HalfOpen);
            }
            Kind::UntilSnapshot => self.until_snapshot(),
            Kind::DiskFails => self.disk_fails(),
            Kind::DiskSlow => self.disk_slow(),
            Kind::DiskFull => self.disk_full(),
            Kind::ReplaceFollower => self.replace(false),
            Kind::ReplaceLeader => self.replace(true),
            Kind::Wipe => self.wipe(),
            Kind::Demote => self.demote(),
        }
    }

    fn kill(&mut self, leads: bool) {
        let victim = self.pick(leads);
        self.cluster.kill(victim);
        wait(self.lasts());
        self.start(victim);
        self.cluster.wait_ready(victim);
    }

    fn power_cycle(&mut self) {
        let all = self.active.clone();
        all.iter().for_each(|&member| self.cluster.kill(member));
        wait(self.lasts() / 2);
        all.iter().for_each(|&member| self.start(member));
        all.iter().for_each(|&member| self.cluster.wait_ready(member));
    }

    fn freeze(&mut self, leads: bool) {
        let victim = self.pick(leads);
        self.cluster.freeze(victim);
        // A leader sleeps through an election at least.
        wait(self.lasts() + ELECTION_TIMEOUT);
        self.cluster.thaw(victim);
    }

    fn isolate_and_freeze(&mut self) {
        let victim = self.pick(true);
        self.cluster.network().isolate(victim, Path::Held);
        // Long enough for clients to leave it something to do.
        wait(ELECTION_TIMEOUT / 10);
        self.cluster.freeze(victim);
        wait(self.lasts() + ELECTION_TIMEOUT);
        // It wakes up into a network that has what it had to say and to hear.
        self.cluster.network().heal();
        self.cluster.thaw(victim);
    }

    fn restart(&mut self) {
        let leads = self.coin();
        let victim = self.pick(leads);
        let status = self.cluster.terminate(victim, ENDS_WITHIN);
        assert_eq!(status.code(), Some(0), "{}", self.cluster.said(victim));
        self.start(victim);
        self.cluster.wait_ready(victim);
    }

    fn transfer(&mut self) {
        let to = self.pick(false);
        let path = format!("/_leader?to={}", id(to));
        self.cluster.eventually("leadership is handed over", READY_TIMEOUT, || {
            let answer = self.cluster.client(to).request("POST", &path, &[], b"");
            let answer = answer.map_err(|failure| failure.to_string())?;
            if answer.status == 204 { Ok(()) } else { Err(answer.text()) }
        });
    }

    fn slow_links(&mut self) {
        for &member in &self.active {
            self.cluster.network().isolate(member, Path::Delayed);
        }
        wait(2 * self.lasts());
        self.cluster.network().heal();
    }

    fn reset_links(&mut self) {
        let leads = self.coin();
        let victim = self.pick(leads);
        let end = Instant::now() + self.lasts() + ELECTION_TIMEOUT;
        while Instant::now() < end {
            self.cluster.network().isolate(victim, Path::Reset);
            wait(RESET_EVERY / 2);
            self.cluster.network().heal();
            wait(RESET_EVERY);
        }
    }

    fn isolate(&mut self, leads: bool, path: Path) {
        let victim = self.pick(leads);
        self.cluster.network().isolate(victim, path);
        wait(self.lasts() + ELECTION_TIMEOUT);
        self.cluster.network().heal();
    }

    fn minority(&mut self) {
        let leader = self.pick(true);
        let mut others = self.others(leader);
        let with = others.swap_remove(self.rng.below(others.len() as u64) as usize);
        for side in [leader, with] {
            self.separate(side, &others, Path::Swallowed);
        }
        wait(2 * self.lasts() + ELECTION_TIMEOUT);
        self.cluster.network().heal();
    }

    fn one_way(&mut self, direction: impl Fn(usize, usize) -> (usize, usize)) {
        let leads = self.coin();
        let victim = self.pick(leads);
        let path = if self.coin() { Path::Held } else { Path::Swallowed };
        for other in self.others(victim) {
            let (from, to) = direction(victim, other);
            self.cluster.network().set(from, to, path);
        }
        wait(self.lasts() + ELECTION_TIMEOUT);
        self.cluster.network().heal();
    }

    fn part(&mut self) {
        let leader = self.pick(true);
        let others = self.others(leader);
        let other = others[self.rng.below(others.len() as u64) as usize];
        self.separate(leader, &[other], Path::Swallowed);
        wait(self.lasts() + ELECTION_TIMEOUT);
        self.cluster.network().heal();
    }

    fn separate(&self, one: usize, others: &[usize], path: Path) {
        for &other in others {
            self.cluster.network().set(one, other, path);
            self.cluster.network().set(other, one, path);
        }
    }

    /// A member whose log the others let go of comes back by a snapshot, or this panics.
    fn until_snapshot(&mut self) {
        let victim = self.pick(false);
        let others = self.others(victim);
        let installed = |cluster: &Cluster| {
            cluster.metric(victim, "raft_snapshot_installed_seconds_count").unwrap_or_default()
        };
        let before = installed(self.cluster);
        self.cluster.network().isolate(victim, Path::Swallowed);
        // What is on its way arrives; the victim's last index is what it is from now on.
        let last = self.cluster.metric(victim, "raft_last_index").expect("a member that runs");
        self.cluster.eventually("the others let go of the log", READY_TIMEOUT, || {
            for &other in &others {
                let first = self.cluster.metric(other, "raft_first_index")?;
                if first <= last + 1.0 {
                    return Err(format!("{first} is first at {}, {last} there", id(other)));
                }
            }
            Ok(())
        });
        self.cluster.network().heal();
        self.cluster.eventually("the snapshot is installed", READY_TIMEOUT, || {
            let now = installed(self.cluster);
            (now > before).then_some(()).ok_or_else(|| format!("{now} were, {before} before"))
        });
        self.cluster.wait_ready(victim);
    }

    /// Starts a member, on a disk that can fail if disks can.
    fn start(&mut self, member: usize) {
        self.prepare_disk(member);
        self.cluster.restart(member);
    }

    /// The leader, or somebody else; whoever comes when nobody leads.
    fn pick(&mut self, leads: bool) -> usize {
        let leader = self.wait_leader().filter(|leader| self.active.contains(leader));
        let any = self.rng.below(self.active.len() as u64) as usize;
        match leader {
            Some(leader) if leads => leader,
            Some(leader) if self.active[any] == leader => {
                self.active[(any + 1) % self.active.len()]
            }
            _ => self.active[any],
        }
    }

    fn others(&self, member: usize) -> Vec<usize> {
        self.active.iter().copied().filter(|other| *other != member).collect()
    }

    fn wait_leader(&self) -> Option<usize> {
        let deadline = Instant::now() + LEADER_WITHIN;
        loop {
            match self.cluster.leader() {
                None if Instant::now() < deadline => wait(Duration::from_millis(20)),
                leader => return leader,
            }
        }
    }

    /// Between 0.4 and 2 election timeouts.
    fn lasts(&mut self) -> Duration {
        ELECTION_TIMEOUT.mul_f64(0.4 + self.rng.below(17) as f64 / 10.0)
    }

    fn coin(&mut self) -> bool {
        self.rng.below(2) == 0
    }

    /// Those that clients ask from now on.
    fn retarget(&self) {
        self.recorder.retarget(targets(self.cluster, &self.active));
    }
}

/// Where these members are asked.
pub fn targets(cluster: &Cluster, members: &[usize]) -> Targets {
    members.iter().map(|&member| (member, cluster.address(member))).collect()
}

/// Nobody sends: waiting for a message is how this thread keeps to its schedule.
fn wait(time: Duration) {
    let (_never, pause) = channel::<()>();
    assert_eq!(pause.recv_timeout(time), Err(RecvTimeoutError::Timeout));
}
