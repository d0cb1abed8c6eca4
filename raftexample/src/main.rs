//! The `raftexample` binary.

use std::process::ExitCode;

/// What one thread allocates another frees, for every command: the system's allocator takes a lock
/// for that, and up to a fifth of the processor under load.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    raftexample::main()
}
