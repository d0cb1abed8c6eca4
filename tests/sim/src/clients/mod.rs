//! Who asks the members, and whether what they were told is true.
//!
//! A few clients ask through the members' own handles, one thing at a time: writes, writes on a
//! condition, removals, txns, linearizable and stale reads, barriers. They have deadlines, give up,
//! and ask again elsewhere under the same idempotency key. Everything is written down in simulated
//! time, and judged twice: at once by what a client can know of one answer, and at the end together
//! with the log, and by the linearizability checker.
//!
//! Clients refuse to look at the members in any other way than a client could.

mod answers;
mod asking;
mod judge;
#[cfg(test)]
mod tests;
mod watch;

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use ::tests::history::Op;
use ::tests::rng::Rng;
use bytes::Bytes;
use raftexample::kvstore::{Answer, Store};
use raftnode::machine::{Handle, StateMachine};
use raftnode::{Outcome, Pending, Refusal};

use self::answers::Answers;
use self::asking::{Asking, Ended, What};
use self::judge::Written;
pub use self::judge::picture;
use self::watch::Watches;
use crate::Violation;
use crate::coverage::Coverage;
use crate::oracle::{Oracle, rules};

/// How long a tick is.
pub const TICK: Duration = Duration::from_millis(10);
/// How many clients there are: with their pauses they do about fifteen operations in a second.
const N_CLIENTS: usize = 6;
/// How many keys they meet at.
const N_KEYS: u64 = 6;
/// Between two operations of a client, in ticks, at most.
const MAX_PAUSE: u64 = 60;
/// How long a client wants to wait, in ticks, at most and at least.
const PATIENCE: std::ops::Range<u64> = 20..250;
/// How many ticks after its deadline an answer may take before its client has gone.
const GRACE: u32 = 20;
/// How many times something is asked under one idempotency key, at most.
const MAX_ATTEMPTS: u32 = 4;
/// How many ticks pass between two looks of the watchers.
const WATCH_EVERY: u64 = 5;

/// The way into a member: its handle, whatever machine holds the store.
pub trait Desk {
    /// As [`raftnode::machine::Handle::propose`].
    ///
    /// # Errors
    ///
    /// The same.
    fn propose(
        &self,
        command: Bytes,
        deadline: Instant,
    ) -> Result<Pending<Outcome<Answer>>, Refusal>;

    /// The node below.
    fn node(&self) -> &raftnode::Handle;
}

impl<M: StateMachine<Response = Answer>> Desk for Handle<M> {
    fn propose(
        &self,
        command: Bytes,
        deadline: Instant,
    ) -> Result<Pending<Outcome<Answer>>, Refusal> {
        Handle::propose(self, command, deadline)
    }

    fn node(&self) -> &raftnode::Handle {
        Handle::node(self)
    }
}

/// The way to a member that runs.
#[derive(Clone, Copy)]
pub struct Door<'a> {
    /// The member.
    pub member: u64,
    /// Grows at each of its starts.
    pub process: u64,
    /// What time it is on its clock.
    pub now: Instant,
    /// Until when something kept its loop from its work, on its clock.
    pub hindered_until: Instant,
    /// Until when something kept it from applying what is committed.
    pub unapplied_until: Instant,
    /// Where to ask.
    pub handle: &'a dyn Desk,
    /// Where to look.
    pub store: &'a Store,
}

#[derive(Debug)]
enum Doing {
    Pausing { until: u64 },
    Asking(Box<Asking>),
}

/// All clients, and what they know.
#[derive(Debug)]
pub struct Clients {
    rng: Rng,
    clients: Vec<Doing>,
    /// What is left to be asked in the end, of which member; none: it is not the end.
    last_wishes: Option<VecDeque<(u64, What)>>,
    history: Vec<Op>,
    written: Vec<Written>,
    answers: Answers,
    watches: Watches,
    /// What nobody waits for any more, and must be answered all the same.
    given_up: Vec<Asking>,
    last_value: u64,
    n_ops: u64,
    /// The last moment that something was written down at, in nanoseconds.
    moment: u64,
    tick: u64,
}

impl Clients {
    /// Clients of a cluster that has just been founded; what they do follows from `seed` and what
    /// they are told.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let pause = |_| Doing::Pausing { until: rng.below(MAX_PAUSE) };
        Self {
            clients: (0..N_CLIENTS).map(pause).collect(),
            rng,
            last_wishes: None,
            history: Vec::new(),
            written: Vec::new(),
            answers: Answers::default(),
            watches: Watches::default(),
            given_up: Vec::new(),
            last_value: 0,
            n_ops: 0,
            moment: 0,
            tick: 0,
        }
    }

    /// The clients look what they were told, and ask for more. Call it as often as you like: at
    /// every tick, or after every step.
    ///
    /// # Errors
    ///
    /// What they were told cannot be true.
    pub fn step(
        &mut self,
        tick: u64,
        doors: &[Door<'_>],
        coverage: &mut Coverage,
    ) -> Result<(), Violation> {
        let is_new_tick = tick > self.tick;
        self.tick = tick;
        let begin = tick * u64::try_from(TICK.as_nanos()).expect("a tick is short");
        self.moment = self.moment.max(begin);
        let dated = |violation: Violation| Violation { tick: Some(tick), ..violation };
        for client in 0..self.clients.len() {
            self.look(client, doors, coverage).map_err(dated)?;
        }
        if is_new_tick {
            self.hear_late_answers(doors).map_err(dated)?;
            for client in 0..self.clients.len() {
                self.ask(client, doors, coverage).map_err(dated)?;
            }
            if tick.is_multiple_of(WATCH_EVERY) {
                self.watches.look(doors, coverage).map_err(dated)?;
            }
        }
        Ok(())
    }

    /// From now on they ask for nothing new.
    pub fn finish(&mut self) {
        self.last_wishes.get_or_insert_default();
    }

    /// Each of these members is to be asked for each key, and for a write: with everybody well,
    /// everything must be answered.
    pub fn ask_for_all(&mut self, members: &[u64]) {
        let mut wishes = VecDeque::new();
        for member in members {
            wishes.push_back((*member, What::Put { key: 0 }));
            wishes.push_back((*member, What::Barrier));
            wishes.extend((0..N_KEYS).map(|key| (*member, What::Get { key })));
        }
        self.last_wishes = Some(wishes);
    }

    /// Nobody waits for anything, and nothing is left to be asked.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        let pauses = |doing: &Doing| matches!(doing, Doing::Pausing { .. });
        self.clients.iter().all(pauses) && self.last_wishes.as_ref().is_none_or(VecDeque::is_empty)
    }

    /// What they wait for, in words.
    #[must_use]
    pub fn waiting(&self) -> Vec<String> {
        let asking = self.clients.iter().filter_map(|doing| match doing {
            Doing::Asking(asking) => Some(format!("{asking}")),
            Doing::Pausing { .. } => None,
        });
        let left = self.last_wishes.iter().flatten();
        asking.chain(left.map(|(member, what)| format!("{what:?} at member {member}"))).collect()
    }

    /// How many operations have ended: answered, refused, or with an outcome that nobody knows.
    #[must_use]
    pub fn n_ops(&self) -> u64 {
        self.n_ops
    }

    fn moment(&mut self) -> u64 {
        self.moment += 1;
        self.moment
    }

    fn look(
        &mut self,
        client: usize,
        doors: &[Door<'_>],
        coverage: &mut Coverage,
    ) -> Result<(), Violation> {
        let Doing::Asking(asking) = &mut self.clients[client] else { return Ok(()) };
        let door = doors.iter().find(|door| asking.is_at(door));
        let Some(ended) = asking.look(door, self.tick) else { return Ok(()) };
        let pause = Doing::Pausing { until: self.tick + 1 + self.rng.below(MAX_PAUSE) };
        let Doing::Asking(asking) = std::mem::replace(&mut self.clients[client], pause) else {
            return Ok(());
        };
        self.end(client, *asking, ended, door, coverage)
    }

    fn end(
        &mut self,
        client: usize,
        mut asking: Asking,
        ended: Ended,
        door: Option<&Door<'_>>,
        coverage: &mut Coverage,
    ) -> Result<(), Violation> {
        let at = self.moment();
        self.answers.take(&asking, &ended, door, coverage)?;
        if let Some(written) = asking.written {
            self.written[written].ended(&ended);
        }
        if ended.is_unknown() {
            asking.may_be_applied = true;
        }
        let is_over = !asking.wants_again(&ended, MAX_ATTEMPTS) || self.last_wishes.is_some();
        if is_over {
            self.n_ops += 1;
            if let Some(op) = asking.op(client, at, &ended) {
                self.history.push(op);
            }
            if let Some(wishes) = &mut self.last_wishes
                && asking.is_last_wish
                && !ended.is_success()
            {
                wishes.push_back((asking.member, asking.what));
            }
            if ended == Ended::GaveUp {
                self.given_up.push(asking);
            }
            return Ok(());
        }
        // The one that is not waited for any more is still owed its answer.
        let again = asking.again();
        if ended == Ended::GaveUp {
            self.given_up.push(asking);
        }
        self.clients[client] = Doing::Asking(Box::new(again));
        Ok(())
    }

    fn ask(
        &mut self,
        client: usize,
        doors: &[Door<'_>],
        coverage: &mut Coverage,
    ) -> Result<(), Violation> {
        let (tick, mut asked) = (self.tick, None);
        match &mut self.clients[client] {
            Doing::Pausing { until } if *until > tick && self.last_wishes.is_none() => {}
            Doing::Pausing { .. } => match &mut self.last_wishes {
                Some(wishes) => {
                    let Some((member, what)) = wishes.pop_front() else { return Ok(()) };
                    // Whoever is not there any more was removed meanwhile.
                    if let Some(door) = doors.iter().find(|door| door.member == member) {
                        let mut asking = self.new_asking(client, what);
                        asking.is_last_wish = true;
                        asked = Some((asking, *door));
                    }
                }
                None => {
                    let Some(door) = self.choose(client, doors) else { return Ok(()) };
                    if self.rng.below(8) == 0 {
                        return self.answers.look(&door, coverage);
                    }
                    let what = What::draw(&mut self.rng, N_KEYS);
                    let mut asking = self.new_asking(client, what);
                    asking.relax(&mut self.rng);
                    asked = Some((asking, door));
                }
            },
            Doing::Asking(asking) if asking.is_to_ask_again() => {
                let Some(door) = self.choose(client, doors) else { return Ok(()) };
                let pause = Doing::Pausing { until: tick };
                let Doing::Asking(asking) = std::mem::replace(&mut self.clients[client], pause)
                else {
                    return Ok(());
                };
                asked = Some((*asking, door));
            }
            Doing::Asking(_) => {}
        }
        let Some((mut asking, door)) = asked else { return Ok(()) };
        let patience = PATIENCE.start + self.rng.below(PATIENCE.end - PATIENCE.start);
        let refused = asking.ask(&door, tick, patience);
        if let Some(written) = asking.written {
            self.written[written].asked();
        }
        match refused {
            None => self.clients[client] = Doing::Asking(Box::new(asking)),
            Some(ended) => {
                self.clients[client] =
                    Doing::Pausing { until: tick + 1 + self.rng.below(MAX_PAUSE) };
                self.end(client, asking, ended, Some(&door), coverage)?;
            }
        }
        Ok(())
    }

    /// Whoever gave up is answered all the same, and not much later.
    fn hear_late_answers(&mut self, doors: &[Door<'_>]) -> Result<(), Violation> {
        for mut asking in std::mem::take(&mut self.given_up) {
            if let Some(ended) = asking.answer() {
                self.hear_late(&asking, &ended);
                continue;
            }
            let is_overdue = doors.iter().any(|door| asking.is_overdue(door));
            rules::ANSWERED
                .holds(!is_overdue, || format!("{asking} is not answered by its deadline"))?;
            self.given_up.push(asking);
        }
        Ok(())
    }

    fn hear_late(&mut self, asking: &Asking, ended: &Ended) {
        if let Some(written) = asking.written {
            self.written[written].ended(ended);
        }
    }

    /// Mostly the member that this client always asks.
    fn choose<'a>(&mut self, client: usize, doors: &[Door<'a>]) -> Option<Door<'a>> {
        if doors.is_empty() {
            return None;
        }
        let n = doors.len() as u64;
        let chosen = if self.rng.below(4) > 0 { client as u64 % n } else { self.rng.below(n) };
        doors.get(usize::try_from(chosen).ok()?).copied()
    }

    fn new_asking(&mut self, client: usize, what: What) -> Asking {
        let call = self.moment();
        self.last_value += 1;
        let value = self.last_value;
        let expected = self.answers.mod_index(what);
        let is_keyed = self.rng.below(2) == 0;
        let key = is_keyed.then(|| format!("{client}-{value}"));
        let mut asking = Asking::new(what, value, expected, key, call, self.answers.acknowledged());
        if let Some(command) = asking.command() {
            asking.written = Some(self.written.len());
            self.answers.writes(what, value, self.written.len());
            self.written.push(Written::new(&command, is_keyed));
        }
        asking
    }

    /// Judges everything that was said, with the log that `oracle` has seen. For the end, when all
    /// is answered.
    ///
    /// # Errors
    ///
    /// The first thing that is not true.
    pub fn judge(&mut self, oracle: &Oracle) -> Result<(), Violation> {
        for mut asking in std::mem::take(&mut self.given_up) {
            let ended = asking.answer().ok_or_else(|| {
                let what = format!("{asking} has no answer");
                rules::ANSWERED.broken(what)
            })?;
            self.hear_late(&asking, &ended);
        }
        for written in &self.written {
            written.judge(&oracle.indexes(written.hash()), &self.watches)?;
        }
        self.answers.judge(|written| oracle.indexes(self.written[written].hash()))?;
        judge::linearizable(&self.history)
    }

    /// What was done, for those who want to see it.
    #[must_use]
    pub fn history(&self) -> &[Op] {
        &self.history
    }
}

/// The bytes of a key.
fn key_name(key: u64) -> String {
    format!("k{key}")
}

/// The two keys that every txn writes together.
const PAIR: [&str; 2] = ["pair/a", "pair/b"];

/// By member and process.
type PerProcess<T> = BTreeMap<(u64, u64), T>;
