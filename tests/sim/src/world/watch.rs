//! What is looked at after every step: the oracle's eyes.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use raftnode::Role;
use raftnode::membership::{Book, MemberRole};
use raftnode::sim::{Consumed, Cursors, fingerprint};

use slog::Drain as _;

use super::World;
use super::host::Host;
use crate::Violation;
use crate::coverage::{Coverage, Kind};
use crate::oracle::{Oracle, Step, Voters, rules};

/// What is known of all members.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    pub(crate) oracle: Oracle,
    /// The newest book that anybody has shown.
    book: Book,
    book_index: u64,
    /// Who came to lead last.
    leader: Option<u64>,
    members: BTreeMap<u64, Known>,
}

#[derive(Debug, Default)]
struct Known {
    last: Option<Cursors>,
    consumed: Vec<Consumed>,
    /// The last index whose state its applier captured.
    captured: Option<u64>,
}

impl Known {
    fn consumes(&mut self, consumed: Vec<Consumed>) {
        let captured = consumed.iter().rev().find_map(|item| match item {
            Consumed::Captured { index } => Some(*index),
            Consumed::Restored { .. } | Consumed::Applied { .. } => None,
        });
        self.captured = captured.or(self.captured);
        self.consumed.extend(consumed);
    }

    /// Its newest snapshot is another, and it has taken that itself: nobody sent it.
    fn has_taken(&self, last: &Cursors, now: &Cursors) -> bool {
        now.snapshot_index > last.snapshot_index && self.captured == Some(now.snapshot_index)
    }
}

impl Watch {
    pub(super) fn consumed(&mut self, id: u64, consumed: Vec<Consumed>) {
        self.members.entry(id).or_default().consumes(consumed);
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

/// What became of members between two books.
fn count_changes(before: &Book, now: &Book, coverage: &mut Coverage) {
    for (id, member) in &now.members {
        match before.members.get(id).map(|before| before.role) {
            // The first book that is seen has everybody in it.
            None if before.members.is_empty() => {}
            None => coverage.count(Kind::MemberAdded),
            Some(MemberRole::Learner) if member.role == MemberRole::Voter => {
                coverage.count(Kind::MemberPromoted);
            }
            Some(MemberRole::Voter) if member.role == MemberRole::Learner => {
                coverage.count(Kind::MemberDemoted);
            }
            Some(_) => {}
        }
    }
    coverage.add(Kind::MemberRemoved, (now.removed.len() - before.removed.len()) as u64);
}

/// Hears what members warn of while they open their logs; nobody else does.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ears(Arc<AtomicU64>);

impl Ears {
    /// What a member logs to.
    pub(super) fn logger(&self) -> slog::Logger {
        slog::Logger::root(slog::LevelFilter(self.clone(), slog::Level::Warning).fuse(), slog::o!())
    }

    /// How many torn ends were cut since the last call.
    pub(super) fn take_torn(&self) -> u64 {
        self.0.swap(0, Ordering::Relaxed)
    }
}

impl slog::Drain for Ears {
    type Ok = ();
    type Err = slog::Never;

    fn log(&self, record: &slog::Record<'_>, _: &slog::OwnedKVList) -> Result<(), slog::Never> {
        if record.msg().to_string().starts_with("cut the torn end of the log") {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
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

/// Everything that members log, for whoever replays a seed.
#[expect(clippy::print_stderr, reason = "whoever replays a seed reads it there")]
pub(super) fn logger() -> slog::Logger {
    struct Lines;
    impl slog::Drain for Lines {
        type Ok = ();
        type Err = slog::Never;
        fn log(
            &self,
            record: &slog::Record<'_>,
            values: &slog::OwnedKVList,
        ) -> Result<(), slog::Never> {
            use slog::KV as _;
            let mut line = String::new();
            struct Text<'a>(&'a mut String);
            impl slog::Serializer for Text<'_> {
                fn emit_arguments(
                    &mut self,
                    key: slog::Key,
                    value: &std::fmt::Arguments<'_>,
                ) -> slog::Result {
                    use std::fmt::Write as _;
                    Ok(write!(self.0, " {key}={value}")?)
                }
            }
            record.kv().serialize(record, &mut Text(&mut line)).ok();
            values.serialize(record, &mut Text(&mut line)).ok();
            eprintln!("         {} {}{line}", record.level().as_short_str(), record.msg());
            Ok(())
        }
    }
    slog::Logger::root(slog::Fuse(Lines), slog::o!())
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
        let last = known.last.replace(cursors);
        let has_taken = last.is_some_and(|last| known.has_taken(&last, &cursors));
        let oracle = &mut self.watch.oracle;
        oracle.observe(&Step {
            tick,
            member: id,
            process: host.life,
            cursors: &cursors,
            entry: &|index| member.entry(index),
            removal: &|index| member.removal(index),
            voters: &|| Voters { incoming: member.configuration().0, outgoing: Vec::new() },
            consumed: &consumed,
        })?;
        if last.is_some_and(|last| last.book_version != cursors.book_version) {
            let book = member.book();
            let index = cursors.book_index;
            oracle.book(id, index, fingerprint(format!("{book:?}").as_bytes()))?;
            if index > self.watch.book_index {
                self.watch.book_index = index;
                count_changes(&self.watch.book, book, &mut self.coverage);
                self.watch.book.clone_from(book);
            }
        }
        if let Some(last) = last {
            if cursors.role == Role::Leader && last.role != Role::Leader {
                // The first leader is no change, nor is one that comes to lead again.
                let before = self.watch.leader.replace(id);
                if before.is_some_and(|before| before != id) {
                    self.coverage.count(Kind::LeaderChange);
                }
            }
            if has_taken {
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

    /// What a member's turn sent was on its disk when it left, however that turn ended.
    pub(super) fn look_at_messages(&self, id: u64) -> Result<(), Violation> {
        let member = self.hosts.get(&id).and_then(Host::member);
        let early = member.and_then(|member| member.early_promise());
        early.map_or(Ok(()), |early| {
            let violation = rules::PROMISES_KEPT.broken(format!("member {id}: {early}"));
            Err(Violation { tick: Some(self.tick()), ..violation })
        })
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A campaign must not pass for one in which members took snapshots when all were installed.
    #[test]
    fn an_installed_snapshot_was_not_taken() {
        let at = |snapshot_index| Cursors {
            term: 1,
            vote: 0,
            commit: 9,
            published: 9,
            applied: 9,
            last_index: 9,
            last_term: 1,
            first_index: 1,
            snapshot_index,
            snapshot_term: 1,
            older_snapshot: None,
            role: Role::Follower,
            leader: 0,
            book_version: 0,
            book_index: 0,
            shut_out: 0,
            durable_term: 1,
            durable_vote: 0,
            durable_commit: 9,
            durable_last: 9,
        };
        let mut known = Known::default();
        known.consumes(vec![Consumed::Restored { index: 5, term: 1 }]);
        assert!(!known.has_taken(&at(1), &at(5)));
        known.consumes(vec![Consumed::Captured { index: 7 }]);
        known.consumes(Vec::new());
        assert!(known.has_taken(&at(5), &at(7)));
        assert!(!known.has_taken(&at(7), &at(7)));
        assert!(!known.has_taken(&at(5), &at(9)), "another's");
    }
}
