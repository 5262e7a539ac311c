//! Tests of the sequencer: what is decided, what survives crashes, what heals.

mod decide;
mod proofs;
pub(crate) mod support;
