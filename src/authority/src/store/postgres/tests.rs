//! The PostgreSQL store under the common suite, and what only it can do wrong: servers, connections, replicas.

use std::sync::Arc;

use countersign_core::name::Origin;
use countersign_fixture::Postgres;

use super::super::conformance::{Fresh, SUITE, is_unavailable};
use super::super::{DeskWriter as _, LogReader as _, LogWriter as _, Wanted};
use super::{OpenFault, PostgresOptions, create, open, open_reader};
use crate::sequence::tests::support::origin;

fn options(server: &Postgres) -> PostgresOptions {
    let host = server.socket_directory().to_str().unwrap();
    PostgresOptions::local(host, server.port(), &server.database(), "postgres", origin())
}

fn made(server: &Postgres) -> PostgresOptions {
    let options = options(server);
    create(&options).unwrap();
    options
}

#[test]
fn the_common_suite_holds() {
    let server = Postgres::shared();
    for (name, check) in SUITE {
        let options = made(&server);
        let (writer, reader) = open(&options).unwrap();
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let keep = Box::new(Arc::clone(&server));
            check(Fresh { writer: Box::new(writer), reader: Arc::new(reader), _keep: keep });
        }));
        assert!(outcome.is_ok(), "{name}");
    }
}

#[test]
fn a_store_is_never_made_by_opening_it() {
    let server = Postgres::shared();
    let options = options(&server);
    assert!(matches!(open(&options).map(|_| ()), Err(OpenFault::NotAStore)));
    assert!(matches!(open_reader(&options).map(|_| ()), Err(OpenFault::NotAStore)));
    create(&options).unwrap();
    assert!(matches!(create(&options), Err(OpenFault::Exists)));
    open(&options).unwrap();
}

#[test]
fn a_foreign_store_is_refused_by_its_own_error() {
    let server = Postgres::shared();
    let change = |sql: &str| {
        let options = made(&server);
        server.psql(&options.database, sql);
        let fault = open(&options).map(|_| ()).unwrap_err();
        assert!(open_reader(&options).is_err());
        fault
    };
    let newer = change("INSERT INTO countersign.migration VALUES (99, '')");
    assert!(matches!(newer, OpenFault::Newer { found: 99, known: 1 }));
    let other = change("UPDATE countersign.origin SET origin = 'other.example/log'");
    assert!(matches!(other, OpenFault::OtherLog { found, .. } if found == "other.example/log"));
    let changed = change("UPDATE countersign.migration SET sha256 = ''");
    assert!(matches!(changed, OpenFault::Migration { version: 1 }));
    assert!(matches!(change("DELETE FROM countersign.origin"), OpenFault::NotAStore));
    let mut elsewhere = made(&server);
    elsewhere.origin = Origin::parse("another.example/log").unwrap();
    assert!(matches!(open(&elsewhere).map(|_| ()), Err(OpenFault::OtherLog { .. })));
    elsewhere.database = "absent".to_owned();
    assert!(matches!(open(&elsewhere).map(|_| ()), Err(OpenFault::Postgres(_))));
}

#[test]
fn a_server_that_may_lose_commits_is_refused() {
    let server = Postgres::new();
    let options = made(&server);
    server.psql("postgres", "ALTER SYSTEM SET fsync = off");
    server.psql("postgres", "SELECT pg_reload_conf()");
    let refused = || matches!(open(&options).map(|_| ()), Err(OpenFault::Setting("fsync = on")));
    assert!(countersign_fixture::wait_until(countersign_fixture::PATIENCE, refused));
}

#[test]
fn a_lock_that_is_held_is_waited_for_and_then_reported_without_harm() {
    let server = Postgres::shared();
    let mut options = made(&server);
    options.statement_timeout = std::time::Duration::from_millis(200);
    let (mut first, _) = open(&options).unwrap();
    let (mut second, reader) = open(&options).unwrap();
    let answer = first.append(&Wanted::default(), &mut |_| {
        assert!(is_unavailable(second.append(&Wanted::default(), &mut |_| None)));
        // What doesn't append doesn't wait.
        second.put_blobs(&[]).unwrap();
        reader.newest_committed().unwrap();
        None
    });
    assert!(answer.unwrap().is_none());
    assert!(second.append(&Wanted::default(), &mut |_| None).unwrap().is_none());
}

#[test]
fn a_server_that_goes_away_is_reported_and_comes_back_without_a_restart() {
    let mut server = Postgres::new();
    let options = made(&server);
    let (mut writer, reader) = open(&options).unwrap();
    for crash in [false, true] {
        if crash { server.kill() } else { server.stop() }
        assert!(is_unavailable(writer.append(&Wanted::default(), &mut |_| None)));
        assert!(is_unavailable(writer.put_blobs(&[])));
        assert!(reader.newest_committed().is_err());
        server.start();
        assert!(writer.append(&Wanted::default(), &mut |_| None).unwrap().is_none());
        writer.put_blobs(&[]).unwrap();
        assert!(reader.newest_committed().unwrap().is_none());
    }
    // Restarted while nobody looked: the dead connection is noticed before anything is sent.
    server.stop();
    server.start();
    writer.put_blobs(&[]).unwrap();
    writer.append(&Wanted::default(), &mut |_| None).unwrap();
    reader.newest_committed().unwrap();
}

#[test]
fn a_store_that_was_dropped_ends_the_writer() {
    let server = Postgres::shared();
    let options = made(&server);
    let (mut writer, _reader) = open(&options).unwrap();
    server.psql(&options.database, "DROP SCHEMA countersign CASCADE");
    assert!(writer.append(&Wanted::default(), &mut |_| None).unwrap_err().is_fatal());
    assert!(writer.put_blobs(&[]).unwrap_err().is_fatal());
}
