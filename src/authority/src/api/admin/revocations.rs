//! Revoking and reinstating hosts, artifacts and principals.

use super::{malformed, recorded};
use crate::acts::{Draft, Mandate, act};
use crate::api::artifacts::read_fault;
use crate::api::problem::Refused;
use crate::api::{Call, Caller, json};
use crate::sequence::Entry;
use crate::serve::Authority;
use axum::response::Response;
use countersign_core::api::admin::{RevocationCall, SubjectDocument};
use countersign_core::control::ControlState;
use countersign_core::digest::Sha256Digest;
use countersign_core::leaf::control::{MAX_REASON_LEN, PrincipalKind, Revocation, Role, Subject};
use countersign_core::leaf::{Kind, Leaf, leaf_hash};
use countersign_core::name::HostId;
use countersign_core::refusal::RefusalCode;
use std::sync::Arc;

/// `POST /v1/admin/revocations`.
pub(in crate::api) async fn revoke(authority: Arc<Authority>, call: Call) -> Result<Response, Refused> {
    let Caller::Operator(by, role) = call.caller else { return Err(RefusalCode::Forbidden.into()) };
    let document: RevocationCall = call.document()?;
    // PROTOCOL §11.2: taking trust away is urgent, giving it back isn't.
    if !document.revoke && role < Role::SecurityOfficer {
        return Err(Refused::new(RefusalCode::Forbidden, "reinstating needs a security officer"));
    }
    if document.reason.len() > MAX_REASON_LEN {
        return Err(malformed(format!("reason has at most {MAX_REASON_LEN} bytes")));
    }
    let subject = subject(&document.subject)?;
    let worker = Arc::clone(&authority);
    authority.run(move || require_known(&worker, &subject)).await?;
    let least = if document.revoke { Role::Operator } else { Role::SecurityOfficer };
    let receipts = act(&authority, Mandate::Operator(by, least), |control| {
        if control.is_revoked(&subject) == document.revoke {
            return Err(Refused::new(RefusalCode::ConflictingAct, "it is in that state already"));
        }
        if document.revoke {
            require_may_revoke(control, &subject, role)?;
        }
        let body = Revocation { subject, revoke: document.revoke, reason: document.reason.clone(), by };
        Ok(Draft::of(Entry::plain(Kind::Revocation, body.encode())))
    });
    json(&recorded(&receipts.await?)?)
}

fn subject(document: &SubjectDocument) -> Result<Subject, Refused> {
    let digest =
        |text: &str| Sha256Digest::from_hex(text).map_err(|_| malformed("not a SHA-256 digest in hex"));
    match document {
        SubjectDocument::Host { host } => {
            Ok(Subject::Host(HostId::from_hex(host).map_err(|_| malformed("host isn't a host identifier"))?))
        }
        SubjectDocument::Artifact { index, leaf } => Ok(Subject::Artifact(*index, digest(leaf)?)),
        SubjectDocument::Principal { thumbprint } => Ok(Subject::Principal(digest(thumbprint)?)),
    }
}

/// A revocation of something that doesn't exist would look like one that works.
fn require_known(authority: &Authority, subject: &Subject) -> Result<(), Refused> {
    let known = match subject {
        Subject::Host(host) => authority.reader().host(host).map_err(read_fault)?.is_some(),
        Subject::Artifact(index, hash) => {
            let leaf = authority.reader().leaf(*index).map_err(read_fault)?;
            leaf.is_some_and(|bytes| {
                leaf_hash(&bytes) == *hash && Leaf::parse(&bytes).is_ok_and(|leaf| leaf.kind == Kind::Allow)
            })
        }
        Subject::Principal(thumbprint) => {
            authority.control().principals().any(|(known, _)| known == thumbprint)
        }
    };
    if known { Ok(()) } else { Err(RefusalCode::NotFound.into()) }
}

/// Nobody revokes upwards, and the last security officer stays: with none, nothing could ever be changed again.
fn require_may_revoke(control: &ControlState, subject: &Subject, role: Role) -> Result<(), Refused> {
    let Subject::Principal(thumbprint) = subject else { return Ok(()) };
    let officer = |kind: PrincipalKind| kind == PrincipalKind::Operator(Role::SecurityOfficer);
    let target = control.principal(thumbprint).map(|principal| principal.kind);
    match target {
        Some(PrincipalKind::Operator(theirs)) if theirs > role => {
            Err(Refused::new(RefusalCode::Forbidden, "the subject has a higher role"))
        }
        Some(kind) if officer(kind) => {
            let others = control
                .principals()
                .filter(|(other, _)| *other != thumbprint)
                .filter_map(|(other, _)| control.principal(other));
            if others.into_iter().any(|principal| officer(principal.kind)) {
                Ok(())
            } else {
                Err(Refused::new(RefusalCode::ConflictingAct, "this is the last security officer"))
            }
        }
        _ => Ok(()),
    }
}
