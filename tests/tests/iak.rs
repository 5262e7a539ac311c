//! A host that is known by the certificate of its attestation key: a TPM that a test PKI provisioned, and what goes wrong with such certificates.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use countersign_tests::{Deployment, Maker, Program, SignerKind};
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, date_time_ymd};
use std::path::Path;

const HANDLE: &str = "0x81020001";
const OTHER_HANDLE: &str = "0x81020002";
const NV_INDEX: &str = "0x01c90019";

/// A certificate of an attestation key, or of what the `shape` makes of it.
fn certify(maker: &Maker, point: &[u8], shape: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
    maker.certify(point, |params| {
        params.distinguished_name.push(DnType::CommonName, "machine 7");
        // tcg-kp-AIKCertificate
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Other(vec![2, 23, 133, 8, 3])];
        shape(params);
    })
}

/// What the maker of the machine does: a key that stays, and its point.
fn provision(deployment: &Deployment, handle: &str, restricted: bool) -> Vec<u8> {
    let (context, public) = (deployment.text("iak.ctx"), deployment.text("iak.der"));
    let (algorithm, kind) =
        if restricted { ("ecc256:ecdsa-sha256:null", "|restricted") } else { ("ecc256:null:null", "") };
    let attributes = format!("fixedtpm|fixedparent|sensitivedataorigin|userwithauth|sign{kind}");
    let tpm = &deployment.tpm;
    tpm.tpm2("tpm2_createprimary", &["-C", "e", "-G", algorithm, "-a", &attributes, "-c", &context]);
    tpm.tpm2("tpm2_evictcontrol", &["-C", "o", "-c", &context, handle]);
    tpm.tpm2("tpm2_flushcontext", &["-t"]);
    tpm.tpm2("tpm2_readpublic", &["-c", handle, "-f", "der", "-o", &public]);
    let spki = std::fs::read(public).unwrap();
    spki[spki.len() - 65..].to_vec()
}

/// Puts bytes into the NV index, in the place of what was there.
fn write_nv(deployment: &Deployment, bytes: &[u8], again: bool) {
    let (tpm, file) = (&deployment.tpm, deployment.text("nv"));
    std::fs::write(&file, bytes).unwrap();
    if again {
        tpm.tpm2("tpm2_nvundefine", &["-C", "o", NV_INDEX]);
    }
    let size = bytes.len().to_string();
    let attributes = "ownerread|authread|ownerwrite|no_da";
    tpm.tpm2("tpm2_nvdefine", &["-C", "o", "-s", &size, "-a", attributes, NV_INDEX]);
    tpm.tpm2("tpm2_nvwrite", &["-C", "o", "-i", &file, NV_INDEX]);
}

/// Has the agent go by this key instead of its endorsement key.
fn configure(deployment: &Deployment, before: &str, lines: &str) {
    let ours = |line: &&str| !line.starts_with("ek_profile") && !line.starts_with("ek_intermediates");
    let text = before.lines().filter(ours).collect::<Vec<_>>().join("\n");
    std::fs::write(deployment.path("agent.toml"), format!("{text}\n[iak]\n{lines}\n")).unwrap();
}

fn trusting(pki: &Maker) -> Deployment {
    let mut deployment = Deployment::bare(SignerKind::Pkcs11);
    deployment.stop_authority();
    std::fs::write(deployment.path("iak-roots.pem"), &pki.root_pem).unwrap();
    let config = deployment.path("authority/authority.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    let roots = format!("iak_roots = [{:?}]", deployment.text("iak-roots.pem"));
    assert!(text.contains("iak_roots = []"), "{text}");
    std::fs::write(config, text.replace("iak_roots = []", &roots)).unwrap();
    deployment.start_authority();
    deployment
}

fn hosts(deployment: &Deployment) -> usize {
    let out = deployment.admin(&["hosts", "--json"]).expect("hosts");
    serde_json::from_str::<serde_json::Value>(&out).unwrap().as_array().unwrap().len()
}

/// Each wrong certificate, in the file that the configuration names.
fn wrong_certificates(deployment: &Deployment, pki: &Maker, config: &str, point: &[u8], other: &[u8]) {
    let file = deployment.text("iak.pem.wrong");
    let plant = deployment.text("plant.der");
    std::fs::write(&plant, &pki.plant_der).unwrap();
    configure(
        deployment,
        config,
        &format!("handle = {HANDLE}\ncertificate = {file:?}\nintermediates = [{plant:?}]"),
    );
    let try_with = |der: Vec<u8>, code: &str| {
        std::fs::write(&file, der).unwrap();
        deployment.enrol().refused(code);
        assert_eq!(hosts(deployment), 0, "{code}");
    };
    try_with(certify(pki, other, |_| ()), "iak-key-mismatch");
    try_with(certify(&Maker::new(), point, |_| ()), "iak-certificate-invalid");
    try_with(
        certify(pki, point, |params| params.not_after = date_time_ymd(2020, 1, 1)),
        "iak-certificate-invalid",
    );
    try_with(
        certify(pki, point, |params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth]),
        "iak-certificate-invalid",
    );
    // The issuer's own certificate isn't of any TPM's key.
    try_with(pki.plant_der.clone(), "iak-certificate-invalid");
    // What isn't there or isn't a certificate is told before anything is sent.
    std::fs::remove_file(&file).unwrap();
    assert!(deployment.enrol().err.contains("iak.pem.wrong"));
    std::fs::write(&file, "-----BEGIN NOTHING-----\n").unwrap();
    assert_ne!(deployment.enrol().status, Some(0));
    assert_eq!(hosts(deployment), 0);
}

/// What the agent itself finds missing or unfit in the TPM.
fn wrong_tpm(deployment: &Deployment, config: &str) {
    let says = |lines: &str, text: &str| {
        configure(deployment, config, lines);
        let ran = deployment.enrol();
        assert!(ran.status != Some(0) && ran.err.contains(text), "{lines}: {ran:#?}");
    };
    let nv = format!("certificate_nv_index = {NV_INDEX}");
    says(&format!("handle = {HANDLE}\n{nv}"), "no certificate in NV index 0x01c90019");
    write_nv(deployment, &[0xff; 40], false);
    says(&format!("handle = {HANDLE}\n{nv}"), "certificate is malformed");
    write_nv(deployment, &[0x30, 0], true);
    says(&format!("handle = 0x81020009\n{nv}"), "no key at 0x81020009");
    // An unrestricted key would sign anything, also what only looks like a quote; the storage or endorsement key signs nothing.
    says(&format!("handle = {OTHER_HANDLE}\n{nv}"), "configured attestation key can't be used");
    says(&format!("handle = 0x81010001\n{nv}"), "configured attestation key can't be used");
    assert_eq!(hosts(deployment), 0);
}

#[test]
fn a_host_is_known_by_the_certificate_of_its_attestation_key() {
    let pki = Maker::new();
    let mut deployment = trusting(&pki);
    let by_ek = std::fs::read_to_string(deployment.path("agent.toml")).unwrap();
    let point = provision(&deployment, HANDLE, true);
    let other = provision(&deployment, OTHER_HANDLE, false);
    wrong_certificates(&deployment, &pki, &by_ek, &point, &other);
    wrong_tpm(&deployment, &by_ek);

    // The right one, with its issuer behind it in the index and the rest of that filled up.
    let chain = [certify(&pki, &point, |_| ()), pki.plant_der.clone(), vec![0xff; 60]].concat();
    write_nv(&deployment, &chain, true);
    configure(&deployment, &by_ek, &format!("handle = {HANDLE}\ncertificate_nv_index = {NV_INDEX}"));
    deployment.enrol().expect("enrol");
    assert_eq!(hosts(&deployment), 1);
    let host = deployment.host();
    deployment.start_agent();
    deployment.admin(&["references", "capture", &host, "--set", "fleet", "--activate"]).expect("references");
    let policy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/policy/demo");
    deployment.admin(&["policy", "activate", &policy.display().to_string()]).expect("policy");
    deployment.add_gateway(30);
    deployment.wait_ready();
    let program = Program::new();
    let canary = program.canary();
    let argv = [program.path(), &canary];
    deployment.ask("good", &[], &argv).expect("artifact");
    deployment.exec("good", &argv).expect("run");
    assert_eq!(program.runs(), 1);

    // After a power cut the same key is there, and the same host; its certificate is renewed without a token.
    deployment.stop_agent();
    deployment.reboot_host(1);
    assert!(deployment.enrol_with("").expect("renew without a token").contains(&host));
    deployment.start_agent();
    deployment.ask("again", &[], &argv).expect("artifact after a reboot");
    deployment.stop_agent();

    // The same TPM by its endorsement key is another host, and its keys aren't mixed up.
    std::fs::write(deployment.path("agent.toml"), &by_ek).unwrap();
    deployment.enrol().expect("enrol by the endorsement key");
    assert_eq!(hosts(&deployment), 2);
    deployment.stop_authority();
    deployment.audit("verify").expect("audit verify");
    deployment.audit("replay").expect("audit replay");
}
