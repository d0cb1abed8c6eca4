//! The data directory: who may use it, how it begins, and what is found in it again.
//!
//! ```text
//!  LOCK       held while a node runs; holds the holder's process id
//!  identity   who this member is; its rename is the moment the directory exists (see identity)
//!  pins       who the others are (see pins)
//!  wal/       the log (see the wal crate)
//!  snap/      snapshot files (see snapshot)
//!  removed    why this member never runs again, once the cluster has removed it
//!  lost       the same, once it is proved that it lost what it had acknowledged
//! ```
//!
//! Refuses: directories of other members, of other programs and damaged ones, without changing
//! a byte in them.
//!
//! Invariants:
//! - D1 Nothing is created before the directory is known to be usable and every address is
//!   bound.
//! - D2 `identity` names a cluster only when `wal/` and `snap/` are durable. A directory without
//!   it, or whose identity names none yet because it is still joining, holds nothing that any
//!   member was ever told of.
//! - D3 A snapshot without a marker in the log is an orphan of a crash, and one older than the newest
//!   good one that the log does not go on from is of no use: both are deleted. A marker without its
//!   snapshot is damage, unless the log reaches back to an older one (N5).
//! - D4 A member that was removed stays removed, and one that lost acknowledged data stays away,
//!   also when whoever could prove it has forgotten: nothing starts on its directory again.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use raft::eraftpb::SnapshotMetadata;
use slog::{Logger, info, warn};
use wal::Wal;
use wal::defects::{Defect, has};
use wal::fs::{Access, Fs};

use crate::identity::{self, Identity};
use crate::membership::Book;
use crate::node::Kept;
use crate::snapshot::{self, Failure, Header, Reader, SnapshotFile};
use crate::storage::{self, Storage};
use crate::{Config, Error, pins};

pub(crate) const IDENTITY: &str = "identity";
pub(crate) const LOCK: &str = "LOCK";
pub(crate) const WAL: &str = "wal";
pub(crate) const SNAP: &str = "snap";
pub(crate) const REMOVED: &str = "removed";
pub(crate) const LOST: &str = "lost";

/// Has a member that is about to join registered, and learns its cluster's id.
pub(crate) type Register<'a> = &'a mut dyn FnMut(&Identity) -> Result<u64, Error>;

/// Where `config` keeps its pins.
pub(crate) fn pins(config: &Config) -> PathBuf {
    config.data_dir.join(pins::FILE)
}

/// Where `config` keeps its snapshots.
pub(crate) fn snap_dir(config: &Config) -> PathBuf {
    config.data_dir.join(SNAP)
}

/// Writes the tombstone of a member whose end is for good (D4); any other end leaves none.
///
/// # Errors
///
/// It cannot be written.
pub(crate) fn bury(fs: &dyn Fs, config: &Config, end: &Error) -> Result<(), Error> {
    let name = match end {
        _ if has(Defect::NoTombstone) => return Ok(()),
        Error::Removed(_) => REMOVED,
        Error::LostData(_) => LOST,
        _ => return Ok(()),
    };
    let file = config.data_dir.join(name);
    let text = format!("{end}\n");
    wal::fs::write_file_durably(fs, &file, text.as_bytes())
        .map_err(|source| unusable("write", &file, source))
}

/// What the directory gives a node to start with.
pub(crate) struct Recovered {
    pub(crate) identity: Identity,
    pub(crate) storage: Storage,
    /// Of the snapshot that the state machine begins with.
    pub(crate) header: Header,
    /// Its state.
    pub(crate) snapshot: Box<dyn std::io::Read + Send>,
    /// The snapshots that the log vouches for, oldest first.
    pub(crate) kept: Vec<Kept>,
    /// The address book as of everything that is known to be committed.
    pub(crate) latest: Book,
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
    /// Its member has not learnt yet which cluster it joins.
    Joining(Identity, wal::fs::Lock),
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
            matches!(
                name.as_str(),
                IDENTITY
                    | LOCK
                    | WAL
                    | SNAP
                    | pins::FILE
                    | "identity.tmp"
                    | "pins.tmp"
                    | "lost+found"
            )
        };
        if !names.iter().any(|name| name == IDENTITY) {
            let strange = names.iter().find(|name| !ours(name));
            if let Some(name) = strange {
                return Err(foreign(&path, name));
            }
            config.validate_founding().map_err(Error::Config)?;
            return Ok(Self { fs, path, state: State::New });
        }
        // Whose directory it is can be read without a lock, and a stranger's is not touched.
        let identity = read_identity(&*fs, &path, config)?;
        let lock = lock(&*fs, &path)?;
        refuse_buried(&*fs, &path)?;
        let is_joining = identity.cluster == 0;
        let state = if is_joining { State::Joining } else { State::Used };
        Ok(Self { fs, path, state: state(identity, lock) })
    }

    /// Nothing is in it that any member was ever told of: the flags say who this is and where.
    pub(crate) fn is_empty(&self) -> bool {
        matches!(self.state, State::New | State::Joining(..))
    }

    /// Replays what is there, or founds this member's directory, or fills it once `register` has
    /// had the member taken in.
    ///
    /// # Errors
    ///
    /// Damage, a foreign directory, a disk that refuses, a stop in between, or a refusal to take
    /// the member in.
    pub(crate) fn open(
        self,
        config: &Config,
        register: Register<'_>,
        stop: &AtomicBool,
        logger: &Logger,
    ) -> Result<Recovered, Error> {
        let Self { fs, path, state } = self;
        let (identity, lock) = match state {
            State::Used(identity, lock) => (identity, lock),
            State::Joining(identity, lock) => {
                return join(&fs, &path, identity, lock, config, register);
            }
            State::New => {
                let lock = begin(&*fs, &path)?;
                if exists(&*fs, &path.join(IDENTITY))? {
                    // Someone else began it between our look and our lock.
                    (read_identity(&*fs, &path, config)?, lock)
                } else if config.join {
                    let incarnation = u128::from_le_bytes(identity::random());
                    let identity = Identity { node: config.id, incarnation, cluster: 0 };
                    write_identity(&*fs, &path, &identity)?;
                    return join(&fs, &path, identity, lock, config, register);
                } else {
                    return found(&fs, &path, lock, config, logger);
                }
            }
        };
        recover(&fs, &path, identity, lock, config, stop, logger)
    }
}

/// Nothing starts where there is a tombstone (D4).
fn refuse_buried(fs: &dyn Fs, path: &Path) -> Result<(), Error> {
    for name in [REMOVED, LOST] {
        let tombstone = path.join(name);
        if exists(fs, &tombstone)? {
            let why = wal::fs::read_file(fs, &tombstone, 64 << 10)
                .map_err(|source| unusable("read", &tombstone, source))?;
            let why = String::from_utf8_lossy(&why).trim().to_owned();
            return Err(if name == LOST { Error::LostData(why) } else { Error::Removed(why) });
        }
    }
    Ok(())
}

fn create(operation: &'static str, path: &Path, result: std::io::Result<()>) -> Result<(), Error> {
    result.map_err(|source| unusable(operation, path, source))
}

/// Makes the directory itself, and locks it.
fn begin(fs: &dyn Fs, path: &Path) -> Result<wal::fs::Lock, Error> {
    let is_given = exists(fs, path)?;
    if !is_given {
        create("create", path, fs.create_dir(path))?;
    }
    // Also where it was there: whoever created it may have died before this.
    let parent = wal::fs::parent(path);
    let believes = is_given && has(Defect::BelieveDirectory);
    match if believes { Ok(()) } else { fs.sync_dir(parent) } {
        Err(error) if is_given && is_out_of_reach(&error) => {}
        synced => create("sync", parent, synced)?,
    }
    lock(fs, path)
}

/// No process like this one creates anything there: it may not look into it, or it is on a file
/// system that is never written and has no syncs, as that around a mounted volume can be.
fn is_out_of_reach(error: &std::io::Error) -> bool {
    use ErrorKind::{InvalidInput, PermissionDenied, ReadOnlyFilesystem, Unsupported};
    matches!(error.kind(), InvalidInput | PermissionDenied | ReadOnlyFilesystem | Unsupported)
}

fn write_identity(fs: &dyn Fs, path: &Path, identity: &Identity) -> Result<(), Error> {
    let file = path.join(IDENTITY);
    create("write", &file, wal::fs::write_file_durably(fs, &file, &identity.encode()))
}

/// Removes what a founding or a joining that was cut off has left: nobody was ever told of it
/// (D2). What that does not write is not its remains.
fn clear_remains(fs: &dyn Fs, path: &Path, snapshot: Option<&str>) -> Result<(), Error> {
    for directory in [WAL, SNAP] {
        let directory = path.join(directory);
        for name in fs.list(&directory).unwrap_or_default() {
            let file = directory.join(&name);
            let name = name.to_string_lossy();
            let temporary = name.ends_with(".tmp") || name.ends_with(".wal");
            if !temporary && Some(&*name) != snapshot {
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
    if !exists(fs, &snap)? {
        create("create", &snap, fs.create_dir(&snap))?;
    }
    Ok(())
}

/// Fills the directory of a member that is taken into a cluster: with an empty log, which the
/// leader's snapshot will begin.
fn join(
    fs: &Arc<dyn Fs>,
    path: &Path,
    identity: Identity,
    lock: wal::fs::Lock,
    config: &Config,
    register: Register<'_>,
) -> Result<Recovered, Error> {
    let cluster = match register(&identity) {
        Err(end) => {
            bury(&**fs, config, &end)?;
            return Err(end);
        }
        Ok(cluster) => cluster,
    };
    clear_remains(&**fs, path, None)?;
    create("sync", path, fs.sync_dir(path))?;
    let options = wal_options(config, cluster);
    let wal = Wal::create(Arc::clone(fs), &path.join(WAL), options, &mut wal::Batch::new())
        .map_err(|error| starting(error, path))?;
    let identity = Identity { cluster, ..identity };
    write_identity(&**fs, path, &identity)?;
    Ok(Recovered {
        identity,
        storage: Storage::new(wal, SnapshotMetadata::default()),
        header: Header::void(cluster),
        snapshot: Box::new(std::io::empty()),
        kept: Vec::new(),
        latest: Book::default(),
        lock,
    })
}

fn found(
    fs: &Arc<dyn Fs>,
    path: &Path,
    lock: wal::fs::Lock,
    config: &Config,
    logger: &Logger,
) -> Result<Recovered, Error> {
    let cluster = identity::cluster_id(&config.founders, &config.cluster_token);
    refuse_orphaned_log(fs, path, config, cluster)?;
    let header = Header::genesis(cluster, Book::founding(&config.founders));
    clear_remains(&**fs, path, Some(&header.file_name()))?;
    let snap = path.join(SNAP);
    let tmp = snap.join(snapshot::temporary_name(header.term, header.index, 0));
    let genesis = snapshot::write(fs, &tmp, &header, |_| Ok(()))
        .and_then(|file| file.give_final_name(&**fs))
        .map_err(unreadable)?;
    create("sync", path, fs.sync_dir(path))?;

    let marker = genesis.marker;
    let mut first = wal::Batch::new();
    first.set_marker(marker);
    first.set_hard_state(wal::HardState { term: header.term, vote: 0, commit: header.index });
    let options = wal_options(config, cluster);
    let wal = Wal::create(Arc::clone(fs), &path.join(WAL), options, &mut first)
        .map_err(|error| starting(error, path))?;

    let incarnation = u128::from_le_bytes(identity::random());
    let identity = Identity { node: config.id, incarnation, cluster };
    write_identity(&**fs, path, &identity)?;
    info!(logger, "founded data directory"; "path" => %path.display(),
        "cluster" => format!("{cluster:016x}"));
    let storage = Storage::new(wal, storage::metadata(marker, header.conf_state.clone()));
    Ok(Recovered {
        identity,
        storage,
        latest: header.book.clone(),
        snapshot: Box::new(std::io::empty()),
        kept: vec![kept(marker, genesis.path, genesis.bytes)],
        header,
        lock,
    })
}

fn kept(marker: wal::Marker, path: PathBuf, bytes: u64) -> Kept {
    Kept { index: marker.index, term: marker.term, path, bytes }
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

/// The id of the member that a data directory belongs to; `None` when none was ever begun there.
/// Takes no lock and changes nothing, so that whoever starts a member need not be told its id.
///
/// # Errors
///
/// The identity file is damaged or cannot be read.
pub fn member_id(data_dir: &Path) -> Result<Option<u64>, Error> {
    let fs = wal::fs::DiskFs;
    if !exists(&fs, &data_dir.join(IDENTITY))? {
        return Ok(None);
    }
    load_identity(&fs, data_dir).map(|identity| Some(identity.node))
}

fn load_identity(fs: &dyn Fs, path: &Path) -> Result<Identity, Error> {
    let file = path.join(IDENTITY);
    let bytes =
        wal::fs::read_file(fs, &file, 4096).map_err(|source| unusable("read", &file, source))?;
    Identity::decode(&bytes).map_err(|what| Error::Corrupt(format!("{} {what}", file.display())))
}

fn read_identity(fs: &dyn Fs, path: &Path, config: &Config) -> Result<Identity, Error> {
    let identity = load_identity(fs, path)?;
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
    // Whoever was here before may have died between naming a file and making the name durable, and
    // what is believed from here on must not be gone after the next crash.
    create("sync", path, fs.sync_dir(path))?;
    let options = wal_options(config, identity.cluster);
    let stopped = || stop.load(Ordering::SeqCst);
    let (wal, opened) = Wal::open(Arc::clone(fs), &path.join(WAL), options, &stopped)
        .map_err(|error| starting(error, path))?;
    if let Some(torn) = &opened.torn {
        warn!(logger, "cut the torn end of the log: a batch that was never acknowledged";
            "path" => %torn.path.display(), "offset" => torn.offset, "bytes" => torn.bytes);
    }
    let Loaded { header, marker, snapshot, kept } =
        load_snapshot(fs, &path.join(SNAP), &wal, identity.cluster, &stopped, logger)?;
    if header.cluster != identity.cluster {
        return Err(Error::Corrupt(format!(
            "{} holds a snapshot of cluster {:016x}, its identity names {:016x}",
            path.display(),
            header.cluster,
            identity.cluster
        )));
    }
    info!(logger, "recovered"; "path" => %path.display(),
        "cluster" => format!("{:016x}", identity.cluster), "first" => wal.first_index(),
        "last" => wal.last_index(), "snapshot" => header.index,
        "term" => wal.hard_state().term, "commit" => wal.hard_state().commit);
    let mut storage = Storage::new(wal, storage::metadata(marker, header.conf_state.clone()));
    let mut latest = header.book.clone();
    for change in storage.committed_changes(header.index)? {
        // What does nothing when it is applied does nothing here.
        latest = latest.after(&change).unwrap_or(latest);
    }
    if latest.removed.contains(&config.id) {
        let end = Error::Removed(format!("member {} was removed from the cluster", config.id));
        bury(&**fs, config, &end)?;
        return Err(end);
    }
    let flags = config.founders.iter().map(|founder| (&founder.id, &founder.url));
    let book = latest.members.iter().map(|(id, member)| (id, &member.url));
    if !config.founders.is_empty() && flags.ne(book) {
        info!(logger, "--cluster differs from the address book, which rules";
            "path" => %path.display());
    }
    if has(Defect::NewerConfState) {
        storage.set_conf_state(Header::genesis(identity.cluster, latest.clone()).conf_state);
    }
    Ok(Recovered { identity, storage, header, snapshot, kept, latest, lock })
}

/// A snapshot to begin with.
struct Loaded {
    header: Header,
    marker: wal::Marker,
    snapshot: Box<dyn std::io::Read + Send>,
    kept: Vec<Kept>,
}

/// The newest snapshot that the log vouches for (N5), after those are gone that it does not know or
/// go on from.
fn load_snapshot(
    fs: &Arc<dyn Fs>,
    directory: &Path,
    wal: &Wal,
    cluster: u64,
    stopped: &dyn Fn() -> bool,
    logger: &Logger,
) -> Result<Loaded, Error> {
    let mut orphans = Vec::new();
    for name in fs.list(directory).map_err(|source| unusable("read", directory, source))? {
        let name = name.to_string_lossy();
        let is_known = |m: &wal::Marker| snapshot::file_name(m.term, m.index) == name;
        if snapshot::is_snapshot_name(&name) && !wal.markers().iter().any(is_known) {
            orphans.push(directory.join(&*name));
        }
    }
    // The log goes on from a snapshot when it holds the snapshot's last entry, or begins after it.
    let usable =
        |m: &&wal::Marker| m.index <= wal.hard_state().commit && wal.term(m.index) == Some(m.term);
    let mut problems = Vec::new();
    let mut newest = None;
    let mut older = VecDeque::new();
    for marker in wal.markers().iter().rev().filter(usable) {
        let file = directory.join(snapshot::file_name(marker.term, marker.index));
        if newest.is_some() {
            // Older ones are verified on the day they are needed.
            if exists(&**fs, &file)? {
                let size = fs.open(&file, Access::Read).and_then(|file| file.size());
                let bytes = size.map_err(|source| unusable("measure", &file, source))?;
                older.push_front(kept(*marker, file, bytes));
            }
            continue;
        }
        match snapshot::verify(&**fs, &file, stopped) {
            Ok(found) if found.marker == *marker => newest = Some(found),
            Ok(_) => {
                problems.push((format!("{} is not the one the log names", file.display()), file));
            }
            Err(Failure::Disk { source, .. }) if source.kind() == ErrorKind::NotFound => {
                problems.push((format!("{} is missing", file.display()), file));
            }
            Err(damage @ Failure::Damaged { .. }) => problems.push((damage.to_string(), file)),
            Err(other) => return Err(unreadable(other)),
        }
    }
    // A member that joined and has not been sent a snapshot yet.
    let is_void = wal.markers().is_empty() && wal.last_index() == 0;
    if newest.is_none() && !is_void {
        let mut problems: Vec<String> = problems.into_iter().map(|(what, _)| what).collect();
        problems.push(format!(
            "{} holds no snapshot that the log, entries {} to {}, can go on from; keep the \
             directory, and replace this member or restore the file from a copy",
            directory.display(),
            wal.first_index(),
            wal.last_index()
        ));
        return Err(Error::Corrupt(problems.join("; ")));
    }
    if let Some(newest) = &newest {
        let is_behind = |m: &&wal::Marker| m.index < newest.marker.index && !usable(m);
        for marker in wal.markers().iter().filter(is_behind) {
            let file = directory.join(snapshot::file_name(marker.term, marker.index));
            if exists(&**fs, &file)? {
                orphans.push(file);
            }
        }
    }
    for orphan in orphans.into_iter().filter(|_| !has(Defect::KeepOrphans)) {
        info!(logger, "removing a snapshot file that the log does not go on from";
            "path" => %orphan.display());
        fs.remove_file(&orphan).map_err(|e| unusable("remove", &orphan, e))?;
    }
    for (problem, file) in problems {
        warn!(logger, "going on from an older snapshot"; "problem" => problem);
        if exists(&**fs, &file)? {
            // Out of the way, and there for whoever wants to know what happened to it.
            let mut broken = file.clone().into_os_string();
            broken.push(".broken");
            fs.rename(&file, Path::new(&broken)).map_err(|e| unusable("rename", &file, e))?;
        }
    }
    let Some(SnapshotFile { header, path, bytes, marker, .. }) = newest else {
        let (header, marker) =
            (Header::void(cluster), wal::Marker { index: 0, term: 0, checksum: 0 });
        let snapshot = Box::new(std::io::empty());
        return Ok(Loaded { header, marker, snapshot, kept: Vec::new() });
    };
    let snapshot = Box::new(Reader::open(&**fs, &path).map_err(unreadable)?);
    let mut files = Vec::from(older);
    files.push(kept(marker, path, bytes));
    Ok(Loaded { header, marker, snapshot, kept: files })
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
            pid: pid
                .map_or_else(|| "(unknown: perhaps `wal dump`)".to_owned(), |pid| pid.to_string()),
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
mod tests;
