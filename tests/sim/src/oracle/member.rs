//! What is known of one member, in memory and on its disk.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use raftnode::Role;

use super::commits::Commits;
use super::log::{Entries, Entry, Log};
use super::{Consumed, Cursors, Promise, Step, Voters, rules};
use crate::Violation;

/// How many entries behind its snapshot a log's copy keeps: for those who ask what a member that
/// has compacted its log had in it.
const KEPT_BEHIND: u64 = 1_000;

/// One member.
#[derive(Debug, Default)]
pub(super) struct Member {
    process: u64,
    /// Of the last step of its last process; none before the first.
    cursors: Option<Cursors>,
    is_running: bool,
    log: Log,
    /// Through which index it said to others that its log is on disk.
    promised: u64,
    /// What it acknowledged in messages of the step that has not been observed yet.
    promised_now: Vec<Acknowledged>,
    /// Whom it voted for, in messages, by term.
    votes: BTreeMap<u64, u64>,
    /// The last process ended in the middle of a step.
    ended_mid_step: bool,
    /// The last index that its consumer was given.
    consumed: u64,
    /// What it was when its disk was lost, if it was.
    wiped: Option<Box<Member>>,
    /// The configuration that it went by at its last step, if it led.
    led_with: Option<Voters>,
}

/// A message said that an entry is on its sender's disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Acknowledged {
    index: u64,
    /// The entry's; none: what was there may have been replaced when the message left.
    entry_term: Option<u64>,
    /// The message's.
    term: u64,
}

impl Acknowledged {
    /// An entry is the acknowledged one, or may precede it.
    fn covers(&self, index: u64, entry: Entry) -> bool {
        self.entry_term.is_none_or(|term| match index.cmp(&self.index) {
            Ordering::Less => entry.term <= term,
            Ordering::Equal => entry.term == term,
            Ordering::Greater => false,
        }) && index <= self.index
    }
}

/// One step of a process after another.
pub(super) fn follows(id: u64, before: &Cursors, now: &Cursors) -> Result<(), Violation> {
    let rising = [
        ("term", before.term, now.term),
        ("commit index", before.commit, now.commit),
        ("published index", before.published, now.published),
        ("applied index", before.applied, now.applied),
        ("snapshot index", before.snapshot_index, now.snapshot_index),
        ("book", before.book_version, now.book_version),
        ("members shut out", before.shut_out as u64, now.shut_out as u64),
    ];
    for (name, before, now) in rising {
        rules::CURSORS_RISE
            .holds(before <= now, || format!("member {id}: {name} goes from {before} to {now}"))?;
    }
    if before.term == now.term && before.vote != 0 {
        rules::ONE_VOTE.holds(before.vote == now.vote, || {
            format!("member {id} votes for {} and {} in term {}", before.vote, now.vote, now.term)
        })?;
    }
    durable_rises(id, before, now.durable_term, now.durable_vote, now.durable_commit)
}

fn durable_rises(
    id: u64,
    before: &Cursors,
    term: u64,
    vote: u64,
    commit: u64,
) -> Result<(), Violation> {
    let holds = before.durable_term <= term
        && before.durable_commit <= commit
        && (before.durable_term < term || [0, vote].contains(&before.durable_vote));
    rules::DURABLE_RISES.holds(holds, || {
        format!(
            "member {id}: term, vote and commit index on disk go from {}, {}, {} to {term}, \
             {vote}, {commit}",
            before.durable_term, before.durable_vote, before.durable_commit
        )
    })
}

/// What holds of every moment of a member.
pub(super) fn is_consistent(id: u64, now: &Cursors) -> Result<(), Violation> {
    let ordered = now.snapshot_index <= now.published
        && now.published <= now.commit
        && now.commit <= now.last_index
        && now.applied <= now.published;
    rules::CURSOR_ORDER.holds(ordered, || {
        format!(
            "member {id}: snapshot {}, applied {}, published {}, commit {}, last {}",
            now.snapshot_index, now.applied, now.published, now.commit, now.last_index
        )
    })?;
    let reaches_back = now.older_snapshot.is_none_or(|older| now.first_index <= older + 1);
    rules::FALLS_BACK.holds(reaches_back, || {
        format!(
            "member {id}: snapshots {:?} and {}, log from {} on",
            now.older_snapshot, now.snapshot_index, now.first_index
        )
    })?;
    let knows = (now.role == Role::Leader) == (now.leader == id);
    rules::LEADER_KNOWS_ITSELF.holds(knows, || {
        format!("member {id} is {} and takes {} for the leader", now.role.name(), now.leader)
    })?;
    rules::TERMS_RISE.holds(now.last_term <= now.term, || {
        format!("member {id} has an entry of term {} in term {}", now.last_term, now.term)
    })
}

/// Its log is not what it was.
pub(super) fn has_other_log(before: &Cursors, now: &Cursors) -> bool {
    (before.last_index, before.last_term, before.snapshot_index)
        != (now.last_index, now.last_term, now.snapshot_index)
}

impl Member {
    pub(super) fn is_unchanged(&self, step: &Step<'_>) -> bool {
        self.is_running
            && self.process == step.process
            && self.cursors.as_ref() == Some(step.cursors)
            && self.promised_now.is_empty()
            && step.consumed.is_empty()
    }

    /// Where this process was after its last step; none: it is a new one.
    pub(super) fn running(&self, process: u64) -> Option<Cursors> {
        self.cursors.filter(|_| self.is_running && self.process == process)
    }

    /// How far its process had committed at the last step.
    pub(super) fn committed(&self) -> u64 {
        self.cursors.filter(|_| self.is_running).map_or(0, |cursors| cursors.commit)
    }

    /// The configuration that it led with at the last step, if it did and still runs.
    pub(super) fn led_with(&self, process: u64) -> Option<&Voters> {
        self.led_with.as_ref().filter(|_| self.is_running && self.process == process)
    }

    pub(super) fn leads_with(&mut self, voters: Option<Voters>) {
        self.led_with = voters;
    }

    pub(super) fn book_version(&self) -> u64 {
        self.cursors.map_or(0, |cursors| cursors.book_version)
    }

    pub(super) fn get(&self, index: u64) -> Option<Entry> {
        self.log.get(index)
    }

    /// It has this entry on its disk, or had it there when that was lost: those who heard so
    /// before count it.
    pub(super) fn keeps(&self, index: u64, entry: Entry) -> bool {
        let keeps = self.cursors.is_some_and(|cursors| {
            let through = cursors.durable_last.max(self.promised);
            index <= cursors.snapshot_index
                || (index <= through && self.log.get(index) == Some(entry))
        });
        keeps
            // In a step that a crash cut short: what it opens next must show it.
            || self.promised_now.iter().any(|acknowledged| acknowledged.covers(index, entry))
            || self.wiped.as_ref().is_some_and(|before| before.keeps(index, entry))
    }

    /// A process has begun with what it found on disk.
    pub(super) fn opened(&mut self, id: u64, step: &Step<'_>) -> Result<(), Violation> {
        let now = step.cursors;
        if let Some(before) = self.cursors {
            durable_rises(id, &before, now.term, now.vote, now.commit)?;
            let vote = self.votes.last_key_value();
            let voted = vote.is_none_or(|(term, candidate)| {
                *term < now.term || (*term == now.term && *candidate == now.vote)
            });
            rules::PROMISES_KEPT.holds(voted, || {
                format!(
                    "member {id} voted for {vote:?} (term, candidate) and begins in term {} with \
                     a vote for {}",
                    now.term, now.vote
                )
            })?;
            for acknowledged in &self.promised_now {
                rules::PROMISES_KEPT.holds(self.shows(acknowledged, step), || {
                    format!(
                        "member {id} sent {acknowledged:?} and begins in term {} with {:?} there, \
                         in a log through {} of term {}",
                        now.term,
                        (step.entry)(acknowledged.index),
                        now.last_index,
                        now.last_term
                    )
                })?;
            }
            let acknowledged = [
                (rules::PROMISES_KEPT, self.promised, "acknowledged"),
                (rules::SYNCED_STAYS, before.durable_last, "had synced"),
            ];
            for (rule, index, verb) in acknowledged {
                rule.holds(self.is_kept(index, step), || {
                    let term = self.log.get(index).map_or(0, |entry| entry.term);
                    format!(
                        "member {id} {verb} entry {index} of term {term}, and begins with {:?} \
                         there, in a log through {} of term {}",
                        (step.entry)(index),
                        now.last_index,
                        now.last_term
                    )
                })?;
            }
        }
        (self.log, self.is_running) = (Log::behind(now.snapshot_index), false);
        self.promised = self.promised.min(now.last_index);
        self.promised_now.clear();
        self.consumed = 0;
        Ok(())
    }

    /// What it acknowledged in the step that a crash cut short is there, or a leader of a later
    /// term replaced it in the same step.
    fn shows(&self, acknowledged: &Acknowledged, step: &Step<'_>) -> bool {
        let (now, &Acknowledged { index, entry_term, term }) = (step.cursors, acknowledged);
        let found = |index| (step.entry)(index).map(|(term, hash)| Entry { term, hash });
        let is_there =
            found(index).is_some_and(|found| entry_term.is_none_or(|term| term == found.term));
        index <= now.snapshot_index || is_there || self.is_replaced_since(term, step)
    }

    /// A leader of a later term than this may have replaced entries: that term is on the disk, and
    /// the log ends in an entry that was not in it before. What it ends in may be of any term, for
    /// leaders send also what they were left by others.
    fn is_replaced_since(&self, term: u64, step: &Step<'_>) -> bool {
        let &Cursors { last_index, last_term, .. } = step.cursors;
        let ended_at = self.cursors.map_or(0, |before| before.last_index);
        let ends_in_another = match self.log.get(last_index) {
            Some(had) => had.term != last_term,
            None => last_index > ended_at,
        };
        step.cursors.term > term && ends_in_another
    }

    /// What a log had through `index` is still there, or a later leader replaced it in a step
    /// that nobody saw the end of.
    fn is_kept(&self, index: u64, step: &Step<'_>) -> bool {
        let Some(had) = self.log.get(index) else { return true };
        if index <= step.cursors.snapshot_index {
            return true;
        }
        let found = (step.entry)(index).map(|(term, hash)| Entry { term, hash });
        found == Some(had) || (self.ended_mid_step && self.is_replaced_since(had.term, step))
    }

    /// Brings the copy of its log up to date, from its end back to where nothing changed. Gives
    /// the first index that was replaced or removed.
    pub(super) fn copy_log(
        &mut self,
        step: &Step<'_>,
        entries: &mut Entries,
        commits: &Commits,
    ) -> Result<Option<u64>, Violation> {
        let Step { member: id, cursors: now, .. } = *step;
        let mut fresh = Vec::new();
        let mut index = now.last_index;
        while index > now.snapshot_index {
            let found = (step.entry)(index).map(|(term, hash)| Entry { term, hash });
            let Some(entry) = found else {
                return Err(rules::SYNCED_STAYS.broken(format!(
                    "member {id} cannot read entry {index} of its log, {} to {}",
                    now.snapshot_index + 1,
                    now.last_index
                )));
            };
            if self.log.get(index) == Some(entry) {
                break;
            }
            fresh.push(entry);
            index -= 1;
        }
        let removed = self.log.get(index + 1).map(|entry| (index + 1, entry));
        if let Some((first, entry)) = removed {
            // Nothing goes but for a later leader's entry in its place.
            let is_replaced = first <= now.last_index && entry.term < now.term;
            let term = if is_replaced { now.term } else { u64::MAX };
            rules::COMMITTED_STAYS.holds(
                first <= now.snapshot_index || !commits.binds(first, entry, term),
                || {
                    format!(
                        "member {id} lost entry {first} of term {}, which is committed",
                        entry.term
                    )
                },
            )?;
            self.promised = self.promised.min(index);
        }
        if index == now.snapshot_index {
            // What was there before a snapshot need not be what the snapshot holds.
            self.log = Log::behind(index);
        }
        self.log.cut(index + 1);
        for entry in fresh.into_iter().rev() {
            index += 1;
            let follows = self.log.get(index - 1).map(|entry| entry.term);
            entries.meet(id, index, entry, follows)?;
            if let Some(removed) = (step.removal)(index) {
                entries.removes(index, entry, removed);
            }
            rules::TERMS_RISE.holds(follows <= Some(entry.term), || {
                format!("member {id}: entry {index} of term {} follows {follows:?}", entry.term)
            })?;
            self.log.push(entry);
        }
        self.log.forget_before(now.snapshot_index.saturating_sub(KEPT_BEHIND));
        Ok(removed.map(|(first, _)| first))
    }

    /// What its applier took from the commit channel.
    pub(super) fn consume(
        &mut self,
        step: &Step<'_>,
        commits: &mut Commits,
    ) -> Result<(), Violation> {
        let Step { member: id, cursors: now, .. } = *step;
        for consumed in step.consumed {
            let last = self.consumed;
            let (follows, through) = match *consumed {
                Consumed::Restored { index, .. } => (index >= last, index),
                Consumed::Captured { index } => (index == last, index),
                Consumed::Applied { last_index, .. } => (last_index > last, last_index),
            };
            rules::PUBLISHED_ONCE.holds(follows && through <= now.published, || {
                let known = now.published;
                format!("member {id} published {consumed:?} after index {last}, and says {known}")
            })?;
            if let Consumed::Applied { items, last_term, .. } = consumed {
                for (index, term, hash) in items {
                    self.is_next(id, *index, commits)?;
                    commits.publish(id, *index, *term, *hash)?;
                    self.consumed = *index;
                }
                commits.pass(id, through, *last_term)?;
                self.is_next(id, through + 1, commits)?;
            }
            self.consumed = through;
        }
        Ok(())
    }

    /// Nothing is left out before this index.
    fn is_next(&self, id: u64, index: u64, commits: &Commits) -> Result<(), Violation> {
        let left_out = commits.command_between(self.consumed, index);
        rules::PUBLISHED_ONCE.holds(index > self.consumed && left_out.is_none(), || {
            let last = self.consumed;
            format!("member {id} published index {index} after {last}, without {left_out:?}")
        })
    }

    /// The step is judged.
    pub(super) fn note(&mut self, step: &Step<'_>) {
        (self.process, self.is_running, self.ended_mid_step) = (step.process, true, false);
        self.cursors = Some(*step.cursors);
        if step.cursors.role != Role::Leader {
            self.led_with = None;
        }
        let through = self.promised_now.drain(..).map(|acknowledged| acknowledged.index).max();
        self.promised = self.promised.max(through.unwrap_or_default());
    }

    /// A message leaves it.
    pub(super) fn promise(&mut self, id: u64, promise: &Promise) -> Result<(), Violation> {
        let Promise { term, entry_term, .. } = *promise;
        let acknowledged = promise.index.map(|index| Acknowledged { index, entry_term, term });
        self.promised_now.extend(acknowledged);
        let Some(candidate) = promise.vote else { return Ok(()) };
        let first = *self.votes.entry(promise.term).or_insert(candidate);
        rules::ONE_VOTE.holds(first == candidate, || {
            format!("member {id} votes for {first} and {candidate} in term {}", promise.term)
        })
    }

    /// Its disk is gone: what it begins with next is nothing.
    pub(super) fn wiped(&mut self) {
        let before = std::mem::take(self);
        let votes = before.votes.clone();
        *self = Self { votes, wiped: Some(Box::new(before)), ..Self::default() };
    }

    /// Its process is gone.
    pub(super) fn crashed(&mut self, mid_step: bool) {
        self.is_running = false;
        self.ended_mid_step |= mid_step;
    }
}
