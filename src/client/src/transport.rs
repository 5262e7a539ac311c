//! Connections: a few kept alive, one call at a time on each, everything bounded in time and size.
//!
//! In: method, path and body of one call. Out: the answer's status, headers that matter, and its whole body. A connection that the server
//! closed while idle is replaced; a call that may have reached the server is never sent again here.

use crate::{ClientError, ConfigError};
use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HOST, HeaderValue, RETRY_AFTER};
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Bounds of a client.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// TCP and TLS together. 5 s: a handshake needs two round trips and, with a TPM key, one signature of up to 600 ms.
    pub connect: Duration,
    /// One call, connection included. 35 s: what the authority allows itself (30 s), and a little for the way.
    pub call: Duration,
    /// Largest answer, bytes. 16 MiB: 256 receipts of 64 KiB.
    pub answer_bytes: usize,
    /// Connections kept for later calls.
    pub idle_connections: usize,
    /// How long one is kept; below the authority's own idle timeout of 60 s.
    pub idle: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            call: Duration::from_secs(35),
            answer_bytes: 16 * 1024 * 1024,
            idle_connections: 16,
            idle: Duration::from_secs(30),
        }
    }
}

/// A whole answer.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) retry_after: Option<Duration>,
    pub(crate) body: Bytes,
}

struct Idle {
    sender: SendRequest<Full<Bytes>>,
    since: Instant,
}

pub(crate) struct Transport {
    address: String,
    host: HeaderValue,
    server_name: ServerName<'static>,
    connector: TlsConnector,
    limits: Limits,
    idle: Mutex<Vec<Idle>>,
}

impl Transport {
    pub(crate) fn new(
        base_url: &str,
        tls: rustls::ClientConfig,
        limits: Limits,
    ) -> Result<Self, ConfigError> {
        let bad = || ConfigError::Url(base_url.to_owned());
        let uri: Uri = base_url.parse().map_err(|_| bad())?;
        if uri.scheme_str() != Some("https") || !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err(bad());
        }
        let authority = uri.authority().ok_or_else(bad)?;
        if authority.as_str().contains('@') {
            return Err(bad());
        }
        // A literal IPv6 address stands in brackets in a URL and without them in a certificate.
        let name = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let server_name = ServerName::try_from(name).map_err(|_| bad())?;
        let host = HeaderValue::from_str(authority.as_str()).map_err(|_| bad())?;
        let address = match authority.port_u16() {
            Some(_) => authority.as_str().to_owned(),
            None => format!("{}:443", authority.host()),
        };
        let connector = TlsConnector::from(Arc::new(tls));
        Ok(Self { address, host, server_name, connector, limits, idle: Mutex::new(Vec::new()) })
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// One call, bounded as a whole.
    pub(crate) async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
    ) -> Result<Answer, ClientError> {
        match tokio::time::timeout(self.limits.call, self.exchange(method, path, body)).await {
            Ok(result) => result,
            Err(_) => Err(self.unreachable("no answer in time")),
        }
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
    ) -> Result<Answer, ClientError> {
        let mut builder = Request::builder().method(method).uri(path).header(HOST, self.host.clone());
        builder = builder.header(ACCEPT, HeaderValue::from_static("application/json, text/plain, */*"));
        if body.is_some() {
            builder = builder.header(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        let request = builder
            .body(Full::new(Bytes::from(body.unwrap_or_default())))
            .map_err(|error| ClientError::BadAnswer(format!("request: {error}")))?;
        let (response, sender) = self.send(request).await?;
        let status = response.status();
        let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        let retry_after = retry_after.and_then(|text| text.parse().ok()).map(Duration::from_secs);
        let limited = Limited::new(response.into_body(), self.limits.answer_bytes);
        let body = limited.collect().await.map_err(|error| {
            if error.is::<LengthLimitError>() {
                ClientError::BadAnswer(format!("longer than {} bytes", self.limits.answer_bytes))
            } else {
                self.unreachable(&error.to_string())
            }
        })?;
        self.keep(sender);
        Ok(Answer { status, retry_after, body: body.to_bytes() })
    }

    /// Sends on a kept connection, or on a new one. Only a request that hyper hands back unsent is tried on the next connection.
    async fn send(
        &self,
        mut request: Request<Full<Bytes>>,
    ) -> Result<(Response<Incoming>, SendRequest<Full<Bytes>>), ClientError> {
        while let Some(mut sender) = self.take() {
            if sender.ready().await.is_err() {
                continue;
            }
            match sender.try_send_request(request).await {
                Ok(response) => return Ok((response, sender)),
                Err(mut error) => match error.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(self.unreachable(&error.into_error().to_string())),
                },
            }
        }
        let connecting = tokio::time::timeout(self.limits.connect, self.connect());
        let mut sender = match connecting.await {
            Ok(result) => result.map_err(|error| self.unreachable(&error.to_string()))?,
            Err(_) => return Err(self.unreachable("no connection in time")),
        };
        let response =
            sender.send_request(request).await.map_err(|error| self.unreachable(&chain(&error)))?;
        Ok((response, sender))
    }

    async fn connect(&self) -> std::io::Result<SendRequest<Full<Bytes>>> {
        let tcp = TcpStream::connect(&self.address).await?;
        tcp.set_nodelay(true)?;
        let tls = self.connector.connect(self.server_name.clone(), tcp).await?;
        let (sender, connection) =
            http1::handshake(TokioIo::new(tls)).await.map_err(std::io::Error::other)?;
        // Ends when the sender is dropped or the server closes; its error reaches the caller through the sender.
        tokio::spawn(async move { drop(connection.await) });
        Ok(sender)
    }

    fn take(&self) -> Option<SendRequest<Full<Bytes>>> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(kept) = idle.pop() {
            if kept.since.elapsed() < self.limits.idle && !kept.sender.is_closed() {
                return Some(kept.sender);
            }
        }
        None
    }

    fn keep(&self, sender: SendRequest<Full<Bytes>>) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < self.limits.idle_connections && !sender.is_closed() {
            idle.push(Idle { sender, since: Instant::now() });
        }
    }

    fn unreachable(&self, reason: &str) -> ClientError {
        ClientError::Unreachable { address: self.address.clone(), reason: reason.to_owned() }
    }
}

/// An error with its causes: hyper names the kind, and what happened only in the source.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
