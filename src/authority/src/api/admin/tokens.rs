//! Join tokens: made once, shown once, kept by digest.

use super::{malformed, recorded};
use crate::acts::{Draft, Mandate, act};
use crate::api::problem::Refused;
use crate::api::{Call, json};
use crate::sequence::Entry;
use crate::serve::Authority;
use axum::response::Response;
use countersign_core::api::admin::{JoinTokenCall, JoinTokenMade};
use countersign_core::leaf::Kind;
use countersign_core::leaf::control::Role;
use countersign_core::leaf::record::{JoinToken, join_token_digest};
use countersign_core::refusal::RefusalCode;
use std::sync::Arc;
use zeroize::Zeroizing;

/// A week: a token is for a machine that is about to join.
const MAX_TTL_SECS: u64 = 604_800;

/// `POST /v1/admin/join-tokens`.
pub(in crate::api) async fn make(authority: Arc<Authority>, call: Call) -> Result<Response, Refused> {
    let by = call.caller.principal()?;
    let document: JoinTokenCall = call.document()?;
    if !(1..=MAX_TTL_SECS).contains(&document.ttl_secs) {
        return Err(malformed(format!("ttl_secs must be between 1 and {MAX_TTL_SECS}")));
    }
    let mut secret = Zeroizing::new([0; 32]);
    getrandom::fill(secret.as_mut_slice()).map_err(|_| Refused::from(RefusalCode::Internal))?;
    let token = data_encoding::BASE64URL_NOPAD.encode(secret.as_slice());
    let expires_ms = authority.now_ms().saturating_add(document.ttl_secs.saturating_mul(1_000));
    let body = JoinToken { token: join_token_digest(&token), expires_ms, by }.encode();
    let draft = |_: &_| Ok(Draft::of(Entry::plain(Kind::JoinToken, body.clone())));
    let receipt = recorded(&act(&authority, Mandate::Operator(by, Role::Operator), draft).await?)?.receipt;
    json(&JoinTokenMade { token, expires_ms, receipt })
}
