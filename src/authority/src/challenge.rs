//! Challenges: minting and opening under MAC keys that rotate (PROTOCOL §4.1).
//!
//! Comes in: stored keys, time and randomness as arguments. Goes out: sealed challenges, and [`OpenedChallenge`]s of such. Refused: a
//! challenge under a key that isn't held, which includes every key older than its last challenge can be. No write is needed to mint; a new
//! key is persisted by the caller before it seals anything, so that every replica can open what any replica sealed.

use countersign_core::challenge::{ChallengeBody, ChallengeInvalid, OpenedChallenge};
use countersign_core::digest::Sha256Digest;
use countersign_core::name::HostId;
use zeroize::Zeroizing;

/// Longest lifetime of a challenge, ms: seconds for a slow TPM and a slow network, not minutes for a thief. Part of the engine version, since
/// a quote may trail its host's clock by as much (PROTOCOL §8.4).
pub const CHALLENGE_LIFETIME_MS: u64 = 60_000;

/// When a key is followed by a new one, and how long what it sealed can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rotation {
    /// A key older than this seals no more, ms.
    pub every_ms: u64,
    /// Lifetime of a challenge, ms; cut to [`CHALLENGE_LIFETIME_MS`].
    pub lifetime_ms: u64,
}

impl Rotation {
    fn lifetime_ms(&self) -> u64 {
        self.lifetime_ms.min(CHALLENGE_LIFETIME_MS)
    }
}

/// A MAC key. Neither printed nor compared; wiped when dropped.
#[derive(Clone)]
pub struct ChallengeKey {
    /// Its name inside challenges.
    pub id: [u8; 8],
    /// The key.
    pub key: Zeroizing<[u8; 32]>,
    /// When it was made, ms.
    pub created_ms: u64,
}

impl ChallengeKey {
    /// A new key. `random` fills its buffer from the system's generator.
    pub fn generate<E>(now_ms: u64, mut random: impl FnMut(&mut [u8]) -> Result<(), E>) -> Result<Self, E> {
        let mut id = [0; 8];
        let mut key = Zeroizing::new([0; 32]);
        random(&mut id)?;
        random(key.as_mut_slice())?;
        Ok(Self { id, key, created_ms: now_ms })
    }
}

/// There is no key young enough to seal a challenge: rotate first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no challenge key is young enough")]
pub struct NoCurrentKey;

/// A minted challenge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Minted {
    /// The opaque bytes.
    pub challenge: Vec<u8>,
    /// Until when it can be used, ms.
    pub expires_ms: u64,
}

/// The keys that are held: the newest seals, all of them open.
#[derive(Clone, Default)]
pub struct ChallengeKeys {
    /// Newest first.
    keys: Vec<ChallengeKey>,
}

impl ChallengeKeys {
    /// The keys that a store holds.
    #[must_use]
    pub fn new(mut stored: Vec<ChallengeKey>) -> Self {
        stored.sort_by_key(|key| (std::cmp::Reverse(key.created_ms), key.id));
        stored.dedup_by_key(|key| key.id);
        Self { keys: stored }
    }

    /// Whether a new key has to be made, persisted and [added](Self::add) before the next challenge.
    #[must_use]
    pub fn rotation_due(&self, now_ms: u64, rotation: &Rotation) -> bool {
        self.current(now_ms, rotation).is_none()
    }

    /// Takes a key that has been persisted.
    pub fn add(&mut self, key: ChallengeKey) {
        let mut keys = std::mem::take(&mut self.keys);
        keys.push(key);
        *self = Self::new(keys);
    }

    /// Drops keys under which no challenge can be alive, and returns their names so that the store can drop them too.
    pub fn retire(&mut self, now_ms: u64, rotation: &Rotation) -> Vec<[u8; 8]> {
        let lives = rotation.every_ms.saturating_add(rotation.lifetime_ms());
        let (kept, retired) = std::mem::take(&mut self.keys)
            .into_iter()
            .partition(|key| now_ms <= key.created_ms.saturating_add(lives));
        self.keys = kept;
        let retired: Vec<ChallengeKey> = retired;
        retired.iter().map(|key| key.id).collect()
    }

    /// Seals a challenge for one host. `head` is the digest of the newest signed head body, `random` comes from the system's generator.
    pub fn mint(
        &self,
        host: HostId,
        head: Sha256Digest,
        now_ms: u64,
        rotation: &Rotation,
        random: [u8; 16],
    ) -> Result<Minted, NoCurrentKey> {
        let key = self.current(now_ms, rotation).ok_or(NoCurrentKey)?;
        let expires_ms = now_ms.saturating_add(rotation.lifetime_ms());
        let body = ChallengeBody { key_id: key.id, host, expires_ms, head, random };
        Ok(Minted { challenge: body.seal(&key.key), expires_ms })
    }

    /// Opens a challenge; expiry and standing are for the decision.
    pub fn open(&self, challenge: &[u8]) -> Result<OpenedChallenge, ChallengeInvalid> {
        OpenedChallenge::open(challenge, |id| self.keys.iter().find(|key| key.id == *id).map(|key| *key.key))
    }

    fn current(&self, now_ms: u64, rotation: &Rotation) -> Option<&ChallengeKey> {
        // A key from the future (a replica's clock) is good as long as it is not too old.
        self.keys.first().filter(|key| now_ms < key.created_ms.saturating_add(rotation.every_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;

    const ROTATION: Rotation = Rotation { every_ms: 600_000, lifetime_ms: 30_000 };

    fn key(seed: u8, created_ms: u64) -> ChallengeKey {
        let Ok(key) = ChallengeKey::generate(created_ms, |buffer| -> Result<(), Infallible> {
            buffer.fill(seed);
            Ok(())
        });
        key
    }

    fn host() -> HostId {
        HostId::from_slice(&[1; 33]).unwrap()
    }

    fn mint(keys: &ChallengeKeys, now_ms: u64) -> Result<Minted, NoCurrentKey> {
        keys.mint(host(), Sha256Digest::ZERO, now_ms, &ROTATION, [5; 16])
    }

    #[test]
    fn a_challenge_opens_until_its_key_is_retired_and_never_before_its_own_end() {
        let mut keys = ChallengeKeys::new(vec![key(1, 0)]);
        let minted = mint(&keys, 599_999).unwrap();
        assert_eq!(minted.expires_ms, 629_999);
        keys.add(key(2, 600_000));
        assert!(keys.retire(minted.expires_ms, &ROTATION).is_empty());
        assert_eq!(keys.open(&minted.challenge).unwrap().body().expires_ms, minted.expires_ms);
        assert_eq!(keys.retire(630_001, &ROTATION), vec![[1; 8]]);
        assert!(keys.open(&minted.challenge).is_err());
    }

    #[test]
    fn the_newest_key_seals_and_an_old_one_does_not() {
        let mut keys = ChallengeKeys::default();
        assert!(keys.rotation_due(0, &ROTATION));
        assert_eq!(mint(&keys, 0), Err(NoCurrentKey));
        keys.add(key(1, 0));
        assert!(!keys.rotation_due(599_999, &ROTATION));
        assert!(keys.rotation_due(600_000, &ROTATION));
        assert_eq!(mint(&keys, 600_000), Err(NoCurrentKey));
        keys.add(key(2, 600_000));
        let opened = keys.open(&mint(&keys, 600_000).unwrap().challenge).unwrap();
        assert_eq!(opened.body().key_id, [2; 8]);
        assert_eq!(opened.body().host, host());
    }

    #[test]
    fn another_authoritys_challenge_does_not_open() {
        let ours = ChallengeKeys::new(vec![key(1, 0)]);
        let mut forged = key(1, 0);
        forged.key = Zeroizing::new([9; 32]);
        let theirs = ChallengeKeys::new(vec![forged]);
        assert!(ours.open(&mint(&theirs, 1).unwrap().challenge).is_err());
        assert!(ours.open(&mint(&ChallengeKeys::new(vec![key(3, 0)]), 1).unwrap().challenge).is_err());
    }
}
