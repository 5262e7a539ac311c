//! Reading: what [`Wanted`] asks for inside the append transaction, and rows as values, for the writer and the readers alike.

use std::collections::{HashMap, HashSet};

use countersign_core::digest::{Sha256Digest, sha256};
use countersign_core::leaf::host::HostState;
use countersign_core::name::{HostId, RequestId};
use countersign_core::note::NoteSignature;
use tokio_postgres::Row;

use super::super::fold::HostRecord;
use super::super::ints::{int, uint};
use super::super::{Frontiers, JoinTokenRow, KnownOutcome, Prior, SpentId, StoredHead, Tip, Wanted};
use super::link::{RowFault, RowResult, Session, bytes, column};

/// Everything that a batch wants to know. The head row is locked already, and every statement sees what was committed before it began: so
/// all of them see the same, though each has a snapshot of its own.
pub(super) async fn prior(session: &Session, wanted: &Wanted) -> RowResult<Prior> {
    let (tip, outcomes, hosts, key_owners, budgets, spent, tokens, blobs, control_leaves, body_at, clock_ms) =
        tokio::try_join!(
            tip(session),
            outcomes(session, &wanted.outcomes),
            host_records(session, &wanted.hosts),
            key_owners(session, &wanted.host_keys),
            budgets(session, &wanted.budgets),
            spent(session, &wanted.spent),
            tokens(session, &wanted.tokens),
            blobs(session, &wanted.blobs),
            control_leaves(session, wanted.control_after),
            body_at(session, wanted.body_at),
            clock_ms(session),
        )?;
    let host_versions = hosts.iter().map(|(host, row)| (*host, row.state.version)).collect();
    let enrolments = hosts.iter().map(|(host, row)| (*host, row.enrolment_leaf.0)).collect();
    Ok(Prior {
        tip,
        outcomes,
        host_versions,
        enrolments,
        key_owners,
        budgets,
        spent,
        tokens,
        blobs,
        control_leaves,
        body_at,
        clock_ms: Some(clock_ms),
    })
}

pub(super) async fn tip(session: &Session) -> RowResult<Option<Tip>> {
    let sql = "SELECT frontier.size, head.body, sha256, sha3_512, blake2b_512
               FROM frontier JOIN head ON head.size = frontier.size";
    let Some(row) = session.row(sql, &[]).await? else { return Ok(None) };
    let frontiers = Frontiers::from_bytes(column(&row, 2)?, column(&row, 3)?, column(&row, 4)?)
        .map_err(|_| RowFault::Corrupt("a tree's right edge"))?;
    let head = heads_of(session, &[row]).await?.pop().ok_or(RowFault::Corrupt("a head"))?;
    Ok(Some(Tip { head, frontiers }))
}

/// Head rows (size, body) with their signatures.
pub(super) async fn heads_of(session: &Session, rows: &[Row]) -> RowResult<Vec<StoredHead>> {
    let sizes = rows.iter().map(|row| column::<i64>(row, 0)).collect::<RowResult<Vec<_>>>()?;
    if sizes.is_empty() {
        return Ok(Vec::new());
    }
    let sql = "SELECT size, key_id, signature, NULL AS name FROM signature WHERE size = ANY($1)
               UNION ALL SELECT size, key_id, signature, name FROM cosignature WHERE size = ANY($1)
               ORDER BY size, name NULLS FIRST, key_id";
    let mut signatures: HashMap<i64, Vec<NoteSignature>> = HashMap::new();
    for row in session.rows(sql, &[&sizes]).await? {
        let name: Option<&str> = column(&row, 3)?;
        let line = NoteSignature::new(name.unwrap_or(&session.origin), bytes(&row, 1)?, column(&row, 2)?)
            .map_err(|_| RowFault::Corrupt("a signature"))?;
        signatures.entry(column(&row, 0)?).or_default().push(line);
    }
    let heads = rows.iter().map(|row| {
        let size: i64 = column(row, 0)?;
        let head = StoredHead::new(column(row, 1)?, signatures.remove(&size).unwrap_or_default())
            .map_err(|_| RowFault::Corrupt("a head body"))?;
        // The size is a column for lookups; the body is what counts.
        if head.body().size == uint(size) { Ok(head) } else { Err(RowFault::Corrupt("a head's size")) }
    });
    heads.collect()
}

fn digest(row: &Row, at: usize) -> RowResult<Sha256Digest> {
    Ok(Sha256Digest::new(bytes(row, at)?))
}

fn host_id(row: &Row, at: usize) -> RowResult<HostId> {
    HostId::from_slice(column(row, at)?).map_err(|_| RowFault::Corrupt("a host identifier"))
}

fn state(row: &Row, at: usize) -> RowResult<HostState> {
    HostState::parse(column(row, at)?).map_err(|_| RowFault::Corrupt("a host's state"))
}

pub(super) async fn outcomes(
    session: &Session,
    wanted: &HashSet<(HostId, RequestId)>,
) -> RowResult<HashMap<(HostId, RequestId), KnownOutcome>> {
    if wanted.is_empty() {
        return Ok(HashMap::new());
    }
    let (hosts, ids): (Vec<&[u8]>, Vec<&str>) =
        wanted.iter().map(|(host, id)| (host.as_bytes().as_slice(), id.as_str())).unzip();
    let sql = "SELECT o.host, o.request_id, o.request, o.idx
               FROM unnest($1::bytea[], $2::text[]) AS w (host, request_id)
               JOIN outcome o ON o.host = w.host AND o.request_id = w.request_id";
    let rows = session.rows(sql, &[&hosts, &ids]).await?;
    let found = rows.iter().map(|row| {
        let id = RequestId::parse(column(row, 1)?).map_err(|_| RowFault::Corrupt("a request identifier"))?;
        let known = KnownOutcome { request: digest(row, 2)?, index: uint(column(row, 3)?) };
        Ok(((host_id(row, 0)?, id), known))
    });
    found.collect()
}

/// The rows of these hosts, as far as they exist.
pub(super) async fn host_records(
    session: &Session,
    wanted: &HashSet<HostId>,
) -> RowResult<HashMap<HostId, HostRecord>> {
    if wanted.is_empty() {
        return Ok(HashMap::new());
    }
    let hosts: Vec<&[u8]> = wanted.iter().map(|host| host.as_bytes().as_slice()).collect();
    let sql =
        "SELECT host, enrolment_idx, enrolment_hash, key, state, state_idx FROM host WHERE host = ANY($1)";
    let rows = session.rows(sql, &[&hosts]).await?;
    rows.iter().map(|row| Ok((host_id(row, 0)?, host_record(row)?))).collect()
}

fn host_record(row: &Row) -> RowResult<HostRecord> {
    Ok(HostRecord {
        enrolment_leaf: (uint(column(row, 1)?), digest(row, 2)?),
        key: digest(row, 3)?,
        state: state(row, 4)?,
        state_index: uint(column(row, 5)?),
    })
}

pub(super) async fn key_owners(
    session: &Session,
    wanted: &HashSet<Sha256Digest>,
) -> RowResult<HashMap<Sha256Digest, HostId>> {
    if wanted.is_empty() {
        return Ok(HashMap::new());
    }
    let keys: Vec<&[u8]> = wanted.iter().map(|key| key.as_bytes().as_slice()).collect();
    let rows = session.rows("SELECT key, host FROM host WHERE key = ANY($1)", &[&keys]).await?;
    rows.iter().map(|row| Ok((digest(row, 0)?, host_id(row, 1)?))).collect()
}

pub(super) async fn budgets(session: &Session, wanted: &HashSet<u64>) -> RowResult<HashMap<u64, u64>> {
    if wanted.is_empty() {
        return Ok(HashMap::new());
    }
    let indexes: Vec<i64> = wanted.iter().map(|index| int(*index)).collect();
    let rows = session.rows("SELECT idx, remaining FROM budget WHERE idx = ANY($1)", &[&indexes]).await?;
    rows.iter().map(|row| Ok((uint(column(row, 0)?), uint(column(row, 1)?)))).collect()
}

pub(super) async fn spent(session: &Session, wanted: &HashSet<SpentId>) -> RowResult<HashSet<SpentId>> {
    if wanted.is_empty() {
        return Ok(HashSet::new());
    }
    // In the order of the parameters: each row that exists names its place among them.
    let ids: Vec<&SpentId> = wanted.iter().collect();
    let (expiries, kinds, bytes) = spent_columns(ids.iter().copied());
    let sql = "SELECT w.place FROM unnest($1::bigint[], $2::smallint[], $3::bytea[])
                   WITH ORDINALITY AS w (expires_ms, kind, id, place)
               JOIN spent s ON s.expires_ms = w.expires_ms AND s.kind = w.kind AND s.id = w.id";
    let rows = session.rows(sql, &[&expiries, &kinds, &bytes]).await?;
    let found = rows.iter().map(|row| {
        let place = uint(column(row, 0)?).checked_sub(1).and_then(|place| usize::try_from(place).ok());
        let id = place.and_then(|place| ids.get(place)).ok_or(RowFault::Corrupt("a spend"))?;
        Ok(**id)
    });
    found.collect()
}

/// Expiry, kind and bytes of spends, as columns.
pub(super) fn spent_columns<'a>(
    ids: impl Iterator<Item = &'a SpentId>,
) -> (Vec<i64>, Vec<i16>, Vec<&'a [u8]>) {
    let mut columns = (Vec::new(), Vec::new(), Vec::new());
    for id in ids {
        let (kind, bytes) = id.columns();
        columns.0.push(int(id.expires_ms()));
        columns.1.push(i16::from(kind));
        columns.2.push(bytes);
    }
    columns
}

pub(super) async fn tokens(
    session: &Session,
    wanted: &HashSet<Sha256Digest>,
) -> RowResult<HashMap<Sha256Digest, JoinTokenRow>> {
    if wanted.is_empty() {
        return Ok(HashMap::new());
    }
    let tokens: Vec<&[u8]> = wanted.iter().map(|token| token.as_bytes().as_slice()).collect();
    let sql = "SELECT token, expires_ms, idx, spent_idx FROM join_token WHERE token = ANY($1)";
    let rows = session.rows(sql, &[&tokens]).await?;
    let found = rows.iter().map(|row| {
        let token = JoinTokenRow {
            expires_ms: uint(column(row, 1)?),
            made_by: uint(column(row, 2)?),
            spent_by: column::<Option<i64>>(row, 3)?.map(uint),
        };
        Ok((digest(row, 0)?, token))
    });
    found.collect()
}

/// Those of these blobs that are there.
async fn blobs(session: &Session, wanted: &HashSet<Sha256Digest>) -> RowResult<HashSet<Sha256Digest>> {
    if wanted.is_empty() {
        return Ok(HashSet::new());
    }
    let digests: Vec<&[u8]> = wanted.iter().map(|digest| digest.as_bytes().as_slice()).collect();
    let rows = session.rows("SELECT digest FROM blob WHERE digest = ANY($1)", &[&digests]).await?;
    rows.iter().map(|row| digest(row, 0)).collect()
}

async fn control_leaves(session: &Session, after: u64) -> RowResult<Vec<Vec<u8>>> {
    let sql = "SELECT leaf.bytes FROM control JOIN leaf ON leaf.idx = control.idx
               WHERE control.number > $1 ORDER BY control.number";
    let rows = session.rows(sql, &[&int(after)]).await?;
    rows.iter().map(|row| column(row, 0)).collect()
}

/// The server's clock as it is now, and not when the transaction began.
async fn clock_ms(session: &Session) -> RowResult<u64> {
    let row = session.row("SELECT clock_ms()", &[]).await?.ok_or(RowFault::Corrupt("a clock"))?;
    Ok(uint(column(&row, 0)?))
}

async fn body_at(session: &Session, size: Option<u64>) -> RowResult<Option<Sha256Digest>> {
    let Some(size) = size else { return Ok(None) };
    let row = session.row("SELECT body FROM head WHERE size = $1", &[&int(size)]).await?;
    row.map(|row| Ok(sha256(column::<&str>(&row, 0)?.as_bytes()))).transpose()
}
