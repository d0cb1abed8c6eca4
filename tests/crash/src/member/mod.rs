//! Lives of whole members, as the simulation steps them, on a disk that crashes.
//!
//! - A [lone](LoneLife) member commits by itself, and takes and purges snapshots; it must know its
//!   identity, its pins, its tombstone, and every command that it has said is applied, in order.
//! - A [follower](FollowerLife) is told what to do by a leader: appends, overwritten ones too, votes
//!   and snapshots; it must hold the entries that it has acknowledged, its term and its vote.
//!
//! What is acknowledged counts from the sync before the message or the answer that says so. A start may be
//! refused where a log's may be.

mod follower;
mod living;
mod lone;

pub use follower::FollowerLife;
pub use lone::LoneLife;

use raftnode::Error;

use crate::explore::Lived;
use crate::log::may_refuse;

/// What a start that failed means.
fn refused(error: &Error, garbage: &[String]) -> Result<Lived, String> {
    match error {
        Error::Corrupt(_) if may_refuse(garbage) => Ok(Lived::Refused),
        error => Err(format!("it does not start: {error}")),
    }
}
