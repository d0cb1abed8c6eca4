//! Too much to do: refused at once, before a body is read, and measured.

use std::time::{Duration, Instant};

use raftnode::Refusal;
use raftnode::testing::Verdict;

use crate::port::{Client, Options, Port, kind};

/// How many refusals were measured.
fn measured(client: &mut Client) -> u64 {
    let text = String::from_utf8(client.ask("GET", "/_metrics", b"").body).unwrap();
    let count = text.lines().find_map(|line| line.strip_prefix("http_refusal_seconds_count "));
    count.unwrap().parse().unwrap()
}

/// A member that cannot keep up does not read what it will refuse, and refuses nothing else.
#[test]
fn an_overloaded_member_refuses_before_the_body() {
    let port = Port::open();
    port.node.lag(true);
    for target in ["PUT /k", "PUT /_kv/k?cas=0", "PUT /k?ack=none", "POST /_txn"] {
        for length in ["Content-Length: 50000", "Transfer-Encoding: chunked"] {
            let mut client = port.connect();
            client.send(format!("{target} HTTP/1.1\r\n{length}\r\n\r\n").as_bytes());
            let reply = client.reply(true);
            assert_eq!(reply.kind(), kind(503, "overloaded"), "{target} {length}");
            assert_eq!(reply.header("Retry-After"), Some("1"), "{target} {length}");
        }
    }
    let mut client = port.connect();
    client.send(b"PUT /k HTTP/1.1\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\n");
    assert_eq!(client.reply(true).status, 503, "nobody asked for the body");
    let mut client = port.connect();
    assert_eq!(client.ask("PUT", "/k", &[7; 50_000]).kind(), kind(503, "overloaded"));
    assert_eq!(client.ask("DELETE", "/_kv/k", b"").kind(), kind(503, "overloaded"));
    assert_eq!(client.ask("GET", "/k", b"").status, 404, "still the same connection");
    assert_eq!(client.ask("POST", "/4", b"http://h:1").status, 204, "what helps goes on");
    port.node.lag(false);
    assert_eq!(client.ask("PUT", "/k", b"v").status, 204);
}

/// What refusing takes is measured once for each refusal, and for no other answer.
#[test]
fn refusals_for_overload_are_measured() {
    let port = Port::open();
    let mut client = port.connect();
    assert_eq!(client.ask("PUT", "/k", b"v").status, 204);
    port.node.decide(Verdict::Refuse(Refusal::NoLeader));
    assert_eq!(client.ask("PUT", "/k", b"v").kind(), kind(503, "no_leader"));
    assert_eq!(measured(&mut client), 0);
    for refused in 1..4 {
        port.node.decide(Verdict::Refuse(Refusal::Overloaded));
        assert_eq!(client.ask("GET", "/k", b"").kind(), kind(503, "overloaded"));
        assert_eq!(measured(&mut client), refused);
    }
    port.node.lag(true);
    assert_eq!(client.ask("PUT", "/k", &[7; 50_000]).kind(), kind(503, "overloaded"));
    assert_eq!(measured(&mut client), 4);
}

/// Bodies that are on their way take no more memory together than they may, whatever their
/// senders announce or do not; and give it back.
#[test]
fn bodies_are_bounded_together() {
    let port = Port::open_with(Options { body_bytes: 150_000, ..Options::default() });
    // A body of unknown length may become as long as a value may be.
    let bodies: [(&str, &[u8], &[u8]); 2] = [
        ("Content-Length: 100000", b"v", &[b'v'; 99_999]),
        ("Transfer-Encoding: chunked", b"1\r\nv\r\n", b"0\r\n\r\n"),
    ];
    for (length, begin, end) in bodies {
        let mut slow = port.connect();
        slow.send(format!("PUT /slow HTTP/1.1\r\n{length}\r\n\r\n").as_bytes());
        slow.send(begin);
        let mut client = port.connect();
        let deadline = Instant::now() + Duration::from_secs(60);
        // Until the server has begun with the slow one.
        while client.ask("PUT", "/k", &[b'v'; 60_000]).status == 204 {
            assert!(Instant::now() < deadline, "{length}: never refused");
        }
        let refused = client.ask("PUT", "/k", &[b'v'; 60_000]);
        assert_eq!(refused.kind(), kind(503, "overloaded"), "{length}");
        assert!(refused.json()["message"].as_str().unwrap().contains("bodies"), "{length}");
        assert_eq!(client.ask("PUT", "/k", &[b'v'; 50_000]).status, 204, "{length}: it fits");
        assert_eq!(client.ask("DELETE", "/_kv/k", b"").status, 204, "{length}: no body");
        slow.send(end);
        assert_eq!(slow.reply(true).status, 204, "{length}");
        assert_eq!(client.ask("PUT", "/k", &[b'v'; 60_000]).status, 204, "{length}: given back");
    }
}

/// The aim: from the parsed request to the written answer in less than a millisecond, for 99 of
/// 100. A figure, and so not among the tests that must hold on any machine.
#[test]
#[ignore = "a figure: run it alone, on a machine that has nothing else to do"]
fn refusals_take_less_than_a_millisecond() {
    let port = Port::open();
    port.node.lag(true);
    std::thread::scope(|scope| {
        for _ in 0..64 {
            let mut client = port.connect();
            scope.spawn(move || {
                for _ in 0..500 {
                    assert_eq!(client.ask("PUT", "/k", &[7; 1000]).status, 503);
                }
            });
        }
    });
    let text = String::from_utf8(port.ask("GET", "/_metrics", b"").body).unwrap();
    let bucket = text
        .lines()
        .find_map(|line| line.strip_prefix("http_refusal_seconds_bucket{le=\"0.001\"} "))
        .unwrap();
    let fast: u64 = bucket.parse().unwrap();
    let all = measured(&mut port.connect());
    assert!(all == 64 * 500 && fast * 100 >= all * 99, "{fast} of {all}\n{text}");
}
