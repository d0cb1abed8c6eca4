//! `raftexample cluster` as a person meets it: the real binary, Procfiles of small shell commands.
//!
//! Every test has a directory of its own, and nothing waits by the clock: `eventually` polls, and
//! shows the runner's output when it gives up.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use tempfile::TempDir;

const BINARY: &str = env!("CARGO_BIN_EXE_raftexample");
const DEADLINE: Duration = Duration::from_secs(20);
/// Sleeps for longer than any test, in one process that SIGTERM ends.
const SLEEP: &str = "exec sleep 600";

struct Runner {
    child: Child,
    output: Arc<Mutex<String>>,
}

fn procfile(text: &str) -> TempDir {
    let directory = tempfile::tempdir().expect("a temporary directory");
    fs::write(directory.path().join("Procfile"), text).expect("a writable directory");
    directory
}

fn command(directory: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    command.arg("cluster").args(args).current_dir(directory).stdin(Stdio::null());
    command.env_remove("PORT");
    command
}

/// Runs one command to its end.
fn cluster(directory: &TempDir, args: &[&str]) -> (i32, String) {
    let output = command(directory.path(), args).output().expect("the binary runs");
    said(&output)
}

fn said(output: &Output) -> (i32, String) {
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    let code = output.status.code().expect("the command exits by itself");
    (code, String::from_utf8(text).expect("messages are UTF-8"))
}

impl Runner {
    fn start(directory: &TempDir, args: &[&str]) -> Runner {
        let mut command = command(directory.path(), &[&["start"], args].concat());
        let mut child =
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary runs");
        let output = Arc::new(Mutex::new(String::new()));
        let pipes: [Box<dyn Read + Send>; 2] = [
            Box::new(child.stdout.take().expect("piped")),
            Box::new(child.stderr.take().expect("piped")),
        ];
        for pipe in pipes {
            let output = Arc::clone(&output);
            thread::spawn(move || {
                for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                    output.lock().expect("no test panics with it").push_str(&(line + "\n"));
                }
            });
        }
        let runner = Runner { child, output };
        runner.says("started; 'raftexample cluster status");
        runner
    }

    fn output(&self) -> String {
        self.output.lock().expect("no test panics with it").clone()
    }

    fn says(&self, text: &str) {
        self.eventually(&format!("the output has {text:?}"), || {
            self.output().contains(text).then_some(())
        });
    }

    fn signal(&self, signal: Signal) {
        rustix::process::kill_process(Pid::from_child(&self.child), signal).expect("it runs");
    }

    fn eventually<T>(&self, what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
        let start = Instant::now();
        loop {
            if let Some(value) = probe() {
                return value;
            }
            assert!(start.elapsed() < DEADLINE, "not in time: {what}\n{}", self.output());
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn ends(&mut self) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("it is our child") {
                return status;
            }
            assert!(start.elapsed() < DEADLINE, "the runner stays:\n{}", self.output());
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// The pid a process printed as `name | <tag> PID`.
    fn printed_pid(&self, tag: &str) -> i32 {
        self.eventually(&format!("a pid after {tag:?}"), || {
            let output = self.output();
            let (_, rest) = output.rsplit_once(tag)?;
            rest.lines().next()?.trim().parse().ok()
        })
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        // A failed test must not leave its processes behind: the second signal kills them.
        for _ in 0..2 {
            if let Ok(None) = self.child.try_wait() {
                self.signal(Signal::TERM);
                thread::sleep(Duration::from_millis(100));
            }
        }
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// The columns of one row of `status`: pid, state, restarts.
fn row(directory: &TempDir, name: &str) -> (Option<i32>, String, u32) {
    let (code, text) = cluster(directory, &["status"]);
    assert_eq!(code, 0, "{text}");
    let line = text.lines().find(|line| line.starts_with(&format!("{name} "))).expect(&text);
    let cells: Vec<&str> =
        line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect();
    (cells[1].parse().ok(), cells[2].to_owned(), cells[3].parse().expect(&text))
}

fn lives(pid: i32) -> bool {
    match fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => !stat.rsplit_once(')').expect("a stat line").1.trim_start().starts_with('Z'),
        Err(_) => false,
    }
}

fn three() -> TempDir {
    procfile(&format!("kv1: {SLEEP}\nkv2: {SLEEP}\nkv3: {SLEEP}\n"))
}

#[test]
fn a_killed_member_leaves_the_others() {
    // The one thing a person runs this for: a minority dies, the rest goes on.
    let directory = three();
    let runner = Runner::start(&directory, &[]);
    runner.says("cluster: 3 processes started; ");
    let (pid, state, restarts) = row(&directory, "kv2");
    assert_eq!((state.as_str(), restarts), ("running", 0));

    let (code, text) = cluster(&directory, &["kill", "kv2"]);

    assert_eq!((code, text.as_str()), (0, "kv2 killed by signal 9\n"));
    assert!(!lives(pid.expect("it ran")), "answered before it was gone");
    assert_eq!(row(&directory, "kv2"), (None, "killed by signal 9".to_owned(), 0));
    assert_eq!(row(&directory, "kv1").1, "running");
    assert_eq!(row(&directory, "kv3").1, "running");
    runner.says("2 still running; 'raftexample cluster start kv2' brings it back");

    let (code, text) = cluster(&directory, &["start", "kv2"]);
    assert_eq!(code, 0, "{text}");
    let (pid, state, restarts) = row(&directory, "kv2");
    assert_eq!(text, format!("kv2 started, pid {}\n", pid.expect("it runs")));
    assert_eq!((state.as_str(), restarts), ("running", 1));
    assert_eq!(cluster(&directory, &["start", "kv2"]).0, 0, "it is what was asked for");
}

#[test]
fn restart_gives_a_new_process() {
    // Also of one that is down: whoever says restart wants it up.
    let directory = three();
    let _runner = Runner::start(&directory, &[]);
    let before = row(&directory, "kv1").0.expect("it runs");
    assert_eq!(cluster(&directory, &["stop", "kv3"]), (0, "kv3 stopped\n".to_owned()));
    assert_eq!(row(&directory, "kv3").1, "stopped");

    let (code, text) = cluster(&directory, &["restart", "kv1", "kv3", "kv1"]);

    assert_eq!((code, text.lines().count()), (0, 2), "{text}");
    let (after, state, restarts) = row(&directory, "kv1");
    assert_ne!(after, Some(before));
    assert!(!lives(before));
    assert_eq!((state.as_str(), restarts), ("running", 1));
    assert_eq!(row(&directory, "kv3").1, "running");
}

#[test]
fn stop_kills_what_ignores_it_after_the_grace() {
    // A member that hangs must not make the command hang, and the answer must say so.
    let directory = procfile(&format!(
        "deaf: trap '' TERM; echo ready; while :; do sleep 0.05; done\nother: {SLEEP}\n"
    ));
    let runner = Runner::start(&directory, &["--grace", "200ms"]);
    runner.says("deaf  | ready");
    let pid = row(&directory, "deaf").0.expect("it runs");

    let (code, text) = cluster(&directory, &["stop", "deaf"]);

    assert_eq!((code, text.as_str()), (0, "deaf killed by signal 9\n"));
    assert!(!lives(pid));
    runner.says("deaf did not stop in 200ms; killing it");
}

#[test]
fn unknown_names_and_absent_runners_are_told_apart() {
    // A script can tell a typing error (2) from a cluster that is down (1).
    let directory = three();
    let (code, text) = cluster(&directory, &["status"]);
    assert_eq!((code, text.lines().count()), (1, 1), "{text}");
    assert!(text.contains("start one with 'raftexample cluster start'"), "{text}");

    let _runner = Runner::start(&directory, &[]);
    for verb in ["stop", "kill", "restart", "start"] {
        let (code, text) = cluster(&directory, &[verb, "kv1", "kv9"]);
        assert_eq!((code, text.lines().count()), (2, 1), "{text}");
        assert!(text.contains("no process 'kv9'; there are kv1, kv2, kv3"), "{text}");
    }
    assert_eq!(row(&directory, "kv1").1, "running", "a refused command does nothing");
    assert_eq!(cluster(&directory, &["kill"]).0, 2);
}

#[test]
fn a_bad_procfile_starts_nothing() {
    // Half a cluster looks like a raft problem; a line about the Procfile does not.
    for (text, expected) in [
        ("", "no process in it"),
        ("a: touch started\nnonsense\n", "line 2: 'nonsense' is not 'name: command'"),
        ("a: touch started\na: touch started\n", "line 2: 'a' is named twice"),
    ] {
        let directory = procfile(text);
        let (code, line) = cluster(&directory, &["start"]);
        assert_eq!((code, line.lines().count()), (2, 1), "{line}");
        assert!(line.contains(expected), "{line}");
        assert!(!directory.path().join("started").exists());
    }
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (code, line) = cluster(&directory, &["start"]);
    assert_eq!((code, line.lines().count()), (2, 1), "{line}");
    assert!(line.contains("Procfile does not exist; name another with -f FILE"), "{line}");
}

#[test]
fn a_second_start_is_refused() {
    // Two runners would start every member twice.
    let directory = three();
    let runner = Runner::start(&directory, &[]);

    let (code, text) = cluster(&directory, &["start"]);

    assert_eq!((code, text.lines().count()), (1, 1), "{text}");
    assert!(text.contains(&format!("already, pid {}", runner.child.id())), "{text}");
    assert_eq!(row(&directory, "kv1").1, "running");
}

#[test]
fn a_killed_runner_is_replaced_and_its_processes_named() {
    // Its socket is still there, and so are its processes, holding ports and directories.
    let directory = procfile(&format!("kv1: {SLEEP}\n"));
    let mut first = Runner::start(&directory, &[]);
    let orphan = row(&directory, "kv1").0.expect("it runs");
    first.signal(Signal::KILL);
    first.ends();
    assert!(directory.path().join(".raftexample-cluster.sock").exists());
    assert_eq!(cluster(&directory, &["status"]).0, 1, "nobody answers");

    let second = Runner::start(&directory, &[]);

    second.says(&format!("still runs, pid {orphan}; end it with 'kill -- -{orphan}'"));
    assert_eq!(row(&directory, "kv1").1, "running");
    let pid = Pid::from_raw(orphan).expect("not zero");
    rustix::process::kill_process_group(pid, Signal::KILL).expect("the orphan still runs");
}

#[test]
fn bare_stop_ends_everything() {
    // And when it answers the directory is free: a script may start again at once.
    let directory = three();
    let mut runner = Runner::start(&directory, &[]);
    let pid = row(&directory, "kv3").0.expect("it runs");

    assert_eq!(cluster(&directory, &["stop"]), (0, "3 processes stopped\n".to_owned()));

    assert!(!lives(pid));
    assert!(!directory.path().join(".raftexample-cluster.sock").exists());
    let _next = Runner::start(&directory, &[]);
    assert_eq!(runner.ends().code(), Some(0));
}

#[test]
fn ctrl_c_lets_processes_finish() {
    // Members hand over and sync on SIGTERM; the runner must wait for that.
    let body = "trap 'echo bye; exit 0' TERM; echo ready; while :; do sleep 0.05; done";
    let directory = procfile(&format!("a: {body}\nb: {body}\n"));
    let mut runner = Runner::start(&directory, &[]);
    runner.says("a | ready");
    runner.says("b | ready");

    runner.signal(Signal::INT);

    assert_eq!(runner.ends().code(), Some(0));
    runner.says("a | bye");
    runner.says("b | bye");
    runner.says("cluster: a stopped");
}

#[test]
fn a_second_ctrl_c_kills() {
    // Nobody should have to look for the pid of a member that hangs.
    let directory = procfile("deaf: trap '' TERM; echo pid $$; while :; do sleep 0.05; done\n");
    let mut runner = Runner::start(&directory, &["--grace", "1h"]);
    let pid = runner.printed_pid("pid ");

    runner.signal(Signal::INT);
    runner.says("Ctrl-C again kills");
    assert!(lives(pid));
    runner.signal(Signal::INT);

    assert_eq!(runner.ends().code(), Some(0));
    assert!(!lives(pid));
}

#[test]
fn grandchildren_die_with_their_process() {
    // The shell is not the node: killing it alone would leave the node holding its port.
    let directory = procfile(&format!(
        "tree: sh -c 'sh -c \"echo deep \\$\\$; exec sleep 600\" & wait'; :\nother: {SLEEP}\n"
    ));
    let mut runner = Runner::start(&directory, &[]);
    let first = runner.printed_pid("deep ");
    assert_eq!(cluster(&directory, &["kill", "tree"]).0, 0);
    assert!(!lives(first), "kill answered while a grandchild lived");

    assert_eq!(cluster(&directory, &["start", "tree"]).0, 0);
    let second = runner.eventually("another grandchild", || {
        Some(runner.printed_pid("deep ")).filter(|pid| *pid != first)
    });
    runner.signal(Signal::TERM);
    assert_eq!(runner.ends().code(), Some(0));
    assert!(!lives(second));
}

#[test]
fn what_a_shell_leaves_behind_ends_with_it() {
    // A background process that outlives its shell would run unseen and could not be stopped.
    let directory = procfile(&format!("a: sleep 600 & echo left $!\nb: {SLEEP}\n"));
    let runner = Runner::start(&directory, &[]);
    let pid = runner.printed_pid("left ");
    runner.says("a exited code 0");
    assert!(!lives(pid));
}

#[test]
fn the_runner_ends_when_everything_has_ended_by_itself() {
    // `make cluster` must not look alive when every member failed to start.
    let directory = procfile("a: exit 3\nb: echo b ran\n");
    let output = command(directory.path(), &["start"]).output().expect("the binary runs");
    let (code, text) = said(&output);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("a exited code 3"), "{text}");
    assert!(text.contains("every process has ended by itself"), "{text}");
}

#[test]
fn the_runner_stays_when_a_person_ended_the_last_one() {
    // Killing the whole cluster and bringing it back is an experiment worth having.
    let directory = procfile(&format!("a: {SLEEP}\n"));
    let runner = Runner::start(&directory, &[]);
    assert_eq!(cluster(&directory, &["kill", "a"]).0, 0);
    runner.says("0 still running");
    assert_eq!(cluster(&directory, &["start", "a"]).0, 0);
    assert_eq!(row(&directory, "a").1, "running");
}

#[test]
fn output_is_whole_prefixed_lines() {
    // Two chatty members at once, one line beyond the bound, one without its newline.
    let directory = procfile(
        "one: i=0; while [ $i -lt 300 ]; do echo 11111111; echo 11111111 >&2; i=$((i+1)); done\n\
         second: i=0; while [ $i -lt 300 ]; do echo 22222222; i=$((i+1)); done\n\
         long: head -c 100000 /dev/zero | tr '\\0' x; printf tail\n",
    );
    let output = command(directory.path(), &["start"]).output().expect("the binary runs");
    let (_, text) = said(&output);
    let count = |wanted: &str| text.lines().filter(|line| *line == wanted).count();
    assert_eq!(count("one    | 11111111"), 600);
    assert_eq!(count("second | 22222222"), 300);
    let long: Vec<usize> = text
        .lines()
        .filter(|line| line.starts_with("long   | "))
        .map(|line| line.len() - "long   | ".len())
        .collect();
    assert_eq!(long, [65536, 100_004 - 65536]);
    assert!(!text.contains('\x1b'), "colours belong on a terminal");
}

#[test]
fn a_closed_output_ends_the_runner() {
    // `raftexample cluster start | head` must end, not spin.
    let directory = procfile("a: while echo line; do sleep 0.02; done; sleep 600\n");
    let mut child = command(directory.path(), &["start"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    let mut line = String::new();
    let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
    stdout.read_line(&mut line).expect("it says something");
    drop(stdout);
    let mut runner = Runner { child, output: Arc::default() };
    assert_eq!(runner.ends().code(), Some(1));
}

#[test]
fn processes_see_their_environment() {
    // PORT and .env as other runners have them, this build first in PATH, the Procfile's directory.
    let directory = procfile(
        "a: echo $PORT; pwd; command -v raftexample\n\
         b: echo $PORT; echo \"$GREETING/$GIVEN\"\n",
    );
    let env = "# for tests\nexport GREETING='hello there'\nGIVEN=file\n";
    fs::write(directory.path().join(".env"), env).expect("a writable directory");
    let path = directory.path().join("Procfile");
    let elsewhere = tempfile::tempdir().expect("a temporary directory");
    let args = ["start", "-f", path.to_str().expect("a UTF-8 path")];

    let output =
        command(elsewhere.path(), &args).env("GIVEN", "shell").output().expect("the binary runs");

    let (_, text) = said(&output);
    let home = directory.path().canonicalize().expect("it exists");
    let binary = Path::new(BINARY).canonicalize().expect("it exists");
    for line in [
        "a | 5000".to_owned(),
        "b | 5100".to_owned(),
        "b | hello there/shell".to_owned(),
        format!("a | {}", home.display()),
        format!("a | {}", binary.display()),
    ] {
        assert!(text.lines().any(|have| have == line), "{line}\n{text}");
    }
}

#[test]
fn a_directory_with_a_long_path_works() {
    // A unix socket's path may have 108 bytes; the directory of a project may have more.
    let directory = tempfile::tempdir().expect("a temporary directory");
    let deep = directory.path().join("d".repeat(120)).join("e".repeat(120));
    fs::create_dir_all(&deep).expect("a writable directory");
    let file = deep.join("Other");
    fs::write(&file, format!("a: {SLEEP}\n")).expect("a writable directory");
    let option = ["-f", file.to_str().expect("a UTF-8 path")];
    let runner = Runner::start(&directory, &option);
    runner.says(&format!("'raftexample cluster status -f {}'", file.display()));
    let (code, text) = cluster(&directory, &[&["stop", "a"][..], &option].concat());
    assert_eq!((code, text.as_str()), (0, "a stopped\n"));
}
