//! The log by itself: saving a batch, with its sync and without, and opening.

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use benches::{BATCHES, Unsynced, VALUE_BYTES};
use criterion::{BenchmarkId, Criterion, Throughput};
use wal::fs::{DiskFs, Fs};
use wal::{Batch, HardState, Options, Wal};

/// What is replayed.
const REPLAYED_ENTRY_BYTES: usize = 1 << 10;
const REPLAYED_ENTRIES: u64 = 64 << 10;
const REPLAYED_BATCH: u64 = 16;

fn options() -> Options {
    Options { cluster: 1, node: 1, ..Options::default() }
}

fn fill(batch: &mut Batch, first: u64, n: u64, payload: &[u8]) {
    for index in first..first + n {
        batch.push_entry(index, 1, false, &[payload]);
    }
    batch.set_hard_state(HardState { term: 1, vote: 0, commit: first - 1 });
}

/// So many saves of `n` entries, in a log of their own; filling the batch is part of it.
fn saves(fs: Arc<dyn Fs>, n: u64, rounds: u64) -> Duration {
    let directory = tempfile::tempdir().unwrap();
    let mut batch = Batch::new();
    let mut wal = Wal::create(fs, &directory.path().join("wal"), options(), &mut batch).unwrap();
    let begun = Instant::now();
    for round in 0..rounds {
        fill(&mut batch, 1 + round * n, n, &[7; VALUE_BYTES]);
        wal.save(black_box(&mut batch)).unwrap();
    }
    begun.elapsed()
}

pub(super) fn appends(criterion: &mut Criterion) {
    let disks: [(&str, Arc<dyn Fs>); 2] =
        [("wal/append", Arc::new(DiskFs)), ("wal/append-unsynced", Arc::new(Unsynced))];
    for (name, fs) in disks {
        let mut group = criterion.benchmark_group(name);
        for n in BATCHES.map(|n| n as u64) {
            group.throughput(Throughput::Elements(n));
            group.bench_with_input(BenchmarkId::from_parameter(n), &n, |bencher, n| {
                bencher.iter_custom(|rounds| saves(Arc::clone(&fs), *n, rounds));
            });
        }
        group.finish();
    }
}

fn write_log(directory: &Path) {
    let mut batch = Batch::new();
    let mut wal = Wal::create(Arc::new(Unsynced), directory, options(), &mut batch).unwrap();
    for first in (1..=REPLAYED_ENTRIES).step_by(REPLAYED_BATCH as usize) {
        fill(&mut batch, first, REPLAYED_BATCH, &[7; REPLAYED_ENTRY_BYTES]);
        wal.save(&mut batch).unwrap();
    }
}

pub(super) fn replay(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("wal/replay");
    let bytes = REPLAYED_ENTRIES * REPLAYED_ENTRY_BYTES as u64;
    group.throughput(Throughput::Bytes(bytes)).sample_size(10);
    let mut directory = None;
    group.bench_function("1KiB", |bencher| {
        // Not before it is known that this one is wanted.
        let directory = directory.get_or_insert_with(|| {
            let directory = tempfile::tempdir().unwrap();
            write_log(&directory.path().join("wal"));
            directory
        });
        let path = directory.path().join("wal");
        bencher.iter(|| {
            let (wal, _) = Wal::open(Arc::new(DiskFs), &path, options(), &|| false).unwrap();
            assert_eq!(wal.last_index(), REPLAYED_ENTRIES);
        });
    });
    group.finish();
}
