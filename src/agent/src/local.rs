//! The local API: what a runtime and the agent say to each other over the Unix socket, in HTTP/1.1 and JSON.
//!
//! | Method and path | Body | Answer |
//! |---|---|---|
//! | `POST /v1/requests` | [`PrepareCall`] | [`Prepared`]: exact request bytes, and what the holder key has to sign |
//! | `POST /v1/artifacts` | request bytes, holder signature, a consent for each parent | the decision with its receipt |
//! | `GET /v1/status` | | [`StatusDocument`] |
//!
//! Two steps, because the holder key belongs to the runtime and never comes here. The steps share no state: whoever holds request bytes may submit
//! them again, byte for byte, and gets the same decision.

use countersign_core::api::B64;
use countersign_core::key::JsonKey;
use countersign_core::request::{DelegationDocument, ParentDocument};
use serde::{Deserialize, Serialize};

pub use countersign_core::api::{DecisionDocument, SignedRequestDocument};

/// Which program is to run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Workload {
    /// An absolute path as the caller sees it; the agent measures what is there.
    Path(String),
    /// SHA-256 of the program's bytes, hex, on the caller's word.
    Sha256(String),
}

/// Which arguments.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Arguments {
    /// The argument vector with `argv[0]` (PROTOCOL §3.4).
    Argv(Vec<String>),
    /// The digest of the exact arguments, hex.
    Sha256(String),
}

/// What a runtime wants a request for. Host and runtime aren't among it: the agent knows them.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PrepareCall {
    /// Request identifier; absent means a random one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The runtime's own key, to be proven at the gateway.
    pub holder: JsonKey,
    /// Which program.
    pub workload: Workload,
    /// What is to be done.
    pub action: String,
    /// Which arguments.
    pub args: Arguments,
    /// For which gateway or domain.
    pub aud: String,
    /// Wished lifetime; the agent's rule may shorten it.
    pub ttl_secs: u64,
    /// Parents.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parents: Vec<ParentDocument>,
    /// What children may do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delegation: Option<DelegationDocument>,
}

/// Answer to [`PrepareCall`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prepared {
    /// Exact request bytes.
    pub request: B64,
    /// Their SHA-256, hex.
    pub digest: String,
    /// What the holder key has to sign (PROTOCOL §3.2).
    pub to_sign: B64,
}

/// Answer to `GET /v1/status`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StatusDocument {
    /// Host identifier, hex.
    pub host: String,
    /// Name of the authority's log.
    pub origin: String,
    /// When the host's certificate ends, ms.
    pub certificate_expires_ms: u64,
    /// Why the certificate isn't renewed any more; absent while renewal goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renewal: Option<String>,
    /// When the authority last judged this host's evidence, ms; absent before the first time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attested_ms: Option<u64>,
    /// Its refusal code, if it refused that evidence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attestation_code: Option<String>,
    /// Why the newest try to attest came to nothing; absent when it didn't fail.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attestation_fault: Option<String>,
    /// AR4SI tier after that attestation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tier: Option<u64>,
    /// Until when the host is trusted, ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trusted_until_ms: Option<u64>,
}
