//! A host whose maker named it: a key and a certificate in its TPM, from provisioning to an artifact that only such machines get, and back by an auditor.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use countersign_core::artifact::Receipt;
use countersign_tests::{Deployment, Maker, Program, Ran, SignerKind};
use rcgen::{DistinguishedName, DnType, date_time_ymd};
use serde_json::Value;
use std::path::Path;
use std::process::Command;

const HANDLE: &str = "0x81020000";
const NV_INDEX: &str = "0x01c90000";
/// Policy of the TCG's template for keys with SHA-256. TPM 2.0 Keys for Device Identity and Attestation, 7.3.6.6.
const POLICY: &str = "ad6b3a2284fd698a0710bf5cc1b9bdf15e2532e3f601fa4b93a6a8fa8de579ea";

/// A certificate that names the machine.
fn name(maker: &Maker, point: &[u8], serial: &str) -> Vec<u8> {
    maker.certify(point, |params| {
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CustomDnType(vec![2, 5, 4, 5]), serial);
        params.not_after = date_time_ymd(9999, 12, 31);
    })
}

/// What the maker does: a key by the TCG's template that stays, and its point.
fn provision(deployment: &Deployment) -> Vec<u8> {
    let (context, public, policy) =
        (deployment.text("idevid.ctx"), deployment.text("idevid.der"), deployment.text("idevid.policy"));
    std::fs::write(&policy, data_encoding::HEXLOWER.decode(POLICY.as_bytes()).unwrap()).unwrap();
    let attributes = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|adminwithpolicy|sign";
    let key = ["-C", "e", "-g", "sha256", "-G", "ecc256:ecdsa-sha256:null", "-a", attributes, "-L", &policy];
    let tpm = &deployment.tpm;
    tpm.tpm2("tpm2_createprimary", &[&key[..], &["-c", &context]].concat());
    tpm.tpm2("tpm2_evictcontrol", &["-C", "o", "-c", &context, HANDLE]);
    tpm.tpm2("tpm2_flushcontext", &["-t"]);
    tpm.tpm2("tpm2_readpublic", &["-c", HANDLE, "-f", "der", "-o", &public]);
    let spki = std::fs::read(public).unwrap();
    spki[spki.len() - 65..].to_vec()
}

/// Certificates in the NV index, the rest of it filled up.
fn write_nv(deployment: &Deployment, certificates: &[&[u8]]) {
    let file = deployment.text("nv");
    let bytes = [&certificates.concat()[..], &[0xff; 60]].concat();
    std::fs::write(&file, &bytes).unwrap();
    let (tpm, size) = (&deployment.tpm, bytes.len().to_string());
    let attributes = "ownerread|authread|ownerwrite|no_da";
    tpm.tpm2("tpm2_nvdefine", &["-C", "o", "-s", &size, "-a", attributes, NV_INDEX]);
    tpm.tpm2("tpm2_nvwrite", &["-C", "o", "-i", &file, NV_INDEX]);
}

fn trusting(maker: &Maker) -> Deployment {
    let mut deployment = Deployment::bare(SignerKind::Pkcs11);
    deployment.stop_authority();
    std::fs::write(deployment.path("machines.pem"), &maker.root_pem).unwrap();
    let config = deployment.path("authority/authority.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    let roots = format!("idevid_roots = [{:?}]", deployment.text("machines.pem"));
    assert!(text.contains("idevid_roots = []"), "{text}");
    std::fs::write(config, text.replace("idevid_roots = []", &roots)).unwrap();
    deployment.start_authority();
    deployment
}

fn configure(deployment: &Deployment, before: &str, lines: &str) {
    let section = if lines.is_empty() { String::new() } else { format!("\n[idevid]\n{lines}\n") };
    std::fs::write(deployment.path("agent.toml"), format!("{before}{section}")).unwrap();
}

fn host(deployment: &Deployment) -> Value {
    let out = deployment.admin(&["hosts", &deployment.host(), "--json"]).expect("host");
    serde_json::from_str::<Value>(&out).unwrap()[0].clone()
}

fn renew(deployment: &Deployment) -> Ran {
    Ran::of(deployment.countersign().args(["agent", "enrol", "--config", &deployment.text("agent.toml")]))
}

/// The demo's policy, and that the machine is one of these.
fn demand(deployment: &Deployment, serial: &str) {
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/policy/demo");
    let folder = deployment.path("policy");
    std::fs::create_dir_all(&folder).unwrap();
    for name in ["programs.cedar", "settings.toml"] {
        std::fs::copy(demo.join(name), folder.join(name)).unwrap();
    }
    let rule = format!(
        "@id(\"our-machines\") forbid (principal, action, resource) unless {{ context.endorsement has device && \
         context.endorsement.device has serial && context.endorsement.device.serial == \"{serial}\" }};\n"
    );
    std::fs::write(folder.join("machines.cedar"), rule).unwrap();
    deployment.admin(&["policy", "activate", &folder.display().to_string()]).expect("policy");
}

/// What the agent itself finds missing or unfit, before anything is sent.
fn unfit(deployment: &Deployment, config: &str) {
    let says = |lines: &str, text: &str| {
        configure(deployment, config, lines);
        let ran = deployment.enrol();
        assert!(ran.status != Some(0) && ran.err.contains(text), "{lines}: {ran:#?}");
    };
    let nv = format!("certificate_nv_index = {NV_INDEX}");
    says(&format!("handle = 0x81020009\n{nv}"), "no key at 0x81020009");
    // The endorsement key, which signs nothing.
    says(&format!("handle = 0x81010001\n{nv}"), "configured IDevID key can't be used");
    says(
        &format!("handle = {HANDLE}\ncertificate_nv_index = 0x01c90005"),
        "no certificate in NV index 0x01c90005",
    );
    says(&format!("handle = {HANDLE}\ncertificate = \"/nonexistent.pem\""), "/nonexistent.pem");
    assert!(deployment.admin(&["hosts", "--json"]).expect("hosts").trim() == "[]");
}

fn audited(deployment: &Deployment, artifact: &str, device: &[u8]) {
    deployment.audit("verify").expect("audit verify");
    deployment.audit("replay").expect("audit replay");
    let (store, trust) =
        (deployment.text("authority/log.sqlite"), deployment.text("authority/trust-bundle.json"));
    let mut walk = deployment.countersign();
    walk.args(["audit", "walk", "--store", &store, "--trust-bundle", &trust, "--json", "--artifact"]);
    let receipt = Receipt::parse(&std::fs::read_to_string(deployment.path(artifact)).unwrap()).unwrap();
    let walked: Value =
        serde_json::from_str(&Ran::of(walk.arg(receipt.leaf().index.to_string())).out).unwrap();
    let digest = countersign_core::digest::sha256(device).to_hex();
    for what in ["device certificate", "device key"] {
        let step = walked["steps"].as_array().unwrap().iter().find(|step| step["what"] == what).unwrap();
        assert_eq!(step["standing"], "here", "{walked:#}");
        assert!(what == "device key" || step.to_string().contains(&digest), "{step}");
    }
    // Another implementation reads the leaf, too.
    let bundle = deployment.text("evidence.json");
    let mut made = deployment.countersign();
    made.args(["audit", "bundle", "--store", &store, "--trust-bundle", &trust, "--out", &bundle]);
    Ran::of(made.arg(deployment.path(artifact))).expect("bundle");
    let mut second = Command::new("/usr/bin/python3");
    second.env("PYTHONDONTWRITEBYTECODE", "1");
    second.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/verifier"));
    second.args(["-m", "countersign_verifier", "verify-bundle", "--trust-bundle", &trust, &bundle]);
    Ran::of(&mut second).expect("the second implementation");
}

#[test]
fn a_machine_that_its_maker_named_gets_what_others_do_not() {
    let maker = Maker::new();
    let mut deployment = trusting(&maker);
    let config = std::fs::read_to_string(deployment.path("agent.toml")).unwrap();
    let point = provision(&deployment);
    let device = name(&maker, &point, "SN-0001");
    write_nv(&deployment, &[&device, &maker.plant_der]);
    unfit(&deployment, &config);

    let lines = format!("handle = {HANDLE}\ncertificate_nv_index = {NV_INDEX}");
    configure(&deployment, &config, &lines);
    deployment.enrol().expect("enrol");
    let shown = host(&deployment);
    assert_eq!(
        (&shown["device"]["serial"], &shown["endorsement"]),
        (&"SN-0001".into(), &"ek-certificate".into())
    );
    let printed = deployment.admin(&["hosts", &deployment.host()]).expect("host");
    assert!(printed.contains("serial number SN-0001"), "{printed}");
    deployment.start_agent();
    let id = deployment.host();
    deployment.admin(&["references", "capture", &id, "--set", "fleet", "--activate"]).expect("references");
    demand(&deployment, "SN-0001");
    deployment.add_gateway(30);
    deployment.wait_ready();
    let program = Program::new();
    let canary = program.canary();
    let argv = [program.path(), &canary];
    deployment.ask("good", &[], &argv).expect("artifact");
    deployment.exec("good", &argv).expect("run");
    assert_eq!(program.runs(), 1);

    // After a power cut it is the same machine, which renews without a token.
    deployment.stop_agent();
    deployment.reboot_host(1);
    assert!(renew(&deployment).expect("renew without a token").contains(&id));
    // Root takes the section out of the file: nothing is enrolled, and what was stands.
    let leaf = host(&deployment)["enrolment"].clone();
    configure(&deployment, &config, "");
    renew(&deployment).refused("idevid-changed");
    assert_eq!(host(&deployment)["enrolment"], leaf);
    configure(&deployment, &config, &lines);
    deployment.start_agent();
    deployment.ask("again", &[], &argv).expect("artifact after a reboot");
    demand(&deployment, "SN-0002");
    deployment.ask("other", &[], &argv).refused("policy-denied");
    deployment.stop_agent();
    deployment.stop_authority();
    audited(&deployment, "good", &device);
}
