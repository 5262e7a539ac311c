//! The embedded store: one SQLite file in WAL mode, one writing connection, a few reading ones.
//!
//! The writer holds a lock file beside the database for as long as it lives, so there is one writing process; within it there is one
//! writing thread. Commits are synced (`synchronous = FULL`) except for signatures, which can be made again.
//!
//! What reads alone opens the file for reading and changes nothing in it; SQLite may put the empty files of a journal beside it. Where it can't, and
//! there is no journal, the file is taken for one that nobody writes.
//!
//! Refused at open: a file that isn't there (only [`create`] makes one), isn't a store, is another log's, is newer than this program, or
//! whose writer lives. While serving, a database file that was deleted or replaced ends the writer.

mod apply;
mod facts;
mod file;
#[cfg(test)]
mod judge_tests;
mod prune;
mod read;
mod schema;
#[cfg(test)]
mod tests;
mod write;

use std::fs::{File, OpenOptions};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use countersign_core::name::Origin;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags};

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
    schema::upgrade(&mut connection, options.origin.as_str(), &options.failpoints)?;
    let origin = options.origin.to_string();
    let writer = SqliteWriter::new(connection, origin, lock, identity, options.failpoints.clone());
    // These could write, though none does: whichever connection is closed last copies the journal into the file, and removes it.
    let reading = || {
        let connection = connect(&options.path, READER_CACHE_KIB)?;
        connection.pragma_update(None, "query_only", true)?;
        Ok(connection)
    };
    Ok((writer, reader_of(options, reading)?))
}

/// Opens the reading side alone, beside a serving process or without one.
///
/// # Errors
/// [`OpenFault`].
pub fn open_reader(options: &SqliteOptions) -> Result<SqliteReader, OpenFault> {
    reader_of(options, || open_reading(options))
}

fn reader_of(
    options: &SqliteOptions,
    open: impl Fn() -> Result<Connection, OpenFault>,
) -> Result<SqliteReader, OpenFault> {
    let connections = (0..options.readers.max(1)).map(|_| open()).collect::<Result<_, _>>()?;
    Ok(SqliteReader::new(connections, options.origin.clone()))
}

/// A connection that can't write.
fn open_reading(options: &SqliteOptions) -> Result<Connection, OpenFault> {
    let open = |still| {
        let connection = connect_reading(&options.path, still)?;
        let version = schema::check(&connection, options.origin.as_str())?;
        Ok((connection, version))
    };
    let mut opened = open(false);
    if let Err(OpenFault::Database(fault)) = &opened
        && fault.sqlite_error_code() == Some(ErrorCode::CannotOpen)
        && options.path.exists()
    {
        // https://www.sqlite.org/wal.html#readonly: a file in WAL mode needs its journal beside it, which can't be made here. Without a journal
        // there is nothing that isn't in the file, and nobody can come to write where nothing can be written.
        let journal = file::beside(&options.path, "-wal");
        if std::fs::metadata(&journal).is_ok_and(|found| found.len() > 0) {
            return Err(OpenFault::Journal { path: journal });
        }
        opened = open(true);
    }
    match opened? {
        (connection, schema::SCHEMA_VERSION) => Ok(connection),
        (_, found) => Err(OpenFault::Older { found, known: schema::SCHEMA_VERSION }),
    }
}

fn refused(options: &SqliteOptions, source: std::io::Error) -> OpenFault {
    OpenFault::File { path: options.path.clone(), source }
}

/// Writing, as far as the file system lets it.
fn connect(path: &Path, cache_kib: i32) -> Result<Connection, OpenFault> {
    // No SQLITE_OPEN_CREATE: a missing file is a lost log, not a new one.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    configure(&connection, cache_kib)?;
    let journal: String =
        connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))?;
    if journal != "wal" {
        return Err(OpenFault::Setting("journal_mode = WAL"));
    }
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    connection.pragma_update_and_check(None, "wal_autocheckpoint", WAL_PAGES, |_| Ok(()))?;
    Ok(connection)
}

/// Reading; `still`: from a file that nobody changes meanwhile.
fn connect_reading(path: &Path, still: bool) -> Result<Connection, OpenFault> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = if still {
        // https://www.sqlite.org/uri.html: what isn't plain is escaped.
        let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"/-._~".contains(byte);
        let bytes =
            std::path::absolute(path).map_err(|source| OpenFault::File { path: path.to_owned(), source })?;
        let escaped: String = bytes
            .as_os_str()
            .as_bytes()
            .iter()
            .map(|byte| if plain(byte) { char::from(*byte).to_string() } else { format!("%{byte:02X}") })
            .collect();
        let uri = format!("file://{escaped}?immutable=1");
        Connection::open_with_flags(uri, flags | OpenFlags::SQLITE_OPEN_URI)?
    } else {
        Connection::open_with_flags(path, flags)?
    };
    configure(&connection, READER_CACHE_KIB)?;
    Ok(connection)
}

/// What both sides need.
fn configure(connection: &Connection, cache_kib: i32) -> Result<(), OpenFault> {
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(96);
    // Without this, SQLite plans a cached statement again whenever its parameters change: more work than the statement itself.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    connection.pragma_update(None, "trusted_schema", false)?;
    connection.pragma_update(None, "cell_size_check", true)?;
    connection.pragma_update(None, "cache_size", -cache_kib)?;
    Ok(())
}
