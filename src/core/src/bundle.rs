//! The trust bundle (PROTOCOL §10): the one thing that a relying party pins. It holds statements of the recovery key: the initial one, and later ones
//! that the party knows of, whether or not anybody shows it a log that has them.

use crate::digest::Sha256Digest;
use crate::key::{JsonKey, VerifyingKey};
use crate::leaf::LeafError;
use crate::name::{Origin, TrustDomain};
use serde::{Deserialize, Serialize};

pub use crate::statement::{Compromise, Initial, MAX_LEASE_SECS, Says, Statement, statement_preimage};

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

/// A bundle whose statements all verified under its recovery key.
#[derive(Clone, Debug)]
pub struct TrustBundle {
    origin: Origin,
    trust_domain: TrustDomain,
    recovery_key: VerifyingKey,
    initial: Initial,
    statements: Vec<(Vec<u8>, Statement)>,
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
        let mut statements = Vec::new();
        for (number, signed) in (1_u64..).zip(&document.statements) {
            let statement = decode(&signed.statement)?;
            let signature = decode(&signed.signature)?;
            recovery_key
                .verify(&statement_preimage(&statement), &signature)
                .map_err(|_| BundleError::Signature(number))?;
            let parsed =
                Statement::parse(&statement).map_err(|source| BundleError::Statement { number, source })?;
            let first = matches!(parsed.says, Says::Initial(_));
            if parsed.number != number || first != (number == 1) || parsed.origin != origin {
                return Err(BundleError::Sequence(number));
            }
            statements.push((statement, parsed));
        }
        let Some(Says::Initial(initial)) = statements.first().map(|(_, first)| first.says.clone()) else {
            return Err(BundleError::Member("statements"));
        };
        Ok(Self { origin, trust_domain, recovery_key, initial, statements })
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

    /// Key thumbprints of the security officers with which the log began.
    #[must_use]
    pub fn officers(&self) -> &[Sha256Digest] {
        &self.initial.officers
    }

    /// The longest lease that a gateway may have, seconds.
    #[must_use]
    pub const fn lease_secs(&self) -> u64 {
        self.initial.lease_secs
    }

    /// Every statement, exact bytes and meaning, in order.
    #[must_use]
    pub fn statements(&self) -> &[(Vec<u8>, Statement)] {
        &self.statements
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
