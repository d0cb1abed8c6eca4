//! One runner per directory: a lock held for life, and beside it the record of what runs.
//!
//! Whether a runner lives is asked of the lock, which the kernel drops with its holder, and never
//! of the existence of a file. The record serves the case the lock cannot prevent: after `kill -9`
//! of a runner its processes live on, and the next runner names them.
//!
//! Refuses to signal what it finds: the processes of a dead runner belong to the person who killed
//! it. Never removes the lock file: a third runner could then lock a file of the same name.
//!
//! Invariants:
//! L1 the record is one line of JSON in the locked file, and only the holder writes it.
//! L2 a process is named by its pid and its start time; a pid alone may have changed hands.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

const FILE_NAME: &str = ".raftexample-cluster.lock";

/// A process group as it is recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Recorded {
    pub(super) name: String,
    pub(super) pid: i32,
    /// In the kernel's ticks since boot; absent where there is no /proc.
    started: Option<u64>,
}

impl Recorded {
    pub(super) fn now(name: &str, pid: i32) -> Recorded {
        Recorded { name: name.to_owned(), pid, started: stat(pid).map(|stat| stat.started) }
    }

    /// Whether the group still has a member that is not a zombie.
    fn lives(&self) -> bool {
        match (stat(self.pid), self.started) {
            // The leader's number was given to another process, so the group was empty before.
            (Some(leader), Some(started)) if leader.started != started => false,
            (Some(leader), Some(_)) if !leader.zombie => true,
            // The leader is gone. As long as the group has members its number is not reused.
            (_, Some(_)) => group_has_members(self.pid),
            (_, None) => false,
        }
    }
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Record {
    runner: u32,
    processes: Vec<Recorded>,
}

/// The lock of one directory, held until dropped.
pub(super) struct Lock {
    file: File,
    /// Groups left by earlier runners that still live; kept in the record until they do not.
    leftovers: Vec<Recorded>,
}

/// Why the lock was not taken.
pub(super) enum NotTaken {
    /// Another runner holds it; its pid, if its record could be read.
    Held(Option<u32>),
    Io(io::Error),
}

impl Lock {
    pub(super) fn take(directory: &Path) -> Result<Lock, NotTaken> {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(directory.join(FILE_NAME))
            .map_err(NotTaken::Io)?;
        let taken = file.try_lock();
        let mut text = String::new();
        // A record that cannot be read names nobody, which is all that is lost.
        let record: Option<Record> = match file.read_to_string(&mut text) {
            Ok(_) => text.lines().next().and_then(|line| serde_json::from_str(line).ok()),
            Err(_) => None,
        };
        match taken {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(NotTaken::Held(record.map(|record| record.runner)));
            }
            Err(TryLockError::Error(error)) => return Err(NotTaken::Io(error)),
        }
        let mut leftovers = record.unwrap_or_default().processes;
        leftovers.retain(Recorded::lives);
        let lock = Lock { file, leftovers };
        lock.record(Vec::new()).map_err(NotTaken::Io)?;
        Ok(lock)
    }

    /// What earlier runners left behind.
    pub(super) fn leftovers(&self) -> &[Recorded] {
        &self.leftovers
    }

    /// Replaces the record. It is not synced: after a crash of the machine nothing it names lives.
    pub(super) fn record(&self, running: Vec<Recorded>) -> io::Result<()> {
        let mut processes = running;
        processes.extend(self.leftovers.iter().filter(|left| left.lives()).cloned());
        let record = Record { runner: std::process::id(), processes };
        let mut line = serde_json::to_vec(&record)?;
        line.push(b'\n');
        // One write, then the cut: a reader in between sees a whole first line (L1).
        self.file.write_all_at(&line, 0)?;
        self.file.set_len(line.len() as u64)
    }
}

struct Stat {
    started: u64,
    group: i32,
    zombie: bool,
}

/// The fields of /proc/PID/stat that identify a process; none if there is no such process.
fn stat(pid: i32) -> Option<Stat> {
    let text = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    let text = String::from_utf8_lossy(&text);
    // The second field is the name in parentheses, and may contain blanks and parentheses.
    let (_, fields) = text.rsplit_once(')')?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    // Counted from the third field: state 0, ppid 1, pgrp 2, and start time, the 22nd, 19.
    Some(Stat {
        zombie: matches!(*fields.first()?, "Z" | "X"),
        group: fields.get(2)?.parse().ok()?,
        started: fields.get(19)?.parse().ok()?,
    })
}

fn group_has_members(group: i32) -> bool {
    let Ok(entries) = std::fs::read_dir("/proc") else { return false };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(stat)
        .any(|stat| stat.group == group && !stat.zombie)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reused_pid_is_not_taken_for_the_old_process() {
        // Naming a stranger's process to `kill` would be worse than naming none.
        let own_pid = i32::try_from(std::process::id()).expect("pids fit in pid_t");
        let own = Recorded::now("me", own_pid);
        assert!(own.lives());
        let reused = Recorded { started: own.started.map(|started| started + 1), ..own };
        assert!(!reused.lives());
    }

    #[test]
    fn a_lock_is_held_by_one() {
        // Two runners on one directory would start every member twice.
        let directory = tempfile::tempdir().expect("a temporary directory");
        let first = Lock::take(directory.path()).ok().expect("nobody holds it");
        match Lock::take(directory.path()) {
            Err(NotTaken::Held(pid)) => assert_eq!(pid, Some(std::process::id())),
            Err(NotTaken::Io(error)) => panic!("{error}"),
            Ok(_) => panic!("taken twice"),
        }
        drop(first);
        assert!(Lock::take(directory.path()).is_ok());
    }
}
