//! What somebody does first, and does wrong first: names, files and keys of operators and gateways, `init` with what can't serve.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use countersign_fixture::SoftHsm;
use countersign_tests::{Deployment, Ran, SignerKind};
use std::path::Path;

/// Names in a folder, in order.
fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn principals_keep_their_keys_whatever_goes_wrong_at_first() {
    let mut deployment = Deployment::bare(SignerKind::Pkcs11);
    let log = deployment.authority_log();
    assert!(!log.contains("\"WARN\""), "a first start is nothing to warn of: {log}");
    let folder = deployment.path("principals/inner");
    std::fs::create_dir_all(&folder).unwrap();
    let out = folder.display().to_string();
    let file = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();

    // A name is part of file names, so it is judged before any file is made.
    for name in ["../evil", "", ".a/b", "white space", &"a".repeat(65)] {
        for kind in [&["gateway"][..], &["operator", "--role", "viewer"]] {
            let ran = deployment.admin(&[kind, &["--name", name, "--out", &out]].concat());
            assert!(ran.status == Some(2) && ran.err.contains("1 to 64 characters"), "{name:?}: {ran:#?}");
        }
    }
    assert_eq!((names(&folder).len(), names(&deployment.path("principals"))), (0, vec!["inner".to_owned()]));

    // An operator's files are a profile that works.
    let viewer = ["operator", "--name", "viewer", "--role", "viewer", "--out", &out];
    deployment.admin(&viewer).expect("viewer");
    let profile = folder.join("viewer.toml").display().to_string();
    let as_viewer =
        |args: &[&str]| Ran::of(deployment.countersign().args(["admin", "--profile", &profile]).args(args));
    as_viewer(&["hosts"]).expect("the profile that was written");

    // Who isn't entitled leaves no key behind, and whoever is entitled isn't in the way of itself.
    let gateway = ["gateway", "--name", "gate-2", "--out", &out];
    as_viewer(&gateway).refused("forbidden");
    assert_eq!(names(&folder), ["trust-bundle.json", "viewer.cert.pem", "viewer.key.pem", "viewer.toml"]);

    // The authority is away, and may have heard of the key all the same: it stays and is taken the next time.
    deployment.stop_authority();
    deployment.admin(&gateway).refused("authority-unreachable");
    let ran = deployment.enrol_with("a-token");
    ran.refused("authority-unreachable");
    assert_eq!(ran.status, Some(3), "it may pass: {ran:#?}");
    let key = file("gate-2.key.pem");
    deployment.start_authority();
    deployment.admin(&gateway).expect("gateway");
    assert_eq!(file("gate-2.key.pem"), key);

    // Renewal is for the key that is there, and says so.
    let before = file("gate-2.cert.pem");
    let ran = deployment.admin(&gateway);
    assert!(ran.status == Some(2) && ran.err.contains("--key"), "{ran:#?}");
    let key_file = folder.join("gate-2.key.pem").display().to_string();
    deployment.admin(&[&gateway[..], &["--key", &key_file]].concat()).expect("renewed");
    assert_ne!(file("gate-2.cert.pem"), before);
    assert_eq!(file("gate-2.key.pem"), key);
    let key_file = folder.join("viewer.key.pem").display().to_string();
    deployment.admin(&[&viewer[..], &["--key", &key_file]].concat()).expect("renewed");
    Ran::of(deployment.countersign().args(["admin", "--profile", &profile, "hosts"])).expect("still good");

    // No profile of somebody else is written over, nor the authority's configuration.
    for name in ["admin", "authority"] {
        let path = deployment.path(&format!("authority/{name}.toml"));
        let before = std::fs::read(&path).unwrap();
        let out = deployment.text("authority");
        let ran = deployment.admin(&["operator", "--name", name, "--role", "viewer", "--out", &out]);
        assert!(ran.status == Some(2) && ran.err.contains("is something else"), "{ran:#?}");
        assert_eq!(std::fs::read(&path).unwrap(), before);
        assert!(!deployment.path(&format!("authority/{name}.key.pem")).exists());
    }
}

#[test]
fn init_says_at_once_what_could_never_serve() {
    let hsm = SoftHsm::new();
    hsm.init_token("authority", "1234", "1234");
    hsm.init_token("recovery", "1234", "1234");
    let folder = tempfile::tempdir().unwrap();
    let text = |name: &str| folder.path().join(name).display().to_string();
    let pin = text("pin");
    std::fs::write(&pin, "1234").unwrap();
    std::fs::set_permissions(&pin, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let init = |dir: &str, more: &[&str]| {
        let mut command = countersign_tests::countersign();
        let (name, value) = hsm.env();
        command.env(name, value).args([
            "authority",
            "init",
            "--dir",
            &text(dir),
            "--trust-domain",
            "a.example",
        ]);
        command.args(["--pkcs11-module", &SoftHsm::module().display().to_string()]);
        command.args(["--pin-file", &pin, "--recovery-pin-file", &pin, "--recovery-token", "recovery"]);
        Ran::of(command.args(more))
    };
    let good = ["--origin", "a.example/log", "--token", "authority"];
    let check = |more: &[&str], expect: &str| {
        let ran = init("a", more);
        assert!(ran.status == Some(2) && ran.err.contains(expect), "{expect}: {ran:#?}");
        // Each of them would otherwise have left keys in the tokens.
        assert!(!ran.err.contains("signer-key-exists"), "{ran:#?}");
    };
    check(
        &["--origin", "https://a.example/log", "--token", "authority"],
        "without https://, as in a.example/log",
    );
    check(&["--origin", "a.example/log", "--token", "recovery"], "a token of its own");
    check(&[&good[..], &["--server-name", "not a name!"]].concat(), "server_names: ");
    check(&[&good[..], &["--ek-vendor", "NoSuch"]].concat(), "NoSuch");
    check(&[&good[..], &["--ek-root", "/nowhere/roots.pem"]].concat(), "/nowhere/roots.pem");

    // A name for hosts, every address for operators: the profile leads to this machine, and the certificate is good there.
    let elsewhere = ["--server-name", "authority.example", "--admin-listen", "0.0.0.0:8444"];
    let made = init("a", &[&good[..], &elsewhere].concat());
    assert!(made.err.contains("warning: no host can enrol"), "{made:#?}");
    let out = made.expect("init");
    let bundle = std::fs::read(folder.path().join("a/trust-bundle.json")).unwrap();
    let digest = countersign_core::digest::sha256(&bundle).to_hex();
    assert!(out.contains(&digest) && out.contains("authority serve --config"), "{out}");
    let profile = std::fs::read_to_string(folder.path().join("a/admin.toml")).unwrap();
    assert!(profile.contains("https://127.0.0.1:8444"), "{profile}");
    let again = init("b", &good);
    assert!(again.status == Some(2) && again.err.contains("Use another token"), "{again:#?}");
}

#[test]
fn a_mistake_on_the_command_line_is_told_with_the_way_out() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out").display().to_string();
    let key = folder.path().join("key.pem").display().to_string();
    let ran = |args: &[&str]| Ran::of(countersign_tests::countersign().current_dir(folder.path()).args(args));
    ran(&["holder", "keygen", &key]).expect("holder key");
    let request =
        ["artifact", "request", "--holder-key", &key, "--audience", "a", "--out", &out, "--", "echo", "hi"];
    for (args, expect) in [
        (&["admin", "hosts"][..], "--profile or COUNTERSIGN_PROFILE"),
        (&["admin", "ima-policy", "import", "--out", &out][..], "--checksums"),
        (&["audit", "replay", "--trust-bundle", &out][..], "--config"),
        (&request[..], "PATH isn't searched"),
    ] {
        let ran = ran(args);
        assert!(ran.status == Some(2) && ran.err.contains(expect), "{expect}: {ran:#?}");
        let once = ran.err.matches("No such file").count();
        assert!(once <= 1, "told {once} times: {ran:#?}");
    }
    assert!(!Path::new(&out).exists(), "an empty policy was written");
    let roots = ran(&["admin", "ek-roots"]).expect("ek-roots");
    assert!(roots.contains("no end") && !roots.contains("253402"), "{roots}");
}
