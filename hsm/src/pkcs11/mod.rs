//! Keys in a PKCS#11 token.
//!
//! In: where the module, the token and its PIN are. Out: signers whose keys were generated inside the token and cannot leave it. Refused:
//! a key that is extractable or was imported, two keys under one label, a PIN file that everyone can read, a second try of a refused PIN.
//!
//! What is trusted: the module is a C library in this process; it is trusted not to corrupt memory, and with nothing else. Signatures are
//! verified, attributes are read back, handles are used only in the incarnation of the module that gave them.
//!
//! One module is opened once a process (`module`); each signer has a session of its own (`connection`) and heals by reopening the
//! session, then by starting the module over, which all others notice by its era.
mod config;
mod connection;
mod data;
mod fault;
mod gate;
mod module;
mod objects;
mod opening_lock;
mod pin;
mod signer;
mod token;

pub use config::Pkcs11Config;
pub use signer::Pkcs11Signer;
pub use token::{MAX_OBJECT_BYTES, Pkcs11Token};
