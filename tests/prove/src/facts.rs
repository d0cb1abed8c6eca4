//! Where and of what a proof is: the commit, the machine, the time.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};
use std::{fs, io, thread};

/// The page, whose own changes are no changes of what is proved.
pub const PAGE: &str = "docs/proof.md";
/// Where small campaigns are written down, which prove nothing of note.
pub const SMALL_PAGE: &str = "target/prove/proof.md";

/// The last commit that changed anything but these pages, and whether the tree holds more than it.
///
/// # Errors
///
/// When git cannot tell.
pub fn commit(root: &Path, pages: &str) -> io::Result<String> {
    let others = format!(":(exclude){pages}");
    let commit = tell(root, "git", &["log", "-1", "--format=%h", "--", ".", &others])?;
    let changes = tell(root, "git", &["status", "--porcelain", "--", ".", &others])?;
    Ok(if changes.is_empty() { commit } else { format!("{commit} (dirty)") })
}

/// What kind of machine this is, in one line.
///
/// # Errors
///
/// When it cannot be told.
pub fn machine(root: &Path) -> io::Result<String> {
    let cores = thread::available_parallelism()?;
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let model = field(&read("/proc/cpuinfo"), "model name");
    let kilobytes = field(&read("/proc/meminfo"), "MemTotal")
        .and_then(|text| text.split(' ').next()?.parse::<u64>().ok());
    let kernel = read("/proc/sys/kernel/ostype").trim().to_owned();
    let release = read("/proc/sys/kernel/osrelease").trim().to_owned();
    let rustc = tell(root, "rustc", &["--version"])?;
    let model = model.map_or_else(String::new, |model| format!(" ({})", model.replace('|', "/")));
    let memory =
        kilobytes.map_or_else(String::new, |n| format!(", {:.1} GiB", n as f64 / 1048576.0));
    Ok(format!("{cores} cores{model}{memory}, {kernel} {release}, {rustc}"))
}

/// The kind of file system that a directory is on.
///
/// # Errors
///
/// When `df` cannot tell.
pub fn file_system(directory: &Path) -> io::Result<String> {
    let told = tell(directory, "df", &["--output=fstype", "."])?;
    Ok(told.lines().last().unwrap_or_default().trim().to_owned())
}

/// Now, to the minute, in UTC.
pub fn now() -> String {
    let text = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    text[.."2000-01-01T00:00".len()].replace('T', " ")
}

/// As a person says it.
pub fn duration(length: Duration) -> String {
    humantime::format_duration(Duration::from_secs(length.as_secs())).to_string()
}

fn tell(root: &Path, program: &str, arguments: &[&str]) -> io::Result<String> {
    let output = Command::new(program).args(arguments).current_dir(root).output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(io::Error::other(format!("{program} {}: {said}", arguments.join(" "))));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
