//! Keys that were checked before: to check one takes longer than to parse the leaf that it stands in, and leaf after leaf has the same.
//!
//! Comes in: a COSE_Key. Goes out: the key, or why it is none. Memory: at most [`MAX_KNOWN`] keys; then it begins anew.

use super::{KeyError, VerifyingKey};
use std::collections::HashMap;

/// Most keys that are remembered.
pub const MAX_KNOWN: usize = 4_096;

/// Keys by the exact bytes of their COSE_Key.
#[derive(Debug, Default)]
pub struct KnownKeys {
    keys: HashMap<Vec<u8>, VerifyingKey>,
}

impl KnownKeys {
    /// As [`VerifyingKey::from_cose_key`].
    ///
    /// # Errors
    /// The same.
    pub fn from_cose_key(&mut self, bytes: &[u8]) -> Result<VerifyingKey, KeyError> {
        if let Some(key) = self.keys.get(bytes) {
            return Ok(key.clone());
        }
        let key = VerifyingKey::from_cose_key(bytes)?;
        if self.keys.len() >= MAX_KNOWN {
            self.keys.clear();
        }
        self.keys.insert(bytes.to_vec(), key.clone());
        Ok(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_the_same_the_second_time_and_a_bad_one_is_never_known() {
        let mut known = KnownKeys::default();
        let good = ed25519_dalek::SigningKey::from_bytes(&[7; 32]).verifying_key();
        let good = VerifyingKey::ed25519(good.as_bytes()).unwrap().cose_key();
        let first = known.from_cose_key(&good).unwrap();
        assert_eq!(known.from_cose_key(&good).unwrap(), first);
        let mut bad = good.clone();
        *bad.last_mut().unwrap() ^= 1;
        for _ in 0..2 {
            assert_eq!(known.from_cose_key(&bad).is_err(), VerifyingKey::from_cose_key(&bad).is_err());
            assert!(known.from_cose_key(&good[1..]).is_err());
        }
        assert!(known.keys.len() <= 2);
        for n in 0..=MAX_KNOWN {
            let mut seed = [0; 32];
            seed[..8].copy_from_slice(&u64::try_from(n).unwrap().to_be_bytes());
            known.keys.insert(seed.to_vec(), first.clone());
        }
        known
            .from_cose_key(
                &VerifyingKey::ed25519(
                    ed25519_dalek::SigningKey::from_bytes(&[9; 32]).verifying_key().as_bytes(),
                )
                .unwrap()
                .cose_key(),
            )
            .unwrap();
        assert_eq!(known.keys.len(), 1, "bounded");
    }
}
