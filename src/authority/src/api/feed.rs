//! What gateways follow: newest head, consistency, control leaves, and the heads that vouch for new head keys (PROTOCOL §13.1).
//!
//! Nothing here needs a signature of its own: the head carries the chain's number and digest. Only leaves under the newest *signed* head are
//! handed out.

use super::artifacts::read_fault;
use super::problem::Refused;
use super::{Call, faulted, json};
use crate::serve::Authority;
use crate::store::{Reader, SignedHead, StoredTree};
use axum::response::Response;
use countersign_core::api::{B64, ConsistencyProof, Feed};
use countersign_core::leaf::control::{KeyEvent, KeyPurpose, KeyRecord};
use countersign_core::leaf::{Kind, Leaf};
use countersign_core::merkle::{Sha256Tree, consistency_proof};
use countersign_core::refusal::RefusalCode;
use std::sync::Arc;

/// Most control leaves of one answer. A leaf has at most 64 KiB, most have 200 bytes; clients take answers of 16 MiB.
const PAGE: u64 = 128;
/// Heads looked at for the first signed one that covers an activation. Key changes end their batch, so it is the first unless the signer was
/// away just then.
const MAX_UNSIGNED: u64 = 64;

/// `GET /v1/feed`.
pub(super) async fn feed(authority: Arc<Authority>, call: Call) -> Result<Response, Refused> {
    let (size, control) = (call.required_number("size")?, call.required_number("control")?);
    let head = match call.number("witnessed")? {
        None | Some(0) => authority.signed_head()?,
        Some(_) => witnessed(&authority, size)?,
    };
    let worker = Arc::clone(&authority);
    json(&authority.run(move || make_feed(&worker, &head, size, control)).await?)
}

/// `GET /v1/log/consistency`.
pub(super) async fn consistency(authority: Arc<Authority>, call: Call) -> Result<Response, Refused> {
    let (from, to) = (call.required_number("from")?, call.required_number("to")?);
    let newest = authority.signed_head()?.size();
    if from > to || to > newest {
        return Err(Refused::new(RefusalCode::Malformed, format!("sizes must rise and be at most {newest}")));
    }
    let worker = Arc::clone(&authority);
    let proof = authority.run(move || prove(worker.reader(), from, to)).await?;
    json(&ConsistencyProof { proof })
}

/// The newest head that enough witnesses cosigned, while it is as young as a ready authority's is.
fn witnessed(authority: &Authority, size: u64) -> Result<Arc<SignedHead>, Refused> {
    let longest_ms = authority.config().limits.ready_head_secs.saturating_mul(1_000);
    let young = |head: &Arc<SignedHead>| authority.now_ms().saturating_sub(head.body().time_ms) <= longest_ms;
    // Who holds a newer head got it without a quorum, or before a restart: it has to wait, and nothing was said that can't be true.
    let found = authority.witnesses().witnessed().filter(young).filter(|head| head.size() >= size);
    found.ok_or_else(|| RefusalCode::HeadUnwitnessed.into())
}

fn make_feed(authority: &Authority, head: &SignedHead, size: u64, control: u64) -> Result<Feed, Refused> {
    let (newest_size, newest_control) = (head.size(), head.body().control_seq);
    if size > newest_size || control > newest_control {
        // Whoever knows more than the log has seen another log, or this one before a rollback.
        let detail = format!("newest head has size {newest_size} and control number {newest_control}");
        return Err(Refused::new(RefusalCode::Malformed, detail));
    }
    let reader = authority.reader();
    let count = PAGE.min(newest_control - control);
    let leaves =
        if count == 0 { Vec::new() } else { reader.control_leaves(control, count).map_err(read_fault)? };
    let taken = u64::try_from(leaves.len()).unwrap_or(u64::MAX);
    let mut rotations = Vec::new();
    for (index, bytes) in &leaves {
        if activates_head_key(bytes)? {
            rotations.extend(first_signed_head_over(reader, *index, newest_size)?);
        }
    }
    Ok(Feed {
        head: head.note().to_owned(),
        consistency: prove(reader, size, newest_size)?,
        control: leaves.into_iter().map(|(_, bytes)| B64(bytes)).collect(),
        rotations,
        more: control + taken < newest_control,
    })
}

fn activates_head_key(bytes: &[u8]) -> Result<bool, Refused> {
    let corrupt = |fault| faulted(&fault, RefusalCode::LogUnavailable);
    let leaf = Leaf::parse(bytes).map_err(corrupt)?;
    if leaf.kind != Kind::Key {
        return Ok(false);
    }
    let record = KeyRecord::parse(&leaf.body).map_err(corrupt)?;
    Ok(record.purpose == KeyPurpose::Head && record.event == KeyEvent::Activated)
}

/// The first signed head that covers the leaf at `index`.
fn first_signed_head_over(reader: &dyn Reader, index: u64, newest: u64) -> Result<Option<String>, Refused> {
    let heads = reader.heads(index + 1, MAX_UNSIGNED).map_err(read_fault)?;
    let signed = heads.iter().find(|head| !head.signatures().is_empty() && head.body().size <= newest);
    signed.map(|head| head.note().map_err(|fault| faulted(&fault, RefusalCode::LogUnavailable))).transpose()
}

fn prove(reader: &dyn Reader, from: u64, to: u64) -> Result<Vec<String>, Refused> {
    if from == 0 || from == to {
        return Ok(Vec::new());
    }
    let proof = consistency_proof::<Sha256Tree, _>(from, to, &StoredTree(reader));
    let proof = proof.map_err(|fault| faulted(&fault, RefusalCode::LogUnavailable))?;
    Ok(proof.iter().map(|hash| hash.to_hex()).collect())
}
