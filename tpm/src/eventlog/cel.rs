//! Canonical Event Log: the TLV encoding, and what both encodings share.
//!
//! Comes in: bytes of a log in CEL-TLV. Goes out: an [`EventLog`] with the same events in the same order, as if they had come in the TCG's
//! PC Client form. Refused: records out of order or with a member missing, repeated or unknown; NV indexes; digests of unknown length; bytes
//! left over. TCG Canonical Event Log Format 1.0.
//!
//! What is in a record is as unproven as in any other log: digests stand for themselves, and content only where it hashes to them.

use thiserror::Error;

use super::parse::push;
use super::{EventLog, EventLogError, MAX_BANKS, MAX_PCR, Record, event_type};
use crate::algorithm::{HashAlg, id};

/// Type of an event whose content isn't of a PC Client log. No such type is assigned.
pub const OPAQUE: u32 = 0xffff_ffff;

/// Top level fields. TCG Canonical Event Log Format 1.0, 5.1.
mod field {
    pub(super) const RECNUM: u8 = 0;
    pub(super) const PCR: u8 = 1;
    pub(super) const DIGESTS: u8 = 3;
    /// Content of the log's own management, of PC Client firmware, and the first number that isn't assigned.
    pub(super) const PCCLIENT_STD: u8 = 5;
    pub(super) const EVENT_TYPE: u8 = 0;
    pub(super) const EVENT_DATA: u8 = 1;
}

/// What is wrong with a record of a canonical event log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum CelFault {
    /// A field runs past the end.
    #[error("a field runs past the end")]
    Truncated,
    /// A field is missing, repeated or in the wrong place.
    #[error("a field is missing, repeated or in the wrong place")]
    Field,
    /// A number is too long or no number.
    #[error("a number can't be read")]
    Number,
    /// Record numbers don't ascend.
    #[error("record numbers don't ascend")]
    RecordNumber,
    /// A digest of an unknown algorithm, of a wrong length, or a second one of an algorithm.
    #[error("a digest can't be used")]
    Digest,
    /// Text that isn't JSON of the form.
    #[error("not JSON of a canonical event log")]
    Json,
}

/// Collects records in the layout of a crypto-agile log: digests with their algorithm in front, then the data.
pub(super) struct Builder {
    log: EventLog,
    last_number: Option<u64>,
}

/// One record as both encodings give it.
pub(super) struct CelRecord<'a> {
    pub(super) number: Option<u64>,
    pub(super) pcr: u32,
    pub(super) digests: Vec<(u16, &'a [u8])>,
    pub(super) kind: u32,
    pub(super) data: &'a [u8],
}

impl Builder {
    pub(super) fn new() -> Self {
        let log = EventLog {
            bytes: Vec::new(),
            banks: Vec::new(),
            crypto_agile: true,
            startup_locality: None,
            records: Vec::new(),
        };
        Self { log, last_number: None }
    }

    pub(super) fn add(&mut self, record: &CelRecord<'_>) -> Result<(), EventLogError> {
        let event = self.log.records.len();
        let fault = |fault| EventLogError::Cel { event, fault };
        if let Some(number) = record.number
            && self.last_number.replace(number).is_some_and(|last| number <= last)
        {
            return Err(fault(CelFault::RecordNumber));
        }
        if record.pcr > MAX_PCR {
            return Err(EventLogError::Pcr { event, pcr: record.pcr });
        }
        let start = self.log.bytes.len();
        for (at, (alg, digest)) in record.digests.iter().enumerate() {
            let twice = record.digests.iter().take(at).any(|(other, _)| other == alg);
            if twice || self.bank_len(*alg, digest.len()).is_none() {
                return Err(fault(CelFault::Digest));
            }
            self.log.bytes.extend_from_slice(&alg.to_le_bytes());
            self.log.bytes.extend_from_slice(digest);
        }
        let digests = start..self.log.bytes.len();
        self.log.bytes.extend_from_slice(record.data);
        let data = digests.end..self.log.bytes.len();
        push(&mut self.log, Record { pcr: record.pcr, kind: record.kind, digests, data }, record.data)
    }

    /// The length of a bank's digests: the algorithm's own, or for SM3, SHA3 and others what the first record says.
    fn bank_len(&mut self, alg: u16, len: usize) -> Option<usize> {
        if let Some((_, known)) = self.log.banks.iter().find(|(known, _)| *known == alg) {
            return Some(*known).filter(|known| *known == len);
        }
        let fits = HashAlg::from_id(alg).map_or((1..=64).contains(&len), |alg| alg.digest_len() == len);
        let room = u32::try_from(self.log.banks.len()).is_ok_and(|banks| banks < MAX_BANKS);
        if !fits || !room || alg == id::NULL {
            return None;
        }
        self.log.banks.push((alg, len));
        Some(len)
    }

    pub(super) fn finish(self) -> Result<EventLog, EventLogError> {
        if self.log.records.is_empty() { Err(EventLogError::Empty) } else { Ok(self.log) }
    }
}

struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    /// Type, length (big endian), value. 5.1.
    fn next(&mut self) -> Result<(u8, &'a [u8]), CelFault> {
        let (kind, rest) = self.0.split_first().ok_or(CelFault::Truncated)?;
        let (len, rest) = rest.split_first_chunk::<4>().ok_or(CelFault::Truncated)?;
        let len = usize::try_from(u32::from_be_bytes(*len)).map_err(|_| CelFault::Truncated)?;
        let (value, rest) = rest.split_at_checked(len).ok_or(CelFault::Truncated)?;
        self.0 = rest;
        Ok((*kind, value))
    }

    fn expect(&mut self, kind: u8) -> Result<&'a [u8], CelFault> {
        let (found, value) = self.next()?;
        if found == kind { Ok(value) } else { Err(CelFault::Field) }
    }
}

/// A big endian integer of one to eight bytes: writers differ in how long they make them.
fn number(value: &[u8]) -> Result<u64, CelFault> {
    if value.is_empty() || value.len() > 8 {
        return Err(CelFault::Number);
    }
    Ok(value.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

fn number_32(value: &[u8]) -> Result<u32, CelFault> {
    u32::try_from(number(value)?).map_err(|_| CelFault::Number)
}

/// Whether bytes begin as CEL-TLV does: a record number, then a register, both numbers of at most eight bytes. A PC Client log that begins so
/// would need a register number above 2^24 or four particular bytes in its first digest.
pub(super) fn is_tlv(bytes: &[u8]) -> bool {
    let mut fields = Fields(bytes);
    let short = |fields: &mut Fields<'_>, kind: u8| {
        fields.expect(kind).is_ok_and(|value| (1..=8).contains(&value.len()))
    };
    short(&mut fields, field::RECNUM) && short(&mut fields, field::PCR)
}

pub(super) fn parse_tlv(bytes: &[u8]) -> Result<EventLog, EventLogError> {
    let mut fields = Fields(bytes);
    let mut builder = Builder::new();
    while !fields.0.is_empty() {
        let event = builder.log.records.len();
        let record = tlv_record(&mut fields).map_err(|fault| EventLogError::Cel { event, fault })?;
        builder.add(&record)?;
    }
    builder.finish()
}

fn tlv_record<'a>(fields: &mut Fields<'a>) -> Result<CelRecord<'a>, CelFault> {
    let number = number(fields.expect(field::RECNUM)?)?;
    let pcr = number_32(fields.expect(field::PCR)?)?;
    let digests = tlv_digests(fields.expect(field::DIGESTS)?)?;
    let (content, value) = fields.next()?;
    let (kind, data) = match content {
        field::RECNUM..=field::DIGESTS => return Err(CelFault::Field),
        field::PCCLIENT_STD => {
            let mut inner = Fields(value);
            let kind = number_32(inner.expect(field::EVENT_TYPE)?)?;
            let data = inner.expect(field::EVENT_DATA)?;
            if !inner.0.is_empty() {
                return Err(CelFault::Field);
            }
            (kind, data)
        }
        _ => (OPAQUE, value),
    };
    // A record that doesn't extend says so with its type; one without a digest would otherwise change nothing and say something.
    if digests.is_empty() && kind != event_type::NO_ACTION {
        return Err(CelFault::Digest);
    }
    Ok(CelRecord { number: Some(number), pcr, digests, kind, data })
}

/// The type of a digest is the low byte of its TPM_ALG_ID. 5.1.
fn tlv_digests(value: &[u8]) -> Result<Vec<(u16, &[u8])>, CelFault> {
    let mut fields = Fields(value);
    let mut digests = Vec::new();
    while !fields.0.is_empty() {
        let (alg, digest) = fields.next()?;
        if digests.len() >= 16 {
            return Err(CelFault::Digest);
        }
        digests.push((u16::from(alg), digest));
    }
    Ok(digests)
}
