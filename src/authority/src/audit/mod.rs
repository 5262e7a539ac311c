//! Audit: what anybody can find out from the log alone, without the authority's word.
//!
//! Comes in: leaves, heads and blobs from any [`LogSource`], and the pinned trust bundle. Goes out, from [`verify()`]: that the log is one
//! well-formed, append-only, signed history; from [`replay()`]: that every decision in it follows, byte for byte, from inputs that the log
//! itself explains, and that every enrolment is by a right that the log shows and says what its records say; from [`reconcile()`]: whether what gateways did is what was decided; from [`verify_bundle()`]: the same of one artifact, out of
//! one file. Refused: to call anything good that could not be read. What was pruned is reported as not replayable.
//!
//! Neither finds a log that was forked before it was handed over: that takes the memory of gateways and witnesses.

mod ahead;
mod bundle;
mod canonical;
mod checkpoint;
mod codes;
mod committed;
mod dual_chain;
mod enrolled;
mod events;
mod export;
mod fold;
mod follow;
mod kept;
mod named;
mod of_its_time;
mod outcomes;
mod prov;
mod reconcile;
mod replay;
mod replayed;
mod store;
mod verify;
mod verify_bundle;
mod walk;
mod witnessed;

pub use bundle::{
    BundleFault, EvidenceBundle, LinkedHead, MAX_EVIDENCE_BUNDLE, ProvenLeaf, TreePaths, make_bundle,
};
pub use checkpoint::{CheckpointReport, verify_from};
pub use codes::AuditCode;
pub use dual_chain::{ChainEnd, ChainFault, ExportFault, MAX_CHAIN, export_chain, verify_chain};
pub use export::ExportLog;
pub use follow::{Follow, FollowFault, FollowState, MAX_FOLLOW_STATE};
pub use kept::{Kept, WithKept};
pub use outcomes::OutcomeFault;
pub use prov::{MAX_PROV_LEAVES, export_prov};
pub use reconcile::{Discrepancy, DiscrepancyKind, MAX_LISTED, Reconciliation, Terms, Weight, reconcile};
pub use replay::replay;
pub use replayed::{Mismatch, MismatchKind, Missing, PrunedRun, ReplayReport};
pub use store::StoreLog;
pub use verify::{Finding, FindingKind, Report, verify};
pub use verify_bundle::{BorneOut, BundleRefused, verify_bundle};
pub use walk::{Standing, Start, Step, Walk, WalkFault, walk};
pub use witnessed::{WitnessedFault, WitnessedHead, newest_witnessed};

use crate::store::Pruning;
use countersign_core::digest::Sha256Digest;

/// Leaves or heads asked for at once.
const PAGE: u64 = 512;

/// The source can't be read; nothing was found out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the log can't be read: {0}")]
pub struct Unreadable(pub String);

/// A committed head: the body, and the note if it has signatures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeadExport {
    /// Exact body text.
    pub text: String,
    /// The signed note over that text.
    pub note: Option<String>,
}

/// Where a log is read from: a store, an export, the admin API. Nothing that it says is believed.
pub trait LogSource {
    /// Exact leaf bytes from index `from` on, without a gap; at most `count`, and none only if there are none.
    fn leaves(&self, from: u64, count: u64) -> Result<Vec<Vec<u8>>, Unreadable>;

    /// Committed heads of size `from` or more, ascending by size; at most `count`, and none only if there are none.
    fn heads(&self, from: u64, count: u64) -> Result<Vec<HeadExport>, Unreadable>;

    /// The blob of this SHA-256; `None` if it was pruned or never kept.
    fn blob(&self, digest: &Sha256Digest) -> Result<Option<Vec<u8>>, Unreadable>;

    /// Prunings that the source tells of. Nobody vouches for it: what was pruned is never good, only not unexplained.
    fn prunings(&self) -> Result<Vec<Pruning>, Unreadable> {
        Ok(Vec::new())
    }

    /// The path of a leaf in the SHA-256 tree of this size; `None` if the source knows no paths.
    fn inclusion(&self, _index: u64, _size: u64) -> Result<Option<Vec<Sha256Digest>>, Unreadable> {
        Ok(None)
    }

    /// The pruning that took this blob, if the source tells of one.
    fn pruned(&self, _digest: &Sha256Digest) -> Result<Option<Pruning>, Unreadable> {
        Ok(None)
    }
}

/// Reads leaves page by page, in order.
struct Leaves<'a> {
    source: &'a dyn LogSource,
    next: u64,
    page: std::vec::IntoIter<Vec<u8>>,
}

impl<'a> Leaves<'a> {
    fn new(source: &'a dyn LogSource) -> Self {
        Self { source, next: 0, page: Vec::new().into_iter() }
    }

    /// The next leaf and the index at which it was asked for; `None` at the end.
    fn next(&mut self) -> Result<Option<(u64, Vec<u8>)>, Unreadable> {
        if self.page.len() == 0 {
            self.page = self.source.leaves(self.next, PAGE)?.into_iter();
        }
        let Some(bytes) = self.page.next() else { return Ok(None) };
        let index = self.next;
        self.next += 1;
        Ok(Some((index, bytes)))
    }
}

#[cfg(test)]
mod attested_tests;
#[cfg(test)]
mod checkpoint_tests;
#[cfg(test)]
mod enrolled_tests;
#[cfg(test)]
mod export_tests;
#[cfg(test)]
mod follow_tests;
#[cfg(test)]
mod kit;
#[cfg(test)]
mod log_vector_tests;
#[cfg(test)]
mod outcome_vector_tests;
#[cfg(test)]
mod pruned_tests;
#[cfg(test)]
mod published;
#[cfg(test)]
mod reconcile_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tree_tests;
#[cfg(test)]
mod walk_tests;
