//! The authority's own keys: where they live, how they are opened and made, what is recorded of their custody.
//!
//! Comes in: the `[signer]` section. Goes out: [`Signer`]s over keys that never enter this process, and custody records that the log names
//! by digest. Refused, by the backends: keys that are extractable or were imported.

pub mod ca;
pub mod certificate;
mod memory;

use crate::config;
use crate::sign::Remembered;
use countersign_core::cbor::{Decoder, encode_map};
use countersign_core::digest::{Sha256Digest, sha256};
use countersign_core::leaf::LeafError;
use countersign_core::leaf::control::{Introduction, KeyEvent, KeyPurpose, KeyRecord, key_possession};
use countersign_hsm::pkcs11::{Pkcs11Config, Pkcs11Token};
#[cfg(feature = "tpm")]
use countersign_hsm::tpm;
use countersign_hsm::{Algorithm, CustodyEvidence, SignFault, Signer, VerifyingKey};

/// What is recorded of a key's custody when it is introduced: CBOR `{1: backend, 2: label, 3: {attribute: value}, 4: certification or
/// null}`, certification `[attest, signature, AK TPMT_PUBLIC, key TPMT_PUBLIC]`. Key leaves name it by SHA-256 (PROTOCOL §8.5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CustodyRecord {
    bytes: Vec<u8>,
}

impl CustodyRecord {
    /// From what the device said.
    #[must_use]
    pub fn new(label: &str, evidence: &CustodyEvidence) -> Self {
        let bytes = encode_map(|map| {
            map.entry(1).text(evidence.backend.name());
            map.entry(2).text(label);
            map.entry(3).map(|attributes| {
                for (name, value) in &evidence.attributes {
                    attributes.entry(name.as_str()).text(value);
                }
            });
            match &evidence.certification {
                Some(certification) => map.entry(4).array(|parts| {
                    parts.item().bytes(&certification.attest);
                    parts.item().bytes(&certification.signature);
                    parts.item().bytes(&certification.ak_public);
                    parts.item().bytes(&certification.key_public);
                }),
                None => map.entry(4).null(),
            }
        });
        Self { bytes }
    }

    /// The record's bytes, a blob of the store.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Its name.
    #[must_use]
    pub fn digest(&self) -> Sha256Digest {
        sha256(&self.bytes)
    }

    /// The label under which the key lies in its token.
    ///
    /// # Errors
    /// [`LeafError`] for bytes that aren't a custody record.
    pub fn label_of(bytes: &[u8]) -> Result<String, LeafError> {
        let mut decoder = Decoder::new(bytes)?;
        decoder.map_of(4)?;
        decoder.expect_key(1)?;
        decoder.text()?;
        decoder.expect_key(2)?;
        Ok(decoder.text()?.to_owned())
    }
}

/// The place where the authority's keys live.
#[derive(Clone)]
pub struct KeyStore {
    place: Place,
}

#[derive(Clone)]
enum Place {
    Pkcs11(Pkcs11Config),
    #[cfg(feature = "tpm")]
    Tpm(tpm::TpmConfig),
    #[cfg(feature = "danger-software-key")]
    DangerSoftware {
        directory: std::path::PathBuf,
        delay: std::time::Duration,
    },
}

/// Label of the CA key among keys in files.
#[cfg(feature = "danger-software-key")]
const DANGER_CA: &str = "ca";

/// Labels of the first keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FirstLabels {
    /// Head key.
    pub head: String,
    /// CA key.
    pub ca: String,
    /// JWT key.
    pub jwt: String,
}

impl FirstLabels {
    fn of(head: &str, ca: &str, jwt: &str) -> Self {
        Self { head: head.to_owned(), ca: ca.to_owned(), jwt: jwt.to_owned() }
    }
}

impl KeyStore {
    /// The place that the configuration names. Nothing is opened yet.
    #[must_use]
    pub fn new(signer: &config::Signer) -> (Self, FirstLabels) {
        match signer {
            config::Signer::Pkcs11 { module, token, pin_file, head_key, ca_key, jwt_key } => {
                let place = Place::Pkcs11(Pkcs11Config::new(module, token, pin_file));
                (Self { place }, FirstLabels::of(head_key, ca_key, jwt_key))
            }
            #[cfg(feature = "tpm")]
            config::Signer::Tpm { tcti, keys_dir, head_key, ca_key, jwt_key } => {
                let place = Place::Tpm(tpm::TpmConfig { tcti: tcti.clone(), state_dir: keys_dir.clone() });
                (Self { place }, FirstLabels::of(head_key, ca_key, jwt_key))
            }
            #[cfg(feature = "danger-software-key")]
            config::Signer::DangerSoftware { keys_dir, delay_ms } => {
                let delay = std::time::Duration::from_millis(*delay_ms);
                let place = Place::DangerSoftware { directory: keys_dir.clone(), delay };
                (Self { place }, FirstLabels::of("head", DANGER_CA, "jwt"))
            }
        }
    }

    /// What kind of key signs heads here.
    #[must_use]
    pub const fn head_algorithm(&self) -> Algorithm {
        match self.place {
            Place::Pkcs11(_) => Algorithm::EdDsa,
            // TPMs have no Ed25519.
            #[cfg(feature = "tpm")]
            Place::Tpm(_) => Algorithm::Es256,
            #[cfg(feature = "danger-software-key")]
            Place::DangerSoftware { .. } => Algorithm::EdDsa,
        }
    }

    /// What kind of key signs certificates here.
    #[must_use]
    pub const fn ca_algorithm(&self) -> Algorithm {
        match self.place {
            Place::Pkcs11(_) => Algorithm::Es256,
            #[cfg(feature = "tpm")]
            Place::Tpm(_) => Algorithm::Es256,
            #[cfg(feature = "danger-software-key")]
            Place::DangerSoftware { .. } => Algorithm::EdDsa,
        }
    }

    /// Generates a key inside the place.
    ///
    /// # Errors
    /// `KeyExists`, or any fault of the device.
    pub fn generate(&self, label: &str, algorithm: Algorithm) -> Result<VerifyingKey, SignFault> {
        match &self.place {
            Place::Pkcs11(config) => Pkcs11Token::open(config)?.generate(label, algorithm),
            #[cfg(feature = "tpm")]
            Place::Tpm(config) => tpm::generate(config, label),
            #[cfg(feature = "danger-software-key")]
            Place::DangerSoftware { directory, .. } => danger::generate(directory, label),
        }
    }

    /// Opens a key, which reads its custody attributes back.
    ///
    /// # Errors
    /// `KeyMissing`, a refusal of its custody, or any fault of the device.
    pub fn signer(&self, label: &str) -> Result<Box<dyn Signer>, SignFault> {
        match &self.place {
            Place::Pkcs11(config) => Ok(Box::new(Pkcs11Token::open(config)?.signer(label)?)),
            #[cfg(feature = "tpm")]
            Place::Tpm(config) => Ok(Box::new(tpm::TpmSigner::open(config, label)?)),
            #[cfg(feature = "danger-software-key")]
            Place::DangerSoftware { directory, delay } => {
                // What is measured is the head key; a slow CA would only make a fleet's enrolment take minutes.
                let delay = if label == DANGER_CA { std::time::Duration::ZERO } else { *delay };
                danger::open(directory, label, delay)
            }
        }
    }

    /// Destroys a key, for undoing an initialisation that failed.
    ///
    /// # Errors
    /// `KeyMissing`, or any fault of the device.
    pub fn destroy(&self, label: &str) -> Result<(), SignFault> {
        match &self.place {
            Place::Pkcs11(config) => Pkcs11Token::open(config)?.destroy(label),
            #[cfg(feature = "tpm")]
            Place::Tpm(config) => tpm::destroy(config, label),
            #[cfg(feature = "danger-software-key")]
            Place::DangerSoftware { directory, .. } => danger::destroy(directory, label),
        }
    }
}

impl KeyStore {
    /// What this place remembers of the newest head; `None` if it keeps no such copy, or has none of this log yet.
    ///
    /// # Errors
    /// Any fault of the device, and a copy that isn't one.
    pub fn recall(&self, origin: &str) -> Result<Option<Remembered>, SignFault> {
        match &self.place {
            Place::Pkcs11(config) => {
                let copy = Pkcs11Token::open(config)?.read_object(&memory::label(origin))?;
                copy.map(|bytes| memory::decode(origin, &bytes)).transpose()
            }
            // A TPM's NV memory wears out; gateways and witnesses remember instead.
            #[cfg(feature = "tpm")]
            Place::Tpm(_) => Ok(None),
            #[cfg(feature = "danger-software-key")]
            Place::DangerSoftware { .. } => Ok(None),
        }
    }

    /// Keeps a copy of the signer's memory in the token: a disk that is rolled back as a whole doesn't take it along. A copy of a larger head
    /// stays: another authority with this token was further.
    ///
    /// # Errors
    /// Any fault of the device.
    pub fn remember(&self, origin: &str, head: &Remembered) -> Result<(), SignFault> {
        match &self.place {
            Place::Pkcs11(config) => {
                let (mut token, label) = (Pkcs11Token::open(config)?, memory::label(origin));
                let copy = token.read_object(&label)?.map(|bytes| memory::decode(origin, &bytes));
                if copy.transpose()?.is_some_and(|copy| copy.size > head.size) {
                    return Ok(());
                }
                token.write_object(&label, &memory::encode(origin, head))
            }
            #[cfg(feature = "tpm")]
            Place::Tpm(_) => Ok(()),
            #[cfg(feature = "danger-software-key")]
            Place::DangerSoftware { .. } => Ok(()),
        }
    }
}

/// A key leaf's body for a new key: its proof of possession and its custody, both just made.
///
/// # Errors
/// Any fault of the device; custody that is refused.
pub fn introduce(
    signer: &mut dyn Signer,
    label: &str,
    purpose: KeyPurpose,
    origin: &str,
    by: Option<Sha256Digest>,
) -> Result<(KeyRecord, CustodyRecord), SignFault> {
    let evidence = signer.custody()?;
    let record = CustodyRecord::new(label, &evidence);
    let key = signer.public_key().clone();
    let possession = signer.sign(&key_possession(origin, purpose, &key))?;
    let introduction = Introduction {
        possession: possession.as_bytes().to_vec(),
        backend: evidence.backend.name().to_owned(),
        custody: record.digest(),
        approval: None,
    };
    let event = KeyEvent::Introduced;
    Ok((KeyRecord { event, purpose, key, introduction: Some(introduction), by }, record))
}

/// Keys in files. For measurements; the name says what it is worth.
#[cfg(feature = "danger-software-key")]
mod danger {
    use countersign_hsm::software::DangerSoftwareSigner;
    use countersign_hsm::{FaultClass, SignFault, Signer, VerifyingKey};
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    use std::path::{Path, PathBuf};
    use std::time::Duration;
    use zeroize::Zeroizing;

    fn path(directory: &Path, label: &str) -> Result<PathBuf, SignFault> {
        let plain = label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        if label.is_empty() || !plain {
            return Err(SignFault::new(FaultClass::Misconfigured, "label", "not a plain name"));
        }
        Ok(directory.join(format!("danger-{label}.seed")))
    }

    fn io(error: &std::io::Error) -> SignFault {
        let class = match error.kind() {
            std::io::ErrorKind::NotFound => FaultClass::KeyMissing,
            std::io::ErrorKind::AlreadyExists => FaultClass::KeyExists,
            _ => FaultClass::Misconfigured,
        };
        SignFault::new(class, "key file", error.to_string())
    }

    pub(super) fn generate(directory: &Path, label: &str) -> Result<VerifyingKey, SignFault> {
        let mut seed = Zeroizing::new([0; 32]);
        getrandom::fill(seed.as_mut_slice())
            .map_err(|error| SignFault::new(FaultClass::Retry, "getrandom", error.to_string()))?;
        std::fs::create_dir_all(directory).map_err(|error| io(&error))?;
        let mut options = std::fs::OpenOptions::new();
        let mut file = options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path(directory, label)?)
            .map_err(|error| io(&error))?;
        file.write_all(seed.as_slice()).and_then(|()| file.sync_all()).map_err(|error| io(&error))?;
        let signer = DangerSoftwareSigner::ed25519_from_seed(&seed, Duration::ZERO)?;
        Ok(signer.public_key().clone())
    }

    pub(super) fn open(directory: &Path, label: &str, delay: Duration) -> Result<Box<dyn Signer>, SignFault> {
        let bytes = Zeroizing::new(std::fs::read(path(directory, label)?).map_err(|error| io(&error))?);
        let seed: Zeroizing<[u8; 32]> = Zeroizing::new(
            bytes
                .as_slice()
                .try_into()
                .map_err(|_| SignFault::new(FaultClass::Misconfigured, "key file", "not 32 bytes"))?,
        );
        Ok(Box::new(DangerSoftwareSigner::ed25519_from_seed(&seed, delay)?))
    }

    pub(super) fn destroy(directory: &Path, label: &str) -> Result<(), SignFault> {
        std::fs::remove_file(path(directory, label)?).map_err(|error| io(&error))
    }
}
