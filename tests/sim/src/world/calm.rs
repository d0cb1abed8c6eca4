//! After the weather: the cluster must come right by itself, and serve.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use raftnode::{Consistency, Outcome, Read, Role};

use super::World;
use super::load::put;
use super::params::{SECOND, TICK};
use super::watch::rule;
use crate::Violation;

/// Within so many ticks of calm everything must have come right.
pub const PATIENCE: u64 = 6_000;

/// And so long may a write or a read take then, in microseconds.
const ANSWER: u64 = 5 * SECOND;

impl World {
    /// Mends everything, and waits for B4.
    pub(super) fn calm(&mut self) -> Result<(), Violation> {
        self.say(|| "calm".into());
        self.mend();
        let end = self.now + PATIENCE * TICK;
        loop {
            self.until(self.now + 10 * TICK)?;
            let Err(why) = self.is_right() else { break };
            if self.now >= end {
                let what = format!("after {PATIENCE} ticks of calm: {why}");
                return rule("B4", "a mended cluster comes right by itself", what);
            }
        }
        self.say(|| "everything has come right".into());
        let Some(book) = self.book().cloned() else { return Ok(()) };
        for id in book.members.keys() {
            self.serves(*id)?;
        }
        self.until(self.now + 50 * TICK)
    }

    /// What has not come right.
    fn is_right(&self) -> Result<(), String> {
        let book = self.book().ok_or("nobody runs")?;
        let mut states = BTreeSet::new();
        let mut leaders = BTreeSet::new();
        for id in book.members.keys() {
            let host = self.hosts.get(id).ok_or(format!("{id} has no machine"))?;
            let Some(member) = host.member() else {
                return Err(format!("member {id} does not run: {:?}", host.process));
            };
            if member.is_stopping() {
                return Err(format!("member {id} stops"));
            }
            let cursors = member.cursors();
            if member.book() != book {
                return Err(format!("member {id} has another book"));
            }
            if cursors.role == Role::Leader {
                leaders.insert(*id);
            }
            if cursors.leader == 0 {
                return Err(format!("member {id} follows nobody: {cursors:?}"));
            }
            leaders.insert(cursors.leader);
            states.insert((cursors.applied, cursors.commit, cursors.last_index));
        }
        if leaders.len() != 1 {
            return Err(format!("leaders: {leaders:?}"));
        }
        if states.len() != 1 {
            return Err(format!("applied, commit and last index differ: {states:?}"));
        }
        let members = book.members.keys().filter_map(|id| self.hosts.get(id)?.member());
        let hashes: BTreeSet<u64> = members.map(|member| member.machine().hash()).collect();
        if hashes.len() != 1 {
            return Err("the states differ".into());
        }
        let wanting = book.members.iter().find(|(_, member)| member.role != member.wants);
        if let Some((id, _)) = wanting {
            return Err(format!("member {id} does not have the role that it wants"));
        }
        Ok(())
    }

    /// A write and a linearizable read through a member are answered.
    fn serves(&mut self, id: u64) -> Result<(), Violation> {
        let statement = "every member of a mended cluster serves";
        let Some(host) = self.hosts.get(&id) else { return Ok(()) };
        let deadline = host.clock(self.now) + Duration::from_micros(ANSWER);
        let Some(member) = host.member() else {
            return rule("B4", statement, format!("member {id} does not run"));
        };
        let (key, value) = (Bytes::from_static(b"calm"), Bytes::from(id.to_string()));
        let command = put(&key, &value);
        let write = member.handle().propose(command, deadline);
        let read = member.handle().node().read(Consistency::Linearizable, 0, deadline);
        let (Ok(mut write), Ok(mut read)) = (write, read) else {
            return rule("B4", statement, format!("member {id} takes nothing"));
        };
        self.plan_turn(id);
        let (mut written, mut seen) = (None, None);
        let end = self.now + 2 * ANSWER;
        while (written.is_none() || seen.is_none()) && self.now < end {
            self.until(self.now + TICK)?;
            written = written.or_else(|| write.try_wait());
            seen = seen.or_else(|| read.try_wait());
        }
        if !matches!(written, Some(Outcome::Applied { .. })) {
            return rule("B4", statement, format!("a write through member {id}: {written:?}"));
        }
        if !matches!(seen, Some(Read::Ready { .. })) {
            return rule("B4", statement, format!("a read through member {id}: {seen:?}"));
        }
        Ok(())
    }
}
