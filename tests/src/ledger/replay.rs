//! The store, once more and as simple as it can be: what the committed writes amount to.

use std::collections::{BTreeMap, HashMap, HashSet};

use bytes::Bytes;

use super::log::Write;
use crate::history::Answer;

/// How an idempotency key of a recording begins; its number follows.
const NAME: &str = "op-";

/// Keys, and what came of every write of a recording.
#[derive(Debug, Default)]
pub struct Replay {
    keys: BTreeMap<Bytes, (Bytes, u64)>,
    names: HashSet<Bytes>,
    outcomes: HashMap<u64, Answer>,
    repeated: Option<(u64, u64)>,
}

impl Replay {
    /// Does a write as the store does it: one with a name only the first time. A recording uses
    /// fewer names than the store remembers.
    pub(super) fn apply(&mut self, index: u64, write: &Write) {
        let Write { key, name, value, expected } = write;
        if name.as_ref().is_some_and(|name| !self.names.insert(name.clone())) {
            return;
        }
        let mod_index = self.keys.get(key).map_or(0, |(_, mod_index)| *mod_index);
        let index_told = Some(index);
        let answer = if expected.is_some_and(|expected| expected != mod_index) {
            Answer::Mismatch { index: index_told }
        } else if let Some(value) = value {
            self.keys.insert(key.clone(), (value.clone(), index));
            Answer::Done { index: index_told }
        } else if self.keys.remove(key).is_some() {
            Answer::Done { index: index_told }
        } else {
            Answer::Missing { index: index_told }
        };
        if let Some(number) = number(write) {
            // R1: nobody else has it, and what is sent again has a name.
            if self.outcomes.insert(number, answer).is_some() {
                self.repeated.get_or_insert((number, index));
            }
        }
    }

    /// A write that was sent once and stands in the log twice: its number, and where it stands for
    /// the second time.
    pub fn repeated(&self) -> Option<(u64, u64)> {
        self.repeated
    }

    /// What came of the write with this number; none when it is not there.
    pub fn outcome(&self, number: u64) -> Option<Answer> {
        self.outcomes.get(&number).copied()
    }

    /// What the keys hold in the end, and where they were put.
    pub fn keys(&self) -> &BTreeMap<Bytes, (Bytes, u64)> {
        &self.keys
    }
}

/// The number by which a recording knows a write.
fn number(Write { name, value, .. }: &Write) -> Option<u64> {
    let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
    match (value, name) {
        (Some(value), _) => text(value).parse().ok(),
        (None, Some(name)) => text(name).strip_prefix(NAME)?.parse().ok(),
        (None, None) => None,
    }
}
