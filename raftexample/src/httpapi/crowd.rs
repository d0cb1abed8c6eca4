//! How many requests wait for the node, and what the port's thread does about it before it sleeps.
//!
//! With many connections and few processors that thread would sleep several times in a round of reads:
//! whenever it has dealt with the two or three requests that came meanwhile. To fall asleep and to be
//! woken is a good part of what they cost. So while a crowd waits, everybody else who wants to
//! run goes first: then more has come, and all of that is dealt with at once. Where nobody wants to, it
//! sleeps as ever.
//!
//! Refuses to do so for few, who would wait for those who went first; and beside others that keep a
//! processor for as long as they are let, as a batch job does: after a yield that took long, many
//! sleeps come without one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// From this many on they are a crowd. At 16 writes became slower by it, at 64 all became faster, on two
/// processors that members and load shared.
const CROWD: usize = 32;

/// Whoever runs for so long meanwhile is not about to bring more: it goes on until the scheduler takes
/// the processor from it, which is after some milliseconds.
const LONG: Duration = Duration::from_millis(1);

/// The most sleeps without a yield, after yields that took long.
const MOST_PASSED_OVER: u32 = 1024;

/// The requests that wait for the node's answer. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Crowd {
    shared: Arc<Shared>,
}

/// Hints, all of them: nothing is read because of what they say.
#[derive(Debug, Default)]
struct Shared {
    n_waiting: AtomicUsize,
    /// How many sleeps come without a yield after the last one, and how many of them are still to come.
    passed_over: AtomicU32,
    to_pass_over: AtomicU32,
}

/// One of them, until it is dropped.
#[derive(Debug)]
pub(super) struct Waiting<'a>(&'a Crowd);

impl Crowd {
    /// To be called whenever the thread that serves the port is about to sleep, as by
    /// [`on_thread_park`](tokio::runtime::Builder::on_thread_park).
    pub fn before_sleep(&self) {
        if self.yields() {
            let since = Instant::now();
            thread::yield_now();
            self.learn(since.elapsed());
        }
    }

    /// Counts one more.
    pub(super) fn join(&self) -> Waiting<'_> {
        self.shared.n_waiting.fetch_add(1, Ordering::Relaxed);
        Waiting(self)
    }

    /// Whether others go first this time.
    fn yields(&self) -> bool {
        let Shared { n_waiting, to_pass_over, .. } = &*self.shared;
        if n_waiting.load(Ordering::Relaxed) < CROWD {
            return false;
        }
        let left = to_pass_over.load(Ordering::Relaxed);
        to_pass_over.store(left.saturating_sub(1), Ordering::Relaxed);
        left == 0
    }

    /// A yield took so long: what comes of the next ones. A long one counts for two short ones, since
    /// who keeps a processor does not have it each time.
    fn learn(&self, took: Duration) {
        let Shared { passed_over, to_pass_over, .. } = &*self.shared;
        let last = passed_over.load(Ordering::Relaxed);
        let next = if took < LONG { last / 2 } else { (16 + 4 * last).min(MOST_PASSED_OVER) };
        passed_over.store(next, Ordering::Relaxed);
        to_pass_over.store(next, Ordering::Relaxed);
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.shared.n_waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Who has been answered no longer counts.
    #[test]
    fn a_crowd_gathers_and_disperses() {
        let crowd = Crowd::default();
        let mut waiting: Vec<_> = (1..CROWD).map(|_| crowd.join()).collect();
        assert!(!crowd.yields());
        waiting.push(crowd.join());
        assert!(crowd.clone().yields());
        waiting.pop();
        assert!(!crowd.yields());
        drop(waiting);
        assert_eq!(crowd.shared.n_waiting.load(Ordering::Relaxed), 0);
    }

    /// Beside a batch job yields become rare, also when some of them happen to be short, and where it
    /// ends they come back.
    #[test]
    fn a_crowd_does_not_wait_for_a_batch_job() {
        let crowd = Crowd::default();
        let waiting: Vec<_> = (0..CROWD).map(|_| crowd.join()).collect();
        let yields_of = |sleeps: u32, took: &dyn Fn(u32) -> Duration| {
            let mut n = 0;
            for _ in 0..sleeps {
                if crowd.yields() {
                    crowd.learn(took(n));
                    n += 1;
                }
            }
            n
        };
        let short = LONG / 20;
        assert_eq!(yields_of(100, &|_| short), 100);
        let every_other = |n: u32| if n.is_multiple_of(2) { LONG } else { short };
        let n_long = yields_of(100_000, &|_| LONG);
        let n_mixed = yields_of(100_000, &every_other);
        assert!(n_long < 110 && n_mixed < 200, "{n_long} and {n_mixed} of 100,000");
        yields_of(3_000, &|_| short);
        assert_eq!(yields_of(100, &|_| short), 100);
        drop(waiting);
    }
}
