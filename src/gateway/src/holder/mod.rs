//! The holder proof: that the presenter of an artifact holds the key that it names, here and now (PROTOCOL §13.2, 8).

pub mod key;

use crate::clock::CLOCK_LEEWAY_MS;
use countersign_core::digest::Sha256Digest;
use countersign_core::key::VerifyingKey;
use countersign_core::tuple;

/// How old a proof may be: a slow holder's time, and the time for which a door must remember nonces.
pub const HOLDER_PROOF_WINDOW_MS: u64 = 30_000;
/// Fewest bytes of a nonce: what can't be guessed.
pub const MIN_NONCE_LEN: usize = 16;
/// Most bytes of a nonce.
pub const MAX_NONCE_LEN: usize = 64;

/// Why a holder proof proves nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HolderRefused {
    /// The nonce is too short or too long.
    #[error("a nonce has {MIN_NONCE_LEN} to {MAX_NONCE_LEN} bytes")]
    Nonce,
    /// Made too long ago, or in the future.
    #[error("the proof's time is outside of the window")]
    Time,
    /// Not by the artifact's holder key, or not over this artifact at this gateway.
    #[error("the artifact's holder key didn't sign for this gateway, artifact, nonce and time")]
    Signature,
}

/// What a holder signs.
#[must_use]
pub fn holder_preimage(gateway: &str, leaf_hash: &Sha256Digest, nonce: &[u8], time_ms: u64) -> Vec<u8> {
    tuple::preimage(
        "countersign-v1:holder-proof",
        &[gateway.as_bytes(), leaf_hash.as_bytes(), nonce, &time_ms.to_be_bytes()],
    )
}

/// A proof as presented. Not verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HolderProof {
    /// The gateway's own, or one that it hasn't seen in the window: the door's duty.
    pub nonce: Vec<u8>,
    /// When it was made, ms.
    pub time_ms: u64,
    /// By the holder key over [`holder_preimage`].
    pub signature: Vec<u8>,
}

impl HolderProof {
    /// Checks form, time and signature.
    pub fn verify(
        &self,
        holder: &VerifyingKey,
        gateway: &str,
        leaf_hash: &Sha256Digest,
        now_ms: u64,
    ) -> Result<(), HolderRefused> {
        if !(MIN_NONCE_LEN..=MAX_NONCE_LEN).contains(&self.nonce.len()) {
            return Err(HolderRefused::Nonce);
        }
        let ahead = self.time_ms.saturating_sub(now_ms);
        let age = now_ms.saturating_sub(self.time_ms);
        if ahead > CLOCK_LEEWAY_MS || age > HOLDER_PROOF_WINDOW_MS {
            return Err(HolderRefused::Time);
        }
        let preimage = holder_preimage(gateway, leaf_hash, &self.nonce, self.time_ms);
        holder.verify(&preimage, &self.signature).map_err(|_| HolderRefused::Signature)
    }
}

#[cfg(test)]
mod tests {
    use super::key::HolderKey;
    use super::*;
    use countersign_core::digest::sha256;
    use countersign_core::key::Algorithm;

    fn proof(key: &HolderKey) -> HolderProof {
        let nonce = vec![7; 32];
        let signature = key.sign(&holder_preimage("gate", &sha256(b"leaf"), &nonce, 100_000)).to_vec();
        HolderProof { nonce, time_ms: 100_000, signature }
    }

    fn check(
        proof: &HolderProof,
        key: &HolderKey,
        gateway: &str,
        leaf: &[u8],
        now_ms: u64,
    ) -> Result<(), HolderRefused> {
        proof.verify(key.public(), gateway, &sha256(leaf), now_ms)
    }

    #[test]
    fn a_proof_holds_for_its_gateway_artifact_nonce_time_and_key_only() {
        for algorithm in [Algorithm::EdDsa, Algorithm::Es256] {
            let key = HolderKey::generate(algorithm).unwrap();
            let good = proof(&key);
            assert_eq!(check(&good, &key, "gate", b"leaf", 100_000), Ok(()));
            let other = HolderKey::generate(algorithm).unwrap();
            assert_eq!(check(&good, &other, "gate", b"leaf", 100_000), Err(HolderRefused::Signature));
            assert_eq!(check(&good, &key, "gatf", b"leaf", 100_000), Err(HolderRefused::Signature));
            assert_eq!(check(&good, &key, "gate", b"leaves", 100_000), Err(HolderRefused::Signature));
            let mut nonce = good.clone();
            nonce.nonce[0] ^= 1;
            assert_eq!(check(&nonce, &key, "gate", b"leaf", 100_000), Err(HolderRefused::Signature));
            let time = HolderProof { time_ms: 100_001, ..good };
            assert_eq!(check(&time, &key, "gate", b"leaf", 100_001), Err(HolderRefused::Signature));
        }
    }

    #[test]
    fn the_window_ends_at_its_exact_milliseconds() {
        let key = HolderKey::generate(Algorithm::EdDsa).unwrap();
        let good = proof(&key);
        assert_eq!(check(&good, &key, "gate", b"leaf", 130_000), Ok(()));
        assert_eq!(check(&good, &key, "gate", b"leaf", 130_001), Err(HolderRefused::Time));
        assert_eq!(check(&good, &key, "gate", b"leaf", 98_000), Ok(()));
        assert_eq!(check(&good, &key, "gate", b"leaf", 97_999), Err(HolderRefused::Time));
    }

    #[test]
    fn nonces_that_can_be_guessed_are_refused() {
        let key = HolderKey::generate(Algorithm::EdDsa).unwrap();
        let mut short = proof(&key);
        short.nonce.truncate(15);
        assert_eq!(check(&short, &key, "gate", b"leaf", 100_000), Err(HolderRefused::Nonce));
        short.nonce = vec![0; 65];
        assert_eq!(check(&short, &key, "gate", b"leaf", 100_000), Err(HolderRefused::Nonce));
    }
}
