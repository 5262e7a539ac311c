//! Who the host is: what follows from its TPM's keys, and what the authority certified.
//!
//! Comes in: public areas from the device, certificates from the authority. Goes out: [`HostIdentity`] and [`Credential`]. Refused: public areas
//! that aren't of the forms of PROTOCOL §12, a certificate for another key, one that no CA of the pinned bundle issued, one that isn't for TLS
//! clients.

use std::sync::Arc;

use countersign_core::bundle::TrustBundle;
use countersign_core::key::VerifyingKey;
use countersign_core::name::HostId;
use countersign_tpm::ek::ueid;
use countersign_tpm::public::{Public, require_attestation_key, require_host_key};
use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::{CertificateDer, UnixTime};
use x509_cert::der::{Decode as _, Encode as _};

use crate::device::DeviceKeys;

/// Most certificates of one chain.
const MAX_CHAIN: usize = 8;

/// Why keys or certificates can't be a host's identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The TPM made a key that isn't of the expected form.
    #[error("the TPM's {0} isn't of the form that enrolment needs")]
    Key(&'static str),
    /// No certificate, or too many.
    #[error("a chain has 1 to {MAX_CHAIN} certificates")]
    ChainLength,
    /// Not a certificate.
    #[error("the host certificate can't be read: {0}")]
    Certificate(x509_cert::der::Error),
    /// The certificate is for another key.
    #[error("the host certificate is for another key")]
    OtherKey,
    /// No CA of the bundle issued it, it isn't for TLS clients, or its time is over.
    #[error("the host certificate isn't one of a CA in the trust bundle: {0}")]
    Untrusted(String),
}

/// What follows from the TPM's keys alone.
#[derive(Clone, Debug)]
pub(crate) struct HostIdentity {
    pub(crate) host: HostId,
    pub(crate) host_key: VerifyingKey,
    pub(crate) ak_name: Vec<u8>,
    pub(crate) keys: DeviceKeys,
}

impl HostIdentity {
    pub(crate) fn of(keys: DeviceKeys) -> Result<Self, IdentityError> {
        let parse = |bytes: &[u8], what| Public::parse(bytes).map_err(|_| IdentityError::Key(what));
        let naming = parse(keys.naming_public(), "endorsement key")?;
        let ak = parse(&keys.ak_public, "attestation key")?;
        let host = parse(&keys.host_key_public, "host key")?;
        require_attestation_key(&ak).map_err(|_| IdentityError::Key("attestation key"))?;
        require_host_key(&host).map_err(|_| IdentityError::Key("host key"))?;
        let host_key =
            VerifyingKey::from_spki_der(&host.spki_der()).map_err(|_| IdentityError::Key("host key"))?;
        let id = HostId::from_slice(&ueid(&naming)).map_err(|_| IdentityError::Key("endorsement key"))?;
        Ok(Self { host: id, host_key, ak_name: ak.name().as_bytes().to_vec(), keys })
    }
}

/// A certificate chain for the host key that was checked against the pinned bundle.
#[derive(Clone, Debug)]
pub(crate) struct Credential {
    pub(crate) certificates: Vec<Vec<u8>>,
    pub(crate) not_before_ms: u64,
    pub(crate) not_after_ms: u64,
}

impl Credential {
    /// Checks the chain; the only way to make one.
    pub(crate) fn check(
        certificates: Vec<Vec<u8>>,
        identity: &HostIdentity,
        bundle: &TrustBundle,
        now: UnixTime,
    ) -> Result<Self, IdentityError> {
        if certificates.len() > MAX_CHAIN {
            return Err(IdentityError::ChainLength);
        }
        let (leaf, rest) = certificates.split_first().ok_or(IdentityError::ChainLength)?;
        let parsed = x509_cert::Certificate::from_der(leaf).map_err(IdentityError::Certificate)?;
        let tbs = parsed.tbs_certificate();
        let spki = tbs.subject_public_key_info().to_der().map_err(IdentityError::Certificate)?;
        if spki != identity.host_key.spki_der() {
            return Err(IdentityError::OtherKey);
        }
        let untrusted = |error: &dyn std::fmt::Display| IdentityError::Untrusted(error.to_string());
        let mut roots = RootCertStore::empty();
        for ca in bundle.ca_certificates() {
            roots.add(CertificateDer::from_slice(ca)).map_err(|error| untrusted(&error))?;
        }
        // The very check that the authority makes of it.
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .map_err(|error| untrusted(&error))?;
        let rest: Vec<_> = rest.iter().map(|der| CertificateDer::from_slice(der)).collect();
        verifier
            .verify_client_cert(&CertificateDer::from_slice(leaf), &rest, now)
            .map_err(|error| untrusted(&error))?;
        let validity = tbs.validity();
        let ms = |time: &x509_cert::time::Time| {
            u64::try_from(time.to_unix_duration().as_millis()).unwrap_or(u64::MAX)
        };
        let (not_before_ms, not_after_ms) = (ms(&validity.not_before), ms(&validity.not_after));
        Ok(Self { certificates, not_before_ms, not_after_ms })
    }

    /// When to renew: before half of the lifetime is over, a fraction (0 to 1) of a window earlier so that a fleet enrolled together doesn't
    /// renew together.
    pub(crate) fn renew_at_ms(&self, fraction: f64) -> u64 {
        let lifetime = self.not_after_ms.saturating_sub(self.not_before_ms);
        let window = std::time::Duration::from_millis(lifetime / 10).mul_f64(fraction.clamp(0.0, 1.0));
        let latest = self.not_before_ms.saturating_add(lifetime / 2);
        latest.saturating_sub(u64::try_from(window.as_millis()).unwrap_or(0))
    }
}

#[cfg(test)]
#[path = "identity_tests.rs"]
mod tests;
