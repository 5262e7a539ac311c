//! The request: what a runtime asks for (PROTOCOL §3).
//!
//! Comes in: exact JSON bytes, a detached signature, and consents of parents' holders. Goes out: a [`SignedRequest`] whose holder key has been proven
//! over those very bytes; what a consent is worth is seen where the parents are known (PROTOCOL §7.3).
//! Refused: more than 8,192 bytes, unknown, repeated or missing members, names out of form, unsorted lists, a signature that doesn't verify,
//! more consents than parents.

use crate::digest::{Sha256Digest, sha256};
use crate::key::{JsonKey, VerifyingKey};
use crate::leaf::decision::{Delegation, LeafRef};

pub use crate::leaf::decision::MAX_PARENTS;
use crate::merkle;
use crate::name::{Action, Audience, HostId, NameInvalid, RequestId, RuntimeId};
use crate::tuple;
use serde::{Deserialize, Serialize};

/// Largest program that is named by its digest: what an agent hashes, a gateway holds in memory while it runs.
pub const MAX_PROGRAM_LEN: u64 = 1024 * 1024 * 1024;
/// Largest request: names, a key, eight parents and two lists of sixteen fit several times over.
pub const MAX_REQUEST_LEN: usize = 8_192;
/// Most requests of one call: one quote covers them all.
pub const MAX_REQUESTS: usize = 256;
/// Longest lifetime that can be asked for, seconds.
pub const MAX_TTL_SECS: u64 = 86_400;

/// Why a request was refused.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// Too long.
    #[error("request of {0} bytes is longer than {MAX_REQUEST_LEN}")]
    TooLong(usize),
    /// Not the JSON of PROTOCOL §3.1.
    #[error("request: {0}")]
    Json(#[from] serde_json::Error),
    /// A name out of form.
    #[error(transparent)]
    Name(#[from] NameInvalid),
    /// A member out of its domain.
    #[error("request member {0} is out of its domain")]
    Member(&'static str),
    /// The holder key isn't a key, or its signature doesn't verify.
    #[error("the holder signature doesn't verify")]
    Signature,
}

/// The JSON form, for those who make requests.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RequestDocument {
    /// Version, 1.
    pub v: u64,
    /// Request identifier.
    pub id: String,
    /// Host identifier, hex.
    pub host: String,
    /// Runtime identifier.
    pub runtime: String,
    /// Holder key.
    pub holder: JsonKey,
    /// SHA-256 of the program, hex.
    pub workload: String,
    /// What is to be done.
    pub action: String,
    /// Digest of the arguments, hex.
    pub args: String,
    /// Audience.
    pub aud: String,
    /// Wished lifetime.
    pub ttl_secs: u64,
    /// Parents.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parents: Vec<ParentDocument>,
    /// What children may do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delegation: Option<DelegationDocument>,
}

/// A parent in JSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ParentDocument {
    /// Index in the log.
    pub index: u64,
    /// SHA-256 leaf hash, hex.
    pub leaf: String,
}

/// A delegation in JSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DelegationDocument {
    /// Sorted, distinct.
    pub actions: Vec<String>,
    /// Sorted, distinct.
    pub audiences: Vec<String>,
    /// 1 to 16.
    pub depth: u64,
    /// 1 to 65,535.
    pub budget: u64,
}

/// A request of the right form. Its holder key is not proven yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Identifier.
    pub id: RequestId,
    /// The host that it names.
    pub host: HostId,
    /// The runtime that it names.
    pub runtime: RuntimeId,
    /// Holder key.
    pub holder: VerifyingKey,
    /// SHA-256 of the program.
    pub workload: Sha256Digest,
    /// What is to be done.
    pub action: Action,
    /// Digest of the arguments.
    pub arguments: Sha256Digest,
    /// For whom.
    pub audience: Audience,
    /// Wished lifetime, seconds.
    pub ttl_secs: u64,
    /// Parents.
    pub parents: Vec<LeafRef>,
    /// What children may do.
    pub delegation: Option<Delegation>,
}

impl Request {
    /// Parses exact request bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self, RequestError> {
        if bytes.len() > MAX_REQUEST_LEN {
            return Err(RequestError::TooLong(bytes.len()));
        }
        let document: RequestDocument = serde_json::from_slice(bytes)?;
        if document.v != 1 {
            return Err(RequestError::Member("v"));
        }
        if !(1..=MAX_TTL_SECS).contains(&document.ttl_secs) {
            return Err(RequestError::Member("ttl_secs"));
        }
        if document.parents.len() > MAX_PARENTS {
            return Err(RequestError::Member("parents"));
        }
        let parents = document
            .parents
            .iter()
            .map(|parent| Ok((parent.index, digest(&parent.leaf, "parents")?)))
            .collect::<Result<Vec<_>, RequestError>>()?;
        if parents
            .iter()
            .enumerate()
            .any(|(at, parent)| parents.iter().skip(at + 1).any(|other| other.0 == parent.0))
        {
            return Err(RequestError::Member("parents"));
        }
        Ok(Self {
            id: RequestId::parse(&document.id)?,
            host: HostId::from_hex(&document.host)?,
            runtime: RuntimeId::parse(&document.runtime)?,
            holder: VerifyingKey::try_from(document.holder.clone())
                .map_err(|_| RequestError::Member("holder"))?,
            workload: digest(&document.workload, "workload")?,
            action: Action::parse(&document.action)?,
            arguments: digest(&document.args, "args")?,
            audience: Audience::parse(&document.aud)?,
            ttl_secs: document.ttl_secs,
            parents,
            delegation: document.delegation.as_ref().map(delegation).transpose()?,
        })
    }
}

fn digest(hex: &str, member: &'static str) -> Result<Sha256Digest, RequestError> {
    Sha256Digest::from_hex(hex).map_err(|_| RequestError::Member(member))
}

fn delegation(document: &DelegationDocument) -> Result<Delegation, RequestError> {
    let bad = || RequestError::Member("delegation");
    let listed = |list: &[String]| (1..=16).contains(&list.len()) && list.is_sorted_by(|a, b| a < b);
    if !listed(&document.actions) || !listed(&document.audiences) {
        return Err(bad());
    }
    if !(1..=16).contains(&document.depth) || !(1..=65_535).contains(&document.budget) {
        return Err(bad());
    }
    Ok(Delegation {
        actions: document.actions.iter().map(|a| Action::parse(a)).collect::<Result<_, _>>()?,
        audiences: document.audiences.iter().map(|a| Audience::parse(a)).collect::<Result<_, _>>()?,
        depth: document.depth,
        budget: document.budget,
    })
}

/// What the holder key signs (PROTOCOL §3.2).
#[must_use]
pub fn holder_preimage(request: &[u8]) -> Vec<u8> {
    tuple::preimage("countersign-v1:request", &[request])
}

/// What a parent's holder key signs to agree to a child request (PROTOCOL §3.5).
#[must_use]
pub fn delegation_preimage(request: &[u8]) -> Vec<u8> {
    tuple::preimage("countersign-v1:delegation", &[request])
}

/// Longest consent: a signature of either algorithm.
pub const MAX_CONSENT_LEN: usize = 64;

/// Digest of the exact arguments of an `exec`, `argv[0]` included (PROTOCOL §3.4).
#[must_use]
pub fn argv_digest<A: AsRef<[u8]>>(argv: &[A]) -> Sha256Digest {
    let fields: Vec<&[u8]> = argv.iter().map(AsRef::as_ref).collect();
    tuple::tuple_digest("countersign-v1:argv", &fields)
}

/// A request with the proof that its holder key signed these very bytes.
#[derive(Clone, Debug)]
pub struct SignedRequest {
    request: Request,
    bytes: Vec<u8>,
    signature: Vec<u8>,
    consents: Vec<Vec<u8>>,
    digest: Sha256Digest,
}

impl SignedRequest {
    /// Parses and verifies; the only way to make one. `consents` are those of the parents' holders, in the order of the parents; one that is
    /// missing or wrong is found when the parents are known.
    pub fn verify(bytes: Vec<u8>, signature: Vec<u8>, consents: Vec<Vec<u8>>) -> Result<Self, RequestError> {
        let request = Request::parse(&bytes)?;
        if consents.len() > request.parents.len()
            || consents.iter().any(|consent| consent.len() > MAX_CONSENT_LEN)
        {
            return Err(RequestError::Member("consents"));
        }
        request.holder.verify(&holder_preimage(&bytes), &signature).map_err(|_| RequestError::Signature)?;
        let digest = sha256(&bytes);
        Ok(Self { request, bytes, signature, consents, digest })
    }

    /// The parsed request.
    #[must_use]
    pub const fn request(&self) -> &Request {
        &self.request
    }

    /// The exact bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The holder signature.
    #[must_use]
    pub fn signature(&self) -> &[u8] {
        &self.signature
    }

    /// Consents of the parents' holders, in the order of the parents; there may be fewer.
    #[must_use]
    pub fn consents(&self) -> &[Vec<u8>] {
        &self.consents
    }

    /// SHA-256 of the exact bytes.
    #[must_use]
    pub const fn digest(&self) -> &Sha256Digest {
        &self.digest
    }
}

/// Request root of a call (PROTOCOL §3.3).
#[must_use]
pub fn request_root(digests: &[Sha256Digest]) -> Sha256Digest {
    merkle::root_of_digests(digests)
}

/// What a quote must carry as qualifying data (PROTOCOL §4.3).
#[must_use]
pub fn qualifying_data(origin: &str, challenge: &[u8], root: &Sha256Digest) -> Sha256Digest {
    tuple::tuple_digest("countersign-v1:qualifying-data", &[origin.as_bytes(), challenge, root.as_bytes()])
}

/// What the certification of a host key must carry as qualifying data (PROTOCOL §12).
#[must_use]
pub fn activation_data(origin: &str, enrolment: &[u8; 16], secret: &[u8; 32]) -> Sha256Digest {
    tuple::tuple_digest("countersign-v1:activation", &[origin.as_bytes(), enrolment, secret])
}

/// What the certification of an IDevID key must carry as qualifying data (PROTOCOL §12).
#[must_use]
pub fn device_certification_data(origin: &str, enrolment: &[u8; 16], secret: &[u8; 32]) -> Sha256Digest {
    tuple::tuple_digest("countersign-v1:device-certification", &[origin.as_bytes(), enrolment, secret])
}

/// What an IDevID key signs itself, to show that it can be used (PROTOCOL §12).
#[must_use]
pub fn device_possession(origin: &str, enrolment: &[u8; 16], secret: &[u8; 32]) -> Vec<u8> {
    tuple::preimage("countersign-v1:device-possession", &[origin.as_bytes(), enrolment, secret])
}
