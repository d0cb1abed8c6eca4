//! What `make benches` measures with: whole members without threads and sockets, commands for them,
//! and a disk that never syncs.
//!
//! The benches themselves are built with the feature `criterion` only, so that the fast suite builds
//! neither them nor what they need.

mod members;
mod unsynced;

use bytes::Bytes;
use raftexample::command::{self, Conditions};

pub use members::{Error, Members};
pub use unsynced::Unsynced;

/// The length of the values that are written.
pub const VALUE_BYTES: usize = 128;

/// The numbers of proposals that are handled together.
pub const BATCHES: [usize; 3] = [1, 16, 256];

/// The command that puts the key of a number.
#[must_use]
pub fn put(number: u64) -> Bytes {
    let key = format!("key/{number:012}");
    let mut command = command::begin_put(&Conditions::default(), key.as_bytes(), VALUE_BYTES);
    command.extend_from_slice(&[b'v'; VALUE_BYTES]);
    command.freeze()
}

/// The `nth` of a sequence that visits numbers below `bound` in no order.
#[must_use]
pub fn scattered(nth: u64, bound: u64) -> u64 {
    // A multiplication by an odd constant, and its better bits (Fibonacci hashing).
    (nth.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20) % bound
}
