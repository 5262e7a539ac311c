//! The artifact: a receipt whose leaf is an allow decision (PROTOCOL §6.4, §13).
//!
//! Comes in: text from a stranger and a key set. Goes out, in steps that can't be skipped: [`Receipt`] (well-formed, included under its own head's
//! root), then [`SignedReceipt`] (a head key active at the head's control number signed that head). Linking the head to what a gateway knows, time, audience
//! and holder are the gateway's steps. Refused: what isn't a well-formed receipt, an index that disagrees, an inclusion proof that fails, an unsigned head.

use crate::checkpoint::HeadBody;
use crate::control::ControlState;
use crate::digest::Sha256Digest;
use crate::key::VerifyingKey;
use crate::leaf::{Leaf, leaf_hash};
use crate::merkle;
use crate::note::{self, NoteKey, SignedNote};
use crate::refusal::RefusalCode;
use crate::tlog_proof::TlogProof;
use crate::verified_heads::VerifiedHeads;

/// Why a text isn't an artifact.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArtifactError {
    /// Not a receipt: text, checkpoint, leaf or index.
    #[error("receipt: {0}")]
    Malformed(String),
    /// The leaf isn't under the head's root.
    #[error("the leaf isn't included under its head")]
    Inclusion,
    /// No active head key signed the head, or a known key's signature fails.
    #[error("the head isn't signed by an active head key")]
    Unsigned,
    /// A compromised key alone signed the head, and it lies beyond that key's last good head.
    #[error("only a compromised key signed the head, and it isn't covered by that key's last good head")]
    Compromised,
    /// The head is of another log.
    #[error("the head is of another log")]
    Origin,
}

impl ArtifactError {
    /// The stable code.
    #[must_use]
    pub const fn code(&self) -> RefusalCode {
        match self {
            Self::Malformed(_) => RefusalCode::ReceiptMalformed,
            Self::Inclusion => RefusalCode::InclusionInvalid,
            Self::Unsigned => RefusalCode::HeadUnsigned,
            Self::Compromised => RefusalCode::KeyCompromised,
            Self::Origin => RefusalCode::OriginMismatch,
        }
    }
}

fn malformed(error: impl std::fmt::Display) -> ArtifactError {
    ArtifactError::Malformed(error.to_string())
}

/// A well-formed receipt whose leaf is included under the root of the head that it carries. Who signed the head isn't known yet.
#[derive(Clone, Debug)]
pub struct Receipt {
    leaf: Leaf,
    leaf_bytes: Vec<u8>,
    leaf_hash: Sha256Digest,
    head: HeadBody,
    note: SignedNote,
    checkpoint: String,
}

impl Receipt {
    /// Parses the text and checks inclusion.
    pub fn parse(text: &str) -> Result<Self, ArtifactError> {
        let proof = TlogProof::parse(text).map_err(malformed)?;
        let note = SignedNote::parse(&proof.checkpoint).map_err(malformed)?;
        let head = HeadBody::parse(note.text()).map_err(malformed)?;
        let leaf = Leaf::parse(&proof.extra).map_err(malformed)?;
        // PROTOCOL §6.4: the index is inside the leaf; the proof only repeats it.
        if leaf.index != proof.index {
            return Err(malformed("the leaf's index isn't the proof's"));
        }
        let leaf_hash = leaf_hash(&proof.extra);
        merkle::verify_inclusion::<merkle::Sha256Tree>(
            &leaf_hash,
            proof.index,
            head.size,
            &proof.proof,
            &head.sha256_root,
        )
        .map_err(|_| ArtifactError::Inclusion)?;
        Ok(Self { leaf, leaf_bytes: proof.extra, leaf_hash, head, note, checkpoint: proof.checkpoint })
    }

    /// Checks that a head key active at the head's control number signed the head. The state must know that number, or be older and then count
    /// what it knows: a gateway that is behind pulls first. A head of a compromised key passes up to that key's last good head, and counts for nothing
    /// until it is linked to it (PROTOCOL §8.5).
    pub fn verify_signature(self, control: &ControlState) -> Result<SignedReceipt, ArtifactError> {
        self.verify_signature_among(control, &VerifiedHeads::default())
    }

    /// The same for whoever judges many: a head whose very note was good under this very state isn't verified again.
    pub fn verify_signature_among(
        self,
        control: &ControlState,
        verified: &VerifiedHeads,
    ) -> Result<SignedReceipt, ArtifactError> {
        if self.head.origin != control.origin() {
            return Err(ArtifactError::Origin);
        }
        verified.verified(control, &self.checkpoint, || {
            verify_head(&self.note, &self.head, control, |last_good| self.head.size <= last_good.size)
        })?;
        Ok(SignedReceipt(self))
    }

    /// The leaf.
    #[must_use]
    pub const fn leaf(&self) -> &Leaf {
        &self.leaf
    }

    /// Exact leaf bytes.
    #[must_use]
    pub fn leaf_bytes(&self) -> &[u8] {
        &self.leaf_bytes
    }

    /// SHA-256 leaf hash.
    #[must_use]
    pub const fn leaf_hash(&self) -> &Sha256Digest {
        &self.leaf_hash
    }

    /// The head that it carries.
    #[must_use]
    pub const fn head(&self) -> &HeadBody {
        &self.head
    }

    /// The head as a signed note.
    #[must_use]
    pub const fn note(&self) -> &SignedNote {
        &self.note
    }
}

/// A receipt under a head that an active head key signed, or a compromised one up to its last good head. Linking the head comes next.
#[derive(Clone, Debug)]
pub struct SignedReceipt(Receipt);

impl SignedReceipt {
    /// The receipt.
    #[must_use]
    pub const fn receipt(&self) -> &Receipt {
        &self.0
    }
}

/// PROTOCOL §6.3: at least one signature by a key active at the head's control number, and none by a known key that fails.
pub fn verify_head_signature(
    note: &SignedNote,
    head: &HeadBody,
    control: &ControlState,
) -> Result<(), ArtifactError> {
    // Nobody links this head to the last good one, so only that one itself counts.
    verify_head(note, head, control, |last_good| last_good == head)
}

fn verify_head(
    note: &SignedNote,
    head: &HeadBody,
    control: &ControlState,
    covered: impl Fn(&HeadBody) -> bool,
) -> Result<(), ArtifactError> {
    // A signature that fails speaks against the head, whether or not its key is active.
    let known = control.head_keys().iter().map(|known| NoteKey::new(&head.origin, known.key.clone()));
    let known: Vec<NoteKey> = known.collect::<Result<_, _>>().map_err(malformed)?;
    let verified = note::verify(note, &known).map_err(|_| ArtifactError::Unsigned)?;
    let signed_by = |key: &VerifyingKey| verified.signers().iter().any(|signer| signer.key() == key);
    if control.head_keys_at(head.control_seq).any(signed_by) {
        return Ok(());
    }
    // PROTOCOL §8.5: it was active then, before it was known to be compromised.
    let mut pinned = control.compromised_at(head.control_seq).filter(|(key, _)| signed_by(key));
    if pinned.any(|(_, last_good)| covered(last_good)) {
        return Ok(());
    }
    let compromised = control.head_keys().iter().any(|known| known.compromised && signed_by(&known.key));
    Err(if compromised { ArtifactError::Compromised } else { ArtifactError::Unsigned })
}

/// The same with an explicit key list, for the first head under a trust bundle.
pub fn verify_note_with(note: &SignedNote, origin: &str, keys: &[VerifyingKey]) -> Result<(), ArtifactError> {
    let keys: Vec<NoteKey> = keys
        .iter()
        .map(|key| NoteKey::new(origin, key.clone()))
        .collect::<Result<_, _>>()
        .map_err(malformed)?;
    note::verify(note, &keys).map(|_| ()).map_err(|_| ArtifactError::Unsigned)
}
