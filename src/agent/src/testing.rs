//! For tests: a simulated device whose faults are driven, and an authority in memory that keeps a real log with real receipts.
//!
//! The authority checks what it needs to catch a wrong caller (activation, certification, quotes); it decides nothing.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use countersign_core::api::{
    ArtifactsAnswer, ArtifactsCall, AttestationAnswer, AttestationCall, B64, ChallengeOffer,
    DecisionDocument, Enrolled, EnrolmentBegin, EnrolmentFinish, EnrolmentOffer, EvidenceDocument, Feed,
};
use countersign_core::bundle::{
    BundleDocument, Initial, Says, Statement, StatementDocument, TrustBundle, statement_preimage,
};
use countersign_core::digest::{Sha256Digest, sha256};
use countersign_core::key::{JsonKey, VerifyingKey};
use countersign_core::leaf::Kind;
use countersign_core::leaf::appraisal::Appraisal;
use countersign_core::leaf::decision::{Decision, Lineage, Verdict};
use countersign_core::leaf::host::{
    Admission, Endorsement, EndorsementKind, Enrolment, HostKeyKind, HostState, Tier,
};
use countersign_core::leaf::host_state::HostStateRecord;
use countersign_core::name::{HostId, Origin};
use countersign_core::refusal::RefusalCode;
use countersign_core::request::{
    Request, SignedRequest, activation_data, holder_preimage, qualifying_data, request_root,
};
use countersign_tpm::algorithm::HashAlg;
use countersign_tpm::certify::verify_certification;
use countersign_tpm::credential::make_credential;
use countersign_tpm::public::Public;
use countersign_tpm::quote::{PcrSelectionSpec, QuoteInput, verify_quote};
use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use ed25519_dalek::{Signer as _, SigningKey};

use crate::agent::Agent;
use crate::authority::{AuthorityApi, CallError};
use crate::config::Config;
use crate::run::assemble;
use crate::state_dir::StateDir;

mod device;
mod log;

pub(crate) use device::{SimulatedHost, SimulatedOpener};
pub(crate) use log::MiniLog;

pub(crate) const ORIGIN: &str = "log.example/agent";

pub(crate) fn random(buffer: &mut [u8]) {
    getrandom::fill(buffer).unwrap();
}

pub(crate) fn signing_key() -> SigningKey {
    let mut seed = [0; 32];
    random(&mut seed);
    SigningKey::from_bytes(&seed)
}

pub(crate) fn verifying(key: &SigningKey) -> VerifyingKey {
    VerifyingKey::ed25519(&key.verifying_key().to_bytes()).unwrap()
}

struct HostSpki(Vec<u8>);

impl rcgen::PublicKeyData for HostSpki {
    fn der_bytes(&self) -> &[u8] {
        // The point, without the header of the SubjectPublicKeyInfo.
        &self.0[26..]
    }
    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

/// A certificate authority for hosts and servers.
pub(crate) struct TestCa {
    pub(crate) certificate: Vec<u8>,
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
}

impl TestCa {
    pub(crate) fn new() -> Self {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap().der().to_vec();
        Self { certificate, issuer: rcgen::Issuer::new(params, key) }
    }

    pub(crate) fn params(usage: rcgen::ExtendedKeyUsagePurpose) -> rcgen::CertificateParams {
        let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.extended_key_usages = vec![usage];
        params
    }

    pub(crate) fn issue(&self, key: &VerifyingKey, params: &rcgen::CertificateParams) -> Vec<u8> {
        params.signed_by(&HostSpki(key.spki_der()), &self.issuer).unwrap().der().to_vec()
    }

    /// A server's certificate and key, both DER.
    pub(crate) fn server(&self) -> (Vec<u8>, Vec<u8>) {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let params = Self::params(rcgen::ExtendedKeyUsagePurpose::ServerAuth);
        (params.signed_by(&key, &self.issuer).unwrap().der().to_vec(), key.serialize_der())
    }
}

struct Host {
    ak: Public,
    host_key: Public,
    ek: Public,
    secret: [u8; 32],
}

/// What a lying authority does with an answer about the control chain.
pub(crate) type AlterFeed = Box<dyn Fn(&mut Feed) + Send>;

/// An authority in memory.
pub(crate) struct TestAuthority {
    pub(crate) log: Mutex<MiniLog>,
    pub(crate) ca: TestCa,
    bundle: Vec<u8>,
    host: Mutex<Option<Host>>,
    challenges: Mutex<BTreeSet<Vec<u8>>>,
    decided: Mutex<BTreeMap<Sha256Digest, String>>,
    /// Boot logs that it has.
    pub(crate) members: Mutex<BTreeSet<String>>,
    /// Errors of the next calls that carry evidence or begin an enrolment.
    pub(crate) faults: Mutex<VecDeque<CallError>>,
    /// How many requests each call for artifacts carried.
    pub(crate) calls: Mutex<Vec<usize>>,
    /// Held by a test to keep calls for artifacts under way.
    pub(crate) slow: tokio::sync::Mutex<()>,
    /// The verdict on every request.
    pub(crate) verdict: Mutex<Verdict>,
    pub(crate) presented: AtomicUsize,
    /// What a lying authority makes of its answers about the control chain, and how often it was asked.
    pub(crate) alter_feed: Mutex<Option<AlterFeed>>,
    pub(crate) feeds: AtomicUsize,
}

impl TestAuthority {
    pub(crate) fn new() -> Arc<Self> {
        let (recovery, head, officer, ca) = (signing_key(), signing_key(), signing_key(), TestCa::new());
        let statement = Statement {
            number: 1,
            origin: Origin::parse(ORIGIN).unwrap(),
            time_ms: 1,
            says: Says::Initial(Initial {
                head_keys: vec![verifying(&head)],
                ca_certificates: vec![ca.certificate.clone()],
                officers: vec![verifying(&officer).thumbprint()],
                lease_secs: 30,
            }),
        }
        .encode();
        let signature = recovery.sign(&statement_preimage(&statement)).to_bytes();
        let bundle = BundleDocument {
            v: 1,
            origin: ORIGIN.to_owned(),
            trust_domain: "td.example".to_owned(),
            recovery_key: JsonKey::from(verifying(&recovery)),
            statements: vec![StatementDocument {
                statement: BASE64URL_NOPAD.encode(&statement),
                signature: BASE64URL_NOPAD.encode(&signature),
            }],
        };
        Arc::new(Self {
            log: Mutex::new(MiniLog::new(head, officer)),
            ca,
            bundle: serde_json::to_vec(&bundle).unwrap(),
            host: Mutex::new(None),
            challenges: Mutex::default(),
            decided: Mutex::default(),
            members: Mutex::default(),
            faults: Mutex::default(),
            calls: Mutex::default(),
            slow: tokio::sync::Mutex::new(()),
            verdict: Mutex::new(Verdict::Allow { nbf: 1, exp: 61 }),
            presented: AtomicUsize::new(0),
            alter_feed: Mutex::default(),
            feeds: AtomicUsize::new(0),
        })
    }

    pub(crate) fn bundle(&self) -> TrustBundle {
        TrustBundle::verify(&self.bundle).unwrap()
    }

    pub(crate) fn write_bundle(&self, directory: &Path) -> PathBuf {
        let path = directory.join("bundle.json");
        std::fs::write(&path, &self.bundle).unwrap();
        path
    }

    fn fault(&self) -> Result<(), CallError> {
        self.faults.lock().unwrap().pop_front().map_or(Ok(()), Err)
    }

    fn host_id(host: &Host) -> HostId {
        HostId::from_slice(&countersign_tpm::ek::ueid(&host.ek)).unwrap()
    }

    /// Checks a call's quote; the challenge is spent only when every member is there.
    fn evidence(
        &self,
        challenge: &B64,
        evidence: &EvidenceDocument,
        requests: &[Sha256Digest],
    ) -> Result<(), CallError> {
        let log = evidence.boot_log.clone().unwrap();
        let mut members = self.members.lock().unwrap();
        members.extend(evidence.members.iter().map(|member| sha256(&member.0).to_hex()));
        if !members.contains(&log) {
            return Err(refusal(RefusalCode::EvidenceNeeded, vec![log]));
        }
        if !self.challenges.lock().unwrap().remove(&challenge.0) {
            return Err(refusal(RefusalCode::ChallengeInvalid, Vec::new()));
        }
        let pcrs = evidence.pcrs.iter();
        let pcrs: Vec<_> =
            pcrs.map(|pcr| (pcr.index, HEXLOWER.decode(pcr.value.as_bytes()).unwrap())).collect();
        let host = self.host.lock().unwrap();
        verify_quote(QuoteInput {
            ak: &host.as_ref().unwrap().ak,
            attest: &evidence.attest.0,
            signature: &evidence.signature.0,
            expected_extra_data: qualifying_data(ORIGIN, &challenge.0, &request_root(requests)).as_bytes(),
            required: &required(),
            pcr_values: &pcrs,
        })
        .expect("the quote holds");
        Ok(())
    }

    fn decide(&self, bytes: &[u8]) -> DecisionDocument {
        let verdict = *self.verdict.lock().unwrap();
        let request = Request::parse(bytes).unwrap();
        let (kind, code) = match verdict {
            Verdict::Allow { .. } => (Kind::Allow, None),
            Verdict::Deny(code) => (Kind::Deny, Some(code.as_str().to_owned())),
        };
        let mut decided = self.decided.lock().unwrap();
        let receipt = decided.entry(sha256(bytes)).or_insert_with(|| {
            let body = decision(&request, sha256(bytes), verdict).encode();
            self.log.lock().unwrap().record(kind, body)
        });
        DecisionDocument { verdict: kind.name().to_owned(), code, detail: None, receipt: receipt.clone() }
    }
}

pub(crate) fn required() -> PcrSelectionSpec {
    PcrSelectionSpec::new(HashAlg::Sha256, &[0, 1, 2, 3, 4, 5, 6, 7]).unwrap()
}

pub(crate) fn refusal(code: RefusalCode, needed: Vec<String>) -> CallError {
    CallError::Refused { code, detail: code.meaning().to_owned(), needed, retry_after: None }
}

pub(crate) fn host_state(trusted_until_ms: u64) -> HostState {
    HostState {
        version: 1,
        reset_count: 1,
        restart_count: 0,
        clock_ms: 1,
        firmware_version: 1,
        boot_log: None,
        ima: None,
        pcr_digest: None,
        trusted_until_ms,
        tier: Tier::Affirming,
        evidence: None,
    }
}

pub(crate) fn decision(request: &Request, digest: Sha256Digest, verdict: Verdict) -> Decision {
    Decision {
        issuer: Origin::parse(ORIGIN).unwrap(),
        runtime: request.runtime.clone(),
        audience: request.audience.clone(),
        issued_at: 1,
        request_id: request.id.clone(),
        holder: request.holder.clone(),
        verdict,
        host: request.host,
        request: digest,
        workload: request.workload,
        action: request.action.clone(),
        arguments: request.arguments,
        lineage: Lineage { parents: Vec::new(), root: None, depth: 0 },
        delegation: None,
        policy: None,
        evidence: Sha256Digest::ZERO,
        appraisal: Appraisal { tier: Tier::Affirming, vector: Vec::new(), reference_set: None },
        host_state: host_state(1),
        inputs: Sha256Digest::ZERO,
        asserted: Vec::new(),
        engine: "test".to_owned(),
        control: 2,
    }
}

impl AuthorityApi for Arc<TestAuthority> {
    fn present(&self, certificates: &[Vec<u8>]) -> Result<(), CallError> {
        assert!(!certificates.is_empty());
        self.presented.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    async fn begin_enrolment(&self, call: &EnrolmentBegin) -> Result<EnrolmentOffer, CallError> {
        self.fault()?;
        let known = self.host.lock().unwrap().is_some();
        if call.token.as_deref() != Some("token") && !known {
            return Err(refusal(RefusalCode::JoinTokenInvalid, Vec::new()));
        }
        let ak = Public::parse(&call.ak_public.0).unwrap();
        let ek = Public::parse(&call.ek_public.as_ref().unwrap().0).unwrap();
        let mut secret = [0; 32];
        random(&mut secret);
        let credential = make_credential(&ek, ak.name().as_bytes(), &secret, &mut random).unwrap();
        let host_key = Public::parse(&call.host_key_public.0).unwrap();
        *self.host.lock().unwrap() = Some(Host { ak, host_key, ek, secret });
        Ok(EnrolmentOffer {
            enrolment: "0b".repeat(16),
            id_object: B64(credential.id_object),
            encrypted_secret: B64(credential.encrypted_secret),
            secret: None,
            expires_ms: 1,
        })
    }

    async fn finish_enrolment(&self, id: &str, call: &EnrolmentFinish) -> Result<Enrolled, CallError> {
        let host = self.host.lock().unwrap();
        let host = host.as_ref().unwrap();
        assert_eq!((id, call.secret.0.as_slice()), ("0b".repeat(16).as_str(), host.secret.as_slice()));
        let qualifying = activation_data(ORIGIN, &[0x0b; 16], &host.secret);
        verify_certification(
            &host.ak,
            &call.attest.0,
            &call.signature.0,
            &host.host_key,
            qualifying.as_bytes(),
        )
        .expect("the certification holds");
        let host_key = VerifyingKey::from_spki_der(&host.host_key.spki_der()).unwrap();
        let body = Enrolment {
            host: TestAuthority::host_id(host),
            ek_public: sha256(host.ek.bytes()),
            ek_certificate: None,
            ak_public: sha256(host.ak.bytes()),
            ak_name: host.ak.name().as_bytes().to_vec(),
            host_key: host_key.clone(),
            host_key_kind: HostKeyKind::Certified,
            admission: Admission::Preregistered,
            token: None,
            activation: Sha256Digest::ZERO,
            version: 1,
            endorsement: Endorsement {
                kind: EndorsementKind::EkAllowed,
                weak_key: false,
                tpm: None,
                device: None,
            },
        };
        let params = TestCa::params(rcgen::ExtendedKeyUsagePurpose::ClientAuth);
        Ok(Enrolled {
            host: body.host.to_hex(),
            certificates: vec![B64(self.ca.issue(&host_key, &params)), B64(self.ca.certificate.clone())],
            receipt: self.log.lock().unwrap().record(Kind::Enrolment, body.encode()),
        })
    }

    async fn challenge(&self) -> Result<ChallengeOffer, CallError> {
        let mut challenge = vec![0; 40];
        random(&mut challenge);
        self.challenges.lock().unwrap().insert(challenge.clone());
        let bank = required().bank().id();
        Ok(ChallengeOffer {
            challenge: B64(challenge),
            expires_ms: 1,
            bank,
            pcrs: required().pcrs().to_vec(),
            ima_entries: None,
        })
    }

    async fn artifacts(&self, call: &ArtifactsCall) -> Result<ArtifactsAnswer, CallError> {
        drop(self.slow.lock().await);
        self.fault()?;
        let digests: Vec<_> = call.requests.iter().map(|request| sha256(&request.request.0)).collect();
        self.evidence(&call.challenge, &call.evidence, &digests)?;
        self.calls.lock().unwrap().push(digests.len());
        let decisions = call.requests.iter().map(|request| self.decide(&request.request.0)).collect();
        Ok(ArtifactsAnswer { decisions })
    }

    async fn attestation(&self, call: &AttestationCall) -> Result<AttestationAnswer, CallError> {
        self.fault()?;
        self.evidence(&call.challenge, &call.evidence, &[])?;
        let host = TestAuthority::host_id(self.host.lock().unwrap().as_ref().unwrap());
        let state = host_state(301_000);
        let record = HostStateRecord { host, state, evidence: Sha256Digest::ZERO, code: None, basis: None };
        let receipt = self.log.lock().unwrap().record(Kind::HostState, record.encode());
        Ok(AttestationAnswer {
            tier: "affirming".to_owned(),
            code: None,
            detail: None,
            trusted_until_ms: 301_000,
            receipt,
        })
    }

    async fn feed(&self, _size: u64, control: u64) -> Result<Feed, CallError> {
        self.feeds.fetch_add(1, Ordering::Relaxed);
        let mut feed = self.log.lock().unwrap().feed(control);
        if let Some(alter) = &*self.alter_feed.lock().unwrap() {
            alter(&mut feed);
        }
        Ok(feed)
    }
}

/// A holder key and a request that it signed.
pub(crate) fn signed(request: &[u8], holder: &SigningKey) -> SignedRequest {
    let signature = holder.sign(&holder_preimage(request)).to_bytes().to_vec();
    SignedRequest::verify(request.to_vec(), signature, Vec::new()).unwrap()
}

/// An agent over a simulated TPM and an authority in memory.
pub(crate) struct World {
    pub(crate) agent: Arc<Agent<Arc<TestAuthority>>>,
    pub(crate) authority: Arc<TestAuthority>,
    pub(crate) host: Arc<SimulatedHost>,
    pub(crate) config: Config,
    pub(crate) root: tempfile::TempDir,
}

impl World {
    /// Not enrolled yet. `rules` is TOML.
    pub(crate) async fn new(rules: &str) -> Self {
        let (authority, host) = (TestAuthority::new(), SimulatedHost::new());
        let root = tempfile::tempdir().unwrap();
        let bundle = authority.write_bundle(root.path());
        let log = root.path().join("bootlog");
        std::fs::write(&log, &host.boot_log).unwrap();
        let at = root.path().display();
        let config = Config::parse(&format!(
            "authority = \"https://localhost:1\"\ntrust_bundle = \"{}\"\nstate_dir = \"{at}/state\"\n\
             ek_profile = \"p256\"\nboot_log = \"{}\"\nsocket = \"{at}/agent.sock\"\n{rules}",
            bundle.display(),
            log.display()
        ))
        .unwrap();
        let state = StateDir::open(&config.state_dir).unwrap();
        let api = Arc::clone(&authority);
        let opener = SimulatedOpener(Arc::clone(&host));
        let agent = assemble(&config, state, opener, move |_, _, _| Ok(api)).await.unwrap();
        Self { agent, authority, host, config, root }
    }

    /// Enrolled with the token.
    pub(crate) async fn enrolled() -> Self {
        let world = Self::new("").await;
        world.agent.enrol(Some("token")).await.unwrap();
        world
    }
}
