//! What a certificate states, whoever signed it and whenever: for those who compare what was once judged with what was kept of it.
//!
//! Comes in: a certificate. Goes out: [`StatedTpm`], [`StatedDevice`]. Refused: what can't be read. No chain, date, revocation or purpose is looked at, so
//! nothing is endorsed by it: [`super::TrustStore`] does that. Whoever audits old enrolments reads with this, so it must not become stricter:
//! what was a certificate on the day of an enrolment has to stay one.

use super::EkRefusal;
use super::certificate::Certificate;
use super::device::{self, DeviceNames};
use super::extension::TpmIdentity;
use crate::key::PublicKey;

/// The key that a certificate of an EK or of an AK is about, and the TPM as it describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatedTpm {
    /// The certified key.
    pub key: PublicKey,
    /// What the certificate says of the TPM, if it does.
    pub tpm: Option<TpmIdentity>,
}

impl StatedTpm {
    /// Reads the certificate of an endorsement or attestation key.
    ///
    /// # Errors
    /// [`EkRefusal`].
    pub fn of(certificate: &[u8]) -> Result<Self, EkRefusal> {
        let certificate = Certificate::parse(certificate)?;
        let key = certificate.key()?.known()?.clone();
        Ok(Self { key, tpm: certificate.extensions().tpm.clone() })
    }
}

/// The key that a certificate of a device's key (IDevID) is about, and the device as it names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatedDevice {
    /// The certified key.
    pub key: PublicKey,
    /// The names.
    pub names: DeviceNames,
    /// SHA-256 of the certificate without header and padding.
    pub certificate_sha256: [u8; 32],
}

impl StatedDevice {
    /// Reads the certificate of a device's key.
    ///
    /// # Errors
    /// [`EkRefusal`].
    pub fn of(certificate: &[u8]) -> Result<Self, EkRefusal> {
        let certificate = Certificate::parse(certificate)?;
        let key = certificate.key()?.known()?.clone();
        let names = device::names(certificate.subject(), certificate.extensions().alt_names.as_deref())?;
        Ok(Self { key, names, certificate_sha256: *certificate.sha256() })
    }
}
