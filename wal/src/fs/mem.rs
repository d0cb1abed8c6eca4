//! A file system in memory that knows what a crash would leave of it.
//!
//! Every sector and every name exists twice: as the program sees it and as the disk holds it. The
//! two meet at a sync. [`MemFs::crash`] builds the file system that a machine would find after
//! losing power now: what was synced, plus whatever the given [`Loss`] lets through of the rest,
//! sector by sector and name by name, in no order. Faults make a chosen operation fail, or every
//! operation from a chosen one on, which is how a test stops a program at each point of its work.
//!
//! [`MemFs::volatile`] is for those who want no disk at all: nothing of it survives a crash, so it
//! holds everything once. Either way a file takes the memory of the sectors that were ever written
//! with something else than zeros, an operation costs what it touches, and a file that has neither
//! a name nor a user is gone.
//!
//! It does not model time, permissions, links, or renames between directories (refused).

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    ffi::{OsStr, OsString},
    fmt, io,
    path::{Component, Path},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{Access, File, Fs, Lock, LockError, SECTOR};
use crate::record::is_zero;

const ROOT: u64 = 0;
const SECTOR_LEN: usize = SECTOR as usize;

type Sector = Arc<[u8; SECTOR_LEN]>;

/// What becomes of writes and names that no sync has covered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// All are lost.
    Everything,
    /// All survive, as they do when only the process dies.
    Nothing,
    /// Each sector, length and name survives or not, as the seed has it.
    Some(u64),
    /// As `Some`, but a sector may also come back as garbage, which disks are not supposed to do.
    Garbage(u64),
}

/// What a crash took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Lost {
    /// Sectors that were written and are as before, or garbage.
    pub sectors: usize,
    /// Files of which it took some sectors and left others that were as new.
    pub torn: usize,
    /// Names given in the place of others.
    pub renames: usize,
    /// Changes of a directory that are there without an older one.
    pub reordered: usize,
}

/// The kinds of operation that a fault can name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// Any operation that changes something or makes it durable.
    Any,
    /// [`File::write_at`].
    Write,
    /// [`File::allocate`].
    Allocate,
    /// [`File::sync_data`], [`File::sync_all`] and [`Fs::sync_dir`].
    Sync,
    /// [`Fs::sync_dir`] alone.
    SyncDir,
}

/// What happens to the operation that a fault names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It fails with this error number. A failed sync leaves its writes readable and marks them
    /// clean, as ext4 and XFS do: no later sync will write them.
    Error(i32),
    /// As `Error`; a failed sync of a file also takes back what no sync has covered, as Btrfs does.
    Reverted(i32),
    /// A write stores half of its bytes and says so.
    Short,
    /// It and everything after it fails: the program has in effect stopped before it.
    Stop,
}

/// A file system in memory; clones share it.
#[derive(Clone)]
pub struct MemFs(Arc<Mutex<State>>);

impl MemFs {
    /// An empty file system.
    pub fn new() -> Self {
        let root = Node::Dir(MemDir::default());
        let nodes = BTreeMap::from([(ROOT, root)]);
        Self(Arc::new(Mutex::new(State { nodes, next_node: ROOT + 1, ..State::default() })))
    }

    /// An empty file system of which a crash leaves nothing.
    pub fn volatile() -> Self {
        let fs = Self::new();
        fs.state().is_volatile = true;
        fs
    }

    /// What a crash now would leave, as a file system of its own without faults.
    pub fn crash(&self, loss: Loss) -> MemFs {
        self.lose(loss).0
    }

    /// As [`crash`](Self::crash), and what that took.
    pub fn lose(&self, loss: Loss) -> (MemFs, Lost) {
        let state = self.state();
        let mut fate = Fate::new(loss);
        let nodes = state
            .nodes
            .iter()
            .map(|(&id, node)| match node {
                Node::Dir(dir) => (id, Node::Dir(dir.crash(&mut fate))),
                Node::File(file) => (id, Node::File(file.crash(&mut fate))),
            })
            .collect();
        let State { next_node, is_volatile, .. } = *state;
        let crashed = State { nodes, next_node, is_volatile, ..State::default() };
        (MemFs(Arc::new(Mutex::new(crashed))), fate.lost)
    }

    /// The bytes that contents take in memory, without what it takes to find them.
    pub fn bytes(&self) -> u64 {
        let state = self.state();
        let sectors = |node: &Node| match node {
            Node::Dir(_) => 0,
            Node::File(file) => {
                let is_live = |(at, sector): &(&u64, &Sector)| {
                    file.live.get(at).is_some_and(|live| Arc::ptr_eq(live, sector))
                };
                let n_old = file.durable.iter().filter(|held| !is_live(held)).count();
                file.live.len() + n_old
            }
        };
        state.nodes.values().map(|node| sectors(node) as u64 * SECTOR).sum()
    }

    /// How many operations of this kind were attempted so far.
    pub fn count(&self, op: Op) -> u64 {
        self.state().counts[op as usize]
    }

    /// Plans a fault for the `nth` operation of this kind from now on, counted from 0.
    pub fn inject(&self, op: Op, nth: u64, fault: Fault) {
        let mut state = self.state();
        let at = state.counts[op as usize] + nth;
        state.faults.push((op, at, fault));
    }

    /// Whether a [`Fault::Stop`] has stopped the program.
    pub fn is_stopped(&self) -> bool {
        self.state().stopped
    }

    /// How many operations have failed by a fault or for want of room, since the last
    /// [`mend`](Self::mend).
    pub fn n_failed(&self) -> u64 {
        self.state().n_failed
    }

    /// From now on there is no room: a file can neither grow nor be created. What it has is written.
    pub fn set_full(&self, is_full: bool) {
        self.state().is_full = is_full;
    }

    /// Takes back all faults that are planned, gives the disk room, and lets a program that was
    /// stopped go on: it finds what it had written, synced or not.
    pub fn mend(&self) {
        let mut state = self.state();
        state.faults.clear();
        state.stopped = false;
        (state.is_full, state.n_failed, state.free_bytes) = (false, 0, None);
    }

    /// How many sectors a crash now could lose.
    pub fn unsynced(&self) -> usize {
        let state = self.state();
        let dirty = |node: &Node| match node {
            Node::Dir(_) => 0,
            Node::File(file) => file.dirty.len(),
        };
        state.nodes.values().map(dirty).sum()
    }

    /// Says from now on that so many bytes are free. Nothing is held to it.
    pub fn set_free_bytes(&self, bytes: u64) {
        self.state().free_bytes = Some(bytes);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic in a test must not hide behind a poisoned lock: the state is plain data.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for MemFs {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MemFs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemFs").field("operations", &self.count(Op::Any)).finish()
    }
}

impl Fs for MemFs {
    fn create_new(&self, path: &Path) -> io::Result<Box<dyn File>> {
        let mut state = self.state();
        state.begin(Op::Any)?;
        state.take_room(true)?;
        let (dir, name) = state.split(path)?;
        let id = state.next_node;
        state.link(dir, name, id)?;
        state.nodes.insert(id, Node::File(MemFile::default()));
        state.next_node += 1;
        Ok(Handle::open(self, &mut state, id, Access::ReadWrite))
    }

    fn open(&self, path: &Path, access: Access) -> io::Result<Box<dyn File>> {
        let mut state = self.state();
        let id = state.find(path)?;
        state.file(id)?;
        Ok(Handle::open(self, &mut state, id, access))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.begin(Op::Any)?;
        let (dir, name) = state.split(path)?;
        let id = state.next_node;
        state.link(dir, name, id)?;
        state.nodes.insert(id, Node::Dir(MemDir::default()));
        state.next_node += 1;
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<OsString>> {
        let mut state = self.state();
        let id = state.find(dir)?;
        Ok(state.dir(id)?.live.keys().cloned().collect())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.begin(Op::Any)?;
        let (from_dir, from) = state.split(from)?;
        let (to_dir, to) = state.split(to)?;
        if from_dir != to_dir {
            return Err(io::ErrorKind::CrossesDevices.into());
        }
        let id = *state.dir(from_dir)?.live.get(&from).ok_or(io::ErrorKind::NotFound)?;
        state.change(from_dir, Change::Rename { from, to, id })
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.begin(Op::Any)?;
        let id = state.find(path)?;
        state.file(id)?;
        let (dir, name) = state.split(path)?;
        state.change(dir, Change::Unlink { name })
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.begin(Op::Any)?;
        let id = state.find(path)?;
        if !state.dir(id)?.live.is_empty() {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        let (dir, name) = state.split(path)?;
        state.change(dir, Change::Unlink { name })
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.begin(Op::SyncDir)?;
        let id = state.find(dir)?;
        let is_volatile = state.is_volatile;
        let dir = state.dir(id)?;
        if !is_volatile && !dir.pending.is_empty() {
            let before = std::mem::replace(&mut dir.durable, dir.live.clone());
            let pending = std::mem::take(&mut dir.pending);
            let given = pending.iter().filter_map(Change::id);
            let candidates: Vec<u64> = before.into_values().chain(given).collect();
            state.drop_unused(candidates);
        }
        Ok(())
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        match self.state().find(path) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn free_bytes(&self, _dir: &Path) -> io::Result<u64> {
        Ok(self.state().free_bytes.unwrap_or(u64::MAX))
    }

    fn lock(&self, path: &Path) -> Result<Lock, LockError> {
        if !self.exists(path)? {
            self.create_new(path)?;
        }
        let mut state = self.state();
        let id = state.find(path)?;
        if !state.locked.insert(id) {
            return Err(LockError::Held { pid: Some(std::process::id()) });
        }
        Ok(Lock::new(Held { fs: self.clone(), id }))
    }
}

struct Held {
    fs: MemFs,
    id: u64,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.fs.state().locked.remove(&self.id);
    }
}

struct Handle {
    fs: MemFs,
    id: u64,
    access: Access,
}

impl Handle {
    fn open(fs: &MemFs, state: &mut State, id: u64, access: Access) -> Box<dyn File> {
        *state.users.entry(id).or_default() += 1;
        Box::new(Handle { fs: fs.clone(), id, access })
    }

    /// Runs a change on the file unless a fault or the way it was opened forbids it.
    fn change<T>(&self, op: Op, run: impl FnOnce(&mut MemFile) -> T) -> io::Result<T> {
        if self.access == Access::Read {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let mut state = self.fs.state();
        let begun = state.begin(op);
        let is_failed_sync = op == Op::Sync && begun.is_err() && !state.stopped;
        let reverts = state.reverts;
        let file = state.file(self.id)?;
        if is_failed_sync && reverts {
            file.revert();
        } else if is_failed_sync {
            file.stale.append(&mut file.dirty);
        }
        begun?;
        if op == Op::Allocate {
            state.take_room(true)?;
        }
        state.write(self.id, run)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let mut state = self.fs.state();
        if let Some(n) = state.users.get_mut(&self.id) {
            *n -= 1;
            if *n == 0 {
                state.users.remove(&self.id);
                state.drop_unused([self.id]);
            }
        }
    }
}

impl File for Handle {
    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<usize> {
        Ok(self.fs.state().file(self.id)?.read(offset, bytes))
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<usize> {
        if self.access == Access::Read {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let mut state = self.fs.state();
        let short = state.begin(Op::Write)?;
        let grows = state.file(self.id)?.size < offset.saturating_add(bytes.len() as u64);
        state.take_room(grows)?;
        let bytes = if short { &bytes[..bytes.len().div_ceil(2)] } else { bytes };
        state.write(self.id, |file| file.write(offset, bytes))?;
        Ok(bytes.len())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.change(Op::Sync, MemFile::sync)
    }

    fn sync_all(&self) -> io::Result<()> {
        self.change(Op::Sync, MemFile::sync)
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.fs.state().file(self.id)?.size)
    }

    fn set_size(&self, size: u64) -> io::Result<()> {
        self.change(Op::Any, |file| file.resize(size))
    }

    fn allocate(&self, size: u64) -> io::Result<()> {
        self.change(Op::Allocate, |file| file.resize(file.size.max(size)))
    }

    fn forget_cache_before(&self, end: u64) -> io::Result<()> {
        self.fs.state().file(self.id)?.forget(end);
        Ok(())
    }
}

#[derive(Default)]
struct State {
    nodes: BTreeMap<u64, Node>,
    next_node: u64,
    /// How many handles each file has.
    users: BTreeMap<u64, usize>,
    is_volatile: bool,
    locked: BTreeSet<u64>,
    counts: [u64; 5],
    faults: Vec<(Op, u64, Fault)>,
    stopped: bool,
    /// The operation that failed last takes back what it was to make durable.
    reverts: bool,
    /// What [`Fs::free_bytes`] answers, if a test has said so.
    free_bytes: Option<u64>,
    is_full: bool,
    n_failed: u64,
}

impl State {
    /// Counts an operation and lets it fail if a fault says so. True for a write cut short.
    fn begin(&mut self, op: Op) -> io::Result<bool> {
        let mut hit = None;
        let kinds: &[Op] = match op {
            Op::Any => &[Op::Any],
            Op::Write => &[Op::Any, Op::Write],
            Op::Allocate => &[Op::Any, Op::Allocate],
            Op::Sync => &[Op::Any, Op::Sync],
            Op::SyncDir => &[Op::Any, Op::Sync, Op::SyncDir],
        };
        for kind in kinds {
            let at = self.counts[*kind as usize];
            self.counts[*kind as usize] += 1;
            hit = hit.or(self.faults.iter().find(|f| f.0 == *kind && f.1 == at).map(|f| f.2));
        }
        self.stopped |= hit == Some(Fault::Stop);
        if self.stopped {
            return Err(io::Error::other("stopped"));
        }
        self.reverts = matches!(hit, Some(Fault::Reverted(_)));
        match hit {
            Some(Fault::Error(code) | Fault::Reverted(code)) => {
                self.n_failed += 1;
                Err(io::Error::from_raw_os_error(code))
            }
            Some(Fault::Short) => Ok(true),
            Some(Fault::Stop) | None => Ok(false),
        }
    }

    /// Fails what needs room when there is none.
    fn take_room(&mut self, is_needed: bool) -> io::Result<()> {
        if is_needed && self.is_full {
            self.n_failed += 1;
            return Err(rustix::io::Errno::NOSPC.into());
        }
        Ok(())
    }

    fn link(&mut self, dir: u64, name: OsString, id: u64) -> io::Result<()> {
        if self.dir(dir)?.live.contains_key(&name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.change(dir, Change::Link { name, id })
    }

    fn change(&mut self, dir: u64, change: Change) -> io::Result<()> {
        let is_volatile = self.is_volatile;
        let dir = self.dir(dir)?;
        let replaced = match &change {
            Change::Link { .. } => None,
            Change::Unlink { name } | Change::Rename { to: name, .. } => {
                dir.live.get(name).copied()
            }
        };
        apply(&mut dir.live, &change);
        if !is_volatile {
            dir.pending.push(change);
        }
        self.drop_unused(replaced);
        Ok(())
    }

    /// Runs a change on the contents of a file.
    fn write<T>(&mut self, id: u64, run: impl FnOnce(&mut MemFile) -> T) -> io::Result<T> {
        let is_volatile = self.is_volatile;
        let file = self.file(id)?;
        let result = run(file);
        if is_volatile {
            file.dirty.clear();
        }
        Ok(result)
    }

    /// Drops those of these that have neither a name, now or after a crash, nor a user.
    fn drop_unused(&mut self, candidates: impl IntoIterator<Item = u64>) {
        for id in candidates {
            let is_named = self.nodes.values().any(|node| match node {
                Node::Dir(dir) => dir.names(id),
                Node::File(_) => false,
            });
            if !is_named && id != ROOT && !self.users.contains_key(&id) {
                self.nodes.remove(&id);
            }
        }
    }

    fn find(&self, path: &Path) -> io::Result<u64> {
        let mut id = ROOT;
        for component in path.components() {
            if let Component::Normal(name) = component {
                let Some(Node::Dir(dir)) = self.nodes.get(&id) else {
                    return Err(io::ErrorKind::NotADirectory.into());
                };
                id = *dir.live.get(name).ok_or(io::ErrorKind::NotFound)?;
            }
        }
        Ok(id)
    }

    fn split(&self, path: &Path) -> io::Result<(u64, OsString)> {
        let name = path.file_name().map(OsStr::to_owned).ok_or(io::ErrorKind::InvalidInput)?;
        Ok((self.find(super::parent(path))?, name))
    }

    fn dir(&mut self, id: u64) -> io::Result<&mut MemDir> {
        match self.nodes.get_mut(&id) {
            Some(Node::Dir(dir)) => Ok(dir),
            _ => Err(io::ErrorKind::NotADirectory.into()),
        }
    }

    fn file(&mut self, id: u64) -> io::Result<&mut MemFile> {
        match self.nodes.get_mut(&id) {
            Some(Node::File(file)) => Ok(file),
            _ => Err(io::ErrorKind::IsADirectory.into()),
        }
    }
}

enum Node {
    Dir(MemDir),
    File(MemFile),
}

#[derive(Clone)]
enum Change {
    Link { name: OsString, id: u64 },
    Unlink { name: OsString },
    Rename { from: OsString, to: OsString, id: u64 },
}

impl Change {
    /// What it gives a name to.
    fn id(&self) -> Option<u64> {
        match self {
            Change::Link { id, .. } | Change::Rename { id, .. } => Some(*id),
            Change::Unlink { .. } => None,
        }
    }
}

#[derive(Default)]
struct MemDir {
    live: BTreeMap<OsString, u64>,
    durable: BTreeMap<OsString, u64>,
    pending: Vec<Change>,
}

impl MemDir {
    /// Whether it names this, now or perhaps after a crash.
    fn names(&self, id: u64) -> bool {
        let given = self.pending.iter().filter_map(Change::id);
        self.live.values().chain(self.durable.values()).copied().chain(given).any(|n| n == id)
    }

    fn crash(&self, fate: &mut Fate) -> MemDir {
        let mut live = self.durable.clone();
        let mut is_older_lost = false;
        for change in &self.pending {
            if fate.survives() {
                apply(&mut live, change);
                fate.lost.reordered += usize::from(is_older_lost);
            } else {
                is_older_lost = true;
                fate.lost.renames += usize::from(matches!(change, Change::Rename { .. }));
            }
        }
        MemDir { durable: live.clone(), live, pending: Vec::new() }
    }
}

fn apply(names: &mut BTreeMap<OsString, u64>, change: &Change) {
    match change {
        Change::Link { name, id } => {
            names.insert(name.clone(), *id);
        }
        Change::Unlink { name } => {
            names.remove(name);
        }
        Change::Rename { from, to, id } => {
            names.remove(from);
            names.insert(to.clone(), *id);
        }
    }
}

/// Absent sectors read as zeros. Live and durable share a sector until one of them changes.
#[derive(Default)]
struct MemFile {
    live: BTreeMap<u64, Sector>,
    durable: BTreeMap<u64, Sector>,
    size: u64,
    durable_size: u64,
    /// Sectors that the next sync writes.
    dirty: BTreeSet<u64>,
    /// Sectors whose sync failed: readable until the cache is dropped, never written.
    stale: BTreeSet<u64>,
}

impl MemFile {
    fn read(&self, offset: u64, bytes: &mut [u8]) -> usize {
        let end = self.size.min(offset.saturating_add(bytes.len() as u64));
        let mut at = offset;
        while at < end {
            let within = (at % SECTOR) as usize;
            let n = (SECTOR_LEN - within).min((end - at) as usize);
            let target = &mut bytes[(at - offset) as usize..][..n];
            match self.live.get(&(at / SECTOR)) {
                Some(sector) => target.copy_from_slice(&sector[within..][..n]),
                None => target.fill(0),
            }
            at += n as u64;
        }
        at.saturating_sub(offset) as usize
    }

    fn write(&mut self, offset: u64, mut bytes: &[u8]) {
        let mut at = offset;
        while !bytes.is_empty() {
            let within = (at % SECTOR) as usize;
            let (part, rest) = bytes.split_at((SECTOR_LEN - within).min(bytes.len()));
            match self.live.entry(at / SECTOR) {
                Entry::Vacant(_) if is_zero(part) => {}
                entry => {
                    let sector = entry.or_insert_with(|| [0; SECTOR_LEN].into());
                    Arc::make_mut(sector)[within..][..part.len()].copy_from_slice(part);
                }
            }
            self.stale.remove(&(at / SECTOR));
            self.dirty.insert(at / SECTOR);
            bytes = rest;
            at += part.len() as u64;
        }
        self.size = self.size.max(at);
    }

    fn resize(&mut self, size: u64) {
        if size < self.size {
            let gone = self.live.split_off(&size.div_ceil(SECTOR));
            self.dirty.extend(gone.into_keys());
            let within = (size % SECTOR) as usize;
            if within != 0
                && let Some(sector) = self.live.get_mut(&(size / SECTOR))
            {
                Arc::make_mut(sector)[within..].fill(0);
                self.dirty.insert(size / SECTOR);
            }
        }
        self.size = size;
    }

    fn sync(&mut self) {
        for at in std::mem::take(&mut self.dirty) {
            copy(&self.live, &mut self.durable, at);
        }
        self.durable_size = self.size;
    }

    fn revert(&mut self) {
        for at in std::mem::take(&mut self.dirty) {
            copy(&self.durable, &mut self.live, at);
        }
        self.size = self.durable_size;
    }

    fn forget(&mut self, end: u64) {
        let kept = self.stale.split_off(&end.div_ceil(SECTOR));
        for at in std::mem::replace(&mut self.stale, kept) {
            copy(&self.durable, &mut self.live, at);
        }
    }

    fn crash(&self, fate: &mut Fate) -> MemFile {
        let mut live = self.durable.clone();
        let mut n_kept = 0;
        for &at in &self.dirty {
            if fate.garbage() {
                live.insert(at, Arc::new(std::array::from_fn(|_| fate.next() as u8)));
            } else if fate.survives() {
                copy(&self.live, &mut live, at);
                n_kept += 1;
            }
        }
        let n_lost = self.dirty.len() - n_kept;
        fate.lost.sectors += n_lost;
        fate.lost.torn += usize::from(n_lost > 0 && n_kept > 0);
        let mut size = self.durable_size;
        if self.size != size && fate.survives() {
            size = self.size;
        }
        live.split_off(&size.div_ceil(SECTOR));
        let durable = live.clone();
        MemFile { live, durable, size, durable_size: size, ..MemFile::default() }
    }
}

fn copy(from: &BTreeMap<u64, Sector>, to: &mut BTreeMap<u64, Sector>, at: u64) {
    match from.get(&at) {
        Some(sector) => to.insert(at, sector.clone()),
        None => to.remove(&at),
    };
}

/// Decides what survives, by the seed alone (splitmix64).
struct Fate {
    loss: Loss,
    state: u64,
    lost: Lost,
}

impl Fate {
    fn new(loss: Loss) -> Self {
        let state = match loss {
            Loss::Some(seed) | Loss::Garbage(seed) => seed,
            Loss::Everything | Loss::Nothing => 0,
        };
        Self { loss, state, lost: Lost::default() }
    }

    fn survives(&mut self) -> bool {
        match self.loss {
            Loss::Everything => false,
            Loss::Nothing => true,
            Loss::Some(_) | Loss::Garbage(_) => self.next() & 1 == 1,
        }
    }

    fn garbage(&mut self) -> bool {
        matches!(self.loss, Loss::Garbage(_)) && self.next().is_multiple_of(3)
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}
