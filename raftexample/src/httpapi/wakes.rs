//! Wakes that come from other threads, many with one system call.
//!
//! The node answers all reads of a round, and all writes of a batch, one after the other, on threads
//! of its own. Told one by one, the port's runtime would be woken by a write to its event descriptor for
//! each of them, which costs more than all else that the answer takes there. Here the first wake of
//! several sends for a task of the port's own, and that wakes the rest from within the runtime. Having
//! done so it lets the others run and looks again before it sleeps: whoever answers goes on meanwhile,
//! and would send for it once more with each of his answers.
//!
//! Refuses to put off what happens on the port's own thread: that is woken as always.
//!
//! Invariants:
//! - W1 No wake is lost: whoever adds one to an empty list wakes the task that empties it, and that
//!   task sleeps only while the list is empty.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

/// The wakes of one server that are still to be passed on.
#[derive(Debug, Default)]
pub(super) struct Wakes {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    waiting: Vec<Waker>,
    /// Of the task that passes them on, while it sleeps.
    deliverer: Option<Waker>,
}

impl Wakes {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, waker: Waker) {
        let mut inner = self.inner();
        inner.waiting.push(waker);
        let deliverer = inner.deliverer.take();
        drop(inner);
        if let Some(deliverer) = deliverer {
            deliverer.wake();
        }
    }

    /// Passes on what is added, for as long as it is polled.
    pub(super) async fn deliver(&self) {
        let mut waking = Vec::new();
        std::future::poll_fn(|context| {
            let mut inner = self.inner();
            if inner.waiting.is_empty() {
                inner.deliverer = Some(context.waker().clone());
            } else {
                std::mem::swap(&mut inner.waiting, &mut waking);
                drop(inner);
                waking.drain(..).for_each(Waker::wake);
                context.waker().wake_by_ref();
            }
            Poll::Pending
        })
        .await
    }
}

/// Stands for the waker of a task, towards whatever the task waits for.
#[derive(Debug)]
struct Relay {
    wakes: Arc<Wakes>,
    task: Mutex<Task>,
}

#[derive(Debug)]
struct Task {
    waker: Waker,
    /// Where it ran last.
    thread: usize,
}

impl Relay {
    fn task(&self) -> MutexGuard<'_, Task> {
        self.task.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wake for Relay {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let task = self.task();
        if task.thread == this_thread() {
            task.waker.wake_by_ref();
        } else {
            let waker = task.waker.clone();
            drop(task);
            self.wakes.add(waker);
        }
    }
}

/// Another number in each of the threads that live.
fn this_thread() -> usize {
    thread_local!(static PLACE: u8 = const { 0 });
    PLACE.with(|place| std::ptr::from_ref(place).addr())
}

/// A task's future whose wakes from other threads come through [`Wakes`].
#[derive(Debug)]
pub(super) struct Relayed<F> {
    future: F,
    wakes: Arc<Wakes>,
    relay: Option<(Arc<Relay>, Waker)>,
}

impl<F> Relayed<F> {
    pub(super) fn new(wakes: Arc<Wakes>, future: F) -> Self {
        Self { future, wakes, relay: None }
    }
}

impl<F: Future + Unpin> Future for Relayed<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let Self { future, wakes, relay } = &mut *self;
        let thread = this_thread();
        let (_, waker) = match relay {
            Some(kept) => {
                let mut task = kept.0.task();
                task.waker.clone_from(context.waker());
                task.thread = thread;
                drop(task);
                kept
            }
            None => {
                let task = Mutex::new(Task { waker: context.waker().clone(), thread });
                let new = Arc::new(Relay { wakes: Arc::clone(wakes), task });
                relay.insert((Arc::clone(&new), Waker::from(new)))
            }
        };
        Pin::new(future).poll(&mut Context::from_waker(waker))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Counts how often it is woken.
    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    impl Count {
        fn get(&self) -> usize {
            self.0.load(Ordering::SeqCst)
        }
    }

    /// What a polled task gave to whatever it waits for.
    fn relayed(wakes: &Arc<Wakes>, task: &Arc<Count>) -> Waker {
        let given = Arc::new(Mutex::new(None));
        let kept = Arc::clone(&given);
        let future = std::future::poll_fn(move |context| {
            *kept.lock().unwrap() = Some(context.waker().clone());
            Poll::<()>::Pending
        });
        let mut relayed = Relayed::new(Arc::clone(wakes), future);
        let waker = Waker::from(Arc::clone(task));
        for _ in 0..2 {
            let polled = Pin::new(&mut relayed).poll(&mut Context::from_waker(&waker));
            assert!(polled.is_pending());
        }
        let waker = given.lock().unwrap().take();
        waker.unwrap()
    }

    /// Wakes from elsewhere take one wake of the runtime however many they are, and none is lost;
    /// those from here take none.
    #[test]
    fn many_wakes_from_elsewhere_are_one() {
        let wakes = Arc::new(Wakes::default());
        let deliverer = Arc::new(Count::default());
        let deliverer_waker = Waker::from(Arc::clone(&deliverer));
        let mut context = Context::from_waker(&deliverer_waker);
        let mut delivery = std::pin::pin!(wakes.deliver());
        assert!(delivery.as_mut().poll(&mut context).is_pending());

        let tasks: [Arc<Count>; 5] = Default::default();
        let wakers = tasks.each_ref().map(|task| relayed(&wakes, task));
        let from_elsewhere = |wakers: &[Waker]| {
            let wakers = wakers.to_vec();
            std::thread::spawn(move || wakers.into_iter().for_each(Waker::wake)).join().unwrap();
        };
        for round in 1..=3 {
            from_elsewhere(&wakers);
            assert_eq!(deliverer.get(), 3 * round - 2, "it is sent for once");
            assert!(delivery.as_mut().poll(&mut context).is_pending());
            assert!(tasks.iter().all(|task| task.get() == 2 * round - 1));
            assert_eq!(deliverer.get(), 3 * round - 1, "it looks again by itself");
            from_elsewhere(&wakers);
            assert_eq!(deliverer.get(), 3 * round - 1, "nor is it sent for before it has");
            assert!(delivery.as_mut().poll(&mut context).is_pending());
            assert!(tasks.iter().all(|task| task.get() == 2 * round));
            assert_eq!(deliverer.get(), 3 * round);
            assert!(delivery.as_mut().poll(&mut context).is_pending());
        }
        wakers[0].wake_by_ref();
        assert_eq!((tasks[0].get(), deliverer.get()), (7, 9), "nobody is sent for");
    }

    /// What is added while the list is being emptied is passed on too.
    #[test]
    fn no_wake_is_lost() {
        const N: usize = 1000;
        let wakes = Arc::new(Wakes::default());
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let delivering = Arc::clone(&wakes);
            tokio::spawn(async move { delivering.deliver().await });
            let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
            std::thread::spawn(move || (0..N).for_each(|n| sender.send(n).unwrap()));
            let mut n_received = 0;
            let counting = Box::pin(async {
                while receiver.recv().await.is_some() {
                    n_received += 1;
                }
            });
            Relayed::new(Arc::clone(&wakes), counting).await;
            assert_eq!(n_received, N);
        });
    }
}
