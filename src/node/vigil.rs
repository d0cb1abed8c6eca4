//! How long the loop looks out for what is about to come before it goes to sleep.
//!
//! While a majority's answer is on its way there is nothing else to do, and it comes sooner than a
//! sleeping thread, on a processor that fell asleep with it, is up again. What else wants to run does:
//! between two looks the rest of the time slice is given away. Where answers take longer
//! than it is worth, as distant members' do, the vigils become short, and then none, until an answer
//! comes soon again (as KVM's halt polling decides). Only the answer counts, not what else comes
//! meanwhile: one that is awaited for long is looked out for once, at its beginning.

use std::thread;
use std::time::{Duration, Instant};

/// The longest vigil: about what a good disk takes for a sync.
const LONGEST: Duration = Duration::from_micros(250);

/// One that is shorter than this is not kept.
const SHORTEST: Duration = Duration::from_micros(16);

/// What a majority is to answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Awaited {
    /// A batch of proposals, by its last index.
    Batch(u64),
    /// A round of reads, by its number.
    Round(u64),
}

/// What is awaited, and what was learnt from the waits so far.
#[derive(Debug)]
pub(super) struct Vigil {
    length: Duration,
    /// What is awaited, and since when.
    awaited: Option<(Awaited, Instant)>,
}

impl Vigil {
    pub(super) fn new() -> Self {
        Self { length: LONGEST, awaited: None }
    }

    /// Notes what is awaited now. Another thing than before, or nothing: the answer has come.
    pub(super) fn await_now(&mut self, awaited: Option<Awaited>, now: Instant) {
        if self.awaited.map(|(awaited, _)| awaited) == awaited {
            return;
        }
        if let Some((_, since)) = self.awaited {
            let soon = now.saturating_duration_since(since) <= LONGEST;
            self.length = if soon { LONGEST } else { self.length / 2 };
        }
        self.awaited = awaited.map(|awaited| (awaited, now));
    }

    /// Looks until something `has_come`, or for as long as is worth it; gives whether it has.
    pub(super) fn keep(&self, has_come: impl Fn() -> bool) -> bool {
        let Some((_, since)) = self.awaited.filter(|_| self.length >= SHORTEST) else {
            return false;
        };
        while since.elapsed() < self.length {
            if has_come() {
                return true;
            }
            thread::yield_now();
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Far answers end the vigils, however much else comes meanwhile, and a near one brings them
    /// back.
    #[test]
    fn vigils_are_kept_where_they_are_worth_it() {
        let mut vigil = Vigil::new();
        let mut now = Instant::now();
        let mut answer_after = |vigil: &mut Vigil, n, time: Duration| {
            vigil.await_now(Some(Awaited::Round(n)), now);
            // A client's request, say.
            vigil.await_now(Some(Awaited::Round(n)), now + time / 2);
            now += time;
            vigil.await_now(None, now);
        };
        let far = LONGEST + Duration::from_micros(1);
        let mut lengths = Vec::new();
        for n in 0..4 {
            lengths.push(vigil.length.as_micros());
            answer_after(&mut vigil, n, far);
        }
        assert_eq!(lengths, [250, 125, 62, 31]);
        vigil.await_now(Some(Awaited::Batch(7)), Instant::now());
        assert!(!vigil.keep(|| panic!("it looks though it is not worth it")));
        vigil.await_now(None, Instant::now());
        answer_after(&mut vigil, 9, LONGEST);
        assert_eq!(vigil.length, LONGEST);
    }

    /// A vigil ends when something comes, or with its time; nothing is looked for when nothing is
    /// awaited.
    #[test]
    fn a_vigil_ends() {
        let mut vigil = Vigil::new();
        assert!(!vigil.keep(|| panic!("nothing is awaited")));
        vigil.length = Duration::from_secs(3600);
        vigil.await_now(Some(Awaited::Batch(1)), Instant::now());
        let looked = std::cell::Cell::new(0);
        assert!(vigil.keep(|| looked.replace(looked.get() + 1) == 2));
        assert_eq!(looked.get(), 3);
        vigil.length = LONGEST;
        assert!(!vigil.keep(|| false));
    }
}
