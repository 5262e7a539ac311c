//! Who the client is, and the TLS configuration that follows: pinned CA certificates, no system roots, no session resumption.

use crate::ConfigError;
use rustls::client::ResolvesClientCert;
use rustls::sign::{CertifiedKey, SigningKey};
use rustls::{ClientConfig, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::path::PathBuf;
use std::sync::Arc;

/// Who a client is to the authority.
pub enum ClientIdentity {
    /// Nobody: for `/livez`, `/readyz`, `/v1/head` and enrolment.
    Anonymous,
    /// A key and its certificates in PEM files.
    Pem {
        /// Certificates, the client's first.
        certificates: PathBuf,
        /// PKCS#8 private key.
        key: PathBuf,
    },
    /// A key behind a port of its own, such as a TPM. It signs on the thread of the handshake.
    Key {
        /// Certificates in DER, the client's first.
        certificates: Vec<Vec<u8>>,
        /// Signs handshakes.
        key: Arc<dyn SigningKey>,
    },
}

#[derive(Debug)]
struct OneIdentity(Arc<CertifiedKey>);

impl ResolvesClientCert for OneIdentity {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

pub(crate) fn client_config(
    identity: ClientIdentity,
    ca_certificates: &[Vec<u8>],
) -> Result<ClientConfig, ConfigError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    for der in ca_certificates {
        roots
            .add(CertificateDer::from_slice(der).into_owned())
            .map_err(|error| ConfigError::Ca(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(ConfigError::Ca("none given".to_owned()));
    }
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(ConfigError::Identity)?
        .with_root_certificates(roots);
    let mut config = match identity {
        ClientIdentity::Anonymous => builder.with_no_client_auth(),
        ClientIdentity::Pem { certificates, key } => {
            let chain = CertificateDer::pem_file_iter(&certificates)
                .and_then(Iterator::collect::<Result<Vec<_>, _>>)
                .map_err(|source| ConfigError::Pem { path: certificates, source })?;
            let key = PrivateKeyDer::from_pem_file(&key)
                .map_err(|source| ConfigError::Pem { path: key, source })?;
            builder.with_client_auth_cert(chain, key).map_err(ConfigError::Identity)?
        }
        ClientIdentity::Key { certificates, key } => {
            let chain = certificates.into_iter().map(CertificateDer::from).collect();
            let certified = CertifiedKey::new(chain, key);
            // A key that doesn't tell its public half can't be compared; rustls calls that unknown, and the handshake decides.
            match certified.keys_match() {
                Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {}
                Err(error) => return Err(ConfigError::Identity(error)),
            }
            builder.with_client_cert_resolver(Arc::new(OneIdentity(Arc::new(certified))))
        }
    };
    config.resumption = rustls::client::Resumption::disabled();
    Ok(config)
}
