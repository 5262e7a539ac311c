//! References: captured from a host's last good evidence, activated as the next epoch.

use super::policies::active_document;
use super::{malformed, recorded};
use crate::acts::{Draft, Mandate, act, require_epoch};
use crate::api::artifacts::read_fault;
use crate::api::problem::Refused;
use crate::api::{Call, faulted, json};
use crate::sequence::Entry;
use crate::serve::Authority;
use axum::response::Response;
use countersign_core::api::B64;
use countersign_core::api::admin::{CaptureCall, ReferencesCall, ReferencesCaptured};
use countersign_core::digest::sha256;
use countersign_core::document::{Generation, ReferencesDocument};
use countersign_core::leaf::Kind;
use countersign_core::leaf::control::{EpochRecord, Role};
use countersign_core::name::HostId;
use countersign_core::record::EvidenceRecord;
use countersign_core::refusal::RefusalCode;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Longest name of a set (PROTOCOL §8.2).
const MAX_SET_NAME: usize = 64;

/// `GET /v1/admin/references`.
pub(in crate::api) async fn active(authority: Arc<Authority>, _call: Call) -> Result<Response, Refused> {
    let control = authority.control();
    json(&active_document(&authority, control.references().copied(), control.epoch()).await?)
}

/// `POST /v1/admin/references`.
pub(in crate::api) async fn activate(authority: Arc<Authority>, call: Call) -> Result<Response, Refused> {
    let by = call.caller.principal()?;
    let ReferencesCall { document: B64(bytes), expected_epoch } = call.document()?;
    let parsed = ReferencesDocument::parse(&bytes)
        .map_err(|error| Refused::new(RefusalCode::ReferencesInvalid, error.to_string()))?;
    if parsed.encode() != bytes {
        return Err(Refused::new(RefusalCode::ReferencesInvalid, "the document isn't in its one encoding"));
    }
    let document = sha256(&bytes);
    let receipts = act(&authority, Mandate::Operator(by, Role::SecurityOfficer), |control| {
        require_epoch(control, expected_epoch)?;
        if control.references() == Some(&document) {
            return Err(Refused::new(RefusalCode::ConflictingAct, "these references are active"));
        }
        let record = EpochRecord { document, epoch: control.epoch() + 1, by };
        Ok(Draft::of(Entry::plain(Kind::References, record.encode())).with_blob(&bytes))
    });
    json(&recorded(&receipts.await?)?)
}

/// `POST /v1/admin/references/capture`.
pub(in crate::api) async fn capture(authority: Arc<Authority>, call: Call) -> Result<Response, Refused> {
    let document: CaptureCall = call.document()?;
    let host = HostId::from_hex(&document.host).map_err(|_| malformed("host isn't a host identifier"))?;
    if document.set.is_empty() || document.set.len() > MAX_SET_NAME {
        return Err(malformed("set has 1 to 64 bytes"));
    }
    // Read before: a document that extends the active one is of this epoch or a later one.
    let epoch = authority.control().epoch();
    let worker = Arc::clone(&authority);
    let captured = authority.run(move || captured(&worker, &host, &document)).await?;
    json(&ReferencesCaptured { document: B64(captured.encode()), epoch })
}

fn captured(authority: &Authority, host: &HostId, call: &CaptureCall) -> Result<ReferencesDocument, Refused> {
    let absent = || Refused::from(RefusalCode::EvidenceAbsent);
    let row = authority.reader().host(host).map_err(read_fault)?;
    let row = row.ok_or_else(|| Refused::from(RefusalCode::NotFound))?;
    let digest = row.state.evidence.ok_or_else(absent)?;
    let bytes = authority.reader().blob(&digest).map_err(read_fault)?.ok_or_else(absent)?;
    let record =
        EvidenceRecord::parse(&bytes).map_err(|fault| faulted(&fault, RefusalCode::LogUnavailable))?;
    let mut values: BTreeMap<u32, Vec<u8>> = record.pcrs.into_iter().collect();
    if let Some(wanted) = &call.pcrs {
        if let Some(missing) = wanted.iter().find(|pcr| !values.contains_key(pcr)) {
            return Err(malformed(format!("PCR {missing} wasn't quoted")));
        }
        values.retain(|pcr, _| wanted.contains(pcr));
    }
    if values.is_empty() {
        return Err(malformed("no PCR is left"));
    }
    let generation = Generation { bank: record.bank, pcrs: values.into_iter().collect() };
    let mut references = match authority.documents_in_force()?.references() {
        Some(active) if call.append => active.document().clone(),
        _ => ReferencesDocument::default(),
    };
    let set = references.sets.entry(call.set.clone()).or_default();
    if !set.contains(&generation) {
        set.push(generation);
    }
    Ok(references)
}
