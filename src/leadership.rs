//! Who leads, for those who want to hear of every change: the latest is never lost, however slow
//! its watcher is, and what came between need not be seen.
//!
//! Refuses to tell what a new leader may do yet. One that has just been elected does not know
//! which of its predecessors' entries are committed until a [`barrier`](crate::Handle::barrier)
//! is answered.
//!
//! Invariants:
//! - L1 A watcher that waits returns whenever the latest differs from what it saw last.
//! - L2 A node that has ended leads no more: the last thing a watcher sees is nobody.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use event_listener::{Event, Listener as _};

use crate::status::{Role, Shared};

/// Who leads, as far as this member knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Leadership {
    /// The leader; 0 when nobody is known to lead.
    pub leader_id: u64,
    /// The term that this member is in.
    pub term: u64,
    /// This member's own role in it.
    pub role: Role,
}

/// How often the status has said something new of this, and who waits for the next time.
#[derive(Debug, Default)]
pub(crate) struct Leaders {
    /// Odd once nothing will change any more; grows by two with every change. Changed only with
    /// the status locked, so that the two agree.
    version: AtomicU64,
    changed: Event,
}

const ENDED: u64 = 1;

impl Leaders {
    pub(crate) fn version(&self) -> u64 {
        self.version.load(Ordering::Relaxed)
    }

    /// The status, which is locked, says something new.
    pub(crate) fn advance(&self) {
        if self.version() & ENDED == 0 {
            self.version.fetch_add(2, Ordering::Relaxed);
        }
    }

    /// The status, which is locked, says its last (L2).
    pub(crate) fn end(&self) {
        self.advance();
        self.version.fetch_or(ENDED, Ordering::Relaxed);
    }

    /// Wakes whoever waits, once the status is unlocked.
    pub(crate) fn notify(&self) {
        self.changed.notify(usize::MAX);
    }
}

/// Follows who leads. Clones are watchers of their own.
#[derive(Debug, Clone)]
pub struct LeaderWatch {
    shared: Arc<Shared>,
    /// The version that was seen last.
    seen: u64,
}

impl LeaderWatch {
    /// A watcher that has seen what is so now.
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        let (_, seen) = shared.leadership();
        Self { shared, seen }
    }

    /// Who leads now. Whatever came before counts as seen.
    pub fn latest(&mut self) -> Leadership {
        let (latest, version) = self.shared.leadership();
        self.seen = version;
        latest
    }

    /// Waits, on any executor, until something is different from what was seen last, and gives
    /// what is so then (L1). `None`: the node has ended, and that has been seen.
    pub async fn changed(&mut self) -> Option<Leadership> {
        loop {
            if let Some(news) = self.news() {
                return news;
            }
            // Listening comes before looking again, so that nothing slips in between.
            let listener = self.shared.leaders.changed.listen();
            if let Some(news) = self.news() {
                return news;
            }
            listener.await;
        }
    }

    /// As [`changed`](Self::changed), blocking the thread for at most `timeout`; `None` also when
    /// that passed.
    pub fn wait_changed(&mut self, timeout: Duration) -> Option<Leadership> {
        let deadline = Instant::now() + timeout;
        loop {
            let listener = self.shared.leaders.changed.listen();
            if let Some(news) = self.news() {
                return news;
            }
            listener.wait_deadline(deadline)?;
        }
    }

    /// What is new; the inner `None` when nothing ever will be.
    fn news(&mut self) -> Option<Option<Leadership>> {
        let (latest, version) = self.shared.leadership();
        if version != self.seen {
            self.seen = version;
            return Some(Some(latest));
        }
        (version & ENDED != 0).then_some(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::Status;

    fn shared() -> Arc<Shared> {
        Arc::new(Shared::new(Status::default()))
    }

    fn elect(shared: &Shared, leader_id: u64, term: u64) {
        shared.update(|status| (status.leader_id, status.term) = (leader_id, term));
    }

    /// Somebody who acts on leadership may be slow, but must never act on an old one (L1).
    #[test]
    fn the_latest_is_never_lost() {
        let shared = shared();
        let mut watch = LeaderWatch::new(Arc::clone(&shared));
        assert_eq!(watch.wait_changed(Duration::ZERO), None);
        elect(&shared, 1, 1);
        elect(&shared, 2, 2);
        let seen = watch.wait_changed(Duration::ZERO).unwrap();
        assert_eq!((seen.leader_id, seen.term), (2, 2));
        elect(&shared, 2, 2);
        assert_eq!(watch.wait_changed(Duration::ZERO), None, "nothing has changed");
    }

    /// A watcher that sleeps is woken by the change itself, a blocked thread and a task alike.
    #[test]
    fn watchers_are_woken() {
        let shared = shared();
        let (mut blocked, watch) = (LeaderWatch::new(Arc::clone(&shared)), shared.clone());
        let mut awaited = LeaderWatch::new(Arc::clone(&shared));
        let thread = std::thread::spawn(move || blocked.wait_changed(Duration::from_secs(60)));
        let (tx, rx) = std::sync::mpsc::channel();
        let task = std::thread::spawn(move || {
            tx.send(()).unwrap();
            block_on(awaited.changed())
        });
        rx.recv().unwrap();
        elect(&watch, 3, 1);
        for news in [thread.join().unwrap(), task.join().unwrap()] {
            assert_eq!(news.map(|leadership| leadership.leader_id), Some(3));
        }
    }

    /// The smallest executor: the thread parks until it is woken.
    fn block_on<T>(future: impl Future<Output = T>) -> T {
        struct Unpark(std::thread::Thread);
        impl std::task::Wake for Unpark {
            fn wake(self: Arc<Self>) {
                self.0.unpark();
            }
        }
        let waker = Arc::new(Unpark(std::thread::current())).into();
        let mut context = std::task::Context::from_waker(&waker);
        let mut future = std::pin::pin!(future);
        loop {
            match future.as_mut().poll(&mut context) {
                std::task::Poll::Ready(value) => return value,
                std::task::Poll::Pending => std::thread::park(),
            }
        }
    }

    /// L2: whoever does a leader's work elsewhere must hear that the node is gone.
    #[test]
    fn an_ended_node_leads_no_more() {
        let shared = shared();
        let mut watch = LeaderWatch::new(Arc::clone(&shared));
        shared.update(|status| (status.leader_id, status.role) = (1, Role::Leader));
        assert_eq!(watch.latest().role, Role::Leader);
        shared.end();
        let last = watch.wait_changed(Duration::ZERO).unwrap();
        assert_eq!((last.leader_id, last.role), (0, Role::Follower));
        elect(&shared, 1, 1);
        assert_eq!(watch.wait_changed(Duration::from_secs(60)), None, "it has ended");
        assert_eq!(block_on(watch.changed()), None);
    }
}
