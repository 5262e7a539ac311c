//! Hosts and their state.

use super::malformed;
use crate::api::artifacts::read_fault;
use crate::api::problem::Refused;
use crate::api::{Call, json};
use crate::serve::Authority;
use crate::serve::refusals::Refusal;
use crate::store::HostRow;
use crate::why;
use axum::response::Response;
use countersign_core::api::DeviceDocument;
use countersign_core::api::admin::{HostDocument, Hosts};
use countersign_core::control::ControlState;
use countersign_core::leaf::Leaf;
use countersign_core::leaf::control::Subject;
use countersign_core::leaf::device::DeviceIdentity;
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
    let hosts = rows.iter().map(|row| HostDocument {
        last_refusal: authority.last_refusal(&row.host).as_ref().map(Refusal::document),
        ..document(row, &control, now_ms)
    });
    json(&Hosts { hosts: hosts.collect(), next })
}

/// `GET /v1/admin/hosts/{id}`.
pub(in crate::api) async fn one(authority: Arc<Authority>, call: Call) -> Result<Response, Refused> {
    let host = HostId::from_hex(&call.parameter).map_err(|_| Refused::from(RefusalCode::NotFound))?;
    let worker = Arc::clone(&authority);
    let found = authority.run(move || {
        let reader = worker.reader();
        let Some(row) = reader.host(&host).map_err(read_fault)? else { return Ok(None) };
        let leaf = reader.leaf(row.state_index).map_err(read_fault)?;
        let control = worker.control();
        let causes = match row.state.tier {
            Tier::Warning => {
                why::causes(worker.origin(), reader, &control, &row, leaf.as_deref()).map_err(read_fault)?
            }
            _ => Vec::new(),
        };
        Ok(Some((row, leaf, control, causes)))
    });
    let (row, leaf, control, causes) = found.await?.ok_or_else(|| Refused::from(RefusalCode::NotFound))?;
    let now_ms = authority.now_ms();
    let told_ms = leaf.and_then(|bytes| Leaf::parse(&bytes).ok()).map(|leaf| leaf.time_ms);
    let refusal = authority.last_refusal(&host);
    let since = refusal.as_ref().filter(|refusal| told_ms.is_none_or(|told| refusal.time_ms > told));
    json(&HostDocument {
        state_age_ms: told_ms.map(|told| now_ms.saturating_sub(told)),
        reason: why::reason(&row, &control, now_ms, &causes, since),
        last_refusal: refusal.as_ref().map(Refusal::document),
        ..document(&row, &control, now_ms)
    })
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
        device: row.enrolment.endorsement.device.as_ref().map(device),
        reason: why::reason(row, control, now_ms, &[], None),
        state_age_ms: None,
        last_refusal: None,
    }
}

fn device(identity: &DeviceIdentity) -> DeviceDocument {
    let hardware = identity.hardware.as_ref();
    DeviceDocument {
        certificate: identity.certificate.to_hex(),
        serial: identity.serial.clone(),
        hardware_type: hardware.map(|name| name.kind.clone()),
        hardware_serial: hardware.map(|name| data_encoding::HEXLOWER.encode(&name.serial)),
    }
}
