//! How long the loop looks out for what is about to come before it goes to sleep.
//!
//! While a majority's answer is on its way there is nothing else to do, and it comes sooner than a
//! sleeping thread, on a processor that fell asleep with it, is up again: writes at one connection
//! take a tenth less time when the loop stays awake, and no more of the processor. What else wants to
//! run does: between two looks the rest of the time slice is given away. Where answers take longer
//! than it is worth, as distant members' do, the vigils become short, and then none, until one would
//! have been worth it again (as KVM's halt polling decides).

use std::thread;
use std::time::{Duration, Instant};

/// The longest vigil: about what a good disk takes for a sync.
const LONGEST: Duration = Duration::from_micros(250);

/// One that is shorter than this is not kept.
const SHORTEST: Duration = Duration::from_micros(16);

/// What was learnt from the waits so far.
#[derive(Debug)]
pub(super) struct Vigil {
    length: Duration,
}

impl Vigil {
    pub(super) fn new() -> Self {
        Self { length: LONGEST }
    }

    /// Looks until `has_come`, or until that has taken too long; gives whether it has.
    pub(super) fn keep(&self, begun: Instant, has_come: impl Fn() -> bool) -> bool {
        if self.length < SHORTEST {
            return false;
        }
        while !has_come() {
            if begun.elapsed() >= self.length {
                return false;
            }
            thread::yield_now();
        }
        true
    }

    /// It has come, vigil and sleep together took so long.
    pub(super) fn learn(&mut self, waited: Duration) {
        self.length = if waited <= LONGEST { LONGEST } else { self.length / 2 };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Far answers end the vigils, and near ones bring them back.
    #[test]
    fn vigils_are_kept_where_they_are_worth_it() {
        let mut vigil = Vigil::new();
        let far = LONGEST + Duration::from_micros(1);
        let mut lengths = Vec::new();
        while vigil.length >= SHORTEST {
            lengths.push(vigil.length.as_micros());
            vigil.learn(far);
        }
        assert_eq!(lengths, [250, 125, 62, 31]);
        let looked = std::cell::Cell::new(0);
        let look = || looked.replace(looked.get() + 1) == 2;
        assert!(!vigil.keep(Instant::now(), look));
        assert_eq!(looked.get(), 0, "it looks though it is not worth it");
        vigil.learn(LONGEST);
        assert!(vigil.keep(Instant::now(), look));
        assert_eq!(looked.get(), 3);
        assert!(!vigil.keep(Instant::now(), || false), "it never ends");
    }
}
