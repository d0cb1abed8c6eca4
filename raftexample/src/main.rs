//! The `raftexample` binary. All it does itself is to choose what runs, and the exit code.

use std::io::Write;
use std::process::ExitCode;

use raftexample::cli::{self, Request};

fn main() -> ExitCode {
    match cli::parse(std::env::args_os()) {
        Request::Run(settings) => raftexample::run::run(*settings),
        Request::Command(command) => command.run(),
        Request::Print(text) => {
            // Nobody is left to tell when standard output is closed.
            std::io::stdout().lock().write_all(text.as_bytes()).ok();
            ExitCode::SUCCESS
        }
        Request::Refuse(line) => {
            writeln!(std::io::stderr().lock(), "raftexample: {line}").ok();
            ExitCode::from(cli::USAGE)
        }
    }
}
