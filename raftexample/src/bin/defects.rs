//! The same binary with deliberate defects in it, of which the environment chooses one by its name.
//! For tests only.

use std::process::ExitCode;

fn main() -> ExitCode {
    match raftnode::defects::from_environment() {
        Ok(_) => raftexample::main(),
        Err(what) => {
            say(&what);
            ExitCode::from(2)
        }
    }
}

#[expect(clippy::print_stderr, reason = "whoever names a defect wrongly must hear of it")]
fn say(what: &str) {
    eprintln!("{what}");
}
