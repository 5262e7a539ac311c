//! Head keys in custody: a worker of `countersign-hsm` as a [`HeadKey`].

use countersign_core::key::{SIGNATURE_LEN, VerifyingKey};
use countersign_hsm::worker::SignerHandle;
use countersign_hsm::{FaultClass, SignFault as DeviceFault};

use super::{HeadKey, SignFault};

/// A head key behind its worker thread, which bounds how long a signature may take.
pub struct CustodyKey(SignerHandle);

impl CustodyKey {
    /// Takes over the worker.
    #[must_use]
    pub const fn new(handle: SignerHandle) -> Self {
        Self(handle)
    }

    /// The worker, for custody evidence and counts.
    #[must_use]
    pub const fn handle(&self) -> &SignerHandle {
        &self.0
    }
}

impl HeadKey for CustodyKey {
    fn verifying_key(&self) -> &VerifyingKey {
        self.0.public_key()
    }

    fn sign(&self, message: &[u8]) -> Result<[u8; SIGNATURE_LEN], SignFault> {
        self.0.sign(message).map(|signature| *signature.as_bytes()).map_err(|fault| device_fault(&fault))
    }
}

fn device_fault(fault: &DeviceFault) -> SignFault {
    if fault.class() == FaultClass::BadSignature {
        SignFault::Invalid
    } else {
        SignFault::Device { code: fault.code(), reason: fault.to_string() }
    }
}
