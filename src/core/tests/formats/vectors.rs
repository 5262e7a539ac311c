//! Published vectors of requests, challenges, leaves, decisions and records: exact bytes and the digests over them, for other implementations.
//!
//! `UPDATE_VECTORS=1 cargo test -p countersign-core --test formats` rewrites them after a deliberate change of a format.

use crate::samples::{
    basis, captured, decision, digest, evidence, host, inputs, other_key, policy, references, state,
    statements,
};
use countersign_core::api::Jwk;
use countersign_core::bundle::{Statement, statement_preimage};
use countersign_core::challenge::{ChallengeBody, OpenedChallenge};
use countersign_core::control::control_digest;
use countersign_core::ear::{AttestationResult, EarClaims, TYP};
use countersign_core::jws::Unsigned;
use countersign_core::key::VerifyingKey;
use countersign_core::leaf::control::{KeyPurpose, key_introduction, officer_addition};
use countersign_core::leaf::decision::{Decision, Verdict};
use countersign_core::leaf::host::HostState;
use countersign_core::leaf::host_state::HostStateRecord;
use countersign_core::leaf::{Kind, Leaf, leaf_hash};
use countersign_core::name::Origin;
use countersign_core::refusal::RefusalCode;
use countersign_core::request::{
    SignedRequest, activation_data, argv_digest, delegation_preimage, device_certification_data,
    device_possession, holder_preimage, qualifying_data, request_root,
};
use data_encoding::HEXLOWER;
use ed25519_dalek::Signer;
use serde_json::{Value, json};
use std::path::Path;

pub(crate) fn published(name: &str, value: Value) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors/formats").join(name);
    let text = serde_json::to_string_pretty(&value).unwrap() + "\n";
    if std::env::var_os("UPDATE_VECTORS").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    // By value: in which order members are written depends on features of serde_json that other crates switch.
    let known: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    assert!(known == value, "{name} isn't what this version makes: a format changed");
}

fn hex(bytes: &[u8]) -> String {
    HEXLOWER.encode(bytes)
}

#[test]
fn requests() {
    let holder = ed25519_dalek::SigningKey::from_bytes(&[7; 32]);
    let request = format!(
        r#"{{"v":1,"id":"r-1","host":"{host}","runtime":"spiffe://test.example/host/{host}/job/one","holder":{{"alg":"EdDSA","pub":"{key}"}},"workload":"{workload}","action":"exec","args":"{args}","aud":"gate-1","ttl_secs":60}}"#,
        host = host(),
        key = data_encoding::BASE64URL_NOPAD.encode(holder.verifying_key().as_bytes()),
        workload = digest(4),
        args = argv_digest(&["prog", "one", ""]),
    );
    let signature = holder.sign(&holder_preimage(request.as_bytes())).to_bytes();
    let signed = SignedRequest::verify(request.clone().into_bytes(), signature.to_vec(), Vec::new()).unwrap();
    let root = request_root(&[*signed.digest(), digest(9)]);
    let challenge = challenge_body().seal(&[7; 32]);
    published(
        "request.json",
        json!({
            "holder_secret": hex(holder.as_bytes()),
            "argv": ["prog", "one", ""],
            "argv_digest": argv_digest(&["prog", "one", ""]).to_hex(),
            "request": request,
            "request_digest": signed.digest().to_hex(),
            "holder_preimage": hex(&holder_preimage(request.as_bytes())),
            "holder_signature": hex(&signature),
            "delegation_preimage": hex(&delegation_preimage(request.as_bytes())),
            "consent": hex(&holder.sign(&delegation_preimage(request.as_bytes())).to_bytes()),
            "root_of": [signed.digest().to_hex(), digest(9).to_hex()],
            "request_root": root.to_hex(),
            "request_root_of_none": request_root(&[]).to_hex(),
            "origin": "test.example/log",
            "challenge": hex(&challenge),
            "qualifying_data": qualifying_data("test.example/log", &challenge, &root).to_hex(),
            "enrolment": hex(&[1; 16]),
            "secret": hex(&[2; 32]),
            "activation_data": activation_data("test.example/log", &[1; 16], &[2; 32]).to_hex(),
            "device_certification_data": device_certification_data("test.example/log", &[1; 16], &[2; 32]).to_hex(),
            "device_possession": hex(&device_possession("test.example/log", &[1; 16], &[2; 32])),
        }),
    );
}

fn challenge_body() -> ChallengeBody {
    ChallengeBody {
        key_id: [1; 8],
        host: host(),
        expires_ms: 1_700_000_000_000,
        head: digest(3),
        random: [4; 16],
    }
}

#[test]
fn challenges() {
    let sealed = challenge_body().seal(&[7; 32]);
    let opened = OpenedChallenge::open(&sealed, |_| Some([7; 32])).unwrap();
    published(
        "challenge.json",
        json!({
            "mac_key": hex(&[7; 32]),
            "key_id": hex(&[1; 8]),
            "host": host().to_hex(),
            "expires_ms": 1_700_000_000_000_u64,
            "head": digest(3).to_hex(),
            "random": hex(&[4; 16]),
            "challenge": hex(&sealed),
            "challenge_digest": opened.digest().to_hex(),
        }),
    );
}

#[test]
fn leaves_and_decisions() {
    let verdicts = [
        (Kind::Allow, Verdict::Allow { nbf: 1_700_000_000, exp: 1_700_000_060 }),
        (Kind::Deny, Verdict::Deny(RefusalCode::PolicyDenied)),
    ];
    let mut previous = countersign_core::digest::Sha256Digest::ZERO;
    let leaves: Vec<Value> = verdicts
        .into_iter()
        .zip(1_u64..)
        .map(|((kind, verdict), number)| {
            let body = decision(verdict).encode();
            assert_eq!(Decision::parse(&body).unwrap(), decision(verdict));
            let leaf =
                Leaf { kind, index: number, time_ms: 1_700_000_000_123, salt: [9; 16], body: body.clone() };
            let bytes = leaf.encode().unwrap();
            let hash = leaf_hash(&bytes);
            // Only control leaves are links; here the numbers alone matter.
            let link = control_digest(&previous, number, &hash);
            previous = link;
            json!({
                "kind": kind.name(),
                "body": hex(&body),
                "leaf": hex(&bytes),
                "leaf_hash": hash.to_hex(),
                "control_number": number,
                "control_digest": link.to_hex(),
            })
        })
        .collect();
    published("leaf.json", json!({ "leaves": leaves }));
}

/// Leaves that tell of a host, each with its rendering by an Ed25519 key; the nonce beside every second one.
#[test]
fn attestation_results() {
    let signer = ed25519_dalek::SigningKey::from_bytes(&[5; 32]);
    let key = VerifyingKey::ed25519(signer.verifying_key().as_bytes()).unwrap();
    let told = HostState { evidence: Some(digest(9)), ..state() };
    let decided = |verdict| Decision { host_state: told, ..decision(verdict) }.encode();
    let record =
        |code, basis| HostStateRecord { host: host(), state: told, evidence: digest(9), code, basis };
    let attested = |code| record(code, Some(basis())).encode();
    let bodies = [
        (Kind::Allow, decided(Verdict::Allow { nbf: 1_700_000_000, exp: 1_700_000_060 })),
        (Kind::Deny, decided(Verdict::Deny(RefusalCode::PolicyDenied))),
        (Kind::HostState, attested(None)),
        (Kind::HostState, attested(Some(RefusalCode::ReferenceMismatch))),
        // From before the basis was told.
        (Kind::HostState, record(None, None).encode()),
        // These tell of nobody.
        (Kind::Deny, decided(Verdict::Deny(RefusalCode::ChallengeSpent))),
        (Kind::HostState, attested(Some(RefusalCode::ChallengeExpired))),
        (Kind::Deny, decision(Verdict::Deny(RefusalCode::PolicyDenied)).encode()),
    ];
    let vectors = (7_u64..).zip(bodies).map(|(index, (kind, body))| {
        let leaf = Leaf { kind, index, time_ms: 1_700_000_000_123, salt: [9; 16], body }.encode().unwrap();
        let nonce = (index % 2 == 0).then_some(&[6_u8; 16][..]);
        let jwt = AttestationResult::of_leaf(&leaf).unwrap().map(|result| {
            let claims = result.claims("test.example/log", "1", nonce).unwrap();
            let unsigned = Unsigned::new(TYP, &key, &claims).unwrap();
            let signature = signer.sign(unsigned.message()).to_bytes();
            let jwt = unsigned.signed(&signature).unwrap();
            let payload = countersign_core::jws::verify(&jwt, TYP, std::slice::from_ref(&key)).unwrap();
            assert_eq!(serde_json::from_slice::<EarClaims>(&payload).unwrap(), claims);
            jwt
        });
        json!({ "leaf": hex(&leaf), "nonce": nonce.map(hex), "jwt": jwt })
    });
    published(
        "ear.json",
        json!({ "jwk": Jwk::from(&key), "origin": "test.example/log", "results": vectors.collect::<Vec<_>>() }),
    );
}

#[test]
fn recovery_statements() {
    let recovery = ed25519_dalek::SigningKey::from_bytes(&[7; 32]);
    let origin = || Origin::parse("test.example/log").unwrap();
    let statements = (1..).zip(statements()).map(|(number, says)| {
        let bytes = Statement { number, origin: origin(), time_ms: 1_700_000_000_123, says }.encode();
        let signature = recovery.sign(&statement_preimage(&bytes)).to_bytes();
        json!({ "statement": hex(&bytes), "signature": hex(&signature) })
    });
    let custody = digest(1);
    published(
        "statement.json",
        json!({
            "recovery_key": hex(recovery.verifying_key().as_bytes()),
            "statements": statements.collect::<Vec<_>>(),
            "key_introduction": hex(&key_introduction("test.example/log", KeyPurpose::Head, &other_key(), "pkcs11", &custody)),
            "officer_addition": hex(&officer_addition("test.example/log", "officer-2", &other_key().thumbprint())),
            "key": hex(other_key().raw()),
        }),
    );
}

#[test]
fn records_and_documents() {
    published(
        "record.json",
        json!({
            "evidence": hex(&evidence().encode()),
            "evidence_digest": evidence().digest().to_hex(),
            "inputs": hex(&inputs().encode()),
            "host_state": hex(&state().encode()),
            "policy": hex(&policy().encode()),
            "policy_digest": policy().digest().to_hex(),
            "references": hex(&references().encode()),
            "references_digest": references().digest().to_hex(),
            "captured": hex(&captured().encode()),
            "captured_digest": captured().digest().to_hex(),
        }),
    );
}
