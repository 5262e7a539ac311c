//! Public area of a TPM object: a strict reader of TPMT_PUBLIC, its Name, and what the object may be used for.
//!
//! Comes in: a marshalled TPMT_PUBLIC. Goes out: [`Public`], which keeps the exact bytes and whose Name is computed
//! from them, never taken from anybody. Refuses key types other than RSA and ECC P-256/P-384, unknown algorithms,
//! reserved attribute bits, and left over bytes. Which attributes a key of some role must have is asked with
//! [`require_attestation_key`], [`require_host_key`], [`require_device_key`] and [`require_endorsement_key`].

use thiserror::Error;

use crate::algorithm::{EccCurve, HashAlg, UnknownAlgorithm, id};
use crate::key::{KeyError, PublicKey};
use crate::wire::{Reader, WireError};

/// Longest TPMT_PUBLIC taken: an RSA-4096 object needs 600 bytes.
pub const MAX_PUBLIC_BYTES: usize = 1024;
/// authPolicy is a digest. TPM 2.0 Part 2, 12.2.4.
const MAX_POLICY_BYTES: usize = 64;
/// Widest `unique` part: an RSA-4096 modulus.
const MAX_UNIQUE_BYTES: usize = 512;

/// TPMA_OBJECT. TPM 2.0 Part 2, 8.3.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Attributes(u32);

impl Attributes {
    /// The key never leaves this TPM.
    pub const FIXED_TPM: u32 = 1 << 1;
    /// Unloaded objects do not survive a TPM reset.
    pub const ST_CLEAR: u32 = 1 << 2;
    /// The key never moves to another parent.
    pub const FIXED_PARENT: u32 = 1 << 4;
    /// The TPM itself made the private part.
    pub const SENSITIVE_DATA_ORIGIN: u32 = 1 << 5;
    /// The authorization value lets its holder use the key.
    pub const USER_WITH_AUTH: u32 = 1 << 6;
    /// Administration needs the policy.
    pub const ADMIN_WITH_POLICY: u32 = 1 << 7;
    /// No dictionary attack protection.
    pub const NO_DA: u32 = 1 << 10;
    /// Duplication needs encryption.
    pub const ENCRYPTED_DUPLICATION: u32 = 1 << 11;
    /// Signs only what the TPM made; decrypts only what it understands.
    pub const RESTRICTED: u32 = 1 << 16;
    /// The key decrypts.
    pub const DECRYPT: u32 = 1 << 17;
    /// The key signs.
    pub const SIGN: u32 = 1 << 18;
    /// The key signs only through TPM2_CertifyX509.
    pub const X509_SIGN: u32 = 1 << 19;

    /// Bits that some revision of the specification defines (8 and 9: firmwareLimited and svnLimited).
    const DEFINED: u32 = 0x000f_0ff6;

    fn from_bits(bits: u32) -> Result<Self, PublicError> {
        if bits & !Self::DEFINED != 0 { Err(PublicError::ReservedAttribute) } else { Ok(Self(bits)) }
    }

    /// The number as marshalled.
    pub fn bits(self) -> u32 {
        self.0
    }

    /// All bits of `mask` are set.
    pub fn has(self, mask: u32) -> bool {
        self.0 & mask == mask
    }
}

/// Name of a TPM object: algorithm number and digest. TPM 2.0 Part 1, 16.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Name(Vec<u8>);

impl Name {
    /// The bytes as the TPM marshals them inside a TPM2B_NAME.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Symmetric algorithm of a restricted decryption key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SymmetricAes {
    /// Key size: 128, 192 or 256.
    pub key_bits: u16,
    /// Mode is cipher feedback.
    pub cfb: bool,
}

/// Signing or decryption scheme bound to the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// RSASSA-PKCS1-v1_5 with this hash.
    RsaSsa(HashAlg),
    /// RSASSA-PSS with this hash.
    RsaPss(HashAlg),
    /// ECDSA with this hash.
    Ecdsa(HashAlg),
    /// A decryption scheme (RSAES, OAEP or ECDH); never good for a signature.
    Decryption,
}

/// Why bytes are not a public area of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PublicError {
    /// Truncated, oversized or left over bytes.
    #[error("malformed public area: {0}")]
    Wire(#[from] WireError),
    /// The whole is longer than [`MAX_PUBLIC_BYTES`].
    #[error("public area of {0} bytes is too long")]
    TooLong(usize),
    /// An algorithm or curve that is none of ours.
    #[error("public area: {0}")]
    Algorithm(#[from] UnknownAlgorithm),
    /// Neither RSA nor ECC.
    #[error("object type 0x{0:04x} is not an asymmetric key")]
    Type(u16),
    /// A scheme that does not belong to the key type.
    #[error("scheme 0x{0:04x} does not fit the key type")]
    Scheme(u16),
    /// A symmetric algorithm that is none of ours.
    #[error("symmetric algorithm 0x{0:04x} not supported")]
    Symmetric(u16),
    /// A key derivation scheme other than none.
    #[error("key derivation scheme 0x{0:04x} not supported")]
    Kdf(u16),
    /// A reserved attribute bit is set.
    #[error("reserved object attribute set")]
    ReservedAttribute,
    /// The authorization policy is not a digest of the name algorithm.
    #[error("authorization policy of {0} bytes is not a digest of the name algorithm")]
    PolicyLength(usize),
    /// keyBits and the modulus disagree.
    #[error("key size and modulus disagree")]
    KeyBits,
    /// The key's numbers are unusable.
    #[error("public key: {0}")]
    Key(#[from] KeyError),
}

/// A parsed public area and its exact bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Public {
    bytes: Vec<u8>,
    name: Name,
    name_alg: HashAlg,
    attributes: Attributes,
    auth_policy: Vec<u8>,
    symmetric: Option<SymmetricAes>,
    scheme: Option<Scheme>,
    key: PublicKey,
}

impl Public {
    /// Reads a marshalled TPMT_PUBLIC. TPM 2.0 Part 2, 12.2.4.
    pub fn parse(bytes: &[u8]) -> Result<Self, PublicError> {
        if bytes.len() > MAX_PUBLIC_BYTES {
            return Err(PublicError::TooLong(bytes.len()));
        }
        let mut reader = Reader::new(bytes);
        let object_type = reader.u16()?;
        if object_type != id::RSA && object_type != id::ECC {
            return Err(PublicError::Type(object_type));
        }
        let name_alg = HashAlg::from_id(reader.u16()?)?;
        let attributes = Attributes::from_bits(reader.u32()?)?;
        let auth_policy = reader.tpm2b(MAX_POLICY_BYTES)?.to_vec();
        // TPM 2.0 Part 2, 12.2.4: the policy is absent or as long as a digest of nameAlg.
        if !auth_policy.is_empty() && auth_policy.len() != name_alg.digest_len() {
            return Err(PublicError::PolicyLength(auth_policy.len()));
        }
        let symmetric = read_symmetric(&mut reader)?;
        let (scheme, key) =
            if object_type == id::RSA { read_rsa(&mut reader)? } else { read_ecc(&mut reader)? };
        reader.finish()?;
        let mut name = name_alg.id().to_be_bytes().to_vec();
        name.extend(name_alg.digest(bytes));
        Ok(Self {
            bytes: bytes.to_vec(),
            name: Name(name),
            name_alg,
            attributes,
            auth_policy,
            symmetric,
            scheme,
            key,
        })
    }

    /// Reads a TPM2B_PUBLIC: the same with its 16-bit size in front. TPM 2.0 Part 2, 12.2.5.
    pub fn from_tpm2b(bytes: &[u8]) -> Result<Self, PublicError> {
        let mut reader = Reader::new(bytes);
        let inner = reader.tpm2b(MAX_PUBLIC_BYTES)?;
        reader.finish()?;
        Self::parse(inner)
    }

    /// The exact TPMT_PUBLIC.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// nameAlg || H(TPMT_PUBLIC), computed here. TPM 2.0 Part 1, 16.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// Hash of the Name; also that of an EK's seed.
    pub fn name_alg(&self) -> HashAlg {
        self.name_alg
    }

    /// What the object may do.
    pub fn attributes(&self) -> Attributes {
        self.attributes
    }

    /// Authorization policy digest, empty when there is none.
    pub fn auth_policy(&self) -> &[u8] {
        &self.auth_policy
    }

    /// Symmetric algorithm for protected children or credentials.
    pub fn symmetric(&self) -> Option<SymmetricAes> {
        self.symmetric
    }

    /// Scheme that the key is bound to.
    pub fn scheme(&self) -> Option<Scheme> {
        self.scheme
    }

    /// The key's numbers.
    pub fn key(&self) -> &PublicKey {
        &self.key
    }

    /// DER SubjectPublicKeyInfo, encoded afresh from the key's numbers.
    pub fn spki_der(&self) -> Vec<u8> {
        self.key.spki_der()
    }
}

/// TPMT_SYM_DEF_OBJECT. TPM 2.0 Part 2, 11.1.7.
fn read_symmetric(reader: &mut Reader<'_>) -> Result<Option<SymmetricAes>, PublicError> {
    match reader.u16()? {
        id::NULL => Ok(None),
        id::AES => {
            let key_bits = reader.u16()?;
            let cfb = reader.u16()? == id::CFB;
            Ok(Some(SymmetricAes { key_bits, cfb }))
        }
        other => Err(PublicError::Symmetric(other)),
    }
}

/// TPMS_RSA_PARMS and the modulus. TPM 2.0 Part 2, 12.2.3.5.
fn read_rsa(reader: &mut Reader<'_>) -> Result<(Option<Scheme>, PublicKey), PublicError> {
    let scheme = match reader.u16()? {
        id::NULL => None,
        id::RSASSA => Some(Scheme::RsaSsa(HashAlg::from_id(reader.u16()?)?)),
        id::RSAPSS => Some(Scheme::RsaPss(HashAlg::from_id(reader.u16()?)?)),
        id::RSAES => Some(Scheme::Decryption),
        id::OAEP => {
            HashAlg::from_id(reader.u16()?)?;
            Some(Scheme::Decryption)
        }
        other => return Err(PublicError::Scheme(other)),
    };
    let key_bits = usize::from(reader.u16()?);
    let exponent = match reader.u32()? {
        // TPM 2.0 Part 2, 12.2.3.5: zero stands for the default, 2^16 + 1.
        0 => 65_537,
        other => other,
    };
    let modulus = reader.tpm2b(MAX_UNIQUE_BYTES)?;
    if modulus.len().checked_mul(8) != Some(key_bits) {
        return Err(PublicError::KeyBits);
    }
    Ok((scheme, PublicKey::rsa(modulus, exponent)?))
}

/// TPMS_ECC_PARMS and the point. TPM 2.0 Part 2, 12.2.3.6.
fn read_ecc(reader: &mut Reader<'_>) -> Result<(Option<Scheme>, PublicKey), PublicError> {
    let scheme = match reader.u16()? {
        id::NULL => None,
        id::ECDSA => Some(Scheme::Ecdsa(HashAlg::from_id(reader.u16()?)?)),
        id::ECDH => {
            HashAlg::from_id(reader.u16()?)?;
            Some(Scheme::Decryption)
        }
        other => return Err(PublicError::Scheme(other)),
    };
    let curve = EccCurve::from_id(reader.u16()?)?;
    match reader.u16()? {
        id::NULL => {}
        other => return Err(PublicError::Kdf(other)),
    }
    let x = reader.tpm2b(curve.width())?;
    let y = reader.tpm2b(curve.width())?;
    Ok((scheme, PublicKey::ecc(curve, x, y)?))
}

/// What a key lacks for a role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum AttributeRefusal {
    /// fixedTPM, fixedParent or sensitiveDataOrigin is clear: the private part may exist elsewhere.
    #[error("key is not bound to its TPM (fixedTPM, fixedParent, sensitiveDataOrigin)")]
    NotBound,
    /// An attestation or endorsement key that is not restricted would sign or decrypt anything.
    #[error("key is not restricted")]
    NotRestricted,
    /// A host key that is restricted can not serve TLS.
    #[error("key is restricted")]
    Restricted,
    /// The key cannot sign.
    #[error("key does not sign")]
    NotSigning,
    /// The key cannot decrypt.
    #[error("key does not decrypt")]
    NotDecrypting,
    /// The key signs although its role is to decrypt.
    #[error("endorsement key signs")]
    Signing,
    /// The key decrypts although its role is to sign.
    #[error("signing key decrypts")]
    Decrypting,
    /// The key signs only certificates that the TPM builds.
    #[error("key signs only X.509 certificates")]
    X509Only,
    /// The key doesn't survive a reset.
    #[error("key is lost at a reset of the TPM (stClear)")]
    StClear,
    /// The key's password alone administers it.
    #[error("key isn't administered by its policy (adminWithPolicy)")]
    NoAdminPolicy,
    /// A signing scheme is missing, or its hash is SHA-1.
    #[error("signing scheme missing or unsafe")]
    Scheme,
    /// The name algorithm is SHA-1.
    #[error("name algorithm is unsafe")]
    NameAlgorithm,
    /// The key is not ECC P-256.
    #[error("key is not P-256")]
    KeyType,
    /// Not AES-128 or AES-256 in CFB mode.
    #[error("symmetric algorithm is not AES-128 or AES-256 CFB")]
    Symmetric,
}

const BOUND: u32 = Attributes::FIXED_TPM | Attributes::FIXED_PARENT | Attributes::SENSITIVE_DATA_ORIGIN;

fn require_bound(public: &Public) -> Result<(), AttributeRefusal> {
    // TPM 2.0 Part 1, 27.2: only the three together say that no copy of the private part is outside this TPM.
    if !public.attributes.has(BOUND) {
        return Err(AttributeRefusal::NotBound);
    }
    if public.name_alg == HashAlg::Sha1 {
        return Err(AttributeRefusal::NameAlgorithm);
    }
    Ok(())
}

fn require_signing(public: &Public) -> Result<(), AttributeRefusal> {
    if !public.attributes.has(Attributes::SIGN) {
        return Err(AttributeRefusal::NotSigning);
    }
    if public.attributes.has(Attributes::DECRYPT) {
        return Err(AttributeRefusal::Decrypting);
    }
    if public.attributes.has(Attributes::X509_SIGN) {
        return Err(AttributeRefusal::X509Only);
    }
    Ok(())
}

/// The key may quote and certify: bound to its TPM, restricted, signs, does not decrypt, scheme fixed and not
/// SHA-1. A restricted key signs only what the TPM made (TPM 2.0 Part 1, 25.1.3).
pub fn require_attestation_key(public: &Public) -> Result<(), AttributeRefusal> {
    require_bound(public)?;
    if !public.attributes.has(Attributes::RESTRICTED) {
        return Err(AttributeRefusal::NotRestricted);
    }
    require_signing(public)?;
    match public.scheme {
        Some(Scheme::RsaSsa(hash) | Scheme::RsaPss(hash) | Scheme::Ecdsa(hash)) if hash != HashAlg::Sha1 => {
            Ok(())
        }
        _ => Err(AttributeRefusal::Scheme),
    }
}

/// The key may serve as a host's key: bound to its TPM, P-256, signs anything, does not decrypt.
pub fn require_host_key(public: &Public) -> Result<(), AttributeRefusal> {
    require_bound(public)?;
    if public.attributes.has(Attributes::RESTRICTED) {
        return Err(AttributeRefusal::Restricted);
    }
    require_signing(public)?;
    if !matches!(public.key, PublicKey::Ecc { curve: EccCurve::P256, .. }) {
        return Err(AttributeRefusal::KeyType);
    }
    match public.scheme {
        None | Some(Scheme::Ecdsa(HashAlg::Sha256)) => Ok(()),
        Some(_) => Err(AttributeRefusal::Scheme),
    }
}

/// The key may be a device's initial identity (IDevID): bound to its TPM for good, signs anything, does not decrypt, is administered by its policy
/// alone. TCG, TPM 2.0 Keys for Device Identity and Attestation, 7.3.4.1; userWithAuth and noDA are the maker's choice.
pub fn require_device_key(public: &Public) -> Result<(), AttributeRefusal> {
    require_bound(public)?;
    if public.attributes.has(Attributes::ST_CLEAR) {
        return Err(AttributeRefusal::StClear);
    }
    if public.attributes.has(Attributes::RESTRICTED) {
        return Err(AttributeRefusal::Restricted);
    }
    require_signing(public)?;
    if !public.attributes.has(Attributes::ADMIN_WITH_POLICY) {
        return Err(AttributeRefusal::NoAdminPolicy);
    }
    match public.scheme {
        None => Ok(()),
        Some(Scheme::RsaSsa(hash) | Scheme::RsaPss(hash) | Scheme::Ecdsa(hash)) if hash != HashAlg::Sha1 => {
            Ok(())
        }
        Some(_) => Err(AttributeRefusal::Scheme),
    }
}

/// The key may be an endorsement key: bound to its TPM, restricted, decrypts, does not sign, protects credentials
/// with AES-128 or AES-256 in CFB mode. TCG EK Credential Profile 2.5, B.3.
pub fn require_endorsement_key(public: &Public) -> Result<(), AttributeRefusal> {
    require_bound(public)?;
    if !public.attributes.has(Attributes::RESTRICTED) {
        return Err(AttributeRefusal::NotRestricted);
    }
    if !public.attributes.has(Attributes::DECRYPT) {
        return Err(AttributeRefusal::NotDecrypting);
    }
    if public.attributes.has(Attributes::SIGN) {
        return Err(AttributeRefusal::Signing);
    }
    match public.symmetric {
        Some(SymmetricAes { key_bits: 128 | 256, cfb: true }) => Ok(()),
        _ => Err(AttributeRefusal::Symmetric),
    }
}

#[cfg(test)]
#[path = "public_tests.rs"]
mod tests;
