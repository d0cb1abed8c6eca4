//! Writes, reads and what becomes of them when leaders change and disks fail.

use super::*;
use crate::node::first_status;

const EIO: i32 = 5;

/// The main path: a leader is elected, a proposal on any member is applied on all and its
/// proposer learns the index.
#[test]
fn proposals_on_any_member_are_applied_on_all() {
    let mut cluster = Cluster::new(&[1, 2, 3], 1);
    let leader = cluster.elect();
    let mut pending = Vec::new();
    for id in 1..=3 {
        for n in 0..10 {
            pending.push(cluster.propose(id, format!("{id}-{n}")));
        }
    }
    cluster.settle();
    let indexes: BTreeSet<u64> = pending.into_iter().map(applied).collect();
    assert_eq!(indexes.len(), 30);
    cluster.tick();
    cluster.assert_same_logs();
    assert_eq!(cluster.member(leader).log.len(), 30);
}

/// A lone voter has nobody to wait for.
#[test]
fn a_lone_voter_leads_at_once() {
    let mut cluster = Cluster::new(&[1], 1);
    cluster.settle();
    assert_eq!(cluster.leader(), Some(1));
    let pending = cluster.propose(1, "x");
    cluster.settle();
    applied(pending);
}

/// P2: what an old leader could not replicate is refused by the new leader's first entry, tried
/// again under the same key, and applied exactly once.
#[test]
fn superseded_proposals_are_tried_again_and_applied_once() {
    let mut cluster = Cluster::new(&[1, 2, 3], 2);
    let old = cluster.elect();
    cluster.cut.insert(old);
    let lost = cluster.propose(old, "once");
    cluster.settle();
    let new = cluster.elect();
    assert_ne!(old, new);
    cluster.cut.clear();
    for _ in 0..400 {
        cluster.tick();
    }
    applied(lost);
    cluster.assert_same_logs();
    let copies = cluster.member(new).log.values().filter(|data| &data[..] == b"once").count();
    assert_eq!(copies, 1);
}

/// A write whose fate this member cannot know is not called refused: its entry stayed with the
/// old leader, and the deadline passes while the member is cut off.
#[test]
fn a_cut_off_leader_answers_unknown() {
    let mut cluster = Cluster::new(&[1, 2, 3], 3);
    let old = cluster.elect();
    cluster.cut.insert(old);
    let lost = cluster.propose(old, "lost");
    for _ in 0..600 {
        cluster.tick();
    }
    let outcome = lost.wait_timeout(Duration::ZERO);
    assert_eq!(outcome, Some(Outcome::Unknown(Unknown::Deadline)));
}

/// Without a leader a proposal is never in anybody's hands: refused, definitely.
#[test]
fn without_a_leader_the_deadline_refuses() {
    let mut cluster = Cluster::new(&[1, 2, 3], 4);
    cluster.cut.extend([1, 2, 3]);
    let pending = cluster.propose(1, "x");
    let read = cluster.read(2, Consistency::Linearizable);
    for _ in 0..600 {
        cluster.tick();
    }
    assert_eq!(pending.wait_timeout(Duration::ZERO), Some(Outcome::Refused(Refusal::NoLeader)));
    assert_eq!(read.wait_timeout(Duration::ZERO), Some(Read::Refused(Refusal::NoLeader)));
}

/// R2: a read on any member sees what was acknowledged before it; a leader that was cut off
/// confirms nothing.
#[test]
fn reads_see_what_was_acknowledged() {
    let mut cluster = Cluster::new(&[1, 2, 3], 5);
    let leader = cluster.elect();
    let follower = cluster.follower();
    let write = cluster.propose(leader, "w");
    cluster.settle();
    let index = applied(write);
    for id in [leader, follower] {
        let read = cluster.read(id, Consistency::Linearizable);
        cluster.settle();
        match read.wait_timeout(Duration::ZERO) {
            Some(Read::Ready { index: at }) => assert!(at >= index, "{at} < {index}"),
            other => panic!("{other:?}"),
        }
        assert!(cluster.member(id).last_index >= index);
    }
    let elsewhere = cluster.read(follower, Consistency::Leader);
    cluster.settle();
    assert_eq!(elsewhere.wait_timeout(Duration::ZERO), Some(Read::Refused(Refusal::NotLeader)));

    cluster.cut.insert(leader);
    let read = cluster.read(leader, Consistency::Linearizable);
    let stale = cluster.read(leader, Consistency::Stale);
    cluster.settle();
    assert!(matches!(stale.wait_timeout(Duration::ZERO), Some(Read::Ready { .. })));
    for _ in 0..600 {
        cluster.tick();
    }
    assert!(matches!(read.wait_timeout(Duration::ZERO), Some(Read::Refused(_))));
}

/// Everything acknowledged survives the crash of all members, with what was not synced lost.
#[test]
fn acknowledged_writes_survive_the_crash_of_all() {
    let mut cluster = Cluster::new(&[1, 2, 3], 6);
    cluster.elect();
    let mut acknowledged = BTreeSet::new();
    for round in 0..5 {
        for n in 0..20 {
            let data = format!("{round}-{n}");
            let id = 1 + n % 3;
            let pending = cluster.propose(id, data.clone());
            cluster.settle();
            applied(pending);
            acknowledged.insert(Bytes::from(data));
        }
        // Some more that nobody acknowledges before the crash.
        drop(cluster.propose(1, "unacknowledged"));
        for id in 1..=3 {
            cluster.crash(id);
        }
        cluster.network.clear();
        cluster.elect();
        cluster.tick();
        for member in cluster.members.values() {
            let log: BTreeSet<Bytes> = member.log.values().cloned().collect();
            assert!(log.is_superset(&acknowledged), "lost an acknowledged write");
        }
        cluster.assert_same_logs();
    }
}

/// N2: when the sync fails, nothing that promises it leaves, and the node ends.
#[test]
fn nothing_is_promised_before_the_sync() {
    let mut cluster = Cluster::new(&[1, 2, 3], 7);
    let leader = cluster.elect();
    let follower = cluster.follower();
    cluster.network.clear();
    let pending = cluster.propose(leader, "x");
    cluster.turn(leader, false).unwrap();
    let (from, _, frame) = (cluster.network.iter())
        .position(|(_, to, _)| *to == follower)
        .and_then(|at| cluster.network.remove(at))
        .expect("the leader's append leaves before its own sync is even asked for");
    cluster.network.clear();
    cluster.member(follower).fs.inject(Op::Sync, 0, Fault::Error(EIO));
    let error = cluster.deliver(from, follower, frame).unwrap_err();
    assert!(matches!(error, Error::Disk(_)), "{error}");
    assert!(cluster.network.is_empty(), "a promise left without its sync");
    drop(pending);
}

/// Whoever has written is answered when a majority has it: neither the sync of the next batch, which
/// begins in the same turn, nor its failure is to be waited for.
#[test]
fn the_next_batch_s_sync_keeps_nobody_waiting() {
    let mut cluster = Cluster::new(&[1, 2, 3], 8);
    let leader = cluster.elect();
    cluster.ticks(20);
    cluster.is_hasty = false;
    let first = cluster.propose(leader, "first");
    cluster.turn(leader, false).unwrap();
    let mut next = cluster.propose(leader, "next");
    let n_syncs = cluster.member(leader).fs.count(Op::Sync);
    cluster.member(leader).fs.inject(Op::Sync, 0, Fault::Error(EIO));
    let error = loop {
        let (from, to, wire) = cluster.network.pop_front().expect("no follower has answered");
        if let Err(error) = cluster.deliver(from, to, wire) {
            break error;
        }
        assert_eq!(cluster.member(leader).fs.count(Op::Sync), n_syncs, "the batches are one");
    };
    assert!(matches!(error, Error::Disk(_)), "{error}");
    applied(first);
    assert!(next.try_wait().is_none());
}

/// A consumer that stands still bounds what waits for it, and misses nothing when it goes on.
#[test]
fn a_slow_consumer_is_bounded_and_misses_nothing() {
    let mut cluster = Cluster::new(&[1, 2, 3], 8);
    let leader = cluster.elect();
    cluster.member(leader).consumes = false;
    let mut pending = Vec::new();
    for n in 0..40 {
        let mut data = vec![0; 512 << 10];
        data[0] = n;
        pending.push(cluster.propose(leader, data));
        cluster.settle();
    }
    // Long enough for the others to elect another, did the leader's clock wait for its consumer.
    cluster.ticks(200);
    let status = cluster.member(leader).shared.status();
    assert_eq!(status.role, Role::Leader);
    assert!(status.published_index < status.commit_index, "nothing was held back");
    cluster.member(leader).consumes = true;
    cluster.settle();
    let indexes: Vec<u64> = pending.into_iter().map(applied).collect();
    assert!(indexes.is_sorted());
    assert_eq!(cluster.member(leader).log.len(), 40);
}

/// P3, found by review: a refusal that arrives after its proposal was given to the next leader
/// cancelled that flight, and the command was applied twice.
#[test]
fn a_late_refusal_does_not_cancel_a_later_try() {
    let unsent =
        |cluster: &mut Cluster, origin, attempt| cluster.member(origin).core.unsent(attempt);
    let refused = |cluster: &mut Cluster, origin: u64, attempt: Attempt| {
        let Attempt { key, term } = attempt;
        let frame = Frame::Verdict { key, refusal: VerdictKind::NotLeader, term, leader: 0 };
        cluster.member(origin).core.receive(1, frame, &mut |_, _| ()).unwrap();
    };
    let flew = |late: &dyn Fn(&mut Cluster, u64, Attempt)| {
        (1..20).filter(|seed| late_refusal(*seed, late)).count()
    };
    assert!(flew(&unsent) > 0 && flew(&refused) > 0, "no seed led to a second flight");
}

/// Whether this seed led to a second flight of the key.
fn late_refusal(seed: u64, late: &dyn Fn(&mut Cluster, u64, Attempt)) -> bool {
    let mut cluster = Cluster::new(&[1, 2, 3], seed);
    let old = cluster.elect();
    (0..20).for_each(|_| cluster.tick());
    let origin = cluster.follower();
    let pending = cluster.propose(origin, "once");
    cluster.turn(origin, false).unwrap();
    // The Forward waits in a queue, or its Verdict is on its way, while the old leader goes.
    let first = cluster.network.iter().find_map(|(_, _, frame)| frame.attempt()).unwrap();
    cluster.network.clear();
    cluster.cut.insert(old);
    for _ in 0..1_000 {
        cluster.now += Duration::from_millis(10);
        for id in 1..=3 {
            cluster.turn(id, true).unwrap();
        }
        while let Some((from, to, frame)) = cluster.network.pop_front() {
            let second = from == origin && frame.attempt().is_some();
            cluster.deliver(from, to, frame).unwrap();
            if second {
                late(&mut cluster, origin, first);
                (0..50).for_each(|_| cluster.tick());
                applied(pending);
                let log = &cluster.member(origin).log;
                assert_eq!(log.values().filter(|data| &data[..] == b"once").count(), 1);
                return true;
            }
        }
    }
    false
}

/// Found by review: a leader that refuses was asked again at the speed of the network.
#[test]
fn a_refused_forward_pauses_before_its_next_try() {
    let mut cluster = Cluster::new(&[1, 2, 3], 2);
    let leader = cluster.elect();
    (0..20).for_each(|_| cluster.tick());
    let origin = cluster.follower();
    // Leadership is handed to someone who never hears of it: proposals are dropped meanwhile.
    cluster.member(leader).core.hand_over(None);
    cluster.turn(leader, false).unwrap();
    cluster.network.clear();
    let pending = cluster.propose(origin, "x");
    cluster.turn(origin, false).unwrap();
    let mut forwards = 0;
    while let Some((from, to, frame)) = cluster.network.pop_front() {
        forwards += usize::from(frame.attempt().is_some());
        assert!(forwards < 3, "asked in a circle");
        cluster.deliver(from, to, frame).unwrap();
    }
    assert_eq!(forwards, 1);
    (0..300).for_each(|_| cluster.tick());
    applied(pending);
}

/// Found by review: raft's own batching built appends that no frame can carry. Every frame of
/// every script is measured; this one proposes and catches up in bulk.
#[test]
fn appends_fit_into_frames() {
    let mut cluster = Cluster::new(&[1, 2, 3], 2);
    let leader = cluster.elect();
    let follower = cluster.follower();
    cluster.cut.insert(follower);
    let large: Vec<_> = (0..8).map(|_| cluster.propose(leader, vec![7; (1 << 20) - 100])).collect();
    cluster.settle();
    for pending in large {
        applied(pending);
    }
    for _ in 0..20 {
        for _ in 0..1_000 {
            drop(cluster.propose(leader, vec![1; 128]));
        }
        cluster.settle();
    }
    cluster.cut.clear();
    (0..100).for_each(|_| cluster.tick());
    cluster.assert_same_logs();
}

/// Found by review: a directory that lost its identity file was taken for the remains of a
/// founding, and its log erased.
#[test]
fn a_log_without_an_identity_is_refused_and_kept() {
    let mut cluster = Cluster::new(&[1], 1);
    cluster.settle();
    let pending = cluster.propose(1, "x");
    cluster.settle();
    applied(pending);
    let fs = cluster.members.remove(&1).unwrap().fs.clone();
    let identity = wal::fs::read_file(&fs, Path::new("/data/identity"), 100).unwrap();
    fs.remove_file(Path::new("/data/identity")).unwrap();
    let lone = Recipe::founder(&[1]);
    let error = boot(1, fs.clone(), &lone, 9).err().expect("a refusal");
    assert!(error.to_string().contains("no identity file"), "{error}");
    wal::fs::write_file_durably(&fs, Path::new("/data/identity"), &identity).unwrap();
    let member = boot(1, fs, &lone, 9).unwrap();
    member.core.show(&member.shared);
    assert!(member.shared.status().last_index >= 3, "the log was erased");
}

/// Found by review: between the look at a new directory and its lock, another process may have
/// founded it, acknowledged writes and ended.
#[test]
fn founding_looks_again_under_the_lock() {
    let fs = MemFs::new();
    let lone = Recipe::founder(&[1]);
    let config = Config::new(1, lone.founders.clone(), "/data".into());
    let late = Directory::inspect(Arc::new(fs.clone()), &config).unwrap();
    let mut cluster = Cluster::new(&[1], 1);
    cluster.members.insert(1, boot(1, fs.clone(), &lone, 5).unwrap());
    cluster.settle();
    let pending = cluster.propose(1, "x");
    cluster.settle();
    let index = applied(pending);
    drop(cluster);
    let found = late.open(&config, &mut |_| Ok(0), &AtomicBool::new(false), &logger()).unwrap();
    assert!(raft::Storage::last_index(&found.storage).unwrap() >= index, "the log was erased");
}

/// What was asked for in the instant in which the loop ended must not wait for ever (N8).
#[test]
fn what_an_ending_loop_never_took_is_answered() {
    let cluster = Cluster::new(&[1], 1);
    let (handle, requests) = cluster.request();
    let pending = handle.propose("x".into(), cluster.deadline()).unwrap();
    drop(requests);
    let outcome = pending.wait_timeout(Duration::ZERO);
    assert!(matches!(outcome, Some(Outcome::Unknown(Unknown::Stopped))), "{outcome:?}");
}

/// Whoever is handed a member that starts again finds its log in it, before its first turn: an index
/// that the log has is waited for. It is ready when it has applied all that it knew to be committed,
/// and not when it has a leader and the state that its log begins with.
#[test]
fn a_member_that_starts_again_is_handed_out_with_its_log() {
    let mut cluster = Cluster::new(&[1], 34);
    cluster.elect();
    cluster.write(1, 20);
    let Member { fs, core, last_index, _lock, .. } = cluster.members.remove(&1).unwrap();
    drop((core, _lock));
    let (survived, recipe) = (fs.crash(Loss::Everything), cluster.recipe.clone());
    let config = config(1, &recipe);
    let found = recover(&survived, &config, &recipe).unwrap();
    // The commit index is written with the entry that follows.
    assert_eq!(found.storage.hard_state().commit, last_index - 1);
    let status = first_status(&config, &found).status();
    assert_eq!((status.last_index, status.ready), (last_index, false));
    drop(found);
    cluster.start(1, survived, &recipe).unwrap();
    cluster.member(1).consumes = false;
    cluster.elect();
    let begins_with = cluster.member(1).core.next_commit().unwrap();
    assert!(matches!(begins_with, Commit::Restore(_)), "{begins_with:?}");
    cluster.member(1).apply(begins_with);
    cluster.ticks(20);
    let status = cluster.member(1).shared.status();
    assert!(status.leader_id == 1 && !status.ready, "{status:?}");
    cluster.member(1).consumes = true;
    cluster.tick();
    assert!(cluster.member(1).shared.status().ready);
    assert_eq!(cluster.member(1).log.len(), 20);
}

/// What the page on guarantees says of a crash: the commit index is written with the next sync, so
/// that a member that crashes may know of less than it showed. It shows that much and no more until
/// it hears of the others, and loses nothing.
#[test]
fn a_crashed_member_may_know_of_less_than_it_showed() {
    let mut cluster = Cluster::new(&[1, 2, 3], 33);
    let leader = cluster.elect();
    cluster.write(leader, 3);
    cluster.tick();
    let follower = cluster.follower();
    let shown = cluster.member(follower).last_index;
    cluster.cut.insert(follower);
    cluster.crash(follower);
    cluster.turn(follower, false).unwrap();
    assert!(cluster.member(follower).last_index < shown);
    cluster.cut.clear();
    cluster.ticks(300);
    assert!(cluster.member(follower).last_index >= shown);
    cluster.assert_same_logs();
}
