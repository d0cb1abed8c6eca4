//! The original's verbs at the root, and how requests come in.

use std::time::Duration;

use raftnode::testing::Verdict;

use crate::port::{MAX_VALUE_BYTES, Options, Port, kind};

/// The main job: what is put is there, under exactly those bytes, and the headers say where.
#[test]
fn what_is_put_is_got_byte_for_byte() {
    let port = Port::open();
    let mut client = port.connect();
    let long = format!("/{}", "%ff".repeat(4096));
    let keys = ["/k", "/a%2Fb", "/%00", "/%C3%A9", "/%5Fx", "/a/../b", "/a+b", "/%252F"];
    let keys = keys.into_iter().chain([long.as_str(), "//", "/%20"]);
    for (count, key) in keys.clone().enumerate() {
        let reply = client.ask("PUT", key, key.as_bytes());
        assert_eq!((reply.status, reply.body.len()), (204, 0), "{key}");
        assert_eq!(reply.header("X-Raft-Index"), Some((count + 2).to_string().as_str()), "{key}");
        assert_eq!(reply.header("X-Raft-Term"), Some("1"));
        assert_eq!(reply.header("X-Raft-Leader"), None);
    }
    for key in keys {
        let reply = client.ask("GET", key, b"");
        assert_eq!((reply.status, reply.body), (200, key.as_bytes().to_vec()), "{key}");
    }
    // The same bytes in another spelling are the same key; slashes are only bytes.
    assert_eq!(client.ask("GET", "/%6b", b"").body, b"/k");
    assert_eq!(client.ask("GET", "/a/b", b"").body, b"/a%2Fb");
    assert_eq!(client.ask("GET", "http://h:1/k", b"").body, b"/k", "absolute form");
    assert_eq!(client.ask("GET", "/é", b"").body, b"/%C3%A9", "raw UTF-8");
}

/// Values are bytes: none, any, and as many as the limit says.
#[test]
fn values_are_any_bytes_up_to_the_limit() {
    let port = Port::open();
    let limit = vec![0xfe; MAX_VALUE_BYTES as usize];
    for value in [&b""[..], b"\0\r\n\xff", &limit] {
        let mut client = port.connect();
        assert_eq!(client.ask("PUT", "/v", value).status, 204);
        let reply = client.ask("GET", "/v", b"");
        assert_eq!((reply.status, &reply.body[..]), (200, value));
        assert_eq!(reply.header("Content-Type"), Some("application/octet-stream"));
    }
    let over = port.connect().ask("PUT", "/v", &vec![0; limit.len() + 1]);
    assert_eq!(over.kind(), kind(413, "too_large"));
    assert_eq!(port.ask("GET", "/v", b"").body, limit, "a refused value changes nothing");
}

/// A length that is too large is refused before the body is sent, and the connection is over.
#[test]
fn too_large_a_length_is_refused_before_the_body() {
    let port = Port::open();
    let mut client = port.connect();
    let head = format!("PUT /v HTTP/1.1\r\nContent-Length: {}\r\n", u64::MAX - 2);
    client.send(head.as_bytes());
    client.send(b"Expect: 100-continue\r\n\r\n");
    let reply = client.reply(true);
    assert_eq!(reply.kind(), kind(413, "too_large"));
    assert_eq!(reply.header("Connection"), Some("close"));
    assert!(client.is_closed());
}

/// Found by review: an answer to a body that nobody asked for ended the connection without saying
/// so, and the client's next request, on its way already, was lost without an outcome.
#[test]
fn a_body_that_is_not_asked_for_ends_the_connection_aloud() {
    let port = Port::open();
    for (line, status) in [
        ("PUT /v?cas=1", 400),
        ("PUT /_nope", 404),
        ("PATCH /v", 405),
        ("GET /v", 404),
        ("DELETE /_kv/v", 404),
    ] {
        let mut client = port.connect();
        client.send(format!("{line} HTTP/1.1\r\nContent-Length: 3\r\n").as_bytes());
        client.send(b"Expect: 100-continue\r\n\r\n");
        let reply = client.reply(true);
        assert_eq!((reply.status, reply.header("Connection")), (status, Some("close")), "{line}");
        assert!(client.is_closed(), "{line}");
    }
    let mut client = port.connect();
    for _ in 0..2 {
        client.send(b"PUT /v HTTP/1.1\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\n");
        assert_eq!(client.reply(false).status, 100);
        client.send(b"v");
        let reply = client.reply(true);
        assert_eq!((reply.status, reply.header("Connection")), (204, None));
    }
    // Nothing is held back where there is nothing.
    let reply = client.ask_with("GET", "/v", &["Expect: 100-continue"], b"");
    assert_eq!((reply.status, reply.header("Connection")), (200, None));
}

/// A body of unannounced length is cut where the limit is.
#[test]
fn chunked_bodies_have_the_same_limit() {
    let port = Port::open();
    let put = |length: u64| {
        let mut client = port.connect();
        client.send(b"PUT /v HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n");
        let chunk = [7; 1000];
        for start in (0..length).step_by(chunk.len()) {
            let chunk = &chunk[..chunk.len().min((length - start) as usize)];
            client.send(format!("{:x}\r\n", chunk.len()).as_bytes());
            client.send(chunk);
            client.send(b"\r\n");
        }
        client.send(b"0\r\n\r\n");
        (client.reply(true), client)
    };
    assert_eq!(put(MAX_VALUE_BYTES).0.status, 204);
    assert_eq!(port.ask("GET", "/v", b"").body.len() as u64, MAX_VALUE_BYTES);
    let (reply, mut client) = put(MAX_VALUE_BYTES + 1);
    assert_eq!(reply.kind(), kind(413, "too_large"));
    assert_eq!(reply.header("Connection"), Some("close"));
    assert!(client.is_closed());
}

/// A body that stops arriving ends at the request's deadline.
#[test]
fn a_body_that_stops_arriving_is_refused() {
    let port = Port::open_with(Options {
        request_timeout: Duration::from_millis(50),
        ..Options::default()
    });
    let mut client = port.connect();
    client.send(b"PUT /v HTTP/1.1\r\nContent-Length: 2\r\n\r\nx");
    assert_eq!(client.reply(true).kind(), kind(400, "malformed"));
    assert_eq!(port.ask("GET", "/v", b"").status, 404);
}

/// A chunk that is no chunk is the sender's mistake.
#[test]
fn a_broken_encoding_is_malformed() {
    let port = Port::open();
    let mut client = port.connect();
    client.send(b"PUT /v HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n");
    assert_eq!(client.reply(true).kind(), kind(400, "malformed"));
    assert!(client.is_closed());
}

/// Every mistake in a request is a JSON answer, and the connection goes on.
#[test]
fn mistakes_are_answered_and_the_connection_lives() {
    let port = Port::open();
    let mut client = port.connect();
    let long = format!("/{}", "k".repeat(4097));
    let table = [
        ("GET", "/", 400, "malformed"),
        ("PUT", "/", 400, "malformed"),
        ("PUT", "/%4", 400, "malformed"),
        ("PUT", "/%zz", 400, "malformed"),
        ("PUT", &long, 400, "malformed"),
        ("GET", "/k?x=1", 400, "malformed"),
        ("GET", "/k?consistency=strong", 400, "malformed"),
        ("PUT", "/k?ack=none&ack=none", 400, "malformed"),
        ("PUT", "/k?trace=yes", 400, "malformed"),
        ("PUT", "/k?trace=1&ack=none", 400, "malformed"),
        ("GET", "/k?trace=1", 400, "malformed"),
        ("GET", "/absent", 404, "not_found"),
        ("GET", "/_nope", 404, "not_found"),
        ("PUT", "/_nope", 404, "not_found"),
        ("PATCH", "/k", 405, "method_not_allowed"),
        ("PUT", "/_status", 405, "method_not_allowed"),
        ("POST", "/x", 400, "malformed"),
        ("POST", "/0", 400, "malformed"),
        ("POST", "/4", 400, "malformed"),
        ("DELETE", "/k", 400, "malformed"),
        ("DELETE", "/4?force=no", 400, "malformed"),
        ("GET", "/_members/4", 405, "method_not_allowed"),
    ];
    for (method, target, status, name) in table {
        let body: &[u8] = if method == "PUT" || method == "POST" { b"v" } else { b"" };
        let reply = client.ask(method, target, body);
        assert_eq!(reply.kind(), kind(status, name), "{method} {target}");
        let allow = match (status, target) {
            (405, "/_status") => Some("GET"),
            (405, "/_members/4") => Some("PATCH, DELETE"),
            (405, _) => Some("PUT, GET, POST, DELETE"),
            _ => None,
        };
        assert_eq!(reply.header("Allow"), allow, "{method} {target}");
    }
    assert!(client.ask("POST", "/x", b"http://a:1").json()["message"] == "bad id (not a u64 > 0)");
    assert_eq!(client.ask("HEAD", "/k", b"").status, 405);
    assert_eq!(client.ask("PUT", "/k", b"v").status, 204, "still the same connection");
}

/// What is not HTTP is cut off with a bare status: nobody can say where its request would end.
#[test]
fn what_is_no_request_is_cut_off() {
    let port = Port::open();
    let requests: [&[u8]; 5] = [
        b"PUT /k HTTP/1.1\r\nIdempotency-Key: a\0b\r\nContent-Length: 0\r\n\r\n",
        b"PUT /k HTTP/1.1\r\nIdempotency-Key: a\x7fb\r\nContent-Length: 0\r\n\r\n",
        b"PUT /\0 HTTP/1.1\r\nContent-Length: 0\r\n\r\n",
        b"PUT /k HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"what is this\r\n\r\n",
    ];
    for request in requests {
        let mut client = port.connect();
        client.send(request);
        let reply = client.reply(true);
        assert_eq!((reply.status, reply.body.len()), (400, 0), "{request:?}");
        assert!(client.is_closed());
    }
    assert_eq!(port.ask("GET", "/k", b"").status, 404);
}

/// Requests that are sent together are answered one by one, in their order.
#[test]
fn pipelined_requests_are_answered_in_order() {
    let port = Port::open();
    let mut client = port.connect();
    client.send(
        b"PUT /a HTTP/1.1\r\nContent-Length: 1\r\n\r\n1GET /a HTTP/1.1\r\n\r\n\
          GET /b HTTP/1.1\r\n\r\nPUT /b HTTP/1.1\r\nContent-Length: 0\r\n\r\n\
          GET /b HTTP/1.1\r\n\r\n",
    );
    let statuses = [0; 5].map(|_| client.reply(true).status);
    assert_eq!(statuses, [204, 200, 404, 204, 200]);
}

/// Old and half-closed clients get their answer too.
#[test]
fn old_and_half_closed_clients_are_answered() {
    let port = Port::open();
    let mut client = port.connect();
    client.send(b"PUT /k HTTP/1.0\r\nContent-Length: 1\r\n\r\nv");
    assert_eq!(client.reply(true).status, 204);
    assert!(client.is_closed());
    let mut client = port.connect();
    client.send(b"GET /k HTTP/1.1\r\n\r\n");
    client.stream.get_ref().shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(client.reply(true).body, b"v");
}

/// The original answered on acceptance; who asks for that gets it, and no promise.
#[test]
fn ack_none_is_answered_on_acceptance() {
    let port = Port::open();
    port.node.decide(Verdict::Hold);
    let reply = port.ask("PUT", "/k?ack=none", b"v");
    assert_eq!((reply.status, reply.header("X-Raft-Index")), (204, None));
}

/// While the log is replayed there is nothing to see, not even for a stale read: a key that is only
/// not there yet is not called absent. No test noticed when it was.
#[test]
fn a_replay_shows_nothing_to_a_stale_read() {
    let port = Port::open_with(Options {
        request_timeout: Duration::from_millis(100),
        commit_index: 2,
        ..Options::default()
    });
    let mut client = port.connect();
    for target in ["/k?consistency=stale", "/_kv/?consistency=stale"] {
        assert_eq!(client.ask("GET", target, b"").kind(), kind(503, "unavailable"), "{target}");
    }
    assert_eq!(client.ask("PUT", "/k", b"v").header("X-Raft-Index"), Some("2"));
    assert_eq!(client.ask("GET", "/k?consistency=stale", b"").body, b"v");
}

/// A read says what it saw, and waits for what it asked to see.
#[test]
fn reads_say_what_they_saw() {
    let port = Port::open_with(Options {
        request_timeout: Duration::from_millis(100),
        ..Options::default()
    });
    let mut client = port.connect();
    assert_eq!(client.ask("PUT", "/k", b"v").header("X-Raft-Index"), Some("2"));
    for (query, consistency) in [
        ("", "linearizable"),
        ("?consistency=linearizable", "linearizable"),
        ("?consistency=leader", "leader"),
        ("?consistency=stale", "stale"),
        ("?consistency=stale&min-index=2", "stale"),
        ("?min-index=2", "linearizable"),
    ] {
        for key in ["/k", "/absent"] {
            let reply = client.ask("GET", &format!("{key}{query}"), b"");
            assert_eq!(reply.status, if key == "/k" { 200 } else { 404 });
            assert_eq!(reply.header("X-Raft-Consistency"), Some(consistency));
            assert_eq!(reply.header("X-Raft-Applied-Index"), Some("2"));
            assert_eq!(reply.header("X-Raft-Term"), Some("1"));
        }
    }
    for target in [
        "/k?consistency=stale&min-index=3",
        "/k?consistency=leader&min-index=3",
        "/k?min-index=3",
        "/_kv/?min-index=3",
    ] {
        let reply = client.ask("GET", target, b"");
        assert_eq!(reply.kind(), kind(503, "unavailable"), "{target}");
    }
}
