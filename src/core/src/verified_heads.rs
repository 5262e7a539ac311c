//! Signed heads that were verified before: the next artifact under one of them costs only hashes.
//!
//! Comes in: a head's note, byte for byte, and the control state under which its signatures were good. Goes out: whether this very note was good under
//! this very state. Any other byte and any later control leaf (a key that was retired, a compromise) makes it unknown again. Memory: at most
//! [`MAX_VERIFIED_HEADS`] digests; then it begins anew.

use crate::control::ControlState;
use crate::digest::{Sha256Digest, sha256};
use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Most heads that are remembered.
pub const MAX_VERIFIED_HEADS: usize = 1_024;

/// Notes that were good under one control state.
#[derive(Debug, Default)]
pub struct VerifiedHeads {
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    control: Option<Sha256Digest>,
    notes: HashSet<Sha256Digest>,
}

impl VerifiedHeads {
    /// Whether this note was good under this state, or else what `verify` says; what is good is remembered.
    pub(crate) fn verified<E>(
        &self,
        control: &ControlState,
        note: &str,
        verify: impl FnOnce() -> Result<(), E>,
    ) -> Result<(), E> {
        let digest = sha256(note.as_bytes());
        if self.known(control).notes.contains(&digest) {
            return Ok(());
        }
        // Not under the lock: whoever sends heads that don't verify keeps nobody waiting.
        verify()?;
        let mut known = self.known(control);
        if known.notes.len() >= MAX_VERIFIED_HEADS {
            known.notes.clear();
        }
        known.notes.insert(digest);
        Ok(())
    }

    /// What is known under this state, and nothing of any other: the digest is of the whole chain, so equal digests are equal states.
    fn known(&self, control: &ControlState) -> MutexGuard<'_, Known> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.control.as_ref() != Some(control.digest()) {
            *known = Known { control: Some(*control.digest()), notes: HashSet::new() };
        }
        known
    }
}
