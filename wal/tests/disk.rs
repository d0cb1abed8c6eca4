//! The real file system, as far as one process can tell.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test panics and reports")]

mod common;

use std::sync::Arc;

use common::{Hands, Model, OPTIONS, Step, deferred, script};
use wal::{
    Batch, Error, Wal,
    fs::{DiskFs, Fs, LockError, MemFs, read_file, write_file_durably},
};

/// The scripts that the tests in memory run, on a disk.
#[test]
fn a_log_on_disk_lives_through_the_scripts() {
    live(script());
    live(deferred());
}

fn live(steps: Vec<Step>) {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("wal");
    let fs = Arc::new(DiskFs);
    let models = Model::through(&steps);
    assert!(!Wal::exists(&*fs, &dir).unwrap());
    let mut first = Batch::new();
    first.set_marker(models[0].marker.unwrap());
    first.set_hard_state(models[0].hard_state);
    let mut wal = Wal::create(fs.clone(), &dir, OPTIONS, &mut first).unwrap();
    let mut hands = Hands::default();
    for (step, model) in steps.iter().zip(&models[1..]) {
        hands.take(&mut wal, step).unwrap();
        assert!(model.is(&wal), "{wal:?}");
        // What the log has handed out would outlive it.
        if hands.doomed.is_some() || hands.prepared.is_some() {
            continue;
        }
        drop(wal);
        wal = Wal::open(fs.clone(), &dir, OPTIONS, &|| false).unwrap().0;
        assert!(model.is(&wal), "{wal:?}");
    }
    assert!(Wal::exists(&*fs, &dir).unwrap());
    let again = Wal::create(fs, &dir, OPTIONS, &mut first);
    assert!(matches!(again, Err(Error::Io { .. })), "a log is not created over another");
}

/// The cache may be told to forget any of a file, which holds the same afterwards, synced or not.
#[test]
fn a_forgotten_cache_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let file = DiskFs.create_new(&dir.path().join("file")).unwrap();
    let written: Vec<u8> = (0..40_000_u32).map(|at| (at / 100) as u8).collect();
    file.write_all_at(0, &written[..30_000]).unwrap();
    file.sync_data().unwrap();
    file.write_all_at(30_000, &written[30_000..]).unwrap();
    for end in [0, 1, 512, 8192, 30_000, 40_000, 1 << 40, i64::MAX as u64, u64::MAX] {
        file.forget_cache_before(end).unwrap();
        let mut read = vec![0; 50_000];
        assert_eq!(file.read_full_at(0, &mut read).unwrap(), written.len());
        assert!(read[..written.len()] == written, "before {end}");
    }
}

/// Both file systems answer alike to those who write whole files and take locks.
#[test]
fn whole_files_and_locks() {
    let dir = tempfile::tempdir().unwrap();
    let memory = MemFs::new();
    memory.create_dir(std::path::Path::new("/data")).unwrap();
    let places: [(&dyn Fs, &std::path::Path); 2] =
        [(&DiskFs, dir.path()), (&memory, std::path::Path::new("/data"))];
    for (fs, dir) in places {
        let path = dir.join("identity");
        assert!(read_file(fs, &path, 9).is_err());
        write_file_durably(fs, &path, b"old").unwrap();
        fs.create_new(&dir.join("identity.tmp")).unwrap();
        write_file_durably(fs, &path, b"new one").unwrap();
        assert_eq!(read_file(fs, &path, 7).unwrap(), b"new one");
        assert_eq!(read_file(fs, &path, 6).unwrap_err().kind(), std::io::ErrorKind::FileTooLarge);
        assert!(!fs.exists(&dir.join("identity.tmp")).unwrap());

        let lock = dir.join("LOCK");
        let held = fs.lock(&lock).unwrap();
        match fs.lock(&lock) {
            Err(LockError::Held { pid }) => assert_eq!(pid, Some(std::process::id())),
            other => panic!("{other:?}"),
        }
        drop(held);
        fs.lock(&lock).unwrap();
        assert!(fs.free_bytes(dir).unwrap() > 0);
    }
}
