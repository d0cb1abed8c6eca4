//! What a leader puts off, and for how long.

use super::super::core::PATIENCE;
use super::*;

/// A cluster in which no time passes that the script does not let pass.
fn cluster(seed: u64) -> (Cluster, u64) {
    let mut cluster = Cluster::new(&[1, 2, 3], seed);
    let leader = cluster.elect();
    cluster.ticks(20);
    cluster.is_hasty = false;
    (cluster, leader)
}

impl Cluster {
    fn last_index(&self, id: u64) -> u64 {
        self.members[&id].shared.status().last_index
    }

    fn commit_index(&self, id: u64) -> u64 {
        self.members[&id].shared.status().commit_index
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
    }

    /// How many entries each append on its way to a member carries.
    fn appends_to(&self, to: u64) -> Vec<usize> {
        let entries = |wire: &Wire| match wire {
            Wire::Frame(Frame::Raft(message)) => {
                let is_append = message.get_msg_type() == MessageType::MsgAppend;
                is_append.then(|| message.entries.len())
            }
            _ => None,
        };
        let to_it = self.network.iter().filter(|(_, addressee, _)| *addressee == to);
        to_it.filter_map(|(_, _, wire)| entries(wire)).collect()
    }
}

/// Whoever is alone waits for nobody; whoever comes while a batch is on its way goes with the next
/// one, which leaves as soon as the first is committed and tells so.
#[test]
fn proposals_gather_while_a_batch_is_on_its_way() {
    let (mut cluster, leader) = cluster(1);
    let (before, follower) = (cluster.last_index(leader), cluster.follower());
    let mut pending = vec![cluster.propose(leader, "alone")];
    cluster.turn(leader, false).unwrap();
    assert_eq!(cluster.last_index(leader), before + 1);
    assert_eq!(cluster.appends_to(follower), [1]);
    for n in 0..5 {
        pending.push(cluster.propose(leader, format!("{n}")));
        cluster.turn(leader, false).unwrap();
    }
    assert_eq!(cluster.last_index(leader), before + 1, "they do not wait for the batch");
    // From the follower to the leader comes what commits the first.
    while cluster.commit_index(leader) == before {
        let (from, to, wire) = cluster.network.pop_front().unwrap();
        cluster.deliver(from, to, wire).unwrap();
    }
    assert_eq!(cluster.last_index(leader), before + 6);
    assert_eq!(cluster.appends_to(follower), [5], "one append for all, and none for the commit");
    cluster.settle();
    assert_eq!(pending.into_iter().map(applied).max(), Some(before + 6));
    assert_eq!(cluster.commit_index(follower), before + 1);
}

/// A majority that is far away, or away altogether, does not make proposals wait for it.
#[test]
fn a_slow_majority_is_not_waited_for() {
    let (mut cluster, leader) = cluster(2);
    let before = cluster.last_index(leader);
    cluster.cut = (1..=3).filter(|id| *id != leader).collect();
    let _first = cluster.propose(leader, "first");
    cluster.turn(leader, false).unwrap();
    let _second = cluster.propose(leader, "second");
    cluster.pass(PATIENCE - Duration::from_micros(1));
    cluster.turn(leader, false).unwrap();
    assert_eq!(cluster.last_index(leader), before + 1);
    let due = cluster.member(leader).core.due();
    cluster.pass(Duration::from_micros(1));
    assert_eq!(due, Some(cluster.now), "the loop would not wake up for it");
    cluster.turn(leader, false).unwrap();
    assert_eq!(cluster.last_index(leader), before + 2);
}

/// Followers hear within a moment that something is committed, though nothing follows it; and with
/// nothing to tell nobody is woken.
#[test]
fn a_commit_is_told_within_a_moment() {
    let (mut cluster, leader) = cluster(3);
    let (before, follower) = (cluster.commit_index(leader), cluster.follower());
    assert_eq!(cluster.commit_index(follower), before);
    assert_eq!(cluster.member(leader).core.due(), None);
    let pending = cluster.propose(leader, "x");
    cluster.settle();
    applied(pending);
    assert_eq!(cluster.commit_index(follower), before, "told though it can wait");
    let due = cluster.member(leader).core.due();
    assert_eq!(due, Some(cluster.now + PATIENCE), "the loop would not wake up for it");
    cluster.pass(PATIENCE);
    cluster.settle();
    assert_eq!(cluster.commit_index(follower), before + 1);
    assert_eq!(cluster.member(leader).core.due(), None);
}

/// A follower's own client waits for its follower to hear: it does not wait for more.
#[test]
fn who_forwarded_is_told_at_once() {
    let (mut cluster, _) = cluster(4);
    let follower = cluster.follower();
    let pending = cluster.propose(follower, "x");
    cluster.settle();
    applied(pending);
}
