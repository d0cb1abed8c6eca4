//! Disks that lose what was synced: the member that lost it ends for good, and the one that still
//! holds what all others lost ends rather than follow them.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tests::cluster::{Cluster, id};
use tests::load::{Fill, read};

const ENDS_WITHIN: Duration = Duration::from_secs(20);
const CORRUPT: i32 = 3;
const LOST: i32 = 5;
const SECTOR: usize = 512;

/// The end of the log in a data directory: the newest segment, and where its zeros begin.
fn end_of_log(data_dir: &Path) -> (PathBuf, u64) {
    let wal = data_dir.join("wal");
    let names = fs::read_dir(&wal).expect("a log").map(|entry| entry.expect("a name").path());
    let segments = names.filter(|path| path.extension().is_some_and(|ext| ext == "wal"));
    let newest = segments.max().expect("a segment");
    let bytes = fs::read(&newest).expect("a segment can be read");
    let sectors = bytes.chunks(SECTOR).rposition(|sector| sector.iter().any(|byte| *byte != 0));
    let end = sectors.map_or(0, |last| (last + 1) * SECTOR);
    (newest, end as u64)
}

/// Takes back what was written behind `end`, synced or not.
fn cut(end: &(PathBuf, u64), data_dir: &Path) {
    let (newest, now) = end_of_log(data_dir);
    assert_eq!(newest, end.0, "a segment was begun meanwhile");
    assert!(now > end.1, "nothing was written");
    let file = OpenOptions::new().write(true).open(newest).expect("a segment can be written");
    let zeros = vec![0; usize::try_from(now - end.1).expect("a small tail")];
    file.write_all_at(&zeros, end.1).expect("zeros are written");
}

fn put(cluster: &Cluster, member: usize, key: &str) {
    let answer = cluster.ask(member, "PUT", &format!("/{key}"), key);
    assert_eq!(answer.status, 204, "{}", answer.text());
}

/// The value of a key, as every one of `members` has it now.
fn everywhere(cluster: &Cluster, members: &[usize], key: &str) {
    for &member in members {
        let value = read(&mut cluster.client(member), &format!("/{key}"));
        assert_eq!(value.as_deref(), Some(key), "on member {}", id(member));
    }
}

/// A follower acknowledged a batch, and its disk forgets it: the leader remembers. It ends, says
/// which two commands replace it, and does not come back when it is started again, be the leader
/// there or not.
#[test]
fn a_follower_that_lost_a_synced_batch_ends_for_good() {
    let mut cluster = Cluster::start(3);
    let leader = cluster.wait_leader();
    let follower = (leader + 1) % 3;
    Fill { n_keys: 50, value_bytes: 10 }.write(cluster.address(leader), 4);
    put(&cluster, leader, "first");
    everywhere(&cluster, &[follower], "first");
    let end = end_of_log(&cluster.data_dir(follower));
    put(&cluster, leader, "second");
    everywhere(&cluster, &[follower], "second");

    cluster.kill(follower);
    cut(&end, &cluster.data_dir(follower));
    cluster.restart(follower);
    let status = cluster.wait_exit(follower, ENDS_WITHIN);
    let said = cluster.said(follower);
    assert_eq!(status.code(), Some(LOST), "{said}");
    for expected in ["acknowledged", "curl -X DELETE http://", "raftexample --join --id NEW"] {
        assert!(said.contains(expected), "no {expected:?}: {said}");
    }
    // The others do not need it, and it had nothing that they lack.
    put(&cluster, leader, "third");
    cluster.kill_all();
    cluster.restart(follower);
    let status = cluster.wait_exit(follower, ENDS_WITHIN);
    let said = cluster.said(follower);
    assert_eq!(status.code(), Some(LOST), "{said}");
    let last_words = said.rsplit("raftexample: ").next().unwrap_or_default();
    assert_eq!(last_words.matches("curl -X DELETE http://").count(), 1, "said once: {last_words}");

    let others = [leader, (leader + 2) % 3];
    others.iter().for_each(|&member| cluster.restart(member));
    cluster.wait_ready(leader);
    everywhere(&cluster, &others, "third");
}

/// A majority was brought back from old copies while the third member was away, and leads. The
/// member that holds what they lack ends before it follows them, also when it is started again, and
/// says what to do; with the directories of the others back, nothing is lost.
#[test]
fn a_member_that_holds_what_the_cluster_lost_keeps_it() {
    let mut cluster = Cluster::start(3);
    cluster.wait_leader();
    put(&cluster, 0, "first");
    everywhere(&cluster, &[0, 1, 2], "first");
    let ends = [0, 1].map(|member| end_of_log(&cluster.data_dir(member)));
    put(&cluster, 0, "second");
    everywhere(&cluster, &[0, 1, 2], "second");
    cluster.freeze(2);
    [0, 1].iter().for_each(|&member| cluster.kill(member));
    let saved = [0, 1].map(|member| fs::read(&ends[member].0).expect("a segment"));
    for member in [0, 1] {
        cut(&ends[member], &cluster.data_dir(member));
        cluster.restart(member);
    }
    // They know nothing of the second write, and take another in its place.
    cluster.wait_ready(1);
    put(&cluster, 1, "third");
    cluster.thaw(2);
    let kept = cluster.data_dir(2).display().to_string();
    for start in 0..2 {
        if start > 0 {
            cluster.restart(2);
        }
        let status = cluster.wait_exit(2, ENDS_WITHIN);
        let said = cluster.said(2);
        assert_eq!(status.code(), Some(CORRUPT), "{said}");
        let expected =
            format!("this member holds entries the leader lacks; keep {kept}, stop the others");
        assert!(said.contains(&expected), "{said}");
    }

    cluster.kill_all();
    for member in [0, 1] {
        fs::write(&ends[member].0, &saved[member]).expect("a segment can be restored");
    }
    cluster.restart_all();
    cluster.wait_all_ready();
    everywhere(&cluster, &[0, 1, 2], "second");
}
