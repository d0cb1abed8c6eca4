//! Three members of the Go program that this one succeeds, to be measured beside it.
//!
//! `tests/original.sh` builds it from Debian's package; nothing of it lies in this repository.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::binary;
use crate::cluster::{READY_TIMEOUT, free_ports};
use crate::http::Client;

const N_MEMBERS: usize = 3;
const POLL: Duration = Duration::from_millis(50);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// The running members. Dropping it kills them.
#[derive(Debug)]
pub struct Original {
    members: Vec<(SocketAddr, Child)>,
    _directory: TempDir,
}

impl Original {
    /// Starts three members and waits until a write can be read from each.
    ///
    /// # Panics
    ///
    /// When they cannot be built or started, or serve nothing in time.
    pub fn start() -> Original {
        let program = build();
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let ports = free_ports(2 * N_MEMBERS);
        let (peers, clients) = ports.split_at(N_MEMBERS);
        let urls: Vec<_> = peers.iter().map(|port| format!("http://127.0.0.1:{port}")).collect();
        let mut original = Original { members: Vec::new(), _directory: directory };
        for (position, &client) in clients.iter().enumerate() {
            let id = (position + 1).to_string();
            // It keeps its data where it is started.
            let place = original._directory.path();
            let log = File::create(place.join(format!("{id}.log"))).expect("a log can be made");
            let child = Command::new(&program)
                .current_dir(place)
                .args(["--id", &id, "--cluster", &urls.join(","), "--port", &client.to_string()])
                .stdin(Stdio::null())
                .stdout(log.try_clone().expect("an open file can be opened twice"))
                .stderr(log)
                .spawn()
                .unwrap_or_else(|error| panic!("{}: {error}", program.display()));
            original.members.push((SocketAddr::from((Ipv4Addr::LOCALHOST, client)), child));
        }
        original.wait_serving();
        original
    }

    /// Where a member serves clients.
    pub fn address(&self, member: usize) -> SocketAddr {
        self.members[member].0
    }

    fn wait_serving(&self) {
        let deadline = Instant::now() + READY_TIMEOUT;
        for (address, _) in &self.members {
            let mut client = Client::new(*address).with_timeout(ANSWER_TIMEOUT);
            // Its writes are lost without a word while nobody leads, so they are repeated.
            loop {
                let written = client.put("/served", b"yes");
                match client.get("/served") {
                    Ok(answer) if answer.status == 200 => break,
                    answer => assert!(Instant::now() < deadline, "{written:?}, then {answer:?}"),
                }
                thread::sleep(POLL);
            }
        }
    }
}

impl Drop for Original {
    fn drop(&mut self) {
        for (_, child) in &mut self.members {
            // Both fail only for a child that has ended and was reaped.
            let _ended = child.kill();
            let _reaped = child.wait();
        }
    }
}

fn build() -> PathBuf {
    let target = binary::target_dir().join("original");
    let script = binary::workspace().join("tests/original.sh");
    let status = Command::new(&script).arg(&target).stdin(Stdio::null()).status();
    let status = status.unwrap_or_else(|error| panic!("{}: {error}", script.display()));
    assert!(status.success(), "{} says why it cannot be built: {status}", script.display());
    target.join("raftexample")
}
