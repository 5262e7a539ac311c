//! What follows in a replay from a decision that was pruned.

use super::kit::{Lie, Log, code};
use super::{MismatchKind, ReplayReport, replay};
use crate::store::Pruning;
use crate::verify::VerifiedCall;
use crate::verify::kit::signed;
use countersign_core::leaf::control::Subject;
use countersign_core::leaf::decision::Decision;
use countersign_core::leaf::{Kind, Leaf};
use countersign_core::refusal::RefusalCode;

fn report(log: &Log) -> ReplayReport {
    replay(log, &log.bundle, &mut |_| {}).unwrap()
}

/// Two calls over two quotes under one challenge.
fn under_one_challenge(log: &mut Log) -> [VerifiedCall; 2] {
    let challenge = log.host.challenge(log.time_ms);
    ["one", "two"].map(|id| {
        let call = log.host.quoted(challenge.clone(), vec![signed(&log.request(id))]);
        log.host.verify(call).unwrap()
    })
}

/// Prunes what was decided before a leaf.
fn prune_before(log: &mut Log, call: &VerifiedCall, index: u64) {
    let leaf = Leaf::parse(&log.leaves[usize::try_from(index).unwrap()]).unwrap();
    log.pruning = Pruning { before_ms: leaf.time_ms, upto: index, ..log.pruning };
    let digest = *call.judged().record_digest();
    log.blobs.remove(&digest).unwrap();
    log.pruned.push(digest);
}

#[test]
fn a_challenge_that_a_pruned_decision_used_up_makes_no_honest_denial_a_mismatch() {
    let mut log = Log::with_policy();
    let calls = under_one_challenge(&mut log);
    assert_eq!(code(&log.decide(&calls[0], &Lie::default())[0].1), None);
    let ((index, _), denied) = log.decide(&calls[1], &Lie { spent: Some(true), ..Lie::default() }).remove(0);
    assert_eq!(code(&denied), Some(RefusalCode::ChallengeSpent));
    log.ask(&[log.request("three")]);
    assert_eq!((report(&log).replayed, log.mismatches()), (3, vec![]));
    // The boundary lies between the two: the first is gone, and with it the name of the challenge.
    prune_before(&mut log, &calls[0], index);
    let found = report(&log);
    assert_eq!((found.mismatches, found.not_replayable), (vec![], vec![]));
    assert_eq!((found.replayed, found.pruned.iter().map(|run| run.count).sum::<u64>()), (1, 2));
    // It is no more than that: what doesn't follow from a challenge that was spent is as wrong as before.
    let call = log.verified(&[log.request("four")]);
    let lie =
        Lie { spent: Some(true), enrolment: Some((0, *calls[0].judged().record_digest())), ..Lie::default() };
    log.decide(&call, &lie);
    assert_eq!(log.mismatches(), [(log.last(), MismatchKind::Input("enrolment"))]);
}

#[test]
fn a_pruned_decision_explains_no_spent_challenge_of_long_after() {
    let mut log = Log::with_policy();
    let first = log.verified(&[log.request("one")]);
    log.decide(&first, &Lie::default());
    let next = log.last() + 1;
    log.time_ms += 590_000;
    log.host.tpm.advance_ms(590_000);
    let call = log.verified(&[log.request("two")]);
    log.time_ms += 20_000;
    let (prior, spent) = (Some(log.shown), Some(true));
    log.decide(&call, &Lie { spent, prior, ..Lie::default() });
    prune_before(&mut log, &first, next);
    let found = report(&log);
    assert_eq!(found.pruned_count(), 1);
    let kinds: Vec<_> = found.mismatches.into_iter().map(|one| (one.index, one.kind)).collect();
    assert_eq!(kinds, [(log.last(), MismatchKind::Input("challenge standing"))]);
}

#[test]
fn an_allow_to_the_revoked_is_found_also_where_all_that_it_rests_on_is_called_pruned() {
    type Alter = fn(&mut Decision);
    let lies: [(bool, Alter, &str); 5] = [
        (true, |_| (), "revoked subjects"),
        (true, |decision| decision.control -= 1, "control"),
        (false, |decision| decision.policy = None, "policy"),
        (false, |decision| decision.policy.as_mut().unwrap().epoch += 1, "epoch"),
        (false, |decision| decision.host_state.trusted_until_ms = decision.issued_at * 1_000, "trust"),
    ];
    for (revoke, alter, input) in lies {
        let mut log = Log::with_policy();
        let mut decision = log.ask(&[log.request("mine")]).remove(0).1.decision().clone();
        if revoke {
            log.revoke(Subject::Host(decision.host), true);
        }
        decision.control = log.control.number();
        alter(&mut decision);
        log.append(vec![(Kind::Allow, decision.encode())]);
        let named = [decision.request, decision.inputs, decision.evidence];
        for digest in named.into_iter().chain(decision.host_state.boot_log) {
            log.blobs.remove(&digest);
            log.pruned.push(digest);
        }
        let found: Vec<_> = report(&log).mismatches.into_iter().map(|one| (one.index, one.kind)).collect();
        assert_eq!(found, [(log.last(), MismatchKind::Input(input))]);
    }
}
