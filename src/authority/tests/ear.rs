//! Attestation results as JWTs, over the API and with a real token: who gets them, what they say, who doesn't, and that heads don't wait for them.
#[cfg(test)]
mod support;

use std::process::{Command, Stdio};
use std::time::Duration;

use countersign_authority::init::InitOptions;
use countersign_client::{ClientError, ClientIdentity};
use countersign_core::api::admin::{
    PolicyCall, PrepareKeyCall, RevocationCall, RotateCall, SubjectDocument, WithdrawKeyCall,
};
use countersign_core::api::{AttestationResultAnswer, AttestationResultCall, B64, JwkSet};
use countersign_core::digest::{Sha256Digest, sha256};
use countersign_core::ear::{EarAppraisal, EarClaims, PROFILE, TYP};
use countersign_core::jws::{JwsError, key_id, verify};
use countersign_core::key::VerifyingKey;
use countersign_core::leaf::appraisal::Appraisal;
use countersign_core::leaf::control::{KeyPurpose, Role, key_introduction};
use countersign_core::leaf::decision::Decision;
use countersign_core::leaf::host_state::HostStateRecord;
use countersign_core::leaf::{Leaf, leaf_hash};
use support::{Host, House, ORIGIN, approved, code, policy, with_house};

#[cfg(test)]
fn with_nonce(nonce: &[u8]) -> AttestationResultCall {
    AttestationResultCall { nonce: Some(B64(nonce.to_vec())) }
}

/// The keys that the log has for JWTs, whatever their state.
#[cfg(test)]
async fn keys(house: &House) -> Vec<VerifyingKey> {
    let keys = house.admin().keys().await.unwrap();
    keys.jwt.into_iter().map(|key| VerifyingKey::try_from(key.key).unwrap()).collect()
}

#[cfg(test)]
async fn claims(house: &House, answer: &AttestationResultAnswer) -> EarClaims {
    let payload = verify(&answer.jwt, TYP, &keys(house).await).unwrap();
    serde_json::from_slice(&payload).unwrap()
}

#[cfg(test)]
async fn leaf(house: &House, index: u64) -> Vec<u8> {
    house.admin().leaves(index, 1).await.unwrap().leaves.remove(0).0
}

#[cfg(test)]
async fn attest(host: &Host) {
    host.client.attest(&host.attestation().await).await.unwrap();
}

/// Evidence without requests: the same of it as of a decision.
#[cfg(test)]
async fn told_by_an_attestation(house: &House, host: &Host) {
    let plain = AttestationResultCall::default();
    assert_eq!(code(host.client.attestation_result(&plain).await), "result-absent");
    attest(host).await;
    let answer = host.client.attestation_result(&plain).await.unwrap();
    let told = claims(house, &answer).await;
    let bytes = leaf(house, answer.index).await;
    assert_eq!(told.countersign_record.index, answer.index);
    assert_eq!(told.countersign_record.leaf, leaf_hash(&bytes).to_hex());
    assert_eq!((told.eat_profile.as_str(), told.iss.as_str()), (PROFILE, ORIGIN));
    assert_eq!((told.sub, told.eat_nonce), (host.id.to_hex(), None));
    let document = house.admin().host(&host.id).await.unwrap();
    assert_eq!((told.exp, answer.expires_ms), (document.trusted_until_ms / 1_000, told.exp * 1_000));
    assert_eq!(told.submods["host"].ear_status, document.tier);
    let record = HostStateRecord::parse(&Leaf::parse(&bytes).unwrap().body).unwrap();
    let basis = record.basis.unwrap();
    assert_eq!(told.ear_verifier_id.build, basis.engine);
    shows(&told.submods["host"], &basis.appraisal, basis.policy.as_ref());
}

/// The vector and the policy of a leaf, and no others.
#[cfg(test)]
fn shows(told: &EarAppraisal, appraisal: &Appraisal, policy: Option<&Sha256Digest>) {
    let vector = told.ear_trustworthiness_vector.as_ref().unwrap();
    let values: Vec<u64> = appraisal.vector.iter().map(|(_, value)| *value).collect();
    let names = ["instance-identity", "configuration", "executables", "hardware"];
    assert_eq!(names.map(|name| vector[name]).to_vec(), values);
    let named = |digest: &Sha256Digest| {
        format!("ni:///sha-256;{}", data_encoding::BASE64URL_NOPAD.encode(digest.as_bytes()))
    };
    assert_eq!(told.ear_appraisal_policy_ids, policy.map(|digest| vec![named(digest)]));
}

/// A decision: the vector and the policy too, also where the answer was no.
#[cfg(test)]
async fn told_by_decisions(house: &House, host: &Host) {
    for (id, source) in [("r1", support::PERMIT), ("r2", "forbid(principal, action, resource);")] {
        let expected_epoch = house.admin().policy().await.unwrap().epoch;
        let call = PolicyCall { document: B64(policy(source).encode()), expected_epoch };
        house.admin().activate_policy(&call).await.unwrap();
        host.artifacts(&[id]).await.unwrap();
        let answer = host.client.attestation_result(&with_nonce(b"12345678")).await.unwrap();
        let told = claims(house, &answer).await;
        let body = Leaf::parse(&leaf(house, answer.index).await).unwrap();
        let decision = Decision::parse(&body.body).unwrap();
        assert_eq!((decision.request_id.as_str(), told.iat), (id, body.time_ms / 1_000));
        assert_eq!(told.eat_nonce, Some(B64(b"12345678".to_vec())));
        let appraisal = &told.submods["host"];
        assert_eq!(appraisal.ear_status, decision.appraisal.tier.name());
        shows(appraisal, &decision.appraisal, decision.policy.as_ref().map(|policy| &policy.digest));
        assert_eq!(told.ear_verifier_id.build, decision.engine);
    }
}

/// An auditor gets the same bytes as the host, and one of nobody gets none; neither gateways nor anyone ask of hosts, and no host of another.
#[cfg(test)]
async fn who_may_ask(house: &House, host: &Host) {
    let plain = AttestationResultCall::default();
    let own = host.client.attestation_result(&plain).await.unwrap();
    let auditor = house.admin_side(house.operator("auditor", Role::Viewer).await);
    assert_eq!(auditor.attestation_result_of(&host.id, &plain).await.unwrap().jwt, own.jwt);
    let mut stranger = *host.id.as_bytes();
    stranger[7] ^= 1;
    let stranger = countersign_core::name::HostId::from_slice(&stranger).unwrap();
    assert_eq!(code(auditor.attestation_result_of(&stranger, &plain).await), "not-found");
    let gateway = house.service(house.gateway("gate-1").await.0);
    assert_eq!(code(gateway.attestation_result(&plain).await), "forbidden");
    let anyone = house.service(ClientIdentity::Anonymous);
    assert_eq!(code(anyone.attestation_result(&plain).await), "unauthenticated");
    for length in [0, 7, 65] {
        assert_eq!(code(host.client.attestation_result(&with_nonce(&vec![1; length])).await), "malformed");
    }
}

#[test]
fn a_host_and_its_operators_get_what_the_newest_leaf_says_and_nothing_else() {
    let name = "a_host_and_its_operators_get_what_the_newest_leaf_says_and_nothing_else";
    let often = |options: &mut InitOptions| {
        options.limits.jwt_signatures_per_sec = 100;
        options.limits.jwt_signatures_burst = 100;
        options.limits.caller_jwt_signatures_per_hour = 3_600_000;
    };
    with_house(name, often, async |house| {
        let host = house.host("host").await;
        told_by_an_attestation(&house, &host).await;
        told_by_decisions(&house, &host).await;
        who_may_ask(&house, &host).await;
        by_another_library(&house, &host).await;
        house.serving.stop().await;
    });
}

/// PyJWT with the published keys takes the result, and nothing that was altered.
#[cfg(test)]
async fn by_another_library(house: &House, host: &Host) {
    let answer = host.client.attestation_result(&with_nonce(&[9; 64])).await.unwrap();
    let jwks: JwkSet = house.service(ClientIdentity::Anonymous).jwks().await.unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/pyjwt.py");
    let input = serde_json::json!({"jwt": answer.jwt, "jwks": jwks, "iss": ORIGIN, "sub": host.id.to_hex()});
    let mut child = Command::new("/usr/bin/python3")
        .args(["-B", script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    serde_json::to_writer(child.stdin.take().unwrap(), &input).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && said.trim().ends_with("refused"), "{said}");
}

#[test]
fn who_is_revoked_or_not_trusted_any_more_gets_none() {
    let name = "who_is_revoked_or_not_trusted_any_more_gets_none";
    with_house(
        name,
        |_| (),
        async |house| {
            let plain = AttestationResultCall::default();
            let mut document = policy(support::PERMIT);
            document.settings.host_trust_secs = 5;
            let call = PolicyCall { document: B64(document.encode()), expected_epoch: 0 };
            house.admin().activate_policy(&call).await.unwrap();
            let host = house.host("host").await;
            attest(&host).await;
            let answer = host.client.attestation_result(&plain).await.unwrap();
            // The deadline ends it, although it was signed and kept.
            let ended = async || {
                let now = host.client.attestation_result(&plain).await;
                now.is_err().then(|| code(now))
            };
            let mut refused = None;
            for _ in 0..2_400 {
                refused = ended().await;
                if refused.is_some() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(25)).await;
            }
            assert_eq!(refused.as_deref(), Some("result-expired"));
            let now_ms =
                std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis();
            assert!(u128::from(answer.expires_ms) <= now_ms);
            // New evidence, a new result; revoked, none, for nobody.
            attest(&host).await;
            host.client.attestation_result(&plain).await.unwrap();
            let revoke = |revoke| RevocationCall {
                subject: SubjectDocument::Host { host: host.id.to_hex() },
                revoke,
                reason: "test".to_owned(),
            };
            house.admin().revoke(&revoke(true)).await.unwrap();
            assert_eq!(code(host.client.attestation_result(&plain).await), "host-revoked");
            assert_eq!(code(house.admin().attestation_result_of(&host.id, &plain).await), "host-revoked");
            house.serving.stop().await;
        },
    );
}

#[cfg(test)]
async fn rotate(house: &House, label: &str) -> Result<String, ClientError> {
    let admin = house.admin();
    let call = PrepareKeyCall { label: label.to_owned(), purpose: Some("jwt".to_owned()) };
    let prepared = admin.prepare_key(&call).await?;
    let key = VerifyingKey::try_from(prepared.key.clone()).unwrap();
    let custody = sha256(&prepared.custody.0);
    let act = key_introduction(ORIGIN, KeyPurpose::Jwt, &key, &prepared.backend, &custody);
    let thumbprint = key.thumbprint().to_hex();
    // A word for a head key isn't one for this.
    let other = key_introduction(ORIGIN, KeyPurpose::Head, &key, &prepared.backend, &custody);
    let approval = approved(&house.admin_key(), &other);
    let refused = admin.rotate_key(&RotateCall { thumbprint: thumbprint.clone(), approval }).await;
    assert_eq!(code(refused), "approval-invalid");
    let approval = approved(&house.admin_key(), &act);
    admin.rotate_key(&RotateCall { thumbprint: thumbprint.clone(), approval }).await?;
    Ok(thumbprint)
}

#[cfg(test)]
async fn states(house: &House) -> Vec<(String, String)> {
    let keys = house.admin().keys().await.unwrap();
    keys.jwt.into_iter().map(|key| (key.thumbprint, key.state)).collect()
}

#[test]
fn a_new_key_is_published_before_it_signs_and_the_old_one_after_it_signed() {
    let name = "a_new_key_is_published_before_it_signs_and_the_old_one_after_it_signed";
    let short = |options: &mut InitOptions| options.limits.lease_secs = 3;
    with_house(name, short, async |house| {
        let host = house.host("host").await;
        attest(&host).await;
        let plain = AttestationResultCall::default();
        let before = host.client.attestation_result(&plain).await.unwrap().jwt;
        let first = states(&house).await;
        assert_eq!(first.iter().map(|(_, state)| state.as_str()).collect::<Vec<_>>(), ["active"]);
        // A head key isn't taken for this, nor this one's label again.
        assert_eq!(code(rotate(&house, "head-1").await), "rotation-refused");
        assert_eq!(code(rotate(&house, "jwt").await), "rotation-refused");
        let made = rotate(&house, "jwt-2").await.unwrap();
        let published = |set: &JwkSet| set.keys.iter().map(|key| key.kid.clone()).collect::<Vec<_>>();
        let anyone = house.service(ClientIdentity::Anonymous);
        assert_eq!(published(&anyone.jwks().await.unwrap()), [first[0].0.clone(), made.clone()]);
        let same = host.client.attestation_result(&with_nonce(&[1; 8])).await.unwrap();
        let signer = |jwt: &str| {
            let header = data_encoding::BASE64URL_NOPAD.decode(jwt.split('.').next().unwrap().as_bytes());
            let header: serde_json::Value = serde_json::from_slice(&header.unwrap()).unwrap();
            assert_eq!((&header["alg"], &header["typ"]), (&"EdDSA".into(), &TYP.into()));
            header["kid"].as_str().unwrap().to_owned()
        };
        assert_eq!(signer(&same.jwt), first[0].0, "not before its time");
        let mut done = Vec::new();
        for _ in 0..2_400 {
            done = states(&house).await;
            if done.iter().map(|(_, state)| state.as_str()).eq(["deactivated", "active"]) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        assert_eq!(
            done,
            [(first[0].0.clone(), "deactivated".to_owned()), (made.clone(), "active".to_owned())]
        );
        attest(&host).await;
        let after = host.client.attestation_result(&plain).await.unwrap().jwt;
        assert_eq!(signer(&after), made);
        // Both verify by what is published now; head keys and the CA's don't stand there.
        let set = anyone.jwks().await.unwrap();
        assert_eq!(published(&set), [first[0].0.clone(), made]);
        let all = keys(&house).await;
        for jwt in [&before, &after] {
            verify(jwt, TYP, &all).unwrap();
            assert_eq!(verify(jwt, "exec-artifact+jwt", &all), Err(JwsError::Header));
        }
        withdrawn(&house, &host).await;
        let head: Vec<_> = house.admin().keys().await.unwrap().head;
        let heads: Vec<String> =
            head.iter().map(|key| key_id(&VerifyingKey::try_from(key.key.clone()).unwrap())).collect();
        assert!(published(&set).iter().all(|kid| !heads.contains(kid)));
        house.serving.stop().await;
    });
}

/// A log without a key for this, as those from before there was one, says so, until an officer introduces one, which signs at once.
#[cfg(test)]
async fn withdrawn(house: &House, host: &Host) {
    let plain = AttestationResultCall::default();
    let active = states(house).await.pop().unwrap().0;
    let call = |thumbprint: &str| WithdrawKeyCall { thumbprint: thumbprint.to_owned() };
    let operator = house.admin_side(house.operator("op", Role::Operator).await);
    assert_eq!(code(operator.withdraw_key(&call(&active)).await), "forbidden");
    house.admin().withdraw_key(&call(&active)).await.unwrap();
    assert_eq!(code(house.admin().withdraw_key(&call(&active)).await), "not-found");
    assert_eq!(states(house).await.pop().unwrap().1, "withdrawn");
    assert_eq!(code(host.client.attestation_result(&plain).await), "jwt-key-absent");
    let published = house.service(ClientIdentity::Anonymous).jwks().await.unwrap();
    assert!(published.keys.iter().all(|key| key.kid != active));
    // A head key isn't withdrawn like this.
    let head = house.admin().keys().await.unwrap().head.remove(0).thumbprint;
    assert_eq!(code(house.admin().withdraw_key(&call(&head)).await), "not-found");
    rotate(house, "jwt-3").await.unwrap();
    let mut again = None;
    for _ in 0..2_400 {
        again = host.client.attestation_result(&plain).await.ok();
        if again.is_some() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    assert!(again.is_some(), "{:?}", states(house).await);
}

#[test]
fn who_asks_for_signatures_without_end_is_held_back_and_heads_go_on() {
    let name = "who_asks_for_signatures_without_end_is_held_back_and_heads_go_on";
    let tweak = |options: &mut InitOptions| {
        options.limits.jwt_signatures_per_sec = 1;
        options.limits.jwt_signatures_burst = 6;
        options.limits.caller_jwt_signatures_per_hour = 60;
    };
    with_house(name, tweak, async |house| {
        house.permit_all().await;
        let (greedy, other) = (house.host("greedy").await, house.host("other").await);
        attest(&greedy).await;
        let asked = async || {
            let mut answers = Vec::new();
            for round in 0_u64..40 {
                let nonce = with_nonce(&round.to_be_bytes());
                answers.push(
                    greedy
                        .client
                        .attestation_result(&nonce)
                        .await
                        .map_or_else(|error| code::<()>(Err(error)), |_| "signed".to_owned()),
                );
            }
            answers
        };
        let served = async || {
            for round in 0..10 {
                let id = format!("r{round}");
                let decided = other.artifacts(&[&id]).await.unwrap();
                assert_eq!(decided.decisions[0].verdict, "allow");
            }
        };
        let (answers, ()) = tokio::join!(asked(), served());
        let signed = answers.iter().filter(|answer| *answer == "signed").count();
        // One a minute in the long run, four at once.
        assert!((1..=5).contains(&signed), "{answers:?}");
        assert!(answers.iter().all(|answer| answer == "signed" || answer == "rate-limited"), "{answers:?}");
        // Another caller has a budget of its own, and what is signed already costs nobody anything.
        let plain = AttestationResultCall::default();
        let first = other.client.attestation_result(&plain).await.unwrap().jwt;
        for _ in 0..20 {
            assert_eq!(other.client.attestation_result(&plain).await.unwrap().jwt, first);
        }
        house.serving.stop().await;
    });
}
