//! The port towards the authority: four calls, all of which may fail and none of which is believed.

use countersign_core::api::{Acknowledgement, ConsistencyProof, Feed, OutcomesCall};
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
            Self::Unreachable { .. } | Self::Refused(_) => RefusalCode::AuthorityUnreachable,
            Self::Malformed { .. } => RefusalCode::FeedInvalid,
        }
    }
}

/// What a gateway asks of an authority (PROTOCOL §11.1).
///
/// Contract: calls may run at the same time; dropping one abandons it without harm; reading calls change nothing; `outcomes` may arrive twice
/// and is then recorded twice. Callers set the deadlines.
pub trait Source: Send + Sync {
    /// Newest head, and what leads to it from (size, control number).
    fn feed(&self, size: u64, control: u64) -> impl Future<Output = Result<Feed, SourceFault>> + Send;

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
    fn feed(&self, size: u64, control: u64) -> impl Future<Output = Result<Feed, SourceFault>> + Send {
        (**self).feed(size, control)
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
