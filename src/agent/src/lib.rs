//! The host's daemon: owns the TPM, enrols the host, keeps it attested and serves local runtimes.
//!
//! Comes in: a [`Config`], requests over a Unix socket. Goes out: the authority's decisions, each with its receipt. Refused: processes that no rule
//! maps to a runtime, requests beyond their rule, and whatever the authority says that the pinned trust bundle doesn't bear out.
//!
//! The way of a request: [`local`] (its form) to the socket's server, which asks the kernel who is there and finds the rule; request bytes made or
//! checked under that rule; gathered with what else waits; one challenge, one quote by the TPM's thread, one call over mutual TLS with the host key
//! that never leaves the TPM; the receipts judged; the answers handed out.
//!
//! Absent: holder keys (they are the runtimes' own), any trust on first use, any cache of decisions.

pub mod authority;
pub mod config;
pub mod device;
pub mod local;
pub mod local_client;
pub mod refused;

mod agent;
mod attest;
mod backoff;
mod enrol;
mod evidence;
mod gather;
mod host_tpm;
mod https;
mod identity;
mod ima;
mod judge;
mod peer;
mod probe;
mod program;
mod requests;
mod run;
mod server;
mod socket;
mod state_dir;
mod tls;
mod tpm;

#[cfg(test)]
mod testing;

pub use config::{Config, ConfigError};
pub use enrol::EnrolError;
pub use identity::IdentityError;
pub use judge::ReceiptError;
pub use local_client::{prepare, status, submit};
pub use probe::ReplayProbe;
pub use program::{MAX_PROGRAM_LEN, ProgramError};
pub use run::{AgentError, EnrolmentSummary, enrol, probe_replay, run, terminated};
pub use socket::SocketError;
pub use state_dir::StateError;
pub use tpm::TpmError;
