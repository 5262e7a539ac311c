//! Reading inside the append transaction: what [`Wanted`] asks for, and rows as values, for the writer and the readers alike.

use countersign_core::digest::{Sha256Digest, sha256};
use countersign_core::leaf::host::HostState;
use countersign_core::name::{HostId, RequestId};
use countersign_core::note::NoteSignature;
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::super::{Frontiers, JoinTokenRow, KnownOutcome, Prior, SpentId, StoredHead, Tip, Wanted};
use super::{int, uint};

/// A read inside SQLite: the database's own fault, or a row that isn't what was written.
#[derive(Debug)]
pub(super) enum RowFault {
    Database(rusqlite::Error),
    Corrupt(&'static str),
}

impl From<rusqlite::Error> for RowFault {
    fn from(fault: rusqlite::Error) -> Self {
        Self::Database(fault)
    }
}

pub(super) type RowResult<T> = Result<T, RowFault>;

/// Everything that a batch wants to know, read under the writer's lock.
pub(super) fn prior(connection: &Connection, origin: &str, wanted: &Wanted) -> RowResult<Prior> {
    let mut prior = Prior { tip: tip(connection, origin)?, ..Prior::default() };
    for (host, request_id) in &wanted.outcomes {
        if let Some(known) = outcome(connection, host, request_id)? {
            prior.outcomes.insert((*host, request_id.clone()), known);
        }
    }
    for host in &wanted.hosts {
        if let Some((state, enrolment)) = host_standing(connection, host)? {
            prior.host_versions.insert(*host, state.version);
            prior.enrolments.insert(*host, enrolment);
        }
    }
    for key in &wanted.host_keys {
        if let Some(owner) = host_of_key(connection, key)? {
            prior.key_owners.insert(*key, owner);
        }
    }
    for index in &wanted.budgets {
        if let Some(left) = budget_left(connection, *index)? {
            prior.budgets.insert(*index, left);
        }
    }
    for id in &wanted.spent {
        if is_spent(connection, id)? {
            prior.spent.insert(*id);
        }
    }
    for token in &wanted.tokens {
        if let Some(row) = join_token(connection, token)? {
            prior.tokens.insert(*token, row);
        }
    }
    for digest in &wanted.blobs {
        let mut held = connection.prepare_cached("SELECT 1 FROM blob WHERE digest = ?1")?;
        if held.exists([digest.as_bytes()])? {
            prior.blobs.insert(*digest);
        }
    }
    let sql = "SELECT leaf.bytes FROM control JOIN leaf ON leaf.idx = control.idx
               WHERE control.number > ?1 ORDER BY control.number";
    let mut statement = connection.prepare_cached(sql)?;
    let rows = statement.query_map([int(wanted.control_after)], |row| row.get(0))?;
    prior.control_leaves = rows.collect::<Result<_, _>>()?;
    // Where nobody else appends it is always the newest one, and nothing more is read.
    prior.body_at = wanted.body_at.and_then(|size| prior.tip.as_ref()?.digest_at(size));
    if let (Some(size), None) = (wanted.body_at, prior.body_at) {
        let mut statement = connection.prepare_cached("SELECT body FROM head WHERE size = ?1")?;
        let body: Option<String> = statement.query_row([int(size)], |row| row.get(0)).optional()?;
        prior.body_at = body.map(|body| sha256(body.as_bytes()));
    }
    Ok(prior)
}

pub(super) fn tip(connection: &Connection, origin: &str) -> RowResult<Option<Tip>> {
    let sql = "SELECT frontier.size, body, sha256, sha3_512, blake2b_512
               FROM frontier JOIN head ON head.size = frontier.size";
    let row = connection
        .prepare_cached(sql)?
        .query_row([], |row| {
            let edges: [Vec<u8>; 3] = [row.get(2)?, row.get(3)?, row.get(4)?];
            Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?, edges))
        })
        .optional()?;
    let Some((size, text, [sha256, sha3_512, blake2b_512])) = row else { return Ok(None) };
    let frontiers = Frontiers::from_bytes(&sha256, &sha3_512, &blake2b_512)
        .map_err(|_| RowFault::Corrupt("a tree's right edge"))?;
    Ok(Some(Tip { head: stored_head(connection, origin, uint(size), &text)?, frontiers }))
}

/// A head row with its signatures.
pub(super) fn stored_head(
    connection: &Connection,
    origin: &str,
    size: u64,
    text: &str,
) -> RowResult<StoredHead> {
    let mut statement = connection
        .prepare_cached("SELECT key_id, signature FROM signature WHERE size = ?1 ORDER BY key_id")?;
    let rows = statement.query_map([int(size)], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let signatures = rows.map(|row| {
        let (key_id, signature) = row?;
        NoteSignature::new(origin, key_id, signature).map_err(|_| RowFault::Corrupt("a signature"))
    });
    let mut signatures = signatures.collect::<RowResult<Vec<_>>>()?;
    let mut statement = connection.prepare_cached(
        "SELECT name, key_id, signature FROM cosignature WHERE size = ?1 ORDER BY name, key_id",
    )?;
    let rows = statement.query_map([int(size)], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    for row in rows {
        let (name, key_id, signature): (String, _, _) = row?;
        let line = NoteSignature::new(&name, key_id, signature);
        signatures.push(line.map_err(|_| RowFault::Corrupt("a cosignature"))?);
    }
    let head = StoredHead::new(text, signatures).map_err(|_| RowFault::Corrupt("a head body"))?;
    // The size is a column for lookups; the body is what counts.
    if head.body().size == size { Ok(head) } else { Err(RowFault::Corrupt("a head's size")) }
}

pub(super) fn outcome(
    connection: &Connection,
    host: &HostId,
    request_id: &RequestId,
) -> RowResult<Option<KnownOutcome>> {
    let sql = "SELECT request, idx FROM outcome WHERE host = ?1 AND request_id = ?2";
    let found =
        connection.prepare_cached(sql)?.query_row(params![host.as_bytes(), request_id.as_str()], |row| {
            Ok(KnownOutcome { request: Sha256Digest::new(row.get(0)?), index: uint(row.get(1)?) })
        });
    Ok(found.optional()?)
}

pub(super) fn host_state(connection: &Connection, host: &HostId) -> RowResult<Option<HostState>> {
    let mut statement = connection.prepare_cached("SELECT state FROM host WHERE host = ?1")?;
    let bytes: Option<Vec<u8>> = statement.query_row([host.as_bytes()], |row| row.get(0)).optional()?;
    let parsed = bytes.map(|bytes| HostState::parse(&bytes)).transpose();
    parsed.map_err(|_| RowFault::Corrupt("a host's state"))
}

/// A host's state, and the index of its newest enrolment leaf.
fn host_standing(connection: &Connection, host: &HostId) -> RowResult<Option<(HostState, u64)>> {
    let mut statement = connection.prepare_cached("SELECT state, enrolment_idx FROM host WHERE host = ?1")?;
    let row =
        statement.query_row([host.as_bytes()], |row| Ok((row.get::<_, Vec<u8>>(0)?, uint(row.get(1)?))));
    let Some((state, enrolment)) = row.optional()? else { return Ok(None) };
    let state = HostState::parse(&state).map_err(|_| RowFault::Corrupt("a host's state"))?;
    Ok(Some((state, enrolment)))
}

pub(super) fn host_of_key(connection: &Connection, key: &Sha256Digest) -> RowResult<Option<HostId>> {
    let mut statement = connection.prepare_cached("SELECT host FROM host WHERE key = ?1")?;
    let bytes: Option<Vec<u8>> = statement.query_row([key.as_bytes()], |row| row.get(0)).optional()?;
    let host = bytes.map(|bytes| HostId::from_slice(&bytes)).transpose();
    host.map_err(|_| RowFault::Corrupt("a host identifier"))
}

pub(super) fn budget_left(connection: &Connection, index: u64) -> RowResult<Option<u64>> {
    let mut statement = connection.prepare_cached("SELECT remaining FROM budget WHERE idx = ?1")?;
    Ok(statement.query_row([int(index)], |row| row.get(0)).optional()?.map(uint))
}

pub(super) fn is_spent(connection: &Connection, id: &SpentId) -> RowResult<bool> {
    let (expires_ms, kind, bytes) = spent_key(id);
    let sql = "SELECT 1 FROM spent WHERE expires_ms = ?1 AND kind = ?2 AND id = ?3";
    Ok(connection.prepare_cached(sql)?.exists(params![expires_ms, kind, bytes])?)
}

pub(super) fn spent_key(id: &SpentId) -> (i64, u8, &[u8]) {
    let (kind, bytes) = id.columns();
    (int(id.expires_ms()), kind, bytes)
}

pub(super) fn join_token(connection: &Connection, token: &Sha256Digest) -> RowResult<Option<JoinTokenRow>> {
    let sql = "SELECT expires_ms, idx, spent_idx FROM join_token WHERE token = ?1";
    let read = |row: &Row<'_>| {
        Ok(JoinTokenRow {
            expires_ms: uint(row.get(0)?),
            made_by: uint(row.get(1)?),
            spent_by: row.get::<_, Option<i64>>(2)?.map(uint),
        })
    };
    Ok(connection.prepare_cached(sql)?.query_row([token.as_bytes()], read).optional()?)
}
