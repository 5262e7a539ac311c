//! What floods may and may not hold up.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use countersign_core::digest::sha256;
use countersign_core::leaf::record::{Heartbeat, HeartbeatReason};
use countersign_core::leaf::{Kind, Leaf};
use countersign_fixture::wait_until;

use super::super::{Health, Outcome, SequenceFault};
use super::support::{Call, DEADLINE, Log, Rig, enrol, host};
use crate::store::failpoint::{Injected, WritePoint};

fn with_queue(queue: usize) -> (Rig, Log) {
    let (mut rig, log) = Rig::begun();
    drop(log);
    rig.limits.queue = queue;
    let log = rig.open().unwrap();
    log.appended(enrol(1));
    (rig, log)
}

fn idle_heartbeats(log: &Log) -> usize {
    let leaves = log.reader.leaves(0, 1_000).unwrap();
    let leaves = leaves.iter().map(|bytes| Leaf::parse(bytes).unwrap());
    let idle = Heartbeat(HeartbeatReason::Idle).encode();
    leaves.filter(|leaf| leaf.kind == Kind::Heartbeat && leaf.body == idle).count()
}

#[test]
fn a_full_queue_does_not_keep_heartbeats_out() {
    let (rig, log) = with_queue(1);
    rig.key.delay_ms.store(100, Ordering::SeqCst);
    let mut pending = Vec::new();
    let mut call = 0;
    // The thread is in the middle of a signature, and its queue has no place left.
    let refused = loop {
        call += 1;
        match log.sequencer.submit(Call::new(host(1), &format!("r{call}")).append()) {
            Ok(one) => pending.push(one),
            Err(fault) => break fault,
        }
    };
    assert_eq!(refused, SequenceFault::Overloaded);
    log.sequencer.heartbeat(Duration::ZERO).unwrap();
    for one in pending {
        assert!(matches!(one.wait().unwrap(), Outcome::Appended(_)));
    }
    log.appended(Call::new(host(1), "last").append());
    assert_eq!(idle_heartbeats(&log), 1);
}

#[test]
fn desk_jobs_take_no_place_from_appends() {
    let (rig, log) = with_queue(4);
    rig.key.delay_ms.store(200, Ordering::SeqCst);
    let slow = log.sequencer.submit(Call::new(host(1), "slow").append()).unwrap();
    let blob: Arc<[u8]> = Arc::from(&b"blob"[..]);
    let refused = (0..1_000).map(|_| log.sequencer.put_blobs(vec![(sha256(&blob), Arc::clone(&blob))]));
    assert!(refused.into_iter().any(|written| matches!(written, Err(SequenceFault::Overloaded))));
    let beside = log.sequencer.submit(Call::new(host(1), "beside").append()).unwrap();
    for pending in [slow, beside] {
        assert!(matches!(pending.wait().unwrap(), Outcome::Appended(_)));
    }
}

#[test]
fn a_flood_of_desk_jobs_does_not_hold_a_batch_up() {
    let (_rig, log) = with_queue(64);
    let (over, flooded) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let blob: Arc<[u8]> = Arc::from(&b"blob"[..]);
                while !over.load(Ordering::SeqCst) {
                    if log.sequencer.put_blobs(vec![(sha256(&blob), Arc::clone(&blob))]).is_ok() {
                        flooded.fetch_add(1, Ordering::SeqCst);
                    }
                }
            });
        }
        while flooded.load(Ordering::SeqCst) < 100 {
            std::thread::yield_now();
        }
        // The flood ends only when this has its answer.
        let outcome = log.submit(Call::new(host(1), "amid").append());
        over.store(true, Ordering::SeqCst);
        assert!(matches!(outcome.unwrap(), Outcome::Appended(_)));
    });
}

#[test]
fn what_waits_when_the_thread_ends_is_told_so() {
    let (rig, log) = with_queue(64);
    rig.key.delay_ms.store(200, Ordering::SeqCst);
    rig.arm(WritePoint::BeforeAttach, Injected::Died);
    let before = log.size();
    let first = log.sequencer.submit(Call::new(host(1), "first").append()).unwrap();
    // These wait in their queues while the first one is signed, or come too late.
    assert!(wait_until(DEADLINE, || log.size() > before));
    let calls = (0..5).map(|n| log.sequencer.submit(Call::new(host(1), &format!("r{n}")).append()));
    let calls: Vec<_> = std::iter::once(Ok(first)).chain(calls).collect();
    let blob: Arc<[u8]> = Arc::from(&b"blob"[..]);
    let written = log.sequencer.put_blobs(vec![(sha256(&blob), blob)]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        for call in calls.into_iter().filter_map(Result::ok) {
            let told = tokio::time::timeout(DEADLINE, call.outcome()).await;
            assert_eq!(told.expect("told nothing"), Err(SequenceFault::Stopped));
        }
        if let Ok(written) = written {
            let told = tokio::time::timeout(DEADLINE, written.done()).await.expect("told nothing");
            assert_eq!(told, Err(SequenceFault::Stopped));
        }
    });
    log.wait_for(Health::Failed);
    assert!(log.sequencer.submit(Call::new(host(1), "late").append()).is_err());
    assert!(wait_until(DEADLINE, || log.sequencer.heartbeat(Duration::ZERO).is_err()));
}
