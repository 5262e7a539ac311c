//! Acts of officers: what one has drafted against doesn't move unseen (PROTOCOL §8.6); new keys and officers need an officer's own signature, and
//! the recovery key's word is obeyed (§8.5, §8.9, §10).
#[cfg(test)]
mod support;

use countersign_authority::config::Signer;
use countersign_authority::custody::KeyStore;
use countersign_client::Client;
use countersign_core::api::B64;
use countersign_core::api::admin::{
    CaptureCall, CompromiseCall, OperatorCall, PolicyCall, PolicyCheckCall, PolicyValidateCall,
    PrepareKeyCall, ReferencesCall, RevocationCall, RotateCall, SubjectDocument,
};
use countersign_core::bundle::{Compromise, Says, Statement, statement_preimage};
use countersign_core::checkpoint::HeadBody;
use countersign_core::key::VerifyingKey;
use countersign_core::leaf::control::{Role, officer_addition};
use countersign_core::name::Origin;
use countersign_core::note::SignedNote;
use countersign_fixture::SoftHsm;
use support::{
    House, ORIGIN, approved, code, fresh_key, introduction, named_key, policy, sign, verifying, with_house,
};

#[cfg(test)]
fn document(text: &str) -> B64 {
    B64(policy(text).encode())
}

#[test]
fn what_a_policy_would_change_is_told_before_it_is_active() {
    let name = "what_a_policy_would_change_is_told_before_it_is_active";
    with_house(
        name,
        |_| (),
        async |house| {
            house.permit_all().await;
            let (one, two) = (house.host("one").await, house.host("two").await);
            for (host, request) in [(&one, "r1"), (&two, "r1"), (&one, "r2")] {
                assert_eq!(host.artifacts(&[request]).await.unwrap().decisions[0].verdict, "allow");
            }
            let admin = house.admin();
            let active = admin.policy().await.unwrap();
            // Index, verdict under the active policy and under the other one, of each host.
            let foreseen = async |document: B64, before| {
                let checked = admin.check_policy(&PolicyCheckCall { document, before }).await.unwrap();
                assert_eq!((checked.epoch, checked.before), (active.epoch, None));
                let verdict = |word: Option<String>| word.unwrap();
                let of = |id: String| if id == one.id.to_hex() { 1 } else { 2 };
                let decisions = checked.decisions.into_iter();
                let found: Vec<_> =
                    decisions.map(|it| (of(it.host), it.index, verdict(it.now), verdict(it.then))).collect();
                assert!(found.is_sorted_by(|a, b| a.1 > b.1), "newest first: {found:?}");
                found
            };
            let told = |found: &[(u8, u64, String, String)]| -> Vec<(u8, String, String)> {
                found.iter().map(|(host, _, now, then)| (*host, now.clone(), then.clone())).collect()
            };
            let row = |host: u8, now: &str, then: &str| (host, now.to_owned(), then.to_owned());
            let same = foreseen(document(support::PERMIT), None).await;
            assert_eq!(told(&same), [row(1, "allow", "allow"), row(2, "allow", "allow")]);
            let strict = "permit(principal, action, resource) when { context.endorsement.kind == \"iak-certificate\" };";
            let strict = foreseen(document(strict), None).await;
            assert_eq!(told(&strict), [row(1, "allow", "policy-denied"), row(2, "allow", "policy-denied")]);
            // A host that has to quote other registers first can't be judged by what it quoted.
            let mut other = policy(support::PERMIT);
            other.settings.pcrs.pop();
            let other = foreseen(B64(other.encode()), None).await;
            assert_eq!(told(&other)[0], row(1, "allow", "quote-selection-mismatch"));
            // Page by page: what lies below the newest decision about the first host.
            let below = foreseen(document(support::PERMIT), Some(same[0].1)).await;
            assert_eq!(told(&below), told(&[same[1].clone(), below[1].clone()]));
            assert!(below[1].0 == 1 && below[1].1 < same[1].1, "{below:?}");
            assert!(foreseen(document(support::PERMIT), Some(0)).await.is_empty());
            // Revocation is today's, and nothing of all this was put into force.
            let subject = SubjectDocument::Host { host: one.id.to_hex() };
            admin.revoke(&RevocationCall { subject, revoke: true, reason: "test".to_owned() }).await.unwrap();
            let revoked = foreseen(document(support::PERMIT), None).await;
            assert_eq!(told(&revoked)[0], row(1, "host-revoked", "host-revoked"));
            assert_eq!(admin.policy().await.unwrap().digest, active.digest);
            let call = PolicyCheckCall { document: document("permit(everything);"), before: None };
            assert_eq!(code(admin.check_policy(&call).await), "policy-invalid");
            house.serving.stop().await;
        },
    );
}

#[test]
fn a_change_drafted_against_another_epoch_is_refused() {
    with_house(
        "a_change_drafted_against_another_epoch_is_refused",
        |_| (),
        async |house| {
            let one = house.admin();
            let two = house.admin_side(house.operator("officer-2", Role::SecurityOfficer).await);
            let strict = document("permit(principal, action, resource) when { context.ttl_secs < 60 };");
            let loose = document(support::PERMIT);
            // Both look at the same state; one is faster.
            let seen =
                one.validate_policy(&PolicyValidateCall { document: strict.clone() }).await.unwrap().epoch;
            assert_eq!(seen, two.policy().await.unwrap().epoch);
            let call =
                |document: &B64, expected_epoch| PolicyCall { document: document.clone(), expected_epoch };
            one.activate_policy(&call(&strict, seen)).await.unwrap();
            assert_eq!(code(two.activate_policy(&call(&loose, seen)).await), "epoch-moved");
            assert_eq!(
                code(two.activate_policy(&call(&loose, seen + 2)).await),
                "epoch-moved",
                "not yet in force"
            );
            assert_eq!(two.policy().await.unwrap().document, Some(strict));
            two.activate_policy(&call(&loose, seen + 1)).await.unwrap();
            // Policy and references share the counter: references drafted beside another policy are looked at again.
            let host = house.host("host").await;
            host.client.attest(&host.attestation().await).await.unwrap();
            let capture =
                CaptureCall { host: host.id.to_hex(), set: "fleet".to_owned(), pcrs: None, append: true };
            let captured = one.capture_references(&capture).await.unwrap();
            assert_eq!(captured.epoch, seen + 2);
            let call = |expected_epoch| ReferencesCall {
                document: captured.document.clone(),
                expected_epoch,
                ima_policy: None,
            };
            assert_eq!(code(one.activate_references(&call(seen)).await), "epoch-moved");
            one.activate_references(&call(captured.epoch)).await.unwrap();
            assert_eq!(code(one.activate_references(&call(captured.epoch)).await), "epoch-moved");
            house.serving.stop().await;
        },
    );
}

#[test]
fn of_two_changes_at_once_against_one_epoch_one_is_appended() {
    with_house(
        "of_two_changes_at_once_against_one_epoch_one_is_appended",
        |_| (),
        async |house| {
            let (one, two) = (house.admin(), house.admin());
            let drafts = [10, 20].map(|secs| {
                let text =
                    format!("permit(principal, action, resource) when {{ context.ttl_secs < {secs} }};");
                PolicyCall { document: document(&text), expected_epoch: 0 }
            });
            let (first, second) =
                tokio::join!(one.activate_policy(&drafts[0]), two.activate_policy(&drafts[1]));
            let refused = if first.is_ok() { second } else { first };
            assert_eq!(code(refused), "epoch-moved");
            assert_eq!(one.policy().await.unwrap().epoch, 1);
            house.serving.stop().await;
        },
    );
}

#[test]
fn a_head_key_is_introduced_with_an_officers_own_signature_only() {
    with_house(
        "a_head_key_is_introduced_with_an_officers_own_signature_only",
        |_| (),
        async |house| {
            let admin = house.admin();
            let label = || PrepareKeyCall { label: "head-2".to_owned(), purpose: None };
            let prepared = admin.prepare_key(&label()).await.unwrap();
            let (thumbprint, act) = introduction(&prepared);
            assert_eq!(admin.keys().await.unwrap().head.len(), 1, "nothing is in the log yet");
            let rotate = |approval| RotateCall { thumbprint: thumbprint.clone(), approval };
            // A stranger's signature, an operator's, an officer's over another act.
            let operator = fresh_key();
            let call = OperatorCall {
                subject: named_key("operator-1", &operator),
                role: Role::Operator,
                approval: None,
            };
            admin.add_operator(&call).await.unwrap();
            for approval in [
                approved(&fresh_key(), &act),
                approved(&operator, &act),
                approved(&house.admin_key(), b"another act"),
            ] {
                assert_eq!(code(admin.rotate_key(&rotate(approval)).await), "approval-invalid");
            }
            let approval = || approved(&house.admin_key(), &act);
            let other = RotateCall { thumbprint: "00".repeat(32), approval: approval() };
            assert_eq!(code(admin.rotate_key(&other).await), "rotation-refused");
            // Made again under the same label, it is the same key: a restart in between costs nothing.
            assert_eq!(introduction(&admin.prepare_key(&label()).await.unwrap()).0, thumbprint);
            let keys = admin.rotate_key(&rotate(approval())).await.unwrap();
            assert_eq!(keys.head.len(), 2);
            house.serving.stop().await;
        },
    );
}

#[test]
fn a_security_officer_is_added_with_an_officers_own_signature_only() {
    with_house(
        "a_security_officer_is_added_with_an_officers_own_signature_only",
        |_| (),
        async |house| {
            let admin = house.admin();
            let key = fresh_key();
            let act = officer_addition(ORIGIN, "officer-2", &verifying(&key).thumbprint());
            let call =
                |role, approval| OperatorCall { subject: named_key("officer-2", &key), role, approval };
            for approval in
                [None, Some(approved(&key, &act)), Some(approved(&house.admin_key(), b"another act"))]
            {
                let refused = admin.add_operator(&call(Role::SecurityOfficer, approval)).await;
                assert_eq!(code(refused), "approval-invalid");
            }
            let approval = || Some(approved(&house.admin_key(), &act));
            assert_eq!(code(admin.add_operator(&call(Role::Viewer, approval())).await), "malformed");
            admin.add_operator(&call(Role::SecurityOfficer, approval())).await.unwrap();
            house.serving.stop().await;
        },
    );
}

/// The first operator rotates, and the new key is active.
#[cfg(test)]
async fn rotated(house: &House) {
    house.rotate("head-2").await.unwrap();
    let began = std::time::Instant::now();
    let states = || async {
        let keys = house.admin().keys().await.unwrap();
        keys.head.into_iter().map(|key| key.state).collect::<Vec<_>>()
    };
    while states().await != ["deactivated", "active"] {
        assert!(began.elapsed().as_secs() < 60);
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

/// The newest head.
#[cfg(test)]
async fn newest(client: &Client) -> HeadBody {
    HeadBody::parse(SignedNote::parse(&client.head().await.unwrap()).unwrap().text()).unwrap()
}

#[test]
fn the_recovery_keys_word_against_a_head_key_is_held_against_the_log_and_recorded() {
    let test = "the_recovery_keys_word_against_a_head_key_is_held_against_the_log_and_recorded";
    with_house(
        test,
        |options| options.limits.lease_secs = 3,
        async |house| {
            let admin = house.admin();
            let anyone = house.service(countersign_client::ClientIdentity::Anonymous);
            let last_good = newest(&anyone).await;
            let keys = admin.keys().await.unwrap();
            assert_eq!(keys.statements, 1);
            let first = VerifyingKey::try_from(keys.head[0].key.clone()).unwrap();
            let place = Signer::Pkcs11 {
                module: SoftHsm::module(),
                token: "recovery".to_owned(),
                pin_file: house.scratch.join("pin"),
                head_key: "recovery".to_owned(),
                ca_key: "recovery".to_owned(),
                jwt_key: "recovery".to_owned(),
            };
            let mut recovery = KeyStore::new(&place).0.signer("recovery").unwrap();
            let mut stated =
                |number: u64, key: &VerifyingKey, last_good: &HeadBody, head_keys: Vec<VerifyingKey>| {
                    let says = Says::Compromise(Compromise {
                        key: key.clone(),
                        last_good: last_good.clone(),
                        head_keys,
                    });
                    let origin = Origin::parse(ORIGIN).unwrap();
                    let statement = Statement { number, origin, time_ms: 1, says }.encode();
                    let signature =
                        recovery.sign(&statement_preimage(&statement)).unwrap().as_bytes().to_vec();
                    CompromiseCall { statement: B64(statement), signature: B64(signature) }
                };
            let alone = stated(2, &first, &last_good, Vec::new());
            assert_eq!(code(admin.compromise_key(&alone).await), "statement-invalid", "no other key signs");
            rotated(&house).await;
            let second = VerifyingKey::try_from(admin.keys().await.unwrap().head[1].key.clone()).unwrap();
            let instead = || vec![second.clone()];
            // By another key; out of number; of a head that never was; about a key that nobody knows; a successor that doesn't sign.
            let good = stated(2, &first, &last_good, instead());
            let forged = sign(&house.admin_key(), &statement_preimage(&good.statement.0));
            let forged = CompromiseCall { statement: good.statement.clone(), signature: B64(forged) };
            let stranger = verifying(&fresh_key());
            let other_head = HeadBody { time_ms: last_good.time_ms + 1, ..last_good.clone() };
            for bad in [
                forged,
                stated(3, &first, &last_good, instead()),
                stated(1, &first, &last_good, instead()),
                stated(2, &first, &other_head, instead()),
                stated(2, &stranger, &last_good, instead()),
                stated(2, &first, &last_good, vec![stranger.clone()]),
                CompromiseCall { statement: B64(vec![1]), signature: good.signature.clone() },
            ] {
                assert_eq!(code(admin.compromise_key(&bad).await), "statement-invalid");
            }
            let keys = admin.compromise_key(&good).await.unwrap();
            let states: Vec<&str> = keys.head.iter().map(|key| key.state.as_str()).collect();
            assert_eq!((states.as_slice(), keys.statements), (&["compromised", "active"][..], 2));
            assert_eq!(code(admin.compromise_key(&good).await), "statement-invalid", "twice");
            // It is in the log, heads go on, and the log starts again.
            assert!(newest(&anyone).await.size > last_good.size);
            house.permit_all().await;
            let config = house.config.clone();
            house.serving.stop().await;
            countersign_authority::serve::Serving::start(config).await.unwrap().stop().await;
        },
    );
}

#[test]
fn an_authority_whose_heads_would_be_rarer_than_gateways_need_does_not_start() {
    let test = "an_authority_whose_heads_would_be_rarer_than_gateways_need_does_not_start";
    with_house(
        test,
        |_| (),
        async |house| {
            let mut config = house.config.clone();
            house.serving.stop().await;
            config.limits.lease_secs = 31;
            let refused = countersign_authority::serve::Serving::start(config.clone()).await.err().unwrap();
            assert!(refused.to_string().contains("publishes a lease of 30 s"), "{refused}");
            config.limits.lease_secs = 10;
            countersign_authority::serve::Serving::start(config).await.unwrap().stop().await;
        },
    );
}
