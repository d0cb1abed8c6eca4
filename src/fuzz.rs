//! What disks and members hand over, as bytes: each format is fed what was never written.
//!
//! Here are the small formats. Those of snapshots, frames and heads are fed beside their code, with
//! what this module makes up for them.

use std::collections::BTreeMap;

use ::fuzz::Rng;

use crate::identity::{Identity, crc64};
use crate::membership::{
    Asked, Book, Call, Change, ChangeOptions, ChangeRefusal, ChangeRefusalKind, Changed, Member,
    MemberRole, Wish,
};
use crate::{Unknown, pins};

pub(crate) fn role(rng: &mut Rng) -> MemberRole {
    *rng.pick(&[MemberRole::Voter, MemberRole::Learner])
}

pub(crate) fn text(rng: &mut Rng) -> String {
    String::from_utf8_lossy(&rng.bytes(40)).into_owned()
}

pub(crate) fn wide(rng: &mut Rng) -> u128 {
    (u128::from(rng.number()) << 64) | u128::from(rng.number())
}

fn member(rng: &mut Rng) -> Member {
    let incarnation = rng.chance(1, 2).then(|| wide(rng));
    Member { url: text(rng), role: role(rng), wants: role(rng), incarnation }
}

pub(crate) fn book(rng: &mut Rng) -> Book {
    let members = (0..rng.below(5)).map(|_| (rng.number(), member(rng))).collect();
    let removed = (0..rng.below(4)).map(|_| rng.number()).collect();
    Book { members, removed }
}

fn call(rng: &mut Rng) -> Call {
    let id = rng.number();
    let asked = match rng.below(5) {
        0 => Wish::Change(Change::Add { id, url: text(rng), wants: role(rng) }),
        1 => {
            let wants = rng.chance(1, 2).then(|| role(rng));
            // An empty one is not sent.
            let url = Some(text(rng)).filter(|url| !url.is_empty());
            Wish::Change(Change::Update { id, wants, url })
        }
        2 => Wish::Change(Change::Remove { id }),
        3 => Wish::Join { id, incarnation: wide(rng), url: text(rng) },
        _ => {
            let asked = Asked::Leader { to: Some(id).filter(|id| *id != 0) };
            return Call { asked, options: ChangeOptions::default(), patience_ms: 7 };
        }
    };
    let options = ChangeOptions { force: rng.chance(1, 2), dry_run: rng.chance(1, 2) };
    Call { asked: Asked::Member(asked), options, patience_ms: rng.draw() as u32 }
}

fn answer(rng: &mut Rng) -> Changed {
    match rng.below(3) {
        0 => Changed::Done { index: rng.number(), term: rng.number(), book: book(rng) },
        1 => {
            let kinds = [ChangeRefusalKind::Invalid, ChangeRefusalKind::Failed];
            Changed::Refused(ChangeRefusal { kind: *rng.pick(&kinds), message: text(rng) })
        }
        _ => Changed::Unknown(Unknown::Deadline),
    }
}

/// `valid` with up to four damages, or something else altogether.
pub(crate) fn damaged(rng: &mut Rng, valid: &[u8]) -> Vec<u8> {
    if rng.chance(1, 8) {
        return rng.bytes(300);
    }
    let mut bytes = valid.to_vec();
    let n = rng.below(5);
    rng.mutate(&mut bytes, n);
    bytes
}

/// A checksum over whatever stands before it.
fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.truncate(bytes.len().saturating_sub(8));
    let crc = crc64(&bytes);
    bytes.extend(crc.to_le_bytes());
    bytes
}

/// A checksum keeps out all damage; what is behind one that holds is read as it would be written.
#[test]
fn fuzz_identity_and_pins() {
    ::fuzz::run("identity_and_pins", |rng| {
        let (node, cluster) = (rng.number(), rng.number());
        let identity = Identity { node, incarnation: wide(rng), cluster };
        let valid = identity.encode();
        assert_eq!(Identity::decode(&valid), Ok(identity));
        let bytes = damaged(rng, &valid);
        assert!(bytes == valid || Identity::decode(&bytes).is_err(), "{bytes:?} is {identity:?}");
        let bytes = sealed(bytes);
        if let Ok(identity) = Identity::decode(&bytes) {
            assert_eq!(identity.encode(), *bytes);
        }

        let known: BTreeMap<_, _> = (0..rng.below(5)).map(|_| (rng.number(), wide(rng))).collect();
        let valid = pins::encode(&known);
        assert_eq!(pins::decode(&valid).as_ref(), Ok(&known));
        let bytes = damaged(rng, &valid);
        assert!(bytes == valid || pins::decode(&bytes).is_err(), "{bytes:?} are {known:?}");
        let bytes = sealed(bytes);
        if let Ok(known) = pins::decode(&bytes) {
            assert_eq!(pins::encode(&known), bytes, "{known:?}");
        }
    });
}

/// What one member says is what the other understands; what nobody said is refused or is read as
/// something that could have been said.
#[test]
fn fuzz_calls() {
    ::fuzz::run("calls", |rng| {
        let member = member(rng);
        let mut valid = Vec::new();
        member.encode(&mut valid);
        assert_eq!(Member::decode(&valid), Ok(member));
        let bytes = damaged(rng, &valid);
        if let Ok(member) = Member::decode(&bytes) {
            let mut again = Vec::new();
            member.encode(&mut again);
            assert_eq!(again, bytes);
        }

        let call = call(rng);
        let valid = call.encode();
        assert_eq!(Call::decode(&valid), Ok(call));
        let bytes = damaged(rng, &valid);
        if let Ok(call) = Call::decode(&bytes) {
            assert_eq!(call.encode(), bytes);
        }

        let answer = answer(rng);
        let valid = answer.encode();
        assert_eq!(Changed::decode(&valid), Ok(answer));
        if let Ok(answer) = Changed::decode(&damaged(rng, &valid)) {
            assert_eq!(Changed::decode(&answer.encode()), Ok(answer));
        }
    });
}
