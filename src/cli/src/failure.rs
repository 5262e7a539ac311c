//! How a command fails: a refusal with its stable code, or an error of usage, configuration or environment.

use countersign_client::ClientError;
use countersign_core::refusal::{Blame, RefusalCode};
use std::process::ExitCode;

/// Why a command didn't do what it was asked.
pub(crate) enum Failure {
    /// Somebody said no, with a stable code.
    Refused {
        /// The code.
        code: RefusalCode,
        /// For people.
        detail: String,
    },
    /// Anything else: a file, an argument, the environment.
    Error(anyhow::Error),
}

impl Failure {
    pub(crate) fn refused(code: RefusalCode, detail: impl Into<String>) -> Self {
        Self::Refused { code, detail: detail.into() }
    }

    /// Prints `refused: <code>: <detail>` or `error: ..` and picks the exit status.
    pub(crate) fn report(&self) -> ExitCode {
        match self {
            Self::Refused { code, detail } => {
                let detail = if detail.is_empty() { code.meaning() } else { detail };
                anstream::eprintln!("refused: {code}: {detail}");
                match code.blame() {
                    Blame::Refusal => ExitCode::from(1),
                    Blame::Misuse => ExitCode::from(2),
                    Blame::Fault => ExitCode::from(3),
                }
            }
            Self::Error(error) => {
                anstream::eprintln!("error: {}", told_once(error));
                ExitCode::from(2)
            }
        }
    }
}

/// An error and its causes. Many of ours tell their cause in their own words; then it isn't told again.
fn told_once(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |told, cause| {
        if told.is_empty() {
            cause
        } else if told.contains(&cause) {
            told
        } else {
            format!("{told}: {cause}")
        }
    })
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        match (error.code(), &error) {
            (Some(code), ClientError::Problem { detail, .. }) => Self::refused(code, detail.clone()),
            (Some(code), other) => Self::refused(code, other.to_string()),
            (None, _) => Self::Error(error.into()),
        }
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Error(error)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::Error(error.into())
    }
}

impl From<serde_json::Error> for Failure {
    fn from(error: serde_json::Error) -> Self {
        Self::Error(error.into())
    }
}

/// What every command returns.
pub(crate) type Outcome = Result<ExitCode, Failure>;

#[cfg(test)]
mod tests {
    use super::told_once;
    use anyhow::Context;

    #[test]
    fn a_cause_is_told_once() {
        let cause = || std::io::Error::other("no such thing");
        let own: anyhow::Error = anyhow::Error::new(cause()).context("file x: no such thing");
        assert_eq!(told_once(&own), "file x: no such thing");
        let plain = Err::<(), _>(cause()).context("file x").unwrap_err();
        assert_eq!(told_once(&plain), "file x: no such thing");
    }
}
