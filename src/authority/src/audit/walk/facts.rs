//! What the whole log says of keys, principals, documents, revocations, tokens and enrolments: gathered once, asked for by each part of a way.
//!
//! Memory grows with the leaves of these kinds, not with the decisions.

use super::WalkFault;
use crate::audit::{Leaves, LogSource};
use countersign_core::bundle::TrustBundle;
use countersign_core::control::ControlState;
use countersign_core::digest::Sha256Digest;
use countersign_core::key::VerifyingKey;
use countersign_core::leaf::control::{
    EpochRecord, KeyEvent, KeyRecord, PrincipalRecord, Revocation, Subject,
};
use countersign_core::leaf::decision::LeafRef;
use countersign_core::leaf::host::Enrolment;
use countersign_core::leaf::record::JoinToken;
use countersign_core::leaf::{Kind, Leaf, leaf_hash};
use countersign_core::name::HostId;
use std::collections::HashMap;

/// By kind, each with its leaf, in order.
pub(super) struct Facts {
    /// At the end of the log.
    pub(super) control: ControlState,
    principals: Vec<(LeafRef, PrincipalRecord)>,
    epochs: Vec<(LeafRef, Kind, EpochRecord)>,
    keys: Vec<(LeafRef, KeyRecord)>,
    revocations: Vec<(LeafRef, Revocation)>,
    pub(super) statements: Vec<LeafRef>,
    tokens: HashMap<Sha256Digest, LeafRef>,
    enrolments: HashMap<HostId, Vec<LeafRef>>,
}

impl Facts {
    pub(super) fn gather(source: &dyn LogSource, bundle: &TrustBundle) -> Result<Self, WalkFault> {
        let mut facts = Self {
            control: ControlState::of_bundle(bundle),
            principals: Vec::new(),
            epochs: Vec::new(),
            keys: Vec::new(),
            revocations: Vec::new(),
            statements: Vec::new(),
            tokens: HashMap::new(),
            enrolments: HashMap::new(),
        };
        let mut leaves = Leaves::new(source);
        while let Some((index, bytes)) = leaves.next()? {
            facts.take(index, &bytes).ok_or(WalkFault::Malformed(index))?;
        }
        Ok(facts)
    }

    fn take(&mut self, index: u64, bytes: &[u8]) -> Option<()> {
        let leaf = Leaf::parse(bytes).ok().filter(|leaf| leaf.index == index)?;
        let (name, body) = ((index, leaf_hash(bytes)), leaf.body.as_slice());
        match leaf.kind {
            Kind::Principal => self.principals.push((name, PrincipalRecord::parse(body).ok()?)),
            Kind::Policy | Kind::References => {
                self.epochs.push((name, leaf.kind, EpochRecord::parse(body).ok()?));
            }
            Kind::Key => self.keys.push((name, KeyRecord::parse(body).ok()?)),
            Kind::Revocation => self.revocations.push((name, Revocation::parse(body).ok()?)),
            Kind::Recovery => self.statements.push(name),
            Kind::JoinToken => {
                self.tokens.entry(JoinToken::parse(body).ok()?.token).or_insert(name);
            }
            Kind::Enrolment => {
                self.enrolments.entry(Enrolment::parse(body).ok()?.host).or_default().push(name);
            }
            _ => {}
        }
        if leaf.kind.is_control() {
            self.control.apply(bytes).ok()?;
        }
        Some(())
    }

    /// The newest leaf before `before` that introduced this key.
    pub(super) fn principal(&self, key: &Sha256Digest, before: u64) -> Option<(LeafRef, &PrincipalRecord)> {
        let known = self.principals.iter().rev();
        let mut known =
            known.filter(|(name, record)| name.0 < before && record.added && record.thumbprint == *key);
        known.next().map(|(name, record)| (*name, record))
    }

    /// What was said of a principal, an artifact or a host.
    pub(super) fn revocations_of(&self, subject: Subject) -> impl Iterator<Item = (LeafRef, &Revocation)> {
        let about = self.revocations.iter().filter(move |(_, revocation)| revocation.subject == subject);
        about.map(|(name, revocation)| (*name, revocation))
    }

    pub(super) fn principal_revocations(
        &self,
        key: &Sha256Digest,
    ) -> impl Iterator<Item = (LeafRef, &Revocation)> {
        self.revocations_of(Subject::Principal(*key))
    }

    /// The leaf by which a document of this kind was in force at an epoch.
    pub(super) fn in_force(&self, kind: Kind, epoch: u64) -> Option<(LeafRef, &EpochRecord)> {
        let known = self.epochs.iter().rev();
        let mut known = known.filter(|(_, of, record)| *of == kind && record.epoch <= epoch);
        known.next().map(|(name, _, record)| (*name, record))
    }

    /// What happened to a key.
    pub(super) fn key_events(&self, key: &VerifyingKey) -> impl Iterator<Item = (LeafRef, &KeyRecord)> {
        self.keys.iter().filter(move |(_, record)| record.key == *key).map(|(name, record)| (*name, record))
    }

    /// The leaf that introduced a key.
    pub(super) fn introduction(&self, key: &VerifyingKey) -> Option<(LeafRef, &KeyRecord)> {
        self.key_events(key).find(|(_, record)| record.event == KeyEvent::Introduced)
    }

    pub(super) fn token(&self, token: &Sha256Digest) -> Option<LeafRef> {
        self.tokens.get(token).copied()
    }

    /// A host's newest enrolment before a leaf.
    pub(super) fn enrolment(&self, host: &HostId, before: u64) -> Option<LeafRef> {
        self.enrolments.get(host)?.iter().rev().find(|name| name.0 < before).copied()
    }
}
