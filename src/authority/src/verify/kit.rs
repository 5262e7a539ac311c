//! For tests: a host with a simulated TPM, and everything around it that a call needs.

use super::{
    Asked, BootLogCache, BootLogSource, Call, CallError, Endorsed, SourceFault, VerifiedCall, Verifier,
};
use crate::challenge::{ChallengeKey, ChallengeKeys, Rotation};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use countersign_core::api::{B64, EnrolmentBegin};
use countersign_core::digest::{Sha256Digest, sha256};
use countersign_core::document::{PolicyDocument, Settings};
use countersign_core::key::{JsonKey, VerifyingKey};
use countersign_core::leaf::host::{
    Admission, Endorsement, EndorsementKind, Enrolment, HostKeyKind, HostState,
};
use countersign_core::name::{HostId, Origin, TrustDomain};
use countersign_core::request::{
    DelegationDocument, ParentDocument, RequestDocument, delegation_preimage, holder_preimage,
    qualifying_data, request_root,
};
use countersign_tpm::algorithm::HashAlg;
use countersign_tpm::quote::PcrSelectionSpec;
use countersign_tpm::simulated::SimulatedTpm;
use countersign_tpm::simulated::boot::{BootOptions, SimulatedBoot};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use zeroize::Zeroizing;

/// A boot log, an IMA list, a certificate and an attestation on which the reader panics.
pub(crate) const PANICS: &[u8] = b"a log that nobody foresaw";
/// The tests' "now".
pub(crate) const NOW_MS: u64 = 1_790_000_000_500;
/// How the tests' keys rotate.
pub(crate) const ROTATION: Rotation = Rotation { every_ms: 600_000, lifetime_ms: 30_000 };

/// A policy that permits what the tests ask for by default.
pub(crate) const PERMIT: &str = r#"
@id("exec-on-good-hosts")
permit (principal, action == Action::"exec", resource)
when { context.audience == "gate" && context.tier != "contraindicated" };
@id("tools")
permit (principal, action == Action::"call", resource)
when { context.action like "call.*" };
"#;

/// A key pair of a holder or of the log.
pub(crate) fn ed25519(seed: u8) -> (Ed25519KeyPair, VerifyingKey) {
    let pair = Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap();
    let public = VerifyingKey::ed25519(pair.public_key().as_ref().try_into().unwrap()).unwrap();
    (pair, public)
}

/// A policy document with the engine's schema and default settings.
pub(crate) fn document(policies: &[(&str, &str)]) -> PolicyDocument {
    PolicyDocument {
        policies: policies.iter().map(|(id, source)| ((*id).to_owned(), (*source).to_owned())).collect(),
        schema: crate::policy::SCHEMA.to_owned(),
        settings: Settings { max_ttl_secs: 600, ..Settings::default() },
    }
}

/// Members in memory.
#[derive(Default)]
pub(crate) struct Members {
    pub(crate) held: HashMap<Sha256Digest, Arc<[u8]>>,
    /// Digests that were fetched, in order.
    pub(crate) fetched: Mutex<Vec<Sha256Digest>>,
}

impl Members {
    pub(crate) fn of(logs: &[&[u8]]) -> Self {
        let held = logs.iter().map(|log| (sha256(log), Arc::from(*log))).collect();
        Self { held, fetched: Mutex::default() }
    }
}

impl BootLogSource for Members {
    fn holds(&self, digest: &Sha256Digest) -> Result<bool, SourceFault> {
        Ok(self.held.contains_key(digest))
    }

    fn fetch(&self, digest: &Sha256Digest) -> Result<Option<Arc<[u8]>>, SourceFault> {
        self.fetched.lock().unwrap().push(*digest);
        Ok(self.held.get(digest).cloned())
    }
}

/// What a host with this TPM sends to enrol, without any certificate.
pub(crate) fn enrolling(tpm: &SimulatedTpm) -> EnrolmentBegin {
    EnrolmentBegin {
        token: None,
        ek_certificate: None,
        ek_intermediates: Vec::new(),
        ek_public: Some(B64(tpm.ek_public().bytes().to_vec())),
        ak_certificate: None,
        ak_intermediates: Vec::new(),
        ak_public: B64(tpm.ak_public().bytes().to_vec()),
        host_key_public: B64(tpm.host_public().bytes().to_vec()),
        idevid: None,
    }
}

/// The key of challenges, made at this time.
pub(crate) fn challenge_keys(created_ms: u64) -> ChallengeKeys {
    ChallengeKeys::new(vec![ChallengeKey { id: [7; 8], key: Zeroizing::new([8; 32]), created_ms }])
}

/// One host and the authority's view of it.
pub(crate) struct Host {
    pub(crate) tpm: SimulatedTpm,
    pub(crate) boot: SimulatedBoot,
    pub(crate) enrolment: Enrolment,
    pub(crate) endorsed: Endorsed,
    pub(crate) origin: Origin,
    pub(crate) trust_domain: TrustDomain,
    pub(crate) settings: Settings,
    pub(crate) keys: ChallengeKeys,
    pub(crate) members: Members,
    pub(crate) verifier: Verifier,
    /// The head that challenges name.
    pub(crate) head: Sha256Digest,
    random: u8,
}

impl Host {
    pub(crate) fn new(seed: u8) -> Self {
        let mut next = seed;
        let mut tpm = SimulatedTpm::new(&mut |buffer: &mut [u8]| {
            buffer.fill(next);
            next = next.wrapping_add(71);
        })
        .unwrap();
        let boot = SimulatedBoot::new(&BootOptions::default());
        tpm.boot(&boot).unwrap();
        let host_bytes = [&[1][..], sha256(&tpm.ek_public().spki_der()).as_bytes()].concat();
        let enrolment = Enrolment {
            host: HostId::from_slice(&host_bytes).unwrap(),
            ek_public: sha256(tpm.ek_public().bytes()),
            ek_certificate: Some(sha256(b"certificate")),
            ak_public: sha256(tpm.ak_public().bytes()),
            ak_name: tpm.ak_public().name().as_bytes().to_vec(),
            host_key: ed25519(seed).1,
            host_key_kind: HostKeyKind::Certified,
            admission: Admission::JoinToken,
            token: Some(Sha256Digest::ZERO),
            activation: Sha256Digest::ZERO,
            version: 1,
            endorsement: Endorsement {
                kind: EndorsementKind::EkCertificate,
                weak_key: false,
                tpm: None,
                device: None,
            },
        };
        let endorsed = Endorsed::new(
            &enrolment,
            (1, sha256(b"leaf")),
            tpm.ak_public().bytes(),
            HostState::unattested(1),
        )
        .unwrap();
        let origin = Origin::parse("log.example/test").unwrap();
        let trust_domain = TrustDomain::parse("example.org").unwrap();
        Self {
            members: Members::of(&[boot.log()]),
            verifier: Verifier::new(origin.clone(), trust_domain.clone(), BootLogCache::new(8)),
            tpm,
            boot,
            enrolment,
            endorsed,
            origin,
            trust_domain,
            settings: document(&[]).settings,
            keys: challenge_keys(NOW_MS - 1_000),
            head: sha256(b"head"),
            random: 0,
        }
    }

    /// A request that every test policy permits.
    pub(crate) fn request(&self, id: &str) -> RequestDocument {
        RequestDocument {
            v: 1,
            id: id.to_owned(),
            host: self.endorsed.host.to_hex(),
            runtime: format!("spiffe://{}/host/{}/payments/worker", self.trust_domain, self.endorsed.host),
            holder: JsonKey::from(ed25519(99).1),
            workload: "ab".repeat(32),
            action: "exec".to_owned(),
            args: "cd".repeat(32),
            aud: "gate".to_owned(),
            ttl_secs: 120,
            parents: Vec::new(),
            delegation: None,
        }
    }

    pub(crate) fn challenge(&mut self, now_ms: u64) -> Vec<u8> {
        self.random += 1;
        self.keys.mint(self.endorsed.host, self.head, now_ms, &ROTATION, [self.random; 16]).unwrap().challenge
    }

    /// A call as the agent makes it.
    pub(crate) fn call(&mut self, now_ms: u64, requests: &[RequestDocument]) -> Call {
        let challenge = self.challenge(now_ms);
        let requests: Vec<Asked> = requests.iter().map(signed).collect();
        self.quoted(challenge, requests)
    }

    pub(crate) fn quoted(&self, challenge: Vec<u8>, requests: Vec<Asked>) -> Call {
        let digests: Vec<Sha256Digest> = requests.iter().map(|asked| sha256(&asked.request)).collect();
        let extra = qualifying_data(self.origin.as_str(), &challenge, &request_root(&digests));
        let bank = HashAlg::from_id(self.settings.bank).unwrap();
        let selection = PcrSelectionSpec::new(bank, &self.settings.pcrs).unwrap();
        let attestation = self.tpm.quote(extra.as_bytes(), &selection).unwrap();
        Call {
            challenge,
            requests,
            attest: attestation.attest,
            signature: attestation.signature,
            bank: self.settings.bank,
            pcrs: self.tpm.pcr_values(&selection).unwrap(),
            boot_log: Some(sha256(self.boot.log())),
            ima: None,
        }
    }

    pub(crate) fn verify(&self, call: Call) -> Result<VerifiedCall, CallError> {
        self.verifier.verify(&self.endorsed, call, &self.settings, &self.keys, &self.members)
    }

    pub(crate) fn reboot(&mut self, options: &BootOptions) {
        self.tpm.reset();
        self.boot = SimulatedBoot::new(options);
        self.tpm.boot(&self.boot).unwrap();
        self.members.held.insert(sha256(self.boot.log()), Arc::from(self.boot.log()));
    }

    /// The quoted registers as a references document would name them.
    pub(crate) fn generation(&self) -> countersign_core::document::Generation {
        let bank = HashAlg::from_id(self.settings.bank).unwrap();
        let selection = PcrSelectionSpec::new(bank, &self.settings.pcrs).unwrap();
        let pcrs = self.tpm.pcr_values(&selection).unwrap();
        countersign_core::document::Generation {
            bank: self.settings.bank,
            pcrs,
            lifetime: countersign_core::document::Lifetime::default(),
            evidence: None,
        }
    }
}

/// References with one set per name and generation.
pub(crate) fn references(
    sets: &[(&str, countersign_core::document::Generation)],
) -> countersign_core::document::ReferencesDocument {
    let mut document = countersign_core::document::ReferencesDocument { ima: None, sets: BTreeMap::new() };
    for (name, generation) in sets {
        document.sets.entry((*name).to_owned()).or_default().push(generation.clone());
    }
    document
}

/// A request with its holder's signature; the same holder agrees for every parent.
pub(crate) fn signed(document: &RequestDocument) -> Asked {
    let request = serde_json::to_vec(document).unwrap();
    let signature = ed25519(99).0.sign(&holder_preimage(&request)).as_ref().to_vec();
    let consent = ed25519(99).0.sign(&delegation_preimage(&request)).as_ref().to_vec();
    Asked { request, signature, consents: vec![consent; document.parents.len()] }
}

/// A delegation in a request.
pub(crate) fn delegation(
    actions: &[&str],
    audiences: &[&str],
    depth: u64,
    budget: u64,
) -> DelegationDocument {
    let texts = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
    DelegationDocument { actions: texts(actions), audiences: texts(audiences), depth, budget }
}

/// A parent in a request.
pub(crate) fn parent(index: u64, leaf: &Sha256Digest) -> ParentDocument {
    ParentDocument { index, leaf: leaf.to_hex() }
}
