//! The log does not grow for ever, and nothing is lost with what it drops.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;
use tests::cluster::{Cluster, READY_TIMEOUT, id};
use tests::load::Fill;

const CORRUPT: i32 = 3;

fn snapshot_index(cluster: &Cluster, member: usize) -> Result<u64, String> {
    let status = cluster.status(member)?;
    status["snapshot_index"].as_u64().ok_or_else(|| status.to_string())
}

/// A member's snapshot files, the newest last.
fn snapshot_files(cluster: &Cluster, member: usize) -> Vec<PathBuf> {
    let directory = cluster.data_dir(member).join("snap");
    let entries = fs::read_dir(&directory).expect("the data directory has snapshots");
    let mut files: Vec<_> = entries
        .map(|entry| entry.expect("the directory can be read").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "snap"))
        .collect();
    // Their names begin with the term and the index, in as many digits each.
    files.sort();
    files
}

/// Counterpart of the original's TestSnapshot and Test_kvstore_snapshot, on whole processes: a
/// snapshot is taken when asked for, and when the log says so; and from what it holds and the log
/// after it, every value comes back.
#[test]
fn the_store_comes_back_from_a_snapshot_and_the_log_after_it() {
    let mut cluster =
        Cluster::start_with(1, &["--snapshot-count", "200", "--snapshot-catchup-entries", "10"]);
    let fill = Fill { n_keys: 100, value_bytes: 300 };
    fill.write(cluster.address(0), 1);
    assert!(snapshot_index(&cluster, 0).expect("it serves") <= 1, "a snapshot before it was due");
    let answer = cluster.ask(0, "POST", "/_snapshot", "");
    assert_eq!(answer.status, 200, "{}", answer.text());
    let taken: Value = serde_json::from_slice(&answer.body).expect("the answer is JSON");
    let index = taken["index"].as_u64().expect("it names the index");
    assert!(index > 100 && taken["term"].as_u64() >= Some(1), "{taken}");
    cluster.eventually("it is shown", READY_TIMEOUT, || match snapshot_index(&cluster, 0)? {
        shown if shown == index => Ok(()),
        other => Err(format!("{other}, not {index}")),
    });
    // Nothing new to hold: the same one answers.
    let again = cluster.ask(0, "POST", "/_snapshot", "");
    assert_eq!((again.status, &again.body), (200, &answer.body));

    let fill = Fill { n_keys: 450, ..fill };
    fill.write(cluster.address(0), 1);
    cluster.eventually("a snapshot is taken by itself", READY_TIMEOUT, || {
        match snapshot_index(&cluster, 0)? {
            later if later > index + 200 => Ok(()),
            other => Err(format!("{other} after {index}")),
        }
    });
    cluster.kill(0);
    cluster.restart_all();
    fill.assert_there(cluster.address(0), 1);
    assert!(snapshot_index(&cluster, 0).expect("it serves") > index + 200);
}

/// A member that was down for 50,000 writes is brought back by a snapshot and the log after it,
/// and holds every value.
#[test]
fn a_member_down_for_50_000_writes_catches_up() {
    let flags = ["--snapshot-bytes", "16MiB", "--snapshot-catchup-entries", "10"];
    let flags = [&flags[..], &["--snapshot-count", "0", "--snapshot-keep", "1"]].concat();
    let mut cluster = Cluster::start_with(3, &flags);
    let down = 2;
    cluster.kill(down);
    let fill = Fill { n_keys: 50_000, value_bytes: 8 };
    fill.write(cluster.address(cluster.wait_leader()), 16);
    cluster.compact(&[0, 1]);
    let after = Fill { n_keys: 200, value_bytes: 9 };
    after.write(cluster.address(0), 4);

    cluster.restart(down);
    cluster.wait_ready(down);
    after.assert_there(cluster.address(down), 1);
    for key in (after.n_keys..fill.n_keys).step_by(100) {
        fill.assert_key(&mut cluster.client(down), key);
    }
    let installed = cluster.metric(down, "raft_snapshot_installed_seconds_count");
    assert!(installed.as_ref().is_ok_and(|&n| n > 0.0), "not by snapshot: {installed:?}");
    // And with it, of three, another can go.
    cluster.kill(0);
    cluster.wait_leader();
    let put = cluster.ask(down, "PUT", "/after", "all");
    assert_eq!(put.status, 204, "{}", put.text());
}

/// A snapshot file that is cut, flipped or missing is found out at start. While the log covers
/// everything after an older one, that one is used and nothing is lost.
#[test]
fn a_spoilt_snapshot_falls_back_to_the_one_before() {
    for spoil in SPOILS {
        let (mut cluster, fill) = with_two_snapshots("100000");
        let newest = snapshot_files(&cluster, 0).pop().expect("there are snapshots");
        (spoil.apply)(&newest);
        cluster.restart_all();
        fill.assert_there(cluster.address(0), 1);
        let name = newest.file_name().expect("a file has a name").to_string_lossy();
        let said = cluster.said(0);
        assert!(said.contains(&*name), "{}: it does not name {name}: {said}", spoil.what);
    }
}

/// When no snapshot is left that the log goes on from, the member does not start, and says which
/// file is wrong.
#[test]
fn without_a_good_snapshot_a_member_does_not_start() {
    for spoil in SPOILS {
        let (mut cluster, _) = with_two_snapshots("10");
        let files = snapshot_files(&cluster, 0);
        files.iter().for_each(|file| (spoil.apply)(file));
        cluster.restart(0);
        let status = cluster.wait_exit(0, READY_TIMEOUT);
        let said = cluster.said(0);
        assert_eq!(status.code(), Some(CORRUPT), "{}: {said}", spoil.what);
        let newest = files.last().expect("there are snapshots").file_name().expect("has a name");
        assert!(said.contains(&*newest.to_string_lossy()), "{}: {said}", spoil.what);
    }
}

/// Something that happens to a snapshot file.
struct Spoil {
    what: &'static str,
    apply: fn(&PathBuf),
}

const SPOILS: [Spoil; 4] = [
    Spoil {
        what: "cut in its header",
        apply: |file| {
            let bytes = fs::read(file).expect("it can be read");
            fs::write(file, &bytes[..20]).expect("it can be written");
        },
    },
    Spoil {
        what: "cut in its state",
        apply: |file| {
            let bytes = fs::read(file).expect("it can be read");
            fs::write(file, &bytes[..bytes.len() - 1]).expect("it can be written");
        },
    },
    Spoil {
        what: "flipped in its state",
        apply: |file| {
            let mut bytes = fs::read(file).expect("it can be read");
            let place = bytes.len() * 3 / 4;
            bytes[place] ^= 1;
            fs::write(file, bytes).expect("it can be written");
        },
    },
    Spoil { what: "missing", apply: |file| fs::remove_file(file).expect("it can be removed") },
];

/// One member that was killed with two snapshots in its directory and a log of a few entries
/// after the second; `catch_up` entries of it are kept before each.
fn with_two_snapshots(catch_up: &str) -> (Cluster, Fill) {
    let flags = ["--snapshot-count", "0", "--snapshot-bytes", "0", "--snapshot-keep", "2"];
    let flags = [&flags[..], &["--snapshot-catchup-entries", catch_up]].concat();
    let mut cluster = Cluster::start_with(1, &flags);
    let mut fill = Fill { n_keys: 0, value_bytes: 100 };
    for _ in 0..2 {
        fill.n_keys += 100;
        fill.write(cluster.address(0), 1);
        let answer = cluster.ask(0, "POST", "/_snapshot", "");
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    fill.n_keys += 5;
    fill.write(cluster.address(0), 1);
    cluster.kill(0);
    assert_eq!(snapshot_files(&cluster, 0).len(), 2, "at member {}", id(0));
    (cluster, fill)
}
