//! How long a cluster answers no writes when its leader goes: by a kill, and of its own will.
//!
//! `make failover` and `make handover` print the figures and fail beyond their limits.

#![allow(clippy::print_stdout, reason = "its measurements are what it is run for")]

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use tests::cluster::Cluster;
use tests::figure::{Durations, machine, parameter};
use tests::http::{Client, Failure};

/// Clients that write all the time, each on a connection of its own.
const N_WRITERS: usize = 12;
/// Load before the leader goes, and after.
const AROUND: Duration = Duration::from_secs(1);
const RETRY_EVERY: Duration = Duration::from_millis(10);
/// A writer whose member went away tries the next one after this pause.
const MOVE_ON: Duration = Duration::from_millis(1);
const SLOWEST: Duration = Duration::from_secs(30);

/// 38 of 40 rounds.
const FAILOVER_SHARE: f64 = 0.95;
const MAX_FAILOVER: Duration = Duration::from_secs(2);
const MAX_MEDIAN_FAILOVER: Duration = Duration::from_millis(1_700);
const MAX_MEDIAN_GAP: Duration = Duration::from_millis(150);

/// What a writer was told, and when.
#[derive(Debug)]
struct Told {
    at: Instant,
    took: Duration,
    what: What,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum What {
    Applied,
    /// 503 of the kind in its body.
    Refused(String),
    /// Any other answer, or none to a request that was under way.
    Bad(String),
}

/// Writes on random members, as fast as each answers, until told to stop.
fn write(number: usize, addresses: &[SocketAddr], stop: &AtomicBool) -> Vec<Told> {
    let mut told = Vec::new();
    let mut member = number;
    let mut client = Client::new(addresses[member % addresses.len()]);
    for key in 0.. {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        let sent = Instant::now();
        let answer = client.put(&format!("/writer-{number}/{}", key % 1000), &[b'v'; 128]);
        let what = match answer {
            Ok(answer) if answer.status == 204 => Some(What::Applied),
            Ok(answer) if answer.status == 503 => {
                let body: Result<serde_json::Value, _> = serde_json::from_slice(&answer.body);
                let kind = body.ok().and_then(|body| body["error"].as_str().map(str::to_owned));
                Some(kind.map_or_else(|| What::Bad("a bare 503".into()), What::Refused))
            }
            Ok(answer) => Some(What::Bad(format!("{} {}", answer.status, answer.text().trim()))),
            Err(Failure::NotSent(_)) => None,
            Err(Failure::Unknown(error)) => Some(What::Bad(format!("cut off: {error}"))),
        };
        let applied = what == Some(What::Applied);
        if let Some(what) = what {
            told.push(Told { at: Instant::now(), took: sent.elapsed(), what });
        }
        if !applied {
            member += 1;
            client = Client::new(addresses[member % addresses.len()]);
            thread::sleep(MOVE_ON);
        }
    }
    told
}

/// Does `work` while writers load all members; gives what these were told, in the order of time.
fn under_load<T>(addresses: &[SocketAddr], work: impl FnOnce() -> T) -> (Vec<Told>, T) {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let stop = &stop;
        let writer = |number| scope.spawn(move || write(number, addresses, stop));
        let writers: Vec<_> = (0..N_WRITERS).map(writer).collect();
        // Load is what the figure is about; there is nothing to wait for but time.
        thread::sleep(AROUND);
        let done = work();
        thread::sleep(AROUND);
        stop.store(true, Ordering::SeqCst);
        let told = writers.into_iter().flat_map(|writer| writer.join().expect("a writer reports"));
        let mut told: Vec<_> = told.collect();
        told.sort_by_key(|told| told.at);
        (told, done)
    })
}

/// A write every 10 ms, each on a connection of its own and at the next member, until one of them
/// is acknowledged; gives that moment.
fn first_write(addresses: &[SocketAddr]) -> Instant {
    thread::scope(|scope| {
        let (tell, told) = channel();
        let begin = Instant::now();
        for attempt in 0.. {
            let (tell, address) = (tell.clone(), addresses[attempt % addresses.len()]);
            scope.spawn(move || {
                let answer = Client::new(address).put("/probe", b"");
                if matches!(&answer, Ok(answer) if answer.status == 204) {
                    // After the first nobody listens any more.
                    tell.send(Instant::now()).ok();
                }
            });
            match told.recv_timeout(RETRY_EVERY) {
                Ok(at) => return at,
                Err(RecvTimeoutError::Timeout) if begin.elapsed() < SLOWEST => {}
                Err(error) => panic!("no write for {SLOWEST:?}: {error}"),
            }
        }
        unreachable!("attempts are without number")
    })
}

/// Nobody can write for as long as the dead leader is not missed: `make failover ROUNDS=40`.
#[test]
#[ignore = "minutes of elections: make failover"]
fn a_killed_leader_is_soon_replaced() {
    let rounds = parameter("ROUNDS", 40);
    let mut cluster = Cluster::start(3);
    let addresses: Vec<_> = (0..3).map(|member| cluster.address(member)).collect();
    let mut failovers = Durations::default();
    for round in 0..rounds {
        let leader = cluster.wait_leader();
        let others: Vec<_> = (0..3).filter(|&m| m != leader).map(|m| addresses[m]).collect();
        let term = cluster.status(others_first(leader)).map(|status| status["term"].clone());
        let (_, took) = under_load(&addresses, || {
            let killed = Instant::now();
            cluster.kill(leader);
            first_write(&others) - killed
        });
        failovers.push(took);
        let after = cluster.status(others_first(leader)).map(|status| status["term"].clone());
        println!(
            "failover: round {round}: {:.3} s, term {} then {}; {}",
            took.as_secs_f64(),
            term.unwrap_or_default(),
            after.unwrap_or_default(),
            machine(),
        );
        cluster.restart(leader);
        cluster.wait_all_ready();
    }
    println!("failover: {failovers}");
    let (within, median) = (failovers.n_within(MAX_FAILOVER), failovers.median());
    println!("failover: {within} of {rounds} within {MAX_FAILOVER:?}");
    assert!(within as f64 >= FAILOVER_SHARE * rounds as f64, "too few within {MAX_FAILOVER:?}");
    assert!(median <= MAX_MEDIAN_FAILOVER, "the median is beyond {MAX_MEDIAN_FAILOVER:?}");
}

/// A member other than this one.
fn others_first(member: usize) -> usize {
    (member + 1) % 3
}

/// A planned restart must cost its users nothing that they could not retry: `make handover`.
#[test]
#[ignore = "minutes of restarts: make handover"]
fn a_stopping_leader_hands_over() {
    let rounds = parameter("ROUNDS", 20);
    let mut cluster = Cluster::start(3);
    let addresses: Vec<_> = (0..3).map(|member| cluster.address(member)).collect();
    let (mut gaps, mut stops, mut slowest) =
        (Durations::default(), Durations::default(), Durations::default());
    let mut bad = Vec::new();
    for round in 0..rounds {
        let leader = cluster.wait_leader();
        let (told, (signalled, stopped)) = under_load(&addresses, || {
            let signalled = Instant::now();
            let status = cluster.terminate(leader, SLOWEST);
            assert_eq!(status.code(), Some(0), "{}", cluster.said(leader));
            (signalled, Instant::now())
        });
        // The gap that the stop is in, and all others until the end of the load.
        let mut last = told.first().map_or(signalled, |told| told.at);
        let mut gap = Duration::ZERO;
        for applied in told.iter().filter(|told| told.what == What::Applied) {
            if applied.at >= signalled {
                gap = gap.max(applied.at - last);
            }
            last = applied.at;
        }
        gaps.push(gap);
        stops.push(stopped - signalled);
        slowest.extend(told.iter().map(|told| told.took).max());
        let mut refused: Vec<(&str, usize)> = Vec::new();
        for told in &told {
            match &told.what {
                What::Applied => {}
                What::Refused(kind) => match refused.iter_mut().find(|(known, _)| known == kind) {
                    Some((_, n)) => *n += 1,
                    None => refused.push((kind, 1)),
                },
                What::Bad(why) => {
                    let after = told.at.saturating_duration_since(signalled);
                    bad.push(format!("round {round}, {after:.1?} after the signal: {why}"));
                }
            }
        }
        println!(
            "handover: round {round}: gap {gap:.1?}, ended after {:.1?}; {} answers, refused \
             {refused:?}, {} bad ones until now; {}",
            stopped - signalled,
            told.len(),
            bad.len(),
            machine(),
        );
        cluster.restart(leader);
        cluster.wait_all_ready();
    }
    println!("handover: gaps {gaps}");
    println!("handover: from signal to end {stops}");
    println!("handover: the slowest answer of each round {slowest}");
    println!("handover: {} bad answers", bad.len());
    assert!(bad.is_empty(), "neither 204 nor a definite 503:\n{}", bad.join("\n"));
    assert!(gaps.median() < MAX_MEDIAN_GAP, "the median gap is {MAX_MEDIAN_GAP:?} or more");
}
