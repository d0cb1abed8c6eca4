//! The seam between the program and its disk.
//!
//! Everything that must survive a crash is reached through [`Fs`] and [`File`]: [`DiskFs`] is the
//! real thing, [`MemFs`] keeps files in memory and can show what a crash would leave of them.
//! With the feature `faults` there is also `FaultFs`, which fails as a script says.
//! The traits hold what a log needs and nothing else: no paths are joined, no errors wrapped, no
//! call retried here. Names become durable by [`Fs::sync_dir`] only, contents by
//! [`File::sync_data`] only.

mod disk;
#[cfg(any(test, feature = "faults"))]
mod fault;
mod mem;

use std::{
    any::Any,
    ffi::OsString,
    fmt, io,
    path::{Path, PathBuf},
};

pub use disk::DiskFs;
#[cfg(any(test, feature = "faults"))]
pub use fault::FaultFs;
pub use mem::{Fault, Loss, Lost, MemFs, Op};

/// The unit that a disk writes whole or not at all.
pub const SECTOR: u64 = 512;

/// How a file is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// For reading.
    Read,
    /// For reading and writing; the contents stay.
    ReadWrite,
}

/// Names: files and directories.
pub trait Fs: Send + Sync {
    /// Creates a file for reading and writing; fails if the name exists.
    fn create_new(&self, path: &Path) -> io::Result<Box<dyn File>>;

    /// Opens a file that exists.
    fn open(&self, path: &Path, access: Access) -> io::Result<Box<dyn File>>;

    /// Creates a directory in one that exists; fails if the name exists.
    fn create_dir(&self, path: &Path) -> io::Result<()>;

    /// The names in a directory, in no particular order.
    fn list(&self, dir: &Path) -> io::Result<Vec<OsString>>;

    /// Gives a file or directory another name in the same directory, replacing a file of that name.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes the name of a file.
    fn remove_file(&self, path: &Path) -> io::Result<()>;

    /// Removes an empty directory.
    fn remove_dir(&self, path: &Path) -> io::Result<()>;

    /// Makes every name created, changed or removed in this directory durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// Whether the name exists.
    fn exists(&self, path: &Path) -> io::Result<bool>;

    /// Bytes that may still be written to the file system that holds `dir`.
    fn free_bytes(&self, dir: &Path) -> io::Result<u64>;

    /// Takes the lock file at `path`, creating it if need be, until the [`Lock`] is dropped.
    fn lock(&self, path: &Path) -> Result<Lock, LockError>;
}

/// The contents of a file. Offsets are absolute; there is no cursor.
pub trait File: Send + Sync {
    /// Reads some bytes at `offset`; 0 at the end of the file.
    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<usize>;

    /// Writes some bytes at `offset`, extending the file if need be.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<usize>;

    /// Makes contents and length durable.
    fn sync_data(&self) -> io::Result<()>;

    /// Makes contents, length and attributes durable.
    fn sync_all(&self) -> io::Result<()>;

    /// The length in bytes.
    fn size(&self) -> io::Result<u64>;

    /// Cuts the file, or extends it by zeros.
    fn set_size(&self, size: u64) -> io::Result<()>;

    /// Extends the file to at least `size` by zeros whose room on the disk is taken now.
    fn allocate(&self, size: u64) -> io::Result<()>;

    /// Asks that the next read come from the disk. Bytes not yet written are unaffected.
    fn forget_cache(&self) -> io::Result<()> {
        self.forget_cache_before(u64::MAX)
    }

    /// As [`forget_cache`](Self::forget_cache), of the bytes before `end` only.
    fn forget_cache_before(&self, end: u64) -> io::Result<()>;

    /// Reads until `bytes` is full or the file ends, and returns how much was read.
    fn read_full_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<usize> {
        let mut done = 0;
        while done < bytes.len() {
            match self.read_at(offset + done as u64, &mut bytes[done..]) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    /// Writes all of `bytes`, completing short writes.
    fn write_all_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut done = 0;
        while done < bytes.len() {
            match self.write_at(offset + done as u64, &bytes[done..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => done += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// A held lock; dropping it, or the end of the process, lets it go.
pub struct Lock {
    _held: Box<dyn Any + Send + Sync>,
}

impl Lock {
    /// A lock that dropping `held` lets go of: for file systems of other crates.
    pub fn new(held: impl Any + Send + Sync) -> Self {
        Self { _held: Box::new(held) }
    }
}

impl fmt::Debug for Lock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Lock")
    }
}

/// Why a lock was not taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process holds it.
    #[error(
        "held by {}",
        pid.map_or_else(|| "an unknown process".to_owned(), |pid| format!("process {pid}"))
    )]
    Held {
        /// The holder, as it wrote itself into the file.
        pid: Option<u32>,
    },
    /// The lock file cannot be opened, locked or written.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Replaces the file at `path` by one holding `bytes`, so that a crash leaves the old or the new.
///
/// The new contents are built in `<path>.tmp`, which a crash may leave behind.
pub fn write_file_durably(fs: &dyn Fs, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut tmp = path.as_os_str().to_owned();
    tmp.push(".tmp");
    let tmp = PathBuf::from(tmp);
    if fs.exists(&tmp)? {
        fs.remove_file(&tmp)?;
    }
    let file = fs.create_new(&tmp)?;
    file.write_all_at(0, bytes)?;
    file.sync_all()?;
    fs.rename(&tmp, path)?;
    fs.sync_dir(parent(path))
}

/// Reads a whole file, refusing one of more than `max_bytes`.
pub fn read_file(fs: &dyn Fs, path: &Path, max_bytes: u64) -> io::Result<Vec<u8>> {
    let file = fs.open(path, Access::Read)?;
    let size = file.size()?;
    if size > max_bytes {
        let message = format!("{size} bytes, at most {max_bytes} expected");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
    }
    let mut bytes = vec![0; usize::try_from(size).map_err(io::Error::other)?];
    let read = file.read_full_at(0, &mut bytes)?;
    bytes.truncate(read);
    Ok(bytes)
}

/// The directory that holds `path`, as a path that can be opened.
pub fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => path,
    }
}
