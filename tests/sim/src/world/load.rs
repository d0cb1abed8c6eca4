//! Who asks.

use std::time::Duration;

use bytes::Bytes;
use raftexample::command::{self, Conditions};
use raftexample::kvstore::Answer;
use raftnode::{Consistency, Outcome, Pending, Read};
use tests::rng::Rng;

use super::params::SECOND;
use super::{Event, World};
use crate::coverage::Kind;

#[derive(Debug)]
pub(crate) struct Load {
    rng: Rng,
    writes: Vec<Pending<Outcome<Answer>>>,
    reads: Vec<Pending<Read>>,
    n_asked: u64,
    n_ended: u64,
}

impl Load {
    pub(crate) fn new(seed: u64) -> Self {
        Self { rng: Rng::new(!seed), writes: Vec::new(), reads: Vec::new(), n_asked: 0, n_ended: 0 }
    }

    pub(crate) fn n_ended(&self) -> u64 {
        self.n_ended
    }
}

/// Sets a key.
pub(super) fn put(key: &[u8], value: &[u8]) -> Bytes {
    let mut command = command::begin_put(&Conditions::default(), key, value.len());
    command.extend_from_slice(value);
    command.freeze()
}

impl World {
    pub(super) fn load(&mut self) {
        let wait = self.draw(10_000, SECOND / 8);
        self.plan_in(wait, Event::Load);
        let mut ended = Vec::new();
        self.load.writes.retain_mut(|pending| match pending.try_wait() {
            None => true,
            Some(outcome) => {
                ended.push(match outcome {
                    Outcome::Applied { .. } => Kind::OutcomeApplied,
                    Outcome::Refused(_) => Kind::OutcomeRefused,
                    Outcome::Unknown(_) => Kind::OutcomeUnknown,
                });
                false
            }
        });
        self.load.reads.retain_mut(|pending| match pending.try_wait() {
            None => true,
            Some(_) => {
                ended.push(Kind::LinearizableRead);
                false
            }
        });
        self.load.n_ended += ended.len() as u64;
        ended.into_iter().for_each(|kind| self.count(kind));
        let up = self.up();
        let n = up.len() as u64;
        if n == 0 {
            return;
        }
        let id = up[self.load.rng.below(n) as usize];
        let host = &self.hosts[&id];
        let deadline = host.clock(self.now) + Duration::from_secs(3);
        let Some(member) = host.member() else { return };
        self.load.n_asked += 1;
        let key = Bytes::from(format!("{}", self.load.rng.below(20)));
        if self.load.rng.below(3) > 0 {
            let length = if self.load.rng.below(20) == 0 { 1500 } else { 12 };
            let value = Bytes::from(vec![self.load.n_asked as u8; length]);
            let command = put(&key, &value);
            let pending = member.handle().propose(command, deadline);
            self.load.writes.extend(pending.ok());
        } else {
            let pending = member.handle().node().read(Consistency::Linearizable, 0, deadline);
            self.load.reads.extend(pending.ok());
        }
        self.plan_turn(id);
    }
}
