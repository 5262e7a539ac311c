//! Endorsement key certificates.
//!
//! Comes in: a certificate as read from a TPM's NV memory, issuer certificates, trusted roots, the time. Goes out:
//! [`VerifiedEk`], an endorsement key that a trusted manufacturer vouches for. Refused: certificates that do not
//! chain to a root within the bounds, are out of date, are signed with SHA-1, are no EK certificates, or carry
//! critical extensions that nobody here understands.
//!
//! This is not a general X.509 validator: no revocation, no name constraints (a critical one is refused), no policies.

mod certificate;
mod path;

use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::key::{KeyError, PublicKey};
use crate::public::Public;

/// Longest certificate taken. NV space for one is 2 KiB in the PC Client profile; CA certificates reach 3 KiB.
pub const MAX_CERTIFICATE_BYTES: usize = 8 * 1024;
/// Most certificates above the EK's. Manufacturers use two to four.
pub const MAX_DEPTH: usize = 4;
/// Most issuer certificates that a host may send along.
pub const MAX_INTERMEDIATES: usize = 16;
/// Most signatures checked before giving up. Names that loop or repeat cannot cost more than this.
pub const MAX_SIGNATURE_CHECKS: usize = 32;

/// Why an endorsement key certificate is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EkRefusal {
    /// A certificate is above [`MAX_CERTIFICATE_BYTES`].
    #[error("certificate of {0} bytes is too long")]
    TooLong(usize),
    /// A certificate is not DER of RFC 5280.
    #[error("certificate is malformed")]
    Malformed,
    /// Bytes after the certificate that are not padding.
    #[error("{0} bytes after the certificate are not padding")]
    TrailingBytes(usize),
    /// More intermediates than [`MAX_INTERMEDIATES`].
    #[error("{0} intermediate certificates")]
    TooManyIntermediates(usize),
    /// No certificate at hand names the issuer as its subject.
    #[error("issuer is not known")]
    IssuerUnknown,
    /// The chain is longer than [`MAX_DEPTH`] or needs more than [`MAX_SIGNATURE_CHECKS`].
    #[error("certificate path is too complex")]
    PathTooComplex,
    /// A signature does not verify.
    #[error("certificate signature does not verify")]
    SignatureInvalid,
    /// A signature with SHA-1 or an algorithm that is none of ours.
    #[error("certificate signature algorithm {0} is not acceptable")]
    SignatureAlgorithm(String),
    /// The time is before notBefore.
    #[error("certificate is not valid yet")]
    NotYetValid,
    /// The time is after notAfter.
    #[error("certificate has expired")]
    Expired,
    /// A critical extension that is not understood.
    #[error("critical extension {0} is not understood")]
    CriticalExtension(String),
    /// An extension twice.
    #[error("certificate repeats extension {0}")]
    RepeatedExtension(String),
    /// An issuer that is not a certification authority, or whose path length is exceeded.
    #[error("issuer certificate may not issue this certificate")]
    NotAnAuthority,
    /// The certificate is for something else than an endorsement key.
    #[error("not an endorsement key certificate")]
    NotAnEkCertificate,
    /// The certified key is none of ours.
    #[error("certified key: {0}")]
    Key(#[from] KeyError),
    /// The TPM's endorsement key is not the certified one.
    #[error("endorsement key is not the certified one")]
    KeyMismatch,
}

impl EkRefusal {
    /// Stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::TooLong(_) => "ek-certificate-too-long",
            Self::Malformed => "ek-certificate-malformed",
            Self::TrailingBytes(_) => "ek-certificate-trailing-bytes",
            Self::TooManyIntermediates(_) => "ek-too-many-intermediates",
            Self::IssuerUnknown => "ek-issuer-unknown",
            Self::PathTooComplex => "ek-path-too-complex",
            Self::SignatureInvalid => "ek-signature-invalid",
            Self::SignatureAlgorithm(_) => "ek-signature-algorithm",
            Self::NotYetValid => "ek-not-yet-valid",
            Self::Expired => "ek-expired",
            Self::CriticalExtension(_) => "ek-critical-extension",
            Self::RepeatedExtension(_) => "ek-repeated-extension",
            Self::NotAnAuthority => "ek-issuer-not-an-authority",
            Self::NotAnEkCertificate => "ek-not-an-ek-certificate",
            Self::Key(_) => "ek-key-unsupported",
            Self::KeyMismatch => "ek-key-mismatch",
        }
    }
}

/// An endorsement key under a trusted root. Only [`verify_ek_chain`] makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedEk {
    key: PublicKey,
    certificate_sha256: [u8; 32],
    root_sha256: [u8; 32],
}

impl VerifiedEk {
    /// The certified key.
    pub fn public_key(&self) -> &PublicKey {
        &self.key
    }

    /// SHA-256 of the certificate without padding.
    pub fn certificate_sha256(&self) -> &[u8; 32] {
        &self.certificate_sha256
    }

    /// SHA-256 of the root certificate that the chain ends in.
    pub fn root_sha256(&self) -> &[u8; 32] {
        &self.root_sha256
    }
}

/// Judges an EK certificate at the time `now_unix_secs`. Certificates are DER; roots and intermediates that cannot
/// be read never match an issuer (check them with [`check_issuer`] when they are configured).
pub fn verify_ek_chain(
    cert_der: &[u8],
    intermediates: &[Vec<u8>],
    roots: &[Vec<u8>],
    now_unix_secs: u64,
) -> Result<VerifiedEk, EkRefusal> {
    if intermediates.len() > MAX_INTERMEDIATES {
        return Err(EkRefusal::TooManyIntermediates(intermediates.len()));
    }
    let leaf = certificate::Certificate::parse(cert_der)?;
    let key = leaf.public_key()?;
    leaf.require_endorsement_key(&key)?;
    let root = path::build(&leaf, intermediates, roots, now_unix_secs)?;
    Ok(VerifiedEk { key, certificate_sha256: leaf.sha256(), root_sha256: root.sha256() })
}

/// Whether `der` can serve as an issuer at all: readable, and a certification authority with a usable key. For the
/// loading of configuration; dates are not looked at.
pub fn check_issuer(der: &[u8]) -> Result<(), EkRefusal> {
    let issuer = certificate::Certificate::parse(der)?;
    issuer.require_authority(MAX_DEPTH)?;
    issuer.public_key().map(|_| ())
}

/// The TPM's own statement of its endorsement key must be the certified key.
pub fn require_same_key(verified: &VerifiedEk, ek: &Public) -> Result<(), EkRefusal> {
    if verified.key == *ek.key() { Ok(()) } else { Err(EkRefusal::KeyMismatch) }
}

/// Universal entity id of a host: 0x01 (type RAND) and SHA-256 over the SubjectPublicKeyInfo encoded from the EK's
/// numbers, so that one key has one id whatever its certificate or public area looks like. RFC 9711 §4.2.1.
pub fn ueid(ek: &Public) -> [u8; 33] {
    let mut id = [0; 33];
    let digest = Sha256::digest(ek.spki_der());
    for (to, from) in id.iter_mut().zip([0x01].iter().chain(digest.iter())) {
        *to = *from;
    }
    id
}

#[cfg(test)]
#[path = "ek_tests.rs"]
mod tests;
