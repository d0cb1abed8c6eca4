//! Who belongs to the cluster: the address book, which is replicated state.
//!
//! The book changes only when a membership change is applied from the log; flags and peers'
//! claims never write to it. It is part of every snapshot.

mod judge;
mod record;

use std::collections::{BTreeMap, BTreeSet};

pub(crate) use self::judge::{Judgement, View, judge, refusal};
pub(crate) use self::record::{Asked, Call, Wish};

/// Whether a member counts towards a quorum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemberRole {
    /// Votes, and counts towards a quorum.
    Voter,
    /// Receives the log only (thesis 4.2.1).
    Learner,
}

impl MemberRole {
    /// The role in lower case, as people write it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            MemberRole::Voter => "voter",
            MemberRole::Learner => "learner",
        }
    }
}

/// What the cluster knows of one member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Where the other members reach it, normalised: `http://host:port`.
    pub url: String,
    /// Its role now.
    pub role: MemberRole,
    /// The role it is to have once it has caught up.
    pub wants: MemberRole,
    /// The data directory that registered under this id, when it is known.
    pub incarnation: Option<u128>,
}

/// The address book: who is a member, and who has been one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Book {
    /// The members by id.
    pub members: BTreeMap<u64, Member>,
    /// Ids that were members once. They never return.
    pub removed: BTreeSet<u64>,
}

impl Book {
    /// The book of a cluster that is being founded: every founder a voter.
    #[must_use]
    pub fn founding(founders: &[Founder]) -> Self {
        let member = |founder: &Founder| {
            let member = Member {
                url: founder.url.clone(),
                role: MemberRole::Voter,
                wants: MemberRole::Voter,
                incarnation: None,
            };
            (founder.id, member)
        };
        Self { members: founders.iter().map(member).collect(), removed: BTreeSet::new() }
    }

    /// The ids of the voters, ascending.
    pub fn voters(&self) -> impl Iterator<Item = u64> + '_ {
        self.with_role(MemberRole::Voter)
    }

    /// The ids of the learners, ascending.
    pub fn learners(&self) -> impl Iterator<Item = u64> + '_ {
        self.with_role(MemberRole::Learner)
    }

    fn with_role(&self, role: MemberRole) -> impl Iterator<Item = u64> + '_ {
        self.members.iter().filter(move |(_, member)| member.role == role).map(|(id, _)| *id)
    }
}

/// A wish to change who belongs to the cluster (thesis 4): one at a time, decided by the leader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Adds a member, as a learner first. One that wants to be a voter is promoted by the leader
    /// when it has caught up, whoever leads then.
    Add {
        /// Its id: never used before.
        id: u64,
        /// Where the others reach it: `http://host:port`.
        url: String,
        /// The role it is to have in the end.
        wants: MemberRole,
    },
    /// Changes a member's wished role, its URL, or both. A voter that is to be a learner is
    /// demoted at once.
    Update {
        /// The member.
        id: u64,
        /// The role it is to have, when that changes.
        wants: Option<MemberRole>,
        /// Where the others reach it from now on, when that changes.
        url: Option<String>,
    },
    /// Removes a member for good. A leader hands leadership over first.
    Remove {
        /// The member.
        id: u64,
    },
}

/// How a change is to be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ChangeOptions {
    /// Make it even when the live voters left would be no quorum of those left.
    pub force: bool,
    /// Only say what it would leave.
    pub dry_run: bool,
}

/// How a membership change ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Changed {
    /// It is committed and applied on the leader, or would be, for a dry run.
    Done {
        /// The index of its entry in the log; for a dry run, and when there was nothing to do,
        /// the last applied index.
        index: u64,
        /// The term of that entry.
        term: u64,
        /// The membership after it.
        book: Book,
    },
    /// It is not made, and never will be.
    Refused(ChangeRefusal),
    /// It may or may not be made. Looking at the members tells.
    Unknown(crate::Unknown),
}

/// Why a membership change is not made, or leadership not handed over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ChangeRefusal {
    /// What kind of reason it is.
    pub kind: ChangeRefusalKind,
    /// The reason, with what would be right.
    pub message: String,
}

/// The kinds of reasons against a membership change or a hand-over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeRefusalKind {
    /// The id or the URL is malformed.
    Invalid,
    /// There never was a member with this id.
    NotFound,
    /// Another change is under way.
    Pending,
    /// It would leave the cluster without a quorum of live voters.
    Unsafe,
    /// The id or the URL is in use, or somebody else answers there.
    Conflict,
    /// The id belonged to a member that was removed. Ids never return.
    Removed,
    /// The id belongs to another data directory.
    OtherIncarnation,
    /// No leader was known, or none could take it, until the deadline.
    NoLeader,
    /// Too much is waiting already.
    Overloaded,
    /// The node is stopping.
    ShuttingDown,
    /// Leadership was not taken over by whoever was to lead.
    Failed,
}

/// One of the members that a cluster begins with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Founder {
    /// Its id, never zero.
    pub id: u64,
    /// Where the others reach it, normalised by [`peer_url`].
    pub url: String,
}

/// Parses the value of `--cluster`: either URLs, whose ids are their positions from 1, or
/// `id=url` pairs.
///
/// # Errors
///
/// Names what is wrong: an unparsable URL, an id that is zero or not a number, an id or a URL
/// that stands there twice, or a mixture of the two forms.
pub fn parse_cluster(text: &str) -> Result<Vec<Founder>, String> {
    let items: Vec<&str> = text.split(',').map(str::trim).collect();
    let named = items.iter().filter(|item| is_named(item)).count();
    if named != 0 && named != items.len() {
        return Err(format!("{text:?} mixes URLs with id=url pairs; name every member or none"));
    }
    let mut founders: Vec<Founder> = Vec::with_capacity(items.len());
    for (position, item) in items.iter().enumerate() {
        let (id, url) = if named == 0 {
            (position as u64 + 1, *item)
        } else {
            let (id, url) = item.split_once('=').unwrap_or_default();
            let id = id.parse::<u64>().ok().filter(|id| *id != 0).ok_or_else(|| {
                format!("{id:?} in {item:?} is not an id; ids are whole numbers from 1")
            })?;
            (id, url)
        };
        let url = peer_url(url)?;
        if founders.iter().any(|founder| founder.id == id) {
            return Err(format!("id {id} stands twice; ids are unique"));
        }
        if founders.iter().any(|founder| founder.url == url) {
            return Err(format!("{url} stands twice; each member has its own URL"));
        }
        founders.push(Founder { id, url });
    }
    founders.sort_by_key(|founder| founder.id);
    Ok(founders)
}

/// `7=http://...` names its member; a URL's own `=` comes after a `:`.
fn is_named(item: &str) -> bool {
    item.find('=').is_some_and(|equals| item.find(':').is_none_or(|colon| equals < colon))
}

/// Checks and normalises a member's URL: `http`, a host, a port, and nothing else.
///
/// # Errors
///
/// Says what is wrong with it and what a right one looks like.
pub fn peer_url(text: &str) -> Result<String, String> {
    let wrong = |what: &str| format!("{text:?} {what}; a peer URL looks like http://host:port");
    let url = url::Url::parse(text).map_err(|error| wrong(&format!("is no URL ({error})")))?;
    if url.scheme() != "http" {
        return Err(wrong("is not http"));
    }
    let host =
        url.host_str().filter(|host| !host.is_empty()).ok_or_else(|| wrong("has no host"))?;
    let port = url.port_or_known_default().filter(|port| *port != 0);
    let port = port.ok_or_else(|| wrong("has no port"))?;
    let bare = matches!(url.path(), "" | "/")
        && url.query().is_none()
        && url.fragment().is_none()
        && url.username().is_empty()
        && url.password().is_none();
    if !bare {
        return Err(wrong("holds more than a host and a port"));
    }
    Ok(format!("http://{host}:{port}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// People come with the original's flag: positions are ids. Ours also names them.
    #[test]
    fn cluster_flag_takes_positions_and_names() {
        let by_position = parse_cluster("http://127.0.0.1:12379,http://b:22379/").unwrap();
        assert_eq!(by_position[1], Founder { id: 2, url: "http://b:22379".into() });
        let by_name = parse_cluster("7=http://b:1, 3=http://a:2").unwrap();
        assert_eq!(by_name.iter().map(|f| f.id).collect::<Vec<_>>(), [3, 7]);
    }

    /// Each mistake is named, with what would be right.
    #[test]
    fn cluster_flag_names_what_is_wrong() {
        let table = [
            ("", "is no URL"),
            ("127.0.0.1:80", "http://host:port"),
            ("ftp://a:1", "is not http"),
            ("http://a:1,http://a:1", "stands twice"),
            ("1=http://a:1,1=http://b:1", "id 1 stands twice"),
            ("0=http://a:1", "is not an id"),
            ("x=http://a:1", "is not an id"),
            ("1=http://a:1,http://b:1", "mixes"),
            ("http://a:1/path", "more than a host and a port"),
            ("http://a:0", "has no port"),
        ];
        for (flag, expected) in table {
            let error = parse_cluster(flag).unwrap_err();
            assert!(error.contains(expected), "{flag:?} gave {error:?}");
        }
    }
}
