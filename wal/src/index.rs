//! What the log holds, in memory: terms, changes of configuration, and where the entries lie.
//!
//! The index never reads and never writes. It is the one judge of what may enter the log:
//! [`LogIndex::check`] is asked before a batch leaves for the disk and again when it comes back.
//!
//! - W1 The term never falls.
//! - W2 The vote changes only when the term grows, or from nobody.
//! - W3 The commit index never falls and never passes the last entry.
//! - W4 The entries of a batch are consecutive and leave no gap behind the log.
//! - W5 No entry at or below the commit index is written again.
//! - W6 Terms never fall along the log and never pass the hard state's.
//! - W7 A marker's index and term never fall, and its term never passes the hard state's.
//! - W8 A marker does not contradict a committed entry.
//! - W9 A batch is bounded, see [`MAX_BATCH_BYTES`](crate::MAX_BATCH_BYTES).
//! - W10 Only what the newest marker covers is released.
//! - W11 Indexes and terms, and the numbers of frames and segments, stay below [`MAX_NUMBER`].
//!
//! A batch means its marker, then its entries, then its hard state. An entry replaces the one of
//! its index and cuts off all that follow. A marker for an entry that the log holds changes
//! nothing but raises the commit index to at least its own; for any other it empties the log, which
//! goes on behind the marker.
//!
//! Memory is bounded by the count of term changes, of configuration changes, and by the bytes of
//! the log over [`SPAN_BYTES`], never by the count of entries.

use crate::{
    record::{Contents, HardState, Marker},
    segment::Position,
};

/// How much of a segment one span covers, unless a single frame is larger.
///
/// A reader reads whole spans, so this is what a read of one entry costs at worst. At 64 MiB a
/// segment it comes to 256 spans of 40 bytes.
pub(crate) const SPAN_BYTES: u64 = 256 << 10;

/// What no index and no term reaches, nor the number of a frame or segment: twice as much can still
/// be counted. A log that holds more was not written by raft.
pub(crate) const MAX_NUMBER: u64 = u64::MAX / 2;

/// Where a frame lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    /// The sequence of the segment.
    pub(crate) segment: u64,
    pub(crate) start: u64,
    pub(crate) end: u64,
}

/// Entries `first..end` are in the frames of `place`, each once.
///
/// The frames may also hold entries at `end` and after, which were cut off since.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) first: u64,
    pub(crate) end: u64,
    pub(crate) place: Place,
}

/// A broken rule, named, with the values that break it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Breach(pub(crate) String);

#[derive(Debug)]
pub(crate) struct LogIndex {
    base: Position,
    last_index: u64,
    hard_state: HardState,
    /// Terms from the entry `index` on, ascending; the first begins behind the base.
    runs: Vec<Position>,
    conf_changes: Vec<u64>,
    spans: Vec<Span>,
    /// A frame may only extend the last span if nothing was cut off it.
    is_span_open: bool,
    markers: Vec<Marker>,
    /// For each marker, the sequence of the segment that holds it.
    marker_segments: Vec<u64>,
}

macro_rules! ensure {
    ($holds:expr, $($rule:tt)+) => {
        if !$holds {
            return Err(Breach(format!($($rule)+)));
        }
    };
}

/// W11 first: the other rules count.
fn within_bounds(batch: &Contents) -> Result<(), Breach> {
    let marker = batch.marker.map(|marker| (marker.index, marker.term));
    let state = batch.hard_state.map(|state| (state.commit, state.term));
    let entries = batch.entries.iter().map(|entry| (entry.index, entry.term));
    for (index, term) in entries.chain(marker).chain(state) {
        ensure!(index < MAX_NUMBER, "W11: index {index} is not below {MAX_NUMBER}");
        ensure!(term < MAX_NUMBER, "W11: term {term} is not below {MAX_NUMBER}");
    }
    Ok(())
}

impl LogIndex {
    /// The index of a log that begins with this head.
    pub(crate) fn begin(base: Position, segment: u64, head: &Contents) -> Result<Self, Breach> {
        let hard_state = head.hard_state.unwrap_or_default();
        within_bounds(head)?;
        ensure!(head.entries.is_empty(), "W4: a head holds entries");
        let commit = hard_state.commit;
        ensure!(commit <= base.index, "W3: commit {commit} passes last index {}", base.index);
        let term = hard_state.term;
        ensure!(base.term <= term, "W6: entry term {} passes term {term}", base.term);
        if let Some(marker) = head.marker {
            ensure!(marker.index <= commit, "W8: marker {} passes commit {commit}", marker.index);
            ensure!(marker.term <= term, "W7: marker term {} passes term {term}", marker.term);
        }
        Ok(Self {
            base,
            last_index: base.index,
            hard_state,
            runs: Vec::new(),
            conf_changes: Vec::new(),
            spans: Vec::new(),
            is_span_open: false,
            markers: head.marker.into_iter().collect(),
            marker_segments: head.marker.map(|_| segment).into_iter().collect(),
        })
    }

    pub(crate) fn base(&self) -> Position {
        self.base
    }

    pub(crate) fn last_index(&self) -> u64 {
        self.last_index
    }

    pub(crate) fn hard_state(&self) -> HardState {
        self.hard_state
    }

    pub(crate) fn markers(&self) -> &[Marker] {
        &self.markers
    }

    pub(crate) fn last(&self) -> Position {
        let term = self.runs.last().map_or(self.base.term, |run| run.term);
        Position { index: self.last_index, term }
    }

    pub(crate) fn term(&self, index: u64) -> Option<u64> {
        if index == self.base.index {
            return Some(self.base.term);
        }
        if index < self.base.index || index > self.last_index {
            return None;
        }
        let after = self.runs.partition_point(|run| run.index <= index);
        Some(self.runs[after - 1].term)
    }

    pub(crate) fn conf_changes(&self, low: u64, high: u64) -> &[u64] {
        let start = self.conf_changes.partition_point(|&index| index < low);
        let end = self.conf_changes.partition_point(|&index| index < high);
        &self.conf_changes[start..end.max(start)]
    }

    /// The bytes of the frames that hold entries in `low..high`: by at most two spans too many.
    pub(crate) fn bytes(&self, low: u64, high: u64) -> u64 {
        let spans = self.spans(low).iter().take_while(|span| span.first < high);
        spans.map(|span| span.place.end - span.place.start).sum()
    }

    /// The spans that hold entries from `low` on.
    pub(crate) fn spans(&self, low: u64) -> &[Span] {
        &self.spans[self.spans.partition_point(|span| span.end <= low)..]
    }

    /// Whether the batch may enter the log.
    pub(crate) fn check(&self, batch: &Contents) -> Result<(), Breach> {
        within_bounds(batch)?;
        let old = self.hard_state;
        let new = batch.hard_state.unwrap_or(old);
        ensure!(new.term >= old.term, "W1: term falls from {} to {}", old.term, new.term);
        ensure!(
            new.term > old.term || new.vote == old.vote || old.vote == 0,
            "W2: vote changes from {} to {} in term {}",
            old.vote,
            new.vote,
            old.term
        );

        let mut last = self.last();
        let mut commit = old.commit;
        if let Some(marker) = batch.marker {
            if let Some(newest) = self.markers.last() {
                ensure!(
                    marker.index >= newest.index && marker.term >= newest.term,
                    "W7: {marker:?} falls behind {newest:?}"
                );
            }
            ensure!(marker.term <= new.term, "W7: {marker:?} passes term {}", new.term);
            if self.empties(marker) {
                ensure!(
                    marker.index > commit,
                    "W8: {marker:?} contradicts commit {commit}, where the term is {:?}",
                    self.term(marker.index)
                );
                last = Position { index: marker.index, term: marker.term };
            }
            commit = commit.max(marker.index);
        }

        if let Some(first) = batch.entries.first() {
            ensure!(first.index > commit, "W5: entry {} is at or below {commit}", first.index);
            ensure!(
                first.index <= last.index + 1,
                "W4: entry {} leaves a gap behind {}",
                first.index,
                last.index
            );
            if first.index <= last.index {
                let index = first.index - 1;
                // At the base or below it: a log that begins there was released too far.
                let Some(term) = self.term(index) else {
                    return Err(Breach(format!("W5: entry {} is below the log", first.index)));
                };
                last = Position { index, term };
            }
        }
        for entry in &batch.entries {
            ensure!(
                entry.index == last.index + 1,
                "W4: entry {} follows {}",
                entry.index,
                last.index
            );
            ensure!(
                entry.term >= last.term && entry.term <= new.term,
                "W6: entry {} has term {}, not in {}..={}",
                entry.index,
                entry.term,
                last.term,
                new.term
            );
            last = Position { index: entry.index, term: entry.term };
        }

        if batch.hard_state.is_some() {
            ensure!(new.commit >= commit, "W3: commit falls from {commit} to {}", new.commit);
            commit = new.commit;
        }
        ensure!(commit <= last.index, "W3: commit {commit} passes last index {}", last.index);
        Ok(())
    }

    /// Takes a batch that overwrites entries from before the log's beginning for the beginning, if
    /// what came before is not at hand. The term there stays 0, unknown, until a marker tells it.
    pub(crate) fn reach_back(&mut self, batch: &Contents) {
        if let Some(first) = batch.entries.first()
            && first.index <= self.base.index
            && first.index > self.hard_state.commit
        {
            self.cut(first.index);
            self.base = Position { index: first.index - 1, term: 0 };
        }
        if let Some(marker) = batch.marker
            && marker.index == self.base.index
            && self.base.term == 0
        {
            self.base.term = marker.term;
        }
    }

    /// Enters a batch that `check` has let pass; returns the lowest index that it wrote or cut at.
    pub(crate) fn apply(&mut self, batch: &Contents, place: Place) -> Option<u64> {
        let mut lowest = None;
        if let Some(marker) = batch.marker {
            if self.empties(marker) {
                self.cut(0);
                self.base = Position { index: marker.index, term: marker.term };
                self.last_index = marker.index;
                lowest = Some(marker.index);
            }
            self.hard_state.commit = self.hard_state.commit.max(marker.index);
            self.markers.push(marker);
            self.marker_segments.push(place.segment);
        }
        if let (Some(first), Some(last)) = (batch.entries.first(), batch.entries.last()) {
            lowest = Some(lowest.map_or(first.index, |lowest| first.index.min(lowest)));
            if first.index <= self.last_index {
                self.cut(first.index);
            }
            for entry in &batch.entries {
                if self.last().term != entry.term || self.runs.is_empty() {
                    self.runs.push(Position { index: entry.index, term: entry.term });
                }
                if entry.is_conf_change {
                    self.conf_changes.push(entry.index);
                }
                self.last_index = entry.index;
            }
            self.extend_spans(first.index, last.index + 1, place);
        }
        if let Some(hard_state) = batch.hard_state {
            self.hard_state = hard_state;
        }
        lowest
    }

    /// Forgets the segments before the one with this sequence, base and head.
    pub(crate) fn release(&mut self, segment: u64, base: Position, head_marker: Option<Marker>) {
        if base.index > self.base.index {
            let kept = self.runs.partition_point(|run| run.index <= base.index + 1);
            // The run that holds the first entry kept begins there now.
            let holder = kept.checked_sub(1).map(|at| self.runs[at].term);
            self.runs.drain(..kept);
            if let Some(term) = holder
                && base.index < self.last_index
            {
                self.runs.insert(0, Position { index: base.index + 1, term });
            }
            let kept = self.conf_changes.partition_point(|&index| index <= base.index);
            self.conf_changes.drain(..kept);
            self.base = base;
        }
        self.spans.retain(|span| span.place.segment >= segment);
        let kept = self.marker_segments.partition_point(|&of| of < segment);
        self.markers.splice(..kept, head_marker);
        self.marker_segments.splice(..kept, head_marker.map(|_| segment));
    }

    /// Whether the log must be emptied for this marker.
    ///
    /// What lies below the base was held, and released since.
    fn empties(&self, marker: Marker) -> bool {
        marker.index >= self.base.index && self.term(marker.index) != Some(marker.term)
    }

    /// Cuts off the entries at `first` and after.
    fn cut(&mut self, first: u64) {
        self.runs.truncate(self.runs.partition_point(|run| run.index < first));
        self.conf_changes.truncate(self.conf_changes.partition_point(|&index| index < first));
        self.spans.truncate(self.spans.partition_point(|span| span.first < first));
        if let Some(span) = self.spans.last_mut() {
            span.end = span.end.min(first);
        }
        self.is_span_open = false;
        self.last_index = first.saturating_sub(1);
    }

    fn extend_spans(&mut self, first: u64, end: u64, place: Place) {
        if self.is_span_open
            && let Some(span) = self.spans.last_mut()
            && span.place.segment == place.segment
            && place.end - span.place.start <= SPAN_BYTES
        {
            span.end = end;
            span.place.end = place.end;
            return;
        }
        self.spans.push(Span { first, end, place });
        self.is_span_open = true;
    }
}
