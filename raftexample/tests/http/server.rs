//! Connections, and what operators ask for.

use std::time::Duration;

use crate::port::{Options, Port, kind};

/// Scrapers get what they asked for: the node's numbers and the client port's own, whose labels
/// hold nothing that a client chose.
#[test]
fn metrics_count_requests_by_route_and_status() {
    let port = Port::open();
    let mut client = port.connect();
    for (method, target) in [("PUT", "/k"), ("PUT", "/k"), ("GET", "/absent"), ("GET", "/_nope")] {
        client.ask(method, target, b"v");
    }
    let reply = client.ask("GET", "/_metrics", b"");
    let openmetrics = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    assert_eq!((reply.status, reply.header("Content-Type")), (200, Some(openmetrics)));
    let text = std::str::from_utf8(&reply.body).unwrap();
    for line in [
        "http_requests_total{route=\"put\",class=\"2xx\"} 2",
        "http_requests_total{route=\"get\",class=\"4xx\"} 1",
        "http_requests_total{route=\"none\",class=\"4xx\"} 1",
        "http_request_seconds_count{route=\"put\",class=\"2xx\"} 2",
        "raft_proposals_total{outcome=\"applied\",reason=\"\"} 2",
        "raft_term 1",
    ] {
        assert!(text.lines().any(|found| found == line), "no {line:?} in\n{text}");
    }
    assert!(text.contains(&format!("version=\"{}", env!("CARGO_PKG_VERSION"))), "{text}");
    assert!(text.ends_with("# EOF\n"));
}

/// Alive, ready and which build: three questions, three answers.
#[test]
fn health_ready_and_version_answer() {
    let port = Port::open();
    let mut client = port.connect();
    assert_eq!(client.ask("GET", "/_health", b"").status, 200);
    assert_eq!(client.ask("GET", "/_ready", b"").kind(), kind(503, "no_leader"));
    port.node.update_status(|status| status.leader_id = 1);
    assert_eq!(client.ask("GET", "/_ready", b"").kind(), kind(503, "unavailable"));
    port.node.update_status(|status| status.ready = true);
    assert_eq!(client.ask("GET", "/_ready", b"").status, 200);
    let version = client.ask("GET", "/_version", b"").json();
    assert!(version["version"].as_str().unwrap().starts_with(env!("CARGO_PKG_VERSION")));
}

/// A loop that takes no more turns is found out, whatever else still answers.
#[test]
fn health_fails_when_the_loop_is_stuck() {
    let port =
        Port::open_with(Options { stuck_after: Duration::from_millis(20), ..Options::default() });
    port.node.stall();
    let mut client = port.connect();
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    loop {
        let reply = client.ask("GET", "/_health", b"");
        if reply.status != 200 {
            assert_eq!(reply.kind(), kind(503, "unavailable"));
            break;
        }
        assert!(std::time::Instant::now() < deadline, "never found out");
    }
}

/// A server that stops lets idle connections go and answers what is under way.
#[test]
fn stopping_ends_idle_connections() {
    let mut port = Port::open();
    let mut client = port.connect();
    assert_eq!(client.ask("PUT", "/k", b"v").status, 204);
    drop(port.stop.take());
    assert!(client.is_closed());
}
