//! The account of one call's attempts: past admission, each of them ends as an allow, as a denial, or as a counted fault (DESIGN, "Head,
//! artifact, log").
//!
//! Comes in: how many requests of a call nobody has accounted for yet. Goes out: counts by code. What is handed to the sequencer is accounted for
//! there: its leaf, or its own count. A call that is dropped on its way, since its time was up, is counted by being dropped.

use super::problem::Refused;
use crate::serve::Authority;
use countersign_core::refusal::RefusalCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Attempts that are still open.
pub(super) struct Attempts {
    authority: Arc<Authority>,
    open: AtomicU64,
}

impl Attempts {
    /// A call whose body hasn't been read: one attempt.
    pub(super) fn one(authority: &Arc<Authority>) -> Arc<Self> {
        Arc::new(Self { authority: Arc::clone(authority), open: AtomicU64::new(1) })
    }

    /// So many are open from now on; the rest have their answers or are on their way into the log.
    pub(super) fn hold(&self, attempts: usize) {
        self.open.store(attempts as u64, Ordering::SeqCst);
    }

    /// The open ones are refused with this. Evidence that has to be sent along is no refusal: the same call comes again.
    pub(super) fn refused(&self, refused: Refused) -> Refused {
        let open = self.open.swap(0, Ordering::SeqCst);
        if refused.code() != RefusalCode::EvidenceNeeded {
            self.authority.count_fault(refused.code(), open);
        }
        refused
    }
}

impl Drop for Attempts {
    fn drop(&mut self) {
        self.authority.count_fault(RefusalCode::TimedOut, self.open.swap(0, Ordering::SeqCst));
    }
}
