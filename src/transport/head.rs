//! The head of a stream: who speaks to whom, in which cluster, in which protocol.
//!
//! ```text
//!  X-Raft-Version      1              decimal; other versions are refused before anything else
//!  X-Raft-Cluster      16 hex digits, lower case
//!  X-Raft-From         decimal, never 0
//!  X-Raft-To           decimal, never 0
//!  X-Raft-Incarnation  32 hex digits, lower case
//!  X-Raft-Pins         the incarnations that the sender knows: <id>=<32 hex digits>, parted by
//!                      commas, ids ascending; may be empty
//!  X-Raft-Peer-Url     http://host:port
//!  X-Raft-Client-Url   visible ASCII, may be empty
//! ```
//!
//! The request and the response carry the same fields, each from its sender's point of view, and
//! both sides read it with the same function; what follows from it is judged by the gate. A
//! request to join is written before its sender knows a cluster or whom it asks: only there both
//! the cluster and the addressee are 0.
//!
//! Invariants:
//! - H1 Every field is written in exactly one way, so that equal heads are equal bytes.
//! - H2 A head that was parsed is well-formed.

use std::collections::BTreeMap;

use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::{StatusCode, header};

use crate::membership;

/// The version of the peer protocol: heads, paths and frames.
pub(crate) const VERSION: u64 = 1;

const CLUSTER: HeaderName = HeaderName::from_static("x-raft-cluster");
const FROM: HeaderName = HeaderName::from_static("x-raft-from");
const TO: HeaderName = HeaderName::from_static("x-raft-to");
const INCARNATION: HeaderName = HeaderName::from_static("x-raft-incarnation");
const PEER_URL: HeaderName = HeaderName::from_static("x-raft-peer-url");
const CLIENT_URL: HeaderName = HeaderName::from_static("x-raft-client-url");
const PROTOCOL: HeaderName = HeaderName::from_static("x-raft-version");

const PINS: HeaderName = HeaderName::from_static("x-raft-pins");

/// How many pins a head carries: more members than a cluster sensibly has, and 14 KiB at most.
/// The gate picks which ones when there are more.
pub(super) const MAX_PINS: usize = 256;
/// An id, an incarnation, what parts them and what follows.
const MAX_PIN_LEN: usize = 20 + 1 + 32 + 1;

/// The longest URL that a head may state, in bytes: well below what a head may take in all.
const MAX_URL_LEN: usize = 1024;

/// Who is addressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A member, by one of the same cluster.
    Member,
    /// Whoever answers there, by someone who knows no cluster yet.
    Joining,
}

/// One side's statement at the start of a stream or a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) cluster: u64,
    pub(crate) from: u64,
    pub(crate) to: u64,
    pub(crate) incarnation: u128,
    pub(crate) pins: BTreeMap<u64, u128>,
    pub(crate) peer_url: String,
    pub(crate) client_url: String,
}

/// Why a head was not accepted, as it is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HeadRefusal {
    pub(crate) status: StatusCode,
    pub(crate) reason: String,
}

impl HeadRefusal {
    pub(crate) fn new(status: StatusCode, reason: impl Into<String>) -> Self {
        Self { status, reason: reason.into() }
    }

    /// Nobody could answer.
    #[cfg(feature = "simulation")]
    pub(crate) fn unavailable(reason: &str) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, reason)
    }

    #[cfg(feature = "simulation")]
    pub(crate) fn code(&self) -> u16 {
        self.status.as_u16()
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
        let mut headers = HeaderMap::with_capacity(10);
        headers.insert(PROTOCOL, HeaderValue::from(VERSION));
        headers.insert(CLUSTER, plain(format!("{:016x}", self.cluster)));
        headers.insert(FROM, HeaderValue::from(self.from));
        headers.insert(TO, HeaderValue::from(self.to));
        headers.insert(INCARNATION, plain(format!("{:032x}", self.incarnation)));
        headers.insert(PINS, plain(pins_text(&self.pins)));
        headers.insert(PEER_URL, text("peer URL", &self.peer_url)?);
        headers.insert(CLIENT_URL, text("client URL", &self.client_url)?);
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        Ok(headers)
    }

    /// Reads what the other side states.
    ///
    /// # Errors
    ///
    /// 412 for another version; 400 for a field that is missing, stands twice or is not written
    /// as it should be.
    pub(super) fn parse(headers: &HeaderMap, kind: Kind) -> Result<Self, HeadRefusal> {
        version(headers)?;
        let blank = |value: u64| (value != 0) == (kind == Kind::Member);
        Ok(Self {
            cluster: field(headers, &CLUSTER, |text| hex_cluster(text).filter(|id| blank(*id)))?,
            from: field(headers, &FROM, id)?,
            to: field(headers, &TO, |text| decimal(text).filter(|id| blank(*id)))?,
            incarnation: field(headers, &INCARNATION, |text| fixed_hex(text, 32))?,
            pins: field(headers, &PINS, parse_pins)?,
            peer_url: field(headers, &PEER_URL, |text| {
                url(text).filter(|text| membership::peer_url(text).is_ok()).map(str::to_owned)
            })?,
            client_url: field(headers, &CLIENT_URL, |text| url(text).map(str::to_owned))?,
        })
    }
}

/// What a member says of itself to anyone who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) cluster: u64,
    pub(super) id: u64,
    pub(super) incarnation: u128,
}

impl Claim {
    pub(super) fn to_headers(self) -> HeaderMap {
        let mut headers = HeaderMap::with_capacity(4);
        headers.insert(PROTOCOL, HeaderValue::from(VERSION));
        headers.insert(CLUSTER, plain(format!("{:016x}", self.cluster)));
        headers.insert(FROM, HeaderValue::from(self.id));
        headers.insert(INCARNATION, plain(format!("{:032x}", self.incarnation)));
        headers
    }

    /// # Errors
    ///
    /// As those of [`Head::parse`].
    pub(super) fn parse(headers: &HeaderMap) -> Result<Self, HeadRefusal> {
        version(headers)?;
        Ok(Self {
            cluster: field(headers, &CLUSTER, hex_cluster)?,
            id: field(headers, &FROM, id)?,
            incarnation: field(headers, &INCARNATION, |text| fixed_hex(text, 32))?,
        })
    }
}

fn version(headers: &HeaderMap) -> Result<(), HeadRefusal> {
    let version: u64 = field(headers, &PROTOCOL, decimal)?;
    if version == VERSION {
        return Ok(());
    }
    let reason = format!("this is version {VERSION} of the protocol, not {version}");
    Err(HeadRefusal::new(StatusCode::PRECONDITION_FAILED, reason))
}

/// The one field of this name, parsed.
///
/// # Errors
///
/// 400 when it is missing, stands twice or is malformed.
pub(super) fn field<T>(
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

pub(super) fn plain(text: String) -> HeaderValue {
    HeaderValue::try_from(text).expect("digits and commas are plain ASCII")
}

pub(super) fn decimal(text: &str) -> Option<u64> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit());
    let leading_zero = text.len() > 1 && text.starts_with('0');
    text.parse().ok().filter(|_| plain && !leading_zero)
}

fn id(text: &str) -> Option<u64> {
    decimal(text).filter(|id| *id != 0)
}

pub(super) fn fixed_hex(text: &str, len: usize) -> Option<u128> {
    let lower = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if text.len() != len || !lower {
        return None;
    }
    u128::from_str_radix(text, 16).ok()
}

fn hex_cluster(text: &str) -> Option<u64> {
    fixed_hex(text, 16).and_then(|value| value.try_into().ok())
}

fn pins_text(pins: &BTreeMap<u64, u128>) -> String {
    let pin = |(id, incarnation): (&u64, &u128)| format!("{id}={incarnation:032x}");
    pins.iter().map(pin).collect::<Vec<_>>().join(",")
}

fn parse_pins(text: &str) -> Option<BTreeMap<u64, u128>> {
    if text.len() > MAX_PINS * MAX_PIN_LEN {
        return None;
    }
    let mut pins = BTreeMap::new();
    for pin in text.split(',').filter(|_| !text.is_empty()) {
        let (text, incarnation) = pin.split_once('=')?;
        let (id, incarnation) = (id(text)?, fixed_hex(incarnation, 32)?);
        // Ascending, and so each once (H1).
        if pins.last_key_value().is_some_and(|(last, _)| *last >= id) {
            return None;
        }
        pins.insert(id, incarnation);
    }
    (pins.len() <= MAX_PINS).then_some(pins)
}

fn url(text: &str) -> Option<&str> {
    let plain = text.bytes().all(|byte| byte.is_ascii_graphic());
    (text.len() <= MAX_URL_LEN && plain).then_some(text)
}

#[cfg(test)]
mod fuzz;

#[cfg(test)]
mod tests {
    use super::*;

    fn head() -> Head {
        Head {
            cluster: 0xabc,
            from: 1,
            to: 2,
            incarnation: 0xdef,
            pins: [(3, 0x1f), (10, 2)].into(),
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
            "x-raft-pins: 3=0000000000000000000000000000001f,10=00000000000000000000000000000002",
            "x-raft-to: 2",
            "x-raft-version: 1",
        ];
        assert_eq!(lines, golden);
        assert_eq!(Head::parse(&headers, Kind::Member).unwrap(), head());
    }

    /// Each wrong head gets its status and a reason that names the field (H2).
    #[test]
    fn wrong_heads_are_refused() {
        let table = [
            ("x-raft-version", "2", 412, "version 1"),
            ("x-raft-version", "one", 400, "x-raft-version"),
            ("x-raft-cluster", "0000000000000000", 400, "x-raft-cluster"),
            ("x-raft-pins", "1", 400, "x-raft-pins"),
            ("x-raft-pins", "0=00000000000000000000000000000001", 400, "x-raft-pins"),
            ("x-raft-pins", "1=0000000000000000000000000000000g", 400, "x-raft-pins"),
            ("x-raft-pins", "1=00000000000000000000000000000001,", 400, "x-raft-pins"),
            (
                "x-raft-pins",
                "2=00000000000000000000000000000001,1=00000000000000000000000000000001",
                400,
                "x-raft-pins",
            ),
            ("x-raft-cluster", "abc", 400, "x-raft-cluster"),
            ("x-raft-cluster", "0000000000000ABC", 400, "x-raft-cluster"),
            ("x-raft-to", "0", 400, "x-raft-to"),
            ("x-raft-to", "02", 400, "x-raft-to"),
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
            let refusal = Head::parse(&headers, Kind::Member).unwrap_err();
            assert_eq!(refusal.status.as_u16(), status, "{name}: {value}: {refusal:?}");
            assert!(refusal.reason.contains(reason), "{name}: {value}: {refusal:?}");
        }
        for name in head().to_headers().unwrap().keys().filter(|name| *name != "cache-control") {
            let mut headers = head().to_headers().unwrap();
            let value = headers.get(name).unwrap().clone();
            headers.append(name.clone(), value);
            assert_eq!(Head::parse(&headers, Kind::Member).unwrap_err().status.as_u16(), 400);
            headers.remove(name);
            assert_eq!(Head::parse(&headers, Kind::Member).unwrap_err().status.as_u16(), 400);
        }
    }

    /// Pins are bounded, and the largest list that is written is also read.
    #[test]
    fn the_longest_list_of_pins_passes() {
        let pins = |n: u64| (0..n).map(|nth| (u64::MAX - nth, u128::MAX)).collect();
        let most = Head { pins: pins(MAX_PINS as u64), ..head() };
        let headers = most.to_headers().unwrap();
        assert_eq!(Head::parse(&headers, Kind::Member).unwrap(), most);
        let more = Head { pins: pins(MAX_PINS as u64 + 1), ..head() };
        let refusal = Head::parse(&more.to_headers().unwrap(), Kind::Member).unwrap_err();
        assert!(refusal.reason.contains("x-raft-pins"), "{refusal:?}");
    }

    /// Who joins states no cluster and no addressee, and nobody else may leave them out.
    #[test]
    fn only_joining_heads_are_addressed_to_nobody() {
        let joining = Head { cluster: 0, to: 0, ..head() };
        let headers = joining.to_headers().unwrap();
        assert_eq!(Head::parse(&headers, Kind::Joining).unwrap(), joining);
        assert!(Head::parse(&headers, Kind::Member).is_err());
        assert!(Head::parse(&head().to_headers().unwrap(), Kind::Joining).is_err());
        let claim = Claim { cluster: 0, id: 3, incarnation: 4 };
        assert_eq!(Claim::parse(&claim.to_headers()).unwrap(), claim);
    }
}
