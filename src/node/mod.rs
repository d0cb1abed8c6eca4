//! The running node.
use crate::{Applied, Commit, Config, Error, Handle};

/// A running node. Keep it to learn how it ends.
#[derive(Debug)]
pub struct Node {}

/// The ends that belong to the node's owner.
#[derive(Debug)]
pub struct Channels {
    /// Proposals, reads, status and shutdown.
    pub handle: Handle,
    /// Committed entries, in order. Dropping it stops the node.
    pub commits: crossbeam_channel::Receiver<Commit>,
    /// Where the consumer says how far it has come.
    pub applied: Applied,
}

impl Node {
    /// Replays the log and starts the loop and the transport.
    ///
    /// # Errors
    ///
    /// See [`Error`]. Nothing was changed on disk unless the data directory was new.
    pub fn start(config: Config, logger: &slog::Logger) -> Result<(Node, Channels), Error> {
        let _ = (config, logger);
        Err(Error::Interrupted)
    }

    /// Waits until the node has stopped.
    ///
    /// # Errors
    ///
    /// What ended it, unless it was told to stop.
    pub fn join(self) -> Result<(), Error> {
        Ok(())
    }
}
