//! What waits for one lane of one peer. Pure: no socket, no clock, no task.
//!
//! A queue belongs to the stream that is open now. Nothing outlives its stream, nothing is sent
//! twice, and nothing waits while no stream is open.
//!
//! Invariants:
//! - Q1 Frames and bytes are bounded; a frame that does not fit is never half-accepted.
//! - Q2 The queued appends continue each other: one term, no gap.
//! - Q3 Every Forward is either taken by the stream or given back as unsent, once.

use std::collections::VecDeque;

use raft::eraftpb::MessageType;

use super::frame::{Frame, MAX_PAYLOAD};
use crate::key::Attempt;

/// How many control frames may wait: far more than any group says within an election timeout.
const CONTROL_FRAMES: usize = 4096;
const CONTROL_BYTES: usize = 4 << 20;

/// How many bulk frames may wait: Forwards, mostly, and a node has at most 16,384 proposals of
/// its own waiting by default.
const BULK_FRAMES: usize = 32 << 10;

/// The two kinds of stream. Appends are large and may be lost together; everything else is small
/// and must not wait behind them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Lane {
    Bulk,
    Control,
}

impl Lane {
    pub(super) const ALL: [Self; 2] = [Self::Bulk, Self::Control];

    /// The lane that carries a frame; `None` for what no stream carries.
    pub(super) fn of(frame: &Frame) -> Option<Self> {
        match frame {
            Frame::Raft(message) => match message.msg_type {
                MessageType::MsgAppend => Some(Lane::Bulk),
                MessageType::MsgSnapshot => None,
                _ => Some(Lane::Control),
            },
            Frame::Forward { .. } => Some(Lane::Bulk),
            Frame::Verdict { .. } => Some(Lane::Control),
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Lane::Bulk => "bulk",
            Lane::Control => "control",
        }
    }
}

/// A frame with the size of its payload.
#[derive(Debug)]
pub(super) struct Queued {
    pub(super) frame: Frame,
    pub(super) len: usize,
}

/// What a push leads to, to be done when the queue's lock is released.
#[derive(Debug, Default)]
pub(super) struct Pushed {
    /// The frame was accepted; with it, so many bytes wait.
    pub(super) waits: Option<usize>,
    /// Appends were lost: tell raft.
    pub(super) unreachable: bool,
    /// The pushed Forward was not accepted.
    pub(super) unsent: Option<Attempt>,
}

/// What an empty or a filled queue says to its stream.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Taken {
    Some,
    Nothing,
    /// Nothing is left and nothing will follow.
    End,
}

#[derive(Debug)]
pub(super) struct Queue {
    max_frames: usize,
    max_bytes: usize,
    /// A stream is open, its heads checked.
    open: bool,
    /// The stream ends when the queue is empty.
    ending: bool,
    frames: VecDeque<Queued>,
    bytes: usize,
    appends: usize,
    /// Term and last index of the last queued append.
    last_append: Option<(u64, u64)>,
    /// How often the stream has taken something.
    turns: u64,
    taken_bytes: u64,
    dropped: u64,
}

impl Queue {
    pub(super) fn new(lane: Lane, bulk_queue_bytes: u64) -> Self {
        let (max_frames, max_bytes) = match lane {
            // The bound is meant for entries as raft counts them; an eighth more holds what
            // frames them, down to the smallest entry that carries a key.
            Lane::Bulk => (
                BULK_FRAMES,
                usize::try_from(bulk_queue_bytes.saturating_add(bulk_queue_bytes / 8))
                    .unwrap_or(usize::MAX),
            ),
            Lane::Control => (CONTROL_FRAMES, CONTROL_BYTES),
        };
        Self {
            max_frames,
            max_bytes,
            open: false,
            ending: false,
            frames: VecDeque::new(),
            bytes: 0,
            appends: 0,
            last_append: None,
            turns: 0,
            taken_bytes: 0,
            dropped: 0,
        }
    }

    /// Accepts a frame or says what became of it.
    pub(super) fn push(&mut self, frame: Frame) -> Pushed {
        let append = append_range(&frame);
        let unsent = frame.attempt();
        let refused = |unreachable| Pushed { waits: None, unreachable, unsent };
        let len = frame.payload_len();
        if !self.open || self.ending {
            self.dropped += 1;
            return refused(false);
        }
        if len > MAX_PAYLOAD {
            // What follows a lost append is worthless, and raft must not wait for its answer.
            self.dropped += 1;
            if append.is_some() {
                self.purge_appends();
            }
            return refused(append.is_some());
        }
        if let Some((term, first, _)) = append
            && self.last_append.is_some_and(|last| last != (term, first))
        {
            // Raft probes again from an earlier place: what waits would only be rejected.
            self.purge_appends();
        }
        if self.frames.len() >= self.max_frames || self.bytes + len > self.max_bytes {
            self.dropped += 1;
            if append.is_some() {
                self.purge_appends();
            }
            return refused(append.is_some());
        }
        if let Some((term, _, last)) = append {
            self.last_append = Some((term, last));
            self.appends += 1;
        }
        self.bytes += len;
        self.frames.push_back(Queued { frame, len });
        Pushed { waits: Some(self.bytes), ..Pushed::default() }
    }

    /// Moves frames of about `budget` bytes, at least one, to the stream.
    pub(super) fn take(&mut self, budget: usize, out: &mut Vec<Queued>) -> Taken {
        if self.frames.is_empty() {
            return if self.open && self.ending { Taken::End } else { Taken::Nothing };
        }
        let mut taken = 0;
        while let Some(next) = self.frames.front()
            && (taken == 0 || taken + next.len <= budget)
            && let Some(queued) = self.frames.pop_front()
        {
            taken += queued.len.max(1);
            self.taken_bytes += queued.len as u64;
            self.bytes -= queued.len;
            if append_range(&queued.frame).is_some() {
                self.appends -= 1;
            }
            out.push(queued);
        }
        if self.appends == 0 {
            self.last_append = None;
        }
        self.turns += 1;
        Taken::Some
    }

    /// A stream's heads were checked: frames may be queued for it.
    pub(super) fn open(&mut self) {
        assert!(self.frames.is_empty() && !self.open, "Q: a stream opened over another one");
        self.open = true;
    }

    /// The stream is gone, and with it all that waited; the Forwards among that were never sent.
    pub(super) fn close(&mut self) -> Vec<Attempt> {
        self.open = false;
        self.dropped += self.frames.len() as u64;
        (self.bytes, self.appends, self.last_append) = (0, 0, None);
        let unsent = |queued: Queued| queued.frame.attempt();
        // The memory goes as well: a peer that is away for days should cost nothing.
        std::mem::take(&mut self.frames).into_iter().filter_map(unsent).collect()
    }

    /// Lets the stream end once everything that waits now has left. Whether there is a stream.
    pub(super) fn end(&mut self) -> bool {
        self.ending = true;
        self.open
    }

    pub(super) fn is_ending(&self) -> bool {
        self.ending
    }

    /// How often the stream has taken something, and whether something waits.
    pub(super) fn progress(&self) -> (u64, bool) {
        (self.turns, !self.frames.is_empty())
    }

    /// How many frames were lost before any stream took them.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// How many bytes wait, and how many streams have taken.
    pub(super) fn bytes(&self) -> (u64, u64) {
        (self.bytes as u64, self.taken_bytes)
    }

    fn purge_appends(&mut self) {
        let before = self.frames.len();
        self.frames.retain(|queued| append_range(&queued.frame).is_none());
        self.dropped += (before - self.frames.len()) as u64;
        self.bytes = self.frames.iter().map(|queued| queued.len).sum();
        (self.appends, self.last_append) = (0, None);
    }
}

/// Of an append: its term, the index it follows, and the last index it brings.
fn append_range(frame: &Frame) -> Option<(u64, u64, u64)> {
    match frame {
        Frame::Raft(message) if message.msg_type == MessageType::MsgAppend => {
            let last = message.index.saturating_add(message.entries.len() as u64);
            Some((message.term, message.index, last))
        }
        Frame::Raft(_) | Frame::Forward { .. } | Frame::Verdict { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use raft::eraftpb::{Entry, Message};

    use super::*;
    use crate::key::Key;
    use crate::transport::frame::VerdictKind;

    const MIB: u64 = 1 << 20;

    fn append(term: u64, index: u64, entries: usize) -> Frame {
        sized_append(term, index, entries, 1)
    }

    fn sized_append(term: u64, index: u64, entries: usize, size: usize) -> Frame {
        let entry = Entry { data: vec![1; size].into(), ..Entry::default() };
        let mut message = Message { term, index, ..Message::default() };
        message.set_msg_type(MessageType::MsgAppend);
        message.entries = vec![entry; entries].into();
        Frame::Raft(message)
    }

    fn forward(sequence: u64, size: usize) -> Frame {
        Frame::Forward { term: 1, key: key(sequence), data: Bytes::from(vec![0; size]) }
    }

    fn key(sequence: u64) -> Key {
        Key { node: 1, nonce: 1, sequence }
    }

    fn open(lane: Lane) -> Queue {
        let mut queue = Queue::new(lane, 16 * MIB);
        queue.open();
        queue
    }

    fn taken(queue: &mut Queue) -> Vec<Frame> {
        let mut out = Vec::new();
        while queue.take(usize::MAX, &mut out) == Taken::Some {}
        out.into_iter().map(|queued| queued.frame).collect()
    }

    /// Raft's window is worthless from the first gap on (Q2): only what continues may wait.
    #[test]
    fn an_append_that_does_not_continue_replaces_the_queued_ones() {
        let first = || append(5, 10, 3);
        let table = [
            ("continues", append(5, 13, 2), true),
            ("empty, tells the commit index", append(5, 13, 0), true),
            ("probes again from before", append(5, 9, 1), false),
            ("is the same again", append(5, 10, 3), false),
            ("leaves a gap", append(5, 14, 1), false),
            ("is empty, from before", append(5, 10, 0), false),
            ("is of a later term", append(6, 13, 1), false),
        ];
        for (what, second, continues) in table {
            let mut queue = open(Lane::Bulk);
            for frame in [first(), forward(1, 9), second.clone()] {
                let pushed = queue.push(frame);
                assert!(!pushed.unreachable && pushed.unsent.is_none());
            }
            let expected = if continues {
                vec![first(), forward(1, 9), second]
            } else {
                vec![forward(1, 9), second]
            };
            assert_eq!(taken(&mut queue), expected, "{what}");
            assert_eq!((queue.bytes, queue.appends, queue.last_append), (0, 0, None), "{what}");
        }
    }

    /// What the stream has taken is no longer there to be continued or replaced.
    #[test]
    fn a_taken_append_constrains_nothing() {
        let mut queue = open(Lane::Bulk);
        queue.push(append(5, 10, 3));
        queue.push(append(5, 13, 1));
        let mut out = Vec::new();
        queue.take(1, &mut out);
        assert_eq!((out.len(), queue.last_append), (1, Some((5, 14))));
        queue.push(append(5, 14, 0));
        assert_eq!(taken(&mut queue), [append(5, 13, 1), append(5, 14, 0)]);
        queue.push(append(5, 3, 1));
        assert_eq!(taken(&mut queue), [append(5, 3, 1)]);
    }

    /// The bulk lane must hold raft's whole window, and beyond it must fail as a whole (Q1).
    #[test]
    fn a_full_bulk_queue_loses_its_appends_and_keeps_its_forwards() {
        let mut queue = open(Lane::Bulk);
        queue.push(forward(1, 100));
        for nth in 0..16 {
            let pushed = queue.push(sized_append(5, nth, 1, MIB as usize));
            assert!(!pushed.unreachable, "append {nth} of raft's window did not fit");
        }
        let mut more = (16..30).map(|nth| queue.push(sized_append(5, nth, 1, MIB as usize)));
        assert!(more.any(|pushed| pushed.unreachable));
        drop(more);
        assert_eq!(taken(&mut queue).first(), Some(&forward(1, 100)));

        let mut queue = open(Lane::Bulk);
        queue.push(append(5, 1, 1));
        for sequence in 0..5 {
            assert_eq!(queue.push(forward(sequence, 3 << 20)).unsent, None);
        }
        let pushed = queue.push(forward(6, 3 << 20));
        assert_eq!((pushed.unsent.map(|a| a.key), pushed.unreachable), (Some(key(6)), false));
        assert!(queue.push(sized_append(5, 2, 1, 3 << 20)).unreachable);
        assert!(!queue.push(append(5, 1, 1)).unreachable, "told once, and small ones fit");
        let rest = taken(&mut queue);
        assert_eq!((rest.len(), rest.last()), (6, Some(&append(5, 1, 1))));
    }

    /// By count as well: tiny frames must not take more memory than large ones.
    #[test]
    fn a_full_control_queue_drops_the_newest() {
        let verdict = |term| Frame::Verdict {
            key: key(term),
            refusal: VerdictKind::NotLeader,
            term,
            leader: 0,
        };
        let mut queue = open(Lane::Control);
        for term in 0..CONTROL_FRAMES as u64 + 3 {
            let pushed = queue.push(verdict(term));
            assert!(!pushed.unreachable && pushed.unsent.is_none());
        }
        assert_eq!(queue.dropped(), 3);
        let frames = taken(&mut queue);
        assert_eq!((frames.len(), &frames[0]), (CONTROL_FRAMES, &verdict(0)));
    }

    /// A frame that no receiver would take must not break the stream for the others.
    #[test]
    fn a_frame_above_the_cap_is_not_queued() {
        let mut queue = open(Lane::Bulk);
        assert_eq!(queue.push(forward(1, MAX_PAYLOAD)).unsent.map(|a| a.key), Some(key(1)));
        assert!(queue.push(sized_append(1, 1, 1, MAX_PAYLOAD)).unreachable, "raft must know");
        assert_eq!((taken(&mut queue), queue.dropped()), (vec![], 2));
    }

    /// Without a stream nothing waits, and what waited for a lost one is accounted for (Q3).
    #[test]
    fn without_a_stream_forwards_come_back_at_once() {
        let mut queue = Queue::new(Lane::Bulk, 16 * MIB);
        assert_eq!(queue.push(forward(1, 1)).unsent.map(|a| a.key), Some(key(1)));
        assert!(!queue.push(append(1, 1, 1)).unreachable);
        queue.open();
        for frame in [forward(2, 1), append(1, 1, 1), forward(3, 1)] {
            queue.push(frame);
        }
        let unsent: Vec<Key> = queue.close().into_iter().map(|attempt| attempt.key).collect();
        assert_eq!(unsent, [key(2), key(3)]);
        assert_eq!(queue.close(), []);
        queue.open();
        assert_eq!(taken(&mut queue), []);
        queue.push(append(1, 7, 1));
        assert_eq!(taken(&mut queue).len(), 1);
    }

    /// A stopping node says its last words before the stream ends.
    #[test]
    fn an_ending_queue_ends_after_what_waits() {
        let mut queue = open(Lane::Control);
        queue.push(forward(1, 1));
        assert!(queue.end());
        assert_eq!(queue.push(forward(2, 1)).unsent.map(|a| a.key), Some(key(2)));
        let mut out = Vec::new();
        assert_eq!(queue.take(1, &mut out), Taken::Some);
        assert_eq!(queue.take(1, &mut out), Taken::End);
    }
}
