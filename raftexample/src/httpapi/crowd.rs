//! How many requests wait for the node, and what the port's thread does about it before it sleeps.
//!
//! With many connections and few processors that thread would sleep a dozen times in a round of reads:
//! whenever it has dealt with the two or three requests that came meanwhile. To fall asleep and to be
//! woken costs as much as to answer one of them. So while a crowd waits, everybody else who wants to
//! run goes first: then more has come, and all of that is dealt with at once. Where nobody wants to, it
//! sleeps as ever.
//!
//! Refuses to do so for few: they would wait for those who went first.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// From this many on they are a crowd.
const CROWD: usize = 32;

/// The requests that wait for the node's answer. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Crowd {
    n_waiting: Arc<AtomicUsize>,
}

/// One of them, until it is dropped.
#[derive(Debug)]
pub(super) struct Waiting<'a>(&'a Crowd);

impl Crowd {
    /// To be called whenever the thread that serves the port is about to sleep, as by
    /// [`on_thread_park`](tokio::runtime::Builder::on_thread_park).
    pub fn before_sleep(&self) {
        if self.is_crowd() {
            thread::yield_now();
        }
    }

    /// Counts one more.
    pub(super) fn join(&self) -> Waiting<'_> {
        // It is a hint; nothing is read because of it.
        self.n_waiting.fetch_add(1, Ordering::Relaxed);
        Waiting(self)
    }

    fn is_crowd(&self) -> bool {
        self.n_waiting.load(Ordering::Relaxed) >= CROWD
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.n_waiting.fetch_sub(1, Ordering::Relaxed);
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
        assert!(!crowd.is_crowd());
        waiting.push(crowd.join());
        assert!(crowd.clone().is_crowd());
        waiting.pop();
        assert!(!crowd.is_crowd());
        drop(waiting);
        assert_eq!(crowd.n_waiting.load(Ordering::Relaxed), 0);
    }
}
