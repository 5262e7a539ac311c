//! Certificates that endorse a TPM: of endorsement keys, and of attestation keys whose residency an issuer saw (IAK). And those that name
//! a machine (IDevID), which endorse nothing.
//!
//! Comes in: a certificate as read from a TPM's NV memory, issuer certificates, trusted roots, revocation lists, the time. Goes out:
//! [`VerifiedEk`], [`VerifiedIak`] or [`VerifiedDevice`], a key that a trusted issuer vouches for. Refused: certificates that do not chain to a root within
//! the bounds, are out of date or revoked, are signed with SHA-1, are for something else, or carry critical extensions that nobody here
//! understands.
//!
//! This is not a general X.509 validator: no name constraints and no policy mapping (where they are critical they refuse), no fetching.

mod bundled;
mod certificate;
mod crl;
mod device;
mod extension;
mod keys;
mod name;
mod path;
mod roca;
mod stated;
mod store;
pub(crate) mod tlv;

use sha2::{Digest, Sha256};
use thiserror::Error;

use self::tlv::{Elements, SEQUENCE};
use crate::key::{KeyError, PublicKey};
use crate::public::Public;

pub use bundled::{BundleError, BundledCertificate, BundledKind, bundled};
pub use crl::MAX_CRL_BYTES;
pub use device::{DeviceNames, HardwareModule};
pub use extension::TpmIdentity;
pub use roca::has_roca_fingerprint;
pub use stated::{StatedDevice, StatedTpm};
pub use store::{Issuer, MAX_STORE_CERTIFICATES, MAX_STORE_CRLS, TrustStore, describe_issuer};

/// Longest certificate taken. NV space for one is 2 KiB in the PC Client profile; CA certificates reach 3 KiB.
pub const MAX_CERTIFICATE_BYTES: usize = 8 * 1024;
/// Most certificates above the EK's. Manufacturers use two to four, and six where the chip itself issues.
pub const MAX_DEPTH: usize = 6;
/// Most issuer certificates that a host may send along.
pub const MAX_INTERMEDIATES: usize = 16;
/// Most signatures checked before giving up. Names that loop or repeat cannot cost more than this.
pub const MAX_SIGNATURE_CHECKS: usize = 32;

/// Why a certificate is refused as endorsement.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EkRefusal {
    /// A certificate is above [`MAX_CERTIFICATE_BYTES`], or a revocation list above [`MAX_CRL_BYTES`].
    #[error("{0} bytes are too long")]
    TooLong(usize),
    /// A certificate or revocation list is not of the form of RFC 5280. The word says where.
    #[error("certificate is malformed: {0}")]
    Malformed(&'static str),
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
    /// Its issuer revoked the certificate, or one above it.
    #[error("certificate was revoked")]
    Revoked,
    /// The newest revocation list at hand is past its nextUpdate.
    #[error("revocation list has ended")]
    CrlStale,
    /// A revocation list is demanded and none is at hand.
    #[error("no revocation list of the issuer is at hand")]
    CrlMissing,
    /// The path asserts none of the policies demanded.
    #[error("certificate path asserts none of the policies demanded")]
    PolicyMissing,
    /// A critical extension that is not understood.
    #[error("critical extension {0} is not understood")]
    CriticalExtension(String),
    /// An extension twice.
    #[error("certificate repeats extension {0}")]
    RepeatedExtension(String),
    /// An issuer that is not a certification authority, or not for this, or whose path length is exceeded.
    #[error("issuer certificate may not issue this certificate")]
    NotAnAuthority,
    /// The certificate is for something else than an endorsement key.
    #[error("not an endorsement key certificate")]
    NotAnEkCertificate,
    /// The certificate is for something else than an attestation key whose residency was seen.
    #[error("not an attestation key certificate")]
    NotAnIakCertificate,
    /// The certificate is for something else than the key of a device.
    #[error("not the certificate of a device's key")]
    NotADeviceCertificate,
    /// The certificate of a device's key names no device.
    #[error("certificate has neither a serialNumber nor a hardwareModuleName")]
    NamesNoDevice,
    /// The certificate is of a TPM of another family.
    #[error("certificate of a TPM {family} (level {level}, revision {revision})")]
    OtherTpm {
        /// Family of the specification.
        family: String,
        /// Level.
        level: u32,
        /// Revision.
        revision: u32,
    },
    /// The certified key is none of ours.
    #[error("certified key: {0}")]
    Key(#[from] KeyError),
    /// The TPM's key is not the certified one.
    #[error("key is not the certified one")]
    KeyMismatch,
    /// A trust store holds as much as it may.
    #[error("trust store is full")]
    StoreFull,
}

/// An endorsement key under a trusted root. Only [`TrustStore::verify_ek`] makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedEk {
    key: PublicKey,
    certificate_sha256: [u8; 32],
    chain: Vec<[u8; 32]>,
    tpm: Option<TpmIdentity>,
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
        // A path has at least its root.
        self.chain.last().unwrap_or(&self.certificate_sha256)
    }

    /// SHA-256 of each issuer, the EK's first and the root last.
    pub fn chain(&self) -> &[[u8; 32]] {
        &self.chain
    }

    /// What the certificate says of the TPM, if it does.
    pub fn tpm(&self) -> Option<&TpmIdentity> {
        self.tpm.as_ref()
    }
}

/// An attestation key that a trusted issuer saw in a TPM. Only [`TrustStore::verify_iak`] makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedIak {
    key: PublicKey,
    certificate_sha256: [u8; 32],
    chain: Vec<[u8; 32]>,
    tpm: Option<TpmIdentity>,
    subject: String,
}

impl VerifiedIak {
    /// The certified key.
    pub fn public_key(&self) -> &PublicKey {
        &self.key
    }

    /// SHA-256 of the certificate without padding.
    pub fn certificate_sha256(&self) -> &[u8; 32] {
        &self.certificate_sha256
    }

    /// SHA-256 of each issuer, the key's first and the root last.
    pub fn chain(&self) -> &[[u8; 32]] {
        &self.chain
    }

    /// What the certificate says of the TPM, if it does.
    pub fn tpm(&self) -> Option<&TpmIdentity> {
        self.tpm.as_ref()
    }

    /// The device's name, as text.
    pub fn subject(&self) -> &str {
        &self.subject
    }
}

/// A device's key under a trusted root. Only [`TrustStore::verify_device`] makes one. That the key is in a TPM it doesn't show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedDevice {
    key: PublicKey,
    certificate_sha256: [u8; 32],
    chain: Vec<[u8; 32]>,
    names: DeviceNames,
}

impl VerifiedDevice {
    /// The certified key.
    pub fn public_key(&self) -> &PublicKey {
        &self.key
    }

    /// SHA-256 of the certificate without padding.
    pub fn certificate_sha256(&self) -> &[u8; 32] {
        &self.certificate_sha256
    }

    /// SHA-256 of each issuer, the key's first and the root last.
    pub fn chain(&self) -> &[[u8; 32]] {
        &self.chain
    }

    /// What the maker calls the device.
    pub fn names(&self) -> &DeviceNames {
        &self.names
    }
}

/// Judges an EK certificate at the time `now_unix_secs` under roots that are given as DER. Certificates that cannot be read never match an
/// issuer. Who judges more than once keeps a [`TrustStore`].
pub fn verify_ek_chain(
    cert_der: &[u8],
    intermediates: &[Vec<u8>],
    roots: &[Vec<u8>],
    now_unix_secs: u64,
) -> Result<VerifiedEk, EkRefusal> {
    let mut store = TrustStore::new();
    for root in roots {
        if store.add_root(root) == Err(EkRefusal::StoreFull) {
            return Err(EkRefusal::StoreFull);
        }
    }
    store.verify_ek(cert_der, intermediates, now_unix_secs)
}

/// Certificates that lie one behind the other in an NV index or a file, as they stand there; what fills the place up behind them is
/// dropped. Nothing of them is judged.
///
/// # Errors
/// [`EkRefusal`]: what is no sequence of DER, or is more than a chain.
pub fn split_certificates(bytes: &[u8]) -> Result<Vec<Vec<u8>>, EkRefusal> {
    let mut rest = Elements::of(bytes, "certificates");
    let mut certificates = Vec::new();
    while rest.peek() == Some(SEQUENCE) {
        let certificate = rest.next()?.whole;
        if certificates.len() > MAX_INTERMEDIATES {
            return Err(EkRefusal::TooManyIntermediates(certificates.len()));
        }
        if certificate.len() > MAX_CERTIFICATE_BYTES {
            return Err(EkRefusal::TooLong(certificate.len()));
        }
        certificates.push(certificate.to_vec());
    }
    let padding = rest.rest();
    let same = padding.first().is_none_or(|first| padding.iter().all(|byte| byte == first));
    match (same, certificates.is_empty()) {
        (true, false) => Ok(certificates),
        (true, true) => Err(EkRefusal::Malformed("certificates")),
        (false, _) => Err(EkRefusal::TrailingBytes(padding.len())),
    }
}

/// Whether `der` can serve as an issuer at all: readable, and a certification authority with a usable key. For the
/// loading of configuration; dates are not looked at.
pub fn check_issuer(der: &[u8]) -> Result<(), EkRefusal> {
    describe_issuer(der).map(|_| ())
}

/// The TPM's own statement of its endorsement key must be the certified key.
pub fn require_same_key(verified: &VerifiedEk, ek: &Public) -> Result<(), EkRefusal> {
    if verified.key == *ek.key() { Ok(()) } else { Err(EkRefusal::KeyMismatch) }
}

/// The TPM's own statement of its attestation key must be the certified key.
pub fn require_same_ak(verified: &VerifiedIak, ak: &Public) -> Result<(), EkRefusal> {
    if verified.key == *ak.key() { Ok(()) } else { Err(EkRefusal::KeyMismatch) }
}

/// The TPM's own statement of the device's key must be the certified key.
pub fn require_same_device_key(verified: &VerifiedDevice, key: &Public) -> Result<(), EkRefusal> {
    if verified.key == *key.key() { Ok(()) } else { Err(EkRefusal::KeyMismatch) }
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
#[path = "ek_device_laws_tests.rs"]
mod device_laws_tests;
#[cfg(test)]
#[path = "ek_device_tests.rs"]
mod device_tests;
#[cfg(test)]
#[path = "ek_path_tests.rs"]
mod path_tests;
#[cfg(test)]
#[path = "ek_tests.rs"]
mod tests;
#[cfg(test)]
#[path = "ek_vector_tests.rs"]
mod vector_tests;
