//! The CA: certificates for hosts, gateways, operators and the authority's own listeners, signed by the CA key where it lives.

use super::certificate::{CertificateError, Issuer, Purpose, Subject, certify};
use countersign_core::key::VerifyingKey;
use countersign_hsm::SignFault;
use countersign_hsm::worker::SignerHandle;
use std::time::Duration;

/// Common name of the CA.
pub const CA_NAME: &str = "Countersign CA";
/// Lifetime of the CA's certificate: 20 years. It ends with the trust bundle that pins it, not by its date.
pub const CA_LIFETIME: Duration = Duration::from_secs(20 * 365 * 86_400);
/// Lifetime of the server's certificate. The authority renews it itself when a third is left.
pub const SERVER_LIFETIME: Duration = Duration::from_secs(90 * 86_400);

/// The CA key at work.
pub struct Ca {
    signer: SignerHandle,
    certificate: Vec<u8>,
}

impl Ca {
    /// Takes the key in custody and its certificate, as the trust bundle pins it.
    #[must_use]
    pub const fn new(signer: SignerHandle, certificate: Vec<u8>) -> Self {
        Self { signer, certificate }
    }

    /// The CA's certificate, DER.
    #[must_use]
    pub fn certificate(&self) -> &[u8] {
        &self.certificate
    }

    /// The key in custody.
    #[must_use]
    pub const fn signer(&self) -> &SignerHandle {
        &self.signer
    }

    /// A certificate for a client's key. Blocks for one signature.
    ///
    /// # Errors
    /// Any fault of the CA key.
    pub fn client(
        &self,
        name: &str,
        key: &VerifyingKey,
        now_secs: u64,
        lifetime: Duration,
    ) -> Result<Vec<u8>, CertificateError<SignFault>> {
        self.issue(&Subject { name, key, purpose: Purpose::Client, now_secs, lifetime })
    }

    /// A certificate for the authority's own listeners.
    ///
    /// # Errors
    /// As [`Ca::client`].
    pub fn server(
        &self,
        names: &[String],
        key: &VerifyingKey,
        now_secs: u64,
    ) -> Result<Vec<u8>, CertificateError<SignFault>> {
        let purpose = Purpose::Server(names.to_vec());
        let name = names.first().map_or("authority", String::as_str);
        self.issue(&Subject { name, key, purpose, now_secs, lifetime: SERVER_LIFETIME })
    }

    fn issue(&self, subject: &Subject<'_>) -> Result<Vec<u8>, CertificateError<SignFault>> {
        let issuer = Issuer { name: CA_NAME, key: self.signer.public_key() };
        certify(subject, &issuer, |tbs| self.signer.sign(tbs).map(|signature| *signature.as_bytes()))
    }
}
