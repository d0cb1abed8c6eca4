//! How soon a cluster with a long log serves again after it was killed, and in how much memory.
//!
//! Long, so not part of the fast suite: `make restart`, or `make restart ENTRIES=200000`.

#![allow(clippy::print_stdout, reason = "its measurements are what it is run for")]

use std::process::Command;
use std::time::{Duration, Instant};

use tests::binary;
use tests::cluster::Cluster;

/// What a million entries of 128 bytes may take; shorter logs get no more.
const SERVES_WITHIN: Duration = Duration::from_secs(5);

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
        let pid =
            std::fs::read_to_string(cluster.data_dir(member).join("LOCK")).unwrap_or_default();
        let status = std::fs::read_to_string(format!("/proc/{}/status", pid.trim()));
        let status = status.unwrap_or_default();
        let peak = status.lines().find(|line| line.starts_with("VmHWM")).unwrap_or("unknown");
        println!("restart: member {member} serves after {:?}, peak {peak}", killed.elapsed());
    }
    assert!(killed.elapsed() < SERVES_WITHIN, "later than {SERVES_WITHIN:?}");
}
