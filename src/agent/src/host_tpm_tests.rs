//! The whole way with a TPM that is a process of its own: enrolment, attestation, mutual TLS, loss and return.

use std::sync::Arc;

use countersign_core::refusal::RefusalCode;
use countersign_fixture::{PcrExtension, SwTpm};
use countersign_tpm::simulated::boot::{BootOptions, SimulatedBoot};
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::Config;
use crate::agent::Agent;
use crate::authority::AuthorityApi as _;
use crate::config::NamingKey;
use crate::https::HttpsAuthority;
use crate::run::{AgentError, assemble};
use crate::testing::TestAuthority;
use crate::tls::TpmSigningKey;
use crate::tpm::TpmError;

struct Machine {
    tpm: SwTpm,
    boot: SimulatedBoot,
    root: tempfile::TempDir,
    authority: Arc<TestAuthority>,
    profile: &'static str,
}

impl Machine {
    fn new(profile: &'static str) -> Self {
        let machine = Self {
            tpm: SwTpm::start_own(),
            boot: SimulatedBoot::new(&BootOptions::default()),
            root: tempfile::tempdir().unwrap(),
            authority: TestAuthority::new(),
            profile,
        };
        std::fs::write(machine.root.path().join("log"), machine.boot.log()).unwrap();
        machine.measure();
        machine
    }

    fn measure(&self) {
        let extensions = self.boot.measurements().iter().map(|one| PcrExtension {
            pcr: u8::try_from(one.pcr).unwrap(),
            digests: vec![
                ("sha256".to_owned(), one.sha256.to_vec()),
                ("sha384".to_owned(), one.sha384.to_vec()),
            ],
        });
        self.tpm.pcr_extend_all(&extensions.collect::<Vec<_>>());
    }

    fn wanted(&self, config: &Config) -> KeysWanted {
        match &config.naming {
            NamingKey::Ek(profile) => KeysWanted::BesideEk(*profile),
            NamingKey::Iak(_) => unreachable!("{} is an endorsement key", self.profile),
        }
    }

    async fn agent(&self, tcti: &str) -> Result<Arc<Agent<Arc<TestAuthority>>>, AgentError> {
        let at = self.root.path().display();
        let bundle = self.authority.write_bundle(self.root.path());
        let config = Config::parse(&format!(
            "authority = \"https://localhost\"\ntrust_bundle = \"{}\"\nstate_dir = \"{at}/state\"\ntcti = \"{tcti}\"\n\
             ek_profile = \"{}\"\nboot_log = \"{at}/log\"\nsocket = \"{at}/s\"\n",
            bundle.display(),
            self.profile
        ))
        .unwrap();
        let state = StateDir::open(&config.state_dir)?;
        let opener = HostTpmOpener::new(&config.tcti, self.wanted(&config), None, &state);
        let api = Arc::clone(&self.authority);
        assemble(&config, state, opener, move |_, _, _| Ok(api)).await
    }
}

#[tokio::test]
async fn a_host_enrols_attests_and_outlives_the_loss_of_its_tpm() {
    for profile in ["rsa2048", "p384"] {
        let mut machine = Machine::new(profile);
        let tcti = machine.tpm.tcti();
        let agent = machine.agent(&tcti).await.unwrap();
        agent.enrol(Some("token")).await.unwrap();
        let certified = matches!(&agent.identity.keys.endorsed, Endorsed::ByEk { certificate: Some(_), .. });
        assert!(certified, "{profile}");
        agent.attest().await.unwrap();
        // The TPM goes and comes back, as after a power cut; the agent stays.
        machine.tpm.stop();
        let gone = agent.attest().await.map(drop).map_err(|error| crate::refused::Refused::from(error).code);
        assert_eq!(gone, Err(RefusalCode::TpmUnavailable));
        machine.tpm.restart();
        // One client at a time: the fixture's tools have to wait until nobody else is connected.
        machine.measure();
        let started = std::time::Instant::now();
        while agent.attest().await.is_err() {
            assert!(started.elapsed() < countersign_fixture::PATIENCE);
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        // Another start finds the same keys and needs no token.
        let host = agent.identity.host;
        let keys = agent.identity.keys.clone();
        agent.tpm.stop();
        drop(agent);
        let again = machine.agent(&tcti).await.unwrap();
        assert_eq!((again.identity.host, &again.identity.keys), (host, &keys));
        again.enrol(None).await.unwrap();
        again.attest().await.unwrap();
    }
}

#[test]
fn a_tpm_that_is_away_is_named_and_has_a_code_and_the_keys_of_another_have_none() {
    let error = HostTpm::open("swtpm:host=127.0.0.1,port=1").map(drop).unwrap_err();
    assert!(error.to_string().starts_with("no TPM answers at swtpm:host=127.0.0.1,port=1"), "{error}");
    let tpm = |fault| AgentError::Tpm(TpmError::Device(fault));
    assert_eq!(tpm(fault(error)).code(), Some(RefusalCode::TpmUnavailable));
    assert_eq!(tpm(DeviceFault::ForeignKeys(String::new())).code(), None);
}

#[tokio::test]
async fn keys_of_another_tpm_are_an_error_and_are_not_replaced() {
    let (mine, other) = (Machine::new("p384"), SwTpm::start_own());
    let agent = mine.agent(&mine.tpm.tcti()).await.unwrap();
    agent.tpm.stop();
    drop(agent);
    let blobs = std::fs::read(mine.root.path().join("state/keys.json")).unwrap();
    let refused = mine.agent(&other.tcti()).await.map(drop);
    assert!(
        matches!(refused, Err(AgentError::Tpm(TpmError::Device(DeviceFault::ForeignKeys(_))))),
        "{refused:?}"
    );
    assert_eq!(std::fs::read(mine.root.path().join("state/keys.json")).unwrap(), blobs);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mutual_tls_is_made_with_the_key_in_the_tpm() {
    let machine = Machine::new("p384");
    let agent = machine.agent(&machine.tpm.tcti()).await.unwrap();
    let credential = agent.enrol(Some("token")).await.unwrap();
    let ca = &machine.authority.ca;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from(ca.certificate.clone())).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build().unwrap();
    let (certificate, key) = ca.server();
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let config = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_client_cert_verifier(Arc::clone(&verifier) as _)
            .with_single_cert(
                vec![CertificateDer::from(certificate.clone())],
                PrivateKeyDer::try_from(key.clone()).unwrap(),
            )
            .unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://localhost:{}", listener.local_addr().unwrap().port());
        let serving = tokio::spawn(async move {
            let (tcp, _) = listener.accept().await.unwrap();
            let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
            let mut tls = acceptor.accept(tcp).await.unwrap();
            let seen = tls.get_ref().1.peer_certificates().unwrap()[0].to_vec();
            let mut head = [0; 1024];
            let _ = tls.read(&mut head).await.unwrap();
            let body = r#"{"challenge":"AAAA","expires_ms":7,"bank":11,"pcrs":[0]}"#;
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
            tls.write_all(answer.as_bytes()).await.unwrap();
            tls.flush().await.unwrap();
            seen
        });
        let signer = Arc::new(TpmSigningKey::new(agent.tpm.clone(), agent.identity.host_key.clone()));
        let api = HttpsAuthority::new(&url, signer, agent.judge.bundle()).unwrap();
        api.present(&credential.certificates).unwrap();
        assert_eq!(api.challenge().await.unwrap().expires_ms, 7);
        assert_eq!(serving.await.unwrap(), credential.certificates[0]);
    }
}

#[tokio::test]
async fn an_authority_that_is_not_there_is_unreachable() {
    let machine = Machine::new("p384");
    let agent = machine.agent(&machine.tpm.tcti()).await.unwrap();
    let port = countersign_fixture::free_port();
    let signer = Arc::new(TpmSigningKey::new(agent.tpm.clone(), agent.identity.host_key.clone()));
    let url = format!("https://localhost:{port}");
    let api = HttpsAuthority::new(&url, signer, agent.judge.bundle()).unwrap();
    let error = api.challenge().await.unwrap_err();
    assert!(matches!(error, crate::authority::CallError::Unreachable(_)), "{error}");
    assert!(error.may_pass());
}
