//! The invariants, checked after every step of a member.
//!
//! The oracle sees what a member shows after a step: its cursors, what it published and applied,
//! and, through a function, its log. It keeps a copy of every log and one account of everything
//! that is committed, and looks only at what changed: a step that changed nothing costs one
//! comparison. It believes no member about another, and none about itself across a crash: what a
//! member promised in a message, or says it has synced, must be on the disk that it opens next.
//!
//! It refuses to be lenient about what it did not see: [`Oracle::crashed`] says whether a crash
//! cut a step short, which alone excuses what happened in it.
//!
//! The rules are in [`rules`]; each has a test that breaks it and no other.

mod commits;
mod log;
mod member;
pub mod rules;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use raftnode::Role;
pub use raftnode::sim::{Consumed, Cursors, Promise};

use self::commits::Commits;
use self::log::{Entries, Entry};
use self::member::Member;
use crate::Violation;

/// The voters of a configuration; `outgoing` has some while there are two.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Voters {
    /// The voters of the only configuration, or of the one that begins.
    pub incoming: Vec<u64>,
    /// The voters of the one that ends.
    pub outgoing: Vec<u64>,
}

/// A member after a step.
#[derive(Clone, Copy)]
pub struct Step<'a> {
    /// The tick.
    pub tick: u64,
    /// The member.
    pub member: u64,
    /// Grows at each of its starts.
    pub process: u64,
    /// How far it is.
    pub cursors: &'a Cursors,
    /// Term and hash of an entry of its log; none: compacted, or behind the end.
    pub entry: &'a dyn Fn(u64) -> Option<(u64, u64)>,
    /// Whom an entry of its log removes, if it removes a member.
    pub removal: &'a dyn Fn(u64) -> Option<u64>,
    /// The configuration that it goes by.
    pub voters: &'a dyn Fn() -> Voters,
    /// What its applier took from the commit channel since the last step, in order.
    pub consumed: &'a [Consumed],
}

/// Judges everything that members do. See the module's documentation.
#[derive(Debug, Default)]
pub struct Oracle {
    members: BTreeMap<u64, Member>,
    entries: Entries,
    commits: Commits,
    /// Who led in which term.
    leaders: HashMap<u64, u64>,
    n_leader_changes: u64,
    /// Who ended as removed while nobody had been seen to commit that.
    unproven: Vec<u64>,
    tick: u64,
}

impl Oracle {
    /// Before anything happened.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A member did something, or did nothing, or has just started.
    ///
    /// # Errors
    ///
    /// The first rule that it breaks.
    pub fn observe(&mut self, step: &Step<'_>) -> Result<(), Violation> {
        self.tick = step.tick;
        let known = self.members.get(&step.member);
        if let Some(known) = known
            && known.is_unchanged(step)
        {
            return Ok(());
        }
        self.judge(step).map_err(|violation| self.dated(violation))
    }

    fn judge(&mut self, step: &Step<'_>) -> Result<(), Violation> {
        let Step { member: id, cursors, .. } = *step;
        let member = self.members.entry(id).or_default();
        let before = member.running(step.process);
        match &before {
            Some(before) => member::follows(id, before, cursors)?,
            None => member.opened(id, step)?,
        }
        member::is_consistent(id, cursors)?;
        if self.commits.last_index() == 0 {
            self.commits.found(cursors.snapshot_index);
        }
        rules::SNAPSHOT_COMMITTED.holds(
            cursors.snapshot_index <= self.commits.last_index(),
            || {
                let known = self.commits.last_index();
                let index = cursors.snapshot_index;
                format!("member {id} has a snapshot of index {index}; {known} are committed")
            },
        )?;
        let has_led =
            before.as_ref().is_some_and(|b| b.role == Role::Leader && b.term == cursors.term);
        let leads = cursors.role == Role::Leader;
        if before.is_none_or(|before| member::has_other_log(&before, cursors)) {
            let removed = member.copy_log(step, &mut self.entries, &self.commits)?;
            if let Some(index) = removed {
                rules::LEADER_APPENDS_ONLY.holds(!(has_led && leads), || {
                    format!("member {id}, leader of term {}, replaced entry {index}", cursors.term)
                })?;
            }
        }
        if leads && !has_led {
            self.begins_to_lead(step)?;
        }
        self.commit(step, has_led)?;
        let member = self.members.get_mut(&id).expect("it was made above");
        member.consume(step, &mut self.commits)?;
        member.note(step);
        Ok(())
    }

    fn begins_to_lead(&mut self, step: &Step<'_>) -> Result<(), Violation> {
        let Step { member: id, cursors: &Cursors { term, snapshot_index, .. }, .. } = *step;
        let first = *self.leaders.entry(term).or_insert(id);
        rules::ELECTION_SAFETY
            .holds(first == id, || format!("members {first} and {id} lead in term {term}"))?;
        self.n_leader_changes += 1;
        let log = &self.members[&id];
        match self.commits.last_before(term) {
            Some((index, entry)) if index > snapshot_index && log.get(index) != Some(entry) => {
                Err(rules::LEADER_COMPLETENESS.broken(format!(
                    "member {id} leads in term {term} without entry {index} of term {}, which \
                     was committed before",
                    entry.term
                )))
            }
            _ => Ok(()),
        }
    }

    /// Its commit index moved.
    fn commit(&mut self, step: &Step<'_>, has_led: bool) -> Result<(), Violation> {
        let Step { member: id, cursors, .. } = *step;
        let member = &self.members[&id];
        let from = member.committed().max(cursors.snapshot_index);
        if has_led && cursors.role == Role::Leader && cursors.commit > from {
            let term = member.get(cursors.commit).map(|entry| entry.term);
            rules::COMMITS_OWN_TERM.holds(term.is_none_or(|term| term == cursors.term), || {
                format!(
                    "member {id}, leader of term {}, committed index {}, of term {term:?}",
                    cursors.term, cursors.commit
                )
            })?;
        }
        if cursors.role != Role::Leader {
            for index in from + 1..=cursors.commit {
                if let Some(entry) = member.get(index) {
                    self.commits.commit(id, index, entry, cursors.term)?;
                }
            }
            return Ok(());
        }
        let led_with = member.led_with(step.process);
        let has_changed = led_with.is_none() || member.book_version() != cursors.book_version;
        if cursors.commit <= from && !has_changed {
            return Ok(());
        }
        // A step can commit a change of the configuration, and go on under the new one.
        let mut in_force = Vec::from_iter(led_with.cloned());
        if has_changed {
            in_force.push((step.voters)());
        }
        for index in from + 1..=cursors.commit {
            let Some(entry) = member.get(index) else { continue };
            if self.commits.commit(id, index, entry, cursors.term)? {
                self.is_on_quorum(step, index, entry, &in_force)?;
            }
        }
        let led_with = in_force.pop();
        self.members.entry(id).and_modify(|member| member.leads_with(led_with));
        Ok(())
    }

    fn is_on_quorum(
        &self,
        step: &Step<'_>,
        index: u64,
        entry: Entry,
        in_force: &[Voters],
    ) -> Result<(), Violation> {
        let id = step.member;
        let has = |voter: &&u64| {
            let keeps = self.members.get(voter).is_some_and(|log| log.keeps(index, entry));
            // What the leader has on disk since this step is not noted yet.
            keeps || (**voter == id && index <= step.cursors.durable_last)
        };
        let is_quorum =
            |half: &Vec<u64>| half.is_empty() || half.iter().filter(has).count() > half.len() / 2;
        let holds = |voters: &Voters| is_quorum(&voters.incoming) && is_quorum(&voters.outgoing);
        rules::COMMITTED_ON_QUORUM.holds(in_force.iter().any(holds), || {
            let all = in_force.iter().flat_map(|voters| [&voters.incoming, &voters.outgoing]);
            let holders: BTreeSet<_> = all.flatten().filter(has).collect();
            format!(
                "member {id} committed entry {index} of term {}, which only {holders:?} have on \
                 disk, under {in_force:?}",
                entry.term
            )
        })
    }

    /// A message leaves a member in a step that is not observed, because a crash cuts it short.
    ///
    /// # Errors
    ///
    /// When it votes for two.
    pub fn promised(&mut self, id: u64, promise: &Promise) -> Result<(), Violation> {
        let member = self.members.entry(id).or_default();
        member.promise(id, promise).map_err(|violation| self.dated(violation))
    }

    /// A member's process ended without a word; `mid_step`: in the middle of a step that nobody
    /// observed.
    pub fn crashed(&mut self, id: u64, mid_step: bool) {
        if let Some(member) = self.members.get_mut(&id) {
            member.crashed(mid_step);
        }
    }

    /// A member has ended and says that it was removed; `is_observed`: after its last step, so that
    /// whatever it knows to be committed is known here. What it did in a step that a crash cut short
    /// need not be: then it is judged by [`ended`](Self::ended).
    ///
    /// # Errors
    ///
    /// When nobody has committed that.
    pub fn removed(&mut self, id: u64, is_observed: bool) -> Result<(), Violation> {
        match self.is_removed(id) {
            Err(_) if !is_observed => self.unproven.push(id),
            result => return result.map_err(|violation| self.dated(violation)),
        }
        Ok(())
    }

    /// The run is over.
    ///
    /// # Errors
    ///
    /// When a member ended as removed and is not.
    pub fn ended(&self) -> Result<(), Violation> {
        let result = self.unproven.iter().try_for_each(|id| self.is_removed(*id));
        result.map_err(|violation| self.dated(violation))
    }

    fn is_removed(&self, id: u64) -> Result<(), Violation> {
        let mut removals = self.entries.removals(id);
        let is_committed = removals.any(|(index, entry)| self.commits.entry(index) == Some(entry));
        rules::REMOVAL_COMMITTED.holds(is_committed, || {
            let removals = Vec::from_iter(self.entries.removals(id).map(|(index, _)| index));
            format!(
                "member {id} ended as removed; of its removals at {removals:?} none is committed"
            )
        })
    }

    /// A member's disk is replaced by an empty one. What it had acknowledged before may still be
    /// counted by those who heard of it; what it voted it may never vote otherwise.
    pub fn wiped(&mut self, id: u64) {
        if let Some(member) = self.members.get_mut(&id) {
            member.wiped();
        }
    }

    /// The state of a member's machine, or a snapshot's, has this hash.
    ///
    /// # Errors
    ///
    /// When another one was known at that index.
    pub fn state(&mut self, id: u64, index: u64, hash: u64) -> Result<(), Violation> {
        self.commits.state(id, index, hash).map_err(|violation| self.dated(violation))
    }

    /// The membership that a member published as of an index has this hash.
    ///
    /// # Errors
    ///
    /// When another one was known at that index.
    pub fn book(&mut self, id: u64, index: u64, hash: u64) -> Result<(), Violation> {
        self.commits.book(id, index, hash).map_err(|violation| self.dated(violation))
    }

    /// Where a command stands in the log, in the order of its indexes.
    #[must_use]
    pub fn indexes(&self, command: u64) -> Vec<u64> {
        self.commits.indexes(command)
    }

    /// The highest index that anybody has committed.
    #[must_use]
    pub fn last_committed(&self) -> u64 {
        self.commits.last_index()
    }

    /// How often somebody came to lead.
    #[must_use]
    pub fn n_leader_changes(&self) -> u64 {
        self.n_leader_changes
    }

    fn dated(&self, violation: Violation) -> Violation {
        Violation { tick: violation.tick.or(Some(self.tick)), ..violation }
    }
}
