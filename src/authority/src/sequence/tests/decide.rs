//! What becomes of Appends: retries, guards, spends, budgets, control.

use std::sync::Barrier;

use countersign_core::control::ControlError;
use countersign_core::digest::{Sha256Digest, sha256};
use countersign_core::leaf::Kind;
use countersign_core::leaf::control::KeyEvent;
use countersign_core::leaf::host::{HostState, Tier};
use countersign_core::leaf::host_state::HostStateRecord;
use countersign_core::name::RequestId;
use countersign_core::refusal::RefusalCode;

use super::super::{
    Append, AppendError, CLOCK_TOLERANCE_MS, Entry, Guard, MAX_DECISION_AGE_MS, MAX_ENTRIES, Outcome,
    SequenceFault, Spend,
};
use super::support::{
    Call, EVIDENCE, Log, NOW, Rig, enrol, enrolment, epoch, host, introduce, key_event, state, token,
};
use crate::store::{SpentId, receipts_for};

fn with_host() -> (Rig, Log) {
    let (rig, log) = Rig::begun();
    log.appended(enrol(1));
    (rig, log)
}

#[test]
fn an_appended_call_is_in_the_log_with_its_blobs_and_tables() {
    let (_rig, log) = with_host();
    let call = Call::new(host(1), "r1");
    let append = call.append();
    let (digest, bytes) = append.blobs[0].clone();
    let receipts = log.appended(append);
    let index = receipts.leaves[0].index;
    assert_eq!(log.reader.leaf(index).unwrap().unwrap(), &*receipts.leaves[0].leaf);
    assert_eq!(log.reader.blob(&digest).unwrap().unwrap(), &*bytes);
    let known = log.reader.outcome(&host(1), &RequestId::parse("r1").unwrap()).unwrap().unwrap();
    assert_eq!((known.index, known.request), (index, call.request().digest));
    let row = log.reader.host(&host(1)).unwrap().unwrap();
    assert_eq!((row.state, row.state_index), (call.state, index));
    let now = log.reader.host_now(&host(1)).unwrap().unwrap();
    assert_eq!(now.enrolment_leaf, row.enrolment_leaf);
    assert_eq!((now.key, now.state), (row.enrolment.host_key.thumbprint(), row.state));
    assert_eq!(log.reader.host_now(&host(2)).unwrap(), None);
    assert_eq!(receipts.head.note(), log.sequencer.signed_head().unwrap().note());
}

#[test]
fn a_byte_identical_retry_gets_the_stored_leaf_under_a_newer_head() {
    let (_rig, log) = with_host();
    let call = Call::new(host(1), "r1");
    let first = log.appended(call.append());
    log.appended(Call::new(host(1), "r2").append());
    let Outcome::Existing(again) = log.submit(call.append()).unwrap() else { panic!("not existing") };
    log.check(&again);
    assert_eq!(again.leaves[0].leaf, first.leaves[0].leaf);
    assert!(again.head.size() > first.head.size());
    // The same from the reading side, as for a caller who finds its outcome there.
    let head = log.sequencer.signed_head().unwrap();
    assert_eq!(receipts_for(log.reader.as_ref(), &[first.leaves[0].index], head).unwrap(), again);
}

#[test]
fn identical_calls_at_once_make_one_leaf() {
    let (_rig, log) = with_host();
    let before = log.size();
    let start = Barrier::new(8);
    let answers: Vec<Outcome> = std::thread::scope(|scope| {
        let callers: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    let append = Call::new(host(1), "r1").append();
                    start.wait();
                    log.submit(append).unwrap()
                })
            })
            .collect();
        callers.into_iter().map(|caller| caller.join().unwrap()).collect()
    });
    assert_eq!(log.size(), before + 1);
    let appended = answers.iter().filter(|answer| matches!(answer, Outcome::Appended(_))).count();
    assert_eq!(appended, 1);
    for answer in &answers {
        let (Outcome::Appended(receipts) | Outcome::Existing(receipts)) = answer else {
            panic!("{answer:?}")
        };
        assert_eq!(receipts.leaves[0].index, before);
        log.check(receipts);
    }
}

#[test]
fn a_challenge_is_spent_by_exactly_one_of_many_calls_at_once() {
    let (_rig, log) = with_host();
    let before = log.size();
    let challenge = Sha256Digest::new([42; 32]);
    let start = Barrier::new(8);
    let answers: Vec<Outcome> = std::thread::scope(|scope| {
        let callers: Vec<_> = (0..8)
            .map(|caller| {
                let (log, start) = (&log, &start);
                scope.spawn(move || {
                    let append = Call::new(host(1), &format!("r{caller}")).append_with(challenge);
                    start.wait();
                    log.submit(append).unwrap()
                })
            })
            .collect();
        callers.into_iter().map(|caller| caller.join().unwrap()).collect()
    });
    assert_eq!(log.size(), before + 1);
    assert_eq!(answers.iter().filter(|answer| matches!(answer, Outcome::Appended(_))).count(), 1);
    assert_eq!(answers.iter().filter(|answer| **answer == Outcome::ChallengeSpent).count(), 7);
    assert!(
        log.reader.is_spent(&SpentId::Challenge { expires_ms: NOW + 60_000, digest: challenge }).unwrap()
    );
}

#[test]
fn what_is_refused_leaves_no_trace_and_its_neighbours_untouched() {
    let (rig, log) = with_host();
    // Held up by a slow signature, all of these become one batch.
    rig.key.delay_ms.store(200, std::sync::atomic::Ordering::SeqCst);
    let slow = log.sequencer.submit(Call::new(host(1), "slow").append()).unwrap();
    let good = log.sequencer.submit(Call::new(host(1), "good").append()).unwrap();
    let mut stale = Call::new(host(1), "stale").append();
    stale.guards.push(Guard::Control(99));
    let unused = stale.spends[0];
    let stale = log.sequencer.submit(stale).unwrap();
    let twice = Call::new(host(1), "twice").append_with(sha256(b"challenge of twice"));
    let replay = Call::new(host(1), "replay").append_with(sha256(b"challenge of twice"));
    let (twice, replay) = (log.sequencer.submit(twice).unwrap(), log.sequencer.submit(replay).unwrap());
    let last = log.sequencer.submit(Call::new(host(1), "last").append()).unwrap();
    for pending in [slow, good, twice, last] {
        let Outcome::Appended(receipts) = pending.wait().unwrap() else { panic!("not appended") };
        log.check(&receipts);
    }
    assert_eq!(stale.wait().unwrap(), Outcome::Stale);
    assert_eq!(replay.wait().unwrap(), Outcome::ChallengeSpent);
    for id in ["stale", "replay"] {
        assert_eq!(log.reader.outcome(&host(1), &RequestId::parse(id).unwrap()).unwrap(), None);
    }
    let Spend::Challenge { digest, expires_ms } = unused else { panic!() };
    assert!(!log.reader.is_spent(&SpentId::Challenge { expires_ms, digest }).unwrap());
}

#[test]
fn every_guard_refuses_a_state_that_moved() {
    let (_rig, log) = with_host();
    let parent = log.appended(Append::of(vec![Call { budget: Some(5), ..Call::new(host(1), "p") }.entry()]));
    let parent = parent.leaves[0].index;
    let number = log.sequencer.control().number();
    let cases = [
        (Guard::HostVersion(host(1), 1), Guard::HostVersion(host(1), 2)),
        (Guard::HostAbsent(host(2)), Guard::HostAbsent(host(1))),
        (Guard::Control(number), Guard::Control(number + 1)),
        (Guard::Enrolment(host(1), 2), Guard::Enrolment(host(1), 1)),
        (Guard::Control(number), Guard::Enrolment(host(3), 2)),
        (Guard::DecidedAt(NOW - MAX_DECISION_AGE_MS), Guard::DecidedAt(NOW - MAX_DECISION_AGE_MS - 1)),
        (Guard::DecidedAt(NOW + CLOCK_TOLERANCE_MS), Guard::DecidedAt(NOW + CLOCK_TOLERANCE_MS + 1)),
        (Guard::BudgetLeft(parent, 5), Guard::BudgetLeft(parent, 6)),
        (Guard::Control(number), Guard::HostVersion(host(3), 1)),
        (Guard::Control(number), Guard::BudgetLeft(u64::MAX, 0)),
    ];
    for (at, (good, bad)) in cases.into_iter().enumerate() {
        let call = Call::new(host(1), &format!("g{at}"));
        let append = |guard| Append { guards: vec![guard], ..Append::of(vec![call.entry()]) };
        assert_eq!(log.submit(append(bad)).unwrap(), Outcome::Stale, "{bad:?}");
        log.appended(append(good));
    }
}

#[test]
fn a_decision_read_under_an_enrolment_is_not_appended_after_a_renewal() {
    let (rig, log) = with_host();
    let enrolment = log.reader.host_now(&host(1)).unwrap().unwrap().enrolment_leaf.0;
    // A renewal keeps the version: only its own leaf tells that it came in between, also within one batch.
    rig.key.delay_ms.store(100, std::sync::atomic::Ordering::SeqCst);
    let slow = log.sequencer.submit(Call::new(host(1), "slow").append()).unwrap();
    let renewal = log.sequencer.submit(Append::of(vec![enrolment_leaf()])).unwrap();
    let guarded = |id: &str, enrolment| {
        let mut append = Call::new(host(1), id).append();
        append.guards.push(Guard::Enrolment(host(1), enrolment));
        append
    };
    let decided = log.sequencer.submit(guarded("r1", enrolment)).unwrap();
    assert!(matches!(slow.wait().unwrap(), Outcome::Appended(_)));
    let Outcome::Appended(renewed) = renewal.wait().unwrap() else { panic!("not appended") };
    assert_eq!(decided.wait().unwrap(), Outcome::Stale);
    log.appended(guarded("r1", renewed.leaves[0].index));
}

fn enrolment_leaf() -> Entry {
    enrolment(host(1), 1, 1, None)
}

#[test]
fn a_denial_that_says_nothing_new_takes_nothing_of_its_host_back() {
    let (_rig, log) = with_host();
    let old = state(1, 1_000);
    log.appended(Call { state: old, ..Call::new(host(1), "old") }.append());
    let new = HostState { tier: Tier::Warning, evidence: Some(sha256(b"new")), ..state(1, 2_000) };
    let evidence = sha256(b"new");
    log.appended(Call { state: new, evidence, ..Call::new(host(1), "new") }.append());
    // Decided beside it on the state before: evidence that was refused, and a challenge that was spent.
    let evidence = sha256(b"refused");
    log.appended(Call { state: old, evidence, allow: false, ..Call::new(host(1), "refused") }.append());
    assert_eq!(log.reader.host(&host(1)).unwrap().unwrap().state, new);
    let code = Some(RefusalCode::ChallengeSpent);
    let replayed = HostStateRecord { host: host(1), state: old, evidence: EVIDENCE, code, basis: None };
    log.appended(Append::of(vec![Entry::plain(Kind::HostState, replayed.encode())]));
    assert_eq!(log.reader.host(&host(1)).unwrap().unwrap().state, new);
    // The same leaf without the code is evidence that held.
    let held = HostStateRecord { code: None, ..replayed };
    log.appended(Append::of(vec![Entry::plain(Kind::HostState, held.encode())]));
    assert_eq!(log.reader.host(&host(1)).unwrap().unwrap().state, HostState { clock_ms: 2_000, ..old });
}

#[test]
fn a_request_identifier_used_for_other_bytes_is_stale_for_an_allow_and_can_be_denied() {
    let (_rig, log) = with_host();
    let first = log.appended(Call::new(host(1), "r1").append());
    let other = Call { variant: 1, ..Call::new(host(1), "r1") };
    assert_eq!(log.submit(other.append_with(sha256(b"2"))).unwrap(), Outcome::Stale);
    let denial = Call { allow: false, ..other };
    log.appended(denial.append_with(sha256(b"3")));
    // The first leaf stays the answer.
    let known = log.reader.outcome(&host(1), &RequestId::parse("r1").unwrap()).unwrap().unwrap();
    assert_eq!(known.index, first.leaves[0].index);
    let mixed = Append::of(vec![Call::new(host(1), "r1").entry(), Call::new(host(1), "new").entry()]);
    assert_eq!(log.submit(mixed).unwrap(), Outcome::Stale);
}

#[test]
fn children_share_their_parents_budget_and_never_exceed_it() {
    let (_rig, log) = with_host();
    let parent = Call { budget: Some(3), ..Call::new(host(1), "p") };
    let parent = log.appended(parent.append()).leaves[0].clone();
    let child = |id: &str, budget| Call {
        parents: vec![(parent.index, parent.leaf_hash)],
        budget,
        ..Call::new(host(1), id)
    };
    log.appended(child("c1", None).append());
    assert_eq!(log.reader.budget_left(parent.index).unwrap(), Some(2));
    // Two in one Append, charged together; one more would be one too many.
    let too_many = Append::of(vec![child("c2", None).entry(), child("c3", Some(1)).entry()]);
    assert_eq!(log.submit(too_many).unwrap(), Outcome::Stale);
    let grandparent = log.appended(child("c4", Some(1)).append()).leaves[0].index;
    assert_eq!(log.reader.budget_left(parent.index).unwrap(), Some(0));
    assert_eq!(log.reader.budget_left(grandparent).unwrap(), Some(1));
    assert_eq!(log.submit(child("c5", None).append()).unwrap(), Outcome::Stale);
    // A leaf that delegates nothing has no children.
    let childless = log.appended(Call::new(host(1), "q").append()).leaves[0].clone();
    let orphan = Call { parents: vec![(childless.index, childless.leaf_hash)], ..Call::new(host(1), "o") };
    assert_eq!(log.submit(orphan.append()).unwrap(), Outcome::Stale);
}

#[test]
fn a_join_token_admits_one_host_until_it_expires() {
    let (rig, log) = Rig::begun();
    let (first, made) = token(1, NOW + 60_000);
    let (late, made_late) = token(2, NOW + 10);
    log.appended(Append::of(vec![made, made_late]));
    rig.clock.advance(11);
    let join = |host_number: u8, token| Append {
        guards: vec![Guard::HostAbsent(host(host_number))],
        spends: vec![Spend::JoinToken(token), Spend::Enrolment([host_number; 16])],
        ..Append::of(vec![enrolment(host(host_number), host_number, 1, Some(token))])
    };
    let index = log.appended(join(1, first)).leaves[0].index;
    assert_eq!(log.reader.join_token(&first).unwrap().unwrap().spent_by, Some(index));
    for (number, bad) in [(2, first), (3, late), (4, Sha256Digest::new([99; 32]))] {
        assert_eq!(log.submit(join(number, bad)).unwrap(), Outcome::Spent(Spend::JoinToken(bad)));
    }
    let again = Append { spends: vec![Spend::Enrolment([1; 16])], ..Append::of(vec![epoch(1)]) };
    assert_eq!(log.submit(again).unwrap(), Outcome::Spent(Spend::Enrolment([1; 16])));
}

#[test]
fn a_host_key_belongs_to_one_host() {
    let (_rig, log) = with_host();
    assert_eq!(log.submit(Append::of(vec![enrolment(host(2), 1, 1, None)])).unwrap(), Outcome::Stale);
    let both = Append::of(vec![enrolment(host(2), 2, 1, None), enrolment(host(3), 2, 1, None)]);
    assert_eq!(log.submit(both).unwrap(), Outcome::Stale);
    // A new key of the same host replaces the old one, which another host may not have had in the meantime.
    log.appended(Append::of(vec![enrolment(host(1), 7, 2, None)]));
    let owner = |key| log.reader.host_of_key(&super::support::host_key(key).thumbprint()).unwrap();
    assert_eq!((owner(7), owner(1)), (Some(host(1)), None));
    assert_eq!(log.reader.host(&host(1)).unwrap().unwrap().state.version, 2);
}

#[test]
fn of_one_version_the_largest_tpm_clock_stays() {
    let (_rig, log) = with_host();
    let told = |id: &str, version, clock_ms| {
        let call = Call { state: state(version, clock_ms), ..Call::new(host(1), id) };
        log.appended(Append::of(vec![call.entry()]));
        log.reader.host(&host(1)).unwrap().unwrap().state
    };
    assert_eq!(told("a", 1, 5_000).clock_ms, 5_000);
    assert_eq!(told("b", 1, 4_000).clock_ms, 5_000);
    assert_eq!((told("c", 2, 100).version, told("d", 2, 200).clock_ms), (2, 200));
    // A leaf about a boot that is over changes nothing.
    assert_eq!(told("e", 1, 9_000), state(2, 200));
}

#[test]
fn a_control_leaf_that_does_not_follow_refuses_its_append_alone() {
    let (_rig, log) = Rig::begun();
    let before = log.size();
    let refused = log.submit(Append::of(vec![epoch(1), epoch(3)])).unwrap();
    assert_eq!(refused, Outcome::Refused(ControlError::Epoch { current: 1, found: 3 }));
    assert_eq!((log.size(), log.sequencer.control().epoch()), (before, 0));
    log.appended(Append { guards: vec![Guard::Control(2)], ..Append::of(vec![epoch(1)]) });
    assert_eq!(log.sequencer.control().epoch(), 1);
    assert_eq!(log.sequencer.control().number(), 3);
    let stale = Append { guards: vec![Guard::Control(2)], ..Append::of(vec![epoch(2)]) };
    assert_eq!(log.submit(stale).unwrap(), Outcome::Stale);
}

#[test]
fn the_first_head_after_an_activation_is_signed_by_the_old_and_the_new_key() {
    let (rig, log) = Rig::begun();
    let new = std::sync::Arc::clone(&rig.spare[1]);
    rig.ring.add(&(new.clone() as std::sync::Arc<dyn crate::sign::HeadKey>));
    log.appended(Append::of(vec![introduce(&new)]));
    assert_eq!(log.sequencer.signed_head().unwrap().note().matches('\u{2014}').count(), 1);
    // Sent together, they still get a head each.
    rig.key.delay_ms.store(50, std::sync::atomic::Ordering::SeqCst);
    let held = log.sequencer.submit(Append::of(vec![epoch(1)])).unwrap();
    let activated = log.sequencer.submit(Append::of(vec![key_event(&new, KeyEvent::Activated)])).unwrap();
    let ended = log.sequencer.submit(Append::of(vec![key_event(&rig.key, KeyEvent::Deactivated)])).unwrap();
    drop(held.wait().unwrap());
    let Outcome::Appended(both) = activated.wait().unwrap() else { panic!("not appended") };
    assert_eq!(both.head.note().matches('\u{2014}').count(), 2);
    log.check(&both);
    let Outcome::Appended(after) = ended.wait().unwrap() else { panic!("not appended") };
    assert_eq!(after.head.note().matches('\u{2014}').count(), 1);
    log.check(&after);
}

#[test]
fn malformed_appends_are_refused_before_they_are_queued() {
    let (_rig, log) = with_host();
    let check = |append: Append, expect: AppendError| {
        let found = log.sequencer.submit(append).map(|_| ());
        assert_eq!(found, Err(SequenceFault::Malformed(expect)));
    };
    let entry = Call::new(host(1), "r").entry();
    check(Append::default(), AppendError::Entries);
    check(Append::of(vec![entry.clone(); MAX_ENTRIES + 1]), AppendError::Entries);
    let blobs = vec![(sha256(b"a"), std::sync::Arc::from(&b"b"[..]))];
    check(Append { blobs, ..Append::of(vec![entry.clone()]) }, AppendError::Blob);
    check(
        Append::of(vec![Entry { charges: vec![(0, 1)], ..entry.clone() }]),
        AppendError::Charges { entry: 0 },
    );
    let other = Call::new(host(2), "r").request();
    check(
        Append::of(vec![Entry { request: Some(other), ..entry.clone() }]),
        AppendError::Request { entry: 0 },
    );
    check(
        Append { spends: vec![Spend::JoinToken(sha256(b"t"))], ..Append::of(vec![entry.clone()]) },
        AppendError::Token,
    );
    let unnamed = Append::of(vec![enrolment(host(5), 5, 1, Some(sha256(b"t")))]);
    check(unnamed, AppendError::Token);
    for kind in [Kind::Deny, Kind::Heartbeat, Kind::Key] {
        let found = log.sequencer.submit(Append::of(vec![Entry { kind, ..entry.clone() }])).map(|_| ());
        assert!(
            matches!(found, Err(SequenceFault::Malformed(AppendError::Body { entry: 0, .. }))),
            "{kind:?}"
        );
    }
}

#[test]
fn a_full_queue_says_so_and_is_counted() {
    let (mut rig, log) = Rig::begun();
    drop(log);
    rig.limits.queue = 2;
    let log = rig.open().unwrap();
    log.appended(enrol(1));
    rig.key.delay_ms.store(100, std::sync::atomic::Ordering::SeqCst);
    let mut pending = Vec::new();
    let mut refused = 0;
    for call in 0..64 {
        match log.sequencer.submit(Call::new(host(1), &format!("r{call}")).append()) {
            Ok(one) => pending.push(one),
            Err(fault) => {
                assert_eq!(fault, SequenceFault::Overloaded);
                refused += 1;
            }
        }
    }
    assert!(refused > 0);
    for one in pending {
        assert!(matches!(one.wait().unwrap(), Outcome::Appended(_)));
    }
}
