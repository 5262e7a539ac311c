//! The HTTPS API (PROTOCOL §11): from a request to a call, from a call to an answer.
//!
//! Comes in: requests whose connection proved a key. Goes out: typed answers, or problems. Everything that an endpoint is, who may call it
//! included, stands in one table ([`routes::ROUTES`]); the routers, the checks and the published description are made from it. Refused
//! before a handler runs: callers without the right, bodies over the limit, callers over their rate.
//!
//! Handlers are thin: they turn outside forms into typed values, have the work done on a worker thread, and turn the result into an
//! outside form again.

pub mod acknowledgements;
pub mod admin;
mod ancestors;
pub mod artifacts;
mod attempts;
pub mod attestations;
pub mod challenges;
pub mod enrol;
pub mod evidence;
pub mod feed;
pub mod guard;
pub mod head;
pub mod health;
mod idevid;
mod judgement;
pub mod outcomes;
mod pending;
pub mod problem;
mod receipts;
mod results;
pub mod route;
pub mod routes;
mod tiles;

use crate::serve::source::Source;
use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use countersign_core::digest::Sha256Digest;
use countersign_core::leaf::control::Role;
use countersign_core::name::HostId;
use countersign_core::refusal::RefusalCode;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::{HeaderName, StatusCode};
use problem::Refused;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Who is calling, as far as the route asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// Whoever; the route doesn't ask.
    Anyone,
    /// The host that this key was enrolled for. The row is compared again where the host's state is read.
    Host {
        /// Host identifier.
        host: HostId,
        /// Thumbprint of the host key.
        key: Sha256Digest,
    },
    /// A gateway in force.
    Gateway(Sha256Digest),
    /// An operator in force.
    Operator(Sha256Digest, Role),
}

impl Caller {
    /// Thumbprint of the principal; for handlers behind a route that admits principals only.
    fn principal(&self) -> Result<Sha256Digest, Refused> {
        match self {
            Self::Gateway(key) | Self::Operator(key, _) => Ok(*key),
            Self::Anyone | Self::Host { .. } => Err(RefusalCode::Forbidden.into()),
        }
    }

    /// The host; for handlers behind a route that admits hosts only.
    fn host(&self) -> Result<(HostId, Sha256Digest), Refused> {
        match self {
            Self::Host { host, key } => Ok((*host, *key)),
            Self::Anyone | Self::Gateway(_) | Self::Operator(..) => Err(RefusalCode::Forbidden.into()),
        }
    }
}

/// A request that passed the guard. Its body may hold a secret, so it has no Debug.
pub struct Call {
    /// Who.
    pub caller: Caller,
    /// From where.
    pub source: Source,
    /// The variable part of the path as it was sent, not decoded; empty if there is none.
    pub parameter: String,
    /// The query, undecoded; values of this API need no decoding.
    pub query: String,
    /// The whole body.
    pub body: Bytes,
}

impl Call {
    /// The body as the endpoint's document.
    fn document<T: DeserializeOwned>(&self) -> Result<T, Refused> {
        serde_json::from_slice(&self.body)
            .map_err(|error| Refused::new(RefusalCode::Malformed, error.to_string()))
    }

    /// A number from the query.
    fn number(&self, name: &'static str) -> Result<Option<u64>, Refused> {
        self.value(name)
            .map(|text| {
                let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
                text.parse()
                    .ok()
                    .filter(|_| digits)
                    .ok_or_else(|| Refused::new(RefusalCode::Malformed, format!("{name} isn't a number")))
            })
            .transpose()
    }

    /// A number that the query must have.
    fn required_number(&self, name: &'static str) -> Result<u64, Refused> {
        self.number(name)?.ok_or_else(|| Refused::new(RefusalCode::Malformed, format!("{name} is missing")))
    }

    /// A value from the query.
    fn value(&self, name: &str) -> Option<&str> {
        let pairs = self.query.split('&').filter_map(|pair| pair.split_once('='));
        pairs.into_iter().find(|(key, _)| *key == name).map(|(_, value)| value)
    }
}

fn answer(status: StatusCode, kind: &'static str, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    let fixed: [(HeaderName, HeaderValue); 2] = [
        (CONTENT_TYPE, HeaderValue::from_static(kind)),
        (CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    headers.extend(fixed);
    response
}

fn json_with<T: Serialize>(status: StatusCode, value: &T) -> Result<Response, Refused> {
    let body = serde_json::to_vec(value).map_err(|_| Refused::from(RefusalCode::Internal))?;
    Ok(answer(status, "application/json", body))
}

fn json<T: Serialize>(value: &T) -> Result<Response, Refused> {
    json_with(StatusCode::OK, value)
}

fn text(kind: &'static str, body: String) -> Response {
    answer(StatusCode::OK, kind, body)
}

fn nothing() -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

/// Keeps a fault's own words for the operator's log, and lets its code out.
fn faulted(fault: &dyn std::error::Error, code: RefusalCode) -> Refused {
    tracing::warn!(code = code.as_str(), %fault, "call failed");
    code.into()
}
