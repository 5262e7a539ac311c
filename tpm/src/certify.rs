//! Certification of one TPM key by another (TPM2_Certify).
//!
//! Comes in: the attestation key, its statement and signature, the public area of the certified key, the nonce.
//! Goes out: [`CertifiedKey`], a key known to live in the same TPM as the attestation key. Refused: any other
//! statement, another subject, another nonce, a key that is not bound to its TPM.

use subtle::ConstantTimeEq;
use thiserror::Error;

use crate::attest::{Attest, AttestBody, AttestError, ClockInfo};
use crate::public::{
    AttributeRefusal, Public, require_attestation_key, require_device_key, require_host_key,
};
use crate::signature::{self, Signature, SignatureError};

/// Why a certification is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum CertifyRefusal {
    /// The attestation cannot be read.
    #[error("certification is malformed: {0}")]
    Malformed(AttestError),
    /// The bytes are not a TPM's, or attest something else.
    #[error("not a certification")]
    NotACertification,
    /// The certifying key is not fit to attest.
    #[error("attestation key is unfit: {0}")]
    KeyUnfit(AttributeRefusal),
    /// The certified key is not fit for its role.
    #[error("certified key is unfit: {0}")]
    SubjectUnfit(AttributeRefusal),
    /// The signature cannot be read or uses a scheme that is not the key's.
    #[error("certification signature is not acceptable: {0}")]
    Signature(SignatureError),
    /// The signature is not by this key over these bytes.
    #[error("certification signature does not verify")]
    SignatureInvalid,
    /// The statement carries other qualifying data.
    #[error("certification was not made for this challenge")]
    NonceMismatch,
    /// Another object was certified.
    #[error("certification names another key")]
    NameMismatch,
}

/// A signing key that lives in the same TPM as the attestation key. Only [`verify_certification`] and [`verify_device_certification`] make one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertifiedKey {
    public: Public,
    clock: ClockInfo,
    firmware_version: u64,
}

impl CertifiedKey {
    /// Its public area.
    pub fn public(&self) -> &Public {
        &self.public
    }

    /// TPMS_ATTEST.firmwareVersion when it certified.
    pub fn firmware_version(&self) -> u64 {
        self.firmware_version
    }

    /// Clock and counters of the TPM when it certified.
    pub fn clock(&self) -> ClockInfo {
        self.clock
    }
}

/// Judges a certification of an unrestricted P-256 signing key by an attestation key.
pub fn verify_certification(
    ak: &Public,
    attest: &[u8],
    signature: &[u8],
    subject: &Public,
    expected_extra_data: &[u8; 32],
) -> Result<CertifiedKey, CertifyRefusal> {
    require_host_key(subject).map_err(CertifyRefusal::SubjectUnfit)?;
    verify(ak, attest, signature, subject, expected_extra_data)
}

/// Judges a certification of a device's key (IDevID) by an attestation key. TCG, TPM 2.0 Keys for Device Identity and Attestation, 7.3.4.1.
pub fn verify_device_certification(
    ak: &Public,
    attest: &[u8],
    signature: &[u8],
    subject: &Public,
    expected_extra_data: &[u8; 32],
) -> Result<CertifiedKey, CertifyRefusal> {
    require_device_key(subject).map_err(CertifyRefusal::SubjectUnfit)?;
    verify(ak, attest, signature, subject, expected_extra_data)
}

fn verify(
    ak: &Public,
    attest: &[u8],
    signature: &[u8],
    subject: &Public,
    expected_extra_data: &[u8; 32],
) -> Result<CertifiedKey, CertifyRefusal> {
    require_attestation_key(ak).map_err(CertifyRefusal::KeyUnfit)?;
    let parsed = Attest::parse(attest).map_err(|error| match error {
        AttestError::NotGenerated | AttestError::Type(_) => CertifyRefusal::NotACertification,
        error => CertifyRefusal::Malformed(error),
    })?;
    let AttestBody::Certify { name, .. } = &parsed.body else {
        return Err(CertifyRefusal::NotACertification);
    };
    let signature = Signature::parse(signature).map_err(CertifyRefusal::Signature)?;
    signature::verify(ak, attest, &signature).map_err(|error| match error {
        SignatureError::Invalid => CertifyRefusal::SignatureInvalid,
        error => CertifyRefusal::Signature(error),
    })?;
    if !bool::from(parsed.extra_data.ct_eq(expected_extra_data.as_slice())) {
        return Err(CertifyRefusal::NonceMismatch);
    }
    // TPM 2.0 Part 1, 16: the Name is a digest over the whole public area, so equal Names are equal keys.
    if name.as_slice() != subject.name().as_bytes() {
        return Err(CertifyRefusal::NameMismatch);
    }
    Ok(CertifiedKey {
        public: subject.clone(),
        clock: parsed.clock,
        firmware_version: parsed.firmware_version,
    })
}

#[cfg(test)]
#[path = "certify_tests.rs"]
mod tests;
