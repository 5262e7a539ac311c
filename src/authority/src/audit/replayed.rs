//! What a replay found out: how many leaves follow, which don't, and of which something is gone.

use countersign_core::digest::Sha256Digest;
use countersign_core::refusal::RefusalCode;

/// What a replay amounts to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplayReport {
    /// Allow, deny and host-state leaves whose bodies came out byte for byte.
    pub replayed: u64,
    /// Those of them that deny.
    pub denied: u64,
    /// Enrolment leaves by a right that the log shows, and that say what their records show.
    pub enrolled: u64,
    /// Leaves whose inputs were pruned, by the source's own record of prunings. Neither good nor wrong.
    pub pruned: Vec<PrunedRun>,
    /// Leaves whose inputs are gone without such a record: index, and what is missing. Never counted as good.
    pub not_replayable: Vec<(u64, Missing)>,
    /// Leaves that don't follow from what the log explains.
    pub mismatches: Vec<Mismatch>,
}

/// Decisions and host states without another one between them, of each of which something was pruned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrunedRun {
    /// Index of the first.
    pub first: u64,
    /// Index of the last.
    pub last: u64,
    /// How many they are.
    pub count: u64,
}

impl ReplayReport {
    /// How many leaves can't be repeated because something of them was pruned.
    #[must_use]
    pub fn pruned_count(&self) -> u64 {
        self.pruned.iter().map(|run| run.count).sum()
    }

    pub(super) fn add_pruned(&mut self, index: u64, goes_on: bool) {
        match self.pruned.last_mut().filter(|_| goes_on) {
            Some(run) => (run.last, run.count) = (index, run.count.saturating_add(1)),
            None => self.pruned.push(PrunedRun { first: index, last: index, count: 1 }),
        }
    }
}

/// Why a decision can't be repeated.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Missing {
    /// A blob isn't there any more.
    #[error("blob {0} is missing")]
    Blob(Sha256Digest),
    /// What is there under a blob's name is something else.
    #[error("blob {0} was altered")]
    Altered(Sha256Digest),
    /// Decided by another version of the decision function.
    #[error("engine {0} isn't the one of this program")]
    Engine(String),
}

/// A leaf that doesn't follow.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("leaf {index}: {kind}")]
pub struct Mismatch {
    /// Index of the leaf.
    pub index: u64,
    /// In what.
    pub kind: MismatchKind,
}

/// In what a leaf doesn't follow.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MismatchKind {
    /// The leaf or a record that it names doesn't parse.
    #[error("{0} is malformed")]
    Malformed(&'static str),
    /// A named input isn't the one that the log explains.
    #[error("{0} isn't what the log shows")]
    Input(&'static str),
    /// An enrolment says something else than the records that it names.
    #[error("{0} isn't what the enrolment's records show")]
    Enrolment(&'static str),
    /// The request's holder signature or names don't hold.
    #[error("the request would have been refused unlogged")]
    Request,
    /// The evidence would never have led to a decision.
    #[error("the evidence would have been refused unlogged: {0}")]
    Evidence(RefusalCode),
    /// The inputs agree, and lead to another body.
    #[error("the same inputs lead to another body")]
    Body,
    /// More children than a parent's budget covers.
    #[error("a parent's budget is overdrawn")]
    Budget,
}
