//! Members that are stepped by hand, for a simulation: the production's loop, core, log, snapshots,
//! gate, queues and applier, without a thread, a socket or a clock. Not part of the API; exists with
//! the feature `simulation` only, which nothing turns on by itself.
//!
//! A [`Member`] does nothing on its own account. Whoever holds it says when a turn is, what time it
//! is then, when the applier, the disk's chores and the writer of snapshots get on, and what becomes
//! of each stream, call and transfer. What a turn does, and in which order, is the loop's own code.
//!
//! Refuses to look at the time of day and to draw randomness from anywhere but [`Recipe::seed`]:
//! the same calls give the same member.
//!
//! What can be seen for the rules of the whole node: N1, N5 and N7 in [`Cursors`]; N2 by
//! [`Member::early_promise`]; N3 and N4 in [`Consumed`] and by whoever implements the state machine;
//! N6 by what a [`boot`] finds; N8 by the outcomes at the [`Member::handle`].

mod frame;
mod ledger;
mod member;
mod peer;
mod talk;

use std::time::Instant;

use slog::Logger;
use wal::fs::{Fs, MemFs, Op};

pub use self::frame::{Append, decode};
use self::ledger::At;
pub(crate) use self::ledger::{Held, Ledger};
pub use self::member::{Began, Booted, Consumed, Member, boot};
pub use self::peer::{Peer, Sent};
pub use self::talk::{
    Answering, Departure, Hello, Join, Lane, Refused, SnapshotIn, SnapshotOut, Taking,
};
use crate::Config;
use crate::status::Role;

/// A disk that counts what it makes durable.
pub trait Disk: Fs + 'static {
    /// How many syncs it has done, of files and of directories.
    fn n_syncs(&self) -> u64;
}

impl Disk for MemFs {
    fn n_syncs(&self) -> u64 {
        self.count(Op::Sync)
    }
}

/// What a member is made of.
#[derive(Debug)]
pub struct Recipe<D = MemFs> {
    /// Its configuration. Bounds are not checked: segments may be smaller than a node takes.
    pub config: Config,
    /// Its disk.
    pub fs: D,
    /// Everything random about this life of it.
    pub seed: u64,
    /// What time it is on its clock.
    pub now: Instant,
    /// Where it logs.
    pub logger: Logger,
}

/// How far a member has come, in memory and on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursors {
    /// Its term.
    pub term: u64,
    /// Whom it voted for in that term; 0: nobody.
    pub vote: u64,
    /// What it knows to be committed.
    pub commit: u64,
    /// What it has given to its consumer, or queued for it.
    pub published: u64,
    /// What its consumer has reported as applied.
    pub applied: u64,
    /// The last index of its log.
    pub last_index: u64,
    /// The term of that entry.
    pub last_term: u64,
    /// The first index of its log.
    pub first_index: u64,
    /// The newest snapshot that its log vouches for.
    pub snapshot_index: u64,
    /// The term of that snapshot's last entry.
    pub snapshot_term: u64,
    /// The snapshot that it would begin with if that one were spoilt; none: it keeps no other, or
    /// keeps it only because it is on its way to somebody.
    pub older_snapshot: Option<u64>,
    /// What it is.
    pub role: Role,
    /// Whom it follows; 0: nobody.
    pub leader: u64,
    /// Grows whenever its address book changes.
    pub book_version: u64,
    /// Where in the log it became what it is.
    pub book_index: u64,
    /// How many removed members its gate knows.
    pub shut_out: usize,
    /// Its term, as its log has synced it.
    pub durable_term: u64,
    /// Its vote, as its log has synced it.
    pub durable_vote: u64,
    /// Its commit index, as its log has synced it.
    pub durable_commit: u64,
    /// The last index that its log has synced.
    pub durable_last: u64,
}

/// What a frame promises to have on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Promise {
    /// Whom the frame is for.
    pub to: u64,
    /// Its sender's term.
    pub term: u64,
    /// The vote that it gives.
    pub vote: Option<u64>,
    /// The last index that it acknowledges.
    pub index: Option<u64>,
    /// The term of the entry there; none: its sender has gone on to another term since, and may have
    /// replaced that entry.
    pub entry_term: Option<u64>,
}

impl Promise {
    /// What was missing on the disk when it left, if anything was.
    fn missing(&self, held: &Held) -> Option<String> {
        // What was said in an earlier term may be out of date, as if it had been under way.
        let is_late = held.term > self.term;
        let votes =
            self.vote.is_none_or(|vote| is_late || (held.term, held.vote) == (self.term, vote));
        let acknowledges = self.index.is_none()
            || match held.entry {
                At::Nothing => is_late && self.entry_term.is_none(),
                At::Term(term) => self.entry_term.is_none_or(|entry| entry == term),
                At::Snapshot => true,
            };
        let holds = held.term >= self.term && votes && acknowledges;
        (!holds).then(|| format!("N2: {self:?} left while the log had synced {held:?}"))
    }
}

/// A short fingerprint of a command or an entry's data, the same for the same bytes.
#[must_use]
pub fn fingerprint(bytes: &[u8]) -> u64 {
    // FNV-1a, eight bytes at a time.
    let mut hash = 0xcbf2_9ce4_8422_2325 ^ bytes.len() as u64;
    for chunk in bytes.chunks(8) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        hash = (hash ^ u64::from_le_bytes(word)).wrapping_mul(0x0000_0100_0000_01b3);
        hash ^= hash >> 29;
    }
    hash
}
