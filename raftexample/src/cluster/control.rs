//! The conversation between `cluster VERB NAME...` and the runner: one JSON line each way over a
//! unix socket in the Procfile's directory, and the client's end of it.
//!
//! The socket is named relative to the working directory, which both ends have made the Procfile's
//! own: a path in `sun_path` may have 108 bytes, and a directory more.
//!
//! Refuses to guess whether a runner lives from the socket file: only an answer counts.
//!
//! Invariants:
//! C1 a request is answered when it is done, not when it is understood.
//! C2 the answer to `StopAll` is followed by end of file only when the runner is past its last act.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;

use serde::{Deserialize, Serialize};

pub(super) const SOCKET_NAME: &str = ".raftexample-cluster.sock";
/// A request holds names typed on a command line, and an answer a row for each; both are far
/// smaller. A peer that sends more is not ours.
pub(super) const MAX_MESSAGE_BYTES: u64 = 1024 * 1024;

/// What a client asks.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Request {
    Start(Vec<String>),
    Stop(Vec<String>),
    Kill(Vec<String>),
    Restart(Vec<String>),
    StopAll,
    Status,
}

/// What the runner answers.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Reply {
    /// One line for each thing that was done.
    Done(Vec<String>),
    Status(Vec<Row>),
    /// It was understood and could not be done.
    Failed(String),
    /// It named something that does not exist; nothing was done.
    Unknown(String),
}

/// One line of `cluster status`.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Row {
    pub(super) name: String,
    pub(super) pid: Option<i32>,
    pub(super) state: String,
    pub(super) restarts: u32,
    pub(super) uptime_seconds: Option<u64>,
}

/// Asks the runner of the working directory. `Ok(None)`: there is no runner.
pub(super) fn ask(request: &Request) -> io::Result<Option<Reply>> {
    let stream = match UnixStream::connect(SOCKET_NAME) {
        Ok(stream) => stream,
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
            ) =>
        {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    (&stream).write_all(&line)?;
    let mut answer = String::new();
    let mut reader = BufReader::new(stream.take(MAX_MESSAGE_BYTES));
    reader.read_line(&mut answer)?;
    if answer.is_empty() {
        return Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "the runner ended before it answered",
        ));
    }
    if matches!(request, Request::StopAll) {
        // C2. A runner that vanishes instead of closing has ended all the same.
        io::copy(&mut reader, &mut io::sink()).ok();
    }
    Ok(Some(serde_json::from_str(&answer)?))
}

/// The rows as an aligned table with a heading.
pub(super) fn table(rows: &[Row]) -> String {
    let mut cells = vec![["NAME", "PID", "STATE", "RESTARTS", "UPTIME"].map(str::to_owned)];
    cells.extend(rows.iter().map(|row| {
        [
            row.name.clone(),
            row.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string()),
            row.state.clone(),
            row.restarts.to_string(),
            row.uptime_seconds.map_or_else(
                || "-".to_owned(),
                |s| humantime::format_duration(std::time::Duration::from_secs(s)).to_string(),
            ),
        ]
    }));
    let widths: [usize; 5] = std::array::from_fn(|column| {
        cells.iter().map(|row| row[column].len()).max().unwrap_or_default()
    });
    let mut text = String::new();
    for row in &cells {
        let padded: Vec<String> =
            row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        text.push_str(padded.join("  ").trim_end());
        text.push('\n');
    }
    text
}
