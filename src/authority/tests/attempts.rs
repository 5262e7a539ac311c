//! What an enrolled host or a gateway that means ill can make of its right to be heard: how many leaves, how many kept bytes, and that nothing
//! of it goes unaccounted for.
#[cfg(test)]
mod support;

use countersign_authority::audit::{ReplayReport, StoreLog, replay};
use countersign_authority::init::InitOptions;
use countersign_core::api::admin::{RevocationCall, SubjectDocument};
use countersign_core::api::{ArtifactsCall, B64, OutcomeDocument, OutcomesCall};
use countersign_core::digest::{Sha256Digest, sha256};
use countersign_core::leaf::record::Faults;
use countersign_core::leaf::{Kind, Leaf, leaf_hash};
use countersign_core::refusal::RefusalCode;
use countersign_core::tlog_proof::TlogProof;
use countersign_fixture::{PATIENCE, wait_until};
use std::collections::BTreeMap;
use support::{Host, House, code, with_house};

#[cfg(test)]
async fn leaves(house: &House) -> Vec<Leaf> {
    let mut found = Vec::new();
    loop {
        let page = house.admin().leaves(found.len() as u64, 1_000).await.unwrap().leaves;
        if page.is_empty() {
            return found;
        }
        found.extend(page.iter().map(|bytes| Leaf::parse(&bytes.0).unwrap()));
    }
}

#[cfg(test)]
async fn count(house: &House, kind: Kind) -> usize {
    leaves(house).await.iter().filter(|leaf| leaf.kind == kind).count()
}

#[cfg(test)]
async fn is_kept(house: &House, bytes: &[u8]) -> bool {
    let digest: Sha256Digest = sha256(bytes);
    house.admin().blob(&digest).await.is_ok()
}

#[cfg(test)]
fn junk(number: usize) -> Vec<u8> {
    format!("no boot log, number {number}").into_bytes()
}

/// The same quote once more, with other requests and another boot log.
#[cfg(test)]
fn reposted(host: &Host, call: &ArtifactsCall, ids: &[&str], boot_log: &[u8]) -> ArtifactsCall {
    let mut again = call.clone();
    again.requests = ids.iter().map(|id| host.signed(&host.request(id))).collect();
    again.evidence.boot_log = Some(sha256(boot_log).to_hex());
    again.evidence.members = vec![B64(boot_log.to_vec())];
    again
}

#[cfg(test)]
fn audited(house: &House) -> ReplayReport {
    let source = StoreLog::new(house.serving.authority().reader()).unwrap();
    let report = replay(&source, &house.bundle(), &mut |_| {}).unwrap();
    assert_eq!((&report.mismatches[..], &report.not_replayable[..]), (&[][..], &[][..]));
    report
}

#[test]
fn one_quote_with_ever_other_boot_logs_leaves_one_denial_and_keeps_nothing() {
    let name = "one_quote_with_ever_other_boot_logs_leaves_one_denial_and_keeps_nothing";
    with_house(
        name,
        |_| (),
        async |house| {
            house.permit_all().await;
            let host = house.host("host").await;
            let call = host.call(&["r1"]).await;
            host.client.artifacts(&call).await.unwrap();
            assert!(is_kept(&house, host.machine.boot.log()).await, "what a fresh challenge brings is kept");
            let first = host.client.artifacts(&reposted(&host, &call, &["r2"], &junk(0))).await.unwrap();
            assert_eq!(first.decisions[0].code.as_deref(), Some("challenge-spent"));
            for number in 1..6 {
                let id = format!("again-{number}");
                let again = reposted(&host, &call, &[&id], &junk(number));
                assert_eq!(code(host.client.artifacts(&again).await), "challenge-spent");
            }
            let attested = host.attestation().await;
            host.client.attest(&attested).await.unwrap();
            let mut again = attested.clone();
            again.evidence.boot_log = Some(sha256(&junk(9)).to_hex());
            again.evidence.members = vec![B64(junk(9))];
            let told = host.client.attest(&again).await.unwrap();
            assert_eq!(told.code.as_deref(), Some("challenge-spent"));
            assert_eq!(code(host.client.attest(&again).await), "challenge-spent");
            // A call of many requests over a spent challenge is one leaf, too.
            let other = host.call(&["r3"]).await;
            host.client.artifacts(&other).await.unwrap();
            let many = reposted(&host, &other, &["m1", "m2", "m3"], host.machine.boot.log());
            assert_eq!(code(host.client.artifacts(&many).await), "challenge-spent");
            assert_eq!(count(&house, Kind::Deny).await, 2);
            assert_eq!(count(&house, Kind::HostState).await, 2);
            for number in 0..10 {
                assert!(!is_kept(&house, &junk(number)).await, "{number}");
            }
            // The denials repeat from what was kept.
            let report = audited(&house);
            assert_eq!((report.replayed, report.denied), (6, 3));
            // An honest retry is none of this.
            assert_eq!(host.client.artifacts(&call).await.unwrap().decisions[0].verdict, "allow");
            house.serving.stop().await;
        },
    );
}

#[test]
fn a_quote_that_does_not_hold_is_denied_and_logged_whatever_boot_log_it_names() {
    let name = "a_quote_that_does_not_hold_is_denied_and_logged_whatever_boot_log_it_names";
    with_house(
        name,
        |_| (),
        async |house| {
            house.permit_all().await;
            let host = house.host("host").await;
            // The attestation key's, over another request; what it names as its boot log was never sent.
            let mut call = host.call(&["r1"]).await;
            call.requests = vec![host.signed(&host.request("r2"))];
            call.evidence.boot_log = Some(sha256(&junk(1)).to_hex());
            call.evidence.members.clear();
            let told = host.client.artifacts(&call).await.unwrap();
            assert_eq!(told.decisions[0].code.as_deref(), Some("quote-nonce-mismatch"));
            assert_eq!(count(&house, Kind::Deny).await, 1);
            assert_eq!(audited(&house).denied, 1);
            house.serving.stop().await;
        },
    );
}

#[test]
fn an_expired_challenge_leaves_one_denial() {
    let short = |options: &mut InitOptions| options.limits.challenge_secs = 1;
    with_house("an_expired_challenge_leaves_one_denial", short, async |house| {
        house.permit_all().await;
        let host = house.host("host").await;
        let offer = host.client.challenge().await.unwrap();
        let request = host.request("late");
        let mut call = ArtifactsCall {
            evidence: host.evidence(&offer, &[&request]),
            challenge: offer.challenge,
            requests: vec![host.signed(&request)],
        };
        assert!(wait_until(PATIENCE, || house.serving.authority().now_ms() > offer.expires_ms));
        call.evidence.members.push(B64(junk(1)));
        let told = host.client.artifacts(&call).await.unwrap();
        assert_eq!(told.decisions[0].code.as_deref(), Some("challenge-expired"));
        for number in 2..5 {
            let again = reposted(&host, &call, &[&format!("later-{number}")], &junk(number));
            assert_eq!(code(host.client.artifacts(&again).await), "challenge-expired");
        }
        assert_eq!(count(&house, Kind::Deny).await, 1);
        assert!(!is_kept(&house, host.machine.boot.log()).await);
        assert_eq!(audited(&house).denied, 1);
        house.serving.stop().await;
    });
}

#[test]
fn a_host_pays_for_its_requests_and_for_what_is_kept_for_it() {
    let tight = |options: &mut InitOptions| {
        options.limits.host_requests_per_sec = 1;
        options.limits.host_requests_burst = 12;
        options.limits.host_evidence_kib_per_sec = 1;
        options.limits.host_evidence_kib_burst = 100;
    };
    with_house("a_host_pays_for_its_requests_and_for_what_is_kept_for_it", tight, async |house| {
        house.permit_all().await;
        let host = house.host("host").await;
        host.artifacts(&["a1", "a2", "a3", "a4", "a5"]).await.unwrap();
        // Fresh challenges, each with another log of 60 KiB: the second is more than is left.
        let mut refused = Vec::new();
        for number in 0..3 {
            let mut call = host.call(&[&format!("log-{number}")]).await;
            let log = [junk(number), vec![0; 60 * 1_024]].concat();
            call.evidence.boot_log = Some(sha256(&log).to_hex());
            call.evidence.members = vec![B64(log.clone())];
            let answer = host.client.artifacts(&call).await;
            assert_eq!(is_kept(&house, &log).await, answer.is_ok());
            refused.extend(answer.is_err().then(|| code(answer)));
        }
        assert_eq!(refused, ["rate-limited"; 2]);
        // A log that is known costs nothing; the requests of a call count one by one.
        assert_eq!(host.artifacts(&["b1"]).await.unwrap().decisions[0].verdict, "allow");
        assert_eq!(code(host.artifacts(&["c1", "c2", "c3", "c4", "c5", "c6", "c7"]).await), "rate-limited");
        house.serving.stop().await;
    });
}

#[test]
fn a_revoked_host_fills_no_log() {
    let two = |options: &mut InitOptions| options.limits.revoked_denials_per_hour = 2;
    with_house("a_revoked_host_fills_no_log", two, async |house| {
        house.permit_all().await;
        let host = house.host("host").await;
        revoke(&house, &host).await;
        for id in ["r1", "r2"] {
            let decisions = host.artifacts(&[id]).await.unwrap().decisions;
            assert_eq!(decisions[0].code.as_deref(), Some("host-revoked"));
        }
        for id in ["r3", "r4", "r5"] {
            assert_eq!(code(host.artifacts(&[id]).await), "host-revoked");
        }
        assert_eq!(code(host.client.attest(&host.attestation().await).await), "host-revoked");
        assert_eq!((count(&house, Kind::Deny).await, count(&house, Kind::HostState).await), (2, 0));
        house.serving.stop().await;
    });
}

#[cfg(test)]
async fn revoke(house: &House, host: &Host) {
    let subject = SubjectDocument::Host { host: host.id.to_hex() };
    house.admin().revoke(&RevocationCall { subject, revoke: true, reason: "test".to_owned() }).await.unwrap();
}

#[test]
fn every_attempt_is_an_allow_a_denial_or_counted() {
    let quick = |options: &mut InitOptions| {
        options.limits.lease_secs = 3;
        options.limits.revoked_denials_per_hour = 1;
    };
    with_house("every_attempt_is_an_allow_a_denial_or_counted", quick, async |house| {
        house.permit_all().await;
        let host = house.host("host").await;
        let mut expected = BTreeMap::new();
        let mut counted = |code, attempts| *expected.entry(code).or_insert(0) += attempts;
        let call = host.call(&["r1", "r2"]).await;
        host.client.artifacts(&call).await.unwrap();
        // A retry is no new attempt.
        host.client.artifacts(&call).await.unwrap();
        let replay = reposted(&host, &call, &["s1", "s2", "s3"], &junk(1));
        assert_eq!(code(host.client.artifacts(&replay).await), "challenge-spent");
        counted(RefusalCode::ChallengeSpent, 2);
        let replay = reposted(&host, &call, &["t1", "t2"], &junk(2));
        assert_eq!(code(host.client.artifacts(&replay).await), "challenge-spent");
        counted(RefusalCode::ChallengeSpent, 2);
        let mut forged = host.call(&["u1", "u2", "u3"]).await;
        forged.evidence.attest.0[60] ^= 1;
        assert_eq!(code(host.client.artifacts(&forged).await), "quote-signature-invalid");
        counted(RefusalCode::QuoteSignatureInvalid, 3);
        let mut unsigned = host.call(&["v1"]).await;
        unsigned.requests[0].signature.0[3] ^= 1;
        assert_eq!(code(host.client.artifacts(&unsigned).await), "holder-signature-invalid");
        counted(RefusalCode::HolderSignatureInvalid, 1);
        let mut empty = host.call(&["w1"]).await;
        empty.requests.clear();
        assert_eq!(code(host.client.artifacts(&empty).await), "malformed");
        counted(RefusalCode::Malformed, 1);
        let attested = host.attestation().await;
        host.client.attest(&attested).await.unwrap();
        host.client.attest(&attested).await.unwrap();
        assert_eq!(code(host.client.attest(&attested).await), "challenge-spent");
        counted(RefusalCode::ChallengeSpent, 1);
        revoke(&house, &host).await;
        assert_eq!(host.artifacts(&["x1"]).await.unwrap().decisions[0].verdict, "deny");
        assert_eq!(code(host.artifacts(&["x2", "x3"]).await), "host-revoked");
        counted(RefusalCode::HostRevoked, 2);
        let began = std::time::Instant::now();
        let told = loop {
            let mut told = BTreeMap::new();
            for leaf in leaves(&house).await.iter().filter(|leaf| leaf.kind == Kind::Faults) {
                for (code, attempts) in Faults::parse(&leaf.body).unwrap().counts {
                    *told.entry(code).or_insert(0) += attempts;
                }
            }
            if told == expected || began.elapsed() > PATIENCE {
                break told;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        };
        assert_eq!(told, expected);
        assert_eq!((count(&house, Kind::Allow).await, count(&house, Kind::Deny).await), (2, 2));
        assert_eq!(count(&house, Kind::HostState).await, 2);
        house.serving.stop().await;
    });
}

#[test]
fn a_gateway_tells_each_outcome_once_and_only_of_artifacts_for_it() {
    let tight = |options: &mut InitOptions| {
        options.limits.gateway_outcomes_per_sec = 1;
        options.limits.gateway_outcomes_burst = 12;
    };
    with_house("a_gateway_tells_each_outcome_once_and_only_of_artifacts_for_it", tight, async |house| {
        house.permit_all().await;
        let host = house.host("host").await;
        let decisions = host.artifacts(&["r1", "r2"]).await.unwrap().decisions;
        let told: Vec<OutcomeDocument> = (decisions.iter())
            .map(|decision| {
                let receipt = TlogProof::parse(&decision.receipt).unwrap();
                let leaf = leaf_hash(&receipt.extra).to_hex();
                OutcomeDocument {
                    index: receipt.index,
                    leaf,
                    refused: None,
                    time_ms: house.serving.authority().now_ms(),
                }
            })
            .collect();
        let gateway = house.service(house.gateway("gateway-1").await.0);
        let tell = async |outcomes: &[&OutcomeDocument]| {
            let outcomes = outcomes.iter().map(|outcome| (*outcome).clone()).collect();
            gateway.outcomes(&OutcomesCall { outcomes }).await
        };
        let refused = OutcomeDocument { refused: Some("holder-proof-invalid".to_owned()), ..told[0].clone() };
        for _ in 0..2 {
            tell(&[&told[0], &told[0], &refused]).await.unwrap();
        }
        assert_eq!(count(&house, Kind::Outcome).await, 2, "one start, one refusal");
        let nowhere = OutcomeDocument { leaf: "00".repeat(32), ..told[1].clone() };
        assert_eq!(code(tell(&[&nowhere]).await), "not-found");
        // The heartbeat of the start, or whatever else comes first, is no artifact.
        let first = house.admin().leaves(0, 1).await.unwrap().leaves;
        let odd = OutcomeDocument { index: 0, leaf: leaf_hash(&first[0].0).to_hex(), ..told[1].clone() };
        assert_eq!(code(tell(&[&odd]).await), "not-an-allow");
        let future = OutcomeDocument { time_ms: told[1].time_ms + 3_600_000, ..told[1].clone() };
        tell(&[&future]).await.unwrap();
        assert_eq!(count(&house, Kind::Outcome).await, 2);
        // One that is bad doesn't hold the others back.
        tell(&[&nowhere, &told[1]]).await.unwrap();
        assert_eq!(count(&house, Kind::Outcome).await, 3);
        assert_eq!(code(tell(&[&told[0]; 12]).await), "rate-limited");
        house.serving.stop().await;
    });
}
