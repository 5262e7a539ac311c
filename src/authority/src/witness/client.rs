//! The way to one witness: `POST <prefix>/add-checkpoint` over HTTP or HTTPS, bounded in time and size, on a connection that is kept.
//!
//! Where a witness is stands in the quorum file and nowhere else; nothing redirects. Plain HTTP goes to this machine only: whoever sits on the
//! way could answer for the witness, and what a witness refuses stops the authority.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use countersign_core::note::MAX_NOTE_BYTES;
use http::header::{CONTENT_TYPE, HOST, HeaderValue};
use http::{Method, Request, Response, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// C2SP tlog-witness: the form of a size in a conflict.
const SIZE: &str = "text/x.tlog.size";

/// A witness that can't be asked as it is written down.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// Not an address that is taken.
    #[error("{0:?}: a witness's address is https://host[:port][/prefix], or http:// on this machine")]
    Url(String),
    /// The file with CAs.
    #[error("{path}: {reason}")]
    Ca {
        /// Which file.
        path: std::path::PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// HTTPS without CAs to check it by.
    #[error("{0:?} needs witnesses.ca_file")]
    NoCa(String),
}

/// No answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct Unreachable(String);

/// A whole answer.
pub(super) struct Answer {
    pub(super) status: u16,
    /// The body is a size.
    pub(super) is_size: bool,
    pub(super) body: String,
}

/// Where a witness is.
pub(super) struct Endpoint {
    address: String,
    host: HeaderValue,
    path: String,
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

/// CAs of witnesses, as a TLS client.
///
/// # Errors
/// [`EndpointError::Ca`].
pub(super) fn tls_client(ca_file: &Path) -> Result<TlsConnector, EndpointError> {
    let fault = |reason: &dyn std::fmt::Display| EndpointError::Ca {
        path: ca_file.to_owned(),
        reason: reason.to_string(),
    };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(ca_file).map_err(|error| fault(&error))? {
        let certificate = certificate.map_err(|error| fault(&error))?;
        roots.add(certificate).map_err(|error| fault(&error))?;
    }
    if roots.is_empty() {
        return Err(fault(&"no certificate"));
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| fault(&error))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

impl Endpoint {
    /// Reads the address of a witness.
    ///
    /// # Errors
    /// [`EndpointError`].
    pub(super) fn parse(url: &str, tls: Option<&TlsConnector>) -> Result<Self, EndpointError> {
        let bad = || EndpointError::Url(url.to_owned());
        let uri: Uri = url.parse().map_err(|_| bad())?;
        let authority = uri.authority().ok_or_else(bad)?;
        if authority.as_str().contains('@') || uri.query().is_some() {
            return Err(bad());
        }
        let name = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let (port, tls) = match uri.scheme_str() {
            Some("https") => {
                let tls = tls.ok_or_else(|| EndpointError::NoCa(url.to_owned()))?;
                (443, Some((tls.clone(), ServerName::try_from(name).map_err(|_| bad())?)))
            }
            Some("http") if is_here(&name) => (80, None),
            _ => return Err(bad()),
        };
        let address = match authority.port_u16() {
            Some(_) => authority.as_str().to_owned(),
            None => format!("{}:{port}", authority.host()),
        };
        let host = HeaderValue::from_str(authority.as_str()).map_err(|_| bad())?;
        let path = format!("{}/add-checkpoint", uri.path().trim_end_matches('/'));
        Ok(Self { address, host, path, tls })
    }
}

fn is_here(name: &str) -> bool {
    name == "localhost" || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// A line to a witness, with the connection that is kept between calls.
pub(super) struct Line {
    endpoint: Arc<Endpoint>,
    kept: Option<SendRequest<Full<Bytes>>>,
}

impl Line {
    pub(super) const fn new(endpoint: Arc<Endpoint>) -> Self {
        Self { endpoint, kept: None }
    }

    /// One request. It may be carried out although no answer comes; asking again does no harm.
    ///
    /// # Errors
    /// [`Unreachable`].
    pub(super) async fn add_checkpoint(
        &mut self,
        body: String,
        limit: Duration,
    ) -> Result<Answer, Unreachable> {
        let exchange = self.exchange(Bytes::from(body));
        match tokio::time::timeout(limit, exchange).await {
            Ok(result) => result,
            Err(_) => {
                // What the connection brings later would be the answer to another request.
                self.kept = None;
                Err(Unreachable(format!("no answer within {limit:?}")))
            }
        }
    }

    async fn exchange(&mut self, body: Bytes) -> Result<Answer, Unreachable> {
        if let Some(mut kept) = self.kept.take()
            && kept.ready().await.is_ok()
            && let Ok(response) = kept.send_request(self.request(&body)?).await
        {
            return self.read(kept, response).await;
        }
        let mut sender = self.connect().await.map_err(|error| Unreachable(error.to_string()))?;
        let response = sender.send_request(self.request(&body)?).await;
        let response = response.map_err(|error| Unreachable(error.to_string()))?;
        self.read(sender, response).await
    }

    fn request(&self, body: &Bytes) -> Result<Request<Full<Bytes>>, Unreachable> {
        Request::builder()
            .method(Method::POST)
            .uri(&self.endpoint.path)
            .header(HOST, self.endpoint.host.clone())
            .header(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"))
            .body(Full::new(body.clone()))
            .map_err(|error| Unreachable(error.to_string()))
    }

    async fn read(
        &mut self,
        sender: SendRequest<Full<Bytes>>,
        response: Response<Incoming>,
    ) -> Result<Answer, Unreachable> {
        let status = response.status().as_u16();
        let is_size = response.headers().get(CONTENT_TYPE).is_some_and(|kind| kind == SIZE);
        let body = Limited::new(response.into_body(), MAX_NOTE_BYTES).collect().await;
        let body = body.map_err(|error| Unreachable(format!("the answer: {error}")))?.to_bytes();
        let body =
            String::from_utf8(body.to_vec()).map_err(|_| Unreachable("the answer isn't text".to_owned()))?;
        self.kept = Some(sender);
        Ok(Answer { status, is_size, body })
    }

    async fn connect(&self) -> std::io::Result<SendRequest<Full<Bytes>>> {
        let tcp = TcpStream::connect(&self.endpoint.address).await?;
        tcp.set_nodelay(true)?;
        let Some((tls, name)) = &self.endpoint.tls else {
            let (sender, connection) = handshake(TokioIo::new(tcp)).await.map_err(std::io::Error::other)?;
            tokio::spawn(async move { drop(connection.await) });
            return Ok(sender);
        };
        let stream = tls.connect(name.clone(), tcp).await?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(std::io::Error::other)?;
        // Ends when the sender is dropped or the witness closes.
        tokio::spawn(async move { drop(connection.await) });
        Ok(sender)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_goes_to_this_machine_only() {
        for good in ["http://127.0.0.1:8455", "http://localhost/w", "http://[::1]:9/a/b/"] {
            assert!(Endpoint::parse(good, None).is_ok(), "{good}");
        }
        assert_eq!(
            Endpoint::parse("http://[::1]:9/a/b/", None).map(|endpoint| endpoint.path).ok().as_deref(),
            Some("/a/b/add-checkpoint")
        );
        for bad in [
            "http://witness.example",
            "http://192.0.2.7:80",
            "http://127.0.0.1@witness.example",
            "ftp://localhost",
            "localhost:80",
            "http://localhost/?a=b",
            "",
        ] {
            assert!(matches!(Endpoint::parse(bad, None), Err(EndpointError::Url(_))), "{bad}");
        }
        assert!(matches!(Endpoint::parse("https://witness.example", None), Err(EndpointError::NoCa(_))));
    }
}
