//! A public key as numbers, and the signatures that it can verify.
//!
//! Comes in: RSA modulus and exponent, or curve coordinates, from a TPM public area or an X.509 SubjectPublicKeyInfo.
//! Goes out: one canonical DER encoding of the key, and yes or no to a signature. Refuses SHA-1 signatures, RSA keys
//! outside 2048..=4096 bits, points off their curve, and encodings that are not minimal.

use aws_lc_rs::signature as lc;
use der::asn1::{BitString, ObjectIdentifier, UintRef};
use der::{Any, Decode, Encode, Sequence};
use spki::{AlgorithmIdentifierOwned, SubjectPublicKeyInfoOwned};
use thiserror::Error;

use crate::algorithm::{EccCurve, HashAlg};

const ID_EC_PUBLIC_KEY: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const SECP256R1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
const SECP384R1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.34");
const RSA_ENCRYPTION: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
/// Some vendors label an EK's key with the padding it is used with. RFC 4055 §1.2.
const RSAES_OAEP: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.7");

/// Smallest RSA modulus taken, in bytes.
const RSA_MIN_BYTES: usize = 256;
/// Largest RSA modulus taken, in bytes: the largest that a TPM of the PC Client profile may have.
const RSA_MAX_BYTES: usize = 512;

/// A public key by its numbers. Two keys are equal when their numbers are.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum PublicKey {
    /// RSA.
    Rsa {
        /// Modulus, big endian, no leading zero.
        n: Vec<u8>,
        /// Public exponent.
        e: u32,
    },
    /// Elliptic curve.
    Ecc {
        /// The curve.
        curve: EccCurve,
        /// X coordinate, as wide as the field.
        x: Vec<u8>,
        /// Y coordinate, as wide as the field.
        y: Vec<u8>,
    },
}

/// Why numbers or an encoding are not a usable public key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum KeyError {
    /// The RSA modulus has an unusual size, a leading zero or is even.
    #[error("RSA modulus out of bounds")]
    Modulus,
    /// The RSA exponent is even, below 3 or above 32 bits.
    #[error("RSA exponent out of bounds")]
    Exponent,
    /// The coordinates are wider than the field or not a point of the curve.
    #[error("not a point of the curve")]
    Point,
    /// The key type or curve is none of ours.
    #[error("unsupported key algorithm")]
    Algorithm,
    /// The DER is malformed.
    #[error("malformed SubjectPublicKeyInfo")]
    Encoding,
}

/// The signature does not verify. Nothing more is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("signature does not verify")]
pub struct BadSignature;

/// RSAPublicKey of RFC 8017, A.1.1.
#[derive(Sequence)]
struct RsaPublicKeyDer<'a> {
    n: UintRef<'a>,
    e: UintRef<'a>,
}

/// ECDSA-Sig-Value of RFC 3279, 2.2.3.
#[derive(Sequence)]
struct EcdsaSigValue<'a> {
    r: UintRef<'a>,
    s: UintRef<'a>,
}

/// RSA signature padding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RsaPadding {
    /// RSASSA-PKCS1-v1_5.
    Pkcs1,
    /// RSASSA-PSS, MGF1 with the same hash.
    Pss,
}

impl PublicKey {
    /// An RSA key, bounds checked.
    pub fn rsa(n: &[u8], e: u32) -> Result<Self, KeyError> {
        let top_bit_set = n.first().is_some_and(|b| b & 0x80 != 0);
        let odd = n.last().is_some_and(|b| b & 1 == 1);
        if !(RSA_MIN_BYTES..=RSA_MAX_BYTES).contains(&n.len()) || !top_bit_set || !odd {
            return Err(KeyError::Modulus);
        }
        if e < 3 || e.is_multiple_of(2) {
            return Err(KeyError::Exponent);
        }
        Ok(Self::Rsa { n: n.to_vec(), e })
    }

    /// An elliptic curve key: coordinates are left-padded to the field and must be a point of the curve.
    pub fn ecc(curve: EccCurve, x: &[u8], y: &[u8]) -> Result<Self, KeyError> {
        let x = left_pad(x, curve.width()).ok_or(KeyError::Point)?;
        let y = left_pad(y, curve.width()).ok_or(KeyError::Point)?;
        let key = Self::Ecc { curve, x, y };
        let point = key.sec1().ok_or(KeyError::Point)?;
        let on_curve = match curve {
            EccCurve::P256 => p256::PublicKey::from_sec1_bytes(&point).is_ok(),
            EccCurve::P384 => p384::PublicKey::from_sec1_bytes(&point).is_ok(),
        };
        if on_curve { Ok(key) } else { Err(KeyError::Point) }
    }

    /// From a SubjectPublicKeyInfo.
    pub fn from_spki(spki: &SubjectPublicKeyInfoOwned) -> Result<Self, KeyError> {
        let bits = spki.subject_public_key.as_bytes().ok_or(KeyError::Encoding)?;
        match spki.algorithm.oid {
            RSA_ENCRYPTION | RSAES_OAEP => {
                let key = RsaPublicKeyDer::from_der(bits).map_err(|_| KeyError::Encoding)?;
                let e = left_pad(key.e.as_bytes(), 4).ok_or(KeyError::Exponent)?;
                let e = <[u8; 4]>::try_from(e.as_slice()).map_err(|_| KeyError::Exponent)?;
                Self::rsa(key.n.as_bytes(), u32::from_be_bytes(e))
            }
            ID_EC_PUBLIC_KEY => {
                let parameters = spki.algorithm.parameters.as_ref().ok_or(KeyError::Algorithm)?;
                let curve = match parameters.decode_as::<ObjectIdentifier>() {
                    Ok(SECP256R1) => EccCurve::P256,
                    Ok(SECP384R1) => EccCurve::P384,
                    _ => return Err(KeyError::Algorithm),
                };
                // SEC 1, 2.3.4: only the uncompressed form.
                let Some((0x04, xy)) = bits.split_first() else { return Err(KeyError::Point) };
                if xy.len() != curve.width() * 2 {
                    return Err(KeyError::Point);
                }
                let (x, y) = xy.split_at(curve.width());
                Self::ecc(curve, x, y)
            }
            _ => Err(KeyError::Algorithm),
        }
    }

    /// From DER of a SubjectPublicKeyInfo.
    pub fn from_spki_der(der: &[u8]) -> Result<Self, KeyError> {
        let spki = SubjectPublicKeyInfoOwned::from_der(der).map_err(|_| KeyError::Encoding)?;
        Self::from_spki(&spki)
    }

    /// Uncompressed point, `None` for RSA. SEC 1, 2.3.3.
    pub fn sec1(&self) -> Option<Vec<u8>> {
        match self {
            Self::Rsa { .. } => None,
            Self::Ecc { x, y, .. } => {
                let mut point = Vec::with_capacity(1 + x.len() + y.len());
                point.push(0x04);
                point.extend_from_slice(x);
                point.extend_from_slice(y);
                Some(point)
            }
        }
    }

    /// The one DER encoding of this key, made from its numbers: rsaEncryption with NULL parameters, or
    /// id-ecPublicKey with a named curve and an uncompressed point.
    pub fn spki_der(&self) -> Vec<u8> {
        // Every part is bounded at construction, so encoding has no way to fail; an empty answer would be refused
        // by whoever compares it.
        self.encode_spki().unwrap_or_default()
    }

    fn encode_spki(&self) -> der::Result<Vec<u8>> {
        let (oid, parameters, bits) = match self {
            Self::Rsa { n, e } => {
                let e = e.to_be_bytes();
                let key = RsaPublicKeyDer { n: UintRef::new(n)?, e: UintRef::new(&e)? };
                (RSA_ENCRYPTION, Any::null(), key.to_der()?)
            }
            Self::Ecc { curve, .. } => {
                let oid = match curve {
                    EccCurve::P256 => SECP256R1,
                    EccCurve::P384 => SECP384R1,
                };
                (ID_EC_PUBLIC_KEY, Any::encode_from(&oid)?, self.sec1().unwrap_or_default())
            }
        };
        SubjectPublicKeyInfoOwned {
            algorithm: AlgorithmIdentifierOwned { oid, parameters: Some(parameters) },
            subject_public_key: BitString::from_bytes(&bits)?,
        }
        .to_der()
    }

    /// Verifies an ECDSA signature given as two integers of at most the width of the field.
    pub fn verify_ecdsa(
        &self,
        hash: HashAlg,
        message: &[u8],
        r: &[u8],
        s: &[u8],
    ) -> Result<(), BadSignature> {
        let Self::Ecc { curve, .. } = self else { return Err(BadSignature) };
        let point = self.sec1().ok_or(BadSignature)?;
        let r = left_pad(r, curve.width()).ok_or(BadSignature)?;
        let s = left_pad(s, curve.width()).ok_or(BadSignature)?;
        let (algorithm, signature): (&'static dyn lc::VerificationAlgorithm, Vec<u8>) = match (curve, hash) {
            (EccCurve::P256, HashAlg::Sha256) => (&lc::ECDSA_P256_SHA256_FIXED, [r, s].concat()),
            (EccCurve::P384, HashAlg::Sha384) => (&lc::ECDSA_P384_SHA384_FIXED, [r, s].concat()),
            (EccCurve::P256, HashAlg::Sha384) => (&lc::ECDSA_P256_SHA384_ASN1, ecdsa_der(&r, &s)?),
            (EccCurve::P256, HashAlg::Sha512) => (&lc::ECDSA_P256_SHA512_ASN1, ecdsa_der(&r, &s)?),
            (EccCurve::P384, HashAlg::Sha256) => (&lc::ECDSA_P384_SHA256_ASN1, ecdsa_der(&r, &s)?),
            (EccCurve::P384, HashAlg::Sha512) => (&lc::ECDSA_P384_SHA512_ASN1, ecdsa_der(&r, &s)?),
            (_, HashAlg::Sha1) => return Err(BadSignature),
        };
        lc::UnparsedPublicKey::new(algorithm, point).verify(message, &signature).map_err(|_| BadSignature)
    }

    /// Verifies an ECDSA signature in DER (X.509).
    pub fn verify_ecdsa_der(&self, hash: HashAlg, message: &[u8], der: &[u8]) -> Result<(), BadSignature> {
        let value = EcdsaSigValue::from_der(der).map_err(|_| BadSignature)?;
        self.verify_ecdsa(hash, message, value.r.as_bytes(), value.s.as_bytes())
    }

    /// Verifies an RSA signature exactly as long as the modulus.
    pub fn verify_rsa(
        &self,
        padding: RsaPadding,
        hash: HashAlg,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), BadSignature> {
        let Self::Rsa { n, e } = self else { return Err(BadSignature) };
        if signature.len() != n.len() {
            return Err(BadSignature);
        }
        let e = e.to_be_bytes();
        let e = strip_zeros(&e);
        let key = lc::RsaPublicKeyComponents { n: n.as_slice(), e };
        let one = |parameters: &lc::RsaParameters| {
            key.verify(parameters, message, signature).map_err(|_| BadSignature)
        };
        match (padding, hash) {
            (RsaPadding::Pkcs1, HashAlg::Sha256) => one(&lc::RSA_PKCS1_2048_8192_SHA256),
            (RsaPadding::Pkcs1, HashAlg::Sha384) => one(&lc::RSA_PKCS1_2048_8192_SHA384),
            (RsaPadding::Pkcs1, HashAlg::Sha512) => one(&lc::RSA_PKCS1_2048_8192_SHA512),
            // TPM 2.0 Part 1, B.7: the salt is as long as the digest, or in older revisions as long as fits.
            (RsaPadding::Pss, HashAlg::Sha256) => {
                one(&lc::RSA_PSS_2048_8192_SHA256).or_else(|_| one(&PSS_MAX_SHA256))
            }
            (RsaPadding::Pss, HashAlg::Sha384) => {
                one(&lc::RSA_PSS_2048_8192_SHA384).or_else(|_| one(&PSS_MAX_SHA384))
            }
            (RsaPadding::Pss, HashAlg::Sha512) => {
                one(&lc::RSA_PSS_2048_8192_SHA512).or_else(|_| one(&PSS_MAX_SHA512))
            }
            (_, HashAlg::Sha1) => Err(BadSignature),
        }
    }
}

const PSS_MAX_SHA256: lc::RsaParameters =
    lc::RSA_PSS_2048_8192_SHA256.with_pss_salt_length(lc::RsaPssSaltLength::Max);
const PSS_MAX_SHA384: lc::RsaParameters =
    lc::RSA_PSS_2048_8192_SHA384.with_pss_salt_length(lc::RsaPssSaltLength::Max);
const PSS_MAX_SHA512: lc::RsaParameters =
    lc::RSA_PSS_2048_8192_SHA512.with_pss_salt_length(lc::RsaPssSaltLength::Max);

fn ecdsa_der(r: &[u8], s: &[u8]) -> Result<Vec<u8>, BadSignature> {
    let value = EcdsaSigValue {
        r: UintRef::new(r).map_err(|_| BadSignature)?,
        s: UintRef::new(s).map_err(|_| BadSignature)?,
    };
    value.to_der().map_err(|_| BadSignature)
}

fn strip_zeros(bytes: &[u8]) -> &[u8] {
    let zeros = bytes.iter().take_while(|b| **b == 0).count();
    bytes.get(zeros..).unwrap_or_default()
}

/// `bytes` as exactly `width` bytes, zeros in front; `None` when its number does not fit.
pub(crate) fn left_pad(bytes: &[u8], width: usize) -> Option<Vec<u8>> {
    let digits = strip_zeros(bytes);
    let zeros = width.checked_sub(digits.len())?;
    let mut padded = vec![0; zeros];
    padded.extend_from_slice(digits);
    Some(padded)
}

#[cfg(test)]
#[path = "key_tests.rs"]
mod tests;
