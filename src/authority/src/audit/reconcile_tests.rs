//! Outcomes that fit, and every way in which one doesn't: what `verify` refuses, what `reconcile` names; and exports as a source.

use super::kit::Log;
use super::outcomes::OutcomeFault;
use super::reconcile::{Discrepancy, DiscrepancyKind as Kinds, Reconciliation, Terms, Weight, reconcile};
use super::{ExportLog, Finding, FindingKind, LogSource, verify};
use crate::outcome::{TAKEN_FOR_MS, Unfounded};
use crate::sequence::CLOCK_TOLERANCE_MS;
use crate::verify::kit::ed25519;
use countersign_core::api::{B64, admin};
use countersign_core::digest::Sha256Digest;
use countersign_core::leaf::control::{PrincipalKind, PrincipalRecord, Role, Subject};
use countersign_core::leaf::decision::LeafRef;
use countersign_core::leaf::record::{Heartbeat, HeartbeatReason, Outcome};
use countersign_core::leaf::{Kind, Leaf};
use countersign_core::refusal::RefusalCode;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;

const GATE: u8 = 31;
const OTHER: u8 = 32;
const TTL_MS: u64 = 120_000;

fn thumbprint(seed: u8) -> Sha256Digest {
    ed25519(seed).1.thumbprint()
}

fn principal(seed: u8, name: &str, added: bool, kind: PrincipalKind) -> (Kind, Vec<u8>) {
    let (thumbprint, name) = (thumbprint(seed), name.to_owned());
    let record = PrincipalRecord { added, kind, thumbprint, name, by: None, approval: None };
    (Kind::Principal, record.encode())
}

/// Two gateways and one artifact, two minutes to live.
fn log() -> (Log, LeafRef) {
    let mut log = Log::with_policy();
    log.append(vec![principal(GATE, "gate", true, PrincipalKind::Gateway)]);
    log.append(vec![principal(OTHER, "other", true, PrincipalKind::Gateway)]);
    let artifact = log.ask(&[log.delegating("one")])[0].0;
    (log, artifact)
}

/// Appends what a gateway tells, at the time `after_ms` from now on, heard of then.
fn tell(log: &mut Log, seed: u8, artifact: LeafRef, refused: Option<RefusalCode>, after_ms: u64) {
    log.time_ms += after_ms;
    let outcome = Outcome { gateway: thumbprint(seed), artifact, refused, time_ms: log.time_ms };
    log.append(vec![(Kind::Outcome, outcome.encode())]);
}

fn heartbeat(log: &mut Log, after_ms: u64) {
    log.time_ms += after_ms;
    log.append(vec![(Kind::Heartbeat, Heartbeat(HeartbeatReason::Idle).encode())]);
}

fn reconciled(log: &Log) -> Reconciliation {
    reconcile(log, &log.bundle, &Terms::default(), &mut |_| {}).unwrap()
}

fn kinds(found: &Reconciliation) -> Vec<Kinds> {
    found.listed.iter().map(|one| one.kind).collect()
}

#[test]
fn what_gateways_did_is_what_was_decided() {
    let (mut log, artifact) = log();
    tell(&mut log, GATE, artifact, None, 5);
    tell(&mut log, GATE, artifact, Some(RefusalCode::Expired), TTL_MS);
    let report = verify(&log, &log.bundle, &mut |_| {}).unwrap();
    assert_eq!(report.kinds["outcome"], 2);
    let found = reconciled(&log);
    assert_eq!(found.listed, []);
    assert_eq!((found.allows, found.started, found.refused, found.pending), (1, 1, 1, 0));
    assert_eq!(found.leaves, log.leaves.len() as u64);
    assert!(!found.audiences_compared);
}

/// One bad outcome in a log that is good otherwise: both commands name its leaf and why.
fn wrong(prepare: impl FnOnce(&mut Log, LeafRef), expect: OutcomeFault) {
    let (mut log, artifact) = log();
    prepare(&mut log, artifact);
    let finding = verify(&log, &log.bundle, &mut |_| {}).unwrap_err();
    let at = Finding { leaf: Some(log.last()), head: None, kind: FindingKind::Outcome(expect) };
    assert_eq!(finding, at);
    let found = reconciled(&log);
    let outcomes: Vec<_> = found.listed.iter().filter(|one| one.leaf == log.last()).collect();
    assert_eq!(outcomes.len(), 1, "{found:?}");
    assert_eq!(outcomes[0].kind, Kinds::Outcome(expect));
    assert_eq!(found.count(Weight::Wrong), 1);
}

#[test]
fn an_outcome_that_no_honest_authority_takes_is_found() {
    use OutcomeFault::{EndedGateway, Twice, UnknownGateway};
    let unfounded = OutcomeFault::Unfounded;
    wrong(|log, artifact| tell(log, 99, artifact, None, 5), UnknownGateway);
    wrong(
        |log, artifact| {
            log.append(vec![principal(77, "person", true, PrincipalKind::Operator(Role::Operator))]);
            tell(log, 77, artifact, None, 5);
        },
        UnknownGateway,
    );
    wrong(
        |log, artifact| {
            log.revoke(Subject::Principal(thumbprint(GATE)), true);
            tell(log, GATE, artifact, None, 61_000);
        },
        EndedGateway,
    );
    wrong(
        |log, artifact| {
            log.append(vec![principal(GATE, "gate", false, PrincipalKind::Gateway)]);
            tell(log, GATE, artifact, None, 61_000);
        },
        EndedGateway,
    );
    wrong(|log, (_, leaf)| tell(log, GATE, (9_999, leaf), None, 5), unfounded(Unfounded::NoSuchLeaf));
    wrong(|log, (_, leaf)| tell(log, GATE, (0, leaf), None, 5), unfounded(Unfounded::NoSuchLeaf));
    wrong(
        |log, (index, _)| tell(log, GATE, (index, Sha256Digest::ZERO), None, 5),
        unfounded(Unfounded::NoSuchLeaf),
    );
    wrong(
        |log, artifact| {
            log.revoke(Subject::Artifact(artifact.0, artifact.1), true);
            let denied = log.ask(&[log.child("orphan", &artifact)])[0].0;
            tell(log, GATE, denied, None, 5);
        },
        unfounded(Unfounded::NotAnAllow),
    );
    wrong(
        |log, artifact| tell(log, GATE, artifact, None, TTL_MS + CLOCK_TOLERANCE_MS + 1_000),
        unfounded(Unfounded::AfterEnd),
    );
    let too_late = TTL_MS + TAKEN_FOR_MS + 62_000;
    wrong(
        |log, artifact| tell(log, GATE, artifact, Some(RefusalCode::Expired), too_late),
        unfounded(Unfounded::TooLate),
    );
    wrong(
        |log, artifact| {
            tell(log, GATE, artifact, None, 5);
            tell(log, GATE, artifact, None, 5);
        },
        Twice,
    );
}

/// Tells with a time of its own, not the log's.
fn dated(shift: impl FnOnce(u64) -> u64, expect: Unfounded) {
    wrong(
        |log, artifact| {
            let time_ms = shift(log.time_ms);
            let outcome = Outcome { gateway: thumbprint(GATE), artifact, refused: None, time_ms };
            log.append(vec![(Kind::Outcome, outcome.encode())]);
        },
        OutcomeFault::Unfounded(expect),
    );
}

#[test]
fn a_time_that_neither_artifact_nor_log_admits_is_found() {
    dated(|now| now - CLOCK_TOLERANCE_MS - 1, Unfounded::BeforeArtifact);
    dated(|now| now + CLOCK_TOLERANCE_MS + 11, Unfounded::FromFuture);
}

#[test]
fn a_gateway_that_is_back_in_force_may_tell_again() {
    let (mut log, artifact) = log();
    log.revoke(Subject::Principal(thumbprint(GATE)), true);
    heartbeat(&mut log, 70_000);
    log.revoke(Subject::Principal(thumbprint(GATE)), false);
    tell(&mut log, GATE, artifact, None, 5);
    verify(&log, &log.bundle, &mut |_| {}).unwrap();
    assert_eq!(reconciled(&log).listed, []);
}

#[test]
fn an_outcome_on_its_way_while_its_gateway_ended_is_taken() {
    let (mut log, artifact) = log();
    log.append(vec![principal(GATE, "gate", false, PrincipalKind::Gateway)]);
    tell(&mut log, GATE, artifact, None, 1_000);
    verify(&log, &log.bundle, &mut |_| {}).unwrap();
}

/// A gateway's event that was dropped is named by the artifact that it was about.
#[test]
fn an_allow_of_which_nobody_told_is_named_once_it_cannot_be_told_any_more() {
    let (mut log, artifact) = log();
    heartbeat(&mut log, TTL_MS);
    let terms = |patience_ms| Terms { audiences: None, patience_ms };
    let with =
        |log: &Log, patience_ms| reconcile(log, &log.bundle, &terms(patience_ms), &mut |_| {}).unwrap();
    let waiting = with(&log, TAKEN_FOR_MS);
    assert_eq!((waiting.pending, &waiting.listed[..]), (1, &[][..]));
    heartbeat(&mut log, 2_000);
    let gap = with(&log, 0);
    assert_eq!(gap.count(Weight::Gap), 1);
    assert_eq!((gap.listed[0].leaf, gap.listed[0].artifact), (artifact.0, Some(artifact)));
    assert_eq!(gap.listed[0].kind, Kinds::NoOutcome);
    // Patience over a day is a day's: nothing may be told later, and the gap is named while the log goes on.
    for _ in 0..4 {
        heartbeat(&mut log, TAKEN_FOR_MS);
    }
    assert_eq!(kinds(&with(&log, u64::MAX)), [Kinds::NoOutcome]);
}

#[test]
fn an_artifact_that_only_had_children_is_not_missed() {
    let (mut log, artifact) = log();
    let child = log.ask(&[log.child("child", &artifact)])[0].0;
    tell(&mut log, GATE, child, None, 5);
    heartbeat(&mut log, TTL_MS + 1_000);
    let found = reconciled(&log);
    assert_eq!((found.delegated, &found.listed[..]), (1, &[][..]));
}

/// Whom to revoke, given the log, the root and its child.
type Chosen = dyn Fn(&Log, LeafRef, LeafRef) -> Subject;

#[test]
fn a_start_after_the_revocation_is_wrong_when_the_lease_is_over() {
    let lease_ms = 30_000;
    let started = |subject: &Chosen, after_ms| {
        let (mut log, root) = log();
        let child = log.ask(&[log.child("child", &root)])[0].0;
        let subject = subject(&log, root, child);
        log.revoke(subject, true);
        tell(&mut log, GATE, child, None, after_ms);
        let found = reconciled(&log);
        found.listed.iter().filter(|one| one.leaf == log.last()).map(|one| one.kind).collect::<Vec<_>>()
    };
    let itself = |_: &Log, _, child: LeafRef| Subject::Artifact(child.0, child.1);
    let parent = |_: &Log, root: LeafRef, _| Subject::Artifact(root.0, root.1);
    let host = |log: &Log, _, _| Subject::Host(log.host.endorsed.host);
    let subjects: [&Chosen; 3] = [&itself, &parent, &host];
    for subject in subjects {
        assert_eq!(started(subject, 0), [], "clocks differ by that much");
        assert_eq!(started(subject, lease_ms), [Kinds::StartedInLease]);
        assert_eq!(started(subject, lease_ms + CLOCK_TOLERANCE_MS + 1), [Kinds::StartedRevoked]);
    }
}

#[test]
fn what_was_reinstated_may_start_again() {
    let (mut log, artifact) = log();
    let subject = Subject::Artifact(artifact.0, artifact.1);
    log.revoke(subject, true);
    heartbeat(&mut log, 40_000);
    log.revoke(subject, false);
    tell(&mut log, GATE, artifact, None, 5_000);
    assert_eq!(reconciled(&log).listed, []);
}

#[test]
fn reasons_that_the_log_does_not_show_are_noticed() {
    let refused = |code, revoke: bool, after_ms| {
        let (mut log, artifact) = log();
        if revoke {
            log.revoke(Subject::Artifact(artifact.0, artifact.1), true);
        }
        tell(&mut log, GATE, artifact, Some(code), after_ms);
        let found = reconciled(&log);
        assert_eq!(found.count(Weight::Wrong), 0);
        kinds(&found)
    };
    let without = [Kinds::RefusedWithoutReason];
    assert_eq!(refused(RefusalCode::Revoked, false, 5), without);
    assert_eq!(refused(RefusalCode::Revoked, true, 5), []);
    assert_eq!(refused(RefusalCode::Expired, false, 5), without);
    assert_eq!(refused(RefusalCode::Expired, false, TTL_MS), []);
    assert_eq!(refused(RefusalCode::NotYetValid, false, 60_000), without);
    assert_eq!(refused(RefusalCode::NotAnAllow, false, 5), without);
    assert_eq!(refused(RefusalCode::HolderProofInvalid, false, 5), [], "the gateway's word");
}

#[test]
fn audiences_are_compared_when_they_are_named() {
    let (mut log, artifact) = log();
    tell(&mut log, OTHER, artifact, None, 5);
    let compared = |named: &[(&str, &str)]| {
        let audiences: BTreeMap<_, _> = named
            .iter()
            .map(|(name, audience)| ((*name).to_owned(), BTreeSet::from([(*audience).to_owned()])))
            .collect();
        let terms = Terms { audiences: Some(audiences), patience_ms: TAKEN_FOR_MS };
        let found = reconcile(&log, &log.bundle, &terms, &mut |_| {}).unwrap();
        assert!(found.audiences_compared);
        kinds(&found)
    };
    assert_eq!(compared(&[("other", "gate")]), []);
    let misplaced = Kinds::Outcome(OutcomeFault::Unfounded(Unfounded::Audience));
    assert_eq!(compared(&[("other", "elsewhere")]), [misplaced]);
    assert_eq!(compared(&[("gate", "gate")]), [misplaced], "who isn't named stands for nothing");
}

#[test]
fn a_start_at_two_gateways_is_noticed() {
    let (mut log, artifact) = log();
    tell(&mut log, GATE, artifact, None, 5);
    tell(&mut log, OTHER, artifact, None, 5);
    let found = reconciled(&log);
    assert_eq!(kinds(&found), [Kinds::StartedElsewhere]);
    let Discrepancy { gateway, .. } = &found.listed[0];
    assert_eq!(gateway, &Some((thumbprint(OTHER), "other".to_owned())));
}

/// Writes pages as an export has them.
fn exported(pages: &[String]) -> Result<ExportLog, super::Unreadable> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    for page in pages {
        writeln!(file, "{page}").unwrap();
    }
    ExportLog::open(file.path())
}

fn pages(log: &Log) -> Vec<String> {
    let leaves = log.leaves.chunks(2).enumerate().map(|(page, leaves)| {
        let from = page as u64 * 2;
        serde_json::to_string(&admin::Leaves { from, leaves: leaves.iter().cloned().map(B64).collect() })
    });
    let text = |head: &super::HeadExport| head.note.clone().unwrap_or_else(|| head.text.clone());
    let heads = log
        .heads
        .chunks(3)
        .map(|heads| serde_json::to_string(&admin::Heads { heads: heads.iter().map(text).collect() }));
    leaves.chain(heads).map(Result::unwrap).collect()
}

#[test]
fn an_export_is_a_log() {
    let (mut log, artifact) = log();
    tell(&mut log, GATE, artifact, None, 5);
    let export = exported(&pages(&log)).unwrap();
    assert_eq!(export.size(), log.leaves.len() as u64);
    let report = verify(&export, &log.bundle, &mut |_| {}).unwrap();
    assert_eq!(report, verify(&log, &log.bundle, &mut |_| {}).unwrap());
    let found = reconcile(&export, &log.bundle, &Terms::default(), &mut |_| {}).unwrap();
    assert_eq!(found, reconciled(&log));
    for index in [0, 1, 4, log.last()] {
        let bytes = export.leaves(index, 1).unwrap();
        assert_eq!(Leaf::parse(&bytes[0]).unwrap().index, index);
    }
    assert_eq!(export.leaves(export.size(), 1).unwrap(), Vec::<Vec<u8>>::new());
    assert_eq!(export.blob(&Sha256Digest::ZERO).unwrap(), None);
}

#[test]
fn what_is_no_export_is_refused() {
    let (log, _) = log();
    let good = pages(&log);
    let refused = |change: &dyn Fn(&mut Vec<String>)| {
        let mut pages = good.clone();
        change(&mut pages);
        exported(&pages).err().map(|error| error.0)
    };
    assert!(refused(&|pages| drop(pages.remove(1))).unwrap().contains("was to follow"));
    assert!(refused(&|pages| pages.push(pages[0].clone())).unwrap().contains("was to follow"));
    assert!(refused(&|pages| pages.push(pages.last().unwrap().clone())).unwrap().contains("don't rise"));
    assert!(refused(&|pages| pages.push("{}".to_owned())).is_some());
    assert!(refused(&|pages| pages.push(r#"{"heads":["x"]}"#.to_owned())).unwrap().contains("malformed"));
    assert!(refused(&|pages| pages.push(String::new())).is_some());
    // A head that was left out is for the audit to find.
    let shorter: Vec<_> = good[..good.len() - 1].to_vec();
    let export = exported(&shorter).unwrap();
    assert!(verify(&export, &log.bundle, &mut |_| {}).is_err());
}
