//! A machine with one member on it: its disk, its clock, and what state its process is in.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use raftnode::Config;
use raftnode::membership::Founder;
use raftnode::sim::{Began, Join, Member};
use wal::fs::{Access, Fs as _, MemFs};

use super::machine::Machine;
use super::params::SECOND;
use crate::coverage::Kind;

/// What runs on a machine.
#[derive(Debug)]
pub(crate) enum Process {
    /// Nothing, until somebody starts it.
    Down,
    /// A member that asks to be taken in.
    Joining(Box<Join>),
    /// A member.
    Up(Box<Member<Machine>>),
    /// Nothing, for ever: its member was removed.
    Removed,
    /// Nothing, for ever: its member lost its disk, and knows it.
    Lost,
}

/// A machine.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) id: u64,
    pub(crate) disk: MemFs,
    pub(crate) process: Process,
    /// Grows at each start.
    pub(crate) life: u64,
    /// Its clock shows so many millionths of the time that passes, from `epoch` on.
    pub(crate) rate: u64,
    pub(crate) epoch: Instant,
    /// Stopped by a signal until then.
    pub(crate) paused_until: u64,
    /// Its loop waits for its disk until then.
    pub(crate) busy_until: u64,
    /// A sync takes so long.
    pub(crate) sync_time: u64,
    /// Its member takes that for long, whatever it is.
    pub(crate) takes_disk_for_slow: bool,
    /// Its consumer, its disk's thread and its writer of snapshots do nothing until then.
    pub(crate) stalled_until: u64,
    /// Until when its loop was kept from its work.
    pub(crate) hindered_until: u64,
    /// Until when that, or its consumer or its disk's chores, were.
    pub(crate) unapplied_until: u64,
    /// What its disk knew to be committed when its member started.
    pub(crate) opened_commit: u64,
    /// When the next turn was planned for.
    pub(crate) turn_at: u64,
    pub(crate) apply_at: u64,
    pub(crate) chore_at: u64,
    /// How its disk is to fail, if it does.
    pub(crate) failing: Option<Kind>,
    /// Its disk failed under the member that runs, and has been mended since: that may yet hear of it.
    pub(crate) has_failed: bool,
    /// Its disk has lost what it had synced.
    pub(crate) is_wiped: bool,
    /// Its newest snapshot is spoilt: what its member must begin with.
    pub(crate) spoilt: Option<Began>,
    /// Joins instead of founding.
    pub(crate) joins: bool,
    /// The members that it was told of at its first start.
    pub(crate) founders: Vec<Founder>,
    pub(crate) book_version: u64,
    pub(crate) started_at: u64,
}

/// Where a member is reached.
pub(crate) fn url(id: u64) -> String {
    format!("http://member-{id}:1")
}

/// Who is reached there.
pub(crate) fn id_at(url: &str) -> Option<u64> {
    url.strip_prefix("http://member-")?.split_once(':')?.0.parse().ok()
}

impl Host {
    pub(crate) fn new(id: u64, founders: Vec<Founder>, joins: bool, epoch: Instant) -> Self {
        Self {
            id,
            disk: MemFs::new(),
            process: Process::Down,
            life: 0,
            rate: SECOND,
            epoch,
            paused_until: 0,
            busy_until: 0,
            sync_time: 0,
            takes_disk_for_slow: false,
            stalled_until: 0,
            hindered_until: 0,
            unapplied_until: 0,
            opened_commit: 0,
            turn_at: u64::MAX,
            apply_at: u64::MAX,
            chore_at: u64::MAX,
            failing: None,
            has_failed: false,
            is_wiped: false,
            spoilt: None,
            joins,
            founders,
            book_version: u64::MAX,
            started_at: 0,
        }
    }

    pub(crate) fn config(&self) -> Config {
        let mut config = Config::new(self.id, self.founders.clone(), "/data".into());
        config.join = self.joins;
        config.client_url = format!("http://client-{}:1", self.id);
        config
    }

    pub(crate) fn member(&self) -> Option<&Member<Machine>> {
        match &self.process {
            Process::Up(member) => Some(member),
            _ => None,
        }
    }

    pub(crate) fn member_mut(&mut self) -> Option<&mut Member<Machine>> {
        match &mut self.process {
            Process::Up(member) => Some(member),
            _ => None,
        }
    }

    /// What its clock shows.
    pub(crate) fn clock(&self, now: u64) -> Instant {
        let shown = u128::from(now) * u128::from(self.rate) / u128::from(SECOND);
        self.epoch + Duration::from_micros(u64::try_from(shown).unwrap_or(u64::MAX))
    }

    /// When its clock will show this.
    pub(crate) fn when(&self, shown: Instant) -> u64 {
        let shown = shown.saturating_duration_since(self.epoch).as_micros();
        let when = (shown * u128::from(SECOND)).div_ceil(u128::from(self.rate));
        u64::try_from(when).unwrap_or(u64::MAX)
    }

    /// Something keeps its loop from its work until then.
    pub(crate) fn hinder(&mut self, until: u64) {
        self.hindered_until = self.hindered_until.max(until);
        self.stall(until);
    }

    /// Something keeps its consumer, or its disk's chores, from theirs.
    pub(crate) fn stall(&mut self, until: u64) {
        self.unapplied_until = self.unapplied_until.max(until);
    }

    /// Its disk is to fail like this: counted once it has, if it is certain then that it was this.
    pub(crate) fn will_fail(&mut self, kind: Kind) {
        let is_certain = self.failing.is_none() && self.disk.n_failed() == 0;
        self.failing = is_certain.then_some(kind);
    }

    /// Changes one byte of a snapshot's file, somewhere, or removes it, for good.
    pub(crate) fn spoil(&self, (term, index): (u64, u64), at: Option<u64>) -> io::Result<()> {
        let directory = Path::new("/data/snap");
        let path = directory.join(format!("{term:016x}-{index:016x}.snap"));
        let Some(at) = at else {
            self.disk.remove_file(&path)?;
            return self.disk.sync_dir(directory);
        };
        let file = self.disk.open(&path, Access::ReadWrite)?;
        let at = at % file.size()?;
        let mut byte = [0];
        file.read_full_at(at, &mut byte)?;
        file.write_all_at(at, &[!byte[0]])?;
        file.sync_data()
    }

    /// Whether nobody on it does anything now.
    pub(crate) fn is_paused(&self, now: u64) -> bool {
        now < self.paused_until
    }
}
