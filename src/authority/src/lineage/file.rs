//! The file of the lineage index: its tables, and when it is thrown away.

use super::IndexFault;
use crate::store::Reader;
use countersign_core::leaf::leaf_hash;
use rusqlite::{Connection, OpenFlags, OptionalExtension as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Another number makes every file of an older program be made anew.
const VERSION: i32 = 1;
/// How long a reader or the follower waits for the other.
const BUSY: Duration = Duration::from_secs(5);

/// `value` names what is filed by; `term` files. `boot` says of which boots the registers are known, `pcr` what is in them. `span` says which
/// leaves a head key was the first to sign for. `ak` and `reference` are what the leaves so far say of hosts and of control numbers.
const TABLES: &str = "
CREATE TABLE meta (
    one INTEGER PRIMARY KEY CHECK (one = 1), origin TEXT NOT NULL, next INTEGER NOT NULL, last BLOB,
    control INTEGER NOT NULL
) STRICT;
CREATE TABLE value (id INTEGER PRIMARY KEY, kind INTEGER NOT NULL, value BLOB NOT NULL, UNIQUE (kind, value)) STRICT;
CREATE TABLE term (value INTEGER NOT NULL, idx INTEGER NOT NULL, PRIMARY KEY (value, idx)) STRICT, WITHOUT ROWID;
CREATE TABLE boot (id INTEGER PRIMARY KEY, digest BLOB NOT NULL, first INTEGER NOT NULL, known INTEGER NOT NULL) STRICT;
CREATE TABLE pcr (
    bank INTEGER NOT NULL, pcr INTEGER NOT NULL, value BLOB NOT NULL, boot INTEGER NOT NULL,
    PRIMARY KEY (bank, pcr, value, boot)
) STRICT, WITHOUT ROWID;
CREATE INDEX unknown_boot ON boot (id) WHERE known = 0;
CREATE TABLE outcome (artifact INTEGER NOT NULL, idx INTEGER NOT NULL, PRIMARY KEY (artifact, idx)) STRICT, WITHOUT ROWID;
CREATE TABLE span (key BLOB NOT NULL, first INTEGER NOT NULL, upto INTEGER NOT NULL, PRIMARY KEY (key, first)) STRICT, WITHOUT ROWID;
CREATE TABLE ak (host BLOB PRIMARY KEY, ak BLOB NOT NULL) STRICT;
CREATE TABLE reference (number INTEGER PRIMARY KEY, digest BLOB NOT NULL) STRICT;
";

/// SQLite's integers are signed; everything here stays below 2^63 by the limit on tree sizes.
pub(super) fn int(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

pub(super) fn uint(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

/// For questions. Reads only.
pub(super) fn open_to_read(path: &Path) -> Result<Connection, IndexFault> {
    let connection = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    connection.busy_timeout(BUSY)?;
    connection.pragma_update(None, "query_only", true)?;
    Ok(connection)
}

/// For the follower: the index as it was left, or an empty one if that can't be gone on with.
pub(super) fn open_to_follow(
    path: &Path,
    origin: &str,
    store: &dyn Reader,
) -> Result<Connection, IndexFault> {
    if path.exists() {
        match opened(path, origin, store) {
            Ok(Some(connection)) => return Ok(connection),
            Ok(None) => tracing::warn!("the lineage index is of another state of the log and is made anew"),
            Err(IndexFault::Store(fault)) => return Err(fault.into()),
            Err(fault) => tracing::warn!(%fault, "the lineage index can't be read and is made anew"),
        }
        discard(path)?;
    }
    made(path, origin)
}

fn connect(path: &Path) -> Result<Connection, IndexFault> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(BUSY)?;
    connection.set_prepared_statement_cache_capacity(32);
    connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    // Losing the last steps at a crash is fine: they are done again. Tearing the file isn't, and WAL doesn't.
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    connection.pragma_update(None, "trusted_schema", false)?;
    connection.pragma_update(None, "cell_size_check", true)?;
    Ok(connection)
}

/// `None`: a good file that doesn't belong to what the store holds now.
fn opened(path: &Path, origin: &str, store: &dyn Reader) -> Result<Option<Connection>, IndexFault> {
    let connection = connect(path)?;
    let version: i32 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if version != VERSION {
        return Ok(None);
    }
    let sql = "SELECT origin, next, last FROM meta";
    let row = connection.query_row(sql, [], |row| {
        Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?, row.get::<_, Option<Vec<u8>>>(2)?))
    });
    let Some((found, next, last)) = row.optional()? else { return Ok(None) };
    let same = match uint(next).checked_sub(1) {
        None => true,
        // The last leaf that was filed is still where it was: the store isn't an older one or another one.
        Some(index) => {
            store.leaf(index)?.is_some_and(|leaf| Some(&leaf_hash(&leaf).as_bytes()[..]) == last.as_deref())
        }
    };
    Ok((found == origin && same).then_some(connection))
}

fn made(path: &Path, origin: &str) -> Result<Connection, IndexFault> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    drop(file.map_err(|error| IndexFault::Database(error.to_string()))?);
    let mut connection = connect(path)?;
    let tx = connection.transaction()?;
    tx.execute_batch(TABLES)?;
    tx.execute("INSERT INTO meta (one, origin, next, last, control) VALUES (1, ?1, 0, NULL, 0)", [origin])?;
    tx.pragma_update(None, "user_version", VERSION)?;
    tx.commit()?;
    Ok(connection)
}

fn discard(path: &Path) -> Result<(), IndexFault> {
    for suffix in ["-wal", "-shm", ""] {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        match std::fs::remove_file(PathBuf::from(name)) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(IndexFault::Database(error.to_string())),
        }
    }
    Ok(())
}
