//! TLS of the listeners: the server's certificate, and client certificates of our own CA.
//!
//! A client certificate is asked for and not demanded: some endpoints are for anyone, and each route says whom it is for. What a
//! certificate is worth is judged anew at every request, by the thumbprint of its key; the handshake only proves that the key is held.
//! No session is resumed, so that no connection outlives what proved it.

use super::super::custody::certificate;
use arc_swap::ArcSwap;
use countersign_core::digest::{Sha256Digest, sha256};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Why the listeners can't offer TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A PEM file that can't be read.
    #[error("{path}: {source}")]
    Pem {
        /// Which file.
        path: PathBuf,
        /// What was wrong.
        source: rustls::pki_types::pem::Error,
    },
    /// Key and certificate that don't fit, or a CA certificate that can't be a trust anchor.
    #[error("TLS: {0}")]
    Rustls(#[from] rustls::Error),
    /// The CA can't serve to verify clients.
    #[error("TLS: {0}")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
}

/// The server's certificate, replaceable while connections are served.
#[derive(Debug)]
pub struct ServerCertificate {
    current: ArcSwap<CertifiedKey>,
}

impl ServerCertificate {
    /// Reads certificate and key.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn load(certificates: &Path, key: &Path) -> Result<Self, TlsError> {
        Ok(Self { current: ArcSwap::from_pointee(read(certificates, key)?) })
    }

    /// Reads them again; new connections get the new certificate.
    ///
    /// # Errors
    /// [`TlsError`]; the old certificate stays.
    pub fn reload(&self, certificates: &Path, key: &Path) -> Result<(), TlsError> {
        self.current.store(Arc::new(read(certificates, key)?));
        Ok(())
    }

    /// Until when the certificate in use is valid, Unix seconds.
    #[must_use]
    pub fn not_after_secs(&self) -> Option<u64> {
        self.current.load().cert.first().and_then(|der| certificate::not_after_secs(der))
    }
}

impl ResolvesServerCert for ServerCertificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load_full())
    }
}

fn read(certificates: &Path, key: &Path) -> Result<CertifiedKey, TlsError> {
    let chain = CertificateDer::pem_file_iter(certificates)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|source| TlsError::Pem { path: certificates.to_owned(), source })?;
    let key =
        PrivateKeyDer::from_pem_file(key).map_err(|source| TlsError::Pem { path: key.to_owned(), source })?;
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    Ok(CertifiedKey::from_der(chain, key, &provider)?)
}

/// Configuration of both listeners.
///
/// # Errors
/// [`TlsError`].
pub fn server_config(
    certificate: Arc<ServerCertificate>,
    ca_certificates: &[Vec<u8>],
) -> Result<ServerConfig, TlsError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    for der in ca_certificates {
        roots.add(CertificateDer::from_slice(der).into_owned())?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .allow_unauthenticated()
        .build()?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(certificate);
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// Thumbprint of the key that a connection's client proved to hold (PROTOCOL §1.4), and until when its certificate is valid, Unix seconds.
#[must_use]
pub fn peer_key(connection: &rustls::ServerConnection) -> Option<(Sha256Digest, u64)> {
    let der = connection.peer_certificates()?.first()?;
    let spki = certificate::certified_spki(der)?;
    Some((sha256(&spki), certificate::not_after_secs(der)?))
}
