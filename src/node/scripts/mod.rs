//! Scripts over stepped cores: members, their disks and the network between them in one thread,
//! where nothing happens that the script does not say.

mod chance;
mod changes;
mod disks;
mod forgeries;
mod leading;
mod losses;
mod outcomes;
mod pace;
mod reads;
mod saves;
mod snapshots;
mod stages;
mod writes;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::Read as _;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossbeam_channel::Receiver;
use raft::eraftpb::{Message, MessageType};
use wal::fs::{Fault, Fs, Loss, MemFs, Op};

use super::core::{Ask, Core, PATIENCE, Parts, Sending, sync_written, write_captured};
use super::first_restore;
use crate::channel::{self, AppliedCell, Captured, Limits, Request};
use crate::config::SnapshotPolicy;
use crate::directory::{Directory, Recovered};
use crate::key::Attempt;
use crate::membership::{
    Asked, Book, Change, ChangeOptions, ChangeRefusalKind, Changed, Founder, MemberRole,
    parse_cluster,
};
use crate::metrics::Metrics;
use crate::snapshot::{self, Announced, Incoming, Outgoing};
use crate::status::{Role, Shared, Status};
use crate::transport::{CallResult, Frame, MAX_PAYLOAD, ProbeResult, VerdictKind};
use crate::{
    Commit, Config, Consistency, Error, Handle, Outcome, Pending, Read, Refusal, SnapshotTaken,
    Stage, Transferred, Unknown, Verified,
};

const LIMITS: Limits =
    Limits { max_pending: 100_000, max_pending_bytes: 1 << 30, max_entry_bytes: 1 << 20 };

/// The cluster that scripts found.
fn founders() -> Vec<Founder> {
    parse_cluster("http://a:1,http://b:1,http://c:1").unwrap()
}

fn logger() -> slog::Logger {
    slog::Logger::root(slog::Discard, slog::o!())
}

/// What makes a member of a script.
#[derive(Clone)]
struct Recipe {
    founders: Vec<Founder>,
    /// Joins the cluster with this id instead of founding one.
    joins: Option<u64>,
    policy: SnapshotPolicy,
    segment_bytes: u64,
}

impl Recipe {
    fn founder(ids: &[u64]) -> Self {
        let founders = founders().into_iter().filter(|founder| ids.contains(&founder.id));
        let policy = SnapshotPolicy { entries: 0, bytes: 0, ..SnapshotPolicy::default() };
        Self { founders: founders.collect(), joins: None, policy, segment_bytes: 64 << 10 }
    }
}

struct Member {
    fs: MemFs,
    core: Core,
    applied: Arc<AppliedCell>,
    shared: Arc<Shared>,
    captured: Receiver<Captured>,
    incarnation: u128,
    cluster: u64,
    /// What the consumer has applied, in order: index to command.
    log: BTreeMap<u64, Bytes>,
    last_index: u64,
    /// How often the consumer was given a whole state.
    n_restored: u64,
    consumes: bool,
    /// Captured states are written at once.
    writes: bool,
    /// What another thread is to sync is synced at once.
    syncs: bool,
    unsynced: Receiver<wal::Written>,
    _lock: wal::fs::Lock,
}

/// What is on its way between members.
enum Wire {
    Frame(Frame),
    Snapshot(Message, Bytes),
    SnapshotReport(Result<(), String>),
    Call(u64, Asked, ChangeOptions, Instant),
    Answered(u64, CallResult),
}

impl Wire {
    fn attempt(&self) -> Option<Attempt> {
        match self {
            Wire::Frame(frame) => frame.attempt(),
            _ => None,
        }
    }
}

/// Answers to calls, from, to and tag, until they are put on the network.
type Answers = Arc<Mutex<Vec<(u64, u64, u64, Changed)>>>;

struct Cluster {
    members: BTreeMap<u64, Member>,
    recipe: Recipe,
    network: VecDeque<(u64, u64, Wire)>,
    answers: Answers,
    /// Who answers at a URL, for probes.
    answering: BTreeMap<String, ProbeResult>,
    cut: BTreeSet<u64>,
    /// Forwards that a cut kept from being written.
    unwritten: Vec<Attempt>,
    now: Instant,
    /// For as long as anything is put off, nothing else happens after each turn.
    is_hasty: bool,
    seed: u64,
}

fn config(id: u64, recipe: &Recipe) -> Config {
    let mut config = Config::new(id, recipe.founders.clone(), "/data".into());
    config.join = recipe.joins.is_some();
    config.snapshots = recipe.policy;
    config.wal_segment_bytes = recipe.segment_bytes;
    config
}

fn recover(fs: &MemFs, config: &Config, recipe: &Recipe) -> Result<Recovered, Error> {
    let directory = Directory::inspect(Arc::new(fs.clone()), config)?;
    let cluster = recipe.joins.unwrap_or_default();
    directory.open(config, &mut |_| Ok(cluster), &AtomicBool::new(false), &logger())
}

fn boot(id: u64, fs: MemFs, recipe: &Recipe, seed: u64) -> Result<Member, Error> {
    let config = config(id, recipe);
    let found = recover(&fs, &config, recipe)?;
    let applied = Arc::new(AppliedCell::default());
    let restore = first_restore(&found.header, &found.storage, found.snapshot);
    let (captured_tx, captured) = crossbeam_channel::bounded(1);
    let (syncs, unsynced) = crossbeam_channel::unbounded();
    let shared = Arc::new(Shared::new(Status::default()));
    let identity = found.identity;
    let parts = Parts {
        fs: Arc::new(fs.clone()),
        kept: found.kept,
        storage: found.storage,
        cluster: identity.cluster,
        book: found.header.book,
        pins: BTreeMap::new(),
        restore,
        captured: captured_tx,
        syncs,
        metrics: Metrics::new(Arc::new(Shared::new(Status::default()))),
        applied: Arc::clone(&applied),
        space: Arc::clone(&shared.space),
        nonce: seed << 8 | id,
        seed: seed << 8 | id,
    };
    let mut core = Core::new(&config, parts, &logger())?;
    // Whatever a busy machine does to the time that a sync takes.
    core.pretend_slow(false);
    Ok(Member {
        fs,
        core,
        applied,
        shared,
        captured,
        incarnation: identity.incarnation,
        cluster: identity.cluster,
        log: BTreeMap::new(),
        last_index: 0,
        n_restored: 0,
        consumes: true,
        writes: true,
        syncs: true,
        unsynced,
        _lock: found.lock,
    })
}

impl Member {
    /// The consumer: takes what there is.
    fn consume(&mut self) -> Result<(), Error> {
        while let Some(commit) = self.core.next_commit() {
            self.apply(commit);
            self.core.publish_missed()?;
        }
        Ok(())
    }

    /// Checks N3 and N4, applies and answers.
    fn apply(&mut self, commit: Commit) {
        match commit {
            Commit::Restore(restore) => {
                assert!(restore.index >= self.last_index, "N3");
                self.log = read_state(restore.state);
                self.last_index = restore.index;
                self.n_restored += 1;
            }
            Commit::Entries(entries) => {
                assert!(entries.last_index > self.last_index, "N3");
                for item in entries.items {
                    assert!(item.index > self.last_index && item.index <= entries.last_index);
                    self.log.insert(item.index, item.data.clone());
                    item.answer("ok".into());
                }
                self.last_index = entries.last_index;
            }
            Commit::Snapshot(request) => {
                assert_eq!(request.index, self.last_index, "N4");
                let log = self.log.clone();
                request.capture(move |file| write_state(&log, file));
            }
        }
        self.applied.index.store(self.last_index, std::sync::atomic::Ordering::SeqCst);
    }

    /// What the other threads do: chores, and the writing of captured states.
    fn work(&mut self) -> Result<(), Error> {
        while let Some(written) = self.syncs.then(|| self.unsynced.try_recv().ok()).flatten() {
            self.core.done(sync_written(&written))?;
        }
        for task in self.core.take_tasks() {
            let done = task.run(&self.fs);
            self.core.done(done)?;
        }
        if self.writes {
            for captured in self.captured.try_iter().collect::<Vec<_>>() {
                let fs: Arc<dyn Fs> = Arc::new(self.fs.clone());
                let done = write_captured(&fs, Path::new("/data/snap"), captured);
                self.core.done(done)?;
            }
        }
        Ok(())
    }

    /// The file of a snapshot that raft wants to be sent.
    fn file(&self, path: &Path) -> Bytes {
        let file = Outgoing::open(&self.fs, path).unwrap();
        let mut bytes = vec![0; usize::try_from(file.len()).unwrap()];
        let mut done = 0;
        while done < bytes.len() {
            done += file.read_at(done as u64, &mut bytes[done..]).unwrap();
        }
        bytes.into()
    }
}

fn write_state(log: &BTreeMap<u64, Bytes>, file: &mut dyn std::io::Write) -> std::io::Result<()> {
    for (index, data) in log {
        file.write_all(&index.to_le_bytes())?;
        file.write_all(&(data.len() as u64).to_le_bytes())?;
        file.write_all(data)?;
    }
    Ok(())
}

fn read_state(mut state: Box<dyn std::io::Read + Send>) -> BTreeMap<u64, Bytes> {
    let mut bytes = Vec::new();
    state.read_to_end(&mut bytes).unwrap();
    let mut log = BTreeMap::new();
    let mut rest = &bytes[..];
    while let Some((head, tail)) = rest.split_first_chunk::<16>() {
        let [index, length] =
            [0, 8].map(|at| u64::from_le_bytes(head[at..at + 8].try_into().unwrap()));
        let (data, tail) = tail.split_at(usize::try_from(length).unwrap());
        log.insert(index, Bytes::copy_from_slice(data));
        rest = tail;
    }
    log
}

impl Cluster {
    fn new(ids: &[u64], seed: u64) -> Self {
        Self::with(Recipe::founder(ids), seed)
    }

    fn with(recipe: Recipe, seed: u64) -> Self {
        let mut cluster = Self {
            members: BTreeMap::new(),
            network: VecDeque::new(),
            answers: Answers::default(),
            answering: BTreeMap::new(),
            cut: BTreeSet::new(),
            unwritten: Vec::new(),
            now: Instant::now(),
            is_hasty: true,
            seed,
            recipe: recipe.clone(),
        };
        for Founder { id, .. } in &recipe.founders {
            cluster.start(*id, MemFs::new(), &recipe).unwrap();
        }
        cluster
    }

    /// Starts a member on a disk; it and the others meet.
    fn start(&mut self, id: u64, fs: MemFs, recipe: &Recipe) -> Result<(), Error> {
        self.seed += 1;
        let mut member = boot(id, fs, recipe, self.seed)?;
        for (other, met) in &mut self.members {
            met.core.met(id, member.incarnation);
            member.core.met(*other, met.incarnation);
        }
        self.members.insert(id, member);
        Ok(())
    }

    /// Starts a member with an empty disk that was taken in already, or is about to be.
    fn join(&mut self, id: u64) {
        let cluster = self.members.values().next().unwrap().cluster;
        let mut recipe = self.recipe.clone();
        recipe.joins = Some(cluster);
        recipe.founders.push(Founder { id, url: url(id) });
        self.start(id, MemFs::new(), &recipe).unwrap();
    }

    fn member(&mut self, id: u64) -> &mut Member {
        self.members.get_mut(&id).unwrap()
    }

    /// One turn of one member; its messages go to the network.
    fn turn(&mut self, id: u64, tick: bool) -> Result<(), Error> {
        self.step(id, |core, now, send| if tick { core.tick(now, send) } else { Ok(()) })
    }

    /// Something happens to a member, and the rest of a turn follows.
    fn step<T>(
        &mut self,
        id: u64,
        event: impl FnOnce(&mut Core, Instant, super::core::Send<'_>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let (network, cut, now) = (&mut self.network, &self.cut, self.now);
        let later = if self.is_hasty { now + PATIENCE } else { now };
        let unwritten = &mut self.unwritten;
        let member = self.members.get_mut(&id).unwrap();
        let send = &mut |to: u64, frame: Frame| {
            assert!(frame.payload_len() <= MAX_PAYLOAD, "a frame that the transport would drop");
            if !cut.contains(&id) && !cut.contains(&to) {
                network.push_back((id, to, Wire::Frame(frame)));
            } else if let Frame::Forward { .. } = frame {
                unwritten.extend(frame.attempt());
            }
        };
        let result = event(&mut member.core, now, send)?;
        let mut delivered = Vec::new();
        let consumes = member.consumes;
        let finished = member.core.finish_turn(now, send, &mut |core| {
            while let Some(commit) = consumes.then(|| core.next_commit()).flatten() {
                delivered.push(commit);
                core.publish_missed()?;
            }
            Ok(())
        });
        // Also what a member delivered that has ended since.
        delivered.into_iter().for_each(|commit| member.apply(commit));
        finished?;
        if member.consumes {
            member.consume()?;
            member.work()?;
            member.core.finish_turn(later, send, &mut |_| Ok(()))?;
        }
        for Sending { message, path } in member.core.take_sendings() {
            let bytes = member.file(&path);
            network.push_back((id, message.to, Wire::Snapshot(message, bytes)));
        }
        for ask in member.core.take_asks() {
            match ask {
                Ask::Call { to, tag, asked, options, deadline } => {
                    network.push_back((id, to, Wire::Call(tag, asked, options, deadline)));
                }
                Ask::Probe { url, tag } => {
                    let result = self.answering.get(&url).cloned().unwrap_or(ProbeResult::Nobody);
                    member.core.probed(tag, result);
                }
            }
        }
        member.core.check_outgoing();
        member.core.show(&member.shared);
        for (from, to, tag, changed) in self.answers.lock().unwrap().drain(..) {
            let bytes = CallResult::Answer(changed.encode().into());
            network.push_back((from, to, Wire::Answered(tag, bytes)));
        }
        Ok(result)
    }

    fn deliver(&mut self, from: u64, to: u64, wire: Wire) -> Result<(), Error> {
        let is_cut = self.cut.contains(&from) || self.cut.contains(&to);
        if is_cut || !self.members.contains_key(&to) {
            self.lost(from, to, wire);
            return Ok(());
        }
        match wire {
            Wire::Frame(frame) => self.step(to, |core, _, send| core.receive(from, frame, send)),
            Wire::Snapshot(message, bytes) => {
                let result = self.receive_snapshot(from, to, message, &bytes)?;
                self.network.push_back((to, from, Wire::SnapshotReport(result)));
                Ok(())
            }
            Wire::SnapshotReport(result) => {
                self.step(to, |core, _, _| core.snapshot_reported(from, &result))
            }
            Wire::Call(tag, asked, options, deadline) => {
                let answers = Arc::clone(&self.answers);
                let answer = Box::new(move |changed| {
                    answers.lock().unwrap().push((to, from, tag, changed));
                });
                self.step(to, |core, _, _| {
                    core.called(asked, options, deadline, true, answer);
                    Ok(())
                })
            }
            Wire::Answered(tag, result) => self.step(to, |core, _, _| {
                core.answered(tag, result);
                Ok(())
            }),
        }
    }

    /// What the transport says of what did not arrive.
    fn lost(&mut self, from: u64, to: u64, wire: Wire) {
        if let (Wire::SnapshotReport(_), Some(asker)) = (&wire, self.members.get_mut(&to)) {
            asker.core.snapshot_reported(from, &Err("cut".into())).unwrap();
        }
        let Some(sender) = self.members.get_mut(&from) else { return };
        match wire {
            Wire::Snapshot(..) => {
                sender.core.snapshot_reported(to, &Err("cut".into())).unwrap();
            }
            Wire::Call(tag, ..) => sender.core.answered(tag, CallResult::NotSent("cut".into())),
            Wire::Frame(_) | Wire::SnapshotReport(_) | Wire::Answered(..) => {}
        }
    }

    fn receive_snapshot(
        &mut self,
        from: u64,
        to: u64,
        message: Message,
        bytes: &[u8],
    ) -> Result<Result<(), String>, Error> {
        let member = self.members.get_mut(&to).unwrap();
        let fs: Arc<dyn Fs> = Arc::new(member.fs.clone());
        let path = Path::new("/data/snap").join(snapshot::temporary_name(0, from, 1));
        let announced = Announced {
            cluster: member.cluster,
            bytes: bytes.len() as u64,
            checksum: u64::from_le_bytes(*bytes.last_chunk().unwrap()),
        };
        let mut incoming = match Incoming::begin(&fs, &path, announced) {
            Ok(incoming) => incoming,
            Err(error) => return Ok(Err(error.to_string())),
        };
        let received = (incoming.write(bytes).map_err(|error| error.to_string()))
            .and_then(|()| incoming.finish().map_err(|error| error.to_string()));
        match received {
            Ok(received) => {
                self.step(to, |core, _, send| core.receive_snapshot(message, received, send))
            }
            Err(why) => Ok(Err(why)),
        }
    }

    /// Delivers everything until nothing is under way.
    fn settle(&mut self) {
        for id in self.members.keys().copied().collect::<Vec<_>>() {
            self.turn(id, false).unwrap();
        }
        while let Some((from, to, wire)) = self.network.pop_front() {
            self.deliver(from, to, wire).unwrap();
        }
    }

    fn tick(&mut self) {
        self.now += Duration::from_millis(10);
        for id in self.members.keys().copied().collect::<Vec<_>>() {
            self.turn(id, true).unwrap();
        }
        self.settle();
    }

    fn ticks(&mut self, n: u64) {
        for _ in 0..n {
            self.tick();
        }
    }

    fn leader(&self) -> Option<u64> {
        let reachable = self.members.iter().filter(|(id, _)| !self.cut.contains(id));
        reachable.filter(|(_, m)| m.core.leads()).map(|(id, _)| *id).max()
    }

    /// Ticks until one of the reachable members leads.
    fn elect(&mut self) -> u64 {
        for _ in 0..2_000 {
            self.tick();
            if let Some(leader) = self.leader() {
                return leader;
            }
        }
        panic!("nobody leads after 2,000 ticks; seed {}", self.seed);
    }

    fn follower(&self) -> u64 {
        let leader = self.leader().unwrap();
        *self.members.keys().find(|id| **id != leader && !self.cut.contains(id)).unwrap()
    }

    fn request(&self) -> (Handle, Receiver<Request>) {
        let (tx, rx) = channel::requests();
        (Handle::new(tx, Arc::new(Shared::new(Status::default())), LIMITS), rx)
    }

    fn deadline(&self) -> Instant {
        self.now + Duration::from_secs(5)
    }

    fn propose(&mut self, id: u64, data: impl Into<Bytes>) -> Pending<Outcome> {
        let (handle, requests) = self.request();
        let pending = handle.propose(data.into(), self.deadline()).unwrap();
        let Ok(Request::Propose(proposal)) = requests.recv() else { panic!("a proposal") };
        self.member(id).core.propose(proposal);
        pending
    }

    /// As [`propose`](Self::propose), traced.
    fn trace(&mut self, id: u64, data: impl Into<Bytes>) -> Pending<Outcome> {
        let (handle, requests) = self.request();
        let pending = handle.propose_traced(data.into(), self.deadline()).unwrap();
        let Ok(Request::Propose(proposal)) = requests.recv() else { panic!("a proposal") };
        self.member(id).core.propose(proposal);
        pending
    }

    /// Proposes and applies `n` commands on a member.
    fn write(&mut self, id: u64, n: u64) {
        for _ in 0..n {
            let pending = self.propose(id, vec![0x55; 64]);
            self.settle();
            applied(pending);
        }
    }

    fn read(&mut self, id: u64, consistency: Consistency) -> Pending<Read> {
        let (handle, requests) = self.request();
        let pending = handle.read(consistency, 0, self.deadline()).unwrap();
        let Ok(Request::Read(request)) = requests.recv() else { panic!("a read") };
        self.member(id).core.read(request);
        pending
    }

    fn barrier(&mut self, id: u64) -> Pending<Outcome<()>> {
        let (handle, requests) = self.request();
        let pending = handle.barrier(self.deadline()).unwrap();
        let Ok(Request::Propose(proposal)) = requests.recv() else { panic!("a proposal") };
        self.member(id).core.propose(proposal);
        pending
    }

    /// Asks a member whether it leads.
    fn verify(&mut self, id: u64) -> Pending<Verified> {
        let (handle, requests) = self.request();
        let pending = handle.verify_leader(self.deadline()).unwrap();
        let Ok(Request::Read(request)) = requests.recv() else { panic!("a read") };
        self.member(id).core.read(request);
        pending
    }

    fn transfer(&mut self, id: u64, to: Option<u64>) -> Pending<Transferred> {
        let (handle, requests) = self.request();
        let pending = handle.transfer(to, self.deadline()).unwrap();
        let Ok(Request::Transfer(request)) = requests.recv() else { panic!("a transfer") };
        self.member(id).core.transfer(request);
        pending
    }

    fn change(&mut self, id: u64, change: Change, options: ChangeOptions) -> Pending<Changed> {
        let (handle, requests) = self.request();
        let pending = handle.change(change, options, self.deadline()).unwrap();
        let Ok(Request::Change(request)) = requests.recv() else { panic!("a change") };
        self.member(id).core.change(request.into());
        pending
    }

    /// Changes the membership through a member, and waits for the answer.
    fn changed(&mut self, id: u64, change: Change) -> Changed {
        let mut pending = self.change(id, change, ChangeOptions::default());
        for _ in 0..600 {
            self.tick();
            if let Some(changed) = pending.try_wait() {
                return changed;
            }
        }
        panic!("no answer within 600 ticks; seed {}", self.seed);
    }

    fn snapshot(&mut self, id: u64) -> Pending<SnapshotTaken> {
        let (handle, requests) = self.request();
        let pending = handle.snapshot(self.deadline()).unwrap();
        let Ok(Request::Snapshot(wish)) = requests.recv() else { panic!("a wish") };
        self.member(id).core.wish_snapshot(wish);
        pending
    }

    /// Ends a member, loses what its disk had not synced, and starts it again.
    fn crash(&mut self, id: u64) {
        let member = self.members.remove(&id).unwrap();
        let survived = member.fs.crash(Loss::Everything);
        drop(member);
        let recipe = self.recipe.clone();
        self.start(id, survived, &recipe).unwrap();
    }

    fn assert_same_logs(&mut self) {
        let logs: BTreeSet<Vec<(u64, Bytes)>> = (self.members.values())
            .map(|member| member.log.clone().into_iter().collect())
            .collect();
        assert_eq!(logs.len(), 1, "members applied different commands");
    }
}

/// Where scripts believe members to be.
fn url(id: u64) -> String {
    format!("http://member-{id}:1")
}

fn applied(pending: Pending<Outcome>) -> u64 {
    match pending.wait_timeout(Duration::ZERO) {
        Some(Outcome::Applied { index, response, .. }) => {
            assert_eq!(&response[..], b"ok");
            index
        }
        other => panic!("not applied: {other:?}"),
    }
}
