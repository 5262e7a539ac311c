//! Bodies of the HTTPS API (PROTOCOL §11): plain shapes, shared by the authority and its clients.
//!
//! Nothing here is verified: these are the outside forms, and each is turned into a typed value by the code that acts on it. Unknown members
//! are refused. Byte strings are [`B64`], digests lower-case hexadecimal text.

pub mod admin;

use crate::key::JsonKey;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;

/// Exact bytes that travel as base64url without padding.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct B64(pub Vec<u8>);

impl Serialize for B64 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&data_encoding::BASE64URL_NOPAD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for B64 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        data_encoding::BASE64URL_NOPAD
            .decode(text.as_bytes())
            .map(Self)
            .map_err(|_| serde::de::Error::custom("not base64url without padding"))
    }
}

/// `application/problem+json` (RFC 9457).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Problem {
    /// Always `about:blank`: the code says what the problem is.
    #[serde(rename = "type")]
    pub kind: String,
    /// What the code means.
    pub title: String,
    /// HTTP status.
    pub status: u16,
    /// Stable code.
    pub code: String,
    /// More for people; holds nothing secret and nothing of another caller.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
    /// With `evidence-needed`: the digests to send inline.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub needed: Vec<String>,
}

/// `POST /v1/enrolments`.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnrolmentBegin {
    /// Single-use join token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// EK certificate, DER.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ek_certificate: Option<B64>,
    /// Intermediates, DER.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ek_intermediates: Vec<B64>,
    /// TPMT_PUBLIC of the EK; absent if a certificate endorses the AK.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ek_public: Option<B64>,
    /// Certificate of the AK by an issuer that saw it in a TPM (IAK), DER. It takes the place of the EK and its certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ak_certificate: Option<B64>,
    /// Intermediates of that certificate, DER.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ak_intermediates: Vec<B64>,
    /// TPMT_PUBLIC of the AK.
    pub ak_public: B64,
    /// TPMT_PUBLIC of the host key.
    pub host_key_public: B64,
    /// The machine's own identity besides, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idevid: Option<IdevidBegin>,
}

/// A machine's IDevID key and its certificate, in [`EnrolmentBegin`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdevidBegin {
    /// Certificate, DER.
    pub certificate: B64,
    /// Intermediates, DER.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub intermediates: Vec<B64>,
    /// TPMT_PUBLIC of the key.
    pub public: B64,
}

impl fmt::Debug for EnrolmentBegin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A join token admits whoever knows it.
        f.debug_struct("EnrolmentBegin").field("ek_public", &self.ek_public).finish_non_exhaustive()
    }
}

/// Answer to [`EnrolmentBegin`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnrolmentOffer {
    /// Identifier of the pending enrolment: 32 hex digits, 16 bytes.
    pub enrolment: String,
    /// TPM2B_ID_OBJECT contents; empty if a certificate endorses the AK.
    pub id_object: B64,
    /// TPM2B_ENCRYPTED_SECRET contents; empty if a certificate endorses the AK.
    pub encrypted_secret: B64,
    /// The secret itself, if a certificate endorses the AK: it only has to be fresh then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<B64>,
    /// Until when, ms.
    pub expires_ms: u64,
}

/// `POST /v1/enrolments/{id}`.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnrolmentFinish {
    /// What TPM2_ActivateCredential returned, or the offer's own secret.
    pub secret: B64,
    /// TPMS_ATTEST of TPM2_Certify over the host key.
    pub attest: B64,
    /// TPMT_SIGNATURE by the AK.
    pub signature: B64,
    /// The same for the IDevID key, if one was named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idevid: Option<IdevidFinish>,
}

/// That the IDevID key is in the AK's TPM and can be used, in [`EnrolmentFinish`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdevidFinish {
    /// TPMS_ATTEST of TPM2_Certify over the IDevID key.
    pub attest: B64,
    /// TPMT_SIGNATURE by the AK.
    pub signature: B64,
    /// TPMT_SIGNATURE by the IDevID key over the possession tuple.
    pub possession: B64,
}

/// A machine as its maker named it, in a host's document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceDocument {
    /// SHA-256 of the IDevID certificate, hex.
    pub certificate: String,
    /// serialNumber of its subject.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// hwType of its hardwareModuleName, dotted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hardware_type: Option<String>,
    /// hwSerialNum of its hardwareModuleName, hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hardware_serial: Option<String>,
}

impl fmt::Debug for EnrolmentFinish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EnrolmentFinish").field("attest", &self.attest).finish_non_exhaustive()
    }
}

/// Answer to [`EnrolmentFinish`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Enrolled {
    /// Host identifier, hex.
    pub host: String,
    /// DER, the host's first, then the CA's.
    pub certificates: Vec<B64>,
    /// Receipt of the enrolment leaf.
    pub receipt: String,
}

/// Answer to `POST /v1/challenges`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChallengeOffer {
    /// The challenge.
    pub challenge: B64,
    /// Until when, ms.
    pub expires_ms: u64,
    /// TPM_ALG_ID of the bank to quote.
    pub bank: u16,
    /// PCRs to quote.
    pub pcrs: Vec<u32>,
    /// Present if entries of the IMA list are wanted: how many entries of the host's list are known. They need not be sent again in the boot
    /// that they are of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ima_entries: Option<u64>,
}

/// One PCR value.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PcrValue {
    /// PCR index.
    pub index: u32,
    /// Value, hex.
    pub value: String,
}

/// Evidence of a host (PROTOCOL §9.1).
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvidenceDocument {
    /// TPMS_ATTEST.
    pub attest: B64,
    /// TPMT_SIGNATURE.
    pub signature: B64,
    /// TPM_ALG_ID of the bank.
    pub bank: u16,
    /// PCR values in selection order.
    pub pcrs: Vec<PcrValue>,
    /// SHA-256 of the boot log, hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_log: Option<String>,
    /// New entries of the IMA list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ima: Option<ImaEntriesDocument>,
    /// Members sent inline.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub members: Vec<B64>,
}

/// Entries of the IMA list, named by digest.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImaEntriesDocument {
    /// How many entries of this boot come before them; 0 for the whole list.
    pub from: u64,
    /// TPM_ALG_ID of the hash in their template-hash column: 4 for `binary_runtime_measurements`.
    pub column: u16,
    /// SHA-256 of the entries in binary form, hex.
    pub list: String,
}

/// A request and its holder signature.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignedRequestDocument {
    /// Exact request bytes.
    pub request: B64,
    /// Holder signature.
    pub signature: B64,
    /// With parents: a signature by each parent's holder key over this very request, in the order of the parents (PROTOCOL §3.5).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub consents: Vec<B64>,
}

/// `POST /v1/artifacts`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArtifactsCall {
    /// The challenge that the quote answers.
    pub challenge: B64,
    /// 1 to 256 requests.
    pub requests: Vec<SignedRequestDocument>,
    /// Evidence.
    pub evidence: EvidenceDocument,
}

/// `POST /v1/attestations`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttestationCall {
    /// The challenge that the quote answers.
    pub challenge: B64,
    /// Evidence.
    pub evidence: EvidenceDocument,
}

/// One decision of a call, in request order.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DecisionDocument {
    /// `allow` or `deny`.
    pub verdict: String,
    /// Refusal code of a deny.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// More for people, of a deny.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Receipt of the leaf: the artifact, or the signed denial.
    pub receipt: String,
}

/// Answer to [`ArtifactsCall`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArtifactsAnswer {
    /// In request order.
    pub decisions: Vec<DecisionDocument>,
}

/// Answer to [`AttestationCall`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttestationAnswer {
    /// Tier's name.
    pub tier: String,
    /// Why the evidence was refused, if it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// More for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Until when the host is trusted, ms.
    pub trusted_until_ms: u64,
    /// Receipt of the host-state leaf.
    pub receipt: String,
}

/// `POST /v1/attestation-results` about the calling host, and the same of an operator about any.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttestationResultCall {
    /// 8 to 64 bytes that stand in the answer as `eat_nonce`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nonce: Option<B64>,
}

/// A host's newest attestation result as an EAR (PROTOCOL section 17).
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttestationResultAnswer {
    /// A compact JWS of type `eat+jwt`.
    pub jwt: String,
    /// Index of the leaf that it renders.
    pub index: u64,
    /// When it expires, ms: with the trust in the host.
    pub expires_ms: u64,
}

/// A public key as RFC 7517 writes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Jwk {
    /// `OKP` or `EC`.
    pub kty: String,
    /// `Ed25519` or `P-256`.
    pub crv: String,
    /// The key, or its first coordinate, base64url.
    pub x: String,
    /// The second coordinate of a P-256 key, base64url.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub y: Option<String>,
    /// `EdDSA` or `ES256`.
    pub alg: String,
    /// Always `sig`.
    #[serde(rename = "use")]
    pub usage: String,
    /// The key's thumbprint, hex.
    pub kid: String,
}

/// Answer to `GET /.well-known/jwks.json` (RFC 7517 §5).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JwkSet {
    /// The keys.
    pub keys: Vec<Jwk>,
}

/// Answer to `GET /v1/feed`: what a gateway needs to move from (size, control) to now.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Feed {
    /// Newest signed head, signed note text.
    pub head: String,
    /// SHA-256 consistency proof from the size asked, hex; empty for size 0.
    pub consistency: Vec<String>,
    /// Control leaves after the number asked, exact bytes, in order.
    pub control: Vec<B64>,
    /// For every activation of a head key among these control leaves, the first signed head that covers it, with the old and the new key's
    /// signature; in order. A gateway that was away needs them to follow from the keys that it knows to those of the newest head (PROTOCOL §13.1).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rotations: Vec<String>,
    /// Whether more control leaves follow: ask again.
    pub more: bool,
}

/// Answer to `GET /v1/log/consistency`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConsistencyProof {
    /// SHA-256 hashes, hex.
    pub proof: Vec<String>,
}

/// `POST /v1/acknowledgements`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Acknowledgement {
    /// Control number that the gateway enforces.
    pub control: u64,
    /// Size of the newest head that it holds.
    pub size: u64,
}

/// One outcome of `POST /v1/outcomes`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutcomeDocument {
    /// Index of the artifact.
    pub index: u64,
    /// SHA-256 leaf hash of the artifact, hex.
    pub leaf: String,
    /// Why it was refused; absent when the action was started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
    /// The gateway's clock, ms.
    pub time_ms: u64,
}

/// `POST /v1/outcomes`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutcomesCall {
    /// 1 to 256 outcomes.
    pub outcomes: Vec<OutcomeDocument>,
}

/// Answer to `/readyz`, also when not ready.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Readiness {
    /// Whether requests would be served.
    pub ready: bool,
    /// Whether the newest signed head is younger than the bound.
    pub head_young: bool,
    /// Age of the newest signed head, ms.
    pub head_age_ms: u64,
    /// Whether a policy is active.
    pub policy_active: bool,
    /// Whether the head signer's circuit is closed, as far as the last try shows.
    pub signer_available: bool,
    /// Whether no witness refuses this log as forked or rolled back.
    pub witnesses_agree: bool,
    /// Whether the rollback counter was raised within three hours; true where none is configured.
    pub counter_current: bool,
    /// Size of the newest signed head.
    pub size: u64,
}

/// A receipt for one appended leaf, as answered by administrative acts.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recorded {
    /// Index of the leaf.
    pub index: u64,
    /// Its receipt.
    pub receipt: String,
}

/// A certificate for a key that the caller holds.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CertificateIssued {
    /// DER, the subject's first, then the CA's.
    pub certificates: Vec<B64>,
    /// Thumbprint of the key, hex.
    pub thumbprint: String,
    /// Receipt of the principal leaf.
    pub receipt: String,
}

/// An officer's signature over one exact act (PROTOCOL §8.5, §8.9).
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApprovalDocument {
    /// The officer's key.
    pub key: JsonKey,
    /// By that key.
    pub signature: B64,
}

/// A public key with a name, for certificates.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NamedKey {
    /// Name for people; in holder proofs for gateways.
    pub name: String,
    /// The key.
    pub key: JsonKey,
    /// Proof of possession: signature over `tuple("countersign-v1:principal-possession", origin, name, COSE_Key)`.
    pub possession: B64,
}

#[cfg(test)]
mod tests {
    use super::admin::JoinTokenMade;
    use super::*;

    #[test]
    fn secrets_are_not_printed() {
        let secret = b"a secret of some length";
        let token = data_encoding::BASE64URL_NOPAD.encode(secret);
        let empty = || B64(Vec::new());
        let begin = EnrolmentBegin {
            token: Some(token.clone()),
            ek_certificate: None,
            ek_intermediates: Vec::new(),
            ek_public: Some(empty()),
            ak_certificate: None,
            ak_intermediates: Vec::new(),
            ak_public: empty(),
            host_key_public: empty(),
            idevid: None,
        };
        let finish = EnrolmentFinish {
            secret: B64(secret.to_vec()),
            attest: empty(),
            signature: empty(),
            idevid: None,
        };
        let made = JoinTokenMade { token: token.clone(), expires_ms: 1, receipt: String::new() };
        let bytes = format!("{:?}", secret);
        let bytes = bytes.trim_matches(['[', ']']);
        for printed in [format!("{begin:?}"), format!("{finish:?}"), format!("{made:?}")] {
            assert!(!printed.contains(&token) && !printed.contains(bytes), "{printed}");
        }
    }
}
