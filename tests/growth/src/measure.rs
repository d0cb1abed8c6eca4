//! Where the points come from: real members on this machine, loaded by `raftexample bench`.
//!
//! One thing is varied at a time; the others stay at three members, 128 bytes and as many keys as
//! fit into caches. Everything shares the machine, load included.

use std::time::Duration;

use ::tests::cluster::Cluster;
use ::tests::figure::{
    bench, forget_peak, measured, memory, processor_time, serves_after, written_bytes,
};
use ::tests::load::Fill;

use crate::points::Points;

/// Where nothing else is said.
const MEMBERS: usize = 3;
const VALUE_BYTES: usize = 128;
const CONNECTIONS: u16 = 64;
/// Written again and again where keys are not what is varied.
const KEYS: u64 = 10_000;
/// What is read is written first, inside the same measurement: few enough that this costs nothing.
const KEYS_READ: u64 = 256;
const FEWEST_KEYS: u64 = 1_000;
/// With fewer, memory for other things is more than that of the keys.
const KEYS_THAT_SHOW: u64 = 100_000;
/// Connections for each size of values: few, with which the largest fit into what a node admits, and
/// many, as far as they do.
const FEW: u16 = 8;
const MOST_BYTES_OF_MANY: usize = 64 << 10;
const VALUES: [usize; 9] = [1, 16, 128, 1 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20];
/// Large values are written again and again, instead of filling memory.
const BYTES_KEPT: usize = 64 << 20;
/// For the snapshot and the restart of the largest store, on a slow disk.
const PATIENCE: Duration = Duration::from_secs(300);
const MIB: f64 = 1_048_576.0;

/// How much is measured.
#[derive(Debug, Clone)]
pub struct Sizes {
    /// Of members, each of these.
    pub members: Vec<usize>,
    /// Of keys, powers of ten from a thousand up to this.
    pub keys: u64,
    /// Of bytes, some sizes up to this.
    pub bytes: usize,
    /// How long each load goes on.
    pub seconds: u64,
}

/// What a load came to.
struct Loaded {
    per_second: f64,
    p99_millis: f64,
    /// Of all members, for a request.
    processor_micros: f64,
    /// Of the disk, for a request and a member; none where no disk can be told apart.
    disk_bytes: Option<f64>,
}

/// Measures everything. `told` hears what comes next.
///
/// # Panics
///
/// When members do not start, fail, or answer wrongly.
pub fn all(sizes: &Sizes, told: &dyn Fn(&str)) -> Points {
    let mut points = Points::default();
    by_members(sizes, told, &mut points);
    by_keys(sizes, told, &mut points);
    by_bytes(sizes, told, &mut points);
    points
}

fn by_members(sizes: &Sizes, told: &dyn Fn(&str), points: &mut Points) {
    for &n in &sizes.members {
        told(&format!("{n} members"));
        let cluster = Cluster::start(n);
        let x = n as u64;
        for (name, mix, keys) in [("PUT", "put=1", KEYS), ("GET", "get=1", KEYS_READ)] {
            let load = load(&cluster, sizes, CONNECTIONS, &["--mix", mix], keys, VALUE_BYTES);
            points.add("members-rate", name, x, load.per_second);
            points.add("members-p99", name, x, load.p99_millis);
            points.add("members-processor", name, x, load.processor_micros);
        }
    }
}

fn by_keys(sizes: &Sizes, told: &dyn Fn(&str), points: &mut Points) {
    let mut cluster = Cluster::start(MEMBERS);
    let mut filled = 0;
    let mut least: Option<(u64, u64)> = None;
    for keys in powers_of_ten(sizes.keys) {
        told(&format!("{keys} keys"));
        let fill = Fill { n_keys: keys, value_bytes: VALUE_BYTES };
        fill.write_in_batches(cluster.address(cluster.wait_leader()), filled);
        filled = keys;
        (0..MEMBERS).for_each(|member| forget_peak(cluster.pid(member)));
        let load = load(&cluster, sizes, CONNECTIONS, &[], keys, VALUE_BYTES);
        points.add("keys-rate", "PUT", keys, load.per_second);
        points.add("keys-p99", "PUT", keys, load.p99_millis);
        points.add("keys-processor", "PUT", keys, load.processor_micros);

        let most = |name| {
            let all = (0..MEMBERS).map(|member| memory(cluster.pid(member), name));
            all.max().expect("there are members")
        };
        let (resident, peak) = (most("VmRSS"), most("VmHWM"));
        points.add("keys-memory", "most under load", keys, peak as f64 / MIB);
        points.add("keys-memory", "after it", keys, resident as f64 / MIB);
        let (fewest, with_fewest) = *least.get_or_insert((keys, resident));
        if keys >= KEYS_THAT_SHOW {
            let more = resident.saturating_sub(with_fewest) as f64;
            points.add("keys-memory-each", "after load", keys, more / (keys - fewest) as f64);
        }

        // One that follows: what it is busy with holds nobody up.
        let member = (cluster.wait_leader() + 1) % MEMBERS;
        let (taken, bytes) = snapshot(&cluster, member);
        points.add("keys-snapshot", "one member", keys, bytes / MIB);
        points.add("keys-time", "writing a snapshot", keys, taken);
        cluster.kill(member);
        let path = Fill::path(keys - 1);
        let served = serves_after(&mut cluster, member, &path, PATIENCE);
        points.add("keys-time", "from a start after kill -9 to a GET", keys, served.as_secs_f64());
        cluster.eventually("a member is ready again", PATIENCE, || {
            let answer = cluster.client(member).get("/_ready");
            matches!(&answer, Ok(answer) if answer.status < 300)
                .then_some(())
                .ok_or_else(|| format!("{answer:?}"))
        });
    }
}

fn by_bytes(sizes: &Sizes, told: &dyn Fn(&str), points: &mut Points) {
    for &bytes in VALUES.iter().filter(|bytes| **bytes <= sizes.bytes) {
        told(&format!("{bytes} bytes"));
        let cluster = Cluster::start(MEMBERS);
        let keys = KEYS.min((BYTES_KEPT / bytes) as u64);
        let x = bytes as u64;
        for connections in [FEW, CONNECTIONS] {
            if connections > FEW && bytes > MOST_BYTES_OF_MANY {
                continue;
            }
            let name = format!("{connections} connections");
            let load = load(&cluster, sizes, connections, &[], keys, bytes);
            points.add("bytes-rate", &name, x, load.per_second);
            points.add("bytes-moved", &name, x, load.per_second * bytes as f64 / 1e6);
            points.add("bytes-p99", &name, x, load.p99_millis);
            points.add("bytes-processor", &name, x, load.processor_micros);
            let each = load.processor_micros / 1e3 / (bytes as f64 / 1e6);
            points.add("bytes-processor-each", &name, x, each);
            if let Some(disk_bytes) = load.disk_bytes {
                points.add("bytes-disk", &name, x, disk_bytes);
                points.add("bytes-disk-each", &name, x, disk_bytes / bytes as f64);
            }
        }
    }
}

/// A thousand, ten thousand, and so on up to `most`.
fn powers_of_ten(most: u64) -> impl Iterator<Item = u64> {
    std::iter::successors(Some(FEWEST_KEYS), |keys| keys.checked_mul(10))
        .take_while(move |keys| *keys <= most)
}

fn load(
    cluster: &Cluster,
    sizes: &Sizes,
    connections: u16,
    more: &[&str],
    keys: u64,
    value_bytes: usize,
) -> Loaded {
    let [connections, seconds, keys, bytes] =
        [u64::from(connections), sizes.seconds, keys, value_bytes as u64].map(|n| n.to_string());
    let mut args = vec!["--connections", &connections, "--seconds", &seconds];
    args.extend(["--keys", &keys, "--value-bytes", &bytes]);
    args.extend(more);
    let before = Spent::by(cluster);
    let line = measured(bench(cluster, &args));
    let after = Spent::by(cluster);
    let figure = |name: &str| line[name].as_f64().expect("the bench reports it");
    let requests = after.requests - before.requests;
    Loaded {
        per_second: figure("writes_per_second") + figure("reads_per_second"),
        p99_millis: figure("p99_micros") / 1e3,
        processor_micros: (after.processor - before.processor).as_secs_f64() * 1e6 / requests,
        disk_bytes: after
            .disk
            .zip(before.disk)
            .filter(|(after, before)| after > before)
            .map(|(after, before)| (after - before) as f64 / requests / cluster.n_members() as f64),
    }
}

/// What all members have spent, and on how many requests, since they were started.
struct Spent {
    processor: Duration,
    disk: Option<u64>,
    requests: f64,
}

impl Spent {
    fn by(cluster: &Cluster) -> Spent {
        let mut spent = Spent {
            processor: Duration::ZERO,
            disk: written_bytes(cluster.directory()),
            requests: 0.0,
        };
        for member in 0..cluster.n_members() {
            spent.processor += processor_time(cluster.pid(member));
            spent.requests += answered(&cluster.ask(member, "GET", "/_metrics", "").text());
        }
        spent
    }
}

/// How many writes and reads were answered with success, by a member's metrics.
fn answered(metrics: &str) -> f64 {
    let count = |line: &str| {
        let rest = line
            .strip_prefix("raft_proposals_total{outcome=\"applied\"")
            .or_else(|| line.strip_prefix("raft_reads_total{outcome=\"ready\""))?;
        rest.rsplit_once(' ')?.1.parse::<f64>().ok()
    };
    metrics.lines().filter_map(count).sum()
}

/// Has a member take a snapshot of all it has; the seconds that took, and its bytes.
fn snapshot(cluster: &Cluster, member: usize) -> (f64, f64) {
    let metric = |name: &str| cluster.metric(member, name).unwrap_or(0.0);
    let taken =
        || ["count", "sum"].map(|what| metric(&format!("raft_snapshot_taken_seconds_{what}")));
    let last = metric("raft_last_index");
    cluster.eventually("a snapshot holds everything", PATIENCE, || {
        // Where nothing is new, no snapshot is taken.
        let put = cluster.client(member).put(&Fill::path(0), b"new").map_err(|e| e.to_string())?;
        let before = taken();
        let answer = cluster.ask(member, "POST", "/_snapshot", "");
        let status = cluster.status(member)?;
        let [count, seconds] = [0, 1].map(|part| taken()[part] - before[part]);
        let is_whole = status["snapshot_index"].as_f64() >= Some(last);
        // Of several that fell together, nobody can say which took how long.
        match status["snapshot"]["bytes"].as_f64() {
            Some(bytes) if is_whole && count == 1.0 => Ok((seconds, bytes)),
            _ => Err(format!("PUT {}, POST {}: {}", put.status, answer.status, answer.text())),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every decade, and not one more.
    #[test]
    fn keys_grow_by_tens() {
        assert_eq!(powers_of_ten(10_000_000).collect::<Vec<_>>().len(), 5);
        assert_eq!(powers_of_ten(99_999).collect::<Vec<_>>(), [1_000, 10_000]);
        assert_eq!(powers_of_ten(999).count(), 0);
    }

    /// What was refused or lost cost something too, but is no answer.
    #[test]
    fn answers_are_counted() {
        let metrics = "\
# TYPE raft_proposals counter
raft_proposals_total{outcome=\"applied\",reason=\"\"} 7
raft_proposals_total{outcome=\"refused\",reason=\"not_leader\"} 100
raft_reads_total{outcome=\"ready\",reason=\"\"} 30
raft_last_index 1000
";
        assert_eq!(answered(metrics), 37.0);
    }
}
