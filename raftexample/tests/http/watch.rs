//! `GET /_watch`: what is told, from where, and how it ends.

use std::io::{BufRead, Read};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use raftexample::httpapi::ServerLimits;
use raftnode::Restore;
use serde_json::{Value, json};

use crate::port::{Client, Options, Port, Reply, kind};

/// One event, as a client of server-sent events has it.
#[derive(Debug, PartialEq)]
struct Event {
    id: Option<u64>,
    name: String,
    data: Value,
}

fn change(index: u64, changes: Value) -> Event {
    let data = json!({"index": index, "term": 1, "changes": changes});
    Event { id: Some(index), name: "change".into(), data }
}

fn keep_alive(id: u64, applied_index: u64) -> Event {
    let data = json!({"applied_index": applied_index});
    Event { id: Some(id), name: "keep-alive".into(), data }
}

struct Watch {
    client: Client,
    text: String,
}

impl Watch {
    fn ask(port: &Port, query: &str, headers: &[&str]) -> (Reply, Self) {
        let mut client = port.connect();
        let reply = client.ask_with("GET", &format!("/_watch{query}"), headers, b"");
        (reply, Self { client, text: String::new() })
    }

    fn open(port: &Port, query: &str, headers: &[&str]) -> Self {
        let (reply, watch) = Self::ask(port, query, headers);
        assert_eq!(reply.status, 200, "{query} {headers:?}");
        assert_eq!(reply.header("Content-Type"), Some("text/event-stream"));
        assert_eq!(reply.header("Transfer-Encoding"), Some("chunked"));
        watch
    }

    /// The next event; `None` at the stream's end.
    fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(end) = self.text.find("\n\n") {
                let rest = self.text.split_off(end + 2);
                return Some(parse(&std::mem::replace(&mut self.text, rest)));
            }
            let mut line = String::new();
            self.client.stream.read_line(&mut line).unwrap();
            let length = usize::from_str_radix(line.trim_end(), 16).unwrap();
            let mut chunk = vec![0; length + 2];
            self.client.stream.read_exact(&mut chunk).unwrap();
            if length == 0 {
                assert_eq!(self.text, "", "the stream ends within an event");
                return None;
            }
            self.text.push_str(std::str::from_utf8(&chunk[..length]).unwrap());
        }
    }

    fn next_change(&mut self) -> Event {
        loop {
            let event = self.next().unwrap();
            if event.name != "keep-alive" {
                return event;
            }
        }
    }
}

fn parse(text: &str) -> Event {
    let mut event = Event { id: None, name: String::new(), data: Value::Null };
    for line in text.trim_end().lines() {
        match line.split_once(": ").unwrap() {
            ("id", id) => event.id = Some(id.parse().unwrap()),
            ("event", name) => event.name = name.into(),
            ("data", data) => event.data = serde_json::from_str(data).unwrap(),
            other => panic!("{other:?}"),
        }
    }
    event
}

/// Every change is told once, in order, a txn as one; an entry that changes nothing is none.
#[test]
fn each_entry_that_changes_something_is_one_event() {
    let port = Port::open();
    let mut client = port.connect();
    let mut watch = Watch::open(&port, "", &[]);
    assert_eq!(watch.next().unwrap(), keep_alive(1, 1), "at once");
    let txn = br#"{"then":[{"op":"put","key":"a","value":"AP8="},{"op":"delete","key":"%20/"},
        {"op":"get","key":"a"},{"op":"put","key":"b","value":""},{"op":"delete","key":"b"}]}"#;
    let requests: [(&str, &str, &[u8]); 7] = [
        ("PUT", "/_kv/%20/", b"v"),
        ("DELETE", "/_kv/none", b""),
        ("PUT", "/k?cas", b""),
        ("PUT", "/_kv/a?cas=9", b"v"),
        ("POST", "/_txn", txn),
        ("POST", "/_txn", b"{}"),
        ("DELETE", "/_kv/a", b""),
    ];
    for (method, target, body) in requests {
        client.ask(method, target, body);
    }
    let put =
        |key, value, index| json!({"op": "put", "key": key, "value": value, "mod_index": index});
    let delete = |key| json!({"op": "delete", "key": key});
    let changes = json!([put("a", "AP8=", 5), delete("%20/"), put("b", "", 5), delete("b")]);
    assert_eq!(watch.next().unwrap(), change(2, json!([put("%20/", "dg==", 2)])));
    assert_eq!(watch.next().unwrap(), change(5, changes));
    assert_eq!(watch.next().unwrap(), change(7, json!([delete("a")])));
}

/// Whoever comes back behind an id it was given has everything after it once, wherever it was
/// cut, and whichever way it asks.
#[test]
fn resuming_misses_nothing_and_repeats_nothing() {
    let port = Port::open_with(Options {
        watch_keep_alive: Duration::from_millis(20),
        ..Options::default()
    });
    let mut client = port.connect();
    for n in 2..6 {
        assert_eq!(client.ask("PUT", &format!("/{n}"), b"").index(), Some(n));
    }
    let put = |index: u64| {
        let key = index.to_string();
        change(index, json!([{"op": "put", "key": key, "value": "", "mod_index": index}]))
    };
    for from in 2..6 {
        let header = format!("Last-Event-ID: {}", from - 1);
        let query = format!("?from-index={from}");
        let ways: [(&str, &[&str]); 3] =
            [(&query, &[]), ("", &[&header]), ("?from-index=2", &[&header])];
        for (query, headers) in ways {
            let mut watch = Watch::open(&port, query, headers);
            assert_eq!(watch.next().unwrap(), keep_alive(from - 1, 5), "{query} {headers:?}");
            for index in from..6 {
                assert_eq!(watch.next().unwrap(), put(index), "{query} {headers:?}");
            }
            assert_eq!(watch.next().unwrap(), keep_alive(5, 5), "{query} {headers:?}");
        }
    }
    // What is not there yet can be waited for; what is before it is not told.
    let mut watch = Watch::open(&port, "?from-index=7", &[]);
    assert_eq!(watch.next().unwrap(), keep_alive(6, 5));
    assert_eq!(watch.next().unwrap(), keep_alive(6, 5));
    for _ in 6..8 {
        client.ask("PUT", "/7", b"");
    }
    assert_eq!(watch.next_change(), put(7));
}

/// Found by review: the first keep-alive named an index that the store had left behind, and the
/// changes up to where the watch began were not told.
#[test]
fn a_watch_begins_behind_the_id_it_says_first() {
    let port = Port::open();
    let open = AtomicBool::new(true);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            let mut client = port.connect();
            let open = &open;
            scope.spawn(move || {
                while open.load(Ordering::Relaxed) {
                    client.ask("PUT", "/k", b"");
                }
            });
        }
        let begun: Vec<_> = (0..2000)
            .map(|_| {
                let mut watch = Watch::open(&port, "", &[]);
                (watch.next().unwrap().id.unwrap(), watch.next_change().id.unwrap())
            })
            .collect();
        open.store(false, Ordering::Relaxed);
        let wrong: Vec<_> = begun.iter().filter(|(said, first)| said + 1 != *first).collect();
        assert!(wrong.is_empty(), "{wrong:?}");
    });
}

/// Keep-alives carry what was left out, so that resuming does not look at it again.
#[test]
fn keep_alives_pass_over_other_prefixes() {
    let port = Port::open_with(Options {
        watch_keep_alive: Duration::from_millis(20),
        ..Options::default()
    });
    let mut client = port.connect();
    let mut watch = Watch::open(&port, "?prefix=a%2F", &[]);
    assert_eq!(watch.next().unwrap(), keep_alive(1, 1));
    let txn =
        br#"{"then":[{"op":"put","key":"b","value":""},{"op":"put","key":"a/1","value":""}]}"#;
    let requests: [(&str, &str, &[u8]); 3] =
        [("PUT", "/a", b""), ("POST", "/_txn", txn), ("PUT", "/_kv/a%2E/", b"")];
    for (method, target, body) in requests {
        client.ask(method, target, body);
    }
    let changes = json!([{"op": "put", "key": "a/1", "value": "", "mod_index": 3}]);
    assert_eq!(watch.next_change(), change(3, changes));
    while watch.next().unwrap() != keep_alive(4, 4) {}
    client.ask("DELETE", "/_kv/a/1", b"");
    let mut resumed = Watch::open(&port, "?prefix=a/", &["Last-Event-ID: 4"]);
    let deleted = || change(5, json!([{"op": "delete", "key": "a/1"}]));
    assert_eq!(resumed.next_change(), deleted());
    assert_eq!(watch.next_change(), deleted());
}

/// A large value comes in pieces, and whole.
#[test]
fn a_large_value_is_told_whole() {
    let port = Port::open();
    let mut watch = Watch::open(&port, "", &[]);
    let value: Vec<u8> = (0..100_000_u32).map(|n| (n % 251) as u8).collect();
    assert_eq!(port.ask("PUT", "/k", &value).status, 204);
    let data = watch.next_change().data;
    let get = br#"{"then":[{"op":"get","key":"k"}]}"#;
    let expected = &port.ask("POST", "/_txn", get).json()["results"][0]["value"];
    assert_eq!(&data["changes"][0]["value"], expected);
    assert_eq!(data["changes"][0]["mod_index"], 2);
}

/// What cannot be told is refused with where a watch may begin.
#[test]
fn a_watch_before_the_history_is_refused() {
    let port = Port::open();
    let mut state = Vec::new();
    assert_eq!(port.ask("PUT", "/k", b"").status, 204);
    port.node.capture().unwrap()(&mut state).unwrap();
    let state = Box::new(std::io::Cursor::new(state));
    let mut behind = Watch::open(&port, "", &[]);
    port.node.restore(Restore { index: 9, term: 1, commit_index: 9, state });
    assert_eq!(port.ask("GET", "/k?min-index=9", b"").status, 200);
    for (query, headers) in [("?from-index=9", &[][..]), ("", &["Last-Event-ID: 0"])] {
        let (reply, _) = Watch::ask(&port, query, headers);
        assert_eq!(reply.kind(), kind(410, "compacted"), "{query} {headers:?}");
        assert!(reply.json()["message"].as_str().unwrap().contains("index 10"), "{query}");
    }
    Watch::open(&port, "?from-index=10", &[]);
    // Whoever was there already hears that it has missed something.
    let last = behind.next_change();
    assert_eq!((last.id, last.name.as_str()), (None, "closed"));
    assert_eq!(last.data["error"], "compacted");
    assert_eq!(behind.next(), None);
}

/// Every mistake is a JSON answer, and not a stream.
#[test]
fn mistakes_at_watch_are_answered() {
    let port = Port::open();
    let ahead = format!("?from-index={}", (1 << 20) + 2);
    let table: [(&str, &[&str]); 13] = [
        ("?from-index", &[]),
        ("?from-index=x", &[]),
        ("?from-index=-1", &[]),
        ("?from-index=1&from-index=1", &[]),
        ("?prefix=%", &[]),
        ("?from=1", &[]),
        (&ahead, &[]),
        ("?from-index=18446744073709551615", &[]),
        ("", &["Last-Event-ID: x"]),
        ("", &["Last-Event-ID: é"]),
        ("", &["Last-Event-ID:"]),
        ("", &["Last-Event-ID: 18446744073709551615"]),
        ("", &["Last-Event-ID: 1", "Last-Event-ID: 1"]),
    ];
    for (query, headers) in table {
        let (reply, _) = Watch::ask(&port, query, headers);
        assert_eq!(reply.kind(), kind(400, "malformed"), "{query} {headers:?}");
    }
    let furthest = format!("?from-index={}", (1 << 20) + 1);
    Watch::open(&port, &furthest, &[]);
}

/// A watcher that is slower than the changes is told to go, and what it was given until then is
/// without a gap.
#[test]
fn a_slow_watcher_is_closed() {
    // Patient with a watcher that does not read for a while.
    let port =
        Port::open_with(Options { request_timeout: Duration::from_secs(60), ..Options::default() });
    let mut watch = Watch::open(&port, "", &[]);
    let mut client = port.connect();
    let value = vec![7; 100_000];
    // Several times what the history and the sockets' buffers hold together.
    for _ in 0..600 {
        assert_eq!(client.ask("PUT", "/k", &value).status, 204);
    }
    let mut expected = 2;
    let last = loop {
        let event = watch.next_change();
        if event.name == "closed" {
            break event;
        }
        assert_eq!(event.id, Some(expected), "a gap");
        expected += 1;
    };
    assert!(expected < 602, "everything was buffered");
    assert_eq!((last.id, &last.data["error"]), (None, &"compacted".into()));
    assert!(last.data["message"].as_str().is_some_and(|message| !message.is_empty()));
    assert_eq!(watch.next(), None);
}

/// At most half of the connections watch, so that watches, which have no end of their own, never
/// take every place. A watcher that does not read at all gives its place back.
#[test]
fn a_watcher_that_never_reads_is_cut() {
    let port = Port::open_with(Options {
        request_timeout: Duration::from_secs(1),
        limits: ServerLimits::new(5),
        ..Options::default()
    });
    let watches = [(); 2].map(|()| Watch::open(&port, "", &[]));
    let mut client = port.connect();
    let mut refused = 0;
    let deadline = Instant::now() + Duration::from_secs(60);
    let value = vec![7; 100_000];
    loop {
        let reply = client.ask("GET", "/_watch", b"");
        if reply.status == 200 {
            break;
        }
        assert_eq!(reply.kind(), kind(503, "overloaded"));
        assert!(Instant::now() < deadline, "none is ever cut");
        assert_eq!(client.ask("PUT", "/k", &value).status, 204, "all else is served");
        refused += 1;
    }
    assert!(refused > 0, "half of five are two");
    drop(watches);
}

/// A watcher that leaves gives its place back at once, and not when two more keep-alives were
/// written to it: whoever comes and goes would keep everybody from watching.
#[test]
fn a_watcher_that_leaves_gives_its_place_back() {
    let port = Port::open_with(Options { limits: ServerLimits::new(2), ..Options::default() });
    let deadline = Instant::now() + Duration::from_secs(30);
    for _ in 0..5 {
        loop {
            let mut client = port.connect();
            client.send(b"GET /_watch HTTP/1.1\r\n\r\n");
            if client.reply(false).status == 200 {
                break;
            }
            assert!(Instant::now() < deadline, "a watcher that has gone still has its place");
        }
    }
}

/// A node that ends has no more to tell, and nobody is told that it was too slow.
#[test]
fn watches_end_with_the_node() {
    let port = Port::open();
    let mut watch = Watch::open(&port, "", &[]);
    assert_eq!(watch.next().unwrap(), keep_alive(1, 1));
    port.handle.shutdown();
    assert_eq!(watch.next().unwrap().data["error"], "shutting_down");
    assert_eq!(watch.next(), None);
}

/// A member that stops says so, and does not wait for its watchers.
#[test]
fn stopping_ends_watches() {
    let mut port = Port::open();
    let mut watch = Watch::open(&port, "", &[]);
    assert_eq!(watch.next().unwrap(), keep_alive(1, 1));
    drop(port.stop.take());
    let last = watch.next().unwrap();
    assert_eq!((last.id, last.name.as_str()), (None, "closed"));
    assert_eq!(last.data["error"], "shutting_down");
    assert_eq!(watch.next(), None);
    assert!(watch.client.is_closed());
}

/// A watch from now on says where it begins, and begins there, while others write: what is applied
/// between the two would be neither in what its client read before nor in its events.
#[test]
fn a_watch_begins_where_it_says() {
    let port = Port::open();
    let stop = std::sync::atomic::AtomicBool::new(false);
    let ordering = std::sync::atomic::Ordering::Relaxed;
    std::thread::scope(|scope| {
        let mut writer = port.connect();
        let stop = &stop;
        scope.spawn(move || {
            while !stop.load(ordering) {
                assert!([204, 503].contains(&writer.ask("PUT", "/k?ack=none", b"").status));
            }
        });
        let gaps = (0..2_000).filter_map(|_| {
            let mut watch = Watch::open(&port, "", &[]);
            let begin = watch.next().unwrap().id.unwrap();
            let first = watch.next_change().id.unwrap();
            (first != begin + 1).then_some((begin, first))
        });
        let gaps: Vec<_> = gaps.collect();
        stop.store(true, ordering);
        assert_eq!(gaps, [], "(begins behind, first event)");
    });
}
