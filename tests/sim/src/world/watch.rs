//! What is looked at after every step.

use std::collections::BTreeMap;
use std::fmt::Display;

use raftnode::Role;
use raftnode::sim::{Consumed, Cursors};

use super::World;
use super::host::Host;
use crate::Violation;
use crate::coverage::Kind;

/// What is known of all members.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    members: BTreeMap<u64, Known>,
    /// Who led in which term.
    leaders: BTreeMap<u64, u64>,
    /// The commands by index.
    commands: BTreeMap<u64, (u64, u64)>,
}

#[derive(Debug, Default)]
struct Known {
    life: u64,
    last: Option<Cursors>,
    consumed: Vec<Consumed>,
    through: u64,
}

impl Watch {
    pub(super) fn consumed(&mut self, id: u64, consumed: Vec<Consumed>) {
        self.members.entry(id).or_default().consumed.extend(consumed);
    }

    pub(super) fn started(&mut self, id: u64, life: u64) {
        let known = self.members.entry(id).or_default();
        (known.life, known.through) = (life, 0);
        known.consumed.clear();
    }

    pub(super) fn ended(&mut self, _id: u64) {}

    pub(super) fn crashed(&mut self, _id: u64, _in_a_step: bool) {}

    pub(super) fn wiped(&mut self, id: u64) {
        self.members.remove(&id);
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
        let Some(member) = self.hosts.get(&id).and_then(Host::member) else { return Ok(()) };
        if let Some(early) = member.early_promise() {
            return rule("N2", "no promise leaves before it is durable", early);
        }
        let cursors = member.cursors();
        let known = self.watch.members.entry(id).or_default();
        let consumed = std::mem::take(&mut known.consumed);
        if known.last == Some(cursors) && consumed.is_empty() {
            return Ok(());
        }
        let Cursors { term, commit, durable_term, durable_commit, role, .. } = cursors;
        if let Some(last) = known.last.replace(cursors) {
            let regresses = durable_term < last.durable_term
                || durable_commit < last.durable_commit
                || (durable_term == last.durable_term
                    && last.durable_vote != 0
                    && cursors.durable_vote != last.durable_vote);
            if regresses {
                let what = format!("member {id}: {last:?}, then {cursors:?}");
                return rule("N7", "term, vote and commit never regress on disk", what);
            }
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
        let known = self.watch.members.entry(id).or_default();
        for item in consumed {
            match item {
                Consumed::Restored { index, .. } => known.through = index,
                Consumed::Applied { last_index, items, .. } => {
                    for (index, term, hash) in items {
                        let one = self.watch.commands.entry(index).or_insert((term, hash));
                        if *one != (term, hash) {
                            let what = format!("member {id} applies another command at {index}");
                            return rule("SMS", "all members apply the same commands", what);
                        }
                    }
                    known.through = last_index;
                }
                Consumed::Captured { index } if index != known.through => {
                    let what = format!("member {id} captures {index} at {}", known.through);
                    return rule("N4", "a snapshot holds what it says", what);
                }
                Consumed::Captured { .. } => {}
            }
        }
        if role == Role::Leader {
            let leader = *self.watch.leaders.entry(term).or_insert(id);
            if leader != id {
                let what = format!("members {leader} and {id} lead term {term}");
                return rule("ES", "at most one leader in a term", what);
            }
        }
        let words = [self.now, id, term, commit, cursors.last_index, cursors.applied];
        self.mix(&words);
        Ok(())
    }
}
