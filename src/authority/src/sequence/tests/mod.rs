//! Tests of the sequencer: what is decided, what survives crashes, what heals.

mod backup;
mod crash;
mod crash_aside;
mod decide;
mod heal;
mod proofs;
mod queue;
mod replicas;
mod simulation;
pub(crate) mod support;
mod tables;
mod throughput;
