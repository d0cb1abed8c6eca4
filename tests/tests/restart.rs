//! How soon members with a long log, or with many keys, serve again after they were killed, and in
//! how much memory.
//!
//! Long, so not part of the fast suite: `make restart`, or `make restart ENTRIES=200000`, and
//! `make restart-keys`, or `make restart-keys KEYS=100000`.

#![allow(clippy::print_stdout, reason = "its measurements are what it is run for")]

use std::process::Command;
use std::time::{Duration, Instant};

use tests::binary;
use tests::cluster::Cluster;
use tests::figure::{Durations, bench, measured, memory, parameter, serves_after};
use tests::load::Fill;

/// What a million entries of 128 bytes may take; shorter logs get no more.
const SERVES_WITHIN: Duration = Duration::from_secs(5);

/// What a member with a million keys of 128 bytes may take, from its start; fewer get no more.
const ONE_SERVES_WITHIN: Duration = Duration::from_secs(2);
/// Beyond it nothing is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// Kills three members with a long log and finds the last acknowledged value on each of them
/// within the limit.
#[test]
#[ignore = "loads a million entries: make restart"]
fn a_long_log_serves_again_soon() {
    let entries: u64 =
        std::env::var("ENTRIES").map_or(1_000_000, |n| n.parse().expect("ENTRIES is a number"));
    let mut cluster = Cluster::start(3);
    let targets: Vec<String> =
        (0..3).map(|member| format!("http://{}", cluster.address(member))).collect();
    let last_index = |cluster: &Cluster| {
        cluster.status(0).ok().and_then(|status| status["last_index"].as_u64()).unwrap_or(0)
    };
    while last_index(&cluster) < entries {
        let keys = entries.to_string();
        let load = ["bench", "--connections", "256", "--seconds", "5", "--rounds", "1"];
        let status = Command::new(binary::raftexample())
            .args(load)
            .args(["--targets", &targets.join(","), "--keys", &keys])
            .output()
            .expect("the load generator starts")
            .status;
        assert!(status.success(), "the load generator fails: {status}");
    }
    let answer = cluster.client(0).put("/last", b"here").expect("a healthy cluster answers");
    assert_eq!(answer.status, 204);
    println!("restart: {} entries in the log", last_index(&cluster));

    cluster.kill_all();
    let killed = Instant::now();
    cluster.restart_all();
    for member in 0..3 {
        cluster.eventually("the last value is read", 4 * SERVES_WITHIN, || {
            match cluster.client(member).get("/last") {
                Ok(answer) if answer.status == 200 && answer.body == b"here" => Ok(()),
                Ok(answer) => Err(format!("{}: {}", answer.status, answer.text())),
                Err(failure) => Err(format!("{failure:?}")),
            }
        });
        let peak = memory(cluster.pid(member), "VmHWM") >> 20;
        println!("restart: member {member} serves after {:?}, peak {peak} MiB", killed.elapsed());
    }
    assert!(killed.elapsed() < SERVES_WITHIN, "later than {SERVES_WITHIN:?}");
}

/// A member with a million keys that was killed under load serves a linearizable read soon after it
/// is started, each of ROUNDS times: it begins with its snapshot and has little log to replay.
#[test]
#[ignore = "loads a million keys: make restart-keys"]
fn a_member_with_many_keys_serves_again_soon() {
    let fill = Fill { n_keys: parameter("KEYS", 1_000_000), value_bytes: 128 };
    let mut cluster = Cluster::start(3);
    fill.write_in_batches(cluster.address(cluster.wait_leader()), 0);
    let (keys, mut times) = (fill.n_keys.to_string(), Durations::default());
    for round in 0..parameter("ROUNDS", 5) {
        let args = ["--connections", "64", "--seconds", "3", "--keys", &keys];
        let line = measured(bench(&cluster, &args));
        let member = (cluster.wait_leader() + 1) % 3;
        cluster.kill(member);
        let took = serves_after(&mut cluster, member, &Fill::path(fill.n_keys - 1), PATIENCE);
        println!(
            "restart-keys: round {round}: after {:.0} writes/s a follower serves after {took:.2?}, \
             with {} MiB",
            line["writes_per_second"].as_f64().unwrap_or_default(),
            memory(cluster.pid(member), "VmRSS") >> 20,
        );
        times.extend([took]);
        cluster.wait_all_ready();
    }
    println!(
        "restart-keys: {} keys, from exec to the first linearizable 200: {times}; limit \
         {ONE_SERVES_WITHIN:?}",
        fill.n_keys
    );
    assert!(times.quantile(1.0) < ONE_SERVES_WITHIN, "later than {ONE_SERVES_WITHIN:?}");
}
