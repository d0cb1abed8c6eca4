//! Three members of the Go program that raftexample succeeds. `tests/original.sh` builds it.
//!
//! It tells nobody who leads but its log, which is where it is looked up.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use tokio::net::TcpStream;

use crate::members::{self, Members, Seat};
use crate::round::Failure;

/// Starts three members of this executable.
pub(crate) async fn start(original: &Path, directory: &Path) -> Result<Members, Failure> {
    // It is started elsewhere, from where a relative path leads to nothing.
    let original = fs::canonicalize(original)
        .map_err(|error| Failure::new(format!("{}: {error}", original.display())))?;
    let command = |seat: &Seat, seats: &[Seat]| {
        let peers: Vec<_> =
            seats.iter().map(|seat| format!("http://127.0.0.1:{}", seat.peer_port)).collect();
        let mut command = Command::new(&original);
        command
            .args(["--id", &seat.id.to_string()])
            .args(["--cluster", &peers.join(",")])
            .args(["--port", &seat.client_port.to_string()])
            .stdin(Stdio::null());
        // It keeps its data where it is started, under a name with its id.
        if let Some(place) = seat.data_dir.parent() {
            command.current_dir(place);
        }
        command
    };
    let is_ready = async |seats: &[Seat]| {
        for seat in seats {
            if TcpStream::connect(("127.0.0.1", seat.client_port)).await.is_err() {
                return false;
            }
        }
        leader(seats).is_some()
    };
    members::start_until(directory, command, is_ready).await
}

/// The client URL of the member that leads.
pub(crate) fn leader_url(members: &Members) -> Result<String, Failure> {
    let leader = leader(members.seats())
        .ok_or_else(|| Failure::new("nobody leads the original").with_tail(members.log_tails()))?;
    Ok(format!("http://127.0.0.1:{}", leader.client_port))
}

/// Whoever became leader of the highest term.
fn leader(seats: &[Seat]) -> Option<&Seat> {
    let term = |seat: &Seat| highest_term_led(&fs::read_to_string(&seat.log).unwrap_or_default());
    seats
        .iter()
        .filter_map(|seat| Some((term(seat)?, seat)))
        .max_by_key(|(term, _)| *term)
        .map(|(_, seat)| seat)
}

fn highest_term_led(log: &str) -> Option<u64> {
    let terms = log.lines().filter_map(|line| line.split_once(" became leader at term "));
    terms.filter_map(|(_, term)| term.trim().parse().ok()).max()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The line is etcd-raft's; what followers say of a leader is not taken for it.
    #[test]
    fn a_log_tells_who_led() {
        let log = "raft2023/01/01 00:00:00 INFO: 3 became candidate at term 2\n\
            raft2023/01/01 00:00:00 INFO: 3 became leader at term 2\n\
            raft2023/01/01 00:00:01 INFO: 3 became follower at term 3\n\
            raft2023/01/01 00:00:02 INFO: 3 became leader at term 14\n";
        assert_eq!(highest_term_led(log), Some(14));
        let follower = "INFO: raft.node: 1 elected leader 3 at term 2\n";
        assert_eq!(highest_term_led(follower), None);
    }
}
