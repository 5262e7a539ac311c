//! Custody of signing keys: keys that live in a PKCS#11 token or in a TPM and never leave it, behind one small [`Signer`].
//!
//! In: the bytes to be signed. Out: a signature that this crate has itself verified, and [`CustodyEvidence`] of where the key lives, read
//! back from the device. Refused, each with its own code: a key that can be extracted or was brought in from outside, a signature that
//! does not verify, a second try of a PIN that was wrong. Faults of the device have a class ([`FaultClass`]) and heal without a restart
//! of the process; [`worker::SignerHandle`] keeps a slow or hung device away from the threads of its callers.
//!
//! Absent: any decision about what may be signed, any private key in process memory outside the feature `danger-software-key`.

mod custody;
mod fault;
pub mod pkcs11;
mod signer;
#[cfg(feature = "danger-software-key")]
pub mod software;
#[cfg(feature = "tpm")]
pub mod tpm;
pub mod worker;

pub use countersign_core::key::{Algorithm, VerifyingKey};
pub use custody::{Backend, Certification, CustodyEvidence};
pub use fault::{FaultClass, SignFault};
pub use signer::{MAX_MESSAGE_BYTES, Signature, Signer};
