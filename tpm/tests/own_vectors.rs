//! The vectors of `tpm/vectors`: a boot log, a quote, an IMA list and an EK certificate of one software TPM, judged as the real-world ones are.
//!
//! With `UPDATE_VECTORS=1` a fresh swtpm makes them again first; what is expected of them then comes from its registers and from tpm2-tools. The
//! tests inside the crate that walk whole folders of vectors walk these, too.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests fail as tests do")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::slice::from_ref;
use std::time::{SystemTime, UNIX_EPOCH};

use countersign_fixture::SwTpm;
use countersign_tpm::algorithm::HashAlg;
use countersign_tpm::device::{EkProfile, HostTpm};
use countersign_tpm::ek::{EkRefusal, require_same_key, verify_ek_chain};
use countersign_tpm::eventlog::facts::SecureBoot;
use countersign_tpm::eventlog::{BootLogRefusal, EventLog, verify_replay};
use countersign_tpm::ima::appraise::{Submission, appraise};
use countersign_tpm::ima::policy::{FileDigestRule, PolicyDraft, RuntimePolicy};
use countersign_tpm::ima::template::{DigestKind, FileAlg};
use countersign_tpm::public::{Public, require_attestation_key, require_endorsement_key};
use countersign_tpm::quote::{PcrSelectionSpec, QuoteInput, QuoteRefusal, VerifiedQuote, verify_quote};
use countersign_tpm::simulated::boot::{BootOptions, SimulatedBoot};
use countersign_tpm::simulated::ima::{PCR, SimulatedIma};
use data_encoding::HEXLOWER;
use serde_json::{Value, json};

const NONCE: [u8; 32] = [0x6e; 32];
const BOOT: [u32; 10] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9];
const ALL: [u32; 11] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10];
const BANKS: [HashAlg; 2] = [HashAlg::Sha256, HashAlg::Sha384];
const PROGRAMS: [&str; 3] = ["/usr/bin/sh", "/usr/bin/agent", "/usr/lib/libc.so.6"];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("vectors")
}

fn read(path: &str) -> Vec<u8> {
    std::fs::read(root().join(path)).unwrap()
}

fn write(path: &str, bytes: &[u8]) {
    let path = root().join(path);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
}

fn expected(folder: &str) -> Value {
    serde_json::from_slice(&read(&format!("{folder}/expected.json"))).unwrap()
}

fn expect(folder: &str, page: &Value) {
    write(&format!("{folder}/expected.json"), format!("{page:#}\n").as_bytes());
}

fn unhex(value: &Value) -> Vec<u8> {
    HEXLOWER.decode(value.as_str().unwrap().as_bytes()).unwrap()
}

fn der(pem: &[u8]) -> Vec<u8> {
    der::pem::decode_vec(pem).unwrap().1
}

/// What a tool prints of a file of the vectors.
fn told(tool: &str, args: &[&str], path: &str) -> String {
    let output = Command::new(tool).args(args).arg(root().join(path)).output().unwrap();
    assert!(output.status.success(), "{tool}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The value behind a key of the tools' YAML, wherever it stands first.
fn field<'a>(yaml: &'a str, key: &str) -> &'a str {
    let found = yaml.lines().find_map(|line| line.trim().strip_prefix(key)?.strip_prefix(": "));
    found.unwrap().trim()
}

fn number(yaml: &str, key: &str) -> u64 {
    field(yaml, key).parse().unwrap()
}

/// Values that the TPM has in these registers, by bank and register.
fn registers(host: &mut HostTpm, pcrs: &[u32]) -> BTreeMap<&'static str, BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    for bank in BANKS {
        let values = host.pcr_values(&PcrSelectionSpec::new(bank, pcrs).unwrap()).unwrap();
        let values = values.iter().map(|(pcr, value)| (pcr.to_string(), HEXLOWER.encode(value)));
        found.insert(bank.name(), values.collect());
    }
    found
}

/// The digests that tpm2_eventlog shows of applications that the firmware started.
fn applications(yaml: &str) -> BTreeMap<String, Vec<String>> {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let (mut wanted, mut bank) = (false, String::new());
    for line in yaml.lines().map(str::trim) {
        if let Some(kind) = line.strip_prefix("EventType: ") {
            wanted = kind == "EV_EFI_BOOT_SERVICES_APPLICATION";
        } else if let Some(name) = line.strip_prefix("- AlgorithmId: ") {
            name.clone_into(&mut bank);
        } else if let Some(digest) = line.strip_prefix("Digest: ").filter(|_| wanted) {
            found.entry(bank.clone()).or_default().push(digest.trim_matches('"').to_owned());
        }
    }
    found
}

/// The data that tpm2_eventlog shows of the separators of each register.
fn separators(yaml: &str) -> BTreeMap<String, Vec<String>> {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let (mut wanted, mut pcr) = (false, String::new());
    for line in yaml.lines().map(str::trim) {
        if let Some(index) = line.strip_prefix("PCRIndex: ") {
            index.clone_into(&mut pcr);
        } else if let Some(kind) = line.strip_prefix("EventType: ") {
            wanted = kind == "EV_SEPARATOR";
        } else if let Some(data) = line.strip_prefix("Event: ").filter(|_| wanted) {
            found.entry(pcr.clone()).or_default().push(data.trim_matches('"').to_owned());
        }
    }
    found
}

/// A fresh TPM makes all of it.
fn capture() {
    let swtpm = SwTpm::start_own();
    let mut host = HostTpm::open(&swtpm.tcti()).unwrap();
    let boot = SimulatedBoot::new(&BootOptions { seed: 6, ..BootOptions::default() });
    for one in boot.measurements() {
        host.extend(one.pcr, &[(HashAlg::Sha256, &one.sha256), (HashAlg::Sha384, &one.sha384)]).unwrap();
    }
    let mut touched: Vec<u32> = boot.measurements().iter().map(|one| one.pcr).collect();
    touched.sort_unstable();
    touched.dedup();
    capture_log(&boot, &registers(&mut host, &touched));
    let list = capture_list(&mut host);
    capture_quote(&mut host);
    let entries = list.entries();
    let page = json!({
        "about": "A list of a simulated kernel whose digests were extended into a software TPM. PCR 10 is in the quote.",
        "lists": {"swtpm/list.bin": {
            "form": "binary, little-endian", "outcome": "complete", "entries": entries, "violations": 0,
            "pcrs": {"10": entries}, "first_entry": {"path": "boot_aggregate"},
            "last_entry": {"path": PROGRAMS[2]},
        }},
    });
    expect("ima", &page);
    write("ek-certs/swtpm/ek.der", &std::fs::read(swtpm.ek_rsa_cert_path()).unwrap());
    write("ek-certs/swtpm/issuer.der", &der(&swtpm.ca_issuer_pem()));
    write("ek-certs/swtpm/root.der", &der(&swtpm.ca_root_pem()));
    let ek = host.ek_public(EkProfile::Rsa2048).unwrap();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let page = json!({
        "about": "The RSA-2048 endorsement key of a software TPM, certified by its private authority.",
        "own": {"ek_public": HEXLOWER.encode(ek.bytes()), "captured_secs": now},
    });
    expect("ek-certs", &page);
}

fn capture_log(boot: &SimulatedBoot, banks: &BTreeMap<&'static str, BTreeMap<String, String>>) {
    write("eventlog/swtpm/boot.bin", boot.log());
    let yaml = told("tpm2_eventlog", &[], "eventlog/swtpm/boot.bin");
    let records = yaml.lines().filter(|line| line.starts_with("- EventNum: ")).count();
    let page = json!({
        "about": "The log of a simulated boot whose digests were extended into a software TPM: banks are the registers that it had then, records and \
                  applications are told by tpm2_eventlog.",
        "logs": {"swtpm/boot.bin": {
            "outcome": "complete", "format": "crypto-agile", "records": records, "pcr0_starts_at": 0, "banks": banks,
            "secure_boot_variable": "01", "efi_boot_applications": applications(&yaml), "separators": separators(&yaml),
        }},
    });
    expect("eventlog", &page);
}

fn capture_list(host: &mut HostTpm) -> SimulatedIma {
    let boot = PcrSelectionSpec::new(HashAlg::Sha256, &BOOT).unwrap();
    let values: Vec<Vec<u8>> = host.pcr_values(&boot).unwrap().into_iter().map(|(_, value)| value).collect();
    let mut list = SimulatedIma::after_boot(HashAlg::Sha256, &values);
    for path in PROGRAMS {
        list.measure(HashAlg::Sha256, path.as_bytes(), &HashAlg::Sha256.digest(path.as_bytes()));
    }
    let [sha256, sha384] = BANKS.map(|bank| list.extensions(bank, 0));
    for (one, other) in sha256.iter().zip(&sha384) {
        host.extend(PCR, &[(HashAlg::Sha256, one), (HashAlg::Sha384, other)]).unwrap();
    }
    write("ima/swtpm/list.bin", list.bytes());
    list
}

fn capture_quote(host: &mut HostTpm) {
    let blob = host.create_attestation_key().unwrap();
    let ak = host.load(&blob).unwrap();
    let selection = PcrSelectionSpec::new(HashAlg::Sha256, &ALL).unwrap();
    let made = host.quote_with_values(ak, &NONCE, &selection).unwrap();
    write("quote/swtpm/quote.msg", &made.attest);
    write("quote/swtpm/quote.sig", &made.signature);
    let yaml = told("tpm2_print", &["-t", "TPMS_ATTEST"], "quote/swtpm/quote.msg");
    // Printed as this machine has the number in its memory.
    let mut firmware = HEXLOWER.decode(field(&yaml, "firmwareVersion").as_bytes()).unwrap();
    if cfg!(target_endian = "little") {
        firmware.reverse();
    }
    let page = json!({
        "about": "A quote of a software TPM: the fields are told by tpm2_print, the values are its registers.",
        "items": {"swtpm/quote.msg": {
            "ak": HEXLOWER.encode(blob.public()),
            "registers": registers(host, &ALL)["sha256"],
            "quote": {
                "qualified_signer": field(&yaml, "qualifiedSigner"),
                "extra_data": field(&yaml, "extraData"),
                "clock": number(&yaml, "clock"),
                "reset_count": number(&yaml, "resetCount"),
                "restart_count": number(&yaml, "restartCount"),
                "firmware_version": format!("0x{}", HEXLOWER.encode(&firmware)),
                "pcr_digest": field(&yaml, "pcrDigest"),
                "pcr_select": [{"alg": "sha256", "pcrs": ALL}],
            },
        }},
    });
    expect("quote", &page);
}

/// The quote of the vectors, verified with these values.
fn quote(
    change: impl FnOnce(&mut Vec<(u32, Vec<u8>)>, &mut [u8; 32]),
) -> Result<VerifiedQuote, QuoteRefusal> {
    let item = &expected("quote")["items"]["swtpm/quote.msg"];
    let ak = Public::parse(&unhex(&item["ak"])).unwrap();
    require_attestation_key(&ak).unwrap();
    let (mut values, mut nonce) =
        (ALL.map(|pcr| (pcr, unhex(&item["registers"][pcr.to_string()]))).to_vec(), NONCE);
    change(&mut values, &mut nonce);
    verify_quote(QuoteInput {
        ak: &ak,
        attest: &read("quote/swtpm/quote.msg"),
        signature: &read("quote/swtpm/quote.sig"),
        expected_extra_data: &nonce,
        required: &PcrSelectionSpec::new(HashAlg::Sha256, &ALL).unwrap(),
        pcr_values: &values,
    })
}

fn the_quote_holds_with_its_own_values_and_no_others() {
    assert!(quote(|_, _| ()).is_ok());
    assert_eq!(quote(|_, nonce| nonce[0] ^= 1), Err(QuoteRefusal::NonceMismatch));
    assert_eq!(quote(|values, _| values[10].1[0] ^= 1), Err(QuoteRefusal::DigestMismatch));
}

fn the_log_leads_to_the_quoted_registers() {
    let bytes = read("eventlog/swtpm/boot.bin");
    let log = EventLog::parse(&bytes).unwrap();
    let verified = verify_replay(&log, &quote(|_, _| ()).unwrap(), &BOOT).unwrap();
    assert_eq!(verified.facts().secure_boot, SecureBoot::On);
    // Another digest of the last event leads elsewhere.
    let last = log.events().last().unwrap();
    let mut edited = bytes.clone();
    let at = bytes.len() - last.data().len() - 4 - 48 - 2 - 1;
    edited[at] ^= 1;
    let edited = EventLog::parse(&edited).unwrap();
    let refusal = verify_replay(&edited, &quote(|_, _| ()).unwrap(), &BOOT).unwrap_err();
    assert!(matches!(refusal, BootLogRefusal::Mismatch { .. }), "{refusal}");
}

fn the_list_leads_to_pcr_10_and_lists_what_ran() {
    let list = read("ima/swtpm/list.bin");
    let judge = |programs: &[&str], list: &[u8]| {
        let mut draft = PolicyDraft::default();
        for path in programs {
            let bytes = HashAlg::Sha256.digest(path.as_bytes());
            let rule = FileDigestRule { algorithm: FileAlg::Sha256, kind: DigestKind::Ima, bytes };
            draft.allow(path.as_bytes(), rule);
        }
        let policy = RuntimePolicy::parse(&draft.encode()).unwrap();
        let submission = Submission { from: 0, column: HashAlg::Sha1, list };
        let appraised = appraise(&quote(|_, _| ()).unwrap(), None, &submission, &policy);
        appraised.map(|appraised| appraised.state().counts.entries).map_err(|refusal| refusal.code())
    };
    assert_eq!(judge(&PROGRAMS, &list), Ok(4));
    assert_eq!(judge(&PROGRAMS[..2], &list), Err("ima-file-unknown"));
    let mut edited = list.clone();
    *edited.last_mut().unwrap() = b'x';
    assert_eq!(judge(&PROGRAMS, &edited), Err("ima-entry-edited"));
}

fn the_certificate_is_of_the_key_and_leads_to_its_root_alone() {
    let own = &expected("ek-certs")["own"];
    let now = own["captured_secs"].as_u64().unwrap();
    let [ek, issuer, root] = ["ek", "issuer", "root"].map(|name| read(&format!("ek-certs/swtpm/{name}.der")));
    let verified = verify_ek_chain(&ek, from_ref(&issuer), from_ref(&root), now).unwrap();
    let public = Public::parse(&unhex(&own["ek_public"])).unwrap();
    require_endorsement_key(&public).unwrap();
    require_same_key(&verified, &public).unwrap();
    let refused = |intermediates: &[Vec<u8>], roots: &[Vec<u8>], at| {
        verify_ek_chain(&ek, intermediates, roots, at).unwrap_err()
    };
    assert_eq!(refused(&[], from_ref(&root), now), EkRefusal::IssuerUnknown);
    assert_eq!(refused(from_ref(&issuer), &[], now), EkRefusal::IssuerUnknown);
    assert_eq!(refused(from_ref(&issuer), from_ref(&root), now - 7 * 86_400), EkRefusal::NotYetValid);
}

#[test]
fn the_projects_own_vectors_are_what_a_tpm_said() {
    if std::env::var_os("UPDATE_VECTORS").is_some() {
        capture();
    }
    the_quote_holds_with_its_own_values_and_no_others();
    the_log_leads_to_the_quoted_registers();
    the_list_leads_to_pcr_10_and_lists_what_ran();
    the_certificate_is_of_the_key_and_leads_to_its_root_alone();
    no_private_key_is_among_them();
}

fn no_private_key_is_among_them() {
    let mut folders = vec![root()];
    let mut seen = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
            if entry.path().is_dir() {
                folders.push(entry.path());
                continue;
            }
            seen += 1;
            let known = ["md", "json", "bin", "msg", "sig", "der"];
            let ending =
                entry.path().extension().and_then(|ending| ending.to_str()).unwrap_or_default().to_owned();
            assert!(known.contains(&ending.as_str()), "{}", entry.path().display());
            let bytes = std::fs::read(entry.path()).unwrap();
            assert!(!contains(&bytes, b"PRIVATE KEY"), "{}", entry.path().display());
            // A certificate begins with a sequence in a sequence, a private key with a sequence of a version.
            assert!(ending != "der" || bytes[4] == 0x30, "{}", entry.path().display());
        }
    }
    assert!(seen >= 12, "{seen}");
}

fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}
