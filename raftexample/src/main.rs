//! The `raftexample` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    raftexample::main()
}
