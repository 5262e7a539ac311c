//! The log as a sequence of events, for the exports: what happened, when, by whom, about which leaf.

use super::outcomes::Book;
use super::{LogSource, PAGE, Unreadable};
use countersign_core::digest::Sha256Digest;
use countersign_core::leaf::decision::{Decision, Verdict};
use countersign_core::leaf::record::Outcome;
use countersign_core::leaf::{Kind, Leaf, leaf_hash};
use serde_json::{Value, json};

const DAY_MS: i64 = 86_400_000;

/// What a leaf tells.
pub(super) enum What {
    /// A decision.
    Decided(Box<Decision>),
    /// A gateway's word.
    Done(Outcome),
    /// Anything else.
    Other,
}

/// A leaf with its place.
pub(super) struct Event {
    pub(super) index: u64,
    pub(super) leaf: Sha256Digest,
    pub(super) time_ms: u64,
    pub(super) kind: Kind,
    pub(super) what: What,
    /// Name of the gateway whose word it is; its thumbprint if nobody of that key is known in the range.
    pub(super) gateway: Option<String>,
}

impl Event {
    /// Its name in the dual-chain format.
    pub(super) fn name(&self) -> String {
        match (&self.what, self.kind) {
            (What::Decided(_), Kind::Allow) => "authorization.issued".to_owned(),
            (What::Decided(_), _) => "authorization.denied".to_owned(),
            (What::Done(outcome), _) if outcome.refused.is_none() => "admission.granted".to_owned(),
            (What::Done(_), _) => "admission.denied".to_owned(),
            (What::Other, kind) => format!("log.{}", kind.name()),
        }
    }

    /// Its payload there. Numbers are integers below 2^53, names are ASCII: every JSON library writes the same bytes.
    pub(super) fn payload(&self) -> Value {
        let mut payload = match &self.what {
            What::Other => json!({}),
            What::Done(outcome) => json!({
                "artifact_id": artifact_id(outcome.artifact.0, &outcome.artifact.1),
                "decision": if outcome.refused.is_none() { "admit" } else { "deny" },
                "reason": outcome.refused.map(|code| code.as_str()),
                "gateway": self.gateway,
                "gateway_time": time(outcome.time_ms),
            }),
            What::Decided(decision) => decided(decision, &artifact_id(self.index, &self.leaf)),
        };
        if let Some(members) = payload.as_object_mut() {
            members.insert("leaf_index".to_owned(), json!(self.index));
            members.insert("leaf_hash".to_owned(), json!(format!("sha256:{}", self.leaf)));
        }
        payload
    }
}

fn decided(decision: &Decision, own: &str) -> Value {
    let parents = decision.lineage.parents.iter().map(|(index, leaf)| artifact_id(*index, leaf));
    let policy = decision.policy.as_ref();
    json!({
        "artifact_id": own,
        "subject": decision.runtime.as_str(),
        "host": decision.host.to_hex(),
        "policy_ref": policy.map_or_else(|| "policy:none".to_owned(), |claim| format!("policy:sha256:{}", claim.digest)),
        "policy_epoch": policy.map(|claim| claim.epoch),
        "request": format!("sha256:{}", decision.request),
        "evidence": format!("sha256:{}", decision.evidence),
        "inputs": format!("sha256:{}", decision.inputs),
        "workload": format!("sha256:{}", decision.workload),
        "arguments": format!("sha256:{}", decision.arguments),
        "action": decision.action.as_str(),
        "audience": decision.audience.as_str(),
        "parents": parents.collect::<Vec<_>>(),
        "reason": match decision.verdict {
            Verdict::Allow { .. } => Value::Null,
            Verdict::Deny(code) => json!(code.as_str()),
        },
        "expires": match decision.verdict {
            Verdict::Allow { exp, .. } => json!(time(exp.saturating_mul(1_000))),
            Verdict::Deny(_) => Value::Null,
        },
    })
}

/// A leaf as an identifier.
pub(super) fn artifact_id(index: u64, leaf: &Sha256Digest) -> String {
    format!("leaf:{index}:{leaf}")
}

/// Reads a range of the log. What comes before it is read for the gateways' names only.
pub(super) struct Events<'a> {
    source: &'a dyn LogSource,
    book: Book,
    next: u64,
    range: (u64, u64),
    page: std::vec::IntoIter<Vec<u8>>,
}

impl<'a> Events<'a> {
    pub(super) fn new(source: &'a dyn LogSource, range: (u64, u64)) -> Self {
        Self { source, book: Book::default(), next: 0, range, page: Vec::new().into_iter() }
    }

    pub(super) fn next(&mut self) -> Result<Option<Event>, Unreadable> {
        while self.next < self.range.1 {
            if self.page.len() == 0 {
                self.page = self.source.leaves(self.next, PAGE)?.into_iter();
            }
            let Some(bytes) = self.page.next() else { return Ok(None) };
            let index = self.next;
            self.next += 1;
            let wrong = || Unreadable(format!("leaf {index} is malformed"));
            let leaf = Leaf::parse(&bytes).ok().filter(|leaf| leaf.index == index).ok_or_else(wrong)?;
            self.book.note(&leaf);
            if index < self.range.0 {
                continue;
            }
            let what = match leaf.kind {
                Kind::Allow | Kind::Deny => {
                    What::Decided(Box::new(Decision::parse(&leaf.body).map_err(|_| wrong())?))
                }
                Kind::Outcome => What::Done(Outcome::parse(&leaf.body).map_err(|_| wrong())?),
                _ => What::Other,
            };
            let gateway = match &what {
                What::Done(outcome) => {
                    let known = self.book.gateway(&outcome.gateway).map(|gateway| gateway.name.clone());
                    Some(known.unwrap_or_else(|| outcome.gateway.to_hex()))
                }
                _ => None,
            };
            let (leaf_hash, time_ms, kind) = (leaf_hash(&bytes), leaf.time_ms, leaf.kind);
            return Ok(Some(Event { index, leaf: leaf_hash, time_ms, kind, what, gateway }));
        }
        Ok(None)
    }
}

/// Milliseconds since the epoch as RFC 3339 in UTC with milliseconds. Years have four digits: later times stand at the end of 9999.
pub(super) fn time(ms: u64) -> String {
    const LAST: i64 = 253_402_300_799_999;
    let ms = i64::try_from(ms).unwrap_or(LAST).min(LAST);
    let (days, rest) = (ms.div_euclid(DAY_MS), ms.rem_euclid(DAY_MS));
    let (year, month, day) = civil(days);
    let (hours, minutes) = (rest / 3_600_000, rest / 60_000 % 60);
    let (seconds, millis) = (rest / 1_000 % 60, rest % 1_000);
    format!("{year:04}-{month:02}-{day:02}T{hours:02}:{minutes:02}:{seconds:02}.{millis:03}Z")
}

/// Day of the proleptic Gregorian calendar. Years are counted from March, so that the leap day is the last of its year.
fn civil(days: i64) -> (i64, i64, i64) {
    let from_march = days + 719_468;
    let (era, of_era) = (from_march.div_euclid(146_097), from_march.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// Reads `YYYY-MM-DDThh:mm:ss[.fff]Z`.
pub(super) fn parse_time(text: &str) -> Option<i64> {
    let (date, clock) = text.strip_suffix('Z')?.split_once('T')?;
    let number = |part: &str, width: usize| {
        let good = part.len() == width && part.bytes().all(|byte| byte.is_ascii_digit());
        part.parse::<i64>().ok().filter(|_| good)
    };
    let mut parts = date.splitn(3, '-');
    let (year, month, day) =
        (number(parts.next()?, 4)?, number(parts.next()?, 2)?, number(parts.next()?, 2)?);
    let (clock, millis) = match clock.split_once('.') {
        Some((clock, millis)) => (clock, number(millis, 3)?),
        None => (clock, 0),
    };
    let mut parts = clock.splitn(3, ':');
    let (hours, minutes, seconds) =
        (number(parts.next()?, 2)?, number(parts.next()?, 2)?, number(parts.next()?, 2)?);
    if hours > 23 || minutes > 59 || seconds > 59 || !(1..=12).contains(&month) {
        return None;
    }
    let (shifted, from_march) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let (era, of_era) = (shifted.div_euclid(400), shifted.rem_euclid(400));
    let of_year = (153 * from_march + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
    // A day that the month doesn't have comes back as another one.
    (civil(days) == (year, month, day))
        .then(|| days * DAY_MS + hours * 3_600_000 + minutes * 60_000 + seconds * 1_000 + millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_and_read() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_700_000_000_123, "2023-11-14T22:13:20.123Z"),
            (4_107_542_399_999, "2100-02-28T23:59:59.999Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
            (u64::MAX, "9999-12-31T23:59:59.999Z"),
        ] {
            assert_eq!(time(ms), text);
            let back = parse_time(text).unwrap();
            assert_eq!(u64::try_from(back).unwrap(), ms.min(253_402_300_799_999));
        }
        assert_eq!(parse_time("2026-03-01T08:00:00Z"), Some(1_772_352_000_000));
        for wrong in [
            "",
            "2026-03-01",
            "2026-02-29T00:00:00.000Z",
            "2026-13-01T00:00:00.000Z",
            "2026-00-01T00:00:00.000Z",
            "2026-01-00T00:00:00.000Z",
            "2026-01-01T24:00:00.000Z",
            "2026-01-01T00:60:00.000Z",
            "2026-01-01T00:00:00.00Z",
            "2026-01-01T00:00:00.000",
            "2026-1-01T00:00:00.000Z",
            "+026-01-01T00:00:00Z",
        ] {
            assert_eq!(parse_time(wrong), None, "{wrong}");
        }
    }
}
