//! After the weather: the cluster must come right by itself, and serve.

use std::collections::BTreeSet;

use raftnode::Role;

use super::World;
use super::host::Host;
use super::params::TICK;
use crate::Violation;
use crate::oracle::rules;

/// Within so many ticks of calm everything must have come right, and every member have answered.
///
/// The longest of the 200 seeds from 5000 on, at 10,000 ticks each, took 438 (a campaign says its
/// longest). Twice that, and two of the operator's deadlines of 500 ticks, which a change that was
/// asked for just before may use up: thousands of seeds have a longer tail.
pub const PATIENCE: u64 = 2_000;

impl World {
    /// Mends everything, and waits for B4.
    pub(super) fn calm(&mut self) -> Result<(), Violation> {
        self.say(|| "calm".into());
        self.mend();
        self.clients.finish();
        let since = self.now;
        let end = since + PATIENCE * TICK;
        loop {
            self.until(self.now + 10 * TICK)?;
            let Err(why) = self.is_right() else { break };
            if self.now >= end {
                let what = format!("after {PATIENCE} ticks of calm: {why}");
                return Err(rules::SERVES_AGAIN.broken(what));
            }
        }
        self.say(|| "everything has come right".into());
        let Some(book) = self.book().cloned() else { return Ok(()) };
        let members: Vec<u64> = book.members.keys().copied().collect();
        self.clients.ask_for_all(&members);
        while !self.clients.is_idle() {
            let waiting = self.clients.waiting();
            rules::SERVES_AGAIN.holds(self.now < end, || {
                format!("not answered after {PATIENCE} ticks of calm: {waiting:?}")
            })?;
            self.until(self.now + TICK)?;
        }
        self.recovery = Some((self.now - since) / TICK);
        self.until(self.now + 50 * TICK)?;
        for id in members {
            let applied = self.hosts.get(&id).and_then(Host::member).map(|m| m.cursors().applied);
            self.look_at_state(id, applied.unwrap_or_default())?;
        }
        Ok(())
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
}
