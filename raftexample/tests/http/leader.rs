//! Who leads, handing that over, and the eighteen strings.

use raftnode::membership::{ChangeRefusal, ChangeRefusalKind};
use raftnode::{Role, Transferred};
use serde_json::json;

use crate::port::{Port, kind};

/// Whoever asks for the leader hears where to go, or that there is nowhere to go yet.
#[test]
fn the_leader_is_named_with_its_url() {
    let port = Port::open();
    let mut client = port.connect();
    let nobody = client.ask("GET", "/_leader", b"");
    assert_eq!(nobody.kind(), kind(503, "no_leader"));
    assert_eq!(nobody.header("Retry-After"), Some("1"));
    port.node.update_status(|status| (status.leader_id, status.term) = (2, 7));
    let reply = client.ask("GET", "/_leader", b"");
    assert_eq!((reply.status, reply.json()), (200, json!({"id": 2, "url": null, "term": 7})));
    port.node.update_status(|status| {
        (status.leader_id, status.role) = (1, Role::Leader);
        status.client_urls.insert(1, "http://a:9121".into());
    });
    let expected = json!({"id": 1, "url": "http://a:9121", "term": 7});
    assert_eq!(client.ask("GET", "/_leader", b"").json(), expected);
}

/// A hand-over goes to whom it says, and every way that it may end has its answer.
#[test]
fn a_hand_over_ends_as_it_is_told() {
    let port = Port::open();
    let mut client = port.connect();
    for (target, to) in [("/_leader", None), ("/_leader?to=3", Some(3))] {
        let reply = client.ask("POST", target, b"");
        assert_eq!((reply.status, reply.body.len()), (204, 0), "{target}");
        assert_eq!(port.node.take_transfers(), [to], "{target}");
    }
    for target in ["/_leader?to=0", "/_leader?to=x", "/_leader?to=", "/_leader?to=1&to=2"] {
        assert_eq!(client.ask("POST", target, b"").kind(), kind(400, "malformed"), "{target}");
    }
    assert_eq!(port.node.take_transfers(), [], "what is refused here goes no further");
    let table = [
        (ChangeRefusalKind::NotFound, 404, "not_found"),
        (ChangeRefusalKind::Conflict, 409, "conflict"),
        (ChangeRefusalKind::Removed, 410, "removed"),
        (ChangeRefusalKind::NoLeader, 503, "no_leader"),
        (ChangeRefusalKind::Failed, 503, "unavailable"),
        (ChangeRefusalKind::Overloaded, 503, "overloaded"),
        (ChangeRefusalKind::ShuttingDown, 503, "shutting_down"),
    ];
    for (refused, status, name) in table {
        let refusal = ChangeRefusal { kind: refused, message: "the reason".into() };
        port.node.decide_transfers(Transferred::Refused(refusal));
        let reply = port.ask("POST", "/_leader?to=2", b"");
        assert_eq!(reply.kind(), kind(status, name));
        assert_eq!(reply.json()["message"], "the reason");
        assert_eq!(reply.header("Retry-After"), (status == 503).then_some("1"), "{name}");
    }
}

/// Dashboards know these keys, and that every value is a string.
#[test]
fn stats_are_the_eighteen_strings() {
    let port = Port::open();
    let stats = port.ask("GET", "/_stats", b"").json();
    let strings = stats.as_object().unwrap();
    let mut keys: Vec<_> = strings.keys().map(String::as_str).collect();
    keys.sort_unstable();
    let expected = [
        "applied_index",
        "commit_index",
        "fsm_pending",
        "last_contact",
        "last_log_index",
        "last_log_term",
        "last_snapshot_index",
        "last_snapshot_term",
        "latest_configuration",
        "latest_configuration_index",
        "num_peers",
        "protocol_version",
        "protocol_version_max",
        "protocol_version_min",
        "snapshot_version_max",
        "snapshot_version_min",
        "state",
        "term",
    ];
    assert_eq!(keys, expected);
    assert!(strings.values().all(serde_json::Value::is_string), "{stats}");
    assert_eq!((&stats["state"], &stats["term"]), (&"Follower".into(), &"1".into()));
}
