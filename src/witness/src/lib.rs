//! A witness (C2SP tlog-witness): remembers the newest checkpoint of each log that it follows, and cosigns only what continues it.
//!
//! In: a configuration with logs and their keys, a directory that nobody else uses, a key. Out: cosignatures over HTTP. Refused: logs and
//! keys that it doesn't know, anything smaller than what it cosigned before, another tree of the same size, a larger one that no proof joins.
//! What it cosigned is on disk before the answer leaves.
//!
//! Absent: what a log holds. A witness sees sizes and hashes, and needs no trust in the log, in its operator, or in who asks.

pub mod config;
pub mod judge;
pub mod server;
pub mod state;

use countersign_core::key::{SIGNATURE_LEN, VerifyingKey};

/// Why the key didn't sign, in words for the operator.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the witness's key doesn't sign: {0}")]
pub struct CosignFault(pub String);

/// The witness's private key, wherever it lives. Ed25519; `sign` returns in bounded time, and what it returns is verified by the caller.
pub trait Cosign: Send {
    /// The public half. Fixed.
    fn public_key(&self) -> &VerifyingKey;

    /// Signs.
    ///
    /// # Errors
    /// [`CosignFault`].
    fn sign(&mut self, message: &[u8]) -> Result<[u8; SIGNATURE_LEN], CosignFault>;
}
