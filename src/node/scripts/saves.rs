//! Saves that another thread syncs: what a leader does meanwhile, and what has to wait.

use raft::eraftpb::HardState;

use super::*;

const EIO: i32 = 5;

/// A cluster whose leader takes its disk for slow, with nothing under way. What it gives another
/// thread to sync waits for [`Cluster::sync`].
fn cluster(seed: u64) -> (Cluster, u64) {
    let mut cluster = Cluster::new(&[1, 2, 3], seed);
    let leader = cluster.elect();
    cluster.ticks(20);
    cluster.is_hasty = false;
    cluster.member(leader).core.pretend_slow(true);
    cluster.member(leader).syncs = false;
    (cluster, leader)
}

impl Cluster {
    fn n_syncs(&self, id: u64) -> u64 {
        self.members[&id].fs.count(Op::Sync)
    }

    /// The other thread syncs what it was given, and the member hears of it.
    fn sync(&mut self, id: u64) -> Result<(), Error> {
        let member = self.member(id);
        assert_eq!(member.unsynced.len(), 1, "not one sync is under way");
        let done = sync_written(&member.unsynced.recv().unwrap());
        self.step(id, |core, _, _| core.done(done))
    }

    fn status(&self, id: u64) -> Status {
        self.members[&id].shared.status()
    }
}

fn is_waiting(pending: &mut Pending<Outcome>) -> bool {
    pending.try_wait().is_none()
}

/// A leader hears that a majority has its entries while its own disk is at work: the answer leaves as
/// soon as that is done, and the next batch goes with everything that came meanwhile.
#[test]
fn a_leader_hears_the_others_while_its_disk_is_at_work() {
    let (mut cluster, leader) = cluster(1);
    let before = cluster.status(leader).last_index;
    let n_syncs = cluster.n_syncs(leader);
    let mut first = cluster.propose(leader, "first");
    cluster.settle();
    assert_eq!(cluster.n_syncs(leader), n_syncs, "the loop has waited for its disk");
    assert_eq!(cluster.status(leader).commit_index, before + 1, "it has not heard the others");
    let mut next = [cluster.propose(leader, "second"), cluster.propose(leader, "third")];
    cluster.settle();
    assert_eq!(cluster.status(leader).last_index, before + 1, "they do not wait for the disk");
    assert!(is_waiting(&mut first));
    cluster.sync(leader).unwrap();
    assert_eq!(applied(first), before + 1);
    assert_eq!(cluster.status(leader).last_index, before + 3, "they wait for more than the disk");
    cluster.settle();
    assert!(next.iter_mut().all(is_waiting));
    cluster.sync(leader).unwrap();
    assert_eq!(next.map(applied), [before + 2, before + 3]);
    assert!(cluster.member(leader).unsynced.is_empty());
}

/// Whoever waited for a sync does not wait for the next batch as well, nor for its failure.
#[test]
fn the_end_of_a_sync_is_heard_before_the_next_batch_is_written() {
    let (mut cluster, leader) = cluster(9);
    let first = cluster.propose(leader, "first");
    cluster.settle();
    let mut next = cluster.propose(leader, "next");
    cluster.settle();
    cluster.member(leader).fs.inject(Op::Write, 0, Fault::Error(EIO));
    let error = cluster.sync(leader).unwrap_err();
    assert!(matches!(error, Error::Disk(_)), "{error}");
    applied(first);
    assert!(is_waiting(&mut next));
}

/// V4. What is committed by the others may not be applied here, nor counted here, before this disk has
/// it: with one follower alone nothing is committed.
#[test]
fn nothing_is_counted_before_its_own_sync() {
    let (mut cluster, leader) = cluster(2);
    let before = cluster.status(leader).commit_index;
    let other = cluster.follower();
    cluster.cut.insert(other);
    let mut pending = cluster.propose(leader, "x");
    cluster.settle();
    assert_eq!(cluster.status(leader).commit_index, before, "it counts what it does not have");
    assert!(is_waiting(&mut pending));
    cluster.sync(leader).unwrap();
    assert_eq!(applied(pending), before + 1);

    cluster.cut.clear();
    cluster.settle();
    let mut pending = cluster.propose(leader, "y");
    cluster.settle();
    assert_eq!(cluster.status(leader).commit_index, before + 2);
    assert_eq!(cluster.status(leader).applied_index, before + 1, "it applies what it may lose");
    assert!(is_waiting(&mut pending));
    // It does lose it, and has it again from the others, who have answered for it.
    cluster.crash(leader);
    cluster.elect();
    cluster.ticks(20);
    let last = cluster.member(leader).log.last_key_value().map(|(_, data)| data.clone());
    assert_eq!(last, Some("y".into()));
    cluster.assert_same_logs();
}

/// Another thread's failed sync ends the node as its own would, with the same words.
#[test]
fn a_sync_that_fails_elsewhere_ends_the_node() {
    let (mut cluster, leader) = cluster(3);
    let mut pending = cluster.propose(leader, "x");
    cluster.settle();
    cluster.member(leader).fs.inject(Op::Sync, 0, Fault::Error(EIO));
    let error = cluster.sync(leader).unwrap_err().to_string();
    assert!(error.contains("sync /data/wal/"), "{error}");
    assert!(is_waiting(&mut pending));
    let after = cluster.turn(leader, false).and_then(|()| cluster.member(leader).core.close());
    let error = after.unwrap_err().to_string();
    assert!(error.contains("latched"), "{error}");
}

/// V3. A leader whose disk hangs is silent: its clock waits for its disk.
#[test]
fn the_clock_waits_for_the_disk() {
    let (mut cluster, leader) = cluster(4);
    let n_syncs = cluster.n_syncs(leader);
    let pending = cluster.propose(leader, "x");
    cluster.settle();
    assert_eq!(cluster.n_syncs(leader), n_syncs);
    cluster.turn(leader, true).unwrap();
    assert_eq!(cluster.n_syncs(leader), n_syncs + 1, "it ticks though its disk is at work");
    applied(pending);
    // The other thread comes too late: nothing is synced twice, and nothing else is taken for it.
    let another = cluster.propose(leader, "y");
    cluster.turn(leader, false).unwrap();
    let done = sync_written(&cluster.member(leader).unsynced.recv().unwrap());
    cluster.step(leader, |core, _, _| core.done(done)).unwrap();
    assert_eq!(cluster.n_syncs(leader), n_syncs + 1);
    cluster.settle();
    cluster.sync(leader).unwrap();
    applied(another);
}

/// V2. Whoever is deposed while its disk is at work waits for it before it saves the new term: what it
/// had proposed is in its log, and its vote is as durable as any.
#[test]
fn a_deposed_leader_waits_for_its_disk() {
    let (mut cluster, leader) = cluster(5);
    let n_syncs = cluster.n_syncs(leader);
    let other = cluster.follower();
    let mut pending = cluster.propose(leader, "x");
    cluster.turn(leader, false).unwrap();
    cluster.network.clear();
    let HardState { term, commit, .. } = cluster.member(leader).core.hard_state().clone();
    let mut message = Message { from: other, to: leader, term: term + 1, ..Message::default() };
    message.set_msg_type(MessageType::MsgHeartbeat);
    message.commit = commit;
    cluster.deliver(other, leader, Wire::Frame(Frame::Raft(message))).unwrap();
    assert_eq!(cluster.n_syncs(leader), n_syncs + 2, "one for the entry, one for the term");
    assert_eq!(cluster.member(leader).core.hard_state().term, term + 1);
    assert!(is_waiting(&mut pending));
    let survived = cluster.member(leader).fs.crash(Loss::Everything);
    let recipe = cluster.recipe.clone();
    let again = boot(leader, survived, &recipe, 77).unwrap();
    assert_eq!(again.core.hard_state().term, term + 1);
    let status = Shared::new(Status::default());
    again.core.show(&status);
    assert_eq!(status.status().last_index, commit + 1);
}

/// V2. Membership changes, snapshots and a clean end find the disk idle.
#[test]
fn whatever_else_needs_the_disk_waits_for_it() {
    let (mut cluster, leader) = cluster(6);
    let pending = cluster.propose(leader, "x");
    cluster.settle();
    assert!(cluster.member(leader).core.is_saving());
    let removed = cluster.follower();
    let change = Change::Remove { id: removed };
    let mut change = cluster.change(leader, change, ChangeOptions::default());
    cluster.settle();
    applied(pending);
    cluster.member(leader).syncs = true;
    for _ in 0..100 {
        cluster.tick();
    }
    let changed = change.try_wait();
    assert!(matches!(changed, Some(Changed::Done { .. })), "{changed:?}");

    cluster.member(leader).syncs = false;
    cluster.write(cluster.follower(), 0);
    cluster.member(leader).writes = false;
    let mut wish = cluster.snapshot(leader);
    cluster.turn(leader, false).unwrap();
    let pending = cluster.propose(leader, "y");
    cluster.turn(leader, false).unwrap();
    assert!(cluster.member(leader).core.is_saving());
    cluster.member(leader).writes = true;
    cluster.turn(leader, false).unwrap();
    assert!(matches!(wish.try_wait(), Some(SnapshotTaken::Taken { .. })));
    cluster.settle();
    applied(pending);

    let _last = cluster.propose(leader, "z");
    cluster.turn(leader, false).unwrap();
    assert!(cluster.member(leader).core.is_saving());
    cluster.member(leader).core.close().unwrap();
    assert!(!cluster.member(leader).core.is_saving());
}

/// V3: a tick waits for a sync that does not end for less than a heartbeat's time. Then the loop waits
/// for it, and a leader whose disk hangs says nothing more. No test noticed when it went on for ever.
#[test]
fn a_tick_waits_for_a_sync_for_a_heartbeat_at_most() {
    let config = Config::new(1, founders(), "/data".into());
    let due = Instant::now();
    let may_wait = |late: Duration| super::super::may_wait(due + late, due, &config);
    assert!(may_wait(Duration::ZERO) && may_wait(config.tick()));
    assert!(!may_wait(config.heartbeat_interval));
    assert!(!may_wait(config.heartbeat_interval * 10));
}
