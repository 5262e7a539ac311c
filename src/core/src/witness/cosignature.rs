//! Cosignatures of type 0x04 (C2SP tlog-cosignature): an Ed25519 signature over a checkpoint and the time at which it was made.
//!
//! In: a checkpoint's text and a signature line. Out: the time that the line vouches for. Refused: another form, a signature that fails, a
//! time that no signed 64-bit number holds. Whether the time makes sense is for [`super::Quorum`].

use super::vkey::{self, VkeyMalformed};
use crate::digest::sha256;
use crate::key::{Algorithm, SIGNATURE_LEN, VerifyingKey};
use crate::note::{NoteError, NoteSignature};

/// C2SP signed-note, signature types: timestamped Ed25519 cosignature.
const COSIGNATURE_V1: u8 = 0x04;
const TIME_LEN: usize = 8;

/// Why a line isn't a cosignature of the witness whose name and key id it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CosignatureRefused {
    /// Not a time and an Ed25519 signature, or a time above 2^63 - 1.
    #[error("the line isn't a timestamped signature")]
    Form,
    /// It doesn't verify.
    #[error("the cosignature doesn't verify")]
    Signature,
}

/// A witness's key under its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WitnessKey {
    name: String,
    key: VerifyingKey,
    key_id: [u8; 4],
}

impl WitnessKey {
    /// Names an Ed25519 key.
    ///
    /// # Errors
    /// [`NoteError::Name`] for a name that no signature line can carry, [`NoteError::Line`] for another algorithm.
    pub fn new(name: &str, key: VerifyingKey) -> Result<Self, NoteError> {
        if key.algorithm() != Algorithm::EdDsa {
            return Err(NoteError::Line);
        }
        // C2SP tlog-cosignature, "Format".
        let digest = sha256(&[name.as_bytes(), &[b'\n', COSIGNATURE_V1], key.raw()].concat());
        let [a, b, c, d, ..] = *digest.as_bytes();
        let key_id = [a, b, c, d];
        // Judges the name.
        NoteSignature::new(name, key_id, vec![0])?;
        Ok(Self { name: name.to_owned(), key, key_id })
    }

    /// Reads a verifier key of type 0x04.
    ///
    /// # Errors
    /// [`VkeyMalformed`].
    pub fn parse(text: &str) -> Result<Self, VkeyMalformed> {
        let (name, id, bytes) = vkey::parts(text)?;
        let raw = match bytes.split_first() {
            Some((&COSIGNATURE_V1, raw)) => raw.try_into().map_err(|_| VkeyMalformed)?,
            _ => return Err(VkeyMalformed),
        };
        let key = VerifyingKey::ed25519(raw).map_err(|_| VkeyMalformed)?;
        let found = Self::new(name, key).map_err(|_| VkeyMalformed)?;
        if found.key_id == id { Ok(found) } else { Err(VkeyMalformed) }
    }

    /// The verifier key as text.
    #[must_use]
    pub fn vkey(&self) -> String {
        vkey::text(&self.name, self.key_id, COSIGNATURE_V1, self.key.raw())
    }

    /// Name of the witness.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The key.
    #[must_use]
    pub const fn key(&self) -> &VerifyingKey {
        &self.key
    }

    /// Whether the line says that it is by this key.
    #[must_use]
    pub fn made(&self, line: &NoteSignature) -> bool {
        self.name == line.name() && self.key_id == line.key_id()
    }

    /// The line for a signature by this key over [`cosigned_message`].
    #[must_use]
    pub fn line(&self, time_secs: u64, signature: &[u8; SIGNATURE_LEN]) -> Option<NoteSignature> {
        let bytes = [&time_secs.to_be_bytes()[..], signature].concat();
        NoteSignature::new(&self.name, self.key_id, bytes).ok()
    }

    /// Verifies a line of this key over a checkpoint's text; the time for which it vouches, Unix seconds.
    ///
    /// # Errors
    /// [`CosignatureRefused`].
    pub fn verify(&self, text: &str, line: &NoteSignature) -> Result<u64, CosignatureRefused> {
        let (time, signature) =
            line.signature().split_first_chunk::<TIME_LEN>().ok_or(CosignatureRefused::Form)?;
        let time_secs = u64::from_be_bytes(*time);
        if !self.made(line) || signature.len() != SIGNATURE_LEN || i64::try_from(time_secs).is_err() {
            return Err(CosignatureRefused::Form);
        }
        let message = cosigned_message(time_secs, text);
        self.key.verify(message.as_bytes(), signature).map_err(|_| CosignatureRefused::Signature)?;
        Ok(time_secs)
    }
}

/// What a witness signs: the first line keeps it apart from every signature by a log (C2SP tlog-cosignature, "Ed25519 signed message").
#[must_use]
pub fn cosigned_message(time_secs: u64, text: &str) -> String {
    format!("cosignature/v1\ntime {time_secs}\n{text}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use ed25519_dalek::{Signer as _, SigningKey};

    const TEXT: &str = "log.example\n7\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n";

    fn witness(seed: u8, name: &str) -> (SigningKey, WitnessKey) {
        let secret = SigningKey::from_bytes(&[seed; 32]);
        let key = VerifyingKey::ed25519(secret.verifying_key().as_bytes()).unwrap();
        (secret, WitnessKey::new(name, key).unwrap())
    }

    fn line(secret: &SigningKey, key: &WitnessKey, time: u64, text: &str) -> NoteSignature {
        key.line(time, &secret.sign(cosigned_message(time, text).as_bytes()).to_bytes()).unwrap()
    }

    #[test]
    fn a_cosignature_holds_for_its_text_its_time_and_its_key_only() {
        let (secret, key) = witness(1, "witness.example/w1");
        let good = line(&secret, &key, 1_679_315_147, TEXT);
        assert_eq!(key.verify(TEXT, &good), Ok(1_679_315_147));
        let other_text = TEXT.replace("\n7\n", "\n8\n");
        assert_eq!(key.verify(&other_text, &good), Err(CosignatureRefused::Signature));
        let mut bytes = good.signature().to_vec();
        bytes[7] ^= 1;
        let other_time = NoteSignature::new(key.name(), good.key_id(), bytes).unwrap();
        assert_eq!(key.verify(TEXT, &other_time), Err(CosignatureRefused::Signature));
        // What a log's own key signed is no cosignature, and the other way round.
        let plain = key.line(1, &secret.sign(TEXT.as_bytes()).to_bytes()).unwrap();
        assert_eq!(key.verify(TEXT, &plain), Err(CosignatureRefused::Signature));
        for (other_secret, name) in [(2, "witness.example/w1"), (1, "witness.example/w2")] {
            let (_, other) = witness(other_secret, name);
            assert!(!other.made(&good));
            assert_eq!(other.verify(TEXT, &good), Err(CosignatureRefused::Form));
        }
    }

    #[test]
    fn other_lengths_and_impossible_times_are_refused() {
        let (secret, key) = witness(1, "witness.example/w1");
        let late = line(&secret, &key, 1 << 63, TEXT);
        assert_eq!(key.verify(TEXT, &late), Err(CosignatureRefused::Form));
        for length in [1, 7, 8, 63, 71, 73] {
            let line = NoteSignature::new(key.name(), late.key_id(), vec![0; length]).unwrap();
            assert_eq!(key.verify(TEXT, &line), Err(CosignatureRefused::Form), "{length}");
        }
    }

    #[test]
    fn verifier_keys_are_read_back_and_a_logs_key_is_none() {
        let (_, key) = witness(1, "witness.example/w1");
        assert_eq!(WitnessKey::parse(&key.vkey()), Ok(key.clone()));
        let log = crate::note::NoteKey::new("log.example", key.key().clone()).unwrap();
        assert_eq!(WitnessKey::parse(&vkey::log_key_text(&log)), Err(VkeyMalformed));
        assert_eq!(vkey::parse_log_key(&key.vkey()), Err(VkeyMalformed));
    }
}
