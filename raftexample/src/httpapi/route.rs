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
        ack: Ack,
    },
    List {
        prefix: Cow<'a, [u8]>,
        after: Option<Cow<'a, [u8]>>,
        limit: usize,
        view: View,
    },
    /// Everything else is in the body.
    Txn {
        ack: Ack,
    },
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
            Route::Txn { .. } => "txn",
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

/// When a write is answered, and with what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ack {
    /// After it is applied.
    Applied,
    /// Then, and with where the time went.
    Traced,
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
            let key = text::path_key(rest)?;
            let (cas, ack) = query::cas_and_trace(query)?;
            return Ok(Route::Delete { key, cas, ack });
        }
        ("POST", "/_txn") => return Ok(Route::Txn { ack: query::trace(query)? }),
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
mod fuzz;
#[cfg(test)]
mod tests;
