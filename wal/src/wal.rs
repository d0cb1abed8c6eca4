//! The log itself: create, open, save, read, release.
//!
//! What is saved is durable when the call returns, or, by whoever cannot wait for that, when the
//! [`Written`] that is returned was synced and taken back; what is released is only forgotten, and
//! deleted by whoever runs the [`Doomed`] that is returned. After a write, sync or deletion has failed
//! nobody knows what the disk holds, so the log is latched: it answers [`Error::Latched`] until it
//! is opened anew, and nothing is ever tried again. A batch that breaks a rule of the index panics
//! before a byte of it is written.
//!
//! The order of what must happen before what is in four functions: `segment::create` for a new
//! segment, [`Wal::rotate`] for the change to it, `segment::delete` for old ones, and [`Wal::open`]
//! for what a crash left.

use std::{
    borrow::Cow,
    fmt, io,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use bytes::Bytes;

use crate::{
    defects::{Defect, has},
    deferred::{CACHED_BYTES, Doomed, FILL_BYTES, LARGE_BYTES, Preparation, Prepared, Slot},
    error::{Context, Error, Foreign, Result},
    fs::{Fs, SECTOR, parent},
    index::{Breach, LogIndex, MAX_NUMBER, Place, SPAN_BYTES, Span},
    record::{Batch, Contents, ENTRY_HEADER, Entry, FrameHeader, HardState, Kind, Marker},
    replay::{End, Replayed, Window, replay},
    segment::{self, Header, Name, Position, Segment, parse_name, write_zeros},
    written::Written,
};

/// Whose log it is and how it is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// The cluster; a log of another is refused.
    pub cluster: u64,
    /// The member; a log of another is refused.
    pub node: u64,
    /// The size at which the next segment is begun, in bytes. Default: 64 MiB. A batch that is
    /// larger still gets a segment of its own. May differ from one opening to the next.
    pub segment_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { cluster: 0, node: 0, segment_bytes: 64 << 20 }
    }
}

/// What opening a log found and did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Opened {
    /// The last batch, which was never acknowledged and has been cut off.
    pub torn: Option<Torn>,
    /// The segment whose seal a crash had prevented and which is sealed now.
    pub sealed: Option<PathBuf>,
    /// Files of a creation or a deletion that a crash had interrupted, or prepared for a segment
    /// that was never begun, removed now.
    pub leftovers: Vec<PathBuf>,
}

/// A batch whose write a crash has interrupted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Torn {
    /// The newest segment.
    pub path: PathBuf,
    /// Where the batch began, and the log now ends.
    pub offset: u64,
    /// How far the batch's bytes reached, from there.
    pub bytes: u64,
}

/// An open log.
pub struct Wal {
    fs: Arc<dyn Fs>,
    dir: PathBuf,
    options: Options,
    /// Oldest first; never empty.
    segments: Vec<Segment>,
    index: LogIndex,
    /// The end of the newest segment.
    end: End,
    /// Where the newest segment's first batch goes.
    head_end: u64,
    /// How far zeros or frames have been written into the newest segment.
    filled: u64,
    /// How far the newest segment has been left to the disk alone.
    forgotten: u64,
    /// What the next segment will be made of.
    prepared: Option<Prepared>,
    /// Shared while a preparation is under way or waits to be used.
    slot: Slot,
    /// The newest segment for which a file was asked for.
    asked: u64,
    /// What went wrong, if anything has.
    latched: Option<Cow<'static, str>>,
    /// Set by a deletion that failed, on whatever thread.
    deletion_failure: Arc<OnceLock<String>>,
    /// The newest batch, while it is written and not synced.
    under_way: Option<Written>,
    /// When the newest batch had been written, and when it was durable, for those who measure.
    last_save: Option<(Instant, Instant)>,
    /// How long its sync itself took.
    last_sync: Duration,
}

impl Wal {
    /// Whether `dir` holds a log. What a crash left of [`Wal::create`] is none.
    pub fn exists(fs: &dyn Fs, dir: &Path) -> Result<bool> {
        if !fs.exists(dir).context("look for", dir)? {
            return Ok(false);
        }
        let names = fs.list(dir).context("list", dir)?;
        Ok(names.iter().any(|name| matches!(parse_name(name), Name::Segment { .. })))
    }

    /// Creates a log in `dir`, which is created too if its parent is there.
    ///
    /// `first` holds the hard state and the marker that the log begins with, or nothing. It is
    /// cleared. The log, `dir` and its name are durable on return.
    ///
    /// # Panics
    ///
    /// If `first` breaks a rule of the log or holds entries.
    pub fn create(fs: Arc<dyn Fs>, dir: &Path, options: Options, first: &mut Batch) -> Result<Wal> {
        if !fs.exists(dir).context("look for", dir)? {
            fs.create_dir(dir).context("create", dir)?;
        }
        for name in fs.list(dir).context("list", dir)? {
            let path = dir.join(&name);
            if parse_name(&name) != Name::Unfinished {
                return Err(io::Error::from(io::ErrorKind::AlreadyExists)).context("create", &path);
            }
            fs.remove_file(&path).context("remove", &path)?;
        }
        fs.sync_dir(parent(dir)).context("sync", parent(dir))?;

        let marker = first.contents().marker;
        let mut hard_state = first.contents().hard_state.unwrap_or_default();
        hard_state.commit = hard_state.commit.max(marker.map_or(0, |marker| marker.index));
        first.set_hard_state(hard_state);
        let base =
            marker.map_or(Position::default(), |m| Position { index: m.index, term: m.term });
        let Options { cluster, node, segment_bytes } = options;
        let header = Header { cluster, node, sequence: 1, base, previous: 0 };
        let index = LogIndex::begin(base, header.sequence, first.contents());
        let index = index.unwrap_or_else(|Breach(rule)| panic!("{rule}"));

        let (segment, end, filled) =
            segment::create(&*fs, dir, header, segment_bytes, None, first, 1)?;
        first.clear();
        let log = Replayed {
            segments: vec![segment],
            index,
            end,
            head_end: end.offset,
            unsealed: None,
            torn: None,
        };
        Ok(Self::new(fs, dir, options, log, filled))
    }

    fn new(fs: Arc<dyn Fs>, dir: &Path, options: Options, log: Replayed, filled: u64) -> Self {
        let Replayed { segments, index, end, head_end, .. } = log;
        Self {
            fs,
            dir: dir.to_owned(),
            options,
            segments,
            index,
            end,
            head_end,
            filled,
            forgotten: 0,
            prepared: None,
            slot: Slot::default(),
            asked: 0,
            latched: None,
            deletion_failure: Arc::default(),
            under_way: None,
            last_save: None,
            last_sync: Duration::ZERO,
        }
    }

    /// Opens the log in `dir`, reading all of it once, and finishes what a crash interrupted.
    ///
    /// What is returned is durable, whatever of it the dead process had only written. `stop` is
    /// asked before each batch and ends the replay with [`Error::Interrupted`] when true. Nothing
    /// else may have the directory open: the lock is the caller's. Nor may a [`Doomed`] or a
    /// [`Preparation`] of an earlier opening be running meanwhile.
    pub fn open(
        fs: Arc<dyn Fs>,
        dir: &Path,
        options: Options,
        stop: &dyn Fn() -> bool,
    ) -> Result<(Wal, Opened)> {
        let found = survey(&*fs, dir)?;
        contiguous(dir, &found.names).map_err(|(_, error)| error)?;
        let Found { names, unfinished, doomed, released } = found;
        let mut log = replay(&*fs, dir, &names, &options, stop)?;

        // Whoever wrote this may have died before a sync that belongs to it, and what follows builds
        // on what was read: a seal is proof of the next segment's name, a removal that of the one to
        // be released, and the batches of the newest segment are proof of the seal before it.
        if !has(Defect::BelieveNames) {
            fs.sync_dir(dir).context("sync", dir)?;
        }
        if let [.., segment, _] = &log.segments[..]
            && !has(Defect::BelieveSeal)
        {
            segment.file.sync_data().context("sync", &segment.path)?;
        }

        // Only now is anything changed: a log that is refused stays as it was found.
        let mut opened = Opened { torn: log.torn.take(), sealed: None, leftovers: unfinished };
        for path in &opened.leftovers {
            fs.remove_file(path).context("remove", path)?;
        }
        if let Some(released) = released {
            segment::finish_delete(&*fs, dir, &doomed, &released)?;
            opened.leftovers.extend(doomed);
            opened.leftovers.push(released);
        }
        if let (Some(end), [.., segment, _]) = (log.unsealed, &mut log.segments[..]) {
            seal(segment, end)?;
            opened.sealed = Some(segment.path.clone());
        }
        let tail = log.segments.last_mut().expect("replay returns at least one segment");
        if let Some(Torn { path, offset, bytes }) = &opened.torn
            && !has(Defect::KeepTornBytes)
        {
            // A shorter batch may follow here: what it leaves uncovered must not be read again.
            write_zeros(&*tail.file, *offset, offset + bytes).context("write", path)?;
        }
        if tail.bytes < options.segment_bytes {
            tail.file.allocate(options.segment_bytes).context("allocate", &tail.path)?;
            tail.bytes = options.segment_bytes;
        }
        if !has(Defect::BelieveCache) {
            tail.file.sync_data().context("sync", &tail.path)?;
        }
        let filled = log.end.offset;
        Ok((Self::new(fs, dir, options, log, filled), opened))
    }

    /// Makes a batch durable: one frame, one write, one sync. Clears the batch.
    ///
    /// An empty batch costs nothing.
    ///
    /// # Panics
    ///
    /// If the batch breaks a rule of the log, or another is [written](Wal::write) and not synced.
    pub fn save(&mut self, batch: &mut Batch) -> Result<()> {
        match self.write(batch)? {
            Some(written) => self.synced(written),
            None => Ok(()),
        }
    }

    /// The first half of [`save`](Wal::save): everything but the sync, which is for whoever runs
    /// [`Written::sync`]. Clears the batch. `None`: it was empty.
    ///
    /// The log has the batch from now on, for those who read it, and promises nothing about it until
    /// [`synced`](Wal::synced) has taken back what is returned. Nothing can be saved before that.
    ///
    /// # Panics
    ///
    /// As [`save`](Wal::save).
    pub fn write(&mut self, batch: &mut Batch) -> Result<Option<Written>> {
        self.usable()?;
        if batch.is_empty() {
            return Ok(None);
        }
        assert!(self.under_way.is_none(), "S2: a batch is written before the last one is synced");
        if let Err(Breach(rule)) = self.index.check(batch.contents()) {
            panic!("{rule}");
        }
        assert!(self.can_count(), "W11: no numbers are left for frames or segments");
        let written = self.latching(|wal| {
            let is_fresh = wal.end.offset == wal.head_end;
            // Room for the seal stays free, so that sealing needs no new space on the disk.
            let needed = wal.end.offset + batch.frame_len() + SECTOR;
            if needed > wal.options.segment_bytes && !is_fresh {
                wal.rotate()?;
            }
            wal.append(batch)
        })?;
        batch.clear();
        self.under_way = Some(written.clone());
        Ok(Some(written))
    }

    /// The second half of [`save`](Wal::save): the batch is durable when this returns. Syncs it here
    /// if nobody has.
    ///
    /// # Errors
    ///
    /// Its sync has failed, wherever that was.
    ///
    /// # Panics
    ///
    /// If it is not the batch that was written last, or was taken back before.
    #[expect(clippy::needless_pass_by_value, reason = "it is of no use any more")]
    pub fn synced(&mut self, written: Written) -> Result<()> {
        let is_it = self.under_way.take().is_some_and(|under_way| under_way.is(&written));
        assert!(is_it, "S2: another batch is taken back than the one that was written");
        let (durable_at, took) = self.latching(|_| written.result())?;
        self.last_save = Some((written.written_at(), durable_at));
        self.last_sync = took;
        Ok(())
    }

    /// Whether a save, with the segment that it may begin, stays within the numbers that are read
    /// again (W11). No log gets there; one that was made up may be there already.
    fn can_count(&self) -> bool {
        let segment = self.segments.last().map_or(0, |segment| segment.header.sequence);
        segment.max(self.end.sequence).max(self.last_index()) < MAX_NUMBER - 2
    }

    /// Reads entries `low..high` from disk, verified: at least one, then as many as make no more
    /// than `max_bytes` with the 24 bytes of overhead that each has.
    ///
    /// # Panics
    ///
    /// If the range is empty or not within `first_index()..=last_index()`.
    pub fn entries(&self, low: u64, high: u64, max_bytes: u64) -> Result<Vec<Entry>> {
        self.usable()?;
        assert!(
            low >= self.first_index() && low < high && high <= self.last_index() + 1,
            "entries {low}..{high} are not within {}..={}",
            self.first_index(),
            self.last_index()
        );
        let mut entries = Vec::new();
        let mut bytes_left = max_bytes;
        let mut contents = Contents::default();
        for span in self.index.spans(low) {
            let at = self.segments.partition_point(|s| s.header.sequence < span.place.segment);
            let segment = &self.segments[at];
            let size = span.place.end;
            let chunk = usize::try_from(SPAN_BYTES).expect("a span's size is a small constant");
            let mut window = Window::new(&*segment.file, size, chunk);
            let mut offset = span.place.start;
            while offset < span.place.end {
                let bytes = window.get(offset, SECTOR as usize).context("read", &segment.path)?;
                let frame = FrameHeader::decode(bytes, segment.seed)
                    .ok_or_else(|| unreadable(segment, offset, span))?;
                let bytes = window.frame(offset, &frame).context("read", &segment.path)?;
                let is_whole = frame.verify(bytes, segment.seed) || has(Defect::UnverifiedReads);
                if !is_whole || frame.parse(bytes, &mut contents).is_err() {
                    return Err(unreadable(segment, offset, span));
                }
                for meta in &contents.entries {
                    let next = low + entries.len() as u64;
                    if meta.index < low || meta.index >= span.end {
                        continue;
                    }
                    // A checksum that holds at a place where something else was written.
                    if meta.index != next || self.term(next) != Some(meta.term) {
                        return Err(unreadable(segment, offset, span));
                    }
                    let (start, length) = meta.payload;
                    let cost = (length + ENTRY_HEADER) as u64;
                    if next == high || (cost > bytes_left && !entries.is_empty()) {
                        return Ok(entries);
                    }
                    bytes_left = bytes_left.saturating_sub(cost);
                    entries.push(Entry {
                        index: meta.index,
                        term: meta.term,
                        is_conf_change: meta.is_conf_change,
                        // Copied, lest one entry keep a whole span in memory.
                        payload: Bytes::copy_from_slice(&bytes[start..start + length]),
                    });
                }
                offset += frame.frame_len();
                if low + entries.len() as u64 == high {
                    return Ok(entries);
                }
            }
        }
        assert_eq!(low + entries.len() as u64, high, "the spans cover the log");
        Ok(entries)
    }

    /// The term of an entry of the log, or of the one before its first.
    pub fn term(&self, index: u64) -> Option<u64> {
        self.index.term(index)
    }

    /// The first entry of the log, whether it is there yet or not.
    pub fn first_index(&self) -> u64 {
        self.index.base().index + 1
    }

    /// The last entry of the log, or the one before its first when it is empty.
    pub fn last_index(&self) -> u64 {
        self.index.last_index()
    }

    /// The hard state saved last, its commit index raised by later markers.
    pub fn hard_state(&self) -> HardState {
        self.index.hard_state()
    }

    /// When the newest batch of this process had been written, and when it was durable.
    pub fn last_save(&self) -> Option<(Instant, Instant)> {
        self.last_save
    }

    /// How long the disk took to sync it, without any wait for a thread. Zero before the first.
    pub fn last_sync(&self) -> Duration {
        self.last_sync
    }

    /// The newest marker.
    pub fn marker(&self) -> Option<Marker> {
        self.index.markers().last().copied()
    }

    /// The markers in the segments that are still there, oldest first.
    ///
    /// The log may begin behind all but the newest: compare with [`Wal::first_index`].
    pub fn markers(&self) -> &[Marker] {
        self.index.markers()
    }

    /// Indexes in `low..high` of entries that change the configuration.
    pub fn conf_changes(&self, low: u64, high: u64) -> impl Iterator<Item = u64> + '_ {
        self.index.conf_changes(low, high).iter().copied()
    }

    /// How many segments there are.
    pub fn n_segments(&self) -> usize {
        self.segments.len()
    }

    /// The size of all segments' files. Asks the disk nothing.
    pub fn bytes(&self) -> u64 {
        self.bytes_from(0)
    }

    fn bytes_from(&self, at: usize) -> u64 {
        self.segments[at..].iter().map(|segment| segment.bytes).sum()
    }

    /// About how many bytes the entries in `low..high` take: never less, and more only by what
    /// shares a stretch of 256 KiB with them. Asks the disk nothing.
    pub fn bytes_between(&self, low: u64, high: u64) -> u64 {
        self.index.bytes(low, high)
    }

    /// The lowest index such that releasing through it leaves at most `max_bytes`, or as little as
    /// can be left where that is more. 0 if nothing has to go, or nothing can.
    ///
    /// The markers are not asked: the index may be beyond what [`Wal::release`] accepts.
    pub fn release_point(&self, max_bytes: u64) -> u64 {
        let mut point = 0;
        if self.bytes() > max_bytes {
            for (n, at) in self.starts().enumerate() {
                if n > 0 && self.bytes_from(at) > max_bytes {
                    break;
                }
                point = self.segments[at].header.base.index;
            }
        }
        point
    }

    /// Forgets the segments that hold no entry behind `through`, and returns them to be deleted.
    ///
    /// Entries above `through` stay, and all that share a segment with one. The newest segment
    /// stays. Where an overwrite reached back behind the beginning of a segment, the segments
    /// before it stay until it can go too: replay could not begin there.
    ///
    /// Nothing is done on disk, where the segments stay until [`Doomed::delete`].
    ///
    /// # Panics
    ///
    /// If the newest marker does not cover `through`.
    pub fn release(&mut self, through: u64) -> Result<Option<Doomed>> {
        self.usable()?;
        let covered = self.marker().map_or(0, |marker| marker.index);
        assert!(through <= covered, "W10: release through {through} passes marker {covered}");
        let base = |at: &usize| self.segments[*at].header.base.index;
        let Some(first) = self.starts().find(|at| base(at) <= through) else { return Ok(None) };
        self.segments.drain(..first);
        let head = &self.segments[0];
        self.index.release(head.header.sequence, head.header.base, head.head_marker);
        Ok(Some(Doomed {
            fs: self.fs.clone(),
            dir: self.dir.clone(),
            newest: head.header.sequence - 1,
            n_segments: first,
            failure: self.deletion_failure.clone(),
        }))
    }

    /// The segments that the log could begin with instead of its oldest, newest first.
    fn starts(&self) -> impl Iterator<Item = usize> + '_ {
        let mut lowest = u64::MAX;
        self.segments.iter().enumerate().skip(1).rev().filter_map(move |(at, segment)| {
            lowest = lowest.min(segment.lowest);
            (lowest > segment.header.base.index).then_some(at)
        })
    }

    /// The order to prepare the next segment's file: once for each segment, and never while an
    /// earlier preparation is under way or waits to be used.
    pub fn wants_segment(&mut self) -> Option<Preparation> {
        let sequence = self.segments.last()?.header.sequence + 1;
        let is_slot_taken = Arc::strong_count(&self.slot) > 1;
        if self.usable().is_err() || is_slot_taken || self.asked == sequence {
            return None;
        }
        self.asked = sequence;
        Some(Preparation {
            fs: self.fs.clone(),
            dir: self.dir.clone(),
            sequence,
            segment_bytes: self.options.segment_bytes,
            slot: self.slot.clone(),
        })
    }

    /// Takes a file for the next segment.
    ///
    /// # Panics
    ///
    /// If it was prepared for another log.
    pub fn supply(&mut self, prepared: Prepared) {
        assert!(Arc::ptr_eq(&prepared.slot, &self.slot), "a file prepared for another log");
        self.prepared = Some(prepared);
    }

    /// Writes a frame behind the last.
    fn append(&mut self, batch: &mut Batch) -> Result<Written> {
        let segment = self.segments.last_mut().expect("a log has at least one segment");
        let End { offset, sequence, previous } = self.end;
        let (frame, bytes) = batch.finish(Kind::Batch, sequence, previous, segment.seed);
        let end = offset + frame.frame_len();
        let is_large = frame.frame_len() >= LARGE_BYTES;
        if is_large && offset - self.forgotten >= 2 * CACHED_BYTES {
            self.forgotten = offset - CACHED_BYTES;
            // Only a hint.
            segment.file.forget_cache_before(self.forgotten).ok();
        }
        if end > self.filled && !is_large {
            // The sync below covers these zeros, which mean what unwritten space means.
            let until = self.options.segment_bytes.min(end + FILL_BYTES).max(end);
            write_zeros(&*segment.file, end, until).context("write", &segment.path)?;
            self.filled = until;
        }
        segment.file.write_all_at(offset, bytes).context("write", &segment.path)?;
        let written = Written::new(segment.file.clone(), segment.path.clone());
        let place = Place { segment: segment.header.sequence, start: offset, end };
        if let Some(lowest) = self.index.apply(batch.contents(), place) {
            segment.lowest = segment.lowest.min(lowest);
        }
        segment.bytes = segment.bytes.max(end);
        self.end = End { offset: end, sequence: sequence + 1, previous: frame.checksum };
        Ok(written)
    }

    /// Goes on in a new segment. The old one is synced as it stands, since every save syncs.
    fn rotate(&mut self) -> Result<()> {
        let old = self.segments.last_mut().expect("a log has at least one segment");
        let header = Header {
            sequence: old.header.sequence + 1,
            base: self.index.last(),
            previous: self.end.previous,
            ..old.header
        };
        let mut head = Batch::new();
        if !has(Defect::NoHeadState) {
            head.set_hard_state(self.index.hard_state());
        }
        if let Some(marker) = self.index.markers().last() {
            head.set_marker(*marker);
        }
        let (segment, end, filled) = segment::create(
            &*self.fs,
            &self.dir,
            header,
            self.options.segment_bytes,
            self.prepared.take().map(|prepared| prepared.blank),
            &mut head,
            self.end.sequence,
        )?;
        // Replay takes a seal as proof that the next segment was there, and a batch in the next
        // segment as proof of the seal: so the seal is durable after the one and before the other.
        seal(old, self.end)?;
        if std::mem::take(&mut self.forgotten) > 0 {
            // Only a hint.
            old.file.forget_cache().ok();
        }
        self.segments.push(segment);
        self.end = end;
        self.head_end = end.offset;
        self.filled = filled;
        Ok(())
    }

    fn usable(&self) -> Result<()> {
        let why = self.latched.as_deref().or(self.deletion_failure.get().map(String::as_str));
        why.map_or(Ok(()), |why| Err(Error::Latched(why.to_owned())))
    }

    /// Runs what writes. The log stays latched unless it succeeds, even if it panics.
    fn latching<T>(&mut self, run: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        self.latched = Some("a write has panicked".into());
        let result = run(self);
        let failed = result.as_ref().err().filter(|_| !has(Defect::Unlatched));
        self.latched = failed.map(|error| error.to_string().into());
        result
    }
}

impl fmt::Debug for Wal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wal")
            .field("dir", &self.dir)
            .field("first_index", &self.first_index())
            .field("last_index", &self.last_index())
            .field("hard_state", &self.hard_state())
            .field("latched", &self.latched)
            .finish_non_exhaustive()
    }
}

/// What is in the log's directory.
#[derive(Default)]
pub(crate) struct Found {
    /// Sequence and first index of each segment, oldest first.
    pub(crate) names: Vec<(u64, u64)>,
    pub(crate) unfinished: Vec<PathBuf>,
    /// Segments before the one that `released` says is released.
    pub(crate) doomed: Vec<PathBuf>,
    pub(crate) released: Option<PathBuf>,
}

pub(crate) fn survey(fs: &dyn Fs, dir: &Path) -> Result<Found> {
    let mut found = Found::default();
    let mut released_sequence = 0;
    for name in fs.list(dir).context("list", dir)? {
        match parse_name(&name) {
            Name::Segment { sequence, first_index } => found.names.push((sequence, first_index)),
            Name::Unfinished => found.unfinished.push(dir.join(name)),
            Name::Released { sequence } if found.released.is_none() => {
                released_sequence = sequence;
                found.released = Some(dir.join(name));
            }
            // A release is finished before the next is begun.
            Name::Released { .. } | Name::Malformed => {
                return Err(Error::Foreign { path: dir.join(name), what: Foreign::Name });
            }
            Name::Other => {}
        }
    }
    found.names.sort_unstable();
    let kept = found.names.partition_point(|name| name.0 <= released_sequence);
    let doomed = found.names.drain(..kept);
    found.doomed = doomed.map(|(s, first)| dir.join(segment::file_name(s, first))).collect();
    Ok(found)
}

/// # Errors
///
/// How many segments there are before the first that does not follow on the one before it, and why.
pub(crate) fn contiguous(dir: &Path, names: &[(u64, u64)]) -> Result<(), (usize, Error)> {
    for (at, pair) in names.windows(2).enumerate() {
        let (before, after) = (pair[0].0, pair[1].0);
        if after == before {
            let path = dir.join(segment::file_name(pair[1].0, pair[1].1));
            return Err((at, Error::Foreign { path, what: Foreign::Name }));
        }
        if after != before + 1 {
            let path = dir.join(format!("{:016x}-*.wal", before + 1));
            return Err((at + 1, Error::Missing { path, why: "the segments around it are there" }));
        }
    }
    Ok(())
}

fn seal(segment: &mut Segment, end: End) -> Result<()> {
    let mut seal = Batch::new();
    let (_, bytes) = seal.finish(Kind::Seal, end.sequence, end.previous, segment.seed);
    segment.file.write_all_at(end.offset, bytes).context("write", &segment.path)?;
    if !has(Defect::SkipSealSync) {
        segment.file.sync_data().context("sync", &segment.path)?;
    }
    segment.bytes = segment.bytes.max(end.offset + SECTOR);
    Ok(())
}

fn unreadable(segment: &Segment, offset: u64, span: &Span) -> Error {
    Error::Corrupt {
        path: segment.path.clone(),
        offset,
        first_index: span.first,
        last_index: Some(span.end - 1),
        reason: "it has changed since it was verified".to_owned(),
    }
}
