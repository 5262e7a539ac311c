//! Reader of event log bytes.
//!
//! Comes in: bytes. Goes out: an [`EventLog`] whose every range lies inside them. Refuses what the bounds, the header
//! and the structure do not allow. TCG PC Client Platform Firmware Profile 1.06, section 10.

use std::ops::Range;

use super::{EventLog, EventLogError, MAX_BANKS, MAX_EVENTS, MAX_LOG_BYTES, MAX_PCR, Record, event_type};
use super::{cel, cel_json};
use crate::algorithm::HashAlg;
use crate::wire::{Reader, WireError};

const SPEC_ID: &[u8; 16] = b"Spec ID Event03\0";
const STARTUP_LOCALITY: &[u8; 16] = b"StartupLocality\0";
/// Longest digest of any registered algorithm.
const MAX_DIGEST_BYTES: usize = 64;

pub(super) fn parse(bytes: &[u8]) -> Result<EventLog, EventLogError> {
    if bytes.is_empty() {
        return Err(EventLogError::Empty);
    }
    if bytes.len() > MAX_LOG_BYTES {
        return Err(EventLogError::TooLong(bytes.len()));
    }
    if cel_json::is_json(bytes) {
        return cel_json::parse_json(bytes);
    }
    if cel::is_tlv(bytes) {
        return cel::parse_tlv(bytes);
    }
    let mut reader = Reader::new(bytes);
    // The first event has the SHA-1 form in every log; it tells which form follows. 10.4.5.1.
    let first = legacy_record(&mut reader).map_err(|error| EventLogError::Wire { event: 0, error })?;
    let first_data = bytes.get(first.data.clone()).unwrap_or_default();
    let mut log = EventLog {
        bytes: Vec::new(),
        banks: vec![(HashAlg::Sha1.id(), HashAlg::Sha1.digest_len())],
        crypto_agile: false,
        startup_locality: None,
        records: Vec::new(),
    };
    if first.kind == event_type::NO_ACTION && first_data.starts_with(SPEC_ID) {
        log.banks = spec_id(first_data)?;
        log.crypto_agile = true;
    }
    push(&mut log, first, first_data)?;
    while reader.remaining() > 0 {
        let event = log.records.len();
        let record = if log.crypto_agile {
            agile_record(&mut reader, &log.banks, event)?
        } else {
            legacy_record(&mut reader).map_err(|error| EventLogError::Wire { event, error })?
        };
        let data = bytes.get(record.data.clone()).unwrap_or_default();
        push(&mut log, record, data)?;
    }
    log.bytes = bytes.to_vec();
    Ok(log)
}

pub(super) fn push(log: &mut EventLog, record: Record, data: &[u8]) -> Result<(), EventLogError> {
    let event = log.records.len();
    if event == MAX_EVENTS {
        return Err(EventLogError::TooManyEvents);
    }
    if record.kind == event_type::NO_ACTION {
        // Not extended, so its register number means nothing and may be anything.
        if data.starts_with(STARTUP_LOCALITY) {
            let late = log.records.iter().any(|r| r.pcr == 0 && r.kind != event_type::NO_ACTION);
            let locality = match data.strip_prefix(STARTUP_LOCALITY) {
                // TPM2_Startup is possible at 0 and 3; 4 stands for a start by hardware. 10.4.5.3.
                Some([locality @ (0 | 3 | 4)]) => *locality,
                _ => return Err(EventLogError::StartupLocality { event }),
            };
            if late || record.pcr != 0 || log.startup_locality.replace(locality).is_some() {
                return Err(EventLogError::StartupLocality { event });
            }
        }
    } else if record.pcr > MAX_PCR {
        return Err(EventLogError::Pcr { event, pcr: record.pcr });
    }
    log.records.push(record);
    Ok(())
}

/// Takes `len` bytes and says where they are.
fn range(reader: &mut Reader<'_>, len: usize) -> Result<Range<usize>, WireError> {
    let start = reader.position();
    reader.take(len)?;
    Ok(start..reader.position())
}

fn event_data(reader: &mut Reader<'_>) -> Result<Range<usize>, WireError> {
    let at = reader.position();
    let len = reader.u32_le()?;
    let len = usize::try_from(len).map_err(|_| WireError::Truncated { at, wanted: usize::MAX })?;
    range(reader, len)
}

/// TCG_PCClientPCREvent: register, type, SHA-1 digest, size, data. 10.2.1.
fn legacy_record(reader: &mut Reader<'_>) -> Result<Record, WireError> {
    Ok(Record {
        pcr: reader.u32_le()?,
        kind: reader.u32_le()?,
        digests: range(reader, HashAlg::Sha1.digest_len())?,
        data: event_data(reader)?,
    })
}

/// TCG_PCR_EVENT2: register, type, counted digests with their algorithms, size, data. 10.2.2.
fn agile_record(
    reader: &mut Reader<'_>,
    banks: &[(u16, usize)],
    event: usize,
) -> Result<Record, EventLogError> {
    let wire = |error| EventLogError::Wire { event, error };
    let pcr = reader.u32_le().map_err(wire)?;
    let kind = reader.u32_le().map_err(wire)?;
    let count = reader.u32_le().map_err(wire)?;
    if usize::try_from(count).map_or(true, |count| count > banks.len()) {
        return Err(EventLogError::Digest { event });
    }
    let start = reader.position();
    let mut seen = Vec::with_capacity(banks.len());
    for _ in 0..count {
        let id = reader.u16_le().map_err(wire)?;
        let bank = banks.iter().find(|(bank, _)| *bank == id);
        let (_, len) = bank.ok_or(EventLogError::Digest { event })?;
        if seen.contains(&id) {
            return Err(EventLogError::Digest { event });
        }
        seen.push(id);
        reader.take(*len).map_err(wire)?;
    }
    let digests = start..reader.position();
    let data = event_data(reader).map_err(wire)?;
    Ok(Record { pcr, kind, digests, data })
}

/// TCG_EfiSpecIDEvent: which banks the log has and how long their digests are. 10.4.5.1.
fn spec_id(data: &[u8]) -> Result<Vec<(u16, usize)>, EventLogError> {
    let header = |_| EventLogError::SpecId;
    let mut reader = Reader::new(data);
    reader.take(SPEC_ID.len()).map_err(header)?;
    // platformClass, specVersionMinor, specVersionMajor, specErrata, uintnSize: nothing depends on them.
    reader.take(8).map_err(header)?;
    let count = reader.u32_le().map_err(header)?;
    if count == 0 || count > MAX_BANKS {
        return Err(EventLogError::Banks);
    }
    let mut banks: Vec<(u16, usize)> = Vec::new();
    for _ in 0..count {
        let id = reader.u16_le().map_err(header)?;
        let len = usize::from(reader.u16_le().map_err(header)?);
        let wrong = HashAlg::from_id(id).is_ok_and(|alg| alg.digest_len() != len);
        if wrong || len == 0 || len > MAX_DIGEST_BYTES || banks.iter().any(|(known, _)| *known == id) {
            return Err(EventLogError::Banks);
        }
        banks.push((id, len));
    }
    let vendor = usize::from(reader.u8().map_err(header)?);
    reader.take(vendor).map_err(header)?;
    reader.finish().map_err(header)?;
    Ok(banks)
}
