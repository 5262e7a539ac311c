//! The SQLite store under the common suite, and what only it can do wrong: files.

use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

use countersign_core::name::Origin;
use rusqlite::Connection;

use super::super::conformance::{Fresh, SUITE, is_unavailable};
use super::super::{DeskWriter as _, LogReader as _, LogWriter as _, Wanted};
use super::{OpenFault, SqliteOptions, create, open, open_reader};
use crate::sequence::tests::support::origin;

fn made() -> (tempfile::TempDir, SqliteOptions) {
    let directory = tempfile::tempdir().unwrap();
    let options = SqliteOptions::new(directory.path().join("log.db"), origin());
    create(&options.path, &options.origin).unwrap();
    (directory, options)
}

#[test]
fn the_common_suite_holds() {
    for (name, check) in SUITE {
        let (directory, options) = made();
        let (writer, reader) = open(&options).unwrap();
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            check(Fresh { writer: Box::new(writer), reader: Arc::new(reader), _keep: Box::new(directory) });
        }));
        assert!(outcome.is_ok(), "{name}");
    }
}

#[test]
fn only_the_owner_may_read_a_store() {
    let (directory, options) = made();
    let (mut writer, _reader) = open(&options).unwrap();
    writer.put_blobs(&[]).unwrap();
    for entry in std::fs::read_dir(directory.path()).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{:?}", entry.path());
    }
}

#[test]
fn a_store_is_never_made_by_opening_it() {
    let directory = tempfile::tempdir().unwrap();
    let options = SqliteOptions::new(directory.path().join("log.db"), origin());
    assert!(open(&options).is_err() && open_reader(&options).is_err());
    assert!(!options.path.exists());
    create(&options.path, &options.origin).unwrap();
    assert!(matches!(create(&options.path, &options.origin), Err(OpenFault::File { .. })));
}

#[test]
fn a_foreign_file_is_refused_by_its_own_error() {
    let change = |sql: &str| {
        let (directory, options) = made();
        let connection = Connection::open(&options.path).unwrap();
        connection.execute_batch(sql).unwrap();
        connection.close().unwrap();
        let fault = open(&options).map(|_| ()).unwrap_err();
        assert!(open_reader(&options).is_err());
        drop(directory);
        fault
    };
    assert!(matches!(change("PRAGMA application_id = 7"), OpenFault::NotAStore));
    assert!(matches!(change("PRAGMA user_version = 99"), OpenFault::Newer { found: 99, known: 3 }));
    let other = change("UPDATE origin SET origin = 'other.example/log'");
    assert!(matches!(other, OpenFault::OtherLog { found, .. } if found == "other.example/log"));
    let changed = change("UPDATE migration SET sha256 = zeroblob(32)");
    assert!(matches!(changed, OpenFault::Migration { version: 1 }));
    let (_directory, mut options) = made();
    options.origin = Origin::parse("another.example/log").unwrap();
    assert!(matches!(open(&options).map(|_| ()), Err(OpenFault::OtherLog { .. })));
    std::fs::write(
        &options.path,
        b"not a database, but longer than a header of one hundred bytes has to be".repeat(9),
    )
    .unwrap();
    assert!(matches!(open(&options).map(|_| ()), Err(OpenFault::Database(_))));
    std::fs::write(&options.path, b"").unwrap();
    assert!(matches!(open(&options).map(|_| ()), Err(OpenFault::NotAStore)));
}

#[test]
fn a_file_of_the_version_before_is_brought_up_to_date() {
    let (_directory, options) = made();
    let connection = Connection::open(&options.path).unwrap();
    let older = "DROP TABLE cosignature; DROP TABLE pruning; DROP TABLE pruned;
                 DELETE FROM migration WHERE version > 1; PRAGMA user_version = 1";
    connection.execute_batch(older).unwrap();
    connection.close().unwrap();
    drop(open(&options).unwrap());
    let connection = Connection::open(&options.path).unwrap();
    connection.execute_batch("SELECT name FROM cosignature; SELECT digest FROM pruned").unwrap();
}

#[test]
fn one_process_writes_and_others_read() {
    let (_directory, options) = made();
    let (writer, _reader) = open(&options).unwrap();
    assert!(matches!(open(&options).map(|_| ()), Err(OpenFault::InUse { .. })));
    open_reader(&options).unwrap().newest_committed().unwrap();
    drop(writer);
    open(&options).unwrap();
}

#[test]
fn another_process_lock_is_waited_for_and_then_reported_without_harm() {
    let (_directory, options) = made();
    let (mut writer, _reader) = open(&options).unwrap();
    writer.connection.busy_timeout(std::time::Duration::from_millis(1)).unwrap();
    let other = Connection::open(&options.path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    assert!(is_unavailable(writer.append(&Wanted::default(), &mut |_| None)));
    assert!(is_unavailable(writer.put_blobs(&[])));
    other.execute_batch("ROLLBACK").unwrap();
    writer.put_blobs(&[]).unwrap();
}

#[test]
fn a_full_disk_changes_nothing_and_the_writer_goes_on() {
    let (_directory, options) = made();
    let (mut writer, reader) = open(&options).unwrap();
    writer.put_blobs(&[]).unwrap();
    let pages: i64 = writer.connection.pragma_query_value(None, "page_count", |row| row.get(0)).unwrap();
    writer.connection.pragma_update_and_check(None, "max_page_count", pages + 2, |_| Ok(())).unwrap();
    let large: Arc<[u8]> = vec![7; 1 << 20].into();
    let digest = countersign_core::digest::sha256(&large);
    assert!(is_unavailable(writer.put_blobs(&[(digest, Arc::clone(&large))])));
    assert!(reader.blob(&digest).unwrap().is_none());
    writer.connection.pragma_update_and_check(None, "max_page_count", 1_000_000, |_| Ok(())).unwrap();
    writer.put_blobs(&[(digest, Arc::clone(&large))]).unwrap();
    assert!(reader.blob(&digest).unwrap().is_some());
}
