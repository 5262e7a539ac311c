//! Leaves with what makes them artifacts: an inclusion proof and the signed head that it leads to (PROTOCOL §6.4).

use std::sync::Arc;

use countersign_core::checkpoint::HeadBody;
use countersign_core::digest::Sha256Digest;
use countersign_core::leaf::leaf_hash;
use countersign_core::merkle::{ProofError, Sha256Tree, inclusion_proof};
use countersign_core::note::{NoteError, NoteSignature};
use countersign_core::tlog_proof::TlogProof;

use super::{LogReader, ReadFault, StoredHead, StoredTree};

/// A head with at least one signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedHead {
    note: Arc<str>,
    head: StoredHead,
}

impl SignedHead {
    /// Takes a head that has a signature.
    ///
    /// # Errors
    /// It has none.
    pub fn new(head: StoredHead) -> Result<Self, NoteError> {
        let note = Arc::from(head.note()?);
        Ok(Self { note, head })
    }

    /// The signed note, as it is sent.
    #[must_use]
    pub fn note(&self) -> &str {
        &self.note
    }

    /// The exact body text.
    #[must_use]
    pub fn text(&self) -> &str {
        self.head.text()
    }

    /// The same head with more signature lines.
    ///
    /// # Errors
    /// The note is too large then.
    pub fn with_signatures(&self, more: &[NoteSignature]) -> Result<Self, NoteError> {
        Self::new(self.head.with_signatures(more))
    }

    /// What the head states.
    #[must_use]
    pub const fn body(&self) -> &HeadBody {
        self.head.body()
    }

    /// Digest of the body (PROTOCOL §6.2).
    #[must_use]
    pub const fn digest(&self) -> &Sha256Digest {
        self.head.digest()
    }

    /// Number of leaves under it.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.head.body().size
    }
}

/// A leaf and its way to the root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeafReceipt {
    /// Its index.
    pub index: u64,
    /// Its exact bytes.
    pub leaf: Arc<[u8]>,
    /// Its SHA-256 leaf hash.
    pub leaf_hash: Sha256Digest,
    /// SHA-256 inclusion path, from the leaf's sibling upwards.
    pub proof: Vec<Sha256Digest>,
}

/// Leaves under one signed head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipts {
    /// In the order of the requests.
    pub leaves: Vec<LeafReceipt>,
    /// The head that all the proofs lead to.
    pub head: Arc<SignedHead>,
}

impl Receipts {
    /// The receipt texts (PROTOCOL §6.4), in the order of [`Receipts::leaves`].
    pub fn texts(&self) -> impl Iterator<Item = String> {
        self.leaves.iter().map(|receipt| {
            TlogProof {
                extra: receipt.leaf.to_vec(),
                index: receipt.index,
                proof: receipt.proof.clone(),
                checkpoint: self.head.note().to_owned(),
            }
            .encode()
        })
    }
}

/// Why a stored leaf can't be handed out as a receipt.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReceiptFault {
    /// The leaf is in the log, but not yet under this head: the signer is behind.
    #[error("leaf {index} is not under the signed head of size {size}")]
    NotUnderHead {
        /// The leaf.
        index: u64,
        /// Size of the head.
        size: u64,
    },
    /// The store failed.
    #[error(transparent)]
    Read(#[from] ReadFault),
}

/// Receipts for leaves that are in the store.
///
/// # Errors
/// [`ReceiptFault`].
pub fn receipts_for<R: LogReader + ?Sized>(
    reader: &R,
    indexes: &[u64],
    head: Arc<SignedHead>,
) -> Result<Receipts, ReceiptFault> {
    let size = head.size();
    let leaves = indexes.iter().map(|index| {
        let index = *index;
        if index >= size {
            return Err(ReceiptFault::NotUnderHead { index, size });
        }
        let leaf: Arc<[u8]> = reader.leaf(index)?.ok_or(ReadFault::Corrupt("a leaf is missing"))?.into();
        let proof =
            inclusion_proof::<Sha256Tree, _>(index, size, &StoredTree(reader)).map_err(|e| match e {
                ProofError::Source(fault) => fault,
                ProofError::Range { .. } => ReadFault::Corrupt("a leaf is outside of its tree"),
            })?;
        Ok(LeafReceipt { index, leaf_hash: leaf_hash(&leaf), leaf, proof })
    });
    let leaves = leaves.collect::<Result<_, ReceiptFault>>()?;
    Ok(Receipts { leaves, head })
}

/// The newest signed head of a store, ready to be sent.
///
/// # Errors
/// [`ReadFault`].
pub fn newest_signed_head<R: LogReader + ?Sized>(reader: &R) -> Result<Option<SignedHead>, ReadFault> {
    let head = reader.newest_signed()?;
    head.map(|head| SignedHead::new(head).map_err(|_| ReadFault::Corrupt("a stored signature"))).transpose()
}
