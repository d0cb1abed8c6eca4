#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use super::FaultFs;
use crate::{
    Batch, Error, Options, Wal,
    fs::{Access, DiskFs, File, Fs, MemFs, write_file_durably},
};

fn faulty(script: &str) -> FaultFs {
    FaultFs::parse(script, Arc::new(MemFs::new())).unwrap()
}

fn read(file: &dyn File) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(file.size().unwrap()).unwrap()];
    file.read_full_at(0, &mut bytes).unwrap();
    bytes
}

/// Whoever writes a script must be told what is wrong with it, and what would be right.
#[test]
fn a_wrong_script_is_refused_with_the_right_form() {
    let table = [
        ("sync", "operation:place:nth=what"),
        ("sync:wal=EIO", "operation:place:nth=what"),
        ("sync:wal:1:2=EIO", "operation:place:nth=what"),
        ("fsync:wal:1=EIO", "there are read, write, sync, syncdir"),
        ("sync:wal:0=EIO", "3 for the third"),
        ("sync:wal:x..=EIO", "3.. for all from there on"),
        ("sync::1=EIO", "write * for everywhere"),
        ("sync:wal:1=EPERM", "there are EIO, ENOSPC"),
        ("sync:wal:1=short", "only a write"),
        ("write:wal:1=EIO,reverted", "only a sync"),
        ("sync:wal:1=EIO,undone", "slow:5s"),
        ("sync:wal:1=slow:5", "5s or 200ms"),
        ("sync:wal:1=slow:xms", "5s or 200ms"),
        ("sync:wal:1=EIO; write:", "\"write:\""),
    ];
    for (script, expected) in table {
        let why = FaultFs::parse(script, Arc::new(MemFs::new())).unwrap_err();
        assert!(why.contains(expected), "{script}: {why}");
    }
    for script in ["", " ; ", "write:*:5..=ENOSPC;syncdir:/a b/c:2=slow:200ms;sync:x:1=short1"] {
        let parsed = FaultFs::parse(script, Arc::new(MemFs::new()));
        assert_eq!(parsed.is_ok(), !script.contains("short1"), "{parsed:?}");
    }
}

/// Which operation is hit: by place, by number, and by its file's newest name.
#[test]
fn rules_hit_what_they_name() {
    let fs = faulty(
        "write:data:2=EIO; write:x.tmp:3..=ENOSPC; create:other:1=EROFS; rename:*:2=EDQUOT; \
         remove:x:1=EIO; syncdir:data:2=EIO; read:x:1=EIO; allocate:x:1=ENOSPC",
    );
    let code =
        |result: std::io::Result<()>| result.err().map(|error| error.raw_os_error().unwrap());
    let (dir, path, tmp) = (Path::new("/data"), Path::new("/data/x"), Path::new("/data/x.tmp"));
    fs.create_dir(dir).unwrap();
    assert_eq!(code(fs.create_dir(Path::new("/other"))), Some(30));
    fs.create_dir(Path::new("/other")).unwrap();
    fs.create_new(Path::new("/elsewhere")).unwrap().write_all_at(0, b"not counted").unwrap();
    let file = fs.create_new(tmp).unwrap();
    let write = |file: &dyn File| code(file.write_all_at(0, b"abcd"));
    assert_eq!([(); 4].map(|()| write(&*file)), [None, Some(5), Some(28), Some(28)]);
    fs.rename(tmp, path).unwrap();
    assert_eq!(write(&*file), None, "it has another name now");
    assert_eq!(code(fs.rename(path, tmp)), Some(122));
    assert_eq!(code(fs.sync_dir(dir)), None);
    assert_eq!(code(fs.sync_dir(dir)), Some(5));
    let again = fs.open(path, Access::Read).unwrap();
    assert_eq!(code(again.read_at(0, &mut [0]).map(|_| ())), Some(5));
    assert_eq!(code(file.allocate(9)), Some(28));
    assert_eq!((read(&*again), file.size().unwrap()), (b"abcd".to_vec(), 4));
    assert_eq!(code(fs.remove_file(path)), Some(5));
    fs.remove_file(path).unwrap();
}

/// The two ways in which a failed sync leaves a file, on a disk and in memory.
#[test]
fn a_failed_sync_keeps_or_reverts() {
    let directory = tempfile::tempdir().unwrap();
    let places: [(Arc<dyn Fs>, &Path); 2] =
        [(Arc::new(DiskFs), directory.path()), (Arc::new(MemFs::new()), Path::new("/"))];
    for (inner, dir) in places {
        let script = "sync:kept:2=EIO; sync:reverted:2=EIO,reverted";
        let fs = FaultFs::parse(script, inner).unwrap();
        for (name, left) in [("kept", &b"a2345Z67"[..]), ("reverted", b"abcdef")] {
            let file = fs.create_new(&dir.join(name)).unwrap();
            file.write_all_at(0, b"abcdef").unwrap();
            file.sync_data().unwrap();
            file.write_all_at(1, b"12345678").unwrap();
            file.write_all_at(1, b"2345Z").unwrap();
            file.set_size(8).unwrap();
            assert_eq!(file.sync_all().unwrap_err().raw_os_error(), Some(5));
            assert_eq!(read(&*file), left, "{name}");
            file.write_all_at(0, b"xyz").unwrap();
            file.sync_data().unwrap();
            assert_eq!(read(&*file)[..3], *b"xyz", "{name}");
        }
    }
}

/// What is short is completed by who writes, and what is slow is done.
#[test]
fn short_and_slow_operations_are_done() {
    let fs = faulty("write:*:1=short; sync:*:1=slow:30ms");
    let file = fs.create_new(Path::new("/file")).unwrap();
    assert_eq!(file.write_at(0, b"abcde").unwrap(), 3);
    file.write_all_at(3, b"de").unwrap();
    let waits = faulty("write:*:1=EIO; after:/go");
    let waiting = waits.create_new(Path::new("/file")).unwrap();
    waiting.write_all_at(0, b"not counted").unwrap();
    waits.create_new(Path::new("/go")).unwrap();
    assert!(waiting.write_all_at(0, b"counted").is_err());
    let begun = Instant::now();
    file.sync_data().unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(30));
    assert_eq!(read(&*file), b"abcde");
}

fn is(fs: &dyn Fs, path: &Path, contents: &[&[u8]]) -> bool {
    let found = crate::fs::read_file(fs, path, 99).unwrap();
    contents.contains(&&found[..])
}

/// A whole file that is replaced is the old or the new one whatever fails, and the new one for good
/// when nothing did: what pins, identities and tombstones rely upon.
#[test]
fn a_file_is_replaced_or_not_whatever_fails() {
    use crate::fs::{Fault, Loss, Op};
    let path = Path::new("/pins");
    let faults = [Fault::Error(5), Fault::Error(28), Fault::Reverted(5), Fault::Short];
    for fault in faults {
        for nth in 0.. {
            let fs = MemFs::new();
            write_file_durably(&fs, path, b"old one").unwrap();
            let before = fs.count(Op::Any);
            fs.inject(Op::Any, nth, fault);
            let written = write_file_durably(&fs, path, b"new").is_ok();
            let n_done = fs.count(Op::Any) - before;
            let allowed: &[&[u8]] = if written { &[b"new"] } else { &[b"old one", b"new"] };
            for loss in [Loss::Everything, Loss::Nothing, Loss::Some(nth), Loss::Some(nth + 99)] {
                assert!(is(&fs.crash(loss), path, allowed), "{fault:?} of {nth}, {loss:?}");
            }
            if nth >= n_done {
                assert!(nth >= 5, "only {nth} operations");
                break;
            }
            // What failed leaves nothing in the way of the next try.
            write_file_durably(&fs, path, b"newest").unwrap();
            assert!(is(&fs.crash(Loss::Everything), path, &[b"newest"]), "{fault:?} of {nth}");
        }
    }
}

/// A log on a disk that takes back what it could not sync: latched, and whole when opened anew.
#[test]
fn a_log_survives_a_reverted_sync() {
    let directory = tempfile::tempdir().unwrap();
    let dir = directory.path().join("wal");
    let options = Options { cluster: 1, node: 1, segment_bytes: 4096 };
    for nth in (1..40).step_by(6) {
        let script = format!("sync:wal:{nth}=EIO,reverted");
        let fs = Arc::new(FaultFs::parse(&script, Arc::new(DiskFs)).unwrap());
        let mut saved = 0;
        let failure = (|| {
            let mut wal = Wal::create(fs, &dir, options, &mut Batch::new())?;
            for index in 1..30 {
                let mut batch = Batch::new();
                batch.push_entry(index, 1, false, &[&[7; 700]]);
                batch.set_hard_state(crate::HardState { term: 1, vote: 0, commit: 0 });
                wal.save(&mut batch)?;
                saved = index;
            }
            Ok::<_, Error>(())
        })();
        let Err(Error::Io { op, path, source }) = failure else { panic!("{nth}: {failure:?}") };
        assert_eq!((op, source.raw_os_error()), ("sync", Some(5)), "{}", path.display());
        if Wal::exists(&DiskFs, &dir).unwrap() {
            let (wal, _) = Wal::open(Arc::new(DiskFs), &dir, options, &|| false).unwrap();
            assert_eq!(wal.last_index(), saved, "{nth}");
        } else {
            assert_eq!(saved, 0);
        }
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
