//! The admin listener's resources (PROTOCOL §11.2).

pub mod hosts;
pub mod keys;
pub mod lineage;
pub mod log;
pub mod policies;
pub mod principals;
pub mod references;
pub mod revocations;
pub mod tokens;
pub mod witnesses;

use super::artifacts::receipt_text;
use super::problem::Refused;
use crate::store::Receipts;
use countersign_core::api::{ApprovalDocument, Recorded};
use countersign_core::key::VerifyingKey;
use countersign_core::leaf::control::Approval;
use countersign_core::refusal::RefusalCode;

/// The receipt of an act's only leaf, or of its last.
fn recorded(receipts: &Receipts) -> Result<Recorded, Refused> {
    let leaf = receipts.leaves.last().ok_or(RefusalCode::Internal)?;
    Ok(Recorded { index: leaf.index, receipt: receipt_text(leaf, &receipts.head) })
}

/// An approval as leaves carry it; whether it counts is the control state's question.
fn approval(document: ApprovalDocument) -> Result<Approval, Refused> {
    let key = VerifyingKey::try_from(document.key).map_err(|error| malformed(error.to_string()))?;
    Ok(Approval { key, signature: document.signature.0 })
}

fn malformed(what: impl Into<std::borrow::Cow<'static, str>>) -> Refused {
    Refused::new(RefusalCode::Malformed, what)
}
