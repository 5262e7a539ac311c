//! Faults that are normal: what is answered, what is logged, how it heals without a restart.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use countersign_core::key::Algorithm;
use countersign_core::leaf::control::KeyEvent;
use countersign_core::leaf::record::{Faults, Heartbeat, HeartbeatReason};
use countersign_core::leaf::{Kind, Leaf};
use countersign_core::refusal::RefusalCode;

use super::super::{Append, Health, Outcome, SequenceFault};
use super::support::{Call, DEADLINE, Log, NOW, Rig, SoftwareKey, enrol, epoch, host, introduce, key_event};
use crate::sign::HeadKey;
use crate::store::failpoint::{Injected, WritePoint};

/// Waits for a leaf of this kind at or after `from`.
fn leaf_of(log: &Log, kind: Kind, from: u64) -> Leaf {
    let end = Instant::now() + DEADLINE;
    loop {
        let leaves = log.reader.leaves(from, 1_000).unwrap();
        let found = leaves.iter().map(|bytes| Leaf::parse(bytes).unwrap()).find(|leaf| leaf.kind == kind);
        if let Some(leaf) = found {
            return leaf;
        }
        assert!(Instant::now() < end, "no {} leaf", kind.name());
        std::thread::yield_now();
    }
}

fn counted(log: &Log, code: RefusalCode, from: u64) -> u64 {
    let faults = Faults::parse(&leaf_of(log, Kind::Faults, from).body).unwrap();
    faults.counts.get(&code).copied().unwrap_or(0)
}

fn signer_fails_and_heals(break_it: impl Fn(&SoftwareKey, bool)) {
    let (rig, log) = Rig::begun();
    log.appended(enrol(1));
    let before = log.size();
    break_it(&rig.key, true);
    let call = Call::new(host(1), "r1");
    // This one is in the log and isn't handed out.
    assert_eq!(log.submit(call.append()), Err(SequenceFault::SignerUnavailable));
    log.wait_for(Health::SignerDown);
    assert_eq!(log.size(), before + 1);
    // These are refused before they are appended, whatever they are.
    for id in ["r1", "r2", "r3"] {
        assert_eq!(log.submit(Call::new(host(1), id).append()), Err(SequenceFault::SignerUnavailable));
    }
    assert_eq!(log.size(), before + 1);
    assert_eq!(log.sequencer.signed_head().unwrap().size(), before);
    break_it(&rig.key, false);
    log.wait_for(Health::Serving);
    let Outcome::Existing(receipts) = log.submit(call.append()).unwrap() else { panic!("not handed out") };
    log.check(&receipts);
    assert_eq!(receipts.leaves[0].index, before);
    let beat = leaf_of(&log, Kind::Heartbeat, before);
    assert_eq!(Heartbeat::parse(&beat.body).unwrap().0, HeartbeatReason::SignerBack);
    assert_eq!(counted(&log, RefusalCode::SignerUnavailable, before), 3);
}

#[test]
fn a_signer_that_is_away_closes_the_door_until_a_probe_signs() {
    signer_fails_and_heals(|key, broken| key.away.store(broken, Ordering::SeqCst));
}

#[test]
fn a_signer_that_is_away_at_start_does_not_keep_the_log_from_starting() {
    let (rig, log) = Rig::begun();
    drop(log);
    rig.key.away.store(true, Ordering::SeqCst);
    let log = rig.open().unwrap();
    assert_eq!(*log.sequencer.health().borrow(), Health::SignerDown);
    assert_eq!(log.submit(enrol(1)), Err(SequenceFault::SignerUnavailable));
    rig.key.away.store(false, Ordering::SeqCst);
    log.wait_for(Health::Serving);
    log.appended(enrol(1));
}

#[test]
fn a_signature_that_does_not_verify_is_never_released() {
    signer_fails_and_heals(|key, broken| key.lies.store(broken, Ordering::SeqCst));
}

#[test]
fn a_log_without_space_refuses_counts_and_heals() {
    let (rig, log) = Rig::begun();
    log.appended(enrol(1));
    let before = log.size();
    rig.arm(WritePoint::BeforeCommit, Injected::DiskFull);
    let call = Call::new(host(1), "r1");
    assert_eq!(log.submit(call.append()), Err(SequenceFault::LogUnavailable));
    let receipts = log.appended(call.append());
    assert!(receipts.leaves[0].index >= before);
    log.wait_for(Health::Serving);
    assert_eq!(counted(&log, RefusalCode::LogUnavailable, before), 1);
}

#[test]
fn a_signature_that_finds_no_space_is_made_again() {
    let (rig, log) = Rig::begun();
    log.appended(enrol(1));
    rig.arm(WritePoint::BeforeAttach, Injected::DiskFull);
    let call = Call::new(host(1), "r1");
    assert_eq!(log.submit(call.append()), Err(SequenceFault::SignerUnavailable));
    log.wait_for(Health::Serving);
    let Outcome::Existing(receipts) = log.submit(call.append()).unwrap() else { panic!("not handed out") };
    log.check(&receipts);
}

#[test]
fn a_clock_behind_the_log_or_jumped_stops_issuing_until_it_is_back() {
    for step in [-10_000_i64, 3_600_000] {
        let (rig, log) = Rig::begun();
        log.appended(enrol(1));
        let before = log.size();
        rig.clock.set_wall(NOW.saturating_add_signed(step));
        let call = Call::new(host(1), "r1");
        assert_eq!(log.submit(call.append()), Err(SequenceFault::ClockUnreliable));
        log.wait_for(Health::ClockUnreliable);
        assert_eq!(log.size(), before);
        rig.clock.set_wall(NOW);
        let receipts = log.appended(call.append());
        assert_eq!(receipts.head.body().time_ms, NOW);
        log.wait_for(Health::Serving);
        assert_eq!(counted(&log, RefusalCode::ClockUnreliable, before), 1);
    }
}

#[test]
fn a_deleted_or_replaced_database_ends_the_sequencer() {
    for replace in [false, true] {
        let (rig, log) = Rig::begun();
        log.appended(enrol(1));
        let kept = tempfile::tempdir().unwrap();
        rig.copy_store(kept.path());
        std::fs::remove_file(rig.database()).unwrap();
        if replace {
            std::fs::copy(kept.path().join("log.db"), rig.database()).unwrap();
        }
        let answer = log.submit(Call::new(host(1), "r1").append());
        assert_eq!(answer, Err(SequenceFault::Stopped));
        log.wait_for(Health::Failed);
        assert_eq!(log.submit(enrol(2)), Err(SequenceFault::Stopped));
    }
}

#[test]
fn a_panic_of_the_thread_is_heard() {
    let (rig, log) = Rig::begun();
    rig.key.panics.store(true, Ordering::SeqCst);
    assert_eq!(log.submit(enrol(1)), Err(SequenceFault::Stopped));
    log.wait_for(Health::Failed);
    drop(log);
    rig.key.panics.store(false, Ordering::SeqCst);
    let log = rig.open().unwrap();
    assert!(matches!(log.submit(enrol(1)), Ok(Outcome::Stale)), "committed before the panic");
}

#[test]
fn heartbeats_are_written_only_when_the_head_is_old() {
    let (rig, log) = Rig::begun();
    let before = log.size();
    log.sequencer.heartbeat(Duration::from_secs(10)).unwrap();
    rig.clock.advance(1_000);
    // A write outside of appends goes through the same queue: when it is done, so is the heartbeat.
    log.sequencer.put_blobs(Vec::new()).unwrap().wait().unwrap();
    assert_eq!(log.size(), before);
    rig.clock.advance(1_500);
    log.sequencer.count_fault(RefusalCode::RateLimited, 7);
    log.sequencer.heartbeat(Duration::from_secs(2)).unwrap();
    let beat = leaf_of(&log, Kind::Heartbeat, before);
    assert_eq!(Heartbeat::parse(&beat.body).unwrap().0, HeartbeatReason::Idle);
    assert_eq!(beat.time_ms, NOW + 2_500);
    assert_eq!(counted(&log, RefusalCode::RateLimited, before), 7);
}

#[test]
fn an_empty_log_gets_no_heartbeat() {
    let rig = Rig::empty(Algorithm::EdDsa);
    let log = rig.open().unwrap();
    rig.clock.advance(1_900);
    log.sequencer.heartbeat(Duration::ZERO).unwrap();
    log.sequencer.put_blobs(Vec::new()).unwrap().wait().unwrap();
    assert_eq!(log.size(), 0);
    assert!(log.sequencer.signed_head().is_none());
}

#[test]
fn one_of_two_active_keys_is_enough_after_they_have_met() {
    let (rig, log) = Rig::begun();
    let second = Arc::clone(&rig.spare[1]);
    rig.ring.add(&(Arc::clone(&second) as Arc<dyn HeadKey>));
    second.away.store(true, Ordering::SeqCst);
    let rotate = Append::of(vec![introduce(&second), key_event(&second, KeyEvent::Activated)]);
    // The first head after the activation needs both.
    assert_eq!(log.submit(rotate), Err(SequenceFault::SignerUnavailable));
    log.wait_for(Health::SignerDown);
    second.away.store(false, Ordering::SeqCst);
    log.wait_for(Health::Serving);
    let both = log.appended(Append::of(vec![epoch(1)]));
    assert_eq!(both.head.note().matches('\u{2014}').count(), 2);
    rig.key.away.store(true, Ordering::SeqCst);
    let one = log.appended(Append::of(vec![epoch(2)]));
    assert_eq!(one.head.note().matches('\u{2014}').count(), 1);
    assert_eq!(*log.sequencer.health().borrow(), Health::Serving);
}

#[test]
fn an_active_key_that_is_not_at_hand_is_waited_for() {
    let (rig, log) = Rig::begun();
    let second = Arc::clone(&rig.spare[0]);
    let rotate = Append::of(vec![introduce(&second), key_event(&second, KeyEvent::Activated)]);
    assert_eq!(log.submit(rotate), Err(SequenceFault::SignerUnavailable));
    log.wait_for(Health::SignerDown);
    rig.ring.add(&(Arc::clone(&second) as Arc<dyn HeadKey>));
    log.wait_for(Health::Serving);
    log.appended(Append::of(vec![epoch(1)]));
}

#[test]
fn a_head_that_no_key_may_sign_is_not_signed() {
    let (rig, log) = Rig::begun();
    let ended = Append::of(vec![key_event(&rig.key, KeyEvent::Deactivated)]);
    assert_eq!(log.submit(ended), Err(SequenceFault::SignerUnavailable));
    log.wait_for(Health::SignerDown);
    assert_eq!(log.submit(enrol(1)), Err(SequenceFault::SignerUnavailable));
}

#[test]
fn stopping_answers_what_waits_and_closes_the_store() {
    let (rig, log) = Rig::begun();
    log.appended(enrol(1));
    rig.key.delay_ms.store(50, Ordering::SeqCst);
    let waiting: Vec<_> = (0..8)
        .map(|n| log.sequencer.submit(Call::new(host(1), &format!("r{n}")).append()).unwrap())
        .collect();
    log.sequencer.stop();
    for pending in waiting {
        assert!(matches!(pending.wait().unwrap(), Outcome::Appended(_)));
    }
    // The writer's lock and the memory's are free again.
    rig.open().unwrap();
}

/// What the faults leaves from here on tell of this code.
fn told(log: &Log, code: RefusalCode, from: u64) -> u64 {
    let leaves = log.reader.leaves(from, 1_000).unwrap();
    let faults =
        leaves.iter().map(|bytes| Leaf::parse(bytes).unwrap()).filter(|leaf| leaf.kind == Kind::Faults);
    faults.filter_map(|leaf| Faults::parse(&leaf.body).unwrap().counts.get(&code).copied()).sum()
}

#[test]
fn counted_attempts_are_told_while_the_log_is_busy() {
    let (rig, log) = Rig::begun();
    log.appended(enrol(1));
    let before = log.size();
    log.sequencer.count_fault(RefusalCode::QuoteSignatureInvalid, 3);
    for second in 0..=10 {
        // No head is ever old enough for a heartbeat.
        log.sequencer.heartbeat(Duration::from_secs(10)).unwrap();
        log.appended(Call::new(host(1), &format!("r{second}")).append());
        rig.clock.advance(1_000);
    }
    log.appended(Call::new(host(1), "last").append());
    assert_eq!(told(&log, RefusalCode::QuoteSignatureInvalid, before), 3);
    let leaves = log.reader.leaves(before, 1_000).unwrap();
    assert!(leaves.iter().all(|bytes| Leaf::parse(bytes).unwrap().kind != Kind::Heartbeat));
}

#[test]
fn counted_attempts_are_told_before_the_end() {
    let (_rig, log) = Rig::begun();
    let before = log.size();
    log.sequencer.count_fault(RefusalCode::ChallengeInvalid, 7);
    let Log { sequencer, reader } = log;
    sequencer.stop();
    let leaves = reader.leaves(before, 1_000).unwrap();
    let leaf = Leaf::parse(leaves.last().unwrap()).unwrap();
    assert_eq!(Faults::parse(&leaf.body).unwrap().counts.get(&RefusalCode::ChallengeInvalid), Some(&7));
    let signed = crate::store::newest_signed_head(reader.as_ref()).unwrap().unwrap();
    assert!(signed.size() > leaf.index, "the last leaf isn't under a signed head");
}

#[test]
fn while_halted_nothing_is_appended_signed_or_handed_out() {
    let (rig, log) = Rig::begun();
    log.appended(enrol(1));
    // Committed before, and being signed when it is halted: not handed out.
    let (before, call) = (log.size(), Call::new(host(1), "r1"));
    rig.key.delay_ms.store(300, Ordering::SeqCst);
    let pending = log.sequencer.submit(call.append()).unwrap();
    let committed = || log.size() > before;
    assert!(countersign_fixture::wait_until(DEADLINE, committed));
    rig.halt.store(true, Ordering::SeqCst);
    assert_eq!(pending.wait(), Err(SequenceFault::Halted));
    rig.key.delay_ms.store(0, Ordering::SeqCst);
    let (size, signed) = (log.size(), rig.key.messages.lock().unwrap().len());
    log.sequencer.count_fault(RefusalCode::ChallengeInvalid, 1);
    log.sequencer.heartbeat(Duration::ZERO).unwrap();
    for id in ["r1", "r2"] {
        assert_eq!(log.submit(Call::new(host(1), id).append()), Err(SequenceFault::Halted));
    }
    assert_eq!((log.size(), rig.key.messages.lock().unwrap().len()), (size, signed));
    // A process that begins has its one leaf and head, so that it has something to show; nothing after it.
    drop(log);
    let log = rig.open().unwrap();
    assert_eq!((log.size(), log.submit(call.append())), (size + 1, Err(SequenceFault::Halted)));
    rig.halt.store(false, Ordering::SeqCst);
    let Outcome::Existing(receipts) = log.submit(call.append()).unwrap() else { panic!("decided twice") };
    log.check(&receipts);
    assert_eq!(receipts.leaves[0].index, before);
}
