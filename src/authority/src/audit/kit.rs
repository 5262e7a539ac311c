//! For tests: a log in memory, and an authority that is honest unless told to lie.

use super::{FindingKind, HeadExport, LogSource, MismatchKind, Unreadable, replay, verify};
use crate::decide::{Family, Inputs, Outcome, Situation, decide, decide_attestation};
use crate::policy::CompiledPolicy;
use crate::store::Pruning;
use crate::store::project::{decision_tells_of_host, enrolled_state, merge_state, tells_of_host};
use crate::verify::VerifiedCall;
use crate::verify::kit::{Host, NOW_MS, PERMIT, delegation, document, ed25519, parent};
use countersign_core::activation::{ActivationRecord, DeviceShown, Session};
use countersign_core::bundle::{
    BundleDocument, Initial, Says, Statement, StatementDocument, TrustBundle, statement_preimage,
};
use countersign_core::checkpoint::HeadBody;
use countersign_core::control::ControlState;
use countersign_core::digest::{Sha256Digest, sha256};
use countersign_core::document::{PolicyDocument, Settings};
use countersign_core::key::{JsonKey, VerifyingKey};
use countersign_core::leaf::control::{
    Approval, EpochRecord, Introduction, KeyEvent, KeyPurpose, KeyRecord, PrincipalKind, PrincipalRecord,
    RecoveryRecord, Revocation, Role, Subject, key_introduction, key_possession,
};
use countersign_core::leaf::decision::{Decision, LeafRef, Verdict};
use countersign_core::leaf::host::{Admission, HostState};
use countersign_core::leaf::host_state::HostStateRecord;
use countersign_core::leaf::record::JoinToken;
use countersign_core::leaf::{Kind, Leaf, leaf_hash};
use countersign_core::merkle::{Blake2b512Tree, Frontier, Sha3_512Tree, Sha256Tree, TreeHash};
use countersign_core::name::Origin;
use countersign_core::note::{NoteKey, SignedNote};
use countersign_core::refusal::RefusalCode;
use countersign_core::request::{
    RequestDocument, activation_data, device_certification_data, device_possession,
};
use countersign_tpm::public::Public;
use countersign_tpm::simulated::device_key::SimulatedDeviceKey;
use std::collections::HashMap;
use std::sync::OnceLock;

pub(super) const HEAD: u8 = 40;
pub(super) const RECOVERY: u8 = 41;
pub(super) const NEXT_HEAD: u8 = 42;
pub(super) const OFFICER: u8 = 43;

/// How an authority may lie when it decides.
#[derive(Default)]
pub(super) struct Lie {
    pub(super) control: Option<ControlState>,
    pub(super) spent: Option<bool>,
    pub(super) reused: Option<bool>,
    pub(super) prior: Option<HostState>,
    pub(super) time_ms: Option<u64>,
    pub(super) budget: Option<u64>,
    pub(super) enrolment: Option<LeafRef>,
    /// What the record says the parents' holders signed.
    pub(super) consents: Option<Vec<Vec<u8>>>,
}

/// A log in memory, and an authority that is honest unless told to lie.
pub(super) struct Log {
    pub(super) host: Host,
    pub(super) bundle: TrustBundle,
    pub(super) control: ControlState,
    pub(super) policy: Option<CompiledPolicy>,
    pub(super) shown: HostState,
    pub(super) time_ms: u64,
    pub(super) leaves: Vec<Vec<u8>>,
    pub(super) heads: Vec<HeadExport>,
    pub(super) blobs: HashMap<Sha256Digest, Vec<u8>>,
    /// What the source says was pruned.
    pub(super) pruned: Vec<Sha256Digest>,
    /// By which pruning: one that reaches every leaf, unless a test says otherwise.
    pub(super) pruning: Pruning,
    pub(super) budgets: HashMap<u64, u64>,
    pub(super) sha256: Frontier<Sha256Tree>,
    pub(super) sha3: Frontier<Sha3_512Tree>,
    pub(super) blake2: Frontier<Blake2b512Tree>,
    pub(super) signers: Vec<u8>,
    /// Activation records that enrolments named.
    pub(super) enrolled: Vec<Sha256Digest>,
}

impl LogSource for Log {
    fn leaves(&self, from: u64, count: u64) -> Result<Vec<Vec<u8>>, Unreadable> {
        let (from, count) = (usize::try_from(from).unwrap(), usize::try_from(count.min(3)).unwrap());
        Ok(self.leaves.iter().skip(from).take(count).cloned().collect())
    }

    fn heads(&self, from: u64, count: u64) -> Result<Vec<HeadExport>, Unreadable> {
        let size = |head: &HeadExport| HeadBody::parse(&head.text).map_or(from, |body| body.size);
        let count = usize::try_from(count.min(2)).unwrap();
        Ok(self.heads.iter().skip_while(|head| size(head) < from).take(count).cloned().collect())
    }

    fn blob(&self, digest: &Sha256Digest) -> Result<Option<Vec<u8>>, Unreadable> {
        Ok(self.blobs.get(digest).cloned())
    }

    fn pruned(&self, digest: &Sha256Digest) -> Result<Option<Pruning>, Unreadable> {
        Ok(self.pruned.contains(digest).then_some(self.pruning))
    }
}

pub(super) fn bundle(host: &Host) -> (TrustBundle, RecoveryRecord) {
    bundle_of(&host.origin, ed25519(HEAD).1)
}

/// A bundle under the recovery key of these tests.
pub(super) fn bundle_of(origin: &Origin, head_key: VerifyingKey) -> (TrustBundle, RecoveryRecord) {
    let statement = Statement {
        number: 1,
        origin: origin.clone(),
        time_ms: NOW_MS,
        says: Says::Initial(Initial {
            head_keys: vec![head_key],
            ca_certificates: vec![vec![1]],
            officers: vec![ed25519(OFFICER).1.thumbprint()],
            lease_secs: 30,
        }),
    }
    .encode();
    let signature = ed25519(RECOVERY).0.sign(&statement_preimage(&statement)).as_ref().to_vec();
    let record = RecoveryRecord { statement, signature };
    (bundle_with(origin, "example.org", std::iter::once(&record)), record)
}

/// A bundle of these statements for a trust domain.
pub(super) fn bundle_with<'a>(
    origin: &Origin,
    trust_domain: &str,
    records: impl Iterator<Item = &'a RecoveryRecord>,
) -> TrustBundle {
    let text = |bytes: &[u8]| data_encoding::BASE64URL_NOPAD.encode(bytes);
    let signed = |record: &RecoveryRecord| StatementDocument {
        statement: text(&record.statement),
        signature: text(&record.signature),
    };
    let document = BundleDocument {
        v: 1,
        origin: origin.as_str().to_owned(),
        trust_domain: trust_domain.to_owned(),
        recovery_key: JsonKey::from(ed25519(RECOVERY).1),
        statements: records.map(signed).collect(),
    };
    TrustBundle::verify(&serde_json::to_vec(&document).unwrap()).unwrap()
}

/// The bundle of these tests with one more statement.
pub(super) fn extended(bundle: &TrustBundle, record: &RecoveryRecord) -> TrustBundle {
    let (_, first) = bundle_of(bundle.origin(), bundle.head_keys()[0].clone());
    bundle_with(bundle.origin(), "example.org", [&first, record].into_iter())
}

pub(super) fn key_leaf(origin: &str, seed: u8, event: KeyEvent) -> (Kind, Vec<u8>) {
    let (pair, key) = ed25519(seed);
    let introduction = (event == KeyEvent::Introduced).then(|| Introduction {
        possession: pair.sign(&key_possession(origin, KeyPurpose::Head, &key)).as_ref().to_vec(),
        backend: "test".to_owned(),
        custody: Sha256Digest::ZERO,
        // The recovery statement names the first key.
        approval: (seed != HEAD).then(|| {
            let (officer, public) = ed25519(OFFICER);
            let act = key_introduction(origin, KeyPurpose::Head, &key, "test", &Sha256Digest::ZERO);
            Approval { key: public, signature: officer.sign(&act).as_ref().to_vec() }
        }),
    });
    (Kind::Key, KeyRecord { event, purpose: KeyPurpose::Head, key, introduction, by: None }.encode())
}

/// The officer that the recovery statement names.
pub(super) fn officer_leaf() -> (Kind, Vec<u8>) {
    let record = PrincipalRecord {
        added: true,
        kind: PrincipalKind::Operator(Role::SecurityOfficer),
        thumbprint: ed25519(OFFICER).1.thumbprint(),
        name: "officer".to_owned(),
        by: None,
        approval: None,
    };
    (Kind::Principal, record.encode())
}

impl Log {
    pub(super) fn empty() -> Self {
        let host = Host::new(1);
        let (bundle, _) = bundle(&host);
        Self {
            control: ControlState::of_bundle(&bundle),
            bundle,
            host,
            policy: None,
            shown: HostState::unattested(1),
            time_ms: NOW_MS,
            leaves: Vec::new(),
            heads: Vec::new(),
            blobs: HashMap::new(),
            pruned: Vec::new(),
            pruning: Pruning { at_ms: u64::MAX, before_ms: u64::MAX, upto: u64::MAX, blobs: 1, bytes: 1 },
            budgets: HashMap::new(),
            sha256: Frontier::new(),
            sha3: Frontier::new(),
            blake2: Frontier::new(),
            signers: vec![HEAD],
            enrolled: Vec::new(),
        }
    }

    /// Initialised: keys, one policy, one enrolled host.
    pub(super) fn new() -> Self {
        let mut log = Self::empty();
        let origin = log.host.origin.as_str().to_owned();
        let (_, recovery) = bundle(&log.host);
        log.append(vec![
            (Kind::Recovery, recovery.encode()),
            key_leaf(&origin, HEAD, KeyEvent::Introduced),
            key_leaf(&origin, HEAD, KeyEvent::Activated),
        ]);
        log.host.settings = Settings::default();
        let ak = log.host.tpm.ak_public().bytes().to_vec();
        log.blobs.insert(sha256(&ak), ak);
        let boot_log = log.host.boot.log().to_vec();
        log.blobs.insert(sha256(&boot_log), boot_log);
        log.show_keys();
        log.enrol();
        log
    }

    pub(super) fn with_policy() -> Self {
        let mut log = Self::new();
        log.activate(&document(&[("base", PERMIT)]));
        log
    }

    /// Puts the records of an enrolment beside the log, and their digests into the enrolment.
    fn show_keys(&mut self) {
        let (certificate, activation) = shown(&self.host);
        let ek = self.host.tpm.ek_public().bytes().to_vec();
        let enrolment = &mut self.host.enrolment;
        enrolment.host_key = VerifyingKey::from_spki_der(&self.host.tpm.host_public().spki_der()).unwrap();
        enrolment.ek_certificate = Some(sha256(certificate));
        self.keep(&ek);
        self.keep(certificate);
        self.activated(activation);
    }

    /// Puts another activation record in the place of the enrolment's.
    pub(super) fn activated(&mut self, activation: &ActivationRecord) {
        let bytes = activation.encode();
        self.host.enrolment.activation = sha256(&bytes);
        self.keep(&bytes);
    }

    /// The record of another enrolment of the same keys.
    fn show_anew(&mut self) {
        let record = ActivationRecord::parse(&self.blobs[&self.host.enrolment.activation]).unwrap();
        let (origin, number) = (self.host.origin.as_str(), u8::try_from(self.enrolled.len()).unwrap());
        let session = Session { enrolment: [number; 16], secret: SESSION.secret };
        let device = record.device.map(|_| {
            let key = device_key(DEVICE);
            let nonce = device_certification_data(origin, &session.enrolment, &session.secret);
            let shown = self.host.tpm.certify(key.public(), nonce.as_bytes()).unwrap();
            let own = key.sign(&device_possession(origin, &session.enrolment, &session.secret)).unwrap();
            DeviceShown { attest: shown.attest, signature: shown.signature, possession: Some(own) }
        });
        let nonce = activation_data(origin, &session.enrolment, &session.secret);
        let shown = self.host.tpm.certify_host_key(nonce.as_bytes()).unwrap();
        let (attest, signature) = (shown.attest, shown.signature);
        self.activated(&ActivationRecord {
            attest,
            signature,
            device,
            session: Some(session),
            host_key: record.host_key,
        });
    }

    /// Enrols the host; by a token of its own, if that is how.
    pub(super) fn enrol(&mut self) {
        self.host.enrolment.token = None;
        if self.enrolled.contains(&self.host.enrolment.activation) {
            self.show_anew();
        }
        self.enrolled.push(self.host.enrolment.activation);
        if self.host.enrolment.admission == Admission::JoinToken {
            let token = sha256(&self.last().to_be_bytes());
            let made = JoinToken { token, expires_ms: self.time_ms + 60_000, by: Sha256Digest::ZERO };
            self.append(vec![(Kind::JoinToken, made.encode())]);
            self.host.enrolment.token = Some(token);
        }
        let refs = self.append(vec![(Kind::Enrolment, self.host.enrolment.encode())]);
        self.host.endorsed.enrolment = refs[0];
        self.shown = enrolled_state(Some(&self.shown), self.host.enrolment.version);
    }

    pub(super) fn activate(&mut self, document: &PolicyDocument) {
        let record = EpochRecord {
            document: document.digest(),
            epoch: self.control.epoch() + 1,
            by: Sha256Digest::ZERO,
        };
        self.append(vec![(Kind::Policy, record.encode())]);
        self.blobs.insert(document.digest(), document.encode());
        let policy = CompiledPolicy::load(document).unwrap();
        self.host.settings = policy.settings().clone();
        self.policy = Some(policy);
    }

    pub(super) fn revoke(&mut self, subject: Subject, revoke: bool) {
        let record = Revocation { subject, revoke, reason: String::new(), by: Sha256Digest::ZERO };
        self.append(vec![(Kind::Revocation, record.encode())]);
    }

    pub(super) fn append(&mut self, entries: Vec<(Kind, Vec<u8>)>) -> Vec<LeafRef> {
        self.time_ms += 10;
        let mut refs = Vec::new();
        for (kind, body) in entries {
            let index = u64::try_from(self.leaves.len()).unwrap();
            let leaf = Leaf { kind, index, time_ms: self.time_ms, salt: [3; 16], body }.encode().unwrap();
            if kind.is_control() {
                self.control.apply(&leaf).unwrap();
            }
            refs.push((index, leaf_hash(&leaf)));
            self.sha256.append(Sha256Tree::leaf_hash(&leaf), |_| {}).unwrap();
            self.sha3.append(Sha3_512Tree::leaf_hash(&leaf), |_| {}).unwrap();
            self.blake2.append(Blake2b512Tree::leaf_hash(&leaf), |_| {}).unwrap();
            self.leaves.push(leaf);
        }
        let body = HeadBody {
            origin: self.host.origin.as_str().to_owned(),
            size: u64::try_from(self.leaves.len()).unwrap(),
            sha256_root: self.sha256.root(),
            sha3_root: self.sha3.root(),
            blake2_root: self.blake2.root(),
            time_ms: self.time_ms,
            prev: self.heads.last().map_or(Sha256Digest::ZERO, |head| sha256(head.text.as_bytes())),
            control_seq: self.control.number(),
            control_digest: *self.control.digest(),
        };
        let head = self.sign(body.encode());
        self.host.head = sha256(head.text.as_bytes());
        self.heads.push(head);
        refs
    }

    pub(super) fn sign(&self, text: String) -> HeadExport {
        let lines = self.signers.iter().map(|seed| {
            let (pair, key) = ed25519(*seed);
            let signature: [u8; 64] = pair.sign(text.as_bytes()).as_ref().try_into().unwrap();
            NoteKey::new(self.host.origin.as_str(), key).unwrap().line(&signature)
        });
        let lines: Vec<_> = lines.collect();
        let note = (!lines.is_empty()).then(|| SignedNote::new(&text, lines).unwrap().format());
        HeadExport { text, note }
    }

    pub(super) fn keep(&mut self, bytes: &[u8]) {
        self.blobs.insert(sha256(bytes), bytes.to_vec());
    }

    pub(super) fn verified(&mut self, requests: &[RequestDocument]) -> VerifiedCall {
        let call = self.host.call(self.time_ms, requests);
        self.host.verify(call).unwrap()
    }

    /// Decides all requests of a call and appends the leaves in one batch.
    pub(super) fn decide(&mut self, call: &VerifiedCall, lie: &Lie) -> Vec<(LeafRef, Outcome)> {
        let mut endorsed = self.host.endorsed.clone();
        endorsed.prior = lie.prior.unwrap_or(self.shown);
        endorsed.enrolment = lie.enrolment.unwrap_or(endorsed.enrolment);
        let mut outcomes = Vec::new();
        for request in call.requests() {
            let family = Family::resolve(&request.request().parents, |index| {
                let left = lie.budget.or_else(|| self.budgets.get(&index).copied()).unwrap_or(0);
                let leaf = self.leaves.get(usize::try_from(index).unwrap());
                Ok::<_, std::convert::Infallible>(leaf.map(|leaf| (leaf.clone(), left)))
            });
            let Ok(family) = family;
            let inputs = Inputs {
                situation: Situation {
                    origin: &self.host.origin,
                    trust_domain: &self.host.trust_domain,
                    host: &endorsed,
                    judged: call.judged(),
                    challenge_spent: lie.spent.unwrap_or(false),
                    control: lie.control.as_ref().unwrap_or(&self.control),
                    policy: self.policy.as_ref(),
                    references: None,
                    time_ms: lie.time_ms.unwrap_or(self.time_ms + 5),
                },
                request,
                family: &family,
                request_id_reused: lie.reused.unwrap_or(false),
            };
            let mut outcome = decide(&inputs).unwrap();
            if let Some(consents) = &lie.consents {
                outcome.inputs.consents.clone_from(consents);
                outcome.inputs_bytes = outcome.inputs.encode();
                let inputs = sha256(&outcome.inputs_bytes);
                outcome.decision = Decision { inputs, ..outcome.decision().clone() }.into();
            }
            outcomes.push(outcome);
        }
        for (request, outcome) in call.requests().iter().zip(&outcomes) {
            self.keep(request.bytes());
            self.keep(&outcome.inputs_bytes);
        }
        self.keep(call.judged().record_bytes());
        let refs =
            self.append(outcomes.iter().map(|outcome| (outcome.kind(), outcome.body().to_vec())).collect());
        for ((index, _), outcome) in refs.iter().zip(&outcomes) {
            if decision_tells_of_host(outcome.decision()) {
                self.shown = merge_state(&self.shown, outcome.state_after());
            }
            for (parent, charge) in &outcome.charges {
                *self.budgets.get_mut(parent).unwrap() -= charge;
            }
            if let (Kind::Allow, Some(delegation)) = (outcome.kind(), &outcome.decision().delegation) {
                self.budgets.insert(*index, delegation.budget);
            }
        }
        refs.into_iter().zip(outcomes).collect()
    }

    pub(super) fn ask(&mut self, requests: &[RequestDocument]) -> Vec<(LeafRef, Outcome)> {
        let call = self.verified(requests);
        self.decide(&call, &Lie::default())
    }

    pub(super) fn attest(&mut self, time_ms: Option<u64>) {
        self.attest_saying(time_ms, |_| ());
    }

    /// An attestation whose leaf says something else than what it came to.
    pub(super) fn attest_saying(&mut self, time_ms: Option<u64>, alter: impl Fn(&mut HostStateRecord)) {
        let call = self.verified(&[]);
        let mut endorsed = self.host.endorsed.clone();
        endorsed.prior = self.shown;
        let mut outcome = decide_attestation(&Situation {
            origin: &self.host.origin,
            trust_domain: &self.host.trust_domain,
            host: &endorsed,
            judged: call.judged(),
            challenge_spent: false,
            control: &self.control,
            policy: self.policy.as_ref(),
            references: None,
            time_ms: time_ms.unwrap_or(self.time_ms + 5),
        })
        .unwrap();
        self.keep(call.judged().record_bytes());
        alter(&mut outcome.record);
        let HostStateRecord { state, evidence, code, .. } = &outcome.record;
        if tells_of_host(*code, evidence, state) {
            self.shown = merge_state(&self.shown, state);
        }
        self.append(vec![(Kind::HostState, outcome.record.encode())]);
    }

    pub(super) fn request(&self, id: &str) -> RequestDocument {
        self.host.request(id)
    }

    pub(super) fn delegating(&self, id: &str) -> RequestDocument {
        let mut request = self.host.request(id);
        request.delegation = Some(delegation(&["exec"], &["gate"], 3, 5));
        request
    }

    pub(super) fn child(&self, id: &str, above: &LeafRef) -> RequestDocument {
        let mut request = self.host.request(id);
        request.parents = vec![parent(above.0, &above.1)];
        request
    }

    pub(super) fn kinds(&self) -> FindingKind {
        verify(self, &self.bundle, &mut |_| {}).unwrap_err().kind
    }

    pub(super) fn mismatches(&self) -> Vec<(u64, MismatchKind)> {
        let report = replay(self, &self.bundle, &mut |_| {}).unwrap();
        assert_eq!(report.not_replayable, []);
        report.mismatches.into_iter().map(|mismatch| (mismatch.index, mismatch.kind)).collect()
    }

    pub(super) fn last(&self) -> u64 {
        u64::try_from(self.leaves.len()).unwrap() - 1
    }
}

/// A P-256 key that rcgen puts into certificates.
struct Point(Vec<u8>);

impl rcgen::PublicKeyData for Point {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

/// A certificate of this key by nobody in particular.
pub(super) fn certificate(key: &Public, params: &rcgen::CertificateParams) -> Vec<u8> {
    let own = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let issuer = rcgen::Issuer::new(rcgen::CertificateParams::default(), own);
    // SubjectPublicKeyInfo of P-256 ends with the uncompressed point.
    let spki = key.spki_der();
    params.signed_by(&Point(spki[spki.len() - 65..].to_vec()), &issuer).unwrap().der().to_vec()
}

/// The machine's own key of these tests.
pub(super) const DEVICE: u8 = 81;

pub(super) fn device_key(seed: u8) -> SimulatedDeviceKey {
    SimulatedDeviceKey::new(SimulatedDeviceKey::ATTRIBUTES, &mut |buffer: &mut [u8]| buffer.fill(seed))
        .unwrap()
}

/// For which enrolment the keys of these tests are certified.
pub(super) const SESSION: Session = Session { enrolment: [9; 16], secret: [10; 32] };

/// What the host of these logs shows: the same each time in one process, as two logs have to have the same bytes.
pub(super) fn shown(host: &Host) -> &'static (Vec<u8>, ActivationRecord) {
    static SHOWN: OnceLock<(Vec<u8>, ActivationRecord)> = OnceLock::new();
    SHOWN.get_or_init(|| {
        let mut params = rcgen::CertificateParams::default();
        params.key_usages = vec![rcgen::KeyUsagePurpose::KeyAgreement];
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::Other(vec![2, 23, 133, 8, 1])];
        let nonce = activation_data(host.origin.as_str(), &SESSION.enrolment, &SESSION.secret);
        let shown = host.tpm.certify_host_key(nonce.as_bytes()).unwrap();
        let activation = ActivationRecord {
            attest: shown.attest,
            signature: shown.signature,
            host_key: host.tpm.host_public().bytes().to_vec(),
            device: None,
            session: Some(SESSION),
        };
        (certificate(host.tpm.ek_public(), &params), activation)
    })
}

pub(super) fn code(outcome: &Outcome) -> Option<RefusalCode> {
    match outcome.decision().verdict {
        Verdict::Allow { .. } => None,
        Verdict::Deny(code) => Some(code),
    }
}
