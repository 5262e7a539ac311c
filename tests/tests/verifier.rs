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
    let consistency = format!("{service}/v1/log/consistency?from=1&to=2");
    fetch(&deployment, &consistency, "gate-1.cert.pem", "gate-1.key.pem", "proof.json");

    cose_receipt_holds(&deployment, &after, &parent, &deployment.text("later.json"));
    tiles_give_all(&deployment, &[&parent, &after], [&admin, &client]);

    // Every change to the export is found, whatever it is.
    let hostile = folder("tests/verifier/hostile.py");
    let out = Ran::of(
        python()
            .arg(hostile)
            .arg(deployment.text("authority/trust-bundle.json"))
            .args([&export, &after, &feed]),
    );
    let out = out.expect("hostile inputs");
    assert!(out.contains("every one refused"), "{out}");
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
