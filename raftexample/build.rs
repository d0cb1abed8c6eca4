//! Tells the binary which commit it was built from, when that is known.

use std::io::Write;
use std::process::Command;

fn main() {
    let git = Command::new("git").args(["rev-parse", "--short=12", "HEAD"]).output();
    let commit = git.ok().filter(|output| output.status.success());
    let commit = commit.and_then(|output| String::from_utf8(output.stdout).ok());
    let version = match commit {
        Some(commit) => format!("{} ({})", env!("CARGO_PKG_VERSION"), commit.trim()),
        None => env!("CARGO_PKG_VERSION").to_owned(),
    };
    let mut stdout = std::io::stdout();
    // A file that is missing would make every build a rebuild.
    for file in ["build.rs", "../.git/HEAD", "../.git/logs/HEAD"] {
        if std::path::Path::new(file).exists() {
            writeln!(stdout, "cargo::rerun-if-changed={file}").expect("cargo reads this");
        }
    }
    writeln!(stdout, "cargo::rustc-env=RAFTEXAMPLE_VERSION={version}").expect("cargo reads this");
}
