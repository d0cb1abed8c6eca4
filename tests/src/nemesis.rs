//! What can go wrong between and with members, one thing after the other, in a random order.

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use crate::cluster::Cluster;
use crate::proxy::Path;
use crate::rng::Rng;

/// Silence after which the members ask to be elected, as [`MEMBER_FLAGS`] has it. Most faults last
/// longer: an election falls into them.
const ELECTION_TIMEOUT: Duration = Duration::from_millis(500);
/// The flags for members that this happens to. Snapshots are frequent, so that a member that
/// starts again begins with one.
pub const MEMBER_FLAGS: [&str; 6] =
    ["--heartbeat-interval", "50ms", "--election-timeout", "500ms", "--snapshot-count", "1000"];

/// Between the end of a fault and the next one.
const CALM: Duration = Duration::from_millis(350);
/// How long somebody may take to lead before a fault takes whoever comes.
const LEADER_WITHIN: Duration = Duration::from_secs(3);

/// Whom a fault hits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Leader,
    Follower,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// SIGKILL, and a new start.
    Kill(Victim),
    /// SIGSTOP, and SIGCONT.
    Freeze(Victim),
    /// Nothing passes from or to it.
    Isolate(Victim, Path),
    /// It is not heard.
    Mute(Victim, Path),
    /// It hears nothing.
    Deafen(Victim, Path),
    /// The leader and one other do not reach each other.
    Part(Path),
    /// The leader is cut off and frozen: what it has promised it does long after.
    IsolateAndFreeze,
}

/// A run begins with these, so that a short one on a busy machine has one of each kind.
const FIRST_FAULTS: [Fault; 3] = [
    Fault::Kill(Victim::Leader),
    Fault::Freeze(Victim::Leader),
    Fault::Isolate(Victim::Leader, Path::Swallowed),
];

/// What follows, all of it before anything comes a second time.
const FAULTS: [Fault; 14] = [
    Fault::Kill(Victim::Leader),
    Fault::Kill(Victim::Follower),
    Fault::Freeze(Victim::Leader),
    Fault::Freeze(Victim::Leader),
    Fault::Freeze(Victim::Follower),
    Fault::Isolate(Victim::Leader, Path::Held),
    Fault::Isolate(Victim::Leader, Path::Swallowed),
    Fault::Isolate(Victim::Leader, Path::Reset),
    Fault::Isolate(Victim::Follower, Path::Held),
    Fault::Mute(Victim::Leader, Path::Swallowed),
    Fault::Deafen(Victim::Leader, Path::Held),
    Fault::Mute(Victim::Follower, Path::Held),
    Fault::Part(Path::Swallowed),
    Fault::IsolateAndFreeze,
];

/// What was done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Done {
    /// Members killed.
    pub n_kills: usize,
    /// Members frozen.
    pub n_freezes: usize,
    /// Members cut off, wholly or in part.
    pub n_cuts: usize,
    /// How many of all those led.
    pub n_leaders: usize,
}

/// Lets things go wrong for so long; nothing is wrong afterwards, and every member is ready.
///
/// # Panics
///
/// When a member ends by itself or does not recover; the members are shown.
pub fn run(cluster: &mut Cluster, length: Duration, rng: &mut Rng) -> Done {
    let end = Instant::now() + length;
    let mut done = Done::default();
    let mut faults = shuffled(&FIRST_FAULTS, rng);
    wait(CALM);
    while Instant::now() < end {
        if faults.is_empty() {
            faults = shuffled(&FAULTS, rng);
        }
        let fault = faults.pop().expect("it was filled");
        // Between 0.4 and 2 election timeouts.
        let lasts = ELECTION_TIMEOUT.mul_f64(0.4 + rng.below(17) as f64 / 10.0);
        inflict(cluster, fault, lasts, rng, &mut done);
        wait(CALM);
        (0..cluster.n_members()).for_each(|member| cluster.assert_running(member));
    }
    cluster.network().heal();
    cluster.wait_all_ready();
    done
}

fn shuffled(faults: &[Fault], rng: &mut Rng) -> Vec<Fault> {
    let mut faults = faults.to_vec();
    for last in (1..faults.len()).rev() {
        faults.swap(last, rng.below(last as u64 + 1) as usize);
    }
    faults
}

fn inflict(cluster: &mut Cluster, fault: Fault, lasts: Duration, rng: &mut Rng, done: &mut Done) {
    let leader = wait_leader(cluster);
    let n = cluster.n_members();
    let pick = |victim: Victim, rng: &mut Rng| {
        let any = rng.below(n as u64) as usize;
        match (victim, leader) {
            (Victim::Leader, Some(leader)) => leader,
            (Victim::Follower, Some(leader)) if any == leader => (any + 1) % n,
            _ => any,
        }
    };
    let victim = match fault {
        Fault::Kill(victim) | Fault::Freeze(victim) => pick(victim, rng),
        Fault::Isolate(victim, _) | Fault::Mute(victim, _) | Fault::Deafen(victim, _) => {
            pick(victim, rng)
        }
        Fault::Part(_) | Fault::IsolateAndFreeze => pick(Victim::Leader, rng),
    };
    let others: Vec<_> = (0..n).filter(|other| *other != victim).collect();
    done.n_leaders += usize::from(leader == Some(victim));
    match fault {
        Fault::Kill(_) => {
            done.n_kills += 1;
            cluster.kill(victim);
            wait(lasts);
            cluster.restart(victim);
            cluster.wait_ready(victim);
            return;
        }
        Fault::Freeze(_) => {
            done.n_freezes += 1;
            cluster.freeze(victim);
            // A leader sleeps through an election at least.
            wait(lasts + ELECTION_TIMEOUT);
            cluster.thaw(victim);
            return;
        }
        Fault::Isolate(_, path) => cluster.network().isolate(victim, path),
        Fault::Mute(_, path) => {
            others.iter().for_each(|&other| cluster.network().set(victim, other, path));
        }
        Fault::Deafen(_, path) => {
            others.iter().for_each(|&other| cluster.network().set(other, victim, path));
        }
        Fault::Part(path) => {
            let other = others[rng.below(others.len() as u64) as usize];
            cluster.network().set(victim, other, path);
            cluster.network().set(other, victim, path);
        }
        Fault::IsolateAndFreeze => {
            done.n_freezes += 1;
            cluster.network().isolate(victim, Path::Held);
            // Long enough for clients to leave it something to do.
            wait(ELECTION_TIMEOUT / 10);
            cluster.freeze(victim);
        }
    }
    done.n_cuts += 1;
    wait(lasts + ELECTION_TIMEOUT);
    if fault == Fault::IsolateAndFreeze {
        // It wakes up into a network that has what it had to say and to hear.
        cluster.network().heal();
        cluster.thaw(victim);
    }
    cluster.network().heal();
}

fn wait_leader(cluster: &Cluster) -> Option<usize> {
    let deadline = Instant::now() + LEADER_WITHIN;
    loop {
        match cluster.leader() {
            None if Instant::now() < deadline => wait(Duration::from_millis(20)),
            leader => return leader,
        }
    }
}

/// Nobody sends: waiting for a message is how this thread keeps to its schedule.
fn wait(time: Duration) {
    let (_never, pause) = channel::<()>();
    assert_eq!(pause.recv_timeout(time), Err(RecvTimeoutError::Timeout));
}
