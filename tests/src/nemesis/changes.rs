//! Faults that change who is a member.

use std::time::Duration;

use super::{ENDS_WITHIN, Nemesis};
use crate::cluster::{READY_TIMEOUT, id};

/// A member that lost its data directory ends with this.
const LOST: i32 = 5;
/// A change waits for a leader, and for those that were hit just before to be seen again.
const CHANGED_WITHIN: Duration = Duration::from_secs(30);

impl Nemesis<'_> {
    /// A member joins under a fresh id, and another one goes.
    pub(super) fn replace(&mut self, leads: bool) {
        let new = self.join();
        let mut old = self.pick(leads);
        if old == new {
            old = self.active[0];
        }
        self.active.retain(|member| *member != old);
        self.retarget();
        self.remove(old, new);
        let status = self.cluster.wait_exit(old, ENDS_WITHIN);
        assert_eq!(status.code(), Some(0), "member {}: {}", id(old), self.cluster.said(old));
    }

    /// A member loses all that it had, is refused under its id, removed and replaced.
    pub(super) fn wipe(&mut self) {
        let victim = self.pick(false);
        self.cluster.kill(victim);
        self.active.retain(|member| *member != victim);
        self.retarget();
        self.cluster.wipe(victim);
        // One whose flags name only members that are gone has nobody to be refused by.
        if self.active.iter().any(|&other| self.cluster.is_told_of(victim, other)) {
            self.cluster.restart(victim);
            let status = self.cluster.wait_exit(victim, READY_TIMEOUT);
            assert_eq!(status.code(), Some(LOST), "{}", self.cluster.said(victim));
        }
        self.remove(victim, self.active[0]);
        self.join();
    }

    /// A follower stops voting, and votes again.
    pub(super) fn demote(&mut self) {
        let victim = self.pick(false);
        let through = self.others(victim)[0];
        let path = format!("/_members/{}", id(victim));
        for role in ["learner", "voter"] {
            let body = format!(r#"{{"role":"{role}"}}"#);
            self.change("PATCH", &path, &body, through, &[204]);
            self.cluster.eventually("the role is changed", CHANGED_WITHIN, || {
                let roles = self.cluster.roles(victim)?;
                let is = roles.get(&id(victim)).is_some_and(|is| is == role);
                is.then_some(()).ok_or_else(|| format!("{roles:?}"))
            });
        }
    }

    fn join(&mut self) -> usize {
        let new = self.cluster.place_joiner();
        self.archive.watch(id(new), &self.cluster.data_dir(new));
        self.start(new);
        self.cluster.wait_voter(new);
        self.active.push(new);
        self.retarget();
        new
    }

    fn remove(&self, old: usize, through: usize) {
        let path = format!("/_members/{}", id(old));
        // Gone already when the answer to an earlier try was lost.
        self.change("DELETE", &path, "", through, &[204, 404, 410]);
    }

    fn change(&self, method: &str, path: &str, body: &str, through: usize, good: &[u16]) {
        let what = format!("{method} {path} {body}");
        self.cluster.eventually(&what, CHANGED_WITHIN, || {
            let mut client = self.cluster.client(through);
            let answer = client.request(method, path, &[], body.as_bytes());
            let answer = answer.map_err(|failure| failure.to_string())?;
            match good.contains(&answer.status) {
                true => Ok(()),
                false => Err(format!("{} {}", answer.status, answer.text())),
            }
        });
    }
}
