//! One value of every format, shared by the tests of bodies and of vectors.

use countersign_core::bundle::{Compromise, Initial, Says};
use countersign_core::checkpoint::HeadBody;
use countersign_core::digest::{Blake2b512Digest, Sha3_512Digest, Sha256Digest};
use countersign_core::document::{Generation, Lifetime, PolicyDocument, ReferencesDocument, Settings};
use countersign_core::key::VerifyingKey;
use countersign_core::leaf::appraisal::Appraisal;
use countersign_core::leaf::control::Subject;
use countersign_core::leaf::decision::{Decision, Delegation, Lineage, PolicyClaim, Verdict};
use countersign_core::leaf::host::{HostState, Tier};
use countersign_core::leaf::host_state::Basis;
use countersign_core::name::{Action, Audience, HostId, Origin, RequestId, RuntimeId, TrustDomain};
use countersign_core::record::{ChallengeStanding, EvidenceRecord, ImaEntries, InputsRecord};
use std::collections::BTreeMap;

pub(crate) fn digest(byte: u8) -> Sha256Digest {
    Sha256Digest::new([byte; 32])
}

pub(crate) fn key() -> VerifyingKey {
    let secret = ed25519_dalek::SigningKey::from_bytes(&[7; 32]);
    VerifyingKey::ed25519(secret.verifying_key().as_bytes()).unwrap()
}

pub(crate) fn host() -> HostId {
    HostId::from_slice(&[1; 33]).unwrap()
}

pub(crate) fn state() -> HostState {
    HostState {
        version: 3,
        reset_count: 17,
        restart_count: 2,
        clock_ms: 123_456,
        firmware_version: 0x2019_1023_0016_3636,
        boot_log: Some(digest(1)),
        pcr_digest: Some(digest(2)),
        trusted_until_ms: 1_800_000_000_000,
        tier: Tier::Affirming,
        evidence: None,
        ima: Some(digest(8)),
    }
}

pub(crate) fn basis() -> Basis {
    Basis {
        appraisal: Appraisal {
            tier: Tier::Affirming,
            vector: vec![(0, 2), (1, 2), (2, 2), (4, 2)],
            reference_set: Some("fleet".to_owned()),
        },
        policy: Some(digest(10)),
        references: Some(digest(11)),
        engine: "countersign-decision-5".to_owned(),
        time_ms: 1_700_000_000_000,
        control: 4,
    }
}

pub(crate) fn decision(verdict: Verdict) -> Decision {
    let td = TrustDomain::parse("test.example").unwrap();
    let allowed = matches!(verdict, Verdict::Allow { .. });
    Decision {
        issuer: Origin::parse("test.example/log").unwrap(),
        runtime: RuntimeId::new(&td, &host(), "job/one").unwrap(),
        audience: Audience::parse("gate-1").unwrap(),
        issued_at: 1_700_000_000,
        request_id: RequestId::parse("r-1").unwrap(),
        holder: key(),
        host: host(),
        verdict,
        request: digest(3),
        workload: digest(4),
        action: Action::parse("exec").unwrap(),
        arguments: digest(5),
        lineage: Lineage { parents: vec![(4, digest(6))], root: Some((2, digest(7))), depth: 2 },
        delegation: allowed.then(|| Delegation {
            actions: vec![Action::parse("exec").unwrap()],
            audiences: vec![Audience::parse("gate-1").unwrap()],
            depth: 1,
            budget: 4,
        }),
        policy: Some(PolicyClaim {
            digest: digest(8),
            epoch: 2,
            determining: vec!["p0".into(), "p1".into()],
        }),
        evidence: digest(9),
        appraisal: Appraisal {
            tier: Tier::Affirming,
            vector: vec![(0, 2), (2, 2)],
            reference_set: Some("fleet".into()),
        },
        host_state: state(),
        inputs: digest(10),
        asserted: vec!["runtime".into(), "workload".into()],
        engine: "1".into(),
        control: 9,
    }
}

pub(crate) fn evidence() -> EvidenceRecord {
    EvidenceRecord {
        challenge: vec![1; 128],
        attest: vec![2; 100],
        signature: vec![3; 72],
        bank: 0x000b,
        pcrs: vec![(0, vec![4; 32]), (7, vec![5; 32])],
        boot_log: Some(digest(1)),
        requests: vec![digest(2), digest(3)],
        ima: Some(ImaEntries { from: 7, column: 4, list: digest(9) }),
    }
}

pub(crate) fn inputs() -> InputsRecord {
    InputsRecord {
        engine: "1".into(),
        request: digest(1),
        holder_signature: vec![2; 64],
        evidence: digest(3),
        challenge: ChallengeStanding::Fresh,
        enrolment: (5, digest(4)),
        prior: state(),
        policy: Some(digest(5)),
        epoch: 2,
        references: None,
        parents: vec![((4, digest(6)), 3)],
        control: (9, digest(7)),
        time_ms: 1_700_000_000_123,
        request_id_reused: false,
        revoked: vec![Subject::Host(host()), Subject::Artifact(4, digest(6))],
        trust_domain: TrustDomain::parse("test.example").unwrap(),
        consents: vec![vec![3; 64]],
    }
}

/// One of each type.
pub(crate) fn statements() -> [Says; 2] {
    let initial = Initial {
        head_keys: vec![key()],
        ca_certificates: vec![vec![0x30, 0]],
        officers: vec![digest(11)],
        lease_secs: 30,
    };
    let compromise = Compromise { key: key(), last_good: head(), head_keys: vec![other_key()] };
    [Says::Initial(initial), Says::Compromise(compromise)]
}

pub(crate) fn head() -> HeadBody {
    HeadBody {
        origin: "test.example/log".into(),
        size: 17,
        sha256_root: digest(1),
        sha3_root: Sha3_512Digest::new([2; 64]),
        blake2_root: Blake2b512Digest::new([3; 64]),
        time_ms: 1_700_000_000_123,
        prev: digest(4),
        control_seq: 9,
        control_digest: digest(7),
    }
}

pub(crate) fn other_key() -> VerifyingKey {
    let secret = ed25519_dalek::SigningKey::from_bytes(&[8; 32]);
    VerifyingKey::ed25519(secret.verifying_key().as_bytes()).unwrap()
}

pub(crate) fn policy() -> PolicyDocument {
    PolicyDocument {
        policies: BTreeMap::from([("a".into(), "permit(principal, action, resource);".into())]),
        schema: "entity Host;".into(),
        settings: Settings::default(),
    }
}

pub(crate) fn references() -> ReferencesDocument {
    ReferencesDocument {
        ima: Some(digest(4)),
        sets: BTreeMap::from([(
            "fleet".into(),
            vec![Generation {
                bank: 0x000b,
                pcrs: vec![(0, vec![1; 32]), (4, vec![2; 32])],
                lifetime: Lifetime::default(),
                evidence: None,
            }],
        )]),
    }
}

/// The same, told where it was captured.
pub(crate) fn captured() -> ReferencesDocument {
    let mut document = references();
    for generation in document.sets.values_mut().flatten() {
        generation.evidence = Some(evidence().digest());
    }
    document
}
