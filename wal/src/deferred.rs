//! Work that the log hands out instead of doing it: deletion and preallocation of segments.
//!
//! Both can take a disk tens of milliseconds, and whoever saves must not wait for them. They are
//! plain values that own what they need: any thread may run them, at any time, or never. The log
//! may save and rotate meanwhile, for they share no name with it and neither relies on a name not
//! being durable yet, which is all that somebody else's sync of the directory can change.
//!
//! - D1 A deletion that never ran leaves a longer log, and the next one includes it.
//! - D2 A deletion that failed latches the log, like everything that writes.
//! - D3 A preparation that failed or never ran changes nothing: the log creates its next segment
//!   itself, and says then what is wrong with the disk.

use std::{
    path::PathBuf,
    sync::{Arc, OnceLock},
};

use crate::{
    error::{Context, Error, Result},
    fs::Fs,
    segment::{self, Blank},
};

/// How far ahead of the log zeros are written, unless batches are large.
///
/// A sync into space that is allocated but unwritten also journals that the space is written now:
/// on ext4 it takes up to twice as long. Filling a whole segment at once would stall the caller,
/// or its syncs if another thread does it; filling a MiB now and then does not.
pub(crate) const FILL_BYTES: u64 = 1 << 20;

/// From this size on a batch is large: it goes into unwritten space as it is, because as many zeros
/// cost more to write than they save, and what large batches wrote leaves the cache again.
pub(crate) const LARGE_BYTES: u64 = 64 << 10;

/// How much of what large batches wrote last to the newest segment stays in the cache, and at most
/// twice as much. Of a segment that has given any back, nothing stays once the next is begun.
///
/// What lies further back is read by a start and by members that are far behind. If it stayed, the
/// system would write every batch through memory that is new to it.
pub(crate) const CACHED_BYTES: u64 = 8 << 20;

/// Segments that the log has forgotten and the disk still holds.
///
/// Only one of a log may be run at a time. Dropping it is harmless: the segments are found again
/// when the log is opened, or go with the next deletion.
#[must_use = "the segments stay on disk until `delete`"]
pub struct Doomed {
    pub(crate) fs: Arc<dyn Fs>,
    pub(crate) dir: PathBuf,
    /// The sequence of the newest segment that goes.
    pub(crate) newest: u64,
    pub(crate) n_segments: usize,
    pub(crate) failure: Arc<OnceLock<String>>,
}

/// What [`Doomed::delete`] deleted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Released {
    /// How many segments.
    pub n_segments: u64,
    /// Their size on disk.
    pub bytes: u64,
}

impl Doomed {
    /// How many segments the log has forgotten, not counting those of deletions that never ran.
    pub fn n_segments(&self) -> usize {
        self.n_segments
    }

    /// Deletes the segments and all before them, durably.
    ///
    /// A crash leaves all of them or none. An error latches the log.
    pub fn delete(self) -> Result<Released> {
        if let Some(why) = self.failure.get() {
            return Err(Error::Latched(why.clone()));
        }
        let result = segment::delete(&*self.fs, &self.dir, self.newest);
        if let Err(error) = &result {
            self.failure.get_or_init(|| error.to_string());
        }
        result
    }
}

/// The order to prepare a file for the segment after the newest.
#[must_use = "the log will create its next segment itself"]
pub struct Preparation {
    pub(crate) fs: Arc<dyn Fs>,
    pub(crate) dir: PathBuf,
    /// The sequence of the segment that the file is likely to become.
    pub(crate) sequence: u64,
    pub(crate) segment_bytes: u64,
    pub(crate) slot: Slot,
}

/// A file whose room on the disk is taken, to be given to [`Wal::supply`](crate::Wal::supply).
///
/// If it is not, the file stays until the log is opened.
#[must_use = "the file is of use to `Wal::supply` only"]
pub struct Prepared {
    pub(crate) blank: Blank,
    pub(crate) slot: Slot,
}

/// Held by the log and by the one preparation that is under way or waits to be used.
pub(crate) type Slot = Arc<()>;

impl Preparation {
    /// Creates the file, takes its room on the disk and syncs it.
    ///
    /// An error says nothing about the log, which goes on as if there had been no preparation.
    pub fn run(self) -> Result<Prepared> {
        let tmp = self.dir.join(segment::prepared_name(self.sequence));
        let file = self.fs.create_new(&tmp).context("create", &tmp)?;
        let mut blank = Blank::new(tmp, file);
        match blank.allocate(self.segment_bytes).and_then(|()| blank.fill(FILL_BYTES)) {
            Ok(()) => Ok(Prepared { blank, slot: self.slot }),
            Err(error) => {
                // Ignored because it is only a courtesy to a full disk: opening the log removes
                // what is left here, and the caller needs to hear of the first error.
                self.fs.remove_file(&blank.tmp).ok();
                Err(error)
            }
        }
    }
}
