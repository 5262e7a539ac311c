//! The way back over a log in memory: every part in its place, and what is taken away or changed is a gap there.

use super::kit::Log;
use super::{Standing, Start, Step, Walk, WalkFault, walk};
use crate::outcome::allow;
use crate::store::Pruning;
use crate::verify::kit::ed25519;
use countersign_core::digest::Sha256Digest;
use countersign_core::leaf::control::{PrincipalKind, PrincipalRecord, Subject};
use countersign_core::leaf::decision::{Decision, LeafRef};
use countersign_core::leaf::record::Outcome;
use countersign_core::leaf::{Kind, Leaf};
use countersign_core::record::InputsRecord;
use countersign_core::refusal::RefusalCode;

const GATE: u8 = 31;

/// A gateway that started the child of an artifact: the log, parent, child, index of the outcome.
fn scene() -> (Log, LeafRef, LeafRef, u64) {
    let mut log = Log::with_policy();
    let (thumbprint, kind) = (ed25519(GATE).1.thumbprint(), PrincipalKind::Gateway);
    let name = "gate".to_owned();
    let record = PrincipalRecord { added: true, kind, thumbprint, name, by: None, approval: None };
    log.append(vec![(Kind::Principal, record.encode())]);
    let parent = log.ask(&[log.delegating("parent")])[0].0;
    let child = log.ask(&[log.child("child", &parent)])[0].0;
    log.time_ms += 5;
    let outcome = Outcome { gateway: thumbprint, artifact: child, refused: None, time_ms: log.time_ms };
    log.append(vec![(Kind::Outcome, outcome.encode())]);
    let told = log.last();
    (log, parent, child, told)
}

fn back(log: &Log, index: u64) -> Walk {
    walk(log, &log.bundle, Start::Outcome(index)).unwrap()
}

fn decision(log: &Log, name: LeafRef) -> Decision {
    let leaf = Leaf::parse(&log.leaves[usize::try_from(name.0).unwrap()]).unwrap();
    Decision::parse(&leaf.body).unwrap()
}

/// Prunings that can't have taken anything of an artifact, nor of a later one.
fn unreaching(log: &Log, name: LeafRef) -> [Pruning; 3] {
    let leaf = Leaf::parse(&log.leaves[usize::try_from(name.0).unwrap()]).unwrap();
    let (_, exp) = allow(&leaf).unwrap();
    [
        Pruning { upto: leaf.index, ..log.pruning },
        Pruning { before_ms: leaf.time_ms, ..log.pruning },
        Pruning { at_ms: exp * 1_000, ..log.pruning },
    ]
}

/// The parts that aren't here.
fn gaps(walked: &Walk) -> Vec<(&'static str, Standing)> {
    let gap = |step: &&Step| step.standing != Standing::Here;
    walked.steps.iter().filter(gap).map(|step| (step.what, step.standing)).collect()
}

/// What logs of this kit lack: certificates, activation and custody records, and who activated the policy.
fn lacking(log: &Log, index: u64) -> Vec<(&'static str, Standing)> {
    gaps(&back(log, index))
}

#[test]
fn every_part_that_is_taken_away_or_changed_is_a_gap_in_its_place() {
    let (mut log, parent, child, told) = scene();
    let usual = lacking(&log, told);
    let own = [
        "join token",
        "endorsement key",
        "endorsement certificate",
        "activation record",
        "custody record",
        "activated by",
    ];
    assert!(usual.iter().all(|(what, _)| own.contains(what)), "{usual:?}");
    let (of_parent, of_child) = (decision(&log, parent), decision(&log, child));
    let inputs = InputsRecord::parse(&log.blobs[&of_child.inputs]).unwrap();
    let policy = of_child.policy.as_ref().unwrap().digest;
    let parts: [(&'static str, Sha256Digest); 8] = [
        ("request", of_child.request),
        ("inputs record", of_child.inputs),
        ("evidence record", of_child.evidence),
        ("boot log", of_child.host_state.boot_log.unwrap()),
        ("policy document", policy),
        ("attestation key", log.host.enrolment.ak_public),
        ("request", of_parent.request),
        ("evidence record", of_parent.evidence),
    ];
    assert_eq!(inputs.policy, Some(policy));
    for (what, digest) in parts {
        let bytes = log.blobs.remove(&digest).unwrap();
        let more = |log: &Log, standing| {
            let found = lacking(log, told);
            assert!(found.contains(&(what, standing)) && found.len() > usual.len(), "{what}: {found:?}");
        };
        more(&log, Standing::Missing);
        log.pruned.push(digest);
        let stays = ["policy document", "attestation key"].contains(&what);
        more(&log, if stays { Standing::Missing } else { Standing::Pruned });
        // Nor does a record excuse what that pruning can't have taken.
        let whole = log.pruning;
        for cannot in unreaching(&log, parent) {
            log.pruning = cannot;
            more(&log, Standing::Missing);
        }
        log.pruning = whole;
        log.pruned.clear();
        log.blobs.insert(digest, b"something else".to_vec());
        more(&log, Standing::Altered);
        log.blobs.insert(digest, bytes);
        assert_eq!(lacking(&log, told), usual);
    }
}

#[test]
fn each_part_stands_below_the_one_that_names_it() {
    let (mut log, parent, child, _) = scene();
    log.revoke(Subject::Artifact(parent.0, parent.1), true);
    let outcome = log.last() - 1;
    let walked = back(&log, outcome);
    let place = |what: &str, leaf: Option<u64>| {
        let found =
            walked.steps.iter().position(|step| step.what == what && (leaf.is_none() || step.leaf == leaf));
        let at = found.unwrap_or_else(|| panic!("no {what}: {walked:#?}"));
        (at, walked.steps[at].level)
    };
    assert_eq!(place("outcome", Some(outcome)), (0, 0));
    let (at_child, child_level) = place("artifact", Some(child.0));
    let (at_parent, parent_level) = place("artifact", Some(parent.0));
    assert!(at_child < at_parent && parent_level == child_level + 1);
    assert_eq!(place("quote", None).1, place("evidence record", None).1 + 1);
    assert_eq!(place("boot log", None).1, place("quote", None).1);
    let (at, level) = place("revocation", Some(log.last()));
    assert!(at > at_parent && level == parent_level + 1, "what was said of the parent stands below it");
}

#[test]
fn a_quote_that_another_key_signed_is_contradicted() {
    let (mut log, _, child, told) = scene();
    let mut other = Log::with_policy();
    other.host = crate::verify::kit::Host::new(2);
    let ak = other.host.tpm.ak_public().bytes().to_vec();
    let named = log.host.enrolment.ak_public;
    // Another TPM's key under the digest of this host's.
    log.blobs.insert(named, ak);
    let found = lacking(&log, told);
    assert!(found.contains(&("attestation key", Standing::Altered)), "{found:?}");
    assert!(found.contains(&("quote", Standing::Unknown)), "{found:?}");
    assert_eq!(decision(&log, child).verdict, decision(&scene().0, child).verdict);
}

#[test]
fn an_outcome_of_another_leaf_than_the_log_has_is_contradicted() {
    let (mut log, _, child, _) = scene();
    let gateway = ed25519(GATE).1.thumbprint();
    let artifact = (child.0, Sha256Digest::ZERO);
    let outcome = Outcome { gateway, artifact, refused: None, time_ms: log.time_ms };
    log.append(vec![(Kind::Outcome, outcome.encode())]);
    assert_eq!(gaps(&back(&log, log.last())), [("decision", Standing::Contradicted)]);
}

#[test]
fn what_is_no_beginning_is_refused() {
    let (log, _, child, told) = scene();
    let refused = |start| {
        let fault: WalkFault = walk(&log, &log.bundle, start).unwrap_err();
        assert_eq!(fault.code(), Some(RefusalCode::NotFound), "{fault}");
    };
    refused(Start::Outcome(child.0));
    refused(Start::Outcome(9_999));
    refused(Start::Decision(told));
    refused(Start::Decision(9_999));
    assert!(!walk(&log, &log.bundle, Start::Decision(child.0)).unwrap().steps.is_empty());
}
