//! The authority: enrol, verify, appraise, decide, sequence, sign, serve.

pub mod acts;
pub mod api;
pub mod appraise;
pub mod audit;
pub mod challenge;
pub mod clock;
pub mod config;
#[cfg(feature = "tpm")]
pub mod counter;
pub mod custody;
pub mod decide;
pub mod foresee;
pub mod init;
pub mod lineage;
pub mod outcome;
pub mod policy;
pub mod sequence;
pub mod serve;
pub mod sign;
pub mod stale;
pub mod store;
pub mod verify;
pub mod why;
pub mod witness;
