//! A cluster on one thread: real members, whose disks are memory and whose lines lose nothing.

use std::time::{Duration, Instant};

use bytes::Bytes;
use raftexample::kvstore::{Answer, KvStore};
use raftnode::membership::parse_cluster;
use raftnode::sim::{Booted, Hello, Lane, Member, Recipe, boot};
use raftnode::{Config, Outcome, Pending, Role, SnapshotPolicy};
use slog::Logger;
use wal::fs::MemFs;

/// Why a bench cannot go on.
pub type Error = Box<dyn std::error::Error>;

/// How many turns a cluster may need for what takes a few.
const MANY: usize = 10_000;

/// Nothing that is put off is put off for longer, and a tick takes ten times as long.
const SOON: Duration = Duration::from_millis(1);

/// How much goes onto a stream at once.
const CHUNK_BYTES: usize = 1 << 20;

/// What an applier takes at once.
const ITEMS: usize = 32;

/// Members that know each other, one of which leads.
#[derive(Debug)]
pub struct Members {
    members: Vec<Member<KvStore>>,
    /// Which of them.
    leader: usize,
    lines: Vec<Line>,
    now: Instant,
}

/// An open stream.
#[derive(Debug)]
struct Line {
    from: usize,
    to: usize,
    lane: Lane,
    stream: u64,
    hello: Hello,
}

fn id(at: usize) -> u64 {
    at as u64 + 1
}

fn start(at: usize, n: usize, fs: MemFs, now: Instant) -> Result<Member<KvStore>, Error> {
    let urls: Vec<_> = (0..n).map(|at| format!("http://m{at}:1")).collect();
    let mut config = Config::new(id(at), parse_cluster(&urls.join(","))?, "/data".into());
    // When one is asked for, and only then.
    config.snapshots =
        SnapshotPolicy { entries: 0, bytes: 0, catchup_entries: 0, ..SnapshotPolicy::default() };
    let logger = Logger::root(slog::Discard, slog::o!());
    let recipe = Recipe { config, fs, seed: id(at), now, logger };
    match boot(recipe, KvStore::new().0, None)? {
        Booted::Running(member) => Ok(*member),
        Booted::Joining(_) => Err("a founder need not join".into()),
    }
}

impl Members {
    /// Founds a cluster of `n` and elects a leader.
    ///
    /// # Errors
    ///
    /// The cluster does not come to be.
    pub fn found(n: usize) -> Result<Self, Error> {
        let now = Instant::now();
        let members = (0..n).map(|at| start(at, n, MemFs::volatile(), now));
        let members = members.collect::<Result<Vec<_>, _>>()?;
        let mut cluster = Self { members, leader: 0, lines: Vec::new(), now };
        cluster.connect()?;
        for _ in 0..MANY {
            cluster.tick()?;
            let leads = |member: &Member<_>| member.cursors().role == Role::Leader;
            if let Some(leader) = cluster.members.iter().position(leads) {
                cluster.leader = leader;
                cluster.settle()?;
                return Ok(cluster);
            }
        }
        Err("nobody leads".into())
    }

    fn connect(&mut self) -> Result<(), Error> {
        for (from, to) in pairs(self.members.len()) {
            for lane in Lane::ALL {
                let (member, peer) = (&self.members[from], &self.members[to]);
                let hello = member.hello(id(to));
                let answer = peer.admit(&hello);
                peer.accepted(&hello);
                let stream = member.opened(id(to), lane, answer)?;
                self.lines.push(Line { from, to, lane, stream, hello });
            }
        }
        Ok(())
    }

    fn tick(&mut self) -> Result<(), Error> {
        self.now += Duration::from_millis(10);
        self.settle()
    }

    /// Goes on until nobody has anything to do at this moment, nor soon: what a leader puts off is
    /// done.
    ///
    /// # Errors
    ///
    /// A member ends.
    pub fn settle(&mut self) -> Result<(), Error> {
        let mut is_first = true;
        for _ in 0..MANY {
            let busy = (0..self.members.len())
                .filter(|at| is_first || self.members[*at].is_ready(self.now))
                .collect::<Vec<_>>();
            is_first = false;
            if busy.is_empty() {
                let next = self.members.iter().map(Member::deadline).min();
                let Some(soon) = next.filter(|next| *next <= self.now + SOON) else {
                    return Ok(());
                };
                (self.now, is_first) = (soon.max(self.now), true);
            }
            for at in busy {
                self.turn(at)?;
                self.carry(at)?;
            }
        }
        Err("the members never rest".into())
    }

    /// One turn of a member's loop, and of its other threads.
    fn turn(&mut self, at: usize) -> Result<(), Error> {
        let member = &mut self.members[at];
        if let Some(ended) = member.turn(self.now) {
            return Err(format!("member {at} ended: {ended:?}").into());
        }
        while member.n_commits() > 0 {
            member.apply(ITEMS)?;
        }
        while member.n_chores() > 0 {
            member.do_chore();
        }
        Ok(())
    }

    /// Carries what a member has to say to the others.
    fn carry(&self, from: usize) -> Result<(), Error> {
        for line in self.lines.iter().filter(|line| line.from == from) {
            let (member, peer) = (&self.members[line.from], &self.members[line.to]);
            loop {
                let chunks = member.take(id(line.to), line.lane, line.stream, CHUNK_BYTES);
                let chunks = chunks.ok_or("a stream broke")?;
                if chunks.is_empty() {
                    break;
                }
                for chunk in chunks {
                    peer.deliver(&line.hello, chunk)?;
                }
            }
        }
        Ok(())
    }

    /// Proposes these at the leader, and goes on until all are applied there.
    ///
    /// # Errors
    ///
    /// One of them is not applied.
    pub fn write(&mut self, commands: impl IntoIterator<Item = Bytes>) -> Result<(), Error> {
        let deadline = self.now + Duration::from_secs(3_600);
        let leader = &self.members[self.leader];
        let pending: Vec<Pending<Outcome<Answer>>> = commands
            .into_iter()
            .map(|command| leader.handle().propose(command, deadline))
            .collect::<Result<_, _>>()?;
        self.settle()?;
        for mut pending in pending {
            match pending.try_wait() {
                Some(Outcome::Applied { .. }) => {}
                other => return Err(format!("not applied: {other:?}").into()),
            }
        }
        Ok(())
    }

    /// The leader takes a snapshot of all that is applied.
    ///
    /// # Errors
    ///
    /// It does not.
    pub fn snapshot(&mut self) -> Result<(), Error> {
        let deadline = self.now + Duration::from_secs(3_600);
        let mut pending = self.members[self.leader].handle().node().snapshot(deadline)?;
        for _ in 0..MANY {
            self.settle()?;
            if let Some(taken) = pending.try_wait() {
                let raftnode::SnapshotTaken::Taken { .. } = taken else {
                    return Err(format!("no snapshot: {taken:?}").into());
                };
                return Ok(());
            }
            self.members[self.leader].write_captured();
        }
        Err("a snapshot is never taken".into())
    }

    /// Ends a member that is alone; gives its disk.
    #[must_use]
    pub fn into_disk(mut self) -> MemFs {
        self.members.swap_remove(0).disk().clone()
    }

    /// Starts a member that is alone from its disk, and goes on until it leads again.
    ///
    /// # Errors
    ///
    /// It does not start.
    pub fn restart(disk: MemFs) -> Result<Self, Error> {
        let now = Instant::now();
        let members = vec![start(0, 1, disk, now)?];
        let mut cluster = Self { members, leader: 0, lines: Vec::new(), now };
        cluster.settle()?;
        Ok(cluster)
    }

    /// How far the leader's store has come.
    #[must_use]
    pub fn applied(&self) -> u64 {
        self.members[self.leader].cursors().applied
    }
}

/// Everyone with everyone else.
fn pairs(n: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..n).flat_map(move |from| (0..n).filter(move |to| *to != from).map(move |to| (from, to)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::put;

    /// What is measured must be the real thing: everything is applied, by one and by three, and is
    /// there again after a snapshot and a restart.
    #[test]
    fn members_on_one_thread_commit() {
        for n in [1, 3] {
            let mut members = Members::found(n).unwrap();
            let before = members.applied();
            members.write((0..300).map(put)).unwrap();
            assert_eq!(members.applied(), before + 300);
        }
        let mut alone = Members::found(1).unwrap();
        alone.write((0..300).map(put)).unwrap();
        alone.snapshot().unwrap();
        let applied = alone.applied();
        let again = Members::restart(alone.into_disk()).unwrap();
        assert!(again.applied() >= applied);
    }
}
