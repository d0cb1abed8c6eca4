//! Who leads: asked, confirmed, handed over, and what a new leader knows.

use super::*;
use crate::Stats;

fn transferred(pending: &mut Pending<Transferred>) -> Option<Result<u64, ChangeRefusalKind>> {
    pending.try_wait().map(|transferred| match transferred {
        Transferred::Done { leader_id, .. } => Ok(leader_id),
        Transferred::Refused(refusal) => Err(refusal.kind),
    })
}

/// A barrier is answered on any member once everything before it is applied there, and no
/// consumer ever sees it.
#[test]
fn a_barrier_is_answered_after_all_before_it() {
    let mut cluster = Cluster::new(&[1, 2, 3], 21);
    let leader = cluster.elect();
    let follower = cluster.follower();
    for id in [leader, follower] {
        cluster.member(id).consumes = false;
        let write = cluster.propose(leader, "w");
        let mut barrier = cluster.barrier(id);
        cluster.settle();
        assert_eq!(barrier.try_wait(), None, "the consumer has not applied it");
        cluster.member(id).consumes = true;
        cluster.settle();
        let Some(Outcome::Applied { index, response: (), .. }) = barrier.try_wait() else {
            panic!("not applied");
        };
        assert!(applied(write) < index && cluster.member(id).last_index >= index);
    }
    assert_eq!(cluster.member(leader).log.len(), 2, "a barrier reached the consumer");
}

/// A quorum's word: a leader that was cut off gets none, and whoever does not lead hears so at
/// once.
#[test]
fn only_a_leader_that_is_followed_is_verified() {
    let mut cluster = Cluster::new(&[1, 2, 3], 22);
    let leader = cluster.elect();
    let follower = cluster.follower();
    let mut leads = cluster.verify(leader);
    let mut follows = cluster.verify(follower);
    cluster.settle();
    let term = cluster.member(leader).shared.status().term;
    assert_eq!(leads.try_wait(), Some(Verified::Leads { term }));
    assert_eq!(follows.try_wait(), Some(Verified::Refused(Refusal::NotLeader)));

    cluster.cut.insert(leader);
    let mut cut_off = cluster.verify(leader);
    cluster.settle();
    assert_eq!(cut_off.try_wait(), None);
    assert!(cluster.member(leader).core.leads(), "it does not know yet");
    cluster.ticks(300);
    assert_eq!(cut_off.try_wait(), Some(Verified::Refused(Refusal::NotLeader)));
}

/// Leadership goes where it is asked to go, whoever was asked, and the member that was asked
/// knows it when it answers (T1).
#[test]
fn leadership_is_handed_to_whom_is_wanted() {
    for (seed, asks_leader, names) in [(23, true, true), (24, false, true), (25, false, false)] {
        let mut cluster = Cluster::new(&[1, 2, 3], seed);
        let leader = cluster.elect();
        cluster.ticks(20);
        let asked = if asks_leader { leader } else { cluster.follower() };
        let to = (1..=3).find(|id| *id != leader && *id != asked).unwrap();
        let mut pending = cluster.transfer(asked, Some(to).filter(|_| names));
        let mut answer = None;
        for _ in 0..50 {
            cluster.tick();
            answer = answer.or_else(|| transferred(&mut pending));
        }
        let Some(Ok(now)) = answer else { panic!("{answer:?}, seed {seed}") };
        assert!(now != leader && (!names || now == to), "{now} leads, seed {seed}");
        assert_eq!(cluster.leader(), Some(now));
        let mut again = cluster.transfer(asked, Some(now));
        cluster.settle();
        assert_eq!(transferred(&mut again), Some(Ok(now)), "it leads already");
    }
}

/// Each reason against a hand-over, with its kind.
#[test]
fn impossible_hand_overs_are_refused() {
    let mut cluster = Cluster::new(&[1, 2, 3], 26);
    let leader = cluster.elect();
    cluster.ticks(20);
    let follower = cluster.follower();
    let other = (1..=3).find(|id| *id != leader && *id != follower).unwrap();
    let add = Change::Add { id: 4, url: url(4), wants: MemberRole::Learner };
    assert!(matches!(cluster.changed(leader, add), Changed::Done { .. }));
    for asked in [leader, follower] {
        for (to, kind) in [(9, ChangeRefusalKind::NotFound), (4, ChangeRefusalKind::Conflict)] {
            let mut pending = cluster.transfer(asked, Some(to));
            cluster.settle();
            assert_eq!(transferred(&mut pending), Some(Err(kind)), "{asked} asked for {to}");
        }
    }
    // It is gone for longer than raft remembers it.
    cluster.cut.insert(other);
    cluster.ticks(250);
    let mut pending = cluster.transfer(leader, Some(other));
    cluster.settle();
    assert_eq!(transferred(&mut pending), Some(Err(ChangeRefusalKind::Failed)));

    assert!(matches!(cluster.changed(leader, Change::Remove { id: other }), Changed::Done { .. }));
    let mut pending = cluster.transfer(leader, Some(other));
    cluster.settle();
    assert_eq!(transferred(&mut pending), Some(Err(ChangeRefusalKind::Removed)));
}

/// Found by walking through: until the first change `/_stats` gave no index for the membership.
#[test]
fn the_membership_has_the_index_of_what_made_it() {
    let mut cluster = Cluster::new(&[1, 2, 3], 31);
    let leader = cluster.elect();
    let follower = cluster.follower();
    let configuration_index = |cluster: &mut Cluster, id| {
        let stats = Stats::of(&cluster.member(id).shared.status());
        stats.get("latest_configuration_index").unwrap().parse::<u64>().unwrap()
    };
    assert_eq!(configuration_index(&mut cluster, leader), 1, "its founding's");
    let add = Change::Add { id: 4, url: url(4), wants: MemberRole::Learner };
    let Changed::Done { index, .. } = cluster.changed(follower, add) else { panic!("not added") };
    cluster.ticks(20);
    for id in [leader, follower] {
        assert_eq!(configuration_index(&mut cluster, id), index);
    }
}

/// One that is asked to lead and never hears of it: the old leader goes on, proposals that came
/// meanwhile are applied, and the caller is told.
#[test]
fn a_hand_over_that_gets_lost_ends() {
    let mut cluster = Cluster::new(&[1, 2, 3], 27);
    let leader = cluster.elect();
    cluster.ticks(20);
    let mut pending = cluster.transfer(leader, None);
    cluster.turn(leader, false).unwrap();
    cluster.network.clear();
    let write = cluster.propose(leader, "meanwhile");
    cluster.ticks(150);
    assert_eq!(transferred(&mut pending), Some(Err(ChangeRefusalKind::Failed)));
    assert_eq!(cluster.leader(), Some(leader));
    applied(write);
}

/// Nobody leads: a hand-over waits, and its deadline says why it was not made.
#[test]
fn without_a_leader_a_hand_over_is_refused_at_its_deadline() {
    let mut cluster = Cluster::new(&[1, 2, 3], 28);
    cluster.cut.extend([1, 2, 3]);
    let mut pending = cluster.transfer(1, Some(2));
    cluster.ticks(501);
    assert_eq!(transferred(&mut pending), Some(Err(ChangeRefusalKind::NoLeader)));
}

/// A question that comes before the leader has committed in its term is not lost: raft would
/// drop it without a word, and the reader wait for half an election timeout. Nor does the leader
/// answer those who take its own word: it does not know yet what others were told.
#[test]
fn a_new_leader_keeps_questions_until_it_can_answer() {
    let mut cluster = Cluster::new(&[1, 2, 3], 29);
    let old = cluster.elect();
    cluster.write(old, 3);
    cluster.cut.insert(old);
    // Ticks one at a time until somebody leads and has not committed yet.
    let (new, other) = loop {
        cluster.now += Duration::from_millis(10);
        for id in 1..=3 {
            cluster.turn(id, true).unwrap();
        }
        while let Some((from, to, wire)) = cluster.network.pop_front() {
            cluster.deliver(from, to, wire).unwrap();
            if cluster.leader().is_some() {
                break;
            }
        }
        if let Some(new) = cluster.leader() {
            let other = (1..=3).find(|id| *id != old && *id != new).unwrap();
            break (new, other);
        }
    };
    // The other one hears of the leader, but its acknowledgement is on its way for a while.
    let mut late = VecDeque::new();
    let mut read = cluster.read(other, Consistency::Linearizable);
    let mut own = cluster.read(new, Consistency::Leader);
    for _ in 0..4 {
        cluster.turn(other, false).unwrap();
        cluster.turn(new, false).unwrap();
        while let Some((from, to, wire)) = cluster.network.pop_front() {
            let is_answer = matches!(&wire, Wire::Frame(Frame::Raft(m))
                if m.get_msg_type() == raft::eraftpb::MessageType::MsgAppendResponse);
            if is_answer {
                late.push_back((from, to, wire));
            } else {
                cluster.deliver(from, to, wire).unwrap();
            }
        }
    }
    assert_eq!((read.try_wait(), own.try_wait()), (None, None));
    cluster.network = late;
    cluster.settle();
    assert!(matches!(read.try_wait(), Some(Read::Ready { .. })), "no tick was needed");
    assert!(matches!(own.try_wait(), Some(Read::Ready { .. })));
}

/// A line that breaks takes the question with it: it is asked again at once, not when a timeout
/// says so.
#[test]
fn a_broken_line_to_the_leader_asks_again() {
    let mut cluster = Cluster::new(&[1, 2, 3], 30);
    let leader = cluster.elect();
    cluster.ticks(20);
    let follower = cluster.follower();
    let mut read = cluster.read(follower, Consistency::Linearizable);
    cluster.turn(follower, false).unwrap();
    cluster.network.clear();
    cluster.settle();
    assert_eq!(read.try_wait(), None, "the question is lost");
    cluster.member(follower).core.unreachable(leader);
    cluster.settle();
    assert!(matches!(read.try_wait(), Some(Read::Ready { .. })));
}

/// raft looks for its quorum once in an election timeout, and forgets then whom it has heard. A
/// hand-over that is asked for in that moment must not find that nobody could lead.
#[test]
fn a_hand_over_finds_somebody_at_any_tick() {
    for after in 97..=103 {
        let mut cluster = Cluster::new(&[1, 2, 3], 31);
        let leader = cluster.elect();
        cluster.ticks(after);
        // Its heartbeats of this tick are on their way.
        cluster.now += Duration::from_millis(10);
        cluster.turn(leader, true).unwrap();
        let mut pending = cluster.transfer(leader, None);
        cluster.turn(leader, false).unwrap();
        assert_eq!(transferred(&mut pending), None, "{after} ticks after the election");
        cluster.ticks(50);
        assert!(matches!(transferred(&mut pending), Some(Ok(_))));
    }
}

/// Each hand-over that begins puts raft's check for a quorum off. Whoever asks for them again and
/// again must not keep a leader that nobody follows.
#[test]
fn hand_overs_keep_no_leader_that_nobody_follows() {
    let mut cluster = Cluster::new(&[1, 2, 3], 32);
    let leader = cluster.elect();
    cluster.ticks(20);
    cluster.cut.insert(leader);
    let others: Vec<u64> = (1..=3).filter(|id| *id != leader).collect();
    for n in 0..400 {
        drop(cluster.transfer(leader, Some(others[n % 2])));
        cluster.tick();
    }
    assert!(!cluster.member(leader).core.leads());
}
