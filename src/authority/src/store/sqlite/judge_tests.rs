//! What every error of SQLite means for the writer, by its extended code; and one that a file system really reports.

use std::sync::Arc;

use countersign_core::digest::sha256;
use countersign_fixture::{in_child_process, is_child_process};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use rusqlite::{Error as SqlError, ffi};

use super::super::{Broken, DeskWriter as _, LogReader as _, StoreFault, Unavailable};
use super::tests::made;
use super::write::judge_sqlite;
use super::{open, open_reader};

/// Nothing was changed, and the writer goes on; or nobody knows, and it is lost.
#[derive(Debug, PartialEq, Eq)]
enum Means {
    TryAgain(Unavailable),
    Lost(Broken),
}

fn means(fault: &StoreFault) -> Means {
    match fault {
        StoreFault::Unavailable { kind, .. } => Means::TryAgain(*kind),
        StoreFault::Fatal { kind, .. } => Means::Lost(*kind),
    }
}

/// What a device or a file system says.
const DEVICE: [i32; 20] = [
    ffi::SQLITE_IOERR,
    ffi::SQLITE_IOERR_FSYNC,
    ffi::SQLITE_IOERR_DIR_FSYNC,
    ffi::SQLITE_IOERR_WRITE,
    ffi::SQLITE_IOERR_READ,
    ffi::SQLITE_IOERR_SHORT_READ,
    ffi::SQLITE_IOERR_TRUNCATE,
    ffi::SQLITE_IOERR_FSTAT,
    ffi::SQLITE_IOERR_LOCK,
    ffi::SQLITE_IOERR_UNLOCK,
    ffi::SQLITE_IOERR_CLOSE,
    ffi::SQLITE_IOERR_DELETE,
    ffi::SQLITE_IOERR_NOMEM,
    ffi::SQLITE_IOERR_SHMOPEN,
    ffi::SQLITE_IOERR_SHMSIZE,
    ffi::SQLITE_IOERR_SHMLOCK,
    ffi::SQLITE_IOERR_SHMMAP,
    ffi::SQLITE_IOERR_MMAP,
    ffi::SQLITE_CANTOPEN,
    ffi::SQLITE_CANTOPEN_ISDIR,
];

#[test]
fn whatever_may_have_touched_the_file_ends_the_writer() {
    let check = |codes: &[i32], expect: Means| {
        for code in codes {
            let fault = judge_sqlite(&SqlError::SqliteFailure(ffi::Error::new(*code), None), "commit");
            assert_eq!(means(&fault), expect, "code {code}");
        }
    };
    // https://www.sqlite.org/rescode.html, the extended codes that a file of our own can give.
    check(&DEVICE, Means::Lost(Broken::Io));
    check(
        &[ffi::SQLITE_CORRUPT, ffi::SQLITE_CORRUPT_VTAB, ffi::SQLITE_CORRUPT_SEQUENCE, ffi::SQLITE_NOTADB],
        Means::Lost(Broken::Corrupt),
    );
    check(
        &[
            ffi::SQLITE_READONLY,
            ffi::SQLITE_READONLY_DBMOVED,
            ffi::SQLITE_READONLY_ROLLBACK,
            ffi::SQLITE_READONLY_RECOVERY,
            ffi::SQLITE_READONLY_CANTLOCK,
        ],
        Means::Lost(Broken::FileReplaced),
    );
    check(
        &[
            ffi::SQLITE_CONSTRAINT,
            ffi::SQLITE_CONSTRAINT_PRIMARYKEY,
            ffi::SQLITE_CONSTRAINT_UNIQUE,
            ffi::SQLITE_CONSTRAINT_CHECK,
            ffi::SQLITE_CONSTRAINT_FOREIGNKEY,
            ffi::SQLITE_NOMEM,
            ffi::SQLITE_INTERRUPT,
            ffi::SQLITE_ABORT_ROLLBACK,
            ffi::SQLITE_SCHEMA,
            ffi::SQLITE_TOOBIG,
            ffi::SQLITE_MISUSE,
            ffi::SQLITE_PERM,
            // None that SQLite has today.
            99,
        ],
        Means::Lost(Broken::Defect),
    );
    check(&[ffi::SQLITE_FULL], Means::TryAgain(Unavailable::DiskFull));
    check(
        &[
            ffi::SQLITE_BUSY,
            ffi::SQLITE_BUSY_SNAPSHOT,
            ffi::SQLITE_BUSY_RECOVERY,
            ffi::SQLITE_LOCKED,
            ffi::SQLITE_LOCKED_SHAREDCACHE,
        ],
        Means::TryAgain(Unavailable::Locked),
    );
    let row = judge_sqlite(&SqlError::QueryReturnedNoRows, "commit");
    assert_eq!(means(&row), Means::Lost(Broken::Corrupt));
}

#[test]
fn a_write_that_the_file_system_refuses_ends_the_writer_and_leaves_the_store_whole() {
    if !is_child_process() {
        let name = "store::sqlite::judge_tests::a_write_that_the_file_system_refuses_ends_the_writer_and_leaves_the_store_whole";
        return in_child_process::<&str, &str>(name, &[]);
    }
    let (_directory, options) = made();
    let (mut writer, reader) = open(&options).unwrap();
    let blob = |byte: u8, len: usize| -> (_, Arc<[u8]>) {
        let bytes: Arc<[u8]> = vec![byte; len].into();
        (sha256(&bytes), bytes)
    };
    let (kept, lost) = (blob(1, 100), blob(2, 1 << 20));
    writer.put_blobs(std::slice::from_ref(&kept)).unwrap();
    // Beyond this size a write is refused with EFBIG: an error of the device, as far as SQLite knows. The signal that comes along waits.
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGXFSZ);
    signals.thread_block().unwrap();
    let (_, most) = getrlimit(Resource::RLIMIT_FSIZE).unwrap();
    setrlimit(Resource::RLIMIT_FSIZE, 512 << 10, most).unwrap();
    let fault = writer.put_blobs(std::slice::from_ref(&lost)).unwrap_err();
    setrlimit(Resource::RLIMIT_FSIZE, most, most).unwrap();
    assert_eq!(means(&fault), Means::Lost(Broken::Io), "{fault}");
    // A second try proves nothing, though it would work now.
    let again = writer.put_blobs(std::slice::from_ref(&lost)).unwrap_err();
    assert_eq!(means(&again), Means::Lost(Broken::Poisoned), "{again}");
    drop((writer, reader));
    let (mut writer, _) = open(&options).unwrap();
    let reader = open_reader(&options).unwrap();
    assert!(reader.blob(&kept.0).unwrap().is_some() && reader.blob(&lost.0).unwrap().is_none());
    writer.put_blobs(std::slice::from_ref(&lost)).unwrap();
    assert!(reader.blob(&lost.0).unwrap().is_some());
}
