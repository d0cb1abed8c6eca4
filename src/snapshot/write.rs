//! Writing a snapshot file.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use wal::defects::{Defect, has};
use wal::fs::{File, Fs};

use super::part::{CHUNK_BYTES, Chain, WORD};
use super::{Failure, Header, SnapshotFile};

/// How much may wait in the cache of the system before it is synced. A sync of the log can stand
/// behind that much, some tens of milliseconds on a slow disk.
const SYNC_BYTES: u64 = 4 << 20;

/// Writes and syncs a snapshot under a temporary name, replacing what is left there.
/// [`SnapshotFile::give_final_name`] is the caller's next step.
///
/// # Errors
///
/// [`Failure::State`] when `body` failed, [`Failure::Disk`] when the disk did, whatever `body`
/// made of that. The file is removed then.
pub(crate) fn write(
    fs: &Arc<dyn Fs>,
    path: &Path,
    header: &Header,
    body: impl FnOnce(&mut dyn io::Write) -> io::Result<()>,
) -> Result<SnapshotFile, Failure> {
    write_chunks(fs, path, header, CHUNK_BYTES, body)
}

/// As [`write`], in chunks of `chunk_bytes`.
pub(super) fn write_chunks(
    fs: &Arc<dyn Fs>,
    path: &Path,
    header: &Header,
    chunk_bytes: usize,
    body: impl FnOnce(&mut dyn io::Write) -> io::Result<()>,
) -> Result<SnapshotFile, Failure> {
    let mut draft = Draft::create(fs, path, SYNC_BYTES)?.forgetting();
    let encoded = header.encode();
    let (chain, header_checksum) = Chain::begin(&encoded);
    draft.append(&encoded)?;
    let mut writer = BodyWriter {
        draft,
        chain,
        chunk: Vec::with_capacity(chunk_bytes + 2 * WORD),
        chunk_bytes,
        body_bytes: 0,
        failure: None,
    };
    let written = body(&mut writer);
    if let Some(failure) = writer.failure {
        return Err(failure);
    }
    written.map_err(Failure::State)?;
    if !writer.chunk.is_empty() {
        writer.put_chunk()?;
    }
    let BodyWriter { mut draft, mut chain, body_bytes, .. } = writer;
    let mut end = [0_u64.to_le_bytes(), body_bytes.to_le_bytes()].concat();
    let checksum = chain.close(&mut end);
    draft.append(&end)?;
    if !has(Defect::UnsyncedSnapshot) {
        draft.sync()?;
    }
    let bytes = draft.bytes();
    draft.keep();
    Ok(SnapshotFile::new(header.clone(), header_checksum, path, bytes, checksum))
}

/// Cuts the consumer's state into chunks.
struct BodyWriter {
    draft: Draft,
    chain: Chain,
    /// The chunk that is being filled, behind the place for its length; empty between chunks.
    chunk: Vec<u8>,
    chunk_bytes: usize,
    body_bytes: u64,
    /// The disk's error, which the consumer may have swallowed or changed.
    failure: Option<Failure>,
}

impl BodyWriter {
    fn put_chunk(&mut self) -> Result<(), Failure> {
        let length = (self.chunk.len() - WORD) as u64;
        self.chunk[..WORD].copy_from_slice(&length.to_le_bytes());
        self.chain.close(&mut self.chunk);
        self.draft.append(&self.chunk)?;
        self.chunk.clear();
        self.body_bytes += length;
        Ok(())
    }
}

impl io::Write for BodyWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.is_empty() {
            return Ok(0);
        }
        if self.failure.is_some() {
            return Err(io::Error::other("the snapshot's file failed before"));
        }
        if self.chunk.is_empty() {
            self.chunk.resize(WORD, 0);
        }
        let room = WORD + self.chunk_bytes - self.chunk.len();
        let taken = bytes.len().min(room);
        self.chunk.extend_from_slice(&bytes[..taken]);
        if taken == room
            && let Err(failure) = self.put_chunk()
        {
            let error = io::Error::other(failure.to_string());
            self.failure = Some(failure);
            return Err(error);
        }
        Ok(taken)
    }

    /// Chunks are written when they are full, and synced by their own rule.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A file under a temporary name. Unless it is kept, it goes when this is dropped.
pub(super) struct Draft {
    fs: Arc<dyn Fs>,
    path: PathBuf,
    file: Box<dyn File>,
    bytes: u64,
    synced: u64,
    sync_bytes: u64,
    /// A write or sync has failed, or is under way (S4).
    is_latched: bool,
    is_kept: bool,
    forgets: bool,
}

impl Draft {
    pub(super) fn create(fs: &Arc<dyn Fs>, path: &Path, sync_bytes: u64) -> Result<Self, Failure> {
        if fs.exists(path).map_err(Failure::disk("look for", path))? {
            fs.remove_file(path).map_err(Failure::disk("remove", path))?;
        }
        let file = fs.create_new(path).map_err(Failure::disk("create", path))?;
        let (fs, path) = (Arc::clone(fs), path.to_owned());
        let (is_latched, is_kept, forgets) = (false, false, false);
        Ok(Self { fs, path, file, bytes: 0, synced: 0, sync_bytes, is_latched, is_kept, forgets })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Writes behind what is there, and syncs when enough has gathered.
    pub(super) fn append(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.latching("write", |draft| draft.file.write_all_at(draft.bytes, bytes))?;
        self.bytes += bytes.len() as u64;
        if self.bytes - self.synced >= self.sync_bytes {
            self.latching("sync", |draft| draft.file.sync_data())?;
            self.synced = self.bytes;
            if self.forgets {
                // Only a hint.
                self.file.forget_cache().ok();
            }
        }
        Ok(())
    }

    /// Makes all of the file durable; its name is not.
    pub(super) fn sync(&mut self) -> Result<(), Failure> {
        self.latching("sync", |draft| draft.file.sync_all())
    }

    /// Lets the system have the memory that it keeps of what is synced piece by piece: nobody reads it
    /// before a restart, or a peer needs it, and every piece would be written through fresh memory,
    /// which takes longer than all else there is to do.
    pub(super) fn forgetting(mut self) -> Self {
        self.forgets = true;
        self
    }

    pub(super) fn keep(mut self) {
        self.is_kept = true;
    }

    fn latching(
        &mut self,
        operation: &'static str,
        run: impl FnOnce(&Self) -> io::Result<()>,
    ) -> Result<(), Failure> {
        let result = if self.is_latched {
            Err(io::Error::other("an earlier write or sync failed"))
        } else {
            run(self)
        };
        self.is_latched = result.is_err();
        result.map_err(Failure::disk(operation, &self.path))
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.is_kept {
            // Best effort, because what stays has a temporary name and goes at the next start.
            self.fs.remove_file(&self.path).ok();
        }
    }
}
