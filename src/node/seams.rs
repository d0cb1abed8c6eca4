//! A core on a disk that is handed to it, and nothing around it: for whoever enumerates what a crash
//! can leave of a member. Exists with the feature `simulation` only, and is not part of the API.
//!
//! The directory, the log, the snapshots and the core are the production's; the consumer, the other
//! threads and the one peer are whoever holds a [`Stepped`]. Nothing waits, so that a whole life takes
//! microseconds.

use std::collections::{BTreeMap, VecDeque};
use std::io::Read as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossbeam_channel::Receiver;
use raft::CAMPAIGN_TRANSFER;
use raft::eraftpb::{Entry, Message, MessageType, Snapshot};
use slog::Logger;
use wal::fs::{Fs, MemFs};

use super::core::{Core, Parts, Task, write_captured};
use crate::channel::{self, AppliedCell, Captured, Limits, Request, Restore};
use crate::config::SnapshotPolicy;
use crate::directory::{self, Directory};
use crate::identity::seeded;
use crate::key::Key;
use crate::membership::{Book, Founder, parse_cluster};
use crate::metrics::Metrics;
use crate::sim::Cursors;
use crate::snapshot::{self, Announced, Header, Incoming};
use crate::status::{Shared, Status};
use crate::transport::{Frame, Gate};
use crate::{Commit, Config, Error, Handle, pins};

/// The member whose disk it is.
const OWN: u64 = 1;
/// Who leads it, if it does not lead itself.
const LEADER: u64 = 2;
/// The cluster that one that follows has joined.
const CLUSTER: u64 = 0xc1;

/// What a member is.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// It has joined a cluster that another leads; otherwise it is a cluster of its own.
    pub follows: bool,
    /// The size of a segment.
    pub segment_bytes: u64,
    /// A snapshot is due after so many entries.
    pub snapshot_entries: u64,
    /// How many snapshots are kept.
    pub keep: u64,
    /// Everything random about this life of it.
    pub seed: u64,
}

/// What others may count on from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// So many commands are applied.
    Applied(usize),
    /// The leader was told that entries up to here are durable.
    Acknowledged(u64),
    /// A candidate was given this member's vote.
    Voted,
}

/// A member that is stepped.
pub struct Stepped {
    fs: Arc<dyn Fs>,
    config: Config,
    core: Core,
    gate: Gate,
    handle: Handle,
    requests: Receiver<Request>,
    applied: Arc<AppliedCell>,
    captured: Receiver<Captured>,
    tasks: VecDeque<Task>,
    state: BTreeMap<u64, Bytes>,
    last_index: u64,
    incarnation: u128,
    now: Instant,
    _lock: wal::fs::Lock,
}

impl std::fmt::Debug for Stepped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stepped").field("cursors", &self.cursors()).finish_non_exhaustive()
    }
}

/// An entry of the leader's log.
#[derive(Debug, Clone)]
pub struct Command {
    /// The term it was proposed in.
    pub term: u64,
    /// The command.
    pub data: Bytes,
}

fn config(settings: &Settings) -> Result<Config, Error> {
    let urls = if settings.follows { "http://a:1,http://b:1" } else { "http://a:1" };
    let founders = parse_cluster(urls).map_err(Error::Config)?;
    let mut config = Config::new(OWN, founders, "/data".into());
    config.join = settings.follows;
    config.wal_segment_bytes = settings.segment_bytes;
    config.snapshots = SnapshotPolicy {
        entries: settings.snapshot_entries,
        bytes: 0,
        proportional: false,
        keep: settings.keep,
        catchup_entries: 2,
        retain_bytes: 1 << 30,
    };
    Ok(config)
}

fn logger() -> Logger {
    Logger::root(slog::Discard, slog::o!())
}

impl Stepped {
    /// Starts a member on what is on its disk.
    ///
    /// # Errors
    ///
    /// What would keep a node from starting.
    pub fn boot(fs: Arc<dyn Fs>, settings: &Settings) -> Result<Self, Error> {
        seeded::with(settings.seed, || Self::start(fs, settings))
    }

    fn start(fs: Arc<dyn Fs>, settings: &Settings) -> Result<Self, Error> {
        let config = config(settings)?;
        let directory = Directory::inspect(Arc::clone(&fs), &config)?;
        let register = &mut |_: &_| Ok(CLUSTER);
        let found = directory.open(&config, register, &AtomicBool::new(false), &logger())?;
        let (node, incarnation, cluster) =
            (found.identity.node, found.identity.incarnation, found.identity.cluster);
        let pins = directory::pins(&config);
        let gate = Gate::open(Arc::clone(&fs), &pins, node, incarnation, cluster)?;
        let applied = Arc::new(AppliedCell::default());
        let restore = Restore {
            index: found.header.index,
            term: found.header.term,
            commit_index: found.storage.hard_state().commit,
            state: found.snapshot,
        };
        let (captured_tx, captured) = crossbeam_channel::bounded(1);
        let shared = Arc::new(Shared::new(Status::default()));
        let parts = Parts {
            fs: Arc::clone(&fs),
            kept: found.kept,
            storage: found.storage,
            cluster,
            book: found.header.book,
            pins: BTreeMap::new(),
            restore,
            captured: captured_tx,
            metrics: Metrics::new(Arc::clone(&shared)),
            applied: Arc::clone(&applied),
            space: Arc::clone(&shared.space),
            nonce: settings.seed,
            seed: settings.seed,
        };
        let core = Core::new(&config, parts, &logger())?;
        let limits =
            Limits { max_pending: 1000, max_pending_bytes: 1 << 30, max_entry_bytes: 1 << 20 };
        let (requests_tx, requests) = channel::requests();
        Ok(Self {
            fs,
            config,
            core,
            gate,
            handle: Handle::new(requests_tx, shared, limits),
            requests,
            applied,
            captured,
            tasks: VecDeque::new(),
            state: BTreeMap::new(),
            last_index: 0,
            incarnation,
            now: Instant::now(),
            _lock: found.lock,
        })
    }

    /// One turn, with whatever waits.
    ///
    /// # Errors
    ///
    /// What ends the node.
    pub fn turn(&mut self, told: &mut dyn FnMut(Told)) -> Result<(), Error> {
        self.step(told, |_, _| Ok(()))
    }

    /// Has the member write so many commands in one batch.
    ///
    /// # Errors
    ///
    /// What ends the node.
    pub fn write(&mut self, commands: &[Bytes], told: &mut dyn FnMut(Told)) -> Result<(), Error> {
        let deadline = self.now + Duration::from_secs(5);
        for data in commands {
            // Who waits for it is answered by what is applied, which is what `told` hears of.
            drop(self.handle.propose(data.clone(), deadline));
        }
        for request in self.requests.try_iter() {
            if let Request::Propose(proposal) = request {
                self.core.propose(proposal);
            }
        }
        self.turn(told)
    }

    /// Asks the member for a snapshot of what it has applied.
    ///
    /// # Errors
    ///
    /// What ends the node.
    pub fn wish_snapshot(&mut self, told: &mut dyn FnMut(Told)) -> Result<(), Error> {
        drop(self.handle.snapshot(self.now + Duration::from_secs(3600)));
        for request in self.requests.try_iter() {
            if let Request::Snapshot(wish) = request {
                self.core.wish_snapshot(wish);
            }
        }
        self.turn(told)
    }

    /// Does the next chore of the disk's thread; false if there is none.
    ///
    /// # Errors
    ///
    /// What ends the node.
    pub fn do_chore(&mut self, told: &mut dyn FnMut(Told)) -> Result<bool, Error> {
        let Some(task) = self.tasks.pop_front() else { return Ok(false) };
        let done = task.run(&*self.fs);
        self.step(told, |core, _| core.done(done))?;
        Ok(true)
    }

    /// Writes the captured state that waits; false if none does.
    ///
    /// # Errors
    ///
    /// What ends the node.
    pub fn write_captured(&mut self, told: &mut dyn FnMut(Told)) -> Result<bool, Error> {
        let Ok(captured) = self.captured.try_recv() else { return Ok(false) };
        let done = write_captured(&self.fs, &directory::snap_dir(&self.config), captured);
        self.step(told, |core, _| core.done(done))?;
        Ok(true)
    }

    /// The leader of `term` sends entries that follow on `before`, index and term.
    ///
    /// # Errors
    ///
    /// What ends the node.
    pub fn append(
        &mut self,
        term: u64,
        before: (u64, u64),
        commands: &[Command],
        commit: u64,
        told: &mut dyn FnMut(Told),
    ) -> Result<(), Error> {
        let mut message = from_leader(MessageType::MsgAppend, term);
        (message.index, message.log_term, message.commit) = (before.0, before.1, commit);
        let entries = (before.0 + 1..).zip(commands).map(|(index, command)| Entry {
            index,
            term: command.term,
            data: command.data.clone(),
            context: key(index).encode().to_vec().into(),
            ..Entry::default()
        });
        message.set_entries(entries.collect::<Vec<_>>().into());
        self.step(told, |core, send| core.receive(LEADER, Frame::Raft(message), send))
    }

    /// A candidate of `term`, to whom the leader handed over, asks for this member's vote.
    ///
    /// # Errors
    ///
    /// What ends the node.
    pub fn ask_vote(&mut self, term: u64, told: &mut dyn FnMut(Told)) -> Result<(), Error> {
        let mut message = from_leader(MessageType::MsgRequestVote, term);
        (message.index, message.log_term) = (1 << 40, term - 1);
        message.context = Bytes::from_static(CAMPAIGN_TRANSFER);
        self.step(told, |core, send| core.receive(LEADER, Frame::Raft(message), send))
    }

    /// The leader of `term` sends a snapshot file.
    ///
    /// # Errors
    ///
    /// What ends the node.
    pub fn install(
        &mut self,
        term: u64,
        at: (u64, u64),
        file: &[u8],
        told: &mut dyn FnMut(Told),
    ) -> Result<(), Error> {
        let header = header(at);
        let mut snapshot = Snapshot::default();
        let metadata = snapshot.mut_metadata();
        (metadata.index, metadata.term) = at;
        metadata.set_conf_state(header.conf_state);
        let mut message = from_leader(MessageType::MsgSnapshot, term);
        message.set_snapshot(snapshot);
        let path = directory::snap_dir(&self.config).join(snapshot::temporary_name(0, LEADER, 1));
        let checksum = file.last_chunk().map_or(0, |word| u64::from_le_bytes(*word));
        let announced = Announced { cluster: CLUSTER, bytes: file.len() as u64, checksum };
        let broken = |failure: snapshot::Failure| Error::Disk(failure.to_string());
        let mut incoming = Incoming::begin(&self.fs, &path, announced).map_err(broken)?;
        // In pieces, as they come from a network.
        for piece in file.chunks(700) {
            incoming.write(piece).map_err(broken)?;
        }
        let received = incoming.finish().map_err(broken)?;
        self.step(told, |core, send| core.receive_snapshot(message, received, send).map(|_| ()))
    }

    /// Writes down what is committed, as a clean end does.
    ///
    /// # Errors
    ///
    /// A failed write or sync.
    pub fn close(&mut self) -> Result<(), Error> {
        self.core.close()
    }

    /// Writes the pins of so many members, as the gate does when it meets another.
    ///
    /// # Errors
    ///
    /// A failed write or sync.
    pub fn pin(&self, n: u64) -> Result<(), Error> {
        let all = (0..n).map(|id| (LEADER + id, u128::from(id) << 70)).collect();
        let path = directory::pins(&self.config);
        wal::fs::write_file_durably(&*self.fs, &path, &pins::encode(&all))
            .map_err(|error| Error::Disk(error.to_string()))
    }

    /// How many members are pinned, as it was read at the start.
    #[must_use]
    pub fn n_pins(&self) -> u64 {
        self.gate.pins().len() as u64
    }

    /// Writes the tombstone of a member that was removed.
    ///
    /// # Errors
    ///
    /// A failed write or sync.
    pub fn bury(&self) -> Result<(), Error> {
        directory::bury(&*self.fs, &self.config, &Error::Removed("it was removed".into()))
    }

    /// What its consumer has applied: commands by index.
    #[must_use]
    pub fn state(&self) -> &BTreeMap<u64, Bytes> {
        &self.state
    }

    /// How far it has come.
    #[must_use]
    pub fn cursors(&self) -> Cursors {
        self.core.cursors()
    }

    /// Term and fingerprint of an entry of its log.
    #[must_use]
    pub fn entry(&self, index: u64) -> Option<(u64, u64)> {
        self.core.entry(index)
    }

    /// What its directory was given when it was made.
    #[must_use]
    pub fn incarnation(&self) -> u128 {
        self.incarnation
    }

    fn step(
        &mut self,
        told: &mut dyn FnMut(Told),
        event: impl FnOnce(&mut Core, super::core::Send<'_>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut send = |_: u64, frame: Frame| {
            let Frame::Raft(message) = frame else { return };
            match message.get_msg_type() {
                MessageType::MsgAppendResponse if !message.reject => {
                    told(Told::Acknowledged(message.index));
                }
                MessageType::MsgRequestVoteResponse if !message.reject => told(Told::Voted),
                _ => {}
            }
        };
        event(&mut self.core, &mut send)?;
        self.core.finish_turn(&mut send)?;
        self.consume(told)?;
        let mut ignored = |_: u64, _: Frame| {};
        self.core.finish_turn(&mut ignored)?;
        self.consume(told)?;
        self.tasks.extend(self.core.take_tasks());
        Ok(())
    }

    fn consume(&mut self, told: &mut dyn FnMut(Told)) -> Result<(), Error> {
        while let Some(commit) = self.core.next_commit() {
            match commit {
                Commit::Restore(restore) => {
                    self.last_index = restore.index;
                    self.state = read_state(restore.state)
                        .map_err(|error| Error::Corrupt(error.to_string()))?;
                }
                Commit::Entries(entries) => {
                    for item in entries.items {
                        self.state.insert(item.index, item.data.clone());
                        item.answer(Bytes::new());
                    }
                    self.last_index = entries.last_index;
                }
                Commit::Snapshot(request) => {
                    let state = self.state.clone();
                    request.capture(move |file| file.write_all(&encode_state(&state)));
                }
            }
            self.applied.index.store(self.last_index, Ordering::SeqCst);
            told(Told::Applied(self.state.len()));
            self.core.publish_missed()?;
        }
        Ok(())
    }
}

fn from_leader(kind: MessageType, term: u64) -> Message {
    let mut message = Message { from: LEADER, to: OWN, term, ..Message::default() };
    message.set_msg_type(kind);
    message
}

/// The name that the leader gave its proposal.
fn key(sequence: u64) -> Key {
    Key { node: LEADER, nonce: LEADER, sequence }
}

fn header((index, term): (u64, u64)) -> Header {
    let founders = [(OWN, "http://a:1"), (LEADER, "http://b:1")];
    let founders = founders.map(|(id, url)| Founder { id, url: url.into() });
    Header { index, term, ..Header::genesis(CLUSTER, Book::founding(&founders)) }
}

/// The file of the leader's snapshot of this index and term.
///
/// # Errors
///
/// Memory takes everything; what says otherwise is a defect.
pub fn snapshot_file(at: (u64, u64), state: &BTreeMap<u64, Bytes>) -> Result<Vec<u8>, Error> {
    let fs: Arc<dyn Fs> = Arc::new(MemFs::volatile());
    let path = PathBuf::from("/sent");
    let broken = |failure: snapshot::Failure| Error::Disk(failure.to_string());
    let written =
        snapshot::write(&fs, &path, &header(at), |file| file.write_all(&encode_state(state)));
    let bytes = written.map_err(broken)?.bytes;
    wal::fs::read_file(&*fs, &path, bytes).map_err(|error| Error::Disk(error.to_string()))
}

fn encode_state(state: &BTreeMap<u64, Bytes>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (index, data) in state {
        bytes.extend_from_slice(&index.to_le_bytes());
        bytes.extend_from_slice(&(data.len() as u64).to_le_bytes());
        bytes.extend_from_slice(data);
    }
    bytes
}

fn read_state(mut state: Box<dyn std::io::Read + Send>) -> std::io::Result<BTreeMap<u64, Bytes>> {
    let mut bytes = Vec::new();
    state.read_to_end(&mut bytes)?;
    let (mut found, mut rest) = (BTreeMap::new(), &bytes[..]);
    while let Some((head, tail)) = rest.split_first_chunk::<16>() {
        let (words, _) = head.as_chunks::<8>();
        let [index, length] = [0, 1].map(|nth| u64::from_le_bytes(words[nth]));
        let length = usize::try_from(length).map_err(std::io::Error::other)?;
        let (data, tail) =
            tail.split_at_checked(length).ok_or(std::io::ErrorKind::UnexpectedEof)?;
        found.insert(index, Bytes::copy_from_slice(data));
        rest = tail;
    }
    Ok(found)
}
