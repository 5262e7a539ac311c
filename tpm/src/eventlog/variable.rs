//! UEFI variables and signature databases as firmware measures them.
//!
//! Comes in: event data that is known to hash to the measured digest. Goes out: [`VariableData`], the variable's GUID, name and value;
//! [`SignatureDatabase`], the digest of a key database and the certificates in it; the certificate of an authority record. Refused:
//! lengths that don't fit, lists that don't fill their size. Nothing is decoded beyond what facts are made of: a certificate is a digest.

use crate::algorithm::HashAlg;
use crate::wire::{Reader, WireError};

/// Most certificates that are told apart in one database. Real ones hold up to ten; firmware reserves 32 to 128 KiB for all variables.
pub const MAX_CERTIFICATES: usize = 256;

/// EFI_GLOBAL_VARIABLE, 8be4df61-93ca-11d2-aa0d-00e098032b8c, as marshalled. UEFI 2.10, 3.3.
pub(crate) const EFI_GLOBAL_VARIABLE: [u8; 16] =
    [0x61, 0xdf, 0xe4, 0x8b, 0xca, 0x93, 0xd2, 0x11, 0xaa, 0x0d, 0x00, 0xe0, 0x98, 0x03, 0x2b, 0x8c];
/// EFI_IMAGE_SECURITY_DATABASE_GUID, d719b2cb-3d3a-4596-a3bc-dad00e67656f. UEFI 2.10, 32.6.1.
pub(crate) const IMAGE_SECURITY_DATABASE: [u8; 16] =
    [0xcb, 0xb2, 0x19, 0xd7, 0x3a, 0x3d, 0x96, 0x45, 0xa3, 0xbc, 0xda, 0xd0, 0x0e, 0x67, 0x65, 0x6f];
/// Vendor GUID of shim's variables, 605dab50-e046-4300-abb6-3dd810dd8b23.
pub(crate) const SHIM_LOCK: [u8; 16] =
    [0x50, 0xab, 0x5d, 0x60, 0x46, 0xe0, 0x00, 0x43, 0xab, 0xb6, 0x3d, 0xd8, 0x10, 0xdd, 0x8b, 0x23];
/// EFI_CERT_X509_GUID, a5c059a1-94e4-4aa7-87b5-ab155c2bf072. UEFI 2.10, 32.4.1.
const CERT_X509: [u8; 16] =
    [0xa1, 0x59, 0xc0, 0xa5, 0xe4, 0x94, 0xa7, 0x4a, 0x87, 0xb5, 0xab, 0x15, 0x5c, 0x2b, 0xf0, 0x72];
/// EFI_CERT_SHA256_GUID, c1c41626-504c-4092-aca9-41f936934328.
const CERT_SHA256: [u8; 16] =
    [0x26, 0x16, 0xc4, 0xc1, 0x4c, 0x50, 0x92, 0x40, 0xac, 0xa9, 0x41, 0xf9, 0x36, 0x93, 0x43, 0x28];
/// SignatureType, SignatureListSize, SignatureHeaderSize, SignatureSize.
const LIST_HEADER_LEN: usize = 28;
/// SignatureOwner.
const OWNER_LEN: usize = 16;

/// UEFI_VARIABLE_DATA. TCG PC Client Platform Firmware Profile 1.06, 10.2.6.
#[derive(Clone)]
pub(crate) struct VariableData<'a> {
    pub(crate) guid: [u8; 16],
    /// Name in UTF-16, little endian, without a final zero.
    pub(crate) name: &'a [u8],
    pub(crate) value: &'a [u8],
}

impl<'a> VariableData<'a> {
    /// Reads to the last byte.
    pub(crate) fn parse(data: &'a [u8]) -> Result<Self, WireError> {
        let (variable, reader) = Self::read(data)?;
        reader.finish()?;
        Ok(variable)
    }

    /// Reads a record of shim versions that announce a shorter value than they log: what follows the announced value is left alone.
    pub(super) fn parse_with_rest(data: &'a [u8]) -> Result<Self, WireError> {
        Self::read(data).map(|(variable, _)| variable)
    }

    fn read(data: &'a [u8]) -> Result<(Self, Reader<'a>), WireError> {
        let mut reader = Reader::new(data);
        let too_long = |at| WireError::Truncated { at, wanted: usize::MAX };
        let guid = <[u8; 16]>::try_from(reader.take(16)?).map_err(|_| too_long(0))?;
        let name_units = usize::try_from(reader.u64_le()?).map_err(|_| too_long(16))?;
        let value_len = usize::try_from(reader.u64_le()?).map_err(|_| too_long(24))?;
        let name = reader.take(name_units.checked_mul(2).ok_or(too_long(16))?)?;
        let value = reader.take(value_len)?;
        Ok((Self { guid, name, value }, reader))
    }

    /// Whether the variable has this vendor and this name.
    pub(crate) fn is(&self, guid: &[u8; 16], name: &str) -> bool {
        self.guid == *guid && self.name.iter().copied().eq(name.encode_utf16().flat_map(u16::to_le_bytes))
    }
}

/// A key database of Secure Boot (PK, KEK, db, dbx) as it was measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignatureDatabase {
    /// SHA-256 of the variable's value.
    pub digest: [u8; 32],
    /// SHA-256 of each X.509 certificate, in order; `None` if the value isn't a sequence of signature lists or holds more than
    /// [`MAX_CERTIFICATES`].
    pub certificates: Option<Vec<[u8; 32]>>,
    /// Number of image digests (SHA-256).
    pub image_digests: usize,
}

impl SignatureDatabase {
    pub(super) fn of(value: &[u8]) -> Self {
        let mut image_digests = 0;
        let certificates = certificates(value, &mut image_digests).ok().flatten();
        Self { digest: sha256(value), certificates, image_digests }
    }
}

fn certificates(value: &[u8], image_digests: &mut usize) -> Result<Option<Vec<[u8; 32]>>, WireError> {
    let mut found = Some(Vec::new());
    each_signature(value, |signature| match signature {
        Signature::Certificate(certificate) => {
            found = found.take().filter(|found| found.len() < MAX_CERTIFICATES);
            found.iter_mut().for_each(|found| found.push(sha256(certificate)));
        }
        Signature::ImageDigest(_) => *image_digests += usize::from(found.is_some()),
        Signature::Other(_) => {}
    })?;
    Ok(found)
}

/// An entry of a key database, without its owner.
pub(super) enum Signature<'a> {
    /// An X.509 certificate.
    Certificate(&'a [u8]),
    /// SHA-256 of an image.
    ImageDigest(&'a [u8]),
    /// Something else.
    Other(&'a [u8]),
}

/// Walks EFI_SIGNATURE_LISTs. UEFI 2.10, 32.4.1.
pub(super) fn each_signature<'a>(
    value: &'a [u8],
    mut told: impl FnMut(Signature<'a>),
) -> Result<(), WireError> {
    let mut reader = Reader::new(value);
    while reader.remaining() > 0 {
        let at = reader.position();
        let wrong = WireError::Truncated { at, wanted: LIST_HEADER_LEN };
        let size = |value: u32| usize::try_from(value).map_err(|_| wrong);
        let kind = reader.take(16)?;
        let list_len = size(reader.u32_le()?)?;
        let header_len = size(reader.u32_le()?)?;
        let entry_len = size(reader.u32_le()?)?;
        let mut list = Reader::new(reader.take(list_len.checked_sub(LIST_HEADER_LEN).ok_or(wrong)?)?);
        list.take(header_len)?;
        // An entry is an owner and at least one byte, and entries fill the list.
        if entry_len <= OWNER_LEN || !list.remaining().is_multiple_of(entry_len) {
            return Err(wrong);
        }
        while list.remaining() > 0 {
            let entry = list.take(entry_len)?.get(OWNER_LEN..).unwrap_or_default();
            told(match kind {
                _ if kind == CERT_X509 => Signature::Certificate(entry),
                _ if kind == CERT_SHA256 => Signature::ImageDigest(entry),
                _ => Signature::Other(entry),
            });
        }
    }
    Ok(())
}

/// SHA-256 of the certificate that an authority record carries: EFI_SIGNATURE_DATA, an owner and the certificate (TCG PC Client Platform
/// Firmware Profile 1.06, 3.3.4.8), or the bare certificate as shim logs its own. `None` for a record of something else.
pub(super) fn authority(value: &[u8]) -> Option<[u8; 32]> {
    authority_bytes(value).map(sha256)
}

/// The same certificate itself.
pub(super) fn authority_bytes(value: &[u8]) -> Option<&[u8]> {
    let bare = Some(value).filter(|bytes| is_one_sequence(bytes));
    let owned = || value.get(OWNER_LEN..).filter(|bytes| is_one_sequence(bytes));
    bare.or_else(owned)
}

/// Whether the bytes are exactly one DER SEQUENCE with a two-byte length, as every certificate is. X.690, 8.1.3.
fn is_one_sequence(bytes: &[u8]) -> bool {
    match bytes {
        [0x30, 0x82, high, low, rest @ ..] => rest.len() == usize::from(u16::from_be_bytes([*high, *low])),
        _ => false,
    }
}

pub(super) fn sha256(bytes: &[u8]) -> [u8; 32] {
    <[u8; 32]>::try_from(HashAlg::Sha256.digest(bytes)).unwrap_or_default()
}
