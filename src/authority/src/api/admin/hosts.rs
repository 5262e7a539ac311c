//! Hosts and their state.

use super::malformed;
use crate::api::artifacts::read_fault;
use crate::api::problem::Refused;
use crate::api::{Call, json};
use crate::serve::Authority;
use crate::store::HostRow;
use axum::response::Response;
use countersign_core::api::admin::{HostDocument, Hosts};
use countersign_core::control::ControlState;
use countersign_core::leaf::control::Subject;
use countersign_core::name::HostId;
use countersign_core::refusal::RefusalCode;
use std::sync::Arc;

/// Hosts of one page.
const PAGE: u64 = 256;

/// `GET /v1/admin/hosts`.
pub(in crate::api) async fn list(authority: Arc<Authority>, call: Call) -> Result<Response, Refused> {
    let after = call.value("after").map(HostId::from_hex).transpose();
    let after = after.map_err(|_| malformed("after isn't a host identifier"))?;
    let worker = Arc::clone(&authority);
    let rows = authority.run(move || worker.reader().hosts(after.as_ref(), PAGE).map_err(read_fault)).await?;
    let control = authority.control();
    let full = u64::try_from(rows.len()).is_ok_and(|count| count == PAGE);
    let next = rows.last().filter(|_| full).map(|row| row.host.to_hex());
    json(&Hosts { hosts: rows.iter().map(|row| document(row, &control)).collect(), next })
}

/// `GET /v1/admin/hosts/{id}`.
pub(in crate::api) async fn one(authority: Arc<Authority>, call: Call) -> Result<Response, Refused> {
    let host = HostId::from_hex(&call.parameter).map_err(|_| Refused::from(RefusalCode::NotFound))?;
    let worker = Arc::clone(&authority);
    let row = authority.run(move || worker.reader().host(&host).map_err(read_fault)).await?;
    let row = row.ok_or_else(|| Refused::from(RefusalCode::NotFound))?;
    json(&document(&row, &authority.control()))
}

fn document(row: &HostRow, control: &ControlState) -> HostDocument {
    let revoked = control.is_revoked(&Subject::Host(row.host));
    HostDocument {
        host: row.host.to_hex(),
        status: if revoked { "revoked" } else { "active" }.to_owned(),
        tier: row.state.tier.name().to_owned(),
        trusted_until_ms: row.state.trusted_until_ms,
        enrolment: row.enrolment_leaf.0,
        reset_count: row.state.reset_count,
        restart_count: row.state.restart_count,
        evidence: row.state.evidence.map(|digest| digest.to_hex()),
    }
}
