//! Canonical Event Log: the JSON encoding, as one array or as a sequence of records.
//!
//! Comes in: UTF-8 text. Goes out: an [`EventLog`], by way of the same builder as the TLV encoding. Refused: what isn't JSON of the form,
//! members that come twice, NV indexes, digests of algorithms without a name known here.
//!
//! Numbers come as numbers or as text, digests and event data as hexadecimal text (TCG TSS 2.0 JSON Data Types). A sequence is what
//! systemd writes: records behind a record separator (RFC 7464) or on lines of their own. Memory: text of at most
//! [`super::MAX_LOG_BYTES`], at most a few times of that while it is read; serde_json bounds the depth.

use serde::Deserialize;

use super::cel::{Builder, CelFault, CelRecord, OPAQUE};
use super::{EventLog, EventLogError, event_type};

/// RFC 7464, 2.1.
const RECORD_SEPARATOR: char = '\u{1e}';

#[derive(Deserialize)]
#[serde(untagged)]
enum Number {
    Plain(u64),
    Text(String),
}

impl Number {
    fn value(&self) -> Option<u64> {
        match self {
            Self::Plain(value) => Some(*value),
            Self::Text(text) => match text.strip_prefix("0x") {
                Some(hex) => u64::from_str_radix(hex, 16).ok(),
                None => text.parse().ok(),
            },
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonDigest {
    #[serde(rename = "hashAlg")]
    hash_alg: String,
    digest: String,
}

/// Members of content that are looked at; others are what other content types have.
#[derive(Deserialize, Default)]
struct JsonContent {
    event_type: Option<Number>,
    event_data: Option<String>,
    string: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonRecord {
    recnum: Option<Number>,
    pcr: Number,
    digests: Vec<JsonDigest>,
    content_type: String,
    content: JsonContent,
}

pub(super) fn is_json(bytes: &[u8]) -> bool {
    matches!(bytes.first(), Some(b'[' | b'{' | 0x1e))
}

pub(super) fn parse_json(bytes: &[u8]) -> Result<EventLog, EventLogError> {
    let malformed = |event| EventLogError::Cel { event, fault: CelFault::Json };
    let text = std::str::from_utf8(bytes).map_err(|_| malformed(0))?;
    let mut builder = Builder::new();
    if text.starts_with('[') {
        let records: Vec<JsonRecord> = serde_json::from_str(text).map_err(|_| malformed(0))?;
        for (event, record) in records.iter().enumerate() {
            add(&mut builder, event, record)?;
        }
        return builder.finish();
    }
    let texts = text.split(['\n', RECORD_SEPARATOR]).filter(|part| !part.trim().is_empty());
    for (event, part) in texts.enumerate() {
        let record: JsonRecord = serde_json::from_str(part).map_err(|_| malformed(event))?;
        add(&mut builder, event, &record)?;
    }
    builder.finish()
}

fn add(builder: &mut Builder, event: usize, record: &JsonRecord) -> Result<(), EventLogError> {
    let fault = |fault| EventLogError::Cel { event, fault };
    let number = |number: &Number| number.value().ok_or(fault(CelFault::Number));
    let unhex = |text: &str| {
        data_encoding::HEXLOWER_PERMISSIVE.decode(text.as_bytes()).map_err(|_| fault(CelFault::Json))
    };
    let mut digests = Vec::with_capacity(record.digests.len().min(16));
    for digest in &record.digests {
        let alg = alg_id(&digest.hash_alg).ok_or(fault(CelFault::Digest))?;
        digests.push((alg, unhex(&digest.digest)?));
    }
    let content = &record.content;
    let (kind, data) = match record.content_type.as_str() {
        "pcclient_std" => {
            let kind = content.event_type.as_ref().ok_or(fault(CelFault::Field))?;
            let kind = match kind {
                Number::Text(name) if name.starts_with("EV_") => event_type::named(name),
                other => other.value().and_then(|value| u32::try_from(value).ok()),
            };
            let data = content.event_data.as_deref().ok_or(fault(CelFault::Field))?;
            (kind.ok_or(fault(CelFault::Number))?, unhex(data)?)
        }
        // systemd measures the text that it logs.
        _ => (OPAQUE, content.string.clone().unwrap_or_default().into_bytes()),
    };
    if digests.is_empty() && kind != event_type::NO_ACTION {
        return Err(fault(CelFault::Digest));
    }
    builder.add(&CelRecord {
        number: record.recnum.as_ref().map(number).transpose()?,
        pcr: u32::try_from(number(&record.pcr)?).map_err(|_| fault(CelFault::Number))?,
        digests: digests.iter().map(|(alg, digest)| (*alg, digest.as_slice())).collect(),
        kind,
        data: &data,
    })
}

/// TPM_ALG_ID of a hash by its usual name; SM3 and SHA3 have one although they are never replayed.
fn alg_id(name: &str) -> Option<u16> {
    Some(match name {
        "sha1" => 0x0004,
        "sha256" => 0x000b,
        "sha384" => 0x000c,
        "sha512" => 0x000d,
        "sm3_256" => 0x0012,
        "sha3_256" => 0x0027,
        "sha3_384" => 0x0028,
        "sha3_512" => 0x0029,
        _ => return None,
    })
}
