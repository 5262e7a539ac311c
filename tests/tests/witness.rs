//! Witnesses, authority, gateway and auditor as real processes: the honest path, a forked log, a log that was rolled back, witnesses that are
//! away, killed or asked for nonsense.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use countersign_fixture::wait_until;
use countersign_tests::{Deployment, Program, Ran, SignerKind, WitnessProcess};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

/// Waits for a checkpoint of at least this size that all of these cosigned.
#[track_caller]
fn wait_cosigned(deployment: &Deployment, at_least: u64, witnesses: &[&WitnessProcess]) -> (String, u64) {
    let mut seen = (String::new(), 0);
    let cosigned = wait_until(PATIENCE, || {
        seen = deployment.checkpoint();
        let by = |witness: &&WitnessProcess| {
            seen.0.contains(&format!("\u{2014} {}.example/witness ", witness.name))
        };
        seen.1 >= at_least && witnesses.iter().all(by)
    });
    assert!(cosigned, "{}\n{}", seen.0, deployment.authority_log());
    seen
}

/// Size of the head in an artifact.
fn size_of(artifact: &Path) -> u64 {
    let text = std::fs::read_to_string(artifact).unwrap();
    let (_, checkpoint) = text.split_once("\n\n").unwrap();
    checkpoint.lines().nth(1).unwrap().parse().unwrap()
}

fn copy(from: &Path, to: &Path) {
    let _ = std::fs::remove_dir_all(to);
    Ran::of(Command::new("cp").args(["-a", from.to_str().unwrap(), to.to_str().unwrap()])).expect("copy");
}

#[test]
fn heads_are_cosigned_and_gateways_and_auditors_may_demand_it() {
    let mut deployment = Deployment::ready(SignerKind::Pkcs11);
    let program = Program::new();
    let argv = [program.path(), &program.canary()];
    let (mut one, mut two) =
        (WitnessProcess::start(&deployment, "w1"), WitnessProcess::start(&deployment, "w2"));
    deployment.witnessed_by(&[&one, &two]);
    deployment.wait_ready();
    deployment.gateway_demands_quorum();
    wait_cosigned(&deployment, 1, &[&one, &two]);

    // An artifact runs once witnesses have seen the head that it is under.
    deployment.ask("first", &["--ttl-secs", "120"], &argv).expect("ask");
    wait_cosigned(&deployment, size_of(&deployment.path("first")), &[&one, &two]);
    deployment.exec("first", &argv).expect("run");
    assert_eq!(program.runs(), 1);
    let verify = |extra: &[&str]| {
        let (store, bundle) =
            (deployment.text("authority/log.sqlite"), deployment.text("authority/trust-bundle.json"));
        let mut command = deployment.countersign();
        Ran::of(command.args(["audit", "verify", "--store", &store, "--trust-bundle", &bundle]).args(extra))
    };
    let quorum = deployment.text("quorum");
    let said = verify(&["--quorum-file", &quorum]).expect("audit");
    assert!(said.contains("witnessed by w1, w2 up to size"), "{said}");

    // A witness that is away: artifacts are given out as before, and who demands the quorum admits none of them.
    two.stop();
    deployment.ask("second", &["--ttl-secs", "120"], &argv).expect("ask without a witness");
    deployment.exec("second", &argv).refused("witness-quorum-unmet");
    assert_eq!(program.runs(), 1);
    assert!(deployment.is_ready(), "what a witness's absence means is the gateways' to say");
    two.restart();
    wait_cosigned(&deployment, size_of(&deployment.path("second")), &[&one, &two]);
    deployment.exec("second", &argv).expect("run after the witness came back");
    assert_eq!(program.runs(), 2);

    // Who demands somebody else's cosignature gets nothing through, here or in an audit.
    let stranger = WitnessProcess::made(&deployment, "stranger");
    let other = format!("witness stranger {}\nquorum stranger\n", stranger.vkey);
    std::fs::write(deployment.path("quorum"), other).unwrap();
    deployment.exec("first", &argv).refused("witness-quorum-unmet");
    verify(&["--quorum-file", &quorum]).refused("witness-quorum-unmet");
    verify(&[]).expect("without a demand");
    assert_eq!(program.runs(), 2);
    one.stop();
}

#[test]
fn a_witness_answers_as_the_specification_says() {
    let mut deployment = Deployment::bare(SignerKind::Pkcs11);
    let witness = WitnessProcess::start(&deployment, "w1");
    deployment.witnessed_by(&[&witness]);
    let (cosigned, _) = wait_cosigned(&deployment, 1, &[&witness]);
    // Nobody else asks from here on.
    deployment.stop_authority();
    let text = cosigned.split_once("\n\n").unwrap().0;
    let log_line = cosigned.lines().find(|line| line.starts_with("\u{2014} test.example/log ")).unwrap();
    let note = |text: &str| format!("{text}\n\n{log_line}\n");
    // What was cosigned last is told to whoever names another size.
    let (status, kind, body) = witness.add_checkpoint(&format!("old 0\n\n{}", note(text)));
    assert_eq!((status, kind.as_str()), (409, "text/x.tlog.size"), "{body}");
    let last: u64 = body.trim().parse().unwrap();
    let newest = latest(&deployment, last);
    // The same checkpoint twice is cosigned twice.
    for _ in 0..2 {
        let (status, _, body) = witness.add_checkpoint(&format!("old {last}\n\n{newest}"));
        assert_eq!(status, 200, "{body}");
        assert!(body.starts_with("\u{2014} w1.example/witness ") && body.lines().count() == 1, "{body}");
    }
    let garbage = "x".repeat(100_000);
    let smaller = format!("old {}\n\n{newest}", last + 1);
    for (request, expected) in [
        ("", 400),
        ("old 0\n", 400),
        (&format!("old 00\n\n{newest}"), 400),
        (&format!("old {last}\nnot a hash\n\n{newest}"), 400),
        (smaller.as_str(), 400),
        (&format!("old {last}\n\n{}", newest.replacen("test.example/log", "other.example/log", 1)), 404),
        (&format!("old {last}\n\n{}", newest.replacen("time ", "time 1", 1)), 403),
        (
            &format!(
                "old {last}\n\n{}",
                newest.replace("\u{2014} test.example/log", "\u{2014} someone.else")
            ),
            403,
        ),
        (&format!("old {last}\n{}\n\n{newest}", "A".repeat(43) + "="), 422),
        (garbage.as_str(), 413),
    ] {
        let (status, _, body) = witness.add_checkpoint(request);
        assert_eq!(status, expected, "{request:.60}: {body}");
    }
    // One process has the memory, and without a memory there is no witness.
    let second = Ran::of(&mut witness.command());
    assert!(second.status != Some(0) && second.err.contains("another witness uses"), "{second:#?}");
    let forgetful = WitnessProcess::made(&deployment, "w2");
    let refused = Ran::of(&mut forgetful.command());
    assert!(refused.status != Some(0) && refused.err.contains("witness begin"), "{refused:#?}");
}

/// The note of exactly this size, out of the store.
fn latest(deployment: &Deployment, size: u64) -> String {
    let (store, bundle) =
        (deployment.text("authority/log.sqlite"), deployment.text("authority/trust-bundle.json"));
    let mut command = deployment.countersign();
    let heads = Ran::of(command.args([
        "audit",
        "head",
        "--store",
        &store,
        "--trust-bundle",
        &bundle,
        &size.to_string(),
    ]));
    heads.expect("head")
}

/// One history is cosigned, then the other one is shown: the state was copied in between. TPM keys, because a token would remember by itself.
#[test]
fn a_forked_authority_is_refused_by_its_witness_and_stops() {
    let mut deployment = Deployment::ready(SignerKind::Tpm);
    let program = Program::new();
    let argv = [program.path(), &program.canary()];
    let witness = WitnessProcess::start(&deployment, "w1");
    deployment.witnessed_by(&[&witness]);
    deployment.wait_ready();
    deployment.stop_authority();
    let (live, past) = (deployment.path("authority"), deployment.path("past"));
    copy(&live, &past);

    // The first history goes on and is cosigned.
    deployment.start_authority();
    deployment.wait_ready();
    deployment.ask("first", &["--ttl-secs", "120"], &argv).expect("ask");
    let (_, cosigned) = wait_cosigned(&deployment, size_of(&deployment.path("first")), &[&witness]);
    deployment.stop_authority();

    // The copy takes its place. It is shorter than what the witness has seen.
    copy(&past, &live);
    deployment.start_authority();
    deployment.wait_not_ready();
    let alarm = deployment.admin(&["witnesses", "--json"]).expect("witnesses");
    assert!(alarm.contains("rolled-back") || alarm.contains("forked"), "{alarm}");
    deployment.ask("forged", &["--ttl-secs", "120"], &argv).refused("witness-conflict");
    assert!(deployment.authority_log().contains("witness-conflict"), "{}", deployment.authority_log());
    let metrics = Ran::of(&mut metrics(&deployment)).expect("metrics");
    assert!(metrics.contains("countersign_witness_alarm 1"), "{metrics}");

    // Neither time nor a restart heals it, nor that nobody is asked any more.
    deployment.stop_authority();
    deployment.configure_witnesses(&[]);
    deployment.start_authority();
    deployment.ask("forged", &["--ttl-secs", "120"], &argv).refused("witness-conflict");
    assert!(!deployment.is_ready());
    let before = deployment.audit_leaves().len();

    // An officer decides; the other history grows past what was cosigned, and is shown to the witness again.
    deployment.admin(&["witnesses", "set-aside", "w1", "--reason", "testing the fork"]).expect("set aside");
    deployment.wait_ready();
    assert!(wait_until(PATIENCE, || {
        deployment.ask("forged", &["--ttl-secs", "120"], &argv).expect("ask");
        deployment.checkpoint().1 > cosigned
    }));
    assert!(deployment.audit_leaves().len() > before);
    deployment.witnessed_by(&[&witness]);
    deployment.wait_ready();
    deployment.admin(&["witnesses", "reinstate", "w1", "--reason", "asked again"]).expect("reinstate");
    deployment.wait_not_ready();
    let alarm = deployment.admin(&["witnesses", "--json"]).expect("witnesses");
    assert!(alarm.contains("\"kind\": \"forked\""), "{alarm}");
    deployment.ask("forged", &["--ttl-secs", "120"], &argv).refused("witness-conflict");
    let kept = std::fs::read_dir(witness.state())
        .unwrap()
        .any(|entry| entry.unwrap().file_name().to_str().unwrap().contains("evidence"));
    assert!(kept, "the witness keeps what it was shown");
}

fn metrics(deployment: &Deployment) -> Command {
    let profile = std::fs::read_to_string(deployment.path("authority/admin.toml")).unwrap();
    let url =
        profile.lines().find_map(|line| line.strip_prefix("url = ")).unwrap().trim_matches('"').to_owned();
    let mut curl = Command::new("curl");
    curl.args(["-sSf", "--max-time", "30", "--cacert", &deployment.text("authority/ca.pem")])
        .args([
            "--cert",
            &deployment.text("authority/admin.pem"),
            "--key",
            &deployment.text("authority/admin.key"),
        ])
        .arg(format!("{url}/metrics"));
    curl
}

#[test]
fn a_witness_killed_at_any_moment_never_contradicts_itself() {
    let mut deployment = Deployment::ready(SignerKind::Pkcs11);
    let program = Program::new();
    let argv = [program.path(), &program.canary()];
    let mut witness = WitnessProcess::start(&deployment, "w1");
    deployment.witnessed_by(&[&witness]);
    deployment.wait_ready();
    let mut seen = 0;
    for round in 0..12 {
        // Heads are made and shown while the witness goes away at whatever it is doing.
        deployment.ask("artifact", &["--ttl-secs", "120"], &argv).expect("ask");
        if round % 3 == 2 {
            seen = wait_cosigned(&deployment, size_of(&deployment.path("artifact")), &[&witness]).1;
        }
        witness.kill();
        witness.restart();
    }
    deployment.ask("last", &["--ttl-secs", "120"], &argv).expect("ask");
    let (_, size) = wait_cosigned(&deployment, size_of(&deployment.path("last")), &[&witness]);
    assert!(size > seen && deployment.is_ready());
    let quorum = deployment.text("quorum");
    deployment.stop_authority();
    let (store, bundle) =
        (deployment.text("authority/log.sqlite"), deployment.text("authority/trust-bundle.json"));
    let mut audit = deployment.countersign();
    audit.args(["audit", "verify", "--store", &store, "--trust-bundle", &bundle, "--quorum-file", &quorum]);
    Ran::of(&mut audit).expect("audit");
}
