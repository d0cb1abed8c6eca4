//! Directories that are damaged, cut off, or somebody else's.

use std::io::Read;

use wal::fs::MemFs;
use wal::{Batch, HardState, Options};

use super::*;
use crate::membership::parse_cluster;

const DATA: &str = "/data";
const LAST: u64 = 40;
const NEWEST: u64 = 30;
const STATE: &[u8] = &[7; 3000];

fn config() -> Config {
    let founders = parse_cluster("http://a:1").unwrap();
    Config { wal_segment_bytes: 4096, ..Config::new(1, founders, DATA.into()) }
}

fn open(fs: &Arc<dyn Fs>, stop: bool) -> Result<Recovered, Error> {
    let logger = Logger::root(slog::Discard, slog::o!());
    let directory = Directory::inspect(Arc::clone(fs), &config())?;
    let register = &mut |_: &Identity| panic!("nobody joins here");
    directory.open(&config(), register, &AtomicBool::new(stop), &logger)
}

fn snap(term: u64, index: u64) -> PathBuf {
    Path::new(DATA).join(SNAP).join(snapshot::file_name(term, index))
}

fn newest(found: &Recovered) -> &Path {
    &found.kept.last().unwrap().path
}

/// A directory with the genesis snapshot, a newer one, and entries before and after that.
fn two_snapshots(releases: bool) -> (MemFs, Arc<dyn Fs>) {
    let mem = MemFs::new();
    let fs: Arc<dyn Fs> = Arc::new(mem.clone());
    let found = open(&fs, false).unwrap();
    let cluster = found.identity.cluster;
    let header = Header { index: NEWEST, ..found.header.clone() };
    drop(found);
    let options = Options { cluster, node: 1, segment_bytes: 4096 };
    let path = Path::new(DATA).join(WAL);
    let (mut wal, _) = Wal::open(Arc::clone(&fs), &path, options, &|| false).unwrap();
    let mut batch = Batch::new();
    for index in 2..=LAST {
        batch.push_entry(index, 1, false, &[&[0; 4], &[1; 300]]);
        batch.set_hard_state(HardState { term: 1, vote: 1, commit: index });
        wal.save(&mut batch).unwrap();
    }
    let tmp = snap(1, NEWEST).with_file_name(snapshot::temporary_name(1, NEWEST, 1));
    let written = snapshot::write(&fs, &tmp, &header, |to| to.write_all(STATE)).unwrap();
    batch.set_marker(written.give_final_name(&*fs).unwrap().marker);
    wal.save(&mut batch).unwrap();
    if releases {
        assert!(wal.release(20).unwrap().unwrap().delete().unwrap().n_segments > 0);
    }
    (mem, fs)
}

fn replace(fs: &dyn Fs, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = wal::fs::read_file(fs, path, 1 << 20).unwrap();
    change(&mut bytes);
    wal::fs::write_file_durably(fs, path, &bytes).unwrap();
}

/// What happens to a snapshot file, and what the refusal says of it.
type Damage = (&'static str, fn(&dyn Fs, &Path), &'static str);

const DAMAGES: [Damage; 5] = [
    ("header", |fs, at| replace(fs, at, |b| b[40] ^= 1), "checksum (at offset 0)"),
    ("body", |fs, at| replace(fs, at, |b| b[1000] ^= 1), "fails its checksum (at offset "),
    ("cut", |fs, at| replace(fs, at, |b| b.truncate(b.len() - 1)), "ends too early (at offset "),
    ("missing", |fs, at| fs.remove_file(at).unwrap(), "is missing"),
    (
        "another's",
        |fs, at| {
            let genesis = at.with_file_name(snapshot::file_name(1, 1));
            let bytes = wal::fs::read_file(fs, &genesis, 1 << 20).unwrap();
            replace(fs, at, |b| *b = bytes);
        },
        "is not the one the log names",
    ),
];

/// The newest snapshot is the one to go on from, with its body.
#[test]
fn newest_snapshot_is_used() {
    for releases in [false, true] {
        let (_, fs) = two_snapshots(releases);
        let mut found = open(&fs, false).unwrap();
        assert_eq!(newest(&found), &snap(1, 30));
        assert_eq!(found.kept.len(), if releases { 1 } else { 2 });
        assert_eq!(found.storage.snapshot_index(), NEWEST);
        let mut body = Vec::new();
        found.snapshot.read_to_end(&mut body).unwrap();
        assert_eq!(body, STATE);
    }
}

/// D3, N5: a damaged snapshot is passed over when the log goes on from an older one, and
/// nothing of it is deleted; otherwise the directory is refused, and the message says what is
/// wrong where, and which entries are there.
#[test]
fn damaged_snapshot_is_passed_over_only_if_the_log_reaches_back() {
    for (what, damage, says) in DAMAGES {
        let (_, fs) = two_snapshots(false);
        damage(&*fs, &snap(1, NEWEST));
        let mut found = open(&fs, false).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(newest(&found), &snap(1, 1), "{what}");
        assert_eq!(found.storage.snapshot_index(), 1, "{what}");
        assert_eq!(found.snapshot.read(&mut [0]).unwrap(), 0, "{what}: an empty state");
        let broken = snap(1, NEWEST).with_extension("snap.broken");
        assert_eq!(fs.exists(&broken).unwrap(), what != "missing");

        let (_, fs) = two_snapshots(true);
        damage(&*fs, &snap(1, NEWEST));
        let Err(Error::Corrupt(message)) = open(&fs, false) else { panic!("{what}") };
        let name = snapshot::file_name(1, NEWEST);
        assert!(message.contains(&name) && message.contains(says), "{what}: {message}");
        let range = format!("to {LAST}, can go on from");
        assert!(message.contains(&range), "{what}: {message}");
    }
}

/// No snapshot is not an empty one. The empty one of the beginning is a file like any other: a
/// directory that has lost its snapshots is refused, though its log may begin at the first entry, and
/// nothing in it is changed.
#[test]
fn no_snapshot_is_not_an_empty_one() {
    for releases in [false, true] {
        let (_, fs) = two_snapshots(releases);
        let saved: Vec<_> = [snap(1, 1), snap(1, NEWEST)]
            .into_iter()
            .filter(|file| fs.exists(file).unwrap())
            .map(|file| (wal::fs::read_file(&*fs, &file, 1 << 20).unwrap(), file))
            .collect();
        saved.iter().for_each(|(_, file)| fs.remove_file(file).unwrap());
        for _ in 0..2 {
            let Err(Error::Corrupt(message)) = open(&fs, false) else { panic!("{releases}") };
            assert!(message.contains("is missing"), "{message}");
            assert!(message.contains("holds no snapshot that the log"), "{message}");
        }
        for (bytes, file) in &saved {
            wal::fs::write_file_durably(&*fs, file, bytes).unwrap();
        }
        let found = open(&fs, false).unwrap();
        assert_eq!(found.storage.snapshot_index(), NEWEST);
        assert_eq!(found.storage.wal().last_index(), LAST);
    }
}

/// Files that no marker names are what a crash left: they go once a snapshot is found, and
/// what is not a snapshot's stays.
#[test]
fn orphans_are_removed_and_strangers_stay() {
    let (_, fs) = two_snapshots(false);
    let orphans = [snap(1, 35), snap(1, 35).with_file_name(snapshot::temporary_name(1, 35, 9))];
    let stranger = snap(1, 35).with_file_name("notes");
    for file in orphans.iter().chain([&stranger]) {
        fs.create_new(file).unwrap();
    }
    drop(open(&fs, false).unwrap());
    assert!(orphans.iter().all(|file| !fs.exists(file).unwrap()));
    assert!(fs.exists(&stranger).unwrap() && fs.exists(&snap(1, 1)).unwrap());
}

/// D2: a founding that stops anywhere leaves a directory that is founded anew or is whole,
/// with the genesis snapshot durable before anything names it.
#[test]
fn interrupted_founding_is_begun_again() {
    use wal::fs::{Fault, Loss, Op};
    for at in 0.. {
        let mem = MemFs::new();
        let fs: Arc<dyn Fs> = Arc::new(mem.clone());
        mem.inject(Op::Any, at, Fault::Stop);
        let is_done = open(&fs, false).is_ok();
        for loss in [Loss::Everything, Loss::Nothing, Loss::Some(at), Loss::Garbage(at)] {
            let fs: Arc<dyn Fs> = Arc::new(mem.crash(loss));
            let found = open(&fs, false).unwrap_or_else(|e| panic!("{at}, {loss:?}: {e}"));
            assert_eq!(newest(&found), &snap(1, 1), "{at}, {loss:?}");
        }
        if is_done {
            break;
        }
    }
}

/// A directory that somebody has made for the member may be in one that cannot be synced: one that
/// it may not read, or of a file system that is never written. What it makes itself must be durable,
/// and a disk that fails fails.
#[test]
fn a_directory_that_is_given_may_be_out_of_reach() {
    use wal::fs::{Fault, Op};
    let [eio, eacces, einval, erofs] = [5, 13, 22, 30];
    for (code, is_fine) in [(eio, false), (eacces, true), (einval, true), (erofs, true)] {
        for is_given in [false, true] {
            let mem = MemFs::new();
            if is_given {
                mem.create_dir(Path::new(DATA)).unwrap();
            }
            mem.inject(Op::Sync, 0, Fault::Error(code));
            let fs: Arc<dyn Fs> = Arc::new(mem);
            match open(&fs, false) {
                Ok(_) => assert!(is_given && is_fine, "error {code}, given: {is_given}"),
                Err(Error::Unusable { operation: "sync", path, .. }) => {
                    assert!(!(is_given && is_fine) && path == Path::new("/"), "error {code}");
                }
                Err(error) => panic!("{error}"),
            }
        }
    }
}

/// A stop while the directory is read ends the start, whatever there is still to verify.
#[test]
fn start_can_be_stopped() {
    let (_, fs) = two_snapshots(false);
    assert!(matches!(open(&fs, true), Err(Error::Interrupted)));
}

/// Whoever restarts a member knows where it is, not who it is; asking must not change a byte.
#[test]
fn a_directory_says_whose_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    assert_eq!(member_id(&path.join("missing")).unwrap(), None);
    assert_eq!(member_id(path).unwrap(), None);
    let identity = Identity { node: 7, incarnation: 1, cluster: 2 };
    std::fs::write(path.join(IDENTITY), identity.encode()).unwrap();
    assert_eq!(member_id(path).unwrap(), Some(7));
    assert_eq!(std::fs::read_dir(path).unwrap().count(), 1);
    std::fs::write(path.join(IDENTITY), [0; 56]).unwrap();
    assert!(matches!(member_id(path), Err(Error::Corrupt(_))));
}

/// A new directory needs this member's URL; one that has been used has it in its book.
#[test]
fn only_a_new_directory_asks_for_its_member_in_the_cluster() {
    let fs: Arc<dyn Fs> = Arc::new(wal::fs::DiskFs);
    let directory = tempfile::tempdir().unwrap();
    let config = Config::new(7, Vec::new(), directory.path().into());
    assert_eq!(config.validate(), Ok(()));
    let new = Directory::inspect(Arc::clone(&fs), &config);
    assert!(matches!(new, Err(Error::Config(what)) if what.contains("id 7")));
    let identity = Identity { node: 7, incarnation: 1, cluster: 2 };
    std::fs::write(directory.path().join(IDENTITY), identity.encode()).unwrap();
    assert!(Directory::inspect(fs, &config).is_ok());
}
