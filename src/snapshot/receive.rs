//! Receiving a snapshot file from a peer.

use std::path::Path;
use std::sync::Arc;

use wal::defects::{Defect, has};
use wal::fs::Fs;

use super::part::{Decoder, Part};
use super::write::Draft;
use super::{Failure, Header, SnapshotFile};
#[cfg(test)]
use crate::membership::Book;

/// What gathers in memory before it is written: fewer and larger writes than the network's.
const WRITE_BYTES: usize = 1 << 20;
/// How much may wait in the cache of the system before it is synced. More than when writing a
/// snapshot: a member that needs one has little else to do with its disk.
const SYNC_BYTES: u64 = 16 << 20;

/// What the sender says of the file before its first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Announced {
    pub(crate) cluster: u64,
    /// The length of the whole file.
    pub(crate) bytes: u64,
    /// The checksum of the whole file.
    pub(crate) checksum: u64,
}

/// A file that is arriving. Verifies the bytes as they pass; what is written is verified.
/// Dropping it removes the file.
pub(crate) struct Incoming {
    draft: Draft,
    announced: Announced,
    decoder: Decoder,
    /// Verified parts that are to be written, and after `verified` the part that is arriving.
    buffer: Vec<u8>,
    verified: usize,
    header: Option<(Header, u64)>,
    checksum: Option<u64>,
}

impl Incoming {
    /// Makes the file under a temporary name, replacing what is left there.
    ///
    /// # Errors
    ///
    /// The disk's.
    pub(crate) fn begin(
        fs: &Arc<dyn Fs>,
        path: &Path,
        announced: Announced,
    ) -> Result<Self, Failure> {
        Ok(Self {
            draft: Draft::create(fs, path, SYNC_BYTES)?,
            announced,
            decoder: Decoder::new(),
            buffer: Vec::new(),
            verified: 0,
            header: None,
            checksum: None,
        })
    }

    /// Takes the next bytes of the file, in pieces of any size.
    ///
    /// # Errors
    ///
    /// The disk's, or the bytes are not those of the announced file. Nothing more will be
    /// accepted then.
    pub(crate) fn write(&mut self, mut bytes: &[u8]) -> Result<(), Failure> {
        while !bytes.is_empty() {
            // The part that is arriving goes through the buffer whole, and no byte beyond it: the
            // buffer never holds more than a part and WRITE_BYTES.
            let missing = self.decoder.needs() - (self.buffer.len() - self.verified);
            let (now, later) = bytes.split_at(bytes.len().min(missing));
            self.buffer.extend_from_slice(now);
            bytes = later;
            if now.len() < missing {
                return Ok(());
            }
            let part = self.decoder.decode(&self.buffer[self.verified..]);
            match part.map_err(|what| self.refused(what))? {
                None => continue,
                Some(Part::Header(header, checksum)) => self.header = Some((header, checksum)),
                Some(Part::Chunk) => {}
                Some(Part::End(checksum)) => self.checksum = Some(checksum),
            }
            self.verified = self.buffer.len();
            self.check()?;
            if self.verified >= WRITE_BYTES {
                self.flush()?;
            }
        }
        Ok(())
    }

    /// How much memory it holds.
    #[cfg(test)]
    pub(super) fn buffered(&self) -> usize {
        self.buffer.capacity()
    }

    /// Makes the file durable when all of it is there.
    ///
    /// # Errors
    ///
    /// The disk's, or this is not all of the announced file. The file is removed then.
    pub(crate) fn finish(mut self) -> Result<Received, Failure> {
        self.check()?;
        let (Some((header, header_checksum)), Some(checksum)) = (self.header.take(), self.checksum)
        else {
            return Err(self.refused("ends too early".into()));
        };
        if self.verified != self.buffer.len() {
            return Err(self.refused("goes on after its end".into()));
        }
        self.flush()?;
        if !has(Defect::UnsyncedInstall) {
            self.draft.sync()?;
        }
        let (path, bytes) = (self.draft.path(), self.draft.bytes());
        let file = SnapshotFile::new(header, header_checksum, path, bytes, checksum);
        Ok(Received { file, draft: self.draft })
    }

    /// Compares what has arrived with what was announced, as soon as it can be told.
    fn check(&self) -> Result<(), Failure> {
        let Announced { cluster, bytes, checksum } = self.announced;
        if let Some((header, _)) = &self.header
            && header.cluster != cluster
        {
            return Err(self.refused(format!(
                "is a snapshot of cluster {:016x}, expected {cluster:016x}",
                header.cluster
            )));
        }
        let arrived = self.decoder.offset();
        if arrived > bytes || (self.checksum.is_some() && arrived != bytes) {
            return Err(self.refused(format!("is not as long as the {bytes} bytes announced")));
        }
        if self.checksum.is_some_and(|actual| actual != checksum) {
            return Err(self.refused("is not the file that was announced".into()));
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Failure> {
        self.draft.append(&self.buffer)?;
        self.buffer.clear();
        self.verified = 0;
        Ok(())
    }

    fn refused(&self, what: String) -> Failure {
        let (path, offset) = (self.draft.path().to_owned(), self.decoder.offset());
        Failure::Damaged { path, offset, what }
    }
}

/// A file that has arrived, whole and synced, under its temporary name. Dropping it removes it.
pub(crate) struct Received {
    file: SnapshotFile,
    draft: Draft,
}

impl std::fmt::Debug for Received {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.file.fmt(f)
    }
}

impl Received {
    pub(crate) fn file(&self) -> &SnapshotFile {
        &self.file
    }

    /// One that somebody else's tests can hand on.
    #[cfg(test)]
    pub(crate) fn example() -> Self {
        let fs: Arc<dyn Fs> = Arc::new(wal::fs::MemFs::new());
        let (sent, path) = (Path::new("/sent"), Path::new("/received"));
        let file = super::write(&fs, sent, &Header::genesis(7, Book::default()), |_| Ok(()));
        let SnapshotFile { bytes, checksum, .. } = file.expect("memory takes it");
        let announced = Announced { cluster: 7, bytes, checksum };
        let mut incoming = Incoming::begin(&fs, path, announced).expect("memory takes it");
        let all = wal::fs::read_file(&*fs, sent, bytes).expect("it was written");
        incoming.write(&all).expect("it is whole");
        incoming.finish().expect("it is whole")
    }

    /// Takes the file over: from here on it is the caller's to name or to remove.
    pub(crate) fn accept(self) -> SnapshotFile {
        self.draft.keep();
        self.file
    }
}
