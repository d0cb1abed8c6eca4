//! The threads beside the loop: one writes snapshots, one does the disk's chores, and one syncs the
//! log when the loop should not.
//!
//! None knows raft. They take one thing at a time, do it, and say so on the loop's channel;
//! everything that they are told to do may take as long as it takes.

use std::convert::Infallible;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use crossbeam_channel::{Receiver, Sender, select};
use wal::Written;
use wal::fs::Fs;

use super::core::{Done, Task, sync_written, write_captured};
use super::panic_text;
use crate::channel::{Captured, WriteState};

pub(super) struct Workers {
    tasks: Sender<Task>,
    stopped: Arc<AtomicBool>,
    /// Dropping it ends the waits for captured states and written batches, whoever still holds a
    /// sender for them.
    stop: Sender<Infallible>,
    threads: Vec<JoinHandle<()>>,
}

impl Workers {
    /// # Errors
    ///
    /// The system gives no thread.
    pub(super) fn start(
        fs: Arc<dyn Fs>,
        snap_dir: PathBuf,
        captured: Receiver<Captured>,
        syncs: Receiver<Written>,
        done: Sender<Done>,
    ) -> io::Result<Self> {
        let (tasks, task_rx) = crossbeam_channel::unbounded::<Task>();
        let (stop, stop_rx) = crossbeam_channel::bounded(0);
        let stopped = Arc::new(AtomicBool::new(false));
        let chores = thread::Builder::new().name("raft-disk".into()).spawn({
            let (fs, done) = (Arc::clone(&fs), done.clone());
            move || {
                for task in task_rx {
                    // The loop may have ended: then nobody waits for it.
                    done.send(guarded(|| task.run(&*fs))).ok();
                }
            }
        })?;
        let syncer = thread::Builder::new().name("raft-sync".into()).spawn({
            let (done, stop_rx) = (done.clone(), stop_rx.clone());
            move || loop {
                let written = select! {
                    recv(syncs) -> written => written,
                    recv(stop_rx) -> _ => return,
                };
                let Ok(written) = written else { return };
                // As above.
                done.send(guarded(|| sync_written(&written))).ok();
            }
        })?;
        let writer = thread::Builder::new().name("raft-snapshot".into()).spawn({
            let stopped = Arc::clone(&stopped);
            move || loop {
                let captured = select! {
                    recv(captured) -> captured => captured,
                    recv(stop_rx) -> _ => return,
                };
                let Ok(Captured { header, write }) = captured else { return };
                let write = write.map(|write| interruptible(write, Arc::clone(&stopped)));
                let captured = Captured { header, write };
                // As above.
                done.send(guarded(|| write_captured(&fs, &snap_dir, captured))).ok();
            }
        })?;
        Ok(Self { tasks, stopped, stop, threads: vec![chores, syncer, writer] })
    }

    pub(super) fn submit(&self, task: Task) {
        // Its thread ends only after this sender has gone.
        self.tasks.send(task).ok();
    }

    /// Finishes the chores, gives up a snapshot that is being written, and ends the threads: the
    /// data directory is then touched by nobody.
    pub(super) fn stop(self) {
        let Self { tasks, stopped, stop, threads } = self;
        stopped.store(true, Ordering::SeqCst);
        drop((tasks, stop));
        for thread in threads {
            // A panic there was printed there.
            thread.join().ok();
        }
    }
}

/// A panic here must not leave the loop waiting for ever for what it has asked for.
fn guarded(work: impl FnOnce() -> Done) -> Done {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| Done::Panicked(panic_text(&*panic)))
}

/// The consumer's own code, which may panic, and must not keep a node from stopping.
fn interruptible(write: WriteState, stopped: Arc<AtomicBool>) -> WriteState {
    Box::new(move |file| {
        let mut file = Interruptible { file, stopped };
        catch_unwind(AssertUnwindSafe(|| write(&mut file)))
            .unwrap_or_else(|_| Err(io::Error::other("it panicked")))
    })
}

struct Interruptible<'a> {
    file: &'a mut dyn io::Write,
    stopped: Arc<AtomicBool>,
}

impl io::Write for Interruptible<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.stopped.load(Ordering::SeqCst) {
            return Err(io::Error::other("the node is stopping"));
        }
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
