//! One whole member, stepped.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender};
use wal::fs::{Fs, MemFs};

use super::talk::call_result;
use super::{
    Answering, Cursors, Departure, Disk, Hello, Join, Lane, Ledger, Promise, Recipe, Refused,
    SnapshotIn, fingerprint,
};
use crate::channel::Captured;
use crate::directory::{self, Directory};
use crate::identity::{Identity, seeded};
use crate::machine::{self, Runner, StateMachine};
use crate::membership::Book;
use crate::node::{
    Around, Chores, Done, Look, Loop, Sinks, Task, Turn, first_status, open_gate, peers, settings,
    sync_written, write_captured,
};
use crate::transport::stepped::{Left, Stepped};
use crate::transport::{Carrier as _, ProbeResult};
use crate::{Commit, Error};

/// What there is after a start.
#[derive(Debug)]
pub enum Booted<M: StateMachine, D: Disk + Clone = MemFs> {
    /// A member that runs.
    Running(Box<Member<M, D>>),
    /// One that has to be taken in first, and is started again then.
    Joining(Box<Join>),
}

/// What a member went on from when it started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Began {
    /// The index of the snapshot that its state machine was given.
    pub snapshot: u64,
    /// The index of the newest snapshot that its log vouches for.
    pub marker: u64,
}

/// What the applier took from the commit channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Consumed {
    /// A whole state.
    Restored {
        /// The last index that it holds.
        index: u64,
        /// The term of that entry.
        term: u64,
    },
    /// A range of entries.
    Applied {
        /// The last index of the range.
        last_index: u64,
        /// The term of that entry.
        last_term: u64,
        /// The commands in it: index, term, and the [`fingerprint`] of the data.
        items: Vec<(u64, u64, u64)>,
    },
    /// The state was captured.
    Captured {
        /// The index that the request named.
        index: u64,
    },
}

/// What the disk's chores are until somebody does them.
#[derive(Clone, Default)]
struct Waiting(Arc<Mutex<VecDeque<Task>>>);

impl Waiting {
    fn queue(&self) -> std::sync::MutexGuard<'_, VecDeque<Task>> {
        // Nothing here is changed in steps.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Chores for Waiting {
    fn submit(&self, task: Task) {
        self.queue().push_back(task);
    }
}

/// A member. Dropping it is what a crash does to the process; what the disk keeps is the business of
/// whoever holds the disk.
pub struct Member<M: StateMachine, D = MemFs> {
    event_loop: Loop<Stepped, Waiting>,
    transport: Stepped,
    tasks: Waiting,
    captured: Receiver<Captured>,
    syncs: Receiver<wal::Written>,
    done: Sender<Done>,
    runner: Runner<M>,
    commits: Receiver<Commit>,
    handle: machine::Handle<M>,
    look: Look,
    fs: D,
    snap_dir: PathBuf,
    began: Began,
    early: Option<String>,
    _lock: wal::fs::Lock,
}

impl<M: StateMachine, D: Disk + Clone> std::fmt::Debug for Member<M, D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Member").field("cursors", &self.cursors()).finish_non_exhaustive()
    }
}

/// Starts a member on its disk, as a node does. One that joins and is not known to be taken in
/// (`taken_in`: by which cluster, or why it never will be) asks for that first.
///
/// # Errors
///
/// What would keep a node from starting.
pub fn boot<M: StateMachine, D: Disk + Clone>(
    recipe: Recipe<D>,
    machine: M,
    taken_in: Option<Result<u64, Error>>,
) -> Result<Booted<M, D>, Error> {
    let seed = recipe.seed;
    seeded::with(seed, || start(recipe, machine, taken_in))
}

fn start<M: StateMachine, D: Disk + Clone>(
    recipe: Recipe<D>,
    machine: M,
    taken_in: Option<Result<u64, Error>>,
) -> Result<Booted<M, D>, Error> {
    let Recipe { config, fs: disk, now, logger, .. } = recipe;
    let fs: Arc<dyn Fs> = Arc::new(disk.clone());
    let own = config.founders.iter().find(|founder| founder.id == config.id);
    let mut own_url = own.map(|founder| founder.url.clone()).unwrap_or_default();
    let directory = Directory::inspect(Arc::clone(&fs), &config)?;
    let mut joins = None;
    let mut taken_in = taken_in;
    let mut register = |identity: &Identity| {
        taken_in.take().unwrap_or_else(|| {
            joins = Some(*identity);
            Err(Error::Interrupted)
        })
    };
    let opened = directory.open(&config, &mut register, &AtomicBool::new(false), &logger);
    if let Some(identity) = joins {
        return Ok(Booted::Joining(Box::new(Join::new(&identity, own_url))));
    }
    let mut recovered = opened?;
    let ledger = Ledger::new(Arc::new(disk.clone()), recovered.storage.wal());
    recovered.storage.write_down(ledger.clone());
    let began = Began {
        snapshot: recovered.header.index,
        marker: recovered.storage.wal().marker().map_or(0, |marker| marker.index),
    };
    if let Some(member) = recovered.latest.members.get(&config.id) {
        own_url.clone_from(&member.url);
    }
    let gate = open_gate(&fs, &config, &recovered)?;
    let (inbox_tx, inbox) = crossbeam_channel::unbounded();
    let snap_dir = directory::snap_dir(&config);
    let (cluster, segment_bytes) = (recovered.identity.cluster, config.wal_segment_bytes);
    let sinks = Arc::new(Sinks::new(Arc::clone(&fs), snap_dir.clone(), cluster, segment_bytes));
    let transport =
        Stepped::new(settings(&config, own_url), Arc::clone(&gate), sinks, inbox_tx, ledger);
    transport.set_peers(&peers(&recovered.latest, &config));
    let shared = first_status(&config, &recovered);
    let (space, directory) = (Arc::clone(&shared.space), config.data_dir.clone());
    let mut look = Look { fs: Arc::clone(&fs), directory, space, logger: logger.clone() };
    look.look();
    let (captured_tx, captured) = crossbeam_channel::bounded(1);
    let (syncs_tx, syncs) = crossbeam_channel::unbounded();
    let (done, done_rx) = crossbeam_channel::unbounded();
    let tasks = Waiting::default();
    let around = Around {
        fs,
        gate,
        carrier: transport.clone(),
        chores: tasks.clone(),
        shared,
        inbox,
        done: done_rx,
        captured: captured_tx,
        syncs: syncs_tx,
        nonce: u64::from_le_bytes(crate::identity::random()),
        seed: u64::from_le_bytes(crate::identity::random()),
        now,
    };
    let (mut event_loop, channels, lock) = Loop::new(config, recovered, around, &logger)?;
    // What a life is like must not depend on how long a sync took by the wall's clock: a crash state
    // of a busy machine could not be built again.
    event_loop.pretend_slow(false);
    Ok(Booted::Running(Box::new(Member {
        event_loop,
        transport,
        tasks,
        captured,
        syncs,
        done,
        runner: Runner::new(machine, channels.applied),
        commits: channels.commits,
        handle: machine::Handle::new(channels.handle),
        look,
        fs: disk,
        snap_dir,
        began,
        early: None,
        _lock: lock,
    })))
}

impl<M: StateMachine, D: Disk + Clone> Member<M, D> {
    /// The way in for its clients. Whatever waits without blocking does; blocking calls would wait
    /// for ever.
    #[must_use]
    pub fn handle(&self) -> &machine::Handle<M> {
        &self.handle
    }

    /// Its disk.
    #[must_use]
    pub fn disk(&self) -> &D {
        &self.fs
    }

    /// What it went on from.
    #[must_use]
    pub fn began(&self) -> Began {
        self.began
    }

    /// When it begins a turn, on its own clock, if nothing happens before: its next tick, or
    /// something that it put off.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        self.event_loop.deadline()
    }

    /// Whether a node would begin a turn now, without waiting for that.
    #[must_use]
    pub fn is_ready(&self, now: Instant) -> bool {
        self.event_loop.is_ready(now)
    }

    /// Has it take its disk for slow, or for quick as at its start, from now on: on a slow one another
    /// thread syncs what a leader saves, as a chore.
    pub fn pretend_slow(&mut self, is_slow: bool) {
        self.event_loop.pretend_slow(is_slow);
    }

    /// Has it hold and move, from now on, a `divisor`th of what a member would: in memory, on the commit
    /// channel, and from its disk in a turn.
    pub fn shrink_bounds(&mut self, divisor: u64) {
        self.event_loop.shrink_bounds(divisor);
    }

    /// One turn of the loop. `Some`: it was the last, and the member has ended so.
    pub fn turn(&mut self, now: Instant) -> Option<Result<(), Error>> {
        self.transport.begin_turn();
        let result = match self.event_loop.turn(now) {
            Ok(Turn::Next) => None,
            Ok(Turn::Last) => Some(self.event_loop.close()),
            Err(error) => Some(Err(error)),
        };
        if self.early.is_none() {
            let left = self.transport.left();
            self.early = left.iter().find_map(|left| self.dated(left).1.missing(&left.held));
        }
        result.map(|result| self.event_loop.conclude(result))
    }

    /// The first promise that left before it was on the disk, if one ever did (N2).
    #[must_use]
    pub fn early_promise(&self) -> Option<&str> {
        self.early.as_deref()
    }

    /// Whether it was told to stop, or stops for a reason of its own.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.event_loop.is_stopping()
    }

    /// What the messages of the last turn say is on its disk.
    #[must_use]
    pub fn promises(&self) -> Vec<Promise> {
        self.dated_promises().into_iter().map(|(_, promise)| promise).collect()
    }

    /// The same, each with how many syncs the disk had done when it left.
    #[must_use]
    pub fn dated_promises(&self) -> Vec<(u64, Promise)> {
        self.transport.left().iter().map(|left| self.dated(left)).collect()
    }

    fn dated(&self, left: &Left) -> (u64, Promise) {
        let Left { promise, n_syncs, .. } = *left;
        let entry_term =
            promise.index.and_then(|index| self.event_loop.core().term_in(promise.term, index));
        (n_syncs, Promise { entry_term, ..promise })
    }

    /// How many items wait for the applier.
    #[must_use]
    pub fn n_commits(&self) -> usize {
        self.commits.len()
    }

    /// One turn of the applier, on at most `most` items; gives what it took.
    ///
    /// # Errors
    ///
    /// The machine cannot go on.
    pub fn apply(&mut self, most: usize) -> Result<Vec<Consumed>, machine::Error> {
        let Self { runner, commits, .. } = self;
        let mut consumed = Vec::new();
        if commits.is_empty() {
            return Ok(consumed);
        }
        runner.take_all(commits.try_iter().take(most).inspect(|commit| {
            consumed.push(match commit {
                Commit::Restore(restore) => {
                    Consumed::Restored { index: restore.index, term: restore.term }
                }
                Commit::Entries(entries) => Consumed::Applied {
                    last_index: entries.last_index,
                    last_term: entries.last_term,
                    items: (entries.items.iter())
                        .map(|item| (item.index, item.term, fingerprint(&item.data)))
                        .collect(),
                },
                Commit::Snapshot(request) => Consumed::Captured { index: request.index },
            });
        }))?;
        Ok(consumed)
    }

    /// What the applier owns.
    #[must_use]
    pub fn machine(&self) -> &M {
        self.runner.machine()
    }

    /// Whether a batch waits for another thread than the loop to sync it: the next chore.
    #[must_use]
    pub fn has_unsynced(&self) -> bool {
        !self.syncs.is_empty()
    }

    /// How many chores wait for the disk's threads.
    #[must_use]
    pub fn n_chores(&self) -> usize {
        self.tasks.queue().len() + self.syncs.len()
    }

    /// Does the next of them. Whether that was the sync of a batch for which the loop had not waited.
    pub fn do_chore(&mut self) -> bool {
        if let Ok(written) = self.syncs.try_recv() {
            let waited = written.has_ended();
            // The loop may have ended: then nobody waits for it.
            self.done.send(sync_written(&written)).ok();
            return !waited;
        }
        let task = self.tasks.queue().pop_front();
        if let Some(task) = task {
            // As above.
            self.done.send(task.run(&self.fs)).ok();
        }
        false
    }

    /// Whether a captured state waits for its writer.
    #[must_use]
    pub fn has_captured(&self) -> bool {
        !self.captured.is_empty()
    }

    /// Writes the captured state that waits.
    pub fn write_captured(&mut self) {
        if let Ok(captured) = self.captured.try_recv() {
            let fs: Arc<dyn Fs> = Arc::new(self.fs.clone());
            // As above.
            self.done.send(write_captured(&fs, &self.snap_dir, captured)).ok();
        }
    }

    /// Looks how much of its disk is free.
    pub fn look_at_disk(&mut self) {
        self.look.look();
    }

    /// How far it has come.
    #[must_use]
    pub fn cursors(&self) -> Cursors {
        let shut_out = self.transport.n_removed();
        Cursors { shut_out, ..self.event_loop.core().cursors() }
    }

    /// Term and [`fingerprint`] of an entry of its log; `None` when it has none, or not any more.
    #[must_use]
    pub fn entry(&self, index: u64) -> Option<(u64, u64)> {
        self.event_loop.core().entry(index)
    }

    /// The member that an entry of its log removes, if it removes one.
    #[must_use]
    pub fn removal(&self, index: u64) -> Option<u64> {
        self.event_loop.core().removal(index)
    }

    /// Its address book.
    #[must_use]
    pub fn book(&self) -> &Book {
        self.event_loop.core().book()
    }

    /// The voters and the learners of raft's own configuration, ascending.
    #[must_use]
    pub fn configuration(&self) -> (Vec<u64>, Vec<u64>) {
        self.event_loop.core().configuration()
    }

    /// Whom it dials, and where.
    #[must_use]
    pub fn dialled(&self) -> Vec<(u64, String)> {
        self.transport.dialled()
    }

    /// Whom it has met, and under which incarnation.
    #[must_use]
    pub fn pins(&self) -> BTreeMap<u64, u128> {
        self.transport.pins()
    }

    /// What it states to another.
    #[must_use]
    pub fn hello(&self, to: u64) -> Hello {
        Hello(self.transport.head(to))
    }

    /// Judges what another states; answers.
    ///
    /// # Errors
    ///
    /// What the other is told.
    pub fn admit(&self, hello: &Hello) -> Result<Hello, Refused> {
        self.transport.admit(&hello.0).map(Hello).map_err(Refused::from)
    }

    /// A stream of one that was admitted is open here.
    pub fn accepted(&self, hello: &Hello) {
        self.transport.accepted(&hello.0);
    }

    /// Another has answered: judges that, and gives the stream that is open now.
    ///
    /// # Errors
    ///
    /// Why there is none.
    pub fn opened(
        &self,
        to: u64,
        lane: Lane,
        answer: Result<Hello, Refused>,
    ) -> Result<u64, String> {
        let answer = answer.map(|hello| hello.0).map_err(|refused| refused.head);
        let opened = self.transport.opened(to, lane.into(), answer);
        opened.map_err(|rejected| rejected.to_string())
    }

    /// A stream of this member's broke.
    pub fn broke(&self, to: u64, lane: Lane, stream: u64) {
        self.transport.broke(to, lane.into(), Some(stream));
    }

    /// The chunks of about `budget` bytes that go onto a stream now, each of them one frame.
    /// `None`: the stream is not open any more.
    #[must_use]
    pub fn take(&self, to: u64, lane: Lane, stream: u64, budget: usize) -> Option<Vec<Bytes>> {
        self.transport.take(to, lane.into(), stream, budget)
    }

    /// Takes a chunk off a stream that it has accepted.
    ///
    /// # Errors
    ///
    /// Why it ends the stream.
    pub fn deliver(&self, hello: &Hello, chunk: Bytes) -> Result<(), String> {
        self.transport.deliver(&hello.0, chunk)
    }

    /// Whether it would still admit one that it has a stream with.
    #[must_use]
    pub fn still_admits(&self, hello: &Hello) -> bool {
        self.transport.turned_against(&hello.0).is_none()
    }

    /// Breaks its own streams to those whom it would not talk to any more.
    pub fn turn_away(&self) {
        self.transport.turn_away();
    }

    /// Forgets those whom it only dials because they once dialled it; called once in an election
    /// timeout, with who has a stream open here.
    pub fn see_guests_off(&self, is_open: &dyn Fn(u64) -> bool) {
        self.transport.see_guests_off(is_open);
    }

    /// What leaves on no stream, since the last call.
    #[must_use]
    pub fn departures(&self) -> Vec<Departure> {
        self.transport.take_departures().into_iter().map(Departure::from).collect()
    }

    /// What became of a snapshot that it sent.
    pub fn snapshot_reported(&self, to: u64, result: Result<(), String>) {
        self.transport.reported(to, result);
    }

    /// What became of a call that it made. An error says whether the call may have been taken.
    pub fn call_answered(&self, tag: u64, answer: Result<Bytes, (bool, String)>) {
        self.transport.answered(tag, call_result(answer));
    }

    /// Who answers at the URL that it asked about: another member, or nobody.
    pub fn probe_answered(&self, tag: u64, by: Option<&Self>) {
        let result = by.map_or(ProbeResult::Nobody, |by| by.transport.identity());
        self.transport.probed(tag, result);
    }

    /// Takes the call of a member that was admitted.
    #[must_use]
    pub fn called(&self, hello: &Hello, body: Bytes) -> Answering {
        Answering(self.transport.called(hello.0.from, body, None))
    }

    /// Takes the call of one that wants to join; gives the cluster with it.
    ///
    /// # Errors
    ///
    /// What the other is told.
    pub fn asked_to_join(&self, join: &Join) -> Result<(u64, Answering), Refused> {
        let head = &join.hello().0;
        self.transport.admit_joining(head)?;
        let answer = self.transport.called(head.from, join.body(), Some(head.incarnation));
        Ok((self.transport.head(head.from).cluster, Answering(answer)))
    }

    /// Begins to receive a snapshot of one that was admitted.
    ///
    /// # Errors
    ///
    /// Why not now.
    pub fn receive_snapshot(
        &self,
        hello: &Hello,
        (len, checksum): (u64, u64),
    ) -> Result<SnapshotIn, String> {
        self.transport.receive(hello.0.from, len, checksum).map(SnapshotIn)
    }
}
