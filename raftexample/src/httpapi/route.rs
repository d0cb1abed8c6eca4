//! From a request's first line to what it asks for: a pure function, and the whole table.
//!
//! The path is taken raw. Only percent-encoding is undone, and only in keys: no dot segments, no
//! `+`, no trailing slash is ever rewritten. Raw paths that begin with `/_` are the program's
//! own; the key `_x` is `/%5Fx`.

use std::borrow::Cow;

use hyper::Method;
use raftnode::membership::ChangeOptions;

use super::answer::Fault;
use super::query::{self, View};
use super::text;

/// A path of the client port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pattern {
    /// As OpenAPI writes it. A parameter in braces is the whole rest of the path.
    pub path: &'static str,
    /// Its methods, as the `Allow` header has them.
    pub methods: &'static str,
}

const fn pattern(path: &'static str, methods: &'static str) -> Pattern {
    Pattern { path, methods }
}

/// Every path. The first that fits a request's path and method is the one.
pub const PATTERNS: &[Pattern] = &[
    pattern("/_kv/", "GET"),
    pattern("/_kv/{key}", "GET, PUT, DELETE"),
    pattern("/_txn", "POST"),
    pattern("/_watch", "GET"),
    pattern("/_members", "GET, POST"),
    pattern("/_members/{id}", "PATCH, DELETE"),
    pattern("/_leader", "GET, POST"),
    pattern("/_snapshot", "POST"),
    pattern("/_status", "GET"),
    pattern("/_stats", "GET"),
    pattern("/_health", "GET"),
    pattern("/_ready", "GET"),
    pattern("/_metrics", "GET"),
    pattern("/_version", "GET"),
    pattern("/_openapi.yaml", "GET"),
    ROOT,
];

/// The original's namespace: everything that does not begin with `/_`. What is a key to two of
/// its methods is a member's id to the other two.
const ROOT: Pattern = pattern("/{key}", "PUT, GET, POST, DELETE");

impl Pattern {
    fn has(&self, method: &str) -> bool {
        self.methods.split(", ").any(|allowed| allowed == method)
    }

    /// The rest of a path that fits.
    fn rest<'a>(&self, path: &'a str) -> Option<&'a str> {
        match self.path.split_once('{') {
            Some((prefix, _)) => path.strip_prefix(prefix),
            None => path.strip_prefix(self.path).filter(|rest| rest.is_empty()),
        }
    }
}

/// What a request asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Route<'a> {
    Put {
        key: Cow<'a, [u8]>,
        cas: Option<u64>,
        ack: Ack,
    },
    Get {
        key: Cow<'a, [u8]>,
        view: View,
    },
    Delete {
        key: Cow<'a, [u8]>,
        cas: Option<u64>,
    },
    List {
        prefix: Cow<'a, [u8]>,
        after: Option<Cow<'a, [u8]>>,
        limit: usize,
        view: View,
    },
    /// Everything is in the body.
    Txn,
    Watch {
        prefix: Cow<'a, [u8]>,
        from_index: Option<u64>,
    },
    /// The URL is the body.
    AddMember {
        id: u64,
        options: ChangeOptions,
    },
    RemoveMember {
        id: u64,
        options: ChangeOptions,
    },
    Members,
    /// Everything is in the body.
    PostMember {
        options: ChangeOptions,
    },
    PatchMember {
        id: u64,
        options: ChangeOptions,
    },
    Leader,
    Transfer {
        to: Option<u64>,
    },
    Snapshot,
    Metrics,
    Status,
    Stats,
    Health,
    Ready,
    Version,
    OpenApi,
}

impl Route<'_> {
    /// What it is called where requests are counted.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Route::Put { .. } => "put",
            Route::Get { .. } => "get",
            Route::Delete { .. } => "delete",
            Route::List { .. } => "list",
            Route::Txn => "txn",
            Route::Watch { .. } => "watch",
            Route::AddMember { .. } | Route::PostMember { .. } => "member_add",
            Route::RemoveMember { .. } => "member_remove",
            Route::PatchMember { .. } => "member_update",
            Route::Members => "members",
            Route::Leader => "leader",
            Route::Transfer { .. } => "transfer",
            Route::Snapshot => "snapshot",
            Route::Metrics => "metrics",
            Route::Status => "status",
            Route::Stats => "stats",
            Route::Health => "health",
            Route::Ready => "ready",
            Route::Version => "version",
            Route::OpenApi => "openapi",
        }
    }
}

/// When a put is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ack {
    /// After it is applied.
    Applied,
    /// At once, as the original did.
    None,
}

/// The table.
pub(super) fn route<'a>(
    method: &Method,
    path: &'a str,
    query: Option<&'a str>,
) -> Result<Route<'a>, Fault> {
    if !path.starts_with("/_") {
        return root(method, path, query);
    }
    let method = method.as_str();
    let fits = |pattern: &'static Pattern| Some((pattern, pattern.rest(path)?));
    let own_patterns = PATTERNS.iter().filter(|pattern| **pattern != ROOT);
    let mut fitting = own_patterns.filter_map(fits).peekable();
    let Some((first, _)) = fitting.peek().copied() else {
        return Err(Fault::not_found(
            "nothing is served here; a key that begins with _ is written %5F",
        ));
    };
    match fitting.find(|(pattern, _)| pattern.has(method)) {
        Some((pattern, rest)) => own(method, pattern, rest, query),
        None => Err(Fault::method_not_allowed(first.methods)),
    }
}

fn root<'a>(method: &Method, path: &'a str, query: Option<&'a str>) -> Result<Route<'a>, Fault> {
    let key = || {
        let raw = path.strip_prefix('/').ok_or_else(|| {
            Fault::malformed("the request target has no path that begins with a slash")
        })?;
        text::path_key(raw)
    };
    let id = || member_id(path.strip_prefix('/'));
    match *method {
        Method::PUT => Ok(Route::Put { key: key()?, cas: None, ack: query::ack(query)? }),
        Method::GET => Ok(Route::Get { key: key()?, view: query::view(query)? }),
        Method::POST => Ok(Route::AddMember { id: id()?, options: query::options(query)? }),
        Method::DELETE => Ok(Route::RemoveMember { id: id()?, options: query::options(query)? }),
        _ => Err(Fault::method_not_allowed(ROOT.methods)),
    }
}

/// The paths that begin with `/_`; `rest` is what the pattern has in braces.
fn own<'a>(
    method: &str,
    pattern: &'static Pattern,
    rest: &'a str,
    query: Option<&'a str>,
) -> Result<Route<'a>, Fault> {
    let plain = match (method, pattern.path) {
        ("GET", "/_kv/{key}") => {
            return Ok(Route::Get { key: text::path_key(rest)?, view: query::view(query)? });
        }
        ("PUT", "/_kv/{key}") => {
            let key = text::path_key(rest)?;
            let (cas, ack) = query::cas_and_ack(query)?;
            return Ok(Route::Put { key, cas, ack });
        }
        ("DELETE", "/_kv/{key}") => {
            return Ok(Route::Delete { key: text::path_key(rest)?, cas: query::cas(query)? });
        }
        ("GET", "/_kv/") => return query::list(query),
        ("GET", "/_watch") => return query::watch(query),
        ("POST", "/_leader") => return Ok(Route::Transfer { to: query::to(query)? }),
        ("POST", "/_members") => {
            return Ok(Route::PostMember { options: query::options(query)? });
        }
        ("PATCH", _) => {
            let (id, options) = (member_id(Some(rest))?, query::options(query)?);
            return Ok(Route::PatchMember { id, options });
        }
        ("DELETE", _) => {
            let (id, options) = (member_id(Some(rest))?, query::options(query)?);
            return Ok(Route::RemoveMember { id, options });
        }
        ("GET", "/_members") => Route::Members,
        ("GET", "/_leader") => Route::Leader,
        ("POST", "/_txn") => Route::Txn,
        ("POST", "/_snapshot") => Route::Snapshot,
        ("GET", "/_status") => Route::Status,
        ("GET", "/_stats") => Route::Stats,
        ("GET", "/_health") => Route::Health,
        ("GET", "/_ready") => Route::Ready,
        ("GET", "/_metrics") => Route::Metrics,
        ("GET", "/_version") => Route::Version,
        ("GET", "/_openapi.yaml") => Route::OpenApi,
        _ => return Err(Fault::method_not_allowed(pattern.methods)),
    };
    query::none(query)?;
    Ok(plain)
}

fn member_id(raw: Option<&str>) -> Result<u64, Fault> {
    let id = raw.and_then(text::number).filter(|id| *id != 0);
    id.ok_or_else(bad_id)
}

/// For what should be a member's id.
pub(super) fn bad_id() -> Fault {
    Fault::malformed("bad id (not a u64 > 0)")
}

#[cfg(test)]
mod tests {
    use raftnode::Consistency;

    use super::*;

    fn put(key: &[u8]) -> Route<'_> {
        conditional_put(key, None, Ack::Applied)
    }

    fn conditional_put(key: &[u8], cas: Option<u64>, ack: Ack) -> Route<'_> {
        Route::Put { key: key.into(), cas, ack }
    }

    fn delete(key: &[u8], cas: Option<u64>) -> Route<'_> {
        Route::Delete { key: key.into(), cas }
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
                Route::List {
                    prefix,
                    after,
                    limit,
                    view: View { consistency: Stale, min_index: 3 },
                }
            }),
            ("POST", "/_txn", None, Route::Txn),
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
}
