//! The witness's HTTP side (C2SP tlog-witness): `POST /add-checkpoint`, and nothing else.
//!
//! In: requests of whoever. Out: signature lines, or the status that the specification names. Bounded: connections, the size of a request, the
//! time that it takes, the age of a connection. What is judged, signed and kept for one log is so in one go, under that log's lock. A record
//! that can't be written ends the process: nobody knows what is on the disk then.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use countersign_core::witness::{
    AddCheckpoint, AddCheckpointMalformed, MAX_ADD_CHECKPOINT_BYTES, WitnessKey, cosigned_message,
};
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;

use crate::config::{Config, Limits, Tls};
use crate::judge::{Cosigned, NotCosigned, judge};
use crate::state::{StateDir, StateFault};
use crate::{Cosign, CosignFault};
use countersign_core::note::{NoteError, NoteKey};

/// How long to wait after an accept that failed for lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Most bytes of a request's head.
const MAX_HEAD_BYTES: usize = 16 * 1024;
/// C2SP tlog-witness: the form of a size.
const SIZE: &str = "text/x.tlog.size";
const TEXT: &str = "text/plain; charset=utf-8";

/// Why the witness doesn't serve, or serves no longer.
#[derive(Debug, thiserror::Error)]
pub enum WitnessFault {
    /// The name can't be that of a witness, or the key isn't Ed25519.
    #[error("name or key: {0}")]
    Key(#[from] NoteError),
    /// The memory.
    #[error(transparent)]
    State(#[from] StateFault),
    /// The address can't be bound.
    #[error("{address}: {source}")]
    Bind {
        /// Which.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// Certificate or key for HTTPS.
    #[error("tls: {0}")]
    Tls(String),
    /// A record couldn't be written. What is durable is found at the next start.
    #[error("the memory can't be written any more; start again")]
    MemoryLost,
}

struct FollowedLog {
    keys: Vec<NoteKey>,
    last: Mutex<Cosigned>,
}

/// What all requests share.
struct Witness {
    key: WitnessKey,
    signer: Mutex<Box<dyn Cosign>>,
    state: StateDir,
    logs: HashMap<String, FollowedLog>,
    lost: watch::Sender<bool>,
}

/// Why a request gets no cosignature.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error(transparent)]
    Malformed(#[from] AddCheckpointMalformed),
    #[error("the log isn't followed")]
    UnknownLog,
    #[error(transparent)]
    Judged(#[from] NotCosigned),
    #[error(transparent)]
    Signer(#[from] CosignFault),
    #[error("the memory can't be written")]
    Memory,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Witness {
    /// Judges, signs, keeps; the signature line.
    fn add_checkpoint(&self, body: &[u8]) -> Result<String, Refused> {
        let request = AddCheckpoint::parse(body)?;
        let origin = request.checkpoint.origin.as_str();
        let log = self.logs.get(origin).ok_or(Refused::UnknownLog)?;
        // Held to the end: what is compared is what is replaced (C2SP tlog-witness: atomically).
        let mut last = lock(&log.last);
        if *self.lost.borrow() {
            return Err(Refused::Memory);
        }
        let good = match judge(&request, &log.keys, &last) {
            Ok(good) => good,
            Err(refused) => {
                if refused.is_evidence() {
                    tracing::error!(origin, %refused, "a log, or whoever asked in its name, shows two histories");
                    self.state.keep_evidence(origin, body);
                }
                return Err(refused.into());
            }
        };
        let line = self.cosign(good.text())?;
        let new = good.cosigned();
        if new != *last {
            // A crash before this: nothing was cosigned. After it, and before the answer: who asks again is told the new size, and gets a
            // cosignature for it.
            if let Err(fault) = self.state.keep(origin, &new) {
                tracing::error!(%fault, "the memory can't be written");
                self.lost.send_replace(true);
                return Err(Refused::Memory);
            }
            *last = new;
        }
        tracing::debug!(origin, size = new.size, "cosigned");
        Ok(line)
    }

    fn cosign(&self, text: &str) -> Result<String, Refused> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let time_secs = now.map_err(|_| CosignFault("the clock is before 1970".to_owned()))?.as_secs();
        let signature = lock(&self.signer).sign(cosigned_message(time_secs, text).as_bytes())?;
        let unfit = || CosignFault("what came back isn't a signature".to_owned());
        let line = self.key.line(time_secs, &signature).ok_or_else(unfit)?;
        // Verified before it leaves, whatever the device says.
        self.key.verify(text, &line).map_err(|_| unfit())?;
        Ok(line.format())
    }
}

/// A witness that is bound and not yet serving.
pub struct Server {
    witness: Arc<Witness>,
    socket: TcpListener,
    tls: Option<TlsAcceptor>,
    limits: Limits,
}

impl Server {
    /// Opens the memory, compares it with the configuration, binds.
    ///
    /// # Errors
    /// [`WitnessFault`].
    pub async fn bind(config: &Config, signer: Box<dyn Cosign>) -> Result<Self, WitnessFault> {
        let key = WitnessKey::new(&config.name, signer.public_key().clone())?;
        let state = StateDir::open(&config.state_dir)?;
        let mut logs = HashMap::new();
        for log in &config.logs {
            let last = Mutex::new(state.load(&log.origin)?);
            logs.insert(log.origin.clone(), FollowedLog { keys: log.keys.clone(), last });
        }
        let tls = config.tls.as_ref().map(acceptor).transpose()?;
        let bound = TcpListener::bind(config.listen).await;
        let socket = bound.map_err(|source| WitnessFault::Bind { address: config.listen, source })?;
        let lost = watch::Sender::new(false);
        let witness = Witness { key, signer: Mutex::new(signer), state, logs, lost };
        Ok(Self { witness: Arc::new(witness), socket, tls, limits: config.limits })
    }

    /// The verifier key that others configure.
    #[must_use]
    pub fn vkey(&self) -> String {
        self.witness.key.vkey()
    }

    /// Where it is bound.
    ///
    /// # Errors
    /// What the system says.
    pub fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Serves until `shutdown` completes, then lets requests under way end.
    ///
    /// # Errors
    /// [`WitnessFault::MemoryLost`].
    pub async fn serve(self, shutdown: impl Future<Output = ()>) -> Result<(), WitnessFault> {
        let Self { witness, socket, tls, limits } = self;
        let (stop, stopped) = watch::channel(false);
        let mut lost = witness.lost.subscribe();
        let permits = Arc::new(Semaphore::new(limits.connections));
        let mut shutdown = std::pin::pin!(shutdown);
        let memory_lost = loop {
            let accepted = tokio::select! {
                accepted = socket.accept() => accepted,
                () = &mut shutdown => break false,
                _ = lost.wait_for(|lost| *lost) => break true,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "accept failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            // Over the cap: closed at once.
            let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else { continue };
            let (witness, tls, stopped) = (Arc::clone(&witness), tls.clone(), stopped.clone());
            tokio::spawn(async move {
                connection(stream, tls, witness, limits, stopped).await;
                drop(permit);
            });
        };
        stop.send_replace(true);
        let all = u32::try_from(limits.connections).unwrap_or(u32::MAX);
        let drain = Duration::from_secs(limits.drain_secs);
        if tokio::time::timeout(drain, permits.acquire_many(all)).await.is_err() {
            tracing::warn!("requests were still under way at the end of the drain time");
        }
        if memory_lost { Err(WitnessFault::MemoryLost) } else { Ok(()) }
    }
}

fn acceptor(tls: &Tls) -> Result<TlsAcceptor, WitnessFault> {
    let fault = |error: &dyn std::fmt::Display| WitnessFault::Tls(error.to_string());
    let chain = CertificateDer::pem_file_iter(&tls.certificate).map_err(|error| fault(&error))?;
    let chain = chain.collect::<Result<Vec<_>, _>>().map_err(|error| fault(&error))?;
    let key = PrivateKeyDer::from_pem_file(&tls.key).map_err(|error| fault(&error))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| fault(&error))?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|error| fault(&error))?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

async fn connection(
    stream: TcpStream,
    tls: Option<TlsAcceptor>,
    witness: Arc<Witness>,
    limits: Limits,
    stopped: watch::Receiver<bool>,
) {
    let Some(tls) = tls else { return speak(stream, witness, limits, stopped).await };
    let patience = Duration::from_secs(limits.request_secs);
    if let Ok(Ok(stream)) = tokio::time::timeout(patience, tls.accept(stream)).await {
        speak(stream, witness, limits, stopped).await;
    }
}

async fn speak(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    witness: Arc<Witness>,
    limits: Limits,
    mut stopped: watch::Receiver<bool>,
) {
    let patience = Duration::from_secs(limits.request_secs);
    let service = service_fn(move |request| {
        let witness = Arc::clone(&witness);
        async move { Ok::<_, Infallible>(answer(witness, request, patience).await) }
    });
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(patience).max_buf_size(MAX_HEAD_BYTES);
    let mut serving = std::pin::pin!(http.serve_connection(TokioIo::new(stream), service));
    let age = Duration::from_secs(limits.connection_secs);
    tokio::select! {
        _ = serving.as_mut() => return,
        _ = stopped.wait_for(|stopped| *stopped) => {}
        () = tokio::time::sleep(age) => {}
    }
    serving.as_mut().graceful_shutdown();
    // An answer that nobody takes holds nobody up for longer than a request may take.
    let _ = tokio::time::timeout(patience.saturating_mul(2), serving).await;
}

async fn answer(
    witness: Arc<Witness>,
    request: Request<Incoming>,
    patience: Duration,
) -> Response<Full<Bytes>> {
    if request.uri().path() != "/add-checkpoint" {
        return text(StatusCode::NOT_FOUND, TEXT, "nothing here but /add-checkpoint\n");
    }
    if request.method() != Method::POST {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, TEXT, "POST\n");
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
        return response;
    }
    let body = Limited::new(request.into_body(), MAX_ADD_CHECKPOINT_BYTES).collect();
    let body = match tokio::time::timeout(patience, body).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(_)) => {
            return text(StatusCode::PAYLOAD_TOO_LARGE, TEXT, "the request is too large or ended early\n");
        }
        Err(_) => return text(StatusCode::REQUEST_TIMEOUT, TEXT, "the request took too long\n"),
    };
    // Files and tokens block; a client that goes away doesn't stop what is under way.
    let judged = tokio::task::spawn_blocking(move || witness.add_checkpoint(&body)).await;
    match judged {
        Ok(Ok(line)) => text(StatusCode::OK, TEXT, &line),
        Ok(Err(refused)) => refusal(&refused),
        Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, TEXT, "a defect was contained\n"),
    }
}

fn refusal(refused: &Refused) -> Response<Full<Bytes>> {
    tracing::info!(%refused, "not cosigned");
    let status = match refused {
        Refused::Malformed(_) => StatusCode::BAD_REQUEST,
        Refused::UnknownLog => StatusCode::NOT_FOUND,
        Refused::Judged(NotCosigned::OtherOld { size } | NotCosigned::OtherRoot { size }) => {
            return text(StatusCode::CONFLICT, SIZE, &format!("{size}\n"));
        }
        Refused::Judged(judged) => {
            StatusCode::from_u16(judged.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
        }
        Refused::Signer(_) | Refused::Memory => StatusCode::SERVICE_UNAVAILABLE,
    };
    // The words of devices and files are the operator's.
    let words = match refused {
        Refused::Signer(_) => "the key can't be used now\n".to_owned(),
        other => format!("{other}\n"),
    };
    text(status, TEXT, &words)
}

fn text(status: StatusCode, kind: &'static str, words: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::copy_from_slice(words.as_bytes())));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
