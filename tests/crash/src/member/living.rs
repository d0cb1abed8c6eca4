//! A whole member on a disk that crashes, one turn at a time, and nobody around it.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io::{self, Read, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use raftnode::machine::{Command, StateMachine};
use raftnode::membership::parse_cluster;
use raftnode::sim::{Booted, Disk, Lane, Member, Peer, Promise, Recipe, boot};
use raftnode::{Config, Error, SnapshotPolicy};
use slog::Logger;
use wal::fs::Fs as _;

use crate::journal::JournalFs;

/// The member whose disk it is.
const OWN: u64 = 1;
/// Who leads it, if it does not lead itself.
const LEADER: u64 = 2;
/// The cluster that one that follows has joined.
const CLUSTER: u64 = 0xc1;
/// Turns after which it should have nothing to do any more.
const MANY: usize = 32;

/// What a member is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Settings {
    /// It has joined a cluster that another leads; otherwise it is a cluster of its own.
    pub(super) follows: bool,
    /// The size of a segment.
    pub(super) segment_bytes: u64,
    /// A snapshot is due after so many entries.
    pub(super) snapshot_entries: u64,
    /// It takes its disk for slow: when it leads, others sync its log.
    pub(super) slow: bool,
    /// How many snapshots are kept.
    pub(super) keep: u64,
    /// Everything random about this life of it.
    pub(super) seed: u64,
}

impl Settings {
    fn config(&self) -> Result<Config, Error> {
        let urls = if self.follows { "http://a:1,http://b:1" } else { "http://a:1" };
        let founders = parse_cluster(urls).map_err(Error::Config)?;
        let mut config = Config::new(OWN, founders, "/data".into());
        config.join = self.follows;
        config.wal_segment_bytes = self.segment_bytes;
        config.snapshots = SnapshotPolicy {
            entries: self.snapshot_entries,
            bytes: 0,
            proportional: false,
            keep: self.keep,
            catchup_entries: 2,
            retain_bytes: 1 << 30,
        };
        Ok(config)
    }
}

/// Every command that was applied, by its index.
#[derive(Debug, Clone, Default)]
pub(super) struct Commands(BTreeMap<u64, Bytes>);

impl StateMachine for Commands {
    type Response = ();
    type Error = Infallible;

    fn apply(&mut self, command: Command<'_>) -> Result<(), Infallible> {
        let before = self.0.insert(command.index, command.data.clone());
        assert!(before.is_none(), "index {} is applied twice", command.index);
        Ok(())
    }

    fn capture(&self) -> impl FnOnce(&mut dyn Write) -> io::Result<()> + Send + 'static {
        let state = self.0.clone();
        move |file| write_state(&state, file)
    }

    fn restore(&mut self, state: &mut dyn Read, _index: u64, _term: u64) -> io::Result<()> {
        let mut bytes = Vec::new();
        state.read_to_end(&mut bytes)?;
        self.0.clear();
        let mut rest = &bytes[..];
        while let Some((head, tail)) = rest.split_first_chunk::<16>() {
            let (words, _) = head.as_chunks::<8>();
            let [index, length] = [0, 1].map(|nth| u64::from_le_bytes(words[nth]));
            let length = usize::try_from(length).map_err(io::Error::other)?;
            let (data, tail) = tail.split_at_checked(length).ok_or(io::ErrorKind::UnexpectedEof)?;
            self.0.insert(index, Bytes::copy_from_slice(data));
            rest = tail;
        }
        Ok(())
    }
}

/// Writes what [`Commands`] reads.
pub(super) fn write_state(state: &BTreeMap<u64, Bytes>, file: &mut dyn Write) -> io::Result<()> {
    for (index, data) in state {
        file.write_all(&index.to_le_bytes())?;
        file.write_all(&(data.len() as u64).to_le_bytes())?;
        file.write_all(data)?;
    }
    Ok(())
}

/// A member that lives.
pub(super) struct Living {
    fs: JournalFs,
    member: Member<Commands, JournalFs>,
    now: Instant,
}

impl Living {
    /// Starts it on what is on its disk.
    pub(super) fn boot(fs: &JournalFs, settings: &Settings) -> Result<Self, Error> {
        let (config, now) = (settings.config()?, Instant::now());
        let logger = Logger::root(slog::Discard, slog::o!());
        let recipe = Recipe { config, fs: fs.clone(), seed: settings.seed, now, logger };
        match boot(recipe, Commands::default(), Some(Ok(CLUSTER)))? {
            Booted::Running(mut member) => {
                member.pretend_slow(settings.slow);
                Ok(Self { fs: fs.clone(), member: *member, now })
            }
            Booted::Joining(_) => Err(Error::Config("it was taken in and asks for it".into())),
        }
    }

    pub(super) fn member(&self) -> &Member<Commands, JournalFs> {
        &self.member
    }

    /// What it has applied.
    pub(super) fn state(&self) -> &BTreeMap<u64, Bytes> {
        &self.member.machine().0
    }

    /// What its directory was given when it was made.
    pub(super) fn incarnation(&self) -> u128 {
        self.member.hello(0).incarnation()
    }

    /// One turn of the loop, and one of the applier. `hear` is told of each promise that left, and
    /// up to which operation the disk had synced then.
    pub(super) fn turn(&mut self, hear: &mut dyn FnMut(usize, &Promise)) -> Result<(), String> {
        if let Some(end) = self.member.turn(self.now) {
            return Err(format!("it ended: {end:?}"));
        }
        for (n_syncs, promise) in self.member.dated_promises() {
            hear(self.fs.synced(n_syncs), &promise);
        }
        if let Some(early) = self.member.early_promise() {
            return Err(early.to_owned());
        }
        self.member.apply(usize::MAX).map_err(|error| error.to_string())?;
        Ok(())
    }

    /// Turns until there is nothing to do.
    pub(super) fn settle(&mut self, hear: &mut dyn FnMut(usize, &Promise)) -> Result<(), String> {
        for _ in 0..MANY {
            self.turn(hear)?;
            if !self.member.is_ready(self.now) && self.member.n_commits() == 0 {
                return Ok(());
            }
        }
        Err(format!("it finds no rest: {:?}", self.member.cursors()))
    }

    /// Turns, while time passes, until it ends; says how.
    pub(super) fn end(mut self) -> Result<(), Error> {
        for _ in 0..MANY {
            if let Some(end) = self.member.turn(self.now) {
                return end;
            }
            self.member.apply(usize::MAX).map_err(|error| Error::Invariant(error.to_string()))?;
            self.now += Duration::from_secs(1);
        }
        Err(Error::Invariant("it does not end".into()))
    }

    /// Ends it as it should.
    pub(super) fn close(self) -> Result<(), Error> {
        self.member.handle().node().shutdown();
        self.end()
    }

    /// Until when it is to answer.
    pub(super) fn deadline(&self) -> Instant {
        self.now + Duration::from_secs(3600)
    }

    /// Syncs the batch that waits for it, if one does.
    pub(super) fn sync(&mut self) {
        if self.member.has_unsynced() {
            self.member.do_chore();
        }
    }

    /// Does the next chore of the disk's thread, if there is one.
    pub(super) fn do_chore(&mut self) {
        self.member.do_chore();
    }

    /// Writes the captured state that waits, if one does.
    pub(super) fn write_captured(&mut self) {
        self.member.write_captured();
    }

    /// A member that it has not met comes, and streams are open both ways.
    pub(super) fn meet(&self, id: u64) -> Result<Peer, String> {
        let url = if id == LEADER { "http://b:1" } else { "http://c:1" };
        let peer = Peer::greeted(&self.member.hello(id), url, u128::from(id) << 70);
        let hello = peer.hello();
        self.member.admit(hello).map_err(|refused| refused.reason().to_owned())?;
        self.member.accepted(hello);
        for lane in Lane::ALL {
            self.member.opened(id, lane, Ok(hello.clone()))?;
        }
        Ok(peer)
    }

    /// Meets its leader.
    pub(super) fn meet_leader(&self) -> Result<Peer, String> {
        self.meet(LEADER)
    }

    /// Why it began with another snapshot than the newest that its log vouches for, or left files
    /// of others in place (N5): damage explains that, a crash does not.
    pub(super) fn wrong_beginning(&self) -> Result<(), String> {
        let began = self.member.began();
        if began.snapshot != began.marker {
            return Err(format!(
                "N5: it began with snapshot {}, the log says {}",
                began.snapshot, began.marker
            ));
        }
        let names = self.fs.list(Path::new("/data/snap")).map_err(|error| error.to_string())?;
        let orphan = names.iter().map(|name| name.to_string_lossy()).find(|name| {
            let index = name.strip_suffix(".snap").and_then(|stem| stem.split_once('-'));
            let index = index.and_then(|(_, index)| u64::from_str_radix(index, 16).ok());
            index.is_none_or(|index| index > began.marker)
        });
        orphan.map_or(Ok(()), |name| {
            Err(format!("N5: {name} is there, and the newest snapshot is {}", began.marker))
        })
    }
}

impl Disk for JournalFs {
    fn n_syncs(&self) -> u64 {
        JournalFs::n_syncs(self)
    }
}
