//! What a proposer hears, case by case: applied, refused or unknown, and each of them true (N8).
//! A Restore that covers a proposal is in [`super::snapshots`].

use super::*;

/// Ticks in the five seconds that a script gives its requests, and one more.
const UNTIL_DEADLINE: u64 = 501;

fn outcome(pending: &mut Pending<Outcome>) -> Option<Outcome> {
    pending.try_wait()
}

/// How often a member's consumer was given this command.
fn copies(cluster: &mut Cluster, id: u64, command: &[u8]) -> usize {
    cluster.member(id).log.values().filter(|data| &data[..] == command).count()
}

/// Takes the Forward of `origin` off the network.
fn intercept(cluster: &mut Cluster, origin: u64) -> Attempt {
    cluster.turn(origin, false).unwrap();
    let attempt = cluster.network.iter().find_map(|(_, _, wire)| wire.attempt());
    cluster.network.clear();
    attempt.expect("the proposal is forwarded")
}

/// Superseded: what an old leader had in its log alone is refused for good by the first entry of
/// the next term, and never turns up anywhere.
#[test]
fn a_superseded_proposal_is_refused() {
    let mut cluster = Cluster::new(&[1, 2, 3], 11);
    let old = cluster.elect();
    cluster.cut.insert(old);
    let mut pending = cluster.propose(old, "lost");
    cluster.settle();
    let new = cluster.elect();
    let term = cluster.member(new).shared.status().term;
    cluster.cut.clear();
    // Until the old leader has published the new one's first entry, and not a tick longer: it
    // would propose again.
    while cluster.member(old).shared.status().term < term
        || cluster.member(old).shared.status().published_index
            < cluster.member(new).shared.status().published_index
    {
        cluster.tick();
    }
    cluster.cut.insert(old);
    assert_eq!(outcome(&mut pending), None, "there is time left to try again");
    cluster.now += Duration::from_secs(5);
    cluster.tick();
    assert_eq!(outcome(&mut pending), Some(Outcome::Refused(Refusal::Superseded)));
    cluster.cut.clear();
    cluster.ticks(300);
    for id in 1..=3 {
        assert_eq!(copies(&mut cluster, id, b"lost"), 0, "a refused command was applied");
    }
}

/// Refused by a Verdict, and never written to a stream: both are definite, so the proposal is
/// tried again, and applied once; without a leader to try, the deadline refuses it.
#[test]
fn a_refused_forward_is_tried_again_or_refused() {
    let by_verdict = |cluster: &mut Cluster, origin: u64, attempt: Attempt| {
        let Attempt { key, term } = attempt;
        let frame = Frame::Verdict { key, refusal: VerdictKind::NotLeader, term, leader: 0 };
        let leader = cluster.leader().unwrap();
        cluster.member(origin).core.receive(leader, frame, &mut |_, _| ()).unwrap();
    };
    let unsent = |cluster: &mut Cluster, origin: u64, attempt| {
        cluster.member(origin).core.unsent(attempt);
    };
    for refuse in [&by_verdict as &dyn Fn(&mut Cluster, u64, Attempt), &unsent] {
        let mut cluster = Cluster::new(&[1, 2, 3], 12);
        cluster.elect();
        cluster.ticks(20);
        let origin = cluster.follower();
        let again = cluster.propose(origin, "again");
        let attempt = intercept(&mut cluster, origin);
        refuse(&mut cluster, origin, attempt);
        cluster.ticks(20);
        applied(again);
        assert_eq!(copies(&mut cluster, origin, b"again"), 1);

        let mut never = cluster.propose(origin, "never");
        let attempt = intercept(&mut cluster, origin);
        refuse(&mut cluster, origin, attempt);
        cluster.cut.extend([1, 2, 3]);
        // Nothing arrives, and the transport says so of everything that was not written.
        for _ in 0..UNTIL_DEADLINE {
            cluster.tick();
            for attempt in std::mem::take(&mut cluster.unwritten) {
                cluster.member(origin).core.unsent(attempt);
            }
        }
        assert_eq!(outcome(&mut never), Some(Outcome::Refused(Refusal::NoLeader)));
        cluster.cut.clear();
        cluster.ticks(300);
        assert_eq!(copies(&mut cluster, origin, b"never"), 0, "a refused command was applied");
    }
}

/// A command that the leader can never take is refused by its Verdict at once.
#[test]
fn what_the_leader_can_never_take_is_refused_at_once() {
    let mut cluster = Cluster::new(&[1, 2, 3], 13);
    let leader = cluster.elect();
    cluster.ticks(20);
    let origin = cluster.follower();
    let mut pending = cluster.propose(origin, "too large for it");
    let Attempt { key, term } = intercept(&mut cluster, origin);
    let frame = Frame::Verdict { key, refusal: VerdictKind::TooLarge, term, leader };
    cluster.member(origin).core.receive(leader, frame, &mut |_, _| ()).unwrap();
    assert_eq!(outcome(&mut pending), Some(Outcome::Refused(Refusal::TooLarge)));
}

/// The deadline: a proposal on its way is unknown, within a tick of it, and no sooner.
#[test]
fn the_deadline_is_kept_to_the_tick() {
    let mut cluster = Cluster::new(&[1, 2, 3], 14);
    let leader = cluster.elect();
    cluster.cut.insert(leader);
    let mut write = cluster.propose(leader, "x");
    let mut barrier = cluster.barrier(leader);
    let mut read = cluster.read(leader, Consistency::Linearizable);
    cluster.ticks(UNTIL_DEADLINE - 2);
    assert_eq!(outcome(&mut write), None);
    assert_eq!(read.try_wait(), None);
    cluster.ticks(2);
    assert_eq!(outcome(&mut write), Some(Outcome::Unknown(Unknown::Deadline)));
    assert_eq!(barrier.try_wait(), Some(Outcome::Unknown(Unknown::Deadline)));
    assert!(matches!(read.try_wait(), Some(Read::Refused(_))));
}

/// What is committed and waits for the consumer alone is answered at its deadline as well, though
/// others had an earlier one. No test noticed when it waited for as long as the consumer stood.
#[test]
fn a_standing_consumer_holds_no_deadline_up() {
    let mut cluster = Cluster::new(&[1, 2, 3], 14);
    let leader = cluster.elect();
    cluster.ticks(20);
    cluster.member(leader).consumes = false;
    let mut early = cluster.barrier(leader);
    cluster.settle();
    let mut early_read = cluster.read(leader, Consistency::Linearizable);
    cluster.ticks(100);
    let mut late = cluster.barrier(leader);
    let mut late_read = cluster.read(leader, Consistency::Linearizable);
    cluster.ticks(UNTIL_DEADLINE - 100);
    assert_eq!(early.try_wait(), Some(Outcome::Unknown(Unknown::Deadline)));
    assert_eq!(early_read.try_wait(), Some(Read::Refused(Refusal::Unavailable)));
    assert_eq!((late.try_wait(), late_read.try_wait()), (None, None));
    cluster.ticks(100);
    assert_eq!(late.try_wait(), Some(Outcome::Unknown(Unknown::Deadline)));
    assert_eq!(late_read.try_wait(), Some(Read::Refused(Refusal::Unavailable)));
}

/// Shutdown: what nobody has is refused at once; what is on its way is unknown when the node
/// ends, since nobody will tell.
#[test]
fn shutdown_refuses_what_nobody_has() {
    let mut cluster = Cluster::new(&[1, 2, 3], 15);
    let leader = cluster.elect();
    cluster.cut.insert(leader);
    let mut flying = cluster.propose(leader, "flying");
    cluster.settle();
    cluster.elect();
    let isolated = cluster.members.keys().copied().find(|id| cluster.cut.contains(id)).unwrap();
    // It has noticed by now that nobody follows it.
    cluster.ticks(200);
    let mut parked = cluster.propose(isolated, "parked");
    let mut moved = cluster.transfer(isolated, None);
    cluster.turn(isolated, false).unwrap();
    cluster.member(isolated).core.refuse_parked();
    assert_eq!(outcome(&mut parked), Some(Outcome::Refused(Refusal::ShuttingDown)));
    let refused = moved.try_wait();
    assert!(
        matches!(&refused, Some(Transferred::Refused(r)) if r.kind == ChangeRefusalKind::ShuttingDown),
        "{refused:?}"
    );
    assert_eq!(outcome(&mut flying), None, "it may still be applied");
    cluster.members.remove(&isolated);
    assert_eq!(outcome(&mut flying), Some(Outcome::Unknown(Unknown::Stopped)));
}

/// Back-pressure: while commits run too far ahead of applies the door is shut, here and for what
/// others forward; it opens when the consumer has caught up, and nothing let in is lost.
#[test]
fn a_lagging_consumer_shuts_the_door() {
    let mut cluster = Cluster::new(&[1, 2, 3], 16);
    let leader = cluster.elect();
    cluster.ticks(20);
    let origin = cluster.follower();
    cluster.member(leader).consumes = false;
    let lags = |cluster: &mut Cluster, id| {
        let shared = &cluster.member(id).shared;
        shared.pending.lags.load(std::sync::atomic::Ordering::Relaxed)
    };
    let mut pending = Vec::new();
    for _ in 0..=crate::MAX_LAG_ENTRIES {
        assert!(!lags(&mut cluster, leader));
        pending.push(cluster.propose(leader, vec![1; 16]));
        if pending.len() % 100 == 0 {
            cluster.settle();
        }
    }
    cluster.settle();
    assert!(lags(&mut cluster, leader) && !lags(&mut cluster, origin));
    let mut forwarded = cluster.propose(origin, "later");
    cluster.settle();
    assert_eq!(outcome(&mut forwarded), None);
    assert!(!cluster.member(origin).log.values().any(|data| &data[..] == b"later"));
    cluster.member(leader).consumes = true;
    cluster.ticks(20);
    assert!(!lags(&mut cluster, leader));
    applied(forwarded);
    for pending in pending {
        applied(pending);
    }
}

/// The same by bytes: few large entries weigh as much as many small ones.
#[test]
fn a_lag_in_bytes_shuts_the_door() {
    let mut cluster = Cluster::new(&[1], 17);
    cluster.settle();
    cluster.member(1).consumes = false;
    let mut n = 0;
    let lags = |cluster: &mut Cluster| {
        let shared = &cluster.member(1).shared;
        shared.pending.lags.load(std::sync::atomic::Ordering::Relaxed)
    };
    while !lags(&mut cluster) {
        drop(cluster.propose(1, vec![1; 1 << 20]));
        cluster.settle();
        n += 1;
        assert!(n <= 66, "{n} MiB were let in");
    }
    assert!(n >= 64, "shut after {n} MiB");
    cluster.member(1).consumes = true;
    cluster.ticks(2);
    assert!(!lags(&mut cluster));
}

/// What the outgoing queue had no room for is read from the log again, to the last committed entry:
/// its proposer does not wait for somebody to write something else. No test noticed when the last one
/// was left.
#[test]
fn a_backlog_is_published_to_its_end() {
    let mut cluster = Cluster::new(&[1], 17);
    cluster.settle();
    cluster.member(1).consumes = false;
    let status = |cluster: &mut Cluster| cluster.member(1).shared.status();
    let mut pending = Vec::new();
    while status(&mut cluster).published_index == status(&mut cluster).commit_index {
        pending.push(cluster.propose(1, vec![1; 1 << 20]));
        cluster.settle();
        assert!(pending.len() < 20, "there is room for everything");
    }
    let Status { published_index, commit_index, .. } = status(&mut cluster);
    assert_eq!(published_index + 1, commit_index, "one entry is left");
    cluster.member(1).consumes = true;
    cluster.settle();
    for pending in pending {
        applied(pending);
    }
}
