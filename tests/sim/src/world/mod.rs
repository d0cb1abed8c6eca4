//! Whole members on one thread, among simulated clocks, lines and disks.
//!
//! A world is a queue of events. Each has a time, and what happens then follows from the world's
//! state and its seed: there is no other clock, no other randomness and no thread. A member is the
//! production's, stepped by [`raftnode::sim`]; its state machine is the binary's store.
//!
//! What may go wrong, and what may not, so that what must come right can be said:
//!
//! - B1 What a disk has synced stays there, but for wiped members, and for the newest snapshot of a
//!   member that keeps the one before. What it has not may be lost in any part: by sector, by name.
//! - B2 A member is wiped only while every other member of the book runs and has met it, at most
//!   one until it is removed from the book, and never when fewer than three voters are left.
//! - B3 Everything that ended is started again, unless its member was removed or wiped.
//! - B4 When the weather ends, everything is mended and started. Within [`PATIENCE`] the members of
//!   the book must have one leader, one applied index and one state, and each must serve.
//!
//! Refuses to touch a member's memory, to repeat a frame (no transport does), and to damage a log
//! where it was synced: that it is refused then is the log's own test.

mod calm;
mod churn;
mod faults;
mod host;
mod life;
mod lines;
mod load;
mod machine;
mod network;
mod params;
mod talks;
mod watch;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Instant;

use ::tests::rng::Rng;
use bytes::Bytes;
use raftnode::membership::{Book, Founder};
use raftnode::sim::{Lane, Refused, fingerprint};

use self::churn::Operator;
use self::host::{Host, Process, url};
use self::machine::States;
use self::network::{Key, Network};
use self::params::{Params, SECOND, TICK};
use self::talks::Talks;
use self::watch::{Ears, Watch};
use crate::Violation;
use crate::clients::Clients;
use crate::coverage::{Coverage, Kind};
use crate::run::{Report, Setup, Trace};

pub use self::calm::PATIENCE;
pub use self::machine::Machine;

/// What happens.
#[derive(Debug)]
enum Event {
    /// A member's loop goes round.
    Turn(u64, u64),
    /// Its applier gets on.
    Apply(u64, u64),
    /// Its disk's thread and its writer of snapshots get on.
    Chore(u64, u64),
    /// Chunks arrive on a stream.
    Chunk(Key),
    /// A stream breaks.
    Break(Key, u64),
    /// A member dials another.
    Dial(Key, u64),
    /// A snapshot moves on.
    Piece(u64),
    /// A call, a probe or a request to join is under way.
    Talk(Box<Talk>),
    /// A machine starts its member.
    Start(u64),
    /// Something goes wrong.
    Fault,
    /// Somebody wants another membership.
    Churn,
    /// A client asks.
    Load,
    /// What timers do: silence is noticed, free space is looked at.
    Timers,
}

impl Event {
    /// The only member that it can change; none: it could be any.
    fn member(&self) -> Option<u64> {
        match self {
            Event::Turn(id, _) | Event::Apply(id, _) | Event::Chore(id, _) | Event::Start(id) => {
                Some(*id)
            }
            Event::Chunk((_, to, _)) => Some(*to),
            _ => None,
        }
    }
}

/// What is under way beside the streams.
#[derive(Debug)]
enum Talk {
    Call { from: u64, life: u64, to: u64, tag: u64, body: Bytes },
    CallAnswer { from: u64, life: u64, tag: u64, answer: Result<Bytes, (bool, String)> },
    Probe { from: u64, life: u64, url: String, tag: u64 },
    Join { id: u64, life: u64 },
    JoinAnswer { id: u64, life: u64, cluster: u64, answer: Result<Bytes, Refused> },
    SnapshotReport { from: u64, life: u64, to: u64, result: Result<(), String> },
}

/// An event's place in the queue: time first, then the order in which they were planned.
struct Planned {
    at: u64,
    nth: u64,
    event: Event,
}

impl PartialEq for Planned {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.nth) == (other.at, other.nth)
    }
}

impl Eq for Planned {}

impl PartialOrd for Planned {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Planned {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.nth).cmp(&(other.at, other.nth))
    }
}

/// A world.
struct World {
    setup: Setup,
    params: Params,
    rng: Rng,
    now: u64,
    epoch: Instant,
    queue: BinaryHeap<Reverse<Planned>>,
    n_planned: u64,
    hosts: BTreeMap<u64, Host>,
    network: Network,
    dialling: BTreeSet<Key>,
    talks: Talks,
    operator: Operator,
    clients: Clients,
    states: States,
    watch: Watch,
    last_id: u64,
    is_calm: bool,
    coverage: Coverage,
    trace: Trace,
    hash: u64,
    recovery: Option<u64>,
    ears: Ears,
    logger: slog::Logger,
}

/// Runs a seed. The same setup gives the same report.
///
/// # Errors
///
/// The first rule that is broken.
pub fn run(setup: &Setup, report: &mut Report) -> Result<(), Violation> {
    let mut world = World::new(*setup, std::mem::take(&mut report.trace));
    let result = catch_unwind(AssertUnwindSafe(|| world.run()));
    report.ticks = world.now / TICK;
    report.ops = world.clients.n_ops();
    report.coverage = world.coverage;
    report.fingerprint = world.hash;
    report.recovery = world.recovery;
    if world.trace.is_wanted() {
        report.history = world.clients.history().to_vec();
    }
    result.unwrap_or_else(|panic| resume_unwind(panic))
}

impl World {
    fn new(setup: Setup, trace: Trace) -> Self {
        let mut rng = Rng::new(setup.seed);
        let params = Params::draw(&mut rng);
        let epoch = Instant::now();
        let founders: Vec<Founder> =
            (1..=setup.n_members).map(|id| Founder { id, url: url(id) }).collect();
        let hosts = (1..=setup.n_members)
            .map(|id| (id, Host::new(id, founders.clone(), false, epoch)))
            .collect();
        let ears = Ears::default();
        let logger = if trace.is_wanted() && std::env::var_os("SIM_LOG").is_some() {
            self::watch::logger()
        } else {
            ears.logger()
        };
        Self {
            params,
            rng,
            now: 0,
            epoch,
            queue: BinaryHeap::new(),
            n_planned: 0,
            hosts,
            network: Network::default(),
            dialling: BTreeSet::new(),
            talks: Talks::default(),
            operator: Operator::default(),
            clients: Clients::new(!setup.seed),
            states: States::default(),
            watch: Watch::default(),
            last_id: setup.n_members,
            is_calm: false,
            coverage: Coverage::default(),
            trace,
            hash: setup.seed,
            recovery: None,
            ears,
            logger,
            setup,
        }
    }

    fn run(&mut self) -> Result<(), Violation> {
        let params = self.params.clone();
        self.say(|| format!("{params:?}"));
        for id in self.hosts.keys().copied().collect::<Vec<_>>() {
            let at = self.rng.below(SECOND);
            self.plan(at, Event::Start(id));
        }
        self.plan(SECOND / 10, Event::Timers);
        self.plan(SECOND, Event::Load);
        self.plan(2 * SECOND, Event::Fault);
        self.plan(3 * SECOND, Event::Churn);
        let end = self.setup.ticks * TICK;
        self.until(end)?;
        self.calm()?;
        self.watch.oracle.ended()?;
        self.clients.judge(&self.watch.oracle)
    }

    /// Lets everything happen that happens before then.
    fn until(&mut self, end: u64) -> Result<(), Violation> {
        while let Some(Reverse(planned)) = self.queue.peek()
            && planned.at <= end
        {
            let Some(Reverse(Planned { at, event, .. })) = self.queue.pop() else { break };
            self.now = at;
            let member = event.member();
            self.happen(event)?;
            match member {
                Some(id) => self.observe(id)?,
                None => self.observe_all()?,
            }
        }
        self.now = end;
        Ok(())
    }

    fn observe_all(&mut self) -> Result<(), Violation> {
        let mut next = self.hosts.keys().next().copied();
        while let Some(id) = next {
            self.observe(id)?;
            next = self.hosts.range(id + 1..).next().map(|(id, _)| *id);
        }
        Ok(())
    }

    fn happen(&mut self, event: Event) -> Result<(), Violation> {
        match event {
            Event::Turn(id, life) => self.turn(id, life),
            Event::Apply(id, life) => self.apply(id, life),
            Event::Chore(id, life) => self.chore(id, life),
            Event::Chunk(key) => self.arrive(key),
            Event::Break(key, number) => {
                self.break_stream(key, Some(number));
                Ok(())
            }
            Event::Dial(key, life) => self.dial(key, life),
            Event::Piece(id) => self.piece(id),
            Event::Talk(talk) => self.talk(*talk),
            Event::Start(id) => self.start(id),
            Event::Fault => self.fault(),
            Event::Churn => {
                self.churn();
                Ok(())
            }
            Event::Load => self.load(),
            Event::Timers => self.timers(),
        }
    }

    fn plan(&mut self, at: u64, event: Event) {
        self.n_planned += 1;
        let at = at.max(self.now);
        self.queue.push(Reverse(Planned { at, nth: self.n_planned, event }));
    }

    fn plan_in(&mut self, delay: u64, event: Event) {
        self.plan(self.now + delay, event);
    }

    /// Between two times, both included.
    fn draw(&mut self, least: u64, most: u64) -> u64 {
        least + self.rng.below(most - least + 1)
    }

    /// True so often in a thousand.
    fn chance(&mut self, in_a_thousand: u64) -> bool {
        self.rng.below(1000) < in_a_thousand
    }

    fn pick<T: Copy>(&mut self, choices: &[T]) -> Option<T> {
        let n = choices.len() as u64;
        if n == 0 { None } else { choices.get(self.rng.below(n) as usize).copied() }
    }

    /// How long a message takes.
    fn delay(&mut self) -> u64 {
        let (least, more) = self.params.delay;
        self.draw(least, least + more)
    }

    fn tick(&self) -> u64 {
        self.now / TICK
    }

    fn say(&self, line: impl FnOnce() -> String) {
        self.trace.line(self.tick(), line);
    }

    fn count(&mut self, kind: Kind) {
        self.coverage.count(kind);
    }

    /// Adds to what the run comes to in one number.
    fn mix(&mut self, what: &[u64]) {
        for word in what {
            self.hash = (self.hash.rotate_left(7) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        }
    }

    /// The machines whose member runs.
    fn up(&self) -> Vec<u64> {
        let up = self.hosts.values().filter(|host| matches!(host.process, Process::Up(_)));
        up.map(|host| host.id).collect()
    }

    /// The book of whoever has come furthest.
    fn book(&self) -> Option<&Book> {
        let members = self.hosts.values().filter_map(Host::member);
        members.max_by_key(|member| member.cursors().published).map(|member| member.book())
    }

    /// A machine's seed for something, apart from every other.
    fn seed_of(&self, id: u64, life: u64) -> u64 {
        let words = [self.setup.seed, id, life].map(u64::to_le_bytes).concat();
        fingerprint(&words)
    }
}

/// All lanes between two, in both directions.
fn lanes(one: u64, other: u64) -> [Key; 4] {
    [
        (one, other, Lane::Bulk),
        (one, other, Lane::Control),
        (other, one, Lane::Bulk),
        (other, one, Lane::Control),
    ]
}
