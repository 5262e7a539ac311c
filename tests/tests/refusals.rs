//! Every refusal of the demo, with its code and an untouched canary: nothing ran.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use countersign_tests::{Deployment, Program, Ran, SignerKind};
use countersign_tpm::algorithm::HashAlg;
use countersign_tpm::eventlog::EventLog;
use data_encoding::BASE64;

struct Scene {
    deployment: Deployment,
    program: Program,
    canary: String,
}

impl Scene {
    fn new() -> Self {
        let deployment = Deployment::ready(SignerKind::Pkcs11);
        let program = Program::new();
        let canary = program.canary();
        Self { deployment, program, canary }
    }

    fn argv(&self) -> [&str; 2] {
        [self.program.path(), &self.canary]
    }

    fn nothing_ran(&self) {
        assert_eq!(self.program.runs(), 0);
    }
}

#[test]
fn whatever_byte_of_the_artifact_is_flipped() {
    let scene = Scene::new();
    scene.deployment.ask("good", &["--ttl-secs", "120"], &scene.argv()).expect("artifact");
    let text = std::fs::read_to_string(scene.deployment.path("good")).unwrap();
    let lines: Vec<&str> = text.split('\n').collect();
    let leaf = BASE64.decode(lines[1].strip_prefix("extra ").unwrap().as_bytes()).unwrap();
    // A sample across the leaf; that every single byte matters is shown in the core's and the gateway's own tests.
    for at in (0..leaf.len()).step_by(leaf.len() / 12) {
        let mut flipped = leaf.clone();
        flipped[at] ^= 1;
        let mut lines: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
        lines[1] = format!("extra {}", BASE64.encode(&flipped));
        std::fs::write(scene.deployment.path("flipped"), lines.join("\n")).unwrap();
        let ran = scene.deployment.exec("flipped", &scene.argv());
        assert!(
            matches!(ran.refusal(), Some("inclusion-invalid" | "receipt-malformed")),
            "byte {at}: {ran:#?}"
        );
    }
    scene.nothing_ran();
}

#[test]
fn another_program_other_arguments_another_holder() {
    let scene = Scene::new();
    scene.deployment.ask("good", &["--ttl-secs", "120"], &scene.argv()).expect("artifact");
    scene
        .deployment
        .exec("good", &[scene.program.path(), &scene.canary, "more"])
        .refused("arguments-mismatch");
    scene.deployment.exec_as("good", "thief", &scene.argv()).refused("holder-proof-invalid");
    scene.program.change();
    scene.deployment.exec("good", &scene.argv()).refused("workload-mismatch");
    scene.nothing_ran();
}

#[test]
fn an_expired_artifact() {
    let scene = Scene::new();
    scene.deployment.ask("short", &["--ttl-secs", "1"], &scene.argv()).expect("artifact");
    let mut last = None;
    let expired = countersign_fixture::wait_until(std::time::Duration::from_secs(20), || {
        // While it is still valid it would run, and that isn't asked here: a wrong argument keeps it from running, and the time is judged first.
        let ran = scene.deployment.exec("short", &[scene.program.path(), &scene.canary, "wrong"]);
        let expired = ran.refusal() == Some("expired");
        last = Some(ran);
        expired
    });
    assert!(expired, "{last:#?}");
    scene.deployment.exec("short", &scene.argv()).refused("expired");
    scene.nothing_ran();
}

#[test]
fn an_action_that_no_policy_permits() {
    let scene = Scene::new();
    scene.deployment.ask("denied", &["--action", "call"], &scene.argv()).refused("policy-denied");
    assert!(!scene.deployment.path("denied").exists());
    assert!(scene.deployment.path("denied.denied").exists(), "the signed denial is kept");
    // Nor can the denial be used as an artifact.
    scene.deployment.exec("denied.denied", &scene.argv()).refused("not-an-allow");
    scene.nothing_ran();
}

#[test]
fn a_challenge_used_twice() {
    let mut scene = Scene::new();
    scene.deployment.stop_agent();
    let config = scene.deployment.text("agent.toml");
    let mut probe = scene.deployment.countersign();
    Ran::of(probe.args(["agent", "probe-replay", "--config", &config])).refused("challenge-spent");
    scene.nothing_ran();
}

#[test]
fn a_host_that_booted_something_else() {
    let mut scene = Scene::new();
    // A register extended behind the log's back.
    scene.deployment.stop_agent();
    scene.deployment.tpm.pcr_extend(9, &[("sha256", &[7; 32]), ("sha384", &[7; 48])]);
    scene.deployment.start_agent();
    let refused = scene.deployment.ask("denied", &[], &scene.argv());
    refused.refused("boot-log-mismatch");
    operators_see_where_log_and_quote_part(&scene.deployment, &refused, 9, &[7; 32]);
    // Another kernel, honestly logged, that no reference value covers.
    scene.deployment.stop_agent();
    scene.deployment.reboot_host(2);
    scene.deployment.start_agent();
    scene.deployment.ask("denied", &[], &scene.argv()).refused("reference-mismatch");
    // Nor is it attested to anybody else.
    scene.deployment.admin(&["attestation-result", &scene.deployment.host()]).refused("result-expired");
    scene.nothing_ran();
    // Back in the known state it is trusted again.
    scene.deployment.stop_agent();
    scene.deployment.reboot_host(1);
    scene.deployment.start_agent();
    scene.deployment.ask("good", &[], &scene.argv()).expect("artifact");
    scene.deployment.exec("good", &scene.argv()).expect("run");
    assert_eq!(scene.program.runs(), 1);
}

/// The whole text stands in what operators see and in the authority's log, and nothing of it in what the host was answered.
fn operators_see_where_log_and_quote_part(deployment: &Deployment, refused: &Ran, pcr: u32, behind: &[u8]) {
    let log = EventLog::parse(&std::fs::read(deployment.path("boot.log")).unwrap()).unwrap();
    let found = log.replay(HashAlg::Sha256).unwrap().pcr(pcr).unwrap().to_vec();
    let event = log.events().filter(|event| event.extends() && event.pcr() == pcr).last().unwrap().index();
    let expected = HashAlg::Sha256.digest_parts(&[&found, behind]);
    let [expected, found] = [expected, found].map(|value| data_encoding::HEXLOWER.encode(&value));
    let text = format!(
        "PCR {pcr}, event {event}: expected {expected} as quoted, found {found} by the log (words that may follow there: os-separator, nvpcr-separator)"
    );
    let shown = deployment.admin(&["hosts", &deployment.host()]).expect("host");
    let last = shown.lines().find(|line| line.starts_with("last refusal")).unwrap();
    assert!(last.ends_with(&format!("boot-log-mismatch: {text}")), "{shown}");
    let reason = shown.lines().find(|line| line.starts_with("reason")).unwrap();
    assert!(
        reason.ends_with(&format!("since then its evidence was refused: boot-log-mismatch, {text}")),
        "{shown}"
    );
    let logged = deployment.authority_log();
    assert_eq!(logged.matches(&text).count(), 1, "once, however often the host asks: {logged}");
    for said in [&refused.out, &refused.err] {
        assert!(!said.contains(&expected) && !said.contains(&found), "{refused:#?}");
    }
}

#[test]
fn a_revoked_host() {
    let scene = Scene::new();
    scene.deployment.ask("good", &["--ttl-secs", "120"], &scene.argv()).expect("artifact");
    let host = scene.deployment.host();
    scene.deployment.admin(&["revoke", "host", &host, "--reason", "test"]).expect("revoke");
    scene.deployment.exec("good", &scene.argv()).refused("revoked");
    scene.deployment.ask("more", &[], &scene.argv()).refused("host-revoked");
    scene.nothing_ran();
    scene.deployment.admin(&["reinstate", "host", &host, "--reason", "test"]).expect("reinstate");
    scene.deployment.ask("more", &[], &scene.argv()).expect("artifact");
}

fn the_signing_keys_home_disappears(kind: SignerKind) {
    let mut deployment = Deployment::ready(kind);
    let program = Program::new();
    let canary = program.canary();
    let argv = [program.path(), &canary];
    let process = deployment.authority.as_ref().unwrap().id();
    match &mut deployment.signer_tpm {
        Some(tpm) => tpm.stop(),
        None => deployment.hsm.hide(),
    }
    // The first to need the key finds out; what it asked for is in the log and will be handed out once it is signed.
    deployment.ask("unsigned", &["--id", "kept"], &argv).refused("signer-unavailable");
    deployment.wait_not_ready();
    deployment.ask("unsigned", &["--id", "kept"], &argv).refused("signer-unavailable");
    assert_eq!(program.runs(), 0);
    match &mut deployment.signer_tpm {
        Some(tpm) => tpm.restart(),
        None => deployment.hsm.show(),
    }
    deployment.wait_ready();
    assert_eq!(deployment.authority.as_ref().unwrap().id(), process, "it was restarted");
    deployment.ask("signed", &[], &argv).expect("artifact");
    deployment.exec("signed", &argv).expect("run");
    assert_eq!(program.runs(), 1);
}

#[test]
fn the_token_is_taken_away() {
    the_signing_keys_home_disappears(SignerKind::Pkcs11);
}

#[test]
fn the_authoritys_tpm_is_stopped() {
    the_signing_keys_home_disappears(SignerKind::Tpm);
}

#[test]
fn no_policy() {
    let mut deployment = Deployment::bare(SignerKind::Pkcs11);
    deployment.enrol().expect("enrol");
    deployment.start_agent();
    assert!(!deployment.is_ready());
    let program = Program::new();
    let canary = program.canary();
    deployment.ask("denied", &[], &[program.path(), &canary]).refused("policy-absent");
    assert_eq!(program.runs(), 0);
}

#[test]
fn a_join_token_used_twice() {
    let deployment = Deployment::bare(SignerKind::Pkcs11);
    let token = deployment.admin(&["join-token"]).expect("token");
    deployment.enrol_with(token.trim()).expect("first");
    // The same TPM with new keys is another enrolment, and that needs a token of its own.
    std::fs::remove_dir_all(deployment.path("agent")).unwrap();
    deployment.enrol_with(token.trim()).refused("join-token-invalid");
}
