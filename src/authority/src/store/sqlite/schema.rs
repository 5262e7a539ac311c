//! Tables of the SQLite store and how older files become newer ones.
//!
//! Migrations are numbered from 1, run in order in one transaction, and are recorded with the SHA-256 of their text, so that a file made
//! by a program whose migration said something else is refused instead of misread.

use countersign_core::digest::{Sha256Digest, sha256};
use rusqlite::{Connection, OptionalExtension as _, Transaction, TransactionBehavior, params};

use super::super::failpoint::{FailpointSet, WritePoint};
use super::super::fault::StoreFault;
use super::OpenFault;

/// `PRAGMA application_id`: "CSGN".
pub(super) const APPLICATION_ID: i32 = 0x4353_474e;

/// The newest version that this program knows.
pub(super) const SCHEMA_VERSION: i32 = 3;

/// Version 1. The log: `leaf`, `leaf_hash`, `node`, `head`, `frontier`, `signature`. Projections: `outcome` to `join_token`. The rest is
/// the desk: what no leaf tells.
///
/// `leaf_hash` stands apart from `leaf`, so that a proof reads 160 bytes a leaf and not the leaves. `frontier` has one row: the right
/// edges at the newest size. `spent` stands in the order of expiry: what is added and what is forgotten are then neighbours, not pages all
/// over the table.
const VERSION_1: &str = "
CREATE TABLE origin (one INTEGER PRIMARY KEY CHECK (one = 1), origin TEXT NOT NULL) STRICT;
CREATE TABLE leaf (idx INTEGER PRIMARY KEY, bytes BLOB NOT NULL) STRICT;
CREATE TABLE leaf_hash (idx INTEGER PRIMARY KEY, hashes BLOB NOT NULL CHECK (length(hashes) = 160)) STRICT;
CREATE TABLE node (
    level INTEGER NOT NULL, idx INTEGER NOT NULL, hashes BLOB NOT NULL CHECK (length(hashes) = 160),
    PRIMARY KEY (level, idx)
) STRICT, WITHOUT ROWID;
CREATE TABLE head (size INTEGER PRIMARY KEY, body TEXT NOT NULL) STRICT;
CREATE TABLE frontier (
    one INTEGER PRIMARY KEY CHECK (one = 1), size INTEGER NOT NULL REFERENCES head (size),
    sha256 BLOB NOT NULL, sha3_512 BLOB NOT NULL, blake2b_512 BLOB NOT NULL
) STRICT;
CREATE TABLE signature (
    size INTEGER NOT NULL REFERENCES head (size), key_id BLOB NOT NULL CHECK (length(key_id) = 4),
    signature BLOB NOT NULL, PRIMARY KEY (size, key_id)
) STRICT, WITHOUT ROWID;
CREATE TABLE control (number INTEGER PRIMARY KEY, idx INTEGER NOT NULL) STRICT;
CREATE TABLE outcome (
    host BLOB NOT NULL, request_id TEXT NOT NULL, request BLOB NOT NULL, idx INTEGER NOT NULL,
    PRIMARY KEY (host, request_id)
) STRICT, WITHOUT ROWID;
CREATE TABLE host (
    host BLOB PRIMARY KEY, enrolment_idx INTEGER NOT NULL, enrolment_hash BLOB NOT NULL, key BLOB NOT NULL UNIQUE,
    state BLOB NOT NULL, state_idx INTEGER NOT NULL
) STRICT;
CREATE TABLE budget (idx INTEGER PRIMARY KEY, remaining INTEGER NOT NULL CHECK (remaining >= 0)) STRICT;
CREATE TABLE join_token (
    token BLOB PRIMARY KEY, expires_ms INTEGER NOT NULL, idx INTEGER NOT NULL, spent_idx INTEGER
) STRICT;
CREATE TABLE spent (
    expires_ms INTEGER NOT NULL, kind INTEGER NOT NULL, id BLOB NOT NULL, PRIMARY KEY (expires_ms, kind, id)
) STRICT, WITHOUT ROWID;
CREATE TABLE blob (digest BLOB PRIMARY KEY, bytes BLOB NOT NULL) STRICT;
CREATE TABLE pending_enrolment (id BLOB PRIMARY KEY, expires_ms INTEGER NOT NULL, record BLOB NOT NULL) STRICT;
CREATE TABLE challenge_key (id BLOB PRIMARY KEY, key BLOB NOT NULL, made_ms INTEGER NOT NULL) STRICT;
CREATE TABLE acknowledgement (
    gateway BLOB PRIMARY KEY, control INTEGER NOT NULL, time_ms INTEGER NOT NULL
) STRICT;
";

/// Version 2: what witnesses say of a head. Apart from `signature`, which says by its largest size up to where the log is signed.
const VERSION_2: &str = "
CREATE TABLE cosignature (
    size INTEGER NOT NULL REFERENCES head (size), name TEXT NOT NULL, key_id BLOB NOT NULL CHECK (length(key_id) = 4),
    signature BLOB NOT NULL, PRIMARY KEY (size, name, key_id)
) STRICT, WITHOUT ROWID;
";

/// Version 3: what was pruned, and when. Not a projection: no leaf tells of it.
const VERSION_3: &str = "
CREATE TABLE pruning (
    id INTEGER PRIMARY KEY, at_ms INTEGER NOT NULL, before_ms INTEGER NOT NULL, upto INTEGER NOT NULL,
    blobs INTEGER NOT NULL, bytes INTEGER NOT NULL
) STRICT;
CREATE TABLE pruned (digest BLOB PRIMARY KEY, pruning INTEGER NOT NULL) STRICT, WITHOUT ROWID;
";

const MIGRATIONS: &[(i32, &str)] = &[(1, VERSION_1), (2, VERSION_2), (3, VERSION_3)];

/// Tables that a rebuild empties and fills from the leaves.
pub(super) const PROJECTIONS: [&str; 5] = ["control", "outcome", "host", "budget", "join_token"];

/// Makes an empty file a store of this log.
pub(super) fn found(connection: &mut Connection, origin: &str) -> Result<(), OpenFault> {
    let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    tx.execute_batch("CREATE TABLE migration (version INTEGER PRIMARY KEY, sha256 BLOB NOT NULL) STRICT;")?;
    migrate(&tx, 0)?;
    tx.execute("INSERT INTO origin (one, origin) VALUES (1, ?1)", [origin])?;
    // The mark comes with the tables: a crash before this commit leaves a file that `check` refuses as no store.
    tx.pragma_update(None, "application_id", APPLICATION_ID)?;
    tx.commit()?;
    Ok(())
}

/// Refuses what isn't this log's store or is newer than this program, and changes nothing. Returns the version that the file has.
pub(super) fn check(connection: &Connection, origin: &str) -> Result<i32, OpenFault> {
    let application: i32 = connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
    if application != APPLICATION_ID {
        return Err(OpenFault::NotAStore);
    }
    let version: i32 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if version > SCHEMA_VERSION {
        return Err(OpenFault::Newer { found: version, known: SCHEMA_VERSION });
    }
    let found: String = connection.query_row("SELECT origin FROM origin", [], |row| row.get(0))?;
    if found != origin {
        return Err(OpenFault::OtherLog { found, expected: origin.to_owned() });
    }
    for (number, text) in MIGRATIONS.iter().filter(|(number, _)| *number <= version) {
        let sql = "SELECT sha256 FROM migration WHERE version = ?1";
        let recorded: Option<[u8; 32]> = connection.query_row(sql, [number], |row| row.get(0)).optional()?;
        if recorded.map(Sha256Digest::new) != Some(sha256(text.as_bytes())) {
            return Err(OpenFault::Migration { version: *number });
        }
    }
    Ok(version)
}

/// Refuses the same, and brings an older file up to date.
pub(super) fn upgrade(
    connection: &mut Connection,
    origin: &str,
    failpoints: &FailpointSet,
) -> Result<(), OpenFault> {
    let version = check(connection, origin)?;
    if version < SCHEMA_VERSION {
        let injected = |injected| OpenFault::Upgrade(StoreFault::injected(injected, "upgrade"));
        let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        migrate(&tx, version)?;
        failpoints.reach(WritePoint::BeforeAside).map_err(injected)?;
        // A crash before this commit leaves the older version; the next start migrates again.
        tx.commit()?;
        failpoints.reach(WritePoint::AfterAside).map_err(injected)?;
    }
    Ok(())
}

fn migrate(tx: &Transaction<'_>, from: i32) -> Result<(), OpenFault> {
    for (number, text) in MIGRATIONS.iter().filter(|(number, _)| *number > from) {
        tx.execute_batch(text)?;
        let digest = sha256(text.as_bytes());
        tx.execute(
            "INSERT INTO migration (version, sha256) VALUES (?1, ?2)",
            params![number, digest.as_bytes()],
        )?;
        tx.pragma_update(None, "user_version", number)?;
    }
    Ok(())
}
