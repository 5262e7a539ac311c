//! Pieces that several bodies share: digests and codes that may be null, keys that travel as byte strings.

use super::LeafError;
use crate::cbor::{Decoder, Kind, Slot};
use crate::digest::Sha256Digest;
use crate::key::VerifyingKey;
use crate::refusal::RefusalCode;

/// Writes a digest or null.
pub fn write_digest(slot: Slot<'_>, digest: Option<&Sha256Digest>) {
    match digest {
        Some(digest) => slot.bytes(digest.as_bytes()),
        None => slot.null(),
    }
}

/// Reads a digest or null.
pub fn read_digest_or_null(decoder: &mut Decoder<'_>) -> Result<Option<Sha256Digest>, LeafError> {
    if decoder.kind()? == Kind::Null {
        decoder.null()?;
        return Ok(None);
    }
    Ok(Some(Sha256Digest::new(decoder.byte_array()?)))
}

/// Reads a COSE_Key that travels as a byte string.
pub(crate) fn read_key(decoder: &mut Decoder<'_>) -> Result<VerifyingKey, LeafError> {
    VerifyingKey::from_cose_key(decoder.bytes()?).map_err(|_| LeafError::Value("COSE_Key"))
}

/// Reads a refusal code or null.
pub(crate) fn read_code_or_null(decoder: &mut Decoder<'_>) -> Result<Option<RefusalCode>, LeafError> {
    if next_is_null(decoder)? {
        decoder.null()?;
        return Ok(None);
    }
    RefusalCode::parse(decoder.text()?).map(Some).ok_or(LeafError::Value("code"))
}

/// Tells null from a value without reading it.
fn next_is_null(decoder: &Decoder<'_>) -> Result<bool, LeafError> {
    Ok(decoder.kind()? == Kind::Null)
}
