//! Where a comparison ran, and what took part in it.

use std::fs;
use std::path::Path;
use std::process::Command;

/// The first line that a program says, or why it says none.
pub(crate) fn told(program: impl AsRef<Path>, args: &[&str]) -> Result<String, String> {
    let program = program.as_ref();
    let output = Command::new(program).args(args).output();
    let output = output.map_err(|error| format!("{}: {error}", program.display()))?;
    let said = String::from_utf8_lossy(&output.stdout);
    match said.lines().next() {
        Some(line) if output.status.success() => Ok(line.trim().to_owned()),
        _ => Err(format!("{} {}: {}", program.display(), args.join(" "), output.status)),
    }
}

/// Names and values, as the page shows them.
pub(crate) fn facts(directory: &Path) -> Vec<(&'static str, String)> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = [read("/proc/sys/kernel/ostype"), read("/proc/sys/kernel/osrelease")];
    vec![
        ("processor", field(&read("/proc/cpuinfo"), "model name").unwrap_or("unknown".to_owned())),
        ("cores", cores.to_string()),
        ("memory", gibibytes(&read("/proc/meminfo")).unwrap_or("unknown".to_owned())),
        ("kernel", kernel.each_ref().map(|word| word.trim()).join(" ")),
        ("file system of the data", file_system(directory)),
    ]
}

/// The last commit that changed anything but the page, and whether the tree holds more than it.
pub(crate) fn commit(page: &Path) -> String {
    let page = page.with_extension("");
    let others = format!(":(exclude,top,glob){}*", page.display());
    let git = |args: &[&str]| {
        let output = Command::new("git").args(args).args(["--", ":/", &others]).output();
        let output = output.ok().filter(|output| output.status.success())?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    match (git(&["log", "-1", "--format=%h"]), git(&["status", "--porcelain"])) {
        (Some(commit), Some(changes)) if changes.is_empty() => commit,
        (Some(commit), _) => format!("{commit} with changes"),
        (None, _) => "unknown".to_owned(),
    }
}

/// The type of the file system that a directory is on.
pub(crate) fn file_system(directory: &Path) -> String {
    let directory = fs::canonicalize(directory).unwrap_or_else(|_| directory.to_owned());
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    mount_of(&mounts, &directory).unwrap_or("unknown").to_owned()
}

/// What lies deepest wins, and of several in one place the last.
fn mount_of<'a>(mounts: &'a str, directory: &Path) -> Option<&'a str> {
    let mount = |line: &'a str| {
        let mut words = line.split(' ').skip(1);
        Some((words.next()?, words.next()?))
    };
    let over = mounts.lines().filter_map(mount).filter(|(place, _)| directory.starts_with(place));
    over.max_by_key(|(place, _)| place.len()).map(|(_, kind)| kind)
}

fn field(text: &str, name: &str) -> Option<String> {
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().replace('|', "/"))
}

fn gibibytes(meminfo: &str) -> Option<String> {
    let kilobytes: f64 = field(meminfo, "MemTotal")?.split(' ').next()?.parse().ok()?;
    Some(format!("{:.1} GiB", kilobytes / 1_048_576.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made-up files of a machine.
    #[test]
    fn a_machine_is_read() {
        let cpuinfo = "processor\t: 0\nmodel name\t: Some CPU @ 2|4 GHz\n";
        assert_eq!(field(cpuinfo, "model name").as_deref(), Some("Some CPU @ 2/4 GHz"));
        assert_eq!(gibibytes("MemTotal:       8388608 kB\n").as_deref(), Some("8.0 GiB"));
        assert_eq!(gibibytes(""), None);
        let mounts =
            "overlay / overlay rw 0 0\ntmpfs /tmp tmpfs rw 0 0\n/dev/a /tmp/d ext4 rw 0 0\n";
        for (directory, kind) in
            [("/", "overlay"), ("/tmpx", "overlay"), ("/tmp/x", "tmpfs"), ("/tmp/d/e", "ext4")]
        {
            assert_eq!(mount_of(mounts, Path::new(directory)), Some(kind), "{directory}");
        }
    }

    /// A program that is not there is said to be absent, with the reason.
    #[test]
    fn what_is_not_installed_says_nothing() {
        assert!(told("/nonexistent/etcd", &["--version"]).is_err_and(|why| why.contains("etcd")));
        assert!(told("false", &[]).is_err());
        assert_eq!(told("echo", &["1.0"]).as_deref(), Ok("1.0"));
    }
}
