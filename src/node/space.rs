//! How much room the data directory's disk has, looked at beside the loop.
//!
//! A disk that is full ends a member at its next write. So well before it is, proposals are
//! refused, and what is left is for what must go on: votes, what a leader sends, membership
//! changes, and the snapshots that let the log shrink. Who looks is a thread of its own, because a
//! disk may take its time to answer; the door and the loop read what it saw last.
//!
//! A disk that does not answer the question is taken to have room: it will say itself, by its next
//! failed write, what is wrong with it.

use std::convert::Infallible;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use slog::{Logger, info, warn};
use wal::fs::Fs;

use crate::status::Space;

/// Between two looks. What comes in meanwhile, at full speed, is far less than the default bound.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Looks until it is dropped, which waits for a look that is under way: on a disk that does not
/// answer, the log's own end waits too.
pub(super) struct SpaceWatch {
    /// Dropping it ends the wait for the next look.
    stop: Option<Sender<Infallible>>,
    thread: Option<JoinHandle<()>>,
}

impl SpaceWatch {
    /// Looks once, so that nothing is let in before it is known whether there is room for it, and
    /// from then on every second.
    ///
    /// # Errors
    ///
    /// The system gives no thread.
    pub(super) fn start(mut look: Look) -> io::Result<Self> {
        look.look();
        let (stop, stopped) = crossbeam_channel::bounded(0);
        let thread =
            thread::Builder::new().name("raft-space".into()).spawn(move || look.go_on(&stopped))?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for SpaceWatch {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic there was printed there.
            thread.join().ok();
        }
    }
}

/// One who looks, and says when the bound is crossed.
pub(crate) struct Look {
    pub(crate) fs: Arc<dyn Fs>,
    pub(crate) directory: PathBuf,
    pub(crate) space: Arc<Space>,
    pub(crate) logger: Logger,
}

impl Look {
    fn go_on(&mut self, stopped: &Receiver<Infallible>) {
        while stopped.recv_timeout(LOOK_INTERVAL) == Err(RecvTimeoutError::Timeout) {
            self.look();
        }
    }

    pub(crate) fn look(&mut self) {
        let (space, logger) = (&self.space, &self.logger);
        let path = self.directory.display();
        let was_known = space.free().is_some();
        let was_low = space.shortage().is_some();
        match self.fs.free_bytes(&self.directory) {
            Ok(free) => space.saw(Some(free)),
            Err(error) => {
                if was_known {
                    warn!(logger, "cannot tell how much of the disk is free"; "path" => %path,
                        "error" => %error);
                }
                space.saw(None);
            }
        }
        let (free, min) = (space.free(), space.min());
        match (was_low, space.shortage().is_some()) {
            (false, true) => warn!(logger, "the disk is nearly full: refusing writes until there \
                is room again"; "path" => %path, "free_bytes" => free, "min_free_bytes" => min),
            (true, false) => info!(logger, "the disk has room again: taking writes";
                "path" => %path, "free_bytes" => free, "min_free_bytes" => min),
            _ => {}
        }
    }
}
