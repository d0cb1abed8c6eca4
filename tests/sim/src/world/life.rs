//! How members start, run and end.

use raftnode::Error;
use raftnode::sim::{self, Booted, Consumed, Recipe};
use wal::fs::{Fault, Loss, Lost, Op};

use super::host::Process;
use super::machine::Machine;
use super::params::SECOND;
use super::watch::rule;
use super::{Event, Talk, World};
use crate::Violation;
use crate::coverage::Kind;
use crate::oracle::rules;

/// What a loop needs to go round again, in microseconds.
const TURN: u64 = 30;

/// At every so many indexes members' states are compared, when they are seen there.
const STATE_EVERY: u64 = 4;

/// How often, in a thousand, a machine stops again while its member starts.
const DIES_AGAIN: u64 = 50;

/// How often, in a thousand, the consumer of a member that has started does nothing for a while.
const HANGS_FIRST: u64 = 150;

impl World {
    /// Plans the next turn of a member, for now or for its tick.
    pub(super) fn plan_turn(&mut self, id: u64) {
        let now = self.now;
        let Some(host) = self.hosts.get_mut(&id) else { return };
        let (life, until) = (host.life, host.busy_until.max(host.paused_until));
        let Some(member) = host.member() else { return };
        let ready = member.is_ready(host.clock(now));
        let at = if ready { now + TURN } else { host.when(member.deadline()) };
        let at = at.max(until).max(now + 1);
        if at < host.turn_at {
            host.turn_at = at;
            self.plan(at, Event::Turn(id, life));
        }
    }

    pub(super) fn plan_work(&mut self, id: u64) {
        let now = self.now;
        let Some(host) = self.hosts.get_mut(&id) else { return };
        let (life, until) = (host.life, host.stalled_until.max(host.paused_until).max(now));
        let (apply, chore) = (host.apply_at == u64::MAX, host.chore_at == u64::MAX);
        let Some(member) = host.member() else { return };
        let (applies, works) =
            (member.n_commits() > 0, member.n_chores() > 0 || member.has_captured());
        if apply && applies {
            host.apply_at = until + TURN;
            self.plan(until + TURN, Event::Apply(id, life));
        }
        if chore && works {
            let at = until + self.rng.below(20_000) + 50;
            if let Some(host) = self.hosts.get_mut(&id) {
                host.chore_at = at;
            }
            self.plan(at, Event::Chore(id, life));
        }
    }

    pub(super) fn turn(&mut self, id: u64, life: u64) -> Result<(), Violation> {
        let now = self.now;
        let Some(host) = self.hosts.get_mut(&id) else { return Ok(()) };
        if host.life != life || host.turn_at != now {
            return Ok(());
        }
        host.turn_at = u64::MAX;
        if now < host.paused_until.max(host.busy_until) {
            self.plan_turn(id);
            return Ok(());
        }
        if host.busy_until != 0 {
            // What it said before its disk was done leaves now.
            host.busy_until = 0;
            self.pump(id);
        }
        let Some(host) = self.hosts.get_mut(&id) else { return Ok(()) };
        let (clock, sync_time) = (host.clock(now), host.sync_time);
        let n_syncs = host.disk.count(Op::Sync);
        let takes_for_slow = host.takes_disk_for_slow || sync_time > 0;
        let Some(member) = host.member_mut() else { return Ok(()) };
        member.pretend_slow(takes_for_slow);
        let ended = member.turn(clock);
        self.look_at_messages(id)?;
        let Some(host) = self.hosts.get_mut(&id) else { return Ok(()) };
        let n_syncs = host.disk.count(Op::Sync) - n_syncs;
        if host.disk.is_stopped() {
            return self.crashed_in_a_step(id);
        }
        if n_syncs > 0 && sync_time > 0 {
            host.busy_until = now + n_syncs * sync_time;
            host.hinder(now + n_syncs * sync_time);
            self.count(Kind::SlowDisk);
        }
        if let Some(result) = ended {
            match &result {
                Ok(()) => self.observe(id)?,
                // It ended in order, too.
                Err(Error::Removed(_)) => {
                    self.observe(id)?;
                    self.watch.oracle.removed(id, true)?;
                }
                // It ended where it stood, and what it had to say is not said.
                Err(_) => self.watch.crashed(id, true),
            }
            return self.ended(id, result);
        }
        self.observe(id)?;
        self.after_turn(id)
    }

    fn after_turn(&mut self, id: u64) -> Result<(), Violation> {
        self.depart(id)?;
        self.answer(id);
        let Some(host) = self.hosts.get_mut(&id) else { return Ok(()) };
        let (is_busy, known) = (host.busy_until > self.now, host.book_version);
        let Some(member) = host.member() else { return Ok(()) };
        let version = member.cursors().book_version;
        if known != version {
            host.book_version = version;
            self.book_changed(id);
        }
        if !is_busy {
            self.pump(id);
        }
        self.plan_work(id);
        self.plan_turn(id);
        Ok(())
    }

    pub(super) fn apply(&mut self, id: u64, life: u64) -> Result<(), Violation> {
        let now = self.now;
        let most = 1 + self.rng.below(8) as usize;
        let Some(host) = self.hosts.get_mut(&id) else { return Ok(()) };
        if host.life != life {
            return Ok(());
        }
        host.apply_at = u64::MAX;
        if now < host.stalled_until.max(host.paused_until) {
            self.plan_work(id);
            return Ok(());
        }
        let Some(member) = host.member_mut() else { return Ok(()) };
        let consumed = match member.apply(most) {
            Ok(consumed) => consumed,
            Err(error) => return rule("K3", "every member can apply every command", error),
        };
        let shown = member.machine().store().applied_index();
        let captured = member.machine().take_captured();
        let opened = host.opened_commit;
        rules::READS_RISE.holds(shown == 0 || shown >= opened, || {
            format!("member {id} shows index {shown}; it knew {opened} to be committed")
        })?;
        for item in &consumed {
            if let (Consumed::Captured { index }, Some(hash)) = (item, captured) {
                self.states.saw(*index, hash, "captured");
            }
        }
        let through = consumed.iter().rev().find_map(|item| match item {
            Consumed::Restored { index, .. } => Some(*index),
            Consumed::Applied { last_index, .. } => Some(*last_index),
            Consumed::Captured { .. } => None,
        });
        self.watch.consumed(id, consumed);
        self.observe(id)?;
        if let Some(index) = through.filter(|index| index.is_multiple_of(STATE_EVERY)) {
            self.look_at_state(id, index)?;
        }
        self.plan_work(id);
        self.plan_turn(id);
        Ok(())
    }

    pub(super) fn chore(&mut self, id: u64, life: u64) -> Result<(), Violation> {
        let now = self.now;
        let writes = self.chance(500);
        let Some(host) = self.hosts.get_mut(&id) else { return Ok(()) };
        if host.life != life {
            return Ok(());
        }
        host.chore_at = u64::MAX;
        if now < host.stalled_until.max(host.paused_until) {
            self.plan_work(id);
            return Ok(());
        }
        let Some(member) = host.member_mut() else { return Ok(()) };
        let writes = member.has_captured() && (writes || member.n_chores() == 0);
        let saved = if writes {
            member.write_captured();
            false
        } else {
            member.do_chore()
        };
        if host.disk.is_stopped() {
            return self.crashed_in_a_step(id);
        }
        if saved {
            self.count(Kind::SavedElsewhere);
        }
        if let Some(odd) = self.states.odd() {
            return rule("N4", "a snapshot labelled i holds exactly the commands through i", odd);
        }
        self.plan_work(id);
        self.plan_turn(id);
        Ok(())
    }

    /// A machine starts its member, unless it runs already or never will again.
    pub(super) fn start(&mut self, id: u64) -> Result<(), Violation> {
        self.boot(id, None)
    }

    /// `taken_in`: what came of the request to join.
    pub(super) fn boot(
        &mut self,
        id: u64,
        taken_in: Option<Result<u64, Error>>,
    ) -> Result<(), Violation> {
        let (now, drift) = (self.now, self.params.drift);
        let rate = SECOND + self.rng.below(2 * drift + 1) - drift;
        let Some(host) = self.hosts.get_mut(&id) else { return Ok(()) };
        match host.process {
            Process::Down => {
                host.life += 1;
                host.rate = rate;
            }
            Process::Joining(_) if taken_in.is_some() => {}
            _ => return Ok(()),
        }
        (host.paused_until, host.busy_until, host.stalled_until) = (0, 0, 0);
        (host.turn_at, host.apply_at, host.chore_at) = (u64::MAX, u64::MAX, u64::MAX);
        host.book_version = u64::MAX;
        let (life, mut config) = (host.life, host.config());
        config.snapshots = self.params.snapshots;
        config.wal_segment_bytes = self.params.segment_bytes;
        let seed = self.seed_of(id, life);
        let (dies, nth) = (!self.is_calm && self.chance(DIES_AGAIN), self.rng.below(20));
        let hangs = !self.is_calm && self.chance(HANGS_FIRST);
        let stalled_until = if hangs { now + self.draw(SECOND / 20, 4 * SECOND) } else { 0 };
        let Some(host) = self.hosts.get_mut(&id) else { return Ok(()) };
        host.takes_disk_for_slow = seed.is_multiple_of(2);
        if dies {
            host.disk.inject(Op::Any, nth, Fault::Stop);
        }
        let recipe = Recipe {
            config,
            fs: host.disk.clone(),
            seed,
            now: host.clock(now),
            logger: self.logger.new(slog::o!("member" => id)),
        };
        let booted = sim::boot(recipe, Machine::new(self.states.clone()), taken_in);
        self.coverage.add(Kind::TornTail, self.ears.take_torn());
        if host.disk.is_stopped() {
            drop(booted);
            self.count(Kind::DoubleCrash);
            return self.crashed_in_a_step(id);
        }
        match booted {
            Ok(Booted::Running(mut member)) => {
                member.shrink_bounds(self.params.divisor);
                host.opened_commit = member.cursors().durable_commit;
                host.stalled_until = stalled_until;
                host.stall(stalled_until);
                let began = member.began();
                host.process = Process::Up(member);
                host.started_at = now;
                // Until a newer one is taken, it is as spoilt at the next start.
                host.spoilt = host.spoilt.filter(|spoilt| spoilt.marker == began.marker);
                let (rule, snapshot) = match host.spoilt {
                    Some(spoilt) => (rules::FALLS_BACK, spoilt.snapshot),
                    None => (rules::OPENS_AGAIN, began.marker),
                };
                let is_spoilt = host.spoilt.is_some();
                rule.holds(began.snapshot == snapshot, || {
                    format!("member {id} was to begin with snapshot {snapshot}: {began:?}")
                })?;
                self.coverage.add(Kind::SnapshotSpoilt, is_spoilt.into());
                self.coverage.add(Kind::Drift, drift.min(1));
                self.say(|| format!("{id} starts, life {life}"));
                self.watch.started(id);
                self.observe(id)?;
                self.after_turn(id)?;
                self.redial(id);
                Ok(())
            }
            Ok(Booted::Joining(join)) => {
                host.process = Process::Joining(join);
                host.started_at = now;
                self.say(|| format!("{id} wants to join"));
                let delay = self.delay();
                self.plan_in(delay, Event::Talk(Box::new(Talk::Join { id, life })));
                Ok(())
            }
            Err(error) => {
                host.process = Process::Down;
                if matches!(error, Error::Removed(_)) {
                    self.watch.oracle.removed(id, false)?;
                }
                self.ended(id, Err(error))
            }
        }
    }

    /// A process has ended, and said why.
    pub(super) fn ended(&mut self, id: u64, result: Result<(), Error>) -> Result<(), Violation> {
        self.say(|| match &result {
            Ok(()) => format!("{id} has stopped"),
            Err(error) => format!("{id} has ended: {error}"),
        });
        let Some(host) = self.hosts.get_mut(&id) else { return Ok(()) };
        let is_wiped = host.is_wiped;
        let (process, again) = match &result {
            Ok(()) => {
                self.count(Kind::CleanStop);
                (Process::Down, true)
            }
            // A disk that fails, or is full: somebody mends it.
            Err(Error::Disk(_) | Error::Unusable { .. })
                if host.disk.n_failed() > 0 || host.has_failed =>
            {
                (Process::Down, true)
            }
            Err(Error::Removed(_)) => (Process::Removed, false),
            Err(Error::Wiped(_) | Error::LostData(_)) if is_wiped => {
                self.count(Kind::RefusedStart);
                (Process::Lost, false)
            }
            Err(error) => {
                let ran = matches!(host.process, Process::Up(_));
                let rule = if ran { rules::NO_PANIC } else { rules::OPENS_AGAIN };
                return Err(rule.broken(format!("member {id} ended: {error}")));
            }
        };
        self.vanish(id, process, true);
        if again {
            let at = self.draw(10_000, 2 * SECOND);
            self.plan_in(at, Event::Start(id));
        }
        Ok(())
    }

    /// The process is gone; what it had open breaks.
    pub(super) fn vanish(&mut self, id: u64, process: Process, is_told: bool) {
        self.has_failed(id);
        let Some(host) = self.hosts.get_mut(&id) else { return };
        let gone = std::mem::replace(&mut host.process, process);
        drop(gone);
        // A mended disk is full no more, and fails no more.
        host.disk.mend();
        (host.has_failed, host.sync_time) = (false, 0);
        self.hang_up(id, is_told);
        self.forget_talks(id);
    }

    /// Everything on the machine stops at once, and its disk keeps what it likes of what was not
    /// synced.
    pub(super) fn crash(&mut self, id: u64, in_a_step: bool) {
        // Or the process alone: what it wrote stays in its system's cache, un-synced as it is.
        let is_killed = self.chance(300);
        let loss = match self.rng.below(10) {
            0..2 => Loss::Everything,
            2..4 => Loss::Nothing,
            _ => Loss::Some(self.rng.draw()),
        };
        let Some(host) = self.hosts.get_mut(&id) else { return };
        let (survived, lost) =
            if is_killed { (host.disk.clone(), Lost::default()) } else { host.disk.lose(loss) };
        self.say(|| match is_killed {
            true => format!("{id} is killed"),
            false => format!("{id} crashes, {loss:?}"),
        });
        self.watch.crashed(id, in_a_step);
        let is_told = self.chance(700);
        self.vanish(id, Process::Down, is_told);
        if let Some(host) = self.hosts.get_mut(&id) {
            host.disk = survived;
        }
        self.count(if in_a_step { Kind::CrashMidTurn } else { Kind::Crash });
        if is_killed {
            self.count(Kind::Kill);
        }
        for (n, kind) in [
            (lost.sectors, Kind::UnsyncedLost),
            (lost.torn, Kind::SectorsTorn),
            (lost.renames, Kind::RenameLost),
            (lost.reordered, Kind::NamesReordered),
        ] {
            self.coverage.add(kind, n.min(1) as u64);
        }
        let at = if self.chance(300) { SECOND / 20 } else { self.draw(100_000, 6 * SECOND) };
        self.plan_in(at, Event::Start(id));
    }

    /// The operation that was to be the last was.
    pub(super) fn crashed_in_a_step(&mut self, id: u64) -> Result<(), Violation> {
        // What was handed to the system before may be on its way.
        if self.chance(500) {
            self.has_promised(id)?;
            self.pump(id);
        }
        self.crash(id, true);
        Ok(())
    }
}
