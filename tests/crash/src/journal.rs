//! A file system that executes on a [`Disk`] and records every operation that changes something
//! or makes it durable.
//!
//! What it records is all that there is to know: applied to the image that it began with, the
//! first `k` operations give the disk as it was after them.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io;
use std::path::{Component, Path};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use wal::fs::{Access, File, Fs, Lock, LockError};

use crate::disk::{Disk, Name, Op, ROOT, SECTOR, sector};

/// The file system; clones share it.
#[derive(Clone)]
pub struct JournalFs(Arc<Mutex<State>>);

struct State {
    disk: Disk,
    ops: Vec<Op>,
    /// After how many operations each sync was done.
    syncs: Vec<usize>,
    next_id: u64,
    locked: BTreeSet<u64>,
}

impl JournalFs {
    /// A file system on a disk.
    pub fn new(disk: Disk) -> Self {
        let next_id = disk.next_id();
        Self(Arc::new(Mutex::new(State {
            disk,
            ops: Vec::new(),
            syncs: Vec::new(),
            next_id,
            locked: BTreeSet::new(),
        })))
    }

    /// How many operations were recorded so far.
    pub fn n_ops(&self) -> usize {
        self.state().ops.len()
    }

    /// How many of them were syncs.
    pub fn n_syncs(&self) -> u64 {
        self.state().syncs.len() as u64
    }

    /// How many operations had been done when the `nth` sync, counted from 1, was.
    pub fn synced(&self, nth: u64) -> usize {
        let nth = usize::try_from(nth).ok().and_then(|nth| nth.checked_sub(1));
        nth.and_then(|nth| self.state().syncs.get(nth).copied()).unwrap_or_default()
    }

    /// Ends the recording, and gives it.
    pub fn take_ops(&self) -> Vec<Op> {
        std::mem::take(&mut self.state().ops)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic of what is tested must not hide behind a poisoned lock: the state is plain data.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn run(&mut self, op: Op) {
        self.disk.apply(&op);
        let is_sync = matches!(op, Op::Sync { .. } | Op::SyncDir { .. });
        self.ops.push(op);
        if is_sync {
            self.syncs.push(self.ops.len());
        }
    }

    fn find(&self, path: &Path) -> io::Result<u64> {
        let mut id = ROOT;
        for component in path.components() {
            if let Component::Normal(name) = component {
                let dir = self.disk.dirs.get(&id).ok_or(io::ErrorKind::NotADirectory)?;
                let name = name.to_str().ok_or(io::ErrorKind::InvalidInput)?;
                id = *dir.live.get(name).ok_or(io::ErrorKind::NotFound)?;
            }
        }
        Ok(id)
    }

    fn split(&self, path: &Path) -> io::Result<(u64, Name)> {
        let name = path.file_name().and_then(|name| name.to_str());
        let name = name.ok_or(io::ErrorKind::InvalidInput)?;
        Ok((self.find(wal::fs::parent(path))?, name.into()))
    }

    fn find_file(&self, path: &Path) -> io::Result<u64> {
        let id = self.find(path)?;
        self.disk.files.get(&id).map(|_| id).ok_or(io::ErrorKind::IsADirectory.into())
    }

    fn link(&mut self, path: &Path, is_dir: bool) -> io::Result<u64> {
        let (dir, name) = self.split(path)?;
        let names = self.disk.dirs.get(&dir).ok_or(io::ErrorKind::NotADirectory)?;
        if names.live.contains_key(&name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let id = self.next_id;
        self.next_id += 1;
        self.run(Op::Link { dir, name, id, is_dir });
        Ok(id)
    }
}

impl Fs for JournalFs {
    fn create_new(&self, path: &Path) -> io::Result<Box<dyn File>> {
        let id = self.state().link(path, false)?;
        Ok(Box::new(Handle { fs: self.clone(), id, access: Access::ReadWrite }))
    }

    fn open(&self, path: &Path, access: Access) -> io::Result<Box<dyn File>> {
        let id = self.state().find_file(path)?;
        Ok(Box::new(Handle { fs: self.clone(), id, access }))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.state().link(path, true).map(|_| ())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<OsString>> {
        let state = self.state();
        let id = state.find(dir)?;
        let dir = state.disk.dirs.get(&id).ok_or(io::ErrorKind::NotADirectory)?;
        Ok(dir.live.keys().map(|name| OsString::from(&**name)).collect())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        let ((dir, from), (to_dir, to)) = (state.split(from)?, state.split(to)?);
        if dir != to_dir {
            return Err(io::ErrorKind::CrossesDevices.into());
        }
        let names = &state.disk.dirs.get(&dir).ok_or(io::ErrorKind::NotADirectory)?.live;
        let id = *names.get(&from).ok_or(io::ErrorKind::NotFound)?;
        state.run(Op::Rename { dir, from, to, id });
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.find_file(path)?;
        let (dir, name) = state.split(path)?;
        state.run(Op::Unlink { dir, name });
        Ok(())
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        let id = state.find(path)?;
        let is_empty = state.disk.dirs.get(&id).map(|dir| dir.live.is_empty());
        if !is_empty.ok_or(io::ErrorKind::NotADirectory)? {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        let (dir, name) = state.split(path)?;
        state.run(Op::Unlink { dir, name });
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.state();
        let dir = state.find(dir)?;
        state.run(Op::SyncDir { dir });
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
        Ok(u64::MAX >> 1)
    }

    fn lock(&self, path: &Path) -> Result<Lock, LockError> {
        let mut state = self.state();
        let id = match state.find_file(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => state.link(path, false)?,
            found => found?,
        };
        if !state.locked.insert(id) {
            return Err(LockError::Held { pid: None });
        }
        Ok(Lock::new(Held { fs: self.clone(), id }))
    }
}

struct Held {
    fs: JournalFs,
    id: u64,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.fs.state().locked.remove(&self.id);
    }
}

struct Handle {
    fs: JournalFs,
    id: u64,
    access: Access,
}

impl Handle {
    fn change(&self, op: impl FnOnce(u64, u64) -> Option<Op>) -> io::Result<()> {
        if self.access == Access::Read {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let mut state = self.fs.state();
        let size = state.disk.files[&self.id].live.size;
        if let Some(op) = op(self.id, size) {
            state.run(op);
        }
        Ok(())
    }
}

impl File for Handle {
    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<usize> {
        Ok(self.fs.state().disk.files[&self.id].live.read(offset, bytes))
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<usize> {
        if self.access == Access::Read {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let mut state = self.fs.state();
        let live = &state.disk.files[&self.id].live;
        let end = offset + bytes.len() as u64;
        let mut sectors = Vec::new();
        let mut at = offset;
        while at < end {
            let within = (at % SECTOR as u64) as usize;
            let length = (SECTOR - within).min((end - at) as usize);
            let nth = (at / SECTOR as u64) as usize;
            let mut whole = match live.get(nth) {
                Some(filled) if length < SECTOR => filled.bytes,
                _ => [0; SECTOR],
            };
            whole[within..][..length].copy_from_slice(&bytes[(at - offset) as usize..][..length]);
            sectors.push((nth, sector(whole)));
            at += length as u64;
        }
        let size = live.size.max(end);
        state.run(Op::Write { id: self.id, sectors, size });
        Ok(bytes.len())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.change(|id, _| Some(Op::Sync { id }))
    }

    fn sync_all(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.fs.state().disk.files[&self.id].live.size)
    }

    fn set_size(&self, size: u64) -> io::Result<()> {
        self.change(|id, _| Some(Op::Resize { id, size }))
    }

    fn allocate(&self, size: u64) -> io::Result<()> {
        self.change(|id, old| (size > old).then_some(Op::Resize { id, size }))
    }

    fn forget_cache_before(&self, _end: u64) -> io::Result<()> {
        Ok(())
    }
}
