//! Whatever comes in at the peer port, a member neither ends nor grows, and goes on serving.
//!
//! A round is 64 KiB of noise or of protobuf's tags for groups, on one of the port's paths: before
//! any HTTP, behind heads that are wrong, and behind heads that are right, as a hostile peer can
//! make them up: the port tells anyone its cluster, and the member that is played is down.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tests::cluster::{Cluster, id};
use tests::http::Client;
use tests::rng::Rng;

const SEED: &str = "PEERS_SEED";
const ROUNDS: &str = "ROUNDS";
const FEW_ROUNDS: u64 = 300;
const NOISE_BYTES: usize = 64 << 10;

/// After so many rounds every buffer was used, and memory is measured first.
const WARM: u64 = 100;
/// What a member may have grown by since.
const MOST_GROWTH_KIB: u64 = 16 << 10;

/// The longest that any round, or a write beside them, may take: an election, and a machine that is
/// busy with other tests.
const PATIENCE: Duration = Duration::from_secs(20);
/// The kinds of rounds, in turns.
const KINDS: u64 = 16;
/// Connections that are begun and then left open.
const LEFT_OPEN: usize = 200;

/// The member that is attacked, and the one that is down and played.
const TARGET: usize = 0;
const PLAYED: usize = 2;

#[test]
fn noise_from_peers_does_no_harm() {
    attack(FEW_ROUNDS);
}

#[test]
#[ignore = "a figure: make peers"]
fn much_noise_from_peers_does_no_harm() {
    let rounds = std::env::var(ROUNDS).map_or(10_000, |rounds| rounds.parse().expect(ROUNDS));
    attack(rounds);
}

fn attack(rounds: u64) {
    let seed = Rng::seed_from_env(SEED);
    say(&format!("{SEED}={seed}"));
    let mut rng = Rng::new(seed);
    let mut cluster = Cluster::start(3);
    let attacker = Attacker::new(&cluster);
    cluster.kill(PLAYED);
    cluster.wait_leader();
    let pid = cluster.pid(TARGET);

    let done = AtomicBool::new(false);
    let (warm, slowest, writes) = thread::scope(|scope| {
        let serving = scope.spawn(|| keep_writing(cluster.address(TARGET), &done));
        // The writer ends also when a round fails, or the failure would never be seen.
        let _ended = Ended(&done);
        let (mut warm, mut slowest, mut left_open) = (0, Duration::ZERO, Vec::new());
        let mut reached = BTreeSet::new();
        for round in 0..rounds {
            if round == WARM {
                warm = resident_kib(pid.as_raw_pid());
            }
            let started = Instant::now();
            if let Some(what) = attacker.strike(round, &mut rng) {
                reached.insert(what);
            }
            slowest = slowest.max(started.elapsed());
            if round % 7 == 0 {
                left_open.push(attacker.begin(&mut rng));
            }
            if left_open.len() > LEFT_OPEN {
                left_open.clear();
            }
        }
        done.store(true, Ordering::Relaxed);
        // What was refused at the head has proved nothing of what lies behind.
        assert_eq!(reached.len() as u64, KINDS, "only these got where they should: {reached:?}");
        (warm, slowest, serving.join().expect("the writer ends by itself"))
    });

    cluster.assert_running(TARGET);
    let last = resident_kib(pid.as_raw_pid());
    say(&format!(
        "{rounds} rounds, restarts 0; {warm} KiB after round {WARM}, {last} KiB at the end; slowest \
         round {slowest:.0?}; {} writes, {} again, slowest {:.0?}",
        writes.n, writes.n_repeated, writes.slowest,
    ));
    assert!(last <= warm + MOST_GROWTH_KIB, "grown from {warm} to {last} KiB");
    assert!(writes.n >= rounds / 100, "only {} writes", writes.n);
    cluster.restart(PLAYED);
    cluster.wait_all_ready();
}

struct Ended<'a>(&'a AtomicBool);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

struct Writes {
    n: u64,
    n_repeated: u64,
    slowest: Duration,
}

/// Writes a value after the other, each until it is acknowledged.
fn keep_writing(address: SocketAddr, done: &AtomicBool) -> Writes {
    let mut client = Client::new(address);
    let mut writes = Writes { n: 0, n_repeated: 0, slowest: Duration::ZERO };
    while !done.load(Ordering::Relaxed) {
        let started = Instant::now();
        while !matches!(client.put("/beside", b"noise"), Ok(answer) if answer.status == 204) {
            writes.n_repeated += 1;
            assert!(started.elapsed() < PATIENCE, "nothing was written for {PATIENCE:?}");
        }
        writes.n += 1;
        writes.slowest = writes.slowest.max(started.elapsed());
        // Few enough that what is written does not count beside what is measured.
        thread::sleep(Duration::from_millis(20));
    }
    writes
}

/// A member's resident memory.
fn resident_kib(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// Somebody who reaches the peer port and knows what it tells anyone.
struct Attacker {
    address: SocketAddr,
    cluster: String,
    played: String,
}

impl Attacker {
    fn new(cluster: &Cluster) -> Attacker {
        let identity = |member: usize| {
            let address: SocketAddr =
                cluster.peer_url(member)["http://".len()..].parse().expect("an address");
            let answer = Client::new(address).get("/raft/identity").expect("anyone is answered");
            let field = |name| answer.header(name).expect(name).to_owned();
            (address, field("x-raft-cluster"), field("x-raft-incarnation"))
        };
        let (address, cluster, _) = identity(TARGET);
        Attacker { address, cluster, played: identity(PLAYED).2 }
    }

    /// A head that passes the gate: as the member that is down, or under an invented id.
    fn head(&self, is_member: bool, rng: &mut Rng) -> (u64, String) {
        let (from, incarnation) = match is_member {
            true => (id(PLAYED), self.played.clone()),
            false => (1_000 + rng.below(100), format!("{:032x}", 5)),
        };
        let to = id(TARGET);
        (from, fields(&self.cluster, from, to, &incarnation))
    }

    /// One round. The member closes the connection. What it was, if it was answered as it is when
    /// it got as far as it should.
    fn strike(&self, round: u64, rng: &mut Rng) -> Option<&'static str> {
        let noise = noise(rng);
        let is_member = rng.below(2) == 0;
        let (from, head) = self.head(is_member, rng);
        let lane = if rng.below(2) == 0 { "bulk" } else { "control" };
        let stream = |head: &str, body: &[u8]| {
            let first = format!("POST /raft/stream/{lane} HTTP/1.1\r\nhost: a\r\n{head}");
            let first = format!("{first}transfer-encoding: chunked\r\n\r\n{:x}\r\n", body.len());
            [first.as_bytes(), body, b"\r\n0\r\n\r\n"].concat()
        };
        let whole = |first: &str, head: &str, body: &[u8]| {
            let len = body.len();
            let first =
                format!("{first} HTTP/1.1\r\nhost: a\r\n{head}content-length: {len}\r\n\r\n");
            [first.as_bytes(), body].concat()
        };
        let framed = |kind: u8| {
            let body = &noise[..NOISE_BYTES - 5];
            [&(body.len() as u32).to_le_bytes()[..], &[kind], body].concat()
        };
        let snapshot = |message: &[u8]| {
            let file = noise.len();
            let body = [&(message.len() as u32).to_le_bytes()[..], message, &noise].concat();
            let head = format!("{head}x-raft-snapshot-length: {file}\r\n");
            let head = format!("{head}x-raft-snapshot-checksum: {:016x}\r\n", 7);
            whole("POST /raft/snapshot", &head, &body)
        };
        let joining = || fields("0000000000000000", from + 100, 0, &"0".repeat(32));
        let (what, expected, bytes) = match round % KINDS {
            0 => ("before HTTP", "", noise.clone()),
            1 => ("as a head", "", [b"GET /raft/identity HTTP/1.1\r\n", &noise[..]].concat()),
            2 => ("on a stream without a head", "400", stream("", &noise)),
            3 => ("on a stream", "200", stream(&head, &noise)),
            4 => ("as a message", "200", stream(&head, &framed(1))),
            5 => ("as a Forward", "200", stream(&head, &framed(2))),
            6 => ("as a Verdict", "200", stream(&head, &framed(3))),
            7 => ("as a call", "200", whole("POST /raft/call", &head, &noise)),
            8 => ("as a short call", "200", whole("POST /raft/call", &head, &noise[..99])),
            9 => ("as a request to join", "200", whole("POST /raft/join", &joining(), &noise)),
            10 => ("as a snapshot's message", "400", snapshot(&noise[..5_000])),
            11 => {
                // MsgSnapshot, and whom it is from and to.
                let [to, from] = [id(TARGET), from].map(varint);
                (
                    "as a snapshot's file",
                    "500",
                    snapshot(&[&[8, 7, 0x10][..], &to, &[0x18], &from].concat()),
                )
            }
            12 => ("with a question", "200", whole("GET /raft/identity", "", &noise)),
            13 => ("on a path that is not there", "404", whole("POST /raft/other", &head, &noise)),
            14 => ("by another method", "405", whole("PUT /raft/stream/bulk", &head, &noise)),
            _ => (
                "in a frame after a good one",
                "200",
                stream(&head, &[heartbeat(from), framed(1)].concat()),
            ),
        };
        let mut socket = TcpStream::connect(self.address).expect("the port is open");
        socket.set_read_timeout(Some(PATIENCE)).expect("a socket has timeouts");
        // It may be closed before all was written, and with it what was written is lost.
        // Whoever ends its side is taken to have given up: an answer that takes its time needs both.
        let waits = ["call", "join", "file"].iter().any(|slow| what.contains(slow));
        let end = |()| if waits { Ok(()) } else { socket.shutdown(Shutdown::Write) };
        let written = (&socket).write_all(&bytes).and_then(end);
        let mut answer = Vec::new();
        let read = Read::take(&mut socket, 1 << 20).read_to_end(&mut answer);
        let stays = |error: &io::Error| {
            matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
        };
        assert!(
            !read.as_ref().is_err_and(stays),
            "round {round}: noise {what} is kept: {written:?}"
        );
        let answer = String::from_utf8_lossy(&answer);
        answer.split(' ').nth(1).unwrap_or_default().contains(expected).then_some(what)
    }

    /// Begins something and leaves it.
    fn begin(&self, rng: &mut Rng) -> TcpStream {
        let (_, head) = self.head(rng.below(2) == 0, rng);
        let text = match rng.below(4) {
            0 => String::new(),
            1 => "POST /raft/call HT".to_owned(),
            2 => format!("POST /raft/call HTTP/1.1\r\n{head}content-length: 9\r\n\r\n"),
            _ => format!("POST /raft/stream/bulk HTTP/1.1\r\n{head}content-length: 9\r\n\r\n"),
        };
        let mut socket = TcpStream::connect(self.address).expect("the port is open");
        socket.write_all(text.as_bytes()).expect("a new connection takes a little");
        socket
    }
}

fn fields(cluster: &str, from: u64, to: u64, incarnation: &str) -> String {
    format!(
        "x-raft-version: 1\r\nx-raft-cluster: {cluster}\r\nx-raft-from: {from}\r\nx-raft-to: {to}\r\n\
         x-raft-incarnation: {incarnation}\r\nx-raft-pins: \r\n\
         x-raft-peer-url: http://127.0.0.1:9\r\nx-raft-client-url: \r\n"
    )
}

/// A frame that is decoded and delivered: a heartbeat of no term.
fn heartbeat(from: u64) -> Vec<u8> {
    let [to, from] = [id(TARGET), from].map(varint);
    let message = [&[8, 8, 0x10][..], &to, &[0x18], &from].concat();
    [&(message.len() as u32).to_le_bytes()[..], &[1], &message].concat()
}

fn varint(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

/// Any bytes, or tags that begin groups, of an unknown field or of a known one.
fn noise(rng: &mut Rng) -> Vec<u8> {
    match rng.below(4) {
        0 => [0xa3, 0x06].repeat(NOISE_BYTES / 2),
        1 => vec![0x3b; NOISE_BYTES],
        _ => (0..NOISE_BYTES / 8).flat_map(|_| rng.draw().to_le_bytes()).collect(),
    }
}

/// Past the test harness's capture: the seed of a run that is killed must be in the output.
fn say(line: &str) {
    writeln!(io::stderr(), "peers: {line}").expect("standard error is open in a test");
}
