//! A refusal: the stable code, an explanation for operators, and the artifact that it is about once that is known to be one.

use countersign_core::leaf::decision::LeafRef;
use countersign_core::refusal::RefusalCode;
use std::fmt;

/// Why nothing was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    code: RefusalCode,
    explanation: String,
    artifact: Option<LeafRef>,
}

impl Refusal {
    /// A refusal; the explanation is for operators and holds nothing secret.
    #[must_use]
    pub fn new(code: RefusalCode, explanation: impl fmt::Display) -> Self {
        Self { code, explanation: explanation.to_string(), artifact: None }
    }

    /// Names the artifact. Only for one under a signed, linked head: what strangers make up must not fill the log with outcomes.
    #[must_use]
    pub fn of_artifact(mut self, artifact: LeafRef) -> Self {
        self.artifact = Some(artifact);
        self
    }

    /// Adds what else an operator should know.
    #[must_use]
    pub fn because(mut self, more: impl fmt::Display) -> Self {
        self.explanation = format!("{}; {more}", self.explanation);
        self
    }

    /// The stable code.
    #[must_use]
    pub const fn code(&self) -> RefusalCode {
        self.code
    }

    /// For operators.
    #[must_use]
    pub fn explanation(&self) -> &str {
        &self.explanation
    }

    /// The genuine artifact that was refused.
    #[must_use]
    pub const fn artifact(&self) -> Option<LeafRef> {
        self.artifact
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.explanation)
    }
}

impl std::error::Error for Refusal {}
