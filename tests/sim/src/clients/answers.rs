//! What clients were told, as it comes in: each answer is held against all that came before it.

use std::collections::{BTreeMap, HashMap};

use raftexample::kvstore::{Answer, Response, Value, Version};
use raftnode::Consistency;

use super::asking::{Asking, Ended, What, number};
use super::{Door, PAIR, PerProcess, key_name};
use crate::Violation;
use crate::coverage::{Coverage, Kind};
use crate::oracle::rules;

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Answers {
    /// The highest index that anybody was told is applied.
    acknowledged: u64,
    /// Where each key was last written, as far as anybody was told.
    mod_indexes: HashMap<u64, u64>,
    /// Who writes each value, and its place among what is written.
    writers: HashMap<u64, (What, usize)>,
    /// What was seen to be written at an index: keys, and the value.
    seen: BTreeMap<u64, (Vec<Vec<u8>>, u64)>,
    /// The last version that a process was seen to show.
    shown: PerProcess<u64>,
}

impl Answers {
    pub(super) fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// The condition of a write: what is known of its key.
    pub(super) fn mod_index(&self, what: What) -> u64 {
        match what {
            What::Cas { key } => self.mod_indexes.get(&key).copied().unwrap_or(0),
            _ => 0,
        }
    }

    pub(super) fn writes(&mut self, what: What, value: u64, written: usize) {
        self.writers.insert(value, (what, written));
    }

    /// Somebody was told how something ended.
    pub(super) fn take(
        &mut self,
        asking: &Asking,
        ended: &Ended,
        door: Option<&Door<'_>>,
        coverage: &mut Coverage,
    ) -> Result<(), Violation> {
        match ended {
            Ended::Written { index, answer } => {
                coverage.count(Kind::OutcomeApplied);
                self.acknowledged = self.acknowledged.max(*index);
                self.written(asking, *index, answer, coverage)?;
            }
            #[cfg(feature = "defects")]
            Ended::Appended => {}
            Ended::Readable { index } => {
                let least = asking.least_index();
                rules::READS_FRESH.holds(*index >= least, || {
                    format!("{asking} may look at index {index}, and is to see {least}")
                })?;
                if let (What::Get { .. }, Some(door)) = (asking.what, door) {
                    coverage.count(match asking.consistency {
                        Consistency::Linearizable => Kind::LinearizableRead,
                        Consistency::Leader => Kind::LeaderRead,
                        Consistency::Stale => Kind::StaleRead,
                    });
                    let applied = door.store.applied_index();
                    rules::READS_FRESH.holds(applied >= *index, || {
                        format!("{asking} may look at index {index}, and sees {applied}")
                    })?;
                    self.look(door, coverage)?;
                }
            }
            Ended::Passed { index } => {
                coverage.count(Kind::Barrier);
                rules::READS_FRESH.holds(*index > asking.acknowledged, || {
                    let acknowledged = asking.acknowledged;
                    format!("{asking} passed index {index}, after {acknowledged} was told")
                })?;
                self.acknowledged = self.acknowledged.max(*index);
            }
            _ if asking.written.is_none() => {}
            Ended::Refused => {
                coverage.count(Kind::OutcomeRefused);
                coverage.add(Kind::LowDisk, asking.found_low_disk.into());
            }
            Ended::Unknown | Ended::GaveUp => coverage.count(Kind::OutcomeUnknown),
        }
        Ok(())
    }

    fn written(
        &mut self,
        asking: &Asking,
        index: u64,
        answer: &Answer,
        coverage: &mut Coverage,
    ) -> Result<(), Violation> {
        let is_first = answer.index == index;
        rules::ONCE_PER_KEY
            .holds(is_first || (asking.is_keyed() && answer.index < index), || {
                format!("{asking} is applied at index {index}, and answered for {}", answer.index)
            })?;
        if !is_first {
            coverage.count(Kind::Retry);
        }
        let mut note = |key, mod_index: u64| {
            let known = self.mod_indexes.entry(key).or_default();
            *known = mod_index.max(*known);
        };
        match (&answer.response, asking.what) {
            (Response::Put, What::Put { key } | What::Cas { key }) => note(key, answer.index),
            (Response::CasMismatch { mod_index }, What::Cas { key }) => {
                coverage.count(Kind::CasMismatch);
                // A key that is absent has no mod index to be remembered, but to be expected.
                if *mod_index == 0 {
                    self.mod_indexes.remove(&key);
                } else {
                    note(key, *mod_index);
                }
            }
            (Response::Deleted | Response::NotFound | Response::Txn(_), What::Delete { key }) => {
                self.mod_indexes.remove(&key);
            }
            (Response::Txn(_), What::Txn) => {}
            (response, _) => {
                return Err(rules::ONCE_PER_KEY
                    .broken(format!("{asking} was answered {response:?}, at index {index}")));
            }
        }
        Ok(())
    }

    /// Somebody looks at what a member shows.
    pub(super) fn look(
        &mut self,
        door: &Door<'_>,
        coverage: &mut Coverage,
    ) -> Result<(), Violation> {
        coverage.count(Kind::StaleRead);
        let version = door.store.load();
        self.version(door.member, door.process, &version)
    }

    /// A process shows this.
    pub(super) fn version(
        &mut self,
        member: u64,
        process: u64,
        version: &Version,
    ) -> Result<(), Violation> {
        let applied = version.applied_index;
        let shown = self.shown.entry((member, process)).or_default();
        rules::READS_RISE.holds(*shown <= applied, || {
            format!("member {member}/{process} shows index {applied} after {shown}")
        })?;
        *shown = applied;
        let get = |key: &str| version.map.get(key.as_bytes()).map(|value| &**value);
        let [one, other] = PAIR.map(get);
        rules::ATOMIC.holds(one == other, || {
            format!("member {member}/{process} shows, at index {applied}, {one:?} and {other:?}")
        })?;
        for (key, value) in &version.map {
            self.is_real(key.as_bytes(), value, applied).map_err(|mut violation| {
                violation.what.insert_str(0, &format!("member {member}/{process}: "));
                violation
            })?;
        }
        Ok(())
    }

    /// It was written, by somebody who writes it there.
    fn is_real(&mut self, key: &[u8], value: &Value, applied: u64) -> Result<(), Violation> {
        let number = number(&value.bytes);
        let writer = number.and_then(|number| self.writers.get(&number));
        let writes = writer.is_some_and(|(what, _)| match what {
            What::Put { key: own } | What::Cas { key: own } => key_name(*own).as_bytes() == key,
            What::Txn => PAIR.iter().any(|own| own.as_bytes() == key),
            What::Get { .. } | What::Delete { .. } | What::Barrier => false,
        });
        let what = || {
            let key = String::from_utf8_lossy(key);
            format!("{key} holds {value:?} at index {applied}, which {writer:?} wrote")
        };
        rules::READS_REAL.holds(writes && value.mod_index <= applied, what)?;
        let number = number.unwrap_or_default();
        let (keys, seen) = self.seen.entry(value.mod_index).or_insert_with(|| (Vec::new(), number));
        rules::READS_REAL.holds(*seen == number, what)?;
        if !keys.iter().any(|known| known == key) {
            keys.push(key.to_vec());
        }
        Ok(())
    }

    /// With the whole log: everything that was seen is where it was seen.
    pub(super) fn judge(&self, indexes: impl Fn(usize) -> Vec<u64>) -> Result<(), Violation> {
        for (mod_index, (keys, value)) in &self.seen {
            let places = self.writers.get(value).map(|(_, written)| indexes(*written));
            let places = places.unwrap_or_default();
            // Under an idempotency key only the first of them changes anything.
            rules::READS_REAL.holds(places.first() == Some(mod_index), || {
                let keys: Vec<_> = keys.iter().map(|key| String::from_utf8_lossy(key)).collect();
                format!("{value} was seen at {keys:?}, written at {mod_index}; it is at {places:?}")
            })?;
        }
        Ok(())
    }
}
