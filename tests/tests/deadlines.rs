//! Every request is answered by its deadline, also when nothing can be decided any more.
//!
//! `make deadlines` prints how late the latest answers come and fails beyond the limit; the fast
//! suite has a small slice of it.

#![allow(clippy::print_stdout, reason = "its measurements are what it is run for")]

use std::net::SocketAddr;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tests::cluster::{Cluster, id};
use tests::figure::{Durations, machine};
use tests::http::Client;

const N_CLIENTS: usize = 64;
/// Requests of each client, one after the other.
const N_REQUESTS: usize = 3;
/// What the deadline may be missed by.
const MAX_LATE: Duration = Duration::from_millis(100);
/// In the fast suite, where other tests and compilers have the processors: a thread there waits
/// for its turn for hundreds of milliseconds. What it is to find, a request that hangs or waits for a
/// second deadline, is later than this by far.
const MAX_LATE_BUSY: Duration = Duration::from_secs(2);
/// Shorter than an election timeout, as long, and as by default.
const TIMEOUTS: [&str; 3] = ["500ms", "1s", "5s"];

/// How the majority is taken away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Loss {
    Killed,
    Frozen,
}

/// Who is left alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    Leader,
    Follower,
}

/// What was measured at the member that is left.
#[derive(Debug, Default)]
struct Figures {
    writes: Durations,
    reads: Durations,
    stale: Durations,
    /// Answers that were neither a timely refusal nor an honest unknown.
    bad: Vec<String>,
}

/// Takes a majority away and asks what is left, with `n_clients` at once.
fn measure(timeout: &str, loss: Loss, left: Left, n_clients: usize, n_requests: usize) -> Figures {
    let mut cluster = Cluster::start_with(3, &["--request-timeout", timeout]);
    let written = cluster.ask(0, "PUT", "/there", "yes");
    assert_eq!(written.status, 204, "{}", written.text());
    let leader = cluster.wait_leader();
    let asked = if left == Left::Leader { leader } else { (leader + 1) % 3 };
    let here = cluster.client(asked).get("/there");
    assert!(matches!(&here, Ok(here) if here.status == 200), "{here:?}");
    for member in (0..3).filter(|member| *member != asked) {
        match loss {
            Loss::Killed => cluster.kill(member),
            Loss::Frozen => cluster.freeze(member),
        }
    }
    let figures = ask_all(cluster.address(asked), n_clients, n_requests);
    assert!(cluster.running().contains(&asked), "member {} ended", id(asked));
    figures
}

fn ask_all(address: SocketAddr, n_clients: usize, n_requests: usize) -> Figures {
    let stop = AtomicBool::new(false);
    // All at once, so that their deadlines are too.
    let barrier = Barrier::new(n_clients);
    thread::scope(|scope| {
        let (stop, barrier) = (&stop, &barrier);
        let stale = scope.spawn(move || read_stale(address, stop));
        let client = |number| scope.spawn(move || ask(address, number, n_requests, barrier));
        let clients: Vec<_> = (0..n_clients).map(client).collect();
        let mut figures = Figures::default();
        for (number, client) in clients.into_iter().enumerate() {
            let (times, bad) = client.join().expect("a client reports");
            let kind = if is_write(number) { &mut figures.writes } else { &mut figures.reads };
            kind.extend(times);
            figures.bad.extend(bad);
        }
        stop.store(true, Ordering::SeqCst);
        let (times, bad) = stale.join().expect("a client reports");
        figures.stale = times;
        figures.bad.extend(bad);
        figures
    })
}

fn is_write(number: usize) -> bool {
    number.is_multiple_of(2)
}

fn ask(
    address: SocketAddr,
    number: usize,
    n_requests: usize,
    barrier: &Barrier,
) -> (Vec<Duration>, Vec<String>) {
    let (mut times, mut bad) = (Vec::new(), Vec::new());
    let mut client = Client::new(address);
    barrier.wait();
    for request in 0..n_requests {
        let sent = Instant::now();
        let (answer, expected): (_, &[u16]) = if is_write(number) {
            (client.put(&format!("/lost-{number}-{request}"), b"no"), &[503, 504])
        } else {
            (client.get("/there"), &[503])
        };
        times.push(sent.elapsed());
        match answer {
            Ok(answer) if expected.contains(&answer.status) => {}
            Ok(answer) => bad.push(format!("client {number}: {} {}", answer.status, answer.text())),
            Err(failure) => bad.push(format!("client {number}: {failure}")),
        }
    }
    (times, bad)
}

/// Reads without a promise, one after the other, which need no majority.
fn read_stale(address: SocketAddr, stop: &AtomicBool) -> (Durations, Vec<String>) {
    let (mut times, mut bad) = (Vec::new(), Vec::new());
    let mut client = Client::new(address);
    while !stop.load(Ordering::SeqCst) {
        let sent = Instant::now();
        match client.get("/there?consistency=stale") {
            Ok(answer) if answer.status == 200 && answer.body == b"yes" => {
                times.push(sent.elapsed());
            }
            other => bad.push(format!("stale: {other:?}")),
        }
        // As often as somebody who looks, not as a load.
        thread::sleep(Duration::from_millis(1));
    }
    (Durations::from_iter(times), bad)
}

/// The promise in figures, on an otherwise quiet machine: `make deadlines`.
#[test]
#[ignore = "needs a quiet machine: make deadlines"]
fn no_answer_comes_later_than_its_deadline() {
    let mut wrong = Vec::new();
    for timeout in TIMEOUTS {
        let limit = parse(timeout) + MAX_LATE;
        for (loss, left) in [
            (Loss::Killed, Left::Leader),
            (Loss::Killed, Left::Follower),
            (Loss::Frozen, Left::Leader),
            (Loss::Frozen, Left::Follower),
        ] {
            let figures = measure(timeout, loss, left, N_CLIENTS, N_REQUESTS);
            let what = format!("{timeout}, the others {loss:?}, the {left:?} left");
            println!("deadlines: {what}; {}", machine());
            println!("deadlines:   writes {}", figures.writes);
            println!("deadlines:   reads  {}", figures.reads);
            println!("deadlines:   stale  {}", figures.stale);
            for (kind, times) in [("writes", &figures.writes), ("reads", &figures.reads)] {
                let late = times.n() - times.n_within(limit);
                if late > 0 {
                    wrong.push(format!("{what}: {late} {kind} later than {limit:?}"));
                }
            }
            wrong.extend(figures.bad.into_iter().map(|bad| format!("{what}: {bad}")));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A request that hangs when a majority is away is what the original is known for.
#[test]
fn requests_are_answered_when_a_majority_is_away() {
    let timeout = "500ms";
    for (loss, left) in [(Loss::Frozen, Left::Leader), (Loss::Killed, Left::Follower)] {
        let figures = measure(timeout, loss, left, 8, 2);
        assert!(figures.bad.is_empty(), "{loss:?}, {left:?}: {}", figures.bad.join("\n"));
        let limit = parse(timeout) + MAX_LATE_BUSY;
        for times in [&figures.writes, &figures.reads] {
            assert_eq!(times.n_within(limit), times.n(), "{loss:?}, {left:?}: {times}");
        }
        assert!(figures.stale.n() > 0, "no stale read was answered");
    }
}

fn parse(timeout: &str) -> Duration {
    let number = timeout.trim_end_matches(char::is_alphabetic);
    let unit = match &timeout[number.len()..] {
        "ms" => Duration::from_millis(1),
        "s" => Duration::from_secs(1),
        unit => panic!("{unit} is not a unit of this test"),
    };
    unit * number.parse().expect("a timeout begins with a number")
}
