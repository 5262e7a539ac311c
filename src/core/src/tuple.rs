//! Hashed tuples: the one way in which several values become one digest (PROTOCOL §1.1).
//!
//! In: a domain tag and byte fields. Out: the preimage `tag || 0x00 || (u32be length || field)*`, or its SHA-256.
//! Two different lists of fields, or two different tags, never share a preimage: the tag ends at the first NUL and
//! every field says how long it is.

use sha2::{Digest as _, Sha256};

use crate::digest::Sha256Digest;

/// The exact bytes that [`tuple_digest`] hashes. Also what a holder or a head key signs when a tuple is signed.
///
/// `tag` is ASCII without NUL; it names the purpose and is a constant of the program, never input. Fields are far
/// below 4 GiB: everything that reaches here has passed a size limit.
pub fn preimage(tag: &'static str, fields: &[&[u8]]) -> Vec<u8> {
    let length = fields.iter().fold(tag.len() + 1, |sum, field| sum + 4 + field.len());
    let mut out = Vec::with_capacity(length);
    write(tag, fields, |bytes| out.extend_from_slice(bytes));
    out
}

/// SHA-256 of [`preimage`]`(tag, fields)`, computed without building it.
pub fn tuple_digest(tag: &'static str, fields: &[&[u8]]) -> Sha256Digest {
    let mut hash = Sha256::new();
    write(tag, fields, |bytes| hash.update(bytes));
    Sha256Digest::new(hash.finalize().into())
}

fn write(tag: &'static str, fields: &[&[u8]], mut sink: impl FnMut(&[u8])) {
    // INVARIANT: a NUL inside the tag would let a tag absorb a field; tags are literals, so a debug build finds it.
    debug_assert!(tag.is_ascii() && !tag.as_bytes().contains(&0), "tag must be ASCII without NUL");
    sink(tag.as_bytes());
    sink(&[0]);
    for field in fields {
        // No field comes near u32::MAX bytes (see `preimage`); saturating keeps this total.
        let length = u32::try_from(field.len()).unwrap_or(u32::MAX);
        sink(&length.to_be_bytes());
        sink(field);
    }
}

#[cfg(test)]
mod tests {
    use data_encoding::HEXLOWER;
    use proptest::prelude::*;

    use super::*;
    use crate::digest::sha256;

    #[test]
    fn the_preimage_is_tag_nul_and_length_prefixed_fields() {
        assert_eq!(preimage("t", &[]), b"t\0");
        assert_eq!(preimage("ab", &[b"", b"xyz"]), b"ab\0\0\0\0\0\0\0\0\x03xyz");
    }

    #[test]
    fn fields_do_not_run_into_each_other() {
        let split = tuple_digest("t", &[b"ab", b"c"]);
        assert_ne!(split, tuple_digest("t", &[b"a", b"bc"]));
        assert_ne!(split, tuple_digest("t", &[b"abc"]));
        assert_ne!(split, tuple_digest("u", &[b"ab", b"c"]));
        assert_ne!(tuple_digest("t", &[]), tuple_digest("t", &[b""]));
    }

    #[test]
    fn published_vectors_hold() {
        let text = include_str!("../../../tests/vectors/core/tuple.json");
        let file: serde_json::Value = serde_json::from_str(text).unwrap();
        let vectors = file["vectors"].as_array().unwrap();
        assert!(vectors.len() >= 4);
        for vector in vectors {
            let tag: &'static str = vector["tag"].as_str().unwrap().to_owned().leak();
            let fields: Vec<Vec<u8>> = (vector["fields"].as_array().unwrap().iter())
                .map(|field| HEXLOWER.decode(field.as_str().unwrap().as_bytes()).unwrap())
                .collect();
            let fields: Vec<&[u8]> = fields.iter().map(Vec::as_slice).collect();
            assert_eq!(HEXLOWER.encode(&preimage(tag, &fields)), vector["preimage"].as_str().unwrap());
            assert_eq!(tuple_digest(tag, &fields).to_hex(), vector["sha256"].as_str().unwrap());
        }
    }

    proptest! {
        #[test]
        fn the_incremental_digest_is_the_digest_of_the_preimage(
            fields in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..80), 0..6),
        ) {
            let fields: Vec<&[u8]> = fields.iter().map(Vec::as_slice).collect();
            prop_assert_eq!(tuple_digest("tag", &fields), sha256(&preimage("tag", &fields)));
        }
    }
}
