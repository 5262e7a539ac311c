//! The log as auditors export it: exact leaves, heads, and the members that decisions name.

use crate::api::artifacts::read_fault;
use crate::api::problem::Refused;
use crate::api::{Call, answer, faulted, json};
use crate::serve::Authority;
use crate::store::StoredHead;
use axum::response::Response;
use countersign_core::api::B64;
use countersign_core::api::admin::{Heads, Leaves};
use countersign_core::digest::Sha256Digest;
use countersign_core::refusal::RefusalCode;
use http::StatusCode;
use std::sync::Arc;

/// Most leaves or heads of one answer.
const PAGE: u64 = 1_024;
/// Leaves of one answer weigh at most this, bytes, and at least one is given: clients take answers of 16 MiB, base64 adds a third.
const MAX_ANSWER_BYTES: usize = 8 * 1024 * 1024;

/// `GET /v1/admin/log/leaves`.
pub(in crate::api) async fn leaves(authority: Arc<Authority>, call: Call) -> Result<Response, Refused> {
    let (from, count) = (call.required_number("from")?, call.required_number("count")?.min(PAGE));
    let worker = Arc::clone(&authority);
    let leaves = authority.run(move || worker.reader().leaves(from, count).map_err(read_fault)).await?;
    let mut weight = 0;
    let fitting = leaves.into_iter().take_while(|leaf| {
        let first = weight == 0;
        weight += leaf.len();
        first || weight <= MAX_ANSWER_BYTES
    });
    json(&Leaves { from, leaves: fitting.map(B64).collect() })
}

/// `GET /v1/admin/log/heads`.
pub(in crate::api) async fn heads(authority: Arc<Authority>, call: Call) -> Result<Response, Refused> {
    let (from, count) = (call.required_number("from")?, call.required_number("count")?.min(PAGE));
    let worker = Arc::clone(&authority);
    let heads = authority.run(move || worker.reader().heads(from, count).map_err(read_fault)).await?;
    json(&Heads { heads: heads.iter().map(text).collect::<Result<_, _>>()? })
}

/// `GET /v1/admin/blobs/{digest}`.
pub(in crate::api) async fn blob(authority: Arc<Authority>, call: Call) -> Result<Response, Refused> {
    let not_found = || Refused::from(RefusalCode::NotFound);
    let digest = Sha256Digest::from_hex(&call.parameter).map_err(|_| not_found())?;
    let worker = Arc::clone(&authority);
    let found = authority.run(move || {
        let bytes = worker.reader().blob(&digest).map_err(read_fault)?;
        // What is gone because somebody pruned it is told from what was never here.
        let pruned = bytes.is_none() && worker.reader().pruned(&digest).map_err(read_fault)?.is_some();
        Ok::<_, Refused>((bytes, pruned))
    });
    let (bytes, pruned) = found.await?;
    let absent = || if pruned { Refused::from(RefusalCode::EvidencePruned) } else { not_found() };
    Ok(answer(StatusCode::OK, "application/octet-stream", bytes.ok_or_else(absent)?))
}

fn text(head: &StoredHead) -> Result<String, Refused> {
    if head.signatures().is_empty() {
        return Ok(head.text().to_owned());
    }
    head.note().map_err(|fault| faulted(&fault, RefusalCode::LogUnavailable))
}
