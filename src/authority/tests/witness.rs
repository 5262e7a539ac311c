//! An authority and a witness that lies, fails or hangs: what counts, what only warns, what stops everything.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test stops at the first surprise")]
#[cfg(test)]
mod support;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use countersign_authority::serve::Serving;
use countersign_client::ClientIdentity;
use countersign_core::api::admin::{WitnessCall, Witnesses};
use countersign_core::key::VerifyingKey;
use countersign_core::leaf::control::Role;
use countersign_core::note::SignedNote;
use countersign_core::witness::{AddCheckpoint, Quorum, WitnessKey, cosigned_message};
use support::{House, code, with_house};

/// What the witness does with a request.
#[derive(Clone, Copy, Debug)]
enum Manner {
    /// Cosigns whatever continues what it remembers: the size alone, which is enough for an honest log.
    Good,
    /// Cosigns with another key under its name.
    OtherKey,
    /// Cosigns under another name.
    OtherName,
    /// Cosigns another text.
    OtherText,
    /// Cosigns with a time so many seconds from now.
    Time(i64),
    /// Answers with a status and a body.
    Says(u16, &'static str),
    /// Knows the size, and has another history of it.
    Forked,
    /// Says that it has cosigned this size.
    Knows(u64),
    /// Never answers.
    Hangs,
}

struct Fake {
    key: Ed25519KeyPair,
    other: Ed25519KeyPair,
    manner: Mutex<Manner>,
    known: Mutex<u64>,
    asked: Mutex<u64>,
}

#[cfg(test)]
fn key_pair(seed: u8) -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap()
}

#[cfg(test)]
fn witness_key(pair: &Ed25519KeyPair, name: &str) -> WitnessKey {
    let raw: [u8; 32] = pair.public_key().as_ref().try_into().unwrap();
    WitnessKey::new(name, VerifyingKey::ed25519(&raw).unwrap()).unwrap()
}

#[cfg(test)]
fn cosign(pair: &Ed25519KeyPair, name: &str, text: &str, offset: i64) -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let time = now.saturating_add_signed(offset);
    let signature = pair.sign(cosigned_message(time, text).as_bytes());
    witness_key(pair, name).line(time, signature.as_ref().try_into().unwrap()).unwrap().format()
}

#[cfg(test)]
async fn answer(State(fake): State<Arc<Fake>>, body: Bytes) -> Response {
    let request = AddCheckpoint::parse(&body).unwrap();
    *fake.asked.lock().unwrap() += 1;
    let manner = *fake.manner.lock().unwrap();
    let conflict = |size: u64| {
        (StatusCode::CONFLICT, [(CONTENT_TYPE, "text/x.tlog.size")], format!("{size}\n")).into_response()
    };
    let (text, name) = (request.note.text(), "fake.example");
    match manner {
        Manner::Good => {
            let mut known = fake.known.lock().unwrap();
            if request.old_size != *known {
                return conflict(*known);
            }
            *known = request.checkpoint.size;
            cosign(&fake.key, name, text, 0).into_response()
        }
        Manner::Forked => match *fake.known.lock().unwrap() {
            known if request.old_size == known => (StatusCode::UNPROCESSABLE_ENTITY, "no").into_response(),
            known => conflict(known),
        },
        Manner::OtherKey => {
            let line = cosign(&fake.other, name, text, 0);
            // In the name of the known key: name and key id are public.
            let honest = witness_key(&fake.key, name);
            let forged = SignedNote::parse(&format!("x\n\n{line}")).unwrap().signatures()[0].clone();
            let bytes = forged.signature();
            let time = u64::from_be_bytes(bytes[..8].try_into().unwrap());
            honest.line(time, bytes[8..].try_into().unwrap()).unwrap().format().into_response()
        }
        Manner::OtherName => cosign(&fake.key, "stranger.example", text, 0).into_response(),
        Manner::OtherText => cosign(&fake.key, name, &text.replacen("time ", "time 1", 1), 0).into_response(),
        Manner::Time(offset) => cosign(&fake.key, name, text, offset).into_response(),
        Manner::Says(status, body) => (StatusCode::from_u16(status).unwrap(), body).into_response(),
        Manner::Knows(size) => conflict(size),
        Manner::Hangs => std::future::pending().await,
    }
}

struct Watched {
    house: House,
    fake: Arc<Fake>,
}

impl Watched {
    /// The house again, with a witness that behaves so.
    async fn new(house: House, manner: Manner) -> Self {
        let (manner, known, asked) = (Mutex::new(manner), Mutex::default(), Mutex::default());
        let fake = Arc::new(Fake { key: key_pair(1), other: key_pair(2), manner, known, asked });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().route("/w/add-checkpoint", post(answer)).with_state(Arc::clone(&fake));
        tokio::spawn(async move { axum::serve(listener, router).await });
        let vkey = witness_key(&fake.key, "fake.example").vkey();
        let text = format!("witness fake {vkey} http://{address}/w/\nquorum fake\n");
        let quorum = house.scratch.join("quorum");
        std::fs::write(&quorum, text).unwrap();
        let mut config = house.config.clone();
        config.witnesses.quorum_file = Some(quorum);
        config.witnesses.request_secs = 1;
        config.witnesses.retry_secs = 1;
        let this = Self { house, fake };
        this.again(config).await
    }

    /// Stops and starts.
    async fn again(self, config: countersign_authority::config::Config) -> Self {
        let Self { house, fake } = self;
        let House { made, serving, maker, scratch, .. } = house;
        serving.stop().await;
        let serving = Serving::start(config.clone()).await.unwrap();
        Self { house: House { made, config, serving, maker, scratch }, fake }
    }

    fn behave(&self, manner: Manner) {
        *self.fake.manner.lock().unwrap() = manner;
    }

    async fn state(&self) -> Witnesses {
        self.house.admin().witnesses().await.unwrap()
    }

    /// Waits until the witness's state is as it should be.
    async fn until(&self, what: &str, good: impl Fn(&Witnesses) -> bool) {
        for _ in 0..1_500 {
            if good(&self.state().await) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("{what}: {:?}", self.state().await);
    }

    async fn decide(&self, set_aside: bool) -> Result<Witnesses, countersign_client::ClientError> {
        let (witness, reason) = ("fake".to_owned(), "test".to_owned());
        self.house.admin().decide_witness(&WitnessCall { witness, set_aside, reason }).await
    }
}

#[cfg(test)]
fn fault(state: &Witnesses) -> &str {
    state.witnesses[0].fault.as_deref().unwrap_or_default()
}

#[test]
fn what_a_witness_says_counts_only_if_it_is_its_own_and_in_time() {
    let name = "what_a_witness_says_counts_only_if_it_is_its_own_and_in_time";
    let fast = |options: &mut countersign_authority::init::InitOptions| options.limits.lease_secs = 3;
    with_house(name, fast, async |house| {
        let watched = Watched::new(house, Manner::Says(500, "no")).await;
        watched.house.permit_all().await;
        let host = watched.house.host("host").await;
        for (manner, expected) in [
            (Manner::Says(500, "no"), "status 500"),
            (Manner::Says(403, "unknown key"), "status 403"),
            (Manner::Says(404, "unknown log"), "status 404"),
            (Manner::Says(422, "of nothing at all"), "status 422"),
            (Manner::Says(302, ""), "status 302"),
            (Manner::Says(200, ""), "no signature lines"),
            (Manner::Says(200, "\u{2014} fake.example AAAAAAA\n"), "no signature lines"),
            (Manner::Says(409, "7\n"), "a conflict without a size"),
            (Manner::OtherKey, "doesn't verify"),
            (Manner::OtherText, "doesn't verify"),
            (Manner::OtherName, "no cosignature by its key"),
            (Manner::Time(3_600), "its clock"),
            (Manner::Time(-3_600), "its clock"),
            (Manner::Hangs, "no answer"),
        ] {
            watched.behave(manner);
            watched.until(&format!("{manner:?}"), |state| fault(state).contains(expected)).await;
            let state = watched.state().await;
            assert!(state.alarm.is_none() && state.witnessed == 0, "{manner:?}: {state:?}");
        }
        // None of it stops anything, and none of it is shown as a cosignature.
        let decision = &host.artifacts(&["r1"]).await.unwrap().decisions[0];
        assert_eq!(decision.verdict, "allow");
        let anyone = watched.house.service(ClientIdentity::Anonymous);
        assert!(anyone.readyz().await.unwrap().ready);
        let heads = watched.house.admin().heads(1, 1_024).await.unwrap().heads;
        assert!(heads.iter().all(|head| !head.contains("fake.example")));
        assert_eq!(code(anyone.witnessed_feed(0, 0).await), "unauthenticated");
        let (gateway, _) = watched.house.gateway("gateway-1").await;
        let gateway = watched.house.service(gateway);
        assert_eq!(code(gateway.witnessed_feed(0, 0).await), "head-unwitnessed");

        // A good one counts, is kept with its head and is handed out.
        watched.behave(Manner::Good);
        watched.until("good", |state| state.witnessed > 0 && fault(state).is_empty()).await;
        let feed = gateway.witnessed_feed(0, 0).await.unwrap();
        let quorum = std::fs::read_to_string(watched.house.scratch.join("quorum")).unwrap();
        let note = SignedNote::parse(&feed.head).unwrap();
        let now_ms = watched.house.serving.authority().now_ms();
        Quorum::parse(&quorum).unwrap().check(&note, now_ms, now_ms).unwrap();
        let heads = watched.house.admin().heads(1, 1_024).await.unwrap().heads;
        assert!(heads.iter().any(|head| head.contains("fake.example")));
        watched.house.serving.stop().await;
    });
}

#[test]
fn a_witness_that_refuses_for_a_fork_stops_everything_until_an_officer_decides() {
    let name = "a_witness_that_refuses_for_a_fork_stops_everything_until_an_officer_decides";
    let fast = |options: &mut countersign_authority::init::InitOptions| options.limits.lease_secs = 3;
    with_house(name, fast, async |house| {
        let mut watched = Watched::new(house, Manner::Good).await;
        watched.house.permit_all().await;
        let mut host = watched.house.host("host").await;
        watched.house.operator("operator-1", Role::Operator).await;
        watched.until("good", |state| state.witnessed > 0).await;
        for (manner, kind) in [(Manner::Forked, "forked"), (Manner::Knows(u64::MAX >> 1), "rolled-back")] {
            watched.behave(manner);
            watched.until(kind, |state| state.alarm.as_ref().is_some_and(|alarm| alarm.kind == kind)).await;
            assert_eq!(code(host.artifacts(&["refused"]).await), "witness-conflict");
            assert_eq!(code(host.client.attest(&host.attestation().await).await), "witness-conflict");
            let readiness = watched.house.service(ClientIdentity::Anonymous).readyz().await.unwrap();
            assert!(!readiness.ready && !readiness.witnesses_agree, "{readiness:?}");
            // No head is made, so that leases end; nothing is asked any more.
            let before = *watched.fake.asked.lock().unwrap();
            let size = readiness.size;
            // A restart heals nothing, nor does a witness that has thought better of it.
            watched.behave(Manner::Good);
            let config = watched.house.config.clone();
            watched = watched.again(config).await;
            let state = watched.state().await;
            assert_eq!(state.alarm.map(|alarm| alarm.kind).as_deref(), Some(kind));
            host.client = watched.house.service(files(&watched.house, "host"));
            assert_eq!(code(host.artifacts(&["refused-again"]).await), "witness-conflict");
            assert_eq!(*watched.fake.asked.lock().unwrap(), before);
            assert!(
                watched.house.service(ClientIdentity::Anonymous).readyz().await.unwrap().size <= size + 2
            );

            // Whose decision it is.
            let call = WitnessCall { witness: "fake".to_owned(), set_aside: true, reason: "test".to_owned() };
            let below = watched.house.admin_side(files(&watched.house, "operator-1"));
            assert_eq!(code(below.decide_witness(&call).await), "forbidden");
            let unknown = WitnessCall { witness: "nobody".to_owned(), ..call.clone() };
            assert_eq!(code(watched.house.admin().decide_witness(&unknown).await), "not-found");
            let silent = WitnessCall { reason: String::new(), ..call };
            assert_eq!(code(watched.house.admin().decide_witness(&silent).await), "malformed");
            let state = watched.decide(true).await.unwrap();
            assert!(state.alarm.is_none() && !state.witnesses[0].asked);
            assert_eq!(code(watched.decide(true).await), "conflicting-act");
            until_ready(&watched.house).await;
            assert_eq!(*watched.fake.asked.lock().unwrap(), before, "who was set aside isn't asked");
            *watched.fake.known.lock().unwrap() = 0;
            watched.decide(false).await.unwrap();
            watched.until("asked again", |state| state.witnessed > 0 && fault(state).is_empty()).await;
        }
        watched.house.serving.stop().await;
    });
}

/// Who this is after a start on other ports.
#[cfg(test)]
fn files(house: &House, name: &str) -> ClientIdentity {
    let file = |ending: &str| house.scratch.join(format!("{name}.{ending}"));
    ClientIdentity::Pem { certificates: file("pem"), key: file("key") }
}

#[cfg(test)]
async fn until_ready(house: &House) {
    for _ in 0..1_500 {
        if house.service(ClientIdentity::Anonymous).readyz().await.unwrap().ready {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("not ready");
}
