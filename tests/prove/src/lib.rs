//! Runs every campaign at a size, and writes what came of them into one page, `docs/proof.md`.
//!
//! A full run takes hours, so that campaigns can be run one by one: the page then keeps the rows of
//! the others. It refuses to say more than it knows:
//!
//! 1. P1: A campaign has passed only when it ended by itself, in time and with 0, and the last line
//!    of its standard output says, to the letter, that what was asked for was done and nothing
//!    found.
//! 2. P2: Each row says at which commit it was, and whether the tree held anything else. Rows of
//!    different commits never stand under one claim.
//! 3. P3: The page names no place on the machine that it was written on, only its kind.
//! 4. P4: What small campaigns came to never takes the place of what full ones did: it has a page of
//!    its own, `target/prove/proof.md`.
//! 5. P5: At its full size a campaign has passed only when it was as fast as is promised: simulated
//!    clusters by their own word, mutants and crash states by the clock with their build, histories
//!    by how much they did.

pub mod campaign;
pub mod child;
pub mod closing;
pub mod facts;
pub mod report;
#[cfg(test)]
mod tests;
