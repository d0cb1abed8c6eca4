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
use wal::fs::Fs;

use super::core::{Done, Task, write_captured};
use super::panic_text;
use crate::channel::{Captured, WriteState};

pub(super) struct Workers {
    tasks: Sender<Task>,
    /// Those that the loop waits for.
    syncs: Sender<Task>,
    stopped: Arc<AtomicBool>,
    /// Dropping it ends the wait for a captured state, whoever still holds a request for one.
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
        done: Sender<Done>,
    ) -> io::Result<Self> {
        let (stop, stop_rx) = crossbeam_channel::bounded(0);
        let stopped = Arc::new(AtomicBool::new(false));
        let (tasks, chores) = worker("raft-disk", &fs, &done)?;
        let (syncs, syncer) = worker("raft-sync", &fs, &done)?;
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
        Ok(Self { tasks, syncs, stopped, stop, threads: vec![chores, syncer, writer] })
    }

    pub(super) fn submit(&self, task: Task) {
        let to = if let Task::Sync(_) = task { &self.syncs } else { &self.tasks };
        // Its thread ends only after this sender has gone.
        to.send(task).ok();
    }

    /// Finishes the chores, gives up a snapshot that is being written, and ends the threads: the
    /// data directory is then touched by nobody.
    pub(super) fn stop(self) {
        let Self { tasks, syncs, stopped, stop, threads } = self;
        stopped.store(true, Ordering::SeqCst);
        drop((tasks, syncs, stop));
        for thread in threads {
            // A panic there was printed there.
            thread.join().ok();
        }
    }
}

/// A thread that does one task after the other until its sender has gone.
fn worker(
    name: &str,
    fs: &Arc<dyn Fs>,
    done: &Sender<Done>,
) -> io::Result<(Sender<Task>, JoinHandle<()>)> {
    let (tasks, task_rx) = crossbeam_channel::unbounded::<Task>();
    let (fs, done) = (Arc::clone(fs), done.clone());
    let thread = thread::Builder::new().name(name.into()).spawn(move || {
        for task in task_rx {
            // The loop may have ended: then nobody waits for it.
            done.send(guarded(|| task.run(&*fs))).ok();
        }
    })?;
    Ok((tasks, thread))
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
