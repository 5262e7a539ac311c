//! The embedded store: one SQLite file in WAL mode, one writing connection, a few reading ones.
//!
//! The writer holds a lock file beside the database for as long as it lives, so there is one writing process; within it there is one
//! writing thread. Commits are synced (`synchronous = FULL`) except for signatures, which can be made again.
//!
//! Refused at open: a file that isn't there (only [`create`] makes one), isn't a store, is another log's, is newer than this program, or
//! whose writer lives. While serving, a database file that was deleted or replaced ends the writer.

mod apply;
mod facts;
mod file;
mod prune;
mod read;
mod schema;
#[cfg(test)]
mod tests;
mod write;

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use countersign_core::name::Origin;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use super::failpoint::FailpointSet;
use super::ints::{int, uint};

pub use super::OpenFault;

pub use prune::prune;
pub use read::SqliteReader;
pub use write::SqliteWriter;

/// How long a connection waits for another one's lock; only a checkpoint or a backup tool can hold it for long.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Pages in the WAL before a commit copies them back: 64 MiB, about 15 s of full load, so that the copying is rare.
const WAL_PAGES: i32 = 16_384;
/// Page cache of the writer in KiB: the inner pages of every index stay in it up to some ten million leaves. Not more, since after a commit
/// that moved pages SQLite looks through the whole cache: 128 MiB cost 9 % of the sequencer's time.
const WRITER_CACHE_KIB: i32 = 24_576;
/// Page cache of each reader in KiB. Every commit empties it, so that it only has to hold what one query reads.
const READER_CACHE_KIB: i32 = 2_048;

/// Where a store is and how to open it.
#[derive(Clone, Debug)]
pub struct SqliteOptions {
    /// The database file.
    pub path: PathBuf,
    /// The log that must be in it.
    pub origin: Origin,
    /// Reading connections.
    pub readers: usize,
    /// Failures to inject; none in service.
    pub failpoints: FailpointSet,
}

impl SqliteOptions {
    /// A store with four readers and no failpoints.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>, origin: Origin) -> Self {
        Self { path: path.into(), origin, readers: 4, failpoints: FailpointSet::none() }
    }
}

/// Makes a new, empty store. It holds MAC keys, so only its owner may read it.
///
/// # Errors
/// [`OpenFault::File`] if there is a file already, and whatever else keeps it from being made.
pub fn create(path: &Path, origin: &Origin) -> Result<(), OpenFault> {
    let refused = |source| OpenFault::File { path: path.to_owned(), source };
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(refused)?;
    drop(file);
    let mut connection = connect(path, WRITER_CACHE_KIB)?;
    schema::found(&mut connection, origin.as_str())?;
    // The name has to survive as well as the bytes.
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent).and_then(|directory| directory.sync_all()).map_err(refused)
}

/// Opens both sides of a store.
///
/// # Errors
/// [`OpenFault`].
pub fn open(options: &SqliteOptions) -> Result<(SqliteWriter, SqliteReader), OpenFault> {
    let lock = file::WriterLock::take(&options.path)?;
    let identity = file::Identity::of(&options.path).map_err(|source| refused(options, source))?;
    let mut connection = connect(&options.path, WRITER_CACHE_KIB)?;
    schema::check(&mut connection, options.origin.as_str())?;
    let origin = options.origin.to_string();
    let writer = SqliteWriter::new(connection, origin, lock, identity, options.failpoints.clone());
    Ok((writer, open_reader(options)?))
}

/// Opens the reading side alone, beside a serving process or without one.
///
/// # Errors
/// [`OpenFault`].
pub fn open_reader(options: &SqliteOptions) -> Result<SqliteReader, OpenFault> {
    let mut connections = Vec::new();
    for _ in 0..options.readers.max(1) {
        let mut connection = connect(&options.path, READER_CACHE_KIB)?;
        schema::check(&mut connection, options.origin.as_str())?;
        connection.pragma_update(None, "query_only", true)?;
        connections.push(connection);
    }
    Ok(SqliteReader::new(connections, options.origin.clone()))
}

fn refused(options: &SqliteOptions, source: std::io::Error) -> OpenFault {
    OpenFault::File { path: options.path.clone(), source }
}

fn connect(path: &Path, cache_kib: i32) -> Result<Connection, OpenFault> {
    // No SQLITE_OPEN_CREATE: a missing file is a lost log, not a new one.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(96);
    // Without this, SQLite plans a cached statement again whenever its parameters change: more work than the statement itself.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    let journal: String =
        connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))?;
    if journal != "wal" {
        return Err(OpenFault::Setting("journal_mode = WAL"));
    }
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    connection.pragma_update(None, "trusted_schema", false)?;
    connection.pragma_update(None, "cell_size_check", true)?;
    connection.pragma_update(None, "cache_size", -cache_kib)?;
    connection.pragma_update_and_check(None, "wal_autocheckpoint", WAL_PAGES, |_| Ok(()))?;
    Ok(connection)
}
