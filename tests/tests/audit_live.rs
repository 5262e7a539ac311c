//! Auditors beside a running authority: lineage questions, a tail over stops and starts, exports; and a log that went back is told.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use countersign_core::artifact::Receipt;
use countersign_fixture::{ManagedChild, wait_until};
use countersign_tests::{Deployment, Program, Ran, SignerKind};
use serde_json::Value;
use std::process::Command;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);
const DELEGATE: [&str; 8] = [
    "--delegate-action",
    "exec",
    "--delegate-audience",
    "gate-1",
    "--delegate-depth",
    "1",
    "--delegate-budget",
    "2",
];

fn index(deployment: &Deployment, artifact: &str) -> u64 {
    Receipt::parse(&std::fs::read_to_string(deployment.path(artifact)).unwrap()).unwrap().leaf().index
}

/// `admin lineage` once the index has read everything.
fn lineage(deployment: &Deployment, args: &[&str]) -> Value {
    let mut found = Value::Null;
    assert!(wait_until(PATIENCE, || {
        let out = deployment.admin(&[&["--json", "lineage"], args].concat()).expect("lineage");
        found = serde_json::from_str(&out).unwrap();
        found["indexed"] == found["size"]
    }));
    found
}

fn indexes(found: &Value) -> Vec<u64> {
    found["entries"].as_array().unwrap().iter().map(|entry| entry["index"].as_u64().unwrap()).collect()
}

fn tail(deployment: &Deployment, args: &[&str]) -> Command {
    let mut command = deployment.countersign();
    command.args(["audit", "tail", "--profile", &deployment.text("authority/admin.toml")]);
    command.args(["--state", &deployment.text("seen.json"), "--json", "--every-ms", "50"]).args(args);
    command
}

/// Indexes of the leaves that a tail printed.
fn printed(out: &str) -> Vec<u64> {
    out.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["index"].as_u64().unwrap()).collect()
}

#[test]
fn an_auditor_beside_a_running_authority() {
    let mut deployment = Deployment::ready(SignerKind::Pkcs11);
    let program = Program::new();
    let canary = program.canary();
    let argv = [program.path(), &canary];
    deployment.ask("parent", &DELEGATE, &argv).expect("parent");
    let parent = deployment.text("parent");
    deployment.ask("child", &["--parent", &parent], &argv).expect("child");
    deployment.exec("child", &argv).expect("run the child");
    let (parent, child) = (index(&deployment, "parent"), index(&deployment, "child"));

    assert_eq!(indexes(&lineage(&deployment, &["descendants", &parent.to_string()])), [child]);
    let above = lineage(&deployment, &["ancestors", &child.to_string()]);
    assert_eq!((indexes(&above), above["subject"]["index"].as_u64()), (vec![parent], Some(child)));
    let host = deployment.host();
    let all = lineage(&deployment, &["artifacts", "--host", &host]);
    assert_eq!(indexes(&all), [parent, child]);
    let set = lineage(&deployment, &["artifacts", "--reference-set", "fleet", "--descendants"]);
    assert_eq!(indexes(&set), [parent, child]);
    assert_eq!(set["gaps"], Value::Array(Vec::new()));
    let table = deployment.admin(&["lineage", "artifacts", "--host", &host]).expect("table");
    assert!(table.contains("2 artifacts, 0 gaps"), "{table}");
    let table = deployment.admin(&["lineage", "descendants", &parent.to_string()]).expect("table");
    assert!(table.contains("1 artifact, 0 gaps"), "{table}");
    deployment.admin(&["lineage", "ancestors", "99999"]).refused("not-found");
    let witnesses = deployment.admin(&["witnesses"]).expect("witnesses");
    assert!(witnesses.contains("no witnesses"), "{witnesses}");
    assert_ne!(deployment.admin(&["lineage", "artifacts"]).status, Some(0));

    let first = printed(&Ran::of(&mut tail(&deployment, &["--once"])).expect("tail"));
    assert_eq!(first, (0..first.len() as u64).collect::<Vec<_>>());
    assert!(first.contains(&child));
    // It follows, and ends when it is asked to.
    let mut following = ManagedChild::spawn("tail", tail(&deployment, &[]));
    deployment.ask("later", &[], &argv).expect("later");
    let later = index(&deployment, "later");
    following.wait_for_line(&format!("\"index\":{later},"), PATIENCE);
    assert!(following.stop(PATIENCE).success());
    let rest = printed(&Ran::of(&mut tail(&deployment, &["--once"])).expect("tail again"));
    assert!(rest.iter().all(|index| *index > later), "{rest:?} after {later}");

    deployment.stop_agent();
    deployment.stop_authority();
    exports(&deployment);
}

fn exports(deployment: &Deployment) {
    let (store, bundle) =
        (deployment.text("authority/log.sqlite"), deployment.text("authority/trust-bundle.json"));
    let export = |format: &str, out: &str| {
        let mut command = deployment.countersign();
        command.args(["audit", "export", "--store", &store, "--trust-bundle", &bundle, "--format", format]);
        Ran::of(command.args(["--out", &deployment.text(out)]))
    };
    let said = export("dual-chain", "chain.json").expect("chain");
    assert!(said.starts_with("exported: events "), "{said}");
    let chain = deployment.text("chain.json");
    let verified = Ran::of(deployment.countersign().args(["audit", "verify-chain", &chain])).expect("verify");
    assert!(verified.starts_with("verified: "), "{verified}");
    let text = std::fs::read_to_string(&chain).unwrap().replacen("\"admit\"", "\"deny\"", 1);
    std::fs::write(deployment.path("touched.json"), text).unwrap();
    let touched = deployment.text("touched.json");
    let refused = Ran::of(deployment.countersign().args(["audit", "verify-chain", &touched]));
    assert_eq!(refused.status, Some(1));
    assert!(refused.err.contains("Primary hash mismatch at seq"), "{refused:?}");
    export("prov", "prov.json").expect("provenance");
    let prov: Value = serde_json::from_slice(&std::fs::read(deployment.path("prov.json")).unwrap()).unwrap();
    assert_eq!(prov["wasDerivedFrom"].as_object().unwrap().len(), 1);
    assert_ne!(export("prov", "prov.json").status, Some(0), "an existing file isn't overwritten");
}

/// Copies the authority's whole directory, as a backup of the machine does.
fn copy(from: &str, to: &str) {
    Ran::of(Command::new("cp").args(["-a", from, to])).expect("copy");
}

#[test]
fn a_log_that_went_back_is_told_by_who_saw_it() {
    let mut deployment = Deployment::ready(SignerKind::Tpm);
    let program = Program::new();
    let canary = program.canary();
    let argv = [program.path(), &canary];
    deployment.stop_authority();
    let (folder, backup) = (deployment.text("authority"), deployment.text("backup"));
    copy(&folder, &backup);
    deployment.start_authority();
    deployment.wait_ready();
    for number in 0..3 {
        deployment.ask(&format!("lost-{number}"), &[], &argv).expect("artifact");
    }
    Ran::of(&mut tail(&deployment, &["--once"])).expect("tail");
    deployment.stop_authority();
    std::fs::remove_dir_all(&folder).unwrap();
    copy(&backup, &folder);
    // With its memory file restored too, and no copy in a token, the authority itself can't know.
    deployment.start_authority();
    deployment.wait_ready();
    let told = Ran::of(&mut tail(&deployment, &["--once"]));
    let code = told.refusal().unwrap_or_default().to_owned();
    assert!(["head-rolled-back", "head-forked"].contains(&code.as_str()), "{told:#?}");
    assert_eq!(told.status, Some(1));
}
