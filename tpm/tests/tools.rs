//! This crate against tpm2-tools on the same input: `tpm2_eventlog` on every real log, `tpm2_checkquote` on quotes, good and damaged.
//!
//! Version 5.4 of the tools doesn't take every log, and takes some quotes that it shouldn't; what they differ in stands here by name.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    reason = "helpers of tests fail as tests do"
)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use countersign_tpm::algorithm::HashAlg;
use countersign_tpm::eventlog::EventLog;
use countersign_tpm::quote::{PcrSelectionSpec, QuoteInput, verify_quote};
use countersign_tpm::simulated::SimulatedTpm;
use countersign_tpm::simulated::boot::{BootOptions, SimulatedBoot};

/// Logs that the tool can't read.
const UNREADABLE: [(&str, &str); 3] = [
    ("go-attestation/option_rom_eventlog", "crashes (register index 0xffffffff, WBCL events)"),
    ("go-attestation/short_no_action_eventlog", "wants a Spec ID event first"),
    ("go-eventlog/cos-113-intel-tdx-dupe-separator-unpadded.bin", "wants register 0 in the Spec ID event"),
];
/// Registers that the tool computes otherwise.
const OTHERWISE: [(&str, u32, &str); 3] = [
    ("keylime/binary_bios_measurements", 0, "a StartupLocality starts PCR 0 and never extends it"),
    (
        "tpm2-tss/binary_measurements_hcrtm.b64",
        0,
        "an H-CRTM event without a StartupLocality starts PCR 0 at 4",
    ),
    ("go-tpm-tools/eventlogwithsp800155.bin", 0, "EV_NO_ACTION never extends, SP800-155 records included"),
];

/// The real-world logs, if they are there; the simulated log otherwise. In CI they have to be there.
fn logs(scratch: &Path) -> Vec<(String, PathBuf)> {
    let boot = SimulatedBoot::new(&BootOptions::default());
    let own = scratch.join("simulated");
    std::fs::write(&own, boot.log()).unwrap();
    let mut logs = vec![("simulated".to_owned(), own)];
    let above = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().skip(2).take(3);
    let root = std::env::var_os("VECTORS")
        .map(PathBuf::from)
        .or_else(|| above.map(|folder| folder.join("shared/vectors")).find(|path| path.is_dir()));
    let Some(root) = root.filter(|path| path.join("eventlog").is_dir()) else {
        assert!(std::env::var_os("CI").is_none(), "vectors are absent and CI does not allow that");
        eprintln!("VECTORS ABSENT: real logs are not compared with tpm2_eventlog (set VECTORS)");
        return logs;
    };
    let folder = root.join("eventlog");
    let text = std::fs::read(folder.join("expected.json")).unwrap();
    let expected: serde_json::Value = serde_json::from_slice(&text).unwrap();
    for (number, (path, item)) in expected["logs"].as_object().unwrap().iter().enumerate() {
        if item["outcome"] != "complete" {
            continue;
        }
        let mut bytes = std::fs::read(folder.join(path)).unwrap();
        if path.ends_with(".b64") {
            bytes.retain(|byte| !byte.is_ascii_whitespace());
            bytes = data_encoding::BASE64.decode(&bytes).unwrap();
        }
        let copy = scratch.join(number.to_string());
        std::fs::write(&copy, bytes).unwrap();
        logs.push((path.clone(), copy));
    }
    for path in ["ima/guard-oss/h12ssl.bios_measurements", "ima/charra/binary_bios_measurements"] {
        logs.push((path.to_owned(), root.join(path)));
    }
    // The log that travels with a quote.
    let path = "quote/go-attestation/windows_gcp_shielded_vm.json";
    let page: serde_json::Value = serde_json::from_slice(&std::fs::read(root.join(path)).unwrap()).unwrap();
    let copy = scratch.join("quoted");
    std::fs::write(
        &copy,
        data_encoding::BASE64.decode(page["Log"]["Raw"].as_str().unwrap().as_bytes()).unwrap(),
    )
    .unwrap();
    logs.push((path.to_owned(), copy));
    logs
}

fn tool(name: &str, arguments: &[&str]) -> Output {
    Command::new(name).args(arguments).output().unwrap_or_else(|error| panic!("{name} is needed: {error}"))
}

/// The part `pcrs:` of the tool's YAML: bank, register, value.
fn computed(yaml: &str) -> BTreeMap<(String, u32), String> {
    let mut found = BTreeMap::new();
    let mut bank = String::new();
    for line in yaml.lines().skip_while(|line| !line.starts_with("pcrs:")).skip(1) {
        let (name, value) = line.trim().split_once(':').unwrap();
        match value.trim().strip_prefix("0x") {
            Some(hex) => {
                found.insert((bank.clone(), name.trim().parse().unwrap()), hex.to_lowercase());
            }
            None => name.trim().clone_into(&mut bank),
        }
    }
    found
}

#[test]
fn logs_lead_to_the_registers_that_tpm2_eventlog_computes() {
    let scratch = tempfile::tempdir().unwrap();
    let mut compared: BTreeMap<String, usize> = BTreeMap::new();
    let logs = logs(scratch.path());
    for (path, file) in &logs {
        let output = tool("tpm2_eventlog", &[file.to_str().unwrap()]);
        let unreadable = UNREADABLE.iter().find(|(name, _)| name == path);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.success(), unreadable.is_none(), "{path}: {unreadable:?}: {said}");
        if unreadable.is_some() {
            continue;
        }
        let log = EventLog::parse(&std::fs::read(file).unwrap()).unwrap();
        for ((bank, pcr), value) in computed(&String::from_utf8_lossy(&output.stdout)) {
            let Some(alg) = HashAlg::ALL.into_iter().find(|alg| alg.name() == bank) else { continue };
            // An event without a digest of the bank makes the log unusable in it; the tool shows nothing either.
            let replay = log.replay(alg).unwrap();
            let ours = replay.pcr(pcr).map(|value| data_encoding::HEXLOWER.encode(value));
            let differs = OTHERWISE.iter().find(|(name, register, _)| name == path && *register == pcr);
            assert_eq!(
                ours.as_deref() == Some(value.as_str()),
                differs.is_none(),
                "{path} {bank} PCR {pcr}: {differs:?}"
            );
            *compared.entry(path.clone()).or_default() += 1;
        }
    }
    let registers: usize = compared.values().sum();
    eprintln!("{registers} registers of {} logs compared", compared.len());
    // Two banks of the simulated log; of the real ones every one that the tool reads and that has a register.
    assert!(compared["simulated"] >= 16, "{compared:?}");
    if logs.len() > 1 {
        assert!(compared.len() >= 31 && registers >= 450, "{registers} registers of {} logs", compared.len());
        let beside = |path: &&String| path.starts_with("quote/") || path.starts_with("ima/");
        assert_eq!(compared.keys().filter(beside).count(), 3);
    }
}

/// A quote and what the tool needs to check it.
#[derive(Clone)]
struct Case {
    attest: Vec<u8>,
    signature: Vec<u8>,
    nonce: [u8; 32],
    values: Vec<(u32, Vec<u8>)>,
}

impl Case {
    fn ours(&self, tpm: &SimulatedTpm, required: &PcrSelectionSpec) -> bool {
        verify_quote(QuoteInput {
            ak: tpm.ak_public(),
            attest: &self.attest,
            signature: &self.signature,
            expected_extra_data: &self.nonce,
            required,
            pcr_values: &self.values,
        })
        .is_ok()
    }

    fn theirs(&self, folder: &Path, key: &Path) -> bool {
        let write = |name: &str, bytes: &[u8]| {
            let path = folder.join(name);
            std::fs::write(&path, bytes).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let message = write("message", &self.attest);
        let signature = write("signature", &self.signature);
        let values = write("values", &serialized(&self.values));
        let nonce = data_encoding::HEXLOWER.encode(&self.nonce);
        let fixed = ["-u", key.to_str().unwrap(), "-m", &message, "-s", &signature, "-g", "sha256"];
        let given = ["-f", &values, "-q", &nonce];
        let output = tool("tpm2_checkquote", &[&fixed[..], &given[..]].concat());
        output.status.success()
    }
}

/// Register values as tpm2_quote writes them: TPML_PCR_SELECTION, a count, TPML_DIGEST, each as it lies in memory.
fn serialized(values: &[(u32, Vec<u8>)]) -> Vec<u8> {
    let mut selection = [0; 4 + 16 * 8];
    selection[0] = 1;
    selection[4..6].copy_from_slice(&HashAlg::Sha256.id().to_le_bytes());
    selection[6] = 3;
    for (pcr, _) in values {
        selection[7 + usize::try_from(pcr / 8).unwrap()] |= 1 << (pcr % 8);
    }
    let mut digests = [0; 4 + 8 * 66];
    digests[0] = u8::try_from(values.len()).unwrap();
    for ((_, value), slot) in values.iter().zip(digests[4..].chunks_mut(66)) {
        slot[0] = 32;
        slot[2..34].copy_from_slice(value);
    }
    [&selection[..], &1u32.to_le_bytes(), &digests].concat()
}

#[test]
fn quotes_are_taken_and_refused_as_tpm2_checkquote_does() {
    let scratch = tempfile::tempdir().unwrap();
    let mut tpm = SimulatedTpm::new(&mut |buffer: &mut [u8]| buffer.fill(0x31)).unwrap();
    tpm.boot(&SimulatedBoot::new(&BootOptions::default())).unwrap();
    let key = scratch.path().join("ak.der");
    let pem = data_encoding::BASE64.encode(&tpm.ak_public().spki_der());
    std::fs::write(&key, format!("-----BEGIN PUBLIC KEY-----\n{pem}\n-----END PUBLIC KEY-----\n")).unwrap();
    let required = PcrSelectionSpec::new(HashAlg::Sha256, &[0, 1, 2, 3, 4, 5, 6, 7]).unwrap();
    let made = tpm.quote(&[0x5a; 32], &required).unwrap();
    let values = tpm.pcr_values(&required).unwrap();
    let good = Case { attest: made.attest, signature: made.signature, nonce: [0x5a; 32], values };
    let agree = |what: &str, expect: bool, change: &dyn Fn(&mut Case)| {
        let mut case = good.clone();
        change(&mut case);
        assert_eq!(case.ours(&tpm, &required), expect, "{what}: ours");
        assert_eq!(case.theirs(scratch.path(), &key), expect, "{what}: tpm2_checkquote");
    };
    agree("the quote as it was made", true, &|_| {});
    agree("another nonce", false, &|case| case.nonce[31] ^= 1);
    agree("another value", false, &|case| case.values[3].1[0] ^= 1);
    agree("values exchanged", false, &|case| {
        let (first, second) = (case.values[0].1.clone(), case.values[4].1.clone());
        case.values[0].1 = second;
        case.values[4].1 = first;
    });
    for at in (0..good.attest.len()).step_by(7) {
        agree(&format!("byte {at} of the quote"), false, &|case| case.attest[at] ^= 0x40);
    }
    for at in [10, 40, 50, 70] {
        agree(&format!("byte {at} of the signature"), false, &|case| case.signature[at] ^= 1);
    }
    agree("another TPM's signature", false, &|case| {
        let other = SimulatedTpm::new(&mut |buffer: &mut [u8]| buffer.fill(0x32)).unwrap();
        case.signature =
            other.quote(&[0x5a; 32], &required).map_or_else(|_| vec![0; 72], |made| made.signature);
    });
}
