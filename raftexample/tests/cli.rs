//! The binary's first words and exit codes.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output};

fn raftexample(directory: &Path, args: &[&str], variables: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_raftexample"))
        .args(args)
        .envs(variables.iter().copied())
        .current_dir(directory)
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// A wrong command line is exit code 2 and one line, and changes nothing on disk.
#[test]
fn wrong_usage_is_one_line_and_code_2() {
    let directory = tempfile::tempdir().unwrap();
    let table: [(&[&str], &str); 9] = [
        (&["--nope"], "--nope"),
        (&["--cluster", "127.0.0.1:1"], "http://host:port"),
        (&["--cluster", "http://a:1,http://a:1"], "http://a:1 stands twice"),
        (&["--id", "3"], "--id 3 is not in --cluster"),
        (&["--id", "0"], "--id 0"),
        (&["--join"], "--join needs --cluster"),
        (&["--snapshot-keep", "0"], "--snapshot-keep"),
        (&["--heartbeat-interval", "x"], "--heartbeat-interval"),
        (&["nope"], "nope"),
    ];
    for (args, expected) in table {
        let output = raftexample(directory.path(), args, &[]);
        let line = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {line}");
        assert_eq!(line.lines().count(), 1, "{args:?}: {line}");
        assert!(line.contains(expected), "{args:?}: {line}");
        assert!(output.stdout.is_empty(), "{args:?}");
    }
    assert_eq!(directory.path().read_dir().unwrap().count(), 0);
}

/// Flag before variable before default, and each is said.
#[test]
fn flags_win_over_variables_over_defaults() {
    let directory = tempfile::tempdir().unwrap();
    let variables = [("RAFTEXAMPLE_PORT", "1"), ("RAFTEXAMPLE_DATA_DIR", "d")];
    let args = ["--port", "2", "--print-config"];
    let output = raftexample(directory.path(), &args, &variables);
    assert_eq!(output.status.code(), Some(0));
    let lines: Vec<_> = text(&output.stdout).lines().collect();
    for line in ["port = 2  # flag", "data-dir = d  # env", "id = 1  # default"] {
        assert!(lines.contains(&line), "{line} in {lines:#?}");
    }
    let variables = [
        ("RAFTEXAMPLE_JOIN", "true"),
        ("RAFTEXAMPLE_CLUSTER", "http://a:1,http://b:1"),
        ("RAFTEXAMPLE_SNAPSHOT_COUNT", "4"),
        ("RAFTEXAMPLE_SNAPSHOT_BYTES", "1KiB"),
        ("RAFTEXAMPLE_SNAPSHOT_KEEP", "3"),
        ("RAFTEXAMPLE_SNAPSHOT_CATCHUP_ENTRIES", "5"),
        ("RAFTEXAMPLE_WAL_RETAIN_BYTES", "2KiB"),
        ("RAFTEXAMPLE_IN_MEMORY", "true"),
    ];
    let output = raftexample(directory.path(), &["--print-config"], &variables);
    let lines: Vec<_> = text(&output.stdout).lines().collect();
    for line in [
        "join = true  # env",
        "snapshot-count = 4  # env",
        "snapshot-bytes = 1024  # env",
        "snapshot-keep = 3  # env",
        "snapshot-catchup-entries = 5  # env",
        "wal-retain-bytes = 2048  # env",
        "in-memory = true  # env",
    ] {
        assert!(lines.contains(&line), "{line} in {lines:#?}");
    }
    for variable in [("RAFTEXAMPLE_ID", "x"), ("RAFTEXAMPLE_JOIN", "maybe")] {
        let output = raftexample(directory.path(), &[], &[variable]);
        assert_eq!(output.status.code(), Some(2), "{variable:?}");
    }
}

/// Help and version are answers, not mistakes.
#[test]
fn help_and_version_end_well() {
    let directory = tempfile::tempdir().unwrap();
    let help = raftexample(directory.path(), &["--help"], &[]);
    assert_eq!(help.status.code(), Some(0));
    assert!(text(&help.stdout).contains("--cluster"));
    let version = raftexample(directory.path(), &["--version"], &[]);
    assert_eq!(version.status.code(), Some(0));
    let expected = format!("raftexample {}", env!("CARGO_PKG_VERSION"));
    assert!(text(&version.stdout).starts_with(&expected));
}

/// A taken port is found before anything is created.
#[test]
fn taken_client_port_is_code_1_and_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let output = raftexample(directory.path(), &["--listen", &address.to_string()], &[]);
    let line = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{line}");
    assert_eq!(line.lines().count(), 1, "{line}");
    assert!(line.contains(&address.to_string()) && line.contains("--port"), "{line}");
    assert_eq!(directory.path().read_dir().unwrap().count(), 0);
}
