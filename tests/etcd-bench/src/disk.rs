//! What the disk can do: fio, writing and syncing as a log does.

use std::fmt::Display;
use std::path::Path;
use std::process::Stdio;

use serde::Deserialize;
use tokio::process::Command;

use crate::round::Failure;

/// What it is told, besides where, how long, and in which words to answer.
pub(crate) const FLAGS: [&str; 3] = ["--rw=write", "--bs=256k", "--fdatasync=1"];
/// Large enough that a file system finds room for it in one piece, small enough for any disk.
const FILE_SIZE: &str = "--size=512m";

#[derive(Deserialize)]
struct Report {
    jobs: Vec<Job>,
}

#[derive(Deserialize)]
struct Job {
    write: Written,
}

#[derive(Deserialize)]
struct Written {
    bw_bytes: f64,
}

/// Bytes per second, written in the directory and synced.
pub(crate) async fn measure(directory: &Path, seconds: u64) -> Result<f64, Failure> {
    let failed = |what: &dyn Display| Failure::new(format!("fio: {what}"));
    // Gone with its file on every way out.
    let place = tempfile::Builder::new().prefix("bench-fio-").tempdir_in(directory);
    let place = place.map_err(|error| failed(&error))?;
    let output = Command::new("fio")
        .args(["--name=log", "--output-format=json", "--time_based", FILE_SIZE])
        .args(FLAGS)
        .arg(format!("--runtime={seconds}"))
        .arg("--directory")
        .arg(place.path())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|error| failed(&error))?;
    if !output.status.success() {
        return Err(failed(&String::from_utf8_lossy(&output.stderr)));
    }
    bytes_per_second(&output.stdout)
}

fn bytes_per_second(report: &[u8]) -> Result<f64, Failure> {
    // Notes may stand before the object.
    let begin = report.iter().position(|byte| *byte == b'{').unwrap_or(0);
    let report: Report = serde_json::from_slice(&report[begin..])
        .map_err(|error| Failure::new(format!("fio: its report: {error}")))?;
    let written = report.jobs.first().map(|job| job.write.bw_bytes).filter(|bytes| *bytes > 0.0);
    written.ok_or_else(|| Failure::new("fio: it wrote nothing"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A report of nothing must not become a ratio.
    #[test]
    fn a_report_is_read() {
        let report = br#"note: no cpus
            {"jobs":[{"jobname":"log","write":{"bw_bytes":1234567,"iops":9.5}}]}"#;
        assert_eq!(bytes_per_second(report).ok(), Some(1_234_567.0));
        assert!(bytes_per_second(br#"{"jobs":[]}"#).is_err());
        assert!(bytes_per_second(br#"{"jobs":[{"write":{"bw_bytes":0}}]}"#).is_err());
        assert!(bytes_per_second(b"").is_err());
    }
}
