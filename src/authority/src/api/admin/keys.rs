//! Head keys: their states, and rotation.

use super::malformed;
use crate::api::problem::Refused;
use crate::api::{Call, json};
use crate::serve::{Authority, rotation};
use axum::response::Response;
use countersign_core::api::admin::{KeyDocument, Keys, RotateCall};
use countersign_core::control::{ControlState, HeadKey};
use std::sync::Arc;

/// Longest label: PKCS#11 tokens take far longer ones, people don't.
const MAX_LABEL_LEN: usize = 64;

/// `GET /v1/admin/keys`.
pub(in crate::api) async fn list(authority: Arc<Authority>, _call: Call) -> Result<Response, Refused> {
    json(&document(&authority.control()))
}

/// `POST /v1/admin/keys/rotate`.
pub(in crate::api) async fn rotate(authority: Arc<Authority>, call: Call) -> Result<Response, Refused> {
    let by = call.caller.principal()?;
    let RotateCall { label } = call.document()?;
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    if label.is_empty() || label.len() > MAX_LABEL_LEN || !label.bytes().all(plain) {
        return Err(malformed("label has 1 to 64 characters of [A-Za-z0-9._-]"));
    }
    rotation::introduce(&authority, label, by).await?;
    json(&document(&authority.control()))
}

fn document(control: &ControlState) -> Keys {
    Keys { head: control.head_keys().iter().map(key).collect() }
}

/// The state word of NIST SP 800-57 Part 1 §7.
fn key(key: &HeadKey) -> KeyDocument {
    let state = match (key.compromised, key.ended, key.activated) {
        (true, ..) => "compromised",
        (false, Some(_), _) => "deactivated",
        (false, None, Some(_)) => "active",
        (false, None, None) => "pre-activation",
    };
    KeyDocument {
        thumbprint: key.key.thumbprint().to_hex(),
        alg: key.key.algorithm().name().to_owned(),
        state: state.to_owned(),
        introduced: key.introduced,
        activated: key.activated,
        ended: key.ended,
    }
}
