//! What the authority says, believed and not believed.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use countersign_core::api::Feed;
use countersign_core::digest::sha256;
use countersign_core::leaf::control::KeyEvent;

use super::*;
use crate::testing::{TestAuthority, decision, host_state, signed, signing_key, verifying};

fn request(action: &str) -> SignedRequest {
    let holder = signing_key();
    let host = format!("01{}", "ab".repeat(32));
    let text = format!(
        r#"{{"v":1,"id":"r","host":"{host}","runtime":"spiffe://td.example/host/{host}/web","holder":{{"alg":"EdDSA","pub":"{}"}},"workload":"{}","action":"{action}","args":"{}","aud":"g","ttl_secs":9}}"#,
        JsonPub(&holder),
        "11".repeat(32),
        "22".repeat(32)
    );
    signed(text.as_bytes(), &holder)
}

struct JsonPub<'a>(&'a ed25519_dalek::SigningKey);

impl std::fmt::Display for JsonPub<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&countersign_core::key::JsonKey::from(verifying(self.0)).public)
    }
}

const ALLOW: Verdict = Verdict::Allow { nbf: 1, exp: 10 };

fn recorded(
    authority: &TestAuthority,
    request: &SignedRequest,
    kind: Kind,
    verdict: Verdict,
) -> DecisionDocument {
    let body = decision(request.request(), *request.digest(), verdict).encode();
    let receipt = authority.log.lock().unwrap().record(kind, body);
    let code = match verdict {
        Verdict::Allow { .. } => None,
        Verdict::Deny(code) => Some(code.as_str().to_owned()),
    };
    DecisionDocument { verdict: kind.name().to_owned(), code, detail: None, receipt }
}

async fn judge(
    authority: &Arc<TestAuthority>,
    document: &DecisionDocument,
    request: &SignedRequest,
) -> Result<(), ReceiptError> {
    Judge::new(authority.bundle()).decision(authority, document, request).await
}

#[tokio::test]
async fn a_decision_is_believed_only_about_its_request_and_its_verdict() {
    let authority = TestAuthority::new();
    let (ours, other) = (request("exec"), request("exec"));
    let deny = Verdict::Deny(RefusalCode::PolicyDenied);
    let good = recorded(&authority, &ours, Kind::Allow, ALLOW);
    let denied = recorded(&authority, &ours, Kind::Deny, deny);
    assert_eq!(judge(&authority, &good, &ours).await, Ok(()));
    assert_eq!(judge(&authority, &denied, &ours).await, Ok(()));
    let about = |what| Err(ReceiptError::About(what));
    assert_eq!(judge(&authority, &good, &other).await, about("this request"));
    // A denial that is said to be an allow, and one that is said to have another reason.
    let lie = DecisionDocument { verdict: "allow".to_owned(), code: None, ..denied.clone() };
    assert_eq!(judge(&authority, &lie, &ours).await, about("the verdict that came with it"));
    let lie = DecisionDocument { code: Some("host-revoked".to_owned()), ..denied.clone() };
    assert_eq!(judge(&authority, &lie, &ours).await, about("the verdict that came with it"));
    let mixed = recorded(&authority, &ours, Kind::Allow, deny);
    assert!(judge(&authority, &mixed, &ours).await.is_err());
    let heartbeat = recorded(&authority, &ours, Kind::Enrolment, ALLOW);
    assert_eq!(judge(&authority, &heartbeat, &ours).await, about("a decision"));
}

#[tokio::test]
async fn a_receipt_under_a_foreign_head_is_not_believed() {
    let (authority, foreign) = (TestAuthority::new(), TestAuthority::new());
    let ours = request("exec");
    let theirs = recorded(&foreign, &ours, Kind::Allow, ALLOW);
    let unsigned = Err(ReceiptError::Receipt(ArtifactError::Unsigned));
    assert_eq!(judge(&authority, &theirs, &ours).await, unsigned);
    // And not from an authority that serves that chain itself.
    let served = Judge::new(authority.bundle()).decision(&foreign, &theirs, &ours).await;
    assert!(matches!(served, Err(ReceiptError::Chain(_))), "{served:?}");
    let cut = DecisionDocument { receipt: theirs.receipt.get(..80).unwrap().to_owned(), ..theirs };
    assert!(judge(&authority, &cut, &ours).await.is_err());
}

#[tokio::test]
async fn a_new_head_key_is_believed_once_the_old_one_vouched_for_it() {
    let authority = TestAuthority::new();
    let judge = Judge::new(authority.bundle());
    let ours = request("exec");
    let before = recorded(&authority, &ours, Kind::Allow, ALLOW);
    judge.decision(&authority, &before, &ours).await.unwrap();
    for _ in 0..2 {
        authority.log.lock().unwrap().rotate(true);
        let after = recorded(&authority, &ours, Kind::Allow, ALLOW);
        assert_eq!(judge.decision(&authority, &after, &ours).await, Ok(()));
    }
    // One that starts from the bundle follows both rotations.
    let after = recorded(&authority, &ours, Kind::Allow, ALLOW);
    assert_eq!(Judge::new(authority.bundle()).decision(&authority, &after, &ours).await, Ok(()));
    assert_eq!(judge.decision(&authority, &before, &ours).await, Ok(()));
}

#[tokio::test]
async fn a_head_key_for_which_nobody_vouched_is_not_believed() {
    let authority = TestAuthority::new();
    let ours = request("exec");
    authority.log.lock().unwrap().rotate(false);
    let document = recorded(&authority, &ours, Kind::Allow, ALLOW);
    let unsigned = Err(ReceiptError::Receipt(ArtifactError::Unsigned));
    assert_eq!(judge(&authority, &document, &ours).await, unsigned);
}

#[tokio::test]
async fn a_chain_that_begins_with_another_key_than_the_bundles_is_not_believed() {
    let authority = TestAuthority::new();
    let ours = request("exec");
    let first = authority.log.lock().unwrap().signers[0].clone();
    let stranger = signing_key();
    let mut log = crate::testing::MiniLog::new(stranger, signing_key());
    log.introduce(&first);
    log.key(KeyEvent::Activated, &first);
    log.signers.push(first);
    *authority.log.lock().unwrap() = log;
    let document = recorded(&authority, &ours, Kind::Allow, ALLOW);
    assert!(matches!(judge(&authority, &document, &ours).await, Err(ReceiptError::Chain(_))));
}

#[tokio::test]
async fn a_chain_without_end_is_given_up_before_it_fills_the_memory() {
    let authority = TestAuthority::new();
    let ours = request("exec");
    authority.log.lock().unwrap().rotate(true);
    let document = recorded(&authority, &ours, Kind::Allow, ALLOW);
    let endless = Err(ReceiptError::Chain("it has no end".to_owned()));
    let longer = Err(ReceiptError::Chain("it is longer than any that is followed".to_owned()));
    type Alter = fn(&mut Feed);
    let lies: [(Alter, &Result<(), ReceiptError>, usize); 4] = [
        (
            |feed| {
                feed.more = true;
                feed.control.clear();
                feed.rotations.clear();
            },
            &endless,
            MAX_PAGES,
        ),
        (
            |feed| {
                feed.more = true;
                feed.control = vec![B64(vec![0; 1024 * 1024])];
                feed.rotations.clear();
            },
            &longer,
            MAX_BYTES / (1024 * 1024) + 1,
        ),
        (
            |feed| {
                feed.more = true;
                feed.control = vec![B64(Vec::new()); 1 + MAX_LEAVES / 8];
                feed.rotations.clear();
            },
            &longer,
            8,
        ),
        (
            |feed| {
                feed.more = true;
                feed.control.clear();
                feed.rotations = vec![String::new(); MAX_ROTATIONS + 1];
            },
            &longer,
            1,
        ),
    ];
    for (alter, verdict, asked) in lies {
        *authority.alter_feed.lock().unwrap() = Some(Box::new(alter));
        authority.feeds.store(0, Ordering::Relaxed);
        assert_eq!(judge(&authority, &document, &ours).await, *verdict);
        assert_eq!(authority.feeds.load(Ordering::Relaxed), asked);
    }
    // Nothing of it was taken over.
    *authority.alter_feed.lock().unwrap() = None;
    assert_eq!(judge(&authority, &document, &ours).await, Ok(()));
}

#[tokio::test]
async fn a_chain_whose_heads_go_back_is_not_believed() {
    let authority = TestAuthority::new();
    let ours = request("exec");
    authority.log.lock().unwrap().rotate(true);
    recorded(&authority, &ours, Kind::Allow, ALLOW);
    let older = authority.log.lock().unwrap().head();
    let document = recorded(&authority, &ours, Kind::Allow, ALLOW);
    assert_eq!(judge(&authority, &document, &ours).await, Ok(()));
    // Each of them holds by itself.
    *authority.alter_feed.lock().unwrap() = Some(Box::new(move |feed| {
        feed.rotations.push(std::mem::replace(&mut feed.head, older.clone()));
    }));
    assert_eq!(
        judge(&authority, &document, &ours).await,
        Err(ReceiptError::Chain("heads go back".to_owned()))
    );
    // The other way round they go on.
    *authority.alter_feed.lock().unwrap() = Some(Box::new(|feed| feed.rotations.push(feed.head.clone())));
    assert_eq!(judge(&authority, &document, &ours).await, Ok(()));
}

#[tokio::test]
async fn host_state_of_another_host_is_not_believed() {
    let authority = TestAuthority::new();
    let judge = Judge::new(authority.bundle());
    let id = |byte: u8| HostId::from_slice(&[&[1], [byte; 32].as_slice()].concat()).unwrap();
    let record =
        HostStateRecord { host: id(2), state: host_state(9), evidence: sha256(b""), code: None, basis: None };
    let receipt = authority.log.lock().unwrap().record(Kind::HostState, record.encode());
    assert!(judge.host_state(&authority, &receipt, &id(2)).await.is_ok());
    let other = judge.host_state(&authority, &receipt, &id(3)).await;
    assert!(matches!(other, Err(ReceiptError::About(_))));
}
