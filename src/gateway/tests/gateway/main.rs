//! What a gateway does with a real log: an authority in memory, made from the core alone, signs heads over real leaves.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test's helpers may fail like the test itself"
)]

mod admission;
mod authority;
mod exec;
mod follow;
mod pulling;
mod quorum;
mod source;
mod state;
mod world;
