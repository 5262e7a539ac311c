//! A signer whose key lives in a PKCS#11 token.
//!
//! In: the label of a key. Out: verified signatures. The private key's handle is looked up once a session, since looking up by label is
//! slow in a full token; a key that appears under the label later but is another one is refused.
use std::sync::Arc;

use super::Pkcs11Config;
use super::connection::{Connection, Live};
use super::objects::{self, KeyPair};
use crate::signer::{bounded, release};
use crate::{Backend, CustodyEvidence, FaultClass, SignFault, Signature, Signer, VerifyingKey};

/// A key in a PKCS#11 token, in custody when it was opened.
pub struct Pkcs11Signer {
    connection: Connection,
    label: String,
    public: VerifyingKey,
    cached: Option<(u64, KeyPair)>,
}

impl Pkcs11Signer {
    /// Opens the key with this label and refuses one that is not in custody.
    ///
    /// # Errors
    /// Any fault of the token; `KeyMissing`; `KeyExtractable`, `KeyImported` or `CustodyIncomplete` for a key that is refused.
    pub fn open(config: &Pkcs11Config, label: &str) -> Result<Self, SignFault> {
        Self::over(Connection::new(Arc::new(config.clone()))?, label)
    }

    pub(super) fn over(mut connection: Connection, label: &str) -> Result<Self, SignFault> {
        let public = connection.run(|live| {
            let key = objects::find_key(live.session, label)?;
            objects::read_custody(live.session, key.private)?;
            Ok(key.public)
        })?;
        Ok(Self { connection, label: label.to_owned(), public, cached: None })
    }
}

fn cached<'a>(
    cached: &'a mut Option<(u64, KeyPair)>,
    live: &Live<'_>,
    label: &str,
    expected: &VerifyingKey,
) -> Result<&'a KeyPair, SignFault> {
    let fresh = match cached.take() {
        Some((number, key)) if number == live.number => key,
        _ => {
            let key = objects::find_key(live.session, label)?;
            if key.public != *expected {
                let reason = format!("another key is now labelled {label:?}");
                return Err(SignFault::new(FaultClass::KeyMissing, "C_FindObjects", reason));
            }
            // Whoever brings a token back could bring another one.
            objects::read_custody(live.session, key.private)?;
            key
        }
    };
    Ok(&cached.insert((live.number, fresh)).1)
}

impl Signer for Pkcs11Signer {
    fn public_key(&self) -> &VerifyingKey {
        &self.public
    }

    fn sign(&mut self, message: &[u8]) -> Result<Signature, SignFault> {
        bounded(message)?;
        let Self { connection, label, public, cached: cache } = self;
        let signature = connection.run(|live| {
            let key = cached(cache, live, label, public)?;
            objects::sign(live.session, key, message)
        })?;
        release(public, message, signature, "C_Sign")
    }

    fn custody(&mut self) -> Result<CustodyEvidence, SignFault> {
        let Self { connection, label, public, .. } = self;
        let mut attributes = connection.run(|live| {
            let key = objects::find_key(live.session, label)?;
            if key.public != *public {
                return Err(SignFault::new(
                    FaultClass::KeyMissing,
                    "C_FindObjects",
                    "another key has the label",
                ));
            }
            objects::read_custody(live.session, key.private)
        })?;
        attributes.insert("CKA_LABEL".to_owned(), label.clone());
        attributes.insert("token".to_owned(), connection.config().token_label.clone());
        Ok(CustodyEvidence { backend: Backend::Pkcs11, attributes, certification: None })
    }
}
