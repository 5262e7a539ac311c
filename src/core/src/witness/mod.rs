//! Witnesses: strangers who remember the newest checkpoint of a log and vouch for no other history (C2SP tlog-witness, PROTOCOL §15).
//!
//! What a log says to a witness and what a witness answers ([`AddCheckpoint`]), its signature over a checkpoint and a time
//! ([`WitnessKey`]), verifier keys as text ([`vkey`]), and the rule which witnesses are enough ([`Quorum`]).

mod add_checkpoint;
mod cosignature;
mod quorum;
pub mod vkey;

pub use add_checkpoint::{
    AddCheckpoint, AddCheckpointMalformed, LogCheckpoint, MAX_ADD_CHECKPOINT_BYTES, MAX_PROOF_LINES,
    cosignature_lines,
};
pub use cosignature::{CosignatureRefused, WitnessKey, cosigned_message};
pub use quorum::{
    COSIGNATURE_LEEWAY_SECS, MAX_QUORUM_BYTES, Quorum, QuorumMalformed, QuorumRefused, Witness, Witnessed,
};
