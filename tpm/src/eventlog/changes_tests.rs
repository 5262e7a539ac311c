//! What changed between two boots: of logs made for it, of every pair of real logs, and of logs made by somebody who doesn't want it told.

use std::collections::BTreeSet;

use super::changes::{Change, ChangeKind, Item, Subject, between, events, facts_between};
use super::facts_tests::Log;
use super::variable::{EFI_GLOBAL_VARIABLE, IMAGE_SECURITY_DATABASE};
use super::{BootLogRefusal, EventLog, ExplainedValues, event_type, explain};
use crate::algorithm::HashAlg;
use crate::simulated::boot::{BootOptions, SimulatedBoot};
use crate::testing::{every_vectors, json, vector_bytes, vectors};

const BANK: HashAlg = HashAlg::Sha256;

fn explained(log: &EventLog, bank: HashAlg) -> Result<ExplainedValues<'_>, BootLogRefusal> {
    let replay = log.replay(bank)?;
    let values: Vec<(u32, Vec<u8>)> = replay.pcrs().map(|(pcr, value)| (pcr, value.to_vec())).collect();
    let pcrs: Vec<u32> = values.iter().map(|(pcr, _)| *pcr).collect();
    explain(log, bank, &values, &pcrs)
}

/// Registers that don't lead to the same value.
fn differing(one: &EventLog, other: &EventLog, bank: HashAlg) -> Vec<u32> {
    let (one, other) = (one.replay(bank).unwrap(), other.replay(bank).unwrap());
    (0..=23).filter(|pcr| one.pcr(*pcr) != other.pcr(*pcr)).collect()
}

fn compare(one: &[u8], other: &[u8]) -> Vec<Change> {
    let (one, other) = (EventLog::parse(one).unwrap(), EventLog::parse(other).unwrap());
    let pcrs = differing(&one, &other, BANK);
    between(&explained(&one, BANK).unwrap(), &explained(&other, BANK).unwrap(), &pcrs)
}

/// Register, subject, what became of it, and both sides in short.
fn short(change: &Change) -> (u32, Subject, ChangeKind, String, String) {
    let side = |side: &Option<super::changes::Side>| {
        let Some(side) = side else { return String::new() };
        let parts = [side.name.clone(), side.text.clone()];
        parts.into_iter().flatten().collect::<Vec<_>>().join("|")
    };
    (change.pcr, change.subject, change.change, side(&change.reference), side(&change.host))
}

#[test]
fn another_loader_and_another_command_line_are_all_that_changed() {
    let before = SimulatedBoot::new(&BootOptions::default());
    let after = SimulatedBoot::new(&BootOptions {
        boot_loader_build: 2,
        kernel_command_line: "/vmlinuz root=/dev/vda1 ro quiet iommu=off".to_owned(),
        ..BootOptions::default()
    });
    let found = compare(before.log(), after.log());
    let line = "/vmlinuz root=/dev/vda1 ro quiet";
    let path = "\\EFI\\sim\\shimx64.efi";
    assert_eq!(
        found.iter().map(short).collect::<Vec<_>>(),
        [
            (4, Subject::BootLoader, ChangeKind::Changed, path.to_owned(), path.to_owned()),
            (8, Subject::CommandLine, ChangeKind::Changed, line.to_owned(), format!("{line} iommu=off")),
        ]
    );
    assert!(
        !found[0].name_proven && found[1].name_proven,
        "a path is the log's word, a command line is measured"
    );
    let digest = found[0].host.as_ref().unwrap().digest.as_ref().unwrap();
    let log = EventLog::parse(after.log()).unwrap();
    let measured = log.events().find(|event| event.kind() == event_type::EFI_BOOT_SERVICES_APPLICATION);
    assert_eq!(*digest, data_encoding::HEXLOWER.encode(measured.unwrap().digest(BANK).unwrap()));
    assert_eq!(compare(before.log(), before.log()), []);
}

#[test]
fn firmware_secure_boot_kernel_and_order_are_told_by_what_they_are() {
    let before = SimulatedBoot::new(&BootOptions::default());
    let off = SimulatedBoot::new(&BootOptions { secure_boot: false, ..BootOptions::default() });
    let found = compare(before.log(), off.log());
    let told: Vec<(u32, Subject, ChangeKind)> =
        found.iter().map(|one| (one.pcr, one.subject, one.change)).collect();
    let changed = |subject| (7, subject, ChangeKind::Changed);
    let all = [Subject::SecureBoot, Subject::PlatformKey, Subject::KeyExchangeKeys, Subject::Allowed];
    assert_eq!(told, all.map(changed));
    assert_eq!(short(&found[0]).3, "on");
    assert_eq!(short(&found[0]).4, "off");
    let (one, other) = (EventLog::parse(before.log()).unwrap(), EventLog::parse(off.log()).unwrap());
    let facts = facts_between(&explained(&one, BANK).unwrap(), &explained(&other, BANK).unwrap());
    assert_eq!(facts.len(), 1);
    assert_eq!((facts[0].reference.as_deref(), facts[0].host.as_deref()), (Some("on"), Some("off")));

    let other = SimulatedBoot::new(&BootOptions { seed: 9, ..BootOptions::default() });
    let found = compare(before.log(), other.log());
    let subjects: Vec<Subject> = found.iter().map(|one| one.subject).collect();
    for subject in [
        Subject::Firmware,
        Subject::BootLoader,
        Subject::Application,
        Subject::PartitionTable,
        Subject::Kernel,
        Subject::Initrd,
    ] {
        assert!(subjects.contains(&subject), "{subject:?}: {found:?}");
    }
    assert!(found.iter().all(|one| one.change == ChangeKind::Changed), "{found:?}");
}

fn variable_data(guid: &[u8; 16], name: &str, value: &[u8]) -> Vec<u8> {
    let name: Vec<u8> = name.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let lengths = [name.len() / 2, value.len()].map(|len| u64::try_from(len).unwrap().to_le_bytes()).concat();
    [guid.as_slice(), &lengths, &name, value].concat()
}

/// EFI_SIGNATURE_LIST of certificates, or of image digests.
fn signature_list(certificates: bool, entries: &[Vec<u8>]) -> Vec<u8> {
    let x509 =
        [0xa1, 0x59, 0xc0, 0xa5, 0xe4, 0x94, 0xa7, 0x4a, 0x87, 0xb5, 0xab, 0x15, 0x5c, 0x2b, 0xf0, 0x72];
    let sha256 =
        [0x26, 0x16, 0xc4, 0xc1, 0x4c, 0x50, 0x92, 0x40, 0xac, 0xa9, 0x41, 0xf9, 0x36, 0x93, 0x43, 0x28];
    let size = entries[0].len();
    let header = [28 + size * entries.len(), 0, size].map(|len| u32::try_from(len).unwrap().to_le_bytes());
    [if certificates { x509 } else { sha256 }.as_slice(), &header.concat(), &entries.concat()].concat()
}

/// A boot of firmware alone: PCR 7 with these databases, and what else.
fn keys(databases: &[(&[u8; 16], &str, Vec<u8>)]) -> Log {
    databases.iter().fold(Log::new(), |log, (guid, name, value)| {
        let data = variable_data(guid, name, value);
        log.with(7, event_type::EFI_VARIABLE_DRIVER_CONFIG, &data, &data)
    })
}

fn named_certificate(name: &str) -> Vec<u8> {
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    let key = rcgen::KeyPair::generate().unwrap();
    params.self_signed(&key).unwrap().der().to_vec()
}

#[test]
fn certificates_and_image_digests_come_and_go_by_name_and_number() {
    let (old, new, kept) =
        (named_certificate("Old CA"), named_certificate("New\u{1b}[31m \u{202e}CA"), vec![3; 260]);
    let owned = |entry: &[u8]| [&[7; 16], entry].concat();
    let x509 = |entry: &[u8]| signature_list(true, &[owned(entry)]);
    let images = |numbers: &[u8]| {
        let entries: Vec<Vec<u8>> = numbers.iter().map(|number| owned(&[*number; 32])).collect();
        signature_list(false, &entries)
    };
    let of = |db: Vec<u8>, dbx: Vec<u8>| {
        keys(&[(&IMAGE_SECURITY_DATABASE, "db", db), (&IMAGE_SECURITY_DATABASE, "dbx", dbx)]).with(
            7,
            event_type::SEPARATOR,
            &[0; 4],
            &[0; 4],
        )
    };
    let before = of([x509(&kept), x509(&old)].concat(), images(&[1, 2]));
    let after = of([x509(&new), x509(&kept)].concat(), images(&[2, 3, 4, 5]));
    let found = compare(before.bytes(), after.bytes());
    let told: Vec<_> = found
        .iter()
        .map(|one| {
            let side = one.host.as_ref().or(one.reference.as_ref()).unwrap();
            let text = side.name.clone().or(side.text.clone()).unwrap();
            (one.subject.name(), one.item.unwrap(), one.change, text)
        })
        .collect();
    assert_eq!(
        told,
        [
            ("db", Item::Certificate, ChangeKind::Lost, "Old CA".to_owned()),
            ("db", Item::Certificate, ChangeKind::Gained, "New\\u{1b}[31m \\u{202e}CA".to_owned()),
            ("dbx", Item::ImageDigests, ChangeKind::Lost, "1".to_owned()),
            ("dbx", Item::ImageDigests, ChangeKind::Gained, "3".to_owned()),
        ]
    );
    let digest = found[0].reference.as_ref().unwrap().digest.clone();
    assert_eq!(digest, Some(data_encoding::HEXLOWER.encode(&super::variable::sha256(&old))));
    // The same entries in another order are another value and no other certificates.
    let turned = of([x509(&old), x509(&kept)].concat(), images(&[1, 2]));
    let found = compare(before.bytes(), turned.bytes());
    assert_eq!(
        found.iter().map(|one| (one.subject, one.item)).collect::<Vec<_>>(),
        [(Subject::Allowed, Some(Item::Arrangement))]
    );
    // What can't be read is told by its digest.
    let odd = of(b"not a list".to_vec(), images(&[1, 2]));
    let found = compare(before.bytes(), odd.bytes());
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].item, found[0].change), (None, ChangeKind::Changed));
}

#[test]
fn what_moved_what_came_and_what_went_are_told_apart() {
    let of = |names: &[&str]| {
        let start = Log::new().with(9, event_type::IPL, b"/first\0", b"first");
        names.iter().fold(start, |log, name| log.with(9, event_type::IPL, name.as_bytes(), name.as_bytes()))
    };
    let before = of(&["/a.mod", "/b.mod", "/vmlinuz-6.1", "/initrd.img-6.1"]);
    let after = of(&["/b.mod", "/a.mod", "/vmlinuz-6.12", "/extra.cfg", "/initrd.img-6.12"]);
    let found = compare(before.bytes(), after.bytes());
    let told: Vec<_> =
        found.iter().map(short).map(|(_, subject, change, was, is)| (subject, change, was, is)).collect();
    let text = |text: &str| text.to_owned();
    assert_eq!(
        told,
        [
            (Subject::Kernel, ChangeKind::Changed, text("/vmlinuz-6.1"), text("/vmlinuz-6.12")),
            (Subject::Initrd, ChangeKind::Changed, text("/initrd.img-6.1"), text("/initrd.img-6.12")),
            (Subject::File, ChangeKind::Moved, text("/a.mod"), text("/a.mod")),
            (Subject::File, ChangeKind::Gained, text(""), text("/extra.cfg")),
        ]
    );
}

#[test]
fn boot_order_and_boot_options_are_told() {
    let option = |text: &str| {
        let description: Vec<u8> = text.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect();
        let file: Vec<u8> = "\\EFI\\a.efi".encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect();
        let len = u16::try_from(file.len() + 4).unwrap();
        let node = [&[4, 4][..], &len.to_le_bytes(), &file, &[0x7f, 0xff, 4, 0]].concat();
        let len = u16::try_from(node.len()).unwrap();
        [&[1, 0, 0, 0][..], &len.to_le_bytes(), &description, &node].concat()
    };
    let of = |order: &[u8], text: &str| {
        let order = variable_data(&EFI_GLOBAL_VARIABLE, "BootOrder", order);
        let one = option(text);
        let data = variable_data(&EFI_GLOBAL_VARIABLE, "Boot0001", &one);
        // The one type measures the whole record, the other the value alone.
        Log::new()
            .with(1, event_type::EFI_VARIABLE_BOOT2, &order, &order)
            .with(1, event_type::EFI_VARIABLE_BOOT, &data, &one)
            .with(1, event_type::SEPARATOR, &[0; 4], &[0; 4])
    };
    let found = compare(of(&[0, 0, 1, 0], "debian").bytes(), of(&[1, 0, 0, 0], "other").bytes());
    let told: Vec<_> = found.iter().map(short).map(|(_, subject, _, was, is)| (subject, was, is)).collect();
    let text = |text: &str| text.to_owned();
    assert_eq!(
        told,
        [
            (Subject::BootOrder, text("0000,0001"), text("0001,0000")),
            (
                Subject::BootOption,
                text("Boot0001|debian: \\EFI\\a.efi"),
                text("Boot0001|other: \\EFI\\a.efi")
            ),
        ]
    );
}

#[test]
fn nothing_is_told_of_a_register_that_a_log_does_not_explain_or_of_another_bank() {
    let before = SimulatedBoot::new(&BootOptions::default());
    let after = SimulatedBoot::new(&BootOptions { seed: 3, ..BootOptions::default() });
    let (one, other) = (EventLog::parse(before.log()).unwrap(), EventLog::parse(after.log()).unwrap());
    let mut values: Vec<(u32, Vec<u8>)> =
        other.replay(BANK).unwrap().pcrs().map(|(pcr, value)| (pcr, value.to_vec())).collect();
    values.iter_mut().find(|(pcr, _)| *pcr == 4).unwrap().1[0] ^= 1;
    assert!(matches!(explain(&other, BANK, &values, &[0, 4]), Err(BootLogRefusal::Mismatch { pcr: 4, .. })));
    assert!(matches!(explain(&other, BANK, &values, &[]), Err(BootLogRefusal::NothingCovered)));
    assert!(matches!(explain(&other, BANK, &values[..1], &[4]), Err(BootLogRefusal::NotQuoted { pcr: 4 })));
    let partly = explain(&other, BANK, &values, &[0]).unwrap();
    let whole = explained(&one, BANK).unwrap();
    assert!(partly.covers(0) && !partly.covers(4));
    for found in [
        between(&whole, &partly, &[0, 4, 9, 17]),
        between(&partly, &whole, &[0, 4, 9, 17]),
        events(&partly, &[0, 4, 9]),
    ] {
        assert!(found.iter().all(|one| [0, 9].contains(&one.pcr)), "{found:?}");
        assert!(found.iter().any(|one| one.pcr == 0) && found.iter().any(|one| one.pcr == 9));
    }
    assert!(
        events(&whole, &[4]).iter().all(|one| one.change == ChangeKind::Present && one.reference.is_none())
    );
    let other_bank = explained(&one, HashAlg::Sha384).unwrap();
    assert_eq!(between(&whole, &other_bank, &[0, 4]), []);
}

/// Nothing in it moves a cursor, hides or has no end.
fn assert_printable(changes: &[Change]) {
    for change in changes {
        let sides = [&change.reference, &change.host].into_iter().flatten();
        for text in sides.flat_map(|side| [&side.name, &side.text]).flatten() {
            assert!(text.chars().count() <= 10 * super::changes::MAX_TOLD_CHARS + 6, "{text}");
            let odd = |one: char| one.is_control() || (!one.is_ascii() && !one.is_alphanumeric());
            assert!(!text.chars().any(odd), "{text:?}");
        }
    }
}

#[test]
fn hostile_texts_are_told_without_effect_and_long_ones_where_they_part() {
    let path = "\\EFI\\\u{1b}]0;owned\u{7}\r\n\u{202e}x.efi' sha256 00 -> 11".to_owned();
    let evil = SimulatedBoot::new(&BootOptions {
        boot_loader_path: path,
        boot_loader_build: 1,
        kernel_command_line: format!("/vmlinuz {}\u{9b}2J\u{2028}\" -> \"x", "a".repeat(3_000)),
        ..BootOptions::default()
    });
    let plain = SimulatedBoot::new(&BootOptions {
        kernel_command_line: format!("/vmlinuz {}", "a".repeat(3_000)),
        ..BootOptions::default()
    });
    let found = compare(plain.log(), evil.log());
    assert_printable(&found);
    assert_eq!(found.len(), 2, "{found:?}");
    let name = found[0].host.as_ref().unwrap().name.as_deref().unwrap();
    assert_eq!(name, "\\EFI\\\\u{1b}]0;owned\\u{7}\\u{d}\\u{a}\\u{202e}x.efi' sha256 00 -> 11");
    let line = found[1].host.as_ref().unwrap().text.as_deref().unwrap();
    assert!(line.starts_with("...aaa") && line.ends_with("\\u{9b}2J\\u{2028}\" -> \"x"), "{line}");
    assert!(line.len() < 200, "{line}");
    let log = EventLog::parse(evil.log()).unwrap();
    assert_printable(&events(&explained(&log, BANK).unwrap(), &(0..=23).collect::<Vec<_>>()));
}

/// Types aren't measured, so whoever edits the log may give his loader the firmware's.
#[test]
fn what_is_logged_as_firmware_elsewhere_is_not_told_as_firmware() {
    let of = |build: &[u8]| {
        let start = Log::new().with(4, event_type::SEPARATOR, &[0; 4], &[0; 4]);
        start.with(4, event_type::EFI_PLATFORM_FIRMWARE_BLOB, b"", build)
    };
    let found = compare(of(b"one").bytes(), of(b"other").bytes());
    assert_eq!(found.iter().map(|one| one.subject).collect::<Vec<_>>(), [Subject::Event; 2]);
}

#[test]
fn letters_that_hide_or_turn_are_told_by_number() {
    let hidden = "a\u{3164}b\u{5d0}\u{e9}";
    assert_eq!(super::told::printable(hidden), "a\\u{3164}b\\u{5d0}\\u{e9}");
}

/// Every log of a folder that leads anywhere in this bank, by its path.
fn logs(folder: &std::path::Path, bank: HashAlg) -> Vec<(String, EventLog)> {
    let expected = json(&folder.join("expected.json"));
    let paths = expected["logs"].as_object().unwrap().keys().cloned();
    let read = |path: String| {
        let log = EventLog::parse(&vector_bytes(&folder.join(&path))).ok()?;
        explained(&log, bank).is_ok().then_some((path, log))
    };
    paths.filter_map(read).collect()
}

#[test]
fn of_every_pair_of_real_logs_the_differing_registers_are_told_and_both_ways_the_same() {
    let mut all: Vec<(String, EventLog)> =
        every_vectors("eventlog").iter().flat_map(|folder| logs(folder, BANK)).collect();
    let simulated = SimulatedBoot::new(&BootOptions::default());
    all.push(("simulated".to_owned(), EventLog::parse(simulated.log()).unwrap()));
    assert!(all.len() >= 2);
    for (a, (path_a, one)) in all.iter().enumerate() {
        for (path_b, other) in all.iter().skip(a) {
            let differ = differing(one, other, BANK);
            let (left, right) = (explained(one, BANK).unwrap(), explained(other, BANK).unwrap());
            let (there, back) = (between(&left, &right, &differ), between(&right, &left, &differ));
            let place = format!("{path_a} and {path_b}");
            for pcr in differ.iter().filter(|pcr| left.covers(**pcr) && right.covers(**pcr)) {
                assert!(there.iter().any(|change| change.pcr == *pcr), "{place}: PCR {pcr}");
            }
            assert_printable(&there);
            let registers = |found: &[Change]| found.iter().map(|one| one.pcr).collect::<BTreeSet<_>>();
            assert_eq!(registers(&there), registers(&back), "{place}");
            assert!(a != 0 || path_a != path_b || there.is_empty(), "{place}");
        }
    }
}

#[test]
fn an_altered_real_log_differs_in_just_what_was_altered() {
    let Some(folder) = vectors("eventlog") else { return };
    let read = |name: &str| vector_bytes(&folder.join("hirs").join(name));
    let found = compare(&read("TpmLog.bin"), &read("TPMLog_Altered.bin"));
    let told: Vec<_> = found.iter().map(short).collect();
    let order = "0004,0003,0002,0000,0001,0005".to_owned();
    assert_eq!(
        told,
        [
            (0, Subject::Firmware, ChangeKind::Changed, String::new(), String::new()),
            // The altered record's data doesn't hash to its digest any more: what it says isn't told.
            (1, Subject::BootOrder, ChangeKind::Changed, order, String::new()),
        ]
    );
}

#[test]
fn between_two_real_installations_firmware_loader_revocations_kernel_and_command_line_are_named() {
    let Some(folder) = vectors("eventlog") else { return };
    let read = |name: &str| vector_bytes(&folder.join("go-tpm-tools").join(name));
    let found = compare(&read("ubuntu-2104-no-dbx.bin"), &read("ubuntu-2404-amd-sevsnp.bin"));
    let told: Vec<_> = found.iter().map(short).collect();
    let shim = "\\EFI\\ubuntu\\shimx64.efi";
    let changed = ChangeKind::Changed;
    for (pcr, subject, change, was, is) in [
        (0, Subject::FirmwareVersion, changed, "GCE Virtual Firmware v1", "GCE Virtual Firmware v2"),
        (1, Subject::BootOrder, changed, "0003,0000,0001,0002", "0002,0001,0000"),
        (4, Subject::BootLoader, changed, shim, shim),
        (7, Subject::Forbidden, ChangeKind::Gained, "", "371"),
        (9, Subject::Kernel, changed, "/boot/vmlinuz-5.11.0-1008-gcp", "/vmlinuz-6.8.0-1010-gcp"),
        (14, Subject::MachineOwnerKeys, changed, "MokListX", "MokListX"),
    ] {
        let expect = (pcr, subject, change, was.to_owned(), is.to_owned());
        assert!(told.contains(&expect), "{expect:?}: {told:?}");
    }
    let line = told.iter().find(|one| one.0 == 8).unwrap();
    assert_eq!(line.1, Subject::CommandLine, "before the commands");
    assert!(line.3.starts_with("/boot/vmlinuz-5.11.0-1008-gcp ") && line.4.ends_with("panic=-1"), "{line:?}");
    assert!(told.iter().any(|one| one.1 == Subject::Command && one.2 != changed), "commands aren't paired");
    assert!(told.iter().all(|one| one.1 != Subject::Command || one.2 != changed), "commands aren't paired");
}

#[test]
fn a_separator_of_the_system_is_told_beside_what_else_changed() {
    let before = SimulatedBoot::new(&BootOptions::default());
    let after = SimulatedBoot::new(&BootOptions { boot_loader_build: 2, ..BootOptions::default() });
    let (before, after) = (EventLog::parse(before.log()).unwrap(), EventLog::parse(after.log()).unwrap());
    let pcrs = [0, 4, 7, 9];
    let values = |log: &EventLog, words: &[&str]| -> Vec<(u32, Vec<u8>)> {
        let replay = log.replay(BANK).unwrap();
        let on = |pcr: u32| {
            words
                .iter()
                .filter(|word| pcr == 9 || **word == "os-separator")
                .fold(replay.pcr(pcr).unwrap().to_vec(), |value, word| {
                    BANK.digest_parts(&[&value, &BANK.digest(word.as_bytes())])
                })
        };
        pcrs.map(|pcr| (pcr, on(pcr))).to_vec()
    };
    let words = ["os-separator", "nvpcr-separator"];
    let reference = values(&before, &[]);
    let host = values(&after, &words);
    let one = explain(&before, BANK, &reference, &pcrs).unwrap();
    let other = explain(&after, BANK, &host, &pcrs).unwrap();
    let told = |found: &[Change]| -> Vec<(u32, Subject, ChangeKind, String)> {
        found.iter().map(short).map(|(pcr, subject, kind, was, is)| (pcr, subject, kind, was + &is)).collect()
    };
    let path = "\\EFI\\sim\\shimx64.efi";
    let separator = |pcr, kind, word: &str| (pcr, Subject::SystemSeparator, kind, word.to_owned());
    let gained = |pcr| separator(pcr, ChangeKind::Gained, words[0]);
    let loader = (4, Subject::BootLoader, ChangeKind::Changed, [path, path].concat());
    let nv = separator(9, ChangeKind::Gained, words[1]);
    let expect = [gained(0), loader, gained(4), gained(7), gained(9), nv];
    assert_eq!(told(&between(&one, &other, &pcrs)), expect);
    let back = told(&between(&other, &one, &pcrs));
    assert_eq!(back.iter().filter(|one| one.2 == ChangeKind::Lost).count(), 5, "{back:?}");
    let own = told(&events(&other, &[0]));
    assert_eq!(own.last(), Some(&separator(0, ChangeKind::Present, words[0])));
    // The same boot with the words measured is the same as before it, and another word leaves the register out.
    let again = values(&before, &words);
    let same = explain(&before, BANK, &again, &pcrs).unwrap();
    assert!(between(&same, &explain(&before, BANK, &again, &pcrs).unwrap(), &pcrs).is_empty());
    assert!(explain(&before, BANK, &values(&before, &["other"]), &[9]).is_err());
}
