//! Prints where the vendored `protoc` lies, for `PROTOC=$(cargo run -q -p vendored-protoc)`.
//!
//! The etcd client generates its gRPC code while it is built and looks for the compiler in `PROTOC`.
//! A build dependency cannot set a variable for another package's build script, so a command does.

use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;

fn main() -> ExitCode {
    let path = match protoc_bin_vendored::protoc_bin_path() {
        Ok(path) => path,
        Err(error) => {
            let _unwritable = writeln!(std::io::stderr(), "no protoc for this machine: {error}");
            return ExitCode::FAILURE;
        }
    };
    let mut line = path.as_os_str().as_bytes().to_vec();
    line.push(b'\n');
    match std::io::stdout().write_all(&line) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}
