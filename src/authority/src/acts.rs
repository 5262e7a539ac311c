//! Control acts: what operators change, drafted against a control state and appended only if that state still holds.
//!
//! Comes in: a draft as a function of the control state. Goes out: receipts of its leaves. A draft whose state moved is made again, three
//! times; what the new state refuses is refused with its own code, so that two operators can't undo each other unseen.

use crate::api::problem::Refused;
use crate::sequence::{Append, Entry, Guard, Outcome};
use crate::serve::Authority;
use crate::stale::Redecisions;
use crate::store::Receipts;
use countersign_core::control::{ControlState, Principal};
use countersign_core::digest::{Sha256Digest, sha256};
use countersign_core::leaf::control::{PrincipalKind, Role};
use countersign_core::refusal::RefusalCode;
use std::sync::Arc;

/// Leaves of one act, and the bytes that they name.
#[derive(Clone, Debug, Default)]
pub struct Draft {
    /// Leaves, in order.
    pub entries: Vec<Entry>,
    /// Bytes to be kept.
    pub blobs: Vec<(Sha256Digest, Arc<[u8]>)>,
}

impl Draft {
    /// One leaf.
    #[must_use]
    pub fn of(entry: Entry) -> Self {
        Self { entries: vec![entry], blobs: Vec::new() }
    }

    /// With bytes that the leaf names by SHA-256.
    #[must_use]
    pub fn with_blob(mut self, bytes: &[u8]) -> Self {
        self.blobs.push((sha256(bytes), Arc::from(bytes)));
        self
    }
}

/// By whose right an act is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mandate {
    /// An operator with at least this role, in force in the very state that the act is appended to: who is revoked while the call is under way
    /// changes nothing any more.
    Operator(Sha256Digest, Role),
    /// The authority's own: what an earlier act has set going.
    Authority,
}

impl Mandate {
    fn require(self, control: &ControlState) -> Result<(), Refused> {
        let Self::Operator(key, least) = self else { return Ok(()) };
        let holds =
            |principal: &Principal| matches!(principal.kind, PrincipalKind::Operator(role) if role >= least);
        if control.principal(&key).is_some_and(holds) { Ok(()) } else { Err(RefusalCode::Forbidden.into()) }
    }
}

/// Holds a change to the epoch that its officer drafted it against: drafts are made from the state that they are appended to, so of two changes
/// drafted against one epoch the second is refused, and nobody undoes what they haven't seen.
///
/// # Errors
/// `epoch-moved`.
pub fn require_epoch(control: &ControlState, expected: u64) -> Result<(), Refused> {
    let current = control.epoch();
    if current == expected {
        return Ok(());
    }
    Err(Refused::new(RefusalCode::EpochMoved, format!("epoch {current} is in force, not {expected}")))
}

/// Carries an act out.
///
/// # Errors
/// `forbidden` if the mandate doesn't hold any more; what the draft refuses; `versions-moved` after three tries; faults of log and signer.
pub async fn act(
    authority: &Authority,
    mandate: Mandate,
    draft: impl Fn(&ControlState) -> Result<Draft, Refused>,
) -> Result<Receipts, Refused> {
    let mut redecisions = Redecisions::default();
    loop {
        let control = authority.control();
        mandate.require(&control)?;
        let Draft { entries, blobs } = draft(&control)?;
        let guards = vec![Guard::Control(control.number())];
        match authority.append(Append { guards, blobs, entries, ..Append::default() }).await? {
            Outcome::Appended(receipts) => return Ok(receipts),
            Outcome::Stale => {}
            Outcome::Refused(error) => {
                return Err(Refused::new(RefusalCode::ConflictingAct, error.to_string()));
            }
            Outcome::Existing(_) | Outcome::ChallengeSpent | Outcome::Spent(_) | Outcome::BlobsGone(_) => {
                return Err(RefusalCode::Internal.into());
            }
        }
        redecisions.once_more()?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use countersign_core::key::VerifyingKey;
    use countersign_core::leaf::control::{PrincipalRecord, Revocation, Subject};
    use countersign_core::leaf::{Kind, Leaf};

    const OFFICER: Sha256Digest = Sha256Digest::new([7; 32]);

    fn with(control: &ControlState, kind: Kind, body: Vec<u8>) -> ControlState {
        let leaf = Leaf { kind, index: control.number(), time_ms: 1, salt: [0; 16], body };
        let mut next = control.clone();
        next.apply(&leaf.encode().unwrap()).unwrap();
        next
    }

    #[test]
    fn a_mandate_ends_with_the_revocation_that_the_act_would_follow() {
        let secret = ed25519_dalek_key();
        let empty = ControlState::genesis("test.example/log", secret);
        let kind = PrincipalKind::Operator(Role::Operator);
        let added = PrincipalRecord {
            added: true,
            kind,
            thumbprint: OFFICER,
            name: "o".to_owned(),
            by: None,
            approval: None,
        };
        let in_force = with(&empty, Kind::Principal, added.encode());
        let revocation = Revocation {
            subject: Subject::Principal(OFFICER),
            revoke: true,
            reason: String::new(),
            by: OFFICER,
        };
        let revoked = with(&in_force, Kind::Revocation, revocation.encode());

        let code = |state: &ControlState, role| {
            Mandate::Operator(OFFICER, role).require(state).map_err(|e| e.code())
        };
        assert_eq!(code(&empty, Role::Viewer), Err(RefusalCode::Forbidden));
        assert_eq!(code(&in_force, Role::Operator), Ok(()));
        assert_eq!(code(&in_force, Role::SecurityOfficer), Err(RefusalCode::Forbidden));
        assert_eq!(code(&revoked, Role::Viewer), Err(RefusalCode::Forbidden));
        assert!(Mandate::Authority.require(&revoked).is_ok());
    }

    fn ed25519_dalek_key() -> VerifyingKey {
        // The base point's encoding (RFC 8032 §5.1): a key whose secret nobody needs here.
        let mut point = [0x66; 32];
        point[0] = 0x58;
        VerifyingKey::ed25519(&point).unwrap()
    }
}
