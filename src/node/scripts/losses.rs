//! Members whose disks went back in time: who finds out, and that nobody heals it over.

use raft::eraftpb::Entry;

use super::*;
use crate::node::{buried, end_by_refusal, last_copy};

/// A disk as it is now: what a copy of it would bring back.
fn copy(cluster: &Cluster, id: u64) -> MemFs {
    cluster.members[&id].fs.crash(Loss::Nothing)
}

/// Ends a member, and starts it on another disk.
fn restart_on(cluster: &mut Cluster, id: u64, fs: MemFs) {
    cluster.members.remove(&id);
    let recipe = cluster.recipe.clone();
    cluster.start(id, fs, &recipe).unwrap();
}

/// Delivers and ticks until somebody ends, and gives who, and how.
fn first_end(cluster: &mut Cluster) -> Option<(u64, Error)> {
    for _ in 0..400 {
        cluster.now += Duration::from_millis(10);
        for id in cluster.members.keys().copied().collect::<Vec<_>>() {
            if let Err(error) = cluster.turn(id, true) {
                return Some((id, error));
            }
        }
        while let Some((from, to, wire)) = cluster.network.pop_front() {
            if let Err(error) = cluster.deliver(from, to, wire) {
                return Some((to, error));
            }
        }
    }
    None
}

/// A cluster that has written, and of which one follower has gone back to before its last write
/// while its leader remembers.
fn with_forgetful_follower(seed: u64) -> (Cluster, u64, u64) {
    let mut cluster = Cluster::new(&[1, 2, 3], seed);
    let leader = cluster.elect();
    let follower = cluster.follower();
    cluster.write(leader, 3);
    let before = copy(&cluster, follower);
    cluster.write(leader, 2);
    restart_on(&mut cluster, follower, before);
    (cluster, leader, follower)
}

/// The leader's heartbeat commits what the member had acknowledged.
#[test]
fn a_member_that_lost_its_tail_hears_it_from_the_leader() {
    let (mut cluster, leader, follower) = with_forgetful_follower(51);
    let (id, error) = first_end(&mut cluster).expect("an end");
    assert_eq!(id, follower);
    let Error::LostData(what) = &error else { panic!("{error:?}") };
    assert!(what.contains(&format!("member {leader} leads")), "{what}");
}

/// Where an append comes before the heartbeat, its rejection tells the leader, who lets nobody
/// count on that member any more, and says so once.
#[test]
fn a_leader_finds_out_by_a_rejected_append() {
    let (mut cluster, leader, follower) = with_forgetful_follower(52);
    cluster.member(leader).core.unreachable(follower);
    // A probe goes out with the next proposal, before any heartbeat.
    cluster.propose(leader, "x");
    cluster.turn(leader, false).unwrap();
    let is_append = |wire: &Wire| matches!(wire, Wire::Frame(Frame::Raft(m)) if m.get_msg_type() == MessageType::MsgAppend);
    for _ in 0..2 {
        let probe = cluster.network.iter().find(|(_, to, wire)| *to == follower && is_append(wire));
        let Some((_, _, Wire::Frame(frame))) = probe else { panic!("no probe") };
        let frame = frame.clone();
        cluster.step(follower, |core, _, send| core.receive(leader, frame, send)).unwrap();
    }
    let answers = cluster.network.iter().filter(|(from, to, _)| (*from, *to) == (follower, leader));
    let answers: Vec<_> = answers
        .map(|(_, _, wire)| match wire {
            Wire::Frame(frame) => frame.clone(),
            _ => panic!("a frame"),
        })
        .collect();
    assert_eq!(answers.len(), 2);
    for frame in answers {
        cluster.step(leader, |core, _, send| core.receive(follower, frame, send)).unwrap();
    }
    let distrusted = cluster.member(leader).core.take_distrusted();
    let [(id, why)] = &distrusted[..] else { panic!("{distrusted:?}") };
    assert_eq!(*id, follower);
    assert!(why.contains("had acknowledged index"), "{why}");
}

/// A majority went back and leads: the one that did not go back ends rather than follow, and keeps
/// what it has.
#[test]
fn a_member_that_holds_what_the_cluster_lost_does_not_follow() {
    let mut cluster = Cluster::new(&[1, 2, 3], 53);
    let leader = cluster.elect();
    cluster.write(leader, 2);
    let before: Vec<_> = [1, 2].map(|id| (id, copy(&cluster, id))).into();
    cluster.write(leader, 3);
    cluster.tick();
    let kept = cluster.member(3).log.clone();
    cluster.cut.insert(3);
    for (id, fs) in before {
        restart_on(&mut cluster, id, fs);
    }
    let leader = cluster.elect();
    cluster.write(leader, 1);
    // Without its old connections, it only hears what the new leader says.
    cluster.cut.clear();
    let (id, error) = first_end(&mut cluster).expect("an end");
    assert_eq!(id, 3);
    assert!(matches!(error, Error::ClusterLost(_)), "{error:?}");
    assert_eq!(cluster.member(3).log, kept);
}

/// raft keeps its commit index in memory, and the log writes it down with the next batch. A last copy
/// that ends before there is one would have forgotten at its next start what it ended for.
#[test]
fn a_last_copy_still_knows_at_its_next_start() {
    for closes in [true, false] {
        let mut cluster = Cluster::new(&[1, 2, 3], 55);
        let leader = cluster.elect();
        cluster.write(leader, 3);
        cluster.tick();
        let follower = cluster.follower();
        let last = cluster.member(follower).last_index;
        // The first that it hears of a later leader is another entry in the last one's place.
        let term = cluster.member(leader).core.hard_state().term;
        let mut message = Message { from: leader, to: follower, ..Message::default() };
        message.set_msg_type(MessageType::MsgAppend);
        (message.term, message.index, message.log_term) = (term + 1, last - 1, term);
        let entry = Entry { index: last, term: term + 1, ..Entry::default() };
        message.set_entries(vec![entry].into());
        let hear = |cluster: &mut Cluster| {
            let frame = Frame::Raft(message.clone());
            cluster.step(follower, |core, _, send| core.receive(leader, frame, send))
        };
        assert!(matches!(hear(&mut cluster), Err(Error::ClusterLost(_))));
        if closes {
            cluster.member(follower).core.close().unwrap();
        }
        cluster.crash(follower);
        let again = hear(&mut cluster);
        assert_eq!(matches!(again, Err(Error::ClusterLost(_))), closes, "{again:?}");
    }
}

/// What is torn was never acknowledged: nobody is condemned for it.
#[test]
fn a_member_that_loses_what_it_never_acknowledged_comes_back() {
    for seed in 60..70 {
        let mut cluster = Cluster::new(&[1, 2, 3], seed);
        let leader = cluster.elect();
        let follower = cluster.follower();
        cluster.write(leader, 3);
        // Written, and the sync that would make it last never returned.
        cluster.member(follower).fs.inject(Op::Sync, 0, Fault::Stop);
        cluster.propose(leader, "x");
        cluster.turn(leader, false).unwrap();
        while let Some((from, to, wire)) = cluster.network.pop_front() {
            if let Err(error) = cluster.deliver(from, to, wire) {
                assert_eq!((to, matches!(error, Error::Disk(_))), (follower, true), "{error:?}");
                break;
            }
        }
        let survived = cluster.member(follower).fs.crash(Loss::Some(seed));
        restart_on(&mut cluster, follower, survived);
        cluster.ticks(300);
        assert!(cluster.member(leader).core.take_distrusted().is_empty());
        cluster.assert_same_logs();
    }
}

/// D4: the end is for good, also where nobody is left who could prove it.
#[test]
fn a_member_that_lost_data_stays_away() {
    let (mut cluster, _, follower) = with_forgetful_follower(54);
    let (_, error) = first_end(&mut cluster).expect("an end");
    let fs = cluster.members.remove(&follower).unwrap().fs.crash(Loss::Everything);
    let recipe = cluster.recipe.clone();
    let config = Config::new(follower, recipe.founders.clone(), "/data".into());
    crate::directory::bury(&fs, &config, &error).unwrap();
    for _ in 0..2 {
        let refused = boot(follower, fs.crash(Loss::Everything), &recipe, 9).err().unwrap();
        assert!(matches!(&refused, Error::LostData(what) if *what == error.to_string()));
    }
}

/// A disk that is full or fails at the very end takes nothing from what that end says: whoever reads
/// only of the disk would start the member again, and the loss would be healed over.
#[test]
fn a_loss_is_told_although_it_cannot_be_written_down() {
    let config = Config::new(1, Cluster::new(&[1], 55).recipe.founders.clone(), "/data".into());
    let fs = MemFs::new();
    let end = buried(&fs, &config, Error::LostData("its log ends at 5".into()));
    let Error::LostData(what) = &end else { panic!("{end:?}") };
    assert!(what.starts_with("its log ends at 5\nThis could not be written down (cannot write"));
    let end = buried(&fs, &config, Error::Removed("member 1 was removed".into()));
    assert!(matches!(end, Error::Disk(_)), "the next start hears it again: {end:?}");

    let closed = Err(Error::Disk("no space".into()));
    let end = last_copy("index 7", Path::new("/data"), closed);
    let Error::ClusterLost(what) = &end else { panic!("{end:?}") };
    assert!(what.contains("index 7") && what.contains("(disk error: no space)"), "{what}");
}

/// A stranger's word proves no loss: it is dialled because it dialled, and answers what it likes.
#[test]
fn only_a_member_can_say_that_data_is_lost() {
    let lost = "lost_data: its log ends at 5";
    assert!(end_by_refusal(403, lost, false).is_none());
    let end = end_by_refusal(403, lost, true);
    assert!(matches!(&end, Some(Error::LostData(what)) if what == lost), "{end:?}");
    assert!(matches!(end_by_refusal(403, "another directory", false), Some(Error::Wiped(_))));
    assert!(matches!(end_by_refusal(410, "removed", false), Some(Error::Removed(_))));
    assert!(end_by_refusal(503, lost, true).is_none());
}
