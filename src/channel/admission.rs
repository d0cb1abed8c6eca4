//! The door of a node: what may wait, by count and by bytes, decided without asking the loop.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::outcome::Refusal;
use super::trace::SAMPLED;
use crate::metrics::Metrics;
use crate::status::Shared;

/// The bounds at a node's door.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) max_pending: u64,
    pub(crate) max_pending_bytes: u64,
    pub(crate) max_entry_bytes: u64,
}

/// Keeps the door: what was let in and has not been answered is within the limits.
#[derive(Debug)]
pub(super) struct Admission {
    pub(super) limits: Limits,
    pub(super) shared: Arc<Shared>,
    pub(super) metrics: Metrics,
    /// Counts proposals, to trace one in [`SAMPLED`] of them.
    pub(super) sampled: AtomicU64,
}

impl Admission {
    /// Whatever commits beyond what the consumer can apply only waits longer: new proposals are
    /// refused until it has caught up. So they are while the disk is nearly full.
    pub(super) fn admit_proposal(this: &Arc<Self>, bytes: u64) -> Result<Permit, Refusal> {
        if let Some(shortage) = this.shared.space.shortage() {
            return Err(shortage);
        }
        if this.lags() { Err(Refusal::Overloaded) } else { Self::admit(this, bytes) }
    }

    /// Whether the next proposal is one of those that are traced unasked. The first one is.
    pub(super) fn samples(&self) -> bool {
        self.sampled.fetch_add(1, Ordering::Relaxed).is_multiple_of(SAMPLED)
    }

    pub(super) fn lags(&self) -> bool {
        self.shared.pending.lags.load(Ordering::Relaxed)
    }

    /// Whether what is pending, with so much more, is over the limits.
    pub(super) fn is_over(&self, requests: u64, bytes: u64) -> bool {
        let pending = &self.shared.pending;
        pending.requests.load(Ordering::Relaxed) + requests > self.limits.max_pending
            || pending.bytes.load(Ordering::Relaxed) + bytes > self.limits.max_pending_bytes
    }

    pub(super) fn admit(this: &Arc<Self>, bytes: u64) -> Result<Permit, Refusal> {
        let pending = &this.shared.pending;
        pending.requests.fetch_add(1, Ordering::Relaxed);
        pending.bytes.fetch_add(bytes, Ordering::Relaxed);
        let permit = Permit { admission: Arc::clone(this), bytes };
        if this.is_over(0, 0) { Err(Refusal::Overloaded) } else { Ok(permit) }
    }
}

/// A place among the pending requests, given back when dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    admission: Arc<Admission>,
    bytes: u64,
}

impl Permit {
    pub(super) fn metrics(&self) -> &Metrics {
        &self.admission.metrics
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let pending = &self.admission.shared.pending;
        pending.requests.fetch_sub(1, Ordering::Relaxed);
        pending.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}
