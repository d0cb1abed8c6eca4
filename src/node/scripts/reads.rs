//! Duplicated and late messages of reads, and what keeps them from harm: a context is used once by
//! whoever asks, and taken once by whoever is asked.

use raft::eraftpb::MessageType;

use super::*;

fn cluster() -> Cluster {
    Cluster::new(&[1, 2, 3], 7)
}

/// A copy of the one message of this kind that is under way from one member to another.
fn copy(cluster: &Cluster, from: u64, to: u64, kind: MessageType) -> Frame {
    let mut found = cluster.network.iter().filter_map(|(sender, receiver, wire)| match wire {
        Wire::Frame(Frame::Raft(message)) if (*sender, *receiver) == (from, to) => {
            let carries_context =
                kind != MessageType::MsgHeartbeatResponse || !message.context.is_empty();
            (message.get_msg_type() == kind && carries_context)
                .then(|| Frame::Raft(message.clone()))
        }
        _ => None,
    });
    let frame = found.next().unwrap_or_else(|| panic!("no {kind:?} from {from} to {to}"));
    assert!(found.next().is_none(), "more than one {kind:?} from {from} to {to}");
    frame
}

/// Delivers what is under way now, and nothing that this causes.
fn deliver_round(cluster: &mut Cluster) {
    for (from, to, wire) in std::mem::take(&mut cluster.network) {
        cluster.deliver(from, to, wire).unwrap();
    }
}

fn deliver_copy(cluster: &mut Cluster, from: u64, to: u64, frame: &Frame) {
    cluster.deliver(from, to, Wire::Frame(frame.clone())).unwrap();
}

fn write(cluster: &mut Cluster, id: u64, data: &'static str) -> u64 {
    let pending = cluster.propose(id, data);
    cluster.settle();
    applied(pending)
}

/// At which index a read was answered, if it was.
fn answered(read: &mut Pending<Read>) -> Option<u64> {
    match read.try_wait() {
        None => None,
        Some(Read::Ready { index }) => Some(index),
        Some(Read::Refused(refusal)) => panic!("refused: {refusal}"),
    }
}

/// A leader that was deposed without knowing it is asked by its own client. A duplicate of an old
/// question and an echo from that question's time arrive late, and together look like a quorum that
/// still follows it. raft would answer everything it was asked before the duplicate came, but for the
/// guard of whoever is asked (Q1): contexts alone would not do, for this asker uses each once.
#[test]
fn a_question_that_comes_twice_confirms_nothing() {
    let mut cluster = cluster();
    let old = cluster.elect();
    let asker = cluster.follower();
    let third = (1..=3).find(|id| ![old, asker].contains(id)).unwrap();
    write(&mut cluster, old, "first");
    cluster.tick();
    cluster.settle();

    let mut first = cluster.read(asker, Consistency::Linearizable);
    cluster.turn(asker, false).unwrap();
    let question = copy(&cluster, asker, old, MessageType::MsgReadIndex);
    deliver_round(&mut cluster);
    deliver_round(&mut cluster);
    let echo = copy(&cluster, third, old, MessageType::MsgHeartbeatResponse);
    cluster.settle();
    assert!(answered(&mut first).is_some());

    // Only the others' time passes: the old leader has no reason to doubt itself.
    cluster.cut.insert(old);
    while cluster.leader().is_none() {
        cluster.now += Duration::from_millis(10);
        cluster.turn(asker, true).unwrap();
        cluster.turn(third, true).unwrap();
        cluster.settle();
    }
    let new = cluster.leader().unwrap();
    let written = write(&mut cluster, new, "second");
    assert!(cluster.member(old).core.leads());
    cluster.cut.clear();

    let mut stale = cluster.read(old, Consistency::Linearizable);
    cluster.turn(old, false).unwrap();
    cluster.network.clear();
    deliver_copy(&mut cluster, asker, old, &question);
    cluster.network.clear();
    deliver_copy(&mut cluster, third, old, &echo);
    cluster.network.clear();
    cluster.turn(old, false).unwrap();
    assert_eq!(answered(&mut stale), None, "a read without a quorum");
    // Once it hears of the others it asks them, and is answered by what they have.
    cluster.ticks(300);
    assert!(answered(&mut stale).is_some_and(|index| index >= written));
}

/// A member asks, is answered, and lags behind; it asks again, and the first answer comes a second
/// time: an answer to an older context is ignored.
#[test]
fn an_answer_that_comes_twice_confirms_nothing() {
    let mut cluster = cluster();
    let leader = cluster.elect();
    let asker = cluster.follower();
    write(&mut cluster, leader, "first");
    cluster.tick();
    cluster.settle();

    let mut first = cluster.read(asker, Consistency::Linearizable);
    cluster.turn(asker, false).unwrap();
    (0..3).for_each(|_| deliver_round(&mut cluster));
    let answer = copy(&cluster, leader, asker, MessageType::MsgReadIndexResp);
    cluster.settle();
    assert!(answered(&mut first).is_some());

    cluster.cut.insert(asker);
    let written = write(&mut cluster, leader, "second");
    cluster.cut.clear();
    let mut stale = cluster.read(asker, Consistency::Linearizable);
    cluster.turn(asker, false).unwrap();
    let under_way = std::mem::take(&mut cluster.network);
    deliver_copy(&mut cluster, leader, asker, &answer);
    cluster.turn(asker, false).unwrap();
    assert_eq!(answered(&mut stale), None, "a read by an old answer");
    cluster.network.extend(under_way);
    cluster.ticks(300);
    assert!(answered(&mut stale).is_some_and(|index| index >= written));
}

/// What is committed is seen by a read only once the state machine has it: a confirmed read waits for
/// its own member's consumer, however far the others are.
#[test]
fn a_confirmed_read_waits_for_its_own_state_machine() {
    let mut cluster = cluster();
    let leader = cluster.elect();
    let slow = cluster.follower();
    write(&mut cluster, leader, "first");
    cluster.tick();
    cluster.settle();
    cluster.member(slow).consumes = false;
    let written = write(&mut cluster, leader, "second");
    cluster.tick();
    cluster.settle();

    let mut read = cluster.read(slow, Consistency::Linearizable);
    cluster.settle();
    assert!(cluster.member(slow).shared.status().commit_index >= written);
    assert_eq!(answered(&mut read), None, "a read of what was not applied");
    cluster.member(slow).consumes = true;
    cluster.settle();
    assert!(answered(&mut read).is_some_and(|index| index >= written));
}

/// A read from a later index on, which whoever asks knows of from elsewhere.
fn read_from(
    cluster: &mut Cluster,
    id: u64,
    consistency: Consistency,
    min_index: u64,
) -> Pending<Read> {
    let (handle, requests) = cluster.request();
    let pending = handle.read(consistency, min_index, cluster.deadline()).unwrap();
    let Ok(Request::Read(request)) = requests.recv() else { panic!("a read") };
    cluster.member(id).core.read(request);
    pending
}

/// Whoever names an index sees no state before it, though the read itself is confirmed at an earlier
/// one. No test noticed when it was forgotten.
#[test]
fn a_read_waits_for_the_index_that_it_names() {
    let mut cluster = cluster();
    let leader = cluster.elect();
    let slow = cluster.follower();
    write(&mut cluster, leader, "first");
    cluster.tick();
    cluster.member(slow).consumes = false;
    let next = write(&mut cluster, leader, "second");
    cluster.tick();

    let mut stale = read_from(&mut cluster, slow, Consistency::Stale, next);
    cluster.settle();
    assert_eq!(answered(&mut stale), None, "a stale read of less than it named");
    cluster.member(slow).consumes = true;
    cluster.settle();
    assert!(answered(&mut stale).is_some_and(|index| index >= next));

    let mut linearizable = read_from(&mut cluster, slow, Consistency::Linearizable, next + 1);
    cluster.tick();
    assert_eq!(answered(&mut linearizable), None, "what it named is not written yet");
    assert_eq!(write(&mut cluster, leader, "third"), next + 1);
    cluster.tick();
    assert!(answered(&mut linearizable).is_some_and(|index| index > next));
}

/// A leader's own word is about what it has committed, and its consumer may be behind that. No test
/// noticed when a read on its word did not wait.
#[test]
fn a_read_on_the_leaders_word_waits_for_its_state_machine() {
    let mut cluster = cluster();
    let leader = cluster.elect();
    write(&mut cluster, leader, "first");
    cluster.member(leader).consumes = false;
    drop(cluster.propose(leader, "second"));
    cluster.settle();
    let committed = cluster.member(leader).shared.status().commit_index;
    assert!(committed > cluster.member(leader).last_index);

    let mut read = cluster.read(leader, Consistency::Leader);
    cluster.settle();
    assert_eq!(answered(&mut read), None, "a read of what was not applied");
    cluster.member(leader).consumes = true;
    cluster.settle();
    assert!(answered(&mut read).is_some_and(|index| index >= committed));
}
