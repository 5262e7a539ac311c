//! Verification keys (PROTOCOL §1.4): Ed25519 and P-256, checked when they are made, parsed once, used many times.
//!
//! In: raw points, SubjectPublicKeyInfo DER, COSE_Key or JSON. Out: the same forms again, byte for byte, a thumbprint,
//! and the verdict on signatures. Refused: points off the curve, Ed25519 points of small order or in a second
//! encoding, compressed P-256 points, any other algorithm, any variation of the fixed encodings.

use std::fmt;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, ParsedPublicKey};
use data_encoding::BASE64URL_NOPAD;
use serde::{Deserialize, Serialize};

use crate::cbor::{self, CborError, Decoder};
use crate::digest::{Sha256Digest, sha256};

mod known;

pub use known::{KnownKeys, MAX_KNOWN};

#[cfg(test)]
mod tests;

/// RFC 8410 section 4: SEQUENCE { SEQUENCE { OID 1.3.101.112 }, BIT STRING of 32 bytes }, up to the key.
const SPKI_ED25519: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
/// RFC 5480 section 2: SEQUENCE { SEQUENCE { id-ecPublicKey, secp256r1 }, BIT STRING of 65 bytes }, up to the point.
const SPKI_P256: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
/// SEC 1 section 2.3.3: the first byte of an uncompressed point.
const SEC1_UNCOMPRESSED: u8 = 0x04;

// RFC 9052 section 7.1 and RFC 9053 section 7: labels and values of a COSE_Key.
const COSE_KTY: i64 = 1;
const COSE_CRV: i64 = -1;
const COSE_X: i64 = -2;
const COSE_Y: i64 = -3;
const KTY_OKP: u64 = 1;
const KTY_EC2: u64 = 2;
const CRV_P256: u64 = 1;
const CRV_ED25519: u64 = 6;

/// Bytes of a signature, for both algorithms: R || S, or r || s.
pub const SIGNATURE_LEN: usize = 64;

/// The one algorithm that a key is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Algorithm {
    /// Ed25519 (RFC 8032), pure.
    EdDsa,
    /// ECDSA on P-256 with SHA-256, signature as r || s.
    Es256,
}

impl Algorithm {
    /// The JOSE name (RFC 7518 section 3.1, RFC 8037 section 3.1).
    pub const fn name(self) -> &'static str {
        match self {
            Self::EdDsa => "EdDSA",
            Self::Es256 => "ES256",
        }
    }
}

/// Why something is not a key that can be used here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not 32 bytes (Ed25519) or 65 bytes (P-256).
    #[error("a public key of this algorithm has another length")]
    Length,
    /// The point is not on the curve, at infinity, or compressed.
    #[error("not an uncompressed point of the curve")]
    Point,
    /// An Ed25519 point with more than one encoding, in one that RFC 8032 section 5.1.3 does not produce.
    #[error("the point is not encoded canonically")]
    NotCanonical,
    /// An Ed25519 point of small order, for which signatures prove nothing.
    #[error("the point has small order")]
    Weak,
    /// The SubjectPublicKeyInfo is not one of the two accepted, byte for byte.
    #[error("not the SubjectPublicKeyInfo of an Ed25519 or P-256 key")]
    Spki,
    /// The COSE_Key is not deterministic CBOR of the accepted shape.
    #[error("not an accepted COSE_Key")]
    CoseBytes(#[from] CborError),
    /// The COSE_Key has another type or curve.
    #[error("the COSE_Key has an unsupported type or curve")]
    CoseType,
    /// The algorithm name is not `EdDSA` or `ES256`.
    #[error("the key's algorithm is not supported")]
    Algorithm,
    /// The public key is not base64url without padding.
    #[error("the public key is not base64url")]
    Base64,
}

/// The signature does not verify under this key over this message. Says no more on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the signature is invalid")]
pub struct SignatureInvalid;

/// A checked public key, parsed once.
#[derive(Clone, Serialize, Deserialize)]
#[serde(try_from = "JsonKey", into = "JsonKey")]
pub struct VerifyingKey {
    parsed: Parsed,
}

#[derive(Clone)]
enum Parsed {
    Ed25519(ed25519_dalek::VerifyingKey),
    P256 { point: [u8; 65], key: ParsedPublicKey },
}

impl VerifyingKey {
    /// An Ed25519 key from its 32 bytes (RFC 8032 section 5.1.2).
    ///
    /// # Errors
    /// [`KeyError::Point`], [`KeyError::NotCanonical`], [`KeyError::Weak`].
    pub fn ed25519(bytes: &[u8; 32]) -> Result<Self, KeyError> {
        let key = ed25519_dalek::VerifyingKey::from_bytes(bytes).map_err(|_| KeyError::Point)?;
        // RFC 8032 section 5.1.3 decodes only y < p, and x = 0 only without a sign; the curve library takes more. One key, one encoding.
        if !is_canonical(bytes) {
            return Err(KeyError::NotCanonical);
        }
        if key.is_weak() {
            return Err(KeyError::Weak);
        }
        Ok(Self { parsed: Parsed::Ed25519(key) })
    }

    /// A P-256 key from its uncompressed point, 0x04 || x || y (SEC 1 section 2.3.3).
    ///
    /// # Errors
    /// [`KeyError::Point`].
    pub fn p256(point: &[u8; 65]) -> Result<Self, KeyError> {
        if point.first() != Some(&SEC1_UNCOMPRESSED) {
            return Err(KeyError::Point);
        }
        // Decoding checks that both coordinates are below the prime and that the point is on the curve.
        let key = ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).map_err(|_| KeyError::Point)?;
        Ok(Self { parsed: Parsed::P256 { point: *point, key } })
    }

    /// A key from its algorithm and raw bytes, the inverse of [`VerifyingKey::raw`].
    ///
    /// # Errors
    /// [`KeyError::Length`], and what the algorithm's own constructor refuses.
    pub fn from_raw(algorithm: Algorithm, raw: &[u8]) -> Result<Self, KeyError> {
        match algorithm {
            Algorithm::EdDsa => Self::ed25519(raw.try_into().map_err(|_| KeyError::Length)?),
            Algorithm::Es256 => Self::p256(raw.try_into().map_err(|_| KeyError::Length)?),
        }
    }

    /// A key from DER, byte for byte what [`VerifyingKey::spki_der`] writes.
    ///
    /// # Errors
    /// [`KeyError::Spki`], and what the algorithm's own constructor refuses.
    pub fn from_spki_der(der: &[u8]) -> Result<Self, KeyError> {
        if let Some(raw) = der.strip_prefix(&SPKI_ED25519) {
            return Self::ed25519(raw.try_into().map_err(|_| KeyError::Spki)?);
        }
        if let Some(raw) = der.strip_prefix(&SPKI_P256) {
            return Self::p256(raw.try_into().map_err(|_| KeyError::Spki)?);
        }
        Err(KeyError::Spki)
    }

    /// A key from a COSE_Key, byte for byte what [`VerifyingKey::cose_key`] writes: no key id, no algorithm, no
    /// compressed point.
    ///
    /// # Errors
    /// [`KeyError::CoseBytes`], [`KeyError::CoseType`], and what the algorithm's own constructor refuses.
    pub fn from_cose_key(bytes: &[u8]) -> Result<Self, KeyError> {
        let mut d = Decoder::new(bytes)?;
        let entries = d.map()?;
        d.expect_key(COSE_KTY)?;
        let kty = d.uint()?;
        d.expect_key(COSE_CRV)?;
        let crv = d.uint()?;
        let key = match (kty, crv, entries) {
            (KTY_OKP, CRV_ED25519, 3) => {
                d.expect_key(COSE_X)?;
                Self::ed25519(&d.byte_array()?)
            }
            (KTY_EC2, CRV_P256, 4) => {
                d.expect_key(COSE_X)?;
                let x: [u8; 32] = d.byte_array()?;
                d.expect_key(COSE_Y)?;
                let y: [u8; 32] = d.byte_array()?;
                let point = [&[SEC1_UNCOMPRESSED][..], &x, &y].concat();
                Self::from_raw(Algorithm::Es256, &point)
            }
            _ => Err(KeyError::CoseType),
        }?;
        d.finish()?;
        Ok(key)
    }

    /// The algorithm.
    pub fn algorithm(&self) -> Algorithm {
        match &self.parsed {
            Parsed::Ed25519(_) => Algorithm::EdDsa,
            Parsed::P256 { .. } => Algorithm::Es256,
        }
    }

    /// 32 bytes (Ed25519), or 65 bytes 0x04 || x || y (P-256).
    pub fn raw(&self) -> &[u8] {
        match &self.parsed {
            Parsed::Ed25519(key) => key.as_bytes(),
            Parsed::P256 { point, .. } => point,
        }
    }

    /// SubjectPublicKeyInfo (RFC 8410, RFC 5480) in DER.
    pub fn spki_der(&self) -> Vec<u8> {
        let prefix: &[u8] = match self.algorithm() {
            Algorithm::EdDsa => &SPKI_ED25519,
            Algorithm::Es256 => &SPKI_P256,
        };
        [prefix, self.raw()].concat()
    }

    /// COSE_Key (RFC 9052 section 7, RFC 9053 section 7) with key type, curve and coordinates, nothing else.
    pub fn cose_key(&self) -> Vec<u8> {
        let (kty, crv) = match self.algorithm() {
            Algorithm::EdDsa => (KTY_OKP, CRV_ED25519),
            Algorithm::Es256 => (KTY_EC2, CRV_P256),
        };
        cbor::encode_map(|m| {
            m.entry(COSE_KTY).uint(kty);
            m.entry(COSE_CRV).uint(crv);
            match &self.parsed {
                Parsed::Ed25519(key) => m.entry(COSE_X).bytes(key.as_bytes()),
                Parsed::P256 { point, .. } => {
                    let (x, y) = point.get(1..).and_then(|xy| xy.split_at_checked(32)).unwrap_or_default();
                    m.entry(COSE_X).bytes(x);
                    m.entry(COSE_Y).bytes(y);
                }
            }
        })
    }

    /// SHA-256 of [`VerifyingKey::spki_der`]: the key's name wherever a digest stands for it.
    pub fn thumbprint(&self) -> Sha256Digest {
        sha256(&self.spki_der())
    }

    /// Checks a signature of [`SIGNATURE_LEN`] bytes over exactly `message`.
    ///
    /// # Errors
    /// [`SignatureInvalid`], whatever the reason.
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> Result<(), SignatureInvalid> {
        let signature: &[u8; SIGNATURE_LEN] = signature.try_into().map_err(|_| SignatureInvalid)?;
        match &self.parsed {
            Parsed::Ed25519(key) => {
                let signature = ed25519_dalek::Signature::from_bytes(signature);
                key.verify_strict(message, &signature).map_err(|_| SignatureInvalid)
            }
            Parsed::P256 { key, .. } => key.verify_sig(message, signature).map_err(|_| SignatureInvalid),
        }
    }
}

/// Whether the encoding of a point is the one that RFC 8032 section 5.1.2 produces. Compared as bytes: encoding the point again would cost
/// an inversion for every key that is read.
fn is_canonical(bytes: &[u8; 32]) -> bool {
    // p = 2^255 - 19, little endian.
    const P: [u8; 32] = {
        let mut p = [0xff; 32];
        p[0] = 0xed;
        p[31] = 0x7f;
        p
    };
    const ONE: [u8; 32] = {
        let mut one = [0; 32];
        one[0] = 1;
        one
    };
    const MINUS_ONE: [u8; 32] = {
        let mut minus_one = P;
        minus_one[0] = 0xec;
        minus_one
    };
    let mut y = *bytes;
    let [.., last] = &mut y;
    let signed = *last & 0x80 != 0;
    *last &= 0x7f;
    // x is 0 for these two only, and has no sign then.
    let without_x = y == ONE || y == MINUS_ONE;
    y.iter().rev().lt(P.iter().rev()) && !(signed && without_x)
}

impl PartialEq for VerifyingKey {
    fn eq(&self, other: &Self) -> bool {
        self.algorithm() == other.algorithm() && self.raw() == other.raw()
    }
}

impl Eq for VerifyingKey {}

impl fmt::Debug for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VerifyingKey({}, {:?})", self.algorithm().name(), self.thumbprint())
    }
}

/// A key in JSON: `{"alg": "EdDSA" | "ES256", "pub": base64url of the raw bytes}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JsonKey {
    /// JOSE algorithm name.
    pub alg: String,
    /// [`VerifyingKey::raw`] in base64url without padding (RFC 4648 section 5).
    #[serde(rename = "pub")]
    pub public: String,
}

impl From<VerifyingKey> for JsonKey {
    fn from(key: VerifyingKey) -> Self {
        Self { alg: key.algorithm().name().to_owned(), public: BASE64URL_NOPAD.encode(key.raw()) }
    }
}

impl TryFrom<JsonKey> for VerifyingKey {
    type Error = KeyError;

    fn try_from(json: JsonKey) -> Result<Self, KeyError> {
        let algorithm = [Algorithm::EdDsa, Algorithm::Es256].into_iter().find(|a| a.name() == json.alg);
        let algorithm = algorithm.ok_or(KeyError::Algorithm)?;
        // 65 bytes are 87 characters: anything longer is no key and is not decoded.
        if json.public.len() > 87 {
            return Err(KeyError::Length);
        }
        let raw = BASE64URL_NOPAD.decode(json.public.as_bytes()).map_err(|_| KeyError::Base64)?;
        Self::from_raw(algorithm, &raw)
    }
}
