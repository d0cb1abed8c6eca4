//! Who is a member, what a member says of itself, and changes of that.

use std::time::{Duration, Instant};

use raftnode::membership::{
    Book, Change, ChangeOptions, ChangeRefusal, ChangeRefusalKind, Changed, Founder, MemberRole,
};
use raftnode::{Refusal, Role, SnapshotTaken, Transfer, Unknown};

use crate::port::{Options, Port, kind};

/// A member's row as everyone but a leader shows it.
fn member(id: u64, url: &str) -> serde_json::Value {
    serde_json::json!({"id": id, "url": url, "role": "voter", "wants": "voter", "match": null,
        "lag": null, "live": null, "incarnation": null})
}

/// The contract's keys, in its types.
#[test]
fn status_has_the_keys_of_the_contract() {
    let port = Port::open();
    let mut client = port.connect();
    assert_eq!(client.ask("PUT", "/k", b"v").status, 204);
    let expected = serde_json::json!({
        "id": 1, "cluster_id": "0000000000000abc", "role": "follower", "term": 1, "leader": null,
        "commit_index": 2, "applied_index": 2, "last_index": 2, "snapshot_index": 0,
        "members": [member(1, "http://127.0.0.1:9021")],
        "snapshot": {"index": 0, "bytes": 0, "taking": false}, "sending": [], "receiving": [],
    });
    assert_eq!(client.ask("GET", "/_status", b"").json(), expected);
    port.node.update_status(|status| {
        (status.role, status.leader_id) = (Role::Leader, 1);
        status.client_urls.insert(1, "http://127.0.0.1:9121".into());
        (status.snapshot_index, status.snapshot_bytes) = (7, 99);
        status.taking_snapshot = true;
        status.sending = vec![Transfer { peer: 2, index: 7, bytes: 50, total: 99 }];
        status.receiving = vec![Transfer { peer: 3, index: 8, bytes: 0, total: 0 }];
    });
    let status = client.ask("GET", "/_status", b"").json();
    assert_eq!(status["role"], "leader");
    assert_eq!(status["leader"], serde_json::json!({"id": 1, "url": "http://127.0.0.1:9121"}));
    let snapshot = serde_json::json!({"index": 7, "bytes": 99, "taking": true});
    assert_eq!(status["snapshot"], snapshot);
    let sending = serde_json::json!([{"to": 2, "index": 7, "bytes": 50, "total": 99,
        "percent": 50}]);
    assert_eq!(status["sending"], sending);
    let receiving = serde_json::json!([{"from": 3, "index": 8, "bytes": 0, "total": 0,
        "percent": 0}]);
    assert_eq!(status["receiving"], receiving);
}

/// What only a leader knows is there on a leader, and null elsewhere, whatever is left over.
#[test]
fn members_have_the_keys_of_the_contract() {
    let port = Port::open();
    let mut client = port.connect();
    port.node.update_status(|status| {
        let founder = |id| Founder { id, url: format!("http://h:{id}") };
        status.book = Book::founding(&[founder(1), founder(2)]);
        let learner = status.book.members.get_mut(&2).unwrap();
        (learner.role, learner.incarnation) = (MemberRole::Learner, Some(0xbeef));
        status.last_index = 9;
        status.matched = [(1, 9)].into();
        status.live = [1].into();
    });
    let mut second = member(2, "http://h:2");
    second["role"] = "learner".into();
    second["incarnation"] = "0000000000000000000000000000beef".into();
    let mut first = member(1, "http://h:1");
    let shown = |first, second| serde_json::json!({"members": [first, second]});
    let follower = client.ask("GET", "/_members", b"").json();
    assert_eq!(follower, shown(first.clone(), second.clone()));
    port.node.update_status(|status| status.role = Role::Leader);
    (first["match"], first["lag"], first["live"]) = (9.into(), 0.into(), true.into());
    second["live"] = false.into();
    assert_eq!(client.ask("GET", "/_members", b"").json(), shown(first, second));
    port.node.update_status(|status| status.matched.extend([(2, 4)]));
    let leader = client.ask("GET", "/_members", b"").json();
    let second = &leader["members"][1];
    assert_eq!((&second["match"], &second["lag"]), (&4.into(), &5.into()));
}

/// Every spelling of a change becomes that change, with normalised URLs and its flags, and is
/// answered with the index at which it is made.
#[test]
fn membership_calls_are_the_changes_they_say() {
    let port = Port::open();
    let mut client = port.connect();
    let url = || "http://h:1".to_owned();
    let (voter, learner) = (MemberRole::Voter, MemberRole::Learner);
    let add = |id, wants| Change::Add { id, url: url(), wants };
    let plain = ChangeOptions::default();
    let forced = ChangeOptions { force: true, ..plain };
    let table = [
        ("POST", "/4", "http://h:1", add(4, voter), plain),
        ("POST", "/4?force", " http://H:1/\n", add(4, voter), forced),
        ("DELETE", "/4", "", Change::Remove { id: 4 }, plain),
        ("DELETE", "/4?force=true", "", Change::Remove { id: 4 }, forced),
        ("POST", "/_members", r#"{"id":4,"url":"http://h:1"}"#, add(4, voter), plain),
        (
            "POST",
            "/_members",
            r#"{"url":"http://h:1","role":"voter","id":4}"#,
            add(4, voter),
            plain,
        ),
        (
            "POST",
            "/_members",
            r#"{"id":4,"url":"http://h:1","role":"learner"}"#,
            add(4, learner),
            { plain },
        ),
        (
            "PATCH",
            "/_members/4",
            r#"{"role":"learner"}"#,
            { Change::Update { id: 4, wants: Some(learner), url: None } },
            plain,
        ),
        (
            "PATCH",
            "/_members/4?force",
            r#"{"role":"voter","url":"http://h:1"}"#,
            { Change::Update { id: 4, wants: Some(voter), url: Some(url()) } },
            forced,
        ),
        ("DELETE", "/_members/18446744073709551615", "", Change::Remove { id: u64::MAX }, plain),
    ];
    for (method, target, body, change, options) in table {
        let book = Book::default();
        port.node.decide_changes(Changed::Done { index: 1, term: 3, book });
        let reply = client.ask(method, target, body.as_bytes());
        assert_eq!((reply.status, reply.body.len()), (204, 0), "{method} {target} {body}");
        assert_eq!(reply.header("X-Raft-Index"), Some("1"), "{method} {target}");
        assert_eq!(reply.header("X-Raft-Term"), Some("3"), "{method} {target}");
        assert_eq!(port.node.take_changes(), [(change, options)], "{method} {target} {body}");
    }
}

/// A body that is not understood changes nothing, and its sender hears what is wrong with it.
#[test]
fn membership_bodies_are_read_strictly() {
    let port = Port::open();
    let mut client = port.connect();
    let long = format!(r#"{{"id":4,"url":"http://{}:1"}}"#, "h".repeat(5000));
    let table = [
        ("POST", "/4", "", 400, "URL"),
        ("POST", "/4", "h:1", 400, "http://host:port"),
        ("POST", "/4", "http://h:1/path", 400, "more than a host"),
        ("POST", "/4", &long, 413, "4096"),
        ("POST", "/_members", "", 400, "EOF"),
        ("POST", "/_members", "http://h:1", 400, "expected"),
        ("POST", "/_members", r#"[4,"http://h:1","voter"]"#, 400, "object"),
        ("POST", "/_members", r#"{"id":4}"#, 400, "url"),
        ("POST", "/_members", r#"{"url":"http://h:1"}"#, 400, "id"),
        ("POST", "/_members", r#"{"id":0,"url":"http://h:1"}"#, 400, "bad id"),
        ("POST", "/_members", r#"{"id":-1,"url":"http://h:1"}"#, 400, "u64"),
        ("POST", "/_members", r#"{"id":4.0,"url":"http://h:1"}"#, 400, "u64"),
        ("POST", "/_members", r#"{"id":"4","url":"http://h:1"}"#, 400, "u64"),
        ("POST", "/_members", r#"{"id":4,"id":5,"url":"http://h:1"}"#, 400, "duplicate"),
        ("POST", "/_members", r#"{"id":4,"url":"h:1"}"#, 400, "http://host:port"),
        ("POST", "/_members", r#"{"id":4,"url":"http://h:1","rol":"voter"}"#, 400, "rol"),
        ("POST", "/_members", r#"{"id":4,"url":"http://h:1","role":"leader"}"#, 400, "leader"),
        ("POST", "/_members", r#"{"id":4,"url":"http://h:1"}{}"#, 400, "trailing"),
        ("POST", "/_members", &long, 413, "4096"),
        ("PATCH", "/_members/4", "{}", 400, "neither"),
        ("PATCH", "/_members/4", r#"{"id":4}"#, 400, "id"),
        ("PATCH", "/_members/4", r#"{"url":""}"#, 400, "URL"),
        ("PATCH", "/_members/4", r#"{"role":"Voter"}"#, 400, "Voter"),
    ];
    for (method, target, body, status, expected) in table {
        let reply = client.ask(method, target, body.as_bytes());
        assert_eq!(reply.status, status, "{method} {target} {body}");
        let message = reply.json()["message"].as_str().unwrap().to_owned();
        assert!(message.contains(expected), "{method} {target} {body}: {message}");
        if status == 413 {
            client = port.connect();
        }
    }
    let reply = client.ask("POST", "/_members", b"\xff");
    assert_eq!(reply.kind(), kind(400, "malformed"));
    assert_eq!(port.node.take_changes(), []);
}

/// Each way that a change may end has its own answer; nothing but `unknown` leaves it open.
#[test]
fn each_ending_of_a_change_has_its_answer() {
    use ChangeRefusalKind as Kind;
    let port = Port::open();
    port.node.update_status(|status| {
        status.leader_id = 2;
        status.client_urls.insert(2, "http://b:9121".into());
    });
    let table = [
        (Kind::Invalid, 400, "malformed"),
        (Kind::OtherIncarnation, 403, "other_incarnation"),
        (Kind::NotFound, 404, "not_found"),
        (Kind::Pending, 409, "pending_change"),
        (Kind::Unsafe, 409, "unsafe_change"),
        (Kind::Conflict, 409, "conflict"),
        (Kind::Removed, 410, "removed"),
        (Kind::NoLeader, 503, "no_leader"),
        (Kind::Overloaded, 503, "overloaded"),
        (Kind::ShuttingDown, 503, "shutting_down"),
    ];
    let calls: [(&str, &str, &[u8]); 5] = [
        ("POST", "/4", b"http://h:1"),
        ("DELETE", "/4", b""),
        ("POST", "/_members", br#"{"id":4,"url":"http://h:1"}"#),
        ("PATCH", "/_members/4", br#"{"role":"voter"}"#),
        ("DELETE", "/_members/4", b""),
    ];
    for (refused, status, name) in table {
        let refusal = ChangeRefusal { kind: refused, message: "the reason".into() };
        port.node.decide_changes(Changed::Refused(refusal));
        for (method, target, body) in calls {
            let reply = port.ask(method, target, body);
            assert_eq!(reply.kind(), kind(status, name), "{method} {target}");
            assert_eq!(reply.json()["message"], "the reason");
            let leads = (status == 503).then_some("2 http://b:9121");
            assert_eq!(reply.header("X-Raft-Leader"), leads, "{name}");
            assert_eq!(reply.header("Retry-After"), leads.map(|_| "1"), "{name}");
            let closes = (name == "shutting_down").then_some("close");
            assert_eq!(reply.header("Connection"), closes, "{name}");
        }
    }
    port.node.decide_changes(Changed::Unknown(Unknown::Deadline));
    assert_eq!(port.ask("DELETE", "/4", b"").kind(), kind(504, "unknown"));
}

/// The leader has made the change: the member that was asked answers when it shows it as well, or when
/// the request's time is up. No test noticed when it did not wait.
#[test]
fn a_change_is_answered_when_it_shows_here() {
    let request_timeout = Duration::from_millis(500);
    let port = Port::open_with(Options { request_timeout, ..Options::default() });
    let mut client = port.connect();
    // Index 1 is applied here, and index 2 never is.
    for (index, waits) in [(1, false), (2, true)] {
        port.node.decide_changes(Changed::Done { index, term: 1, book: Book::default() });
        let asked = Instant::now();
        assert_eq!(client.ask("DELETE", "/4", b"").index(), Some(index));
        assert!(
            !waits || asked.elapsed() >= request_timeout,
            "answered after {:?}",
            asked.elapsed()
        );
    }
}

/// A dry run shows who would be left, and asks the node for no more than that.
#[test]
fn a_dry_run_shows_what_would_be_left() {
    let port = Port::open();
    let book = Book::founding(&[Founder { id: 7, url: "http://h:7".into() }]);
    port.node.decide_changes(Changed::Done { index: 5, term: 1, book });
    let dry_run = ChangeOptions { force: false, dry_run: true };
    for target in ["/4?dry_run", "/4?dry_run=true", "/_members/4?dry_run"] {
        let reply = port.ask("DELETE", target, b"");
        assert_eq!(reply.status, 200, "{target}");
        let left = serde_json::json!({"members": [member(7, "http://h:7")]});
        assert_eq!(reply.json(), left, "{target}");
        assert_eq!(port.node.take_changes(), [(Change::Remove { id: 4 }, dry_run)], "{target}");
    }
}

/// A snapshot on demand says what it holds, or why there is none.
#[test]
fn a_snapshot_says_what_it_holds() {
    let port = Port::open();
    let mut client = port.connect();
    assert_eq!(client.ask("PUT", "/k", b"v").status, 204);
    let reply = client.ask("POST", "/_snapshot", b"");
    assert_eq!((reply.status, reply.json()), (200, serde_json::json!({"index": 2, "term": 1})));
    let table = [
        (Refusal::Overloaded, 503, "overloaded"),
        (Refusal::Unavailable, 503, "unavailable"),
        (Refusal::ShuttingDown, 503, "shutting_down"),
    ];
    for (refusal, status, name) in table {
        port.node.decide_snapshots(SnapshotTaken::Refused(refusal));
        assert_eq!(port.ask("POST", "/_snapshot", b"").kind(), kind(status, name));
    }
}
