//! What changed, in order, for those who want to hear of it: a bounded history of events beside
//! the store, and watchers that read along.
//!
//! The applier records one [`Event`] per log index that changed a key, and shows what it recorded
//! once the store holds all of it. A watcher has a place in the history and no buffer of
//! its own: it takes the next event when its reader wants one, and is told to go when the history
//! has gone on without it. A thousand slow watchers thereby take no more memory than one, and none
//! of them ever holds up the applier.
//!
//! The memory is that of the history: [`MAX_EVENTS`] and [`MAX_BYTES`], whichever is less, and as
//! much again for what is recorded and may not be shown yet. An event shares its values with the
//! store. The history stands behind one reader-writer lock, which is held for as long as it takes
//! to append a batch of events or to look at a few hundred of them, and never across an await.
//! Readers of the store do not touch it.
//!
//! It is not replicated, nor kept: after a restart, or a snapshot from the leader, it begins
//! behind the snapshot. Two members' histories may begin at different indexes; where both have an
//! index, they have the same event.
//!
//! Invariants:
//! - E1 An event is seen soon after the version that holds its changes is, and not before.
//! - E2 A watcher is given every event from its first index on, once, in order, until it is
//!   closed; nothing is left out silently.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::kvstore::{Key, Value};

/// How many events the history holds: at 1,000 changes in a second those of the last sixteen
/// seconds, time to come back after a broken connection. A busier store keeps fewer seconds, and
/// says so.
pub const MAX_EVENTS: usize = 16_384;

/// How many bytes the events of the history may count: their keys and values, and a little for
/// each. Values that were overwritten live on in it, so that it is memory that large values would
/// otherwise take without bound. The newest event is always there, whatever it counts.
pub const MAX_BYTES: usize = 16 << 20;

/// How long a watcher hears nothing before it is told how far the store has come.
pub const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// How many events a watcher looks at in one go: few enough that the applier never waits long for
/// the lock.
const MAX_LOOK: usize = 256;

/// How soon a watcher that was woken in vain looks again. Every batch of changes wakes all of them,
/// whatever they watch: a hundred that are not concerned would take more of the processor than the
/// writers.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// What an event, and each of its changes, count beside their bytes: about what they take.
const EVENT_BYTES: usize = 64;

/// What one log index changed. Clones share everything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The index.
    pub index: u64,
    /// The term of its entry.
    pub term: u64,
    /// The keys, in the order in which they changed. At least one; a txn may change one twice.
    pub changes: Arc<[Changed]>,
}

/// What became of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    /// The key.
    pub key: Key,
    /// What it holds now; `None`: it was deleted.
    pub value: Option<Arc<Value>>,
}

impl Event {
    /// What it counts in the history.
    fn bytes(&self) -> usize {
        let value_bytes = |changed: &Changed| changed.value.as_ref().map_or(0, |v| v.bytes.len());
        let bytes =
            |changed: &Changed| EVENT_BYTES + changed.key.as_bytes().len() + value_bytes(changed);
        EVENT_BYTES + self.changes.iter().map(bytes).sum::<usize>()
    }

    /// What of it concerns keys with a prefix.
    fn under(&self, prefix: &[u8]) -> Option<Self> {
        let concerned = |changed: &&Changed| changed.key.as_bytes().starts_with(prefix);
        match self.changes.iter().filter(concerned).count() {
            0 => None,
            all if all == self.changes.len() => Some(self.clone()),
            _ => {
                let changes = self.changes.iter().filter(concerned).cloned().collect();
                Some(Self { changes, ..*self })
            }
        }
    }
}

/// The events of the last indexes.
#[derive(Debug)]
struct Events {
    events: VecDeque<Event>,
    /// What they count.
    bytes: usize,
    /// Every event from this index on is here.
    first_index: u64,
}

impl Events {
    fn push(&mut self, event: Event) {
        self.bytes += event.bytes();
        self.events.push_back(event);
        while self.events.len() > MAX_EVENTS || (self.bytes > MAX_BYTES && self.events.len() > 1) {
            let Some(oldest) = self.events.pop_front() else { break };
            self.bytes -= oldest.bytes();
            self.first_index = oldest.index + 1;
        }
    }

    fn forget_before(&mut self, index: u64) {
        let n_before = self.events.partition_point(|event| event.index < index);
        for before in self.events.drain(..n_before) {
            self.bytes -= before.bytes();
        }
        self.first_index = self.first_index.max(index);
    }
}

/// What watchers see.
#[derive(Debug)]
struct History {
    past: Events,
    /// Through which index everything is in it, or was.
    applied_index: u64,
}

/// The applier's side: what is recorded is seen when it is shown.
#[derive(Debug)]
pub(crate) struct Recorder {
    history: watch::Sender<History>,
    /// Recorded and not shown yet. Bounded as the history is: a long log may be replayed before
    /// anything of it is shown.
    unseen: Events,
}

/// Where watchers begin.
#[derive(Debug, Clone)]
pub(crate) struct Watchable {
    history: watch::Receiver<History>,
}

/// An empty history that goes back to the founding of the cluster.
pub(crate) fn history() -> (Recorder, Watchable) {
    let events = || Events { events: VecDeque::new(), bytes: 0, first_index: 0 };
    let (sender, receiver) = watch::channel(History { past: events(), applied_index: 0 });
    (Recorder { history: sender, unseen: events() }, Watchable { history: receiver })
}

impl Recorder {
    /// Notes what an index changed.
    pub(crate) fn record(&mut self, event: Event) {
        self.unseen.push(event);
    }

    /// The state was replaced by that of `index`: what happened before is not known here.
    pub(crate) fn restore(&mut self, index: u64) {
        // At index 1 a cluster is founded, with nothing in it: there is no before.
        if index > 1 {
            self.unseen.forget_before(index + 1);
        }
    }

    /// Everything through `applied_index` is to be seen.
    pub(crate) fn show(&mut self, applied_index: u64) {
        let unseen = &mut self.unseen;
        self.history.send_if_modified(|history| {
            let lost = unseen.first_index > history.past.first_index;
            history.past.forget_before(unseen.first_index);
            let found = !unseen.events.is_empty();
            unseen.events.drain(..).for_each(|event| history.past.push(event));
            unseen.bytes = 0;
            history.applied_index = applied_index;
            // Watchers need not be woken for an index that changed nothing: the next keep-alive
            // tells them.
            lost || found
        });
    }
}

/// The history does not go back to the index that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compacted {
    /// The first index that a watcher may begin at.
    pub first_index: u64,
}

impl std::fmt::Display for Compacted {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "the history of changes begins at index {}", self.first_index)
    }
}

impl std::error::Error for Compacted {}

impl Watchable {
    /// See [`crate::kvstore::Store::watch`].
    pub(crate) fn watch(
        &self,
        from_index: Option<u64>,
        prefix: Bytes,
    ) -> Result<Watcher, Compacted> {
        let history = self.history.clone();
        let (first_index, applied_index) = {
            let history = history.borrow();
            (history.past.first_index, history.applied_index)
        };
        let next_index = from_index.unwrap_or(applied_index + 1);
        if next_index < first_index {
            return Err(Compacted { first_index });
        }
        let keep_alive = KEEP_ALIVE;
        let quiet_until = Instant::now() + keep_alive;
        Ok(Watcher { history, prefix, next_index, keep_alive, quiet_until })
    }
}

/// What a watcher is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Watched {
    /// The next event that changed a key with the prefix. It has these changes only.
    Change(Event),
    /// Nothing for a while; every event through this index has been given.
    Applied(u64),
    /// There is no more to come: the history has gone on without this watcher, a snapshot
    /// replaced what it would have seen, or the store has ended. Another watcher may begin behind
    /// the last event that was given, or hear that it is too late.
    Closed,
}

/// A reader's place in the history.
#[derive(Debug)]
pub struct Watcher {
    history: watch::Receiver<History>,
    prefix: Bytes,
    /// Everything below it has been given.
    next_index: u64,
    keep_alive: Duration,
    quiet_until: Instant,
}

/// What a watcher sees at its place.
enum Sight {
    Event(Event),
    /// Nothing yet, and it has not looked at everything.
    More,
    /// Nothing through this index.
    Nothing(u64),
    /// Its place is gone.
    Gone,
}

impl Watcher {
    /// Hears of the store's progress after this time without a change, instead of [`KEEP_ALIVE`].
    #[must_use]
    pub fn with_keep_alive(self, keep_alive: Duration) -> Self {
        Self { keep_alive, quiet_until: Instant::now() + keep_alive, ..self }
    }

    /// The lowest index whose event may come next.
    #[must_use]
    pub fn next_index(&self) -> u64 {
        self.next_index
    }

    /// Waits for what comes next. Whoever drops the future loses nothing.
    pub async fn next(&mut self) -> Watched {
        let (mut due, mut woken) = (false, false);
        loop {
            let watched = match self.look() {
                Sight::Event(event) => Watched::Change(event),
                Sight::Gone => return Watched::Closed,
                Sight::Nothing(applied_index) if due => Watched::Applied(applied_index),
                Sight::Nothing(_) => {
                    let look_again = woken.then(|| Instant::now() + LOOK_AGAIN);
                    match timeout_at(self.quiet_until, self.changed(look_again)).await {
                        Ok(Ok(())) => woken = true,
                        Ok(Err(_)) => return Watched::Closed,
                        Err(_) => due = true,
                    }
                    continue;
                }
                Sight::More => {
                    tokio::task::yield_now().await;
                    continue;
                }
            };
            self.quiet_until = Instant::now() + self.keep_alive;
            return watched;
        }
    }

    /// What comes next, if it is there already; never [`Watched::Applied`]. For those who have no
    /// runtime to wait on.
    pub fn try_next(&mut self) -> Option<Watched> {
        loop {
            match self.look() {
                Sight::Event(event) => return Some(Watched::Change(event)),
                Sight::Gone => return Some(Watched::Closed),
                Sight::More => {}
                Sight::Nothing(_) => {
                    return self.history.has_changed().is_err().then_some(Watched::Closed);
                }
            }
        }
    }

    /// Waits until there is something to look at, and not before `look_again`.
    async fn changed(
        &mut self,
        look_again: Option<Instant>,
    ) -> Result<(), watch::error::RecvError> {
        // First the time: many changes are one then.
        if let Some(look_again) = look_again {
            sleep_until(look_again).await;
        }
        self.history.changed().await
    }

    fn look(&mut self) -> Sight {
        let history = self.history.borrow_and_update();
        let past = &history.past;
        if self.next_index < past.first_index {
            return Sight::Gone;
        }
        let place = past.events.partition_point(|event| event.index < self.next_index);
        for (looked, event) in past.events.range(place..).enumerate() {
            if looked == MAX_LOOK {
                return Sight::More;
            }
            self.next_index = event.index + 1;
            if let Some(event) = event.under(&self.prefix) {
                return Sight::Event(event);
            }
        }
        self.next_index = self.next_index.max(history.applied_index + 1);
        Sight::Nothing(history.applied_index)
    }
}

#[cfg(test)]
mod tests;
