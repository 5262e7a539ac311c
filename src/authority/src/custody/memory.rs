//! The copy of the signer's memory that is kept in a token: CBOR `[origin, size, head digest, SHA-256 root]`.
//!
//! Token memory wears, so the copy is written at start, at stop and hourly. It may be older than the store; a store that is older than the
//! copy was rolled back.

use crate::sign::Remembered;
use countersign_core::cbor::{CborError, Decoder, encode_array};
use countersign_core::digest::{Sha256Digest, sha256};
use countersign_hsm::{FaultClass, SignFault};

/// Label of the data object. Several logs may share a token.
pub(super) fn label(origin: &str) -> String {
    let name: String = sha256(origin.as_bytes()).to_hex().chars().take(16).collect();
    format!("countersign-memory-{name}")
}

pub(super) fn encode(origin: &str, head: &Remembered) -> Vec<u8> {
    encode_array(|array| {
        array.item().text(origin);
        array.item().uint(head.size);
        array.item().bytes(head.digest.as_bytes());
        array.item().bytes(head.root.as_bytes());
    })
}

/// A copy that can't be read isn't the same as none: somebody wrote something else under the label.
pub(super) fn decode(origin: &str, bytes: &[u8]) -> Result<Remembered, SignFault> {
    let parse = || -> Result<Option<Remembered>, CborError> {
        let mut decoder = Decoder::new(bytes)?;
        decoder.array_of(4)?;
        let ours = decoder.text()? == origin;
        let size = decoder.uint()?;
        let digest = Sha256Digest::new(decoder.byte_array()?);
        let root = Sha256Digest::new(decoder.byte_array()?);
        decoder.finish()?;
        Ok(ours.then_some(Remembered { size, digest, root }))
    };
    let malformed =
        || SignFault::new(FaultClass::Misconfigured, "signer memory", "not a copy of this log's memory");
    parse().ok().flatten().ok_or_else(malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_read_back_for_its_own_log_only() {
        let head =
            Remembered { size: 7, digest: Sha256Digest::new([1; 32]), root: Sha256Digest::new([2; 32]) };
        let bytes = encode("one.example", &head);
        assert_eq!(decode("one.example", &bytes).unwrap(), head);
        assert!(decode("two.example", &bytes).is_err());
        for end in 0..bytes.len() {
            assert!(decode("one.example", &bytes[..end]).is_err());
        }
        assert_ne!(label("one.example"), label("two.example"));
    }
}
