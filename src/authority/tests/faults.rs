//! Faults that are normal: a token that goes away, a store that was rolled back, keys that are not the pinned ones, keys in a TPM.
#[cfg(test)]
mod support;

use countersign_authority::config::{Config, Signer, Store};
use countersign_authority::custody::KeyStore;
use countersign_authority::init::init;
use countersign_authority::serve::{ServeError, Serving, StartError};
use countersign_authority::sign::Remembered;
use countersign_client::ClientIdentity;
use countersign_fixture::{PATIENCE, SoftHsm, SwTpm};
use support::{Manufacturer, code, options, with_house};

#[cfg(test)]
async fn poll<F: Future<Output = bool>>(mut condition: impl FnMut() -> F) {
    let began = std::time::Instant::now();
    while !condition().await {
        assert!(began.elapsed() < PATIENCE, "the condition never held");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[test]
fn without_its_token_the_authority_says_so_and_heals_when_it_is_back() {
    let name = "without_its_token_the_authority_says_so_and_heals_when_it_is_back";
    let quick = |options: &mut countersign_authority::init::InitOptions| options.limits.lease_secs = 3;
    with_house(name, quick, async |house| {
        house.permit_all().await;
        let host = house.host("host").await;
        host.artifacts(&["r1"]).await.unwrap();
        let hsm = SoftHsm::attached();
        hsm.hide();
        // Whatever is tried first finds the token gone; from then on calls are refused before any work is done for them.
        poll(async || host.artifacts(&["r2"]).await.is_err()).await;
        assert_eq!(code(host.artifacts(&["r3"]).await), "signer-unavailable");
        let anyone = house.service(ClientIdentity::Anonymous);
        poll(async || !anyone.readyz().await.unwrap().signer_available).await;
        hsm.show();
        poll(async || host.artifacts(&["r4"]).await.is_ok()).await;
        // What was appended while the key was away is handed out, not decided again.
        assert_eq!(host.artifacts(&["r2"]).await.unwrap().decisions[0].verdict, "allow");
        poll(async || anyone.readyz().await.unwrap().ready).await;
        house.serving.stop().await;
    });
}

#[test]
fn a_disk_that_was_rolled_back_as_a_whole_is_found_by_the_copy_in_the_token() {
    let name = "a_disk_that_was_rolled_back_as_a_whole_is_found_by_the_copy_in_the_token";
    with_house(
        name,
        |_| (),
        async |house| {
            let config = house.config.clone();
            let directory = config.state_dir.clone();
            let admin = house.admin();
            house.serving.stop().await;
            let backup = house.scratch.join("backup");
            std::fs::create_dir(&backup).unwrap();
            let copy = |from: &std::path::Path, to: &std::path::Path| {
                for entry in std::fs::read_dir(from).unwrap() {
                    let path = entry.unwrap().path();
                    std::fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
                }
            };
            copy(&directory, &backup);
            drop(admin);
            let serving = Serving::start(config.clone()).await.unwrap();
            serving.stop().await;
            // An authority that shares the token and was behind takes nothing from the copy.
            let (keys, origin) = (KeyStore::new(&config.signer).0, config.origin.as_str());
            let newest = keys.recall(origin).unwrap().unwrap();
            keys.remember(origin, &Remembered { size: newest.size - 1, ..newest }).unwrap();
            assert_eq!(keys.recall(origin).unwrap(), Some(newest));
            keys.remember(origin, &newest).unwrap();
            copy(&backup, &directory);
            let refused = Serving::start(config).await.err().unwrap();
            assert!(refused.to_string().contains("rolled back"), "{refused}");
        },
    );
}

#[test]
fn what_does_not_belong_together_does_not_start() {
    with_house(
        "what_does_not_belong_together_does_not_start",
        |_| (),
        async |house| {
            let config = house.config.clone();
            house.serving.stop().await;
            let start = async |change: &dyn Fn(&mut Config)| {
                let mut changed = config.clone();
                change(&mut changed);
                match Serving::start(changed).await {
                    Ok(_) => panic!("started"),
                    Err(ServeError::Start(error)) => error,
                    Err(other) => panic!("{other}"),
                }
            };
            let other = countersign_core::name::Origin::parse("other.example").unwrap();
            assert!(matches!(start(&|config| config.origin = other.clone()).await, StartError::OtherLog));
            let signer = |head: &str, ca: &str| {
                let (head, ca) = (head.to_owned(), ca.to_owned());
                move |config: &mut Config| match &mut config.signer {
                    Signer::Pkcs11 { head_key, ca_key, .. } => {
                        (*head_key, *ca_key) = (head.clone(), ca.clone())
                    }
                    _ => panic!("the test's keys are in a token"),
                }
            };
            assert!(matches!(start(&signer("head-1", "no-such-key")).await, StartError::Key { .. }));
            assert!(matches!(start(&signer("head-1", "head-1")).await, StartError::OtherCa));
            let empty = house.scratch.join("empty.sqlite");
            let missing = |config: &mut Config| config.store = Store::Sqlite { path: empty.clone() };
            assert!(matches!(start(&missing).await, StartError::Store(_)));
            countersign_authority::store::sqlite::create(&empty, &config.origin).unwrap();
            assert!(matches!(start(&missing).await, StartError::Empty));
            Serving::start(config.clone()).await.unwrap().stop().await;
        },
    );
}

#[test]
fn head_and_ca_keys_can_live_in_a_tpm() {
    SoftHsm::in_child("head_and_ca_keys_can_live_in_a_tpm", |hsm| {
        let tpm = SwTpm::start_own();
        let mut wanted = options(hsm, &Manufacturer::new());
        wanted.signer = Signer::Tpm {
            tcti: tpm.tcti(),
            keys_dir: hsm.directory().join("tpm-keys"),
            head_key: "head-1".to_owned(),
            ca_key: "ca".to_owned(),
            jwt_key: "jwt".to_owned(),
        };
        let made = init(&wanted).unwrap();
        let config = Config::load(&made.config).unwrap();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().enable_all().worker_threads(2).build().unwrap();
        runtime.block_on(async {
            let serving = Serving::start(config.clone()).await.unwrap();
            let house = support::House {
                made,
                config,
                serving,
                maker: Manufacturer::new(),
                scratch: hsm.directory().to_owned(),
            };
            house.permit_all().await;
            let keys = house.admin().keys().await.unwrap();
            assert_eq!(keys.head[0].alg, "ES256");
            assert!(house.service(ClientIdentity::Anonymous).readyz().await.unwrap().ready);
            assert!(house.admin().metrics().await.unwrap().contains("countersign_log_size"));
            house.serving.stop().await;
        });
    });
}
