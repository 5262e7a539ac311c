//! What an event is about, for people.
//!
//! Comes in: an event of a register that the log explains. Goes out: [`Described`], its subject, name and text. Refused: nothing; what isn't
//! recognised is an event with a digest.
//!
//! The digest is proven. A text or a name is proven where the data that it was read from hashes to the digest; where not, it is what the log says:
//! firmware and boot loaders measure an image and name its path beside. Types are the log's own word, too. So this is for people who
//! look for a reason, and not for decisions, which are made from [`super::facts`].

use std::borrow::Cow;

use super::facts::separator_digests;
use super::variable::{EFI_GLOBAL_VARIABLE, IMAGE_SECURITY_DATABASE, SHIM_LOCK, VariableData};
use super::words::WordPath;
use super::{Event, device_path, event_type, text, told, variable};
use crate::algorithm::HashAlg;

/// What an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// Version of the firmware.
    FirmwareVersion,
    /// Part of the firmware.
    Firmware,
    /// Setting of the firmware.
    Setting,
    /// Order of boot options.
    BootOrder,
    /// A boot option.
    BootOption,
    /// Option ROM or other driver.
    OptionRom,
    /// What the firmware started.
    BootLoader,
    /// What was started later.
    Application,
    /// Partition table.
    PartitionTable,
    /// State of Secure Boot.
    SecureBoot,
    /// PK.
    PlatformKey,
    /// KEK.
    KeyExchangeKeys,
    /// db.
    Allowed,
    /// dbx.
    Forbidden,
    /// Another variable that Secure Boot depends on.
    Variable,
    /// Certificate that something was started with.
    Authority,
    /// shim's SbatLevel.
    SbatLevel,
    /// A debugger at the firmware.
    DebugMode,
    /// Firmware without protection against DMA.
    DmaUnprotected,
    /// Machine owner keys.
    MachineOwnerKeys,
    /// Kernel command line.
    CommandLine,
    /// Another command of the boot loader.
    Command,
    /// Kernel.
    Kernel,
    /// Initial RAM disk.
    Initrd,
    /// Another file that the boot loader read.
    File,
    /// Section of a unified kernel image.
    Section,
    /// Boot phases behind a unified kernel image.
    Phase,
    /// What the firmware said that it does.
    Action,
    /// End of the firmware's own measurements.
    Separator,
    /// What systemd measures between what ran before the system and the system itself.
    SystemSeparator,
    /// Anything else.
    Event,
}

impl Subject {
    /// Stable name and words (docs/EVIDENCE.md).
    const fn named(self) -> (&'static str, &'static str) {
        match self {
            Self::FirmwareVersion => ("firmware-version", "firmware version"),
            Self::Firmware => ("firmware", "firmware code"),
            Self::Setting => ("setting", "firmware setting"),
            Self::BootOrder => ("boot-order", "boot order"),
            Self::BootOption => ("boot-option", "boot option"),
            Self::OptionRom => ("option-rom", "option ROM or driver"),
            Self::BootLoader => ("boot-loader", "boot loader"),
            Self::Application => ("application", "program started later"),
            Self::PartitionTable => ("partition-table", "partition table"),
            Self::SecureBoot => ("secure-boot", "Secure Boot"),
            Self::PlatformKey => ("pk", "PK"),
            Self::KeyExchangeKeys => ("kek", "KEK"),
            Self::Allowed => ("db", "db"),
            Self::Forbidden => ("dbx", "dbx"),
            Self::Variable => ("variable", "variable"),
            Self::Authority => ("authority", "certificate that something was started with"),
            Self::SbatLevel => ("sbat-level", "SBAT level"),
            Self::DebugMode => ("debug-mode", "firmware debugger"),
            Self::DmaUnprotected => ("dma-unprotected", "firmware without DMA protection"),
            Self::MachineOwnerKeys => ("mok", "machine owner keys"),
            Self::CommandLine => ("command-line", "command line"),
            Self::Command => ("command", "boot loader command"),
            Self::Kernel => ("kernel", "kernel"),
            Self::Initrd => ("initrd", "initrd"),
            Self::File => ("file", "file"),
            Self::Section => ("section", "section of the unified kernel image"),
            Self::Phase => ("phase", "boot phases"),
            Self::Action => ("action", "firmware action"),
            Self::Separator => ("separator", "separator"),
            Self::SystemSeparator => ("system-separator", "systemd's separator"),
            Self::Event => ("event", "event"),
        }
    }

    /// Stable name, for programs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.named().0
    }

    /// For people.
    #[must_use]
    pub const fn words(self) -> &'static str {
        self.named().1
    }

    /// Whether there may be dozens of them in one register, of which few people look at all.
    pub(super) const fn is_one_of_many(self) -> bool {
        matches!(self, Self::Command | Self::File | Self::Action | Self::Event | Self::Separator)
    }

    /// Whether one event of this subject stands for another one of another name: there is one of the kind, or the order tells which is which.
    pub(super) const fn stands_in(self) -> bool {
        matches!(
            self,
            Self::FirmwareVersion
                | Self::Firmware
                | Self::BootOrder
                | Self::BootLoader
                | Self::Application
                | Self::PartitionTable
                | Self::SecureBoot
                | Self::PlatformKey
                | Self::KeyExchangeKeys
                | Self::Allowed
                | Self::Forbidden
                | Self::SbatLevel
                | Self::CommandLine
                | Self::Kernel
                | Self::Initrd
        )
    }
}

/// An event, described. Its texts are raw.
#[derive(Debug, Clone)]
pub(super) struct Described<'a> {
    pub(super) at: usize,
    pub(super) kind: u32,
    pub(super) digest: Cow<'a, [u8]>,
    pub(super) subject: Subject,
    pub(super) name: Option<String>,
    pub(super) name_proven: bool,
    /// Always proven.
    pub(super) text: Option<String>,
    /// Value of a key database: measured.
    pub(super) database: Option<&'a [u8]>,
    /// The certificate of an authority: measured.
    pub(super) certificate: Option<&'a [u8]>,
}

/// Describes the separators that a register ends with, whether they stand in the log or not.
pub(super) fn describe_words(path: WordPath, bank: HashAlg) -> Vec<Described<'static>> {
    let described = |text: &&str| Described {
        at: usize::MAX,
        kind: 0,
        digest: Cow::Owned(bank.digest(text.as_bytes())),
        subject: Subject::SystemSeparator,
        name: None,
        name_proven: false,
        text: Some((*text).to_owned()),
        database: None,
        certificate: None,
    };
    path.words().iter().map(described).collect()
}

/// Describes the events of one register, in order.
pub(super) fn describe<'a>(events: impl Iterator<Item = Event<'a>>, bank: HashAlg) -> Vec<Described<'a>> {
    let mut described: Vec<Described<'a>> =
        events.filter_map(|event| Some(one(&event, event.digest(bank)?, bank))).collect();
    // The first program of PCR 4 is the boot loader of the firmware's choice (`BootFacts::applications`).
    if let Some(first) = described.iter_mut().find(|one| one.subject == Subject::Application) {
        first.subject = Subject::BootLoader;
    }
    described
}

fn one<'a>(event: &Event<'a>, digest: &'a [u8], bank: HashAlg) -> Described<'a> {
    let (pcr, data) = (event.pcr(), event.data());
    let mut told = Described {
        at: event.index(),
        kind: event.kind(),
        digest: Cow::Borrowed(digest),
        subject: Subject::Event,
        name: None,
        name_proven: false,
        text: None,
        database: None,
        certificate: None,
    };
    let measured = event.data_is_measured(bank);
    if separator_digests(bank).iter().any(|one| one == digest) {
        told.subject = Subject::Separator;
        return told;
    }
    match (event.kind(), pcr) {
        (
            event_type::EFI_VARIABLE_DRIVER_CONFIG
            | event_type::EFI_VARIABLE_BOOT
            | event_type::EFI_VARIABLE_BOOT2
            | event_type::EFI_VARIABLE_AUTHORITY,
            _,
        ) => of_variable(&mut told, event, bank),
        (event_type::S_CRTM_VERSION, _) => {
            told.subject = Subject::FirmwareVersion;
            let version = || text::version(data).or_else(|| text::guid(data));
            told.text = measured.then(version).flatten();
        }
        (
            event_type::POST_CODE
            | event_type::S_CRTM_CONTENTS
            | event_type::EFI_HCRTM_EVENT
            | event_type::EFI_PLATFORM_FIRMWARE_BLOB
            | event_type::EFI_PLATFORM_FIRMWARE_BLOB2,
            // Types aren't measured: elsewhere they don't make firmware of a loader.
            0,
        ) => told.subject = Subject::Firmware,
        (event_type::EFI_BOOT_SERVICES_APPLICATION, 4) => image(&mut told, Subject::Application, data),
        (
            event_type::EFI_BOOT_SERVICES_APPLICATION
            | event_type::EFI_BOOT_SERVICES_DRIVER
            | event_type::EFI_RUNTIME_SERVICES_DRIVER,
            _,
        ) => image(&mut told, Subject::OptionRom, data),
        (event_type::EFI_GPT_EVENT | event_type::EFI_GPT_EVENT2, _) => {
            told.subject = Subject::PartitionTable;
        }
        (event_type::EFI_ACTION | event_type::ACTION, _) => {
            told.subject = match data {
                b"UEFI Debug Mode" if measured => Subject::DebugMode,
                b"DMA Protection Disabled" if measured => Subject::DmaUnprotected,
                _ => Subject::Action,
            };
            (told.name, told.name_proven) = (told::label(data), measured);
        }
        _ => of_loader(&mut told, event, bank),
    }
    told
}

fn image(told: &mut Described<'_>, subject: Subject, data: &[u8]) {
    told.subject = subject;
    told.name = device_path::of_image(data);
}

/// What boot loaders and kernels measure. PCR 8 and 12 texts, 9 files, 11 sections, 14 lists of keys.
fn of_loader<'a>(told: &mut Described<'a>, event: &Event<'a>, bank: HashAlg) {
    let data = event.data();
    match event.pcr() {
        8 | 12 => {
            let one_byte = text::measured_text(event, bank).filter(|text| !text.contains(&0));
            let text = one_byte.map(|text| String::from_utf8_lossy(text).into_owned());
            // No label is believed: `text.rs` says why a path begins the command line and nothing else.
            told.subject = match &text {
                Some(text) if event.pcr() == 8 && !text.starts_with(['/', '(']) => Subject::Command,
                _ => Subject::CommandLine,
            };
            told.text = text.or_else(|| text::utf16(event, bank));
            if told.text.is_none() {
                told.subject = Subject::Command;
                told.name = told::label(data);
            }
        }
        11 => {
            told.subject = Subject::Section;
            told.name = told::label(data);
        }
        14 => {
            told.subject = Subject::MachineOwnerKeys;
            told.name = told::label(data);
        }
        _ => {
            // TCG_PCClientTaggedEvent: identifier and size come first. 10.2.9.
            let label = if event.kind() == event_type::EVENT_TAG { data.get(8..) } else { Some(data) };
            told.name = label.and_then(told::label);
            told.name_proven = event.data_is_measured(bank);
            if event.pcr() == 9 {
                told.subject = file(told.name.as_deref().unwrap_or_default());
            }
        }
    }
}

/// What a file is by its path, which nothing proves.
fn file(path: &str) -> Subject {
    let name = path.rsplit(['/', '\\', ')']).next().unwrap_or_default().to_ascii_lowercase();
    let begins = |with: &[&str]| with.iter().any(|with| name.starts_with(with));
    if name.contains("initr") {
        Subject::Initrd
    } else if begins(&["vmlinu", "bzimage", "linux", "kernel"]) {
        Subject::Kernel
    } else {
        Subject::File
    }
}

fn of_variable<'a>(told: &mut Described<'a>, event: &Event<'a>, bank: HashAlg) {
    let data = event.data();
    let on_pcr_7 = event.pcr() == 7;
    told.subject = if on_pcr_7 { Subject::Variable } else { Subject::Setting };
    let Ok(one) = VariableData::parse_with_rest(data) else {
        told.name = Some("unreadable".to_owned());
        return;
    };
    let whole = event.data_is_measured(bank) && VariableData::parse(data).is_ok();
    // EV_EFI_VARIABLE_BOOT measures the value alone. TCG PC Client Platform Firmware Profile 1.06, 10.4.1.
    let value = whole || event.digest(bank).is_some_and(|digest| bank.digest(one.value) == digest);
    let name = told::utf16(one.name);
    told.subject = match name.as_str() {
        _ if event.kind() == event_type::EFI_VARIABLE_AUTHORITY
            || (on_pcr_7 && variable::authority(one.value).is_some()) =>
        {
            authority(told, &one, whole);
            return;
        }
        "SecureBoot" if one.guid == EFI_GLOBAL_VARIABLE => Subject::SecureBoot,
        "PK" if one.guid == EFI_GLOBAL_VARIABLE => Subject::PlatformKey,
        "KEK" if one.guid == EFI_GLOBAL_VARIABLE => Subject::KeyExchangeKeys,
        "db" if one.guid == IMAGE_SECURITY_DATABASE => Subject::Allowed,
        "dbx" if one.guid == IMAGE_SECURITY_DATABASE => Subject::Forbidden,
        "BootOrder" => Subject::BootOrder,
        _ if is_boot_option(&name) => Subject::BootOption,
        _ => told.subject,
    };
    told.name_proven = whole;
    match told.subject {
        Subject::SecureBoot => told.text = whole.then(|| switch(one.value)),
        Subject::PlatformKey | Subject::KeyExchangeKeys | Subject::Allowed | Subject::Forbidden => {
            told.database = whole.then_some(one.value);
        }
        Subject::BootOrder => told.text = value.then(|| order(one.value)),
        Subject::BootOption => told.text = device_path::of_load_option(one.value).filter(|_| value),
        _ => {}
    }
    // Of which there is one says no more by its name.
    if !matches!(told.subject, Subject::SecureBoot | Subject::BootOrder) && told.database.is_none() {
        told.name = Some(name);
    }
}

/// After the separator: what something was verified with. 3.3.4.8.
fn authority<'a>(told: &mut Described<'a>, one: &VariableData<'a>, whole: bool) {
    told.name_proven = whole;
    if one.is(&SHIM_LOCK, "SbatLevel") {
        told.subject = Subject::SbatLevel;
        let value = String::from_utf8_lossy(one.value);
        told.text = whole.then(|| value.trim_end_matches(['\0', '\n']).to_owned());
        return;
    }
    told.subject = Subject::Authority;
    told.certificate = variable::authority_bytes(one.value).filter(|_| whole);
    told.name = told.certificate.and_then(told::subject).or_else(|| Some(told::utf16(one.name)));
}

fn is_boot_option(name: &str) -> bool {
    name.strip_prefix("Boot")
        .is_some_and(|number| number.len() == 4 && number.chars().all(|one| one.is_ascii_hexdigit()))
}

fn switch(value: &[u8]) -> String {
    match value {
        [1] => "on".to_owned(),
        [0] => "off".to_owned(),
        [] => "without a value".to_owned(),
        _ => "an impossible value".to_owned(),
    }
}

fn order(value: &[u8]) -> String {
    let options = value.as_chunks::<2>().0.iter().map(|one| format!("{:04x}", u16::from_le_bytes(*one)));
    options.take(told::MAX_TOLD_CHARS).collect::<Vec<_>>().join(",")
}
