//! A host that was written from docs/PROTOCOL.md alone, with curl, tpm2-tools, openssl and a script: it enrols, attests, gets an artifact and
//! verifies it, and this gateway runs what the artifact permits. Nothing of the agent takes part.

use countersign_tests::{Deployment, Program, Ran, SignerKind};
use std::path::Path;
use std::process::Command;

/// The interpreter for which Debian's python3-cryptography is there.
const PYTHON: &str = "/usr/bin/python3";

fn outsider(deployment: &Deployment, step: &[&str]) -> Ran {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("outsider");
    let mut command = Command::new(folder.join("with-resource-manager.sh"));
    command
        .arg(folder.join("outsider.sh"))
        .args(step)
        .env("PYTHON", PYTHON)
        .env("AUTHORITY", deployment.service_url())
        .env("TRUST_BUNDLE", deployment.text("authority/trust-bundle.json"))
        .env("STATE", deployment.text("outsider"))
        .env("TPM2TOOLS_TCTI", deployment.tpm.tcti())
        .env("BOOT_LOG", deployment.text("boot.log"))
        .env("EK_INTERMEDIATES", deployment.text("ek-issuer.pem"));
    Ran::of(&mut command)
}

fn a_client_of_the_page_alone(kind: SignerKind) {
    let deployment = Deployment::bare(kind);
    let run = |step: &[&str]| outsider(&deployment, step).expect(step[0]).trim().to_owned();

    // Without a token nobody comes in; with one, the TPM's identity is what the page says that it is.
    let refused = outsider(&deployment, &["enrol"]);
    assert!(refused.status == Some(1) && refused.err.contains("join-token-invalid"), "{refused:#?}");
    let token = deployment.admin(&["join-token"]).expect("join token");
    let host = run(&["enrol", token.trim()]);
    assert_eq!(host, deployment.host());

    // Good evidence, no reference values yet; then everything that an allow decision needs.
    assert_eq!(run(&["attest"]), "warning");
    deployment.admin(&["references", "capture", &host, "--set", "fleet", "--activate"]).expect("references");
    let policy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/policy/demo");
    deployment.admin(&["policy", "activate", &policy.display().to_string()]).expect("policy");
    deployment.add_gateway(30);
    assert_eq!(run(&["attest"]), "affirming");

    let program = Program::new();
    let canary = program.canary();
    let argv = [program.path(), &canary, "outside"];
    assert_eq!(run(&[&["artifact", "gate-1", "--"], &argv[..]].concat()), "allow");

    // What the outsider holds is worth as much at the gateway as what the agent gets.
    std::fs::copy(deployment.path("outsider/artifact"), deployment.path("artifact"))
        .expect("copy the artifact");
    std::fs::copy(deployment.path("outsider/holder.pem"), deployment.path("outsider-holder.pem"))
        .expect("copy the holder key");
    deployment.exec("artifact", &[program.path(), &canary, "inside"]).refused("arguments-mismatch");
    let out = deployment.exec_as("artifact", "outsider-holder", &argv).expect("run what was permitted");
    assert_eq!((out.trim(), program.runs()), ("canary: outside", 1));

    // Denials are receipts too, and the log can be followed from the pinned bundle to its newest head.
    assert_eq!(run(&["replay"]), "deny challenge-spent");
    assert_eq!(run(&[&["refused-quote", "gate-1", "--"], &argv[..]].concat()), "deny quote-nonce-mismatch");
    assert_eq!(run(&["anonymous"]), "unauthenticated");
    assert!(run(&["follow"]).starts_with("head "));

    // Renewal is the same call without a token.
    assert_eq!(run(&["enrol"]), host);
}

#[test]
fn with_heads_by_a_pkcs11_token() {
    a_client_of_the_page_alone(SignerKind::Pkcs11);
}

#[test]
fn with_heads_by_a_tpm() {
    a_client_of_the_page_alone(SignerKind::Tpm);
}
