//! What a verified boot log proves.
//!
//! Comes in: a log whose covered registers were found equal to the quote. Goes out: [`BootFacts`]. Only events of covered registers count,
//! and only at the register where the specification puts them. Everything else in the log is decoration.
//!
//! The quote proves digests and their order within a register; it proves neither event types nor event data. So a fact here is one of three
//! kinds: a digest as it was measured; a text that is recognised by its digest; or data that hashes to its digest, and then only where
//! leaving a record out or calling it something else can't turn the fact into another one. What can't be told for sure is absent.
//!
//! Words of the system that a register ends with are no part of what firmware and boot loaders measured ([`super::words`]).

use std::collections::BTreeMap;

use super::text;
use super::variable::{self, EFI_GLOBAL_VARIABLE, IMAGE_SECURITY_DATABASE, SHIM_LOCK, VariableData};
use super::words::{Found, InLog, WordPath};
use super::{Event, EventLog};
use crate::algorithm::HashAlg;

pub use super::variable::{MAX_CERTIFICATES, SignatureDatabase};

/// Registers by what firmware and boot loaders measure there. TCG PC Client Platform Firmware Profile 1.06, 3.3.4; from 8 on the
/// conventions of shim, GRUB and systemd.
pub(super) mod register {
    pub(super) const FIRMWARE: u32 = 0;
    pub(super) const OPTION_ROMS: u32 = 2;
    pub(super) const APPLICATIONS: u32 = 4;
    pub(super) const BOOT_ACTIONS: u32 = 5;
    pub(super) const SECURE_BOOT: u32 = 7;
    pub(super) const LOADER_TEXTS: u32 = 8;
    pub(super) const LOADER_FILES: u32 = 9;
    pub(super) const UNIFIED_KERNEL: u32 = 11;
    pub(super) const KERNEL_CONFIGURATION: u32 = 12;
    pub(super) const MACHINE_OWNER_KEYS: u32 = 14;
}

/// Actions that are recognised by their digest. TCG PC Client Platform Firmware Profile 1.06, 10.4.4.
mod action {
    pub(super) const CALLING: &[u8] = b"Calling EFI Application from Boot Option";
    pub(super) const RETURNING: &[u8] = b"Returning from EFI Application from Boot Option";
    pub(super) const EXIT_DONE: &[u8] = b"Exit Boot Services Returned with Success";
    pub(super) const DEBUG_MODE: &[u8] = b"UEFI Debug Mode";
    pub(super) const DMA_UNPROTECTED: &[u8] = b"DMA Protection Disabled";
}

/// Sections of a unified kernel image that systemd-stub measures. It measures the name with its final zero, then the contents.
pub const SECTIONS: [&str; 14] = [
    ".linux", ".initrd", ".cmdline", ".osrel", ".uname", ".sbat", ".dtb", ".pcrpkey", ".ucode", ".splash",
    ".profile", ".dtbauto", ".hwids", ".efifw",
];
/// The section that every unified kernel image has.
const KERNEL_SECTION: &str = ".linux";
/// Longest kernel command line that is told, in bytes of UTF-8. Linux takes 2,048 on x86 and at most 4,096 elsewhere (COMMAND_LINE_SIZE).
pub const MAX_CMDLINE_BYTES: usize = 8 * 1024;
/// Longest version of firmware that is told, in characters. Real ones have up to 23.
pub const MAX_VERSION_CHARS: usize = 256;
/// Longest SbatLevel that is told. Real ones have below 200 bytes.
pub const MAX_SBAT_BYTES: usize = 8 * 1024;
/// Most memory that the facts of a log take: the texts above, four databases and what started something, and a digest of each event with
/// what it takes to keep it.
pub const MAX_FACTS_BYTES: usize = 1024 * 1024;

/// State of Secure Boot as the firmware measured it before it ran anything else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SecureBoot {
    /// The variable is 1.
    On,
    /// The variable is 0.
    Off,
    /// The firmware measured a variable without a value.
    Empty,
    /// A record before the separator that isn't proven; no record of the variable, more than one, or one with an impossible value.
    #[default]
    Unknown,
}

/// Facts of one boot. A list is `None` when its register isn't covered or the list can't be told to be whole.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct BootFacts {
    /// State of Secure Boot. PCR 7.
    pub secure_boot: SecureBoot,
    /// PK. PCR 7, before the separator; like the state and the other databases only if every record there is proven.
    pub platform_key: Option<SignatureDatabase>,
    /// KEK. PCR 7, before the separator.
    pub key_exchange_keys: Option<SignatureDatabase>,
    /// db. PCR 7, before the separator.
    pub allowed: Option<SignatureDatabase>,
    /// dbx. PCR 7, before the separator.
    pub forbidden: Option<SignatureDatabase>,
    /// SHA-256 of each certificate that something was started with, in order of first use. PCR 7.
    pub authorities: Option<Vec<[u8; 32]>>,
    /// Text of shim's SbatLevel. PCR 7.
    pub sbat_level: Option<String>,
    /// A debugger was attached to the firmware. PCR 7.
    pub debug_mode: Option<bool>,
    /// Firmware ran without protection against DMA. PCR 7.
    pub dma_unprotected: Option<bool>,
    /// What the firmware calls its version, if that is the first thing that it measures: a text or a GUID. PCR 0.
    pub firmware_version: Option<String>,
    /// Digests of drivers from option ROMs and the like. PCR 2.
    pub option_roms: Option<Vec<Vec<u8>>>,
    /// Digests of what firmware and shim started, in order: the first is the boot loader of the firmware's choice. PCR 4.
    pub applications: Option<Vec<Vec<u8>>>,
    /// Whether the firmware saw ExitBootServices succeed. PCR 5.
    pub exit_boot_services: Option<bool>,
    /// Digests of files that the boot loader read: kernel, initial RAM disk, configuration, modules. PCR 9.
    pub files: Option<Vec<Vec<u8>>>,
    /// Digests of shim's lists of machine owner keys. PCR 14.
    pub machine_owner_keys: Option<Vec<Vec<u8>>>,
    /// The kernel command line. PCR 8 or 12.
    pub kernel_cmdline: Option<String>,
    /// Digests of the sections of a unified kernel image that were measured once, before any boot phase, by name. PCR 11.
    pub sections: BTreeMap<&'static str, Vec<u8>>,
    /// The boot phases that were measured after a kernel's section; `None` if there was none, or what came isn't a path. PCR 11.
    pub phases: Option<WordPath>,
    /// The separator of each covered boot register: its data.
    pub separators: BTreeMap<u32, [u8; 4]>,
}

impl BootFacts {
    /// Memory beside the structure itself: what a cache counts. At most [`MAX_FACTS_BYTES`].
    pub fn heap_bytes(&self) -> usize {
        let text = |text: &Option<String>| text.as_ref().map_or(0, String::capacity);
        let certificates =
            |list: &Option<Vec<[u8; 32]>>| list.as_ref().map_or(0, |list| list.capacity() * 32);
        let database =
            |one: &Option<SignatureDatabase>| one.as_ref().map_or(0, |one| certificates(&one.certificates));
        let digests = |list: &Option<Vec<Vec<u8>>>| {
            let each = |digest: &Vec<u8>| digest.capacity() + ALLOCATION;
            list.as_ref().map_or(0, |list| {
                list.capacity() * size_of::<Vec<u8>>() + list.iter().map(each).sum::<usize>()
            })
        };
        let sections: usize = self.sections.values().map(|digest| digest.capacity() + 4 * ALLOCATION).sum();
        [&self.sbat_level, &self.firmware_version, &self.kernel_cmdline].map(text).iter().sum::<usize>()
            + [&self.platform_key, &self.key_exchange_keys, &self.allowed, &self.forbidden]
                .map(database)
                .iter()
                .sum::<usize>()
            + certificates(&self.authorities)
            + [&self.option_roms, &self.applications, &self.files, &self.machine_owner_keys]
                .map(digests)
                .iter()
                .sum::<usize>()
            + sections
            + self.separators.len() * 2 * ALLOCATION
    }

    pub(super) fn extract(log: &EventLog, bank: HashAlg, in_log: &InLog, covered: &[u32]) -> Self {
        let view = View::new(log, bank, in_log, covered);
        let mut facts = Self {
            firmware_version: firmware_version(&view),
            option_roms: view.digests(register::OPTION_ROMS, &[]),
            applications: view.digests(register::APPLICATIONS, &[action::CALLING, action::RETURNING]),
            exit_boot_services: exit_boot_services(&view),
            debug_mode: view.has(register::SECURE_BOOT, action::DEBUG_MODE),
            dma_unprotected: view.has(register::SECURE_BOOT, action::DMA_UNPROTECTED),
            files: view.digests(register::LOADER_FILES, &[]),
            machine_owner_keys: view.digests(register::MACHINE_OWNER_KEYS, &[]),
            kernel_cmdline: kernel_cmdline(&view),
            separators: separators(&view),
            ..Self::default()
        };
        secure_boot_policy(&view, &mut facts);
        unified_kernel(&view, &mut facts);
        facts
    }

    /// The same facts where the quote was reached by phases behind the log.
    pub(super) fn followed_by(self, path: WordPath) -> Self {
        Self { phases: self.phases.map(|_| path), ..self }
    }
}

/// What an allocation takes beside its bytes, and a place in a map.
const ALLOCATION: usize = 16;

/// The events of covered registers, by register, without the words that they end with.
struct View<'a> {
    bank: HashAlg,
    in_log: &'a InLog,
    events: BTreeMap<u32, Vec<Event<'a>>>,
    separators: [Vec<u8>; 2],
}

impl<'a> View<'a> {
    fn new(log: &'a EventLog, bank: HashAlg, in_log: &'a InLog, covered: &[u32]) -> Self {
        let mut events: BTreeMap<u32, Vec<Event<'a>>> =
            covered.iter().map(|pcr| (*pcr, Vec::new())).collect();
        for event in log.events().filter(Event::extends) {
            if let Some(of_register) = events.get_mut(&event.pcr()) {
                of_register.push(event);
            }
        }
        for (pcr, of_register) in &mut events {
            of_register.truncate(in_log.register(*pcr).map_or(usize::MAX, |found| found.own()));
        }
        Self { bank, in_log, events, separators: separator_digests(bank) }
    }

    /// The events in front of every word.
    fn before(&self, pcr: u32) -> &[Event<'a>] {
        let before = self.in_log.register(pcr).map_or(usize::MAX, |found| found.before);
        let events = self.events(pcr);
        events.get(..before).unwrap_or(events)
    }

    fn covers(&self, pcr: u32) -> bool {
        self.events.contains_key(&pcr)
    }

    fn events(&self, pcr: u32) -> &[Event<'a>] {
        self.events.get(&pcr).map_or(&[], Vec::as_slice)
    }

    fn is_separator(&self, event: &Event<'_>) -> bool {
        event.digest(self.bank).is_some_and(|digest| self.separators.iter().any(|one| one == digest))
    }

    /// Digests of a register but for separators and known texts. These are told by digest, so that no edit of the log hides anything.
    fn digests(&self, pcr: u32, texts: &[&[u8]]) -> Option<Vec<Vec<u8>>> {
        if !self.covers(pcr) {
            return None;
        }
        let known: Vec<Vec<u8>> = texts.iter().map(|text| self.bank.digest(text)).collect();
        let wanted = |event: &&Event<'_>| !self.is_separator(event);
        let digests = self.events(pcr).iter().filter(wanted).filter_map(|event| event.digest(self.bank));
        Some(digests.filter(|digest| !known.iter().any(|one| one == digest)).map(<[u8]>::to_vec).collect())
    }

    fn has(&self, pcr: u32, text: &[u8]) -> Option<bool> {
        let wanted = self.bank.digest(text);
        let found = || self.events(pcr).iter().any(|event| event.digest(self.bank) == Some(&wanted));
        self.covers(pcr).then(found)
    }
}

/// The command line; absent where something stands behind the system's word in PCR 12, since nothing says then which text is the loader's.
fn kernel_cmdline(view: &View<'_>) -> Option<String> {
    let configuration = register::KERNEL_CONFIGURATION;
    let mixed = view.in_log.register(configuration).is_some_and(|found| found.path.is_none());
    if mixed && view.covers(configuration) {
        return None;
    }
    text::kernel_cmdline(view.events(register::LOADER_TEXTS), view.events(configuration), view.bank)
}

/// Whether the firmware said so before the system's word: what comes behind it isn't the firmware's.
fn exit_boot_services(view: &View<'_>) -> Option<bool> {
    let wanted = view.bank.digest(action::EXIT_DONE);
    let done = |event: &Event<'_>| event.digest(view.bank) == Some(&wanted);
    view.covers(register::BOOT_ACTIONS).then(|| view.before(register::BOOT_ACTIONS).iter().any(done))
}

/// The first event of PCR 0, if its data is measured and reads as a version. TCG PC Client Platform Firmware Profile 1.06, 3.3.4.1 and 10.4.1.
/// Where code comes before it (S-CRTM contents, H-CRTM), only a digest stands for that record, and an edited log could pass off the version
/// as such code and a later record as the version: there it isn't told.
fn firmware_version(view: &View<'_>) -> Option<String> {
    let first = view.events(register::FIRMWARE).first()?;
    let data = Some(first).filter(|event| event.data_is_measured(view.bank))?.data();
    text::version(data).or_else(|| text::guid(data))
}

/// PCR 11: the stub's sections, then the phases. What comes behind the first phase isn't the stub's, which had ended by then.
fn unified_kernel(view: &View<'_>, facts: &mut BootFacts) {
    let events = view.events(register::UNIFIED_KERNEL);
    let image = view.before(register::UNIFIED_KERNEL);
    let phases = view.in_log.register(register::UNIFIED_KERNEL).and_then(|found: Found| found.path);
    for name in SECTIONS {
        let marker = view.bank.digest_parts(&[name.as_bytes(), &[0]]);
        let mut at = events.iter().enumerate().filter(|(_, event)| event.digest(view.bank) == Some(&marker));
        // Whoever controls the running system can extend the register too: a name that comes twice is nobody's.
        let (Some((index, _)), None) = (at.next(), at.next()) else { continue };
        let contents = image.get(index.saturating_add(1)).and_then(|event| event.digest(view.bank));
        if let Some(digest) = contents {
            facts.sections.insert(name, digest.to_vec());
        }
    }
    // Every stub measures a kernel, and the phases are measured only after a stub (systemd-pcrphase.service(8)).
    facts.phases = phases.filter(|_| facts.sections.contains_key(KERNEL_SECTION));
}

fn separators(view: &View<'_>) -> BTreeMap<u32, [u8; 4]> {
    let of = |pcr: u32| {
        let event = view.events(pcr).iter().find(|event| view.is_separator(event))?;
        let zeros = event.digest(view.bank) == view.separators.first().map(Vec::as_slice);
        Some((pcr, if zeros { [0; 4] } else { [0xff; 4] }))
    };
    (0..=7).filter_map(of).collect()
}

/// What a record of PCR 7 is.
enum Record<'a> {
    /// A variable; so much of it as was measured.
    Variable(VariableData<'a>),
    /// Something else, and that is certain.
    Other,
    /// Nothing is certain.
    Unproven,
}

fn record<'a>(event: &Event<'a>, bank: HashAlg, texts: &[Vec<u8>]) -> Record<'a> {
    if event.data_is_measured(bank) {
        return VariableData::parse(event.data()).map_or(Record::Other, Record::Variable);
    }
    let digest = event.digest(bank).unwrap_or_default();
    if texts.iter().any(|text| text == digest) {
        return Record::Other;
    }
    // Some versions of shim announce six bytes less than they log and measure all but the last byte.
    let Some((_, measured)) = event.data().split_last() else { return Record::Unproven };
    match VariableData::parse_with_rest(measured) {
        Ok(variable) if variable.is(&SHIM_LOCK, "Shim") && bank.digest(measured) == digest => {
            Record::Variable(variable)
        }
        _ => Record::Unproven,
    }
}

/// PCR 7: up to the separator the state of the machine, after it what was verified with which certificate. TCG PC Client Platform Firmware
/// Profile 1.06, 3.3.4.8. The claimed event types play no part: whoever edits the log could change them to hide a record.
fn secure_boot_policy(view: &View<'_>, facts: &mut BootFacts) {
    if !view.covers(register::SECURE_BOOT) {
        return;
    }
    let texts = [action::DEBUG_MODE, action::DMA_UNPROTECTED].map(|text| view.bank.digest(text));
    let mut state = Some(Vec::new());
    let mut later = Some(Vec::new());
    let mut finished = false;
    for event in view.events(register::SECURE_BOOT) {
        if view.is_separator(event) {
            finished = true;
            continue;
        }
        match record(event, view.bank, &texts) {
            // A driver's authority may come before the separator; it holds a certificate where db holds lists.
            Record::Variable(one) if !finished && variable::authority(one.value).is_none() => {
                state.iter_mut().for_each(|state| state.push(one.clone()));
            }
            Record::Variable(one) => later.iter_mut().for_each(|later| later.push(one.clone())),
            Record::Other => {}
            // It may be the authority that somebody would like to hide, or the second of two records of one variable.
            Record::Unproven => {
                later = None;
                state = state.filter(|_| finished);
            }
        }
    }
    let only = |guid: &[u8; 16], name: &str| {
        let state = state.as_deref()?;
        let mut found =
            state.iter().filter(|variable| variable.is(guid, name)).map(|variable| variable.value);
        found.next().filter(|_| found.next().is_none())
    };
    facts.secure_boot = match only(&EFI_GLOBAL_VARIABLE, "SecureBoot") {
        Some([1]) => SecureBoot::On,
        Some([0]) => SecureBoot::Off,
        Some([]) => SecureBoot::Empty,
        _ => SecureBoot::Unknown,
    };
    let database = |guid, name| only(guid, name).map(SignatureDatabase::of);
    facts.platform_key = database(&EFI_GLOBAL_VARIABLE, "PK");
    facts.key_exchange_keys = database(&EFI_GLOBAL_VARIABLE, "KEK");
    facts.allowed = database(&IMAGE_SECURITY_DATABASE, "db");
    facts.forbidden = database(&IMAGE_SECURITY_DATABASE, "dbx");
    facts.authorities = later.as_deref().map(authorities);
    facts.sbat_level = later.as_deref().and_then(sbat_level);
}

fn authorities(variables: &[VariableData<'_>]) -> Vec<[u8; 32]> {
    let mut found = Vec::new();
    for digest in variables.iter().filter_map(|variable| variable::authority(variable.value)) {
        if !found.contains(&digest) {
            found.push(digest);
        }
    }
    found
}

/// The only SbatLevel; a second one can only come from whoever ran later.
fn sbat_level(variables: &[VariableData<'_>]) -> Option<String> {
    let mut found = variables.iter().filter(|variable| variable.is(&SHIM_LOCK, "SbatLevel"));
    let value = found.next().filter(|_| found.next().is_none())?.value;
    let value = Some(value).filter(|value| value.len() <= MAX_SBAT_BYTES)?;
    let text = std::str::from_utf8(value).ok()?.trim_end_matches('\0');
    Some(text.to_owned()).filter(|text| text.starts_with("sbat,"))
}

/// Data of a separator that announces no error. 10.4.1.
pub(super) fn is_separator_data(data: &[u8]) -> bool {
    data == [0; 4] || data == [0xff; 4]
}

pub(super) fn separator_digests(bank: HashAlg) -> [Vec<u8>; 2] {
    [bank.digest(&[0; 4]), bank.digest(&[0xff; 4])]
}
