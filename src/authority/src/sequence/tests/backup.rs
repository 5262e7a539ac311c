//! Backups that are made while the log grows, what comes back from them, and a log that moves from a file into a database.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use countersign_fixture::wait_until;
use rusqlite::Connection;

use super::super::{Append, Health, Outcome, SequenceFault, StartFault};
use super::crash::{bodies_form_a_chain, every_head_is_that_of_the_leaves};
use super::support::{Call, DEADLINE, Rig, StoreKind, enrol, epoch, host, token};
use crate::store::postgres::{self, MigrateFault, PostgresOptions};
use crate::store::{Place, sqlite};

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// What an operator does while the authority serves (docs/OPERATING.md).
fn back_up(rig: &Rig, to: &Path) {
    match &rig.place {
        Place::Sqlite(options) => {
            let connection = Connection::open(&options.path).unwrap();
            connection.execute("VACUUM INTO ?1", [to.to_str().unwrap()]).unwrap();
        }
        Place::Postgres(options) => {
            let mut dump = rig.server.as_ref().unwrap().client("pg_dump");
            run(dump.args(["-Fc", "-n", "countersign", "-d", &options.database, "-f"]).arg(to));
        }
    }
}

/// What an operator does when the database is lost.
fn restore(rig: &Rig, from: &Path) {
    match &rig.place {
        Place::Sqlite(options) => {
            for suffix in ["", "-wal", "-shm"] {
                let _ = std::fs::remove_file(format!("{}{suffix}", options.path.display()));
            }
            std::fs::copy(from, &options.path).unwrap();
        }
        Place::Postgres(options) => {
            rig.tamper("DROP SCHEMA countersign CASCADE");
            let mut restore = rig.server.as_ref().unwrap().client("pg_restore");
            run(restore.args(["--exit-on-error", "-d", &options.database]).arg(from));
        }
    }
}

#[test]
fn a_backup_made_while_serving_is_whole_and_refused_once_more_was_signed() {
    for store in StoreKind::ALL {
        let (rig, log) = Rig::begun_in(store);
        log.appended(enrol(1));
        let scratch = tempfile::tempdir().unwrap();
        let (old, newest) = (scratch.path().join("old"), scratch.path().join("newest"));
        back_up(&rig, &old);
        let call = Call::new(host(1), "r1");
        log.appended(call.append());
        back_up(&rig, &newest);
        let bodies = log.bodies();
        drop(log);
        // Older than what was signed: it would sign other heads of sizes that are signed, and un-revoke what was revoked since.
        restore(&rig, &old);
        let refused = rig.open().err();
        assert!(matches!(refused, Some(StartFault::RolledBack { .. })), "{store:?}: {refused:?}");
        // The newest one goes on where it ended.
        restore(&rig, &newest);
        let log = rig.open().unwrap();
        let Outcome::Existing(receipts) = log.submit(call.append()).unwrap() else { panic!("{store:?}") };
        log.check(&receipts);
        log.appended(Call::new(host(1), "r2").append());
        let after = log.bodies();
        assert!(bodies.iter().all(|(size, body)| after.get(size) == Some(body)), "{store:?}");
        every_head_is_that_of_the_leaves(&log);
        bodies_form_a_chain(&after);
    }
}

#[test]
fn a_database_put_back_while_replicas_serve_ends_all_of_them() {
    for idle in [false, true] {
        let (rig, log) = Rig::begun_in(StoreKind::Postgres);
        log.appended(enrol(1));
        let other = rig.replica();
        let theirs = other.open().unwrap();
        let scratch = tempfile::tempdir().unwrap();
        let old = scratch.path().join("old");
        back_up(&rig, &old);
        log.appended(Call::new(host(1), "r1").append());
        let newest = log.sequencer.signed_head().unwrap().size();
        // The other one signed nothing since the backup; it only saw what was signed.
        theirs.sequencer.refresh().unwrap();
        let seen = || theirs.sequencer.signed_head().is_some_and(|head| head.size() == newest);
        assert!(wait_until(DEADLINE, seen));
        restore(&rig, &old);
        let (signed, signing) = (rig.key.messages.lock().unwrap().len(), Arc::clone(&rig.key));
        if idle {
            log.sequencer.refresh().unwrap();
            theirs.sequencer.refresh().unwrap();
        } else {
            assert_eq!(theirs.submit(Call::new(host(1), "r2").append()), Err(SequenceFault::Stopped));
            assert_eq!(log.submit(Call::new(host(1), "r2").append()), Err(SequenceFault::Stopped));
        }
        log.wait_for(Health::Failed);
        theirs.wait_for(Health::Failed);
        assert_eq!(signing.messages.lock().unwrap().len(), signed, "signed on another past");
        assert!(log.reader.outcome(&host(1), &Call::new(host(1), "r2").request().id).unwrap().is_none());
    }
}

#[test]
fn a_log_moves_from_a_file_into_a_database_and_goes_on() {
    let (rig, log) = Rig::begun();
    log.appended(enrol(1));
    let (_, made) = token(1, super::support::NOW + 60_000);
    log.appended(Append::of(vec![made]));
    log.appended(Append::of((1..=300).map(epoch).collect()));
    let call = Call { budget: Some(3), ..Call::new(host(1), "r1") };
    let kept = log.appended(call.append());
    let bodies = log.bodies();
    drop(log);
    let mut moved = Rig::empty_in(StoreKind::Postgres, countersign_core::key::Algorithm::EdDsa);
    let (Place::Sqlite(from), Place::Postgres(to)) = (&rig.place, moved.place.clone()) else { panic!() };
    let reader = sqlite::open_reader(from).unwrap();
    let mut told = 0;
    let size = postgres::import(&to, &reader, &mut |done| told = done).unwrap();
    assert_eq!((size, told), (kept.head.size(), kept.head.size()));
    // The signer and its memory stay what they were.
    (moved.directory, moved.key, moved.ring) = (rig.directory, rig.key, rig.ring);
    let log = moved.open().unwrap();
    let after = log.bodies();
    assert!(bodies.iter().all(|(size, body)| after.get(size) == Some(body)));
    let Outcome::Existing(again) = log.submit(call.append()).unwrap() else { panic!("decided twice") };
    assert_eq!(again.leaves[0].leaf, kept.leaves[0].leaf);
    assert_eq!(log.reader.budget_left(kept.leaves[0].index).unwrap(), Some(3));
    assert!(log.reader.blob(&call.append().blobs[0].0).unwrap().is_some());
    let spent = Call { variant: 1, ..Call::new(host(1), "r2") };
    let challenge = countersign_core::digest::sha256(format!("challenge {}/r1", host(1)).as_bytes());
    assert_eq!(log.submit(spent.append_with(challenge)).unwrap(), Outcome::ChallengeSpent);
    log.appended(Call::new(host(1), "r3").append());
    every_head_is_that_of_the_leaves(&log);
    bodies_form_a_chain(&log.bodies());
    // Nothing is put on top of a log that is there, and nothing of a log that is elsewhere.
    assert!(matches!(postgres::import(&to, &reader, &mut |_| {}), Err(MigrateFault::NotEmpty)));
    let absent = PostgresOptions { database: "absent".to_owned(), ..to };
    assert!(matches!(postgres::import(&absent, &reader, &mut |_| {}), Err(MigrateFault::Open(_))));
}
