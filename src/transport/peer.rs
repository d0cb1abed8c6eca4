//! Our line to one member: two outlets, and a dialler for each that keeps a stream open.
//!
//! A dialler connects, states its head, waits for the peer's, and only then opens its outlet (see
//! [`outlet`](super::outlet)). It writes what the loop left to it, and listens to the peer's echo.
//! Whatever breaks a stream, the answer is the same: forget what waited, tell raft, wait a little,
//! dial again.
//!
//! The address book says where a peer is. But our book may be the stale one: while nobody opens a
//! stream at the book's URL, and the peer has one open to us and says that it is elsewhere, it is
//! looked for there as well. So is one whose URL in the book has changed where it was before: it
//! moves when it is started anew. Its head is judged like any other.
//!
//! Invariants:
//! - P1 No frame is written before the peer's head was checked.
//! - P2 Every break of an open bulk stream is reported as unreachable exactly once.
//! - P3 No wait is unbounded: connecting, the peer's head, its echo and our own writing each have
//!   a limit after which the stream counts as broken.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper::{Method, Request, Response};
use slog::{debug, info};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};

use super::dial::{self, Resolver, chain};
use super::gate::{Gate, Rejected};
use super::head::{Claim, Head};
use super::outlet::{HeadOnly, Outlet, Unwritten};
use super::queue::{Lane, Queue};
use super::{Inbound, PeerStatus, Shared, lock};
use crate::Link;

const FIRST_BACKOFF: Duration = Duration::from_millis(20);
const MAX_BACKOFF: Duration = Duration::from_millis(500);

/// One member as we reach it.
pub(super) struct Peer {
    pub(super) id: u64,
    pub(super) url: String,
    bulk: Outlet,
    control: Outlet,
    line: Mutex<Line>,
    /// Shared by everything that dials the peer; held while its host is looked up.
    resolver: tokio::sync::Mutex<Resolver>,
    /// The peer has just dialled us: it is worth dialling it.
    awake: Notify,
}

/// What is known of the line, for people.
#[derive(Debug, Default)]
struct Line {
    bulk_open: bool,
    control_open: bool,
    /// What was logged last.
    reported: Option<bool>,
    last_error: Option<String>,
    /// The refusal that the node was told of last.
    rejected: Option<Rejected>,
    /// Where the peer says it is, when it last dialled us from elsewhere than the book says, or
    /// where the book had it before.
    elsewhere: Option<String>,
    /// Where the last stream was opened, when that is elsewhere.
    reached_elsewhere: Option<String>,
}

impl Peer {
    pub(super) fn new(id: u64, url: String, bulk_queue_bytes: u64) -> Self {
        Self {
            id,
            url,
            bulk: Outlet::new(Queue::new(Lane::Bulk, bulk_queue_bytes)),
            control: Outlet::new(Queue::new(Lane::Control, bulk_queue_bytes)),
            line: Mutex::new(Line::default()),
            resolver: tokio::sync::Mutex::default(),
            awake: Notify::new(),
        }
    }

    pub(super) fn outlet(&self, lane: Lane) -> &Outlet {
        match lane {
            Lane::Bulk => &self.bulk,
            Lane::Control => &self.control,
        }
    }

    /// The peer dialled us, so it is there: do not wait to dial it.
    pub(super) fn awake(&self, stated_url: &str) {
        lock(&self.line).elsewhere = (stated_url != self.url).then(|| stated_url.to_owned());
        self.awake.notify_waiters();
    }

    /// The book has it elsewhere now: while it has a stream open here, it is sought at `url` too.
    pub(super) fn was_at(&self, url: String) {
        lock(&self.line).elsewhere = Some(url);
    }

    /// Where the peer was reached last, or should be.
    pub(super) fn reached_at(&self) -> String {
        lock(&self.line).reached_elsewhere.clone().unwrap_or_else(|| self.url.clone())
    }

    /// Connects to the peer, within `limit`.
    pub(super) async fn connect(&self, url: &str, limit: Duration) -> Result<TcpStream, String> {
        let connecting = async {
            let addresses = self.resolver.lock().await.resolve(url).await?;
            dial::connect(&addresses, limit).await
        };
        match timeout(limit, connecting).await {
            Ok(connected) => connected.map_err(|error| format!("cannot connect: {error}")),
            Err(_) => Err(format!("cannot connect within {limit:?}")),
        }
    }

    /// Judges the peer's answer.
    pub(super) async fn admit(
        &self,
        gate: &Arc<Gate>,
        response: Response<Incoming>,
    ) -> Result<(Head, Incoming), Rejected> {
        let (parts, body) = response.into_parts();
        if !parts.status.is_success() {
            let by = Claim::parse(&parts.headers).ok();
            let by = by.filter(|by| (by.cluster, by.id) == (gate.claim().cluster, self.id));
            return Err(Rejected::Us(dial::refusal(parts.status, by, body).await));
        }
        let head = gate.admit(&parts.headers, Some(self.id)).await?;
        Ok((head, body))
    }

    pub(super) fn status(&self) -> PeerStatus {
        let mut link = Link::default();
        for outlet in [&self.bulk, &self.control] {
            let queue = outlet.queue();
            let (waiting, taken) = queue.bytes();
            link.queued_bytes += waiting;
            link.sent_bytes += taken;
            link.dropped += queue.dropped();
        }
        let line = lock(&self.line);
        link.connected = line.bulk_open && line.control_open;
        let (url, last_error) = (self.url.clone(), line.last_error.clone());
        PeerStatus { id: self.id, url, link, last_error }
    }

    fn opened(&self, lane: Lane, url: &str, logger: &slog::Logger) {
        let mut line = lock(&self.line);
        line.reached_elsewhere = (url != self.url).then(|| url.to_owned());
        match lane {
            Lane::Bulk => line.bulk_open = true,
            Lane::Control => line.control_open = true,
        }
        debug!(logger, "stream open"; "peer" => self.id, "lane" => lane.name());
        line.rejected = None;
        if line.bulk_open && line.control_open {
            line.last_error = None;
            if line.reported != Some(true) {
                line.reported = Some(true);
                info!(logger, "peer connected"; "peer" => self.id, "url" => url);
            }
        }
    }

    fn closed(&self, lane: Lane, reason: String, logger: &slog::Logger) {
        let mut line = lock(&self.line);
        match lane {
            Lane::Bulk => line.bulk_open = false,
            Lane::Control => line.control_open = false,
        }
        debug!(logger, "no stream"; "peer" => self.id, "lane" => lane.name(), "reason" => &reason);
        if line.reported != Some(false) {
            let dropped = self.bulk.queue().dropped() + self.control.queue().dropped();
            let what =
                if line.reported.is_some() { "peer disconnected" } else { "peer not reached" };
            line.reported = Some(false);
            info!(logger, "{}", what; "peer" => self.id, "url" => &self.url,
                "lane" => lane.name(), "reason" => &reason, "dropped" => dropped);
        }
        line.last_error = Some(reason);
    }
}

/// Keeps one stream open for as long as it runs.
pub(super) struct Dialler {
    peer: Arc<Peer>,
    lane: Lane,
    shared: Arc<Shared>,
}

impl Dialler {
    pub(super) fn new(peer: Arc<Peer>, lane: Lane, shared: Arc<Shared>) -> Self {
        Self { peer, lane, shared }
    }

    pub(super) async fn run(self) {
        let peer = Arc::clone(&self.peer);
        let mut backoff = FIRST_BACKOFF;
        loop {
            // From here on, so that a peer that comes back while an attempt fails is noticed.
            let mut awake = pin!(peer.awake.notified());
            awake.as_mut().enable();
            let started = Instant::now();
            let reason = self.attempt().await;
            if self.outlet().queue().is_ending() {
                return;
            }
            // A stream that is accepted and breaks at once is a failure like any other.
            if started.elapsed() > self.shared.silence() {
                backoff = FIRST_BACKOFF;
            }
            self.peer.closed(self.lane, reason, &self.shared.logger);
            // The first wait is never cut short: two members that wake each other must not spin.
            sleep(jittered(FIRST_BACKOFF)).await;
            if timeout(jittered(backoff) - FIRST_BACKOFF / 2, awake).await.is_ok() {
                backoff = FIRST_BACKOFF;
            } else {
                backoff = (backoff * 2).min(MAX_BACKOFF);
            }
        }
    }

    /// Serves a stream at the book's URL, or where the peer says it is when nobody opens one there.
    async fn attempt(&self) -> String {
        let reason = self.serve_one_stream(&self.peer.url).await;
        let elsewhere = {
            let line = lock(&self.peer.line);
            let opened = match self.lane {
                Lane::Bulk => line.bulk_open,
                Lane::Control => line.control_open,
            };
            line.elsewhere.clone().filter(|_| !opened)
        };
        match elsewhere {
            Some(url) if self.shared.streams.is_open(self.peer.id) => {
                let there = self.serve_one_stream(&url).await;
                format!("{reason}; at {url}: {there}")
            }
            _ => reason,
        }
    }

    /// Connects and serves a stream until it breaks; says why it did.
    async fn serve_one_stream(&self, url: &str) -> String {
        let served = async {
            let stream = self.peer.connect(url, self.shared.settings.election_timeout).await?;
            let socket = Arc::new(stream);
            let path = format!("/raft/stream/{}", self.lane.name());
            let headers = self.shared.head(self.peer.id).to_headers()?;
            let request = dial::request(Method::POST, url, &path, headers, Unwritten)?;
            let head = HeadOnly::new(Arc::clone(&socket));
            dial::converse(head, |sender| self.exchange(sender, request, socket, url)).await
        };
        match served.await {
            Ok(never) => match never {},
            Err(reason) => reason,
        }
    }

    /// States our head, judges the peer's, and watches over the open stream until it breaks.
    async fn exchange(
        &self,
        mut sender: SendRequest<Unwritten>,
        request: Request<Unwritten>,
        socket: Arc<TcpStream>,
        url: &str,
    ) -> Result<Infallible, String> {
        let Shared { gate, .. } = &*self.shared;
        let silence = self.shared.silence();
        let response = match timeout(silence, sender.send_request(request)).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return Err(format!("no answer: {}", chain(&error))),
            Err(_) => return Err(format!("no answer within {silence:?}")),
        };
        let (head, mut echo) = match timeout(silence, self.peer.admit(gate, response)).await {
            Ok(Ok(both)) => both,
            Ok(Err(rejected)) => return Err(self.rejected(rejected)),
            Err(_) => return Err(format!("no whole answer within {silence:?}")),
        };
        self.shared.met(&head);
        let _open = OpenStream::new(self, &socket, url);
        tokio::select! {
            broken = self.watch(&mut echo) => Err(broken),
            broken = self.outlet().feed(&socket) => Err(format!("cannot write: {broken}")),
            rejected = gate.turns_against(&head) => Err(self.rejected(rejected)),
        }
    }

    /// Listens to the echo; says what became of the stream.
    async fn watch(&self, echo: &mut Incoming) -> String {
        let silence = self.shared.silence();
        let outlet = self.outlet();
        let (mut turns, mut moved) = (outlet.queue().progress().0, Instant::now());
        loop {
            match timeout(silence, echo.frame()).await {
                Ok(Some(Ok(_))) => {}
                Ok(Some(Err(error))) => return format!("broken: {}", chain(&error)),
                Ok(None) => return "the peer ended the stream".into(),
                Err(_) => return format!("the peer was silent for {silence:?}"),
            }
            let (turns_now, waits) = outlet.queue().progress();
            if turns_now != turns || !waits {
                (turns, moved) = (turns_now, Instant::now());
            } else if moved.elapsed() > self.stall() {
                return format!("nothing could be written for {:?}", self.stall());
            }
        }
    }

    fn outlet(&self) -> &Outlet {
        self.peer.outlet(self.lane)
    }

    /// How long frames may wait for a stream that takes none. A bulk stream may rightly stand
    /// still while its peer's disk is slow; then a new one would fare no better.
    fn stall(&self) -> Duration {
        match self.lane {
            Lane::Bulk => self.shared.disk_stall(),
            Lane::Control => self.shared.silence(),
        }
    }

    /// Tells the node once of each refusal, not at each attempt.
    fn rejected(&self, rejected: Rejected) -> String {
        let text = rejected.to_string();
        let mut line = lock(&self.peer.line);
        if line.rejected.as_ref() != Some(&rejected) {
            line.rejected = Some(rejected.clone());
            self.shared.tell(rejected.told(self.peer.id));
        }
        text
    }
}

/// Exists while the queue is open. Its end is the one place where a break is accounted for,
/// whatever ended the stream, cancellation included (P2).
struct OpenStream<'a> {
    dialler: &'a Dialler,
}

impl<'a> OpenStream<'a> {
    fn new(dialler: &'a Dialler, socket: &Arc<TcpStream>, url: &str) -> Self {
        dialler.outlet().open(socket, &dialler.shared.logger);
        dialler.peer.opened(dialler.lane, url, &dialler.shared.logger);
        Self { dialler }
    }
}

impl Drop for OpenStream<'_> {
    fn drop(&mut self) {
        let Dialler { peer, lane, shared, .. } = self.dialler;
        let unsent = peer.outlet(*lane).close();
        if *lane == Lane::Bulk {
            shared.tell(Inbound::Unreachable { peer: peer.id });
        }
        for attempt in unsent {
            shared.tell(Inbound::Unsent { attempt });
        }
    }
}

/// Between half of it and all of it, so that members that lost each other together do not dial
/// together for ever.
fn jittered(backoff: Duration) -> Duration {
    // Without randomness the full time is right as well.
    let random = getrandom::u32().unwrap_or(u32::MAX);
    backoff / 2 + (backoff / 2).mul_f64(f64::from(random) / f64::from(u32::MAX))
}
