//! Attempts that could not be logged one by one: counted by code until a faults leaf tells of them (PROTOCOL §8.11).

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use countersign_core::leaf::Kind;
use countersign_core::leaf::record::Faults;
use countersign_core::refusal::RefusalCode;

use super::append::Entry;

/// Counters by code. A leaf tells of them when a heartbeat is due, some seconds after the first attempt however busy the log is, and at the end. A crash loses what no leaf tells of yet: the counts are of attempts that the log never saw, so nothing in it
/// depends on them.
#[derive(Debug, Default)]
pub struct FaultCounts {
    open: Mutex<Option<Faults>>,
}

impl FaultCounts {
    /// Counts `attempts` refused with `code` at `now_ms`.
    pub fn add(&self, code: RefusalCode, attempts: u64, now_ms: u64) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let faults = open.get_or_insert_with(|| Faults { counts: BTreeMap::new(), since_ms: now_ms });
        let count = faults.counts.entry(code).or_insert(0);
        *count = count.saturating_add(attempts);
    }

    /// When the first attempt was counted that no leaf tells of yet; `None` if there is nothing to tell.
    #[must_use]
    pub fn since_ms(&self) -> Option<u64> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(|faults| faults.since_ms)
    }

    /// Takes the counts out as a leaf to append.
    pub(super) fn take(&self) -> Option<Faults> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Puts counts back whose leaf could not be appended.
    pub(super) fn put_back(&self, faults: Faults) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(newer) = open.as_mut() else {
            *open = Some(faults);
            return;
        };
        newer.since_ms = newer.since_ms.min(faults.since_ms);
        for (code, count) in faults.counts {
            let sum = newer.counts.entry(code).or_insert(0);
            *sum = sum.saturating_add(count);
        }
    }
}

/// The leaf that tells of them.
pub(super) fn faults_entry(faults: &Faults) -> Entry {
    Entry::plain(Kind::Faults, faults.encode())
}
