//! What a local caller is told instead of an answer: one code, a detail for people, and when to come again.
//!
//! Every operation has its own error; here they become one of the closed list of codes. Nothing secret is ever part of a detail.

use countersign_core::api::Problem;
use countersign_core::refusal::{Blame, RefusalCode};

/// Longest detail that is passed on from the authority.
const MAX_DETAIL: usize = 512;

/// A refusal as a local caller sees it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {detail}")]
pub struct Refused {
    /// The stable code.
    pub code: RefusalCode,
    /// More for people.
    pub detail: String,
    /// When to come again, seconds.
    pub retry_after_secs: Option<u64>,
}

impl Refused {
    /// A refusal; faults of ours ask to come again in a second.
    #[must_use]
    pub fn new(code: RefusalCode, detail: impl Into<String>) -> Self {
        let retry_after_secs = (code.status() == 503).then_some(1);
        Self { code, detail: bounded(detail.into()), retry_after_secs }
    }

    /// The body of RFC 9457.
    #[must_use]
    pub fn problem(&self) -> Problem {
        Problem {
            kind: "about:blank".to_owned(),
            title: self.code.meaning().to_owned(),
            status: self.code.status(),
            code: self.code.as_str().to_owned(),
            detail: self.detail.clone(),
            needed: Vec::new(),
        }
    }

    /// Whether the same call may succeed later.
    #[must_use]
    pub fn is_fault(&self) -> bool {
        self.code.blame() == Blame::Fault
    }
}

/// At most [`MAX_DETAIL`] bytes, cut between characters, without control characters.
fn bounded(detail: String) -> String {
    let mut out = String::with_capacity(detail.len().min(MAX_DETAIL));
    for c in detail.chars().map(|c| if c.is_control() { ' ' } else { c }) {
        if out.len() + c.len_utf8() > MAX_DETAIL {
            break;
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_detail_is_short_and_one_line() {
        let refused = Refused::new(RefusalCode::Overloaded, format!("a\nb{}", "ü".repeat(600)));
        assert!(refused.detail.len() <= MAX_DETAIL && refused.detail.starts_with("a b"));
        assert_eq!(refused.retry_after_secs, Some(1));
        assert_eq!(Refused::new(RefusalCode::PeerUnknown, "").retry_after_secs, None);
    }

    #[test]
    fn the_problem_repeats_the_table() {
        let problem = Refused::new(RefusalCode::PeerUnknown, "x").problem();
        assert_eq!((problem.status, problem.code.as_str()), (403, "peer-unknown"));
    }
}
