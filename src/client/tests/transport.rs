//! The client against servers that misbehave: everything ends, in time, with an error that says who is to blame.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use countersign_client::{Client, ClientError, ClientIdentity, ConfigError, Limits};
use countersign_core::refusal::RefusalCode;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// A CA and a server on loopback that answers each request on a connection with the next of its answers, then closes.
#[cfg(test)]
struct Server {
    address: SocketAddr,
    ca: Vec<u8>,
    connections: Arc<AtomicUsize>,
}

#[cfg(test)]
async fn server(names: &[&str], answers: &'static [&'static [u8]]) -> Server {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = params.self_signed(&key).unwrap().der().to_vec();
    let issuer = Issuer::new(params, key);
    let key = KeyPair::generate().unwrap();
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &issuer).unwrap();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&connections);
    tokio::spawn(async move {
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            counted.fetch_add(1, Ordering::SeqCst);
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let mut buffer = vec![0; 65_536];
                for answer in answers {
                    if stream.read(&mut buffer).await.unwrap_or(0) == 0 {
                        return;
                    }
                    if stream.write_all(answer).await.is_err() {
                        return;
                    }
                }
                let _ = stream.shutdown().await;
            });
        }
    });
    Server { address, ca, connections }
}

#[cfg(test)]
impl Server {
    fn client(&self, limits: Limits) -> Client {
        let url = format!("https://{}", self.address);
        Client::with_limits(&url, ClientIdentity::Anonymous, std::slice::from_ref(&self.ca), limits).unwrap()
    }
}

const LIVE: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nlive\n";
const PROBLEM: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\nretry-after: 3\r\n\
    content-length: 71\r\n\r\n{\"type\":\"about:blank\",\"title\":\"Full.\",\"status\":503,\"code\":\"overloaded\"}";

const NOT_OURS: &[u8] = b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 4\r\n\r\noops";

#[tokio::test]
async fn connections_are_kept_and_replaced_when_the_server_closed_them() {
    let server = server(&["127.0.0.1"], &[LIVE, LIVE]).await;
    let client = server.client(Limits::default());
    client.livez().await.unwrap();
    client.livez().await.unwrap();
    assert_eq!(server.connections.load(Ordering::SeqCst), 1);
    // The server closed after two answers; nothing of that reaches the caller. The close may still be on its way, so a call that was
    // written into it may fail, and then the one after it doesn't.
    if client.livez().await.is_err() {
        client.livez().await.unwrap();
    }
    assert_eq!(server.connections.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_problem_keeps_its_code_and_its_waiting_time() {
    let server = server(&["127.0.0.1"], &[PROBLEM]).await;
    let error = server.client(Limits::default()).livez().await.unwrap_err();
    assert_eq!(error.code(), Some(RefusalCode::Overloaded));
    let ClientError::Problem { status, retry_after, detail, .. } = error else { panic!("{error}") };
    assert_eq!((status, retry_after, detail.as_str()), (503, Some(Duration::from_secs(3)), "Full."));
}

#[tokio::test]
async fn answers_of_another_shape_or_size_are_refused() {
    let server_a = server(&["127.0.0.1"], &[NOT_OURS]).await;
    assert!(matches!(server_a.client(Limits::default()).livez().await, Err(ClientError::BadAnswer(_))));
    let server_b = server(&["127.0.0.1"], &[LIVE]).await;
    assert!(matches!(server_b.client(Limits::default()).keys().await, Err(ClientError::BadAnswer(_))));
    let server_c = server(&["127.0.0.1"], &[LIVE]).await;
    let small = Limits { answer_bytes: 4, ..Limits::default() };
    assert!(matches!(server_c.client(small).head().await, Err(ClientError::BadAnswer(_))));
}

#[tokio::test]
async fn a_server_of_another_name_or_another_ca_is_not_talked_to() {
    let named = server(&["other.example"], &[LIVE]).await;
    let unreachable =
        |result: Result<(), ClientError>| matches!(result, Err(ClientError::Unreachable { .. }));
    assert!(unreachable(named.client(Limits::default()).livez().await));
    let stranger = server(&["127.0.0.1"], &[LIVE]).await;
    let url = format!("https://{}", stranger.address);
    let client = Client::new(&url, ClientIdentity::Anonymous, std::slice::from_ref(&named.ca)).unwrap();
    assert!(unreachable(client.livez().await));
}

#[tokio::test]
async fn a_silent_server_costs_no_more_than_the_limit() {
    let server = server(&["127.0.0.1"], &[b""]).await;
    let limits = Limits { call: Duration::from_millis(200), ..Limits::default() };
    let began = Instant::now();
    assert!(matches!(server.client(limits).livez().await, Err(ClientError::Unreachable { .. })));
    assert!(began.elapsed() < Duration::from_secs(10));
    // Nobody listens there at all.
    let gone =
        Client::new("https://127.0.0.1:1", ClientIdentity::Anonymous, std::slice::from_ref(&server.ca));
    assert!(matches!(gone.unwrap().livez().await, Err(ClientError::Unreachable { .. })));
}

#[test]
fn what_cannot_work_is_refused_before_anything_is_connected() {
    let client = |url: &str, ca: &[Vec<u8>]| Client::new(url, ClientIdentity::Anonymous, ca);
    let key = KeyPair::generate().unwrap();
    let ca = vec![CertificateParams::new(Vec::new()).unwrap().self_signed(&key).unwrap().der().to_vec()];
    for url in
        ["http://localhost", "localhost:1", "https://a/path", "https://user@host", "https://host?query"]
    {
        assert!(matches!(client(url, &ca), Err(ConfigError::Url(_))), "{url}");
    }
    for url in ["https://localhost", "https://127.0.0.1:8443", "https://[::1]:8443/"] {
        client(url, &ca).unwrap();
    }
    assert!(matches!(client("https://localhost", &[]), Err(ConfigError::Ca(_))));
    assert!(matches!(client("https://localhost", &[b"no certificate".to_vec()]), Err(ConfigError::Ca(_))));
    let missing = ClientIdentity::Pem { certificates: "/nowhere/a.pem".into(), key: "/nowhere/a.key".into() };
    assert!(matches!(Client::new("https://localhost", missing, &ca), Err(ConfigError::Pem { .. })));
}
