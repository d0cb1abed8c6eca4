//! Keys at `/_kv/`: the same store with conditions, and listings of it.

use serde_json::{Value, json};

use crate::port::{Port, Reply, kind};

/// Reads the message of a refusal.
fn message(reply: &Reply) -> String {
    reply.json()["message"].as_str().unwrap().to_owned()
}

/// Both namespaces are one store, and a value says which write it comes from.
#[test]
fn the_namespaces_are_one_store() {
    let port = Port::open();
    let mut client = port.connect();
    for (put, get) in [("/_kv/a", "/a"), ("/a", "/_kv/a"), ("/_kv/_x/%00", "/%5Fx/%00")] {
        let written = client.ask("PUT", put, put.as_bytes());
        assert_eq!((written.status, written.mod_index()), (204, written.index()), "{put}");
        let read = client.ask("GET", get, b"");
        assert_eq!((read.status, &read.body[..]), (200, put.as_bytes()), "{get}");
        assert_eq!((read.mod_index(), read.index()), (written.index(), None), "{get}");
        assert_eq!(read.header("X-Raft-Consistency"), Some("linearizable"), "{get}");
    }
    assert_eq!(client.ask("DELETE", "/_kv/a", b"").status, 204);
    let absent = client.ask("GET", "/_kv/a", b"");
    assert_eq!((absent.kind(), absent.mod_index()), (kind(404, "not_found"), None));
    assert!(absent.header("X-Raft-Applied-Index").is_some());
}

/// A condition that holds is a write; one that does not is an answer of the log's own, with its
/// index, and says what is there instead. Neither is anything in between.
#[test]
fn conditions_hold_or_say_what_is_there() {
    let port = Port::open();
    let mut client = port.connect();
    // Each is one entry, the first at index 2, whatever comes of it.
    let table = [
        ("PUT", "/_kv/k?cas=7", 412, Some(0)),
        ("PUT", "/_kv/k?cas=0", 204, Some(3)),
        ("PUT", "/_kv/k?cas=0", 412, Some(3)),
        ("PUT", "/_kv/k?cas=3", 204, Some(5)),
        ("PUT", "/_kv/k?cas=3", 412, Some(5)),
        ("DELETE", "/_kv/k?cas=0", 412, Some(5)),
        ("DELETE", "/_kv/k?cas=3", 412, Some(5)),
        ("DELETE", "/_kv/k?cas=5", 204, None),
        ("DELETE", "/_kv/k?cas=5", 412, Some(0)),
        ("DELETE", "/_kv/k", 404, None),
        ("PUT", "/_kv/k", 204, Some(12)),
        ("DELETE", "/_kv/k", 204, None),
    ];
    for (index, (method, target, status, mod_index)) in (2..).zip(table) {
        let body: &[u8] = if method == "PUT" { b"v" } else { b"" };
        let reply = client.ask(method, target, body);
        assert_eq!(reply.status, status, "{index}: {method} {target}");
        assert_eq!(reply.index(), Some(index), "{method} {target}");
        assert_eq!(reply.mod_index(), mod_index, "{index}: {method} {target}");
        if status == 412 {
            assert_eq!(reply.kind(), kind(412, "cas_mismatch"));
            let present = format!("mod index is {}", mod_index.unwrap());
            assert!(message(&reply).contains(&present), "{index}: {}", message(&reply));
        }
        if status == 404 {
            assert_eq!(reply.kind(), kind(404, "not_found"));
        }
    }
}

/// Whatever the log's own answer to a traced write is, it says where the time went; who is refused
/// before that is told nothing.
#[test]
fn answers_to_traced_writes_have_their_stages() {
    let port = Port::open();
    let mut client = port.connect();
    let table = [
        ("PUT", "/k?trace=1", true),
        ("PUT", "/_kv/k?cas=9&trace=1", true),
        ("POST", "/_txn?trace=1", true),
        ("DELETE", "/_kv/k?trace=1", true),
        ("DELETE", "/_kv/k?trace=1", true),
        ("PUT", "/k", false),
        ("PUT", "/k?trace=2", false),
    ];
    for (method, target, traced) in table {
        let body: &[u8] = if method == "POST" { b"{}" } else { b"v" };
        let reply = client.ask(method, target, if method == "DELETE" { b"" } else { body });
        let stages = reply.header("Server-Timing");
        assert_eq!(stages.is_some(), traced, "{method} {target}: {reply:?}");
        // A fake node has neither a log nor other members.
        let fits =
            |stages: &str| stages.starts_with("apply;dur=") && stages.contains(", reply;dur=");
        assert!(stages.is_none_or(fits), "{method} {target}: {stages:?}");
    }
}

/// A put on a condition can be left to itself, like any other.
#[test]
fn ack_none_takes_conditions_too() {
    let port = Port::open();
    let mut client = port.connect();
    for value in [b"first", b"other"] {
        let reply = client.ask("PUT", "/_kv/k?cas=0&ack=none", value);
        assert_eq!((reply.status, reply.index(), reply.mod_index()), (204, None, None));
    }
    assert_eq!(client.ask("GET", "/_kv/k?min-index=3", b"").body, b"first");
}

fn keys(reply: &Reply) -> Vec<String> {
    let key = |key: &Value| key["key"].as_str().unwrap().to_owned();
    reply.json()["keys"].as_array().unwrap().iter().map(key).collect()
}

/// A listing is in the order of the bytes, under a prefix, and can be gone on with; its keys can
/// be put into a URL as they stand.
#[test]
fn listings_show_a_window_of_the_keys() {
    let port = Port::open();
    let mut client = port.connect();
    assert_eq!(client.ask("GET", "/_kv/", b"").json(), json!({"keys": [], "next": null}));
    let stored = ["%00", "a", "a%20b", "a%25", "a%2F", "a%C3%A9", "a-._~", "aa", "b"];
    for key in stored {
        assert_eq!(client.ask("PUT", &format!("/_kv/{key}"), b"v").status, 204);
    }
    let all = ["%00", "a", "a%20b", "a%25", "a-._~", "a/", "aa", "a%C3%A9", "b"];
    let table: [(&str, &[&str], Value); 13] = [
        ("", &all, json!(null)),
        ("?limit=9", &all, json!(null)),
        ("?limit=8", &all[..8], json!("a%C3%A9")),
        ("?limit=1", &all[..1], json!("%00")),
        ("?limit=1&after=%00", &all[1..2], json!("a")),
        ("?prefix=a", &all[1..8], json!(null)),
        ("?prefix=a&limit=2", &all[1..3], json!("a%20b")),
        ("?prefix=a&limit=2&after=a%20b", &all[3..5], json!("a-._~")),
        ("?prefix=a&after=a%C3%A9", &[], json!(null)),
        ("?prefix=a&after=%00", &all[1..8], json!(null)),
        ("?prefix=a%2f", &all[5..6], json!(null)),
        ("?prefix=a%", &[], json!(null)),
        ("?prefix=c&consistency=stale&min-index=10", &[], json!(null)),
    ];
    for (query, expected, next) in table {
        let reply = client.ask("GET", &format!("/_kv/{query}"), b"");
        if query.ends_with('%') {
            assert_eq!(reply.kind(), kind(400, "malformed"), "{query}");
            continue;
        }
        assert_eq!(reply.status, 200, "{query}");
        assert_eq!(keys(&reply), expected, "{query}");
        assert_eq!(reply.json()["next"], next, "{query}");
        assert_eq!(reply.header("X-Raft-Applied-Index"), Some("10"), "{query}");
        let stale = query.contains("stale");
        let consistency = if stale { "stale" } else { "linearizable" };
        assert_eq!(reply.header("X-Raft-Consistency"), Some(consistency), "{query}");
    }
    for (mod_index, key) in (2..).zip(stored) {
        let listed = client.ask("GET", "/_kv/", b"").json()["keys"].as_array().unwrap().clone();
        let spelt = key.replace("%2F", "/");
        assert!(listed.contains(&json!({"key": spelt, "mod_index": mod_index})), "{key}");
        assert_eq!(client.ask("GET", &format!("/_kv/{spelt}"), b"").status, 200, "{key}");
    }
}

/// Without a limit there is one all the same.
#[test]
fn listings_have_100_keys_unless_asked() {
    let port = Port::open();
    let mut client = port.connect();
    for n in 0..101 {
        assert_eq!(client.ask("PUT", &format!("/{n:03}?ack=none"), b"").status, 204);
    }
    let reply = client.ask("GET", "/_kv/", b"");
    assert_eq!((keys(&reply).len(), &reply.json()["next"]), (100, &json!("099")));
    assert_eq!(keys(&client.ask("GET", "/_kv/?limit=1000", b"")).len(), 101);
    assert_eq!(keys(&client.ask("GET", "/_kv/?after=099", b"")), ["100"]);
}

/// Every mistake is a JSON answer that changes nothing, and the connection goes on.
#[test]
fn mistakes_at_kv_are_answered() {
    let port = Port::open();
    let mut client = port.connect();
    let long = format!("/_kv/{}", "k".repeat(4097));
    let table = [
        ("PUT", "/_kv/", 400, "malformed"),
        ("DELETE", "/_kv/", 400, "malformed"),
        ("PUT", "/_kv/%4", 400, "malformed"),
        ("PUT", &long, 400, "malformed"),
        ("PUT", "/_kv/k?cas", 400, "malformed"),
        ("PUT", "/_kv/k?cas=", 400, "malformed"),
        ("PUT", "/_kv/k?cas=x", 400, "malformed"),
        ("PUT", "/_kv/k?cas=-1", 400, "malformed"),
        ("PUT", "/_kv/k?cas=18446744073709551616", 400, "malformed"),
        ("PUT", "/_kv/k?cas=0&cas=0", 400, "malformed"),
        ("DELETE", "/_kv/k?cas=x", 400, "malformed"),
        ("DELETE", "/_kv/k?ack=none", 400, "malformed"),
        ("GET", "/_kv/k?cas=1", 400, "malformed"),
        ("GET", "/_kv/k?consistency=strong", 400, "malformed"),
        ("GET", "/_kv/?limit=0", 400, "malformed"),
        ("GET", "/_kv/?limit=1001", 400, "malformed"),
        ("GET", "/_kv/?limit=all", 400, "malformed"),
        ("GET", "/_kv/?after=%zz", 400, "malformed"),
        ("GET", "/_kv", 404, "not_found"),
        ("GET", "/_kvx/k", 404, "not_found"),
        ("POST", "/_kv/k", 405, "method_not_allowed"),
        ("PATCH", "/_kv/", 405, "method_not_allowed"),
    ];
    for (method, target, status, name) in table {
        let body: &[u8] = if method == "PUT" { b"v" } else { b"" };
        let reply = client.ask(method, target, body);
        assert_eq!(reply.kind(), kind(status, name), "{method} {target}");
        let allow = match (status, target) {
            (405, "/_kv/") => Some("GET"),
            (405, _) => Some("GET, PUT, DELETE"),
            _ => None,
        };
        assert_eq!(reply.header("Allow"), allow, "{method} {target}");
    }
    assert_eq!(client.ask("PUT", "/_kv/k", b"v").index(), Some(2), "nothing was written before");
}
