//! Segments of arbitrary bytes, and frames whose checksums hold around arbitrary records.
//!
//! These tests live inside the crate because no public call computes a checksum over nonsense.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    ffi::OsString,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::Arc,
};

use ::fuzz::Rng;

use crate::{
    Batch, Error, Options, Wal,
    fs::{Access, File, Fs, Lock, LockError, MemFs, SECTOR},
    record::{FRAME_HEADER, crc},
    segment::{Header, Position, file_name},
};

const DIR: &str = "/wal";
const OPTIONS: Options = Options { cluster: 1, node: 1, segment_bytes: 4096 };
const MAGIC: &[u8; 4] = b"WALf";

/// A disk that nobody reads by a length which its files do not have: what a reader makes room for,
/// it makes because of a length that it believes.
struct Frugal(MemFs);

struct FrugalFile(Box<dyn File>);

impl File for FrugalFile {
    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<usize> {
        let size = self.size()?;
        assert!(bytes.len() as u64 <= size, "room for {} bytes of {size}", bytes.len());
        self.0.read_at(offset, bytes)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<usize> {
        self.0.write_at(offset, bytes)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.0.sync_all()
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

impl Fs for Frugal {
    fn create_new(&self, path: &Path) -> io::Result<Box<dyn File>> {
        Ok(Box::new(FrugalFile(self.0.create_new(path)?)))
    }

    fn open(&self, path: &Path, access: Access) -> io::Result<Box<dyn File>> {
        Ok(Box::new(FrugalFile(self.0.open(path, access)?)))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.0.create_dir(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<OsString>> {
        self.0.list(dir)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.0.remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.0.remove_dir(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.0.sync_dir(dir)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.0.exists(path)
    }

    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        self.0.free_bytes(dir)
    }

    fn lock(&self, path: &Path) -> Result<Lock, LockError> {
        self.0.lock(path)
    }
}

/// What the next frame has to say to be believed, and what it may say of the log.
struct Writer {
    seed: u64,
    sequence: u64,
    previous: u64,
    index: u64,
    term: u64,
}

impl Writer {
    /// A number that fits, or one that may not.
    fn near(rng: &mut Rng, number: u64) -> u64 {
        match rng.below(40) {
            0 => rng.number(),
            1 => number.wrapping_sub(1),
            2 => number.wrapping_add(rng.below(3)),
            _ => number,
        }
    }

    fn record(&mut self, rng: &mut Rng, body: &mut Vec<u8>) {
        let kind = *rng.pick(&[1, 1, 1, 1, 2, 3]);
        let (index, term) = (self.index, self.term);
        let (words, payload) = match kind {
            1 => {
                let words = vec![Self::near(rng, index.wrapping_add(1)), Self::near(rng, term)];
                (self.index, self.term) = (words[0], words[1]);
                (words, rng.bytes(700))
            }
            2 => (vec![Self::near(rng, term), rng.below(4), Self::near(rng, index)], Vec::new()),
            _ => (vec![Self::near(rng, index), Self::near(rng, term), rng.draw()], Vec::new()),
        };
        let length = (words.len() * 8 + payload.len()) as u32;
        body.extend([kind, rng.chance(1, 4).into(), 0, 0]);
        body.extend(length.to_le_bytes());
        words.iter().for_each(|word| body.extend(word.to_le_bytes()));
        body.extend(payload);
    }

    /// A frame with checksums that hold, whatever it says.
    fn frame(&mut self, rng: &mut Rng, kind: u32) -> Vec<u8> {
        let mut body = Vec::new();
        let mut count = 0;
        if kind == 2 {
            // What a head repeats; most say what the header before it implies.
            for kind in [3, 2] {
                let words = match kind {
                    2 => [Self::near(rng, self.term), rng.below(4), Self::near(rng, self.index)],
                    _ => [Self::near(rng, self.index), Self::near(rng, self.term), 7],
                };
                body.extend([kind, 0, 0, 0, 24, 0, 0, 0]);
                words.iter().for_each(|word| body.extend(word.to_le_bytes()));
                count += 1;
            }
        } else if kind == 1 {
            count = 1 + rng.below(4) as u32;
            (0..count).for_each(|_| self.record(rng, &mut body));
        }
        if rng.chance(1, 12) {
            let n = 1 + rng.below(3);
            rng.mutate(&mut body, n);
        }
        let length = if rng.chance(1, 40) { rng.number() as u32 } else { body.len() as u32 };
        let count = if rng.chance(1, 40) { rng.number() as u32 } else { count };
        let mut frame = vec![0; FRAME_HEADER];
        frame.extend(&body);
        frame.resize(frame.len().next_multiple_of(SECTOR as usize), 0);
        frame[..4].copy_from_slice(MAGIC);
        for (at, word) in [(4, kind), (8, length), (12, count), (16, rng.below(3) as u32)] {
            frame[at..at + 4].copy_from_slice(&word.to_le_bytes());
        }
        frame[24..32].copy_from_slice(&self.sequence.to_le_bytes());
        frame[32..40].copy_from_slice(&self.previous.to_le_bytes());
        let checksum = crc(self.seed, &[&frame[..40], &frame[FRAME_HEADER..]]);
        frame[40..48].copy_from_slice(&checksum.to_le_bytes());
        let own = crc(self.seed, &[&frame[..48]]);
        frame[48..56].copy_from_slice(&own.to_le_bytes());
        (self.sequence, self.previous) = (self.sequence.wrapping_add(1), checksum);
        frame
    }

    /// A segment that goes on where the one before ended.
    fn segment(&mut self, rng: &mut Rng, sequence: u64, is_last: bool) -> (String, Vec<u8>) {
        let base = Position { index: self.index, term: self.term };
        let header = Header { cluster: 1, node: 1, sequence, base, previous: self.previous };
        let (bytes, seed) = header.encode();
        let mut bytes = bytes.to_vec();
        let (first_index, _) = base.index.overflowing_add(1);
        (self.seed, self.previous) = (seed, seed);
        bytes.extend(self.frame(rng, 2));
        for _ in 0..rng.below(4) {
            let kind = if rng.chance(1, 30) { rng.below(5) as u32 } else { 1 };
            bytes.extend(self.frame(rng, kind));
        }
        if !is_last {
            let end = (self.sequence, self.previous);
            bytes.extend(self.frame(rng, 3));
            (self.sequence, self.previous) = end;
        }
        if rng.chance(1, 2) {
            bytes.resize(bytes.len() + 512 * rng.at(4), 0);
        }
        (file_name(sequence, first_index), bytes)
    }
}

fn segments(rng: &mut Rng) -> Vec<(String, Vec<u8>)> {
    let sequence = if rng.chance(1, 20) { rng.number() } else { 1 };
    let n = 1 + rng.below(3);
    let (term, index) = match rng.below(12) {
        0 => (rng.number(), rng.number()),
        1 => (rng.number(), u64::MAX - rng.below(6)),
        _ => (1 + rng.below(3), rng.below(30)),
    };
    let number = if rng.chance(1, 20) { u64::MAX - rng.below(4) } else { 1 };
    let mut writer = Writer { seed: 0, sequence: number, previous: 0, index, term };
    let mut segments: Vec<_> = (0..n)
        .map(|at| match rng.below(12) {
            0 => (file_name(sequence.wrapping_add(at), index.wrapping_add(1)), rng.bytes(4096)),
            _ => writer.segment(rng, sequence.wrapping_add(at), at + 1 == n),
        })
        .collect();
    if rng.chance(1, 6) {
        let at = rng.at(segments.len());
        let n = 1 + rng.below(3);
        rng.mutate(&mut segments[at].1, n);
    }
    segments
}

fn open(fs: &MemFs) -> Result<Wal, Error> {
    let fs = Arc::new(Frugal(fs.clone()));
    Wal::open(fs, Path::new(DIR), OPTIONS, &|| false).map(|(wal, _)| wal)
}

/// Whatever is in the files, an opening refuses it or shows a log that keeps the rules and goes on;
/// whether it opened.
fn opens_or_refuses(rng: &mut Rng) -> bool {
    let fs = MemFs::new();
    fs.create_dir(Path::new(DIR)).unwrap();
    for (name, bytes) in segments(rng) {
        let path = Path::new(DIR).join(name);
        let Ok(file) = fs.create_new(&path) else { return false };
        file.write_all_at(0, &bytes).unwrap();
        file.sync_all().unwrap();
    }
    let mut wal = match open(&fs) {
        Ok(wal) => wal,
        Err(Error::Corrupt { .. } | Error::Foreign { .. } | Error::Missing { .. }) => {
            return false;
        }
        Err(error) => panic!("{error}"),
    };
    let (first, last) = (wal.first_index(), wal.last_index());
    let state = wal.hard_state();
    assert!(last + 1 >= first && state.commit <= last, "{wal:?}");
    if last >= first {
        let entries = wal.entries(first, last + 1, u64::MAX).unwrap();
        let mut term = wal.term(first - 1).unwrap();
        for (entry, index) in entries.iter().zip(first..) {
            assert!(entry.index == index && (term..=state.term).contains(&entry.term));
            assert_eq!(wal.term(index), Some(entry.term));
            term = entry.term;
        }
        assert_eq!(entries.len() as u64, last + 1 - first);
    }
    // What is saved now is read again; where numbers end, nothing is saved.
    let next = last + 1;
    let mut batch = Batch::new();
    batch.push_entry(next, state.term, false, &[b"next"]);
    match catch_unwind(AssertUnwindSafe(|| wal.save(&mut batch))) {
        Ok(saved) => {
            saved.unwrap();
            drop(wal);
            assert_eq!(open(&fs).unwrap().last_index(), next);
        }
        Err(panic) => {
            let rule = panic.downcast_ref::<String>().map(String::as_str);
            let rule = rule.or(panic.downcast_ref::<&str>().copied()).unwrap_or_default();
            assert!(rule.starts_with("W11"), "{rule}");
        }
    }
    true
}

#[test]
fn fuzz_wal_bytes() {
    let mut n_open = 0;
    let report = ::fuzz::run("wal_bytes", |rng| n_open += u64::from(opens_or_refuses(rng)));
    assert!(n_open >= report.cases / 20 || report.cases < 500, "only {n_open} opened");
}

/// Found by this target: a log whose newest segment had the last number that is read was opened, and
/// then went on in a segment that no opening would read again.
#[test]
fn a_log_at_the_end_of_its_numbers_does_not_go_on() {
    assert!(opens_or_refuses(&mut Rng::new(1_795_301_967_334_397_832)));
}
