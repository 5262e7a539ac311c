//! The SQLite store under the common suite, and what only it can do wrong: files.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use countersign_core::digest::{Sha256Digest, sha256};
use countersign_core::name::Origin;
use rusqlite::Connection;

use super::super::conformance::{Fresh, SUITE, is_unavailable};
use super::super::{DeskWriter as _, LogReader as _, LogWriter as _, Wanted};
use super::{OpenFault, SqliteOptions, create, open, open_reader};
use crate::sequence::tests::support::origin;

pub(super) fn made() -> (tempfile::TempDir, SqliteOptions) {
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

/// Every file in a directory, byte for byte. Empty ones are left out, and the index of a journal, which is made again by whoever needs it.
fn files(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let paths = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let files = paths.filter(|path| path.is_file() && !path.to_str().unwrap().ends_with("-shm"));
    files.map(|path| (path.clone(), std::fs::read(path).unwrap())).filter(|(_, b)| !b.is_empty()).collect()
}

fn read_all(options: &SqliteOptions, digest: &Sha256Digest) {
    let reader = open_reader(options).unwrap();
    assert!(reader.newest_committed().unwrap().is_none());
    assert!(reader.blob(digest).unwrap().is_some());
}

#[test]
fn what_only_reads_changes_no_byte() {
    let (directory, options) = made();
    let blob: Arc<[u8]> = vec![7; 5_000].into();
    let digest = sha256(&blob);
    let (mut writer, reader) = open(&options).unwrap();
    writer.put_blobs(&[(digest, blob)]).unwrap();
    // Copied while it is served: the journal has what the file hasn't.
    let journaled = tempfile::tempdir().unwrap();
    let copy = SqliteOptions::new(journaled.path().join("a copy?#%41.db"), origin());
    let copy_journal = PathBuf::from(format!("{}-wal", copy.path.display()));
    std::fs::copy(&options.path, &copy.path).unwrap();
    std::fs::copy(format!("{}-wal", options.path.display()), &copy_journal).unwrap();
    drop((writer, reader));
    for (directory, options) in [(directory.path(), &options), (journaled.path(), &copy)] {
        let before = files(directory);
        read_all(options, &digest);
        assert_eq!(files(directory), before);
    }
    // Beside one that was made by an operator's backup.
    let backup = SqliteOptions::new(directory.path().join("backup.db"), origin());
    let connection = Connection::open(&options.path).unwrap();
    connection.execute("VACUUM INTO ?1", [backup.path.to_str().unwrap()]).unwrap();
    drop(connection);
    let before = files(directory.path());
    read_all(&backup, &digest);
    assert_eq!(files(directory.path()), before);
}

#[test]
fn a_store_where_nothing_can_be_made_is_read_if_all_of_it_is_in_the_file() {
    let (directory, options) = made();
    let blob: Arc<[u8]> = vec![7; 5_000].into();
    let digest = sha256(&blob);
    let (mut writer, reader) = open(&options).unwrap();
    writer.put_blobs(&[(digest, blob)]).unwrap();
    drop((writer, reader));
    // A link to nowhere stands in the way of a journal here: root may make files wherever a file system lets it.
    let still = directory.path().join("a copy?#%41.db");
    std::fs::copy(&options.path, &still).unwrap();
    std::os::unix::fs::symlink("/absent/shm", format!("{}-shm", still.display())).unwrap();
    let still = SqliteOptions::new(still, origin());
    let before = files(directory.path());
    read_all(&still, &digest);
    assert_eq!(files(directory.path()), before);
    let journal = PathBuf::from(format!("{}-wal", still.path.display()));
    std::fs::write(&journal, [1; 100]).unwrap();
    let fault = open_reader(&still).map(|_| ()).unwrap_err();
    assert!(matches!(&fault, OpenFault::Journal { path } if *path == journal), "{fault}");
}

#[test]
fn an_older_file_is_not_changed_by_who_only_reads() {
    let (directory, options) = made();
    let connection = Connection::open(&options.path).unwrap();
    connection
        .execute_batch("DROP TABLE pruning; DROP TABLE pruned; DELETE FROM migration WHERE version > 2")
        .unwrap();
    connection.pragma_update(None, "user_version", 2).unwrap();
    connection.close().unwrap();
    let before = files(directory.path());
    let fault = open_reader(&options).map(|_| ()).unwrap_err();
    assert!(matches!(fault, OpenFault::Older { found: 2, known: 3 }), "{fault}");
    assert_eq!(files(directory.path()), before);
    drop(open(&options).unwrap());
    open_reader(&options).unwrap();
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
    let digest = sha256(&large);
    assert!(is_unavailable(writer.put_blobs(&[(digest, Arc::clone(&large))])));
    assert!(reader.blob(&digest).unwrap().is_none());
    writer.connection.pragma_update_and_check(None, "max_page_count", 1_000_000, |_| Ok(())).unwrap();
    writer.put_blobs(&[(digest, Arc::clone(&large))]).unwrap();
    assert!(reader.blob(&digest).unwrap().is_some());
}
