//! No, as `application/problem+json` (RFC 9457): the one form in which anything but success leaves the authority.

use crate::serve::rates::retry_after;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use countersign_core::api::Problem;
use countersign_core::digest::Sha256Digest;
use countersign_core::refusal::RefusalCode;
use http::StatusCode;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use std::borrow::Cow;

/// A call that isn't answered with what it asked for.
///
/// The detail is for people, made of our own words and numbers; it never holds a secret, an expected value, or anything of another caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    code: RefusalCode,
    detail: Cow<'static, str>,
    needed: Vec<Sha256Digest>,
}

impl Refused {
    /// With a word of explanation.
    #[must_use]
    pub fn new(code: RefusalCode, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { code, detail: detail.into(), needed: Vec::new() }
    }

    /// `evidence-needed`, with the digests of what is to be sent inline.
    #[must_use]
    pub const fn evidence_needed(needed: Vec<Sha256Digest>) -> Self {
        Self { code: RefusalCode::EvidenceNeeded, detail: Cow::Borrowed(""), needed }
    }

    /// The stable code.
    #[must_use]
    pub const fn code(&self) -> RefusalCode {
        self.code
    }
}

impl From<RefusalCode> for Refused {
    fn from(code: RefusalCode) -> Self {
        Self::new(code, "")
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let problem = Problem {
            kind: "about:blank".to_owned(),
            title: self.code.meaning().to_owned(),
            status: status.as_u16(),
            code: self.code.as_str().to_owned(),
            detail: self.detail.into_owned(),
            needed: self.needed.iter().map(Sha256Digest::to_hex).collect(),
        };
        let mut response = Response::new(Body::from(serde_json::to_vec(&problem).unwrap_or_default()));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) {
            headers.insert(RETRY_AFTER, HeaderValue::from(retry_after().as_secs()));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_becomes_a_problem_of_its_status_and_overload_says_when_to_come_back() {
        for code in RefusalCode::ALL {
            let response = Refused::from(*code).into_response();
            assert_eq!(response.status().as_u16(), code.status(), "{code}");
            assert_eq!(response.headers()[CONTENT_TYPE], "application/problem+json");
            let waits = response.headers().contains_key(RETRY_AFTER);
            assert_eq!(waits, matches!(code.status(), 429 | 503), "{code}");
        }
    }
}
