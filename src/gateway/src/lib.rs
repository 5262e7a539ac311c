//! The gateway: one `admit()` behind every door, and the doors.
//!
//! What comes in: artifacts from strangers, and the feed of an authority that is believed only as far as its signatures and proofs go. What
//! goes out: a [`admit::Permit`], which only [`admit::admit`] makes and which the [`exec`] door consumes, or a [`refusal::Refusal`] with a
//! stable code. Along the data: [`pull`] asks the [`source`], [`snapshot`] verifies and keeps what was answered, [`admit`] judges, [`exec`]
//! runs, [`outcome`] reports back.

pub mod admit;
pub mod clock;
pub mod config;
pub mod exec;
pub mod holder;
pub mod lock;
pub mod outcome;
pub mod pull;
pub mod refusal;
pub mod snapshot;
pub mod source;
