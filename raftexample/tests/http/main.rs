//! The client port over real sockets, on a node that commits at once or does as it is told.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod framing;
mod kv;
mod leader;
mod limits;
mod members;
mod openapi;
mod outcomes;
mod overload;
mod port;
mod retries;
mod root;
mod server;
mod txn;
mod watch;
