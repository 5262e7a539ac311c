//! References: captured from a host's last good evidence, activated as the next epoch.

use super::policies::{active_document, foreseen};
use super::{malformed, recorded};
use crate::acts::{Draft, Mandate, act, require_epoch};
use crate::api::artifacts::read_fault;
use crate::api::problem::Refused;
use crate::api::{Call, faulted, json};
use crate::appraise::{References, ReferencesInvalid};
use crate::foresee::Candidate;
use crate::sequence::Entry;
use crate::serve::Authority;
use axum::response::Response;
use countersign_core::api::B64;
use countersign_core::api::admin::{CaptureCall, ReferencesCall, ReferencesCaptured, ReferencesCheckCall};
use countersign_core::digest::{Sha256Digest, sha256};
use countersign_core::document::{Generation, Lifetime, ReferencesDocument, Settings};
use countersign_core::leaf::Kind;
use countersign_core::leaf::control::{EpochRecord, Role};
use countersign_core::name::HostId;
use countersign_core::record::EvidenceRecord;
use countersign_core::refusal::RefusalCode;
use countersign_tpm::ima::policy::{PolicyDraft, RuntimePolicy};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Longest name of a set (PROTOCOL §8.2).
const MAX_SET_NAME: usize = 64;

/// The register of the IMA list.
const IMA_PCR: u32 = 10;

/// `GET /v1/admin/references`.
pub(in crate::api) async fn active(authority: Arc<Authority>, _call: Call) -> Result<Response, Refused> {
    let control = authority.control();
    json(&active_document(&authority, control.references().copied(), control.epoch()).await?)
}

/// `POST /v1/admin/references`.
pub(in crate::api) async fn activate(authority: Arc<Authority>, call: Call) -> Result<Response, Refused> {
    let by = call.caller.principal()?;
    let ReferencesCall { document: B64(bytes), expected_epoch, ima_policy: sent } = call.document()?;
    let sent = sent.map(|policy| policy.0);
    let parsed = ReferencesDocument::parse(&bytes)
        .map_err(|error| Refused::new(RefusalCode::ReferencesInvalid, error.to_string()))?;
    if parsed.encode() != bytes {
        return Err(Refused::new(RefusalCode::ReferencesInvalid, "the document isn't in its one encoding"));
    }
    let settings = authority.documents().await?.settings();
    let worker = Arc::clone(&authority);
    let named = parsed.ima;
    let ima = authority.run(move || ima_policy(&worker, &settings, named, sent)).await?;
    let document = sha256(&bytes);
    let receipts = act(&authority, Mandate::Operator(by, Role::SecurityOfficer), |control| {
        require_epoch(control, expected_epoch)?;
        if control.references() == Some(&document) {
            return Err(Refused::new(RefusalCode::ConflictingAct, "these references are active"));
        }
        let record = EpochRecord { document, epoch: control.epoch() + 1, by };
        let draft = Draft::of(Entry::plain(Kind::References, record.encode())).with_blob(&bytes);
        Ok(ima.iter().fold(draft, |draft, policy| draft.with_blob(policy)))
    });
    json(&recorded(&receipts.await?)?)
}

/// `POST /v1/admin/references/check`.
pub(in crate::api) async fn check(authority: Arc<Authority>, call: Call) -> Result<Response, Refused> {
    let by = call.caller.principal()?;
    let ReferencesCheckCall { document: B64(bytes), ima_policy: sent, before } = call.document()?;
    let settings = authority.documents().await?.settings();
    let worker = Arc::clone(&authority);
    let checked = authority.run(move || {
        let invalid = |error: String| Refused::new(RefusalCode::ReferencesInvalid, error);
        let parsed = ReferencesDocument::parse(&bytes).map_err(|error| invalid(error.to_string()))?;
        let ima = ima_policy(&worker, &settings, parsed.ima, sent.map(|policy| policy.0))?;
        let candidate = References::parse::<ReferencesInvalid>(&bytes, None, |_| Ok(ima.unwrap_or_default()))
            .map_err(|error| invalid(error.to_string()))?;
        foreseen(&worker, Candidate::References(&candidate), by, before)
    });
    json(&checked.await?)
}

/// The IMA policy that references name, which came along or is in the store. It has to parse, in its one encoding, and its register has to be
/// quoted: a policy that can't be checked would deny everything.
fn ima_policy(
    authority: &Authority,
    settings: &Settings,
    named: Option<Sha256Digest>,
    sent: Option<Vec<u8>>,
) -> Result<Option<Vec<u8>>, Refused> {
    let invalid = |what: &str| Refused::new(RefusalCode::ImaPolicyInvalid, what.to_owned());
    let Some(named) = named else {
        return if sent.is_some() { Err(invalid("the references name no IMA policy")) } else { Ok(None) };
    };
    let bytes = match sent {
        Some(bytes) if sha256(&bytes) == named => bytes,
        Some(_) => return Err(invalid("the IMA policy isn't the one that the references name")),
        None => {
            let held = authority.reader().blob(&named).map_err(read_fault)?;
            held.ok_or_else(|| invalid("the IMA policy that the references name isn't known; send it along"))?
        }
    };
    let draft = PolicyDraft::parse(&bytes).map_err(|error| invalid(&error.to_string()))?;
    if draft.encode() != bytes {
        return Err(invalid("the IMA policy isn't in its one encoding"));
    }
    let policy = RuntimePolicy::parse(&bytes).map_err(|error| invalid(&error.to_string()))?;
    if !settings.pcrs.contains(&policy.settings().pcr) {
        return Err(invalid("the active policy's settings don't quote the register of the IMA policy"));
    }
    Ok(Some(bytes))
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
    } else {
        // What grows while a host runs is no reference value unless somebody asks for it.
        values.remove(&IMA_PCR);
    }
    if values.is_empty() {
        return Err(malformed("no PCR is left"));
    }
    let generation = Generation {
        bank: record.bank,
        pcrs: values.into_iter().collect(),
        lifetime: Lifetime::default(),
        evidence: Some(digest),
    };
    let mut references = match authority.documents_in_force()?.references() {
        Some(active) if call.append => active.document().clone(),
        // What may run after boot isn't captured, and stays as it is.
        Some(active) => ReferencesDocument { ima: active.document().ima, ..ReferencesDocument::default() },
        None => ReferencesDocument::default(),
    };
    references.add(&call.set, generation);
    Ok(references)
}
