//! The bytes of membership: what a change says in the log, and what a call for one says between
//! members.
//!
//! ```text
//!  member            ├ role u8 ┼ wants u8 ┼ 0 u8 ┼ known u8 ┼ incarnation u128 ┼ url: text ┤
//!  text              ├ length u32 ┼ UTF-8 ┤
//!  book              ├ n members u32 ┼ id u64, member ... ┼ n removed u32 ┼ id u64 ... ┤
//!
//!  call              ├ version u8 ┼ kind u8 ┼ flags u8 ┼ patience u32 ┼ id u64 ┼ ...
//!    1 add           ┼ wants u8 ┼ url: text ┤
//!    2 update        ┼ wants u8, 0: as it is ┼ url: text, empty: as it is ┤
//!    3 remove        ┤
//!    4 join          ┼ incarnation u128 ┼ url: text ┤
//!    5 transfer      ┤                              id 0: to the best voter
//!
//!  answer            ├ version u8 ┼ kind u8 ┼ ...
//!    1 done          ┼ index u64 ┼ term u64 ┼ book ┤
//!    2 refused       ┼ reason u8 ┼ message: text ┤
//!    3 unknown       ┤
//! ```
//!
//! A member is the context of a change that adds or updates one; its role is what the change's
//! type says. Roles: 1 voter, 2 learner. Flags: 1 force, 2 dry run. Patience: how long the caller
//! waits, in milliseconds. All numbers little endian; decoding is strict, and nothing is allocated
//! by a length that has not been checked against the bytes at hand.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Book, Change, ChangeOptions, ChangeRefusal, ChangeRefusalKind, Changed, Member, MemberRole,
};
use crate::Unknown;

const VERSION: u8 = 1;

const FORCE: u8 = 1;
const DRY_RUN: u8 = 2;

/// A question as one member asks another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) asked: Asked,
    pub(crate) options: ChangeOptions,
    pub(crate) patience_ms: u32,
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wish {
    Change(Change),
    /// A member with an empty data directory asks to be taken in. Asking twice is the same.
    Join {
        id: u64,
        incarnation: u128,
        url: String,
    },
}

/// What one member may call another for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Asked {
    /// A change of the membership.
    Member(Wish),
    /// Leadership is to be handed over, to the best voter if to nobody in particular. Done means
    /// begun, in the answer's term.
    Leader { to: Option<u64> },
}

impl Member {
    pub(crate) fn encode(&self, bytes: &mut Vec<u8>) {
        let known = u8::from(self.incarnation.is_some());
        bytes.extend_from_slice(&[role_code(self.role), role_code(self.wants), 0, known]);
        bytes.extend_from_slice(&self.incarnation.unwrap_or(0).to_le_bytes());
        put_text(bytes, &self.url);
    }

    /// # Errors
    ///
    /// Says what the bytes are not.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, String> {
        let mut input = Input { bytes };
        let member = input.member()?;
        input.end()?;
        Ok(member)
    }
}

impl Call {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let ChangeOptions { force, dry_run } = self.options;
        let flags = if force { FORCE } else { 0 } | if dry_run { DRY_RUN } else { 0 };
        let (kind, id) = match &self.asked {
            Asked::Member(Wish::Change(Change::Add { id, .. })) => (1, *id),
            Asked::Member(Wish::Change(Change::Update { id, .. })) => (2, *id),
            Asked::Member(Wish::Change(Change::Remove { id })) => (3, *id),
            Asked::Member(Wish::Join { id, .. }) => (4, *id),
            Asked::Leader { to } => (5, to.unwrap_or(0)),
        };
        let mut bytes = vec![VERSION, kind, flags];
        bytes.extend_from_slice(&self.patience_ms.to_le_bytes());
        bytes.extend_from_slice(&id.to_le_bytes());
        match &self.asked {
            Asked::Member(Wish::Change(Change::Add { url, wants, .. })) => {
                bytes.push(role_code(*wants));
                put_text(&mut bytes, url);
            }
            Asked::Member(Wish::Change(Change::Update { wants, url, .. })) => {
                bytes.push(wants.map_or(0, role_code));
                put_text(&mut bytes, url.as_deref().unwrap_or_default());
            }
            Asked::Member(Wish::Change(Change::Remove { .. })) | Asked::Leader { .. } => {}
            Asked::Member(Wish::Join { incarnation, url, .. }) => {
                bytes.extend_from_slice(&incarnation.to_le_bytes());
                put_text(&mut bytes, url);
            }
        }
        bytes
    }

    /// # Errors
    ///
    /// Says what the bytes are not.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, String> {
        let mut input = Input { bytes };
        input.version()?;
        let [kind, flags] = [input.u8()?, input.u8()?];
        if flags & !(FORCE | DRY_RUN) != 0 {
            return Err(format!("has unknown flags {flags:#x}"));
        }
        let options = ChangeOptions { force: flags & FORCE != 0, dry_run: flags & DRY_RUN != 0 };
        let patience_ms = input.u32()?;
        let id = input.u64()?;
        let wish = match kind {
            1 => Wish::Change(Change::Add { wants: input.role()?, id, url: input.text()? }),
            2 => {
                let wants = match input.u8()? {
                    0 => None,
                    code => Some(role_of(code)?),
                };
                let url = Some(input.text()?).filter(|url| !url.is_empty());
                Wish::Change(Change::Update { id, wants, url })
            }
            3 => Wish::Change(Change::Remove { id }),
            4 => Wish::Join { id, incarnation: input.u128()?, url: input.text()? },
            5 => {
                input.end()?;
                let asked = Asked::Leader { to: Some(id).filter(|id| *id != 0) };
                return Ok(Self { asked, options, patience_ms });
            }
            other => return Err(format!("is a call of unknown kind {other}")),
        };
        input.end()?;
        Ok(Self { asked: Asked::Member(wish), options, patience_ms })
    }
}

impl Changed {
    pub(crate) fn encode(&self) -> Vec<u8> {
        match self {
            Changed::Done { index, term, book } => {
                let mut bytes = vec![VERSION, 1];
                bytes.extend_from_slice(&index.to_le_bytes());
                bytes.extend_from_slice(&term.to_le_bytes());
                put_count(&mut bytes, book.members.len());
                for (id, member) in &book.members {
                    bytes.extend_from_slice(&id.to_le_bytes());
                    member.encode(&mut bytes);
                }
                put_count(&mut bytes, book.removed.len());
                for id in &book.removed {
                    bytes.extend_from_slice(&id.to_le_bytes());
                }
                bytes
            }
            Changed::Refused(ChangeRefusal { kind, message }) => {
                let mut bytes = vec![VERSION, 2, kind.code()];
                put_text(&mut bytes, message);
                bytes
            }
            Changed::Unknown(_) => vec![VERSION, 3],
        }
    }

    /// # Errors
    ///
    /// Says what the bytes are not.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, String> {
        let mut input = Input { bytes };
        input.version()?;
        let changed = match input.u8()? {
            1 => {
                let (index, term) = (input.u64()?, input.u64()?);
                let mut members = BTreeMap::new();
                for _ in 0..input.u32()? {
                    members.insert(input.u64()?, input.member()?);
                }
                let mut removed = BTreeSet::new();
                for _ in 0..input.u32()? {
                    removed.insert(input.u64()?);
                }
                Changed::Done { index, term, book: Book { members, removed } }
            }
            2 => {
                let kind = ChangeRefusalKind::from_code(input.u8()?)?;
                Changed::Refused(ChangeRefusal { kind, message: input.text()? })
            }
            3 => Changed::Unknown(Unknown::Deadline),
            other => return Err(format!("is an answer of unknown kind {other}")),
        };
        input.end()?;
        Ok(changed)
    }
}

impl ChangeRefusalKind {
    const ALL: [Self; 11] = [
        Self::Invalid,
        Self::NotFound,
        Self::Pending,
        Self::Unsafe,
        Self::Conflict,
        Self::Removed,
        Self::OtherIncarnation,
        Self::NoLeader,
        Self::Overloaded,
        Self::ShuttingDown,
        Self::Failed,
    ];

    fn code(self) -> u8 {
        self as u8
    }

    fn from_code(code: u8) -> Result<Self, String> {
        let kind = Self::ALL.into_iter().find(|kind| kind.code() == code);
        kind.ok_or_else(|| format!("has unknown reason {code}"))
    }
}

fn role_code(role: MemberRole) -> u8 {
    match role {
        MemberRole::Voter => 1,
        MemberRole::Learner => 2,
    }
}

fn role_of(code: u8) -> Result<MemberRole, String> {
    match code {
        1 => Ok(MemberRole::Voter),
        2 => Ok(MemberRole::Learner),
        other => Err(format!("has unknown role {other}")),
    }
}

fn put_text(bytes: &mut Vec<u8>, text: &str) {
    put_count(bytes, text.len());
    bytes.extend_from_slice(text.as_bytes());
}

fn put_count(bytes: &mut Vec<u8>, count: usize) {
    let count = u32::try_from(count).expect("members and their texts are far fewer than 2^32");
    bytes.extend_from_slice(&count.to_le_bytes());
}

/// A reader that never passes its end.
struct Input<'a> {
    bytes: &'a [u8],
}

impl<'a> Input<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], String> {
        let (taken, rest) =
            self.bytes.split_at_checked(length).ok_or_else(|| "is cut short".to_owned())?;
        self.bytes = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    fn u8(&mut self) -> Result<u8, String> {
        Ok(self.array::<1>()?[0])
    }

    fn u32(&mut self) -> Result<u32, String> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, String> {
        self.array().map(u64::from_le_bytes)
    }

    fn u128(&mut self) -> Result<u128, String> {
        self.array().map(u128::from_le_bytes)
    }

    fn version(&mut self) -> Result<(), String> {
        match self.u8()? {
            VERSION => Ok(()),
            other => Err(format!("has version {other}; this program knows {VERSION}")),
        }
    }

    fn role(&mut self) -> Result<MemberRole, String> {
        role_of(self.u8()?)
    }

    fn text(&mut self) -> Result<String, String> {
        let length = usize::try_from(self.u32()?).unwrap_or(usize::MAX);
        let text = std::str::from_utf8(self.take(length)?);
        text.map(str::to_owned).map_err(|_| "holds text that is not UTF-8".to_owned())
    }

    fn member(&mut self) -> Result<Member, String> {
        let (role, wants) = (self.role()?, self.role()?);
        let [zero, known] = self.array()?;
        let incarnation = self.u128()?;
        if zero != 0 || known > 1 || (known == 0 && incarnation != 0) {
            return Err("holds a member that this program would not write".into());
        }
        let incarnation = (known == 1).then_some(incarnation);
        Ok(Member { url: self.text()?, role, wants, incarnation })
    }

    fn end(&self) -> Result<(), String> {
        if self.bytes.is_empty() { Ok(()) } else { Err("goes on after its end".into()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member() -> Member {
        Member {
            url: "http://d:4".into(),
            role: MemberRole::Learner,
            wants: MemberRole::Voter,
            incarnation: Some(0x0102),
        }
    }

    fn calls() -> Vec<Call> {
        let url = || "http://d:4".to_owned();
        let wishes = [
            Wish::Change(Change::Add { id: 4, url: url(), wants: MemberRole::Voter }),
            Wish::Change(Change::Update { id: 4, wants: None, url: Some(url()) }),
            Wish::Change(Change::Update { id: 4, wants: Some(MemberRole::Learner), url: None }),
            Wish::Change(Change::Remove { id: u64::MAX }),
            Wish::Join { id: 4, incarnation: 1 << 100, url: url() },
        ];
        let options = ChangeOptions { force: true, dry_run: false };
        let leaders = [Some(3), None].map(|to| Asked::Leader { to });
        let asked = wishes.into_iter().map(Asked::Member).chain(leaders);
        asked.map(|asked| Call { asked, options, patience_ms: 5000 }).collect()
    }

    fn answers() -> Vec<Changed> {
        let mut book = Book::default();
        book.members.insert(4, member());
        book.members.insert(5, Member { incarnation: None, ..member() });
        book.removed.extend([1, 2]);
        let refusals = ChangeRefusalKind::ALL
            .map(|kind| Changed::Refused(ChangeRefusal { kind, message: "because".into() }));
        let mut answers = Vec::from(refusals);
        answers.push(Changed::Done { index: 9, term: 2, book });
        answers.push(Changed::Unknown(Unknown::Deadline));
        answers
    }

    /// A member's bytes are in the log: they are pinned.
    #[test]
    fn member_bytes_are_pinned() {
        let mut bytes = Vec::new();
        member().encode(&mut bytes);
        let mut golden = vec![2, 1, 0, 1, 2, 1];
        golden.extend([0; 14]);
        golden.extend(b"\x0a\0\0\0http://d:4");
        assert_eq!(bytes, golden);
        assert_eq!(Member::decode(&golden), Ok(member()));
    }

    /// What one member says is what the other understands, and nothing shorter or longer is.
    #[test]
    fn calls_and_answers_come_back_as_they_were() {
        for call in calls() {
            let bytes = call.encode();
            assert_eq!(Call::decode(&bytes), Ok(call));
            strict(&bytes, |bytes| Call::decode(bytes).is_err());
        }
        for answer in answers() {
            let bytes = answer.encode();
            assert_eq!(Changed::decode(&bytes), Ok(answer));
            strict(&bytes, |bytes| Changed::decode(bytes).is_err());
        }
    }

    fn strict(bytes: &[u8], refused: impl Fn(&[u8]) -> bool) {
        for length in 0..bytes.len() {
            assert!(refused(&bytes[..length]), "{length} bytes of {bytes:?}");
        }
        assert!(refused(&[bytes, &[0]].concat()));
    }
}
