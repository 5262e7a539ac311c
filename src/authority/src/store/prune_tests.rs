//! What goes and what stays, in every store; what a pruning that is cut short leaves, and what one beside a serving authority does.

use super::{LogReader as _, OpenFault, PrunePlan, Pruning, Reader};
use crate::clock::Clock as _;
use crate::sequence::tests::support::{Call, Log, NOW, Rig, StoreKind, enrol, host};
use crate::sequence::{Append, Entry, Outcome};
use countersign_core::digest::{Sha256Digest, sha256};
use countersign_core::document::{Generation, Lifetime, ReferencesDocument};
use countersign_core::leaf::Kind;
use countersign_core::leaf::control::EpochRecord;
use countersign_core::record::{EvidenceRecord, ImaEntries};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Every artifact of these tests ends a minute after `NOW`.
const ENDED: u64 = NOW + 61_000;

struct Made {
    evidence: Sha256Digest,
    request: Sha256Digest,
    boot_log: Sha256Digest,
    list: Sha256Digest,
    ima: Sha256Digest,
}

/// An artifact with all its members, at this time after `NOW`.
fn draft(rig: &Rig, number: u8, id: &str, boot_log: &[u8], after_ms: u64) -> (Append, Made) {
    rig.clock.advance((NOW + after_ms).saturating_sub(rig.clock.now_ms()));
    let (list, ima) = (format!("list of {id}").into_bytes(), format!("state of {id}").into_bytes());
    let record = EvidenceRecord {
        challenge: id.as_bytes().to_vec(),
        attest: vec![1],
        signature: vec![2],
        bank: 11,
        pcrs: vec![(7, vec![7; 32])],
        boot_log: Some(sha256(boot_log)),
        requests: Vec::new(),
        ima: Some(ImaEntries { from: 0, column: 11, list: sha256(&list) }),
    };
    let mut call = Call::new(host(number), id);
    call.evidence = record.digest();
    call.state.evidence = Some(record.digest());
    call.state.boot_log = Some(sha256(boot_log));
    call.state.ima = Some(sha256(&ima));
    call.state.clock_ms += after_ms;
    let request = format!("{}/{id}/0", host(number)).into_bytes();
    let made = Made {
        evidence: record.digest(),
        request: sha256(&request),
        boot_log: sha256(boot_log),
        list: sha256(&list),
        ima: sha256(&ima),
    };
    let mut append = call.append();
    append.guards.clear();
    for bytes in [request, boot_log.to_vec(), list, ima, record.encode()] {
        append.blobs.push((sha256(&bytes), bytes.into()));
    }
    (append, made)
}

fn artifact(rig: &Rig, log: &Log, number: u8, id: &str, boot_log: &[u8], after_ms: u64) -> Made {
    let (append, made) = draft(rig, number, id, boot_log, after_ms);
    log.appended(append);
    made
}

fn has(reader: &dyn Reader, digest: &Sha256Digest) -> bool {
    reader.blob(digest).unwrap().is_some_and(|bytes| sha256(&bytes) == *digest)
}

/// Which of request, evidence, boot log and IMA entries are there. What isn't is recorded as pruned; the IMA state is always there.
fn kept(rig: &Rig, made: &Made) -> [bool; 4] {
    kept_in(&*rig.place.open_reader().unwrap(), made)
}

fn kept_in(reader: &dyn Reader, made: &Made) -> [bool; 4] {
    assert!(has(reader, &made.ima));
    [made.request, made.evidence, made.boot_log, made.list].map(|digest| {
        let there = has(reader, &digest);
        assert!(there || reader.pruned(&digest).unwrap().is_some());
        there
    })
}

fn plan(before_ms: u64, now_ms: u64) -> PrunePlan {
    PrunePlan { before_ms, now_ms, dry_run: false }
}

fn pruned(rig: &Rig, plan: &PrunePlan) -> Pruning {
    rig.place.prune(plan, &mut |_| {}).unwrap()
}

fn leaves(rig: &Rig) -> Vec<Vec<u8>> {
    rig.place.open_reader().unwrap().leaves(0, 1_000).unwrap()
}

fn prunings(rig: &Rig) -> Vec<Pruning> {
    rig.place.open_reader().unwrap().prunings().unwrap()
}

const ALL: [bool; 4] = [true; 4];
const NONE: [bool; 4] = [false; 4];

/// In every store, with the authority serving all the while and with it stopped.
fn everywhere(check: impl Fn(Rig, Log, &dyn Fn(Log) -> Option<Log>)) {
    for store in StoreKind::ALL {
        for serves in [true, false] {
            let (rig, log) = Rig::begun_in(store);
            log.appended(enrol(1));
            log.appended(enrol(2));
            check(rig, log, &|log| {
                if serves {
                    return Some(log);
                }
                log.sequencer.stop();
                None
            });
        }
    }
}

#[test]
fn what_nothing_living_names_goes_and_everything_else_stays() {
    everywhere(|rig, log, before_pruning| {
        let old = artifact(&rig, &log, 1, "old", b"first boot", 1_000);
        let shared = artifact(&rig, &log, 1, "shared", b"second boot", 2_000);
        let idle = artifact(&rig, &log, 2, "idle", b"other boot", 3_000);
        let young = artifact(&rig, &log, 1, "young", b"second boot", 50_000);
        let before = leaves(&rig);
        let serving = before_pruning(log);
        let told = pruned(&rig, &plan(NOW + 40_000, ENDED));
        assert_eq!(kept(&rig, &old), NONE);
        assert_eq!(kept(&rig, &shared), [false, false, true, false], "its boot log is that of a younger one");
        assert_eq!(kept(&rig, &idle), [false, true, true, true], "the host rests on it, however old");
        assert_eq!(kept(&rig, &young), ALL);
        assert_eq!(leaves(&rig), before);
        assert_eq!((told.blobs, told.upto), (4 + 3 + 1, before.len() as u64));
        assert_eq!(prunings(&rig), [told]);
        let again = pruned(&rig, &plan(NOW + 40_000, ENDED));
        assert_eq!((again.blobs, again.bytes), (0, 0));
        assert_eq!(prunings(&rig).len(), 1, "a pruning of nothing isn't told");
        // The log goes on.
        let log = serving.unwrap_or_else(|| rig.open().unwrap());
        artifact(&rig, &log, 1, "later", b"second boot", 55_000);
        log.sequencer.stop();
    });
}

#[test]
fn what_an_artifact_that_has_not_ended_rests_on_stays() {
    everywhere(|rig, log, before_pruning| {
        let first = artifact(&rig, &log, 1, "first", b"boot", 1_000);
        artifact(&rig, &log, 1, "second", b"other", 2_000);
        let serving = before_pruning(log);
        assert_eq!(pruned(&rig, &plan(u64::MAX, NOW + 60_000)).blobs, 0);
        assert_eq!(kept(&rig, &first), ALL);
        assert!(pruned(&rig, &plan(u64::MAX, ENDED)).blobs > 0);
        assert_eq!(kept(&rig, &first), NONE);
        drop(serving);
    });
}

/// References captured from this evidence, activated as this epoch.
fn captured(log: &Log, epoch: u64, evidence: Sha256Digest) {
    let generation = Generation {
        bank: 11,
        pcrs: vec![(7, vec![7; 32])],
        lifetime: Lifetime::default(),
        evidence: Some(evidence),
    };
    let mut document = ReferencesDocument::default();
    document.add("fleet", generation);
    let record = EpochRecord { document: document.digest(), epoch, by: Sha256Digest::ZERO };
    let mut append = Append::of(vec![Entry::plain(Kind::References, record.encode())]);
    append.blobs.push((document.digest(), document.encode().into()));
    log.appended(append);
}

#[test]
fn what_the_references_in_force_were_captured_from_stays_but_for_its_ima_list() {
    everywhere(|rig, log, before_pruning| {
        let first = artifact(&rig, &log, 1, "first", b"first boot", 1_000);
        let second = artifact(&rig, &log, 1, "second", b"second boot", 2_000);
        captured(&log, 1, first.evidence);
        captured(&log, 2, second.evidence);
        artifact(&rig, &log, 1, "young", b"third boot", 50_000);
        let serving = before_pruning(log);
        pruned(&rig, &plan(NOW + 40_000, ENDED));
        assert_eq!(kept(&rig, &first), NONE, "earlier references tell of nothing");
        assert_eq!(kept(&rig, &second), [false, true, true, false]);
        // Once others are in force it goes, and theirs needn't be there.
        let log = serving.unwrap_or_else(|| rig.open().unwrap());
        captured(&log, 3, first.evidence);
        pruned(&rig, &plan(NOW + 40_000, ENDED));
        assert_eq!((kept(&rig, &first), kept(&rig, &second)), (NONE, NONE));
        log.sequencer.stop();
    });
}

#[test]
fn references_that_come_into_force_while_it_prunes_keep_what_they_were_captured_from() {
    for store in StoreKind::ALL {
        let (rig, log) = Rig::begun_in(store);
        log.appended(enrol(1));
        let old = artifact(&rig, &log, 1, "old", b"first boot", 1_000);
        artifact(&rig, &log, 1, "new", b"second boot", 2_000);
        let size = log.size();
        let mut activated = false;
        let mut progress = |done: u64| {
            if done == size && !std::mem::replace(&mut activated, true) {
                captured(&log, 1, old.evidence);
            }
        };
        rig.place.prune(&plan(u64::MAX, ENDED), &mut progress).unwrap();
        assert_eq!(kept(&rig, &old), [false, true, true, false]);
        log.sequencer.stop();
    }
}

#[test]
fn an_evidence_record_that_somebody_names_as_a_boot_log_keeps_its_members() {
    everywhere(|rig, log, before_pruning| {
        // Old, and what its host rests on.
        let victim = artifact(&rig, &log, 2, "victim", b"boot", 1_000);
        let named = log.reader.blob(&victim.evidence).unwrap().unwrap();
        artifact(&rig, &log, 1, "attacker", &named, 51_000);
        let serving = before_pruning(log);
        pruned(&rig, &plan(NOW + 40_000, ENDED));
        assert_eq!(kept(&rig, &victim), [false, true, true, true]);
        drop(serving);
    });
}

#[test]
fn a_state_that_a_later_decision_goes_on_from_stays_also_if_somebody_named_it_as_a_boot_log() {
    everywhere(|rig, log, before_pruning| {
        let idle = artifact(&rig, &log, 2, "idle", b"boot", 1_000);
        artifact(&rig, &log, 1, "attacker", b"state of idle", 2_000);
        artifact(&rig, &log, 1, "more", b"more", 3_000);
        artifact(&rig, &log, 2, "back", b"boot", 55_000);
        let serving = before_pruning(log);
        pruned(&rig, &plan(NOW + 40_000, ENDED));
        // `kept` looks whether the state is there.
        assert_eq!(kept(&rig, &idle), [false, false, true, false]);
        drop(serving);
    });
}

#[test]
fn a_call_that_names_what_is_pruned_meanwhile_is_told_so_and_uses_nothing_up() {
    for store in StoreKind::ALL {
        let (rig, log) = Rig::begun_in(store);
        log.appended(enrol(1));
        let old = artifact(&rig, &log, 1, "old", b"first boot", 1_000);
        artifact(&rig, &log, 1, "new", b"second boot", 2_000);
        // Verified when the first boot's log was in the store, and not appended yet.
        let (mut call, _) = draft(&rig, 1, "back-in-the-first-boot", b"first boot", 3_000);
        call.blobs.retain(|(digest, _)| *digest != old.boot_log);
        call.named.push(old.boot_log);
        assert!(pruned(&rig, &plan(u64::MAX, ENDED)).blobs > 0);
        assert_eq!(kept(&rig, &old), NONE);
        let size = log.size();
        assert_eq!(log.submit(call.clone()).unwrap(), Outcome::BlobsGone(vec![old.boot_log]));
        assert_eq!(log.size(), size);
        // The same call with the boot log, under the same challenge.
        call.named.clear();
        call.blobs.push((old.boot_log, std::sync::Arc::from(&b"first boot"[..])));
        log.appended(call);
        assert!(has(&*log.reader, &old.boot_log));
        // What the log knows again is named again without being sent.
        let (mut call, _) = draft(&rig, 1, "again-in-the-first-boot", b"first boot", 4_000);
        call.blobs.retain(|(digest, _)| *digest != old.boot_log);
        call.named.push(old.boot_log);
        log.appended(call);
        log.sequencer.stop();
    }
}

#[test]
fn what_is_appended_while_it_prunes_keeps_what_it_names() {
    for store in StoreKind::ALL {
        let (rig, log) = Rig::begun_in(store);
        log.appended(enrol(1));
        let old = artifact(&rig, &log, 1, "old", b"first boot", 1_000);
        artifact(&rig, &log, 1, "new", b"second boot", 2_000);
        let size = log.size();
        let mut named = false;
        // Between the pass that notes what stays and the one that removes: a leaf that names the oldest boot log.
        let mut progress = |done: u64| {
            if done == size && !std::mem::replace(&mut named, true) {
                let (mut call, _) = draft(&rig, 1, "between", b"first boot", 3_000);
                call.blobs.retain(|(digest, _)| *digest != old.boot_log);
                call.named.push(old.boot_log);
                log.appended(call);
            }
        };
        rig.place.prune(&plan(u64::MAX, ENDED), &mut progress).unwrap();
        assert_eq!(kept(&rig, &old), [false, false, true, false]);
        log.sequencer.stop();
    }
}

#[test]
fn a_pruning_that_is_cut_short_has_pruned_less_and_the_next_ends_it() {
    everywhere(|rig, log, before_pruning| {
        let many: Vec<Made> = (0..270)
            .map(|number| {
                artifact(&rig, &log, 1, &format!("r{number}"), format!("boot {number}").as_bytes(), number)
            })
            .collect();
        let before = leaves(&rig);
        let serving = before_pruning(log);
        let size = before.len() as u64;
        let cut = catch_unwind(AssertUnwindSafe(|| {
            let mut stop = |done| assert!(done <= size, "killed after the first page of the second pass");
            rig.place.prune(&plan(u64::MAX, ENDED), &mut stop)
        }));
        assert!(cut.is_err());
        let reader = rig.place.open_reader().unwrap();
        let found: Vec<_> = many.iter().map(|made| kept_in(&*reader, made)).collect();
        let left = found.iter().filter(|kept| **kept == ALL).count();
        assert!(left > 0 && left < many.len(), "{left}");
        // Whole artifacts went, or none of one.
        assert!(found.iter().all(|kept| [ALL, NONE].contains(kept)));
        let told = prunings(&rig);
        assert_eq!(told.len(), 1);
        assert!(told[0].blobs > 0, "the part that was done is told");
        assert_eq!(told[0].upto, size, "a boot log of the first page may be that of a leaf of the next");
        pruned(&rig, &plan(u64::MAX, ENDED));
        let (last, others) = many.split_last().unwrap();
        assert!(others.iter().all(|made| kept_in(&*reader, made) == NONE));
        assert_eq!(kept_in(&*reader, last), [false, true, true, true], "the host rests on it");
        assert_eq!(leaves(&rig), before);
        drop(serving);
    });
}

#[test]
fn a_dry_run_changes_nothing() {
    everywhere(|rig, log, before_pruning| {
        let old = artifact(&rig, &log, 1, "old", b"boot", 1_000);
        artifact(&rig, &log, 1, "new", b"other", 2_000);
        let serving = before_pruning(log);
        let dry =
            rig.place.prune(&PrunePlan { dry_run: true, ..plan(u64::MAX, ENDED) }, &mut |_| {}).unwrap();
        // All of the old one, and the request of the new one.
        assert_eq!(dry.blobs, 5);
        assert_eq!(kept(&rig, &old), ALL);
        assert_eq!(prunings(&rig), []);
        let wet = pruned(&rig, &plan(u64::MAX, ENDED));
        assert_eq!((wet.blobs, wet.bytes), (dry.blobs, dry.bytes));
        drop(serving);
    });
}

#[test]
fn a_bundle_tells_what_was_pruned_from_what_is_lost() {
    use crate::audit::make_bundle;
    use countersign_core::refusal::RefusalCode;
    everywhere(|rig, log, before_pruning| {
        let (append, old) = draft(&rig, 1, "old", b"boot", 1_000);
        let receipts = log.appended(append);
        let text = receipts.texts().next().unwrap();
        artifact(&rig, &log, 1, "new", b"other", 2_000);
        let serving = before_pruning(log);
        let code = || make_bundle(&*rig.place.open_reader().unwrap(), None, &text).unwrap_err().code();
        pruned(&rig, &plan(u64::MAX, ENDED));
        assert_eq!(code(), Some(RefusalCode::EvidencePruned));
        for lie in ["upto = 0", "before_ms = 0", "at_ms = 0"] {
            rig.tamper(&format!("UPDATE pruning SET {lie}"));
            assert_eq!(code(), Some(RefusalCode::EvidenceLost), "{lie}");
            rig.tamper(&format!(
                "UPDATE pruning SET upto = {}, before_ms = {ENDED}, at_ms = {ENDED}",
                leaves(&rig).len()
            ));
            assert_eq!(code(), Some(RefusalCode::EvidencePruned));
        }
        rig.tamper("DELETE FROM pruned");
        assert_eq!(code(), Some(RefusalCode::EvidenceLost));
        assert!(rig.place.open_reader().unwrap().pruned(&old.request).unwrap().is_none());
        drop(serving);
    });
}

#[test]
fn while_a_file_is_pruned_with_nobody_serving_nobody_begins_to() {
    let (rig, log) = Rig::begun();
    log.appended(enrol(1));
    artifact(&rig, &log, 1, "old", b"boot", 1_000);
    log.sequencer.stop();
    drop(log.reader);
    let mut tried = 0;
    let mut progress = |_| {
        assert!(matches!(rig.place.open().map(|_| ()), Err(OpenFault::InUse { .. })));
        tried += 1;
    };
    rig.place.prune(&plan(u64::MAX, ENDED), &mut progress).unwrap();
    assert!(tried > 1);
    rig.open().unwrap().sequencer.stop();
}

#[test]
fn prunings_move_with_the_log_into_a_database() {
    use super::postgres;
    let (rig, log) = Rig::begun();
    log.appended(enrol(1));
    let old = artifact(&rig, &log, 1, "old", b"boot", 1_000);
    artifact(&rig, &log, 1, "new", b"other", 2_000);
    log.sequencer.stop();
    drop(log.reader);
    let told = pruned(&rig, &plan(NOW + 10_000, ENDED));
    let server = countersign_fixture::Postgres::shared();
    let host = server.socket_directory().to_str().unwrap();
    let origin = crate::sequence::tests::support::origin();
    let options =
        postgres::PostgresOptions::local(host, server.port(), &server.database(), "postgres", origin);
    postgres::create(&options).unwrap();
    let super::Place::Sqlite(from) = &rig.place else { unreachable!() };
    let source = super::sqlite::open_reader(from).unwrap();
    postgres::import(&options, &source, &mut |_| {}).unwrap();
    let moved = postgres::open_reader(&options).unwrap();
    assert_eq!(moved.prunings().unwrap(), [told]);
    assert_eq!(moved.pruned(&old.boot_log).unwrap(), Some(told));
    assert_eq!(moved.pruned(&old.ima).unwrap(), None);
}
