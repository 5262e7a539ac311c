//! The second implementation (deploy/verifier), written from docs/PROTOCOL.md in another language, against a log that this one made.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use countersign_tests::{Deployment, Program, Ran, SignerKind};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The interpreter for which Debian's python3-cryptography is there.
const PYTHON: &str = "/usr/bin/python3";

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name)
}

fn python() -> Command {
    let mut command = Command::new(PYTHON);
    command.env("PYTHONDONTWRITEBYTECODE", "1").current_dir(folder("deploy/verifier"));
    command
}

fn verifier(deployment: &Deployment, verb: &str, args: &[&str]) -> Ran {
    let bundle = deployment.text("authority/trust-bundle.json");
    Ran::of(python().args(["-m", "countersign_verifier", verb, "--trust-bundle", &bundle]).args(args))
}

/// An admin call by curl, to a file: what any auditor with a viewer's certificate can do.
fn fetch(deployment: &Deployment, url: &str, certificate: &str, key: &str, out: &str) {
    let mut curl = Command::new("curl");
    curl.args(["-sSf", "--max-time", "30", "--cacert", &deployment.text("authority/ca.pem")])
        .args(["--cert", &deployment.text(certificate), "--key", &deployment.text(key)])
        .args(["-o", &deployment.text(out), url]);
    Ran::of(&mut curl).expect(url);
}

fn admin_url(deployment: &Deployment) -> String {
    let profile = std::fs::read_to_string(deployment.path("authority/admin.toml")).unwrap();
    let line = profile.lines().find_map(|line| line.strip_prefix("url = ")).unwrap();
    line.trim_matches('"').to_owned()
}

/// Enrolments, allows with a child, denials, a revocation, a rotation, outcomes.
fn a_life(deployment: &Deployment, program: &Program) {
    let canary = program.canary();
    let argv = [program.path(), &canary, "first"];
    let delegate = ["--delegate-action", "exec", "--delegate-audience", "gate-1"];
    let bounds = ["--delegate-depth", "1", "--delegate-budget", "2", "--ttl-secs", "100"];
    deployment.ask("parent", &[&delegate[..], &bounds[..]].concat(), &argv).expect("parent");
    deployment.exec("parent", &argv).expect("run");
    let (parent, holder) = (deployment.text("parent"), deployment.holder("holder"));
    let family = ["--parent", &parent, "--parent-key", &holder];
    deployment.ask("child", &family, &argv).expect("child");
    let thief = deployment.holder("thief");
    deployment
        .ask("orphan", &["--parent", &parent, "--parent-key", &thief], &argv)
        .refused("consent-invalid");
    deployment.admin(&["keys", "rotate", "--label", "head-2"]).expect("rotate");
    deployment.exec("child", &argv).expect("run while the new key waits");
    let activated = countersign_fixture::wait_until(std::time::Duration::from_secs(60), || {
        let keys = deployment.admin(&["keys", "list", "--json"]).expect("keys");
        keys.contains("\"deactivated\"") && !keys.contains("pre-activation")
    });
    assert!(activated, "{:#?}", deployment.admin(&["keys", "list"]));
    deployment.ask("after", &["--ttl-secs", "100"], &argv).expect("after the rotation");
    deployment.exec("after", &argv).expect("run after the rotation");
}

/// By tiles: hashes for anyone, with the entries for who may read them, and the paths of receipts.
fn tiles_give_all(deployment: &Deployment, receipts: &[&str], [viewer, gateway]: [&[&str]; 2]) {
    let check = |more: &[&str]| {
        let (service, feed) = (deployment.service_url(), deployment.text("later.json"));
        let args = [&["--authority", &service, "--feed", &feed], receipts, more].concat();
        verifier(deployment, "verify-tiles", &args)
    };
    let seen = check(&[]).expect("tiles");
    assert!(seen.contains("tiles, 2 receipts"), "{seen}");
    let seen = check(viewer).expect("tiles and entries");
    assert!(seen.contains("tiles and all entries, 2 receipts"), "{seen}");
    check(gateway).refused("authority-unreachable");
}

/// A COSE receipt for the leaf of an artifact, and for no other.
fn cose_receipt_holds(deployment: &Deployment, artifact: &str, other: &str, feed: &str) {
    let text = std::fs::read_to_string(artifact).unwrap();
    let index = text.lines().find_map(|line| line.strip_prefix("index ")).unwrap();
    let url = format!("{}/v1/log/receipts/{index}", deployment.service_url());
    fetch(deployment, &url, "gate-1.cert.pem", "gate-1.key.pem", "receipt.cose");
    let receipt = deployment.text("receipt.cose");
    verifier(deployment, "verify-cose", &[&receipt, artifact, "--feed", feed]).expect("COSE receipt");
    verifier(deployment, "verify-cose", &[&receipt, other, "--feed", feed]).refused("head-unsigned");
    verifier(deployment, "verify-cose", &[&receipt, artifact]).refused("head-unsigned");
}

/// The host's attestation result, by the published keys: with the second implementation and with PyJWT, which knows nothing of this log. Returns when.
fn result_holds(deployment: &Deployment) -> String {
    let host = deployment.host();
    let now =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis().to_string();
    let jwt = deployment.admin(&["attestation-result", &host, "--nonce", &"0a".repeat(32)]).expect("result");
    std::fs::write(deployment.path("result.jwt"), &jwt).unwrap();
    let url = format!("{}/.well-known/jwks.json", deployment.service_url());
    fetch(deployment, &url, "gate-1.cert.pem", "gate-1.key.pem", "jwks.json");
    let (result, jwks) = (deployment.text("result.jwt"), deployment.text("jwks.json"));
    let check =
        |more: &[&str]| verifier(deployment, "verify-result", &[&[&result, "--jwks", &jwks], more].concat());
    let seen = check(&["--nonce", &"0a".repeat(32)]).expect("result by its keys");
    assert!(
        seen.starts_with(&format!("verified: host {host} is affirming until "))
            || seen.starts_with(&format!("verified: host {host} is warning until ")),
        "{seen}"
    );
    check(&["--nonce", &"0b".repeat(32)]).refused("result-mismatch");
    check(&["--at", "99999999999999"]).refused("expired");
    let keys: serde_json::Value =
        serde_json::from_slice(&std::fs::read(deployment.path("jwks.json")).unwrap()).unwrap();
    let given =
        serde_json::json!({ "jwt": jwt.trim(), "jwks": keys, "iss": "test.example/log", "sub": host });
    std::fs::write(deployment.path("given.json"), given.to_string()).unwrap();
    let script = folder("src/authority/tests/pyjwt.py").display().to_string();
    let shell = format!("/usr/bin/python3 -B {script} < {}", deployment.text("given.json"));
    let out = Ran::of(Command::new("bash").args(["-c", &shell])).expect("PyJWT");
    assert!(out.trim().ends_with("refused"), "{out}");
    now
}

/// The same by the log, when nobody gets one any more.
fn result_renders_its_leaf(deployment: &Deployment, export: &str, at: &str) {
    let host = deployment.host();
    deployment.admin(&["attestation-result", &host]).refused("host-revoked");
    let result = deployment.text("result.jwt");
    let seen = verifier(deployment, "verify-result", &[&result, "--export", export, "--at", at]);
    let seen = seen.expect("result by the log");
    assert!(seen.contains(&host), "{seen}");
}

/// Every change to the export is found, whatever it is.
fn hostile_inputs_are_refused(deployment: &Deployment, export: &str, artifact: &str, feed: &str) {
    let hostile = folder("tests/verifier/hostile.py");
    let bundle = deployment.text("authority/trust-bundle.json");
    let out = Ran::of(python().arg(hostile).args([&bundle, export, artifact, feed])).expect("hostile inputs");
    assert!(out.contains("every one refused"), "{out}");
}

fn both_agree(kind: SignerKind) {
    let deployment = Deployment::ready(kind);
    let program = Program::new();
    a_life(&deployment, &program);
    let check = |verb: &str, args: &[&str]| verifier(&deployment, verb, args);
    let argv = [program.path(), &program.canary(), "first"].map(str::to_owned);
    let (parent, after) = (deployment.text("parent"), deployment.text("after"));

    // Artifacts: with the pinned bundle alone, and by the keys' states.
    let service = deployment.service_url();
    let feed = deployment.text("feed.json");
    let newest = format!("{service}/v1/feed?size=0&control=0");
    fetch(&deployment, &newest, "gate-1.cert.pem", "gate-1.key.pem", "feed.json");
    let command_line = [&["--argv"], &argv.each_ref().map(String::as_str)[..]].concat();
    let expected = [
        &[&after, "--feed", &feed, "--aud", "gate-1", "--action", "exec", "--program", program.path()],
        &command_line[..],
    ]
    .concat();
    check("verify-artifact", &expected).expect("verify the artifact");
    check("verify-artifact", &[&parent]).expect("an artifact by a key of the bundle");
    check("verify-artifact", &[&after]).refused("head-unsigned");
    check("verify-artifact", &[&after, "--feed", &feed, "--aud", "gate-2"]).refused("audience-mismatch");
    check("verify-artifact", &[&after, "--feed", &feed, "--at", "1"]).refused("not-yet-valid");
    check("verify-artifact", &[&after, "--feed", &feed, "--at", "99999999999999"]).refused("expired");
    let client =
        ["--certificate", &deployment.text("gate-1.cert.pem"), "--key", &deployment.text("gate-1.key.pem")];
    check("follow", &[&["--authority", &service], &client[..]].concat()).expect("follow the feed");

    let at = result_holds(&deployment);

    // What is revoked later is refused by who has seen it.
    let name =
        |what: &str| check("verify-receipt", &[what, "--feed", &feed]).expect("receipt").trim().to_owned();
    assert!(name(&after).starts_with("verified: allow leaf "), "{}", name(&after));
    deployment.admin(&["revoke", "host", &deployment.host(), "--reason", "test"]).expect("revoke");
    fetch(&deployment, &newest, "gate-1.cert.pem", "gate-1.key.pem", "later.json");
    check("verify-artifact", &[&after, "--feed", &deployment.text("later.json")]).refused("revoked");

    // The whole log: live, and as a file.
    let url = admin_url(&deployment);
    let admin = [
        "--certificate",
        &deployment.text("authority/admin.pem"),
        "--key",
        &deployment.text("authority/admin.key"),
    ];
    let live = check("verify-log", &[&["--authority", &url], &admin[..]].concat()).expect("live log");
    assert!(
        live.starts_with("verified: ") && live.contains(" allow,") && live.contains(" outcome,"),
        "{live}"
    );
    let export = deployment.text("export.jsonl");
    check("export-log", &[&["--authority", &url, &export], &admin[..]].concat()).expect("export");
    check("verify-log", &["--export", &export]).expect("exported log");
    result_renders_its_leaf(&deployment, &export, &at);
    let consistency = format!("{service}/v1/log/consistency?from=1&to=2");
    fetch(&deployment, &consistency, "gate-1.cert.pem", "gate-1.key.pem", "proof.json");

    cose_receipt_holds(&deployment, &after, &parent, &deployment.text("later.json"));
    tiles_give_all(&deployment, &[&parent, &after], [&admin, &client]);

    hostile_inputs_are_refused(&deployment, &export, &after, &feed);
}

#[test]
fn over_a_log_by_a_pkcs11_token() {
    both_agree(SignerKind::Pkcs11);
}

#[test]
fn over_a_log_by_a_tpm() {
    both_agree(SignerKind::Tpm);
}

#[test]
fn over_every_published_vector() {
    let out = Ran::of(python().arg(folder("tests/verifier/vectors.py")));
    let out = out.expect("vectors");
    assert!(out.contains("vectors as expected"), "{out}");
}
