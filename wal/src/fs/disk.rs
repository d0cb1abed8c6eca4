//! The file system of the machine.
//!
//! Linux is the platform whose promises are relied upon; elsewhere allocation and cache advice
//! fall back to what the standard library offers, and durability to its `sync_data`.

use std::{
    ffi::OsString,
    fs::{self, OpenOptions, TryLockError},
    io,
    num::NonZeroU64,
    os::unix::fs::FileExt,
    path::Path,
};

use crate::defects::{Defect, has};

use super::{Access, File, Fs, Lock, LockError};

/// The file system of the machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct DiskFs;

impl DiskFs {
    /// Keeps the holder of the lock file at `path` away for as long as the [`Lock`] lives, without
    /// creating or changing the file; none if there is no such file, and so no holder.
    ///
    /// # Errors
    ///
    /// It is held, or cannot be opened or locked.
    pub fn lock_out(&self, path: &Path) -> Result<Option<Lock>, LockError> {
        let file = match fs::File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        match file.try_lock_shared() {
            Ok(()) => Ok(Some(Lock::new(file))),
            Err(TryLockError::WouldBlock) => Err(LockError::Held { pid: holder(path) }),
            Err(TryLockError::Error(error)) => Err(error.into()),
        }
    }
}

/// The process that wrote itself into a lock file, if it still runs: one that only looks holds the
/// lock and writes nothing.
fn holder(path: &Path) -> Option<u32> {
    use rustix::{io::Errno, process};
    let pid = fs::read_to_string(path).ok()?.trim().parse().ok()?;
    let runs = process::test_kill_process(process::Pid::from_raw(pid)?) != Err(Errno::SRCH);
    runs.then(|| pid.cast_unsigned())
}

impl Fs for DiskFs {
    fn create_new(&self, path: &Path) -> io::Result<Box<dyn File>> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
        Ok(Box::new(DiskFile(file)))
    }

    fn open(&self, path: &Path, access: Access) -> io::Result<Box<dyn File>> {
        let write = access == Access::ReadWrite;
        Ok(Box::new(DiskFile(OpenOptions::new().read(true).write(write).open(path)?)))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        fs::create_dir(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<OsString>> {
        fs::read_dir(dir)?.map(|entry| entry.map(|entry| entry.file_name())).collect()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        fs::File::open(dir)?.sync_all()
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        path.try_exists()
    }

    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(dir)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    fn lock(&self, path: &Path) -> Result<Lock, LockError> {
        // Opened without truncation: until the lock is ours the pid in it is somebody else's.
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) if has(Defect::NoLock) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(LockError::Held { pid: holder(path) });
            }
            Err(TryLockError::Error(error)) => return Err(error.into()),
        }
        file.set_len(0)?;
        file.write_all_at(format!("{}\n", std::process::id()).as_bytes(), 0)?;
        Ok(Lock::new(file))
    }
}

#[derive(Debug)]
struct DiskFile(fs::File);

impl File for DiskFile {
    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<usize> {
        self.0.read_at(bytes, offset)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<usize> {
        self.0.write_at(bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.0.sync_all()
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn set_size(&self, size: u64) -> io::Result<()> {
        self.0.set_len(size)
    }

    #[cfg(target_os = "linux")]
    fn allocate(&self, size: u64) -> io::Result<()> {
        use rustix::{fs::FallocateFlags, io::Errno};
        match rustix::fs::fallocate(&self.0, FallocateFlags::empty(), 0, size) {
            // A file system without allocation gives no promise of room, but zeros all the same.
            Err(Errno::OPNOTSUPP) if self.size()? < size => self.set_size(size),
            Err(Errno::OPNOTSUPP) => Ok(()),
            result => Ok(result?),
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn allocate(&self, size: u64) -> io::Result<()> {
        if self.size()? < size { self.set_size(size) } else { Ok(()) }
    }

    #[cfg(target_os = "linux")]
    fn forget_cache_before(&self, end: u64) -> io::Result<()> {
        let Some(length) = NonZeroU64::new(end) else { return Ok(()) };
        // Without a length it is all that there is, and a length is a signed number to the system.
        let length = Some(length).filter(|_| i64::try_from(end).is_ok());
        Ok(rustix::fs::fadvise(&self.0, 0, length, rustix::fs::Advice::DontNeed)?)
    }

    #[cfg(not(target_os = "linux"))]
    fn forget_cache_before(&self, _end: u64) -> io::Result<()> {
        Ok(())
    }
}
