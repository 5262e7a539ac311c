//! Which reader belongs to the body of a leaf's kind (PROTOCOL §5.2).
//!
//! Comes in: a leaf. Goes out: its decision, if it is of a decision's kind. Refused: a body that its kind's reader refuses.

use super::control::{EpochRecord, KeyRecord, PrincipalRecord, RecoveryRecord, Revocation};
use super::decision::Decision;
use super::host::Enrolment;
use super::host_state::HostStateRecord;
use super::record::{Faults, Heartbeat, JoinToken, Outcome};
use super::{Kind, Leaf, LeafError};
use crate::key::KnownKeys;

/// Reads a leaf's body by its kind. Whether a decision says what its leaf's kind says is for the caller; keys that are known aren't checked again.
///
/// # Errors
/// Those of the kind's reader.
pub fn read_body(leaf: &Leaf, known: &mut KnownKeys) -> Result<Option<Decision>, LeafError> {
    let body = leaf.body.as_slice();
    match leaf.kind {
        Kind::Allow | Kind::Deny => return Decision::parse_among(body, known).map(Some),
        Kind::Enrolment => Enrolment::parse(body).map(drop),
        Kind::HostState => HostStateRecord::parse(body).map(drop),
        Kind::Key => KeyRecord::parse(body).map(drop),
        Kind::Policy | Kind::References => EpochRecord::parse(body).map(drop),
        Kind::Revocation => Revocation::parse(body).map(drop),
        Kind::Principal => PrincipalRecord::parse(body).map(drop),
        Kind::Heartbeat => Heartbeat::parse(body).map(drop),
        Kind::Faults => Faults::parse(body).map(drop),
        Kind::Recovery => RecoveryRecord::parse(body).map(drop),
        Kind::JoinToken => JoinToken::parse(body).map(drop),
        Kind::Outcome => Outcome::parse(body).map(drop),
    }?;
    Ok(None)
}
