//! Appends on their way between members.

use std::hint::black_box;

use benches::{BATCHES, put};
use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput};
use raftnode::sim::{Append, decode};

/// A large value, as one entry.
const LARGE_BYTES: usize = 1 << 20;

pub(super) fn frames(criterion: &mut Criterion) {
    let small = BATCHES.map(|n| (n.to_string(), (0..n as u64).map(put).collect::<Vec<_>>()));
    let large = [("1MiB".to_owned(), vec![Bytes::from(vec![7; LARGE_BYTES])])];
    let appends = small.into_iter().chain(large);
    let appends: Vec<_> = appends.map(|(name, commands)| (name, Append::of(&commands))).collect();
    let mut group = criterion.benchmark_group("frame/encode");
    for (name, append) in &appends {
        group.throughput(Throughput::Bytes(append.encode().unwrap().len() as u64));
        group.bench_with_input(BenchmarkId::from_parameter(name), append, |bencher, append| {
            bencher.iter(|| black_box(append).encode().unwrap());
        });
    }
    group.finish();
    let mut group = criterion.benchmark_group("frame/decode");
    for (name, append) in &appends {
        let chunk = append.encode().unwrap();
        group.throughput(Throughput::Bytes(chunk.len() as u64));
        group.bench_with_input(BenchmarkId::from_parameter(name), &chunk, |bencher, chunk| {
            bencher.iter(|| decode(black_box(chunk.clone())).unwrap());
        });
    }
    group.finish();
}
