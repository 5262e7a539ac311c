//! What operators ask of hosts and reference values before they act: how a host stands and why, how it differs, what would break.

use countersign_tests::{Deployment, Ran, SignerKind};

#[test]
fn operators_see_why_a_host_stands_how_it_differs_and_what_would_break() {
    let mut deployment = Deployment::ready(SignerKind::Pkcs11);
    let host = deployment.host();
    // Its state was last told before there were reference values; a decision tells it anew.
    deployment.ask("artifact", &[], &["/bin/true"]).expect("artifact");
    let shown = deployment.admin(&["hosts", &host]).expect("host");
    for words in ["affirming", "ek-certificate", "match a reference set", "trusted until"] {
        assert!(shown.contains(words), "{words}: {shown}");
    }
    let diff = deployment.admin(&["references", "diff", &host]).expect("diff");
    assert!(diff.starts_with("agrees with set fleet, generation 1 of 1"), "{diff}");

    // The active document changes nothing; one with another kernel would break the host.
    let active = deployment.admin(&["references", "show"]).expect("show");
    let file = deployment.text("candidate.json");
    std::fs::write(&file, &active).unwrap();
    let checked = deployment.admin(&["references", "check", &file]).expect("check");
    assert!(checked.contains("stays accepted") && checked.contains("1 stays accepted"), "{checked}");
    let mut other: serde_json::Value = serde_json::from_str(&active).unwrap();
    other["fleet"][0]["pcrs"]["9"] = "ab".repeat(32).into();
    std::fs::write(&file, other.to_string()).unwrap();
    let checked = deployment.admin(&["references", "check", &file]);
    checked.refused("reference-mismatch");
    assert!(checked.out.contains("would break"), "{checked:#?}");
    let diff = deployment.admin(&["references", "diff", &host, "--file", &file]).expect("diff");
    assert!(diff.contains("PCR 9") && diff.contains("kernel, initrd"), "{diff}");
    assert!(diff.contains(&"ab".repeat(32)) && diff.contains("1 of "), "{diff}");

    // The host boots something else, honestly logged.
    deployment.stop_agent();
    deployment.reboot_host(2);
    deployment.start_agent();
    let mut why = serde_json::Value::Null;
    let told = countersign_fixture::wait_until(std::time::Duration::from_secs(60), || {
        let shown = deployment.admin(&["hosts", &host, "--json"]).expect("host");
        why = serde_json::from_str(&shown).unwrap();
        why[0]["tier"] == "contraindicated"
    });
    assert!(told, "{why}");
    assert_eq!(why[0]["reason"], "its registers match no active reference set");
    assert!(why[0]["state_age_ms"].as_u64().unwrap() < 600_000, "{why}");
    let captured = deployment.admin(&["references", "capture", &host, "--set", "fleet", "--append"]);
    std::fs::write(&file, captured.expect("capture")).unwrap();
    let checked = deployment.admin(&["references", "check", &file]).expect("check");
    assert!(checked.contains("1 would be accepted"), "{checked}");
    deployment.admin(&["revoke", "host", &host, "--reason", "test"]).expect("revoke");
    let shown = deployment.admin(&["hosts", &host]).expect("host");
    assert!(shown.contains("an operator revoked it"), "{shown}");
    // What was found of it before is worth nothing now, and isn't shown as if it were.
    for shown in [shown, deployment.admin(&["hosts"]).expect("hosts")] {
        assert!(
            shown.contains("revoked") && !shown.contains("affirming") && !shown.contains("contraindicated"),
            "{shown}"
        );
    }
}

/// Boots the host into what the simulator makes of these arguments, and waits until the authority knows of it.
fn rebooted_into(deployment: &mut Deployment, host: &str, args: &[&str]) {
    let resets = |deployment: &Deployment| {
        let shown = deployment.admin(&["hosts", host, "--json"]).expect("host");
        let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
        shown[0]["reset_count"].clone()
    };
    let before = resets(deployment);
    deployment.stop_agent();
    deployment.reboot_host_into(args);
    deployment.start_agent();
    let told =
        countersign_fixture::wait_until(std::time::Duration::from_secs(60), || resets(deployment) != before);
    assert!(told, "{}", deployment.authority_log());
}

fn diff_json(deployment: &Deployment, host: &str, args: &[&str]) -> serde_json::Value {
    let out = deployment.admin(&[&["references", "diff", host, "--json"], args].concat()).expect("diff");
    serde_json::from_str(&out).unwrap()
}

const LINE: &str = "/vmlinuz root=/dev/vda1 ro quiet";

#[test]
fn a_diff_names_what_changed_and_nothing_else() {
    let mut deployment = Deployment::ready(SignerKind::Pkcs11);
    let host = deployment.host();
    let active = deployment.admin(&["references", "show"]).expect("show");
    let active: serde_json::Value = serde_json::from_str(&active).unwrap();
    assert_eq!(active["fleet"][0]["evidence"].as_str().unwrap().len(), 64, "{active}");

    // Another kernel command line, and another build of the boot loader at the same place.
    rebooted_into(&mut deployment, &host, &["1", "/vmlinuz root=/dev/vda1 ro quiet iommu=off", "2"]);
    let diff = deployment.admin(&["references", "diff", &host]).expect("diff");
    let told: Vec<&str> =
        diff.lines().filter(|line| line.starts_with("  PCR ") && line.contains(": ")).collect();
    let [loader, line] = told[..] else { panic!("{diff}") };
    assert!(loader.starts_with("  PCR 4: boot loader changed: \\EFI\\sim\\shimx64.efi sha256 "), "{diff}");
    assert!(loader.contains(".. -> "), "{diff}");
    let expect = format!("  PCR 8: command line changed: \"{LINE}\" -> \"{LINE} iommu=off\"");
    assert_eq!(line, expect, "{diff}");
    assert!(diff.contains("2 of ") && diff.contains("registers differ"), "{diff}");
    let json = diff_json(&deployment, &host, &[]);
    let boot = &json[0]["boot"];
    assert_eq!(
        (&boot["reference_log"], &boot["host_log"]),
        (&"explains".into(), &"explains".into()),
        "{json}"
    );
    let changes = boot["changes"].as_array().unwrap();
    assert_eq!(changes.len(), 2, "{json}");
    assert_eq!((&changes[0]["pcr"], &changes[0]["subject"]), (&4.into(), &"boot-loader".into()), "{json}");
    assert_eq!(changes[0]["name_proven"], false, "{json}");
    assert_eq!(changes[0]["reference"]["digest"].as_str().unwrap().len(), 64, "{json}");
    assert_eq!((&changes[1]["subject"], &changes[1]["change"]), (&"command-line".into(), &"changed".into()));
    assert_eq!(changes[1]["reference"]["text"], LINE, "{json}");
    assert_eq!(boot["facts"][0]["fact"], "command-line", "{json}");
    // The host is refused now; were it as before, this would be the reason why it breaks.
    let captured = deployment.admin(&["references", "capture", &host, "--set", "fleet", "--activate"]);
    captured.expect("capture");
    let file = deployment.text("before.json");
    std::fs::write(&file, active.to_string()).unwrap();
    let checked = deployment.admin(&["references", "check", &file]);
    checked.refused("reference-mismatch");
    assert!(checked.out.contains(&format!("{host}: PCR 4: boot loader changed: ")), "{checked:#?}");
    assert!(checked.out.contains("; and 1 more"), "{checked:#?}");
}

#[test]
fn a_hostile_log_prints_nothing_raw_and_a_log_that_is_gone_is_told() {
    let mut deployment = Deployment::ready(SignerKind::Pkcs11);
    let host = deployment.host();
    let path = "\\EFI\\\u{1b}[2J\u{1b}]0;owned\u{7}\n\u{202e}x.efi";
    let line = "/vmlinuz \u{9b}31m\" -> \"fine";
    rebooted_into(&mut deployment, &host, &["1", line, "3", path]);
    for args in [&["references", "diff", &host][..], &["references", "diff", &host, "--json"]] {
        let diff = deployment.admin(args).expect("diff");
        assert!(!diff.chars().any(|one| one != '\n' && (one.is_control() || one == '\u{202e}')), "{diff:?}");
        assert!(diff.contains("u{1b}[2J") && diff.contains("u{9b}31m"), "{diff}");
    }
    let diff = deployment.admin(&["references", "diff", &host]).expect("diff");
    assert!(diff.contains("'\\EFI\\\\u{1b}[2J\\u{1b}]0;owned\\u{7}\\u{a}\\u{202e}x.efi' "), "{diff}");
    assert!(diff.contains("\"/vmlinuz \\u{9b}31m\\u{22} -> \\u{22}fine\""), "{diff}");

    // Without a word of where it was captured the host's own events of these registers are told.
    let active = deployment.admin(&["references", "show"]).expect("show");
    let mut file: serde_json::Value = serde_json::from_str(&active).unwrap();
    let evidence = file["fleet"][0].as_object_mut().unwrap().remove("evidence").unwrap();
    let name = deployment.text("unnamed.json");
    std::fs::write(&name, file.to_string()).unwrap();
    let unnamed = deployment.admin(&["references", "diff", &host, "--file", &name]).expect("diff");
    assert!(unnamed.contains("doesn't say what evidence it was captured from"), "{unnamed}");
    assert!(
        unnamed.contains("PCR 8: command line: ") && unnamed.contains("PCR 4: boot loader: "),
        "{unnamed}"
    );
    assert!(unnamed.contains("PCR 4  ") && !unnamed.contains(" changed: "), "{unnamed}");
    // Evidence of another boot doesn't stand for these values.
    let shown = deployment.admin(&["hosts", &host, "--json"]).expect("host");
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    file["fleet"][0]["evidence"] = shown[0]["evidence"].clone();
    std::fs::write(&name, file.to_string()).unwrap();
    let json = diff_json(&deployment, &host, &["--file", &name]);
    assert_eq!(json[0]["boot"]["reference_log"], "other-values", "{json}");
    assert_eq!(json[0]["boot"]["changes"], serde_json::json!([]), "{json}");
    file["fleet"][0]["evidence"] = "ab".repeat(32).into();
    std::fs::write(&name, file.to_string()).unwrap();
    assert_eq!(diff_json(&deployment, &host, &["--file", &name])[0]["boot"]["reference_log"], "missing");

    // While these references are in force their log stays; when others are, it goes.
    let prune = || {
        let mut command = std::process::Command::new(countersign_tests::tool("prune-now"));
        Ran::of(command.arg(deployment.text("authority/authority.toml"))).expect("prune");
    };
    file["fleet"][0]["evidence"] = evidence;
    std::fs::write(&name, file.to_string()).unwrap();
    prune();
    let kept = diff_json(&deployment, &host, &["--file", &name]);
    assert_eq!(kept[0]["boot"]["reference_log"], "explains", "{kept}");
    deployment.admin(&["references", "capture", &host, "--set", "fleet", "--activate"]).expect("capture");
    prune();
    let gone = diff_json(&deployment, &host, &["--file", &name]);
    assert_eq!(gone[0]["boot"]["reference_log"], "pruned", "{gone}");
    let gone = deployment.admin(&["references", "diff", &host, "--file", &name]).expect("diff");
    assert!(gone.contains("the boot log of the reference values was pruned"), "{gone}");
    assert!(
        gone.contains("PCR 8: command line: ") && gone.contains("PCR 8  commands of the boot loader"),
        "{gone}"
    );
}

#[test]
fn operators_see_what_a_policy_would_break() {
    let mut deployment = Deployment::ready(SignerKind::Pkcs11);
    let demo = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/policy/demo");
    let folder = deployment.path("candidate");
    std::fs::create_dir(&folder).unwrap();
    std::fs::copy(demo.join("settings.toml"), folder.join("settings.toml")).unwrap();
    let check = |policy: &str| {
        std::fs::write(folder.join("one.cedar"), policy).unwrap();
        deployment.admin(&["policy", "check", &folder.display().to_string()])
    };
    let checked = check("permit (principal, action, resource);").expect("check");
    assert!(
        checked.contains("attestation") && checked.contains("1 stays accepted"),
        "the host attested and asked for nothing: {checked}"
    );
    deployment.ask("artifact", &[], &["/bin/true"]).expect("artifact");
    let checked = check("permit (principal, action, resource);").expect("check");
    assert!(checked.contains("stays accepted"), "{checked}");
    let checked = check("forbid (principal, action, resource);");
    checked.refused("policy-denied");
    assert!(checked.out.contains("would break") && checked.out.contains("allow"), "{checked:#?}");
    // Nothing was put into force.
    deployment.ask("another", &[], &["/bin/true"]).expect("artifact");
    let shown =
        Ran::of(deployment.countersign().args(["artifact", "show", "--json", &deployment.text("another")]));
    let shown: serde_json::Value = serde_json::from_str(&shown.expect("artifact show")).unwrap();
    assert!(
        shown["index"].is_u64() && shown["included"] == true && shown["head_signed"].is_null(),
        "{shown}"
    );
    assert!(shown["policies"].is_array() && shown["host-asserted"].is_array(), "{shown}");

    // A gateway that can't reach the authority runs on its lease, and says so.
    assert_eq!(deployment.exec("another", &["/bin/true"]).err, "");
    deployment.stop_authority();
    let ran = deployment.exec("another", &["/bin/true"]);
    assert!(ran.status == Some(0) && ran.err.contains("until the lease ends"), "{ran:#?}");
}

#[test]
fn the_bundled_manufacturers_are_listed_without_an_authority() {
    let ran = |args: &[&str]| {
        let mut command = countersign_tests::countersign();
        countersign_tests::Ran::of(command.args(["admin", "ek-roots"]).args(args))
    };
    let roots = ran(&[]).expect("ek-roots");
    for words in ["STMicroelectronics", "Infineon", "Nuvoton", "Intel", "AMD", "BSD-3-Clause", "anchor"] {
        assert!(roots.contains(words), "{words}: {roots}");
    }
    assert!(!roots.contains("intermediate "), "{roots}");
    let intel = ran(&["--vendor", "Intel", "--all", "--json"]).expect("ek-roots");
    let intel: serde_json::Value = serde_json::from_str(&intel).unwrap();
    assert_eq!(intel.as_array().unwrap().len(), 5);
    assert!(intel.as_array().unwrap().iter().all(|one| one["commit"].as_str().unwrap().len() == 40));
    assert_eq!(ran(&["--vendor", "Nobody"]).status, Some(2));
}
