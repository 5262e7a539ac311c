//! A small whole log as a published vector: every kind of leaf, a rotation, an unsigned head, a child, and what is given out about them.
//!
//! Keys are Ed25519 from fixed seeds, so the bytes are the same each time. `Made` holds the parts that [`crate::refused`] changes.

use crate::samples::{basis, decision, digest, host, state};
use countersign_core::api::{B64, Feed, admin};
use countersign_core::artifact::{Receipt, verify_note_with};
use countersign_core::bundle::{
    BundleDocument, Initial, Says, Statement, StatementDocument, TrustBundle, statement_preimage,
};
use countersign_core::checkpoint::HeadBody;
use countersign_core::control::ControlState;
use countersign_core::digest::{Sha256Digest, sha256};
use countersign_core::key::{JsonKey, VerifyingKey};
use countersign_core::leaf::control::{
    Approval, EpochRecord, Introduction, KeyEvent, KeyPurpose, KeyRecord, PrincipalKind, PrincipalRecord,
    RecoveryRecord, Revocation, Role, Subject, key_introduction, key_possession,
};
use countersign_core::leaf::decision::{Decision, Delegation, LeafRef, Lineage, PolicyClaim, Verdict};
use countersign_core::leaf::device::{DeviceIdentity, HardwareName};
use countersign_core::leaf::host::{
    Admission, Endorsement, EndorsementKind, Enrolment, HostKeyKind, HostState,
};
use countersign_core::leaf::host_state::{Basis, HostStateRecord};
use countersign_core::leaf::record::{
    Faults, Heartbeat, HeartbeatReason, JoinToken, Outcome, join_token_digest,
};
use countersign_core::leaf::{Kind, Leaf, leaf_hash};
use countersign_core::merkle::{Blake2b512Tree, Sha3_512Tree, Sha256Tree, TreeHash, root_of_leaf_hashes};
use countersign_core::merkle::{verify_consistency, verify_inclusion};
use countersign_core::name::{Action, Audience, Origin, RequestId};
use countersign_core::note::{NoteKey, SignedNote};
use countersign_core::refusal::RefusalCode;
use countersign_core::request::{SignedRequest, argv_digest, delegation_preimage, holder_preimage};
use countersign_core::tlog_proof::TlogProof;
use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use ed25519_dalek::{Signer, SigningKey};
use serde_json::{Value, json};
use std::collections::BTreeMap;

pub(crate) const ORIGIN: &str = "test.example/log";
const START_MS: u64 = 1_700_000_000_000;
pub(crate) const OFFICER: u8 = 20;
pub(crate) const GATEWAY: u8 = 21;
const RECOVERY: u8 = 22;
pub(crate) const HEADS: [u8; 2] = [23, 24];
/// Keys for attestation results.
const JWTS: [u8; 2] = [61, 62];
const HOST_KEY: u8 = 25;
pub(crate) const HOLDER: u8 = 7;

pub(crate) fn secret(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

pub(crate) fn public(seed: u8) -> VerifyingKey {
    VerifyingKey::ed25519(secret(seed).verifying_key().as_bytes()).unwrap()
}

/// A request of the holder with what is signed over it.
pub(crate) struct Asked {
    pub(crate) bytes: Vec<u8>,
    pub(crate) signature: Vec<u8>,
    pub(crate) consents: Vec<Vec<u8>>,
}

/// A log and what was given out about it.
pub(crate) struct Made {
    pub(crate) bundle: String,
    pub(crate) control: ControlState,
    pub(crate) leaves: Vec<Vec<u8>>,
    pub(crate) heads: Vec<String>,
    pub(crate) receipts: Vec<(&'static str, String, Option<Asked>)>,
    rotations: Vec<String>,
    recovery: RecoveryRecord,
    prev: Sha256Digest,
    pub(crate) time_ms: u64,
}

impl Made {
    pub(crate) fn empty() -> Self {
        let statement = Statement {
            number: 1,
            origin: Origin::parse(ORIGIN).unwrap(),
            time_ms: START_MS,
            says: Says::Initial(Initial {
                head_keys: vec![public(HEADS[0])],
                ca_certificates: vec![vec![0x30, 0]],
                officers: vec![public(OFFICER).thumbprint()],
                lease_secs: 30,
            }),
        };
        let statement = statement.encode();
        let signature = secret(RECOVERY).sign(&statement_preimage(&statement)).to_bytes().to_vec();
        let document = BundleDocument {
            v: 1,
            origin: ORIGIN.to_owned(),
            trust_domain: "test.example".to_owned(),
            recovery_key: JsonKey::from(public(RECOVERY)),
            statements: vec![StatementDocument {
                statement: BASE64URL_NOPAD.encode(&statement),
                signature: BASE64URL_NOPAD.encode(&signature),
            }],
        };
        let bundle = serde_json::to_string(&document).unwrap();
        let trusted = TrustBundle::verify(bundle.as_bytes()).unwrap();
        Self {
            control: ControlState::of_bundle(&trusted),
            bundle,
            leaves: Vec::new(),
            heads: Vec::new(),
            receipts: Vec::new(),
            rotations: Vec::new(),
            recovery: RecoveryRecord { statement, signature },
            prev: Sha256Digest::ZERO,
            time_ms: START_MS,
        }
    }

    fn hashes<H: TreeHash>(&self) -> Vec<H::Digest> {
        self.leaves.iter().map(|leaf| H::leaf_hash(leaf)).collect()
    }

    /// Appends a batch and its head, signed by the keys of these seeds, or by none.
    pub(crate) fn append(&mut self, entries: Vec<(Kind, Vec<u8>)>, signers: &[u8]) -> Vec<LeafRef> {
        self.time_ms += 1_000;
        let mut names = Vec::new();
        for (kind, body) in entries {
            let index = u64::try_from(self.leaves.len()).unwrap();
            let salt = [u8::try_from(index).unwrap(); 16];
            let leaf = Leaf { kind, index, time_ms: self.time_ms, salt, body }.encode().unwrap();
            if kind.is_control() {
                self.control.apply(&leaf).unwrap();
            }
            names.push((index, leaf_hash(&leaf)));
            self.leaves.push(leaf);
        }
        let body = HeadBody {
            origin: ORIGIN.to_owned(),
            size: u64::try_from(self.leaves.len()).unwrap(),
            sha256_root: root_of_leaf_hashes::<Sha256Tree>(&self.hashes::<Sha256Tree>()),
            sha3_root: root_of_leaf_hashes::<Sha3_512Tree>(&self.hashes::<Sha3_512Tree>()),
            blake2_root: root_of_leaf_hashes::<Blake2b512Tree>(&self.hashes::<Blake2b512Tree>()),
            time_ms: self.time_ms,
            prev: self.prev,
            control_seq: self.control.number(),
            control_digest: *self.control.digest(),
        };
        self.prev = body.digest();
        self.heads.push(note(&body.encode(), signers));
        names
    }

    /// The receipt of a leaf under the newest head.
    fn receipt(&mut self, what: &'static str, index: u64, asked: Option<Asked>) {
        let hashes = self.hashes::<Sha256Tree>();
        let proof = TlogProof {
            extra: self.leaves[usize::try_from(index).unwrap()].clone(),
            index,
            proof: path::<Sha256Tree>(usize::try_from(index).unwrap(), &hashes),
            checkpoint: self.heads.last().unwrap().clone(),
        };
        let text = proof.encode();
        Receipt::parse(&text).unwrap().verify_signature(&self.control).unwrap();
        self.receipts.push((what, text, asked));
    }

    fn feed(&self) -> Feed {
        let is_control = |leaf: &&Vec<u8>| Leaf::parse(leaf).unwrap().kind.is_control();
        Feed {
            head: self.heads.last().unwrap().clone(),
            consistency: Vec::new(),
            control: self.leaves.iter().filter(is_control).cloned().map(B64).collect(),
            rotations: self.rotations.clone(),
            more: false,
        }
    }

    /// Pages of three leaves and all heads, as they would be exported.
    fn export(&self) -> Vec<String> {
        self.pages(0, 0)
    }

    /// The same without so many leaves and heads at the beginning.
    pub(crate) fn pages(&self, leaves: usize, heads: usize) -> Vec<String> {
        let pages = self.leaves[leaves..].chunks(3).enumerate().map(|(page, some)| {
            let from = u64::try_from(leaves + 3 * page).unwrap();
            serde_json::to_string(&admin::Leaves { from, leaves: some.iter().cloned().map(B64).collect() })
        });
        let heads = serde_json::to_string(&admin::Heads { heads: self.heads[heads..].to_vec() });
        pages.chain([heads]).map(Result::unwrap).collect()
    }
}

/// A body as it is given out: signed, or bare when nobody signed it.
pub(crate) fn note(text: &str, signers: &[u8]) -> String {
    let line = |seed: &u8| {
        let signature = secret(*seed).sign(text.as_bytes()).to_bytes();
        NoteKey::new(ORIGIN, public(*seed)).unwrap().line(&signature)
    };
    let lines: Vec<_> = signers.iter().map(line).collect();
    if lines.is_empty() { text.to_owned() } else { SignedNote::new(text, lines).unwrap().format() }
}

fn split(size: usize) -> usize {
    size.next_power_of_two() / 2
}

/// RFC 9162 §2.1.3.1, as it is written there.
pub(crate) fn path<H: TreeHash>(index: usize, hashes: &[H::Digest]) -> Vec<H::Digest> {
    if hashes.len() == 1 {
        return Vec::new();
    }
    let (left, right) = hashes.split_at(split(hashes.len()));
    let (mut found, other) = if index < left.len() {
        (path::<H>(index, left), root_of_leaf_hashes::<H>(right))
    } else {
        (path::<H>(index - left.len(), right), root_of_leaf_hashes::<H>(left))
    };
    found.push(other);
    found
}

/// RFC 9162 §2.1.4.1, as it is written there.
fn subproof<H: TreeHash>(old: usize, hashes: &[H::Digest], whole: bool) -> Vec<H::Digest> {
    if old == hashes.len() {
        return if whole { Vec::new() } else { vec![root_of_leaf_hashes::<H>(hashes)] };
    }
    let (left, right) = hashes.split_at(split(hashes.len()));
    let (mut found, other) = if old <= left.len() {
        (subproof::<H>(old, left, whole), root_of_leaf_hashes::<H>(right))
    } else {
        (subproof::<H>(old - left.len(), right, false), root_of_leaf_hashes::<H>(left))
    };
    found.push(other);
    found
}

fn key_leaf(seed: u8, event: KeyEvent, by: Option<Sha256Digest>) -> (Kind, Vec<u8>) {
    key_leaf_for(KeyPurpose::Head, seed, event, by)
}

fn key_leaf_for(purpose: KeyPurpose, seed: u8, event: KeyEvent, by: Option<Sha256Digest>) -> (Kind, Vec<u8>) {
    let introduction = (event == KeyEvent::Introduced).then(|| Introduction {
        possession: secret(seed).sign(&key_possession(ORIGIN, purpose, &public(seed))).to_bytes().to_vec(),
        backend: "test".to_owned(),
        custody: digest(1),
        // The recovery statement names the first key.
        approval: (seed != HEADS[0]).then(|| {
            let act = key_introduction(ORIGIN, purpose, &public(seed), "test", &digest(1));
            Approval { key: public(OFFICER), signature: secret(OFFICER).sign(&act).to_bytes().to_vec() }
        }),
    });
    let record = KeyRecord { event, purpose, key: public(seed), introduction, by };
    (Kind::Key, record.encode())
}

pub(crate) fn principal(
    seed: u8,
    kind: PrincipalKind,
    name: &str,
    by: Option<Sha256Digest>,
) -> (Kind, Vec<u8>) {
    let thumbprint = public(seed).thumbprint();
    // The recovery statement names the officer; nobody has to approve it.
    let name = name.to_owned();
    (Kind::Principal, PrincipalRecord { added: true, kind, thumbprint, name, by, approval: None }.encode())
}

fn host_state(version: u64) -> HostState {
    HostState { version, evidence: Some(digest(9)), ..state() }
}

/// A request of the holder: `extra` is put before the closing brace.
pub(crate) fn asked(id: &str, extra: &str) -> Asked {
    let host = host();
    let key = BASE64URL_NOPAD.encode(public(HOLDER).raw());
    let (workload, args) = (digest(4), argv_digest(&["prog", "one", ""]));
    let bytes = format!(
        r#"{{"v":1,"id":"{id}","host":"{host}","runtime":"spiffe://test.example/host/{host}/job/one","holder":{{"alg":"EdDSA","pub":"{key}"}},"workload":"{workload}","action":"exec","args":"{args}","aud":"gate-1","ttl_secs":60{extra}}}"#
    )
    .into_bytes();
    let signature = secret(HOLDER).sign(&holder_preimage(&bytes)).to_bytes().to_vec();
    let consents = vec![secret(HOLDER).sign(&delegation_preimage(&bytes)).to_bytes().to_vec()];
    Asked { bytes, signature, consents: if extra.contains("parents") { consents } else { Vec::new() } }
}

pub(crate) fn decided(made: &Made, asked: &Asked, id: &str, verdict: Verdict) -> Decision {
    let mut found = decision(verdict);
    SignedRequest::verify(asked.bytes.clone(), asked.signature.clone(), asked.consents.clone()).unwrap();
    found.request_id = RequestId::parse(id).unwrap();
    found.request = sha256(&asked.bytes);
    found.arguments = argv_digest(&["prog", "one", ""]);
    found.issued_at = made.time_ms / 1_000;
    found.lineage = Lineage { parents: Vec::new(), root: None, depth: 0 };
    found.delegation = None;
    found.policy = Some(PolicyClaim { digest: digest(8), epoch: 2, determining: vec!["p0".into()] });
    found.host_state = host_state(1);
    found.control = made.control.number();
    found
}

pub(crate) fn allow(made: &Made) -> Verdict {
    Verdict::Allow { nbf: made.time_ms / 1_000, exp: made.time_ms / 1_000 + 60 }
}

/// The log, from nothing.
pub(crate) fn made() -> Made {
    let mut log = Made::empty();
    let by = public(OFFICER).thumbprint();
    let [first, second] = HEADS;
    initialise(&mut log, first);
    let token = join_token_digest("a token");
    log.append(
        vec![(Kind::JoinToken, JoinToken { token, expires_ms: START_MS + 600_000, by }.encode())],
        &[first],
    );
    let enrolment = Enrolment {
        host: host(),
        ek_public: digest(1),
        ek_certificate: Some(digest(12)),
        ak_public: digest(2),
        ak_name: [&[0x00, 0x0b][..], digest(2).as_bytes()].concat(),
        host_key: public(HOST_KEY),
        host_key_kind: HostKeyKind::Certified,
        admission: Admission::JoinToken,
        token: Some(token),
        activation: digest(3),
        version: 1,
        endorsement: Endorsement {
            kind: EndorsementKind::EkCertificate,
            weak_key: false,
            tpm: None,
            device: Some(DeviceIdentity {
                certificate: digest(13),
                key: digest(14),
                serial: Some("SN-0001".to_owned()),
                hardware: Some(HardwareName { kind: "2.23.133.1.2".to_owned(), serial: b"STM:7".to_vec() }),
            }),
        },
    };
    let enrolled = log.append(vec![(Kind::Enrolment, enrolment.encode())], &[first]);
    log.receipt("an enrolment", enrolled[0].0, None);
    let in_force = Basis {
        policy: None,
        references: None,
        time_ms: log.time_ms,
        control: log.control.number(),
        ..basis()
    };
    let seen = HostStateRecord {
        host: host(),
        state: host_state(1),
        evidence: digest(9),
        code: None,
        basis: Some(in_force),
    };
    log.append(vec![(Kind::HostState, seen.encode())], &[first]);
    let epoch = |document, epoch| EpochRecord { document, epoch, by }.encode();
    // This head was never signed: the signer was away. The next one covers its leaves.
    log.append(vec![(Kind::Policy, epoch(digest(8), 1)), (Kind::References, epoch(digest(5), 2))], &[]);
    log.append(vec![principal(GATEWAY, PrincipalKind::Gateway, "gate-1", Some(by))], &[first]);
    decide(&mut log, first, second);
    log
}

pub(crate) fn initialise(log: &mut Made, first: u8) {
    let entries = vec![
        (Kind::Recovery, log.recovery.encode()),
        key_leaf(first, KeyEvent::Introduced, None),
        key_leaf(first, KeyEvent::Activated, None),
        principal(OFFICER, PrincipalKind::Operator(Role::SecurityOfficer), "admin", None),
        (Kind::Heartbeat, Heartbeat(HeartbeatReason::Start).encode()),
    ];
    log.append(entries, &[first]);
    log.rotations.push(log.heads.last().unwrap().clone());
}

fn decide(log: &mut Made, first: u8, second: u8) {
    let by = public(OFFICER).thumbprint();
    let grant = r#","delegation":{"actions":["exec"],"audiences":["gate-1"],"depth":1,"budget":2}"#;
    let (parent, denied) = (asked("r-1", grant), asked("r-2", ""));
    let mut granted = decided(log, &parent, "r-1", allow(log));
    granted.delegation = Some(Delegation {
        actions: vec![Action::parse("exec").unwrap()],
        audiences: vec![Audience::parse("gate-1").unwrap()],
        depth: 1,
        budget: 2,
    });
    let refused = decided(log, &denied, "r-2", Verdict::Deny(RefusalCode::PolicyDenied));
    let names = log.append(vec![(Kind::Allow, granted.encode()), (Kind::Deny, refused.encode())], &[first]);
    log.receipt("an artifact that may have children", names[0].0, Some(parent));
    log.receipt("a denial", names[1].0, Some(denied));
    let gateway = public(GATEWAY).thumbprint();
    let outcome = Outcome { gateway, artifact: names[0], refused: None, time_ms: log.time_ms };
    let counts = BTreeMap::from([(RefusalCode::ChallengeInvalid, 3)]);
    let faults = Faults { counts, since_ms: START_MS };
    log.append(vec![(Kind::Outcome, outcome.encode()), (Kind::Faults, faults.encode())], &[first]);
    // A rotation: the first head after the activation is signed by both.
    log.append(vec![key_leaf(second, KeyEvent::Introduced, Some(by))], &[first]);
    log.append(vec![key_leaf(second, KeyEvent::Activated, Some(by))], &[first, second]);
    log.rotations.push(log.heads.last().unwrap().clone());
    log.append(vec![key_leaf(first, KeyEvent::Deactivated, None)], &[second]);
    let family = format!(r#","parents":[{{"index":{},"leaf":"{}"}}]"#, names[0].0, names[0].1);
    let child = asked("r-3", &family);
    let verdict = Verdict::Allow { nbf: log.time_ms / 1_000, exp: log.time_ms / 1_000 + 50 };
    let mut narrowed = decided(log, &child, "r-3", verdict);
    narrowed.lineage = Lineage { parents: vec![names[0]], root: Some(names[0]), depth: 1 };
    let born = log.append(vec![(Kind::Allow, narrowed.encode())], &[second]);
    log.receipt("a child, after the rotation", born[0].0, Some(child));
    let subject = Subject::Artifact(names[0].0, names[0].1);
    let revocation = Revocation { subject, revoke: true, reason: "a test".to_owned(), by };
    log.append(vec![(Kind::Revocation, revocation.encode())], &[second]);
    // A key for attestation results, and its successor.
    let jwt = |seed, event, by| key_leaf_for(KeyPurpose::Jwt, seed, event, by);
    let [old, new] = JWTS;
    let steps = vec![
        jwt(old, KeyEvent::Introduced, Some(by)),
        jwt(old, KeyEvent::Activated, Some(by)),
        jwt(new, KeyEvent::Introduced, Some(by)),
        jwt(new, KeyEvent::Activated, Some(by)),
        jwt(old, KeyEvent::Deactivated, None),
    ];
    log.append(steps, &[second]);
    log.append(vec![(Kind::Heartbeat, Heartbeat(HeartbeatReason::Idle).encode())], &[second]);
}

/// Proofs in one tree, each verified here.
fn proofs<H: TreeHash>(log: &Made, tree: &str) -> (Vec<Value>, Vec<Value>) {
    let hashes = log.hashes::<H>();
    let hex = |proof: &[H::Digest]| -> Vec<String> {
        proof.iter().map(|hash| HEXLOWER.encode(hash.as_ref())).collect()
    };
    let size = |n: usize| u64::try_from(n).unwrap();
    let root = |n: usize| root_of_leaf_hashes::<H>(&hashes[..n]);
    let (mut inclusion, mut consistency) = (Vec::new(), Vec::new());
    for at in 0..hashes.len() {
        let proof = path::<H>(at, &hashes);
        verify_inclusion::<H>(&hashes[at], size(at), size(hashes.len()), &proof, &root(hashes.len()))
            .unwrap();
        inclusion.push(json!({ "tree": tree, "index": at, "size": hashes.len(), "proof": hex(&proof) }));
    }
    for old in 1..=hashes.len() {
        let proof = subproof::<H>(old, &hashes, true);
        verify_consistency::<H>(size(old), &root(old), size(hashes.len()), &root(hashes.len()), &proof)
            .unwrap();
        consistency.push(json!({ "tree": tree, "from": old, "to": hashes.len(), "proof": hex(&proof) }));
    }
    (inclusion, consistency)
}

#[test]
fn a_whole_log() {
    let log = made();
    let trusted = TrustBundle::verify(log.bundle.as_bytes()).unwrap();
    let newest = SignedNote::parse(log.heads.last().unwrap()).unwrap();
    assert!(
        verify_note_with(&newest, ORIGIN, trusted.head_keys()).is_err(),
        "the bundle's key was rotated away"
    );
    let receipts = log.receipts.iter().map(|(what, text, asked)| {
        let asked = asked.as_ref().map(|asked| {
            let consents: Vec<String> =
                asked.consents.iter().map(|consent| HEXLOWER.encode(consent)).collect();
            json!({
                "request": String::from_utf8(asked.bytes.clone()).unwrap(),
                "signature": HEXLOWER.encode(&asked.signature),
                "consents": consents,
            })
        });
        json!({ "what": what, "receipt": text, "asked": asked })
    });
    let receipts: Vec<Value> = receipts.collect();
    let trees = [
        proofs::<Sha256Tree>(&log, "sha-256"),
        proofs::<Sha3_512Tree>(&log, "sha3-512"),
        proofs::<Blake2b512Tree>(&log, "blake2b-512"),
    ];
    let (inclusion, consistency): (Vec<_>, Vec<_>) = trees.into_iter().unzip();
    crate::vectors::published(
        "log.json",
        json!({
            "trust_bundle": log.bundle,
            "export": log.export(),
            "feed": serde_json::to_value(log.feed()).unwrap(),
            "receipts": receipts,
            "inclusion": inclusion.concat(),
            "consistency": consistency.concat(),
        }),
    );
}
