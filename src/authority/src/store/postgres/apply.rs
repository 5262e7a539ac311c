//! Writing inside the append transaction: one statement for each table that a batch touches, sent one after the other without waiting.

use countersign_core::digest::Sha256Digest;

use super::super::fold::{Folded, Folder, hosts_touched};
use super::super::ints::int;
use super::super::project::Change;
use super::super::{Additions, NewLeaf};
use super::facts::{host_records, spent_columns};
use super::link::{RowFault, RowResult, Session};

/// Everything that a batch adds. Whatever exists already where nothing may exist is refused by a primary key.
pub(super) async fn additions(session: &Session, additions: &Additions) -> RowResult<()> {
    let touched = hosts_touched(additions.leaves.iter().flat_map(|leaf| &leaf.changes));
    let mut folder = Folder::new(host_records(session, &touched).await?);
    for leaf in &additions.leaves {
        folder.leaf(leaf.index, &leaf.hashes.sha256, &leaf.changes);
    }
    let folded = folder.finish();
    let control: Vec<(u64, u64)> =
        additions.leaves.iter().filter_map(|leaf| Some((leaf.control?, leaf.index))).collect();
    tokio::try_join!(
        leaves(session, &additions.leaves),
        nodes(session, additions),
        head(session, additions),
        control_numbers(session, &control),
        projections(session, &folded),
        spends(session, additions),
        blobs(session, &additions.blobs),
    )?;
    Ok(())
}

async fn leaves(session: &Session, leaves: &[NewLeaf]) -> RowResult<()> {
    let indexes: Vec<i64> = leaves.iter().map(|leaf| int(leaf.index)).collect();
    let bodies: Vec<&[u8]> = leaves.iter().map(|leaf| &*leaf.bytes).collect();
    let hashes: Vec<[u8; 160]> = leaves.iter().map(|leaf| leaf.hashes.to_bytes()).collect();
    let hashes: Vec<&[u8]> = hashes.iter().map(<[u8; 160]>::as_slice).collect();
    let bytes = "INSERT INTO leaf (idx, bytes) SELECT * FROM unnest($1::bigint[], $2::bytea[])";
    let hashed = "INSERT INTO leaf_hash (idx, hashes) SELECT * FROM unnest($1::bigint[], $2::bytea[])";
    tokio::try_join!(async { session.execute(bytes, &[&indexes, &bodies]).await }, async {
        session.execute(hashed, &[&indexes, &hashes]).await
    },)?;
    Ok(())
}

async fn nodes(session: &Session, additions: &Additions) -> RowResult<()> {
    if additions.nodes.is_empty() {
        return Ok(());
    }
    let levels: Vec<i16> = additions.nodes.iter().map(|node| i16::from(node.level)).collect();
    let indexes: Vec<i64> = additions.nodes.iter().map(|node| int(node.index)).collect();
    let hashes: Vec<Vec<u8>> = additions.nodes.iter().map(|node| node.hashes.to_bytes().to_vec()).collect();
    let sql = "INSERT INTO node (level, idx, hashes)
               SELECT * FROM unnest($1::smallint[], $2::bigint[], $3::bytea[])";
    session.execute(sql, &[&levels, &indexes, &hashes]).await?;
    Ok(())
}

async fn head(session: &Session, additions: &Additions) -> RowResult<()> {
    let size = int(additions.head.body().size);
    let edges = &additions.frontiers;
    let (sha256, sha3, blake2) =
        (edges.sha256.to_bytes(), edges.sha3_512.to_bytes(), edges.blake2b_512.to_bytes());
    let text = additions.head.text();
    let body = "INSERT INTO head (size, body) VALUES ($1, $2)";
    let frontier =
        "UPDATE frontier SET size = $1, sha256 = $2, sha3_512 = $3, blake2b_512 = $4 WHERE one = 1";
    tokio::try_join!(async { session.execute(body, &[&size, &text]).await }, async {
        session.execute(frontier, &[&size, &sha256, &sha3, &blake2]).await
    },)?;
    Ok(())
}

/// Numbers control leaves: number and index.
pub(super) async fn control_numbers(session: &Session, control: &[(u64, u64)]) -> RowResult<()> {
    if control.is_empty() {
        return Ok(());
    }
    let (numbers, indexes): (Vec<i64>, Vec<i64>) =
        control.iter().map(|(number, index)| (int(*number), int(*index))).unzip();
    let sql = "INSERT INTO control (number, idx) SELECT * FROM unnest($1::bigint[], $2::bigint[])";
    session.execute(sql, &[&numbers, &indexes]).await?;
    Ok(())
}

/// What was folded, into the projections.
pub(super) async fn projections(session: &Session, folded: &Folded) -> RowResult<()> {
    tokio::try_join!(
        outcomes(session, folded),
        hosts(session, folded),
        budgets(session, folded),
        tokens(session, folded),
    )?;
    Ok(())
}

async fn outcomes(session: &Session, folded: &Folded) -> RowResult<()> {
    if folded.outcomes.is_empty() {
        return Ok(());
    }
    let rows = &folded.outcomes;
    let hosts: Vec<&[u8]> = rows.iter().map(|row| row.host.as_bytes().as_slice()).collect();
    let ids: Vec<&str> = rows.iter().map(|row| row.request_id.as_str()).collect();
    let requests: Vec<&[u8]> = rows.iter().map(|row| row.request.as_bytes().as_slice()).collect();
    let indexes: Vec<i64> = rows.iter().map(|row| int(row.index)).collect();
    // The first leaf of a request identifier stays its answer.
    let sql = "INSERT INTO outcome (host, request_id, request, idx)
               SELECT * FROM unnest($1::bytea[], $2::text[], $3::bytea[], $4::bigint[]) ON CONFLICT DO NOTHING";
    session.execute(sql, &[&hosts, &ids, &requests, &indexes]).await?;
    Ok(())
}

async fn hosts(session: &Session, folded: &Folded) -> RowResult<()> {
    if folded.hosts.is_empty() {
        return Ok(());
    }
    let rows = &folded.hosts;
    let hosts: Vec<&[u8]> = rows.keys().map(|host| host.as_bytes().as_slice()).collect();
    let enrolments: Vec<i64> = rows.values().map(|row| int(row.enrolment_leaf.0)).collect();
    let hashes: Vec<&[u8]> = rows.values().map(|row| row.enrolment_leaf.1.as_bytes().as_slice()).collect();
    let keys: Vec<&[u8]> = rows.values().map(|row| row.key.as_bytes().as_slice()).collect();
    let states: Vec<Vec<u8>> = rows.values().map(|row| row.state.encode()).collect();
    let told: Vec<i64> = rows.values().map(|row| int(row.state_index)).collect();
    let sql = "INSERT INTO host (host, enrolment_idx, enrolment_hash, key, state, state_idx)
               SELECT * FROM unnest($1::bytea[], $2::bigint[], $3::bytea[], $4::bytea[], $5::bytea[], $6::bigint[])
               ON CONFLICT (host) DO UPDATE SET
               enrolment_idx = excluded.enrolment_idx, enrolment_hash = excluded.enrolment_hash,
               key = excluded.key, state = excluded.state, state_idx = excluded.state_idx";
    session.execute(sql, &[&hosts, &enrolments, &hashes, &keys, &states, &told]).await?;
    Ok(())
}

async fn budgets(session: &Session, folded: &Folded) -> RowResult<()> {
    if !folded.budgets.is_empty() {
        let (indexes, totals): (Vec<i64>, Vec<i64>) =
            folded.budgets.iter().map(|(index, total)| (int(*index), int(*total))).unzip();
        let sql = "INSERT INTO budget (idx, remaining) SELECT * FROM unnest($1::bigint[], $2::bigint[])";
        session.execute(sql, &[&indexes, &totals]).await?;
    }
    // After the inserts: a leaf may charge one of its own batch.
    if !folded.charges.is_empty() {
        let (indexes, amounts): (Vec<i64>, Vec<i64>) =
            folded.charges.iter().map(|(index, amount)| (int(*index), int(*amount))).unzip();
        let sql = "UPDATE budget SET remaining = remaining - charge.amount
                   FROM unnest($1::bigint[], $2::bigint[]) AS charge (idx, amount) WHERE budget.idx = charge.idx";
        session.execute(sql, &[&indexes, &amounts]).await?;
    }
    Ok(())
}

async fn tokens(session: &Session, folded: &Folded) -> RowResult<()> {
    if !folded.tokens_made.is_empty() {
        let rows = &folded.tokens_made;
        let tokens: Vec<&[u8]> = rows.iter().map(|row| row.0.as_bytes().as_slice()).collect();
        let expiries: Vec<i64> = rows.iter().map(|row| int(row.1)).collect();
        let indexes: Vec<i64> = rows.iter().map(|row| int(row.2)).collect();
        let sql = "INSERT INTO join_token (token, expires_ms, idx)
                   SELECT * FROM unnest($1::bytea[], $2::bigint[], $3::bigint[]) ON CONFLICT DO NOTHING";
        session.execute(sql, &[&tokens, &expiries, &indexes]).await?;
    }
    if !folded.tokens_spent.is_empty() {
        let rows = &folded.tokens_spent;
        let tokens: Vec<&[u8]> = rows.iter().map(|row| row.0.as_bytes().as_slice()).collect();
        let indexes: Vec<i64> = rows.iter().map(|row| int(row.1)).collect();
        let sql = "UPDATE join_token SET spent_idx = used.idx
                   FROM unnest($1::bytea[], $2::bigint[]) AS used (token, idx)
                   WHERE join_token.token = used.token AND join_token.spent_idx IS NULL";
        session.execute(sql, &[&tokens, &indexes]).await?;
    }
    Ok(())
}

async fn spends(session: &Session, additions: &Additions) -> RowResult<()> {
    if !additions.spent.is_empty() {
        let (expiries, kinds, bytes) = spent_columns(additions.spent.iter());
        let sql = "INSERT INTO spent (expires_ms, kind, id)
                   SELECT * FROM unnest($1::bigint[], $2::smallint[], $3::bytea[])";
        session.execute(sql, &[&expiries, &kinds, &bytes]).await?;
    }
    let forget = int(additions.forget_spent_before_ms);
    session.execute("DELETE FROM spent WHERE expires_ms < $1", &[&forget]).await?;
    Ok(())
}

/// Keeps blobs; those that are there already stay.
pub(super) async fn blobs(
    session: &Session,
    blobs: &[(Sha256Digest, std::sync::Arc<[u8]>)],
) -> RowResult<()> {
    if blobs.is_empty() {
        return Ok(());
    }
    let digests: Vec<&[u8]> = blobs.iter().map(|(digest, _)| digest.as_bytes().as_slice()).collect();
    let bytes: Vec<&[u8]> = blobs.iter().map(|(_, bytes)| &**bytes).collect();
    let sql = "INSERT INTO blob (digest, bytes)
               SELECT * FROM unnest($1::bytea[], $2::bytea[]) ON CONFLICT DO NOTHING";
    session.execute(sql, &[&digests, &bytes]).await?;
    Ok(())
}

/// Folds leaves that are in the log already into empty projections, a page at a time.
pub(super) async fn project_again(
    session: &Session,
    leaves: &[(u64, Sha256Digest, Vec<Change>)],
) -> Result<(), RowFault> {
    let touched = hosts_touched(leaves.iter().flat_map(|(_, _, changes)| changes));
    let mut folder = Folder::new(host_records(session, &touched).await?);
    for (index, hash, changes) in leaves {
        folder.leaf(*index, hash, changes);
    }
    projections(session, &folder.finish()).await
}
