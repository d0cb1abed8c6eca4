//! Running campaigns, with a defect and without.

use std::io::{self, Read, Seek};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use wal::defects::Defect;

use crate::build::Built;
use crate::campaign::Campaign;

/// How much of what a campaign said is looked at for the reason of its end.
const MAX_SAID: u64 = 256 << 10;

/// The most characters of a reason that are shown.
const MAX_REASON: usize = 110;

/// How a campaign ends that has found something: a program's way, and a test executable's.
const FINDS: [Option<i32>; 2] = [Some(1), Some(101)];

/// How a campaign ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// It found nothing wrong.
    Passed,
    /// It failed, and said this.
    Failed(String),
    /// It ended otherwise than one that has looked and found: by a signal, or because it could not
    /// begin. That finds nothing.
    Broken(String),
    /// It was not done in time.
    Late,
    /// It has gone: a name that no test has any more would pass for ever.
    Absent,
}

/// One campaign, run.
#[derive(Debug, Clone)]
pub struct Run {
    /// What was run.
    pub campaign: Campaign,
    /// The defect it was to find; none: it was to pass.
    pub defect: Option<Defect>,
    /// How it ended.
    pub end: End,
    /// How long it took.
    pub took: Duration,
}

impl Run {
    /// Whether it ended as it must: fails with a defect, passes without.
    pub fn is_good(&self) -> bool {
        match self.defect {
            Some(_) => matches!(self.end, End::Failed(_)),
            None => self.end == End::Passed,
        }
    }
}

/// Runs a campaign in a process of its own for at most this long.
///
/// # Errors
///
/// It was not built, or the system starts no process.
pub fn run(
    built: &Built,
    campaign: Campaign,
    defect: Option<Defect>,
    limit: Duration,
) -> io::Result<Run> {
    let command = campaign.command(built);
    let mut command = command
        .ok_or_else(|| io::Error::other(format!("nothing was built that runs {campaign:?}")))?;
    if let Some(defect) = defect {
        command.env("RAFTEXAMPLE_DEFECT", defect.name());
    }
    let begin = Instant::now();
    let (status, said) = watch(&mut command, begin + limit)?;
    let took = begin.elapsed();
    let end = ended(status, &said);
    Ok(Run { campaign, defect, end, took })
}

/// What it means that a campaign ended so; no status: it did not.
fn ended(status: Option<ExitStatus>, said: &str) -> End {
    match status {
        None => End::Late,
        Some(_) if said.contains("running 0 tests") => End::Absent,
        Some(status) if status.success() => End::Passed,
        Some(status) if FINDS.contains(&status.code()) => End::Failed(reason(said, status)),
        Some(status) => End::Broken(format!("{status}: {}", reason(said, status))),
    }
}

/// Waits for a process, and ends it and its children at the deadline. Gives what it said.
fn watch(command: &mut Command, deadline: Instant) -> io::Result<(Option<ExitStatus>, String)> {
    let mut file = tempfile::tempfile()?;
    command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file.try_clone()?);
    let mut child = command.process_group(0).spawn()?;
    let ended = await_end(&child, deadline);
    let status = child.try_wait();
    end_group(&child);
    child.wait()?;
    ended?;
    let status = status?;
    let length = file.seek(io::SeekFrom::End(0))?;
    file.seek(io::SeekFrom::Start(length.saturating_sub(MAX_SAID)))?;
    let mut said = Vec::new();
    file.read_to_end(&mut said)?;
    Ok((status, String::from_utf8_lossy(&said).into_owned()))
}

/// Returns when the process has ended or the deadline has passed.
fn await_end(child: &Child, deadline: Instant) -> io::Result<()> {
    let pid = pid_of(child).ok_or_else(|| io::Error::other("a process without an id"))?;
    let process = pidfd_open(pid, PidfdFlags::empty())?;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).map_err(io::Error::other)?;
        match poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&timeout)) {
            Err(rustix::io::Errno::INTR) => {}
            result => return result.map(|_| ()).map_err(io::Error::from),
        }
    }
}

fn pid_of(child: &Child) -> Option<Pid> {
    i32::try_from(child.id()).ok().and_then(Pid::from_raw)
}

/// Ends whatever a campaign has started, itself included; most have ended already.
fn end_group(child: &Child) {
    if let Some(group) = pid_of(child) {
        kill_process_group(group, Signal::KILL).ok();
    }
}

/// Why a campaign failed, in its own words: of a panic what it says, else the last line.
fn reason(said: &str, status: ExitStatus) -> String {
    let mut lines = said.lines().map(str::trim).filter(|line| !line.is_empty());
    // The enumeration of crash states and the simulation name their findings like this.
    let is_finding = |line: &str| {
        let seed = line.strip_prefix("seed ").and_then(|rest| rest.split_once(": "));
        line.starts_with("FAILED: ") || seed.is_some_and(|(n, _)| n.parse::<u64>().is_ok())
    };
    let is_told = |line: &&str| line.contains("panicked at ") || is_finding(line);
    let text = match lines.by_ref().find(is_told) {
        Some(told) if is_finding(told) => Some(told),
        Some(_) => lines.next(),
        None => said.lines().map(str::trim).rfind(|line| !line.is_empty()),
    };
    let text = text.map(str::to_owned).or_else(|| status.signal().map(|s| format!("signal {s}")));
    let text = text.unwrap_or_else(|| status.to_string());
    text.chars().take(MAX_REASON).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Only who has looked and ended by itself has found something.
    #[test]
    fn only_a_failure_is_a_find() {
        let exit = |code: i32| Some(ExitStatus::from_raw(code << 8));
        for (status, is_find) in [
            (exit(1), true),
            (exit(101), true),
            (exit(0), false),
            (exit(2), false),
            (Some(ExitStatus::from_raw(9)), false),
            (None, false),
        ] {
            let end = ended(status, "seed 7: something broke");
            assert_eq!(matches!(end, End::Failed(_)), is_find, "{end:?}");
        }
        assert_eq!(ended(exit(101), "running 0 tests"), End::Absent);
    }
}
