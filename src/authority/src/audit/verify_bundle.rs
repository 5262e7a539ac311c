//! Judging an evidence bundle (PROTOCOL §14): the artifact, and that it follows from what the bundle holds, byte for byte.
//!
//! Comes in: a bundle and the pinned trust bundle. Goes out: what was verified. Refused, each with its code: any part that is missing, changed
//! or more than is named. Not judged, since only the whole log shows it: that the budget left and the host's prior state, which the inputs record
//! states, were those of the moment, and that the request identifier and the challenge were new.

use super::bundle::{EvidenceBundle, MAX_EVIDENCE_BUNDLE, is_head_activation};
use crate::appraise::{References, ReferencesInvalid};
use crate::decide::{ENGINE, Family, Inputs, Situation, decide};
use crate::policy::PolicyCache;
use crate::verify::{BootLogCache, BootLogSource, Endorsed, SourceFault, judge_logged};
use countersign_core::artifact::{ArtifactError, Receipt, verify_head_signature, verify_note_with};
use countersign_core::bundle::TrustBundle;
use countersign_core::checkpoint::HeadBody;
use countersign_core::control::ControlState;
use countersign_core::digest::{Blake2b512Digest, Sha3_512Digest, Sha256Digest, sha256};
use countersign_core::key::VerifyingKey;
use countersign_core::leaf::decision::Decision;
use countersign_core::leaf::host::Enrolment;
use countersign_core::leaf::{Kind, Leaf, leaf_hash};
use countersign_core::merkle::{
    Blake2b512Tree, Sha3_512Tree, Sha256Tree, TreeHash, verify_consistency, verify_inclusion,
};
use countersign_core::note::SignedNote;
use countersign_core::record::{ChallengeStanding, EvidenceRecord, InputsRecord};
use countersign_core::refusal::RefusalCode;
use countersign_core::request::SignedRequest;
use countersign_tpm::ima::state::ImaState;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

/// Why a bundle is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {detail}")]
pub struct BundleRefused {
    /// Stable code.
    pub code: RefusalCode,
    /// More for people.
    pub detail: String,
}

/// What a bundle bears out.
#[derive(Clone, Debug)]
pub struct BorneOut {
    /// The decision.
    pub decision: Decision,
    /// Index and leaf hash of the artifact.
    pub artifact: (u64, Sha256Digest),
    /// Members that were used.
    pub members: usize,
}

impl From<ReferencesInvalid> for BundleRefused {
    fn from(invalid: ReferencesInvalid) -> Self {
        malformed(invalid)
    }
}

fn refused(code: RefusalCode, detail: impl Into<String>) -> BundleRefused {
    BundleRefused { code, detail: detail.into() }
}

fn malformed(detail: impl std::fmt::Display) -> BundleRefused {
    refused(RefusalCode::EvidenceBundleMalformed, detail.to_string())
}

fn mismatch(detail: impl std::fmt::Display) -> BundleRefused {
    refused(RefusalCode::EvidenceBundleMismatch, detail.to_string())
}

impl From<ArtifactError> for BundleRefused {
    fn from(error: ArtifactError) -> Self {
        refused(error.code(), error.to_string())
    }
}

/// Judges exact bundle bytes.
pub fn verify_bundle(bytes: &[u8], trust: &TrustBundle) -> Result<BorneOut, BundleRefused> {
    if bytes.len() > MAX_EVIDENCE_BUNDLE {
        return Err(malformed("too large"));
    }
    let bundle: EvidenceBundle = serde_json::from_slice(bytes).map_err(malformed)?;
    if bundle.v != 1 {
        return Err(malformed("another version"));
    }
    let receipt = Receipt::parse(&bundle.artifact)?;
    if receipt.leaf().kind != Kind::Allow {
        return Err(refused(RefusalCode::NotAnAllow, "a leaf of another kind"));
    }
    let decision = Decision::parse(&receipt.leaf().body)
        .map_err(|error| refused(RefusalCode::ReceiptMalformed, error.to_string()))?;
    if receipt.head().origin != trust.origin().as_str() || decision.issuer != *trust.origin() {
        return Err(ArtifactError::Origin.into());
    }
    let control = follow(&bundle, &receipt, trust, decision.control)?;
    included_in_all(&bundle, &receipt)?;
    let mut parts = Parts::of(&bundle, receipt.head())?;
    let challenge_head = linked(&bundle, receipt.head())?;
    bears_out(&receipt, &decision, &control, trust, &mut parts, &challenge_head)?;
    parts.all_named()?;
    let members = parts.members.len();
    Ok(BorneOut { artifact: (receipt.leaf().index, *receipt.leaf_hash()), decision, members })
}

/// Follows the control chain from the trust bundle to the artifact's head (PROTOCOL §13.1), every rotation signed by a key believed before.
/// The state at the control number that the decision read.
fn follow(
    bundle: &EvidenceBundle,
    receipt: &Receipt,
    trust: &TrustBundle,
    decided_at: u64,
) -> Result<ControlState, BundleRefused> {
    let mut chain = Chain {
        leaves: bundle.control.iter(),
        state: ControlState::of_bundle(trust),
        decided_at,
        at_decision: None,
        activations: Vec::new(),
        believed: trust.head_keys().to_vec(),
        bundle_keys: trust.head_keys(),
        reached: (0, 0),
    };
    for text in &bundle.rotations {
        let note = SignedNote::parse(text).map_err(malformed)?;
        let head = HeadBody::parse(note.text()).map_err(malformed)?;
        chain.step(&note, &head)?;
    }
    chain.step(receipt.note(), receipt.head())?;
    let activations = chain.activations.iter().zip(&bundle.rotations);
    let covered = activations.map(|(number, text)| {
        let head = SignedNote::parse(text).ok().and_then(|note| HeadBody::parse(note.text()).ok());
        head.is_some_and(|head| head.control_seq >= *number)
    });
    if chain.leaves.len() != 0 {
        return Err(mismatch("control leaves beyond the artifact's head"));
    }
    if chain.activations.len() != bundle.rotations.len() || covered.into_iter().any(|covers| !covers) {
        return Err(refused(RefusalCode::EvidenceBundleIncomplete, "not one head for each activation"));
    }
    chain.at_decision.ok_or_else(|| mismatch("the decision read a control number beyond its head"))
}

struct Chain<'a> {
    leaves: std::slice::Iter<'a, countersign_core::api::B64>,
    state: ControlState,
    decided_at: u64,
    at_decision: Option<ControlState>,
    activations: Vec<u64>,
    believed: Vec<VerifyingKey>,
    bundle_keys: &'a [VerifyingKey],
    /// Size and time of the head before.
    reached: (u64, u64),
}

impl Chain<'_> {
    fn step(&mut self, note: &SignedNote, head: &HeadBody) -> Result<(), BundleRefused> {
        if head.origin != self.state.origin() {
            return Err(ArtifactError::Origin.into());
        }
        let (size, time_ms) = self.reached;
        if head.control_seq < self.state.number() || head.size < size || head.time_ms < time_ms {
            return Err(mismatch("heads go back"));
        }
        while self.state.number() < head.control_seq {
            self.keep();
            let leaf = self.leaves.next();
            let leaf = leaf.ok_or_else(|| {
                refused(RefusalCode::EvidenceBundleIncomplete, "a control leaf isn't there")
            })?;
            self.state.apply(&leaf.0).map_err(mismatch)?;
            if is_head_activation(&leaf.0) {
                self.activations.push(self.state.number());
            }
        }
        self.keep();
        if self.state.last_index().is_some_and(|last| last >= head.size) {
            return Err(mismatch("a head is smaller than what it covers"));
        }
        if !self.state.begins_with(self.bundle_keys) {
            return Err(mismatch("the control chain doesn't begin with the trust bundle's head keys"));
        }
        if *self.state.digest() != head.control_digest {
            return Err(mismatch("the control leaves don't give the head's control digest"));
        }
        verify_note_with(note, &head.origin, &self.state.still_believed(&self.believed))?;
        verify_head_signature(note, head, &self.state)?;
        self.believed = self.state.head_keys_at(head.control_seq).cloned().collect();
        self.reached = (head.size, head.time_ms);
        Ok(())
    }

    fn keep(&mut self) {
        if self.state.number() == self.decided_at && self.at_decision.is_none() {
            self.at_decision = Some(self.state.clone());
        }
    }
}

/// The leaf stands in the other two trees as well.
fn included_in_all(bundle: &EvidenceBundle, receipt: &Receipt) -> Result<(), BundleRefused> {
    let (leaf, head) = (receipt.leaf_bytes(), receipt.head());
    let index = receipt.leaf().index;
    let sha3: Vec<Sha3_512Digest> = digests(&bundle.trees.sha3_512, Sha3_512Digest::from_hex)?;
    let blake2: Vec<Blake2b512Digest> = digests(&bundle.trees.blake2b_512, Blake2b512Digest::from_hex)?;
    let sha3 = verify_inclusion::<Sha3_512Tree>(
        &Sha3_512Tree::leaf_hash(leaf),
        index,
        head.size,
        &sha3,
        &head.sha3_root,
    );
    let blake2 = verify_inclusion::<Blake2b512Tree>(
        &Blake2b512Tree::leaf_hash(leaf),
        index,
        head.size,
        &blake2,
        &head.blake2_root,
    );
    sha3.and(blake2).map_err(|error| refused(RefusalCode::InclusionInvalid, error.to_string()))
}

fn digests<D, E: std::fmt::Display>(
    texts: &[String],
    read: impl Fn(&str) -> Result<D, E>,
) -> Result<Vec<D>, BundleRefused> {
    texts.iter().map(|text| read(text).map_err(malformed)).collect()
}

/// The head named by the challenge: older than the quote, and joined to the artifact's head.
fn linked(bundle: &EvidenceBundle, newest: &HeadBody) -> Result<Sha256Digest, BundleRefused> {
    let old = HeadBody::parse(&bundle.challenge_head.body).map_err(malformed)?;
    let proof = digests(&bundle.challenge_head.consistency, Sha256Digest::from_hex)?;
    let unlinked = |detail: String| refused(RefusalCode::HeadUnlinked, detail);
    verify_consistency::<Sha256Tree>(old.size, &old.sha256_root, newest.size, &newest.sha256_root, &proof)
        .map_err(|error| unlinked(error.to_string()))?;
    if old.origin != newest.origin || old.time_ms > newest.time_ms {
        return Err(unlinked("of another log, or of later".to_owned()));
    }
    Ok(old.digest())
}

/// Leaves and members, and which of them were named.
struct Parts {
    leaves: BTreeMap<u64, Vec<u8>>,
    named_leaves: BTreeSet<u64>,
    members: BTreeMap<Sha256Digest, Arc<[u8]>>,
    named: Mutex<BTreeSet<Sha256Digest>>,
}

impl Parts {
    fn of(bundle: &EvidenceBundle, head: &HeadBody) -> Result<Self, BundleRefused> {
        let mut leaves = BTreeMap::new();
        for proven in &bundle.leaves {
            let leaf = Leaf::parse(&proven.leaf.0).map_err(malformed)?;
            if leaves.last_key_value().is_some_and(|(last, _)| *last >= leaf.index) {
                return Err(malformed("leaves aren't in the order of their indexes"));
            }
            let path = digests(&proven.path, Sha256Digest::from_hex)?;
            let hash = leaf_hash(&proven.leaf.0);
            verify_inclusion::<Sha256Tree>(&hash, leaf.index, head.size, &path, &head.sha256_root)
                .map_err(|error| refused(RefusalCode::InclusionInvalid, error.to_string()))?;
            leaves.insert(leaf.index, proven.leaf.0.clone());
        }
        let mut members = BTreeMap::new();
        for member in &bundle.members {
            let digest = sha256(&member.0);
            if members.last_key_value().is_some_and(|(last, _)| *last >= digest) {
                return Err(malformed("members aren't in the order of their digests"));
            }
            members.insert(digest, Arc::from(member.0.as_slice()));
        }
        Ok(Self { leaves, named_leaves: BTreeSet::new(), members, named: Mutex::default() })
    }

    fn member(&self, what: &str, digest: &Sha256Digest) -> Result<Arc<[u8]>, BundleRefused> {
        let missing = || refused(RefusalCode::EvidenceBundleIncomplete, format!("{what} isn't there"));
        let found = self.members.get(digest).ok_or_else(missing)?;
        self.named.lock().unwrap_or_else(PoisonError::into_inner).insert(*digest);
        Ok(Arc::clone(found))
    }

    fn leaf(&mut self, index: u64) -> Option<Vec<u8>> {
        let found = self.leaves.get(&index)?;
        self.named_leaves.insert(index);
        Some(found.clone())
    }

    fn all_named(&self) -> Result<(), BundleRefused> {
        let named = self.named.lock().unwrap_or_else(PoisonError::into_inner);
        if named.len() == self.members.len() && self.named_leaves.len() == self.leaves.len() {
            return Ok(());
        }
        Err(refused(RefusalCode::EvidenceBundleIncomplete, "it holds what nothing in it names"))
    }
}

impl BootLogSource for Parts {
    fn holds(&self, digest: &Sha256Digest) -> Result<bool, SourceFault> {
        Ok(self.members.contains_key(digest))
    }

    fn fetch(&self, digest: &Sha256Digest) -> Result<Option<Arc<[u8]>>, SourceFault> {
        Ok(self.member("boot log", digest).ok())
    }

    fn keeps(&self) -> bool {
        true
    }
}

/// The same inputs lead to the same body (PROTOCOL §7.2).
fn bears_out(
    receipt: &Receipt,
    decision: &Decision,
    control: &ControlState,
    trust: &TrustBundle,
    parts: &mut Parts,
    challenge_head: &Sha256Digest,
) -> Result<(), BundleRefused> {
    let record = InputsRecord::parse(&parts.member("inputs record", &decision.inputs)?).map_err(malformed)?;
    if record.engine != ENGINE {
        return Err(mismatch(format!("decided by engine {}, this is {ENGINE}", record.engine)));
    }
    let request = parts.member("request", &decision.request)?.to_vec();
    let request = SignedRequest::verify(request, record.holder_signature.clone(), record.consents.clone())
        .map_err(|error| refused(RefusalCode::HolderSignatureInvalid, error.to_string()))?;
    let evidence = parts.member("evidence record", &decision.evidence)?;
    let evidence = EvidenceRecord::parse(&evidence).map_err(malformed)?;
    let host = endorsed(parts, &record)?;
    let policy = control.policy().ok_or_else(|| mismatch("allowed without a policy"))?;
    let policy = PolicyCache::default().load(policy, &parts.member("policy", policy)?).map_err(malformed)?;
    let references = control.references().map(|digest| {
        let fetch = |named: &Sha256Digest| Ok(parts.member("IMA policy", named)?.to_vec());
        References::parse::<BundleRefused>(&parts.member("references", digest)?, None, fetch)
    });
    let references = references.transpose()?;
    let cache = BootLogCache::new(1);
    let boot_logs = (&cache, &*parts as &dyn BootLogSource);
    let judged = judge_logged(trust.origin(), host.host, &host.ak, policy.settings(), evidence, boot_logs);
    let judged = judged.map_err(|error| refused(error.code(), error.to_string()))?;
    if judged.challenge().head != *challenge_head {
        return Err(refused(RefusalCode::HeadUnlinked, "the challenge names another head"));
    }
    let left: BTreeMap<u64, u64> = record.parents.iter().map(|(name, left)| (name.0, *left)).collect();
    let family = Family::resolve(&request.request().parents, |index| {
        let missing = || refused(RefusalCode::EvidenceBundleIncomplete, format!("leaf {index} isn't there"));
        let bytes = parts.leaf(index).ok_or_else(missing)?;
        Ok::<_, BundleRefused>(Some((bytes, left.get(&index).copied().unwrap_or(0))))
    })?;
    let outcome = decide(&Inputs {
        situation: Situation {
            origin: trust.origin(),
            trust_domain: trust.trust_domain(),
            host: &host,
            judged: &judged,
            challenge_spent: record.challenge == ChallengeStanding::Spent,
            control,
            policy: Some(&policy),
            references: references.as_ref(),
            time_ms: record.time_ms,
        },
        request: &request,
        family: &family,
        request_id_reused: record.request_id_reused,
    })
    .map_err(|_| mismatch("the inputs don't belong together"))?;
    if outcome.body() == receipt.leaf().body {
        Ok(())
    } else {
        Err(mismatch("the same inputs lead to another body"))
    }
}

/// The enrolment that the inputs name, with the AK's public area.
fn endorsed(parts: &mut Parts, record: &InputsRecord) -> Result<Endorsed, BundleRefused> {
    let (index, hash) = record.enrolment;
    let missing = || refused(RefusalCode::EvidenceBundleIncomplete, "the enrolment isn't there");
    let bytes = parts.leaf(index).filter(|bytes| leaf_hash(bytes) == hash).ok_or_else(missing)?;
    let leaf = Leaf::parse(&bytes).map_err(malformed)?;
    if leaf.kind != Kind::Enrolment {
        return Err(mismatch("the enrolment is a leaf of another kind"));
    }
    let enrolment = Enrolment::parse(&leaf.body).map_err(malformed)?;
    let ak = parts.member("AK's public area", &enrolment.ak_public)?;
    let ima = match &record.prior.ima {
        Some(digest) => {
            let state = parts.member("prior state of the IMA appraisal", digest)?;
            Some(Arc::new(ImaState::parse(&state).map_err(malformed)?))
        }
        None => None,
    };
    Endorsed::new(&enrolment, record.enrolment, &ak, record.prior)
        .map(|endorsed| endorsed.at(record.prior, ima))
        .map_err(|_| mismatch("the AK isn't the enrolled one"))
}
