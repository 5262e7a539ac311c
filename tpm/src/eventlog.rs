//! Firmware event logs of the TCG PC Client platform.
//!
//! Comes in: the bytes of `binary_bios_measurements`, SHA-1 only or crypto-agile, or a canonical event log. Goes out: [`EventLog`], the events as claimed; [`Replay`], the
//! register values that they lead to; and [`VerifiedBootLog`], facts from a log that leads to exactly the quoted
//! values. Refuses logs above their bounds, unknown shapes, left over bytes, and logs that the quote contradicts.
//!
//! A log is only a claim. The quote proves the digests and their order; it proves neither event types nor event data,
//! so facts are taken only where the data hashes to the measured digest ([`facts`]).

mod cel;
mod cel_json;
mod describe;
mod device_path;
mod pairs;
mod parse;
mod text;
mod told;
pub(crate) mod variable;
mod verify;

pub mod changes;
pub mod facts;
pub mod words;

use std::collections::BTreeMap;
use std::ops::Range;

use thiserror::Error;

use crate::algorithm::HashAlg;
use crate::wire::WireError;

pub use cel::{CelFault, OPAQUE};
pub use verify::{BootLogRefusal, ExplainedValues, VerifiedBootLog, explain, verify_replay};

/// Longest log taken. Real ones have 3 to 75 KiB; firmware reserves 64 KiB by default and rarely more than 512.
pub const MAX_LOG_BYTES: usize = 1024 * 1024;
/// Most events taken. Real logs have up to 204; a boot loader that logs every command line may reach a thousand.
pub const MAX_EVENTS: usize = 4096;
/// Most banks that a log may announce: HASH_COUNT of the reference implementation.
pub const MAX_BANKS: u32 = 16;
/// Most memory that a parsed log takes beside its bytes: records, and of a canonical event log the same bytes once more. Facts
/// have a bound of their own, [`facts::MAX_FACTS_BYTES`].
pub const MAX_PARSED_BYTES: usize = MAX_LOG_BYTES + MAX_EVENTS * size_of::<Record>();
/// Highest register of the PC Client profile.
pub const MAX_PCR: u32 = 23;

/// Event types that this crate looks at. TCG PC Client Platform Firmware Profile 1.06, 10.4.1.
pub mod event_type {
    /// Power-on self test code: part of the firmware.
    pub const POST_CODE: u32 = 0x0000_0001;
    /// Information that is not extended.
    pub const NO_ACTION: u32 = 0x0000_0003;
    /// End of the firmware's own measurements into a register.
    pub const SEPARATOR: u32 = 0x0000_0004;
    /// Named action or text.
    pub const ACTION: u32 = 0x0000_0005;
    /// Tagged event.
    pub const EVENT_TAG: u32 = 0x0000_0006;
    /// The root of trust for measurement.
    pub const S_CRTM_CONTENTS: u32 = 0x0000_0007;
    /// Version of the root of trust for measurement.
    pub const S_CRTM_VERSION: u32 = 0x0000_0008;
    /// Boot loader event.
    pub const IPL: u32 = 0x0000_000d;
    /// Variable of the Secure Boot configuration.
    pub const EFI_VARIABLE_DRIVER_CONFIG: u32 = 0x8000_0001;
    /// Boot variable.
    pub const EFI_VARIABLE_BOOT: u32 = 0x8000_0002;
    /// Application started by firmware.
    pub const EFI_BOOT_SERVICES_APPLICATION: u32 = 0x8000_0003;
    /// Driver that leaves with the boot services.
    pub const EFI_BOOT_SERVICES_DRIVER: u32 = 0x8000_0004;
    /// Driver that stays.
    pub const EFI_RUNTIME_SERVICES_DRIVER: u32 = 0x8000_0005;
    /// Partition table.
    pub const EFI_GPT_EVENT: u32 = 0x8000_0006;
    /// Action of the firmware.
    pub const EFI_ACTION: u32 = 0x8000_0007;
    /// Part of the firmware.
    pub const EFI_PLATFORM_FIRMWARE_BLOB: u32 = 0x8000_0008;
    /// Part of the firmware, described.
    pub const EFI_PLATFORM_FIRMWARE_BLOB2: u32 = 0x8000_000a;
    /// Boot variable, measured with its name.
    pub const EFI_VARIABLE_BOOT2: u32 = 0x8000_000c;
    /// Partition table without what changes from boot to boot.
    pub const EFI_GPT_EVENT2: u32 = 0x8000_000d;
    /// Measurement started by hardware before the firmware.
    pub const EFI_HCRTM_EVENT: u32 = 0x8000_0010;
    /// Authority that a boot image was verified with.
    pub const EFI_VARIABLE_AUTHORITY: u32 = 0x8000_00e0;

    /// Number of a type by its name in the specification.
    pub(super) fn named(name: &str) -> Option<u32> {
        const NAMES: [(&str, u32); 28] = [
            ("EV_PREBOOT_CERT", 0x0000_0000),
            ("EV_POST_CODE", 0x0000_0001),
            ("EV_NO_ACTION", NO_ACTION),
            ("EV_SEPARATOR", SEPARATOR),
            ("EV_ACTION", ACTION),
            ("EV_EVENT_TAG", EVENT_TAG),
            ("EV_S_CRTM_CONTENTS", 0x0000_0007),
            ("EV_S_CRTM_VERSION", S_CRTM_VERSION),
            ("EV_CPU_MICROCODE", 0x0000_0009),
            ("EV_PLATFORM_CONFIG_FLAGS", 0x0000_000a),
            ("EV_TABLE_OF_DEVICES", 0x0000_000b),
            ("EV_COMPACT_HASH", 0x0000_000c),
            ("EV_IPL", IPL),
            ("EV_IPL_PARTITION_DATA", 0x0000_000e),
            ("EV_NONHOST_CODE", 0x0000_000f),
            ("EV_NONHOST_CONFIG", 0x0000_0010),
            ("EV_NONHOST_INFO", 0x0000_0011),
            ("EV_OMIT_BOOT_DEVICE_EVENTS", 0x0000_0012),
            ("EV_EFI_VARIABLE_DRIVER_CONFIG", EFI_VARIABLE_DRIVER_CONFIG),
            ("EV_EFI_VARIABLE_BOOT", EFI_VARIABLE_BOOT),
            ("EV_EFI_BOOT_SERVICES_APPLICATION", EFI_BOOT_SERVICES_APPLICATION),
            ("EV_EFI_BOOT_SERVICES_DRIVER", 0x8000_0004),
            ("EV_EFI_RUNTIME_SERVICES_DRIVER", 0x8000_0005),
            ("EV_EFI_GPT_EVENT", EFI_GPT_EVENT),
            ("EV_EFI_ACTION", EFI_ACTION),
            ("EV_EFI_PLATFORM_FIRMWARE_BLOB", EFI_PLATFORM_FIRMWARE_BLOB),
            ("EV_EFI_HCRTM_EVENT", EFI_HCRTM_EVENT),
            ("EV_EFI_VARIABLE_AUTHORITY", EFI_VARIABLE_AUTHORITY),
        ];
        NAMES.iter().find(|(known, _)| *known == name).map(|(_, number)| *number)
    }
}

/// Why bytes are not an event log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum EventLogError {
    /// No bytes at all.
    #[error("event log is empty")]
    Empty,
    /// Above [`MAX_LOG_BYTES`].
    #[error("event log of {0} bytes is too long")]
    TooLong(usize),
    /// Above [`MAX_EVENTS`].
    #[error("event log has too many events")]
    TooManyEvents,
    /// An event runs past the end.
    #[error("event {event} is malformed: {error}")]
    Wire {
        /// Index of the event.
        event: usize,
        /// What is wrong.
        error: WireError,
    },
    /// The header that announces the banks is malformed.
    #[error("event log header is malformed")]
    SpecId,
    /// The header announces no bank, one twice, too many, or one with a wrong digest size.
    #[error("event log header announces impossible banks")]
    Banks,
    /// An event has a digest of a bank that was not announced, or two of one bank.
    #[error("event {event} has an unexpected digest")]
    Digest {
        /// Index of the event.
        event: usize,
    },
    /// An event extends a register that does not exist.
    #[error("event {event} extends PCR {pcr}")]
    Pcr {
        /// Index of the event.
        event: usize,
        /// The register.
        pcr: u32,
    },
    /// A record of a canonical event log is malformed.
    #[error("record {event} is malformed: {fault}")]
    Cel {
        /// Index of the record.
        event: usize,
        /// What is wrong.
        fault: CelFault,
    },
    /// The StartupLocality event is malformed, repeated, late or names an impossible locality.
    #[error("event {event}: impossible startup locality")]
    StartupLocality {
        /// Index of the event.
        event: usize,
    },
}

/// Why a log cannot be replayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ReplayError {
    /// The log has no such bank.
    #[error("event log has no {} bank", .0.name())]
    NoSuchBank(HashAlg),
    /// An event that extends has no digest of this bank.
    #[error("event {event} has no digest of the bank")]
    DigestMissing {
        /// Index of the event.
        event: usize,
    },
}

#[derive(Debug, Clone)]
struct Record {
    pcr: u32,
    kind: u32,
    digests: Range<usize>,
    data: Range<usize>,
}

/// A parsed log, unverified.
#[derive(Debug, Clone)]
pub struct EventLog {
    bytes: Vec<u8>,
    /// TPM_ALG_ID and digest length of each bank. A SHA-1 log has one.
    banks: Vec<(u16, usize)>,
    /// Whether digests are prefixed with their algorithm.
    crypto_agile: bool,
    startup_locality: Option<u8>,
    records: Vec<Record>,
}

/// One event of a log, as claimed.
#[derive(Debug, Clone, Copy)]
pub struct Event<'a> {
    log: &'a EventLog,
    record: &'a Record,
    index: usize,
}

impl<'a> Event<'a> {
    /// Position in the log; the header of a crypto-agile log is event 0.
    pub fn index(&self) -> usize {
        self.index
    }

    /// Register.
    pub fn pcr(&self) -> u32 {
        self.record.pcr
    }

    /// Claimed type, see [`event_type`]. Nothing proves it.
    pub fn kind(&self) -> u32 {
        self.record.kind
    }

    /// Claimed data. Nothing proves it unless it hashes to the digest.
    pub fn data(&self) -> &'a [u8] {
        self.log.bytes.get(self.record.data.clone()).unwrap_or_default()
    }

    /// Digest of `bank`.
    pub fn digest(&self, bank: HashAlg) -> Option<&'a [u8]> {
        self.log.digest_of(self.record, bank.id())
    }

    /// Whether the event changes its register.
    pub fn extends(&self) -> bool {
        self.record.kind != event_type::NO_ACTION
    }

    /// Whether the data hashes to the digest of `bank`: then the quote proves the data as well.
    pub fn data_is_measured(&self, bank: HashAlg) -> bool {
        self.digest(bank).is_some_and(|digest| bank.digest(self.data()) == digest)
    }
}

impl EventLog {
    /// Reads a log, crypto-agile or SHA-1 only.
    pub fn parse(bytes: &[u8]) -> Result<Self, EventLogError> {
        parse::parse(bytes)
    }

    /// The events in order.
    pub fn events(&self) -> impl Iterator<Item = Event<'_>> {
        self.records.iter().enumerate().map(|(index, record)| Event { log: self, record, index })
    }

    /// The bytes that were parsed; of a canonical event log, digests and data as they are kept here.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Whether the log has the crypto-agile form.
    pub fn is_crypto_agile(&self) -> bool {
        self.crypto_agile
    }

    /// TPM_ALG_ID of each bank, also of those that this crate cannot replay.
    pub fn bank_ids(&self) -> impl Iterator<Item = u16> {
        self.banks.iter().map(|(id, _)| *id)
    }

    /// Value of a register before the first event. TCG PC Client Platform Firmware Profile 1.06, 3.3.2.1; TPM 2.0
    /// PC Client Platform TPM Profile 1.05, 4.6.2.
    pub fn initial(&self, bank: HashAlg, pcr: u32) -> Vec<u8> {
        let len = bank.digest_len();
        if (17..=22).contains(&pcr) {
            return vec![0xff; len];
        }
        let mut value = vec![0; len];
        if pcr == 0
            && let Some(last) = value.last_mut()
        {
            *last = self.startup_locality();
        }
        value
    }

    /// Locality that PCR 0 starts with: as the log states, or 4 when hardware measured first.
    pub fn startup_locality(&self) -> u8 {
        let hcrtm = || {
            self.records.iter().any(|record| record.pcr == 0 && record.kind == event_type::EFI_HCRTM_EVENT)
        };
        self.startup_locality.unwrap_or_else(|| if hcrtm() { 4 } else { 0 })
    }

    /// Computes the register values that the log leads to.
    pub fn replay(&self, bank: HashAlg) -> Result<Replay, ReplayError> {
        if !self.bank_ids().any(|id| id == bank.id()) {
            return Err(ReplayError::NoSuchBank(bank));
        }
        let mut pcrs: BTreeMap<u32, Vec<u8>> = BTreeMap::new();
        for event in self.events().filter(Event::extends) {
            let digest = event.digest(bank).ok_or(ReplayError::DigestMissing { event: event.index })?;
            let value = pcrs.entry(event.pcr()).or_insert_with(|| self.initial(bank, event.pcr()));
            // TPM 2.0 Part 1, 17.4.2: new = H(old || digest).
            *value = bank.digest_parts(&[value, digest]);
        }
        Ok(Replay { bank, pcrs })
    }

    fn digest_of(&self, record: &Record, id: u16) -> Option<&[u8]> {
        let mut digests = self.bytes.get(record.digests.clone())?;
        if !self.crypto_agile {
            return (id == HashAlg::Sha1.id()).then_some(digests);
        }
        while let Some((head, rest)) = digests.split_first_chunk::<2>() {
            let found = u16::from_le_bytes(*head);
            let (_, len) = self.banks.iter().find(|(bank, _)| *bank == found)?;
            let (digest, next) = rest.split_at_checked(*len)?;
            if found == id {
                return Some(digest);
            }
            digests = next;
        }
        None
    }
}

/// Register values that a log leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replay {
    bank: HashAlg,
    pcrs: BTreeMap<u32, Vec<u8>>,
}

impl Replay {
    /// The bank.
    pub fn bank(&self) -> HashAlg {
        self.bank
    }

    /// Value of a register that the log extends; `None` when it does not touch it.
    pub fn pcr(&self, index: u32) -> Option<&[u8]> {
        self.pcrs.get(&index).map(Vec::as_slice)
    }

    /// Registers that the log extends, ascending.
    pub fn pcrs(&self) -> impl Iterator<Item = (u32, &[u8])> {
        self.pcrs.iter().map(|(pcr, value)| (*pcr, value.as_slice()))
    }
}

#[cfg(test)]
#[path = "eventlog/cel_tests.rs"]
mod cel_tests;
#[cfg(test)]
#[path = "eventlog/changes_laws_tests.rs"]
mod changes_laws_tests;
#[cfg(test)]
#[path = "eventlog/changes_tests.rs"]
mod changes_tests;
#[cfg(test)]
#[path = "eventlog/facts_tests.rs"]
mod facts_tests;
#[cfg(test)]
#[path = "eventlog/known_facts_tests.rs"]
mod known_facts_tests;
#[cfg(test)]
#[path = "eventlog/phases_tests.rs"]
mod phases_tests;
#[cfg(test)]
#[path = "eventlog/real_tests.rs"]
mod real_tests;
#[cfg(test)]
#[path = "eventlog/separators_tests.rs"]
mod separators_tests;
#[cfg(test)]
#[path = "eventlog_tests.rs"]
mod tests;
