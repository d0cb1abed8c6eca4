//! A replicated key-value node on [`raftnode`], as a stranger to that library would write it.
//!
//! ```text
//!  httpapi ──command──► raftnode ──Commit──► kvstore's applier ──► one atomic pointer
//!     └────────────────────── reads ──────────────────────────────────┘
//! ```
//!
//! - [`cli`]: flags, variables and defaults become [`cli::Settings`], or a refusal in one line.
//! - [`command`]: what a proposal says, in bytes.
//! - [`kvstore`]: what the committed commands amount to; [`watch`]: what they changed.
//! - [`state`]: the same as bytes, for snapshots.
//! - [`httpapi`]: the client port.
//! - [`logging`]: one logger, on standard error.
//! - [`run`]: a node's life from its settings to its exit code.
//! - [`cluster`]: the Procfile runner, and [`mod@bench`]: the load generator.

pub mod bench;
pub mod cli;
pub mod cluster;
pub mod command;
pub mod httpapi;
pub mod kvstore;
pub mod logging;
pub mod run;
pub mod state;
pub mod watch;

#[cfg(test)]
mod testing;
