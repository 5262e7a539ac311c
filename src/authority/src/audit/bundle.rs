//! Evidence bundles (PROTOCOL §14): one file that bears an artifact out, for someone who holds the pinned trust bundle and nothing else.
//!
//! Comes in: a store and an artifact. Goes out: the artifact, the control chain under its head, the leaves that its decision refers to with
//! their inclusion proofs, and every member that it names by digest. Refused: what isn't an allow decision of this log, and a decision of
//! which something was pruned. Judging a bundle is [`super::verify_bundle`].

use super::Unreadable;
use super::kept::Kept;
use crate::store::{LogReader, ReadFault, StoredTree};
use countersign_core::api::B64;
use countersign_core::artifact::{ArtifactError, Receipt};
use countersign_core::challenge::ChallengeBody;
use countersign_core::digest::{Sha256Digest, sha256};
use countersign_core::document::ReferencesDocument;
use countersign_core::leaf::control::{KeyEvent, KeyPurpose, KeyRecord};
use countersign_core::leaf::decision::{Decision, LeafRef};
use countersign_core::leaf::host::Enrolment;
use countersign_core::leaf::{Kind, Leaf};
use countersign_core::merkle::{
    Blake2b512Tree, NodeSource, Sha3_512Tree, Sha256Tree, TreeHash, consistency_proof, inclusion_proof,
};
use countersign_core::record::{EvidenceRecord, InputsRecord};
use countersign_core::refusal::RefusalCode;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Largest bundle: a boot log, a policy and some ten thousand control leaves fit.
pub const MAX_EVIDENCE_BUNDLE: usize = 16 * 1024 * 1024;
/// Heads looked through at once for the one that a challenge names.
const PAGE: u64 = 512;

/// An evidence bundle in JSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvidenceBundle {
    /// Version, 1.
    pub v: u64,
    /// The artifact.
    pub artifact: String,
    /// Inclusion of its leaf in the other two trees.
    pub trees: TreePaths,
    /// Every control leaf under the artifact's head, from the first.
    pub control: Vec<B64>,
    /// For every activation of a head key among them, the first signed head that covers it.
    pub rotations: Vec<String>,
    /// The head that the challenge names.
    pub challenge_head: LinkedHead,
    /// The enrolment, the parents and all above them, by index, included under the artifact's head.
    pub leaves: Vec<ProvenLeaf>,
    /// What the decision names by SHA-256, by rising digest.
    pub members: Vec<B64>,
}

/// Paths in the trees that receipts don't use, hex.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TreePaths {
    /// SHA3-512.
    #[serde(rename = "sha3-512")]
    pub sha3_512: Vec<String>,
    /// BLAKE2b-512.
    #[serde(rename = "blake2b-512")]
    pub blake2b_512: Vec<String>,
}

/// A head body and the proof that joins it to the artifact's head.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkedHead {
    /// Exact body.
    pub body: String,
    /// SHA-256 consistency proof, hex.
    pub consistency: Vec<String>,
}

/// A leaf and its path.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProvenLeaf {
    /// Exact leaf.
    pub leaf: B64,
    /// SHA-256 inclusion path, hex.
    pub path: Vec<String>,
}

/// Why no bundle was made.
#[derive(Debug, thiserror::Error)]
pub enum BundleFault {
    /// The artifact doesn't hold.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    /// Only allow decisions are borne out.
    #[error("the leaf isn't an allow decision")]
    NotAnAllow,
    /// The store has another leaf at this place, or another head.
    #[error("the artifact isn't of this store")]
    AnotherLog,
    /// A member was pruned, by the store's own record.
    #[error("member {0} was pruned")]
    Pruned(Sha256Digest),
    /// A member isn't there, and no pruning tells of it.
    #[error("member {0} isn't there, and no pruning tells of it")]
    Lost(Sha256Digest),
    /// A leaf or a record of the log doesn't parse, or isn't there.
    #[error("the log's {0} can't be read")]
    Malformed(&'static str),
    /// The store can't be read.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
}

fn unreadable(fault: impl std::fmt::Display) -> BundleFault {
    BundleFault::Unreadable(Unreadable(fault.to_string()))
}

impl BundleFault {
    /// The stable code of a refusal; `None` if it is the environment's fault.
    #[must_use]
    pub const fn code(&self) -> Option<RefusalCode> {
        match self {
            Self::Artifact(error) => Some(error.code()),
            Self::NotAnAllow => Some(RefusalCode::NotAnAllow),
            Self::Pruned(_) => Some(RefusalCode::EvidencePruned),
            Self::Lost(_) => Some(RefusalCode::EvidenceLost),
            Self::AnotherLog | Self::Malformed(_) | Self::Unreadable(_) => None,
        }
    }
}

/// Gathers what bears the artifact out; what the store has no more is taken from what an auditor kept.
pub fn make_bundle(
    reader: &dyn LogReader,
    kept: Option<&Kept>,
    artifact: &str,
) -> Result<EvidenceBundle, BundleFault> {
    let receipt = Receipt::parse(artifact)?;
    if receipt.leaf().kind != Kind::Allow {
        return Err(BundleFault::NotAnAllow);
    }
    let (index, head) = (receipt.leaf().index, receipt.head());
    let stored = reader.leaf(index).map_err(unreadable)?;
    let same_head = reader.head(head.size).map_err(unreadable)?.is_some_and(|found| found.body() == head);
    if stored.as_deref() != Some(receipt.leaf_bytes()) || !same_head {
        return Err(BundleFault::AnotherLog);
    }
    let decision = Decision::parse(&receipt.leaf().body).map_err(|_| BundleFault::Malformed("decision"))?;
    let mut gathered = Gathered { reader, kept, leaf: receipt.leaf(), members: BTreeMap::new() };
    let (enrolment, challenge) = gathered.members_of(&decision)?;
    let leaves = gathered.family(&decision, enrolment)?;
    let tree = StoredTree(reader);
    let proven = leaves.into_iter().map(|(index, leaf)| {
        let path = hex_path::<Sha256Tree, _>(index, head.size, &tree)?;
        Ok(ProvenLeaf { leaf: B64(leaf), path })
    });
    let leaves = proven.collect::<Result<Vec<_>, BundleFault>>()?;
    let control = gathered.control(head.control_seq)?;
    Ok(EvidenceBundle {
        v: 1,
        artifact: artifact.to_owned(),
        trees: TreePaths {
            sha3_512: hex_path::<Sha3_512Tree, _>(index, head.size, &tree)?,
            blake2b_512: hex_path::<Blake2b512Tree, _>(index, head.size, &tree)?,
        },
        rotations: gathered.rotations(&control, head.size)?,
        control: control.into_iter().map(|(_, leaf)| B64(leaf)).collect(),
        challenge_head: gathered.challenge_head(&challenge, head.size)?,
        leaves,
        members: gathered.members.into_values().map(B64).collect(),
    })
}

fn hex_path<H: TreeHash, S: NodeSource<H>>(
    index: u64,
    size: u64,
    tree: &S,
) -> Result<Vec<String>, BundleFault>
where
    S::Error: std::fmt::Display,
{
    let path = inclusion_proof::<H, S>(index, size, tree).map_err(|_| BundleFault::Malformed("tree"))?;
    Ok(path.iter().map(|hash| data_encoding::HEXLOWER.encode(hash.as_ref())).collect())
}

struct Gathered<'a> {
    reader: &'a dyn LogReader,
    kept: Option<&'a Kept>,
    /// The decision's.
    leaf: &'a Leaf,
    members: BTreeMap<Sha256Digest, Vec<u8>>,
}

impl Gathered<'_> {
    /// A member that no pruning takes.
    fn member(&mut self, digest: &Sha256Digest) -> Result<Vec<u8>, BundleFault> {
        self.found(digest, false)
    }

    /// A member that a pruning may have taken.
    fn prunable(&mut self, digest: &Sha256Digest) -> Result<Vec<u8>, BundleFault> {
        self.found(digest, true)
    }

    fn found(&mut self, digest: &Sha256Digest, prunable: bool) -> Result<Vec<u8>, BundleFault> {
        let mut found = self.reader.blob(digest).map_err(unreadable)?;
        let was_empty = found.is_none();
        found = found.filter(|bytes| sha256(bytes) == *digest);
        if let (None, Some(kept)) = (&found, self.kept) {
            found = kept.find(digest)?;
        }
        let Some(bytes) = found else {
            let told = self.reader.pruned(digest).map_err(unreadable)?;
            let pruned = prunable && was_empty && told.is_some_and(|pruning| pruning.reaches(self.leaf));
            return Err(if pruned { BundleFault::Pruned(*digest) } else { BundleFault::Lost(*digest) });
        };
        self.members.insert(*digest, bytes.clone());
        Ok(bytes)
    }

    fn leaf(&self, index: u64) -> Result<Vec<u8>, BundleFault> {
        self.reader.leaf(index).map_err(unreadable)?.ok_or(BundleFault::Malformed("leaf"))
    }

    /// Everything named by digest, directly or by what is named; the enrolment and the challenge.
    fn members_of(&mut self, decision: &Decision) -> Result<(LeafRef, ChallengeBody), BundleFault> {
        self.prunable(&decision.request)?;
        let inputs = InputsRecord::parse(&self.prunable(&decision.inputs)?)
            .map_err(|_| BundleFault::Malformed("inputs record"))?;
        let evidence = EvidenceRecord::parse(&self.prunable(&decision.evidence)?)
            .map_err(|_| BundleFault::Malformed("evidence record"))?;
        // Nothing new in the IMA list is no member.
        let entries = evidence.ima.map(|ima| ima.list).filter(|list| *list != sha256(&[]));
        for digest in [evidence.boot_log, entries].into_iter().flatten() {
            self.prunable(&digest)?;
        }
        for digest in [inputs.policy, inputs.prior.ima].into_iter().flatten() {
            self.member(&digest)?;
        }
        if let Some(digest) = inputs.references {
            let references = ReferencesDocument::parse(&self.member(&digest)?)
                .map_err(|_| BundleFault::Malformed("references document"))?;
            if let Some(policy) = references.ima {
                self.member(&policy)?;
            }
        }
        let enrolment = Leaf::parse(&self.leaf(inputs.enrolment.0)?)
            .and_then(|leaf| Enrolment::parse(&leaf.body))
            .map_err(|_| BundleFault::Malformed("enrolment"))?;
        self.member(&enrolment.ak_public)?;
        let challenge = ChallengeBody::read_unverified(&evidence.challenge)
            .map_err(|_| BundleFault::Malformed("challenge"))?;
        Ok((inputs.enrolment, challenge))
    }

    /// The enrolment and every artifact above the decision, by index.
    fn family(&self, decision: &Decision, enrolment: LeafRef) -> Result<BTreeMap<u64, Vec<u8>>, BundleFault> {
        let mut leaves = BTreeMap::from([(enrolment.0, self.leaf(enrolment.0)?)]);
        let mut above: BTreeSet<u64> = decision.lineage.parents.iter().map(|parent| parent.0).collect();
        while let Some(index) = above.pop_last() {
            let bytes = self.leaf(index)?;
            let parent = Leaf::parse(&bytes).and_then(|leaf| Decision::parse(&leaf.body));
            let parent = parent.map_err(|_| BundleFault::Malformed("parent"))?;
            above.extend(parent.lineage.parents.iter().map(|parent| parent.0));
            leaves.insert(index, bytes);
        }
        Ok(leaves)
    }

    fn control(&self, count: u64) -> Result<Vec<(u64, Vec<u8>)>, BundleFault> {
        let mut leaves: Vec<(u64, Vec<u8>)> = Vec::new();
        loop {
            let after = u64::try_from(leaves.len()).unwrap_or(u64::MAX);
            if after >= count {
                return Ok(leaves);
            }
            let page = self.reader.control_leaves(after, PAGE.min(count - after)).map_err(unreadable)?;
            if page.is_empty() {
                return Err(BundleFault::Malformed("control chain"));
            }
            leaves.extend(page);
        }
    }

    fn rotations(&self, control: &[(u64, Vec<u8>)], size: u64) -> Result<Vec<String>, BundleFault> {
        let mut rotations = Vec::new();
        for (index, bytes) in control {
            if is_head_activation(bytes) {
                rotations.push(self.first_signed_over(*index, size)?);
            }
        }
        Ok(rotations)
    }

    fn first_signed_over(&self, index: u64, size: u64) -> Result<String, BundleFault> {
        let mut from = index + 1;
        loop {
            let heads = self.reader.heads(from, PAGE).map_err(unreadable)?;
            let signed = heads.iter().find(|head| !head.signatures().is_empty() && head.body().size <= size);
            if let Some(head) = signed {
                return head.note().map_err(unreadable);
            }
            match heads.last() {
                Some(last) if last.body().size < size => from = last.body().size + 1,
                _ => return Err(BundleFault::Malformed("rotation head")),
            }
        }
    }

    /// A challenge is seconds old, so its head is looked for from the newest backwards.
    fn challenge_head(&self, challenge: &ChallengeBody, size: u64) -> Result<LinkedHead, BundleFault> {
        let (mut low, mut high) = (size.saturating_sub(PAGE), size);
        loop {
            if let Some(body) = self.head_between(low, high, &challenge.head)? {
                let old = body.0;
                let proof = consistency_proof::<Sha256Tree, _>(old, size, &StoredTree(self.reader));
                let proof = proof.map_err(|_: countersign_core::merkle::ProofError<ReadFault>| {
                    BundleFault::Malformed("tree")
                })?;
                let consistency = proof.iter().map(Sha256Digest::to_hex).collect();
                return Ok(LinkedHead { body: body.1, consistency });
            }
            if low == 0 {
                return Err(BundleFault::Malformed("head named by the challenge"));
            }
            (low, high) = (low.saturating_sub(PAGE), low);
        }
    }

    fn head_between(
        &self,
        low: u64,
        high: u64,
        digest: &Sha256Digest,
    ) -> Result<Option<(u64, String)>, BundleFault> {
        let mut from = low;
        while from <= high {
            let heads = self.reader.heads(from, PAGE).map_err(unreadable)?;
            let Some(last) = heads.last() else { return Ok(None) };
            from = last.body().size + 1;
            let found = heads.iter().find(|head| sha256(head.text().as_bytes()) == *digest);
            if let Some(head) = found.filter(|head| head.body().size <= high) {
                return Ok(Some((head.body().size, head.text().to_owned())));
            }
        }
        Ok(None)
    }
}

/// Whether a control leaf activates a head key.
pub(super) fn is_head_activation(bytes: &[u8]) -> bool {
    let leaf = Leaf::parse(bytes).ok().filter(|leaf| leaf.kind == Kind::Key);
    let record = leaf.and_then(|leaf| KeyRecord::parse(&leaf.body).ok());
    record.is_some_and(|record| record.purpose == KeyPurpose::Head && record.event == KeyEvent::Activated)
}
