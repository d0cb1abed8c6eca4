//! One run of one process: the shell that was started and everything it started, as a group.
//!
//! The unit is the process group, because the leader is only a shell: a run is over when the last
//! member of its group is gone, not when the shell is. On Linux the runner adopts orphans, so it
//! can wait for all of them; elsewhere the rest of a group is killed when its leader ends. A
//! process that moves itself to another group or session is its own master, and not ours.
//!
//! Refuses to restart anything, and to decide when: that is the supervisor's.
//!
//! Invariants:
//! G1 no signal is sent to a group whose last member was reaped: its number may belong to another.
//! G2 dropping a `Group` kills what is left of it, so no exit path, a panic included, forgets one.

use std::fmt;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, WaitIdStatus};
use tokio::sync::watch;

/// How long the end of a run waits for its output to be read, should a process that left the
/// group hold the pipe, or the terminal take nothing.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

/// How the leader of a group ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    Code(i32),
    Signal(i32),
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ending::Code(code) => write!(f, "exited code {code}"),
            Ending::Signal(signal) => write!(f, "killed by signal {signal}"),
        }
    }
}

#[derive(Clone, Copy)]
enum Phase {
    Running,
    LeaderEnded(Ending),
    Gone(Ending),
}

/// A started process group.
pub(super) struct Group {
    pid: Pid,
    started: Instant,
    phase_rx: watch::Receiver<Phase>,
    /// Whether the group's number is free again. Locked while reaping and while signalling (G1).
    reaped: Arc<Mutex<bool>>,
}

impl Group {
    /// Starts `command` in a group of its own, both its outputs read by `pump` on a new thread.
    pub(super) fn start(
        mut command: Command,
        pump: impl FnOnce(io::PipeReader) + Send + 'static,
    ) -> io::Result<Group> {
        // A single pipe for both, so that what a process says keeps its order.
        let (output_rx, output_tx) = io::pipe()?;
        command.stdin(Stdio::null()).stdout(output_tx.try_clone()?).stderr(output_tx);
        let child = command.process_group(0).spawn()?;
        // The command holds the runner's copy of the pipe, which would keep it open for ever.
        drop(command);
        let (phase_tx, phase_rx) = watch::channel(Phase::Running);
        let group = Group {
            pid: Pid::from_child(&child),
            started: Instant::now(),
            phase_rx,
            reaped: Arc::new(Mutex::new(false)),
        };

        let (drained_tx, drained_rx) = mpsc::channel::<()>();
        thread::Builder::new().name("output".to_owned()).spawn(move || {
            pump(output_rx);
            drop(drained_tx);
        })?;
        let (pid, reaped) = (group.pid, Arc::clone(&group.reaped));
        thread::Builder::new().name("wait".to_owned()).spawn(move || {
            let ending = wait_for_leader(pid);
            phase_tx.send_replace(Phase::LeaderEnded(ending));
            wait_for_rest(pid, &reaped);
            // Nothing is ever sent: an error means drained or out of patience, and both go on.
            drained_rx.recv_timeout(DRAIN_TIMEOUT).ok();
            phase_tx.send_replace(Phase::Gone(ending));
        })?;
        Ok(group)
    }

    pub(super) fn pid(&self) -> i32 {
        self.pid.as_raw_pid()
    }

    pub(super) fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// Signals every member of the group; nothing happens when there is none left.
    pub(super) fn signal(&self, signal: Signal) {
        if !*lock(&self.reaped) {
            // ESRCH is the only error for a group of our own, and says what we want to hear.
            rustix::process::kill_process_group(self.pid, signal).ok();
        }
    }

    /// Returns once the leader has ended; others of the group may go on.
    pub(super) async fn leader_ended(&self) {
        self.wait_for(|phase| !matches!(phase, Phase::Running)).await;
    }

    /// Returns once no member of the group is left and its output was printed.
    pub(super) async fn gone(&self) -> Ending {
        match self.wait_for(|phase| matches!(phase, Phase::Gone(_))).await {
            Phase::Gone(ending) | Phase::LeaderEnded(ending) => ending,
            Phase::Running => unreachable!("waited for the phase after this one"),
        }
    }

    async fn wait_for(&self, wanted: impl FnMut(&Phase) -> bool) -> Phase {
        let mut phase_rx = self.phase_rx.clone();
        *phase_rx.wait_for(wanted).await.expect("the waiting thread sends Gone before it ends")
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}

/// Makes the runner the parent of what its processes leave behind, so that it can wait for it.
pub(super) fn adopt_orphans() -> io::Result<()> {
    #[cfg(target_os = "linux")]
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    Ok(())
}

/// Waits without reaping, so that the group's number stays taken while others decide.
fn wait_for_leader(pid: Pid) -> Ending {
    loop {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        match rustix::process::waitid(WaitId::Pid(pid), options) {
            Ok(Some(status)) => return ending(&status),
            Ok(None) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => panic!("process {pid} is our child, yet cannot be waited for: {error}"),
        }
    }
}

/// Reaps the leader and every adopted member of its group.
fn wait_for_rest(pid: Pid, reaped: &Mutex<bool>) {
    loop {
        {
            let mut reaped = lock(reaped);
            // Without adoption the rest would be out of sight once the leader is reaped.
            #[cfg(not(target_os = "linux"))]
            rustix::process::kill_process_group(pid, Signal::KILL).ok();
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
            loop {
                match rustix::process::waitid(WaitId::Pgid(Some(pid)), options) {
                    Ok(Some(_)) | Err(rustix::io::Errno::INTR) => {}
                    Ok(None) => break,
                    // ECHILD: nobody is left in the group.
                    Err(_) => {
                        *reaped = true;
                        return;
                    }
                }
            }
        }
        // Blocks until somebody ends, without the lock, and leaves the reaping to the next round.
        // An error means the same as above and is seen there.
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        rustix::process::waitid(WaitId::Pgid(Some(pid)), options).ok();
    }
}

fn ending(status: &WaitIdStatus) -> Ending {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => Ending::Code(code),
        (None, Some(signal)) => Ending::Signal(signal),
        (None, None) => unreachable!("waited for an end, got {status:?}"),
    }
}

/// A panic elsewhere leaves a plain bool as true as it was.
fn lock(reaped: &Mutex<bool>) -> MutexGuard<'_, bool> {
    reaped.lock().unwrap_or_else(PoisonError::into_inner)
}
