//! Digest newtypes: one type per hash function, so that a root of one tree can't stand where another belongs.
//!
//! In: bytes, or lower-case hexadecimal text. Out: fixed-size digests. Refused: a wrong length, upper-case or
//! otherwise non-canonical hexadecimal.

use std::fmt;

use blake2::Blake2b512;
use data_encoding::HEXLOWER;
use sha2::{Digest as _, Sha256};
use sha3::Sha3_512;

/// Why bytes or text are not a digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// The input has another number of bytes than the digest.
    #[error("a digest of {expected} bytes was expected, {got} bytes were given")]
    Length {
        /// Bytes of the digest type.
        expected: usize,
        /// Bytes (for text: bytes it decodes to) that were given.
        got: usize,
    },
    /// The text is not lower-case hexadecimal.
    #[error("a digest must be written in lower-case hexadecimal")]
    Hex,
}

macro_rules! digest_type {
    ($(#[$doc:meta])* $name:ident, $len:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; $len]);

        impl $name {
            /// Length in bytes.
            pub const LEN: usize = $len;
            /// The digest whose bytes are all zero, used where "none before" must have a value.
            pub const ZERO: Self = Self([0; $len]);

            /// Takes the bytes as they are; nothing is hashed.
            pub const fn new(bytes: [u8; $len]) -> Self {
                Self(bytes)
            }

            /// Takes exactly [`Self::LEN`] bytes.
            ///
            /// # Errors
            /// [`DigestError::Length`] for any other length.
            pub fn from_slice(bytes: &[u8]) -> Result<Self, DigestError> {
                let wrong = DigestError::Length { expected: $len, got: bytes.len() };
                bytes.try_into().map(Self).map_err(|_| wrong)
            }

            /// Reads lower-case hexadecimal of exactly [`Self::LEN`] bytes.
            ///
            /// # Errors
            /// [`DigestError`] for upper case, other characters, or another length.
            pub fn from_hex(text: &str) -> Result<Self, DigestError> {
                // The length is judged before anything is allocated for the decoded bytes.
                if text.len() != 2 * $len {
                    return Err(DigestError::Length { expected: $len, got: text.len() / 2 });
                }
                let bytes = HEXLOWER.decode(text.as_bytes()).map_err(|_| DigestError::Hex)?;
                Self::from_slice(&bytes)
            }

            /// The bytes.
            pub const fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }

            /// Lower-case hexadecimal of all bytes.
            pub fn to_hex(&self) -> String {
                HEXLOWER.encode(&self.0)
            }
        }

        impl AsRef<[u8]> for $name {
            fn as_ref(&self) -> &[u8] {
                &self.0
            }
        }

        impl From<[u8; $len]> for $name {
            fn from(bytes: [u8; $len]) -> Self {
                Self(bytes)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        /// The first eight bytes: enough to tell two digests apart in a log line.
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "("))?;
                self.0.iter().take(8).try_for_each(|byte| write!(f, "{byte:02x}"))?;
                f.write_str("..)")
            }
        }
    };
}

digest_type!(
    /// A SHA-256 digest (FIPS 180-4).
    Sha256Digest,
    32
);
digest_type!(
    /// A SHA3-512 digest (FIPS 202).
    Sha3_512Digest,
    64
);
digest_type!(
    /// A BLAKE2b digest of 64 bytes (RFC 7693).
    Blake2b512Digest,
    64
);

/// SHA-256 of `bytes`.
pub fn sha256(bytes: &[u8]) -> Sha256Digest {
    Sha256Digest(Sha256::digest(bytes).into())
}

/// SHA3-512 of `bytes`.
pub fn sha3_512(bytes: &[u8]) -> Sha3_512Digest {
    Sha3_512Digest(Sha3_512::digest(bytes).into())
}

/// BLAKE2b of `bytes`, 64 bytes, without key, salt or personalisation.
pub fn blake2b_512(bytes: &[u8]) -> Blake2b512Digest {
    Blake2b512Digest(Blake2b512::digest(bytes).into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn sha256_matches_fips_180_4() {
        assert_eq!(sha256(b"abc").to_hex(), ABC);
        assert_eq!(
            sha256(b"").to_string(),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
    }

    #[test]
    fn debug_is_short_and_names_the_type() {
        assert_eq!(format!("{:?}", sha256(b"abc")), "Sha256Digest(ba7816bf8f01cfea..)");
        assert_eq!(format!("{:?}", Blake2b512Digest::ZERO), "Blake2b512Digest(0000000000000000..)");
    }

    #[test]
    fn hexadecimal_is_strict() {
        assert_eq!(Sha256Digest::from_hex(ABC), Ok(sha256(b"abc")));
        assert_eq!(Sha256Digest::from_hex(&ABC.to_uppercase()), Err(DigestError::Hex));
        assert_eq!(Sha256Digest::from_hex(&ABC.replace('b', "x")), Err(DigestError::Hex));
        let short = DigestError::Length { expected: 32, got: 31 };
        assert_eq!(Sha256Digest::from_hex(ABC.strip_suffix("ad").unwrap()), Err(short));
        assert_eq!(Sha256Digest::from_hex(ABC.strip_suffix('d').unwrap()), Err(short));
        assert_eq!(Sha3_512Digest::from_hex(ABC), Err(DigestError::Length { expected: 64, got: 32 }));
        assert!(Sha256Digest::from_hex(&format!("{ABC} ")).is_err());
    }

    #[test]
    fn a_slice_of_another_length_is_refused() {
        assert_eq!(Sha256Digest::from_slice(&[0; 33]), Err(DigestError::Length { expected: 32, got: 33 }));
        assert_eq!(Sha3_512Digest::from_slice(&[0; 64]), Ok(Sha3_512Digest::ZERO));
    }

    proptest! {
        #[test]
        fn hexadecimal_round_trips(bytes: [u8; 32]) {
            let digest = Sha256Digest::new(bytes);
            prop_assert_eq!(Sha256Digest::from_hex(&digest.to_hex()), Ok(digest));
            prop_assert_eq!(digest.to_string(), digest.to_hex());
        }

        #[test]
        fn any_text_is_read_or_refused(text in ".{0,80}") {
            if let Ok(digest) = Sha256Digest::from_hex(&text) {
                prop_assert_eq!(digest.to_hex(), text);
            }
        }
    }
}
