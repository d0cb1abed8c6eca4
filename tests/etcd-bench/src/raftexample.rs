//! `raftexample bench` as a child: our own members, or any server that speaks as they do.

use std::fmt::Display;
use std::path::Path;
use std::process::Stdio;

use tokio::io::AsyncReadExt;
use tokio::process::Command;

use crate::Args;
use crate::plan::Case;
use crate::report::Line;
use crate::round::Failure;

/// One round of a case; at members that it starts itself, or at this URL.
pub(crate) async fn measure(
    args: &Args,
    raftexample: &Path,
    case: &Case,
    at: Option<&str>,
) -> Result<Line, Failure> {
    let failed = |what: &dyn Display| Failure::new(format!("{}: {what}", raftexample.display()));
    let mut command = Command::new(raftexample);
    command
        .args(["bench", "--json", "--rounds", "1"])
        .args(["--mix", &case.mix.to_string()])
        .args(["--connections", &case.connections.to_string()])
        .args(["--seconds", &args.seconds.to_string()])
        .args(["--value-bytes", &case.value_bytes.to_string()])
        .args(["--keys", &case.keys.to_string()])
        .args(["--warm-up-ms", &args.warm_up_ms.to_string()])
        .arg("--dir")
        .arg(&args.dir)
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    if let Some(at) = at {
        command.args(["--at", at]);
    }
    let mut bench = command.spawn().map_err(|error| failed(&error))?;
    let mut guard = Terminated(bench.id());
    let mut printed = Vec::new();
    if let Some(stdout) = &mut bench.stdout {
        stdout.read_to_end(&mut printed).await.map_err(|error| failed(&error))?;
    }
    let status = bench.wait().await.map_err(|error| failed(&error))?;
    guard.0 = None;
    if !status.success() {
        return Err(failed(&status));
    }
    serde_json::from_slice(&printed).map_err(|error| failed(&error))
}

/// A child that is asked to end when the comparison is abandoned, so that it stops its members: a
/// kill would leave them.
struct Terminated(Option<u32>);

impl Drop for Terminated {
    fn drop(&mut self) {
        let pid = self.0.and_then(|pid| rustix::process::Pid::from_raw(pid as i32));
        if let Some(pid) = pid {
            // It may have ended by itself, which is as good.
            let _ended = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
    }
}
