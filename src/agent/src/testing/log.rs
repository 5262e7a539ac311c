//! A log in memory with real leaves, heads, receipts and control chain.

use countersign_core::api::{B64, Feed};
use countersign_core::checkpoint::HeadBody;
use countersign_core::control::control_digest;
use countersign_core::digest::{Blake2b512Digest, Sha3_512Digest, Sha256Digest};
use countersign_core::leaf::control::{
    Approval, Introduction, KeyEvent, KeyPurpose, KeyRecord, PrincipalKind, PrincipalRecord, Role,
    key_introduction, key_possession,
};
use countersign_core::leaf::{Kind, Leaf, leaf_hash};
use countersign_core::merkle::{NodeSource, Sha256Tree, inclusion_proof, root_of_leaf_hashes};
use countersign_core::note::{NoteKey, SignedNote};
use countersign_core::tlog_proof::TlogProof;
use ed25519_dalek::{Signer as _, SigningKey};

use super::{ORIGIN, signing_key, verifying};

/// A log in memory.
pub(crate) struct MiniLog {
    leaves: Vec<Vec<u8>>,
    control: Vec<(usize, Sha256Digest)>,
    /// Those who sign the next heads.
    pub(crate) signers: Vec<SigningKey>,
    /// For each activation but the first: the head signed right after it.
    pub(crate) rotations: Vec<(usize, String)>,
    officer: SigningKey,
}

struct Hashes(Vec<Sha256Digest>);

impl NodeSource<Sha256Tree> for Hashes {
    type Error = std::convert::Infallible;
    fn node(&self, level: u8, index: u64) -> Result<Sha256Digest, Self::Error> {
        let size = 1_usize << level;
        let first = usize::try_from(index).unwrap() * size;
        Ok(root_of_leaf_hashes::<Sha256Tree>(&self.0[first..first + size]))
    }
}

impl MiniLog {
    /// A log under a bundle that names this head key and this officer.
    pub(crate) fn new(head: SigningKey, officer: SigningKey) -> Self {
        let mut log = Self {
            leaves: Vec::new(),
            control: Vec::new(),
            signers: vec![head.clone()],
            rotations: Vec::new(),
            officer,
        };
        log.introduce(&head);
        log.key(KeyEvent::Activated, &head);
        let officer = PrincipalRecord {
            added: true,
            kind: PrincipalKind::Operator(Role::SecurityOfficer),
            thumbprint: verifying(&log.officer).thumbprint(),
            name: "officer".to_owned(),
            by: None,
            approval: None,
        };
        log.control(Kind::Principal, officer.encode());
        log
    }

    pub(crate) fn introduce(&mut self, key: &SigningKey) {
        let public = verifying(key);
        let possession = key.sign(&key_possession(ORIGIN, KeyPurpose::Head, &public)).to_bytes().to_vec();
        let (backend, custody) = ("test".to_owned(), Sha256Digest::ZERO);
        let act = key_introduction(ORIGIN, KeyPurpose::Head, &public, &backend, &custody);
        let signature = self.officer.sign(&act).to_bytes().to_vec();
        let approval = Some(Approval { key: verifying(&self.officer), signature });
        let introduction = Some(Introduction { possession, backend, custody, approval });
        self.control(
            Kind::Key,
            KeyRecord {
                event: KeyEvent::Introduced,
                purpose: KeyPurpose::Head,
                key: public,
                introduction,
                by: None,
            }
            .encode(),
        );
    }

    pub(crate) fn key(&mut self, event: KeyEvent, key: &SigningKey) {
        let record =
            KeyRecord { event, purpose: KeyPurpose::Head, key: verifying(key), introduction: None, by: None };
        self.control(Kind::Key, record.encode());
    }

    /// From `old` to a new key; `vouched` says whether the old key signs the first head after it.
    pub(crate) fn rotate(&mut self, vouched: bool) {
        let (old, new) = (self.signers[0].clone(), signing_key());
        self.introduce(&new);
        self.key(KeyEvent::Activated, &new);
        self.signers = if vouched { vec![old.clone(), new.clone()] } else { vec![new.clone()] };
        self.rotations.push((self.control.len(), self.head()));
        self.key(KeyEvent::Deactivated, &old);
        self.signers = vec![new];
    }

    fn control(&mut self, kind: Kind, body: Vec<u8>) {
        let at = self.append(kind, body);
        let (number, before) = (self.control.len(), self.control.last());
        let before = before.map_or(Sha256Digest::ZERO, |(_, digest)| *digest);
        let hash = leaf_hash(&self.leaves[at]);
        self.control.push((at, control_digest(&before, number as u64 + 1, &hash)));
    }

    fn append(&mut self, kind: Kind, body: Vec<u8>) -> usize {
        let index = self.leaves.len();
        let leaf = Leaf { kind, index: index as u64, time_ms: 1_000, salt: [7; 16], body };
        self.leaves.push(leaf.encode().unwrap());
        index
    }

    fn hashes(&self) -> Hashes {
        Hashes(self.leaves.iter().map(|leaf| leaf_hash(leaf)).collect())
    }

    pub(crate) fn head(&self) -> String {
        let hashes = self.hashes();
        let body = HeadBody {
            origin: ORIGIN.to_owned(),
            size: hashes.0.len() as u64,
            sha256_root: root_of_leaf_hashes::<Sha256Tree>(&hashes.0),
            sha3_root: Sha3_512Digest::ZERO,
            blake2_root: Blake2b512Digest::ZERO,
            time_ms: 1_000,
            prev: Sha256Digest::ZERO,
            control_seq: self.control.len() as u64,
            control_digest: self.control.last().unwrap().1,
        };
        let text = body.encode();
        let lines = self.signers.iter().map(|key| {
            let signature = key.sign(text.as_bytes()).to_bytes();
            NoteKey::new(ORIGIN, verifying(key)).unwrap().line(&signature)
        });
        SignedNote::new(&text, lines.collect()).unwrap().format()
    }

    pub(crate) fn record(&mut self, kind: Kind, body: Vec<u8>) -> String {
        let index = self.append(kind, body);
        let hashes = self.hashes();
        let proof = TlogProof {
            extra: self.leaves[index].clone(),
            index: index as u64,
            proof: inclusion_proof::<Sha256Tree, _>(index as u64, hashes.0.len() as u64, &hashes).unwrap(),
            checkpoint: self.head(),
        };
        proof.encode()
    }

    pub(crate) fn feed(&self, control: u64) -> Feed {
        let after = usize::try_from(control).unwrap().min(self.control.len());
        let rotations = self.rotations.iter().filter(|(number, _)| *number > after);
        Feed {
            head: self.head(),
            consistency: Vec::new(),
            control: self.control[after..].iter().map(|(at, _)| B64(self.leaves[*at].clone())).collect(),
            rotations: rotations.map(|(_, head)| head.clone()).collect(),
            more: false,
        }
    }
}
