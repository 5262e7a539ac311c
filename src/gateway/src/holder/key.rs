//! The holder's private key: made, read from and written to a PKCS#8 PEM file that only its owner can read.
//!
//! Refused: files that are readable by others, larger than a key can be, encrypted, or of another algorithm than Ed25519 and P-256. The key's
//! memory is cleared when it is dropped; it has no Debug that shows it.

use countersign_core::key::{Algorithm, KeyError, SIGNATURE_LEN, VerifyingKey};
use ed25519_dalek::Signer as _;
use p256::elliptic_curve::sec1::ToSec1Point as _;
use p256::pkcs8::der::SecretDocument;
use p256::pkcs8::{DecodePrivateKey as _, EncodePrivateKey as _, LineEnding};
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// Larger than any PKCS#8 file of the two algorithms.
const MAX_PEM_LEN: u64 = 4_096;
const LABEL: &str = "PRIVATE KEY";
/// RFC 8410 §7: version 1, id-Ed25519, an octet string in an octet string, up to the seed. Without the public half, which OpenSSL before 3.4
/// doesn't read.
const PKCS8_ED25519: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];

/// Why there is no holder key.
#[derive(Debug, thiserror::Error)]
pub enum HolderKeyFault {
    /// The file system refuses.
    #[error("{path}: {source}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// What it said.
        source: std::io::Error,
    },
    /// Others may read or write the file.
    #[error("{0} must belong to this user and be closed to everybody else (chmod 600)")]
    Mode(PathBuf),
    /// Not an unencrypted PKCS#8 PEM file of an Ed25519 or P-256 key.
    #[error("not an unencrypted PKCS#8 PEM file of an Ed25519 or P-256 key")]
    Format,
    /// The public half can't be used.
    #[error(transparent)]
    Public(#[from] KeyError),
    /// The operating system gives no randomness.
    #[error("no randomness: {0}")]
    Random(#[from] getrandom::Error),
}

enum Private {
    Ed25519(Box<ed25519_dalek::SigningKey>),
    P256(Box<p256::ecdsa::SigningKey>),
}

/// A holder key. Both libraries clear their keys when they are dropped.
pub struct HolderKey {
    private: Private,
    public: VerifyingKey,
}

impl fmt::Debug for HolderKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HolderKey({:?})", self.public)
    }
}

impl HolderKey {
    /// A fresh key from the operating system's randomness.
    pub fn generate(algorithm: Algorithm) -> Result<Self, HolderKeyFault> {
        let mut seed = Zeroizing::new([0; 32]);
        match algorithm {
            Algorithm::EdDsa => {
                getrandom::fill(seed.as_mut_slice())?;
                Self::ed25519(ed25519_dalek::SigningKey::from_bytes(&seed))
            }
            Algorithm::Es256 => loop {
                getrandom::fill(seed.as_mut_slice())?;
                // FIPS 186-5, A.2.2: draw again if the number isn't below the order, which one in 2^32 draws isn't.
                if let Ok(key) = p256::ecdsa::SigningKey::from_slice(seed.as_slice()) {
                    return Self::p256(key);
                }
            },
        }
    }

    fn ed25519(key: ed25519_dalek::SigningKey) -> Result<Self, HolderKeyFault> {
        let public = VerifyingKey::ed25519(key.verifying_key().as_bytes())?;
        Ok(Self { private: Private::Ed25519(Box::new(key)), public })
    }

    fn p256(key: p256::ecdsa::SigningKey) -> Result<Self, HolderKeyFault> {
        let point = key.verifying_key().as_affine().to_sec1_point(false);
        let public = VerifyingKey::from_raw(Algorithm::Es256, point.as_bytes())?;
        Ok(Self { private: Private::P256(Box::new(key)), public })
    }

    /// Reads a key file, which must be closed to everybody but its owner.
    pub fn load(path: &Path) -> Result<Self, HolderKeyFault> {
        let io = |source| HolderKeyFault::Io { path: path.to_owned(), source };
        let file = File::open(path).map_err(io)?;
        // Judged on what was opened, not on the path again.
        let metadata = file.metadata().map_err(io)?;
        if !metadata.is_file() || metadata.len() > MAX_PEM_LEN {
            return Err(HolderKeyFault::Format);
        }
        if metadata.mode() & 0o077 != 0 || metadata.uid() != nix::unistd::geteuid().as_raw() {
            return Err(HolderKeyFault::Mode(path.to_owned()));
        }
        let mut pem = Zeroizing::new(String::with_capacity(4_096));
        file.take(MAX_PEM_LEN).read_to_string(&mut pem).map_err(io)?;
        Self::from_pem(&pem)
    }

    /// Reads PKCS#8 in PEM (RFC 7468, RFC 5958).
    pub fn from_pem(pem: &str) -> Result<Self, HolderKeyFault> {
        let (label, document) = SecretDocument::from_pem(pem).map_err(|_| HolderKeyFault::Format)?;
        if label != LABEL {
            return Err(HolderKeyFault::Format);
        }
        if let Ok(key) = ed25519_dalek::SigningKey::from_pkcs8_der(document.as_bytes()) {
            return Self::ed25519(key);
        }
        match p256::ecdsa::SigningKey::from_pkcs8_der(document.as_bytes()) {
            Ok(key) => Self::p256(key),
            Err(_) => Err(HolderKeyFault::Format),
        }
    }

    /// Writes PKCS#8 in PEM.
    pub fn to_pem(&self) -> Result<Zeroizing<String>, HolderKeyFault> {
        let document = match &self.private {
            Private::Ed25519(key) => {
                let seed = Zeroizing::new(key.to_bytes());
                SecretDocument::try_from([&PKCS8_ED25519[..], &seed[..]].concat())
                    .map_err(|_| HolderKeyFault::Format)?
            }
            Private::P256(key) => key.to_pkcs8_der().map_err(|_| HolderKeyFault::Format)?,
        };
        document.to_pem(LABEL, LineEnding::LF).map_err(|_| HolderKeyFault::Format)
    }

    /// Writes a new key file with mode 0600; one that exists is never overwritten.
    pub fn write_new(&self, path: &Path) -> Result<(), HolderKeyFault> {
        let pem = self.to_pem()?;
        let io = |source| HolderKeyFault::Io { path: path.to_owned(), source };
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(0o600).open(path).map_err(io)?;
        file.write_all(pem.as_bytes()).map_err(io)?;
        file.sync_all().map_err(io)
    }

    /// The public half, which requests name as their holder.
    #[must_use]
    pub const fn public(&self) -> &VerifyingKey {
        &self.public
    }

    /// Signs a preimage: a holder proof here, a request at an agent.
    #[must_use]
    pub fn sign(&self, preimage: &[u8]) -> [u8; SIGNATURE_LEN] {
        match &self.private {
            Private::Ed25519(key) => key.sign(preimage).to_bytes(),
            Private::P256(key) => {
                let signature: p256::ecdsa::Signature =
                    p256::ecdsa::signature::Signer::sign(key.as_ref(), preimage);
                signature.to_bytes().into()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_written_key_is_read_back_and_signs_as_the_same_key() {
        let dir = tempfile::tempdir().unwrap();
        for algorithm in [Algorithm::EdDsa, Algorithm::Es256] {
            let path = dir.path().join(algorithm.name());
            let key = HolderKey::generate(algorithm).unwrap();
            key.write_new(&path).unwrap();
            assert!(matches!(key.write_new(&path), Err(HolderKeyFault::Io { .. })));
            let read = HolderKey::load(&path).unwrap();
            assert_eq!(read.public(), key.public());
            key.public().verify(b"message", &read.sign(b"message")).unwrap();
        }
    }

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key.pem");
        HolderKey::generate(Algorithm::EdDsa).unwrap().write_new(&path).unwrap();
        for mode in [0o640, 0o604, 0o620, 0o602] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            assert!(matches!(HolderKey::load(&path), Err(HolderKeyFault::Mode(_))), "{mode:o}");
        }
    }

    #[test]
    fn what_isnt_an_unencrypted_key_of_the_two_kinds_is_refused() {
        let good = HolderKey::generate(Algorithm::EdDsa).unwrap().to_pem().unwrap();
        assert!(HolderKey::from_pem(&good).is_ok());
        assert!(HolderKey::from_pem(&good.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY")).is_err());
        assert!(HolderKey::from_pem(good.get(..good.len() / 2).unwrap()).is_err());
        assert!(HolderKey::from_pem("").is_err());
        let debug = format!("{:?}", HolderKey::from_pem(&good).unwrap());
        // The seed is the last 32 bytes of PKCS#8 (RFC 8410 section 7), in whatever form it might be printed.
        let body: String = good.lines().filter(|line| !line.starts_with("-----")).collect();
        let der = data_encoding::BASE64.decode(body.as_bytes()).unwrap();
        let seed =
            der.windows(34).find(|at| at.starts_with(&[0x04, 0x20])).and_then(|at| at.get(2..)).unwrap();
        let numbers = format!("{seed:?}");
        for form in [data_encoding::HEXLOWER.encode(seed), data_encoding::BASE64.encode(seed), numbers] {
            assert!(!debug.to_lowercase().contains(&form.trim_matches(['[', ']']).to_lowercase()), "{debug}");
        }
        assert!(debug.starts_with("HolderKey(VerifyingKey(EdDSA"), "{debug}");
    }

    #[test]
    fn keys_of_openssl_are_read() {
        // `openssl genpkey -algorithm ed25519` and `-algorithm EC -pkeyopt ec_paramgen_curve:P-256`, made for this test.
        for pem in
            [include_str!("../../tests/vectors/ed25519.pem"), include_str!("../../tests/vectors/p256.pem")]
        {
            let key = HolderKey::from_pem(pem).unwrap();
            key.public().verify(b"m", &key.sign(b"m")).unwrap();
        }
        let rsa = include_str!("../../tests/vectors/p384.pem");
        assert!(matches!(HolderKey::from_pem(rsa), Err(HolderKeyFault::Format)));
    }
}
