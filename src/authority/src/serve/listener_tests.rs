//! What one client can hold on to, and for how long.

use super::*;
use axum::routing::get;
use countersign_fixture::PATIENCE;
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

const LONG: Duration = Duration::from_secs(600);
const SHORT: Duration = Duration::from_millis(80);
/// More than all buffers between two ends of a connection hold.
const BIG: usize = 64 * 1024 * 1024;

fn bounds() -> Bounds {
    Bounds {
        connections: 8,
        per_source: 8,
        handshake: LONG,
        idle: LONG,
        write: LONG,
        age: LONG,
        drain: Duration::ZERO,
    }
}

/// A listener that serves, and a client's way to it.
struct Rig {
    address: SocketAddr,
    connector: TlsConnector,
    open: Arc<AtomicUsize>,
    _stop: watch::Sender<bool>,
}

impl Rig {
    fn new(bounds: Bounds) -> Self {
        let key = KeyPair::generate().unwrap();
        let certificate =
            CertificateParams::new(vec!["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
            )
            .unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(certificate.der().clone()).unwrap();
        let client = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let listener = Listener::bind("127.0.0.1:0".parse().unwrap(), server, bounds).unwrap();
        let router =
            Router::new().route("/small", get(async || "small")).route("/big", get(async || vec![0; BIG]));
        let (address, open) = (listener.local_addr().unwrap(), listener.open_connections());
        let (stop, stopped) = watch::channel(false);
        tokio::spawn(listener.serve(router, stopped));
        Self { address, connector: TlsConnector::from(Arc::new(client)), open, _stop: stop }
    }

    async fn connect(&self) -> std::io::Result<TlsStream<TcpStream>> {
        let tcp = TcpStream::connect(self.address).await?;
        self.connector.connect(ServerName::try_from("localhost").unwrap(), tcp).await
    }

    async fn until_open(&self, count: usize) {
        let began = std::time::Instant::now();
        while self.open.load(Ordering::Relaxed) != count {
            assert!(
                began.elapsed() < PATIENCE,
                "{} are open, not {count}",
                self.open.load(Ordering::Relaxed)
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

async fn ask(stream: &mut TlsStream<TcpStream>, path: &str) {
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n").as_bytes()).await.unwrap();
}

#[tokio::test]
async fn a_handshake_that_does_not_come_is_given_up() {
    let rig = Rig::new(Bounds { handshake: SHORT, ..bounds() });
    let mut silent = TcpStream::connect(rig.address).await.unwrap();
    let read = tokio::time::timeout(PATIENCE, silent.read(&mut [0; 1])).await.unwrap();
    assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    rig.until_open(0).await;
}

#[tokio::test]
async fn an_idle_connection_and_half_a_head_are_given_up() {
    let rig = Rig::new(Bounds { idle: SHORT, ..bounds() });
    let mut idle = rig.connect().await.unwrap();
    let mut half = rig.connect().await.unwrap();
    half.write_all(b"GET /small HT").await.unwrap();
    let mut rest = Vec::new();
    for stream in [&mut idle, &mut half] {
        drop(tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await.unwrap());
    }
    rig.until_open(0).await;
}

#[tokio::test]
async fn an_answer_that_nobody_takes_is_given_up() {
    let rig = Rig::new(Bounds { write: SHORT, ..bounds() });
    let mut slow = rig.connect().await.unwrap();
    ask(&mut slow, "/big").await;
    // A byte now and then gains no time.
    let mut taken = [0; 1];
    slow.read_exact(&mut taken).await.unwrap();
    rig.until_open(0).await;
    // Whoever reads gets all of it, however long the whole takes to be made.
    let rig = Rig::new(Bounds { write: PATIENCE, ..bounds() });
    let mut quick = rig.connect().await.unwrap();
    ask(&mut quick, "/big").await;
    let mut taken = 0;
    let mut into = vec![0; 256 * 1024];
    while taken < BIG {
        taken += quick.read(&mut into).await.unwrap();
    }
}

#[tokio::test]
async fn a_connection_ends_at_its_age() {
    // Long enough for a busy machine to ask in time.
    let rig = Rig::new(Bounds { age: Duration::from_secs(2), ..bounds() });
    let mut old = rig.connect().await.unwrap();
    ask(&mut old, "/small").await;
    let mut answer = Vec::new();
    drop(tokio::time::timeout(PATIENCE, old.read_to_end(&mut answer)).await.unwrap());
    assert!(answer.ends_with(b"small"), "what was asked in time was answered");
    rig.until_open(0).await;
}

#[tokio::test]
async fn one_source_does_not_get_every_connection() {
    let rig = Rig::new(Bounds { per_source: 2, ..bounds() });
    let first = rig.connect().await.unwrap();
    let _second = rig.connect().await.unwrap();
    assert!(rig.connect().await.is_err());
    rig.until_open(2).await;
    drop(first);
    rig.until_open(1).await;
    let began = std::time::Instant::now();
    while rig.connect().await.is_err() {
        assert!(began.elapsed() < PATIENCE);
    }
}

#[test]
fn a_key_counts_while_its_certificate_is_valid() {
    let source = Source::of("192.0.2.1:1".parse().unwrap());
    let key = Sha256Digest::new([7; 32]);
    let peer = Peer { key: Some((key, 100)), source };
    assert_eq!((peer.key_at(100), peer.key_at(101)), (Some(key), None));
    assert_eq!(Peer { key: None, source }.key_at(0), None);
}
