//! A view of the mounts that is a process's own: what is mounted in it is seen by nobody else, and
//! gone with the last process that sees it, however that ends.

use std::ffi::OsStr;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// Set in a process that has been given such a view.
const OWN: &str = "TESTS_OWN_MOUNTS";
/// How one gets it: as root, and as who becomes root in a name space of users.
const WAYS: [&[&str]; 2] = [&["--mount"], &["--map-root-user", "--mount"]];

/// A command that runs a program with a view of the mounts of its own, in which it may mount; none
/// where that is not allowed.
pub fn with_own(program: impl AsRef<OsStr>) -> Option<Command> {
    static WAY: OnceLock<Option<&'static [&'static str]>> = OnceLock::new();
    let way = (*WAY.get_or_init(|| WAYS.into_iter().find(|way| is_allowed(way))))?;
    let mut command = Command::new("unshare");
    command.args(way).arg(program).env(OWN, "1");
    Some(command)
}

fn is_allowed(way: &[&str]) -> bool {
    let Ok(directory) = tempfile::tempdir() else { return false };
    let mut probe = Command::new("unshare");
    probe.args(way).args(["mount", "-t", "tmpfs", "tmpfs"]).arg(directory.path());
    probe.stdin(Stdio::null()).output().is_ok_and(|output| output.status.success())
}

/// A command that runs this executable again like that; none when it runs so already, or may not.
pub fn again() -> Option<Command> {
    let has_own = std::env::var_os(OWN).is_some();
    if has_own { None } else { with_own(std::env::current_exe().ok()?) }
}

/// Runs a test of this executable again with mounts of its own. Whether it did: then nothing is
/// left to do for the caller. It did not where it runs so already, and where that is not allowed.
///
/// # Panics
///
/// When the test fails there.
pub fn has_run_again(test: &str) -> bool {
    let Some(mut again) = again() else { return false };
    let status = again.args([test, "--exact", "--nocapture"]).status();
    assert!(
        status.is_ok_and(|status| status.success()),
        "{test} failed, with mounts of its own; what it said is above"
    );
    true
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::fs;

    use super::*;

    /// What is mounted there is not seen here, be it that nobody unmounts it.
    #[test]
    fn mounts_go_with_their_process() {
        let Some(mut shell) = with_own("sh") else { return };
        let directory = tempfile::tempdir().unwrap();
        let script = "mount -t tmpfs tmpfs \"$0\" && touch \"$0/file\" && ls \"$0\"";
        let output = shell.args([OsStr::new("-c"), script.as_ref(), directory.path().as_ref()]);
        let output = output.output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "file\n", "{output:?}");
        let seen: Vec<OsString> = fs::read_dir(directory.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert!(seen.is_empty(), "{seen:?}");
    }
}
