//! Request targets of anything, and what is accepted of them written anew.

use ::fuzz::Rng;
use raftnode::Consistency;

use super::text::percent_encode;
use super::*;
use crate::command::MAX_KEY_BYTES;

const METHODS: [Method; 6] =
    [Method::GET, Method::PUT, Method::POST, Method::DELETE, Method::PATCH, Method::HEAD];

/// What a target is put together from.
const PIECES: [&str; 32] = [
    "_",
    "/",
    "//",
    "a",
    "key",
    "7",
    "0",
    "00",
    "+1",
    "18446744073709551615",
    "18446744073709551616",
    "%",
    "%%",
    "%2F",
    "%2f",
    "%5F",
    "%00",
    "%ff",
    "%4",
    "%4x",
    "%+1",
    "%\u{e9}",
    "\u{e9}",
    "..",
    "?",
    "&",
    "=",
    "kv",
    "true",
    "none",
    "stale",
    "linearizable",
];

const PARAMETERS: [&str; 13] = [
    "ack=none",
    "trace=1",
    "cas=0",
    "cas=",
    "consistency=leader",
    "consistency=stale",
    "min-index=3",
    "prefix=a%2F",
    "after=%ff",
    "limit=1000",
    "from-index=9",
    "force",
    "dry_run=true",
];

fn path(rng: &mut Rng) -> String {
    let pattern = rng.pick(PATTERNS).path;
    let mut path = pattern.split('{').next().unwrap_or_default().to_owned();
    match rng.below(20) {
        0 => path.clear(),
        1 => path.push_str(&"k".repeat(MAX_KEY_BYTES + rng.at(2))),
        2 => path.push_str(&"%ff".repeat(MAX_KEY_BYTES + rng.at(2))),
        _ => {}
    }
    (0..rng.below(4)).for_each(|_| path.push_str(rng.pick::<&str>(&PIECES)));
    path
}

fn query(rng: &mut Rng) -> Option<String> {
    let mut query = String::new();
    for at in 0..rng.below(4) {
        query.push_str(if at == 0 { "" } else { "&" });
        match rng.below(6) {
            0 => query.push_str(rng.pick::<&str>(&PIECES)),
            _ => query.push_str(rng.pick::<&str>(&PARAMETERS)),
        }
        if rng.chance(1, 10) {
            query.push_str(rng.pick::<&str>(&PIECES));
        }
    }
    rng.chance(2, 3).then_some(query)
}

fn mutated(rng: &mut Rng, text: String) -> String {
    let mut bytes = text.into_bytes();
    if rng.chance(1, 4) {
        let n = 1 + rng.below(3);
        rng.mutate(&mut bytes, n);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The bytes that a raw key stands for, as the contract says it.
fn decoded(raw: &str) -> Option<Vec<u8>> {
    let mut parts = raw.as_bytes().split(|&byte| byte == b'%');
    let mut key = parts.next()?.to_vec();
    for part in parts {
        let digits = part.get(..2).filter(|digits| digits.iter().all(u8::is_ascii_hexdigit))?;
        key.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
        key.extend(&part[2..]);
    }
    Some(key)
}

fn view(parameters: &mut Vec<String>, view: View) {
    let consistency = match view.consistency {
        Consistency::Linearizable => "linearizable",
        Consistency::Leader => "leader",
        Consistency::Stale => "stale",
    };
    parameters.push(format!("consistency={consistency}"));
    parameters.push(format!("min-index={}", view.min_index));
}

fn options(parameters: &mut Vec<String>, options: ChangeOptions) {
    parameters.extend(options.force.then(|| "force=true".to_owned()));
    parameters.extend(options.dry_run.then(|| "dry_run".to_owned()));
}

fn acknowledged(ack: Ack) -> Option<String> {
    match ack {
        Ack::Applied => None,
        Ack::Traced => Some("trace=1".to_owned()),
        Ack::None => Some("ack=none".to_owned()),
    }
}

/// A request for this, in the spelling that the answers use.
fn target(route: &Route<'_>) -> (Method, String, String) {
    let mut all = Vec::new();
    let key = |key: &[u8]| format!("/_kv/{}", percent_encode(key));
    let (method, path) = match route {
        Route::Put { key: of, cas, ack } => {
            all.extend(cas.map(|cas| format!("cas={cas}")));
            all.extend(acknowledged(*ack));
            (Method::PUT, key(of))
        }
        Route::Get { key: of, view: from } => {
            view(&mut all, *from);
            (Method::GET, key(of))
        }
        Route::Delete { key: of, cas, ack } => {
            all.extend(cas.map(|cas| format!("cas={cas}")));
            all.extend(acknowledged(*ack));
            (Method::DELETE, key(of))
        }
        Route::List { prefix, after, limit, view: from } => {
            all.push(format!("prefix={}", percent_encode(prefix)));
            all.extend(after.as_ref().map(|after| format!("after={}", percent_encode(after))));
            all.push(format!("limit={limit}"));
            view(&mut all, *from);
            (Method::GET, "/_kv/".to_owned())
        }
        Route::Watch { prefix, from_index } => {
            all.push(format!("prefix={}", percent_encode(prefix)));
            all.extend(from_index.map(|index| format!("from-index={index}")));
            (Method::GET, "/_watch".to_owned())
        }
        Route::AddMember { id, options: how } => {
            options(&mut all, *how);
            (Method::POST, format!("/{id}"))
        }
        Route::RemoveMember { id, options: how } => {
            options(&mut all, *how);
            (Method::DELETE, format!("/_members/{id}"))
        }
        Route::PatchMember { id, options: how } => {
            options(&mut all, *how);
            (Method::PATCH, format!("/_members/{id}"))
        }
        Route::PostMember { options: how } => {
            options(&mut all, *how);
            (Method::POST, "/_members".to_owned())
        }
        Route::Transfer { to } => {
            all.extend(to.map(|to| format!("to={to}")));
            (Method::POST, "/_leader".to_owned())
        }
        Route::Txn { ack } => {
            all.extend(acknowledged(*ack));
            (Method::POST, "/_txn".to_owned())
        }
        Route::Snapshot => (Method::POST, "/_snapshot".to_owned()),
        Route::OpenApi => (Method::GET, "/_openapi.yaml".to_owned()),
        named => (Method::GET, format!("/_{}", named.name())),
    };
    (method, path, all.join("&"))
}

/// Whatever stands in the first line, it is refused as the client's fault, or it means one thing:
/// keys are what their percent-encoding says, and the same request spelt out means the same.
#[test]
fn fuzz_keys_and_queries() {
    ::fuzz::run("keys_and_queries", |rng| {
        let method = rng.pick(&METHODS).clone();
        let path = path(rng);
        let path = mutated(rng, path);
        let query = query(rng).map(|query| mutated(rng, query));
        match route(&method, &path, query.as_deref()) {
            Ok(found) => {
                if let Route::Put { key, .. } | Route::Get { key, .. } | Route::Delete { key, .. } =
                    &found
                {
                    let raw = path.strip_prefix("/_kv/").or_else(|| path.strip_prefix('/'));
                    assert_eq!(raw.and_then(decoded).as_deref(), Some(&**key), "{path:?}");
                    assert!((1..=MAX_KEY_BYTES).contains(&key.len()));
                }
                let (method, path, query) = target(&found);
                let again = route(&method, &path, Some(&query));
                assert_eq!(again.expect("what is spelt out is accepted"), found);
            }
            Err(fault) => {
                let status = fault.kind().status();
                assert!(matches!(status, 400 | 404 | 405), "{status} for {path:?}");
            }
        }
    });
}
