//! TPM evidence: what a verifier must understand of a TPM, in pure Rust.
//!
//! Comes in: bytes that a host sent (public areas, attestations, signatures, event logs, IMA lists, EK certificates).
//! Goes out: types whose existence is the verdict ([`quote::VerifiedQuote`], [`eventlog::VerifiedBootLog`],
//! [`ima::appraise::Appraised`], [`certify::CertifiedKey`], [`ek::VerifiedEk`]). Refused: everything that is not
//! exactly what the TCG specifications describe and this crate understands; an unknown value is an error, never a guess.
//!
//! Nothing here does I/O, reads a clock or draws entropy; time and randomness are arguments. The one exception is
//! the feature `device`, which talks to the host's own TPM. The feature `simulated` makes well-formed structures
//! for tests and load generators; it proves nothing.

pub mod algorithm;
pub mod attest;
pub mod certify;
pub mod credential;
pub mod ek;
pub mod eventlog;
pub mod ima;
pub mod key;
pub mod public;
pub mod quote;
pub mod signature;
pub mod wire;

#[cfg(feature = "device")]
pub mod device;
#[cfg(feature = "simulated")]
pub mod simulated;

#[cfg(test)]
mod testing;
