//! What the agent asks of the authority, as a port, and how such a call can fail.

use std::future::Future;
use std::time::Duration;

use countersign_core::api::{
    ArtifactsAnswer, ArtifactsCall, AttestationAnswer, AttestationCall, ChallengeOffer, Enrolled,
    EnrolmentBegin, EnrolmentFinish, EnrolmentOffer, Feed,
};
use countersign_core::refusal::{Blame, RefusalCode};

use crate::refused::Refused;

/// Why a call has no answer to act on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// No connection, or it broke. Whether the call arrived is unknown.
    #[error("the authority can't be reached: {0}")]
    Unreachable(String),
    /// No answer within the deadline. Whether the call took effect is unknown.
    #[error("the authority didn't answer in time")]
    TimedOut,
    /// What came back isn't of the protocol.
    #[error("the authority's answer can't be read: {0}")]
    Unreadable(String),
    /// The authority says no.
    #[error("the authority refuses: {code}: {detail}")]
    Refused {
        /// Its code.
        code: RefusalCode,
        /// Its words.
        detail: String,
        /// With `evidence-needed`: digests of the members to send, hex.
        needed: Vec<String>,
        /// When to come again.
        retry_after: Option<Duration>,
    },
}

impl CallError {
    /// The authority's own code, if it answered with one.
    #[must_use]
    pub const fn code(&self) -> Option<RefusalCode> {
        match self {
            Self::Refused { code, .. } => Some(*code),
            _ => None,
        }
    }

    /// Whether the same call may succeed if it is made again.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::TimedOut => true,
            Self::Unreadable(_) => false,
            Self::Refused { code, .. } => code.blame() == Blame::Fault || *code == RefusalCode::RateLimited,
        }
    }

    /// When to come again, if the authority said so.
    #[must_use]
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

impl From<CallError> for Refused {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Unreachable(_) | CallError::TimedOut => {
                Self::new(RefusalCode::AuthorityUnreachable, "the authority can't be reached or is late")
            }
            CallError::Unreadable(_) => {
                Self::new(RefusalCode::FeedInvalid, "the authority's answer isn't of the protocol")
            }
            CallError::Refused { code, detail, retry_after, .. } => {
                let mut refused = Self::new(code, detail);
                if let Some(after) = retry_after {
                    refused.retry_after_secs = Some(after.as_secs().max(1));
                }
                refused
            }
        }
    }
}

/// The authority's service listener (PROTOCOL §11.1), as far as a host uses it. Every call is made once, ends within a deadline of its own and may
/// be dropped; repeating is the caller's affair. All but the enrolments are authenticated by the host key.
pub trait AuthorityApi: Send + Sync + 'static {
    /// Shows these certificates of the host key (DER, the host's first) in connections from now on.
    ///
    /// # Errors
    /// [`CallError::Unreadable`] if they can't be shown.
    fn present(&self, certificates: &[Vec<u8>]) -> Result<(), CallError>;

    /// `POST /v1/enrolments`.
    fn begin_enrolment(
        &self,
        call: &EnrolmentBegin,
    ) -> impl Future<Output = Result<EnrolmentOffer, CallError>> + Send;

    /// `POST /v1/enrolments/{id}`.
    fn finish_enrolment(
        &self,
        enrolment: &str,
        call: &EnrolmentFinish,
    ) -> impl Future<Output = Result<Enrolled, CallError>> + Send;

    /// `POST /v1/challenges`.
    fn challenge(&self) -> impl Future<Output = Result<ChallengeOffer, CallError>> + Send;

    /// `POST /v1/artifacts`.
    fn artifacts(
        &self,
        call: &ArtifactsCall,
    ) -> impl Future<Output = Result<ArtifactsAnswer, CallError>> + Send;

    /// `POST /v1/attestations`.
    fn attestation(
        &self,
        call: &AttestationCall,
    ) -> impl Future<Output = Result<AttestationAnswer, CallError>> + Send;

    /// `GET /v1/feed`.
    fn feed(&self, size: u64, control: u64) -> impl Future<Output = Result<Feed, CallError>> + Send;
}
