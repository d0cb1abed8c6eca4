//! Where the transport puts the snapshots that other members send, and where it gets ours.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use wal::fs::Fs;

use crate::identity;
use crate::snapshot::{self, Announced, Incoming, Outgoing, Received};
use crate::transport::{SnapshotSink, SnapshotSinks, SnapshotSource};

/// How many segments of the log must still find room while a snapshot arrives: the one that is
/// prepared ahead, and the one after it.
const SPARE_SEGMENTS: u64 = 2;

/// Opens a temporary file for each snapshot that arrives.
pub(crate) struct Sinks {
    fs: Arc<dyn Fs>,
    directory: PathBuf,
    cluster: u64,
    count: AtomicU64,
    /// What must stay free on the disk for the log.
    spare_bytes: u64,
}

impl Sinks {
    /// For a member whose log's segments have at most so many bytes.
    pub(crate) fn new(
        fs: Arc<dyn Fs>,
        directory: PathBuf,
        cluster: u64,
        segment_bytes: u64,
    ) -> Self {
        // Serials begin anywhere: a node that was stopped in this process may not be done with its
        // own last file.
        let count = AtomicU64::new(u64::from_le_bytes(identity::random()));
        let spare_bytes = segment_bytes.saturating_mul(SPARE_SEGMENTS);
        Self { fs, directory, cluster, count, spare_bytes }
    }
}

impl SnapshotSinks for Sinks {
    fn begin(&self, from: u64, len: u64, checksum: u64) -> io::Result<Box<dyn SnapshotSink>> {
        let free = self.fs.free_bytes(&self.directory)?;
        let spare = self.spare_bytes;
        if len.saturating_add(spare) > free {
            let message = format!(
                "a snapshot of {len} bytes, and {free} bytes are free, of which the log needs {spare}"
            );
            return Err(io::Error::new(io::ErrorKind::StorageFull, message));
        }
        // Serials tell what is received apart from what is taken, which has 0, and from what was
        // given up a moment ago and is still being removed. The index is in the file itself.
        let serial = self.count.fetch_add(1, Ordering::Relaxed).max(1);
        let path = self.directory.join(snapshot::temporary_name(0, from, serial));
        let announced = Announced { cluster: self.cluster, bytes: len, checksum };
        Ok(Box::new(Sink(Incoming::begin(&self.fs, &path, announced)?)))
    }
}

struct Sink(Incoming);

impl SnapshotSink for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        Ok(self.0.write(bytes)?)
    }

    fn finish(self: Box<Self>) -> Result<Received, String> {
        self.0.finish().map_err(|error| error.to_string())
    }
}

impl SnapshotSource for Outgoing {
    fn len(&self) -> u64 {
        Outgoing::len(self)
    }

    fn checksum(&self) -> u64 {
        Outgoing::checksum(self)
    }

    fn read_at(&mut self, offset: u64, bytes: &mut [u8]) -> io::Result<usize> {
        Ok(Outgoing::read_at(self, offset, bytes)?)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use wal::fs::MemFs;

    use super::*;

    /// A snapshot is taken in while the log's next segments find room beside it, however small the
    /// disk is: a member on a small one would otherwise never catch up.
    #[test]
    fn room_is_kept_for_the_log_and_no_more() {
        const SEGMENT: u64 = 64 << 10;
        let fs = MemFs::new();
        let directory = Path::new("/data/snap");
        for part in directory.ancestors().take(2).collect::<Vec<_>>().iter().rev() {
            fs.create_dir(part).unwrap();
        }
        let sinks = Sinks::new(Arc::new(fs.clone()), directory.to_owned(), 1, SEGMENT);
        fs.set_free_bytes(2 * SEGMENT + 1000);
        assert!(sinks.begin(2, 1000, 0).is_ok());
        let refused = sinks.begin(2, 1001, 0).err().unwrap();
        assert_eq!(refused.kind(), io::ErrorKind::StorageFull);
        assert!(refused.to_string().contains("131072"), "{refused}");
    }
}
