//! Signatures made by a TPM.
//!
//! Comes in: a marshalled TPMT_SIGNATURE, the signer's public area and the message. Goes out: whether that key made
//! it. Refuses unknown schemes, SHA-1, a scheme or hash other than the one that the key is bound to, and anything
//! left over.

use thiserror::Error;

use crate::algorithm::{HashAlg, id};
use crate::key::RsaPadding;
use crate::public::{Public, Scheme};
use crate::wire::{Reader, WireError};

/// Widest integer of a signature: that of an RSA-4096 key.
const MAX_RSA_BYTES: usize = 512;
/// Widest ECDSA integer: P-384.
const MAX_ECC_BYTES: usize = 48;

/// TPMT_SIGNATURE. TPM 2.0 Part 2, 11.3.4.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Signature {
    /// ECDSA.
    Ecdsa {
        /// Hash of the message.
        hash: HashAlg,
        /// First integer, big endian, possibly without leading zeros.
        r: Vec<u8>,
        /// Second integer.
        s: Vec<u8>,
    },
    /// RSASSA-PKCS1-v1_5.
    RsaSsa {
        /// Hash of the message.
        hash: HashAlg,
        /// The signature.
        signature: Vec<u8>,
    },
    /// RSASSA-PSS.
    RsaPss {
        /// Hash of the message.
        hash: HashAlg,
        /// The signature.
        signature: Vec<u8>,
    },
}

/// Why a signature is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SignatureError {
    /// Truncated, oversized or left over bytes.
    #[error("malformed signature: {0}")]
    Wire(#[from] WireError),
    /// Not ECDSA, RSASSA or RSAPSS.
    #[error("signature scheme 0x{0:04x} not supported")]
    Scheme(u16),
    /// Not SHA-256, SHA-384 or SHA-512.
    #[error("signature hash 0x{0:04x} not supported")]
    Hash(u16),
    /// The key is bound to another scheme or hash, or is of another type.
    #[error("signature scheme is not that of the key")]
    Mismatch,
    /// The signature does not verify.
    #[error("signature does not verify")]
    Invalid,
}

impl Signature {
    /// Reads a marshalled TPMT_SIGNATURE.
    pub fn parse(bytes: &[u8]) -> Result<Self, SignatureError> {
        let mut reader = Reader::new(bytes);
        let scheme = reader.u16()?;
        if ![id::ECDSA, id::RSASSA, id::RSAPSS].contains(&scheme) {
            return Err(SignatureError::Scheme(scheme));
        }
        let hash = match reader.u16()? {
            id::SHA256 => HashAlg::Sha256,
            id::SHA384 => HashAlg::Sha384,
            id::SHA512 => HashAlg::Sha512,
            other => return Err(SignatureError::Hash(other)),
        };
        let parsed = match scheme {
            id::ECDSA => {
                let r = reader.tpm2b(MAX_ECC_BYTES)?.to_vec();
                let s = reader.tpm2b(MAX_ECC_BYTES)?.to_vec();
                Self::Ecdsa { hash, r, s }
            }
            id::RSASSA => Self::RsaSsa { hash, signature: reader.tpm2b(MAX_RSA_BYTES)?.to_vec() },
            _ => Self::RsaPss { hash, signature: reader.tpm2b(MAX_RSA_BYTES)?.to_vec() },
        };
        reader.finish()?;
        Ok(parsed)
    }

    /// Hash of the signed message.
    pub fn hash(&self) -> HashAlg {
        match self {
            Self::Ecdsa { hash, .. } | Self::RsaSsa { hash, .. } | Self::RsaPss { hash, .. } => *hash,
        }
    }

    fn scheme(&self) -> Scheme {
        match self {
            Self::Ecdsa { hash, .. } => Scheme::Ecdsa(*hash),
            Self::RsaSsa { hash, .. } => Scheme::RsaSsa(*hash),
            Self::RsaPss { hash, .. } => Scheme::RsaPss(*hash),
        }
    }
}

/// Verifies `signature` over `message` by the key `public`. A key that is bound to a scheme signs with no other
/// (TPM 2.0 Part 1, 25.2.2), so none other is looked at.
pub fn verify(public: &Public, message: &[u8], signature: &Signature) -> Result<(), SignatureError> {
    if public.scheme().is_some_and(|bound| bound != signature.scheme()) {
        return Err(SignatureError::Mismatch);
    }
    let key = public.key();
    match signature {
        Signature::Ecdsa { hash, r, s } => key.verify_ecdsa(*hash, message, r, s),
        Signature::RsaSsa { hash, signature } => key.verify_rsa(RsaPadding::Pkcs1, *hash, message, signature),
        Signature::RsaPss { hash, signature } => key.verify_rsa(RsaPadding::Pss, *hash, message, signature),
    }
    .map_err(|_| SignatureError::Invalid)
}
