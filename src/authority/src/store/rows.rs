//! What stores hand out and take in: rows as values, the same for every store.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use countersign_core::checkpoint::{HeadBody, HeadBodyError};
use countersign_core::digest::{Blake2b512Digest, Sha3_512Digest, Sha256Digest, sha256};
use countersign_core::leaf::Leaf;
use countersign_core::leaf::decision::LeafRef;
use countersign_core::leaf::host::{Enrolment, HostState};
use countersign_core::merkle::{Blake2b512Tree, Frontier, FrontierError, Sha3_512Tree, Sha256Tree};
use countersign_core::name::{HostId, RequestId};
use countersign_core::note::{NoteError, NoteSignature, SignedNote};
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::fault::{Broken, StoreFault};
use super::project::Change;
use crate::outcome::allow;

/// Hashes of one leaf or one node in the three trees (PROTOCOL §5.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TripleHash {
    /// In the SHA-256 tree.
    pub sha256: Sha256Digest,
    /// In the SHA3-512 tree.
    pub sha3_512: Sha3_512Digest,
    /// In the BLAKE2b-512 tree.
    pub blake2b_512: Blake2b512Digest,
}

impl TripleHash {
    /// Bytes of the three together.
    pub const LEN: usize = Sha256Digest::LEN + Sha3_512Digest::LEN + Blake2b512Digest::LEN;

    /// SHA-256, SHA3-512, BLAKE2b-512, one after the other.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; Self::LEN] {
        let mut out = [0; Self::LEN];
        let parts =
            self.sha256.as_bytes().iter().chain(self.sha3_512.as_bytes()).chain(self.blake2b_512.as_bytes());
        out.iter_mut().zip(parts).for_each(|(to, from)| *to = *from);
        out
    }

    /// Reads [`TripleHash::to_bytes`]; `None` for another length.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (sha256, rest) = bytes.split_first_chunk::<{ Sha256Digest::LEN }>()?;
        let (sha3_512, rest) = rest.split_first_chunk::<{ Sha3_512Digest::LEN }>()?;
        let blake2b_512: [u8; Blake2b512Digest::LEN] = rest.try_into().ok()?;
        Some(Self {
            sha256: Sha256Digest::new(*sha256),
            sha3_512: Sha3_512Digest::new(*sha3_512),
            blake2b_512: Blake2b512Digest::new(blake2b_512),
        })
    }
}

/// The right edges of the three trees.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frontiers {
    /// SHA-256.
    pub sha256: Frontier<Sha256Tree>,
    /// SHA3-512.
    pub sha3_512: Frontier<Sha3_512Tree>,
    /// BLAKE2b-512.
    pub blake2b_512: Frontier<Blake2b512Tree>,
}

impl Frontiers {
    /// Whether the edges have the size and the roots that a head states.
    #[must_use]
    pub fn agree_with(&self, head: &HeadBody) -> bool {
        let sizes = [self.sha256.size(), self.sha3_512.size(), self.blake2b_512.size()];
        sizes == [head.size; 3]
            && self.sha256.root() == head.sha256_root
            && self.sha3_512.root() == head.sha3_root
            && self.blake2b_512.root() == head.blake2_root
    }

    /// Reads what the three `to_bytes` wrote.
    ///
    /// # Errors
    /// One of them isn't a frontier.
    pub fn from_bytes(sha256: &[u8], sha3_512: &[u8], blake2b_512: &[u8]) -> Result<Self, FrontierError> {
        Ok(Self {
            sha256: Frontier::from_bytes(sha256)?,
            sha3_512: Frontier::from_bytes(sha3_512)?,
            blake2b_512: Frontier::from_bytes(blake2b_512)?,
        })
    }
}

/// A head body that was committed, and the signatures that it has got so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredHead {
    text: Arc<str>,
    body: HeadBody,
    digest: Sha256Digest,
    signatures: Vec<NoteSignature>,
}

impl StoredHead {
    /// Reads the text of a body.
    ///
    /// # Errors
    /// It isn't one (PROTOCOL §6.1).
    pub fn new(text: &str, signatures: Vec<NoteSignature>) -> Result<Self, HeadBodyError> {
        let body = HeadBody::parse(text)?;
        Ok(Self { text: Arc::from(text), body, digest: sha256(text.as_bytes()), signatures })
    }

    /// The exact body text.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// What it states.
    #[must_use]
    pub const fn body(&self) -> &HeadBody {
        &self.body
    }

    /// SHA-256 of the text (PROTOCOL §6.2).
    #[must_use]
    pub const fn digest(&self) -> &Sha256Digest {
        &self.digest
    }

    /// Signature lines, in the order in which they were attached.
    #[must_use]
    pub fn signatures(&self) -> &[NoteSignature] {
        &self.signatures
    }

    /// The same head with more signature lines.
    #[must_use]
    pub fn with_signatures(&self, more: &[NoteSignature]) -> Self {
        let signatures = self.signatures.iter().chain(more).cloned().collect();
        Self { signatures, ..self.clone() }
    }

    /// The signed note.
    ///
    /// # Errors
    /// There is no signature yet.
    pub fn note(&self) -> Result<String, NoteError> {
        Ok(SignedNote::new(&self.text, self.signatures.clone())?.format())
    }
}

/// The newest committed head with what is needed to grow from it.
#[derive(Clone, Debug)]
pub struct Tip {
    /// The head.
    pub head: StoredHead,
    /// Right edges of the trees at its size.
    pub frontiers: Frontiers,
}

impl Tip {
    /// Digest of its body, if it has this size.
    pub(super) fn digest_at(&self, size: u64) -> Option<Sha256Digest> {
        (self.head.body().size == size).then(|| *self.head.digest())
    }
}

/// A request's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownOutcome {
    /// SHA-256 of the request's bytes.
    pub request: Sha256Digest,
    /// Index of the leaf.
    pub index: u64,
}

/// A join token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JoinTokenRow {
    /// Until when it may be used, ms.
    pub expires_ms: u64,
    /// Index of the leaf that made it.
    pub made_by: u64,
    /// Index of the enrolment that used it.
    pub spent_by: Option<u64>,
}

/// An enrolled host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostRow {
    /// Its identifier.
    pub host: HostId,
    /// Its newest enrolment leaf: index and leaf hash.
    pub enrolment_leaf: LeafRef,
    /// Time of that leaf, ms.
    pub enrolled_ms: u64,
    /// Body of that leaf.
    pub enrolment: Enrolment,
    /// State after the newest leaf that told of it.
    pub state: HostState,
    /// Index of that leaf.
    pub state_index: u64,
}

impl HostRow {
    /// Puts a row together from a host's columns and its enrolment leaf; `None` if one of them isn't what was written.
    pub(super) fn of_columns(
        host: &[u8],
        enrolment_leaf: LeafRef,
        state: (&[u8], u64),
        leaf: &[u8],
    ) -> Option<Self> {
        let leaf = Leaf::parse(leaf).ok()?;
        Some(Self {
            host: HostId::from_slice(host).ok()?,
            enrolment_leaf,
            enrolled_ms: leaf.time_ms,
            enrolment: Enrolment::parse(&leaf.body).ok()?,
            state: HostState::parse(state.0).ok()?,
            state_index: state.1,
        })
    }
}

/// What changes about a host, and under which enrolment: what every call of it needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostNow {
    /// Its newest enrolment leaf: index and leaf hash.
    pub enrolment_leaf: LeafRef,
    /// Thumbprint of the host key.
    pub key: Sha256Digest,
    /// State after the newest leaf that told of it.
    pub state: HostState,
}

/// What can be used once and isn't told by a leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SpentId {
    /// A challenge. Its expiry is inside of it, so that it names it together with the digest: stores keep spends in the order of expiry.
    Challenge {
        /// Its expiry, ms.
        expires_ms: u64,
        /// SHA-256 of its bytes.
        digest: Sha256Digest,
    },
    /// A pending enrolment.
    Enrolment([u8; 16]),
    /// Something of which one leaf is enough; named like a challenge.
    Mark {
        /// Until when another one could come, ms.
        expires_ms: u64,
        /// What the leaf is about.
        digest: Sha256Digest,
    },
}

impl SpentId {
    /// Until when it could be used again if it were forgotten, ms.
    #[must_use]
    pub const fn expires_ms(&self) -> u64 {
        match self {
            Self::Challenge { expires_ms, .. } | Self::Mark { expires_ms, .. } => *expires_ms,
            Self::Enrolment(_) => u64::MAX,
        }
    }

    /// The way back; `None` if that isn't what was written.
    pub(super) fn of_columns(expires_ms: u64, kind: u8, bytes: &[u8]) -> Option<Self> {
        match kind {
            1 => Some(Self::Challenge { expires_ms, digest: Sha256Digest::from_slice(bytes).ok()? }),
            2 => Some(Self::Enrolment(bytes.try_into().ok()?)),
            3 => Some(Self::Mark { expires_ms, digest: Sha256Digest::from_slice(bytes).ok()? }),
            _ => None,
        }
    }

    /// Number of its kind and the bytes that name it within the kind, as stores keep them.
    pub(super) const fn columns(&self) -> (u8, &[u8]) {
        match self {
            Self::Challenge { digest, .. } => (1, digest.as_bytes()),
            Self::Enrolment(id) => (2, id),
            Self::Mark { digest, .. } => (3, digest.as_bytes()),
        }
    }
}

/// An enrolment between its two calls. What the record holds is the enrolment's own affair.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct PendingEnrolment {
    /// Its identifier.
    pub id: [u8; 16],
    /// Until when it can be finished, ms.
    pub expires_ms: u64,
    /// Opaque; holds the secret that the TPM has to decrypt.
    pub record: Vec<u8>,
}

impl fmt::Debug for PendingEnrolment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PendingEnrolment").field("expires_ms", &self.expires_ms).finish_non_exhaustive()
    }
}

/// A MAC key of challenges (PROTOCOL §4.1).
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct ChallengeKey {
    /// Its identifier, public.
    pub id: [u8; 8],
    /// The key.
    pub key: [u8; 32],
    /// When it was made, ms.
    pub made_ms: u64,
}

impl fmt::Debug for ChallengeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChallengeKey")
            .field("id", &self.id)
            .field("made_ms", &self.made_ms)
            .finish_non_exhaustive()
    }
}

/// What a gateway says that it enforces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acknowledgement {
    /// Thumbprint of the gateway's key.
    pub gateway: Sha256Digest,
    /// Control number.
    pub control: u64,
    /// When it said so, ms.
    pub time_ms: u64,
}

/// What a batch has to know before it is planned.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Requests whose outcome to look up.
    pub outcomes: HashSet<(HostId, RequestId)>,
    /// Hosts whose version and enrolment to read.
    pub hosts: HashSet<HostId>,
    /// Host keys whose owner to look up.
    pub host_keys: HashSet<Sha256Digest>,
    /// Leaves whose budget to read.
    pub budgets: HashSet<u64>,
    /// Things to use once.
    pub spent: HashSet<SpentId>,
    /// Join tokens to read.
    pub tokens: HashSet<Sha256Digest>,
    /// Blobs that have to be there.
    pub blobs: HashSet<Sha256Digest>,
    /// Control number that the caller has folded; later control leaves are handed out.
    pub control_after: u64,
    /// Size of a head whose body's digest to read.
    pub body_at: Option<u64>,
}

/// What the store knew when it held the head row: the answers to [`Wanted`]. What is absent in a map doesn't exist.
#[derive(Clone, Debug, Default)]
pub struct Prior {
    /// The newest committed head; `None` for an empty log.
    pub tip: Option<Tip>,
    /// Outcomes by request.
    pub outcomes: HashMap<(HostId, RequestId), KnownOutcome>,
    /// Host versions.
    pub host_versions: HashMap<HostId, u64>,
    /// Indexes of hosts' newest enrolment leaves.
    pub enrolments: HashMap<HostId, u64>,
    /// Hosts by host key.
    pub key_owners: HashMap<Sha256Digest, HostId>,
    /// Budgets left.
    pub budgets: HashMap<u64, u64>,
    /// What was used.
    pub spent: HashSet<SpentId>,
    /// Join tokens.
    pub tokens: HashMap<Sha256Digest, JoinTokenRow>,
    /// Blobs that are there. What prunes a store does so under the same lock.
    pub blobs: HashSet<Sha256Digest>,
    /// Bytes of the control leaves after [`Wanted::control_after`], in order. Only another replica can have put some there.
    pub control_leaves: Vec<Vec<u8>>,
    /// Digest of the head body of size [`Wanted::body_at`].
    pub body_at: Option<Sha256Digest>,
    /// The clock that all who append to this store share, read under the lock, ms; `None` where one process appends.
    pub clock_ms: Option<u64>,
}

/// A leaf to append.
#[derive(Clone, Debug)]
pub struct NewLeaf {
    /// Its index.
    pub index: u64,
    /// Its exact bytes.
    pub bytes: Arc<[u8]>,
    /// Its leaf hashes.
    pub hashes: TripleHash,
    /// What it changes.
    pub changes: Vec<Change>,
    /// Its control number, if it is of a control kind.
    pub control: Option<u64>,
}

/// A perfect subtree that the batch completed, at a level that is stored (see [`super::NODE_LEVELS`]).
#[derive(Clone, Copy, Debug)]
pub struct NewNode {
    /// Level: 8, 16, 24 and so on.
    pub level: u8,
    /// Position within the level.
    pub index: u64,
    /// Its roots.
    pub hashes: TripleHash,
}

/// Everything that one transaction adds.
#[derive(Clone, Debug)]
pub struct Additions {
    /// Leaves, in order, without a gap after the tip.
    pub leaves: Vec<NewLeaf>,
    /// Completed subtrees.
    pub nodes: Vec<NewNode>,
    /// The body that covers them: fixed here and never again.
    pub head: StoredHead,
    /// Right edges at its size.
    pub frontiers: Frontiers,
    /// Things used up.
    pub spent: Vec<SpentId>,
    /// Blobs by SHA-256; those that are there already stay.
    pub blobs: Vec<(Sha256Digest, Arc<[u8]>)>,
    /// Memories of [`Additions::spent`] before this time may go, ms.
    pub forget_spent_before_ms: u64,
}

impl Additions {
    /// Whether they start where the log ends and cover what they say.
    ///
    /// # Errors
    /// A defect: they don't.
    pub(super) fn follow(&self, prior: &Prior) -> Result<(), StoreFault> {
        let old = prior.tip.as_ref().map_or(0, |tip| tip.head.body().size);
        let gapless = (old..).zip(&self.leaves).all(|(index, leaf)| leaf.index == index);
        let size = old.saturating_add(self.leaves.len() as u64);
        if gapless && size > old && self.head.body().size == size {
            Ok(())
        } else {
            Err(StoreFault::fatal(Broken::Defect, "append", "the batch doesn't follow the log"))
        }
    }
}

/// One pruning, as it is recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pruning {
    /// When it was done, ms.
    pub at_ms: u64,
    /// What was older than this, ms.
    pub before_ms: u64,
    /// Leaves below this index could lose members; a pruning that was cut short has done a part of them.
    pub upto: u64,
    /// Members that went.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Pruning {
    /// Whether it can have taken members of this leaf: one that was old then, and no artifact that hadn't ended.
    pub(crate) fn reaches(&self, leaf: &Leaf) -> bool {
        let ended = |(_, exp): (_, u64)| exp.saturating_mul(1_000) < self.at_ms;
        leaf.index < self.upto && leaf.time_ms < self.before_ms && allow(leaf).is_none_or(ended)
    }
}
