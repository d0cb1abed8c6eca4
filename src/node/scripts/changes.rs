//! The membership changes while messages are lost, leaders change and members crash.

use raft::eraftpb::{ConfChange, ConfChangeType};

use super::*;
use crate::membership::Member as Record;

fn add(id: u64) -> Change {
    Change::Add { id, url: url(id), wants: MemberRole::Voter }
}

fn done(changed: Changed) -> Book {
    match changed {
        Changed::Done { book, .. } => book,
        other => panic!("not done: {other:?}"),
    }
}

fn refused(changed: Changed) -> ChangeRefusalKind {
    match changed {
        Changed::Refused(refusal) => refusal.kind,
        other => panic!("not refused: {other:?}"),
    }
}

/// One that no leader judged.
fn change(kind: ConfChangeType, id: u64, record: &[u8]) -> ConfChange {
    let mut change = ConfChange { node_id: id, ..ConfChange::default() };
    change.set_change_type(kind);
    change.context = record.to_vec().into();
    change
}

fn role(cluster: &mut Cluster, of: u64, on: u64) -> MemberRole {
    cluster.member(on).core.book().members[&of].role
}

/// The whole road: any member takes the wish, the new one begins as a learner, gets a snapshot
/// that names it, follows the log, and votes when it has caught up.
#[test]
fn a_new_member_learns_and_then_votes() {
    let mut cluster = Cluster::new(&[1, 2, 3], 1);
    cluster.elect();
    let follower = cluster.follower();
    cluster.write(follower, 20);
    let book = done(cluster.changed(follower, add(4)));
    assert_eq!(book.members[&4].role, MemberRole::Learner);
    cluster.join(4);
    cluster.ticks(100);
    for id in 1..=4 {
        assert_eq!(role(&mut cluster, 4, id), MemberRole::Voter, "as member {id} sees it");
    }
    assert_eq!(cluster.member(4).n_restored, 2, "the empty state, and one snapshot");
    cluster.write(4, 5);
    let read = cluster.read(4, Consistency::Linearizable);
    cluster.ticks(1);
    assert!(matches!(read.wait_timeout(Duration::ZERO), Some(Read::Ready { .. })));
    cluster.assert_same_logs();
}

/// A learner that is heard, but to which nothing of the log comes through, is not promoted: it
/// would be counted upon for what it does not have.
#[test]
fn a_learner_without_the_log_stays_one() {
    let mut cluster = Cluster::new(&[1, 2, 3], 1);
    let leader = cluster.elect();
    cluster.write(leader, 20);
    done(cluster.changed(leader, add(4)));
    cluster.join(4);
    let is_bulk = |(_, to, wire): &(u64, u64, Wire)| match wire {
        Wire::Frame(Frame::Raft(m)) => *to == 4 && m.get_msg_type() == MessageType::MsgAppend,
        Wire::Snapshot(..) => *to == 4,
        _ => false,
    };
    for _ in 0..200 {
        cluster.now += Duration::from_millis(10);
        (1..=4).for_each(|id| cluster.turn(id, true).unwrap());
        while let Some((from, to, wire)) = cluster.network.pop_front() {
            let one = (from, to, wire);
            if is_bulk(&one) {
                cluster.lost(one.0, one.1, one.2);
            } else {
                cluster.deliver(one.0, one.1, one.2).unwrap();
            }
        }
    }
    assert_eq!(role(&mut cluster, 4, leader), MemberRole::Learner);
    cluster.ticks(200);
    assert_eq!(role(&mut cluster, 4, leader), MemberRole::Voter);
}

/// A new member hears of its leader before it has anything to serve: whoever waits for it to be
/// ready, a rolling replacement above all, must not go on then.
#[test]
fn a_new_member_is_not_ready_before_it_has_the_state() {
    let mut cluster = Cluster::new(&[1, 2, 3], 1);
    let leader = cluster.elect();
    done(cluster.changed(leader, add(4)));
    cluster.join(4);
    cluster.member(4).consumes = false;
    cluster.ticks(100);
    let status = cluster.member(4).shared.status();
    assert!(status.leader_id == leader && !status.ready, "{status:?}");
    cluster.member(4).consumes = true;
    cluster.ticks(100);
    assert!(cluster.member(4).shared.status().ready);
}

/// The wish to vote is in the book: it outlives the leader that took it.
#[test]
fn promotion_survives_a_leader_change() {
    let mut cluster = Cluster::new(&[1, 2, 3], 2);
    let old = cluster.elect();
    done(cluster.changed(old, add(4)));
    cluster.cut.insert(old);
    cluster.elect();
    cluster.join(4);
    cluster.ticks(200);
    let new = cluster.leader().unwrap();
    assert_ne!(new, old);
    assert_eq!(role(&mut cluster, 4, new), MemberRole::Voter);
    cluster.cut.clear();
    cluster.ticks(100);
    assert_eq!(role(&mut cluster, 4, old), MemberRole::Voter);
}

/// The leader that is to go hands over first; the cluster never waits for an election timeout, and
/// whoever asked gets one answer.
#[test]
fn the_leader_hands_over_before_it_goes() {
    let mut cluster = Cluster::new(&[1, 2, 3], 3);
    let leader = cluster.elect();
    let book = done(cluster.changed(leader, Change::Remove { id: leader }));
    assert!(book.removed.contains(&leader) && !book.members.contains_key(&leader));
    let new = cluster.leader().unwrap();
    assert_ne!(new, leader);
    cluster.write(new, 3);
}

/// A leader that applies its own removal all the same, because a hand-over raced with it, steps
/// down: raft-rs would have it lead on, block every election, and panic at the next answer.
#[test]
fn a_leader_that_applies_its_own_removal_steps_down() {
    let mut cluster = Cluster::new(&[1, 2, 3], 13);
    let old = cluster.elect();
    cluster.write(old, 3);
    cluster.member(old).core.propose_unjudged(&change(ConfChangeType::RemoveNode, old, &[]));
    cluster.ticks(3);
    assert!(!cluster.member(old).core.leads());
    assert!(cluster.member(old).core.book().removed.contains(&old));
    cluster.cut.insert(old);
    let new = cluster.elect();
    cluster.write(new, 3);
    assert!(cluster.member(new).core.book().removed.contains(&old));
}

/// What is in one batch with a leader's removal of itself is published by every member, also by the
/// one that goes: what comes before the removal, and what comes after it.
#[test]
fn a_removal_leaves_nothing_of_its_batch_unpublished() {
    let mut cluster = Cluster::new(&[1, 2, 3], 13);
    let old = cluster.elect();
    cluster.write(old, 3);
    cluster.ticks(20);
    let before = cluster.member(old).last_index;
    let mut pending: Vec<_> = ["a", "b"].map(|data| cluster.propose(old, data)).into();
    cluster.turn(old, false).unwrap();
    cluster.member(old).core.propose_unjudged(&change(ConfChangeType::RemoveNode, old, &[]));
    pending.extend(["c", "d"].map(|data| cluster.propose(old, data)));
    cluster.turn(old, false).unwrap();
    // The others have all of it before the leader hears of any.
    for (from, to, wire) in std::mem::take(&mut cluster.network) {
        cluster.deliver(from, to, wire).unwrap();
    }
    let last = before + 5;
    let acknowledges_all = |(_, _, wire): &(u64, u64, Wire)| {
        matches!(wire, Wire::Frame(Frame::Raft(message))
            if message.get_msg_type() == MessageType::MsgAppendResponse && message.index == last)
    };
    let at = cluster.network.iter().position(acknowledges_all).expect("a follower has it all");
    let (from, to, wire) = cluster.network.remove(at).unwrap();
    cluster.network.clear();
    assert_eq!(cluster.member(old).last_index, before);
    cluster.deliver(from, to, wire).unwrap();
    assert_eq!(cluster.member(old).last_index, last, "one batch");
    assert!(!cluster.member(old).core.leads());
    pending.into_iter().for_each(|pending| assert!(applied(pending) > before));
    cluster.cut.insert(old);
    cluster.elect();
    cluster.ticks(20);
    for id in 1..=3 {
        let log = cluster.member(id).log.range(before + 1..);
        let log: Vec<_> = log.map(|(index, data)| (*index, data.clone())).collect();
        let all = [(1, "a"), (2, "b"), (4, "c"), (5, "d")];
        assert_eq!(log, all.map(|(after, data)| (before + after, data.into())), "member {id}");
        assert!(cluster.member(id).core.book().removed.contains(&old), "member {id}");
    }
}

/// A demoted leader hands over too, and learns on.
#[test]
fn a_demoted_leader_learns_on() {
    let mut cluster = Cluster::new(&[1, 2, 3], 4);
    let leader = cluster.elect();
    let demote = Change::Update { id: leader, wants: Some(MemberRole::Learner), url: None };
    done(cluster.changed(leader, demote));
    cluster.write(leader, 3);
    cluster.ticks(20);
    cluster.assert_same_logs();
    assert_eq!(role(&mut cluster, leader, leader), MemberRole::Learner);
}

/// A1: what comes while a change is stuck is refused as pending, and not lost in silence.
#[test]
fn one_change_at_a_time() {
    let mut cluster = Cluster::new(&[1, 2, 3], 5);
    let leader = cluster.elect();
    cluster.ticks(10);
    let others: Vec<u64> = (1..=3).filter(|id| *id != leader).collect();
    cluster.cut.extend(&others);
    let mut stuck = cluster.change(leader, add(4), ChangeOptions::default());
    cluster.tick();
    let mut second = cluster.change(leader, add(5), ChangeOptions::default());
    let mut kind = None;
    // The leader gives up leading after an election timeout without its quorum, at the latest.
    for _ in 0..120 {
        cluster.tick();
        kind = kind.or_else(|| second.try_wait().map(refused));
        if cluster.leader().is_none() {
            break;
        }
    }
    let was_refused = kind.is_none_or(|kind| kind == ChangeRefusalKind::Pending);
    assert!(was_refused && stuck.try_wait().is_none(), "{kind:?}");
    cluster.cut.clear();
    cluster.ticks(400);
    done(stuck.try_wait().unwrap());
}

/// The leader has made the change, and its answer is lost on the way: whoever asked hears that nobody
/// knows. No test noticed when it was asked again, and refused what it had done itself.
#[test]
fn a_lost_answer_to_a_change_is_unknown() {
    let mut cluster = Cluster::new(&[1, 2, 3], 6);
    let leader = cluster.elect();
    cluster.ticks(10);
    let asker = cluster.follower();
    let removed = (1..=3).find(|id| ![leader, asker].contains(id)).unwrap();
    let change = Change::Remove { id: removed };
    let mut pending = cluster.change(asker, change, ChangeOptions::default());
    cluster.turn(asker, false).unwrap();
    let mut n_lost = 0;
    while let Some((from, to, wire)) = cluster.network.pop_front() {
        if let Wire::Answered(tag, _) = wire {
            let lost = Wire::Answered(tag, CallResult::Lost("broken off".into()));
            cluster.deliver(from, to, lost).unwrap();
            n_lost += 1;
        } else {
            cluster.deliver(from, to, wire).unwrap();
        }
    }
    assert_eq!(n_lost, 1);
    assert!(cluster.member(leader).core.book().removed.contains(&removed));
    let answer = pending.try_wait();
    assert!(matches!(answer, Some(Changed::Unknown(_))), "{answer:?}");
}

/// A tick in which everything arrives but the appends to voters: those are lost.
fn tick_but_for_appends(cluster: &mut Cluster, voters: &[u64]) {
    cluster.now += Duration::from_millis(10);
    for id in cluster.members.keys().copied().collect::<Vec<_>>() {
        cluster.turn(id, true).unwrap();
    }
    while let Some((from, to, wire)) = cluster.network.pop_front() {
        let is_append = matches!(&wire, Wire::Frame(Frame::Raft(message))
            if message.get_msg_type() == MessageType::MsgAppend);
        if !is_append || !voters.contains(&to) {
            cluster.deliver(from, to, wire).unwrap();
        }
    }
}

/// A cluster whose new leader has committed nothing of its term, and its log's last index.
fn uncommitted_leader(mut cluster: Cluster) -> (Cluster, u64, u64) {
    let old = cluster.leader().unwrap();
    cluster.ticks(20);
    cluster.cut.insert(old);
    while cluster.leader().is_none() {
        tick_but_for_appends(&mut cluster, &[1, 2, 3]);
    }
    let new = cluster.leader().unwrap();
    let status = cluster.member(new).shared.status();
    assert!(status.commit_index < status.last_index, "{status:?}");
    assert_eq!(status.applied_index, status.commit_index, "raft itself has nothing against it");
    (cluster, new, status.last_index)
}

/// A new leader does not know yet whether its predecessor's change counts: it appends none of its own
/// before an entry of its term is committed, or two majorities would have nobody in common. No test
/// noticed when it did not wait.
#[test]
fn a_new_leader_makes_no_change_before_its_first_commit() {
    let mut cluster = Cluster::new(&[1, 2, 3], 6);
    cluster.elect();
    let (mut cluster, new, last) = uncommitted_leader(cluster);
    let mut pending = cluster.change(new, add(4), ChangeOptions::default());
    for _ in 0..50 {
        tick_but_for_appends(&mut cluster, &[1, 2, 3]);
        assert_eq!(
            cluster.member(new).shared.status().last_index,
            last,
            "the change is in its log"
        );
    }
    assert!(cluster.member(new).core.leads() && pending.try_wait().is_none());
    cluster.ticks(50);
    assert!(done(pending.try_wait().unwrap()).members.contains_key(&4));
}

/// Nor does it promote a learner before that, however far the learner has come.
#[test]
fn a_new_leader_promotes_nobody_before_its_first_commit() {
    let mut cluster = Cluster::new(&[1, 2, 3], 6);
    let old = cluster.elect();
    done(cluster.changed(old, add(4)));
    let (mut cluster, new, last) = uncommitted_leader(cluster);
    cluster.join(4);
    for _ in 0..100 {
        tick_but_for_appends(&mut cluster, &[1, 2, 3]);
        assert_eq!(
            cluster.member(new).shared.status().last_index,
            last,
            "the change is in its log"
        );
    }
    assert_eq!(cluster.member(4).shared.status().last_index, last, "it has caught up");
    assert!(cluster.member(new).core.leads());
    cluster.ticks(50);
    assert_eq!(role(&mut cluster, 4, new), MemberRole::Voter);
}

/// A change that an old leader could not replicate is made by the next one, once.
#[test]
fn a_superseded_change_is_tried_again() {
    let mut cluster = Cluster::new(&[1, 2, 3], 6);
    let old = cluster.elect();
    cluster.ticks(10);
    cluster.cut.insert(old);
    let mut pending = cluster.change(old, add(4), ChangeOptions::default());
    cluster.ticks(2);
    let new = cluster.elect();
    cluster.cut.clear();
    for _ in 0..400 {
        cluster.tick();
        if let Some(changed) = pending.try_wait() {
            assert!(done(changed).members.contains_key(&4));
            assert!(cluster.member(new).core.book().members.contains_key(&4));
            return;
        }
    }
    panic!("no answer");
}

/// The first changes of two members, asked for at once: each hears of its own.
#[test]
fn the_changes_of_two_members_are_told_apart() {
    let mut cluster = Cluster::new(&[1, 2, 3], 15);
    let leader = cluster.elect();
    cluster.ticks(10);
    let others = (1..=3).filter(|id| *id != leader).zip([4, 5]);
    let asked: Vec<_> = others
        .map(|(through, id)| (id, cluster.change(through, add(id), ChangeOptions::default())))
        .collect();
    cluster.ticks(400);
    let mut n_done = 0;
    for (id, mut pending) in asked {
        let is_member = cluster.member(leader).core.book().members.contains_key(&id);
        match pending.try_wait().unwrap() {
            Changed::Done { book, .. } => {
                assert!(book.members.contains_key(&id) && is_member, "{id}: {book:?}");
                n_done += 1;
            }
            other => assert!(!is_member, "{id}: {:?}", refused(other)),
        }
    }
    assert!(n_done > 0);
}

/// A removal that would leave no quorum of live voters is refused, by whomever it is asked.
#[test]
fn removal_below_quorum_is_refused() {
    let mut cluster = Cluster::new(&[1, 2, 3], 7);
    let leader = cluster.elect();
    let others: Vec<u64> = (1..=3).filter(|id| *id != leader).collect();
    let (dead, alive) = (others[0], others[1]);
    cluster.cut.insert(dead);
    cluster.ticks(120);
    let change = Change::Remove { id: alive };
    assert_eq!(refused(cluster.changed(leader, change)), ChangeRefusalKind::Unsafe);
    done(cluster.changed(leader, Change::Remove { id: dead }));
}

/// Who answers at a new member's URL is looked at first: strangers are refused, nobody is fine.
#[test]
fn a_url_that_somebody_else_answers_is_refused() {
    let mut cluster = Cluster::new(&[1, 2, 3], 8);
    let leader = cluster.elect();
    let member = |cluster, id| ProbeResult::Member { cluster, id, incarnation: 4 };
    let ours = cluster.member(leader).cluster;
    for other in [ProbeResult::Stranger("HTTP 404".into()), member(ours + 1, 4), member(ours, 5)] {
        cluster.answering.insert(url(4), other);
        assert_eq!(refused(cluster.changed(leader, add(4))), ChangeRefusalKind::Conflict);
    }
    cluster.answering.insert(url(4), member(ours, 4));
    done(cluster.changed(leader, add(4)));
    // A member that was met before is known by its data directory as well.
    let known = cluster.follower();
    let moved = Change::Update { id: known, wants: None, url: Some("http://moved:1".into()) };
    cluster.answering.insert("http://moved:1".into(), member(ours, known));
    assert_eq!(refused(cluster.changed(leader, moved.clone())), ChangeRefusalKind::Conflict);
    let incarnation = cluster.member(known).incarnation;
    let found = ProbeResult::Member { cluster: ours, id: known, incarnation };
    cluster.answering.insert("http://moved:1".into(), found);
    done(cluster.changed(leader, moved));
}

/// A dry run says what would be, and nothing is.
#[test]
fn a_dry_run_changes_nothing() {
    let mut cluster = Cluster::new(&[1, 2, 3], 9);
    let leader = cluster.elect();
    let options = ChangeOptions { dry_run: true, ..ChangeOptions::default() };
    for id in [leader, cluster.follower()] {
        let mut pending = cluster.change(id, Change::Remove { id: leader }, options);
        cluster.ticks(20);
        assert!(!done(pending.try_wait().unwrap()).members.contains_key(&leader));
    }
    assert_eq!(
        (cluster.leader(), cluster.member(leader).core.book().members.len()),
        (Some(leader), 3)
    );
}

/// The book comes back from the log: a member that crashes right after a change knows it.
#[test]
fn a_restart_knows_the_changed_book() {
    let mut cluster = Cluster::new(&[1, 2, 3], 10);
    let leader = cluster.elect();
    done(cluster.changed(leader, add(4)));
    done(cluster.changed(leader, Change::Remove { id: 4 }));
    cluster.ticks(20);
    (1..=3).for_each(|id| cluster.crash(id));
    cluster.elect();
    cluster.ticks(20);
    for id in 1..=3 {
        let book = cluster.member(id).core.book().clone();
        assert!(book.removed.contains(&4) && book.members.len() == 3, "member {id}: {book:?}");
    }
    let again = cluster.changed(1, add(4));
    assert_eq!(refused(again), ChangeRefusalKind::Removed);
}

/// Who was removed goes for good once it hears so. Members that forget in a crash that this was
/// committed would go by the configuration before, and wait for its vote for ever.
#[test]
fn a_crash_forgets_no_removal() {
    let mut cluster = Cluster::new(&[1, 2, 3], 10);
    let dead = cluster.elect();
    done(cluster.changed(dead, add(4)));
    cluster.join(4);
    cluster.ticks(300);
    assert_eq!(role(&mut cluster, dead, 4), MemberRole::Voter);
    cluster.cut.insert(dead);
    let leader = cluster.elect();
    cluster.ticks(120);
    let mut others = (1..=4).filter(|id| ![dead, leader].contains(id));
    let (removed, left) = (others.next().unwrap(), others.next().unwrap());
    done(cluster.changed(leader, Change::Remove { id: removed }));
    cluster.ticks(20);
    cluster.cut.insert(removed);
    [leader, left].into_iter().for_each(|id| cluster.crash(id));
    let again = cluster.elect();
    cluster.write(again, 3);
}

/// N2: that a change is committed leaves the leader when its disk knows it, and not before: whoever is
/// removed goes for good when it hears so, and the leader may crash, and forget.
#[test]
fn a_change_is_on_the_leaders_disk_before_others_hear_of_it() {
    let mut cluster = Cluster::new(&[1, 2, 3], 10);
    let leader = cluster.elect();
    cluster.ticks(20);
    let removed = cluster.follower();
    let before = cluster.member(leader).core.hard_state().commit;
    let pending = cluster.change(leader, Change::Remove { id: removed }, ChangeOptions::default());
    cluster.turn(leader, false).unwrap();
    for (from, to, wire) in std::mem::take(&mut cluster.network) {
        cluster.deliver(from, to, wire).unwrap();
    }
    let acknowledgement = cluster.network.pop_front().expect("a follower has taken the entry");
    cluster.network.clear();
    const EIO: i32 = 5;
    cluster.member(leader).fs.inject(Op::Sync, 0, Fault::Error(EIO));
    let (from, to, wire) = acknowledgement;
    let error = cluster.deliver(from, to, wire).unwrap_err();
    assert!(matches!(error, Error::Disk(_)), "{error}");
    let told = cluster.network.iter().find(
        |(_, _, wire)| matches!(wire, Wire::Frame(Frame::Raft(message)) if message.commit > before),
    );
    assert!(told.is_none(), "a commit left without its sync");
    drop(pending);
}

/// A snapshot takes the place of the log that says who was removed.
#[test]
fn a_snapshot_knows_who_was_removed() {
    let mut cluster = Cluster::new(&[1, 2, 3], 10);
    let leader = cluster.elect();
    done(cluster.changed(leader, add(4)));
    done(cluster.changed(leader, Change::Remove { id: 4 }));
    cluster.ticks(20);
    for id in 1..=3 {
        drop(cluster.snapshot(id));
        cluster.settle();
        cluster.crash(id);
        let book = cluster.member(id).core.book().clone();
        assert!(book.removed.contains(&4), "member {id}: {book:?}");
    }
}

/// A2: a membership entry without a word in it does nothing, and what follows it is published. raft
/// makes such entries itself to end a joint configuration, which this program never begins.
#[test]
fn an_empty_change_does_nothing() {
    let mut cluster = Cluster::new(&[1, 2, 3], 10);
    let leader = cluster.elect();
    cluster.write(leader, 3);
    let before = cluster.member(leader).core.book().clone();
    cluster.member(leader).core.propose_unjudged(&ConfChange::default());
    cluster.write(leader, 3);
    cluster.ticks(20);
    cluster.assert_same_logs();
    assert_eq!(*cluster.member(leader).core.book(), before);
    done(cluster.changed(leader, add(4)));
}

/// Changes that cannot be made: a record that is none, one of another role than it is proposed for,
/// somebody who never was, one who was removed, no id at all, and a URL that another has.
fn poison() -> [ConfChange; 6] {
    use ConfChangeType::{AddLearnerNode, AddNode, RemoveNode};
    let record = |url: String| {
        let (role, wants) = (MemberRole::Learner, MemberRole::Learner);
        let mut bytes = Vec::new();
        Record { url, role, wants, incarnation: None }.encode(&mut bytes);
        bytes
    };
    [
        change(AddLearnerNode, 4, &[7]),
        change(AddNode, 4, &record(url(4))),
        change(RemoveNode, 77, &[]),
        change(AddLearnerNode, 5, &record(url(5))),
        change(AddLearnerNode, 0, &record(url(6))),
        change(AddLearnerNode, 6, &record(url(4))),
    ]
}

/// A2: what is committed and cannot be made does nothing, on every member alike. Each goes on: what
/// follows is applied, the next change is made, and a start that finds such entries in its log is like
/// any other.
#[test]
fn poisoned_changes_are_published_and_do_nothing() {
    let mut cluster = Cluster::new(&[1, 2, 3], 10);
    let leader = cluster.elect();
    let learner = Change::Add { id: 4, url: url(4), wants: MemberRole::Learner };
    done(cluster.changed(leader, learner));
    done(cluster.changed(leader, add(5)));
    let mut book = done(cluster.changed(leader, Change::Remove { id: 5 }));
    for (nth, change) in poison().iter().enumerate() {
        cluster.ticks(20);
        let before = cluster.member(leader).last_index;
        cluster.member(leader).core.propose_unjudged(change);
        cluster.write(leader, 3);
        cluster.ticks(20);
        for id in 1..=3 {
            let member = cluster.member(id);
            assert_eq!(*member.core.book(), book, "{change:?} as member {id} sees it");
            assert_eq!(member.last_index, before + 4, "{change:?} on member {id}");
            assert_eq!(member.log.range(before + 1..).count(), 3, "{change:?} on member {id}");
        }
        cluster.assert_same_logs();
        // A change that was still under way, or an empty entry in its place, would be in the way.
        let url = Some(format!("http://moved-{nth}:1"));
        book = done(cluster.changed(leader, Change::Update { id: 2, wants: None, url }));
    }
    cluster.ticks(20);
    (1..=3).for_each(|id| cluster.crash(id));
    let leader = cluster.elect();
    cluster.write(leader, 3);
    cluster.ticks(20);
    cluster.assert_same_logs();
    for id in 1..=3 {
        assert_eq!(*cluster.member(id).core.book(), book, "member {id} after its crash");
    }
}

/// The same for the last voter: a cluster that lost it could never do anything again.
#[test]
fn the_last_voter_stays_whatever_is_committed() {
    let mut cluster = Cluster::new(&[1], 10);
    cluster.elect();
    let book = cluster.member(1).core.book().clone();
    cluster.member(1).core.propose_unjudged(&change(ConfChangeType::RemoveNode, 1, &[]));
    cluster.write(1, 3);
    assert_eq!(*cluster.member(1).core.book(), book);
    cluster.crash(1);
    cluster.elect();
    cluster.write(1, 3);
    assert_eq!((cluster.member(1).log.len(), cluster.member(1).core.book()), (6, &book));
}

/// N2: a lone voter votes for itself and leads in one Ready. Nobody hears of that term before the
/// vote is on its disk: after a crash it would lead the same term again, with another log.
#[test]
fn a_lone_voter_is_silent_before_its_own_vote() {
    let mut cluster = Cluster::new(&[1], 10);
    cluster.elect();
    let learner = Change::Add { id: 4, url: url(4), wants: MemberRole::Learner };
    done(cluster.changed(1, learner));
    cluster.join(4);
    cluster.ticks(50);
    cluster.write(1, 3);
    cluster.crash(1);
    const EIO: i32 = 5;
    cluster.member(1).fs.inject(Op::Sync, 0, Fault::Error(EIO));
    let mut ended = false;
    for _ in 0..300 {
        cluster.now += Duration::from_millis(10);
        if cluster.turn(1, true).is_err() {
            ended = true;
            break;
        }
        cluster.network.retain(|(from, ..)| *from == 1);
    }
    let heard = cluster.network.iter().filter(|(_, to, _)| *to == 4).count();
    assert!(ended && heard == 0, "{heard} messages left before the vote was on disk");
}

/// A founder that finds its directory empty holds its tongue until it has met the others: it
/// could have voted before.
#[test]
fn a_fresh_founder_waits_for_the_others() {
    let mut cluster = Cluster::new(&[1, 2, 3], 11);
    let recipe = cluster.recipe.clone();
    cluster.elect();
    cluster.ticks(200);
    // Nobody has met it in this life: neither vote nor acknowledgement leaves.
    let wiped = boot(3, MemFs::new(), &recipe, 99).unwrap();
    cluster.members.insert(3, wiped);
    cluster.elect();
    cluster.ticks(500);
    let hard = cluster.member(3).core.hard_state();
    assert_eq!((hard.term, hard.vote, hard.commit), (1, 0, 1));
}

/// A founder that is late, but was never there before, has only to meet a majority.
#[test]
fn a_late_founder_is_welcome() {
    let mut recipe = Recipe::founder(&[1, 2, 3]);
    let all = std::mem::take(&mut recipe.founders);
    let mut cluster = Cluster::with(recipe.clone(), 12);
    recipe.founders = all;
    for id in [1, 2] {
        cluster.start(id, MemFs::new(), &recipe).unwrap();
    }
    cluster.ticks(190);
    assert_eq!(cluster.leader(), None, "before two election timeouts");
    let leader = cluster.elect();
    cluster.write(leader, 10);
    cluster.start(3, MemFs::new(), &recipe).unwrap();
    cluster.ticks(20);
    cluster.assert_same_logs();
}

/// What was changed behind a leader's back is not "so already".
#[test]
fn a_deposed_leader_does_not_say_done() {
    let mut cluster = Cluster::new(&[1, 2, 3], 14);
    let old = cluster.elect();
    cluster.ticks(10);
    cluster.cut.insert(old);
    // The others elect one of them before the old leader notices; its clock stands still.
    let others: Vec<u64> = (1..=3).filter(|id| *id != old).collect();
    let mut new = None;
    for _ in 0..2000 {
        cluster.now += Duration::from_millis(10);
        for id in &others {
            cluster.turn(*id, true).unwrap();
        }
        while let Some((from, to, wire)) = cluster.network.pop_front() {
            cluster.deliver(from, to, wire).unwrap();
        }
        new = others.iter().copied().find(|id| cluster.member(*id).core.leads());
        if new.is_some() {
            break;
        }
    }
    let new = new.unwrap();
    let moved = Change::Update { id: 1, wants: None, url: Some("http://moved:1".into()) };
    let mut pending = cluster.change(new, moved, ChangeOptions { force: true, dry_run: false });
    for _ in 0..20 {
        for id in &others {
            cluster.turn(*id, false).unwrap();
        }
        while let Some((from, to, wire)) = cluster.network.pop_front() {
            cluster.deliver(from, to, wire).unwrap();
        }
    }
    done(pending.try_wait().unwrap());
    let back = Change::Update { id: 1, wants: None, url: Some("http://a:1".into()) };
    let mut pending = cluster.change(old, back, ChangeOptions::default());
    cluster.turn(old, false).unwrap();
    let answer = pending.try_wait();
    assert_eq!(answer, None, "it is at http://moved:1");
}

/// Two election timeouts are for the others to object: they begin when a majority was met, not
/// when this member was alone.
#[test]
fn a_founder_that_was_alone_for_long_still_listens() {
    let mut recipe = Recipe::founder(&[1, 2, 3]);
    let all = std::mem::take(&mut recipe.founders);
    let mut cluster = Cluster::with(recipe.clone(), 15);
    recipe.founders = all;
    cluster.start(1, MemFs::new(), &recipe).unwrap();
    cluster.ticks(1000);
    cluster.start(2, MemFs::new(), &recipe).unwrap();
    cluster.ticks(50);
    let mut vote = Message { from: 2, to: 1, term: 9, index: 1, log_term: 1, ..Message::default() };
    vote.set_msg_type(raft::eraftpb::MessageType::MsgRequestVote);
    cluster.deliver(2, 1, Wire::Frame(Frame::Raft(vote))).unwrap();
    let hard = cluster.member(1).core.hard_state();
    assert_eq!((hard.term, hard.vote), (1, 0), "it votes before the third could object");
    cluster.elect();
}

/// A member that joined, and died before its first snapshot, knows nobody: were it to dial nobody,
/// and the others had removed it meanwhile, it would wait for ever.
#[test]
fn a_member_without_a_book_dials_whom_it_was_told_of() {
    let mut config = Config::new(4, founders(), "/data".into());
    config.founders.push(Founder { id: 4, url: url(4) });
    let dialled = |book: &Book| -> Vec<u64> {
        super::super::peers(book, &config).into_iter().map(|(id, _)| id).collect()
    };
    assert_eq!(dialled(&Book::default()), [1, 2, 3]);
    let mut book = Book::founding(&config.founders);
    book.members.remove(&1);
    assert_eq!(dialled(&book), [2, 3]);
}

/// A founder that never came, of a cluster whose other founders were replaced meanwhile: it is
/// still a voter, and must become a useful one when it comes.
#[test]
fn a_founder_that_comes_after_the_others_went_is_welcome() {
    let mut recipe = Recipe::founder(&[1, 2, 3]);
    let all = std::mem::take(&mut recipe.founders);
    let mut cluster = Cluster::with(recipe.clone(), 13);
    recipe.founders = all;
    cluster.recipe = recipe.clone();
    for id in [1, 2] {
        cluster.start(id, MemFs::new(), &recipe).unwrap();
    }
    let mut leader = cluster.elect();
    for (old, new) in [(1, 4), (2, 5)] {
        done(cluster.changed(leader, add(new)));
        cluster.join(new);
        cluster.ticks(200);
        done(cluster.changed(leader, Change::Remove { id: old }));
        cluster.ticks(20);
        cluster.members.remove(&old);
        leader = cluster.elect();
    }
    cluster.write(leader, 10);
    cluster.start(3, MemFs::new(), &recipe).unwrap();
    cluster.ticks(2000);
    cluster.assert_same_logs();
}
