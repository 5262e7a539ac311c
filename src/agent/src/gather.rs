//! Many requests, one quote.
//!
//! Comes in: requests of local runtimes, each with somebody who waits. Goes out: one decision for each. There is no timer: while one call is
//! under way the next gathers, up to 256 requests, and starts when it ends; so an idle host pays no delay, and a slow TPM is shared by all that
//! wait. Every request was parsed and its holder signature verified before it came here, since one bad request would spoil the call for all; if the
//! authority still finds fault with a form, the call is halved until it is known with which. Of different requests with one identifier, which would
//! spoil a call, too, the second waits for the next.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use countersign_core::api::DecisionDocument;
use countersign_core::digest::Sha256Digest;
use countersign_core::name::RequestId;
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
/// For all calls into which one was halved: longer than that nobody waits.
const HALVING_DEADLINE: Duration = Duration::from_secs(30);
/// Requests that wait because their identifier is in the call already.
const MAX_HELD: usize = MAX_REQUESTS;
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
        let mut held = VecDeque::new();
        loop {
            let mut batch = Batch::default();
            for waiting in std::mem::take(&mut held) {
                batch.add(waiting, &mut held);
            }
            if batch.requests.is_empty() {
                let Some(first) = self.queue.recv().await else { return };
                batch.add(first, &mut held);
            }
            while batch.requests.len() < MAX_REQUESTS
                && let Ok(next) = self.queue.try_recv()
            {
                batch.add(next, &mut held);
            }
            batch.run(&agent).await;
        }
    }
}

/// Requests of one call, and who waits for each. The same bytes asked for twice are one request with two that wait.
#[derive(Default)]
struct Batch {
    requests: Vec<SignedRequest>,
    ids: BTreeSet<RequestId>,
    replies: BTreeMap<Sha256Digest, Vec<oneshot::Sender<Answer>>>,
}

impl Batch {
    /// Takes a request, or holds it for the next call if another one of this has its identifier (PROTOCOL §9: one refuses the call).
    fn add(&mut self, waiting: Waiting, held: &mut VecDeque<Waiting>) {
        if waiting.reply.is_closed() {
            return;
        }
        let digest = *waiting.request.digest();
        if let Some(replies) = self.replies.get_mut(&digest) {
            replies.push(waiting.reply);
        } else if self.requests.len() < MAX_REQUESTS && self.ids.insert(waiting.request.request().id.clone())
        {
            self.requests.push(waiting.request);
            self.replies.insert(digest, vec![waiting.reply]);
        } else if held.len() < MAX_HELD {
            held.push_back(waiting);
        } else {
            let many = "too many requests with one identifier wait";
            let _ = waiting.reply.send(Err(Refused::new(RefusalCode::Overloaded, many)));
        }
    }

    fn answer(&mut self, request: &SignedRequest, answer: &Answer) {
        for reply in self.replies.remove(request.digest()).unwrap_or_default() {
            // A runtime that has gone away doesn't need it.
            let _ = reply.send(answer.clone());
        }
    }

    fn is_awaited(&self, request: &SignedRequest) -> bool {
        let replies = self.replies.get(request.digest());
        replies.is_some_and(|replies| replies.iter().any(|reply| !reply.is_closed()))
    }

    async fn run<A: AuthorityApi>(mut self, agent: &Agent<A>) {
        let requests = std::mem::take(&mut self.requests);
        let started = Instant::now();
        let mut parts: Vec<Vec<&SignedRequest>> = vec![requests.iter().collect()];
        while let Some(mut part) = parts.pop() {
            part.retain(|request| self.is_awaited(request));
            if part.is_empty() {
                continue;
            }
            if started.elapsed() >= HALVING_DEADLINE {
                let late =
                    Refused::new(RefusalCode::TimedOut, "no decision in time; repeat the request as it was");
                part.iter().for_each(|request| self.answer(request, &Err(late.clone())));
                continue;
            }
            tracing::debug!(requests = part.len(), "one call");
            match bounded(agent, &part).await {
                Err(refused) if part.len() > 1 && blames_a_request(&refused) => {
                    tracing::warn!(
                        code = refused.code.as_str(),
                        "a call was refused for its form; halving it"
                    );
                    let second = part.split_off(part.len() / 2);
                    parts.extend([second, part]);
                }
                Err(refused) => {
                    part.iter().for_each(|request| self.answer(request, &Err(refused.clone())));
                }
                Ok(answers) => {
                    part.iter().zip(&answers).for_each(|(request, answer)| self.answer(request, answer));
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
