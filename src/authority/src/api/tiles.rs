//! The log in the form that any reader of transparency logs knows: checkpoint, hash tiles, entry bundles (C2SP tlog-tiles, PROTOCOL §11.4).
//!
//! Of the three trees this is the SHA-256 one. A tile is a row of stored nodes: tiles and stored levels are both eight levels high, so
//! nothing is hashed here, and at most 256 rows are read whatever the length of the log. An entry is a leaf, envelope and body, byte for byte
//! as it was hashed. Only what is under the newest *signed* head is handed out.
//!
//! Checkpoint and hashes are for anyone: leaves are salted, so hashes say nothing of what they are over. Leaves name hosts, runtimes and
//! operators; entry bundles are for viewers.

use super::artifacts::read_fault;
use super::problem::Refused;
use super::{Call, answer, text};
use crate::serve::Authority;
use crate::store::Reader;
use axum::response::Response;
use countersign_core::digest::Sha256Digest;
use countersign_core::refusal::RefusalCode;
use countersign_core::tile::{TILE_HEIGHT, TileId, TileMalformed, hashes_at, parse_tile};
use http::StatusCode;
use http::header::{CACHE_CONTROL, HeaderValue};
use std::sync::Arc;
use std::time::Instant;

/// What is under a signed head never changes, partial tiles of a given width included. A year is the longest that RFC 9111 caches keep to.
const FOR_ALL: HeaderValue = HeaderValue::from_static("public, max-age=31536000, immutable");
/// The same for what not everybody may read: no shared cache keeps it.
const FOR_THE_CALLER: HeaderValue = HeaderValue::from_static("private, max-age=31536000, immutable");

/// `GET /v1/log/checkpoint`.
pub(super) async fn checkpoint(authority: Arc<Authority>, _call: Call) -> Result<Response, Refused> {
    // Where witnesses are asked, what they have seen: to readers of C2SP logs a head without a quorum isn't out yet.
    let shown = authority.witnesses().shown(authority.signed_head()?, authority.now_ms());
    let head = shown.ok_or(RefusalCode::HeadUnwitnessed)?;
    Ok(text("text/plain; charset=utf-8", head.note().to_owned()))
}

/// `GET /v1/log/tile/{level and index}`.
pub(super) async fn tile(authority: Arc<Authority>, call: Call) -> Result<Response, Refused> {
    let (level, id) = parse_tile(&call.parameter).map_err(malformed)?;
    let size = admitted(&authority, &call)?;
    if !id.is_within(hashes_at(level, size)) {
        return Err(RefusalCode::NotFound.into());
    }
    let worker = Arc::clone(&authority);
    let bytes = authority.run(move || hashes(worker.reader(), level, id)).await?;
    Ok(immutable(bytes, FOR_ALL))
}

/// `GET /v1/log/tile/entries/{index}`.
pub(super) async fn entries(authority: Arc<Authority>, call: Call) -> Result<Response, Refused> {
    let id = TileId::parse(&call.parameter).map_err(malformed)?;
    let size = admitted(&authority, &call)?;
    if !id.is_within(size) {
        return Err(RefusalCode::NotFound.into());
    }
    let worker = Arc::clone(&authority);
    let bytes = authority.run(move || bundle(worker.reader(), id)).await?;
    Ok(immutable(bytes, FOR_THE_CALLER))
}

fn malformed(malformed: TileMalformed) -> Refused {
    Refused::new(RefusalCode::TileMalformed, malformed.to_string())
}

/// The size up to which tiles are handed out, if the caller has one left.
fn admitted(authority: &Authority, call: &Call) -> Result<u64, Refused> {
    if !authority.budgets().tiles.take(call.source, Instant::now()) {
        return Err(RefusalCode::RateLimited.into());
    }
    Ok(authority.signed_head()?.size())
}

fn hashes(reader: &dyn Reader, level: u8, id: TileId) -> Result<Vec<u8>, Refused> {
    // In range: a level without hashes in the tree was told apart before, and 8 * 7 levels hold the largest tree.
    let stored = level.checked_mul(TILE_HEIGHT).ok_or(RefusalCode::NotFound)?;
    let nodes = reader.nodes(stored, id.first(), id.width()).map_err(read_fault)?;
    whole(nodes.len(), id)?;
    let mut bytes = Vec::with_capacity(nodes.len() * Sha256Digest::LEN);
    nodes.iter().for_each(|node| bytes.extend_from_slice(node.sha256.as_bytes()));
    Ok(bytes)
}

fn bundle(reader: &dyn Reader, id: TileId) -> Result<Vec<u8>, Refused> {
    let leaves = reader.leaves(id.first(), id.width()).map_err(read_fault)?;
    whole(leaves.len(), id)?;
    let mut bytes = Vec::with_capacity(leaves.iter().map(|leaf| leaf.len() + 2).sum());
    for leaf in &leaves {
        // PROTOCOL §5.1: a leaf has at most 65,535 bytes, so that its length fits here (C2SP tlog-tiles, "Log entries").
        let length = u16::try_from(leaf.len()).map_err(|_| RefusalCode::LogUnavailable)?;
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(leaf);
    }
    Ok(bytes)
}

/// Less than what is under a signed head is a damaged store, not a smaller tile.
fn whole(found: usize, id: TileId) -> Result<(), Refused> {
    if u64::try_from(found) == Ok(id.width()) {
        return Ok(());
    }
    tracing::error!(tile = %id, found, "the store lacks what a signed head covers");
    Err(RefusalCode::LogUnavailable.into())
}

fn immutable(bytes: Vec<u8>, caching: HeaderValue) -> Response {
    let mut response = answer(StatusCode::OK, "application/octet-stream", bytes);
    response.headers_mut().insert(CACHE_CONTROL, caching);
    response
}
