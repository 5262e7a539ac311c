//! The heads that a gateway remembers: its memory against forks, and what makes the next artifact under a known head cost only hashes.

use countersign_core::digest::Sha256Digest;
use std::collections::BTreeMap;

/// Most heads that are kept. Artifacts live minutes, and a busy authority signs a few heads a second; what was forgotten is joined by a
/// consistency proof.
pub const MAX_REMEMBERED_HEADS: usize = 1_024;

/// Sizes and digests of heads that were verified and joined to the newest of their time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeadMemory {
    heads: BTreeMap<u64, Sha256Digest>,
}

impl HeadMemory {
    /// The digest of the head of this size.
    #[must_use]
    pub fn at(&self, size: u64) -> Option<&Sha256Digest> {
        self.heads.get(&size)
    }

    /// Whether another head of this size is remembered: a fork, if both are signed (PROTOCOL §6.2).
    #[must_use]
    pub fn contradicts(&self, size: u64, digest: &Sha256Digest) -> bool {
        self.at(size).is_some_and(|known| known != digest)
    }

    /// Adds a head that doesn't contradict; the smallest are forgotten first.
    pub(super) fn remember(&mut self, size: u64, digest: Sha256Digest) {
        self.heads.entry(size).or_insert(digest);
        while self.heads.len() > MAX_REMEMBERED_HEADS {
            self.heads.pop_first();
        }
    }

    /// All of them, by size.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &Sha256Digest)> {
        self.heads.iter().map(|(size, digest)| (*size, digest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use countersign_core::digest::sha256;

    #[test]
    fn the_memory_is_bounded_and_forgets_the_smallest_first() {
        let mut memory = HeadMemory::default();
        let bound = u64::try_from(MAX_REMEMBERED_HEADS).unwrap();
        for size in 1..=bound + 10 {
            memory.remember(size, sha256(&size.to_be_bytes()));
        }
        assert_eq!(memory.iter().count(), MAX_REMEMBERED_HEADS);
        assert!(memory.at(10).is_none());
        assert!(memory.at(11).is_some());
    }

    #[test]
    fn what_is_remembered_is_never_replaced() {
        let mut memory = HeadMemory::default();
        memory.remember(5, sha256(b"one"));
        memory.remember(5, sha256(b"two"));
        assert!(memory.contradicts(5, &sha256(b"two")));
        assert!(!memory.contradicts(5, &sha256(b"one")));
        assert!(!memory.contradicts(6, &sha256(b"two")));
    }
}
