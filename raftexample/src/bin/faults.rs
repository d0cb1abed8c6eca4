//! The same binary on a disk that fails as `RAFTEXAMPLE_FAULTS` says, for tests only.

use std::process::ExitCode;

fn main() -> ExitCode {
    raftexample::main()
}
