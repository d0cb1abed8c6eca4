//! Whole members on one thread, simulated from a seed, and what judges them.
//!
//! - [`run`]: what determines one run, and what it tells.
//! - [`oracle`]: the invariants, checked after every step.
//! - [`clients`]: who asks the members, and whether what they were told is true.
//! - [`coverage`]: what a campaign has exercised; one that left something out has proved nothing.
//! - [`world`]: members, lines, disks and clocks, and what goes wrong with them.
//! - [`campaign`]: many seeds, and what is said of them.

pub mod campaign;
pub mod clients;
pub mod coverage;
pub mod oracle;
pub mod run;
mod violation;
pub mod world;

pub use violation::Violation;
