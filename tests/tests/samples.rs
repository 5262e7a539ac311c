//! The samples under `deploy/` are taken by the programs that they are for, and units and pages name the same things.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use countersign_authority::config::Config;
use countersign_authority::serve::endorsement::Endorsements;
use std::path::Path;

fn sample(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/config").join(name))
        .unwrap()
}

#[test]
fn the_agents() {
    countersign_agent::Config::parse(&sample("agent.toml")).unwrap();
}

#[test]
fn the_gateways() {
    countersign_gateway::config::GatewayConfig::parse(&sample("gateway.toml")).unwrap();
}

/// The text of a file of the repository.
fn text(path: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    std::fs::read_to_string(root.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

#[test]
fn the_authoritys() {
    let config =
        Config::parse(Path::new("/etc/countersign/authority.toml"), &sample("authority.toml")).unwrap();
    Endorsements::load(&config.enrolment).unwrap();
}

/// Values of a key in a unit, in order.
fn values<'a>(unit: &'a str, key: &str) -> Vec<&'a str> {
    unit.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('=')).collect()
}

#[test]
fn units_and_pages_name_the_same_program_files_and_users() {
    let (readme, operating) = (text("README.md"), text("docs/OPERATING.md"));
    let users = text("deploy/systemd/countersign.sysusers.conf");
    assert!(readme.contains("install -m 755 target/release/countersign /usr/local/bin/"));
    for (name, command, user) in [
        ("authority", "authority serve --config /var/lib/countersign/authority.toml", "countersign"),
        ("agent", "agent run --config /etc/countersign/agent.toml", "countersign-agent"),
        (
            "witness",
            "witness serve --config /var/lib/countersign-witness/witness.toml",
            "countersign-witness",
        ),
    ] {
        let unit = text(&format!("deploy/systemd/countersign-{name}.service"));
        assert_eq!(values(&unit, "ExecStart"), [format!("/usr/local/bin/countersign {command}")]);
        assert_eq!((values(&unit, "User"), values(&unit, "Group")), (vec![user], vec![user]));
        assert!(users.lines().any(|line| line.starts_with(&format!("u {user} -"))), "{user}");
        assert!(operating.contains(command.split(' ').next_back().unwrap()), "{command}");
        let page = values(&unit, "Documentation")[0];
        let installed = "install -D -m 644 -t /usr/local/share/doc/countersign docs/*.md";
        assert!(page == "file:/usr/local/share/doc/countersign/OPERATING.md" && readme.contains(installed));
    }
}

#[test]
fn the_authoritys_unit_reaches_its_tokens_and_with_the_drop_in_its_tpm() {
    let unit = text("deploy/systemd/countersign-authority.service");
    let tokens = sample("softhsm2.conf");
    let tokens = tokens.lines().find_map(|line| line.strip_prefix("directories.tokendir = ")).unwrap();
    assert_eq!(values(&unit, "ProtectSystem"), ["strict"]);
    assert_eq!(values(&unit, "ReadWritePaths"), [format!("-{tokens}")]);
    assert!(text("docs/OPERATING.md").contains(&format!("/var/lib/countersign {tokens}\n")));
    assert_eq!(values(&unit, "PrivateDevices"), ["yes"]);
    let tpm = text("deploy/systemd/countersign-authority.service.d/tpm.conf");
    assert_eq!(values(&tpm, "PrivateDevices"), ["no"]);
    assert_eq!(
        (values(&tpm, "DevicePolicy"), values(&tpm, "DeviceAllow")),
        (vec!["closed"], vec!["/dev/tpmrm0 rw"])
    );
}
