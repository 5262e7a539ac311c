//! Serving the local socket: connections, bounds, routes.
//!
//! One request a connection, so who is at the other end is looked at anew each time. Bounded are the connections, those of one user, the time for
//! headers, the body, and the whole. Every refusal is `application/problem+json` with a stable code.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use countersign_core::refusal::RefusalCode;
use http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use crate::agent::Agent;
use crate::authority::AuthorityApi;
use crate::gather::Gatherer;
use crate::local::{PrepareCall, SignedRequestDocument};
use crate::peer::{Peer, PeerError};
use crate::refused::Refused;
use crate::requests::Asking;
use crate::socket::LocalSocket;

/// Connections at a time. More wait in the kernel's queue.
const CONNECTIONS: usize = 512;
/// Of one user, so that one can't keep the others out.
const CONNECTIONS_PER_USER: usize = 320;
/// Time for the request's head.
const HEAD_DEADLINE: Duration = Duration::from_secs(5);
/// Time for a request, decision included: a call and its repetitions take at most 25 s.
const REQUEST_DEADLINE: Duration = Duration::from_secs(30);
/// Time for a connection, a slow reader included.
const CONNECTION_DEADLINE: Duration = Duration::from_secs(40);
/// How long connections may go on once the agent is asked to end.
const DRAIN_DEADLINE: Duration = Duration::from_secs(10);
/// Largest body: a request of 8,192 bytes in base64 and a signature, or the parts from which one is made with a long argument vector.
const MAX_BODY: usize = 64 * 1024;
/// Files hashed at a time.
const MEASUREMENTS: usize = 2;

type Answer = Response<Full<Bytes>>;

/// What the routes need.
pub(crate) struct Server<A> {
    agent: Arc<Agent<A>>,
    gatherer: Gatherer,
    measurements: Arc<Semaphore>,
    users: Arc<Mutex<BTreeMap<u32, usize>>>,
}

impl<A: AuthorityApi> Server<A> {
    pub(crate) fn new(agent: Arc<Agent<A>>, gatherer: Gatherer) -> Arc<Self> {
        let measurements = Arc::new(Semaphore::new(MEASUREMENTS));
        Arc::new(Self { agent, gatherer, measurements, users: Arc::default() })
    }

    /// Accepts until told to stop, then lets what is under way end.
    pub(crate) async fn serve(self: Arc<Self>, socket: LocalSocket, mut stop: watch::Receiver<bool>) {
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                _ = stop.wait_for(|stop| *stop) => break,
                accepted = accept(&socket, &places) => accepted,
            };
            if let Some((stream, place)) = accepted {
                let server = Arc::clone(&self);
                connections.spawn(async move {
                    let connection = server.connection(stream);
                    let _ = tokio::time::timeout(CONNECTION_DEADLINE, connection).await;
                    drop(place);
                });
            }
            while connections.try_join_next().is_some() {}
        }
        drop(socket);
        let drained = async { while connections.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(DRAIN_DEADLINE, drained).await;
    }

    async fn connection(self: Arc<Self>, stream: UnixStream) {
        let peer = Peer::of(&stream);
        let place = peer.as_ref().ok().map(|peer| Place::take(&self.users, peer.uid));
        let service = service_fn(move |request| {
            let server = Arc::clone(&self);
            let caller = match (&peer, &place) {
                (Ok(peer), Some(Some(_))) => Ok(peer.clone()),
                (Ok(_), _) => {
                    Err(Refused::new(RefusalCode::Overloaded, "this user has too many connections"))
                }
                (Err(error), _) => Err(refused(error)),
            };
            async move { Ok::<_, Infallible>(server.answer(caller, request).await) }
        });
        let mut http = hyper::server::conn::http1::Builder::new();
        http.keep_alive(false)
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_DEADLINE)
            .max_buf_size(16 * 1024);
        if let Err(error) = http.serve_connection(TokioIo::new(stream), service).await {
            tracing::debug!(error = %error, "a local connection ended early");
        }
    }

    async fn answer(&self, caller: Result<Peer, Refused>, request: Request<Incoming>) -> Answer {
        let answered = async { self.route(caller?, request).await };
        let late = || Refused::new(RefusalCode::TimedOut, "no answer in time; repeat the request as it was");
        match tokio::time::timeout(REQUEST_DEADLINE, answered).await.unwrap_or_else(|_| Err(late())) {
            Ok(body) => response(StatusCode::OK, "application/json", body),
            Err(refused) => problem(&refused),
        }
    }

    async fn route(&self, peer: Peer, request: Request<Incoming>) -> Result<Vec<u8>, Refused> {
        let (head, body) = request.into_parts();
        let method = match head.uri.path() {
            "/v1/status" => Method::GET,
            "/v1/requests" | "/v1/artifacts" => Method::POST,
            _ => return Err(Refused::new(RefusalCode::NotFound, "")),
        };
        if head.method != method {
            return Err(Refused::new(RefusalCode::MethodNotAllowed, ""));
        }
        match head.uri.path() {
            "/v1/requests" => self.prepare(peer, read(body).await?).await,
            "/v1/artifacts" => self.submit(peer, read(body).await?).await,
            _ => json(&*self.agent.status.lock().unwrap_or_else(PoisonError::into_inner)),
        }
    }

    async fn prepare(&self, peer: Peer, call: PrepareCall) -> Result<Vec<u8>, Refused> {
        let made =
            self.measured(peer, move |asking, peer| asking.prepare(peer, &call).map_err(Refused::from));
        json(&made.await?)
    }

    async fn submit(&self, peer: Peer, call: SignedRequestDocument) -> Result<Vec<u8>, Refused> {
        let request =
            self.measured(peer, move |asking, _| asking.submit(call).map_err(Refused::from)).await?;
        let (digest, id) = (*request.digest(), request.request().id.clone());
        let decision = self.gatherer.decide(request).await;
        match &decision {
            Ok(decision) => tracing::info!(
                request = %id, digest = %digest, verdict = decision.verdict,
                code = decision.code.as_deref().unwrap_or(""), "decided"
            ),
            Err(refused) => tracing::warn!(
                request = %id, digest = %digest, code = refused.code.as_str(), detail = refused.detail, "not decided"
            ),
        }
        json(&decision?)
    }

    /// Finds the caller's rule and does something under it, on a thread that may block; only a few do so at a time.
    async fn measured<T: Send + 'static>(
        &self,
        peer: Peer,
        work: impl FnOnce(Asking<'_>, &Peer) -> Result<T, Refused> + Send + 'static,
    ) -> Result<T, Refused> {
        let ended = || Refused::new(RefusalCode::Internal, "the agent failed; nothing was decided");
        let permit = Arc::clone(&self.measurements).acquire_owned().await.map_err(|_| ended())?;
        let agent = Arc::clone(&self.agent);
        let done = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let rule = peer.rule(&agent.rules)?;
            let trust_domain = agent.judge.bundle().trust_domain();
            let done = work(Asking { trust_domain, host: &agent.identity.host, rule }, &peer)?;
            // What was looked at must still be there.
            peer.still()?;
            Ok(done)
        });
        done.await.unwrap_or_else(|_| Err(ended()))
    }
}

fn refused(error: &PeerError) -> Refused {
    tracing::warn!(code = "peer-unknown", error = %error, "a local caller is refused");
    Refused::new(RefusalCode::PeerUnknown, "the process at the other end can't be told")
}

/// The next connection and its place; `None` when one failed before it was accepted.
async fn accept(
    socket: &LocalSocket,
    places: &Arc<Semaphore>,
) -> Option<(UnixStream, tokio::sync::OwnedSemaphorePermit)> {
    let place = Arc::clone(places).acquire_owned().await.ok()?;
    match socket.listener().accept().await {
        Ok((stream, _)) => Some((stream, place)),
        Err(error) => {
            // Out of file descriptors, mostly: others have to end first.
            tracing::warn!(error = %error, "a local connection wasn't accepted");
            tokio::time::sleep(Duration::from_millis(100)).await;
            None
        }
    }
}

/// One connection of a user, counted until it is dropped.
struct Place {
    users: Arc<Mutex<BTreeMap<u32, usize>>>,
    uid: u32,
}

impl Place {
    fn take(users: &Arc<Mutex<BTreeMap<u32, usize>>>, uid: u32) -> Option<Self> {
        let mut counts = users.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(uid).or_default();
        if *count >= CONNECTIONS_PER_USER {
            return None;
        }
        *count += 1;
        Some(Self { users: Arc::clone(users), uid })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.uid) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                counts.remove(&self.uid);
            }
        }
    }
}

async fn read<T: DeserializeOwned>(body: Incoming) -> Result<T, Refused> {
    let collected = Limited::new(body, MAX_BODY).collect().await.map_err(|error| {
        let code =
            if error.is::<LengthLimitError>() { RefusalCode::BodyTooLarge } else { RefusalCode::Malformed };
        Refused::new(code, format!("a body has at most {MAX_BODY} bytes"))
    })?;
    serde_json::from_slice(&collected.to_bytes())
        .map_err(|error| Refused::new(RefusalCode::Malformed, error.to_string()))
}

fn json<T: serde::Serialize>(value: &T) -> Result<Vec<u8>, Refused> {
    serde_json::to_vec(value).map_err(|error| Refused::new(RefusalCode::Internal, error.to_string()))
}

fn problem(refused: &Refused) -> Answer {
    let status = StatusCode::from_u16(refused.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let body = serde_json::to_vec(&refused.problem()).unwrap_or_default();
    let mut answer = response(status, "application/problem+json", body);
    if let Some(secs) = refused.retry_after_secs {
        answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from(secs));
    }
    answer
}

fn response(status: StatusCode, kind: &'static str, body: Vec<u8>) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    answer
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
