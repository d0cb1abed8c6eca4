//! What each step of a write costs by itself. docs/performance.md says which step each of these is.
//!
//! `make benches` runs all; `make benches BENCH=wal/append` those whose names hold that. The disk
//! that is measured is that of `TMPDIR`.

#![allow(clippy::unwrap_used, reason = "a bench may panic")]
#![allow(missing_docs, reason = "criterion's macros write functions without them")]

mod frames;
mod log;
mod store;
mod turns;

use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};

/// Enough to see a difference of a few percent, in a few minutes for all of it.
fn settings() -> Criterion {
    Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
}

criterion_group! {
    name = budgets;
    config = settings();
    targets = log::appends, log::replay, frames::frames, store::applies, store::snapshots, turns::turns
}
criterion_main!(budgets);
