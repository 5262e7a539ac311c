//! What the hosts of a run share: the phase, what was counted, what went wrong.

use countersign_client::ClientError;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// A call that brought no good artifact, by its stable code.
#[derive(Debug)]
pub(crate) struct CallFailure {
    code: String,
    detail: String,
    retry_after: Option<Duration>,
}

impl CallFailure {
    /// Found wrong on this side.
    pub(crate) fn own(code: &str, detail: impl Display) -> Self {
        Self { code: code.to_owned(), detail: detail.to_string(), retry_after: None }
    }

    /// A signed denial.
    pub(crate) fn denied(code: &str) -> Self {
        Self { code: code.to_owned(), detail: "denied".to_owned(), retry_after: None }
    }

    /// When to come back, if the authority said so.
    pub(crate) const fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    pub(crate) fn into_error(self) -> anyhow::Error {
        anyhow::anyhow!("{}: {}", self.code, self.detail)
    }
}

impl From<ClientError> for CallFailure {
    fn from(error: ClientError) -> Self {
        let detail = error.to_string();
        match error {
            ClientError::Problem { code, retry_after, .. } => Self { code, detail, retry_after },
            ClientError::Unreachable { .. } => Self::own("authority-unreachable", detail),
            ClientError::BadAnswer(_) => Self::own("bad-answer", detail),
        }
    }
}

/// Where a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// Load without measurement.
    WarmUp,
    /// What ends now counts.
    Measuring,
    /// Hosts finish the call they are in.
    Over,
}

/// Shared by all hosts.
#[derive(Debug, Default)]
pub(crate) struct Window {
    phase: AtomicU8,
    connected: AtomicU64,
    artifacts: AtomicU64,
    errors: Mutex<Errors>,
}

/// Errors by code, with one example each.
#[derive(Clone, Debug, Default)]
pub(crate) struct Errors {
    pub(crate) by_code: BTreeMap<String, u64>,
    pub(crate) examples: BTreeMap<String, String>,
}

impl Window {
    pub(crate) fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Relaxed) {
            0 => Phase::WarmUp,
            1 => Phase::Measuring,
            _ => Phase::Over,
        }
    }

    /// Phases only ever go forward.
    pub(crate) fn enter(&self, phase: Phase) {
        self.phase.fetch_max(phase as u8, Ordering::Relaxed);
    }

    /// A host has its first answer, good or bad.
    pub(crate) fn host_is_connected(&self) {
        self.connected.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn connected(&self) -> u64 {
        self.connected.load(Ordering::Relaxed)
    }

    /// An artifact was completed now. Says whether it counts.
    pub(crate) fn completed(&self) -> bool {
        let counts = self.phase() == Phase::Measuring;
        if counts {
            self.artifacts.fetch_add(1, Ordering::Relaxed);
        }
        counts
    }

    pub(crate) fn artifacts(&self) -> u64 {
        self.artifacts.load(Ordering::Relaxed)
    }

    /// Errors count in every phase: a failure outside of the window is a failure too.
    pub(crate) fn failed(&self, failure: &CallFailure) {
        let mut errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        *errors.by_code.entry(failure.code.clone()).or_default() += 1;
        errors.examples.entry(failure.code.clone()).or_insert_with(|| failure.detail.clone());
    }

    pub(crate) fn errors(&self) -> Errors {
        self.errors.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_ends_inside_the_window_counts() {
        let window = Window::default();
        assert!(!window.completed());
        window.enter(Phase::Measuring);
        assert!(window.completed());
        window.enter(Phase::Over);
        assert!(!window.completed());
        window.enter(Phase::WarmUp);
        assert_eq!(window.phase(), Phase::Over);
        assert_eq!(window.artifacts(), 1);
    }

    #[test]
    fn errors_count_in_every_phase_and_keep_their_first_example() {
        let window = Window::default();
        window.failed(&CallFailure::own("overloaded", "first"));
        window.enter(Phase::Over);
        window.failed(&CallFailure::own("overloaded", "second"));
        window.failed(&CallFailure::denied("policy-denied"));
        let errors = window.errors();
        assert_eq!(errors.by_code.values().sum::<u64>(), 3);
        assert_eq!(errors.by_code.get("overloaded"), Some(&2));
        assert_eq!(errors.examples.get("overloaded").map(String::as_str), Some("first"));
    }

    #[test]
    fn a_problem_keeps_its_code_and_its_retry_after() {
        let failure = CallFailure::from(ClientError::Problem {
            status: 503,
            code: "overloaded".to_owned(),
            detail: String::new(),
            needed: Vec::new(),
            retry_after: Some(Duration::from_secs(2)),
        });
        assert_eq!(failure.code, "overloaded");
        assert_eq!(failure.retry_after(), Some(Duration::from_secs(2)));
    }
}
