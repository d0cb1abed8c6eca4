//! What keys, snapshots and joining cost, in figures.
//!
//! Long, so not part of the fast suite: `make disk`, `make memory`, `make join`,
//! `make snapshot-bench` and `make transfer`. Each prints what it measures and fails when that is beyond its limit.

#![allow(clippy::print_stdout, reason = "its measurements are what it is run for")]

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tests::cluster::{Cluster, id};
use tests::figure::{bench, forget_peak, latest_tick, measured, memory, parameter};
use tests::load::Fill;

const MIB: u64 = 1 << 20;
/// Long enough for a snapshot of all there is, and for a machine with a slow disk.
const PATIENCE: Duration = Duration::from_secs(300);

const MAX_DISK: u64 = 512 * MIB;
const MAX_MEMORY: u64 = 450 * MIB;
const DISK_EVERY: Duration = Duration::from_millis(100);
const SERVES_WITHIN: Duration = Duration::from_secs(5);
const MAX_P99_RATIO: f64 = 2.0;
/// Half an election timeout.
const MAX_LATE_SECONDS: f64 = 0.5;
const MIN_SPEED_RATIO: f64 = 0.5;
const MAX_EXTRA_MEMORY: u64 = 64 * MIB;

fn index(cluster: &Cluster, member: usize, name: &str) -> u64 {
    cluster.status(member).ok().and_then(|status| status[name].as_u64()).unwrap_or(0)
}

/// What a directory takes on disk, in bytes.
fn disk_usage(path: &Path) -> u64 {
    // What is deleted while we look takes nothing.
    let Ok(entries) = fs::read_dir(path) else { return 0 };
    let usage = |entry: io::Result<fs::DirEntry>| {
        let path = entry.ok()?.path();
        let metadata = fs::symlink_metadata(&path).ok()?;
        let below = if metadata.is_dir() { disk_usage(&path) } else { 0 };
        Some(metadata.blocks() * 512 + below)
    };
    entries.filter_map(usage).sum()
}

/// Millions of small writes to a thousand keys take no more disk than a few snapshots, and the log
/// that is kept for members a little behind: `make disk`, or `make disk WRITES=1000000`.
#[test]
#[ignore = "ten million writes: make disk"]
fn disk_is_bounded() {
    let writes = parameter("WRITES", 10_000_000);
    let cluster = Cluster::start(3);
    let begin = Instant::now();
    let most = thread::scope(|scope| {
        let (done, is_done) = channel::<()>();
        let cluster = &cluster;
        let sampler = scope.spawn(move || {
            let mut most = [0; 3];
            while is_done.recv_timeout(DISK_EVERY) == Err(RecvTimeoutError::Timeout) {
                for (member, most) in most.iter_mut().enumerate() {
                    *most = disk_usage(&cluster.data_dir(member)).max(*most);
                }
            }
            most
        });
        while index(cluster, 0, "last_index") < writes {
            let args = ["--connections", "256", "--seconds", "10", "--keys", "1000"];
            let output = bench(cluster, &args).output().expect("the load generator starts");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
        drop(done);
        sampler.join().expect("the sampler panics with nothing")
    });
    println!(
        "disk: {} entries in {:.0?}; at most {:?} MiB per member, now {:?} MiB",
        index(&cluster, 0, "last_index"),
        begin.elapsed(),
        most.map(|bytes| bytes / MIB),
        [0, 1, 2].map(|member| disk_usage(&cluster.data_dir(member)) / MIB),
    );
    assert!(most.iter().all(|&bytes| bytes < MAX_DISK), "more than {} MiB", MAX_DISK / MIB);
}

/// A million keys take no more of each member's memory than the limit, also at the peak under load:
/// `make memory`, or `make memory KEYS=100000`.
#[test]
#[ignore = "a million keys under load: make memory"]
fn memory_is_bounded() {
    let fill = Fill { n_keys: parameter("KEYS", 1_000_000), value_bytes: 128 };
    let cluster = Cluster::start(3);
    let begin = Instant::now();
    fill.write_in_batches(cluster.address(cluster.wait_leader()), 0);
    let filled = begin.elapsed();
    let of_each = |name| [0, 1, 2].map(|member| memory(cluster.pid(member), name) / MIB);
    println!("memory: {} keys in {filled:.1?}; now {:?} MiB", fill.n_keys, of_each("VmRSS"));
    let (keys, seconds) = (fill.n_keys.to_string(), parameter("SECONDS", 30).to_string());
    let args = ["--connections", "64", "--seconds", &seconds, "--keys", &keys];
    let line = measured(bench(&cluster, &args));
    let peaks = [0, 1, 2].map(|member| memory(cluster.pid(member), "VmHWM"));
    println!(
        "memory: {} keys of {} bytes under {:.0} writes/s: at most {:?} MiB per member, limit {} MiB",
        fill.n_keys,
        fill.value_bytes,
        line["writes_per_second"].as_f64().unwrap_or_default(),
        peaks.map(|bytes| bytes / MIB),
        MAX_MEMORY / MIB,
    );
    assert!(peaks.iter().all(|&bytes| bytes < MAX_MEMORY), "more than {} MiB", MAX_MEMORY / MIB);
}

/// A fourth member joins a cluster with many keys and soon serves linearizable reads: `make join`.
#[test]
#[ignore = "loads 100,000 keys: make join"]
fn a_joining_member_serves_soon() {
    let mut cluster = Cluster::start(3);
    let fill = Fill { n_keys: parameter("KEYS", 100_000), value_bytes: 128 };
    fill.write(cluster.address(cluster.wait_leader()), 64);
    let new = cluster.place_joiner();
    let begin = Instant::now();
    cluster.restart(new);
    cluster.eventually("the last key is read", PATIENCE, || {
        let answer = cluster.client(new).get(&Fill::path(fill.n_keys - 1));
        match answer {
            Ok(answer) if answer.status == 200 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    let served = begin.elapsed();
    cluster.wait_voter(new);
    println!(
        "join: {} keys; serves after {served:.2?}, votes after {:.2?}",
        fill.n_keys,
        begin.elapsed()
    );
    fill.assert_there(cluster.address(new), 1000);
    assert!(served < SERVES_WITHIN, "later than {SERVES_WITHIN:?}");
}

/// Snapshots cost the writers little: the slowest of a hundred waits less than twice as long as
/// without any, and no tick comes late. `make snapshot-bench`.
#[test]
#[ignore = "several minutes of load: make snapshot-bench"]
fn snapshots_do_not_stall_writers() {
    let (rounds, keys) = (parameter("ROUNDS", 5), parameter("KEYS", 300_000));
    let seconds = parameter("SECONDS", 10).to_string();
    let off = ["--snapshot-count", "0", "--snapshot-bytes", "0"];
    let clusters = [("snapshots", Cluster::start(3)), ("none", Cluster::start_with(3, &off))];
    for (_, cluster) in &clusters {
        let fill = Fill { n_keys: keys, value_bytes: 128 };
        fill.write(cluster.address(cluster.wait_leader()), 64);
    }
    let mut p99 = [Vec::new(), Vec::new()];
    for round in 0..rounds {
        for ((name, cluster), p99) in clusters.iter().zip(&mut p99) {
            let before = index(cluster, cluster.wait_leader(), "snapshot_index");
            let keys = keys.to_string();
            let args = ["--connections", "64", "--seconds", &seconds, "--keys", &keys];
            let line = measured(bench(cluster, &args));
            let micros = line["p99_micros"].as_u64().expect("the bench reports it");
            let after = index(cluster, cluster.wait_leader(), "snapshot_index");
            println!(
                "snapshot-bench: round {round}, {name:>9}: p99 {:.2} ms, {:.0} writes/s, \
                 snapshot at {before} then {after}",
                micros as f64 / 1000.0,
                line["writes_per_second"].as_f64().unwrap_or_default(),
            );
            p99.push(micros);
        }
    }
    let [with, without] = p99.map(|mut micros| {
        micros.sort_unstable();
        micros[micros.len() / 2]
    });
    let ratio = with as f64 / without as f64;
    let late: Vec<f64> = clusters.iter().map(|(_, cluster)| latest_tick(cluster)).collect();
    println!(
        "snapshot-bench: median p99 {:.2} ms with, {:.2} ms without: ratio {ratio:.2}; no tick later \
         than {} s with, {} s without",
        with as f64 / 1000.0,
        without as f64 / 1000.0,
        late[0],
        late[1],
    );
    assert!(ratio < MAX_P99_RATIO, "p99 is {ratio:.2} times as long with snapshots");
    assert!(late[0] <= MAX_LATE_SECONDS, "a tick was {} s late", late[0]);
}

/// A snapshot of a large store moves to a joining member at half the speed of curl or better, and
/// in little memory: `make transfer`, or `make transfer MIB=100`.
#[test]
#[ignore = "a store of 1 GiB: make transfer"]
fn a_large_snapshot_moves_fast_and_in_little_memory() {
    let fill = Fill { n_keys: parameter("MIB", 1024) * 256, value_bytes: 4096 };
    let mut cluster = Cluster::start(1);
    fill.write(cluster.address(0), 64);
    let last = index(&cluster, 0, "last_index");
    cluster.eventually("a snapshot holds everything", PATIENCE, || {
        let answer = cluster.ask(0, "POST", "/_snapshot", "");
        (index(&cluster, 0, "snapshot_index") >= last).then_some(()).ok_or_else(|| answer.text())
    });
    let snapshots = fs::read_dir(cluster.data_dir(0).join("snap")).expect("it has snapshots");
    let newest = snapshots
        .map(|entry| entry.expect("the directory can be read").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "snap"))
        .max()
        .expect("it has a snapshot");
    let bytes = fs::metadata(&newest).expect("the snapshot is there").len();
    println!("transfer: a snapshot of {} MiB", bytes / MIB);

    let sender = cluster.pid(0);
    forget_peak(sender);
    let sender_before = memory(sender, "VmRSS");
    let new = cluster.place_joiner();
    cluster.restart(new);
    let receiver = cluster.pid(new);
    let moved = wait_moved(&cluster, new, last);
    let receiver_moved = memory(receiver, "VmHWM");
    cluster.eventually("the last key is read", PATIENCE, || {
        let answer = cluster.client(new).get(&Fill::path(fill.n_keys - 1));
        let there = matches!(&answer, Ok(answer) if answer.status == 200);
        there.then_some(()).ok_or_else(|| format!("{answer:?}"))
    });
    let (sender_extra, receiver_loaded) =
        (memory(sender, "VmHWM").saturating_sub(sender_before), memory(receiver, "VmRSS"));
    let receiver_extra = memory(receiver, "VmHWM").saturating_sub(receiver_loaded);
    println!("{}", transfer_lines(&cluster, new));

    let curled = curl(&newest, &cluster.data_dir(0).with_file_name("curled"));
    let speed = |time: Duration| bytes as f64 / MIB as f64 / time.as_secs_f64();
    println!(
        "transfer: {:.2?} from first byte to installed, {:.0} MiB/s; curl and sync {:.2?}, {:.0} \
         MiB/s; ratio {:.2}",
        moved,
        speed(moved),
        curled,
        speed(curled),
        speed(moved) / speed(curled),
    );
    println!(
        "transfer: peak beyond before: sender {} MiB; receiver {} MiB when installed, {} MiB beyond \
         its loaded store of {} MiB",
        sender_extra / MIB,
        receiver_moved / MIB,
        receiver_extra / MIB,
        receiver_loaded / MIB,
    );
    assert!(speed(moved) / speed(curled) >= MIN_SPEED_RATIO, "slower than half of curl");
    assert!(sender_extra <= MAX_EXTRA_MEMORY, "the sender holds it in memory");
    assert!(receiver_extra <= MAX_EXTRA_MEMORY, "the receiver holds it in memory");
}

/// How long the sender says that the snapshot moves, until the receiver has it.
fn wait_moved(cluster: &Cluster, new: usize, last: u64) -> Duration {
    let mut begin = None;
    cluster.eventually("the snapshot is installed", PATIENCE, || {
        let status = cluster.status(0)?;
        let is_moving = |sending: &Value| sending["bytes"].as_u64() > Some(0);
        if begin.is_none() && status["sending"].as_array().is_some_and(|s| s.iter().any(is_moving))
        {
            begin = Some(Instant::now());
        }
        let installed = index(cluster, new, "snapshot_index") >= last;
        installed.then_some(()).ok_or_else(|| status["sending"].to_string())
    });
    begin.expect("the sender showed its progress").elapsed()
}

/// What both sides logged about snapshots.
fn transfer_lines(cluster: &Cluster, new: usize) -> String {
    let mut text = String::new();
    for member in [0, new] {
        let said = cluster.said(member);
        for line in said.lines().filter(|line| line.contains("snapshot")) {
            text.push_str(&format!("  member {}: {line}\n", id(member)));
        }
    }
    text
}

/// How long `curl -o f && sync f` takes for the same file over loopback.
fn curl(file: &Path, to: &Path) -> Duration {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    thread::scope(|scope| {
        scope.spawn(move || {
            let (mut stream, _) = listener.accept().expect("curl connects");
            // The request fits into one packet, and what it says is known.
            let _n_read = stream.read(&mut [0; 4096]).expect("curl asks");
            let mut file = File::open(file).expect("the snapshot is there");
            let length = file.metadata().expect("it has a length").len();
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
            stream.write_all(head.as_bytes()).expect("curl listens");
            io::copy(&mut file, &mut stream).expect("curl takes it all");
        });
        let begin = Instant::now();
        let run = |program: &str, args: &[&str]| {
            let status = Command::new(program).args(args).stdin(Stdio::null()).status();
            assert!(status.expect("it is installed").success(), "{program} fails");
        };
        let to = to.to_str().expect("temporary paths are text");
        run("curl", &["-s", "-o", to, &format!("http://{address}/")]);
        run("sync", &[to]);
        begin.elapsed()
    })
}
