//! Places for those who are not known yet: few, and the oldest is given up for the newest.
//!
//! A stranger that connects and says nothing costs memory for as long as it is waited for, and
//! refusing newcomers while all places are taken would let strangers keep members out. So a
//! newcomer always gets a place, and whoever has held one for longest loses it: a member states its
//! head at once, and dials again when it was unlucky.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use tokio::sync::oneshot;

use super::lock;

/// A number of places.
pub(super) struct Places {
    max: usize,
    taken: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    next: u64,
    /// By age, the oldest first; dropping a sender tells that its place is lost.
    by_age: BTreeMap<u64, oneshot::Sender<()>>,
}

impl Places {
    pub(super) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { max, taken: Mutex::default() })
    }

    /// Takes a place, the oldest one when none is free; whether one was lost for it.
    pub(super) fn take(self: &Arc<Self>) -> (Place, bool) {
        let (held, lost) = oneshot::channel();
        let mut taken = lock(&self.taken);
        let is_full = taken.by_age.len() >= self.max;
        if is_full {
            taken.by_age.pop_first();
        }
        let number = taken.next;
        taken.next += 1;
        taken.by_age.insert(number, held);
        (Place { places: Arc::clone(self), number, lost }, is_full)
    }
}

/// One place, for as long as it is kept and not lost.
pub(super) struct Place {
    places: Arc<Places>,
    number: u64,
    lost: oneshot::Receiver<()>,
}

impl Place {
    /// Returns once the place is lost to a newer one.
    pub(super) async fn is_lost(&mut self) {
        // Nothing is ever sent: the sender is dropped.
        (&mut self.lost).await.ok();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        lock(&self.places.taken).by_age.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The oldest loses its place, whoever left makes room without harm to others.
    #[test]
    fn the_oldest_place_is_lost_first() {
        let places = Places::new(2);
        let [(mut first, _), (mut second, _)] = [places.take(), places.take()];
        let (mut third, lost) = places.take();
        assert!(lost);
        let is_lost =
            |place: &mut Place| place.lost.try_recv() == Err(oneshot::error::TryRecvError::Closed);
        assert_eq!([&mut first, &mut second, &mut third].map(is_lost), [true, false, false]);
        drop((first, second));
        let (_fourth, lost) = places.take();
        assert!(!lost && lock(&places.taken).by_age.len() == 2);
        let (_fifth, lost) = places.take();
        assert!(lost);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(third.is_lost());
    }
}
