//! Event logs: all real ones replay as expected, and each way to be wrong has its own refusal.

use super::facts::SecureBoot;
use super::facts_tests::facts_of;
use super::*;
use crate::quote::{PcrSelectionSpec, QuoteInput, VerifiedQuote, verify_quote};
use crate::simulated::SimulatedTpm;
use crate::simulated::boot::{BootOptions, SimulatedBoot};
use crate::testing::{NONCE, booted, every_vectors, json, random, unhex, variant, vector_bytes};

fn bank(name: &str) -> Option<HashAlg> {
    HashAlg::ALL.into_iter().find(|alg| alg.name() == name)
}

#[test]
fn every_log_of_the_vectors_parses_and_replays_as_expected() {
    let mut complete = 0;
    let folders = every_vectors("eventlog");
    for folder in &folders {
        let expected = json(&folder.join("expected.json"));
        for (path, item) in expected["logs"].as_object().unwrap() {
            let bytes = vector_bytes(&folder.join(path));
            let parsed = EventLog::parse(&bytes);
            if item["outcome"] != "complete" {
                assert!(parsed.is_err(), "{path} is not a log");
                continue;
            }
            let log = parsed.unwrap_or_else(|error| panic!("{path}: {error}"));
            check_log(path, &log, item);
            complete += 1;
        }
    }
    assert!(complete >= if folders.len() > 1 { 31 } else { 1 }, "only {complete} logs");
}

fn check_log(path: &str, log: &EventLog, item: &serde_json::Value) {
    assert_eq!(log.events().count() as u64, item["records"].as_u64().unwrap(), "{path}");
    assert_eq!(log.is_crypto_agile(), item["format"] == "crypto-agile", "{path}");
    assert_eq!(u64::from(log.startup_locality()), item["pcr0_starts_at"].as_u64().unwrap(), "{path}");
    let missing = item.get("records_missing_a_bank").is_some();
    for (name, pcrs) in item["banks"].as_object().unwrap() {
        let Some(bank) = bank(name) else { continue };
        let pcrs = pcrs.as_object().unwrap();
        let replay = match log.replay(bank) {
            // The vectors skip such records; a verifier must not.
            Err(ReplayError::DigestMissing { .. }) if missing && pcrs.is_empty() => continue,
            other => other.unwrap_or_else(|error| panic!("{path}: {error}")),
        };
        assert_eq!(replay.pcrs().count(), pcrs.len(), "{path} {name}");
        for (pcr, value) in pcrs {
            let value = unhex(value.as_str().unwrap());
            assert_eq!(replay.pcr(pcr.parse().unwrap()), Some(value.as_slice()), "{path} {name} PCR {pcr}");
        }
    }
}

#[test]
fn secure_boot_of_every_log_is_as_expected() {
    every_vectors("eventlog").iter().for_each(|folder| secure_boot_is_as_expected(folder));
}

fn secure_boot_is_as_expected(folder: &std::path::Path) {
    let expected = json(&folder.join("expected.json"));
    for (path, item) in expected["logs"].as_object().unwrap() {
        let Ok(log) = EventLog::parse(&vector_bytes(&folder.join(path))) else { continue };
        let expect = match item.get("secure_boot_variable").and_then(|value| value.as_str()) {
            Some("01") => SecureBoot::On,
            Some("00") => SecureBoot::Off,
            Some("") => SecureBoot::Empty,
            _ => SecureBoot::Unknown,
        };
        let bank = log.bank_ids().find_map(|id| HashAlg::from_id(id).ok()).unwrap();
        // A CCEL log numbers its registers otherwise: register 1 stands for PCRs 1 and 7.
        let expect = if path.starts_with("go-eventlog/") { SecureBoot::Unknown } else { expect };
        assert_eq!(facts_of(&log, bank, &[7]).secure_boot, expect, "{path}");
    }
}

const COVERED: [u32; 8] = [0, 1, 2, 3, 4, 5, 6, 7];

fn quote(tpm: &SimulatedTpm, pcrs: &[u32]) -> VerifiedQuote {
    let required = PcrSelectionSpec::new(HashAlg::Sha256, pcrs).unwrap();
    let made = tpm.quote(&NONCE, &required).unwrap();
    verify_quote(QuoteInput {
        ak: tpm.ak_public(),
        attest: &made.attest,
        signature: &made.signature,
        expected_extra_data: &NONCE,
        required: &required,
        pcr_values: &tpm.pcr_values(&required).unwrap(),
    })
    .unwrap()
}

/// A TPM whose SHA-256 bank is what `log` leads to.
fn tpm_of(log: &EventLog) -> SimulatedTpm {
    let mut tpm = SimulatedTpm::new(&mut random(5)).unwrap();
    for event in log.events().filter(Event::extends) {
        tpm.extend(HashAlg::Sha256, event.pcr(), event.digest(HashAlg::Sha256).unwrap()).unwrap();
    }
    tpm
}

/// Bytes of one event of a simulated log: where it starts and ends.
fn span(bytes: &[u8], index: usize) -> Range<usize> {
    let log = EventLog::parse(bytes).unwrap();
    let end = |index: usize| log.records[index].data.end;
    end(index - 1)..end(index)
}

fn find(bytes: &[u8], pcr: u32, kind: u32) -> usize {
    let log = EventLog::parse(bytes).unwrap();
    log.events().find(|event| event.pcr() == pcr && event.kind() == kind).unwrap().index()
}

#[test]
fn a_good_boot_is_verified_and_its_facts_are_told() {
    let (tpm, boot) = booted(1);
    let log = EventLog::parse(boot.log()).unwrap();
    let verified = verify_replay(&log, &quote(&tpm, &COVERED), &COVERED).unwrap();
    assert_eq!(verified.facts().secure_boot, SecureBoot::On);
    assert_eq!(verified.facts().separators.len(), 8);
    assert_eq!(verified.covered(), COVERED);
    let off = SimulatedBoot::new(&BootOptions { secure_boot: false, ..BootOptions::default() });
    let mut tpm = SimulatedTpm::new(&mut random(2)).unwrap();
    tpm.boot(&off).unwrap();
    let log = EventLog::parse(off.log()).unwrap();
    let verified = verify_replay(&log, &quote(&tpm, &COVERED), &COVERED).unwrap();
    assert_eq!(verified.facts().secure_boot, SecureBoot::Off);
}

#[test]
fn a_register_that_the_log_does_not_lead_to_is_named_with_the_event() {
    let (mut tpm, boot) = booted(1);
    let log = EventLog::parse(boot.log()).unwrap();
    // The log claims one event more than the TPM has seen.
    let last = log.events().filter(|event| event.pcr() == 5).last().unwrap().index();
    let mut shorter = boot.log().to_vec();
    shorter.truncate(span(boot.log(), last).start);
    let shorter = EventLog::parse(&shorter).unwrap();
    let refusal = verify_replay(&log, &quote(&tpm_of(&shorter), &COVERED), &COVERED).unwrap_err();
    assert!(matches!(refusal, BootLogRefusal::Mismatch { pcr: 5, event: Some(event), .. } if event == last));
    // The TPM has seen one event more than the log tells.
    tpm.extend(HashAlg::Sha256, 4, &[9; 32]).unwrap();
    let refusal = verify_replay(&log, &quote(&tpm, &COVERED), &COVERED).unwrap_err();
    let BootLogRefusal::Mismatch { pcr: 4, event: Some(_), expected, found } = refusal.clone() else {
        panic!("{refusal}")
    };
    assert_ne!(expected, found);
    assert_eq!(variant(&refusal), "Mismatch");
}

#[test]
fn an_untouched_register_must_have_its_initial_value() {
    let (mut tpm, boot) = booted(1);
    let log = EventLog::parse(boot.log()).unwrap();
    let pcrs = [0, 1, 2, 3, 4, 5, 6, 7, 16, 17];
    assert!(verify_replay(&log, &quote(&tpm, &pcrs), &pcrs).is_ok());
    tpm.extend(HashAlg::Sha256, 16, &[1; 32]).unwrap();
    let refusal = verify_replay(&log, &quote(&tpm, &pcrs), &pcrs).unwrap_err();
    assert!(matches!(refusal, BootLogRefusal::Mismatch { pcr: 16, event: None, .. }));
}

#[test]
fn covered_registers_must_be_quoted_and_some() {
    let (tpm, boot) = booted(1);
    let log = EventLog::parse(boot.log()).unwrap();
    let refusal = verify_replay(&log, &quote(&tpm, &COVERED), &[0, 8]).unwrap_err();
    assert_eq!(refusal, BootLogRefusal::NotQuoted { pcr: 8 });
    let refusal = verify_replay(&log, &quote(&tpm, &COVERED), &[]).unwrap_err();
    assert_eq!(refusal, BootLogRefusal::NothingCovered);
}

#[test]
fn a_log_without_the_quoted_bank_is_refused() {
    let mut bytes = Vec::new();
    for value in [0u32, event_type::S_CRTM_VERSION] {
        bytes.extend(value.to_le_bytes());
    }
    bytes.extend([1; 20]);
    bytes.extend([0; 4]);
    let log = EventLog::parse(&bytes).unwrap();
    let refusal = verify_replay(&log, &quote(&booted(1).0, &COVERED), &COVERED).unwrap_err();
    assert!(matches!(refusal, BootLogRefusal::Replay(ReplayError::NoSuchBank(_))), "{refusal}");
}

#[test]
fn a_boot_register_needs_exactly_one_genuine_separator() {
    let (_, boot) = booted(1);
    let index = find(boot.log(), 2, event_type::SEPARATOR);
    let span = span(boot.log(), index);
    let judge = |bytes: &[u8]| {
        let log = EventLog::parse(bytes).unwrap();
        verify_replay(&log, &quote(&tpm_of(&log), &COVERED), &COVERED)
    };
    // Twice, the second one under another name.
    let mut twice = boot.log().to_vec();
    let mut renamed = boot.log()[span.clone()].to_vec();
    renamed[4..8].copy_from_slice(&event_type::EFI_ACTION.to_le_bytes());
    twice.extend(renamed);
    let refusal = judge(&twice).unwrap_err();
    assert!(matches!(refusal, BootLogRefusal::SeparatorRepeated { pcr: 2, .. }), "{refusal}");
    // Replaced by something else, so that the register is not zero.
    let mut other = boot.log().to_vec();
    other[span.start + 4..span.start + 8].copy_from_slice(&event_type::EFI_ACTION.to_le_bytes());
    other[span.start + 14] ^= 1;
    assert_eq!(judge(&other), Err(BootLogRefusal::SeparatorMissing { pcr: 2 }));
    // An error separator.
    let mut error = boot.log().to_vec();
    error[span.end - 4..span.end].copy_from_slice(&1u32.to_le_bytes());
    let digest = HashAlg::Sha256.digest(&1u32.to_le_bytes());
    error[span.start + 14..span.start + 46].copy_from_slice(&digest);
    assert_eq!(judge(&error), Err(BootLogRefusal::SeparatorFalse { pcr: 2, event: index }));
}

#[test]
fn relabelling_an_event_or_changing_unmeasured_data_makes_no_fact() {
    let (tpm, boot) = booted(1);
    let index = find(boot.log(), 7, event_type::EFI_VARIABLE_DRIVER_CONFIG);
    let span = span(boot.log(), index);
    // The value of SecureBoot is the last byte: changed without its digest, it is no fact any more.
    let mut edited = boot.log().to_vec();
    edited[span.end - 1] = 0;
    let log = EventLog::parse(&edited).unwrap();
    let verified = verify_replay(&log, &quote(&tpm, &COVERED), &COVERED).unwrap();
    assert_eq!(verified.facts().secure_boot, SecureBoot::Unknown);
    // Its type does not matter.
    let mut renamed = boot.log().to_vec();
    renamed[span.start + 4..span.start + 8].copy_from_slice(&event_type::EVENT_TAG.to_le_bytes());
    let log = EventLog::parse(&renamed).unwrap();
    let verified = verify_replay(&log, &quote(&tpm, &COVERED), &COVERED).unwrap();
    assert_eq!(verified.facts().secure_boot, SecureBoot::On);
    // Nor does a second record, appended after the separator.
    let mut late = boot.log().to_vec();
    let mut second = boot.log()[span].to_vec();
    *second.last_mut().unwrap() = 0;
    let digest = HashAlg::Sha256.digest(&second[100..]);
    second[14..46].copy_from_slice(&digest);
    late.extend(second);
    let log = EventLog::parse(&late).unwrap();
    let verified = verify_replay(&log, &quote(&tpm_of(&log), &COVERED), &COVERED).unwrap();
    assert_eq!(verified.facts().secure_boot, SecureBoot::On);
}

#[test]
fn malformed_logs_are_refused() {
    let (_, boot) = booted(1);
    let good = boot.log();
    assert_eq!(EventLog::parse(&[]).err(), Some(EventLogError::Empty));
    assert_eq!(
        EventLog::parse(&vec![0; MAX_LOG_BYTES + 1]).err(),
        Some(EventLogError::TooLong(MAX_LOG_BYTES + 1))
    );
    assert!(matches!(EventLog::parse(&good[..good.len() - 1]), Err(EventLogError::Wire { .. })));
    // Header: no bank, one twice, a wrong digest size, bytes left over.
    let header_data = 32;
    let edit = |at: usize, value: &[u8]| {
        let mut bytes = good.to_vec();
        bytes[at..at + value.len()].copy_from_slice(value);
        EventLog::parse(&bytes).err()
    };
    let banks = header_data + 16 + 8;
    assert_eq!(edit(banks, &[0]), Some(EventLogError::Banks));
    assert_eq!(edit(banks, &[17]), Some(EventLogError::Banks));
    assert_eq!(edit(banks + 8, &[0x0b, 0, 32, 0]), Some(EventLogError::Banks));
    assert_eq!(edit(banks + 4 + 2, &[20]), Some(EventLogError::Banks));
    assert_eq!(edit(banks, &[1]), Some(EventLogError::SpecId));
    // First event: too many digests, an unannounced bank, the same bank twice, a register that is none.
    let first = span(good, 1).start;
    assert_eq!(edit(first + 8, &[3]), Some(EventLogError::Digest { event: 1 }));
    assert_eq!(edit(first + 12, &[4]), Some(EventLogError::Digest { event: 1 }));
    assert_eq!(edit(first, &[24]), Some(EventLogError::Pcr { event: 1, pcr: 24 }));
    let many = [good, &good[span(good, 1)].repeat(MAX_EVENTS)].concat();
    assert_eq!(EventLog::parse(&many).err(), Some(EventLogError::TooManyEvents));
}

#[test]
fn startup_locality_is_read_once_and_early() {
    let event = |locality: u8| {
        let mut bytes = [0u32, event_type::NO_ACTION].map(u32::to_le_bytes).concat();
        bytes.extend(0u32.to_le_bytes());
        bytes.extend(17u32.to_le_bytes());
        bytes.extend(b"StartupLocality\0");
        bytes.push(locality);
        bytes
    };
    let (_, boot) = booted(1);
    let header = span(boot.log(), 1).start;
    let (head, rest) = boot.log().split_at(header);
    let log = EventLog::parse(&[head, &event(3), rest].concat()).unwrap();
    assert_eq!(log.startup_locality(), 3);
    assert_eq!(log.initial(HashAlg::Sha256, 0)[31], 3);
    let refused = |bytes: Vec<u8>| {
        assert!(matches!(EventLog::parse(&bytes), Err(EventLogError::StartupLocality { .. })));
    };
    refused([head, &event(5), rest].concat());
    refused([head, &event(3), &event(3), rest].concat());
    refused([boot.log(), &event(3)].concat());
}

proptest::proptest! {
    #[test]
    fn never_panics(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..400)) {
        let _ = EventLog::parse(&bytes);
    }

    #[test]
    fn never_panics_behind_a_good_header(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..400)) {
        let boot = SimulatedBoot::new(&BootOptions::default());
        let header = span(boot.log(), 1).start;
        if let Ok(log) = EventLog::parse(&[&boot.log()[..header], &bytes].concat()) {
            let _ = log.replay(HashAlg::Sha256);
        }
    }

    #[test]
    fn a_flipped_bit_never_panics_and_never_proves_another_boot(bit in 0usize..8 * 5_000) {
        let (tpm, boot) = booted(1);
        let mut bytes = boot.log().to_vec();
        let at = (bit / 8) % bytes.len();
        bytes[at] ^= 1 << (bit % 8);
        if let Ok(log) = EventLog::parse(&bytes)
            && let Ok(verified) = verify_replay(&log, &quote(&tpm, &COVERED), &COVERED)
        {
            proptest::prop_assert_ne!(verified.facts().secure_boot, SecureBoot::Off);
        }
    }
}
