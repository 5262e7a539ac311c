//! The trust bundle and the statements of the recovery key (PROTOCOL §10): the one thing that a relying party pins.

use crate::cbor::{Decoder, encode_map};
use crate::key::{JsonKey, VerifyingKey};
use crate::leaf::LeafError;
use crate::leaf::field::read_key;
use crate::name::{Origin, TrustDomain};
use crate::tuple;
use serde::{Deserialize, Serialize};

/// Largest bundle that is read.
pub const MAX_BUNDLE_LEN: usize = 256 * 1024;

/// Why a bundle isn't trusted.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// Longer than [`MAX_BUNDLE_LEN`].
    #[error("trust bundle is longer than {MAX_BUNDLE_LEN} bytes")]
    TooLong,
    /// Not the JSON of PROTOCOL §10.
    #[error("trust bundle: {0}")]
    Json(#[from] serde_json::Error),
    /// A member out of its domain.
    #[error("trust bundle member {0} is out of its domain")]
    Member(&'static str),
    /// A statement that doesn't parse.
    #[error("statement {number}: {source}")]
    Statement {
        /// Position in the bundle, from 1.
        number: u64,
        /// What was wrong.
        source: LeafError,
    },
    /// A statement that the recovery key didn't sign.
    #[error("statement {0} isn't signed by the recovery key")]
    Signature(u64),
    /// A gap, a repetition or a statement of another log.
    #[error("statement {0} is out of sequence or of another log")]
    Sequence(u64),
}

/// The JSON form.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BundleDocument {
    /// Version, 1.
    pub v: u64,
    /// Name of the log.
    pub origin: String,
    /// SPIFFE trust domain of runtimes.
    pub trust_domain: String,
    /// The root of trust.
    pub recovery_key: JsonKey,
    /// Its statements, in order.
    pub statements: Vec<StatementDocument>,
}

/// A signed statement in JSON, both members base64url.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StatementDocument {
    /// Exact statement bytes.
    pub statement: String,
    /// By the recovery key.
    pub signature: String,
}

/// A statement of the recovery key. Version 1 of the protocol has the initial one only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// From 1, without gaps.
    pub number: u64,
    /// Name of the log.
    pub origin: Origin,
    /// When it was made, ms.
    pub time_ms: u64,
    /// First head keys.
    pub head_keys: Vec<VerifyingKey>,
    /// CA certificates, DER.
    pub ca_certificates: Vec<Vec<u8>>,
}

const INITIAL: u64 = 1;

/// What the recovery key signs.
#[must_use]
pub fn statement_preimage(statement: &[u8]) -> Vec<u8> {
    tuple::preimage("countersign-v1:recovery-statement", &[statement])
}

impl Statement {
    /// The statement's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode_map(|map| {
            map.entry(1).uint(self.number);
            map.entry(2).text(self.origin.as_str());
            map.entry(3).uint(INITIAL);
            map.entry(4).uint(self.time_ms);
            map.entry(5)
                .array(|keys| self.head_keys.iter().for_each(|key| keys.item().bytes(&key.cose_key())));
            map.entry(6).array(|list| self.ca_certificates.iter().for_each(|der| list.item().bytes(der)));
        })
    }

    /// Parses exact statement bytes; the signature is the bundle's affair.
    pub fn parse(bytes: &[u8]) -> Result<Self, LeafError> {
        let mut decoder = Decoder::new(bytes)?;
        let d = &mut decoder;
        d.map_of(6)?;
        d.expect_key(1)?;
        let number = d.uint()?;
        d.expect_key(2)?;
        let origin = Origin::parse(d.text()?).map_err(|_| LeafError::Value("origin"))?;
        d.expect_key(3)?;
        if d.uint()? != INITIAL {
            return Err(LeafError::Value("statement type"));
        }
        d.expect_key(4)?;
        let time_ms = d.uint()?;
        d.expect_key(5)?;
        let count = d.array()?;
        let head_keys = (0..count).map(|_| read_key(d)).collect::<Result<Vec<_>, _>>()?;
        d.expect_key(6)?;
        let count = d.array()?;
        let ca_certificates =
            (0..count).map(|_| Ok(d.bytes()?.to_vec())).collect::<Result<Vec<_>, LeafError>>()?;
        if head_keys.is_empty() || ca_certificates.is_empty() {
            return Err(LeafError::Value("statement without keys"));
        }
        decoder.finish()?;
        Ok(Self { number, origin, time_ms, head_keys, ca_certificates })
    }
}

/// A bundle whose statements all verified under its recovery key.
#[derive(Clone, Debug)]
pub struct TrustBundle {
    origin: Origin,
    trust_domain: TrustDomain,
    recovery_key: VerifyingKey,
    initial: Statement,
}

impl TrustBundle {
    /// Parses and verifies; the only way to make one. That the file itself is the right one is the pinning party's affair.
    pub fn verify(bytes: &[u8]) -> Result<Self, BundleError> {
        if bytes.len() > MAX_BUNDLE_LEN {
            return Err(BundleError::TooLong);
        }
        let document: BundleDocument = serde_json::from_slice(bytes)?;
        if document.v != 1 {
            return Err(BundleError::Member("v"));
        }
        let origin = Origin::parse(&document.origin).map_err(|_| BundleError::Member("origin"))?;
        let trust_domain =
            TrustDomain::parse(&document.trust_domain).map_err(|_| BundleError::Member("trust_domain"))?;
        let recovery_key = VerifyingKey::try_from(document.recovery_key.clone())
            .map_err(|_| BundleError::Member("recovery_key"))?;
        let mut initial = None;
        for (number, signed) in (1_u64..).zip(&document.statements) {
            let statement = decode(&signed.statement)?;
            let signature = decode(&signed.signature)?;
            recovery_key
                .verify(&statement_preimage(&statement), &signature)
                .map_err(|_| BundleError::Signature(number))?;
            let parsed =
                Statement::parse(&statement).map_err(|source| BundleError::Statement { number, source })?;
            // Version 1 has exactly one statement, the initial one.
            if parsed.number != number || number != 1 || parsed.origin != origin {
                return Err(BundleError::Sequence(number));
            }
            initial = Some(parsed);
        }
        let initial = initial.ok_or(BundleError::Member("statements"))?;
        Ok(Self { origin, trust_domain, recovery_key, initial })
    }

    /// Name of the log.
    #[must_use]
    pub const fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Trust domain of runtimes.
    #[must_use]
    pub const fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The root of trust.
    #[must_use]
    pub const fn recovery_key(&self) -> &VerifyingKey {
        &self.recovery_key
    }

    /// The head keys with which the log began.
    #[must_use]
    pub fn head_keys(&self) -> &[VerifyingKey] {
        &self.initial.head_keys
    }

    /// CA certificates for TLS, DER.
    #[must_use]
    pub fn ca_certificates(&self) -> &[Vec<u8>] {
        &self.initial.ca_certificates
    }
}

fn decode(text: &str) -> Result<Vec<u8>, BundleError> {
    data_encoding::BASE64URL_NOPAD.decode(text.as_bytes()).map_err(|_| BundleError::Member("statements"))
}
