//! The store: applying commands and showing what came of them, and snapshots of it.

use std::hint::black_box;
use std::io;

use benches::{BATCHES, Members, put, scattered};
use bytes::Bytes;
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput};
use raftexample::kvstore::{KvStore, Store};
use raftnode::machine::{Command, StateMachine};

const SIZES: [u64; 3] = [1_000, 100_000, 1_000_000];

/// How many different commands a bench goes through: their keys lie all over the store.
const COMMANDS: u64 = 1 << 14;

/// A machine with that many keys.
struct Filled {
    machine: KvStore,
    _store: Store,
    last_index: u64,
}

impl Filled {
    fn with(n_keys: u64) -> Self {
        let (mut machine, store) = KvStore::new();
        machine.restore(&mut io::empty(), 1, 1).unwrap();
        let mut filled = Self { machine, _store: store, last_index: 1 };
        (0..n_keys).for_each(|key| filled.apply(&put(key)));
        filled.show();
        filled
    }

    fn apply(&mut self, data: &Bytes) {
        self.last_index += 1;
        let command = Command { index: self.last_index, term: 1, data };
        black_box(self.machine.apply(command).unwrap());
    }

    fn show(&mut self) {
        self.machine.show(self.last_index, 1);
    }
}

pub(super) fn applies(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("store/apply");
    for n_keys in SIZES {
        let mut filled = None;
        for n in BATCHES {
            let commands: Vec<_> = (0..COMMANDS).map(|nth| put(scattered(nth, n_keys))).collect();
            let mut commands = commands.iter().cycle();
            group.throughput(Throughput::Elements(n as u64));
            let name = BenchmarkId::new(format!("{n_keys}-keys"), n);
            group.bench_function(name, |bencher| {
                let filled = filled.get_or_insert_with(|| Filled::with(n_keys));
                bencher.iter(|| {
                    commands.by_ref().take(n).for_each(|command| filled.apply(command));
                    filled.show();
                });
            });
        }
    }
    group.finish();
}

/// A member that is alone, with that many keys.
fn member(n_keys: u64) -> Members {
    let mut member = Members::found(1).unwrap();
    for first in (0..n_keys).step_by(1_000) {
        member.write((first..(first + 1_000).min(n_keys)).map(put)).unwrap();
    }
    member
}

/// From the wish to the file, and from a directory to a member that shows what is in it.
pub(super) fn snapshots(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("snapshot/write");
    group.sample_size(10);
    for n_keys in SIZES {
        let mut alone = None;
        group.throughput(Throughput::Elements(n_keys));
        group.bench_function(BenchmarkId::from_parameter(n_keys), |bencher| {
            let alone = alone.get_or_insert_with(|| member(n_keys));
            bencher.iter_custom(|rounds| {
                (0..rounds).fold(std::time::Duration::ZERO, |sum, _| {
                    // What nothing has followed need not be written again.
                    alone.write([put(0)]).unwrap();
                    let begun = std::time::Instant::now();
                    alone.snapshot().unwrap();
                    sum + begun.elapsed()
                })
            });
        });
    }
    group.finish();
    let mut group = criterion.benchmark_group("snapshot/load");
    group.sample_size(10);
    for n_keys in SIZES {
        let mut disk = None;
        group.throughput(Throughput::Elements(n_keys));
        group.bench_function(BenchmarkId::from_parameter(n_keys), |bencher| {
            let disk = disk.get_or_insert_with(|| {
                let mut alone = member(n_keys);
                alone.snapshot().unwrap();
                alone.into_disk()
            });
            bencher.iter_batched(
                || disk.clone(),
                |disk| Members::restart(disk).unwrap(),
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}
