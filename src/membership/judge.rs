//! Whether a membership change may be made, and what it becomes in the log.
//!
//! [`judge`] is the leader's opinion, which looks at who is alive; [`Book::after`] is the law: what
//! a committed change does to the book is the same on every member, whatever else they know.
//!
//! Invariants:
//! - M1 An id that was removed never returns, and no two members share a URL.
//! - M2 A change moves at most one voter, so that any two majorities before and after it meet
//!   (thesis 4.1).
//! - M3 There is always a voter.

use std::collections::{BTreeMap, BTreeSet};

use raft::eraftpb::{ConfChange, ConfChangeType};
use wal::defects::{Defect, has};

use super::record::Wish;
use super::{Book, Change, ChangeRefusal, ChangeRefusalKind, Member, MemberRole, peer_url};

/// How many members a cluster may have. Each dials all others, and quorums of more than a few help
/// nobody; a flood of joining strangers must end somewhere.
const MAX_MEMBERS: usize = 128;

/// What the leader knows besides the book.
#[derive(Debug)]
pub(crate) struct View<'a> {
    /// The leader itself.
    pub(crate) id: u64,
    /// Whom it has heard within an election timeout, itself among them.
    pub(crate) live: &'a BTreeSet<u64>,
    /// The data directories that have met this one, by id.
    pub(crate) pins: &'a BTreeMap<u64, u128>,
    /// Learners that could be promoted now.
    pub(crate) caught_up: &'a BTreeSet<u64>,
    /// Make it whoever is alive.
    pub(crate) force: bool,
}

/// What is to be done with a wish.
#[derive(Debug, PartialEq)]
pub(crate) enum Judgement {
    Refuse(ChangeRefusal),
    /// It is so already.
    Nothing,
    /// Propose this; `book` is what it leaves.
    Make {
        change: ConfChange,
        book: Book,
    },
    /// The same, once somebody else leads.
    HandOver {
        book: Book,
    },
}

/// Judges a wish as the leader that would propose it.
pub(crate) fn judge(wish: &Wish, book: &Book, view: &View<'_>) -> Judgement {
    match plan(wish, book, view) {
        Err(refusal) => Judgement::Refuse(refusal),
        Ok(None) => Judgement::Nothing,
        Ok(Some(change)) => match book.after(&change) {
            Err(message) => Judgement::Refuse(refusal(ChangeRefusalKind::Unsafe, message)),
            Ok(after) => weigh(change, book, after, view),
        },
    }
}

/// Whether the change would leave a cluster that can go on.
fn weigh(change: ConfChange, before: &Book, after: Book, view: &View<'_>) -> Judgement {
    let (n_voters, live) = (after.voters().count(), n_live(&after, view));
    let quorum = n_voters / 2 + 1;
    if live < quorum && !view.force {
        let message = format!(
            "only {live} of the {n_voters} voters that would be left have been heard of within an \
             election timeout, {quorum} must be; ?force changes the membership all the same"
        );
        return Judgement::Refuse(refusal(ChangeRefusalKind::Unsafe, message));
    }
    let leads_after = after.voters().any(|id| id == view.id);
    if !leads_after && !has(Defect::SelfRemoval) && before.voters().any(|id| id == view.id) {
        return Judgement::HandOver { book: after };
    }
    Judgement::Make { change, book: after }
}

fn n_live(book: &Book, view: &View<'_>) -> usize {
    let learners = book.learners().filter(|_| has(Defect::LearnersInQuorum));
    book.voters().chain(learners).filter(|id| view.live.contains(id)).count()
}

fn plan(wish: &Wish, book: &Book, view: &View<'_>) -> Result<Option<ConfChange>, ChangeRefusal> {
    use ChangeRefusalKind::{Conflict, Invalid, NotFound, OtherIncarnation, Removed};
    let (Wish::Change(Change::Add { id, .. } | Change::Update { id, .. } | Change::Remove { id })
    | Wish::Join { id, .. }) = *wish;
    if id == 0 {
        return Err(refusal(Invalid, "0 is no id; ids are whole numbers from 1".into()));
    }
    let known = book.members.get(&id);
    let is_new = matches!(wish, Wish::Change(Change::Add { .. }) | Wish::Join { .. });
    if is_new && known.is_none() && book.members.len() >= MAX_MEMBERS {
        let message = format!("the cluster has {MAX_MEMBERS} members, and may have no more");
        return Err(refusal(Conflict, message));
    }
    let was_removed = || {
        let message = format!("member {id} was removed, and ids never return; choose another id");
        refusal(Removed, message)
    };
    match wish {
        Wish::Change(Change::Add { url, wants, .. }) => {
            if book.was_removed(id) {
                return Err(was_removed());
            }
            if let Some(Member { url, role, .. }) = known {
                let message = format!("member {id} is there already, at {url}, a {}", role.name());
                return Err(refusal(Conflict, message));
            }
            let url = free_url(url, id, book)?;
            let (role, wants) = (MemberRole::Learner, *wants);
            Ok(Some(conf_change(id, &Member { url, role, wants, incarnation: None })))
        }
        Wish::Join { url, incarnation, .. } => {
            if book.was_removed(id) {
                return Err(was_removed());
            }
            let ours = Some(*incarnation);
            let other = |id: &u64| view.pins.get(id).is_some_and(|pin| pin != incarnation);
            let registered = known.and_then(|member| member.incarnation);
            let founder = known.is_some_and(|m| m.role == MemberRole::Voter && registered != ours);
            if founder || registered.is_some_and(|old| old != *incarnation) || other(&id) {
                let message = format!(
                    "id {id} belongs to another data directory; remove that member, and join with \
                     an id that was never used"
                );
                return Err(refusal(OtherIncarnation, message));
            }
            let url = free_url(url, id, book)?;
            let member = match known {
                Some(member) if member.url == url && registered == ours => return Ok(None),
                Some(member) => Member { url, incarnation: ours, ..member.clone() },
                None => Member {
                    url,
                    role: MemberRole::Learner,
                    wants: MemberRole::Voter,
                    incarnation: ours,
                },
            };
            Ok(Some(conf_change(id, &member)))
        }
        Wish::Change(Change::Update { wants, url, .. }) => {
            let Some(member) = known else {
                return Err(if book.removed.contains(&id) {
                    was_removed()
                } else {
                    refusal(NotFound, format!("there is no member {id}"))
                });
            };
            let mut changed = member.clone();
            if let Some(url) = url {
                changed.url = free_url(url, id, book)?;
            }
            if let Some(wants) = wants {
                changed.wants = *wants;
                let at_once = *wants == MemberRole::Learner || view.caught_up.contains(&id);
                changed.role = if at_once { *wants } else { member.role };
            }
            // Made even when nothing changes here: a leader that was deposed and does not know it
            // must not say that what another has changed since is so already.
            Ok(Some(conf_change(id, &changed)))
        }
        Wish::Change(Change::Remove { .. }) => {
            if book.removed.contains(&id) {
                return Ok(None);
            }
            if known.is_none() {
                return Err(refusal(NotFound, format!("there never was a member {id}")));
            }
            let mut change = ConfChange::default();
            change.set_change_type(ConfChangeType::RemoveNode);
            change.node_id = id;
            Ok(Some(change))
        }
    }
}

/// The URL in its normal form, if nobody else has it.
fn free_url(url: &str, id: u64, book: &Book) -> Result<String, ChangeRefusal> {
    let url = peer_url(url).map_err(|what| refusal(ChangeRefusalKind::Invalid, what))?;
    if let Some(other) = book.owner_of(&url, id) {
        let message = format!("{url} is the URL of member {other}");
        return Err(refusal(ChangeRefusalKind::Conflict, message));
    }
    Ok(url)
}

fn conf_change(id: u64, member: &Member) -> ConfChange {
    let mut change = ConfChange::default();
    change.set_change_type(match member.role {
        MemberRole::Voter => ConfChangeType::AddNode,
        MemberRole::Learner => ConfChangeType::AddLearnerNode,
    });
    change.node_id = id;
    let mut context = Vec::new();
    member.encode(&mut context);
    change.context = context.into();
    change
}

pub(crate) fn refusal(kind: ChangeRefusalKind, message: String) -> ChangeRefusal {
    ChangeRefusal { kind, message }
}

impl Book {
    /// The book after a committed change.
    ///
    /// # Errors
    ///
    /// The change does nothing, on every member alike: the sentence says why.
    pub(crate) fn after(&self, change: &ConfChange) -> Result<Book, String> {
        let id = change.node_id;
        let mut book = self.clone();
        match change.get_change_type() {
            ConfChangeType::RemoveNode => {
                book.members.remove(&id).ok_or_else(|| format!("there is no member {id}"))?;
                book.removed.insert(id);
            }
            kind => {
                let member = Member::decode(&change.context)
                    .map_err(|what| format!("the record of member {id} {what}"))?;
                let role = match kind {
                    ConfChangeType::AddNode => MemberRole::Voter,
                    _ => MemberRole::Learner,
                };
                if id == 0 || self.was_removed(id) {
                    return Err(format!("{id} cannot be a member's id any more"));
                }
                if member.role != role {
                    return Err(format!("the record of member {id} names another role"));
                }
                if let Some(other) = self.owner_of(&member.url, id) {
                    return Err(format!("{} is the URL of member {other}", member.url));
                }
                book.members.insert(id, member);
            }
        }
        if book.voters().next().is_none() {
            return Err(format!("member {id} is the last voter; add or promote another one first"));
        }
        Ok(book)
    }

    fn was_removed(&self, id: u64) -> bool {
        self.removed.contains(&id) && !has(Defect::IdReturns)
    }

    fn owner_of(&self, url: &str, but: u64) -> Option<u64> {
        let mut others = self.members.iter().filter(|(id, _)| **id != but);
        others.find(|(_, member)| member.url == url).map(|(id, _)| *id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::membership::parse_cluster;

    struct Table {
        book: Book,
        live: BTreeSet<u64>,
        pins: BTreeMap<u64, u128>,
        caught_up: BTreeSet<u64>,
        force: bool,
    }

    impl Table {
        /// Members 1 to 3, led by 1; 4 is a learner that registered, 5 one that has not; 9 was
        /// removed.
        fn new() -> Self {
            let founders = parse_cluster("http://a:1,http://b:1,http://c:1").unwrap();
            let mut book = Book::founding(&founders);
            let learner = |url: &str, incarnation| Member {
                url: url.into(),
                role: MemberRole::Learner,
                wants: MemberRole::Voter,
                incarnation,
            };
            book.members.insert(4, learner("http://d:1", Some(44)));
            book.members.insert(5, learner("http://e:1", None));
            book.removed.insert(9);
            let pins = [(1, 11), (4, 44)].into();
            let (live, caught_up) = ([1, 2, 3, 4].into(), BTreeSet::new());
            Self { book, live, pins, caught_up, force: false }
        }

        fn judge(&self, wish: &Wish) -> Judgement {
            let Self { book, live, pins, caught_up, force } = self;
            judge(wish, book, &View { id: 1, live, pins, caught_up, force: *force })
        }

        fn refused(&self, wish: &Wish) -> (ChangeRefusalKind, String) {
            match self.judge(wish) {
                Judgement::Refuse(ChangeRefusal { kind, message }) => (kind, message),
                other => panic!("{wish:?} gave {other:?}"),
            }
        }

        fn made(&self, wish: &Wish) -> Book {
            match self.judge(wish) {
                Judgement::Make { change, book } => {
                    assert_eq!(self.book.after(&change).as_ref(), Ok(&book));
                    book
                }
                other => panic!("{wish:?} gave {other:?}"),
            }
        }
    }

    fn add(id: u64, url: &str) -> Wish {
        Wish::Change(Change::Add { id, url: url.into(), wants: MemberRole::Voter })
    }

    fn join(id: u64, incarnation: u128, url: &str) -> Wish {
        Wish::Join { id, incarnation, url: url.into() }
    }

    fn remove(id: u64) -> Wish {
        Wish::Change(Change::Remove { id })
    }

    fn wants(id: u64, wants: MemberRole) -> Wish {
        Wish::Change(Change::Update { id, wants: Some(wants), url: None })
    }

    fn moves(id: u64, url: &str) -> Wish {
        Wish::Change(Change::Update { id, wants: None, url: Some(url.into()) })
    }

    /// Every mistake is named by its kind, and the sentence says what is wrong.
    #[test]
    fn wrong_wishes_are_refused() {
        use ChangeRefusalKind::*;
        let table = [
            (add(0, "http://x:1"), Invalid, "0 is no id"),
            (add(6, "x:1"), Invalid, "http://host:port"),
            (add(6, "http://b:1/"), Conflict, "member 2"),
            (add(2, "http://x:1"), Conflict, "there already, at http://b:1"),
            (add(9, "http://x:1"), Removed, "never return"),
            (join(9, 1, "http://x:1"), Removed, "never return"),
            (join(4, 45, "http://d:1"), OtherIncarnation, "another data directory"),
            (join(1, 11, "http://a:1"), OtherIncarnation, "another data directory"),
            (join(6, 1, "http://a:1"), Conflict, "member 1"),
            (remove(7), NotFound, "never was a member 7"),
            (wants(7, MemberRole::Voter), NotFound, "no member 7"),
            (wants(9, MemberRole::Voter), Removed, "never return"),
            (moves(2, "http://c:1"), Conflict, "member 3"),
            (moves(2, "nonsense"), Invalid, "http://host:port"),
        ];
        for (wish, kind, text) in table {
            let (found, message) = Table::new().refused(&wish);
            assert!(found == kind && message.contains(text), "{wish:?}: {found:?}, {message}");
        }
    }

    /// What is so already, and cannot be undone, needs no entry; what can be undone is made again.
    #[test]
    fn repeated_wishes_change_nothing() {
        for wish in [remove(9), join(4, 44, "http://d:1")] {
            assert_eq!(Table::new().judge(&wish), Judgement::Nothing, "{wish:?}");
        }
        for wish in
            [wants(4, MemberRole::Voter), wants(2, MemberRole::Voter), moves(2, "http://b:1")]
        {
            assert_eq!(Table::new().made(&wish), Table::new().book, "{wish:?}");
        }
    }

    /// A new member is a learner first; its wish to vote is in the book, for whoever leads when it
    /// has caught up.
    #[test]
    fn new_members_are_learners_that_want_more() {
        for wish in [add(6, "http://x:1"), join(6, 66, "http://x:1")] {
            let member = Table::new().made(&wish).members[&6].clone();
            assert_eq!((member.role, member.wants), (MemberRole::Learner, MemberRole::Voter));
        }
        let mut table = Table::new();
        assert_eq!(table.made(&join(5, 55, "http://e:1")).members[&5].incarnation, Some(55));
        table.pins.insert(5, 56);
        assert_eq!(
            table.refused(&join(5, 55, "http://e:1")).0,
            ChangeRefusalKind::OtherIncarnation
        );
        table.book.members.get_mut(&4).unwrap().wants = MemberRole::Learner;
        let book = table.made(&wants(4, MemberRole::Voter));
        assert_eq!(book.members[&4].role, MemberRole::Learner);
        table.caught_up.insert(4);
        let book = table.made(&wants(4, MemberRole::Voter));
        assert_eq!(book.members[&4].role, MemberRole::Voter);
    }

    /// Of those that would be left a majority must be alive; force overrides that, but never the
    /// last voter.
    #[test]
    fn a_quorum_of_live_voters_must_be_left() {
        let mut table = Table::new();
        table.live = [1, 2].into();
        assert_eq!(table.refused(&remove(2)).0, ChangeRefusalKind::Unsafe);
        assert_eq!(table.refused(&wants(2, MemberRole::Learner)).0, ChangeRefusalKind::Unsafe);
        assert!(!table.made(&remove(3)).members.contains_key(&3));
        table.force = true;
        assert!(table.made(&remove(2)).removed.contains(&2));
        table.book.members.retain(|id, _| *id == 1);
        assert_eq!(table.refused(&remove(1)).0, ChangeRefusalKind::Unsafe);
        assert_eq!(table.refused(&wants(1, MemberRole::Learner)).0, ChangeRefusalKind::Unsafe);
    }

    /// A leader neither removes nor demotes itself: another must lead first.
    #[test]
    fn the_leader_hands_over_first() {
        for wish in [remove(1), wants(1, MemberRole::Learner)] {
            let judgement = Table::new().judge(&wish);
            assert!(matches!(judgement, Judgement::HandOver { .. }), "{wish:?}: {judgement:?}");
        }
    }

    /// The law does not depend on who proposed what: a poisoned change does nothing.
    #[test]
    fn poisoned_changes_do_nothing() {
        let book = Table::new().book;
        let member = |change: &dyn Fn(&mut Member)| {
            let mut member = book.members[&4].clone();
            change(&mut member);
            member
        };
        let mut undecodable = conf_change(4, &member(&|_| ()));
        undecodable.context = vec![7].into();
        let mut disguised = conf_change(4, &member(&|_| ()));
        disguised.set_change_type(ConfChangeType::AddNode);
        let mut absent = ConfChange::default();
        absent.set_change_type(ConfChangeType::RemoveNode);
        absent.node_id = 77;
        for change in [
            undecodable,
            disguised,
            absent,
            conf_change(9, &member(&|m| m.url = "http://x:1".into())),
            conf_change(0, &member(&|m| m.url = "http://x:1".into())),
            conf_change(6, &member(&|_| ())),
        ] {
            assert!(book.after(&change).is_err(), "{change:?}");
        }
    }
}
