//! What the log alone shows of a leaf: that it follows from the control state of its place, and was decided when it was logged.
//!
//! Comes in: a leaf, and what the leaves before it lead to ([`Fold`]). Refused, by the name of the input: another control number, other documents,
//! a time too far from the leaf's, an allow to the revoked or without a policy, a host state that no longer says what it follows from. No evidence is needed, so a leaf whose evidence was pruned is held to it, too.

use super::fold::{Fold, SIDE_BY_SIDE_MS};
use super::replayed::MismatchKind;
use crate::sequence::{CLOCK_TOLERANCE_MS, MAX_DECISION_AGE_MS};
use crate::store::project::{decision_tells_of_host, tells_of_host};
use countersign_core::control::ControlState;
use countersign_core::leaf::control::Subject;
use countersign_core::leaf::decision::{Decision, Verdict};
use countersign_core::leaf::host::HostState;
use countersign_core::leaf::host_state::HostStateRecord;
use countersign_core::leaf::{Kind, Leaf};
use countersign_core::name::HostId;

/// PROTOCOL §7.2, key 13: a decision is a little older than its leaf, or ahead of it by what clocks differ. Of the time so much may have been cut off.
pub(super) fn is_of_its_time(leaf: &Leaf, time_ms: u64, cut_ms: u64) -> bool {
    time_ms <= leaf.time_ms.saturating_add(CLOCK_TOLERANCE_MS)
        && time_ms.saturating_add(MAX_DECISION_AGE_MS).saturating_add(cut_ms) >= leaf.time_ms
}

/// PROTOCOL §8.4: in bodies that tell of their host the version never falls.
fn version_holds(fold: &Fold, host: &HostId, state: &HostState, told: bool) -> bool {
    !told || fold.hosts.get(host).is_none_or(|known| state.version >= known.version())
}

/// All that the log alone shows of a leaf of a decision or a host state.
pub(super) fn told_of_its_time(leaf: &Leaf, fold: &Fold) -> Result<(), MismatchKind> {
    if leaf.kind == Kind::HostState {
        let record = HostStateRecord::parse(&leaf.body).map_err(|_| MismatchKind::Malformed("host state"))?;
        let told = tells_of_host(record.code, &record.evidence, &record.state);
        first_wrong(&[("host version", version_holds(fold, &record.host, &record.state, told))])?;
        return record_of_its_time(leaf, &record, fold);
    }
    let decision = Decision::parse(&leaf.body).map_err(|_| MismatchKind::Malformed("decision"))?;
    let told = decision_tells_of_host(&decision);
    first_wrong(&[("host version", version_holds(fold, &decision.host, &decision.host_state, told))])?;
    decision_of_its_time(leaf, &decision, &fold.control)
}

/// PROTOCOL §8.4: what a host state says that it follows from has to be what was in force.
pub(super) fn record_of_its_time(
    leaf: &Leaf,
    record: &HostStateRecord,
    fold: &Fold,
) -> Result<(), MismatchKind> {
    let control = &fold.control;
    let Some(basis) = &record.basis else {
        let ended =
            fold.basis_since.is_some_and(|since| leaf.time_ms > since.saturating_add(SIDE_BY_SIDE_MS));
        return first_wrong(&[("form of the host state", !ended)]);
    };
    first_wrong(&[
        ("decision time", is_of_its_time(leaf, basis.time_ms, 0)),
        ("control", basis.control == control.number()),
        ("policy", basis.policy.as_ref() == control.policy()),
        ("references", basis.references.as_ref() == control.references()),
    ])
}

/// The same of a decision; `iat` keeps the seconds of its time.
fn decision_of_its_time(
    leaf: &Leaf,
    decision: &Decision,
    control: &ControlState,
) -> Result<(), MismatchKind> {
    let policy = decision.policy.as_ref();
    let allows = matches!(decision.verdict, Verdict::Allow { .. });
    let parents = decision.lineage.parents.iter();
    let revoked = control.is_revoked(&Subject::Host(decision.host))
        || parents
            .map(|(index, hash)| Subject::Artifact(*index, *hash))
            .any(|parent| control.is_revoked(&parent));
    let trusted = decision.issued_at.saturating_mul(1_000) < decision.host_state.trusted_until_ms;
    first_wrong(&[
        ("decision time", is_of_its_time(leaf, decision.issued_at.saturating_mul(1_000), 999)),
        ("control", decision.control == control.number()),
        ("policy", policy.map(|policy| &policy.digest) == control.policy()),
        ("epoch", policy.is_none_or(|policy| policy.epoch == control.epoch())),
        ("revoked subjects", !(allows && revoked)),
        ("trust", !allows || trusted),
        ("policy", !allows || policy.is_some()),
    ])
}

fn first_wrong(members: &[(&'static str, bool)]) -> Result<(), MismatchKind> {
    match members.iter().find(|(_, holds)| !holds) {
        Some((name, _)) => Err(MismatchKind::Input(name)),
        None => Ok(()),
    }
}
