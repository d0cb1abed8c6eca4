//! From a request's first line to what it asks for: a pure function, and the whole table.
//!
//! The path is taken raw. Only percent-encoding is undone, and only in keys: no dot segments, no
//! `+`, no trailing slash is ever rewritten. Raw paths that begin with `/_` are the program's
//! own; the key `_x` is `/%5Fx`.

use std::borrow::Cow;

use hyper::Method;
use raftnode::Consistency;
use raftnode::membership::ChangeOptions;

use super::answer::Fault;
use crate::command::MAX_KEY_BYTES;

/// What a request asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Route<'a> {
    Put {
        key: Cow<'a, [u8]>,
        ack: Ack,
    },
    Get {
        key: Cow<'a, [u8]>,
        consistency: Consistency,
        min_index: u64,
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
    Snapshot,
    Metrics,
    Status,
    Health,
    Ready,
    Version,
}

impl Route<'_> {
    /// What it is called where requests are counted.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Route::Put { .. } => "put",
            Route::Get { .. } => "get",
            Route::AddMember { .. } | Route::PostMember { .. } => "member_add",
            Route::RemoveMember { .. } => "member_remove",
            Route::PatchMember { .. } => "member_update",
            Route::Members => "members",
            Route::Snapshot => "snapshot",
            Route::Metrics => "metrics",
            Route::Status => "status",
            Route::Health => "health",
            Route::Ready => "ready",
            Route::Version => "version",
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

const KEY_METHODS: &str = "PUT, GET, POST, DELETE";

/// The table.
pub(super) fn route<'a>(
    method: &Method,
    path: &'a str,
    query: Option<&str>,
) -> Result<Route<'a>, Fault> {
    if path.starts_with("/_") {
        return own_route(method, path, query);
    }
    match *method {
        Method::PUT => {
            let key = key(path)?;
            let mut ack = None;
            each_parameter(query, |name, value| match (name, value) {
                ("ack", "none") => set(&mut ack, Ack::None),
                _ => Parameter::Unknown,
            })?;
            Ok(Route::Put { key, ack: ack.unwrap_or(Ack::Applied) })
        }
        Method::GET => {
            let key = key(path)?;
            let (mut consistency, mut min_index) = (None, None);
            each_parameter(query, |name, value| match name {
                "consistency" => match value {
                    "linearizable" => set(&mut consistency, Consistency::Linearizable),
                    "leader" => set(&mut consistency, Consistency::Leader),
                    "stale" => set(&mut consistency, Consistency::Stale),
                    _ => Parameter::Unknown,
                },
                "min-index" => match number(value) {
                    Some(index) => set(&mut min_index, index),
                    None => Parameter::Unknown,
                },
                _ => Parameter::Unknown,
            })?;
            let consistency = consistency.unwrap_or_default();
            Ok(Route::Get { key, consistency, min_index: min_index.unwrap_or(0) })
        }
        Method::POST => {
            let id = member_id(path.strip_prefix('/'))?;
            Ok(Route::AddMember { id, options: options(query)? })
        }
        Method::DELETE => {
            let id = member_id(path.strip_prefix('/'))?;
            Ok(Route::RemoveMember { id, options: options(query)? })
        }
        _ => Err(Fault::method_not_allowed(KEY_METHODS)),
    }
}

fn own_route<'a>(method: &Method, path: &'a str, query: Option<&str>) -> Result<Route<'a>, Fault> {
    let member = path.strip_prefix("/_members/");
    let allow = match path {
        "/_status" | "/_health" | "/_ready" | "/_version" | "/_metrics" => "GET",
        "/_members" => "GET, POST",
        "/_snapshot" => "POST",
        _ if member.is_some() => "PATCH, DELETE",
        _ => {
            return Err(Fault::not_found(
                "nothing is served here; a key that begins with _ is written %5F",
            ));
        }
    };
    if !allow.split(", ").any(|allowed| allowed == method.as_str()) {
        return Err(Fault::method_not_allowed(allow));
    }
    let route = match path {
        "/_members" if method == Method::POST => {
            return Ok(Route::PostMember { options: options(query)? });
        }
        "/_members" => Route::Members,
        "/_snapshot" => Route::Snapshot,
        "/_metrics" => Route::Metrics,
        "/_status" => Route::Status,
        "/_health" => Route::Health,
        "/_ready" => Route::Ready,
        "/_version" => Route::Version,
        _ => {
            let (id, options) = (member_id(member)?, options(query)?);
            return Ok(match *method {
                Method::PATCH => Route::PatchMember { id, options },
                _ => Route::RemoveMember { id, options },
            });
        }
    };
    each_parameter(query, |_, _| Parameter::Unknown)?;
    Ok(route)
}

/// The key in a path: whatever follows the first slash, percent-decoded.
fn key(path: &str) -> Result<Cow<'_, [u8]>, Fault> {
    let raw = path.strip_prefix('/').ok_or_else(|| {
        Fault::malformed("the request target has no path that begins with a slash")
    })?;
    let key = percent_decode(raw)
        .ok_or_else(|| Fault::malformed("a % in the path is not followed by two hex digits"))?;
    match key.len() {
        0 => Err(Fault::malformed("the key is empty; it is the path after its first slash")),
        1..=MAX_KEY_BYTES => Ok(key),
        length => Err(Fault::malformed(format!(
            "the key has {length} bytes; keys have 1 to {MAX_KEY_BYTES}"
        ))),
    }
}

/// `None` when a `%` is not followed by two hex digits. Borrows when there is none.
fn percent_decode(raw: &str) -> Option<Cow<'_, [u8]>> {
    let raw = raw.as_bytes();
    if !raw.contains(&b'%') {
        return Some(Cow::Borrowed(raw));
    }
    let digit = |byte: &u8| char::from(*byte).to_digit(16).and_then(|d| u8::try_from(d).ok());
    let mut decoded = Vec::with_capacity(raw.len());
    let mut rest = raw;
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        if *byte == b'%' {
            let [high, low, after @ ..] = after else { return None };
            decoded.push(digit(high)? << 4 | digit(low)?);
            rest = after;
        } else {
            decoded.push(*byte);
        }
    }
    Some(Cow::Owned(decoded))
}

fn member_id(text: Option<&str>) -> Result<u64, Fault> {
    let id = text.and_then(number).filter(|id| *id != 0);
    id.ok_or_else(|| Fault::malformed("bad id (not a u64 > 0)"))
}

/// `?force` and `?dry_run`, each alone or `=true`.
fn options(query: Option<&str>) -> Result<ChangeOptions, Fault> {
    let (mut force, mut dry_run) = (None, None);
    each_parameter(query, |name, value| match (name, value) {
        ("force", "" | "true") => set(&mut force, ()),
        ("dry_run", "" | "true") => set(&mut dry_run, ()),
        _ => Parameter::Unknown,
    })?;
    Ok(ChangeOptions { force: force.is_some(), dry_run: dry_run.is_some() })
}

/// Decimal digits only: no sign, no space.
fn number(text: &str) -> Option<u64> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| digits)
}

/// What became of one parameter of a query.
enum Parameter {
    Taken,
    Repeated,
    Unknown,
}

fn set<T>(place: &mut Option<T>, value: T) -> Parameter {
    match place.replace(value) {
        None => Parameter::Taken,
        Some(_) => Parameter::Repeated,
    }
}

/// Refuses what is not understood: a misspelt `?consistency` must not become another one.
fn each_parameter(
    query: Option<&str>,
    mut take: impl FnMut(&str, &str) -> Parameter,
) -> Result<(), Fault> {
    let Some(query) = query.filter(|query| !query.is_empty()) else { return Ok(()) };
    for pair in query.split('&') {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        match take(name, value) {
            Parameter::Taken => {}
            Parameter::Repeated => {
                return Err(Fault::malformed(format!("the query has {name:?} twice")));
            }
            Parameter::Unknown => {
                return Err(Fault::malformed(format!(
                    "the query's {pair:?} is not known for this method and path"
                )));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &[u8]) -> Route<'_> {
        Route::Put { key: key.into(), ack: Ack::Applied }
    }

    fn get(key: &[u8], consistency: Consistency, min_index: u64) -> Route<'_> {
        Route::Get { key: key.into(), consistency, min_index }
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
            ("PUT", "/k", Some("ack=none"), Route::Put { key: b"k"[..].into(), ack: Ack::None }),
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
        ];
        for (method, path, query, expected) in table {
            let method = method.parse().unwrap();
            let fault = route(&method, path, query).unwrap_err();
            assert_eq!(fault.status().as_u16(), expected, "{method} {path} {query:?}");
        }
    }

    /// The bound on keys counts decoded bytes.
    #[test]
    fn keys_have_at_most_4096_bytes() {
        let path = |length| format!("/{}", "%ff".repeat(length));
        assert!(route(&Method::PUT, &path(4096), None).is_ok());
        assert!(route(&Method::PUT, &path(4097), None).is_err());
    }
}
