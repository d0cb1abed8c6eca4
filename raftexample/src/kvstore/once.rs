//! What makes retries safe: the first answer to every keyed command, for a while.
//!
//! The table is part of the state: it is changed by the log alone, evicts by the log alone, and is
//! in every snapshot. Members thereby agree about what is a repetition, at any time, whoever asks.
//! The promise is that a command with an idempotency key is applied once within the last
//! [`MAX_KEYS`] keyed commands, or [`MAX_BYTES`] of their answers: behind that it is a new one.
//!
//! Its maps are persistent, so that a capture is a clone of pointers.

use std::sync::Arc;

use imbl::{HashMap, Vector};
use sha2::{Digest, Sha256};

use super::{Answer, Key, Response, TxnAnswer, TxnResult};

/// How many keys are remembered. A retry follows its first attempt within minutes, and even 1,000
/// keyed writes in a second need a minute to get this far; and the keys fit a few tens of
/// megabytes. A part of the format: members that had another number would diverge.
pub const MAX_KEYS: usize = 65_536;

/// How many bytes the table may count, by the rule of its records: above what [`MAX_KEYS`] plain
/// answers count, so that only the results of txns ever come up against it. A part of the format,
/// as [`MAX_KEYS`] is.
pub const MAX_BYTES: usize = 32 << 20;

/// What a record counts beside its key and its answer's values. A part of the format.
const RECORD_BYTES: usize = 256;

/// What each result of a txn counts beside its value. A part of the format.
const RESULT_BYTES: usize = 48;

/// Tells one command from another with the same idempotency key.
pub(crate) type Hash = [u8; 32];

/// The hash of a command's bytes.
pub(crate) fn hash(command_bytes: &[u8]) -> Hash {
    Sha256::digest(command_bytes).into()
}

/// A command that was applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    /// What its proposer called it.
    pub(crate) key: Key,
    /// What it said.
    pub(crate) hash: Hash,
    /// What came of it.
    pub(crate) answer: Answer,
}

impl Record {
    /// What it counts in the table.
    fn bytes(&self) -> usize {
        let result_bytes = |result: &TxnResult| {
            let value =
                if let TxnResult::Got(Some(value)) = result { value.bytes.len() } else { 0 };
            RESULT_BYTES + value
        };
        let results = match &self.answer.response {
            Response::Txn(TxnAnswer { results, .. }) => results.iter().map(result_bytes).sum(),
            _ => 0,
        };
        RECORD_BYTES + self.key.as_bytes().len() + results
    }
}

/// The first answers to the last keyed commands.
#[derive(Debug, Clone, Default)]
pub struct Table {
    by_key: HashMap<Key, Arc<Record>>,
    /// The same records, as they were applied.
    by_age: Vector<Arc<Record>>,
    /// What they count.
    bytes: usize,
}

impl Table {
    /// What was applied under a key; `None`: nothing that is still known.
    pub(crate) fn get(&self, key: &[u8]) -> Option<&Record> {
        self.by_key.get(key).map(|record| &**record)
    }

    /// Remembers what was applied, and forgets the oldest for it. Its key must be new, and its
    /// index above all others.
    pub(crate) fn insert(&mut self, record: Record) {
        let record = Arc::new(record);
        self.bytes += record.bytes();
        self.by_key.insert(record.key.clone(), Arc::clone(&record));
        self.by_age.push_back(record);
        // The newest one always stays: no answer counts as much as the table may.
        while self.by_age.len() > MAX_KEYS || self.bytes > MAX_BYTES {
            let Some(oldest) = self.by_age.pop_front() else { break };
            self.by_key.remove(&oldest.key);
            self.bytes -= oldest.bytes();
        }
    }

    /// The records, oldest first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Record> {
        self.by_age.iter().map(|record| &**record)
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_age.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_age.is_empty()
    }
}
