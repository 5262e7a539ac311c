//! TPM2_MakeCredential without a TPM.
//!
//! Comes in: an endorsement key's public area, the Name of the object to be proven, a 32-byte secret and a source of
//! randomness. Goes out: [`Credential`], which only the TPM that holds both can open with TPM2_ActivateCredential.
//! Refuses keys that are not endorsement keys. TPM 2.0 Part 1, 24 (credential protection), annex B (RSA) and
//! annex C (ECC).

use aes::cipher::KeyIvInit;
use p256::elliptic_curve::sec1::ToSec1Point;
use rsa::rand_core::{TryCryptoRng, TryRng};
use rsa::traits::PaddingScheme;
use rsa::{BoxedUint, Oaep, RsaPublicKey};
use thiserror::Error;
use zeroize::Zeroizing;

use crate::algorithm::{EccCurve, HashAlg};
use crate::key::PublicKey;
use crate::public::{AttributeRefusal, Public, SymmetricAes, require_endorsement_key};
use crate::wire::{WireError, Writer};

/// Tries at a random scalar. A wrong one comes up once in 2^32 for P-256, so four in a row mean a broken source.
const SCALAR_TRIES: usize = 4;
/// Label of the seed. TPM 2.0 Part 1, 24.4; OAEP includes its final zero (B.4).
const IDENTITY: &[u8] = b"IDENTITY\0";

/// A credential that one TPM can open. Both fields are the contents of their TPM2B, without the outer size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    /// Contents of TPM2B_ID_OBJECT: the sized HMAC, then the encrypted sized secret.
    pub id_object: Vec<u8>,
    /// Contents of TPM2B_ENCRYPTED_SECRET: an OAEP ciphertext, or a TPMS_ECC_POINT.
    pub encrypted_secret: Vec<u8>,
}

/// Why no credential is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum CredentialError {
    /// The key is not an endorsement key.
    #[error("endorsement key is unfit: {0}")]
    KeyUnfit(AttributeRefusal),
    /// The object's Name is not the Name of a key.
    #[error("object name of {0} bytes")]
    ObjectName(usize),
    /// The name algorithm cannot protect a credential.
    #[error("name algorithm is unsafe")]
    NameAlgorithm,
    /// The key's numbers do not work.
    #[error("endorsement key does not encrypt")]
    Key,
    /// The source of randomness returns the same unusable bytes again and again.
    #[error("randomness is unusable")]
    Randomness,
    /// A part does not fit its 16-bit size.
    #[error("credential: {0}")]
    Wire(#[from] WireError),
}

/// A seed and its transport to the TPM.
struct Seed {
    value: Zeroizing<Vec<u8>>,
    encrypted: Vec<u8>,
}

/// Makes a credential for the TPM that holds `ek` and an object named `object_name`. `random` must fill its buffer
/// from a cryptographic source.
pub fn make_credential(
    ek: &Public,
    object_name: &[u8],
    secret: &[u8; 32],
    random: &mut impl FnMut(&mut [u8]),
) -> Result<Credential, CredentialError> {
    require_endorsement_key(ek).map_err(CredentialError::KeyUnfit)?;
    // A Name: algorithm number and a digest of 20 to 64 bytes. TPM 2.0 Part 1, 16.
    if !(22..=66).contains(&object_name.len()) {
        return Err(CredentialError::ObjectName(object_name.len()));
    }
    let seed = match ek.key() {
        PublicKey::Rsa { n, e } => rsa_seed(n, *e, ek.name_alg(), random)?,
        PublicKey::Ecc { curve, x, y } => ecc_seed(*curve, x, y, ek.name_alg(), random)?,
    };
    let symmetric = ek.symmetric().ok_or(CredentialError::KeyUnfit(AttributeRefusal::Symmetric))?;
    let id_object = protect(ek.name_alg(), symmetric, &seed.value, object_name, secret)?;
    Ok(Credential { id_object, encrypted_secret: seed.encrypted })
}

/// Encrypt, then MAC. TPM 2.0 Part 1, 24.4 and 24.5.
fn protect(
    hash: HashAlg,
    symmetric: SymmetricAes,
    seed: &[u8],
    object_name: &[u8],
    secret: &[u8; 32],
) -> Result<Vec<u8>, CredentialError> {
    let mut sealed = Writer::new().tpm2b(secret)?.into_bytes();
    let key = Zeroizing::new(kdfa(hash, seed, "STORAGE", object_name, &[], symmetric.key_bits));
    cfb_encrypt(&key, &mut sealed)?;
    let bits = integrity_bits(hash);
    let key = Zeroizing::new(kdfa(hash, seed, "INTEGRITY", &[], &[], bits));
    let mac = hash.hmac(&key, &[&sealed, object_name]);
    Ok(Writer::new().tpm2b(&mac)?.raw(&sealed).into_bytes())
}

/// Size of the HMAC key: that of the digest. TPM 2.0 Part 1, 24.5.
pub(crate) fn integrity_bits(hash: HashAlg) -> u16 {
    match hash {
        HashAlg::Sha1 => 160,
        HashAlg::Sha256 => 256,
        HashAlg::Sha384 => 384,
        HashAlg::Sha512 => 512,
    }
}

/// KDFa: SP 800-108 in counter mode with HMAC. TPM 2.0 Part 1, 11.4.10.2.
pub(crate) fn kdfa(hash: HashAlg, key: &[u8], label: &str, u: &[u8], v: &[u8], bits: u16) -> Vec<u8> {
    let len = usize::from(bits).div_ceil(8);
    let mut out = Vec::with_capacity(len + hash.digest_len());
    for counter in 1u32.. {
        if out.len() >= len {
            break;
        }
        out.extend(hash.hmac(
            key,
            &[&counter.to_be_bytes(), label.as_bytes(), b"\0", u, v, &u32::from(bits).to_be_bytes()],
        ));
    }
    out.truncate(len);
    out
}

/// KDFe: SP 800-56A concatenation. TPM 2.0 Part 1, 11.4.10.3.
pub(crate) fn kdfe(hash: HashAlg, z: &[u8], label: &[u8], party_u: &[u8], party_v: &[u8]) -> Vec<u8> {
    // One round: the seed is as long as the digest (C.6.4).
    hash.digest_parts(&[&1u32.to_be_bytes(), z, label, party_u, party_v])
}

/// AES-CFB with a zero IV. TPM 2.0 Part 1, 24.4: the key is used once.
fn cfb_encrypt(key: &[u8], data: &mut [u8]) -> Result<(), CredentialError> {
    let iv = [0u8; 16];
    match key.len() {
        16 => cfb_mode::Encryptor::<aes::Aes128>::new_from_slices(key, &iv).map(|c| c.encrypt(data)),
        32 => cfb_mode::Encryptor::<aes::Aes256>::new_from_slices(key, &iv).map(|c| c.encrypt(data)),
        _ => return Err(CredentialError::Key),
    }
    .map_err(|_| CredentialError::Key)
}

/// Draws from the caller's source.
struct Random<'a, F: FnMut(&mut [u8])>(&'a mut F);

impl<F: FnMut(&mut [u8])> TryRng for Random<'_, F> {
    type Error = std::convert::Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
        let mut bytes = [0; 4];
        (self.0)(&mut bytes);
        Ok(u32::from_be_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
        let mut bytes = [0; 8];
        (self.0)(&mut bytes);
        Ok(u64::from_be_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Self::Error> {
        (self.0)(bytes);
        Ok(())
    }
}

impl<F: FnMut(&mut [u8])> TryCryptoRng for Random<'_, F> {}

/// A random seed under OAEP with the label `IDENTITY`. TPM 2.0 Part 1, B.4 and B.10.4.
fn rsa_seed(
    n: &[u8],
    e: u32,
    hash: HashAlg,
    random: &mut impl FnMut(&mut [u8]),
) -> Result<Seed, CredentialError> {
    let mut value = Zeroizing::new(vec![0; hash.digest_len()]);
    random(&mut value);
    let n = BoxedUint::from_be_slice_vartime(n);
    let e = BoxedUint::from_be_slice_vartime(&e.to_be_bytes());
    let key = RsaPublicKey::new(n, e).map_err(|_| CredentialError::Key)?;
    let mut rng = Random(random);
    let encrypted = match hash {
        HashAlg::Sha1 => return Err(CredentialError::NameAlgorithm),
        HashAlg::Sha256 => oaep(&key, &mut rng, Oaep::<sha2::Sha256>::new_with_label(IDENTITY), &value),
        HashAlg::Sha384 => oaep(&key, &mut rng, Oaep::<sha2::Sha384>::new_with_label(IDENTITY), &value),
        HashAlg::Sha512 => oaep(&key, &mut rng, Oaep::<sha2::Sha512>::new_with_label(IDENTITY), &value),
    }?;
    Ok(Seed { value, encrypted })
}

fn oaep<F: FnMut(&mut [u8])>(
    key: &RsaPublicKey,
    rng: &mut Random<'_, F>,
    padding: impl PaddingScheme,
    seed: &[u8],
) -> Result<Vec<u8>, CredentialError> {
    key.encrypt(rng, padding, seed).map_err(|_| CredentialError::Key)
}

/// A seed agreed with an ephemeral key. TPM 2.0 Part 1, C.6.1 and C.6.4.
fn ecc_seed(
    curve: EccCurve,
    x: &[u8],
    y: &[u8],
    hash: HashAlg,
    random: &mut impl FnMut(&mut [u8]),
) -> Result<Seed, CredentialError> {
    let point = [&[0x04], x, y].concat();
    let mut scalar = Zeroizing::new(vec![0; curve.width()]);
    for _ in 0..SCALAR_TRIES {
        random(&mut scalar);
        let agreed = match curve {
            EccCurve::P256 => agree_p256(&scalar, &point),
            EccCurve::P384 => agree_p384(&scalar, &point),
        };
        let Some((z, ephemeral)) = agreed else { continue };
        let (ephemeral_x, ephemeral_y) =
            ephemeral.split_at_checked(curve.width()).ok_or(CredentialError::Key)?;
        let value = Zeroizing::new(kdfe(hash, &z, IDENTITY, ephemeral_x, x));
        let encrypted = Writer::new().tpm2b(ephemeral_x)?.tpm2b(ephemeral_y)?.into_bytes();
        return Ok(Seed { value, encrypted });
    }
    Err(CredentialError::Randomness)
}

/// Shared X coordinate, and X || Y of the ephemeral key; `None` when the scalar is out of range.
type Agreement = Option<(Zeroizing<Vec<u8>>, Vec<u8>)>;

fn agree_p256(scalar: &[u8], point: &[u8]) -> Agreement {
    let secret = p256::SecretKey::from_slice(scalar).ok()?;
    let peer = p256::PublicKey::from_sec1_bytes(point).ok()?;
    let z = p256::ecdh::diffie_hellman(secret.to_nonzero_scalar(), peer.as_affine());
    let own = secret.public_key().to_sec1_point(false);
    Some((Zeroizing::new(z.raw_secret_bytes().to_vec()), own.as_bytes().get(1..)?.to_vec()))
}

fn agree_p384(scalar: &[u8], point: &[u8]) -> Agreement {
    let secret = p384::SecretKey::from_slice(scalar).ok()?;
    let peer = p384::PublicKey::from_sec1_bytes(point).ok()?;
    let z = p384::ecdh::diffie_hellman(secret.to_nonzero_scalar(), peer.as_affine());
    let own = secret.public_key().to_sec1_point(false);
    Some((Zeroizing::new(z.raw_secret_bytes().to_vec()), own.as_bytes().get(1..)?.to_vec()))
}

#[cfg(test)]
#[path = "credential_tests.rs"]
mod tests;
