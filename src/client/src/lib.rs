//! The client side of the authority's HTTPS API (PROTOCOL §11): one typed method an endpoint, over mutual TLS.
//!
//! In: the authority's address, the CA certificates of a pinned trust bundle, and who we are. Out: the plain shapes of
//! [`countersign_core::api`], as sent. Refused: a server whose certificate isn't of that CA or isn't for the address, an answer over the
//! limit or of another shape, redirects (there are none).
//!
//! Absent: trust on first use, system roots, any judgement of receipts and heads (that is `countersign_core::artifact`), retries other than
//! of a call that surely was never sent.

mod admin;
mod error;
mod identity;
mod service;
mod transport;

pub use error::{ClientError, ConfigError};
pub use identity::ClientIdentity;
pub use transport::Limits;

use std::sync::Arc;
use transport::Transport;

/// A client of one authority listener. Cheap to clone; clones share their connections.
#[derive(Clone)]
pub struct Client {
    transport: Arc<Transport>,
}

impl Client {
    /// A client with the default [`Limits`]. `base_url` is `https://host[:port]`; the server must show a certificate for that host, issued by
    /// one of `ca_certificates` (DER).
    ///
    /// # Errors
    /// [`ConfigError`]; nothing is connected yet.
    pub fn new(
        base_url: &str,
        identity: ClientIdentity,
        ca_certificates: &[Vec<u8>],
    ) -> Result<Self, ConfigError> {
        Self::with_limits(base_url, identity, ca_certificates, Limits::default())
    }

    /// A client with limits of its own.
    ///
    /// # Errors
    /// As [`Client::new`].
    pub fn with_limits(
        base_url: &str,
        identity: ClientIdentity,
        ca_certificates: &[Vec<u8>],
        limits: Limits,
    ) -> Result<Self, ConfigError> {
        let tls = identity::client_config(identity, ca_certificates)?;
        Ok(Self { transport: Arc::new(Transport::new(base_url, tls, limits)?) })
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Client({})", self.transport.address())
    }
}
