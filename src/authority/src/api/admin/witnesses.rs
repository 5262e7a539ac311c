//! Witnesses of this log, and an officer's decision about one that refuses it.

use crate::api::problem::Refused;
use crate::api::{Call, json};
use crate::serve::Authority;
use axum::response::Response;
use countersign_core::api::admin::WitnessCall;
use std::sync::Arc;

/// `GET /v1/admin/witnesses`.
pub(in crate::api) async fn list(authority: Arc<Authority>, _call: Call) -> Result<Response, Refused> {
    json(&authority.witnesses().document())
}

/// `POST /v1/admin/witnesses`. No leaf: while there is an alarm nothing is appended. The decision is kept beside it, and what was refused
/// meanwhile is counted in the log.
pub(in crate::api) async fn decide(authority: Arc<Authority>, call: Call) -> Result<Response, Refused> {
    let by = call.caller.principal()?;
    let document: WitnessCall = call.document()?;
    let worker = Arc::clone(&authority);
    authority.run(move || worker.witnesses().decide(&document, &by, worker.now_ms())).await?;
    json(&authority.witnesses().document())
}
