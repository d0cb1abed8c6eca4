//! What goes wrong, as the seed has it.

use raftnode::sim::{Began, Member};
use wal::fs::{Fault, Op};

use super::host::{Host, Process};
use super::params::{SECOND, TICK};
use super::{Event, World};
use crate::Violation;
use crate::coverage::Kind;

const EIO: i32 = 5;
const ENOSPC: i32 = 28;

impl World {
    /// Something goes wrong with somebody, and the next thing is planned.
    pub(super) fn fault(&mut self) -> Result<(), Violation> {
        if self.is_calm || self.params.fault_gap == 0 {
            return Ok(());
        }
        let gap = self.draw(1, 2 * self.params.fault_gap) * TICK;
        self.plan_in(gap, Event::Fault);
        let up = self.up();
        let Some(id) = self.pick(&up) else { return Ok(()) };
        match self.rng.below(100) {
            0..14 => self.crash(id, false),
            14..24 => self.crash_soon(id),
            24..30 => self.stop_cleanly(id),
            30..42 => self.partition(),
            42..52 => self.one_way(id),
            52..58 => self.clog(id),
            58..68 => self.pause(id),
            68..76 => self.stall(id),
            76..82 => self.slow_disk(id),
            82..88 => self.failing_disk(id),
            88..92 => self.full_disk(id),
            92..95 => self.break_streams(id),
            95..97 => self.spoil(id),
            _ => self.wipe(id),
        }
        Ok(())
    }

    /// The machine stops within one of its disk's next operations: mostly where there is something
    /// to lose.
    fn crash_soon(&mut self, id: u64) {
        let (op, most) = match self.rng.below(10) {
            0..3 => (Op::Any, 12),
            3..5 => (Op::SyncDir, 2),
            _ => (Op::Sync, 3),
        };
        let nth = self.rng.below(most);
        if let Some(host) = self.hosts.get(&id) {
            host.disk.inject(op, nth, Fault::Stop);
            self.say(|| format!("{id} will crash at {op:?} {nth}"));
        }
    }

    fn stop_cleanly(&mut self, id: u64) {
        if let Some(member) = self.hosts.get(&id).and_then(Host::member) {
            member.handle().node().shutdown();
            self.say(|| format!("{id} is told to stop"));
            self.plan_turn(id);
        }
    }

    fn everybody(&self) -> Vec<u64> {
        self.hosts.keys().copied().collect()
    }

    /// Some on one side, the others on the other.
    fn partition(&mut self) {
        let until = self.now + self.draw(SECOND / 10, 8 * SECOND);
        let (one, other): (Vec<u64>, Vec<u64>) =
            self.everybody().into_iter().partition(|_| self.rng.below(2) == 0);
        for from in &one {
            for to in &other {
                self.network.cut(*from, *to, until, Kind::Partition);
                self.network.cut(*to, *from, until, Kind::Partition);
            }
        }
        if !one.is_empty() && !other.is_empty() {
            self.say(|| format!("{one:?} and {other:?} are parted for {}", until - self.now));
        }
    }

    /// Somebody is not heard, or hears nobody.
    fn one_way(&mut self, id: u64) {
        let until = self.now + self.draw(SECOND / 10, 8 * SECOND);
        let is_mute = self.chance(500);
        for other in self.everybody() {
            let (from, to) = if is_mute { (id, other) } else { (other, id) };
            if from != to {
                self.network.cut(from, to, until, Kind::OneWayPartition);
            }
        }
        self.say(|| format!("{id} {}", if is_mute { "is not heard" } else { "hears nobody" }));
    }

    /// One line takes nothing for a while, not long enough to be given up for it.
    fn clog(&mut self, id: u64) {
        let until = self.now + self.draw(SECOND / 20, 2 * SECOND);
        let others = self.everybody();
        let Some(other) = self.pick(&others).filter(|other| *other != id) else { return };
        self.network.cut(id, other, until, Kind::Clog);
        self.say(|| format!("the line from {id} to {other} is clogged"));
    }

    fn pause(&mut self, id: u64) {
        let until = self.now + self.draw(SECOND / 20, 5 * SECOND);
        if let Some(host) = self.hosts.get_mut(&id) {
            host.paused_until = until;
            host.hinder(until);
            self.say(|| format!("{id} is paused"));
            self.count(Kind::Pause);
        }
    }

    /// The threads beside the loop get nothing done.
    fn stall(&mut self, id: u64) {
        let until = self.now + self.draw(SECOND / 20, 4 * SECOND);
        if let Some(host) = self.hosts.get_mut(&id) {
            host.stalled_until = until;
            host.stall(until);
            self.say(|| format!("the consumer of {id} is stalled"));
            self.count(Kind::ConsumerStalled);
        }
    }

    fn slow_disk(&mut self, id: u64) {
        let sync_time = if self.chance(700) { self.draw(500, 50_000) } else { 0 };
        if let Some(host) = self.hosts.get_mut(&id) {
            host.sync_time = sync_time;
            self.say(|| format!("a sync of {id} takes {sync_time}"));
        }
    }

    fn failing_disk(&mut self, id: u64) {
        let (nth, is_reverted) = (self.rng.below(4), self.chance(300));
        let fault = if is_reverted { Fault::Reverted(EIO) } else { Fault::Error(EIO) };
        let op = if self.chance(800) { Op::Sync } else { Op::Any };
        let kind = match (op, is_reverted) {
            (Op::Sync, true) => Kind::SyncReverted,
            (Op::Sync, false) => Kind::SyncError,
            _ => Kind::OtherError,
        };
        if let Some(host) = self.hosts.get_mut(&id) {
            host.disk.inject(op, nth, fault);
            host.will_fail(kind);
            self.say(|| format!("{op:?} {nth} of {id} will fail"));
        }
    }

    fn full_disk(&mut self, id: u64) {
        let once = self.chance(300);
        let nth = self.rng.below(3);
        let Some(host) = self.hosts.get_mut(&id) else { return };
        host.will_fail(Kind::FullDisk);
        if once {
            host.disk.inject(Op::Write, nth, Fault::Error(ENOSPC));
        } else {
            host.disk.set_full(true);
            host.disk.set_free_bytes(0);
        }
        self.say(|| format!("the disk of {id} is full"));
    }

    /// Counts what its disk was to fail in, if it did; for when it is mended, or breaks otherwise.
    pub(super) fn has_failed(&mut self, id: u64) {
        let Some(host) = self.hosts.get_mut(&id) else { return };
        if let Some(kind) = host.failing.take().filter(|_| host.disk.n_failed() > 0) {
            self.count(kind);
        }
    }

    fn break_streams(&mut self, id: u64) {
        let of_it = self.network.streams.keys().filter(|(from, ..)| *from == id);
        let keys: Vec<_> = of_it.copied().collect();
        if let Some(key) = self.pick(&keys) {
            self.say(|| format!("the stream {key:?} breaks"));
            self.break_stream(key, None);
        }
    }

    /// A machine stops, and the newest snapshot on its disk is damaged meanwhile, or gone (B1).
    fn spoil(&mut self, id: u64) {
        let Some(cursors) = self.hosts.get(&id).and_then(Host::member).map(Member::cursors) else {
            return;
        };
        let Some(older) = cursors.older_snapshot else { return };
        self.crash(id, false);
        let (is_removed, at) = (self.chance(200), self.rng.draw());
        let Some(host) = self.hosts.get_mut(&id) else { return };
        let newest = (cursors.snapshot_term, cursors.snapshot_index);
        host.spoil(newest, (!is_removed).then_some(at))
            .expect("a mended disk does what it is told");
        let known = host.spoilt.map_or(0, |spoilt| spoilt.marker);
        let marker = cursors.snapshot_index.max(known);
        host.spoilt = Some(Began { snapshot: older, marker });
        self.say(|| format!("the snapshot {} of {id} is spoilt", cursors.snapshot_index));
    }

    /// A member's disk is replaced by an empty one (B2).
    fn wipe(&mut self, id: u64) {
        let Some(book) = self.book() else { return };
        let is_voter = book.voters().any(|voter| voter == id);
        let all_run = book.members.keys().all(|id| {
            let host = self.hosts.get(id);
            host.is_some_and(|host| {
                let met = host.member().is_some() && self.now > host.started_at + 5 * SECOND;
                met && !host.is_wiped && !host.is_paused(self.now)
            })
        });
        let others: Vec<u64> = book.members.keys().copied().filter(|other| *other != id).collect();
        let heard = others.iter().all(|other| self.network.connects(id, *other, self.now));
        let is_member = book.members.contains_key(&id);
        let enough = book.voters().count() > 2 + usize::from(is_voter && book.voters().count() < 3);
        let is_other =
            self.hosts.values().any(|host| host.is_wiped && !book.removed.contains(&host.id));
        if !is_member || !all_run || !heard || !enough || is_other {
            return;
        }
        self.say(|| format!("the disk of {id} is replaced by an empty one"));
        self.crash(id, false);
        if let Some(host) = self.hosts.get_mut(&id) {
            host.disk = wal::fs::MemFs::new();
            host.is_wiped = true;
            self.watch.wiped(id);
            self.count(Kind::WipedMember);
        }
    }

    /// Everything is mended: what is left follows from what happened.
    pub(super) fn mend(&mut self) {
        self.is_calm = true;
        self.params.calm();
        self.network.mend();
        self.everybody().into_iter().for_each(|id| self.has_failed(id));
        let now = self.now;
        for host in self.hosts.values_mut() {
            host.has_failed |= host.disk.n_failed() > 0;
            host.disk.mend();
            if let Process::Up(member) = &mut host.process {
                member.look_at_disk();
            }
            (host.paused_until, host.stalled_until, host.sync_time) = (0, 0, 0);
            (host.apply_at, host.chore_at) = (u64::MAX, u64::MAX);
            host.busy_until = host.busy_until.min(now + 1);
            host.turn_at = u64::MAX;
        }
        for id in self.everybody() {
            if matches!(self.hosts[&id].process, Process::Down) {
                self.plan_in(1_000, Event::Start(id));
            }
            self.plan_work(id);
            self.plan_turn(id);
        }
        let waiting: Vec<_> = self
            .network
            .streams
            .iter_mut()
            .filter_map(|(key, stream)| {
                stream.is_planned = !stream.chunks.is_empty();
                stream.is_planned.then_some(*key)
            })
            .collect();
        for key in waiting {
            self.plan_in(1, Event::Chunk(key));
        }
    }
}
