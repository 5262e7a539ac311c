//! Retention: what old decisions were made from goes while the authority serves; the log verifies, audits tell, and hosts go on.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use countersign_core::artifact::Receipt;
use countersign_core::leaf::decision::{Decision, Verdict};
use countersign_fixture::wait_until;
use countersign_tests::{Deployment, Program, Ran, SignerKind, StoreKind, tool};
use serde_json::Value;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const PATIENCE: Duration = Duration::from_secs(60);

fn artifact(deployment: &Deployment, name: &str) -> (u64, Decision) {
    let receipt = Receipt::parse(&std::fs::read_to_string(deployment.path(name)).unwrap()).unwrap();
    (receipt.leaf().index, Decision::parse(&receipt.leaf().body).unwrap())
}

fn wait_for_the_end_of(deployment: &Deployment, name: &str) {
    let Verdict::Allow { exp, .. } = artifact(deployment, name).1.verdict else { panic!("denied") };
    assert!(wait_until(PATIENCE, || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() > exp));
}

fn pruning(deployment: &Deployment, args: &[&str]) -> Command {
    let mut command = deployment.countersign();
    command.args(["authority", "prune", "--config", &deployment.text("authority/authority.toml")]).args(args);
    command
}

/// The command takes no age below a day, so what is of this moment is pruned by a program that does the same.
fn prune_now(deployment: &Deployment) -> Command {
    let mut command = Command::new(tool("prune-now"));
    command.arg(deployment.text("authority/authority.toml"));
    command
}

fn prune(deployment: &Deployment, args: &[&str]) -> Value {
    serde_json::from_str(&Ran::of(prune_now(deployment).args(args)).expect("prune")).unwrap()
}

/// What the command itself says: no age, none that is too small, and nothing to prune of a log that is younger than a day.
fn the_command_keeps_what_is_young(deployment: &Deployment) {
    let unsaid = Ran::of(&mut pruning(deployment, &[]));
    assert!(unsaid.status == Some(2) && unsaid.err.contains("retention.evidence_days"), "{unsaid:?}");
    let zero = Ran::of(&mut pruning(deployment, &["--older-than-days", "0"]));
    assert!(zero.status == Some(2) && zero.err.contains("--older-than-days"), "{zero:?}");
    for dry in [&["--dry-run"][..], &[]] {
        let args = [&["--older-than-days", "1", "--json"], dry].concat();
        let said = Ran::of(&mut pruning(deployment, &args)).expect("prune");
        let said: Value = serde_json::from_str(&said).unwrap();
        assert_eq!((&said["blobs"], &said["dry_run"]), (&Value::from(0), &Value::from(!dry.is_empty())));
        assert!(said["leaves"].as_u64() > Some(4), "{said}");
    }
}

/// `countersign audit VERB` over the authority's store.
fn audit(deployment: &Deployment, verb: &str, args: &[&str]) -> Ran {
    let mut command = deployment.countersign();
    command.args(["audit", verb, "--trust-bundle", &deployment.text("authority/trust-bundle.json")]);
    command.args(["--config", &deployment.text("authority/authority.toml")]);
    Ran::of(command.args(args))
}

/// Writes members under names that mean nothing, as an auditor who fetched them keeps them.
fn keep_members(deployment: &Deployment, of: &str) {
    let directory = deployment.path("kept");
    std::fs::create_dir(&directory).unwrap();
    let out = deployment.path("before.bundle");
    audit(deployment, "bundle", &["--out", out.to_str().unwrap(), &deployment.text(of)]).expect("bundle");
    let bundle: Value = serde_json::from_slice(&std::fs::read(out).unwrap()).unwrap();
    for (at, member) in bundle["members"].as_array().unwrap().iter().enumerate() {
        let bytes = data_encoding::BASE64URL_NOPAD.decode(member.as_str().unwrap().as_bytes()).unwrap();
        std::fs::write(directory.join(format!("file-{at}")), bytes).unwrap();
    }
}

fn pruned_while_serving(store: StoreKind) {
    let deployment = Deployment::ready_on(SignerKind::Pkcs11, store);
    let program = Program::new();
    let canary = program.canary();
    let argv = [program.path(), &canary];
    deployment.ask("one", &["--ttl-secs", "1"], &argv).expect("one");
    keep_members(&deployment, "one");
    // Another boot: what the host rests on isn't the first one any more.
    deployment.reboot_host(2);
    assert_eq!(deployment.ask("other", &[], &argv).status, Some(1), "not the boot of the references");
    wait_for_the_end_of(&deployment, "one");
    the_command_keeps_what_is_young(&deployment);
    assert!(prune(&deployment, &["--dry-run"])["blobs"].as_u64() > Some(4));
    let replayed = audit(&deployment, "replay", &[]).expect("replay");
    assert!(!replayed.contains("pruned"), "{replayed}");

    let went = prune(&deployment, &[])["blobs"].as_u64().unwrap();
    let verified = audit(&deployment, "verify", &[]).expect("verify");
    assert!(verified.contains(&format!("pruned: {went} inputs of decisions before")), "{verified}");
    let unexcused = audit(&deployment, "replay", &[]);
    assert!(unexcused.status == Some(1) && unexcused.out.contains("pruned: "), "{unexcused:?}");
    let replayed =
        audit(&deployment, "replay", &["--pruned-ok"]).expect("a pruned log replays as far as it can");
    let good = replayed.contains("; 0 not replayable, 0 that don't follow") && replayed.contains("pruned: ");
    assert!(good, "{replayed}");
    let (index, decision) = artifact(&deployment, "one");
    let json: Value =
        serde_json::from_str(&audit(&deployment, "replay", &["--json", "--pruned-ok"]).expect("json"))
            .unwrap();
    let covers = |run: &Value| run[0].as_u64() <= Some(index) && run[1].as_u64() >= Some(index);
    assert!(json["pruned_runs"].as_array().unwrap().iter().any(covers), "{json}");
    // What bore the first artifact out is gone, with a code of its own, and as good as before from an auditor's copies.
    let (out, one) = (deployment.text("after.bundle"), deployment.text("one"));
    let refused = audit(&deployment, "bundle", &["--out", &out, &one]);
    assert!(refused.status == Some(1) && refused.err.contains("refused: evidence-pruned"), "{refused:?}");
    audit(&deployment, "bundle", &["--kept", &deployment.text("kept"), "--out", &out, &one]).expect("bundle");
    let mut verify = deployment.countersign();
    verify.args([
        "audit",
        "verify-bundle",
        "--trust-bundle",
        &deployment.text("authority/trust-bundle.json"),
    ]);
    Ran::of(verify.arg(&out)).expect("the bundle verifies");
    let kept = ["--json", "--pruned-ok", "--kept", &deployment.text("kept")];
    let kept = audit(&deployment, "replay", &kept).expect("replay");
    let kept: Value = serde_json::from_str(&kept).unwrap();
    assert!(kept["pruned"].as_u64() < json["pruned"].as_u64(), "{kept}");
    assert!(!kept["pruned_runs"].as_array().unwrap().iter().any(covers), "{kept}");

    // Back in the first boot: the host names a log that was known, and is asked to send it again.
    deployment.reboot_host(1);
    let ask = || deployment.ask("three", &[], &argv).status == Some(0);
    assert!(wait_until(PATIENCE, ask), "{}", deployment.authority_log());
    deployment.exec("three", &argv).expect("run");
    assert_eq!(artifact(&deployment, "three").1.host_state.boot_log, decision.host_state.boot_log);
    audit(&deployment, "verify", &[]).expect("verify");
    audit(&deployment, "replay", &["--pruned-ok"]).expect("replay");
}

#[test]
fn old_evidence_goes_from_a_file_while_the_authority_serves() {
    pruned_while_serving(StoreKind::Sqlite);
}

#[test]
fn old_evidence_goes_from_a_database_while_the_authority_serves() {
    pruned_while_serving(StoreKind::Postgres);
}

#[test]
fn a_pruning_killed_at_any_moment_leaves_a_log_that_verifies() {
    let deployment = Deployment::ready(SignerKind::Pkcs11);
    let program = Program::new();
    let canary = program.canary();
    let argv = [program.path(), &canary];
    for round in 0..12 {
        let name = format!("round-{round}");
        let mut child = prune_now(&deployment)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // It is killed before it began, in the middle of its work, or after; meanwhile hosts get their artifacts.
        for ask in 0..round % 3 {
            deployment.ask(&format!("{name}-{ask}"), &["--ttl-secs", "1"], &argv).expect("artifact");
        }
        child.kill().unwrap();
        child.wait().unwrap();
        audit(&deployment, "verify", &[]).expect("verify");
        let replayed = audit(&deployment, "replay", &["--pruned-ok"]).expect("replay");
        assert!(replayed.contains("; 0 not replayable, 0 that don't follow"), "{replayed}");
    }
    deployment.ask("last", &["--ttl-secs", "1"], &argv).expect("artifact");
    wait_for_the_end_of(&deployment, "last");
    prune(&deployment, &[]);
    audit(&deployment, "verify", &[]).expect("verify");
    assert!(audit(&deployment, "replay", &["--pruned-ok"]).expect("replay").contains("pruned: "));
}
