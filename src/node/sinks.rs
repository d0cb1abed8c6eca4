//! Where the transport puts the snapshots that other members send.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use wal::fs::Fs;

use crate::snapshot::{Incoming, Received};
use crate::transport::{SnapshotSink, SnapshotSinks};

/// Opens a temporary file for each snapshot that arrives.
pub(super) struct Sinks {
    fs: Arc<dyn Fs>,
    directory: PathBuf,
    cluster: u64,
    count: AtomicU64,
}

impl Sinks {
    pub(super) fn new(fs: Arc<dyn Fs>, directory: PathBuf, cluster: u64) -> Self {
        Self { fs, directory, cluster, count: AtomicU64::new(0) }
    }
}

impl SnapshotSinks for Sinks {
    fn begin(&self, from: u64, len: u64, checksum: u64) -> io::Result<Box<dyn SnapshotSink>> {
        // Never the same name twice: an abandoned file may be removed later than the next begins.
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        let path = self.directory.join(format!("received-{from}-{count}.snap.tmp"));
        let incoming = Incoming::begin(Arc::clone(&self.fs), &path, len, checksum)?;
        Ok(Box::new(Sink { incoming, cluster: self.cluster }))
    }
}

struct Sink {
    incoming: Incoming,
    cluster: u64,
}

impl SnapshotSink for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.incoming.write(bytes)
    }

    fn finish(self: Box<Self>) -> Result<Received, String> {
        self.incoming.finish(self.cluster).map_err(|error| error.to_string())
    }
}
