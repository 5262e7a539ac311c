//! Bodies of the control leaves: keys, policy, references, revocations, principals, recovery statements (PROTOCOL §8.5 to §8.9, §8.12).

use super::LeafError;
use super::field::{read_digest_or_null, read_key, write_digest};
use crate::cbor::{Decoder, Slot, encode_map};
use crate::digest::Sha256Digest;
use crate::key::{SIGNATURE_LEN, VerifyingKey};
use crate::name::HostId;
use crate::tuple;

/// What happened to a key (PROTOCOL §8.5; states of NIST SP 800-57 Part 1 §7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyEvent {
    /// Published, not yet signing: pre-activation.
    Introduced,
    /// Signing.
    Activated,
    /// Verifies what it signed; signs no more.
    Deactivated,
    /// Known to be in other hands.
    Compromised,
    /// Destroyed in its token.
    Destroyed,
}

/// What a key is for. Purposes never share a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyPurpose {
    /// Signs heads.
    Head,
    /// Signs certificates.
    Ca,
    /// Signs attestation results as JWTs.
    Jwt,
}

impl KeyPurpose {
    /// The number in bodies and tuples.
    #[must_use]
    pub const fn number(self) -> u64 {
        match self {
            Self::Head => 1,
            Self::Ca => 2,
            Self::Jwt => 3,
        }
    }
}

/// Where an introduced key lives and how that was shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Introduction {
    /// Signature by the new key over [`key_possession`].
    pub possession: Vec<u8>,
    /// Custody backend, such as `pkcs11`.
    pub backend: String,
    /// SHA-256 of the custody record; the bytes are a blob.
    pub custody: Sha256Digest,
    /// An officer's word for this very introduction; `None` only for keys that a recovery statement names, and for CA and JWT keys from before the
    /// first principal.
    pub approval: Option<Approval>,
}

/// An officer's signature, by the officer's own key, over one exact act. The head key alone can't make it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Approval {
    /// The officer's key.
    pub key: VerifyingKey,
    /// By that key, over the bytes of the act.
    pub signature: Vec<u8>,
}

impl Approval {
    fn write(approval: Option<&Self>, slot: Slot<'_>) {
        match approval {
            Some(approval) => slot.array(|parts| {
                parts.item().bytes(&approval.key.cose_key());
                parts.item().bytes(&approval.signature);
            }),
            None => slot.null(),
        }
    }

    fn read(decoder: &mut Decoder<'_>) -> Result<Option<Self>, LeafError> {
        if decoder.kind()? == crate::cbor::Kind::Null {
            decoder.null()?;
            return Ok(None);
        }
        decoder.array_of(2)?;
        let key = read_key(decoder)?;
        Ok(Some(Self { key, signature: decoder.bytes()?.to_vec() }))
    }
}

/// Body of a key leaf.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRecord {
    /// What happened.
    pub event: KeyEvent,
    /// What the key is for.
    pub purpose: KeyPurpose,
    /// The key.
    pub key: VerifyingKey,
    /// With [`KeyEvent::Introduced`], and only then.
    pub introduction: Option<Introduction>,
    /// Who asked; `None` at initialisation.
    pub by: Option<Sha256Digest>,
}

/// What a new key signs to show that somebody holds it (PROTOCOL §8.5).
#[must_use]
pub fn key_possession(origin: &str, purpose: KeyPurpose, key: &VerifyingKey) -> Vec<u8> {
    tuple::preimage(
        "countersign-v1:key-possession",
        &[origin.as_bytes(), &purpose.number().to_be_bytes(), &key.cose_key()],
    )
}

/// What an officer signs to approve the introduction of a key (PROTOCOL §8.5).
#[must_use]
pub fn key_introduction(
    origin: &str,
    purpose: KeyPurpose,
    key: &VerifyingKey,
    backend: &str,
    custody: &Sha256Digest,
) -> Vec<u8> {
    tuple::preimage(
        "countersign-v1:key-introduction",
        &[
            origin.as_bytes(),
            &purpose.number().to_be_bytes(),
            &key.cose_key(),
            backend.as_bytes(),
            custody.as_bytes(),
        ],
    )
}

/// What an officer signs to approve that another key becomes a security officer's (PROTOCOL §8.9).
#[must_use]
pub fn officer_addition(origin: &str, name: &str, thumbprint: &Sha256Digest) -> Vec<u8> {
    tuple::preimage(
        "countersign-v1:officer-addition",
        &[origin.as_bytes(), name.as_bytes(), thumbprint.as_bytes()],
    )
}

impl KeyRecord {
    /// The body's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode_map(|map| {
            map.entry(1).uint(match self.event {
                KeyEvent::Introduced => 1,
                KeyEvent::Activated => 2,
                KeyEvent::Deactivated => 3,
                KeyEvent::Compromised => 4,
                KeyEvent::Destroyed => 5,
            });
            map.entry(2).uint(self.purpose.number());
            map.entry(3).bytes(&self.key.cose_key());
            match &self.introduction {
                Some(introduction) => {
                    map.entry(4).bytes(&introduction.possession);
                    map.entry(5).array(|custody| {
                        custody.item().text(&introduction.backend);
                        custody.item().bytes(introduction.custody.as_bytes());
                    });
                }
                None => {
                    map.entry(4).null();
                    map.entry(5).null();
                }
            }
            write_digest(map.entry(6), self.by.as_ref());
            let approval = self.introduction.as_ref().and_then(|introduction| introduction.approval.as_ref());
            Approval::write(approval, map.entry(7));
        })
    }

    /// Parses exact body bytes. An introduction without possession and custody, or another event with them, is refused.
    pub fn parse(bytes: &[u8]) -> Result<Self, LeafError> {
        let mut decoder = Decoder::new(bytes)?;
        decoder.map_of(7)?;
        decoder.expect_key(1)?;
        let event = match decoder.uint()? {
            1 => KeyEvent::Introduced,
            2 => KeyEvent::Activated,
            3 => KeyEvent::Deactivated,
            4 => KeyEvent::Compromised,
            5 => KeyEvent::Destroyed,
            _ => return Err(LeafError::Value("key event")),
        };
        decoder.expect_key(2)?;
        let purpose = match decoder.uint()? {
            1 => KeyPurpose::Head,
            2 => KeyPurpose::Ca,
            3 => KeyPurpose::Jwt,
            _ => return Err(LeafError::Value("key purpose")),
        };
        decoder.expect_key(3)?;
        let key = read_key(&mut decoder)?;
        decoder.expect_key(4)?;
        let mut introduction = if event == KeyEvent::Introduced {
            let possession = decoder.byte_array::<SIGNATURE_LEN>()?.to_vec();
            decoder.expect_key(5)?;
            decoder.array_of(2)?;
            let backend = decoder.text()?.to_owned();
            let custody = Sha256Digest::new(decoder.byte_array()?);
            Some(Introduction { possession, backend, custody, approval: None })
        } else {
            decoder.null()?;
            decoder.expect_key(5)?;
            decoder.null()?;
            None
        };
        decoder.expect_key(6)?;
        let by = read_digest_or_null(&mut decoder)?;
        decoder.expect_key(7)?;
        match (Approval::read(&mut decoder)?, introduction.as_mut()) {
            (approval, Some(introduction)) => introduction.approval = approval,
            (None, None) => {}
            (Some(_), None) => {
                return Err(LeafError::Value("approval of another event than an introduction"));
            }
        }
        decoder.finish()?;
        Ok(Self { event, purpose, key, introduction, by })
    }
}

/// Body of a policy or a references leaf (PROTOCOL §8.6, §8.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochRecord {
    /// Digest of the document that became active.
    pub document: Sha256Digest,
    /// The number of this change; policy and references share one counter.
    pub epoch: u64,
    /// Who asked.
    pub by: Sha256Digest,
}

impl EpochRecord {
    /// The body's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode_map(|map| {
            map.entry(1).bytes(self.document.as_bytes());
            map.entry(2).uint(self.epoch);
            map.entry(3).bytes(self.by.as_bytes());
        })
    }

    /// Parses exact body bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self, LeafError> {
        let mut decoder = Decoder::new(bytes)?;
        decoder.map_of(3)?;
        decoder.expect_key(1)?;
        let document = Sha256Digest::new(decoder.byte_array()?);
        decoder.expect_key(2)?;
        let epoch = decoder.uint()?;
        decoder.expect_key(3)?;
        let by = Sha256Digest::new(decoder.byte_array()?);
        decoder.finish()?;
        Ok(Self { document, epoch, by })
    }
}

/// What can be revoked (PROTOCOL §8.8). The order is the order of inputs records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Subject {
    /// A host and all that it was given.
    Host(HostId),
    /// One artifact and its descendants: index and leaf hash.
    Artifact(u64, Sha256Digest),
    /// An operator or a gateway, by key thumbprint.
    Principal(Sha256Digest),
}

impl Subject {
    /// Writes the array.
    pub fn write(&self, slot: Slot<'_>) {
        slot.array(|array| match self {
            Self::Host(host) => {
                array.item().uint(1);
                array.item().bytes(host.as_bytes());
            }
            Self::Artifact(index, leaf_hash) => {
                array.item().uint(2);
                array.item().uint(*index);
                array.item().bytes(leaf_hash.as_bytes());
            }
            Self::Principal(thumbprint) => {
                array.item().uint(3);
                array.item().bytes(thumbprint.as_bytes());
            }
        });
    }

    /// Reads the array.
    pub fn read(decoder: &mut Decoder<'_>) -> Result<Self, LeafError> {
        let items = decoder.array()?;
        match (decoder.uint()?, items) {
            (1, 2) => {
                let host =
                    HostId::from_slice(decoder.bytes()?).map_err(|_| LeafError::Value("host identifier"))?;
                Ok(Self::Host(host))
            }
            (2, 3) => Ok(Self::Artifact(decoder.uint()?, Sha256Digest::new(decoder.byte_array()?))),
            (3, 2) => Ok(Self::Principal(Sha256Digest::new(decoder.byte_array()?))),
            _ => Err(LeafError::Value("revocation subject")),
        }
    }
}

/// Longest reason text, in bytes.
pub const MAX_REASON_LEN: usize = 256;

/// Body of a revocation leaf.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revocation {
    /// What.
    pub subject: Subject,
    /// `true` revokes, `false` reinstates.
    pub revoke: bool,
    /// For people.
    pub reason: String,
    /// Who asked.
    pub by: Sha256Digest,
}

impl Revocation {
    /// The body's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode_map(|map| {
            self.subject.write(map.entry(1));
            map.entry(2).uint(if self.revoke { 1 } else { 2 });
            map.entry(3).text(&self.reason);
            map.entry(4).bytes(self.by.as_bytes());
        })
    }

    /// Parses exact body bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self, LeafError> {
        let mut decoder = Decoder::new(bytes)?;
        decoder.map_of(4)?;
        decoder.expect_key(1)?;
        let subject = Subject::read(&mut decoder)?;
        decoder.expect_key(2)?;
        let revoke = match decoder.uint()? {
            1 => true,
            2 => false,
            _ => return Err(LeafError::Value("revocation effect")),
        };
        decoder.expect_key(3)?;
        let reason = decoder.text()?.to_owned();
        if reason.len() > MAX_REASON_LEN {
            return Err(LeafError::Value("reason"));
        }
        decoder.expect_key(4)?;
        let by = Sha256Digest::new(decoder.byte_array()?);
        decoder.finish()?;
        Ok(Self { subject, revoke, reason, by })
    }
}

/// What an operator may do; each includes the ones before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Reads.
    Viewer,
    /// Enrols, captures, revokes.
    Operator,
    /// Changes policy, references, keys, principals.
    SecurityOfficer,
}

/// Who a principal is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PrincipalKind {
    /// A person or tool with a role on the admin API.
    Operator(Role),
    /// A gateway.
    Gateway,
}

/// Body of a principal leaf (PROTOCOL §8.9).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrincipalRecord {
    /// `true` adds, `false` removes.
    pub added: bool,
    /// Who.
    pub kind: PrincipalKind,
    /// Thumbprint of the principal's key.
    pub thumbprint: Sha256Digest,
    /// A name for people, also the name that a gateway's holder proofs carry.
    pub name: String,
    /// Who asked; `None` at initialisation.
    pub by: Option<Sha256Digest>,
    /// An officer's word for a new security officer; `None` for all else, and for officers that a recovery statement names.
    pub approval: Option<Approval>,
}

impl PrincipalRecord {
    /// The body's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let (kind, role) = match self.kind {
            PrincipalKind::Operator(Role::Viewer) => (1, 1),
            PrincipalKind::Operator(Role::Operator) => (1, 2),
            PrincipalKind::Operator(Role::SecurityOfficer) => (1, 3),
            PrincipalKind::Gateway => (2, 0),
        };
        encode_map(|map| {
            map.entry(1).uint(if self.added { 1 } else { 2 });
            map.entry(2).uint(kind);
            map.entry(3).bytes(self.thumbprint.as_bytes());
            map.entry(4).text(&self.name);
            map.entry(5).uint(role);
            write_digest(map.entry(6), self.by.as_ref());
            Approval::write(self.approval.as_ref(), map.entry(7));
        })
    }

    /// Parses exact body bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self, LeafError> {
        let mut decoder = Decoder::new(bytes)?;
        decoder.map_of(7)?;
        decoder.expect_key(1)?;
        let added = match decoder.uint()? {
            1 => true,
            2 => false,
            _ => return Err(LeafError::Value("principal event")),
        };
        decoder.expect_key(2)?;
        let kind = decoder.uint()?;
        decoder.expect_key(3)?;
        let thumbprint = Sha256Digest::new(decoder.byte_array()?);
        decoder.expect_key(4)?;
        let name = decoder.text()?.to_owned();
        decoder.expect_key(5)?;
        let kind = match (kind, decoder.uint()?) {
            (1, 1) => PrincipalKind::Operator(Role::Viewer),
            (1, 2) => PrincipalKind::Operator(Role::Operator),
            (1, 3) => PrincipalKind::Operator(Role::SecurityOfficer),
            (2, 0) => PrincipalKind::Gateway,
            _ => return Err(LeafError::Value("principal kind and role")),
        };
        decoder.expect_key(6)?;
        let by = read_digest_or_null(&mut decoder)?;
        decoder.expect_key(7)?;
        let approval = Approval::read(&mut decoder)?;
        decoder.finish()?;
        Ok(Self { added, kind, thumbprint, name, by, approval })
    }
}

/// Body of a recovery leaf: a statement and its signature (PROTOCOL §8.12, §10).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoveryRecord {
    /// Exact statement bytes.
    pub statement: Vec<u8>,
    /// By the recovery key.
    pub signature: Vec<u8>,
}

impl RecoveryRecord {
    /// The body's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode_map(|map| {
            map.entry(1).bytes(&self.statement);
            map.entry(2).bytes(&self.signature);
        })
    }

    /// Parses exact body bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self, LeafError> {
        let mut decoder = Decoder::new(bytes)?;
        decoder.map_of(2)?;
        decoder.expect_key(1)?;
        let statement = decoder.bytes()?.to_vec();
        decoder.expect_key(2)?;
        let signature = decoder.byte_array::<SIGNATURE_LEN>()?.to_vec();
        decoder.finish()?;
        Ok(Self { statement, signature })
    }
}
