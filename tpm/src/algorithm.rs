//! Algorithm identifiers of the TCG registry that this crate understands.
//!
//! Comes in: a TPM_ALG_ID or TPM_ECC_CURVE. Goes out: an enum with its sizes and functions. Any other number is
//! [`UnknownAlgorithm`]: there is no "other" variant to fall through.

use hmac::{KeyInit, Mac};
use sha2::Digest;
use thiserror::Error;

/// TPM_ALG_ID values used in parsing. TCG Algorithm Registry, 6.
pub mod id {
    /// RSA key.
    pub const RSA: u16 = 0x0001;
    /// SHA-1.
    pub const SHA1: u16 = 0x0004;
    /// AES.
    pub const AES: u16 = 0x0006;
    /// SHA-256.
    pub const SHA256: u16 = 0x000b;
    /// SHA-384.
    pub const SHA384: u16 = 0x000c;
    /// SHA-512.
    pub const SHA512: u16 = 0x000d;
    /// No algorithm.
    pub const NULL: u16 = 0x0010;
    /// RSASSA-PKCS1-v1_5.
    pub const RSASSA: u16 = 0x0014;
    /// RSAES-PKCS1-v1_5.
    pub const RSAES: u16 = 0x0015;
    /// RSASSA-PSS.
    pub const RSAPSS: u16 = 0x0016;
    /// RSAES-OAEP.
    pub const OAEP: u16 = 0x0017;
    /// ECDSA.
    pub const ECDSA: u16 = 0x0018;
    /// ECDH.
    pub const ECDH: u16 = 0x0019;
    /// Elliptic curve key.
    pub const ECC: u16 = 0x0023;
    /// Cipher feedback mode.
    pub const CFB: u16 = 0x0043;
}

/// An algorithm or curve number that this crate does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("unknown algorithm 0x{id:04x}")]
pub struct UnknownAlgorithm {
    /// The number found.
    pub id: u16,
}

/// Hash algorithms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HashAlg {
    /// SHA-1: understood in old event logs, refused wherever collision resistance matters.
    Sha1,
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

impl HashAlg {
    /// Every hash known here.
    pub const ALL: [Self; 4] = [Self::Sha1, Self::Sha256, Self::Sha384, Self::Sha512];

    /// From a TPM_ALG_ID.
    pub fn from_id(id: u16) -> Result<Self, UnknownAlgorithm> {
        match id {
            id::SHA1 => Ok(Self::Sha1),
            id::SHA256 => Ok(Self::Sha256),
            id::SHA384 => Ok(Self::Sha384),
            id::SHA512 => Ok(Self::Sha512),
            id => Err(UnknownAlgorithm { id }),
        }
    }

    /// Its TPM_ALG_ID.
    pub const fn id(self) -> u16 {
        match self {
            Self::Sha1 => id::SHA1,
            Self::Sha256 => id::SHA256,
            Self::Sha384 => id::SHA384,
            Self::Sha512 => id::SHA512,
        }
    }

    /// Its usual name in TPM tools: `sha256` and so on.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sha1 => "sha1",
            Self::Sha256 => "sha256",
            Self::Sha384 => "sha384",
            Self::Sha512 => "sha512",
        }
    }

    /// Length of its digest in bytes.
    pub const fn digest_len(self) -> usize {
        match self {
            Self::Sha1 => 20,
            Self::Sha256 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        }
    }

    /// Digest of one message.
    pub fn digest(self, message: &[u8]) -> Vec<u8> {
        self.digest_parts(&[message])
    }

    /// Digest of the concatenation of `parts`.
    pub fn digest_parts(self, parts: &[&[u8]]) -> Vec<u8> {
        fn run<D: Digest>(parts: &[&[u8]]) -> Vec<u8> {
            let mut state = D::new();
            for part in parts {
                state.update(part);
            }
            state.finalize().to_vec()
        }
        match self {
            Self::Sha1 => run::<sha1::Sha1>(parts),
            Self::Sha256 => run::<sha2::Sha256>(parts),
            Self::Sha384 => run::<sha2::Sha384>(parts),
            Self::Sha512 => run::<sha2::Sha512>(parts),
        }
    }

    /// HMAC over the concatenation of `parts`.
    pub fn hmac(self, key: &[u8], parts: &[&[u8]]) -> Vec<u8> {
        fn run<M: Mac + KeyInit>(key: &[u8], parts: &[&[u8]]) -> Vec<u8> {
            // HMAC takes a key of any length (RFC 2104, 2), so the empty answer below is never given.
            let Ok(mut mac) = <M as KeyInit>::new_from_slice(key) else { return Vec::new() };
            for part in parts {
                mac.update(part);
            }
            mac.finalize().into_bytes().to_vec()
        }
        match self {
            Self::Sha1 => run::<hmac::Hmac<sha1::Sha1>>(key, parts),
            Self::Sha256 => run::<hmac::Hmac<sha2::Sha256>>(key, parts),
            Self::Sha384 => run::<hmac::Hmac<sha2::Sha384>>(key, parts),
            Self::Sha512 => run::<hmac::Hmac<sha2::Sha512>>(key, parts),
        }
    }
}

/// Elliptic curves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EccCurve {
    /// NIST P-256.
    P256,
    /// NIST P-384.
    P384,
}

impl EccCurve {
    /// From a TPM_ECC_CURVE. TPM 2.0 Part 4 / TCG Algorithm Registry, 7.2.
    pub fn from_id(id: u16) -> Result<Self, UnknownAlgorithm> {
        match id {
            0x0003 => Ok(Self::P256),
            0x0004 => Ok(Self::P384),
            id => Err(UnknownAlgorithm { id }),
        }
    }

    /// Its TPM_ECC_CURVE.
    pub const fn id(self) -> u16 {
        match self {
            Self::P256 => 0x0003,
            Self::P384 => 0x0004,
        }
    }

    /// Width of a coordinate in bytes.
    pub const fn width(self) -> usize {
        match self {
            Self::P256 => 32,
            Self::P384 => 48,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hash_ids_go_both_ways_and_lengths_are_true() {
        for alg in HashAlg::ALL {
            assert_eq!(HashAlg::from_id(alg.id()), Ok(alg));
            assert_eq!(alg.digest(b"").len(), alg.digest_len());
            assert_eq!(alg.hmac(b"k", &[b"m"]).len(), alg.digest_len());
        }
        // SM3 and SHA3-256 exist in the registry and are not ours.
        assert_eq!(HashAlg::from_id(0x0012), Err(UnknownAlgorithm { id: 0x0012 }));
        assert_eq!(HashAlg::from_id(0x0027), Err(UnknownAlgorithm { id: 0x0027 }));
    }

    #[test]
    fn known_answer_of_rfc_4231_case_2() {
        let mac = HashAlg::Sha256.hmac(b"Jefe", &[b"what do ya want ", b"for nothing?"]);
        let hex = data_encoding::HEXLOWER.encode(&mac);
        assert_eq!(hex, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    }

    #[test]
    fn curve_ids_go_both_ways() {
        for curve in [EccCurve::P256, EccCurve::P384] {
            assert_eq!(EccCurve::from_id(curve.id()), Ok(curve));
        }
        assert!(EccCurve::from_id(0x0005).is_err());
    }
}
