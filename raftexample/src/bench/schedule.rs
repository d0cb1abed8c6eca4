//! The open loop's clock: when each request is to start, whoever is still waiting for an answer.
//!
//! A closed loop asks less of a server that stalls, and so leaves out of its latencies what those
//! would have seen who came meanwhile: Gil Tene called it coordinated omission, and his wrk2 counts
//! from the moment at which a request was to be sent. So does this: arrivals are as regular as a
//! clock, the next free connection takes the oldest, and how long that one waited is part of its
//! latency. What waits is bounded (S1): when a second's worth does, the rate cannot be kept, and the
//! round ends.
//!
//! A thread sleeps from arrival to arrival, for the runtime's own timers know milliseconds only. It
//! is late by what the system takes to wake it, which counts as latency too.

use std::cell::Cell;
use std::io;
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

use super::round::Window;

/// So that a round that was given up leaves no thread for long.
const MAX_SLEEP: Duration = Duration::from_millis(100);

/// Arrivals at one rate: the n-th comes n periods after the beginning.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Schedule {
    begins: Instant,
    rate: u32,
    n_arrivals: u64,
}

/// What a connection that asks for the next arrival is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// To send a request that was to start then.
    Start(Instant),
    /// That there are no more.
    Over,
    /// That too many wait.
    Behind,
}

/// A round's arrivals, taken by its connections in order.
#[derive(Debug)]
pub(crate) struct Arrivals {
    schedule: Schedule,
    n_taken: Cell<u64>,
    /// One permit for each arrival that is due and not taken.
    due: Arc<Semaphore>,
    max_waiting: u64,
}

impl Schedule {
    /// The arrivals of a round that begins then.
    pub(crate) fn new(begins: Instant, window: Window, rate: u32) -> Schedule {
        let nanos = (window.warm_up + window.length).as_nanos();
        let n_arrivals = (nanos * u128::from(rate)).div_ceil(1_000_000_000) as u64;
        Schedule { begins, rate, n_arrivals }
    }

    /// When the n-th arrival is to start.
    fn at(&self, n: u64) -> Instant {
        let nanos = u128::from(n) * 1_000_000_000 / u128::from(self.rate);
        self.begins + Duration::from_nanos(nanos as u64)
    }

    /// How many have come by then.
    fn n_due(&self, now: Instant) -> u64 {
        let nanos = now.saturating_duration_since(self.begins).as_nanos();
        let n_due = nanos * u128::from(self.rate) / 1_000_000_000 + 1;
        n_due.min(self.n_arrivals.into()) as u64
    }
}

impl Arrivals {
    /// Starts the clock.
    pub(crate) fn start(schedule: Schedule, connections: u16) -> io::Result<Arrivals> {
        let due = Arc::new(Semaphore::new(0));
        let weak = Arc::downgrade(&due);
        thread::Builder::new()
            .name("bench-clock".to_owned())
            .spawn(move || release(schedule, &weak, connections))?;
        let max_waiting = u64::from(schedule.rate.max(connections.into()));
        Ok(Arrivals { schedule, n_taken: Cell::new(0), due, max_waiting })
    }

    /// Waits for an arrival that nobody has taken.
    pub(crate) async fn take(&self) -> Next {
        let Ok(permit) = self.due.acquire().await else { return Next::Behind };
        permit.forget();
        let n = self.n_taken.get();
        if n >= self.schedule.n_arrivals {
            return Next::Over;
        }
        self.n_taken.set(n + 1);
        if self.schedule.n_due(Instant::now()) - n > self.max_waiting {
            self.due.close();
            return Next::Behind;
        }
        Next::Start(self.schedule.at(n))
    }
}

/// Adds a permit for each arrival, and in the end one for each connection to find that out.
fn release(schedule: Schedule, due: &Weak<Semaphore>, connections: u16) {
    let mut n_released = 0;
    while n_released < schedule.n_arrivals {
        let now = Instant::now();
        // A clock that is asked in the same nanosecond may find none due.
        let n_due = schedule.n_due(now).max(n_released);
        let Some(due) = due.upgrade() else { return };
        due.add_permits((n_due - n_released) as usize);
        drop(due);
        n_released = n_due;
        thread::sleep(schedule.at(n_released).saturating_duration_since(now).min(MAX_SLEEP));
    }
    if let Some(due) = due.upgrade() {
        due.add_permits(connections.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(rate: u32, millis: u64) -> Schedule {
        let window = Window { warm_up: Duration::ZERO, length: Duration::from_millis(millis) };
        Schedule::new(Instant::now(), window, rate)
    }

    /// Arrivals do not drift, also when a period is no whole number of nanoseconds, and what is due
    /// is what has come.
    #[test]
    fn arrivals_are_as_regular_as_a_clock() {
        for rate in [1, 3, 7, 1000, 30_000, 999_983] {
            let schedule = schedule(rate, 2000);
            assert_eq!(schedule.n_arrivals, 2 * u64::from(rate));
            assert_eq!(schedule.at(0), schedule.begins);
            assert_eq!(schedule.at(rate.into()), schedule.begins + Duration::from_secs(1));
            for n in [0, 1, u64::from(rate) - 1, u64::from(rate), 2 * u64::from(rate) - 1] {
                // The period's fraction of a nanosecond is cut off.
                let at = schedule.at(n) + Duration::from_nanos(1);
                assert_eq!(schedule.n_due(at), n + 1, "{rate} a second, {n}");
                if n > 0 {
                    assert_eq!(schedule.n_due(schedule.at(n) - Duration::from_nanos(1)), n);
                }
            }
            assert_eq!(
                schedule.n_due(schedule.begins + Duration::from_secs(9)),
                2 * u64::from(rate)
            );
        }
    }

    /// Each arrival is taken once, in order and not early, and then all learn that it is over.
    #[tokio::test]
    async fn connections_take_the_oldest_arrival() {
        let schedule = schedule(2000, 50);
        let arrivals = Arrivals::start(schedule, 3).expect("a thread can be started");
        for n in 0..100 {
            let next = arrivals.take().await;
            assert_eq!(next, Next::Start(schedule.at(n)));
            assert!(Instant::now() >= schedule.at(n));
        }
        for _ in 0..3 {
            assert_eq!(arrivals.take().await, Next::Over);
        }
    }

    /// S1: what waits is bounded, and everybody is told.
    #[tokio::test]
    async fn a_backlog_of_a_second_ends_the_round() {
        let mut schedule = schedule(10, 10_000);
        // As if nobody had taken any for 1.05 seconds: ten may wait, and eleven do.
        schedule.begins -= Duration::from_millis(1050);
        let arrivals = Arrivals::start(schedule, 2).expect("a thread can be started");
        assert_eq!(arrivals.take().await, Next::Behind);
        assert_eq!(arrivals.take().await, Next::Behind);
    }
}
