//! What a whole batch changes in the projections: the last word about each row, for a store that writes rows and not leaf by leaf.
//!
//! Comes in: the changes of each leaf in order, and the rows of the hosts that they touch as they were. Goes out: rows to insert, rows to
//! put, amounts to subtract. The meaning is that of [`super::project`]; a test holds it against the store that applies change by change.

use std::collections::{BTreeMap, HashMap, HashSet};

use countersign_core::digest::Sha256Digest;
use countersign_core::leaf::decision::LeafRef;
use countersign_core::leaf::host::HostState;
use countersign_core::name::{HostId, RequestId};

use super::project::{Change, enrolled_state, merge_state};

/// A host as the table has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HostRecord {
    /// Its newest enrolment leaf.
    pub(super) enrolment_leaf: LeafRef,
    /// Thumbprint of its host key.
    pub(super) key: Sha256Digest,
    /// Its state.
    pub(super) state: HostState,
    /// Leaf that told of it.
    pub(super) state_index: u64,
}

/// A request's answer to insert unless there is one.
pub(super) struct OutcomeRow {
    pub(super) host: HostId,
    pub(super) request_id: RequestId,
    pub(super) request: Sha256Digest,
    pub(super) index: u64,
}

/// Everything that a batch changes.
#[derive(Default)]
pub(super) struct Folded {
    /// Answers, the first of each request only.
    pub(super) outcomes: Vec<OutcomeRow>,
    /// Hosts to put, whole.
    pub(super) hosts: BTreeMap<HostId, HostRecord>,
    /// Budgets to insert: leaf and descendants.
    pub(super) budgets: Vec<(u64, u64)>,
    /// What to subtract from the budgets of leaves.
    pub(super) charges: BTreeMap<u64, u64>,
    /// Join tokens to insert unless they exist: digest, expiry, leaf.
    pub(super) tokens_made: Vec<(Sha256Digest, u64, u64)>,
    /// Join tokens to mark unless they are: digest, leaf.
    pub(super) tokens_spent: Vec<(Sha256Digest, u64)>,
}

/// The hosts whose rows have to be known to fold these changes.
pub(super) fn hosts_touched<'a>(changes: impl Iterator<Item = &'a Change>) -> HashSet<HostId> {
    let hosts = changes.filter_map(|change| match change {
        Change::Enrolled { host, .. } | Change::HostState { host, .. } => Some(*host),
        _ => None,
    });
    hosts.collect()
}

/// Folds changes one leaf after the other.
pub(super) struct Folder {
    known: HashMap<HostId, HostRecord>,
    answered: HashSet<(HostId, RequestId)>,
    spent: HashSet<Sha256Digest>,
    folded: Folded,
}

impl Folder {
    /// Begins with the rows of the hosts that are touched, as far as they exist.
    pub(super) fn new(known: HashMap<HostId, HostRecord>) -> Self {
        Self { known, answered: HashSet::new(), spent: HashSet::new(), folded: Folded::default() }
    }

    /// Takes the changes of the leaf at `index`.
    pub(super) fn leaf(&mut self, index: u64, leaf_hash: &Sha256Digest, changes: &[Change]) {
        for change in changes {
            self.change(index, leaf_hash, change);
        }
    }

    fn change(&mut self, index: u64, leaf_hash: &Sha256Digest, change: &Change) {
        match change {
            Change::Outcome { host, request_id, request } => {
                if self.answered.insert((*host, request_id.clone())) {
                    let row =
                        OutcomeRow { host: *host, request_id: request_id.clone(), request: *request, index };
                    self.folded.outcomes.push(row);
                }
            }
            Change::Enrolled { host, key, version } => {
                let state = enrolled_state(self.host(host).map(|row| &row.state), *version);
                let row =
                    HostRecord { enrolment_leaf: (index, *leaf_hash), key: *key, state, state_index: index };
                self.folded.hosts.insert(*host, row);
            }
            Change::HostState { host, state } => {
                // A host that isn't enrolled has no state to keep.
                let Some(row) = self.host(host) else { return };
                let state = merge_state(&row.state, state);
                let row = HostRecord { state, state_index: index, ..row.clone() };
                self.folded.hosts.insert(*host, row);
            }
            Change::Budget { total } => self.folded.budgets.push((index, *total)),
            Change::Charge { parent, amount } => {
                let charged = self.folded.charges.entry(*parent).or_default();
                *charged = charged.saturating_add(*amount);
            }
            Change::TokenMade { token, expires_ms } => {
                self.folded.tokens_made.push((*token, *expires_ms, index));
            }
            Change::TokenSpent { token } => {
                if self.spent.insert(*token) {
                    self.folded.tokens_spent.push((*token, index));
                }
            }
        }
    }

    fn host(&self, host: &HostId) -> Option<&HostRecord> {
        self.folded.hosts.get(host).or_else(|| self.known.get(host))
    }

    /// Everything that was folded.
    pub(super) fn finish(self) -> Folded {
        self.folded
    }
}
