//! Pruning a database: what stays is noted in a temporary table of the session, and each page of leaves is one transaction under the log's lock.

use countersign_core::digest::Sha256Digest;
use tokio_postgres::Row;

use super::super::Pruning;
use super::super::ints::{int, uint};
use super::super::prune::{Digests, PruneFault, PrunePlan, Shears, Weight, prune as prune_with};
use super::link::{Link, RowFault, RowResult, Session, bytes, column};
use super::{PostgresOptions, open_reader, write};

impl From<RowFault> for PruneFault {
    fn from(fault: RowFault) -> Self {
        Self::Write(fault.to_string())
    }
}

/// Prunes a store, which any number of authorities may use meanwhile. `progress` is told how many leaves are done, of both passes together.
///
/// # Errors
/// [`PruneFault`].
pub fn prune(
    options: &PostgresOptions,
    plan: &PrunePlan,
    progress: &mut dyn FnMut(u64),
) -> Result<Pruning, PruneFault> {
    let link = write::open(options)?;
    let notes = "CREATE TEMP TABLE keep (digest bytea PRIMARY KEY, opened boolean NOT NULL)";
    link.run(link.session.simply(notes)).flatten()?;
    let reader = open_reader(options)?;
    prune_with(&mut PrunedDatabase(link), &reader, plan, true, progress)
}

fn pruning(row: &Row) -> RowResult<Pruning> {
    Ok(Pruning {
        at_ms: uint(column(row, 0)?),
        before_ms: uint(column(row, 1)?),
        upto: uint(column(row, 2)?),
        blobs: uint(column(row, 3)?),
        bytes: uint(column(row, 4)?),
    })
}

/// Prunings that a store tells of.
pub(super) async fn recorded(session: &Session) -> RowResult<Vec<Pruning>> {
    let sql = "SELECT at_ms, before_ms, upto, blobs, bytes FROM pruning ORDER BY id";
    session.rows(sql, &[]).await?.iter().map(pruning).collect()
}

/// The pruning that took this member.
pub(super) async fn took(session: &Session, digest: &Sha256Digest) -> RowResult<Option<Pruning>> {
    let sql = "SELECT at_ms, before_ms, upto, blobs, bytes FROM pruning
               WHERE id = (SELECT pruning FROM pruned WHERE digest = $1)";
    let digest: &[u8] = digest.as_bytes();
    session.row(sql, &[&digest]).await?.as_ref().map(pruning).transpose()
}

struct PrunedDatabase(Link);

fn columns(digests: &Digests) -> Vec<&[u8]> {
    digests.iter().map(|digest| digest.as_bytes().as_slice()).collect()
}

impl PrunedDatabase {
    fn weight_of(rows: &[Row]) -> RowResult<Weight> {
        let mut weight = Weight::default();
        for row in rows {
            weight.add(u64::from(u32::try_from(column::<i32>(row, 0)?).unwrap_or(0)));
        }
        Ok(weight)
    }
}

impl Shears for PrunedDatabase {
    fn begin(&mut self) -> Result<(), PruneFault> {
        Ok(self.0.run(self.0.session.simply(write::LOCK)).flatten()?)
    }

    fn keep(&mut self, digests: &Digests, opened: bool) -> Result<Vec<Sha256Digest>, PruneFault> {
        let session = &self.0.session;
        let noted = self.0.run(async {
            let sql = "INSERT INTO keep (digest, opened) SELECT named, $2 FROM unnest($1::bytea[]) AS named
                       ON CONFLICT (digest) DO UPDATE SET opened = true WHERE keep.opened < excluded.opened
                       RETURNING digest";
            let rows = session.rows(sql, &[&columns(digests), &opened]).await?;
            rows.iter().map(|row| Ok(Sha256Digest::new(bytes(row, 0)?))).collect::<RowResult<_>>()
        });
        Ok(noted.flatten()?)
    }

    fn weigh(&mut self, digests: &Digests) -> Result<Weight, PruneFault> {
        let session = &self.0.session;
        let weighed = self.0.run(async {
            let sql = "SELECT length(bytes) FROM blob WHERE digest = ANY($1)
                       AND NOT EXISTS (SELECT 1 FROM keep WHERE keep.digest = blob.digest)";
            Self::weight_of(&session.rows(sql, &[&columns(digests)]).await?)
        });
        Ok(weighed.flatten()?)
    }

    fn remove(&mut self, digests: &Digests, id: i64) -> Result<Weight, PruneFault> {
        let session = &self.0.session;
        let removed = self.0.run(async {
            let sql = "WITH gone AS (
                           DELETE FROM blob WHERE digest = ANY($1)
                           AND NOT EXISTS (SELECT 1 FROM keep WHERE keep.digest = blob.digest)
                           RETURNING digest, length(bytes) AS size
                       ), told AS (
                           INSERT INTO pruned (digest, pruning) SELECT digest, $2::bigint FROM gone
                           ON CONFLICT (digest) DO UPDATE SET pruning = excluded.pruning
                       ) SELECT size FROM gone";
            Self::weight_of(&session.rows(sql, &[&columns(digests), &id]).await?)
        });
        Ok(removed.flatten()?)
    }

    fn next_id(&mut self) -> Result<i64, PruneFault> {
        let session = &self.0.session;
        let next = self.0.run(async {
            let row = session.row("SELECT coalesce(max(id), 0) + 1 FROM pruning", &[]).await?;
            column(&row.ok_or(RowFault::Corrupt("a number"))?, 0)
        });
        Ok(next.flatten()?)
    }

    fn record(&mut self, id: i64, pruning: &Pruning) -> Result<(), PruneFault> {
        Ok(self.0.run(tell(&self.0.session, id, pruning)).flatten()?)
    }

    fn commit(&mut self) -> Result<(), PruneFault> {
        Ok(self.0.run(self.0.session.commit("COMMIT")).flatten()?)
    }
}

/// Writes one record of a pruning.
pub(super) async fn tell(session: &Session, id: i64, pruning: &Pruning) -> RowResult<()> {
    let sql = "INSERT INTO pruning (id, at_ms, before_ms, upto, blobs, bytes) VALUES ($1, $2, $3, $4, $5, $6)
               ON CONFLICT (id) DO UPDATE SET upto = excluded.upto, blobs = excluded.blobs, bytes = excluded.bytes";
    let Pruning { at_ms, before_ms, upto, blobs, bytes } = *pruning;
    session.execute(sql, &[&id, &int(at_ms), &int(before_ms), &int(upto), &int(blobs), &int(bytes)]).await?;
    Ok(())
}
