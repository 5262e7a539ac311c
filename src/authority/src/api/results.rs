//! A host's newest attestation result as a JWT (PROTOCOL §17).
//!
//! Whose it is follows from the connection's key where a host asks, and from the path where an operator does; nothing in a body names a host.

use super::problem::Refused;
use super::{Call, json};
use crate::serve::Authority;
use axum::response::Response;
use countersign_core::api::{AttestationResultCall, Jwk, JwkSet};
use countersign_core::ear::NONCE_LEN;
use countersign_core::name::HostId;
use countersign_core::refusal::RefusalCode;
use std::sync::Arc;
use std::time::Instant;

/// `POST /v1/attestation-results`: about the calling host.
pub(super) async fn own(authority: Arc<Authority>, call: Call) -> Result<Response, Refused> {
    let (host, key) = call.caller.host()?;
    json(&authority.attestation_result(host, nonce(&call)?, key, true).await?)
}

/// `POST /v1/admin/hosts/{id}/attestation-result`.
pub(super) async fn any(authority: Arc<Authority>, call: Call) -> Result<Response, Refused> {
    let key = call.caller.principal()?;
    let host = HostId::from_hex(&call.parameter).map_err(|_| Refused::from(RefusalCode::NotFound))?;
    let answer = authority.attestation_result(host, nonce(&call)?, key, false).await;
    json(&answer.map_err(|refused| match refused.code() {
        RefusalCode::HostUnknown => RefusalCode::NotFound.into(),
        _ => refused,
    })?)
}

fn nonce(call: &Call) -> Result<Option<Vec<u8>>, Refused> {
    let document: AttestationResultCall = call.document()?;
    match document.nonce {
        // RFC 9711 §4.1.
        Some(nonce) if !NONCE_LEN.contains(&nonce.0.len()) => {
            Err(Refused::new(RefusalCode::Malformed, "a nonce has 8 to 64 bytes"))
        }
        nonce => Ok(nonce.map(|nonce| nonce.0)),
    }
}

/// `GET /.well-known/jwks.json`. For anyone: public keys of whoever signs results.
pub(super) async fn keys(authority: Arc<Authority>, call: Call) -> Result<Response, Refused> {
    if !authority.budgets().tiles.take(call.source, Instant::now()) {
        return Err(RefusalCode::RateLimited.into());
    }
    json(&JwkSet { keys: authority.control().jwt_keys_published().map(Jwk::from).collect() })
}
