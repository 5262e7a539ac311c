//! The newest head of a store that its log's own keys have signed, checked by who believes the store nothing.

use countersign_core::bundle::TrustBundle;
use countersign_core::control::{ControlError, ControlState};
use countersign_core::note::{NoteKey, SignedNote, verify};

use crate::store::{MAX_PAGE, ReadFault, Reader, SignedHead, newest_signed_head};

/// Why there is no such head.
#[derive(Debug, thiserror::Error)]
pub enum VouchedFault {
    /// Nothing is signed, or not by a key that the control chain up to it calls active.
    #[error("the newest head in the store isn't signed by the log's keys")]
    Unsigned,
    /// A control leaf doesn't follow.
    #[error("the control chain doesn't fold: {0}")]
    Control(#[from] ControlError),
    /// The store can't be read.
    #[error(transparent)]
    Read(#[from] ReadFault),
}

/// The newest signed head, under a signature of a key that the control chain up to it calls active.
///
/// # Errors
/// [`VouchedFault`].
pub fn newest_vouched(reader: &dyn Reader, bundle: &TrustBundle) -> Result<SignedHead, VouchedFault> {
    let head = newest_signed_head(reader)?.ok_or(VouchedFault::Unsigned)?;
    let mut control = ControlState::of_bundle(bundle);
    while control.number() < head.body().control_seq {
        let left = head.body().control_seq - control.number();
        let leaves = reader.control_leaves(control.number(), left.min(MAX_PAGE))?;
        if leaves.is_empty() {
            return Err(VouchedFault::Unsigned);
        }
        for (_, bytes) in leaves {
            control.apply(&bytes)?;
        }
    }
    if head.body().control_digest != *control.digest() {
        return Err(VouchedFault::Unsigned);
    }
    let keys = control.head_keys_at(control.number()).map(|key| NoteKey::new(control.origin(), key.clone()));
    let keys = keys.collect::<Result<Vec<_>, _>>().map_err(|_| VouchedFault::Unsigned)?;
    let note = SignedNote::parse(head.note()).map_err(|_| VouchedFault::Unsigned)?;
    verify(&note, &keys).map_err(|_| VouchedFault::Unsigned)?;
    Ok(head)
}
