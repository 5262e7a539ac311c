//! Templates of the keys that a host makes, and the form in which it keeps them.
//!
//! Comes in: what the TPM created. Goes out: [`KeyBlob`], two byte strings that only the same TPM can load again. The
//! private part is encrypted by the TPM, so a blob is not secret; who holds the blob and the TPM can use the key.

use tss_esapi::structures::{Private, Public as TssPublic};
use tss_esapi::traits::{Marshall, UnMarshall};

use super::DeviceError;
use crate::algorithm::{EccCurve, id};
use crate::public::{Attributes, MAX_PUBLIC_BYTES, Public};
use crate::wire::{Reader, WireError, Writer};

/// TPM2B_PRIVATE of a P-256 key has some 130 bytes; the type allows for RSA keys.
const MAX_PRIVATE_BYTES: usize = 2048;

/// A key that only the TPM which made it can use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyBlob {
    public: Vec<u8>,
    private: Vec<u8>,
}

impl KeyBlob {
    /// TPMT_PUBLIC.
    pub fn public(&self) -> &[u8] {
        &self.public
    }

    /// Contents of TPM2B_PRIVATE.
    pub fn private(&self) -> &[u8] {
        &self.private
    }

    /// One byte string to keep: TPM2B_PUBLIC and TPM2B_PRIVATE, one after the other.
    pub fn to_bytes(&self) -> Result<Vec<u8>, WireError> {
        Ok(Writer::new().tpm2b(&self.public)?.tpm2b(&self.private)?.into_bytes())
    }

    /// Reads what [`KeyBlob::to_bytes`] wrote.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DeviceError> {
        let mut reader = Reader::new(bytes);
        let public = reader.tpm2b(MAX_PUBLIC_BYTES)?.to_vec();
        let private = reader.tpm2b(MAX_PRIVATE_BYTES)?.to_vec();
        reader.finish()?;
        let blob = Self { public, private };
        blob.parse_public()?;
        Ok(blob)
    }

    /// The public area, parsed.
    pub fn parse_public(&self) -> Result<Public, DeviceError> {
        Ok(Public::parse(&self.public)?)
    }

    pub(super) fn from_tss(public: &TssPublic, private: &Private) -> tss_esapi::Result<Self> {
        Ok(Self { public: public.marshall()?, private: private.value().to_vec() })
    }

    pub(super) fn tss_public(&self) -> Result<TssPublic, DeviceError> {
        TssPublic::unmarshall(&self.public).map_err(|error| DeviceError::tss("read blob", error))
    }
}

const BOUND: u32 = Attributes::FIXED_TPM | Attributes::FIXED_PARENT | Attributes::SENSITIVE_DATA_ORIGIN;
/// Password authorization with an empty password and no dictionary attack protection: a lockout caused by somebody
/// else's failures must not stop attestation.
const OPEN: u32 = Attributes::USER_WITH_AUTH | Attributes::NO_DA;

/// A restricted P-256 ECDSA key.
pub(super) fn attestation_template() -> Result<Vec<u8>, WireError> {
    signing(BOUND | OPEN | Attributes::SIGN | Attributes::RESTRICTED)
}

/// An unrestricted P-256 ECDSA key.
pub(super) fn signing_template() -> Result<Vec<u8>, WireError> {
    signing(BOUND | OPEN | Attributes::SIGN)
}

/// A P-256 storage key with AES-128 CFB, as in TCG TPM v2.0 Provisioning Guidance, 7.5.1.
pub(super) fn storage_template() -> Result<Vec<u8>, WireError> {
    let attributes = BOUND | OPEN | Attributes::RESTRICTED | Attributes::DECRYPT;
    let writer = Writer::new().u16(id::ECC).u16(id::SHA256).u32(attributes).tpm2b(&[])?;
    curve(writer.u16(id::AES).u16(128).u16(id::CFB).u16(id::NULL))
}

fn signing(attributes: u32) -> Result<Vec<u8>, WireError> {
    let writer = Writer::new().u16(id::ECC).u16(id::SHA256).u32(attributes).tpm2b(&[])?;
    curve(writer.u16(id::NULL).u16(id::ECDSA).u16(id::SHA256))
}

fn curve(writer: Writer) -> Result<Vec<u8>, WireError> {
    Ok(writer.u16(EccCurve::P256.id()).u16(id::NULL).tpm2b(&[])?.tpm2b(&[])?.into_bytes())
}
