//! Real logs against quotes of the values that they lead to, edited logs against the genuine ones, and mutations of all of them.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use super::facts_tests::facts_of;
use super::*;
use crate::quote::VerifiedQuote;
use crate::simulated::SimulatedTpm;
use crate::testing::{booted, every_vectors, json, random, unhex, variant, vector_bytes, vectors};

type Values = Vec<(u32, Vec<u8>)>;

fn values(log: &EventLog, bank: HashAlg) -> Values {
    log.replay(bank).unwrap().pcrs().map(|(pcr, value)| (pcr, value.to_vec())).collect()
}

fn worn(bank: HashAlg, values: &Values) -> VerifiedQuote {
    SimulatedTpm::new(&mut random(3)).unwrap().worn(bank, values).unwrap()
}

fn judge(log: &EventLog, bank: HashAlg, values: &Values) -> Result<VerifiedBootLog, BootLogRefusal> {
    let pcrs: Vec<u32> = values.iter().map(|(pcr, _)| *pcr).collect();
    verify_replay(log, &worn(bank, values), &pcrs)
}

/// What logs that aren't of a whole boot of a PC are refused for; every other one is taken.
const REFUSED: [(&str, &str); 6] = [
    ("go-attestation/sb_cert_eventlog", "SeparatorMissing"),
    ("go-eventlog/cos-113-intel-tdx-dupe-separator-unpadded.bin", "SeparatorRepeated"),
    ("tpm2-tss/event-uefiaction.b64", "SeparatorMissing"),
    ("tpm2-tss/event-uefiservices.b64", "SeparatorMissing"),
    ("tpm2-tss/event-uefivar.b64", "SeparatorMissing"),
    ("tpm2-tss/event.b64", "SeparatorMissing"),
];

#[test]
fn every_real_log_is_taken_with_its_own_values_and_refused_with_any_other() {
    let folders = every_vectors("eventlog");
    let taken: usize = folders.iter().map(|folder| taken_with_their_own_values_alone(folder)).sum();
    assert!(taken >= if folders.len() > 1 { 22 } else { 2 }, "{taken}");
}

fn taken_with_their_own_values_alone(folder: &std::path::Path) -> usize {
    let mut taken = 0;
    for (path, item) in json(&folder.join("expected.json"))["logs"].as_object().unwrap() {
        if item["outcome"] != "complete" {
            continue;
        }
        let log = EventLog::parse(&vector_bytes(&folder.join(path))).unwrap();
        for bank in [HashAlg::Sha256, HashAlg::Sha384] {
            let whole = log.replay(bank).is_ok_and(|replay| replay.pcrs().count() > 0);
            if !whole {
                continue;
            }
            let genuine = values(&log, bank);
            let expect = REFUSED.iter().find(|(refused, _)| refused == path).map(|(_, name)| *name);
            let verdict = judge(&log, bank, &genuine);
            assert_eq!(verdict.as_ref().err().map(variant).as_deref(), expect, "{path}");
            for at in 0..genuine.len() {
                let mut other = genuine.clone();
                other[at].1[5] ^= 0x10;
                let refusal = judge(&log, bank, &other).unwrap_err();
                let BootLogRefusal::Mismatch { pcr, expected, found, .. } = refusal else { panic!("{path}") };
                assert_eq!((pcr, &expected, &found), (genuine[at].0, &other[at].1, &genuine[at].1), "{path}");
            }
            taken += usize::from(expect.is_none());
        }
    }
    taken
}

#[test]
fn an_altered_log_is_told_from_the_genuine_one() {
    let Some(folder) = vectors("eventlog") else { return };
    let read = |name: &str| EventLog::parse(&vector_bytes(&folder.join("hirs").join(name))).unwrap();
    let (genuine, altered) = (read("TpmLog.bin"), read("TPMLog_Altered.bin"));
    let expected = &json(&folder.join("expected.json"))["logs"]["hirs/TPMLog_Altered.bin"];
    let of = |log: &EventLog| values(log, HashAlg::Sha256).into_iter().collect::<BTreeMap<_, _>>();
    let (good, bad) = (of(&genuine), of(&altered));
    let differ: Vec<u32> = good.keys().copied().filter(|pcr| good[pcr] != bad[pcr]).collect();
    assert_eq!(serde_json::json!(differ), expected["differs_from_genuine_in"]);
    let refusal = judge(&altered, HashAlg::Sha256, &values(&genuine, HashAlg::Sha256)).unwrap_err();
    assert!(matches!(refusal, BootLogRefusal::Mismatch { pcr: 0, event: Some(_), .. }), "{refusal}");
}

#[test]
fn a_log_without_its_last_two_actions_does_not_lead_to_the_register() {
    let Some(folder) = vectors("eventlog") else { return };
    let path = "go-attestation/ebs_event_missing_eventlog";
    let log = EventLog::parse(&vector_bytes(&folder.join(path))).unwrap();
    let missing = &json(&folder.join("expected.json"))["logs"][path]["missing_events"];
    let real = unhex(missing["sha1_after"].as_str().unwrap());
    let mut value = log.replay(HashAlg::Sha1).unwrap().pcr(5).unwrap().to_vec();
    assert_ne!(value, real);
    for text in missing["append"].as_array().unwrap() {
        let digest = HashAlg::Sha1.digest(text.as_str().unwrap().as_bytes());
        value = HashAlg::Sha1.digest_parts(&[&value, &digest]);
    }
    assert_eq!(value, real);
}

#[test]
fn the_log_beside_the_sha1_quote_leads_to_its_registers() {
    let Some(folder) = vectors("quote") else { return };
    let file = json(&folder.join("go-attestation/windows_gcp_shielded_vm.json"));
    let decode =
        |value: &serde_json::Value| data_encoding::BASE64.decode(value.as_str().unwrap().as_bytes()).unwrap();
    let log = EventLog::parse(&decode(&file["Log"]["Raw"])).unwrap();
    let replay = log.replay(HashAlg::Sha1).unwrap();
    for pcr in file["Log"]["PCRs"].as_array().unwrap().iter().filter(|pcr| pcr["DigestAlg"] == 3) {
        let index = u32::try_from(pcr["Index"].as_u64().unwrap()).unwrap();
        let initial = log.initial(HashAlg::Sha1, index);
        assert_eq!(replay.pcr(index).unwrap_or(&initial), decode(&pcr["Digest"]), "PCR {index}");
    }
    let expected =
        &json(&folder.join("expected.json"))["items"]["go-attestation/windows_gcp_shielded_vm.json"];
    let touched: Vec<u32> = replay.pcrs().map(|(pcr, _)| pcr).collect();
    assert_eq!(serde_json::json!(touched), expected["verdicts"]["pcrs_in_log"]);
    let facts = facts_of(&log, HashAlg::Sha1, &touched);
    assert_eq!(facts.secure_boot, facts::SecureBoot::On);
}

/// Real logs, or the simulated one where there are none.
fn material() -> &'static [Vec<u8>] {
    static LOGS: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    LOGS.get_or_init(|| {
        let mut logs = vec![booted(1).1.log().to_vec()];
        for folder in every_vectors("eventlog") {
            let expected = json(&folder.join("expected.json"));
            logs.extend(
                expected["logs"].as_object().unwrap().keys().map(|path| vector_bytes(&folder.join(path))),
            );
        }
        logs
    })
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(400))]
    #[test]
    fn mutations_of_real_logs_never_panic_and_stay_in_their_bounds(
        which in 0usize..1_000,
        edits in proptest::collection::vec((0usize..80_000, proptest::num::u8::ANY), 1..6),
        cut in 0usize..160_000,
    ) {
        let logs = material();
        let mut bytes = logs[which % logs.len()].clone();
        for (at, value) in edits {
            let len = bytes.len().max(1);
            if let Some(byte) = bytes.get_mut(at % len) {
                *byte = value;
            }
        }
        bytes.truncate(cut);
        let Ok(log) = EventLog::parse(&bytes) else { return Ok(()) };
        proptest::prop_assert!(log.events().count() <= MAX_EVENTS);
        for bank in HashAlg::ALL {
            if log.replay(bank).is_ok() {
                let all: Vec<u32> = (0..=MAX_PCR).collect();
                let _ = facts_of(&log, bank, &all);
            }
        }
    }
}
