//! What a leaf changes in the tables: the one derivation, used when a leaf is appended and when the tables are rebuilt from the log.
//!
//! Comes in: kind and exact body bytes. Goes out: a list of [`Change`]s. Refused: a body that its kind's own parser refuses, and a decision
//! whose verdict isn't its kind's, so that nothing unreadable enters the log. No I/O: each store applies changes in its own words.

use countersign_core::digest::Sha256Digest;
use countersign_core::leaf::control::{EpochRecord, KeyRecord, PrincipalRecord, RecoveryRecord, Revocation};
use countersign_core::leaf::decision::{Decision, Verdict};
use countersign_core::leaf::host::{Enrolment, HostState};
use countersign_core::leaf::host_state::HostStateRecord;
use countersign_core::leaf::record::{Faults, Heartbeat, JoinToken, Outcome};
use countersign_core::leaf::{Kind, LeafError};
use countersign_core::name::{HostId, RequestId};
use countersign_core::refusal::RefusalCode;

/// One change of one table. "This leaf" is the leaf that the change was derived from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// This leaf answers the request. The first leaf of a request identifier stays its answer.
    Outcome {
        /// Whose request.
        host: HostId,
        /// Its identifier.
        request_id: RequestId,
        /// SHA-256 of its bytes.
        request: Sha256Digest,
    },
    /// This leaf enrols the host. A known host at the same version keeps its state; at another version it is unattested.
    Enrolled {
        /// The host.
        host: HostId,
        /// Thumbprint of its host key, from now on its only one.
        key: Sha256Digest,
        /// Host version after the enrolment.
        version: u64,
    },
    /// The host's state after this leaf. Of one version the largest TPM clock stays; an older version changes nothing.
    HostState {
        /// The host.
        host: HostId,
        /// Its state.
        state: Box<HostState>,
    },
    /// Descendants of this leaf, in all.
    Budget {
        /// How many.
        total: u64,
    },
    /// A descendant was made: the parent's budget shrinks.
    Charge {
        /// Index of the parent.
        parent: u64,
        /// By how much.
        amount: u64,
    },
    /// A join token exists.
    TokenMade {
        /// Its digest.
        token: Sha256Digest,
        /// Until when it may be used, ms.
        expires_ms: u64,
    },
    /// A join token was used by this leaf.
    TokenSpent {
        /// Its digest.
        token: Sha256Digest,
    },
}

/// What a leaf of this kind and body changes. Order matters and is the order of application.
///
/// # Errors
/// The body isn't one of this kind.
pub fn project(kind: Kind, body: &[u8]) -> Result<Vec<Change>, LeafError> {
    match kind {
        Kind::Allow | Kind::Deny => project_decision(kind, &Decision::parse(body)?),
        Kind::Enrolment => {
            let record = Enrolment::parse(body)?;
            let enrolled = Change::Enrolled {
                host: record.host,
                key: record.host_key.thumbprint(),
                version: record.version,
            };
            let spent = record.token.map(|token| Change::TokenSpent { token });
            Ok([Some(enrolled), spent].into_iter().flatten().collect())
        }
        Kind::HostState => {
            let HostStateRecord { host, state, evidence, code, .. } = HostStateRecord::parse(body)?;
            let tells = tells_of_host(code, &evidence, &state);
            Ok(tells.then(|| Change::HostState { host, state: Box::new(state) }).into_iter().collect())
        }
        Kind::JoinToken => {
            let record = JoinToken::parse(body)?;
            Ok(vec![Change::TokenMade { token: record.token, expires_ms: record.expires_ms }])
        }
        // The rest changes nothing that the control chain doesn't say, but has to be readable all the same.
        Kind::Key => KeyRecord::parse(body).map(|_| Vec::new()),
        Kind::Policy | Kind::References => EpochRecord::parse(body).map(|_| Vec::new()),
        Kind::Revocation => Revocation::parse(body).map(|_| Vec::new()),
        Kind::Principal => PrincipalRecord::parse(body).map(|_| Vec::new()),
        Kind::Recovery => RecoveryRecord::parse(body).map(|_| Vec::new()),
        Kind::Heartbeat => Heartbeat::parse(body).map(|_| Vec::new()),
        Kind::Faults => Faults::parse(body).map(|_| Vec::new()),
        Kind::Outcome => Outcome::parse(body).map(|_| Vec::new()),
    }
}

/// The same of a decision that was read already.
///
/// # Errors
/// The kind is neither allow nor deny, or not that of the verdict.
pub fn project_decision(kind: Kind, decision: &Decision) -> Result<Vec<Change>, LeafError> {
    let mut changes = vec![Change::Outcome {
        host: decision.host,
        request_id: decision.request_id.clone(),
        request: decision.request,
    }];
    if decision_tells_of_host(decision) {
        changes.push(Change::HostState { host: decision.host, state: Box::new(decision.host_state) });
    }
    match (kind, decision.verdict) {
        (Kind::Allow, Verdict::Allow { .. }) => {
            let delegated = decision.delegation.as_ref().map_or(0, |delegation| delegation.budget);
            // PROTOCOL §7.3: one plus the child's delegated budget is charged to every parent.
            let amount = delegated.saturating_add(1);
            changes.extend(
                decision.lineage.parents.iter().map(|(parent, _)| Change::Charge { parent: *parent, amount }),
            );
            if decision.delegation.is_some() {
                changes.push(Change::Budget { total: delegated });
            }
            Ok(changes)
        }
        (Kind::Deny, Verdict::Deny(_)) => Ok(changes),
        _ => Err(LeafError::Value("verdict")),
    }
}

/// Whether a leaf says something new of its host (PROTOCOL §8.4): the state in it follows from this very evidence, and the evidence was fresh.
/// Any other state in a body is the one that was read when it was decided, and by now may be older than the table's.
#[must_use]
pub fn tells_of_host(code: Option<RefusalCode>, evidence: &Sha256Digest, state: &HostState) -> bool {
    state.is_told_by(code, evidence)
}

/// The same of a decision.
#[must_use]
pub fn decision_tells_of_host(decision: &Decision) -> bool {
    let code = match decision.verdict {
        Verdict::Allow { .. } => None,
        Verdict::Deny(code) => Some(code),
    };
    tells_of_host(code, &decision.evidence, &decision.host_state)
}

/// A host's state after a leaf told of it (PROTOCOL §8.4).
///
/// Two calls of one host may be decided side by side on the same prior state. Of one version the later leaf's word stands, but the TPM
/// clock never goes back; a leaf of an older version tells of a boot that is over and changes nothing.
#[must_use]
pub fn merge_state(known: &HostState, told: &HostState) -> HostState {
    match told.version.cmp(&known.version) {
        std::cmp::Ordering::Less => *known,
        std::cmp::Ordering::Equal => HostState { clock_ms: known.clock_ms.max(told.clock_ms), ..*told },
        std::cmp::Ordering::Greater => *told,
    }
}

/// A host's state after an enrolment at `version`: kept by a renewal, begun anew by anything else.
#[must_use]
pub fn enrolled_state(known: Option<&HostState>, version: u64) -> HostState {
    known.filter(|state| state.version == version).copied().unwrap_or(HostState::unattested(version))
}
