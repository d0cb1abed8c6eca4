//! Whole turns: from proposals to their answers, with disks that are memory. One member alone shows
//! what its own loop and applier do; three show what the cluster does, on one thread and without a
//! socket.

use std::time::{Duration, Instant};

use benches::{BATCHES, Members, put, scattered};
use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput};

const KEYS: u64 = 10_000;

/// After so many writes a cluster is founded anew: its log is in memory.
const MOST_WRITES: usize = 1 << 16;

/// So many rounds of `n` writes each.
fn rounds(n_members: usize, n: usize, rounds: u64) -> Duration {
    let commands: Vec<Bytes> = (0..KEYS).map(|nth| put(scattered(nth, KEYS))).collect();
    let mut commands = commands.iter().cycle().cloned();
    let mut took = Duration::ZERO;
    let mut cluster = None;
    let mut n_writes = 0;
    for _ in 0..rounds {
        if n_writes > MOST_WRITES {
            (cluster, n_writes) = (None, 0);
        }
        let cluster = cluster.get_or_insert_with(|| Members::found(n_members).unwrap());
        let begun = Instant::now();
        cluster.write(commands.by_ref().take(n)).unwrap();
        took += begun.elapsed();
        n_writes += n;
    }
    took
}

pub(super) fn turns(criterion: &mut Criterion) {
    for (name, n_members) in [("turn/alone", 1), ("turn/three", 3)] {
        let mut group = criterion.benchmark_group(name);
        for n in BATCHES {
            group.throughput(Throughput::Elements(n as u64));
            group.bench_with_input(BenchmarkId::from_parameter(n), &n, |bencher, n| {
                bencher.iter_custom(|n_rounds| rounds(n_members, *n, n_rounds));
            });
        }
        group.finish();
    }
}
