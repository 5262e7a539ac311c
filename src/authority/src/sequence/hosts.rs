//! Host rows as this process last saw them, so that a decision reads no table.
//!
//! Comes in: rows read from the store, and what each committed batch says of them. Goes out: a row that was the store's at some moment.
//! Absent: any claim that it is the newest. Another replica may have appended since; the guards of the append transaction compare what
//! matters, and a call that they send back reads the store.

use crate::store::project::{Change, merge_state};
use crate::store::{HostNow, NewLeaf};
use countersign_core::name::HostId;
use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

/// Most rows kept, about 300 bytes each. When it is full it begins anew: a bound, not a policy.
const MAX_ROWS: usize = 65_536;

/// When a row was read, counted in batches that said something of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadAt(u64);

#[derive(Default)]
struct Rows {
    told: u64,
    by_host: HashMap<HostId, HostNow>,
}

/// The rows.
#[derive(Default)]
pub(super) struct HostRows(RwLock<Rows>);

impl HostRows {
    pub(super) fn row(&self, host: &HostId) -> Option<HostNow> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).by_host.get(host).cloned()
    }

    /// To be asked before the store is read.
    pub(super) fn now(&self) -> ReadAt {
        ReadAt(self.0.read().unwrap_or_else(PoisonError::into_inner).told)
    }

    /// Keeps a row that was read from the store, unless a batch has been told of since: it might be older than what the batch said.
    pub(super) fn keep(&self, at: ReadAt, host: HostId, row: HostNow) {
        let mut rows = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if rows.told == at.0 {
            if rows.by_host.len() >= MAX_ROWS {
                rows.by_host.clear();
            }
            rows.by_host.insert(host, row);
        }
    }

    /// Takes over what a committed batch says.
    pub(super) fn tell(&self, leaves: &[NewLeaf]) {
        let mut rows = self.0.write().unwrap_or_else(PoisonError::into_inner);
        for change in leaves.iter().flat_map(|leaf| &leaf.changes) {
            match change {
                Change::HostState { host, state } => {
                    rows.told = rows.told.wrapping_add(1);
                    if let Some(row) = rows.by_host.get_mut(host) {
                        row.state = merge_state(&row.state, state);
                    }
                }
                Change::Enrolled { host, .. } => {
                    rows.told = rows.told.wrapping_add(1);
                    rows.by_host.remove(host);
                }
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::TripleHash;
    use countersign_core::digest::Sha256Digest;
    use countersign_core::leaf::host::HostState;
    use std::sync::Arc;

    fn host() -> HostId {
        HostId::from_slice(&[&[1][..], &[7; 32]].concat()).unwrap()
    }

    fn row(clock_ms: u64) -> HostNow {
        let state = HostState { clock_ms, ..HostState::unattested(1) };
        HostNow { enrolment_leaf: (3, Sha256Digest::ZERO), key: Sha256Digest::ZERO, state }
    }

    fn leaf(change: Change) -> NewLeaf {
        let hashes = TripleHash::from_bytes(&[0; TripleHash::LEN]).unwrap();
        NewLeaf { index: 4, bytes: Arc::from(&b"leaf"[..]), hashes, changes: vec![change], control: None }
    }

    fn state(clock_ms: u64) -> Change {
        Change::HostState { host: host(), state: Box::new(row(clock_ms).state) }
    }

    #[test]
    fn a_row_follows_the_log_and_never_back() {
        let rows = HostRows::default();
        let at = rows.now();
        rows.keep(at, host(), row(10));
        rows.tell(&[leaf(state(20))]);
        assert_eq!(rows.row(&host()).unwrap().state.clock_ms, 20);
        // Read before that batch, kept after it: dropped.
        rows.keep(at, host(), row(10));
        assert_eq!(rows.row(&host()).unwrap().state.clock_ms, 20);
        // Of one version the TPM's clock never goes back.
        rows.tell(&[leaf(state(15))]);
        assert_eq!(rows.row(&host()).unwrap().state.clock_ms, 20);
    }

    #[test]
    fn an_enrolment_ends_what_was_known() {
        let rows = HostRows::default();
        rows.keep(rows.now(), host(), row(10));
        rows.tell(&[leaf(Change::Enrolled { host: host(), key: Sha256Digest::ZERO, version: 2 })]);
        assert!(rows.row(&host()).is_none());
    }
}
