//! A private key in process memory, for tests and for measuring everything around a signature. It gives no custody at all and says so:
//! its evidence names the backend `danger-software`. The feature `danger-software-key` is off in every build that ships.
use std::collections::BTreeMap;
use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use ed25519_dalek::{Signer as _, SigningKey};

use crate::signer::{bounded, release};
use crate::{Algorithm, Backend, CustodyEvidence, FaultClass, SignFault, Signature, Signer, VerifyingKey};

/// A signing key in process memory, optionally as slow as hardware.
pub struct DangerSoftwareSigner {
    private: Private,
    public: VerifyingKey,
    delay: Duration,
}

enum Private {
    Ed25519(Box<SigningKey>),
    P256(Box<EcdsaKeyPair>),
}

impl DangerSoftwareSigner {
    /// A fresh random key that takes at least `delay` for each signature; a hardware TPM takes about 200 ms.
    ///
    /// # Errors
    /// When the operating system gives no randomness.
    pub fn generate(algorithm: Algorithm, delay: Duration) -> Result<Self, SignFault> {
        match algorithm {
            Algorithm::EdDsa => {
                let mut seed = zeroize::Zeroizing::new([0; 32]);
                getrandom::fill(seed.as_mut_slice())
                    .map_err(|error| SignFault::new(FaultClass::Retry, "getrandom", error.to_string()))?;
                Self::ed25519_from_seed(&seed, delay)
            }
            Algorithm::Es256 => {
                let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)
                    .map_err(|_| SignFault::new(FaultClass::Retry, "generate", "no key made"))?;
                let public = public(algorithm, pair.public_key().as_ref())?;
                Ok(Self { private: Private::P256(Box::new(pair)), public, delay })
            }
        }
    }

    /// The Ed25519 key of a known seed, for reproducible tests.
    ///
    /// # Errors
    /// When the seed gives a key that is refused as weak, which no known seed does.
    pub fn ed25519_from_seed(seed: &[u8; 32], delay: Duration) -> Result<Self, SignFault> {
        let key = SigningKey::from_bytes(seed);
        let public = public(Algorithm::EdDsa, key.verifying_key().as_bytes())?;
        Ok(Self { private: Private::Ed25519(Box::new(key)), public, delay })
    }
}

fn public(algorithm: Algorithm, raw: &[u8]) -> Result<VerifyingKey, SignFault> {
    VerifyingKey::from_raw(algorithm, raw)
        .map_err(|error| SignFault::new(FaultClass::Misconfigured, "generate", error.to_string()))
}

impl Signer for DangerSoftwareSigner {
    fn public_key(&self) -> &VerifyingKey {
        &self.public
    }

    fn sign(&mut self, message: &[u8]) -> Result<Signature, SignFault> {
        bounded(message)?;
        if !self.delay.is_zero() {
            std::thread::sleep(self.delay);
        }
        let signature = match &self.private {
            Private::Ed25519(key) => key.sign(message).to_bytes(),
            Private::P256(pair) => pair
                .sign(&SystemRandom::new(), message)
                .ok()
                .and_then(|signature| signature.as_ref().try_into().ok())
                .ok_or_else(|| SignFault::new(FaultClass::Retry, "sign", "no signature made"))?,
        };
        release(&self.public, message, Signature::from_bytes(signature), "sign")
    }

    fn custody(&mut self) -> Result<CustodyEvidence, SignFault> {
        let attributes = BTreeMap::from([("extractable".to_owned(), "true".to_owned())]);
        Ok(CustodyEvidence { backend: Backend::DangerSoftware, attributes, certification: None })
    }
}
