//! Reading snapshot files: all of it once to verify it, its body for the consumer, its bytes for
//! a peer. Each owns its open file: removing the name disturbs nobody who reads.

use std::io;
use std::path::{Path, PathBuf};

use wal::fs::{Access, File, Fs};

use super::part::{Decoder, Part, WORD, body};
use super::{Failure, Header, SnapshotFile};

/// Reads all of a file once and checks every checksum in it. `stop` is asked before each part.
///
/// # Errors
///
/// [`Failure::Damaged`], [`Failure::Disk`] when it cannot be read, or [`Failure::Stopped`].
pub(crate) fn verify(
    fs: &dyn Fs,
    path: &Path,
    stop: &dyn Fn() -> bool,
) -> Result<SnapshotFile, Failure> {
    let (mut parts, header, header_checksum) = Parts::open(fs, path)?;
    loop {
        if stop() {
            return Err(Failure::Stopped);
        }
        if let Part::End(checksum) = parts.next()? {
            return Ok(SnapshotFile::new(header, header_checksum, path, parts.size, checksum));
        }
    }
}

/// The length of the state in a file that was verified, as its end record has it.
///
/// # Errors
///
/// The disk's.
pub(crate) fn state_bytes(fs: &dyn Fs, file: &SnapshotFile) -> Result<u64, Failure> {
    let mut word = [0; WORD];
    let at = file.bytes - 2 * WORD as u64;
    let opened = fs.open(&file.path, Access::Read).map_err(Failure::disk("open", &file.path))?;
    opened.read_full_at(at, &mut word).map_err(Failure::disk("read", &file.path))?;
    Ok(u64::from_le_bytes(word))
}

/// The body of a snapshot. Gives no byte of a chunk before its checksum held, and ends only where
/// the file's end record says so: anything else is an error of kind `InvalidData`.
pub(crate) struct Reader {
    parts: Parts,
    /// How much of the chunk at hand has been given.
    given: usize,
    has_ended: bool,
}

impl Reader {
    /// # Errors
    ///
    /// The file cannot be read, or its header is damaged.
    pub(crate) fn open(fs: &dyn Fs, path: &Path) -> Result<Self, Failure> {
        let (mut parts, ..) = Parts::open(fs, path)?;
        parts.length = 0;
        Ok(Self { parts, given: 0, has_ended: false })
    }
}

impl io::Read for Reader {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        if bytes.is_empty() || self.has_ended {
            return Ok(0);
        }
        if self.given == self.parts.body().len() {
            // Nothing is at hand while the next part is not verified, or if it fails.
            self.given = 0;
            self.has_ended = matches!(self.parts.next()?, Part::End(_));
            if self.has_ended {
                return Ok(0);
            }
        }
        let left = &self.parts.body()[self.given..];
        let n = left.len().min(bytes.len());
        bytes[..n].copy_from_slice(&left[..n]);
        self.given += n;
        Ok(n)
    }
}

/// A file as it is, for sending it to a peer, which verifies it.
pub(crate) struct Outgoing {
    file: Box<dyn File>,
    path: PathBuf,
    len: u64,
    checksum: u64,
}

impl Outgoing {
    /// Opens a file that was verified before.
    ///
    /// # Errors
    ///
    /// It cannot be read, or is too short to be a snapshot.
    pub(crate) fn open(fs: &dyn Fs, path: &Path) -> Result<Self, Failure> {
        let file = fs.open(path, Access::Read).map_err(Failure::disk("open", path))?;
        let len = file.size().map_err(Failure::disk("read", path))?;
        let mut last = [0; WORD];
        let read = file.read_full_at(len.saturating_sub(WORD as u64), &mut last);
        if read.map_err(Failure::disk("read", path))? < WORD {
            let what = "is too short for a snapshot".into();
            return Err(Failure::Damaged { path: path.to_owned(), offset: len, what });
        }
        Ok(Self { file, path: path.to_owned(), len, checksum: u64::from_le_bytes(last) })
    }

    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// What the receiver is told to expect of the whole file.
    pub(crate) fn checksum(&self) -> u64 {
        self.checksum
    }

    /// Fills `bytes` from `offset` on, less at the end of the file.
    ///
    /// # Errors
    ///
    /// The disk's.
    pub(crate) fn read_at(&self, offset: u64, bytes: &mut [u8]) -> Result<usize, Failure> {
        self.file.read_full_at(offset, bytes).map_err(Failure::disk("read", &self.path))
    }
}

/// A file read part by part.
struct Parts {
    file: Box<dyn File>,
    path: PathBuf,
    size: u64,
    decoder: Decoder,
    /// Holds the part read last in its first `length` bytes. Grows to the largest part.
    buffer: Vec<u8>,
    length: usize,
}

impl Parts {
    fn open(fs: &dyn Fs, path: &Path) -> Result<(Self, Header, u64), Failure> {
        let file = fs.open(path, Access::Read).map_err(Failure::disk("open", path))?;
        let size = file.size().map_err(Failure::disk("read", path))?;
        let (path, decoder) = (path.to_owned(), Decoder::new());
        let mut parts = Self { file, path, size, decoder, buffer: Vec::new(), length: 0 };
        match parts.next()? {
            Part::Header(header, checksum) => Ok((parts, header, checksum)),
            Part::Chunk | Part::End(_) => Err(parts.damaged("does not begin with a header")),
        }
    }

    fn next(&mut self) -> Result<Part, Failure> {
        self.length = 0;
        let offset = self.decoder.offset();
        let mut have = 0;
        loop {
            let needs = self.decoder.needs();
            if needs as u64 > self.size - offset {
                return Err(self.damaged("ends too early"));
            }
            if self.buffer.len() < needs {
                self.buffer.resize(needs, 0);
            }
            let wanted = &mut self.buffer[have..needs];
            let read = self.file.read_full_at(offset + have as u64, wanted);
            have += read.map_err(Failure::disk("read", &self.path))?;
            if have < needs {
                return Err(self.damaged("ends too early"));
            }
            let part = self.decoder.decode(&self.buffer[..needs]);
            match part.map_err(|what| self.damaged(&what))? {
                None => {}
                Some(Part::End(_)) if self.decoder.offset() != self.size => {
                    return Err(self.damaged("goes on after its end"));
                }
                Some(part) => {
                    self.length = needs;
                    return Ok(part);
                }
            }
        }
    }

    /// The body of the chunk read last.
    fn body(&self) -> &[u8] {
        if self.length == 0 { &[] } else { body(&self.buffer[..self.length]) }
    }

    fn damaged(&self, what: &str) -> Failure {
        let offset = self.decoder.offset();
        Failure::Damaged { path: self.path.clone(), offset, what: what.into() }
    }
}
