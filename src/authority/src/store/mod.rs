//! Where the log and its tables live: the verbs that the authority needs, and their contract, for every store.
//!
//! There are two sides. One [`Writer`] belongs to the sequencer's thread; any number of threads share a [`Reader`]. A store does no
//! policy, no verification and no cryptography: it keeps what it is given, together or not at all.
//!
//! What holds for every store:
//! - **Durability.** When [`LogWriter::append`] returns, the batch survives the loss of power. Signatures may be lost (they can be made
//!   again over the same body), nothing else may.
//! - **Order.** Appends of all writers of one log are serial. An index is given once, a size has one body, for ever.
//! - **Atomicity.** Leaves, tree nodes, head body, spends, blobs and tables of a batch change in one transaction.
//! - **Visibility.** A reader sees a batch whole or not at all. What it once saw under a signed head (leaves, nodes, bodies) never changes. What
//!   is above the newest one is not yet safe to build on: a database that lost its wait for a standby shows what a failover takes back.
//! - **Tables are projections.** Everything but spends, pending enrolments, challenge keys, acknowledgements, blobs and signatures can be
//!   rebuilt from the leaves by [`project`].

pub mod failpoint;
mod fault;
mod fold;
mod ints;
mod open;
pub mod postgres;
pub mod project;
mod prune;
#[cfg(test)]
mod prune_tests;
mod receipt;
mod rows;
pub mod sqlite;
mod tiles;
#[cfg(test)]
mod tiles_tests;
mod tree;

#[cfg(test)]
pub(crate) mod conformance;

use std::sync::Arc;

use countersign_core::digest::Sha256Digest;
use countersign_core::name::{HostId, RequestId};
use countersign_core::note::NoteSignature;

pub use fault::{Broken, ReadFault, RebuildFault, StoreFault, Unavailable};
pub use open::{OpenFault, Opened, Place};
pub use prune::{PruneFault, PrunePlan};
pub use receipt::{LeafReceipt, ReceiptFault, Receipts, SignedHead, newest_signed_head, receipts_for};
pub use rows::{
    Acknowledgement, Additions, ChallengeKey, Frontiers, HostNow, HostRow, JoinTokenRow, KnownOutcome,
    NewLeaf, NewNode, PendingEnrolment, Prior, Pruning, SpentId, StoredHead, Tip, TripleHash, Wanted,
};
pub use tiles::TileCache;
pub use tree::StoredTree;

/// Nodes are stored at level 0 (leaf hashes) and at every multiple of this; those between are hashed from at most 128 of them.
pub const NODE_LEVELS: u8 = 8;
/// Most rows that one call hands out.
pub const MAX_PAGE: u64 = 1_024;

/// What grows the log.
///
/// After a [`StoreFault::Fatal`] every further call fails: the process starts again from what is durable.
pub trait LogWriter: Send {
    /// One transaction: takes the log's lock, reads what `wanted` asks for, lets `plan` decide, writes what it returns, and commits
    /// durably. Returns what was written, or `None` if `plan` returned `None`; nothing has changed then.
    ///
    /// `plan` is pure. A store whose transaction has to be repeated calls it again with fresh facts; only the last call counts. The
    /// additions start where [`Prior::tip`] ends; a store refuses, as a defect, a leaf index or a head size that exists, and a spend
    /// that exists.
    ///
    /// # Errors
    /// [`StoreFault::Unavailable`]: nothing changed, except for [`Unavailable::OutcomeUnknown`], where a later call finds out by what it
    /// reads. [`StoreFault::Fatal`]: unknown.
    fn append(
        &mut self,
        wanted: &Wanted,
        plan: &mut dyn FnMut(&Prior) -> Option<Additions>,
    ) -> Result<Option<Additions>, StoreFault>;

    /// Attaches signatures to the head of this size: those of head keys, whose lines carry the origin, and cosignatures of witnesses, whose
    /// lines carry their names. Idempotent: a key's first signature stays. Needn't survive a crash by itself; never outlives the head that it
    /// belongs to.
    ///
    /// # Errors
    /// As for `append`. A size without a head is a defect.
    fn attach_signatures(&mut self, size: u64, signatures: &[NoteSignature]) -> Result<(), StoreFault>;

    /// Brings what earlier processes left in journals under the durability of this one. Called once, before the first append.
    ///
    /// # Errors
    /// As for `append`.
    fn settle(&mut self) -> Result<(), StoreFault>;
}

/// What is written outside of appends. Each call is one durable transaction.
pub trait DeskWriter: Send {
    /// Keeps a pending enrolment, and drops those that expired before `now_ms`.
    ///
    /// # Errors
    /// [`StoreFault`]. An identifier that exists is a defect: it is random.
    fn put_pending_enrolment(&mut self, pending: &PendingEnrolment, now_ms: u64) -> Result<(), StoreFault>;

    /// Deletes a pending enrolment durably, then hands it out. Of any number of calls at most one gets it; a crash in between loses it,
    /// which is safe: the host begins again. An expired one is deleted and not handed out.
    ///
    /// # Errors
    /// [`StoreFault`].
    fn take_pending_enrolment(
        &mut self,
        id: &[u8; 16],
        now_ms: u64,
    ) -> Result<Option<PendingEnrolment>, StoreFault>;

    /// Keeps a challenge key, and drops those made before `drop_before_ms`.
    ///
    /// # Errors
    /// [`StoreFault`].
    fn put_challenge_key(&mut self, key: &ChallengeKey, drop_before_ms: u64) -> Result<(), StoreFault>;

    /// Keeps blobs under their SHA-256, which the caller has computed. Those that are there already stay.
    ///
    /// # Errors
    /// [`StoreFault`].
    fn put_blobs(&mut self, blobs: &[(Sha256Digest, Arc<[u8]>)]) -> Result<(), StoreFault>;

    /// Notes what a gateway enforces. A lower control number than the one noted changes only the time.
    ///
    /// # Errors
    /// [`StoreFault`].
    fn acknowledge(&mut self, acknowledgement: &Acknowledgement) -> Result<(), StoreFault>;
}

/// Both halves of the writing side; one per process, owned by the sequencer.
pub trait Writer: LogWriter + DeskWriter {}

impl<T: LogWriter + DeskWriter> Writer for T {}

/// The log as it is read. Absence is `None` or a shorter page. At most [`MAX_PAGE`] rows per call.
pub trait LogReader: Send + Sync {
    /// Exact bytes of a leaf.
    ///
    /// # Errors
    /// [`ReadFault`], here and below.
    fn leaf(&self, index: u64) -> Result<Option<Vec<u8>>, ReadFault>;

    /// Bytes of the leaves from `from` on, without a gap.
    ///
    /// # Errors
    /// [`ReadFault`].
    fn leaves(&self, from: u64, count: u64) -> Result<Vec<Vec<u8>>, ReadFault>;

    /// Bytes of the control leaves with numbers above `after`, in order, each with its index.
    ///
    /// # Errors
    /// [`ReadFault`].
    fn control_leaves(&self, after: u64, count: u64) -> Result<Vec<(u64, Vec<u8>)>, ReadFault>;

    /// Stored nodes of `level` (a multiple of [`NODE_LEVELS`]) from `first` on, without a gap; those that don't exist are missing at the
    /// end.
    ///
    /// # Errors
    /// [`ReadFault`].
    fn nodes(&self, level: u8, first: u64, count: u64) -> Result<Vec<TripleHash>, ReadFault>;

    /// The upper nodes under signed heads that were read through this reader already.
    fn tiles(&self) -> &TileCache;

    /// The head of exactly this size, signed or not.
    ///
    /// # Errors
    /// [`ReadFault`].
    fn head(&self, size: u64) -> Result<Option<StoredHead>, ReadFault>;

    /// Heads with sizes from `from` on, ascending.
    ///
    /// # Errors
    /// [`ReadFault`].
    fn heads(&self, from: u64, count: u64) -> Result<Vec<StoredHead>, ReadFault>;

    /// The newest head, signed or not, with the right edges of the trees.
    ///
    /// # Errors
    /// [`ReadFault`].
    fn newest_committed(&self) -> Result<Option<Tip>, ReadFault>;

    /// The newest head that has a signature.
    ///
    /// # Errors
    /// [`ReadFault`].
    fn newest_signed(&self) -> Result<Option<StoredHead>, ReadFault>;

    /// Bytes of a blob.
    ///
    /// # Errors
    /// [`ReadFault`].
    fn blob(&self, digest: &Sha256Digest) -> Result<Option<Vec<u8>>, ReadFault>;

    /// Prunings of blobs, the first first.
    ///
    /// # Errors
    /// [`ReadFault`].
    fn prunings(&self) -> Result<Vec<Pruning>, ReadFault>;

    /// The newest pruning that took this blob; it may have been put there again since.
    ///
    /// # Errors
    /// [`ReadFault`].
    fn pruned(&self, digest: &Sha256Digest) -> Result<Option<Pruning>, ReadFault>;
}

/// The tables as they are read. What is read here is old as soon as it is read: guards compare it again in the append.
pub trait TableReader: Send + Sync {
    /// The answer to a request.
    ///
    /// # Errors
    /// [`ReadFault`], here and below.
    fn outcome(&self, host: &HostId, request_id: &RequestId) -> Result<Option<KnownOutcome>, ReadFault>;

    /// An enrolled host.
    ///
    /// # Errors
    /// [`ReadFault`].
    fn host(&self, host: &HostId) -> Result<Option<HostRow>, ReadFault>;

    /// The changing part of an enrolled host, from one row and without reading any leaf.
    ///
    /// # Errors
    /// [`ReadFault`].
    fn host_now(&self, host: &HostId) -> Result<Option<HostNow>, ReadFault>;

    /// Hosts in the order of their identifiers, after the one given.
    ///
    /// # Errors
    /// [`ReadFault`].
    fn hosts(&self, after: Option<&HostId>, count: u64) -> Result<Vec<HostRow>, ReadFault>;

    /// The host whose host key has this thumbprint.
    ///
    /// # Errors
    /// [`ReadFault`].
    fn host_of_key(&self, thumbprint: &Sha256Digest) -> Result<Option<HostId>, ReadFault>;

    /// What is left of the budget of an allow leaf; `None` if it delegates nothing.
    ///
    /// # Errors
    /// [`ReadFault`].
    fn budget_left(&self, index: u64) -> Result<Option<u64>, ReadFault>;

    /// A join token.
    ///
    /// # Errors
    /// [`ReadFault`].
    fn join_token(&self, token: &Sha256Digest) -> Result<Option<JoinTokenRow>, ReadFault>;

    /// Whether something was used. "No" is also the answer long after its expiry.
    ///
    /// # Errors
    /// [`ReadFault`].
    fn is_spent(&self, id: &SpentId) -> Result<bool, ReadFault>;

    /// All challenge keys, the newest first.
    ///
    /// # Errors
    /// [`ReadFault`].
    fn challenge_keys(&self) -> Result<Vec<ChallengeKey>, ReadFault>;

    /// What gateways enforce, in the order of their thumbprints.
    ///
    /// # Errors
    /// [`ReadFault`].
    fn acknowledgements(&self) -> Result<Vec<Acknowledgement>, ReadFault>;
}

/// The reading side, shared by all threads.
pub trait Reader: LogReader + TableReader {}

impl<T: LogReader + TableReader> Reader for T {}
