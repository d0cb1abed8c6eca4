//! How each way that the node may end a request is answered.

use std::time::{Duration, Instant};

use raftexample::httpapi::GRACE;
use raftnode::testing::Verdict;
use raftnode::{Refusal, Unknown};

use crate::port::{Options, Port, kind};

/// One of each kind of write.
const WRITES: [(&str, &str, &[u8]); 5] = [
    ("PUT", "/k", b"v"),
    ("PUT", "/_kv/k", b"v"),
    ("PUT", "/_kv/k?cas=0", b"v"),
    ("DELETE", "/_kv/k", b""),
    ("POST", "/_txn", br#"{"then":[{"op":"delete","key":"k"}]}"#),
];

/// One of each kind of read that asks the node.
const READS: [&str; 4] = ["/k", "/k?consistency=leader", "/_kv/k?min-index=1", "/_kv/?prefix=k"];

/// Each way that the node may end a request has its own answer, on every route.
#[test]
fn each_ending_has_its_answer() {
    let port = Port::open();
    // What is stale is looked up below: let there be something first.
    assert_eq!(port.ask("PUT", "/first", b"").status, 204);
    port.node.update_status(|status| {
        status.leader_id = 2;
        status.client_urls.insert(2, "http://b:9121".into());
    });
    let table = [
        (Verdict::Refuse(Refusal::NoLeader), 503, "no_leader", "no_leader"),
        (Verdict::Refuse(Refusal::Overloaded), 503, "overloaded", "overloaded"),
        (Verdict::Refuse(Refusal::Superseded), 503, "refused", "refused"),
        (Verdict::Refuse(Refusal::ShuttingDown), 503, "shutting_down", "shutting_down"),
        (Verdict::Refuse(Refusal::Unavailable), 503, "unavailable", "unavailable"),
        (Verdict::Refuse(Refusal::NotLeader), 503, "refused", "refused"),
        (Verdict::Refuse(Refusal::TooLarge), 413, "too_large", "too_large"),
        (Verdict::Refuse(Refusal::MinIndex), 400, "malformed", "malformed"),
        (Verdict::Refuse(Refusal::Empty), 400, "malformed", "malformed"),
        (Verdict::Lose(Unknown::Deadline), 504, "unknown", "unavailable"),
        (Verdict::Lose(Unknown::Restored), 504, "unknown", "unavailable"),
        (Verdict::Lose(Unknown::Stopped), 504, "unknown", "unavailable"),
    ];
    for (verdict, status, write, read) in table {
        port.node.decide(verdict);
        for (method, target, body) in WRITES {
            let reply = port.ask(method, target, body);
            assert_eq!(reply.kind(), kind(status, write), "{verdict:?} {method} {target}");
            let stops = verdict == Verdict::Refuse(Refusal::ShuttingDown);
            assert_eq!(reply.header("Connection"), stops.then_some("close"), "{verdict:?}");
            let leads = (status == 503).then_some("2 http://b:9121");
            assert_eq!(reply.header("X-Raft-Leader"), leads, "{verdict:?}");
            assert_eq!(reply.header("Retry-After"), leads.map(|_| "1"), "{verdict:?}");
            assert_eq!(reply.index(), None, "{verdict:?}: it is not in the log");
        }
        for target in READS {
            let reply = port.ask("GET", target, b"");
            let status = if status == 504 { 503 } else { status };
            assert_eq!(reply.kind(), kind(status, read), "{verdict:?} {target}");
        }
    }
    assert_eq!(port.ask("GET", "/k?consistency=stale", b"").status, 404, "asks nobody");
    assert_eq!(port.ask("GET", "/_kv/?consistency=stale", b"").status, 200, "asks nobody");
}

/// A node that never answers does not leave its clients waiting: a write is not known to be
/// refused, everything else is.
#[test]
fn nothing_hangs_on_a_silent_node() {
    const _: () = assert!(GRACE.as_millis() < 100, "no request outlives its deadline by more");
    let request_timeout = Duration::from_millis(20);
    let port = Port::open_with(Options { request_timeout, ..Options::default() });
    port.node.decide(Verdict::Hold);
    let ask = |method, target, body| {
        let asked = Instant::now();
        let reply = port.ask(method, target, body);
        // Far more than it should take, for machines with a lot to do.
        assert!(asked.elapsed() < Duration::from_secs(1), "{method} {target}");
        reply
    };
    for (method, target, body) in WRITES {
        assert_eq!(ask(method, target, body).kind(), kind(504, "unknown"), "{method} {target}");
    }
    for target in READS {
        assert_eq!(ask("GET", target, b"").kind(), kind(503, "unavailable"), "{target}");
    }
    assert_eq!(ask("DELETE", "/4", b"").kind(), kind(504, "unknown"));
    assert_eq!(ask("POST", "/_snapshot", b"").kind(), kind(503, "unavailable"));
    assert_eq!(ask("POST", "/_leader", b"").kind(), kind(503, "unavailable"));
}
