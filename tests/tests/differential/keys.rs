//! Keys from seeds: those of the published example log (Ed25519), and some more, P-256 among them.

use countersign_core::key::VerifyingKey;
use countersign_core::note::{NoteKey, NoteSignature};
use ed25519_dalek::Signer as _;

pub(crate) const OFFICER: u8 = 20;
pub(crate) const GATEWAY: u8 = 21;
pub(crate) const RECOVERY: u8 = 22;
pub(crate) const FIRST: u8 = 23;
pub(crate) const SECOND: u8 = 24;
/// A second officer, an operator, a viewer.
pub(crate) const DEPUTY: u8 = 31;
pub(crate) const OPERATOR: u8 = 32;
/// P-256 from here on.
const P256_FROM: u8 = 100;
/// Head keys, P-256 the last two.
pub(crate) const HEAD_KEYS: [u8; 6] = [FIRST, SECOND, 26, 27, 100, 101];
/// Keys of every purpose.
pub(crate) const SEEDS: [u8; 14] =
    [FIRST, SECOND, 26, 27, 100, 101, 61, 62, 7, 25, OFFICER, GATEWAY, DEPUTY, OPERATOR];

fn edwards(seed: u8) -> ed25519_dalek::SigningKey {
    ed25519_dalek::SigningKey::from_bytes(&[seed; 32])
}

fn p256(seed: u8) -> p256::ecdsa::SigningKey {
    p256::ecdsa::SigningKey::from_slice(&[seed; 32]).unwrap()
}

pub(crate) fn public(seed: u8) -> VerifyingKey {
    if seed < P256_FROM {
        return VerifyingKey::ed25519(edwards(seed).verifying_key().as_bytes()).unwrap();
    }
    let point = p256(seed).verifying_key().to_sec1_point(false);
    VerifyingKey::p256(point.as_bytes().try_into().unwrap()).unwrap()
}

/// 64 bytes, for either algorithm.
pub(crate) fn sign(seed: u8, message: &[u8]) -> [u8; 64] {
    if seed < P256_FROM {
        return edwards(seed).sign(message).to_bytes();
    }
    let signature: p256::ecdsa::Signature = p256::ecdsa::signature::Signer::sign(&p256(seed), message);
    signature.to_bytes().into()
}

/// The line under a head.
pub(crate) fn line(origin: &str, seed: u8, text: &str) -> NoteSignature {
    NoteKey::new(origin, public(seed)).unwrap().line(&sign(seed, text.as_bytes()))
}
