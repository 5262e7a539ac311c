//! Facts: those of every real log, and every way of editing a log that must not make, change or hide one.

use super::facts::{
    BootFacts, MAX_CERTIFICATES, MAX_CMDLINE_BYTES, MAX_FACTS_BYTES, MAX_SBAT_BYTES, MAX_VERSION_CHARS,
    SecureBoot, SignatureDatabase,
};
use super::known_facts_tests::{ROWS, Row};
use super::variable::{self, EFI_GLOBAL_VARIABLE, IMAGE_SECURITY_DATABASE, SHIM_LOCK};
use super::words::InLog;
use super::{EventLog, MAX_EVENTS, event_type};
use crate::algorithm::HashAlg;
use crate::testing::{every_vectors, json, vector_bytes, vectors};

const ALL: [u32; 15] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14];

pub(super) fn facts_of(log: &EventLog, bank: HashAlg, covered: &[u32]) -> BootFacts {
    BootFacts::extract(log, bank, &InLog::of(log, bank), covered)
}

fn bank_named(name: &str) -> HashAlg {
    HashAlg::ALL.into_iter().find(|alg| alg.name() == name).unwrap()
}

fn database(found: &Option<SignatureDatabase>) -> Option<(usize, usize)> {
    found.as_ref().map(|found| (found.certificates.as_ref().unwrap().len(), found.image_digests))
}

fn length<T>(list: &Option<Vec<T>>) -> usize {
    list.as_ref().unwrap().len()
}

fn check_row(row: &Row, facts: &BootFacts) {
    let path = row.path;
    assert_eq!(facts.firmware_version.as_deref().unwrap_or_default(), row.firmware, "{path}");
    let counts = [
        length(&facts.option_roms),
        length(&facts.applications),
        length(&facts.files),
        length(&facts.machine_owner_keys),
    ];
    assert_eq!(counts, row.counts, "{path}");
    assert_eq!(facts.exit_boot_services, Some(row.exit_boot_services), "{path}");
    let found = [&facts.platform_key, &facts.key_exchange_keys, &facts.allowed, &facts.forbidden];
    let digests = found.map(|found| {
        found.as_ref().map(|found| data_encoding::HEXLOWER.encode(&found.digest[..4])).unwrap_or_default()
    });
    assert_eq!(digests, row.databases, "{path}");
    assert_eq!(database(&facts.allowed), row.allowed, "{path}: db");
    assert_eq!(database(&facts.forbidden), row.forbidden, "{path}: dbx");
    assert_eq!(length(&facts.authorities), row.authorities, "{path}: authorities");
    let sbat = facts.sbat_level.as_deref().and_then(|text| text.lines().next()).unwrap_or_default();
    assert_eq!(sbat, row.sbat, "{path}");
    let cmdline = facts
        .kernel_cmdline
        .as_ref()
        .map(|line| data_encoding::HEXLOWER.encode(&HashAlg::Sha256.digest(line.as_bytes())[..4]));
    assert_eq!(cmdline.unwrap_or_default(), row.cmdline, "{path}: {:?}", facts.kernel_cmdline);
    assert_eq!((facts.debug_mode, facts.dma_unprotected), (Some(false), Some(false)), "{path}");
}

#[test]
fn facts_of_every_real_log_are_what_another_program_counts() {
    let Some(folder) = vectors("eventlog") else { return };
    for row in ROWS {
        let log = EventLog::parse(&vector_bytes(&folder.join(row.path))).unwrap();
        check_row(row, &facts_of(&log, bank_named(row.bank), &ALL));
    }
    assert!(ROWS.len() >= 32);
    assert!(ROWS.iter().filter(|row| row.databases.iter().all(|digest| !digest.is_empty())).count() >= 25);
}

#[test]
fn applications_and_separators_of_every_real_log_are_as_expected() {
    every_vectors("eventlog").iter().for_each(|folder| applications_and_separators_are_as_expected(folder));
}

fn applications_and_separators_are_as_expected(folder: &std::path::Path) {
    let expected = json(&folder.join("expected.json"));
    for (path, item) in expected["logs"].as_object().unwrap() {
        // A CCEL log numbers its registers otherwise.
        if path.starts_with("go-eventlog/") || item["outcome"] != "complete" {
            continue;
        }
        let log = EventLog::parse(&vector_bytes(&folder.join(path))).unwrap();
        for (name, digests) in item["efi_boot_applications"].as_object().unwrap() {
            let Some(bank) = HashAlg::ALL.into_iter().find(|alg| alg.name() == name) else { continue };
            let facts = facts_of(&log, bank, &ALL);
            let told: Vec<String> =
                facts.applications.unwrap().iter().map(|one| data_encoding::HEXLOWER.encode(one)).collect();
            let expect: Vec<&str> =
                digests.as_array().unwrap().iter().map(|one| one.as_str().unwrap()).collect();
            assert_eq!(told, expect, "{path} {name}");
            for (pcr, values) in item["separators"].as_object().unwrap() {
                let pcr: u32 = pcr.parse().unwrap();
                let value = data_encoding::HEXLOWER.decode(values[0].as_str().unwrap().as_bytes()).unwrap();
                let told = facts.separators.get(&pcr).map(<[u8; 4]>::as_slice);
                assert_eq!(told, Some(value.as_slice()).filter(|_| pcr <= 7), "{path} PCR {pcr}");
            }
        }
    }
}

/// A SHA-256 log in the making.
#[derive(Clone)]
pub(super) struct Log(Vec<u8>);

impl Log {
    pub(super) fn new() -> Self {
        let mut data = b"Spec ID Event03\0".to_vec();
        data.extend([0, 0, 0, 0, 0, 2, 0, 2, 1, 0, 0, 0, 0x0b, 0, 32, 0, 0]);
        let mut log = [0u32, event_type::NO_ACTION].map(u32::to_le_bytes).concat();
        log.extend([0; 20]);
        log.extend(u32::try_from(data.len()).unwrap().to_le_bytes());
        log.extend(data);
        Self(log)
    }

    pub(super) fn with(mut self, pcr: u32, kind: u32, data: &[u8], measured: &[u8]) -> Self {
        self.0.extend([pcr, kind, 1].map(u32::to_le_bytes).concat());
        self.0.extend(HashAlg::Sha256.id().to_le_bytes());
        self.0.extend(HashAlg::Sha256.digest(measured));
        self.0.extend(u32::try_from(data.len()).unwrap().to_le_bytes());
        self.0.extend(data);
        self
    }

    fn text(self, pcr: u32, text: &[u8]) -> Self {
        self.with(pcr, event_type::EFI_ACTION, text, text)
    }

    fn variable(self, guid: &[u8; 16], name: &str, value: &[u8]) -> Self {
        let data = variable_data(guid, name, value);
        self.with(7, event_type::EFI_VARIABLE_DRIVER_CONFIG, &data, &data)
    }

    pub(super) fn separator(self, pcr: u32) -> Self {
        self.with(pcr, event_type::SEPARATOR, &[0; 4], &[0; 4])
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    fn facts(&self) -> BootFacts {
        facts_of(&EventLog::parse(&self.0).unwrap(), HashAlg::Sha256, &ALL)
    }
}

fn variable_data(guid: &[u8; 16], name: &str, value: &[u8]) -> Vec<u8> {
    let name: Vec<u8> = name.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let lengths = [name.len() / 2, value.len()].map(|len| u64::try_from(len).unwrap().to_le_bytes()).concat();
    [guid.as_slice(), &lengths, &name, value].concat()
}

fn utf16_text(text: &str) -> Vec<u8> {
    text.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect()
}

fn certificate(seed: u8) -> Vec<u8> {
    [&[0x30, 0x82, 1, 0][..], &[seed; 256]].concat()
}

#[test]
fn keys_are_told_before_the_separator_and_once() {
    let owned = |seed| [&[7; 16][..], &certificate(seed)].concat();
    let list = |kind: [u8; 16], entries: &[Vec<u8>]| {
        let size = entries[0].len();
        let header =
            [28 + size * entries.len(), 0, size].map(|len| u32::try_from(len).unwrap().to_le_bytes());
        [&kind[..], &header.concat(), &entries.concat()].concat()
    };
    let x509 =
        [0xa1, 0x59, 0xc0, 0xa5, 0xe4, 0x94, 0xa7, 0x4a, 0x87, 0xb5, 0xab, 0x15, 0x5c, 0x2b, 0xf0, 0x72];
    let two = [list(x509, &[owned(1)]), list(x509, &[owned(2), owned(3)])].concat();
    let log = Log::new().variable(&IMAGE_SECURITY_DATABASE, "db", &two);
    let told = log.clone().separator(7).facts().allowed.unwrap();
    assert_eq!(told.digest, variable::sha256(&two));
    assert_eq!(told.certificates, Some([1, 2, 3].map(|seed| variable::sha256(&certificate(seed))).to_vec()));
    // Cut short, it is still a value and no list.
    let cut = Log::new().variable(&IMAGE_SECURITY_DATABASE, "db", &two[..two.len() - 1]).separator(7).facts();
    assert_eq!(cut.allowed.unwrap().certificates, None);
    // More certificates than are told apart.
    let many: Vec<Vec<u8>> =
        (0..=MAX_CERTIFICATES).map(|n| [vec![0; 16], n.to_le_bytes().to_vec()].concat()).collect();
    let many = Log::new().variable(&IMAGE_SECURITY_DATABASE, "db", &list(x509, &many)).separator(7).facts();
    assert_eq!(many.allowed.unwrap().certificates, None);
    // Twice, after the separator, under another vendor.
    assert_eq!(log.variable(&IMAGE_SECURITY_DATABASE, "db", &two).separator(7).facts().allowed, None);
    let late = Log::new().separator(7).variable(&IMAGE_SECURITY_DATABASE, "db", &two).facts();
    assert_eq!(late.allowed, None);
    let other = Log::new().variable(&EFI_GLOBAL_VARIABLE, "db", &two).separator(7).facts();
    assert_eq!(other.allowed, None);
}

#[test]
fn an_authority_that_cannot_be_read_makes_the_list_of_authorities_unknown() {
    let owned = [&[7; 16][..], &certificate(1)].concat();
    let log = Log::new().separator(7).variable(&IMAGE_SECURITY_DATABASE, "db", &owned);
    assert_eq!(log.facts().authorities, Some(vec![variable::sha256(&certificate(1))]));
    // The same record with one byte of its data changed: its digest still says that something was used.
    let mut hidden = log.clone();
    *hidden.0.last_mut().unwrap() ^= 1;
    assert_eq!(hidden.facts().authorities, None);
    // shim's own record with its defects, and the same defects under another name.
    for (name, expect) in [("Shim", Some(vec![variable::sha256(&certificate(2))])), ("Shin", None)] {
        let mut data = variable_data(&SHIM_LOCK, name, &certificate(2));
        data.extend([1, 2, 3, 4, 5, 6]);
        let measured = data[..data.len() - 1].to_vec();
        let log = Log::new().separator(7).with(7, event_type::EFI_VARIABLE_AUTHORITY, &data, &measured);
        assert_eq!(log.facts().authorities, expect, "{name}");
    }
}

#[test]
fn sbat_debugging_and_missing_protection_are_told() {
    let log = Log::new().text(7, b"UEFI Debug Mode").text(7, b"DMA Protection Disabled").separator(7);
    let log = log.variable(&SHIM_LOCK, "SbatLevel", b"sbat,1,2023012900\nshim,2\n");
    let facts = log.facts();
    assert_eq!((facts.debug_mode, facts.dma_unprotected), (Some(true), Some(true)));
    assert_eq!(facts.sbat_level.as_deref(), Some("sbat,1,2023012900\nshim,2\n"));
    // A second level can only come from whoever ran later.
    assert_eq!(log.variable(&SHIM_LOCK, "SbatLevel", b"sbat,1,2030010100\n").facts().sbat_level, None);
    // Renaming or emptying the record of debug mode hides nothing: it is known by its digest.
    let hidden = Log::new().with(7, event_type::EVENT_TAG, b"", b"UEFI Debug Mode").separator(7);
    assert_eq!(hidden.facts().debug_mode, Some(true));
}

#[test]
fn the_command_line_is_the_only_text_that_begins_with_a_path() {
    let grub = |log: Log, label: &str, text: &str| {
        log.with(8, event_type::IPL, format!("{label}: {text}\0").as_bytes(), text.as_bytes())
    };
    let log = grub(Log::new(), "grub_cmd", "set default=0");
    let log = grub(log, "kernel_cmdline", "/vmlinuz root=/dev/sda1 ro");
    assert_eq!(log.facts().kernel_cmdline.as_deref(), Some("/vmlinuz root=/dev/sda1 ro"));
    // Called a command, it is the command line all the same; a second one makes it doubtful.
    let renamed = grub(Log::new(), "grub_cmd", "/vmlinuz root=/dev/sda1 ro");
    assert!(renamed.facts().kernel_cmdline.is_some());
    assert_eq!(grub(log.clone(), "grub_cmd", "/vmlinuz init=/bin/sh").facts().kernel_cmdline, None);
    // A text that can't be read may be another one.
    assert_eq!(log.clone().with(8, event_type::IPL, b"grub_cmd: x\0", b"y").facts().kernel_cmdline, None);
    // RHEL 8 writes no colon and hashes the final zero.
    let rhel = Log::new().with(8, event_type::IPL, b"grub_cmd set x\0", b"set x\0");
    let rhel = rhel.with(8, event_type::IPL, b"grub_kernel_cmdline (hd0)/vmlinuz\0", b"(hd0)/vmlinuz");
    assert_eq!(rhel.facts().kernel_cmdline.as_deref(), Some("(hd0)/vmlinuz"));
}

#[test]
fn a_stub_may_repeat_its_command_line_and_not_change_it() {
    let line = utf16_text("root=/dev/sda2 quiet");
    let once = Log::new().with(12, event_type::IPL, &line, &line);
    assert_eq!(once.facts().kernel_cmdline.as_deref(), Some("root=/dev/sda2 quiet"));
    let twice = once.clone().with(12, event_type::IPL, &line, &line);
    assert_eq!(twice.facts().kernel_cmdline, once.facts().kernel_cmdline);
    let other = utf16_text("init=/bin/sh");
    assert_eq!(once.clone().with(12, event_type::IPL, &other, &other).facts().kernel_cmdline, None);
    assert_eq!(once.with(12, event_type::IPL, &other, b"something else").facts().kernel_cmdline, None);
    // Old systemd-boot logs a byte less than it measures, in PCR 8.
    let cut = Log::new().with(8, event_type::IPL, &line[..line.len() - 1], &line);
    assert_eq!(cut.facts().kernel_cmdline.as_deref(), Some("root=/dev/sda2 quiet"));
}

#[test]
fn sections_of_a_unified_kernel_image_are_told_once() {
    let section = |log: Log, name: &str, contents: &[u8]| {
        let log = log.with(11, event_type::IPL, b"", format!("{name}\0").as_bytes());
        log.with(11, event_type::IPL, b"", contents)
    };
    let log = section(section(Log::new(), ".linux", b"kernel"), ".initrd", b"disk");
    let facts = log.facts();
    assert_eq!(facts.sections.get(".linux"), Some(&HashAlg::Sha256.digest(b"kernel")));
    assert_eq!(facts.sections.get(".initrd"), Some(&HashAlg::Sha256.digest(b"disk")));
    let twice = section(log, ".linux", b"another").facts();
    assert_eq!(twice.sections.get(".linux"), None);
    assert!(twice.sections.contains_key(".initrd"));
}

#[test]
fn actions_are_no_applications_and_registers_that_are_not_covered_tell_nothing() {
    let log = Log::new().text(4, b"Calling EFI Application from Boot Option").separator(4);
    let log = log.with(4, event_type::EFI_BOOT_SERVICES_APPLICATION, b"path", b"shim");
    // Called an action, an application stays one.
    let log = log
        .with(4, event_type::EFI_ACTION, b"grub", b"grub")
        .text(5, b"Exit Boot Services Returned with Success");
    let facts = log.facts();
    assert_eq!(
        facts.applications,
        Some([b"shim", b"grub"].map(|name| HashAlg::Sha256.digest(name)).to_vec())
    );
    assert_eq!(facts.exit_boot_services, Some(true));
    let narrow = facts_of(&EventLog::parse(log.bytes()).unwrap(), HashAlg::Sha256, &[7]);
    assert_eq!((narrow.applications, narrow.exit_boot_services, narrow.files), (None, None, None));
    assert_eq!(narrow.debug_mode, Some(false));
}

#[test]
fn a_version_is_a_text_or_a_guid_and_the_first_record() {
    let version = |records: &[&[u8]]| {
        let log =
            records.iter().fold(Log::new(), |log, data| log.with(0, event_type::S_CRTM_VERSION, data, data));
        log.facts().firmware_version
    };
    assert_eq!(version(&[&utf16_text("N40ET41W")]).as_deref(), Some("N40ET41W"));
    assert_eq!(version(&[&[0x11; 16]]).as_deref(), Some("11111111-1111-1111-1111-111111111111"));
    assert_eq!(version(&[b"GCE NonHostInfo\0\0\0", &utf16_text("later")]), None);
    let before = Log::new().with(0, event_type::EFI_PLATFORM_FIRMWARE_BLOB, b"where", b"what");
    let version = utf16_text("1.0");
    let log = before.with(0, event_type::S_CRTM_VERSION, &version, &version);
    assert_eq!(log.facts().firmware_version, None, "what comes before it may be another version");
}

#[test]
fn a_corrupted_record_of_secure_boot_turns_no_fact_into_another() {
    let two = [1u8, 0]
        .iter()
        .fold(Log::new(), |log, value| log.variable(&EFI_GLOBAL_VARIABLE, "SecureBoot", &[*value]));
    let (one, other) = (&b"first"[..], &b"second"[..]);
    let log = ["PK", "KEK"].iter().fold(two, |log, name| log.variable(&EFI_GLOBAL_VARIABLE, name, one));
    let log = ["db", "dbx"].iter().fold(log, |log, name| {
        log.variable(&IMAGE_SECURITY_DATABASE, name, one).variable(&IMAGE_SECURITY_DATABASE, name, other)
    });
    let log = log.separator(7);
    let honest = log.facts();
    assert_eq!((honest.secure_boot, &honest.allowed, &honest.forbidden), (SecureBoot::Unknown, &None, &None));
    assert!(honest.platform_key.is_some() && honest.key_exchange_keys.is_some());
    // One record's data after the other changed: its digest stays, so that the register does.
    let parsed = EventLog::parse(log.bytes()).unwrap();
    let all = log.bytes();
    let mut corrupted = 0;
    for event in parsed.events().filter(|event| event.pcr() == 7 && event.data().len() > 4) {
        let at = all.windows(event.data().len()).position(|window| window == event.data()).unwrap();
        let mut edited = log.clone();
        edited.0[at + event.data().len() - 1] ^= 0x80;
        let facts = edited.facts();
        assert_eq!(facts.secure_boot, SecureBoot::Unknown, "event {}", event.index());
        let databases = [facts.platform_key, facts.key_exchange_keys, facts.allowed, facts.forbidden, None];
        assert!(databases.iter().all(Option::is_none), "event {}", event.index());
        assert_eq!(facts.authorities, None);
        corrupted += 1;
    }
    assert_eq!(corrupted, 8);
    // After the separator it hides an authority at most.
    let late = Log::new().variable(&EFI_GLOBAL_VARIABLE, "SecureBoot", &[1]).separator(7);
    let late = late.with(7, event_type::EFI_VARIABLE_AUTHORITY, b"said", b"measured").facts();
    assert_eq!((late.secure_boot, late.authorities), (SecureBoot::On, None));
}

#[test]
fn a_corrupted_record_of_a_real_log_leaves_facts_out_and_makes_none() {
    let Some(folder) = vectors("eventlog") else { return };
    let mut edited = 0;
    for row in ROWS {
        let bytes = vector_bytes(&folder.join(row.path));
        let bank = bank_named(row.bank);
        let log = EventLog::parse(&bytes).unwrap();
        let honest = facts_of(&log, bank, &ALL);
        let known = |told: &Option<SignatureDatabase>, honest: &Option<SignatureDatabase>| {
            told.is_none() || told == honest
        };
        for event in log.events().filter(|event| [0, 7].contains(&event.pcr()) && !event.data().is_empty()) {
            let data = event.data().as_ptr().addr() - log.bytes().as_ptr().addr();
            let mut changed = bytes.clone();
            changed[data] ^= 0x40;
            let Ok(changed) = EventLog::parse(&changed) else { continue };
            let facts = facts_of(&changed, bank, &ALL);
            let at = format!("{} event {}", row.path, event.index());
            let firmware = &facts.firmware_version;
            assert!(firmware.is_none() || *firmware == honest.firmware_version, "{at}: {firmware:?}");
            let state = facts.secure_boot;
            assert!(state == SecureBoot::Unknown || state == honest.secure_boot, "{at}: {state:?}");
            assert!(known(&facts.platform_key, &honest.platform_key), "{at}: PK");
            assert!(known(&facts.key_exchange_keys, &honest.key_exchange_keys), "{at}: KEK");
            assert!(known(&facts.allowed, &honest.allowed), "{at}: db");
            assert!(known(&facts.forbidden, &honest.forbidden), "{at}: dbx");
            assert!(facts.authorities.is_none() || facts.authorities == honest.authorities, "{at}");
            edited += 1;
        }
    }
    assert!(edited >= 200, "{edited}");
}

#[test]
fn texts_beyond_their_bounds_are_not_told() {
    let line = |len: usize| [b"/".as_slice(), &vec![b'a'; len - 1]].concat();
    let grub = |text: &[u8]| {
        let data = [b"kernel_cmdline: ", text, b"\0"].concat();
        Log::new().with(8, event_type::IPL, &data, text).facts()
    };
    assert_eq!(grub(&line(MAX_CMDLINE_BYTES)).kernel_cmdline.unwrap().len(), MAX_CMDLINE_BYTES);
    assert_eq!(grub(&line(MAX_CMDLINE_BYTES + 1)).kernel_cmdline, None);
    // What isn't UTF-8 isn't replaced by something that is: two lines would be told as one.
    assert_eq!(grub(b"/vmlinuz a\xffb").kernel_cmdline, None);
    let stub = |chars: usize| {
        let text = utf16_text(&"a".repeat(chars));
        Log::new().with(12, event_type::IPL, &text, &text).facts().kernel_cmdline.map(|line| line.len())
    };
    assert_eq!(stub(MAX_CMDLINE_BYTES), Some(MAX_CMDLINE_BYTES));
    assert_eq!(stub(MAX_CMDLINE_BYTES + 1), None);
    // Three bytes of UTF-8 for two of UTF-16.
    let wide = utf16_text(&"\u{2603}".repeat(MAX_CMDLINE_BYTES / 2));
    assert_eq!(Log::new().with(12, event_type::IPL, &wide, &wide).facts().kernel_cmdline, None);
    let version = |chars: usize| {
        let text = utf16_text(&"v".repeat(chars));
        Log::new().with(0, event_type::S_CRTM_VERSION, &text, &text).facts().firmware_version
    };
    assert_eq!(version(MAX_VERSION_CHARS).unwrap().len(), MAX_VERSION_CHARS);
    assert_eq!(version(MAX_VERSION_CHARS + 1), None);
    let sbat = |len: usize| {
        let level = [b"sbat,".as_slice(), &vec![b'1'; len - 5]].concat();
        Log::new().separator(7).variable(&SHIM_LOCK, "SbatLevel", &level).facts().sbat_level
    };
    assert_eq!(sbat(MAX_SBAT_BYTES).unwrap().len(), MAX_SBAT_BYTES);
    assert_eq!(sbat(MAX_SBAT_BYTES + 1), None);
}

#[test]
fn facts_of_the_largest_log_stay_below_their_bound() {
    let full = |mut log: Log, pcrs: &[u32]| {
        for at in 0..MAX_EVENTS - 8 {
            log = log.with(pcrs[at % pcrs.len()], event_type::IPL, b"", &at.to_le_bytes());
        }
        log
    };
    let line = [b"/".as_slice(), &vec![b'a'; MAX_CMDLINE_BYTES - 1]].concat();
    let base = || {
        let log = Log::new().with(8, event_type::IPL, &line, &line);
        log.variable(&IMAGE_SECURITY_DATABASE, "db", &[0x55; 600]).separator(7)
    };
    for pcrs in [&[2u32, 4, 9, 14][..], &[9], &[4, 9]] {
        let log = full(base(), pcrs);
        let bytes = log.facts().heap_bytes();
        assert!((200_000..MAX_FACTS_BYTES).contains(&bytes), "{bytes}");
    }
    assert!(base().facts().heap_bytes() < 20_000);
}
