//! Three members of one cluster, started for a measurement and gone with it.
//!
//! Ports are chosen by binding to port 0 and letting go again, which another process can win in
//! between; a member that ends before the cluster is ready therefore costs a fresh start with other
//! ports, a few times. Whatever started is stopped when [`Members`] is dropped, its directory with it.

use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::round::Failure;

const N_MEMBERS: u16 = 3;
/// Starts before giving up: losing the race for a port this often means something else is wrong.
const MAX_STARTS: usize = 4;
/// A cluster elects within a few seconds; the rest is for a machine that is busy.
const READY_TIMEOUT: Duration = Duration::from_secs(30);
const READY_POLL: Duration = Duration::from_millis(50);
/// A member that has not ended this long after it was asked to is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(8);
const STOP_POLL: Duration = Duration::from_millis(10);
/// How much of a member's log a failure shows.
const TAIL_LINES: usize = 5;

/// A member's place in the cluster: its number, ports and directory.
#[derive(Debug)]
pub(crate) struct Seat {
    pub(crate) id: u16,
    pub(crate) peer_port: u16,
    pub(crate) client_port: u16,
    pub(crate) data_dir: PathBuf,
    pub(crate) log: PathBuf,
}

/// The running members. Dropping it stops them and removes their directory, in this order.
#[derive(Debug)]
pub(crate) struct Members {
    seats: Vec<Seat>,
    children: Vec<Child>,
    _directory: TempDir,
}

/// Starts members by `command` under `parent` until `is_ready` says so of their seats.
pub(crate) async fn start_until(
    parent: &Path,
    command: impl Fn(&Seat, &[Seat]) -> Command,
    is_ready: impl AsyncFn(&[Seat]) -> bool,
) -> Result<Members, Failure> {
    let mut ended = String::new();
    for _ in 0..MAX_STARTS {
        let mut members = Members::start(parent, &command)
            .map_err(|error| Failure::new(format!("cannot start members: {error}")))?;
        let deadline = Instant::now() + READY_TIMEOUT;
        while !members.any_ended() {
            if is_ready(&members.seats).await {
                return Ok(members);
            }
            if Instant::now() > deadline {
                return Err(Failure::new(format!("not ready after {READY_TIMEOUT:?}"))
                    .with_tail(members.log_tails()));
            }
            tokio::time::sleep(READY_POLL).await;
        }
        ended = members.log_tails();
    }
    Err(Failure::new(format!("a member ended at each of {MAX_STARTS} starts")).with_tail(ended))
}

impl Members {
    fn start(parent: &Path, command: impl Fn(&Seat, &[Seat]) -> Command) -> io::Result<Members> {
        let directory = tempfile::Builder::new().prefix("bench-").tempdir_in(parent)?;
        let seats = seats(directory.path())?;
        // Built first, so that a member that cannot be started takes the others down with it.
        let mut members = Members { seats, children: Vec::new(), _directory: directory };
        for seat in &members.seats {
            let log = File::create(&seat.log)?;
            let mut command = command(seat, &members.seats);
            command.stdout(log.try_clone()?).stderr(log);
            members.children.push(command.spawn().map_err(|error| {
                io::Error::new(
                    error.kind(),
                    format!("{}: {error}", command.get_program().display()),
                )
            })?);
        }
        Ok(members)
    }

    /// Where each member is.
    pub(crate) fn seats(&self) -> &[Seat] {
        &self.seats
    }

    /// The last lines each member said, for a failure's reader.
    pub(crate) fn log_tails(&self) -> String {
        let mut tails = String::new();
        for seat in &self.seats {
            // A log that cannot be read is shown as empty: the failure itself matters more.
            let log = fs::read(&seat.log).unwrap_or_default();
            let log = String::from_utf8_lossy(&log);
            let lines: Vec<_> = log.lines().collect();
            for line in &lines[lines.len().saturating_sub(TAIL_LINES)..] {
                tails.push_str(&format!("\n  member {}: {line}", seat.id));
            }
        }
        tails
    }

    fn any_ended(&mut self) -> bool {
        self.children.iter_mut().any(|child| !matches!(child.try_wait(), Ok(None)))
    }
}

impl Drop for Members {
    fn drop(&mut self) {
        for child in &mut self.children {
            if let (Ok(None), Some(pid)) = (child.try_wait(), Pid::from_raw(child.id() as i32)) {
                // It may end by itself in between; the wait below settles it either way.
                let _ended = kill_process(pid, Signal::TERM);
            }
        }
        let deadline = Instant::now() + STOP_TIMEOUT;
        for child in &mut self.children {
            while Instant::now() < deadline && matches!(child.try_wait(), Ok(None)) {
                thread::sleep(STOP_POLL);
            }
            // Fails only for one that has ended and was waited for, which is what is wanted.
            let _ended = child.kill();
            let _reaped = child.wait();
        }
    }
}

fn seats(directory: &Path) -> io::Result<Vec<Seat>> {
    // All are held until the last is chosen, so that no port is chosen twice.
    let mut held = Vec::new();
    let mut free_port = || -> io::Result<u16> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        held.push(listener);
        Ok(port)
    };
    (1..=N_MEMBERS)
        .map(|id| {
            Ok(Seat {
                id,
                peer_port: free_port()?,
                client_port: free_port()?,
                data_dir: directory.join(format!("member-{id}")),
                log: directory.join(format!("member-{id}.log")),
            })
        })
        .collect()
}
