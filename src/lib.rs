//! raftnode
mod channel;
mod key;
pub mod membership;
mod status;
pub use channel::*;
pub use status::{Role, Status};
mod config;
mod error;
mod node;
pub use config::{Config, MAX_ENTRY_BYTES};
pub use error::Error;
pub use node::{Channels, Node};
#[doc(hidden)]
pub mod testing;
