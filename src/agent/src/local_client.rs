//! The runtime's side of the local API: what a command line or a runtime written in Rust calls.
//!
//! Comes in: the socket's path and a call. Goes out: the agent's answer, after a check that a prepared request is the one that was asked for, since
//! the holder key is about to sign it. Refused: answers of another shape, over the limit, or late.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use countersign_core::api::{B64, DecisionDocument, Problem};
use countersign_core::key::JsonKey;
use countersign_core::request::{Request, argv_digest};
use http::header::{CONTENT_TYPE, HOST};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use crate::local::{Arguments, PrepareCall, Prepared, SignedRequestDocument, StatusDocument, Workload};

/// A little longer than the agent gives itself for one request.
const DEADLINE: Duration = Duration::from_secs(45);
/// Largest answer: a receipt of 128 KiB, escaped.
const MAX_ANSWER: usize = 512 * 1024;

/// Why the agent gave no good answer.
#[derive(Debug, thiserror::Error)]
pub enum LocalClientError {
    /// Nobody answers at the socket.
    #[error("the agent at {path} can't be reached: {source}")]
    Connect {
        /// Which socket.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The connection broke, or the answer is too large.
    #[error("the agent's answer can't be read: {0}")]
    Transport(String),
    /// No answer in time.
    #[error("the agent didn't answer in time")]
    TimedOut,
    /// The agent says no.
    #[error("{}: {}", .0.code, if .0.detail.is_empty() { &.0.title } else { &.0.detail })]
    Refused(Box<Problem>),
    /// The answer isn't of the local API.
    #[error("the agent's answer isn't of the local API: {0}")]
    Form(serde_json::Error),
    /// The prepared request isn't the one that was asked for.
    #[error("the prepared request has another {0} than was asked for")]
    OtherRequest(&'static str),
}

/// Asks the agent for exact request bytes, and what the holder key has to sign.
///
/// # Errors
/// [`LocalClientError`].
pub async fn prepare(socket: &Path, call: &PrepareCall) -> Result<Prepared, LocalClientError> {
    let prepared: Prepared = exchange(socket, "POST", "/v1/requests", body(call)?).await?;
    check(call, &prepared)?;
    Ok(prepared)
}

/// Hands in request bytes with the holder's signature, and with a consent for each parent; answers the authority's decision.
///
/// # Errors
/// [`LocalClientError`]. The same bytes may be handed in again.
pub async fn submit(
    socket: &Path,
    request: &[u8],
    signature: &[u8],
    consents: &[Vec<u8>],
) -> Result<DecisionDocument, LocalClientError> {
    let call = SignedRequestDocument {
        request: B64(request.to_vec()),
        signature: B64(signature.to_vec()),
        consents: consents.iter().map(|consent| B64(consent.clone())).collect(),
    };
    exchange(socket, "POST", "/v1/artifacts", body(&call)?).await
}

/// How the agent is.
///
/// # Errors
/// [`LocalClientError`].
pub async fn status(socket: &Path) -> Result<StatusDocument, LocalClientError> {
    exchange(socket, "GET", "/v1/status", Bytes::new()).await
}

fn check(call: &PrepareCall, prepared: &Prepared) -> Result<(), LocalClientError> {
    let other = |member| Err(LocalClientError::OtherRequest(member));
    let Ok(request) = Request::parse(&prepared.request.0) else { return other("form") };
    if prepared.to_sign.0 != countersign_core::request::holder_preimage(&prepared.request.0) {
        return other("signature input");
    }
    if JsonKey::from(request.holder) != call.holder {
        return other("holder");
    }
    if call.id.as_ref().is_some_and(|id| id != request.id.as_str()) {
        return other("identifier");
    }
    if request.action.as_str() != call.action {
        return other("action");
    }
    let arguments = match &call.args {
        Arguments::Argv(argv) => argv_digest(argv).to_hex(),
        Arguments::Sha256(digest) => digest.clone(),
    };
    if request.arguments.to_hex() != arguments {
        return other("argument digest");
    }
    if matches!(&call.workload, Workload::Sha256(digest) if *digest != request.workload.to_hex()) {
        return other("workload");
    }
    if request.audience.as_str() != call.aud {
        return other("audience");
    }
    if request.ttl_secs > call.ttl_secs {
        return other("lifetime");
    }
    let parents = call.parents.iter().map(|parent| (parent.index, parent.leaf.clone()));
    if !request.parents.iter().map(|(index, leaf)| (*index, leaf.to_hex())).eq(parents) {
        return other("list of parents");
    }
    if request.delegation.is_some() != call.delegation.is_some() {
        return other("delegation");
    }
    Ok(())
}

fn body<T: Serialize>(call: &T) -> Result<Bytes, LocalClientError> {
    serde_json::to_vec(call).map(Bytes::from).map_err(LocalClientError::Form)
}

async fn exchange<T: DeserializeOwned>(
    socket: &Path,
    method: &str,
    path: &str,
    body: Bytes,
) -> Result<T, LocalClientError> {
    let exchanged = tokio::time::timeout(DEADLINE, send(socket, method, path, body));
    let (ok, bytes) = exchanged.await.map_err(|_| LocalClientError::TimedOut)??;
    if ok {
        return serde_json::from_slice(&bytes).map_err(LocalClientError::Form);
    }
    let problem: Problem = serde_json::from_slice(&bytes).map_err(LocalClientError::Form)?;
    Err(LocalClientError::Refused(Box::new(problem)))
}

async fn send(
    socket: &Path,
    method: &str,
    path: &str,
    body: Bytes,
) -> Result<(bool, Bytes), LocalClientError> {
    let transport = |error: &dyn std::fmt::Display| LocalClientError::Transport(error.to_string());
    let stream = UnixStream::connect(socket)
        .await
        .map_err(|source| LocalClientError::Connect { path: socket.to_owned(), source })?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| transport(&error))?;
    // Ends with the one exchange; its error reaches the sender.
    let driving = tokio::spawn(async move { drop(connection.await) });
    let request = http::Request::builder()
        .method(method)
        .uri(path)
        .header(HOST, "agent")
        .header(CONTENT_TYPE, "application/json")
        .body(Full::new(body))
        .map_err(|error| transport(&error))?;
    let answer = sender.send_request(request).await.map_err(|error| transport(&error))?;
    let ok = answer.status().is_success();
    let collected =
        Limited::new(answer.into_body(), MAX_ANSWER).collect().await.map_err(|error| transport(&error))?;
    driving.abort();
    Ok((ok, collected.to_bytes()))
}
