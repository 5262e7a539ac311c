//! What can go wrong between a client and the authority, by who has to act.

use countersign_core::api::Problem;
use countersign_core::refusal::RefusalCode;
use std::time::Duration;

/// Why a client can't be made.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Not `https://host[:port]`.
    #[error("{0:?} isn't of the form https://host[:port]")]
    Url(String),
    /// A file with a certificate or a key can't be read.
    #[error("{path}: {source}")]
    Pem {
        /// Which file.
        path: std::path::PathBuf,
        /// What was wrong.
        source: rustls_pki_types::pem::Error,
    },
    /// No CA certificate was given, or one that can't be a trust anchor.
    #[error("CA certificates: {0}")]
    Ca(String),
    /// Key and certificate don't fit, or are of no supported kind.
    #[error("client identity: {0}")]
    Identity(#[source] rustls::Error),
}

/// Why a call has no good answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The authority said no, in its own words.
    #[error("{code} ({status}): {detail}")]
    Problem {
        /// HTTP status.
        status: u16,
        /// Stable code.
        code: String,
        /// For people; the meaning of the code when the authority said no more.
        detail: String,
        /// With `evidence-needed`: digests to send inline.
        needed: Vec<String>,
        /// When to come back.
        retry_after: Option<Duration>,
    },
    /// No connection, no TLS, or no answer in time. Whether the call was carried out is unknown.
    #[error("the authority at {address} can't be reached: {reason}")]
    Unreachable {
        /// Host and port.
        address: String,
        /// What failed.
        reason: String,
    },
    /// An answer that isn't what the endpoint answers.
    #[error("unexpected answer: {0}")]
    BadAnswer(String),
}

impl ClientError {
    /// The refusal code, if the authority answered with one that this version knows.
    #[must_use]
    pub fn code(&self) -> Option<RefusalCode> {
        match self {
            Self::Problem { code, .. } => RefusalCode::parse(code),
            Self::Unreachable { .. } => Some(RefusalCode::AuthorityUnreachable),
            Self::BadAnswer(_) => None,
        }
    }

    pub(crate) fn problem(status: u16, problem: Problem, retry_after: Option<Duration>) -> Self {
        let detail = if problem.detail.is_empty() { problem.title } else { problem.detail };
        Self::Problem { status, code: problem.code, detail, needed: problem.needed, retry_after }
    }
}
