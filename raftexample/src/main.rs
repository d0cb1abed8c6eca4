//! raftexample.

use std::process::ExitCode;

use clap::Parser;

mod cluster;

/// The command line.
#[derive(Parser)]
#[command(name = "raftexample", version)]
enum Cli {
    /// Runs the processes of a Procfile and steers them by name.
    Cluster(cluster::Args),
}

fn main() -> ExitCode {
    match Cli::parse() {
        Cli::Cluster(args) => cluster::run(args),
    }
}
