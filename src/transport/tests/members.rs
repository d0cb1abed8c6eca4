//! Who is let in, who is dialled, and who is told what.

use std::collections::BTreeSet;

use super::*;

const BULK: &str = "/raft/stream/bulk";

fn hex(incarnation: u128) -> String {
    format!("{incarnation:032x}")
}

fn another_incarnation() -> Vec<(String, String)> {
    with(head(2, 1), "x-raft-incarnation", &hex(6))
}

/// One whose pins say that member 1 is another one.
fn knows_us_otherwise() -> Vec<(String, String)> {
    with(head(2, 1), "x-raft-pins", &format!("1={}", hex(0xbad)))
}

/// Somebody who was not wiped must not be let down by somebody who was: its second data directory
/// gets a 403 from whoever met the first one, at once and after any restart.
#[test]
fn a_wiped_member_is_refused_by_whoever_met_it() {
    let node = Node::start(1, &[]);
    drop(Raw::dial_lane(&node, 2, "bulk"));
    for path in [BULK, "/raft/call", "/raft/snapshot"] {
        let mut raw = Raw::dial(&node, path, &another_incarnation(), &[]);
        let text = String::from_utf8(raw.read_end()).unwrap();
        assert!(raw.status() == 403 && text.contains("under a new id"), "{path}: {text}");
    }
    assert!(node.rest().is_empty(), "it is no news for this member");
    drop(Raw::dial_lane(&node, 2, "bulk"));
}

/// The dialler judges the answers by the same rules and writes nothing to a wiped member.
#[test]
fn a_wiped_member_gets_nothing_from_whoever_dials_it() {
    let (node, fake) = node_and_fake(Duration::from_secs(5));
    drop(Raw::dial_lane(&node, 2, "bulk"));
    for raw in &mut Raw::accept_both(&fake) {
        raw.answer(&another_incarnation());
        assert_eq!(raw.read_end(), b"");
    }
    let rest = node.rest();
    let [Inbound::Distrusted { peer: 2, status: 403, message }] = &rest[..] else {
        panic!("{rest:?}")
    };
    assert!(message.contains("another data directory"), "{message}");
}

/// A member that lost its data directory must learn it from whoever says so first, and must not
/// make the other believe that *it* was wiped.
#[test]
fn a_wiped_member_learns_it_from_pins() {
    let (node, fake) = node_and_fake(Duration::from_secs(5));
    let told = || {
        node.next("the news", |inbound| match inbound {
            Inbound::Refused { peer: 2, status: 403, message } => Some(message),
            Inbound::Distrusted { .. } => panic!("{inbound:?}"),
            _ => None,
        })
    };
    let raw = Raw::dial(&node, BULK, &knows_us_otherwise(), &[]);
    assert_eq!(raw.status(), 412);
    assert!(told().contains("is lost"));
    for raw in &mut Raw::accept_both(&fake) {
        raw.answer(&knows_us_otherwise());
        assert_eq!(raw.read_end(), b"");
    }
    told();
    assert!(node.rest().is_empty(), "told once for both lanes");
}

/// A 403 or 410 ends a member: it must reach the node, once.
#[test]
fn refusals_are_told_once() {
    for (line, status) in [("403 Forbidden", 403), ("410 Gone", 410), ("503 Not Yet", 503)] {
        let (node, fake) = node_and_fake(Duration::from_secs(5));
        for raw in &mut Raw::accept_both(&fake) {
            raw.answer_whole(line, &head(2, 1), "so it is\n");
        }
        let rest = node.rest();
        let [Inbound::Refused { peer: 2, status: told, message }] = &rest[..] else {
            panic!("{rest:?}")
        };
        assert_eq!((*told, message.as_str()), (status, "so it is"));
    }
}

/// An address may have become a stranger's, and 403 and 410 mean something to any HTTP server: they
/// end a member only when the one that was dialled says them.
#[test]
fn a_strangers_refusal_ends_nobody() {
    let foreign = |name: &str| {
        let other = |(n, value): (String, String)| {
            (n.clone(), if n == name { "0000000000000009".into() } else { value })
        };
        head(2, 1).into_iter().map(other).collect::<Vec<_>>()
    };
    for head in [Vec::new(), head(3, 1), foreign("x-raft-cluster")] {
        for line in ["403 Forbidden", "410 Gone"] {
            let (node, fake) = node_and_fake(Duration::from_secs(5));
            for raw in &mut Raw::accept_both(&fake) {
                raw.answer_whole(line, &head, "not here\n");
            }
            let rest = node.rest();
            let [Inbound::Refused { peer: 2, status: 502, message }] = &rest[..] else {
                panic!("{rest:?}")
            };
            assert_eq!(message, "not here");
        }
    }
}

/// Removal is final: what was open ends, in both directions, and later attempts are told 410.
#[test]
fn removal_ends_streams_and_refuses_new_ones() {
    let (node, fake) = node_and_fake(Duration::from_secs(5));
    let [mut bulk, mut control] = Raw::accept_both(&fake);
    bulk.answer(&head(2, 1));
    control.answer(&head(2, 1));
    node.wait_connected(2);
    let mut incoming = Raw::dial_lane(&node, 2, "control");
    let mut other = Raw::dial_lane(&node, 3, "control");
    node.gate.set_book(BTreeMap::new(), [2].into());
    incoming.read_end();
    bulk.read_end();
    control.read_end();
    let mut again = Raw::dial(&node, BULK, &head(2, 1), &[]);
    let text = String::from_utf8(again.read_end()).unwrap();
    assert!(again.status() == 410 && text.contains("under a new one"), "{text}");
    node.next("the reason", |inbound| match inbound {
        Inbound::Distrusted { peer: 2, status: 410, .. } => Some(()),
        _ => None,
    });
    other.write(&encoded(&heartbeat(3, 1, 7))).unwrap();
    assert_eq!(commit(&node.next_frame()), 7);
}

/// A member that its leader found to have lost data hears of it although its streams are open, and
/// gets nothing on the lines that it is dialled on.
#[test]
fn a_member_that_lost_data_is_told_over_open_streams() {
    let (one, two) = pair();
    one.gate.mark_lost(2, "its log ends at 5, and it had acknowledged 9".into());
    let (peer, message) = two.next("the news", |inbound| match inbound {
        Inbound::Refused { peer, status: 403, message } => Some((peer, message)),
        _ => None,
    });
    let expected = "lost_data: its log ends at 5, and it had acknowledged 9";
    assert_eq!((peer, message.as_str()), (1, expected));
    let distrusted = one.next("the reason", |inbound| match inbound {
        Inbound::Distrusted { peer: 2, status: 403, message } => Some(message),
        _ => None,
    });
    assert_eq!(distrusted, expected);
    eventually("its lines end", || !one.transport.peers()[0].link.connected);
    one.transport.send(2, heartbeat(1, 2, 9));
    two.transport.send(1, heartbeat(2, 1, 9));
    let frames = |node: &Node| {
        node.rest().iter().filter(|inbound| matches!(inbound, Inbound::Frame { .. })).count()
    };
    assert_eq!((frames(&one), frames(&two)), (0, 0));
}

/// A registered incarnation rules as a pin does, also over a stream that is open.
#[test]
fn a_registered_incarnation_rules() {
    let node = Node::start(1, &[]);
    let mut raw = Raw::dial_lane(&node, 2, "control");
    node.gate.set_book([(2, Some(77))].into(), BTreeSet::new());
    raw.read_end();
    assert_eq!(Raw::dial(&node, BULK, &head(2, 1), &[]).status(), 403);
    let registered = with(head(2, 1), "x-raft-incarnation", &hex(77));
    assert_eq!(Raw::dial(&node, BULK, &registered, &[]).status(), 200);
}

/// Members tell each other whom they met, so a wiped member is found out by those who never met
/// it before.
#[test]
fn pins_are_passed_on() {
    let ((one, one_url), (two, two_url)) = (bind(), bind());
    let two = Node::on(2, two, &[(1, one_url)], Duration::from_secs(5));
    drop(Raw::dial_lane(&two, 3, "bulk"));
    let one = Node::on(1, one, &[(2, two_url)], Duration::from_secs(5));
    one.wait_connected(2);
    let wiped = with(head(3, 1), "x-raft-incarnation", &hex(6));
    assert_eq!(Raw::dial(&one, BULK, &wiped, &[]).status(), 403);
    assert_eq!(Raw::dial(&one, BULK, &head(3, 1), &[]).status(), 200);
}

// ---- guests ----

/// A vote for a candidate that our stale book does not name must find its way back.
#[test]
fn a_member_that_the_book_does_not_name_is_dialled_back() {
    let (listener, url) = bind();
    let stale = Node::on(1, listener, &[], Duration::from_secs(5));
    let newcomer = Node::on(2, bind().0, &[(1, url)], Duration::from_secs(5));
    newcomer.wait_connected(1);
    newcomer.transport.send(1, heartbeat(2, 1, 3));
    assert_eq!(commit(&stale.next_frame()), 3);
    eventually("the answer arrives", || {
        stale.transport.send(2, heartbeat(1, 2, 4));
        newcomer.inbox.try_iter().any(|inbound| matches!(inbound, Inbound::Frame { .. }))
    });
    assert!(stale.transport.peers().is_empty(), "a guest is no peer");
    // Its book catches up: the lines that are open stay.
    stale.transport.set_peers(&[(2, format!("http://{}", newcomer.address))]);
    assert!(stale.transport.peers()[0].link.connected);
}

/// Guests are bounded, and forgotten when they have gone.
#[test]
fn guests_are_bounded_and_leave() {
    let node = Node::on(1, bind().0, &[], Duration::from_millis(20));
    let guests = || lock(&node.transport.shared.peers).keys().copied().collect::<Vec<_>>();
    let from = |id: u64| {
        let head = with(head(2, 1), "x-raft-from", &id.to_string());
        Raw::dial(&node, BULK, &head, &[])
    };
    let streams = (2..2 + MAX_GUESTS as u64 + 4).map(from).collect::<Vec<_>>();
    assert_eq!(guests(), (2..2 + MAX_GUESTS as u64).collect::<Vec<_>>());
    let kept = streams.into_iter().next();
    eventually("those who have gone are forgotten", || guests() == [2]);
    drop(kept);
    eventually("all are forgotten", || guests().is_empty());
}

/// A member that moved while this one slept: the book's URL leads nowhere, the member itself says
/// where it is now.
#[test]
fn a_peer_that_moved_is_found_where_it_says_it_is() {
    let ((gone, old_url), (here, new_url)) = (bind(), bind());
    drop(gone);
    let node = Node::start(1, &[(2, old_url.clone())]);
    let moved = with(head(2, 1), "x-raft-peer-url", &new_url);
    let incoming = Raw::dial(&node, BULK, &moved, &[]);
    let mut both = Raw::accept_both(&here);
    both.iter_mut().for_each(|raw| raw.answer(&moved));
    node.wait_connected(2);
    assert_eq!(node.transport.peers()[0].url, old_url, "the book rules what is shown");
    node.transport.send(2, heartbeat(1, 2, 3));
    assert_eq!(both[1].read_frame(), heartbeat(1, 2, 3));
    drop(incoming);
}

/// A changed URL is written into the book before the member is started there: until then it must
/// not be cut off.
#[test]
fn a_peer_that_has_not_moved_yet_is_found_where_it_was() {
    let (gone, new_url) = bind();
    drop(gone);
    let (node, fake) = node_and_fake(Duration::from_secs(5));
    let incoming = Raw::dial_lane(&node, 2, "control");
    let _before = Raw::accept_both(&fake);
    node.transport.set_peers(&[(2, new_url)]);
    let mut both = Raw::accept_both(&fake);
    both.iter_mut().for_each(|raw| raw.answer(&head(2, 1)));
    node.wait_connected(2);
    drop(incoming);
}

/// The book rules: as long as it leads to the peer, a head that states another URL is not
/// followed.
#[test]
fn a_peer_that_is_where_the_book_says_is_not_sought_elsewhere() {
    let (node, fake) = node_and_fake(Duration::from_secs(5));
    let (elsewhere, url) = bind();
    let mut both = Raw::accept_both(&fake);
    both.iter_mut().for_each(|raw| raw.answer(&head(2, 1)));
    node.wait_connected(2);
    let _incoming = Raw::dial(&node, BULK, &with(head(2, 1), "x-raft-peer-url", &url), &[]);
    drop(both);
    let mut again = Raw::accept_both(&fake);
    again.iter_mut().for_each(|raw| raw.answer(&head(2, 1)));
    node.wait_connected(2);
    elsewhere.set_nonblocking(true).unwrap();
    assert!(elsewhere.accept().is_err());
}
