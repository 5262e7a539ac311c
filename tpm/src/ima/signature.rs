//! Signatures over file digests, as `security.ima` carries them and as they are appended to modules, against an operator's keys.
//!
//! Comes in: certificates or public keys in DER; the signature field of an entry, or its appended signature. Goes out: which key vouches for
//! the digest. Refused: keys below the floor, signatures of other forms than documented.
//!
//! Form of the first (the second's is in [`super::modsig`]): type, version, hash, key id, length, signature (Linux security/integrity/integrity.h, signature_v2_hdr). Type 3
//! version 2 signs the file digest itself; type 6 version 3 signs `[6, hash, fs-verity digest]`
//! (Documentation/security/IMA-templates.rst, Documentation/filesystems/fsverity.rst). RSA is PKCS #1 v1.5, ECDSA is DER.
//! Version 3 was never seen on real data.

use aws_lc_rs::digest as lc_digest;
use aws_lc_rs::signature as lc;
use der::Decode;
use der::asn1::{ObjectIdentifier, OctetStringRef};
use spki::SubjectPublicKeyInfoOwned;
use thiserror::Error;

use super::modsig::{self, AppendedSignature, Scheme, Signer};
use super::template::{Appended, DigestKind, FileAlg, Measured};
use crate::algorithm::{EccCurve, HashAlg};
use crate::key::{KeyError, PublicKey};
use crate::wire::Reader;

/// Most keys of a keyring.
pub const MAX_KEYS: usize = 64;
/// Longest certificate or key, bytes.
pub const MAX_KEY_BYTES: usize = 16 * 1024;

const SUBJECT_KEY_IDENTIFIER: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.14");

/// The last four bytes of a subject key identifier: how a signature names its key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(pub [u8; 4]);

impl std::fmt::Display for KeyId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl std::fmt::Debug for KeyId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

/// The weakest keys and hashes that count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyFloor {
    /// RSA from 2048 bits, P-256, P-384; SHA-256 and longer.
    Sound,
    /// RSA from 1024 bits and SHA-1 as well. Such signatures can be forged; for reading old lists.
    DangerLegacy,
}

/// Why bytes are no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum KeyringError {
    /// Above [`MAX_KEYS`].
    #[error("more than {MAX_KEYS} keys")]
    TooManyKeys,
    /// Above [`MAX_KEY_BYTES`], or neither a certificate nor a SubjectPublicKeyInfo.
    #[error("neither a certificate nor a public key")]
    Malformed,
    /// Another key has the same four bytes by which signatures and rules name it; who made the certificate chose them.
    #[error("another key has the same identifier")]
    Ambiguous,
    /// A key that isn't usable.
    #[error("{0}")]
    Key(#[from] KeyError),
}

#[derive(Debug, Clone)]
enum Verifier {
    Sound(PublicKey),
    /// RSAPublicKey in DER, below 2048 bits.
    LegacyRsa(Vec<u8>),
}

/// What a signature field is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// There is no signature.
    Absent,
    /// This key signed this digest.
    Valid(KeyId),
    /// No key of the keyring has this id.
    UnknownKey(KeyId),
    /// No certificate of the keyring is the one that an appended signature names, and no bare key made it.
    UnknownSigner,
    /// The key with this id did not sign this digest.
    Invalid(KeyId),
    /// A form, hash or key type that isn't taken.
    Unsupported,
}

/// A key by all its names.
#[derive(Debug, Clone)]
struct Key {
    id: KeyId,
    /// The whole identifier, of which `id` is the end.
    identifier: Vec<u8>,
    /// Issuer and serial number of its certificate, as they stand there; `None` for a bare key.
    issued: Option<(Vec<u8>, Vec<u8>)>,
    /// The public key's bits: the same key may come in several certificates.
    bits: Vec<u8>,
    verifier: Verifier,
}

impl Key {
    /// Whether an appended signature names this key.
    fn is(&self, signer: &Signer<'_>) -> bool {
        match signer {
            Signer::Key(identifier) => self.identifier == *identifier,
            Signer::Certificate { issuer, serial } => {
                self.issued.as_ref().is_some_and(|(by, number)| by == issuer && number == serial)
            }
        }
    }
}

/// Keys by their ids.
#[derive(Debug, Clone)]
pub struct Keyring {
    floor: KeyFloor,
    keys: Vec<Key>,
}

impl Keyring {
    /// No key.
    pub fn new(floor: KeyFloor) -> Self {
        Self { floor, keys: Vec::new() }
    }

    /// Ids of all keys, in the order added.
    pub fn ids(&self) -> impl Iterator<Item = KeyId> {
        self.keys.iter().map(|key| key.id)
    }

    /// Adds a certificate (its validity isn't looked at, as the kernel doesn't) or a SubjectPublicKeyInfo.
    pub fn add(&mut self, der: &[u8]) -> Result<KeyId, KeyringError> {
        if self.keys.len() == MAX_KEYS {
            return Err(KeyringError::TooManyKeys);
        }
        if der.len() > MAX_KEY_BYTES {
            return Err(KeyringError::Malformed);
        }
        let (spki, identifier, issued) = match x509_cert::Certificate::from_der(der) {
            Ok(certificate) => {
                let body = certificate.tbs_certificate();
                let issued = modsig::issued(der).ok_or(KeyringError::Malformed)?;
                (body.subject_public_key_info().clone(), subject_key_identifier(body)?, Some(issued))
            }
            Err(_) => {
                let spki = SubjectPublicKeyInfoOwned::from_der(der).map_err(|_| KeyringError::Malformed)?;
                (spki, None, None)
            }
        };
        let bits = spki.subject_public_key.as_bytes().ok_or(KeyringError::Malformed)?;
        // Without an identifier of its own a key is named by SHA-1 of its bits. RFC 5280 §4.2.1.2, method 1.
        let identifier = identifier.unwrap_or_else(|| HashAlg::Sha1.digest(bits));
        let id = KeyId(*identifier.last_chunk().ok_or(KeyringError::Malformed)?);
        let verifier = match PublicKey::from_spki(&spki) {
            Ok(key) => Verifier::Sound(key),
            Err(KeyError::Modulus) if self.floor == KeyFloor::DangerLegacy => {
                Verifier::LegacyRsa(bits.to_vec())
            }
            Err(error) => return Err(error.into()),
        };
        if self.keys.iter().any(|known| known.id == id && known.bits != bits) {
            return Err(KeyringError::Ambiguous);
        }
        self.keys.push(Key { id, identifier, issued, bits: bits.to_vec(), verifier });
        Ok(id)
    }

    /// Judges the signature of an entry.
    pub fn verify(&self, measured: &Measured<'_>) -> Verdict {
        if measured.signature.is_empty() {
            return Verdict::Absent;
        }
        let Some(signature) = FileSignature::parse(measured.signature) else { return Verdict::Unsupported };
        let id = signature.key;
        if !self.ids().any(|known| known == id) {
            return Verdict::UnknownKey(id);
        }
        let Some(hash) = signature.hash.hash() else { return Verdict::Unsupported };
        if hash == HashAlg::Sha1 && self.floor == KeyFloor::Sound {
            return Verdict::Unsupported;
        }
        let signed = match (signature.form, measured.kind) {
            (Form::Digest, DigestKind::Ima) if measured.digest.algorithm == signature.hash => {
                measured.digest.bytes.to_vec()
            }
            (Form::FileId, DigestKind::Verity) => {
                hash.digest_parts(&[&[TYPE_VERITY, signature.hash.number()], measured.digest.bytes])
            }
            _ => return Verdict::Invalid(id),
        };
        let mut by_any = self.keys.iter().filter(|key| key.id == id);
        let valid = by_any.any(|key| key.verifier.signed(hash, &signed, signature.value));
        if valid { Verdict::Valid(id) } else { Verdict::Invalid(id) }
    }

    /// Judges an appended signature: over the digest that the kernel made of the file without it. A key that the signature names has to have made
    /// it. Where it names a certificate that isn't here, a key that came without one may have: each is tried. `left` is what may still be
    /// tried, and `None` says that it didn't suffice.
    pub fn verify_appended(&self, appended: &Appended<'_>, left: &mut usize) -> Option<Verdict> {
        let Some(signature) = AppendedSignature::parse(appended.signature) else {
            return Some(Verdict::Unsupported);
        };
        let mut made_by = |key: &Key| -> Option<bool> {
            *left = left.checked_sub(1)?;
            // The digest is the kernel's own, by the signature's hash (ima_collect_modsig); of another one it says nothing.
            let same = appended.digest.algorithm.hash() == Some(signature.hash);
            let fits = key.verifier.scheme() == signature.scheme;
            let signed = || key.verifier.signed(signature.hash, appended.digest.bytes, signature.value);
            Some(same && fits && signed())
        };
        let mut named = None;
        for key in self.keys.iter().filter(|key| key.is(&signature.signer)) {
            if made_by(key)? {
                return Some(Verdict::Valid(key.id));
            }
            named = Some(key.id);
        }
        match (named, signature.signer) {
            (Some(id), _) => return Some(Verdict::Invalid(id)),
            (None, Signer::Key(identifier)) => {
                return Some(
                    identifier
                        .last_chunk()
                        .map_or(Verdict::UnknownSigner, |id| Verdict::UnknownKey(KeyId(*id))),
                );
            }
            (None, Signer::Certificate { .. }) => {}
        }
        for key in self.keys.iter().filter(|key| key.issued.is_none()) {
            if made_by(key)? {
                return Some(Verdict::Valid(key.id));
            }
        }
        Some(Verdict::UnknownSigner)
    }
}

fn subject_key_identifier(
    body: &x509_cert::certificate::TbsCertificateInner,
) -> Result<Option<Vec<u8>>, KeyringError> {
    let extensions = body.extensions().map(Vec::as_slice).unwrap_or_default();
    let Some(found) = extensions.iter().find(|one| one.extn_id == SUBJECT_KEY_IDENTIFIER) else {
        return Ok(None);
    };
    let identifier = <&OctetStringRef>::from_der(found.extn_value.as_bytes());
    Ok(Some(identifier.map_err(|_| KeyringError::Malformed)?.as_bytes().to_vec()))
}

/// EVM_IMA_XATTR_DIGSIG.
const TYPE_DIGEST: u8 = 0x03;
/// IMA_VERITY_DIGSIG.
const TYPE_VERITY: u8 = 0x06;

#[derive(Debug, Clone, Copy)]
enum Form {
    Digest,
    FileId,
}

struct FileSignature<'a> {
    form: Form,
    hash: FileAlg,
    key: KeyId,
    value: &'a [u8],
}

impl<'a> FileSignature<'a> {
    fn parse(bytes: &'a [u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        let form = match (reader.u8().ok()?, reader.u8().ok()?) {
            (TYPE_DIGEST, 2) => Form::Digest,
            (TYPE_VERITY, 3) => Form::FileId,
            _ => return None,
        };
        let hash = FileAlg::from_number(reader.u8().ok()?)?;
        let key = KeyId(reader.u32().ok()?.to_be_bytes());
        let len = usize::from(reader.u16().ok()?);
        let value = reader.take(len).ok()?;
        reader.finish().ok()?;
        Some(Self { form, hash, key, value })
    }
}

impl Verifier {
    fn scheme(&self) -> Scheme {
        match self {
            Self::Sound(PublicKey::Rsa { .. }) | Self::LegacyRsa(_) => Scheme::Rsa,
            Self::Sound(PublicKey::Ecc { .. }) => Scheme::Ecdsa,
        }
    }

    /// Whether the key signed a digest that was computed elsewhere.
    fn signed(&self, hash: HashAlg, digest: &[u8], signature: &[u8]) -> bool {
        let check = |algorithm: &'static dyn lc::VerificationAlgorithm, key: &[u8]| {
            let imported = lc_digest::Digest::import_less_safe(digest, lc_hash(hash));
            imported.is_ok_and(|digest| {
                lc::UnparsedPublicKey::new(algorithm, key).verify_digest(&digest, signature).is_ok()
            })
        };
        match self {
            Self::Sound(key @ PublicKey::Rsa { .. }) => {
                rsa(hash).is_some_and(|algorithm| check(algorithm, &key.spki_der()))
            }
            Self::Sound(key @ PublicKey::Ecc { curve, .. }) => {
                let point = key.sec1().unwrap_or_default();
                ecdsa(*curve, hash).is_some_and(|algorithm| check(algorithm, &point))
            }
            Self::LegacyRsa(key) => legacy_rsa(hash).is_some_and(|algorithm| check(algorithm, key)),
        }
    }
}

fn lc_hash(hash: HashAlg) -> &'static lc_digest::Algorithm {
    match hash {
        HashAlg::Sha1 => &lc_digest::SHA1_FOR_LEGACY_USE_ONLY,
        HashAlg::Sha256 => &lc_digest::SHA256,
        HashAlg::Sha384 => &lc_digest::SHA384,
        HashAlg::Sha512 => &lc_digest::SHA512,
    }
}

fn rsa(hash: HashAlg) -> Option<&'static dyn lc::VerificationAlgorithm> {
    match hash {
        HashAlg::Sha1 => Some(&lc::RSA_PKCS1_2048_8192_SHA1_FOR_LEGACY_USE_ONLY),
        HashAlg::Sha256 => Some(&lc::RSA_PKCS1_2048_8192_SHA256),
        HashAlg::Sha384 => Some(&lc::RSA_PKCS1_2048_8192_SHA384),
        HashAlg::Sha512 => Some(&lc::RSA_PKCS1_2048_8192_SHA512),
    }
}

fn legacy_rsa(hash: HashAlg) -> Option<&'static dyn lc::VerificationAlgorithm> {
    match hash {
        HashAlg::Sha1 => Some(&lc::RSA_PKCS1_1024_8192_SHA1_FOR_LEGACY_USE_ONLY),
        HashAlg::Sha256 => Some(&lc::RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY),
        HashAlg::Sha384 => None,
        HashAlg::Sha512 => Some(&lc::RSA_PKCS1_1024_8192_SHA512_FOR_LEGACY_USE_ONLY),
    }
}

fn ecdsa(curve: EccCurve, hash: HashAlg) -> Option<&'static dyn lc::VerificationAlgorithm> {
    match (curve, hash) {
        (_, HashAlg::Sha1) => None,
        (EccCurve::P256, HashAlg::Sha256) => Some(&lc::ECDSA_P256_SHA256_ASN1),
        (EccCurve::P256, HashAlg::Sha384) => Some(&lc::ECDSA_P256_SHA384_ASN1),
        (EccCurve::P256, HashAlg::Sha512) => Some(&lc::ECDSA_P256_SHA512_ASN1),
        (EccCurve::P384, HashAlg::Sha256) => Some(&lc::ECDSA_P384_SHA256_ASN1),
        (EccCurve::P384, HashAlg::Sha384) => Some(&lc::ECDSA_P384_SHA384_ASN1),
        (EccCurve::P384, HashAlg::Sha512) => Some(&lc::ECDSA_P384_SHA512_ASN1),
    }
}
