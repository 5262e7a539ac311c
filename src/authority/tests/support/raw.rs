//! Requests as bytes: what the typed client would never send.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use countersign_client::ClientIdentity;
use countersign_core::api::Problem;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::House;

/// An answer, read as a problem where it is one.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) code: Option<String>,
    pub(crate) retry_after: Option<u64>,
}

/// One connection that sends whatever it is told to.
pub(crate) struct Raw(SendRequest<Full<Bytes>>);

impl Raw {
    pub(crate) async fn connect(house: &House, address: SocketAddr, identity: &ClientIdentity) -> Self {
        let mut roots = RootCertStore::empty();
        for der in house.bundle().ca_certificates() {
            roots.add(CertificateDer::from_slice(der).into_owned()).unwrap();
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let tls = match identity {
            ClientIdentity::Pem { certificates, key } => {
                let chain = CertificateDer::pem_file_iter(certificates).unwrap().collect::<Result<_, _>>();
                builder
                    .with_client_auth_cert(chain.unwrap(), PrivateKeyDer::from_pem_file(key).unwrap())
                    .unwrap()
            }
            _ => builder.with_no_client_auth(),
        };
        let tcp = TcpStream::connect(address).await.unwrap();
        let name = ServerName::from(address.ip());
        let tls = TlsConnector::from(Arc::new(tls)).connect(name, tcp).await.unwrap();
        let (sender, connection) = handshake(TokioIo::new(tls)).await.unwrap();
        tokio::spawn(async move { drop(connection.await) });
        Self(sender)
    }

    pub(crate) async fn send(&mut self, method: &str, path: &str, body: &[u8]) -> Answer {
        let request = Request::builder().method(method).uri(path).header("host", "localhost");
        let request = request.body(Full::new(Bytes::copy_from_slice(body))).unwrap();
        self.0.ready().await.unwrap();
        let response = self.0.send_request(request).await.unwrap();
        let status = response.status().as_u16();
        let header =
            |name: &str| response.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
        let (kind, retry_after) = (header("content-type"), header("retry-after"));
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let problem = (kind.as_deref() == Some("application/problem+json"))
            .then(|| serde_json::from_slice::<Problem>(&body).unwrap());
        if let Some(problem) = &problem {
            assert_eq!(problem.status, status);
        }
        assert_eq!(
            problem.is_some(),
            status >= 400 && kind.as_deref() != Some("application/json"),
            "{method} {path}"
        );
        Answer {
            status,
            code: problem.map(|problem| problem.code),
            retry_after: retry_after.map(|text| text.parse().unwrap()),
        }
    }
}

/// An answer as it came.
pub(crate) struct Fetched {
    pub(crate) status: u16,
    pub(crate) kind: String,
    pub(crate) caching: String,
    pub(crate) body: Vec<u8>,
}

impl Raw {
    /// A GET, with what `send` doesn't look at.
    pub(crate) async fn fetch(&mut self, path: &str) -> Fetched {
        let request = Request::builder().uri(path).header("host", "localhost").body(Full::default()).unwrap();
        self.0.ready().await.unwrap();
        let response = self.0.send_request(request).await.unwrap();
        let header = |name: &str| {
            let value = response.headers().get(name);
            value.map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default()
        };
        let (status, kind, caching) =
            (response.status().as_u16(), header("content-type"), header("cache-control"));
        let body = response.into_body().collect().await.unwrap().to_bytes().to_vec();
        Fetched { status, kind, caching, body }
    }
}
