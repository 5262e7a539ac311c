//! Host rows as this process last saw them, so that a decision reads no table.
//!
//! Comes in: rows read from the store, and what each committed leaf says of them, whoever committed it. Goes out: a row that was the
//! store's a moment ago. Refused: rows that nobody has compared with other replicas' leaves for [`FRESH_FOR`], as after a pause of the
//! process. Absent: any claim that a row is the newest. Another replica may have appended since; the guards of the append transaction compare
//! what matters, and a call that they send back reads the store.

use crate::store::HostNow;
use crate::store::project::{Change, merge_state};
use countersign_core::name::HostId;
use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};
use std::time::{Duration, Instant};

/// Most rows kept, about 300 bytes each. When it is full it begins anew: a bound, not a policy.
const MAX_ROWS: usize = 65_536;
/// How long rows are good for after a look at what other replicas committed: four looks may fail.
const FRESH_FOR: Duration = Duration::from_secs(1);

/// When a row was read, counted in batches that said something of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadAt(u64);

#[derive(Default)]
struct Rows {
    told: u64,
    /// Enrolments that batches told of, and times at which everything was forgotten.
    enrolled: u64,
    by_host: HashMap<HostId, HostNow>,
    /// When a look at other replicas began that ended well; `None` where nobody else appends.
    looked: Option<Instant>,
}

impl Rows {
    /// Whether others may have said what nobody here has heard for too long.
    fn is_stale(&self, now: impl FnOnce() -> Instant) -> bool {
        self.looked.is_some_and(|then| now().saturating_duration_since(then) > FRESH_FOR)
    }
}

/// The rows.
#[derive(Default)]
pub(super) struct HostRows(RwLock<Rows>);

impl HostRows {
    /// Empty; `shared`: others append as well.
    pub(super) fn new(shared: bool) -> Self {
        let looked = shared.then(Instant::now);
        Self(RwLock::new(Rows { looked, ..Rows::default() }))
    }

    pub(super) fn row(&self, host: &HostId) -> Option<HostNow> {
        self.row_at(host, Instant::now)
    }

    fn row_at(&self, host: &HostId, now: impl FnOnce() -> Instant) -> Option<HostNow> {
        let rows = self.0.read().unwrap_or_else(PoisonError::into_inner);
        if rows.is_stale(now) { None } else { rows.by_host.get(host).cloned() }
    }

    /// Changes with each enrolment, whose key is then another host's or another one; `None` while that couldn't be known.
    pub(super) fn enrolments(&self) -> Option<u64> {
        let rows = self.0.read().unwrap_or_else(PoisonError::into_inner);
        (!rows.is_stale(Instant::now)).then_some(rows.enrolled)
    }

    /// A look at what others committed began then, and all of it has been told.
    pub(super) fn looked(&self, then: Instant) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).looked = Some(then);
    }

    /// Forgets every row, and what is being read now.
    pub(super) fn forget(&self) {
        let mut rows = self.0.write().unwrap_or_else(PoisonError::into_inner);
        rows.told = rows.told.wrapping_add(1);
        rows.enrolled = rows.enrolled.wrapping_add(1);
        rows.by_host.clear();
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

    /// Takes over what committed leaves say. The same may be said twice.
    pub(super) fn tell<'a>(&self, changes: impl IntoIterator<Item = &'a Change>) {
        let mut rows = self.0.write().unwrap_or_else(PoisonError::into_inner);
        for change in changes {
            match change {
                Change::HostState { host, state } => {
                    rows.told = rows.told.wrapping_add(1);
                    if let Some(row) = rows.by_host.get_mut(host) {
                        row.state = merge_state(&row.state, state);
                    }
                }
                Change::Enrolled { host, .. } => {
                    rows.told = rows.told.wrapping_add(1);
                    rows.enrolled = rows.enrolled.wrapping_add(1);
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
    use countersign_core::digest::Sha256Digest;
    use countersign_core::leaf::host::HostState;

    fn host() -> HostId {
        HostId::from_slice(&[&[1][..], &[7; 32]].concat()).unwrap()
    }

    fn row(clock_ms: u64) -> HostNow {
        let state = HostState { clock_ms, ..HostState::unattested(1) };
        HostNow { enrolment_leaf: (3, Sha256Digest::ZERO), key: Sha256Digest::ZERO, state }
    }

    fn state(clock_ms: u64) -> Change {
        Change::HostState { host: host(), state: Box::new(row(clock_ms).state) }
    }

    #[test]
    fn a_row_follows_the_log_and_never_back() {
        let rows = HostRows::default();
        let at = rows.now();
        rows.keep(at, host(), row(10));
        rows.tell(&[state(20)]);
        assert_eq!(rows.row(&host()).unwrap().state.clock_ms, 20);
        // Read before that batch, kept after it: dropped.
        rows.keep(at, host(), row(10));
        assert_eq!(rows.row(&host()).unwrap().state.clock_ms, 20);
        // Of one version the TPM's clock never goes back.
        rows.tell(&[state(15)]);
        assert_eq!(rows.row(&host()).unwrap().state.clock_ms, 20);
    }

    #[test]
    fn an_enrolment_ends_what_was_known() {
        let rows = HostRows::default();
        rows.keep(rows.now(), host(), row(10));
        rows.tell(&[Change::Enrolled { host: host(), key: Sha256Digest::ZERO, version: 2 }]);
        assert!(rows.row(&host()).is_none());
    }

    #[test]
    fn rows_that_nobody_compares_with_other_replicas_are_not_used() {
        let rows = HostRows::new(true);
        let then = Instant::now();
        rows.looked(then);
        rows.keep(rows.now(), host(), row(10));
        assert!(rows.row_at(&host(), || then + FRESH_FOR).is_some());
        let late = then + FRESH_FOR + Duration::from_millis(1);
        assert!(rows.row_at(&host(), || late).is_none());
        rows.looked(late);
        assert!(rows.row_at(&host(), || late).is_some());
        // Where nobody else appends there is nothing to compare with.
        let alone = HostRows::new(false);
        alone.keep(alone.now(), host(), row(10));
        assert!(alone.row_at(&host(), || late + Duration::from_secs(3_600)).is_some());
    }

    #[test]
    fn what_is_forgotten_is_not_kept_by_a_read_that_began_before() {
        let rows = HostRows::default();
        let at = rows.now();
        rows.keep(at, host(), row(10));
        rows.forget();
        assert!(rows.row(&host()).is_none());
        rows.keep(at, host(), row(10));
        assert!(rows.row(&host()).is_none());
    }
}
