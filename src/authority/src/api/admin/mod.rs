//! The admin listener's resources (PROTOCOL §11.2).

pub mod hosts;
pub mod keys;
pub mod log;
pub mod policies;
pub mod principals;
pub mod references;
pub mod revocations;
pub mod tokens;

use super::artifacts::receipt_text;
use super::problem::Refused;
use crate::store::Receipts;
use countersign_core::api::Recorded;
use countersign_core::refusal::RefusalCode;

/// The receipt of an act's only leaf, or of its last.
fn recorded(receipts: &Receipts) -> Result<Recorded, Refused> {
    let leaf = receipts.leaves.last().ok_or(RefusalCode::Internal)?;
    Ok(Recorded { index: leaf.index, receipt: receipt_text(leaf, &receipts.head) })
}

fn malformed(what: impl Into<std::borrow::Cow<'static, str>>) -> Refused {
    Refused::new(RefusalCode::Malformed, what)
}
