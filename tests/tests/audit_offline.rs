//! Auditors without the authority: from an outcome back to the quote and the policy, and from a checkpoint on.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use countersign_core::artifact::Receipt;
use countersign_core::leaf::record::Outcome;
use countersign_core::leaf::{Kind, Leaf};
use countersign_fixture::wait_until;
use countersign_tests::{Deployment, Program, Ran, SignerKind, tool};
use serde_json::Value;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const PATIENCE: Duration = Duration::from_secs(60);

fn index(deployment: &Deployment, artifact: &str) -> u64 {
    Receipt::parse(&std::fs::read_to_string(deployment.path(artifact)).unwrap()).unwrap().leaf().index
}

/// Index of the outcome leaf of an artifact.
fn outcome_of(deployment: &Deployment, artifact: u64) -> u64 {
    let mut found = None;
    assert!(wait_until(PATIENCE, || {
        let leaves = deployment.audit_leaves();
        let outcomes =
            leaves.iter().map(|leaf| Leaf::parse(leaf).unwrap()).filter(|leaf| leaf.kind == Kind::Outcome);
        found = outcomes
            .filter(|leaf| Outcome::parse(&leaf.body).unwrap().artifact.0 == artifact)
            .map(|leaf| leaf.index)
            .next();
        found.is_some()
    }));
    found.unwrap()
}

fn audit(deployment: &Deployment, verb: &str, args: &[&str]) -> Ran {
    let mut command = deployment.countersign();
    command.args(["audit", verb, "--trust-bundle", &deployment.text("authority/trust-bundle.json")]);
    Ran::of(command.args(args))
}

fn walk(deployment: &Deployment, args: &[&str]) -> (Option<i32>, Value) {
    let store = deployment.text("authority/log.sqlite");
    let ran = audit(deployment, "walk", &[&["--store", &store, "--json"], args].concat());
    let found = serde_json::from_str(&ran.out).unwrap_or_else(|error| panic!("{error}: {ran:?}"));
    (ran.status, found)
}

/// How the first part of this name stands.
fn standing<'a>(walked: &'a Value, what: &str) -> &'a str {
    let steps = walked["steps"].as_array().unwrap();
    let step =
        steps.iter().find(|step| step["what"] == what).unwrap_or_else(|| panic!("no {what} in {walked:#}"));
    step["standing"].as_str().unwrap()
}

const PARTS: [&str; 21] = [
    "outcome",
    "gateway",
    "artifact",
    "request",
    "holder signature",
    "inputs record",
    "enrolment",
    "join token",
    "endorsement key",
    "endorsement certificate",
    "attestation key",
    "activation record",
    "evidence record",
    "challenge",
    "quote",
    "boot log",
    "policy document",
    "references document",
    "signed head",
    "head key",
    "custody record",
];

#[test]
fn from_an_outcome_back_to_quote_and_policy() {
    let mut deployment = Deployment::ready(SignerKind::Pkcs11);
    let program = Program::new();
    let canary = program.canary();
    let argv = [program.path(), &canary];
    let delegate = ["--delegate-action", "exec", "--delegate-audience", "gate-1"];
    let bounds = ["--delegate-depth", "1", "--delegate-budget", "2", "--ttl-secs", "20"];
    deployment.ask("parent", &[&delegate[..], &bounds[..]].concat(), &argv).expect("parent");
    let family = [
        "--parent",
        &deployment.text("parent"),
        "--parent-key",
        &deployment.holder("holder"),
        "--ttl-secs",
        "10",
    ];
    deployment.ask("child", &family, &argv).expect("child");
    deployment.exec("child", &argv).expect("run");
    let (parent, child) = (index(&deployment, "parent"), index(&deployment, "child"));
    let outcome = outcome_of(&deployment, child).to_string();
    let (status, walked) = walk(&deployment, &["--outcome", &outcome]);
    assert_eq!((status, &walked["gaps"]), (Some(0), &Value::from(0)), "{walked:#}");
    for part in PARTS {
        assert_eq!(standing(&walked, part), "here", "{part}");
    }
    let artifacts = walked["steps"].as_array().unwrap().iter().filter(|step| step["what"] == "artifact");
    let found: Vec<u64> = artifacts.map(|step| step["leaf"].as_u64().unwrap()).collect();
    assert_eq!(found, [child, parent], "the parent with everything that it rests on");
    // For people, and from a decision.
    let store = deployment.text("authority/log.sqlite");
    let text = audit(&deployment, "walk", &["--store", &store, "--artifact", &parent.to_string()]);
    let text = text.expect("walk");
    assert!(text.contains("policy leaf ") && text.contains(", 0 gaps; the log of "), "{text}");
    audit(&deployment, "walk", &["--store", &store, "--outcome", "0"]).refused("not-found");
    audit(&deployment, "walk", &["--store", &store, "--artifact", "999999"]).refused("not-found");
    gaps_are_shown(&mut deployment, &outcome);
}

fn gaps_are_shown(deployment: &mut Deployment, outcome: &str) {
    let receipt = Receipt::parse(&std::fs::read_to_string(deployment.path("parent")).unwrap()).unwrap();
    let end = receipt.leaf().time_ms / 1_000 + 25;
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    assert!(wait_until(PATIENCE, || now() > end));
    deployment.stop_authority();
    let (folder, copy) = (deployment.text("authority"), deployment.text("copy"));
    Ran::of(Command::new("cp").args(["-a", &folder, &copy])).expect("copy");
    let config = deployment.text("authority/authority.toml");
    Ran::of(Command::new(tool("prune-now")).arg(config)).expect("prune");
    let (status, walked) = walk(deployment, &["--outcome", outcome]);
    assert_eq!(status, Some(1));
    assert!(walked["gaps"].as_u64() > Some(4), "{walked:#}");
    for part in ["request", "inputs record"] {
        assert_eq!(standing(&walked, part), "pruned", "{part}");
    }
    assert_eq!(standing(&walked, "holder signature"), "unknown");
    // What stays for ever, and what the log itself says.
    for part in
        ["artifact", "enrolment", "endorsement key", "policy", "policy document", "signed head", "head key"]
    {
        assert_eq!(standing(&walked, part), "here", "{part}");
    }
    let kept = format!("{copy}/log.sqlite");
    let (status, walked) = walk(deployment, &["--outcome", outcome, "--kept", &kept]);
    assert_eq!((status, &walked["gaps"]), (Some(0), &Value::from(0)), "{walked:#}");
    deployment.start_authority();
    deployment.wait_ready();
}

fn verify(deployment: &Deployment, args: &[&str]) -> Ran {
    let store = deployment.text("authority/log.sqlite");
    audit(deployment, "verify", &[&["--store", &store], args].concat())
}

#[test]
fn from_a_checkpoint_on_and_neither_back_nor_aside() {
    let mut deployment = Deployment::ready(SignerKind::Tpm);
    let program = Program::new();
    let canary = program.canary();
    let argv = [program.path(), &canary];
    deployment.ask("before", &[], &argv).expect("artifact");
    deployment.stop_authority();
    let (folder, backup) = (deployment.text("authority"), deployment.text("backup"));
    let copy = |from: &str, to: &str| Ran::of(Command::new("cp").args(["-a", from, to])).expect("copy");
    copy(&folder, &backup);
    deployment.start_authority();
    deployment.wait_ready();
    let first = deployment.text("first.checkpoint");
    let whole = verify(&deployment, &["--save-checkpoint", &first]).expect("verify");
    assert!(!whole.contains("goes on from"), "{whole}");
    deployment.exec("before", &argv).expect("an outcome of an artifact from before");
    let before = index(&deployment, "before");
    outcome_of(&deployment, before);
    deployment.ask("after", &[], &argv).expect("artifact");
    let second = deployment.text("second.checkpoint");
    let added = verify(&deployment, &["--checkpoint", &first, "--save-checkpoint", &second]).expect("verify");
    assert!(added.contains("goes on from the checkpoint of size "), "{added}");
    let json = verify(&deployment, &["--checkpoint", &second, "--json"]).expect("verify");
    let json: Value = serde_json::from_str(&json).unwrap();
    assert!(
        json["checkpoint"].as_u64() > Some(before) && json["checkpoint"].as_u64() <= json["leaves"].as_u64()
    );

    let good = std::fs::read_to_string(&second).unwrap();
    let changed = deployment.text("changed.checkpoint");
    std::fs::write(&changed, good.replacen("\"v\":3", "\"v\":2", 1)).unwrap();
    assert_eq!(verify(&deployment, &["--checkpoint", &changed]).refusal(), Some("checkpoint-invalid"));

    // The whole machine as it was: good by itself, and not what was seen.
    deployment.stop_authority();
    std::fs::remove_dir_all(&folder).unwrap();
    copy(&backup, &folder);
    verify(&deployment, &[]).expect("by itself it verifies");
    let told = verify(&deployment, &["--checkpoint", &second, "--save-checkpoint", &second]);
    told.refused("head-rolled-back");
    assert_eq!(std::fs::read_to_string(&second).unwrap(), good, "a checkpoint is kept only of what is right");
    deployment.start_authority();
    deployment.wait_ready();
    let size = json["leaves"].as_u64().unwrap();
    for number in 0..size {
        deployment.ask(&format!("other-{number}"), &[], &argv).expect("artifact");
        if deployment.audit_leaves().len() as u64 > size {
            break;
        }
    }
    verify(&deployment, &[]).expect("by itself it verifies");
    verify(&deployment, &["--checkpoint", &second]).refused("head-forked");
}
