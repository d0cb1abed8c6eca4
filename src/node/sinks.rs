//! Where the transport puts the snapshots that other members send, and where it gets ours.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use wal::fs::Fs;

use crate::identity;
use crate::snapshot::{self, Announced, Incoming, Outgoing, Received};
use crate::transport::{SnapshotSink, SnapshotSinks, SnapshotSource};

/// What must stay free on the disk for the log while a snapshot arrives.
const SPARE_BYTES: u64 = 256 << 20;

/// Opens a temporary file for each snapshot that arrives.
pub(crate) struct Sinks {
    fs: Arc<dyn Fs>,
    directory: PathBuf,
    cluster: u64,
    count: AtomicU64,
}

impl Sinks {
    pub(crate) fn new(fs: Arc<dyn Fs>, directory: PathBuf, cluster: u64) -> Self {
        // Serials begin anywhere: a node that was stopped in this process may not be done with its
        // own last file.
        let count = AtomicU64::new(u64::from_le_bytes(identity::random()));
        Self { fs, directory, cluster, count }
    }
}

impl SnapshotSinks for Sinks {
    fn begin(&self, from: u64, len: u64, checksum: u64) -> io::Result<Box<dyn SnapshotSink>> {
        let free = self.fs.free_bytes(&self.directory)?;
        if len.saturating_add(SPARE_BYTES) > free {
            let message = format!("a snapshot of {len} bytes, and {free} bytes are free");
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
