//! From a request's first line to what it asks for: a pure function, and the whole table.
//!
//! The path is taken raw. Only percent-encoding is undone, and only in keys: no dot segments, no
//! `+`, no trailing slash is ever rewritten. Raw paths that begin with `/_` are the program's
//! own; the key `_x` is `/%5Fx`.

use std::borrow::Cow;

use hyper::Method;
use raftnode::Consistency;

use super::answer::Fault;
use crate::command::MAX_KEY_BYTES;

/// What a request asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Route<'a> {
    Put { key: Cow<'a, [u8]>, ack: Ack },
    Get { key: Cow<'a, [u8]>, consistency: Consistency, min_index: u64 },
    AddMember { id: u64 },
    RemoveMember { id: u64 },
    Status,
    Health,
    Ready,
    Version,
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
        Method::POST => Ok(Route::AddMember { id: member_id(path, query)? }),
        Method::DELETE => Ok(Route::RemoveMember { id: member_id(path, query)? }),
        _ => Err(Fault::method_not_allowed(KEY_METHODS)),
    }
}

fn own_route<'a>(method: &Method, path: &'a str, query: Option<&str>) -> Result<Route<'a>, Fault> {
    let route = match path {
        "/_status" => Route::Status,
        "/_health" => Route::Health,
        "/_ready" => Route::Ready,
        "/_version" => Route::Version,
        _ => {
            return Err(Fault::not_found(
                "nothing is served here; a key that begins with _ is written %5F",
            ));
        }
    };
    if method != Method::GET {
        return Err(Fault::method_not_allowed("GET"));
    }
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

fn member_id(path: &str, query: Option<&str>) -> Result<u64, Fault> {
    let id = path.strip_prefix('/').and_then(number).filter(|id| *id != 0);
    let id = id.ok_or_else(|| Fault::malformed("bad id (not a u64 > 0)"))?;
    each_parameter(query, |_, _| Parameter::Unknown)?;
    Ok(id)
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
            ("POST", "/4", None, Route::AddMember { id: 4 }),
            ("DELETE", "/18446744073709551615", None, Route::RemoveMember { id: u64::MAX }),
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
            ("POST", "/4", Some("force"), 400),
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
