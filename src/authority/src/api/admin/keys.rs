//! Head and JWT keys: their states, rotation, and the recovery key's word against one of them.

use super::{approval, malformed};
use crate::api::problem::Refused;
use crate::api::{Call, json};
use crate::serve::{Authority, compromise, rotation};
use axum::response::Response;
use countersign_core::api::admin::{
    CompromiseCall, KeyDocument, Keys, PrepareKeyCall, RotateCall, WithdrawKeyCall,
};
use countersign_core::control::{ControlState, HeadKey};
use countersign_core::digest::Sha256Digest;
use countersign_core::key::JsonKey;
use countersign_core::leaf::control::{KeyPurpose, RecoveryRecord};
use std::sync::Arc;

/// Longest label: PKCS#11 tokens take far longer ones, people don't.
const MAX_LABEL_LEN: usize = 64;

/// `GET /v1/admin/keys`.
pub(in crate::api) async fn list(authority: Arc<Authority>, _call: Call) -> Result<Response, Refused> {
    json(&document(&authority.control()))
}

/// `POST /v1/admin/keys/prepare`.
pub(in crate::api) async fn prepare(authority: Arc<Authority>, call: Call) -> Result<Response, Refused> {
    let by = call.caller.principal()?;
    let PrepareKeyCall { label, purpose } = call.document()?;
    let purpose = match purpose.as_deref() {
        None | Some("head") => KeyPurpose::Head,
        Some("jwt") => KeyPurpose::Jwt,
        Some(_) => return Err(malformed("purpose is head or jwt")),
    };
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    if label.is_empty() || label.len() > MAX_LABEL_LEN || !label.bytes().all(plain) {
        return Err(malformed("label has 1 to 64 characters of [A-Za-z0-9._-]"));
    }
    json(&rotation::prepare(&authority, label, purpose, by).await?)
}

/// `POST /v1/admin/keys/rotate`.
pub(in crate::api) async fn rotate(authority: Arc<Authority>, call: Call) -> Result<Response, Refused> {
    let by = call.caller.principal()?;
    let RotateCall { thumbprint, approval: document } = call.document()?;
    let thumbprint =
        Sha256Digest::from_hex(&thumbprint).map_err(|_| malformed("thumbprint isn't a key thumbprint"))?;
    rotation::introduce(&authority, &thumbprint, approval(document)?, by).await?;
    json(&self::document(&authority.control()))
}

/// `POST /v1/admin/keys/withdraw`.
pub(in crate::api) async fn withdraw(authority: Arc<Authority>, call: Call) -> Result<Response, Refused> {
    let by = call.caller.principal()?;
    let WithdrawKeyCall { thumbprint } = call.document()?;
    let thumbprint =
        Sha256Digest::from_hex(&thumbprint).map_err(|_| malformed("thumbprint isn't a key thumbprint"))?;
    rotation::withdraw(&authority, &thumbprint, by).await?;
    json(&document(&authority.control()))
}

/// `POST /v1/admin/keys/compromise`.
pub(in crate::api) async fn compromise(authority: Arc<Authority>, call: Call) -> Result<Response, Refused> {
    let by = call.caller.principal()?;
    let CompromiseCall { statement, signature } = call.document()?;
    let record = RecoveryRecord { statement: statement.0, signature: signature.0 };
    compromise::record(&authority, record, by).await?;
    json(&document(&authority.control()))
}

fn document(control: &ControlState) -> Keys {
    let jwt = |known: &HeadKey| match key(known) {
        withdrawn if known.compromised => KeyDocument { state: "withdrawn".to_owned(), ..withdrawn },
        other => other,
    };
    Keys {
        head: control.head_keys().iter().map(key).collect(),
        jwt: control.jwt_keys().iter().map(jwt).collect(),
        statements: control.statements(),
    }
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
        key: JsonKey::from(key.key.clone()),
        alg: key.key.algorithm().name().to_owned(),
        state: state.to_owned(),
        introduced: key.introduced,
        activated: key.activated,
        ended: key.ended,
    }
}
