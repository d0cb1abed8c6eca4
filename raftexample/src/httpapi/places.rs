//! Who may stay: a bounded number of connections, and who makes room when it is reached.
//!
//! A connection waits between its requests, and works on one. Those that wait hold nothing but
//! their place: the one that has waited longest gives it to whoever comes. Slow heads count as
//! waiting, so that neither they nor idle clients can keep others out. Refuses to look at
//! addresses: clients behind one proxy would share one fate.
//!
//! Invariants:
//! - P1 Whoever works on a request keeps its place, and so does whoever was answered a moment ago
//!   (`between_requests`): a newcomer never takes the place of a client in the middle of its work.
//! - P2 Whoever is asked to leave first reads what has arrived: a request that is there is served.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};

/// The places of one server.
#[derive(Debug)]
pub(super) struct Places {
    max_connections: u32,
    between_requests: Duration,
    permits: Arc<Semaphore>,
    watches: Arc<Semaphore>,
    waiting: Mutex<Waiting>,
}

/// The connections that wait, by the order in which they began to.
#[derive(Debug, Default)]
struct Waiting {
    next_number: u64,
    /// Never answered anything.
    new: BTreeMap<u64, Arc<Place>>,
    /// With the time of the last answer.
    answered: BTreeMap<u64, (Instant, Arc<Place>)>,
}

impl Waiting {
    /// Takes out who has waited longest and may be asked to leave (P1).
    fn longest(&mut self, between_requests: Duration) -> Option<(u64, Arc<Place>)> {
        let idles =
            |(_, (since, _)): &(&u64, &(Instant, Arc<Place>))| since.elapsed() >= between_requests;
        let new = self.new.first_key_value().map(|(number, _)| *number);
        let answered = self.answered.first_key_value().filter(idles).map(|(number, _)| *number);
        let number = new.into_iter().chain(answered).min()?;
        let place = self.new.remove(&number);
        let place = place.or_else(|| self.answered.remove(&number).map(|(_, place)| place));
        place.map(|place| (number, place))
    }

    fn remove(&mut self, number: u64) {
        self.new.remove(&number);
        self.answered.remove(&number);
    }
}

impl Places {
    /// For so many connections, of which half may watch: watches have no end of their own. A client
    /// may take `between_requests` from an answer to its next request without counting as idle.
    pub(super) fn new(max_connections: u32, between_requests: Duration) -> Arc<Self> {
        let semaphore = |permits: u32| Arc::new(Semaphore::new(permits as usize));
        Arc::new(Self {
            max_connections,
            between_requests,
            permits: semaphore(max_connections),
            watches: semaphore((max_connections / 2).max(1)),
            waiting: Mutex::default(),
        })
    }

    /// A place for a new connection; `None` when everybody is in the middle of something.
    pub(super) async fn seat(self: &Arc<Self>) -> Option<Seat> {
        let permit = loop {
            if let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() {
                break permit;
            }
            // It has left, or has a request after all and no longer waits.
            self.ask_to_leave()?.await.ok();
        };
        let place = Arc::new(Place {
            places: Arc::clone(self),
            phase: Mutex::new(Phase::Gone),
            turn: AtomicU64::new(0),
            watches: AtomicBool::new(false),
            first_line: Mutex::default(),
            leave: Notify::new(),
        });
        place.wait(None);
        Some(Seat { _permit: permit, leaving: Leaving(place) })
    }

    /// Asks who has waited longest to leave; what is given ends when that is decided.
    fn ask_to_leave(&self) -> Option<oneshot::Receiver<()>> {
        loop {
            let (number, place) = self.waiting().longest(self.between_requests)?;
            let mut phase = place.phase();
            if matches!(*phase, Phase::Waiting(waiting) if waiting == number) {
                let (decided, decision) = oneshot::channel();
                *phase = Phase::Asked(decided);
                drop(phase);
                place.leave.notify_one();
                return Some(decision);
            }
        }
    }

    /// A place among those that watch.
    pub(super) fn watch(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.watches).try_acquire_owned().ok()
    }

    /// Waits until every connection has ended.
    pub(super) async fn empty(&self) {
        // The semaphore is never closed.
        self.permits.acquire_many(self.max_connections).await.ok();
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection's hold on its place, which is free when this is dropped.
#[derive(Debug)]
pub(super) struct Seat {
    // Free before whoever asked for it hears of that.
    _permit: OwnedSemaphorePermit,
    leaving: Leaving,
}

#[derive(Debug)]
struct Leaving(Arc<Place>);

impl Seat {
    pub(super) fn place(&self) -> &Arc<Place> {
        &self.leaving.0
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        self.0.change(Phase::Gone);
    }
}

/// What one connection is doing.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    phase: Mutex<Phase>,
    /// How many requests there were.
    turn: AtomicU64,
    /// Whether the answer is a watch.
    watches: AtomicBool,
    /// Of the head that is being read, if it is remarkable.
    first_line: Mutex<Option<Vec<u8>>>,
    leave: Notify,
}

#[derive(Debug)]
enum Phase {
    /// For a request, or for the rest of its head; since this number.
    Waiting(u64),
    /// The same, and somebody wants the place. Dropping the sender is the answer.
    Asked(#[allow(dead_code, reason = "its end is its message")] oneshot::Sender<()>),
    /// On a request, until its answer is made.
    Working,
    /// Until it is written, with the answer's share of the memory.
    Answered(
        #[allow(dead_code, reason = "it is held, not looked at")] Option<OwnedSemaphorePermit>,
    ),
    Gone,
}

impl Place {
    /// A request's head is complete; its answer is made when what is given is dropped.
    pub(super) fn work(self: &Arc<Self>) -> Working {
        self.change(Phase::Working);
        self.turn.fetch_add(1, Ordering::Relaxed);
        self.watches.store(false, Ordering::Relaxed);
        Working { place: Arc::clone(self), share: None }
    }

    /// Whether it waits for a request, or for the rest of one's head.
    pub(super) fn waits(&self) -> bool {
        matches!(*self.phase(), Phase::Waiting(_) | Phase::Asked(_))
    }

    /// How many requests there were. Only the connection itself asks, and changes it.
    pub(super) fn turn(&self) -> u64 {
        self.turn.load(Ordering::Relaxed)
    }

    /// The answer is a watch, which has no end of its own.
    pub(super) fn begin_watch(&self) {
        self.watches.store(true, Ordering::Relaxed);
    }

    /// Whether the answer is a watch.
    pub(super) fn watches(&self) -> bool {
        self.watches.load(Ordering::Relaxed)
    }

    /// Keeps a line for whoever answers the request.
    pub(super) fn note_first_line(&self, line: Vec<u8>) {
        *self.first_line() = Some(line);
    }

    /// The line that was kept since the last request.
    pub(super) fn take_first_line(&self) -> Option<Vec<u8>> {
        self.first_line().take()
    }

    fn first_line(&self) -> MutexGuard<'_, Option<Vec<u8>>> {
        self.first_line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything written so far is in the socket. Gives the time if an answer was completed by it.
    pub(super) fn flushed(self: &Arc<Self>) -> Option<Instant> {
        let answered = matches!(*self.phase(), Phase::Answered(_));
        answered.then(|| {
            let now = Instant::now();
            self.wait(Some(now));
            now
        })
    }

    /// Ends when somebody wants this place, and now and then without need.
    pub(super) async fn asked(&self) {
        self.leave.notified().await;
        // The newcomer may have been accepted before the runtime looked at what else has arrived,
        // and yielding has it look (P2).
        tokio::task::yield_now().await;
    }

    /// Whether this connection is to end (P2).
    pub(super) fn leaves(&self) -> bool {
        matches!(*self.phase(), Phase::Asked(_))
    }

    fn wait(self: &Arc<Self>, answered: Option<Instant>) {
        let mut phase = self.phase();
        let mut waiting = self.places.waiting();
        let number = waiting.next_number;
        waiting.next_number += 1;
        let place = Arc::clone(self);
        match answered {
            Some(since) => drop(waiting.answered.insert(number, (since, place))),
            None => drop(waiting.new.insert(number, place)),
        }
        *phase = Phase::Waiting(number);
    }

    fn change(&self, next: Phase) {
        let before = std::mem::replace(&mut *self.phase(), next);
        if let Phase::Waiting(number) = before {
            self.places.waiting().remove(number);
        }
    }

    fn phase(&self) -> MutexGuard<'_, Phase> {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request that is being answered. Dropped with the last of its answer.
#[derive(Debug)]
pub(super) struct Working {
    place: Arc<Place>,
    share: Option<OwnedSemaphorePermit>,
}

impl Working {
    /// Has the answer's share of the memory held until it is written.
    pub(super) fn hold(&mut self, share: Option<OwnedSemaphorePermit>) {
        self.share = share;
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        let mut phase = self.place.phase();
        if matches!(*phase, Phase::Working) {
            *phase = Phase::Answered(self.share.take());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Longer than any test.
    const BETWEEN_REQUESTS: Duration = Duration::from_secs(3600);

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
    }

    /// A connection that leaves whenever it is asked to, as an idle one does.
    fn idle(seat: Seat) -> tokio::task::JoinHandle<()> {
        tokio::spawn(async move {
            while !seat.place().leaves() {
                seat.place().asked().await;
            }
        })
    }

    /// Whoever waits longest makes room; whoever works does not, and comes last again afterwards.
    #[test]
    fn the_longest_waiting_makes_room() {
        runtime().block_on(async {
            let places = Places::new(3, BETWEEN_REQUESTS);
            let mut seats = Vec::new();
            for _ in 0..3 {
                seats.push(places.seat().await.unwrap());
            }
            let [first, second, third] = seats.try_into().unwrap();
            let working = first.place().work();
            let place = Arc::clone(first.place());
            let (first, second, third) = (idle(first), idle(second), idle(third));
            let fourth = places.seat().await.unwrap();
            second.await.unwrap();
            let fifth = places.seat().await.unwrap();
            third.await.unwrap();
            let _working = [fourth.place().work(), fifth.place().work()];
            assert!(places.seat().await.is_none(), "everybody works");
            drop(working);
            assert!(places.seat().await.is_none(), "the answer is not written");
            place.flushed();
            assert!(places.seat().await.is_none(), "it may have its next question already");
            place.change(Phase::Gone);
            place.wait(Instant::now().checked_sub(BETWEEN_REQUESTS));
            assert!(places.seat().await.is_some());
            first.await.unwrap();
        });
    }

    /// Whoever has a request after all stays, and the next one is asked.
    #[test]
    fn a_request_that_is_there_is_served() {
        runtime().block_on(async {
            let places = Places::new(2, BETWEEN_REQUESTS);
            let first = places.seat().await.unwrap();
            let second = places.seat().await.unwrap();
            let place = Arc::clone(first.place());
            let serving = tokio::spawn(async move {
                first.place().asked().await;
                let _working = first.place().work();
                std::future::pending::<()>().await;
            });
            let second = idle(second);
            assert!(places.seat().await.is_some());
            second.await.unwrap();
            assert!(!place.waits() && !serving.is_finished());
            serving.abort();
        });
    }

    /// What ended by itself is not asked any more, and leaves nothing behind.
    #[test]
    fn places_are_given_back() {
        runtime().block_on(async {
            let places = Places::new(2, BETWEEN_REQUESTS);
            for _ in 0..10 {
                let seats = [places.seat().await.unwrap(), places.seat().await.unwrap()];
                let _working = seats[0].place().work();
                drop(seats);
            }
            places.empty().await;
            let waiting = places.waiting();
            assert!(waiting.new.is_empty() && waiting.answered.is_empty());
        });
    }
}
