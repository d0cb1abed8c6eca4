//! Everything that raft-rs leaves out: an event loop, a write-ahead log, snapshots, a transport,
//! membership changes, exact outcomes and linearizable reads, behind a handle and a commit channel.
//!
//! Proposals, reads and changes go in through the handle; commits come out, in one order:
//!
//! ```no_run
//! use std::sync::atomic::AtomicBool;
//! use std::time::{Duration, Instant};
//! use raftnode::{Commit, Config, Node, membership};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let founders = membership::parse_cluster("http://127.0.0.1:9021")?;
//! let config = Config::new(1, founders, "state-1".into());
//! let logger = slog::Logger::root(slog::Discard, slog::o!());
//! let (node, channels) = Node::start(config, &logger, &AtomicBool::new(false))?;
//! let handle = channels.handle.clone();
//! std::thread::spawn(move || {
//!     for commit in channels.commits {
//!         match commit {
//!             // A real consumer reads restore.state here, and writes it when asked to.
//!             Commit::Restore(restore) => channels.applied.report(restore.index),
//!             Commit::Snapshot(request) => request.capture(|_| Ok(())),
//!             Commit::Entries(entries) => {
//!                 // Apply every item to your state here, then say how far it has come.
//!                 channels.applied.report(entries.last_index);
//!                 entries.items.into_iter().for_each(|item| item.answer("done".into()));
//!             }
//!         }
//!     }
//! });
//! let outcome = handle.propose("hello".into(), Instant::now() + Duration::from_secs(5))?.wait();
//! println!("{outcome:?}");
//! handle.shutdown();
//! node.join()?;
//! # Ok(())
//! # }
//! ```
//!
//! Whoever wants no channels implements [`machine::StateMachine`], and is given typed responses.
//! The [`Handle`] also knows who leads ([`Handle::watch_leader`]), asks a quorum whether that is so
//! ([`Handle::verify_leader`]), waits for everything before now ([`Handle::barrier`]) and hands
//! leadership over ([`Handle::transfer`]); each answer can be awaited or waited for.
//!
//! # Invariants
//!
//! The rules that the whole node keeps. Asserts and tests name them.
//!
//! - N1 snapshot index <= published <= commit index <= last index; applied <= published.
//! - N2 No message that promises durability leaves before the sync that makes it true returned,
//!   nor any message of a Ready that changes term or vote, or commits a membership change.
//! - N3 The commit channel carries contiguous ranges, each index once; after `Restore(i)` only
//!   indexes above i follow.
//! - N4 A snapshot labelled i contains exactly the entries 1..=i and the membership as of i.
//! - N5 The newest marker at or below the commit index has its snapshot file, and the log covers
//!   every index after it; snapshot files without a marker are deleted at open.
//! - N6 Replay returns a prefix of what was saved that holds everything synced, cut only at a
//!   torn last batch; all else is refused as corrupt.
//! - N7 Term, vote and commit index never regress on disk.
//! - N8 Every accepted proposal gets exactly one outcome, and it is true.

pub mod inspect;
pub mod machine;
pub mod membership;
#[cfg(feature = "simulation")]
#[doc(hidden)]
pub mod sim;
#[doc(hidden)]
pub mod testing;

mod channel;
mod config;
mod directory;
mod error;
#[cfg(test)]
mod fuzz;
mod identity;
mod key;
mod leadership;
mod metrics;
mod node;
mod pins;
mod snapshot;
mod stats;
mod status;
mod storage;
mod transport;
mod vet;

pub use channel::{
    Answer, Applied, Commit, CommittedEntry, Consistency, Entries, Handle, MAX_INDEX_AHEAD,
    Outcome, Pending, Read, Refusal, Restore, SnapshotRequest, SnapshotTaken, Stage, Trace,
    Transferred, Unknown, Verified,
};
pub use config::{Config, MAX_ENTRY_BYTES, SnapshotPolicy};
pub use directory::member_id;
pub use error::Error;
pub use leadership::{LeaderWatch, Leadership};
pub use metrics::Metrics;
pub use node::{Channels, MAX_LAG_BYTES, MAX_LAG_ENTRIES, Node};
pub use stats::Stats;
pub use status::{Link, Role, Status, Transfer};
#[doc(hidden)]
pub use wal::defects;
