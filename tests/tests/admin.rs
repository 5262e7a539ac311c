//! The operators' command line against a real authority: roles, documents that don't hold, tokens and second hosts, output for programs.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use countersign_fixture::SwTpm;
use countersign_tests::{Deployment, Ran, SignerKind};
use serde_json::Value;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

/// Adds an operator, whose profile comes to lie beside the first one's; returns the thumbprint of its key.
fn add_operator(deployment: &Deployment, name: &str, role: &str) -> String {
    let out = deployment.admin(&[
        "--json",
        "operator",
        "--name",
        name,
        "--role",
        role,
        "--out",
        &deployment.text("authority"),
    ]);
    let issued: Value = serde_json::from_str(&out.expect("operator")).unwrap();
    issued["thumbprint"].as_str().unwrap().to_owned()
}

/// Runs an admin command as this operator.
fn admin_as(deployment: &Deployment, name: &str, args: &[&str]) -> Ran {
    let profile = deployment.text(&format!("authority/{name}.toml"));
    Ran::of(deployment.countersign().args(["admin", "--profile", &profile]).args(args))
}

fn demo_policy() -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/policy/demo").display().to_string()
}

#[test]
fn a_role_permits_what_is_its_own_and_nothing_else() {
    let deployment = Deployment::bare(SignerKind::Pkcs11);
    let policy = demo_policy();
    let viewer = add_operator(&deployment, "viewer", "viewer");
    add_operator(&deployment, "operator", "operator");

    admin_as(&deployment, "viewer", &["hosts"]).expect("a viewer looks");
    admin_as(&deployment, "viewer", &["join-token"]).refused("forbidden");
    admin_as(&deployment, "viewer", &["policy", "activate", &policy]).refused("forbidden");
    admin_as(&deployment, "viewer", &["keys", "rotate", "--label", "mine"]).refused("forbidden");

    admin_as(&deployment, "operator", &["join-token"]).expect("an operator enrols hosts");
    admin_as(&deployment, "operator", &["policy", "activate", &policy]).refused("forbidden");
    let promote = ["operator", "--name", "friend", "--role", "security-officer", "--out"];
    let out = deployment.text("authority");
    admin_as(&deployment, "operator", &[&promote[..], &[&out]].concat()).refused("forbidden");

    // Revoked is revoked at the very next call.
    deployment.admin(&["revoke", "principal", &viewer, "--reason", "left"]).expect("revoke");
    let refused = admin_as(&deployment, "viewer", &["hosts"]);
    assert!(matches!(refused.refusal(), Some("unauthenticated" | "forbidden")), "{refused:#?}");
    let policies = deployment.admin(&["policy", "show"]).expect("policy show");
    assert_eq!(policies, "", "something became active");
}

#[test]
fn a_document_that_does_not_hold_is_refused_with_file_and_place() {
    let deployment = Deployment::bare(SignerKind::Pkcs11);
    let folder = deployment.path("policy");
    std::fs::create_dir(&folder).unwrap();
    for name in ["settings.toml", "programs.cedar"] {
        std::fs::copy(Path::new(&demo_policy()).join(name), folder.join(name)).unwrap();
    }
    let folder = folder.display().to_string();
    let write = |name: &str, text: &str| std::fs::write(Path::new(&folder).join(name), text).unwrap();

    write("broken.cedar", "permit (principal, action, resource)\nwhen { context.tier = };\n");
    let ran = deployment.admin(&["policy", "activate", &folder]);
    ran.refused("policy-invalid");
    assert!(ran.err.contains("broken") && ran.err.contains('2'), "{ran:#?}");

    write("broken.cedar", "permit (principal, action, resource) when { context.teir == \"affirming\" };\n");
    let ran = deployment.admin(&["policy", "validate", &folder]);
    ran.refused("policy-invalid");
    assert!(ran.err.contains("broken") && ran.err.contains("teir"), "{ran:#?}");

    write("broken.cedar", "forbid (principal, action, resource) when { context.ttl_secs > 600 };\n");
    let settings = std::fs::read_to_string(Path::new(&folder).join("settings.toml")).unwrap();
    write("settings.toml", &format!("{settings}\nmax_tll_secs = 3\n"));
    let ran = deployment.admin(&["policy", "activate", &folder]);
    assert_eq!(ran.status, Some(2), "{ran:#?}");
    assert!(ran.err.contains("settings.toml") && ran.err.contains("max_tll_secs"), "{ran:#?}");

    write("settings.toml", &settings);
    deployment.admin(&["policy", "activate", &folder]).expect("what holds is activated");

    std::fs::write(deployment.path("references.json"), "{\"fleet\": []}").unwrap();
    let ran = deployment.admin(&["references", "activate", &deployment.text("references.json")]);
    assert!(ran.status.is_some_and(|status| status != 0) && ran.err.contains("fleet"), "{ran:#?}");
}

/// Configures an agent for another TPM; returns its configuration file.
fn configure_agent(deployment: &Deployment, tpm: &SwTpm, name: &str) -> String {
    let issuer = deployment.text(&format!("{name}-issuer.pem"));
    std::fs::write(&issuer, tpm.ca_issuer_pem()).unwrap();
    std::fs::DirBuilder::new().mode(0o700).create(deployment.path(name)).unwrap();
    let config = std::fs::read_to_string(deployment.path("agent.toml")).unwrap();
    let mut config: toml::Table = toml::from_str(&config).unwrap();
    config.insert("tcti".to_owned(), tpm.tcti().into());
    config.insert("state_dir".to_owned(), deployment.text(name).into());
    config.insert("socket".to_owned(), deployment.text(&format!("{name}.sock")).into());
    config.insert("ek_intermediates".to_owned(), vec![issuer].into());
    let path = deployment.text(&format!("{name}.toml"));
    std::fs::write(&path, toml::to_string(&config).unwrap()).unwrap();
    path
}

#[test]
fn a_token_admits_one_host_and_another_tpm_is_another_host() {
    let deployment = Deployment::bare(SignerKind::Pkcs11);
    let make_token = || deployment.admin(&["join-token"]).expect("token").trim().to_owned();
    let enrol = |config: &str, token: &str| {
        let args = ["agent", "enrol", "--config", config, "--token", token];
        Ran::of(deployment.countersign().args(args))
    };
    let hosts = || -> Value {
        serde_json::from_str(&deployment.admin(&["hosts", "--json"]).expect("hosts")).unwrap()
    };
    let token = make_token();
    deployment.enrol_with(&token).expect("first host");

    let sibling = SwTpm::start(deployment.tpm.ca());
    let sibling_config = configure_agent(&deployment, &sibling, "sibling");
    enrol(&sibling_config, &token).refused("join-token-invalid");
    assert_eq!(hosts().as_array().unwrap().len(), 1);
    enrol(&sibling_config, &make_token()).expect("second host");
    let both = hosts();
    assert_eq!(both.as_array().unwrap().len(), 2);
    assert_ne!(both[0]["host"], both[1]["host"]);

    // A TPM whose vendor isn't trusted here gets nothing, and its token stays good for a host that is.
    let stranger = SwTpm::start_own();
    let stranger_config = configure_agent(&deployment, &stranger, "stranger");
    enrol(&stranger_config, &make_token()).refused("ek-issuer-unknown");
    assert_eq!(hosts().as_array().unwrap().len(), 2);
}

#[test]
fn what_programs_read_is_json() {
    let deployment = Deployment::ready(SignerKind::Pkcs11);
    let host = deployment.host();
    for question in [
        &["hosts"][..],
        &["hosts", &host],
        &["principals"],
        &["keys", "list"],
        &["policy", "show"],
        &["references", "show"],
        &["ima-policy", "show"],
        &["witnesses"],
        &["join-token"],
    ] {
        let out = deployment.admin(&[question, &["--json"]].concat()).expect("question");
        serde_json::from_str::<Value>(&out).unwrap_or_else(|error| panic!("{question:?}: {error}: {out}"));
        // And without the option it is for people.
        deployment.admin(question).expect("question for people");
    }
    let unknown = format!("01{}", "0".repeat(64));
    deployment.admin(&["hosts", &unknown]).refused("not-found");
    assert_eq!(deployment.admin(&["hosts", "nonsense"]).status, Some(2));
}

#[test]
fn a_profile_that_is_wrong_names_what_is_wrong() {
    let deployment = Deployment::bare(SignerKind::Pkcs11);
    let profile = deployment.path("authority/wrong.toml");
    let good = std::fs::read_to_string(deployment.path("authority/admin.toml")).unwrap();
    std::fs::write(&profile, format!("{good}\nurll = \"x\"\n")).unwrap();
    let ran = admin_as(&deployment, "wrong", &["hosts"]);
    assert!(ran.status == Some(2) && ran.err.contains("urll"), "{ran:#?}");
    let mut wrong: toml::Table = toml::from_str(&good).unwrap();
    wrong.insert("key".to_owned(), "nowhere.pem".into());
    std::fs::write(&profile, toml::to_string(&wrong).unwrap()).unwrap();
    let ran = admin_as(&deployment, "wrong", &["hosts"]);
    assert!(ran.status == Some(2) && ran.err.contains("nowhere.pem"), "{ran:#?}");
}
