//! What ends a node, told apart by what its owner can do about it.

use std::path::PathBuf;

/// Why a node could not start, or why it stopped. A clean stop is not an error.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration cannot work.
    #[error("{0}")]
    Config(String),
    /// The peer address cannot be listened on.
    #[error(
        "cannot listen for peers on {address}: {source}; stop what listens there or choose another \
         --peer-listen"
    )]
    Listen {
        /// The address.
        address: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// Another process runs on the data directory.
    #[error(
        "data directory {path} is in use by process {pid}; stop it or choose another --data-dir"
    )]
    Locked {
        /// The data directory.
        path: PathBuf,
        /// The process that holds it, when it could be read.
        pid: String,
    },
    /// The data directory cannot be created or written while starting.
    #[error("cannot {operation} {path}: {source}")]
    Unusable {
        /// What was tried.
        operation: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The data directory belongs to another member, cluster or program.
    #[error("data directory {path} {what}")]
    Foreign {
        /// The data directory.
        path: PathBuf,
        /// Whose it seems to be, and the way out.
        what: String,
    },
    /// What was written is not what is read.
    #[error("{0}")]
    Corrupt(String),
    /// A write or a sync failed while running. What was not acknowledged may be lost; nothing
    /// that was acknowledged is.
    #[error("disk error: {0}")]
    Disk(String),
    /// The cluster has lost what it had committed, and this member still holds it. Its data
    /// directory may be the only copy.
    #[error("{0}")]
    ClusterLost(String),
    /// This member no longer has what it once acknowledged. It must not go on under its id, nor
    /// does it when it is started again.
    #[error("{0}")]
    LostData(String),
    /// The cluster knows this member by another data directory: what it voted for and
    /// acknowledged is not in this one.
    #[error("{0}")]
    Wiped(String),
    /// The cluster removed this member. Not a failure: its work is done, and its id never returns.
    #[error("{0}")]
    Removed(String),
    /// A rule of the node's own was broken: a bug. The message names the rule.
    #[error("broken invariant: {0}")]
    Invariant(String),
    /// The node was told to stop before it had started.
    #[error("stopped while starting")]
    Interrupted,
}
