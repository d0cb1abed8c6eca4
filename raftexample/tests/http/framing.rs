//! Where a request ends, and what it may be made of: what is ambiguous is refused or ends the
//! connection, and never becomes a second request.

use std::io::{Read, Write};

use crate::port::{Client, Port, kind};

/// Everything that the server says until it hangs up.
fn rest(client: &mut Client) -> String {
    let mut text = Vec::new();
    // A reset may cut off what was said before it; what was read by then counts.
    client.stream.read_to_end(&mut text).ok();
    String::from_utf8_lossy(&text).into_owned()
}

/// The statuses of all answers to these bytes. There are no more of them: the server hangs up.
fn statuses(port: &Port, bytes: &[u8]) -> Vec<u16> {
    let mut client = port.connect();
    client.send(bytes);
    let text = rest(&mut client);
    let statuses = text.split("HTTP/1.1 ").skip(1);
    statuses.map(|answer| answer[..3].parse().unwrap()).collect()
}

/// A proxy and this server that disagree about a request's end would let one client put words into
/// the mouth of another. Each of these is followed by a request that must not be answered.
#[test]
fn no_request_hides_in_another() {
    let port = Port::open();
    assert_eq!(port.ask("PUT", "/victim", b"v").status, 204);
    let table = [
        ("Content-Length: 5\r\nTransfer-Encoding: chunked", "0\r\n\r\n", 204),
        ("Transfer-Encoding: chunked\r\nContent-Length: 5", "0\r\n\r\n", 204),
        ("Content-Length: 0\r\nContent-Length: 5", "", 400),
        ("Content-Length: 0, 5", "", 400),
        ("Content-Length: +0", "", 400),
        ("Content-Length: 0x0", "", 400),
        ("Content-Length: ", "", 400),
        ("Content-Length : 0", "", 400),
        ("Content-Length: 18446744073709551616", "", 400),
        ("Transfer-Encoding: chunked, identity", "0\r\n\r\n", 400),
        ("Transfer-Encoding: gzip, chunked", "0\r\n\r\n", 400),
        ("Transfer-Encoding: chunked, chunked", "0\r\n\r\n", 400),
        ("Transfer-Encoding: identity\r\nTransfer-Encoding: chunked", "0\r\n\r\n", 400),
        ("Transfer-Encoding: identity", "", 400),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", "0\r\n\r\n", 400),
        ("Transfer-Encoding : chunked", "0\r\n\r\n", 400),
        ("Transfer-Encoding: chunked", "-1\r\n\r\n", 400),
        ("Transfer-Encoding: chunked", "0x0\r\n\r\n", 400),
        ("Transfer-Encoding: chunked", "10000000000000000\r\n\r\n", 400),
        ("Transfer-Encoding: chunked", "1\nx\n0\n\n", 400),
        ("Transfer-Encoding: chunked", "1;a\nb\r\nx\r\n0\r\n\r\n", 400),
        ("Transfer-Encoding: chunked", "1\r\nxx\r\n0\r\n\r\n", 400),
        ("X: a\r\n Content-Length: 0", "", 400),
        ("X: a\0b", "", 400),
        ("X: a\rb", "", 400),
        ("X\0: b", "", 400),
        ("no colon", "", 400),
    ];
    for (lines, body, status) in table {
        let hidden = "PUT /victim HTTP/1.1\r\nContent-Length: 6\r\n\r\nhidden";
        let request = format!("PUT /k HTTP/1.1\r\n{lines}\r\n\r\n{body}{hidden}");
        assert_eq!(statuses(&port, request.as_bytes()), [status], "{lines:?} {body:?}");
        assert_eq!(port.ask("GET", "/victim", b"").body, b"v", "{lines:?} {body:?}");
    }
    let old = "PUT /k HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    assert_eq!(statuses(&port, old.as_bytes()), [400]);
}

/// The same length twice, and lines that end without a carriage return, are one way to say one
/// thing: the next request is where its sender means it to be.
#[test]
fn what_is_not_ambiguous_is_served() {
    let port = Port::open();
    let table = [
        "PUT /k HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nv",
        "PUT /k HTTP/1.1\nContent-Length: 1\n\nv",
        "\r\n\r\nPUT /k HTTP/1.1\r\nContent-Length: 1\r\n\r\nv",
        "PUT /k HTTP/1.1\r\nTransfer-Encoding: ChunkeD\r\n\r\n1;ext\r\nv\r\n0\r\nT: t\r\n\r\n",
    ];
    for request in table {
        let mut client = port.connect();
        client.send(request.as_bytes());
        assert_eq!(client.reply(true).status, 204, "{request:?}");
        assert_eq!(client.ask("GET", "/k", b"").body, b"v", "{request:?}");
    }
}

/// A head is at most 64 KiB, with 100 headers; nothing larger is collected, and a legal key always
/// fits.
#[test]
fn heads_are_bounded() {
    let port = Port::open();
    let head = |target: &str, lines: &str| format!("GET {target} HTTP/1.1\r\n{lines}\r\n");
    let headers = |n| "X: y\r\n".repeat(n);
    let long = |n: usize| format!("X: {}\r\n", "y".repeat(n));
    let mut client = port.connect();
    let key = format!("/{}", "%6B".repeat(4096));
    client.send(head(&key, &(long(30_000) + &headers(99))).as_bytes());
    assert_eq!(client.reply(true).status, 404, "a long key, and many headers");
    let key = format!("/{}", "k".repeat(4097));
    assert_eq!(client.ask("GET", &key, b"").kind(), kind(400, "malformed"), "a byte too long");
    assert_eq!(statuses(&port, head("/k", &headers(101)).as_bytes()), [431]);
    for head in [head("/k", &long(65 << 10)), head(&"/k".repeat(32 << 10), "")] {
        assert_eq!(statuses(&port, head.as_bytes()), [431], "{} bytes", head.len());
    }
    // However much more would follow, it is not waited for.
    let mut client = port.connect();
    client.send(b"GET /k HTTP/1.1\r\nX: ");
    let mut sent = 0;
    while sent < (64 << 20) && client.stream.get_mut().write_all(&[b'y'; 1 << 10]).is_ok() {
        sent += 1 << 10;
    }
    assert!(sent < 64 << 20, "it reads on and on");
}

/// A length over the limit is refused before any of the body comes, for each kind of body.
#[test]
fn large_bodies_are_refused_by_their_length() {
    let port = Port::open();
    let table = [
        ("PUT /k", 100_001),
        ("PUT /_kv/k?cas=0", 100_001),
        ("POST /_txn", 64 << 20),
        ("POST /4", 1 << 20),
        ("POST /_members", 1 << 20),
        ("PATCH /_members/4", 1 << 20),
    ];
    for (line, length) in table {
        let mut client = port.connect();
        client.send(format!("{line} HTTP/1.1\r\nContent-Length: {length}\r\n\r\n").as_bytes());
        let reply = client.reply(true);
        assert_eq!(reply.kind(), kind(413, "too_large"), "{line}");
        assert_eq!(reply.header("Connection"), Some("close"), "{line}");
    }
}

/// What follows a `#` is not part of a target, so that a client which forgets to encode one would
/// silently write another key.
#[test]
fn a_hash_is_not_cut_off() {
    let port = Port::open();
    for target in ["/a#b", "/a?ack=none#b", "/_kv/a#b", "/a#", "/_txn#", "http://h/a#b"] {
        for pieces in [1, 7, 1000] {
            let mut client = port.connect();
            assert_eq!(client.ask("PUT", "/k", b"#").status, 204);
            let request = format!("PUT {target} HTTP/1.1\r\nContent-Length: 1\r\n\r\nv");
            request.as_bytes().chunks(pieces).for_each(|piece| client.send(piece));
            let reply = client.reply(true);
            assert_eq!(reply.kind(), kind(400, "malformed"), "{target}");
            assert!(reply.json()["message"].as_str().unwrap().contains("%23"), "{target}");
            assert_eq!(client.ask("GET", "/a", b"").status, 404, "{target}: not cut");
        }
    }
    let mut client = port.connect();
    let request = client.ask_with("PUT", "/%23?ack=none", &["X: a#b"], b"#\n#");
    assert_eq!(request.status, 204, "elsewhere it is just a byte");
    assert_eq!(port.ask("GET", "/%23", b"").body, b"#\n#");
}
