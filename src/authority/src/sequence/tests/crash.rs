//! What survives when a write fails, fails but persists, or the process ends, at every write point; and stores that come back older.

use std::collections::BTreeMap;

use aws_lc_rs::signature::Ed25519KeyPair;
use countersign_core::bundle::{
    BundleDocument, Initial, Says, Statement, StatementDocument, TrustBundle, statement_preimage,
};
use countersign_core::checkpoint::HeadBody;
use countersign_core::digest::sha256;
use countersign_core::key::JsonKey;
use countersign_core::leaf::record::{Heartbeat, HeartbeatReason};
use countersign_core::leaf::{Kind, Leaf};
use countersign_core::merkle::{
    Blake2b512Tree, Sha3_512Tree, Sha256Tree, TreeHash as _, root_of_leaf_hashes,
};
use countersign_core::name::RequestId;
use proptest::prelude::*;
use rusqlite::Connection;

use super::super::{Health, Outcome, SequenceFault, StartFault};
use super::support::{Call, Log, NOW, Rig, StoreKind, enrol, epoch, host, host_key, origin};
use super::tables::tables_are_those_of_the_leaves;
use crate::audit;
use crate::sign::HeadKey as _;
use crate::store::failpoint::{Injected, WritePoint};

pub(super) const FAILURES: [Injected; 3] = [Injected::Io, Injected::DiskFull, Injected::Died];

/// A key never signed two bodies of one size, whatever happened between.
pub(super) fn no_two_bodies_of_one_size_were_signed(rig: &Rig) {
    let mut by_size: BTreeMap<u64, String> = BTreeMap::new();
    for text in rig.key.messages.lock().unwrap().iter() {
        // Proofs of possession are signed by the same key.
        let Ok(body) = HeadBody::parse(text) else { continue };
        let first = by_size.entry(body.size).or_insert_with(|| text.clone());
        assert_eq!(first, text, "two bodies of size {}", body.size);
    }
}

/// What was committed once is there for ever, byte for byte.
fn committed_bodies_never_change(before: &BTreeMap<u64, String>, after: &BTreeMap<u64, String>) {
    for (size, body) in before {
        assert_eq!(after.get(size), Some(body), "body of size {size}");
    }
}

/// Each body names the one committed before it.
pub(super) fn bodies_form_a_chain(bodies: &BTreeMap<u64, String>) {
    let mut prev = None;
    for text in bodies.values() {
        let body = HeadBody::parse(text).unwrap();
        assert_eq!(Some(body.prev), prev.or(Some(countersign_core::digest::Sha256Digest::ZERO)));
        prev = Some(sha256(text.as_bytes()));
    }
}

/// A request has at most one leaf.
fn leaves_of(log: &Log, call: &Call) -> usize {
    let leaves = log.reader.leaves(0, 1_000).unwrap();
    let body = call.body();
    leaves.iter().filter(|bytes| Leaf::parse(bytes).unwrap().body == body).count()
}

/// Every head in the store is that of the leaves in it, in all three trees, and no leaf is elsewhere than it says.
pub(super) fn every_head_is_that_of_the_leaves(log: &Log) {
    let leaves = log.reader.leaves(0, 1_000).unwrap();
    for (index, bytes) in (0_u64..).zip(&leaves) {
        assert_eq!(Leaf::parse(bytes).unwrap().index, index);
    }
    let sha256: Vec<_> = leaves.iter().map(|leaf| Sha256Tree::leaf_hash(leaf)).collect();
    let sha3: Vec<_> = leaves.iter().map(|leaf| Sha3_512Tree::leaf_hash(leaf)).collect();
    let blake2: Vec<_> = leaves.iter().map(|leaf| Blake2b512Tree::leaf_hash(leaf)).collect();
    for head in log.reader.heads(0, 1_000).unwrap() {
        let (body, size) = (head.body(), usize::try_from(head.body().size).unwrap());
        assert_eq!(body.sha256_root, root_of_leaf_hashes::<Sha256Tree>(&sha256[..size]));
        assert_eq!(body.sha3_root, root_of_leaf_hashes::<Sha3_512Tree>(&sha3[..size]));
        assert_eq!(body.blake2_root, root_of_leaf_hashes::<Blake2b512Tree>(&blake2[..size]));
    }
    assert_eq!(log.size(), leaves.len() as u64);
}

/// What an auditor is given beforehand: the recovery key, and the head keys that it names.
fn bundle(rig: &Rig) -> TrustBundle {
    let text = |bytes: &[u8]| data_encoding::BASE64URL_NOPAD.encode(bytes);
    let statement = Statement {
        number: 1,
        origin: origin(),
        time_ms: NOW,
        says: Says::Initial(Initial {
            head_keys: [&rig.key, &rig.spare[0], &rig.spare[1]]
                .map(|key| key.verifying_key().clone())
                .to_vec(),
            ca_certificates: vec![vec![1]],
            officers: vec![host_key(201).thumbprint()],
            lease_secs: 30,
        }),
    };
    let statement = statement.encode();
    let pair = Ed25519KeyPair::from_seed_unchecked(&[200; 32]).unwrap();
    let signature = text(pair.sign(&statement_preimage(&statement)).as_ref());
    let document = BundleDocument {
        v: 1,
        origin: origin().as_str().to_owned(),
        trust_domain: "test.example".to_owned(),
        recovery_key: JsonKey::from(rig.recovery.clone()),
        statements: vec![StatementDocument { statement: text(&statement), signature }],
    };
    TrustBundle::verify(&serde_json::to_vec(&document).unwrap()).unwrap()
}

/// The whole log verifies as it does for an auditor who has the trust bundle and nothing else.
fn an_audit_finds_nothing(rig: &Rig, log: &Log) {
    let source = audit::StoreLog::new(log.reader.as_ref()).unwrap();
    let report = audit::verify(&source, &bundle(rig), &mut |_| {}).unwrap();
    assert_eq!((report.leaves, source.size()), (log.size(), log.size()));
}

/// The newest head of a serving log is under a signature.
fn newest_head_is_signed(log: &Log) {
    let newest = log.reader.newest_committed().unwrap().unwrap().head;
    let signed = log.reader.newest_signed().unwrap().unwrap();
    assert_eq!(newest.digest(), signed.digest());
    assert_eq!(log.sequencer.signed_head().unwrap().digest(), signed.digest());
}

/// Runs one call into an armed failure, restarts, tries the call again; checks every invariant on the way.
fn crash_once(rig: &Rig, log: Log, id: &str, point: WritePoint, failure: Injected) -> Log {
    let call = Call::new(host(1), id);
    let signed = rig.key.messages.lock().unwrap().len();
    rig.arm(point, failure);
    let answer = log.submit(call.append());
    assert!(rig.failpoints.hit.load(std::sync::atomic::Ordering::SeqCst), "{point:?} wasn't reached");
    // Nothing leaves after a failure, even if all that failed was to learn of a success.
    assert!(matches!(answer, Err(fault) if fault != SequenceFault::Overloaded), "{point:?} {failure:?}");
    if matches!(point, WritePoint::BeforeMemory | WritePoint::AfterMemory) {
        // No key sees a body before it is remembered.
        assert_eq!(rig.key.messages.lock().unwrap().len(), signed, "{point:?} {failure:?}");
    }
    let bodies = log.bodies();
    drop(log);
    tables_are_those_of_the_leaves(rig);

    let log = rig.open().unwrap();
    committed_bodies_never_change(&bodies, &log.bodies());
    log.wait_for(Health::Serving);
    newest_head_is_signed(&log);
    let persisted = leaves_of(&log, &call);
    match log.submit(call.append()).unwrap() {
        Outcome::Appended(receipts) => {
            assert_eq!(persisted, 0, "{point:?} {failure:?}");
            log.check(&receipts);
        }
        Outcome::Existing(receipts) => {
            assert_eq!(persisted, 1, "{point:?} {failure:?}");
            log.check(&receipts);
        }
        other => panic!("{point:?} {failure:?}: {other:?}"),
    }
    assert_eq!(leaves_of(&log, &call), 1);
    every_head_is_that_of_the_leaves(&log);
    bodies_form_a_chain(&log.bodies());
    no_two_bodies_of_one_size_were_signed(rig);
    an_audit_finds_nothing(rig, &log);
    log
}

#[test]
fn every_write_point_may_fail_in_every_way() {
    for store in StoreKind::ALL {
        let (rig, mut log) = Rig::begun_in(store);
        log.appended(enrol(1));
        for point in WritePoint::BATCH {
            for failure in FAILURES {
                log = crash_once(&rig, log, &format!("{point:?}-{failure:?}"), point, failure);
            }
        }
    }
}

#[test]
fn a_store_that_was_restored_under_a_serving_process_is_not_built_upon() {
    for store in StoreKind::ALL {
        let (rig, log) = Rig::begun_in(store);
        log.appended(enrol(1));
        rig.tamper("CREATE TABLE backup AS SELECT * FROM frontier;");
        log.appended(Call::new(host(1), "r1").append());
        let signed = rig.key.messages.lock().unwrap().len();
        rig.tamper(
            "UPDATE frontier SET size = (SELECT size FROM backup), sha256 = (SELECT sha256 FROM backup),
             sha3_512 = (SELECT sha3_512 FROM backup), blake2b_512 = (SELECT blake2b_512 FROM backup);
             DELETE FROM signature WHERE size > (SELECT size FROM backup);
             DELETE FROM head WHERE size > (SELECT size FROM backup);
             DELETE FROM leaf WHERE idx >= (SELECT size FROM backup);
             DELETE FROM leaf_hash WHERE idx >= (SELECT size FROM backup); DELETE FROM outcome;",
        );
        assert_eq!(log.submit(Call::new(host(1), "r1").append()), Err(SequenceFault::Stopped), "{store:?}");
        log.wait_for(Health::Failed);
        assert_eq!(rig.key.messages.lock().unwrap().len(), signed);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn any_row_of_failures_keeps_every_invariant(
        failures in prop::collection::vec((0_usize..WritePoint::BATCH.len(), 0_usize..FAILURES.len()), 1..6),
    ) {
        let (rig, mut log) = Rig::begun();
        log.appended(enrol(1));
        for (at, (point, failure)) in failures.into_iter().enumerate() {
            log = crash_once(&rig, log, &format!("r{at}"), WritePoint::BATCH[point], FAILURES[failure]);
            rig.clock.advance(10);
        }
    }
}

#[test]
fn a_body_committed_and_unsigned_stays_and_comes_under_a_signed_head() {
    let (rig, log) = Rig::begun();
    log.appended(enrol(1));
    let signed = log.sequencer.signed_head().unwrap().size();
    rig.arm(WritePoint::AfterCommit, Injected::Died);
    let call = Call::new(host(1), "r1");
    assert_eq!(log.submit(call.append()), Err(SequenceFault::Stopped));
    let unsigned = log.reader.newest_committed().unwrap().unwrap().head;
    assert_eq!((unsigned.body().size, unsigned.signatures().len()), (signed + 1, 0));
    drop(log);

    let log = rig.open().unwrap();
    let kept = log.reader.head(signed + 1).unwrap().unwrap();
    assert_eq!(kept.text(), unsigned.text());
    // Signed is the body of the start heartbeat, which this process committed itself, and which names the other one.
    let newest = log.sequencer.signed_head().unwrap();
    assert_eq!((newest.size(), newest.body().prev), (signed + 2, *unsigned.digest()));
    let beat = Leaf::parse(&log.reader.leaf(signed + 1).unwrap().unwrap()).unwrap();
    assert_eq!(beat.kind, Kind::Heartbeat);
    assert_eq!(Heartbeat::parse(&beat.body).unwrap().0, HeartbeatReason::Start);
    let known = log.reader.outcome(&host(1), &RequestId::parse("r1").unwrap()).unwrap().unwrap();
    assert_eq!(known.index, signed);
    let Outcome::Existing(receipts) = log.submit(call.append()).unwrap() else { panic!("not handed out") };
    log.check(&receipts);
}

#[test]
fn nothing_found_at_start_is_signed_before_a_commit_of_ones_own() {
    let (rig, log) = Rig::begun();
    log.appended(enrol(1));
    rig.arm(WritePoint::AfterCommit, Injected::Died);
    assert!(log.submit(Call::new(host(1), "r1").append()).is_err());
    drop(log);
    let before = rig.key.messages.lock().unwrap().len();
    // The clock is behind the log, so the start heartbeat can't be committed.
    rig.clock.set_wall(NOW - 60_000);
    let log = rig.open().unwrap();
    log.wait_for(Health::ClockUnreliable);
    assert_eq!(rig.key.messages.lock().unwrap().len(), before);
    rig.clock.set_wall(NOW);
    drop(log);
    let log = rig.open().unwrap();
    log.wait_for(Health::Serving);
    newest_head_is_signed(&log);
}

#[test]
fn a_store_that_was_rolled_back_is_not_signed() {
    let (rig, log) = Rig::begun();
    log.appended(enrol(1));
    drop(log);
    let backup = tempfile::tempdir().unwrap();
    rig.copy_store(backup.path());
    let log = rig.open().unwrap();
    log.appended(Call::new(host(1), "r1").append());
    let size = log.size();
    drop(log);
    let signed = rig.key.messages.lock().unwrap().len();
    rig.restore_store(backup.path());
    match rig.open().map(|_| ()) {
        Err(StartFault::RolledBack { store, remembered }) => {
            assert!(store < remembered && remembered == size)
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(rig.key.messages.lock().unwrap().len(), signed);
}

#[test]
fn a_store_that_tells_another_story_is_not_signed() {
    let (rig, log) = Rig::begun();
    log.appended(enrol(1));
    drop(log);
    let backup = tempfile::tempdir().unwrap();
    rig.copy_store(backup.path());
    std::fs::copy(rig.path("memory"), backup.path().join("memory")).unwrap();
    let log = rig.open().unwrap();
    log.appended(Call::new(host(1), "mine").append());
    drop(log);
    // The backup goes on elsewhere, with a copy of the memory, and comes back at the same size.
    let newest = backup.path().join("newest");
    std::fs::copy(rig.path("memory"), &newest).unwrap();
    rig.restore_store(backup.path());
    std::fs::copy(backup.path().join("memory"), rig.path("memory")).unwrap();
    let log = rig.open().unwrap();
    log.appended(Call::new(host(1), "theirs").append());
    let size = log.size();
    drop(log);
    std::fs::copy(&newest, rig.path("memory")).unwrap();
    assert!(matches!(rig.open().map(|_| ()), Err(StartFault::Forked(at)) if at == size));
}

#[test]
fn a_memory_older_than_a_signed_head_is_not_believed() {
    let (rig, log) = Rig::begun();
    drop(log);
    let old = std::fs::read(rig.path("memory")).unwrap();
    let log = rig.open().unwrap();
    log.appended(enrol(1));
    log.appended(enrol(2));
    drop(log);
    std::fs::write(rig.path("memory"), old).unwrap();
    assert!(matches!(rig.open().map(|_| ()), Err(StartFault::MemoryOlder { .. })));
    std::fs::remove_file(rig.path("memory")).unwrap();
    crate::sign::SignerMemory::create(&rig.path("memory")).unwrap();
    assert!(matches!(rig.open().map(|_| ()), Err(StartFault::MemoryOlder { remembered: 0, .. })));
}

#[test]
fn a_store_that_contradicts_itself_is_not_served() {
    let check = |sql: &str, expect: fn(&StartFault) -> bool| {
        let (rig, log) = Rig::begun();
        log.appended(enrol(1));
        log.appended(super::super::Append::of(vec![epoch(1)]));
        drop(log);
        let connection = Connection::open(rig.database()).unwrap();
        assert_eq!(connection.execute(sql, []).unwrap(), 1, "{sql}");
        connection.close().unwrap();
        let fault = rig.open().err().unwrap();
        assert!(expect(&fault), "{sql}: {fault:?}");
    };
    check("UPDATE leaf_hash SET hashes = zeroblob(160) WHERE idx = 1", |fault| {
        matches!(fault, StartFault::Inconsistent(_))
    });
    check("DELETE FROM leaf_hash WHERE idx = 1", |fault| matches!(fault, StartFault::Read(_)));
    check("DELETE FROM control WHERE number = 3", |fault| matches!(fault, StartFault::Contradiction(_)));
    check("UPDATE leaf SET bytes = x'00' WHERE idx = 0", |fault| {
        matches!(fault, StartFault::Control { number: 1, .. })
    });
    check("UPDATE frontier SET sha3_512 = (SELECT blake2b_512 FROM frontier)", |fault| {
        matches!(fault, StartFault::Contradiction(_))
    });
    check("UPDATE head SET body = body || 'x' WHERE size = (SELECT max(size) FROM head)", |fault| {
        matches!(fault, StartFault::Read(_))
    });
}
