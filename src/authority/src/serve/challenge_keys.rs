//! Keys of challenges as one of several authorities has them: made in turn, kept in the store, read from it again.
//!
//! Comes in: the time, and challenges that nobody here knows. Goes out: the keys to seal and to open challenges with.

use super::{Authority, lock};
use crate::challenge::{ChallengeKey, ChallengeKeys};
use crate::sequence::SequenceFault;
use std::sync::Arc;
use std::time::{Duration, Instant};
use zeroize::Zeroizing;

/// Least time between two reads of challenge keys for a challenge that nobody here knows: whoever invents some costs no more than that.
const UNKNOWN_PAUSE: Duration = Duration::from_millis(100);

impl Authority {
    /// Takes over the challenge keys that the store holds.
    pub(super) fn read_challenge_keys(&self) {
        match self.reader.challenge_keys() {
            Ok(stored) => {
                let keys = ChallengeKeys::new(stored.iter().map(challenge_key).collect());
                self.challenge_keys.store(Arc::new(keys));
            }
            Err(fault) => tracing::debug!(%fault, "challenge keys can't be read"),
        }
    }

    /// The keys to open this challenge with: another replica may have sealed it a moment ago under a key that is new. For worker threads.
    #[must_use]
    pub fn challenge_keys_for(&self, challenge: &[u8]) -> Arc<ChallengeKeys> {
        let held = self.challenge_keys();
        if held.open(challenge).is_ok() || !self.config.store.place(self.origin()).is_shared() {
            return held;
        }
        let mut last = lock(&self.keys_looked_up);
        if last.is_none_or(|then| then.elapsed() >= UNKNOWN_PAUSE) {
            *last = Some(Instant::now());
            self.read_challenge_keys();
        }
        self.challenge_keys()
    }

    /// Makes, keeps and takes up a new challenge key when the newest one is old; drops those that nothing can need.
    pub(super) async fn rotate_challenge_key(&self) -> Result<(), SequenceFault> {
        let (now_ms, rotation) = (self.decision_time_ms(), self.challenge_rotation());
        let mut keys = ChallengeKeys::clone(&self.challenge_keys.load());
        if !keys.rotation_due(now_ms, &rotation) {
            return Ok(());
        }
        if self.config.store.place(self.origin()).is_shared() {
            // Another replica may have made one.
            self.read_challenge_keys();
            keys = ChallengeKeys::clone(&self.challenge_keys.load());
            if !keys.rotation_due(now_ms, &rotation) {
                return Ok(());
            }
        }
        let Ok(key) = ChallengeKey::generate(now_ms, getrandom::fill) else {
            tracing::error!("no randomness for a challenge key");
            return Ok(());
        };
        let stored = crate::store::ChallengeKey { id: key.id, key: *key.key, made_ms: key.created_ms };
        let lives = rotation.every_ms.saturating_add(rotation.lifetime_ms);
        // Kept first: what it seals must be opened after a restart, too.
        self.sequencer.put_challenge_key(stored, now_ms.saturating_sub(lives))?.done().await?;
        keys.add(key);
        keys.retire(now_ms, &rotation);
        self.challenge_keys.store(Arc::new(keys));
        Ok(())
    }
}

/// The stored form of a challenge key, as the challenges module uses it.
pub(super) fn challenge_key(stored: &crate::store::ChallengeKey) -> ChallengeKey {
    ChallengeKey { id: stored.id, key: Zeroizing::new(stored.key), created_ms: stored.made_ms }
}
