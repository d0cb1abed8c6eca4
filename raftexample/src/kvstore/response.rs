//! What applying a command gives to whoever proposed it.

use super::Value;

/// The answer to a proposal. For a repeated idempotency key it is that of the first application.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The index of the entry that was applied.
    pub index: u64,
    /// The term of that entry.
    pub term: u64,
    /// What came of it.
    pub response: Response,
}

/// What came of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Response {
    /// The key is put.
    Put,
    /// The key is deleted.
    Deleted,
    /// There was no such key to delete.
    NotFound,
    /// The key has another mod index than the command demanded. Nothing changed.
    CasMismatch {
        /// The key's mod index; 0: it does not exist.
        mod_index: u64,
    },
    /// The txn did one thing or the other.
    Txn(TxnAnswer),
    /// The txn's gets found more than [`MAX_RESULT_BYTES`]. Nothing changed.
    TooLarge,
    /// The idempotency key stands for another command. Nothing changed.
    KeyReused,
    /// The command means nothing to this program, and may be passed over. Nothing changed.
    Ignored,
}

/// What a txn did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TxnAnswer {
    /// Whether every compare held.
    pub succeeded: bool,
    /// What the operations of the branch that ran gave, in order.
    pub results: Vec<TxnResult>,
}

/// What one operation of a txn gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TxnResult {
    /// The key is put.
    Put,
    /// The key is not there any more.
    Deleted {
        /// Whether it was.
        existed: bool,
    },
    /// What the key held; `None`: it did not exist.
    Got(Option<Value>),
}

/// The most bytes of values that the gets of one txn may find together: one get can always have
/// the largest value, and no answer takes much more memory than a request.
pub const MAX_RESULT_BYTES: usize = 3 << 20;
