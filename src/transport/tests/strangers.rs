//! Whoever is no member, or behaves like none: what it is told, and that it keeps nobody out.

use super::call::{MAX_CALLS, MAX_JOINS};
use super::listener::{HEAD_TIMEOUT, MAX_STRANGE, MAX_WAITING};
use super::snapshots::{SNAPSHOT, message, raw_request};
use super::*;

fn send(node: &Node, bytes: &[u8]) -> Raw {
    let mut raw = Raw::new(TcpStream::connect(node.address).unwrap());
    raw.socket.get_mut().write_all(bytes).unwrap();
    raw
}

/// The whole answer.
fn answer(node: &Node, bytes: &[u8]) -> String {
    String::from_utf8(send(node, bytes).read_end()).unwrap()
}

fn id_head(id: u64, to: u64) -> Vec<(String, String)> {
    let head = with(head(2, to), "x-raft-from", &id.to_string());
    with(head, "x-raft-incarnation", &format!("{:032x}", 5))
}

/// Nothing answers on this port but its own paths and methods, whatever is asked how: each answer
/// says who refuses, and nothing reaches the node.
#[test]
fn no_path_but_ours_answers() {
    let node = Node::start(1, &[]);
    let long = "a".repeat(MIB);
    let many = "a: b\r\n".repeat(200);
    let table = [
        ("GET / HTTP/1.1\r\nhost: a\r\n\r\n".to_owned(), 404),
        ("GET /metrics HTTP/1.1\r\nhost: a\r\n\r\n".into(), 404),
        ("PUT /key HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\n\r\nx".into(), 404),
        ("GET /raft HTTP/1.1\r\nhost: a\r\n\r\n".into(), 404),
        ("GET /raft/ HTTP/1.1\r\nhost: a\r\n\r\n".into(), 404),
        ("GET /raft/identity/ HTTP/1.1\r\nhost: a\r\n\r\n".into(), 404),
        ("GET //raft/identity HTTP/1.1\r\nhost: a\r\n\r\n".into(), 404),
        ("GET /raft/../raft/identity HTTP/1.1\r\nhost: a\r\n\r\n".into(), 404),
        ("GET /RAFT/IDENTITY HTTP/1.1\r\nhost: a\r\n\r\n".into(), 404),
        ("GET /raft/%69dentity HTTP/1.1\r\nhost: a\r\n\r\n".into(), 404),
        ("POST /raft/stream HTTP/1.1\r\nhost: a\r\n\r\n".into(), 404),
        ("POST /raft/stream/ HTTP/1.1\r\nhost: a\r\n\r\n".into(), 404),
        ("POST /raft/stream/bulk/ HTTP/1.1\r\nhost: a\r\n\r\n".into(), 404),
        ("POST /raft/stream/bulkcontrol HTTP/1.1\r\nhost: a\r\n\r\n".into(), 404),
        ("OPTIONS * HTTP/1.1\r\nhost: a\r\n\r\n".into(), 404),
        ("CONNECT a:1 HTTP/1.1\r\nhost: a\r\n\r\n".into(), 404),
        ("TRACE / HTTP/1.1\r\nhost: a\r\n\r\n".into(), 404),
        ("TRACE /raft/identity HTTP/1.1\r\nhost: a\r\n\r\n".into(), 405),
        ("POST /raft/identity HTTP/1.1\r\nhost: a\r\n\r\n".into(), 405),
        ("HEAD /raft/identity HTTP/1.1\r\nhost: a\r\n\r\n".into(), 405),
        ("GET /raft/stream/bulk HTTP/1.1\r\nhost: a\r\n\r\n".into(), 405),
        ("PUT /raft/stream/control HTTP/1.1\r\nhost: a\r\n\r\n".into(), 405),
        ("GET /raft/call HTTP/1.1\r\nhost: a\r\n\r\n".into(), 405),
        ("DELETE /raft/join HTTP/1.1\r\nhost: a\r\n\r\n".into(), 405),
        ("get /raft/identity HTTP/1.1\r\nhost: a\r\n\r\n".into(), 405),
        ("PATCH /raft/snapshot HTTP/1.1\r\nhost: a\r\n\r\n".into(), 405),
        ("POST /raft/call HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\n\r\nx".into(), 400),
        ("POST /raft/join HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\n\r\nx".into(), 400),
        // The same path by another name is the same path.
        ("GET http://other:1/raft/identity HTTP/1.1\r\nhost: a\r\n\r\n".into(), 200),
        ("GET /raft/identity?key=value HTTP/1.1\r\nhost: a\r\n\r\n".into(), 200),
        ("GET /raft/identity HTTP/1.0\r\n\r\n".into(), 200),
        ("GET http://other:1/metrics HTTP/1.1\r\nhost: a\r\n\r\n".into(), 404),
    ];
    for (request, status) in table {
        let told = answer(&node, request.as_bytes());
        let claims = told.contains("x-raft-cluster: 00000000000000c1\r\nx-raft-from: 1\r\n");
        let starts = format!(" {status} ");
        let first = told.lines().next().unwrap_or_default();
        assert!(first.contains(&starts) && claims, "{request:?} gave {told:?}");
    }
    // What is no HTTP/1 gets a bare status, or nothing.
    let table = [
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(), &["400", "505", ""][..]),
        ("GET /raft/identity\r\n\r\n".into(), &["400", ""]),
        ("GET /raft/identity HTTP/9.9\r\n\r\n".into(), &["400", "505", ""]),
        ("\0\u{1}\u{2}\r\n\r\n".into(), &["400", ""]),
        ("\u{16}\u{3}\u{1}\u{2}\0\u{1}\0".repeat(10), &["400", ""]),
        (format!("GET /{long} HTTP/1.1\r\n\r\n"), &["414", "431"]),
        (format!("GET / HTTP/1.1\r\na: {long}\r\n\r\n"), &["431"]),
        (format!("GET / HTTP/1.1\r\n{many}\r\n"), &["431"]),
        ("POST /raft/call HTTP/1.1\r\ncontent-length: -1\r\n\r\n".into(), &["400"]),
        (
            "POST /raft/call HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n".into(),
            &["400"],
        ),
    ];
    for (request, expected) in table {
        let mut raw = Raw::new(TcpStream::connect(node.address).unwrap());
        // It may be refused before it was written to its end.
        raw.socket.get_mut().write_all(request.as_bytes()).ok();
        raw.socket.get_ref().shutdown(std::net::Shutdown::Write).ok();
        let told = String::from_utf8(raw.read_end()).unwrap();
        let status = told.split(' ').nth(1).unwrap_or_default();
        let shown = &request[..request.len().min(60)];
        assert!(expected.contains(&status), "{shown:?} gave {told:?}");
    }
    assert!(node.inbox.is_empty(), "the node heard of it");
}

/// Connections that say nothing, or half a head, cost memory and a place; members get in all the
/// same, and the oldest of the silent ones make room (L5).
#[test]
fn silent_connections_keep_nobody_out() {
    let node = Node::start(1, &[]);
    let mut stream = Raw::dial_lane(&node, 2, "control");
    let half = b"POST /raft/stream/bulk HTTP/1.1\r\nx-raft-ver";
    let started = Instant::now();
    let mut silent = (0..2 * MAX_WAITING)
        .map(|nth| send(&node, if nth % 2 == 0 { b"" } else { half }))
        .collect::<Vec<_>>();
    drop(Raw::dial_lane(&node, 2, "bulk"));
    drop(Raw::dial_lane(&node, 3, "bulk"));
    assert!(answer(&node, b"GET /raft/identity HTTP/1.1\r\n\r\n").contains(" 200 "));
    silent[..MAX_WAITING].iter_mut().for_each(|raw| assert_eq!(raw.read_end(), b""));
    assert!(started.elapsed() < HEAD_TIMEOUT, "they ended by themselves, and made no room");
    // What was admitted has no place to lose.
    stream.write(&encoded(&heartbeat(2, 1, 7))).unwrap();
    assert_eq!(commit(&node.next_frame()), 7);
}

/// Streams under invented ids pass the gate: they give way to each other, never a member's to them
/// (L5).
#[test]
fn streams_of_strangers_give_way_to_each_other() {
    let node = Node::start(1, &[]);
    let mut member = Raw::dial_lane(&node, 2, "control");
    let dial = |id: u64| Raw::dial(&node, "/raft/stream/control", &id_head(id, 1), &[]);
    let mut strange = (0..MAX_STRANGE as u64 + 2).map(|nth| dial(100 + nth)).collect::<Vec<_>>();
    strange.iter().for_each(|raw| assert_eq!(raw.status(), 200));
    strange[..2].iter_mut().for_each(|raw| drop(raw.read_end()));
    for (from, raw) in [(2, &mut member), (102, &mut strange[2])] {
        raw.write(&encoded(&heartbeat(from, 1, from))).unwrap();
        assert_eq!(commit(&node.next_frame()), from);
    }
}

/// There may be many of them: what each may have delivered that the loop has not taken is a part of
/// what a member may (L3, L5).
#[test]
fn streams_of_strangers_have_a_smaller_budget() {
    let node = Node::start(1, &[]);
    let raw = Raw::dial(&node, "/raft/stream/control", &id_head(100, 1), &[]);
    let mut writer = Raw::new(raw.socket.get_ref().try_clone().unwrap());
    let writing =
        thread::spawn(move || (0..4).try_for_each(|n| writer.write(&encoded(&large(100, 1, n)))));
    let held = node.rest();
    assert_eq!(held.len(), 1, "frames of 1 MiB in a quarter of 4 MiB");
    drop(held);
    assert!((1..4).all(|nth| commit(&node.next_frame()) == nth));
    writing.join().unwrap().unwrap();
}

/// Strangers have few calls, few requests to join and not every place for snapshots.
#[test]
fn requests_of_strangers_leave_room_for_members() {
    let node = Node::start(1, &[]);
    let call = |id: u64| Raw::request(node.address, "POST /raft/call", &id_head(id, 1), 1, b"x");
    let status = |mut raw: Raw| {
        raw.read_head();
        raw.status()
    };
    let held = (0..MAX_JOINS as u64).map(|nth| call(100 + nth)).collect::<Vec<_>>();
    let taken = held.iter().map(|_| {
        node.next("a call", |inbound| match inbound {
            Inbound::Call { reply, .. } => Some(reply),
            _ => None,
        })
    });
    let taken = taken.collect::<Vec<_>>();
    assert_eq!(status(call(300)), 503);
    let members = (0..MAX_CALLS).map(|_| call(2)).collect::<Vec<_>>();
    for _ in &members {
        let reply = node.next("a member's call", |inbound| match inbound {
            Inbound::Call { from: 2, reply, .. } => Some(reply),
            _ => None,
        });
        reply.answer("yes".into());
    }
    members.into_iter().for_each(|raw| assert_eq!(status(raw), 200));
    drop((taken, held));

    let snapshot = |id: u64| {
        let (_, body) = raw_request(&message(id, 1), &[1; 5000]);
        let (fields, _) = raw_request(&message(2, 1), &[1; 5000]);
        let fields = with(fields, "x-raft-from", &id.to_string());
        Raw::request(node.address, SNAPSHOT, &fields, body.len(), &body[..body.len() - 1])
    };
    let _first = snapshot(100);
    eventually("one is received", || node.transport.transfers().1.len() == 1);
    assert_eq!(status(snapshot(101)), 503);
    let _member = snapshot(2);
    eventually("a member's as well", || node.transport.transfers().1.len() == 2);
}

/// A body that comes a byte at a time ends at its deadline, whatever it is the body of.
#[test]
fn slow_bodies_end_at_their_deadline() {
    let node = Node::on(1, bind().0, &[], Duration::from_millis(20));
    let (fields, body) = raw_request(&message(2, 1), &[1; 500_000]);
    let start = body.len() - 500_000;
    let join = with(with(head(6, 1), "x-raft-cluster", "0000000000000000"), "x-raft-to", "0");
    let len = body.len();
    let from_another = with(fields.clone(), "x-raft-from", "4");
    let slow = [
        Raw::request(node.address, "POST /raft/call", &head(3, 1), 900_000, b""),
        Raw::request(node.address, "POST /raft/call", &head(3, 1), 60_000, b"x"),
        Raw::request(node.address, "POST /raft/join", &join, 60_000, b"x"),
        Raw::request(node.address, SNAPSHOT, &from_another, len, &body[..5]),
        Raw::request(node.address, SNAPSHOT, &fields, len, &body[..start]),
    ];
    let ended = slow.map(|mut raw| {
        let mut writer = raw.socket.get_ref().try_clone().unwrap();
        let trickling = thread::spawn(move || {
            while writer.write_all(&[1; 10]).is_ok() {
                thread::sleep(Duration::from_millis(10));
            }
        });
        thread::spawn(move || {
            // What it is told may be lost: it is still writing.
            raw.read_end();
            trickling.join().unwrap();
        })
    });
    ended.into_iter().for_each(|ended| ended.join().unwrap());
    eventually("the places are free", || node.transport.transfers().1.is_empty());
    let told = node.rest();
    assert!(told.is_empty(), "{told:?}");
}
