//! What linearizable reads cost beside reads that promise nothing: `make bench-reads`.
//!
//! The Go program that this one succeeds answers every GET from what it has, however old. The same
//! generator loads it and us, each cluster alone, in turns.

#![allow(clippy::print_stdout, reason = "its measurements are what it is run for")]

use std::net::SocketAddr;
use std::process::Command;

use serde_json::Value;
use tests::binary;
use tests::cluster::Cluster;
use tests::figure::{machine, parameter};
use tests::original::Original;

const MIN_LEADER_RATIO: f64 = 0.7;
const MIN_FOLLOWER_RATIO: f64 = 0.5;

/// Reads per second of one server.
fn reads_per_second(address: SocketAddr) -> f64 {
    let seconds = parameter("SECONDS", 5).to_string();
    let keys = parameter("KEYS", 4000).to_string();
    let output = Command::new(binary::raftexample())
        .args(["bench", "--reads", "--json", "--rounds", "1", "--connections", "64"])
        .args(["--at", &format!("http://{address}"), "--seconds", &seconds, "--keys", &keys])
        .output()
        .expect("the load generator starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let line: Value = serde_json::from_slice(&output.stdout).expect("one line of JSON");
    line["reads_per_second"].as_f64().expect("the bench reports it")
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// Reads that promise the newest value must not be so slow that people turn the promise off.
#[test]
#[ignore = "needs the Go original: make bench-reads"]
fn linearizable_reads_are_nearly_as_fast_as_stale_ones() {
    let [mut original, mut leader, mut follower] = [const { Vec::new() }; 3];
    for round in 0..parameter("ROUNDS", 5) {
        original.push(reads_per_second(Original::start().address(0)));
        let cluster = Cluster::start(3);
        let leads = cluster.wait_leader();
        leader.push(reads_per_second(cluster.address(leads)));
        follower.push(reads_per_second(cluster.address((leads + 1) % 3)));
        println!(
            "bench-reads: round {round}: original {:.0}/s, leader {:.0}/s, follower {:.0}/s; {}",
            original.last().unwrap_or(&0.0),
            leader.last().unwrap_or(&0.0),
            follower.last().unwrap_or(&0.0),
            machine(),
        );
    }
    let [original, leader, follower] = [original, leader, follower].map(median);
    let ratios = [leader / original, follower / leader];
    println!(
        "bench-reads: medians: original {original:.0}/s, leader {leader:.0}/s, follower \
         {follower:.0}/s; leader / original {:.2}, follower / leader {:.2}",
        ratios[0], ratios[1],
    );
    assert!(ratios[0] >= MIN_LEADER_RATIO, "the leader is below {MIN_LEADER_RATIO}");
    assert!(ratios[1] >= MIN_FOLLOWER_RATIO, "a follower is below {MIN_FOLLOWER_RATIO}");
}
