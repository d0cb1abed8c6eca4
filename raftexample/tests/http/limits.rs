//! What slow, silent and greedy clients can take: some time of their own, and nobody else's place.

use std::io::{BufRead, ErrorKind, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use raftexample::httpapi::ServerLimits;
use raftnode::testing::Verdict;

use crate::port::{Client, Options, Port, Reply, kind};

/// Longer than any test.
const LONG: Duration = Duration::from_secs(3600);

/// Long enough for any machine, so that what never ends fails.
const ENOUGH: Duration = Duration::from_secs(60);

/// Nothing but what a test is about ends a connection.
fn limits(max_connections: u32) -> ServerLimits {
    ServerLimits {
        head_timeout: LONG,
        idle_timeout: LONG,
        between_requests: Duration::ZERO,
        ..ServerLimits::new(max_connections)
    }
}

fn open(limits: ServerLimits, request_timeout: Duration) -> Port {
    Port::open_with(Options { limits, request_timeout, ..Options::default() })
}

/// Sends this again and again, with a pause, until the server answers or hangs up; gives whether
/// there is an answer to be read.
fn trickle(client: &mut Client, bytes: &[u8]) -> bool {
    let end = Instant::now() + ENOUGH;
    client.stream.get_ref().set_read_timeout(Some(Duration::from_millis(5))).unwrap();
    let answered = loop {
        assert!(Instant::now() < end, "it goes on for ever");
        let sent = client.stream.get_mut().write_all(bytes);
        match client.stream.fill_buf() {
            Ok(read) => break !read.is_empty(),
            Err(error) if error.kind() == ErrorKind::WouldBlock && sent.is_ok() => {}
            Err(_) => break false,
        }
    };
    client.stream.get_ref().set_read_timeout(Some(ENOUGH)).unwrap();
    answered
}

/// Repeats a request on connections of its own until it is answered like this.
fn until(port: &Port, status: u16) -> Reply {
    let end = Instant::now() + ENOUGH;
    loop {
        let reply = port.ask("GET", "/_version", b"");
        if reply.status == status {
            return reply;
        }
        assert!(Instant::now() < end, "never {status}, but {reply:?}");
    }
}

/// A head that comes a byte at a time is not waited for, whether it is a connection's first or a
/// later one; silence between requests is not a head.
#[test]
fn a_slow_head_is_cut_off() {
    let head_timeout = Duration::from_millis(300);
    let port = open(ServerLimits { head_timeout, ..limits(100) }, LONG);
    let mut patient = port.connect();
    assert_eq!(patient.ask("PUT", "/k", b"v").status, 204);
    for begin in ["", "GET /k HTTP/1.1\r\n\r\n"] {
        let mut slow = port.connect();
        slow.send(begin.as_bytes());
        if !begin.is_empty() {
            assert_eq!(slow.reply(true).status, 200);
        }
        slow.send(b"GET /");
        assert!(!trickle(&mut slow, b"k"), "an answer to {begin:?} and half a request");
    }
    assert!(port.connect().is_closed(), "a first request that never begins");
    assert_eq!(patient.ask("GET", "/k", b"").status, 200, "it was silent all the time");
}

/// A connection that is not used ends, and others do not.
#[test]
fn an_idle_connection_is_closed() {
    let idle_timeout = Duration::from_millis(300);
    let port = open(ServerLimits { idle_timeout, ..limits(100) }, LONG);
    let mut client = port.connect();
    assert_eq!(client.ask("PUT", "/k", b"v").status, 204);
    assert!(client.is_closed());
    port.node.decide(Verdict::Hold);
    let mut busy = port.connect();
    busy.send(b"GET /k HTTP/1.1\r\n\r\n");
    let mut client = port.connect();
    assert_eq!(client.ask("GET", "/_version", b"").status, 200);
    assert!(client.is_closed());
    port.handle.shutdown();
    assert_eq!(busy.reply(true).kind(), kind(503, "shutting_down"), "nobody asked it to hurry");
}

/// Whatever a body is made of, it has the request's time and not more: bytes of it, extensions of
/// a chunk, trailers, a length that is zero upon zero. Nothing is written.
#[test]
fn a_body_that_never_ends_is_cut_off() {
    let port = open(limits(100), Duration::from_millis(300));
    let chunked = "Transfer-Encoding: chunked";
    let table = [
        ("Content-Length: 50000", "", "x"),
        (chunked, "", "1\r\nx\r\n"),
        (chunked, "1;", "x"),
        (chunked, "1\r\nx\r\n0\r\n", "a: b\r\n"),
        (chunked, "", "0"),
        (chunked, "1", " "),
    ];
    for (length, begin, more) in table {
        let mut client = port.connect();
        client.send(format!("PUT /k HTTP/1.1\r\n{length}\r\n\r\n{begin}").as_bytes());
        assert!(trickle(&mut client, more.as_bytes()), "{begin:?} {more:?}");
        let reply = client.reply(true);
        assert_eq!(reply.kind(), kind(400, "malformed"), "{begin:?} {more:?}");
        assert_eq!(reply.header("Connection"), Some("close"), "{begin:?} {more:?}");
        if begin.is_empty() && more == "x" {
            assert!(!trickle(&mut client, more.as_bytes()), "and it hangs up");
        }
    }
    assert_eq!(port.ask("GET", "/k", b"").status, 404);
}

/// Extensions and trailers are bounded by their size as well: a fast client has no use of the time.
#[test]
fn a_body_of_nothing_but_extras_is_cut_off() {
    let port = open(limits(100), LONG);
    for (begin, more) in [("1;", "x"), ("0\r\n", "a: b\r\n")] {
        let mut client = port.connect();
        let head = "PUT /k HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
        client.send(format!("{head}{begin}").as_bytes());
        client.send(more.repeat((64 << 10) / more.len()).as_bytes());
        assert_eq!(client.reply(true).kind(), kind(400, "malformed"), "{begin:?}");
        assert!(client.is_closed());
    }
    assert_eq!(port.ask("GET", "/k", b"").status, 404);
}

/// Fills a connection with answers that nobody reads.
fn ask_and_never_read(port: &Port) -> Client {
    let mut client = port.connect();
    client.send("GET /k HTTP/1.1\r\n\r\n".repeat(200).as_bytes());
    client
}

/// A client that asks and never reads gives its place back.
#[test]
fn a_client_that_never_reads_is_cut_off() {
    let port = open(limits(1), Duration::from_millis(300));
    assert_eq!(port.ask("PUT", "/k", &[7; 100_000]).status, 204);
    let silent = ask_and_never_read(&port);
    until(&port, 503);
    until(&port, 200);
    drop(silent);
}

/// Answers that are not read take so much memory together and no more; small ones, and what became
/// of a write, are always told.
#[test]
fn answers_are_bounded_together() {
    let port = open(ServerLimits { answer_bytes: 150_000, ..limits(100) }, LONG);
    let mut client = port.connect();
    assert_eq!(client.ask("PUT", "/k", &[7; 100_000]).status, 204);
    let silent = ask_and_never_read(&port);
    let end = Instant::now() + ENOUGH;
    let refused = loop {
        let reply = client.ask("GET", "/k", b"");
        if reply.status != 200 {
            break reply;
        }
        assert!(Instant::now() < end, "never refused");
    };
    assert_eq!(refused.kind(), kind(503, "overloaded"));
    assert!(refused.json()["message"].as_str().unwrap().contains("answers"), "{refused:?}");
    assert_eq!(client.ask("GET", "/absent", b"").status, 404, "a small one");
    let txn = br#"{"then":[{"op":"put","key":"a","value":""},{"op":"get","key":"k"}]}"#;
    assert_eq!(client.ask("POST", "/_txn", txn).status, 200, "it is done, and says so");
    drop(silent);
    let end = Instant::now() + ENOUGH;
    while client.ask("GET", "/k", b"").status != 200 {
        assert!(Instant::now() < end, "never given back");
    }
}

/// Whoever comes has a place as long as somebody only waits: who has waited longest makes room,
/// whether silent, in the middle of a head, or between requests.
#[test]
fn the_longest_waiting_makes_room() {
    let port = open(limits(3), LONG);
    let asked = |client: &mut Client| client.ask("GET", "/_version", b"").status;
    // One at a time: an answer says that a connection has its place.
    let mut between = port.connect();
    assert_eq!(asked(&mut between), 200);
    let mut slow = port.connect();
    assert_eq!(asked(&mut slow), 200);
    slow.send(b"GET /");
    let mut busy = port.connect();
    assert_eq!(asked(&mut busy), 200);
    port.node.decide(Verdict::Hold);
    busy.send(b"GET /k HTTP/1.1\r\n\r\n");
    assert_eq!(asked(&mut between), 200, "it is not the longest any more");
    let mut fourth = port.connect();
    assert_eq!(asked(&mut fourth), 200);
    assert!(slow.is_closed());
    let mut fifth = port.connect();
    assert_eq!(asked(&mut fifth), 200);
    assert!(between.is_closed());
    assert_eq!(asked(&mut fourth), 200, "nobody else had to go");
    port.handle.shutdown();
    assert_eq!(busy.reply(true).kind(), kind(503, "shutting_down"), "nor who was busy");
}

/// A request that is in the socket when somebody else wants the place is served: its sender could
/// not know what became of it.
#[test]
fn a_request_on_its_way_is_served() {
    let port = open(limits(1), LONG);
    let address = port.address;
    for _ in 0..20 {
        let mut client = port.connect();
        assert_eq!(client.ask("GET", "/_version", b"").status, 200);
        // The newcomer is seen first.
        let (newcomer, mut client) = port.meanwhile(move || {
            let newcomer = TcpStream::connect(address).unwrap();
            client.send(b"PUT /k HTTP/1.1\r\nContent-Length: 1\r\n\r\nv");
            (newcomer, client)
        });
        assert_eq!(client.reply(true).status, 204);
        drop(newcomer);
    }
}

/// Slow heads and silent clients, many times as many as there are places, lock nobody out.
#[test]
fn slow_heads_lock_nobody_out() {
    let port = open(limits(20), LONG);
    let mut client = port.connect();
    let mut slow = Vec::new();
    for number in 0..200 {
        let mut next = port.connect();
        if number % 2 == 0 {
            next.send(b"PUT /k HTT");
        }
        slow.push(next);
        assert_eq!(client.ask("PUT", "/k", b"v").status, 204, "after {number}");
    }
    assert_eq!(port.ask("GET", "/k", b"").status, 200, "and whoever comes now");
}

/// When everybody is in the middle of something, one more is told so, and who leads.
#[test]
fn one_connection_too_many_is_told_who_leads() {
    let port = open(limits(1), LONG);
    port.node.update_status(|status| {
        status.leader_id = 2;
        status.client_urls.insert(2, "http://127.0.0.1:9122".into());
    });
    let mut first = port.connect();
    assert_eq!(first.ask("PUT", "/k", b"v").status, 204);
    first.send(b"PUT /k HTTP/1.1\r\nContent-Length: 2\r\n\r\nv");
    let refusal = until(&port, 503);
    assert_eq!(refusal.kind(), kind(503, "overloaded"));
    assert_eq!(refusal.header("Retry-After"), Some("1"));
    assert_eq!(refusal.header("X-Raft-Leader"), Some("2 http://127.0.0.1:9122"));
    assert_eq!(refusal.header("Connection"), Some("close"));
    let mut second = port.connect();
    second.stream.get_ref().shutdown(Shutdown::Write).unwrap();
    assert_eq!(second.reply(true).status, 503);
    assert!(second.is_closed());
    first.send(b"v");
    assert_eq!(first.reply(true).status, 204, "the first is not disturbed");
    until(&port, 200);
}

/// A client that is between two requests is not pushed out by newcomers when all others are busy.
#[test]
fn who_was_just_answered_keeps_its_place() {
    let port = open(ServerLimits { between_requests: LONG, ..limits(2) }, LONG);
    let mut client = port.connect();
    assert_eq!(client.ask("PUT", "/k", b"v").status, 204);
    let mut busy = port.connect();
    assert_eq!(busy.ask("GET", "/k", b"").status, 200);
    busy.send(b"PUT /k HTTP/1.1\r\nContent-Length: 2\r\n\r\nv");
    for _ in 0..10 {
        assert_eq!(port.ask("GET", "/k", b"").kind(), kind(503, "overloaded"));
        assert_eq!(client.ask("GET", "/k", b"").status, 200);
    }
}
