//! Writing inside the append transaction: additions and changes, statement by statement.

use countersign_core::digest::Sha256Digest;
use countersign_core::leaf::host::HostState;
use countersign_core::name::HostId;
use rusqlite::{Connection, params};

use super::super::project::{Change, enrolled_state, merge_state};
use super::super::{Additions, NewLeaf, NewNode, StoredHead, TripleHash};
use super::facts::{RowResult, host_state, spent_key};
use super::int;

/// Everything that a batch adds. Whatever exists already where nothing may exist is refused by a primary key.
pub(super) fn additions(connection: &Connection, additions: &Additions) -> RowResult<()> {
    for leaf in &additions.leaves {
        append_leaf(connection, leaf)?;
    }
    for node in &additions.nodes {
        append_node(connection, node)?;
    }
    append_head(connection, additions)?;
    let mut spend =
        connection.prepare_cached("INSERT INTO spent (expires_ms, kind, id) VALUES (?1, ?2, ?3)")?;
    for id in &additions.spent {
        let (expires_ms, kind, bytes) = spent_key(id);
        spend.execute(params![expires_ms, kind, bytes])?;
    }
    let mut forget = connection.prepare_cached("DELETE FROM spent WHERE expires_ms < ?1")?;
    forget.execute([int(additions.forget_spent_before_ms)])?;
    let mut keep = connection.prepare_cached("INSERT OR IGNORE INTO blob (digest, bytes) VALUES (?1, ?2)")?;
    for (digest, bytes) in &additions.blobs {
        keep.execute(params![digest.as_bytes(), &**bytes])?;
    }
    Ok(())
}

fn append_leaf(connection: &Connection, leaf: &NewLeaf) -> RowResult<()> {
    let index = int(leaf.index);
    connection
        .prepare_cached("INSERT INTO leaf (idx, bytes) VALUES (?1, ?2)")?
        .execute(params![index, &*leaf.bytes])?;
    connection
        .prepare_cached("INSERT INTO leaf_hash (idx, hashes) VALUES (?1, ?2)")?
        .execute(params![index, leaf.hashes.to_bytes()])?;
    if let Some(number) = leaf.control {
        control_leaf(connection, number, leaf.index)?;
    }
    changes(connection, leaf.index, &leaf.hashes.sha256, &leaf.changes)
}

fn append_node(connection: &Connection, node: &NewNode) -> RowResult<()> {
    let hashes: [u8; TripleHash::LEN] = node.hashes.to_bytes();
    connection
        .prepare_cached("INSERT INTO node (level, idx, hashes) VALUES (?1, ?2, ?3)")?
        .execute(params![node.level, int(node.index), hashes])?;
    Ok(())
}

fn append_head(connection: &Connection, additions: &Additions) -> RowResult<()> {
    let head: &StoredHead = &additions.head;
    let size = int(head.body().size);
    connection
        .prepare_cached("INSERT INTO head (size, body) VALUES (?1, ?2)")?
        .execute(params![size, head.text()])?;
    let edges = &additions.frontiers;
    let sql = "INSERT INTO frontier (one, size, sha256, sha3_512, blake2b_512) VALUES (1, ?1, ?2, ?3, ?4)
               ON CONFLICT (one) DO UPDATE SET
               size = excluded.size, sha256 = excluded.sha256, sha3_512 = excluded.sha3_512,
               blake2b_512 = excluded.blake2b_512";
    connection.prepare_cached(sql)?.execute(params![
        size,
        edges.sha256.to_bytes(),
        edges.sha3_512.to_bytes(),
        edges.blake2b_512.to_bytes()
    ])?;
    Ok(())
}

/// Numbers a control leaf.
pub(super) fn control_leaf(connection: &Connection, number: u64, index: u64) -> RowResult<()> {
    connection
        .prepare_cached("INSERT INTO control (number, idx) VALUES (?1, ?2)")?
        .execute([int(number), int(index)])?;
    Ok(())
}

/// What the leaf at `index` changes in the projections.
pub(super) fn changes(
    connection: &Connection,
    index: u64,
    leaf_hash: &Sha256Digest,
    changes: &[Change],
) -> RowResult<()> {
    changes.iter().try_for_each(|change| apply(connection, index, leaf_hash, change))
}

fn apply(connection: &Connection, index: u64, leaf_hash: &Sha256Digest, change: &Change) -> RowResult<()> {
    let idx = int(index);
    match change {
        Change::Outcome { host, request_id, request } => {
            // The first leaf of a request identifier stays its answer.
            let sql =
                "INSERT OR IGNORE INTO outcome (host, request_id, request, idx) VALUES (?1, ?2, ?3, ?4)";
            let row = params![host.as_bytes(), request_id.as_str(), request.as_bytes(), idx];
            connection.prepare_cached(sql)?.execute(row)?;
        }
        Change::Enrolled { host, key, version } => {
            enrol(connection, index, leaf_hash, host, key, *version)?;
        }
        Change::HostState { host, state } => {
            let Some(known) = host_state(connection, host)? else { return Ok(()) };
            write_state(connection, host, &merge_state(&known, state), index)?;
        }
        Change::Budget { total } => {
            connection
                .prepare_cached("INSERT INTO budget (idx, remaining) VALUES (?1, ?2)")?
                .execute([idx, int(*total)])?;
        }
        Change::Charge { parent, amount } => {
            connection
                .prepare_cached("UPDATE budget SET remaining = remaining - ?2 WHERE idx = ?1")?
                .execute([int(*parent), int(*amount)])?;
        }
        Change::TokenMade { token, expires_ms } => {
            connection
                .prepare_cached(
                    "INSERT OR IGNORE INTO join_token (token, expires_ms, idx) VALUES (?1, ?2, ?3)",
                )?
                .execute(params![token.as_bytes(), int(*expires_ms), idx])?;
        }
        Change::TokenSpent { token } => {
            connection
                .prepare_cached(
                    "UPDATE join_token SET spent_idx = ?2 WHERE token = ?1 AND spent_idx IS NULL",
                )?
                .execute(params![token.as_bytes(), idx])?;
        }
    }
    Ok(())
}

fn enrol(
    connection: &Connection,
    index: u64,
    leaf_hash: &Sha256Digest,
    host: &HostId,
    key: &Sha256Digest,
    version: u64,
) -> RowResult<()> {
    let known = host_state(connection, host)?;
    let state = enrolled_state(known.as_ref(), version);
    let sql = "INSERT INTO host (host, enrolment_idx, enrolment_hash, key, state, state_idx)
               VALUES (?1, ?2, ?3, ?4, ?5, ?2)
               ON CONFLICT (host) DO UPDATE SET
               enrolment_idx = excluded.enrolment_idx, enrolment_hash = excluded.enrolment_hash,
               key = excluded.key, state = excluded.state, state_idx = excluded.state_idx";
    let row = params![host.as_bytes(), int(index), leaf_hash.as_bytes(), key.as_bytes(), state.encode()];
    connection.prepare_cached(sql)?.execute(row)?;
    Ok(())
}

fn write_state(connection: &Connection, host: &HostId, state: &HostState, index: u64) -> RowResult<()> {
    connection
        .prepare_cached("UPDATE host SET state = ?2, state_idx = ?3 WHERE host = ?1")?
        .execute(params![host.as_bytes(), state.encode(), int(index)])?;
    Ok(())
}
