//! The index against logs that a real sequencer wrote: what is filed, how it pages, and what survives a crash, a rollback or a scratch.

use super::file::open_to_follow;
use super::follow::step;
use super::query::{self, Cursor, Found, Wanted};
use super::{IndexFault, Lineage, PcrValue};
use crate::sequence::tests::support::{Call, DEADLINE, Log, NOW, Rig, enrol, host, key_event, origin, state};
use crate::sequence::{Append, Entry};
use crate::sign::HeadKey as _;
use crate::store::sqlite::SqliteOptions;
use countersign_core::digest::{Sha256Digest, sha256};
use countersign_core::leaf::Kind;
use countersign_core::leaf::control::{EpochRecord, KeyEvent};
use countersign_core::leaf::record::Outcome;
use countersign_core::note::NoteKey;
use countersign_core::record::EvidenceRecord;
use rusqlite::Connection;
use std::sync::Arc;
use std::time::Instant;

const SHA256: u16 = 11;

/// An artifact of a host whose registers 0 and 7 have these values; `kept` says whether the evidence stays.
fn booted(log: &Log, number: u8, id: &str, values: [u8; 2], kept: bool) -> u64 {
    let pcrs = vec![(0, vec![values[0]; 32]), (7, vec![values[1]; 32])];
    let quoted: Vec<u8> = pcrs.iter().flat_map(|(_, value)| value.clone()).collect();
    let record = EvidenceRecord {
        challenge: id.as_bytes().to_vec(),
        attest: vec![1],
        signature: vec![2],
        bank: SHA256,
        pcrs,
        boot_log: None,
        requests: Vec::new(),
        ima: None,
    };
    let mut call = Call::new(host(number), id);
    call.evidence = record.digest();
    call.state.evidence = Some(record.digest());
    call.state.pcr_digest = Some(sha256(&quoted));
    let mut append = call.append();
    if kept {
        append.blobs.push((record.digest(), record.encode().into()));
    }
    log.appended(append).leaves[0].index
}

fn register(pcr: u32, value: u8) -> Wanted {
    Wanted::Pcr(PcrValue { bank: SHA256, pcr, value: vec![value; 32] })
}

fn filed(rig: &Rig, log: &Log) -> Connection {
    let path = rig.path("lineage");
    let mut connection = open_to_follow(&path, origin().as_str(), log.reader.as_ref()).unwrap();
    while step(&mut connection, log.reader.as_ref()).unwrap() {}
    connection
}

/// Every page, with a page size of two: the same as one page of everything.
fn all(connection: &Connection, wanted: &Wanted) -> Vec<u64> {
    let (mut found, mut after, mut pages) = (Vec::new(), Cursor::default(), 0);
    loop {
        let page = query::artifacts(connection, wanted, after, 2).unwrap();
        assert!(page.artifacts.len() <= 2);
        found.extend(page.artifacts);
        pages += 1;
        assert!(pages < 1_000);
        match page.next {
            Some(next) => after = Cursor::parse(&next.to_string()).unwrap(),
            None => break,
        }
    }
    let whole = query::artifacts(connection, wanted, Cursor::default(), 256).unwrap();
    assert_eq!(whole.artifacts, found);
    assert_eq!(whole.next, None);
    found
}

#[test]
fn artifacts_are_found_by_what_they_belong_to() {
    let (rig, log) = Rig::begun();
    log.appended(enrol(1));
    log.appended(enrol(2));
    let references = EpochRecord { document: Sha256Digest::new([77; 32]), epoch: 1, by: Sha256Digest::ZERO };
    let first: Vec<u64> = (0..3).map(|n| booted(&log, 1, &format!("a{n}"), [1, 7], true)).collect();
    log.appended(Append::of(vec![Entry::plain(Kind::References, references.encode())]));
    let second: Vec<u64> = (0..5).map(|n| booted(&log, 2, &format!("b{n}"), [2, 7], true)).collect();
    let denied = Call { allow: false, ..Call::new(host(1), "denied") };
    log.appended(denied.append());
    let artifact = (first[0], Sha256Digest::ZERO);
    let outcome = Outcome { gateway: Sha256Digest::ZERO, artifact, refused: None, time_ms: NOW };
    let told = log.appended(Append::of(vec![Entry::plain(Kind::Outcome, outcome.encode())])).leaves[0].index;

    let index = filed(&rig, &log);
    let both = [&first[..], &second[..]].concat();
    let cases = [
        (Wanted::Host(host(1)), &first[..]),
        (Wanted::Host(host(2)), &second[..]),
        (Wanted::Host(host(3)), &[][..]),
        (Wanted::Ak(Sha256Digest::new([5; 32])), &both[..]),
        (Wanted::Policy(Sha256Digest::new([3; 32])), &both[..]),
        (Wanted::ReferenceSet("base".to_owned()), &both[..]),
        (Wanted::ReferenceSet("other".to_owned()), &[][..]),
        (Wanted::Workload(Sha256Digest::new([1; 32])), &both[..]),
        // The calls say that they read the state of control number 2, before the references.
        (Wanted::References(Sha256Digest::new([77; 32])), &[][..]),
        (register(0, 1), &first[..]),
        (register(0, 2), &second[..]),
        (register(7, 7), &both[..]),
        (register(7, 1), &[][..]),
        (register(4, 7), &[][..]),
    ];
    for (wanted, expect) in cases {
        assert_eq!(all(&index, &wanted), expect, "{wanted:?}");
    }
    assert_eq!(query::outcomes(&index, first[0]).unwrap(), [told]);
    assert_eq!(query::outcomes(&index, first[1]).unwrap(), [0_u64; 0]);
    assert_eq!(query::indexed(&index).unwrap(), log.reader.newest_signed().unwrap().unwrap().body().size);
    log.sequencer.stop();
}

#[test]
fn artifacts_are_found_by_the_head_key_that_signed_first() {
    let (rig, log) = Rig::begun();
    log.appended(enrol(1));
    let before: Vec<u64> = (0..3).map(|n| booted(&log, 1, &format!("a{n}"), [1, 7], true)).collect();
    let next = &rig.spare[0];
    rig.ring.add(&(Arc::clone(next) as Arc<dyn crate::sign::HeadKey>));
    log.appended(Append::of(vec![
        crate::sequence::tests::support::introduce(next),
        key_event(next, KeyEvent::Activated),
    ]));
    log.appended(Append::of(vec![key_event(&rig.key, KeyEvent::Deactivated)]));
    let after: Vec<u64> = (0..3).map(|n| booted(&log, 1, &format!("b{n}"), [1, 7], true)).collect();
    let index = filed(&rig, &log);
    let id = |key: &crate::sequence::tests::support::SoftwareKey| {
        NoteKey::new(origin().as_str(), key.verifying_key().clone()).unwrap().key_id()
    };
    assert_eq!(all(&index, &Wanted::HeadKey(id(&rig.key))), before);
    assert_eq!(all(&index, &Wanted::HeadKey(id(next))), after);
    assert_eq!(all(&index, &Wanted::HeadKey([0; 4])), [0_u64; 0]);
    log.sequencer.stop();
}

#[test]
fn a_boot_without_evidence_is_a_gap_until_another_artifact_has_it() {
    let (rig, log) = Rig::begun();
    log.appended(enrol(1));
    let gone = booted(&log, 1, "gone", [1, 7], false);
    let index = filed(&rig, &log);
    let found = query::artifacts(&index, &register(7, 9), Cursor::default(), 10).unwrap();
    let quoted = sha256(&[[1_u8; 32], [7; 32]].concat());
    assert_eq!(found.unknown, [(quoted, gone)], "it may be among them");
    assert_eq!(all(&index, &register(7, 7)), [0_u64; 0]);
    drop(index);
    let kept = booted(&log, 1, "kept", [1, 7], true);
    let index = filed(&rig, &log);
    assert_eq!(all(&index, &register(7, 7)), [gone, kept]);
    assert_eq!(query::artifacts(&index, &register(7, 9), Cursor::default(), 10).unwrap().unknown, []);
    log.sequencer.stop();
}

#[test]
fn boots_without_evidence_are_all_named_page_by_page() {
    let (rig, log) = Rig::begun();
    log.appended(enrol(1));
    let known = booted(&log, 1, "known", [1, 7], true);
    let mut gone: Vec<u64> = (0..70).map(|n| booted(&log, 1, &format!("g{n}"), [n + 10, 9], false)).collect();
    let index = filed(&rig, &log);
    let (mut cursor, mut named, mut artifacts) = (Some(Cursor::default()), Vec::new(), Vec::new());
    while let Some(after) = cursor {
        // Cursors travel as text.
        let after = Cursor::parse(&after.to_string()).unwrap();
        let found = query::artifacts(&index, &register(7, 7), after, 10).unwrap();
        assert!(found.unknown.len() <= 32);
        artifacts.extend(found.artifacts);
        named.extend(found.unknown.into_iter().map(|(_, first)| first));
        cursor = found.next;
    }
    named.sort_unstable();
    gone.sort_unstable();
    assert_eq!((artifacts, named), (vec![known], gone));
    log.sequencer.stop();
}

#[test]
fn evidence_that_is_not_what_the_leaf_says_files_nothing() {
    let (rig, log) = Rig::begun();
    log.appended(enrol(1));
    let mut call = Call::new(host(1), "lie");
    let record = EvidenceRecord {
        challenge: Vec::new(),
        attest: Vec::new(),
        signature: Vec::new(),
        bank: SHA256,
        pcrs: vec![(7, vec![7; 32])],
        boot_log: None,
        requests: Vec::new(),
        ima: None,
    };
    call.evidence = record.digest();
    call.state.evidence = Some(record.digest());
    call.state.pcr_digest = Some(sha256(b"other values"));
    let mut append = call.append();
    append.blobs.push((record.digest(), record.encode().into()));
    log.appended(append);
    let index = filed(&rig, &log);
    let found = query::artifacts(&index, &register(7, 7), Cursor::default(), 10).unwrap();
    assert_eq!((found.artifacts.len(), found.unknown.len()), (0, 1));
    log.sequencer.stop();
}

/// Everything that the file says, for comparison.
fn content(connection: &Connection) -> Vec<Found> {
    [Wanted::Host(host(1)), register(0, 1), register(7, 7), Wanted::Policy(Sha256Digest::new([3; 32]))]
        .iter()
        .map(|wanted| query::artifacts(connection, wanted, Cursor::default(), 256).unwrap())
        .collect()
}

#[test]
fn what_a_crash_cut_short_is_gone_on_with() {
    let (rig, log) = Rig::begun();
    log.appended(enrol(1));
    let path = rig.path("cut");
    let open = || open_to_follow(&path, origin().as_str(), log.reader.as_ref()).unwrap();
    for round in 0..6 {
        booted(&log, 1, &format!("r{round}"), [1, 7], true);
        let mut connection = open();
        if round % 2 == 0 {
            // The step is done and never committed.
            connection.execute_batch("CREATE TEMP TRIGGER crash BEFORE UPDATE ON meta BEGIN SELECT RAISE (ABORT, 'crash'); END").unwrap();
            assert!(matches!(step(&mut connection, log.reader.as_ref()), Err(IndexFault::Database(_))));
        } else {
            while step(&mut connection, log.reader.as_ref()).unwrap() {}
        }
    }
    let mut cut = open();
    while step(&mut cut, log.reader.as_ref()).unwrap() {}
    assert_eq!(content(&cut), content(&filed(&rig, &log)));
    log.sequencer.stop();
}

#[test]
fn an_index_ahead_of_its_store_or_of_another_log_is_made_anew() {
    let (rig, log) = Rig::begun();
    log.appended(enrol(1));
    let kept = booted(&log, 1, "kept", [1, 7], true);
    log.sequencer.stop();
    let backup = tempfile::tempdir().unwrap();
    rig.copy_store(backup.path());
    let log = rig.open().unwrap();
    let lost = booted(&log, 1, "lost", [1, 7], true);
    let index = filed(&rig, &log);
    assert_eq!(all(&index, &Wanted::Host(host(1))), [kept, lost]);
    drop(index);
    let Log { sequencer, reader } = log;
    sequencer.stop();
    drop(reader);
    rig.restore_store(backup.path());
    let (_, reader) = crate::store::sqlite::open(&SqliteOptions::new(rig.database(), origin())).unwrap();
    let path = rig.path("lineage");
    let mut index = open_to_follow(&path, origin().as_str(), &reader).unwrap();
    assert_eq!(query::indexed(&index).unwrap(), 0, "it knew of more than there is");
    while step(&mut index, &reader).unwrap() {}
    assert_eq!(all(&index, &Wanted::Host(host(1))), [kept]);
    drop(index);
    let index = open_to_follow(&path, "other.example/log", &reader).unwrap();
    assert_eq!(query::indexed(&index).unwrap(), 0);
}

#[test]
fn a_scratched_file_is_made_anew() {
    let (rig, log) = Rig::begun();
    log.appended(enrol(1));
    let artifact = booted(&log, 1, "one", [1, 7], true);
    let path = rig.path("lineage");
    drop(filed(&rig, &log));
    for bytes in [b"not a database, but long enough to be taken for one at first sight".to_vec(), Vec::new()]
    {
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(all(&filed(&rig, &log), &Wanted::Host(host(1))), [artifact]);
    }
    log.sequencer.stop();
}

#[test]
fn the_thread_follows_and_ends() {
    let (rig, log) = Rig::begun();
    log.appended(enrol(1));
    let lineage = Lineage::start(&rig.path("followed"), &origin(), Arc::clone(&log.reader)).unwrap();
    let began = Instant::now();
    let found = |count: usize| loop {
        if let Ok(found) = lineage.artifacts(&Wanted::Host(host(1)), Cursor::default(), 10)
            && found.artifacts.len() == count
        {
            return found.artifacts;
        }
        assert!(began.elapsed() < DEADLINE);
        std::thread::yield_now();
    };
    for round in 0..3 {
        let artifact = booted(&log, 1, &format!("r{round}"), [1, 7], true);
        assert_eq!(found(round + 1).last(), Some(&artifact));
    }
    drop(lineage);
    log.sequencer.stop();
}

#[test]
fn cursors_have_one_form() {
    for text in ["", ".", "1", "1.", ".1", "1.2.3", "-1.2", "+1.2", "1.99999999999999999999", " 1.2", "a.b"] {
        assert_eq!(Cursor::parse(text), None, "{text:?}");
    }
    assert_eq!(Cursor::parse("0.8"), Some(Cursor::after(7)));
    assert_eq!(Cursor::after(7).to_string(), "0.8");
    assert_eq!(state(1, 0).version, 1);
}
