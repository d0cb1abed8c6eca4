//! The client port over real sockets, on a node that commits at once or does as it is told.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use raftexample::httpapi::{Api, BodyBudget, Metrics, Server, ServerLimits};
use raftexample::kvstore;
use raftnode::membership::{
    Book, Change, ChangeOptions, ChangeRefusal, ChangeRefusalKind, Changed, Founder, MemberRole,
};
use raftnode::testing::{FakeNode, Verdict};
use raftnode::{Config, Refusal, Role, SnapshotTaken, Transfer, Unknown};
use tokio::sync::watch;

const MAX_VALUE_BYTES: u64 = 100_000;

/// A client port with all that is behind it. Dropping it stops and joins everything.
struct Port {
    address: SocketAddr,
    node: FakeNode,
    stop: Option<watch::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Port {
    fn open() -> Self {
        Self::open_with(Duration::from_secs(10), 100, Duration::from_secs(60))
    }

    fn open_with(request_timeout: Duration, max_connections: u32, stuck_after: Duration) -> Self {
        let founder = Founder { id: 1, url: "http://127.0.0.1:9021".into() };
        let mut config = Config::new(1, vec![founder.clone()], "unused".into());
        config.max_entry_bytes = MAX_VALUE_BYTES + 8192;
        let (node, channels) = FakeNode::start(&config);
        node.update_status(|status| {
            status.book = Book::founding(&[founder]);
            status.cluster_id = 0xabc;
        });
        let handle = channels.handle.clone();
        let (store_handle, store, applier) = kvstore::start(channels).unwrap();
        let api = Arc::new(Api {
            metrics: Metrics::new(handle.metrics()),
            handle: store_handle,
            store,
            request_timeout,
            max_value_bytes: MAX_VALUE_BYTES,
            bodies: BodyBudget::default(),
            stuck_after,
            watch_keep_alive: Duration::from_millis(50),
        });
        let (stop, stopped) = watch::channel(());
        let (address_tx, address_rx) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async {
                let server = Server::bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
                address_tx.send(server.address()).unwrap();
                let listener = server.listen().unwrap();
                address_tx.send(listener.local_addr().unwrap()).unwrap();
                let logger = slog::Logger::root(slog::Discard, slog::o!());
                api.run(listener, ServerLimits { max_connections }, stopped, logger).await;
            });
            handle.shutdown();
            drop(handle);
            applier.join().unwrap();
        });
        let taken = address_rx.recv().unwrap();
        let address = address_rx.recv().unwrap();
        assert_eq!(taken, address, "the port does not change between bind and listen");
        Self { address, node, stop: Some(stop), thread: Some(thread) }
    }

    fn connect(&self) -> Client {
        let stream = TcpStream::connect(self.address).unwrap();
        // Long enough for any machine, so that a hang fails instead of hanging.
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        Client { stream: BufReader::new(stream) }
    }

    /// One request on a connection of its own.
    fn ask(&self, method: &str, target: &str, body: &[u8]) -> Reply {
        self.connect().ask(method, target, body)
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        drop(self.stop.take());
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(matches!(ended, Some(Ok(()))) || std::thread::panicking(), "the server panicked");
    }
}

struct Client {
    stream: BufReader<TcpStream>,
}

impl Client {
    fn send(&mut self, bytes: &[u8]) {
        self.stream.get_mut().write_all(bytes).unwrap();
    }

    fn ask(&mut self, method: &str, target: &str, body: &[u8]) -> Reply {
        let mut request = format!("{method} {target} HTTP/1.1\r\nHost: h\r\n").into_bytes();
        if !body.is_empty() || ["PUT", "POST", "PATCH"].contains(&method) {
            request.extend(format!("Content-Length: {}\r\n", body.len()).bytes());
        }
        request.extend(b"\r\n");
        request.extend(body);
        self.send(&request);
        self.reply(method != "HEAD")
    }

    /// Reads one answer.
    fn reply(&mut self, has_body: bool) -> Reply {
        let mut line = String::new();
        self.stream.read_line(&mut line).unwrap();
        let status = line.split(' ').nth(1).unwrap_or_else(|| panic!("no status in {line:?}"));
        let mut reply =
            Reply { status: status.parse().unwrap(), headers: Vec::new(), body: Vec::new() };
        loop {
            let mut line = String::new();
            self.stream.read_line(&mut line).unwrap();
            let Some((name, value)) = line.trim_end().split_once(": ") else { break };
            reply.headers.push((name.to_owned(), value.to_owned()));
        }
        let length = reply.header("Content-Length").map_or(0, |length| length.parse().unwrap());
        if has_body {
            reply.body = vec![0; length];
            self.stream.read_exact(&mut reply.body).unwrap();
        }
        reply
    }

    fn is_closed(&mut self) -> bool {
        match self.stream.read(&mut [0]) {
            Ok(read) => read == 0,
            Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }
}

#[derive(Debug)]
struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Reply {
    /// By its exact name, as the contract writes it.
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    fn json(&self) -> serde_json::Value {
        assert_eq!(self.header("Content-Type"), Some("application/json"));
        serde_json::from_slice(&self.body).unwrap()
    }

    fn kind(&self) -> (u16, String) {
        let body = self.json();
        assert!(body["message"].as_str().is_some_and(|message| !message.is_empty()), "{body}");
        assert_eq!(body.as_object().unwrap().len(), 2, "{body}");
        (self.status, body["error"].as_str().unwrap().to_owned())
    }
}

fn kind(status: u16, kind: &str) -> (u16, String) {
    (status, kind.to_owned())
}

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
    let port = Port::open_with(Duration::from_millis(50), 100, Duration::from_secs(60));
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

/// Each way that the node may end a request has its own answer.
#[test]
fn each_ending_has_its_answer() {
    let port = Port::open();
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
        (Verdict::Lose(Unknown::Deadline), 504, "unknown", "unavailable"),
        (Verdict::Lose(Unknown::Restored), 504, "unknown", "unavailable"),
        (Verdict::Lose(Unknown::Stopped), 504, "unknown", "unavailable"),
    ];
    for (verdict, status, write, read) in table {
        port.node.decide(verdict);
        let reply = port.ask("PUT", "/k", b"v");
        assert_eq!(reply.kind(), kind(status, write), "{verdict:?}");
        let stops = verdict == Verdict::Refuse(Refusal::ShuttingDown);
        assert_eq!(reply.header("Connection"), stops.then_some("close"), "{verdict:?}");
        let leads = (status == 503).then_some("2 http://b:9121");
        assert_eq!(reply.header("X-Raft-Leader"), leads, "{verdict:?}");
        assert_eq!(reply.header("Retry-After"), leads.map(|_| "1"), "{verdict:?}");
        let reply = port.ask("GET", "/k?consistency=leader", b"");
        let status = if status == 504 { 503 } else { status };
        assert_eq!(reply.kind(), kind(status, read), "{verdict:?}");
    }
    assert_eq!(port.ask("GET", "/k?consistency=stale", b"").status, 404, "asks nobody");
}

/// A node that never answers does not leave its clients waiting.
#[test]
fn nothing_hangs_on_a_silent_node() {
    let port = Port::open_with(Duration::from_millis(20), 100, Duration::from_secs(60));
    port.node.decide(Verdict::Hold);
    assert_eq!(port.ask("PUT", "/k", b"v").kind(), kind(504, "unknown"));
    assert_eq!(port.ask("GET", "/k", b"").kind(), kind(503, "unavailable"));
    assert_eq!(port.ask("DELETE", "/4", b"").kind(), kind(504, "unknown"));
    assert_eq!(port.ask("POST", "/_snapshot", b"").kind(), kind(503, "unavailable"));
}

/// A read says what it saw, and waits for what it asked to see.
#[test]
fn reads_say_what_they_saw() {
    let port = Port::open_with(Duration::from_millis(100), 100, Duration::from_secs(60));
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
    let reply = client.ask("GET", "/k?consistency=stale&min-index=3", b"");
    assert_eq!(reply.kind(), kind(503, "unavailable"));
}

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
    let port = Port::open_with(Duration::from_secs(10), 100, Duration::from_millis(20));
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

/// One connection too many is told so, and served when there is room again.
#[test]
fn connections_beyond_the_limit_are_told_to_come_back() {
    let port = Port::open_with(Duration::from_secs(10), 1, Duration::from_secs(60));
    let mut first = port.connect();
    assert_eq!(first.ask("PUT", "/k", b"v").status, 204);
    let mut second = port.connect();
    let refusal = second.ask("GET", "/k", b"");
    assert_eq!(refusal.kind(), kind(503, "overloaded"));
    assert_eq!(refusal.header("Retry-After"), Some("1"));
    assert!(second.is_closed());
    assert_eq!(first.ask("GET", "/k", b"").status, 200, "the first is not disturbed");
    drop(first);
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    while port.ask("GET", "/k", b"").status != 200 {
        assert!(std::time::Instant::now() < deadline, "there is never room again");
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
