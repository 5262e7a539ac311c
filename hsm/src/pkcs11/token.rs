//! A token as those see it who make and destroy keys, and who keep small state in it.
use std::sync::Arc;

use super::connection::Connection;
use super::{Pkcs11Config, Pkcs11Signer};
use super::{data, objects};
use crate::{Algorithm, FaultClass, SignFault, VerifyingKey};

/// The longest value kept in a data object. Token memory is small; the state of a signer is a few dozen bytes.
pub const MAX_OBJECT_BYTES: usize = 4096;

/// An open, logged-in token.
pub struct Pkcs11Token {
    connection: Connection,
}

impl Pkcs11Token {
    /// Opens the token and logs in.
    ///
    /// # Errors
    /// `TokenAbsent`, `PinWrong`, `PinLocked`, `Misconfigured`, or another fault of the module.
    pub fn open(config: &Pkcs11Config) -> Result<Self, SignFault> {
        let mut connection = Connection::new(Arc::new(config.clone()))?;
        connection.run(|_| Ok(()))?;
        Ok(Self { connection })
    }

    /// Generates a key pair inside the token: sensitive, not extractable, for signing only.
    ///
    /// # Errors
    /// `KeyExists` when the label is taken, which is also the answer when a lost session hid that the key was made; any fault of the token.
    pub fn generate(&mut self, label: &str, algorithm: Algorithm) -> Result<VerifyingKey, SignFault> {
        self.connection.run(|live| objects::generate(live.session, label, algorithm))
    }

    /// A signer for the key with this label, with a session of its own.
    ///
    /// # Errors
    /// As [`Pkcs11Signer::open`].
    pub fn signer(&self, label: &str) -> Result<Pkcs11Signer, SignFault> {
        Pkcs11Signer::over(Connection::new(Arc::clone(self.connection.config()))?, label)
    }

    /// Destroys both halves of a key. It takes effect at once, in other sessions and processes too.
    ///
    /// # Errors
    /// `KeyMissing`, or any fault of the token.
    pub fn destroy(&mut self, label: &str) -> Result<(), SignFault> {
        self.connection.run(|live| objects::destroy_key(live.session, label))
    }

    /// The data object with this label; `None` only from a token that is surely there.
    ///
    /// # Errors
    /// Any fault of the token.
    pub fn read_object(&mut self, label: &str) -> Result<Option<Vec<u8>>, SignFault> {
        self.connection.run_until_sure(|live| data::read(live.session, label))
    }

    /// Makes or replaces the data object with this label, at most [`MAX_OBJECT_BYTES`] long. When it returns, the token has it; a crash
    /// within leaves the old value or the new one.
    ///
    /// # Errors
    /// `MessageTooLong`, or any fault of the token.
    pub fn write_object(&mut self, label: &str, value: &[u8]) -> Result<(), SignFault> {
        if value.len() > MAX_OBJECT_BYTES {
            return Err(SignFault::new(FaultClass::MessageTooLong, "C_CreateObject", "over 4096 bytes"));
        }
        self.connection.run(|live| data::write(live.session, label, value))
    }

    /// Removes the data object with this label, if there is one.
    ///
    /// # Errors
    /// Any fault of the token.
    pub fn remove_object(&mut self, label: &str) -> Result<(), SignFault> {
        self.connection.run(|live| data::remove(live.session, label))
    }
}
