//! A log from a file into a database: bytes as they are, tables from the leaves.
//!
//! Comes in: the reading side of a SQLite store that nobody writes to, and a database with a new, empty store. Goes out: the same log, in one
//! transaction. Refused: a source with a gap; a target that isn't empty. Absent: any judgement of the log; that is the audit's, before and
//! after.

use countersign_core::digest::sha256;

use super::super::failpoint::WritePoint;
use super::super::ints::int;
use super::super::sqlite::SqliteReader;
use super::super::{
    LogReader as _, MAX_PAGE, NODE_LEVELS, OpenFault, ReadFault, RebuildFault, StoreFault, StoredHead,
    TableReader as _, Tip,
};
use super::facts::spent_columns;
use super::link::{RowFault, Session};
use super::{PostgresOptions, apply, prune, write};

/// Why a log wasn't moved. The target is as it was; the source always is.
#[derive(Debug, thiserror::Error)]
pub enum MigrateFault {
    /// The target can't be opened.
    #[error(transparent)]
    Open(#[from] OpenFault),
    /// The source can't be read.
    #[error("the source: {0}")]
    Source(#[from] ReadFault),
    /// The source has no log to move.
    #[error("the source is empty")]
    Empty,
    /// The target has leaves already.
    #[error("the target isn't empty")]
    NotEmpty,
    /// The source has a gap at this index.
    #[error("the source has no leaf {0}")]
    Gap(u64),
    /// The tables can't be made from the leaves.
    #[error(transparent)]
    Tables(#[from] RebuildFault),
    /// The target can't be written.
    #[error("the target: {0}")]
    Target(String),
}

impl From<RowFault> for MigrateFault {
    fn from(fault: RowFault) -> Self {
        Self::Target(fault.to_string())
    }
}

impl From<StoreFault> for MigrateFault {
    fn from(fault: StoreFault) -> Self {
        Self::Target(fault.to_string())
    }
}

/// Copies a whole store into an empty one and returns how many leaves there are. Nobody may write to the source meanwhile: hold its writer.
/// `progress` hears the number of leaves copied so far.
///
/// # Errors
/// [`MigrateFault`]; nothing is in the target then.
pub fn import(
    options: &PostgresOptions,
    source: &SqliteReader,
    progress: &mut dyn FnMut(u64),
) -> Result<u64, MigrateFault> {
    let tip = source.newest_committed()?.ok_or(MigrateFault::Empty)?;
    let link = write::open(options)?;
    let session = &link.session;
    let size = tip.head.body().size;
    link.run_unhurried(async {
        session.simply(write::LOCK).await?;
        session.simply("SET LOCAL statement_timeout = 0").await?;
        let injected = |injected| MigrateFault::from(StoreFault::injected(injected, "import"));
        let reach = |point| options.failpoints.reach(point).map_err(injected);
        let copied = copy(session, source, &tip, progress).await;
        let copied = copied.and_then(|()| reach(WritePoint::BeforeAside));
        // A crash or a fault before this commit: the target is empty. After: all of it is there.
        session.commit(if copied.is_ok() { "COMMIT" } else { "ROLLBACK" }).await?;
        Ok(copied.and_then(|()| reach(WritePoint::AfterAside)))
    })??;
    Ok(size)
}

async fn copy(
    session: &Session,
    source: &SqliteReader,
    tip: &Tip,
    progress: &mut dyn FnMut(u64),
) -> Result<(), MigrateFault> {
    let size = tip.head.body().size;
    if super::facts::tip(session).await?.is_some() {
        return Err(MigrateFault::NotEmpty);
    }
    let mut next = 0;
    while next < size {
        let (bytes, hashes) = (source.leaves(next, MAX_PAGE)?, source.nodes(0, next, MAX_PAGE)?);
        let whole = bytes.iter().map(Vec::len).zip(&hashes).count();
        if whole == 0 || bytes.len() != hashes.len() {
            return Err(MigrateFault::Gap(next.saturating_add(whole as u64)));
        }
        let indexes: Vec<i64> = (next..).map(int).take(whole).collect();
        let hashes: Vec<Vec<u8>> = hashes.iter().map(|hashes| hashes.to_bytes().to_vec()).collect();
        let leaf = "INSERT INTO leaf (idx, bytes) SELECT * FROM unnest($1::bigint[], $2::bytea[])";
        session.execute(leaf, &[&indexes, &bytes]).await?;
        let hash = "INSERT INTO leaf_hash (idx, hashes) SELECT * FROM unnest($1::bigint[], $2::bytea[])";
        session.execute(hash, &[&indexes, &hashes]).await?;
        next += whole as u64;
        progress(next.min(size));
    }
    nodes(session, source).await?;
    heads(session, source, tip).await?;
    desk(session, source).await?;
    if write::refill(session).await?? == size { Ok(()) } else { Err(MigrateFault::Gap(size)) }
}

async fn nodes(session: &Session, source: &SqliteReader) -> Result<(), MigrateFault> {
    for level in (NODE_LEVELS..64).step_by(usize::from(NODE_LEVELS)) {
        let mut first = 0;
        loop {
            let page = source.nodes(level, first, MAX_PAGE)?;
            if page.is_empty() {
                break;
            }
            let levels = vec![i16::from(level); page.len()];
            let indexes: Vec<i64> = (first..).map(int).take(page.len()).collect();
            let hashes: Vec<Vec<u8>> = page.iter().map(|hashes| hashes.to_bytes().to_vec()).collect();
            let sql = "INSERT INTO node (level, idx, hashes)
                       SELECT * FROM unnest($1::smallint[], $2::bigint[], $3::bytea[])";
            session.execute(sql, &[&levels, &indexes, &hashes]).await?;
            first += page.len() as u64;
        }
    }
    Ok(())
}

async fn heads(session: &Session, source: &SqliteReader, tip: &Tip) -> Result<(), MigrateFault> {
    let mut from = 0;
    loop {
        let page = source.heads(from, MAX_PAGE)?;
        let Some(last) = page.last() else { break };
        from = last.body().size.saturating_add(1);
        let sizes: Vec<i64> = page.iter().map(|head| int(head.body().size)).collect();
        let bodies: Vec<&str> = page.iter().map(|head| head.text()).collect();
        let sql = "INSERT INTO head (size, body) SELECT * FROM unnest($1::bigint[], $2::text[])";
        session.execute(sql, &[&sizes, &bodies]).await?;
        signatures(session, &page).await?;
    }
    let edges = &tip.frontiers;
    let (sha256, sha3, blake2) =
        (edges.sha256.to_bytes(), edges.sha3_512.to_bytes(), edges.blake2b_512.to_bytes());
    let sql = "UPDATE frontier SET size = $1, sha256 = $2, sha3_512 = $3, blake2b_512 = $4 WHERE one = 1";
    session.execute(sql, &[&int(tip.head.body().size), &sha256, &sha3, &blake2]).await?;
    Ok(())
}

/// The signatures of these heads, and what witnesses said of them.
async fn signatures(session: &Session, heads: &[StoredHead]) -> Result<(), MigrateFault> {
    let lines = |own: bool| {
        let all = heads.iter().flat_map(|head| head.signatures().iter().map(move |line| (head, line)));
        let some: Vec<_> = all.filter(|(head, line)| (line.name() == head.body().origin) == own).collect();
        let sizes: Vec<i64> = some.iter().map(|(head, _)| int(head.body().size)).collect();
        let names: Vec<String> = some.iter().map(|(_, line)| line.name().to_owned()).collect();
        let keys: Vec<Vec<u8>> = some.iter().map(|(_, line)| line.key_id().to_vec()).collect();
        let bytes: Vec<Vec<u8>> = some.iter().map(|(_, line)| line.signature().to_vec()).collect();
        (sizes, names, keys, bytes)
    };
    let (sizes, _, keys, bytes) = lines(true);
    let sql = "INSERT INTO signature (size, key_id, signature)
               SELECT * FROM unnest($1::bigint[], $2::bytea[], $3::bytea[])";
    session.execute(sql, &[&sizes, &keys, &bytes]).await?;
    let (sizes, names, keys, bytes) = lines(false);
    let sql = "INSERT INTO cosignature (size, name, key_id, signature)
               SELECT * FROM unnest($1::bigint[], $2::text[], $3::bytea[], $4::bytea[])";
    session.execute(sql, &[&sizes, &names, &keys, &bytes]).await?;
    Ok(())
}

/// What no leaf tells: blobs, what was pruned of them, spends, pending enrolments, challenge keys, acknowledgements.
async fn desk(session: &Session, source: &SqliteReader) -> Result<(), MigrateFault> {
    let mut after = Vec::new();
    loop {
        let page = source.blobs_after(&after)?;
        let Some((digest, _)) = page.last() else { break };
        after = digest.as_bytes().to_vec();
        if page.iter().any(|(digest, bytes)| sha256(bytes) != *digest) {
            return Err(ReadFault::Corrupt("a blob").into());
        }
        apply::blobs(session, &page).await?;
    }
    for (id, pruning) in source.numbered_prunings()? {
        prune::tell(session, id, &pruning).await?;
    }
    let mut after = Vec::new();
    loop {
        let page = source.pruned_after(&after)?;
        let Some((digest, _)) = page.last() else { break };
        after = digest.as_bytes().to_vec();
        let (digests, ids): (Vec<&[u8]>, Vec<i64>) =
            page.iter().map(|(digest, id)| (digest.as_bytes().as_slice(), *id)).unzip();
        let sql = "INSERT INTO pruned (digest, pruning) SELECT * FROM unnest($1::bytea[], $2::bigint[])";
        session.execute(sql, &[&digests, &ids]).await?;
    }
    let spends = source.spends()?;
    let (expiries, kinds, bytes) = spent_columns(spends.iter());
    let sql = "INSERT INTO spent (expires_ms, kind, id)
               SELECT * FROM unnest($1::bigint[], $2::smallint[], $3::bytea[])";
    session.execute(sql, &[&expiries, &kinds, &bytes]).await?;
    for pending in source.pending_enrolments()? {
        let (id, record): (&[u8], &[u8]) = (&pending.id, &pending.record);
        let sql = "INSERT INTO pending_enrolment (id, expires_ms, record) VALUES ($1, $2, $3)";
        session.execute(sql, &[&id, &int(pending.expires_ms), &record]).await?;
    }
    for key in source.challenge_keys()? {
        let (id, secret): (&[u8], &[u8]) = (&key.id, &key.key);
        let sql = "INSERT INTO challenge_key (id, key, made_ms) VALUES ($1, $2, $3)";
        session.execute(sql, &[&id, &secret, &int(key.made_ms)]).await?;
    }
    for row in source.acknowledgements()? {
        let gateway: &[u8] = row.gateway.as_bytes();
        let sql = "INSERT INTO acknowledgement (gateway, control, time_ms) VALUES ($1, $2, $3)";
        session.execute(sql, &[&gateway, &int(row.control), &int(row.time_ms)]).await?;
    }
    Ok(())
}
