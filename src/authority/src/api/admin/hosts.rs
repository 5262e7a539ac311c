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
use countersign_core::leaf::Leaf;
use countersign_core::leaf::control::Subject;
use countersign_core::leaf::host::Tier;
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
    let now_ms = authority.now_ms();
    json(&Hosts { hosts: rows.iter().map(|row| document(row, &control, now_ms)).collect(), next })
}

/// `GET /v1/admin/hosts/{id}`.
pub(in crate::api) async fn one(authority: Arc<Authority>, call: Call) -> Result<Response, Refused> {
    let host = HostId::from_hex(&call.parameter).map_err(|_| Refused::from(RefusalCode::NotFound))?;
    let worker = Arc::clone(&authority);
    let found = authority.run(move || {
        let reader = worker.reader();
        let Some(row) = reader.host(&host).map_err(read_fault)? else { return Ok(None) };
        let leaf = reader.leaf(row.state_index).map_err(read_fault)?;
        Ok(Some((row, leaf)))
    });
    let (row, leaf) = found.await?.ok_or_else(|| Refused::from(RefusalCode::NotFound))?;
    let now_ms = authority.now_ms();
    let told_ms = leaf.and_then(|bytes| Leaf::parse(&bytes).ok()).map(|leaf| leaf.time_ms);
    let document = document(&row, &authority.control(), now_ms);
    json(&HostDocument { state_age_ms: told_ms.map(|told| now_ms.saturating_sub(told)), ..document })
}

/// Why a host stands as it does, the weightiest first.
fn reason(row: &HostRow, control: &ControlState, now_ms: u64) -> String {
    let state = &row.state;
    if control.is_revoked(&Subject::Host(row.host)) {
        return "an operator revoked it".to_owned();
    }
    if state.evidence.is_none() {
        return "it never gave good evidence".to_owned();
    }
    match state.tier {
        // Such evidence ends trust at once, so this comes before what the clock says.
        Tier::Contraindicated => "its registers match no active reference set".to_owned(),
        _ if state.trusted_until_ms <= now_ms => {
            let ago = now_ms.saturating_sub(state.trusted_until_ms) / 1_000;
            format!("its trust ended {ago} s ago and it gave no good evidence since")
        }
        Tier::None => "nothing of it was appraised".to_owned(),
        Tier::Affirming => {
            "its TPM is certified, Secure Boot was on, and its registers match a reference set".to_owned()
        }
        Tier::Warning if !row.enrolment.endorsement.kind.is_certified() => {
            "its EK is allow-listed: no certificate endorses its TPM".to_owned()
        }
        Tier::Warning if control.references().is_none() => "no reference values are active".to_owned(),
        Tier::Warning => {
            "at its last appraisal Secure Boot wasn't proven on, no reference values were active, or files ran that \
             the IMA policy only excuses"
                .to_owned()
        }
    }
}

fn document(row: &HostRow, control: &ControlState, now_ms: u64) -> HostDocument {
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
        endorsement: row.enrolment.endorsement.kind.name().to_owned(),
        reason: reason(row, control, now_ms),
        state_age_ms: None,
    }
}
