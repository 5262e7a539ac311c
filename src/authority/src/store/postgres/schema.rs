//! Tables of the PostgreSQL store and how older ones become newer ones.
//!
//! Everything is in a schema of its own. Migrations are numbered from 1, run in order in one transaction under the lock of the origin's
//! row, and are recorded with the SHA-256 of their text, so that a store made by a program whose migration said something else is refused
//! instead of misread.

use std::collections::BTreeMap;

use countersign_core::digest::sha256;

use super::super::OpenFault;
use super::super::failpoint::{FailpointSet, WritePoint};
use super::super::fault::StoreFault;
use super::link::{RowFault, Session, column, words};

/// The schema that holds all tables.
pub(super) const SCHEMA: &str = "countersign";
/// The newest version that this program knows.
pub(super) const SCHEMA_VERSION: i32 = 3;
/// Notifications: something was committed that other replicas want to know.
pub(super) const CHANNEL: &str = "countersign_head";

/// Version 1; the tables are those of the SQLite store. `frontier` has one row from the start, since it is the row whose lock makes appends
/// serial; at size 0 there is no head. `clock_ms`
/// is the clock that all replicas are compared with. Leaves are salted and blobs often compressed already, so neither is compressed again.
const VERSION_1: &str = "
CREATE TABLE leaf (idx bigint PRIMARY KEY, bytes bytea NOT NULL);
ALTER TABLE leaf ALTER COLUMN bytes SET STORAGE EXTERNAL;
CREATE TABLE leaf_hash (idx bigint PRIMARY KEY, hashes bytea NOT NULL CHECK (length(hashes) = 160));
CREATE TABLE node (
    level smallint NOT NULL, idx bigint NOT NULL, hashes bytea NOT NULL CHECK (length(hashes) = 160),
    PRIMARY KEY (level, idx)
);
CREATE TABLE head (size bigint PRIMARY KEY, body text NOT NULL);
CREATE TABLE frontier (
    one integer PRIMARY KEY CHECK (one = 1), size bigint NOT NULL,
    sha256 bytea NOT NULL, sha3_512 bytea NOT NULL, blake2b_512 bytea NOT NULL
);
INSERT INTO frontier VALUES (1, 0, '', '', '');
CREATE TABLE signature (
    size bigint NOT NULL REFERENCES head (size), key_id bytea NOT NULL CHECK (length(key_id) = 4),
    signature bytea NOT NULL, PRIMARY KEY (size, key_id)
);
CREATE TABLE control (number bigint PRIMARY KEY, idx bigint NOT NULL);
CREATE TABLE outcome (
    host bytea NOT NULL, request_id text COLLATE \"C\" NOT NULL, request bytea NOT NULL, idx bigint NOT NULL,
    PRIMARY KEY (host, request_id)
);
CREATE TABLE host (
    host bytea PRIMARY KEY, enrolment_idx bigint NOT NULL, enrolment_hash bytea NOT NULL, key bytea NOT NULL UNIQUE,
    state bytea NOT NULL, state_idx bigint NOT NULL
);
CREATE TABLE budget (idx bigint PRIMARY KEY, remaining bigint NOT NULL CHECK (remaining >= 0));
CREATE TABLE join_token (token bytea PRIMARY KEY, expires_ms bigint NOT NULL, idx bigint NOT NULL, spent_idx bigint);
CREATE TABLE spent (
    expires_ms bigint NOT NULL, kind smallint NOT NULL, id bytea NOT NULL, PRIMARY KEY (expires_ms, kind, id)
);
CREATE TABLE blob (digest bytea PRIMARY KEY, bytes bytea NOT NULL);
ALTER TABLE blob ALTER COLUMN bytes SET STORAGE EXTERNAL;
CREATE TABLE pending_enrolment (id bytea PRIMARY KEY, expires_ms bigint NOT NULL, record bytea NOT NULL);
CREATE TABLE challenge_key (id bytea PRIMARY KEY, key bytea NOT NULL, made_ms bigint NOT NULL);
CREATE TABLE acknowledgement (gateway bytea PRIMARY KEY, control bigint NOT NULL, time_ms bigint NOT NULL);
CREATE FUNCTION clock_ms() RETURNS bigint LANGUAGE sql VOLATILE
    AS 'SELECT pg_catalog.floor(extract(epoch FROM pg_catalog.clock_timestamp()) * 1000)::bigint';
";

/// Version 2: what witnesses say of a head. Apart from `signature`, which says by its largest size up to where the log is signed.
const VERSION_2: &str = "
CREATE TABLE cosignature (
    size bigint NOT NULL REFERENCES head (size), name text COLLATE \"C\" NOT NULL,
    key_id bytea NOT NULL CHECK (length(key_id) = 4), signature bytea NOT NULL, PRIMARY KEY (size, name, key_id)
);
";

/// Version 3: what was pruned, and when. Not a projection: no leaf tells of it.
const VERSION_3: &str = "
CREATE TABLE pruning (
    id bigint PRIMARY KEY, at_ms bigint NOT NULL, before_ms bigint NOT NULL, upto bigint NOT NULL,
    blobs bigint NOT NULL, bytes bigint NOT NULL
);
CREATE TABLE pruned (digest bytea PRIMARY KEY, pruning bigint NOT NULL);
";

const MIGRATIONS: &[(i32, &str)] = &[(1, VERSION_1), (2, VERSION_2), (3, VERSION_3)];

/// Tables that a rebuild empties and fills from the leaves.
pub(super) const PROJECTIONS: [&str; 5] = ["control", "outcome", "host", "budget", "join_token"];

fn fault(fault: &RowFault) -> OpenFault {
    OpenFault::Postgres(fault.to_string())
}

/// Makes a store of this log.
pub(super) async fn found(session: &Session, origin: &str) -> Result<(), OpenFault> {
    let exists = "SELECT 1 FROM pg_catalog.pg_namespace WHERE nspname = $1";
    if session.row(exists, &[&SCHEMA]).await.map_err(|error| fault(&error))?.is_some() {
        return Err(OpenFault::Exists);
    }
    let made = async {
        session
            .simply(&format!(
                "BEGIN; CREATE SCHEMA {SCHEMA}; REVOKE ALL ON SCHEMA {SCHEMA} FROM PUBLIC;
                 CREATE TABLE origin (one integer PRIMARY KEY CHECK (one = 1), origin text NOT NULL);
                 CREATE TABLE migration (version integer PRIMARY KEY, sha256 bytea NOT NULL);"
            ))
            .await?;
        session.execute("INSERT INTO origin (one, origin) VALUES (1, $1)", &[&origin]).await?;
        migrate(session, 0).await?;
        // A crash before this commit leaves a database without the schema; after it, a whole store.
        session.simply("COMMIT").await
    };
    let made: Result<(), RowFault> = made.await;
    made.map_err(|error| fault(&error))
}

/// Refuses what isn't this log's store or is newer than this program, and changes nothing. Returns the version that the store has.
async fn check(session: &Session, origin: &str) -> Result<i32, OpenFault> {
    let read = session.row("SELECT origin FROM origin WHERE one = 1", &[]).await;
    let row = match read {
        Ok(row) => row,
        // undefined_table, insufficient_privilege
        Err(RowFault::Database(error)) if error.code().is_some_and(|code| code.code() == "42P01") => {
            return Err(OpenFault::NotAStore);
        }
        Err(RowFault::Database(error)) => return Err(OpenFault::Postgres(words(&error))),
        Err(other) => return Err(fault(&other)),
    };
    let found: String = match &row {
        Some(row) => column(row, 0).map_err(|error| fault(&error))?,
        None => return Err(OpenFault::NotAStore),
    };
    if found != origin {
        return Err(OpenFault::OtherLog { found, expected: origin.to_owned() });
    }
    version(session).await
}

/// Refuses the same, and a store that isn't of this program's version: who only reads doesn't bring it up to date.
pub(super) async fn check_reading(session: &Session, origin: &str) -> Result<(), OpenFault> {
    match check(session, origin).await? {
        SCHEMA_VERSION => Ok(()),
        found => Err(OpenFault::Older { found, known: SCHEMA_VERSION }),
    }
}

/// Refuses the same as [`check`], and brings an older store up to date.
pub(super) async fn upgrade(
    session: &Session,
    origin: &str,
    failpoints: &FailpointSet,
) -> Result<(), OpenFault> {
    if check(session, origin).await? < SCHEMA_VERSION {
        let injected = |injected| OpenFault::Upgrade(StoreFault::injected(injected, "upgrade"));
        let locked = session.simply("BEGIN; SELECT 1 FROM origin WHERE one = 1 FOR UPDATE").await;
        locked.map_err(|error| fault(&error))?;
        // Read again: another replica that started at the same time may have done it while this one waited for the row.
        let version = version(session).await?;
        // A crash before this commit leaves the older version; the next start migrates again.
        migrate(session, version).await.map_err(|error| fault(&error))?;
        failpoints.reach(WritePoint::BeforeAside).map_err(injected)?;
        session.commit("COMMIT").await.map_err(|error| fault(&error))?;
        failpoints.reach(WritePoint::AfterAside).map_err(injected)?;
    }
    Ok(())
}

/// The version that the store has, each of its migrations being this program's.
async fn version(session: &Session) -> Result<i32, OpenFault> {
    let rows = session.rows("SELECT version, sha256 FROM migration ORDER BY version", &[]).await;
    let mut recorded = BTreeMap::new();
    for row in rows.map_err(|error| fault(&error))? {
        let version: i32 = column(&row, 0).map_err(|error| fault(&error))?;
        let digest: Vec<u8> = column(&row, 1).map_err(|error| fault(&error))?;
        recorded.insert(version, digest);
    }
    // A store has the first one from its making on.
    let newest = recorded.keys().next_back().map_or(1, |newest| (*newest).max(1));
    if newest > SCHEMA_VERSION {
        return Err(OpenFault::Newer { found: newest, known: SCHEMA_VERSION });
    }
    for (version, text) in MIGRATIONS.iter().filter(|(version, _)| *version <= newest) {
        if recorded.get(version).is_none_or(|digest| digest != sha256(text.as_bytes()).as_bytes()) {
            return Err(OpenFault::Migration { version: *version });
        }
    }
    Ok(newest)
}

async fn migrate(session: &Session, from: i32) -> Result<(), RowFault> {
    for (number, text) in MIGRATIONS.iter().filter(|(number, _)| *number > from) {
        session.simply(text).await?;
        let digest = sha256(text.as_bytes());
        let bytes: &[u8] = digest.as_bytes();
        session.execute("INSERT INTO migration (version, sha256) VALUES ($1, $2)", &[number, &bytes]).await?;
    }
    Ok(())
}

/// Refuses a server that says committed before it is, and one that takes no writes.
pub(super) async fn durable(session: &Session) -> Result<(), OpenFault> {
    let sql = "SELECT current_setting('fsync'), current_setting('full_page_writes'),
               current_setting('synchronous_commit'), pg_catalog.pg_is_in_recovery()";
    let row = session.row(sql, &[]).await.map_err(|error| fault(&error))?.ok_or(OpenFault::NotAStore)?;
    let setting = |at| column::<&str>(&row, at).map_err(|error| fault(&error));
    for (at, refused) in [(0, "fsync = on"), (1, "full_page_writes = on"), (2, "synchronous_commit = on")] {
        if setting(at)? != "on" {
            return Err(OpenFault::Setting(refused));
        }
    }
    if column::<bool>(&row, 3).map_err(|error| fault(&error))? {
        return Err(OpenFault::Setting("writes: it is a standby"));
    }
    Ok(())
}
