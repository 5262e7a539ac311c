//! Many requests, one quote; and what a call survives.

use std::sync::atomic::Ordering;

use countersign_core::name::{HostId, TrustDomain};
use countersign_fixture::PATIENCE;

use super::*;
use crate::testing::{World, refusal, signed, signing_key, verifying};

fn request(host: &HostId, id: usize) -> SignedRequest {
    let holder = signing_key();
    let domain = TrustDomain::parse("td.example").unwrap();
    let document = countersign_core::request::RequestDocument {
        v: 1,
        id: format!("r{id}"),
        host: host.to_hex(),
        runtime: format!("spiffe://{domain}/host/{host}/web"),
        holder: verifying(&holder).into(),
        workload: "11".repeat(32),
        action: "exec".to_owned(),
        args: "22".repeat(32),
        aud: "g".to_owned(),
        ttl_secs: 9,
        parents: Vec::new(),
        delegation: None,
    };
    signed(&serde_json::to_vec(&document).unwrap(), &holder)
}

/// Starts the gathering and hands in these requests while a first call is held; answers what came of each, the first's at the end.
async fn while_one_is_under_way(world: &World, requests: Vec<SignedRequest>) -> Vec<Answer> {
    let (gatherer, gathered) = gatherer();
    let serving = tokio::spawn(gathered.serve(Arc::clone(&world.agent)));
    let hold = world.authority.slow.lock().await;
    let ask = |request| {
        let gatherer = gatherer.clone();
        tokio::spawn(async move { gatherer.decide(request).await })
    };
    let before = world.host.quotes.load(Ordering::SeqCst);
    let first = ask(request(&world.agent.identity.host, 9_999));
    until(|| world.host.quotes.load(Ordering::SeqCst) > before).await;
    let waiting: Vec<_> = requests.into_iter().map(ask).collect();
    let queue = &gatherer.queue;
    until(|| QUEUE - queue.capacity() == waiting.len()).await;
    drop(hold);
    let mut answers = Vec::new();
    for one in waiting {
        answers.push(one.await.unwrap());
    }
    answers.push(first.await.unwrap());
    drop(gatherer);
    serving.await.unwrap();
    answers
}

async fn until(condition: impl Fn() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < PATIENCE);
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn what_waits_during_a_call_goes_into_one_next_call_with_one_quote() {
    let world = World::enrolled().await;
    let quotes = world.host.quotes.load(Ordering::SeqCst);
    let requests: Vec<_> = (0..40).map(|id| request(&world.agent.identity.host, id)).collect();
    let answers = while_one_is_under_way(&world, requests).await;
    assert_eq!(answers.len(), 41);
    for answer in &answers {
        assert_eq!(answer.as_ref().unwrap().verdict, "allow");
    }
    assert_eq!(*world.authority.calls.lock().unwrap(), [1, 40]);
    assert_eq!(world.host.quotes.load(Ordering::SeqCst) - quotes, 2);
}

#[tokio::test]
async fn the_same_bytes_asked_for_twice_are_one_request_and_a_caller_who_left_none() {
    let world = World::enrolled().await;
    let one = request(&world.agent.identity.host, 1);
    let answers = while_one_is_under_way(&world, vec![one.clone(), one.clone()]).await;
    let receipts: Vec<_> = answers.iter().map(|answer| answer.as_ref().unwrap().receipt.clone()).collect();
    assert_eq!(receipts[0], receipts[1]);
    assert_ne!(receipts[0], receipts[2]);
    assert_eq!(*world.authority.calls.lock().unwrap(), [1, 1]);
    let mut batch = Batch::default();
    let (reply, answer) = oneshot::channel();
    drop(answer);
    batch.add(Waiting { request: one, reply }, &mut VecDeque::new());
    assert!(batch.requests.is_empty());
}

#[tokio::test]
async fn what_may_pass_is_repeated_with_a_fresh_challenge_and_quote() {
    let world = World::enrolled().await;
    let ours = request(&world.agent.identity.host, 1);
    let faults =
        [CallError::Unreachable("reset".to_owned()), refusal(RefusalCode::VersionsMoved, Vec::new())];
    world.authority.faults.lock().unwrap().extend(faults);
    let quotes = world.host.quotes.load(Ordering::SeqCst);
    let answers = bounded(&world.agent, &[&ours]).await.unwrap();
    assert_eq!(answers[0].as_ref().unwrap().verdict, "allow");
    assert_eq!(world.host.quotes.load(Ordering::SeqCst) - quotes, 3);
    // Not for ever.
    let faults = vec![CallError::TimedOut; 3];
    world.authority.faults.lock().unwrap().extend(faults);
    let refused = bounded(&world.agent, &[&ours]).await.unwrap_err();
    assert_eq!(refused.code, RefusalCode::AuthorityUnreachable);
    assert!(world.authority.faults.lock().unwrap().is_empty());
}

#[tokio::test]
async fn what_will_not_pass_is_not_repeated() {
    let world = World::enrolled().await;
    let ours = request(&world.agent.identity.host, 1);
    for (fault, code) in [
        (refusal(RefusalCode::HostRevoked, Vec::new()), RefusalCode::HostRevoked),
        (CallError::Unreadable("html".to_owned()), RefusalCode::FeedInvalid),
        (refusal(RefusalCode::EvidenceNeeded, vec!["00".repeat(32)]), RefusalCode::Internal),
    ] {
        world.authority.faults.lock().unwrap().push_back(fault);
        assert_eq!(bounded(&world.agent, &[&ours]).await.unwrap_err().code, code);
        assert!(world.authority.calls.lock().unwrap().is_empty());
    }
}

/// A batch of these requests, and what each is answered.
fn batch_of(requests: impl IntoIterator<Item = SignedRequest>) -> (Batch, Vec<oneshot::Receiver<Answer>>) {
    let (mut batch, mut held) = (Batch::default(), VecDeque::new());
    let answers = requests.into_iter().map(|request| {
        let (reply, answer) = oneshot::channel();
        batch.add(Waiting { request, reply }, &mut held);
        answer
    });
    let answers = answers.collect();
    assert!(held.is_empty());
    (batch, answers)
}

#[tokio::test]
async fn one_request_of_bad_form_does_not_spoil_the_others() {
    let world = World::enrolled().await;
    let malformed = || refusal(RefusalCode::RequestMalformed, Vec::new());
    let host = &world.agent.identity.host;
    // The call of eight is refused for its first one, and so are the four, the two and the one that it is in.
    let (batch, answers) = batch_of((0..8).map(|id| request(host, id)));
    world.authority.faults.lock().unwrap().extend([malformed(), malformed(), malformed(), malformed()]);
    let before = world.host.quotes.load(Ordering::SeqCst);
    batch.run(&world.agent).await;
    let mut codes = Vec::new();
    for answer in answers {
        codes.push(answer.await.unwrap().map_err(|refused| refused.code).map(|decision| decision.verdict));
    }
    let allow = || Ok("allow".to_owned());
    assert_eq!(codes.remove(0), Err(RefusalCode::RequestMalformed));
    assert!(codes.iter().all(|code| *code == allow()), "{codes:?}");
    assert_eq!(world.host.quotes.load(Ordering::SeqCst) - before, 4 + 3, "8, 4, 2, 1 and the other halves");
}

#[tokio::test]
async fn what_nobody_waits_for_any_more_is_left_out_of_the_halves() {
    let world = World::enrolled().await;
    let host = &world.agent.identity.host;
    let (batch, mut answers) = batch_of((0..4).map(|id| request(host, id)));
    let last = answers.pop().unwrap();
    drop(answers);
    let before = world.host.quotes.load(Ordering::SeqCst);
    batch.run(&world.agent).await;
    assert_eq!(last.await.unwrap().unwrap().verdict, "allow");
    assert_eq!(world.host.quotes.load(Ordering::SeqCst) - before, 1);
    assert_eq!(world.authority.calls.lock().unwrap().last(), Some(&1), "one request, not four");
}

#[tokio::test]
async fn different_requests_with_one_identifier_go_one_after_the_other() {
    let world = World::enrolled().await;
    let host = &world.agent.identity.host;
    // Each is signed by a holder of its own, so the bytes differ.
    let requests: Vec<_> = [7, 8, 7, 7].map(|id| request(host, id)).into();
    let answers = while_one_is_under_way(&world, requests).await;
    assert!(answers.iter().all(|answer| answer.as_ref().is_ok_and(|decision| decision.verdict == "allow")));
    assert_eq!(*world.authority.calls.lock().unwrap(), [1, 2, 1, 1]);
}

#[tokio::test]
async fn an_artifact_that_the_bundle_does_not_bear_out_is_not_handed_out() {
    let world = World::enrolled().await;
    let ours = request(&world.agent.identity.host, 1);
    *world.authority.log.lock().unwrap() = crate::testing::MiniLog::new(signing_key(), signing_key());
    let answers = bounded(&world.agent, &[&ours]).await.unwrap();
    assert_eq!(answers[0].as_ref().unwrap_err().code, RefusalCode::FeedInvalid);
}

#[tokio::test]
async fn a_full_queue_refuses_at_once() {
    let world = World::enrolled().await;
    let (gatherer, gathered) = gatherer();
    let ours = request(&world.agent.identity.host, 1);
    let mut waiting = Vec::new();
    for _ in 0..QUEUE {
        let mut asked = Box::pin(gatherer.decide(ours.clone()));
        std::future::poll_fn(|context| {
            assert!(asked.as_mut().poll(context).is_pending());
            std::task::Poll::Ready(())
        })
        .await;
        waiting.push(asked);
    }
    let refused = gatherer.decide(ours.clone()).await.unwrap_err();
    assert_eq!((refused.code, refused.retry_after_secs), (RefusalCode::Overloaded, Some(1)));
    drop(gathered);
    for asked in waiting {
        assert_eq!(asked.await.unwrap_err().code, RefusalCode::Overloaded);
    }
}
