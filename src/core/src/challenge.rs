//! Stateless challenges (PROTOCOL §4.1).
//!
//! Comes in: bytes from a caller and the MAC keys. Goes out: an [`OpenedChallenge`], which exists only if the MAC verified. Whether it has expired
//! or was spent is for the caller to ask: those are decisions, not forms.

use crate::cbor::{CborError, Decoder, encode_array};
use crate::digest::{Sha256Digest, sha256};
use crate::name::HostId;
use crate::tuple;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

const TAG: &str = "countersign-v1:challenge";
const MAC_LEN: usize = 32;
/// Longest challenge: CBOR heads and 8 + 33 + 9 + 32 + 16 bytes, and the MAC.
pub const MAX_CHALLENGE_LEN: usize = 160;

/// Why bytes aren't a challenge of ours. One answer for all of it, so that nobody can probe which part was wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a challenge of this authority")]
pub struct ChallengeInvalid;

/// The readable part of a challenge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChallengeBody {
    /// Which MAC key.
    pub key_id: [u8; 8],
    /// For whom.
    pub host: HostId,
    /// Until when, ms.
    pub expires_ms: u64,
    /// Digest of the newest signed head body when it was made.
    pub head: Sha256Digest,
    /// Makes it unique.
    pub random: [u8; 16],
}

impl ChallengeBody {
    fn encode(&self) -> Vec<u8> {
        encode_array(|array| {
            array.item().bytes(&self.key_id);
            array.item().bytes(self.host.as_bytes());
            array.item().uint(self.expires_ms);
            array.item().bytes(self.head.as_bytes());
            array.item().bytes(&self.random);
        })
    }

    fn parse(bytes: &[u8]) -> Result<Self, CborError> {
        let mut decoder = Decoder::new(bytes)?;
        decoder.array_of(5)?;
        let key_id = decoder.byte_array()?;
        let offset = decoder.offset();
        let host = HostId::from_slice(decoder.bytes()?).map_err(|_| CborError::UnknownKey { offset })?;
        let expires_ms = decoder.uint()?;
        let head = Sha256Digest::new(decoder.byte_array()?);
        let random = decoder.byte_array()?;
        decoder.finish()?;
        Ok(Self { key_id, host, expires_ms, head, random })
    }

    /// Seals the body under the MAC key that `key_id` names.
    #[must_use]
    pub fn seal(&self, key: &[u8; 32]) -> Vec<u8> {
        let mut bytes = self.encode();
        let mac = mac(key, &bytes).finalize().into_bytes();
        bytes.extend_from_slice(&mac);
        bytes
    }

    /// Reads a challenge without its MAC key: for auditors, who learn only what the authority wrote.
    pub fn read_unverified(challenge: &[u8]) -> Result<Self, ChallengeInvalid> {
        let (body, _) = split(challenge)?;
        Self::parse(body).map_err(|_| ChallengeInvalid)
    }
}

fn split(challenge: &[u8]) -> Result<(&[u8], &[u8]), ChallengeInvalid> {
    if challenge.len() > MAX_CHALLENGE_LEN {
        return Err(ChallengeInvalid);
    }
    let at = challenge.len().checked_sub(MAC_LEN).ok_or(ChallengeInvalid)?;
    challenge.split_at_checked(at).ok_or(ChallengeInvalid)
}

#[expect(clippy::expect_used, reason = "HMAC takes keys of every length (RFC 2104)")]
fn mac(key: &[u8; 32], body: &[u8]) -> Hmac<Sha256> {
    let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(key).expect("any key length");
    mac.update(&tuple::preimage(TAG, &[body]));
    mac
}

/// A challenge whose MAC verified.
#[derive(Clone, Debug)]
pub struct OpenedChallenge {
    body: ChallengeBody,
    bytes: Vec<u8>,
    digest: Sha256Digest,
}

impl OpenedChallenge {
    /// Verifies the MAC in constant time with the key that `key_of` knows by identifier.
    pub fn open(
        challenge: &[u8],
        key_of: impl FnOnce(&[u8; 8]) -> Option<[u8; 32]>,
    ) -> Result<Self, ChallengeInvalid> {
        let (bytes, tag) = split(challenge)?;
        let body = ChallengeBody::parse(bytes).map_err(|_| ChallengeInvalid)?;
        let key = key_of(&body.key_id).ok_or(ChallengeInvalid)?;
        mac(&key, bytes).verify_slice(tag).map_err(|_| ChallengeInvalid)?;
        Ok(Self { body, bytes: challenge.to_vec(), digest: sha256(challenge) })
    }

    /// The readable part.
    #[must_use]
    pub const fn body(&self) -> &ChallengeBody {
        &self.body
    }

    /// The exact bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// SHA-256 of the exact bytes: what is spent.
    #[must_use]
    pub const fn digest(&self) -> &Sha256Digest {
        &self.digest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body() -> ChallengeBody {
        ChallengeBody {
            key_id: [1; 8],
            host: HostId::from_slice(&[1; 33]).unwrap(),
            expires_ms: 1_700_000_000_000,
            head: Sha256Digest::new([3; 32]),
            random: [4; 16],
        }
    }

    #[test]
    fn a_challenge_opens_under_its_own_key_only() {
        let sealed = body().seal(&[7; 32]);
        let opened = OpenedChallenge::open(&sealed, |id| (id == &[1; 8]).then_some([7; 32])).unwrap();
        assert_eq!(opened.body(), &body());
        assert!(OpenedChallenge::open(&sealed, |_| Some([8; 32])).is_err());
        assert!(OpenedChallenge::open(&sealed, |_| None).is_err());
    }

    #[test]
    fn every_flipped_bit_and_every_truncation_is_refused() {
        let sealed = body().seal(&[7; 32]);
        assert!(sealed.len() <= MAX_CHALLENGE_LEN);
        for at in 0..sealed.len() * 8 {
            let mut bad = sealed.clone();
            bad[at / 8] ^= 1 << (at % 8);
            assert!(OpenedChallenge::open(&bad, |_| Some([7; 32])).is_err(), "bit {at}");
        }
        for end in 0..sealed.len() {
            assert!(OpenedChallenge::open(&sealed[..end], |_| Some([7; 32])).is_err(), "{end}");
        }
    }
}
