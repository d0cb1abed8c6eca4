//! The data directory: who may use it, how it begins, and what is found in it again.
//!
//! ```text
//!  LOCK       held while a node runs; holds the holder's process id
//!  identity   who this member is; its rename is the moment the directory exists (see identity)
//!  wal/       the log (see the wal crate)
//!  snap/      snapshot files (see snapshot)
//! ```
//!
//! Refuses: directories of other members, of other programs and damaged ones, without changing
//! a byte in them.
//!
//! Invariants:
//! - D1 Nothing is created before the directory is known to be usable and every address is
//!   bound.
//! - D2 `identity` exists only when `wal/` and `snap/` are durable. A directory without it holds
//!   nothing that any member was ever told of.
//! - D3 A snapshot without a marker in the log is an orphan of a crash and is deleted; a marker
//!   without its snapshot is damage, unless the log reaches back to an older one (N5).

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use raft::eraftpb::ConfState;
use slog::{Logger, info, warn};
use wal::Wal;
use wal::fs::Fs;

use crate::identity::{self, Identity};
use crate::membership::Book;
use crate::snapshot::{self, Failure, Header, Reader, SnapshotFile};
use crate::storage::Storage;
use crate::{Config, Error};

const IDENTITY: &str = "identity";
const LOCK: &str = "LOCK";
const WAL: &str = "wal";
const SNAP: &str = "snap";

/// What the directory gives a node to start with.
pub(crate) struct Recovered {
    pub(crate) identity: Identity,
    pub(crate) storage: Storage,
    /// The snapshot that the log goes on from, verified.
    pub(crate) snapshot: SnapshotFile,
    /// Its body.
    pub(crate) state: Reader,
    /// Held until the node ends.
    pub(crate) lock: wal::fs::Lock,
}

/// A directory that was looked at but not changed.
pub(crate) struct Directory {
    fs: Arc<dyn Fs>,
    path: PathBuf,
    state: State,
}

enum State {
    /// Missing, empty, or the remains of a founding that was cut off.
    New,
    Used(Identity, wal::fs::Lock),
}

impl Directory {
    /// Looks at the directory, and locks it if it has been used.
    ///
    /// # Errors
    ///
    /// The directory is in use, someone else's, or cannot be read.
    pub(crate) fn inspect(fs: Arc<dyn Fs>, config: &Config) -> Result<Self, Error> {
        let path = config.data_dir.clone();
        let names = match fs.list(&path) {
            Ok(names) => names.iter().map(|name| name.to_string_lossy().into_owned()).collect(),
            Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
            Err(source) => return Err(unusable("read", &path, source)),
        };
        let ours = |name: &String| {
            matches!(name.as_str(), IDENTITY | LOCK | WAL | SNAP | "identity.tmp" | "lost+found")
        };
        if !names.iter().any(|name| name == IDENTITY) {
            let strange = names.iter().find(|name| !ours(name));
            if let Some(name) = strange {
                return Err(foreign(&path, name));
            }
            return Ok(Self { fs, path, state: State::New });
        }
        // Whose directory it is can be read without a lock, and a stranger's is not touched.
        let identity = read_identity(&*fs, &path, config)?;
        let lock = lock(&*fs, &path)?;
        Ok(Self { fs, path, state: State::Used(identity, lock) })
    }

    /// Replays what is there, or founds this member's directory.
    ///
    /// # Errors
    ///
    /// Damage, a foreign directory, a disk that refuses, or a stop in between.
    pub(crate) fn open(
        self,
        config: &Config,
        stop: &AtomicBool,
        logger: &Logger,
    ) -> Result<Recovered, Error> {
        let Self { fs, path, state } = self;
        match state {
            State::Used(identity, lock) => {
                recover(&fs, &path, identity, lock, config, stop, logger)
            }
            State::New => found(&fs, &path, config, stop, logger),
        }
    }
}

fn found(
    fs: &Arc<dyn Fs>,
    path: &Path,
    config: &Config,
    stop: &AtomicBool,
    logger: &Logger,
) -> Result<Recovered, Error> {
    let create = |operation, path: &Path, result: std::io::Result<()>| {
        result.map_err(|source| unusable(operation, path, source))
    };
    if !exists(&**fs, path)? {
        create("create", path, fs.create_dir(path))?;
        create("sync", wal::fs::parent(path), fs.sync_dir(wal::fs::parent(path)))?;
    }
    let lock = lock(&**fs, path)?;
    if exists(&**fs, &path.join(IDENTITY))? {
        // Someone else founded it between our look and our lock.
        let identity = read_identity(&**fs, path, config)?;
        return recover(fs, path, identity, lock, config, stop, logger);
    }
    let cluster = identity::cluster_id(&config.founders, &config.cluster_token);
    refuse_orphaned_log(fs, path, config, cluster)?;
    let header = Header::genesis(cluster, Book::founding(&config.founders));
    // Remains of a founding that was cut off: nobody was ever told of them (D2). What a founding
    // does not write is not one's remains.
    for directory in [WAL, SNAP] {
        let directory = path.join(directory);
        for name in fs.list(&directory).unwrap_or_default() {
            let file = directory.join(&name);
            let name = name.to_string_lossy();
            let temporary = name.ends_with(".tmp") || name.ends_with(".wal");
            if !temporary && name != header.file_name() {
                return Err(Error::Corrupt(format!(
                    "{} is there but no identity file; restore that from a copy, or choose an \
                     empty --data-dir",
                    file.display()
                )));
            }
            create("remove", &file, fs.remove_file(&file))?;
        }
    }
    let snap = path.join(SNAP);
    if !exists(&**fs, &snap)? {
        create("create", &snap, fs.create_dir(&snap))?;
    }
    let file = snap.join(snapshot::temporary_name(header.term, header.index, 0));
    let written = snapshot::write(fs, &file, &header, |_| Ok(()));
    let snapshot = written.and_then(|file| file.give_final_name(&**fs)).map_err(unreadable)?;
    create("sync", path, fs.sync_dir(path))?;
    let state = Reader::open(&**fs, &snapshot.path).map_err(unreadable)?;

    let mut first = wal::Batch::new();
    first.set_marker(snapshot.marker);
    first.set_hard_state(wal::HardState { term: header.term, vote: 0, commit: header.index });
    let options = wal_options(config, cluster);
    let wal = Wal::create(Arc::clone(fs), &path.join(WAL), options, &mut first)
        .map_err(|error| starting(error, path))?;

    let incarnation = u128::from_le_bytes(identity::random());
    let identity = Identity { node: config.id, incarnation, cluster };
    let file = path.join(IDENTITY);
    create("write", &file, wal::fs::write_file_durably(&**fs, &file, &identity.encode()))?;
    info!(logger, "founded data directory"; "path" => %path.display(),
        "cluster" => format!("{cluster:016x}"));
    let storage = Storage::new(wal, header.index, header.conf_state);
    Ok(Recovered { identity, storage, snapshot, state, lock })
}

/// A log that was written to, in a directory that lost its identity: acknowledged data, not the
/// remains of a founding (D2).
fn refuse_orphaned_log(
    fs: &Arc<dyn Fs>,
    path: &Path,
    config: &Config,
    cluster: u64,
) -> Result<(), Error> {
    let directory = path.join(WAL);
    if !exists(&**fs, &directory)? || fs.list(&directory).is_ok_and(|names| names.is_empty()) {
        return Ok(());
    }
    if !Wal::exists(&**fs, &directory).map_err(|error| starting(error, path))? {
        return Ok(());
    }
    let options = wal_options(config, cluster);
    let opened = Wal::open(Arc::clone(fs), &directory, options, &|| false);
    let genesis = wal::HardState { term: 1, vote: 0, commit: 1 };
    match opened {
        Ok((wal, _)) if wal.last_index() == 1 && wal.hard_state() == genesis => Ok(()),
        _ => Err(Error::Corrupt(format!(
            "{} holds a log but no identity file; restore the file from a copy, or choose an empty \
             --data-dir",
            path.display()
        ))),
    }
}

fn read_identity(fs: &dyn Fs, path: &Path, config: &Config) -> Result<Identity, Error> {
    let file = path.join(IDENTITY);
    let bytes =
        wal::fs::read_file(fs, &file, 4096).map_err(|source| unusable("read", &file, source))?;
    let identity = Identity::decode(&bytes)
        .map_err(|what| Error::Corrupt(format!("{} {what}", file.display())))?;
    if identity.node != config.id {
        return Err(Error::Foreign {
            path: path.to_path_buf(),
            what: format!(
                "belongs to member {}; run it with --id {} or choose another --data-dir",
                identity.node, identity.node
            ),
        });
    }
    Ok(identity)
}

fn recover(
    fs: &Arc<dyn Fs>,
    path: &Path,
    identity: Identity,
    lock: wal::fs::Lock,
    config: &Config,
    stop: &AtomicBool,
    logger: &Logger,
) -> Result<Recovered, Error> {
    let options = wal_options(config, identity.cluster);
    let stopped = || stop.load(Ordering::SeqCst);
    let (wal, opened) = Wal::open(Arc::clone(fs), &path.join(WAL), options, &stopped)
        .map_err(|error| starting(error, path))?;
    if let Some(torn) = &opened.torn {
        warn!(logger, "cut the torn end of the log: a batch that was never acknowledged";
            "path" => %torn.path.display(), "offset" => torn.offset, "bytes" => torn.bytes);
    }
    let snapshot = load_snapshot(&**fs, &path.join(SNAP), &wal, &stopped, logger)?;
    let header = &snapshot.header;
    if header.cluster != identity.cluster {
        return Err(Error::Corrupt(format!(
            "{} holds a snapshot of cluster {:016x}, its identity names {:016x}",
            path.display(),
            header.cluster,
            identity.cluster
        )));
    }
    let flags = Book::founding(&config.founders);
    if flags.members.iter().map(|(id, m)| (id, &m.url)).ne(header
        .book
        .members
        .iter()
        .map(|(id, m)| (id, &m.url)))
    {
        info!(logger, "--cluster differs from the address book, which rules";
            "path" => %path.display());
    }
    let conf_state: ConfState = header.conf_state.clone();
    info!(logger, "recovered"; "path" => %path.display(),
        "cluster" => format!("{:016x}", identity.cluster), "first" => wal.first_index(),
        "last" => wal.last_index(), "snapshot" => header.index,
        "term" => wal.hard_state().term, "commit" => wal.hard_state().commit);
    let state = Reader::open(&**fs, &snapshot.path).map_err(unreadable)?;
    let storage = Storage::new(wal, header.index, conf_state);
    Ok(Recovered { identity, storage, snapshot, state, lock })
}

/// The newest whole snapshot that the log vouches for and goes on from (N5); orphans go.
fn load_snapshot(
    fs: &dyn Fs,
    directory: &Path,
    wal: &Wal,
    stop: &dyn Fn() -> bool,
    logger: &Logger,
) -> Result<SnapshotFile, Error> {
    let mut orphans = Vec::new();
    for name in fs.list(directory).map_err(|source| unusable("read", directory, source))? {
        let name = name.to_string_lossy();
        let is_known = |m: &wal::Marker| snapshot::file_name(m.term, m.index) == name;
        if snapshot::is_snapshot_name(&name) && !wal.markers().iter().any(is_known) {
            orphans.push(directory.join(&*name));
        }
    }
    let mut problems = Vec::new();
    // The log goes on from a snapshot when it holds the snapshot's last entry, or begins after it.
    let usable =
        |m: &&wal::Marker| m.index <= wal.hard_state().commit && wal.term(m.index) == Some(m.term);
    for marker in wal.markers().iter().rev().filter(usable) {
        let file = directory.join(snapshot::file_name(marker.term, marker.index));
        match snapshot::verify(fs, &file, stop) {
            Ok(found) if found.marker == *marker => {
                for problem in problems {
                    warn!(logger, "going on from an older snapshot"; "problem" => problem,
                        "path" => %file.display());
                }
                for orphan in orphans {
                    info!(logger, "removing a snapshot file that the log does not know";
                        "path" => %orphan.display());
                    fs.remove_file(&orphan).map_err(|e| unusable("remove", &orphan, e))?;
                }
                return Ok(found);
            }
            Ok(_) => problems.push(format!("{} is not the one the log names", file.display())),
            Err(Failure::Disk { source, .. }) if source.kind() == ErrorKind::NotFound => {
                problems.push(format!("{} is missing", file.display()));
            }
            Err(damage @ Failure::Damaged { .. }) => problems.push(damage.to_string()),
            Err(other) => return Err(unreadable(other)),
        }
    }
    problems.push(format!(
        "{} holds no snapshot that the log, entries {} to {}, can go on from; keep the directory, \
         and replace this member or restore the file from a copy",
        directory.display(),
        wal.first_index(),
        wal.last_index()
    ));
    Err(Error::Corrupt(problems.join("; ")))
}

fn exists(fs: &dyn Fs, path: &Path) -> Result<bool, Error> {
    fs.exists(path).map_err(|source| unusable("look for", path, source))
}

fn wal_options(config: &Config, cluster: u64) -> wal::Options {
    wal::Options { cluster, node: config.id, segment_bytes: config.wal_segment_bytes }
}

fn lock(fs: &dyn Fs, path: &Path) -> Result<wal::fs::Lock, Error> {
    let file = path.join(LOCK);
    fs.lock(&file).map_err(|error| match error {
        wal::fs::LockError::Held { pid } => Error::Locked {
            path: path.to_path_buf(),
            pid: pid.map_or_else(|| "(unknown)".to_owned(), |pid| pid.to_string()),
        },
        wal::fs::LockError::Io(source) => unusable("lock", &file, source),
    })
}

fn foreign(path: &Path, name: &str) -> Error {
    let go = Path::new(name).extension().is_some_and(|extension| extension == "wal");
    let what = if go {
        format!(
            "holds {name}: it was left by Go's raftexample, whose log this program cannot read; \
             choose another --data-dir"
        )
    } else {
        format!(
            "holds {name}, which is not this program's; choose an empty directory with --data-dir"
        )
    };
    Error::Foreign { path: path.to_path_buf(), what }
}

fn unusable(operation: &'static str, path: &Path, source: std::io::Error) -> Error {
    Error::Unusable { operation, path: path.to_path_buf(), source }
}

fn unreadable(failure: Failure) -> Error {
    match failure {
        Failure::Disk { operation, path, source } => Error::Unusable { operation, path, source },
        Failure::Stopped => Error::Interrupted,
        other => Error::Corrupt(other.to_string()),
    }
}

fn starting(error: wal::Error, path: &Path) -> Error {
    match error {
        wal::Error::Io { op, path, source } => Error::Unusable { operation: op, path, source },
        wal::Error::Foreign { .. } => {
            Error::Foreign { path: path.to_path_buf(), what: format!("is not usable: {error}") }
        }
        wal::Error::Interrupted => Error::Interrupted,
        other => Error::Corrupt(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
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
        directory.open(&config(), &AtomicBool::new(stop), &logger)
    }

    fn snap(term: u64, index: u64) -> PathBuf {
        Path::new(DATA).join(SNAP).join(snapshot::file_name(term, index))
    }

    /// A directory with the genesis snapshot, a newer one, and entries before and after that.
    fn two_snapshots(releases: bool) -> (MemFs, Arc<dyn Fs>) {
        let mem = MemFs::new();
        let fs: Arc<dyn Fs> = Arc::new(mem.clone());
        let found = open(&fs, false).unwrap();
        let cluster = found.identity.cluster;
        let header = Header { index: NEWEST, ..found.snapshot.header.clone() };
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
            assert!(wal.release(20).unwrap().n_segments > 0);
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
        (
            "cut",
            |fs, at| replace(fs, at, |b| b.truncate(b.len() - 1)),
            "ends too early (at offset ",
        ),
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
            assert_eq!((found.snapshot.marker.index, &found.snapshot.path), (30, &snap(1, 30)));
            assert_eq!(found.storage.snapshot_index(), NEWEST);
            let mut body = Vec::new();
            found.state.read_to_end(&mut body).unwrap();
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
            assert_eq!(found.snapshot.path, snap(1, 1), "{what}");
            assert_eq!(found.storage.snapshot_index(), 1, "{what}");
            assert_eq!(found.state.read(&mut [0]).unwrap(), 0, "{what}: an empty state");
            assert_eq!(fs.exists(&snap(1, NEWEST)).unwrap(), what != "missing");

            let (_, fs) = two_snapshots(true);
            damage(&*fs, &snap(1, NEWEST));
            let Err(Error::Corrupt(message)) = open(&fs, false) else { panic!("{what}") };
            let name = snapshot::file_name(1, NEWEST);
            assert!(message.contains(&name) && message.contains(says), "{what}: {message}");
            let range = format!("to {LAST}, can go on from");
            assert!(message.contains(&range), "{what}: {message}");
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
                assert_eq!(found.snapshot.path, snap(1, 1), "{at}, {loss:?}");
            }
            if is_done {
                break;
            }
        }
    }

    /// A stop while the directory is read ends the start, whatever there is still to verify.
    #[test]
    fn start_can_be_stopped() {
        let (_, fs) = two_snapshots(false);
        assert!(matches!(open(&fs, true), Err(Error::Interrupted)));
    }
}
