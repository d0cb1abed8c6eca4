//! What the whole-node tests stand on: real members as processes, and a client to talk to them.
//!
//! 1. T1: nothing sleeps to let something happen; what must happen is polled for until a deadline.
//! 2. T2: a failed test shows each member's status and the last lines of its log.
//! 3. T3: what is random comes from a seed that is printed and can be given back.
//! 4. T4: no process outlives the [`cluster::Cluster`] that started it.

pub mod binary;
pub mod campaign;
pub mod cluster;
pub mod crowd;
pub mod figure;
pub mod history;
pub mod http;
pub mod ledger;
pub mod linearizability;
pub mod load;
pub mod mounts;
pub mod nemesis;
pub mod original;
pub mod progress;
pub mod proxy;
pub mod readme;
pub mod recorder;
pub mod rng;
pub mod round;
pub mod trial;
