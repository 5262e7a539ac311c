//! IMA on real parts: a host whose kernel measures, a policy of what may run, and hosts that lie about it.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use countersign_tests::{Deployment, Program, Ran, SignerKind};
use countersign_tpm::algorithm::HashAlg;
use countersign_tpm::eventlog::EventLog;
use countersign_tpm::simulated::ima::{PCR, SimulatedIma};
use data_encoding::HEXLOWER;
use std::path::Path;
use std::process::Command;

/// A kernel that measures into the deployment's TPM.
struct Kernel {
    list: SimulatedIma,
    extended: usize,
}

impl Kernel {
    fn booted(deployment: &Deployment) -> Self {
        let log = EventLog::parse(&std::fs::read(deployment.path("boot.log")).unwrap()).unwrap();
        let replay = log.replay(HashAlg::Sha256).unwrap();
        let value = |pcr| replay.pcr(pcr).map_or_else(|| vec![0; 32], <[u8]>::to_vec);
        let values: Vec<Vec<u8>> = (0..10).map(value).collect();
        Self { list: SimulatedIma::after_boot(HashAlg::Sha256, &values), extended: 0 }
    }

    fn run(&mut self, path: &str) {
        self.list.measure(HashAlg::Sha256, path.as_bytes(), &digest(path));
    }

    /// The TPM catches up with the list. No agent may hold the TPM.
    fn extend(&mut self, deployment: &Deployment) {
        let sha256 = self.list.extensions(HashAlg::Sha256, self.extended);
        let sha384 = self.list.extensions(HashAlg::Sha384, self.extended);
        for (one, other) in sha256.iter().zip(&sha384) {
            let pcr = u8::try_from(PCR).unwrap();
            deployment.tpm.pcr_extend(pcr, &[("sha256", one), ("sha384", other)]);
        }
        self.extended = self.list.entries();
    }

    fn write(&self, deployment: &Deployment) {
        std::fs::write(deployment.path("ima.list"), self.list.bytes()).unwrap();
    }
}

fn digest(path: &str) -> Vec<u8> {
    HashAlg::Sha256.digest(path.as_bytes())
}

/// Puts a policy into force that knows two programs and excludes `/tmp`, and quotes PCR 10.
fn activate(deployment: &Deployment) {
    let listed: String = ["/usr/bin/sh", "/usr/bin/agent"]
        .iter()
        .map(|path| format!("{}  {path}\n", HEXLOWER.encode(&digest(path))))
        .collect();
    std::fs::write(deployment.path("sums"), listed).unwrap();
    let (sums, policy) = (deployment.text("sums"), deployment.text("ima.policy"));
    deployment
        .admin(&["ima-policy", "import", "--checksums", &sums, "--exclude", "/tmp/*", "--out", &policy])
        .expect("import");
    // A policy in force whose register nobody quotes would deny everything, so it isn't put into force.
    deployment.admin(&["ima-policy", "activate", &policy]).refused("ima-policy-invalid");
    let folder = deployment.path("policy");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("run.cedar"), RUN).unwrap();
    std::fs::write(folder.join("settings.toml"), SETTINGS).unwrap();
    deployment.admin(&["policy", "activate", &folder.display().to_string()]).expect("policy");
    deployment.admin(&["ima-policy", "activate", &policy]).expect("IMA policy");
    let shown = deployment.admin(&["ima-policy", "show"]).expect("show");
    assert!(shown.contains("exclude: /tmp/*"), "{shown}");
}

/// What another policy would do to the host is told before it is in force: one of the two programs that ran there isn't in it.
fn foretold(deployment: &Deployment) {
    let (sums, other) = (deployment.text("fewer-sums"), deployment.text("fewer.policy"));
    std::fs::write(&sums, format!("{}  /usr/bin/sh\n", HEXLOWER.encode(&digest("/usr/bin/sh")))).unwrap();
    deployment.admin(&["ima-policy", "import", "--checksums", &sums, "--out", &other]).expect("import");
    let told = deployment.admin(&["ima-policy", "check", &other]);
    told.refused("ima-file-unknown");
    assert!(told.out.contains("would break"), "{told:#?}");
    let told = deployment.admin(&["ima-policy", "check", &deployment.text("ima.policy")]).expect("check");
    assert!(told.contains("1 stays accepted"), "{told}");
}

/// One file bears the artifact out, for both implementations.
fn borne_out(deployment: &Deployment, artifact: &str) {
    let trust = deployment.text("authority/trust-bundle.json");
    let (store, out) = (deployment.text("authority/log.sqlite"), deployment.text("bundle.json"));
    let audit = |args: &[&str]| {
        Ran::of(deployment.countersign().args(["audit"]).args(args).args(["--trust-bundle", &trust]))
    };
    audit(&["bundle", "--store", &store, "--out", &out, &deployment.text(artifact)]).expect("bundle");
    audit(&["verify-bundle", &out]).expect("verify-bundle");
    let verifier = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/verifier");
    let mut python = Command::new("/usr/bin/python3");
    python.env("PYTHONDONTWRITEBYTECODE", "1").current_dir(verifier);
    Ran::of(python.args(["-m", "countersign_verifier", "verify-bundle", "--trust-bundle", &trust, &out]))
        .expect("verify-bundle by the second implementation");
}

const RUN: &str = r#"@id("run") permit (principal, action == Action::"exec", resource) when {
    context has ima && context.ima.violations == 0 && context.ima.boot_aggregate == "checked" &&
    !context.ima.excludes.contains("/tmp/*")
};"#;

const SETTINGS: &str = r#"
bank = "sha256"
pcrs = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 14]
max_ttl_secs = 300
host_trust_secs = 120
"#;

#[test]
fn a_host_gets_artifacts_while_only_known_files_ran_on_it() {
    let mut deployment = Deployment::ready(SignerKind::Pkcs11);
    let program = Program::new();
    let canary = program.canary();
    let argv = [program.path(), &canary];
    activate(&deployment);

    // A list that isn't there is a check that didn't run.
    deployment.ask("denied", &[], &argv).refused("ima-missing");

    deployment.stop_agent();
    let mut kernel = Kernel::booted(&deployment);
    kernel.run("/usr/bin/sh");
    kernel.extend(&deployment);
    kernel.write(&deployment);
    deployment.start_agent();
    deployment.ask("good", &[], &argv).expect("artifact");
    deployment.exec("good", &argv).expect("run");
    // The second call sends what is new: nothing.
    deployment.ask("more", &[], &argv).expect("second artifact");
    // What was measured behind the quoted moment isn't believed, and doesn't harm.
    kernel.run("/usr/bin/agent");
    kernel.write(&deployment);
    deployment.ask("more", &[], &argv).expect("third artifact");

    // The list says something else than the TPM.
    deployment.stop_agent();
    kernel.extend(&deployment);
    let whole = kernel.list.bytes();
    let at = whole.windows(11).position(|window| window == b"/usr/bin/sh").unwrap();
    let edited = [&whole[..at], b"/usr/bin/ls", &whole[at + 11..]].concat();
    std::fs::write(deployment.path("ima.list"), edited).unwrap();
    deployment.start_agent();
    deployment.ask("denied", &[], &argv).refused("ima-entry-edited");
    // The beginning is missing.
    std::fs::write(deployment.path("ima.list"), kernel.list.bytes_from(1)).unwrap();
    deployment.ask("denied", &[], &argv).refused("ima-trimmed");
    // The truth again: the earlier good state wasn't damaged.
    kernel.write(&deployment);
    deployment.ask("good", &[], &argv).expect("artifact after the truth");
    foretold(&deployment);

    // An exclude accepts the first file, and the policy sees that it was needed; nobody knows the second.
    for (path, code) in [("/tmp/scratch", "policy-denied"), ("/usr/bin/evil", "ima-file-unknown")] {
        deployment.stop_agent();
        kernel.run(path);
        kernel.extend(&deployment);
        kernel.write(&deployment);
        deployment.start_agent();
        deployment.ask("denied", &[], &argv).refused(code);
    }

    deployment.stop_agent();
    deployment.stop_authority();
    deployment.audit("verify").expect("audit verify");
    deployment.audit("replay").expect("audit replay");
    borne_out(&deployment, "good");
    assert_eq!(program.runs(), 1);
}
