//! The head of a stream: who speaks to whom, in which cluster, in which protocol.
//!
//! ```text
//!  X-Raft-Version      1              decimal; other versions are refused before anything else
//!  X-Raft-Cluster      16 hex digits, lower case
//!  X-Raft-From         decimal, never 0
//!  X-Raft-To           decimal, never 0
//!  X-Raft-Incarnation  32 hex digits, lower case
//!  X-Raft-Peer-Url     http://host:port
//!  X-Raft-Client-Url   visible ASCII, may be empty
//! ```
//!
//! The request and the response carry the same fields, each from its sender's point of view, and
//! both sides check with the same function. Whether the sender is a member is not asked here: a
//! stale member must be able to return.
//!
//! Invariants:
//! - H1 Every field is written in exactly one way, so that equal heads are equal bytes.
//! - H2 A head that was parsed is well-formed; one that was checked also belongs to this cluster
//!   and was meant for this member.

use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::{StatusCode, header};

use crate::membership;

/// The version of the peer protocol: heads, paths and frames.
const VERSION: u64 = 1;

const CLUSTER: HeaderName = HeaderName::from_static("x-raft-cluster");
const FROM: HeaderName = HeaderName::from_static("x-raft-from");
const TO: HeaderName = HeaderName::from_static("x-raft-to");
const INCARNATION: HeaderName = HeaderName::from_static("x-raft-incarnation");
const PEER_URL: HeaderName = HeaderName::from_static("x-raft-peer-url");
const CLIENT_URL: HeaderName = HeaderName::from_static("x-raft-client-url");
const PROTOCOL: HeaderName = HeaderName::from_static("x-raft-version");

/// The longest URL that a head may state, in bytes: well below what a head may take in all.
const MAX_URL_LEN: usize = 1024;

/// One side's statement at the start of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) cluster: u64,
    pub(super) from: u64,
    pub(super) to: u64,
    pub(super) incarnation: u128,
    pub(super) peer_url: String,
    pub(super) client_url: String,
}

/// Why a head was not accepted, as it is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HeadRefusal {
    pub(super) status: StatusCode,
    pub(super) reason: String,
}

impl HeadRefusal {
    pub(super) fn new(status: StatusCode, reason: impl Into<String>) -> Self {
        Self { status, reason: reason.into() }
    }
}

impl Head {
    /// The head's fields.
    ///
    /// # Errors
    ///
    /// Names a URL that cannot stand in a head.
    pub(super) fn to_headers(&self) -> Result<HeaderMap, String> {
        let text = |name: &str, text: &str| {
            url(text).and_then(|text| HeaderValue::from_str(text).ok()).ok_or_else(|| {
                format!("the {name} {text:?} is longer than {MAX_URL_LEN} bytes or not plain ASCII")
            })
        };
        let mut headers = HeaderMap::with_capacity(8);
        headers.insert(PROTOCOL, HeaderValue::from(VERSION));
        headers.insert(CLUSTER, hex(format!("{:016x}", self.cluster)));
        headers.insert(FROM, HeaderValue::from(self.from));
        headers.insert(TO, HeaderValue::from(self.to));
        headers.insert(INCARNATION, hex(format!("{:032x}", self.incarnation)));
        headers.insert(PEER_URL, text("peer URL", &self.peer_url)?);
        headers.insert(CLIENT_URL, text("client URL", &self.client_url)?);
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        Ok(headers)
    }

    /// Reads and checks what the other side states, as member `own_id` of `cluster`.
    ///
    /// # Errors
    ///
    /// 412 for another version, cluster or addressee; 400 for a field that is missing, stands
    /// twice or is not written as it should be.
    pub(super) fn check(
        headers: &HeaderMap,
        cluster: u64,
        own_id: u64,
    ) -> Result<Self, HeadRefusal> {
        let foreign = |reason: String| HeadRefusal::new(StatusCode::PRECONDITION_FAILED, reason);
        let version: u64 = field(headers, &PROTOCOL, decimal)?;
        if version != VERSION {
            return Err(foreign(format!(
                "this is version {VERSION} of the protocol, not {version}"
            )));
        }
        let head = Self {
            cluster: field(headers, &CLUSTER, |text| {
                fixed_hex(text, 16).and_then(|value| value.try_into().ok())
            })?,
            from: field(headers, &FROM, id)?,
            to: field(headers, &TO, id)?,
            incarnation: field(headers, &INCARNATION, |text| fixed_hex(text, 32))?,
            peer_url: field(headers, &PEER_URL, |text| {
                url(text).filter(|text| membership::peer_url(text).is_ok()).map(str::to_owned)
            })?,
            client_url: field(headers, &CLIENT_URL, |text| url(text).map(str::to_owned))?,
        };
        if head.cluster != cluster {
            return Err(foreign(format!(
                "this is cluster {cluster:016x}, not {:016x}",
                head.cluster
            )));
        }
        if head.to != own_id {
            return Err(foreign(format!("this is member {own_id}, not {}", head.to)));
        }
        if head.from == own_id {
            return Err(foreign(format!("this is member {own_id} itself")));
        }
        Ok(head)
    }
}

fn field<T>(
    headers: &HeaderMap,
    name: &HeaderName,
    parse: impl FnOnce(&str) -> Option<T>,
) -> Result<T, HeadRefusal> {
    let malformed =
        |what: &str| HeadRefusal::new(StatusCode::BAD_REQUEST, format!("{name} {what}"));
    let mut values = headers.get_all(name).iter();
    let value = values.next().ok_or_else(|| malformed("is missing"))?;
    if values.next().is_some() {
        return Err(malformed("stands twice"));
    }
    value.to_str().ok().and_then(parse).ok_or_else(|| malformed("is malformed"))
}

fn hex(text: String) -> HeaderValue {
    HeaderValue::try_from(text).expect("hex digits are plain ASCII")
}

fn decimal(text: &str) -> Option<u64> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit());
    let leading_zero = text.len() > 1 && text.starts_with('0');
    text.parse().ok().filter(|_| plain && !leading_zero)
}

fn id(text: &str) -> Option<u64> {
    decimal(text).filter(|id| *id != 0)
}

fn fixed_hex(text: &str, len: usize) -> Option<u128> {
    let lower = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if text.len() != len || !lower {
        return None;
    }
    u128::from_str_radix(text, 16).ok()
}

fn url(text: &str) -> Option<&str> {
    let plain = text.bytes().all(|byte| byte.is_ascii_graphic());
    (text.len() <= MAX_URL_LEN && plain).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head() -> Head {
        Head {
            cluster: 0xabc,
            from: 1,
            to: 2,
            incarnation: 0xdef,
            peer_url: "http://127.0.0.1:12379".into(),
            client_url: "http://127.0.0.1:12380".into(),
        }
    }

    /// Members of different builds talk to each other: names and spellings are pinned.
    #[test]
    fn head_text_is_pinned() {
        let headers = head().to_headers().unwrap();
        let mut lines = headers
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
            .collect::<Vec<_>>();
        lines.sort();
        let golden = [
            "cache-control: no-store",
            "x-raft-client-url: http://127.0.0.1:12380",
            "x-raft-cluster: 0000000000000abc",
            "x-raft-from: 1",
            "x-raft-incarnation: 00000000000000000000000000000def",
            "x-raft-peer-url: http://127.0.0.1:12379",
            "x-raft-to: 2",
            "x-raft-version: 1",
        ];
        assert_eq!(lines, golden);
        assert_eq!(Head::check(&headers, 0xabc, 2).unwrap(), head());
    }

    /// Each wrong head gets its status and a reason that names the field (H2).
    #[test]
    fn wrong_heads_are_refused() {
        let table = [
            ("x-raft-version", "2", 412, "version 1"),
            ("x-raft-version", "one", 400, "x-raft-version"),
            ("x-raft-cluster", "0000000000000abd", 412, "0000000000000abd"),
            ("x-raft-cluster", "abc", 400, "x-raft-cluster"),
            ("x-raft-cluster", "0000000000000ABC", 400, "x-raft-cluster"),
            ("x-raft-to", "3", 412, "member 2, not 3"),
            ("x-raft-to", "0", 400, "x-raft-to"),
            ("x-raft-to", "02", 400, "x-raft-to"),
            ("x-raft-from", "2", 412, "itself"),
            ("x-raft-from", "0", 400, "x-raft-from"),
            ("x-raft-from", "+1", 400, "x-raft-from"),
            ("x-raft-from", "18446744073709551616", 400, "x-raft-from"),
            ("x-raft-incarnation", "def", 400, "x-raft-incarnation"),
            ("x-raft-peer-url", "https://a:1", 400, "x-raft-peer-url"),
            ("x-raft-client-url", "a b", 400, "x-raft-client-url"),
        ];
        for (name, value, status, reason) in table {
            let mut headers = head().to_headers().unwrap();
            headers.insert(name, HeaderValue::from_static(value));
            let refusal = Head::check(&headers, 0xabc, 2).unwrap_err();
            assert_eq!(refusal.status.as_u16(), status, "{name}: {value}: {refusal:?}");
            assert!(refusal.reason.contains(reason), "{name}: {value}: {refusal:?}");
        }
        for name in head().to_headers().unwrap().keys().filter(|name| *name != "cache-control") {
            let mut headers = head().to_headers().unwrap();
            let value = headers.get(name).unwrap().clone();
            headers.append(name.clone(), value);
            assert_eq!(Head::check(&headers, 0xabc, 2).unwrap_err().status.as_u16(), 400);
            headers.remove(name);
            assert_eq!(Head::check(&headers, 0xabc, 2).unwrap_err().status.as_u16(), 400);
        }
    }
}
