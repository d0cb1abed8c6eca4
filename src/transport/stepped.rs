//! The transport of a member that is stepped by hand: the production's gate, heads, queues and
//! frames, without a socket, a task or a clock. What a task does there is a method here, and whoever
//! simulates the network decides when it happens.
//!
//! Refuses to lose anything by itself: a stream that breaks, a call that gets lost and a transfer
//! that ends early are said so from outside, and the node hears what it would hear from sockets.
//! What it has not: the bounds on strangers' streams and calls, the pace of a transfer, and the
//! search for a member that moved while nobody wrote it down.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use crossbeam_channel::Sender;
use protobuf::Message as _;
use raft::eraftpb::{Message, MessageType};

use super::call::{CallReply, CallResult};
use super::frame::{Decoder, Encoded, Frame};
use super::gate::{Gate, Rejected};
use super::head::{Head, HeadRefusal};
use super::queue::{Lane, Queue, Queued, Taken};
use super::snapshot::{MAX_RECEIVING, SnapshotSink, SnapshotSinks, SnapshotSource};
use super::{
    Carrier, GUEST_TIMEOUTS, Inbound, MAX_GUESTS, PeerStatus, Permit, ProbeResult, Settings, lock,
};
use crate::sim::{Held, Ledger, Promise};
use crate::{Link, Transfer};

/// Clones are the same transport.
#[derive(Clone)]
pub(crate) struct Stepped(Arc<Inner>);

struct Inner {
    ledger: Ledger,
    settings: Settings,
    gate: Arc<Gate>,
    sinks: Arc<dyn SnapshotSinks>,
    inbox: Sender<Inbound>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    peers: BTreeMap<u64, Dialled>,
    last_stream: u64,
    /// Snapshots, calls and probes that nobody has taken up yet.
    departures: Vec<Departure>,
    /// Whom a snapshot is on its way to, and from.
    sending: BTreeSet<u64>,
    receiving: BTreeSet<u64>,
    /// What left in this turn.
    left: Vec<Left>,
}

/// A message that left.
#[derive(Clone, Copy)]
pub(crate) struct Left {
    /// What it promises; the term of an acknowledged entry is not known here.
    pub(crate) promise: Promise,
    /// How often the disk had synced.
    pub(crate) n_syncs: u64,
    /// What was on it.
    pub(crate) held: Held,
}

/// What leaves on no stream.
pub(crate) enum Departure {
    Snapshot { to: u64, message: Message, source: Box<dyn SnapshotSource> },
    Call { to: u64, tag: u64, body: Bytes, deadline: std::time::Instant },
    Probe { url: String, tag: u64 },
}

/// A member that is dialled.
struct Dialled {
    url: String,
    /// In the order of [`Lane::ALL`].
    lanes: [Line; 2],
    /// Of one that the book does not name: for how many election timeouts it has had no stream
    /// open here.
    guest: Option<u32>,
    /// The refusal that the node was told of last.
    rejected: Option<Rejected>,
}

struct Line {
    queue: Queue,
    /// The stream that is open, and the head that answered it.
    stream: Option<(u64, Head)>,
}

impl Dialled {
    fn new(url: &str, bulk_queue_bytes: u64) -> Self {
        let line = |lane| Line { queue: Queue::new(lane, bulk_queue_bytes), stream: None };
        Self { url: url.into(), lanes: Lane::ALL.map(line), guest: None, rejected: None }
    }

    fn line(&mut self, lane: Lane) -> &mut Line {
        match lane {
            Lane::Bulk => &mut self.lanes[0],
            Lane::Control => &mut self.lanes[1],
        }
    }
}

impl Carrier for Stepped {
    fn send(&self, to: u64, frame: Frame) {
        let unsent = frame.attempt();
        let Some(lane) = Lane::of(&frame) else { return };
        let pushed = {
            let mut state = lock(&self.0.state);
            if let Frame::Raft(message) = &frame {
                self.note(&mut state, to, message);
            }
            state.peers.get_mut(&to).map(|dialled| dialled.line(lane).queue.push(frame))
        };
        let (unreachable, unsent) =
            pushed.map_or((false, unsent), |pushed| (pushed.unreachable, pushed.unsent));
        if unreachable {
            self.tell(Inbound::Unreachable { peer: to });
        }
        if let Some(attempt) = unsent {
            self.tell(Inbound::Unsent { attempt });
        }
    }

    fn set_peers(&self, peers: &[(u64, String)]) {
        let mut gone = Vec::new();
        {
            let mut state = lock(&self.0.state);
            for (id, old) in &mut state.peers {
                let named = peers.iter().find(|(other, _)| other == id);
                if !named.map_or(old.guest.is_some(), |(_, url)| *url == old.url) {
                    gone.push(*id);
                }
            }
        }
        gone.into_iter().for_each(|id| self.forget(id));
        let mut state = lock(&self.0.state);
        for (id, url) in peers {
            if *id == self.0.gate.id() {
                continue;
            }
            let bulk_queue_bytes = self.0.settings.bulk_queue_bytes;
            let known = state.peers.entry(*id);
            known.or_insert_with(|| Dialled::new(url, bulk_queue_bytes)).guest = None;
        }
    }

    fn send_snapshot(&self, to: u64, message: Message, source: Box<dyn SnapshotSource>) {
        let refused = {
            let mut state = lock(&self.0.state);
            self.note(&mut state, to, &message);
            if !state.peers.contains_key(&to) {
                Some("there is no such member")
            } else if !state.sending.insert(to) {
                Some("another snapshot is on its way to the same peer")
            } else {
                state.departures.push(Departure::Snapshot { to, message, source });
                return;
            }
        };
        if let Some(why) = refused {
            self.tell(Inbound::SnapshotReport { to, result: Err(why.into()) });
        }
    }

    fn transfers(&self) -> (Vec<Transfer>, Vec<Transfer>) {
        (Vec::new(), Vec::new())
    }

    fn call(&self, to: u64, tag: u64, body: Bytes, deadline: std::time::Instant) {
        if lock(&self.0.state).peers.contains_key(&to) {
            lock(&self.0.state).departures.push(Departure::Call { to, tag, body, deadline });
        } else {
            self.answered(tag, CallResult::NotSent("there is no such member".into()));
        }
    }

    fn probe(&self, url: &str, tag: u64) {
        lock(&self.0.state).departures.push(Departure::Probe { url: url.into(), tag });
    }

    fn peers(&self) -> Vec<PeerStatus> {
        let state = lock(&self.0.state);
        let named = state.peers.iter().filter(|(_, dialled)| dialled.guest.is_none());
        let status = |(id, dialled): (&u64, &Dialled)| {
            let connected = dialled.lanes.iter().all(|line| line.stream.is_some());
            let link = Link { connected, ..Link::default() };
            PeerStatus { id: *id, url: dialled.url.clone(), link, last_error: None }
        };
        named.map(status).collect()
    }
}

impl Stepped {
    pub(crate) fn new(
        settings: Settings,
        gate: Arc<Gate>,
        sinks: Arc<dyn SnapshotSinks>,
        inbox: Sender<Inbound>,
        ledger: Ledger,
    ) -> Self {
        Self(Arc::new(Inner { ledger, settings, gate, sinks, inbox, state: Mutex::default() }))
    }

    fn tell(&self, inbound: Inbound) {
        // The loop may have ended: then there is nobody to tell.
        self.0.inbox.send(inbound).ok();
    }

    /// From here on is a new turn.
    pub(crate) fn begin_turn(&self) {
        lock(&self.0.state).left.clear();
    }

    /// What has left in this turn.
    pub(crate) fn left(&self) -> Vec<Left> {
        lock(&self.0.state).left.clone()
    }

    fn note(&self, state: &mut State, to: u64, message: &Message) {
        if let Some(promise) = promise(to, message) {
            let (n_syncs, held) = (self.0.ledger.n_syncs(), self.0.ledger.held(&promise));
            state.left.push(Left { promise, n_syncs, held });
        }
    }

    /// How many removed members the gate knows.
    pub(crate) fn n_removed(&self) -> usize {
        self.0.gate.n_removed()
    }

    /// Whom the gate has pinned.
    pub(crate) fn pins(&self) -> BTreeMap<u64, u128> {
        self.0.gate.pins()
    }

    /// Whom this member dials, and where.
    pub(crate) fn dialled(&self) -> Vec<(u64, String)> {
        let state = lock(&self.0.state);
        state.peers.iter().map(|(id, dialled)| (*id, dialled.url.clone())).collect()
    }

    /// Our head towards a member.
    pub(crate) fn head(&self, to: u64) -> Head {
        let Settings { peer_url, client_url, .. } = &self.0.settings;
        let claim = self.0.gate.claim();
        Head {
            cluster: claim.cluster,
            from: claim.id,
            to,
            incarnation: claim.incarnation,
            pins: self.0.gate.pins_for(to),
            peer_url: peer_url.clone(),
            client_url: client_url.clone(),
        }
    }

    fn met(&self, head: &Head) {
        let (incarnation, client_url) = (head.incarnation, head.client_url.clone());
        self.tell(Inbound::Met { peer: head.from, incarnation, client_url });
    }

    /// Judges the head of a request, as the listener does; gives ours.
    pub(crate) fn admit(&self, head: &Head) -> Result<Head, HeadRefusal> {
        self.0.gate.admit_now(head, None).map_err(|rejected| {
            if matches!(rejected, Rejected::Us(_)) {
                self.tell(rejected.clone().told(head.from));
            }
            rejected.answer()
        })?;
        Ok(self.head(head.from))
    }

    /// A stream whose head was admitted is accepted here.
    pub(crate) fn accepted(&self, head: &Head) {
        self.met(head);
        let mut state = lock(&self.0.state);
        let guests = state.peers.values().filter(|peer| peer.guest.is_some()).count();
        if !state.peers.contains_key(&head.from) && guests < MAX_GUESTS {
            let mut guest = Dialled::new(&head.peer_url, self.0.settings.bulk_queue_bytes);
            guest.guest = Some(0);
            state.peers.insert(head.from, guest);
        }
    }

    /// Judges the answer to a head of ours: a stream is open now, and this is its number.
    pub(crate) fn opened(
        &self,
        to: u64,
        lane: Lane,
        answer: Result<Head, HeadRefusal>,
    ) -> Result<u64, Rejected> {
        let head = match answer {
            Err(refusal) => return self.rejected(to, Rejected::Us(refusal)),
            Ok(head) => head,
        };
        if let Err(rejected) = self.0.gate.admit_now(&head, Some(to)) {
            return self.rejected(to, rejected);
        }
        self.met(&head);
        self.broke(to, lane, None);
        let mut state = lock(&self.0.state);
        state.last_stream += 1;
        let stream = state.last_stream;
        let Some(dialled) = state.peers.get_mut(&to) else { return Ok(0) };
        dialled.rejected = None;
        let line = dialled.line(lane);
        line.queue.open();
        line.stream = Some((stream, head));
        Ok(stream)
    }

    /// Tells the node once of each refusal, not at each attempt.
    fn rejected(&self, to: u64, rejected: Rejected) -> Result<u64, Rejected> {
        let is_news = {
            let mut state = lock(&self.0.state);
            let Some(dialled) = state.peers.get_mut(&to) else { return Err(rejected) };
            let is_news = dialled.rejected.as_ref() != Some(&rejected);
            dialled.rejected = Some(rejected.clone());
            is_news
        };
        if is_news {
            self.tell(rejected.clone().told(to));
        }
        Err(rejected)
    }

    /// A stream of ours broke; `None`: whichever is open.
    pub(crate) fn broke(&self, to: u64, lane: Lane, stream: Option<u64>) {
        let unsent = {
            let mut state = lock(&self.0.state);
            let Some(dialled) = state.peers.get_mut(&to) else { return };
            let line = dialled.line(lane);
            let Some((open, _)) = &line.stream else { return };
            if stream.is_some_and(|stream| stream != *open) {
                return;
            }
            line.stream = None;
            line.queue.close()
        };
        if lane == Lane::Bulk {
            self.tell(Inbound::Unreachable { peer: to });
        }
        for attempt in unsent {
            self.tell(Inbound::Unsent { attempt });
        }
    }

    fn forget(&self, id: u64) {
        Lane::ALL.into_iter().for_each(|lane| self.broke(id, lane, None));
        lock(&self.0.state).peers.remove(&id);
    }

    /// Moves frames of about `budget` bytes onto a stream; `None`: it is not open any more.
    pub(crate) fn take(
        &self,
        to: u64,
        lane: Lane,
        stream: u64,
        budget: usize,
    ) -> Option<Vec<Bytes>> {
        let mut state = lock(&self.0.state);
        let line = state.peers.get_mut(&to)?.line(lane);
        if line.stream.as_ref()?.0 != stream {
            return None;
        }
        let mut taken: Vec<Queued> = Vec::new();
        if line.queue.take(budget, &mut taken) != Taken::Some {
            return Some(Vec::new());
        }
        let encode = |Queued { frame, len }: Queued| {
            let mut encoded = Encoded::default();
            frame.encode(len, &mut encoded).ok().map(|()| encoded.into_bytes())
        };
        Some(taken.into_iter().filter_map(encode).collect())
    }

    /// Takes a chunk of whole frames off a stream that was accepted.
    ///
    /// # Errors
    ///
    /// Why the stream ends.
    pub(crate) fn deliver(&self, head: &Head, mut chunk: Bytes) -> Result<(), String> {
        let mut decoder = Decoder::default();
        while let Some(arrived) = decoder.next(&mut chunk).map_err(|error| error.to_string())? {
            let bytes = u32::try_from(arrived.memory()).unwrap_or(u32::MAX);
            let frame = arrived.decode().map_err(|error| error.to_string())?;
            if let Frame::Raft(message) = &frame
                && (message.from != head.from || message.to != self.0.gate.id())
            {
                return Err("a message from or to somebody else".into());
            }
            let permit = Permit { slot: None, bytes };
            self.tell(Inbound::Frame { from: head.from, frame, permit });
        }
        Ok(())
    }

    /// Why a head that was admitted would not be any more, if it would not.
    pub(crate) fn turned_against(&self, head: &Head) -> Option<Rejected> {
        self.0.gate.judge_now(head).err()
    }

    /// Breaks our own streams whose peers this member does not talk to any more.
    pub(crate) fn turn_away(&self) {
        let mut turned = Vec::new();
        for (id, dialled) in &lock(&self.0.state).peers {
            for (lane, line) in Lane::ALL.into_iter().zip(&dialled.lanes) {
                if let Some((_, head)) = &line.stream
                    && let Err(rejected) = self.0.gate.judge_now(head)
                {
                    turned.push((*id, lane, rejected));
                }
            }
        }
        for (id, lane, rejected) in turned {
            self.rejected(id, rejected).ok();
            self.broke(id, lane, None);
        }
    }

    /// Forgets guests that are gone; called once in an election timeout.
    pub(crate) fn see_guests_off(&self, is_open: &dyn Fn(u64) -> bool) {
        let mut gone = Vec::new();
        for (id, dialled) in &mut lock(&self.0.state).peers {
            let Some(silent) = &mut dialled.guest else { continue };
            *silent = if is_open(*id) { 0 } else { *silent + 1 };
            if *silent >= GUEST_TIMEOUTS || self.0.gate.is_removed(*id) {
                gone.push(*id);
            }
        }
        gone.into_iter().for_each(|id| self.forget(id));
    }

    /// Snapshots, calls and probes since the last call.
    pub(crate) fn take_departures(&self) -> Vec<Departure> {
        let mut state = lock(&self.0.state);
        if state.departures.is_empty() { Vec::new() } else { std::mem::take(&mut state.departures) }
    }

    /// What became of a snapshot.
    pub(crate) fn reported(&self, to: u64, result: Result<(), String>) {
        lock(&self.0.state).sending.remove(&to);
        self.tell(Inbound::SnapshotReport { to, result });
    }

    /// What became of a call.
    pub(crate) fn answered(&self, tag: u64, result: CallResult) {
        self.tell(Inbound::Answered { tag, result });
    }

    /// What became of a probe.
    pub(crate) fn probed(&self, tag: u64, result: ProbeResult) {
        self.tell(Inbound::Probed { tag, result });
    }

    /// Who we are, for anyone who asks.
    pub(crate) fn identity(&self) -> ProbeResult {
        let claim = self.0.gate.claim();
        let (cluster, id, incarnation) = (claim.cluster, claim.id, claim.incarnation);
        ProbeResult::Member { cluster, id, incarnation }
    }

    /// Takes a member's call, or that of one who wants to join.
    pub(crate) fn called(&self, from: u64, body: Bytes, joining: Option<u128>) -> Answer {
        let (reply, answer) = tokio::sync::oneshot::channel();
        self.tell(Inbound::Call { from, body, joining, reply: CallReply::new(reply) });
        Answer(answer)
    }

    /// Judges the head of one who wants to join.
    pub(crate) fn admit_joining(&self, head: &Head) -> Result<(), HeadRefusal> {
        self.0.gate.admit_joining_now(head)
    }

    /// Begins to receive a snapshot from a member whose head was admitted.
    pub(crate) fn receive(&self, from: u64, len: u64, checksum: u64) -> Result<Receiving, String> {
        let max = if self.0.gate.is_member(from) { MAX_RECEIVING } else { MAX_RECEIVING - 1 };
        {
            let mut state = lock(&self.0.state);
            if state.receiving.len() >= max || !state.receiving.insert(from) {
                return Err("a snapshot of the same sender, or too many, are being received".into());
            }
        }
        let mut receiving = Receiving { transport: self.clone(), from, sink: None };
        let sink = self.0.sinks.begin(from, len, checksum);
        receiving.sink = Some(sink.map_err(|error| error.to_string())?);
        Ok(receiving)
    }
}

/// A message as a stream carries it.
pub(crate) fn chunk(message: Message) -> Option<Bytes> {
    encode(&Frame::Raft(message))
}

/// A frame as a stream carries it.
pub(crate) fn encode(frame: &Frame) -> Option<Bytes> {
    let mut encoded = Encoded::default();
    frame.encode(frame.payload_len(), &mut encoded).ok()?;
    Some(encoded.into_bytes())
}

/// Decodes the frames of a chunk; gives how many entries they bring.
///
/// # Errors
///
/// What is wrong with them.
pub(crate) fn decode(chunk: &mut Bytes) -> Result<usize, String> {
    let (mut decoder, mut n_entries) = (Decoder::default(), 0);
    while let Some(arrived) = decoder.next(chunk).map_err(|error| error.to_string())? {
        if let Frame::Raft(message) = arrived.decode().map_err(|error| error.to_string())? {
            n_entries += message.entries.len();
        }
    }
    Ok(n_entries)
}

/// What a message says that its sender has on disk.
fn promise(to: u64, message: &Message) -> Option<Promise> {
    let (term, accepts) = (message.term, !message.reject);
    let (vote, index) = match message.get_msg_type() {
        MessageType::MsgRequestVoteResponse if accepts => (Some(to), None),
        MessageType::MsgRequestVote => (Some(message.from), None),
        MessageType::MsgAppendResponse if accepts => (None, Some(message.index)),
        // Those of a pre-vote speak of a term that nobody has.
        MessageType::MsgRequestPreVote | MessageType::MsgRequestPreVoteResponse => return None,
        _ => (None, None),
    };
    Some(Promise { to, term, vote, index, entry_term: None })
}

/// A snapshot that is being received. Dropping it abandons it.
pub(crate) struct Receiving {
    transport: Stepped,
    from: u64,
    sink: Option<Box<dyn SnapshotSink>>,
}

impl Receiving {
    /// Takes the next bytes.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.sink.as_mut().map_or(Ok(()), |sink| sink.write(bytes))
    }

    /// All bytes were written: the node is to take it. The answer comes later.
    pub(crate) fn finish(mut self, message: &[u8]) -> Result<Taking, String> {
        let message = Message::parse_from_bytes(message).map_err(|error| error.to_string())?;
        let Some(sink) = self.sink.take() else { return Err("it has ended".into()) };
        let received = sink.finish()?;
        let (reply, answer) = tokio::sync::oneshot::channel();
        self.transport.tell(Inbound::Snapshot { message: Box::new(message), received, reply });
        Ok(Taking { answer, _place: self })
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        drop(self.sink.take());
        lock(&self.transport.0.state).receiving.remove(&self.from);
    }
}

/// A snapshot that the node is taking.
pub(crate) struct Taking {
    answer: tokio::sync::oneshot::Receiver<Result<(), String>>,
    _place: Receiving,
}

impl Taking {
    /// What the node says, if it has said it.
    pub(crate) fn try_answer(&mut self) -> Option<Result<(), String>> {
        match self.answer.try_recv() {
            Ok(result) => Some(result),
            Err(tokio::sync::oneshot::error::TryRecvError::Empty) => None,
            Err(tokio::sync::oneshot::error::TryRecvError::Closed) => {
                Some(Err("this member is stopping".into()))
            }
        }
    }
}

/// What a node will say to a call.
pub(crate) struct Answer(tokio::sync::oneshot::Receiver<Bytes>);

impl Answer {
    /// The answer, if it is there; an error: it never will be.
    pub(crate) fn try_answer(&mut self) -> Option<Result<Bytes, ()>> {
        match self.0.try_recv() {
            Ok(answer) => Some(Ok(answer)),
            Err(tokio::sync::oneshot::error::TryRecvError::Empty) => None,
            Err(tokio::sync::oneshot::error::TryRecvError::Closed) => Some(Err(())),
        }
    }
}
