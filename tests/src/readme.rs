//! Runs a README's `console` blocks as a reader would, in order and in one shell.
//!
//! In a fenced block marked `console`, a line that begins with `$ ` is a command, continued on the next
//! line after a backslash; the lines below it are what it prints, with standard error among it. `...`
//! stands for any text in a line, and on a line of its own for any number of lines. A command that shows
//! output must print just that; one that shows none must print none and succeed.
//!
//! A command that runs a cluster or a member stays in the background, as in a terminal of its own; the
//! next one is given when all it shows has appeared. `make test` in such a block would run itself.

use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use tempfile::TempDir;

use crate::binary;

/// Building the workspace is the longest a reader waits.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(600);
const STOP_TIMEOUT: Duration = Duration::from_secs(15);
const POLL: Duration = Duration::from_millis(50);
/// Printed by the shell after each command, with its exit status; nothing else prints it.
const END: &str = "--- end of command, status";

/// A command and what the README shows below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The command, with its continuation lines.
    pub command: String,
    /// The lines below it.
    pub shown: Vec<String>,
    /// The command's line in the file, from 1.
    pub line: usize,
}

/// The steps of all `console` blocks.
///
/// # Panics
///
/// When a block begins with output that belongs to no command.
pub fn steps(readme: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    // What fences the block we are in, and whether it is ours; a new command may begin or not.
    let mut fence: Option<bool> = None;
    let mut open_command = false;
    for (number, line) in readme.lines().enumerate() {
        if let Some(info) = line.trim_start().strip_prefix("```") {
            fence = match fence {
                Some(_) => None,
                None => Some(info.trim() == "console"),
            };
            open_command = false;
            continue;
        }
        if fence != Some(true) {
            continue;
        }
        if let Some(command) = line.strip_prefix("$ ") {
            let step = Step { command: command.to_owned(), shown: Vec::new(), line: number + 1 };
            steps.push(step);
            open_command = true;
        } else {
            let step = steps.last_mut().filter(|_| open_command);
            let step = step.unwrap_or_else(|| panic!("line {}: output of no command", number + 1));
            if step.shown.is_empty() && step.command.ends_with('\\') {
                step.command.push('\n');
                step.command.push_str(line.strip_prefix("> ").unwrap_or(line));
            } else {
                step.shown.push(line.to_owned());
            }
        }
    }
    steps
}

/// Whether what was printed is what is shown, wildcards considered.
pub fn matches(shown: &[String], printed: &[&str]) -> bool {
    match shown.split_first() {
        None => printed.is_empty(),
        Some((line, rest)) if line.trim() == "..." => {
            (0..=printed.len()).any(|skipped| matches(rest, &printed[skipped..]))
        }
        Some((line, rest)) => printed
            .split_first()
            .is_some_and(|(first, others)| line_matches(line, first) && matches(rest, others)),
    }
}

fn line_matches(shown: &str, printed: &str) -> bool {
    let mut parts = shown.trim_end().split("...");
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = printed.trim_end().strip_prefix(first) else { return false };
    let mut parts: Vec<_> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// Runs every step of the README from a copy of the workspace.
///
/// # Panics
///
/// At the first step that does not do what it shows, with its line and what it did.
pub fn run(readme: &Path) {
    let text =
        fs::read_to_string(readme).unwrap_or_else(|error| panic!("{}: {error}", readme.display()));
    let steps = steps(&text);
    assert!(!steps.is_empty(), "{} has no console block", readme.display());
    let mut shell = Shell::start(&steps);
    for step in &steps {
        let at = format!("{}:{}: $ {}", readme.display(), step.line, step.command);
        let tests_itself = ["make test", "cargo test"].iter().any(|t| step.command.contains(t));
        assert!(!tests_itself, "{at}\nwould run this test; fence it as `sh`");
        if is_long_running(&step.command) {
            shell.run_in_background(step, &at);
        } else {
            shell.run(step, &at);
        }
    }
    shell.stop();
}

/// Whether a reader would open another terminal for what follows.
fn is_long_running(command: &str) -> bool {
    let mut words = command.split_whitespace().filter(|word| !word.contains('='));
    let program = words.next().unwrap_or_default().rsplit('/').next().unwrap_or_default();
    let arguments: Vec<_> = words.collect();
    match (program, arguments.as_slice()) {
        ("make", ["run" | "cluster", ..]) | ("raftexample", ["cluster", "start", ..]) => true,
        ("raftexample", []) => true,
        ("raftexample", [first, ..]) => {
            first.starts_with("--")
                && !["--help", "--version", "--print-config"]
                    .iter()
                    .any(|flag| arguments.contains(flag))
        }
        _ => false,
    }
}

/// The one shell, in a network of its own when the system lets us have one.
struct Shell {
    child: Child,
    stdin: ChildStdin,
    printed: Receiver<String>,
    n_background: usize,
    // Removed last, when nothing writes there any more.
    directory: TempDir,
}

impl Shell {
    fn start(steps: &[Step]) -> Shell {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let tree = directory.path().join("raftexample");
        copy_tree(binary::workspace(), &tree);
        let ports = ports(steps, &tree);
        assert_ports_ours(&ports);
        // The README's paths into `target` hold in the copy, and its builds find what is built.
        std::os::unix::fs::symlink(binary::target_dir(), tree.join("target"))
            .expect("the copy has no target");

        let mut command = match isolation() {
            Some(arguments) => {
                let mut command = Command::new("unshare");
                command.args(arguments).args(["sh", "-c", "ip link set lo up && exec sh 2>&1"]);
                command
            }
            None => {
                assert_ports_free(&ports);
                let mut command = Command::new("sh");
                command.args(["-c", "exec sh 2>&1"]);
                command
            }
        };
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("RAFTEXAMPLE_") {
                command.env_remove(name);
            }
        }
        let mut child = command
            .current_dir(&tree)
            .env("CARGO_TARGET_DIR", binary::target_dir())
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a system with make has sh");
        let stdin = child.stdin.take().expect("it was piped");
        let stdout = BufReader::new(child.stdout.take().expect("it was piped"));
        let (lines, printed) = channel();
        thread::spawn(move || {
            for line in stdout.split(b'\n').map_while(Result::ok) {
                if lines.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                    return;
                }
            }
        });
        Shell { child, stdin, printed, n_background: 0, directory }
    }

    fn run(&mut self, step: &Step, at: &str) {
        // A group, not a subshell: `cd` and variables last. Its input is not ours.
        self.send(&format!("{{ {}\n}} </dev/null\nprintf '\\n{END} %d\\n' $?\n", step.command));
        let (printed, status) = self.printed_until_end(at);
        let printed: Vec<_> = printed.iter().map(String::as_str).collect();
        let listing = printed.join("\n");
        assert!(matches(&step.shown, &printed), "{at}\nprinted (status {status}):\n{listing}");
        assert!(status == 0 || !step.shown.is_empty(), "{at}\nended with status {status}");
    }

    fn run_in_background(&mut self, step: &Step, at: &str) {
        assert!(!step.shown.is_empty(), "{at}\nshows no output to wait for");
        let log = self.log(self.n_background);
        self.n_background += 1;
        self.send(&format!(
            "{{ {}\n}} </dev/null >'{}' 2>&1 &\nstarted=\"$! $started\"\n",
            step.command,
            log.display()
        ));
        // It goes on printing; what is shown is the beginning.
        let mut shown = step.shown.clone();
        shown.push("...".to_owned());
        let deadline = Instant::now() + COMMAND_TIMEOUT;
        loop {
            let printed = fs::read(&log).unwrap_or_default();
            let printed = String::from_utf8_lossy(&printed);
            if matches(&shown, &printed.lines().collect::<Vec<_>>()) {
                return;
            }
            assert!(Instant::now() < deadline, "{at}\nprinted so far:\n{printed}");
            thread::sleep(POLL);
        }
    }

    /// Ends what runs in the background as a reader would, and the shell.
    fn stop(&mut self) {
        self.send(&format!("kill $started 2>/dev/null; wait\nprintf '\\n{END} %d\\n' $?\n"));
        self.printed_until_end("stopping what runs in the background");
    }

    fn log(&self, number: usize) -> PathBuf {
        self.directory.path().join(format!("background-{number}.log"))
    }

    fn send(&mut self, text: &str) {
        self.stdin.write_all(text.as_bytes()).expect("the shell reads until we are done");
    }

    fn printed_until_end(&mut self, at: &str) -> (Vec<String>, i32) {
        let deadline = Instant::now() + COMMAND_TIMEOUT;
        let mut printed: Vec<String> = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(line) = self.printed.recv_timeout(left) else {
                panic!("{at}\ndid not end; printed so far:\n{}", printed.join("\n"));
            };
            if let Some(status) = line.strip_prefix(END) {
                // The end has a line of its own: an empty one is before it, or the rest of one
                // without an end.
                if printed.last().is_some_and(String::is_empty) {
                    printed.pop();
                }
                return (printed, status.trim().parse().expect("the shell prints a number"));
            }
            printed.push(line);
        }
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        if thread::panicking() {
            for number in 0..self.n_background {
                let log = fs::read_to_string(self.log(number)).unwrap_or_default();
                // Nothing more can be done for the reader when standard error is closed.
                let _closed = writeln!(io::stderr(), "--- background {number}:\n{log}");
            }
        }
        // A shell that is not in the middle of a command ends at once; any other is told below.
        let _gone = self.stdin.write_all(b"exit\n");
        // The group first, kindly: a cluster that is told to ends its members. In a pid namespace of
        // their own all end with the shell; without one this is all there is.
        if let Some(group) = Pid::from_raw(self.child.id() as i32) {
            let _ended = kill_process_group(group, Signal::TERM);
            let deadline = Instant::now() + STOP_TIMEOUT;
            while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
                thread::sleep(POLL);
            }
            let _ended = kill_process_group(group, Signal::KILL);
        }
        let _reaped = self.child.wait();
    }
}

/// How to get a network (and processes) of our own, if at all: the README's ports are fixed.
fn isolation() -> Option<&'static [&'static str]> {
    const CANDIDATES: [&[&str]; 2] = [
        &["--net", "--pid", "--fork", "--kill-child", "--mount-proc"],
        &["--map-root-user", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"],
    ];
    CANDIDATES.into_iter().find(|arguments| {
        let mut trial = Command::new("unshare");
        trial.args(*arguments).args(["sh", "-c", "ip link set lo up"]);
        trial.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        trial.status().is_ok_and(|status| status.success())
    })
}

/// The ports that the steps or the Procfile name.
fn ports(steps: &[Step], tree: &Path) -> Vec<u16> {
    // Without a Procfile no step can need its ports.
    let procfile = fs::read_to_string(tree.join("Procfile")).unwrap_or_default();
    let texts = steps.iter().map(|step| step.command.as_str()).chain([procfile.as_str()]);
    let words = texts.flat_map(|text| text.split(|c: char| !c.is_ascii_digit()));
    let ports = words.filter(|word| word.len() >= 4).filter_map(|word| word.parse::<u16>().ok());
    ports.filter(|&port| port >= 1024).collect()
}

/// A reader's system hands the ports from here on to whoever dials (Linux: ip_local_port_range):
/// a member cannot count on one of them.
fn assert_ports_ours(ports: &[u16]) {
    const FIRST_EPHEMERAL: u16 = 32_768;
    let handed_out = ports.iter().find(|port| **port >= FIRST_EPHEMERAL);
    assert!(handed_out.is_none(), "port {handed_out:?} may be taken by somebody who dials");
}

/// Panics when one of the ports is in use.
fn assert_ports_free(ports: &[u16]) {
    for &port in ports {
        let bound = TcpListener::bind((Ipv4Addr::LOCALHOST, port));
        assert!(
            bound.is_ok(),
            "port {port} is taken, and there is no network of our own to be had \
             (unshare --net): stop what listens there, then repeat the test"
        );
    }
}

/// Copies what a clone would hold: neither what is built nor what members left.
fn copy_tree(from: &Path, to: &Path) {
    let failed = |path: &Path, error: io::Error| -> ! { panic!("{}: {error}", path.display()) };
    fs::create_dir(to).unwrap_or_else(|error| failed(to, error));
    let entries = fs::read_dir(from).unwrap_or_else(|error| failed(from, error));
    for entry in entries {
        let entry = entry.unwrap_or_else(|error| failed(from, error));
        let name = entry.file_name();
        let text = name.to_string_lossy();
        let is_left_over = text.starts_with("raftexample-") || text.starts_with(".raftexample");
        if text == "target" || text == ".git" || is_left_over {
            continue;
        }
        let (source, copy) = (entry.path(), to.join(&name));
        let kind = entry.file_type().unwrap_or_else(|error| failed(&source, error));
        if kind.is_dir() {
            copy_tree(&source, &copy);
        } else if kind.is_file() {
            fs::copy(&source, &copy).unwrap_or_else(|error| failed(&source, error));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Step, is_long_running, matches, steps};

    /// Set-up blocks and prose are not run; outputs belong to the command above them.
    #[test]
    fn steps_are_the_commands_of_console_blocks() {
        let readme = "\
# Title
```sh
$ apt install
```
```console
$ make run
...
ready
```
$ not this
```console
$ curl \\
>   -X PUT url
$ cat file
one
```
";
        let step = |command: &str, shown: &[&str], line| Step {
            command: command.to_owned(),
            shown: shown.iter().map(|&line| line.to_owned()).collect(),
            line,
        };
        assert_eq!(
            steps(readme),
            [
                step("make run", &["...", "ready"], 6),
                step("curl \\\n  -X PUT url", &[], 12),
                step("cat file", &["one"], 14),
            ]
        );
    }

    /// A wildcard stands for what varies, and for nothing that does not.
    #[test]
    fn wildcards_match_within_and_across_lines() {
        let matches = |shown: &[&str], printed: &[&str]| {
            let shown: Vec<_> = shown.iter().map(|&line| line.to_owned()).collect();
            matches(&shown, printed)
        };
        assert!(matches(&[], &[]));
        assert!(!matches(&[], &["a"]));
        assert!(matches(&["a"], &["a  "]));
        assert!(!matches(&["a"], &["ab"]));
        assert!(matches(&["term ..., id ..."], &["term 7, id 1"]));
        assert!(!matches(&["term ..., id 1"], &["term 7, id 12"]));
        assert!(matches(&["...", "b", "..."], &["a", "a", "b"]));
        assert!(!matches(&["...", "b"], &["a", "b", "c"]));
        assert!(matches(&["..."], &[]));
    }

    /// Only what would keep the reader's terminal goes to the background.
    #[test]
    fn members_and_clusters_run_in_the_background() {
        assert!(is_long_running("make run"));
        assert!(is_long_running("target/debug/raftexample --id 1 --port 12380"));
        assert!(is_long_running("raftexample cluster start -f Procfile"));
        assert!(!is_long_running("raftexample cluster kill raftexample1"));
        assert!(!is_long_running("raftexample --version"));
        assert!(!is_long_running("curl -L http://127.0.0.1:12380/key"));
    }
}
