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

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use raft::eraftpb::ConfState;
use slog::{Logger, info, warn};
use wal::Wal;
use wal::fs::{Access, Fs};

use crate::identity::{self, Identity};
use crate::membership::Book;
use crate::snapshot::{self, Header};
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
    pub(crate) header: Header,
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
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
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
            config.validate_founding().map_err(Error::Config)?;
            return Ok(Self { fs, path, state: State::New });
        }
        // Whose directory it is can be read without a lock, and a stranger's is not touched.
        let identity = read_identity(&*fs, &path, config)?;
        let lock = lock(&*fs, &path)?;
        Ok(Self { fs, path, state: State::Used(identity, lock) })
    }

    /// Whether a member begins here.
    pub(crate) fn is_new(&self) -> bool {
        matches!(self.state, State::New)
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
    let encoded = header.encode();
    let file = snap.join(header.file_name());
    create("write", &file, wal::fs::write_file_durably(&**fs, &file, &encoded))?;
    create("sync", path, fs.sync_dir(path))?;

    let marker = wal::Marker {
        index: header.index,
        term: header.term,
        checksum: snapshot::checksum(&encoded),
    };
    let mut first = wal::Batch::new();
    first.set_marker(marker);
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
    let storage = Storage::new(wal, header.index, header.conf_state.clone());
    Ok(Recovered { identity, storage, header, lock })
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
    let options = wal_options(config, identity.cluster);
    let stopped = || stop.load(Ordering::SeqCst);
    let (wal, opened) = Wal::open(Arc::clone(fs), &path.join(WAL), options, &stopped)
        .map_err(|error| starting(error, path))?;
    if let Some(torn) = &opened.torn {
        warn!(logger, "cut the torn end of the log: a batch that was never acknowledged";
            "path" => %torn.path.display(), "offset" => torn.offset, "bytes" => torn.bytes);
    }
    let header = load_snapshot(fs, &path.join(SNAP), &wal, logger)?;
    if header.cluster != identity.cluster {
        return Err(Error::Corrupt(format!(
            "{} holds a snapshot of cluster {:016x}, its identity names {:016x}",
            path.display(),
            header.cluster,
            identity.cluster
        )));
    }
    let flags = config.founders.iter().map(|founder| (&founder.id, &founder.url));
    let book = header.book.members.iter().map(|(id, member)| (id, &member.url));
    if !config.founders.is_empty() && flags.ne(book) {
        info!(logger, "--cluster differs from the address book, which rules";
            "path" => %path.display());
    }
    let conf_state: ConfState = header.conf_state.clone();
    info!(logger, "recovered"; "path" => %path.display(),
        "cluster" => format!("{:016x}", identity.cluster), "first" => wal.first_index(),
        "last" => wal.last_index(), "snapshot" => header.index,
        "term" => wal.hard_state().term, "commit" => wal.hard_state().commit);
    let storage = Storage::new(wal, header.index, conf_state);
    Ok(Recovered { identity, storage, header, lock })
}

/// The newest snapshot that the log vouches for (N5), after orphans are gone.
fn load_snapshot(
    fs: &Arc<dyn Fs>,
    directory: &Path,
    wal: &Wal,
    logger: &Logger,
) -> Result<Header, Error> {
    let names = fs.list(directory).map_err(|source| unusable("read", directory, source))?;
    let mut known = Vec::new();
    let mut orphans = Vec::new();
    for name in names {
        let file = directory.join(&name);
        let name = name.to_string_lossy();
        let named = |marker: &&wal::Marker| {
            format!("{:016x}-{:016x}.snap", marker.term, marker.index) == name
        };
        if let Some(marker) = wal.markers().iter().rev().find(named) {
            known.push((*marker, file));
        } else if is_snapshot_name(&name) {
            orphans.push(file);
        }
    }
    known.sort_by_key(|(marker, _)| std::cmp::Reverse(marker.index));
    let mut problems = Vec::new();
    let commit = wal.hard_state().commit;
    for (marker, file) in known.iter().filter(|(marker, _)| marker.index <= commit) {
        let reaches = marker.index + 1 >= wal.first_index() && marker.index <= wal.last_index();
        if !reaches {
            continue;
        }
        let read = read_head(&**fs, file).map_err(|error| format!("cannot be read: {error}"));
        match read.and_then(|bytes| Header::decode(&bytes)) {
            Ok((header, _, crc))
                if crc == marker.checksum
                    && (header.index, header.term) == (marker.index, marker.term) =>
            {
                for orphan in orphans {
                    info!(logger, "removing a snapshot file that the log does not know";
                        "path" => %orphan.display());
                    fs.remove_file(&orphan).map_err(|e| unusable("remove", &orphan, e))?;
                }
                return Ok(header);
            }
            Ok(_) => problems.push(format!("{} is not the one the log names", file.display())),
            Err(what) => problems.push(format!("{} {what}", file.display())),
        }
    }
    problems.push(format!("{} holds no snapshot that the log can go on from", directory.display()));
    Err(Error::Corrupt(problems.join("; ")))
}

/// `<term>-<index>.snap` in hex, or the temporary name of one: whatever else is there is not ours
/// to remove.
fn is_snapshot_name(name: &str) -> bool {
    let name = name.strip_suffix(".tmp").unwrap_or(name);
    let Some((term, index)) = name.strip_suffix(".snap").and_then(|name| name.split_once('-'))
    else {
        return false;
    };
    let is_hex = |text: &str| text.len() == 16 && text.bytes().all(|b| b.is_ascii_hexdigit());
    is_hex(term) && is_hex(index)
}

/// The beginning of a snapshot file: its header, and perhaps more.
fn read_head(fs: &dyn Fs, file: &Path) -> std::io::Result<Vec<u8>> {
    let file = fs.open(file, Access::Read)?;
    let length = file.size()?.min(snapshot::MAX_HEADER_BYTES);
    let mut bytes = vec![0; usize::try_from(length).map_err(std::io::Error::other)?];
    let read = file.read_full_at(0, &mut bytes)?;
    bytes.truncate(read);
    Ok(bytes)
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
    use super::*;

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
}
