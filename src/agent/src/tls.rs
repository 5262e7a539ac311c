//! TLS client authentication with a key that stays in the TPM.
//!
//! rustls asks for a signature in the middle of a handshake and can't wait for it asynchronously, so the signature is awaited on this thread;
//! on a multi-threaded runtime the other tasks of the thread move elsewhere meanwhile. Every signature is verified before it is used.

use std::sync::Arc;

use countersign_core::digest::sha256;
use countersign_core::key::VerifyingKey;
use countersign_core::note::ecdsa_fixed_to_der;
use rustls::sign::{Signer, SigningKey};
use rustls::{SignatureAlgorithm, SignatureScheme};
use rustls_pki_types::SubjectPublicKeyInfoDer;
use tokio::runtime::{Handle, RuntimeFlavor};

use crate::tpm::TpmWorker;

/// The host key in the TPM, as rustls sees it.
#[derive(Clone, Debug)]
pub(crate) struct TpmSigningKey {
    worker: TpmWorker,
    public: VerifyingKey,
    spki: Arc<[u8]>,
}

impl TpmSigningKey {
    pub(crate) fn new(worker: TpmWorker, public: VerifyingKey) -> Self {
        let spki = public.spki_der().into();
        Self { worker, public, spki }
    }
}

impl SigningKey for TpmSigningKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let offered = offered.contains(&SignatureScheme::ECDSA_NISTP256_SHA256);
        offered.then(|| Box::new(self.clone()) as Box<dyn Signer>)
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        Some(SubjectPublicKeyInfoDer::from(self.spki.as_ref()))
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ECDSA
    }
}

impl Signer for TpmSigningKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        let sign = || self.worker.sign_blocking(sha256(message));
        let signed = match Handle::try_current().map(|handle| handle.runtime_flavor()) {
            Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(sign),
            _ => sign(),
        };
        let fixed = signed.map_err(|error| {
            tracing::warn!(error = %error, "the TPM didn't sign a TLS handshake");
            rustls::Error::General("the host key's TPM doesn't sign".to_owned())
        })?;
        self.public
            .verify(message, &fixed)
            .map_err(|_| rustls::Error::General("the TPM made a signature that doesn't verify".to_owned()))?;
        Ok(ecdsa_fixed_to_der(&fixed))
    }

    fn scheme(&self) -> SignatureScheme {
        SignatureScheme::ECDSA_NISTP256_SHA256
    }
}
