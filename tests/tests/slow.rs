//! What slow clients cost the others: next to nothing; and how much is written while disks are slow.
//!
//! `make slow` and `make slow-sync` print the figures and fail beyond the limits.

#![allow(clippy::print_stdout, reason = "its measurements are what it is run for")]

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use tests::cluster::{Cluster, Plan};
use tests::crowd::Crowd;
use tests::figure::{Durations, bench, machine, measured, parameter};
use tests::http::Client;

/// p99 of writes with slow clients attached, in those of p99 without.
const MAX_RATIO: f64 = 1.5;

/// What every sync of the log is made to take.
const SLOW_SYNC: &str = "sync:wal:1..=slow:5ms";
/// Writes per second of many clients with such disks: a batch must hold what came during a sync.
const MIN_WITH_SLOW_SYNC: f64 = 20_000.0;

/// Writes of clients that wait for each answer; gives what each took.
///
/// # Panics
///
/// When one is not applied.
fn write(address: SocketAddr, n_clients: u64, length: Duration) -> Durations {
    let end = Instant::now() + length;
    thread::scope(|scope| {
        let client = move |number: u64| {
            let mut client = Client::new(address);
            let mut times = Vec::new();
            while Instant::now() < end {
                let path = format!("/normal-{number}-{}", times.len() % 1000);
                let sent = Instant::now();
                let answer = client.put(&path, &[b'v'; 128]);
                times.push(sent.elapsed());
                assert!(matches!(&answer, Ok(answer) if answer.status == 204), "{answer:?}");
            }
            times
        };
        let clients: Vec<_> =
            (0..n_clients).map(|number| scope.spawn(move || client(number))).collect();
        clients.into_iter().flat_map(|client| client.join().expect("all is written")).collect()
    })
}

/// More slow clients than there are places, of every kind: nobody else's write fails, nor does a
/// client that comes only now.
#[test]
fn slow_clients_keep_nobody_out() {
    let cluster = Cluster::start_with(1, &["--max-connections", "160"]);
    let address = cluster.address(cluster.wait_leader());
    let crowd = Crowd::start(address, 200);
    let times = write(address, 4, Duration::from_secs(3));
    let times_of_others = write(address, 4, Duration::from_secs(2));
    println!("slow: {times}\nslow: {times_of_others}");
    assert!(crowd.n_begun() > 200, "nobody had to make room: {}", crowd.n_begun());
}

/// The aim: `make slow`.
#[test]
#[ignore = "needs a quiet machine: make slow"]
fn slow_clients_do_not_slow_others() {
    let seconds = Duration::from_secs(parameter("SECONDS", 5));
    let n_rounds = parameter("ROUNDS", 5);
    let n_writers = parameter("CONNECTIONS", 16);
    let n_slow = usize::try_from(parameter("SLOW", 1000)).expect("that many are a number");
    let cluster = Cluster::start(3);
    let leader = cluster.wait_leader();
    let address = cluster.address(leader);
    write(address, n_writers, seconds);
    let mut ratios = Vec::new();
    for round in 0..n_rounds {
        let without = || write(address, n_writers, seconds);
        let with = || {
            let crowd = Crowd::start(address, n_slow);
            let times = write(address, n_writers, seconds);
            println!("slow: {n_slow} clients attached in {:?}", crowd.attached_after);
            (times, crowd.n_begun())
        };
        // Whoever comes first in a round meets what the round before has left.
        let (without, (with, n_begun)) = match round % 2 {
            0 => (without(), with()),
            _ => {
                let with = with();
                (without(), with)
            }
        };
        let p99 = |times: &Durations| times.quantile(0.99).as_secs_f64() * 1000.0;
        let ratio = p99(&with) / p99(&without);
        println!(
            "slow: {n_writers} writers, p99 {:.2} ms without and {:.2} ms with {n_slow} slow clients \
             ({n_begun} connections), ratio {ratio:.2}; {}",
            p99(&without),
            p99(&with),
            machine(),
        );
        println!("slow:   without {without}\nslow:   with    {with}");
        ratios.push(ratio);
    }
    assert_eq!(cluster.leader(), Some(leader), "the leader has changed");
    ratios.sort_by(f64::total_cmp);
    let median = ratios[ratios.len() / 2];
    println!("slow: median ratio {median:.2}, limit {MAX_RATIO}");
    assert!(median <= MAX_RATIO, "p99 with slow clients is {median:.2} times that without");
}

/// Disks that take 5 ms for each sync: whoever comes meanwhile shares the next. `make slow-sync`.
#[test]
#[ignore = "needs a quiet machine: make slow-sync"]
fn slow_syncs_are_shared_by_many() {
    let mut cluster = Cluster::place_as(3, &Plan { is_faulty: true, ..Plan::default() });
    (0..3).for_each(|member| cluster.set_faults(member, SLOW_SYNC));
    cluster.restart_all();
    let connections = parameter("CONNECTIONS", 256).to_string();
    let seconds = parameter("SECONDS", 5).to_string();
    let mut rounds = Vec::new();
    for round in 0..parameter("ROUNDS", 3) {
        let args = ["--connections", &connections, "--seconds", &seconds];
        let line = measured(bench(&cluster, &args));
        let per_second = line["writes_per_second"].as_f64().expect("the bench reports it");
        println!("slow-sync: round {round}: {per_second:.0} writes/s; {}", machine());
        rounds.push(per_second);
    }
    rounds.sort_by(f64::total_cmp);
    let median = rounds[rounds.len() / 2];
    println!(
        "slow-sync: median {median:.0} writes/s at {connections} connections with {SLOW_SYNC}, \
         limit {MIN_WITH_SLOW_SYNC:.0}"
    );
    assert!(median >= MIN_WITH_SLOW_SYNC, "{median:.0} writes/s are too few");
}
