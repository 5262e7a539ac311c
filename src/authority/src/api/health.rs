//! How the authority is: alive, ready, and its counters.

use super::problem::Refused;
use super::{Call, json_with, text};
use crate::serve::Authority;
use axum::response::Response;
use http::StatusCode;
use std::sync::Arc;

/// `GET /livez`.
pub(super) async fn livez(_authority: Arc<Authority>, _call: Call) -> Result<Response, Refused> {
    Ok(text("text/plain; charset=utf-8", "live\n".to_owned()))
}

/// `GET /readyz`. It closes nothing: whether to send traffic is the asker's decision.
pub(super) async fn readyz(authority: Arc<Authority>, _call: Call) -> Result<Response, Refused> {
    let readiness = authority.readiness();
    let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    json_with(status, &readiness)
}

/// `GET /metrics`.
pub(super) async fn metrics(authority: Arc<Authority>, _call: Call) -> Result<Response, Refused> {
    Ok(text("application/openmetrics-text; version=1.0.0; charset=utf-8", authority.render_metrics()))
}
