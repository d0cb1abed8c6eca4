//! Calls, requests to join, and probes.

use super::call::{MAX_CALL_BYTES, MAX_CALLS, MAX_JOINS};
use super::join::{JoinAnswer, JoinError, JoinHead, call_url};
use super::*;

fn soon() -> Instant {
    Instant::now() + PATIENCE
}

fn next_result(node: &Node) -> (u64, CallResult) {
    node.next("an answer", |inbound| match inbound {
        Inbound::Answered { tag, result } => Some((tag, result)),
        _ => None,
    })
}

fn next_call(node: &Node) -> (u64, Bytes, Option<u128>, CallReply) {
    node.next("a call", |inbound| match inbound {
        Inbound::Call { from, body, joining, reply } => Some((from, body, joining, reply)),
        _ => None,
    })
}

fn call(node: &Node, tag: u64, body: impl Into<Bytes>) {
    node.transport.call(2, tag, body.into(), soon());
}

/// What it is for, up to the largest call.
#[test]
fn a_call_is_answered() {
    let (one, two) = pair();
    for (tag, len) in [(1, 1), (2, MAX_CALL_BYTES)] {
        call(&one, tag, vec![7; len]);
        let (from, body, joining, reply) = next_call(&two);
        assert_eq!((from, body.len(), joining), (1, len, None));
        reply.answer("yes".into());
        assert_eq!(next_result(&one), (tag, CallResult::Answer("yes".into())));
    }
    assert!(one.rest().is_empty() && two.rest().is_empty(), "answered twice");
}

/// What certainly was not taken may be asked again elsewhere; so it must be certain (C2).
#[test]
fn a_call_that_reaches_nobody_was_not_sent() {
    let (gone, url) = bind();
    drop(gone);
    let node = Node::start(1, &[(2, url)]);
    let expect = |why: &str| {
        let (_, result) = next_result(&node);
        assert!(matches!(&result, CallResult::NotSent(text) if text.contains(why)), "{result:?}");
    };
    call(&node, 1, "x");
    expect("cannot connect");
    call(&node, 2, "");
    expect("0 bytes");
    call(&node, 3, vec![7; MAX_CALL_BYTES + 1]);
    expect("65537 bytes");
    node.transport.call(9, 4, "x".into(), soon());
    expect("no such member");
    let (fake, url) = bind();
    node.transport.set_peers(&[(2, url)]);
    call(&node, 5, "x");
    let (mut raw, _others) = Raw::accept_request(&fake, "POST /raft/call");
    raw.answer_whole("410 Gone", &head(2, 1), "removed");
    expect("410: removed");
    node.transport.call(2, 6, "x".into(), Instant::now() + A_WHILE);
    let (raw, _others) = Raw::accept_request(&fake, "POST /raft/call");
    expect("deadline");
    drop(raw);
    assert!(node.rest().iter().all(|inbound| !matches!(inbound, Inbound::Answered { .. })));
}

/// A leader that hangs accepts connections for as long as its system does. A call to it must end
/// while there is time to ask the next one.
#[test]
fn a_call_to_a_silent_peer_was_not_sent() {
    let (node, fake) = node_and_fake(Duration::from_millis(50));
    call(&node, 1, "x");
    let (raw, _others) = Raw::accept_request(&fake, "POST /raft/call");
    let (tag, result) = next_result(&node);
    let expected = CallResult::NotSent("the peer was silent for 100ms".into());
    assert_eq!((tag, result), (1, expected));
    drop(raw);
}

/// What may have been taken must never be called not sent.
#[test]
fn a_call_whose_answer_is_missing_is_lost() {
    let (one, two) = pair();
    call(&one, 1, "x");
    drop(next_call(&two));
    let (_, result) = next_result(&one);
    assert!(matches!(&result, CallResult::Lost(why) if why.contains("503")), "{result:?}");
    let (node, fake) = node_and_fake(Duration::from_secs(5));
    let expect_lost = |why: &str| {
        let (_, result) = next_result(&node);
        assert!(matches!(&result, CallResult::Lost(text) if text.contains(why)), "{result:?}");
    };
    call(&node, 2, "x");
    let (mut raw, _others) = Raw::accept_request(&fake, "POST /raft/call");
    raw.ask_for_the_body();
    raw.socket.read_exact(&mut [0]).unwrap();
    drop(raw);
    expect_lost("no answer");
    node.transport.call(2, 3, "x".into(), Instant::now() + A_WHILE);
    let (mut raw, _others) = Raw::accept_request(&fake, "POST /raft/call");
    raw.ask_for_the_body();
    raw.socket.read_exact(&mut [0]).unwrap();
    expect_lost("deadline");
    // An answer of somebody else is no answer.
    call(&node, 4, "x");
    let (mut raw, _others) = Raw::accept_request(&fake, "POST /raft/call");
    raw.ask_for_the_body();
    raw.answer_whole("200 OK", &head(3, 1), "yes");
    expect_lost("this is member 3");
}

/// A stopping node still accounts for its calls (C1).
#[test]
fn shutdown_ends_calls_and_probes() {
    let (node, fake) = node_and_fake(Duration::from_secs(5));
    call(&node, 1, "x");
    let (_raw, _others) = Raw::accept_request(&fake, "POST /raft/call");
    node.transport.probe(&format!("http://{}", fake.local_addr().unwrap()), 2);
    let Node { transport, inbox, .. } = node;
    transport.shutdown();
    let ends = inbox.try_iter().filter(|inbound| {
        matches!(inbound, Inbound::Answered { tag: 1, .. } | Inbound::Probed { tag: 2, .. })
    });
    assert_eq!(ends.count(), 2);
}

/// Calls that nobody answers must not pile up on either side.
#[test]
fn calls_are_bounded_on_both_sides() {
    let (one, two) = pair();
    (0..MAX_CALLS as u64).for_each(|tag| call(&one, tag, "x"));
    let held = (0..MAX_CALLS).map(|_| next_call(&two)).collect::<Vec<_>>();
    call(&one, 99, "x");
    let (tag, result) = next_result(&one);
    assert!(tag == 99 && matches!(result, CallResult::NotSent(_)), "{tag} {result:?}");
    let refused = Raw::request(two.address, "POST /raft/call", &head(3, 2), 1, b"x");
    let status = |mut raw: Raw| {
        raw.read_head();
        raw.status()
    };
    assert_eq!(status(refused), 503);
    // Streams still get in.
    drop(Raw::dial_lane(&two, 3, "control"));
    drop(held);
    (0..MAX_CALLS).for_each(|_| assert!(matches!(next_result(&one).1, CallResult::Lost(_))));
    let large = MAX_CALL_BYTES + 1;
    let oversize = Raw::request(two.address, "POST /raft/call", &head(3, 2), large, &[]);
    assert_eq!(status(oversize), 413);
}

// ---- joining ----

fn join_head(id: u64, incarnation: u128) -> JoinHead {
    let (peer_url, client_url) = ("http://127.0.0.1:9".into(), String::new());
    JoinHead { id, incarnation, peer_url, client_url }
}

/// Asks to join on a thread of its own.
fn join(node: &Node, head: JoinHead) -> thread::JoinHandle<Result<JoinAnswer, JoinError>> {
    let url = format!("http://{}", node.address);
    thread::spawn(move || call_url(&url, &head, "let me in".into(), soon()))
}

/// Whoever joins knows no cluster; the answer says which one it is. It is not pinned by asking.
#[test]
fn a_stranger_may_ask_to_join() {
    let node = Node::start(1, &[]);
    for incarnation in [8, 9] {
        let joining = join(&node, join_head(4, incarnation));
        let (from, body, joins, reply) = next_call(&node);
        assert_eq!((from, &*body, joins), (4, &b"let me in"[..], Some(incarnation)));
        reply.answer("welcome".into());
        let answer = JoinAnswer { cluster: CLUSTER, from: 1, body: "welcome".into() };
        assert_eq!(joining.join().unwrap(), Ok(answer));
    }
    assert!(node.rest().is_empty(), "nobody was met");
}

/// Those who cannot join are told why; those who were not heard can ask elsewhere.
#[test]
fn joining_is_refused_with_a_reason() {
    let node = Node::start(1, &[]);
    node.gate.set_book([(2, Some(22))].into(), [3].into());
    for (head, expected) in
        [(join_head(2, 23), 403), (join_head(3, 1), 410), (join_head(1, 1), 412)]
    {
        match join(&node, head).join().unwrap() {
            Err(JoinError::Refused { status, .. }) => assert_eq!(status, expected),
            other => panic!("{other:?}"),
        }
    }
    let head = join_head(4, 4);
    let dropped = join(&node, head.clone());
    drop(next_call(&node));
    assert!(matches!(dropped.join().unwrap(), Err(JoinError::Refused { status: 503, .. })));
    // Heads that leave cluster and addressee open pass nowhere else, and others do not pass here.
    let member = Raw::request(node.address, "POST /raft/join", &super::head(5, 1), 1, b"x");
    let open = with(super::head(5, 1), "x-raft-cluster", "0000000000000000");
    let open = with(open, "x-raft-to", "0");
    let stream = Raw::request(node.address, "POST /raft/call", &open, 1, b"x");
    for mut raw in [member, stream] {
        raw.read_head();
        assert_eq!(raw.status(), 400);
    }
    let held = (0..MAX_JOINS).map(|_| join(&node, head.clone())).collect::<Vec<_>>();
    let replies = held.iter().map(|_| next_call(&node)).collect::<Vec<_>>();
    let beyond = join(&node, head.clone()).join().unwrap();
    assert!(matches!(beyond, Err(JoinError::Refused { status: 503, .. })), "{beyond:?}");
    drop(replies);
    held.into_iter().for_each(|held| assert!(held.join().unwrap().is_err()));
    let (gone, url) = bind();
    drop(gone);
    let unreachable = call_url(&url, &head, "x".into(), soon());
    assert!(matches!(unreachable, Err(JoinError::Unreachable(_))), "{unreachable:?}");
    let (_silent, url) = bind();
    let silent = call_url(&url, &head, "x".into(), Instant::now() + A_WHILE);
    assert!(matches!(silent, Err(JoinError::Unreachable(_))), "{silent:?}");
}

// ---- probing ----

/// A URL is looked at before it enters the address book: its answer decides.
#[test]
fn probes_tell_members_from_strangers_and_nobody() {
    let node = Node::start(1, &[]);
    let member = Node::start(2, &[]);
    let (gone, gone_url) = bind();
    drop(gone);
    let (_silent, silent_url) = bind();
    let (stranger, stranger_url) = bind();
    let answering = thread::spawn(move || {
        let mut raw = Raw::accept(&stranger);
        raw.answer_whole("404 Not Found", &[], "nothing here");
        let mut raw = Raw::accept(&stranger);
        raw.answer_whole("200 OK", &[], "hello");
    });
    let url = |node: &Node| format!("http://{}", node.address);
    let of = |cluster, id, incarnation| ProbeResult::Member { cluster, id, incarnation };
    let table = [
        (url(&member), of(CLUSTER, 2, 2)),
        (gone_url, ProbeResult::Nobody),
        (silent_url, ProbeResult::Nobody),
        (stranger_url.clone(), ProbeResult::Stranger("HTTP 404".into())),
        (stranger_url, ProbeResult::Stranger("x-raft-version is missing".into())),
    ];
    for (nth, (url, expected)) in table.into_iter().enumerate() {
        node.transport.probe(&url, nth as u64);
        let (tag, result) = node.next("a result", |inbound| match inbound {
            Inbound::Probed { tag, result } => Some((tag, result)),
            _ => None,
        });
        assert_eq!((tag, result), (nth as u64, expected), "{url}");
    }
    answering.join().unwrap();
    assert!(member.rest().is_empty(), "the node is not bothered");
}
