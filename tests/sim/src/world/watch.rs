//! What is looked at after every step: the oracle's eyes.

use std::collections::BTreeMap;
use std::fmt::{Display, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use raftnode::membership::{Book, MemberRole};
use raftnode::sim::{Consumed, Cursors, fingerprint};

use slog::KV as _;

use super::World;
use super::host::Host;
use crate::Violation;
use crate::coverage::Kind;
use crate::oracle::{Oracle, Step, Voters, rules};

/// What is known of all members.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    pub(crate) oracle: Oracle,
    /// The newest book that anybody had, and how far that one had come.
    book: (u64, Book),
    members: BTreeMap<u64, Known>,
}

#[derive(Debug, Default)]
struct Known {
    last: Option<Cursors>,
    consumed: Vec<Consumed>,
}

impl Watch {
    pub(super) fn consumed(&mut self, id: u64, consumed: Vec<Consumed>) {
        self.members.entry(id).or_default().consumed.extend(consumed);
    }

    /// Somebody has another book: what is new in it, if it is the newest.
    fn turned(&mut self, published: u64, book: &Book) -> Vec<Kind> {
        if published <= self.book.0 || *book == self.book.1 {
            return Vec::new();
        }
        let (_, old) = std::mem::replace(&mut self.book, (published, book.clone()));
        if old.members.is_empty() {
            return Vec::new();
        }
        let mut news = Vec::new();
        for (id, member) in &book.members {
            match old.members.get(id).map(|old| old.role) {
                None => news.push(Kind::MemberAdded),
                Some(role) if role == member.role => {}
                Some(MemberRole::Learner) => news.push(Kind::MemberPromoted),
                Some(MemberRole::Voter) => news.push(Kind::MemberDemoted),
            }
        }
        let removed = book.removed.difference(&old.removed);
        news.extend(removed.map(|_| Kind::MemberRemoved));
        news
    }

    pub(super) fn started(&mut self, id: u64) {
        *self.members.entry(id).or_default() = Known::default();
    }

    pub(super) fn crashed(&mut self, id: u64, in_a_step: bool) {
        self.oracle.crashed(id, in_a_step);
    }

    pub(super) fn wiped(&mut self, id: u64) {
        self.oracle.wiped(id);
    }
}

/// A broken rule.
pub(super) fn rule(
    rule: &'static str,
    statement: &'static str,
    what: impl Display,
) -> Result<(), Violation> {
    Err(Violation { rule, statement, what: what.to_string(), tick: None })
}

/// Where members log: to whoever replays a seed, if anybody, and to be counted.
pub(super) fn logger(is_shown: bool, n_torn: Arc<AtomicU64>) -> slog::Logger {
    slog::Logger::root(slog::Fuse(Lines { is_shown, n_torn }), slog::o!())
}

/// What members log.
struct Lines {
    is_shown: bool,
    /// How often a torn end was cut off a log.
    n_torn: Arc<AtomicU64>,
}

impl slog::Drain for Lines {
    type Ok = ();
    type Err = slog::Never;

    fn log(
        &self,
        record: &slog::Record<'_>,
        values: &slog::OwnedKVList,
    ) -> Result<(), slog::Never> {
        if record.level() == slog::Level::Warning
            && record.msg().as_str().is_some_and(|text| text.starts_with("cut the torn end"))
        {
            self.n_torn.fetch_add(1, Ordering::Relaxed);
        }
        if self.is_shown {
            let mut line = format!("         {} {}", record.level().as_short_str(), record.msg());
            // A text takes everything.
            record.kv().serialize(record, &mut Text(&mut line)).ok();
            values.serialize(record, &mut Text(&mut line)).ok();
            show(&line);
        }
        Ok(())
    }
}

/// Keys and values behind a line.
struct Text<'a>(&'a mut String);

impl slog::Serializer for Text<'_> {
    fn emit_arguments(&mut self, key: slog::Key, value: &std::fmt::Arguments<'_>) -> slog::Result {
        Ok(write!(self.0, " {key}={value}")?)
    }
}

#[expect(clippy::print_stderr, reason = "whoever replays a seed reads it there")]
fn show(line: &str) {
    eprintln!("{line}");
}

impl World {
    /// Looks at a member after a step.
    pub(super) fn observe(&mut self, id: u64) -> Result<(), Violation> {
        let result = self.look_at(id);
        let tick = self.tick();
        result.map_err(|violation| Violation { tick: violation.tick.or(Some(tick)), ..violation })
    }

    fn look_at(&mut self, id: u64) -> Result<(), Violation> {
        let tick = self.tick();
        let Some((host, member)) =
            self.hosts.get(&id).and_then(|host| Some((host, host.member()?)))
        else {
            return Ok(());
        };
        let cursors = member.cursors();
        let known = self.watch.members.entry(id).or_default();
        let consumed = std::mem::take(&mut known.consumed);
        if known.last == Some(cursors) && consumed.is_empty() {
            return Ok(());
        }
        if let Some(early) = member.early_promise() {
            return Err(rules::PROMISES_KEPT.broken(format!("member {id}: {early}")));
        }
        let last = known.last.replace(cursors);
        let oracle = &mut self.watch.oracle;
        oracle.observe(&Step {
            tick,
            member: id,
            process: host.life,
            cursors: &cursors,
            entry: &|index| member.entry(index),
            voters: &|| Voters { incoming: member.configuration().0, outgoing: Vec::new() },
            consumed: &consumed,
        })?;
        // The status says nothing of a book before the first turn is over.
        if last.is_some_and(|last| last.book_version != cursors.book_version) {
            let book = fingerprint(format!("{:?}", member.book()).as_bytes());
            oracle.book(id, member.handle().node().status().book_index, book)?;
            let news = self.watch.turned(cursors.published, member.book());
            news.into_iter().for_each(|kind| self.coverage.count(kind));
        }
        if let Some(last) = last {
            if last.leader != cursors.leader && cursors.leader != 0 {
                self.coverage.count(Kind::LeaderChange);
            }
            if cursors.snapshot_index > last.snapshot_index {
                self.coverage.count(Kind::SnapshotTaken);
            }
            if cursors.first_index > last.first_index {
                self.coverage.count(Kind::LogCompacted);
            }
        }
        let Cursors { term, commit, .. } = cursors;
        let words = [self.now, id, term, commit, cursors.last_index, cursors.applied];
        self.mix(&words);
        Ok(())
    }

    /// The messages of a step that a crash cuts short have left all the same.
    pub(super) fn has_promised(&mut self, id: u64) -> Result<(), Violation> {
        let member = self.hosts.get(&id).and_then(Host::member);
        let promises = member.map(|member| member.promises()).unwrap_or_default();
        promises.iter().try_for_each(|promise| self.watch.oracle.promised(id, promise))
    }

    /// What a member's machine holds after what its applier took.
    pub(super) fn look_at_state(&mut self, id: u64, index: u64) -> Result<(), Violation> {
        let Some(member) = self.hosts.get(&id).and_then(Host::member) else { return Ok(()) };
        self.watch.oracle.state(id, index, member.machine().hash())
    }
}
