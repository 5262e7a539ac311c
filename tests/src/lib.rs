//! End to end tests of Countersign and the tools that they and the demo share. Nothing here is part of the product.
//!
//! [`Deployment`] is a whole system made of real parts: swtpm, SoftHSM, the `countersign` binary as authority, agent, gateway and auditor, each a
//! process of its own on loopback. A test drives it the way a person would: by commands, exit codes and files.

pub mod fuzz;

mod balance;
mod command;
mod deployment;
mod load;
mod maker;
mod program;
mod witnesses;

pub use balance::{Balance, Wire};
pub use command::{Ran, countersign, tool};
pub use deployment::{Deployment, SignerKind, StoreKind};
pub use load::{Acts, every_act_is_in_the_log, nothing_was_lost, under_acts, under_load};
pub use maker::Maker;
pub use program::Program;
pub use witnesses::WitnessProcess;
