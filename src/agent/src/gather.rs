//! Many requests, one quote.
//!
//! Comes in: requests of local runtimes, each with somebody who waits. Goes out: one decision for each. There is no timer: while one call is
//! under way the next gathers, up to 256 requests, and starts when it ends; so an idle host pays no delay, and a slow TPM is shared by all that
//! wait. Every request was parsed and its holder signature verified before it came here, since one bad request would spoil the call for all; if the
//! authority still finds fault with a form, each request is tried alone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use countersign_core::api::DecisionDocument;
use countersign_core::digest::Sha256Digest;
use countersign_core::refusal::RefusalCode;
use countersign_core::request::{MAX_REQUESTS, SignedRequest};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::agent::{Agent, ExchangeError};
use crate::authority::{AuthorityApi, CallError};
use crate::backoff::Backoff;
use crate::refused::Refused;

/// Requests that may wait: four calls.
const QUEUE: usize = 4 * MAX_REQUESTS;
/// For one call with its repetitions. Runtimes wait a little longer than this.
const CALL_DEADLINE: Duration = Duration::from_secs(25);
/// A call is made at most this often; a repetition is byte-identical, so a decision already made is found again.
const TRIES: u32 = 3;

type Answer = Result<DecisionDocument, Refused>;

struct Waiting {
    request: SignedRequest,
    reply: oneshot::Sender<Answer>,
}

/// The way in. Clones share the queue.
#[derive(Clone)]
pub(crate) struct Gatherer {
    queue: mpsc::Sender<Waiting>,
}

/// The way out: what [`Gathered::serve`] takes from.
pub(crate) struct Gathered {
    queue: mpsc::Receiver<Waiting>,
}

/// A queue and its two ends.
pub(crate) fn gatherer() -> (Gatherer, Gathered) {
    let (sender, queue) = mpsc::channel(QUEUE);
    (Gatherer { queue: sender }, Gathered { queue })
}

impl Gatherer {
    /// The authority's decision on a request. A caller who stops waiting takes the request out of the queue.
    pub(crate) async fn decide(&self, request: SignedRequest) -> Answer {
        let (reply, answer) = oneshot::channel();
        self.queue.try_send(Waiting { request, reply }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => {
                Refused::new(RefusalCode::Overloaded, "too many requests wait for a quote")
            }
            mpsc::error::TrySendError::Closed(_) => {
                Refused::new(RefusalCode::Overloaded, "the agent is ending")
            }
        })?;
        let ending = || Err(Refused::new(RefusalCode::Overloaded, "the agent is ending"));
        answer.await.unwrap_or_else(|_| ending())
    }
}

impl Gathered {
    /// Makes one call after the other until every [`Gatherer`] is gone.
    pub(crate) async fn serve<A: AuthorityApi>(mut self, agent: Arc<Agent<A>>) {
        while let Some(first) = self.queue.recv().await {
            let mut batch = Batch::default();
            batch.add(first);
            while batch.requests.len() < MAX_REQUESTS
                && let Ok(next) = self.queue.try_recv()
            {
                batch.add(next);
            }
            batch.run(&agent).await;
        }
    }
}

/// Requests of one call, and who waits for each. The same bytes asked for twice are one request with two that wait.
#[derive(Default)]
struct Batch {
    requests: Vec<SignedRequest>,
    replies: BTreeMap<Sha256Digest, Vec<oneshot::Sender<Answer>>>,
}

impl Batch {
    fn add(&mut self, waiting: Waiting) {
        if waiting.reply.is_closed() {
            return;
        }
        let replies = self.replies.entry(*waiting.request.digest()).or_default();
        if replies.is_empty() {
            self.requests.push(waiting.request);
        }
        replies.push(waiting.reply);
    }

    fn answer(&mut self, request: &SignedRequest, answer: &Answer) {
        for reply in self.replies.remove(request.digest()).unwrap_or_default() {
            // A runtime that has gone away doesn't need it.
            let _ = reply.send(answer.clone());
        }
    }

    async fn run<A: AuthorityApi>(mut self, agent: &Agent<A>) {
        let requests = std::mem::take(&mut self.requests);
        let all: Vec<&SignedRequest> = requests.iter().collect();
        if all.is_empty() {
            return;
        }
        tracing::debug!(requests = all.len(), "one call");
        match bounded(agent, &all).await {
            Err(refused) if all.len() > 1 && blames_a_request(&refused) => {
                tracing::warn!(
                    code = refused.code.as_str(),
                    "a call was refused for its form; trying each request alone"
                );
                for request in &all {
                    let mut answers =
                        bounded(agent, &[*request]).await.unwrap_or_else(|refused| vec![Err(refused)]);
                    self.answer(request, &answers.pop().unwrap_or_else(missing));
                }
            }
            Err(refused) => {
                for request in &all {
                    self.answer(request, &Err(refused.clone()));
                }
            }
            Ok(answers) => {
                for (request, answer) in all.iter().zip(&answers) {
                    self.answer(request, answer);
                }
            }
        }
    }
}

fn missing() -> Answer {
    Err(Refused::new(RefusalCode::FeedInvalid, "the authority answered without a decision"))
}

/// Refusals of a whole call that one of its requests may have caused.
fn blames_a_request(refused: &Refused) -> bool {
    matches!(
        refused.code,
        RefusalCode::Malformed
            | RefusalCode::BodyTooLarge
            | RefusalCode::RequestMalformed
            | RefusalCode::RequestHostMismatch
            | RefusalCode::HolderSignatureInvalid
    )
}

async fn bounded<A: AuthorityApi>(
    agent: &Agent<A>,
    requests: &[&SignedRequest],
) -> Result<Vec<Answer>, Refused> {
    let late = |_| Refused::new(RefusalCode::TimedOut, "no decision in time; repeat the request as it was");
    tokio::time::timeout(CALL_DEADLINE, call(agent, requests)).await.map_err(late)?
}

/// One call, repeated while what fails may pass.
async fn call<A: AuthorityApi>(
    agent: &Agent<A>,
    requests: &[&SignedRequest],
) -> Result<Vec<Answer>, Refused> {
    let started = Instant::now();
    let mut backoff = Backoff::new(Duration::from_millis(100), CALL_DEADLINE);
    let mut tries = 0;
    let answer = loop {
        tries += 1;
        match agent.artifacts(requests).await {
            Ok(answer) => break answer,
            Err(error) if tries < TRIES && error.may_pass() => {
                let wait = backoff.step(error.retry_after());
                if started.elapsed() + wait >= CALL_DEADLINE {
                    return Err(error.into());
                }
                tracing::info!(error = %error, wait_ms = wait.as_millis(), "repeating a call");
                tokio::time::sleep(wait).await;
            }
            Err(error) => return Err(refuse(error)),
        }
    };
    if answer.decisions.len() != requests.len() {
        return missing().map(|_| Vec::new());
    }
    let mut answers = Vec::with_capacity(requests.len());
    for (request, document) in requests.iter().zip(answer.decisions) {
        let judged = agent.judge.decision(&agent.api, &document, request).await;
        answers.push(judged.map(|()| document).map_err(Refused::from));
    }
    Ok(answers)
}

/// What the agent itself did wrong is no runtime's fault.
fn refuse(error: ExchangeError) -> Refused {
    match &error {
        ExchangeError::Call(CallError::Refused { code, .. }) if *code == RefusalCode::EvidenceNeeded => {
            tracing::error!(error = %error, "the authority asks for evidence that this host doesn't have");
            Refused::new(RefusalCode::Internal, "the authority asks for evidence that this host doesn't have")
        }
        _ => error.into(),
    }
}

#[cfg(test)]
#[path = "gather_tests.rs"]
mod tests;
