//! What a device says about a key it holds, as a record that a caller can put into a log. Made by a backend that has just read it back;
//! it is the device's statement, so for third parties it is worth what the device or the attached certification is worth.
use std::collections::BTreeMap;

/// Where a key lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Backend {
    /// A PKCS#11 token.
    Pkcs11,
    /// A TPM 2.0.
    Tpm2,
    /// Process memory. Never trusted; for tests and measurements.
    DangerSoftware,
}

impl Backend {
    /// The name used in records: `pkcs11`, `tpm2`, `danger-software`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pkcs11 => "pkcs11",
            Self::Tpm2 => "tpm2",
            Self::DangerSoftware => "danger-software",
        }
    }
}

/// A TPM's own statement about a key: TPM2_Certify by an attestation key of the same TPM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certification {
    /// The signed TPMS_ATTEST, type TPM_ST_ATTEST_CERTIFY.
    pub attest: Vec<u8>,
    /// The TPMT_SIGNATURE over it.
    pub signature: Vec<u8>,
    /// TPMT_PUBLIC of the attestation key that signed.
    pub ak_public: Vec<u8>,
    /// TPMT_PUBLIC of the certified key.
    pub key_public: Vec<u8>,
}

/// Evidence of custody, as read back from the device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CustodyEvidence {
    /// Where the key lives.
    pub backend: Backend,
    /// What was read back, by the name that the device's specification gives it (`CKA_EXTRACTABLE`, `fixedTPM`); booleans are `true` and
    /// `false`. Names of the device itself (token label, serial number) stand beside them.
    pub attributes: BTreeMap<String, String>,
    /// What third parties can check, where the device offers it.
    pub certification: Option<Certification>,
}
