//! Keys and signatures of certificates.
//!
//! Comes in: a SubjectPublicKeyInfo or an AlgorithmIdentifier as DER. Goes out: [`CertifiedKey`], which verifies what a certificate claims to
//! be signed with. Refused: everything but RSA of 2048 to 4096 bits with PKCS#1 v1.5 or PSS and ECDSA on P-256, P-384 and P-521, each with
//! SHA-256, SHA-384 or SHA-512; so SHA-1 and MD5 never verify, although certificates signed with them are read.

use super::EkRefusal;
use super::tlv::{Elements, NULL, OID, SEQUENCE, context};
use crate::algorithm::{EccCurve, HashAlg};
use crate::key::{KeyError, PublicKey, RsaPadding};
use aws_lc_rs::signature as lc;
use der::asn1::ObjectIdentifier;

const RSA_ENCRYPTION: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
/// Some manufacturers label an EK's key with the padding that it is used with. RFC 4055 §1.2, §4.
const RSAES_OAEP: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.7");
const RSASSA_PSS: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.10");
const MGF1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.8");
const SHA256_WITH_RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.11");
const SHA384_WITH_RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.12");
const SHA512_WITH_RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.13");
const EC_PUBLIC_KEY: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const SECP256R1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
const SECP384R1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.34");
const SECP521R1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.35");
const ECDSA_SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.2");
const ECDSA_SHA384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.3");
const ECDSA_SHA512: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.4");
const SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.1");
const SHA384: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.2");
const SHA512: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.3");

/// Bytes of an uncompressed P-521 point. SEC 1, 2.3.3.
const P521_POINT_BYTES: usize = 1 + 2 * 66;

/// A key in a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum CertifiedKey {
    /// One that a TPM could have.
    Known(PublicKey),
    /// A point of P-521, which some issuers use.
    P521(Vec<u8>),
}

/// How something is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scheme {
    Rsa(RsaPadding, HashAlg),
    Ecdsa(HashAlg),
    /// Read and never verified: its number.
    Refused(ObjectIdentifier),
}

impl CertifiedKey {
    /// Reads the content of a SubjectPublicKeyInfo's SEQUENCE. RFC 5280 §4.1.2.7.
    pub(super) fn read(content: &[u8]) -> Result<Self, EkRefusal> {
        let mut info = Elements::of(content, "public key");
        let mut algorithm = info.inside(SEQUENCE)?;
        let bits = info.whole_bits()?;
        info.finish()?;
        let number = algorithm.oid()?;
        match number {
            // The parameters of the latter two say how to use the key, not which it is.
            RSA_ENCRYPTION | RSAES_OAEP | RSASSA_PSS => rsa(bits).map(Self::Known),
            EC_PUBLIC_KEY if algorithm.peek() == Some(OID) => {
                let curve = algorithm.oid()?;
                algorithm.finish()?;
                point(curve, bits)
            }
            _ => Err(EkRefusal::Key(KeyError::Algorithm)),
        }
    }

    /// A key that a TPM's own key can be compared with.
    pub(super) fn known(&self) -> Result<&PublicKey, EkRefusal> {
        match self {
            Self::Known(key) => Ok(key),
            Self::P521(_) => Err(EkRefusal::Key(KeyError::Algorithm)),
        }
    }

    /// What kind of key it is, in words.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Known(PublicKey::Rsa { n, .. }) => format!("RSA-{}", n.len() * 8),
            Self::Known(PublicKey::Ecc { curve: EccCurve::P256, .. }) => "P-256".to_owned(),
            Self::Known(PublicKey::Ecc { curve: EccCurve::P384, .. }) => "P-384".to_owned(),
            Self::P521(_) => "P-521".to_owned(),
        }
    }

    /// Whether this key signed the message.
    pub(super) fn verify(&self, scheme: Scheme, message: &[u8], signature: &[u8]) -> Result<(), EkRefusal> {
        let bad = |_| EkRefusal::SignatureInvalid;
        match (self, scheme) {
            (_, Scheme::Refused(number)) => Err(EkRefusal::SignatureAlgorithm(number.to_string())),
            (Self::Known(key), Scheme::Rsa(padding, hash)) => {
                key.verify_rsa(padding, hash, message, signature).map_err(bad)
            }
            (Self::Known(key), Scheme::Ecdsa(hash)) => {
                key.verify_ecdsa_der(hash, message, signature).map_err(bad)
            }
            (Self::P521(point), Scheme::Ecdsa(hash)) => {
                let algorithm = match hash {
                    HashAlg::Sha256 => &lc::ECDSA_P521_SHA256_ASN1,
                    HashAlg::Sha384 => &lc::ECDSA_P521_SHA384_ASN1,
                    HashAlg::Sha512 => &lc::ECDSA_P521_SHA512_ASN1,
                    HashAlg::Sha1 => return Err(EkRefusal::SignatureInvalid),
                };
                let key = lc::UnparsedPublicKey::new(algorithm, point);
                key.verify(message, signature).map_err(|_| EkRefusal::SignatureInvalid)
            }
            (Self::P521(_), Scheme::Rsa(..)) => Err(EkRefusal::SignatureInvalid),
        }
    }
}

/// RSAPublicKey. RFC 8017, A.1.1.
fn rsa(bits: &[u8]) -> Result<PublicKey, EkRefusal> {
    let mut outer = Elements::of(bits, "RSA key");
    let mut key = outer.inside(SEQUENCE)?;
    outer.finish()?;
    let modulus = key.unsigned()?;
    let exponent = key.small()?;
    key.finish()?;
    Ok(PublicKey::rsa(modulus, exponent)?)
}

/// ECPoint. RFC 5480 §2.2; only the uncompressed form.
fn point(curve: ObjectIdentifier, bits: &[u8]) -> Result<CertifiedKey, EkRefusal> {
    let curve = match curve {
        SECP256R1 => EccCurve::P256,
        SECP384R1 => EccCurve::P384,
        // That the point is on the curve is checked when a signature is.
        SECP521R1 if bits.len() == P521_POINT_BYTES && bits.first() == Some(&0x04) => {
            return Ok(CertifiedKey::P521(bits.to_vec()));
        }
        SECP521R1 => return Err(EkRefusal::Key(KeyError::Point)),
        _ => return Err(EkRefusal::Key(KeyError::Algorithm)),
    };
    let Some((0x04, xy)) = bits.split_first() else { return Err(EkRefusal::Key(KeyError::Point)) };
    if xy.len() != curve.width() * 2 {
        return Err(EkRefusal::Key(KeyError::Point));
    }
    let (x, y) = xy.split_at(curve.width());
    Ok(CertifiedKey::Known(PublicKey::ecc(curve, x, y)?))
}

impl Scheme {
    /// Reads the content of an AlgorithmIdentifier's SEQUENCE.
    pub(super) fn read(content: &[u8]) -> Result<Self, EkRefusal> {
        let mut algorithm = Elements::of(content, "signature algorithm");
        let number = algorithm.oid()?;
        let simple = match number {
            SHA256_WITH_RSA => Self::Rsa(RsaPadding::Pkcs1, HashAlg::Sha256),
            SHA384_WITH_RSA => Self::Rsa(RsaPadding::Pkcs1, HashAlg::Sha384),
            SHA512_WITH_RSA => Self::Rsa(RsaPadding::Pkcs1, HashAlg::Sha512),
            ECDSA_SHA256 => Self::Ecdsa(HashAlg::Sha256),
            ECDSA_SHA384 => Self::Ecdsa(HashAlg::Sha384),
            ECDSA_SHA512 => Self::Ecdsa(HashAlg::Sha512),
            RSASSA_PSS => return pss(algorithm),
            other => return Ok(Self::Refused(other)),
        };
        // RFC 5758 §3.2 wants no parameters for ECDSA; one manufacturer writes NULL there as for RSA.
        match algorithm.optional(NULL)? {
            None | Some([]) => algorithm.finish().map(|()| simple),
            Some(_) => Err(algorithm.malformed()),
        }
    }
}

/// RSASSA-PSS-params. RFC 4055 §3.1: one hash for message and mask, a salt as long as it; what is absent means SHA-1.
fn pss(mut algorithm: Elements<'_>) -> Result<Scheme, EkRefusal> {
    let refused = Scheme::Refused(RSASSA_PSS);
    if algorithm.is_empty() {
        return Ok(refused);
    }
    let mut parameters = algorithm.inside(SEQUENCE)?;
    algorithm.finish()?;
    let hash = match parameters.optional(context(0))? {
        Some(content) => digest(content)?,
        None => None,
    };
    let mask = match parameters.optional(context(1))? {
        Some(content) => {
            let mut outer = Elements::of(content, "mask generation");
            let mut mask = outer.inside(SEQUENCE)?;
            outer.finish()?;
            if mask.oid()? == MGF1 { digest(mask.rest())? } else { None }
        }
        None => None,
    };
    let salt = match parameters.optional(context(2))? {
        Some(content) => Elements::of(content, "salt length").small()?,
        None => 20,
    };
    let trailer = match parameters.optional(context(3))? {
        Some(content) => Elements::of(content, "trailer").small()?,
        None => 1,
    };
    parameters.finish()?;
    Ok(match hash {
        Some(hash)
            if mask == Some(hash) && usize::try_from(salt) == Ok(hash.digest_len()) && trailer == 1 =>
        {
            Scheme::Rsa(RsaPadding::Pss, hash)
        }
        _ => refused,
    })
}

fn digest(content: &[u8]) -> Result<Option<HashAlg>, EkRefusal> {
    let mut outer = Elements::of(content, "hash algorithm");
    let mut algorithm = outer.inside(SEQUENCE)?;
    outer.finish()?;
    Ok(match algorithm.oid()? {
        SHA256 => Some(HashAlg::Sha256),
        SHA384 => Some(HashAlg::Sha384),
        SHA512 => Some(HashAlg::Sha512),
        _ => None,
    })
}
