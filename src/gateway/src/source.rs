//! The port towards the authority: four calls, all of which may fail and none of which is believed. [`Client`] speaks HTTPS to a real one.

use crate::config::AuthorityConfig;
use countersign_client::{Client, ClientError, ClientIdentity, ConfigError};
use countersign_core::api::{Acknowledgement, ConsistencyProof, Feed, OutcomesCall};
use countersign_core::bundle::TrustBundle;
use countersign_core::refusal::RefusalCode;
use std::future::Future;
use std::sync::Arc;

/// Why the authority gave no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SourceFault {
    /// No connection, no answer, or none in time.
    #[error("the authority can't be reached: {detail}")]
    Unreachable {
        /// What was seen, for operators.
        detail: String,
    },
    /// It answered with a problem.
    #[error("the authority refused: {0}")]
    Refused(RefusalCode),
    /// It answered something that isn't the protocol.
    #[error("the authority's answer isn't understood: {detail}")]
    Malformed {
        /// What was seen, for operators.
        detail: String,
    },
}

impl SourceFault {
    /// The stable code that a gateway reports for it.
    #[must_use]
    pub const fn code(&self) -> RefusalCode {
        match self {
            // An authority that doesn't take what this gateway verified holds less than it once did.
            Self::Malformed { .. } | Self::Refused(RefusalCode::Malformed) => RefusalCode::FeedInvalid,
            Self::Refused(RefusalCode::HeadUnwitnessed) => RefusalCode::WitnessQuorumUnmet,
            Self::Unreachable { .. } | Self::Refused(_) => RefusalCode::AuthorityUnreachable,
        }
    }
}

impl From<ClientError> for SourceFault {
    fn from(error: ClientError) -> Self {
        match (&error, error.code()) {
            (ClientError::Problem { .. }, Some(code)) => Self::Refused(code),
            (ClientError::Unreachable { .. }, _) => Self::Unreachable { detail: error.to_string() },
            _ => Self::Malformed { detail: error.to_string() },
        }
    }
}

/// What a gateway asks of an authority (PROTOCOL §11.1).
///
/// Contract: calls may run at the same time; dropping one abandons it without harm; reading calls change nothing; `outcomes` may arrive twice
/// and is recorded once. Callers set the deadlines.
pub trait Source: Send + Sync {
    /// Newest head, or with `witnessed` the newest one that enough witnesses cosigned, and what leads to it from (size, control number).
    fn feed(
        &self,
        size: u64,
        control: u64,
        witnessed: bool,
    ) -> impl Future<Output = Result<Feed, SourceFault>> + Send;

    /// Proof that the log of `from` leaves is a prefix of the log of `to` leaves.
    fn consistency(
        &self,
        from: u64,
        to: u64,
    ) -> impl Future<Output = Result<ConsistencyProof, SourceFault>> + Send;

    /// Says which control number is enforced from now on.
    fn acknowledge(&self, ack: Acknowledgement) -> impl Future<Output = Result<(), SourceFault>> + Send;

    /// Reports what was done with artifacts; 1 to 256 at a time.
    fn outcomes(&self, call: OutcomesCall) -> impl Future<Output = Result<(), SourceFault>> + Send;
}

impl<S: Source> Source for Arc<S> {
    fn feed(
        &self,
        size: u64,
        control: u64,
        witnessed: bool,
    ) -> impl Future<Output = Result<Feed, SourceFault>> + Send {
        (**self).feed(size, control, witnessed)
    }

    fn consistency(
        &self,
        from: u64,
        to: u64,
    ) -> impl Future<Output = Result<ConsistencyProof, SourceFault>> + Send {
        (**self).consistency(from, to)
    }

    fn acknowledge(&self, ack: Acknowledgement) -> impl Future<Output = Result<(), SourceFault>> + Send {
        (**self).acknowledge(ack)
    }

    fn outcomes(&self, call: OutcomesCall) -> impl Future<Output = Result<(), SourceFault>> + Send {
        (**self).outcomes(call)
    }
}

/// A client of the authority of this configuration; nothing is connected yet.
pub fn client(config: &AuthorityConfig, bundle: &TrustBundle) -> Result<Client, ConfigError> {
    let identity = ClientIdentity::Pem {
        certificates: config.client_certificate.clone(),
        key: config.client_key.clone(),
    };
    Client::new(&config.url, identity, bundle.ca_certificates())
}

impl Source for Client {
    async fn feed(&self, size: u64, control: u64, witnessed: bool) -> Result<Feed, SourceFault> {
        if witnessed {
            return Ok(self.witnessed_feed(size, control).await?);
        }
        Ok(Self::feed(self, size, control).await?)
    }

    async fn consistency(&self, from: u64, to: u64) -> Result<ConsistencyProof, SourceFault> {
        Ok(Self::consistency(self, from, to).await?)
    }

    async fn acknowledge(&self, ack: Acknowledgement) -> Result<(), SourceFault> {
        Ok(Self::acknowledge(self, &ack).await?)
    }

    async fn outcomes(&self, call: OutcomesCall) -> Result<(), SourceFault> {
        Ok(Self::outcomes(self, &call).await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(code: &str) -> ClientError {
        ClientError::Problem {
            status: 403,
            code: code.to_owned(),
            detail: String::new(),
            needed: Vec::new(),
            retry_after: None,
        }
    }

    #[test]
    fn what_the_authority_says_keeps_its_meaning() {
        let fault = |error| SourceFault::from(error);
        assert_eq!(fault(problem("forbidden")), SourceFault::Refused(RefusalCode::Forbidden));
        assert_eq!(fault(problem("forbidden")).code(), RefusalCode::AuthorityUnreachable);
        assert_eq!(fault(problem("malformed")).code(), RefusalCode::FeedInvalid);
        assert!(matches!(fault(problem("no-such-code")), SourceFault::Malformed { .. }));
        assert!(matches!(fault(ClientError::BadAnswer(String::new())), SourceFault::Malformed { .. }));
        let away = ClientError::Unreachable { address: "a".to_owned(), reason: "b".to_owned() };
        assert_eq!(fault(away).code(), RefusalCode::AuthorityUnreachable);
    }
}
