use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use tokio::runtime::{Builder, Runtime};

use super::*;

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_time().build().unwrap()
}

/// What the next look gives, without waiting for anything but the keep-alive, which is over.
fn next(watcher: &mut Watcher) -> Watched {
    watcher.keep_alive = Duration::ZERO;
    watcher.quiet_until = Instant::now();
    runtime().block_on(watcher.next())
}

fn changed(key: &str, value: Option<&[u8]>, mod_index: u64) -> Changed {
    let stored = |bytes| Arc::new(Value { bytes: Bytes::copy_from_slice(bytes), mod_index });
    Changed { key: Key::from(key.as_bytes()), value: value.map(stored) }
}

fn put(index: u64, key: &str) -> Event {
    Event { index, term: 1, changes: Arc::new([changed(key, Some(b"v"), index)]) }
}

fn watch(watchable: &Watchable, from_index: u64) -> Watcher {
    watchable.watch(Some(from_index), Bytes::new()).unwrap()
}

/// E1: what is not shown is not seen, by those that watch already and those that begin.
#[test]
fn events_are_seen_when_they_are_shown() {
    let (mut recorder, watchable) = history();
    recorder.show(1);
    let mut before = watchable.watch(None, Bytes::new()).unwrap();
    assert_eq!(before.next_index(), 2);
    recorder.record(put(2, "k"));
    recorder.record(put(4, "k"));
    assert_eq!(next(&mut before), Watched::Applied(1));
    assert_eq!(next(&mut watch(&watchable, 2)), Watched::Applied(1));
    recorder.show(5);
    for mut watcher in [before, watch(&watchable, 2)] {
        assert_eq!(next(&mut watcher), Watched::Change(put(2, "k")));
        assert_eq!(next(&mut watcher), Watched::Change(put(4, "k")));
        assert_eq!(next(&mut watcher), Watched::Applied(5));
    }
}

/// E2: a watcher begins where it was told to, the index itself included, the future too.
#[test]
fn watchers_begin_at_their_index() {
    let (mut recorder, watchable) = history();
    for index in [2, 3, 7] {
        recorder.record(put(index, "k"));
    }
    recorder.show(8);
    let table = [
        (0, Some(2)),
        (1, Some(2)),
        (2, Some(2)),
        (3, Some(3)),
        (4, Some(7)),
        (7, Some(7)),
        (8, None),
    ];
    for (from_index, first) in table {
        let expected = first.map_or(Watched::Applied(8), |index| Watched::Change(put(index, "k")));
        assert_eq!(next(&mut watch(&watchable, from_index)), expected, "{from_index}");
    }
    let mut now = watchable.watch(None, Bytes::new()).unwrap();
    let mut later = watch(&watchable, 10);
    let mut never = watch(&watchable, u64::MAX);
    (9..=11).for_each(|index| recorder.record(put(index, "k")));
    recorder.show(11);
    assert_eq!(next(&mut now), Watched::Change(put(9, "k")));
    assert_eq!(next(&mut later), Watched::Change(put(10, "k")));
    assert_eq!(next(&mut never), Watched::Applied(11));
}

/// A watcher is told of its keys only, and of nothing else in an event that changed others too.
#[test]
fn watchers_see_their_prefix() {
    let (mut recorder, watchable) = history();
    let changes = [("a/b", None), ("b", Some(&b"2"[..])), ("a/c", Some(b"3"))];
    let changes = changes.map(|(key, value)| changed(key, value, 3));
    let [deleted, _, put_c] = changes.clone();
    recorder.record(put(2, "b"));
    recorder.record(Event { index: 3, term: 1, changes: Arc::new(changes) });
    recorder.record(put(4, "a"));
    recorder.record(put(5, "a/"));
    recorder.show(6);
    let mut watcher = watchable.watch(Some(1), "a/".into()).unwrap();
    let own = Event { index: 3, term: 1, changes: Arc::new([deleted, put_c]) };
    assert_eq!(next(&mut watcher), Watched::Change(own));
    assert_eq!(next(&mut watcher), Watched::Change(put(5, "a/")));
    assert_eq!(next(&mut watcher), Watched::Applied(6));
}

/// A cluster is founded at index 1, with nothing in it: whoever wants everything need not know
/// that. After any other snapshot what came before it is unknown.
#[test]
fn a_history_goes_back_to_the_founding() {
    let (mut recorder, watchable) = history();
    recorder.restore(1);
    recorder.record(put(2, "k"));
    recorder.show(2);
    assert_eq!(next(&mut watch(&watchable, 0)), Watched::Change(put(2, "k")));
    recorder.restore(9);
    recorder.show(9);
    for from_index in [0, 1, 9] {
        let refused = watchable.watch(Some(from_index), Bytes::new()).unwrap_err();
        assert_eq!(refused, Compacted { first_index: 10 });
    }
}

/// The bound by count: who is within it misses nothing, who is behind it is told to go, and who
/// comes too late is told where to begin.
#[test]
fn the_history_is_bounded_by_events() {
    let (mut recorder, watchable) = history();
    recorder.show(1);
    let mut behind = watch(&watchable, 2);
    let mut within = watch(&watchable, 3);
    for index in 2..=MAX_EVENTS as u64 + 2 {
        recorder.record(put(index, "k"));
        if index % 100 == 0 {
            recorder.show(index);
        }
    }
    recorder.show(MAX_EVENTS as u64 + 2);
    assert_eq!(next(&mut behind), Watched::Closed);
    assert_eq!(next(&mut behind), Watched::Closed);
    for index in 3..=MAX_EVENTS as u64 + 2 {
        assert_eq!(next(&mut within), Watched::Change(put(index, "k")));
    }
    let refused = watchable.watch(Some(2), Bytes::new()).unwrap_err();
    assert_eq!(refused, Compacted { first_index: 3 });
    assert!(watchable.watch(Some(3), Bytes::new()).is_ok());
}

/// The bound by bytes, for one event too that is larger than it: that one is there.
#[test]
fn the_history_is_bounded_by_bytes() {
    let (mut recorder, watchable) = history();
    let large = |index, bytes| {
        let changes = Arc::new([changed("k", Some(&vec![7; bytes]), index)]);
        Event { index, term: 1, changes }
    };
    let first_index =
        || watchable.watch(Some(0), Bytes::new()).err().map_or(0, |refused| refused.first_index);
    recorder.record(large(2, MAX_BYTES / 2));
    recorder.record(large(3, MAX_BYTES / 4));
    recorder.show(3);
    assert_eq!(first_index(), 0);
    recorder.record(large(4, MAX_BYTES / 4));
    recorder.show(4);
    assert_eq!(first_index(), 3);
    recorder.record(large(5, MAX_BYTES));
    recorder.show(5);
    assert_eq!(first_index(), 5);
    assert_eq!(next(&mut watch(&watchable, 5)), Watched::Change(large(5, MAX_BYTES)));
    (6..=7).for_each(|index| recorder.record(put(index, "k")));
    recorder.show(7);
    assert_eq!(first_index(), 6);
}

/// What may not be shown for long, as when a log is replayed, is bounded as well, and what was
/// lost of it is not left out silently.
#[test]
fn what_is_not_shown_is_bounded_too() {
    let (mut recorder, watchable) = history();
    recorder.record(put(2, "k"));
    recorder.show(2);
    let mut watcher = watch(&watchable, 2);
    (3..=MAX_EVENTS as u64 + 3).for_each(|index| recorder.record(put(index, "k")));
    assert_eq!(recorder.unseen.events.len(), MAX_EVENTS);
    recorder.show(MAX_EVENTS as u64 + 3);
    assert_eq!(next(&mut watcher), Watched::Closed);
    let refused = watchable.watch(Some(3), Bytes::new()).unwrap_err();
    assert_eq!(refused, Compacted { first_index: 4 });
}

/// A snapshot says nothing of what happened on the way to it: who is behind it is told to go, once
/// it is shown, and who has seen as much as it holds goes on.
#[test]
fn a_restore_closes_those_that_are_behind_it() {
    let (mut recorder, watchable) = history();
    recorder.record(put(2, "k"));
    recorder.show(2);
    let mut behind = watch(&watchable, 2);
    let mut level = watch(&watchable, 10);
    recorder.restore(9);
    recorder.record(put(10, "k"));
    assert_eq!(next(&mut watch(&watchable, 2)), Watched::Change(put(2, "k")));
    recorder.show(10);
    assert_eq!(next(&mut behind), Watched::Closed);
    assert_eq!(next(&mut level), Watched::Change(put(10, "k")));
    let refused = watchable.watch(Some(9), Bytes::new()).unwrap_err();
    assert_eq!(refused, Compacted { first_index: 10 });
}

/// Nobody looks at the whole history in one go; what is behind the first look is found all the
/// same.
#[test]
fn a_long_history_is_looked_at_in_parts() {
    let (mut recorder, watchable) = history();
    let last_index = 2 + 3 * MAX_LOOK as u64;
    (2..last_index).for_each(|index| recorder.record(put(index, "other")));
    recorder.record(put(last_index, "own"));
    recorder.show(last_index);
    let mut watcher = watchable.watch(Some(2), "own".into()).unwrap();
    assert_eq!(next(&mut watcher), Watched::Change(put(last_index, "own")));
    let mut watcher = watchable.watch(Some(2), "nobody's".into()).unwrap();
    assert!(matches!(watcher.look(), Sight::More));
    assert_eq!(next(&mut watcher), Watched::Applied(last_index));
}

/// A watcher that waits hears of the next event, and of nothing at an index that changed nothing.
#[test]
fn a_waiting_watcher_hears_of_the_next_event() {
    let (mut recorder, watchable) = history();
    recorder.show(1);
    let runtime = runtime();
    let _context = runtime.enter();
    let mut watcher = watch(&watchable, 2);
    let mut context = Context::from_waker(Waker::noop());
    {
        let mut waiting = pin!(watcher.next());
        assert!(waiting.as_mut().poll(&mut context).is_pending());
        recorder.show(2);
        assert!(waiting.as_mut().poll(&mut context).is_pending());
        recorder.record(put(3, "k"));
        recorder.show(3);
        let woken = waiting.as_mut().poll(&mut context);
        assert_eq!(woken, Poll::Ready(Watched::Change(put(3, "k"))));
    }
    // One whose reader went away meanwhile has lost nothing.
    recorder.record(put(4, "k"));
    recorder.show(4);
    assert_eq!(runtime.block_on(watcher.next()), Watched::Change(put(4, "k")));
}

/// Found by measuring: a hundred watchers of other keys made each write cost seventeen times as
/// much. Whoever was woken in vain is not woken by the next change, and misses nothing by that.
#[test]
fn a_watcher_that_is_not_concerned_is_left_alone() {
    struct Count(AtomicUsize);
    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    let (mut recorder, watchable) = history();
    recorder.show(1);
    let runtime = runtime();
    let _context = runtime.enter();
    let mut watcher = watchable.watch(Some(2), "own".into()).unwrap();
    {
        let count = Arc::new(Count(AtomicUsize::new(0)));
        let waker = Waker::from(Arc::clone(&count));
        let mut context = Context::from_waker(&waker);
        let mut waiting = pin!(watcher.next());
        assert!(waiting.as_mut().poll(&mut context).is_pending());
        for index in 2..100 {
            recorder.record(put(index, "other"));
            recorder.show(index);
            assert!(waiting.as_mut().poll(&mut context).is_pending());
        }
        // No timer fires here, for nothing drives the runtime.
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
    }
    recorder.record(put(100, "own"));
    recorder.show(100);
    assert_eq!(runtime.block_on(watcher.next()), Watched::Change(put(100, "own")));
}

/// The keep-alive comes by itself, after its time and again, and tells how far the store is.
#[test]
fn a_quiet_watcher_is_told_how_far_the_store_is() {
    let (mut recorder, watchable) = history();
    recorder.show(1);
    let runtime = runtime();
    let _context = runtime.enter();
    let began = Instant::now();
    let keep_alive = Duration::from_millis(20);
    let mut watcher = watch(&watchable, 2).with_keep_alive(keep_alive);
    recorder.show(7);
    for times in 1..=2 {
        assert_eq!(runtime.block_on(watcher.next()), Watched::Applied(7));
        assert!(began.elapsed() >= keep_alive * times);
    }
}

/// When the store ends there is nothing to wait for.
#[test]
fn watchers_end_with_the_store() {
    let (mut recorder, watchable) = history();
    let mut watcher = watch(&watchable, 1);
    recorder.record(put(2, "k"));
    recorder.show(2);
    drop(recorder);
    let runtime = runtime();
    assert_eq!(runtime.block_on(watcher.next()), Watched::Change(put(2, "k")));
    assert_eq!(runtime.block_on(watcher.next()), Watched::Closed);
}
