//! raftnode
mod channel;
mod key;
pub mod membership;
mod status;
// The node's loop is its only user.
#[cfg_attr(not(test), expect(dead_code, reason = "the node's loop is not there yet"))]
mod transport;
pub use channel::*;
pub use status::{Role, Status};
mod config;
mod error;
mod node;
pub use config::{Config, MAX_ENTRY_BYTES};
pub use error::Error;
pub use node::{Channels, Node};
