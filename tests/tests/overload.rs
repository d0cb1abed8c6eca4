//! A member that is asked for more than it can do: it says so at once, and its clock goes on.
//!
//! `make overload` prints the figures and fails beyond the limits.

#![allow(clippy::print_stdout, reason = "its measurements are what it is run for")]

use std::net::SocketAddr;
use std::process::Child;
use std::thread;
use std::time::{Duration, Instant};

use tests::cluster::{Cluster, id};
use tests::figure::{Durations, Histogram, bench, machine, parameter};
use tests::http::Client;

/// From parsed request to written answer, in the server.
const MAX_REFUSAL_SECONDS: f64 = 0.001;
const REFUSAL_SHARE: f64 = 0.99;
/// Half an election timeout.
const MAX_LATE_SECONDS: f64 = 0.5;
const N_FILLERS: usize = 16;
/// More than a member lets wait: filling ends before.
const MAX_FILL: usize = 1 << 17;

/// Puts that nobody waits for, until the member refuses; gives how many it took.
fn fill(address: SocketAddr) -> usize {
    thread::scope(|scope| {
        let filler = move |number: usize| {
            let mut client = Client::new(address);
            (0..MAX_FILL / N_FILLERS)
                .find(|key| {
                    let path = format!("/fill-{number}-{key}?ack=none");
                    let answer = client.put(&path, b"wait").expect("it answers");
                    answer.status == 503 && answer.text().contains("overloaded")
                })
                .expect("it refuses at some point")
        };
        let fillers: Vec<_> =
            (0..N_FILLERS).map(|number| scope.spawn(move || filler(number))).collect();
        fillers.into_iter().map(|filler| filler.join().expect("it was filled")).sum()
    })
}

/// Writes and reads that are all to be refused, for a while; gives what they took at the client.
fn be_refused(address: SocketAddr, n_clients: usize, length: Duration) -> Durations {
    let end = Instant::now() + length;
    thread::scope(|scope| {
        let client = move |number: usize| {
            let mut client = Client::new(address);
            let mut times = Vec::new();
            while Instant::now() < end {
                let sent = Instant::now();
                let answer = match number.is_multiple_of(2) {
                    true => client.put("/refused", b"no"),
                    false => client.get("/refused"),
                };
                times.push(sent.elapsed());
                let refused = matches!(&answer, Ok(answer) if answer.status == 503
                    && answer.text().contains("overloaded") && answer.header("retry-after").is_some());
                assert!(refused, "{answer:?}");
            }
            times
        };
        let clients: Vec<_> =
            (0..n_clients).map(|number| scope.spawn(move || client(number))).collect();
        clients.into_iter().flat_map(|client| client.join().expect("it is refused")).collect()
    })
}

/// Whoever is refused at once can go elsewhere at once: `make overload`.
#[test]
#[ignore = "needs a quiet machine: make overload"]
fn refusals_for_overload_are_fast() {
    let seconds = parameter("SECONDS", 5);
    let cluster = Cluster::start_with(3, &["--request-timeout", "10m"]);
    let full = cluster.wait_leader();
    (0..3).filter(|member| *member != full).for_each(|member| cluster.freeze(member));
    println!("overload: full after {} writes", fill(cluster.address(full)));
    let histogram = || {
        let own = Histogram::of(&cluster, full, "http_refusal_seconds", "");
        let name = if own.is_some() { "http_refusal_seconds" } else { "http_request_seconds" };
        let all = || Histogram::of(&cluster, full, "http_request_seconds", "class=\"5xx\"");
        (name, own.or_else(all).expect("refusals are measured"))
    };
    let mut worst: f64 = 0.0;
    for n_clients in [1, 16, 64, 256] {
        let (_, before) = histogram();
        let times = be_refused(cluster.address(full), n_clients, Duration::from_secs(seconds));
        let (name, after) = histogram();
        let refusals = after.since(&before);
        let p99 = refusals.bound_of(REFUSAL_SHARE);
        println!(
            "overload: {n_clients} clients, {} refusals, {name}: p99 within {:.3} ms, all within \
             {:.3} ms; {}",
            refusals.n(),
            p99 * 1000.0,
            refusals.most() * 1000.0,
            machine(),
        );
        println!("overload:   at the clients {times}");
        worst = worst.max(p99);
    }
    let stale = cluster.client(full).get("/refused?consistency=stale");
    assert!(matches!(&stale, Ok(stale) if stale.status == 404), "{stale:?}");
    assert!(worst <= MAX_REFUSAL_SECONDS, "p99 of refusals is above {MAX_REFUSAL_SECONDS} s");
}

/// A kind of load, as arguments of the load generator.
type Kind = (&'static str, &'static [&'static [&'static str]]);

const SMALL: [&str; 4] = ["--value-bytes", "128", "--keys", "4000"];
const READS: [&str; 5] = ["--value-bytes", "128", "--keys", "4000", "--reads"];
const LARGE: [&str; 4] = ["--value-bytes", "1048576", "--keys", "100"];
const KINDS: [Kind; 4] = [
    ("writes", &[&SMALL]),
    ("reads", &[&READS]),
    ("writes of 1 MiB", &[&LARGE]),
    ("all three", &[&SMALL, &READS, &LARGE]),
];

/// A leader that misses its ticks is deposed by its followers: `make overload`.
#[test]
#[ignore = "needs a quiet machine: make overload"]
fn ticks_stay_on_time_under_two_thousand_connections() {
    let seconds = parameter("SECONDS", 5).to_string();
    let n_connections = parameter("CONNECTIONS", 2000);
    let mut worst: f64 = 0.0;
    for (name, loads) in KINDS {
        let cluster = Cluster::start_with(3, &["--max-connections", "4000"]);
        let leader = cluster.wait_leader();
        let term = |member| cluster.status(member).map(|status| status["term"].to_string());
        let term_before = term(leader);
        let look = |member| {
            ["raft_tick_late_seconds", "raft_turn_seconds", "raft_wal_sync_seconds"].map(|name| {
                Histogram::of(&cluster, member, name, "").expect("the loop measures itself")
            })
        };
        let before: Vec<_> = (0..3).map(look).collect();
        let connections = (n_connections / loads.len() as u64).to_string();
        let start = |load: &&[&str]| -> Child {
            // Refusals are right answers here, for which the generator reports failure.
            bench(&cluster, &["--connections", &connections, "--seconds", &seconds, "--json"])
                .args(*load)
                .stdout(std::process::Stdio::piped())
                .stderr(std::process::Stdio::piped())
                .spawn()
                .expect("the load generator starts")
        };
        let generators: Vec<_> = loads.iter().map(start).collect();
        let said: Vec<_> = generators
            .into_iter()
            .map(|generator| {
                let output = generator.wait_with_output().expect("it ends by itself");
                let text = [output.stdout, output.stderr].concat();
                String::from_utf8_lossy(&text).trim().chars().take(300).collect::<String>()
            })
            .collect();
        for (member, before) in before.iter().enumerate() {
            let [late, turns, syncs] = look(member);
            let late = late.since(&before[0]);
            println!(
                "overload: {name} on {n_connections} connections, member {}{}: {} ticks, 99 % late by \
                 {:.1} ms, none by more than {:.1} ms; turns within {:.1} ms, syncs within {:.1} ms; {}",
                id(member),
                if member == leader { " (leader)" } else { "" },
                late.n(),
                late.bound_of(0.99) * 1000.0,
                late.most() * 1000.0,
                turns.since(&before[1]).most() * 1000.0,
                syncs.since(&before[2]).most() * 1000.0,
                machine(),
            );
            worst = worst.max(late.most());
        }
        println!("overload:   term {term_before:?}, then {:?}", term(cluster.wait_leader()));
        said.iter().for_each(|said| println!("overload:   {said}"));
    }
    println!("overload: no tick later than {:.1} ms", worst * 1000.0);
    assert!(worst <= MAX_LATE_SECONDS, "a tick was later than {MAX_LATE_SECONDS} s");
}
