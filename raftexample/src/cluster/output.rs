//! Prints what the processes and the runner say, one whole line at a time, on standard output.
//!
//! A process's lines are written by the thread that reads its pipe, so a slow reader of ours slows
//! the process down and nothing queues up. The runner's own lines go through a thread of their
//! own: the runner must hear Ctrl-C even while the terminal is stopped.
//!
//! Refuses to give up on a closed output: it reports that once and goes on draining, because a
//! process blocked on a full pipe could not be stopped kindly.
//!
//! Invariants:
//! O1 a line reaches the output in one piece, under the lock of standard output.
//! O2 no piece is longer than `MAX_LINE_BYTES` and its prefix.

use std::io::{self, IsTerminal, PipeReader, Read, Write};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use tokio::sync::{Notify, oneshot};

/// A longer line is split. Enough for any log line, little enough for one buffer per process.
const MAX_LINE_BYTES: usize = 64 * 1024;
/// How long the end of the runner waits for a terminal that takes nothing.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);
/// SGR colours that can be read on black and on white, in the order processes take them.
const COLOURS: [u8; 6] = [36, 33, 32, 35, 34, 31];

/// The way to standard output. Clones share it.
#[derive(Clone)]
pub(super) struct Printer {
    /// Unbounded, because a line is queued only when a process starts or ends or a person asks.
    notes_tx: mpsc::Sender<Note>,
    closed: Arc<Notify>,
    coloured: bool,
    width: usize,
}

enum Note {
    Line(String),
    Flush(oneshot::Sender<()>),
}

impl Printer {
    /// A printer for names of at most `width` characters.
    pub(super) fn open(width: usize) -> io::Result<Printer> {
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let closed = Arc::new(Notify::new());
        let (notes_tx, notes_rx) = mpsc::channel();
        let printer = Printer {
            notes_tx,
            closed: Arc::clone(&closed),
            coloured: io::stdout().is_terminal() && !no_color,
            width,
        };
        thread::Builder::new().name("notes".to_owned()).spawn(move || {
            for note in notes_rx {
                match note {
                    Note::Line(line) => write_line(format!("{line}\n").as_bytes(), &closed),
                    // The one who waits for the flush may have run out of patience.
                    Note::Flush(flushed_tx) => drop(flushed_tx.send(())),
                }
            }
        })?;
        Ok(printer)
    }

    /// Queues a line of the runner itself.
    pub(super) fn note(&self, line: impl std::fmt::Display) {
        // The thread lives as long as any printer does.
        self.notes_tx.send(Note::Line(format!("cluster: {line}"))).ok();
    }

    /// Waits until the queued lines are written, or the terminal has proved stuck.
    pub(super) async fn flush(&self) {
        let (flushed_tx, flushed_rx) = oneshot::channel();
        self.notes_tx.send(Note::Flush(flushed_tx)).ok();
        // Either way there is nothing more to be done for these lines.
        tokio::time::timeout(FLUSH_TIMEOUT, flushed_rx).await.ok();
    }

    /// Returns once standard output has refused a line.
    pub(super) async fn closed(&self) {
        self.closed.notified().await;
    }

    /// Copies a process's output until the last writer has closed it. `seat` picks the colour.
    pub(super) fn pump(&self, mut pipe: PipeReader, name: &str, seat: usize) {
        let width = self.width;
        let prefix = if self.coloured {
            let colour = COLOURS[seat % COLOURS.len()];
            format!("\x1b[{colour}m{name:width$} |\x1b[0m ")
        } else {
            format!("{name:width$} | ")
        };
        let mut lines = Lines::new(prefix.into_bytes());
        let mut chunk = [0; 8192];
        loop {
            match pipe.read(&mut chunk) {
                Ok(0) => break,
                Ok(n) => lines.push(&chunk[..n], &mut |line| write_line(line, &self.closed)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // A pipe has no other errors; should one come, the process's end says the rest.
                Err(_) => break,
            }
        }
        lines.finish(&mut |line| write_line(line, &self.closed));
    }
}

fn write_line(line: &[u8], closed: &Notify) {
    let mut stdout = io::stdout().lock();
    if stdout.write_all(line).and_then(|()| stdout.flush()).is_err() {
        closed.notify_one();
    }
}

/// Cuts a stream of bytes into prefixed lines.
struct Lines {
    prefix: Vec<u8>,
    /// The prefix and the part of the current line seen so far.
    line: Vec<u8>,
}

impl Lines {
    fn new(prefix: Vec<u8>) -> Lines {
        Lines { line: prefix.clone(), prefix }
    }

    fn push(&mut self, mut bytes: &[u8], emit: &mut dyn FnMut(&[u8])) {
        while !bytes.is_empty() {
            let room = self.prefix.len() + MAX_LINE_BYTES - self.line.len();
            let window = &bytes[..bytes.len().min(room + 1)];
            if let Some(end) = window.iter().position(|&byte| byte == b'\n') {
                self.line.extend_from_slice(&bytes[..end]);
                self.emit(emit);
                bytes = &bytes[end + 1..];
            } else {
                let taken = bytes.len().min(room);
                self.line.extend_from_slice(&bytes[..taken]);
                bytes = &bytes[taken..];
                // The line is split only when a byte is known to follow that is no newline.
                if !bytes.is_empty() {
                    self.emit(emit);
                }
            }
        }
    }

    /// Emits the last line if no newline ended it.
    fn finish(&mut self, emit: &mut dyn FnMut(&[u8])) {
        if self.line.len() > self.prefix.len() {
            self.emit(emit);
        }
    }

    fn emit(&mut self, emit: &mut dyn FnMut(&[u8])) {
        assert!(self.line.len() <= self.prefix.len() + MAX_LINE_BYTES, "O2");
        self.line.push(b'\n');
        emit(&self.line);
        self.line.truncate(self.prefix.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(chunks: &[&[u8]]) -> Vec<usize> {
        let mut lengths = Vec::new();
        let mut lines = Lines::new(b"p|".to_vec());
        let mut emit = |line: &[u8]| {
            assert!(line.starts_with(b"p|") && line.ends_with(b"\n"));
            lengths.push(line.len() - 3);
        };
        for chunk in chunks {
            lines.push(chunk, &mut emit);
        }
        lines.finish(&mut emit);
        lengths
    }

    #[test]
    fn lines_are_cut_at_newlines_and_at_the_bound() {
        // Where a read happens to end must not show in the output.
        let full = vec![b'x'; MAX_LINE_BYTES];
        assert_eq!(cut(&[b"ab\nc", b"d\n", b"\n", b"tail"]), [2, 2, 0, 4]);
        assert_eq!(cut(&[&full, b"\n"]), [MAX_LINE_BYTES]);
        assert_eq!(cut(&[&full, b"y\nz"]), [MAX_LINE_BYTES, 1, 1]);
        assert_eq!(cut(&[&full, &full, b"y"]), [MAX_LINE_BYTES, MAX_LINE_BYTES, 1]);
        assert_eq!(cut(&[b"", b"\n"]), [0]);
        assert_eq!(cut(&[]), [] as [usize; 0]);
    }
}
