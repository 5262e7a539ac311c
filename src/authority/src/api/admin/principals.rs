//! Operators and gateways: who is in force, and certificates for their keys.
//!
//! A key proves that it is held before it gets a name. The same key may be added again under the same name and role, which renews its
//! certificate; anything else about a known key is a conflict.

use super::{approval, malformed, recorded};
use crate::acts::{Draft, Mandate, act};
use crate::api::artifacts::read_fault;
use crate::api::problem::Refused;
use crate::api::{Call, json};
use crate::sequence::Entry;
use crate::serve::Authority;
use axum::response::Response;
use countersign_core::api::admin::{GatewayCall, OperatorCall, PrincipalDocument, Principals};
use countersign_core::api::{CertificateIssued, NamedKey};
use countersign_core::digest::Sha256Digest;
use countersign_core::key::VerifyingKey;
use countersign_core::leaf::Kind;
use countersign_core::leaf::control::{Approval, PrincipalKind, PrincipalRecord, Role, Subject};
use countersign_core::name::is_principal_name;
use countersign_core::refusal::RefusalCode;
use countersign_core::tuple;
use std::collections::HashMap;
use std::sync::Arc;

/// What a principal's key signs to show that it is held: `tuple("countersign-v1:principal-possession", origin, name, COSE_Key)`.
#[must_use]
pub fn possession_preimage(origin: &str, name: &str, key: &VerifyingKey) -> Vec<u8> {
    let fields: [&[u8]; 3] = [origin.as_bytes(), name.as_bytes(), &key.cose_key()];
    tuple::preimage("countersign-v1:principal-possession", &fields)
}

/// `GET /v1/admin/principals`.
pub(in crate::api) async fn list(authority: Arc<Authority>, _call: Call) -> Result<Response, Refused> {
    let worker = Arc::clone(&authority);
    let acknowledged = authority.run(move || worker.reader().acknowledgements().map_err(read_fault)).await?;
    let acknowledged: HashMap<Sha256Digest, u64> =
        acknowledged.into_iter().map(|row| (row.gateway, row.control)).collect();
    let control = authority.control();
    let principals = control.principals().map(|(thumbprint, principal)| {
        let (kind, role) = match principal.kind {
            PrincipalKind::Operator(role) => ("operator", Some(role)),
            PrincipalKind::Gateway => ("gateway", None),
        };
        PrincipalDocument {
            thumbprint: thumbprint.to_hex(),
            name: principal.name.clone(),
            kind: kind.to_owned(),
            role,
            revoked: control.is_revoked(&Subject::Principal(*thumbprint)),
            acknowledged: acknowledged.get(thumbprint).copied(),
        }
    });
    json(&Principals { principals: principals.collect() })
}

/// `POST /v1/admin/gateways`.
pub(in crate::api) async fn add_gateway(authority: Arc<Authority>, call: Call) -> Result<Response, Refused> {
    let by = call.caller.principal()?;
    let document: GatewayCall = call.document()?;
    add(&authority, &document.subject, PrincipalKind::Gateway, None, by).await
}

/// `POST /v1/admin/operators`.
pub(in crate::api) async fn add_operator(authority: Arc<Authority>, call: Call) -> Result<Response, Refused> {
    let by = call.caller.principal()?;
    let document: OperatorCall = call.document()?;
    let approved = document.approval.map(approval).transpose()?;
    if approved.is_some() && document.role != Role::SecurityOfficer {
        return Err(malformed("only a security officer takes an approval"));
    }
    add(&authority, &document.subject, PrincipalKind::Operator(document.role), approved, by).await
}

async fn add(
    authority: &Arc<Authority>,
    subject: &NamedKey,
    kind: PrincipalKind,
    approved: Option<Approval>,
    by: Sha256Digest,
) -> Result<Response, Refused> {
    let name = &subject.name;
    if !is_principal_name(name) {
        return Err(malformed("name has 1 to 64 characters of [A-Za-z0-9._-]"));
    }
    let key = VerifyingKey::try_from(subject.key.clone()).map_err(|error| malformed(error.to_string()))?;
    key.verify(&possession_preimage(authority.origin().as_str(), name, &key), &subject.possession.0)
        .map_err(|_| malformed("possession of the key isn't proven"))?;
    let thumbprint = key.thumbprint();
    let worker = Arc::clone(authority);
    let host = authority.run(move || worker.reader().host_of_key(&thumbprint).map_err(read_fault)).await?;
    if host.is_some() {
        return Err(Refused::new(RefusalCode::IdentityConflict, "the key belongs to a host"));
    }
    let receipts = act(authority, Mandate::Operator(by, Role::SecurityOfficer), |control| {
        let conflict = |what: &'static str| Err(Refused::new(RefusalCode::ConflictingAct, what));
        for (known, principal) in control.principals() {
            if *known == thumbprint {
                if principal.kind != kind || principal.name != *name {
                    return conflict("the key has another name or role");
                }
            } else if principal.name == *name && same_sort(principal.kind, kind) {
                // Holder proofs name a gateway, and people name operators: a name means one key, also after that was revoked. What was said
                // under it would otherwise be said by somebody else.
                return conflict("the name belongs to another key, or did until that was revoked");
            }
        }
        if control.is_revoked(&Subject::Principal(thumbprint)) {
            return conflict("the key is revoked");
        }
        let approval = approved.clone();
        let record =
            PrincipalRecord { added: true, kind, thumbprint, name: name.clone(), by: Some(by), approval };
        control.require_addition(&record).map_err(|_| {
            Refused::new(RefusalCode::ApprovalInvalid, "a security officer signs for another")
        })?;
        Ok(Draft::of(Entry::plain(Kind::Principal, record.encode())))
    });
    let receipt = recorded(&receipts.await?)?.receipt;
    let days = authority.config().limits.certificate_days;
    let certificates = authority.certify_client(name.clone(), key, days).await?;
    json(&CertificateIssued { certificates, thumbprint: thumbprint.to_hex(), receipt })
}

const fn same_sort(one: PrincipalKind, other: PrincipalKind) -> bool {
    matches!(
        (one, other),
        (PrincipalKind::Gateway, PrincipalKind::Gateway)
            | (PrincipalKind::Operator(_), PrincipalKind::Operator(_))
    )
}
