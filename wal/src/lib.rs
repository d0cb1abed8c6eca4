//! An append-only log of raft state: entries, hard state and snapshot markers.
//!
//! This crate knows no node, no network and no raft library. It keeps one promise: what
//! [`Wal::save`] has returned for is there after any crash, and whatever [`Wal::open`] returns was
//! once saved. Between the two lies one batch, the last, which a crash may leave half written; it
//! is cut off. Every other difference between what was written and what is read is refused, never
//! repaired.
//!
//! # Use
//!
//! ```
//! use std::{path::Path, sync::Arc};
//! use wal::{Batch, HardState, Marker, Options, Wal, fs::MemFs};
//!
//! # fn main() -> wal::Result<()> {
//! let fs = Arc::new(MemFs::new());
//! let options = Options { cluster: 7, node: 1, ..Options::default() };
//! let mut batch = Batch::new();
//! batch.set_marker(Marker { index: 1, term: 1, checksum: 0 });
//! batch.set_hard_state(HardState { term: 1, vote: 0, commit: 1 });
//! let mut wal = Wal::create(fs.clone(), Path::new("/wal"), options, &mut batch)?;
//!
//! batch.push_entry(2, 1, false, &[b"x=", b"1"]);
//! wal.save(&mut batch)?; // durable from here on
//! drop(wal);
//!
//! let (wal, opened) = Wal::open(fs, Path::new("/wal"), options, &|| false)?;
//! assert!(opened.torn.is_none());
//! assert_eq!(&wal.entries(2, 3, u64::MAX)?[0].payload[..], b"x=1");
//! # Ok(())
//! # }
//! ```
//!
//! # Threads
//!
//! This crate starts none. What a caller should not wait for is handed out as a value that any
//! thread may run: [`Wal::wants_segment`] gives a [`Preparation`] of the next segment's file,
//! [`Wal::release`] a [`Doomed`] that deletes old ones. Neither is needed for the log to be right.
//! [`Wal::write`] gives the sync of a batch, a [`Written`], for whoever has more to do than to wait
//! for it.
//!
//! # On disk, version 1
//!
//! A log is a directory of *segments*, files named `<sequence>-<first index>.wal` in 16 hexadecimal
//! digits each. A segment is a [header](segment) of one sector and then *frames*, each
//! starting at a sector of 512 bytes; the rest is zeros, allocated beforehand. A frame holds one
//! batch of [records](record), is written by one write, and is synced before the next is written.
//! Integers are little-endian. The byte diagrams stand beside the code that encodes them.
//!
//! Three checks tie the bytes together. Every frame's checksum is seeded with that of its segment's
//! header, which holds cluster, node and sequence: a frame from elsewhere never verifies. Every
//! frame names the checksum of the frame before it, and every segment that of the last frame of
//! the segment before it: nothing can go missing in between. And the last frame of every segment
//! but the newest is a *seal*, so that the newest cannot vanish unseen.
//!
//! The first frame of a segment, its *head*, repeats the hard state and the newest marker, which is
//! what allows older segments to be deleted.
//!
//! # What a crash can leave
//!
//! | crash while | leaves | opening |
//! |---|---|---|
//! | preparing or creating a segment | `*.wal.tmp` | deletes it |
//! | sealing a segment | it, unsealed, and a newest one holding its head alone | writes the seal |
//! | appending | a last frame with missing sectors | cuts it off and zeroes it |
//! | deleting segments | `*.wal.released` | deletes it and all before it |
//! | segments wait to be deleted | them | has them again |
//!
//! The table assumes that a sector of 512 bytes is written whole or not at all, that a sector
//! allocated and never written reads as zeros, and that a synced one stays as it is.
//!
//! # Limits
//!
//! Nothing on this disk tells a log from one to which less was written, and so these pass unseen:
//!
//! - A newest segment that someone else's hand cut short, at a frame's end or within one. So do
//!   newest segments that are gone together with the seal before them.
//! - The newest frame, damaged in such a way that one of its sectors reads as zeros, looks torn;
//!   so it does when its first sector reads as that of a torn frame that lay there before it.
//! - A last but one segment without its seal, and a newest one that has lost all but its head, look
//!   as if the batches there had never been written.
//! - Oldest segments that are gone, when the newest marker covers what was in them, look released.
//!
//! A test does such damage to random logs and accepts no other.

#[doc(hidden)]
pub mod defects;
mod deferred;
mod error;
pub mod fs;
#[cfg(test)]
mod fuzz;
mod index;
pub mod inspect;
pub mod record;
mod replay;
pub mod segment;
#[cfg(test)]
mod tests;
mod wal;
mod written;

pub use deferred::{Doomed, Preparation, Prepared, Released};
pub use error::{Error, Foreign, Result};
pub use record::{Batch, Entry, HardState, MAX_BATCH_BYTES, Marker};
pub use wal::{Opened, Options, Torn, Wal};
pub use written::Written;
