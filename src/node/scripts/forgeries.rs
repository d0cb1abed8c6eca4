//! Arbitrary messages before whole members: the wall, raft and the log behind it.
//!
//! Three members run; what is on its way between them is delivered, lost, and told again with its
//! fields changed, as a peer that is broken or lies would. Members that lie can break what a
//! cluster promises. What a member promises about itself they cannot: it does not panic, it ends
//! only with an error that names a loss, and its term, vote, commit index and applied commands
//! never go back.

use std::collections::BTreeMap;

use fuzz::Rng;
use raft::eraftpb::{Entry, EntryType, HardState};

use super::*;

/// Where fields get their values: small, like the ones there are, near the ends of their types.
fn number(rng: &mut Rng, near: u64) -> u64 {
    match rng.below(6) {
        0 => rng.below(4),
        1 => near.saturating_sub(rng.below(4)),
        2 | 3 => near.saturating_add(rng.below(4)),
        4 => (1 << 62) + rng.below(3) - 1,
        _ => rng.number(),
    }
}

fn entry(rng: &mut Rng, index: u64, term: u64) -> Entry {
    let mut entry = Entry { data: rng.bytes(40).into(), ..Entry::default() };
    entry.index = if rng.chance(1, 6) { number(rng, index) } else { index };
    entry.term = if rng.chance(1, 6) { number(rng, term) } else { term };
    if rng.chance(1, 8) {
        let kinds = [EntryType::EntryConfChange, EntryType::EntryConfChangeV2];
        entry.set_entry_type(*rng.pick(&kinds));
    }
    if rng.chance(1, 8) {
        entry.context = rng.bytes(30).into();
    }
    entry
}

/// Changes some of a message's fields.
fn forge(rng: &mut Rng, message: &mut Message) {
    use MessageType::*;
    let kinds = [
        MsgHup,
        MsgBeat,
        MsgPropose,
        MsgAppend,
        MsgAppendResponse,
        MsgRequestVote,
        MsgRequestVoteResponse,
        MsgHeartbeat,
        MsgHeartbeatResponse,
        MsgUnreachable,
        MsgSnapStatus,
        MsgCheckQuorum,
        MsgTransferLeader,
        MsgTimeoutNow,
        MsgReadIndex,
        MsgReadIndexResp,
        MsgRequestPreVote,
        MsgRequestPreVoteResponse,
    ];
    for _ in 0..=rng.below(4) {
        match rng.below(14) {
            0 => message.set_msg_type(*rng.pick(&kinds)),
            1 => message.term = number(rng, message.term),
            2 => message.log_term = number(rng, message.log_term),
            3 => message.index = number(rng, message.index),
            4 => {
                message.commit =
                    number(rng, message.index.saturating_add(message.entries.len() as u64))
            }
            5 => message.commit_term = number(rng, message.term),
            6 => message.reject = !message.reject,
            7 => message.reject_hint = number(rng, message.index),
            8 => message.request_snapshot = number(rng, message.index),
            9 => message.context = rng.bytes(70).into(),
            10 => message.from = rng.below(5),
            11 => message.to = rng.below(5),
            12 => {
                let (index, term) = (message.index.wrapping_add(1), message.term);
                let n = rng.below(4);
                let entries: Vec<_> =
                    (0..n).map(|i| entry(rng, index.wrapping_add(i), term)).collect();
                message.set_entries(entries.into());
            }
            _ => {
                if let Some(entry) = message.mut_entries().iter_mut().next() {
                    entry.index = number(rng, entry.index);
                }
            }
        }
    }
}

/// What a member has promised so far.
#[derive(Default)]
struct Kept {
    hard: HardState,
    log: BTreeMap<u64, Bytes>,
}

impl Kept {
    fn check(&mut self, member: &Member) {
        let hard = member.core.hard_state().clone();
        assert!(hard.term >= self.hard.term, "the term fell");
        assert!(hard.commit >= self.hard.commit, "the commit index fell");
        let is_new = hard.term > self.hard.term || self.hard.vote == 0;
        assert!(is_new || hard.vote == self.hard.vote, "voted twice in a term");
        self.hard = hard;
        for (index, data) in &self.log {
            assert_eq!(member.log.get(index), Some(data), "an applied command changed");
        }
        self.log.clone_from(&member.log);
    }
}

#[test]
fn fuzz_vet_and_step() {
    fuzz::run("vet_and_step", |rng| {
        let mut cluster = Cluster::new(&[1, 2, 3], rng.draw() >> 16);
        cluster.elect();
        let mut kept: BTreeMap<u64, Kept> = BTreeMap::new();
        for _ in 0..40 {
            let ids: Vec<u64> = cluster.members.keys().copied().collect();
            if ids.is_empty() {
                return;
            }
            let id = *rng.pick(&ids);
            match rng.below(8) {
                0 => drop(cluster.propose(id, vec![7; 1 + rng.at(20)])),
                1 => drop(cluster.read(id, Consistency::Linearizable)),
                2 => cluster.now += Duration::from_millis(10),
                _ => {}
            }
            let n_ticks = rng.below(30);
            for _ in 0..if rng.chance(1, 4) { n_ticks } else { 1 } {
                survive(&mut cluster, id, |cluster| cluster.turn(id, true));
            }
            for _ in 0..rng.below(12) {
                let Some((from, to, wire)) = cluster.network.pop_front() else { break };
                if let Wire::Frame(Frame::Raft(message)) = &wire
                    && cluster.members.contains_key(&to)
                    && rng.damage()
                {
                    let mut message = message.clone();
                    forge(rng, &mut message);
                    let frame = Frame::Raft(message);
                    let receive = |cluster: &mut Cluster| {
                        cluster.step(to, |core, _, send| core.receive(from, frame, send))
                    };
                    survive(&mut cluster, to, receive);
                }
                if !rng.chance(1, 8) {
                    survive(&mut cluster, to, |cluster| cluster.deliver(from, to, wire));
                }
            }
            for (id, member) in &cluster.members {
                kept.entry(*id).or_default().check(member);
            }
        }
    });
}

/// Lets something happen to a member, which may end it, but only by naming a loss.
fn survive(cluster: &mut Cluster, id: u64, event: impl FnOnce(&mut Cluster) -> Result<(), Error>) {
    if !cluster.members.contains_key(&id) {
        return;
    }
    match event(cluster) {
        Ok(()) => {}
        Err(Error::LostData(_) | Error::ClusterLost(_)) => {
            cluster.members.remove(&id);
        }
        Err(error) => panic!("ended by {error:?}"),
    }
}

/// A command is forwarded in the name of whoever sends it: another's would be answered to somebody who
/// never proposed it.
#[test]
fn a_forward_in_anothers_name_is_dropped() {
    let mut cluster = Cluster::new(&[1, 2, 3], 1);
    let leader = cluster.elect();
    cluster.ticks(20);
    let origin = cluster.follower();
    let forger = (1..=3).find(|id| ![leader, origin].contains(id)).unwrap();
    let pending = cluster.propose(origin, "x");
    cluster.turn(origin, false).unwrap();
    let Some((_, _, Wire::Frame(forward))) = cluster.network.pop_front() else { panic!("a frame") };
    assert!(matches!(forward, Frame::Forward { .. }));
    cluster.deliver(forger, leader, Wire::Frame(forward.clone())).unwrap();
    cluster.settle();
    assert!(cluster.member(leader).log.is_empty(), "it was taken from another");
    cluster.deliver(origin, leader, Wire::Frame(forward)).unwrap();
    cluster.settle();
    applied(pending);
}
