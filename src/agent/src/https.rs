//! The authority behind [`AuthorityApi`]: countersign-client over mutual TLS with the TPM's host key.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use countersign_client::{Client, ClientError, ClientIdentity, ConfigError, Limits};
use countersign_core::api::{
    ArtifactsAnswer, ArtifactsCall, AttestationAnswer, AttestationCall, ChallengeOffer, Enrolled,
    EnrolmentBegin, EnrolmentFinish, EnrolmentOffer, Feed,
};
use countersign_core::bundle::TrustBundle;
use countersign_core::refusal::RefusalCode;
use rustls::sign::SigningKey;

use crate::authority::{AuthorityApi, CallError};

/// TCP, TLS and one signature by a TPM that may have other jobs before it.
const CONNECT: Duration = Duration::from_secs(20);

/// A client that can change its certificates.
pub(crate) struct HttpsAuthority {
    url: String,
    key: Arc<dyn SigningKey>,
    ca_certificates: Vec<Vec<u8>>,
    client: RwLock<Client>,
}

impl HttpsAuthority {
    /// A client that is nobody yet.
    pub(crate) fn new(
        url: &str,
        key: Arc<dyn SigningKey>,
        bundle: &TrustBundle,
    ) -> Result<Self, ConfigError> {
        let ca_certificates = bundle.ca_certificates().to_vec();
        let client = connect(url, ClientIdentity::Anonymous, &ca_certificates)?;
        Ok(Self { url: url.to_owned(), key, ca_certificates, client: RwLock::new(client) })
    }

    fn client(&self) -> Client {
        self.client.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn connect(url: &str, identity: ClientIdentity, ca: &[Vec<u8>]) -> Result<Client, ConfigError> {
    Client::with_limits(url, identity, ca, Limits { connect: CONNECT, ..Limits::default() })
}

impl AuthorityApi for HttpsAuthority {
    fn present(&self, certificates: &[Vec<u8>]) -> Result<(), CallError> {
        let identity =
            ClientIdentity::Key { certificates: certificates.to_vec(), key: Arc::clone(&self.key) };
        let client = connect(&self.url, identity, &self.ca_certificates)
            .map_err(|error| CallError::Unreadable(error.to_string()))?;
        // Calls under way keep the client that they started with.
        *self.client.write().unwrap_or_else(PoisonError::into_inner) = client;
        Ok(())
    }

    async fn begin_enrolment(&self, call: &EnrolmentBegin) -> Result<EnrolmentOffer, CallError> {
        self.client().begin_enrolment(call).await.map_err(call_error)
    }

    async fn finish_enrolment(&self, id: &str, call: &EnrolmentFinish) -> Result<Enrolled, CallError> {
        self.client().finish_enrolment(id, call).await.map_err(call_error)
    }

    async fn challenge(&self) -> Result<ChallengeOffer, CallError> {
        self.client().challenge().await.map_err(call_error)
    }

    async fn artifacts(&self, call: &ArtifactsCall) -> Result<ArtifactsAnswer, CallError> {
        self.client().artifacts(call).await.map_err(call_error)
    }

    async fn attestation(&self, call: &AttestationCall) -> Result<AttestationAnswer, CallError> {
        self.client().attest(call).await.map_err(call_error)
    }

    async fn feed(&self, size: u64, control: u64) -> Result<Feed, CallError> {
        self.client().feed(size, control).await.map_err(call_error)
    }
}

fn call_error(error: ClientError) -> CallError {
    match error {
        // A code that this version doesn't know is no reason to go on in any way.
        ClientError::Problem { code, detail, needed, retry_after, .. } => match RefusalCode::parse(&code) {
            Some(code) => CallError::Refused { code, detail, needed, retry_after },
            None => CallError::Unreadable(format!("unknown code {code:?}")),
        },
        ClientError::Unreachable { .. } => CallError::Unreachable(error.to_string()),
        ClientError::BadAnswer(reason) => CallError::Unreadable(reason),
    }
}
