//! Lists of real machines and of other projects' tests, with the results beside them.

use std::path::Path;

use serde_json::Value as Json;

use super::aggregate::{Aggregate, compare};
use super::list::{Entries, Entry, ListError};
use super::register::{Register, Rule};
use super::signature::{KeyFloor, Keyring, KeyringError, Verdict};
use super::template::FieldError;
use super::to_binary;
use crate::algorithm::HashAlg;
use crate::eventlog::{EventLog, verify_replay};
use crate::key::KeyError;
use crate::simulated::SimulatedTpm;
use crate::testing::{every_vectors, json, random, unhex, vector_bytes, vectors};

/// A list of the vectors: binary bytes, the hash of its column, and what is expected of it.
struct List {
    name: String,
    bytes: Vec<u8>,
    column: HashAlg,
    expected: Json,
}

fn lists(folder: &Path) -> Vec<List> {
    let page = json(&folder.join("expected.json"));
    let listed = page["lists"].as_object().unwrap();
    let read = |(name, expected): (&String, &Json)| {
        let bytes = vector_bytes(&folder.join(name));
        // Made by hand with 32 bytes in the column that has 20 in a kernel's list.
        let wide = name.ends_with("sm3_256") || name.ends_with("unknown");
        let column = if wide { HashAlg::Sha256 } else { HashAlg::Sha1 };
        let bytes = match expected["form"].as_str().unwrap() {
            "ascii" => to_binary(&bytes, column).unwrap(),
            _ => bytes,
        };
        List { name: name.clone(), bytes, column, expected: expected.clone() }
    };
    listed.iter().map(read).collect()
}

fn whole(list: &List) -> (Vec<Entry<'_>>, Option<ListError>) {
    let mut entries = Vec::new();
    for entry in Entries::new(&list.bytes, list.column).unwrap() {
        match entry {
            Ok(entry) => entries.push(entry),
            Err(error) => return (entries, Some(error)),
        }
    }
    (entries, None)
}

fn register(entries: &[Entry<'_>], bank: HashAlg, rule: Rule, column: HashAlg) -> (String, Vec<usize>) {
    let mut register = Register::new(bank, rule);
    let mut wrong = Vec::new();
    for entry in entries {
        if !register.extend(entry, column).agrees {
            wrong.push(entry.index());
        }
    }
    (data_encoding::HEXLOWER.encode(register.value().as_bytes()), wrong)
}

/// Counts, ends and violations.
fn check_entries(list: &List, entries: &[Entry<'_>]) {
    let (name, expected) = (&list.name, &list.expected);
    let number = |key: &str| expected[key].as_u64().map(|number| usize::try_from(number).unwrap());
    assert_eq!(Some(entries.len()), number("entries").or(Some(0)), "{name}");
    let violations: Vec<usize> = entries.iter().filter(|one| one.is_violation()).map(Entry::index).collect();
    assert_eq!(number("violations").unwrap_or_default(), violations.len(), "{name}");
    for (entry, key) in [(entries.first(), "first_entry"), (entries.last(), "last_entry")] {
        let Some(path) = expected[key]["path"].as_str() else { continue };
        let entry = entry.unwrap();
        assert_eq!(entry.hinted_path().unwrap(), path.as_bytes(), "{name}");
        if let Some(hash) = expected[key]["template_hash"].as_str() {
            assert_eq!(entry.logged(), unhex(hash), "{name}");
        }
    }
    for (template, count) in expected["templates"].as_object().into_iter().flatten() {
        let found = entries.iter().filter(|entry| entry.template().name() == template).count();
        assert_eq!(found as u64, count.as_u64().unwrap(), "{name} {template}");
    }
    for (pcr, count) in expected["pcrs"].as_object().into_iter().flatten() {
        let found = entries.iter().filter(|entry| entry.pcr().to_string() == *pcr).count();
        assert_eq!(found as u64, count.as_u64().unwrap(), "{name} PCR {pcr}");
    }
    let source = &expected["source_expected"];
    for (at, hash) in source["template_hashes"].as_array().into_iter().flatten().enumerate() {
        assert_eq!(entries[at].logged(), unhex(hash.as_str().unwrap()), "{name} {at}");
    }
    for (at, path) in source["names"].as_array().into_iter().flatten().enumerate() {
        assert_eq!(entries[at].hinted_path().unwrap(), path.as_str().unwrap().as_bytes(), "{name} {at}");
    }
}

fn check_registers(list: &List, entries: &[Entry<'_>]) {
    let (name, expected) = (&list.name, &list.expected["registers"]["10"]);
    let rules = [
        ("sha256", HashAlg::Sha256, Rule::Rehashed),
        ("sha384", HashAlg::Sha384, Rule::Rehashed),
        ("sha256_sha1_padded", HashAlg::Sha256, Rule::PaddedSha1),
        ("sha384_sha1_padded", HashAlg::Sha384, Rule::PaddedSha1),
    ];
    let mut wrong = Vec::new();
    // The padded values of the page extend the logged SHA-1 hash, which we never believe: where an entry was edited, or
    // the column isn't SHA-1, they aren't ours.
    let logged_is_true = list.expected["template_hash_mismatches"].as_array().is_none_or(Vec::is_empty)
        && list.column == HashAlg::Sha1;
    for (key, bank, rule) in rules {
        let (value, mismatches) = register(entries, bank, rule, list.column);
        wrong = mismatches;
        if rule == Rule::Rehashed || logged_is_true {
            assert_eq!(value, expected[key].as_str().unwrap(), "{name} {key}");
        }
    }
    let (value, _) = register(entries, HashAlg::Sha1, Rule::Rehashed, list.column);
    let own = expected["sha1_recomputed"].as_str().or(expected["sha1"].as_str()).unwrap();
    if list.column == HashAlg::Sha1 {
        assert_eq!(value, own, "{name} sha1");
        let stated: Vec<usize> = list.expected["template_hash_mismatches"]
            .as_array()
            .unwrap()
            .iter()
            .map(|index| usize::try_from(index.as_u64().unwrap()).unwrap())
            .collect();
        assert_eq!(wrong, stated, "{name}");
    } else {
        // SM3 isn't computed here: a column of it agrees with nothing, which is a refusal.
        assert_eq!(wrong, [1], "{name}");
    }
}

#[test]
fn real_lists_are_read_and_replay_as_expected() {
    for list in every_vectors("ima").iter().flat_map(|folder| lists(folder)) {
        let (entries, error) = whole(&list);
        let complete = list.expected["outcome"] == "complete";
        assert_eq!(error.is_none(), complete, "{}: {error:?}", list.name);
        check_entries(&list, &entries);
        if list.expected["registers"].is_object() {
            check_registers(&list, &entries);
        }
        for entry in &entries {
            match entry.measured() {
                Ok(measured) => assert_eq!(measured.is_none(), entry.is_violation()),
                Err(error) => {
                    assert!(list.name.ends_with("ima-log-unknown"), "{}: {error}", list.name);
                    assert_eq!(error, ListError::Field { entry: 1, error: FieldError::DigestAlgorithm });
                }
            }
        }
    }
}

#[test]
fn the_ascii_form_of_a_list_is_the_beginning_of_the_binary_one() {
    let Some(folder) = vectors("ima") else { return };
    let binary = vector_bytes(&folder.join("charra/binary_runtime_measurements"));
    let ascii = vector_bytes(&folder.join("charra/ascii_runtime_measurements"));
    let converted = to_binary(&ascii, HashAlg::Sha1).unwrap();
    assert!(binary.starts_with(&converted));
    assert_eq!(Entries::new(&converted, HashAlg::Sha1).unwrap().count(), 1646);
}

#[test]
fn a_list_leads_to_the_register_of_its_machine_one_entry_before_its_end() {
    let Some(folder) = vectors("ima") else { return };
    let bytes = vector_bytes(&folder.join("guard-oss/h12ssl.binary_measurements"));
    let page = json(&folder.join("expected.json"));
    let stated = &page["lists"]["guard-oss/h12ssl.binary_measurements"]["source_expected"]["pcr10"];
    let quoted = unhex(stated["sha1"].as_str().unwrap());
    let mut register = Register::new(HashAlg::Sha1, Rule::Rehashed);
    let mut reached = None;
    for entry in Entries::new(&bytes, HashAlg::Sha1).unwrap() {
        let entry = entry.unwrap();
        assert!(register.extend(&entry, HashAlg::Sha1).agrees);
        if register.value().as_bytes() == quoted {
            reached = Some(entry.index() + 1);
        }
    }
    assert_eq!(reached, Some(2364));
}

#[test]
fn boot_aggregate_agrees_with_the_registers_of_its_machine_and_with_no_others() {
    let Some(folder) = vectors("ima") else { return };
    let bytes = vector_bytes(&folder.join("guard-oss/h12ssl.binary_measurements"));
    let entry = Entries::new(&bytes, HashAlg::Sha1).unwrap().next().unwrap().unwrap();
    let measured = entry.measured().unwrap().unwrap();
    let page = json(&folder.join("expected.json"));
    let values = &page["event_logs"]["guard-oss/h12ssl.bios_measurements"]["banks"];
    let of = |bank: &str| -> Vec<Vec<u8>> {
        (0..10).map(|pcr| unhex(values[bank][pcr.to_string()].as_str().unwrap())).collect()
    };
    let (sha1, sha256) = (of("sha1"), of("sha256"));
    let at = |values: &[Vec<u8>], pcr: u32| values.get(pcr as usize).map(Vec::len).is_some();
    assert!(at(&sha1, 9) && !at(&sha1, 10));
    assert_eq!(
        compare(&measured, HashAlg::Sha1, |pcr| sha1.get(pcr as usize).map(Vec::as_slice)),
        Aggregate::Checked
    );
    let mut other = sha1.clone();
    other[7][0] ^= 1;
    let verdict = compare(&measured, HashAlg::Sha1, |pcr| other.get(pcr as usize).map(Vec::as_slice));
    assert_eq!(verdict, Aggregate::Mismatch);
    // A SHA-1 boot_aggregate says nothing of the SHA-256 bank.
    let verdict = compare(&measured, HashAlg::Sha256, |pcr| sha256.get(pcr as usize).map(Vec::as_slice));
    assert_eq!(verdict, Aggregate::NotQuoted);
}

/// The logs of two real machines' firmware, which lie beside their kernels' lists.
#[test]
fn the_firmware_logs_beside_the_lists_replay_as_expected_and_make_the_boot_aggregate() {
    let Some(folder) = vectors("ima") else { return };
    let page = json(&folder.join("expected.json"));
    let logs = page["event_logs"].as_object().unwrap();
    assert_eq!(logs.len(), 2);
    for (path, expected) in logs {
        let log = EventLog::parse(&vector_bytes(&folder.join(path))).unwrap();
        assert_eq!(log.events().count() as u64, expected["records"].as_u64().unwrap(), "{path}");
        for (name, values) in expected["banks"].as_object().unwrap() {
            let bank = HashAlg::ALL.into_iter().find(|bank| bank.name() == name).unwrap();
            let replay = log.replay(bank).unwrap();
            let values = values.as_object().unwrap();
            assert_eq!(replay.pcrs().count(), values.len(), "{path} {name}");
            for (pcr, value) in values {
                let value = unhex(value.as_str().unwrap());
                assert_eq!(replay.pcr(pcr.parse().unwrap()), Some(value.as_slice()), "{path} {name} {pcr}");
            }
        }
        // Against a quote of what it leads to, all of it is explained.
        let values: Vec<(u32, Vec<u8>)> =
            log.replay(HashAlg::Sha256).unwrap().pcrs().map(|(pcr, value)| (pcr, value.to_vec())).collect();
        let tpm = SimulatedTpm::new(&mut random(3)).unwrap();
        let pcrs: Vec<u32> = values.iter().map(|(pcr, _)| *pcr).collect();
        let quote = tpm.worn(HashAlg::Sha256, &values).unwrap();
        assert_eq!(verify_replay(&log, &quote, &pcrs).unwrap().covered(), pcrs, "{path}");
    }
    let aggregate = |list: &str, log: &str, bank| {
        let list = vector_bytes(&folder.join(list));
        let entry = Entries::new(&list, HashAlg::Sha1).unwrap().next().unwrap().unwrap();
        let log = EventLog::parse(&vector_bytes(&folder.join(log))).unwrap();
        let replay = log.replay(bank).unwrap();
        compare(&entry.measured().unwrap().unwrap(), bank, |pcr| replay.pcr(pcr))
    };
    let (h12ssl, charra) = ("guard-oss/h12ssl.bios_measurements", "charra/binary_bios_measurements");
    let list = "guard-oss/h12ssl.binary_measurements";
    assert_eq!(aggregate(list, h12ssl, HashAlg::Sha1), Aggregate::Checked);
    assert_eq!(aggregate(list, h12ssl, HashAlg::Sha256), Aggregate::NotQuoted);
    // That machine's kernel found no TPM in time and wrote zeros.
    assert_eq!(aggregate("charra/binary_runtime_measurements", charra, HashAlg::Sha256), Aggregate::Zero);
}

#[test]
fn signatures_are_judged_as_expected_and_a_weak_key_only_on_demand() {
    let Some(folder) = vectors("ima") else { return };
    let key = vector_bytes(&folder.join("acs/imakey.der"));
    let refused = Keyring::new(KeyFloor::Sound).add(&key);
    assert_eq!(refused, Err(KeyringError::Key(KeyError::Modulus)));
    let mut keyring = Keyring::new(KeyFloor::DangerLegacy);
    assert_eq!(keyring.add(&key).unwrap().to_string(), "0beb6a13");
    let bytes = vector_bytes(&folder.join("acs/imasig.log"));
    let page = json(&folder.join("expected.json"));
    let expected = &page["lists"]["acs/imasig.log"]["signature_check"];
    let (mut valid, mut absent, mut other, mut invalid) = (0, 0, Vec::new(), Vec::new());
    for entry in Entries::new(&bytes, HashAlg::Sha1).unwrap() {
        let entry = entry.unwrap();
        match keyring.verify(&entry.measured().unwrap().unwrap()) {
            Verdict::Valid(_) => valid += 1,
            Verdict::Absent => absent += 1,
            Verdict::UnknownKey(id) => other.push((entry.index(), id.to_string())),
            Verdict::Invalid(_) => invalid.push(entry.index()),
            Verdict::Unsupported | Verdict::UnknownSigner => panic!("entry {}", entry.index()),
        }
    }
    assert_eq!((valid, absent), (896, 184));
    assert_eq!(expected["valid"].as_u64(), Some(valid));
    let stated: Vec<(usize, String)> = expected["other_key"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| {
            let entry = usize::try_from(one["entry"].as_u64().unwrap()).unwrap();
            (entry, one["key_id"].as_str().unwrap().to_owned())
        })
        .collect();
    assert_eq!(other, stated);
    assert_eq!(invalid, [1082]);
}
