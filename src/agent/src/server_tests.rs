//! The local socket, with real connections and real processes.

use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::Command;

use countersign_core::digest::sha256;
use countersign_core::key::JsonKey;
use countersign_core::leaf::decision::Verdict;
use countersign_core::request::holder_preimage;
use countersign_fixture::{ManagedChild, PATIENCE};
use ed25519_dalek::Signer as _;
use tokio::sync::oneshot;

use super::*;
use crate::enrol::{RenewalClock, SystemClock};
use crate::local::{Arguments, PrepareCall, Workload};
use crate::local_client::{LocalClientError, prepare, status, submit};
use crate::run::{AgentError, serve};
use crate::testing::{World, refusal, signing_key, verifying};

/// Names the socket to a child that runs one of these tests as a runtime.
const SOCKET: &str = "CSN_AGENT_SOCKET";

fn rule(name: &str, who: &str) -> String {
    format!(
        "[[runtime]]\nname = \"{name}\"\nactions = [\"exec\"]\naudiences = [\"g\"]\nmax_ttl_secs = 60\n{who}\n"
    )
}

fn own_rule() -> String {
    rule("web", &format!("executable = {{ path = \"{}\" }}", std::env::current_exe().unwrap().display()))
}

fn call(holder: &ed25519_dalek::SigningKey) -> PrepareCall {
    PrepareCall {
        id: Some("one".to_owned()),
        holder: JsonKey::from(verifying(holder)),
        workload: Workload::Path("/bin/sh".to_owned()),
        action: "exec".to_owned(),
        args: Arguments::Argv(vec!["sh".to_owned()]),
        aud: "g".to_owned(),
        ttl_secs: 30,
        parents: Vec::new(),
        delegation: None,
    }
}

/// A served world and the way to end it.
struct Served {
    world: World,
    end: oneshot::Sender<()>,
    serving: tokio::task::JoinHandle<Result<(), AgentError>>,
}

async fn served(rules: &str) -> Served {
    let mut world = World::new(rules).await;
    let token = world.root.path().join("token");
    std::fs::write(&token, "token\n").unwrap();
    world.config.token_file = Some(token);
    start(world).await
}

async fn start(world: World) -> Served {
    let (end, ending) = oneshot::channel();
    let (agent, config) = (Arc::clone(&world.agent), world.config.clone());
    let mut serving = tokio::spawn(async move { serve(agent, &config, async { drop(ending.await) }).await });
    until(|| world.config.socket.exists() || serving.is_finished()).await;
    if serving.is_finished() {
        panic!("the agent ended: {:?}", (&mut serving).await);
    }
    Served { world, end, serving }
}

async fn until(condition: impl Fn() -> bool) {
    let started = std::time::Instant::now();
    while !condition() {
        assert!(started.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn raw(socket: &Path, text: impl Into<Vec<u8>>) -> String {
    let (socket, text) = (socket.to_owned(), text.into());
    tokio::task::spawn_blocking(move || {
        let mut stream = std::os::unix::net::UnixStream::connect(socket).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        // A server that refuses early may close before it has read everything.
        let _ = stream.write_all(&text);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    })
    .await
    .unwrap()
}

fn post(path: &str, body: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: agent\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

#[tokio::test]
async fn a_runtime_gets_an_artifact_in_two_steps() {
    let served = served(&own_rule()).await;
    let socket = &served.world.config.socket;
    let holder = signing_key();
    let prepared = prepare(socket, &call(&holder)).await.unwrap();
    let request = countersign_core::request::Request::parse(&prepared.request.0).unwrap();
    assert_eq!(request.workload, sha256(&std::fs::read("/bin/sh").unwrap()));
    let signature = holder.sign(&prepared.to_sign.0).to_bytes();
    let decision = submit(socket, &prepared.request.0, &signature, &[]).await.unwrap();
    assert_eq!((decision.verdict.as_str(), decision.code), ("allow", None));
    // The same bytes again are the same decision.
    assert_eq!(submit(socket, &prepared.request.0, &signature, &[]).await.unwrap().receipt, decision.receipt);
    until(|| served.world.agent.status.lock().unwrap().attested_ms.is_some()).await;
    let now = status(socket).await.unwrap();
    assert_eq!((now.host, now.trusted_until_ms), (served.world.agent.identity.host.to_hex(), Some(301_000)));
    assert_eq!((now.tier, now.attestation_code, now.renewal), (Some(2), None, None));
}

#[tokio::test]
async fn a_denial_is_answered_with_its_receipt_and_a_fault_with_a_problem() {
    let served = served(&own_rule()).await;
    let socket = &served.world.config.socket;
    let holder = signing_key();
    *served.world.authority.verdict.lock().unwrap() = Verdict::Deny(RefusalCode::PolicyDenied);
    let prepared = prepare(socket, &call(&holder)).await.unwrap();
    let signature = holder.sign(&holder_preimage(&prepared.request.0)).to_bytes();
    let decision = submit(socket, &prepared.request.0, &signature, &[]).await.unwrap();
    assert_eq!((decision.verdict.as_str(), decision.code.as_deref()), ("deny", Some("policy-denied")));
    assert!(decision.receipt.starts_with("c2sp.org/tlog-proof@v1\n"));
    until(|| served.world.agent.status.lock().unwrap().attested_ms.is_some()).await;
    served.world.authority.faults.lock().unwrap().push_back(refusal(RefusalCode::HostRevoked, Vec::new()));
    let refused = submit(socket, &prepared.request.0, &signature, &[]).await;
    assert!(matches!(refused, Err(LocalClientError::Refused(problem)) if problem.code == "host-revoked"));
    served.world.host.gone.store(true, std::sync::atomic::Ordering::SeqCst);
    served.world.host.failures.store(1, std::sync::atomic::Ordering::SeqCst);
    let refused = submit(socket, &prepared.request.0, &signature, &[]).await;
    assert!(matches!(refused, Err(LocalClientError::Refused(problem)) if problem.code == "tpm-unavailable"));
}

#[tokio::test]
async fn every_refusal_is_a_problem_with_its_status_and_code() {
    let served = served(&own_rule()).await;
    let socket = &served.world.config.socket;
    let holder = signing_key();
    let good = serde_json::to_string(&call(&holder)).unwrap();
    let get = |path| format!("GET {path} HTTP/1.1\r\nHost: agent\r\n\r\n");
    for (request, status, code) in [
        (get("/"), 404, "not-found"),
        (get("/v1/status/"), 404, "not-found"),
        (get("/v1/artifacts"), 405, "method-not-allowed"),
        (post("/v1/status", ""), 405, "method-not-allowed"),
        (post("/v1/requests", ""), 400, "malformed"),
        (post("/v1/requests", &good.replace("{\"id\"", "{\"host\":\"x\",\"id\"")), 400, "malformed"),
        (post("/v1/requests", &good.replace("\"exec\"", "\"deploy\"")), 403, "action-not-mapped"),
        (post("/v1/requests", &good.replace("/bin/sh", "/no/such")), 403, "program-unreadable"),
        (post("/v1/artifacts", "{\"request\":\"e30\",\"signature\":\"\"}"), 400, "request-malformed"),
        (post("/v1/artifacts", &" ".repeat(MAX_BODY + 1)), 413, "body-too-large"),
    ] {
        let answer = raw(socket, request.clone()).await;
        let line = request.lines().next().unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{line}: {answer}");
        assert!(answer.contains("application/problem+json"), "{line}: {answer}");
        assert!(answer.contains(&format!("\"code\":\"{code}\"")), "{line}: {answer}");
    }
    assert!(raw(socket, get("/v1/status")).await.starts_with("HTTP/1.1 200 "));
}

/// Runs this very test in a copy of the test binary, which is then a runtime.
fn runtime(program: &Path, socket: &Path) -> ManagedChild {
    let mut command = Command::new(program);
    command.args(["--exact", "server::tests::a_process_with_another_executable_is_refused", "--nocapture"]);
    command.env(SOCKET, socket);
    ManagedChild::spawn("runtime", command)
}

#[tokio::test]
async fn a_process_with_another_executable_is_refused() {
    if let Some(socket) = std::env::var_os(SOCKET) {
        let said = match prepare(Path::new(&socket), &call(&signing_key())).await {
            Ok(prepared) => String::from_utf8(prepared.request.0).unwrap(),
            Err(error) => error.to_string(),
        };
        println!("\nsaid: {said}");
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let (mapped, unknown) = (root.path().join("mapped"), root.path().join("unknown"));
    // Copied by another process: a file that this one has open for writing can't be executed while some other test forks.
    for (path, tail) in [(&mapped, "1"), (&unknown, "2")] {
        let script = format!(
            "cp '{}' '{}' && printf {tail} >> '{1}'",
            std::env::current_exe().unwrap().display(),
            path.display()
        );
        assert!(Command::new("sh").args(["-c", &script]).status().unwrap().success());
    }
    let digest = sha256(&std::fs::read(&mapped).unwrap());
    let rules = own_rule() + &rule("tool", &format!("executable = {{ sha256 = \"{digest}\" }}"));
    let served = served(&rules).await;
    let socket = served.world.config.socket.clone();
    let said = tokio::task::spawn_blocking(move || {
        [&unknown, &mapped].map(|program| runtime(program, &socket).wait_for_line("said: ", PATIENCE))
    });
    let [unknown, mapped] = said.await.unwrap();
    assert!(unknown.starts_with("said: peer-unknown"), "{unknown}");
    assert!(mapped.contains("/tool\""), "{mapped}");
    // This process goes by its own rule.
    let ours = prepare(&served.world.config.socket, &call(&signing_key())).await.unwrap();
    assert!(String::from_utf8(ours.request.0).unwrap().contains("/web\""));
}

#[tokio::test]
async fn one_user_cannot_take_every_place() {
    let users = Arc::new(Mutex::new(BTreeMap::new()));
    let mut places: Vec<_> = (0..CONNECTIONS_PER_USER).map(|_| Place::take(&users, 7).unwrap()).collect();
    assert!(Place::take(&users, 7).is_none());
    assert!(Place::take(&users, 8).is_some());
    places.pop();
    assert!(Place::take(&users, 7).is_some());
    places.clear();
    assert!(users.lock().unwrap().is_empty());
}

#[tokio::test]
async fn asked_to_end_the_agent_finishes_what_is_under_way() {
    let served = served(&own_rule()).await;
    let socket = served.world.config.socket.clone();
    let holder = signing_key();
    let prepared = prepare(&socket, &call(&holder)).await.unwrap();
    let signature = holder.sign(&prepared.to_sign.0).to_bytes();
    let hold = served.world.authority.slow.lock().await;
    let path = socket.clone();
    let under_way = tokio::spawn(async move { submit(&path, &prepared.request.0, &signature, &[]).await });
    let quotes = || served.world.host.quotes.load(std::sync::atomic::Ordering::SeqCst);
    until(|| quotes() >= 2).await;
    served.end.send(()).unwrap();
    until(|| !socket.exists()).await;
    assert!(!served.serving.is_finished());
    drop(hold);
    assert_eq!(under_way.await.unwrap().unwrap().verdict, "allow");
    served.serving.await.unwrap().unwrap();
    assert!(matches!(status(&socket).await, Err(LocalClientError::Connect { .. })));
}

#[tokio::test]
async fn a_start_needs_a_token_once_and_then_goes_on_with_what_is_stored() {
    let world = World::new("").await;
    let refused = serve(Arc::clone(&world.agent), &world.config, std::future::pending()).await;
    assert!(matches!(refused, Err(AgentError::TokenNeeded(_))));

    let world = World::enrolled().await;
    let stored = world.agent.stored_credential().unwrap().unwrap();
    assert_eq!(world.authority.presented.load(std::sync::atomic::Ordering::SeqCst), 2);
    // A refusal to enrol again would be fatal: nothing asks.
    world.authority.faults.lock().unwrap().push_back(refusal(RefusalCode::HostRevoked, Vec::new()));
    let served = start(world).await;
    assert_eq!(served.world.agent.status.lock().unwrap().certificate_expires_ms, stored.not_after_ms);
    served.end.send(()).unwrap();
    served.serving.await.unwrap().unwrap();
}

#[tokio::test]
async fn at_the_start_an_enrolment_that_the_authority_does_not_know_is_begun_anew() {
    let world = World::enrolled().await;
    let refuse = |code| world.authority.faults.lock().unwrap().push_back(refusal(code, Vec::new()));
    refuse(RefusalCode::EnrolmentUnknown);
    world.agent.enrol_at_start(None).await.unwrap();
    assert!(world.authority.faults.lock().unwrap().is_empty());
    // Any other refusal is for people.
    refuse(RefusalCode::EkCertificateRevoked);
    let refused = world.agent.enrol_at_start(None).await.map(drop).unwrap_err();
    assert_eq!(refused.refusal(), Some(RefusalCode::EkCertificateRevoked));
}

#[tokio::test]
async fn renewal_goes_on_through_faults_and_stops_at_a_refusal() {
    let world = World::enrolled().await;
    let due = crate::identity::Credential { certificates: Vec::new(), not_before_ms: 0, not_after_ms: 1 };
    world.authority.faults.lock().unwrap().push_back(refusal(RefusalCode::HostRevoked, Vec::new()));
    crate::enrol::renew(Arc::clone(&world.agent), due.clone(), SystemClock).await;
    assert_eq!(world.agent.status.lock().unwrap().renewal.as_deref(), Some("host-revoked"));
    // Without a refusal it is renewed, and the next renewal is far away.
    let renewing = tokio::spawn(crate::enrol::renew(Arc::clone(&world.agent), due, SystemClock));
    until(|| world.agent.status.lock().unwrap().renewal.is_none()).await;
    assert!(!renewing.is_finished());
    renewing.abort();
}

/// A clock on which waiting is what makes time pass.
#[derive(Clone)]
struct Driven(Arc<std::sync::atomic::AtomicU64>);

impl RenewalClock for Driven {
    fn now_ms(&self) -> u64 {
        self.0.load(std::sync::atomic::Ordering::SeqCst)
    }

    async fn sleep(&self, time: Duration) {
        let passed = u64::try_from(time.as_millis()).unwrap();
        self.0.fetch_add(passed, std::sync::atomic::Ordering::SeqCst);
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_certificate_of_a_week_is_renewed_half_a_week_before_its_end_and_asked_for_again_in_time() {
    const DAY_MS: u64 = 86_400_000;
    let start = 1_790_000_000_000;
    let week = crate::identity::Credential {
        certificates: Vec::new(),
        not_before_ms: start,
        not_after_ms: start + 7 * DAY_MS,
    };
    for absent in [0, 12] {
        let world = World::enrolled().await;
        {
            // So often nobody answers; then a refusal ends the loop, so that the time of that try can be read.
            let mut faults = world.authority.faults.lock().unwrap();
            faults.extend((0..absent).map(|_| refusal(RefusalCode::Overloaded, Vec::new())));
            faults.push_back(refusal(RefusalCode::HostRevoked, Vec::new()));
        }
        let clock = Driven(Arc::new(start.into()));
        crate::enrol::renew(Arc::clone(&world.agent), week.clone(), clock.clone()).await;
        assert_eq!(world.agent.status.lock().unwrap().renewal.as_deref(), Some("host-revoked"));
        let asked = clock.now_ms() - start;
        let earliest = 7 * DAY_MS * 4 / 10;
        let latest = 7 * DAY_MS / 2 + if absent == 0 { 60_000 } else { DAY_MS };
        assert!((earliest..=latest).contains(&asked), "{asked}");
    }
}

#[tokio::test]
async fn the_agent_ends_when_the_tpm_thread_does() {
    let served = served(&own_rule()).await;
    let defect =
        served.world.agent.tpm.call(|_| -> Result<(), crate::device::DeviceFault> { panic!("a defect") });
    assert!(defect.await.is_err());
    let result = served.serving.await.unwrap();
    assert!(matches!(result, Err(AgentError::PartEnded("TPM thread"))), "{result:?}");
}
