//! The control chain as a gateway holds it: the folded state, and every link's digest, so that any head's claim about it can be compared.

use super::advance::AdvanceRefused;
use countersign_core::bundle::TrustBundle;
use countersign_core::control::{ControlError, ControlState};
use countersign_core::digest::Sha256Digest;

/// Bytes of one stored leaf beside the leaf itself.
pub(super) const LENGTH_PREFIX: u64 = 4;

/// Control leaves 1 to n, folded without a gap.
#[derive(Clone, Debug)]
pub struct Chain {
    state: ControlState,
    links: Vec<Sha256Digest>,
    stored_len: u64,
}

impl Chain {
    /// The chain before its first leaf.
    #[must_use]
    pub fn genesis(bundle: &TrustBundle) -> Self {
        Self { state: ControlState::of_bundle(bundle), links: Vec::new(), stored_len: 0 }
    }

    /// Takes the next control leaf. After an error the chain must be thrown away.
    pub fn apply(&mut self, leaf_bytes: &[u8]) -> Result<(), AdvanceRefused> {
        self.state.apply(leaf_bytes).map_err(|error| match error {
            ControlError::Index { .. } => AdvanceRefused::ControlOrder,
            other => other.into(),
        })?;
        self.links.push(*self.state.digest());
        let len = u64::try_from(leaf_bytes.len()).unwrap_or(u64::MAX);
        self.stored_len = self.stored_len.saturating_add(LENGTH_PREFIX).saturating_add(len);
        Ok(())
    }

    /// What the chain says.
    #[must_use]
    pub const fn state(&self) -> &ControlState {
        &self.state
    }

    /// Digest of the chain at `number`; `None` beyond its end.
    #[must_use]
    pub fn digest_at(&self, number: u64) -> Option<Sha256Digest> {
        match number.checked_sub(1) {
            None => Some(Sha256Digest::ZERO),
            Some(at) => usize::try_from(at).ok().and_then(|at| self.links.get(at)).copied(),
        }
    }

    /// Bytes that the leaves take in the state directory.
    pub(super) const fn stored_len(&self) -> u64 {
        self.stored_len
    }
}
