//! Where the server executable is, as fresh as the sources.
//!
//! Cargo tells a test only about the executables of its own package. So cargo is asked to build the
//! other package, in the profile and the target directory of the running test: when nothing changed
//! that costs a fraction of a second, and a stale executable is never tested.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// Both at once, so that the libraries are compiled once for both executables.
const FOR_TESTS: [&str; 2] = ["--features", "defects,faults"];

/// Where the executable with defects is, for whoever has built it already.
pub const BUILT_WITH_DEFECTS: &str = "RAFTEXAMPLE_WITH_DEFECTS";

/// The server executable, built if it is missing or older than its sources.
///
/// # Panics
///
/// When it cannot be built; what cargo said is then on standard error.
pub fn raftexample() -> &'static Path {
    // The only state shared by the tests of a process: building once is the point.
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| build("raftexample", &[]))
}

/// The same with deliberate defects in it, of which a variable chooses one. It has a name of its
/// own, so that it never takes the place of the other.
///
/// # Panics
///
/// As [`raftexample()`].
pub fn with_defects() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| match std::env::var_os(BUILT_WITH_DEFECTS) {
        Some(path) => path.into(),
        None => build("raftexample-defects", &FOR_TESTS),
    })
}

/// The same on a disk that fails as a variable says, with a name of its own too.
///
/// # Panics
///
/// As [`raftexample()`].
pub fn with_faults() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| build("raftexample-faults", &FOR_TESTS))
}

/// The directory that holds the workspace's `Cargo.toml`.
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package lies in the workspace")
}

/// The target directory the running test was built in.
pub fn target_dir() -> PathBuf {
    profile_dir().parent().expect("a profile's directory lies in the target directory").into()
}

/// `target/<profile>`, from `target/<profile>/deps/<this test>` or `target/<profile>/<this tool>`.
fn profile_dir() -> PathBuf {
    let this = std::env::current_exe().expect("what runs has a path");
    let directory = this.parent().expect("an executable lies in a directory");
    match directory.file_name() {
        Some(name) if name == "deps" => directory.parent().expect("a profile has deps").into(),
        _ => directory.into(),
    }
}

fn build(name: &str, flags: &[&str]) -> PathBuf {
    let profile_dir = profile_dir();
    let profile = match profile_dir.file_name().and_then(|name| name.to_str()) {
        Some("debug") => "dev",
        Some(name) => name,
        None => panic!("{} is not a profile's directory", profile_dir.display()),
    };
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .current_dir(workspace())
        .args(["build", "--package", "raftexample", "--bin", name, "--quiet"])
        .args(flags)
        .args(["--profile", profile, "--message-format", "json-render-diagnostics"])
        .arg("--target-dir")
        .arg(target_dir())
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .expect("cargo runs, since it ran this test");
    assert!(output.status.success(), "{name} does not build: {}", output.status);
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter_map(|message| message["executable"].as_str().map(PathBuf::from))
        .next_back()
        .expect("cargo names the executable it built")
}
