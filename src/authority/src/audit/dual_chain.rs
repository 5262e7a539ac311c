//! The dual hash-chain interchange format: the log as events that are chained twice, by SHA3-512 and by BLAKE2b-512.
//!
//! Comes in: a range of the log, or somebody's document. Goes out: one JSON document with an event for each leaf, or the last hashes of a
//! document that holds. Refused: documents whose events are incomplete, out of order, not linked, or not what their hashes say.
//!
//! The format says that events follow each other; it has no key. Each event names its leaf by index and hash, so that whoever has the log, or a
//! proof, can go on from there.

use super::canonical;
use super::events::{Event, Events};
use super::{LogSource, Unreadable};
use countersign_core::digest::{blake2b_512, sha3_512};
use serde_json::{Map, Value, json};
use std::io::Write;

const PRIMARY: &str = "sha3-512:";
const REDUNDANT: &str = "blake2b-512:";
const GENESIS: &str = "genesis";
/// Fields that every event must have.
const REQUIRED: [&str; 11] =
    ["v", "evt", "op_id", "seq", "ts", "producer", "payload", "prev_hash", "prev_hash_b", "chash", "chash_b"];
/// Largest document that is checked, bytes.
pub const MAX_CHAIN: u64 = 64 * 1024 * 1024;

/// The last hashes of a chain: what has to be kept elsewhere, since a chain can't show that its end is missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainEnd {
    /// Events.
    pub events: u64,
    /// `chash` of the last event, prefix included.
    pub hash: String,
    /// `chash_b` of the last event.
    pub hash_b: String,
}

/// Why a chain can't be written.
#[derive(Debug, thiserror::Error)]
pub enum ExportFault {
    /// The log.
    #[error(transparent)]
    Log(#[from] Unreadable),
    /// Where it goes.
    #[error(transparent)]
    Output(#[from] std::io::Error),
    /// There is nothing in that range, and an empty chain says nothing.
    #[error("there is no leaf in that range")]
    Empty,
    /// More than fits into one document of this format.
    #[error("more than {0} leaves: name a range")]
    TooMany(u64),
}

/// Why a document isn't a good chain. The texts are those of the format.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChainFault {
    /// Not JSON.
    #[error("not a JSON document")]
    NotJson,
    /// No list of events.
    #[error("Invalid lineage document: missing events array")]
    NoEvents,
    /// Nothing in it.
    #[error("Invalid lineage document: no events")]
    Empty,
    /// An event lacks a field.
    #[error("Event seq {0} missing required field: {1}")]
    Field(String, &'static str),
    /// A gap, a repeat, a wrong start.
    #[error("Sequence error: expected {0}, got {1}")]
    Sequence(u64, String),
    /// The primary link is broken.
    #[error("Primary prev_hash mismatch at seq {0}")]
    Link(u64),
    /// The redundant link is broken.
    #[error("Redundant prev_hash_b mismatch at seq {0}")]
    LinkB(u64),
    /// Not a time.
    #[error("Invalid timestamp at seq {0}: {1}")]
    Time(u64, String),
    /// Earlier than the one before.
    #[error("Timestamp regression at seq {0}: {1}")]
    TimeBack(u64, String),
    /// Of another operation.
    #[error("Operation id mismatch at seq {0}: {1} != {2}")]
    Operation(u64, String, String),
    /// The content isn't what the primary hash says.
    #[error("Primary hash mismatch at seq {0}")]
    Hash(u64),
    /// The content isn't what the redundant hash says.
    #[error("Redundant hash mismatch at seq {0}")]
    HashB(u64),
}

/// Writes the leaves from `from` up to `upto` as one chain, operation and producer named by the log. Nothing is held but one event.
///
/// # Errors
/// [`ExportFault`].
pub fn export_chain(
    source: &dyn LogSource,
    origin: &str,
    range: (u64, u64),
    out: &mut dyn Write,
) -> Result<ChainEnd, ExportFault> {
    let mut events = Events::new(source, range);
    let mut end: Option<ChainEnd> = None;
    let operation = json!(origin);
    write!(
        out,
        "{{\"rfc\":\"RFC-EG-0010\",\"version\":\"0.1.0-reference\",\"operation_id\":{operation},\"events\":["
    )?;
    while let Some(event) = events.next()? {
        let seq = end.as_ref().map_or(0, |end| end.events) + 1;
        let (chained, next) = chained(&event, origin, seq, end.as_ref());
        let comma = if seq > 1 { "," } else { "" };
        write!(out, "{comma}\n{chained}")?;
        end = Some(next);
    }
    writeln!(out, "\n]}}")?;
    out.flush()?;
    end.ok_or(ExportFault::Empty)
}

/// One event, its hashes and what the next is chained to.
fn chained(event: &Event, origin: &str, seq: u64, before: Option<&ChainEnd>) -> (Value, ChainEnd) {
    let (service, instance) = match &event.gateway {
        Some(gateway) => ("gateway", format!("gateway://{gateway}")),
        None => ("authority", format!("authority://{origin}")),
    };
    let mut chained = json!({
        "v": "1",
        "evt": event.name(),
        "op_id": origin,
        "seq": seq,
        "ts": super::events::time(event.time_ms),
        "producer": { "service": service, "instance": instance },
        "payload": event.payload(),
        "prev_hash": before.map(|end| &end.hash),
        "prev_hash_b": before.map(|end| &end.hash_b),
    });
    let (hash, hash_b) = hashes(&chained, before.map(|end| (end.hash.as_str(), end.hash_b.as_str())));
    if let Some(members) = chained.as_object_mut() {
        members.insert("chash".to_owned(), json!(hash));
        members.insert("chash_b".to_owned(), json!(hash_b));
    }
    (chained, ChainEnd { events: seq, hash, hash_b })
}

/// What of an event is hashed, in canonical form.
pub(super) fn body(event: &Value) -> String {
    let mut body = String::new();
    let bare = event.as_object().map(|members| {
        let kept = members.iter().filter(|(name, _)| !["chash", "chash_b", "sig"].contains(&name.as_str()));
        kept.map(|(name, value)| (name.clone(), value.clone())).collect::<Map<_, _>>()
    });
    canonical::write(&Value::Object(bare.unwrap_or_default()), &mut body);
    body
}

/// Both hashes over the body and the hash before.
fn hashes(event: &Value, before: Option<(&str, &str)>) -> (String, String) {
    let body = body(event);
    let (prev, prev_b) = before.unwrap_or((GENESIS, GENESIS));
    let hash = sha3_512(format!("{body}{prev}").as_bytes()).to_hex();
    let hash_b = blake2b_512(format!("{body}{prev_b}").as_bytes()).to_hex();
    (format!("{PRIMARY}{hash}"), format!("{REDUNDANT}{hash_b}"))
}

/// Checks a document, with the stricter rules for time and operation.
///
/// # Errors
/// [`ChainFault`], the first.
pub fn verify_chain(document: &[u8]) -> Result<ChainEnd, ChainFault> {
    let document: Value = serde_json::from_slice(document).map_err(|_| ChainFault::NotJson)?;
    let events = document.get("events").and_then(Value::as_array).ok_or(ChainFault::NoEvents)?;
    let operation = document.get("operation_id");
    let mut end: Option<ChainEnd> = None;
    let mut last_ms = i64::MIN;
    for event in events {
        let seq = end.as_ref().map_or(0, |end| end.events) + 1;
        check_fields(event, seq)?;
        check_links(event, seq, end.as_ref())?;
        last_ms = check_time(event, seq, last_ms)?;
        if let Some(operation) = operation.filter(|operation| event.get("op_id") != Some(operation)) {
            let own = event.get("op_id").unwrap_or(&Value::Null);
            return Err(ChainFault::Operation(seq, plain(own), plain(operation)));
        }
        let (hash, hash_b) = hashes(event, end.as_ref().map(|end| (end.hash.as_str(), end.hash_b.as_str())));
        if event.get("chash") != Some(&json!(hash)) {
            return Err(ChainFault::Hash(seq));
        }
        if event.get("chash_b") != Some(&json!(hash_b)) {
            return Err(ChainFault::HashB(seq));
        }
        end = Some(ChainEnd { events: seq, hash, hash_b });
    }
    end.ok_or(ChainFault::Empty)
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn check_fields(event: &Value, expected: u64) -> Result<(), ChainFault> {
    let named = event.get("seq").map_or_else(|| "unknown".to_owned(), plain);
    for field in REQUIRED {
        if event.get(field).is_none() {
            return Err(ChainFault::Field(named, field));
        }
    }
    // Compared as a number: 1 and 1.0 are the same, "1" isn't.
    let seq = event.get("seq").and_then(Value::as_f64);
    #[expect(clippy::cast_precision_loss, reason = "the format's numbers are floats")]
    let expected_seq = expected as f64;
    if seq.is_some_and(|seq| (seq - expected_seq).abs() < f64::EPSILON) {
        Ok(())
    } else {
        Err(ChainFault::Sequence(expected, named))
    }
}

fn check_links(event: &Value, seq: u64, before: Option<&ChainEnd>) -> Result<(), ChainFault> {
    if event.get("prev_hash") != Some(&json!(before.map(|end| &end.hash))) {
        return Err(ChainFault::Link(seq));
    }
    if event.get("prev_hash_b") != Some(&json!(before.map(|end| &end.hash_b))) {
        return Err(ChainFault::LinkB(seq));
    }
    Ok(())
}

fn check_time(event: &Value, seq: u64, last_ms: i64) -> Result<i64, ChainFault> {
    let text = event.get("ts").map_or_else(String::new, plain);
    let time_ms = super::events::parse_time(&text).ok_or_else(|| ChainFault::Time(seq, text.clone()))?;
    if time_ms < last_ms { Err(ChainFault::TimeBack(seq, text)) } else { Ok(time_ms) }
}
