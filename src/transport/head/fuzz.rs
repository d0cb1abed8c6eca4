//! Heads that were written, damaged, and heads of anything.

use ::fuzz::Rng;

use super::*;
use crate::fuzz::{damaged, wide};

const NAMES: [HeaderName; 8] =
    [PROTOCOL, CLUSTER, FROM, TO, INCARNATION, PINS, PEER_URL, CLIENT_URL];

/// Of what is written, or of what is almost that.
fn head(rng: &mut Rng, kind: Kind) -> Head {
    let is_member = u64::from(kind == Kind::Member);
    let urls = ["http://127.0.0.1:1", "http://a:12379", "http://[::1]:65535", "http://A:1/", ""];
    Head {
        cluster: rng.number().max(1) * is_member,
        from: rng.number().max(1),
        to: rng.number().max(1) * is_member,
        incarnation: wide(rng),
        pins: (0..rng.below(4)).map(|_| (rng.number().max(1), wide(rng))).collect(),
        peer_url: (*rng.pick(&urls[..3])).to_owned(),
        client_url: (*rng.pick(&urls)).to_owned(),
    }
}

fn text(headers: &HeaderMap) -> Vec<(HeaderName, Vec<HeaderValue>)> {
    let values = |name: &HeaderName| headers.get_all(name).iter().cloned().collect();
    NAMES.map(|name| (name.clone(), values(&name))).into()
}

fn damage(rng: &mut Rng, headers: &mut HeaderMap) {
    for _ in 0..rng.below(4) {
        let name = rng.pick(&NAMES).clone();
        let value = headers.get(&name).map_or(Vec::new(), |value| value.as_bytes().to_vec());
        let value = HeaderValue::from_bytes(&damaged(rng, &value)).ok();
        match (rng.below(8), value) {
            (0, _) => drop(headers.remove(name)),
            (1, Some(value)) => drop(headers.append(name, value)),
            (_, Some(value)) => drop(headers.insert(name, value)),
            (_, None) => {}
        }
    }
}

/// H1 and H2: what is read is what would be written, byte for byte, or is refused with a status
/// that says whose fault it is.
#[test]
fn fuzz_heads() {
    ::fuzz::run("heads", |rng| {
        let kind = *rng.pick(&[Kind::Member, Kind::Joining]);
        let head = head(rng, kind);
        let mut headers = head.to_headers().expect("its URLs are plain");
        assert_eq!(Head::parse(&headers, kind).as_ref(), Ok(&head));
        damage(rng, &mut headers);
        for kind in [Kind::Member, Kind::Joining] {
            match Head::parse(&headers, kind) {
                Ok(head) => {
                    let written = head.to_headers().expect("what was read can be written");
                    assert_eq!(text(&written), text(&headers), "H1: {head:?}");
                    assert!(head.pins.len() <= MAX_PINS);
                    assert_eq!(head.cluster != 0 && head.to != 0, kind == Kind::Member, "H2");
                }
                Err(refusal) => assert!(matches!(refusal.status.as_u16(), 400 | 412)),
            }
        }
        if let Ok(claim) = Claim::parse(&headers) {
            assert_eq!(Claim::parse(&claim.to_headers()), Ok(claim));
        }
    });
}
