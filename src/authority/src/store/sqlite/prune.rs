//! Pruning a file: what stays is noted in a temporary table, and each page of leaves is one transaction under SQLite's write lock.
//!
//! Where an authority serves from the file, its writer and this connection take turns; where none does, the writer's lock is held, so that none
//! begins to. Refused: a file that was deleted or replaced meanwhile.

use countersign_core::digest::Sha256Digest;
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::super::Pruning;
use super::super::prune::{Digests, PruneFault, PrunePlan, Shears, Weight, prune as prune_with};
use super::facts::RowResult;
use super::file::{Identity, WriterLock};
use super::{OpenFault, SqliteOptions, int, open_reader, schema, uint};

impl From<rusqlite::Error> for PruneFault {
    fn from(fault: rusqlite::Error) -> Self {
        Self::Write(fault.to_string())
    }
}

/// Prunes a store. `progress` is told how many leaves are done, of both passes together.
///
/// # Errors
/// [`PruneFault`].
pub fn prune(
    options: &SqliteOptions,
    plan: &PrunePlan,
    progress: &mut dyn FnMut(u64),
) -> Result<Pruning, PruneFault> {
    let lock = match WriterLock::take(&options.path) {
        Ok(lock) => Some(lock),
        Err(OpenFault::InUse { .. }) => None,
        Err(fault) => return Err(fault.into()),
    };
    let file = |source| OpenFault::File { path: options.path.clone(), source };
    let identity = Identity::of(&options.path).map_err(file)?;
    let mut connection = super::connect(&options.path, super::WRITER_CACHE_KIB)?;
    schema::upgrade(&mut connection, options.origin.as_str(), &options.failpoints)?;
    connection.pragma_update(None, "temp_store", "FILE")?;
    connection.execute_batch(
        "CREATE TEMP TABLE keep (digest BLOB PRIMARY KEY, opened INTEGER NOT NULL) WITHOUT ROWID",
    )?;
    let reader = open_reader(options)?;
    let mut file = PrunedFile { connection, identity };
    prune_with(&mut file, &reader, plan, lock.is_none(), progress)
}

const PRUNING: &str = "SELECT at_ms, before_ms, upto, blobs, bytes, id FROM pruning";
/// What was pruned, as one page of it is copied.
const COPIED: usize = 1_024;

fn pruning(row: &Row<'_>) -> rusqlite::Result<Pruning> {
    Ok(Pruning {
        at_ms: uint(row.get(0)?),
        before_ms: uint(row.get(1)?),
        upto: uint(row.get(2)?),
        blobs: uint(row.get(3)?),
        bytes: uint(row.get(4)?),
    })
}

/// Prunings that a store tells of.
pub(super) fn recorded(connection: &Connection) -> RowResult<Vec<Pruning>> {
    Ok(numbered(connection)?.into_iter().map(|(_, pruning)| pruning).collect())
}

/// The same with their numbers.
pub(super) fn numbered(connection: &Connection) -> RowResult<Vec<(i64, Pruning)>> {
    let mut statement = connection.prepare_cached(&format!("{PRUNING} ORDER BY id"))?;
    let rows = statement.query_map([], |row| Ok((row.get(5)?, pruning(row)?)))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// A page of what was pruned, in the order of digests.
pub(super) fn page_after(connection: &Connection, after: &[u8]) -> RowResult<Vec<(Sha256Digest, i64)>> {
    let sql = format!("SELECT digest, pruning FROM pruned WHERE digest > ?1 ORDER BY digest LIMIT {COPIED}");
    let mut statement = connection.prepare_cached(&sql)?;
    let rows = statement.query_map([after], |row| Ok((Sha256Digest::new(row.get(0)?), row.get(1)?)))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// The pruning that took this member.
pub(super) fn took(connection: &Connection, digest: &Sha256Digest) -> RowResult<Option<Pruning>> {
    let sql = format!("{PRUNING} WHERE id = (SELECT pruning FROM pruned WHERE digest = ?1)");
    Ok(connection.prepare_cached(&sql)?.query_row([digest.as_bytes()], pruning).optional()?)
}

struct PrunedFile {
    connection: Connection,
    identity: Identity,
}

impl Shears for PrunedFile {
    fn begin(&mut self) -> Result<(), PruneFault> {
        if !self.identity.holds() {
            return Err(PruneFault::Replaced);
        }
        Ok(self.connection.execute_batch("BEGIN IMMEDIATE")?)
    }

    fn keep(&mut self, digests: &Digests, opened: bool) -> Result<Vec<Sha256Digest>, PruneFault> {
        let sql = "INSERT INTO temp.keep (digest, opened) VALUES (?1, ?2)
                   ON CONFLICT (digest) DO UPDATE SET opened = 1 WHERE opened < excluded.opened";
        let mut note = self.connection.prepare_cached(sql)?;
        let mut first = Vec::new();
        for digest in digests {
            if note.execute(params![digest.as_bytes(), opened])? > 0 {
                first.push(*digest);
            }
        }
        Ok(first)
    }

    fn weigh(&mut self, digests: &Digests) -> Result<Weight, PruneFault> {
        let sql = "SELECT length(bytes) FROM blob
                   WHERE digest = ?1 AND NOT EXISTS (SELECT 1 FROM temp.keep WHERE keep.digest = ?1)";
        let mut find = self.connection.prepare_cached(sql)?;
        let mut weight = Weight::default();
        for digest in digests {
            let length: Option<i64> = find.query_row([digest.as_bytes()], |row| row.get(0)).optional()?;
            if let Some(length) = length {
                weight.add(uint(length));
            }
        }
        Ok(weight)
    }

    fn remove(&mut self, digests: &Digests, id: i64) -> Result<Weight, PruneFault> {
        let sql = "DELETE FROM blob
                   WHERE digest = ?1 AND NOT EXISTS (SELECT 1 FROM temp.keep WHERE keep.digest = ?1)
                   RETURNING length(bytes)";
        let mut delete = self.connection.prepare_cached(sql)?;
        let sql = "INSERT OR REPLACE INTO pruned (digest, pruning) VALUES (?1, ?2)";
        let mut tell = self.connection.prepare_cached(sql)?;
        let mut weight = Weight::default();
        for digest in digests {
            let length: Option<i64> = delete.query_row([digest.as_bytes()], |row| row.get(0)).optional()?;
            if let Some(length) = length {
                tell.execute(params![digest.as_bytes(), id])?;
                weight.add(uint(length));
            }
        }
        Ok(weight)
    }

    fn next_id(&mut self) -> Result<i64, PruneFault> {
        let sql = "SELECT coalesce(max(id), 0) + 1 FROM pruning";
        Ok(self.connection.query_row(sql, [], |row| row.get(0))?)
    }

    fn record(&mut self, id: i64, pruning: &Pruning) -> Result<(), PruneFault> {
        let sql = "INSERT OR REPLACE INTO pruning (id, at_ms, before_ms, upto, blobs, bytes)
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
        let Pruning { at_ms, before_ms, upto, blobs, bytes } = *pruning;
        let row = params![id, int(at_ms), int(before_ms), int(upto), int(blobs), int(bytes)];
        self.connection.prepare_cached(sql)?.execute(row)?;
        Ok(())
    }

    fn commit(&mut self) -> Result<(), PruneFault> {
        Ok(self.connection.execute_batch("COMMIT")?)
    }
}
