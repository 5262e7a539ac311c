//! The authority: enrol, verify, appraise, decide, sequence, sign, serve.

pub mod appraise;
pub mod challenge;
pub mod decide;
pub mod policy;
pub mod verify;
