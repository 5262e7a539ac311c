//! A small log with everything in it, every way to falsify it, and every way in which an authority could lie about a decision.

use super::kit::{
    HEAD, Lie, Log, NEXT_HEAD, RECOVERY, bundle, bundle_of, bundle_with, code, extended, key_leaf,
    officer_leaf,
};
use super::{FindingKind, Kept, MismatchKind, Missing, PrunedRun, StoreLog, WithKept, replay, verify};
use crate::sequence::tests::support;
use crate::sequence::{Append, Entry};
use crate::sign::HeadKey as _;
use crate::store::Pruning;
use crate::verify::kit::{Host, NOW_MS, PERMIT, delegation, document, ed25519};
use countersign_core::bundle::{Compromise, Says, Statement, statement_preimage};
use countersign_core::checkpoint::HeadBody;
use countersign_core::digest::{Sha256Digest, sha256};
use countersign_core::key::Algorithm;
use countersign_core::leaf::control::{EpochRecord, KeyEvent, RecoveryRecord, Subject};
use countersign_core::leaf::decision::{Decision, Verdict};
use countersign_core::leaf::host::HostState;
use countersign_core::leaf::record::{Heartbeat, HeartbeatReason};
use countersign_core::leaf::{Kind, Leaf};
use countersign_core::note::SignedNote;
use countersign_core::refusal::RefusalCode;
use countersign_core::request::RequestDocument;
use countersign_tpm::simulated::boot::BootOptions;

/// Everything that an honest authority writes.
pub(super) fn full() -> Log {
    let mut log = Log::new();
    log.attest(None);
    let absent = log.ask(&[log.request("early")]);
    assert_eq!(code(&absent[0].1), Some(RefusalCode::PolicyAbsent));
    log.activate(&document(&[("base", PERMIT)]));
    let first = log.ask(&[log.delegating("p"), log.request("q")]);
    assert_eq!((code(&first[0].1), code(&first[1].1)), (None, None));
    let call = log.verified(&[log.child("c", &first[0].0), log.child("d", &first[0].0)]);
    let children = log.decide(&call, &Lie::default());
    assert_eq!((code(&children[0].1), code(&children[1].1)), (None, None));
    assert_eq!(log.budgets[&first[0].0.0], 3);
    // The same evidence again: a replay, which is logged and spends nothing.
    let replayed = log.decide(&call, &Lie { spent: Some(true), ..Lie::default() });
    assert_eq!(code(&replayed[0].1), Some(RefusalCode::ChallengeSpent));
    let expired = log.verified(&[log.request("late")]);
    log.time_ms += 40_000;
    assert_eq!(code(&log.decide(&expired, &Lie::default())[0].1), Some(RefusalCode::ChallengeExpired));
    let mut again = log.request("q");
    again.ttl_secs = 7;
    let again = log.verified(&[again]);
    let reused = log.decide(&again, &Lie { reused: Some(true), ..Lie::default() });
    assert_eq!(code(&reused[0].1), Some(RefusalCode::RequestIdReused));
    log.append(vec![(Kind::Heartbeat, Heartbeat(HeartbeatReason::Idle).encode())]);
    log.host.reboot(&BootOptions { seed: 4, ..BootOptions::default() });
    let boot_log = log.host.boot.log().to_vec();
    log.keep(&boot_log);
    let rebooted = log.ask(&[log.request("r1"), log.request("r2")]);
    assert_eq!(code(&rebooted[0].1), None);
    log.revoke(Subject::Artifact(first[0].0.0, first[0].0.1), true);
    let orphan = log.ask(&[log.child("o", &children[0].0)]);
    assert_eq!(code(&orphan[0].1), Some(RefusalCode::ParentRevoked));
    log.revoke(Subject::Host(log.host.endorsed.host), true);
    assert_eq!(code(&log.ask(&[log.request("x")])[0].1), Some(RefusalCode::HostRevoked));
    log.attest(None);
    log.revoke(Subject::Host(log.host.endorsed.host), false);
    log.host.enrolment.version = log.shown.version + 1;
    log.enrol();
    log.attest(None);
    log.ask(&[log.request("renewed")]);
    log
}

#[test]
fn an_honest_log_verifies_and_every_decision_in_it_repeats() {
    let log = full();
    let mut seen = 0;
    let report = verify(&log, &log.bundle, &mut |leaves| seen = leaves).unwrap();
    assert_eq!(report.leaves, u64::try_from(log.leaves.len()).unwrap());
    assert_eq!(seen, report.leaves);
    assert_eq!((report.heads, report.signed_heads), (u64::try_from(log.heads.len()).unwrap(), report.heads));
    assert_eq!(report.newest, log.host.head);
    assert_eq!(report.control, log.control.number());
    let report = replay(&log, &log.bundle, &mut |_| {}).unwrap();
    assert_eq!(report.mismatches, []);
    assert_eq!(report.not_replayable, []);
    let decided =
        |kind: Kind| log.leaves.iter().filter(|leaf| Leaf::parse(leaf).unwrap().kind == kind).count();
    let all = decided(Kind::Allow) + decided(Kind::Deny) + decided(Kind::HostState);
    assert_eq!(report.replayed, u64::try_from(all).unwrap());
    assert_eq!(report.denied, u64::try_from(decided(Kind::Deny)).unwrap() + 1);
}

#[test]
fn calls_decided_side_by_side_repeat() {
    let mut log = Log::with_policy();
    log.ask(&[log.request("0")]);
    let before = log.shown;
    log.host.tpm.advance_ms(100);
    let (a, b) = (log.verified(&[log.request("a")]), log.verified(&[log.request("b")]));
    log.decide(&a, &Lie::default());
    log.decide(&b, &Lie { prior: Some(before), ..Lie::default() });
    assert_eq!(log.mismatches(), []);
}

/// Decides "mine" with a lie after `first`; what replay says of that leaf.
fn lied(
    prepare: impl FnOnce(&mut Log) -> Vec<RequestDocument>,
    lie: impl FnOnce(&Log) -> Lie,
) -> MismatchKind {
    let mut log = Log::with_policy();
    log.ask(&[log.request("zero")]);
    let requests = prepare(&mut log);
    let call = log.verified(&requests);
    let lie = lie(&log);
    log.decide(&call, &lie);
    verify(&log, &log.bundle, &mut |_| {}).unwrap();
    let mismatches = log.mismatches();
    assert_eq!(mismatches.len(), 1, "{mismatches:?}");
    assert_eq!(mismatches[0].0, log.last());
    mismatches[0].1.clone()
}

fn mine(log: &mut Log) -> Vec<RequestDocument> {
    vec![log.request("mine")]
}

#[test]
fn a_lie_about_state_is_found() {
    let unattested = lied(mine, |_| Lie { prior: Some(HostState::unattested(1)), ..Lie::default() });
    assert_eq!(unattested, MismatchKind::Input("prior host state"));
    let spent = lied(mine, |_| Lie { spent: Some(true), ..Lie::default() });
    assert_eq!(spent, MismatchKind::Input("challenge standing"));
    let reused = lied(mine, |_| Lie { reused: Some(true), ..Lie::default() });
    assert_eq!(reused, MismatchKind::Input("request identifier"));
    let hidden = lied(
        |log| {
            let mut request = log.request("zero");
            request.ttl_secs = 9;
            vec![request]
        },
        |_| Lie::default(),
    );
    assert_eq!(hidden, MismatchKind::Input("request identifier"));
    let enrolment = lied(mine, |_| Lie { enrolment: Some((0, Sha256Digest::ZERO)), ..Lie::default() });
    assert_eq!(enrolment, MismatchKind::Input("enrolment"));
    let stale = |log: &Log| Lie { control: Some(log.control.clone()), ..Lie::default() };
    let unrevoked = {
        let mut log = Log::with_policy();
        let lie = stale(&log);
        log.revoke(Subject::Host(log.host.endorsed.host), true);
        let call = log.verified(&[log.request("mine")]);
        assert_eq!(code(&log.decide(&call, &lie)[0].1), None);
        log.mismatches()
    };
    assert_eq!(unrevoked[0].1, MismatchKind::Input("control"));
}

#[test]
fn a_lie_about_time_is_found() {
    for shift in [-10_021_i64, 10_000] {
        let lie = |log: &Log| Lie {
            time_ms: Some(log.time_ms.checked_add_signed(shift).unwrap()),
            ..Lie::default()
        };
        assert_eq!(lied(mine, lie), MismatchKind::Input("decision time"));
    }
}

#[test]
fn a_replayed_challenge_that_is_called_fresh_is_found() {
    let mut log = Log::with_policy();
    let call = log.verified(&[log.request("once")]);
    log.decide(&call, &Lie::default());
    log.append(vec![(Kind::Heartbeat, Heartbeat(HeartbeatReason::Idle).encode())]);
    log.decide(&call, &Lie { prior: Some(log.shown), ..Lie::default() });
    assert_eq!(log.mismatches(), [(log.last(), MismatchKind::Input("challenge standing"))]);
}

#[test]
fn an_allow_without_the_parents_holders_consent_is_found() {
    for consents in [Vec::new(), vec![vec![0; 64]]] {
        let mut log = Log::with_policy();
        let first = log.ask(&[log.delegating("p")]);
        let call = log.verified(&[log.child("c", &first[0].0)]);
        let child = log.decide(&call, &Lie { consents: Some(consents), ..Lie::default() });
        assert_eq!(code(&child[0].1), None);
        assert_eq!(log.mismatches(), [(log.last(), MismatchKind::Body)]);
    }
}

#[test]
fn an_overdrawn_budget_is_found() {
    let mut log = Log::with_policy();
    let first = log.ask(&[log.delegating("p")]);
    let index = first[0].0.0;
    let greedy = |log: &Log, id: &str| {
        let mut request = log.child(id, &first[0].0);
        request.delegation = Some(delegation(&["exec"], &["gate"], 1, 3));
        request
    };
    log.ask(&[greedy(&log, "a")]);
    assert_eq!(log.budgets[&index], 1);
    log.budgets.insert(index, 5);
    log.ask(&[greedy(&log, "b")]);
    let parents = (log.last(), MismatchKind::Input("parents"));
    let overdrawn = (log.last(), MismatchKind::Budget);
    assert_eq!(log.mismatches(), [parents, overdrawn]);
}

#[test]
fn a_budget_overdrawn_inside_of_one_call_is_found() {
    let mut log = Log::with_policy();
    let first = log.ask(&[log.delegating("p")]);
    log.budgets.insert(first[0].0.0, 50);
    let requests: Vec<RequestDocument> = (0..6).map(|n| log.child(&format!("c{n}"), &first[0].0)).collect();
    let call = log.verified(&requests);
    log.decide(&call, &Lie { budget: Some(5), ..Lie::default() });
    assert_eq!(log.mismatches(), [(log.last(), MismatchKind::Budget)]);
}

#[test]
fn a_body_that_does_not_follow_is_found() {
    let mut log = Log::with_policy();
    let mut request = log.request("mine");
    request.aud = "other".to_owned();
    let call = log.verified(&[request]);
    let outcome = log.decide(&call, &Lie::default()).remove(0).1;
    assert_eq!(code(&outcome), Some(RefusalCode::PolicyDenied));
    // The same inputs, another verdict: in a log that is the same up to this leaf.
    let verdict = Verdict::Allow { nbf: NOW_MS / 1_000, exp: NOW_MS / 1_000 + 60 };
    let body = Decision { verdict, ..outcome.decision().clone() }.encode();
    let mut log = Log::with_policy();
    log.keep(call.requests()[0].bytes());
    log.keep(&outcome.inputs_bytes);
    log.keep(call.judged().record_bytes());
    log.append(vec![(Kind::Allow, body)]);
    assert_eq!(log.mismatches(), [(log.last(), MismatchKind::Body)]);
}

#[test]
fn a_challenge_that_names_no_head_before_it_is_found() {
    let mut log = Log::with_policy();
    log.host.head = sha256(b"a head that nobody committed");
    log.ask(&[log.request("mine")]);
    assert_eq!(log.mismatches(), [(log.last(), MismatchKind::Input("head named by the challenge"))]);
}

#[test]
fn what_was_pruned_is_not_replayable_and_never_good() {
    let mut log = Log::with_policy();
    let outcome = log.ask(&[log.request("mine")]).remove(0).1;
    let decision = outcome.decision();
    let policy = decision.policy.as_ref().unwrap().digest;
    let boot_log = decision.host_state.boot_log.unwrap();
    let ak = log.host.enrolment.ak_public;
    for digest in [decision.request, decision.inputs, decision.evidence, policy, boot_log, ak] {
        // The attestation key is the enrolment's, too.
        let enrolled = (digest == ak).then_some(log.host.endorsed.enrolment.0);
        let named_by: Vec<u64> = enrolled.into_iter().chain([log.last()]).collect();
        let all = |missing: Missing| named_by.iter().map(|at| (*at, missing.clone())).collect::<Vec<_>>();
        let bytes = log.blobs.remove(&digest).unwrap();
        let report = replay(&log, &log.bundle, &mut |_| {}).unwrap();
        assert_eq!(report.not_replayable, all(Missing::Blob(digest)));
        assert_eq!((report.replayed, report.mismatches.len()), (0, 0));
        // Other bytes under the name are as good as none.
        log.blobs.insert(digest, b"something else".to_vec());
        let report = replay(&log, &log.bundle, &mut |_| {}).unwrap();
        assert_eq!(report.not_replayable, all(Missing::Altered(digest)));
        assert_eq!(report.replayed, 0);
        log.blobs.insert(digest, bytes);
    }
    assert_eq!(log.mismatches(), []);
}

#[test]
fn what_was_pruned_is_counted_and_what_is_missing_beside_it_is_not_excused() {
    let mut log = Log::with_policy();
    for id in ["first", "second", "third"] {
        log.ask(&[log.request(id)]);
    }
    let decided: Vec<(u64, Decision)> = log
        .leaves
        .iter()
        .map(|bytes| Leaf::parse(bytes).unwrap())
        .filter(|leaf| leaf.kind == Kind::Allow)
        .map(|leaf| (leaf.index, Decision::parse(&leaf.body).unwrap()))
        .collect();
    let [(first, one), (second, two), _] = &decided[..] else { panic!("{decided:?}") };
    let report = |log: &Log| replay(log, &log.bundle, &mut |_| {}).unwrap();
    let mut kept = Vec::new();
    for digest in [one.evidence, one.request, two.inputs] {
        kept.push((digest, log.blobs.remove(&digest).unwrap()));
        log.pruned.push(digest);
    }
    let pruned = report(&log);
    assert_eq!(pruned.pruned, [PrunedRun { first: *first, last: *second, count: 2 }]);
    assert_eq!((pruned.replayed, pruned.not_replayable.len(), pruned.mismatches.len()), (1, 0, 0));
    // Something else of a pruned decision is missing, and nothing tells of that.
    let inputs = log.blobs.remove(&one.inputs).unwrap();
    assert_eq!(report(&log).not_replayable, [(*first, Missing::Blob(one.inputs))]);
    log.blobs.insert(one.inputs, b"other bytes".to_vec());
    log.pruned.push(one.inputs);
    assert_eq!(report(&log).not_replayable, [(*first, Missing::Altered(one.inputs))]);
    log.blobs.insert(one.inputs, inputs);
    // What an auditor kept is as good as what was there; other bytes under any name are not.
    let directory = tempfile::tempdir().unwrap();
    for (at, (_, bytes)) in kept.iter().enumerate() {
        std::fs::write(directory.path().join(at.to_string()), bytes).unwrap();
    }
    let with = |log: &Log| {
        let kept = Kept::files(directory.path()).unwrap();
        replay(&WithKept { log, kept: &kept }, &log.bundle, &mut |_| {}).unwrap()
    };
    assert_eq!((with(&log).replayed, with(&log).pruned_count()), (3, 0));
    std::fs::write(directory.path().join("0"), b"forged").unwrap();
    std::fs::write(directory.path().join(one.evidence.to_hex()), b"forged too").unwrap();
    assert_eq!((with(&log).replayed, with(&log).pruned_count(), with(&log).not_replayable.len()), (2, 1, 0));
}

#[test]
fn a_record_of_a_pruning_excuses_nothing_that_it_cannot_have_taken() {
    let mut log = Log::with_policy();
    let ((index, _), outcome) = log.ask(&[log.request("mine")]).remove(0);
    let decision = outcome.decision().clone();
    let Verdict::Allow { exp, .. } = decision.verdict else { panic!("{decision:?}") };
    let leaf = Leaf::parse(&log.leaves[usize::try_from(index).unwrap()]).unwrap();
    let (reaching, report) = (log.pruning, |log: &Log| replay(log, &log.bundle, &mut |_| {}).unwrap());
    let whole =
        Pruning { at_ms: exp * 1_000 + 1, before_ms: leaf.time_ms + 1, upto: leaf.index + 1, ..reaching };
    let cannot = [
        Pruning { upto: leaf.index, ..whole },
        Pruning { before_ms: leaf.time_ms, ..whole },
        Pruning { at_ms: exp * 1_000, ..whole },
        Pruning::default(),
    ];
    let boot_log = decision.host_state.boot_log.unwrap();
    for digest in [decision.request, decision.inputs, decision.evidence, boot_log] {
        let bytes = log.blobs.remove(&digest).unwrap();
        log.pruned.push(digest);
        log.pruning = whole;
        assert_eq!((report(&log).pruned_count(), report(&log).not_replayable.len()), (1, 0));
        for pruning in cannot {
            log.pruning = pruning;
            let found = report(&log);
            assert_eq!(
                (found.pruned_count(), found.not_replayable),
                (0, vec![(index, Missing::Blob(digest))])
            );
        }
        log.pruned.clear();
        log.blobs.insert(digest, bytes);
    }
    // Documents and keys are never pruned, whatever the record says, and also if something else was.
    log.pruning = whole;
    let policy = decision.policy.as_ref().unwrap().digest;
    for also in [None, Some(decision.evidence)] {
        for digest in [policy, log.host.enrolment.ak_public] {
            let gone: Vec<_> =
                also.iter().chain([&digest]).map(|gone| (*gone, log.blobs.remove(gone).unwrap())).collect();
            log.pruned = gone.iter().map(|(digest, _)| *digest).collect();
            let found = report(&log);
            let enrolled = (digest != policy).then_some(log.host.endorsed.enrolment.0);
            let named_by = enrolled.into_iter().chain([index]).map(|at| (at, Missing::Blob(digest)));
            assert_eq!((found.pruned_count(), found.not_replayable), (0, named_by.collect()));
            log.pruned.clear();
            log.blobs.extend(gone);
        }
    }
    assert_eq!(report(&log).replayed, 1);
}

fn tampered(change: impl FnOnce(&mut Log)) -> FindingKind {
    let mut log = full();
    change(&mut log);
    log.kinds()
}

/// Changes the newest head's text and signs it again, as a thief of the key would.
fn resigned(change: impl FnOnce(&mut HeadBody)) -> FindingKind {
    tampered(|log| {
        let mut body = HeadBody::parse(&log.heads.last().unwrap().text).unwrap();
        change(&mut body);
        let head = log.sign(body.encode());
        *log.heads.last_mut().unwrap() = head;
    })
}

#[test]
fn every_changed_leaf_is_found() {
    let whole = full();
    for index in 0..whole.leaves.len() {
        let mut log = full_of(&whole);
        let last = log.leaves[index].len() - 1;
        log.leaves[index][last] ^= 1;
        let finding = verify(&log, &log.bundle, &mut |_| {}).unwrap_err();
        let at = u64::try_from(index).unwrap();
        assert!(finding.leaf == Some(at) || finding.head.is_some_and(|size| size > at), "{index}: {finding}");
    }
}

/// The data of a log without its authority.
fn full_of(whole: &Log) -> Log {
    Log { leaves: whole.leaves.clone(), heads: whole.heads.clone(), ..Log::empty() }
}

#[test]
fn missing_added_and_swapped_leaves_are_found() {
    assert_eq!(tampered(|log| drop(log.leaves.pop())), FindingKind::LeavesMissing);
    assert_eq!(tampered(|log| log.leaves.push(log.leaves[0].clone())), FindingKind::Uncovered);
    assert_eq!(tampered(|log| log.leaves.swap(4, 5)), FindingKind::Index(5));
    assert!(matches!(tampered(|log| log.leaves[3] = vec![0]), FindingKind::Malformed(_)));
    assert_eq!(tampered(|log| drop(log.heads.pop())), FindingKind::Uncovered);
    assert_eq!(tampered(|log| (log.leaves, log.heads) = (Vec::new(), Vec::new())), FindingKind::Empty);
}

#[test]
fn every_line_of_a_head_is_recomputed() {
    use countersign_core::digest::{Blake2b512Digest, Sha3_512Digest};
    assert_eq!(resigned(|head| head.origin = "other.example".to_owned()), FindingKind::Origin);
    assert_eq!(resigned(|head| head.size += 1), FindingKind::LeavesMissing);
    assert_eq!(resigned(|head| head.sha256_root = Sha256Digest::ZERO), FindingKind::Root("sha-256"));
    assert_eq!(resigned(|head| head.sha3_root = Sha3_512Digest::ZERO), FindingKind::Root("sha3-512"));
    assert_eq!(resigned(|head| head.blake2_root = Blake2b512Digest::ZERO), FindingKind::Root("blake2b-512"));
    assert_eq!(resigned(|head| head.time_ms -= 1), FindingKind::Time);
    assert_eq!(resigned(|head| head.prev = Sha256Digest::ZERO), FindingKind::Prev);
    assert_eq!(resigned(|head| head.control_seq += 1), FindingKind::ControlLine);
    assert_eq!(resigned(|head| head.control_digest = Sha256Digest::ZERO), FindingKind::ControlLine);
    assert_eq!(tampered(|log| log.heads[2].text.push('x')), FindingKind::HeadMalformed);
}

#[test]
fn signatures_are_of_active_keys_that_are_vouched_for() {
    let other_text = tampered(|log| log.heads[2].note = log.heads[1].note.clone());
    assert!(matches!(other_text, FindingKind::Signature(_)));
    let flipped = tampered(|log| {
        let head = log.heads.last_mut().unwrap();
        let (text, note) = (head.text.clone(), head.note.clone().unwrap());
        let mut line = SignedNote::parse(&note).unwrap().signatures()[0].clone();
        let mut bytes = line.signature().to_vec();
        bytes[0] ^= 1;
        line = countersign_core::note::NoteSignature::new(line.name(), line.key_id(), bytes).unwrap();
        head.note = Some(SignedNote::new(&text, vec![line]).unwrap().format());
    });
    assert!(matches!(flipped, FindingKind::Signature(_)));
    assert_eq!(tampered(|log| log.heads.last_mut().unwrap().note = None), FindingKind::NewestUnsigned);
    let stranger = tampered(|log| {
        log.signers = vec![NEXT_HEAD];
        let head = log.sign(log.heads.last().unwrap().text.clone());
        *log.heads.last_mut().unwrap() = head;
    });
    assert_eq!(stranger, FindingKind::Unsigned);
    // Earlier bodies may lack a signature: a later signed head covers them.
    let mut log = full();
    log.heads[3].note = None;
    let report = verify(&log, &log.bundle, &mut |_| {}).unwrap();
    assert_eq!(report.signed_heads + 1, report.heads);
}

/// Introduces and activates a second head key; the first head after that is signed by `signers`.
fn rotated(signers: &[u8], after: &[u8]) -> Result<(), FindingKind> {
    let mut log = Log::with_policy();
    let origin = log.host.origin.as_str().to_owned();
    log.append(vec![officer_leaf(), key_leaf(&origin, NEXT_HEAD, KeyEvent::Introduced)]);
    log.signers = signers.to_vec();
    log.append(vec![
        key_leaf(&origin, NEXT_HEAD, KeyEvent::Activated),
        key_leaf(&origin, HEAD, KeyEvent::Deactivated),
    ]);
    log.signers = after.to_vec();
    log.append(vec![(Kind::Heartbeat, Heartbeat(HeartbeatReason::Idle).encode())]);
    verify(&log, &log.bundle, &mut |_| {}).map(drop).map_err(|finding| finding.kind)
}

#[test]
fn a_new_head_key_is_vouched_for_by_the_old_one() {
    assert_eq!(rotated(&[HEAD, NEXT_HEAD], &[NEXT_HEAD]), Ok(()));
    assert_eq!(rotated(&[NEXT_HEAD], &[NEXT_HEAD]), Err(FindingKind::Unsigned));
    assert_eq!(rotated(&[HEAD], &[NEXT_HEAD]), Err(FindingKind::Unsigned));
    assert_eq!(rotated(&[HEAD, NEXT_HEAD], &[HEAD]), Err(FindingKind::Unsigned));
}

#[test]
fn a_control_leaf_that_cannot_follow_is_found() {
    let mut log = Log::with_policy();
    let mut bytes = log.leaves.pop().unwrap();
    let mut leaf = Leaf::parse(&bytes).unwrap();
    assert_eq!(leaf.kind, Kind::Policy);
    leaf.body = EpochRecord { document: Sha256Digest::ZERO, epoch: 7, by: Sha256Digest::ZERO }.encode();
    bytes = leaf.encode().unwrap();
    log.leaves.push(bytes);
    assert!(matches!(log.kinds(), FindingKind::Control(_)));
}

#[test]
fn a_log_of_another_bundle_is_found() {
    let log = full();
    let mut other = Host::new(1);
    other.origin = countersign_core::name::Origin::parse("other.example").unwrap();
    let (bundle, _) = bundle(&other);
    assert!(verify(&log, &bundle, &mut |_| {}).is_err());
}

#[test]
fn a_log_that_the_sequencer_wrote_into_a_store_verifies() {
    let mut rig = support::Rig::empty(Algorithm::EdDsa);
    rig.recovery = ed25519(RECOVERY).1;
    let (_, recovery) = bundle_of(&support::origin(), rig.key.verifying_key().clone());
    let bundle = bundle_with(&support::origin(), "test.example", std::iter::once(&recovery));
    let log = rig.open().unwrap();
    log.appended(Append::of(vec![
        Entry::plain(Kind::Recovery, recovery.encode()),
        support::introduce(&rig.key),
        support::key_event(&rig.key, KeyEvent::Activated),
    ]));
    log.appended(support::enrol(1));
    for id in ["a", "b", "c"] {
        log.appended(support::Call::new(support::host(1), id).append());
    }
    let source = StoreLog::new(log.reader.as_ref()).unwrap();
    // What is appended from here on isn't looked at.
    log.appended(support::Call::new(support::host(1), "d").append());
    let report = verify(&source, &bundle, &mut |_| {}).unwrap();
    assert_eq!((report.leaves, report.signed_heads), (source.size(), report.heads));
    assert!(report.leaves >= 7 && log.size() > report.leaves);
    // The enrolment and those decisions were made up by hand and name nothing that exists.
    let report = replay(&source, &bundle, &mut |_| {}).unwrap();
    assert_eq!((report.enrolled, report.replayed, report.not_replayable.len()), (0, 0, 4));
}

/// A log in which the first key was stolen after its third head, rotated, and stated as compromised.
pub(super) fn compromised(last_good: impl FnOnce(&mut HeadBody)) -> (Log, RecoveryRecord) {
    let mut log = Log::with_policy();
    let origin = log.host.origin.as_str().to_owned();
    let mut pinned = HeadBody::parse(&log.heads[2].text).unwrap();
    last_good(&mut pinned);
    log.append(vec![officer_leaf(), key_leaf(&origin, NEXT_HEAD, KeyEvent::Introduced)]);
    log.signers = vec![HEAD, NEXT_HEAD];
    log.append(vec![key_leaf(&origin, NEXT_HEAD, KeyEvent::Activated)]);
    let statement = Statement {
        number: 2,
        origin: log.host.origin.clone(),
        time_ms: NOW_MS,
        says: Says::Compromise(Compromise {
            key: ed25519(HEAD).1,
            last_good: pinned,
            head_keys: vec![ed25519(NEXT_HEAD).1],
        }),
    }
    .encode();
    let signature = ed25519(RECOVERY).0.sign(&statement_preimage(&statement)).as_ref().to_vec();
    log.signers = vec![NEXT_HEAD];
    (log, RecoveryRecord { statement, signature })
}

#[test]
fn a_log_with_a_compromised_key_verifies_with_and_without_the_statement_in_the_bundle() {
    let (mut log, record) = compromised(|_| ());
    let knowing = extended(&log.bundle, &record);
    log.append(vec![(Kind::Recovery, record.encode())]);
    let plain = verify(&log, &log.bundle, &mut |_| {}).unwrap();
    assert_eq!(plain.signed_heads, plain.heads);
    // Whoever knows beforehand counts of the stolen key's own heads only the last good one.
    let known = verify(&log, &knowing, &mut |_| {}).unwrap();
    assert!(known.signed_heads < known.heads);
    assert_eq!(known.newest, plain.newest);
}

#[test]
fn a_thiefs_fork_is_refused_by_who_knows_the_statement() {
    let (log, record) = compromised(|_| ());
    let knowing = extended(&log.bundle, &record);
    let mut fork = Log::with_policy();
    fork.append(vec![(Kind::Heartbeat, Heartbeat(HeartbeatReason::Idle).encode())]);
    verify(&fork, &fork.bundle, &mut |_| {}).unwrap();
    assert_eq!(verify(&fork, &knowing, &mut |_| {}).unwrap_err().kind, FindingKind::NewestUnsigned);
}

#[test]
fn a_last_good_head_of_another_log_is_found() {
    let (mut log, record) = compromised(|head| head.time_ms += 1);
    log.append(vec![(Kind::Recovery, record.encode())]);
    let finding = verify(&log, &log.bundle, &mut |_| {}).unwrap_err();
    assert_eq!(finding.kind, FindingKind::LastGood);
}
