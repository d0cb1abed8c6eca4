//! The lines between machines: streams, and what keeps them from getting through.
//!
//! A stream carries chunks in order. A chunk that is lost is sent again, and whatever is behind it
//! waits; sometimes that is the end of the stream. A line that is cut keeps everything that is on
//! it until it is mended, or until the sender hears nothing for so long that it gives the stream
//! up: then all of that is gone.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use raftnode::sim::{Hello, Lane};

use super::params::SECOND;
use crate::coverage::Kind;

/// For so long a sender puts up with silence: two election timeouts.
const SILENCE: u64 = 2 * SECOND;
/// And for so long with a bulk stream that takes nothing, while its other end can be heard.
const STALL: u64 = 10 * SECOND;

/// From whom, to whom, on which lane.
pub(crate) type Key = (u64, u64, Lane);

/// A stream that is open at its sender, or was when its chunks left.
#[derive(Debug)]
pub(crate) struct Stream {
    /// The sender's number for it; 0: it is closed there, and what is under way is the rest.
    pub(crate) number: u64,
    /// What its sender stated.
    pub(crate) hello: Hello,
    /// The life of the member that accepted it.
    pub(crate) to_life: u64,
    /// What is under way: when it arrives, when it left, and what it is.
    pub(crate) chunks: VecDeque<(u64, u64, Bytes)>,
    pub(crate) bytes: usize,
    /// When the last chunk arrives.
    pub(crate) last: u64,
    /// Whether an arrival is planned.
    pub(crate) is_planned: bool,
    /// When it breaks, if that is known.
    pub(crate) breaks_at: u64,
    /// Since when nothing has been heard of the other end, and taken by it.
    silent_since: u64,
    stalled_since: u64,
}

impl Stream {
    pub(crate) fn new(number: u64, hello: Hello, to_life: u64, now: u64) -> Self {
        Self {
            number,
            hello,
            to_life,
            chunks: VecDeque::new(),
            bytes: 0,
            last: 0,
            is_planned: false,
            breaks_at: u64::MAX,
            silent_since: now,
            stalled_since: now,
        }
    }
}

/// All lines.
#[derive(Debug, Default)]
pub(crate) struct Network {
    pub(crate) streams: BTreeMap<Key, Stream>,
    /// From whom to whom nothing gets.
    cuts: BTreeMap<(u64, u64), Cut>,
}

#[derive(Debug)]
struct Cut {
    until: u64,
    cause: Kind,
    has_held: bool,
}

impl Network {
    pub(crate) fn cut(&mut self, from: u64, to: u64, until: u64, cause: Kind) {
        let cut = Cut { until, cause, has_held: false };
        let known = self.cuts.entry((from, to)).or_insert(Cut { until: 0, ..cut });
        if known.until < until {
            *known = cut;
        }
    }

    /// Something is held on this line: by what, if that is the first that is.
    pub(crate) fn holds(&mut self, from: u64, to: u64) -> Option<Kind> {
        let cut = self.cuts.get_mut(&(from, to))?;
        (!std::mem::replace(&mut cut.has_held, true)).then_some(cut.cause)
    }

    pub(crate) fn mend(&mut self) {
        self.cuts.clear();
    }

    /// When something that is sent now gets through, if it is now at all or later.
    pub(crate) fn passes_at(&self, from: u64, to: u64, now: u64) -> u64 {
        if self.cuts.is_empty() {
            return now;
        }
        self.cuts.get(&(from, to)).map_or(0, |cut| cut.until).max(now)
    }

    pub(crate) fn is_cut(&self, from: u64, to: u64, now: u64) -> bool {
        self.passes_at(from, to, now) > now
    }

    /// Whether two can talk now.
    pub(crate) fn connects(&self, one: u64, other: u64, now: u64) -> bool {
        !self.is_cut(one, other, now) && !self.is_cut(other, one, now)
    }

    /// Looks after the streams: gives those that their senders give up now. `speaks` says who is
    /// there to be heard.
    pub(crate) fn given_up(&mut self, now: u64, speaks: &dyn Fn(u64) -> bool) -> Vec<Key> {
        self.cuts.retain(|_, cut| cut.until > now);
        let Self { streams, cuts } = self;
        let cut = |from, to| cuts.contains_key(&(from, to));
        let mut given_up = Vec::new();
        for (key, stream) in streams.iter_mut() {
            let (from, to, lane) = *key;
            if stream.number == 0 || !speaks(from) {
                continue;
            }
            if speaks(to) && !cut(to, from) {
                stream.silent_since = now;
            }
            let takes = speaks(to) && !cut(from, to);
            if takes || stream.chunks.is_empty() {
                stream.stalled_since = now;
            }
            let stall = if lane == Lane::Bulk { STALL } else { SILENCE };
            let is_lost = now - stream.silent_since > SILENCE
                || now - stream.stalled_since > stall
                || now >= stream.breaks_at;
            if is_lost {
                given_up.push(*key);
            }
        }
        given_up
    }
}
