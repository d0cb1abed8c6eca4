//! What a node knows of itself and its cluster, as seen from outside its loop.
//!
//! The loop publishes one copy at the end of a turn in which something changed; readers take a
//! lock that is held for a copy and never while anything is waited for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::channel::Refusal;
use crate::leadership::{Leaders, Leadership};
use crate::membership::Book;

/// The part a member plays, as it believes itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Role {
    /// Follows a leader, or waits for one.
    #[default]
    Follower,
    /// Asks whether it would be elected (thesis 9.6).
    PreCandidate,
    /// Asks to be elected.
    Candidate,
    /// Leads.
    Leader,
}

impl Role {
    /// The role in lower case, as people write it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Role::Follower => "follower",
            Role::PreCandidate => "pre-candidate",
            Role::Candidate => "candidate",
            Role::Leader => "leader",
        }
    }
}

/// A snapshot on its way between two members.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transfer {
    /// The other member.
    pub peer: u64,
    /// The last index that the snapshot holds.
    pub index: u64,
    /// How many bytes have been moved.
    pub bytes: u64,
    /// How many there are.
    pub total: u64,
}

/// This member's line to another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Link {
    /// Whether both streams to it are open.
    pub connected: bool,
    /// How many bytes wait to be sent.
    pub queued_bytes: u64,
    /// How many bytes were sent since the start.
    pub sent_bytes: u64,
    /// How many frames were dropped unsent since the start.
    pub dropped: u64,
}

/// A node's view of itself and its cluster at the end of its last turn.
#[derive(Debug, Clone, Default)]
pub struct Status {
    /// This member.
    pub id: u64,
    /// The cluster it belongs to.
    pub cluster_id: u64,
    /// Its role.
    pub role: Role,
    /// Its current term.
    pub term: u64,
    /// Who it believes leads; 0 when it knows of nobody.
    pub leader_id: u64,
    /// The last index known to be committed.
    pub commit_index: u64,
    /// The last index handed to the consumer.
    pub published_index: u64,
    /// The last index that the consumer reported as applied.
    pub applied_index: u64,
    /// The last index of the log on this member.
    pub last_index: u64,
    /// The term of the entry at `last_index`.
    pub last_term: u64,
    /// The first index of the log on this member.
    pub first_index: u64,
    /// The index of the newest snapshot.
    pub snapshot_index: u64,
    /// The term of the entry at `snapshot_index`.
    pub snapshot_term: u64,
    /// The index of the membership change that made `book` what it is; the snapshot's when none
    /// has been applied since.
    pub book_index: u64,
    /// The membership as of `published_index`.
    pub book: Book,
    pub(crate) book_version: u64,
    /// The client URLs that members gave when they last met this one, and its own.
    pub client_urls: BTreeMap<u64, String>,
    /// What the leader knows of each member's log: id to last index known to match. Empty off
    /// the leader.
    pub matched: BTreeMap<u64, u64>,
    /// The members that the leader has heard within an election timeout, itself among them. Empty
    /// off the leader.
    pub live: BTreeSet<u64>,
    /// The size of the newest snapshot's file, in bytes.
    pub snapshot_bytes: u64,
    /// Whether a snapshot is being taken.
    pub taking_snapshot: bool,
    /// Snapshots on their way to other members.
    pub sending: Vec<Transfer>,
    /// Snapshots on their way to this member.
    pub receiving: Vec<Transfer>,
    /// The lines to the other members, by id.
    pub links: BTreeMap<u64, Link>,
    /// How long ago this member last heard from the leader it follows; `None` when it leads, or
    /// has never heard of one.
    pub leader_silence: Option<Duration>,
    /// How many items wait on the commit channel.
    pub commit_queue_len: u64,
    /// How many bytes of entries wait for the consumer.
    pub commit_queue_bytes: u64,
    /// How many requests wait for an answer.
    pub pending_requests: u64,
    /// How many bytes of proposals wait for an answer.
    pub pending_bytes: u64,
    /// Whether a leader is known and this member has applied what was committed when it started.
    pub ready: bool,
}

impl Status {
    fn leadership(&self) -> Leadership {
        Leadership { leader_id: self.leader_id, term: self.term, role: self.role }
    }
}

/// The cell between the loop and everyone else.
#[derive(Debug)]
pub(crate) struct Shared {
    started: Instant,
    last_turn_ms: AtomicU64,
    shutdown: AtomicBool,
    status: Mutex<Status>,
    pub(crate) leaders: Leaders,
    pub(crate) pending: Pending,
    pub(crate) space: Arc<Space>,
}

/// How much of the data directory's disk is free, and how much must be for proposals to be let in.
#[derive(Debug)]
pub(crate) struct Space {
    /// 0: none need be.
    min: AtomicU64,
    /// [`Space::UNKNOWN`] when nobody has looked, or the disk does not say.
    free: AtomicU64,
}

impl Default for Space {
    fn default() -> Self {
        Self { min: AtomicU64::new(0), free: AtomicU64::new(Self::UNKNOWN) }
    }
}

impl Space {
    const UNKNOWN: u64 = u64::MAX;

    pub(crate) fn min(&self) -> u64 {
        self.min.load(Ordering::Relaxed)
    }

    pub(crate) fn set_min(&self, bytes: u64) {
        self.min.store(bytes, Ordering::Relaxed);
    }

    pub(crate) fn free(&self) -> Option<u64> {
        Some(self.free.load(Ordering::Relaxed)).filter(|free| *free != Self::UNKNOWN)
    }

    pub(crate) fn saw(&self, free: Option<u64>) {
        self.free.store(free.unwrap_or(Self::UNKNOWN), Ordering::Relaxed);
    }

    /// Why proposals are refused, if they are.
    pub(crate) fn shortage(&self) -> Option<Refusal> {
        let (free_bytes, min_free_bytes) = (self.free()?, self.min());
        (free_bytes < min_free_bytes).then_some(Refusal::LowDisk { free_bytes, min_free_bytes })
    }
}

/// What the door needs to know without asking the loop: what was let in and has not been
/// answered, and how far the loop has come.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    pub(crate) requests: AtomicU64,
    pub(crate) bytes: AtomicU64,
    /// The last index of the log at the end of the loop's last turn.
    pub(crate) last_index: AtomicU64,
    /// Commits run too far ahead of applies, as of the loop's last turn.
    pub(crate) lags: AtomicBool,
}

impl Shared {
    pub(crate) fn new(status: Status) -> Self {
        Self {
            started: Instant::now(),
            last_turn_ms: AtomicU64::new(0),
            shutdown: AtomicBool::new(false),
            leaders: Leaders::default(),
            space: Arc::default(),
            pending: Pending {
                last_index: AtomicU64::new(status.last_index),
                ..Pending::default()
            },
            status: Mutex::new(status),
        }
    }

    pub(crate) fn request_shutdown(&self) {
        self.shutdown.store(true, Ordering::SeqCst);
    }

    pub(crate) fn shutdown_requested(&self) -> bool {
        self.shutdown.load(Ordering::SeqCst)
    }

    pub(crate) fn status(&self) -> Status {
        let mut status = self.lock().clone();
        status.pending_requests = self.pending.requests.load(Ordering::Relaxed);
        status.pending_bytes = self.pending.bytes.load(Ordering::Relaxed);
        status
    }

    /// Lets the loop change what others see.
    pub(crate) fn update(&self, change: impl FnOnce(&mut Status)) {
        let is_news = {
            let mut status = self.lock();
            let before = status.leadership();
            change(&mut status);
            self.pending.last_index.store(status.last_index, Ordering::Relaxed);
            let is_news = status.leadership() != before;
            if is_news {
                self.leaders.advance();
            }
            is_news
        };
        if is_news {
            self.leaders.notify();
        }
    }

    /// Who leads now, and how often that has changed.
    pub(crate) fn leadership(&self) -> (Leadership, u64) {
        let status = self.lock();
        (status.leadership(), self.leaders.version())
    }

    /// The node has ended: it leads no more, and knows nobody who does.
    pub(crate) fn end(&self) {
        {
            let mut status = self.lock();
            (status.leader_id, status.role) = (0, Role::Follower);
            self.leaders.end();
        }
        self.leaders.notify();
    }

    pub(crate) fn turn_ended(&self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.started).as_millis();
        self.last_turn_ms.store(u64::try_from(elapsed).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    pub(crate) fn last_turn_age(&self) -> Duration {
        let last = Duration::from_millis(self.last_turn_ms.load(Ordering::Relaxed));
        self.started.elapsed().saturating_sub(last)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Status> {
        // A poisoned lock means that a reader panicked while copying: the value is whole.
        self.status.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever asks a member that has just started for an index of its long log must wait for it,
    /// and not hear that there can be no such index.
    #[test]
    fn the_log_is_known_before_the_first_turn() {
        let shared = Shared::new(Status { last_index: 7, ..Status::default() });
        assert_eq!(shared.pending.last_index.load(Ordering::Relaxed), 7);
    }
}
