//! The same binary with deliberate defects in it, for tests only.

use std::process::ExitCode;

fn main() -> ExitCode {
    raftexample::main()
}
