//! Large batches: no zeros go ahead of them, what they wrote leaves the cache, and a crash leaves
//! all or nothing of each.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    ffi::OsString,
    io,
    path::Path,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use wal::{
    Batch, HardState, Options, Wal,
    fs::{Access, Fault, File, Fs, Lock, LockError, Loss, MemFs, Op},
};

const DIR: &str = "/wal";
const LARGE: usize = 80 << 10;
const MIB: u64 = 1 << 20;
const OPTIONS: Options = Options { cluster: 1, node: 2, segment_bytes: 64 << 20 };

/// A file system whose files write down what the cache is told to forget.
#[derive(Clone)]
struct Watched {
    fs: MemFs,
    forgotten: Arc<Mutex<Vec<u64>>>,
}

struct WatchedFile {
    fs: Watched,
    file: Box<dyn File>,
}

impl Watched {
    fn new() -> Self {
        Self { fs: MemFs::new(), forgotten: Arc::default() }
    }

    fn take(&self) -> Vec<u64> {
        std::mem::take(&mut self.forgotten.lock().unwrap())
    }

    fn file(&self, file: Box<dyn File>) -> Box<dyn File> {
        Box::new(WatchedFile { fs: self.clone(), file })
    }
}

impl File for WatchedFile {
    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<usize> {
        self.file.read_at(offset, bytes)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<usize> {
        self.file.write_at(offset, bytes)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.file.sync_all()
    }

    fn size(&self) -> io::Result<u64> {
        self.file.size()
    }

    fn set_size(&self, size: u64) -> io::Result<()> {
        self.file.set_size(size)
    }

    fn allocate(&self, size: u64) -> io::Result<()> {
        self.file.allocate(size)
    }

    fn forget_cache_before(&self, end: u64) -> io::Result<()> {
        assert_eq!(self.fs.fs.unsynced(), 0, "what is not on the disk cannot leave");
        self.fs.forgotten.lock().unwrap().push(end);
        Err(io::ErrorKind::Unsupported.into())
    }
}

impl Fs for Watched {
    fn create_new(&self, path: &Path) -> io::Result<Box<dyn File>> {
        self.fs.create_new(path).map(|file| self.file(file))
    }

    fn open(&self, path: &Path, access: Access) -> io::Result<Box<dyn File>> {
        self.fs.open(path, access).map(|file| self.file(file))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.fs.create_dir(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<OsString>> {
        self.fs.list(dir)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.fs.rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.fs.remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.fs.remove_dir(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.fs.sync_dir(dir)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.fs.exists(path)
    }

    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        self.fs.free_bytes(dir)
    }

    fn lock(&self, path: &Path) -> Result<Lock, LockError> {
        self.fs.lock(path)
    }
}

fn create(fs: Arc<dyn Fs>, options: Options) -> Wal {
    let mut first = Batch::new();
    first.set_hard_state(HardState { term: 1, vote: 0, commit: 0 });
    Wal::create(fs, Path::new(DIR), options, &mut first).unwrap()
}

/// Appends one entry of so many bytes that are not zero.
fn save(wal: &mut Wal, bytes: usize) -> wal::Result<()> {
    let mut batch = Batch::new();
    let index = wal.last_index() + 1;
    batch.push_entry(index, 1, false, &[&vec![index as u8 | 1; bytes]]);
    wal.save(&mut batch)
}

/// Zeros go ahead of small batches only, and once a MiB.
#[test]
fn no_zeros_go_ahead_of_large_batches() {
    let fs = MemFs::new();
    let mut wal = create(Arc::new(fs.clone()), OPTIONS);
    for (bytes, n_writes) in
        [(LARGE, 1), (100, 2), (100, 1), (LARGE, 1), (1 << 20, 1), (LARGE, 1), (100, 2)]
    {
        let before = fs.count(Op::Write);
        save(&mut wal, bytes).unwrap();
        assert_eq!(fs.count(Op::Write) - before, n_writes, "of {bytes} bytes");
    }
}

/// What large batches wrote leaves the cache when it is on the disk and 8 MiB lie behind it, and all
/// of a segment when the next is begun; small batches leave it alone. A cache that forgets nothing is
/// no failure.
#[test]
fn what_large_batches_wrote_leaves_the_cache() {
    let fs = Watched::new();
    let mut wal = create(Arc::new(fs.clone()), Options { segment_bytes: 20 * MIB, ..OPTIONS });
    fs.take();
    for n in 1..=20 {
        save(&mut wal, (1 << 20) - 512).unwrap();
        let forgotten = fs.take();
        match n {
            17 => assert!(matches!(forgotten[..], [end] if (8 * MIB..9 * MIB).contains(&end))),
            20 => assert_eq!((forgotten, wal.n_segments()), (vec![u64::MAX], 2)),
            _ => assert_eq!(forgotten, [], "after {n} MiB"),
        }
    }
    while wal.n_segments() < 4 {
        save(&mut wal, 60 << 10).unwrap();
    }
    assert_eq!(fs.take(), []);
}

/// Wherever power fails, what was acknowledged is there, and of what was not all or nothing, between
/// zeros or not.
#[test]
fn a_crash_leaves_large_batches_whole_or_not_at_all() {
    const SIZES: [usize; 6] = [100, LARGE, 700, LARGE, LARGE, 30];
    let run = |fs: &MemFs| {
        let mut wal = create(Arc::new(fs.clone()), OPTIONS);
        let created = fs.count(Op::Any);
        let n_saved = SIZES.iter().take_while(|&&bytes| save(&mut wal, bytes).is_ok()).count();
        (created, n_saved)
    };
    let whole = MemFs::new();
    let (created, n_saved) = run(&whole);
    assert_eq!(n_saved, SIZES.len());
    for at in created..whole.count(Op::Any) {
        let fs = MemFs::new();
        fs.inject(Op::Any, at, Fault::Stop);
        let (_, n_saved) = run(&fs);
        let some = (0..20).map(|n| Loss::Some(100 * at + n));
        for loss in [Loss::Everything, Loss::Nothing].into_iter().chain(some) {
            let left: Arc<dyn Fs> = Arc::new(fs.crash(loss));
            let (mut wal, _) = Wal::open(left.clone(), Path::new(DIR), OPTIONS, &|| false).unwrap();
            let n_left = wal.last_index() as usize;
            assert!((n_saved..=n_saved + 1).contains(&n_left), "{n_left}, not {n_saved}");
            save(&mut wal, 40).unwrap();
            drop(wal);
            let (wal, _) = Wal::open(left, Path::new(DIR), OPTIONS, &|| false).unwrap();
            let entries = wal.entries(1, wal.last_index() + 1, u64::MAX).unwrap();
            let sizes: Vec<usize> = entries.iter().map(|entry| entry.payload.len()).collect();
            assert_eq!(sizes, [&SIZES[..n_left], &[40]].concat());
            for entry in entries {
                let expected = Bytes::from(vec![entry.index as u8 | 1; entry.payload.len()]);
                assert_eq!(entry.payload, expected);
            }
        }
    }
}
