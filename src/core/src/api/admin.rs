//! Bodies of the admin listener (PROTOCOL §11.2).

use super::{ApprovalDocument, B64, DeviceDocument, NamedKey};
use crate::key::JsonKey;
use crate::leaf::control::Role;
use serde::{Deserialize, Serialize};
use std::fmt;

/// `POST /v1/admin/join-tokens`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JoinTokenCall {
    /// Lifetime, seconds; 1 to 604,800.
    pub ttl_secs: u64,
}

/// Answer to [`JoinTokenCall`]. The only time that the token is shown.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JoinTokenMade {
    /// The token.
    pub token: String,
    /// Until when, ms.
    pub expires_ms: u64,
    /// Receipt of the join-token leaf.
    pub receipt: String,
}

impl fmt::Debug for JoinTokenMade {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A join token admits whoever knows it.
        f.debug_struct("JoinTokenMade").field("expires_ms", &self.expires_ms).finish_non_exhaustive()
    }
}

/// `POST /v1/admin/references/capture`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaptureCall {
    /// Host identifier, hex.
    pub host: String,
    /// Name of the set to capture into.
    pub set: String,
    /// Which PCRs; absent means all that were quoted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pcrs: Option<Vec<u32>>,
    /// `true` adds a generation to the active document, `false` starts a new one.
    pub append: bool,
}

/// Answer to [`CaptureCall`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReferencesCaptured {
    /// CBOR of PROTOCOL §8.2; not active.
    pub document: B64,
    /// Epoch in force when it was captured.
    pub epoch: u64,
}

/// `POST /v1/admin/references`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReferencesCall {
    /// CBOR of PROTOCOL §8.2.
    pub document: B64,
    /// Epoch against which the document was drafted; another one in force refuses.
    pub expected_epoch: u64,
    /// The IMA policy that the document names, unless the authority has it already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ima_policy: Option<B64>,
}

/// `POST /v1/admin/policies/validate`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyValidateCall {
    /// CBOR of PROTOCOL §8.1.
    pub document: B64,
}

/// `POST /v1/admin/policies/check`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyCheckCall {
    /// CBOR of PROTOCOL §8.1.
    pub document: B64,
    /// Only leaves below this index; the newest when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<u64>,
}

/// `POST /v1/admin/references/check`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReferencesCheckCall {
    /// CBOR of PROTOCOL §8.2.
    pub document: B64,
    /// The IMA policy that the document names, unless the authority has it already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ima_policy: Option<B64>,
    /// Only leaves below this index; the newest when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<u64>,
}

/// Answer to a check: the newest evidence of each host, judged again.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyChecked {
    /// Epoch in force.
    pub epoch: u64,
    /// Newest first.
    pub decisions: Vec<CheckedDecision>,
    /// Leaves below this index weren't looked at; absent when all were.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<u64>,
}

/// Evidence under what is active and under what isn't.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckedDecision {
    /// Host identifier, hex.
    pub host: String,
    /// Index of the leaf.
    pub index: u64,
    /// Whether it came without a request, so that no policy was asked.
    #[serde(default)]
    pub attestation: bool,
    /// `allow` or a refusal code, under what is active; absent if the evidence can't be judged again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub now: Option<String>,
    /// The same under what was sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub then: Option<String>,
}

/// `POST /v1/admin/policies`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyCall {
    /// CBOR of PROTOCOL §8.1.
    pub document: B64,
    /// Epoch against which the document was drafted; another one in force refuses.
    pub expected_epoch: u64,
}

/// Answer to a validation.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyValidated {
    /// Digest of the document, hex.
    pub digest: String,
    /// Warnings for people.
    pub warnings: Vec<String>,
    /// Epoch in force when it was validated.
    pub epoch: u64,
}

/// An active document and its epoch.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ActiveDocument {
    /// Digest, hex; absent when none is active.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// The document; absent when none is active.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub document: Option<B64>,
    /// Epoch in force.
    pub epoch: u64,
}

/// What to revoke or reinstate.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", tag = "kind")]
pub enum SubjectDocument {
    /// A host.
    Host {
        /// Host identifier, hex.
        host: String,
    },
    /// An artifact and its descendants.
    Artifact {
        /// Index.
        index: u64,
        /// SHA-256 leaf hash, hex.
        leaf: String,
    },
    /// An operator or a gateway.
    Principal {
        /// Key thumbprint, hex.
        thumbprint: String,
    },
}

/// `POST /v1/admin/revocations`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RevocationCall {
    /// What.
    pub subject: SubjectDocument,
    /// `true` revokes, `false` reinstates.
    pub revoke: bool,
    /// For people, at most 256 bytes.
    pub reason: String,
}

/// `POST /v1/admin/operators`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OperatorCall {
    /// Name, key, possession.
    pub subject: NamedKey,
    /// Role.
    pub role: Role,
    /// With the role of a security officer, and only then: an officer's signature over `tuple("countersign-v1:officer-addition", origin, name,
    /// key thumbprint)`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<ApprovalDocument>,
}

/// `POST /v1/admin/gateways`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GatewayCall {
    /// Name, key, possession.
    pub subject: NamedKey,
}

/// `POST /v1/admin/keys/prepare`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PrepareKeyCall {
    /// Label of the key to make in the token.
    pub label: String,
    /// `head` or `jwt`; a head key when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub purpose: Option<String>,
}

/// Answer to [`PrepareKeyCall`]: a key that is in its token and not in the log. An officer signs `tuple("countersign-v1:key-introduction", origin,
/// purpose, COSE_Key, backend, SHA-256 of the custody record)`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyPrepared {
    /// The key.
    pub key: JsonKey,
    /// Custody backend, such as `pkcs11`.
    pub backend: String,
    /// Custody record, as the device gave it.
    pub custody: B64,
}

/// `POST /v1/admin/keys/withdraw`: ends a JWT key without a successor.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WithdrawKeyCall {
    /// Thumbprint of the key, hex.
    pub thumbprint: String,
}

/// `POST /v1/admin/keys/rotate`: introduces the key that was prepared.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RotateCall {
    /// Thumbprint of the key, hex.
    pub thumbprint: String,
    /// An officer's word for it.
    pub approval: ApprovalDocument,
}

/// `POST /v1/admin/keys/compromise`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CompromiseCall {
    /// Recovery statement of type 2, exact bytes.
    pub statement: B64,
    /// By the recovery key.
    pub signature: B64,
}

/// A head or JWT key in `GET /v1/admin/keys`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyDocument {
    /// Key thumbprint, hex.
    pub thumbprint: String,
    /// The key.
    pub key: JsonKey,
    /// `EdDSA` or `ES256`.
    pub alg: String,
    /// State word of NIST SP 800-57: pre-activation, active, deactivated, compromised; a JWT key may be withdrawn.
    pub state: String,
    /// Control number of the introduction.
    pub introduced: u64,
    /// Control number of the activation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activated: Option<u64>,
    /// Control number of the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<u64>,
}

/// `GET /v1/admin/keys`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Keys {
    /// Head keys in order of introduction.
    pub head: Vec<KeyDocument>,
    /// Keys that sign attestation results, in order of introduction.
    pub jwt: Vec<KeyDocument>,
    /// Number of the newest recovery statement.
    pub statements: u64,
}

/// A host in `GET /v1/admin/hosts`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostDocument {
    /// Host identifier, hex.
    pub host: String,
    /// `active` or `revoked`.
    pub status: String,
    /// Tier's name.
    pub tier: String,
    /// Until when it is trusted, ms.
    pub trusted_until_ms: u64,
    /// Index of the enrolment leaf.
    pub enrolment: u64,
    /// resetCount seen last.
    pub reset_count: u32,
    /// restartCount seen last.
    pub restart_count: u32,
    /// Evidence record of the last good quote, hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<String>,
    /// How the TPM is endorsed: `ek-certificate`, `ek-allowed` or `iak-certificate`.
    pub endorsement: String,
    /// Which machine it is, if it showed an IDevID certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<DeviceDocument>,
    /// Why it stands as it does, in words.
    pub reason: String,
    /// Age of the leaf that told of this state, ms; for one host only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state_age_ms: Option<u64>,
    /// The newest refusal of its evidence since this process was started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_refusal: Option<LastRefusal>,
}

/// Why a host's evidence was refused, as operators see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LastRefusal {
    /// What the host was answered.
    pub code: String,
    /// More than the host was told: of a boot log that doesn't replay PCR, event, expected and found value. May be empty.
    pub detail: String,
    /// When, ms.
    pub time_ms: u64,
}

/// `GET /v1/admin/hosts`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hosts {
    /// One page, ordered by identifier.
    pub hosts: Vec<HostDocument>,
    /// Pass as `after` for the next page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// A principal in `GET /v1/admin/principals`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PrincipalDocument {
    /// Key thumbprint, hex.
    pub thumbprint: String,
    /// Name.
    pub name: String,
    /// `operator` or `gateway`.
    pub kind: String,
    /// Role of an operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// Whether it is revoked.
    pub revoked: bool,
    /// Control number that a gateway acknowledged last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acknowledged: Option<u64>,
}

/// `GET /v1/admin/principals`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Principals {
    /// Ordered by thumbprint.
    pub principals: Vec<PrincipalDocument>,
}

/// A leaf by index and hash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LineageName {
    /// Index.
    pub index: u64,
    /// SHA-256 leaf hash, hex.
    pub leaf: String,
}

/// An artifact and what it belongs to, as its leaf says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LineageEntry {
    /// Index.
    pub index: u64,
    /// SHA-256 leaf hash, hex.
    pub leaf: String,
    /// Time of its batch, ms.
    pub time_ms: u64,
    /// Request identifier.
    pub request_id: String,
    /// Host identifier, hex.
    pub host: String,
    /// Runtime identifier.
    pub runtime: String,
    /// Audience.
    pub audience: String,
    /// Action.
    pub action: String,
    /// SHA-256 of the program, hex.
    pub workload: String,
    /// Not before, seconds.
    pub not_before: u64,
    /// Expires, seconds.
    pub expires: u64,
    /// Parents, in the order of the request.
    pub parents: Vec<LineageName>,
    /// Root of the family; absent if it is this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<LineageName>,
    /// Generations above.
    pub depth: u64,
    /// Whether it may have children.
    pub delegates: bool,
    /// Digest of the policy document, hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// Epoch in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
    /// Name of the reference set that matched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference_set: Option<String>,
    /// Tier's name.
    pub tier: String,
    /// Digest of the evidence record, hex.
    pub evidence: String,
    /// Digest of the inputs record, hex.
    pub inputs: String,
    /// Whether it, its host or an ancestor that it names is revoked now.
    pub revoked: bool,
    /// Outcome leaves about it.
    pub outcomes: Vec<u64>,
}

/// Something that isn't there, or not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LineageGap {
    /// `leaf-missing`, `leaf-mismatch`, `not-an-allow`, `parent-not-earlier`, `not-indexed`, `evidence-pruned`, `inputs-pruned`, `request-pruned`,
    /// `registers-unknown` (a boot of which no evidence is kept: what was asked for may be among its artifacts), `too-many-ancestors`, `more-outcomes`, `more-gaps`.
    pub what: String,
    /// Leaf that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<u64>,
    /// Leaf hash, hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leaf: Option<String>,
    /// Digest of what is missing, hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
}

/// `GET /v1/admin/lineage/..`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LineagePage {
    /// Leaves that the lineage index has read: nothing is known here of later ones.
    pub indexed: u64,
    /// Leaves under the newest signed head.
    pub size: u64,
    /// The artifact that was asked about, with ancestors and descendants.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<LineageEntry>,
    /// Artifacts of this page.
    pub entries: Vec<LineageEntry>,
    /// What was missing on the way.
    pub gaps: Vec<LineageGap>,
    /// Pass as `after` for the next page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// `GET /v1/admin/log/leaves`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Leaves {
    /// Index of the first.
    pub from: u64,
    /// Exact leaf bytes.
    pub leaves: Vec<B64>,
}

/// `GET /v1/admin/log/heads`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Heads {
    /// Signed note texts, or bare bodies of heads that were never signed, by size.
    pub heads: Vec<String>,
}

/// A witness that refuses this log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WitnessAlarm {
    /// Its name in the quorum file.
    pub witness: String,
    /// `forked`: it has cosigned another history; `rolled-back`: it has cosigned more than this log has.
    pub kind: String,
    /// Size of the head that it was asked to cosign.
    pub size: u64,
    /// Size that it has cosigned.
    pub witness_size: u64,
    /// When it was found, ms.
    pub at_ms: u64,
}

/// How one witness stands.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WitnessDocument {
    /// Its name in the quorum file.
    pub name: String,
    /// Its verifier key.
    pub key: String,
    /// Whether it is asked: it has an address and no officer set it aside.
    pub asked: bool,
    /// Size of the newest head that it cosigned since this process started.
    pub cosigned: u64,
    /// Why it didn't cosign when it was asked last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
}

/// `GET /v1/admin/witnesses`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Witnesses {
    /// Size of the newest head that enough witnesses cosigned since this process started.
    pub witnessed: u64,
    /// While there is one, nothing is issued.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alarm: Option<WitnessAlarm>,
    /// In the order of the quorum file.
    pub witnesses: Vec<WitnessDocument>,
}

/// `POST /v1/admin/witnesses`: an officer's decision about a witness.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WitnessCall {
    /// Its name in the quorum file.
    pub witness: String,
    /// `true`: it isn't asked any more, and an alarm that it raised ends. `false`: it is asked again.
    pub set_aside: bool,
    /// Why; kept in the state directory.
    pub reason: String,
}
