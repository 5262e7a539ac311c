//! What stands before every handler: who calls, how often, how much, how long, and what a panic becomes.
//!
//! The caller is judged at each request by the control state and the host table of that moment, so that a revocation holds for connections
//! that are open.

use super::problem::Refused;
use super::route::{Needs, Route};
use super::{Call, Caller};
use crate::serve::Authority;
use crate::serve::listener::Peer;
use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use countersign_core::control::ControlState;
use countersign_core::digest::Sha256Digest;
use countersign_core::leaf::control::PrincipalKind;
use countersign_core::refusal::RefusalCode;
use http::header::CONTENT_LENGTH;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

/// Longest body of somebody who hasn't shown a key: an enrolment has three public areas and a few certificates, some 12 KiB in base64.
const ANONYMOUS_BODY_LEN: usize = 64 * 1024;

/// Most bytes of a refused body that are read and thrown away: twice the largest body by default, so that whoever is over a smaller limit of
/// its own still reads the answer.
const DISCARDED_LEN: usize = 4 * 1024 * 1024;

/// Answers one request of this route, whatever happens.
pub async fn answer(authority: Arc<Authority>, route: &'static Route, request: Request) -> Response {
    let began = Instant::now();
    let limit = Duration::from_secs(authority.config().limits.request_timeout_secs);
    let work = contain_panics(handle(Arc::clone(&authority), route, request));
    let result = match tokio::time::timeout(limit, work).await {
        Ok(Ok(result)) => result,
        Ok(Err(Panicked)) => Err(RefusalCode::Internal.into()),
        Err(_) => Err(RefusalCode::TimedOut.into()),
    };
    let code = result.as_ref().err().map(Refused::code);
    authority.metrics().call(route.path, code, began.elapsed());
    result.unwrap_or_else(IntoResponse::into_response)
}

async fn handle(
    authority: Arc<Authority>,
    route: &'static Route,
    request: Request,
) -> Result<Response, Refused> {
    // Set by the listener on every connection; without it there is nobody to answer to.
    let peer = request.extensions().get::<Peer>().copied().ok_or(RefusalCode::Internal)?;
    let caller = authenticate(&authority, route.needs, peer.key_at(authority.now_ms() / 1_000)).await?;
    if let Caller::Host { host, .. } = caller
        && !authority.budgets().host_calls.take(host, Instant::now())
    {
        return Err(RefusalCode::RateLimited.into());
    }
    let (parts, body) = request.into_parts();
    let parameter = path_parameter(route.path, parts.uri.path())?;
    let limit = match route.takes {
        Some(_) if route.needs == Needs::Anyone => {
            authority.config().limits.body_bytes.min(ANONYMOUS_BODY_LEN)
        }
        Some(_) => authority.config().limits.body_bytes,
        None => 0,
    };
    let deadline = Duration::from_secs(authority.config().limits.body_secs);
    let body = read_body(parts.headers.get(CONTENT_LENGTH), body, limit, deadline).await?;
    let query = parts.uri.query().unwrap_or_default().to_owned();
    (route.handler)(authority, Call { caller, source: peer.source, parameter, query, body }).await
}

/// Who the key belongs to, if that may call this route.
async fn authenticate(
    authority: &Arc<Authority>,
    needs: Needs,
    peer: Option<Sha256Digest>,
) -> Result<Caller, Refused> {
    if needs == Needs::Anyone {
        return Ok(Caller::Anyone);
    }
    let Some(key) = peer else { return Err(RefusalCode::Unauthenticated.into()) };
    let caller = match principal(&authority.control(), &key) {
        Some(caller) => caller,
        None => match authority.host_of_key(key).await? {
            Some(host) => Caller::Host { host, key },
            None => return Err(RefusalCode::Unauthenticated.into()),
        },
    };
    let admitted = match (needs, &caller) {
        (Needs::Host | Needs::GatewayOrHost, Caller::Host { .. })
        | (Needs::Gateway | Needs::GatewayOrHost, Caller::Gateway(_)) => true,
        (Needs::Operator(least), Caller::Operator(_, role)) => *role >= least,
        _ => false,
    };
    if admitted { Ok(caller) } else { Err(RefusalCode::Forbidden.into()) }
}

/// A principal in force. A revoked one is nobody.
fn principal(control: &ControlState, key: &Sha256Digest) -> Option<Caller> {
    control.principal(key).map(|principal| match principal.kind {
        PrincipalKind::Operator(role) => Caller::Operator(*key, role),
        PrincipalKind::Gateway => Caller::Gateway(*key),
    })
}

/// The variable part of the path, as it was sent: nothing of this API needs decoding, so that no object has two names.
fn path_parameter(route: &str, path: &str) -> Result<String, Refused> {
    let Some((before, rest)) = route.split_once('{') else { return Ok(String::new()) };
    let after = rest.split_once('}').map_or("", |(_, after)| after);
    let parameter = path.strip_prefix(before).and_then(|rest| rest.strip_suffix(after));
    parameter.map(str::to_owned).ok_or_else(|| RefusalCode::NotFound.into())
}

/// The whole body, judged by its announced length before a byte is kept, by its real one while it is read, and by the time that it takes.
async fn read_body(
    announced: Option<&http::HeaderValue>,
    body: Body,
    limit: usize,
    deadline: Duration,
) -> Result<Bytes, Refused> {
    let reading = tokio::time::timeout(deadline, read_bounded(announced, body, limit));
    reading.await.unwrap_or_else(|_| Err(Refused::new(RefusalCode::TimedOut, "the body took too long")))
}

async fn read_bounded(
    announced: Option<&http::HeaderValue>,
    body: Body,
    limit: usize,
) -> Result<Bytes, Refused> {
    let announced = announced.and_then(|value| value.to_str().ok()).and_then(|text| text.parse::<u64>().ok());
    if announced.is_some_and(|length| usize::try_from(length).map_or(true, |length| length > limit)) {
        discard(body).await;
        return Err(too_large(limit));
    }
    match Limited::new(body, limit).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(too_large(limit)),
        Err(_) => Err(Refused::new(RefusalCode::Malformed, "the body ended early")),
    }
}

fn too_large(limit: usize) -> Refused {
    Refused::new(RefusalCode::BodyTooLarge, format!("at most {limit} bytes"))
}

/// Reads on without keeping anything, up to [`DISCARDED_LEN`]: a client that is a little over its limit gets to read why, since a connection
/// that is closed on unread bytes takes the answer with it.
async fn discard(mut body: Body) {
    let mut left = DISCARDED_LEN;
    while let Some(Ok(frame)) = body.frame().await {
        let Some(rest) = left.checked_sub(frame.data_ref().map_or(0, Bytes::len)) else { return };
        left = rest;
    }
}

struct Panicked;

/// Polls `work` and turns a panic of it into an answer.
async fn contain_panics<T>(work: impl Future<Output = T>) -> Result<T, Panicked> {
    let mut work = Box::pin(work);
    std::future::poll_fn(move |context| {
        // The future is dropped with whatever the panic left in it; shared state is behind its own locks.
        match catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(context))) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(value)) => Poll::Ready(Ok(value)),
            Err(_) => {
                tracing::error!("a handler contained a panic");
                Poll::Ready(Err(Panicked))
            }
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_in_a_handler_becomes_an_answer() {
        assert!(contain_panics(async { panic!("on purpose") }).await.is_err());
        assert_eq!(contain_panics(async { 7 }).await.ok(), Some(7));
    }

    #[tokio::test]
    async fn a_body_over_the_limit_is_refused_by_its_announcement_and_by_its_bytes() {
        let code = |result: Result<Bytes, Refused>| result.map_err(|refused| refused.code());
        let body = || Body::from(vec![0; 11]);
        let announced = http::HeaderValue::from_static("11");
        let long = Duration::from_secs(60);
        assert_eq!(code(read_body(Some(&announced), body(), 10, long).await), Err(RefusalCode::BodyTooLarge));
        assert_eq!(code(read_body(None, body(), 10, long).await), Err(RefusalCode::BodyTooLarge));
        assert_eq!(read_body(None, body(), 11, long).await.unwrap().len(), 11);
    }

    /// A body of which nothing ever comes.
    struct Never;

    impl hyper::body::Body for Never {
        type Data = Bytes;
        type Error = std::convert::Infallible;

        fn poll_frame(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> Poll<Option<Result<hyper::body::Frame<Bytes>, Self::Error>>> {
            Poll::Pending
        }
    }

    #[tokio::test]
    async fn a_body_that_does_not_come_is_given_up() {
        let short = Duration::from_millis(20);
        let announced = http::HeaderValue::from_static("99");
        for announced in [None, Some(&announced)] {
            let given_up = read_body(announced, Body::new(Never), 10, short).await;
            assert_eq!(given_up.map_err(|refused| refused.code()), Err(RefusalCode::TimedOut));
        }
    }
}
