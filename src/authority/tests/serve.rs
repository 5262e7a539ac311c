//! The authority from `init` to an artifact and its end, on a real token.
#[cfg(test)]
mod support;

use countersign_authority::config::Config;
use countersign_authority::init::{InitError, init};
use countersign_authority::serve::Serving;
use countersign_client::ClientIdentity;
use countersign_core::api::admin::JoinTokenCall;
use countersign_core::leaf::{Kind, Leaf};
use countersign_core::tlog_proof::TlogProof;
use countersign_fixture::SoftHsm;
use std::os::unix::fs::MetadataExt;
use support::{Manufacturer, options, with_house};

#[test]
fn an_authority_serves_from_init_to_an_artifact_and_starts_again() {
    with_house(
        "an_authority_serves_from_init_to_an_artifact_and_starts_again",
        |_| (),
        async |house| {
            let anyone = house.service(ClientIdentity::Anonymous);
            anyone.livez().await.unwrap();
            let readiness = anyone.readyz().await.unwrap();
            assert!(!readiness.ready && readiness.head_young && !readiness.policy_active, "{readiness:?}");
            assert!(anyone.head().await.unwrap().starts_with(support::ORIGIN));
            house.permit_all().await;
            assert!(anyone.readyz().await.unwrap().ready);
            let host = house.host("host-1").await;
            let call = host.call(&["r1", "r2"]).await;
            let answer = host.client.artifacts(&call).await.unwrap();
            assert_eq!(answer.decisions.len(), 2);
            for decision in &answer.decisions {
                assert_eq!((decision.verdict.as_str(), decision.code.as_deref()), ("allow", None));
                let leaf = Leaf::parse(&TlogProof::parse(&decision.receipt).unwrap().extra).unwrap();
                assert_eq!(leaf.kind, Kind::Allow);
            }
            // Byte for byte the same call: the same leaves.
            let again = host.client.artifacts(&call).await.unwrap();
            let index = |receipt: &str| TlogProof::parse(receipt).unwrap().index;
            for (one, two) in answer.decisions.iter().zip(&again.decisions) {
                assert_eq!(index(&one.receipt), index(&two.receipt));
            }
            let attested = host.client.attest(&host.attestation().await).await.unwrap();
            assert_eq!(attested.code, None);
            let config = house.config.clone();
            house.serving.stop().await;
            let serving = Serving::start(config).await.unwrap();
            serving.stop().await;
        },
    );
}

#[test]
fn init_never_overwrites_and_takes_away_what_it_made_when_it_fails() {
    SoftHsm::in_child("init_never_overwrites_and_takes_away_what_it_made_when_it_fails", |hsm| {
        let mut wanted = options(hsm, &Manufacturer::new());
        let good_names = std::mem::replace(&mut wanted.server_names, vec!["not ascii: ö".to_owned()]);
        assert!(matches!(init(&wanted), Err(InitError::Certificate(_))));
        assert_eq!(std::fs::read_dir(&wanted.directory).unwrap().count(), 0, "nothing is left behind");
        wanted.server_names = good_names;
        let made = init(&wanted).unwrap();
        for entry in std::fs::read_dir(&wanted.directory).unwrap() {
            let entry = entry.unwrap();
            assert_eq!(
                entry.metadata().unwrap().mode() & 0o077,
                0,
                "{:?} is its owner's alone",
                entry.path()
            );
        }
        let before = std::fs::read(&made.trust_bundle).unwrap();
        assert!(matches!(init(&wanted), Err(InitError::Exists(_))));
        assert_eq!(std::fs::read(&made.trust_bundle).unwrap(), before);
        // Half an authority isn't one: without its configuration nothing starts, and nothing is made over it.
        std::fs::remove_file(&made.config).unwrap();
        assert!(Config::load(&made.config).is_err());
        assert!(matches!(init(&wanted), Err(InitError::Exists(_))));
    });
}

#[test]
fn a_join_token_is_made_by_an_operator_and_shown_in_the_log_by_its_digest_only() {
    let name = "a_join_token_is_made_by_an_operator_and_shown_in_the_log_by_its_digest_only";
    with_house(
        name,
        |_| (),
        async |house| {
            let made = house.admin().make_join_token(&JoinTokenCall { ttl_secs: 60 }).await.unwrap();
            let proof = TlogProof::parse(&made.receipt).unwrap();
            let leaf = Leaf::parse(&proof.extra).unwrap();
            assert_eq!(leaf.kind, Kind::JoinToken);
            let token = made.token.as_bytes();
            assert!(!leaf.body.windows(token.len()).any(|window| window == token));
            house.serving.stop().await;
        },
    );
}
