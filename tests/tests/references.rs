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
