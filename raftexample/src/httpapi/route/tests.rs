//! The contract's table of requests, row by row.

use raftnode::Consistency;

use super::*;

fn put(key: &[u8]) -> Route<'_> {
    conditional_put(key, None, Ack::Applied)
}

fn conditional_put(key: &[u8], cas: Option<u64>, ack: Ack) -> Route<'_> {
    Route::Put { key: key.into(), cas, ack }
}

fn delete(key: &[u8], cas: Option<u64>) -> Route<'_> {
    Route::Delete { key: key.into(), cas, ack: Ack::Applied }
}

fn get(key: &[u8], consistency: Consistency, min_index: u64) -> Route<'_> {
    Route::Get { key: key.into(), view: View { consistency, min_index } }
}

fn list<'a>(prefix: &'a [u8], after: Option<&'a [u8]>, limit: usize) -> Route<'a> {
    let view = View { consistency: Consistency::Linearizable, min_index: 0 };
    Route::List { prefix: prefix.into(), after: after.map(Cow::from), limit, view }
}

fn watch(prefix: &[u8], from_index: Option<u64>) -> Route<'_> {
    Route::Watch { prefix: prefix.into(), from_index }
}

/// The contract's table, row by row.
#[test]
fn requests_mean_what_the_table_says() {
    use Consistency::{Leader, Linearizable, Stale};
    let plain = ChangeOptions::default();
    let forced = ChangeOptions { force: true, ..plain };
    let dry_run = ChangeOptions { dry_run: true, ..plain };
    let both = ChangeOptions { force: true, dry_run: true };
    let table = [
        ("PUT", "/k", None, put(b"k")),
        ("PUT", "/k", Some(""), put(b"k")),
        ("PUT", "/k", Some("ack=none"), conditional_put(b"k", None, Ack::None)),
        ("PUT", "/a%2Fb", None, put(b"a/b")),
        ("PUT", "/a%2fb/", None, put(b"a/b/")),
        ("PUT", "//a//b", None, put(b"/a//b")),
        ("PUT", "/a/../b/.", None, put(b"a/../b/.")),
        ("PUT", "/a+b", None, put(b"a+b")),
        ("PUT", "/%00%ff", None, put(b"\0\xff")),
        ("PUT", "/%252F", None, put(b"%2F")),
        ("PUT", "/%5Fx", None, put(b"_x")),
        ("PUT", "/a_x", None, put(b"a_x")),
        ("PUT", "/%2F_x", None, put(b"/_x")),
        ("GET", "/k", None, get(b"k", Linearizable, 0)),
        ("GET", "/k", Some("consistency=linearizable"), get(b"k", Linearizable, 0)),
        ("GET", "/k", Some("consistency=leader"), get(b"k", Leader, 0)),
        ("GET", "/k", Some("consistency=stale"), get(b"k", Stale, 0)),
        ("GET", "/k", Some("min-index=7&consistency=stale"), get(b"k", Stale, 7)),
        ("GET", "/4", None, get(b"4", Linearizable, 0)),
        ("POST", "/4", None, Route::AddMember { id: 4, options: plain }),
        ("POST", "/4", Some("force"), Route::AddMember { id: 4, options: forced }),
        ("DELETE", "/4", Some("dry_run=true"), Route::RemoveMember { id: 4, options: dry_run }),
        ("DELETE", "/18446744073709551615", None, {
            Route::RemoveMember { id: u64::MAX, options: plain }
        }),
        ("PUT", "/_kv/k", None, put(b"k")),
        ("PUT", "/_kv/k", Some("cas=0"), conditional_put(b"k", Some(0), Ack::Applied)),
        ("PUT", "/_kv/k", Some("ack=none&cas=18446744073709551615"), {
            conditional_put(b"k", Some(u64::MAX), Ack::None)
        }),
        ("PUT", "/_kv/_x", None, put(b"_x")),
        ("PUT", "/_kv/a/%2fb//", None, put(b"a//b//")),
        ("PUT", "/_kv//", None, put(b"/")),
        ("GET", "/_kv/k", None, get(b"k", Linearizable, 0)),
        ("GET", "/_kv/%00", Some("consistency=leader&min-index=2"), get(b"\0", Leader, 2)),
        ("DELETE", "/_kv/k", None, delete(b"k", None)),
        ("DELETE", "/_kv/4", Some("cas=7"), delete(b"4", Some(7))),
        ("GET", "/_kv/", None, list(b"", None, 100)),
        ("GET", "/_kv/", Some("prefix=&after=&limit=1"), list(b"", Some(b""), 1)),
        ("GET", "/_kv/", Some("limit=1000&after=a%26b%3D%25+c&prefix=%FF/"), {
            list(b"\xff/", Some(b"a&b=%+c"), 1000)
        }),
        ("GET", "/_kv/", Some("consistency=stale&min-index=3"), {
            let (prefix, after, limit) = (b""[..].into(), None, 100);
            Route::List { prefix, after, limit, view: View { consistency: Stale, min_index: 3 } }
        }),
        ("POST", "/_txn", None, Route::Txn { ack: Ack::Applied }),
        ("PUT", "/k", Some("trace=1"), conditional_put(b"k", None, Ack::Traced)),
        ("PUT", "/_kv/k", Some("trace=1&cas=7"), { conditional_put(b"k", Some(7), Ack::Traced) }),
        ("DELETE", "/_kv/k", Some("trace=1"), {
            Route::Delete { key: b"k".into(), cas: None, ack: Ack::Traced }
        }),
        ("POST", "/_txn", Some("trace=1"), Route::Txn { ack: Ack::Traced }),
        ("GET", "/_watch", None, watch(b"", None)),
        ("GET", "/_watch", Some("prefix=a%2F&from-index=9"), watch(b"a/", Some(9))),
        ("GET", "/_watch", Some("from-index=0&prefix="), watch(b"", Some(0))),
        ("GET", "/_leader", None, Route::Leader),
        ("POST", "/_leader", None, Route::Transfer { to: None }),
        ("POST", "/_leader", Some("to=3"), Route::Transfer { to: Some(3) }),
        ("GET", "/_stats", None, Route::Stats),
        ("GET", "/_openapi.yaml", None, Route::OpenApi),
        ("GET", "/_members", None, Route::Members),
        ("POST", "/_members", None, Route::PostMember { options: plain }),
        ("POST", "/_members", Some("dry_run"), Route::PostMember { options: dry_run }),
        ("PATCH", "/_members/4", Some("force=true"), {
            Route::PatchMember { id: 4, options: forced }
        }),
        ("DELETE", "/_members/4", Some("force&dry_run"), {
            Route::RemoveMember { id: 4, options: both }
        }),
        ("POST", "/_snapshot", None, Route::Snapshot),
        ("GET", "/_metrics", None, Route::Metrics),
        ("GET", "/_status", None, Route::Status),
        ("GET", "/_health", None, Route::Health),
        ("GET", "/_ready", None, Route::Ready),
        ("GET", "/_version", None, Route::Version),
    ];
    for (method, path, query, expected) in table {
        let method = method.parse().unwrap();
        assert_eq!(route(&method, path, query).unwrap(), expected, "{method} {path} {query:?}");
    }
}

/// What is not understood is refused, never guessed.
#[test]
fn what_the_table_does_not_say_is_refused() {
    let table = [
        ("PUT", "/", None, 400),
        ("GET", "/", None, 400),
        ("GET", "*", None, 400),
        ("PUT", "", None, 400),
        ("PUT", "/%", None, 400),
        ("PUT", "/%4", None, 400),
        ("PUT", "/%4g", None, 400),
        ("PUT", "/%+1", None, 400),
        ("PUT", "/k", Some("ack=all"), 400),
        ("PUT", "/k", Some("ack"), 400),
        ("PUT", "/k", Some("ack=none&ack=none"), 400),
        ("PUT", "/k", Some("trace"), 400),
        ("PUT", "/k", Some("trace=0"), 400),
        ("PUT", "/k", Some("trace=true"), 400),
        ("PUT", "/k", Some("trace=1&trace=1"), 400),
        ("PUT", "/k", Some("trace=1&ack=none"), 400),
        ("PUT", "/k", Some("ack=none&trace=1"), 400),
        ("GET", "/k", Some("trace=1"), 400),
        ("DELETE", "/4", Some("trace=1"), 400),
        ("PUT", "/k", Some("consistency=stale"), 400),
        ("GET", "/k", Some("ack=none"), 400),
        ("GET", "/k", Some("&"), 400),
        ("GET", "/k", Some("consistency=STALE"), 400),
        ("GET", "/k", Some("consistency=stale&consistency=stale"), 400),
        ("GET", "/k", Some("min-index=-1"), 400),
        ("GET", "/k", Some("min-index=+1"), 400),
        ("GET", "/k", Some("min-index="), 400),
        ("GET", "/k", Some("min-index=18446744073709551616"), 400),
        ("POST", "/", None, 400),
        ("POST", "/0", None, 400),
        ("POST", "/x", None, 400),
        ("POST", "/+4", None, 400),
        ("POST", "/0x4", None, 400),
        ("POST", "/4/", None, 400),
        ("POST", "/4", Some("force=false"), 400),
        ("POST", "/4", Some("force&force"), 400),
        ("POST", "/4", Some("dry-run"), 400),
        ("DELETE", "/4", Some("dry_run=1"), 400),
        ("GET", "/_members", Some("force"), 400),
        ("GET", "/_members/4", None, 405),
        ("PUT", "/_members", None, 405),
        ("PATCH", "/_members", None, 405),
        ("DELETE", "/_members/0", None, 400),
        ("DELETE", "/_members/", None, 400),
        ("PATCH", "/_members/%34", None, 400),
        ("PATCH", "/_members/4/", None, 400),
        ("POST", "/_members/4", None, 405),
        ("GET", "/_snapshot", None, 405),
        ("POST", "/_snapshot", Some("force"), 400),
        ("POST", "/_metrics", None, 405),
        ("GET", "/_membersx", None, 404),
        ("DELETE", "/-1", None, 400),
        ("DELETE", "/18446744073709551616", None, 400),
        ("HEAD", "/k", None, 405),
        ("PATCH", "/k", None, 405),
        ("OPTIONS", "*", None, 405),
        ("PUT", "/_status", None, 405),
        ("GET", "/_status", Some("x"), 400),
        ("GET", "/_status/", None, 404),
        ("GET", "/_nope", None, 404),
        ("PATCH", "/_", None, 404),
        ("PUT", "/k", Some("cas=1"), 400),
        ("PUT", "/_kv/", None, 400),
        ("DELETE", "/_kv/", None, 400),
        ("POST", "/_kv/", None, 405),
        ("POST", "/_kv/k", None, 405),
        ("HEAD", "/_kv/k", None, 405),
        ("GET", "/_kv", None, 404),
        ("PUT", "/_kv/%", None, 400),
        ("GET", "/_kv/%4", None, 400),
        ("PUT", "/_kv/k", Some("cas"), 400),
        ("PUT", "/_kv/k", Some("cas="), 400),
        ("PUT", "/_kv/k", Some("cas=x"), 400),
        ("PUT", "/_kv/k", Some("cas=-1"), 400),
        ("PUT", "/_kv/k", Some("cas=1.0"), 400),
        ("PUT", "/_kv/k", Some("cas=18446744073709551616"), 400),
        ("PUT", "/_kv/k", Some("cas=1&cas=1"), 400),
        ("PUT", "/_kv/k", Some("ack=all"), 400),
        ("PUT", "/_kv/k", Some("min-index=1"), 400),
        ("GET", "/_kv/k", Some("cas=1"), 400),
        ("DELETE", "/_kv/k", Some("cas="), 400),
        ("DELETE", "/_kv/k", Some("ack=none"), 400),
        ("DELETE", "/_kv/k", Some("force"), 400),
        ("GET", "/_kv/", Some("limit=0"), 400),
        ("GET", "/_kv/", Some("limit=1001"), 400),
        ("GET", "/_kv/", Some("limit="), 400),
        ("GET", "/_kv/", Some("limit=ten"), 400),
        ("GET", "/_kv/", Some("limit=1&limit=1"), 400),
        ("GET", "/_kv/", Some("prefix=%"), 400),
        ("GET", "/_kv/", Some("after=%4"), 400),
        ("GET", "/_kv/", Some("consistency=strong"), 400),
        ("GET", "/_kv/", Some("cas=1"), 400),
        ("GET", "/_txn", None, 405),
        ("POST", "/_txn", Some("cas=1"), 400),
        ("POST", "/_txn/", None, 404),
        ("POST", "/_watch", None, 405),
        ("GET", "/_watch", Some("from-index="), 400),
        ("GET", "/_watch", Some("from-index=-1"), 400),
        ("GET", "/_watch", Some("from=1"), 400),
        ("GET", "/_watch", Some("prefix=%zz"), 400),
        ("GET", "/_watch", Some("prefix=a&prefix=a"), 400),
        ("GET", "/_watch", Some("consistency=stale"), 400),
        ("PUT", "/_leader", None, 405),
        ("GET", "/_leader", Some("to=1"), 400),
        ("POST", "/_leader", Some("to"), 400),
        ("POST", "/_leader", Some("to=0"), 400),
        ("POST", "/_leader", Some("to=x"), 400),
        ("POST", "/_leader", Some("to=1&to=1"), 400),
        ("POST", "/_stats", None, 405),
        ("GET", "/_stats", Some("x"), 400),
        ("POST", "/_openapi.yaml", None, 405),
        ("GET", "/_openapi", None, 404),
    ];
    for (method, path, query, expected) in table {
        let method = method.parse().unwrap();
        let fault = route(&method, path, query).unwrap_err();
        assert_eq!(fault.kind().status(), expected, "{method} {path} {query:?}");
    }
}

/// The patterns are what `Allow` and the published description say: each method that they
/// have is understood, and no other is.
#[test]
fn the_patterns_say_which_methods_there_are() {
    for pattern in PATTERNS {
        let path = pattern.path.replace("{key}", "4").replace("{id}", "4");
        for method in ["GET", "PUT", "POST", "DELETE", "PATCH", "HEAD", "OPTIONS", "X"] {
            let routed = route(&method.parse().unwrap(), &path, None);
            let refused = routed.as_ref().err().map(|fault| fault.kind().status());
            let expected = match (pattern.path, method) {
                _ if pattern.has(method) => None,
                // There these have a key, and it is empty.
                ("/_kv/", "PUT" | "DELETE") => Some(400),
                _ => Some(405),
            };
            assert_eq!(refused, expected, "{method} {path}");
        }
    }
}

/// The bound on keys counts decoded bytes.
#[test]
fn keys_have_at_most_4096_bytes() {
    let path = |length| format!("/{}", "%ff".repeat(length));
    assert!(route(&Method::PUT, &path(4096), None).is_ok());
    assert!(route(&Method::PUT, &path(4097), None).is_err());
    let query = |length| format!("prefix={}", "%ff".repeat(length));
    assert!(route(&Method::GET, "/_watch", Some(&query(4096))).is_ok());
    assert!(route(&Method::GET, "/_watch", Some(&query(4097))).is_err());
}
