//! Directories that are whole, damaged or put together wrongly: what is said of them is what a start
//! does with them.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use slog::Logger;
use wal::{Batch, Options, Wal};

use super::*;
use crate::directory::Directory;
use crate::identity::Identity;
use crate::membership::{Member, parse_cluster};
use crate::snapshot::Header;
use crate::{Config, Error as NodeError};

const LAST: u64 = 40;
const NEWEST: u64 = 30;

fn config(data: &Path) -> Config {
    let founders = parse_cluster("http://a:1").unwrap();
    Config { wal_segment_bytes: 4096, ..Config::new(1, founders, data.into()) }
}

/// What a start makes of a directory. It mends what it may, so this comes last.
fn start(data: &Path) -> Result<(), NodeError> {
    let logger = Logger::root(slog::Discard, slog::o!());
    let fs: Arc<dyn Fs> = Arc::new(DiskFs);
    let directory = Directory::inspect(fs, &config(data))?;
    let register = &mut |_: &Identity| panic!("nobody joins here");
    directory.open(&config(data), register, &AtomicBool::new(false), &logger).map(drop)
}

fn snap(data: &Path, term: u64, index: u64) -> PathBuf {
    data.join(SNAP).join(snapshot::file_name(term, index))
}

/// A directory with the genesis snapshot, a newer one, and entries before and after that. With
/// releases the log begins behind the first of them.
fn used(data: &Path, releases: bool) {
    let fs: Arc<dyn Fs> = Arc::new(DiskFs);
    start(data).unwrap();
    let genesis = snapshot::verify(&DiskFs, &snap(data, 1, 1), &|| false).unwrap();
    let header = Header { index: NEWEST, ..genesis.header };
    let options = Options { cluster: header.cluster, node: 1, segment_bytes: 4096 };
    let (mut wal, _) = Wal::open(Arc::clone(&fs), &data.join(WAL), options, &|| false).unwrap();
    let mut batch = Batch::new();
    for index in 2..=LAST {
        batch.push_entry(index, 1, false, &[&[0; 4], &[1; 300]]);
        batch.set_hard_state(HardState { term: 1, vote: 1, commit: index });
        wal.save(&mut batch).unwrap();
    }
    let tmp = snap(data, 1, NEWEST).with_file_name(snapshot::temporary_name(1, NEWEST, 1));
    let written = snapshot::write(&fs, &tmp, &header, |to| to.write_all(&[7; 3000])).unwrap();
    batch.set_marker(written.give_final_name(&DiskFs).unwrap().marker);
    wal.save(&mut batch).unwrap();
    if releases {
        assert!(wal.release(20).unwrap().unwrap().delete().unwrap().n_segments > 0);
    }
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
}

fn look(path: &Path) -> (Result<Summary, Error>, Vec<String>) {
    let mut said = Vec::new();
    let summary = open(path).and_then(|inspection| {
        inspection.run(&mut |item| {
            if let Item::Finding(finding) = item {
                said.push(finding.to_string());
            }
            ControlFlow::Continue(())
        })
    });
    (summary, said)
}

/// What happens to a directory, whether it is sound then, and what is said.
type Case = (&'static str, bool, fn(&Path), bool, &'static str);

/// N5, D3: what is called corrupt here is what a start refuses. The one exception is a damaged
/// snapshot behind which an older one serves: a start passes it over, but it is not sound.
#[test]
fn directories_are_judged_as_by_starting() {
    let table: [Case; 17] = [
        ("whole", false, |_| (), true, "entries 2 to "),
        ("whole, released", true, |_| (), true, "sealed"),
        ("one of no use", true, |d| flip(&snap(d, 1, 1), 100), true, "does not go on from it"),
        ("snapshot lost", true, |d| fs::remove_file(snap(d, 1, 30)).unwrap(), false, "missing"),
        (
            "snapshot passed over",
            false,
            |d| fs::remove_file(snap(d, 1, 30)).unwrap(),
            true,
            "older",
        ),
        ("snapshot damaged", true, |d| flip(&snap(d, 1, 30), 1000), false, "fails its checksum"),
        (
            "another snapshot",
            true,
            |d| {
                fs::copy(snap(d, 1, 1), snap(d, 1, 30)).map(drop).unwrap_or_else(|_| {
                    // Its file went with the log before it.
                    fs::write(snap(d, 1, 30), include_bytes!("../golden/snapshot-v1")).unwrap();
                });
            },
            false,
            "not the one that the log names",
        ),
        (
            "an orphan",
            false,
            |d| {
                fs::copy(snap(d, 1, 30), snap(d, 1, 35)).unwrap();
            },
            true,
            "no marker in the log names it",
        ),
        (
            "half a snapshot",
            false,
            |d| {
                fs::write(d.join(SNAP).join(snapshot::temporary_name(1, 9, 1)), "x").unwrap();
            },
            true,
            "no marker in the log names it",
        ),
        (
            "a stranger",
            false,
            |d| fs::write(d.join("snap/notes"), "x").unwrap(),
            true,
            "left alone",
        ),
        (
            "no snapshots",
            false,
            |d| {
                fs::remove_dir_all(d.join(SNAP)).unwrap();
                fs::create_dir(d.join(SNAP)).unwrap();
            },
            false,
            "can go on from",
        ),
        ("identity damaged", false, |d| flip(&d.join(IDENTITY), 20), false, "fails its checksum"),
        ("identity lost", false, |d| fs::remove_file(d.join(IDENTITY)).unwrap(), false, "restore"),
        (
            "identity of another",
            false,
            |d| {
                let identity = Identity { node: 1, incarnation: 1, cluster: 2 };
                fs::write(d.join(IDENTITY), identity.encode()).unwrap();
            },
            false,
            "the log of member 1 of cluster",
        ),
        ("log lost", false, |d| fs::remove_dir_all(d.join(WAL)).unwrap(), false, "it was in use"),
        (
            "log emptied",
            false,
            |d| {
                fs::remove_dir_all(d.join(WAL)).unwrap();
                fs::create_dir(d.join(WAL)).unwrap();
            },
            false,
            "at least one segment",
        ),
        (
            "log damaged",
            false,
            |d| {
                flip(&d.join(WAL).join("0000000000000001-0000000000000002.wal"), 1100);
            },
            false,
            "corrupt at offset 1024 (entries 2 to ",
        ),
    ];
    for (what, releases, change, is_sound, expected) in table {
        let directory = tempfile::tempdir().unwrap();
        let data = directory.path().join("data");
        used(&data, releases);
        change(&data);
        let (summary, said) = look(&data);
        let text = said.join("\n");
        assert_eq!(summary.unwrap().is_sound(), is_sound, "{what}: {text}");
        assert!(text.contains(expected), "{what}: {text}");
        let started = start(&data);
        assert_eq!(started.is_ok(), is_sound, "{what}: {:?}, {text}", started.err());
    }
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    used(&data, false);
    flip(&snap(&data, 1, NEWEST), 1000);
    assert!(!look(&data).0.unwrap().is_sound());
    start(&data).unwrap();
    let (summary, said) = look(&data);
    assert!(summary.unwrap().is_sound() && said.join("\n").contains("set aside"), "{said:?}");

    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    used(&data, true);
    assert!(snap(&data, 1, 1).exists());
    start(&data).unwrap();
    assert!(!snap(&data, 1, 1).exists(), "nothing would ever remove it");
}

/// Each part can be looked at by itself, and is found out by what is in it.
#[test]
fn every_part_is_known_by_itself() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    used(&data, false);
    fs::write(data.join(pins::FILE), pins::encode(&BTreeMap::from([(2, 5)]))).unwrap();
    fs::write(data.join("removed"), "member 1 was removed\n").unwrap();
    let segment = data.join(WAL).join("0000000000000002-0000000000000007.wal");
    let segment = if segment.exists() {
        segment
    } else {
        let names = names(&data.join(WAL)).unwrap();
        data.join(WAL).join(names.iter().find(|n| n.starts_with("0000000000000002")).unwrap())
    };
    let table = [
        (data.clone(), Kind::DataDirectory, "no member starts here again: member 1 was removed"),
        (data.join(WAL), Kind::Log, "sound"),
        (segment, Kind::Segment, "looked at alone"),
        (data.join(SNAP), Kind::Snapshots, "through entry 30"),
        (snap(&data, 1, NEWEST), Kind::Snapshot, "through entry 30"),
        (data.join(IDENTITY), Kind::Identity, "member 1 of cluster"),
        (data.join(pins::FILE), Kind::Pins, "1 other member"),
    ];
    for (path, kind, expected) in table {
        assert_eq!(open(&path).unwrap().kind(), kind);
        let (summary, said) = look(&path);
        assert!(summary.unwrap().is_sound(), "{said:?}");
        assert!(said.join("\n").contains(expected), "{kind:?}: {said:?}");
        // Whichever part it is, its member cannot start meanwhile, and is not disturbed if it runs.
        let inspection = open(&path).unwrap();
        assert!(DiskFs.lock(&data.join(LOCK)).is_err(), "{kind:?}");
        drop(inspection);
        let running = DiskFs.lock(&data.join(LOCK)).unwrap();
        assert!(matches!(open(&path), Err(Error::Locked { .. })), "{kind:?}");
        drop(running);
    }
    for (path, says) in [(directory.path(), "holds data"), (&data.join("removed"), "\"member 1\"")]
    {
        let Err(Error::Unknown { what, .. }) = open(path) else { panic!("{}", path.display()) };
        assert!(what.contains(says), "{what}");
    }
    let missing = open(&data.join("nothing"));
    assert!(matches!(missing, Err(Error::Unreadable { .. })), "{missing:?}");
}

/// A member that joins has a directory before it has a log, and a void log before its snapshot.
#[test]
fn directories_that_are_not_begun_are_sound() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path();
    let joining = Identity { node: 7, incarnation: 1, cluster: 0 };
    fs::write(data.join(IDENTITY), joining.encode()).unwrap();
    let (summary, said) = look(data);
    assert!(summary.unwrap().is_sound() && said[0].contains("joining a cluster"), "{said:?}");
    let joined = Identity { cluster: 5, ..joining };
    fs::write(data.join(IDENTITY), joined.encode()).unwrap();
    fs::create_dir(data.join(SNAP)).unwrap();
    let options = Options { cluster: 5, node: 7, segment_bytes: 4096 };
    drop(Wal::create(Arc::new(DiskFs), &data.join(WAL), options, &mut Batch::new()).unwrap());
    let (summary, said) = look(data);
    assert!(summary.unwrap().is_sound(), "{said:?}");
}

/// An entry shows what the node meant by it; what it never wrote is shown as it is.
#[test]
fn entries_are_told_apart() {
    let member = Member {
        url: "http://c:3".into(),
        role: crate::membership::MemberRole::Learner,
        wants: crate::membership::MemberRole::Voter,
        incarnation: None,
    };
    let key = crate::key::Key { node: 3, nonce: 1, sequence: 2 }.encode();
    let command = [&[0, 0, 24, 0][..], &key, b"do"].concat();
    let content = log::content(&command);
    assert!(matches!(content, Content::Command { proposer: Some(3), data: b"do" }), "{content:?}");
    assert!(matches!(log::content(&[0, 0, 0, 0]), Content::Nothing));
    for strange in [&b""[..], b"\x00\x00\x09\x00", b"\x07\x00\x00\x00", b"\x01\x00\x00\x00\xff"] {
        assert!(matches!(log::content(strange), Content::Unknown(bytes) if bytes == strange));
    }
    let mut change = raft::eraftpb::ConfChange { node_id: 9, ..Default::default() };
    change.set_change_type(raft::eraftpb::ConfChangeType::AddLearnerNode);
    let mut record = Vec::new();
    member.encode(&mut record);
    change.context = record.into();
    let bytes = protobuf::Message::write_to_bytes(&change).unwrap();
    let payload = [&[1, 0, 0, 0][..], &bytes].concat();
    let content = log::content(&payload);
    assert!(matches!(content, Content::Member { id: 9, member: ref m } if *m == member));
    change.set_change_type(raft::eraftpb::ConfChangeType::RemoveNode);
    let bytes = protobuf::Message::write_to_bytes(&change).unwrap();
    let payload = [&[1, 0, 0, 0][..], &bytes].concat();
    assert!(matches!(log::content(&payload), Content::Removal { id: 9 }));
}
