//! A replicated key-value node on [`raftnode`], as a stranger to that library would write it.
//!
//! ```text
//!  httpapi ──command──► raftnode ──Commit──► kvstore's applier ──► one locked map
//!     └────────────────────── reads ───────────────────────────────┘
//! ```
//!
//! - [`cli`]: flags, variables and defaults become [`cli::Settings`], or a refusal in one line.
//! - [`command`]: what a proposal says, in bytes.
//! - [`kvstore`]: what the committed commands amount to; [`watch`]: what they changed.
//! - [`state`]: the same as bytes, for snapshots.
//! - [`httpapi`]: the client port.
//! - [`logging`]: one logger, on standard error.
//! - [`run`]: a node's life from its settings to its exit code.
//! - [`cluster`]: the Procfile runner, [`mod@bench`]: the load generator, and [`inspect`]: the tools
//!   that look at what a member keeps on disk.

use std::io::Write;
use std::process::ExitCode;

pub mod bench;
pub mod cli;
pub mod cluster;
pub mod command;
pub mod httpapi;
pub mod inspect;
pub mod kvstore;
pub mod logging;
pub mod run;
pub mod state;
pub mod watch;

#[cfg(test)]
mod testing;

/// What the binary is: chooses by the command line what runs, and gives the exit code.
#[must_use]
pub fn main() -> ExitCode {
    match cli::parse(std::env::args_os()) {
        cli::Request::Run(settings) => run::run(*settings),
        cli::Request::Command(command) => command.run(),
        cli::Request::Print(text) => {
            // Nobody is left to tell when standard output is closed.
            std::io::stdout().lock().write_all(text.as_bytes()).ok();
            ExitCode::SUCCESS
        }
        cli::Request::Refuse(line) => {
            writeln!(std::io::stderr().lock(), "raftexample: {line}").ok();
            ExitCode::from(cli::USAGE)
        }
    }
}
