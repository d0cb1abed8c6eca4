//! A small disk of our own, in memory, mounted for as long as this lives.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

/// What a member in need of room calls little, for [`SmallDisk::low`].
pub const MIN_FREE_BYTES: u64 = 4 << 20;
const CHUNK: usize = 64 << 10;

/// A file system that can be filled. Dropping it unmounts it.
#[derive(Debug)]
pub struct SmallDisk {
    directory: TempDir,
}

impl SmallDisk {
    /// Mounts a disk of so many MiB.
    ///
    /// # Errors
    ///
    /// What the system says; it may not be allowed.
    pub fn mount(mib: u64) -> Result<SmallDisk, String> {
        let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={mib}m"), "tmpfs"]).arg(directory.path());
        match mount.stdin(Stdio::null()).output() {
            Ok(output) if output.status.success() => Ok(SmallDisk { directory }),
            Ok(output) => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Less than a member wants to have free, and more than nothing.
    pub fn low(&self) -> u64 {
        MIN_FREE_BYTES * 3 / 4
    }

    /// Writes a file that leaves so many bytes free, or a little more.
    ///
    /// # Panics
    ///
    /// When that fails for another reason than the want of room.
    pub fn fill(&self, leave: u64) -> PathBuf {
        let path = self.directory.path().join("filler");
        let mut file = fs::File::create(&path).expect("the file can be made");
        let zeros = vec![0; CHUNK];
        let free = || {
            let stat = rustix::fs::statvfs(self.directory.path()).expect("it is mounted");
            stat.f_bavail * stat.f_frsize
        };
        while free() > leave {
            match file.write_all(&zeros) {
                Ok(()) => {}
                // Somebody else was faster.
                Err(error) if error.kind() == std::io::ErrorKind::StorageFull => break,
                Err(error) => panic!("{}: {error}", path.display()),
            }
        }
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Members that are about to be killed may still use it: it goes with their last file.
        let path = self.directory.path();
        let umount = Command::new("umount").arg("--lazy").arg(path).stdin(Stdio::null()).status();
        if !umount.is_ok_and(|status| status.success()) {
            // A directory that is still a disk cannot be removed.
            self.directory.disable_cleanup(true);
        }
    }
}
