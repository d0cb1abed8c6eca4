//! A disk whose syncs do nothing, to tell what the log costs from what the disk costs.

use std::ffi::OsString;
use std::io;
use std::path::Path;

use wal::fs::{Access, DiskFs, File, Fs, Lock, LockError};

/// The real file system, but for that.
#[derive(Debug, Clone, Copy)]
pub struct Unsynced;

struct UnsyncedFile(Box<dyn File>);

fn unsynced(file: Box<dyn File>) -> Box<dyn File> {
    Box::new(UnsyncedFile(file))
}

impl Fs for Unsynced {
    fn create_new(&self, path: &Path) -> io::Result<Box<dyn File>> {
        DiskFs.create_new(path).map(unsynced)
    }

    fn open(&self, path: &Path, access: Access) -> io::Result<Box<dyn File>> {
        DiskFs.open(path, access).map(unsynced)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        DiskFs.create_dir(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<OsString>> {
        DiskFs.list(dir)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        DiskFs.rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        DiskFs.remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        DiskFs.remove_dir(path)
    }

    fn sync_dir(&self, _dir: &Path) -> io::Result<()> {
        Ok(())
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        DiskFs.exists(path)
    }

    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        DiskFs.free_bytes(dir)
    }

    fn lock(&self, path: &Path) -> Result<Lock, LockError> {
        DiskFs.lock(path)
    }
}

impl File for UnsyncedFile {
    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<usize> {
        self.0.read_at(offset, bytes)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<usize> {
        self.0.write_at(offset, bytes)
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn sync_all(&self) -> io::Result<()> {
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        self.0.size()
    }

    fn set_size(&self, size: u64) -> io::Result<()> {
        self.0.set_size(size)
    }

    fn allocate(&self, size: u64) -> io::Result<()> {
        self.0.allocate(size)
    }

    fn forget_cache_before(&self, end: u64) -> io::Result<()> {
        self.0.forget_cache_before(end)
    }
}
