//! Snapshots taken, sent, installed and interrupted.

use super::*;

pub(super) fn taking(entries: u64) -> Recipe {
    let mut recipe = Recipe::founder(&[1, 2, 3]);
    recipe.policy = SnapshotPolicy {
        entries,
        bytes: 0,
        proportional: false,
        keep: 2,
        catchup_entries: 5,
        retain_bytes: 1 << 30,
    };
    recipe
}

fn snapshot_files(member: &Member) -> Vec<String> {
    let names = member.fs.list(Path::new("/data/snap")).unwrap();
    let mut names: Vec<String> = names.iter().map(|n| n.to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Snapshots come by the count of entries, old ones go, the log's beginning goes with them, and
/// a restart begins with the newest.
#[test]
fn snapshots_let_go_of_the_log() {
    let mut cluster = Cluster::with(taking(50), 1);
    let leader = cluster.elect();
    cluster.write(leader, 2000);
    cluster.ticks(10);
    for id in 1..=3 {
        let member = cluster.member(id);
        let status = member.shared.status();
        assert!(status.snapshot_index > 1900 && status.first_index > 1000, "{status:?}");
        assert_eq!(snapshot_files(member).len(), 2, "{:?}", snapshot_files(member));
        cluster.crash(id);
        assert_eq!(cluster.member(id).log.len(), 0);
        cluster.ticks(10);
    }
    cluster.elect();
    cluster.ticks(10);
    cluster.assert_same_logs();
    assert_eq!(cluster.member(1).log.len(), 2000);
    // A policy that keeps less needs no other snapshot to be obeyed.
    let first = cluster.member(1).shared.status().first_index;
    (cluster.recipe.policy.keep, cluster.recipe.policy.retain_bytes) = (1, 0);
    cluster.crash(1);
    cluster.ticks(10);
    let member = cluster.member(1);
    assert_eq!(snapshot_files(member).len(), 1);
    assert!(member.shared.status().first_index > first, "{:?}", member.shared.status());
}

/// A wish is fulfilled by one snapshot that holds what was applied, at once if there is one.
#[test]
fn a_wish_is_fulfilled() {
    let mut cluster = Cluster::with(taking(0), 2);
    let leader = cluster.elect();
    cluster.write(leader, 10);
    let last = cluster.member(leader).last_index;
    for _ in 0..2 {
        let mut pending = cluster.snapshot(leader);
        cluster.settle();
        let taken = pending.try_wait();
        assert!(matches!(taken, Some(SnapshotTaken::Taken { index, .. }) if index == last));
    }
}

/// A cluster, its leader, and a member that needs a snapshot from now on.
fn one_behind(recipe: Recipe, seed: u64) -> (Cluster, u64, u64) {
    let mut cluster = Cluster::with(recipe, seed);
    let leader = cluster.elect();
    let follower = cluster.follower();
    cluster.cut.insert(follower);
    cluster.ticks(200);
    cluster.write(leader, 2000);
    cluster.cut.clear();
    (cluster, leader, follower)
}

/// A tick in which everything arrives but the snapshots that are sent: those are given back.
fn tick_but_for_snapshots(cluster: &mut Cluster) -> Vec<(u64, u64, Wire)> {
    let mut held = Vec::new();
    cluster.now += Duration::from_millis(10);
    for id in 1..=3 {
        cluster.turn(id, true).unwrap();
    }
    while let Some((from, to, wire)) = cluster.network.pop_front() {
        if let Wire::Snapshot(..) = wire {
            held.push((from, to, wire));
        } else {
            cluster.deliver(from, to, wire).unwrap();
        }
    }
    held
}

/// A member that missed what the others have let go of is sent a snapshot, and then the log.
#[test]
fn a_member_behind_the_log_gets_a_snapshot() {
    let (mut cluster, _, follower) = one_behind(taking(50), 3);
    cluster.ticks(200);
    let member = cluster.member(follower);
    assert_eq!((member.log.len(), member.n_restored), (2000, 2));
    // Its log does not reach back to those that it had.
    assert_eq!(snapshot_files(member).len(), 1, "{:?}", snapshot_files(member));
    cluster.assert_same_logs();
    cluster.crash(follower);
    cluster.ticks(100);
    assert_eq!(cluster.member(follower).log.len(), 2000);
}

/// Found by the histories: a member whose disk was full refused the snapshot that it needed, and was
/// sent the whole file again with every heartbeat, a hundred times a second.
#[test]
fn a_refused_snapshot_is_not_sent_with_every_heartbeat() {
    let (mut cluster, _, follower) = one_behind(taking(50), 22);
    let mut sent = Vec::new();
    for tick in 0..4_000 {
        for (from, to, wire) in tick_but_for_snapshots(&mut cluster) {
            sent.push(tick);
            cluster.lost(from, to, wire);
        }
    }
    // Twice, and then after pauses of 1, 2, 4 and 8 s, and 8 s again, each at the heartbeat after
    // that.
    assert!((8..=9).contains(&sent.len()), "sent at ticks {sent:?}");
    let longest = sent.windows(2).map(|pair| pair[1] - pair[0]).max();
    assert!(longest.is_some_and(|ticks| ticks <= 820), "sent at ticks {sent:?}");
    // Nor is it forgotten.
    cluster.ticks(1_000);
    assert_eq!(cluster.member(follower).log.len(), 2000);
}

/// B3 and N5: files that must stay because they are on their way to peers do not cost the newest
/// one its place: the log vouches for that one.
#[test]
fn the_newest_snapshot_is_never_purged() {
    let mut recipe = taking(50);
    recipe.policy.keep = 1;
    let (mut cluster, leader, _) = one_behind(recipe, 21);
    // The follower is offered a snapshot, which then moves slowly.
    let mut moving = Vec::new();
    for _ in 0..300 {
        moving.extend(tick_but_for_snapshots(&mut cluster));
    }
    assert_eq!(moving.len(), 1);
    for _ in 0..200 {
        let pending = cluster.propose(leader, vec![0x55; 64]);
        for id in 1..=3 {
            cluster.turn(id, false).unwrap();
        }
        while let Some((from, to, wire)) = cluster.network.pop_front() {
            cluster.deliver(from, to, wire).unwrap();
        }
        applied(pending);
    }
    let member = cluster.member(leader);
    let newest = member.shared.status().snapshot_index;
    let files = snapshot_files(member);
    assert!(
        files.iter().any(|name| name.ends_with(&format!("-{newest:016x}.snap"))),
        "the newest snapshot is {newest}, the files are {files:?}"
    );
}

/// What a member had in flight when a snapshot covered it has an unknown outcome, not a wrong one.
#[test]
fn a_restore_answers_unknown() {
    let mut cluster = Cluster::with(taking(20), 4);
    let leader = cluster.elect();
    let follower = cluster.follower();
    let pending = cluster.propose(follower, "mine");
    cluster.turn(follower, false).unwrap();
    // The leader gets it; what it says of it does not come back.
    while let Some((from, to, wire)) = cluster.network.pop_front() {
        if to != follower {
            cluster.deliver(from, to, wire).unwrap();
        }
    }
    cluster.cut.insert(follower);
    cluster.ticks(120);
    cluster.write(leader, 1500);
    cluster.cut.clear();
    cluster.ticks(120);
    let outcome = pending.wait_timeout(Duration::ZERO);
    assert_eq!(outcome, Some(Outcome::Unknown(Unknown::Restored)));
    assert!(cluster.member(follower).log.values().any(|data| &data[..] == b"mine"));
}

/// A consumer that has taken nothing for long is given the state instead of what led to it.
#[test]
fn a_restore_replaces_what_was_not_taken() {
    let mut cluster = Cluster::with(taking(50), 8);
    let leader = cluster.elect();
    let follower = cluster.follower();
    cluster.ticks(20);
    cluster.member(follower).consumes = false;
    let mut pending = cluster.propose(follower, "mine");
    cluster.settle();
    cluster.write(leader, 20);
    assert!(cluster.member(follower).core.has_commits());
    cluster.cut.insert(follower);
    cluster.ticks(120);
    cluster.write(leader, 2000);
    cluster.cut.clear();
    cluster.ticks(120);
    let outcome = pending.try_wait();
    assert_eq!(outcome, Some(Outcome::Unknown(Unknown::Restored)));
    let core = &mut cluster.member(follower).core;
    let first = core.next_commit().unwrap();
    assert!(matches!(first, Commit::Restore(_)), "{first:?}");
    core.return_commit(first);
    cluster.member(follower).consumes = true;
    cluster.ticks(5);
    cluster.assert_same_logs();
}

/// B3: however much is written while a snapshot is on its way, its file and the log after it stay,
/// and stay until its receiver has acknowledged it: one snapshot is enough.
#[test]
fn what_a_snapshot_on_its_way_needs_is_kept() {
    let mut recipe = taking(50);
    recipe.policy.retain_bytes = 3 * recipe.segment_bytes;
    let mut cluster = Cluster::with(recipe, 9);
    let leader = cluster.elect();
    cluster.write(leader, 100);
    // Of a new member raft knows nothing yet that could hold the log back.
    let add = Change::Add { id: 4, url: url(4), wants: MemberRole::Learner };
    cluster.changed(leader, add);
    cluster.join(4);
    let follower = 4;
    let mut held = None;
    while held.is_none() {
        cluster.turn(leader, true).unwrap();
        cluster.now += Duration::from_millis(10);
        while let Some((from, to, wire)) = cluster.network.pop_front() {
            match wire {
                Wire::Snapshot(..) => held = Some((from, to, wire)),
                wire => cluster.deliver(from, to, wire).unwrap(),
            }
        }
    }
    let sent = cluster.member(leader).shared.status().snapshot_index;
    cluster.write(leader, 1000);
    let status = cluster.member(leader).shared.status();
    assert!(status.snapshot_index > sent + 900 && status.first_index <= sent + 1, "{status:?}");
    let name = format!("{sent:016x}.snap");
    let files = snapshot_files(cluster.member(leader));
    assert!(files.iter().any(|file| file.ends_with(&name)), "{sent:x} is not in {files:?}");
    let (from, to, wire) = held.unwrap();
    cluster.deliver(from, to, wire).unwrap();
    // The report of success overtakes the acknowledgement, and both come so late that the receiver
    // seems to be gone: its disk took that long.
    let reports = cluster.network.iter().rposition(|(.., w)| matches!(w, Wire::SnapshotReport(_)));
    let report = reports.and_then(|at| cluster.network.remove(at)).unwrap();
    let rest = std::mem::take(&mut cluster.network);
    cluster.cut.insert(follower);
    cluster.ticks(200);
    cluster.cut.clear();
    cluster.deliver(report.0, report.1, report.2).unwrap();
    cluster.write(leader, 200);
    cluster.network.extend(rest);
    cluster.ticks(100);
    assert_eq!(cluster.member(follower).n_restored, 2, "more than one snapshot was needed");
    cluster.assert_same_logs();
    // No other snapshot has to come for that: on a disk that it has filled none ever would.
    let status = cluster.member(leader).shared.status();
    assert!(status.first_index > sent + 1, "the log is kept for ever: {status:?}");
    let files = snapshot_files(cluster.member(leader));
    assert!(!files.iter().any(|file| file.ends_with(&name)), "{sent:x} is still in {files:?}");
}

/// A receiver that dies when it has the file acknowledges nothing any more: after an election timeout
/// of silence neither the file nor the log is kept for it. No test noticed when both were for ever.
#[test]
fn a_receiver_that_dies_holds_nothing_back() {
    let (mut cluster, leader, follower) = one_behind(taking(50), 23);
    let (from, to, wire) = loop {
        if let Some(sending) = tick_but_for_snapshots(&mut cluster).pop() {
            break sending;
        }
    };
    let sent = cluster.member(leader).shared.status().snapshot_index;
    cluster.deliver(from, to, wire).unwrap();
    let reports = cluster.network.iter().rposition(|(.., w)| matches!(w, Wire::SnapshotReport(_)));
    let report = reports.and_then(|at| cluster.network.remove(at)).unwrap();
    cluster.network.clear();
    cluster.cut.insert(follower);
    cluster.member(leader).core.snapshot_reported(report.0, &Ok(())).unwrap();
    cluster.write(leader, 1000);
    let status = cluster.member(leader).shared.status();
    assert!(status.first_index <= sent + 1, "nothing was kept for it: {status:?}");
    cluster.ticks(120);
    let status = cluster.member(leader).shared.status();
    assert!(status.first_index > sent + 1, "the log is kept for ever: {status:?}");
    let name = format!("{sent:016x}.snap");
    let files = snapshot_files(cluster.member(leader));
    assert!(!files.iter().any(|file| file.ends_with(&name)), "{sent:x} is still in {files:?}");
}

/// A leader that hands over and leads again knows of the file that it is still sending: it sends no
/// second one beside it. No test noticed when it did.
#[test]
fn a_leader_that_leads_again_sends_no_second_snapshot() {
    let (mut cluster, leader, follower) = one_behind(taking(50), 24);
    let other = (1..=3).find(|id| ![leader, follower].contains(id)).unwrap();
    let mut moving = Vec::new();
    while moving.is_empty() {
        moving.extend(tick_but_for_snapshots(&mut cluster));
    }
    for (from, to) in [(leader, other), (other, leader)] {
        drop(cluster.transfer(from, Some(to)));
        for _ in 0..50 {
            moving.extend(tick_but_for_snapshots(&mut cluster));
        }
        assert_eq!(cluster.leader(), Some(to));
    }
    let n_own = moving.iter().filter(|(from, ..)| *from == leader).count();
    assert_eq!(n_own, 1, "sent beside the one that is moving");
    cluster.network.extend(moving);
    cluster.ticks(300);
    assert_eq!(cluster.member(follower).log.len(), 2000);
    cluster.assert_same_logs();
}

/// B5: however little of the log is to be kept, and however much lies between two snapshots, it
/// reaches back to the one before the newest, and no further: a start that finds the newest spoilt
/// goes on from there. Both were once kept where only the log after the newest was.
#[test]
fn the_log_reaches_back_to_the_snapshot_before() {
    for keep in 1..=3 {
        let mut recipe = Recipe::founder(&[1, 2, 3]);
        let bytes = 2 * recipe.segment_bytes;
        recipe.policy =
            SnapshotPolicy { bytes, keep, retain_bytes: 0, proportional: false, ..recipe.policy };
        let mut cluster = Cluster::with(recipe, 10);
        let leader = cluster.elect();
        let mut taken = std::collections::BTreeSet::new();
        for _ in 0..200 {
            let pending = cluster.propose(leader, vec![0x55; 4 << 10]);
            cluster.settle();
            applied(pending);
            let member = cluster.member(leader);
            let kept = member.core.kept_snapshots();
            let before = kept[kept.len().saturating_sub(if keep == 1 { 1 } else { 2 })].0;
            let first = member.shared.status().first_index;
            // An entry takes a sixteenth of a segment, and those go whole.
            assert!((before.saturating_sub(16)..=before + 1).contains(&first), "{first}, {kept:?}");
            let is_usable = |(index, _): &(u64, u64)| first <= index + 1;
            assert!(kept.iter().all(is_usable), "{first}, {kept:?}");
            taken.extend(kept);
        }
        assert!(taken.len() > 4, "{taken:?}");
        if keep > 1 {
            let member = cluster.member(leader);
            let (newest, fs) = (snapshot_files(member).pop().unwrap(), &member.fs);
            fs.remove_file(&Path::new("/data/snap").join(newest)).unwrap();
            fs.sync_dir(Path::new("/data/snap")).unwrap();
            let mut kept = cluster.member(leader).core.kept_snapshots();
            kept.pop();
            cluster.crash(leader);
            assert_eq!(cluster.member(leader).core.kept_snapshots(), kept);
            cluster.ticks(400);
            assert_eq!(cluster.member(leader).log.len(), 200);
            cluster.assert_same_logs();
        }
    }
}

/// Behind a newest snapshot that was found spoilt the log takes no other: what is wished for before
/// the replay has come that far waits. No test noticed when it was taken.
#[test]
fn nothing_is_taken_behind_a_spoilt_snapshot() {
    let mut recipe = taking(0);
    recipe.segment_bytes = 4 << 20;
    let mut cluster = Cluster::with(recipe, 25);
    let leader = cluster.elect();
    let mut taken = Vec::new();
    // More lies between the two than waits for a consumer at once.
    for n in [1, 12] {
        for _ in 0..n {
            let pending = cluster.propose(leader, vec![0x55; 1 << 20]);
            cluster.settle();
            applied(pending);
        }
        drop(cluster.snapshot(leader));
        cluster.settle();
        taken.push(cluster.member(leader).shared.status().snapshot_index);
    }
    let member = cluster.member(leader);
    let (newest, fs) = (snapshot_files(member).pop().unwrap(), &member.fs);
    fs.remove_file(&Path::new("/data/snap").join(newest)).unwrap();
    fs.sync_dir(Path::new("/data/snap")).unwrap();
    cluster.crash(leader);
    let kept = cluster.member(leader).core.kept_snapshots();
    assert_eq!(kept.last().map(|(index, _)| *index), Some(taken[0]));
    cluster.member(leader).consumes = false;
    cluster.settle();
    let published = cluster.member(leader).shared.status().published_index;
    assert!(taken[0] < published && published < taken[1], "{published}, {taken:?}");
    let mut wish = cluster.snapshot(leader);
    cluster.settle();
    assert!(!cluster.member(leader).shared.status().taking_snapshot, "behind the spoilt one");
    cluster.member(leader).consumes = true;
    cluster.elect();
    drop(cluster.propose(leader, "one more"));
    cluster.ticks(20);
    let answer = wish.try_wait();
    assert!(
        matches!(answer, Some(SnapshotTaken::Taken { index, .. }) if index > taken[1]),
        "{answer:?}"
    );
}

/// K4: a member that starts says how far its log was committed, not only where its snapshot ends: its
/// state machine shows nothing in between. No test noticed when it said the latter.
#[test]
fn a_start_says_what_was_committed() {
    let mut cluster = Cluster::with(taking(0), 26);
    let leader = cluster.elect();
    cluster.write(leader, 10);
    drop(cluster.snapshot(leader));
    cluster.settle();
    let taken = cluster.member(leader).shared.status().snapshot_index;
    cluster.write(leader, 10);
    cluster.ticks(20);
    cluster.crash(leader);
    cluster.member(leader).consumes = false;
    let core = &mut cluster.member(leader).core;
    let Some(Commit::Restore(restore)) = core.next_commit() else { panic!("no state") };
    assert_eq!((restore.index, restore.commit_index), (taken, core.hard_state().commit));
    assert!(restore.commit_index >= taken + 9, "{} after {taken}", restore.commit_index);
}

/// B1: while one is being written no other is asked for, and the node does not care how long it
/// takes.
#[test]
fn one_snapshot_at_a_time() {
    let mut cluster = Cluster::with(taking(10), 5);
    let leader = cluster.elect();
    cluster.member(leader).writes = false;
    cluster.write(leader, 300);
    let before = cluster.member(leader).shared.status();
    assert!(before.taking_snapshot && before.snapshot_index == 1, "{before:?}");
    cluster.member(leader).writes = true;
    cluster.write(leader, 20);
    assert!(cluster.member(leader).shared.status().snapshot_index > 300);
}

/// N5, on the member that takes a snapshot: whatever operation of its disk is the last one, and
/// whatever the crash leaves of what was not synced, the member comes back with everything that
/// was acknowledged.
#[test]
fn a_crash_at_any_step_of_taking_loses_nothing() {
    let script = |cluster: &mut Cluster, id: u64| {
        // Enough for several snapshots, and for segments to be deleted.
        write_through(cluster, id, 150)
    };
    crash_everywhere(&taking(30), 6, (Fault::Stop, 1..), losses, |_, leader| leader, script);
}

/// N5, on the member that receives one: a log of term 2 that ends in what nobody else has, under
/// a snapshot of term 3.
#[test]
fn a_crash_at_any_step_of_installing_loses_nothing() {
    crash_everywhere(&taking(30), 7, (Fault::Stop, 1..), losses, uncommitted, install_late);
}

/// The others let go of the log that a member needs, send it a snapshot, and write on.
pub(super) fn install_late(cluster: &mut Cluster, id: u64) -> Result<(), Failed> {
    let leader = cluster.elect();
    cluster.write(leader, 400);
    cluster.cut.clear();
    for _ in 0..200 {
        cluster.now += Duration::from_millis(10);
        for other in [1, 2, 3] {
            cluster.turn(other, true).or_else(|error| unless(other == id, error))?;
        }
        cluster.try_settle(id)?;
    }
    // A file that cannot be written is refused to its sender; the node goes on.
    if cluster.member(id).fs.create_dir(Path::new("/alive")).is_err() {
        return Err(Failed);
    }
    assert_eq!(cluster.member(id).n_restored, 2, "no snapshot was installed");
    write_through(cluster, id, 150)
}

/// Writes on, while the member's disk may end.
fn write_through(cluster: &mut Cluster, id: u64, n: u64) -> Result<(), Failed> {
    let leader = cluster.leader().unwrap();
    for _ in 0..n {
        let pending = cluster.propose(leader, vec![0x66; 900]);
        cluster.try_settle(id)?;
        applied(pending);
    }
    Ok(())
}

fn unless(holds: bool, error: Error) -> Result<(), Failed> {
    assert!(holds, "another member failed: {error}");
    Err(Failed)
}

/// The member under test has ended by its disk.
#[derive(Debug)]
pub(super) struct Failed;

impl Cluster {
    /// Settles, but for the failure of one member.
    fn try_settle(&mut self, id: u64) -> Result<(), Failed> {
        for member in [1, 2, 3] {
            self.turn(member, false).or_else(|error| unless(member == id, error))?;
        }
        while let Some((from, to, wire)) = self.network.pop_front() {
            self.deliver(from, to, wire).or_else(|error| unless(to == id, error))?;
        }
        Ok(())
    }
}

/// What a crash may leave.
fn losses(nth: u64) -> Vec<Loss> {
    vec![
        Loss::Everything,
        Loss::Nothing,
        Loss::Some(nth),
        Loss::Some(nth + 1000),
        Loss::Garbage(nth),
    ]
}

/// Runs the script once for every given operation on one member's disk, until there are no more; at
/// that one the disk ends or fails. The member crashes then or, if it goes on, at the end, and what is left of
/// the disk is started again.
pub(super) fn crash_everywhere(
    recipe: &Recipe,
    seed: u64,
    (fault, nths): (Fault, impl Iterator<Item = u64>),
    losses: impl Fn(u64) -> Vec<Loss>,
    prepare: impl Fn(&mut Cluster, u64) -> u64,
    script: impl Fn(&mut Cluster, u64) -> Result<(), Failed>,
) {
    for nth in nths {
        for loss in losses(nth) {
            let mut cluster = Cluster::with(recipe.clone(), seed);
            let leader = cluster.elect();
            cluster.write(leader, 5);
            let id = prepare(&mut cluster, leader);
            let fs = cluster.member(id).fs.clone();
            let at = fs.count(Op::Any) + nth;
            fs.inject(Op::Any, nth, fault);
            let lived = script(&mut cluster, id).is_ok();
            if lived && fs.count(Op::Any) <= at {
                assert!(nth > 100, "the script did little on the disk: {nth} operations");
                return;
            }
            let member = cluster.members.remove(&id).unwrap();
            let others = cluster.members.values();
            let acknowledged = others.max_by_key(|other| other.log.len()).unwrap().log.clone();
            // The connection that a snapshot was coming on breaks, and its sender hears of it.
            for other in cluster.members.values_mut() {
                other.core.snapshot_reported(id, &Err("crashed".into())).unwrap();
            }
            let survived = member.fs.crash(loss);
            let what = format!("{fault:?} of operation {nth}, {loss:?}");
            match cluster.start(id, survived, recipe) {
                Ok(()) => {}
                // Disks are not supposed to do that; it is at least seen.
                Err(Error::Corrupt(_)) if matches!(loss, Loss::Garbage(_)) => continue,
                Err(error) => panic!("{what}: {error}"),
            }
            let (snapshot, marker) = cluster.member(id).core.newest_snapshots();
            assert_eq!(snapshot, marker, "N5: {what}");
            cluster.cut.clear();
            cluster.ticks(400);
            let log = &cluster.member(id).log;
            for (index, data) in &acknowledged {
                assert_eq!(log.get(index), Some(data), "{what}, index {index}");
            }
            let member = cluster.member(id);
            let kept = member.core.kept_snapshots().into_iter();
            let kept: Vec<_> = kept.map(|(index, term)| snapshot::file_name(term, index)).collect();
            let mut files = snapshot_files(member);
            files.retain(|name| !name.ends_with(".broken"));
            assert_eq!(files, kept, "files that nobody would remove: {what}");
            cluster.assert_same_logs();
        }
    }
}

/// Makes a former leader whose log of an old term ends in entries that nobody else has.
pub(super) fn uncommitted(cluster: &mut Cluster, leader: u64) -> u64 {
    cluster.cut.insert(leader);
    for _ in 0..10 {
        drop(cluster.propose(leader, "nobody else has it"));
        cluster.settle();
    }
    cluster.elect();
    leader
}

/// A file whose header contradicts itself is refused before anything is made of it.
#[test]
fn a_header_that_contradicts_itself_is_refused() {
    let mut cluster = Cluster::with(taking(0), 22);
    let leader = cluster.elect();
    cluster.ticks(10);
    let follower = cluster.follower();
    let term = cluster.member(leader).core.hard_state().term;
    let fs: Arc<dyn Fs> = Arc::new(MemFs::new());
    let book = Book::founding(&founders());
    let mut header = snapshot::Header::genesis(cluster.member(leader).cluster, book);
    (header.index, header.term) = (500, term);
    header.book.members.remove(&leader);
    let path = Path::new("/forged");
    let file = snapshot::write(&fs, path, &header, |_| Ok(())).unwrap();
    let bytes = wal::fs::read_file(&*fs, path, file.bytes).unwrap();
    let mut message = Message { from: leader, to: follower, term, ..Message::default() };
    message.set_msg_type(raft::eraftpb::MessageType::MsgSnapshot);
    let metadata = message.mut_snapshot().mut_metadata();
    (metadata.index, metadata.term) = (500, term);
    metadata.set_conf_state(header.conf_state.clone());
    let taken = cluster.receive_snapshot(leader, follower, message, &bytes).unwrap();
    assert!(taken.is_err());
}
