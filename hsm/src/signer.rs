//! The port behind which every key lives.
use countersign_core::key::{SIGNATURE_LEN, VerifyingKey};
use countersign_core::note::ecdsa_fixed_to_der;

use crate::{CustodyEvidence, SignFault};

/// The longest message a signer takes. Everything the authority signs is a head body or a digest-sized tuple; a C2SP checkpoint note is
/// at most 1 MB.
pub const MAX_MESSAGE_BYTES: usize = 1 << 20;

/// A signature: Ed25519 as in RFC 8032, ECDSA P-256 as `r||s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signature([u8; SIGNATURE_LEN]);

impl Signature {
    /// Wraps the bytes; whether they are a signature of anything is for the public key to say.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; SIGNATURE_LEN]) -> Self {
        Self(bytes)
    }

    /// The bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; SIGNATURE_LEN] {
        &self.0
    }

    /// The DER form, for the places that want an ECDSA signature so. Not for Ed25519.
    #[must_use]
    pub fn ecdsa_der(&self) -> Vec<u8> {
        ecdsa_fixed_to_der(&self.0)
    }
}

/// A private key in custody.
///
/// **Verified before release.** A signature is returned only after it verified under [`Signer::public_key`] over exactly `message`; what
/// does not verify is a fault of class `BadSignature` and is dropped.
/// **Encoding.** 64 bytes for either algorithm: Ed25519 as in RFC 8032, ECDSA as `r||s` with each number left-padded to 32 bytes.
/// **Faults.** A signer heals itself once within a call (a lost session, a token that was away); what it returns is what remained after
/// that. A call after a fault tries again from the start, but never repeats a PIN that was refused.
/// **Blocking.** A call takes as long as the device takes. [`crate::worker::SignerHandle`] adds deadlines.
/// **Idempotence.** Signing changes nothing in the device; a caller may repeat it.
pub trait Signer: Send {
    /// The public half. Fixed for the life of the signer.
    fn public_key(&self) -> &VerifyingKey;

    /// Signs `message`, which is at most [`MAX_MESSAGE_BYTES`] long.
    ///
    /// # Errors
    /// A classed fault; nothing was released.
    fn sign(&mut self, message: &[u8]) -> Result<Signature, SignFault>;

    /// Reads the custody attributes back from the device.
    ///
    /// # Errors
    /// A fault; in particular the key is refused when an attribute is missing or is not what custody demands.
    fn custody(&mut self) -> Result<CustodyEvidence, SignFault>;
}

/// The end of every backend's `sign`: releases what verifies.
pub(crate) fn release(
    key: &VerifyingKey,
    message: &[u8],
    signature: Signature,
    call: &'static str,
) -> Result<Signature, SignFault> {
    if key.verify(message, signature.as_bytes()).is_ok() {
        Ok(signature)
    } else {
        Err(SignFault::new(crate::FaultClass::BadSignature, call, "the device's signature does not verify"))
    }
}

/// The start of every backend's `sign`: refuses a message over the limit.
pub(crate) fn bounded(message: &[u8]) -> Result<(), SignFault> {
    if message.len() > MAX_MESSAGE_BYTES {
        return Err(SignFault::new(crate::FaultClass::MessageTooLong, "sign", "over 1 MiB"));
    }
    Ok(())
}
