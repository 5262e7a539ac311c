//! What a certificate states, whoever signed it and whenever: for those who compare what was once judged with what was kept of it.
//!
//! Comes in: a certificate. Goes out: [`StatedTpm`], [`StatedDevice`]. Refused: what can't be read, and certificates of something else. No chain, date
//! or revocation is looked at, so nothing is endorsed by it: [`super::TrustStore`] does that.

use super::EkRefusal;
use super::certificate::Certificate;
use super::device::DeviceNames;
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
    /// Reads the certificate of an endorsement key.
    ///
    /// # Errors
    /// [`EkRefusal`].
    pub fn of_ek(certificate: &[u8]) -> Result<Self, EkRefusal> {
        let certificate = Certificate::parse(certificate)?;
        let key = certificate.require_endorsement_key()?.clone();
        Ok(Self { key, tpm: certificate.extensions().tpm.clone() })
    }

    /// Reads the certificate of an attestation key.
    ///
    /// # Errors
    /// [`EkRefusal`].
    pub fn of_iak(certificate: &[u8]) -> Result<Self, EkRefusal> {
        let certificate = Certificate::parse(certificate)?;
        let key = certificate.require_attestation_key()?.clone();
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
}

impl StatedDevice {
    /// Reads the certificate of a device's key.
    ///
    /// # Errors
    /// [`EkRefusal`].
    pub fn of(certificate: &[u8]) -> Result<Self, EkRefusal> {
        let certificate = Certificate::parse(certificate)?;
        let (key, names) = certificate.require_device_key()?;
        Ok(Self { key: key.clone(), names })
    }
}
