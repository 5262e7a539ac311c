//! The control chain as a gateway holds it: the folded state, and every link's digest, so that any head's claim about it can be compared.

use super::advance::AdvanceRefused;
use countersign_core::bundle::TrustBundle;
use countersign_core::control::ControlState;
use countersign_core::digest::Sha256Digest;
use countersign_core::key::VerifyingKey;

/// Bytes of one stored leaf beside the leaf itself.
pub(super) const LENGTH_PREFIX: u64 = 4;

/// Control leaves 1 to n, folded without a gap.
#[derive(Clone, Debug)]
pub struct Chain {
    state: ControlState,
    links: Vec<Sha256Digest>,
    last_index: Option<u64>,
    stored_len: u64,
}

impl Chain {
    /// The chain before its first leaf.
    #[must_use]
    pub fn genesis(bundle: &TrustBundle) -> Self {
        Self { state: ControlState::of_bundle(bundle), links: Vec::new(), last_index: None, stored_len: 0 }
    }

    /// Takes the next control leaf. After an error the chain must be thrown away.
    pub fn apply(&mut self, leaf_bytes: &[u8]) -> Result<(), AdvanceRefused> {
        let leaf = self.state.apply(leaf_bytes)?;
        // Leaves stand in the log in the order of their control numbers (PROTOCOL §5.4).
        if self.last_index.is_some_and(|last| leaf.index <= last) {
            return Err(AdvanceRefused::ControlOrder);
        }
        self.last_index = Some(leaf.index);
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

    /// Index in the log of the last control leaf.
    #[must_use]
    pub const fn last_index(&self) -> Option<u64> {
        self.last_index
    }

    /// Bytes that the leaves take in the state directory.
    pub(super) const fn stored_len(&self) -> u64 {
        self.stored_len
    }

    /// Whether the bundle's head keys are the first that the chain introduces, all activated before any other is introduced (PROTOCOL §13.1).
    #[must_use]
    pub fn begins_with(&self, keys: &[VerifyingKey]) -> bool {
        let known = self.state.head_keys();
        let Some((first, later)) = known.split_at_checked(keys.len()) else { return false };
        let last_activation = first.iter().map(|key| key.activated).max().flatten();
        let all_named = keys.iter().all(|key| first.iter().any(|known| known.key == *key));
        let all_active = first.iter().all(|key| key.activated.is_some());
        let before_others = later.iter().all(|key| last_activation.is_some_and(|at| at < key.introduced));
        all_named && all_active && before_others
    }
}
