//! Attestation results in the form of EAR (draft-ietf-rats-ear-04, PROTOCOL §17).
//!
//! Comes in: a leaf that tells of a host, and perhaps a nonce. Goes out: the claims that render it. Everything in them is read from that leaf,
//! but for nonce, issuer and, where the leaf doesn't name it, the version that renders. Refused: leaves that tell of no host, and appraisals with claims that
//! AR4SI doesn't name.

use crate::api::B64;
use crate::digest::Sha256Digest;
use crate::leaf::decision::{Decision, Verdict};
use crate::leaf::host::Tier;
use crate::leaf::host_state::HostStateRecord;
use crate::leaf::{Kind, Leaf, LeafError, leaf_hash};
use crate::name::HostId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// `eat_profile` (draft-ietf-rats-ear-04 §3).
pub const PROFILE: &str = "tag:ietf.org,2026:rats/ear#04";
/// `typ` of the JWS: application/eat+jwt (RFC 9782).
pub const TYP: &str = "eat+jwt";
/// `developer` of `ear_verifier_id`.
pub const DEVELOPER: &str = "countersign";
/// Name of the one submodule: the host.
pub const SUBMODULE: &str = "host";
/// Bytes of a nonce (RFC 9711 §4.1).
pub const NONCE_LEN: std::ops::RangeInclusive<usize> = 8..=64;

/// Names of the AR4SI claims in JSON, by their numbers (draft-ietf-rats-ear-04 §4, draft-ietf-rats-ar4si §2.3).
const VECTOR_NAMES: [&str; 8] = [
    "instance-identity",
    "configuration",
    "executables",
    "file-system",
    "hardware",
    "runtime-opaque",
    "storage-opaque",
    "sourced-data",
];

/// What one leaf says of a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttestationResult {
    /// Whose.
    pub host: HostId,
    /// Index of the leaf.
    pub index: u64,
    /// Its hash.
    pub leaf: Sha256Digest,
    /// Its time, ms.
    pub time_ms: u64,
    /// Until when the host is trusted, ms.
    pub trusted_until_ms: u64,
    /// Overall tier.
    pub tier: Tier,
    /// The vector, where the leaf has one: AR4SI number and value.
    pub vector: Vec<(u64, u64)>,
    /// The policy document, where the leaf names one.
    pub policy: Option<Sha256Digest>,
    /// The evidence record.
    pub evidence: Sha256Digest,
    /// Version of the decision function, where the leaf names it.
    pub engine: Option<String>,
}

impl AttestationResult {
    /// Reads the exact bytes of a leaf; `None` if it tells of no host's evidence (PROTOCOL §8.4).
    ///
    /// # Errors
    /// [`LeafError`] for a leaf or a body that isn't well-formed.
    pub fn of_leaf(bytes: &[u8]) -> Result<Option<Self>, LeafError> {
        let leaf = Leaf::parse(bytes)?;
        match leaf.kind {
            Kind::HostState => {
                let HostStateRecord { host, state, evidence, code, basis } =
                    HostStateRecord::parse(&leaf.body)?;
                Ok(state.is_told_by(code, &evidence).then(|| {
                    let plain = Self::plain(&leaf, bytes, host, &state, evidence);
                    match basis {
                        Some(basis) => Self {
                            vector: basis.appraisal.vector,
                            policy: basis.policy,
                            engine: Some(basis.engine),
                            ..plain
                        },
                        None => plain,
                    }
                }))
            }
            Kind::Allow | Kind::Deny => {
                let decision = Decision::parse(&leaf.body)?;
                let code = match decision.verdict {
                    Verdict::Allow { .. } => None,
                    Verdict::Deny(code) => Some(code),
                };
                let told = (decision.host, decision.host_state, decision.evidence, code);
                Ok(told.1.is_told_by(told.3, &told.2).then(|| Self {
                    vector: decision.appraisal.vector,
                    policy: decision.policy.map(|policy| policy.digest),
                    engine: Some(decision.engine),
                    ..Self::plain(&leaf, bytes, told.0, &told.1, told.2)
                }))
            }
            _ => Ok(None),
        }
    }

    fn plain(
        leaf: &Leaf,
        bytes: &[u8],
        host: HostId,
        state: &crate::leaf::host::HostState,
        evidence: Sha256Digest,
    ) -> Self {
        Self {
            host,
            index: leaf.index,
            leaf: leaf_hash(bytes),
            time_ms: leaf.time_ms,
            trusted_until_ms: state.trusted_until_ms,
            tier: state.tier,
            vector: Vec::new(),
            policy: None,
            evidence,
            engine: None,
        }
    }

    /// When the rendering expires, seconds: never after the host's trust.
    #[must_use]
    pub const fn expires_secs(&self) -> u64 {
        self.trusted_until_ms / 1_000
    }

    /// The claims. `build` stands where the leaf doesn't name the version of the decision function.
    ///
    /// # Errors
    /// A vector with a number that AR4SI doesn't have.
    pub fn claims(&self, issuer: &str, build: &str, nonce: Option<&[u8]>) -> Result<EarClaims, LeafError> {
        let named = self.vector.iter().map(|(number, value)| {
            let name = usize::try_from(*number).ok().and_then(|number| VECTOR_NAMES.get(number));
            name.map(|name| ((*name).to_owned(), *value)).ok_or(LeafError::Value("appraisal"))
        });
        let vector = named.collect::<Result<BTreeMap<_, _>, _>>()?;
        let appraisal = EarAppraisal {
            ear_status: self.tier.name().to_owned(),
            ear_trustworthiness_vector: Some(vector).filter(|vector| !vector.is_empty()),
            ear_appraisal_policy_ids: self.policy.as_ref().map(|policy| vec![named_information(policy)]),
        };
        Ok(EarClaims {
            eat_profile: PROFILE.to_owned(),
            iss: issuer.to_owned(),
            sub: self.host.to_hex(),
            iat: self.time_ms / 1_000,
            exp: self.expires_secs(),
            eat_nonce: nonce.map(|nonce| B64(nonce.to_vec())),
            ear_verifier_id: VerifierId {
                developer: DEVELOPER.to_owned(),
                build: self.engine.clone().unwrap_or_else(|| build.to_owned()),
            },
            submods: [(SUBMODULE.to_owned(), appraisal)].into_iter().collect(),
            countersign_record: RecordName {
                index: self.index,
                leaf: self.leaf.to_hex(),
                evidence: self.evidence.to_hex(),
            },
        })
    }
}

/// A digest as a URI (RFC 6920).
fn named_information(digest: &Sha256Digest) -> String {
    format!("ni:///sha-256;{}", data_encoding::BASE64URL_NOPAD.encode(digest.as_bytes()))
}

/// Claims of an attestation result (PROTOCOL §17.1).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EarClaims {
    /// [`PROFILE`].
    pub eat_profile: String,
    /// The log.
    pub iss: String,
    /// Host identifier, hex.
    pub sub: String,
    /// Time of the leaf, seconds.
    pub iat: u64,
    /// The host's trust deadline, seconds.
    pub exp: u64,
    /// As it was asked with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eat_nonce: Option<B64>,
    /// Who appraised.
    pub ear_verifier_id: VerifierId,
    /// One appraisal, of the host.
    pub submods: BTreeMap<String, EarAppraisal>,
    /// The leaf that is rendered.
    pub countersign_record: RecordName,
}

/// `ear_verifier_id`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VerifierId {
    /// [`DEVELOPER`].
    pub developer: String,
    /// Version of the decision function.
    pub build: String,
}

/// An appraisal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EarAppraisal {
    /// Name of the tier.
    pub ear_status: String,
    /// AR4SI claim to value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ear_trustworthiness_vector: Option<BTreeMap<String, u64>>,
    /// The policy document, by its digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ear_appraisal_policy_ids: Option<Vec<String>>,
}

/// Which leaf it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordName {
    /// Its index in the log.
    pub index: u64,
    /// Its hash, hex.
    pub leaf: String,
    /// The evidence record, hex.
    pub evidence: String,
}
