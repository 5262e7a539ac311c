//! Signing heads: one signature per active key over the newest committed body, verified before anybody sees it.
//!
//! Comes in: a committed head and the control state at it. Goes out: signature lines that verified. Refused: a body that contradicts the
//! signer's memory; a head that no active key signed; the first head after an activation unless every active key signed it.
//!
//! Absent: any decision of what to sign (the sequencer signs what it committed), any private key.

mod custody;
mod memory;
mod vouched;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use countersign_core::control::ControlState;
use countersign_core::digest::Sha256Digest;
use countersign_core::key::{SIGNATURE_LEN, VerifyingKey};
use countersign_core::note::{NoteError, NoteKey, NoteSignature};

use crate::store::StoredHead;

pub use custody::CustodyKey;
pub use memory::{MemoryFault, Remembered, SignerMemory};
pub use vouched::{VouchedFault, newest_vouched};

/// How long a key that failed is left alone while another one signs.
const KEY_REST: Duration = Duration::from_millis(500);

/// Why a key didn't sign.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignFault {
    /// The device, by its own stable code.
    #[error("{code}: {reason}")]
    Device {
        /// Class of the fault.
        code: &'static str,
        /// The device's own words, for the operator.
        reason: String,
    },
    /// What came back doesn't verify. It is dropped.
    #[error("the signature doesn't verify")]
    Invalid,
}

/// A private key that signs heads, wherever it lives.
///
/// `sign` returns within a bounded time, changes nothing, and may be called again after a fault. What it returns is verified by the caller.
pub trait HeadKey: Send + Sync {
    /// The public half. Fixed.
    fn verifying_key(&self) -> &VerifyingKey;

    /// Signs a message: Ed25519, or ECDSA as r || s.
    ///
    /// # Errors
    /// [`SignFault`].
    fn sign(&self, message: &[u8]) -> Result<[u8; SIGNATURE_LEN], SignFault>;
}

/// The head keys that this process can use, whether active or not. Shared: a rotation adds one while the sequencer runs.
#[derive(Clone, Default)]
pub struct KeyRing(Arc<ArcSwap<Vec<Arc<dyn HeadKey>>>>);

impl KeyRing {
    /// A ring with these keys.
    #[must_use]
    pub fn new(keys: Vec<Arc<dyn HeadKey>>) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(keys)))
    }

    /// Adds a key, or replaces the one with the same public half.
    pub fn add(&self, key: &Arc<dyn HeadKey>) {
        self.0.rcu(|keys| {
            let others = keys.iter().filter(|other| other.verifying_key() != key.verifying_key());
            others.chain([key]).cloned().collect::<Vec<_>>()
        });
    }

    /// Takes a key out, so that its owner can be dropped once nobody signs with it any more.
    pub fn remove(&self, key: &VerifyingKey) {
        self.0.rcu(|keys| {
            keys.iter().filter(|other| other.verifying_key() != key).cloned().collect::<Vec<_>>()
        });
    }

    /// The key with this public half.
    #[must_use]
    pub fn find(&self, key: &VerifyingKey) -> Option<Arc<dyn HeadKey>> {
        self.0.load().iter().find(|held| held.verifying_key() == key).cloned()
    }
}

/// Why a head wasn't signed.
#[derive(Debug, thiserror::Error)]
pub enum HeadSignFault {
    /// The control chain names no active head key.
    #[error("no head key is active at control number {0}")]
    NoActiveKey(u64),
    /// No active key signed, or not all of them where all must. The next try may succeed.
    #[error("head key {thumbprint}: {source}")]
    Key {
        /// Which key.
        thumbprint: Sha256Digest,
        /// Why.
        source: SignFault,
    },
    /// An active key isn't on the ring.
    #[error("head key {0} is active, but not at hand")]
    NotHeld(Sha256Digest),
    /// The key's signature lines can't carry the origin.
    #[error("the origin can't name a key: {0}")]
    Name(#[from] NoteError),
    /// The memory refuses or can't be written. Nothing may be signed by this process any more.
    #[error(transparent)]
    Memory(#[from] MemoryFault),
}

impl HeadSignFault {
    /// Whether this process may not go on.
    #[must_use]
    pub const fn is_fatal(&self) -> bool {
        matches!(self, Self::Memory(_))
    }
}

/// Signs heads with the keys that the control chain calls active.
pub struct HeadSigner {
    origin: String,
    ring: KeyRing,
    memory: SignerMemory,
    /// Control number of the newest head that was signed: keys activated later haven't met the old ones yet.
    signed_control: u64,
    resting: HashMap<Sha256Digest, Instant>,
}

impl HeadSigner {
    /// A signer whose newest signed head has the control number `signed_control` (0 if there is none).
    #[must_use]
    pub fn new(origin: &str, ring: KeyRing, memory: SignerMemory, signed_control: u64) -> Self {
        Self { origin: origin.to_owned(), ring, memory, signed_control, resting: HashMap::new() }
    }

    /// What this signer remembers.
    #[must_use]
    pub const fn memory(&self) -> &SignerMemory {
        &self.memory
    }

    /// Another replica signed a head with this control number: keys that were activated before have met.
    pub fn note_signed(&mut self, control: u64) {
        self.signed_control = self.signed_control.max(control);
    }

    /// Signs a committed head.
    ///
    /// # Errors
    /// [`HeadSignFault`]; nothing was released.
    pub fn sign(
        &mut self,
        head: &StoredHead,
        control: &ControlState,
    ) -> Result<Vec<NoteSignature>, HeadSignFault> {
        let body = head.body();
        let number = body.control_seq;
        let active: Vec<&VerifyingKey> = control.head_keys_at(number).collect();
        if active.is_empty() {
            return Err(HeadSignFault::NoActiveKey(number));
        }
        // PROTOCOL §8.5: the first head after an activation is signed by the old and the new key.
        let first_after_activation = control.head_keys().iter().any(|key| {
            key.active_at(number) && key.activated.is_some_and(|activated| activated > self.signed_control)
        });
        let all = first_after_activation && self.signed_control > 0;
        // Before any key sees the body: what isn't remembered is never signed.
        self.memory.remember(Remembered {
            size: body.size,
            digest: *head.digest(),
            root: body.sha256_root,
        })?;
        let mut lines = Vec::new();
        let mut missing = None;
        // Where one signature is enough, a key that just failed holds nobody up.
        let may_rest = active.len() > 1 && !all;
        for key in active {
            match self.line(key, head.text(), may_rest) {
                Ok(line) => lines.push(line),
                Err(fault) if all => return Err(fault),
                Err(fault) => missing = Some(fault),
            }
        }
        match missing {
            Some(fault) if lines.is_empty() => Err(fault),
            _ => {
                self.signed_control = self.signed_control.max(number);
                Ok(lines)
            }
        }
    }

    fn line(
        &mut self,
        key: &VerifyingKey,
        text: &str,
        may_rest: bool,
    ) -> Result<NoteSignature, HeadSignFault> {
        let thumbprint = key.thumbprint();
        let held = self.ring.find(key).ok_or(HeadSignFault::NotHeld(thumbprint))?;
        if may_rest && self.resting.get(&thumbprint).is_some_and(|since| since.elapsed() < KEY_REST) {
            let source =
                SignFault::Device { code: "signer-resting", reason: "failed a moment ago".to_owned() };
            return Err(HeadSignFault::Key { thumbprint, source });
        }
        let signed = held.sign(text.as_bytes()).and_then(|signature| {
            // Invariant 7: every signature is verified before release, whatever the device or its driver says.
            key.verify(text.as_bytes(), &signature).map(|()| signature).map_err(|_| SignFault::Invalid)
        });
        match signed {
            Ok(signature) => {
                self.resting.remove(&thumbprint);
                Ok(NoteKey::new(&self.origin, key.clone())?.line(&signature))
            }
            Err(source) => {
                tracing::warn!(key = %thumbprint, "a head key didn't sign: {source}");
                self.resting.insert(thumbprint, Instant::now());
                Err(HeadSignFault::Key { thumbprint, source })
            }
        }
    }
}
