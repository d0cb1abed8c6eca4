//! What every cost grows to with members, keys and the bytes of a value: measured on real members,
//! drawn, judged, and written into one page, `docs/growth.md`.
//!
//! `figures` is what is drawn and what each cost may grow by, `measure` where the points come from,
//! `points` the file that holds them all, `cliff` the rule, `reasons` why a cost grows as it does,
//! `plot` and `page` what is shown.
//!
//! 1. G1: All points are in one file beside the page, and the page can be written again from it
//!    alone: whatever the page says that is a number comes from there.
//! 2. G2: A step that breaks the rule is on the page, with its reason or as one without; a step
//!    without a reason fails the run.
//! 3. G3: Every answer of every load was checked: `raftexample bench` gives no figure otherwise.

pub mod cliff;
pub mod figures;
pub mod measure;
pub mod page;
pub mod plot;
pub mod points;
pub mod reasons;
#[cfg(test)]
mod testing;
