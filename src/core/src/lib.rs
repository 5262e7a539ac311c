//! What a relying party needs to judge an artifact: bytes, keys, trees, heads and proofs.
//!
//! Nothing here does I/O, reads a clock or draws entropy: all three are arguments.

pub mod activation;
pub mod api;
pub mod artifact;
mod base64;
pub mod bundle;
pub mod cbor;
pub mod challenge;
pub mod checkpoint;
pub mod control;
pub mod corim;
pub mod cose_receipt;
pub mod digest;
pub mod document;
pub mod ear;
pub mod jws;
pub mod key;
pub mod leaf;
pub mod merkle;
pub mod name;
pub mod note;
pub mod record;
pub mod refusal;
pub mod request;
pub mod statement;
pub mod tile;
pub mod tlog_proof;
pub mod tuple;
pub mod verified_heads;
pub mod witness;
