//! The authority from `init` to an artifact and its end, on a real token.
#[cfg(test)]
mod support;

use countersign_authority::config::{Config, Store};
use countersign_authority::custody::KeyStore;
use countersign_authority::init::{InitError, InitOptions, init};
use countersign_authority::serve::Serving;
use countersign_client::ClientIdentity;
use countersign_core::api::admin::JoinTokenCall;
use countersign_core::leaf::{Kind, Leaf};
use countersign_core::tlog_proof::TlogProof;
use countersign_fixture::SoftHsm;
use rustls::client::verify_server_name;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::ParsedCertificate;
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
        // It fails late, when keys and files are there: with no directory for the store.
        wanted.store = Some(Store::Sqlite { path: hsm.directory().join("nowhere/log.sqlite") });
        assert!(matches!(init(&wanted), Err(InitError::Store(_))));
        assert_eq!(std::fs::read_dir(&wanted.directory).unwrap().count(), 0, "nothing is left behind");
        wanted.store = None;
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
fn init_makes_no_key_for_what_serve_would_refuse_and_names_the_way_out_of_a_taken_label() {
    let name = "init_makes_no_key_for_what_serve_would_refuse_and_names_the_way_out_of_a_taken_label";
    SoftHsm::in_child(name, |hsm| {
        let good = options(hsm, &Manufacturer::new());
        let check = |spoil: &dyn Fn(&mut InitOptions), expect: &str| {
            let mut wanted = good.clone();
            spoil(&mut wanted);
            let error = init(&wanted).map(drop).unwrap_err();
            assert!(error.to_string().contains(expect), "{expect}: {error}");
            assert!(!matches!(error, InitError::KeyExists { .. }), "a key is left: {error}");
            assert_eq!(std::fs::read_dir(&wanted.directory).unwrap().count(), 0);
            let keys = KeyStore::new(&good.signer).0;
            assert!(keys.signer("head-1").is_err(), "{expect}: a key was made");
        };
        check(&|wanted| wanted.server_names = vec!["not a name!".to_owned()], "neither a DNS name nor");
        check(&|wanted| wanted.server_names.clear(), "server_names must name at least one");
        check(&|wanted| wanted.enrolment.ek_vendors = vec!["NoSuch".to_owned()], "NoSuch");
        check(&|wanted| wanted.enrolment.ek_roots = vec!["/nowhere/roots.pem".into()], "/nowhere/roots.pem");
        check(&|wanted| wanted.enrolment.ek_allow = vec!["ab".to_owned()], "ek_allow");
        check(&|wanted| wanted.limits.lease_secs = 0, "lease_secs");
        check(&|wanted| wanted.recovery.place = good.signer.clone(), "a token of its own");

        // A wildcard is a name. The administrator comes in by the admin listener's address, whatever hosts call the authority.
        let mut wanted = good.clone();
        wanted.server_names = vec!["authority.example".to_owned(), "*.replica.example".to_owned()];
        wanted.admin_listen = "192.0.2.7:8444".parse().unwrap();
        let config = Config::load(&init(&wanted).unwrap().config).unwrap();
        let names = config.certificate_names();
        assert_eq!(names[..2], wanted.server_names[..]);
        assert_eq!(names[2..], ["localhost", "192.0.2.7", "127.0.0.1", "::1"].map(str::to_owned));
        let pem = CertificateDer::from_pem_file(config.server_certificate_path()).unwrap();
        for name in names.iter().filter(|name| !name.starts_with('*')) {
            let wanted = ServerName::try_from(name.as_str()).unwrap();
            verify_server_name(&ParsedCertificate::try_from(&pem).unwrap(), &wanted).unwrap();
        }

        // The labels are taken now; another directory doesn't change that, and the error says what would.
        wanted.directory = hsm.directory().join("again");
        let error = init(&wanted).map(drop).unwrap_err();
        assert!(matches!(error, InitError::KeyExists { .. }), "{error}");
        assert!(error.to_string().contains("Use another token"), "{error}");
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
