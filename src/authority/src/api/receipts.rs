//! Inclusion of a leaf as a COSE receipt (RFC 9942, PROTOCOL §16), for verifiers that know COSE and nothing of this log.

use super::artifacts::read_fault;
use super::problem::Refused;
use super::{Call, answer, faulted};
use crate::serve::Authority;
use crate::serve::cose::SignedRoot;
use crate::store::StoredTree;
use axum::response::Response;
use countersign_core::cose_receipt::{MEDIA_TYPE, encode};
use countersign_core::merkle::{Sha256Tree, inclusion_proof, verify_inclusion};
use countersign_core::refusal::RefusalCode;
use http::StatusCode;
use std::sync::Arc;
use std::time::Instant;

/// `GET /v1/log/receipts/{index}`. For anyone: it holds no leaf, and says of one what tiles say of it.
pub(super) async fn cose(authority: Arc<Authority>, call: Call) -> Result<Response, Refused> {
    let index = index(&call.parameter).ok_or(RefusalCode::NotFound)?;
    if !authority.budgets().tiles.take(call.source, Instant::now()) {
        return Err(RefusalCode::RateLimited.into());
    }
    let root = authority.signed_root(index).await?;
    let worker = Arc::clone(&authority);
    let bytes = authority.run(move || receipt(&worker, &root, index)).await?;
    Ok(answer(StatusCode::OK, MEDIA_TYPE, bytes))
}

/// A decimal without superfluous zeros.
fn index(text: &str) -> Option<u64> {
    let index: u64 = text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())??;
    (index.to_string() == text).then_some(index)
}

fn receipt(authority: &Authority, root: &SignedRoot, index: u64) -> Result<Vec<u8>, Refused> {
    let (reader, body) = (authority.reader(), root.head.body());
    let damaged = || Refused::from(RefusalCode::LogUnavailable);
    let path = inclusion_proof::<Sha256Tree, _>(index, body.size, &StoredTree(reader));
    let path = path.map_err(|fault| faulted(&fault, RefusalCode::LogUnavailable))?;
    let leaf = reader.nodes(0, index, 1).map_err(read_fault)?;
    let leaf = leaf.first().ok_or_else(damaged)?.sha256;
    // A proof that doesn't lead to the signed root isn't handed out.
    verify_inclusion::<Sha256Tree>(&leaf, index, body.size, &path, &body.sha256_root)
        .map_err(|_| damaged())?;
    Ok(encode(&root.statement, &root.signature, body.size, index, &path))
}
