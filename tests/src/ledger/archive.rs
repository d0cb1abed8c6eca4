//! Keeps every segment that a log ever had: a member lets go of its log while it runs, and what it
//! let go may be what a client never heard of.
//!
//! A segment keeps its file from its first byte to its last, so a second name for the file is
//! enough. It is given within [`LOOK_EVERY`] of the first one, long before a segment is let go. A
//! directory that was emptied has segments of the same names again: those of before are put by.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// A segment lives for seconds at least.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A log's directory, and where its segments are kept: on the same disk.
#[derive(Debug, Clone)]
struct Watched {
    member: u64,
    log: PathBuf,
    kept: PathBuf,
}

/// Second names for the segments of any number of members.
#[derive(Debug)]
pub struct Archive {
    watched: Arc<Mutex<Vec<Watched>>>,
    stop: Option<Sender<()>>,
    keeper: Option<JoinHandle<()>>,
}

impl Archive {
    /// Begins to keep.
    pub fn start() -> Archive {
        let watched = Arc::new(Mutex::new(Vec::new()));
        let (stop, stopped) = channel::<()>();
        let all = Arc::clone(&watched);
        let keeper = thread::spawn(move || {
            while stopped.recv_timeout(LOOK_EVERY) == Err(RecvTimeoutError::Timeout) {
                let all = lock(&all).clone();
                for watched in &all {
                    // It may be gone, or not there yet; what is missed shows as a gap.
                    let _missed = keep(watched);
                }
            }
        });
        Archive { watched, stop: Some(stop), keeper: Some(keeper) }
    }

    /// Keeps the log of a member, be it not there yet.
    ///
    /// # Panics
    ///
    /// When nothing can be written beside its data directory.
    pub fn watch(&self, member: u64, data_dir: &Path) {
        let name = format!("kept-{member}");
        let kept = data_dir.with_file_name(name);
        fs::create_dir_all(&kept).expect("there is room beside the data directory");
        lock(&self.watched).push(Watched { member, log: data_dir.join("wal"), kept });
    }

    /// Keeps what is there now, and tells where: by member, a directory of segments.
    pub fn stop(mut self) -> Vec<(u64, PathBuf)> {
        self.end();
        let all = lock(&self.watched);
        for watched in all.iter() {
            // The log of a member that was wiped is gone, and has been kept.
            let _missed = keep(watched);
        }
        all.iter().map(|watched| (watched.member, watched.kept.clone())).collect()
    }

    fn end(&mut self) {
        drop(self.stop.take());
        if let Some(keeper) = self.keeper.take() {
            // One that panicked has said so.
            let _ended = keeper.join();
        }
    }
}

impl Drop for Archive {
    fn drop(&mut self) {
        self.end();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn keep(Watched { log, kept, .. }: &Watched) -> io::Result<()> {
    for entry in fs::read_dir(log)? {
        let path = entry?.path();
        let (true, Some(name)) =
            (path.extension().is_some_and(|extension| extension == "wal"), path.file_name())
        else {
            continue;
        };
        let second = kept.join(name);
        match (path.metadata(), second.metadata()) {
            (Ok(now), Ok(before)) if now.ino() == before.ino() => continue,
            // Another file has its name now: the directory is another, and begins anew.
            (Ok(_), Ok(_)) => put_by(kept, &second)?,
            (Err(_), _) => continue,
            (Ok(_), Err(_)) => {}
        }
        fs::hard_link(&path, &second)?;
    }
    Ok(())
}

/// Moves a segment to where those of earlier directories are.
fn put_by(kept: &Path, second: &Path) -> io::Result<()> {
    let name = second.file_name().unwrap_or_default();
    let mut n = 1;
    let mut earlier = kept.join("earlier-001");
    while earlier.join(name).exists() {
        n += 1;
        earlier = kept.join(format!("earlier-{n:03}"));
    }
    fs::create_dir_all(&earlier)?;
    fs::rename(second, earlier.join(name))
}

/// The segments that are kept in a directory: those of earlier directories first, in the order of
/// their names.
pub(super) fn segments(kept: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(kept)? {
        paths.push(entry?.path());
    }
    paths.sort();
    let (earlier, mut own): (Vec<_>, Vec<_>) = paths.into_iter().partition(|path| path.is_dir());
    let mut all = Vec::new();
    for directory in earlier {
        all.extend(segments(&directory)?);
    }
    all.append(&mut own);
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Found by an hour of rounds: a member that was wiped, and founded its log anew, had files of
    /// the same names as before, and those took the places of what had been kept.
    #[test]
    fn a_wiped_members_segments_stay() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("wal");
        let kept = directory.path().join("kept-1");
        let watched = Watched { member: 1, log: log.clone(), kept: kept.clone() };
        fs::create_dir_all(&kept).unwrap();
        let name = "0000000000000001-0000000000000002.wal";
        for life in ["first", "second", "third"] {
            fs::create_dir_all(&log).unwrap();
            fs::write(log.join(name), life).unwrap();
            (0..2).for_each(|_| keep(&watched).unwrap());
            fs::remove_dir_all(&log).unwrap();
        }
        let texts = segments(&kept).unwrap().into_iter().map(fs::read_to_string);
        assert_eq!(texts.map(Result::unwrap).collect::<Vec<_>>(), ["first", "second", "third"]);
    }
}
