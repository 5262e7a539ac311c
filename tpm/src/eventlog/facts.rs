//! What a verified boot log proves.
//!
//! Comes in: a log whose covered registers were found equal to the quote. Goes out: [`BootFacts`]. Only events of
//! covered registers count, only where their data hashes to the measured digest, and only at the register where the
//! specification puts them. Everything else in the log is decoration.

use std::collections::BTreeMap;

use super::{Event, EventLog, event_type};
use crate::algorithm::HashAlg;
use crate::wire::{Reader, WireError};

/// EFI_GLOBAL_VARIABLE, 8be4df61-93ca-11d2-aa0d-00e098032b8c, as marshalled. UEFI 2.10, 3.3.
pub(crate) const EFI_GLOBAL_VARIABLE: [u8; 16] =
    [0x61, 0xdf, 0xe4, 0x8b, 0xca, 0x93, 0xd2, 0x11, 0xaa, 0x0d, 0x00, 0xe0, 0x98, 0x03, 0x2b, 0x8c];
/// Register of the Secure Boot policy. TCG PC Client Platform Firmware Profile 1.06, 3.3.4.8.
const SECURE_BOOT_PCR: u32 = 7;

/// State of Secure Boot as the firmware measured it before it ran anything else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SecureBoot {
    /// The variable is 1.
    On,
    /// The variable is 0.
    Off,
    /// The firmware measured a variable without a value.
    Empty,
    /// No provable record, more than one, or one with an impossible value.
    Unknown,
}

/// Facts of one boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootFacts {
    secure_boot: SecureBoot,
    separators: BTreeMap<u32, Vec<u8>>,
}

impl BootFacts {
    pub(super) fn extract(log: &EventLog, bank: HashAlg, covered: &[u32]) -> Self {
        let proven: Vec<Event<'_>> = log
            .events()
            .filter(|event| event.extends() && covered.contains(&event.pcr()) && event.data_is_measured(bank))
            .collect();
        Self { secure_boot: secure_boot(&proven), separators: separators(&proven) }
    }

    /// State of Secure Boot.
    pub fn secure_boot(&self) -> SecureBoot {
        self.secure_boot
    }

    /// First separator seen in each covered register: its data.
    pub fn separators(&self) -> &BTreeMap<u32, Vec<u8>> {
        &self.separators
    }
}

/// UEFI_VARIABLE_DATA. TCG PC Client Platform Firmware Profile 1.06, 10.2.6.
pub(crate) struct VariableData<'a> {
    pub(crate) guid: [u8; 16],
    /// Name in UTF-16, little endian, without a final zero.
    pub(crate) name: &'a [u8],
    pub(crate) value: &'a [u8],
}

impl<'a> VariableData<'a> {
    pub(crate) fn parse(data: &'a [u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(data);
        let too_long = |at| WireError::Truncated { at, wanted: usize::MAX };
        let guid = <[u8; 16]>::try_from(reader.take(16)?).map_err(|_| too_long(0))?;
        let name_units = usize::try_from(reader.u64_le()?).map_err(|_| too_long(16))?;
        let value_len = usize::try_from(reader.u64_le()?).map_err(|_| too_long(24))?;
        let name = reader.take(name_units.checked_mul(2).ok_or(too_long(16))?)?;
        let value = reader.take(value_len)?;
        reader.finish()?;
        Ok(Self { guid, name, value })
    }
}

fn is_secure_boot(variable: &VariableData<'_>) -> bool {
    let name = "SecureBoot".encode_utf16().flat_map(u16::to_le_bytes);
    variable.guid == EFI_GLOBAL_VARIABLE && variable.name.iter().copied().eq(name)
}

/// The variable is measured before the separator of its register; afterwards anybody could. 3.3.4.8. The claimed
/// event type plays no part: whoever edits the log could change it to hide a record.
fn secure_boot(proven: &[Event<'_>]) -> SecureBoot {
    let mut found = None;
    for event in proven.iter().filter(|event| event.pcr() == SECURE_BOOT_PCR) {
        if is_separator_data(event.data()) {
            break;
        }
        let Ok(variable) = VariableData::parse(event.data()) else { continue };
        if !is_secure_boot(&variable) {
            continue;
        }
        let state = match variable.value {
            [1] => SecureBoot::On,
            [0] => SecureBoot::Off,
            [] => SecureBoot::Empty,
            _ => SecureBoot::Unknown,
        };
        if found.replace(state).is_some() {
            return SecureBoot::Unknown;
        }
    }
    found.unwrap_or(SecureBoot::Unknown)
}

fn separators(proven: &[Event<'_>]) -> BTreeMap<u32, Vec<u8>> {
    let mut seen = BTreeMap::new();
    for event in proven.iter().filter(|event| event.kind() == event_type::SEPARATOR) {
        seen.entry(event.pcr()).or_insert_with(|| event.data().to_vec());
    }
    seen
}

/// Data of a separator that announces no error. 10.4.1.
pub(super) fn is_separator_data(data: &[u8]) -> bool {
    data == [0; 4] || data == [0xff; 4]
}

pub(super) fn separator_digests(bank: HashAlg) -> [Vec<u8>; 2] {
    [bank.digest(&[0; 4]), bank.digest(&[0xff; 4])]
}
