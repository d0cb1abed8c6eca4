//! The gate: who may talk to this member, and whom it talks to.
//!
//! Every head is judged here, request and response alike. What the judgement rests on: our
//! cluster, the address book's view of who is removed and which data directory registered under
//! which id, and pins, the incarnation under which each other member was first met. Members tell
//! each other their pins, so that one that lost its data directory is found out by anybody who
//! met it before, or who met one that did.
//!
//! An unknown sender of the right cluster is let in: our own book may be the stale one, and a
//! vote counts whatever our book says of the voter. What this cannot see: a member that was wiped
//! while everyone who knew it was away.
//!
//! Invariants:
//! - G1 Nothing is delivered from or sent to a member whose pin is not durable, or in the book.
//! - G2 A pin never changes. Ours says nothing of ourselves.
//! - G3 Nobody is told 403 or 410 for what is our own fault: who knows *us* by another
//!   incarnation gets a 412, because what it says of us is not true.
//! - G4 Who was found to have lost what it acknowledged stays refused while this process lives.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::{fmt, io};

use hyper::StatusCode;
use hyper::header::HeaderMap;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use wal::defects::{Defect, has};
use wal::fs::Fs;

use super::head::{self, Claim, Head, HeadRefusal, Kind};
use super::{Inbound, lock};
use crate::{Error, pins};

/// The most pins of those whom the book does not name: nobody forgets a pin, and whoever invents
/// ids must not leave members without.
const MAX_STRANGERS: usize = 1 << 12;

/// The longest reason that is kept of a loss, in bytes: with what stands before it, what a peer
/// reads of a refusal.
const MAX_WHY_LEN: usize = 896;

/// How a 403 begins that is for good: its reader's log lost what it had acknowledged.
pub(crate) const LOST_DATA: &str = "lost_data: ";

/// Shared by the listener, the diallers and the node's loop.
pub(crate) struct Gate {
    cluster: u64,
    id: u64,
    incarnation: u128,
    fs: Arc<dyn Fs>,
    path: PathBuf,
    rules: watch::Sender<Rules>,
    /// Held while the file of pins is replaced, on threads that may block only.
    writing: Mutex<()>,
}

#[derive(Debug, Default)]
struct Rules {
    /// What is in the file.
    pins: BTreeMap<u64, u128>,
    /// The members, with the incarnations that registered; they come from the log and the
    /// snapshots.
    book: BTreeMap<u64, Option<u128>>,
    removed: BTreeSet<u64>,
    /// Who lost what it had acknowledged: the incarnation that did, if one was known, and what it
    /// is told.
    lost: BTreeMap<u64, (Option<u128>, String)>,
}

impl Rules {
    fn is_member(&self, id: u64) -> bool {
        self.book.contains_key(&id)
    }

    fn incarnation_of(&self, id: u64) -> Option<u128> {
        self.book.get(&id).copied().flatten().or_else(|| self.pins.get(&id).copied())
    }
}

/// Why there will be no conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Rejected {
    /// The other side is not one to talk to.
    Them(HeadRefusal),
    /// The other side does not talk to us, or would not if it knew what we are.
    Us(HeadRefusal),
}

impl Rejected {
    /// What the other side is told (G3).
    pub(super) fn answer(self) -> HeadRefusal {
        match self {
            Rejected::Them(refusal) => refusal,
            Rejected::Us(refusal) => {
                HeadRefusal { status: StatusCode::PRECONDITION_FAILED, ..refusal }
            }
        }
    }

    /// What the node is told of a conversation with `peer`.
    pub(super) fn told(self, peer: u64) -> Inbound {
        let (Rejected::Them(refusal) | Rejected::Us(refusal)) = &self;
        let (status, message) = (refusal.status.as_u16(), refusal.reason.clone());
        match self {
            Rejected::Them(_) => Inbound::Distrusted { peer, status, message },
            Rejected::Us(_) => Inbound::Refused { peer, status, message },
        }
    }
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, Rejected::Them(refusal) | Rejected::Us(refusal)) = match self {
            Rejected::Them(_) => ("its answer is refused", self),
            Rejected::Us(_) => ("refused", self),
        };
        write!(f, "{what} with {}: {}", refusal.status.as_u16(), refusal.reason)
    }
}

impl From<HeadRefusal> for Rejected {
    fn from(refusal: HeadRefusal) -> Self {
        Rejected::Them(refusal)
    }
}

impl Gate {
    /// Reads the file of pins at `path`, which need not exist, for member `id` of `cluster`.
    ///
    /// # Errors
    ///
    /// The file is damaged or cannot be read.
    pub(crate) fn open(
        fs: Arc<dyn Fs>,
        path: &Path,
        id: u64,
        incarnation: u128,
        cluster: u64,
    ) -> Result<Self, Error> {
        let pins = match wal::fs::read_file(&*fs, path, pins::MAX_FILE_BYTES) {
            Ok(bytes) => pins::decode(&bytes).map_err(|what| {
                Error::Corrupt(format!("{} {what}; restore it from a copy", path.display()))
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(source) => {
                let path = path.to_path_buf();
                return Err(Error::Unusable { operation: "read", path, source });
            }
        };
        let rules = watch::Sender::new(Rules { pins, ..Rules::default() });
        let (path, writing) = (path.to_path_buf(), Mutex::new(()));
        Ok(Self { cluster, id, incarnation, fs, path, rules, writing })
    }

    /// What the address book says from now on: who is a member, with the incarnation that
    /// registered, and who was one. The streams of those who are removed, or turn out to be another
    /// incarnation, end. A stranger may talk, but what it says of others, or of us, is not believed.
    pub(crate) fn set_book(&self, book: BTreeMap<u64, Option<u128>>, removed: BTreeSet<u64>) {
        self.rules.send_modify(|rules| (rules.book, rules.removed) = (book, removed));
    }

    /// From now on, for as long as this process lives, whoever comes as this member with the
    /// incarnation that it is known by is refused with 403 and this reason, and its open streams
    /// end: it lost what it had acknowledged, and must not come back under its id. The first reason
    /// stays.
    pub(crate) fn mark_lost(&self, id: u64, mut why: String) {
        let end = (0..=MAX_WHY_LEN.min(why.len())).rev().find(|end| why.is_char_boundary(*end));
        why.truncate(end.unwrap_or(0));
        self.rules.send_if_modified(|rules| {
            let known = rules.incarnation_of(id);
            let is_news = !rules.lost.contains_key(&id);
            rules.lost.entry(id).or_insert_with(|| (known, format!("{LOST_DATA}{why}")));
            is_news
        });
    }

    /// Who has met this member so far.
    pub(crate) fn pins(&self) -> BTreeMap<u64, u128> {
        self.rules.borrow().pins.clone()
    }

    pub(super) fn id(&self) -> u64 {
        self.id
    }

    /// Whether the book names it.
    pub(crate) fn is_member(&self, id: u64) -> bool {
        self.rules.borrow().is_member(id)
    }

    #[cfg(feature = "simulation")]
    pub(super) fn n_removed(&self) -> usize {
        self.rules.borrow().removed.len()
    }

    pub(super) fn is_removed(&self, id: u64) -> bool {
        self.rules.borrow().removed.contains(&id)
    }

    /// Who we are, for anyone who asks.
    pub(super) fn claim(&self) -> Claim {
        Claim { cluster: self.cluster, id: self.id, incarnation: self.incarnation }
    }

    /// The pins to state to a member. When a head cannot hold all of them, the one that it must
    /// hold is the member's own.
    pub(super) fn pins_for(&self, to: u64) -> BTreeMap<u64, u128> {
        let rules = self.rules.borrow();
        let mut pins = rules.pins.clone();
        pins.extend(rules.book.iter().filter_map(|(id, known)| Some((*id, (*known)?))));
        pins.retain(|id, _| *id != self.id && !rules.removed.contains(id));
        while pins.len() > head::MAX_PINS {
            let last = pins.keys().rev().find(|id| **id != to).copied();
            last.and_then(|last| pins.remove(&last));
        }
        pins
    }

    /// Judges a head, and pins its sender and whom it vouches for before anything is delivered
    /// or sent (G1). An answer must also be that of the member who was asked.
    pub(super) async fn admit(
        self: &Arc<Self>,
        headers: &HeaderMap,
        asked: Option<u64>,
    ) -> Result<Head, Rejected> {
        let head = Head::parse(headers, Kind::Member)?;
        if asked.is_some_and(|asked| asked != head.from) {
            let reason = format!("this is member {}", head.from);
            return Err(HeadRefusal::new(StatusCode::PRECONDITION_FAILED, reason).into());
        }
        let news = {
            let rules = self.rules.borrow();
            self.judge(&rules, &head)?;
            self.news(&rules, &head)
        };
        if news.is_empty() {
            return Ok(head);
        }
        let gate = Arc::clone(self);
        let pinned = spawn_blocking(move || gate.pin(&head).map(|()| head)).await;
        pinned.unwrap_or_else(|_| {
            let reason = "this member is stopping".to_owned();
            Err(HeadRefusal::new(StatusCode::SERVICE_UNAVAILABLE, reason).into())
        })
    }

    /// Judges the head of a request to join. Its sender is not pinned: that it was told of us is
    /// no proof that it ever was a member.
    pub(super) fn admit_joining(&self, headers: &HeaderMap) -> Result<Head, HeadRefusal> {
        let head = Head::parse(headers, Kind::Joining)?;
        let rules = self.rules.borrow();
        self.judge_sender(&rules, &head)?;
        Ok(head)
    }

    /// As [`admit`](Self::admit), of a head that was parsed, on this thread.
    #[cfg(feature = "simulation")]
    pub(super) fn admit_now(&self, head: &Head, asked: Option<u64>) -> Result<(), Rejected> {
        if asked.is_some_and(|asked| asked != head.from) {
            let reason = format!("this is member {}", head.from);
            return Err(HeadRefusal::new(StatusCode::PRECONDITION_FAILED, reason).into());
        }
        let news = {
            let rules = self.rules.borrow();
            self.judge(&rules, head)?;
            self.news(&rules, head)
        };
        if news.is_empty() { Ok(()) } else { self.pin(head) }
    }

    /// As [`admit_joining`](Self::admit_joining), of a head that was parsed.
    #[cfg(feature = "simulation")]
    pub(super) fn admit_joining_now(&self, head: &Head) -> Result<(), HeadRefusal> {
        self.judge_sender(&self.rules.borrow(), head)
    }

    /// Whether the sender of a head that was admitted still would be.
    #[cfg(feature = "simulation")]
    pub(super) fn judge_now(&self, head: &Head) -> Result<(), Rejected> {
        self.judge(&self.rules.borrow(), head)
    }

    /// Returns once the sender of a head that was admitted would not be any more.
    pub(super) async fn turns_against(&self, head: &Head) -> Rejected {
        let mut rules = self.rules.subscribe();
        loop {
            if let Err(rejected) = self.judge(&rules.borrow_and_update(), head) {
                return rejected;
            }
            rules.changed().await.expect("the gate owns the sender and is borrowed");
        }
    }

    fn judge(&self, rules: &Rules, head: &Head) -> Result<(), Rejected> {
        let foreign = |reason| HeadRefusal::new(StatusCode::PRECONDITION_FAILED, reason);
        if head.cluster != self.cluster && !has(Defect::ForeignPeer) {
            let (ours, theirs) = (self.cluster, head.cluster);
            return Err(foreign(format!("this is cluster {ours:016x}, not {theirs:016x}")).into());
        }
        if head.to != self.id {
            return Err(foreign(format!("this is member {}, not {}", self.id, head.to)).into());
        }
        self.judge_sender(rules, head)?;
        let known = head.pins.get(&self.id).filter(|_| rules.is_member(head.from));
        if let Some(known) = known.filter(|known| **known != self.incarnation) {
            let message = format!(
                "member {} knows member {} by another data directory ({known:032x}, not {:032x}): \
                 what this one voted for and acknowledged before is lost; remove it from the \
                 cluster, then let it join under a new id",
                head.from, self.id, self.incarnation
            );
            return Err(Rejected::Us(HeadRefusal::new(StatusCode::FORBIDDEN, message)));
        }
        Ok(())
    }

    fn judge_sender(&self, rules: &Rules, head: &Head) -> Result<(), HeadRefusal> {
        let from = head.from;
        if from == self.id {
            let reason = format!("this is member {from} itself");
            return Err(HeadRefusal::new(StatusCode::PRECONDITION_FAILED, reason));
        }
        if rules.removed.contains(&from) && !has(Defect::RemovedMayTalk) {
            let reason = format!(
                "member {from} was removed from the cluster; removed ids never return, so join \
                 under a new one"
            );
            return Err(HeadRefusal::new(StatusCode::GONE, reason));
        }
        let pinned = rules.incarnation_of(from).filter(|_| !has(Defect::WipedMayTalk));
        if let Some(pinned) = pinned.filter(|pinned| *pinned != head.incarnation) {
            let reason = format!(
                "member {from} is known by another data directory ({pinned:032x}, not {:032x}): \
                 what it voted for and acknowledged before is lost; remove it from the cluster, \
                 then let it join under a new id",
                head.incarnation
            );
            return Err(HeadRefusal::new(StatusCode::FORBIDDEN, reason));
        }
        if let Some((known, reason)) = rules.lost.get(&from)
            && known.is_none_or(|known| known == head.incarnation)
        {
            return Err(HeadRefusal::new(StatusCode::FORBIDDEN, reason.clone()));
        }
        Ok(())
    }

    /// The pins that an admitted head adds to ours.
    fn news(&self, rules: &Rules, head: &Head) -> BTreeMap<u64, u128> {
        let mut news = if rules.is_member(head.from) { head.pins.clone() } else { BTreeMap::new() };
        news.retain(|id, _| rules.is_member(*id));
        news.insert(head.from, head.incarnation);
        news.retain(|id, _| {
            *id != self.id && !rules.removed.contains(id) && rules.incarnation_of(*id).is_none()
        });
        news
    }

    /// Judges once more, for another may have been first, and makes the news durable. Blocks.
    fn pin(&self, head: &Head) -> Result<(), Rejected> {
        let _writing = lock(&self.writing);
        let (mut pins, news) = {
            let rules = self.rules.borrow();
            self.judge(&rules, head)?;
            (rules.pins.clone(), self.news(&rules, head))
        };
        if news.is_empty() {
            return Ok(());
        }
        pins.extend(news);
        let broken = |reason| HeadRefusal::new(StatusCode::INTERNAL_SERVER_ERROR, reason);
        let strangers = || pins.keys().filter(|id| !self.is_member(**id)).count();
        if !self.is_member(head.from) && strangers() > MAX_STRANGERS {
            let reason = format!("{MAX_STRANGERS} pins of strangers are kept, and no more");
            return Err(HeadRefusal::new(StatusCode::SERVICE_UNAVAILABLE, reason).into());
        }
        if pins.len() > pins::MAX_PINS {
            return Err(broken(format!("no more than {} pins are kept", pins::MAX_PINS)).into());
        }
        if !has(Defect::VolatilePins) {
            wal::fs::write_file_durably(&*self.fs, &self.path, &pins::encode(&pins))
                .map_err(|e| broken(format!("cannot write {}: {e}", self.path.display())))?;
        }
        self.rules.send_modify(|rules| rules.pins = pins);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use wal::fs::{Fault, MemFs, Op};

    use super::*;

    const PATH: &str = "pins";

    fn head(from: u64, incarnation: u128, pins: &[(u64, u128)]) -> Head {
        let (peer_url, client_url) = ("http://a:1".into(), String::new());
        let pins = pins.iter().copied().collect();
        Head { cluster: 7, from, to: 1, incarnation, pins, peer_url, client_url }
    }

    fn admit(gate: &Arc<Gate>, head: &Head) -> Result<Head, Rejected> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(gate.admit(&head.to_headers().unwrap(), None))
    }

    fn gate(fs: &MemFs, cluster: u64) -> Arc<Gate> {
        Arc::new(Gate::open(Arc::new(fs.clone()), Path::new(PATH), 1, 11, cluster).unwrap())
    }

    fn status(result: Result<Head, Rejected>) -> (u16, bool) {
        match result {
            Ok(_) => (200, false),
            Err(Rejected::Them(refusal)) => (refusal.status.as_u16(), false),
            Err(us @ Rejected::Us(_)) => (us.answer().status.as_u16(), true),
        }
    }

    /// One table of who is let in, and what those who are not are told.
    #[test]
    fn heads_are_judged() {
        let gate = gate(&MemFs::new(), 7);
        let book = [(2, Some(22)), (3, Some(33)), (4, None), (5, None)];
        gate.set_book(book.into(), [9].into());
        assert!(admit(&gate, &head(4, 44, &[(5, 55)])).is_ok());
        let table = [
            ("registered", head(2, 22, &[]), 200),
            ("registered otherwise", head(2, 23, &[]), 403),
            ("pinned", head(4, 44, &[(1, 11)]), 200),
            ("pinned otherwise", head(4, 45, &[]), 403),
            ("vouched for", head(5, 55, &[]), 200),
            ("vouched for otherwise", head(5, 56, &[]), 403),
            ("never heard of", head(6, 66, &[(1, 12), (7, 77)]), 200),
            ("a stranger's word", head(7, 78, &[]), 200),
            ("removed", head(9, 99, &[]), 410),
            ("ourselves", head(1, 11, &[]), 412),
            ("of another cluster", Head { cluster: 8, ..head(2, 22, &[]) }, 412),
            ("for another", Head { to: 3, ..head(2, 22, &[]) }, 412),
            ("differs on a third", head(2, 22, &[(3, 34)]), 200),
        ];
        for (who, head, expected) in table {
            assert_eq!(status(admit(&gate, &head)), (expected, false), "{who}");
        }
        assert_eq!(status(admit(&gate, &head(2, 22, &[(1, 12)]))), (412, true), "we are wiped");
        assert_eq!(gate.pins_for(2), [(2, 22), (3, 33), (4, 44), (5, 55), (6, 66), (7, 78)].into());
    }

    /// Whoever asks to join is judged as others are, and is nobody yet.
    #[test]
    fn joining_is_judged_and_pins_nobody() {
        let gate = gate(&MemFs::new(), 7);
        assert_eq!(status(admit(&gate, &head(2, 22, &[]))), (200, false));
        let joining = |head: Head| {
            let headers = Head { cluster: 0, to: 0, ..head }.to_headers().unwrap();
            gate.admit_joining(&headers).map_err(|refusal| refusal.status.as_u16()).map(|_| ())
        };
        gate.set_book(BTreeMap::new(), [9].into());
        assert_eq!(joining(head(2, 23, &[])), Err(403));
        assert_eq!(joining(head(9, 1, &[])), Err(410));
        assert_eq!(joining(head(1, 1, &[])), Err(412));
        assert_eq!(joining(head(3, 1, &[])), Ok(()));
        assert!(!gate.pins_for(2).contains_key(&3), "pinned by asking to join");
    }

    /// Two data directories come with one id at once, and both are judged before either is known: one
    /// of them alone is let in. No test noticed when both were.
    #[test]
    fn one_of_two_directories_with_one_id_is_let_in() {
        let gate = gate(&MemFs::new(), 7);
        gate.set_book([(2, None)].into(), BTreeSet::new());
        let (first, second) = (head(2, 22, &[]), head(2, 23, &[]));
        for head in [&first, &second] {
            assert!(gate.judge(&gate.rules.borrow(), head).is_ok());
        }
        assert!(gate.pin(&first).is_ok());
        assert_eq!(status(gate.pin(&second).map(|()| second)), (403, false));
        assert_eq!(gate.pins_for(1)[&2], 22);
    }

    /// A pin must outlive the process that took it, and nobody is let in when it cannot (G1).
    #[test]
    fn pins_are_durable_before_anyone_is_let_in() {
        let fs = MemFs::new();
        let first = gate(&fs, 7);
        first.set_book([(2, None), (3, None)].into(), BTreeSet::new());
        assert!(admit(&first, &head(2, 22, &[(3, 33)])).is_ok());
        let again = gate(&fs, 7);
        assert_eq!(again.pins_for(2), [(2, 22), (3, 33)].into());
        assert_eq!(status(admit(&again, &head(3, 34, &[]))), (403, false));
        fs.inject(Op::Sync, 0, Fault::Error(5));
        assert_eq!(status(admit(&again, &head(4, 44, &[]))), (500, false));
        assert!(!again.pins_for(2).contains_key(&4));
        assert!(admit(&again, &head(4, 45, &[])).is_ok(), "nobody was pinned by what failed");
    }

    /// A member that lost what it had acknowledged is refused by every door, in every conversation
    /// that is under way, and whatever the book says later (G4); nobody else is.
    #[test]
    fn whoever_lost_data_is_refused() {
        let gate = gate(&MemFs::new(), 7);
        gate.set_book([(2, None), (3, None)].into(), BTreeSet::new());
        let [two, three] = [head(2, 22, &[]), head(3, 33, &[])];
        let [under_way, other] = [&two, &three].map(|head| admit(&gate, head).unwrap());
        gate.mark_lost(2, "its log ends at 5".into());
        gate.mark_lost(2, "a later reason".into());
        gate.mark_lost(4, "é".repeat(MAX_WHY_LEN));

        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let turned = runtime.block_on(gate.turns_against(&under_way));
        let joining = Head { cluster: 0, to: 0, ..two.clone() }.to_headers().unwrap();
        let asked = runtime.block_on(gate.admit(&two.to_headers().unwrap(), Some(2)));
        for refused in [
            admit(&gate, &two).unwrap_err(),
            asked.unwrap_err(),
            gate.admit_joining(&joining).unwrap_err().into(),
            turned,
        ] {
            let reason = "lost_data: its log ends at 5".to_owned();
            let expected = HeadRefusal { status: StatusCode::FORBIDDEN, reason };
            assert_eq!(refused, Rejected::Them(expected));
        }
        assert!(admit(&gate, &other).is_ok());
        let Err(Rejected::Them(long)) = admit(&gate, &head(4, 44, &[])) else { panic!("let in") };
        assert!((890..1024).contains(&long.reason.len()), "{}", long.reason.len());

        gate.set_book([(2, Some(22))].into(), BTreeSet::new());
        assert_eq!(status(admit(&gate, &two)), (403, false));
        gate.set_book([(2, Some(23))].into(), BTreeSet::new());
        assert_eq!(status(admit(&gate, &head(2, 23, &[]))), (200, false), "another incarnation");
    }

    /// Ids are easily invented, and each is kept: they must not use up what members need.
    #[test]
    fn strangers_do_not_use_up_the_pins() {
        let fs = MemFs::new();
        let stranger = |nth: usize| (100 + nth as u64, 1);
        let known = (0..MAX_STRANGERS).map(stranger).collect();
        wal::fs::write_file_durably(&fs, Path::new(PATH), &pins::encode(&known)).unwrap();
        let gate = gate(&fs, 7);
        gate.set_book([(2, None)].into(), BTreeSet::new());
        assert_eq!(status(admit(&gate, &head(50, 1, &[]))), (503, false));
        assert_eq!(status(admit(&gate, &head(100, 1, &[]))), (200, false));
        assert_eq!(status(admit(&gate, &head(2, 22, &[]))), (200, false));
    }

    /// A damaged file must not read as "nobody was met".
    #[test]
    fn a_damaged_file_of_pins_is_refused() {
        let fs = MemFs::new();
        wal::fs::write_file_durably(&fs, Path::new(PATH), b"raftpins").unwrap();
        let error = Gate::open(Arc::new(fs), Path::new(PATH), 1, 11, 7).err().unwrap();
        assert!(matches!(&error, Error::Corrupt(what) if what.starts_with("pins ")), "{error}");
    }

    /// More pins than a head holds: the one that matters to its reader is there.
    #[test]
    fn a_head_holds_the_pin_of_its_addressee() {
        let gate = gate(&MemFs::new(), 7);
        let all =
            (2..2 + 2 * head::MAX_PINS as u64).map(|id| (id, Some(1))).collect::<BTreeMap<_, _>>();
        gate.set_book(all.clone(), BTreeSet::new());
        for to in [2, *all.last_key_value().unwrap().0] {
            let pins = gate.pins_for(to);
            assert!(pins.len() == head::MAX_PINS && pins.contains_key(&to), "{to}");
        }
    }
}
