//! The header of a snapshot file: whose state it is, as of when, and who the members are then.
//!
//! ```text
//!  0         8         16        24        32        40
//!  ├─ magic ─┼ version ┼─ length ┼─cluster─┼─ index ─┼─ term ...     length: of the whole header
//!  48        52         56        60        64
//!  ┼ n voters┼n learners┼n members┼n removed┼ voters, learners, removed: n ids each ...
//!  members, each:
//!  ┼─ id u64 ┼ role u8 ┼ wants u8 ┼ 0 u8 ┼ has incarnation u8 ┼ incarnation u128 ┼ url length u32 ┼ url
//!  ┼─ crc64 of the header up to here ┤
//! ```
//!
//! Roles: 1 voter, 2 learner. All numbers little endian.

use raft::eraftpb::ConfState;

use crate::identity::crc64;
use crate::membership::{Book, Member, MemberRole};

const MAGIC: &[u8; 8] = b"raftsnap";
/// The version of snapshot files.
pub(crate) const VERSION: u64 = 1;
/// Offset of the first variable part.
const FIXED: usize = 64;
/// How much of a header tells its length.
pub(super) const LENGTH_KNOWN: usize = 24;
/// A header holds at most some thousand members: anything beyond is damage.
const MAX_HEADER_BYTES: u64 = 4 << 20;

/// What a snapshot says of itself.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Header {
    pub(crate) cluster: u64,
    pub(crate) index: u64,
    pub(crate) term: u64,
    pub(crate) conf_state: ConfState,
    pub(crate) book: Book,
}

impl Header {
    /// The snapshot that a cluster begins with.
    pub(crate) fn genesis(cluster: u64, book: Book) -> Self {
        let mut conf_state = ConfState::default();
        conf_state.set_voters(book.voters().collect());
        conf_state.set_learners(book.learners().collect());
        Self { cluster, index: 1, term: 1, conf_state, book }
    }

    /// What a member begins with that has joined and has not been sent a snapshot yet.
    pub(crate) fn void(cluster: u64) -> Self {
        let (conf_state, book) = (ConfState::default(), Book::default());
        Self { cluster, index: 0, term: 0, conf_state, book }
    }

    /// The name of the file that holds this snapshot.
    pub(crate) fn file_name(&self) -> String {
        super::file_name(self.term, self.index)
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let (voters, learners) = (self.conf_state.get_voters(), self.conf_state.get_learners());
        let mut bytes = Vec::with_capacity(256);
        bytes.extend_from_slice(MAGIC);
        for word in [VERSION, 0, self.cluster, self.index, self.term] {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        let counts =
            [voters.len(), learners.len(), self.book.members.len(), self.book.removed.len()];
        for count in counts {
            bytes.extend_from_slice(&count32(count).to_le_bytes());
        }
        for id in voters.iter().chain(learners).chain(&self.book.removed) {
            bytes.extend_from_slice(&id.to_le_bytes());
        }
        for (id, member) in &self.book.members {
            bytes.extend_from_slice(&id.to_le_bytes());
            let known = u8::from(member.incarnation.is_some());
            bytes.extend_from_slice(&[role(member.role), role(member.wants), 0, known]);
            bytes.extend_from_slice(&member.incarnation.unwrap_or(0).to_le_bytes());
            bytes.extend_from_slice(&count32(member.url.len()).to_le_bytes());
            bytes.extend_from_slice(member.url.as_bytes());
        }
        let length = bytes.len() as u64 + 8;
        bytes[16..24].copy_from_slice(&length.to_le_bytes());
        let crc = crc64(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// The length of the header that begins with these [`LENGTH_KNOWN`] bytes.
    ///
    /// # Errors
    ///
    /// Says why no header begins so.
    pub(super) fn length(bytes: &[u8]) -> Result<usize, String> {
        let mut input = Input { bytes, at: 0 };
        if input.take(8)? != MAGIC {
            return Err("does not begin as a snapshot does".into());
        }
        let version = input.u64()?;
        if version != VERSION {
            return Err(format!("has format version {version}; this program knows {VERSION}"));
        }
        let length = input.u64()?;
        if length < (FIXED + 8) as u64 || length > MAX_HEADER_BYTES {
            return Err(format!("has a header of {length} bytes, which cannot be"));
        }
        usize::try_from(length).map_err(|error| error.to_string())
    }

    /// Decodes a header. Also gives its checksum, by which a marker in the log names the snapshot.
    ///
    /// # Errors
    ///
    /// Says what is wrong with the bytes.
    pub(super) fn decode(bytes: &[u8]) -> Result<(Self, u64), String> {
        let length = Self::length(bytes)?;
        if length != bytes.len() {
            return Err(format!("ends inside its header of {length} bytes"));
        }
        let (covered, crc) = bytes.split_at(length - 8);
        let crc = crc.try_into().map_or(0, u64::from_le_bytes);
        if crc64(covered) != crc {
            return Err("has a header that fails its checksum".into());
        }
        let mut input = Input { bytes: covered, at: LENGTH_KNOWN };
        let (cluster, index, term) = (input.u64()?, input.u64()?, input.u64()?);
        let mut counts = [0; 4];
        for count in &mut counts {
            *count = input.u32()?;
        }
        let [n_voters, n_learners, n_members, n_removed] = counts;
        let mut conf_state = ConfState::default();
        conf_state.set_voters(input.ids(n_voters)?);
        conf_state.set_learners(input.ids(n_learners)?);
        let removed = input.ids(n_removed)?.into_iter().collect();
        let mut book = Book { removed, ..Book::default() };
        for _ in 0..n_members {
            let id = input.u64()?;
            let flags = input.take(4)?;
            let (role, wants, known) = (member_role(flags[0])?, member_role(flags[1])?, flags[3]);
            let incarnation = u128::from(input.u64()?) | (u128::from(input.u64()?) << 64);
            let url_len = input.u32()? as usize;
            let url = String::from_utf8(input.take(url_len)?.to_vec())
                .map_err(|_| "holds a URL that is not text".to_owned())?;
            let incarnation = (known != 0).then_some(incarnation);
            book.members.insert(id, Member { url, role, wants, incarnation });
        }
        if input.at != covered.len() {
            return Err("has a header that is longer than its content".into());
        }
        let is_same = |ids: &[u64], members: Vec<u64>| {
            let mut ids = ids.to_vec();
            ids.sort_unstable();
            ids == members
        };
        if !is_same(conf_state.get_voters(), book.voters().collect())
            || !is_same(conf_state.get_learners(), book.learners().collect())
        {
            return Err("has an address book of other members than its configuration".into());
        }
        Ok((Self { cluster, index, term, conf_state, book }, crc))
    }
}

fn role(role: MemberRole) -> u8 {
    match role {
        MemberRole::Voter => 1,
        MemberRole::Learner => 2,
    }
}

fn member_role(byte: u8) -> Result<MemberRole, String> {
    match byte {
        1 => Ok(MemberRole::Voter),
        2 => Ok(MemberRole::Learner),
        other => Err(format!("names a role {other} that does not exist")),
    }
}

fn count32(count: usize) -> u32 {
    u32::try_from(count).expect("memberships and URLs are far smaller than 4 Gi")
}

/// A reader that never passes its end.
struct Input<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Input<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], String> {
        let end = self.at.checked_add(n).filter(|end| *end <= self.bytes.len());
        let end = end.ok_or_else(|| "ends inside its header".to_owned())?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn u64(&mut self) -> Result<u64, String> {
        Ok(self.take(8)?.try_into().map_or(0, u64::from_le_bytes))
    }

    fn u32(&mut self) -> Result<u32, String> {
        Ok(self.take(4)?.try_into().map_or(0, u32::from_le_bytes))
    }

    fn ids(&mut self, n: u32) -> Result<Vec<u64>, String> {
        let bytes = self.take((n as usize).saturating_mul(8))?;
        Ok(bytes.as_chunks::<8>().0.iter().map(|id| u64::from_le_bytes(*id)).collect())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::membership::Founder;

    pub(crate) fn header() -> Header {
        let founder = |id, url: &str| Founder { id, url: url.into() };
        let mut book = Book::founding(&[founder(1, "http://a:1"), founder(5, "http://b:22")]);
        book.removed.insert(3);
        let learner = Member {
            url: "http://c:3".into(),
            role: MemberRole::Learner,
            wants: MemberRole::Voter,
            incarnation: Some(1 << 70),
        };
        book.members.insert(9, learner);
        Header::genesis(0xfeed, book)
    }

    /// The header reaches disks and, in snapshots sent, other members: it is pinned.
    #[test]
    fn header_bytes_are_pinned() {
        let golden: &[u8] = include_bytes!("../golden/snapshot-header-v1");
        assert_eq!(header().encode(), golden);
        let (decoded, crc) = Header::decode(golden).unwrap();
        assert_eq!(decoded, header());
        assert_eq!(crc.to_le_bytes(), golden[golden.len() - 8..]);
    }

    /// S1: whatever bit flips, the header is refused; whatever is cut off, too.
    #[test]
    fn damaged_header_is_refused() {
        let bytes = header().encode();
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(Header::decode(&damaged).is_err(), "bit {bit}");
        }
        for length in 0..bytes.len() {
            assert!(Header::decode(&bytes[..length]).is_err(), "length {length}");
        }
    }
}
