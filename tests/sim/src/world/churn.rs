//! The operator: who is to be a member.

use std::time::Duration;

use raftnode::Pending;
use raftnode::membership::{Change, ChangeOptions, Changed, Founder, MemberRole};

use super::host::{Host, Process, url};
use super::params::{SECOND, TICK};
use super::{Event, World};
use crate::coverage::Kind;

/// How long a change may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often the operator looks what is to be done.
const LOOK: u64 = SECOND;

/// How long one with a new disk, or one that joins, may run without an end before the operator
/// removes it.
const LOST: u64 = 5 * SECOND;

/// What the operator has asked for.
#[derive(Debug, Default)]
pub(crate) struct Operator {
    asked: Vec<(Change, Pending<Changed>)>,
    /// When it next thinks of something new.
    next_wish: u64,
}

impl World {
    /// The operator looks at the answers, replaces who lost its disk, and sometimes has a wish.
    pub(super) fn churn(&mut self) {
        self.plan_in(LOOK, Event::Churn);
        self.hear();
        let Some(book) = self.book().cloned() else { return };
        let lost = self.hosts.values().filter(|host| {
            let is_member = |id: &u64| book.members.contains_key(id);
            // Whom it asks may all be gone, so that nobody tells it that its id is known by another
            // disk, or that it was taken in long ago: the operator knows.
            let mut others = host.founders.iter().map(|founder| founder.id);
            let mut is_alone = || !others.any(|id| id != host.id && is_member(&id));
            is_member(&host.id)
                && match host.process {
                    Process::Lost => true,
                    Process::Up(_) if !host.is_wiped => false,
                    Process::Up(_) | Process::Joining(_) => {
                        self.now > host.started_at + LOST && is_alone()
                    }
                    Process::Down | Process::Removed => false,
                }
        });
        let lost: Vec<u64> = lost.map(|host| host.id).collect();
        if self.operator.asked.is_empty() {
            for id in lost.iter().copied() {
                // Not itself when time is short: it may know nobody who leads.
                let mut asked = self.up();
                asked.retain(|asked| !self.is_calm || *asked != id);
                self.ask_one_of(&asked, Change::Remove { id });
            }
        }
        if book.voters().count() as u64 + book.learners().count() as u64 >= self.setup.n_members
            && (self.params.churn_gap == 0 || !lost.is_empty())
            || self.is_calm
        {
            return;
        }
        let is_small = (book.members.len() as u64) < self.setup.n_members;
        if !is_small && self.now < self.operator.next_wish || !self.operator.asked.is_empty() {
            return;
        }
        let gap = self.params.churn_gap.max(100);
        self.operator.next_wish = self.now + self.draw(gap / 2, 2 * gap) * TICK;
        let n_coming = self.hosts.values().filter(|host| {
            !book.members.contains_key(&host.id) && !book.removed.contains(&host.id)
        });
        if n_coming.count() > 0 {
            return;
        }
        let voters: Vec<u64> = book.voters().collect();
        let members: Vec<u64> = book.members.keys().copied().collect();
        match self.rng.below(10) {
            _ if is_small => self.add(),
            0..3 if (members.len() as u64) < self.setup.n_members + 2 => self.add(),
            3 if voters.len() > 3 => {
                if let Some(id) = self.pick(&members) {
                    self.ask(Change::Remove { id });
                }
            }
            4 | 5 if voters.len() > 3 => {
                if let Some(id) = self.pick(&voters) {
                    self.ask(Change::Update { id, wants: Some(MemberRole::Learner), url: None });
                }
            }
            6 | 7 => {
                let learners: Vec<u64> = book.learners().collect();
                if let Some(id) = self.pick(&learners) {
                    self.ask(Change::Update { id, wants: Some(MemberRole::Voter), url: None });
                }
            }
            8 => {
                if let Some(id) = self.pick(&members) {
                    let port = 1 + self.rng.below(3);
                    let url = Some(format!("http://member-{id}:{port}"));
                    self.ask(Change::Update { id, wants: None, url });
                }
            }
            _ => self.transfer(),
        }
    }

    /// A new member comes, by itself or announced.
    fn add(&mut self) {
        self.last_id += 1;
        let id = self.last_id;
        let mut founders: Vec<Founder> = (self.hosts.values())
            .filter(|host| host.member().is_some())
            .map(|host| Founder { id: host.id, url: url(host.id) })
            .collect();
        founders.push(Founder { id, url: url(id) });
        self.say(|| format!("{id} is to join"));
        self.hosts.insert(id, Host::new(id, founders, true, self.epoch));
        if self.chance(300) {
            let wants = if self.chance(300) { MemberRole::Learner } else { MemberRole::Voter };
            self.ask(Change::Add { id, url: url(id), wants });
        }
        let wait = self.draw(1_000, 2 * SECOND);
        self.plan_in(wait, Event::Start(id));
    }

    /// Somebody else is to lead.
    fn transfer(&mut self) {
        let up = self.up();
        let (at, to) = (self.pick(&up), self.pick(&up));
        let to = if self.chance(500) { to } else { None };
        let Some((id, host)) = at.and_then(|id| Some((id, self.hosts.get(&id)?))) else { return };
        let deadline = host.clock(self.now) + PATIENCE;
        let Some(member) = host.member() else { return };
        if member.handle().node().transfer(to, deadline).is_ok() {
            self.say(|| format!("{id} is asked to hand leadership to {to:?}"));
            self.count(Kind::LeaderTransfer);
            self.plan_turn(id);
        }
    }

    fn ask(&mut self, change: Change) {
        let up = self.up();
        self.ask_one_of(&up, change);
    }

    fn ask_one_of(&mut self, ids: &[u64], change: Change) {
        let Some(id) = self.pick(ids) else { return };
        let Some(host) = self.hosts.get(&id) else { return };
        let deadline = host.clock(self.now) + PATIENCE;
        let Some(member) = host.member() else { return };
        let options = ChangeOptions::default();
        if let Ok(pending) = member.handle().node().change(change.clone(), options, deadline) {
            self.say(|| format!("{id} is asked: {change:?}"));
            self.operator.asked.push((change, pending));
            self.plan_turn(id);
        }
    }

    fn hear(&mut self) {
        for (change, mut pending) in std::mem::take(&mut self.operator.asked) {
            let Some(changed) = pending.try_wait() else {
                self.operator.asked.push((change, pending));
                continue;
            };
            self.say(|| match &changed {
                Changed::Done { index, .. } => format!("{change:?} is done at {index}"),
                other => format!("{change:?}: {other:?}"),
            });
        }
    }
}
