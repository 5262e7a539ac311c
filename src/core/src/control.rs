//! The control chain and the state that it explains: head keys, epochs, revocations, principals (PROTOCOL §5.4, §8.5 to §8.9).
//!
//! Comes in: control leaves in order, from index 0 of the chain. Goes out: a [`ControlState`] at a control number, whose digest every signed head
//! commits to. Gateways, auditors and the authority fold the same leaves with this same code. Refused: a leaf that isn't control, a gap, a key
//! event out of order, an introduction without proof of possession, a new key or officer without an officer's approval, a recovery statement that isn't
//! the next, an epoch that isn't the next.

use crate::bundle::{Compromise, Initial, Says, Statement, TrustBundle, statement_preimage};
use crate::checkpoint::HeadBody;
use crate::digest::Sha256Digest;
use crate::key::VerifyingKey;
use crate::leaf::control::{
    Approval, EpochRecord, KeyEvent, KeyPurpose, KeyRecord, PrincipalKind, PrincipalRecord, RecoveryRecord,
    Revocation, Role, Subject, key_introduction, key_possession, officer_addition,
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
    /// It doesn't stand behind the control leaf before it.
    #[error("control leaf with index {found} follows one with index {last}")]
    Index {
        /// Of the leaf before.
        last: u64,
        /// Of this one.
        found: u64,
    },
    /// An epoch that isn't the next one.
    #[error("epoch {found} follows {current}")]
    Epoch {
        /// In force.
        current: u64,
        /// Found.
        found: u64,
    },
    /// A recovery statement that the recovery key didn't sign, that isn't the next one, or that isn't the one that the trust bundle holds.
    #[error("recovery statement isn't signed by the recovery key, or isn't the next one")]
    Recovery,
    /// A new key or security officer that no officer's own key approved and no recovery statement names.
    #[error("no security officer approved the new key or officer")]
    Approval,
}

impl ControlError {
    /// The stable code, where the leaf itself is at fault.
    #[must_use]
    pub const fn code(&self) -> crate::refusal::RefusalCode {
        match self {
            Self::Approval => crate::refusal::RefusalCode::ApprovalInvalid,
            Self::Recovery => crate::refusal::RefusalCode::StatementInvalid,
            _ => crate::refusal::RefusalCode::FeedInvalid,
        }
    }
}

/// Link of the chain (PROTOCOL §5.4).
#[must_use]
pub fn control_digest(previous: &Sha256Digest, number: u64, leaf_hash: &Sha256Digest) -> Sha256Digest {
    tuple::tuple_digest(
        "countersign-v1:control",
        &[previous.as_bytes(), &number.to_be_bytes(), leaf_hash.as_bytes()],
    )
}

/// From which to which control number a head key signs, or a JWT key.
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
    /// Whether its token no longer has it.
    pub destroyed: bool,
    /// Whether the recovery key called it compromised, or, of a JWT key, an officer withdrew it.
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
    /// Index of the newest control leaf.
    last_index: Option<u64>,
    digest: Sha256Digest,
    head_keys: Vec<HeadKey>,
    jwt_keys: Vec<HeadKey>,
    ca_keys: Vec<HeadKey>,
    /// The JWT key that a successor has replaced last, unless it was withdrawn since.
    jwt_retired: Option<VerifyingKey>,
    epoch: u64,
    policy: Option<Sha256Digest>,
    references: Option<Sha256Digest>,
    revoked: BTreeSet<Subject>,
    principals: BTreeMap<Sha256Digest, Principal>,
    any_principal: bool,
    /// What the recovery key said.
    recovery: Recovery,
    /// Keys that were revoked or removed once: they approve nothing any more, even when reinstated.
    barred: BTreeSet<Sha256Digest>,
}

/// What the recovery key said, in the chain or in the trust bundle.
#[derive(Clone, Debug, Default)]
struct Recovery {
    /// Statements that the chain has.
    number: u64,
    /// Exact statements of the trust bundle: those of the chain have to be the same.
    pinned: Vec<Vec<u8>>,
    /// Head keys of the trust bundle: the chain begins with them.
    first_keys: Vec<VerifyingKey>,
    /// Head keys that need no approval.
    head_keys: Vec<VerifyingKey>,
    /// Security officers that need none.
    officers: BTreeSet<Sha256Digest>,
    compromises: Vec<Compromise>,
}

impl Recovery {
    fn take(&mut self, says: &Says) {
        match says {
            Says::Initial(Initial { head_keys, officers, .. }) => {
                self.head_keys.extend_from_slice(head_keys);
                self.officers.extend(officers);
            }
            Says::Compromise(compromise) => {
                self.head_keys.extend_from_slice(&compromise.head_keys);
                self.compromises.push(compromise.clone());
            }
        }
    }

    fn of(&self, key: &VerifyingKey) -> Option<&Compromise> {
        self.compromises.iter().find(|compromise| compromise.key == *key)
    }
}

impl ControlState {
    /// The state before the first control leaf. Head keys of the bundle become active with their own leaves, and only they may without a predecessor.
    #[must_use]
    pub fn genesis(origin: &str, recovery_key: VerifyingKey) -> Self {
        Self {
            origin: origin.to_owned(),
            recovery_key,
            number: 0,
            last_index: None,
            digest: Sha256Digest::ZERO,
            head_keys: Vec::new(),
            jwt_keys: Vec::new(),
            ca_keys: Vec::new(),
            jwt_retired: None,
            epoch: 0,
            policy: None,
            references: None,
            revoked: BTreeSet::new(),
            principals: BTreeMap::new(),
            any_principal: false,
            recovery: Recovery::default(),
            barred: BTreeSet::new(),
        }
    }

    /// [`ControlState::genesis`] of a bundle.
    #[must_use]
    pub fn of_bundle(bundle: &TrustBundle) -> Self {
        let mut state = Self::genesis(bundle.origin().as_str(), bundle.recovery_key().clone());
        state.recovery.first_keys.extend_from_slice(bundle.head_keys());
        for (bytes, statement) in bundle.statements() {
            state.recovery.pinned.push(bytes.clone());
            state.recovery.take(&statement.says);
        }
        state
    }

    /// The state in which the recovery key names these head keys: what an initial statement does, for logs without a bundle.
    #[must_use]
    pub fn naming(mut self, head_keys: &[VerifyingKey]) -> Self {
        self.recovery.head_keys.extend_from_slice(head_keys);
        self
    }

    /// Takes the next control leaf's exact bytes. On an error the state is as before.
    pub fn apply(&mut self, leaf_bytes: &[u8]) -> Result<Leaf, ControlError> {
        let leaf = Leaf::parse(leaf_bytes)?;
        let number = self.number + 1;
        // PROTOCOL §13.1: control leaves stand in the log in the order of their numbers.
        if let Some(last) = self.last_index
            && leaf.index <= last
        {
            return Err(ControlError::Index { last, found: leaf.index });
        }
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
                    if let Subject::Principal(thumbprint) = record.subject {
                        self.barred.insert(thumbprint);
                    }
                    self.revoked.insert(record.subject);
                } else {
                    self.revoked.remove(&record.subject);
                }
            }
            Kind::Principal => {
                self.apply_principal(PrincipalRecord::parse(&leaf.body)?)?;
            }
            Kind::Recovery => self.apply_statement(&RecoveryRecord::parse(&leaf.body)?, number)?,
            other => return Err(ControlError::NotControl(other.name())),
        }
        let leaf_hash = leaf_hash(leaf_bytes);
        self.digest = control_digest(&self.digest, number, &leaf_hash);
        (self.number, self.last_index) = (number, Some(leaf.index));
        Ok(leaf)
    }

    fn next_epoch(&mut self, found: u64) -> Result<(), ControlError> {
        if found != self.epoch + 1 {
            return Err(ControlError::Epoch { current: self.epoch, found });
        }
        self.epoch = found;
        Ok(())
    }

    fn apply_principal(&mut self, record: PrincipalRecord) -> Result<(), ControlError> {
        if !record.added {
            self.any_principal = true;
            self.barred.insert(record.thumbprint);
            self.principals.remove(&record.thumbprint);
            return Ok(());
        }
        self.require_addition(&record)?;
        self.any_principal = true;
        self.principals.insert(record.thumbprint, Principal { kind: record.kind, name: record.name });
        Ok(())
    }

    /// PROTOCOL §8.9: who can approve keys isn't made by the head key alone.
    pub fn require_addition(&self, record: &PrincipalRecord) -> Result<(), ControlError> {
        let thumbprint = &record.thumbprint;
        let named = self.recovery.officers.contains(thumbprint) && !self.barred.contains(thumbprint);
        if record.kind != PrincipalKind::Operator(Role::SecurityOfficer) || named {
            return Ok(());
        }
        let act = officer_addition(&self.origin, &record.name, thumbprint);
        self.require_approval(record.approval.as_ref(), &act)
    }

    /// A signature over the act by the own key of an officer in force.
    fn require_approval(&self, approval: Option<&Approval>, act: &[u8]) -> Result<(), ControlError> {
        let approval = approval.ok_or(ControlError::Approval)?;
        if !self.may_approve(&approval.key.thumbprint()) {
            return Err(ControlError::Approval);
        }
        approval.key.verify(act, &approval.signature).map_err(|_| ControlError::Approval)
    }

    /// Whether this key's signature approves new keys and officers: a security officer's that was never revoked or removed.
    #[must_use]
    pub fn may_approve(&self, thumbprint: &Sha256Digest) -> bool {
        let officer =
            |principal: &Principal| principal.kind == PrincipalKind::Operator(Role::SecurityOfficer);
        !self.barred.contains(thumbprint) && self.principal(thumbprint).is_some_and(officer)
    }

    /// PROTOCOL §10: numbered, verified by the recovery key alone.
    fn apply_statement(&mut self, record: &RecoveryRecord, number: u64) -> Result<(), ControlError> {
        self.recovery_key
            .verify(&statement_preimage(&record.statement), &record.signature)
            .map_err(|_| ControlError::Recovery)?;
        let statement = Statement::parse(&record.statement)?;
        let next = self.recovery.number + 1;
        let first = matches!(statement.says, Says::Initial(_));
        let pinned = usize::try_from(self.recovery.number).ok().and_then(|at| self.recovery.pinned.get(at));
        let other = pinned.is_some_and(|pinned| *pinned != record.statement);
        if statement.number != next
            || first != (next == 1)
            || statement.origin.as_str() != self.origin
            || other
        {
            return Err(ControlError::Recovery);
        }
        if pinned.is_none() {
            self.recovery.take(&statement.says);
        }
        self.recovery.number = next;
        let mut keys = self.head_keys.iter_mut().chain(&mut self.jwt_keys).chain(&mut self.ca_keys);
        if let Says::Compromise(compromise) = &statement.says
            && let Some(key) = keys.find(|known| known.key == compromise.key)
        {
            key.ended = Some(key.ended.unwrap_or(number));
            key.compromised = true;
        }
        Ok(())
    }

    /// PROTOCOL §8.5: held by somebody, in custody, and wanted by an officer or by the recovery key.
    pub fn require_introduction(&self, record: &KeyRecord) -> Result<(), ControlError> {
        let Some(introduction) = &record.introduction else { return Ok(()) };
        let (purpose, key) = (record.purpose, &record.key);
        let preimage = key_possession(&self.origin, purpose, key);
        key.verify(&preimage, &introduction.possession).map_err(|_| ControlError::Possession)?;
        let named = match purpose {
            KeyPurpose::Head => self.recovery.head_keys.contains(key),
            // The first keys for these purposes come before the first officer; relying parties pin the CA's certificate, not this leaf.
            KeyPurpose::Ca | KeyPurpose::Jwt => !self.any_principal,
        };
        if named {
            return Ok(());
        }
        let act = key_introduction(&self.origin, purpose, key, &introduction.backend, &introduction.custody);
        self.require_approval(introduction.approval.as_ref(), &act)
    }

    /// PROTOCOL §13.1: the first head keys are those of the trust bundle, and all of them are active before there is another.
    fn is_first(&self, key: &VerifyingKey) -> bool {
        let first = &self.recovery.first_keys;
        if self.head_keys.len() < first.len() {
            return first.contains(key);
        }
        let active = |key: &VerifyingKey| {
            self.head_keys.iter().any(|known| known.key == *key && known.activated.is_some())
        };
        first.iter().all(active)
    }

    fn apply_key(&mut self, record: &KeyRecord, number: u64) -> Result<(), ControlError> {
        self.require_introduction(record)?;
        let introduces = record.event == KeyEvent::Introduced && record.purpose == KeyPurpose::Head;
        if introduces && !self.is_first(&record.key) {
            return Err(ControlError::KeyOrder);
        }
        let (keys, others) = match record.purpose {
            KeyPurpose::Head => (&mut self.head_keys, [&self.jwt_keys, &self.ca_keys]),
            KeyPurpose::Jwt => (&mut self.jwt_keys, [&self.head_keys, &self.ca_keys]),
            KeyPurpose::Ca => (&mut self.ca_keys, [&self.head_keys, &self.jwt_keys]),
        };
        // PROTOCOL §8.5: purposes never share a key.
        if others.into_iter().flatten().any(|other| other.key == record.key) {
            return Err(ControlError::KeyOrder);
        }
        let withdraws = record.purpose == KeyPurpose::Jwt && record.by.is_some();
        let known = keys.iter_mut().find(|known| known.key == record.key);
        match (record.event, known) {
            (KeyEvent::Introduced, None) => keys.push(HeadKey {
                key: record.key.clone(),
                introduced: number,
                activated: None,
                ended: None,
                destroyed: false,
                compromised: self.recovery.of(&record.key).is_some(),
            }),
            (KeyEvent::Activated, Some(key)) if key.activated.is_none() && key.ended.is_none() => {
                key.activated = Some(number);
            }
            // PROTOCOL §8.5: with a successor nobody asks for it; whoever asks withdraws the key, also one that a successor has replaced.
            (KeyEvent::Deactivated, Some(key)) if key.ended.is_none() || (withdraws && !key.compromised) => {
                key.ended = Some(key.ended.unwrap_or(number));
                key.compromised |= withdraws;
                if !withdraws && record.purpose == KeyPurpose::Jwt {
                    self.jwt_retired = Some(record.key.clone());
                }
            }
            // PROTOCOL §8.5: only the recovery key says so (`KeyEvent::Compromised` has no place in a chain).
            (KeyEvent::Destroyed, Some(key)) if key.ended.is_some() && !key.destroyed => key.destroyed = true,
            _ => return Err(ControlError::KeyOrder),
        }
        Ok(())
    }

    /// Control number: how many control leaves were applied.
    #[must_use]
    pub const fn number(&self) -> u64 {
        self.number
    }

    /// Index of the newest control leaf: every head with its control number is larger.
    #[must_use]
    pub const fn last_index(&self) -> Option<u64> {
        self.last_index
    }

    /// Whether these head keys, which are the trust bundle's, are the first that the chain introduces, all activated before any other is introduced
    /// (PROTOCOL §13.1).
    #[must_use]
    pub fn begins_with(&self, keys: &[VerifyingKey]) -> bool {
        let Some((first, later)) = self.head_keys.split_at_checked(keys.len()) else { return false };
        let last_activation = first.iter().map(|key| key.activated).max().flatten();
        let all_named = keys.iter().all(|key| first.iter().any(|known| known.key == *key));
        let all_active = first.iter().all(|key| key.activated.is_some());
        let before_others = later.iter().all(|key| last_activation.is_some_and(|at| at < key.introduced));
        all_named && all_active && before_others
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

    /// Every JWT key ever introduced.
    #[must_use]
    pub fn jwt_keys(&self) -> &[HeadKey] {
        &self.jwt_keys
    }

    /// The key that signs JWTs now: of several active ones the newest.
    #[must_use]
    pub fn jwt_key(&self) -> Option<&HeadKey> {
        let active = self.jwt_keys.iter().filter(|key| key.active_at(self.number) && !key.compromised);
        active.max_by_key(|key| key.activated)
    }

    /// JWT keys whose signatures may be met (PROTOCOL §17.2): those that sign or are about to, and the one that a successor has replaced last.
    pub fn jwt_keys_published(&self) -> impl Iterator<Item = &VerifyingKey> {
        let met = |key: &&HeadKey| key.ended.is_none() || self.jwt_retired.as_ref() == Some(&key.key);
        self.jwt_keys.iter().filter(|key| !key.compromised).filter(met).map(|key| &key.key)
    }

    /// Keys that may sign a head with this control number. A compromised key signs nothing any more.
    pub fn head_keys_at(&self, number: u64) -> impl Iterator<Item = &VerifyingKey> {
        self.head_keys.iter().filter(move |key| key.active_at(number) && !key.compromised).map(|key| &key.key)
    }

    /// Compromised keys that were active at this number, and the last good head of each.
    pub fn compromised_at(&self, number: u64) -> impl Iterator<Item = (&VerifyingKey, &HeadBody)> {
        let known = self.head_keys.iter().filter(move |key| key.active_at(number) && key.compromised);
        known.filter_map(|known| self.recovery.of(&known.key)).map(|found| (&found.key, &found.last_good))
    }

    /// Compromises that the recovery key stated, in the chain or in the trust bundle.
    #[must_use]
    pub fn compromises(&self) -> &[Compromise] {
        &self.recovery.compromises
    }

    /// Of keys that were believed before, those that still are; and those that a statement says to believe in a compromised one's stead.
    #[must_use]
    pub fn still_believed(&self, believed: &[VerifyingKey]) -> Vec<VerifyingKey> {
        let left = believed.iter().filter(|key| self.recovery.of(key).is_none());
        left.chain(self.recovery.compromises.iter().flat_map(|found| &found.head_keys)).cloned().collect()
    }

    /// Recovery statements that the chain has.
    #[must_use]
    pub const fn statements(&self) -> u64 {
        self.recovery.number
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
