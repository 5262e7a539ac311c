//! Roots signed for COSE receipts (RFC 9942, PROTOCOL §16), on demand and seldom.
//!
//! One signature serves every leaf under its head, so what is asked for in between costs a proof and no signature: the head key's device makes
//! at most one in the configured time, whoever asks and however often. Only roots of heads that are signed already are signed in this form: it
//! says nothing that the head doesn't say.

use super::Authority;
use crate::api::problem::Refused;
use crate::config::Limits;
use crate::store::SignedHead;
use arc_swap::ArcSwapOption;
use countersign_core::control::ControlState;
use countersign_core::cose_receipt::RootStatement;
use countersign_core::key::SIGNATURE_LEN;
use countersign_core::refusal::RefusalCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A signed head whose root is signed in COSE form, too.
pub struct SignedRoot {
    /// The head.
    pub head: Arc<SignedHead>,
    /// What is in the protected header.
    pub statement: RootStatement,
    /// The signature, verified.
    pub signature: [u8; SIGNATURE_LEN],
}

/// The newest such root, and when the last one was tried.
pub struct SignedRoots {
    newest: ArcSwapOption<SignedRoot>,
    tried: tokio::sync::Mutex<Option<Instant>>,
    every: Duration,
}

impl SignedRoots {
    pub(super) fn new(limits: &Limits) -> Self {
        let every = Duration::from_secs(limits.cose_signature_secs);
        Self { newest: ArcSwapOption::empty(), tried: tokio::sync::Mutex::default(), every }
    }

    /// The newest root over this leaf, if its key still signs heads: readers believe the keys that are active now.
    fn over(&self, index: u64, control: &ControlState) -> Option<Arc<SignedRoot>> {
        let active = |root: &Arc<SignedRoot>| {
            control.head_keys_at(control.number()).any(|key| *key == root.statement.key)
        };
        self.newest.load_full().filter(|root| root.head.size() > index).filter(active)
    }
}

impl Authority {
    /// A root signed in COSE form under which this leaf is.
    ///
    /// # Errors
    /// `not-found` for a leaf that no signed head covers, `rate-limited` if it is newer than the newest such root and the next one isn't due,
    /// `signer-unavailable`, `witness-conflict`.
    pub async fn signed_root(self: &Arc<Self>, index: u64) -> Result<Arc<SignedRoot>, Refused> {
        self.witnesses().admission()?;
        if index >= self.signed_head()?.size() {
            return Err(RefusalCode::NotFound.into());
        }
        if let Some(found) = self.cose_roots.over(index, &self.control()) {
            return Ok(found);
        }
        // One at a time: who waited finds what the one before had signed.
        let mut tried = self.cose_roots.tried.lock().await;
        if let Some(found) = self.cose_roots.over(index, &self.control()) {
            return Ok(found);
        }
        if tried.is_some_and(|then| then.elapsed() < self.cose_roots.every) {
            return Err(RefusalCode::RateLimited.into());
        }
        *tried = Some(Instant::now());
        let worker = Arc::clone(self);
        let root = Arc::new(self.run(move || worker.sign_root()).await?);
        self.cose_roots.newest.store(Some(Arc::clone(&root)));
        Ok(root)
    }

    fn sign_root(&self) -> Result<SignedRoot, Refused> {
        let head = self.signed_head()?;
        let (body, control) = (head.body(), self.control());
        for key in control.head_keys_at(body.control_seq) {
            let Some(held) = self.ring.find(key) else { continue };
            let statement = RootStatement {
                issuer: self.origin().as_str().to_owned(),
                issued_at: body.time_ms / 1_000,
                key: key.clone(),
            };
            let message = statement.to_be_signed(&body.sha256_root);
            match held.sign(&message) {
                // Verified before release, whatever the device says.
                Ok(signature) if key.verify(&message, &signature).is_ok() => {
                    return Ok(SignedRoot { head: Arc::clone(&head), statement, signature });
                }
                Ok(_) => tracing::error!(key = %key.thumbprint(), "a signature over a root doesn't verify"),
                Err(fault) => tracing::warn!(key = %key.thumbprint(), %fault, "no signature over a root"),
            }
        }
        Err(RefusalCode::SignerUnavailable.into())
    }
}
