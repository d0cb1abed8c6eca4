//! `raftexample cluster`: runs the processes of a Procfile and steers them by name.
//!
//! It is a development tool in the manner of goreman and honcho, with what testing a replicated
//! node needs on top: any single member can be killed, stopped and brought back from another
//! terminal, and each such command returns when it has happened.
//!
//! Refuses to bring a process back by itself: to watch a cluster with a member down is the point.
//! Refuses to run in the background, and to run twice in a directory.
//!
//! Exit codes: 0 done, 1 could not, 2 usage (the Procfile counts as usage), 70 broken invariant.
//!
//! - `procfile` reads the files,
//! - `lock` keeps other runners away,
//! - `supervisor` is the runner: it decides who runs,
//! - `group` starts, signals and reaps one process group,
//! - `output` prints whole lines,
//! - `control` is the conversation with the other commands.

mod control;
mod group;
mod lock;
mod output;
mod procfile;
mod supervisor;

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use control::{Reply, Request};

/// The arguments of `raftexample cluster`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit codes: 0 done, 1 could not, 2 usage.")]
pub(crate) struct Args {
    /// The Procfile; its directory is where the processes run and the runner is found.
    #[arg(short = 'f', long, global = true, value_name = "FILE", default_value = "Procfile")]
    procfile: PathBuf,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Runs every process of the Procfile here; with NAME, starts one that is down.
    Start {
        /// Processes of the running cluster.
        names: Vec<String>,
        /// How long a process may take to stop before it is killed.
        #[arg(long, value_name = "DURATION", default_value = "10s", conflicts_with = "names")]
        #[arg(value_parser = humantime::parse_duration)]
        grace: Duration,
    },
    /// Stops processes (SIGTERM, after the grace SIGKILL); without NAME, stops everything.
    Stop {
        /// Processes of the running cluster.
        names: Vec<String>,
    },
    /// Kills processes at once (SIGKILL).
    Kill {
        /// Processes of the running cluster.
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Stops processes and starts them again, one after the other.
    Restart {
        /// Processes of the running cluster.
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Shows each process: pid, state, restarts, uptime.
    Status,
}

/// Why a command failed, in one line.
enum Failure {
    CouldNot(String),
    Usage(String),
}

/// Where a Procfile is, and what to type to mean it.
struct Place {
    directory: PathBuf,
    procfile: PathBuf,
    /// ` -f FILE` where the default would not do.
    option: String,
}

/// Runs one `cluster` command to its end.
pub(crate) fn run(args: Args) -> ExitCode {
    let result = Place::find(&args.procfile).and_then(|place| match args.verb {
        Verb::Start { names, grace } if names.is_empty() => start(&place, grace),
        verb => steer(&place, request(verb)).map(|()| ExitCode::SUCCESS),
    });
    let (line, code) = match result {
        Ok(code) => return code,
        Err(Failure::CouldNot(line)) => (line, 1),
        Err(Failure::Usage(line)) => (line, 2),
    };
    // Where standard error is closed the exit code has to do.
    writeln!(io::stderr().lock(), "raftexample cluster: {line}").ok();
    ExitCode::from(code)
}

fn request(verb: Verb) -> Request {
    match verb {
        Verb::Start { names, .. } => Request::Start(names),
        Verb::Stop { names } if names.is_empty() => Request::StopAll,
        Verb::Stop { names } => Request::Stop(names),
        Verb::Kill { names } => Request::Kill(names),
        Verb::Restart { names } => Request::Restart(names),
        Verb::Status => Request::Status,
    }
}

/// Asks the runner and prints what it answers.
fn steer(place: &Place, request: Request) -> Result<(), Failure> {
    place.enter()?;
    let directory = place.directory.display();
    let reply = control::ask(&request).map_err(|error| {
        Failure::CouldNot(format!("the runner in {directory} cannot be asked: {error}"))
    })?;
    let text = match reply {
        None => {
            return Err(Failure::CouldNot(format!(
                "no cluster runs in {directory}; start one with 'raftexample cluster start{}'",
                place.option
            )));
        }
        Some(Reply::Failed(line)) => return Err(Failure::CouldNot(line)),
        Some(Reply::Unknown(line)) => return Err(Failure::Usage(line)),
        Some(Reply::Done(lines)) => lines.iter().map(|line| format!("{line}\n")).collect(),
        Some(Reply::Status(rows)) => control::table(&rows),
    };
    let mut stdout = io::stdout().lock();
    stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
        .map_err(|error| Failure::CouldNot(format!("done, but standard output: {error}")))
}

/// Becomes the runner of the directory.
fn start(place: &Place, grace: Duration) -> Result<ExitCode, Failure> {
    let variables = read_env(&place.directory)?;
    let text = read_text(&place.procfile)?.ok_or_else(|| {
        Failure::Usage(format!(
            "{} does not exist; name another with -f FILE",
            place.procfile.display()
        ))
    })?;
    let port = std::env::var("PORT").ok().or_else(|| {
        variables.iter().rev().find(|(key, _)| key == "PORT").map(|(_, value)| value.clone())
    });
    let entries = procfile::parse_procfile(&text, port.as_deref())
        .map_err(|refusal| Failure::Usage(format!("{}: {refusal}", place.procfile.display())))?;
    let path = search_path(&variables)?;
    place.enter()?;

    let lock = lock::Lock::take(&place.directory).map_err(|error| {
        let directory = place.directory.display();
        Failure::CouldNot(match error {
            lock::NotTaken::Held(Some(pid)) => format!(
                "a cluster runs in {directory} already, pid {pid}; \
                 end it with 'raftexample cluster stop{}'",
                place.option
            ),
            lock::NotTaken::Held(None) => format!("a cluster runs in {directory} already"),
            lock::NotTaken::Io(error) => format!("{directory} cannot be locked: {error}"),
        })
    })?;
    for left in lock.leftovers() {
        // The processes start all the same, and say for themselves what they miss.
        writeln!(
            io::stderr().lock(),
            "raftexample cluster: {} of a runner that was killed still runs, pid {}; \
             end it with 'kill -- -{}'",
            left.name,
            left.pid,
            left.pid
        )
        .ok();
    }

    let mut environment: Vec<(OsString, OsString)> = variables
        .into_iter()
        .filter(|(key, _)| std::env::var_os(key).is_none())
        .map(|(key, value)| (key.into(), value.into()))
        .collect();
    environment.push(("PATH".into(), path));
    supervisor::run(supervisor::Config {
        entries,
        environment,
        lock,
        grace,
        option: place.option.clone(),
    })
}

/// What is set already stays: a variable on the command line means more than one in a file.
fn read_env(directory: &Path) -> Result<Vec<(String, String)>, Failure> {
    let file = directory.join(".env");
    let Some(text) = read_text(&file)? else { return Ok(Vec::new()) };
    procfile::parse_env(&text)
        .map_err(|refusal| Failure::Usage(format!("{}: {refusal}", file.display())))
}

/// The text of a file, or none where there is no file.
fn read_text(file: &Path) -> Result<Option<String>, Failure> {
    match std::fs::read_to_string(file) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Failure::Usage(format!("{} cannot be read: {error}", file.display()))),
    }
}

/// `PATH` with the directory of this executable first, so that a Procfile that says `raftexample`
/// means the same build.
fn search_path(variables: &[(String, String)]) -> Result<OsString, Failure> {
    let could_not = |error: &dyn std::fmt::Display| {
        Failure::CouldNot(format!("the directory of this program cannot go into PATH: {error}"))
    };
    let own = std::env::current_exe().map_err(|error| could_not(&error))?;
    let from_file = || variables.iter().rev().find(|(key, _)| key == "PATH").map(|(_, v)| v.into());
    let rest = std::env::var_os("PATH").or_else(from_file).unwrap_or_default();
    let own_directory = own.parent().map(Path::to_path_buf);
    let directories = own_directory.into_iter().chain(std::env::split_paths(&rest));
    std::env::join_paths(directories).map_err(|error| could_not(&error))
}

impl Place {
    fn find(procfile: &Path) -> Result<Place, Failure> {
        let shown = procfile.display();
        let parent = match procfile.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let directory = parent
            .canonicalize()
            .map_err(|error| Failure::Usage(format!("{}: {error}; check -f", parent.display())))?;
        let name = procfile
            .file_name()
            .ok_or_else(|| Failure::Usage(format!("'{shown}' names no file; check -f")))?;
        let is_default = procfile == Path::new("Procfile");
        Ok(Place {
            procfile: directory.join(name),
            directory,
            option: if is_default { String::new() } else { format!(" -f {shown}") },
        })
    }

    fn enter(&self) -> Result<(), Failure> {
        std::env::set_current_dir(&self.directory)
            .map_err(|error| Failure::CouldNot(format!("{}: {error}", self.directory.display())))
    }
}
