//! The accept loop: TCP, TLS and HTTP/1.1 with a bound on everything that a client could hold on to.
//!
//! In: a bound socket, TLS, a service. Out: served connections whose requests carry the caller's key thumbprint and source. Refused:
//! connections over the cap of all or of their source (closed at once), handshakes and headers that take too long, request heads above 16 KiB,
//! answers that nobody takes. A connection that is old enough takes no further request. When told to stop, it takes no new connection, lets
//! calls under way end, closes idle connections, and gives up on the rest after the drain time.

use super::deadline::Deadlined;
use super::source::{Source, Sources};
use super::tls::peer_key;
use axum::Router;
use axum::body::Body;
use countersign_core::digest::Sha256Digest;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt;

/// Most bytes of a request's head: ours are below 1 KiB.
const MAX_HEAD_BYTES: usize = 16 * 1024;
/// Most header fields of a request.
const MAX_HEADERS: usize = 64;
/// Connections that the kernel keeps before they are accepted.
const BACKLOG: i32 = 1_024;
/// How long to wait after an accept that failed for lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Who is at the other end of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    /// The key that the handshake proved, and until when its certificate is valid, Unix seconds. `None`: no certificate was shown.
    pub key: Option<(Sha256Digest, u64)>,
    /// From where.
    pub source: Source,
}

impl Peer {
    /// The key while its certificate is valid. The handshake compared the time once; a connection may outlive it (RFC 5280 §4.1.2.5).
    #[must_use]
    pub fn key_at(&self, now_secs: u64) -> Option<Sha256Digest> {
        self.key.filter(|(_, not_after_secs)| now_secs <= *not_after_secs).map(|(key, _)| key)
    }
}

/// Bounds of a listener.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Open connections.
    pub connections: usize,
    /// Of one source.
    pub per_source: usize,
    /// For the TLS handshake.
    pub handshake: Duration,
    /// For an idle connection's next request, its head included.
    pub idle: Duration,
    /// For the other side to take an answer.
    pub write: Duration,
    /// After which a connection takes no further request.
    pub age: Duration,
    /// How long calls under way may take after the stop.
    pub drain: Duration,
}

/// A listener that is bound and not yet accepting.
pub struct Listener {
    socket: TcpListener,
    tls: TlsAcceptor,
    bounds: Bounds,
    open: Arc<AtomicUsize>,
}

impl Listener {
    /// Binds.
    ///
    /// # Errors
    /// What the system says: the address is taken, or isn't ours.
    pub fn bind(address: SocketAddr, tls: rustls::ServerConfig, bounds: Bounds) -> std::io::Result<Self> {
        let domain = socket2::Domain::for_address(address);
        let socket = socket2::Socket::new(domain, socket2::Type::STREAM, Some(socket2::Protocol::TCP))?;
        // A restarted authority takes its port back at once.
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok(Self {
            socket: TcpListener::from_std(socket.into())?,
            tls: TlsAcceptor::from(Arc::new(tls)),
            bounds,
            open: Arc::default(),
        })
    }

    /// Where it is bound.
    ///
    /// # Errors
    /// What the system says.
    pub fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Number of open connections, for metrics.
    #[must_use]
    pub fn open_connections(&self) -> Arc<AtomicUsize> {
        Arc::clone(&self.open)
    }

    /// Serves until `stop` turns true, then drains.
    pub async fn serve(self, router: Router, mut stop: watch::Receiver<bool>) {
        let permits = Arc::new(Semaphore::new(self.bounds.connections));
        let sources = Sources::default();
        loop {
            let accepted = tokio::select! {
                accepted = self.socket.accept() => accepted,
                () = stopped(&mut stop) => break,
            };
            let (stream, source) = match accepted {
                Ok((stream, address)) => (stream, Source::of(address)),
                Err(error) => {
                    // Out of file descriptors, or a client that went away in between; neither ends the listener.
                    tracing::warn!(%error, "accept failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            // Over the cap: closing at once costs less than a handshake whose only message is "no".
            let Some(place) = sources.enter(source, self.bounds.per_source) else { continue };
            let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else { continue };
            let (tls, router, stop) = (self.tls.clone(), router.clone(), stop.clone());
            let (bounds, open) = (self.bounds, Arc::clone(&self.open));
            tokio::spawn(async move {
                open.fetch_add(1, Ordering::Relaxed);
                connection(stream, source, tls, router, bounds, stop).await;
                open.fetch_sub(1, Ordering::Relaxed);
                drop((place, permit));
            });
        }
        drop(self.socket);
        // All permits are back when all connections have ended.
        let all = u32::try_from(self.bounds.connections).unwrap_or(u32::MAX);
        if tokio::time::timeout(self.bounds.drain, permits.acquire_many(all)).await.is_err() {
            tracing::warn!("calls were still under way at the end of the drain time");
        }
    }
}

/// Completes when the listener is to stop; a sender that is gone means the same.
pub(super) async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Completes when a connection is to take no further request.
async fn over(stop: &mut watch::Receiver<bool>, age: Duration) {
    tokio::select! {
        () = stopped(stop) => {}
        () = tokio::time::sleep(age) => {}
    }
}

async fn connection(
    stream: TcpStream,
    source: Source,
    tls: TlsAcceptor,
    router: Router,
    bounds: Bounds,
    mut stop: watch::Receiver<bool>,
) {
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let handshake = tokio::time::timeout(bounds.handshake, tls.accept(stream));
    let stream = match handshake.await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%error, "handshake failed"),
        Err(_) => return tracing::debug!("handshake took too long"),
    };
    let peer = Peer { key: peer_key(stream.get_ref().1), source };
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(peer);
        router.clone().oneshot(request.map(Body::new))
    });
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(bounds.idle)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEAD_BYTES)
        .keep_alive(true);
    let stream = Deadlined::new(stream, bounds.write);
    let mut serving = std::pin::pin!(http.serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = over(&mut stop, bounds.age) => {
            serving.as_mut().graceful_shutdown();
            match tokio::time::timeout(bounds.drain, serving).await {
                Ok(ended) => ended,
                Err(_) => return,
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "connection ended");
    }
}

#[cfg(test)]
#[path = "listener_tests.rs"]
mod tests;
