//! `Idempotency-Key`: the same write again is the same write.

use crate::port::{Client, Port, Reply, kind};

const TXN: &[u8] =
    br#"{"compare":[{"key":"t","absent":true}],"then":[{"op":"put","key":"t","value":""}]}"#;

fn keyed(client: &mut Client, key: &str, method: &str, target: &str, body: &[u8]) -> Reply {
    client.ask_with(method, target, &[&format!("Idempotency-Key: {key}")], body)
}

/// A retry is answered as the first try was, in status, index and body, though the store has
/// changed since; another request under the same key is not taken for it.
#[test]
fn a_repeated_write_is_answered_as_the_first() {
    let port = Port::open();
    let mut client = port.connect();
    let writes: [(&str, &str, &[u8], u16); 9] = [
        ("PUT", "/r", b"v", 204),
        ("PUT", "/_kv/a", b"v", 204),
        ("PUT", "/_kv/b?cas=0", b"v", 204),
        ("PUT", "/_kv/b?cas=9", b"v", 412),
        ("DELETE", "/_kv/a", b"", 204),
        ("DELETE", "/_kv/a", b"", 404),
        ("DELETE", "/_kv/a?cas=7", b"", 412),
        ("POST", "/_txn", TXN, 200),
        ("POST", "/_txn", TXN, 200),
    ];
    let mut first: Vec<Reply> = Vec::new();
    for (n, (method, target, body, status)) in writes.iter().enumerate() {
        let reply = keyed(&mut client, &format!("write-{n}"), method, target, body);
        assert_eq!((reply.status, reply.index()), (*status, Some(n as u64 + 2)), "{n}");
        first.push(reply);
    }
    assert_ne!(first[7].body, first[8].body, "the second txn did not succeed");
    for (n, (method, target, body, _)) in writes.iter().enumerate() {
        let again = keyed(&mut client, &format!("write-{n}"), method, target, body);
        assert_eq!((again.status, again.index()), (first[n].status, first[n].index()), "{n}");
        assert_eq!(again.mod_index(), first[n].mod_index(), "{n}");
        assert_eq!(again.body, first[n].body, "{n}");
        let other = keyed(&mut client, &format!("write-{n}"), "PUT", "/other", b"v");
        assert_eq!(other.kind(), kind(422, "key_reused"), "{n}");
    }
    assert_eq!(client.ask("GET", "/other", b"").status, 404, "what is refused changes nothing");
}

/// Any bytes that a header may carry are a key, and each is another one.
#[test]
fn keys_are_any_bytes_of_a_header() {
    let port = Port::open();
    let mut client = port.connect();
    let long = "k".repeat(128);
    for (n, key) in
        ["0", "a b", "\"quoted\"", "a\tb", "a,b", "é", "%41", "A", &long].iter().enumerate()
    {
        for _ in 0..2 {
            let reply = keyed(&mut client, key, "PUT", "/k", b"v");
            assert_eq!((reply.status, reply.index()), (204, Some(2 * n as u64 + 2)), "{key:?}");
        }
    }
}

/// A key that cannot be kept is refused before anything is written; other routes do not look.
#[test]
fn bad_keys_are_refused_where_they_count() {
    let port = Port::open();
    let mut client = port.connect();
    let long = format!("Idempotency-Key: {}", "k".repeat(129));
    let table: [&[&str]; 4] = [
        &["Idempotency-Key:"],
        &["Idempotency-Key:  "],
        &[&long],
        &["Idempotency-Key: a", "idempotency-key: a"],
    ];
    let writes: [(&str, &str, &[u8]); 4] = [
        ("PUT", "/k", b"v"),
        ("PUT", "/_kv/k", b"v"),
        ("DELETE", "/_kv/k", b""),
        ("POST", "/_txn", TXN),
    ];
    for headers in table {
        for (method, target, body) in writes {
            let reply = client.ask_with(method, target, headers, body);
            assert_eq!(reply.kind(), kind(400, "malformed"), "{method} {target} {headers:?}");
            assert!(reply.json()["message"].as_str().unwrap().contains("Idempotency-Key"));
        }
        assert_eq!(client.ask_with("GET", "/_kv/", headers, b"").status, 200, "{headers:?}");
        assert_eq!(client.ask_with("DELETE", "/4", headers, b"").status, 204, "{headers:?}");
    }
    assert_eq!(client.ask("PUT", "/k", b"v").index(), Some(2), "nothing was written before");
}
