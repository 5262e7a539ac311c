//! The newest signed head.

use super::problem::Refused;
use super::{Call, text};
use crate::serve::Authority;
use axum::response::Response;
use std::sync::Arc;

/// `GET /v1/head`.
pub(super) async fn newest(authority: Arc<Authority>, _call: Call) -> Result<Response, Refused> {
    Ok(text("text/plain; charset=utf-8", authority.signed_head()?.note().to_owned()))
}
