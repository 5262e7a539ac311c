//! Policy documents: validated, then activated as the next epoch.

use super::recorded;
use crate::acts::{Draft, Mandate, act, require_epoch};
use crate::api::artifacts::read_fault;
use crate::api::problem::Refused;
use crate::api::{Call, faulted, json};
use crate::foresee::{Candidate, ForeseeFault, Foretold, Question, foresee};
use crate::policy::CompiledPolicy;
use crate::sequence::Entry;
use crate::serve::Authority;
use axum::response::Response;
use countersign_core::api::B64;
use countersign_core::api::admin::{
    ActiveDocument, CheckedDecision, PolicyCall, PolicyCheckCall, PolicyChecked, PolicyValidateCall,
    PolicyValidated,
};
use countersign_core::digest::Sha256Digest;
use countersign_core::document::PolicyDocument;
use countersign_core::leaf::Kind;
use countersign_core::leaf::control::{EpochRecord, Role};
use countersign_core::refusal::RefusalCode;
use std::sync::Arc;

/// `GET /v1/admin/policy`.
pub(in crate::api) async fn active(authority: Arc<Authority>, _call: Call) -> Result<Response, Refused> {
    let control = authority.control();
    json(&active_document(&authority, control.policy().copied(), control.epoch()).await?)
}

/// The document of this digest, as the admin API shows it.
pub(super) async fn active_document(
    authority: &Arc<Authority>,
    digest: Option<Sha256Digest>,
    epoch: u64,
) -> Result<ActiveDocument, Refused> {
    let Some(digest) = digest else { return Ok(ActiveDocument { digest: None, document: None, epoch }) };
    let worker = Arc::clone(authority);
    let bytes = authority.run(move || worker.reader().blob(&digest).map_err(read_fault)).await?;
    let bytes = bytes.ok_or_else(|| Refused::from(RefusalCode::LogUnavailable))?;
    Ok(ActiveDocument { digest: Some(digest.to_hex()), document: Some(B64(bytes)), epoch })
}

/// `POST /v1/admin/policies/validate`.
pub(in crate::api) async fn validate(authority: Arc<Authority>, call: Call) -> Result<Response, Refused> {
    // Read before: whoever activates by this epoch is refused rather than unaware.
    let epoch = authority.control().epoch();
    let (_, policy) = load(&authority, call.document::<PolicyValidateCall>()?.document.0).await?;
    let (digest, warnings) = (policy.digest().to_hex(), policy.warnings().to_vec());
    json(&PolicyValidated { digest, warnings, epoch })
}

/// `POST /v1/admin/policies/check`.
pub(in crate::api) async fn check(authority: Arc<Authority>, call: Call) -> Result<Response, Refused> {
    let by = call.caller.principal()?;
    let PolicyCheckCall { document, before } = call.document()?;
    let (_, candidate) = load(&authority, document.0).await?;
    let worker = Arc::clone(&authority);
    let checked = move || foreseen(&worker, Candidate::Policy(&candidate), by, before);
    json(&authority.run(checked).await?)
}

/// What a candidate would change. For worker threads.
pub(super) fn foreseen(
    authority: &Authority,
    candidate: Candidate<'_>,
    by: Sha256Digest,
    before: Option<u64>,
) -> Result<PolicyChecked, Refused> {
    let documents = authority.documents_in_force()?;
    let question = Question {
        origin: authority.origin(),
        trust_domain: authority.trust_domain(),
        reader: authority.reader(),
        documents: &documents,
        candidate,
        by,
    };
    let foresight = foresee(&question, before).map_err(|fault| match fault {
        ForeseeFault::Read(fault) => read_fault(fault),
        other => faulted(&other, RefusalCode::Internal),
    })?;
    let word = |verdict: Foretold| verdict.map_or("allow", |code| code.as_str()).to_owned();
    let decisions = foresight.decisions.into_iter().map(|one| {
        let (now, then) = one.verdicts.unzip();
        CheckedDecision {
            host: one.host.to_hex(),
            index: one.index,
            attestation: one.attestation,
            now: now.map(word),
            then: then.map(word),
        }
    });
    let epoch = documents.control().epoch();
    Ok(PolicyChecked { epoch, decisions: decisions.collect(), before: foresight.before })
}

/// `POST /v1/admin/policies`.
pub(in crate::api) async fn activate(authority: Arc<Authority>, call: Call) -> Result<Response, Refused> {
    let by = call.caller.principal()?;
    let PolicyCall { document, expected_epoch } = call.document()?;
    let (bytes, policy) = load(&authority, document.0).await?;
    let document = *policy.digest();
    let receipts = act(&authority, Mandate::Operator(by, Role::SecurityOfficer), |control| {
        require_epoch(control, expected_epoch)?;
        if control.policy() == Some(&document) {
            return Err(Refused::new(RefusalCode::ConflictingAct, "this policy is active"));
        }
        let record = EpochRecord { document, epoch: control.epoch() + 1, by };
        Ok(Draft::of(Entry::plain(Kind::Policy, record.encode())).with_blob(&bytes))
    });
    json(&recorded(&receipts.await?)?)
}

/// Parses and validates on a worker: a large policy takes milliseconds.
async fn load(authority: &Arc<Authority>, bytes: Vec<u8>) -> Result<(Vec<u8>, CompiledPolicy), Refused> {
    let work = move || {
        let invalid = |reason: String| Refused::new(RefusalCode::PolicyInvalid, reason);
        let document = PolicyDocument::parse(&bytes).map_err(|error| invalid(error.to_string()))?;
        let policy = CompiledPolicy::load(&document).map_err(|error| invalid(error.to_string()))?;
        // One encoding: the digest of the bytes sent is the digest of the document.
        if countersign_core::digest::sha256(&bytes) != *policy.digest() {
            return Err(invalid("the document isn't in its one encoding".to_owned()));
        }
        Ok((bytes, policy))
    };
    authority.run(work).await
}
