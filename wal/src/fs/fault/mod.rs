//! A file system that fails as a script says, around any other: for tests only.
//!
//! A script is a list of rules, separated by semicolons:
//!
//! ```text
//!  sync:wal:3=EIO            operation : place : nth = what
//!  sync:.wal.tmp:1..=ENOSPC  ditto, from the nth on
//!  after:/path/to/file       nothing is counted before that file is there
//!
//!  operation  read, write, sync, syncdir, allocate, create, rename, remove
//!  place      * everywhere; else the name of the directory that the file is in, or how its path
//!             ends: wal and snap are a node's directories, pins.tmp is one of its files
//!  nth        counted from 1, for each rule by itself, among the operations that match it
//!  what       EIO, ENOSPC, EDQUOT, EROFS  it is not done, and fails so
//!             EIO,reverted                of sync: as well, what was written to the file since its
//!                                         last sync is undone
//!             short                       of write: half of the bytes are written
//!             slow:5s, slow:200ms         it is done, that much later
//! ```
//!
//! A failed sync leaves what was written readable, as ext4 and XFS do, whose later syncs do not
//! write it either; `reverted` is what Btrfs does. Reads then show the file as of its last good
//! sync, its length included. A file that is renamed is matched by its new name from then on.
//! Locks, sizes and the like never fail.

mod script;
#[cfg(test)]
mod tests;

use std::{
    ffi::OsString,
    fmt, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use script::{Effect, Operation, Script};

use super::{Access, File, Fs, Lock, LockError};

/// A file system that fails as a script says. See the module's page for the language.
pub struct FaultFs {
    inner: Arc<dyn Fs>,
    script: Arc<Script>,
    /// The names of the files that are open, to follow their renames.
    open: Mutex<Vec<Weak<Mutex<PathBuf>>>>,
}

impl FaultFs {
    /// Fails `inner` as `script` says.
    ///
    /// # Errors
    ///
    /// Which rule is wrong, and what would be right.
    pub fn parse(script: &str, inner: Arc<dyn Fs>) -> Result<FaultFs, String> {
        let script = Arc::new(Script::parse(script)?);
        Ok(Self { inner, script, open: Mutex::default() })
    }

    /// Does the operation unless a rule has it fail.
    fn run<T>(
        &self,
        operation: Operation,
        path: &Path,
        run: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        judge(&*self.inner, &self.script, operation, path)?;
        run()
    }

    fn opened(&self, path: &Path, file: Box<dyn File>) -> io::Result<Box<dyn File>> {
        let path = Arc::new(Mutex::new(path.to_owned()));
        let mut open = lock(&self.open);
        open.retain(|file| file.strong_count() > 0);
        open.push(Arc::downgrade(&path));
        let undo = if self.script.reverts() { Some(Undo::new(&*file)?) } else { None };
        let (fs, script) = (Arc::clone(&self.inner), Arc::clone(&self.script));
        Ok(Box::new(FaultFile { fs, inner: file, script, path, undo: undo.map(Mutex::new) }))
    }
}

/// Waits as long as a rule has the operation take, or fails as a rule has it fail; what else it
/// does to it is returned.
fn judge(
    fs: &dyn Fs,
    script: &Script,
    operation: Operation,
    path: &Path,
) -> io::Result<Option<Effect>> {
    if !script.is_begun(fs)? {
        return Ok(None);
    }
    match script.judge(operation, path) {
        Some(Effect::Fail(errno)) => Err(Effect::error(errno)),
        Some(Effect::Slow(time)) => {
            std::thread::sleep(time);
            Ok(None)
        }
        effect => Ok(effect),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What a panic left is whole: nothing here is changed in steps.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for FaultFs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.script.fmt(f)
    }
}

impl Fs for FaultFs {
    fn create_new(&self, path: &Path) -> io::Result<Box<dyn File>> {
        let file = self.run(Operation::Create, path, || self.inner.create_new(path))?;
        self.opened(path, file)
    }

    fn open(&self, path: &Path, access: Access) -> io::Result<Box<dyn File>> {
        self.opened(path, self.inner.open(path, access)?)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.run(Operation::Create, path, || self.inner.create_dir(path))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<OsString>> {
        self.inner.list(dir)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.run(Operation::Rename, from, || self.inner.rename(from, to))?;
        for file in lock(&self.open).iter().filter_map(Weak::upgrade) {
            let mut path = lock(&file);
            if *path == from {
                to.clone_into(&mut path);
            }
        }
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.run(Operation::Remove, path, || self.inner.remove_file(path))
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.run(Operation::Remove, path, || self.inner.remove_dir(path))
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.run(Operation::SyncDir, dir, || self.inner.sync_dir(dir))
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.inner.exists(path)
    }

    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        self.inner.free_bytes(dir)
    }

    fn lock(&self, path: &Path) -> Result<Lock, LockError> {
        self.inner.lock(path)
    }
}

struct FaultFile {
    fs: Arc<dyn Fs>,
    inner: Box<dyn File>,
    script: Arc<Script>,
    path: Arc<Mutex<PathBuf>>,
    /// There if any rule reverts.
    undo: Option<Mutex<Undo>>,
}

/// What the file was when it was last synced through this handle.
struct Undo {
    size: u64,
    /// Where bytes were replaced since, and which, in order.
    replaced: Vec<(u64, Vec<u8>)>,
}

impl Undo {
    fn new(file: &dyn File) -> io::Result<Self> {
        Ok(Self { size: file.size()?, replaced: Vec::new() })
    }

    fn remember(&mut self, file: &dyn File, offset: u64, length: u64) -> io::Result<()> {
        let end = self.size.min(offset.saturating_add(length));
        let mut bytes = vec![0; usize::try_from(end.saturating_sub(offset)).unwrap_or(0)];
        file.read_full_at(offset, &mut bytes)?;
        self.replaced.push((offset, bytes));
        Ok(())
    }

    fn revert(&mut self, file: &dyn File) -> io::Result<()> {
        for (offset, bytes) in self.replaced.drain(..).rev() {
            file.write_all_at(offset, &bytes)?;
        }
        file.set_size(self.size)
    }
}

impl FaultFile {
    fn judge(&self, operation: Operation) -> io::Result<Option<Effect>> {
        let path = lock(&self.path).clone();
        judge(&*self.fs, &self.script, operation, &path)
    }

    fn sync(&self, run: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let reverted = self.judge(Operation::Sync)?;
        let Some(undo) = &self.undo else { return run() };
        let mut undo = lock(undo);
        if let Some(Effect::Revert(errno)) = reverted {
            undo.revert(&*self.inner)?;
            return Err(Effect::error(errno));
        }
        run()?;
        *undo = Undo::new(&*self.inner)?;
        Ok(())
    }

    fn remember(&self, offset: u64, length: u64) -> io::Result<()> {
        match &self.undo {
            Some(undo) => lock(undo).remember(&*self.inner, offset, length),
            None => Ok(()),
        }
    }
}

impl File for FaultFile {
    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<usize> {
        self.judge(Operation::Read)?;
        self.inner.read_at(offset, bytes)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<usize> {
        let is_short = self.judge(Operation::Write)? == Some(Effect::Short);
        let bytes = if is_short { &bytes[..bytes.len().div_ceil(2)] } else { bytes };
        self.remember(offset, bytes.len() as u64)?;
        self.inner.write_at(offset, bytes)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.sync(|| self.inner.sync_data())
    }

    fn sync_all(&self) -> io::Result<()> {
        self.sync(|| self.inner.sync_all())
    }

    fn size(&self) -> io::Result<u64> {
        self.inner.size()
    }

    fn set_size(&self, size: u64) -> io::Result<()> {
        let end = self.inner.size()?;
        self.remember(size, end.saturating_sub(size))?;
        self.inner.set_size(size)
    }

    fn allocate(&self, size: u64) -> io::Result<()> {
        self.judge(Operation::Allocate)?;
        self.inner.allocate(size)
    }

    fn forget_cache_before(&self, end: u64) -> io::Result<()> {
        self.inner.forget_cache_before(end)
    }
}
