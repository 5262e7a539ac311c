//! What gateways say that they enforce. A new head key waits for it.

use super::Call;
use super::nothing;
use super::problem::Refused;
use crate::serve::Authority;
use axum::response::Response;
use countersign_core::api::Acknowledgement;
use countersign_core::refusal::RefusalCode;
use std::sync::Arc;

/// `POST /v1/acknowledgements`.
pub(super) async fn acknowledge(authority: Arc<Authority>, call: Call) -> Result<Response, Refused> {
    let gateway = call.caller.principal()?;
    let document: Acknowledgement = call.document()?;
    let head = authority.signed_head()?;
    if document.control > head.body().control_seq || document.size > head.size() {
        return Err(Refused::new(RefusalCode::Malformed, "beyond the newest head"));
    }
    authority.acknowledge(gateway, document.control).await?;
    Ok(nothing())
}
