//! Deliberate defects, each with the campaigns that must find it.
//!
//! A test suite that passes says nothing until it has failed. Every defect of
//! [`wal::defects`] is a mistake that somebody could make in an afternoon, and here each is paired
//! with the campaigns that would have told him. The executables are built once, with all defects in
//! them, and a variable chooses one per process.
//!
//! 1. A campaign that fails without a defect proves nothing when it fails with one: each is run
//!    clean first, in the same executable.
//! 2. Each campaign that is named must find its defect by itself. One that passes, or is not done
//!    in time, has not found it.
//! 3. What is random has a fixed seed: a mutant that died once dies again.

pub mod build;
pub mod campaign;
pub mod catalogue;
pub mod hunt;
pub mod place;
