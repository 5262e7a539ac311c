//! The control chain and the state that it explains: head keys, epochs, revocations, principals (PROTOCOL §5.4, §8.5 to §8.9).
//!
//! Comes in: control leaves in order, from index 0 of the chain. Goes out: a [`ControlState`] at a control number, whose digest every signed head
//! commits to. Gateways, auditors and the authority fold the same leaves with this same code. Refused: a leaf that isn't control, a gap, a key
//! event out of order, an introduction without proof of possession, an epoch that isn't the next.

use crate::bundle::{TrustBundle, statement_preimage};
use crate::digest::Sha256Digest;
use crate::key::VerifyingKey;
use crate::leaf::control::{
    EpochRecord, KeyEvent, KeyPurpose, KeyRecord, PrincipalKind, PrincipalRecord, RecoveryRecord, Revocation,
    Subject, key_possession,
};
use crate::leaf::{Kind, Leaf, LeafError, leaf_hash};
use crate::tuple;
use std::collections::{BTreeMap, BTreeSet};

/// Why a control leaf can't follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// The leaf or its body doesn't parse.
    #[error(transparent)]
    Leaf(#[from] LeafError),
    /// The leaf is of a kind that isn't part of the chain.
    #[error("a {0} leaf isn't a control leaf")]
    NotControl(&'static str),
    /// A key event that the key's state doesn't admit.
    #[error("key event out of order")]
    KeyOrder,
    /// A new key that nobody showed to hold.
    #[error("introduced key without proof of possession")]
    Possession,
    /// An epoch that isn't the next one.
    #[error("epoch {found} follows {current}")]
    Epoch {
        /// In force.
        current: u64,
        /// Found.
        found: u64,
    },
    /// A recovery statement that the recovery key didn't sign.
    #[error("recovery statement isn't signed by the recovery key")]
    Recovery,
}

/// Link of the chain (PROTOCOL §5.4).
#[must_use]
pub fn control_digest(previous: &Sha256Digest, number: u64, leaf_hash: &Sha256Digest) -> Sha256Digest {
    tuple::tuple_digest(
        "countersign-v1:control",
        &[previous.as_bytes(), &number.to_be_bytes(), leaf_hash.as_bytes()],
    )
}

/// From which to which control number a head key signs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeadKey {
    /// The key.
    pub key: VerifyingKey,
    /// Control number of its introduction.
    pub introduced: u64,
    /// Control number of its activation.
    pub activated: Option<u64>,
    /// Control number of its deactivation or compromise.
    pub ended: Option<u64>,
    /// Whether it ended as compromised.
    pub compromised: bool,
}

impl HeadKey {
    /// Whether a head with this control number may be signed by the key (PROTOCOL §8.5).
    #[must_use]
    pub fn active_at(&self, number: u64) -> bool {
        self.activated.is_some_and(|from| from <= number) && self.ended.is_none_or(|end| number < end)
    }
}

/// An operator or gateway that is in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// What it is.
    pub kind: PrincipalKind,
    /// Name for people; also in a gateway's holder proofs.
    pub name: String,
}

/// What the control chain says at a number.
#[derive(Clone, Debug)]
pub struct ControlState {
    origin: String,
    recovery_key: VerifyingKey,
    number: u64,
    digest: Sha256Digest,
    head_keys: Vec<HeadKey>,
    epoch: u64,
    policy: Option<Sha256Digest>,
    references: Option<Sha256Digest>,
    revoked: BTreeSet<Subject>,
    principals: BTreeMap<Sha256Digest, Principal>,
}

impl ControlState {
    /// The state before the first control leaf. Head keys of the bundle become active with their own leaves, and only they may without a predecessor.
    #[must_use]
    pub fn genesis(origin: &str, recovery_key: VerifyingKey) -> Self {
        Self {
            origin: origin.to_owned(),
            recovery_key,
            number: 0,
            digest: Sha256Digest::ZERO,
            head_keys: Vec::new(),
            epoch: 0,
            policy: None,
            references: None,
            revoked: BTreeSet::new(),
            principals: BTreeMap::new(),
        }
    }

    /// [`ControlState::genesis`] of a bundle.
    #[must_use]
    pub fn of_bundle(bundle: &TrustBundle) -> Self {
        Self::genesis(bundle.origin().as_str(), bundle.recovery_key().clone())
    }

    /// Takes the next control leaf's exact bytes. On an error the state is as before.
    pub fn apply(&mut self, leaf_bytes: &[u8]) -> Result<Leaf, ControlError> {
        let leaf = Leaf::parse(leaf_bytes)?;
        let number = self.number + 1;
        match leaf.kind {
            Kind::Key => self.apply_key(&KeyRecord::parse(&leaf.body)?, number)?,
            Kind::Policy => {
                let record = EpochRecord::parse(&leaf.body)?;
                self.next_epoch(record.epoch)?;
                self.policy = Some(record.document);
            }
            Kind::References => {
                let record = EpochRecord::parse(&leaf.body)?;
                self.next_epoch(record.epoch)?;
                self.references = Some(record.document);
            }
            Kind::Revocation => {
                let record = Revocation::parse(&leaf.body)?;
                if record.revoke {
                    self.revoked.insert(record.subject);
                } else {
                    self.revoked.remove(&record.subject);
                }
            }
            Kind::Principal => {
                let record = PrincipalRecord::parse(&leaf.body)?;
                if record.added {
                    let principal = Principal { kind: record.kind, name: record.name };
                    self.principals.insert(record.thumbprint, principal);
                } else {
                    self.principals.remove(&record.thumbprint);
                }
            }
            Kind::Recovery => {
                let record = RecoveryRecord::parse(&leaf.body)?;
                self.recovery_key
                    .verify(&statement_preimage(&record.statement), &record.signature)
                    .map_err(|_| ControlError::Recovery)?;
            }
            other => return Err(ControlError::NotControl(other.name())),
        }
        let leaf_hash = leaf_hash(leaf_bytes);
        self.digest = control_digest(&self.digest, number, &leaf_hash);
        self.number = number;
        Ok(leaf)
    }

    fn next_epoch(&mut self, found: u64) -> Result<(), ControlError> {
        if found != self.epoch + 1 {
            return Err(ControlError::Epoch { current: self.epoch, found });
        }
        self.epoch = found;
        Ok(())
    }

    fn apply_key(&mut self, record: &KeyRecord, number: u64) -> Result<(), ControlError> {
        if let Some(introduction) = &record.introduction {
            let preimage = key_possession(&self.origin, record.purpose, &record.key);
            record.key.verify(&preimage, &introduction.possession).map_err(|_| ControlError::Possession)?;
        }
        if record.purpose != KeyPurpose::Head {
            return Ok(());
        }
        let known = self.head_keys.iter_mut().find(|known| known.key == record.key);
        match (record.event, known) {
            (KeyEvent::Introduced, None) => self.head_keys.push(HeadKey {
                key: record.key.clone(),
                introduced: number,
                activated: None,
                ended: None,
                compromised: false,
            }),
            (KeyEvent::Activated, Some(key)) if key.activated.is_none() && key.ended.is_none() => {
                key.activated = Some(number);
            }
            (KeyEvent::Deactivated, Some(key)) if key.ended.is_none() => key.ended = Some(number),
            (KeyEvent::Compromised, Some(key)) if !key.compromised => {
                key.ended = Some(key.ended.unwrap_or(number));
                key.compromised = true;
            }
            (KeyEvent::Destroyed, Some(key)) if key.ended.is_some() => {}
            _ => return Err(ControlError::KeyOrder),
        }
        Ok(())
    }

    /// Control number: how many control leaves were applied.
    #[must_use]
    pub const fn number(&self) -> u64 {
        self.number
    }

    /// Digest of the chain at this number.
    #[must_use]
    pub const fn digest(&self) -> &Sha256Digest {
        &self.digest
    }

    /// Every head key ever introduced.
    #[must_use]
    pub fn head_keys(&self) -> &[HeadKey] {
        &self.head_keys
    }

    /// Keys that may sign a head with this control number. A compromised key signs nothing any more.
    pub fn head_keys_at(&self, number: u64) -> impl Iterator<Item = &VerifyingKey> {
        self.head_keys.iter().filter(move |key| key.active_at(number) && !key.compromised).map(|key| &key.key)
    }

    /// Epoch in force; 0 before the first.
    #[must_use]
    pub const fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Active policy document.
    #[must_use]
    pub const fn policy(&self) -> Option<&Sha256Digest> {
        self.policy.as_ref()
    }

    /// Active references document.
    #[must_use]
    pub const fn references(&self) -> Option<&Sha256Digest> {
        self.references.as_ref()
    }

    /// Whether this very subject is revoked.
    #[must_use]
    pub fn is_revoked(&self, subject: &Subject) -> bool {
        self.revoked.contains(subject)
    }

    /// The principal of this key, if it is in force and not revoked.
    #[must_use]
    pub fn principal(&self, thumbprint: &Sha256Digest) -> Option<&Principal> {
        if self.is_revoked(&Subject::Principal(*thumbprint)) { None } else { self.principals.get(thumbprint) }
    }

    /// Every principal that was added and not removed, revoked ones included.
    pub fn principals(&self) -> impl Iterator<Item = (&Sha256Digest, &Principal)> {
        self.principals.iter()
    }

    /// Name of the log.
    #[must_use]
    pub fn origin(&self) -> &str {
        &self.origin
    }
}
