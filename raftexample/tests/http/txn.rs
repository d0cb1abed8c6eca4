//! `POST /_txn` from end to end. What is no txn is tested where it is parsed.

use serde_json::{Value, json};

use crate::port::{MAX_VALUE_BYTES, Port, kind};

/// Each txn is one entry, sees what was before it, and either branch is answered in full.
#[test]
fn a_txn_compares_then_does_one_branch() {
    let port = Port::open();
    let mut client = port.connect();
    // Each is one entry, the first at index 2.
    let table: [(Value, Value); 9] = [
        (json!({}), json!({"succeeded": true, "results": []})),
        (
            json!({"compare": [{"key": "a", "absent": true}, {"key": "a", "mod_index": 0}],
                "then": [{"op": "put", "key": "a", "value": "AP8="},
                    {"op": "get", "key": "a"}, {"op": "put", "key": "%00/", "value": ""}]}),
            json!({"succeeded": true, "results": [{"op": "put"},
                {"op": "get", "found": true, "value": "AP8=", "mod_index": 3}, {"op": "put"}]}),
        ),
        (
            json!({"compare": [{"key": "a", "mod_index": 3}, {"key": "a", "value": "AP8="}]}),
            json!({"succeeded": true, "results": []}),
        ),
        (
            json!({"compare": [{"key": "a", "value": ""}],
                "then": [{"op": "delete", "key": "a"}]}),
            json!({"succeeded": false, "results": []}),
        ),
        (
            json!({"compare": [{"key": "a", "mod_index": 3}, {"key": "a", "absent": true}],
                "then": [{"op": "delete", "key": "a"}],
                "else": [{"op": "get", "key": "a"}, {"op": "get", "key": "none"}]}),
            json!({"succeeded": false, "results": [
                {"op": "get", "found": true, "value": "AP8=", "mod_index": 3},
                {"op": "get", "found": false}]}),
        ),
        (
            json!({"then": [{"op": "delete", "key": "a"}, {"op": "delete", "key": "a"},
                {"op": "get", "key": "a"}]}),
            json!({"succeeded": true, "results": [{"op": "delete", "existed": true},
                {"op": "delete", "existed": false}, {"op": "get", "found": false}]}),
        ),
        (
            json!({"compare": [{"key": "a", "mod_index": 0}, {"key": "a", "absent": true}]}),
            json!({"succeeded": true, "results": []}),
        ),
        (
            json!({"compare": [{"key": "a", "value": ""}]}),
            json!({"succeeded": false, "results": []}),
        ),
        (
            json!({"then": vec![json!({"op": "get", "key": "%00%2F"}); 128]}),
            json!({"succeeded": true, "results":
                vec![json!({"op": "get", "found": true, "value": "", "mod_index": 3}); 128]}),
        ),
    ];
    for (index, (txn, expected)) in (2..).zip(table) {
        let reply = client.ask("POST", "/_txn", txn.to_string().as_bytes());
        assert_eq!((reply.status, reply.json()), (200, expected), "{txn}");
        assert_eq!((reply.index(), reply.mod_index()), (Some(index), None), "{txn}");
    }
}

/// A txn that asks for what it may not have changes nothing at all.
#[test]
fn mistakes_in_a_txn_change_nothing() {
    let port = Port::open();
    let mut client = port.connect();
    let put = |value: &str| json!({"op": "put", "key": "k", "value": value});
    // Each byte of base64 stands for three quarters of one.
    let value =
        |bytes: u64| "A".repeat(bytes as usize / 3 * 4) + ["", "AA==", "AAA="][bytes as usize % 3];
    let largest = value(MAX_VALUE_BYTES);
    let table = [
        (json!({"then": [put("")], "els": []}).to_string(), 400, "malformed", "els"),
        (json!({"then": [put(""), {"op": "get"}]}).to_string(), 400, "malformed", "key"),
        (json!({"then": [put(""), {"op": "x", "key": "k"}]}).to_string(), 400, "malformed", "x"),
        (json!({"then": vec![put(""); 129]}).to_string(), 400, "malformed", "128"),
        (json!({"else": vec![put(""); 129]}).to_string(), 400, "malformed", "128"),
        (
            json!({"then": [put(&value(MAX_VALUE_BYTES + 1))]}).to_string(),
            413,
            "too_large",
            "100001",
        ),
        (json!({"then": vec![put(&largest); 32]}).to_string(), 413, "too_large", "3153920"),
        ("[]".to_owned(), 400, "malformed", "object"),
        ("not json".to_owned(), 400, "malformed", "expected"),
        (String::new(), 400, "malformed", "EOF"),
    ];
    for (body, status, name, message) in table {
        let reply = client.ask("POST", "/_txn", body.as_bytes());
        let shown = &body[..body.len().min(80)];
        assert_eq!(reply.kind(), kind(status, name), "{shown}");
        assert!(reply.json()["message"].as_str().unwrap().contains(message), "{shown}");
        assert_eq!((reply.index(), reply.header("Connection")), (None, None), "{shown}");
    }
    let invalid = client.ask("POST", "/_txn", b"{\"then\":[{\"op\":\"get\",\"key\":\"\xff\"}]}");
    assert_eq!(invalid.kind(), kind(400, "malformed"), "not UTF-8");
    let txn = json!({"then": vec![put(&largest); 31]}).to_string();
    assert_eq!(client.ask("POST", "/_txn", txn.as_bytes()).index(), Some(2), "the first entry");
    let txn = json!({"then": vec![json!({"op": "get", "key": "k"}); 32]}).to_string();
    let reply = client.ask("POST", "/_txn", txn.as_bytes());
    assert_eq!((reply.kind(), reply.index()), (kind(413, "too_large"), Some(3)), "its results");
}

/// A body beyond anything that could fit an entry is not read.
#[test]
fn a_txn_of_any_length_is_not_read() {
    let port = Port::open();
    let mut client = port.connect();
    client.send(b"POST /_txn HTTP/1.1\r\nContent-Length: 9510913\r\n\r\n{");
    let reply = client.reply(true);
    assert_eq!(reply.kind(), kind(413, "too_large"));
    assert!(reply.json()["message"].as_str().unwrap().contains("9510912"));
    assert_eq!(reply.header("Connection"), Some("close"));
}
