//! One campaign as a child process, listened to.
//!
//! Children stay in our process group, so that whoever interrupts us interrupts them. One that
//! takes too long is ended with all that it started.

use std::fs::{self, File};
use std::io::{self, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// How often the listener is called when nothing is said.
const QUIET: Duration = Duration::from_secs(1);
/// How many of the last lines are kept for whoever must see why it failed.
const KEPT: usize = 40;

/// What came of a child.
#[derive(Debug)]
pub struct Ended {
    /// Whether it ended by itself, in time, and with 0.
    pub is_well: bool,
    /// Why not, when it was ended.
    pub is_late: bool,
    /// The last line on its standard output that says anything.
    pub closing_line: Option<String>,
    /// The first seed that it named.
    pub seed: Option<u64>,
    /// How long it took.
    pub took: Duration,
    /// What it said last.
    pub tail: Vec<String>,
}

/// Runs a command to its end or its limit. Everything it says goes to the log; each line, and
/// nothing once a second, to the listener.
///
/// # Errors
///
/// When it cannot be started, or the log cannot be written.
pub fn run(
    command: &mut Command,
    limit: Duration,
    log: &Path,
    listener: &mut dyn FnMut(Option<&str>, Duration),
) -> io::Result<Ended> {
    if let Some(directory) = log.parent() {
        fs::create_dir_all(directory)?;
    }
    let mut log = File::create(log)?;
    let begin = Instant::now();
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let (lines_tx, lines) = mpsc::channel();
    let readers = [
        child.stdout.take().map(|stdout| listen(stdout, true, lines_tx.clone())),
        child.stderr.take().map(|stderr| listen(stderr, false, lines_tx)),
    ];
    let (mut closing_line, mut seed, mut is_late) = (None, None, false);
    let mut tail = std::collections::VecDeque::new();
    loop {
        match lines.recv_timeout(QUIET) {
            Ok((is_stdout, line)) => {
                writeln!(log, "{line}")?;
                seed = seed.or_else(|| named_seed(&line));
                listener(Some(&line), begin.elapsed());
                if is_stdout {
                    closing_line = Some(line.clone());
                }
                tail.push_back(line);
                if tail.len() > KEPT {
                    tail.pop_front();
                }
            }
            Err(RecvTimeoutError::Timeout) => listener(None, begin.elapsed()),
            Err(RecvTimeoutError::Disconnected) => break,
        }
        if begin.elapsed() > limit && !is_late {
            is_late = true;
            end(&child);
        }
    }
    readers.into_iter().flatten().for_each(|reader| reader.join().expect("a reader only reads"));
    let is_well = child.wait()?.success() && !is_late;
    let took = begin.elapsed();
    Ok(Ended { is_well, is_late, closing_line, seed, took, tail: tail.into() })
}

/// Sends each line that says anything. A bar that is drawn over itself is many lines.
fn listen(
    from: impl Read + Send + 'static,
    is_stdout: bool,
    lines: Sender<(bool, String)>,
) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let mut line = Vec::new();
        // An error is the end: of a pipe there is no other.
        for byte in BufReader::new(from).bytes().map_while(Result::ok).chain([b'\n']) {
            if byte != b'\n' && byte != b'\r' {
                line.push(byte);
                continue;
            }
            let text = String::from_utf8_lossy(&std::mem::take(&mut line)).trim_end().to_owned();
            if !text.is_empty() && lines.send((is_stdout, text)).is_err() {
                return;
            }
        }
    })
}

/// `FIRST_SEED=7`, `SEED=7`, `LINEARIZABILITY_SEED=7`.
pub fn named_seed(line: &str) -> Option<u64> {
    let (_, rest) = line.split_once("SEED=")?;
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    rest[..end].parse().ok()
}

/// Ends a child and all of its own, by their ids.
fn end(child: &Child) {
    let mut all = vec![child.id()];
    let parents = parents();
    let mut at = 0;
    while let Some(&parent) = all.get(at) {
        all.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(id, _)| *id));
        at += 1;
    }
    for pid in all.into_iter().filter_map(|id| Pid::from_raw(id as i32)) {
        // Who has ended by itself meanwhile is not missed.
        kill_process(pid, Signal::KILL).ok();
    }
}

/// Each process and its parent.
fn parents() -> Vec<(u32, u32)> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let parent = |entry: io::Result<fs::DirEntry>| {
        let id = entry.ok()?.file_name().to_str()?.parse::<u32>().ok()?;
        let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
        // The name is in parentheses, and may hold any of them.
        let (_, rest) = stat.rsplit_once(')')?;
        Some((id, rest.split_whitespace().nth(1)?.parse().ok()?))
    };
    entries.filter_map(parent).collect()
}
