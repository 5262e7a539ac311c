//! An authority in memory: three trees, control chain, software head keys. Its answers are those of PROTOCOL §11.1.

use countersign_core::api::{B64, Feed};
use countersign_core::bundle::{
    BundleDocument, Compromise, Initial, Says, Statement, StatementDocument, TrustBundle, statement_preimage,
};
use countersign_core::checkpoint::HeadBody;
use countersign_core::control::ControlState;
use countersign_core::digest::{Sha256Digest, sha256};
use countersign_core::key::{JsonKey, VerifyingKey};
use countersign_core::leaf::control::{
    Approval, Introduction, KeyEvent, KeyPurpose, KeyRecord, PrincipalKind, PrincipalRecord, RecoveryRecord,
    Revocation, Role, Subject, key_introduction, key_possession,
};
use countersign_core::leaf::decision::Decision;
use countersign_core::leaf::record::{Heartbeat, HeartbeatReason};
use countersign_core::leaf::{Kind, Leaf, leaf_hash};
use countersign_core::merkle::{
    Blake2b512Tree, Frontier, NodeSource, Sha3_512Tree, Sha256Tree, TreeHash, consistency_proof,
    inclusion_proof,
};
use countersign_core::name::Origin;
use countersign_core::note::{NoteKey, SignedNote};
use countersign_core::tlog_proof::TlogProof;
use ed25519_dalek::{Signer as _, SigningKey};
use std::collections::HashMap;

pub(crate) const ORIGIN: &str = "test.countersign.example/log";

#[derive(Clone)]
pub(crate) struct Nodes(HashMap<(u8, u64), Sha256Digest>);

impl NodeSource<Sha256Tree> for Nodes {
    type Error = ();

    fn node(&self, level: u8, index: u64) -> Result<Sha256Digest, ()> {
        self.0.get(&(level, index)).copied().ok_or(())
    }
}

#[derive(Clone)]
pub(crate) struct Authority {
    origin: String,
    /// Sign every head.
    pub(crate) signers: Vec<SigningKey>,
    /// Signs the next head in addition: the old key of a rotation.
    pub(crate) once: Vec<SigningKey>,
    pub(crate) time_ms: u64,
    pub(crate) state: ControlState,
    control: Vec<Vec<u8>>,
    rotations: Vec<(u64, String)>,
    pending_rotation: bool,
    leaves: Vec<Vec<u8>>,
    sha256: Frontier<Sha256Tree>,
    sha3: Frontier<Sha3_512Tree>,
    blake2: Frontier<Blake2b512Tree>,
    nodes: Nodes,
    prev: Sha256Digest,
    pub(crate) heads: Vec<(HeadBody, String)>,
    bundle: Vec<u8>,
}

pub(crate) fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

/// The officer of these tests.
pub(crate) const OFFICER: u8 = 201;

/// An officer's word for a new head key.
pub(crate) fn approval(origin: &str, new: &SigningKey, officer: &SigningKey) -> Approval {
    let act = key_introduction(origin, KeyPurpose::Head, &public(new), "test", &sha256(b"custody"));
    Approval { key: public(officer), signature: officer.sign(&act).to_bytes().to_vec() }
}

pub(crate) fn public(key: &SigningKey) -> VerifyingKey {
    VerifyingKey::ed25519(key.verifying_key().as_bytes()).unwrap()
}

impl Authority {
    /// A log that begins with the recovery statement and its one head key, of seed 1.
    pub(crate) fn new(time_ms: u64) -> Self {
        Self::named(ORIGIN, time_ms)
    }

    pub(crate) fn named(origin: &str, time_ms: u64) -> Self {
        Self::beginning(origin, time_ms, |authority| {
            authority.introduce(&key(1));
            authority.key_event(&key(1), KeyEvent::Activated);
        })
    }

    /// A log whose bundle names the key of seed 1, and whose key leaves begin as `keys` says.
    pub(crate) fn beginning(origin: &str, time_ms: u64, keys: impl FnOnce(&mut Self)) -> Self {
        let recovery = key(200);
        let signer = key(1);
        let statement = Statement {
            number: 1,
            origin: Origin::parse(origin).unwrap(),
            // The same for every log of these tests, so that bundles can be exchanged.
            time_ms: 1,
            says: Says::Initial(Initial {
                head_keys: vec![public(&signer)],
                ca_certificates: vec![vec![0x30, 0]],
                officers: vec![public(&key(OFFICER)).thumbprint()],
                lease_secs: 300,
            }),
        }
        .encode();
        let signature = recovery.sign(&statement_preimage(&statement)).to_bytes().to_vec();
        let b64 = |bytes: &[u8]| data_encoding::BASE64URL_NOPAD.encode(bytes);
        let document = BundleDocument {
            v: 1,
            origin: origin.to_owned(),
            trust_domain: "test.example".to_owned(),
            recovery_key: JsonKey::from(public(&recovery)),
            statements: vec![StatementDocument { statement: b64(&statement), signature: b64(&signature) }],
        };
        let mut authority = Self {
            origin: origin.to_owned(),
            state: ControlState::genesis(origin, public(&recovery)),
            signers: vec![signer],
            once: Vec::new(),
            time_ms,
            control: Vec::new(),
            rotations: Vec::new(),
            pending_rotation: false,
            leaves: Vec::new(),
            sha256: Frontier::new(),
            sha3: Frontier::new(),
            blake2: Frontier::new(),
            nodes: Nodes(HashMap::new()),
            prev: Sha256Digest::ZERO,
            heads: Vec::new(),
            bundle: serde_json::to_vec(&document).unwrap(),
        };
        authority.append(Kind::Recovery, RecoveryRecord { statement, signature }.encode());
        keys(&mut authority);
        authority.pending_rotation = false;
        authority.sign();
        authority
    }

    pub(crate) fn bundle_bytes(&self) -> &[u8] {
        &self.bundle
    }

    pub(crate) fn bundle(&self) -> TrustBundle {
        TrustBundle::verify(&self.bundle).unwrap()
    }

    /// Appends a leaf; no head covers it yet.
    pub(crate) fn append(&mut self, kind: Kind, body: Vec<u8>) -> u64 {
        let index = self.sha256.size();
        let salt = [u8::try_from(index % 251).unwrap(); 16];
        let leaf = Leaf { kind, index, time_ms: self.time_ms, salt, body }.encode().unwrap();
        if kind.is_control() {
            self.state.apply(&leaf).unwrap();
            self.control.push(leaf.clone());
        }
        let nodes = &mut self.nodes.0;
        self.sha256
            .append(leaf_hash(&leaf), |node| {
                nodes.insert((node.level, node.index), node.hash);
            })
            .unwrap();
        self.sha3.append(Sha3_512Tree::leaf_hash(&leaf), |_| ()).unwrap();
        self.blake2.append(Blake2b512Tree::leaf_hash(&leaf), |_| ()).unwrap();
        self.leaves.push(leaf);
        index
    }

    pub(crate) fn heartbeat(&mut self) -> u64 {
        self.append(Kind::Heartbeat, Heartbeat(HeartbeatReason::Idle).encode())
    }

    pub(crate) fn allow(&mut self, decision: &Decision) -> u64 {
        self.append(Kind::Allow, decision.encode())
    }

    pub(crate) fn introduce(&mut self, new: &SigningKey) {
        let possession = new.sign(&key_possession(&self.origin, KeyPurpose::Head, &public(new)));
        // The recovery statement names the first; an officer signs for every other.
        if *new != key(1) && !self.state.may_approve(&public(&key(OFFICER)).thumbprint()) {
            self.officer(&key(OFFICER), None);
        }
        let approval = (*new != key(1)).then(|| approval(&self.origin, new, &key(OFFICER)));
        let introduction = Introduction {
            possession: possession.to_bytes().to_vec(),
            backend: "test".to_owned(),
            custody: sha256(b"custody"),
            approval,
        };
        self.key_leaf(new, KeyEvent::Introduced, Some(introduction));
    }

    /// Adds a security officer.
    pub(crate) fn officer(&mut self, officer: &SigningKey, approval: Option<Approval>) {
        let record = PrincipalRecord {
            added: true,
            kind: PrincipalKind::Operator(Role::SecurityOfficer),
            thumbprint: public(officer).thumbprint(),
            name: "officer".to_owned(),
            by: None,
            approval,
        };
        self.append(Kind::Principal, record.encode());
    }

    /// The recovery key's word that `compromised` is in other hands, with the head of this position as its last good one.
    pub(crate) fn compromise(
        &self,
        number: u64,
        compromised: &SigningKey,
        head: usize,
        instead: &[SigningKey],
    ) -> RecoveryRecord {
        let statement = Statement {
            number,
            origin: Origin::parse(&self.origin).unwrap(),
            time_ms: self.time_ms,
            says: Says::Compromise(Compromise {
                key: public(compromised),
                last_good: self.heads[head].0.clone(),
                head_keys: instead.iter().map(public).collect(),
            }),
        }
        .encode();
        let signature = key(200).sign(&statement_preimage(&statement)).to_bytes().to_vec();
        RecoveryRecord { statement, signature }
    }

    /// The trust bundle with another statement of the recovery key.
    pub(crate) fn bundle_with(&self, record: &RecoveryRecord) -> TrustBundle {
        let b64 = |bytes: &[u8]| data_encoding::BASE64URL_NOPAD.encode(bytes);
        let mut document: BundleDocument = serde_json::from_slice(&self.bundle).unwrap();
        document
            .statements
            .push(StatementDocument { statement: b64(&record.statement), signature: b64(&record.signature) });
        TrustBundle::verify(&serde_json::to_vec(&document).unwrap()).unwrap()
    }

    pub(crate) fn key_event(&mut self, key: &SigningKey, event: KeyEvent) {
        self.key_leaf(key, event, None);
        self.pending_rotation |= event == KeyEvent::Activated;
    }

    fn key_leaf(&mut self, key: &SigningKey, event: KeyEvent, introduction: Option<Introduction>) {
        let record = KeyRecord { event, purpose: KeyPurpose::Head, key: public(key), introduction, by: None };
        self.append(Kind::Key, record.encode());
    }

    /// Introduces and activates `new`; the next head is signed by both, later ones by `new` alone.
    pub(crate) fn rotate(&mut self, new: &SigningKey) {
        self.introduce(new);
        self.key_event(new, KeyEvent::Activated);
        self.once = std::mem::replace(&mut self.signers, vec![new.clone()]);
    }

    pub(crate) fn revoke(&mut self, subject: Subject) {
        let body = Revocation { subject, revoke: true, reason: "test".to_owned(), by: sha256(b"operator") };
        self.append(Kind::Revocation, body.encode());
    }

    /// The head over everything appended, as it would be signed.
    pub(crate) fn body(&self) -> HeadBody {
        HeadBody {
            origin: self.origin.clone(),
            size: self.sha256.size(),
            sha256_root: self.sha256.root(),
            sha3_root: self.sha3.root(),
            blake2_root: self.blake2.root(),
            time_ms: self.time_ms,
            prev: self.prev,
            control_seq: self.state.number(),
            control_digest: *self.state.digest(),
        }
    }

    /// Signs a head over everything appended.
    pub(crate) fn sign(&mut self) -> String {
        let body = self.body();
        let signers: Vec<SigningKey> = self.once.drain(..).chain(self.signers.iter().cloned()).collect();
        let note = signed(&body, &signers.iter().collect::<Vec<_>>());
        self.prev = body.digest();
        if std::mem::take(&mut self.pending_rotation) {
            self.rotations.push((body.control_seq, note.clone()));
        }
        self.heads.push((body, note.clone()));
        note
    }

    pub(crate) fn size(&self) -> u64 {
        self.sha256.size()
    }

    pub(crate) fn newest(&self) -> &(HeadBody, String) {
        self.heads.last().unwrap()
    }

    pub(crate) fn leaf(&self, index: u64) -> &[u8] {
        &self.leaves[usize::try_from(index).unwrap()]
    }

    /// The receipt of a leaf under the newest head.
    pub(crate) fn receipt(&self, index: u64) -> String {
        self.receipt_under(index, self.heads.len() - 1)
    }

    pub(crate) fn receipt_under(&self, index: u64, head: usize) -> String {
        self.proof_under(index, head).encode()
    }

    pub(crate) fn proof_under(&self, index: u64, head: usize) -> TlogProof {
        let (body, note) = &self.heads[head];
        TlogProof {
            extra: self.leaf(index).to_vec(),
            index,
            proof: inclusion_proof::<Sha256Tree, _>(index, body.size, &self.nodes).unwrap(),
            checkpoint: note.clone(),
        }
    }

    pub(crate) fn consistency(&self, from: u64, to: u64) -> Vec<String> {
        let proof = consistency_proof::<Sha256Tree, _>(from, to, &self.nodes).unwrap();
        proof.iter().map(Sha256Digest::to_hex).collect()
    }

    /// `GET /v1/feed`, with at most `page` control leaves.
    pub(crate) fn feed_page(&self, size: u64, control: u64, page: usize) -> Feed {
        let (body, note) = self.newest();
        let covered = usize::try_from(body.control_seq).unwrap();
        let from = usize::try_from(control).unwrap().min(covered);
        let to = (from + page).min(covered);
        let in_page = |number: u64| number > control && number <= u64::try_from(to).unwrap();
        Feed {
            head: note.clone(),
            consistency: self.consistency(size.min(body.size), body.size),
            control: self.control[from..to].iter().map(|leaf| B64(leaf.clone())).collect(),
            rotations: self
                .rotations
                .iter()
                .filter(|(at, _)| in_page(*at))
                .map(|(_, note)| note.clone())
                .collect(),
            more: to < covered,
        }
    }

    pub(crate) fn feed(&self, size: u64, control: u64) -> Feed {
        self.feed_page(size, control, usize::MAX / 2)
    }
}

/// A head body signed by these keys.
pub(crate) fn signed(body: &HeadBody, signers: &[&SigningKey]) -> String {
    let text = body.encode();
    let lines = signers.iter().map(|signer| {
        let key = NoteKey::new(&body.origin, public(signer)).unwrap();
        key.line(&signer.sign(text.as_bytes()).to_bytes())
    });
    SignedNote::new(&text, lines.collect()).unwrap().format()
}
