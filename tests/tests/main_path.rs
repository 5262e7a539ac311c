//! The main job on real parts: enrol, attest, decide, sign, admit, run; children; rotation; audit.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use countersign_core::artifact::Receipt;
use countersign_core::bundle::TrustBundle;
use countersign_fixture::SoftHsm;
use countersign_tests::{Deployment, Program, Ran, SignerKind};

fn the_main_path(kind: SignerKind) {
    let mut deployment = Deployment::ready(kind);
    let program = Program::new();
    let canary = program.canary();
    let argv = [program.path(), &canary, "first"];
    let delegate = [
        "--delegate-action",
        "exec",
        "--delegate-audience",
        "gate-1",
        "--delegate-depth",
        "1",
        "--delegate-budget",
        "2",
    ];

    deployment
        .ask("parent", &[&["--ttl-secs", "100"], &delegate[..]].concat(), &argv)
        .expect("parent artifact");
    let out = deployment.exec("parent", &argv).expect("run");
    assert_eq!((out.trim(), program.runs()), ("canary: first", 1));

    // A child narrows and runs another command line; the parent's budget holds for two.
    let parent = deployment.text("parent");
    let child = [program.path(), &canary, "second"];
    deployment.ask("child", &["--parent", &parent], &child).expect("child artifact");
    deployment.exec("child", &child).expect("run child");
    assert_eq!(program.runs(), 2);
    // Whoever doesn't hold the parent gets no child of it.
    let thief = deployment.holder("thief");
    let stolen = ["--parent", parent.as_str(), "--parent-key", thief.as_str()];
    deployment.ask("stolen", &stolen, &child).refused("consent-invalid");
    let child_path = deployment.text("child");
    deployment.ask("sibling", &["--parent", &parent], &child).expect("second child");
    deployment.ask("third", &["--parent", &parent], &child).refused("budget-exhausted");
    // The policy forbids a second generation, and who delegated nothing has no children.
    deployment.ask("grandchild", &["--parent", &child_path], &child).refused("policy-denied");
    deployment.ask("plain", &[], &argv).expect("artifact without delegation");
    let plain = deployment.text("plain");
    deployment.ask("orphan", &["--parent", &plain], &child).refused("delegation-absent");

    // Both keys' artifacts verify after a rotation.
    let head_of =
        |name: &str| Receipt::parse(&std::fs::read_to_string(deployment.path(name)).unwrap()).unwrap();
    let before = head_of("parent").note().signatures().to_vec();
    deployment.admin(&["keys", "rotate", "--label", "head-2"]).expect("rotate");
    // The gateway learns of the new key and says so; the activation waits for that, or for the lease.
    deployment.exec("parent", &argv).expect("run while the new key waits");
    let activated = countersign_fixture::wait_until(std::time::Duration::from_secs(60), || {
        let keys = deployment.admin(&["keys", "list", "--json"]).expect("keys");
        keys.contains("\"active\"") && keys.contains("\"deactivated\"") && !keys.contains("pre-activation")
    });
    assert!(activated, "{:#?}", deployment.admin(&["keys", "list"]));
    deployment.ask("after", &[], &argv).expect("artifact after the rotation");
    let after = head_of("after").note().signatures().to_vec();
    assert!(
        before.iter().all(|old| after.iter().all(|new| old.key_id() != new.key_id())),
        "the same key signed"
    );
    deployment.exec("after", &argv).expect("run after the rotation");
    deployment.exec("parent", &argv).expect("run what was signed before the rotation");
    assert_eq!(program.runs(), 5);
    the_first_key_is_compromised(&deployment, &argv, &child);
    assert_eq!(program.runs(), 7);

    deployment.stop_agent();
    deployment.stop_authority();
    audited(&deployment);
}

fn audited(deployment: &Deployment) {
    deployment.audit("verify").expect("audit verify");
    deployment.audit("replay").expect("audit replay");
    let reconciled = deployment.audit("reconcile").expect("audit reconcile");
    assert!(reconciled.contains("0 wrong, 0 without an outcome, 0 to look at"), "{reconciled}");
}

/// The recovery key says so, with the parent's head as the last good one: of the artifacts of that key only those under it hold.
fn the_first_key_is_compromised(deployment: &Deployment, argv: &[&str], child: &[&str]) {
    let listed = deployment.admin(&["keys", "list", "--json"]).expect("keys");
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    let key = listed["head"][0]["thumbprint"].as_str().unwrap();
    let parent = Receipt::parse(&std::fs::read_to_string(deployment.path("parent")).unwrap()).unwrap();
    let (size, module) = (parent.head().size.to_string(), SoftHsm::module().display().to_string());
    let (pin, bundle) = (deployment.text("pin"), deployment.text("bundle-2.json"));
    let place = ["--pkcs11-module", &module, "--recovery-token", "recovery", "--recovery-pin-file", &pin];
    let said = ["keys", "compromise", "--key", key, "--last-good", &size, "--bundle-out", &bundle];
    deployment.admin(&[&said[..], &place[..]].concat()).expect("compromise");
    deployment.exec("parent", argv).expect("run what the last good head covers");
    deployment.exec("child", child).refused("key-compromised");
    deployment.exec("after", argv).expect("run what the new key signed");
    let known = TrustBundle::verify(&std::fs::read(bundle).unwrap()).unwrap();
    assert_eq!(known.statements().len(), 2);
}

#[test]
fn with_keys_in_a_pkcs11_token() {
    the_main_path(SignerKind::Pkcs11);
}

#[test]
fn with_keys_in_a_tpm() {
    the_main_path(SignerKind::Tpm);
}

#[test]
fn an_authority_is_never_overwritten() {
    let deployment = Deployment::bare(SignerKind::Pkcs11);
    let before = std::fs::read(deployment.path("authority/trust-bundle.json")).unwrap();
    let again: Ran = deployment.init();
    assert_ne!(again.status, Some(0), "{again:#?}");
    assert_eq!(std::fs::read(deployment.path("authority/trust-bundle.json")).unwrap(), before);
}

#[test]
fn an_authority_goes_on_after_a_restart() {
    let mut deployment = Deployment::ready(SignerKind::Pkcs11);
    let program = Program::new();
    let canary = program.canary();
    let argv = [program.path(), &canary];
    deployment.ask("one", &["--ttl-secs", "100"], &argv).expect("before");
    deployment.exec("one", &argv).expect("run while the authority is up");
    deployment.stop_authority();
    // The gateway lives on its snapshot for its lease.
    deployment.exec("one", &argv).expect("run while the authority is down");
    deployment.ask("two", &[], &argv).refused("authority-unreachable");
    deployment.start_authority();
    deployment.wait_ready();
    deployment.ask("three", &[], &argv).expect("after");
    deployment.exec("three", &argv).expect("run after");
    assert_eq!(program.runs(), 3);
}
