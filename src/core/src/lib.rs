//! What a relying party needs to judge an artifact: bytes, keys, trees, heads and proofs.
//!
//! Nothing here does I/O, reads a clock or draws entropy: all three are arguments.

pub mod cbor;
pub mod checkpoint;
pub mod digest;
pub mod key;
pub mod merkle;
pub mod note;
pub mod tlog_proof;
pub mod tuple;
